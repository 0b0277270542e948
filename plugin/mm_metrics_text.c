/* The format: prometheus.io/docs/instrumenting/exposition_formats, text format 0.0.4. */
#include "mm_error.h"
#include "mm_lanes.h"
#include "mm_metrics.h"
#include "mm_metrics_impl.h"
#include "mm_spool.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

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
                      const struct mm_bounds *bounds,
                      const struct mm_durations *d)
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

static void page_messages(struct page *p, const struct mm_figures *f)
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
    samples(p, "reason", mm_refused_names, &f->n[MM_SLOT_REFUSED], MM_N_REFUSED);
    family(p, "metamorphosis_messages_dropped_total", "counter",
           "Messages that were acknowledged, or had QoS 0, and were let go.");
    samples(p, "reason", mm_dropped_names, &f->n[MM_SLOT_DROPPED], MM_N_DROPPED);
    family(p, "metamorphosis_messages_dead_lettered_total", "counter",
           "Messages that Kafka refused even when they were sent alone.");
    samples(p, "reason", mm_dead_names, &f->n[MM_SLOT_DEAD], MM_N_DEAD);

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

static void page_spool(struct page *p, const struct mm_figures *f)
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

static void page_disk(struct page *p, const struct mm_figures *f)
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

static void page_parked(struct page *p, const struct mm_metrics *m, const struct mm_figures *f)
{
    gauge(p, "metamorphosis_parked_topics", "Kafka topics that are parked.", f->n_parked_lanes);
    gauge(p, "metamorphosis_parked_messages", "Messages in the spool whose Kafka topic is parked.",
          f->sums.parked);
    gauge(p, "metamorphosis_parked_bytes", "Bytes of their records.", f->parked_bytes);
    gauge_time(p, "metamorphosis_parked_retry_timestamp_seconds",
               "Time of the next attempt at a parked Kafka topic; 0: none.", f->parked_retry_ms);
    family(p, "metamorphosis_parked_topic_messages", "gauge",
           "The same by Kafka topic, while it is parked.");
    for (uint32_t i = 0; i < MM_METRICS_N_LANES; i++) {
        const struct mm_metrics_lane *lane = mm_metrics_lane(m, i);
        uint64_t n = lane == NULL ? 0 : mm_metrics_count_lane(lane);
        if (n > 0) {
            char name[MM_LANES_NAME_LEN];
            mm_metrics_topic_name(m, i, name);
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
                    mm_worker_state_names[i], state == i ? 1 : 0);
        }
    }
}

static void page_workers(struct page *p, const struct mm_metrics *m, const struct mm_figures *f)
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

static void page_durations(struct page *p, const struct mm_figures *f)
{
    histogram(p, "metamorphosis_delivery_latency_seconds",
              "Time from the receipt of a message to Kafka's acknowledgement.", &mm_latency_bounds,
              &f->latency);
    histogram(p, "metamorphosis_callback_duration_seconds",
              "Time that the broker spends in the plugin for a message; one in 64 is timed.",
              &mm_callback_bounds, &f->callback);
}

static void page_state(struct page *p, const struct mm_metrics *m, const struct mm_figures *f)
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

static void page_live(struct page *p, const struct mm_metrics_live *live)
{
    static const char *const names[] = {
#define MM_X(name, text) text,
        MM_RELOADS(MM_X)
#undef MM_X
    };
    uint64_t n[MM_N_RELOADS];
    for (size_t i = 0; i < MM_N_RELOADS; i++) {
        n[i] = mm_counter_get(&live->reloads[i]);
    }
    family(p, "metamorphosis_config_reloads_total", "counter",
           "Changes of the settings since the start, by how they ended.");
    samples(p, "result", names, n, MM_N_RELOADS);
    gauge(p, "metamorphosis_config_last_reload_successful",
          "0 while the last change of the settings has failed: those of before are in use.",
          mm_counter_get(&live->failed) == 0);
    gauge_time(p, "metamorphosis_config_last_reload_success_timestamp_seconds",
               "Time of the last change of the settings that succeeded; 0: none yet.",
               mm_counter_get(&live->success_ms));
    gauge(p, "metamorphosis_config_file_changed",
          "1 while config_file is another than the one in use.",
          mm_counter_get(&live->file_changed));
    gauge(p, "metamorphosis_config_restart_needed",
          "Options of config_file that count only from the broker's next start on.",
          mm_counter_get(&live->restart_needed));
    gauge_time(p, "metamorphosis_kafka_tls_certificate_expiry_timestamp_seconds",
               "Time at which our certificate for Kafka expires; 0: there is none.",
               mm_counter_get(&live->cert_end_ms));
}

/* The names, types and help texts of the Go program, so that its dashboards go on. */
static void page_go_program(struct page *p, const struct mm_figures *f)
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
    struct mm_figures f;
    mm_metrics_read(m, spool, &f);
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
    page_live(&page, &m->live);
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
