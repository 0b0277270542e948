#include "mm_repair.h"

#include "mm_dir.h"
#include "mm_error.h"
#include "mm_file.h"
#include "mm_inspect_impl.h"
#include "mm_segment.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TEXT_LEN 256

struct repair
{
    const struct mm_repair_options *opts;
    struct mm_repair_result *out;
    struct mm_dir *dir; /* NULL in a dry run */
    struct mm_inspect *in;
    bool has_state;
    struct mm_layout_state state; /* as it stands in STATE */
    bool lost_numbers; /* records were taken away whose numbers may not be known to STATE */
};

/* What the records of one segment look like. */
struct findings
{
    uint64_t n_good;     /* records */
    uint64_t n_damages;  /* places without sound records */
    uint64_t first_lost; /* the numbers lost by them; 0: none, or not known */
    uint64_t last_lost;
    bool tail;    /* the last of these places is behind the last sound record */
    int unopened; /* errno, where the file could not be opened; 0: it could */
};

/* --- telling ------------------------------------------------------------------------------------
 */

__attribute__((format(printf, 4, 5))) static void act(struct repair *r,
                                                      const char *file,
                                                      int err,
                                                      const char *fmt,
                                                      ...)
{
    int number = errno;
    char text[TEXT_LEN];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    r->out->n_actions++;
    r->out->n_failed += err != 0;
    if (r->opts->on_action != NULL) {
        errno = number;
        r->opts->on_action(r->opts->arg, file, text, err);
    }
}

/* --- writing ------------------------------------------------------------------------------------
 */

/* Write into a file that is there, and make it last. Nothing in a dry run. */
static int write_into(struct repair *r,
                      const char *name,
                      const void *data,
                      size_t len,
                      uint64_t offset)
{
    if (r->dir == NULL) {
        return 0;
    }
    int fd = openat(mm_dir_fd(r->dir), name, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) {
        return MM_EIO;
    }
    int err = mm_file_write(fd, offset, data, len);
    if (err == 0 && fdatasync(fd) != 0) {
        err = MM_EIO;
    }
    close(fd);
    return err;
}

static uint64_t file_number(const struct mm_inspect_segment *seg)
{
    return strtoull(seg->name, NULL, 16);
}

static void set_aside(struct repair *r, const struct mm_inspect_segment *seg, const char *why)
{
    int err = r->dir == NULL ? 0 : mm_dir_set_aside(r->dir, file_number(seg));
    r->lost_numbers = true;
    act(r, seg->name, err, "%s: moved to bad/", why);
}

/* --- the first page of a segment ----------------------------------------------------------------
 */

static void mend_seal(struct repair *r, const struct mm_inspect_segment *seg, const char *why)
{
    uint8_t bytes[MM_LAYOUT_SEAL_LEN] = {0};
    struct mm_layout_seal seal = {.first_seq = seg->first_seq,
                                  .last_seq = seg->last_seq,
                                  .n_records = seg->n_records,
                                  .first_ms = seg->first_ms,
                                  .end = seg->end};
    if (seg->n_records > 0) {
        mm_layout_encode_seal(bytes, seg->header.salt, &seal);
    }
    int err = write_into(r, seg->name, bytes, sizeof bytes, MM_LAYOUT_SEAL_OFFSET);
    if (seg->n_records == 0) {
        act(r, seg->name, err, "%s, and there are no records: removed", why);
        return;
    }
    act(r, seg->name, err, "%s: sealed with %" PRIu64 " records", why, seg->n_records);
}

/* All of the page but the seal. */
static void mend_page(struct repair *r, const struct mm_inspect_segment *seg)
{
    uint8_t bytes[MM_LAYOUT_HEADER_LEN];
    uint8_t good[MM_LAYOUT_HEADER_LEN];
    struct stat st;
    int fd = mm_inspect_open_file(r->in->fd, seg->name, &st);
    size_t n = 0;
    if (fd >= 0) {
        (void)mm_file_read(fd, 0, bytes, sizeof bytes, &n);
        close(fd);
    }
    if (n != sizeof bytes) {
        return; /* too short for a page: there is nothing in it */
    }
    mm_layout_encode_header(good, &seg->header);
    memcpy(good + MM_LAYOUT_SEAL_OFFSET, bytes + MM_LAYOUT_SEAL_OFFSET, MM_LAYOUT_SEAL_LEN);
    if (memcmp(good, bytes, sizeof good) != 0) {
        int err = write_into(r, seg->name, good, sizeof good, 0);
        act(r, seg->name, err, "%s: written anew",
            seg->n_copies < 2 ? "one copy of the header was damaged"
                              : "unused bytes of the header were changed");
    }
}

