#include "mm_spool.h"

#include "mm_error.h"
#include "mm_segment.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdalign.h>
#include <stdatomic.h>
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
#define SEGMENTS_PER_LIMIT 8

/* Prepared segments that wait for the producer. Two last 10 ms at 400 MB/s. */
#define N_SPARE 2

/* For how many passes of the housekeeper (10 ms each) room is kept for a large record. */
#define WANTED_PASSES 500

#define SHORT_INTERVAL_MS 2
#define BUSY_INTERVAL_MS 10
#define IDLE_INTERVAL_MS 200

struct mm_spool_reader
{
    struct mm_spool *spool;
    uint32_t shard;

    /* the reader's worker */
    alignas(64) struct mm_segment *segment; /* the cursor */
    uint32_t offset;
    _Atomic uint64_t low; /* W3: a position; the housekeeper acquires it before it unmaps */
};

struct mm_spool
{
    /* immutable after open */
    uint64_t max_bytes;
    uint32_t segment_size;
    uint32_t n_readers;
    bool drop_oldest;
    char uuid[37];
    struct mm_spool_reader *readers;
    pthread_t housekeeper;

    /* producer */
    alignas(64) struct mm_segment *tail;
    uint32_t tail_offset; /* == tail->end, without the cost of an atomic load */
    uint64_t next_seq;
    _Atomic uint64_t *n_appended; /* per shard */
    _Atomic uint64_t bytes_appended;
    _Atomic uint64_t n_unprepared;
    _Atomic uint64_t n_wakes;
    _Atomic bool full;
    _Atomic uint64_t wanted; /* bytes for a large record that found no room; 0: none */

    /* housekeeper */
    alignas(64) struct mm_segment *first; /* the oldest segment */
    _Atomic uint64_t first_number;
    _Atomic uint64_t bytes_freed;   /* of records in segments that were given back */
    _Atomic uint64_t drop_position; /* drop_oldest: what lies below is unwanted */
    uint32_t wanted_passes;         /* for how many passes room has been kept for wanted */

    /* both */
    alignas(64) _Atomic uint64_t allocated; /* bytes mapped; kept <= max_bytes by reserve() */
    _Atomic uint64_t n_segments;            /* linked into the log */
    _Atomic(struct mm_segment *) spare[N_SPARE];

    /* futex words */
    alignas(64) _Atomic uint32_t sleepers; /* 1: a reader sleeps and wants to be woken */
    alignas(64) _Atomic uint32_t knocks;   /* counts the wake-ups of the housekeeper */
    _Atomic bool stop;
};

/* --- waiting ------------------------------------------------------------------------------------
 */

static void futex_wait(_Atomic uint32_t *word, uint32_t expected, uint32_t timeout_ms)
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
    atomic_fetch_add_explicit(&s->knocks, 1, memory_order_relaxed);
    futex_wake_all(&s->knocks);
}

void mm_spool_wake(struct mm_spool *s)
{
    atomic_store(&s->sleepers, 0);
    futex_wake_all(&s->sleepers);
}

/* --- positions ----------------------------------------------------------------------------------
 */

static uint64_t position(const struct mm_segment *seg, uint32_t offset)
{
    return seg->number << 32 | offset;
}

static uint64_t acked(const struct mm_spool *s)
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

/* Count bytes as mapped if the limit allows it. */
static bool reserve(struct mm_spool *s, uint64_t bytes)
{
    uint64_t now = atomic_load_explicit(&s->allocated, memory_order_relaxed);
    do {
        if (bytes > s->max_bytes - now) {
            return false;
        }
    } while (!atomic_compare_exchange_weak_explicit(&s->allocated, &now, now + bytes,
                                                    memory_order_relaxed, memory_order_relaxed));
    return true;
}

