/* One scrape reads everything once, in an order that makes the ledger exact whenever nothing moves:
 * first the workers, then the spool, then the broker's block. While messages flow each counter is
 * right, but they are of slightly different moments and the difference may be off by what passed in
 * between; it never stays off. */
#include "mm_metrics.h"

#include "mm_clock.h"
#include "mm_error.h"
#include "mm_metrics_impl.h"

#include <stdlib.h>
#include <string.h>

/* A loop turns several times a second, and no wait in it is longer than 10 s. */
#define LIVE_NS (30 * UINT64_C(1000000000))

const char *const mm_refused_names[] = {
#define MM_X(name, text) text,
    MM_REFUSED_REASONS(MM_X)
#undef MM_X
};

const char *const mm_dropped_names[] = {
#define MM_X(name, text) text,
    MM_DROPPED_REASONS(MM_X)
#undef MM_X
};

const char *const mm_dead_names[] = {
#define MM_X(name, text) text,
    MM_DEAD_REASONS(MM_X)
#undef MM_X
};

_Static_assert(MM_N_REFUSED <= 4 && MM_N_DROPPED <= 7 && MM_N_DEAD <= 4,
               "the reasons outgrow their slots");

const char *const mm_worker_state_names[] = {
#define MM_X(name, text) text,
    MM_WORKER_STATES(MM_X)
#undef MM_X
};

/* --- setup --------------------------------------------------------------------------------------
 */

int mm_metrics_new(const struct mm_metrics_info *info, struct mm_metrics **out)
{
    *out = NULL;
    size_t size = sizeof(struct mm_metrics) + info->n_workers * sizeof(struct mm_metrics_worker);
    struct mm_metrics *m = aligned_alloc(MM_CACHE_LINE, size);
    if (m == NULL) {
        return MM_ENOMEM;
    }
    memset(m, 0, size);
    m->n_workers = info->n_workers;
    m->names = info->lanes;
    m->sync_always = info->sync_always;
    m->started_ms = mm_clock_realtime_ms();
    m->started_ns = mm_clock_monotonic_ns();
    m->version = strdup(info->version);
    m->librdkafka = strdup(info->librdkafka);
    m->mosquitto = strdup(info->mosquitto);
    if (m->version == NULL || m->librdkafka == NULL || m->mosquitto == NULL) {
        mm_metrics_free(m);
        return MM_ENOMEM;
    }
    *out = m;
    return 0;
}

void mm_metrics_free(struct mm_metrics *m)
{
    if (m == NULL) {
        return;
    }
    for (uint32_t i = 0; i < MM_METRICS_N_LANES; i++) {
        free(mm_metrics_lane(m, i));
    }
    free(m->version);
    free(m->librdkafka);
    free(m->mosquitto);
    free(m);
}

struct mm_metrics_broker *mm_metrics_broker(struct mm_metrics *m)
{
    return &m->broker;
}

struct mm_metrics_live *mm_metrics_live(struct mm_metrics *m)
{
    return &m->live;
}

struct mm_metrics_worker *mm_metrics_worker(struct mm_metrics *m, uint32_t k)
{
    return &m->worker[k];
}

struct mm_metrics_worker *mm_metrics_park(struct mm_metrics *m, uint32_t lane)
{
    struct mm_metrics_lane *l = mm_metrics_lane(m, lane);
    if (l != NULL) {
        return &l->worker;
    }
    l = aligned_alloc(MM_CACHE_LINE, sizeof *l);
    if (l == NULL) {
        return NULL;
    }
    memset(l, 0, sizeof *l);
    struct mm_metrics_lane *first = NULL;
    if (!atomic_compare_exchange_strong_explicit(&m->lanes[lane], &first, l, memory_order_acq_rel,
                                                 memory_order_acquire)) {
        free(l); /* another thread was faster */
        l = first;
    }
    return &l->worker;
}

