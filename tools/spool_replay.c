/* replay: records sent to Kafka once more.
 *
 * In rounds: a few thousand records are read and handed to a producer as the plugin's; the round
 * ends when Kafka has answered for each. Since that producer stops as soon as a message fails, what
 * is left of a round then is sent by one that sends each record alone, so that the one that Kafka
 * does not want is known and the others are delivered, in order; until that one is found, and Kafka
 * has taken some behind it. */
#include "human.h"
#include "interrupt.h"
#include "mm_clock.h"
#include "mm_error.h"
#include "mm_route.h"
#include "mm_text.h"
#include "resend.h"
#include "spool_args.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ROUND_ITEMS 10000
#define ROUND_BYTES ((size_t)8 << 20) /* and one record more, of any size */
#define POLL_MS 20
#define CLOSE_MS 5000
#define GOOD_IN_A_ROW 20 /* behind a record that was refused: the others may be sent together */
#define PRODUCER_PAUSE_NS 50000000 /* before a new one: not too many a second */
#define SECOND_NS UINT64_C(1000000000)
#define ID_LEN 128

enum item_state {
    ITEM_WAITING,
    ITEM_OUT,
    ITEM_DELIVERED,
    ITEM_REFUSED, /* told */
};

/* One record of a round. The texts are in the round's bytes, at these offsets. */
struct item
{
    enum item_state state;
    uint64_t seq;
    uint64_t time_ms;
    const char *kafka_topic; /* of the lanes */
    uint8_t flags;
    uint16_t topic_len;
    uint32_t payload_len;
    uint32_t props_len;
    size_t topic; /* with payload and properties behind it */
    size_t id;
    size_t id_len;
};

/* A Kafka topic that refuses whatever it is: its records are not tried. */
struct bad_topic
{
    struct bad_topic *next;
    const char *name; /* of the lanes */
    uint64_t n;       /* records */
};

struct replay
{
    const struct spool_args *args;
    struct resend resend;
    bool alone;      /* each record goes by itself; */
    bool found;      /* ... one of them was refused; */
    uint64_t n_good; /* ... and since then so many were delivered */
    struct progress progress;

    struct mm_inspect *in; /* the log that is read */
    struct mm_inspect_reader *reader;
    const char *log_name;
    uint64_t before; /* bytes of the logs that were read */
    uint64_t total;

    struct item *items;
    size_t n_items;
    size_t n_out;
    char *bytes;
    size_t n_bytes;
    size_t bytes_cap;
    bool at_end;
    bool failed; /* nothing more can be done; told */

    uint64_t answer_ns; /* when Kafka last answered, or was last asked after that */
    struct bad_topic *bad_topics;
    uint64_t n_delivered;
    uint64_t n_delivered_bytes;
    uint64_t n_refused;
    uint64_t n_damages;
    uint64_t n_dead; /* dead letters, which are not for us */
};

/* --- telling ------------------------------------------------------------------------------------
 */

static void print_line(void *arg, enum mm_log_level level, const char *line)
{
    (void)level;
    struct replay *r = arg;
    progress_clear(&r->progress);
    fprintf(stderr, "metamorphosis: %s\n", line);
}

static void print_finding(void *arg, const struct mm_finding *finding)
{
    char line[MM_FINDING_LINE_LEN];
    if (finding->level >= MM_LOG_WARN) {
        print_line(arg, finding->level, mm_finding_line(finding, line, sizeof line));
    }
}

static void fail(struct replay *r, const char *why)
{
    if (!r->failed) {
        print_line(r, MM_LOG_ERROR, why);
    }
    r->failed = true;
}

static void on_damage(void *arg, const struct mm_inspect_damage *d)
{
    struct replay *r = arg;
    r->n_damages++;
    progress_clear(&r->progress);
    fprintf(stderr, "metamorphosis: %s%s%s: %s (%" PRIu64 " lost)\n", r->log_name,
            r->log_name[0] == '\0' || d->file[0] == '\0' ? "" : "/", d->file, d->text,
            d->n_missing);
}

