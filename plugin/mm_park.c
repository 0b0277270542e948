#include "mm_config.h"
#include "mm_error.h"
#include "mm_log.h"
#include "mm_park_impl.h"
#include "mm_record.h"
#include "mm_route.h"
#include "mm_thread.h"
#include "mm_worker.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* All lanes may be parked at the same time, each with a segment or two. */
#define SEGMENTS_PER_LIMIT 32
#define SEGMENTS_PER_LANE 4
#define SEGMENT_UNIT (UINT64_C(32) * 1024)
#define SEGMENT_MAX (UINT64_C(1024) * 1024)

/* Of the limit so much is kept for them. */
#define ROOM_PART 16

/* --- logs ---------------------------------------------------------------------------------------
 */

static uint32_t segment_bytes(const struct mm_config *config)
{
    uint64_t n = (uint64_t)SEGMENTS_PER_LANE * mm_route_n_possible(config);
    n = n < SEGMENTS_PER_LIMIT ? SEGMENTS_PER_LIMIT : n;
    uint64_t size = config->spool_max_bytes / n / SEGMENT_UNIT * SEGMENT_UNIT;
    size = size < SEGMENT_UNIT ? SEGMENT_UNIT : size;
    return (uint32_t)(size > SEGMENT_MAX ? SEGMENT_MAX : size);
}

/* What the spool leaves of the limit for logs of parked lanes: were it full when the first record
 * of a lane is to be laid aside, that record could not leave it, and no other behind. */
static uint64_t room_to_park(const struct mm_config *config)
{
    uint64_t part = config->spool_max_bytes / ROOM_PART;
    uint64_t least = UINT64_C(2) * segment_bytes(config);
    return mm_route_n_possible(config) == 1 ? 0 : part > least ? part : least;
}

void mm_park_leave_room(struct mm_park *p)
{
    if (p->opts.budget != NULL) {
        mm_spool_leave(p->opts.spool, room_to_park(p->opts.config));
    }
}

/* Open or make the log of a shelf. */
static int open_log(struct mm_park *p,
                    struct mm_park_shelf *shelf,
                    bool old,
                    char *errstr,
                    size_t errstr_len)
{
    const struct mm_config *config = p->opts.config;
    char path[MM_PARKDIR_PATH_LEN];
    struct mm_spool_options opts = {
        .max_bytes = config->spool_max_bytes,
        /* Nothing is added to an old one. */
        .segment_bytes = old ? (uint32_t)SEGMENT_UNIT : segment_bytes(config),
        .n_readers = 1,
        .manual = true,
        .budget = p->opts.budget,
        .log = p->opts.log,
        .min_free = config->spool_min_free,
        /* Only who adds something syncs it, so that a failure is noticed by who must know of it. */
        .sync = config->spool_sync == MM_SPOOL_SYNC_NEVER ? MM_SPOOL_SYNC_NEVER
                                                          : MM_SPOOL_SYNC_INTERVAL,
        .sync_interval_ms = UINT32_MAX,
        .writer = config->spool_writer,
    };
    if (p->dir != NULL) {
        mm_parkdir_path(p->dir, shelf->name, path);
        opts.dir = path;
    }
    int err = mm_spool_open(&opts, &shelf->spool, errstr, errstr_len);
    if (err == 0) {
        mm_spool_tick(shelf->spool); /* the first one syncs: now, while nothing is in it */
    }
    return err;
}

void mm_park_close_log(struct mm_park *p, struct mm_park_shelf *shelf)
{
    mm_spool_close(shelf->spool);
    shelf->spool = NULL;
    if (p->dir != NULL) {
        mm_parkdir_remove(p->dir, shelf->name);
    }
}

static uint64_t n_to_take(const struct mm_spool *spool)
{
    return mm_spool_to_take(spool) - mm_spool_n_repeat(spool);
}

