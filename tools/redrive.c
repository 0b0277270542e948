#include "redrive.h"

#include "interrupt.h"
#include "mm_clock.h"
#include "mm_error.h"
#include "mm_route.h"
#include "mm_text.h"
#include "redriven.h"
#include "resend.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Letters read ahead of Kafka's answers. Fewer bytes than the client's queue takes. */
#define WINDOW_LETTERS 200
#define WINDOW_BYTES ((size_t)16 * 1024 * 1024)

#define POLL_MS 20
#define SECOND_NS UINT64_C(1000000000)
#define DRAIN_MS 5000
#define NEW_PRODUCER_PAUSE_NS (SECOND_NS / 5)

enum parcel_state {
    PARCEL_WAITING, /* to be sent, for the first time or again */
    PARCEL_OUT,
    PARCEL_DELIVERED,
    PARCEL_REFUSED,
};

/* One letter on its way, in one allocation. */
struct parcel
{
    struct parcel *next;
    enum parcel_state state;
    const char *error; /* of PARCEL_REFUSED; static */
    const char *reason;
    const char *id; /* NUL-terminated, as kafka_topic */
    const char *kafka_topic;
    struct mm_record rec; /* of the message */
    char bytes[];
};

/* A Kafka topic that took nothing: its other letters need not be tried. */
struct bad_topic
{
    struct bad_topic *next;
    const char *error; /* static */
    const char *reason;
    char name[];
};

struct redriver
{
    const struct redrive_options *opts;
    struct letters *letters;
    struct resend resend;
    struct redriven *redriven;

    struct parcel *first; /* in the order of the log */
    struct parcel *last;
    size_t n_parcels;
    size_t n_bytes;
    bool at_end; /* of the log */
    bool failed; /* nothing more can be done */
    struct bad_topic *bad_topics;
    struct idset taken; /* a letter may be in the log twice */

    uint64_t start_ns;
    uint64_t made_ns;   /* when the producer was made */
    uint64_t answer_ns; /* of Kafka's last answer */
    uint64_t shown_ns;  /* when progress was last shown; 0: never */
    uint64_t n_delivered;
    uint64_t n_refused;
    uint64_t n_before;     /* redriven by an earlier call */
    uint64_t n_no_payload; /* or no id: cannot be sent */
    uint64_t n_wanted;     /* of opts->ids, found */
};

/* --- telling ------------------------------------------------------------------------------------
 */

static void clear_progress(struct redriver *rd)
{
    if (rd->shown_ns != 0) {
        fputs("\r\033[K", stderr);
        rd->shown_ns = 0;
    }
}

static void show_progress(struct redriver *rd, uint64_t now_ns)
{
    if (now_ns - rd->start_ns < SECOND_NS || now_ns - rd->shown_ns < SECOND_NS / 5 ||
        !isatty(STDERR_FILENO)) {
        return;
    }
    fprintf(stderr, "\r\033[K%u %%, %" PRIu64 " delivered, %zu under way",
            letters_percent(rd->letters), rd->n_delivered, rd->n_parcels);
    rd->shown_ns = now_ns;
}

static void print_line(void *arg, enum mm_log_level level, const char *line)
{
    (void)level;
    clear_progress(arg);
    fprintf(stderr, "metamorphosis: %s\n", line);
}

static void report_finding(void *arg, const struct mm_finding *finding)
{
    char line[MM_FINDING_LINE_LEN];
    if (finding->level >= MM_LOG_WARN) {
        print_line(arg, finding->level, mm_finding_line(finding, line, sizeof line));
    }
}

static void tell_refusal(struct redriver *rd,
                         const char *id,
                         const char *topic,
                         const char *error,
                         const char *reason)
{
    clear_progress(rd);
    fprintf(stderr, "metamorphosis: %s was not delivered to %s: %s (%s)\n", id, topic, error,
            reason);
    rd->n_refused++;
}

static void fail(struct redriver *rd, const char *why)
{
    clear_progress(rd);
    fprintf(stderr, "metamorphosis: %s\n", why);
    rd->failed = true;
}

/* --- from the log into the window ---------------------------------------------------------------
 */

