/* What is parked comes to rest, and goes on by other settings. When the routes change, the logs of
 * the lanes become old ones, as they are: workers keep what they have taken, and only where each
 * record goes is found out anew. */
#include "mm_error.h"
#include "mm_metrics.h"
#include "mm_park_impl.h"
#include "mm_worker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void mm_park_settle(struct mm_park *p, uint32_t wait_ms)
{
    p->settled = false;
    p->wait_ms = wait_ms;
    pthread_mutex_lock(&p->lock);
    p->end = true;
    pthread_cond_signal(&p->cond);
    pthread_mutex_unlock(&p->lock);
}

/* Calls fn for each worker that there is. Do all say true? The thread has ended. */
static bool for_workers(struct mm_park *p,
                        bool (*fn)(struct mm_park_shelf *shelf, void *arg),
                        void *arg)
{
    bool all = true;
    for (size_t i = p->next_old; i < p->n_old; i++) {
        all = (p->old[i].worker == NULL || fn(&p->old[i], arg)) && all;
    }
    for (uint32_t i = 0; i < MM_LANES_MAX; i++) {
        struct mm_park_lane *lane = mm_park_lane(p, i);
        all = (lane == NULL || lane->shelf.worker == NULL || fn(&lane->shelf, arg)) && all;
    }
    return all;
}

static bool settle_worker(struct mm_park_shelf *shelf, void *arg)
{
    const struct mm_park *p = arg;
    mm_worker_settle(shelf->worker, p->wait_ms);
    mm_spool_wake(shelf->spool);
    return true;
}

static bool await_worker(struct mm_park_shelf *shelf, void *arg)
{
    const uint64_t *until_ns = arg;
    return mm_worker_await(shelf->worker, mm_clock_left_ms(*until_ns));
}

bool mm_park_await(struct mm_park *p, uint32_t timeout_ms)
{
    uint64_t until_ns = mm_clock_monotonic_ns() + timeout_ms * UINT64_C(1000000);
    if (!mm_park_join_thread(p, until_ns)) {
        return false;
    }
    if (!p->settled) {
        p->settled = true;
        (void)for_workers(p, settle_worker, p);
    }
    return for_workers(p, await_worker, &until_ns);
}

/* Put a lane's log among the old ones, and take the lane away. Errors: as mm_parkdir_make_old(). */
static int retire_lane(struct mm_park *p, uint32_t i, char *errstr, size_t errstr_len)
{
    struct mm_park_lane *lane = mm_park_lane(p, i);
    struct mm_park_shelf *shelf = &lane->shelf;
    if (shelf->spool != NULL) {
        int err = p->dir == NULL
                      ? 0
                      : mm_parkdir_make_old(p->dir, shelf->name, shelf->name, errstr, errstr_len);
        if (err != 0) {
            return err;
        }
        shelf->lane = MM_METRICS_LANE_OLD;
        shelf->start_ns = 0;
        shelf->stuck = false;
        shelf->n_done = shelf->worker == NULL ? 0 : mm_worker_n_done(shelf->worker);
        p->old[p->n_old++] = *shelf;
        shelf->spool = NULL;
        shelf->worker = NULL;
    }
    p->n_old_lost += lane->n_lost;
    atomic_fetch_add_explicit(&p->n_old_double,
                              atomic_load_explicit(&lane->n_double, memory_order_relaxed),
                              memory_order_relaxed);
    mm_metrics_park_set(p->opts.metrics, i, 0, 0, 0);
    shelf->lane = i;
    mm_park_reset_block(p, shelf);
    mm_park_free_lane(p, lane);
    atomic_store_explicit(&p->lanes[i], NULL, memory_order_release);
    return 0;
}

/* Let the shelves from `from` on come before the others, whose turn begins at next_old: while those
 * are there, what lanes have was parked out of them, and is older. */
static void put_first(struct mm_park *p, size_t from)
{
    size_t n_new = p->n_old - from;
    size_t n_before = from - p->next_old;
    struct mm_park_shelf *all = p->old;
    struct mm_park_shelf *sorted = p->sorted;
    memcpy(sorted, all + from, n_new * sizeof *all);
    memcpy(sorted + n_new, all + p->next_old, n_before * sizeof *all);
    p->old = sorted;
    p->sorted = NULL;
    p->n_old = n_new + n_before;
    p->next_old = 0;
    free(all);
}

