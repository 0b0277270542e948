#include "mm_error.h"
#include "mm_inspect_impl.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A start after a power failure goes on with numbers so much higher. */
#define SEQ_JUMP (UINT64_C(1) << 32)

const char *mm_inspect_kind_name(enum mm_inspect_kind kind)
{
    static const char *const names[] = {
#define MM_X(name, text) text,
        MM_INSPECT_DAMAGES(MM_X)
#undef MM_X
    };
    return (unsigned)kind < MM_INSPECT_N_KINDS ? names[kind] : "";
}

/* --- telling damage -----------------------------------------------------------------------------
 */

void mm_inspect_tell(mm_inspect_damage_fn on_damage,
                     void *arg,
                     struct mm_inspect_damage *d,
                     const char *fmt,
                     ...)
{
    if (on_damage == NULL) {
        return;
    }
    char text[256];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    d->file = d->file == NULL ? "" : d->file;
    d->first_seq = d->n_missing == 0 ? 0 : d->first_seq;
    d->text = text;
    on_damage(arg, d);
}

static void tell_bytes(struct mm_inspect_reader *rd,
                       size_t segment,
                       uint64_t offset,
                       uint64_t len,
                       uint64_t n_missing)
{
    struct mm_inspect_damage d = {.kind = MM_INSPECT_BYTES,
                                  .file = rd->in->segments[segment].name,
                                  .offset = offset,
                                  .len = len,
                                  .n_missing = n_missing,
                                  .first_seq = rd->expected};
    if (n_missing == 0) {
        mm_inspect_tell(rd->opts.on_damage, rd->opts.arg, &d,
                        "no record can be read here; how many there were is not known");
    } else {
        mm_inspect_tell(rd->opts.on_damage, rd->opts.arg, &d, "no record can be read here");
    }
}

static void tell_missing(struct mm_inspect_reader *rd, const char *file, uint64_t first, uint64_t n)
{
    struct mm_inspect_damage d = {
        .kind = MM_INSPECT_MISSING, .file = file, .n_missing = n, .first_seq = first};
    mm_inspect_tell(rd->opts.on_damage, rd->opts.arg, &d, "these records are in no segment");
}

static void tell_unreadable(struct mm_inspect_reader *rd)
{
    struct mm_scan *scan = &rd->scan;
    if (scan->bad_to > rd->told_bad) {
        char reason[64];
        struct mm_inspect_damage d = {.kind = MM_INSPECT_UNREADABLE,
                                      .file = rd->in->segments[rd->segment].name,
                                      .offset = scan->bad_from,
                                      .len = scan->bad_to - scan->bad_from};
        mm_inspect_tell(rd->opts.on_damage, rd->opts.arg, &d, "the system cannot read this: %s",
                        strerror_r(scan->bad_errno, reason, sizeof reason));
        rd->told_bad = scan->bad_to;
    }
    scan->bad_from = scan->bad_to = 0;
}

/* Nothing of the log can be told from the file. */
static void tell_unread(const struct mm_inspect_segment *seg,
                        mm_inspect_damage_fn on_damage,
                        void *arg)
{
    struct mm_inspect_damage d = {
        .kind = MM_INSPECT_HEADER, .file = seg->name, .len = MM_LAYOUT_HEADER_LEN};
    switch (seg->header_err) {
        case 0:
            d.kind = MM_INSPECT_FOREIGN;
            mm_inspect_tell(on_damage, arg, &d, "a segment of another spool; it is not read");
            break;
        case MM_EVERSION:
            d.kind = MM_INSPECT_VERSION;
            mm_inspect_tell(on_damage, arg, &d, "a newer version wrote this segment");
            break;
        case MM_EIO:
            d.kind = MM_INSPECT_UNREADABLE;
            d.len = seg->size;
            mm_inspect_tell(on_damage, arg, &d, "the system cannot read the header");
            break;
        default:
            mm_inspect_tell(on_damage, arg, &d,
                            "both copies of the header are damaged: no record in this file "
                            "can be told from other bytes");
    }
}

void mm_inspect_tell_unread(const struct mm_inspect *in, mm_inspect_damage_fn on_damage, void *arg)
{
    for (size_t i = 0; i < in->n_segments; i++) {
        if (in->segments[i].state == MM_INSPECT_DAMAGED) {
            tell_unread(&in->segments[i], on_damage, arg);
        }
    }
}

/* --- reading ------------------------------------------------------------------------------------
 */

/* What STATE says is not finished must not begin before the first segment. */
static void expect_front(struct mm_inspect_reader *rd)
{
    const struct mm_inspect_info *info = &rd->in->info;
    if (info->slot < 0 || info->state.n_pending == 0) {
        return;
    }
    uint64_t low = mm_inspect_low(&info->state);
    if (rd->end == 0 || low <= rd->in->segments[0].first_seq) {
        rd->expected = low;
    }
}