void mm_metrics_park_set(struct mm_metrics *m,
                         uint32_t lane,
                         uint64_t to_take,
                         uint64_t n_lost,
                         uint64_t n_bytes)
{
    struct mm_metrics_lane *l = mm_metrics_lane(m, lane);
    mm_gauge_set(&l->to_take, to_take);
    mm_gauge_set(&l->n_lost, n_lost);
    mm_gauge_set(&l->n_bytes, n_bytes);
}

/* --- histograms ---------------------------------------------------------------------------------
 */

const struct mm_bounds mm_callback_bounds = {
    .n = 19,
    .bound = {{100, "1e-07"},
              {250, "2.5e-07"},
              {500, "5e-07"},
              {1000, "1e-06"},
              {2500, "2.5e-06"},
              {5000, "5e-06"},
              {10000, "1e-05"},
              {25000, "2.5e-05"},
              {50000, "5e-05"},
              {100000, "0.0001"},
              {250000, "0.00025"},
              {500000, "0.0005"},
              {1000000, "0.001"},
              {2500000, "0.0025"},
              {5000000, "0.005"},
              {10000000, "0.01"},
              {25000000, "0.025"},
              {50000000, "0.05"},
              {100000000, "0.1"}},
};

const struct mm_bounds mm_latency_bounds = {
    .n = 20,
    .bound = {{1000000, "0.001"},      {2500000, "0.0025"},    {5000000, "0.005"},
              {10000000, "0.01"},      {25000000, "0.025"},    {50000000, "0.05"},
              {100000000, "0.1"},      {250000000, "0.25"},    {500000000, "0.5"},
              {1000000000, "1"},       {2500000000, "2.5"},    {5000000000, "5"},
              {10000000000, "10"},     {30000000000, "30"},    {60000000000, "60"},
              {120000000000, "120"},   {300000000000, "300"},  {600000000000, "600"},
              {1800000000000, "1800"}, {3600000000000, "3600"}},
};

static void observe(struct mm_histogram *h, const struct mm_bounds *bounds, uint64_t ns)
{
    size_t i = 0;
    while (i < bounds->n && ns > bounds->bound[i].ns) {
        i++;
    }
    mm_counter_add(&h->count[i < bounds->n ? i : MM_HISTOGRAM_MAX], 1);
    mm_counter_add(&h->sum_ns, ns);
}

void mm_histogram_callback(struct mm_histogram *h, uint64_t ns)
{
    observe(h, &mm_callback_bounds, ns);
}

void mm_histogram_latency(struct mm_histogram *h, uint64_t ns)
{
    observe(h, &mm_latency_bounds, ns);
}

/* --- reading ------------------------------------------------------------------------------------
 */

static uint64_t sum(const uint64_t *values, size_t n)
{
    uint64_t all = 0;
    for (size_t i = 0; i < n; i++) {
        all += values[i];
    }
    return all;
}

/* The earlier of two times, of which 0 is none. */
static uint64_t earlier(uint64_t a_ms, uint64_t b_ms)
{
    return b_ms != 0 && (a_ms == 0 || b_ms < a_ms) ? b_ms : a_ms;
}

static void add_counters(uint64_t *sums, const _Atomic uint64_t *counters, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        sums[i] += mm_counter_get(&counters[i]);
    }
}

static void add_durations(struct mm_durations *sums, const struct mm_histogram *h)
{
    add_counters(sums->count, h->count, MM_HISTOGRAM_MAX + 1);
    sums->sum_ns += mm_counter_get(&h->sum_ns);
}