/* Room for so many more, and for all in another order. */
static int make_room(struct mm_park *p, size_t n_more)
{
    struct mm_park_shelf *grown = realloc(p->old, (p->n_old + n_more + 1) * sizeof *grown);
    if (grown == NULL) {
        return MM_ENOMEM;
    }
    p->old = grown;
    free(p->sorted);
    p->sorted = calloc(p->n_old + n_more + 1, sizeof *p->sorted);
    return p->sorted == NULL ? MM_ENOMEM : 0;
}

/* Those whose turn it was wait for it again. */
static void suspend_old(struct mm_park *p)
{
    for (size_t i = p->next_old; i < p->n_old; i++) {
        struct mm_park_shelf *shelf = &p->old[i];
        shelf->n_done = shelf->worker == NULL ? 0 : mm_worker_n_done(shelf->worker);
        shelf->start_ns = 0;
        shelf->stuck = false;
    }
    struct mm_park_shelf block = {.lane = MM_METRICS_LANE_OLD};
    mm_park_reset_block(p, &block);
}

int mm_park_reroute(struct mm_park *p,
                    const struct mm_config *config,
                    char *errstr,
                    size_t errstr_len)
{
    size_t from = p->n_old;
    if (make_room(p, MM_LANES_MAX) != 0 ||
        mm_metrics_park(p->opts.metrics, MM_METRICS_LANE_OLD) == NULL) {
        snprintf(errstr, errstr_len, "%s", mm_strerror(MM_ENOMEM));
        return MM_ENOMEM;
    }
    int err = 0;
    for (uint32_t i = 0; err == 0 && i < MM_LANES_MAX; i++) {
        err = mm_park_lane(p, i) == NULL ? 0 : retire_lane(p, i, errstr, errstr_len);
    }
    put_first(p, from);
    suspend_old(p);
    bool any = p->n_old > 0;
    atomic_store_explicit(&p->comes_first, any, memory_order_release);
    mm_park_tell_old(p);
    if (err == 0 && p->dir != NULL) {
        err = mm_parkdir_reroute(p->dir, config, errstr, errstr_len);
    }
    return err;
}

struct resume
{
    struct mm_worker_change change;
    char *errstr;
    size_t errstr_len;
    int err;
};

/* Those of old logs are resumed by the thread, in their turn. */
static bool resume_worker(struct mm_park_shelf *shelf, void *arg)
{
    struct resume *r = arg;
    if (r->err == 0 && shelf->lane != MM_METRICS_LANE_OLD && !mm_worker_is_running(shelf->worker)) {
        shelf->stuck = false; /* it has ended after all */
        r->err = mm_worker_resume(shelf->worker, &r->change, r->errstr, r->errstr_len);
    }
    return r->err == 0;
}

/* A change lets all try at once: also where no worker is yet, or none could be started. */
static void hurry_lanes(struct mm_park *p)
{
    for (uint32_t i = 0; i < MM_LANES_MAX; i++) {
        struct mm_park_lane *lane = mm_park_lane(p, i);
        if (lane != NULL) {
            pthread_mutex_lock(&lane->lock);
            lane->shelf.first_try_s = 0;
            lane->shelf.start_ns = 0;
            pthread_mutex_unlock(&lane->lock);
        }
    }
}

int mm_park_resume(struct mm_park *p,
                   const struct mm_worker_change *change,
                   char *errstr,
                   size_t errstr_len)
{
    if (p->started) {
        return 0; /* an earlier call has come this far: all of it is the thread's now */
    }
    p->opts.config = change->config;
    mm_park_leave_room(p);
    struct resume r = {.change = *change, .errstr = errstr, .errstr_len = errstr_len};
    if (!for_workers(p, resume_worker, &r)) {
        return r.err;
    }
    hurry_lanes(p);
    pthread_mutex_lock(&p->lock);
    p->end = false;
    p->woken = true;
    pthread_mutex_unlock(&p->lock);
    return mm_park_start(p, errstr, errstr_len);
}
