/* content.h - what the record with number n of a test looks like.
 *
 * All of a record follows from a rule and its number, so that any process can tell whether what it
 * read is right. The number stands in time_ms, the one field that every record has whole, also one
 * without a payload. Numbers begin with 1 and rise in the order of mm_spool_append().
 *
 * Thread: any, after content_init(). */
#ifndef CONTENT_H
#define CONTENT_H

#include "mm_record.h"

#include <stdbool.h>
#include <stdint.h>

#define CONTENT_TOPIC_MAX 256

/* The payload of most records is short, of every 16th up to max_payload, of one in large_every
 * longer than large_from. */
struct content_rule
{
    uint64_t seed;
    uint32_t n_topics;    /* at least 1 */
    uint32_t max_payload; /* bytes, at most 64 KiB */
    uint32_t large_every; /* 0: never */
    uint32_t large_from;  /* bytes, at most 256 KiB; up to twice as long */
};

/* Fill the block that the payloads are cut from. Thread: setup. */
void content_init(void);

/* The record with number n. out->topic points into topic, the payload into memory that stays. */
void content_make(const struct content_rule *rule,
                  uint64_t n,
                  char topic[CONTENT_TOPIC_MAX],
                  struct mm_record *out);

/* The number of a record as it claims it: 0 when it cannot be one of ours. */
uint64_t content_number(const struct mm_record *r);

/* Is r, in every part but seq, the record with the number that it claims? */
bool content_is_right(const struct content_rule *rule, const struct mm_record *r);

/* A number that looks random and follows from x. */
uint64_t content_mix(uint64_t x);

/* A generator of such numbers. */
struct content_rng
{
    uint64_t state;
};
uint64_t content_random(struct content_rng *rng);
uint64_t content_below(struct content_rng *rng, uint64_t n); /* 0 to n - 1; n >= 1 */

#endif
