/* mm_park.h - the Kafka topics that are parked.
 *
 * Where several Kafka topics are served, one that is refused for a reason that somebody can mend
 * (no right, not there yet) does not hold up the others: its lane is *parked*. The workers put its
 * records, in order, into a log of the lane's own, and those that come behind them as they are
 * taken: copied first, then finished in the spool, so that a crash in between makes a duplicate and
 * never a loss. A worker of the lane's own (MM_ROLE_LANE of mm_worker.h) tries the first record
 * from time to time and sends the rest when it is taken. When the log is empty the lane is not
 * parked any more and the workers send directly again. A record is in the log before any of the
 * same MQTT topic can be sent directly, and delivered before: the order of each MQTT topic holds.
 *
 * With spool_dir the logs are directories in <spool_dir>/parked and outlive the process; see
 * mm_parkdir.h, also for what happens when the routes change: logs that were parked by other routes
 * are sent first of all, by a worker of their own (MM_ROLE_OLD), each record to where it is to go
 * now. Until that is done the other workers take nothing out of the spool. Without spool_dir the
 * logs are in memory. Routes that change while the plugin runs do the same to them.
 *
 * A thread of its own starts and ends those workers, and keeps the logs, which have no threads. Of
 * all these workers only some have a producer at the same time, so that a thousand Kafka topics
 * that are refused cost a thousand small logs, and not a thousand Kafka clients.
 *
 * What is kept of a lane is made when it is parked first.
 *
 * Locks: each lane has one, for its log's end and whether it is parked. Workers take it for records
 * of parked lanes only, the broker thread never. It may be held while the disk is waited for. */
#ifndef MM_PARK_H
#define MM_PARK_H

#include "mm_metrics.h"
#include "mm_spool.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mm_config;
struct mm_dead;
struct mm_gate;
struct mm_lanes;
struct mm_log;
struct mm_park;
struct mm_worker_change;

/* Lanes whose workers may have a producer at the same time. */
#define MM_PARK_TRIES_MAX 16

/* All pointers are borrowed and must outlive the lanes. */
struct mm_park_options
{
    const struct mm_config *config;
    struct mm_spool *spool;         /* the one that is parked from */
    struct mm_spool_budget *budget; /* shared with it; NULL: each log may have spool_max_bytes */
    struct mm_lanes *lanes;         /* of the settings: mm_lanes_reset() */
    struct mm_metrics *metrics;     /* of the same lanes */
    struct mm_dead *dead;
    struct mm_gate *gate; /* of all workers; NULL: none */
    struct mm_log *log;
};

/* Open the logs that an earlier process left, and tell the metrics; before mm_metrics_restore().
 *
 * Thread: setup. Errors: as mm_parkdir_open() and mm_spool_open(); errstr has the reason. *out is
 * NULL then. */
int mm_park_open(const struct mm_park_options *opts,
                 struct mm_park **out,
                 char *errstr,
                 size_t errstr_len);

/* Start the thread, which blocks all signals. Before the workers.
 *
 * Thread: setup. Errors: MM_ETHREAD; errstr has the reason. */
int mm_park_start(struct mm_park *p, char *errstr, size_t errstr_len);

/* Ask the workers of parked lanes to end like mm_worker_stop(). Returns at once. Accepts NULL.
 * Thread: setup. */
void mm_park_stop(struct mm_park *p, uint32_t drain_ms);

/* Wait for all threads, at most timeout_ms. False: one did not end; everything must be left alone
 * until the process ends. The workers that park into it have been joined. Accepts NULL. Thread:
 * setup. */
bool mm_park_join(struct mm_park *p, uint32_t timeout_ms);

/* Let the workers of parked topics settle, as mm_worker_settle(), and end the thread for now.
 * Returns at once. Thread: setup. */
void mm_park_settle(struct mm_park *p, uint32_t wait_ms);

/* After mm_park_settle(): wait for all threads, at most timeout_ms. False: one has not ended yet.
 * Thread: setup. */
