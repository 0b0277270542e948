/* docs/status.md describes what is written here. Times are seconds since the epoch, and null where
 * there is none. */
#include "mm_error.h"
#include "mm_json.h"
#include "mm_status.h"
#include "mm_status_impl.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* More would make the page long and say nothing new. Those that are parked come first. */
#define TOPICS_SHOWN 100

/* --- members ------------------------------------------------------------------------------------
 */

static void name_of(FILE *out, const char *name)
{
    fprintf(out, "\"%s\":", name);
}

static void text(FILE *out, const char *name, const char *value)
{
    name_of(out, name);
    mm_json_write_string(out, value, strlen(value));
    fputc(',', out);
}

static void number(FILE *out, const char *name, uint64_t value)
{
    fprintf(out, "\"%s\":%" PRIu64 ",", name, value);
}

static void boolean(FILE *out, const char *name, bool value)
{
    fprintf(out, "\"%s\":%s,", name, value ? "true" : "false");
}

/* Without printf's %f, which writes what the locale wants. */
static void value_milli(FILE *out, uint64_t milli)
{
    fprintf(out, "%" PRIu64 ".%03u", milli / 1000, (unsigned)(milli % 1000));
}

static void milli(FILE *out, const char *name, uint64_t value)
{
    name_of(out, name);
    value_milli(out, value);
    fputc(',', out);
}

static void time_or_null(FILE *out, const char *name, uint64_t ms)
{
    if (ms != 0) {
        milli(out, name, ms);
    } else {
        fprintf(out, "\"%s\":null,", name);
    }
}

/* The age of what was received at a time, 0: of nothing. */
static void age_or_null(FILE *out, const char *name, uint64_t since_ms, uint64_t now_ms)
{
    if (since_ms != 0) {
        milli(out, name, now_ms > since_ms ? now_ms - since_ms : 0);
    } else {
        fprintf(out, "\"%s\":null,", name);
    }
}

/* The last member of an object; takes the comma's place. */
static void last_number(FILE *out, const char *name, uint64_t value)
{
    fprintf(out, "\"%s\":%" PRIu64, name, value);
}

/* --- words --------------------------------------------------------------------------------------
 */

__attribute__((format(printf, 3, 4))) static void put(char *dst, size_t len, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(dst, len, fmt, args);
    va_end(args);
}

static void duration(char dst[32], uint64_t s)
{
    if (s < 120) {
        put(dst, 32, "%" PRIu64 " s", s);
    } else if (s < 7200) {
        put(dst, 32, "%" PRIu64 " min", s / 60);
    } else if (s < 172800) {
        put(dst, 32, "%" PRIu64 " h %" PRIu64 " min", s / 3600, s % 3600 / 60);
    } else {
        put(dst, 32, "%" PRIu64 " days", s / 86400);
    }
}

static void title_of_kafka(const struct mm_status *s, char dst[MM_STATUS_TITLE_LEN])
{
    uint32_t n = mm_metrics_n_workers(s->metrics);
    if (s->n_workers_down < n) {
        put(dst, MM_STATUS_TITLE_LEN, "%u of %u workers do not reach Kafka",
            (unsigned)s->n_workers_down, (unsigned)n);
    } else {
        put(dst, MM_STATUS_TITLE_LEN, "%s",
            s->kafka_was_up ? "Kafka is not reached" : "Kafka has not been reached yet");
    }
}

static void title_of_parked(const struct mm_status *s, char dst[MM_STATUS_TITLE_LEN])
{
    char topic[MM_LANES_NAME_LEN];
    mm_metrics_topic_name(s->metrics, s->parked_lane, topic);
    if (s->n_parked > 1) {
        put(dst, MM_STATUS_TITLE_LEN, "Kafka refuses %u topics", (unsigned)s->n_parked);
    } else if (s->all_parked && mm_metrics_n_topics(s->metrics) > 1) {
        put(dst, MM_STATUS_TITLE_LEN, "Kafka refuses all messages");
    } else if (s->parked_lane == MM_METRICS_LANE_OLD) {
        put(dst, MM_STATUS_TITLE_LEN, "Kafka refuses what was parked by earlier routes");
    } else {
        put(dst, MM_STATUS_TITLE_LEN, "Kafka refuses the topic %s", topic);
    }
}