/* --- reading ------------------------------------------------------------------------------------
 */

static bool reserve(struct replay *r, size_t more)
{
    if (r->n_bytes + more <= r->bytes_cap) {
        return true;
    }
    size_t cap = r->n_bytes + more;
    cap = cap < ROUND_BYTES * 2 ? ROUND_BYTES * 2 : cap;
    char *grown = realloc(r->bytes, cap);
    if (grown == NULL) {
        fail(r, mm_strerror(MM_ENOMEM));
        return false;
    }
    r->bytes = grown;
    r->bytes_cap = cap;
    return true;
}

static size_t put(struct replay *r, const void *data, size_t len)
{
    size_t at = r->n_bytes;
    if (len > 0) {
        memcpy(r->bytes + at, data, len);
    }
    r->n_bytes += len;
    return at;
}

/* The id that the record had from the beginning. */
static size_t put_id(struct replay *r, const struct mm_record *rec, size_t *len)
{
    uint32_t origin_len;
    const uint8_t *origin = mm_prop_get(rec->props, rec->props_len, MM_TAG_ORIGIN, &origin_len);
    if (origin != NULL && origin_len < ID_LEN) {
        *len = origin_len;
        return put(r, origin, origin_len);
    }
    char id[ID_LEN];
    int n = snprintf(id, sizeof id, "%s-%" PRIu64, mm_inspect_info(r->in)->uuid, rec->seq);
    *len = (size_t)n;
    return put(r, id, (size_t)n);
}

/* A record that no route gives a Kafka topic. */
static void refuse_way(struct replay *r,
                       const struct mm_record *rec,
                       const struct mm_message_way *way)
{
    char topic[MM_PRINTABLE_LEN];
    progress_clear(&r->progress);
    fprintf(stderr,
            "metamorphosis: record %" PRIu64 " of MQTT topic \"%s\" has no Kafka topic: %s (%s)\n",
            rec->seq, mm_printable(rec->topic, rec->topic_len, topic, sizeof topic), way->error,
            way->reason);
    r->n_refused++;
}

static void add_item(struct replay *r, const struct mm_record *rec)
{
    struct mm_message_way way;
    mm_message_route(r->resend.config, r->resend.lanes, rec, &way);
    if (way.error != NULL) {
        refuse_way(r, rec, &way);
        return;
    }
    if (!reserve(r, (size_t)rec->topic_len + rec->payload_len + rec->props_len + ID_LEN)) {
        return;
    }
    struct item *item = &r->items[r->n_items++];
    *item = (struct item){.seq = rec->seq,
                          .time_ms = rec->time_ms,
                          .kafka_topic = mm_lanes_name(r->resend.lanes, way.lane),
                          .flags = rec->flags,
                          .topic_len = rec->topic_len,
                          .payload_len = rec->payload_len,
                          .props_len = rec->props_len};
    item->topic = put(r, rec->topic, rec->topic_len);
    (void)put(r, rec->payload, rec->payload_len);
    (void)put(r, rec->props, rec->props_len);
    item->id = put_id(r, rec, &item->id_len);
}

static bool is_wanted(struct replay *r, const struct mm_record *rec)
{
    if (rec->type == MM_RECORD_DEAD) {
        r->n_dead++;
        return false;
    }
    const struct spool_args *args = r->args;
    bool some = args->all || args->from != 0 || args->to != 0;
    return some || !mm_inspect_finished(r->in, rec->seq, rec->topic_hash);
}