/* Is this letter to be sent? Counts why not. */
static bool is_wanted(struct redriver *rd, const struct mm_dead_view *view)
{
    const struct redrive_options *o = rd->opts;
    if (o->ids->n_ids > 0 && !idset_has(o->ids, view->id.text, view->id.len)) {
        return false;
    }
    bool has_id = idset_is_id(view->id.text, view->id.len);
    if (has_id && idset_has(&rd->taken, view->id.text, view->id.len)) {
        return false;
    }
    if (has_id && !idset_add(&rd->taken, view->id.text, view->id.len)) {
        fail(rd, mm_strerror(MM_ENOMEM));
        return false;
    }
    rd->n_wanted++;
    if (!has_id || !view->has_payload) {
        char id[MM_PRINTABLE_LEN];
        clear_progress(rd);
        fprintf(stderr, "metamorphosis: %s cannot be sent: %s\n",
                mm_printable(view->id.text, view->id.len, id, sizeof id),
                has_id ? "its payload was not kept" : "it has no id");
        rd->n_no_payload++;
        return false;
    }
    if (!o->again && redriven_has(rd->redriven, view->id.text, view->id.len)) {
        rd->n_before++;
        return false;
    }
    return true;
}

/* Copy len bytes and a NUL to *at, and move it behind them. */
static const char *put(char **at, const void *data, size_t len)
{
    char *start = *at;
    if (len > 0) {
        memcpy(start, data, len);
    }
    start[len] = '\0';
    *at = start + len + 1;
    return start;
}

/* Was the message put aside because no Kafka topic was found for it? */
static bool was_unroutable(const struct mm_dead_view *view)
{
    static const char prefix[] = "KAFKA_TOPIC";
    return view->error.len > strlen(prefix) &&
           memcmp(view->error.text, prefix, strlen(prefix)) == 0;
}

/* Where the letter is to go: where it was to go, or, if that was nowhere, where the routes lead it
 * now. False: nowhere, which is told. */
static bool find_way(struct redriver *rd,
                     const struct mm_record *rec,
                     const struct mm_dead_view *view,
                     struct mm_dead_text *topic,
                     struct mm_message_way *way)
{
    *topic = view->kafka_topic;
    if (rd->opts->topic != NULL) {
        *topic = (struct mm_dead_text){rd->opts->topic, (uint32_t)strlen(rd->opts->topic)};
    } else if (was_unroutable(view)) {
        mm_message_route(rd->resend.config, rd->resend.lanes, rec, way);
        *topic = (struct mm_dead_text){way->kafka_topic, (uint32_t)strlen(way->kafka_topic)};
        if (way->error != NULL) {
            char id[MM_PRINTABLE_LEN];
            tell_refusal(rd, mm_printable(view->id.text, view->id.len, id, sizeof id),
                         way->kafka_topic, way->error, way->reason);
            return false;
        }
    }
    return true;
}

/* A copy of the letter. NULL: out of memory. */
static struct parcel *make_parcel(const struct mm_record *rec,
                                  const struct mm_dead_view *view,
                                  const struct mm_dead_text *topic)
{
    struct parcel *p = malloc(sizeof *p + view->id.len + topic->len + rec->topic_len +
                              rec->payload_len + rec->props_len + 5);
    if (p == NULL) {
        return NULL;
    }
    char *at = p->bytes;
    *p = (struct parcel){.rec = *rec};
    p->rec.type = MM_RECORD_MESSAGE;
    p->id = put(&at, view->id.text, view->id.len);
    p->kafka_topic = put(&at, topic->text, topic->len);
    p->rec.topic = put(&at, rec->topic, rec->topic_len);
    p->rec.payload = put(&at, rec->payload, rec->payload_len);
    p->rec.props = put(&at, rec->props, rec->props_len);
    return p;
}

/* The Kafka message of a letter, as the plugin makes it, or with its payload as it is. Errors:
 * MM_ENOMEM. */
static int make_message(struct redriver *rd, struct parcel *p, struct mm_kafka_message *m)
{
    struct mm_message_source source = {
        .rec = &p->rec, .id = p->id, .id_len = strlen(p->id), .now_ms = mm_clock_realtime_ms()};
    const struct mm_config_route *route =
        mm_route_find(rd->resend.config, p->rec.topic, p->rec.topic_len);
    int err = mm_message_make(rd->resend.message, rd->resend.config, route, &source, m);
    if (err != 0) {
        return err;
    }
    if (rd->opts->raw) {
        m->value = p->rec.payload;
        m->value_len = p->rec.payload_len;
    }
    m->topic = p->kafka_topic;
    m->tag = p;
    return 0;
}