/* Write what is to be done, as a sentence: some of the words are made for the middle of a line. */
static void advice(FILE *out, const char *words)
{
    char sentence[MM_STATUS_TEXT_LEN];
    put(sentence, sizeof sentence, "%s", words);
    size_t len = strlen(sentence);
    bool is_option = strncmp(sentence, "kafka_", 6) == 0;
    if (!is_option && sentence[0] >= 'a' && sentence[0] <= 'z') {
        sentence[0] = (char)(sentence[0] - 'a' + 'A');
    }
    if (len > 0 && len + 1 < sizeof sentence && strchr(".?!", sentence[len - 1]) == NULL) {
        sentence[len] = '.';
        sentence[len + 1] = '\0';
    }
    text(out, "advice", sentence);
}

/* What is wrong, in a few words; of those that are active. */
static void title_of(const struct mm_status *s,
                     enum mm_problem_kind kind,
                     char dst[MM_STATUS_TITLE_LEN])
{
    static const char *const titles[MM_N_PROBLEMS] = {
        [MM_PROBLEM_STUCK] = "A worker thread does not move",
        [MM_PROBLEM_DROPPING] = "Messages are lost",
        [MM_PROBLEM_REFUSING] = "Publishers are turned away",
        [MM_PROBLEM_FULL] = "The spool is full",
        [MM_PROBLEM_UNSYNCED] = "The disk does not sync",
        [MM_PROBLEM_LOW_SPACE] = "The disk of the spool is nearly full",
        [MM_PROBLEM_NEARLY_FULL] = "The spool is nearly full",
        [MM_PROBLEM_BEHIND] = "Kafka is more than ten minutes behind",
        [MM_PROBLEM_RELOAD] = "New settings were not taken",
        [MM_PROBLEM_DEAD] = "Kafka refuses messages for good",
        [MM_PROBLEM_DISK] = "The disk of the spool has errors",
        [MM_PROBLEM_BAD_FILES] = "Damaged files were set aside",
    };
    if (kind == MM_PROBLEM_KAFKA) {
        title_of_kafka(s, dst);
    } else if (kind == MM_PROBLEM_PARKED) {
        title_of_parked(s, dst);
    } else {
        put(dst, MM_STATUS_TITLE_LEN, "%s", titles[kind]);
    }
}

/* "Reason: it is not there (UNKNOWN_TOPIC_OR_PART)." */
static void reason_of(const char *error, char *dst, size_t len)
{
    const struct mm_cause *cause = mm_status_cause(error);
    put(dst, len, "Reason: %s%s%s%s.", cause->text, error != NULL ? " (" : "",
        error != NULL ? error : "", error != NULL ? ")" : "");
}

static void text_of_parked(const struct mm_status *s, char dst[MM_STATUS_TEXT_LEN])
{
    char reason[160];
    reason_of(s->parked_error, reason, sizeof reason);
    uint64_t n = s->all_parked ? s->shot.in_spool : s->shot.parked;
    put(dst, MM_STATUS_TEXT_LEN, "%s %" PRIu64 " %s, in order%s. It is tried again by itself.",
        reason, n, n == 1 ? "message waits" : "messages wait",
        s->all_parked ? "" : "; all others go on");
}

static void text_of_kafka(const struct mm_status *s, char dst[MM_STATUS_TEXT_LEN])
{
    struct mm_cause cause;
    mm_status_kafka_cause(s, &cause);
    put(dst, MM_STATUS_TEXT_LEN,
        "Reason: %s. Messages wait in the spool, in order. It is tried again by itself.",
        cause.text);
}

static void text_of_nearly_full(const struct mm_status *s, char dst[MM_STATUS_TEXT_LEN])
{
    const struct mm_spool_stats *stats = &s->shot.spool;
    put(dst, MM_STATUS_TEXT_LEN, "%u %% of it are used. %s",
        (unsigned)(stats->used_bytes * 100 / stats->limit_bytes),
        stats->drop_oldest ? "When it is full, the oldest messages give way (when_full)."
                           : "From 90 % on /readyz answers 503; when it is full, publishers are "
                             "turned away.");
}

static void text_of_behind(const struct mm_status *s, char dst[MM_STATUS_TEXT_LEN])
{
    char age[32];
    duration(age, (s->now_ms - s->shot.oldest_ms) / 1000);
    put(dst, MM_STATUS_TEXT_LEN,
        "The oldest message has waited for %s. Nothing is lost; it goes out later than it came in.",
        age);
}

