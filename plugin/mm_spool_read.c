/* The readers: the bytes of a segment, through its mapping or from its file, and the records in
 * them. */
#include "mm_error.h"
#include "mm_file.h"
#include "mm_spool_impl.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A file is read in pieces of this size; after an error in single pages. */
#define READ_BYTES (256U * 1024)
#define PAGE_BYTES 4096U
#define READ_TRIES 10
#define READ_PAUSE_NS (UINT64_C(1000000000))

/* --- bytes of a segment (workers) ---------------------------------------------------------------
 *
 * A mapping may go while a reader is in it. The reader sets its hazard to the segment's number and
 * then loads base; the keeper takes base away and then looks at the hazards. Both sequentially
 * consistent, so one of the two sees the other: either the reader finds no base and reads the file,
 * or the keeper finds the hazard and leaves the mapping for later. */

/* The mapping of a segment; NULL: there is none. */
static const uint8_t *hot_base(struct mm_spool_reader *rd, const struct mm_segment *seg)
{
    if (rd->hot_number == seg->number) {
        return rd->hot_base;
    }
    if (rd->cold_number == seg->number) {
        return NULL;
    }
    atomic_store(&rd->hazard, seg->number);
    const uint8_t *base = atomic_load(&seg->base);
    if (base == NULL) {
        atomic_store(&rd->hazard, 0);
        rd->hot_number = 0;
        rd->cold_number = seg->number;
        return NULL;
    }
    rd->hot_number = seg->number;
    rd->hot_base = base;
    return base;
}

static void close_file(struct mm_spool_reader *rd)
{
    if (rd->fd_number != 0) {
        close(rd->fd);
        rd->fd_number = 0;
    }
}

void mm_spool_forget(struct mm_spool_reader *rd)
{
    close_file(rd);
    rd->buffer_number = 0;
    rd->hot_number = 0;
    rd->cold_number = 0;
    rd->bad_number = 0;
    rd->fail_number = 0;
    rd->fail_end = 0;
    rd->n_tries = 0;
    rd->try_ns = 0;
    atomic_store(&rd->hazard, 0);
}

static int open_file(struct mm_spool_reader *rd, const struct mm_segment *seg)
{
    if (rd->fd_number == seg->number) {
        return 0;
    }
    close_file(rd);
    int fd = mm_segment_open(rd->spool->dir, seg->file, false);
    if (fd < 0) {
        return fd;
    }
    rd->fd = fd;
    rd->fd_number = seg->number;
    return 0;
}

/* Room in the buffer for n bytes. */
static bool grow_buffer(struct mm_spool_reader *rd, size_t n)
{
    if (n <= rd->buffer_cap) {
        return true;
    }
    uint8_t *grown = realloc(rd->buffer, n);
    if (grown == NULL) {
        return false;
    }
    rd->buffer = grown;
    rd->buffer_cap = n;
    return true;
}

/* Is it the process that lacks something, and not the disk? That says nothing of the records: they
 * are waited for, however long it takes. */
static bool is_lack(int number)
{
    return number == EMFILE || number == ENFILE || number == ENOMEM || number == EACCES ||
           number == EPERM;
}

static void note_failure(struct mm_spool_reader *rd, const struct mm_segment *seg, uint64_t end)
{
    bool lack = is_lack(errno);
    mm_keeper_tell(
        rd->spool, &rd->spool->read_limit, "a segment could not be read",
        lack ? "it is tried again" : "it is tried again, and given up after some seconds");
    /* The first time at once again, with as little as possible. */
    rd->try_ns = mm_spool_now_ns() + (rd->n_tries == 0 && !lack ? 0 : READ_PAUSE_NS);
    rd->n_tries += !lack;
    rd->fail_number = seg->number;
    rd->fail_end = end;
}

