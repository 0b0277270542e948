/* mm_spool.h - the log between the broker thread and the workers.
 *
 * Append-only, made of segments. One producer (the broker thread) appends; N readers (the workers)
 * each read the whole log and take the records of their shard, chosen by the hash of the MQTT
 * topic. A place in the log is a *position*: segment number in the upper 32 bits, offset in the
 * lower; positions only grow. For each reader
 *
 *     acked <= low <= cursor <= tail
 *
 * where low is below every record of its shard that is not finished, and acked is the smallest low.
 * Segments below acked are given back. A retry is a reader that reads a position again: nothing is
 * copied and nothing is queued twice.
 *
 * In memory (no directory): segments are anonymous mappings. On disk: they are files, mapped while
 * they are written and just behind, read by pread(2) later; a record is on its way to the disk when
 * mm_spool_append() returns, survives the end of the process from then on, and the end of the
 * system's power after the next sync. docs/spool-format.md describes the files.
 *
 * Threads of its own: a housekeeper that prepares segments, so that the producer meets neither a
 * system call nor a page fault, and, on disk, a keeper that seals, syncs, writes STATE and deletes.
 *
 * Concurrency: the producer publishes a segment's end (W1) and its successor (W2), readers acquire
 * them; a reader publishes low (W3), housekeeper and keeper acquire it. */
#ifndef MM_SPOOL_H
#define MM_SPOOL_H

#include "mm_layout.h"
#include "mm_record.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mm_log;
struct mm_segment;
struct mm_spool;
struct mm_spool_reader;

enum mm_spool_sync {
    MM_SPOOL_SYNC_INTERVAL, /* every sync_interval_ms, by the keeper */
    MM_SPOOL_SYNC_NEVER,    /* when the system pleases */
    MM_SPOOL_SYNC_ALWAYS,   /* before mm_spool_append() of a QoS 1 or 2 record returns */
};

enum mm_spool_writer {
    MM_SPOOL_WRITER_AUTO,   /* mmap, but pwrite on btrfs, zfs, nfs and fuse */
    MM_SPOOL_WRITER_MMAP,   /* into the mapped file */
    MM_SPOOL_WRITER_PWRITE, /* one pwrite(2) a record: where a reservation is no promise */
};

/* Room that several logs share. The caller sets max_bytes and 0, and keeps it until all are closed.
 */
struct mm_spool_budget
{
    uint64_t max_bytes;
    _Atomic uint64_t allocated;
};

/* Fill the owner's counters, to be kept in STATE; they come as they were found. What is told to
 * mm_spool_finish() after it was counted is in STATE only if the counters are, too. Thread: any of
 * the log's, or a caller of mm_spool_checkpoint(). */
typedef void (*mm_spool_counters_fn)(void *arg, uint64_t counters[MM_LAYOUT_COUNTERS]);

struct mm_spool_options
{
    uint64_t max_bytes;     /* limit of all segments, bytes; at least 256 KiB */
    uint32_t segment_bytes; /* 0: an eighth of max_bytes, 32 KiB to 2 MiB, on disk to 8 MiB */
    uint32_t n_readers;     /* 1 to MM_LAYOUT_SHARDS_MAX */
    bool drop_oldest;       /* let go of the oldest segment when there is no room for a new one */
    bool manual;            /* no threads: the owner calls mm_spool_tick() */
    struct mm_spool_budget *budget; /* NULL: max_bytes is its own */
    struct mm_log *log;             /* borrowed; NULL: nothing is told */

    const char *dir;   /* NULL: in memory; what follows is for a directory */
    uint64_t min_free; /* bytes of the file system left to others; UINT64_MAX: 5 %, at most 1 GiB */
    enum mm_spool_sync sync;
    uint32_t sync_interval_ms; /* 0: 500 */
    enum mm_spool_writer writer;
    mm_spool_counters_fn counters; /* NULL: none */
    void *counters_arg;
};

/* Where a record is. Valid until its reader's low has passed it. */
struct mm_spool_pos
{
    struct mm_segment *segment;
    uint32_t offset;
    uint64_t seq; /* of the record; of the cursor: records before it in the log have smaller ones */
};

