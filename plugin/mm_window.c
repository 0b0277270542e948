#include "mm_window.h"

#include "mm_error.h"

#include <stdlib.h>
#include <string.h>

int mm_window_init(struct mm_window *win, uint64_t len)
{
    memset(win, 0, sizeof *win);
    win->entries = calloc(len, sizeof *win->entries);
    win->mask = len - 1;
    win->skipped = UINT64_MAX;
    return win->entries == NULL ? MM_ENOMEM : 0;
}

void mm_window_fini(struct mm_window *win)
{
    free(win->entries);
    win->entries = NULL;
}

uint64_t mm_window_index(const struct mm_window *win, const struct mm_entry *e)
{
    uint64_t place = (uint64_t)(e - win->entries);
    return win->head + ((place - win->head) & win->mask);
}

struct mm_entry *mm_window_add(struct mm_window *win,
                               const struct mm_spool_pos *pos,
                               uint64_t time_ms,
                               uint16_t lane)
{
    struct mm_entry *e = mm_window_at(win, win->tail++);
    *e = (struct mm_entry){.segment = pos->segment,
                           .offset = pos->offset,
                           .seq = pos->seq,
                           .time_ms = time_ms,
                           .lane = lane,
                           .state = MM_ENTRY_WAITING};
    win->n_taken++;
    win->n_held++;
    return e;
}

void mm_window_pass(struct mm_window *win)
{
    win->n_taken++;
}

void mm_window_finish(struct mm_window *win, struct mm_entry *e)
{
    if (e->state == MM_ENTRY_COPIED) {
        win->n_copied--;
    } else {
        win->n_held--;
        /* Else it is an orphan, which low has passed. */
        win->n_ahead += mm_window_index(win, e) >= win->low;
    }
    e->state = MM_ENTRY_DONE;
}

void mm_window_copy(struct mm_window *win, struct mm_entry *e)
{
    e->state = MM_ENTRY_COPIED;
    win->n_copied++;
    win->n_held--;
    win->n_ahead++;
}

void mm_window_uncopy(struct mm_window *win, struct mm_entry *e)
{
    uint64_t index = mm_window_index(win, e);
    e->state = MM_ENTRY_WAITING;
    win->n_copied--;
    win->n_held++;
    win->n_ahead--;
    if (index < win->next && index < win->skipped) {
        win->skipped = index;
    }
}

void mm_window_advance(struct mm_window *win)
{
    while (win->low < win->tail) {
        const struct mm_entry *e = mm_window_at(win, win->low);
        if (e->state == MM_ENTRY_DONE) {
            win->n_ahead--;
        } else if ((e->flags & MM_ENTRY_ORPHAN) == 0) {
            break;
        }
        win->low++;
    }
    while (win->head < win->low && mm_window_at(win, win->head)->state == MM_ENTRY_DONE) {
        win->head++;
    }
    win->next = win->next < win->low ? win->low : win->next;
}

void mm_window_skip(struct mm_window *win)
{
    if (win->skipped == UINT64_MAX) {
        win->skipped = win->next;
    }
    win->next++;
}

void mm_window_unskip(struct mm_window *win)
{
    if (win->skipped != UINT64_MAX) {
        win->next = win->skipped < win->low ? win->low : win->skipped;
        win->skipped = UINT64_MAX;
    }
}

void mm_window_go_back(struct mm_window *win)
{
    win->next = win->low;
    win->skipped = UINT64_MAX;
}
