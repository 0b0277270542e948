#include "mm_dead_topic.h"

#include "mm_clock.h"
#include "mm_config.h"
#include "mm_contact.h"
#include "mm_dead.h"
#include "mm_error.h"
#include "mm_kafka.h"
#include "mm_log.h"
#include "mm_message.h"
#include "mm_metrics.h"
#include "mm_record.h"
#include "mm_route.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define LINE_INTERVAL_NS (60 * UINT64_C(1000000000))

/* A producer that could not be made, or has failed, is followed by another this long after. */
#define MAKE_AGAIN_NS (5 * UINT64_C(1000000000))

#define FLUSH_POLL_MS 10

struct mm_dead_topic
{
    struct mm_dead_topic_options opts;
    struct mm_message *message;     /* scratch */
    struct mm_kafka *kafka;         /* loose; NULL: not needed yet, or failed */
    uint64_t make_ns;               /* CLOCK_MONOTONIC; not before */
    struct mm_log_limit limit;      /* of copies */
    struct mm_log_limit fail_limit; /* of producers */
    struct mm_contact_told told;    /* lent to the producer */
};

int mm_dead_topic_new(const struct mm_dead_topic_options *opts, struct mm_dead_topic **out)
{
    struct mm_dead_topic *t = calloc(1, sizeof *t);
    *out = NULL;
    if (t == NULL || mm_message_new(&t->message) != 0) {
        free(t);
        return MM_ENOMEM;
    }
    t->opts = *opts;
    *out = t;
    return 0;
}

/* --- how a copy ends ----------------------------------------------------------------------------
 */

static void count_failure(struct mm_dead_topic *t, const char *error, const char *reason)
{
    uint64_t n_held = 0;
    mm_counter_add(&t->opts.metrics->dead_copies_failed, 1);
    if (mm_log_allowed(&t->limit, mm_clock_monotonic_ns(), LINE_INTERVAL_NS, &n_held)) {
        mm_log_write(t->opts.log, MM_LOG_WARN,
                     "the copy of a dead letter for Kafka topic %s (dead_letter_topic) failed: %s "
                     "(%s); it is not tried again; %" PRIu64 " more since the last such line",
                     t->opts.config->dead_letter_topic, error, reason, n_held);
    }
}

/* Called by mm_kafka_poll() and mm_kafka_close(). */
static void on_report(void *arg, const struct mm_kafka_report *r)
{
    struct mm_dead_topic *t = arg;
    if (r->class == MM_KAFKA_DELIVERED) {
        mm_counter_add(&t->opts.metrics->dead_copies, 1);
    } else {
        count_failure(t, r->error, r->reason);
    }
}

/* --- the producer -------------------------------------------------------------------------------
 */

static void log_failure(struct mm_dead_topic *t, const char *error, const char *reason)
{
    uint64_t n_held = 0;
    if (mm_log_allowed(&t->fail_limit, mm_clock_monotonic_ns(), LINE_INTERVAL_NS, &n_held)) {
        mm_log_write(t->opts.log, MM_LOG_WARN,
                     "the Kafka producer for dead_letter_topic failed (%s: %s); the next one is "
                     "made for a dead letter %u s later or more",
                     error, reason, (unsigned)(MAKE_AGAIN_NS / 1000000000));
    }
}

/* Have a producer. False: not now. */
static bool ensure_producer(struct mm_dead_topic *t)
{
    uint64_t now_ns = mm_clock_monotonic_ns();
    if (t->kafka != NULL || now_ns < t->make_ns) {
        return t->kafka != NULL;
    }
    struct mm_kafka_options opts = {
        .config = t->opts.config,
        .single = true, /* so that one which is refused takes no other along */
        .loose = true,
        .quiet = true,
        .on_report = on_report,
        .arg = t,
        .log = t->opts.log,
        .gate = t->opts.gate,
        .told = &t->told,
    };
    char errstr[256];
    if (mm_kafka_new(&opts, &t->kafka, errstr, sizeof errstr) != 0) {
        t->make_ns = now_ns + MAKE_AGAIN_NS;
        log_failure(t, "not made", errstr);
        return false;
    }
    return true;
}

