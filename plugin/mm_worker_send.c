/* From the window into the Kafka client. */
#include "mm_worker_impl.h"

#include "mm_config.h"
#include "mm_error.h"
#include "mm_format.h"
#include "mm_message.h"
#include "mm_park.h"
#include "mm_route.h"

#include <inttypes.h>
#include <string.h>

/* A Kafka topic that takes nothing just now is tried again when a report has come for it, and after
 * this time in any case. */
#define BLOCKED_NS MM_WORKER_SECOND_NS

/* A log of a parked lane that takes nothing is tried again. */
#define FULL_LOG_NS (250 * UINT64_C(1000000))

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

/* What Kafka would refuse for its age gets the present as its time stamp; see stamp_anew() in
 * mm_worker_report.c. */
static void stamp(const struct mm_worker *w, struct mm_entry *e, struct mm_kafka_message *m)
{
    uint64_t stale_ms = w->lanes[e->lane].stale_ms;
    e->flags &= (uint8_t)~MM_ENTRY_STAMPED;
    if (stale_ms != 0 && w->now_ms > e->time_ms && w->now_ms - e->time_ms >= stale_ms) {
        e->flags |= MM_ENTRY_STAMPED;
        m->time_ms = w->now_ms;
    }
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
    char id[MM_WORKER_ID_LEN];
    struct mm_message_source source = {
        .rec = rec, .id = id, .id_len = mm_worker_make_id(w, rec, id), .now_ms = w->now_ms};
    struct mm_kafka_message m;
    if (mm_message_make(w->message, config, mm_route_find(config, rec->topic, rec->topic_len),
                        &source, &m) != 0) {
        return MM_EFULL; /* memory may come back; the record stays where it is */
    }
    m.topic = mm_worker_kafka_topic_of(w, e);
    m.tag = e;
    stamp(w, e, &m);
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
        mm_worker_settle_report(w, index, &report, true);
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

void mm_worker_note_unreadable(struct mm_worker *w)
{
    uint64_t n_held = 0;
    if (mm_log_allowed(&w->read_limit, w->now_ns, MM_WORKER_LINE_INTERVAL_NS, &n_held)) {
        mm_log_write(w->opts.log, MM_LOG_ERROR,
                     "%s: the spool cannot be read (%s); its messages wait and are tried "
                     "again, %" PRIu64 " times since the last such line",
                     w->name, mm_strerror(MM_EIO), n_held);
    }
}

int mm_worker_take(struct mm_worker *w, struct mm_record *rec)
{
    struct mm_spool_pos pos;
    if (mm_window_full(&w->win)) {
        return MM_EAGAIN;
    }
    int err = mm_spool_next(w->reader, MM_WORKER_SCAN_MAX, rec, &pos);
    if (err != 0) {
        return err;
    }
    (void)mm_window_add(&w->win, &pos, rec->time_ms, (uint16_t)mm_worker_lane_of(w, rec));
    return 0;
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
    e->lane = (uint16_t)mm_worker_lane_of(w, rec);
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
        mm_worker_settle_report(w, w->win.next, &report, true);
        if (w->failed) {
            return MM_EAGAIN;
        }
    }
    while (w->win.next < end) {
        int err = mm_worker_take(w, rec);
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
    struct mm_worker_lane *lane = &w->lanes[e->lane];
    if (lane->parked) {
        int err = mm_worker_lay_aside(w, e, rec, NULL);
        if (err == 0) {
            return 0;
        }
        if (err != MM_EAGAIN) {
            mm_worker_note_full_log(w, lane, err);
            mm_worker_block(w, e->lane, FULL_LOG_NS);
            return MM_EAGAIN;
        }
        lane->parked = false;
    }
    int err = send_entry(w, kafka, w->win.next, rec);
    if (err == MM_EAGAIN) {
        mm_worker_block(w, e->lane, BLOCKED_NS);
    }
    return err;
}

uint32_t mm_worker_send_some(struct mm_worker *w,
                             struct mm_kafka *kafka,
                             uint64_t end,
                             uint32_t n,
                             bool *blocked)
{
    uint32_t sent = 0;
    mm_worker_unblock_due(w);
    *blocked = mm_worker_all_blocked(w);
    while (sent < n && !*blocked && !w->failed) {
        struct mm_record rec;
        int err = next_record(w, end, &rec);
        if (err == MM_EAGAIN) {
            break;
        }
        if (err == MM_EIO) {
            mm_worker_note_unreadable(w);
            *blocked = true;
            break;
        }
        err = send_next(w, kafka, &rec);
        if (err == 0) {
            sent++;
            w->win.next += !w->failed;
        } else {
            *blocked = err != MM_EAGAIN || mm_worker_all_blocked(w);
        }
    }
    return sent;
}

/* Is kafka_topic parked, which has lane 0? */
static bool default_is_parked(const struct mm_worker *w)
{
    return mm_park_is_parked(w->opts.park, 0);
}

void mm_worker_send_test_message(struct mm_worker *w)
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
        .tag = MM_WORKER_TEST_TAG,
    };
    struct mm_kafka_report report;
    if (mm_kafka_produce(w->kafka, &m, &report) == MM_EKAFKA) {
        mm_worker_on_test_report(w, &report);
    }
}
