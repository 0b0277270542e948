/* The keeper: what the disk has to be waited for is done here, away from the producer.
 *
 * The order that recovery relies on: STATE says that records are finished, and STATE is on the disk
 * (unless the policy is never), before the segment that held them is deleted. So a segment that is
 * missing is always a loss and never a legal state. */
#include "mm_clock.h"
#include "mm_error.h"
#include "mm_spool_impl.h"
#include "mm_thread.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PASS_MS 50
#define STATE_INTERVAL_MS 100
#define NAMES_INTERVAL_NS (500 * UINT64_C(1000000))
#define CHECKPOINT_TRIES 300
#define CHECKPOINT_PAUSE_US 1000
#define FOUND_PER_PASS 16
#define LINE_INTERVAL_NS (60 * UINT64_C(1000000000))

static void count_error(struct mm_spool *s)
{
    atomic_fetch_add_explicit(&s->n_io_errors, 1, memory_order_relaxed);
}

void mm_keeper_tell(struct mm_spool *s,
                    struct mm_log_limit *limit,
                    const char *what,
                    const char *then)
{
    char reason[64];
    const char *text = strerror_r(errno, reason, sizeof reason);
    uint64_t n_held = 0;
    count_error(s);
    if (pthread_mutex_trylock(&s->tell_lock) != 0) {
        return; /* another thread tells of it just now */
    }
    if (mm_log_allowed(limit, mm_spool_now_ns(), LINE_INTERVAL_NS, &n_held)) {
        mm_log_write(s->log, MM_LOG_ERROR,
                     "spool_dir \"%s\": %s: %s; %s; %" PRIu64 " more since the last such line",
                     mm_dir_path(s->dir), what, text, then, n_held);
    }
    pthread_mutex_unlock(&s->tell_lock);
}

/* --- seals --------------------------------------------------------------------------------------
 */

/* Seal what the producer has left behind. The records of this process are numbered without gaps
 * but for those that could not be synced. */
static void seal_segments(struct mm_spool *s)
{
    struct mm_segment *next;
    for (; (next = atomic_load(&s->unsealed->next)) != NULL; s->unsealed = next) {
        struct mm_segment *seg = s->unsealed;
        uint32_t end = atomic_load_explicit(&seg->end, memory_order_relaxed);
        if (seg->sealed || end == seg->start) {
            continue; /* a segment without records has no seal */
        }
        struct mm_layout_seal seal = {
            .first_seq = seg->first_seq,
            .last_seq = next->first_seq - 1,
            .n_records = next->first_seq - seg->first_seq,
            .first_ms = seg->first_ms,
            .end = end,
        };
        if (mm_segment_seal(seg, &seal) != 0) {
            mm_keeper_tell(s, &s->state_limit, "a segment could not be sealed",
                           "it is read through at the next start");
        }
        seg->sealed = true;
    }
}

/* --- sync ---------------------------------------------------------------------------------------
 */

static bool has_failed(const struct mm_segment *seg)
{
    return atomic_load_explicit(&seg->failed, memory_order_relaxed);
}

static void tell_of_sync(struct mm_spool *s)
{
    mm_keeper_tell(s, &s->sync_limit, "a sync failed",
                   s->sync == MM_SPOOL_SYNC_ALWAYS
                       ? "QoS 1 and 2 are refused until a sync succeeds on a new segment"
                       : "the spool is degraded until a sync succeeds on a new segment: what was "
                         "received since the last sync survives the broker's end, but not the "
                         "system's");
}

/* The pages of a failed sync may count as clean in the kernel, so that a later success would prove
 * nothing: this segment is not asked again. What it holds is still in memory and is delivered from
 * there; what comes next goes into a new segment. */
static void sync_failed(struct mm_spool *s, struct mm_segment *seg)
{
    tell_of_sync(s);
    atomic_store_explicit(&s->degraded, true, memory_order_relaxed);
    atomic_store_explicit(&s->sync_failed, true, memory_order_relaxed);
    mm_segment_pin(seg);
    atomic_store_explicit(&seg->failed, true, memory_order_relaxed);
    if (atomic_load_explicit(&s->tail_now, memory_order_relaxed) == seg) {
        atomic_store_explicit(&s->roll_wanted, true, memory_order_relaxed);
    }
}