/* What is said of one, and of several. */
struct counted
{
    const char *one;
    const char *many;
    const char *rest;
};

static const struct counted counted_texts[MM_N_PROBLEMS] = {
    [MM_PROBLEM_DROPPING] = {"message was", "messages were",
                             "let go: for want of room, with QoS 0 or as when_full says; or "
                             "because the disk failed."},
    [MM_PROBLEM_REFUSING] = {"message was", "messages were",
                             "refused. Nothing was acknowledged: their publishers still have them, "
                             "and send them again."},
    [MM_PROBLEM_DEAD] = {"message became a dead letter:", "messages became dead letters:",
                         "Kafka does not take them even alone. They are set aside, and all others "
                         "go on."},
    [MM_PROBLEM_DISK] = {"time", "times", "reading, writing or deleting a file failed."},
    [MM_PROBLEM_BAD_FILES] = {"file lies", "files lie", "in bad/."},
};

static const char *const plain_texts[MM_N_PROBLEMS] = {
    [MM_PROBLEM_STUCK] =
        "It has stood still for more than 30 s. Messages are taken and kept, but "
        "not all of them are delivered.",
    [MM_PROBLEM_FULL] =
        "QoS 0 is dropped. QoS 1 and 2 are refused, so that publishers keep them, "
        "or dropped where when_full says so.",
    [MM_PROBLEM_UNSYNCED] =
        "Messages are taken and delivered, but a power failure now would lose "
        "some that were acknowledged.",
    [MM_PROBLEM_LOW_SPACE] =
        "Others may have filled it. When no further file can be had, "
        "publishers are turned away.",
    [MM_PROBLEM_RELOAD] =
        "The last change of config_file, or of a certificate, failed. The "
        "settings of before are in use.",
};

/* The same in a sentence or two. */
static void text_of(const struct mm_status *s,
                    enum mm_problem_kind kind,
                    char dst[MM_STATUS_TEXT_LEN])
{
    const struct mm_spool_stats *stats = &s->shot.spool;
    const struct counted *counted = &counted_texts[kind];
    if (counted->rest != NULL) {
        uint64_t n = kind == MM_PROBLEM_BAD_FILES ? stats->n_bad_files : s->problems[kind].count;
        put(dst, MM_STATUS_TEXT_LEN, "%" PRIu64 " %s %s", n, n == 1 ? counted->one : counted->many,
            counted->rest);
    } else if (kind == MM_PROBLEM_KAFKA) {
        text_of_kafka(s, dst);
    } else if (kind == MM_PROBLEM_PARKED) {
        text_of_parked(s, dst);
    } else if (kind == MM_PROBLEM_NEARLY_FULL) {
        text_of_nearly_full(s, dst);
    } else if (kind == MM_PROBLEM_BEHIND) {
        text_of_behind(s, dst);
    } else if (kind == MM_PROBLEM_FULL && stats->drop_oldest) {
        put(dst, MM_STATUS_TEXT_LEN, "The oldest messages give way to new ones (when_full).");
    } else {
        put(dst, MM_STATUS_TEXT_LEN, "%s", plain_texts[kind]);
    }
}

/* What follows for the messages, by the first problem. */
static const char *consequence_of(const struct mm_status *s)
{
    switch (s->verdict) {
        case MM_PROBLEM_STUCK:
            return "Messages are taken and kept, but not all of them are delivered.";
        case MM_PROBLEM_DROPPING:
            return "There is no room for them, or the disk fails.";
        case MM_PROBLEM_REFUSING:
            return "They keep what is not acknowledged, and send it again.";
        case MM_PROBLEM_FULL:
            return s->shot.spool.drop_oldest ? "The oldest messages give way to new ones."
                                             : "New messages are not taken.";
        case MM_PROBLEM_UNSYNCED:
            return "Messages flow, but a power failure would lose some.";
        case MM_PROBLEM_LOW_SPACE:
            return "Soon the spool can take no more.";
        case MM_PROBLEM_NEARLY_FULL:
            return s->shot.spool.drop_oldest ? "Soon the oldest messages give way to new ones."
                                             : "Soon publishers are turned away.";
        case MM_PROBLEM_PARKED:
            return s->all_parked ? "Messages are taken and kept in the spool."
                                 : "Its messages wait, in order; all others flow.";
        case MM_PROBLEM_BEHIND:
            return "Messages are kept, and go out late.";
        case MM_PROBLEM_RELOAD:
            return "Messages flow by the settings of before.";
        case MM_PROBLEM_DEAD:
            return "They are set aside, and all others flow.";
        case MM_PROBLEM_KAFKA:
            return "Messages are taken and kept in the spool.";
        default:
            return "Messages flow to Kafka.";
    }
}

