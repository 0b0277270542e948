/* mm_worker_impl.h - a worker from the inside, for the files that make it: mm_worker.c, its thread,
 * start and stop; mm_worker_state.c, its states; mm_worker_send.c, records into the Kafka client;
 * mm_worker_report.c, what becomes of them; mm_worker_lane.c, what it knows of the Kafka topics.
 *
 * Thread: the worker's, where nothing else is told. */
#ifndef MM_WORKER_IMPL_H
#define MM_WORKER_IMPL_H

#include "mm_clock.h"
#include "mm_contact.h"
#include "mm_kafka.h"
#include "mm_log.h"
#include "mm_metrics.h"
#include "mm_record.h"
#include "mm_spool.h"
#include "mm_trouble.h"
#include "mm_window.h"
#include "mm_worker.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

/* Records sent before the delivery reports are looked at. */
#define MM_WORKER_SEND_BATCH 1000
#define MM_WORKER_SINGLE_IN_FLIGHT 500
#define MM_WORKER_SCAN_MAX 20000

#define MM_WORKER_RESTART_MAX_S 30
#define MM_WORKER_RETRY_MAX_MS (UINT64_C(300) * 1000)
#define MM_WORKER_LINE_INTERVAL_NS (60 * UINT64_C(1000000000))
#define MM_WORKER_SECOND_NS UINT64_C(1000000000)

/* The tag of the test message. A record's tag is its entry in the window. */
#define MM_WORKER_TEST_TAG NULL

#define MM_WORKER_ID_LEN 64 /* "<uuid>-<seq>": 36 + 1 + 20 and a NUL at most */

/* What the thread is asked for. It only goes up: who has taken messages back cannot send again. */
enum mm_worker_asked {
    MM_WORKER_ASKED_NOTHING,
    MM_WORKER_ASKED_TO_STOP,   /* deliver what is there, until the time is over, and end */
    MM_WORKER_ASKED_TO_SETTLE, /* send nothing more, await what is in flight, and end */
};

/* A Kafka topic, of mm_lanes.h. */
struct mm_worker_lane
{
    const char *kafka_topic; /* NULL: no record for it was seen yet */
    uint64_t until_ns;       /* blocked: until then at most */
    bool blocked;            /* takes nothing just now; its entries are skipped */
    bool parked;             /* its records go to its log, as long as that takes them */
    const char *refused;     /* why it is to be parked after the drain; NULL: it is not */
    uint64_t n_copied;       /* entries that are in its log and not yet known to be on the disk */
    uint64_t epoch;          /* of mm_park.h, when the first of them was copied */
    uint64_t stale_ms;       /* what has waited for longer is stamped anew; 0: nothing is */
    uint32_t resync_s;       /* pause after the last sync that failed */
};

struct mm_worker
{
    /* the owner's: immutable while the thread runs */
    bool running; /* there is a thread to be joined */
    struct mm_worker_options opts;
    struct mm_spool_reader *reader;
    struct mm_metrics_worker *m;
    pthread_t thread;
    char id_prefix[40]; /* "<uuid>-" */
    char name[300];     /* for people */

    /* any thread */
    _Atomic int asked;           /* enum mm_worker_asked */
    _Atomic uint64_t stop_at_ns; /* CLOCK_MONOTONIC */
    _Atomic uint64_t n_finished;
    _Atomic(const char *) last_error;

    /* the worker's thread: the window */
    struct mm_window win;
    uint64_t suspect_end; /* entries before it are sent one by one */
    uint64_t n_in_flight;
    uint64_t n_orphans;           /* of those, with MM_ENTRY_ORPHAN */
    struct mm_worker_lane *lanes; /* the first one has the number first_lane; behind the max_lanes
                           is one for the records that no route gives a Kafka topic */
    uint32_t first_lane;          /* 0, or the only one that there is */
    uint32_t max_lanes;           /* that there can be */
    uint32_t n_lanes;             /* all that were seen are before it */
    uint32_t n_blocked;
    bool entered;        /* mm_park_enter(): may have a producer */
    bool released;       /* nothing is to be sent before what we have */
    uint64_t sync_at_ns; /* what was copied is to be synced then */