void mm_keeper_sync_failed(struct mm_spool *s)
{
    tell_of_sync(s);
    atomic_store_explicit(&s->tail->failed, true, memory_order_relaxed);
    atomic_store_explicit(&s->degraded, true, memory_order_relaxed);
    atomic_store_explicit(&s->sync_failed, true, memory_order_relaxed);
    atomic_store_explicit(&s->roll_wanted, true, memory_order_relaxed);
}

static int timed_sync(struct mm_spool *s, const struct mm_segment *seg, uint32_t end, bool whole)
{
    uint64_t begin = mm_spool_now_ns();
    int err = mm_segment_sync(seg, seg->synced, end, whole);
    uint64_t took = mm_spool_now_ns() - begin;
    if (took > atomic_load_explicit(&s->sync_max_ns, memory_order_relaxed)) {
        atomic_store_explicit(&s->sync_max_ns, took, memory_order_relaxed);
    }
    return err;
}

/* A sync of this segment succeeded. */
static void sync_succeeded(struct mm_spool *s, const struct mm_segment *seg)
{
    atomic_fetch_add_explicit(&s->n_synced, 1, memory_order_relaxed);
    atomic_store_explicit(&s->synced_ms, mm_clock_realtime_ms(), memory_order_relaxed);
    if (atomic_load_explicit(&s->degraded, memory_order_relaxed) && !has_failed(seg) &&
        !atomic_load_explicit(&s->roll_wanted, memory_order_relaxed)) {
        atomic_store_explicit(&s->degraded, false, memory_order_relaxed);
        mm_log_write(s->log, MM_LOG_WARN, "spool_dir \"%s\": a sync has succeeded again",
                     mm_dir_path(s->dir));
    }
}

/* A segment that takes no more records: sync it for the last time and close it. */
static int settle(struct mm_spool *s, struct mm_segment *seg)
{
    int err = 0;
    if (!seg->settled && s->sync != MM_SPOOL_SYNC_NEVER && !has_failed(seg)) {
        mm_segment_forget_pages(seg, seg->synced, seg->size);
        err = timed_sync(s, seg, 0, true);
        if (err == 0) {
            sync_succeeded(s, seg);
        } else {
            sync_failed(s, seg);
        }
    }
    seg->settled = true;
    mm_segment_close(seg);
    return err;
}

static int sync_tail(struct mm_spool *s, struct mm_segment *seg)
{
    uint32_t end = atomic_load_explicit(&seg->end, memory_order_acquire);
    bool degraded = atomic_load_explicit(&s->degraded, memory_order_relaxed);
    if (has_failed(seg)) {
        return end > seg->synced ? MM_EIO : 0;
    }
    if (seg->settled || (end <= seg->synced && !degraded)) {
        return 0;
    }
    mm_segment_forget_pages(seg, seg->synced, end);
    pthread_mutex_lock(&s->sync_lock);
    int err = timed_sync(s, seg, end, degraded);
    if (err != 0) {
        sync_failed(s, seg);
    }
    pthread_mutex_unlock(&s->sync_lock);
    if (err != 0) {
        return err;
    }
    seg->synced = end;
    sync_succeeded(s, seg);
    /* The page in which the next record begins is read-only now: a fault for us, not the producer.
     */
    mm_segment_populate(seg, end, end + 1);
    return 0;
}

/* Make the names of new files safe, without which their bytes are not. */
static int sync_names(struct mm_spool *s)
{
    if (s->sync == MM_SPOOL_SYNC_NEVER ||
        !atomic_exchange_explicit(&s->dir_dirty, false, memory_order_relaxed)) {
        return 0;
    }
    if (mm_dir_sync(s->dir) != 0) {
        atomic_store_explicit(&s->dir_dirty, true, memory_order_relaxed);
        mm_keeper_tell(s, &s->sync_limit, "the directory could not be synced", "it is tried again");
        return MM_EIO;
    }
    return 0;
}

