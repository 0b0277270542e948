/* The housekeeper: segments are prepared here, so that the producer finds one when it needs it; in
 * memory, those that are finished are given back. */
#include "mm_error.h"
#include "mm_spool_impl.h"

#include <string.h>

/* For how many passes of the housekeeper (10 ms each) room is kept for a large record. */
#define WANTED_PASSES 500

#define SHORT_INTERVAL_MS 2
#define BUSY_INTERVAL_MS 10
#define IDLE_INTERVAL_MS 200

/* How often making a segment is tried again when the disk had no room or an error. */
#define RETRY_NS (100 * UINT64_C(1000000))
#define LOOK_NS (500 * UINT64_C(1000000))

/* Pages are made present so far ahead of the producer, within bounds: it is to have some when this
 * thread has to wait for a processor. So many bytes at most in one pass. */
#define AHEAD_NS (60 * UINT64_C(1000000))
#define AHEAD_MIN (UINT64_C(4) << 20)
#define AHEAD_MAX (UINT64_C(16) << 20)
#define POPULATE_STEP (4U * 1024 * 1024)

/* Of a segment on disk, before the producer comes to it. */
#define POPULATE_SPARE (1024U * 1024)

/* The pace is not measured over less. */
#define PACE_NS (2 * UINT64_C(1000000))

