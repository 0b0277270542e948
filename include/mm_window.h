/* mm_window.h - the records that a worker has taken from the log and not yet given back.
 *
 * A ring of entries, one for each record, in the order of the log. They are counted from 0 as they
 * come; a number never comes again. Four numbers are always in this order:
 *
 *     head <= low <= next <= tail        and        tail - head <= the ring's length
 *
 * Before head everything is done. Before low everything is done or an orphan: the log may have the
 * place back. An entry that is done behind one that is not waits here until that one is. Sending
 * goes on at next; after a failure next goes back to low. Entries that cannot be sent just now,
 * while those behind them can, are skipped: next passes them, and comes back when they can.
 *
 * Bookkeeping only: who sends, and why, is known in mm_worker.c.
 *
 * Thread: one, the worker's. */
#ifndef MM_WINDOW_H
#define MM_WINDOW_H

#include "mm_spool.h"

#include <stdbool.h>
#include <stdint.h>

enum mm_entry_state {
    MM_ENTRY_WAITING, /* to be sent, for the first time or again */
    MM_ENTRY_IN_FLIGHT,
    MM_ENTRY_SUSPECT, /* to be sent alone */
    MM_ENTRY_COPIED,  /* parked; done when the copy is on the disk */
    MM_ENTRY_DONE,
};

#define MM_ENTRY_SENT 0x01     /* was handed to the Kafka client before */
#define MM_ENTRY_MAYBE 0x02    /* ... and may have been stored without our hearing of it */
#define MM_ENTRY_ORPHAN 0x04   /* its place in the log is wanted back: it is not to be read again */
#define MM_ENTRY_ALONE 0x08    /* in flight by itself, as a suspect */
#define MM_ENTRY_STAMPED 0x10  /* was sent with the time of its sending as its time stamp */
#define MM_ENTRY_UNROUTED 0x20 /* its lane is not known: the routes have changed since */

/* A record in the window. */
struct mm_entry
{
    struct mm_segment *segment; /* with offset and seq: its place in the log */
    uint64_t seq;
    uint64_t time_ms; /* of receipt, since the epoch */
    uint32_t offset;
    uint16_t lane; /* of mm_route.h */
    uint8_t state; /* enum mm_entry_state; copied and done only by the functions below */
    uint8_t flags;
};

/* All fields but the entries' state and flags, and next, are to be read only. */
struct mm_window
{
    struct mm_entry *entries;
    uint64_t mask; /* length of the ring, a power of two, less 1 */
    uint64_t head;
    uint64_t low;
    uint64_t next;    /* the next to send */
    uint64_t skipped; /* the first that next has skipped; UINT64_MAX: none */
    uint64_t tail;
    uint64_t n_taken;  /* records taken ever */
    uint64_t n_held;   /* of those, neither copied nor done */
    uint64_t n_ahead;  /* entries at low or behind it that are copied or done */
    uint64_t n_copied; /* entries that are copied and not done */
};

/* len: of the ring, a power of two. Errors: MM_ENOMEM. */
int mm_window_init(struct mm_window *win, uint64_t len);

/* Accepts a window that is all zero. */
void mm_window_fini(struct mm_window *win);

/* Entry number index, head <= index < tail. */
static inline struct mm_entry *mm_window_at(const struct mm_window *win, uint64_t index)
{
    return &win->entries[index & win->mask];
}

static inline struct mm_spool_pos mm_entry_pos(const struct mm_entry *e)
{
    return (struct mm_spool_pos){.segment = e->segment, .offset = e->offset, .seq = e->seq};
}

static inline bool mm_window_full(const struct mm_window *win)
{
    return win->tail - win->head > win->mask;
}

/* The number of an entry. */
uint64_t mm_window_index(const struct mm_window *win, const struct mm_entry *e);

/* Take a record in, behind all others. The window is not full. */
struct mm_entry *mm_window_add(struct mm_window *win,
                               const struct mm_spool_pos *pos,
                               uint64_t time_ms,
                               uint16_t lane);

/* Count a record that is taken and done at once. Only while low == tail. */
void mm_window_pass(struct mm_window *win);

/* The entry is done. */
void mm_window_finish(struct mm_window *win, struct mm_entry *e);

/* The entry, which waits, is copied; and the other way: it waits again, and was skipped. */
void mm_window_copy(struct mm_window *win, struct mm_entry *e);
void mm_window_uncopy(struct mm_window *win, struct mm_entry *e);

/* Move head and low over what is done, and next with them. */
void mm_window_advance(struct mm_window *win);

/* Let next pass the entry that it is at, which waits. */
void mm_window_skip(struct mm_window *win);

/* Let next go back to what it has skipped. */
void mm_window_unskip(struct mm_window *win);

/* Let next go back to low. */
void mm_window_go_back(struct mm_window *win);

/* Records that were taken and whose place in the log is not needed any more: all before low. */
static inline uint64_t mm_window_n_finished(const struct mm_window *win)
{
    return win->n_taken - (win->tail - win->low);
}

#endif
