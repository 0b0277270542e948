/* mm_segment.h - one segment of the log: a range of memory that records are written into.
 *
 * Today a segment is an anonymous mapping. What a segment is made of is known in mm_segment.c
 * alone. */
#ifndef MM_SEGMENT_H
#define MM_SEGMENT_H

#include <stdalign.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

/* Fields are grouped by who writes them. base, size and salt never change; number and n_before are
 * set before the segment is linked into a log. */
struct mm_segment
{
    /* immutable once linked */
    uint8_t *base;
    uint64_t number; /* +1 for each segment of a log, from 1 */
    uint64_t salt;   /* random; goes into the checksums of the records */
    uint32_t size;   /* bytes that records may use; a multiple of the page size */

    /* producer */
    alignas(64) _Atomic uint32_t end;  /* W1: records end here; bytes below are complete */
    _Atomic(struct mm_segment *) next; /* W2: the segment behind; NULL: this is the tail */
};

/* Round up to what a segment can have: whole pages. 0 when the result does not fit 32 bits. */
uint32_t mm_segment_round(uint64_t bytes);

/* A new, empty segment of size bytes (from mm_segment_round()). Its pages are not there yet.
 *
 * Thread: any. Errors: MM_ENOMEM. */
int mm_segment_new(uint32_t size, struct mm_segment **out);

/* Make the pages present so that the first write into each does not fault. Failure is no harm.
 *
 * Thread: any but the broker. */
void mm_segment_populate(struct mm_segment *seg);

/* Give the memory back. Accepts NULL. Thread: any, when nobody reads or writes the segment. */
void mm_segment_free(struct mm_segment *seg);

#endif
