#include "mm_spool.h"

#include "mm_clock.h"
#include "mm_error.h"
#include "mm_log.h"
#include "mm_spool_impl.h"
#include "mm_thread.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/futex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MIN_BYTES (UINT64_C(256) * 1024)
#define MIN_SEGMENT_BYTES (UINT64_C(32) * 1024)
#define MAX_SEGMENT_BYTES (UINT64_C(2) * 1024 * 1024)
#define MAX_FILE_BYTES (UINT64_C(8) * 1024 * 1024)
#define SEGMENTS_PER_LIMIT 8
#define PAGE_BYTES 4096U /* of the system's cache; its pages are no smaller */

/* What min_free is when nobody says: a part of the file system, but no more than anybody needs. */
#define MIN_FREE_PART 20
#define MIN_FREE_MAX (UINT64_C(1024) * 1024 * 1024)

/* --- waiting ------------------------------------------------------------------------------------
 */

void mm_spool_futex_wait(_Atomic uint32_t *word, uint32_t expected, uint32_t timeout_ms)
{
    struct timespec timeout = {.tv_sec = timeout_ms / 1000,
                               .tv_nsec = (long)(timeout_ms % 1000) * 1000000};
    /* Every outcome (woken, word changed, time over, a spurious wake-up) means: look again. */
    (void)syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, &timeout, NULL, 0);
}