/* While nothing is wrong. */
static void text_of_health(const struct mm_status *s, char dst[MM_STATUS_TEXT_LEN])
{
    if (s->shot.oldest_ms != 0 && s->now_ms > s->shot.oldest_ms + 5000) {
        put(dst, MM_STATUS_TEXT_LEN, "What has waited is being delivered: %" PRIu64 " messages.",
            s->shot.in_spool);
    } else if (mm_status_rate_received(s) == 0) {
        put(dst, MM_STATUS_TEXT_LEN, "Kafka is reached. Nothing comes in at the moment.");
    } else {
        put(dst, MM_STATUS_TEXT_LEN, "Messages flow to Kafka as they come.");
    }
}

static void write_verdict(FILE *out, const struct mm_status *s)
{
    char title[MM_STATUS_TITLE_LEN] = "All is well";
    char words[MM_STATUS_TEXT_LEN];
    const char *level = "ok";
    if (s->verdict < 0) {
        text_of_health(s, words);
    } else {
        char pace[96] = "";
        uint64_t left_s = mm_status_to_full_s(s);
        if (left_s != UINT64_MAX && !s->shot.spool.full) {
            char left[32];
            duration(left, left_s);
            put(pace, sizeof pace, " At this pace there is room for %s.", left);
        }
        title_of(s, (enum mm_problem_kind)s->verdict, title);
        put(words, sizeof words, "%s%s", consequence_of(s), pace);
        level = mm_problem_defs[s->verdict].critical ? "critical" : "warning";
    }
    text(out, "level", level);
    text(out, "title", title);
    text(out, "text", words);
    milli(out, "since", s->verdict_since_ms);
}

/* --- parts --------------------------------------------------------------------------------------
 */

static void write_head(FILE *out, const struct mm_status *s)
{
    struct mm_build_view build;
    mm_metrics_view_build(s->metrics, &build);
    write_verdict(out, s);
    boolean(out, "healthy", s->shot.healthy);
    boolean(out, "ready", s->shot.ready);
    boolean(out, "live", s->shot.live);
    text(out, "reason", s->shot.reason);
    milli(out, "time", s->now_ms);
    milli(out, "started", build.started_ms);
    text(out, "version", build.version);
    text(out, "librdkafka", build.librdkafka);
    text(out, "mosquitto", build.mosquitto);
}

static void write_problems(FILE *out, const struct mm_status *s)
{
    char title[MM_STATUS_TITLE_LEN];
    char words[MM_STATUS_TEXT_LEN];
    const char *between = "";
    fputs("\"problems\":[", out);
    for (int i = 0; i < MM_N_PROBLEMS; i++) {
        const struct mm_problem *p = &s->problems[i];
        if (!p->active) {
            continue;
        }
        title_of(s, (enum mm_problem_kind)i, title);
        text_of(s, (enum mm_problem_kind)i, words);
        fprintf(out, "%s{", between);
        text(out, "id", mm_problem_defs[i].id);
        text(out, "level", mm_problem_defs[i].critical ? "critical" : "warning");
        text(out, "title", title);
        text(out, "text", words);
        advice(out, mm_status_advice(s, (enum mm_problem_kind)i));
        milli(out, "since", p->since_ms);
        last_number(out, "count", p->count);
        fputc('}', out);
        between = ",";
    }
    fputs("],", out);
}

/* Counters by reason, whose names begin alike, with the reason alone. */
static void write_reasons(FILE *out,
                          const char *name,
                          const struct mm_status *s,
                          const char *prefix,
                          int slot,
                          int n_slots)
{
    const char *between = "";
    fprintf(out, "\"%s\":{", name);
    for (int i = slot; i < slot + n_slots; i++) {
        fprintf(out, "%s\"%s\":%" PRIu64, between, mm_metrics_counter_name(i) + strlen(prefix),
                s->n[i]);
        between = ",";
    }
    fputs("},", out);
}

