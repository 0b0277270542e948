/* The thread that starts and ends the workers of what is parked, and keeps the logs. */
#include "mm_log.h"
#include "mm_metrics.h"
#include "mm_park_impl.h"
#include "mm_thread.h"
#include "mm_worker.h"

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <time.h>

#define PASS_MS 20
#define SECOND_NS UINT64_C(1000000000)

/* After a worker could not be started. */
#define START_AGAIN_NS (10 * SECOND_NS)

/* How long the end of a worker that has nothing to do is waited for, before it is looked at from
 * time to time: its client may hang in name resolution. */
#define JOIN_MS 2000

/* lock: the lane's; NULL: only the thread knows of the shelf. */
static void set_worker(struct mm_park_shelf *shelf, struct mm_worker *worker, pthread_mutex_t *lock)
{
    if (lock != NULL) {
        pthread_mutex_lock(lock);
    }
    shelf->worker = worker;
    if (lock != NULL) {
        pthread_mutex_unlock(lock);
    }
}

/* Start the worker of a shelf, unless it was tried just now. */
static void start_worker(struct mm_park *p,
                         struct mm_park_shelf *shelf,
                         enum mm_worker_role role,
                         pthread_mutex_t *lock)
{
    uint64_t now_ns = mm_clock_monotonic_ns();
    if (now_ns < shelf->start_ns) {
        return;
    }
    struct mm_worker_options opts = {
        .role = role,
        .lane = shelf->lane,
        .first_try_s = shelf->first_try_s,
        .kafka_topic = shelf->kafka_topic,
        .config = p->opts.config,
        .lanes = p->opts.lanes,
        .spool = shelf->spool,
        .main = p->opts.spool,
        .park = p,
        .metrics = mm_metrics_park(p->opts.metrics, shelf->lane),
        .dead = p->opts.dead,
        .gate = p->opts.gate,
        .log = p->opts.log,
    };
    char errstr[256];
    struct mm_worker *worker;
    if (mm_worker_start(&opts, &worker, errstr, sizeof errstr) != 0) {
        shelf->start_ns = now_ns + START_AGAIN_NS;
        mm_log_write(p->opts.log, MM_LOG_ERROR,
                     "what is parked for Kafka topic %s cannot be delivered: %s; it is tried again",
                     shelf->kafka_topic, errstr);
        return;
    }
    set_worker(shelf, worker, lock);
}

/* Has the worker finished all that there is? With the lane's lock nothing can come. */
static bool is_empty(const struct mm_park_shelf *shelf)
{
    /* Acquires what the worker released: deliveries come before the lane is used directly. */
    uint64_t n = shelf->worker == NULL ? 0 : mm_worker_n_finished(shelf->worker);
    return n == mm_spool_to_take(shelf->spool);
}

/* End a worker that has nothing more to do. False: it does not end yet; to be called again. */
static bool end_worker(struct mm_park *p, struct mm_park_shelf *shelf, pthread_mutex_t *lock)
{
    struct mm_worker *worker = shelf->worker;
    set_worker(shelf, NULL, lock);
    if (worker == NULL) {
        return true;
    }
    mm_worker_stop(worker, 0);
    mm_spool_wake(shelf->spool);
    if (mm_worker_join(worker, shelf->stuck ? 0 : JOIN_MS)) {
        shelf->stuck = false;
        return true;
    }
    set_worker(shelf, worker, lock);
    if (!shelf->stuck) {
        mm_log_write(p->opts.log, MM_LOG_WARN,
                     "the worker of the parked Kafka topic %s does not end (its Kafka client waits "
                     "for the system, for a name's address most likely); until it does, %s",
                     shelf->kafka_topic,
                     lock != NULL ? "the topic cannot be parked again"
                                  : "what comes after it waits in the spool");
    }
    shelf->stuck = true;
    return false;
}

void mm_park_reset_block(struct mm_park *p, const struct mm_park_shelf *shelf)
{
    struct mm_metrics_worker *m = mm_metrics_park(p->opts.metrics, shelf->lane);
    mm_gauge_set(&m->state, MM_WORKER_STOPPED);
    mm_gauge_set(&m->taken, 0);
    mm_gauge_set(&m->held, 0);
    mm_gauge_set(&m->oldest_ms, 0);
    mm_gauge_set(&m->retry_at_ms, 0);
}

/* Take a lane's log away that is empty. */
static void end_lane(struct mm_park *p, struct mm_park_lane *lane)
{
    if (!end_worker(p, &lane->shelf, &lane->lock)) {
        return; /* closing stays set, and nothing is added */
    }
    pthread_mutex_lock(&lane->lock);
    struct mm_spool_stats stats;
    mm_spool_stats(lane->shelf.spool, &stats);
    lane->n_lost += stats.n_lost;
    mm_park_close_log(p, &lane->shelf);
    mm_park_tell(p, lane);
    mm_park_reset_block(p, &lane->shelf);
    lane->closing = false;
    pthread_mutex_unlock(&lane->lock);
}