static const struct bad_topic *find_bad_topic(const struct redriver *rd, const char *name)
{
    const struct bad_topic *t = rd->bad_topics;
    while (t != NULL && strcmp(t->name, name) != 0) {
        t = t->next;
    }
    return t;
}

static void add_parcel(struct redriver *rd, struct parcel *p)
{
    if (rd->last == NULL) {
        rd->first = p;
    } else {
        rd->last->next = p;
    }
    rd->last = p;
    rd->n_parcels++;
    rd->n_bytes += p->rec.payload_len;
}

/* Read letters while the window has room. */
static void fill_window(struct redriver *rd)
{
    struct mm_record rec;
    struct mm_dead_view view;
    while (!rd->at_end && !rd->failed && rd->n_parcels < WINDOW_LETTERS &&
           rd->n_bytes < WINDOW_BYTES) {
        if (!letters_next(rd->letters, &rec, &view)) {
            rd->at_end = true;
            return;
        }
        if (!is_wanted(rd, &view)) {
            continue;
        }
        struct mm_dead_text topic;
        struct mm_message_way way;
        if (!find_way(rd, &rec, &view, &topic, &way)) {
            continue;
        }
        struct parcel *p = make_parcel(&rec, &view, &topic);
        if (p == NULL) {
            fail(rd, mm_strerror(MM_ENOMEM));
            return;
        }
        add_parcel(rd, p);
    }
}

/* --- Kafka --------------------------------------------------------------------------------------
 */

static void mark_topic(struct redriver *rd, const struct parcel *p)
{
    if (find_bad_topic(rd, p->kafka_topic) != NULL) {
        return;
    }
    size_t len = strlen(p->kafka_topic);
    struct bad_topic *t = malloc(sizeof *t + len + 1);
    if (t == NULL) {
        return; /* its letters are tried one by one */
    }
    memcpy(t->name, p->kafka_topic, len + 1);
    t->error = p->error;
    t->reason = p->reason;
    t->next = rd->bad_topics;
    rd->bad_topics = t;
}

static void settle(struct redriver *rd, struct parcel *p, const struct mm_kafka_report *r)
{
    if (r->class == MM_KAFKA_AGAIN) {
        p->state = PARCEL_WAITING; /* it fell with another one */
        return;
    }
    rd->answer_ns = mm_clock_monotonic_ns();
    if (r->class == MM_KAFKA_DELIVERED) {
        p->state = PARCEL_DELIVERED;
        return;
    }
    p->state = PARCEL_REFUSED;
    p->error = r->error;
    p->reason = r->reason;
    if (r->class == MM_KAFKA_WAIT && !r->wrong_time) {
        mark_topic(rd, p); /* what is wrong is wrong with the topic */
    }
}

/* Called by mm_kafka_poll() and mm_kafka_close(). */
static void on_report(void *arg, const struct mm_kafka_report *r)
{
    settle(arg, r->tag, r);
}

static bool make_producer(struct redriver *rd)
{
    char errstr[512];
    int err = resend_start(&rd->resend, true, on_report, rd, errstr, sizeof errstr);
    rd->made_ns = mm_clock_monotonic_ns();
    if (err != 0) {
        fail(rd, errstr);
    }
    return err == 0;
}

/* What had no report until now has none to come. */
static void end_producer(struct redriver *rd)
{
    resend_stop(&rd->resend, DRAIN_MS);
    for (struct parcel *p = rd->first; p != NULL; p = p->next) {
        p->state = p->state == PARCEL_OUT ? PARCEL_WAITING : p->state;
    }
}