static void add_worker(uint64_t n[MM_LAYOUT_COUNTERS], const struct mm_metrics_worker *w)
{
    n[MM_SLOT_DELIVERED] += mm_counter_get(&w->delivered);
    n[MM_SLOT_DELIVERED_BYTES] += mm_counter_get(&w->delivered_bytes);
    n[MM_SLOT_REPEATED] += mm_counter_get(&w->repeated);
    n[MM_SLOT_DROPPED + MM_DROPPED_OLDEST] += mm_counter_get(&w->dropped_oldest);
    add_counters(&n[MM_SLOT_DEAD], w->dead_lettered, MM_N_DEAD);
    n[MM_SLOT_RETRIED] += mm_counter_get(&w->retried);
    n[MM_SLOT_MAYBE_DUPLICATED] += mm_counter_get(&w->maybe_duplicated);
    n[MM_SLOT_KAFKA_ERRORS] += mm_counter_get(&w->kafka_errors);
    n[MM_SLOT_PRODUCER_RESTARTS] += mm_counter_get(&w->producer_restarts);
    n[MM_SLOT_TEST_MESSAGES] += mm_counter_get(&w->test_messages);
    n[MM_SLOT_PARKED] += mm_counter_get(&w->parked);
    n[MM_SLOT_DEAD_COPIES] += mm_counter_get(&w->dead_copies);
    n[MM_SLOT_DEAD_COPIES_FAILED] += mm_counter_get(&w->dead_copies_failed);
}

static void add_broker(uint64_t n[MM_LAYOUT_COUNTERS], const struct mm_metrics_broker *b)
{
    add_counters(&n[MM_SLOT_REFUSED], b->refused, MM_N_REFUSED);
    add_counters(&n[MM_SLOT_DROPPED], b->dropped, MM_N_DROPPED);
    n[MM_SLOT_SPOOLED] += mm_counter_get(&b->spooled);
    n[MM_SLOT_RECEIVED_BYTES] += mm_counter_get(&b->received_bytes);
    add_counters(&n[MM_SLOT_RECEIVED], b->received, 3);
}

/* Lost since the logs were opened; of the main one only what it found by reading. */
static uint64_t count_lost(const struct mm_metrics *m, const struct mm_spool_stats *stats)
{
    uint64_t n = stats->n_lost;
    for (uint32_t i = 0; i < MM_METRICS_N_LANES; i++) {
        const struct mm_metrics_lane *lane = mm_metrics_lane(m, i);
        n += lane == NULL ? 0 : mm_counter_get(&lane->n_lost);
    }
    return n;
}

uint64_t mm_metrics_count_lane(const struct mm_metrics_lane *lane)
{
    int64_t n = (int64_t)mm_counter_get(&lane->worker.held);
    n -= (int64_t)mm_counter_get(&lane->worker.taken);
    n += (int64_t)mm_counter_get(&lane->to_take);
    return n > 0 ? (uint64_t)n : 0;
}

/* Messages in the main log or in its workers' hands. */
static uint64_t count_main(const struct mm_metrics *m, const struct mm_spool *spool)
{
    int64_t n = 0;
    for (uint32_t k = 0; k < m->n_workers; k++) {
        const struct mm_metrics_worker *w = &m->worker[k];
        n += (int64_t)mm_counter_get(&w->held) - (int64_t)mm_counter_get(&w->taken);
    }
    n += (int64_t)mm_spool_to_take(spool) - (int64_t)mm_spool_n_repeat(spool);
    return n > 0 ? (uint64_t)n : 0;
}

static void read_worker(const struct mm_metrics_worker *w, struct mm_figures *f)
{
    add_worker(f->n, w);
    add_durations(&f->latency, &w->latency);
    uint64_t dead_evicted = mm_counter_get(&w->dead_evicted);
    f->dead_evicted = dead_evicted > f->dead_evicted ? dead_evicted : f->dead_evicted;
    uint64_t last = mm_counter_get(&w->last_delivery_ms);
    f->last_delivery_ms = last > f->last_delivery_ms ? last : f->last_delivery_ms;
    f->sums.oldest_ms = earlier(f->sums.oldest_ms, mm_counter_get(&w->oldest_ms));
}

static void read_lane(const struct mm_metrics_lane *lane, struct mm_figures *f)
{
    read_worker(&lane->worker, f);
    f->parked_bytes += mm_counter_get(&lane->n_bytes);
    uint64_t n = mm_metrics_count_lane(lane);
    if (n > 0) {
        f->sums.parked += n;
        f->n_parked_lanes++;
        f->parked_retry_ms = earlier(f->parked_retry_ms, mm_counter_get(&lane->worker.retry_at_ms));
    }
}