    /* the worker's thread: sending */
    enum mm_worker_state state;
    struct mm_kafka *kafka;           /* strict; NULL while parked, restarting and single */
    struct mm_kafka *single;          /* NULL until the first suspect */
    bool careful;                     /* single is to be a careful one (mm_kafka.h); */
    bool single_careful;              /* it is one; */
    bool single_stays;                /* it outlives the drain */
    uint32_t n_good;                  /* delivered by it since one was not */
    struct mm_dead_topic *dead_topic; /* NULL: no copies are wanted */
    bool failed;                      /* a report asks for a drain */
    bool park;                        /* ... and for a pause */
    bool unburied;                    /* ... and for another: a dead letter could not be kept */
    bool lane_parked;                 /* a lane was parked after this drain */
    bool producer_failed;             /* what is drained failed by itself */
    bool probing;                     /* the first record goes alone */
    bool up;
    bool ever_up;
    bool was_large;  /* the window was, since memory was last given back */
    bool clocks_old; /* time may have passed since mm_worker_read_clocks() */
    bool test_sent;
    uint32_t restart_s; /* the last pause before a new producer */
    uint32_t bury_s;    /* the last pause before a dead letter is tried again */
    uint64_t retry_ms;  /* the last pause before a parked topic was tried */
    unsigned int seed;
    uint64_t pause_until_ns; /* parked, restarting */
    uint64_t drain_until_ns;
    uint64_t progress_ns; /* of the last delivery report, or of the first message in flight */
    uint64_t busy_ns;     /* when a record was last sent */
    uint64_t down_since_ns;
    uint64_t large_ns;        /* when the window was so last */
    uint64_t n_refusals;      /* delivery reports with an error of Kafka's */
    uint64_t n_errors_before; /* connection errors of producers that are gone */
    uint64_t now_ns;
    uint64_t now_ms;
    struct mm_message *message; /* scratch */
    struct mm_log_limit park_limit;
    struct mm_log_limit stale_limit;
    struct mm_log_limit full_limit;
    struct mm_log_limit dead_limit;
    struct mm_log_limit unburied_limit;
    struct mm_log_limit read_limit;
    struct mm_log_limit drop_limit;
    struct mm_log_limit fail_limit;
    struct mm_contact_told told; /* lent to the producers */
};

static inline void mm_worker_read_clocks(struct mm_worker *w)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    w->now_ns = (uint64_t)now.tv_sec * MM_WORKER_SECOND_NS + (uint64_t)now.tv_nsec;
    clock_gettime(CLOCK_REALTIME, &now);
    w->now_ms = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static inline bool mm_worker_stopping(const struct mm_worker *w)
{
    return atomic_load_explicit(&w->asked, memory_order_acquire) != MM_WORKER_ASKED_NOTHING;
}

static inline bool mm_worker_settling(const struct mm_worker *w)
{
    return atomic_load_explicit(&w->asked, memory_order_acquire) == MM_WORKER_ASKED_TO_SETTLE;
}

static inline void mm_worker_set_state(struct mm_worker *w, enum mm_worker_state state)
{
    w->state = state;
    /* While the first record of a parked topic is tried, it is not known to be better yet. */
    mm_gauge_set(&w->m->state, w->probing && state == MM_WORKER_RUNNING ? MM_WORKER_PARKED : state);
}

/* --- mm_worker_lane.c --- */

/* A record for this Kafka topic is seen: is it the first? Returns the lane's place in w->lanes. */
uint32_t mm_worker_know_lane(struct mm_worker *w, uint32_t number);

/* The place of a record's lane in w->lanes; w->max_lanes: it has none. */
uint32_t mm_worker_lane_of(struct mm_worker *w, const struct mm_record *rec);

/* Can a lane be parked alone? */
bool mm_worker_parks_lanes(const struct mm_worker *w);

/* The Kafka topic of an entry that has a lane. */
const char *mm_worker_kafka_topic_of(const struct mm_worker *w, const struct mm_entry *e);

/* The pause after one of so many seconds, for something that fails again. */
uint32_t mm_worker_longer_pause(uint32_t seconds);

/* The pause before a parked lane is tried again, after one of last_ms (0: it was not tried yet):
 * half as long again, kafka_retry_interval at least, five minutes at most where that is not longer.
 */
uint64_t mm_worker_longer_retry(uint64_t last_ms, uint64_t interval_ms);

/* Send nothing for a lane, until something has come for it or ns have passed. */
void mm_worker_block(struct mm_worker *w, uint32_t lane, uint64_t ns);

/* Send for a lane again; for all. */
void mm_worker_unblock(struct mm_worker *w, uint32_t lane);
void mm_worker_unblock_all(struct mm_worker *w);

/* Send again for those whose time is over. */
void mm_worker_unblock_due(struct mm_worker *w);

