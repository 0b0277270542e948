/* mm_sender.h - the sending half: all that stands between the log and Kafka.
 *
 * Owns the workers, the logs of parked Kafka topics and what both need of the settings. The log
 * itself, the dead letters and the metrics are lent: they outlive the sending half. */
#ifndef MM_SENDER_H
#define MM_SENDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mm_config;
struct mm_dead;
struct mm_lanes;
struct mm_log;
struct mm_metrics;
struct mm_park;
struct mm_sender;
struct mm_spool;
struct mm_spool_budget;

/* All pointers are borrowed and must outlive the sending half. */
struct mm_sender_options
{
    const struct mm_config *config;
    struct mm_spool *spool; /* with config->kafka_workers readers */
    struct mm_spool_budget *budget;
    struct mm_lanes *lanes;     /* mm_sender_new() gives its numbers anew */
    struct mm_metrics *metrics; /* of these lanes */
    struct mm_dead *dead;
    struct mm_log *log;
};

/* Open what was parked by an earlier process, and tell the metrics; before mm_metrics_restore().
 * Nothing runs yet.
 *
 * Thread: setup. Errors: as mm_park_open(), and MM_ENOMEM; errstr has the reason. *out is NULL
 * then. */
int mm_sender_new(const struct mm_sender_options *opts,
                  struct mm_sender **out,
                  char *errstr,
                  size_t errstr_len);

/* Start all threads, which block all signals. After an error some of them may run:
 * mm_sender_stop() and mm_sender_join() end them.
 *
 * Thread: setup. Errors: as mm_park_start() and mm_worker_start(); errstr has the reason. */
int mm_sender_start(struct mm_sender *s, char *errstr, size_t errstr_len);

/* The logs of parked Kafka topics, for tests. Valid as long as the sending half. Thread: any. */
struct mm_park *mm_sender_park(const struct mm_sender *s);

/* Does any worker reach Kafka? Thread: any. */
bool mm_sender_reaches_kafka(const struct mm_sender *s);

/* Let all that sends come to rest: nothing more is handed to Kafka, the reports of what is in
 * flight are awaited, wait_ms at most, and all producers and threads end for now. Returns at once.
 * From then on until it is resumed, what comes stays in the log. Thread: setup. */
void mm_sender_settle(struct mm_sender *s, uint32_t wait_ms);

/* After mm_sender_settle(): wait for all threads, at most timeout_ms. False: one has not ended yet
 * (a Kafka client that hangs, in name resolution for instance); ask again. Thread: setup. */
bool mm_sender_await(struct mm_sender *s, uint32_t timeout_ms);

/* After mm_sender_await(): go on, with new producers, by these settings, which are borrowed until
 * they are changed again. Where the routes differ, what was parked is sent first, to where it is to
 * go now. What config does not say but the log was opened with (kafka_workers,
 * spool_...) is as before. May be the settings of before.
 *
 * Thread: setup. Errors: MM_ENOMEM, MM_ETHREAD; errstr has the reason. Some of it may run then, and
 * config is used; it can be called again, with the same settings. */
int mm_sender_resume(struct mm_sender *s,
                     const struct mm_config *config,
                     char *errstr,
                     size_t errstr_len);

/* Ask all threads to deliver what the log still holds, until drain_ms have passed, and then to end.
 * Returns at once. Accepts NULL. Thread: setup. */
void mm_sender_stop(struct mm_sender *s, uint32_t drain_ms);

/* Wait for all threads, at most timeout_ms. False: one did not end; it and all that was lent must
 * be left alone until the process ends. Accepts NULL. Thread: setup. */
bool mm_sender_join(struct mm_sender *s, uint32_t timeout_ms);

/* Close the logs of parked topics. Accepts NULL. Thread: setup, after mm_sender_join(). */
void mm_sender_free(struct mm_sender *s);

#endif