int mm_inspect_reader_new(struct mm_inspect *in,
                          const struct mm_inspect_reader_options *opts,
                          struct mm_inspect_reader **out)
{
    struct mm_inspect_reader *rd = calloc(1, sizeof *rd);
    *out = rd;
    if (rd == NULL) {
        return MM_ENOMEM;
    }
    rd->in = in;
    rd->opts = *opts;
    rd->opts.to_seq = opts->to_seq == 0 ? UINT64_MAX : opts->to_seq;
    rd->tail_segment = SIZE_MAX;
    rd->segment = opts->segment == MM_INSPECT_ALL ? 0 : opts->segment;
    rd->end = opts->segment == MM_INSPECT_ALL ? in->n_segments : opts->segment + 1;
    while (rd->end > rd->segment && !mm_inspect_has_records(&in->segments[rd->end - 1])) {
        rd->end--;
    }
    for (; rd->segment < rd->end && in->segments[rd->segment].seal_err == 0 &&
           in->segments[rd->segment].last_seq < opts->from_seq;
         rd->segment++) {
    }
    for (size_t i = rd->segment; i < rd->end; i++) {
        if (in->segments[i].first_seq <= rd->opts.to_seq) {
            rd->total += mm_inspect_area_end(&in->segments[i]);
        }
    }
    if (opts->segment == MM_INSPECT_ALL && opts->from_seq == 0 && opts->on_damage != NULL) {
        expect_front(rd);
    }
    return 0;
}

void mm_inspect_reader_free(struct mm_inspect_reader *rd)
{
    if (rd == NULL) {
        return;
    }
    if (rd->is_open) {
        close(rd->scan.fd);
    }
    mm_scan_fini(&rd->scan);
    free(rd);
}

void mm_inspect_progress(const struct mm_inspect_reader *rd, uint64_t *done, uint64_t *total)
{
    uint64_t n = rd->behind + (rd->is_open ? rd->scan.at : 0);
    *done = n < rd->total ? n : rd->total; /* the end of the part that is wanted may be passed */
    *total = rd->total;
}

struct mm_inspect_gap mm_inspect_gap(uint64_t expected, uint64_t first_seq, uint64_t run_seq)
{
    if (expected == 0 || first_seq <= expected) {
        return (struct mm_inspect_gap){0};
    }
    if (run_seq <= expected || run_seq > first_seq || run_seq - expected < SEQ_JUMP) {
        return (struct mm_inspect_gap){.n_before = first_seq - expected};
    }
    return (struct mm_inspect_gap){.n_before = (run_seq - expected) & (SEQ_JUMP - 1),
                                   .n_behind = first_seq - run_seq,
                                   .jump = true};
}

/* What was damaged at the end of the segment before, now that it is known with which number the
 * next one begins; or only what is missing between them. */
static void tell_tail(struct mm_inspect_reader *rd, uint64_t n_missing, const char *file)
{
    if (rd->tail_segment != SIZE_MAX) {
        tell_bytes(rd, rd->tail_segment, rd->tail_offset, rd->tail_len, n_missing);
        rd->tail_segment = SIZE_MAX;
    } else if (n_missing > 0) {
        tell_missing(rd, file, rd->expected, n_missing);
    }
}

/* What STATE tells to be finished may be gone: nobody misses it. Where bytes are damaged, they are
 * told with all that was in them. */
static void expect_no_finished(struct mm_inspect_reader *rd)
{
    const struct mm_inspect_info *info = &rd->in->info;
    uint64_t low = info->slot < 0 ? 0 : mm_inspect_low(&info->state);
    if (rd->expected != 0 && rd->expected < low && rd->tail_segment == SIZE_MAX) {
        rd->expected = low;
    }
}

static void tell_repeated(struct mm_inspect_reader *rd, const struct mm_inspect_segment *seg)
{
    struct mm_inspect_damage d = {.kind = MM_INSPECT_REPEATED, .file = seg->name};
    mm_inspect_tell(rd->opts.on_damage, rd->opts.arg, &d,
                    "records from %" PRIu64
                    " on are in another segment too; they are delivered twice",
                    seg->first_seq);
}

/* With which number must the segment begin? A seal knows; without one it is what the segment before
 * ends with, and what is missing in between shows with the first record. */