/* Settle what is sealed, at once, so that there is never much to be written; the tail, with
 * `all`, too. */
static int sync_segments(struct mm_spool *s, bool all)
{
    int err = 0;
    uint64_t appended = atomic_load_explicit(&s->bytes_appended, memory_order_relaxed);
    if (all || s->unsettled != s->unsealed) {
        err = sync_names(s);
    }
    for (; s->unsettled != s->unsealed;
         s->unsettled = atomic_load_explicit(&s->unsettled->next, memory_order_relaxed)) {
        int settle_err = settle(s, s->unsettled);
        err = err == 0 ? settle_err : err;
    }
    if (all && s->sync != MM_SPOOL_SYNC_NEVER) {
        int tail_err = sync_tail(s, s->unsettled);
        err = err == 0 ? tail_err : err;
    }
    if (all && err == 0 && s->sync != MM_SPOOL_SYNC_NEVER) {
        atomic_store_explicit(&s->bytes_synced, appended, memory_order_relaxed);
    }
    return err;
}

static int sync_found_segment(struct mm_spool *s, const struct mm_segment *seg)
{
    int fd = mm_segment_open(s->dir, seg->file, false);
    if (fd < 0) {
        return fd == MM_EAGAIN ? 0 : fd; /* somebody has deleted it: it is lost */
    }
    int err = fdatasync(fd) == 0 ? 0 : MM_EIO;
    int reason = errno;
    close(fd);
    errno = reason;
    return err;
}

/* An earlier process was killed before it had synced all that it had acknowledged, and nobody else
 * will. A few files at a time, so that ours do not wait for those of a large backlog; or all. */
static int sync_found(struct mm_spool *s, bool all)
{
    int err = 0;
    for (int n = 0; s->found_unsynced != NULL && (all || n < FOUND_PER_PASS); n++) {
        struct mm_segment *seg = s->found_unsynced;
        if (seg->max_seq == 0) { /* ours: they have come to their end */
            s->found_unsynced = NULL;
            break;
        }
        if (sync_found_segment(s, seg) != 0) {
            err = MM_EIO; /* not asked again, as in sync_failed() */
            tell_of_sync(s);
            atomic_store_explicit(&s->degraded, true, memory_order_relaxed);
            atomic_store_explicit(&s->sync_failed, true, memory_order_relaxed);
        }
        s->found_unsynced = atomic_load_explicit(&seg->next, memory_order_relaxed);
    }
    return err;
}

/* --- files that somebody deletes ----------------------------------------------------------------
 */

/* A file without a name ends with the process, and what is in it. */
static void note_deleted_tail(struct mm_spool *s, struct mm_segment *seg)
{
    errno = ENOENT;
    mm_keeper_tell(s, &s->gone_limit, "somebody deleted the newest segment",
                   "the next messages go into another one; those in it are lost if the broker ends "
                   "before they are delivered");
    atomic_store_explicit(&seg->failed, true, memory_order_relaxed);
    atomic_store_explicit(&s->roll_wanted, true, memory_order_relaxed);
    if (s->sync != MM_SPOOL_SYNC_NEVER) {
        atomic_store_explicit(&s->sync_failed, true, memory_order_relaxed);
        atomic_store_explicit(&s->degraded, true, memory_order_relaxed);
    }
}

static void note_gone(struct mm_spool *s)
{
    errno = ENOENT;
    mm_keeper_tell(s, &s->gone_limit, "somebody removed the directory",
                   "messages are refused until the broker is started again, which makes a new one");
    atomic_store_explicit(&s->gone, true, memory_order_relaxed);
    atomic_store_explicit(&s->roll_wanted, true, memory_order_relaxed);
    atomic_store_explicit(&s->degraded, true, memory_order_relaxed);
}

