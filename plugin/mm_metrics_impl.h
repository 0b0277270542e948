/* mm_metrics_impl.h - what mm_metrics.c counts, for those who write it down.
 *
 * Thread: any; what is shown was read once, by mm_metrics_read(). */
#ifndef MM_METRICS_IMPL_H
#define MM_METRICS_IMPL_H

#include "mm_metrics.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A Kafka topic that was parked, or was to be. */
struct mm_metrics_lane
{
    struct mm_metrics_worker worker;
    _Atomic uint64_t to_take; /* gauges, see mm_metrics_park_set() */
    _Atomic uint64_t n_lost;
    _Atomic uint64_t n_bytes;
};

#define MM_METRICS_N_LANES (MM_METRICS_LANE_OLD + 1)

struct mm_metrics
{
    /* immutable */
    char *version;
    char *librdkafka;
    char *mosquitto;
    uint32_t n_workers;
    struct mm_lanes *names;
    bool sync_always;
    uint64_t started_ms; /* since the epoch */
    uint64_t started_ns; /* CLOCK_MONOTONIC */

    /* immutable once restored */
    const struct mm_spool *spool;
    uint64_t base[MM_LAYOUT_COUNTERS]; /* counted by earlier processes */
    atomic_bool restored;              /* R1: publishes the two to the log's threads */

    /* Made one by one, as they are needed, and kept. L1: publishes what is in the block. */
    _Atomic(struct mm_metrics_lane *) lanes[MM_METRICS_N_LANES];

    struct mm_metrics_broker broker;
    struct mm_metrics_live live;
    struct mm_metrics_worker worker[];
};

struct mm_bound
{
    uint64_t ns;    /* counted here when not longer */
    const char *le; /* the same in seconds, as the page shows it */
};

struct mm_bounds
{
    size_t n;
    struct mm_bound bound[MM_HISTOGRAM_MAX];
};

struct mm_durations
{
    uint64_t count[MM_HISTOGRAM_MAX + 1];
    uint64_t sum_ns;
};

/* Everything that is shown, added over the workers. */
struct mm_figures
{
    struct mm_snapshot sums;
    uint64_t n[MM_LAYOUT_COUNTERS]; /* by enum mm_metrics_slot */
    uint64_t dead_evicted;
    uint64_t last_delivery_ms;
    struct mm_durations callback;
    struct mm_durations latency;

    uint64_t parked_bytes;
    uint64_t parked_retry_ms; /* the earliest; 0: none */
    uint64_t n_parked_lanes;

    uint64_t n_down;     /* workers that do not reach Kafka */
    uint64_t n_never_up; /* of those, that never did */
    uint64_t n_parked;
    uint64_t n_stuck; /* workers whose loop has not turned for 30 s */
};

/* By the enums of mm_metrics.h. */
extern const char *const mm_refused_names[];
extern const char *const mm_dropped_names[];
extern const char *const mm_dead_names[];
extern const char *const mm_worker_state_names[];

extern const struct mm_bounds mm_callback_bounds;
extern const struct mm_bounds mm_latency_bounds;

/* NULL: it was never needed. */
static inline struct mm_metrics_lane *mm_metrics_lane(const struct mm_metrics *m, uint32_t i)
{
    return atomic_load_explicit(&m->lanes[i], memory_order_acquire); /* L1 */
}

/* Messages of a parked Kafka topic, in its log or its worker's hands. */
uint64_t mm_metrics_count_lane(const struct mm_metrics_lane *lane);

/* Has the thread of this block moved in the last 30 s? One that has not begun yet has as long as
 * one that stands still. */
bool mm_metrics_is_alive(const struct mm_metrics *m,
                         const struct mm_metrics_worker *w,
                         uint64_t now_ns);

/* Read everything once. */
void mm_metrics_read(const struct mm_metrics *m,
                     const struct mm_spool *spool,
                     struct mm_figures *f);

#endif
