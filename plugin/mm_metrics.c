/* One scrape reads everything once, in an order that makes the ledger exact whenever nothing moves:
 * first the workers, then the spool, then the broker's block. While messages flow each counter is
 * right, but they are of slightly different moments and the difference may be off by what passed in
 * between; it never stays off. */
#include "mm_metrics.h"

#include "mm_clock.h"
#include "mm_error.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A loop turns several times a second, and no wait in it is longer than 10 s. */
#define LIVE_NS (30 * UINT64_C(1000000000))

/* A Kafka topic that was parked, or was to be. */
struct lane
{
    struct mm_metrics_worker worker;
    _Atomic uint64_t to_take; /* gauges, see mm_metrics_park_set() */
    _Atomic uint64_t n_lost;
    _Atomic uint64_t n_bytes;
};

#define N_LANES (MM_METRICS_LANE_OLD + 1)

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
    _Atomic(struct lane *) lanes[N_LANES];

    struct mm_metrics_broker broker;
    struct mm_metrics_worker worker[];
};

static const char *const refused_names[] = {
#define MM_X(name, text) text,
    MM_REFUSED_REASONS(MM_X)
#undef MM_X
};

static const char *const dropped_names[] = {
#define MM_X(name, text) text,
    MM_DROPPED_REASONS(MM_X)
#undef MM_X
};

static const char *const dead_names[] = {
#define MM_X(name, text) text,
    MM_DEAD_REASONS(MM_X)
#undef MM_X
};

_Static_assert(MM_N_REFUSED <= 4 && MM_N_DROPPED <= 7 && MM_N_DEAD <= 4,
               "the reasons outgrow their slots");

static const char *const state_names[] = {
#define MM_X(name, text) text,
    MM_WORKER_STATES(MM_X)
#undef MM_X
};

/* --- setup --------------------------------------------------------------------------------------
 */

/* NULL: it was never needed. */
static struct lane *get_lane(const struct mm_metrics *m, uint32_t i)
{
    return atomic_load_explicit(&m->lanes[i], memory_order_acquire); /* L1 */
}

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
    for (uint32_t i = 0; i < N_LANES; i++) {
        free(get_lane(m, i));
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

struct mm_metrics_worker *mm_metrics_worker(struct mm_metrics *m, uint32_t k)
{
    return &m->worker[k];
}

struct mm_metrics_worker *mm_metrics_park(struct mm_metrics *m, uint32_t lane)
{
    struct lane *l = get_lane(m, lane);
    if (l != NULL) {
        return &l->worker;
    }
    l = aligned_alloc(MM_CACHE_LINE, sizeof *l);
    if (l == NULL) {
        return NULL;
    }
    memset(l, 0, sizeof *l);
    struct lane *first = NULL;
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
    struct lane *l = get_lane(m, lane);
    mm_gauge_set(&l->to_take, to_take);
    mm_gauge_set(&l->n_lost, n_lost);
    mm_gauge_set(&l->n_bytes, n_bytes);
}

/* --- histograms ---------------------------------------------------------------------------------
 */

struct bound
{
    uint64_t ns;    /* counted here when not longer */
    const char *le; /* the same in seconds, as the page shows it */
};

struct bounds
{
    size_t n;
    struct bound bound[MM_HISTOGRAM_MAX];
};

static const struct bounds callback_bounds = {
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

static const struct bounds latency_bounds = {
    .n = 20,
    .bound = {{1000000, "0.001"},      {2500000, "0.0025"},    {5000000, "0.005"},
              {10000000, "0.01"},      {25000000, "0.025"},    {50000000, "0.05"},
              {100000000, "0.1"},      {250000000, "0.25"},    {500000000, "0.5"},
              {1000000000, "1"},       {2500000000, "2.5"},    {5000000000, "5"},
              {10000000000, "10"},     {30000000000, "30"},    {60000000000, "60"},
              {120000000000, "120"},   {300000000000, "300"},  {600000000000, "600"},
              {1800000000000, "1800"}, {3600000000000, "3600"}},
};

static void observe(struct mm_histogram *h, const struct bounds *bounds, uint64_t ns)
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
    observe(h, &callback_bounds, ns);
}

void mm_histogram_latency(struct mm_histogram *h, uint64_t ns)
{
    observe(h, &latency_bounds, ns);
}

/* --- reading ------------------------------------------------------------------------------------
 */

struct durations
{
    uint64_t count[MM_HISTOGRAM_MAX + 1];
    uint64_t sum_ns;
};

/* Everything that is shown, added over the workers. */
struct figures
{
    struct mm_snapshot sums;
    uint64_t n[MM_LAYOUT_COUNTERS]; /* by enum mm_metrics_slot */
    uint64_t dead_evicted;
    uint64_t last_delivery_ms;
    struct durations callback;
    struct durations latency;

    uint64_t parked_bytes;
    uint64_t parked_retry_ms; /* the earliest; 0: none */
    uint64_t n_parked_lanes;

    uint64_t n_down;     /* workers that do not reach Kafka */
    uint64_t n_never_up; /* of those, that never did */
    uint64_t n_parked;
    uint64_t n_stuck; /* workers whose loop has not turned for LIVE_NS */
};

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

static void add_durations(struct durations *sums, const struct mm_histogram *h)
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
    for (uint32_t i = 0; i < N_LANES; i++) {
        const struct lane *lane = get_lane(m, i);
        n += lane == NULL ? 0 : mm_counter_get(&lane->n_lost);
    }
    return n;
}