/* Are directory, STATE and the newest segment still where the next start looks for them? */
static void look_for_files(struct mm_spool *s, uint64_t now_ns)
{
    if (now_ns < s->names_ns) {
        return;
    }
    s->names_ns = now_ns + NAMES_INTERVAL_NS;
    if (mm_dir_is_gone(s->dir)) {
        note_gone(s);
        return;
    }
    pthread_mutex_lock(&s->state_lock);
    if (mm_dir_restore_state(s->dir)) {
        s->n_states = 0; /* it is another file: both slots again */
        atomic_store_explicit(&s->dir_dirty, true, memory_order_relaxed);
    }
    pthread_mutex_unlock(&s->state_lock);
    pthread_mutex_lock(&s->list_lock); /* what we see is not freed meanwhile */
    struct mm_segment *seg = atomic_load_explicit(&s->tail_now, memory_order_acquire);
    if (!has_failed(seg) && mm_segment_is_deleted(seg)) {
        note_deleted_tail(s, seg);
    }
    pthread_mutex_unlock(&s->list_lock);
}

/* --- STATE --------------------------------------------------------------------------------------
 */

/* The first hash of shard k of n: mm_topic_shard() is k from here on. */
static uint32_t shard_begin(uint32_t k, uint32_t n)
{
    return (uint32_t)((((uint64_t)k << 32) + n - 1) / n);
}

/* Join the two neighbours whose joining costs least: the lower of their lows counts for both. */
static void join_ranges(struct mm_layout_state *state)
{
    uint32_t best = 1;
    uint64_t best_cost = UINT64_MAX;
    for (uint32_t i = 1; i < state->n_ranges; i++) {
        uint64_t a = state->ranges[i - 1].low;
        uint64_t b = state->ranges[i].low;
        uint64_t cost = a > b ? a - b : b - a;
        if (cost < best_cost) {
            best = i;
            best_cost = cost;
        }
    }
    struct mm_layout_range *left = &state->ranges[best - 1];
    left->low = left->low < state->ranges[best].low ? left->low : state->ranges[best].low;
    state->n_ranges--;
    memmove(&state->ranges[best], &state->ranges[best + 1],
            (state->n_ranges - best) * sizeof state->ranges[0]);
}

static void add_range(struct mm_layout_state *state, uint32_t hash, uint64_t low)
{
    if (state->n_ranges > 0 && state->ranges[state->n_ranges - 1].low == low) {
        return;
    }
    if (state->n_ranges == MM_LAYOUT_RANGES_MAX) {
        join_ranges(state);
    }
    state->ranges[state->n_ranges].hash = hash;
    state->ranges[state->n_ranges].low = low;
    state->n_ranges++;
}

/* Finished is what earlier processes finished, and what our readers did: walk over the ranges of
 * both, which begin at different hashes. */
static void merge_ranges(const struct mm_spool *s,
                         const uint64_t lows[MM_LAYOUT_SHARDS_MAX],
                         struct mm_layout_state *state)
{
    uint32_t k = 0;
    uint32_t i = 0;
    state->n_ranges = 0;
    for (uint32_t hash = 0;;) {
        uint64_t old = s->n_old == 0 ? 0 : s->old[i].low;
        add_range(state, hash, old > lows[k] ? old : lows[k]);
        bool more_shards = k + 1 < s->n_readers;
        bool more_old = i + 1 < s->n_old;
        if (!more_shards && !more_old) {
            return;
        }
        uint32_t shard = more_shards ? shard_begin(k + 1, s->n_readers) : UINT32_MAX;
        uint32_t range = more_old ? s->old[i + 1].hash : UINT32_MAX;
        hash = shard < range ? shard : range;
        k += more_shards && shard == hash;
        i += more_old && range == hash;
    }
}

/* Of the records that an earlier process had delivered and counted some are lost, and the others
 * are read: who is left over is lost and had been counted. Not to be taken by new records. */