bool mm_metrics_is_alive(const struct mm_metrics *m,
                         const struct mm_metrics_worker *w,
                         uint64_t now_ns)
{
    uint64_t heartbeat = mm_counter_get(&w->heartbeat_ns);
    heartbeat = heartbeat == 0 ? m->started_ns : heartbeat;
    return heartbeat + LIVE_NS >= now_ns;
}

/* What a worker says of itself, as against what it has counted. */
static void judge_worker(const struct mm_metrics *m,
                         const struct mm_metrics_worker *w,
                         uint64_t now_ns,
                         struct mm_figures *f)
{
    if (mm_counter_get(&w->kafka_up) == 0) {
        f->n_down++;
        f->n_never_up += mm_counter_get(&w->kafka_was_up) == 0 ? 1 : 0;
    }
    f->n_parked += mm_counter_get(&w->state) == MM_WORKER_PARKED ? 1 : 0;
    f->n_stuck += mm_metrics_is_alive(m, w, now_ns) ? 0 : 1;
}

/* A lane's worker comes and goes. */
static void judge_lane(const struct mm_metrics_lane *lane, uint64_t now_ns, struct mm_figures *f)
{
    uint64_t heartbeat = mm_counter_get(&lane->worker.heartbeat_ns);
    bool runs = heartbeat != 0 && mm_counter_get(&lane->worker.state) != MM_WORKER_STOPPED;
    f->n_stuck += runs && heartbeat + LIVE_NS < now_ns ? 1 : 0;
}

/* Why messages cannot be stored, or soon cannot; NULL: they can. */
static const char *why_not_ready(const struct mm_metrics *m, const struct mm_spool_stats *s)
{
    if (s->full) {
        return s->low_space ? "the spool is full, and its disk short of space"
                            : "the spool is full";
    }
    if (s->degraded && m->sync_always) {
        return "the spool's disk fails to sync";
    }
    if (s->low_space) {
        return "the spool's disk is short of space";
    }
    if (!s->drop_oldest && s->used_bytes >= s->limit_bytes - s->limit_bytes / 10) {
        return "the spool is more than 90 % used";
    }
    if (s->tight) {
        return "the spool is nearly full";
    }
    return NULL;
}

/* What else is wrong, the nearest to a loss of messages first; NULL: nothing. */
static const char *why_not_healthy(const struct mm_figures *f)
{
    if (f->n_stuck > 0) {
        return "a worker thread does not move";
    }
    if (f->n_down > f->n_never_up) {
        return "Kafka is not reached";
    }
    if (f->n_down > 0) {
        return "Kafka has not been reached yet";
    }
    if (f->n_parked > 0 || f->n_parked_lanes > 0) {
        return "a Kafka topic is parked";
    }
    return NULL;
}

/* What /readyz may have to tell comes before all else. */
static void judge(const struct mm_metrics *m, struct mm_figures *f)
{
    struct mm_snapshot *s = &f->sums;
    const char *not_ready = why_not_ready(m, &s->spool);
    const char *not_healthy = not_ready != NULL ? not_ready : why_not_healthy(f);
    s->live = f->n_stuck == 0;
    s->ready = not_ready == NULL;
    s->healthy = not_healthy == NULL;
    s->reason = s->healthy ? "ok" : not_healthy;
}

static void add_up(struct mm_figures *f)
{
    struct mm_snapshot *s = &f->sums;
    s->received = sum(&f->n[MM_SLOT_RECEIVED], 3);
    s->delivered = f->n[MM_SLOT_DELIVERED];
    s->dead_lettered = sum(&f->n[MM_SLOT_DEAD], MM_N_DEAD);
    s->refused = sum(&f->n[MM_SLOT_REFUSED], MM_N_REFUSED);
    s->dropped = sum(&f->n[MM_SLOT_DROPPED], MM_N_DROPPED);
    s->ledger_difference = (int64_t)(s->received - s->delivered - s->dead_lettered - s->refused -
                                     s->dropped - s->in_spool);
}

