/* mm_status.h - what a person is shown: is it well, since when, and what is to be done.
 *
 * Reads the counters once a second and keeps ten minutes of them, so that rates, the time until the
 * spool is full and the beginning of each problem are known also when nobody has asked before. A
 * *problem* is something that a person should know of; it begins, may end, and is an event then.
 * What is shown has no MQTT topic, no client id and no secret in it, and no address.
 *
 * docs/status.md describes the JSON field by field.
 *
 * Thread: http, all functions but new and free. */
#ifndef MM_STATUS_H
#define MM_STATUS_H

#include <stddef.h>
#include <stdint.h>

struct mm_metrics;
struct mm_spool;
struct mm_status;

/* How often mm_status_sample() should be called. */
#define MM_STATUS_SAMPLE_MS UINT64_C(1000)

/* metrics and spool are borrowed and must outlive the status. Thread: setup. Errors: MM_ENOMEM. */
int mm_status_new(const struct mm_metrics *metrics,
                  const struct mm_spool *spool,
                  struct mm_status **out);

/* Accepts NULL. Thread: setup. */
void mm_status_free(struct mm_status *s);

/* Look at the figures, unless less than MM_STATUS_SAMPLE_MS have passed since the last time. Takes
 * no lock that a worker or the broker waits for. now_ns: CLOCK_MONOTONIC; now_ms: since the epoch.
 */
void mm_status_sample(struct mm_status *s, uint64_t now_ns, uint64_t now_ms);

/* The whole as JSON, after a look at the figures of this moment. *json is malloc'ed, for the caller
 * to free; *len without the final NUL. Errors: MM_ENOMEM. */
int mm_status_json(struct mm_status *s, uint64_t now_ns, uint64_t now_ms, char **json, size_t *len);

#endif