/* Fill the buffer with what lies at offset: at least need bytes, up to left. */
static int load(struct mm_spool_reader *rd,
                const struct mm_segment *seg,
                uint32_t offset,
                size_t need,
                size_t left)
{
    if (rd->try_ns != 0 && mm_spool_now_ns() < rd->try_ns) {
        return MM_EIO;
    }
    size_t n = rd->n_tries > 0 ? PAGE_BYTES - offset % PAGE_BYTES : READ_BYTES;
    n = n < need ? need : n;
    n = n > left ? left : n;
    rd->buffer_number = 0;
    size_t got = 0;
    int err = grow_buffer(rd, n) ? open_file(rd, seg) : MM_EIO;
    if (err == 0) {
        err = mm_file_read(rd->fd, offset, rd->buffer, n, &got);
    }
    if (err == MM_EIO) {
        note_failure(rd, seg, offset + (uint64_t)need);
        return err;
    }
    /* A file that is gone, or shorter than it was: as if it had been overwritten with zeros. */
    memset(rd->buffer + got, 0, n - got);
    if (seg->number > rd->fail_number ||
        (seg->number == rd->fail_number && offset + (uint64_t)n >= rd->fail_end)) {
        /* Not for a record's first page, when it is the second that fails. */
        rd->n_tries = 0;
        rd->try_ns = 0;
    }
    rd->buffer_number = seg->number;
    rd->buffer_from = offset;
    rd->buffer_len = (uint32_t)n;
    return 0;
}

/* Is a mapped segment read from its file all the same? Where its pages have left the mapping an
 * error of the disk is one of a call there, and no SIGBUS. What could not be synced is in memory
 * only; and what somebody deleted has no file. */
static bool is_forgotten(struct mm_spool_reader *rd, const struct mm_segment *seg, uint32_t offset)
{
    return offset < atomic_load_explicit(&seg->forgotten, memory_order_relaxed) &&
           !atomic_load_explicit(&seg->failed, memory_order_relaxed) && open_file(rd, seg) == 0;
}

/* The bytes of a segment from offset on: need of them, or all up to end if those are fewer. *data
 * is 8-byte aligned if offset is. */
static int view(struct mm_spool_reader *rd,
                const struct mm_segment *seg,
                uint32_t end,
                uint32_t offset,
                size_t need,
                const uint8_t **data,
                size_t *len)
{
    size_t left = end - offset;
    need = need < left ? need : left;
    const uint8_t *base = hot_base(rd, seg);
    if (base != NULL && !is_forgotten(rd, seg, offset)) {
        *data = base + offset;
        *len = left;
        return 0;
    }
    if (rd->buffer_number != seg->number || offset < rd->buffer_from ||
        offset - rd->buffer_from + need > rd->buffer_len) {
        int err = load(rd, seg, offset, need, left);
        if (err != 0) {
            return err;
        }
    }
    *data = rd->buffer + (offset - rd->buffer_from);
    *len = rd->buffer_len - (offset - rd->buffer_from);
    return 0;
}

/* The disk cannot be read at *offset. For how long is that to be waited for? Not for ever: what
 * lies behind is worth more. */
static int give_up(struct mm_spool_reader *rd,
                   const struct mm_segment *seg,
                   uint32_t end,
                   uint32_t *offset)
{
    if (rd->n_tries <= (rd->bad_number == seg->number ? 1 : READ_TRIES)) {
        return MM_EIO;
    }
    rd->bad_number = seg->number; /* the pages behind are tried one by one, and once each */
    rd->n_tries = 1;
    rd->try_ns = 0;
    uint32_t next = (*offset / PAGE_BYTES + 1) * PAGE_BYTES;
    *offset = next < end ? next : end;
    return 0;
}

int mm_spool_find(struct mm_spool_reader *rd,
                  const struct mm_segment *seg,
                  uint32_t end,
                  uint32_t *offset,
                  struct mm_record *out,
                  size_t *size)
{
    size_t need = MM_RECORD_HEADER_LEN;
    while (*offset < end) {
        const uint8_t *data;
        size_t len;
        int err = view(rd, seg, end, *offset, need, &data, &len);
        if (err != 0) {
            err = give_up(rd, seg, end, offset);
            if (err != 0) {
                return err;
            }
            need = MM_RECORD_HEADER_LEN; /* another place, of which nothing is known */
            continue;
        }
        size_t at = 0;
        err = mm_record_find(data, len, end - *offset, seg->salt, &at, out, size);
        *offset += (uint32_t)at;
        if (err == 0) {
            return 0;
        }
        need = err == MM_EPARTIAL ? *size : MM_RECORD_HEADER_LEN;
    }
    return MM_EAGAIN;
}

/* --- read (workers) -----------------------------------------------------------------------------
 */