static void expect_first(struct mm_inspect_reader *rd, const struct mm_inspect_segment *seg)
{
    if (rd->expected > seg->first_seq) {
        tell_tail(rd, 0, seg->name);
        tell_repeated(rd, seg);
        rd->expected = seg->first_seq;
        return;
    }
    expect_no_finished(rd);
    struct mm_inspect_gap gap = mm_inspect_gap(rd->expected, seg->first_seq, seg->header.run_seq);
    bool known = rd->expected != 0;
    bool shows = seg->seal_err != 0 && rd->tail_segment == SIZE_MAX && !gap.jump;
    if (known && !shows) {
        tell_tail(rd, gap.n_before, seg->name);
    }
    rd->expected = seg->first_seq - gap.n_behind - (shows ? gap.n_before : 0);
    if (seg->seal_err == 0 && gap.n_behind > 0) {
        tell_missing(rd, seg->name, rd->expected, gap.n_behind);
        rd->expected = seg->first_seq;
    }
    if (!known && seg->seal_err != 0) {
        rd->expected = 0;
    }
}

/* False: there is no such file any more, or it cannot be read. */
static bool open_segment(struct mm_inspect_reader *rd)
{
    const struct mm_inspect_segment *seg = &rd->in->segments[rd->segment];
    struct stat st;
    int fd = mm_inspect_open_file(rd->in->fd, seg->name, &st);
    if (fd < 0) {
        if (errno != ENOENT) {
            char reason[64];
            struct mm_inspect_damage d = {.kind = MM_INSPECT_UNREADABLE,
                                          .file = seg->name,
                                          .len = seg->size,
                                          .n_missing = seg->n_records,
                                          .first_seq = seg->first_seq};
            mm_inspect_tell(rd->opts.on_damage, rd->opts.arg, &d, "the file cannot be opened: %s",
                            strerror_r(errno, reason, sizeof reason));
        }
        rd->tail_segment = SIZE_MAX;
        rd->expected = seg->last_seq + 1;
        return false;
    }
    expect_first(rd, seg);
    mm_scan_begin(&rd->scan, fd, seg->header.salt, mm_inspect_area_end(seg));
    rd->is_open = true;
    rd->n_found = rd->n_holes = rd->told_bad = 0;
    rd->has_damage = false;
    return true;
}

static void leave_segment(struct mm_inspect_reader *rd)
{
    close(rd->scan.fd);
    rd->is_open = false;
    rd->behind += mm_inspect_area_end(&rd->in->segments[rd->segment]);
    rd->segment++;
}

/* The bytes from there up to the record are none. */
static void pass_gap(struct mm_inspect_reader *rd,
                     uint64_t from,
                     uint64_t offset,
                     const struct mm_record *rec)
{
    uint64_t n_missing = rd->expected != 0 && rec->seq > rd->expected ? rec->seq - rd->expected : 0;
    bool wanted = rec->seq > rd->opts.from_seq && rd->expected <= rd->opts.to_seq;
    if (offset > from) {
        rd->has_damage = true;
        if (wanted) {
            tell_bytes(rd, rd->segment, from, offset - from, n_missing);
        }
    } else if (n_missing > 0 && rd->in->segments[rd->segment].seal_err != 0) {
        tell_missing(rd, rd->in->segments[rd->segment].name, rd->expected, n_missing);
    } else if (n_missing > 0) {
        rd->first_hole = rd->n_holes == 0 ? rd->expected : rd->first_hole;
        rd->n_holes += n_missing;
    }
}

static void check_padding(struct mm_inspect_reader *rd,
                          const struct mm_record *rec,
                          uint64_t offset,
                          size_t size)
{
    const uint8_t *end = (const uint8_t *)rec->props + rec->props_len;
    size_t len = size - MM_RECORD_HEADER_LEN - rec->topic_len - rec->payload_len - rec->props_len;
    if (!mm_inspect_all_zero(end, len)) {
        struct mm_inspect_damage d = {.kind = MM_INSPECT_PADDING,
                                      .file = rd->in->segments[rd->segment].name,
                                      .offset = offset + size - len,
                                      .len = len};
        mm_inspect_tell(rd->opts.on_damage, rd->opts.arg, &d,
                        "the padding of record %" PRIu64 " was changed; the record is good",
                        rec->seq);
    }
}