bool mm_park_await(struct mm_park *p, uint32_t timeout_ms);

/* The routes change: what is parked becomes that which was parked by other routes, to be sent
 * before all else by the new ones. After mm_park_await(), before mm_lanes_reset() and
 * mm_park_resume(). Nobody uses a lane meanwhile, for mm_park_info() neither.
 *
 * Thread: setup. Errors: MM_EIO, MM_ENOMEM; errstr has the reason. It can be called again then. */
int mm_park_reroute(struct mm_park *p,
                    const struct mm_config *config,
                    char *errstr,
                    size_t errstr_len);

/* After mm_park_await(), and before the workers that park into it: go on with other settings.
 *
 * Thread: setup. Errors: as mm_worker_resume() and mm_park_start(); errstr has the reason. It can
 * be called again then. */
int mm_park_resume(struct mm_park *p,
                   const struct mm_worker_change *change,
                   char *errstr,
                   size_t errstr_len);

/* Close the logs. Accepts NULL. Thread: setup, after mm_park_join(). */
void mm_park_close(struct mm_park *p);

/* --- for workers ------------------------------------------------------------------------------ */

/* Is there something to be sent before all else? A worker that is not of MM_ROLE_OLD takes nothing
 * then. Once false it stays so until mm_park_reroute(). Thread: any. */
bool mm_park_comes_first(const struct mm_park *p);

/* Is the lane parked? Thread: any. */
bool mm_park_is_parked(const struct mm_park *p, uint32_t lane);

/* Append a copy of the record to the lane's log; id is its mm-id, which it keeps. With reason,
 * which is static (Kafka's name of the error), the lane is parked if it is not yet.
 *
 * Thread: a worker.
 * Errors: MM_EAGAIN, the lane is not parked (any more) and no reason is given: send it; MM_EBUSY,
 * the lane's log is just being closed: soon; MM_EFULL, MM_EIO, MM_ENOMEM, MM_ETOOBIG: the log takes
 * nothing, or not this one. The lane is not parked for it. */
int mm_park_add(struct mm_park *p,
                uint32_t lane,
                const struct mm_record *r,
                const char *id,
                const char *reason);

/* How often a sync of the lane's log has failed: to be asked before the first record is added that
 * mm_park_sync() is to be asked for. Thread: any. */
uint64_t mm_park_epoch(const struct mm_park *p, uint32_t lane);

/* Make what was added to the lane's log since mm_park_epoch() gave epoch survive a power failure,
 * unless the policy is never. After an error that cannot be had any more (a later sync would prove
 * nothing): it is to be added again.
 *
 * Thread: a worker; waits for the disk. Errors: MM_EIO. */
int mm_park_sync(struct mm_park *p, uint32_t lane, uint64_t epoch);

/* n records of the lane are going to be added a second time. */
void mm_park_note_doubles(struct mm_park *p, uint32_t lane, uint64_t n);

/* A record of the lane is finished: is it one that was there twice? True as often as was noted.
 * Thread: a worker. */
bool mm_park_take_double(struct mm_park *p, uint32_t lane);

/* A worker of a parked lane is about to make a producer: may it? Then mm_park_leave() when it has
 * ended it. Thread: a worker. */
bool mm_park_enter(struct mm_park *p);
void mm_park_leave(struct mm_park *p);

/* --- for people ------------------------------------------------------------------------------- */

struct mm_park_info
{
    const char *kafka_topic; /* lives until mm_lanes_reset() */
    bool parked;
    uint64_t n_records;
    uint64_t n_bytes;
    uint64_t oldest_ms; /* time of receipt of the oldest, since the epoch; 0: none, or not known */
    uint64_t retry_at_ms; /* of the next try, since the epoch; 0: now, or none */
    const char *error;    /* why it is parked: Kafka's name of the error; static; "" not known */
};

/* Figures of one lane, below mm_lanes_n(). Thread: any but the broker. */
void mm_park_info(struct mm_park *p, uint32_t lane, struct mm_park_info *out);

#endif
