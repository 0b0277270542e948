/* mm_message.h - from a record to a Kafka message.
 *
 * One place for all who write to Kafka, the workers and the command-line tool: where a record goes
 * (mm_message_route()), and what it is there (mm_message_make()): key, value and headers, as the
 * route says.
 *
 * The headers, beside mm-id: mqtt.topic, mqtt.qos, mqtt.retain ("true", "false"), mqtt.client_id,
 * mqtt.username, mqtt.content_type, mqtt.response_topic, mqtt.correlation_data,
 * mqtt.payload_format ("bytes", "utf8"), mqtt.received_at (ms since the epoch), mm-waited-ms, and
 * mqtt.user.<name>, traceparent, tracestate. What a message does not have is left out. Of more than
 * MM_MESSAGE_USER_MAX user properties the rest is left out, and mm-user-left-out says how many.
 *
 * Thread: any for functions of constant arguments; a struct mm_message has one owner. */
#ifndef MM_MESSAGE_H
#define MM_MESSAGE_H

#include "mm_kafka.h"
#include "mm_lanes.h"
#include "mm_record.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mm_config;
struct mm_config_route;
struct mm_message;

/* Most user properties that become headers, and most headers that mm_message_make() gives. */
#define MM_MESSAGE_USER_MAX 128
#define MM_MESSAGE_HEADERS_MAX (MM_MESSAGE_USER_MAX + 16)

/* Where a record goes. */
struct mm_message_way
{
    const struct mm_config_route *route; /* of the settings */
    uint32_t lane;                       /* when error is NULL */
    char kafka_topic[MM_LANES_NAME_LEN]; /* cut when it is too long */
    const char *error;  /* NULL, or why it goes nowhere: a name such as KAFKA_TOPIC_NOT_ALLOWED */
    const char *reason; /* the same in words; both static */
};

/* Find a record's way; a Kafka topic that a template makes gets its lane. Such a topic is refused
 * when it is longer than Kafka allows, or "." or ".."; when kafka_topic_allow does not name it;
 * when it is that of dead_letter_topic, or differs from it, from kafka_test_topic or from a lane in
 * '.' and '_' alone; and when there are kafka_topics_max lanes.
 *
 * lanes: of these settings. Thread: any. */
void mm_message_route(const struct mm_config *config,
                      struct mm_lanes *lanes,
                      const struct mm_record *rec,
                      struct mm_message_way *way);

/* Memory for one message at a time. Errors: MM_ENOMEM; *out is NULL then. */
int mm_message_new(struct mm_message **out);

/* Accepts NULL. */
void mm_message_free(struct mm_message *m);

/* What mm_message_make() needs to know. */
struct mm_message_source
{
    const struct mm_record *rec;
    const char *id; /* its mm-id */
    size_t id_len;
    uint64_t now_ms;                     /* since the epoch */
    const struct mm_kafka_header *extra; /* more headers, at the end: n_extra, at most 4 */
    size_t n_extra;
};

/* Make the Kafka message of a record by its route (mm_message_route(), mm_route_find()). Fills all
 * of out but topic and tag; what it points to lies in m, in the record and in the id, and is valid
 * until m is used again.
 *
 * Errors: MM_ENOMEM. */
int mm_message_make(struct mm_message *m,
                    const struct mm_config *config,
                    const struct mm_config_route *route,
                    const struct mm_message_source *source,
                    struct mm_kafka_message *out);

/* The largest that the message can be as Kafka and its client count it, against
 * max_message_bytes: key, value and headers with all that goes with them, but nothing of the mm-id
 * is known yet. Takes no memory. */
uint64_t mm_message_size(const struct mm_config *config,
                         const struct mm_config_route *route,
                         const struct mm_record *rec);

#endif