static int new_segment(struct mm_spool *s, uint32_t size, struct mm_segment **out)
{
    *out = NULL;
    if (!reserve(s, size)) {
        return MM_EFULL;
    }
    if (mm_segment_new(size, out) != 0) {
        atomic_fetch_sub_explicit(&s->allocated, size, memory_order_relaxed);
        return MM_EFULL; /* no memory is no room: it may come back */
    }
    return 0;
}

static struct mm_segment *take_spare(struct mm_spool *s)
{
    for (int i = 0; i < N_SPARE; i++) {
        if (atomic_load_explicit(&s->spare[i], memory_order_relaxed) != NULL) {
            return atomic_exchange_explicit(&s->spare[i], NULL, memory_order_acquire);
        }
    }
    return NULL;
}

static void link_segment(struct mm_spool *s, struct mm_segment *seg)
{
    seg->number = s->tail == NULL ? 1 : s->tail->number + 1;
    struct mm_segment *before = s->tail;
    s->tail = seg;
    s->tail_offset = 0;
    atomic_fetch_add_explicit(&s->n_segments, 1, memory_order_relaxed);
    if (before != NULL) {
        /* W2: publishes number and the empty segment; pairs with the load in advance(). A reader
         * that sees it also sees the final value of before->end, which was stored earlier.
         * Sequentially consistent for the same reason as W1. */
        atomic_store(&before->next, seg);
    }
}

/* A segment of the usual size, prepared if there is one; NULL: the limit allows none. */
static struct mm_segment *normal_segment(struct mm_spool *s)
{
    struct mm_segment *seg = take_spare(s);
    if (seg == NULL && new_segment(s, s->segment_size, &seg) == 0) {
        atomic_fetch_add_explicit(&s->n_unprepared, 1, memory_order_relaxed);
    }
    return seg;
}

/* Put a fresh segment with room for size bytes at the tail. */
static int roll(struct mm_spool *s, uint64_t size)
{
    struct mm_segment *seg = NULL;
    if (size > s->segment_size) {
        /* A record of this size has a segment to itself, beside the one that is the tail now. */
        uint32_t rounded = mm_segment_round(size);
        if (rounded == 0 || rounded > s->max_bytes - s->segment_size) {
            return MM_ETOOBIG;
        }
        int err = new_segment(s, rounded, &seg);
        atomic_store_explicit(&s->wanted, err == 0 ? 0 : rounded, memory_order_relaxed);
        if (err != 0 && s->tail->size > s->segment_size) {
            /* The tail, another large record's, may be what stands in the way: leave it, so that it
             * can be given back once it is read. */
            struct mm_segment *small = normal_segment(s);
            if (small != NULL) {
                link_segment(s, small);
            }
        }
    } else {
        seg = normal_segment(s);
    }
    bool full = seg == NULL;
    if (full != atomic_load_explicit(&s->full, memory_order_relaxed)) {
        atomic_store_explicit(&s->full, full, memory_order_relaxed);
    }
    if (full) {
        return MM_EFULL; /* the housekeeper needs no knock: it waits for the readers */
    }
    link_segment(s, seg);
    knock(s);
    return 0;
}