/* Messages of a parked Kafka topic, in its log or its worker's hands. */
static uint64_t count_lane(const struct lane *lane)
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

static void read_worker(const struct mm_metrics_worker *w, struct figures *f)
{
    add_worker(f->n, w);
    add_durations(&f->latency, &w->latency);
    uint64_t dead_evicted = mm_counter_get(&w->dead_evicted);
    f->dead_evicted = dead_evicted > f->dead_evicted ? dead_evicted : f->dead_evicted;
    uint64_t last = mm_counter_get(&w->last_delivery_ms);
    f->last_delivery_ms = last > f->last_delivery_ms ? last : f->last_delivery_ms;
    f->sums.oldest_ms = earlier(f->sums.oldest_ms, mm_counter_get(&w->oldest_ms));
}

static void read_lane(const struct lane *lane, struct figures *f)
{
    read_worker(&lane->worker, f);
    f->parked_bytes += mm_counter_get(&lane->n_bytes);
    uint64_t n = count_lane(lane);
    if (n > 0) {
        f->sums.parked += n;
        f->n_parked_lanes++;
        f->parked_retry_ms = earlier(f->parked_retry_ms, mm_counter_get(&lane->worker.retry_at_ms));
    }
}

/* What a worker says of itself, as against what it has counted. */
static void judge_worker(const struct mm_metrics *m,
                         const struct mm_metrics_worker *w,
                         uint64_t now_ns,
                         struct figures *f)
{
    if (mm_counter_get(&w->kafka_up) == 0) {
        f->n_down++;
        f->n_never_up += mm_counter_get(&w->kafka_was_up) == 0 ? 1 : 0;
    }
    f->n_parked += mm_counter_get(&w->state) == MM_WORKER_PARKED ? 1 : 0;
    /* A thread that has not begun yet has as long as one that stands still. */
    uint64_t heartbeat = mm_counter_get(&w->heartbeat_ns);
    heartbeat = heartbeat == 0 ? m->started_ns : heartbeat;
    f->n_stuck += heartbeat + LIVE_NS < now_ns ? 1 : 0;
}

/* A lane's worker comes and goes. */
static void judge_lane(const struct lane *lane, uint64_t now_ns, struct figures *f)
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
static const char *why_not_healthy(const struct figures *f)
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
static void judge(const struct mm_metrics *m, struct figures *f)
{
    struct mm_snapshot *s = &f->sums;
    const char *not_ready = why_not_ready(m, &s->spool);
    const char *not_healthy = not_ready != NULL ? not_ready : why_not_healthy(f);
    s->live = f->n_stuck == 0;
    s->ready = not_ready == NULL;
    s->healthy = not_healthy == NULL;
    s->reason = s->healthy ? "ok" : not_healthy;
}

static void add_up(struct figures *f)
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