/* All records of a sealed segment were seen. */
static void end_sealed(struct mm_inspect_reader *rd, const struct mm_inspect_segment *seg)
{
    uint64_t n_missing =
        rd->expected != 0 && seg->last_seq >= rd->expected ? seg->last_seq + 1 - rd->expected : 0;
    if (rd->scan.at < seg->end) {
        rd->has_damage = true;
        tell_bytes(rd, rd->segment, rd->scan.at, seg->end - rd->scan.at, n_missing);
    } else {
        rd->first_hole = rd->n_holes == 0 ? rd->expected : rd->first_hole;
        rd->n_holes += n_missing;
    }
    rd->expected = seg->last_seq + 1;
    bool agrees = rd->n_found == seg->n_records;
    if (rd->n_holes > 0 && agrees && !rd->has_damage) {
        rd->n_given_up += rd->n_holes;
    } else if (rd->n_holes > 0) {
        tell_missing(rd, seg->name, rd->first_hole, rd->n_holes);
    } else if (!agrees && !rd->has_damage) {
        struct mm_inspect_damage d = {.kind = MM_INSPECT_SEAL_WRONG,
                                      .file = seg->name,
                                      .offset = MM_LAYOUT_SEAL_OFFSET,
                                      .len = MM_LAYOUT_SEAL_LEN};
        mm_inspect_tell(rd->opts.on_damage, rd->opts.arg, &d,
                        "the seal tells of %" PRIu64 " records, there are %" PRIu64, seg->n_records,
                        rd->n_found);
    }
}

/* Damage behind the last record of a segment without a seal is kept until it is known what is lost.
 */
static int end_unsealed(struct mm_inspect_reader *rd)
{
    uint64_t len;
    int err = mm_scan_tail(&rd->scan, &len);
    if (err == 0 && len > 0) {
        rd->has_damage = true;
        rd->tail_segment = rd->segment;
        rd->tail_offset = rd->scan.at;
        rd->tail_len = len;
    }
    tell_unreadable(rd);
    return err;
}

/* The end of the log: STATE may know of records behind it. */
static void end_log(struct mm_inspect_reader *rd)
{
    bool whole = rd->opts.segment == MM_INSPECT_ALL && rd->opts.to_seq == UINT64_MAX;
    uint64_t next_seq = rd->in->next_seq;
    expect_no_finished(rd);
    uint64_t n_missing = whole ? mm_inspect_gap(rd->expected, next_seq, next_seq).n_before : 0;
    if (rd->tail_segment != SIZE_MAX && rd->tail_told == rd->tail_offset) {
        rd->tail_segment = SIZE_MAX; /* by an earlier call */
    } else if (rd->tail_segment != SIZE_MAX) {
        rd->tail_told = rd->tail_offset;
    }
    tell_tail(rd, n_missing, "");
    rd->expected += n_missing;
}

/* No more records in this segment. MM_EAGAIN: nor in the log. */
static int end_segment(struct mm_inspect_reader *rd)
{
    const struct mm_inspect_segment *seg = &rd->in->segments[rd->segment];
    bool last = rd->segment + 1 == rd->end;
    int err = 0;
    tell_unreadable(rd);
    if (seg->seal_err == 0) {
        end_sealed(rd, seg);
    } else {
        err = end_unsealed(rd);
    }
    rd->reached = rd->expected > rd->reached ? rd->expected : rd->reached;
    rd->expected = rd->reached;
    if (err == 0 && (!last || seg->seal_err == 0)) {
        leave_segment(rd);
        return 0;
    }
    if (err == 0) {
        end_log(rd);
        return MM_EAGAIN;
    }
    return err;
}

/* The next record of the segment that is open. MM_EAGAIN: none. */
static int next_here(struct mm_inspect_reader *rd,
                     struct mm_record *out,
                     struct mm_inspect_place *place)
{
    uint64_t from = rd->scan.at;
    uint64_t offset;
    size_t size;
    int err = mm_scan_next(&rd->scan, out, &offset, &size);
    if (err != 0) {
        return err;
    }
    tell_unreadable(rd);
    pass_gap(rd, from, offset, out);
    rd->n_found++;
    rd->expected = out->seq + 1;
    if (rd->opts.on_damage != NULL) {
        check_padding(rd, out, offset, size);
    }
    *place = (struct mm_inspect_place){.segment = rd->segment, .offset = offset, .size = size};
    return 0;
}

int mm_inspect_next(struct mm_inspect_reader *rd,
                    struct mm_record *out,
                    struct mm_inspect_place *place)
{
    while (!rd->done) {
        if (rd->segment == rd->end) {
            end_log(rd);
            return MM_EAGAIN;
        }
        if (rd->in->segments[rd->segment].first_seq > rd->opts.to_seq) {
            break;
        }
        if (!rd->is_open && !open_segment(rd)) {
            rd->behind += mm_inspect_area_end(&rd->in->segments[rd->segment]);
            rd->segment++;
            continue;
        }
        int err = next_here(rd, out, place);
        if (err == MM_EAGAIN) {
            err = end_segment(rd);
        } else if (err == 0 && out->seq > rd->opts.to_seq) {
            rd->done = true;
        } else if (err == 0 && out->seq >= rd->opts.from_seq) {
            return 0;
        }
        if (err != 0) {
            return err;
        }
    }
    return MM_EAGAIN;
}