/* Make a segment that no reader needs ready for use again, or give it back. In memory. */
static void recycle(struct mm_spool *s, struct mm_segment *seg)
{
    if (seg->size == s->segment_size) {
        for (int i = 0; i < MM_SPOOL_SPARES; i++) {
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
    mm_spool_release_bytes(s, size);
}

/* Give back the segments that every reader has left behind. The tail is never among them. In
 * memory. */
static void free_segments(struct mm_spool *s)
{
    uint64_t first_needed = mm_spool_acked(s) >> 32;
    while (s->first->number < first_needed) {
        struct mm_segment *seg = s->first;
        s->first = atomic_load_explicit(&seg->next, memory_order_acquire);
        mm_spool_add(&s->bytes_freed, atomic_load_explicit(&seg->end, memory_order_relaxed));
        atomic_store_explicit(&s->first_number, s->first->number, memory_order_relaxed);
        atomic_fetch_sub_explicit(&s->n_segments, 1, memory_order_relaxed);
        recycle(s, seg);
    }
}

void mm_housekeeper_populate(struct mm_spool *s, struct mm_segment *seg)
{
    seg->populated = s->dir == NULL || seg->size < POPULATE_SPARE ? seg->size : POPULATE_SPARE;
    mm_segment_populate(seg, 0, seg->populated);
}

/* Fill the empty places for prepared segments. Returns how many are there. */
int mm_housekeeper_prepare(struct mm_spool *s)
{
    int n = 0;
    /* Once full, not again for the first bytes that come free: one segment more than needed. But
     * with the tail alone nothing else will come free. */
    bool more = atomic_load_explicit(&s->full, memory_order_relaxed) && !mm_spool_drops_oldest(s) &&
                atomic_load_explicit(&s->n_segments, memory_order_relaxed) > 1;
    uint64_t margin = more ? s->segment_size : 0;
    for (int i = 0; i < MM_SPOOL_SPARES; i++) {
        struct mm_segment *seg;
        if (atomic_load_explicit(&s->spare[i], memory_order_relaxed) != NULL) {
            n++;
            continue;
        }
        int err = mm_spool_new_segment(s, s->segment_size, n == 0 ? margin : 0, &seg);
        if (err == 0) {
            /* Handed over first: the producer may need it while its pages still come, and would
             * find no room otherwise. Nobody but this thread and the keeper ever unmaps it. */
            pthread_mutex_lock(&s->list_lock);
            atomic_store_explicit(&s->spare[i], seg, memory_order_release);
            mm_housekeeper_populate(s, seg);
            pthread_mutex_unlock(&s->list_lock);
            n++;
        } else {
            atomic_store_explicit(&s->no_room_error, err, memory_order_relaxed);
            s->retry_ns = s->dir == NULL ? 0 : mm_spool_now_ns() + RETRY_NS;
            break;
        }
    }
    /* Behind its reason, which whoever finds no room takes for his own. */
    atomic_store_explicit(&s->no_room, n == 0, memory_order_release);
    return n;
}

static int count_spares(const struct mm_spool *s)
{
    int n = 0;
    for (int i = 0; i < MM_SPOOL_SPARES; i++) {
        n += atomic_load_explicit(&s->spare[i], memory_order_relaxed) != NULL;
    }
    return n;
}

/* How fast does the producer go? */
static void note_pace(struct mm_spool *s, uint64_t now_ns)
{
    uint64_t took = now_ns - s->pace_ns;
    if (took < PACE_NS) {
        return;
    }
    uint64_t appended = atomic_load_explicit(&s->bytes_appended, memory_order_relaxed);
    /* Of a day without a pass it says nothing, but 64 bits hold it. */
    s->pace = (appended - s->pace_appended) * 1000 / (took / 1000000);
    s->pace_ns = now_ns;
    s->pace_appended = appended;
}

/* Keep the pages ahead of the producer present. True when more are wanted than one pass makes. On
 * disk. */
static bool populate_ahead(struct mm_spool *s)
{
    if (s->dir == NULL || !s->map) {
        return false;
    }
    uint64_t ahead = s->pace * AHEAD_NS / 1000000000;
    ahead = ahead < AHEAD_MIN ? AHEAD_MIN : ahead > AHEAD_MAX ? AHEAD_MAX : ahead;
    bool more = false;
    pthread_mutex_lock(&s->list_lock); /* the keeper does not take the segment away meanwhile */
    struct mm_segment *seg = atomic_load_explicit(&s->tail_now, memory_order_acquire);
    uint32_t end = atomic_load_explicit(&seg->end, memory_order_relaxed);
    uint32_t from = seg->populated > end ? seg->populated : end;
    if (seg->map != NULL && from < seg->size && from - end < ahead / 2) {
        uint32_t to = seg->size - from > POPULATE_STEP ? from + POPULATE_STEP : seg->size;
        mm_segment_populate(seg, from, to);
        seg->populated = to;
        more = to < seg->size && to - end < ahead;
    }
    pthread_mutex_unlock(&s->list_lock);
    return more;
}

/* A large record found no room: make it, and keep it until the publisher has sent again. True while
 * the room is wanted and there. */
static bool make_room(struct mm_spool *s, uint64_t wanted)
{
    for (struct mm_segment *spare; (spare = mm_spool_take_spare(s)) != NULL;) {
        mm_spool_discard(s, spare);
    }
    if (++s->wanted_passes > WANTED_PASSES) {
        atomic_store_explicit(&s->wanted, 0, memory_order_relaxed);
    }
    uint64_t allocated = atomic_load_explicit(&s->budget->allocated, memory_order_relaxed);
    uint64_t limit = mm_spool_limit(s);
    return allocated <= limit && limit - allocated >= wanted &&
           (s->dir == NULL || mm_spool_space_for(s, wanted));
}

/* How much room has the file system? */
static void look_at_space(struct mm_spool *s, uint64_t now_ns)
{
    uint64_t free_bytes;
    uint64_t total;
    if (s->dir == NULL || now_ns < s->look_ns || mm_dir_space(s->dir, &free_bytes, &total) != 0) {
        return;
    }
    s->look_ns = now_ns + LOOK_NS;
    uint64_t ours = free_bytes > s->min_free ? free_bytes - s->min_free : 0;
    atomic_store_explicit(&s->free_bytes, ours, memory_order_relaxed);
    /* As long as less than two segments are to be had, and some are still needed. */
    uint64_t old = atomic_load_explicit(&s->allocated, memory_order_relaxed);
    old -= old < s->segment_size ? old : s->segment_size;
    s->taken = free_bytes + old < s->min_free + s->segment_size;
    uint64_t limit_left = mm_spool_limit(s);
    uint64_t allocated = atomic_load_explicit(&s->budget->allocated, memory_order_relaxed);
    limit_left = allocated < limit_left ? limit_left - allocated : 0;
    bool low = ours < 2 * (uint64_t)s->segment_size && limit_left >= s->segment_size;
    atomic_store_explicit(&s->low_space, low, memory_order_relaxed);
}

/* Let the oldest segment go, but never the tail, whose records are the newest. The keeper may be
 * deleting segments meanwhile. */
static bool drop_first(struct mm_spool *s)
{
    pthread_mutex_lock(&s->list_lock); /* the tail that we see is not freed meanwhile */
    uint64_t tail = atomic_load_explicit(&s->tail_now, memory_order_acquire)->number;
    pthread_mutex_unlock(&s->list_lock);
    uint64_t first = atomic_load_explicit(&s->first_number, memory_order_relaxed);
    if (first >= tail) {
        return false;
    }
    atomic_store_explicit(&s->drop_position, (first + 1) << 32, memory_order_relaxed);
    return true;
}

/* Returns after how many ms to come again. */
static uint32_t housekeep(struct mm_spool *s)
{
    if (s->dir == NULL) {
        free_segments(s);
    }
    uint64_t now_ns = mm_spool_now_ns();
    look_at_space(s, now_ns);
    note_pace(s, now_ns);
    bool more_pages = populate_ahead(s);
    uint64_t wanted = atomic_load_explicit(&s->wanted, memory_order_relaxed);
    bool room;    /* an append may succeed */
    bool reserve; /* ... and some more: dropping the oldest takes a while and must begin in time */
    bool lacking; /* it is room that is wanting, and not descriptors, say: dropping may help */
    if (wanted != 0) {
        room = reserve = make_room(s, wanted);
        lacking = !reserve;
    } else {
        s->wanted_passes = 0;
        int n = s->manual || now_ns < s->retry_ns ? count_spares(s) : mm_housekeeper_prepare(s);
        room = n > 0 || s->manual;
        reserve = n == MM_SPOOL_SPARES;
        int error = atomic_load_explicit(&s->no_room_error, memory_order_relaxed);
        lacking = !reserve && (s->manual || error == MM_EFULL);
    }
    bool tight = !reserve && !mm_spool_drops_oldest(s) && !s->manual;
    atomic_store_explicit(&s->tight, tight, memory_order_relaxed);
    if (room) {
        atomic_store_explicit(&s->full, false, memory_order_relaxed);
    }
    bool only_tail = atomic_load_explicit(&s->n_segments, memory_order_relaxed) == 1;
    if (lacking && mm_spool_drops_oldest(s)) {
        s->look_ns = 0; /* what was seen last may be older than the want */
        look_at_space(s, now_ns);
        /* Where others took the disk, all that is stored would go, and for nothing. */
        if (!s->taken && drop_first(s)) {
            return SHORT_INTERVAL_MS;
        }
    }
    if (more_pages) {
        return SHORT_INTERVAL_MS;
    }
    bool slow = s->pace * IDLE_INTERVAL_MS / 1000 < AHEAD_MIN / 2;
    return only_tail && wanted == 0 && room && slow ? IDLE_INTERVAL_MS : BUSY_INTERVAL_MS;
}

void mm_spool_tick(struct mm_spool *s)
{
    (void)housekeep(s);
    if (s->dir != NULL) {
        (void)mm_keeper_pass(s, false);
    }
}

void *mm_housekeeper_main(void *arg)
{
    struct mm_spool *s = arg;
    while (!atomic_load_explicit(&s->stop, memory_order_relaxed)) {
        /* Read before the work is done: a knock in between ends the wait at once. */
        uint32_t knocks = atomic_load_explicit(&s->knocks, memory_order_relaxed);
        uint32_t pause_ms = housekeep(s);
        mm_spool_futex_wait(&s->knocks, knocks, pause_ms);
    }
    return NULL;
}