static void write_flow(FILE *out, const struct mm_status *s)
{
    fputs("\"flow\":{", out);
    milli(out, "received_per_second", mm_status_rate_received(s));
    milli(out, "delivered_per_second", mm_status_rate_delivered(s));
    number(out, "received", s->shot.received);
    number(out, "delivered", s->shot.delivered);
    number(out, "refused", s->shot.refused);
    write_reasons(out, "refused_by_reason", s, "refused_", MM_SLOT_REFUSED, MM_N_REFUSED);
    number(out, "dropped", s->shot.dropped);
    write_reasons(out, "dropped_by_reason", s, "dropped_", MM_SLOT_DROPPED, MM_N_DROPPED);
    number(out, "dead_lettered", s->shot.dead_lettered);
    write_reasons(out, "dead_lettered_by_reason", s, "dead_lettered_", MM_SLOT_DEAD, MM_N_DEAD);
    fprintf(out, "\"difference\":%" PRId64 "},", s->shot.ledger_difference);
}

static void write_spool(FILE *out, const struct mm_status *s)
{
    const struct mm_spool_stats *stats = &s->shot.spool;
    uint64_t left_s = mm_status_to_full_s(s);
    fputs("\"spool\":{", out);
    boolean(out, "on_disk", stats->on_disk);
    number(out, "messages", s->shot.in_spool);
    number(out, "bytes", stats->used_bytes);
    number(out, "limit_bytes", stats->limit_bytes);
    number(out, "allocated_bytes", stats->allocated_bytes);
    number(out, "free_bytes", stats->free_bytes);
    number(out, "unsynced_bytes", stats->unsynced_bytes);
    if (left_s == UINT64_MAX) {
        fputs("\"seconds_to_full\":null,", out);
    } else {
        number(out, "seconds_to_full", left_s);
    }
    age_or_null(out, "oldest_seconds", s->shot.oldest_ms, s->now_ms);
    boolean(out, "full", stats->full);
    boolean(out, "drop_oldest", stats->drop_oldest);
    boolean(out, "degraded", stats->degraded);
    boolean(out, "low_space", stats->low_space);
    number(out, "io_errors", stats->n_io_errors);
    last_number(out, "bad_files", stats->n_bad_files);
    fputs("},", out);
}

static void write_workers(FILE *out, const struct mm_status *s)
{
    fputs("\"workers\":[", out);
    for (uint32_t k = 0; k < mm_metrics_n_workers(s->metrics); k++) {
        struct mm_worker_view w;
        mm_metrics_view_worker(s->metrics, k, &w);
        fputs(k == 0 ? "{" : ",{", out);
        number(out, "worker", k);
        text(out, "state", w.state_name);
        boolean(out, "alive", w.alive);
        boolean(out, "kafka_reached", w.kafka_up);
        number(out, "held", w.held);
        number(out, "in_flight", w.in_flight);
        milli(out, "delivered_per_second", mm_status_rate_worker(s, k));
        age_or_null(out, "oldest_seconds", w.oldest_ms, s->now_ms);
        time_or_null(out, "last_delivery", w.last_delivery_ms);
        time_or_null(out, "next_try", w.retry_at_ms);
        last_number(out, "delivered", w.delivered);
        fputc('}', out);
    }
    fputs("],", out);
}

static void write_topic(FILE *out,
                        const struct mm_status *s,
                        uint32_t lane,
                        const struct mm_topic_view *t)
{
    char name[MM_LANES_NAME_LEN];
    mm_metrics_topic_name(s->metrics, lane, name);
    text(out, "kafka_topic", name);
    boolean(out, "parked", t->n_messages > 0);
    text(out, "reason", t->n_messages > 0 ? mm_status_cause(t->refusal)->text : "");
    text(out, "error", t->n_messages > 0 && t->refusal != NULL ? t->refusal : "");
    age_or_null(out, "oldest_seconds", t->oldest_ms, s->now_ms);
    time_or_null(out, "next_try", t->retry_at_ms);
    milli(out, "delivered_per_second", mm_status_rate_topic(s, lane, t->delivered));
    number(out, "delivered", t->delivered);
    number(out, "bytes", t->n_bytes);
    last_number(out, "messages", t->n_messages);
}

/* Those that are parked, or the others, as long as there is room. Returns how many were left out.
 */