void mm_metrics_read(const struct mm_metrics *m, const struct mm_spool *spool, struct mm_figures *f)
{
    memset(f, 0, sizeof *f);
    memcpy(f->n, m->base, sizeof f->n);
    uint64_t now_ns = mm_clock_monotonic_ns();
    for (uint32_t k = 0; k < m->n_workers; k++) {
        read_worker(&m->worker[k], f);
        judge_worker(m, &m->worker[k], now_ns, f);
    }
    for (uint32_t i = 0; i < MM_METRICS_N_LANES; i++) {
        const struct mm_metrics_lane *lane = mm_metrics_lane(m, i);
        if (lane != NULL) {
            read_lane(lane, f);
            judge_lane(lane, now_ns, f);
        }
    }
    struct mm_snapshot *s = &f->sums;
    s->in_spool = count_main(m, spool) + s->parked;
    mm_spool_stats(spool, &s->spool);
    s->spool.used_bytes += f->parked_bytes;
    f->n[MM_SLOT_DROPPED + MM_DROPPED_LOST] += count_lost(m, &s->spool);
    add_broker(f->n, &m->broker);
    add_durations(&f->callback, &m->broker.callback);
    add_up(f);
    judge(m, f);
}

void mm_metrics_snapshot(const struct mm_metrics *m,
                         const struct mm_spool *spool,
                         struct mm_snapshot *out)
{
    struct mm_figures f;
    mm_metrics_read(m, spool, &f);
    *out = f.sums;
}

/* --- over a restart -----------------------------------------------------------------------------
 */

/* Who is killed now leaves messages that are in the Kafka client and have no place in the log any
 * more: the next process finds them nowhere, so they are dropped. */
static void add_orphans(const struct mm_metrics *m, uint64_t n[MM_LAYOUT_COUNTERS])
{
    uint64_t *dropped = &n[MM_SLOT_DROPPED + MM_DROPPED_OLDEST];
    for (uint32_t k = 0; k < m->n_workers; k++) {
        *dropped += atomic_load_explicit(&m->worker[k].orphans, memory_order_acquire);
    }
    for (uint32_t i = 0; i < MM_METRICS_N_LANES; i++) {
        const struct mm_metrics_lane *lane = mm_metrics_lane(m, i);
        if (lane != NULL) {
            *dropped += atomic_load_explicit(&lane->worker.orphans, memory_order_acquire);
        }
    }
}

/* All counters, base included. */
static void collect(const struct mm_metrics *m, uint64_t n[MM_LAYOUT_COUNTERS])
{
    memcpy(n, m->base, sizeof m->base);
    add_orphans(m, n); /* first: one that is counted meanwhile is counted twice, and not never */
    for (uint32_t k = 0; k < m->n_workers; k++) {
        add_worker(n, &m->worker[k]);
    }
    for (uint32_t i = 0; i < MM_METRICS_N_LANES; i++) {
        const struct mm_metrics_lane *lane = mm_metrics_lane(m, i);
        if (lane != NULL) {
            add_worker(n, &lane->worker);
        }
    }
    struct mm_spool_stats stats = {0};
    if (m->spool != NULL) {
        mm_spool_stats(m->spool, &stats);
    }
    n[MM_SLOT_DROPPED + MM_DROPPED_LOST] += count_lost(m, &stats);
    add_broker(n, &m->broker);
}

/* Make the sum of the three another one. Which QoS it was that a message too many or too few had is
 * not known; most have 1. */
static void set_received(uint64_t received[3], uint64_t total)
{
    static const int order[] = {1, 2, 0};
    uint64_t before = sum(received, 3);
    if (total >= before) {
        received[1] += total - before;
        return;
    }
    uint64_t excess = before - total;
    for (size_t i = 0; i < 3; i++) {
        uint64_t *n = &received[order[i]];
        uint64_t part = excess < *n ? excess : *n;
        *n -= part;
        excess -= part;
    }
}