static void limit_repeats(struct mm_spool *s, uint64_t n_unfinished)
{
    uint64_t left = atomic_load_explicit(&s->repeats_left, memory_order_relaxed);
    while (left > n_unfinished) {
        if (atomic_compare_exchange_weak_explicit(&s->repeats_left, &left, n_unfinished,
                                                  memory_order_relaxed, memory_order_relaxed)) {
            atomic_fetch_add_explicit(&s->n_lost_repeat, left - n_unfinished, memory_order_relaxed);
            return;
        }
    }
}

static void build_state(struct mm_spool *s, bool clean, struct mm_layout_state *state)
{
    uint64_t lows[MM_LAYOUT_SHARDS_MAX] = {0};
    struct mm_spool_progress p[MM_LAYOUT_SHARDS_MAX] = {0};
    uint64_t n_done = 0;
    memset(state, 0, sizeof *state);
    for (uint32_t k = 0; k < s->n_readers; k++) {
        p[k] = mm_spool_progress(&s->readers[k]);
        lows[k] = p[k].low_seq;
        n_done += p[k].n_finished;
        state->n_repeat += p[k].n_repeat;
    }
    n_done += mm_spool_lost(s, p);
    /* Behind the readers' figures: whatever they have finished was appended before. */
    uint64_t n_skipped = atomic_load_explicit(&s->n_skipped, memory_order_relaxed);
    state->next_seq = atomic_load_explicit(&s->next_seq_now, memory_order_acquire);
    uint64_t n_all = s->found.n_records + (state->next_seq - s->run_seq - n_skipped);
    state->n_pending = n_all > n_done ? n_all - n_done : 0;
    limit_repeats(s, state->n_pending > state->n_repeat ? state->n_pending - state->n_repeat : 0);
    /* Behind the readers' figures, where a repeat that was taken appears once it is not here: one
     * that is in both would be a record too few at the next start. */
    state->n_repeat += mm_spool_n_repeat(s);
    state->n_repeat = state->n_repeat < state->n_pending ? state->n_repeat : state->n_pending;
    state->version = MM_LAYOUT_VERSION;
    state->clean = clean;
    memcpy(state->uuid, s->uuid, sizeof state->uuid);
    memcpy(state->boot, s->boot, sizeof state->boot);
    merge_ranges(s, lows, state);
    /* Last: what is finished above has been counted before. An owner that has not begun yet leaves
     * them as they were. */
    memcpy(state->counters, s->found.counters, sizeof state->counters);
    if (s->counters != NULL) {
        s->counters(s->counters_arg, state->counters);
    }
}

/* Do they differ in nothing but generation and time? */
static bool same_state(const struct mm_layout_state *a, const struct mm_layout_state *b)
{
    if (a->next_seq != b->next_seq || a->n_pending != b->n_pending || a->n_repeat != b->n_repeat ||
        a->clean != b->clean || a->n_ranges != b->n_ranges ||
        memcmp(a->counters, b->counters, sizeof a->counters) != 0) {
        return false;
    }
    for (uint32_t i = 0; i < a->n_ranges; i++) {
        if (a->ranges[i].hash != b->ranges[i].hash || a->ranges[i].low != b->ranges[i].low) {
            return false;
        }
    }
    return true;
}

/* Write the next slot; state_lock is held. */
static int write_slot(struct mm_spool *s, bool clean)
{
    struct mm_layout_state state;
    build_state(s, clean, &state);
    if (same_state(&state, &s->state) && s->n_states >= 2) {
        return 0; /* both slots are to be written once */
    }
    state.generation = s->state.generation + 1;
    state.written_ms = mm_clock_realtime_ms();
    int err = mm_dir_write_state(s->dir, &state, s->sync != MM_SPOOL_SYNC_NEVER);
    if (err == 0) {
        s->state = state;
        s->n_states++;
    } else {
        mm_keeper_tell(s, &s->state_limit, "STATE could not be written",
                       "segments are kept until it can be, and messages may be delivered twice "
                       "after a crash");
    }
    return err;
}

