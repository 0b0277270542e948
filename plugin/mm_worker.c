#include "mm_worker.h"

#include "mm_config.h"
#include "mm_dead.h"
#include "mm_error.h"
#include "mm_format.h"
#include "mm_kafka.h"
#include "mm_log.h"
#include "mm_metrics.h"
#include "mm_spool.h"

#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* More than the Kafka client's queue takes (100,000), so that the window is never what limits. A
 * power of two: places are found by a mask. */
#define WINDOW_LEN (UINT64_C(1) << 17)

/* Records sent before the delivery reports are looked at. */
#define SEND_BATCH 1000
#define SINGLE_IN_FLIGHT 500
#define SCAN_MAX 20000

#define IDLE_POLL_MS 2
#define FULL_POLL_MS 10
#define PAUSE_POLL_MS 10
#define DEEP_AFTER_NS (200 * UINT64_C(1000000))
#define DEEP_WAIT_MS 100

/* How long a drain waits for requests that are on the wire. */
#define DRAIN_MAX_NS (5 * UINT64_C(1000000000))

/* Records wait, and no report for so long: the cluster is not there, whatever the connection says.
 */
#define STALL_NS (10 * UINT64_C(1000000000))

/* A window that held so many records and holds so few now has left memory behind in the allocator.
 */
#define TRIM_ABOVE 10000
#define TRIM_BELOW 1000
#define TRIM_INTERVAL_NS (60 * UINT64_C(1000000000))

#define RESTART_MAX_S 30
#define LINE_INTERVAL_NS (60 * UINT64_C(1000000000))
#define SECOND_NS UINT64_C(1000000000)

/* The tag of the test message. A record's tag is its entry in the window. */
#define TEST_TAG NULL

#define ID_LEN 64 /* "<uuid>-<seq>": 36 + 1 + 20 at most */

enum entry_state {
    ENTRY_WAITING, /* to be sent, for the first time or again */
    ENTRY_IN_FLIGHT,
    ENTRY_SUSPECT, /* to be sent alone */
    ENTRY_DONE,
};

#define ENTRY_SENT 0x01   /* was handed to the Kafka client before */
#define ENTRY_MAYBE 0x02  /* ... and may have been stored without our hearing of it */
#define ENTRY_ORPHAN 0x04 /* drop_oldest wants its place: not sent again */
#define ENTRY_ALONE 0x08  /* in flight by itself, as a suspect */

/* A record in the window. */
struct entry
{
    struct mm_segment *segment;
    uint32_t offset;
    uint8_t state;
    uint8_t flags;
    uint64_t time_ms;
};

struct mm_worker
{
    /* immutable after start */
    struct mm_worker_options opts;
    struct mm_spool_reader *reader;
    struct mm_metrics_worker *m;
    pthread_t thread;
    char id_prefix[40]; /* "<uuid>-" */

    /* any thread */
    _Atomic bool stop;
    _Atomic uint64_t stop_at_ns; /* CLOCK_MONOTONIC */

    /* the worker's thread: the window. head <= low <= next <= tail, all counting entries */
    struct entry *window;
    uint64_t head;        /* first entry that is not done */
    uint64_t low;         /* first entry that is neither done nor an orphan */
    uint64_t next;        /* next to send */
    uint64_t tail;        /* behind the last */
    uint64_t suspect_end; /* entries before it are sent one by one */
    uint64_t n_taken;
    uint64_t n_held; /* entries that are not done */
    uint64_t n_in_flight;

    /* the worker's thread: sending */
    enum mm_worker_state state;
    struct mm_kafka *kafka;  /* strict; NULL while parked, restarting and single */
    struct mm_kafka *single; /* NULL until the first suspect */
    bool failed;             /* a report asks for a drain */
    bool park;               /* ... and for a pause */
    bool producer_failed;    /* what is drained failed by itself */
    bool probing;            /* the first record goes alone */
    bool up;
    bool ever_up;
    bool was_large;  /* the window was, since memory was last given back */
    bool clocks_old; /* time may have passed since read_clocks() */
    bool test_sent;
    uint32_t restart_s;      /* the last pause before a new producer */
    uint64_t pause_until_ns; /* parked, restarting */
    uint64_t drain_until_ns;
    uint64_t progress_ns; /* of the last delivery report, or of the first message in flight */
    uint64_t busy_ns;     /* when a record was last sent */
    uint64_t down_since_ns;
    uint64_t trim_after_ns;
    uint64_t n_refusals;      /* delivery reports with an error of Kafka's */
    uint64_t n_errors_before; /* connection errors of producers that are gone */
    uint64_t now_ns;
    uint64_t now_ms;
    char *value; /* scratch for the Kafka value */
    size_t value_cap;
    struct mm_log_limit park_limit;
    struct mm_log_limit dead_limit;
    struct mm_log_limit drop_limit;
    struct mm_log_limit fail_limit;
    struct mm_log_limit error_limit; /* lent to the producers */
};