void mm_park_tell(struct mm_park *p, struct mm_park_lane *lane)
{
    struct mm_spool_stats stats = {0};
    uint64_t n_double = atomic_load_explicit(&lane->n_double, memory_order_relaxed);
    uint64_t n = 0;
    uint64_t n_lost = lane->n_lost;
    if (lane->shelf.spool != NULL) {
        mm_spool_stats(lane->shelf.spool, &stats);
        n = n_to_take(lane->shelf.spool);
        n_lost += stats.n_lost;
    }
    mm_metrics_park_set(p->opts.metrics, lane->shelf.lane, n - n_double, n_lost, stats.used_bytes);
}

void mm_park_tell_old(struct mm_park *p)
{
    uint64_t n = 0;
    uint64_t n_lost = p->n_old_lost;
    uint64_t n_bytes = 0;
    for (size_t i = p->next_old; i < p->n_old; i++) {
        struct mm_spool_stats stats;
        mm_spool_stats(p->old[i].spool, &stats);
        n += n_to_take(p->old[i].spool) - p->old[i].n_done;
        n_lost += stats.n_lost;
        n_bytes += stats.used_bytes;
    }
    n -= atomic_load_explicit(&p->n_old_double, memory_order_relaxed);
    mm_metrics_park_set(p->opts.metrics, MM_METRICS_LANE_OLD, n, n_lost, n_bytes);
}

/* --- for workers --------------------------------------------------------------------------------
 */

bool mm_park_comes_first(const struct mm_park *p)
{
    /* Pairs with the store in keep_old(): what was parked then is seen to be. */
    return atomic_load_explicit(&p->comes_first, memory_order_acquire);
}

bool mm_park_is_parked(const struct mm_park *p, uint32_t lane)
{
    const struct mm_park_lane *l = mm_park_lane(p, lane);
    return l != NULL && atomic_load_explicit(&l->parked, memory_order_acquire);
}

uint64_t mm_park_epoch(const struct mm_park *p, uint32_t lane)
{
    const struct mm_park_lane *l = mm_park_lane(p, lane);
    return l == NULL ? 0 : atomic_load_explicit(&l->epoch, memory_order_acquire);
}

/* A lane, with its block of the metrics. NULL: no memory. */
static struct mm_park_lane *new_lane(struct mm_park *p, uint32_t i)
{
    struct mm_park_lane *lane = calloc(1, sizeof *lane);
    if (lane == NULL || mm_metrics_park(p->opts.metrics, i) == NULL) {
        free(lane);
        return NULL;
    }
    pthread_mutex_init(&lane->sync_lock, NULL);
    pthread_mutex_init(&lane->lock, NULL);
    lane->shelf.lane = i;
    snprintf(lane->shelf.kafka_topic, sizeof lane->shelf.kafka_topic, "%s",
             mm_lanes_name(p->opts.lanes, i));
    snprintf(lane->shelf.name, sizeof lane->shelf.name, "%s", lane->shelf.kafka_topic);
    return lane;
}

/* The lane, made if there is none. NULL: no memory. */
static struct mm_park_lane *make_lane(struct mm_park *p, uint32_t i)
{
    struct mm_park_lane *lane = mm_park_lane(p, i);
    if (lane == NULL) {
        pthread_mutex_lock(&p->lock);
        lane = mm_park_lane(p, i);
        lane = lane == NULL ? new_lane(p, i) : lane;
        atomic_store_explicit(&p->lanes[i], lane, memory_order_release);
        pthread_mutex_unlock(&p->lock);
    }
    return lane;
}

bool mm_park_enter(struct mm_park *p)
{
    uint32_t n = atomic_load_explicit(&p->n_tries, memory_order_relaxed);
    while (n < MM_PARK_TRIES_MAX &&
           !atomic_compare_exchange_weak_explicit(&p->n_tries, &n, n + 1, memory_order_relaxed,
                                                  memory_order_relaxed)) {
    }
    return n < MM_PARK_TRIES_MAX;
}

void mm_park_leave(struct mm_park *p)
{
    atomic_fetch_sub_explicit(&p->n_tries, 1, memory_order_relaxed);
}

static void wake(struct mm_park *p)
{
    pthread_mutex_lock(&p->lock);
    p->woken = true;
    pthread_cond_signal(&p->cond);
    pthread_mutex_unlock(&p->lock);
}

