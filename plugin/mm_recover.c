/* What an earlier process left in the directory.
 *
 * Of the segments only the headers and seals are read, so that a long backlog costs no time. A
 * segment without a seal, the last one of a process that was killed, is read through to its end:
 * neither a damaged record nor a place that was never written ends it. Nothing is ever appended to
 * a segment of an earlier process. */
#include "mm_error.h"
#include "mm_file.h"
#include "mm_log.h"
#include "mm_spool_impl.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Numbers do not come here, jumps included. */
#define SEQ_LIMIT (UINT64_C(1) << 63)

/* For how long one place is tried before the start is given up: longer than the reader takes to
 * pass a place that the disk does not give. */
#define SCAN_PAUSE_US 100000
#define SCAN_TRIES 300
#define FIRST_PAGE_TRIES 20

struct recovery
{
    struct mm_spool *s;
    bool has_state;
    bool state_damaged;
    bool has_uuid;
    struct mm_layout_state state;
    uint64_t low;     /* the smallest low of STATE: what lies below is finished */
    uint64_t run_seq; /* the highest in a header, of those that are not set aside */
    bool blind;       /* there may be records that could not be looked at */
    int state_sync;   /* is STATE on the disk? 1: yes; 0: not known yet; -1: it cannot be synced */
    struct mm_segment **segments;
    size_t n_segments;
    uint64_t *unreadable; /* files whose first page the disk does not give */
    size_t n_unreadable;
    bool readable; /* ... but it gave that of another one */
    char *errstr;
    size_t errstr_len;
};

static int fail(const struct recovery *r, int err, const char *what)
{
    char reason[64];
    snprintf(r->errstr, r->errstr_len, "spool_dir \"%s\": %s: %s", mm_dir_path(r->s->dir), what,
             err == MM_EIO ? strerror_r(errno, reason, sizeof reason) : mm_strerror(err));
    return err;
}

/* --- STATE --------------------------------------------------------------------------------------
 */

static int read_state(struct recovery *r)
{
    struct mm_spool *s = r->s;
    int err = mm_dir_read_state(s->dir, &r->state);
    if (err == MM_EVERSION) {
        char what[64];
        snprintf(what, sizeof what, "STATE is of format version %u", r->state.version);
        return fail(r, err, what);
    }
    if (err == MM_EIO) {
        return fail(r, err, "STATE cannot be read");
    }
    if (err == MM_ECORRUPT) {
        mm_log_write(s->log, MM_LOG_ERROR,
                     "spool_dir \"%s\": STATE is damaged: all messages that are in the segments "
                     "are delivered again",
                     mm_dir_path(s->dir));
    }
    r->has_state = err == 0;
    r->state_damaged = err == MM_ECORRUPT;
    if (!r->has_state) {
        return 0;
    }
    r->has_uuid = true;
    memcpy(s->uuid, r->state.uuid, sizeof s->uuid);
    s->state.generation = r->state.generation;
    s->n_old = r->state.n_ranges;
    memcpy(s->old, r->state.ranges, r->state.n_ranges * sizeof s->old[0]);
    r->low = UINT64_MAX;
    for (uint32_t i = 0; i < s->n_old; i++) {
        r->low = s->old[i].low < r->low ? s->old[i].low : r->low;
        s->old_max = s->old[i].low > s->old_max ? s->old[i].low : s->old_max;
    }
    return 0;
}

/* --- segments -----------------------------------------------------------------------------------
 */

/* The next record of a segment. What cannot be read now is tried for some seconds and then given
 * up, place by place. */
static int find_patiently(struct mm_spool_reader *rd,
                          const struct mm_segment *seg,
                          uint32_t *offset,
                          struct mm_record *rec,
                          size_t *size)
{
    uint32_t end = atomic_load_explicit(&seg->end, memory_order_relaxed);
    uint32_t place = *offset;
    uint32_t n_tries = 0;
    int err;
    while ((err = mm_spool_find(rd, seg, end, offset, rec, size)) == MM_EIO &&
           n_tries++ < SCAN_TRIES) {
        n_tries = *offset == place ? n_tries : 0;
        place = *offset;
        usleep(SCAN_PAUSE_US);
    }
    return err;
}

