/* One scrape reads everything once, in an order that makes the ledger exact whenever nothing moves:
 * first the workers, then the spool, then the broker's block. While messages flow each counter is
 * right, but they are of slightly different moments and the difference may be off by what passed in
 * between; it never stays off. */
#include "mm_metrics.h"

#include "mm_error.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* A loop turns several times a second, and no wait in it is longer than 10 s. */
#define LIVE_NS (30 * UINT64_C(1000000000))

struct mm_metrics
{
    /* immutable */
    char *version;
    char *librdkafka;
    char *mosquitto;
    uint32_t n_workers;
    uint64_t started_ms; /* since the epoch */
    uint64_t started_ns; /* CLOCK_MONOTONIC */

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

static const char *const state_names[] = {
#define MM_X(name, text) text,
    MM_WORKER_STATES(MM_X)
#undef MM_X
};

/* --- setup --------------------------------------------------------------------------------------
 */

static uint64_t clock_ns(clockid_t id)
{
    struct timespec ts;
    clock_gettime(id, &ts);
    return (uint64_t)ts.tv_sec * UINT64_C(1000000000) + (uint64_t)ts.tv_nsec;
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
    m->started_ms = clock_ns(CLOCK_REALTIME) / 1000000;
    m->started_ns = clock_ns(CLOCK_MONOTONIC);
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
    uint64_t received[3];
    uint64_t received_bytes;
    uint64_t spooled;
    uint64_t refused[MM_N_REFUSED];
    uint64_t dropped[MM_N_DROPPED];
    uint64_t dropped_oldest;
    uint64_t dead[MM_N_DEAD];
    uint64_t delivered_bytes;
    uint64_t retried;
    uint64_t dead_evicted;
    uint64_t maybe_duplicated;
    uint64_t kafka_errors;
    uint64_t producer_restarts;
    uint64_t test_messages;
    uint64_t last_delivery_ms;
    struct durations callback;
    struct durations latency;

    uint64_t n_down;     /* workers that do not reach Kafka */
    uint64_t n_never_up; /* of those, that never did */
    uint64_t n_parked;
    uint64_t n_stuck; /* workers whose loop has not turned for LIVE_NS */
};

/* Add n counters to sums; the sum of what was added. */
static uint64_t add_counters(uint64_t *sums, const _Atomic uint64_t *counters, size_t n)
{
    uint64_t added = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t value = mm_counter_get(&counters[i]);
        sums[i] += value;
        added += value;
    }
    return added;
}

