/* mm_inspect_impl.h - what the files of the look at a log share and nobody else sees.
 *
 *     mm_inspect.c         the directory: STATE, LOCK, the list of segments
 *     mm_inspect_read.c    the records, and what is missing among them
 *     mm_inspect_verify.c  each byte
 *
 * Thread: as in mm_inspect.h, one at a time for each object. */
#ifndef MM_INSPECT_IMPL_H
#define MM_INSPECT_IMPL_H

#include "mm_inspect.h"
#include "mm_scan.h"

#include <sys/stat.h>
#include <sys/types.h>

struct mm_inspect
{
    char *dir;
    int fd;
    struct mm_inspect_info info;
    uint64_t next_seq; /* of STATE before the segments were looked at; 0: none */
    struct mm_inspect_segment *segments;
    size_t n_segments;
};

struct mm_inspect_reader
{
    struct mm_inspect *in;
    struct mm_inspect_reader_options opts;
    size_t segment; /* the one that is read or comes next */
    size_t end;     /* behind the last one to be read */
    bool is_open;
    bool done; /* to_seq was passed */
    struct mm_scan scan;
    uint64_t behind; /* bytes of the segments that were read */
    uint64_t total;

    uint64_t expected;   /* seq of the next record if nothing is wrong; 0: not known */
    uint64_t reached;    /* the largest that expected was at the end of a segment */
    uint64_t n_found;    /* records in this segment */
    uint64_t n_holes;    /* numbers missing between two of them that stand side by side */
    uint64_t first_hole; /* the first of those */
    bool has_damage;     /* bytes that are no records, in this segment */
    uint64_t told_bad;   /* unreadable bytes of this segment were told up to here */

    /* Damage at the end of a segment without a seal, not told before it is known what is lost. */
    size_t tail_segment; /* SIZE_MAX: none */
    uint64_t tail_offset;
    uint64_t tail_len;
    uint64_t tail_told; /* offset of the one told last, of the last segment */

    uint64_t n_given_up;
};

/* Numbers that no record has, between one that is expected and the first of a segment: n_before of
 * them from the expected one on, and n_behind right before the first. The numbers in between, if
 * any, were jumped over by a start after a power failure, which is no loss. */
struct mm_inspect_gap
{
    uint64_t n_before;
    uint64_t n_behind;
    bool jump;
};

/* expected 0: not known, no gap. run_seq: of the segment. */
struct mm_inspect_gap mm_inspect_gap(uint64_t expected, uint64_t first_seq, uint64_t run_seq);

/* A regular file, for reading. -1: errno tells. */
int mm_inspect_open_file(int dir_fd, const char *name, struct stat *st);

bool mm_inspect_all_zero(const uint8_t *bytes, size_t len);

/* What lies below is finished. */
uint64_t mm_inspect_low(const struct mm_layout_state *state);

/* Bytes of the file in which records can be. */
uint64_t mm_inspect_area_end(const struct mm_inspect_segment *seg);

bool mm_inspect_has_records(const struct mm_inspect_segment *seg);

/* Complete *d by its text and hand it on. */
void mm_inspect_tell(mm_inspect_damage_fn on_damage,
                     void *arg,
                     struct mm_inspect_damage *d,
                     const char *fmt,
                     ...) __attribute__((format(printf, 4, 5)));

#endif
