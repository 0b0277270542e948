#include "mm_clock.h"
#include "mm_lanes.h"
#include "mm_metrics.h"
#include "mm_metrics_impl.h"

#include <stdio.h>
#include <string.h>

void mm_metrics_view_build(const struct mm_metrics *m, struct mm_build_view *out)
{
    *out = (struct mm_build_view){.version = m->version,
                                  .librdkafka = m->librdkafka,
                                  .mosquitto = m->mosquitto,
                                  .started_ms = m->started_ms};
}

bool mm_metrics_reload_failed(const struct mm_metrics *m)
{
    return mm_counter_get(&m->live.failed) != 0;
}

void mm_metrics_view_counters(const struct mm_metrics *m,
                              const struct mm_spool *spool,
                              uint64_t n[MM_LAYOUT_COUNTERS])
{
    struct mm_figures f;
    mm_metrics_read(m, spool, &f);
    memcpy(n, f.n, sizeof f.n);
}

uint32_t mm_metrics_n_workers(const struct mm_metrics *m)
{
    return m->n_workers;
}

static const char *name_of(const _Atomic(const char *) *name)
{
    return atomic_load_explicit(name, memory_order_relaxed);
}

void mm_metrics_view_worker(const struct mm_metrics *m, uint32_t k, struct mm_worker_view *out)
{
    const struct mm_metrics_worker *w = &m->worker[k];
    uint64_t state = mm_counter_get(&w->state);
    *out = (struct mm_worker_view){
        .state = (enum mm_worker_state)state,
        .state_name = mm_worker_state_names[state],
        .alive = mm_metrics_is_alive(m, w, mm_clock_monotonic_ns()),
        .kafka_up = mm_counter_get(&w->kafka_up) != 0,
        .kafka_was_up = mm_counter_get(&w->kafka_was_up) != 0,
        .held = mm_counter_get(&w->held),
        .in_flight = mm_counter_get(&w->in_flight),
        .delivered = mm_counter_get(&w->delivered),
        .oldest_ms = mm_counter_get(&w->oldest_ms),
        .last_delivery_ms = mm_counter_get(&w->last_delivery_ms),
        .retry_at_ms = mm_counter_get(&w->retry_at_ms),
        .refusal = name_of(&w->refusal),
        .down_why = mm_counter_get(&w->down_why),
    };
}

uint32_t mm_metrics_n_topics(const struct mm_metrics *m)
{
    return m->names == NULL ? 0 : mm_lanes_n(m->names);
}

uint64_t mm_metrics_topic_delivered(const struct mm_metrics *m, uint32_t lane)
{
    return mm_lanes_n_delivered(m->names, lane);
}

void mm_metrics_view_topic(const struct mm_metrics *m, uint32_t lane, struct mm_topic_view *out)
{
    memset(out, 0, sizeof *out);
    out->delivered = lane < MM_LANES_MAX ? mm_lanes_n_delivered(m->names, lane) : 0;
    const struct mm_metrics_lane *l = mm_metrics_lane(m, lane);
    out->n_messages = l == NULL ? 0 : mm_metrics_count_lane(l);
    if (out->n_messages > 0) {
        out->n_bytes = mm_counter_get(&l->n_bytes);
        out->oldest_ms = mm_counter_get(&l->worker.oldest_ms);
        out->retry_at_ms = mm_counter_get(&l->worker.retry_at_ms);
        out->refusal = name_of(&l->worker.refusal);
    }
}

void mm_metrics_topic_name(const struct mm_metrics *m, uint32_t lane, char dst[MM_LANES_NAME_LEN])
{
    if (lane == MM_METRICS_LANE_OLD) {
        snprintf(dst, MM_LANES_NAME_LEN, "by earlier routes");
    } else {
        mm_lanes_copy_name(m->names, lane, dst);
    }
}