/* --- small things -------------------------------------------------------------------------------
 */

static struct entry *entry_at(struct mm_worker *w, uint64_t index)
{
    return &w->window[index & (WINDOW_LEN - 1)];
}

static struct mm_spool_pos entry_pos(const struct entry *e)
{
    return (struct mm_spool_pos){.segment = e->segment, .offset = e->offset};
}

static void read_clocks(struct mm_worker *w)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    w->now_ns = (uint64_t)now.tv_sec * SECOND_NS + (uint64_t)now.tv_nsec;
    clock_gettime(CLOCK_REALTIME, &now);
    w->now_ms = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static bool stopping(const struct mm_worker *w)
{
    return atomic_load_explicit(&w->stop, memory_order_acquire);
}

static void set_state(struct mm_worker *w, enum mm_worker_state state)
{
    w->state = state;
    /* While the first record of a parked topic is tried, it is not known to be better yet. */
    mm_gauge_set(&w->m->state, w->probing && state == MM_WORKER_RUNNING ? MM_WORKER_PARKED : state);
}

static void finish_entry(struct mm_worker *w, struct entry *e)
{
    e->state = ENTRY_DONE;
    w->n_held--;
}

/* --- reports ------------------------------------------------------------------------------------
 */

static void deliver(struct mm_worker *w, struct entry *e, const struct mm_kafka_report *r)
{
    mm_counter_add(&w->m->delivered, 1);
    mm_counter_add(&w->m->delivered_bytes, r->value_len);
    mm_gauge_set(&w->m->last_delivery_ms, w->now_ms);
    mm_histogram_latency(&w->m->latency,
                         w->now_ms > e->time_ms ? (w->now_ms - e->time_ms) * 1000000 : 0);
    finish_entry(w, e);
    w->restart_s = 0;
    if (w->probing) {
        w->probing = false;
        set_state(w, w->state); /* until now it was shown as parked */
    }
}

static void drop(struct mm_worker *w, struct entry *e)
{
    mm_counter_add(&w->m->dropped_oldest, 1);
    finish_entry(w, e);
    uint64_t n_held = 0;
    if (mm_log_allowed(&w->drop_limit, w->now_ns, LINE_INTERVAL_NS, &n_held)) {
        mm_log_write(w->opts.log, MM_LOG_WARN,
                     "the spool is full: the oldest messages are dropped (when_full drop_oldest), "
                     "%" PRIu64 " since the last such line",
                     n_held + 1);
    }
}

static size_t make_id(const struct mm_worker *w, uint64_t seq, char id[ID_LEN])
{
    size_t len = strlen(w->id_prefix);
    memcpy(id, w->id_prefix, len);
    char digits[20];
    size_t n = 0;
    do {
        digits[n++] = (char)('0' + seq % 10);
        seq /= 10;
    } while (seq > 0);
    while (n > 0) {
        id[len++] = digits[--n];
    }
    return len;
}

/* Kafka will never take this record: keep it as a dead letter and go on. */
static void bury(struct mm_worker *w, struct entry *e, const struct mm_kafka_report *r)
{
    struct mm_spool_pos pos = entry_pos(e);
    struct mm_record rec;
    enum mm_dead_reason reason = r->too_large ? MM_DEAD_TOO_LARGE : MM_DEAD_INVALID;
    if (mm_spool_read(w->reader, &pos, &rec) != 0) {
        reason = MM_DEAD_UNREADABLE;
        memset(&rec, 0, sizeof rec);
    }
    struct mm_dead_letter letter = {
        .seq = rec.seq,
        .time_ms = e->time_ms,
        .died_ms = w->now_ms,
        .topic = rec.topic == NULL ? "" : rec.topic,
        .topic_len = rec.topic_len,
        .payload = rec.payload,
        .payload_len = rec.payload_len,
        .kafka_topic = w->opts.config->kafka_topic,
        .error = r->error,
        .reason = r->reason,
    };
    int err = mm_dead_add(w->opts.dead, &letter);
    mm_counter_add(&w->m->dead_lettered[reason], 1);
    struct mm_dead_stats dead;
    mm_dead_stats(w->opts.dead, &dead);
    mm_gauge_set(&w->m->dead_evicted, dead.n_evicted);
    uint64_t n_held = 0;
    if (mm_log_allowed(&w->dead_limit, w->now_ns, LINE_INTERVAL_NS, &n_held)) {
        mm_log_write(w->opts.log, MM_LOG_ERROR,
                     "dead letter: message %s%" PRIu64
                     " on MQTT topic \"%.*s\" (%u bytes) was "
                     "refused for Kafka topic %s: %s (%s)%s; %" PRIu64
                     " more since the last such line",
                     w->id_prefix, rec.seq, rec.topic_len > 128 ? 128 : (int)rec.topic_len,
                     letter.topic, rec.payload_len, letter.kafka_topic, r->error, r->reason,
                     err == 0 ? "" : "; there was no memory to keep it", n_held);
    }
    finish_entry(w, e);
}