int mm_keeper_write_state(struct mm_spool *s, bool clean)
{
    /* Who finds it being written waits and writes again: that one may be of a moment before. */
    pthread_mutex_lock(&s->state_lock);
    int err = write_slot(s, clean);
    pthread_mutex_unlock(&s->state_lock);
    return err;
}

void mm_keeper_checkpoint(struct mm_spool *s)
{
    /* A disk that hangs must not hang the caller for longer. By tries, since the lock's own
     * deadline by the monotonic clock is one that the thread sanitizer of gcc 12 does not know. */
    for (int n = 0; pthread_mutex_trylock(&s->state_lock) != 0; n++) {
        if (n == CHECKPOINT_TRIES) {
            return;
        }
        usleep(CHECKPOINT_PAUSE_US);
    }
    (void)write_slot(s, false);
    pthread_mutex_unlock(&s->state_lock);
}

/* --- giving back --------------------------------------------------------------------------------
 */

static bool in_use(const struct mm_spool *s, const struct mm_segment *seg)
{
    for (uint32_t k = 0; k < s->n_readers; k++) {
        if (atomic_load(&s->readers[k].hazard) == seg->number) {
            return true;
        }
    }
    return false;
}

/* Unmap what is settled: whoever still reads it reads the file. See hot_base() in mm_spool.c. */
static void unmap_segments(struct mm_spool *s)
{
    bool all = true;
    for (struct mm_segment *seg = s->mapped; seg != s->unsettled;
         seg = atomic_load_explicit(&seg->next, memory_order_relaxed)) {
        /* A segment that could not be synced is kept as long as anybody may read it: the file may
         * not be what the memory is. */
        if (seg->map != NULL && !has_failed(seg)) {
            atomic_store(&seg->base, NULL);
            if (!in_use(s, seg)) {
                pthread_mutex_lock(&s->list_lock);
                mm_segment_unmap(seg);
                pthread_mutex_unlock(&s->list_lock);
            }
        }
        all = all && seg->map == NULL;
        if (all) {
            s->mapped = atomic_load_explicit(&seg->next, memory_order_relaxed);
        }
    }
}

/* Take the oldest segment out of the log and delete its file. */
static void delete_first(struct mm_spool *s)
{
    struct mm_segment *seg = s->first;
    struct mm_segment *next = atomic_load_explicit(&seg->next, memory_order_acquire);
    uint64_t bytes = atomic_load_explicit(&seg->end, memory_order_relaxed) - seg->start;
    pthread_mutex_lock(&s->list_lock);
    s->first = next;
    s->unsealed = s->unsealed == seg ? next : s->unsealed;
    s->unsettled = s->unsettled == seg ? next : s->unsettled;
    s->found_unsynced = s->found_unsynced == seg ? next : s->found_unsynced;
    s->mapped = s->mapped == seg ? next : s->mapped;
    pthread_mutex_unlock(&s->list_lock);
    atomic_store_explicit(&s->bytes_freed,
                          atomic_load_explicit(&s->bytes_freed, memory_order_relaxed) + bytes,
                          memory_order_relaxed);
    atomic_store_explicit(&s->first_number, next->number, memory_order_relaxed);
    atomic_fetch_sub_explicit(&s->n_segments, 1, memory_order_relaxed);
    uint64_t file = seg->file;
    uint32_t size = file == 0 ? 0 : seg->size;
    mm_segment_free(seg);
    if (file != 0 && mm_segment_unlink(s->dir, file) != 0) {
        mm_keeper_tell(s, &s->unlink_limit, "a segment could not be deleted",
                       "its space is lost until the next start");
    }
    mm_spool_release_bytes(s, size);
}

static void delete_before(struct mm_spool *s, uint64_t number)
{
    while (s->first->number < number) {
        delete_first(s);
    }
}