/* n numbers from `from` on are missing, in front of seq. The first reader counts them, for all.
 *
 * Below old_max some of them are of records that an earlier process finished: nobody knows which.
 * Below old_next it is known how many records there were, so that mm_spool_lost() has the exact
 * figure when all are read; what is counted here is what is known until then. */
static void add_gap(struct mm_spool_reader *rd, uint64_t from, uint64_t n, uint64_t seq)
{
    const struct mm_spool *s = rd->spool;
    if (rd->shard != 0 || n == 0) {
        return;
    }
    uint64_t below = s->old_max > from ? s->old_max - from : 0;
    below = below < n ? below : n;
    from += below;
    n -= below;
    uint64_t zone = s->old_next > from ? s->old_next - from : 0;
    zone = zone < n ? zone : n;
    n -= zone;
    uint64_t n_skipped = atomic_load_explicit(&s->n_skipped, memory_order_relaxed);
    uint64_t known = n_skipped - rd->n_skips_seen;
    known = known < n ? known : n;
    rd->n_skips_seen += known;
    n -= known;
    if (n + zone == 0) {
        return;
    }
    if (rd->n_gaps < MM_SPOOL_GAPS) {
        rd->gaps[rd->n_gaps++] = (struct mm_spool_gap){0};
    }
    struct mm_spool_gap *gap = &rd->gaps[rd->n_gaps - 1];
    gap->seq = seq;
    gap->n += n;
    gap->n_zone += zone;
}

/* The numbers up to seq are passed: those between what was passed before and seq are missing. */
static void note_gap(struct mm_spool_reader *rd, uint64_t seq)
{
    if (seq > rd->seen_seq) {
        add_gap(rd, rd->seen_seq, seq - rd->seen_seq, seq);
    }
}

static void pass_seq(struct mm_spool_reader *rd, uint64_t next_seq)
{
    rd->seq = next_seq;
    rd->seen_seq = next_seq > rd->seen_seq ? next_seq : rd->seen_seq;
}

/* Enter a segment. Where an earlier process ended and another began the numbers may have jumped. */
void mm_spool_enter(struct mm_spool_reader *rd, struct mm_segment *seg)
{
    rd->segment = seg;
    rd->offset = seg->start;
    if (seg->run_seq > rd->seq) {
        if (seg->run_seq > rd->seen_seq) {
            /* Above the half: records came to light that the start did not find. */
            uint64_t gap = (seg->run_seq - rd->seen_seq) & (MM_SPOOL_SEQ_JUMP - 1);
            gap = gap < MM_SPOOL_SEQ_JUMP / 2 ? gap : 0;
            add_gap(rd, rd->seen_seq, gap, seg->run_seq);
        }
        pass_seq(rd, seg->run_seq);
    }
}

/* Is there a record at the cursor? Moves to the next segment where the present one ends. *end is
 * where the cursor's ends now. */
static bool advance(struct mm_spool_reader *rd, uint32_t *end)
{
    for (;;) {
        /* The successor first: when it is there, end has its final value. Pairs with W2. */
        struct mm_segment *next = atomic_load(&rd->segment->next);
        *end = atomic_load(&rd->segment->end); /* pairs with W1 */
        if (rd->offset < *end) {
            return true;
        }
        if (next == NULL) {
            return false;
        }
        mm_spool_enter(rd, next);
    }
}

bool mm_spool_is_old(const struct mm_spool *s, uint64_t seq, uint32_t topic_hash)
{
    if (seq >= s->old_max) {
        return false;
    }
    uint32_t k = s->n_old - 1;
    while (s->old[k].hash > topic_hash) {
        k--;
    }
    return seq < s->old[k].low;
}

/* The record at the cursor, or the next sound one behind it in the segment. */
static int read_cursor(struct mm_spool_reader *rd,
                       uint32_t end,
                       struct mm_record *out,
                       size_t *size)
{
    if (rd->spool->dir != NULL) {
        return mm_spool_find(rd, rd->segment, end, &rd->offset, out, size);
    }
    /* Nobody else can have written this memory, so the checksums are not computed again. */
    const struct mm_segment *seg = rd->segment;
    int err = mm_record_decode(atomic_load_explicit(&seg->base, memory_order_relaxed) + rd->offset,
                               end - rd->offset, seg->salt, false, out, size);
    if (err != 0) {
        rd->offset = end; /* cannot happen while memory is sound */
    }
    return err == 0 ? 0 : MM_EAGAIN;
}