/* Returns whether there is anything to look after. */
static bool keep_lane(struct mm_park *p, struct mm_park_lane *lane, bool stop)
{
    if (lane->shelf.stuck) {
        if (!stop) {
            end_lane(p, lane);
        }
        return true;
    }
    pthread_mutex_lock(&lane->lock);
    bool parked = atomic_load_explicit(&lane->parked, memory_order_relaxed);
    bool idle = lane->shelf.spool == NULL;
    bool empty = false;
    if (!idle) {
        mm_spool_tick(lane->shelf.spool);
        empty = !stop && lane->n_syncing == 0 && is_empty(&lane->shelf);
        if (empty) {
            lane->closing = true;
            atomic_store_explicit(&lane->parked, false, memory_order_release);
        }
        mm_park_tell(p, lane);
    }
    pthread_mutex_unlock(&lane->lock);
    if (empty) {
        if (parked) {
            mm_log_write(p->opts.log, MM_LOG_INFO,
                         "Kafka topic %s is not parked any more: all that waited is delivered",
                         lane->shelf.kafka_topic);
        }
        end_lane(p, lane);
        return lane->shelf.stuck; /* it is to be looked at again */
    }
    if (!idle && parked && !stop && lane->shelf.worker == NULL) {
        start_worker(p, &lane->shelf, MM_ROLE_LANE, &lane->lock);
    }
    return !idle;
}

/* It is a shelf's turn, whose worker may be there already: it was another role's, or was at it when
 * the routes have changed. */
static void start_old(struct mm_park *p, struct mm_park_shelf *shelf)
{
    uint64_t now_ns = mm_clock_monotonic_ns();
    if (shelf->worker == NULL) {
        start_worker(p, shelf, MM_ROLE_OLD, NULL);
        return;
    }
    struct mm_worker_change change = {
        .config = p->opts.config,
        .new_routes = true,
        .old = true,
        .metrics = mm_metrics_park(p->opts.metrics, MM_METRICS_LANE_OLD),
    };
    char errstr[256];
    if (now_ns < shelf->start_ns) {
        return;
    }
    if (mm_worker_resume(shelf->worker, &change, errstr, sizeof errstr) != 0) {
        shelf->start_ns = now_ns + START_AGAIN_NS;
        mm_log_write(p->opts.log, MM_LOG_ERROR,
                     "what is parked for Kafka topic %s cannot be delivered: %s; it is tried again",
                     shelf->kafka_topic, errstr);
        return;
    }
    shelf->n_done = 0; /* the worker itself shows it now */
}

/* The same for what was parked by other routes: one log after the other. */
static bool keep_old(struct mm_park *p, bool stop)
{
    if (p->next_old == p->n_old) {
        return false;
    }
    struct mm_park_shelf *shelf = &p->old[p->next_old];
    mm_spool_tick(shelf->spool);
    if (!shelf->stuck && (shelf->worker == NULL || !mm_worker_is_running(shelf->worker))) {
        if (!stop) {
            start_old(p, shelf);
        }
    } else if (!stop && is_empty(shelf) && end_worker(p, shelf, NULL)) {
        struct mm_spool_stats stats;
        mm_spool_stats(shelf->spool, &stats);
        p->n_old_lost += stats.n_lost;
        p->next_old++;
        mm_park_tell_old(p);
        mm_park_reset_block(p, shelf);
        mm_park_close_log(p, shelf);
        if (p->next_old == p->n_old) {
            mm_log_write(p->opts.log, MM_LOG_INFO,
                         "what was parked by earlier routes is dealt with");
            atomic_store_explicit(&p->comes_first, false, memory_order_release);
        }
        return true;
    }
    mm_park_tell_old(p);
    return true;
}

/* Until there is something to do. Returns false at the end. */
static bool wait_for_work(struct mm_park *p, bool busy, bool *stop)
{
    struct timespec until = mm_thread_deadline(PASS_MS);
    pthread_mutex_lock(&p->lock);
    bool timed_out = false;
    while (!p->end && !timed_out && (busy || !p->woken)) {
        if (busy) {
            timed_out = pthread_cond_timedwait(&p->cond, &p->lock, &until) == ETIMEDOUT;
        } else {
            pthread_cond_wait(&p->cond, &p->lock);
        }
    }
    p->woken = false;
    *stop = p->stop;
    bool goes_on = !p->end;
    pthread_mutex_unlock(&p->lock);
    return goes_on;
}

/* Ask the worker of a shelf to end with all the others. */
static void stop_worker(const struct mm_park_shelf *shelf, uint64_t until_ns)
{
    if (shelf->worker != NULL) {
        mm_worker_stop(shelf->worker, mm_clock_left_ms(until_ns));
        mm_spool_wake(shelf->spool);
    }
}

void mm_park_stop_workers(struct mm_park *p)
{
    pthread_mutex_lock(&p->lock);
    uint64_t until_ns = p->stop_ns;
    pthread_mutex_unlock(&p->lock);
    for (size_t i = 0; i < p->n_old; i++) {
        stop_worker(&p->old[i], until_ns);
    }
    for (uint32_t i = 0; i < MM_LANES_MAX; i++) {
        const struct mm_park_lane *lane = mm_park_lane(p, i);
        if (lane != NULL) {
            stop_worker(&lane->shelf, until_ns);
        }
    }
}

void *mm_park_main(void *arg)
{
    struct mm_park *p = arg;
    bool busy = true;
    bool stop = false;
    bool stopped = false;
    while (wait_for_work(p, busy, &stop)) {
        if (stop && !stopped) {
            stopped = true;
            mm_park_stop_workers(p);
        }
        busy = keep_old(p, stop);
        uint32_t n = mm_lanes_n(p->opts.lanes);
        for (uint32_t i = 0; i < n; i++) {
            struct mm_park_lane *lane = mm_park_lane(p, i);
            busy = (lane != NULL && keep_lane(p, lane, stop)) || busy;
        }
    }
    return NULL;
}
