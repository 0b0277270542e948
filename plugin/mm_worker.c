#include "mm_worker.h"

#include "mm_clock.h"
#include "mm_config.h"
#include "mm_contact.h"
#include "mm_dead.h"
#include "mm_dead_topic.h"
#include "mm_error.h"
#include "mm_format.h"
#include "mm_kafka.h"
#include "mm_lanes.h"
#include "mm_log.h"
#include "mm_message.h"
#include "mm_metrics.h"
#include "mm_park.h"
#include "mm_record.h"
#include "mm_route.h"
#include "mm_spool.h"
#include "mm_trouble.h"
#include "mm_window.h"

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

/* More than the Kafka clients' queues take together (40,000), with room for what waits behind those
 * or is skipped, so that the window is hardly ever what limits. A power of two: places are found by
 * a mask. */
#define WINDOW_LEN (UINT64_C(1) << 17)
#define SMALL_WINDOW_LEN (UINT64_C(1) << 14) /* of what is parked: there may be many of them */

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

/* A Kafka topic that takes nothing just now is tried again when a report has come for it, and after
 * this time in any case. */
#define BLOCKED_NS SECOND_NS

/* A log of a parked lane that takes nothing is tried again. */
#define FULL_LOG_NS (250 * UINT64_C(1000000))

/* What was parked is on the disk so long after at the latest. */
#define SYNC_NS (200 * UINT64_C(1000000))

/* What the copies of dead letters get at the end: what is left of the time, within these limits. */
#define COPIES_MIN_MS 200
#define COPIES_MAX_MS 1000

#define RESTART_MAX_S 30
#define RETRY_MAX_MS (UINT64_C(300) * 1000)
#define LINE_INTERVAL_NS (60 * UINT64_C(1000000000))
#define SECOND_NS UINT64_C(1000000000)

/* The tag of the test message. A record's tag is its entry in the window. */
#define TEST_TAG NULL

#define ID_LEN 64 /* "<uuid>-<seq>": 36 + 1 + 20 and a NUL at most */

/* What the thread is asked for. It only goes up: who has taken messages back cannot send again. */
enum asked {
    ASKED_NOTHING,
    ASKED_TO_STOP,   /* deliver what is there, until the time is over, and end */
    ASKED_TO_SETTLE, /* send nothing more, await what is in flight, and end */
};

/* A Kafka topic, of mm_lanes.h. */
struct lane
{
    const char *kafka_topic; /* NULL: no record for it was seen yet */
    uint64_t until_ns;       /* blocked: until then at most */
    bool blocked;            /* takes nothing just now; its entries are skipped */
    bool parked;             /* its records go to its log, as long as that takes them */
    const char *refused;     /* why it is to be parked after the drain; NULL: it is not */
    uint64_t n_copied;       /* entries that are in its log and not yet known to be on the disk */
    uint64_t epoch;          /* of mm_park.h, when the first of them was copied */
    uint32_t resync_s;       /* pause after the last sync that failed */
};

struct mm_worker
{
    /* the owner's: immutable while the thread runs */
    bool running; /* there is a thread to be joined */
    struct mm_worker_options opts;
    struct mm_spool_reader *reader;
    struct mm_metrics_worker *m;
    pthread_t thread;
    char id_prefix[40]; /* "<uuid>-" */
    char name[300];     /* for people */

    /* any thread */
    _Atomic int asked;           /* enum asked */
    _Atomic uint64_t stop_at_ns; /* CLOCK_MONOTONIC */
    _Atomic uint64_t n_finished;
    _Atomic(const char *) last_error;

    /* the worker's thread: the window */
    struct mm_window win;
    uint64_t suspect_end; /* entries before it are sent one by one */
    uint64_t n_in_flight;
    struct lane *lanes;  /* the first one has the number first_lane; behind the max_lanes is one
                            for the records that no route gives a Kafka topic */
    uint32_t first_lane; /* 0, or the only one that there is */
    uint32_t max_lanes;  /* that there can be */
    uint32_t n_lanes;    /* all that were seen are before it */
    uint32_t n_blocked;
    bool entered;        /* mm_park_enter(): may have a producer */
    bool released;       /* nothing is to be sent before what we have */
    uint64_t sync_at_ns; /* what was copied is to be synced then */

    /* the worker's thread: sending */
    enum mm_worker_state state;
    struct mm_kafka *kafka;           /* strict; NULL while parked, restarting and single */
    struct mm_kafka *single;          /* NULL until the first suspect */
    struct mm_dead_topic *dead_topic; /* NULL: no copies are wanted */
    bool failed;                      /* a report asks for a drain */
    bool park;                        /* ... and for a pause */
    bool unburied;                    /* ... and for another: a dead letter could not be kept */
    bool lane_parked;                 /* a lane was parked after this drain */
    bool producer_failed;             /* what is drained failed by itself */
    bool probing;                     /* the first record goes alone */
    bool up;
    bool ever_up;
    bool was_large;  /* the window was, since memory was last given back */
    bool clocks_old; /* time may have passed since read_clocks() */
    bool test_sent;
    uint32_t restart_s; /* the last pause before a new producer */
    uint32_t bury_s;    /* the last pause before a dead letter is tried again */
    uint64_t retry_ms;  /* the last pause before a parked topic was tried */
    unsigned int seed;
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
    struct mm_message *message; /* scratch */
    struct mm_log_limit park_limit;
    struct mm_log_limit full_limit;
    struct mm_log_limit dead_limit;
    struct mm_log_limit unburied_limit;
    struct mm_log_limit read_limit;
    struct mm_log_limit drop_limit;
    struct mm_log_limit fail_limit;
    struct mm_contact_told told; /* lent to the producers */
};

/* --- small things -------------------------------------------------------------------------------
 */

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
    return atomic_load_explicit(&w->asked, memory_order_acquire) != ASKED_NOTHING;
}

static bool settling(const struct mm_worker *w)
{
    return atomic_load_explicit(&w->asked, memory_order_acquire) == ASKED_TO_SETTLE;
}

static void set_state(struct mm_worker *w, enum mm_worker_state state)
{
    w->state = state;
    /* While the first record of a parked topic is tried, it is not known to be better yet. */
    mm_gauge_set(&w->m->state, w->probing && state == MM_WORKER_RUNNING ? MM_WORKER_PARKED : state);
}

/* --- lanes --------------------------------------------------------------------------------------
 */

/* A record for this Kafka topic is seen: is it the first? Returns the lane's place in w->lanes. */
static uint32_t know_lane(struct mm_worker *w, uint32_t number)
{
    uint32_t i = number - w->first_lane;
    struct lane *lane = &w->lanes[i];
    if (lane->kafka_topic == NULL) {
        struct mm_park *park = w->opts.role == MM_ROLE_LANE ? NULL : w->opts.park;
        lane->kafka_topic = mm_lanes_name(w->opts.lanes, number);
        lane->parked = park != NULL && mm_park_is_parked(park, number);
        w->n_lanes = i < w->n_lanes ? w->n_lanes : i + 1;
    }
    return i;
}

/* The place of a record's lane in w->lanes; w->max_lanes: it has none. */
static uint32_t lane_of(struct mm_worker *w, const struct mm_record *rec)
{
    if (w->max_lanes == 1) {
        return know_lane(w, w->first_lane);
    }
    struct mm_message_way way;
    mm_message_route(w->opts.config, w->opts.lanes, rec, &way);
    return way.error == NULL ? know_lane(w, way.lane) : w->max_lanes;
}

/* Can a lane be parked alone? */
static bool parks_lanes(const struct mm_worker *w)
{
    return w->opts.park != NULL && w->opts.role != MM_ROLE_LANE && w->max_lanes > 1;
}

static const char *kafka_topic_of(const struct mm_worker *w, const struct mm_entry *e)
{
    return w->lanes[e->lane].kafka_topic;
}