/* Make the directory of all logs, once. */
static int make_dir(struct mm_park *p)
{
    pthread_mutex_lock(&p->dir_lock);
    int err = mm_parkdir_make(p->dir);
    pthread_mutex_unlock(&p->dir_lock);
    return err;
}

/* A log for a lane that is not parked yet. */
static int new_log(struct mm_park *p, struct mm_park_lane *lane)
{
    char errstr[512];
    int err = p->dir == NULL ? 0 : make_dir(p);
    if (err != 0) {
        char reason[64];
        snprintf(errstr, sizeof errstr, "its directory cannot be made: %s",
                 strerror_r(errno, reason, sizeof reason));
    } else {
        err = open_log(p, &lane->shelf, false, errstr, sizeof errstr);
    }
    if (err != 0) {
        mm_log_write(p->opts.log, MM_LOG_ERROR,
                     "the messages for Kafka topic %s cannot be laid aside: %s",
                     lane->shelf.kafka_topic, errstr);
        return err;
    }
    if (p->dir != NULL && p->opts.config->spool_sync != MM_SPOOL_SYNC_NEVER) {
        (void)mm_parkdir_sync(p->dir);
    }
    return 0;
}

/* The record's properties, with its id if they have none, in the lane's scratch. */
static int make_props(struct mm_park_lane *lane,
                      const struct mm_record *r,
                      const char *id,
                      uint32_t *len)
{
    uint32_t id_len = (uint32_t)strlen(id);
    size_t size = (size_t)r->props_len + MM_PROP_HEADER_LEN + id_len;
    if (size > lane->props_cap) {
        uint8_t *grown = realloc(lane->props, size);
        if (grown == NULL) {
            return MM_ENOMEM;
        }
        lane->props = grown;
        lane->props_cap = size;
    }
    uint8_t *end = lane->props;
    if (r->props_len > 0) {
        memcpy(end, r->props, r->props_len);
        end += r->props_len;
    }
    uint32_t origin_len;
    if (mm_prop_get(r->props, r->props_len, MM_TAG_ORIGIN, &origin_len) == NULL) {
        end = mm_prop_put(end, MM_TAG_ORIGIN, id, id_len);
    }
    *len = (uint32_t)(end - lane->props);
    return 0;
}

static int append(struct mm_park_lane *lane, const struct mm_record *r, const char *id)
{
    struct mm_record copy = *r;
    int err = make_props(lane, r, id, &copy.props_len);
    copy.props = lane->props;
    return err == 0 ? mm_spool_append(lane->shelf.spool, &copy) : err;
}

/* As mm_park_add(), with the lane's lock. */
static int add(struct mm_park *p,
               struct mm_park_lane *lane,
               const struct mm_record *r,
               const char *id,
               const char *reason)
{
    bool parked = atomic_load_explicit(&lane->parked, memory_order_relaxed);
    if (!parked && reason == NULL) {
        return MM_EAGAIN;
    }
    if (lane->closing) {
        return MM_EBUSY;
    }
    if (!parked && lane->shelf.spool == NULL) {
        int err = new_log(p, lane);
        if (err != 0) {
            return err;
        }
    }
    int err = append(lane, r, id);
    if (err != 0) {
        return err; /* a log that was made for it stays: the thread takes it away */
    }
    if (!parked) {
        atomic_store_explicit(&lane->error, reason, memory_order_relaxed);
        atomic_store_explicit(&mm_metrics_park(p->opts.metrics, lane->shelf.lane)->refusal, reason,
                              memory_order_relaxed);
        lane->shelf.first_try_s = p->opts.config->kafka_retry_interval_s;
        atomic_store_explicit(&lane->parked, true, memory_order_release);
    }
    mm_park_tell(p, lane);
    return 0;
}