/* Hand over one letter. False: its Kafka topic takes none just now. */
static bool send_parcel(struct redriver *rd, struct parcel *p)
{
    const struct bad_topic *bad = find_bad_topic(rd, p->kafka_topic);
    if (bad != NULL) {
        p->state = PARCEL_REFUSED;
        p->error = bad->error;
        p->reason = bad->reason;
        return true;
    }
    struct mm_kafka_message m;
    if (make_message(rd, p, &m) != 0) {
        fail(rd, mm_strerror(MM_ENOMEM));
        return true;
    }
    struct mm_kafka_report report;
    int err = mm_kafka_produce(rd->resend.kafka, &m, &report);
    if (err == MM_EKAFKA) {
        settle(rd, p, &report);
    } else if (err == 0) {
        p->state = PARCEL_OUT;
    }
    return err == 0 || err == MM_EKAFKA;
}

static bool is_among(const char *name, const char *const *names, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (strcmp(names[i], name) == 0) {
            return true;
        }
    }
    return false;
}

/* Those of one partition stay in order: while one of them must wait, so must those behind it, and
 * with them all of the Kafka topic. */
static void send_window(struct redriver *rd)
{
    const char *busy[WINDOW_LETTERS]; /* Kafka topics, for each of which a letter waits */
    size_t n_busy = 0;
    for (struct parcel *p = rd->first; p != NULL; p = p->next) {
        if (p->state == PARCEL_WAITING && !is_among(p->kafka_topic, busy, n_busy) &&
            !send_parcel(rd, p)) {
            busy[n_busy++] = p->kafka_topic;
        }
    }
}

/* Note what was delivered, tell what was refused, forget both. */
static void clear_window(struct redriver *rd)
{
    bool noted = false;
    rd->last = NULL;
    for (struct parcel **at = &rd->first; *at != NULL;) {
        struct parcel *p = *at;
        if (p->state == PARCEL_DELIVERED) {
            rd->n_delivered++;
            noted = true;
            rd->failed = !redriven_note(rd->redriven, p->id, strlen(p->id)) || rd->failed;
        } else if (p->state == PARCEL_REFUSED) {
            tell_refusal(rd, p->id, p->kafka_topic, p->error, p->reason);
        } else {
            rd->last = p;
            at = &p->next;
            continue;
        }
        *at = p->next;
        rd->n_parcels--;
        rd->n_bytes -= p->rec.payload_len;
        free(p);
    }
    if (noted && !redriven_sync(rd->redriven)) {
        fail(rd, "stopped: what is delivered must be noted, or it would be sent again");
    }
}

/* A producer that is at its end sends no more: what is left gets a new one. */
static void renew_producer(struct redriver *rd)
{
    const char *error;
    const char *reason;
    bool strict;
    if (!mm_kafka_failed(rd->resend.kafka, &error, &reason, &strict)) {
        return;
    }
    clear_window(rd); /* noted before the end, which may take seconds */
    clear_progress(rd);
    fprintf(stderr, "metamorphosis: the Kafka producer stopped: %s (%s); going on with a new one\n",
            error, reason);
    end_producer(rd);
    if (rd->answer_ns < rd->made_ns) {
        /* It failed without an answer to anything: so may the next. */
        struct timespec pause = {.tv_nsec = NEW_PRODUCER_PAUSE_NS};
        nanosleep(&pause, NULL);
    }
    (void)make_producer(rd);
}

static void check_patience(struct redriver *rd, uint64_t now_ns)
{
    if (interrupt_came()) {
        fail(rd, "interrupted");
    } else if (now_ns - rd->answer_ns > rd->opts->timeout_s * SECOND_NS) {
        char why[512];
        snprintf(why, sizeof why, "no answer from Kafka (%s) for %u s%s%s",
                 rd->resend.config->kafka_bootstrap, rd->opts->timeout_s,
                 mm_kafka_last_error(rd->resend.kafka)[0] == '\0' ? "" : ": ",
                 mm_kafka_last_error(rd->resend.kafka));
        fail(rd, why);
    }
}

