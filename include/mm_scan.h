/* mm_scan.h - the records of one segment file, one after the other, by pread(2).
 *
 * Steps over what is no sound record and says where that is. The file may be written meanwhile: a
 * place that seems damaged is read a second time before it is told, since the first time may have
 * caught the writer between two pages. A commit word of 0 behind the last record is the place where
 * the next one goes, whatever lies behind it: a record that was not finished when its writer ended
 * was never acknowledged.
 *
 * Thread: one at a time. */
#ifndef MM_SCAN_H
#define MM_SCAN_H

#include "mm_record.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mm_scan
{
    int fd; /* the caller's */
    uint64_t salt;
    uint64_t limit; /* bytes of the file that may hold records */
    uint64_t at;    /* bytes of the file that were gone through: behind the last record found */
    uint64_t look;  /* >= at: nothing begins before */
    bool again;     /* what seems damaged is being read for the second time */

    bool tail_bad; /* the last call found no record where a commit word is */

    uint8_t *data; /* of the file, from data_at on */
    size_t cap;
    size_t data_len;
    uint64_t data_at;

    uint64_t
        bad_from;    /* what the system could not read since this was last cleared by the caller; */
    uint64_t bad_to; /* taken for zeros. Equal: nothing */
    int bad_errno;
};

/* Begin with the first record of the segment file behind fd. limit: bytes of the file, at most, in
 * which records can be. The buffer of an earlier scan is used again, so *s is zeroed before the
 * first one. */
void mm_scan_begin(struct mm_scan *s, int fd, uint64_t salt, uint64_t limit);

/* Free the buffer. */
void mm_scan_fini(struct mm_scan *s);

/* The next sound record, at *offset of the file, *size bytes with padding; the bytes from what
 * s->at was before up to *offset hold none. *out points into the buffer until the next call.
 *
 * Errors: MM_EAGAIN, there is none up to s->limit; s->at stays, so that a later call looks again.
 * MM_ENOMEM. */
int mm_scan_next(struct mm_scan *s, struct mm_record *out, uint64_t *offset, size_t *size);

/* After MM_EAGAIN: how many bytes from s->at on cannot be what a writer leaves behind its last
 * record: 0 when the next commit word is 0, else all up to the last byte that is not 0.
 *
 * Errors: MM_ENOMEM. */
int mm_scan_tail(struct mm_scan *s, uint64_t *n_bytes);

#endif