static void add_durations(struct durations *sums, const struct mm_histogram *h)
{
    add_counters(sums->count, h->count, MM_HISTOGRAM_MAX + 1);
    sums->sum_ns += mm_counter_get(&h->sum_ns);
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

static void read_worker(const struct mm_metrics_worker *w, struct figures *f)
{
    f->sums.delivered += mm_counter_get(&w->delivered);
    f->sums.dead_lettered += add_counters(f->dead, w->dead_lettered, MM_N_DEAD);
    f->dropped_oldest += mm_counter_get(&w->dropped_oldest);
    f->delivered_bytes += mm_counter_get(&w->delivered_bytes);
    f->retried += mm_counter_get(&w->retried);
    uint64_t dead_evicted = mm_counter_get(&w->dead_evicted);
    f->dead_evicted = dead_evicted > f->dead_evicted ? dead_evicted : f->dead_evicted;
    f->maybe_duplicated += mm_counter_get(&w->maybe_duplicated);
    f->kafka_errors += mm_counter_get(&w->kafka_errors);
    f->producer_restarts += mm_counter_get(&w->producer_restarts);
    f->test_messages += mm_counter_get(&w->test_messages);
    add_durations(&f->latency, &w->latency);

    uint64_t last = mm_counter_get(&w->last_delivery_ms);
    if (last > f->last_delivery_ms) {
        f->last_delivery_ms = last;
    }
    uint64_t oldest = mm_counter_get(&w->oldest_ms);
    if (oldest != 0 && (f->sums.oldest_ms == 0 || oldest < f->sums.oldest_ms)) {
        f->sums.oldest_ms = oldest;
    }
}

/* Messages in the log or in a worker's hands. */
static uint64_t count_in_spool(const struct mm_metrics *m, const struct mm_spool *spool)
{
    int64_t n = 0;
    for (uint32_t k = 0; k < m->n_workers; k++) {
        const struct mm_metrics_worker *w = &m->worker[k];
        n += (int64_t)mm_counter_get(&w->held) - (int64_t)mm_counter_get(&w->taken);
    }
    for (uint32_t k = 0; k < m->n_workers; k++) {
        n += (int64_t)mm_spool_appended(spool, k);
    }
    return n > 0 ? (uint64_t)n : 0;
}

static void read_broker(const struct mm_metrics_broker *b, struct figures *f)
{
    f->sums.refused = add_counters(f->refused, b->refused, MM_N_REFUSED);
    f->sums.dropped = add_counters(f->dropped, b->dropped, MM_N_DROPPED) + f->dropped_oldest;
    f->spooled = mm_counter_get(&b->spooled);
    f->received_bytes = mm_counter_get(&b->received_bytes);
    f->sums.received = add_counters(f->received, b->received, 3);
    add_durations(&f->callback, &b->callback);
}

/* What is wrong, the nearest to a loss of messages first; "ok" when nothing is. What /readyz may
 * have to tell comes before all else. */
static const char *reason_of(const struct figures *f)
{
    if (f->sums.spool.full) {
        return "the spool is full";
    }
    if (!f->sums.ready) {
        return "the spool is more than 90 % used";
    }
    if (!f->sums.live) {
        return "a worker thread does not move";
    }
    if (f->n_down > f->n_never_up) {
        return "Kafka is not reached";
    }
    if (f->n_down > 0) {
        return "Kafka has not been reached yet";
    }
    if (f->n_parked > 0) {
        return "a Kafka topic is parked";
    }
    return "ok";
}

static void read_all(const struct mm_metrics *m, const struct mm_spool *spool, struct figures *f)
{
    memset(f, 0, sizeof *f);
    uint64_t now_ns = clock_ns(CLOCK_MONOTONIC);
    for (uint32_t k = 0; k < m->n_workers; k++) {
        read_worker(&m->worker[k], f);
        judge_worker(m, &m->worker[k], now_ns, f);
    }
    struct mm_snapshot *s = &f->sums;
    s->in_spool = count_in_spool(m, spool);
    mm_spool_stats(spool, &s->spool);
    read_broker(&m->broker, f);

    s->ledger_difference = (int64_t)(s->received - s->delivered - s->dead_lettered - s->refused -
                                     s->dropped - s->in_spool);
    s->live = f->n_stuck == 0;
    s->ready =
        !s->spool.full && (s->spool.drop_oldest ||
                           s->spool.used_bytes < s->spool.limit_bytes - s->spool.limit_bytes / 10);
    s->healthy = s->ready && s->live && f->n_down == 0 && f->n_parked == 0;
    s->reason = reason_of(f);
}

void mm_metrics_snapshot(const struct mm_metrics *m,
                         const struct mm_spool *spool,
                         struct mm_snapshot *out)
{
    struct figures f;
    read_all(m, spool, &f);
    *out = f.sums;
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
    samples(p, "qos", qos_names, f->received, 3);
    counter(p, "metamorphosis_received_bytes_total", "Payload bytes of the messages received.",
            f->received_bytes);
    counter(p, "metamorphosis_messages_spooled_total", "Messages written to the spool.",
            f->spooled);
    counter(p, "metamorphosis_messages_delivered_total", "Messages that Kafka has acknowledged.",
            f->sums.delivered);
    counter(p, "metamorphosis_delivered_bytes_total", "Bytes of the Kafka values delivered.",
            f->delivered_bytes);

    family(p, "metamorphosis_messages_refused_total", "counter",
           "Messages that were not stored and not acknowledged to their publisher.");
    samples(p, "reason", refused_names, f->refused, MM_N_REFUSED);
    family(p, "metamorphosis_messages_dropped_total", "counter",
           "Messages that were acknowledged, or had QoS 0, and were let go.");
    samples(p, "reason", dropped_names, f->dropped, MM_N_DROPPED);
    fprintf(p->out, "%s{reason=\"drop_oldest\"} %" PRIu64 "\n", p->name, f->dropped_oldest);
    family(p, "metamorphosis_messages_dead_lettered_total", "counter",
           "Messages that Kafka refused even when they were sent alone.");
    samples(p, "reason", dead_names, f->dead, MM_N_DEAD);

    counter(p, "metamorphosis_dead_letters_evicted_total",
            "Dead letters that were given up for newer ones, or kept without their payload.",
            f->dead_evicted);
    counter(p, "metamorphosis_messages_retried_total",
            "Messages handed to the Kafka client once more.", f->retried);
    counter(p, "metamorphosis_messages_maybe_duplicated_total",
            "Of the messages retried, those that Kafka may have stored the first time.",
            f->maybe_duplicated);
    counter(p, "metamorphosis_kafka_errors_total",
            "Failed deliveries and lost connections to Kafka.", f->kafka_errors);
    counter(p, "metamorphosis_producer_restarts_total",
            "Kafka producers made anew after a fatal error.", f->producer_restarts);
    counter(p, "metamorphosis_test_messages_total", "Test messages that Kafka has acknowledged.",
            f->test_messages);
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
    counter(p, "mqtt_received", "Number of received MQTT messages", f->spooled);
    counter(p, "mqtt_errors", "Number of erroneous MQTT messages",
            f->sums.refused + f->sums.dropped);
    counter(p, "kafka_sent", "Number of sent Kafka messages", f->sums.delivered + f->test_messages);
    counter(p, "kafka_errors", "No of errors encountered with Kafka", f->kafka_errors);
    gauge(p, "kafka_state", "Kafka status (0 is OK)", f->n_down > 0 ? 1 : 0);
}

int mm_metrics_text(const struct mm_metrics *m,
                    const struct mm_spool *spool,
                    char **text,
                    size_t *len)
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
    return 0;
}