static void refuse_topic(struct mm_worker *w, const struct mm_kafka_report *r)
{
    w->park = true;
    uint64_t n_held = 0;
    if (mm_log_allowed(&w->park_limit, w->now_ns, LINE_INTERVAL_NS, &n_held)) {
        mm_log_write(w->opts.log, MM_LOG_WARN,
                     "Kafka topic %s refuses messages: %s (%s); they wait in the spool and are "
                     "tried again every %u s",
                     w->opts.config->kafka_topic, r->error, r->reason,
                     w->opts.config->kafka_retry_interval_s);
    }
}

static void on_test_report(struct mm_worker *w, const struct mm_kafka_report *r)
{
    if (r->class == MM_KAFKA_DELIVERED) {
        mm_counter_add(&w->m->test_messages, 1);
    } else if (r->class != MM_KAFKA_AGAIN) {
        mm_log_write(w->opts.log, MM_LOG_WARN, "the test message was refused: %s (%s)", r->error,
                     r->reason);
        w->failed = true; /* a refusal in Kafka stops the producer too */
    } else {
        w->test_sent = false;
    }
}

/* alone: it was sent by itself, or refused before it was sent with others. */
static void settle_report(struct mm_worker *w,
                          uint64_t index,
                          const struct mm_kafka_report *r,
                          bool alone)
{
    struct entry *e = entry_at(w, index);
    if (r->maybe_persisted) {
        e->flags |= ENTRY_MAYBE;
    }
    if (r->class == MM_KAFKA_DELIVERED) {
        deliver(w, e, r);
        return;
    }
    if ((e->flags & ENTRY_ORPHAN) != 0) {
        /* Its place in the log may be somebody else's by now: it is not to be read again. */
        w->failed = true;
        drop(w, e);
        return;
    }
    if (r->class == MM_KAFKA_SUSPECT && alone) {
        w->n_refusals++;
        bury(w, e, r);
        return;
    }
    w->failed = true;
    e->state = ENTRY_WAITING;
    switch (r->class) {
        case MM_KAFKA_SUSPECT:
            w->n_refusals++;
            e->state = ENTRY_SUSPECT;
            w->suspect_end = index + 1 > w->suspect_end ? index + 1 : w->suspect_end;
            break;
        case MM_KAFKA_WAIT:
            w->n_refusals++;
            refuse_topic(w, r);
            break;
        case MM_KAFKA_AGAIN:
        case MM_KAFKA_DELIVERED:
            break;
    }
}

/* Called by mm_kafka_poll() and mm_kafka_close() on the worker's thread. */
static void on_report(void *arg, const struct mm_kafka_report *r)
{
    struct mm_worker *w = arg;
    if (w->clocks_old) {
        w->clocks_old = false; /* the poll may have waited; once for all reports that it brings */
        read_clocks(w);
    }
    w->progress_ns = w->now_ns;
    if (r->tag == TEST_TAG) {
        on_test_report(w, r);
        return;
    }
    w->n_in_flight--;
    const struct entry *e = r->tag;
    uint64_t place = (uint64_t)(e - w->window);
    uint64_t index = w->head + ((place - w->head) & (WINDOW_LEN - 1));
    settle_report(w, index, r, (e->flags & ENTRY_ALONE) != 0);
}

/* --- sending ------------------------------------------------------------------------------------
 */

static bool ensure_value(struct mm_worker *w, size_t len)
{
    if (len <= w->value_cap) {
        return true;
    }
    size_t cap = len < 4096 ? 4096 : len;
    char *value = realloc(w->value, cap);
    if (value == NULL) {
        return false;
    }
    w->value = value;
    w->value_cap = cap;
    return true;
}

static int produce(struct mm_worker *w,
                   struct mm_kafka *kafka,
                   uint64_t index,
                   const struct mm_record *rec,
                   struct mm_kafka_report *report)
{
    const struct mm_format *format = w->opts.format;
    if ((size_t)rec->payload_len / 3 * 4 > mm_kafka_max_message(kafka)) {
        /* Not worth the making: the client would refuse it. */
        *report = (struct mm_kafka_report){.class = MM_KAFKA_SUSPECT,
                                           .too_large = true,
                                           .error = "MSG_SIZE_TOO_LARGE",
                                           .reason = "larger than message.max.bytes"};
        return MM_EKAFKA;
    }
    if (!ensure_value(w, mm_format_json_bound(format, rec->topic_len, rec->payload_len))) {
        return MM_EAGAIN; /* memory may come back; the record stays where it is */
    }
    char id[ID_LEN];
    struct mm_kafka_message m = {
        .topic = w->opts.config->kafka_topic,
        .key = rec->topic,
        .key_len = rec->topic_len,
        .value = w->value,
        .value_len = mm_format_json(format, rec->topic, rec->topic_len, rec->payload,
                                    rec->payload_len, w->value),
        .id = id,
        .id_len = make_id(w, rec->seq, id),
        /* A clock that was set back since must not make Kafka refuse the whole batch. */
        .time_ms = rec->time_ms < w->now_ms ? rec->time_ms : w->now_ms,
        .tag = entry_at(w, index),
    };
    return mm_kafka_produce(kafka, &m, report);
}