void mm_metrics_restore(struct mm_metrics *m,
                        const struct mm_spool *spool,
                        const struct mm_spool_found *found)
{
    m->spool = spool;
    if (found->has_counters) {
        memcpy(m->base, found->counters, sizeof m->base);
    }

    uint64_t n[MM_LAYOUT_COUNTERS];
    collect(m, n);
    uint64_t dropped = sum(&n[MM_SLOT_DROPPED], MM_N_DROPPED);
    uint64_t dropped_from_spool =
        n[MM_SLOT_DROPPED + MM_DROPPED_OLDEST] + n[MM_SLOT_DROPPED + MM_DROPPED_LOST];
    uint64_t spooled = n[MM_SLOT_DELIVERED] + sum(&n[MM_SLOT_DEAD], MM_N_DEAD) + dropped_from_spool;
    spooled += found->n_records > found->n_repeat ? found->n_records - found->n_repeat : 0;
    for (uint32_t i = 0; i < MM_METRICS_N_LANES; i++) {
        const struct mm_metrics_lane *lane = mm_metrics_lane(m, i);
        spooled += lane == NULL ? 0 : mm_metrics_count_lane(lane);
    }
    uint64_t refused = sum(&n[MM_SLOT_REFUSED], MM_N_REFUSED);
    m->base[MM_SLOT_SPOOLED] = spooled;
    set_received(&m->base[MM_SLOT_RECEIVED], spooled + refused + dropped - dropped_from_spool);
    /* R1: pairs with the load in mm_metrics_counters(). */
    atomic_store_explicit(&m->restored, true, memory_order_release);
}

void mm_metrics_counters(void *arg, uint64_t counters[MM_LAYOUT_COUNTERS])
{
    const struct mm_metrics *m = arg;
    if (atomic_load_explicit(&m->restored, memory_order_acquire)) {
        collect(m, counters);
    }
}

/* clang-format off: it takes the lists for something else */
static const char *const slot_names[MM_LAYOUT_COUNTERS] = {
    [MM_SLOT_RECEIVED] = "received_qos0",
    [MM_SLOT_RECEIVED + 1] = "received_qos1",
    [MM_SLOT_RECEIVED + 2] = "received_qos2",
    [MM_SLOT_RECEIVED_BYTES] = "received_bytes",
    [MM_SLOT_SPOOLED] = "spooled",
    [MM_SLOT_DELIVERED] = "delivered",
    [MM_SLOT_DELIVERED_BYTES] = "delivered_bytes",
    [MM_SLOT_REPEATED] = "repeated",
#define MM_X(name, text) [MM_SLOT_REFUSED + (name)] = "refused_" text,
    MM_REFUSED_REASONS(MM_X)
#undef MM_X
#define MM_X(name, text) [MM_SLOT_DROPPED + (name)] = "dropped_" text,
        MM_DROPPED_REASONS(MM_X)
#undef MM_X
#define MM_X(name, text) [MM_SLOT_DEAD + (name)] = "dead_lettered_" text,
            MM_DEAD_REASONS(MM_X)
#undef MM_X
                [MM_SLOT_RETRIED] = "retried",
    [MM_SLOT_MAYBE_DUPLICATED] = "maybe_duplicated",
    [MM_SLOT_KAFKA_ERRORS] = "kafka_errors",
    [MM_SLOT_PRODUCER_RESTARTS] = "producer_restarts",
    [MM_SLOT_TEST_MESSAGES] = "test_messages",
    [MM_SLOT_PARKED] = "parked",
    [MM_SLOT_DEAD_COPIES] = "dead_letter_copies",
    [MM_SLOT_DEAD_COPIES_FAILED] = "dead_letter_copies_failed",
};
/* clang-format on */

const char *mm_metrics_counter_name(int slot)
{
    return slot >= 0 && slot < MM_LAYOUT_COUNTERS ? slot_names[slot] : NULL;
}
