/* mm_metrics.h - counters, and the pages made of them.
 *
 * Each counter has one writer thread and is read by any. A block of counters belongs to its writer
 * and fills whole cache lines. Nothing here takes a lock.
 *
 * The ledger: every message that passed the filter is in exactly one place,
 *
 *     received = delivered + dead_lettered + refused + dropped + in_spool
 *
 * where in_spool is not computed from the others: it is what the log and the logs of parked Kafka
 * topics have for their workers, less what these took from there, plus what they hold unfinished,
 * less what an earlier process had counted already. The difference is exported.
 *
 * Over a restart: the log on disk keeps the counters in its STATE (mm_metrics_counters()), and
 * mm_metrics_restore() makes them the base of all that is shown. A STATE is a moment older than a
 * process that was killed, so received is not taken from it, but from what was found: the equation
 * holds from the first moment on. No counter is then less than a page ever showed it, because a
 * page is given away only after its figures are in STATE, and because of the order in which things
 * are done: the broker thread counts a message as received last; a worker counts a record before
 * it tells the log that the record is finished; a STATE is made of what the log knows to be
 * finished first, and of the counters then. */
#ifndef MM_METRICS_H
#define MM_METRICS_H

#include "mm_lanes.h"
#include "mm_spool.h"

#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MM_CACHE_LINE 64

/* Add to a counter that only the calling thread writes: no locked instruction. */
static inline void mm_counter_add(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n,
                          memory_order_relaxed);
}

/* Set a gauge. */
static inline void mm_gauge_set(_Atomic uint64_t *gauge, uint64_t value)
{
    atomic_store_explicit(gauge, value, memory_order_relaxed);
}