static void fill_round(struct replay *r)
{
    struct mm_inspect_place place;
    struct mm_record rec;
    r->n_items = 0;
    r->n_bytes = 0;
    while (!r->failed && r->n_items < ROUND_ITEMS && r->n_bytes < ROUND_BYTES) {
        int err = mm_inspect_next(r->reader, &rec, &place);
        if (err == MM_EAGAIN) {
            r->at_end = true;
            return;
        }
        if (err != 0) {
            fail(r, mm_strerror(err));
            return;
        }
        if (is_wanted(r, &rec)) {
            add_item(r, &rec);
        }
    }
}

/* --- answers ------------------------------------------------------------------------------------
 */

static struct bad_topic *find_bad_topic(const struct replay *r, const char *name)
{
    struct bad_topic *t = r->bad_topics;
    while (t != NULL && strcmp(t->name, name) != 0) {
        t = t->next;
    }
    return t;
}

static void refuse_topic(struct replay *r, const char *name, const struct mm_kafka_report *report)
{
    progress_clear(&r->progress);
    fprintf(stderr, "metamorphosis: Kafka topic %s takes no records: %s (%s)\n", name,
            report->error, report->reason);
    struct bad_topic *t = malloc(sizeof *t);
    if (t == NULL) {
        fail(r, mm_strerror(MM_ENOMEM));
        return;
    }
    *t = (struct bad_topic){.next = r->bad_topics, .name = name};
    r->bad_topics = t;
}

static void refuse(struct replay *r, struct item *item, const struct mm_kafka_report *report)
{
    char topic[MM_PRINTABLE_LEN];
    item->state = ITEM_REFUSED;
    r->n_refused++;
    r->found = true;
    r->n_good = 0;
    struct bad_topic *bad = find_bad_topic(r, item->kafka_topic);
    if (bad == NULL && report->class == MM_KAFKA_WAIT && !report->wrong_time) {
        refuse_topic(r, item->kafka_topic, report);
        bad = r->bad_topics;
    }
    if (bad != NULL) {
        bad->n++;
        return;
    }
    progress_clear(&r->progress);
    fprintf(stderr, "metamorphosis: record %" PRIu64 " of MQTT topic \"%s\" was refused: %s (%s)\n",
            item->seq, mm_printable(r->bytes + item->topic, item->topic_len, topic, sizeof topic),
            report->error, report->reason);
}

static void settle(struct replay *r, struct item *item, const struct mm_kafka_report *report)
{
    item->state = ITEM_WAITING;
    switch (report->class) {
        case MM_KAFKA_DELIVERED:
            item->state = ITEM_DELIVERED;
            r->n_good++;
            r->n_delivered++;
            r->n_delivered_bytes += report->value_len;
            r->answer_ns = mm_clock_monotonic_ns();
            break;
        case MM_KAFKA_AGAIN:
            break;
        case MM_KAFKA_SUSPECT:
            r->answer_ns = mm_clock_monotonic_ns();
            if (r->alone) {
                refuse(r, item, report);
            }
            break;
        case MM_KAFKA_WAIT:
            r->answer_ns = mm_clock_monotonic_ns();
            if (r->alone || !report->wrong_time) { /* another one's of its batch may be wrong */
                refuse(r, item, report);
            }
            break;
    }
}

/* Called by mm_kafka_poll() and mm_kafka_close(). */
static void on_report(void *arg, const struct mm_kafka_report *report)
{
    struct replay *r = arg;
    r->n_out--;
    settle(r, report->tag, report);
}

/* --- the producer -------------------------------------------------------------------------------
 */

static bool make_producer(struct replay *r, bool alone)
{
    char errstr[512];
    int err = resend_start(&r->resend, alone, on_report, r, errstr, sizeof errstr);
    r->alone = alone;
    r->found = false;
    if (err != 0) {
        fail(r, errstr);
    }
    return err == 0;
}

static void end_producer(struct replay *r)
{
    resend_stop(&r->resend, CLOSE_MS);
    r->n_out = 0;
    for (size_t i = 0; i < r->n_items; i++) {
        r->items[i].state = r->items[i].state == ITEM_OUT ? ITEM_WAITING : r->items[i].state;
    }
}