/* Empty files are left to the owner, who makes and takes such. */
static bool mend_header(struct repair *r, const struct mm_inspect_segment *seg)
{
    if (seg->header_err == MM_ECORRUPT && seg->state == MM_INSPECT_DAMAGED) {
        set_aside(r, seg, "no copy of the header is good");
        return false;
    }
    if (seg->header_err == 0 && seg->state == MM_INSPECT_DAMAGED) {
        set_aside(r, seg, "a segment of another spool");
        return false;
    }
    if (seg->header_err != 0) {
        return false;
    }
    mend_page(r, seg);
    if (seg->seal_err == MM_ECORRUPT) {
        mend_seal(r, seg, "the seal was damaged");
    } else if (seg->seal_err == MM_EAGAIN && seg->size < seg->header.size) {
        if (seg->n_records == 0) {
            set_aside(r, seg, "the file was cut short, and no record is in it");
            return false;
        }
        mend_seal(r, seg, "the file was cut short");
    }
    return true;
}

/* --- records ------------------------------------------------------------------------------------
 */

struct looking
{
    struct repair *r;
    struct findings found;
};

static void note_numbers(struct findings *f, uint64_t first, uint64_t n)
{
    if (n > 0) {
        f->first_lost = f->first_lost == 0 || first < f->first_lost ? first : f->first_lost;
        f->last_lost = first + n - 1 > f->last_lost ? first + n - 1 : f->last_lost;
    }
}

static void on_damage(void *arg, const struct mm_inspect_damage *d)
{
    static const uint8_t zeros[MM_RECORD_ALIGN];
    struct looking *l = arg;
    switch (d->kind) {
        case MM_INSPECT_PADDING:
            act(l->r, d->file, write_into(l->r, d->file, zeros, (size_t)d->len, d->offset),
                "the padding of a record was changed, at %" PRIu64 ": set to zeros", d->offset);
            break;
        case MM_INSPECT_BYTES:
            note_numbers(&l->found, d->first_seq, d->n_missing);
            l->found.tail = d->n_missing == 0;
            l->found.n_damages++;
            break;
        case MM_INSPECT_UNREADABLE:
            if (d->offset == 0) { /* the file as a whole, and not a place of the disk */
                l->found.unopened = errno;
            }
            l->found.n_damages++;
            break;
        case MM_INSPECT_SEAL_WRONG:
            l->found.n_damages++;
            break;
        default:
            break; /* what is missing elsewhere is not to be mended here */
    }
}

/* Numbers that are lost between the last sound record of a segment and what comes behind it. */
static void note_tail(const struct mm_inspect *in, size_t i, uint64_t expected, struct findings *f)
{
    bool last = i + 1 == in->n_segments || !mm_inspect_has_records(&in->segments[i + 1]);
    const struct mm_inspect_segment *next = last ? NULL : &in->segments[i + 1];
    struct mm_inspect_gap gap =
        last ? mm_inspect_gap(expected, in->next_seq, in->next_seq)
             : mm_inspect_gap(expected, next->first_seq, next->header.run_seq);
    note_numbers(f, expected, gap.n_before);
}

/* Read one segment. */
static int look_at(struct repair *r, size_t i, struct findings *out)
{
    struct looking l = {.r = r};
    struct mm_inspect_reader_options opts = {.segment = i, .on_damage = on_damage, .arg = &l};
    struct mm_inspect_reader *rd;
    struct mm_inspect_place place;
    struct mm_record rec;
    int err = mm_inspect_reader_new(r->in, &opts, &rd);
    if (err != 0) {
        return err;
    }
    if (i > 0) {
        rd->expected = r->in->segments[i - 1].last_seq + 1;
    }
    while ((err = mm_inspect_next(rd, &rec, &place)) == 0) {
        l.found.n_good++;
    }
    if (l.found.tail) {
        note_tail(r->in, i, rd->expected, &l.found);
    }
    mm_inspect_reader_free(rd);
    *out = l.found;
    return err == MM_EAGAIN ? 0 : err;
}