int mm_spool_append(struct mm_spool *s, const struct mm_record *r)
{
    uint64_t size = mm_record_size(r->topic_len, r->payload_len, r->props_len);
    if (size > s->tail->size - s->tail_offset) {
        int err = roll(s, size);
        if (err != 0) {
            return err;
        }
    }
    struct mm_segment *seg = s->tail;
    uint8_t *dst = seg->base + s->tail_offset;
    struct mm_record record = *r;
    record.seq = s->next_seq;
    record.topic_hash = mm_topic_hash(r->topic, r->topic_len);
    mm_record_commit(dst, mm_record_encode(dst, seg->salt, &record));

    s->next_seq++;
    s->tail_offset += (uint32_t)size;
    _Atomic uint64_t *n = &s->n_appended[mm_topic_shard(record.topic_hash, s->n_readers)];
    atomic_store_explicit(n, atomic_load_explicit(n, memory_order_relaxed) + 1,
                          memory_order_relaxed);
    atomic_store_explicit(&s->bytes_appended,
                          atomic_load_explicit(&s->bytes_appended, memory_order_relaxed) + size,
                          memory_order_relaxed);

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

/* --- read (workers) -----------------------------------------------------------------------------
 */

/* Is there a record at the cursor? Moves to the next segment where the present one ends. */
static bool advance(struct mm_spool_reader *rd)
{
    for (;;) {
        /* The successor first: when it is there, end has its final value. Pairs with W2. */
        struct mm_segment *next = atomic_load(&rd->segment->next);
        if (rd->offset < atomic_load(&rd->segment->end)) { /* pairs with W1 */
            return true;
        }
        if (next == NULL) {
            return false;
        }
        rd->segment = next;
        rd->offset = 0;
    }
}

static int read_at(const struct mm_segment *seg,
                   uint32_t offset,
                   struct mm_record *out,
                   size_t *size)
{
    /* Nobody else can have written this memory, so the checksums are not computed again. */
    return mm_record_decode(seg->base + offset, seg->size - offset, seg->salt, false, out, size);
}

int mm_spool_next(struct mm_spool_reader *rd,
                  uint32_t max_scan,
                  struct mm_record *out,
                  struct mm_spool_pos *pos)
{
    for (uint32_t n = 0; n <= max_scan && advance(rd); n++) {
        size_t size;
        if (read_at(rd->segment, rd->offset, out, &size) != 0) {
            /* Cannot happen while memory is sound; nothing behind it in this segment can be found.
             */
            rd->offset = atomic_load(&rd->segment->end);
            continue;
        }
        pos->segment = rd->segment;
        pos->offset = rd->offset;
        rd->offset += (uint32_t)size;
        if (mm_topic_shard(out->topic_hash, rd->spool->n_readers) == rd->shard) {
            return 0;
        }
    }
    return MM_EAGAIN;
}

void mm_spool_seek(struct mm_spool_reader *rd, const struct mm_spool_pos *pos)
{
    rd->segment = pos->segment;
    rd->offset = pos->offset;
}

void mm_spool_cursor(const struct mm_spool_reader *rd, struct mm_spool_pos *out)
{
    out->segment = rd->segment;
    out->offset = rd->offset;
}

bool mm_spool_pending(struct mm_spool_reader *rd)
{
    return advance(rd);
}

int mm_spool_read(const struct mm_spool_reader *rd,
                  const struct mm_spool_pos *pos,
                  struct mm_record *out)
{
    (void)rd;
    size_t size;
    return read_at(pos->segment, pos->offset, out, &size) == 0 ? 0 : MM_ECORRUPT;
}

void mm_spool_finish(struct mm_spool_reader *rd, const struct mm_spool_pos *pos)
{
    uint64_t low =
        pos == NULL ? position(rd->segment, rd->offset) : position(pos->segment, pos->offset);
    if (low != atomic_load_explicit(&rd->low, memory_order_relaxed)) {
        /* W3: all reads of what lies below come before; pairs with the load in acked(). */
        atomic_store_explicit(&rd->low, low, memory_order_release);
    }
}

bool mm_spool_unwanted(const struct mm_spool_reader *rd, const struct mm_spool_pos *pos)
{
    const struct mm_spool *s = rd->spool;
    return s->drop_oldest && position(pos->segment, pos->offset) <
                                 atomic_load_explicit(&s->drop_position, memory_order_relaxed);
}

void mm_spool_wait(struct mm_spool_reader *rd, uint32_t timeout_ms)
{
    struct mm_spool *s = rd->spool;
    atomic_store(&s->sleepers, 1); /* then look: see W1 */
    if (!advance(rd) && !atomic_load_explicit(&s->stop, memory_order_relaxed)) {
        futex_wait(&s->sleepers, 1, timeout_ms);
    }
}

struct mm_spool_reader *mm_spool_reader(struct mm_spool *s, uint32_t k)
{
    return &s->readers[k];
}

/* --- the housekeeper ----------------------------------------------------------------------------
 */

/* Make a segment that no reader needs ready for use again, or give it back. */
static void recycle(struct mm_spool *s, struct mm_segment *seg)
{
    if (seg->size == s->segment_size) {
        for (int i = 0; i < N_SPARE; i++) {
            if (atomic_load_explicit(&s->spare[i], memory_order_relaxed) == NULL) {
                atomic_store_explicit(&seg->end, 0, memory_order_relaxed);
                atomic_store_explicit(&seg->next, NULL, memory_order_relaxed);
                atomic_store_explicit(&s->spare[i], seg, memory_order_release);
                return;
            }
        }
    }
    uint32_t size = seg->size;
    mm_segment_free(seg);
    atomic_fetch_sub_explicit(&s->allocated, size, memory_order_relaxed);
}

/* Give back the segments that every reader has left behind. The tail is never among them. */
static void free_segments(struct mm_spool *s)
{
    uint64_t first_needed = acked(s) >> 32;
    while (s->first->number < first_needed) {
        struct mm_segment *seg = s->first;
        s->first = atomic_load_explicit(&seg->next, memory_order_acquire);
        atomic_store_explicit(&s->bytes_freed,
                              atomic_load_explicit(&s->bytes_freed, memory_order_relaxed) +
                                  atomic_load_explicit(&seg->end, memory_order_relaxed),
                              memory_order_relaxed);
        atomic_store_explicit(&s->first_number, s->first->number, memory_order_relaxed);
        atomic_fetch_sub_explicit(&s->n_segments, 1, memory_order_relaxed);
        recycle(s, seg);
    }
}

/* Fill the empty places for prepared segments. Returns how many are there. */
static int prepare_segments(struct mm_spool *s)
{
    int n = 0;
    for (int i = 0; i < N_SPARE; i++) {
        struct mm_segment *seg;
        if (atomic_load_explicit(&s->spare[i], memory_order_relaxed) != NULL) {
            n++;
        } else if (new_segment(s, s->segment_size, &seg) == 0) {
            /* Handed over first: the producer may need it while its pages still come, and would
             * find no room otherwise. Nobody but this thread ever unmaps it. */
            atomic_store_explicit(&s->spare[i], seg, memory_order_release);
            mm_segment_populate(seg);
            n++;
        }
    }
    return n;
}

/* A large record found no room: make it, and keep it until the publisher has sent again. True while
 * the room is wanted and there. */
static bool make_room(struct mm_spool *s, uint64_t wanted)
{
    for (struct mm_segment *spare; (spare = take_spare(s)) != NULL;) {
        uint32_t size = spare->size;
        mm_segment_free(spare);
        atomic_fetch_sub_explicit(&s->allocated, size, memory_order_relaxed);
    }
    if (++s->wanted_passes > WANTED_PASSES) {
        atomic_store_explicit(&s->wanted, 0, memory_order_relaxed);
    }
    return s->max_bytes - atomic_load_explicit(&s->allocated, memory_order_relaxed) >= wanted;
}

/* Returns after how many ms to come again. */
static uint32_t housekeep(struct mm_spool *s)
{
    free_segments(s);
    uint64_t wanted = atomic_load_explicit(&s->wanted, memory_order_relaxed);
    bool room;    /* an append may succeed */
    bool reserve; /* ... and some more: dropping the oldest takes a while and must begin in time */
    if (wanted != 0) {
        room = reserve = make_room(s, wanted);
    } else {
        s->wanted_passes = 0;
        int n = prepare_segments(s);
        room = n > 0;
        reserve = n == N_SPARE;
    }
    if (room) {
        atomic_store_explicit(&s->full, false, memory_order_relaxed);
    }
    bool only_tail = atomic_load_explicit(&s->first->next, memory_order_acquire) == NULL;
    if (!reserve && s->drop_oldest && !only_tail) {
        atomic_store_explicit(&s->drop_position, (s->first->number + 1) << 32,
                              memory_order_relaxed);
        return SHORT_INTERVAL_MS;
    }
    return only_tail && wanted == 0 ? IDLE_INTERVAL_MS : BUSY_INTERVAL_MS;
}

static void *housekeeper_main(void *arg)
{
    struct mm_spool *s = arg;
    while (!atomic_load_explicit(&s->stop, memory_order_relaxed)) {
        /* Read before the work is done: a knock in between ends the wait at once. */
        uint32_t knocks = atomic_load_explicit(&s->knocks, memory_order_relaxed);
        uint32_t pause_ms = housekeep(s);
        futex_wait(&s->knocks, knocks, pause_ms);
    }
    return NULL;
}

static int start_housekeeper(struct mm_spool *s)
{
    /* The broker's signals are the broker's: an unmasked thread would run its handlers. */
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int err = pthread_create(&s->housekeeper, NULL, housekeeper_main, s);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (err == 0) {
        pthread_setname_np(s->housekeeper, "mm-spool");
    }
    return err;
}

/* --- open, close --------------------------------------------------------------------------------
 */

/* A version 4 UUID (RFC 9562 section 5.4). */
static int make_uuid(char out[37])
{
    uint8_t b[16];
    if (getrandom(b, sizeof b, 0) != (ssize_t)sizeof b) {
        return MM_EINVAL;
    }
    b[6] = (uint8_t)((b[6] & 0x0F) | 0x40);
    b[8] = (uint8_t)((b[8] & 0x3F) | 0x80);
    char *p = out;
    for (int i = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10) {
            *p++ = '-';
        }
        p += snprintf(p, 3, "%02x", b[i]);
    }
    return 0;
}

