/* mm_park_impl.h - parked Kafka topics from the inside, for the files that keep them: mm_park.c,
 * the logs and what workers ask for; mm_park_keep.c, the thread; mm_park_change.c, other settings
 * while the plugin runs.
 *
 * Thread: that of mm_park_keep.c or, while it does not run, whoever starts and stops it (setup;
 * that of mm_live.c), unless a function says otherwise. */
#ifndef MM_PARK_IMPL_H
#define MM_PARK_IMPL_H

#include "mm_clock.h"
#include "mm_lanes.h"
#include "mm_park.h"
#include "mm_parkdir.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mm_worker;

/* A log, and the worker that delivers what is in it. */
struct mm_park_shelf
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

struct mm_park_lane
{
    _Atomic bool parked;
    _Atomic uint64_t epoch;      /* syncs that have failed */
    _Atomic uint64_t n_double;   /* records that are, or will be, there twice */
    _Atomic(const char *) error; /* why it was parked last */

    pthread_mutex_t sync_lock; /* a sync of the log, and what it says to epoch; before lock */

    pthread_mutex_t lock; /* for all that follows */
    struct mm_park_shelf shelf;
    bool closing;       /* nothing is added, and the log goes away */
    uint32_t n_syncing; /* workers that use the log without the lock */
    uint64_t n_lost;    /* of logs that are closed */
    uint8_t *props;     /* scratch */
    size_t props_cap;
};

struct mm_park
{
    struct mm_park_options opts;
    struct mm_parkdir *dir; /* NULL: in memory */
    _Atomic(struct mm_park_lane *)
        lanes[MM_LANES_MAX];  /* NULL: it was never parked; made under lock */
    _Atomic uint32_t n_tries; /* lanes whose workers have a producer */

    /* parked by other routes; the thread's once it is started */
    struct mm_park_shelf *old;
    size_t n_old;
    size_t next_old;              /* those before it are done */
    struct mm_park_shelf *sorted; /* room for them in another order, while they get it */
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

/* NULL: it was never parked. */
static inline struct mm_park_lane *mm_park_lane(const struct mm_park *p, uint32_t i)
{
    return atomic_load_explicit(&p->lanes[i], memory_order_acquire);
}

/* --- mm_park.c */

/* Let the spool leave room for what is to be parked by these settings. */
void mm_park_leave_room(struct mm_park *p);

/* A log without records goes, and its directory with it. */
void mm_park_close_log(struct mm_park *p, struct mm_park_shelf *shelf);

/* Tell the metrics what a lane's log holds (thread: any that has the lane's lock); what the old
 * logs hold. */
void mm_park_tell(struct mm_park *p, struct mm_park_lane *lane);
void mm_park_tell_old(struct mm_park *p);

/* Accepts NULL. */
void mm_park_free_lane(struct mm_park *p, struct mm_park_lane *lane);

/* End the thread, if there is one. False: it has not ended until then. */
bool mm_park_join_thread(struct mm_park *p, uint64_t until_ns);

/* --- mm_park_keep.c */

/* The thread. */
void *mm_park_main(void *arg);

/* Ask all workers to end with the others. */
void mm_park_stop_workers(struct mm_park *p);

/* The log of a shelf is gone, and its worker: nothing is taken or held. */
void mm_park_reset_block(struct mm_park *p, const struct mm_park_shelf *shelf);

#endif