static bool producer_failed(struct replay *r)
{
    const char *error;
    const char *reason;
    bool strict;
    return mm_kafka_failed(r->resend.kafka, &error, &reason, &strict);
}

/* Let the client work for a moment. False: it is not to go on. */
static bool wait_a_moment(struct replay *r)
{
    uint64_t done;
    uint64_t total;
    mm_kafka_poll(r->resend.kafka, POLL_MS);
    mm_log_drain(r->resend.log, print_line, r);
    mm_inspect_progress(r->reader, &done, &total);
    progress_show(&r->progress, r->before + done, r->total);
    if (interrupt_came()) {
        fail(r, "interrupted");
    } else if (mm_clock_monotonic_ns() - r->answer_ns > r->args->timeout_s * SECOND_NS) {
        char why[512];
        const char *error = mm_kafka_last_error(r->resend.kafka);
        snprintf(why, sizeof why, "nothing was delivered to %s for %u s%s%s",
                 r->resend.config->kafka_bootstrap, r->args->timeout_s,
                 error[0] == '\0' ? "" : ": ", error);
        fail(r, why);
    }
    return !r->failed;
}

/* The Kafka message of a record, as the plugin makes it. False: no memory, which is told. */
static bool make_message(struct replay *r, struct item *item, struct mm_kafka_message *m)
{
    const char *topic = r->bytes + item->topic;
    struct mm_record rec = {.seq = item->seq,
                            .time_ms = item->time_ms,
                            .flags = item->flags,
                            .type = MM_RECORD_MESSAGE,
                            .topic_len = item->topic_len,
                            .payload_len = item->payload_len,
                            .props_len = item->props_len,
                            .topic = topic,
                            .payload = topic + item->topic_len,
                            .props = topic + item->topic_len + item->payload_len};
    struct mm_message_source source = {.rec = &rec,
                                       .id = r->bytes + item->id,
                                       .id_len = item->id_len,
                                       .now_ms = mm_clock_realtime_ms()};
    const struct mm_config_route *route = mm_route_find(r->resend.config, topic, item->topic_len);
    if (mm_message_make(r->resend.message, r->resend.config, route, &source, m) != 0) {
        fail(r, mm_strerror(MM_ENOMEM));
        return false;
    }
    m->topic = item->kafka_topic;
    m->tag = item;
    return true;
}

/* Hand one record over. False: not now. */
static bool produce(struct replay *r, struct item *item)
{
    struct mm_kafka_report report = {.class = MM_KAFKA_SUSPECT};
    if (find_bad_topic(r, item->kafka_topic) != NULL) {
        refuse(r, item, &report);
        return true;
    }
    struct mm_kafka_message m;
    if (!make_message(r, item, &m)) {
        return true;
    }
    int err = mm_kafka_produce(r->resend.kafka, &m, &report);
    if (err == 0) {
        item->state = ITEM_OUT;
        r->n_out++;
        return true;
    }
    if (err != MM_EKAFKA) {
        return false;
    }
    settle(r, item, &report);
    if (item->state == ITEM_WAITING && report.class == MM_KAFKA_SUSPECT) {
        refuse(r, item, &report); /* it was not sent with others, so it is the one */
    }
    return item->state != ITEM_WAITING;
}

/* --- rounds -------------------------------------------------------------------------------------
 */

static bool has_rest(const struct replay *r)
{
    for (size_t i = 0; i < r->n_items; i++) {
        if (r->items[i].state == ITEM_WAITING || r->items[i].state == ITEM_OUT) {
            return true;
        }
    }
    return false;
}

/* Is the one found that the others had to be sent alone for? */
static bool may_go_together(const struct replay *r)
{
    return r->alone && r->found && r->n_good >= GOOD_IN_A_ROW;
}

/* Hand over what waits of the round, in order, until Kafka has answered for all of it, the producer
 * has failed, or another kind of it will do. */