static inline uint64_t mm_counter_get(const _Atomic uint64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

/* The reasons stand in STATE by their numbers (enum mm_metrics_slot): new ones go to the end. */

/* Why a publish was refused (no acknowledgement was sent). At most 4. */
#define MM_REFUSED_REASONS(X)            \
    X(MM_REFUSED_FULL, "spool_full")     \
    X(MM_REFUSED_TOO_LARGE, "too_large") \
    X(MM_REFUSED_IO, "spool_io") /* the disk failed */

/* Why a message was dropped (it was acknowledged, or was QoS 0). At most 7. */
#define MM_DROPPED_REASONS(X)                                                            \
    X(MM_DROPPED_QOS0, "qos0_spool_full")                                                \
    X(MM_DROPPED_NEWEST, "drop_newest")                                                  \
    X(MM_DROPPED_TOO_LARGE, "too_large")                                                 \
    X(MM_DROPPED_IO, "spool_io")        /* the disk failed, and it may not be refused */ \
    X(MM_DROPPED_OLDEST, "drop_oldest") /* counted by the workers */                     \
    X(MM_DROPPED_LOST, "lost")          /* damaged or gone on the disk; told by the log */

/* Why a message became a dead letter. At most 4. */
#define MM_DEAD_REASONS(X)              \
    X(MM_DEAD_TOO_LARGE, "too_large")   \
    X(MM_DEAD_INVALID, "invalid")       \
    X(MM_DEAD_UNREADABLE, "unreadable") \
    X(MM_DEAD_UNROUTABLE, "unroutable") /* no Kafka topic is found for it */

enum mm_refused_reason {
#define MM_X(name, text) name,
    MM_REFUSED_REASONS(MM_X)
#undef MM_X
    MM_N_REFUSED
};

enum mm_dropped_reason {
#define MM_X(name, text) name,
    MM_DROPPED_REASONS(MM_X)
#undef MM_X
    MM_N_DROPPED
};

enum mm_dead_reason {
#define MM_X(name, text) name,
    MM_DEAD_REASONS(MM_X)
#undef MM_X
    MM_N_DEAD
};

/* Where each counter stands in STATE, for ever: a slot may get a use, none may change it. */
enum mm_metrics_slot {
    MM_SLOT_RECEIVED = 0, /* and two more: by QoS */
    MM_SLOT_RECEIVED_BYTES = 3,
    MM_SLOT_SPOOLED = 4,
    MM_SLOT_DELIVERED = 5,
    MM_SLOT_DELIVERED_BYTES = 6,
    MM_SLOT_REPEATED = 7,
    MM_SLOT_REFUSED = 8,  /* by reason; room for 4 */
    MM_SLOT_DROPPED = 12, /* by reason; room for 7 */
    MM_SLOT_DEAD = 19,    /* by reason; room for 4 */
    MM_SLOT_RETRIED = 23,
    MM_SLOT_MAYBE_DUPLICATED = 24,
    MM_SLOT_KAFKA_ERRORS = 25,
    MM_SLOT_PRODUCER_RESTARTS = 26,
    MM_SLOT_TEST_MESSAGES = 27,
    MM_SLOT_PARKED = 28,
    MM_SLOT_DEAD_COPIES = 29,
    MM_SLOT_DEAD_COPIES_FAILED = 30,
    /* 31: free, 0 */
};

/* What a worker is doing. */
#define MM_WORKER_STATES(X)                                                                 \
    X(MM_WORKER_RUNNING, "running")                                                         \
    X(MM_WORKER_DRAINING, "draining")     /* after a failure, until nothing is in flight */ \
    X(MM_WORKER_SINGLE, "single")         /* sending suspects one by one */                 \
    X(MM_WORKER_PARKED, "parked")         /* waiting for the retry timer */                 \
    X(MM_WORKER_RESTARTING, "restarting") /* waiting to make a new producer */              \
    X(MM_WORKER_STOPPED, "stopped")

enum mm_worker_state {
#define MM_X(name, text) name,
    MM_WORKER_STATES(MM_X)
#undef MM_X
    MM_N_WORKER_STATES
};

/* A down_why beside those of mm_trouble.h: connected, but Kafka confirms nothing. */
#define MM_METRICS_STALLED UINT64_C(1000)

#define MM_HISTOGRAM_MAX 20

/* Durations in ns, counted in buckets with fixed upper bounds. One writer. */
struct mm_histogram
{
    _Atomic uint64_t count[MM_HISTOGRAM_MAX + 1]; /* the last one: above all bounds */
    _Atomic uint64_t sum_ns;
};

/* Written by the broker thread. */
struct mm_metrics_broker
{
    alignas(
        MM_CACHE_LINE) _Atomic uint64_t received[3]; /* by QoS; messages that passed the filter */
    _Atomic uint64_t received_bytes;                 /* of their payloads */
    _Atomic uint64_t spooled;
    _Atomic uint64_t refused[MM_N_REFUSED];
    _Atomic uint64_t dropped[MM_N_DROPPED];
    struct mm_histogram callback; /* time spent in the MESSAGE callback, one message in 64 */
};

/* How a change of the settings while the plugin runs ended. */
#define MM_RELOADS(X)                                                     \
    X(MM_RELOAD_APPLIED, "applied")                                       \
    X(MM_RELOAD_UNCHANGED, "unchanged") /* there was nothing to change */ \
    X(MM_RELOAD_FAILED, "failed")       /* the settings of before stay */

enum mm_reload {
#define MM_X(name, text) name,
    MM_RELOADS(MM_X)
#undef MM_X
    MM_N_RELOADS
};

/* Written by the thread of mm_live.h. */
struct mm_metrics_live
{
    alignas(MM_CACHE_LINE) _Atomic uint64_t reloads[MM_N_RELOADS];
    _Atomic uint64_t failed;         /* gauge: 1 while the last one did not succeed */
    _Atomic uint64_t success_ms;     /* gauge: time of the last that did, since the epoch; or 0 */
    _Atomic uint64_t restart_needed; /* gauge: options that wait for a start of the broker */
    _Atomic uint64_t file_changed;   /* gauge: 1 while config_file is not what is in use */
    _Atomic uint64_t cert_end_ms;    /* gauge: end of our certificate, since the epoch; or 0 */
};

/* Written by one worker. A record that is finished counts in exactly one of delivered,
 * dead_lettered, dropped_oldest and parked, or, where mm_spool_take_repeat() says so, in repeated
 * instead of the first three (a worker of a parked log asks its own log, then the main one). It is
 * counted before mm_spool_finish() tells the log. */
struct mm_metrics_worker
{
    alignas(MM_CACHE_LINE) _Atomic uint64_t delivered;
    _Atomic uint64_t delivered_bytes; /* of the Kafka values */
    _Atomic uint64_t dead_lettered[MM_N_DEAD];
    _Atomic uint64_t dead_copies; /* of dead letters, that dead_letter_topic has */
    _Atomic uint64_t dead_copies_failed;
    _Atomic uint64_t dead_evicted; /* gauge: of the whole dead-letter log, when last looked at */
    _Atomic uint64_t dropped_oldest;
    _Atomic uint64_t retried;          /* records handed to Kafka's client again */
    _Atomic uint64_t maybe_duplicated; /* of those, sent before without an answer */
    _Atomic uint64_t
        repeated;            /* finished once more after a restart: counted by an earlier process */
    _Atomic uint64_t parked; /* moved to the log of a parked Kafka topic: in the spool still */
    _Atomic uint64_t kafka_errors; /* failed delivery reports and connection losses */
    _Atomic uint64_t producer_restarts;
    _Atomic uint64_t test_messages;    /* delivered */
    _Atomic uint64_t taken;            /* gauge: records of the shard read from the log */
    _Atomic uint64_t held;             /* gauge: of those, not finished */
    _Atomic uint64_t in_flight;        /* gauge: of those, in the Kafka client */
    _Atomic uint64_t orphans;          /* gauge: of those, without a place in the log */
    _Atomic uint64_t oldest_ms;        /* gauge: time of receipt of the oldest held; 0: none */
    _Atomic uint64_t last_delivery_ms; /* gauge: since the epoch; 0: none yet */
    _Atomic uint64_t kafka_up;         /* gauge: 0 or 1 */
    _Atomic uint64_t kafka_was_up;     /* gauge: 1 once a connection or a delivery succeeded */
    _Atomic uint64_t state;            /* gauge: enum mm_worker_state */
    _Atomic uint64_t retry_at_ms;  /* gauge: next try of a parked topic, since the epoch; or 0 */
    _Atomic uint64_t heartbeat_ns; /* gauge: CLOCK_MONOTONIC of the last loop */
    _Atomic uint64_t down_why;     /* gauge: enum mm_trouble, or MM_METRICS_STALLED */
    _Atomic(const char *)
        refusal; /* Kafka's name of why it refused a Kafka topic last; static; NULL: it has not */
    struct mm_histogram latency; /* receipt to delivery report */
};

struct mm_metrics;

/* What does not change while the plugin runs. Strings are copied. */
struct mm_metrics_info
{
    const char *version; /* ours */
    const char *librdkafka;
    const char *mosquitto;
    uint32_t n_workers;
    struct mm_lanes *lanes; /* borrowed: the Kafka topics that may be parked; NULL: none */
    bool sync_always;       /* the log refuses what it cannot sync */
};

/* Thread: setup. Errors: MM_ENOMEM. */
int mm_metrics_new(const struct mm_metrics_info *info, struct mm_metrics **out);

/* Accepts NULL. Thread: setup. */
void mm_metrics_free(struct mm_metrics *m);

/* The broker thread's block; worker k's block. Valid until mm_metrics_free(). Thread: setup. */
struct mm_metrics_broker *mm_metrics_broker(struct mm_metrics *m);
struct mm_metrics_worker *mm_metrics_worker(struct mm_metrics *m, uint32_t k);

/* The block of the thread that changes the settings. Valid until mm_metrics_free(). Thread: setup.
 */
struct mm_metrics_live *mm_metrics_live(struct mm_metrics *m);

/* The lane, for the two functions below, of what was parked by other routes. */
#define MM_METRICS_LANE_OLD MM_LANES_MAX

/* The block of the worker that delivers what a lane has parked, made when it is first asked for;
 * all its counters are part of the totals, taken and held count against mm_metrics_park_set(). It
 * is looked at for life only while heartbeat_ns is not 0 and state is not MM_WORKER_STOPPED;
 * kafka_up does not matter. retry_at_ms is shown. Valid until mm_metrics_free(). NULL: no memory.
 *
 * Thread: any. */
struct mm_metrics_worker *mm_metrics_park(struct mm_metrics *m, uint32_t lane);

/* Tell what the log of a parked lane holds; call it whenever that has changed, and once for each
 * log that was found at the start, before mm_metrics_restore(). mm_metrics_park() was called for
 * the lane before.
 *
 * to_take: mm_spool_to_take() less mm_spool_n_repeat() of that log; n_lost, n_bytes: n_lost and
 * used_bytes of its mm_spool_stats().
 * The lane counts as parked while to_take - taken + held of its block is above 0.
 *
 * Thread: any, one at a time for each lane. */
void mm_metrics_park_set(struct mm_metrics *m,
                         uint32_t lane,
                         uint64_t to_take,
                         uint64_t n_lost,
                         uint64_t n_bytes);

/* Go on where an earlier process ended: what found has of counters becomes the base of all that is
 * shown, and received is set so that the ledger's difference is 0. To be called once, before the
 * first message and the first worker, also when nothing was found: until then
 * mm_metrics_counters() has nothing to say. found: mm_spool_found() of spool, which must live until
 * mm_metrics_counters() is not called any more; it may be NULL in a test.
 *
 * Thread: setup. */
void mm_metrics_restore(struct mm_metrics *m,
                        const struct mm_spool *spool,
                        const struct mm_spool_found *found);

/* The counters as they are now, base included, by enum mm_metrics_slot: a mm_spool_counters_fn.
 * Before mm_metrics_restore() it leaves counters as they are: the log gives it those that it found.
 *
 * arg: struct mm_metrics. Thread: any; takes no lock, calls mm_spool_stats(). */
void mm_metrics_counters(void *arg, uint64_t counters[MM_LAYOUT_COUNTERS]);

/* What a slot is called, such as "refused_spool_full"; NULL: it has no use. Static. Thread: any. */
const char *mm_metrics_counter_name(int slot);

/* Count a duration. Thread: the histogram's writer. */
void mm_histogram_callback(struct mm_histogram *h, uint64_t ns); /* 100 ns to 100 ms */
void mm_histogram_latency(struct mm_histogram *h, uint64_t ns);  /* 1 ms to 1 h */

/* All figures of one moment, added up. */
struct mm_snapshot
{
    uint64_t received;
    uint64_t delivered;
    uint64_t dead_lettered;
    uint64_t refused;
    uint64_t dropped;
    uint64_t in_spool;           /* those of parked Kafka topics included */
    uint64_t parked;             /* of in_spool */
    int64_t ledger_difference;   /* received less all the others; 0 whenever quiet */
    uint64_t oldest_ms;          /* time of receipt of the oldest unfinished record; 0: none */
    struct mm_spool_stats spool; /* used_bytes with those of parked Kafka topics */
    bool live;                   /* every worker's loop turned in the last 30 s */
    bool ready;   /* a record can be stored: the spool is not full and, unless it makes room by
                     itself (drop_oldest), less than 90 % used; its disk has space and, where each
                     message is synced, does so */
    bool healthy; /* ready, live, every worker reaches Kafka and no Kafka topic is parked */
    const char *reason; /* why not healthy, for people; "ok". Static. */
};

/* Thread: any. spool: the log whose figures belong to the page. */
void mm_metrics_snapshot(const struct mm_metrics *m,
                         const struct mm_spool *spool,
                         struct mm_snapshot *out);

/* --- for pages, in mm_metrics_view.c. Thread: any. ----------------------------------------------
 */

/* What does not change, and when it began. The strings live until mm_metrics_free(). */
struct mm_build_view
{
    const char *version;
    const char *librdkafka;
    const char *mosquitto;
    uint64_t started_ms; /* since the epoch */
};

void mm_metrics_view_build(const struct mm_metrics *m, struct mm_build_view *out);

/* Did the last change of the settings fail? */
bool mm_metrics_reload_failed(const struct mm_metrics *m);

/* All counters, by enum mm_metrics_slot. */
void mm_metrics_view_counters(const struct mm_metrics *m,
                              const struct mm_spool *spool,
                              uint64_t n[MM_LAYOUT_COUNTERS]);

/* One worker. Names are static; times since the epoch, 0: none. */
struct mm_worker_view
{
    enum mm_worker_state state;
    const char *state_name;
    bool alive; /* its loop turned in the last 30 s */
    bool kafka_up;
    bool kafka_was_up;
    uint64_t held; /* taken and not finished */
    uint64_t in_flight;
    uint64_t delivered; /* since the start */
    uint64_t oldest_ms;
    uint64_t last_delivery_ms;
    uint64_t retry_at_ms;
    const char *refusal; /* NULL: none */
    uint64_t down_why;   /* while it does not reach Kafka: enum mm_trouble */
};

uint32_t mm_metrics_n_workers(const struct mm_metrics *m);
void mm_metrics_view_worker(const struct mm_metrics *m, uint32_t k, struct mm_worker_view *out);

/* One Kafka topic, by its lane, or MM_METRICS_LANE_OLD. What waits for it is all 0 and NULL where
 * nothing does: it is not parked. */
struct mm_topic_view
{
    uint64_t delivered; /* since it is known, or the routes were changed */
    uint64_t n_messages;
    uint64_t n_bytes;
    uint64_t oldest_ms;
    uint64_t retry_at_ms;
    const char *refusal; /* static; NULL: not known */
};

/* Lanes there are, that of earlier routes left out. */
uint32_t mm_metrics_n_topics(const struct mm_metrics *m);
void mm_metrics_view_topic(const struct mm_metrics *m, uint32_t lane, struct mm_topic_view *out);

/* Messages delivered to the Kafka topic of a lane below mm_metrics_n_topics(). */
uint64_t mm_metrics_topic_delivered(const struct mm_metrics *m, uint32_t lane);

/* The Kafka topic of a lane; "by earlier routes"; "" when there is no such lane. */
void mm_metrics_topic_name(const struct mm_metrics *m, uint32_t lane, char dst[MM_LANES_NAME_LEN]);

/* --- the page of Prometheus, in mm_metrics_text.c ------------------------------------------------
 */

/* The Prometheus text (format 0.0.4), with the five names of the Go program at its end. *text is
 * malloc'ed, for the caller to free; *len without the final NUL. Makes the log write its STATE, so
 * that no counter is ever less than shown here, also when the process is killed now.
 *
 * Thread: any but the producer's. Errors: MM_ENOMEM. */
int mm_metrics_text(const struct mm_metrics *m, struct mm_spool *spool, char **text, size_t *len);

#endif