int mm_park_add(struct mm_park *p,
                uint32_t lane,
                const struct mm_record *r,
                const char *id,
                const char *reason)
{
    if (reason == NULL && !mm_park_is_parked(p, lane)) {
        return MM_EAGAIN; /* without the lock: the log may just be being closed */
    }
    struct mm_park_lane *l = make_lane(p, lane);
    if (l == NULL) {
        return MM_ENOMEM;
    }
    pthread_mutex_lock(&l->lock);
    bool had_log = l->shelf.spool != NULL;
    int err = add(p, l, r, id, reason);
    bool has_log = l->shelf.spool != NULL;
    pthread_mutex_unlock(&l->lock);
    if (has_log && !had_log) {
        wake(p);
    }
    return err;
}

int mm_park_sync(struct mm_park *p, uint32_t lane, uint64_t epoch)
{
    struct mm_park_lane *l = mm_park_lane(p, lane); /* something was added to it: it is there */
    pthread_mutex_lock(&l->lock);
    struct mm_spool *spool = l->closing ? NULL : l->shelf.spool;
    l->n_syncing += spool != NULL;
    pthread_mutex_unlock(&l->lock);
    if (spool == NULL) {
        return 0; /* all that was in it is delivered */
    }
    /* The log tells of a failure once: who comes next must find it in epoch. */
    pthread_mutex_lock(&l->sync_lock);
    if (mm_spool_sync(spool) != 0) {
        atomic_fetch_add_explicit(&l->epoch, 1, memory_order_acq_rel);
    }
    pthread_mutex_unlock(&l->sync_lock);
    pthread_mutex_lock(&l->lock);
    l->n_syncing--;
    pthread_mutex_unlock(&l->lock);
    return mm_park_epoch(p, lane) == epoch ? 0 : MM_EIO;
}

void mm_park_note_doubles(struct mm_park *p, uint32_t lane, uint64_t n)
{
    struct mm_park_lane *l = mm_park_lane(p, lane); /* the same */
    pthread_mutex_lock(&l->lock);
    atomic_fetch_add_explicit(&l->n_double, n, memory_order_relaxed);
    mm_park_tell(p, l);
    pthread_mutex_unlock(&l->lock);
}

/* Of those that the routes have changed since: whose they were is not known any more. */
static bool take_old_double(struct mm_park *p)
{
    uint64_t n = atomic_load_explicit(&p->n_old_double, memory_order_relaxed);
    while (n > 0) {
        if (atomic_compare_exchange_weak_explicit(&p->n_old_double, &n, n - 1, memory_order_relaxed,
                                                  memory_order_relaxed)) {
            return true;
        }
    }
    return false;
}

bool mm_park_take_double(struct mm_park *p, uint32_t lane)
{
    struct mm_park_lane *l = mm_park_lane(p, lane);
    if (l == NULL || atomic_load_explicit(&l->n_double, memory_order_relaxed) == 0) {
        return take_old_double(p);
    }
    pthread_mutex_lock(&l->lock);
    uint64_t n = atomic_load_explicit(&l->n_double, memory_order_relaxed);
    if (n > 0) {
        atomic_store_explicit(&l->n_double, n - 1, memory_order_relaxed);
        mm_park_tell(p, l);
    }
    pthread_mutex_unlock(&l->lock);
    return n > 0;
}

void mm_park_info(struct mm_park *p, uint32_t lane, struct mm_park_info *out)
{
    struct mm_park_lane *l = mm_park_lane(p, lane);
    if (l == NULL) {
        *out =
            (struct mm_park_info){.kafka_topic = mm_lanes_name(p->opts.lanes, lane), .error = ""};
        return;
    }
    struct mm_metrics_worker *m = mm_metrics_park(p->opts.metrics, lane);
    const char *error = atomic_load_explicit(&l->error, memory_order_relaxed);
    *out = (struct mm_park_info){.kafka_topic = l->shelf.kafka_topic,
                                 .parked = mm_park_is_parked(p, lane),
                                 .oldest_ms = mm_counter_get(&m->oldest_ms),
                                 .retry_at_ms = mm_counter_get(&m->retry_at_ms)};
    pthread_mutex_lock(&l->lock);
    const char *last = l->shelf.worker == NULL ? NULL : mm_worker_last_error(l->shelf.worker);
    if (l->shelf.spool != NULL && !l->closing) {
        struct mm_spool_stats stats;
        mm_spool_stats(l->shelf.spool, &stats);
        out->n_bytes = stats.used_bytes;
        out->n_records = n_to_take(l->shelf.spool);
        out->n_records -= l->shelf.worker == NULL ? 0 : mm_worker_n_finished(l->shelf.worker);
    }
    pthread_mutex_unlock(&l->lock);
    out->error = last != NULL ? last : error != NULL ? error : "";
}