/* Delete the segments that every reader has left behind. The tail is never among them. */
static void delete_segments(struct mm_spool *s)
{
    uint64_t first_needed = mm_spool_acked(s) >> 32;
    if (s->first->number >= first_needed) {
        return;
    }
    if (mm_keeper_write_state(s, false) != 0) {
        return;
    }
    if (s->sync != MM_SPOOL_SYNC_NEVER && mm_dir_sync_state(s->dir) != 0) {
        mm_keeper_tell(s, &s->state_limit, "STATE could not be synced",
                       "segments are kept until it can be");
        /* What was written may count as clean in the kernel and never reach the disk: a sync that
         * succeeds later is worth something only when it is written again. */
        pthread_mutex_lock(&s->state_lock);
        s->n_states = 0;
        pthread_mutex_unlock(&s->state_lock);
        return;
    }
    delete_before(s, first_needed);
}

/* --- passes -------------------------------------------------------------------------------------
 */

int mm_keeper_pass(struct mm_spool *s, bool force)
{
    pthread_mutex_lock(&s->keep_lock);
    uint64_t now_ns = mm_spool_now_ns();
    look_for_files(s, now_ns);
    seal_segments(s);
    bool all = force || now_ns >= s->sync_ns;
    int err = sync_segments(s, all);
    int found_err = sync_found(s, force);
    err = err != 0 ? err : found_err;
    if (all) {
        s->sync_ns = now_ns + s->sync_interval_ms * UINT64_C(1000000);
    }
    if (now_ns >= s->state_ns) {
        (void)mm_keeper_write_state(s, false);
        s->state_ns = now_ns + STATE_INTERVAL_MS * UINT64_C(1000000);
    }
    delete_segments(s);
    unmap_segments(s);
    pthread_mutex_unlock(&s->keep_lock);
    return err;
}

static void *keeper_main(void *arg)
{
    struct mm_spool *s = arg;
    while (!atomic_load_explicit(&s->stop, memory_order_relaxed)) {
        uint32_t knocks = atomic_load_explicit(&s->knocks, memory_order_relaxed);
        (void)mm_keeper_pass(s, false);
        mm_spool_futex_wait(&s->knocks, knocks,
                            s->sync_interval_ms < PASS_MS ? s->sync_interval_ms : PASS_MS);
    }
    return NULL;
}

int mm_keeper_start(struct mm_spool *s)
{
    int err = mm_thread_start("mm-keeper", keeper_main, s, &s->keeper);
    s->has_keeper = err == 0;
    return err;
}

/* Seal the tail, which takes no more records. */
static void seal_tail(struct mm_spool *s)
{
    struct mm_segment *seg = s->tail;
    uint32_t end = atomic_load_explicit(&seg->end, memory_order_relaxed);
    if (seg->sealed || end == seg->start) {
        return;
    }
    struct mm_layout_seal seal = {
        .first_seq = seg->first_seq,
        .last_seq = s->next_seq - 1,
        .n_records = s->next_seq - seg->first_seq,
        .first_ms = seg->first_ms,
        .end = end,
    };
    if (mm_segment_seal(seg, &seal) != 0) {
        count_error(s);
    }
    mm_segment_trim(seg, end);
    seg->sealed = true;
}

void mm_keeper_finish(struct mm_spool *s)
{
    uint64_t acked = mm_spool_acked(s);
    struct mm_segment *tail = s->tail;
    seal_segments(s);
    seal_tail(s);
    bool synced = sync_segments(s, true) == 0;
    synced = sync_found(s, true) == 0 && synced;
    bool written = mm_keeper_write_state(s, synced) == 0;
    if (s->sync != MM_SPOOL_SYNC_NEVER) {
        written = mm_dir_sync_state(s->dir) == 0 && written;
    }
    if (!written) {
        return;
    }
    delete_before(s, acked >> 32);
    /* The tail, too, when all of it is finished or there is nothing in it. */
    uint32_t end = atomic_load_explicit(&tail->end, memory_order_relaxed);
    bool finished = s->first == tail && acked >= (tail->number << 32 | end);
    if ((finished || end == tail->start) && tail->file != 0) {
        (void)mm_segment_unlink(s->dir, tail->file);
    }
    (void)mm_dir_sync(s->dir);
}
