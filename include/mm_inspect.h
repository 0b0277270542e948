/* mm_inspect.h - a look at the files of a log, by somebody who does not own it.
 *
 * Reads the directory of a log (a spool, a log of its parked/, its dead/), in use or not, the
 * original or a copy. Takes no lock, writes nothing, maps nothing: what an owner does meanwhile is
 * neither hindered nor damage. A segment that the owner deletes while it is looked at is over, not
 * missing; a record that is just being written is not there yet.
 *
 * What is found wrong is told as *damage*, one call for each piece. Memory: a few hundred bytes a
 * segment, and a buffer of 1 MiB, or of the largest record, for each reader.
 *
 * Thread: one at a time for each object; objects are independent, but a reader borrows its log's.
 */
#ifndef MM_INSPECT_H
#define MM_INSPECT_H

#include "mm_dir.h"
#include "mm_layout.h"
#include "mm_record.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mm_inspect;
struct mm_inspect_reader;

/* --- what is wrong --------------------------------------------------------------------------- */

/* Told once for each piece. What a comment calls harmless loses no record. */
#define MM_INSPECT_DAMAGES(X)                                                                     \
    X(MM_INSPECT_HEADER_COPY, "header_copy") /* one of the two is bad; harmless */                \
    X(MM_INSPECT_HEADER, "header")           /* both are: nothing in the file can be read */      \
    X(MM_INSPECT_VERSION, "version")         /* a newer version wrote it */                       \
    X(MM_INSPECT_FOREIGN, "foreign")         /* a segment of another log */                       \
    X(MM_INSPECT_SHORT, "short")             /* the file is shorter than its header says */       \
    X(MM_INSPECT_SEAL, "seal")               /* it is bad; the records tell the same; harmless */ \
    X(MM_INSPECT_SEAL_WRONG, "seal_wrong")   /* it is good, but not what the records tell */      \
    X(MM_INSPECT_BYTES, "bytes")             /* a place that holds no sound record */             \
    X(MM_INSPECT_PADDING, "padding")         /* bytes that ought to be 0; harmless */             \
    X(MM_INSPECT_MISSING, "missing")         /* numbers that no segment holds */                  \
    X(MM_INSPECT_REPEATED, "repeated")       /* numbers that two segments hold; harmless */       \
    X(MM_INSPECT_STATE_SLOT, "state_slot")   /* one of the two is bad; harmless */                \
    X(MM_INSPECT_STATE, "state")             /* no slot is good: all is delivered again */        \
    X(MM_INSPECT_UNREADABLE, "unreadable")   /* the system gave an error */

enum mm_inspect_kind {
#define MM_X(name, text) name,
    MM_INSPECT_DAMAGES(MM_X)
#undef MM_X
    MM_INSPECT_N_KINDS
};

struct mm_inspect_damage
{
    enum mm_inspect_kind kind;
    const char *file;   /* its name in the directory; "" when it is about no file */
    uint64_t offset;    /* bytes in the file */
    uint64_t len;       /* bytes from there */
    uint64_t n_missing; /* numbers for which there is no record because of this, as far as known */
    uint64_t first_seq; /* the first of them; 0: not known */
    const char *text;   /* in words, no newline */
};

/* *d and its strings are valid during the call. */
typedef void (*mm_inspect_damage_fn)(void *arg, const struct mm_inspect_damage *d);

/* "header_copy" and so on: the second column. */
const char *mm_inspect_kind_name(enum mm_inspect_kind kind);

/* --- a log ------------------------------------------------------------------------------------ */

enum mm_inspect_segment_state {
    MM_INSPECT_SEALED,  /* takes no more records */
    MM_INSPECT_OPEN,    /* has records and no seal: is written, or was when the owner ended */
    MM_INSPECT_SPARE,   /* has none yet: prepared for later, or just being made */
    MM_INSPECT_DAMAGED, /* has no good header, or is not of this log: its records cannot be read */
};