/* Read a segment of which nothing but the header is known. *whole: no place of it was given up. */
static int scan(struct mm_spool *s,
                struct mm_segment *seg,
                struct mm_layout_seal *seal,
                bool *whole)
{
    struct mm_spool_reader *rd = &s->readers[0];
    rd->spool = s;
    uint32_t offset = seg->start;
    struct mm_record rec;
    size_t size;
    int err;
    memset(seal, 0, sizeof *seal);
    mm_spool_forget(rd);
    while ((err = find_patiently(rd, seg, &offset, &rec, &size)) == 0) {
        if (seal->n_records++ == 0) {
            seal->first_seq = rec.seq;
            seal->first_ms = rec.time_ms;
        }
        seal->last_seq = rec.seq > seal->last_seq ? rec.seq : seal->last_seq;
        offset += (uint32_t)size;
        seal->end = offset;
    }
    *whole = rd->bad_number != seg->number;
    mm_spool_forget(rd);
    return err == MM_EAGAIN ? 0 : err;
}

/* Has this file no byte but zeros in len bytes from offset `at` on, or up to its end? */
static bool is_blank(const struct mm_spool *s, uint64_t file, uint32_t at, uint64_t len)
{
    static const uint8_t zeros[MM_LAYOUT_HEADER_LEN];
    uint8_t page[MM_LAYOUT_HEADER_LEN];
    int fd = mm_segment_open(s->dir, file, false);
    if (fd < 0) {
        return false;
    }
    bool blank = true;
    while (blank && len > 0) {
        size_t n = len < sizeof page ? (size_t)len : sizeof page;
        size_t got;
        blank = mm_file_read(fd, at, page, n, &got) == 0 && memcmp(page, zeros, got) == 0;
        at += (uint32_t)n;
        len = got < n ? 0 : len - n;
    }
    close(fd);
    return blank;
}

/* A segment without a sound record: were there any? A process that was killed in its first append
 * leaves no length yet or, where it wrote by pwrite(2), a part of one record and nothing behind. */
static bool had_records(const struct mm_spool *s, const struct mm_segment *seg)
{
    uint32_t len = 0;
    size_t got = 0;
    int fd = mm_segment_open(s->dir, seg->file, false);
    if (fd < 0 || mm_file_read(fd, seg->start, &len, sizeof len, &got) != 0) {
        len = UINT32_MAX; /* who knows */
        got = sizeof len;
    }
    if (fd >= 0) {
        close(fd);
    }
    len = got < sizeof len ? 0 : le32toh(len);
    if (len > seg->size - seg->start || (len != 0 && len < MM_RECORD_HEADER_LEN)) {
        return true;
    }
    return len != 0 && !is_blank(s, seg->file, seg->start + len, UINT32_MAX);
}

/* Seal what was read through. */
static void close_segment(struct mm_spool *s,
                          struct mm_segment *seg,
                          const struct mm_layout_seal *seal)
{
    seg->fd = mm_segment_open(s->dir, seg->file, true);
    if (seg->fd < 0 || mm_segment_seal(seg, seal) != 0) {
        mm_log_write(s->log, MM_LOG_WARN,
                     "spool_dir \"%s\": segment %016" PRIx64 " could not be sealed",
                     mm_dir_path(s->dir), seg->file);
    } else if (is_blank(s, seg->file, (uint32_t)seal->end, UINT32_MAX)) {
        mm_segment_trim(seg, (uint32_t)seal->end); /* what is damaged stays, to be looked at */
    }
    mm_segment_close(seg);
}

