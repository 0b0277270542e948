#include "mm_worker_impl.h"

#include "mm_config.h"
#include "mm_dead_topic.h"
#include "mm_error.h"
#include "mm_lanes.h"
#include "mm_message.h"
#include "mm_route.h"
#include "mm_thread.h"

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

/* Records wait, and no report for so long: the cluster is not there, whatever the connection says.
 */
#define STALL_NS (10 * UINT64_C(1000000000))

/* A window that held so many records, and holds so few when it has not been large for a while, has
 * left memory behind in the allocator. */
#define TRIM_ABOVE 10000
#define TRIM_BELOW 1000
#define TRIM_AFTER_NS (3 * UINT64_C(1000000000))

/* What the copies of dead letters get at the end: what is left of the time, within these limits. */
#define COPIES_MIN_MS 200
#define COPIES_MAX_MS 1000

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
    if ((w->state != MM_WORKER_RUNNING && w->state != MM_WORKER_SINGLE) || mm_worker_settling(w)) {
        return;
    }
    struct mm_kafka *kafka = w->state == MM_WORKER_SINGLE ? w->single : w->kafka;
    const char *error;
    const char *reason;
    bool strict;
    if (w->failed || (kafka != NULL && mm_kafka_failed(kafka, &error, &reason, &strict))) {
        mm_worker_start_drain(w);
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
            mm_worker_count_orphans(w, (e->flags & MM_ENTRY_ORPHAN) == 0 ? 1 : 0);
            e->flags |= MM_ENTRY_ORPHAN;
        } else if (e->state == MM_ENTRY_COPIED) {
            w->lanes[e->lane].n_copied--;
            mm_window_finish(&w->win, e);
        } else if (e->state != MM_ENTRY_DONE) {
            mm_worker_drop(w, e);
        }
    }
    struct mm_spool_pos cursor;
    for (mm_spool_cursor(w->reader, &cursor);
         mm_spool_unwanted(w->reader, &cursor) && mm_spool_pending(w->reader);
         mm_spool_cursor(w->reader, &cursor)) {
        struct mm_record rec;
        struct mm_spool_pos pos;
        int err = mm_spool_next(w->reader, MM_WORKER_SCAN_MAX, &rec, &pos);
        if (err == MM_EIO) {
            mm_worker_note_unreadable(w);
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
        mm_worker_count_dropped(w, mm_worker_lane_of(w, &rec));
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
                     w->name, (w->now_ns - w->down_since_ns) / MM_WORKER_SECOND_NS, w->win.n_held);
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
            return mm_worker_kafka_topic_of(w, e);
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
                     w->name, (unsigned)(STALL_NS / MM_WORKER_SECOND_NS), topic_in_flight(w));
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
        bool silent = stalled && mm_kafka_up(kafka);
        mm_gauge_set(&w->m->down_why, silent ? MM_METRICS_STALLED : mm_kafka_trouble(kafka));
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
 * their memory. Once, when it is over, since the system's need is not ours to judge; and not while
 * the backlog pauses on its way, for what is sent behind the pause would stay for good. */
