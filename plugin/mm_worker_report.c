/* What becomes of a record: delivery reports, dead letters, refusals. */
#include "mm_worker_impl.h"

#include "mm_config.h"
#include "mm_dead.h"
#include "mm_dead_topic.h"
#include "mm_error.h"
#include "mm_message.h"
#include "mm_park.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <string.h>

/* No topic can be meant to refuse a time stamp that is younger. */
#define STALE_MIN_MS 250

/* --- reports ------------------------------------------------------------------------------------
 */

/* A record is about to be finished: has an earlier process counted it already, or is it there
 * twice? */
static bool is_repeat(struct mm_worker *w, uint32_t lane)
{
    const struct mm_worker_options *o = &w->opts;
    if (mm_spool_take_repeat(o->spool) || (o->main != NULL && mm_spool_take_repeat(o->main)) ||
        (lane < w->max_lanes && mm_park_take_double(o->park, w->first_lane + lane))) {
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
        if (e->lane < w->max_lanes) {
            mm_lanes_count_delivered(w->opts.lanes, w->first_lane + e->lane);
        }
    }
    mm_gauge_set(&w->m->last_delivery_ms, w->now_ms);
    mm_histogram_latency(&w->m->latency,
                         w->now_ms > e->time_ms ? (w->now_ms - e->time_ms) * 1000000 : 0);
    mm_window_finish(&w->win, e);
    w->restart_s = 0;
    w->retry_ms = 0;
    if (w->probing) {
        w->probing = false;
        mm_worker_set_state(w, w->state); /* until now it was shown as parked */
    }
}

void mm_worker_count_dropped(struct mm_worker *w, uint32_t lane)
{
    if (is_repeat(w, lane)) {
        return;
    }
    mm_counter_add(&w->m->dropped_oldest, 1);
    uint64_t n_held = 0;
    if (mm_log_allowed(&w->drop_limit, w->now_ns, MM_WORKER_LINE_INTERVAL_NS, &n_held)) {
        mm_log_write(w->opts.log, MM_LOG_WARN,
                     "the spool is full: the oldest messages are dropped (when_full drop_oldest), "
                     "%" PRIu64 " since the last such line",
                     n_held + 1);
    }
}

void mm_worker_count_orphans(struct mm_worker *w, int n)
{
    w->n_orphans += (uint64_t)(int64_t)n;
    /* W4: what became of one was counted before; pairs with the load in collect(). */
    atomic_store_explicit(&w->m->orphans, w->n_orphans, memory_order_release);
}

void mm_worker_drop(struct mm_worker *w, struct mm_entry *e)
{
    mm_worker_count_dropped(w, e->lane);
    mm_window_finish(&w->win, e);
}