static void futex_wake_all(_Atomic uint32_t *word)
{
    (void)syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

static void knock(struct mm_spool *s)
{
    if (!s->manual) {
        atomic_fetch_add_explicit(&s->knocks, 1, memory_order_relaxed);
        futex_wake_all(&s->knocks);
    }
}

void mm_spool_wake(struct mm_spool *s)
{
    atomic_store(&s->sleepers, 0);
    futex_wake_all(&s->sleepers);
}

uint64_t mm_spool_now_ns(void)
{
    return mm_clock_monotonic_ns();
}

/* --- positions ----------------------------------------------------------------------------------
 */

uint64_t mm_spool_acked(const struct mm_spool *s)
{
    uint64_t lowest = UINT64_MAX;
    for (uint32_t k = 0; k < s->n_readers; k++) {
        /* Pairs with W3: the reader no longer touches what lies below the value read. */
        uint64_t low = atomic_load_explicit(&s->readers[k].low, memory_order_acquire);
        lowest = low < lowest ? low : lowest;
    }
    return lowest;
}

/* --- append (producer) --------------------------------------------------------------------------
 */

uint64_t mm_spool_limit(const struct mm_spool *s)
{
    uint64_t leave = atomic_load_explicit(&s->leave, memory_order_relaxed);
    return leave < s->budget->max_bytes ? s->budget->max_bytes - leave : 0;
}

void mm_spool_leave(struct mm_spool *s, uint64_t bytes)
{
    atomic_store_explicit(&s->leave, bytes, memory_order_relaxed);
}

/* Count bytes as taken if the limit allows it, with `margin` bytes to spare. */
static bool reserve(struct mm_spool *s, uint64_t bytes, uint64_t margin)
{
    struct mm_spool_budget *budget = s->budget;
    uint64_t limit = mm_spool_limit(s);
    uint64_t now = atomic_load_explicit(&budget->allocated, memory_order_relaxed);
    do {
        if (now > limit || bytes + margin > limit - now) {
            return false;
        }
    } while (!atomic_compare_exchange_weak_explicit(&budget->allocated, &now, now + bytes,
                                                    memory_order_acquire, memory_order_relaxed));
    atomic_fetch_add_explicit(&s->allocated, bytes, memory_order_relaxed);
    return true;
}

void mm_spool_release_bytes(struct mm_spool *s, uint64_t bytes)
{
    /* In this order: who takes what the budget has again must not find it counted here twice. */
    atomic_fetch_sub_explicit(&s->allocated, bytes, memory_order_release);
    atomic_fetch_sub_explicit(&s->budget->allocated, bytes, memory_order_release);
}

/* Is there so much space in the file system that others keep theirs? */
bool mm_spool_space_for(struct mm_spool *s, uint64_t bytes)
{
    uint64_t free_bytes;
    uint64_t total;
    if (mm_dir_space(s->dir, &free_bytes, &total) != 0) {
        return true; /* the reservation will tell */
    }
    return free_bytes >= s->min_free && free_bytes - s->min_free >= bytes;
}

static int create_file(struct mm_spool *s, uint32_t size, struct mm_segment **out)
{
    struct mm_layout_header h = {
        .file = atomic_fetch_add_explicit(&s->next_file, 1, memory_order_relaxed),
        .run_seq = s->run_seq,
        .created_ms = mm_clock_realtime_ms(),
    };
    memcpy(h.uuid, s->uuid, sizeof h.uuid);
    int err = mm_segment_create(s->dir, &h, size, s->map, out);
    if (err == 0) {
        atomic_store_explicit(&s->dir_dirty, true, memory_order_relaxed);
    } else if (err != MM_EFULL) {
        mm_keeper_tell(s, &s->make_limit, "a segment could not be made", "it is tried again");
    }
    return err;
}

/* Errors: MM_EFULL, the limit, the disk or the memory has no room: it may come back; MM_EIO. */
int mm_spool_new_segment(struct mm_spool *s,
                         uint32_t size,
                         uint64_t margin,
                         struct mm_segment **out)
{
    *out = NULL;
    if (!reserve(s, size, margin)) {
        return MM_EFULL;
    }
    int err;
    if (s->dir == NULL) {
        err = mm_segment_new(size, out);
    } else {
        err = mm_spool_space_for(s, size + margin) ? create_file(s, size, out) : MM_EFULL;
    }
    if (err != 0) {
        mm_spool_release_bytes(s, size);
        return err == MM_EIO ? err : MM_EFULL;
    }
    return 0;
}

struct mm_segment *mm_spool_take_spare(struct mm_spool *s)
{
    for (int i = 0; i < MM_SPOOL_SPARES; i++) {
        if (atomic_load_explicit(&s->spare[i], memory_order_relaxed) != NULL) {
            struct mm_segment *seg =
                atomic_exchange_explicit(&s->spare[i], NULL, memory_order_acquire);
            if (seg != NULL) {
                return seg;
            }
        }
    }
    return NULL;
}

void mm_spool_link(struct mm_spool *s, struct mm_segment *seg)
{
    seg->number = s->tail == NULL ? 1 : s->tail->number + 1;
    struct mm_segment *before = s->tail;
    s->tail = seg;
    s->tail_base = atomic_load_explicit(&seg->base, memory_order_relaxed);
    s->tail_offset = seg->start;
    if (seg->max_seq == 0) {
        seg->first_seq = s->next_seq;
    }
    atomic_fetch_add_explicit(&s->n_segments, 1, memory_order_relaxed);
    /* Before W2: once it is seen, all readers may leave the segment before, and it is freed; who
     * takes list_lock after that must not find it here. */
    atomic_store_explicit(&s->tail_now, seg, memory_order_release);
    if (before != NULL) {
        /* W2: publishes number and the empty segment; pairs with the load in advance(). A reader
         * that sees it also sees the final value of before->end, which was stored earlier.
         * Sequentially consistent for the same reason as W1. */
        atomic_store(&before->next, seg);
    }
}

/* A segment of the usual size, prepared if there is one. */
static int normal_segment(struct mm_spool *s, struct mm_segment **out)
{
    *out = mm_spool_take_spare(s);
    if (*out != NULL) {
        return 0;
    }
    if (atomic_load_explicit(&s->no_room, memory_order_acquire)) {
        /* The housekeeper has just tried, and goes on trying: not for each message again. */
        return atomic_load_explicit(&s->no_room_error, memory_order_relaxed);
    }
    int err = mm_spool_new_segment(s, s->segment_size, 0, out);
    if (err == 0) {
        mm_spool_add(&s->n_unprepared, 1);
    }
    return err;
}

/* A segment for one record that is larger than the usual ones. */
static int large_segment(struct mm_spool *s, uint64_t size, struct mm_segment **out)
{
    uint32_t start = s->dir == NULL ? 0 : MM_LAYOUT_HEADER_LEN;
    uint32_t rounded = size > UINT32_MAX - start ? 0 : mm_segment_round(size + start);
    uint64_t limit = mm_spool_limit(s) < s->max_bytes ? mm_spool_limit(s) : s->max_bytes;
    if (rounded == 0 || rounded + (uint64_t)s->segment_size > limit) {
        return MM_ETOOBIG;
    }
    int err = mm_spool_new_segment(s, rounded, 0, out);
    atomic_store_explicit(&s->wanted, err == 0 ? 0 : rounded, memory_order_relaxed);
    if (err != 0 && s->tail->size > s->segment_size) {
        /* The tail, another large record's, may be what stands in the way: leave it, so that it
         * can be given back once it is read. */
        struct mm_segment *small;
        if (normal_segment(s, &small) == 0) {
            mm_spool_link(s, small);
        }
    }
    return err;
}

/* Put a fresh segment with room for size bytes at the tail. */
static int roll(struct mm_spool *s, uint64_t size)
{
    struct mm_segment *seg = NULL;
    uint32_t start = s->dir == NULL ? 0 : MM_LAYOUT_HEADER_LEN;
    /* A record that does not fit has a segment to itself, beside the one that is the tail now. */
    int err =
        size > s->segment_size - start ? large_segment(s, size, &seg) : normal_segment(s, &seg);
    if (err == MM_ETOOBIG) {
        return err;
    }
    if ((err != 0) != atomic_load_explicit(&s->full, memory_order_relaxed)) {
        atomic_store_explicit(&s->full, err != 0, memory_order_relaxed);
    }
    if (err != 0) {
        return err; /* the housekeeper needs no knock: it waits for the readers */
    }
    mm_spool_link(s, seg);
    atomic_store_explicit(&s->roll_wanted, false, memory_order_relaxed);
    knock(s);
    return 0;
}

/* Where the next record is written: into the mapping, or into memory of the producer's first. */
static uint8_t *place_for(struct mm_spool *s, uint64_t size)
{
    if (s->tail_base != NULL) {
        return s->tail_base + s->tail_offset;
    }
    if (size > s->scratch_cap) {
        uint8_t *grown = realloc(s->scratch, size);
        if (grown == NULL) {
            return NULL;
        }
        s->scratch = grown;
        s->scratch_cap = size;
    }
    return s->scratch;
}

/* Sync the record that is being appended; with the first of a segment, its header and its name.
 *
 * The kernel tells an error of the file once: had the keeper a sync of its own running meanwhile,
 * it might be told, and not we. */
static int sync_record(struct mm_spool *s, struct mm_segment *seg, uint64_t size)
{
    int err = MM_EIO;
    pthread_mutex_lock(&s->sync_lock);
    if (!atomic_load_explicit(&seg->failed, memory_order_relaxed)) {
        err = mm_segment_sync(seg, s->tail_offset, s->tail_offset + (uint32_t)size, !seg->rooted);
    }
    if (err == 0 && !seg->rooted) {
        err = mm_dir_sync(s->dir);
    }
    pthread_mutex_unlock(&s->sync_lock);
    return err;
}

/* Write the record at dst into the file. A kill can end a write between two pages: of a record that
 * lies in several the commit word goes last, as in a mapping. */
static int write_record(struct mm_spool *s, const uint8_t *dst, uint64_t size)
{
    uint32_t at = s->tail_offset;
    if (at / PAGE_BYTES == (at + size - 1) / PAGE_BYTES) {
        return mm_segment_write(s->tail, at, dst, size);
    }
    const uint32_t word = sizeof(uint32_t);
    int err = mm_segment_write(s->tail, at + word, dst + word, size - word);
    return err != 0 ? err : mm_segment_write(s->tail, at, dst, word);
}

/* The record is at dst, whole and committed. Where it is not there yet, write it into the file;
 * where the policy asks for it, wait for the disk. On error it is not in the log. */
static int make_safe(struct mm_spool *s, const struct mm_record *r, uint8_t *dst, uint64_t size)
{
    struct mm_segment *seg = s->tail;
    int err = 0;
    if (s->tail_base == NULL) {
        err = write_record(s, dst, size);
        if (err != 0) {
            atomic_fetch_add_explicit(&s->n_io_errors, err == MM_EIO, memory_order_relaxed);
            /* What came of it is overwritten by the next record, if that does not go elsewhere: it
             * shows with a new segment whether the disk takes anything at all. */
            atomic_store_explicit(&s->roll_wanted, true, memory_order_relaxed);
            return err;
        }
    }
    if (s->sync != MM_SPOOL_SYNC_ALWAYS || (r->flags & MM_RECORD_QOS_MASK) == 0) {
        return 0;
    }
    uint64_t begin = mm_spool_now_ns();
    err = sync_record(s, seg, size);
    uint64_t took = mm_spool_now_ns() - begin;
    if (took > atomic_load_explicit(&s->sync_max_ns, memory_order_relaxed)) {
        atomic_store_explicit(&s->sync_max_ns, took, memory_order_relaxed);
    }
    if (err == 0) {
        seg->rooted = true;
        return 0;
    }
    /* Take it back. Parts of it may be on the disk, and may come to light after a power failure:
     * its number is not used again, so that it cannot stand for another record then. */
    mm_record_commit(dst, 0);
    if (s->tail_base == NULL) {
        (void)mm_segment_write(seg, s->tail_offset, dst, sizeof(uint32_t));
    }
    s->next_seq++;
    atomic_store_explicit(&s->next_seq_now, s->next_seq, memory_order_relaxed);
    mm_spool_add(&s->n_skipped, 1);
    mm_keeper_sync_failed(s);
    return MM_EIO;
}

/* Find a place for a record of this size. */
static int make_place(struct mm_spool *s, const struct mm_record *r, uint64_t size)
{
    bool fits = size <= s->tail->size - s->tail_offset;
    bool leave = atomic_load_explicit(&s->roll_wanted, memory_order_relaxed);
    if (atomic_load_explicit(&s->gone, memory_order_relaxed)) {
        return MM_EIO;
    }
    if (!fits || leave) {
        int err = roll(s, size);
        if (err != 0 && !(fits && err != MM_ETOOBIG)) {
            return err;
        }
    }
    if (s->sync == MM_SPOOL_SYNC_ALWAYS && (r->flags & MM_RECORD_QOS_MASK) != 0 &&
        atomic_load_explicit(&s->degraded, memory_order_relaxed)) {
        return MM_EIO; /* until a sync has succeeded on the new segment: no false promise */
    }
    return 0;
}

int mm_spool_append(struct mm_spool *s, const struct mm_record *r)
{
    if (atomic_load_explicit(&s->tight, memory_order_relaxed) &&
        (r->flags & MM_RECORD_QOS_MASK) == 0) {
        return MM_EFULL;
    }
    uint64_t size = mm_record_size(r->topic_len, r->payload_len, r->props_len);
    if (size > s->tail->size - s->tail_offset ||
        atomic_load_explicit(&s->roll_wanted, memory_order_relaxed) ||
        s->sync == MM_SPOOL_SYNC_ALWAYS) {
        int err = make_place(s, r, size);
        if (err != 0) {
            return err;
        }
    }
    struct mm_segment *seg = s->tail;
    uint8_t *dst = place_for(s, size);
    if (dst == NULL) {
        return MM_EFULL; /* no memory is no room: it may come back */
    }
    struct mm_record record = *r;
    record.seq = s->next_seq;
    record.topic_hash = mm_topic_hash(r->topic, r->topic_len);
    mm_record_commit(dst, mm_record_encode(dst, seg->salt, &record));
    if (s->tail_base == NULL || s->sync == MM_SPOOL_SYNC_ALWAYS) {
        int err = make_safe(s, r, dst, size);
        if (err != 0) {
            return err;
        }
    }

    if (s->tail_offset == seg->start) {
        seg->first_ms = r->time_ms;
    }
    s->next_seq++;
    s->tail_offset += (uint32_t)size;
    atomic_store_explicit(&s->next_seq_now, s->next_seq, memory_order_relaxed);
    mm_spool_add(&s->bytes_appended, size);
    if (s->sync == MM_SPOOL_SYNC_ALWAYS && (r->flags & MM_RECORD_QOS_MASK) != 0) {
        atomic_store_explicit(&s->bytes_synced,
                              atomic_load_explicit(&s->bytes_appended, memory_order_relaxed),
                              memory_order_relaxed);
    }

    /* W1: publishes the record; pairs with the load in advance(). Sequentially consistent because
     * the load of sleepers must not move above it: a reader sets sleepers and then looks at end, so
     * one of the two sees the other, and no record is slept over. */
    atomic_store(&seg->end, s->tail_offset);
    if (atomic_load(&s->sleepers) != 0) {
        atomic_fetch_add_explicit(&s->n_wakes, 1, memory_order_relaxed);
        mm_spool_wake(s);
    }
    return 0;
}

/* Throw a segment away that was never linked. */
void mm_spool_discard(struct mm_spool *s, struct mm_segment *seg)
{
    uint32_t size = seg->size;
    if (s->dir != NULL && mm_segment_unlink(s->dir, seg->file) != 0) {
        atomic_fetch_add_explicit(&s->n_io_errors, 1, memory_order_relaxed);
    }
    mm_segment_free(seg);
    mm_spool_release_bytes(s, size);
}

/* --- open, close --------------------------------------------------------------------------------
 */

/* A version 4 UUID (RFC 9562 section 5.4). */
static int make_uuid(uint8_t b[16])
{
    if (getrandom(b, 16, 0) != 16) {
        return MM_EINVAL;
    }
    b[6] = (uint8_t)((b[6] & 0x0F) | 0x40);
    b[8] = (uint8_t)((b[8] & 0x3F) | 0x80);
    return 0;
}

static uint32_t choose_segment_size(const struct mm_spool_options *opts)
{
    uint64_t size = opts->segment_bytes;
    uint64_t max = opts->dir == NULL ? MAX_SEGMENT_BYTES : MAX_FILE_BYTES;
    if (size == 0) {
        size = opts->max_bytes / SEGMENTS_PER_LIMIT / MIN_SEGMENT_BYTES * MIN_SEGMENT_BYTES;
        size = size < MIN_SEGMENT_BYTES ? MIN_SEGMENT_BYTES : size;
        size = size > max ? max : size;
    }
    return mm_segment_round(size);
}

static int start_threads(struct mm_spool *s)
{
    int err = mm_thread_start("mm-spool", mm_housekeeper_main, s, &s->housekeeper);
    s->has_housekeeper = err == 0;
    return err == 0 && s->dir != NULL ? mm_keeper_start(s) : err;
}

static struct mm_spool *allocate(const struct mm_spool_options *opts, uint32_t segment_size)
{
    struct mm_spool *s = aligned_alloc(alignof(struct mm_spool), sizeof *s);
    size_t readers_size = opts->n_readers * sizeof *s->readers;
    struct mm_spool_reader *readers = aligned_alloc(alignof(struct mm_spool_reader), readers_size);
    if (s == NULL || readers == NULL) {
        free(s);
        free(readers);
        return NULL;
    }
    memset(s, 0, sizeof *s);
    memset(readers, 0, readers_size);
    s->readers = readers;
    s->max_bytes = opts->max_bytes;
    s->segment_size = segment_size;
    s->n_readers = opts->n_readers;
    atomic_init(&s->drop_oldest, opts->drop_oldest);
    s->manual = opts->manual;
    s->log = opts->log;
    s->sync = opts->dir == NULL ? MM_SPOOL_SYNC_NEVER : opts->sync;
    s->sync_interval_ms = opts->sync_interval_ms == 0 ? 500 : opts->sync_interval_ms;
    s->counters = opts->counters;
    s->counters_arg = opts->counters_arg;
    s->own_budget.max_bytes = opts->max_bytes;
    s->budget = opts->budget == NULL ? &s->own_budget : opts->budget;
    s->min_free = opts->min_free;
    s->next_seq = s->run_seq = 1;
    atomic_init(&s->next_file, 1);
    pthread_mutex_init(&s->keep_lock, NULL);
    pthread_mutex_init(&s->state_lock, NULL);
    pthread_mutex_init(&s->list_lock, NULL);
    pthread_mutex_init(&s->sync_lock, NULL);
    pthread_mutex_init(&s->tell_lock, NULL);
    return s;
}

/* Undo everything, with no thread running. Files stay. */
static void release(struct mm_spool *s)
{
    for (struct mm_segment *seg = s->first; seg != NULL;) {
        struct mm_segment *next = atomic_load_explicit(&seg->next, memory_order_relaxed);
        mm_spool_release_bytes(s, s->dir != NULL && seg->file == 0 ? 0 : seg->size);
        mm_segment_free(seg);
        seg = next;
    }
    for (struct mm_segment *spare; (spare = mm_spool_take_spare(s)) != NULL;) {
        mm_spool_discard(s, spare);
    }
    for (uint32_t k = 0; k < s->n_readers; k++) {
        mm_spool_forget(&s->readers[k]);
        free(s->readers[k].buffer);
    }
    mm_dir_close(s->dir);
    pthread_mutex_destroy(&s->keep_lock);
    pthread_mutex_destroy(&s->state_lock);
    pthread_mutex_destroy(&s->list_lock);
    pthread_mutex_destroy(&s->sync_lock);
    pthread_mutex_destroy(&s->tell_lock);
    free(s->scratch);
    free(s->readers);
    free(s);
}

/* Everything that has to do with the directory, before there is a first segment of ours. */
static int open_dir(struct mm_spool *s,
                    const struct mm_spool_options *opts,
                    char *errstr,
                    size_t errstr_len)
{
    int err = mm_dir_open(opts->dir, &s->dir, errstr, errstr_len);
    if (err != 0) {
        return err;
    }
    uint64_t free_bytes = 0;
    uint64_t total = 0;
    (void)mm_dir_space(s->dir, &free_bytes, &total);
    if (s->min_free == UINT64_MAX) {
        s->min_free = total / MIN_FREE_PART;
        s->min_free = s->min_free > MIN_FREE_MAX ? MIN_FREE_MAX : s->min_free;
    }
    s->map = opts->writer == MM_SPOOL_WRITER_MMAP ||
             (opts->writer == MM_SPOOL_WRITER_AUTO && mm_dir_can_reserve(s->dir));
    mm_dir_boot_id(s->boot);
    const char *host = mm_dir_other_host(s->dir);
    if (host != NULL) {
        mm_log_write(s->log, MM_LOG_WARN, "spool_dir \"%s\" was last used on another host (%s)",
                     opts->dir, host);
    }
    return mm_recover(s, errstr, errstr_len);
}

/* The first segment of this process. Without room for it the log is full from the start. */
static int first_segment(struct mm_spool *s)
{
    struct mm_segment *seg;
    int err = mm_spool_new_segment(s, s->segment_size, 0, &seg);
    if (err != 0 && s->dir != NULL) {
        /* A segment without bytes: every append rolls, and is refused while there is no room. */
        struct mm_layout_header none = {.run_seq = s->run_seq, .size = MM_LAYOUT_HEADER_LEN};
        if (mm_segment_describe(&none, 0, &seg) != 0) {
            return MM_ENOMEM;
        }
        seg->size = MM_LAYOUT_HEADER_LEN;
        seg->sealed = seg->settled = true;
        atomic_store_explicit(&s->full, true, memory_order_relaxed);
        err = 0;
    }
    if (err != 0) {
        return MM_ENOMEM;
    }
    mm_housekeeper_populate(s, seg);
    mm_spool_link(s, seg);
    s->unsealed = s->unsettled = s->mapped = seg;
    if (s->first == NULL) {
        s->first = seg;
    }
    atomic_init(&s->first_number, s->first->number);
    return 0;
}

/* The seq below which earlier processes finished everything. */
static uint64_t lowest_low(const struct mm_spool *s)
{
    if (s->n_old == 0) {
        return s->first->first_seq;
    }
    uint64_t lowest = UINT64_MAX;
    for (uint32_t i = 0; i < s->n_old; i++) {
        lowest = s->old[i].low < lowest ? s->old[i].low : lowest;
    }
    return lowest;
}

static void place_readers(struct mm_spool *s)
{
    for (uint32_t k = 0; k < s->n_readers; k++) {
        struct mm_spool_reader *rd = &s->readers[k];
        rd->spool = s;
        rd->shard = k;
        rd->seq = rd->seen_seq = lowest_low(s);
        rd->low_pos =
            (struct mm_spool_pos){.segment = s->first, .offset = s->first->start, .seq = rd->seq};
        atomic_init(&rd->low_seq, rd->seq);
        atomic_init(&rd->low, mm_spool_position(s->first, s->first->start));
        mm_spool_enter(rd, s->first);
    }
}

/* Time of receipt of the oldest record that is to be read; 0: none found in the first segment. */
static uint64_t find_oldest(struct mm_spool *s)
{
    struct mm_spool_reader *rd = &s->readers[0];
    uint32_t offset = s->first->start;
    uint32_t end = atomic_load_explicit(&s->first->end, memory_order_relaxed);
    struct mm_record r;
    uint64_t found = 0;
    for (size_t size; found == 0 && mm_spool_find(rd, s->first, end, &offset, &r, &size) == 0;
         offset += (uint32_t)size) {
        if (r.seq >= rd->seq && !mm_spool_is_old(s, r.seq, r.topic_hash)) {
            found = r.time_ms;
        }
    }
    mm_spool_forget(rd);
    return found == 0 ? s->first->first_ms : found;
}

/* Make the first segment of this run, behind what was recovered. */
static int begin_log(struct mm_spool *s,
                     const struct mm_spool_options *opts,
                     char *errstr,
                     size_t errstr_len)
{
    int err = make_uuid(s->uuid);
    if (err != 0) {
        snprintf(errstr, errstr_len, "the system gave no random bytes for the spool's id");
        return err;
    }
    if (opts->dir != NULL) {
        err = open_dir(s, opts, errstr, errstr_len);
        if (err != 0) {
            return err;
        }
    }
    mm_layout_format_uuid(s->uuid, s->uuid_text);
    s->next_seq = s->run_seq;
    atomic_init(&s->next_seq_now, s->next_seq);
    err = first_segment(s);
    if (err != 0) {
        snprintf(errstr, errstr_len, "%s", mm_strerror(err));
    }
    return err;
}

static void write_first_state(struct mm_spool *s)
{
    /* Both slots, so that each has its place on the disk before the disk can be full. */
    (void)mm_keeper_write_state(s, false);
    (void)mm_keeper_write_state(s, false);
    /* Whatever the policy: as long as the disk has the STATE of an orderly stop, a power failure
     * would let the next process give this one's numbers again. */
    if (mm_dir_sync_state(s->dir) != 0) {
        mm_keeper_tell(s, &s->state_limit, "STATE could not be synced", "it is tried again");
    }
}

int mm_spool_open(const struct mm_spool_options *opts,
                  struct mm_spool **out,
                  char *errstr,
                  size_t errstr_len)
{
    *out = NULL;
    uint32_t segment_size = choose_segment_size(opts);
    if (opts->n_readers == 0 || opts->n_readers > MM_LAYOUT_SHARDS_MAX ||
        opts->max_bytes < MIN_BYTES || segment_size > opts->max_bytes / 4) {
        snprintf(errstr, errstr_len,
                 "the spool needs at least %" PRIu64 " bytes and four segments, not %" PRIu64
                 " bytes",
                 MIN_BYTES, opts->max_bytes);
        return MM_EINVAL;
    }
    struct mm_spool *s = allocate(opts, segment_size);
    if (s == NULL) {
        snprintf(errstr, errstr_len, "%s", mm_strerror(MM_ENOMEM));
        return MM_ENOMEM;
    }
    int err = begin_log(s, opts, errstr, errstr_len);
    if (err != 0) {
        release(s);
        return err;
    }
    if (s->found.n_segments > 0 && !s->found.clean && s->sync != MM_SPOOL_SYNC_NEVER) {
        s->found_unsynced = s->first;
    }
    place_readers(s);
    if (s->found.n_records > 0) {
        s->found.oldest_ms = find_oldest(s);
    }
    if (s->dir != NULL) {
        write_first_state(s);
    }
    if (!s->manual) {
        (void)mm_housekeeper_prepare(s);
        int thread_err = start_threads(s);
        if (thread_err != 0) {
            char reason[64];
            snprintf(errstr, errstr_len, "the spool's thread could not be started: %s",
                     strerror_r(thread_err, reason, sizeof reason));
            mm_spool_close(s);
            return MM_ETHREAD;
        }
    }
    *out = s;
    return 0;
}

void mm_spool_close(struct mm_spool *s)
{
    if (s == NULL) {
        return;
    }
    atomic_store_explicit(&s->stop, true, memory_order_relaxed);
    knock(s);
    if (s->has_housekeeper) {
        pthread_join(s->housekeeper, NULL);
    }
    if (s->has_keeper) {
        pthread_join(s->keeper, NULL);
    }
    if (s->dir != NULL) {
        mm_keeper_finish(s);
    }
    release(s);
}

/* --- figures ------------------------------------------------------------------------------------
 */

void mm_spool_set_drop_oldest(struct mm_spool *s, bool drop_oldest)
{
    atomic_store_explicit(&s->drop_oldest, drop_oldest, memory_order_relaxed);
}

const struct mm_spool_found *mm_spool_found(const struct mm_spool *s)
{
    return &s->found;
}

const char *mm_spool_uuid(const struct mm_spool *s)
{
    return s->uuid_text;
}

static uint64_t n_appended(const struct mm_spool *s)
{
    uint64_t n_skipped = atomic_load_explicit(&s->n_skipped, memory_order_relaxed);
    return atomic_load_explicit(&s->next_seq_now, memory_order_relaxed) - s->run_seq - n_skipped;
}

struct mm_spool_progress mm_spool_progress(const struct mm_spool_reader *rd)
{
    struct mm_spool_progress p;
    uint64_t before;
    uint64_t after;
    do {
        before = atomic_load_explicit(&rd->version, memory_order_acquire);
        p.low_seq = atomic_load_explicit(&rd->low_seq, memory_order_acquire);
        p.n_finished = atomic_load_explicit(&rd->n_finished, memory_order_acquire);
        p.n_repeat = atomic_load_explicit(&rd->n_repeat, memory_order_acquire);
        p.n_lost = atomic_load_explicit(&rd->n_lost, memory_order_acquire);
        p.n_lost_zone = atomic_load_explicit(&rd->n_lost_zone, memory_order_acquire);
        p.n_zone_taken = atomic_load_explicit(&rd->n_zone_taken, memory_order_acquire);
        after = atomic_load_explicit(&rd->version, memory_order_relaxed);
    } while (before != after || (before & 1) != 0);
    return p;
}

uint64_t mm_spool_lost(const struct mm_spool *s, const struct mm_spool_progress *p)
{
    uint64_t n_taken = 0;
    for (uint32_t k = 0; k < s->n_readers; k++) {
        if (p[k].low_seq < s->old_next) {
            return p[0].n_lost + p[0].n_lost_zone; /* as far as is known by now */
        }
        n_taken += p[k].n_zone_taken;
    }
    return p[0].n_lost + (s->n_zone > n_taken ? s->n_zone - n_taken : 0);
}

static uint64_t lost_now(const struct mm_spool *s)
{
    struct mm_spool_progress p[MM_LAYOUT_SHARDS_MAX] = {0};
    for (uint32_t k = 0; k < s->n_readers; k++) {
        p[k] = mm_spool_progress(&s->readers[k]);
    }
    return mm_spool_lost(s, p);
}

uint64_t mm_spool_to_take(const struct mm_spool *s)
{
    return s->found.n_records + n_appended(s) - lost_now(s);
}

int mm_spool_sync(struct mm_spool *s)
{
    if (s->dir == NULL || s->sync == MM_SPOOL_SYNC_NEVER) {
        return 0;
    }
    int err = mm_keeper_pass(s, true);
    /* Nobody asks again for a segment whose sync failed: what is in it is not safe, though this
     * pass had no trouble. */
    return atomic_exchange_explicit(&s->sync_failed, false, memory_order_relaxed) ? MM_EIO : err;
}

void mm_spool_checkpoint(struct mm_spool *s)
{
    if (s->dir != NULL) {
        mm_keeper_checkpoint(s);
    }
}

static void disk_stats(const struct mm_spool *s, struct mm_spool_stats *out)
{
    out->on_disk = true;
    out->degraded = atomic_load_explicit(&s->degraded, memory_order_relaxed);
    out->low_space = atomic_load_explicit(&s->low_space, memory_order_relaxed);
    out->free_bytes = atomic_load_explicit(&s->free_bytes, memory_order_relaxed);
    out->n_synced = atomic_load_explicit(&s->n_synced, memory_order_relaxed);
    out->n_io_errors = atomic_load_explicit(&s->n_io_errors, memory_order_relaxed);
    out->n_bad_files = mm_dir_n_bad(s->dir);
    out->synced_ms = atomic_load_explicit(&s->synced_ms, memory_order_relaxed);
    out->sync_max_ns = atomic_load_explicit(&s->sync_max_ns, memory_order_relaxed);
    uint64_t synced = atomic_load_explicit(&s->bytes_synced, memory_order_relaxed);
    uint64_t appended = atomic_load_explicit(&s->bytes_appended, memory_order_relaxed);
    out->unsynced_bytes = appended > synced ? appended - synced : 0;
}

void mm_spool_stats(const struct mm_spool *s, struct mm_spool_stats *out)
{
    memset(out, 0, sizeof *out);
    out->limit_bytes = s->max_bytes;
    out->allocated_bytes = atomic_load_explicit(&s->allocated, memory_order_relaxed);
    out->n_segments = atomic_load_explicit(&s->n_segments, memory_order_relaxed);
    out->n_unprepared = atomic_load_explicit(&s->n_unprepared, memory_order_relaxed);
    out->n_wakes = atomic_load_explicit(&s->n_wakes, memory_order_relaxed);
    uint64_t n_lost = lost_now(s);
    uint64_t n_lost_repeat = atomic_load_explicit(&s->n_lost_repeat, memory_order_relaxed);
    out->n_lost = n_lost > n_lost_repeat ? n_lost - n_lost_repeat : 0;
    out->drop_oldest = mm_spool_drops_oldest(s);
    out->full = atomic_load_explicit(&s->full, memory_order_relaxed);
    out->tight = atomic_load_explicit(&s->tight, memory_order_relaxed);
    out->n_appended = n_appended(s);
    /* What is finished in the oldest segment counts as given back too. */
    uint64_t low = mm_spool_acked(s);
    uint64_t finished = atomic_load_explicit(&s->bytes_freed, memory_order_relaxed);
    if (low >> 32 == atomic_load_explicit(&s->first_number, memory_order_relaxed)) {
        finished += (low & UINT32_MAX) - (s->dir == NULL ? 0 : MM_LAYOUT_HEADER_LEN);
    }
    uint64_t appended =
        s->found_bytes + atomic_load_explicit(&s->bytes_appended, memory_order_relaxed);
    out->used_bytes = appended > finished ? appended - finished : 0;
    if (s->dir != NULL) {
        disk_stats(s, out);
    }
}