static uint32_t choose_segment_size(const struct mm_spool_options *opts)
{
    uint64_t size = opts->segment_bytes;
    if (size == 0) {
        size = opts->max_bytes / SEGMENTS_PER_LIMIT / MIN_SEGMENT_BYTES * MIN_SEGMENT_BYTES;
        size = size < MIN_SEGMENT_BYTES ? MIN_SEGMENT_BYTES : size;
        size = size > MAX_SEGMENT_BYTES ? MAX_SEGMENT_BYTES : size;
    }
    return mm_segment_round(size);
}

int mm_spool_open(const struct mm_spool_options *opts,
                  struct mm_spool **out,
                  char *errstr,
                  size_t errstr_len)
{
    *out = NULL;
    uint32_t segment_size = choose_segment_size(opts);
    if (opts->n_readers == 0 || opts->max_bytes < MIN_BYTES || segment_size > opts->max_bytes / 4) {
        snprintf(errstr, errstr_len,
                 "the spool needs at least %" PRIu64 " bytes and four segments, not %" PRIu64
                 " bytes",
                 MIN_BYTES, opts->max_bytes);
        return MM_EINVAL;
    }
    struct mm_spool *s = aligned_alloc(alignof(struct mm_spool), sizeof *s);
    if (s == NULL) {
        snprintf(errstr, errstr_len, "%s", mm_strerror(MM_ENOMEM));
        return MM_ENOMEM;
    }
    memset(s, 0, sizeof *s);
    s->max_bytes = opts->max_bytes;
    s->segment_size = segment_size;
    s->n_readers = opts->n_readers;
    s->drop_oldest = opts->drop_oldest;
    s->next_seq = 1;

    int err = MM_ENOMEM;
    s->readers =
        aligned_alloc(alignof(struct mm_spool_reader), opts->n_readers * sizeof *s->readers);
    s->n_appended = calloc(opts->n_readers, sizeof *s->n_appended);
    struct mm_segment *seg = NULL;
    if (s->readers == NULL || s->n_appended == NULL || new_segment(s, segment_size, &seg) != 0) {
        snprintf(errstr, errstr_len, "%s", mm_strerror(err));
        goto fail;
    }
    mm_segment_populate(seg);
    link_segment(s, seg);
    s->first = seg;
    atomic_init(&s->first_number, seg->number);
    memset(s->readers, 0, opts->n_readers * sizeof *s->readers);
    for (uint32_t k = 0; k < opts->n_readers; k++) {
        s->readers[k].spool = s;
        s->readers[k].shard = k;
        s->readers[k].segment = seg;
        atomic_init(&s->readers[k].low, position(seg, 0));
    }
    err = make_uuid(s->uuid);
    if (err != 0) {
        snprintf(errstr, errstr_len, "the system gave no random bytes for the spool's id");
        goto fail;
    }
    (void)prepare_segments(s);
    int thread_err = start_housekeeper(s);
    if (thread_err != 0) {
        err = MM_ETHREAD;
        char reason[64];
        snprintf(errstr, errstr_len, "the spool's thread could not be started: %s",
                 strerror_r(thread_err, reason, sizeof reason));
        goto fail;
    }
    *out = s;
    return 0;

fail:
    for (int i = 0; i < N_SPARE; i++) {
        mm_segment_free(atomic_load_explicit(&s->spare[i], memory_order_relaxed));
    }
    mm_segment_free(seg);
    free(s->n_appended);
    free(s->readers);
    free(s);
    return err;
}