static void read_all(const struct mm_metrics *m, const struct mm_spool *spool, struct figures *f)
{
    memset(f, 0, sizeof *f);
    memcpy(f->n, m->base, sizeof f->n);
    uint64_t now_ns = mm_clock_monotonic_ns();
    for (uint32_t k = 0; k < m->n_workers; k++) {
        read_worker(&m->worker[k], f);
        judge_worker(m, &m->worker[k], now_ns, f);
    }
    for (uint32_t i = 0; i < N_LANES; i++) {
        const struct lane *lane = get_lane(m, i);
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
    struct figures f;
    read_all(m, spool, &f);
    *out = f.sums;
}

/* --- over a restart -----------------------------------------------------------------------------
 */

/* All counters, base included. */
static void collect(const struct mm_metrics *m, uint64_t n[MM_LAYOUT_COUNTERS])
{
    memcpy(n, m->base, sizeof m->base);
    for (uint32_t k = 0; k < m->n_workers; k++) {
        add_worker(n, &m->worker[k]);
    }
    for (uint32_t i = 0; i < N_LANES; i++) {
        const struct lane *lane = get_lane(m, i);
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
    for (uint32_t i = 0; i < N_LANES; i++) {
        const struct lane *lane = get_lane(m, i);
        spooled += lane == NULL ? 0 : count_lane(lane);
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

/* --- the page -----------------------------------------------------------------------------------
 *
 * The format: prometheus.io/docs/instrumenting/exposition_formats, text format 0.0.4. */

struct page
{
    FILE *out;
    const char *name; /* of the family whose samples are being written */
};

static void family(struct page *p, const char *name, const char *type, const char *help)
{
    p->name = name;
    fprintf(p->out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void label_value(FILE *out, const char *value)
{
    for (; *value != '\0'; value++) {
        if (*value == '\n') {
            fputs("\\n", out);
            continue;
        }
        if (*value == '\\' || *value == '"') {
            fputc('\\', out);
        }
        fputc(*value, out);
    }
}

static void sample(struct page *p, uint64_t value)
{
    fprintf(p->out, "%s %" PRIu64 "\n", p->name, value);
}

/* One sample for each of n values of a label. */
static void samples(struct page *p,
                    const char *label,
                    const char *const *names,
                    const uint64_t *values,
                    size_t n)
{
    for (size_t i = 0; i < n; i++) {
        fprintf(p->out, "%s{%s=\"%s\"} %" PRIu64 "\n", p->name, label, names[i], values[i]);
    }
}

static void counter(struct page *p, const char *name, const char *help, uint64_t value)
{
    family(p, name, "counter", help);
    sample(p, value);
}

static void gauge(struct page *p, const char *name, const char *help, uint64_t value)
{
    family(p, name, "gauge", help);
    sample(p, value);
}

/* A time in ms since the epoch, shown in seconds. */
static void gauge_time(struct page *p, const char *name, const char *help, uint64_t ms)
{
    family(p, name, "gauge", help);
    fprintf(p->out, "%s %" PRIu64 ".%03u\n", name, ms / 1000, (unsigned int)(ms % 1000));
}

/* A duration in ns, shown in seconds. */
static void gauge_seconds(struct page *p, const char *name, const char *help, uint64_t ns)
{
    family(p, name, "gauge", help);
    fprintf(p->out, "%s %" PRIu64 ".%09u\n", name, ns / 1000000000,
            (unsigned int)(ns % 1000000000));
}

static void histogram(struct page *p,
                      const char *name,
                      const char *help,
                      const struct bounds *bounds,
                      const struct durations *d)
{
    family(p, name, "histogram", help);
    uint64_t n = 0;
    for (size_t i = 0; i < bounds->n; i++) {
        n += d->count[i];
        fprintf(p->out, "%s_bucket{le=\"%s\"} %" PRIu64 "\n", name, bounds->bound[i].le, n);
    }
    n += d->count[MM_HISTOGRAM_MAX];
    fprintf(p->out, "%s_bucket{le=\"+Inf\"} %" PRIu64 "\n", name, n);
    fprintf(p->out, "%s_sum %" PRIu64 ".%09u\n", name, d->sum_ns / 1000000000,
            (unsigned int)(d->sum_ns % 1000000000));
    fprintf(p->out, "%s_count %" PRIu64 "\n", name, n);
}

static void page_messages(struct page *p, const struct figures *f)
{
    static const char *const qos_names[] = {"0", "1", "2"};
    family(p, "metamorphosis_messages_received_total", "counter",
           "MQTT messages that passed the filter.");
    samples(p, "qos", qos_names, &f->n[MM_SLOT_RECEIVED], 3);
    counter(p, "metamorphosis_received_bytes_total", "Payload bytes of the messages received.",
            f->n[MM_SLOT_RECEIVED_BYTES]);
    counter(p, "metamorphosis_messages_spooled_total", "Messages written to the spool.",
            f->n[MM_SLOT_SPOOLED]);
    counter(p, "metamorphosis_messages_delivered_total", "Messages that Kafka has acknowledged.",
            f->sums.delivered);
    counter(p, "metamorphosis_delivered_bytes_total", "Bytes of the Kafka values delivered.",
            f->n[MM_SLOT_DELIVERED_BYTES]);

    family(p, "metamorphosis_messages_refused_total", "counter",
           "Messages that were not stored and not acknowledged to their publisher.");
    samples(p, "reason", refused_names, &f->n[MM_SLOT_REFUSED], MM_N_REFUSED);
    family(p, "metamorphosis_messages_dropped_total", "counter",
           "Messages that were acknowledged, or had QoS 0, and were let go.");
    samples(p, "reason", dropped_names, &f->n[MM_SLOT_DROPPED], MM_N_DROPPED);
    family(p, "metamorphosis_messages_dead_lettered_total", "counter",
           "Messages that Kafka refused even when they were sent alone.");
    samples(p, "reason", dead_names, &f->n[MM_SLOT_DEAD], MM_N_DEAD);

    counter(p, "metamorphosis_dead_letters_evicted_total",
            "Dead letters that were given up for newer ones, or kept without their payload.",
            f->dead_evicted);
    counter(p, "metamorphosis_dead_letter_copies_total",
            "Copies of dead letters that Kafka has acknowledged.", f->n[MM_SLOT_DEAD_COPIES]);
    counter(p, "metamorphosis_dead_letter_copies_failed_total",
            "Copies of dead letters that Kafka, or its client, has refused.",
            f->n[MM_SLOT_DEAD_COPIES_FAILED]);
    counter(p, "metamorphosis_messages_retried_total",
            "Messages handed to the Kafka client once more.", f->n[MM_SLOT_RETRIED]);
    counter(p, "metamorphosis_messages_maybe_duplicated_total",
            "Of the messages retried, those that Kafka may have stored the first time.",
            f->n[MM_SLOT_MAYBE_DUPLICATED]);
    counter(p, "metamorphosis_messages_repeated_total",
            "Messages finished once more after a restart; not counted as delivered again.",
            f->n[MM_SLOT_REPEATED]);
    counter(p, "metamorphosis_messages_parked_total",
            "Messages laid aside because their Kafka topic is parked.", f->n[MM_SLOT_PARKED]);
    counter(p, "metamorphosis_kafka_errors_total",
            "Failed deliveries and lost connections to Kafka.", f->n[MM_SLOT_KAFKA_ERRORS]);
    counter(p, "metamorphosis_producer_restarts_total",
            "Kafka producers made anew after a fatal error.", f->n[MM_SLOT_PRODUCER_RESTARTS]);
    counter(p, "metamorphosis_test_messages_total", "Test messages that Kafka has acknowledged.",
            f->n[MM_SLOT_TEST_MESSAGES]);
}

static void page_spool(struct page *p, const struct figures *f)
{
    const struct mm_spool_stats *s = &f->sums.spool;
    gauge(p, "metamorphosis_spool_messages", "Messages stored and not finished.", f->sums.in_spool);
    gauge(p, "metamorphosis_spool_bytes", "Bytes of the records in the spool.", s->used_bytes);
    gauge(p, "metamorphosis_spool_limit_bytes", "Bytes that the spool may take.", s->limit_bytes);
    gauge(p, "metamorphosis_spool_allocated_bytes",
          "Bytes that the spool takes, prepared segments included.", s->allocated_bytes);
    gauge(p, "metamorphosis_spool_segments", "Segments of the spool in use.", s->n_segments);
    counter(p, "metamorphosis_spool_segments_unprepared_total",
            "Segments that the broker had to make itself because none was ready.", s->n_unprepared);
    counter(p, "metamorphosis_spool_wakeups_total",
            "Times that a message woke sleeping workers; about one an idle period.", s->n_wakes);
    gauge(p, "metamorphosis_spool_full", "1 while the spool takes nothing more.", s->full);
    gauge_time(p, "metamorphosis_spool_oldest_message_timestamp_seconds",
               "Time of receipt of the oldest message not finished; 0: none.", f->sums.oldest_ms);
}

static void page_disk(struct page *p, const struct figures *f)
{
    const struct mm_spool_stats *s = &f->sums.spool;
    gauge(p, "metamorphosis_spool_on_disk", "1 if the spool is on disk, 0 if it is in memory.",
          s->on_disk);
    gauge(p, "metamorphosis_spool_degraded",
          "1 while the disk does not sync what is written: a power failure would lose it.",
          s->degraded);
    gauge(p, "metamorphosis_spool_low_space", "1 while the file system has little space left.",
          s->low_space);
    gauge(p, "metamorphosis_spool_free_bytes",
          "Space of the file system that the spool may still take.", s->free_bytes);
    gauge(p, "metamorphosis_spool_unsynced_bytes",
          "Bytes written and not synced: a power failure would lose them.", s->unsynced_bytes);
    counter(p, "metamorphosis_spool_syncs_total", "Syncs that succeeded.", s->n_synced);
    gauge_time(p, "metamorphosis_spool_last_sync_timestamp_seconds",
               "Time of the last sync that succeeded; 0: none yet.", s->synced_ms);
    gauge_seconds(p, "metamorphosis_spool_sync_duration_max_seconds",
                  "The longest sync since the start.", s->sync_max_ns);
    counter(p, "metamorphosis_spool_io_errors_total", "Operations on the disk that failed.",
            s->n_io_errors);
    gauge(p, "metamorphosis_spool_bad_files", "Damaged files set aside in bad/.", s->n_bad_files);
}

static void page_parked(struct page *p, const struct mm_metrics *m, const struct figures *f)
{
    gauge(p, "metamorphosis_parked_topics", "Kafka topics that are parked.", f->n_parked_lanes);
    gauge(p, "metamorphosis_parked_messages", "Messages in the spool whose Kafka topic is parked.",
          f->sums.parked);
    gauge(p, "metamorphosis_parked_bytes", "Bytes of their records.", f->parked_bytes);
    gauge_time(p, "metamorphosis_parked_retry_timestamp_seconds",
               "Time of the next attempt at a parked Kafka topic; 0: none.", f->parked_retry_ms);
    family(p, "metamorphosis_parked_topic_messages", "gauge",
           "The same by Kafka topic, while it is parked.");
    for (uint32_t i = 0; i < N_LANES; i++) {
        const struct lane *lane = get_lane(m, i);
        uint64_t n = lane == NULL ? 0 : count_lane(lane);
        char name[MM_LANES_NAME_LEN] = "by earlier routes";
        if (n > 0 && i != MM_METRICS_LANE_OLD) {
            mm_lanes_copy_name(m->names, i, name);
        }
        if (n > 0) {
            fprintf(p->out, "%s{kafka_topic=\"", p->name);
            label_value(p->out, name);
            fprintf(p->out, "\"} %" PRIu64 "\n", n);
        }
    }
}

/* One sample for each worker, of the gauge or counter that lies offset bytes into its block. */
static void each_worker(struct page *p, const struct mm_metrics *m, size_t offset)
{
    for (uint32_t k = 0; k < m->n_workers; k++) {
        const char *block = (const char *)&m->worker[k];
        uint64_t value = mm_counter_get((const _Atomic uint64_t *)(const void *)(block + offset));
        fprintf(p->out, "%s{worker=\"%" PRIu32 "\"} %" PRIu64 "\n", p->name, k, value);
    }
}

static void page_worker_states(struct page *p, const struct mm_metrics *m)
{
    family(p, "metamorphosis_worker_state", "gauge", "1 for the state that the worker is in.");
    for (uint32_t k = 0; k < m->n_workers; k++) {
        uint64_t state = mm_counter_get(&m->worker[k].state);
        for (size_t i = 0; i < MM_N_WORKER_STATES; i++) {
            fprintf(p->out, "%s{worker=\"%" PRIu32 "\",state=\"%s\"} %d\n", p->name, k,
                    state_names[i], state == i ? 1 : 0);
        }
    }
}

static void page_workers(struct page *p, const struct mm_metrics *m, const struct figures *f)
{
    family(p, "metamorphosis_kafka_up", "gauge", "1 while the worker reaches Kafka.");
    each_worker(p, m, offsetof(struct mm_metrics_worker, kafka_up));
    family(p, "metamorphosis_kafka_in_flight_messages", "gauge",
           "Messages in the worker's Kafka client.");
    each_worker(p, m, offsetof(struct mm_metrics_worker, in_flight));
    gauge_time(p, "metamorphosis_kafka_last_delivery_timestamp_seconds",
               "Time of the last delivery; 0: none yet.", f->last_delivery_ms);
    page_worker_states(p, m);
    family(p, "metamorphosis_worker_delivered_total", "counter",
           "Messages that the worker has delivered.");
    each_worker(p, m, offsetof(struct mm_metrics_worker, delivered));
    family(p, "metamorphosis_worker_retry_timestamp_seconds", "gauge",
           "Time of the next attempt at what the worker has parked; 0: nothing is parked.");
    for (uint32_t k = 0; k < m->n_workers; k++) {
        uint64_t ms = mm_counter_get(&m->worker[k].retry_at_ms);
        fprintf(p->out, "%s{worker=\"%" PRIu32 "\"} %" PRIu64 ".%03u\n", p->name, k, ms / 1000,
                (unsigned int)(ms % 1000));
    }
}

static void page_durations(struct page *p, const struct figures *f)
{
    histogram(p, "metamorphosis_delivery_latency_seconds",
              "Time from the receipt of a message to Kafka's acknowledgement.", &latency_bounds,
              &f->latency);
    histogram(p, "metamorphosis_callback_duration_seconds",
              "Time that the broker spends in the plugin for a message; one in 64 is timed.",
              &callback_bounds, &f->callback);
}

static void page_state(struct page *p, const struct mm_metrics *m, const struct figures *f)
{
    family(p, "metamorphosis_ledger_difference", "gauge",
           "Messages received less those delivered, dead-lettered, refused, dropped and in the "
           "spool; 0 whenever nothing moves.");
    fprintf(p->out, "%s %" PRId64 "\n", p->name, f->sums.ledger_difference);
    gauge(p, "metamorphosis_live", "1 while all worker threads move.", f->sums.live);
    gauge(p, "metamorphosis_ready", "1 while messages can be stored.", f->sums.ready);
    gauge(p, "metamorphosis_healthy", "1 while messages can be stored and Kafka is reached.",
          f->sums.healthy);
    gauge_time(p, "metamorphosis_start_time_seconds", "Time of the plugin's start.", m->started_ms);
    family(p, "metamorphosis_build_info", "gauge", "The versions at work; always 1.");
    fprintf(p->out, "%s{version=\"", p->name);
    label_value(p->out, m->version);
    fputs("\",librdkafka=\"", p->out);
    label_value(p->out, m->librdkafka);
    fputs("\",mosquitto=\"", p->out);
    label_value(p->out, m->mosquitto);
    fputs("\"} 1\n", p->out);
}

/* The names, types and help texts of the Go program, so that its dashboards go on. */
static void page_go_program(struct page *p, const struct figures *f)
{
    counter(p, "mqtt_received", "Number of received MQTT messages", f->n[MM_SLOT_SPOOLED]);
    counter(p, "mqtt_errors", "Number of erroneous MQTT messages",
            f->sums.refused + f->sums.dropped);
    counter(p, "kafka_sent", "Number of sent Kafka messages",
            f->sums.delivered + f->n[MM_SLOT_TEST_MESSAGES]);
    counter(p, "kafka_errors", "No of errors encountered with Kafka", f->n[MM_SLOT_KAFKA_ERRORS]);
    gauge(p, "kafka_state", "Kafka status (0 is OK)", f->n_down > 0 ? 1 : 0);
}

int mm_metrics_text(const struct mm_metrics *m, struct mm_spool *spool, char **text, size_t *len)
{
    struct figures f;
    read_all(m, spool, &f);
    *text = NULL;
    *len = 0;
    struct page page = {.out = open_memstream(text, len)};
    if (page.out == NULL) {
        return MM_ENOMEM;
    }
    page_messages(&page, &f);
    page_spool(&page, &f);
    page_disk(&page, &f);
    page_parked(&page, m, &f);
    page_workers(&page, m, &f);
    page_durations(&page, &f);
    page_state(&page, m, &f);
    page_go_program(&page, &f);
    bool failed = ferror(page.out) != 0;
    if (fclose(page.out) != 0 || failed || *text == NULL) {
        free(*text);
        *text = NULL;
        *len = 0;
        return MM_ENOMEM;
    }
    /* What a reader has seen must not be taken back by a restart. */
    mm_spool_checkpoint(spool);
    return 0;
}