/* The seal of a segment, or what a look at its records gives. */
static int find_seal(struct recovery *r,
                     struct mm_segment *seg,
                     const uint8_t *header,
                     struct mm_layout_seal *seal,
                     bool *whole)
{
    struct mm_spool *s = r->s;
    *whole = true;
    if (mm_layout_decode_seal(header + MM_LAYOUT_SEAL_OFFSET, seg->salt, seal) == 0 &&
        seal->end >= seg->start && seal->end <= seg->size && seal->first_seq <= seal->last_seq) {
        return 0;
    }
    int err = scan(s, seg, seal, whole);
    if (err == 0 && !*whole) {
        /* It stays as it is: what the disk does not give now is looked for again when it is read,
         * and is not to be taken for empty. */
        r->blind = true;
        seal->end = atomic_load_explicit(&seg->end, memory_order_relaxed);
        mm_log_write(s->log, MM_LOG_ERROR,
                     "spool_dir \"%s\": segment %016" PRIx64 " cannot be read everywhere",
                     mm_dir_path(s->dir), seg->file);
    } else if (err == 0 && seal->n_records > 0) {
        close_segment(s, seg, seal);
    }
    return err;
}

static void set_aside(struct recovery *r, uint64_t file, const char *why)
{
    struct mm_spool *s = r->s;
    r->blind = true;
    bool moved = mm_dir_set_aside(s->dir, file) == 0;
    s->found.n_bad_files++;
    mm_log_write(s->log, MM_LOG_ERROR, "spool_dir \"%s\": segment %016" PRIx64 " %s; it %s bad/",
                 mm_dir_path(s->dir), file, why, moved ? "was moved to" : "could not be moved to");
}

/* The first page of a segment file. */
struct first_page
{
    uint8_t bytes[MM_LAYOUT_HEADER_LEN];
    size_t len;         /* how many of them the file has */
    uint64_t file_size; /* bytes */
};

/* Errors: as read_first_page(), of one look. */
static int try_first_page(struct mm_spool *s, uint64_t file, struct first_page *page)
{
    struct stat st;
    int fd = mm_segment_open(s->dir, file, false);
    if (fd < 0) {
        /* A symbolic link; a socket, or a device without a driver. */
        bool foreign = errno == ELOOP || errno == ENXIO || errno == ENODEV;
        return fd == MM_EAGAIN || foreign ? MM_EAGAIN : errno == EIO ? MM_EIO : MM_ENOMEM;
    }
    memset(page, 0, sizeof *page);
    int err = fstat(fd, &st) == 0 ? 0 : MM_EIO;
    if (err == 0 && !S_ISREG(st.st_mode)) {
        err = MM_EAGAIN;
    }
    if (err == 0) {
        page->file_size = (uint64_t)st.st_size;
        err = mm_file_read(fd, 0, page->bytes, sizeof page->bytes, &page->len);
    }
    close(fd);
    return err;
}

/* Errors: MM_EAGAIN, there is no such file, or it is no file; MM_EIO, the disk does not give it,
 * also not after some seconds; MM_ENOMEM, it could not be opened, for a reason that is not its own.
 */
static int read_first_page(struct mm_spool *s, uint64_t file, struct first_page *page)
{
    int err;
    for (int n = 0; (err = try_first_page(s, file, page)) == MM_EIO && n < FIRST_PAGE_TRIES; n++) {
        usleep(SCAN_PAUSE_US);
    }
    return err;
}

/* Is this header one of ours, of a size that can be? */
static const char *judge_header(const struct recovery *r, const struct mm_layout_header *h)
{
    const struct mm_spool *s = r->s;
    if (memcmp(h->uuid, s->uuid, sizeof s->uuid) != 0) {
        return "belongs to another spool";
    }
    if (h->size < MM_LAYOUT_HEADER_LEN || h->size > UINT32_MAX) {
        return "has an impossible size in its header";
    }
    if (h->run_seq >= SEQ_LIMIT) {
        return "has an impossible number in its header";
    }
    return NULL;
}

/* Is the STATE that was read on the disk? What it says to be finished is deleted only then: a power
 * failure could bring an older one back, for which that would be missing. */