void mm_spool_close(struct mm_spool *s)
{
    if (s == NULL) {
        return;
    }
    atomic_store_explicit(&s->stop, true, memory_order_relaxed);
    knock(s);
    pthread_join(s->housekeeper, NULL);
    for (struct mm_segment *seg = s->first; seg != NULL;) {
        struct mm_segment *next = atomic_load_explicit(&seg->next, memory_order_relaxed);
        mm_segment_free(seg);
        seg = next;
    }
    for (struct mm_segment *spare; (spare = take_spare(s)) != NULL;) {
        mm_segment_free(spare);
    }
    free(s->n_appended);
    free(s->readers);
    free(s);
}

/* --- figures ------------------------------------------------------------------------------------
 */

const char *mm_spool_uuid(const struct mm_spool *s)
{
    return s->uuid;
}

uint64_t mm_spool_appended(const struct mm_spool *s, uint32_t k)
{
    return atomic_load_explicit(&s->n_appended[k], memory_order_relaxed);
}

void mm_spool_stats(const struct mm_spool *s, struct mm_spool_stats *out)
{
    memset(out, 0, sizeof *out);
    out->limit_bytes = s->max_bytes;
    out->allocated_bytes = atomic_load_explicit(&s->allocated, memory_order_relaxed);
    out->n_segments = atomic_load_explicit(&s->n_segments, memory_order_relaxed);
    out->n_unprepared = atomic_load_explicit(&s->n_unprepared, memory_order_relaxed);
    out->n_wakes = atomic_load_explicit(&s->n_wakes, memory_order_relaxed);
    out->drop_oldest = s->drop_oldest;
    out->full = atomic_load_explicit(&s->full, memory_order_relaxed);
    for (uint32_t k = 0; k < s->n_readers; k++) {
        out->n_appended += mm_spool_appended(s, k);
    }
    /* What is finished in the oldest segment counts as given back too. */
    uint64_t low = acked(s);
    uint64_t finished = atomic_load_explicit(&s->bytes_freed, memory_order_relaxed);
    if (low >> 32 == atomic_load_explicit(&s->first_number, memory_order_relaxed)) {
        finished += low & UINT32_MAX;
    }
    uint64_t appended = atomic_load_explicit(&s->bytes_appended, memory_order_relaxed);
    out->used_bytes = appended > finished ? appended - finished : 0;
}