static void send_waiting(struct replay *r)
{
    for (size_t i = 0; i < r->n_items && !producer_failed(r) && !may_go_together(r);) {
        if (r->items[i].state != ITEM_WAITING || produce(r, &r->items[i])) {
            i++;
        } else if (!wait_a_moment(r)) {
            return;
        }
    }
    while (r->n_out > 0 && !producer_failed(r) && wait_a_moment(r)) {
    }
}

static void send_round(struct replay *r)
{
    if (r->resend.kafka == NULL && !make_producer(r, false)) {
        return;
    }
    send_waiting(r);
    while (!r->failed && has_rest(r)) {
        end_producer(r); /* which brings the reports that are still out */
        nanosleep(&(struct timespec){.tv_nsec = PRODUCER_PAUSE_NS}, NULL);
        if (make_producer(r, !r->alone)) {
            send_waiting(r);
        }
    }
    if (r->resend.kafka != NULL && (r->alone || producer_failed(r))) {
        end_producer(r);
    }
}

static void replay_log(struct replay *r, struct mm_inspect *in, const char *name)
{
    struct mm_inspect_reader_options opts = {.segment = MM_INSPECT_ALL,
                                             .from_seq = r->args->from,
                                             .to_seq = r->args->to,
                                             .on_damage = on_damage,
                                             .arg = r};
    r->in = in;
    r->log_name = name;
    r->at_end = false;
    if (mm_inspect_reader_new(in, &opts, &r->reader) != 0) {
        fail(r, mm_strerror(MM_ENOMEM));
        return;
    }
    mm_inspect_tell_unread(in, on_damage, r);
    r->answer_ns = mm_clock_monotonic_ns();
    while (!r->failed && !r->at_end) {
        fill_round(r);
        if (r->args->dry_run) {
            r->n_delivered += r->n_items;
            r->n_delivered_bytes += r->n_bytes;
            continue;
        }
        r->answer_ns = mm_clock_monotonic_ns(); /* reading is not Kafka's time */
        if (r->n_items > 0 && !r->failed) {
            send_round(r);
        }
    }
    uint64_t done;
    uint64_t total;
    mm_inspect_progress(r->reader, &done, &total);
    r->before += total;
    mm_inspect_reader_free(r->reader);
    r->reader = NULL;
}

/* Where to go on; the first record that was not delivered. Numbers are those of one log: behind a
 * parked one all others are still to come. */
static void tell_where(struct replay *r)
{
    for (size_t i = 0; i < r->n_items; i++) {
        if (r->items[i].state != ITEM_WAITING && r->items[i].state != ITEM_OUT) {
            continue;
        }
        if (r->log_name[0] == '\0') {
            fprintf(stderr,
                    "metamorphosis: stopped at record %" PRIu64 "; go on with --from %" PRIu64 "\n",
                    r->items[i].seq, r->items[i].seq);
        } else {
            fprintf(stderr,
                    "metamorphosis: stopped at record %" PRIu64
                    " of %s; the next call begins anew, with the same ids\n",
                    r->items[i].seq, r->log_name);
        }
        return;
    }
}

/* --- all of it ----------------------------------------------------------------------------------
 */

static int prepare(struct replay *r)
{
    struct mm_option options[SPOOL_MAX_SETTINGS];
    struct mm_config_source source = {.options = options, .report = print_finding, .report_arg = r};
    if (r->args->kafka != NULL) {
        options[source.n_options++] = (struct mm_option){"kafka_broker", r->args->kafka};
    }
    if (r->args->topic != NULL) {
        options[source.n_options++] = (struct mm_option){"kafka_topic", r->args->topic};
    }
    memcpy(options + source.n_options, r->args->settings, r->args->n_settings * sizeof options[0]);
    source.n_options += r->args->n_settings;
    int err = resend_init(&r->resend, &source);
    if (err == MM_EINVAL) {
        return 2; /* told */
    }
    r->items = calloc(ROUND_ITEMS, sizeof *r->items);
    if (err != 0 || r->items == NULL) {
        fail(r, mm_strerror(MM_ENOMEM));
        return 1;
    }
    interrupt_catch();
    return 0;
}

