#include "mm_park.h"

#include "mm_clock.h"
#include "mm_config.h"
#include "mm_error.h"
#include "mm_lanes.h"
#include "mm_log.h"
#include "mm_parkdir.h"
#include "mm_record.h"
#include "mm_route.h"
#include "mm_worker.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
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

#define PASS_MS 20
#define SECOND_NS UINT64_C(1000000000)

/* After a worker could not be started. */
#define START_AGAIN_NS (10 * SECOND_NS)

/* How long the end of a worker that has nothing to do may take. */
#define JOIN_MS 10000

/* A log, and the worker that delivers what is in it. */
struct shelf
{
    char name[MM_PARKDIR_NAME_LEN];
    char kafka_topic[MM_PARKDIR_NAME_LEN]; /* for people */
    uint32_t lane;                         /* MM_METRICS_LANE_OLD: by other routes */
    struct mm_spool *spool;                /* NULL: there is none */

    /* the thread's */
    struct mm_worker *worker; /* NULL: there is none; set under the lane's lock */
    uint64_t start_ns;        /* not before */
    uint32_t first_try_s;     /* after which the worker begins */
    bool stuck;               /* the worker has not ended in time */
    uint64_t n_done;          /* of an old one: finished by a worker that waits for its turn */
};

struct lane
{
    _Atomic bool parked;
    _Atomic uint64_t epoch;      /* syncs that have failed */
    _Atomic uint64_t n_double;   /* records that are, or will be, there twice */
    _Atomic(const char *) error; /* why it was parked last */

    pthread_mutex_t lock; /* for all that follows */
    struct shelf shelf;
    bool closing;       /* nothing is added, and the log goes away */
    uint32_t n_syncing; /* workers that use the log without the lock */
    uint64_t n_lost;    /* of logs that are closed */
    uint8_t *props;     /* scratch */
    size_t props_cap;
};

struct mm_park
{
    struct mm_park_options opts;
    struct mm_parkdir *dir;                     /* NULL: in memory */
    _Atomic(struct lane *) lanes[MM_LANES_MAX]; /* NULL: it was never parked; made under lock */
    _Atomic uint32_t n_tries;                   /* lanes whose workers have a producer */

    /* parked by other routes; the thread's once it is started */
    struct shelf *old;
    size_t n_old;
    size_t next_old;      /* those before it are done */
    struct shelf *sorted; /* room for them in another order, while they get it */
    uint64_t n_old_lost;
    _Atomic uint64_t n_old_double; /* records that are, or will be, there twice */
    _Atomic bool comes_first;      /* next_old < n_old */

    pthread_mutex_t dir_lock; /* for making dir */
    pthread_mutex_t lock;     /* for all that follows */
    pthread_cond_t cond;
    bool woken; /* something is parked that was not */
    bool stop;  /* no new workers; those that are there have been asked to end */
    bool end;
    uint64_t stop_ns; /* when they are to have ended */

    /* the owner's */
    bool started;     /* there is a thread to be joined */
    bool settled;     /* its workers have been asked to settle, since it has ended */
    uint32_t wait_ms; /* that they may take */
    pthread_t thread;
};

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

/* Open or make the log of a shelf. */
static int open_log(struct mm_park *p,
                    struct shelf *shelf,
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

/* A log without records goes, and its directory with it. */
static void close_log(struct mm_park *p, struct shelf *shelf)
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

/* The caller has the lane's lock. */
static void tell_metrics(struct mm_park *p, struct lane *lane)
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

static void tell_metrics_of_old(struct mm_park *p)
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
    /* Pairs with the store in end_old(): what was parked then is seen to be. */
    return atomic_load_explicit(&p->comes_first, memory_order_acquire);
}

/* NULL: it was never parked. */
static struct lane *get_lane(const struct mm_park *p, uint32_t i)
{
    return atomic_load_explicit(&p->lanes[i], memory_order_acquire);
}

bool mm_park_is_parked(const struct mm_park *p, uint32_t lane)
{
    const struct lane *l = get_lane(p, lane);
    return l != NULL && atomic_load_explicit(&l->parked, memory_order_acquire);
}