int mm_spool_next(struct mm_spool_reader *rd,
                  uint32_t max_scan,
                  struct mm_record *out,
                  struct mm_spool_pos *pos)
{
    uint32_t end;
    for (uint32_t n = 0; n <= max_scan && advance(rd, &end); n++) {
        size_t size;
        int err = read_cursor(rd, end, out, &size);
        if (err == MM_EIO) {
            return err;
        }
        if (err != 0) {
            continue; /* nothing more in this segment */
        }
        pos->segment = rd->segment;
        pos->offset = rd->offset;
        pos->seq = out->seq;
        rd->offset += (uint32_t)size;
        if (out->seq < rd->seq) {
            continue; /* it was before low when the log was opened, or is there twice */
        }
        bool again = out->seq < rd->seen_seq;
        note_gap(rd, out->seq);
        pass_seq(rd, out->seq + 1);
        if (mm_topic_shard(out->topic_hash, rd->spool->n_readers) == rd->shard &&
            !mm_spool_is_old(rd->spool, out->seq, out->topic_hash)) {
            rd->n_zone += !again && out->seq < rd->spool->old_next;
            return 0;
        }
    }
    return MM_EAGAIN;
}

void mm_spool_seek(struct mm_spool_reader *rd, const struct mm_spool_pos *pos)
{
    pos = pos == NULL ? &rd->low_pos : pos;
    rd->segment = pos->segment;
    rd->offset = pos->offset;
    rd->seq = pos->seq;
}

void mm_spool_cursor(const struct mm_spool_reader *rd, struct mm_spool_pos *out)
{
    out->segment = rd->segment;
    out->offset = rd->offset;
    out->seq = rd->seq;
}

bool mm_spool_pending(struct mm_spool_reader *rd)
{
    uint32_t end;
    return advance(rd, &end);
}

/* The record at this place of a file, and no other. */
static int read_place(struct mm_spool_reader *rd,
                      const struct mm_spool_pos *pos,
                      struct mm_record *out)
{
    const struct mm_segment *seg = pos->segment;
    uint32_t end = atomic_load_explicit(&seg->end, memory_order_acquire);
    size_t need = MM_RECORD_HEADER_LEN;
    for (;;) {
        const uint8_t *data;
        size_t len;
        uint32_t offset = pos->offset;
        int err = view(rd, seg, end, offset, need, &data, &len);
        if (err != 0) {
            return give_up(rd, seg, end, &offset) == 0 ? MM_ECORRUPT : err;
        }
        size_t at = 0;
        size_t size;
        err = mm_record_find(data, len, end - offset, seg->salt, &at, out, &size);
        if (at != 0 || err == MM_EAGAIN) {
            return MM_ECORRUPT;
        }
        if (err == 0) {
            return 0;
        }
        need = size;
    }
}

int mm_spool_read(struct mm_spool_reader *rd, const struct mm_spool_pos *pos, struct mm_record *out)
{
    if (rd->spool->dir != NULL) {
        return read_place(rd, pos, out);
    }
    const struct mm_segment *seg = pos->segment;
    uint32_t end = atomic_load_explicit(&seg->end, memory_order_acquire);
    size_t size;
    int err = mm_record_decode(atomic_load_explicit(&seg->base, memory_order_relaxed) + pos->offset,
                               end - pos->offset, seg->salt, false, out, &size);
    return err == 0 ? 0 : MM_ECORRUPT;
}

/* Let low pass the gaps before it. Returns what was missing there. */
static struct mm_spool_gap pass_gaps(struct mm_spool_reader *rd, uint64_t low_seq)
{
    struct mm_spool_gap sum = {.seq = low_seq};
    uint32_t passed = 0;
    while (passed < rd->n_gaps && rd->gaps[passed].seq <= low_seq) {
        sum.n += rd->gaps[passed].n;
        sum.n_zone += rd->gaps[passed++].n_zone;
    }
    rd->n_gaps -= passed;
    memmove(rd->gaps, rd->gaps + passed, rd->n_gaps * sizeof rd->gaps[0]);
    if (sum.n + sum.n_zone > 0 && rd->spool->dir != NULL) {
        mm_log_write(rd->spool->log, MM_LOG_ERROR,
                     "spool_dir \"%s\": %" PRIu64 " messages before number %" PRIu64
                     " are lost: their segments are damaged or gone",
                     mm_dir_path(rd->spool->dir), sum.n + sum.n_zone, low_seq);
    }
    return sum;
}