/* A segment in which no record is: is there the beginning of one? */
static int look_at_spare(const struct repair *r,
                         const struct mm_inspect_segment *seg,
                         struct findings *out)
{
    struct stat st;
    struct mm_scan scan = {0};
    struct mm_record rec;
    uint64_t offset;
    uint64_t n_bytes = 0;
    size_t size;
    int fd = mm_inspect_open_file(r->in->fd, seg->name, &st);
    if (fd < 0) {
        return MM_EIO;
    }
    mm_scan_begin(&scan, fd, seg->header.salt, mm_inspect_area_end(seg));
    int err = mm_scan_next(&scan, &rec, &offset, &size);
    if (err == MM_EAGAIN) {
        err = mm_scan_tail(&scan, &n_bytes);
    }
    out->n_damages = n_bytes > 0;
    mm_scan_fini(&scan);
    close(fd);
    return err;
}

/* --- a copy without what is damaged -------------------------------------------------------------
 */

#define COPY_NAME "repair.tmp"

struct copy
{
    int fd;
    uint64_t salt;
    struct mm_layout_seal seal;
    uint8_t *bytes; /* one record */
    size_t cap;
};

static int copy_record(struct copy *c, const struct mm_record *rec, size_t size)
{
    if (size > c->cap) {
        uint8_t *grown = realloc(c->bytes, size);
        if (grown == NULL) {
            return MM_ENOMEM;
        }
        c->bytes = grown;
        c->cap = size;
    }
    mm_record_commit(c->bytes, mm_record_encode(c->bytes, c->salt, rec));
    int err = mm_file_write(c->fd, c->seal.end, c->bytes, size);
    if (err != 0) {
        return err;
    }
    if (c->seal.n_records++ == 0) {
        c->seal.first_seq = rec->seq;
        c->seal.first_ms = rec->time_ms;
    }
    c->seal.last_seq = rec->seq;
    c->seal.end += size;
    return 0;
}

static int copy_records(struct repair *r, size_t i, struct copy *c)
{
    struct mm_inspect_reader_options opts = {.segment = i};
    struct mm_inspect_reader *rd;
    struct mm_inspect_place place;
    struct mm_record rec;
    int err = mm_inspect_reader_new(r->in, &opts, &rd);
    while (err == 0) {
        err = mm_inspect_next(rd, &rec, &place);
        if (err == 0) {
            err = copy_record(c, &rec, (size_t)place.size);
        }
    }
    mm_inspect_reader_free(rd);
    return err == MM_EAGAIN ? 0 : err;
}

/* The seal takes note of what was lost: these numbers are not looked for any more. */
static void note_lost(struct mm_layout_seal *seal,
                      const struct mm_inspect_segment *seg,
                      const struct findings *f)
{
    uint64_t first = seg->seal_err == 0 ? seg->seal.first_seq : seal->first_seq;
    uint64_t last = seg->seal_err == 0 ? seg->seal.last_seq : seal->last_seq;
    first = f->first_lost != 0 && f->first_lost < first ? f->first_lost : first;
    last = f->last_lost > last ? f->last_lost : last;
    seal->first_seq = first < seal->first_seq ? first : seal->first_seq;
    seal->last_seq = last > seal->last_seq ? last : seal->last_seq;
}

static int fill_copy(struct repair *r,
                     size_t i,
                     const struct findings *f,
                     uint64_t file,
                     struct copy *c)
{
    const struct mm_inspect_segment *seg = &r->in->segments[i];
    uint8_t page[MM_LAYOUT_HEADER_LEN];
    int err = copy_records(r, i, c);
    if (err != 0) {
        return err;
    }
    if (c->seal.n_records != f->n_good) {
        /* It gave more when it was looked at, or less: the old file stays until it can be read. */
        errno = EIO;
        return MM_EIO;
    }
    struct mm_layout_header h = seg->header;
    h.file = file;
    h.salt = c->salt;
    h.size = mm_segment_round(c->seal.end);
    note_lost(&c->seal, seg, f);
    mm_layout_encode_header(page, &h);
    mm_layout_encode_seal(page + MM_LAYOUT_SEAL_OFFSET, c->salt, &c->seal);
    err = mm_file_write(c->fd, 0, page, sizeof page);
    if (err == 0 && (ftruncate(c->fd, (off_t)h.size) != 0 || fsync(c->fd) != 0)) {
        err = MM_EIO;
    }
    return err;
}