/* Send one entry. False: not now. */
static bool send_entry(struct mm_worker *w,
                       struct mm_kafka *kafka,
                       uint64_t index,
                       const struct mm_record *rec)
{
    struct entry *e = entry_at(w, index);
    struct mm_kafka_report report;
    int err = produce(w, kafka, index, rec, &report);
    if (err == MM_EAGAIN) {
        return false;
    }
    if (err == MM_EKAFKA) {
        settle_report(w, index, &report, true);
        return !w->failed;
    }
    if ((e->flags & ENTRY_SENT) != 0) {
        mm_counter_add(&w->m->retried, 1);
    }
    if ((e->flags & ENTRY_MAYBE) != 0) {
        mm_counter_add(&w->m->maybe_duplicated, 1);
    }
    e->state = ENTRY_IN_FLIGHT;
    e->flags = (uint8_t)((e->flags | ENTRY_SENT) & ~(ENTRY_MAYBE | ENTRY_ALONE));
    e->flags |= kafka == w->single ? ENTRY_ALONE : 0;
    w->n_in_flight++;
    w->busy_ns = w->now_ns;
    return true;
}

/* Take the next record of the shard into the window. */
static bool take(struct mm_worker *w, struct mm_record *rec)
{
    struct mm_spool_pos pos;
    if (w->tail - w->head == WINDOW_LEN || mm_spool_next(w->reader, SCAN_MAX, rec, &pos) != 0) {
        return false;
    }
    struct entry *e = entry_at(w, w->tail++);
    *e = (struct entry){.segment = pos.segment,
                        .offset = pos.offset,
                        .state = ENTRY_WAITING,
                        .time_ms = rec->time_ms};
    w->n_taken++;
    if (w->n_held++ == 0) {
        w->progress_ns = w->now_ns;
    }
    return true;
}

/* The record to send next, at index w->next. False: there is none. */
static bool next_record(struct mm_worker *w, uint64_t end, struct mm_record *rec)
{
    while (w->next < end && w->next < w->tail) {
        struct entry *e = entry_at(w, w->next);
        struct mm_spool_pos pos = entry_pos(e);
        if (e->state != ENTRY_WAITING && e->state != ENTRY_SUSPECT) {
            w->next++;
        } else if (mm_spool_read(w->reader, &pos, rec) == 0) {
            return true;
        } else {
            struct mm_kafka_report report = {.error = "unreadable",
                                             .reason = "the spool's memory is damaged"};
            bury(w, e, &report);
            w->next++;
        }
    }
    return w->next < end && take(w, rec);
}

/* Send up to n records before index end. Returns how many were sent; *blocked tells that the client
 * takes no more just now. */
static uint32_t send_some(struct mm_worker *w,
                          struct mm_kafka *kafka,
                          uint64_t end,
                          uint32_t n,
                          bool *blocked)
{
    uint32_t sent = 0;
    struct mm_record rec;
    *blocked = false;
    while (sent < n && next_record(w, end, &rec)) {
        if (!send_entry(w, kafka, w->next, &rec)) {
            *blocked = !w->failed;
            break;
        }
        w->next++;
        sent++;
    }
    return sent;
}

/* The Go program's sign of life; see README. The client keeps it until Kafka is there. */
static void send_test_message(struct mm_worker *w)
{
    const struct mm_config *config = w->opts.config;
    bool own_topic = config->kafka_test_topic != NULL;
    w->test_sent = true;
    if (!config->kafka_test_message || (own_topic && w->opts.index != 0)) {
        return;
    }
    const char *text =
        own_topic ? "Internal test to see if kafka is alive at startup" : "Just a test";
    if (!ensure_value(w, mm_format_json_bound(w->opts.format, 4, strlen(text)))) {
        return;
    }
    struct mm_kafka_message m = {
        .topic = own_topic ? config->kafka_test_topic : config->kafka_topic,
        .key = "test",
        .key_len = 4,
        .value = w->value,
        .value_len = mm_format_json(w->opts.format, "test", 4, text, strlen(text), w->value),
        .time_ms = w->now_ms,
        .tag = TEST_TAG,
    };
    struct mm_kafka_report report;
    if (mm_kafka_produce(w->kafka, &m, &report) == MM_EKAFKA) {
        on_test_report(w, &report);
    }
}

/* --- states -------------------------------------------------------------------------------------
 */

/* Where failed sending goes on: at the oldest record that is not finished. */
static void go_back(struct mm_worker *w)
{
    w->next = w->low;
}

static int make_producer(struct mm_worker *w,
                         bool single,
                         struct mm_kafka **out,
                         char *errstr,
                         size_t errstr_len)
{
    struct mm_kafka_options opts = {
        .config = w->opts.config,
        .single = single,
        .quiet = w->opts.index != 0,
        .up = w->up,
        .on_report = on_report,
        .arg = w,
        .log = w->opts.log,
        .error_limit = &w->error_limit,
    };
    return mm_kafka_new(&opts, out, errstr, errstr_len);
}