static uint32_t longer_pause(uint32_t seconds)
{
    return seconds == 0 ? 1 : seconds * 2 > RESTART_MAX_S ? RESTART_MAX_S : seconds * 2;
}

static void block(struct mm_worker *w, uint32_t lane, uint64_t ns)
{
    w->n_blocked += !w->lanes[lane].blocked;
    w->lanes[lane].blocked = true;
    w->lanes[lane].until_ns = w->now_ns + ns;
}

static void unblock(struct mm_worker *w, uint32_t lane)
{
    if (w->lanes[lane].blocked) {
        w->lanes[lane].blocked = false;
        w->n_blocked--;
        mm_window_unskip(&w->win);
    }
}

/* Can nothing be sent, whatever comes? */
static bool all_blocked(const struct mm_worker *w)
{
    return w->n_blocked == w->max_lanes;
}

static void unblock_all(struct mm_worker *w)
{
    for (uint32_t i = 0; w->n_blocked > 0; i++) {
        unblock(w, i);
    }
}

static void unblock_due(struct mm_worker *w)
{
    for (uint32_t i = 0; w->n_blocked > 0 && i < w->n_lanes; i++) {
        if (w->now_ns >= w->lanes[i].until_ns) {
            unblock(w, i);
        }
    }
}

/* --- reports ------------------------------------------------------------------------------------
 */

/* A record is about to be finished: has an earlier process counted it already, or is it there
 * twice? */
static bool is_repeat(struct mm_worker *w, uint32_t lane)
{
    const struct mm_worker_options *o = &w->opts;
    if (mm_spool_take_repeat(o->spool) || (o->main != NULL && mm_spool_take_repeat(o->main)) ||
        (o->park != NULL && lane < w->max_lanes &&
         mm_park_take_double(o->park, w->first_lane + lane))) {
        mm_counter_add(&w->m->repeated, 1);
        return true;
    }
    return false;
}

static void deliver(struct mm_worker *w, struct mm_entry *e, const struct mm_kafka_report *r)
{
    if (!is_repeat(w, e->lane)) {
        mm_counter_add(&w->m->delivered, 1);
        mm_counter_add(&w->m->delivered_bytes, r->value_len);
    }
    mm_gauge_set(&w->m->last_delivery_ms, w->now_ms);
    mm_histogram_latency(&w->m->latency,
                         w->now_ms > e->time_ms ? (w->now_ms - e->time_ms) * 1000000 : 0);
    mm_window_finish(&w->win, e);
    w->restart_s = 0;
    w->retry_ms = 0;
    if (w->probing) {
        w->probing = false;
        set_state(w, w->state); /* until now it was shown as parked */
    }
}

static void count_dropped(struct mm_worker *w, uint32_t lane)
{
    if (is_repeat(w, lane)) {
        return;
    }
    mm_counter_add(&w->m->dropped_oldest, 1);
    uint64_t n_held = 0;
    if (mm_log_allowed(&w->drop_limit, w->now_ns, LINE_INTERVAL_NS, &n_held)) {
        mm_log_write(w->opts.log, MM_LOG_WARN,
                     "the spool is full: the oldest messages are dropped (when_full drop_oldest), "
                     "%" PRIu64 " since the last such line",
                     n_held + 1);
    }
}

static void drop(struct mm_worker *w, struct mm_entry *e)
{
    count_dropped(w, e->lane);
    mm_window_finish(&w->win, e);
}

/* The id of a record, its mm-id: the one that it had in the log that it comes from, if it comes
 * from another. Returns the length, without the final NUL. */
static size_t make_id(const struct mm_worker *w, const struct mm_record *rec, char id[ID_LEN])
{
    uint32_t origin_len = 0;
    const uint8_t *origin =
        rec->props_len == 0 ? NULL
                            : mm_prop_get(rec->props, rec->props_len, MM_TAG_ORIGIN, &origin_len);
    if (origin != NULL && origin_len < ID_LEN) {
        memcpy(id, origin, origin_len);
        id[origin_len] = '\0';
        return origin_len;
    }
    size_t len = strlen(w->id_prefix);
    memcpy(id, w->id_prefix, len);
    char digits[20];
    size_t n = 0;
    uint64_t seq = rec->seq;
    do {
        digits[n++] = (char)('0' + seq % 10);
        seq /= 10;
    } while (seq > 0);
    while (n > 0) {
        id[len++] = digits[--n];
    }
    id[len] = '\0';
    return len;
}

static void log_burial(struct mm_worker *w,
                       const struct mm_dead_letter *letter,
                       const char *id,
                       bool kept)
{
    uint64_t n_held = 0;
    if (mm_log_allowed(&w->dead_limit, w->now_ns, LINE_INTERVAL_NS, &n_held)) {
        mm_log_write(w->opts.log, MM_LOG_ERROR,
                     "dead letter: message %s on MQTT topic \"%.*s\" (%zu bytes) was refused for "
                     "Kafka topic %s: %s (%s)%s; %" PRIu64 " more since the last such line",
                     id, letter->topic_len > 128 ? 128 : (int)letter->topic_len, letter->topic,
                     letter->payload_len, letter->kafka_topic, letter->error, letter->reason,
                     kept ? "" : "; dead_letter_max_bytes is too little to keep it", n_held);
    }
}

static void log_unburied(struct mm_worker *w, int err)
{
    uint64_t n_held = 0;
    if (mm_log_allowed(&w->unburied_limit, w->now_ns, LINE_INTERVAL_NS, &n_held)) {
        mm_log_write(w->opts.log, MM_LOG_ERROR,
                     "a message that Kafka never takes cannot be put to the dead letters (%s); it "
                     "stays in the spool and is tried again",
                     mm_strerror(err));
    }
}

static void show_evicted(struct mm_worker *w)
{
    struct mm_dead_stats dead;
    mm_dead_stats(w->opts.dead, &dead);
    mm_gauge_set(&w->m->dead_evicted, dead.n_evicted);
}

/* The Kafka topic that a record was for; "" where that is not known. */
static const char *meant_for(const struct mm_worker *w,
                             const struct mm_entry *e,
                             const struct mm_record *rec,
                             struct mm_message_way *way)
{
    if (e->lane < w->max_lanes) {
        return kafka_topic_of(w, e);
    }
    way->kafka_topic[0] = '\0';
    if (rec->topic != NULL) {
        mm_message_route(w->opts.config, w->opts.lanes, rec, way);
    }
    return way->kafka_topic;
}

/* Keep the record as a dead letter, and send a copy of it where that is wanted. */
static int keep_letter(struct mm_worker *w,
                       const struct mm_entry *e,
                       const struct mm_record *rec,
                       const struct mm_kafka_report *r)
{
    char id[ID_LEN];
    struct mm_message_way way;
    make_id(w, rec, id);
    struct mm_dead_letter letter = {
        .id = id,
        .time_ms = e->time_ms,
        .died_ms = w->now_ms,
        .topic = rec->topic == NULL ? "" : rec->topic,
        .topic_len = rec->topic_len,
        .payload = rec->payload,
        .payload_len = rec->payload_len,
        .props = rec->props,
        .props_len = rec->props_len,
        .flags = rec->flags,
        .kafka_topic = meant_for(w, e, rec, &way),
        .error = r->error,
        .reason = r->reason,
        .lost = rec->topic == NULL,
    };
    int err = mm_dead_add(w->opts.dead, &letter);
    if (err != 0 && err != MM_ETOOBIG) {
        return err;
    }
    show_evicted(w);
    log_burial(w, &letter, id, err == 0);
    mm_dead_topic_send(w->dead_topic, &letter);
    return 0;
}

/* Kafka will never take this record: keep it as a dead letter and go on. False: it cannot be kept
 * just now. */