size_t mm_worker_make_id(const struct mm_worker *w,
                         const struct mm_record *rec,
                         char id[MM_WORKER_ID_LEN])
{
    uint32_t origin_len = 0;
    const uint8_t *origin =
        rec->props_len == 0 ? NULL
                            : mm_prop_get(rec->props, rec->props_len, MM_TAG_ORIGIN, &origin_len);
    if (origin != NULL && origin_len < MM_WORKER_ID_LEN) {
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
    if (mm_log_allowed(&w->dead_limit, w->now_ns, MM_WORKER_LINE_INTERVAL_NS, &n_held)) {
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
    if (mm_log_allowed(&w->unburied_limit, w->now_ns, MM_WORKER_LINE_INTERVAL_NS, &n_held)) {
        mm_log_write(w->opts.log, MM_LOG_ERROR,
                     "a message that Kafka never takes cannot be put to the dead letters (%s); it "
                     "stays in the spool and is tried again",
                     mm_strerror(err));
    }
}

void mm_worker_show_evicted(struct mm_worker *w)
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
        return mm_worker_kafka_topic_of(w, e);
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
    char id[MM_WORKER_ID_LEN];
    struct mm_message_way way;
    mm_worker_make_id(w, rec, id);
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
    mm_worker_show_evicted(w);
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
    bool alone = mm_worker_parks_lanes(w) && !r->general;
    if (alone) {
        w->lanes[e->lane].refused = r->error;
    } else {
        w->park = true;
    }
    atomic_store_explicit(&w->last_error, r->error, memory_order_relaxed);
    atomic_store_explicit(&w->m->refusal, r->error, memory_order_relaxed);
    const char *hint = mm_trouble_hint(r->error);
    uint64_t n_held = 0;
    if (mm_log_allowed(&w->park_limit, w->now_ns, MM_WORKER_LINE_INTERVAL_NS, &n_held)) {
        mm_log_write(w->opts.log, MM_LOG_WARN,
                     "Kafka topic %s refuses messages: %s (%s%s%s); they wait in the spool and are "
                     "tried again every %u s%s%s",
                     mm_worker_kafka_topic_of(w, e), r->error, r->reason,
                     hint[0] != '\0' ? ": " : "", hint, w->opts.config->kafka_retry_interval_s,
                     w->opts.role == MM_ROLE_LANE ? " and more" : "",
                     alone ? "; other Kafka topics go on" : "");
    }
}

void mm_worker_on_test_report(struct mm_worker *w, const struct mm_kafka_report *r)
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

/* Kafka refuses time stamps. Where that can be for their age (message.timestamp.before.max.ms), all
 * that has waited for half as long as the youngest that was refused is sent with the time of its
 * sending, as nothing else would ever get it into Kafka. False: it is not for their age, since that
 * was tried, or for want of it: a clock is wrong, which somebody has to mend. */
static bool stamp_anew(struct mm_worker *w, const struct mm_entry *e)
{
    struct mm_worker_lane *lane = &w->lanes[e->lane];
    if ((e->flags & MM_ENTRY_STAMPED) != 0) {
        lane->stale_ms = 0;
        return false;
    }
    uint64_t stale_ms = w->now_ms > e->time_ms ? (w->now_ms - e->time_ms) / 2 : 0;
    if (stale_ms < STALE_MIN_MS) {
        return lane->stale_ms != 0; /* an older one of its batch was meant */
    }
    if (lane->stale_ms == 0 || stale_ms < lane->stale_ms) {
        lane->stale_ms = stale_ms;
    }
    uint64_t n_held = 0;
    if (mm_log_allowed(&w->stale_limit, w->now_ns, MM_WORKER_LINE_INTERVAL_NS, &n_held)) {
        mm_log_write(w->opts.log, MM_LOG_WARN,
                     "Kafka topic %s refuses the time stamps of messages that have waited "
                     "(INVALID_TIMESTAMP; message.timestamp.before.max.ms of the topic): what has "
                     "waited for more than %" PRIu64 " ms is stamped with the time of its sending",
                     mm_worker_kafka_topic_of(w, e), lane->stale_ms);
    }
    return true;
}

void mm_worker_settle_report(struct mm_worker *w,
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
        mm_worker_drop(w, e);
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
            if (!r->wrong_time || !stamp_anew(w, e)) {
                refuse_topic(w, e, r);
            }
            break;
        case MM_KAFKA_AGAIN:
        case MM_KAFKA_DELIVERED:
            break;
    }
}

void mm_worker_on_report(void *arg, const struct mm_kafka_report *r)
{
    struct mm_worker *w = arg;
    if (w->clocks_old) {
        w->clocks_old = false; /* the poll may have waited; once for all reports that it brings */
        mm_worker_read_clocks(w);
    }
    w->progress_ns = w->now_ns;
    if (r->tag == MM_WORKER_TEST_TAG) {
        mm_worker_unblock_all(w);
        mm_worker_on_test_report(w, r);
        return;
    }
    w->n_in_flight--;
    const struct mm_entry *e = r->tag;
    const bool alone = (e->flags & MM_ENTRY_ALONE) != 0;
    const bool orphan = (e->flags & MM_ENTRY_ORPHAN) != 0;
    mm_worker_unblock(w, e->lane);
    if (alone && (r->class == MM_KAFKA_DELIVERED || r->class == MM_KAFKA_SUSPECT)) {
        mm_worker_note_judged(w, r->class == MM_KAFKA_DELIVERED);
    }
    mm_worker_settle_report(w, mm_window_index(&w->win, e), r, alone);
    if (orphan) {
        mm_worker_count_orphans(w, -1);
    }
}