static void end_producer(struct mm_worker *w, struct mm_kafka **kafka, uint32_t wait_ms)
{
    if (*kafka == NULL) {
        return;
    }
    w->n_errors_before += mm_kafka_n_errors(*kafka);
    mm_kafka_close(*kafka, wait_ms);
    *kafka = NULL;
}

static void pause_until(struct mm_worker *w, enum mm_worker_state state, uint64_t seconds)
{
    w->pause_until_ns = w->now_ns + seconds * SECOND_NS;
    mm_gauge_set(&w->m->retry_at_ms, state == MM_WORKER_PARKED ? w->now_ms + seconds * 1000 : 0);
    set_state(w, state);
}

static void restart_later(struct mm_worker *w)
{
    uint32_t seconds = w->restart_s;
    w->restart_s = seconds == 0 ? 1 : seconds * 2 > RESTART_MAX_S ? RESTART_MAX_S : seconds * 2;
    mm_counter_add(&w->m->producer_restarts, 1);
    pause_until(w, MM_WORKER_RESTARTING, seconds);
}

/* Say why a producer is given up, where that is not clear from the reports. True: it failed by
 * itself, not because a message failed. */
static bool log_failure(struct mm_worker *w, struct mm_kafka *kafka)
{
    const char *error;
    const char *reason;
    bool strict;
    if (kafka == NULL || !mm_kafka_failed(kafka, &error, &reason, &strict)) {
        return false;
    }
    uint64_t n_held = 0;
    if (strict) {
        mm_log_write(w->opts.log, MM_LOG_DEBUG, "worker %u: %s", w->opts.index, reason);
    } else if (mm_log_allowed(&w->fail_limit, w->now_ns, SECOND_NS, &n_held)) {
        mm_log_write(w->opts.log, MM_LOG_WARN,
                     "worker %u: the Kafka producer stopped (%s: %s); a new one goes on at the "
                     "oldest message that is not delivered, %" PRIu64 " are in flight",
                     w->opts.index, error, reason, w->n_in_flight);
    }
    return !strict;
}

static void take_back(struct mm_worker *w)
{
    if (w->kafka != NULL) {
        mm_kafka_take_back(w->kafka);
    }
    if (w->single != NULL) {
        mm_kafka_take_back(w->single);
    }
}

static void start_drain(struct mm_worker *w)
{
    bool main_failed = log_failure(w, w->kafka);
    bool single_failed = log_failure(w, w->single);
    w->producer_failed = main_failed || single_failed;
    take_back(w);
    w->drain_until_ns = w->now_ns + DRAIN_MAX_NS;
    set_state(w, MM_WORKER_DRAINING);
}

/* The producers are gone. A report that did not come until then, because the client hung, comes no
 * more: those records are sent again, and may be in Kafka. */
static void reclaim_in_flight(struct mm_worker *w)
{
    for (uint64_t i = w->head; i < w->tail && w->n_in_flight > 0; i++) {
        struct entry *e = entry_at(w, i);
        if (e->state != ENTRY_IN_FLIGHT) {
            continue;
        }
        w->n_in_flight--;
        e->state = ENTRY_WAITING;
        e->flags |= ENTRY_MAYBE;
        if ((e->flags & ENTRY_ORPHAN) != 0) {
            drop(w, e);
        }
    }
}

static uint64_t count_maybe(struct mm_worker *w)
{
    uint64_t n = 0;
    for (uint64_t i = w->head; i < w->tail; i++) {
        const struct entry *e = entry_at(w, i);
        n += e->state != ENTRY_DONE && (e->flags & ENTRY_MAYBE) != 0;
    }
    return n;
}

static void end_drain(struct mm_worker *w)
{
    end_producer(w, &w->kafka, 0);
    end_producer(w, &w->single, 0);
    reclaim_in_flight(w);
    uint64_t n_maybe = count_maybe(w);
    if (n_maybe > 0) {
        mm_log_write(w->opts.log, MM_LOG_WARN,
                     "worker %u: %" PRIu64
                     " messages were sent to Kafka without an answer and "
                     "are sent again: they may be there twice, with the same mm-id",
                     w->opts.index, n_maybe);
    }
    w->failed = false;
    go_back(w);
    if (w->park) {
        w->park = false;
        w->probing = true;
        pause_until(w, MM_WORKER_PARKED, w->opts.config->kafka_retry_interval_s);
    } else if (w->suspect_end > w->low && !w->producer_failed) {
        set_state(w, MM_WORKER_SINGLE);
    } else {
        restart_later(w);
    }
}

static uint32_t step_draining(struct mm_worker *w)
{
    if (w->n_in_flight == 0 || w->now_ns >= w->drain_until_ns) {
        end_drain(w);
        return 0;
    }
    take_back(w);
    return PAUSE_POLL_MS;
}