static bool state_is_safe(struct recovery *r)
{
    if (r->state_sync == 0) {
        bool safe = r->s->sync == MM_SPOOL_SYNC_NEVER || mm_dir_sync_state(r->s->dir) == 0;
        r->state_sync = safe ? 1 : -1;
    }
    return r->state_sync > 0;
}

/* A file without a first page: something else that has a segment's name, or damage. */
static int skip_file(struct recovery *r, uint64_t file, int err)
{
    if (err == MM_EAGAIN) {
        set_aside(r, file, "is not a file");
    } else {
        r->unreadable[r->n_unreadable++] = file;
    }
    return 0;
}

/* What the disk does not give is set aside, so that the rest can go on. But where it gives nothing
 * at all, it is the disk that is to be mended, and all is left as it is. */
static int set_unreadable_aside(struct recovery *r)
{
    if (r->n_unreadable > 0 && !r->readable) {
        errno = EIO;
        return fail(r, MM_EIO, "no segment can be read");
    }
    for (size_t i = 0; i < r->n_unreadable; i++) {
        set_aside(r, r->unreadable[i], "cannot be read");
    }
    return 0;
}

/* Look at the header of one file. *ours: there is more to look at; else the file is dealt with. */
static int take_header(struct recovery *r,
                       uint64_t file,
                       struct first_page *page,
                       struct mm_layout_header *h,
                       bool *ours)
{
    uint32_t n_copies;
    *ours = false;
    int err = read_first_page(r->s, file, page);
    if (err == MM_ENOMEM) {
        return fail(r, MM_EIO, "a segment cannot be opened");
    }
    if (err != 0) {
        return skip_file(r, file, err);
    }
    r->readable = true;
    err = mm_layout_decode_header(page->bytes, page->len, h, &n_copies);
    if (err == MM_EVERSION) {
        char what[96];
        snprintf(what, sizeof what, "segment %016" PRIx64 " is of format version %u", file,
                 h->version);
        return fail(r, err, what);
    }
    const char *why = err != 0 ? "has no readable header" : judge_header(r, h);
    if (err != 0 && page->file_size <= UINT32_MAX && is_blank(r->s, file, 0, UINT32_MAX)) {
        /* Its process was killed while it made it. What is larger than that is none of ours. */
        (void)mm_segment_unlink(r->s->dir, file);
    } else if (why != NULL) {
        set_aside(r, file, why);
    } else {
        *ours = true;
    }
    return 0;
}

/* Where the records of a segment can end. */
static uint32_t area_end(const struct mm_segment *seg, uint64_t file_size, uint64_t size)
{
    uint32_t end = (uint32_t)(file_size < size ? file_size : size);
    /* Up: of a record at the end of a file that was cut, the padding need not be there. */
    end = (end + MM_RECORD_ALIGN - 1) / MM_RECORD_ALIGN * MM_RECORD_ALIGN;
    return end < seg->start ? seg->start : end;
}

/* What is wrong with the records of a segment, if anything is. */
static const char *judge_records(const struct recovery *r,
                                 const struct mm_segment *seg,
                                 const struct mm_layout_header *h,
                                 const struct mm_layout_seal *seal,
                                 bool whole)
{
    if (seal->n_records == 0) {
        return !whole || had_records(r->s, seg) ? "has no readable record" : NULL;
    }
    return seal->first_seq < h->run_seq || seal->last_seq >= SEQ_LIMIT ? "has impossible numbers"
                                                                       : NULL;
}

/* Put a segment into the list. */
static void keep(struct recovery *r, struct mm_segment *seg, const struct mm_layout_seal *seal)
{
    seg->first_seq = seal->first_seq;
    seg->max_seq = seal->last_seq;
    seg->first_ms = seal->first_ms;
    seg->sealed = seg->settled = true;
    seg->size = mm_segment_round(seal->end); /* what counts against the limit */
    atomic_init(&seg->end, (uint32_t)seal->end);
    r->segments[r->n_segments++] = seg;
}