uint64_t mm_park_epoch(const struct mm_park *p, uint32_t lane)
{
    const struct lane *l = get_lane(p, lane);
    return l == NULL ? 0 : atomic_load_explicit(&l->epoch, memory_order_acquire);
}

/* A lane, with its block of the metrics. NULL: no memory. */
static struct lane *new_lane(struct mm_park *p, uint32_t i)
{
    struct lane *lane = calloc(1, sizeof *lane);
    if (lane == NULL || mm_metrics_park(p->opts.metrics, i) == NULL) {
        free(lane);
        return NULL;
    }
    pthread_mutex_init(&lane->lock, NULL);
    lane->shelf.lane = i;
    snprintf(lane->shelf.kafka_topic, sizeof lane->shelf.kafka_topic, "%s",
             mm_lanes_name(p->opts.lanes, i));
    snprintf(lane->shelf.name, sizeof lane->shelf.name, "%s", lane->shelf.kafka_topic);
    return lane;
}

/* The lane, made if there is none. NULL: no memory. */
static struct lane *make_lane(struct mm_park *p, uint32_t i)
{
    struct lane *lane = get_lane(p, i);
    if (lane == NULL) {
        pthread_mutex_lock(&p->lock);
        lane = get_lane(p, i);
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
static int new_log(struct mm_park *p, struct lane *lane)
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
static int make_props(struct lane *lane, const struct mm_record *r, const char *id, uint32_t *len)
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

static int append(struct lane *lane, const struct mm_record *r, const char *id)
{
    struct mm_record copy = *r;
    int err = make_props(lane, r, id, &copy.props_len);
    copy.props = lane->props;
    return err == 0 ? mm_spool_append(lane->shelf.spool, &copy) : err;
}

/* As mm_park_add(), with the lane's lock. */
static int add(struct mm_park *p,
               struct lane *lane,
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
    tell_metrics(p, lane);
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
    struct lane *l = make_lane(p, lane);
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
    struct lane *l = get_lane(p, lane); /* something was added to it: it is there */
    pthread_mutex_lock(&l->lock);
    struct mm_spool *spool = l->closing ? NULL : l->shelf.spool;
    l->n_syncing += spool != NULL;
    pthread_mutex_unlock(&l->lock);
    if (spool == NULL) {
        return 0; /* all that was in it is delivered */
    }
    int err = mm_spool_sync(spool);
    if (err != 0) {
        atomic_fetch_add_explicit(&l->epoch, 1, memory_order_acq_rel);
    }
    pthread_mutex_lock(&l->lock);
    l->n_syncing--;
    pthread_mutex_unlock(&l->lock);
    return mm_park_epoch(p, lane) == epoch ? 0 : MM_EIO;
}

void mm_park_note_doubles(struct mm_park *p, uint32_t lane, uint64_t n)
{
    struct lane *l = get_lane(p, lane); /* the same */
    pthread_mutex_lock(&l->lock);
    atomic_fetch_add_explicit(&l->n_double, n, memory_order_relaxed);
    tell_metrics(p, l);
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
    struct lane *l = get_lane(p, lane);
    if (l == NULL || atomic_load_explicit(&l->n_double, memory_order_relaxed) == 0) {
        return take_old_double(p);
    }
    pthread_mutex_lock(&l->lock);
    uint64_t n = atomic_load_explicit(&l->n_double, memory_order_relaxed);
    if (n > 0) {
        atomic_store_explicit(&l->n_double, n - 1, memory_order_relaxed);
        tell_metrics(p, l);
    }
    pthread_mutex_unlock(&l->lock);
    return n > 0;
}

void mm_park_info(struct mm_park *p, uint32_t lane, struct mm_park_info *out)
{
    struct lane *l = get_lane(p, lane);
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

/* --- the thread ---------------------------------------------------------------------------------
 */

/* lock: the lane's; NULL: only the thread knows of the shelf. */
static void set_worker(struct shelf *shelf, struct mm_worker *worker, pthread_mutex_t *lock)
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
                         struct shelf *shelf,
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
static bool is_empty(const struct shelf *shelf)
{
    /* Acquires what the worker released: deliveries come before the lane is used directly. */
    uint64_t n = shelf->worker == NULL ? 0 : mm_worker_n_finished(shelf->worker);
    return n == mm_spool_to_take(shelf->spool);
}

/* End a worker that has nothing more to do. False: it does not end. */
static bool end_worker(struct mm_park *p, struct shelf *shelf, pthread_mutex_t *lock)
{
    struct mm_worker *worker = shelf->worker;
    set_worker(shelf, NULL, lock);
    if (worker == NULL) {
        return true;
    }
    mm_worker_stop(worker, 0);
    mm_spool_wake(shelf->spool);
    if (mm_worker_join(worker, JOIN_MS)) {
        return true;
    }
    set_worker(shelf, worker, lock);
    shelf->stuck = true;
    mm_log_write(p->opts.log, MM_LOG_ERROR,
                 "the worker of the parked Kafka topic %s does not end; the topic is not parked "
                 "again until the broker is started again",
                 shelf->kafka_topic);
    return false;
}

/* The log of a shelf is gone, and its worker: nothing is taken or held. */
static void reset_block(struct mm_park *p, const struct shelf *shelf)
{
    struct mm_metrics_worker *m = mm_metrics_park(p->opts.metrics, shelf->lane);
    mm_gauge_set(&m->state, MM_WORKER_STOPPED);
    mm_gauge_set(&m->taken, 0);
    mm_gauge_set(&m->held, 0);
    mm_gauge_set(&m->oldest_ms, 0);
    mm_gauge_set(&m->retry_at_ms, 0);
}

/* Take a lane's log away that is empty. */
static void end_lane(struct mm_park *p, struct lane *lane)
{
    if (!end_worker(p, &lane->shelf, &lane->lock)) {
        return; /* closing stays set */
    }
    pthread_mutex_lock(&lane->lock);
    struct mm_spool_stats stats;
    mm_spool_stats(lane->shelf.spool, &stats);
    lane->n_lost += stats.n_lost;
    close_log(p, &lane->shelf);
    tell_metrics(p, lane);
    reset_block(p, &lane->shelf);
    lane->closing = false;
    pthread_mutex_unlock(&lane->lock);
}

/* Returns whether there is anything to look after. */
static bool keep_lane(struct mm_park *p, struct lane *lane, bool stop)
{
    pthread_mutex_lock(&lane->lock);
    bool parked = atomic_load_explicit(&lane->parked, memory_order_relaxed);
    bool idle = lane->shelf.spool == NULL || lane->shelf.stuck;
    bool empty = false;
    if (!idle) {
        mm_spool_tick(lane->shelf.spool);
        empty = !stop && lane->n_syncing == 0 && is_empty(&lane->shelf);
        if (empty) {
            lane->closing = true;
            atomic_store_explicit(&lane->parked, false, memory_order_release);
        }
        tell_metrics(p, lane);
    }
    pthread_mutex_unlock(&lane->lock);
    if (empty) {
        if (parked) {
            mm_log_write(p->opts.log, MM_LOG_INFO,
                         "Kafka topic %s is not parked any more: all that waited is delivered",
                         lane->shelf.kafka_topic);
        }
        end_lane(p, lane);
        return false;
    }
    if (!idle && parked && !stop && lane->shelf.worker == NULL) {
        start_worker(p, &lane->shelf, MM_ROLE_LANE, &lane->lock);
    }
    return !idle;
}

/* It is a shelf's turn, whose worker may be there already: it was another role's, or was at it when
 * the routes have changed. */
static void start_old(struct mm_park *p, struct shelf *shelf)
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
    struct shelf *shelf = &p->old[p->next_old];
    if (shelf->stuck) {
        return true;
    }
    mm_spool_tick(shelf->spool);
    if (shelf->worker == NULL || !mm_worker_is_running(shelf->worker)) {
        if (!stop) {
            start_old(p, shelf);
        }
    } else if (!stop && is_empty(shelf) && end_worker(p, shelf, NULL)) {
        struct mm_spool_stats stats;
        mm_spool_stats(shelf->spool, &stats);
        p->n_old_lost += stats.n_lost;
        p->next_old++;
        tell_metrics_of_old(p);
        reset_block(p, shelf);
        close_log(p, shelf);
        if (p->next_old == p->n_old) {
            mm_log_write(p->opts.log, MM_LOG_INFO,
                         "what was parked by earlier routes is dealt with");
            atomic_store_explicit(&p->comes_first, false, memory_order_release);
        }
        return true;
    }
    tell_metrics_of_old(p);
    return true;
}

/* Until there is something to do. Returns false at the end. */
static bool wait_for_work(struct mm_park *p, bool busy, bool *stop)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += PASS_MS * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
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
static void stop_worker(const struct shelf *shelf, uint64_t until_ns)
{
    uint64_t now_ns = mm_clock_monotonic_ns();
    if (shelf->worker != NULL) {
        mm_worker_stop(shelf->worker,
                       until_ns > now_ns ? (uint32_t)((until_ns - now_ns) / 1000000) : 0);
        mm_spool_wake(shelf->spool);
    }
}

static void stop_workers(struct mm_park *p)
{
    pthread_mutex_lock(&p->lock);
    uint64_t until_ns = p->stop_ns;
    pthread_mutex_unlock(&p->lock);
    for (size_t i = 0; i < p->n_old; i++) {
        stop_worker(&p->old[i], until_ns);
    }
    for (uint32_t i = 0; i < MM_LANES_MAX; i++) {
        const struct lane *lane = get_lane(p, i);
        if (lane != NULL) {
            stop_worker(&lane->shelf, until_ns);
        }
    }
}

static void *park_main(void *arg)
{
    struct mm_park *p = arg;
    bool busy = true;
    bool stop = false;
    bool stopped = false;
    while (wait_for_work(p, busy, &stop)) {
        if (stop && !stopped) {
            stopped = true;
            stop_workers(p);
        }
        busy = keep_old(p, stop);
        uint32_t n = mm_lanes_n(p->opts.lanes);
        for (uint32_t i = 0; i < n; i++) {
            struct lane *lane = get_lane(p, i);
            busy = (lane != NULL && keep_lane(p, lane, stop)) || busy;
        }
    }
    return NULL;
}

/* --- start, stop --------------------------------------------------------------------------------
 */

static void log_found(struct mm_park *p, const struct shelf *shelf, bool old)
{
    const struct mm_spool_found *found = mm_spool_found(shelf->spool);
    uint64_t now_ms = mm_clock_realtime_ms();
    uint64_t age_s =
        found->oldest_ms == 0 || found->oldest_ms > now_ms ? 0 : (now_ms - found->oldest_ms) / 1000;
    mm_log_write(p->opts.log, MM_LOG_WARN,
                 "%" PRIu64
                 " messages wait that were parked for Kafka topic %s, the oldest from "
                 "%" PRIu64 " s ago; %s",
                 found->n_records, shelf->kafka_topic, age_s,
                 old ? "the routes have changed since: they are sent by the present ones, before "
                       "all others"
                     : "the topic is tried again");
}

/* The shelf that a log found belongs to. NULL: no memory. */
static struct shelf *shelf_for(struct mm_park *p, const struct mm_parkdir_log *log)
{
    if (log->age == 0) {
        struct lane *lane = make_lane(p, log->lane);
        return lane == NULL ? NULL : &lane->shelf;
    }
    if (mm_metrics_park(p->opts.metrics, MM_METRICS_LANE_OLD) == NULL) {
        return NULL;
    }
    struct shelf *shelf = &p->old[p->n_old];
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
        struct shelf *shelf = shelf_for(p, &logs[i]);
        bool old = logs[i].age > 0;
        int err = shelf == NULL ? no_memory(errstr, errstr_len)
                                : open_log(p, shelf, old, errstr, errstr_len);
        if (err != 0) {
            return err;
        }
        if (mm_spool_found(shelf->spool)->n_records == 0) {
            close_log(p, shelf);
            continue;
        }
        log_found(p, shelf, old);
        if (old) {
            p->n_old++;
        } else {
            struct lane *lane = get_lane(p, shelf->lane);
            atomic_store_explicit(&lane->parked, true, memory_order_relaxed);
            tell_metrics(p, lane);
        }
    }
    if (p->n_old > 0) {
        atomic_store_explicit(&p->comes_first, true, memory_order_relaxed);
        tell_metrics_of_old(p);
    }
    return 0;
}

static void init_locks(struct mm_park *p)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&p->cond, &attr);
    pthread_condattr_destroy(&attr);
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
    if (opts->budget != NULL) {
        mm_spool_leave(opts->spool, room_to_park(opts->config));
    }
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
    return mm_route_n_possible(p->opts.config) > 1 || p->n_old > 0 || get_lane(p, 0) != NULL;
}