struct mm_inspect_segment
{
    char name[24]; /* of the file: 16 hex digits and ".seg" */
    enum mm_inspect_segment_state state;
    uint64_t size;     /* bytes of the file */
    uint64_t on_disk;  /* bytes that the file system has given for it */
    uint32_t n_copies; /* good ones of the header, 0 to 2 */
    int header_err;    /* of mm_layout_decode_header(): 0, MM_ECORRUPT, MM_EVERSION */
    int seal_err;      /* of mm_layout_decode_seal(): 0, MM_EAGAIN (none), MM_ECORRUPT */
    struct mm_layout_header header; /* zero where header_err is not 0 */
    struct mm_layout_seal seal;     /* zero where seal_err is not 0 */

    /* From the seal, or where there is no good one, by reading all of it; 0: no records. */
    uint64_t first_seq;
    uint64_t last_seq;
    uint64_t n_records;
    uint64_t first_ms;    /* time of receipt of the first, since the epoch */
    uint64_t end;         /* bytes of the file up to the end of the last record, at least the
                             header's where there is one */
    uint64_t n_bad_bytes; /* before end; 0 where it was not read */
};

/* How the files of STATE and LOCK were. */
struct mm_inspect_info
{
    char uuid[37]; /* of STATE, else of most good headers; "" when there is neither */
    bool has_state_file;
    int slot_err[2]; /* of mm_layout_decode_state(): 0, MM_EAGAIN, MM_ECORRUPT, MM_EVERSION */
    int slot;        /* the one that counts, 0 or 1; -1: none */
    struct mm_layout_state state; /* of that slot; zero when there is none */

    bool held;                            /* a process holds LOCK: the log is in use */
    int64_t holder;                       /* its process id; 0: none, or not known */
    char lock_text[MM_DIR_LOCK_TEXT_LEN]; /* what LOCK says, one line; of the last owner when it is
                                             not held */

    uint64_t first_seq; /* of all segments; 0: no records */
    uint64_t last_seq;
    uint64_t n_records;   /* in the segments, finished ones too */
    uint64_t n_pending;   /* records that are not finished, as STATE tells, and all behind it; some
                             of them may have been delivered since STATE was written */
    uint64_t n_bytes;     /* of all segment files */
    uint64_t n_bad_files; /* in bad/ */
    uint64_t bad_bytes;   /* of them */
};

/* Look at the log in dir: LOCK, STATE, the headers and seals of all segments; segments without a
 * good seal are read as a whole (at most a few MiB, unless seals are damaged). A directory without
 * anything of a log is refused, an empty one with LOCK or STATE is not. The caller frees *out with
 * mm_inspect_close().
 *
 * Who holds the lock is seen in /proc/locks and therefore only where its process is visible: not
 * across PID namespaces. To try the lock itself would refuse a broker that starts at that moment.
 *
 * Errors: MM_EINVAL, no directory, or nothing of a log in it; MM_EIO; MM_ENOMEM. errstr has the
 * path and the reason. *out is NULL then. */
int mm_inspect_open(const char *dir, struct mm_inspect **out, char *errstr, size_t errstr_len);

/* Accepts NULL. No reader of it may be in use. */
void mm_inspect_close(struct mm_inspect *in);

/* As given to mm_inspect_open(). Valid as long as the log, as are the next three. */
const char *mm_inspect_dir(const struct mm_inspect *in);

const struct mm_inspect_info *mm_inspect_info(const struct mm_inspect *in);

/* In the order of the log: by first_seq; then spare ones; then those that cannot be read. */
size_t mm_inspect_n_segments(const struct mm_inspect *in);
const struct mm_inspect_segment *mm_inspect_segment(const struct mm_inspect *in, size_t i);

/* Tell of each segment of which no record can be read: it is damaged, a stranger, of a newer
 * version or cannot be opened. A reader passes them over; what is known to be missing for it, it
 * tells. */