static void release(struct replay *r)
{
    while (r->bad_topics != NULL) {
        struct bad_topic *next = r->bad_topics->next;
        free(r->bad_topics);
        r->bad_topics = next;
    }
    resend_fini(&r->resend);
    free(r->items);
    free(r->bytes);
}

static void summarise(const struct replay *r)
{
    char n[HUMAN_LEN];
    char bytes[HUMAN_LEN];
    char took[HUMAN_LEN];
    printf("%s %s record%s (%s) in %s", r->args->dry_run ? "would send" : "delivered",
           human_count(r->n_delivered, n), r->n_delivered == 1 ? "" : "s",
           human_bytes(r->n_delivered_bytes, bytes),
           human_duration((mm_clock_monotonic_ns() - r->progress.start_ns) / 1000000, took));
    if (r->n_refused > 0) {
        printf("; %s refused by Kafka", human_count(r->n_refused, n));
    }
    if (r->n_dead > 0) {
        printf("; %s dead letters left out (metamorphosis dead redrive)",
               human_count(r->n_dead, n));
    }
    puts(r->failed ? "; stopped before the end" : "");
    for (const struct bad_topic *t = r->bad_topics; t != NULL; t = t->next) {
        printf("%s records for Kafka topic %s were not taken\n", human_count(t->n, n), t->name);
    }
}

static bool is_free(const struct spool_logs *logs, const struct spool_args *args)
{
    const struct mm_inspect_info *info = mm_inspect_info(logs->log[0].in);
    if (!info->held || args->live || args->dry_run) {
        return true;
    }
    fprintf(stderr,
            "metamorphosis: \"%s\" is in use (%s): the broker delivers these records itself, and "
            "they would arrive twice. --live sends them all the same.\n",
            args->dir, info->lock_text);
    return false;
}

/* Those parked first: what waits in the spool for the same topic came later. */
static void replay_all(struct replay *r, const struct spool_logs *logs)
{
    for (size_t i = 1; i < logs->n && !r->failed; i++) {
        if (strcmp(logs->log[i].name, "dead") != 0) {
            replay_log(r, logs->log[i].in, logs->log[i].name);
        }
    }
    if (!r->failed) {
        replay_log(r, logs->log[0].in, "");
    }
    if (r->resend.kafka != NULL) {
        end_producer(r);
        mm_log_drain(r->resend.log, print_line, r);
    }
    if (r->failed && !r->args->dry_run) {
        tell_where(r);
    }
}

static uint64_t bytes_of(const struct mm_inspect *in)
{
    uint64_t n = 0;
    for (size_t i = 0; i < mm_inspect_n_segments(in); i++) {
        n += mm_inspect_segment(in, i)->end;
    }
    return n;
}

int spool_replay(const struct spool_args *args)
{
    struct replay r = {.args = args, .log_name = ""};
    struct spool_logs logs;
    bool complete;
    bool whole = args->from == 0 && args->to == 0; /* numbers are those of one log */
    progress_begin(&r.progress, "replay", args->progress);
    int result = prepare(&r);
    if (result != 0) {
        release(&r);
        return result;
    }
    if (!spool_open(args->dir, whole, &logs, &complete)) {
        release(&r);
        return 1;
    }
    result = 1;
    if (is_free(&logs, args)) {
        for (size_t i = 0; i < logs.n; i++) {
            r.total += bytes_of(logs.log[i].in);
        }
        replay_all(&r, &logs);
        progress_clear(&r.progress);
        summarise(&r);
        result = r.failed || r.n_refused > 0 || r.n_damages > 0 || !complete;
    }
    spool_close(&logs);
    release(&r);
    return result;
}