int mm_park_start(struct mm_park *p, char *errstr, size_t errstr_len)
{
    if (!has_work(p)) {
        return 0;
    }
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int err = pthread_create(&p->thread, NULL, park_main, p);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (err != 0) {
        char reason[64];
        snprintf(errstr, errstr_len, "the thread for parked topics could not be started: %s",
                 strerror_r(err, reason, sizeof reason));
        return MM_ETHREAD;
    }
    pthread_setname_np(p->thread, "mm-park");
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

static bool join_thread(struct mm_park *p, uint64_t until_ns)
{
    if (!p->started) {
        return true;
    }
    pthread_mutex_lock(&p->lock);
    p->end = true;
    pthread_cond_signal(&p->cond);
    pthread_mutex_unlock(&p->lock);
    /* On the wall clock, as sanitizers know no other way; a clock that is set here is no harm. */
    uint64_t now_ns = mm_clock_monotonic_ns();
    uint64_t until_ms = mm_clock_realtime_ms();
    until_ms += until_ns > now_ns ? (until_ns - now_ns) / 1000000 : 0;
    struct timespec until = {.tv_sec = (time_t)(until_ms / 1000),
                             .tv_nsec = (long)(until_ms % 1000) * 1000000};
    if (pthread_timedjoin_np(p->thread, NULL, &until) != 0) {
        return false;
    }
    p->started = false;
    return true;
}

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
static bool for_workers(struct mm_park *p, bool (*fn)(struct shelf *shelf, void *arg), void *arg)
{
    bool all = true;
    for (size_t i = p->next_old; i < p->n_old; i++) {
        all = (p->old[i].worker == NULL || fn(&p->old[i], arg)) && all;
    }
    for (uint32_t i = 0; i < MM_LANES_MAX; i++) {
        struct lane *lane = get_lane(p, i);
        all = (lane == NULL || lane->shelf.worker == NULL || fn(&lane->shelf, arg)) && all;
    }
    return all;
}

static bool settle_worker(struct shelf *shelf, void *arg)
{
    const struct mm_park *p = arg;
    mm_worker_settle(shelf->worker, p->wait_ms);
    mm_spool_wake(shelf->spool);
    return true;
}

static uint32_t left_ms(uint64_t until_ns)
{
    uint64_t now_ns = mm_clock_monotonic_ns();
    return until_ns > now_ns ? (uint32_t)((until_ns - now_ns) / 1000000) : 0;
}

static bool await_worker(struct shelf *shelf, void *arg)
{
    const uint64_t *until_ns = arg;
    return mm_worker_await(shelf->worker, left_ms(*until_ns));
}

bool mm_park_await(struct mm_park *p, uint32_t timeout_ms)
{
    uint64_t until_ns = mm_clock_monotonic_ns() + timeout_ms * UINT64_C(1000000);
    if (!join_thread(p, until_ns)) {
        return false;
    }
    if (!p->settled) {
        p->settled = true;
        (void)for_workers(p, settle_worker, p);
    }
    return for_workers(p, await_worker, &until_ns);
}

static void free_lane(struct mm_park *p, struct lane *lane)
{
    if (lane == NULL) {
        return;
    }
    if (lane->shelf.spool != NULL) {
        close_log(p, &lane->shelf);
    }
    free(lane->props);
    pthread_mutex_destroy(&lane->lock);
    free(lane);
}

/* Put a lane's log among the old ones, and take the lane away. Errors: as mm_parkdir_make_old(). */
static int retire_lane(struct mm_park *p, uint32_t i, char *errstr, size_t errstr_len)
{
    struct lane *lane = get_lane(p, i);
    struct shelf *shelf = &lane->shelf;
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
    reset_block(p, shelf);
    free_lane(p, lane);
    atomic_store_explicit(&p->lanes[i], NULL, memory_order_release);
    return 0;
}

/* Let the shelves from `from` on come before the others, whose turn begins at next_old: while those
 * are there, what lanes have was parked out of them, and is older. */
static void put_first(struct mm_park *p, size_t from)
{
    size_t n_new = p->n_old - from;
    size_t n_before = from - p->next_old;
    struct shelf *all = p->old;
    struct shelf *sorted = p->sorted;
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
    struct shelf *grown = realloc(p->old, (p->n_old + n_more + 1) * sizeof *grown);
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
        struct shelf *shelf = &p->old[i];
        shelf->n_done = shelf->worker == NULL ? 0 : mm_worker_n_done(shelf->worker);
        shelf->start_ns = 0;
        shelf->stuck = false;
    }
    struct shelf block = {.lane = MM_METRICS_LANE_OLD};
    reset_block(p, &block);
}