static void give_memory_back(struct mm_worker *w)
{
    if (w->win.n_held > TRIM_ABOVE) {
        w->was_large = true;
        w->large_ns = w->now_ns;
    } else if (w->was_large && w->win.n_held < TRIM_BELOW &&
               w->now_ns - w->large_ns >= TRIM_AFTER_NS) {
        w->was_large = false;
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
    if (!mm_worker_stopping(w)) {
        return false;
    }
    if (mm_worker_settling(w) && w->n_in_flight == 0) {
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
    mm_worker_read_clocks(w);
    uint64_t left_ms = w->now_ns < stop_at_ns ? (stop_at_ns - w->now_ns) / 1000000 : 0;
    left_ms = left_ms < COPIES_MIN_MS ? COPIES_MIN_MS : left_ms;
    mm_dead_topic_close(w->dead_topic, left_ms > COPIES_MAX_MS ? COPIES_MAX_MS : (uint32_t)left_ms);
    w->dead_topic = NULL;
}

/* The thread ends, and all with it: what is left stays in the log. */
static void end_all(struct mm_worker *w)
{
    mm_worker_set_state(w, MM_WORKER_DRAINING);
    mm_worker_end_producer(w, &w->kafka, 500); /* reports that come now still count */
    mm_worker_end_producer(w, &w->single, 100);
    mm_worker_leave(w);
    end_copies(w); /* after all that may make a dead letter */
    mm_worker_sync_copied(w, true);
    advance_low(w);
    publish(w);
    mm_worker_set_state(w, MM_WORKER_STOPPED);
}

/* The thread ends, and another one goes on where it has come to. */
static void end_for_now(struct mm_worker *w)
{
    mm_worker_end_producers(w, true);
    mm_worker_leave(w);
    end_copies(w);
    mm_worker_sync_copied(w, true);
    mm_window_go_back(&w->win);
    advance_low(w);
    publish(w);
    mm_worker_set_state(w, MM_WORKER_RESTARTING);
}

static void *worker_main(void *arg)
{
    struct mm_worker *w = arg;
    mm_worker_read_clocks(w);
    while (!finished(w)) {
        uint32_t pause_ms = mm_worker_step(w);
        poll_kafka(w, pause_ms);
        mm_worker_read_clocks(w);
        notice_failure(w);
        let_go_unwanted(w);
        mm_worker_sync_copied(w, false);
        advance_low(w);
        watch_connection(w);
        publish(w);
        give_memory_back(w);
    }
    if (mm_worker_settling(w)) {
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
    mm_worker_read_clocks(w);
    w->busy_ns = w->now_ns;
    w->seed = (unsigned int)w->now_ns;
    w->careful = true;
    /* The block may have been another worker's. */
    w->n_errors_before = mm_counter_get(&w->m->kafka_errors);
    mm_worker_show_evicted(w); /* by earlier processes */
    mm_worker_set_state(w, MM_WORKER_RUNNING);
    if (opts->role == MM_ROLE_LANE) {
        w->retry_ms = opts->first_try_s * UINT64_C(1000);
        w->probing = true;
        mm_worker_pause_for(w, MM_WORKER_PARKED, w->retry_ms);
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

static int make_thread(struct mm_worker *w, char *errstr, size_t errstr_len)
{
    char name[16];
    snprintf(name, sizeof name, w->opts.role == MM_ROLE_MAIN ? "mm-worker-%u" : "mm-parked",
             w->opts.index % 1000);
    int err = mm_thread_start(name, worker_main, w, &w->thread);
    if (err != 0) {
        char reason[64];
        snprintf(errstr, errstr_len, "a worker thread could not be started: %s",
                 strerror_r(err, reason, sizeof reason));
        return MM_ETHREAD;
    }
    w->running = true;
    return 0;
}

static int start_thread(struct mm_worker *w, char *errstr, size_t errstr_len)
{
    /* The Kafka client's threads inherit the mask: signals are the broker's. */
    sigset_t before;
    mm_thread_block_signals(&before);
    int err = w->state == MM_WORKER_RUNNING
                  ? mm_worker_make_producer(w, false, &w->kafka, errstr, errstr_len)
                  : 0;
    if (err == 0) {
        err = make_thread(w, errstr, errstr_len);
    }
    if (err != 0) {
        mm_kafka_close(w->kafka, 0);
        w->kafka = NULL;
    }
    mm_thread_restore_signals(&before);
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
static void ask(struct mm_worker *w, enum mm_worker_asked what, uint32_t wait_ms)
{
    atomic_store_explicit(&w->stop_at_ns, mm_clock_monotonic_ns() + wait_ms * UINT64_C(1000000),
                          memory_order_relaxed);
    if ((int)what > atomic_load_explicit(&w->asked, memory_order_relaxed)) {
        atomic_store_explicit(&w->asked, what, memory_order_release);
    }
}

void mm_worker_stop(struct mm_worker *w, uint32_t drain_ms)
{
    ask(w, MM_WORKER_ASKED_TO_STOP, drain_ms);
}

void mm_worker_settle(struct mm_worker *w, uint32_t wait_ms)
{
    ask(w, MM_WORKER_ASKED_TO_SETTLE, wait_ms);
}

bool mm_worker_await(struct mm_worker *w, uint32_t timeout_ms)
{
    w->running = w->running && !mm_thread_join(w->thread, timeout_ms);
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
            (void)mm_worker_know_lane(w, w->first_lane + lane);
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
    mm_worker_read_clocks(w);
    mm_worker_pause_for(w, MM_WORKER_RESTARTING, 0);
    publish(w);
    atomic_store_explicit(&w->asked, MM_WORKER_ASKED_NOTHING, memory_order_relaxed);
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
