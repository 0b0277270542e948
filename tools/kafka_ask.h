/* kafka_ask.h - questions to a Kafka cluster, by a client with the plugin's own settings.
 *
 * They are asked by a consumer that is made of the producer's settings: a producer that asks for a
 * Kafka topic makes Kafka create it. For one thread. */
#ifndef KAFKA_ASK_H
#define KAFKA_ASK_H

#include "mm_config.h"

#include <librdkafka/rdkafka.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mm_kafka;

struct kafka_ask
{
    const struct mm_config *config; /* borrowed */
    uint32_t timeout_ms;            /* for each answer */
    struct mm_kafka *producer;      /* what the plugin would have */
    rd_kafka_t *rk;                 /* the consumer */
    rd_kafka_queue_t *queue;        /* of the answers to an admin's questions */
};

/* Connect, and wait until the cluster answers. False: why has the reason. kafka_ask_close() takes
 * what there is, in any case; config outlives it. */
bool kafka_ask_open(struct kafka_ask *a,
                    const struct mm_config *config,
                    uint32_t timeout_ms,
                    char *why,
                    size_t why_len);

void kafka_ask_close(struct kafka_ask *a);

/* What the cluster says of a Kafka topic, which has one entry in *md, for
 * rd_kafka_metadata_destroy(). On an error *md is NULL. */
rd_kafka_resp_err_t kafka_ask_topic(struct kafka_ask *a,
                                    const char *name,
                                    const struct rd_kafka_metadata **md);

/* The answer to the admin's question that was sent last, for rd_kafka_event_destroy(); NULL: none
 * came in time. */
rd_kafka_event_t *kafka_ask_answer(struct kafka_ask *a);

#endif