/* The copy gets its name before the old file goes: when the process ends in between, records are
 * there twice, and none is lost. */
static int make_copy(struct repair *r, size_t i, const struct findings *f, uint64_t file)
{
    char name[MM_DIR_NAME_LEN];
    int dir_fd = mm_dir_fd(r->dir);
    struct copy c = {.salt = mm_segment_salt(), .seal = {.end = MM_LAYOUT_HEADER_LEN}};
    mm_dir_segment_name(file, name);
    c.fd = openat(dir_fd, COPY_NAME, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (c.fd < 0) {
        return MM_EIO;
    }
    int err = fill_copy(r, i, f, file, &c);
    close(c.fd);
    free(c.bytes);
    if (err == 0 && (renameat(dir_fd, COPY_NAME, dir_fd, name) != 0 || mm_dir_sync(r->dir) != 0)) {
        err = MM_EIO;
    }
    if (err != 0) {
        int number = errno;
        (void)unlinkat(dir_fd, COPY_NAME, 0);
        errno = number;
    }
    return err;
}

static void rewrite(struct repair *r, size_t i, const struct findings *f, uint64_t file)
{
    const struct mm_inspect_segment *seg = &r->in->segments[i];
    if (f->n_good == 0) {
        set_aside(r, seg, "no record in it is good");
        return;
    }
    int err = r->dir == NULL ? 0 : make_copy(r, i, f, file);
    act(r, seg->name, err,
        "damaged records: the %" PRIu64 " good ones copied to %016" PRIx64 ".seg", f->n_good, file);
    if (err == 0) {
        set_aside(r, seg, "copied");
    }
}

/* --- STATE --------------------------------------------------------------------------------------
 */

/* Numbers that readers will find or miss. */
static uint64_t count_numbers(const struct mm_inspect *in)
{
    uint64_t n = 0;
    uint64_t expected = 0;
    for (size_t i = 0; i < in->n_segments && mm_inspect_has_records(&in->segments[i]); i++) {
        const struct mm_inspect_segment *seg = &in->segments[i];
        struct mm_inspect_gap gap = mm_inspect_gap(expected, seg->first_seq, seg->header.run_seq);
        n += gap.n_before + gap.n_behind + seg->last_seq - seg->first_seq + 1;
        expected = seg->last_seq + 1;
    }
    return n;
}

/* Write r->state, as the next generation. */
static int write_slot(struct repair *r)
{
    r->has_state = true;
    r->state.generation++;
    if (r->dir == NULL) {
        return 0;
    }
    int err = mm_dir_write_state(r->dir, &r->state, true);
    return err == 0 ? mm_dir_sync_state(r->dir) : err;
}

/* Not clean and of no known start of the system: then the next owner leaves room for numbers that
 * were given and are not known, so that none is given twice. */
static void make_unsure(struct mm_layout_state *state)
{
    state->clean = false;
    memset(state->boot, 0, sizeof state->boot);
}

static void rebuild_state(struct repair *r)
{
    const struct mm_inspect_info *info = &r->in->info;
    r->state = (struct mm_layout_state){.next_seq = info->last_seq + 1,
                                        .n_pending = count_numbers(r->in),
                                        .n_ranges = 1,
                                        .ranges = {{.hash = 0, .low = info->first_seq}}};
    (void)mm_layout_parse_uuid(info->uuid, r->state.uuid);
    make_unsure(&r->state);
    int err = write_slot(r);
    err = err == 0 ? write_slot(r) : err; /* both */
    act(r, "STATE", err,
        "no slot was good: written anew; all %" PRIu64 " records will be delivered again",
        info->n_records);
}

static void mend_state(struct repair *r)
{
    const struct mm_inspect_info *info = &r->in->info;
    bool damaged = info->slot_err[0] == MM_ECORRUPT || info->slot_err[1] == MM_ECORRUPT;
    r->has_state = info->slot >= 0;
    r->state = info->state;
    if (info->slot < 0 && info->n_records > 0) {
        rebuild_state(r);
        return;
    }
    if (info->slot < 0 && damaged) {
        static const uint8_t zeros[2 * MM_LAYOUT_STATE_LEN];
        act(r, "STATE", write_into(r, "STATE", zeros, sizeof zeros, 0),
            "no slot was good, and there are no records: set to zeros");
        return;
    }
    bool empty = info->slot >= 0 && info->state.generation > 2 &&
                 info->slot_err[1 - info->slot] == MM_EAGAIN;
    if (info->slot >= 0 && (damaged || empty)) {
        act(r, "STATE", write_slot(r), "one slot was damaged: written anew"); /* the other one */
    }
}

/* Without STATE its next owner is unsure anyway. */
static void note_lost_numbers(struct repair *r)
{
    if (!r->lost_numbers || !r->has_state) {
        return;
    }
    make_unsure(&r->state);
    int err = write_slot(r);
    if (err != 0) {
        act(r, "STATE", err, "what was moved to bad/ could not be noted");
    }
}

/* --- all of it ----------------------------------------------------------------------------------
 */

static int check_versions(const struct repair *r, char *errstr, size_t errstr_len)
{
    const struct mm_inspect_info *info = &r->in->info;
    bool newer = info->slot_err[0] == MM_EVERSION || info->slot_err[1] == MM_EVERSION;
    for (size_t i = 0; i < r->in->n_segments; i++) {
        newer = newer || r->in->segments[i].header_err == MM_EVERSION;
    }
    if (newer) {
        snprintf(errstr, errstr_len, "\"%s\": %s: a tool of that version is needed", r->in->dir,
                 mm_strerror(MM_EVERSION));
    }
    return newer ? MM_EVERSION : 0;
}

static uint64_t next_file(const struct mm_inspect *in)
{
    uint64_t next = 1;
    for (size_t i = 0; i < in->n_segments; i++) {
        uint64_t file = file_number(&in->segments[i]);
        next = file >= next ? file + 1 : next;
    }
    return next;
}

static int mend(struct repair *r)
{
    uint64_t file = next_file(r->in);
    mend_state(r);
    for (size_t i = 0; i < r->in->n_segments; i++) {
        const struct mm_inspect_segment *seg = &r->in->segments[i];
        struct findings found = {0};
        if (!mend_header(r, seg)) {
            continue;
        }
        int err =
            mm_inspect_has_records(seg) ? look_at(r, i, &found) : look_at_spare(r, seg, &found);
        if (err != 0) {
            return err;
        }
        if (found.unopened != 0) {
            errno = found.unopened;
            act(r, seg->name, MM_EIO, "the file cannot be opened: left as it is");
        } else if (found.n_damages > 0 && r->opts->rewrite) {
            rewrite(r, i, &found, file++);
        }
    }
    note_lost_numbers(r);
    return 0;
}

static int open_both(struct repair *r, const char *path, char *errstr, size_t errstr_len)
{
    /* A look first: a lock would make a directory and files where there are none. */
    int err = mm_inspect_open(path, &r->in, errstr, errstr_len);
    if (err != 0 || r->opts->dry_run) {
        return err;
    }
    mm_inspect_close(r->in);
    r->in = NULL;
    err = mm_dir_open(path, &r->dir, errstr, errstr_len);
    if (err == 0) {
        struct mm_layout_state newest;
        (void)mm_dir_read_state(r->dir, &newest); /* so that another slot than this is written */
    }
    return err == 0 ? mm_inspect_open(path, &r->in, errstr, errstr_len) : err;
}

int mm_repair(const char *dir,
              const struct mm_repair_options *opts,
              struct mm_repair_result *out,
              char *errstr,
              size_t errstr_len)
{
    struct repair r = {.opts = opts, .out = out};
    memset(out, 0, sizeof *out);
    int err = open_both(&r, dir, errstr, errstr_len);
    if (err == 0) {
        err = check_versions(&r, errstr, errstr_len);
    }
    if (err == 0) {
        err = mend(&r);
        if (err != 0) {
            snprintf(errstr, errstr_len, "\"%s\": %s", dir, mm_strerror(err));
        }
    }
    if (r.dir != NULL && mm_dir_sync(r.dir) != 0 && err == 0) {
        snprintf(errstr, errstr_len, "\"%s\": could not be synced", dir);
        err = MM_EIO;
    }
    mm_inspect_close(r.in);
    mm_dir_close(r.dir);
    return err;
}