void mm_dead_topic_poll(struct mm_dead_topic *t)
{
    if (t == NULL || t->kafka == NULL) {
        return;
    }
    mm_kafka_poll(t->kafka, 0);
    const char *error;
    const char *reason;
    bool strict;
    if (mm_kafka_failed(t->kafka, &error, &reason, &strict)) {
        t->make_ns = mm_clock_monotonic_ns() + MAKE_AGAIN_NS;
        log_failure(t, error, reason);
        mm_kafka_close(t->kafka, 0);
        t->kafka = NULL;
    }
}

void mm_dead_topic_close(struct mm_dead_topic *t, uint32_t wait_ms)
{
    if (t == NULL) {
        return;
    }
    /* mm_kafka_close() would first forget what was not sent yet. */
    uint64_t end_ns = mm_clock_monotonic_ns() + wait_ms * UINT64_C(1000000);
    mm_dead_topic_poll(t);
    while (t->kafka != NULL && mm_kafka_n_out(t->kafka) > 0 && mm_clock_monotonic_ns() < end_ns) {
        mm_kafka_poll(t->kafka, FLUSH_POLL_MS);
    }
    mm_kafka_close(t->kafka, 0);
    mm_message_free(t->message);
    free(t);
}

/* --- sending ------------------------------------------------------------------------------------
 */

static struct mm_kafka_header header(const char *name, const char *text)
{
    return (struct mm_kafka_header){.name = name, .value = text, .value_len = strlen(text)};
}

/* Hand the copy to the producer. */
static void produce(struct mm_dead_topic *t, const struct mm_dead_letter *letter)
{
    const struct mm_config *config = t->opts.config;
    const struct mm_kafka_header extra[] = {
        header("mm-error", letter->error),
        header("mm-reason", letter->reason),
        header("mm-kafka-topic", letter->kafka_topic),
    };
    struct mm_record rec = {
        .time_ms = letter->time_ms,
        .flags = letter->flags,
        .type = MM_RECORD_MESSAGE,
        .topic_len = (uint16_t)letter->topic_len,
        .payload_len = (uint32_t)letter->payload_len,
        .props_len = letter->props_len,
        .topic = letter->topic,
        .payload = letter->payload,
        .props = letter->props,
    };
    struct mm_message_source source = {
        .rec = &rec,
        .id = letter->id,
        .id_len = strlen(letter->id),
        .now_ms = letter->died_ms,
        .extra = extra,
        .n_extra = sizeof extra / sizeof extra[0],
    };
    struct mm_kafka_message m;
    if (mm_message_make(t->message, config, mm_route_find(config, rec.topic, rec.topic_len),
                        &source, &m) != 0) {
        count_failure(t, "no copy", mm_strerror(MM_ENOMEM));
        return;
    }
    m.topic = config->dead_letter_topic;
    struct mm_kafka_report report = {.error = "QUEUE_FULL",
                                     .reason = "too many copies are on their way"};
    if (mm_kafka_produce(t->kafka, &m, &report) != 0) {
        count_failure(t, report.error, report.reason);
    }
}

void mm_dead_topic_send(struct mm_dead_topic *t, const struct mm_dead_letter *letter)
{
    if (t == NULL || letter->lost) {
        return;
    }
    mm_dead_topic_poll(t); /* reports make room */
    if (!ensure_producer(t)) {
        count_failure(t, "no producer", "it has failed before");
        return;
    }
    if (letter->payload_len > mm_kafka_max_message(t->kafka)) {
        /* Not worth the making: the client would refuse it. */
        count_failure(t, "MSG_SIZE_TOO_LARGE", "larger than max_message_bytes");
        return;
    }
    produce(t, letter);
}