/* Is there nothing to do for so long that being woken is cheaper than looking? */
static bool deep_idle(const struct mm_worker *w)
{
    return w->n_in_flight == 0 && w->n_held == 0 && w->now_ns - w->busy_ns > DEEP_AFTER_NS;
}

static uint32_t step_running(struct mm_worker *w)
{
    if (!w->test_sent) {
        send_test_message(w);
    }
    uint32_t n = !w->probing ? SEND_BATCH : w->n_in_flight == 0 ? 1 : 0;
    bool blocked;
    struct mm_spool_pos before;
    struct mm_spool_pos after;
    mm_spool_cursor(w->reader, &before);
    uint32_t sent = send_some(w, w->kafka, UINT64_MAX, n, &blocked);
    if (w->failed) {
        return 0;
    }
    mm_spool_cursor(w->reader, &after);
    if (after.segment != before.segment || after.offset != before.offset) {
        /* Records of other shards count too: whoever slept now would be woken for each of them. */
        w->busy_ns = w->now_ns;
    }
    if (blocked || w->probing) {
        /* drop_oldest needs us to let go of records soon after it is asked for. */
        bool hurry = w->opts.config->when_full == MM_WHEN_FULL_DROP_OLDEST;
        return hurry ? IDLE_POLL_MS : FULL_POLL_MS;
    }
    if (sent > 0) {
        return 0;
    }
    if (w->tail - w->head == WINDOW_LEN) {
        return FULL_POLL_MS;
    }
    if (mm_spool_pending(w->reader)) {
        return 0; /* records of other shards only, and more behind them */
    }
    if (deep_idle(w) && !stopping(w)) {
        mm_spool_wait(w->reader, DEEP_WAIT_MS);
        return 0;
    }
    return IDLE_POLL_MS;
}

static uint32_t step_single(struct mm_worker *w)
{
    char errstr[256];
    if (w->single == NULL && make_producer(w, true, &w->single, errstr, sizeof errstr) != 0) {
        mm_log_write(w->opts.log, MM_LOG_ERROR, "worker %u: %s", w->opts.index, errstr);
        restart_later(w);
        return 0;
    }
    bool blocked = false;
    uint32_t sent = 0;
    if (w->n_in_flight < SINGLE_IN_FLIGHT) {
        sent = send_some(w, w->single, w->suspect_end, SINGLE_IN_FLIGHT, &blocked);
    }
    if (!w->failed && w->n_in_flight == 0 && w->next >= w->suspect_end) {
        /* The suspects are dealt with. */
        w->restart_s = 0;
        restart_later(w);
        return 0;
    }
    return sent > 0 && !blocked ? 0 : PAUSE_POLL_MS;
}

/* Parked or restarting: when the time has come, go on with a new producer. */
static uint32_t step_paused(struct mm_worker *w)
{
    if (w->now_ns < w->pause_until_ns) {
        return PAUSE_POLL_MS;
    }
    char errstr[256];
    if (w->suspect_end > w->low) {
        set_state(w, MM_WORKER_SINGLE);
        return 0;
    }
    if (make_producer(w, false, &w->kafka, errstr, sizeof errstr) != 0) {
        mm_log_write(w->opts.log, MM_LOG_ERROR, "worker %u: %s", w->opts.index, errstr);
        restart_later(w);
        return PAUSE_POLL_MS;
    }
    mm_gauge_set(&w->m->retry_at_ms, 0);
    set_state(w, MM_WORKER_RUNNING);
    return 0;
}

static uint32_t step(struct mm_worker *w)
{
    switch (w->state) {
        case MM_WORKER_RUNNING:
            return step_running(w);
        case MM_WORKER_DRAINING:
            return step_draining(w);
        case MM_WORKER_SINGLE:
            return step_single(w);
        case MM_WORKER_PARKED:
        case MM_WORKER_RESTARTING:
        default:
            return step_paused(w);
    }
}

/* --- around the states --------------------------------------------------------------------------
 */

/* Serve the producers; without any, sleep. */
static void poll_kafka(struct mm_worker *w, uint32_t timeout_ms)
{
    w->clocks_old = true;
    if (w->kafka != NULL) {
        mm_kafka_poll(w->kafka, timeout_ms);
    }
    if (w->single != NULL) {
        mm_kafka_poll(w->single, w->kafka == NULL ? timeout_ms : 0);
    }
    if (w->kafka == NULL && w->single == NULL && timeout_ms > 0) {
        struct timespec pause = {.tv_nsec = (long)timeout_ms * 1000000};
        nanosleep(&pause, NULL);
    }
}

static void notice_failure(struct mm_worker *w)
{
    if (w->state != MM_WORKER_RUNNING && w->state != MM_WORKER_SINGLE) {
        return;
    }
    struct mm_kafka *kafka = w->state == MM_WORKER_SINGLE ? w->single : w->kafka;
    const char *error;
    const char *reason;
    bool strict;
    if (w->failed || (kafka != NULL && mm_kafka_failed(kafka, &error, &reason, &strict))) {
        start_drain(w);
    }
}

