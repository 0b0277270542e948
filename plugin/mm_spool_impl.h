/* mm_spool_impl.h - what the files of the spool share and nobody else sees.
 *
 *     mm_spool.c        open and close, append, figures
 *     mm_spool_read.c   the readers
 *     mm_housekeeper.c  prepared segments; the housekeeper's thread
 *     mm_keeper.c       on disk: seal, sync, STATE, unmap, delete; the keeper's thread
 *     mm_recover.c      on disk: what an earlier process left
 *
 * Locks, none of which the producer or a reader takes on the message path (but sync_lock, by
 * MM_SPOOL_SYNC_ALWAYS, which waits for the disk anyway), in this order:
 *
 *     keep_lock   one pass of the keeper; held while the disk is waited for
 *     state_lock  the building and writing of one STATE slot
 *     sync_lock   a sync of the tail, with what follows from its result
 *     list_lock   a segment is taken from the log, or its pages are touched by the housekeeper */
#ifndef MM_SPOOL_IMPL_H
#define MM_SPOOL_IMPL_H

#include "mm_dir.h"
#include "mm_log.h"
#include "mm_segment.h"
#include "mm_spool.h"

#include <pthread.h>
#include <stdalign.h>

/* Prepared segments that wait for the producer. Two last 10 ms at 400 MB/s. */
#define MM_SPOOL_SPARES 2

/* Gaps in the numbers of records that low has not passed yet; more are added to the last. */
#define MM_SPOOL_GAPS 32

/* What seq jumps by at a start after a power failure; see docs/spool-format.md. */
#define MM_SPOOL_SEQ_JUMP (UINT64_C(1) << 32)

struct mm_spool_gap
{
    uint64_t seq;    /* of the record behind */
    uint64_t n;      /* records that are missing before it, from old_next on */
    uint64_t n_zone; /* and between old_max and old_next */
};

struct mm_spool_reader
{
    struct mm_spool *spool;
    uint32_t shard;

    /* the reader's worker */
    alignas(64) struct mm_segment *segment; /* the cursor */
    uint32_t offset;
    uint64_t seq;      /* the next record's, unless some are missing */
    uint64_t seen_seq; /* the highest that seq was: gaps below are counted */
    struct mm_spool_pos low_pos;
    struct mm_spool_gap gaps[MM_SPOOL_GAPS];
    uint32_t n_gaps;
    uint64_t n_skips_seen;
    uint64_t n_zone; /* taken below old_next */

    /* the reader's worker: reading through a mapping, or a file */
    uint64_t hot_number; /* the segment whose mapping is in use; 0: none */
    const uint8_t *hot_base;
    uint64_t cold_number; /* a segment known not to be mapped */
    uint64_t fd_number;   /* the segment whose file is open; 0: none */
    int fd;
    uint64_t buffer_number; /* the segment that buffer is of; 0: none */
    uint32_t buffer_from;
    uint32_t buffer_len;
    size_t buffer_cap;
    uint8_t *buffer;
    uint32_t n_tries;     /* reads that failed, one behind the other */
    uint64_t fail_number; /* the last of them: the segment, and the end of what was to be read */
    uint64_t fail_end;
    uint64_t try_ns;     /* not before */
    uint64_t bad_number; /* a segment of which a place was given up */

    /* published: low (W3) is a position; the others belong together, guarded by version */
    alignas(64) _Atomic uint64_t low;
    _Atomic uint64_t hazard; /* number of the segment whose mapping this reader uses; 0: none */
    _Atomic uint64_t version;
    _Atomic uint64_t low_seq;
    _Atomic uint64_t n_finished;
    _Atomic uint64_t n_repeat;
    _Atomic uint64_t n_lost;      /* below low, from old_next on */
    _Atomic uint64_t n_lost_zone; /* below low, between old_max and old_next */
    _Atomic uint64_t n_zone_taken;
};

/* What a reader published, all of one moment. */
struct mm_spool_progress
{
    uint64_t low_seq;
    uint64_t n_finished;
    uint64_t n_repeat;
    uint64_t n_lost;
    uint64_t n_lost_zone;
    uint64_t n_zone_taken;
};

