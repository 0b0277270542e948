/* The states of a worker; see mm_worker.h. */
#include "mm_worker_impl.h"

#include "mm_config.h"
#include "mm_park.h"

#include <inttypes.h>
#include <stdlib.h>

#define IDLE_POLL_MS 2
#define FULL_POLL_MS 10
#define PAUSE_POLL_MS 10
#define DEEP_AFTER_NS (200 * UINT64_C(1000000))
#define DEEP_WAIT_MS 100

/* Who judges suspects is careful until so many in a row were delivered: a strict producer has more
 * of them on the way, but each that is refused costs a new one. */
#define CAREFUL_FOR 500

/* And what comes behind a refused one is judged, too, until so many were delivered: often it is of
 * the same kind, and a batch that fails costs a new producer. */
#define ALONE_FOR 20

/* How long a drain waits for requests that are on the wire. */
#define DRAIN_MAX_NS (5 * UINT64_C(1000000000))

/* --- states -------------------------------------------------------------------------------------
 */

int mm_worker_make_producer(struct mm_worker *w,
                            bool single,
                            struct mm_kafka **out,
                            char *errstr,
                            size_t errstr_len)
{
    struct mm_kafka_options opts = {
        .config = w->opts.config,
        .single = single,
        .careful = single && w->careful,
        .quiet = w->opts.index != 0 || w->opts.role != MM_ROLE_MAIN,
        .up = w->up,
        .on_report = mm_worker_on_report,
        .arg = w,
        .log = w->opts.log,
        .gate = w->opts.gate,
        .told = &w->told,
    };
    mm_worker_unblock_all(w);
    return mm_kafka_new(&opts, out, errstr, errstr_len);
}

void mm_worker_end_producer(struct mm_worker *w, struct mm_kafka **kafka, uint32_t wait_ms)
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
    if (w->opts.role == MM_ROLE_LANE && !w->entered) {
        w->entered = mm_park_enter(w->opts.park);
        return w->entered;
    }
    return true;
}

void mm_worker_leave(struct mm_worker *w)
{
    if (w->entered) {
        mm_park_leave(w->opts.park);
        w->entered = false;
    }
}

void mm_worker_pause_for(struct mm_worker *w, enum mm_worker_state state, uint64_t ms)
{
    w->pause_until_ns = w->now_ns + ms * 1000000;
    mm_gauge_set(&w->m->retry_at_ms, state == MM_WORKER_PARKED ? w->now_ms + ms : 0);
    mm_worker_set_state(w, state);
}

/* Wait for the next try of a refused topic: the interval that is set; where only that topic waits
 * for it, longer and longer, and not all topics at the same time. */
static void park(struct mm_worker *w)
{
    uint64_t interval_ms = w->opts.config->kafka_retry_interval_s * UINT64_C(1000);
    uint64_t ms = interval_ms;
    if (w->opts.role == MM_ROLE_LANE) {
        ms = w->retry_ms = mm_worker_longer_retry(w->retry_ms, interval_ms);
        ms += ms * (uint64_t)(rand_r(&w->seed) % 200) / 1000;
    }
    w->probing = true;
    mm_worker_pause_for(w, MM_WORKER_PARKED, ms);
}