/* --- start, stop --------------------------------------------------------------------------------
 */

static void log_found(struct mm_park *p, const struct mm_park_shelf *shelf, bool old)
{
    const struct mm_spool_found *found = mm_spool_found(shelf->spool);
    mm_log_write(p->opts.log, MM_LOG_WARN,
                 "%" PRIu64
                 " messages wait that were parked for Kafka topic %s, the oldest from "
                 "%" PRIu64 " s ago; %s",
                 found->n_records, shelf->kafka_topic, mm_clock_age_ms(found->oldest_ms) / 1000,
                 old ? "the routes have changed since: they are sent by the present ones, before "
                       "all others"
                     : "the topic is tried again");
}

/* The shelf that a log found belongs to. NULL: no memory. */
static struct mm_park_shelf *shelf_for(struct mm_park *p, const struct mm_parkdir_log *log)
{
    if (log->age == 0) {
        struct mm_park_lane *lane = make_lane(p, log->lane);
        return lane == NULL ? NULL : &lane->shelf;
    }
    if (mm_metrics_park(p->opts.metrics, MM_METRICS_LANE_OLD) == NULL) {
        return NULL;
    }
    struct mm_park_shelf *shelf = &p->old[p->n_old];
    shelf->lane = MM_METRICS_LANE_OLD;
    snprintf(shelf->kafka_topic, sizeof shelf->kafka_topic, "%s", log->kafka_topic);
    snprintf(shelf->name, sizeof shelf->name, "%s", log->name);
    return shelf;
}

static int no_memory(char *errstr, size_t errstr_len)
{
    snprintf(errstr, errstr_len, "%s", mm_strerror(MM_ENOMEM));
    return MM_ENOMEM;
}

static int open_found(struct mm_park *p, char *errstr, size_t errstr_len)
{
    size_t n_logs;
    const struct mm_parkdir_log *logs = mm_parkdir_logs(p->dir, &n_logs);
    p->old = calloc(n_logs + 1, sizeof *p->old);
    if (p->old == NULL) {
        return no_memory(errstr, errstr_len);
    }
    for (size_t i = 0; i < n_logs; i++) {
        struct mm_park_shelf *shelf = shelf_for(p, &logs[i]);
        bool old = logs[i].age > 0;
        int err = shelf == NULL ? no_memory(errstr, errstr_len)
                                : open_log(p, shelf, old, errstr, errstr_len);
        if (err != 0) {
            return err;
        }
        if (mm_spool_found(shelf->spool)->n_records == 0) {
            mm_park_close_log(p, shelf);
            continue;
        }
        log_found(p, shelf, old);
        if (old) {
            p->n_old++;
        } else {
            struct mm_park_lane *lane = mm_park_lane(p, shelf->lane);
            atomic_store_explicit(&lane->parked, true, memory_order_relaxed);
            mm_park_tell(p, lane);
        }
    }
    if (p->n_old > 0) {
        atomic_store_explicit(&p->comes_first, true, memory_order_relaxed);
        mm_park_tell_old(p);
    }
    return 0;
}

static void init_locks(struct mm_park *p)
{
    mm_thread_cond_init(&p->cond);
    pthread_mutex_init(&p->lock, NULL);
    pthread_mutex_init(&p->dir_lock, NULL);
}