/* Records that drop_oldest wants gone: those that wait are dropped; those in flight give up their
 * place in the log and are dropped if they come back. */
static void let_go_unwanted(struct mm_worker *w)
{
    for (uint64_t i = w->low; i < w->tail; i++) {
        struct entry *e = entry_at(w, i);
        struct mm_spool_pos pos = entry_pos(e);
        if (!mm_spool_unwanted(w->reader, &pos)) {
            return;
        }
        if (e->state == ENTRY_IN_FLIGHT) {
            e->flags |= ENTRY_ORPHAN;
        } else if (e->state != ENTRY_DONE) {
            drop(w, e);
        }
    }
    struct mm_spool_pos cursor;
    for (mm_spool_cursor(w->reader, &cursor);
         mm_spool_unwanted(w->reader, &cursor) && mm_spool_pending(w->reader);
         mm_spool_cursor(w->reader, &cursor)) {
        struct mm_record rec;
        struct mm_spool_pos pos;
        if (mm_spool_next(w->reader, SCAN_MAX, &rec, &pos) != 0) {
            continue;
        }
        if (!mm_spool_unwanted(w->reader, &pos)) {
            mm_spool_seek(w->reader, &pos);
            return;
        }
        struct entry gone = {.state = ENTRY_WAITING};
        w->n_taken++;
        w->n_held++;
        drop(w, &gone);
    }
}

/* Move head and low over what is finished, and tell the log. */
static void advance_low(struct mm_worker *w)
{
    while (w->head < w->tail && entry_at(w, w->head)->state == ENTRY_DONE) {
        w->head++;
    }
    w->low = w->low < w->head ? w->head : w->low;
    while (w->low < w->tail) {
        const struct entry *e = entry_at(w, w->low);
        if (e->state != ENTRY_DONE && (e->flags & ENTRY_ORPHAN) == 0) {
            break;
        }
        w->low++;
    }
    w->next = w->next < w->low ? w->low : w->next;
    if (w->low == w->tail) {
        mm_spool_finish(w->reader, NULL);
        mm_gauge_set(&w->m->oldest_ms, 0);
    } else {
        struct mm_spool_pos pos = entry_pos(entry_at(w, w->low));
        mm_spool_finish(w->reader, &pos);
        mm_gauge_set(&w->m->oldest_ms, entry_at(w, w->low)->time_ms);
    }
}

static void went_up(struct mm_worker *w)
{
    if (w->ever_up) {
        enum mm_log_level level = w->opts.index == 0 ? MM_LOG_INFO : MM_LOG_DEBUG;
        mm_log_write(w->opts.log, level,
                     "worker %u: Kafka is reached again after %" PRIu64 " s; %" PRIu64
                     " messages are in its window",
                     w->opts.index, (w->now_ns - w->down_since_ns) / SECOND_NS, w->n_held);
        /* The Go program wrote one test message at each recovery, into the data topic only. */
        w->test_sent = w->opts.config->kafka_test_topic != NULL;
    } else {
        mm_log_write(w->opts.log, w->opts.index == 0 ? MM_LOG_INFO : MM_LOG_DEBUG,
                     "worker %u: Kafka is reached", w->opts.index);
    }
    w->ever_up = true;
    mm_gauge_set(&w->m->kafka_was_up, 1);
}

static void went_down(struct mm_worker *w, struct mm_kafka *kafka)
{
    w->down_since_ns = w->now_ns;
    enum mm_log_level level = w->opts.index == 0 ? MM_LOG_WARN : MM_LOG_DEBUG;
    if (mm_kafka_up(kafka)) {
        mm_log_write(
            w->opts.log, level,
            "worker %u: connected, but Kafka has confirmed nothing for %u s (is it frozen, "
            "or is topic %s missing?); messages wait in the spool",
            w->opts.index, (unsigned)(STALL_NS / SECOND_NS), w->opts.config->kafka_topic);
        return;
    }
    const char *reason = mm_kafka_last_error(kafka);
    mm_log_write(w->opts.log, level,
                 "worker %u: Kafka is not reached (%s); messages wait in the spool", w->opts.index,
                 reason[0] == '\0' ? "no connection" : reason);
}

static void watch_connection(struct mm_worker *w)
{
    struct mm_kafka *kafka = w->kafka != NULL ? w->kafka : w->single;
    if (kafka == NULL || w->state == MM_WORKER_DRAINING) {
        return; /* a pause of ours says nothing about the cluster */
    }
    bool stalled = w->n_held > 0 && w->now_ns - w->progress_ns > STALL_NS;
    bool up = mm_kafka_up(kafka) && !stalled;
    if (up != w->up) {
        w->up = up;
        mm_gauge_set(&w->m->kafka_up, up);
        if (up) {
            went_up(w);
        } else {
            went_down(w, kafka);
        }
    }
}