static void send_all(struct redriver *rd)
{
    interrupt_catch();
    rd->answer_ns = mm_clock_monotonic_ns();
    if (!make_producer(rd)) {
        return;
    }
    for (;;) {
        bool idle = rd->n_parcels == 0;
        fill_window(rd);
        rd->answer_ns = idle ? mm_clock_monotonic_ns() : rd->answer_ns;
        if (rd->failed || (rd->at_end && rd->n_parcels == 0)) {
            break;
        }
        send_window(rd);
        clear_window(rd); /* what is on its way does not wait for the disk */
        mm_kafka_poll(rd->resend.kafka, POLL_MS);
        mm_log_drain(rd->resend.log, print_line, rd);
        renew_producer(rd);
        if (rd->failed) {
            break;
        }
        uint64_t now_ns = mm_clock_monotonic_ns();
        check_patience(rd, now_ns);
        show_progress(rd, now_ns);
    }
    end_producer(rd);
    clear_window(rd);
    mm_log_drain(rd->resend.log, print_line, rd);
}

/* --- without Kafka ------------------------------------------------------------------------------
 */

static void show_all(struct redriver *rd)
{
    while (fill_window(rd), rd->first != NULL) {
        for (struct parcel *p = rd->first; p != NULL;) {
            struct parcel *next = p->next;
            struct mm_kafka_message m = {.value_len = 0};
            if (make_message(rd, p, &m) != 0) {
                fail(rd, mm_strerror(MM_ENOMEM));
            }
            printf("%s would be sent to %s (%zu bytes)\n", p->id, p->kafka_topic, m.value_len);
            rd->n_delivered++;
            free(p);
            p = next;
        }
        rd->first = rd->last = NULL;
        rd->n_parcels = rd->n_bytes = 0;
    }
}

/* --- all of it ----------------------------------------------------------------------------------
 */

/* Returns the exit code; 0: ready. */
static int prepare(struct redriver *rd)
{
    const struct redrive_options *o = rd->opts;
    struct mm_config_source source = {.options = o->settings,
                                      .n_options = o->n_settings,
                                      .report = report_finding,
                                      .report_arg = rd};
    int err = resend_init(&rd->resend, &source);
    if (err == MM_EINVAL) {
        return 2; /* told */
    }
    if (err != 0) {
        fail(rd, mm_strerror(err));
        return 1;
    }
    return redriven_open(letters_dir(rd->letters), !o->dry_run, &rd->redriven) ? 0 : 1;
}

static void summarise(const struct redriver *rd)
{
    printf("%s %" PRIu64 " dead letter%s", rd->opts->dry_run ? "would send" : "delivered",
           rd->n_delivered, rd->n_delivered == 1 ? "" : "s");
    const struct
    {
        uint64_t n;
        const char *what;
    } rest[] = {
        {rd->n_before, "sent again before"},
        {rd->n_refused, "not taken by Kafka"},
        {rd->n_no_payload, "that cannot be sent"},
        {rd->n_parcels, "given up"},
    };
    for (size_t i = 0; i < sizeof rest / sizeof rest[0]; i++) {
        if (rest[i].n > 0) {
            printf(", %" PRIu64 " %s", rest[i].n, rest[i].what);
        }
    }
    printf("%s\n", rd->at_end ? "" : "; not all letters were looked at");
}

static void release(struct redriver *rd)
{
    while (rd->first != NULL) {
        struct parcel *next = rd->first->next;
        free(rd->first);
        rd->first = next;
    }
    while (rd->bad_topics != NULL) {
        struct bad_topic *next = rd->bad_topics->next;
        free(rd->bad_topics);
        rd->bad_topics = next;
    }
    idset_fini(&rd->taken);
    redriven_close(rd->redriven);
    resend_fini(&rd->resend);
}

int redrive(struct letters *letters, const struct redrive_options *opts)
{
    struct redriver rd = {.opts = opts, .letters = letters, .start_ns = mm_clock_monotonic_ns()};
    int result = prepare(&rd);
    if (result == 0) {
        if (opts->dry_run) {
            show_all(&rd);
        } else {
            send_all(&rd);
        }
        clear_progress(&rd);
        if (rd.n_wanted < opts->ids->n_ids && rd.at_end) {
            fprintf(stderr, "metamorphosis: not all of the ids are there: %" PRIu64 " of %zu\n",
                    rd.n_wanted, opts->ids->n_ids);
            rd.failed = true;
        }
        summarise(&rd);
        result = rd.failed || rd.n_parcels > 0 || rd.n_refused > 0 || rd.n_no_payload > 0 ||
                 letters_damaged(letters);
    }
    release(&rd);
    return result;
}