struct mm_spool
{
    /* immutable after open */
    uint64_t max_bytes;
    uint64_t min_free;
    uint32_t segment_size;
    uint32_t n_readers;
    uint32_t sync_interval_ms;
    enum mm_spool_sync sync;
    bool manual;
    bool map;           /* segments are mapped; else written by pwrite(2) */
    struct mm_dir *dir; /* NULL: in memory */
    struct mm_log *log;
    mm_spool_counters_fn counters;
    void *counters_arg;
    uint8_t uuid[16];
    uint8_t boot[16];
    char uuid_text[37];
    struct mm_spool_reader *readers;
    struct mm_spool_budget *budget;
    struct mm_spool_budget own_budget;
    struct mm_spool_found found;
    uint64_t run_seq;
    uint64_t found_bytes;
    /* What earlier processes finished; n_old 0: nothing. */
    uint32_t n_old;
    uint64_t old_max;  /* the highest low in it */
    uint64_t old_next; /* next_seq of STATE */
    uint64_t n_zone;   /* records below old_next that were not finished, as STATE tells */
    struct mm_layout_range old[MM_LAYOUT_RANGES_MAX];
    pthread_t housekeeper;
    pthread_t keeper;
    bool has_housekeeper;
    bool has_keeper;
    pthread_mutex_t tell_lock; /* of the limits below; whoever finds it taken only counts */
    struct mm_log_limit sync_limit;
    struct mm_log_limit state_limit;
    struct mm_log_limit unlink_limit;
    struct mm_log_limit gone_limit;
    struct mm_log_limit make_limit;
    struct mm_log_limit read_limit;

    /* producer */
    alignas(64) struct mm_segment *tail;
    uint8_t *tail_base;   /* NULL: by scratch and pwrite(2) */
    uint32_t tail_offset; /* == tail->end, without the cost of an atomic load */
    uint64_t next_seq;
    uint8_t *scratch;
    size_t scratch_cap;
    _Atomic uint64_t next_seq_now; /* next_seq, for others */
    _Atomic uint64_t n_skipped;    /* numbers given to records that could not be synced */
    _Atomic uint64_t bytes_appended;
    _Atomic uint64_t n_unprepared;
    _Atomic uint64_t n_wakes;
    _Atomic bool full;
    _Atomic uint64_t wanted; /* bytes for a large record that found no room; 0: none */
    _Atomic(struct mm_segment *) tail_now;

    /* housekeeper */
    alignas(64) _Atomic bool tight; /* the last segments are kept for QoS 1 and 2 */
    _Atomic bool no_room;           /* making a segment failed; it tries again */
    _Atomic int no_room_error;
    atomic_bool drop_oldest;        /* see mm_spool_set_drop_oldest() */
    _Atomic uint64_t drop_position; /* with it: what lies below is unwanted */
    _Atomic uint64_t free_bytes;    /* of the file system, less min_free */
    _Atomic bool low_space;
    uint32_t wanted_passes; /* for how many passes room has been kept for wanted */
    uint64_t look_ns;       /* when the file system is looked at again */
    bool taken;             /* others took more of it than all our old segments would give back */
    uint64_t retry_ns;      /* when making a segment is tried again */
    uint64_t pace;          /* bytes a second that the producer takes */
    uint64_t pace_ns;       /* when that was seen last */
    uint64_t pace_appended; /* and bytes_appended then */

    /* housekeeper in memory, keeper on disk */
    struct mm_segment *first; /* the oldest segment */
    _Atomic uint64_t first_number;
    _Atomic uint64_t bytes_freed; /* of records in segments that were given back */

    /* keeper */
    alignas(64) struct mm_segment *unsealed; /* the first that has no seal */
    struct mm_segment *unsettled;            /* the first that is not settled */
    struct mm_segment *found_unsynced;       /* the first of an earlier process that may be in the
                                                system's memory alone; NULL: there is none */
    struct mm_segment *mapped;               /* none before it is mapped */
    uint64_t sync_ns;                        /* when to sync next */
    struct mm_layout_state state;            /* as last written */
    uint64_t n_states;                       /* written by this process */
    uint64_t state_ns;                       /* when to write STATE next */
    uint64_t names_ns;                       /* when to look next whether the files are there */
    _Atomic bool dir_dirty; /* a file was made and the directory was not synced since */
    _Atomic bool degraded;
    _Atomic bool sync_failed; /* since mm_spool_sync() returned last */
    _Atomic bool roll_wanted; /* the tail could not be synced: the producer is to leave it */
    _Atomic bool gone;        /* the directory was removed: nothing that is written outlives us */
    _Atomic uint64_t n_io_errors;
    _Atomic uint64_t n_synced;
    _Atomic uint64_t synced_ms;
    _Atomic uint64_t sync_max_ns;
    _Atomic uint64_t bytes_synced;

    /* both */
    alignas(64) _Atomic uint64_t allocated; /* bytes of all segments */
    _Atomic uint64_t leave;                 /* bytes of the budget that are for other logs */
    _Atomic uint64_t n_segments;            /* linked into the log */
    _Atomic uint64_t next_file;
    _Atomic uint64_t repeats_left;
    _Atomic uint64_t
        n_lost_repeat; /* records lost that were repeats: they had been counted before */
    _Atomic(struct mm_segment *) spare[MM_SPOOL_SPARES];
    pthread_mutex_t keep_lock;
    pthread_mutex_t state_lock;
    pthread_mutex_t list_lock;
    pthread_mutex_t sync_lock;

    /* futex words */
    alignas(64) _Atomic uint32_t sleepers; /* 1: a reader sleeps and wants to be woken */
    alignas(64) _Atomic uint32_t knocks;   /* counts the wake-ups of housekeeper and keeper */
    _Atomic bool stop;
};