int mm_park_open(const struct mm_park_options *opts,
                 struct mm_park **out,
                 char *errstr,
                 size_t errstr_len)
{
    *out = NULL;
    struct mm_park *p = calloc(1, sizeof *p);
    if (p == NULL) {
        return no_memory(errstr, errstr_len);
    }
    p->opts = *opts;
    init_locks(p);
    mm_park_leave_room(p);
    if (opts->config->spool_dir != NULL) {
        int err = mm_parkdir_open(opts->config, opts->lanes, &p->dir, errstr, errstr_len);
        if (err == 0) {
            err = open_found(p, errstr, errstr_len);
        }
        if (err != 0) {
            mm_park_close(p);
            return err;
        }
    }
    *out = p;
    return 0;
}

/* Can there be anything to do? */
static bool has_work(const struct mm_park *p)
{
    return mm_route_n_possible(p->opts.config) > 1 || p->n_old > 0 || mm_park_lane(p, 0) != NULL;
}

int mm_park_start(struct mm_park *p, char *errstr, size_t errstr_len)
{
    if (!has_work(p)) {
        return 0;
    }
    int err = mm_thread_start("mm-park", mm_park_main, p, &p->thread);
    if (err != 0) {
        char reason[64];
        snprintf(errstr, errstr_len, "the thread for parked topics could not be started: %s",
                 strerror_r(err, reason, sizeof reason));
        return MM_ETHREAD;
    }
    p->started = true;
    return 0;
}

void mm_park_stop(struct mm_park *p, uint32_t drain_ms)
{
    if (p == NULL) {
        return;
    }
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    p->stop_ns = mm_clock_monotonic_ns() + drain_ms * UINT64_C(1000000);
    pthread_cond_signal(&p->cond);
    pthread_mutex_unlock(&p->lock);
}

bool mm_park_join_thread(struct mm_park *p, uint64_t until_ns)
{
    if (!p->started) {
        return true;
    }
    pthread_mutex_lock(&p->lock);
    p->end = true;
    pthread_cond_signal(&p->cond);
    pthread_mutex_unlock(&p->lock);
    p->started = !mm_thread_join(p->thread, mm_clock_left_ms(until_ns));
    return !p->started;
}

void mm_park_free_lane(struct mm_park *p, struct mm_park_lane *lane)
{
    if (lane == NULL) {
        return;
    }
    if (lane->shelf.spool != NULL) {
        mm_park_close_log(p, &lane->shelf);
    }
    free(lane->props);
    pthread_mutex_destroy(&lane->sync_lock);
    pthread_mutex_destroy(&lane->lock);
    free(lane);
}

static bool join_worker(struct mm_park_shelf *shelf, uint64_t until_ns)
{
    if (!mm_worker_join(shelf->worker, mm_clock_left_ms(until_ns))) {
        return false;
    }
    shelf->worker = NULL;
    return true;
}

bool mm_park_join(struct mm_park *p, uint32_t timeout_ms)
{
    if (p == NULL) {
        return true;
    }
    uint64_t until_ns = mm_clock_monotonic_ns() + timeout_ms * UINT64_C(1000000);
    if (!mm_park_join_thread(p, until_ns)) {
        return false;
    }
    mm_park_stop_workers(p); /* also where the thread has not come to it */
    bool all = true;
    for (size_t i = 0; i < p->n_old; i++) {
        all = join_worker(&p->old[i], until_ns) && all;
    }
    for (uint32_t i = 0; i < MM_LANES_MAX; i++) {
        struct mm_park_lane *lane = mm_park_lane(p, i);
        all = (lane == NULL || join_worker(&lane->shelf, until_ns)) && all;
    }
    return all;
}

void mm_park_close(struct mm_park *p)
{
    if (p == NULL) {
        return;
    }
    for (size_t i = p->next_old; i < p->n_old; i++) {
        mm_park_close_log(p, &p->old[i]);
    }
    for (uint32_t i = 0; i < MM_LANES_MAX; i++) {
        mm_park_free_lane(p, mm_park_lane(p, i));
    }
    pthread_cond_destroy(&p->cond);
    pthread_mutex_destroy(&p->lock);
    pthread_mutex_destroy(&p->dir_lock);
    mm_parkdir_close(p->dir);
    free(p->sorted);
    free(p->old);
    free(p);
}