void mm_inspect_tell_unread(const struct mm_inspect *in, mm_inspect_damage_fn on_damage, void *arg);

/* Is a record finished, as far as STATE tells? False without STATE. */
bool mm_inspect_finished(const struct mm_inspect *in, uint64_t seq, uint32_t topic_hash);

/* The first record in the log that is not finished, as far as STATE tells; reads up to 64 MiB, and
 * takes the first one behind that for it.
 *
 * Errors: MM_EAGAIN, there is none; MM_ENOMEM. */
int mm_inspect_oldest(struct mm_inspect *in, uint64_t *seq, uint64_t *time_ms);

/* The logs below a spool, as paths relative to it: those in parked/ in the order in which they are
 * to be sent (mm_parkdir.h), and else by name, then "dead"; only those that are there. What is no
 * directory in the place of "parked" or "dead" is named, too, so that who opens it is told. The
 * caller frees *paths, one allocation, with free().
 *
 * Errors: MM_EIO, MM_ENOMEM. */
int mm_inspect_list_logs(const char *dir, char ***paths, size_t *n_paths);

/* --- its records ------------------------------------------------------------------------------ */

#define MM_INSPECT_ALL SIZE_MAX

struct mm_inspect_reader_options
{
    size_t segment;                 /* only this one; MM_INSPECT_ALL: the whole log */
    uint64_t from_seq;              /* the first number wanted */
    uint64_t to_seq;                /* the last; 0: all */
    mm_inspect_damage_fn on_damage; /* NULL: damage is passed over in silence */
    void *arg;
};

/* With on_damage, a reader of the whole log from its beginning on knows from STATE with which
 * number that ought to be, and tells what is missing before the first record, too.
 *
 * Errors: MM_ENOMEM. */
int mm_inspect_reader_new(struct mm_inspect *in,
                          const struct mm_inspect_reader_options *opts,
                          struct mm_inspect_reader **out);

/* Accepts NULL. */
void mm_inspect_reader_free(struct mm_inspect_reader *rd);

/* Where a record stands. */
struct mm_inspect_place
{
    size_t segment;  /* an index of mm_inspect_segment() */
    uint64_t offset; /* bytes in the file */
    uint64_t size;   /* bytes, with padding */
};

/* The next record, both checksums good, in the order of the log. Damage before it has been told:
 * MM_INSPECT_BYTES, PADDING, MISSING, UNREADABLE and SHORT. *out points into the reader and is
 * valid until its next call.
 *
 * Errors: MM_EAGAIN, there is none now; a later call looks again whether one was appended to the
 * last segment (not for segments made since mm_inspect_open()). MM_ENOMEM, for a record larger than
 * the buffer. What cannot be read is damage, not an error. */
int mm_inspect_next(struct mm_inspect_reader *rd,
                    struct mm_record *out,
                    struct mm_inspect_place *place);

/* Bytes of segments behind the reader, and of all that it will read. */
void mm_inspect_progress(const struct mm_inspect_reader *rd, uint64_t *done, uint64_t *total);

/* --- all of it -------------------------------------------------------------------------------- */

struct mm_inspect_verify_options
{
    mm_inspect_damage_fn on_damage;
    void (*on_progress)(void *arg,
                        uint64_t done,
                        uint64_t total); /* NULL; bytes, every MiB or so */
    void *arg;
};

struct mm_inspect_verdict
{
    uint64_t n_records;  /* sound ones */
    uint64_t n_bytes;    /* looked at */
    uint64_t n_damages;  /* pieces of damage told */
    uint64_t n_missing;  /* records lost by them, as far as known */
    uint64_t n_given_up; /* lost earlier, and taken note of in a seal: no damage any more */
};

/* Read every byte of the log and tell each piece of damage. Not the logs below it.
 *
 * Errors: MM_ENOMEM. */
int mm_inspect_verify(struct mm_inspect *in,
                      const struct mm_inspect_verify_options *opts,
                      struct mm_inspect_verdict *out);

#endif