void mm_spool_finish(struct mm_spool_reader *rd,
                     const struct mm_spool_pos *pos,
                     uint64_t n_finished,
                     uint64_t n_repeat)
{
    struct mm_spool_pos cursor;
    mm_spool_cursor(rd, &cursor);
    rd->low_pos = pos == NULL ? cursor : *pos;
    if (rd->fd_number != 0 && rd->fd_number < rd->low_pos.segment->number) {
        close_file(rd); /* it may be deleted now, and its space is to come back */
    }
    uint64_t low = mm_spool_position(rd->low_pos.segment, rd->low_pos.offset);
    if (low == atomic_load_explicit(&rd->low, memory_order_relaxed) &&
        n_finished == atomic_load_explicit(&rd->n_finished, memory_order_relaxed) &&
        n_repeat == atomic_load_explicit(&rd->n_repeat, memory_order_relaxed)) {
        return;
    }
    /* What belongs together is written between two versions; the keeper reads it again when they
     * differ. Each store releases, so that whoever sees one of them also sees the odd version. */
    uint64_t version = atomic_load_explicit(&rd->version, memory_order_relaxed);
    struct mm_spool_gap gap = {0};
    if (rd->n_gaps > 0) {
        gap = pass_gaps(rd, rd->low_pos.seq);
    }
    uint64_t n_lost = atomic_load_explicit(&rd->n_lost, memory_order_relaxed) + gap.n;
    uint64_t n_lost_zone =
        atomic_load_explicit(&rd->n_lost_zone, memory_order_relaxed) + gap.n_zone;
    atomic_store_explicit(&rd->version, version + 1, memory_order_relaxed);
    atomic_store_explicit(&rd->low_seq, rd->low_pos.seq, memory_order_release);
    atomic_store_explicit(&rd->n_finished, n_finished, memory_order_release);
    atomic_store_explicit(&rd->n_repeat, n_repeat, memory_order_release);
    atomic_store_explicit(&rd->n_lost, n_lost, memory_order_release);
    atomic_store_explicit(&rd->n_lost_zone, n_lost_zone, memory_order_release);
    atomic_store_explicit(&rd->n_zone_taken, rd->n_zone, memory_order_release);
    atomic_store_explicit(&rd->version, version + 2, memory_order_release);
    /* W3: all reads of what lies below come before; pairs with the load in mm_spool_acked(). */
    atomic_store_explicit(&rd->low, low, memory_order_release);
}

bool mm_spool_take_repeat(struct mm_spool *s)
{
    uint64_t left = atomic_load_explicit(&s->repeats_left, memory_order_relaxed);
    while (left > 0) {
        if (atomic_compare_exchange_weak_explicit(&s->repeats_left, &left, left - 1,
                                                  memory_order_relaxed, memory_order_relaxed)) {
            return true;
        }
    }
    return false;
}

uint64_t mm_spool_n_repeat(const struct mm_spool *s)
{
    return atomic_load_explicit(&s->repeats_left, memory_order_relaxed);
}

bool mm_spool_unwanted(const struct mm_spool_reader *rd, const struct mm_spool_pos *pos)
{
    const struct mm_spool *s = rd->spool;
    return mm_spool_drops_oldest(s) &&
           mm_spool_position(pos->segment, pos->offset) <
               atomic_load_explicit(&s->drop_position, memory_order_relaxed);
}

void mm_spool_wait(struct mm_spool_reader *rd, uint32_t timeout_ms)
{
    struct mm_spool *s = rd->spool;
    uint32_t end;
    atomic_store(&s->sleepers, 1); /* then look: see W1 */
    if (!advance(rd, &end) && !atomic_load_explicit(&s->stop, memory_order_relaxed)) {
        mm_spool_futex_wait(&s->sleepers, 1, timeout_ms);
    }
}

struct mm_spool_reader *mm_spool_reader(struct mm_spool *s, uint32_t k)
{
    return &s->readers[k];
}