int mm_park_reroute(struct mm_park *p,
                    const struct mm_config *config,
                    char *errstr,
                    size_t errstr_len)
{
    size_t from = p->n_old;
    if (make_room(p, MM_LANES_MAX) != 0 ||
        mm_metrics_park(p->opts.metrics, MM_METRICS_LANE_OLD) == NULL) {
        return no_memory(errstr, errstr_len);
    }
    int err = 0;
    for (uint32_t i = 0; err == 0 && i < MM_LANES_MAX; i++) {
        err = get_lane(p, i) == NULL ? 0 : retire_lane(p, i, errstr, errstr_len);
    }
    put_first(p, from);
    suspend_old(p);
    bool any = p->n_old > 0;
    atomic_store_explicit(&p->comes_first, any, memory_order_release);
    tell_metrics_of_old(p);
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
static bool resume_worker(struct shelf *shelf, void *arg)
{
    struct resume *r = arg;
    if (r->err == 0 && shelf->lane != MM_METRICS_LANE_OLD && !mm_worker_is_running(shelf->worker)) {
        shelf->stuck = false; /* it has ended after all */
        r->err = mm_worker_resume(shelf->worker, &r->change, r->errstr, r->errstr_len);
    }
    return r->err == 0;
}

int mm_park_resume(struct mm_park *p,
                   const struct mm_worker_change *change,
                   char *errstr,
                   size_t errstr_len)
{
    p->opts.config = change->config;
    if (p->opts.budget != NULL) {
        mm_spool_leave(p->opts.spool, room_to_park(change->config));
    }
    struct resume r = {.change = *change, .errstr = errstr, .errstr_len = errstr_len};
    if (!for_workers(p, resume_worker, &r)) {
        return r.err;
    }
    if (p->started) {
        return 0;
    }
    pthread_mutex_lock(&p->lock);
    p->end = false;
    p->woken = true;
    pthread_mutex_unlock(&p->lock);
    return mm_park_start(p, errstr, errstr_len);
}

static bool join_worker(struct shelf *shelf, uint64_t until_ns)
{
    if (!mm_worker_join(shelf->worker, left_ms(until_ns))) {
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
    if (!join_thread(p, until_ns)) {
        return false;
    }
    stop_workers(p); /* also where the thread has not come to it */
    bool all = true;
    for (size_t i = 0; i < p->n_old; i++) {
        all = join_worker(&p->old[i], until_ns) && all;
    }
    for (uint32_t i = 0; i < MM_LANES_MAX; i++) {
        struct lane *lane = get_lane(p, i);
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
        close_log(p, &p->old[i]);
    }
    for (uint32_t i = 0; i < MM_LANES_MAX; i++) {
        free_lane(p, get_lane(p, i));
    }
    pthread_cond_destroy(&p->cond);
    pthread_mutex_destroy(&p->lock);
    pthread_mutex_destroy(&p->dir_lock);
    mm_parkdir_close(p->dir);
    free(p->sorted);
    free(p->old);
    free(p);
}