static void restart_later(struct mm_worker *w)
{
    uint64_t seconds = w->restart_s;
    w->restart_s = mm_worker_longer_pause(w->restart_s);
    mm_counter_add(&w->m->producer_restarts, 1);
    mm_worker_pause_for(w, MM_WORKER_RESTARTING, seconds * 1000);
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
    } else if (mm_log_allowed(&w->fail_limit, w->now_ns, MM_WORKER_SECOND_NS, &n_held)) {
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

/* Can it go on as if nothing had been? */
static bool is_idle(struct mm_kafka *kafka)
{
    const char *error;
    const char *reason;
    bool strict;
    return mm_kafka_n_out(kafka) == 0 && !mm_kafka_failed(kafka, &error, &reason, &strict);
}

void mm_worker_start_drain(struct mm_worker *w)
{
    bool main_failed = log_failure(w, w->kafka);
    bool single_failed = log_failure(w, w->single);
    w->producer_failed = main_failed || single_failed;
    /* What is taken back leaves a gap. */
    w->single_stays = w->single != NULL && w->single_careful && is_idle(w->single);
    take_back(w);
    w->drain_until_ns = w->now_ns + DRAIN_MAX_NS;
    mm_worker_set_state(w, MM_WORKER_DRAINING);
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
            mm_worker_drop(w, e);
            mm_worker_count_orphans(w, -1);
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

void mm_worker_end_producers(struct mm_worker *w, bool all)
{
    if (w->kafka == NULL && w->single == NULL) {
        return;
    }
    mm_worker_end_producer(w, &w->kafka, 0);
    if (all || !w->single_stays) {
        mm_worker_end_producer(w, &w->single, 0);
    }
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
    mm_worker_unblock_all(w);
    mm_window_go_back(&w->win); /* to the oldest record that is not finished */
    if (parked) {
        mm_worker_leave(w);
        park(w);
    } else if (unburied) {
        w->bury_s = mm_worker_longer_pause(w->bury_s);
        mm_worker_pause_for(w, MM_WORKER_RESTARTING, w->bury_s * UINT64_C(1000));
    } else if (w->suspect_end > w->win.low && !w->producer_failed) {
        mm_worker_set_state(w, MM_WORKER_SINGLE);
    } else if (lane_parked) {
        mm_counter_add(&w->m->producer_restarts, 1);
        mm_worker_pause_for(w, MM_WORKER_RESTARTING, 0); /* the other topics need not wait */
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
    mm_worker_end_producers(w, w->park);
    if (!mm_worker_park_refused(w, w->now_ns >= w->drain_until_ns + DRAIN_MAX_NS)) {
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
    return !one ? MM_WORKER_SEND_BATCH : w->n_in_flight == 0 ? 1 : 0;
}

static uint32_t step_running(struct mm_worker *w)
{
    if (!mm_worker_release(w)) {
        return PAUSE_POLL_MS;
    }
    if (!w->test_sent) {
        mm_worker_send_test_message(w);
    }
    uint32_t n = to_send(w);
    bool blocked;
    struct mm_spool_pos before;
    struct mm_spool_pos after;
    mm_spool_cursor(w->reader, &before);
    uint32_t sent = mm_worker_send_some(w, w->kafka, UINT64_MAX, n, &blocked);
    if (w->failed) {
        return 0;
    }
    mm_spool_cursor(w->reader, &after);
    if (after.segment != before.segment || after.offset != before.offset) {
        /* Records of other shards count too: whoever slept now would be woken for each of them. */
        w->busy_ns = w->now_ns;
    }
    if (blocked || n < MM_WORKER_SEND_BATCH) {
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
    if (deep_idle(w) && !mm_worker_stopping(w)) {
        mm_spool_wait(w->reader, DEEP_WAIT_MS);
        return 0;
    }
    return IDLE_POLL_MS;
}

/* Have a producer for suspects, of the right kind: what it has on its way comes first. False: not
 * now. */
static bool have_single(struct mm_worker *w)
{
    char errstr[256];
    if (w->single != NULL && w->single_careful != w->careful) {
        if (w->n_in_flight > 0) {
            return false;
        }
        mm_worker_end_producer(w, &w->single, 0);
    }
    if (w->single == NULL &&
        mm_worker_make_producer(w, true, &w->single, errstr, sizeof errstr) != 0) {
        mm_log_write(w->opts.log, MM_LOG_ERROR, "%s: %s", w->name, errstr);
        restart_later(w);
        return false;
    }
    w->single_careful = w->careful;
    return true;
}

void mm_worker_note_judged(struct mm_worker *w, bool good)
{
    w->n_good = good ? w->n_good + 1 : 0;
    w->careful = w->n_good < CAREFUL_FOR;
}

/* Nothing is on its way, and all before suspect_end that there is was sent. */
static bool suspects_done(const struct mm_worker *w)
{
    bool none_left = w->win.next >= w->suspect_end ||
                     (w->win.next >= w->win.tail && !mm_spool_pending(w->reader));
    return !w->failed && w->n_in_flight == 0 && none_left && w->win.skipped == UINT64_MAX;
}

static uint32_t step_single(struct mm_worker *w)
{
    if (!have_single(w)) {
        return PAUSE_POLL_MS;
    }
    bool blocked = false;
    uint32_t sent = 0;
    if (w->n_in_flight < MM_WORKER_SINGLE_IN_FLIGHT) {
        sent =
            mm_worker_send_some(w, w->single, w->suspect_end, MM_WORKER_SINGLE_IN_FLIGHT, &blocked);
    }
    if (suspects_done(w)) {
        if (w->n_good < ALONE_FOR && mm_spool_pending(w->reader) && !mm_worker_stopping(w)) {
            w->suspect_end = w->win.next + ALONE_FOR;
            return 0;
        }
        w->suspect_end = w->win.next;
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
            (void)mm_worker_take(w, &rec); /* so that it is known how old it is */
        }
        return PAUSE_POLL_MS;
    }
    char errstr[256];
    if (!may_have_producer(w)) {
        return PAUSE_POLL_MS;
    }
    if (w->suspect_end > w->win.low) {
        if (!mm_worker_release(w)) {
            return PAUSE_POLL_MS;
        }
        mm_worker_set_state(w, MM_WORKER_SINGLE);
        return 0;
    }
    if (mm_worker_make_producer(w, false, &w->kafka, errstr, sizeof errstr) != 0) {
        mm_log_write(w->opts.log, MM_LOG_ERROR, "%s: %s", w->name, errstr);
        restart_later(w);
        return PAUSE_POLL_MS;
    }
    mm_gauge_set(&w->m->retry_at_ms, 0);
    mm_worker_set_state(w, MM_WORKER_RUNNING);
    return 0;
}

/* Nothing is sent any more. */
static uint32_t step_settling(struct mm_worker *w)
{
    mm_worker_set_state(w, MM_WORKER_DRAINING);
    take_back(w);
    return w->n_in_flight > 0 ? PAUSE_POLL_MS : 0;
}

uint32_t mm_worker_step(struct mm_worker *w)
{
    if (mm_worker_settling(w)) {
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