/* Figures of one moment; while messages flow they may be a few records apart from each other. */
struct mm_spool_stats
{
    uint64_t limit_bytes;
    uint64_t allocated_bytes; /* of all segments, prepared ones included; <= limit_bytes */
    uint64_t used_bytes;      /* records between acked and tail */
    uint64_t n_segments;      /* that hold or may hold records */
    uint64_t n_appended;      /* records appended since the log was opened */
    uint64_t n_unprepared;    /* segments that the producer had to make itself */
    uint64_t n_wakes;         /* times that the producer woke sleeping readers */
    uint64_t n_lost;          /* records found damaged or missing since the log was opened */
    bool drop_oldest;         /* as set last */
    bool full;                /* the last append found no room, and no room has come since */
    bool tight;               /* the last segment is in sight: QoS 0 is not taken any more */

    /* of a log on disk; 0 in memory */
    bool on_disk;
    bool degraded;        /* a sync failed, and none has succeeded since */
    bool low_space;       /* the file system has little more than min_free left */
    uint64_t free_bytes;  /* of the file system, when last looked at, less min_free */
    uint64_t n_synced;    /* syncs that succeeded */
    uint64_t n_io_errors; /* of reading, writing, syncing, deleting, making */
    uint64_t n_bad_files; /* in bad/ */
    uint64_t synced_ms;   /* of the last sync that succeeded, since the epoch; 0: none yet */
    uint64_t unsynced_bytes;
    uint64_t sync_max_ns; /* the longest sync since the log was opened */
};

/* What an earlier process left. */
struct mm_spool_found
{
    uint64_t n_records; /* not finished */
    uint64_t n_repeat;  /* of those, delivered already as far as STATE tells */
    uint64_t n_bytes;   /* of the segments that hold them */
    uint64_t oldest_ms; /* time of receipt of the oldest; 0: none */
    uint64_t n_segments;
    uint64_t n_bad_files; /* moved to bad/ just now */
    bool clean;           /* the earlier process stopped in order */
    bool state_lost;      /* segments, but no STATE: everything in them is read again */
    bool has_counters;    /* there was a STATE: counters are what the owner gave last */
    uint64_t counters[MM_LAYOUT_COUNTERS];
};

/* Open the log, recover what is in its directory, start its threads. A directory that is not there
 * is made (its parent is not), with mode 0700.
 *
 * Thread: setup; blocks all signals in the threads that it makes.
 * Errors: MM_EINVAL, a setting or what is in the place of the directory; MM_EIO, an operation on
 * the directory failed; MM_EBUSY, another process has it; MM_EVERSION, a newer version wrote it;
 * MM_ENOMEM; MM_ETHREAD. errstr has the path and the reason. *out is NULL then. */
int mm_spool_open(const struct mm_spool_options *opts,
                  struct mm_spool **out,
                  char *errstr,
                  size_t errstr_len);

/* From now on, may the oldest messages be let go when there is no room? Thread: any. */
void mm_spool_set_drop_oldest(struct mm_spool *s, bool drop_oldest);

/* What mm_spool_open() found. Valid as long as the log. Thread: setup. */
const struct mm_spool_found *mm_spool_found(const struct mm_spool *s);

/* Join the threads; on disk: write STATE as of an orderly stop, sync unless the policy is never,
 * release the directory. No reader may be in use. Accepts NULL. Thread: setup. */
void mm_spool_close(struct mm_spool *s);

/* The random id of this log, as 36 characters of a UUID; valid as long as the log. Thread: any. */
const char *mm_spool_uuid(const struct mm_spool *s);

/* Append one record, whole or not at all. Copies. r->seq and r->topic_hash are ignored: the log
 * gives them.
 *
 * Thread: producer. No lock, no allocation; no system call but the wake-up of sleeping readers
 * (once an idle period) and, once a segment, of the housekeeper, or the making of a segment where
 * that one is late; one pwrite(2) or sync where writer or policy say so. Errors: MM_EFULL, no room
 * until records are finished or the disk has space, nothing was written: for QoS 0 already when
 * the last segment is in sight, so that QoS 1 and 2 have it; MM_ETOOBIG, larger than
 * the log can ever hold; MM_EIO, it could not be written or, by MM_SPOOL_SYNC_ALWAYS, synced, and
 * is not in the log. */
int mm_spool_append(struct mm_spool *s, const struct mm_record *r);

/* Reader k of n_readers. Owned by the log. Thread: setup. */
struct mm_spool_reader *mm_spool_reader(struct mm_spool *s, uint32_t k);

