/* mm_json.h - JSON that is not on the message path: librdkafka's statistics read, strings written.
 *
 * Pure functions, no state. */
#ifndef MM_JSON_H
#define MM_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* What we use of librdkafka's statistics (its STATISTICS.md). */
struct mm_kafka_stats
{
    bool any_broker_up;
    uint32_t n_brokers_up; /* connected ones, bootstrap addresses included */
    uint64_t msg_cnt;      /* messages in the producer's queues */
    uint64_t msg_size;     /* their bytes */
    uint64_t rtt_avg_us;   /* the largest of all brokers */

    /* Of an idempotent producer, which goes by an id and an epoch; -1: it has none now. */
    int64_t producer_id;
    int64_t producer_epoch;
};

/* Read the statistics in json, len bytes, no NUL needed. A number that is missing counts as 0, so
 * that another version of librdkafka does no harm.
 *
 * Thread: any. Errors: MM_EINVAL, not JSON, or no object of brokers in it (out of memory looks the
 * same); *out is zero then, without a producer's id. */
int mm_json_kafka_stats(const char *json, size_t len, struct mm_kafka_stats *out);

/* Write text, len bytes, to out as a JSON string with its quotes. Control characters are escaped,
 * and each byte that is not part of valid UTF-8 (RFC 3629) becomes U+FFFD. Failures to write stay
 * in ferror(out).
 *
 * Thread: the one that owns out. */
void mm_json_write_string(FILE *out, const char *text, size_t len);

#endif