/* Look at one file: keep it in the list, or delete it, or set it aside. */
static int take_file(struct recovery *r, uint64_t file)
{
    struct first_page page;
    struct mm_layout_header h;
    bool ours;
    int err = take_header(r, file, &page, &h, &ours);
    if (err != 0 || !ours) {
        return err;
    }
    struct mm_segment *seg;
    err = mm_segment_describe(&h, file, &seg);
    if (err != 0) {
        return fail(r, err, "segment");
    }
    seg->number = file + 1; /* for the time being, so that the reader can tell them apart */
    atomic_init(&seg->end, area_end(seg, page.file_size, h.size));
    struct mm_layout_seal seal;
    bool whole;
    err = find_seal(r, seg, page.bytes, &seal, &whole);
    if (err != 0) {
        mm_segment_free(seg);
        return fail(r, err, "a segment cannot be read");
    }
    const char *why = judge_records(r, seg, &h, &seal, whole);
    if (why != NULL) {
        set_aside(r, file, why);
        mm_segment_free(seg);
        return 0;
    }
    r->run_seq = h.run_seq > r->run_seq ? h.run_seq : r->run_seq;
    if (seal.n_records == 0 ||
        (whole && r->has_state && seal.last_seq < r->low && state_is_safe(r))) {
        /* Nothing was ever written, or all is finished. */
        (void)mm_segment_unlink(r->s->dir, file);
        mm_segment_free(seg);
        return 0;
    }
    keep(r, seg, &seal);
    return 0;
}

static int compare_segments(const void *a, const void *b)
{
    const struct mm_segment *const *x = a;
    const struct mm_segment *const *y = b;
    if ((*x)->first_seq != (*y)->first_seq) {
        return (*x)->first_seq < (*y)->first_seq ? -1 : 1;
    }
    return ((*x)->file > (*y)->file) - ((*x)->file < (*y)->file);
}

/* STATE is lost: the id is the one that most segments have, since a few may be strangers. */
static void choose_uuid(struct recovery *r, const uint64_t *files, size_t n_files)
{
    uint8_t(*uuids)[sizeof r->s->uuid] = calloc(n_files + 1, sizeof *uuids);
    size_t n = 0;
    for (size_t i = 0; uuids != NULL && i < n_files; i++) {
        struct first_page page;
        struct mm_layout_header h;
        uint32_t n_copies;
        if (read_first_page(r->s, files[i], &page) == 0 &&
            mm_layout_decode_header(page.bytes, page.len, &h, &n_copies) == 0) {
            memcpy(uuids[n++], h.uuid, sizeof h.uuid);
        }
    }
    if (n > 0) {
        r->has_uuid = true;
        mm_layout_most_frequent_uuid(uuids, n, r->s->uuid);
    }
    free(uuids);
}

static int read_segments(struct recovery *r)
{
    struct mm_spool *s = r->s;
    uint64_t *files;
    size_t n_files;
    int err = mm_dir_list(s->dir, &files, &n_files);
    if (err != 0) {
        return fail(r, err, "the directory cannot be read");
    }
    r->segments = calloc(n_files + 1, sizeof(void *));
    r->unreadable = calloc(n_files + 1, sizeof *r->unreadable);
    if (r->segments == NULL || r->unreadable == NULL) {
        free(files);
        return fail(r, MM_ENOMEM, "the list of segments");
    }
    if (!r->has_uuid) {
        choose_uuid(r, files, n_files);
    }
    for (size_t i = 0; i < n_files && err == 0; i++) {
        err = take_file(r, files[i]);
    }
    err = err == 0 ? set_unreadable_aside(r) : err;
    if (err == 0 && n_files > 0) {
        atomic_init(&s->next_file, files[n_files - 1] + 1);
    }
    free(files);
    qsort(r->segments, r->n_segments, sizeof(void *), compare_segments);
    return err;
}

/* --- what it adds up to -------------------------------------------------------------------------
 */