/* --- mm_spool.c */

static inline bool mm_spool_drops_oldest(const struct mm_spool *s)
{
    return atomic_load_explicit(&s->drop_oldest, memory_order_relaxed);
}

static inline uint64_t mm_spool_position(const struct mm_segment *seg, uint32_t offset)
{
    return seg->number << 32 | offset;
}

/* Add to a counter that one thread writes: no locked instruction. */
static inline void mm_spool_add(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n,
                          memory_order_relaxed);
}

/* A new segment, counted against the limit, with `margin` bytes to spare. Errors: MM_EFULL, the
 * limit, the disk or the memory has no room: it may come back; MM_EIO. */
int mm_spool_new_segment(struct mm_spool *s,
                         uint32_t size,
                         uint64_t margin,
                         struct mm_segment **out);

/* Bytes of the budget that this log may have. */
uint64_t mm_spool_limit(const struct mm_spool *s);

/* Is there so much space in the file system that others keep theirs? */
bool mm_spool_space_for(struct mm_spool *s, uint64_t bytes);

/* A prepared segment; NULL: there is none. Thread: producer or housekeeper. */
struct mm_segment *mm_spool_take_spare(struct mm_spool *s);

/* Throw a segment away that was never linked. */
void mm_spool_discard(struct mm_spool *s, struct mm_segment *seg);

/* Wait until the word changes, somebody wakes, or the time is over. */
void mm_spool_futex_wait(_Atomic uint32_t *word, uint32_t expected, uint32_t timeout_ms);

/* The smallest low of all readers. */
uint64_t mm_spool_acked(const struct mm_spool *s);

/* Put a segment at the tail. Thread: producer. */
void mm_spool_link(struct mm_spool *s, struct mm_segment *seg);

struct mm_spool_progress mm_spool_progress(const struct mm_spool_reader *rd);

/* Records found damaged or missing, given the progress of all readers. */
uint64_t mm_spool_lost(const struct mm_spool *s, const struct mm_spool_progress *p);

void mm_spool_release_bytes(struct mm_spool *s, uint64_t bytes);

/* As mm_clock_monotonic_ns(); tests put another clock in its place. */
uint64_t mm_spool_now_ns(void);

/* --- mm_spool_read.c */

/* The next sound record of a segment at or behind *offset and below end, which moves to it. Thread:
 * the reader's worker, or setup. Errors: MM_EAGAIN, there is none; MM_EIO. */
int mm_spool_find(struct mm_spool_reader *rd,
                  const struct mm_segment *seg,
                  uint32_t end,
                  uint32_t *offset,
                  struct mm_record *out,
                  size_t *size);

/* Did an earlier process finish this record? */
bool mm_spool_is_old(const struct mm_spool *s, uint64_t seq, uint32_t topic_hash);

/* Give back what a reader holds of a segment, descriptor and hold on the mapping, and let it know
 * nothing of it. */
void mm_spool_forget(struct mm_spool_reader *rd);

/* Let the cursor enter a segment. Thread: the reader's worker, or setup. */
void mm_spool_enter(struct mm_spool_reader *rd, struct mm_segment *seg);

/* --- mm_housekeeper.c */

/* The thread; arg is the log. */
void *mm_housekeeper_main(void *arg);

/* Make the first pages of a new segment present; in memory all of them. Thread: setup or the
 * housekeeper. */
void mm_housekeeper_populate(struct mm_spool *s, struct mm_segment *seg);

/* Fill the empty places for prepared segments. Returns how many are there. */
int mm_housekeeper_prepare(struct mm_spool *s);

/* --- mm_keeper.c */

int mm_keeper_start(struct mm_spool *s);

/* One pass: seal, sync when it is time or `force`, STATE, unmap, delete. Returns the error of the
 * sync. Thread: any but a producer that must not wait. */
int mm_keeper_pass(struct mm_spool *s, bool force);

/* Write STATE if it changed. Errors: MM_EIO. */
int mm_keeper_write_state(struct mm_spool *s, bool clean);

/* The same for a caller that does not wait for long. */
void mm_keeper_checkpoint(struct mm_spool *s);

/* The last pass, all threads gone. */
void mm_keeper_finish(struct mm_spool *s);

/* Count an error of the disk and, not too often, tell of it: what failed, the reason in errno, what
 * comes then. Thread: any. */
void mm_keeper_tell(struct mm_spool *s,
                    struct mm_log_limit *limit,
                    const char *what,
                    const char *then);

/* A sync of the tail failed in the producer's hands. Thread: producer. */
void mm_keeper_sync_failed(struct mm_spool *s);

/* --- mm_recover.c */

/* Read STATE and the segments, link what holds unfinished records, set run_seq. Thread: setup. */
int mm_recover(struct mm_spool *s, char *errstr, size_t errstr_len);

#endif