static uint32_t write_topics_of(FILE *out,
                                const struct mm_status *s,
                                bool parked,
                                uint32_t *n_written)
{
    uint32_t n = mm_metrics_n_topics(s->metrics);
    uint32_t n_left_out = 0;
    for (uint32_t i = 0; i <= n; i++) {
        uint32_t lane = i < n ? i : MM_METRICS_LANE_OLD;
        struct mm_topic_view t;
        mm_metrics_view_topic(s->metrics, lane, &t);
        if ((t.n_messages > 0) != parked || (lane == MM_METRICS_LANE_OLD && !parked)) {
            continue;
        }
        if (*n_written == TOPICS_SHOWN) {
            n_left_out++;
            continue;
        }
        fputs(*n_written == 0 ? "{" : ",{", out);
        write_topic(out, s, lane, &t);
        fputc('}', out);
        (*n_written)++;
    }
    return n_left_out;
}

static void write_topics(FILE *out, const struct mm_status *s)
{
    uint32_t n_written = 0;
    fputs("\"topics\":[", out);
    uint32_t n_left_out = write_topics_of(out, s, true, &n_written);
    n_left_out += write_topics_of(out, s, false, &n_written);
    fputs("],", out);
    number(out, "topics_left_out", n_left_out);
}

static void write_events(FILE *out, const struct mm_status *s)
{
    uint64_t n = s->n_events < MM_STATUS_EVENTS ? s->n_events : MM_STATUS_EVENTS;
    fputs("\"events\":[", out);
    for (uint64_t i = 0; i < n; i++) {
        const struct mm_event *e = &s->events[(s->n_events - 1 - i) % MM_STATUS_EVENTS];
        char title[MM_STATUS_TITLE_LEN];
        put(title, sizeof title, "%s", mm_problem_defs[e->kind].was);
        if (e->ended_ms == 0) {
            title_of(s, e->kind, title);
        }
        fputs(i == 0 ? "{" : ",{", out);
        text(out, "id", mm_problem_defs[e->kind].id);
        text(out, "level", mm_problem_defs[e->kind].critical ? "critical" : "warning");
        text(out, "title", title);
        advice(out, e->advice);
        milli(out, "began", e->began_ms);
        time_or_null(out, "ended", e->ended_ms);
        last_number(out, "count", e->count);
        fputc('}', out);
    }
    fputs("],", out);
}

enum curve {
    RECEIVED,
    DELIVERED,
    USED
};

/* Oldest first. */
static void write_curve(FILE *out, const char *name, const struct mm_status *s, enum curve curve)
{
    uint64_t n = s->n_steps < MM_STATUS_STEPS ? s->n_steps : MM_STATUS_STEPS;
    fprintf(out, "\"%s\":[", name);
    for (uint64_t i = 0; i < n; i++) {
        const struct mm_step *step = &s->steps[(s->n_steps - n + i) % MM_STATUS_STEPS];
        fputs(i == 0 ? "" : ",", out);
        if (curve == USED) {
            fprintf(out, "%" PRIu64, step->used_bytes);
        } else {
            value_milli(out, curve == RECEIVED ? step->received_milli : step->delivered_milli);
        }
    }
    fputc(']', out);
}

static void write_history(FILE *out, const struct mm_status *s)
{
    fputs("\"history\":{", out);
    number(out, "step_seconds", MM_STATUS_STEP_S);
    write_curve(out, "received_per_second", s, RECEIVED);
    fputc(',', out);
    write_curve(out, "delivered_per_second", s, DELIVERED);
    fputc(',', out);
    write_curve(out, "spool_bytes", s, USED);
    fputc('}', out);
}

int mm_status_json(struct mm_status *s, uint64_t now_ns, uint64_t now_ms, char **json, size_t *len)
{
    mm_status_look(s, now_ns, now_ms);
    *json = NULL;
    *len = 0;
    FILE *out = open_memstream(json, len);
    if (out == NULL) {
        return MM_ENOMEM;
    }
    fputc('{', out);
    write_head(out, s);
    write_problems(out, s);
    write_flow(out, s);
    write_spool(out, s);
    write_workers(out, s);
    write_topics(out, s);
    write_events(out, s);
    write_history(out, s);
    fputs("}\n", out);
    bool failed = ferror(out) != 0;
    if (fclose(out) != 0 || failed || *json == NULL) {
        free(*json);
        *json = NULL;
        *len = 0;
        return MM_ENOMEM;
    }
    return 0;
}
