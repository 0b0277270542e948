/* prove_check.h - the judge of "prove": what is in Kafka, against what was published.
 *
 * Reads a Kafka topic while it is written. For one thread. */
#ifndef PROVE_CHECK_H
#define PROVE_CHECK_H

#include "kafka_ask.h"
#include "prove_load.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct prove_check;

struct prove_check_figures
{
    uint64_t n_records;    /* of this run */
    uint64_t n_messages;   /* that are in Kafka */
    uint64_t n_repeats;    /* records with an mm-id that was there before */
    uint64_t n_sent_again; /* by their publishers: the same message with another mm-id */
    uint64_t n_overtaken;  /* messages that a later one of their MQTT topic came before */
    uint64_t n_disorder;   /* those of them that came at last */
    uint64_t n_wrong;      /* records that nobody published like that */
};

/* The first of what is wrong; "" as long as nothing is. */
#define PROVE_CHECK_WHY_LEN 256

/* Make the Kafka topic, if make, and read from its present end on. False: why has the reason. */
bool prove_check_open(struct kafka_ask *ask,
                      const struct prove_load_options *load,
                      const char *topic,
                      bool make,
                      struct prove_check **out,
                      char *why,
                      size_t why_len);

/* Read what is there, and wait for it for some milliseconds. False: there is no memory, and why
 * says so. */
bool prove_check_read(struct prove_check *c, char *why, size_t why_len);

void prove_check_figures(const struct prove_check *c, struct prove_check_figures *out);

/* The first of what is wrong, in words; "": nothing is. */
const char *prove_check_first_fault(const struct prove_check *c);

/* How many of a client's first n messages are not in Kafka, and have no excuse? *first is the first
 * of them. */
uint64_t prove_check_missing(const struct prove_check *c,
                             uint32_t client,
                             uint64_t n,
                             uint64_t *first);

/* The broker starts, and the power has failed once: numbers of mm-id may jump, or be another
 * spool's. That is so again at a start behind one that was killed before it wrote STATE. */
void prove_check_may_jump(struct prove_check *c);

/* These messages of a client may be missing: those from from on, and before to. False: out of
 * memory. */
bool prove_check_excuse(struct prove_check *c, uint32_t client, uint64_t from, uint64_t to);

/* How many of a client's first n messages are not in Kafka and may be missing? */
uint64_t prove_check_excused(const struct prove_check *c, uint32_t client, uint64_t n);

/* How many of a client's first n messages may come yet? Those that were overtaken come too late. */
uint64_t prove_check_awaited(const struct prove_check *c, uint32_t client, uint64_t n);

/* Delete the Kafka topic. */
void prove_check_delete_topic(struct prove_check *c);

/* Accepts NULL. */
void prove_check_close(struct prove_check *c);

#endif