/* The next record of this reader's shard at or after its cursor, which moves behind it. Records
 * that an earlier process finished are passed over. The result points into memory of the log or of
 * the reader and is valid until this reader's next call of mm_spool_next() or mm_spool_read(), or
 * until its low passes the record. Looks at no more than max_scan records of other shards.
 *
 * Thread: the reader's worker. Errors: MM_EAGAIN, none found; mm_spool_pending() tells whether
 * there is more to look at. MM_EIO, the disk could not be read; a later call tries again, and after
 * some time gives up the place and counts what was there as lost. Not where the process lacks
 * descriptors, memory or permission: that is waited for. */
int mm_spool_next(struct mm_spool_reader *rd,
                  uint32_t max_scan,
                  struct mm_record *out,
                  struct mm_spool_pos *pos);

/* Move the cursor to pos, a position that mm_spool_next() gave and that low has not passed; with
 * NULL, to low.
 *
 * Thread: the reader's worker. */
void mm_spool_seek(struct mm_spool_reader *rd, const struct mm_spool_pos *pos);

/* The cursor. Thread: the reader's worker. */
void mm_spool_cursor(const struct mm_spool_reader *rd, struct mm_spool_pos *out);

/* Is there a record, of any shard, at or after the cursor? Thread: the reader's worker. */
bool mm_spool_pending(struct mm_spool_reader *rd);

/* Read the record at pos again. The result is valid as mm_spool_next() tells.
 *
 * Thread: the reader's worker. Errors: MM_ECORRUPT; MM_EIO, the disk could not be read just now. */
int mm_spool_read(struct mm_spool_reader *rd,
                  const struct mm_spool_pos *pos,
                  struct mm_record *out);

/* Everything of this shard before pos is finished; with NULL, everything before the cursor. Never
 * goes back. n_finished: records of this shard that mm_spool_next() gave and that lie before pos,
 * since the log was opened. n_repeat: records at or behind pos that are finished too (they will be
 * read again if the process ends now).
 *
 * Thread: the reader's worker. */
void mm_spool_finish(struct mm_spool_reader *rd,
                     const struct mm_spool_pos *pos,
                     uint64_t n_finished,
                     uint64_t n_repeat);

/* A record was delivered: was it one that an earlier process had delivered and counted? True as
 * often as mm_spool_found() said n_repeat; the caller then counts it as repeated, not as delivered.
 * Which ones they were is not known, but how many.
 *
 * Thread: any. */
bool mm_spool_take_repeat(struct mm_spool *s);

/* Repeats that were not taken yet. Thread: any. */
uint64_t mm_spool_n_repeat(const struct mm_spool *s);

/* Is the record at pos one that drop_oldest wants let go? Always false without that option.
 *
 * Thread: the reader's worker. */
bool mm_spool_unwanted(const struct mm_spool_reader *rd, const struct mm_spool_pos *pos);

/* Sleep until a record was appended, mm_spool_wake() was called or timeout_ms has passed. Returns
 * at once when the cursor is behind the tail. For long idle times: the producer pays for the
 * wake-up.
 *
 * Thread: the reader's worker. */
void mm_spool_wait(struct mm_spool_reader *rd, uint32_t timeout_ms);

/* Wake all sleeping readers. Thread: any. */
void mm_spool_wake(struct mm_spool *s);

/* A manual log: do what its threads would do now. Thread: one at a time, never with append. */
void mm_spool_tick(struct mm_spool *s);

/* Make all that was appended since it was called last survive a power failure, whatever the policy
 * (but never does nothing).
 *
 * Thread: any but the producer's of a log that is not manual, one at a time; waits for the disk.
 * Errors: MM_EIO, this sync or one since the last call failed: some of it is not safe, and a later
 * call does not make it so. Always 0 in memory. */
int mm_spool_sync(struct mm_spool *s);

/* Write STATE now, with the owner's counters, so that it outlives the process. Nothing in memory.
 *
 * Thread: any but the producer; takes a lock. */
void mm_spool_checkpoint(struct mm_spool *s);

/* Records that the readers had or have to take: those found unfinished at open and those appended
 * since, less those found to be lost. Thread: any. */
uint64_t mm_spool_to_take(const struct mm_spool *s);

/* Leave so many bytes of the budget to the other logs that share it: from now on none of them are
 * taken for this one. 0 at first. Thread: any. */
void mm_spool_leave(struct mm_spool *s, uint64_t bytes);

/* Thread: any. */
void mm_spool_stats(const struct mm_spool *s, struct mm_spool_stats *out);

#endif
