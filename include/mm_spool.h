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
 * Memory: segments are anonymous mappings, at most max_bytes of them, made and populated ahead by a
 * housekeeper thread so that the producer meets neither a system call nor a page fault.
 *
 * Concurrency: the producer publishes a segment's end (W1) and its successor (W2), readers acquire
 * them; a reader publishes low (W3), the housekeeper acquires it. Only the housekeeper unmaps. */
#ifndef MM_SPOOL_H
#define MM_SPOOL_H

#include "mm_record.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mm_segment;
struct mm_spool;
struct mm_spool_reader;

struct mm_spool_options
{
    uint64_t max_bytes;     /* limit of all mapped segments, bytes; at least 256 KiB */
    uint32_t segment_bytes; /* 0: an eighth of max_bytes, 32 KiB to 2 MiB */
    uint32_t n_readers;     /* >= 1 */
    bool drop_oldest;       /* let go of the oldest segment when there is no room for a new one */
};

/* Where a record is. Valid until its reader's low has passed it. */
struct mm_spool_pos
{
    struct mm_segment *segment;
    uint32_t offset;
};

/* Figures of one moment; while messages flow they may be a few records apart from each other. */
struct mm_spool_stats
{
    uint64_t limit_bytes;
    uint64_t allocated_bytes; /* mapped, prepared segments included; <= limit_bytes */
    uint64_t used_bytes;      /* records between acked and tail */
    uint64_t n_segments;      /* that hold or may hold records */
    uint64_t n_appended;      /* records ever appended */
    uint64_t n_unprepared;    /* segments that the producer had to map itself */
    uint64_t n_wakes;         /* times that the producer woke sleeping readers */
    bool drop_oldest;         /* as opened */
    bool full;                /* the last append found no room, and no room has come since */
};

/* Make an empty log and start its housekeeper.
 *
 * Thread: setup; blocks all signals in the thread that it makes.
 * Errors: MM_EINVAL, MM_ENOMEM, MM_ETHREAD; errstr has the reason. *out is NULL then. */
int mm_spool_open(const struct mm_spool_options *opts,
                  struct mm_spool **out,
                  char *errstr,
                  size_t errstr_len);

/* Join the housekeeper, unmap everything. No reader may be in use. Accepts NULL. Thread: setup. */
void mm_spool_close(struct mm_spool *s);

/* The random id of this log, as 36 characters of a UUID; valid as long as the log. Thread: any. */
const char *mm_spool_uuid(const struct mm_spool *s);

/* Append one record, whole or not at all. Copies. r->seq and r->topic_hash are ignored: the log
 * gives them.
 *
 * Thread: producer. No lock, no allocation; no system call but the wake-up of sleeping readers
 * (once an idle period) and, once a segment, of the housekeeper, or a mapping where that one is
 * late. Errors: MM_EFULL, no room until records are finished, nothing was written; MM_ETOOBIG,
 * larger than the log can ever hold. */
int mm_spool_append(struct mm_spool *s, const struct mm_record *r);

/* Reader k of n_readers. Owned by the log. Thread: setup. */
struct mm_spool_reader *mm_spool_reader(struct mm_spool *s, uint32_t k);

/* The next record of this reader's shard at or after its cursor, which moves behind it. The result
 * points into the segment. Looks at no more than max_scan records of other shards.
 *
 * Thread: the reader's worker. Errors: MM_EAGAIN, none found; mm_spool_pending() tells whether
 * there is more to look at. */
int mm_spool_next(struct mm_spool_reader *rd,
                  uint32_t max_scan,
                  struct mm_record *out,
                  struct mm_spool_pos *pos);

/* Move the cursor to pos, a position that mm_spool_next() gave and that low has not passed.
 *
 * Thread: the reader's worker. */
void mm_spool_seek(struct mm_spool_reader *rd, const struct mm_spool_pos *pos);

/* The cursor. Thread: the reader's worker. */
void mm_spool_cursor(const struct mm_spool_reader *rd, struct mm_spool_pos *out);

/* Is there a record, of any shard, at or after the cursor? Thread: the reader's worker. */
bool mm_spool_pending(struct mm_spool_reader *rd);

/* Read the record at pos again. Thread: the reader's worker. Errors: MM_ECORRUPT. */
int mm_spool_read(const struct mm_spool_reader *rd,
                  const struct mm_spool_pos *pos,
                  struct mm_record *out);

/* Everything of this shard before pos is finished; with NULL, everything before the cursor. Never
 * goes back.
 *
 * Thread: the reader's worker. */
void mm_spool_finish(struct mm_spool_reader *rd, const struct mm_spool_pos *pos);

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

/* Records appended to the shard of reader k. Thread: any. */
uint64_t mm_spool_appended(const struct mm_spool *s, uint32_t k);

/* Thread: any. */
void mm_spool_stats(const struct mm_spool *s, struct mm_spool_stats *out);

#endif
