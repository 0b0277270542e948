/* mm_segment.h - one segment of the log: a range of bytes that records are written into.
 *
 * A segment is an anonymous mapping, or a file of a spool's directory. A file is reserved before it
 * is mapped, so that a full disk is an error and never a SIGBUS; it is mapped while records are
 * written and can be unmapped later, when it is read through a descriptor. What a segment is made
 * of is known in mm_segment.c alone.
 *
 * The bytes of a file are in mm_layout.h: a header in front, records from `start` on. An anonymous
 * segment has no header and start is 0. */
#ifndef MM_SEGMENT_H
#define MM_SEGMENT_H

#include "mm_layout.h"

#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mm_dir;

/* Fields are grouped by who writes them. */
struct mm_segment
{
    /* immutable once linked into a log */
    uint64_t number; /* +1 for each segment of a log, from 1 */
    uint64_t salt;   /* random; goes into the checksums of the records */
    uint64_t file;   /* in the file's name; 0: anonymous */
    uint64_t run_seq;
    uint64_t first_seq; /* of the first record that is, or would be, in it */
    uint64_t max_seq;   /* of the last record that an earlier process wrote; 0: ours */
    uint32_t start;     /* bytes before the first record */
    uint32_t size;      /* bytes in all; a multiple of the page size */

    /* where the bytes are. The keeper takes base away when the mapping is to go; see mm_spool.c */
    _Atomic(uint8_t *) base; /* first byte, header included; NULL: not mapped */
    uint8_t *map;            /* the keeper's: what is to be unmapped; NULL: nothing */
    int fd;                  /* the producer's and the keeper's; -1: closed, or anonymous */

    /* producer */
    alignas(64) _Atomic uint32_t end;  /* W1: records end here; bytes below are complete */
    _Atomic(struct mm_segment *) next; /* W2: the segment behind; NULL: this is the tail */
    uint64_t first_ms;                 /* time of receipt of the first record */
    bool rooted; /* header and name are on the disk; by MM_SPOOL_SYNC_ALWAYS */

    /* housekeeper */
    alignas(64) uint32_t populated; /* pages below are there */

    /* keeper */
    alignas(64) uint32_t synced; /* bytes below are on the disk */
    _Atomic uint32_t forgotten;  /* pages below may have left the mapping */
    _Atomic bool failed;         /* a sync of it failed; the producer's too */
    bool sealed;
    bool settled; /* sealed, synced and closed: nothing more to do but to unmap and delete it */
};

/* Round up to what a segment can have: whole pages. 0 when the result does not fit 32 bits. */
uint32_t mm_segment_round(uint64_t bytes);

/* A random number for the checksums of a segment's records, and for nothing that is secret. */
uint64_t mm_segment_salt(void);

/* A new, empty anonymous segment of size bytes (from mm_segment_round()). Its pages are not there
 * yet.
 *
 * Thread: any. Errors: MM_ENOMEM. */
int mm_segment_new(uint32_t size, struct mm_segment **out);

/* A new, empty segment in a file: size bytes (from mm_segment_round()), the header included, are
 * reserved on the disk. h->salt and h->size are set here. With map, it is mapped; without, it is
 * written by mm_segment_write(). On error no file and no reservation stays behind.
 *
 * Thread: any. Errors: MM_EFULL, no space or quota; MM_EIO; MM_ENOMEM. */
int mm_segment_create(const struct mm_dir *dir,
                      struct mm_layout_header *h,
                      uint32_t size,
                      bool map,
                      struct mm_segment **out);

/* A segment for a file that is there, with nothing set but what the header tells; not mapped, no
 * descriptor. Errors: MM_ENOMEM. */
int mm_segment_describe(const struct mm_layout_header *h, uint64_t file, struct mm_segment **out);

/* Make the pages of [from, to) present and writable, so that the first write into each does not
 * fault. Failure is no harm. Thread: any but the broker. */
void mm_segment_populate(struct mm_segment *seg, uint32_t from, uint32_t to);

/* Take the whole pages of [from, to), which nobody writes any more, out of the mapping. Who reads
 * them there gets them again, many at a time; but a page that the system has taken meanwhile comes
 * from the disk, and one that the disk does not give is a SIGBUS: seg->forgotten tells from where
 * on there is none. A sync makes each page that is mapped writable read-only first, and interrupts
 * every processor that runs one of the process' threads for each of them: the broker's thread, too.
 * Failure is no harm. Thread: keeper. Source: madvise(2), MADV_DONTNEED of a shared mapping of a
 * file. */
void mm_segment_forget_pages(struct mm_segment *seg, uint32_t from, uint32_t to);

/* Write len bytes at offset of the file. Errors: MM_EFULL; MM_EIO. */
int mm_segment_write(const struct mm_segment *seg, uint32_t offset, const void *data, size_t len);

/* Make the bytes [from, to) survive a power failure; the whole file when it is not mapped or
 * `whole`. Waits for the disk. Errors: MM_EIO. */
int mm_segment_sync(const struct mm_segment *seg, uint32_t from, uint32_t to, bool whole);

/* Write the seal. Errors: MM_EIO, MM_EFULL. */
int mm_segment_seal(struct mm_segment *seg, const struct mm_layout_seal *seal);

/* Has somebody deleted its file, which we have open? Thread: the keeper. */
bool mm_segment_is_deleted(const struct mm_segment *seg);

/* Give the space behind `end`, which no record will take, back to the file system. Failure is no
 * harm. */
void mm_segment_trim(struct mm_segment *seg, uint32_t end);

/* Open the file, for reading only or, with `write`, to seal it as well. Returns the descriptor.
 * Errors: MM_EAGAIN, there is no such file; MM_EIO, errno tells. */
int mm_segment_open(const struct mm_dir *dir, uint64_t file, bool write);

/* Try to keep the pages of a file that could not be synced in memory. Thread: keeper. */
void mm_segment_pin(const struct mm_segment *seg);

/* Close the descriptor; what is mapped stays. */
void mm_segment_close(struct mm_segment *seg);

/* Unmap what `map` says. Thread: any, when nobody reads or writes the mapping. */
void mm_segment_unmap(struct mm_segment *seg);

/* Delete a segment's file. Errors: MM_EIO. */
int mm_segment_unlink(const struct mm_dir *dir, uint64_t file);

/* Give memory and descriptor back; the file stays. Accepts NULL. Thread: any, when nobody reads or
 * writes the segment. */
void mm_segment_free(struct mm_segment *seg);

#endif
