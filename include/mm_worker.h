/* mm_worker.h - a worker: from the log into Kafka.
 *
 * A thread that takes the records of its shard from the log, in order, hands them to a Kafka
 * producer of its own and finishes each by its delivery report, and by nothing else. What it has
 * taken and not finished is its *window*: records that wait to be sent, are in flight, or are done
 * behind one that is not. When a record fails, the worker lets nothing overtake it:
 *
 *   - running: it sends. Any failure leads to
 *   - draining: nothing is sent, unsent messages are taken back, reports are awaited; then
 *   - single: suspects and what lies between them are sent one by one; who fails again alone is a
 *     dead letter; then running with a new producer
 *   - parked: a Kafka topic is refused for a reason that somebody can mend: after
 *     kafka_retry_interval the first record is tried alone, then all follow
 *   - restarting: the producer itself failed: a new one, after 0, 1, 2, 4 ... 30 s
 *
 * In all but the first, sending goes on at the oldest record that is not finished. Kafka simply
 * being away is none of these: the producer keeps trying and the worker waits.
 *
 * Each record goes to the Kafka topic of its lane (mm_lanes.h). Where there are several, a refused
 * one does not hold up the others: its lane is *parked* (mm_park.h). All its records in the window
 * go to the lane's own log, in order, and new ones behind them; the worker itself goes on. Only
 * where that cannot be done, or the reason is not the topic's alone, is the whole worker parked. */
#ifndef MM_WORKER_H
#define MM_WORKER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mm_config;
struct mm_dead;
struct mm_gate;
struct mm_lanes;
struct mm_log;
struct mm_metrics_worker;
struct mm_park;
struct mm_spool;
struct mm_worker;

enum mm_worker_role {
    MM_ROLE_MAIN, /* takes from the spool */
    MM_ROLE_LANE, /* takes what is parked for one Kafka topic: begins with a try of the first
                     record; tries again after longer and longer times; parks nothing itself */
    MM_ROLE_OLD,  /* takes what was parked by other routes */
};

/* All pointers are borrowed and must outlive the worker. */
struct mm_worker_options
{
    enum mm_worker_role role;
    uint32_t index; /* the shard: 0 <= index < the log's n_readers */
    const struct mm_config *config;
    struct mm_lanes *lanes; /* of the settings: mm_lanes_reset() */
    struct mm_spool *spool;
    struct mm_spool *main; /* the log that `spool` was parked from; NULL: none, or itself */
    struct mm_park *park;
    struct mm_metrics_worker *metrics;
    struct mm_dead *dead;
    struct mm_gate *gate; /* of all workers; NULL: none */
    struct mm_log *log;

    /* of a worker that is not of MM_ROLE_MAIN */
    uint32_t lane;           /* of MM_ROLE_LANE: of all its records */
    const char *kafka_topic; /* that its log is for: for people */
    uint32_t first_try_s;    /* seconds before the first try */
};

/* Make the producer and start the thread, which blocks all signals.
 *
 * Thread: setup. Errors: MM_EKAFKA, a setting is refused by the Kafka client; MM_ENOMEM;
 * MM_ETHREAD; errstr has the reason. *out is NULL then. */
int mm_worker_start(const struct mm_worker_options *opts,
                    struct mm_worker **out,
                    char *errstr,
                    size_t errstr_len);

/* Records of its shard that it has taken, that are finished, and that the log has been told of.
 * Acquires what was done before. Thread: any. */
uint64_t mm_worker_n_finished(const struct mm_worker *w);

/* Kafka's name of the error for which a Kafka topic was refused last; static; NULL: none was.
 * Thread: any. */
const char *mm_worker_last_error(const struct mm_worker *w);

/* Ask the worker to deliver what the log still holds, until drain_ms have passed, and then to end.
 * Returns at once. Thread: setup. */
void mm_worker_stop(struct mm_worker *w, uint32_t drain_ms);

/* What may change while the worker has no thread. Borrowed as in struct mm_worker_options. */
struct mm_worker_change
{
    const struct mm_config *config;
    bool new_routes; /* records may go to other Kafka topics than before */
    bool old;        /* it is of MM_ROLE_OLD from now on, with these metrics */
    struct mm_metrics_worker *metrics;
};

/* Ask the worker to send nothing more, to wait for the reports of what is in flight, wait_ms at
 * most, and to end its producers and its thread for now. What it has taken and not finished it
 * keeps; what is sent again then, because no report came, may be in Kafka twice with the same
 * mm-id. Returns at once. From here on the worker can only be resumed or joined: mm_worker_stop()
 * shortens the wait and no more. Thread: the owner. */
void mm_worker_settle(struct mm_worker *w, uint32_t wait_ms);

/* After mm_worker_settle(): wait for the thread, at most timeout_ms. False: it has not ended yet (a
 * Kafka client that hangs). Thread: the owner. */
bool mm_worker_await(struct mm_worker *w, uint32_t timeout_ms);

/* After mm_worker_await(): records that it has taken and that are finished. Thread: the owner. */
uint64_t mm_worker_n_done(const struct mm_worker *w);

/* Has it a thread that is not joined? Thread: the owner. */
bool mm_worker_is_running(const struct mm_worker *w);

/* After mm_worker_await(): go on, with a new producer, at the oldest record that is not finished.
 * What is parked or waits is tried at once.
 *
 * Thread: the owner. Errors: MM_ENOMEM, MM_ETHREAD; errstr has the reason. It can be called again
 * then, also with other settings; those of the last call are used in any case. */
int mm_worker_resume(struct mm_worker *w,
                     const struct mm_worker_change *change,
                     char *errstr,
                     size_t errstr_len);

/* Wait for the thread, if there is one, at most timeout_ms, and free the worker. False: the thread
 * did not end (the Kafka client hangs, in name resolution for instance); it and all that was lent
 * to it must be left alone until the process ends. Accepts NULL. Thread: the owner. */
bool mm_worker_join(struct mm_worker *w, uint32_t timeout_ms);

#endif