/* After an outage: the messages that the Kafka client held were freed, but the allocator keeps
 * their memory. Once, when it is over, since the system's need is not ours to judge. */
static void give_memory_back(struct mm_worker *w)
{
    if (w->n_held > TRIM_ABOVE) {
        w->was_large = true;
    } else if (w->was_large && w->n_held < TRIM_BELOW && w->now_ns >= w->trim_after_ns) {
        w->was_large = false;
        w->trim_after_ns = w->now_ns + TRIM_INTERVAL_NS;
#ifdef __GLIBC__
        (void)malloc_trim(0);
#endif
    }
}

static void publish(struct mm_worker *w)
{
    mm_gauge_set(&w->m->taken, w->n_taken);
    mm_gauge_set(&w->m->held, w->n_held);
    mm_gauge_set(&w->m->in_flight, w->n_in_flight);
    mm_gauge_set(&w->m->heartbeat_ns, w->now_ns);
    uint64_t n_errors = w->n_refusals + w->n_errors_before;
    n_errors += w->kafka == NULL ? 0 : mm_kafka_n_errors(w->kafka);
    n_errors += w->single == NULL ? 0 : mm_kafka_n_errors(w->single);
    mm_gauge_set(&w->m->kafka_errors, n_errors);
}

/* May the thread end? When all is delivered, or the time is over. */
static bool finished(struct mm_worker *w)
{
    if (!stopping(w)) {
        return false;
    }
    return (w->n_held == 0 && !mm_spool_pending(w->reader)) ||
           w->now_ns >= atomic_load_explicit(&w->stop_at_ns, memory_order_relaxed);
}

static void *worker_main(void *arg)
{
    struct mm_worker *w = arg;
    read_clocks(w);
    while (!finished(w)) {
        uint32_t pause_ms = step(w);
        poll_kafka(w, pause_ms);
        read_clocks(w);
        notice_failure(w);
        let_go_unwanted(w);
        advance_low(w);
        watch_connection(w);
        publish(w);
        give_memory_back(w);
    }
    /* Reports that come now still count; what is left stays in the log. */
    set_state(w, MM_WORKER_DRAINING);
    end_producer(w, &w->kafka, 500);
    end_producer(w, &w->single, 100);
    advance_low(w);
    publish(w);
    set_state(w, MM_WORKER_STOPPED);
    return NULL;
}

/* --- start, stop --------------------------------------------------------------------------------
 */

static void free_worker(struct mm_worker *w)
{
    free(w->window);
    free(w->value);
    free(w);
}

int mm_worker_start(const struct mm_worker_options *opts,
                    struct mm_worker **out,
                    char *errstr,
                    size_t errstr_len)
{
    *out = NULL;
    struct mm_worker *w = calloc(1, sizeof *w);
    struct entry *window = calloc(WINDOW_LEN, sizeof *window);
    if (w == NULL || window == NULL) {
        free(w);
        free(window);
        snprintf(errstr, errstr_len, "%s", mm_strerror(MM_ENOMEM));
        return MM_ENOMEM;
    }
    w->opts = *opts;
    w->window = window;
    w->m = opts->metrics;
    w->reader = mm_spool_reader(opts->spool, opts->index);
    snprintf(w->id_prefix, sizeof w->id_prefix, "%s-", mm_spool_uuid(opts->spool));
    read_clocks(w);
    w->busy_ns = w->now_ns;
    set_state(w, MM_WORKER_RUNNING);
    publish(w);

    /* The Kafka client's threads inherit the mask, as ours does: signals are the broker's. */
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int err = make_producer(w, false, &w->kafka, errstr, errstr_len);
    if (err == 0) {
        int thread_err = pthread_create(&w->thread, NULL, worker_main, w);
        if (thread_err != 0) {
            char reason[64];
            snprintf(errstr, errstr_len, "a worker thread could not be started: %s",
                     strerror_r(thread_err, reason, sizeof reason));
            err = MM_ETHREAD;
            mm_kafka_close(w->kafka, 0);
        }
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (err != 0) {
        free_worker(w);
        return err;
    }
    char name[16];
    snprintf(name, sizeof name, "mm-worker-%u", opts->index % 1000);
    pthread_setname_np(w->thread, name);
    *out = w;
    return 0;
}

void mm_worker_stop(struct mm_worker *w, uint32_t drain_ms)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    atomic_store_explicit(
        &w->stop_at_ns,
        (uint64_t)now.tv_sec * SECOND_NS + (uint64_t)now.tv_nsec + drain_ms * UINT64_C(1000000),
        memory_order_relaxed);
    atomic_store_explicit(&w->stop, true, memory_order_release);
}

bool mm_worker_join(struct mm_worker *w, uint32_t timeout_ms)
{
    if (w == NULL) {
        return true;
    }
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += timeout_ms / 1000;
    until.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    if (pthread_timedjoin_np(w->thread, NULL, &until) != 0) {
        return false;
    }
    free_worker(w);
    return true;
}