/* Can nothing be sent, whatever comes? */
bool mm_worker_all_blocked(const struct mm_worker *w);

/* The lane's log takes nothing. Its records wait, and hold up no other until the window is full. */
void mm_worker_note_full_log(struct mm_worker *w, const struct mm_worker_lane *lane, int err);

/* Put the record of an entry that waits into its lane's log. With reason, park the lane for it.
 * Errors: as mm_park_add(). */
int mm_worker_lay_aside(struct mm_worker *w,
                        struct mm_entry *e,
                        const struct mm_record *rec,
                        const char *reason);

/* Finish what was copied, once it is on the disk: many at a time, since that takes long; now: at
 * once. */
void mm_worker_sync_copied(struct mm_worker *w, bool now);

/* After a drain: park what was refused. False: a log is just being closed, come again. */
bool mm_worker_park_refused(struct mm_worker *w, bool last_try);

/* What is to be sent before all else has been: which lanes are parked? False: it has not been. */
bool mm_worker_release(struct mm_worker *w);

/* --- mm_worker_report.c --- */

/* The id of a record, its mm-id: the one that it had in the log that it comes from, if it comes
 * from another. Returns the length, without the final NUL. */
size_t mm_worker_make_id(const struct mm_worker *w,
                         const struct mm_record *rec,
                         char id[MM_WORKER_ID_LEN]);

/* Show how many dead letters made room for others. */
void mm_worker_show_evicted(struct mm_worker *w);

/* Let go of an entry that drop_oldest wants gone; count a record of which there is none. */
void mm_worker_drop(struct mm_worker *w, struct mm_entry *e);
void mm_worker_count_dropped(struct mm_worker *w, uint32_t lane);

/* n more messages in flight have lost their place in the log to drop_oldest; -1: one has ended. */
void mm_worker_count_orphans(struct mm_worker *w, int n);

/* Do what a report says with the entry of this number. alone: it was sent by itself, or refused
 * before it was sent with others. */
void mm_worker_settle_report(struct mm_worker *w,
                             uint64_t index,
                             const struct mm_kafka_report *r,
                             bool alone);

/* Reports: a mm_kafka_report_fn; of the test message. */
void mm_worker_on_report(void *arg, const struct mm_kafka_report *r);
void mm_worker_on_test_report(struct mm_worker *w, const struct mm_kafka_report *r);

/* --- mm_worker_send.c --- */

/* Take the next record of the shard into the window. Errors: MM_EAGAIN, there is none, or no room;
 * MM_EIO. */
int mm_worker_take(struct mm_worker *w, struct mm_record *rec);

/* The disk does not give a record just now. It is no dead letter for that. */
void mm_worker_note_unreadable(struct mm_worker *w);

/* Send up to n records before index end. Returns how many were sent or laid aside; *blocked tells
 * that there may be more, but that the client takes them, or the disk gives them, only later. */
uint32_t mm_worker_send_some(struct mm_worker *w,
                             struct mm_kafka *kafka,
                             uint64_t end,
                             uint32_t n,
                             bool *blocked);

/* The Go program's sign of life (docs/go-program.md). The client keeps it until Kafka is there. */
void mm_worker_send_test_message(struct mm_worker *w);

/* --- mm_worker_state.c --- */

/* Make a producer. Errors: as mm_kafka_new(). */
int mm_worker_make_producer(struct mm_worker *w,
                            bool single,
                            struct mm_kafka **out,
                            char *errstr,
                            size_t errstr_len);

/* End one, if there is one, after wait_ms at most; end both, as nothing is to be waited for. all:
 * also the one for suspects where it can go on. */
void mm_worker_end_producer(struct mm_worker *w, struct mm_kafka **kafka, uint32_t wait_ms);
void mm_worker_end_producers(struct mm_worker *w, bool all);

/* A record that was sent alone was delivered (good) or will never be. */
void mm_worker_note_judged(struct mm_worker *w, bool good);

/* Another worker of a parked lane may have a producer now. */
void mm_worker_leave(struct mm_worker *w);

/* Do nothing in this state for so long. */
void mm_worker_pause_for(struct mm_worker *w, enum mm_worker_state state, uint64_t ms);

/* A message failed, or a producer: send nothing more, and wait for the reports that are out. */
void mm_worker_start_drain(struct mm_worker *w);

/* Do what is to be done in the present state. Returns how long to wait for reports then, ms. */
uint32_t mm_worker_step(struct mm_worker *w);

#endif