/* Numbers from `from` up to `to`, behind all runs, without what power failures made them jump by:
 * records that are in the segments, or are missing there. */
static uint64_t count_between(const struct recovery *r, uint64_t from, uint64_t to)
{
    uint64_t n = 0;
    for (size_t i = 0; i < r->n_segments; i++) {
        uint64_t run_seq = r->segments[i]->run_seq;
        if (run_seq > from) {
            n += (run_seq - from) & (MM_SPOOL_SEQ_JUMP - 1);
            from = run_seq;
        }
    }
    return to > from ? n + (to - from) : n;
}

/* Where the numbers go on. */
static void choose_run(struct recovery *r)
{
    struct mm_spool *s = r->s;
    uint64_t next = r->has_state ? r->state.next_seq : 1;
    next = r->run_seq > next ? r->run_seq : next;
    for (size_t i = 0; i < r->n_segments; i++) {
        next = r->segments[i]->max_seq >= next ? r->segments[i]->max_seq + 1 : next;
    }
    static const uint8_t unknown[sizeof s->boot];
    bool same_boot = r->has_state && memcmp(r->state.boot, s->boot, sizeof s->boot) == 0 &&
                     memcmp(s->boot, unknown, sizeof unknown) != 0;
    bool clean = r->has_state && r->state.clean;
    if (r->blind || (r->has_uuid && !clean && !same_boot)) {
        /* Records that were received last may be gone with the power, and delivered all the same,
         * or be where nobody can look now: their numbers must not be given again. */
        next += MM_SPOOL_SEQ_JUMP;
    }
    s->run_seq = next;
}

static void add_up(struct recovery *r)
{
    struct mm_spool *s = r->s;
    struct mm_spool_found *found = &s->found;
    found->n_segments = r->n_segments;
    found->clean = r->has_state && r->state.clean;
    found->has_counters = r->has_state;
    found->state_lost = !r->has_state && (r->n_segments > 0 || r->state_damaged);
    for (size_t i = 0; i < r->n_segments; i++) {
        const struct mm_segment *seg = r->segments[i];
        s->found_bytes += atomic_load_explicit(&seg->end, memory_order_relaxed) - seg->start;
        found->n_bytes += seg->size;
    }
    uint64_t next = r->has_state ? r->state.next_seq : 1;
    uint64_t end = r->n_segments > 0 ? r->segments[r->n_segments - 1]->max_seq + 1 : 0;
    if (!r->has_state) {
        found->n_records = end == 0 ? 0 : count_between(r, r->segments[0]->first_seq, end);
        return;
    }
    memcpy(found->counters, r->state.counters, sizeof found->counters);
    found->n_records = r->state.n_pending + count_between(r, next, end);
    found->n_repeat = r->state.n_repeat;
    s->old_next = next;
    s->n_zone = r->state.n_pending;
}

static void link_segments(struct recovery *r)
{
    struct mm_spool *s = r->s;
    for (size_t i = 0; i < r->n_segments; i++) {
        struct mm_segment *seg = r->segments[i];
        atomic_fetch_add_explicit(&s->budget->allocated, seg->size, memory_order_relaxed);
        atomic_fetch_add_explicit(&s->allocated, seg->size, memory_order_relaxed);
        mm_spool_link(s, seg);
        s->first = s->first == NULL ? seg : s->first;
    }
}

int mm_recover(struct mm_spool *s, char *errstr, size_t errstr_len)
{
    struct recovery r = {.s = s, .errstr = errstr, .errstr_len = errstr_len};
    int err = read_state(&r);
    if (err == 0) {
        err = read_segments(&r);
    }
    if (err == 0) {
        choose_run(&r);
        add_up(&r);
        link_segments(&r);
        atomic_init(&s->repeats_left, s->found.n_repeat);
    } else {
        for (size_t i = 0; i < r.n_segments; i++) {
            mm_segment_free(r.segments[i]);
        }
    }
    free(r.segments);
    free(r.unreadable);
    return err;
}