static bool bury(struct mm_worker *w, struct mm_entry *e, const struct mm_kafka_report *r)
{
    struct mm_spool_pos pos = mm_entry_pos(e);
    struct mm_record rec;
    enum mm_dead_reason reason = r->too_large    ? MM_DEAD_TOO_LARGE
                                 : r->unroutable ? MM_DEAD_UNROUTABLE
                                                 : MM_DEAD_INVALID;
    int err = mm_spool_read(w->reader, &pos, &rec);
    if (err == MM_ECORRUPT) {
        reason = MM_DEAD_UNREADABLE;
        rec = (struct mm_record){.seq = e->seq, .time_ms = e->time_ms};
        err = 0;
    }
    if (err == 0) {
        err = keep_letter(w, e, &rec, r);
    }
    if (err != 0) {
        log_unburied(w, err);
        return false;
    }
    w->bury_s = 0;
    w->restart_s = 0; /* it is an answer: the next one need not wait longer for it */
    if (!is_repeat(w, e->lane)) {
        mm_counter_add(&w->m->dead_lettered[reason], 1);
    }
    mm_window_finish(&w->win, e);
    return true;
}

/* A Kafka topic is refused for a reason that somebody can mend. */
static void refuse_topic(struct mm_worker *w,
                         const struct mm_entry *e,
                         const struct mm_kafka_report *r)
{
    bool alone = parks_lanes(w) && !r->general;
    if (alone) {
        w->lanes[e->lane].refused = r->error;
    } else {
        w->park = true;
    }
    atomic_store_explicit(&w->last_error, r->error, memory_order_relaxed);
    atomic_store_explicit(&w->m->refusal, r->error, memory_order_relaxed);
    const char *hint = mm_trouble_hint(r->error);
    uint64_t n_held = 0;
    if (mm_log_allowed(&w->park_limit, w->now_ns, LINE_INTERVAL_NS, &n_held)) {
        mm_log_write(w->opts.log, MM_LOG_WARN,
                     "Kafka topic %s refuses messages: %s (%s%s%s); they wait in the spool and are "
                     "tried again every %u s%s%s",
                     kafka_topic_of(w, e), r->error, r->reason, hint[0] != '\0' ? ": " : "", hint,
                     w->opts.config->kafka_retry_interval_s,
                     w->opts.role == MM_ROLE_LANE ? " and more" : "",
                     alone ? "; other Kafka topics go on" : "");
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
    struct mm_entry *e = mm_window_at(&w->win, index);
    if (r->maybe_persisted) {
        e->flags |= MM_ENTRY_MAYBE;
    }
    if (r->class == MM_KAFKA_DELIVERED) {
        deliver(w, e, r);
        return;
    }
    if ((e->flags & MM_ENTRY_ORPHAN) != 0) {
        /* Its place in the log may be somebody else's by now: it is not to be read again. */
        w->failed = true;
        drop(w, e);
        return;
    }
    if (r->class == MM_KAFKA_SUSPECT && alone) {
        if (bury(w, e, r)) {
            w->n_refusals += !r->unroutable;
            return;
        }
        w->unburied = true;
    }
    w->failed = true;
    e->state = MM_ENTRY_WAITING;
    switch (r->class) {
        case MM_KAFKA_SUSPECT:
            w->n_refusals++;
            e->state = MM_ENTRY_SUSPECT;
            w->suspect_end = index + 1 > w->suspect_end ? index + 1 : w->suspect_end;
            break;
        case MM_KAFKA_WAIT:
            w->n_refusals++;
            refuse_topic(w, e, r);
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
        unblock_all(w);
        on_test_report(w, r);
        return;
    }
    w->n_in_flight--;
    const struct mm_entry *e = r->tag;
    unblock(w, e->lane);
    settle_report(w, mm_window_index(&w->win, e), r, (e->flags & MM_ENTRY_ALONE) != 0);
}

/* --- sending ------------------------------------------------------------------------------------
 */

/* Why the record of an entry is nothing for Kafka. NULL: it may be. */
static const char *find_fault(const struct mm_worker *w,
                              const struct mm_entry *e,
                              const struct mm_record *rec,
                              struct mm_kafka_report *report)
{
    *report = (struct mm_kafka_report){.class = MM_KAFKA_SUSPECT};
    if (rec->type != MM_RECORD_MESSAGE) {
        report->error = "UNKNOWN_RECORD_TYPE";
        report->reason = "unknown record type";
    } else if (e->lane == w->max_lanes) {
        struct mm_message_way way;
        mm_message_route(w->opts.config, w->opts.lanes, rec, &way);
        report->unroutable = true;
        report->error = way.error != NULL ? way.error : "KAFKA_TOPIC_NOT_ALLOWED";
        report->reason = way.error != NULL ? way.reason : "no route took it when it came";
    } else if (rec->payload_len > w->opts.config->max_message_bytes) {
        /* Not worth the making: the client would refuse it. */
        report->too_large = true;
        report->error = "MSG_SIZE_TOO_LARGE";
        report->reason = "larger than max_message_bytes";
    }
    return report->error;
}

static int produce(struct mm_worker *w,
                   struct mm_kafka *kafka,
                   struct mm_entry *e,
                   const struct mm_record *rec,
                   struct mm_kafka_report *report)
{
    const struct mm_config *config = w->opts.config;
    if (find_fault(w, e, rec, report) != NULL) {
        return MM_EKAFKA;
    }
    char id[ID_LEN];
    struct mm_message_source source = {
        .rec = rec, .id = id, .id_len = make_id(w, rec, id), .now_ms = w->now_ms};
    struct mm_kafka_message m;
    if (mm_message_make(w->message, config, mm_route_find(config, rec->topic, rec->topic_len),
                        &source, &m) != 0) {
        return MM_EFULL; /* memory may come back; the record stays where it is */
    }
    m.topic = kafka_topic_of(w, e);
    m.tag = e;
    return mm_kafka_produce(kafka, &m, report);
}

/* Send one entry. Errors: as mm_kafka_produce() but MM_EKAFKA: a refusal on the spot is settled. */
static int send_entry(struct mm_worker *w,
                      struct mm_kafka *kafka,
                      uint64_t index,
                      const struct mm_record *rec)
{
    struct mm_entry *e = mm_window_at(&w->win, index);
    struct mm_kafka_report report;
    int err = produce(w, kafka, e, rec, &report);
    if (err == MM_EKAFKA) {
        settle_report(w, index, &report, true);
        return 0;
    }
    if (err != 0) {
        return err;
    }
    if ((e->flags & MM_ENTRY_SENT) != 0) {
        mm_counter_add(&w->m->retried, 1);
    }
    if ((e->flags & MM_ENTRY_MAYBE) != 0) {
        mm_counter_add(&w->m->maybe_duplicated, 1);
    }
    e->state = MM_ENTRY_IN_FLIGHT;
    e->flags = (uint8_t)((e->flags | MM_ENTRY_SENT) & ~(MM_ENTRY_MAYBE | MM_ENTRY_ALONE));
    e->flags |= kafka == w->single ? MM_ENTRY_ALONE : 0;
    if (w->n_in_flight++ == 0) {
        w->progress_ns = w->now_ns;
    }
    w->busy_ns = w->now_ns;
    return 0;
}

/* The disk does not give a record just now. It is no dead letter for that. */
static void note_unreadable(struct mm_worker *w)
{
    uint64_t n_held = 0;
    if (mm_log_allowed(&w->read_limit, w->now_ns, LINE_INTERVAL_NS, &n_held)) {
        mm_log_write(w->opts.log, MM_LOG_ERROR,
                     "%s: the spool cannot be read (%s); its messages wait and are tried "
                     "again, %" PRIu64 " times since the last such line",
                     w->name, mm_strerror(MM_EIO), n_held);
    }
}

/* Take the next record of the shard into the window. Errors: MM_EAGAIN, there is none, or no room;
 * MM_EIO. */
static int take(struct mm_worker *w, struct mm_record *rec)
{
    struct mm_spool_pos pos;
    if (mm_window_full(&w->win)) {
        return MM_EAGAIN;
    }
    int err = mm_spool_next(w->reader, SCAN_MAX, rec, &pos);
    if (err != 0) {
        return err;
    }
    (void)mm_window_add(&w->win, &pos, rec->time_ms, (uint16_t)lane_of(w, rec));
    return 0;
}

/* --- parking a lane -----------------------------------------------------------------------------
 */

/* The lane's log takes nothing. Its records wait, and hold up no other until the window is full. */
static void note_full_log(struct mm_worker *w, const struct lane *lane, int err)
{
    uint64_t n_held = 0;
    if (mm_log_allowed(&w->full_limit, w->now_ns, LINE_INTERVAL_NS, &n_held)) {
        mm_log_write(w->opts.log, MM_LOG_ERROR,
                     "%s: the messages for Kafka topic %s, which is parked, cannot be laid aside "
                     "(%s); they wait in the spool, and soon all others behind them",
                     w->name, lane->kafka_topic, mm_strerror(err));
    }
}

/* Put the record of an entry that waits into its lane's log. With reason, park the lane for it.
 * Errors: as mm_park_add(). */
static int lay_aside(struct mm_worker *w,
                     struct mm_entry *e,
                     const struct mm_record *rec,
                     const char *reason)
{
    struct lane *lane = &w->lanes[e->lane];
    char id[ID_LEN];
    (void)make_id(w, rec, id);
    if (lane->n_copied == 0) {
        lane->epoch = mm_park_epoch(w->opts.park, e->lane);
    }
    int err = mm_park_add(w->opts.park, e->lane, rec, id, reason);
    if (err != 0) {
        return err;
    }
    if (mm_spool_take_repeat(w->opts.spool)) {
        /* An earlier process had counted it, and laid it aside most likely: it is there twice. */
        mm_park_note_doubles(w->opts.park, e->lane, 1);
    }
    if (w->win.n_copied == 0) {
        bool at_once =
            w->opts.config->spool_dir == NULL || w->opts.config->spool_sync == MM_SPOOL_SYNC_NEVER;
        w->sync_at_ns = w->now_ns + (at_once ? 0 : SYNC_NS);
    }
    mm_counter_add(&w->m->parked, 1);
    mm_window_copy(&w->win, e);
    e->flags &= (uint8_t)~MM_ENTRY_MAYBE;
    lane->n_copied++;
    w->busy_ns = w->now_ns;
    return 0;
}

/* The log of a lane could not be synced: what was copied since is copied again, later. */
static void copy_again(struct mm_worker *w, uint32_t lane)
{
    struct lane *l = &w->lanes[lane];
    mm_park_note_doubles(w->opts.park, lane, l->n_copied);
    for (uint64_t i = w->win.low; i < w->win.tail && l->n_copied > 0; i++) {
        struct mm_entry *e = mm_window_at(&w->win, i);
        if (e->state == MM_ENTRY_COPIED && e->lane == lane) {
            mm_window_uncopy(&w->win, e);
            l->n_copied--;
        }
    }
    l->resync_s = longer_pause(l->resync_s);
    block(w, lane, l->resync_s * SECOND_NS);
    note_full_log(w, l, MM_EIO);
}

static void finish_copied(struct mm_worker *w, uint32_t lane)
{
    struct lane *l = &w->lanes[lane];
    for (uint64_t i = w->win.low; i < w->win.tail && l->n_copied > 0; i++) {
        struct mm_entry *e = mm_window_at(&w->win, i);
        if (e->state == MM_ENTRY_COPIED && e->lane == lane) {
            mm_window_finish(&w->win, e);
            l->n_copied--;
        }
    }
    l->resync_s = 0;
}

/* What was copied is finished once it is on the disk: many at a time, since that takes long. */
static void sync_copied(struct mm_worker *w, bool now)
{
    if (w->win.n_copied == 0 || (!now && w->now_ns < w->sync_at_ns)) {
        return;
    }
    for (uint32_t i = 0; i < w->n_lanes; i++) {
        if (w->lanes[i].n_copied == 0) {
            continue;
        }
        if (mm_park_sync(w->opts.park, i, w->lanes[i].epoch) == 0) {
            finish_copied(w, i);
        } else {
            copy_again(w, i);
        }
    }
}

/* Park a lane that was refused, with the first of its records. Nothing is in flight. Errors: as
 * mm_park_add(), and MM_EIO. */
static int park_lane(struct mm_worker *w, uint32_t lane)
{
    for (uint64_t i = w->win.low; i < w->win.tail; i++) {
        struct mm_entry *e = mm_window_at(&w->win, i);
        if (e->lane != lane || (e->state != MM_ENTRY_WAITING && e->state != MM_ENTRY_SUSPECT)) {
            continue;
        }
        struct mm_record rec;
        struct mm_spool_pos pos = mm_entry_pos(e);
        int err = mm_spool_read(w->reader, &pos, &rec);
        if (err == MM_ECORRUPT) {
            continue; /* it is found out again when it is to be sent */
        }
        return err != 0 ? err : lay_aside(w, e, &rec, w->lanes[lane].refused);
    }
    return 0; /* there is none any more */
}

/* After a drain. False: a log is just being closed, come again. */
static bool park_refused(struct mm_worker *w, bool last_try)
{
    for (uint32_t i = 0; i < w->n_lanes; i++) {
        struct lane *lane = &w->lanes[i];
        if (lane->refused == NULL) {
            continue;
        }
        int err = park_lane(w, i);
        if (err == MM_EBUSY && !last_try) {
            return false;
        }
        if (err == 0) {
            lane->parked = mm_park_is_parked(w->opts.park, i);
            w->lane_parked = true;
        } else {
            note_full_log(w, lane, err);
            w->park = true;
        }
        lane->refused = NULL;
    }
    return true;
}

/* What is to be sent before all else has been: which lanes are parked? */
static bool release(struct mm_worker *w)
{
    struct mm_park *park = w->opts.park;
    if (w->released) {
        return true;
    }
    if (park != NULL && w->opts.role == MM_ROLE_MAIN && mm_park_comes_first(park)) {
        return false;
    }
    /* Of those that were seen before, to be dropped. */
    for (uint32_t i = 0; park != NULL && w->opts.role != MM_ROLE_LANE && i < w->n_lanes; i++) {
        w->lanes[i].parked = mm_park_is_parked(park, i);
    }
    w->released = true;
    return true;
}

/* --- the sending loop ---------------------------------------------------------------------------
 */

/* Can the entry at index w->win.next be sent, as far as is known without its record? If not, pass
 * it. */
static bool is_next(struct mm_worker *w)
{
    const struct mm_entry *e = mm_window_at(&w->win, w->win.next);
    if (e->state != MM_ENTRY_WAITING && e->state != MM_ENTRY_SUSPECT) {
        w->win.next++;
        return false;
    }
    if ((e->flags & MM_ENTRY_UNROUTED) == 0 && w->lanes[e->lane].blocked) {
        mm_window_skip(&w->win);
        return false;
    }
    return true;
}

/* The same for one whose record has been read: where the routes have changed since it was taken, it
 * is only now found out where it goes. */
static bool is_routed_next(struct mm_worker *w, const struct mm_record *rec)
{
    struct mm_entry *e = mm_window_at(&w->win, w->win.next);
    if ((e->flags & MM_ENTRY_UNROUTED) == 0) {
        return true;
    }
    e->lane = (uint16_t)lane_of(w, rec);
    e->flags &= (uint8_t)~MM_ENTRY_UNROUTED;
    return is_next(w);
}

/* The record to send next, at index w->win.next. Errors: MM_EAGAIN, there is none; MM_EIO. */
static int next_record(struct mm_worker *w, uint64_t end, struct mm_record *rec)
{
    while (w->win.next < end && w->win.next < w->win.tail) {
        if (!is_next(w)) {
            continue;
        }
        struct mm_spool_pos pos = mm_entry_pos(mm_window_at(&w->win, w->win.next));
        int err = mm_spool_read(w->reader, &pos, rec);
        if (err == 0 && !is_routed_next(w, rec)) {
            continue;
        }
        if (err != MM_ECORRUPT) {
            return err;
        }
        struct mm_kafka_report report = {.class = MM_KAFKA_SUSPECT,
                                         .error = "unreadable",
                                         .reason = "the record is damaged in the spool"};
        settle_report(w, w->win.next, &report, true);
        if (w->failed) {
            return MM_EAGAIN;
        }
    }
    while (w->win.next < end) {
        int err = take(w, rec);
        if (err != 0 || is_next(w)) {
            return err;
        }
    }
    return MM_EAGAIN;
}

/* Send the entry at index w->win.next, or lay it aside where its lane is parked. Errors: MM_EAGAIN,
 * its lane takes nothing just now, and is blocked; MM_EFULL, the client takes nothing. */
static int send_next(struct mm_worker *w, struct mm_kafka *kafka, const struct mm_record *rec)
{
    struct mm_entry *e = mm_window_at(&w->win, w->win.next);
    struct lane *lane = &w->lanes[e->lane];
    if (lane->parked) {
        int err = lay_aside(w, e, rec, NULL);
        if (err == 0) {
            return 0;
        }
        if (err != MM_EAGAIN) {
            note_full_log(w, lane, err);
            block(w, e->lane, FULL_LOG_NS);
            return MM_EAGAIN;
        }
        lane->parked = false;
    }
    int err = send_entry(w, kafka, w->win.next, rec);
    if (err == MM_EAGAIN) {
        block(w, e->lane, BLOCKED_NS);
    }
    return err;
}

/* Send up to n records before index end. Returns how many were sent or laid aside; *blocked tells
 * that there may be more, but that the client takes them, or the disk gives them, only later. */
static uint32_t send_some(struct mm_worker *w,
                          struct mm_kafka *kafka,
                          uint64_t end,
                          uint32_t n,
                          bool *blocked)
{
    uint32_t sent = 0;
    unblock_due(w);
    *blocked = all_blocked(w);
    while (sent < n && !*blocked && !w->failed) {
        struct mm_record rec;
        int err = next_record(w, end, &rec);
        if (err == MM_EAGAIN) {
            break;
        }
        if (err == MM_EIO) {
            note_unreadable(w);
            *blocked = true;
            break;
        }
        err = send_next(w, kafka, &rec);
        if (err == 0) {
            sent++;
            w->win.next += !w->failed;
        } else {
            *blocked = err != MM_EAGAIN || all_blocked(w);
        }
    }
    return sent;
}

/* Is kafka_topic parked, which has lane 0? */
static bool default_is_parked(const struct mm_worker *w)
{
    return w->opts.park != NULL && mm_park_is_parked(w->opts.park, 0);
}

/* The Go program's sign of life; see README. The client keeps it until Kafka is there. */
static void send_test_message(struct mm_worker *w)
{
    const struct mm_config *config = w->opts.config;
    bool own_topic = config->kafka_test_topic != NULL;
    w->test_sent = true;
    if (!config->kafka_test_message || (own_topic && w->opts.index != 0) ||
        w->opts.role != MM_ROLE_MAIN || (!own_topic && default_is_parked(w))) {
        return;
    }
    const char *text =
        own_topic ? "Internal test to see if kafka is alive at startup" : "Just a test";
    char value[1024];
    if (mm_format_json_bound(config->format, 4, strlen(text)) > sizeof value) {
        return;
    }
    struct mm_kafka_message m = {
        .topic = own_topic ? config->kafka_test_topic : config->kafka_topic,
        .key = "test",
        .key_len = 4,
        .value = value,
        .value_len = mm_format_json(config->format, "test", 4, text, strlen(text), value),
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

static int make_producer(struct mm_worker *w,
                         bool single,
                         struct mm_kafka **out,
                         char *errstr,
                         size_t errstr_len)
{
    struct mm_kafka_options opts = {
        .config = w->opts.config,
        .single = single,
        .quiet = w->opts.index != 0 || w->opts.role != MM_ROLE_MAIN,
        .up = w->up,
        .on_report = on_report,
        .arg = w,
        .log = w->opts.log,
        .gate = w->opts.gate,
        .told = &w->told,
    };
    unblock_all(w);
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

/* Of the workers of parked lanes only some have producers. False: not now. */
static bool may_have_producer(struct mm_worker *w)
{
    if (w->opts.role == MM_ROLE_LANE && w->opts.park != NULL && !w->entered) {
        w->entered = mm_park_enter(w->opts.park);
        return w->entered;
    }
    return true;
}

static void leave(struct mm_worker *w)
{
    if (w->entered) {
        mm_park_leave(w->opts.park);
        w->entered = false;
    }
}

static void pause_for(struct mm_worker *w, enum mm_worker_state state, uint64_t ms)
{
    w->pause_until_ns = w->now_ns + ms * 1000000;
    mm_gauge_set(&w->m->retry_at_ms, state == MM_WORKER_PARKED ? w->now_ms + ms : 0);
    set_state(w, state);
}

/* Wait for the next try of a refused topic: the interval that is set; where only that topic waits
 * for it, longer and longer, and not all topics at the same time. */
static void park(struct mm_worker *w)
{
    uint64_t interval_ms = w->opts.config->kafka_retry_interval_s * UINT64_C(1000);
    uint64_t ms = interval_ms;
    if (w->opts.role == MM_ROLE_LANE) {
        uint64_t max_ms = interval_ms > RETRY_MAX_MS ? interval_ms : RETRY_MAX_MS;
        ms = w->retry_ms == 0 ? interval_ms : w->retry_ms * 3 / 2;
        ms = w->retry_ms = ms > max_ms ? max_ms : ms;
        ms += ms * (uint64_t)(rand_r(&w->seed) % 200) / 1000;
    }
    w->probing = true;
    pause_for(w, MM_WORKER_PARKED, ms);
}

static void restart_later(struct mm_worker *w)
{
    uint64_t seconds = w->restart_s;
    w->restart_s = longer_pause(w->restart_s);
    mm_counter_add(&w->m->producer_restarts, 1);
    pause_for(w, MM_WORKER_RESTARTING, seconds * 1000);
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
    const char *hint = mm_trouble_hint(error);
    uint64_t n_held = 0;
    if (strict) {
        mm_log_write(w->opts.log, MM_LOG_DEBUG, "%s: %s", w->name, reason);
    } else if (mm_log_allowed(&w->fail_limit, w->now_ns, SECOND_NS, &n_held)) {
        mm_log_write(w->opts.log, MM_LOG_WARN,
                     "%s: the Kafka producer stopped (%s: %s%s%s); a new one goes on at the "
                     "oldest message that is not delivered, %" PRIu64 " are in flight",
                     w->name, error, reason, hint[0] != '\0' ? ": " : "", hint, w->n_in_flight);
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
    for (uint64_t i = w->win.head; i < w->win.tail && w->n_in_flight > 0; i++) {
        struct mm_entry *e = mm_window_at(&w->win, i);
        if (e->state != MM_ENTRY_IN_FLIGHT) {
            continue;
        }
        w->n_in_flight--;
        e->state = MM_ENTRY_WAITING;
        e->flags |= MM_ENTRY_MAYBE;
        if ((e->flags & MM_ENTRY_ORPHAN) != 0) {
            drop(w, e);
        }
    }
}

static uint64_t count_maybe(struct mm_worker *w)
{
    uint64_t n = 0;
    for (uint64_t i = w->win.head; i < w->win.tail; i++) {
        const struct mm_entry *e = mm_window_at(&w->win, i);
        n += e->state != MM_ENTRY_DONE && (e->flags & MM_ENTRY_MAYBE) != 0;
    }
    return n;
}

/* Nothing is in flight any more, or not to be waited for: end the producers. */
static void end_producers(struct mm_worker *w)
{
    if (w->kafka == NULL && w->single == NULL) {
        return;
    }
    end_producer(w, &w->kafka, 0);
    end_producer(w, &w->single, 0);
    reclaim_in_flight(w);
    uint64_t n_maybe = count_maybe(w);
    if (n_maybe > 0) {
        mm_log_write(w->opts.log, MM_LOG_WARN,
                     "%s: %" PRIu64
                     " messages were sent to Kafka without an answer and "
                     "are sent again: they may be there twice, with the same mm-id",
                     w->name, n_maybe);
    }
}

/* What comes after a drain. */
static void end_drain(struct mm_worker *w)
{
    bool parked = w->park;
    bool lane_parked = w->lane_parked;
    bool unburied = w->unburied;
    w->park = false;
    w->lane_parked = false;
    w->unburied = false;
    w->failed = false;
    unblock_all(w);
    mm_window_go_back(&w->win); /* to the oldest record that is not finished */
    if (parked) {
        leave(w);
        park(w);
    } else if (unburied) {
        w->bury_s = longer_pause(w->bury_s);
        pause_for(w, MM_WORKER_RESTARTING, w->bury_s * UINT64_C(1000));
    } else if (w->suspect_end > w->win.low && !w->producer_failed) {
        set_state(w, MM_WORKER_SINGLE);
    } else if (lane_parked) {
        mm_counter_add(&w->m->producer_restarts, 1);
        pause_for(w, MM_WORKER_RESTARTING, 0); /* the other topics need not wait */
    } else {
        restart_later(w);
    }
}

static uint32_t step_draining(struct mm_worker *w)
{
    if (w->n_in_flight > 0 && w->now_ns < w->drain_until_ns) {
        take_back(w);
        return PAUSE_POLL_MS;
    }
    end_producers(w);
    if (!park_refused(w, w->now_ns >= w->drain_until_ns + DRAIN_MAX_NS)) {
        return PAUSE_POLL_MS;
    }
    end_drain(w);
    return 0;
}

/* Is there nothing to do for so long that being woken is cheaper than looking? */
static bool deep_idle(const struct mm_worker *w)
{
    return w->n_in_flight == 0 && w->win.n_held == 0 && w->now_ns - w->busy_ns > DEEP_AFTER_NS;
}

/* Records to send now, at most. One at a time while a topic is tried; and where a header tells how
 * long a record has waited, while Kafka is not reached: the time in the Kafka client is not in it.
 */
static uint32_t to_send(const struct mm_worker *w)
{
    bool one = w->probing || (w->opts.config->tells_wait && !w->up);
    return !one ? SEND_BATCH : w->n_in_flight == 0 ? 1 : 0;
}

static uint32_t step_running(struct mm_worker *w)
{
    if (!release(w)) {
        return PAUSE_POLL_MS;
    }
    if (!w->test_sent) {
        send_test_message(w);
    }
    uint32_t n = to_send(w);
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
    if (blocked || n < SEND_BATCH) {
        /* drop_oldest needs us to let go of records soon after it is asked for. */
        bool hurry = w->opts.config->when_full == MM_WHEN_FULL_DROP_OLDEST;
        return hurry ? IDLE_POLL_MS : FULL_POLL_MS;
    }
    if (sent > 0) {
        return 0;
    }
    if (mm_window_full(&w->win)) {
        return FULL_POLL_MS;
    }
    if (w->n_blocked == 0 && mm_spool_pending(w->reader)) {
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
        mm_log_write(w->opts.log, MM_LOG_ERROR, "%s: %s", w->name, errstr);
        restart_later(w);
        return 0;
    }
    bool blocked = false;
    uint32_t sent = 0;
    if (w->n_in_flight < SINGLE_IN_FLIGHT) {
        sent = send_some(w, w->single, w->suspect_end, SINGLE_IN_FLIGHT, &blocked);
    }
    if (!w->failed && w->n_in_flight == 0 && w->win.next >= w->suspect_end &&
        w->win.skipped == UINT64_MAX) {
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
        if (w->opts.role == MM_ROLE_LANE && w->win.tail == 0) {
            struct mm_record rec;
            (void)take(w, &rec); /* so that it is known how old it is */
        }
        return PAUSE_POLL_MS;
    }
    char errstr[256];
    if (!may_have_producer(w)) {
        return PAUSE_POLL_MS;
    }
    if (w->suspect_end > w->win.low) {
        if (!release(w)) {
            return PAUSE_POLL_MS;
        }
        set_state(w, MM_WORKER_SINGLE);
        return 0;
    }
    if (make_producer(w, false, &w->kafka, errstr, sizeof errstr) != 0) {
        mm_log_write(w->opts.log, MM_LOG_ERROR, "%s: %s", w->name, errstr);
        restart_later(w);
        return PAUSE_POLL_MS;
    }
    mm_gauge_set(&w->m->retry_at_ms, 0);
    set_state(w, MM_WORKER_RUNNING);
    return 0;
}

/* Nothing is sent any more. */
static uint32_t step_settling(struct mm_worker *w)
{
    set_state(w, MM_WORKER_DRAINING);
    take_back(w);
    return w->n_in_flight > 0 ? PAUSE_POLL_MS : 0;
}

static uint32_t step(struct mm_worker *w)
{
    if (settling(w)) {
        return step_settling(w);
    }
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
    mm_dead_topic_poll(w->dead_topic);
    if (w->kafka == NULL && w->single == NULL && timeout_ms > 0) {
        struct timespec pause = {.tv_nsec = (long)timeout_ms * 1000000};
        nanosleep(&pause, NULL);
    }
}

static void notice_failure(struct mm_worker *w)
{
    if ((w->state != MM_WORKER_RUNNING && w->state != MM_WORKER_SINGLE) || settling(w)) {
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
    for (uint64_t i = w->win.low; i < w->win.tail; i++) {
        struct mm_entry *e = mm_window_at(&w->win, i);
        struct mm_spool_pos pos = mm_entry_pos(e);
        if (!mm_spool_unwanted(w->reader, &pos)) {
            return;
        }
        if (e->state == MM_ENTRY_IN_FLIGHT) {
            e->flags |= MM_ENTRY_ORPHAN;
        } else if (e->state == MM_ENTRY_COPIED) {
            w->lanes[e->lane].n_copied--;
            mm_window_finish(&w->win, e);
        } else if (e->state != MM_ENTRY_DONE) {
            drop(w, e);
        }
    }
    struct mm_spool_pos cursor;
    for (mm_spool_cursor(w->reader, &cursor);
         mm_spool_unwanted(w->reader, &cursor) && mm_spool_pending(w->reader);
         mm_spool_cursor(w->reader, &cursor)) {
        struct mm_record rec;
        struct mm_spool_pos pos;
        int err = mm_spool_next(w->reader, SCAN_MAX, &rec, &pos);
        if (err == MM_EIO) {
            note_unreadable(w);
            return;
        }
        if (err != 0) {
            continue;
        }
        if (!mm_spool_unwanted(w->reader, &pos)) {
            mm_spool_seek(w->reader, &pos);
            return;
        }
        mm_window_pass(&w->win);
        count_dropped(w, lane_of(w, &rec));
    }
}

/* Move head and low over what is finished, and tell the log. */
static void advance_low(struct mm_worker *w)
{
    mm_window_advance(&w->win);
    if (w->win.low == w->win.tail) {
        mm_spool_finish(w->reader, NULL, mm_window_n_finished(&w->win), 0);
        mm_gauge_set(&w->m->oldest_ms, 0);
    } else {
        struct mm_spool_pos pos = mm_entry_pos(mm_window_at(&w->win, w->win.low));
        mm_spool_finish(w->reader, &pos, mm_window_n_finished(&w->win), w->win.n_ahead);
        mm_gauge_set(&w->m->oldest_ms, mm_window_at(&w->win, w->win.low)->time_ms);
    }
    /* Releases the deliveries before it; see mm_park.c. */
    atomic_store_explicit(&w->n_finished, mm_window_n_finished(&w->win), memory_order_release);
}

uint64_t mm_worker_n_finished(const struct mm_worker *w)
{
    return atomic_load_explicit(&w->n_finished, memory_order_acquire);
}

const char *mm_worker_last_error(const struct mm_worker *w)
{
    return atomic_load_explicit(&w->last_error, memory_order_relaxed);
}

/* Shows what is of interest to all only for one of the workers. */
static enum mm_log_level level_of(const struct mm_worker *w, enum mm_log_level level)
{
    return w->opts.index == 0 && w->opts.role == MM_ROLE_MAIN ? level : MM_LOG_DEBUG;
}

static void went_up(struct mm_worker *w)
{
    if (w->ever_up) {
        mm_log_write(w->opts.log, level_of(w, MM_LOG_INFO),
                     "%s: Kafka is reached again after %" PRIu64 " s; %" PRIu64
                     " messages are in its window",
                     w->name, (w->now_ns - w->down_since_ns) / SECOND_NS, w->win.n_held);
        /* The Go program wrote one test message at each recovery, into the data topic only. */
        w->test_sent = w->opts.config->kafka_test_topic != NULL;
    } else {
        mm_log_write(w->opts.log, level_of(w, MM_LOG_INFO), "%s: Kafka is reached", w->name);
    }
    w->ever_up = true;
    mm_gauge_set(&w->m->kafka_was_up, 1);
}

/* The Kafka topic of the oldest message that Kafka has not confirmed. */
static const char *topic_in_flight(struct mm_worker *w)
{
    for (uint64_t i = w->win.head; i < w->win.tail; i++) {
        const struct mm_entry *e = mm_window_at(&w->win, i);
        if (e->state == MM_ENTRY_IN_FLIGHT) {
            return kafka_topic_of(w, e);
        }
    }
    return w->opts.config->kafka_topic;
}

static void went_down(struct mm_worker *w, struct mm_kafka *kafka)
{
    w->down_since_ns = w->now_ns;
    enum mm_log_level level = level_of(w, MM_LOG_WARN);
    if (mm_kafka_up(kafka)) {
        mm_log_write(w->opts.log, level,
                     "%s: connected, but Kafka has confirmed nothing for %u s (is it frozen, "
                     "or is topic %s missing?); messages wait in the spool",
                     w->name, (unsigned)(STALL_NS / SECOND_NS), topic_in_flight(w));
        return;
    }
    const char *reason = mm_kafka_last_error(kafka);
    mm_log_write(w->opts.log, level, "%s: Kafka is not reached (%s); messages wait in the spool",
                 w->name, reason[0] == '\0' ? "no connection" : reason);
}

static void watch_connection(struct mm_worker *w)
{
    struct mm_kafka *kafka = w->kafka != NULL ? w->kafka : w->single;
    if (kafka == NULL || w->state == MM_WORKER_DRAINING) {
        return; /* a pause of ours says nothing about the cluster */
    }
    bool stalled = w->n_in_flight > 0 && w->now_ns - w->progress_ns > STALL_NS;
    bool up = mm_kafka_up(kafka) && !stalled;
    if (!up) {
        const char *error =
            stalled && mm_kafka_up(kafka) ? MM_METRICS_STALLED : mm_kafka_last_error_name(kafka);
        atomic_store_explicit(&w->m->down_error, error, memory_order_relaxed);
    }
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
    if (w->win.n_held > TRIM_ABOVE) {
        w->was_large = true;
    } else if (w->was_large && w->win.n_held < TRIM_BELOW && w->now_ns >= w->trim_after_ns) {
        w->was_large = false;
        w->trim_after_ns = w->now_ns + TRIM_INTERVAL_NS;
#ifdef __GLIBC__
        (void)malloc_trim(0);
#endif
    }
}

static void publish(struct mm_worker *w)
{
    mm_gauge_set(&w->m->taken, w->win.n_taken);
    mm_gauge_set(&w->m->held, w->win.n_held);
    mm_gauge_set(&w->m->in_flight, w->n_in_flight);
    mm_gauge_set(&w->m->heartbeat_ns, w->now_ns);
    uint64_t n_errors = w->n_refusals + w->n_errors_before;
    n_errors += w->kafka == NULL ? 0 : mm_kafka_n_errors(w->kafka);
    n_errors += w->single == NULL ? 0 : mm_kafka_n_errors(w->single);
    mm_gauge_set(&w->m->kafka_errors, n_errors);
}

/* May the thread end? When all is delivered, or nothing is in flight where only that was asked for,
 * or the time is over. */
static bool finished(struct mm_worker *w)
{
    if (!stopping(w)) {
        return false;
    }
    if (settling(w) && w->n_in_flight == 0) {
        return true;
    }
    uint64_t stop_at_ns = atomic_load_explicit(&w->stop_at_ns, memory_order_relaxed);
    /* What is parked is not waited for when it is not to be tried before the time is over. */
    bool waits = w->opts.role == MM_ROLE_LANE && w->state == MM_WORKER_PARKED &&
                 w->pause_until_ns >= stop_at_ns;
    return (w->win.n_held == 0 && !mm_spool_pending(w->reader)) || waits || w->now_ns >= stop_at_ns;
}

/* The thread ends: give the copies that are on their way a moment. */
static void end_copies(struct mm_worker *w)
{
    uint64_t stop_at_ns = atomic_load_explicit(&w->stop_at_ns, memory_order_relaxed);
    read_clocks(w);
    uint64_t left_ms = w->now_ns < stop_at_ns ? (stop_at_ns - w->now_ns) / 1000000 : 0;
    left_ms = left_ms < COPIES_MIN_MS ? COPIES_MIN_MS : left_ms;
    mm_dead_topic_close(w->dead_topic, left_ms > COPIES_MAX_MS ? COPIES_MAX_MS : (uint32_t)left_ms);
    w->dead_topic = NULL;
}

/* The thread ends, and all with it: what is left stays in the log. */
static void end_all(struct mm_worker *w)
{
    set_state(w, MM_WORKER_DRAINING);
    end_producer(w, &w->kafka, 500); /* reports that come now still count */
    end_producer(w, &w->single, 100);
    leave(w);
    end_copies(w); /* after all that may make a dead letter */
    sync_copied(w, true);
    advance_low(w);
    publish(w);
    set_state(w, MM_WORKER_STOPPED);
}

/* The thread ends, and another one goes on where it has come to. */
static void end_for_now(struct mm_worker *w)
{
    end_producers(w);
    leave(w);
    end_copies(w);
    sync_copied(w, true);
    mm_window_go_back(&w->win);
    advance_low(w);
    publish(w);
    set_state(w, MM_WORKER_RESTARTING);
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
        sync_copied(w, false);
        advance_low(w);
        watch_connection(w);
        publish(w);
        give_memory_back(w);
    }
    if (settling(w)) {
        end_for_now(w);
    } else {
        end_all(w);
    }
    return NULL;
}

/* --- start, stop --------------------------------------------------------------------------------
 */

static void free_worker(struct mm_worker *w)
{
    mm_dead_topic_close(w->dead_topic, 0);
    mm_window_fini(&w->win);
    free(w->lanes);
    mm_message_free(w->message);
    free(w);
}

/* Room for what is known of the Kafka topics that the settings may lead to. Errors: MM_ENOMEM. */
static int set_lanes(struct mm_worker *w, char *errstr, size_t errstr_len)
{
    bool one = w->opts.role == MM_ROLE_LANE;
    uint32_t n = mm_route_n_possible(w->opts.config);
    uint32_t n_now = mm_lanes_n(w->opts.lanes);
    free(w->lanes);
    w->first_lane = one ? w->opts.lane : 0;
    w->max_lanes = one ? 1 : n > n_now ? n : n_now;
    w->lanes = calloc(w->max_lanes + 1, sizeof *w->lanes);
    w->n_lanes = 0;
    w->n_blocked = 0;
    w->released = false;
    if (w->lanes == NULL) {
        snprintf(errstr, errstr_len, "%s", mm_strerror(MM_ENOMEM));
        return MM_ENOMEM;
    }
    return 0;
}

/* What is known before the thread runs. */
static void init_worker(struct mm_worker *w, const struct mm_worker_options *opts)
{
    w->opts = *opts;
    w->m = opts->metrics;
    w->reader = mm_spool_reader(opts->spool, opts->index);
    snprintf(w->id_prefix, sizeof w->id_prefix, "%s-", mm_spool_uuid(opts->spool));
    if (opts->role == MM_ROLE_MAIN) {
        snprintf(w->name, sizeof w->name, "worker %u", opts->index);
    } else {
        snprintf(w->name, sizeof w->name, "parked Kafka topic %s", opts->kafka_topic);
    }
    read_clocks(w);
    w->busy_ns = w->now_ns;
    w->seed = (unsigned int)w->now_ns;
    /* The block may have been another worker's. */
    w->n_errors_before = mm_counter_get(&w->m->kafka_errors);
    show_evicted(w); /* by earlier processes */
    set_state(w, MM_WORKER_RUNNING);
    if (opts->role == MM_ROLE_LANE) {
        w->retry_ms = opts->first_try_s * UINT64_C(1000);
        w->probing = true;
        pause_for(w, MM_WORKER_PARKED, w->retry_ms);
    }
    publish(w);
}

/* Errors: MM_ENOMEM. */
static int make_dead_topic(struct mm_worker *w, char *errstr, size_t errstr_len)
{
    struct mm_dead_topic_options opts = {
        .config = w->opts.config,
        .metrics = w->m,
        .gate = w->opts.gate,
        .log = w->opts.log,
    };
    if (opts.config->dead_letter_topic == NULL) {
        return 0;
    }
    int err = mm_dead_topic_new(&opts, &w->dead_topic);
    if (err != 0) {
        snprintf(errstr, errstr_len, "%s", mm_strerror(err));
    }
    return err;
}

/* In a thread that blocks all signals. */
static int make_thread(struct mm_worker *w, char *errstr, size_t errstr_len)
{
    int err = pthread_create(&w->thread, NULL, worker_main, w);
    if (err != 0) {
        char reason[64];
        snprintf(errstr, errstr_len, "a worker thread could not be started: %s",
                 strerror_r(err, reason, sizeof reason));
        return MM_ETHREAD;
    }
    w->running = true;
    char name[16];
    snprintf(name, sizeof name, w->opts.role == MM_ROLE_MAIN ? "mm-worker-%u" : "mm-parked",
             w->opts.index % 1000);
    pthread_setname_np(w->thread, name);
    return 0;
}

static int start_thread(struct mm_worker *w, char *errstr, size_t errstr_len)
{
    /* The Kafka client's threads inherit the mask, as ours does: signals are the broker's. */
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int err =
        w->state == MM_WORKER_RUNNING ? make_producer(w, false, &w->kafka, errstr, errstr_len) : 0;
    if (err == 0) {
        err = make_thread(w, errstr, errstr_len);
    }
    if (err != 0) {
        mm_kafka_close(w->kafka, 0);
        w->kafka = NULL;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return err;
}

int mm_worker_start(const struct mm_worker_options *opts,
                    struct mm_worker **out,
                    char *errstr,
                    size_t errstr_len)
{
    *out = NULL;
    bool main = opts->role == MM_ROLE_MAIN;
    struct mm_worker *w = calloc(1, sizeof *w);
    if (w == NULL || mm_window_init(&w->win, main ? WINDOW_LEN : SMALL_WINDOW_LEN) != 0) {
        free(w);
        snprintf(errstr, errstr_len, "%s", mm_strerror(MM_ENOMEM));
        return MM_ENOMEM;
    }
    init_worker(w, opts);
    int err = mm_message_new(&w->message);
    if (err != 0) {
        snprintf(errstr, errstr_len, "%s", mm_strerror(err));
    } else {
        err = set_lanes(w, errstr, errstr_len);
    }
    if (err == 0) {
        err = make_dead_topic(w, errstr, errstr_len);
    }
    if (err == 0) {
        err = start_thread(w, errstr, errstr_len);
    }
    if (err != 0) {
        free_worker(w);
        return err;
    }
    *out = w;
    return 0;
}

/* Ask for something, if no more was asked for yet. */
static void ask(struct mm_worker *w, enum asked what, uint32_t wait_ms)
{
    atomic_store_explicit(&w->stop_at_ns, mm_clock_monotonic_ns() + wait_ms * UINT64_C(1000000),
                          memory_order_relaxed);
    if ((int)what > atomic_load_explicit(&w->asked, memory_order_relaxed)) {
        atomic_store_explicit(&w->asked, what, memory_order_release);
    }
}

void mm_worker_stop(struct mm_worker *w, uint32_t drain_ms)
{
    ask(w, ASKED_TO_STOP, drain_ms);
}

void mm_worker_settle(struct mm_worker *w, uint32_t wait_ms)
{
    ask(w, ASKED_TO_SETTLE, wait_ms);
}

bool mm_worker_await(struct mm_worker *w, uint32_t timeout_ms)
{
    if (!w->running) {
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
    w->running = pthread_timedjoin_np(w->thread, NULL, &until) != 0;
    return !w->running;
}

uint64_t mm_worker_n_done(const struct mm_worker *w)
{
    return w->win.n_taken - w->win.n_held;
}

bool mm_worker_is_running(const struct mm_worker *w)
{
    return w->running;
}

/* Where the records in the window go is to be found out anew. */
static void unroute(struct mm_worker *w)
{
    for (uint64_t i = w->win.low; i < w->win.tail; i++) {
        struct mm_entry *e = mm_window_at(&w->win, i);
        e->flags |= MM_ENTRY_UNROUTED;
        e->lane = 0;
    }
}

/* They go where they were to go. */
static void know_lanes(struct mm_worker *w)
{
    for (uint64_t i = w->win.low; i < w->win.tail; i++) {
        uint32_t lane = mm_window_at(&w->win, i)->lane;
        if (lane < w->max_lanes) {
            (void)know_lane(w, w->first_lane + lane);
        }
    }
}

/* What is in its log may lead anywhere now. */
static void become_old(struct mm_worker *w, struct mm_metrics_worker *metrics)
{
    w->opts.role = MM_ROLE_OLD;
    w->probing = false;
    w->m = w->opts.metrics = metrics;
}

int mm_worker_resume(struct mm_worker *w,
                     const struct mm_worker_change *change,
                     char *errstr,
                     size_t errstr_len)
{
    w->opts.config = change->config;
    if (change->old) {
        become_old(w, change->metrics);
    }
    int err = set_lanes(w, errstr, errstr_len);
    if (err != 0) {
        return err;
    }
    if (change->new_routes) {
        unroute(w);
    } else {
        know_lanes(w);
    }
    err = w->dead_topic == NULL ? make_dead_topic(w, errstr, errstr_len) : 0;
    if (err != 0) {
        return err;
    }
    /* The block is another's by now, or was meanwhile. */
    w->n_errors_before = mm_counter_get(&w->m->kafka_errors);
    w->n_refusals = 0;
    w->failed = false;
    w->park = false;
    w->unburied = false;
    w->lane_parked = false;
    w->producer_failed = false;
    w->restart_s = 0;
    w->bury_s = 0;
    read_clocks(w);
    pause_for(w, MM_WORKER_RESTARTING, 0);
    publish(w);
    atomic_store_explicit(&w->asked, ASKED_NOTHING, memory_order_relaxed);
    return start_thread(w, errstr, errstr_len);
}

bool mm_worker_join(struct mm_worker *w, uint32_t timeout_ms)
{
    if (w == NULL) {
        return true;
    }
    if (!mm_worker_await(w, timeout_ms)) {
        return false;
    }
    free_worker(w);
    return true;
}
