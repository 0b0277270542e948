#include "mm_window.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

static struct mm_entry *add(struct mm_window *win, uint64_t seq)
{
    struct mm_spool_pos pos = {.seq = seq, .offset = (uint32_t)(seq * 8)};
    return mm_window_add(win, &pos, seq * 1000, (uint16_t)(seq % 3));
}

static void test_entries_keep_what_they_were_given(void **state)
{
    (void)state;
    struct mm_window win;
    assert_int_equal(mm_window_init(&win, 4), 0);
    for (uint64_t seq = 1; seq <= 4; seq++) {
        assert_false(mm_window_full(&win));
        assert_int_equal(add(&win, seq)->state, MM_ENTRY_WAITING);
    }
    assert_true(mm_window_full(&win));
    for (uint64_t i = 0; i < 4; i++) {
        struct mm_spool_pos pos = mm_entry_pos(mm_window_at(&win, i));
        assert_int_equal(pos.seq, i + 1);
        assert_int_equal(pos.offset, (i + 1) * 8);
        assert_int_equal(mm_window_at(&win, i)->time_ms, (i + 1) * 1000);
        assert_int_equal(mm_window_at(&win, i)->lane, (i + 1) % 3);
    }
    mm_window_fini(&win);
}

static void test_low_waits_for_the_oldest(void **state)
{
    (void)state;
    struct mm_window win;
    assert_int_equal(mm_window_init(&win, 8), 0);
    for (uint64_t seq = 1; seq <= 5; seq++) {
        add(&win, seq);
    }
    win.next = win.tail;
    mm_window_finish(&win, mm_window_at(&win, 1));
    mm_window_finish(&win, mm_window_at(&win, 3));
    mm_window_advance(&win);
    assert_int_equal(win.low, 0);
    assert_int_equal(win.n_ahead, 2);
    assert_int_equal(win.n_held, 3);
    assert_int_equal(mm_window_n_finished(&win), 0);
    mm_window_finish(&win, mm_window_at(&win, 0));
    assert_int_equal(win.n_ahead, 3);
    mm_window_advance(&win);
    assert_int_equal(win.low, 2);
    assert_int_equal(win.head, 2);
    assert_int_equal(win.n_ahead, 1);
    assert_int_equal(mm_window_n_finished(&win), 2);
    mm_window_fini(&win);
}

/* An orphan's place is given back, but its entry stays until the Kafka client has let go of it. */
static void test_low_passes_an_orphan_and_head_does_not(void **state)
{
    (void)state;
    struct mm_window win;
    assert_int_equal(mm_window_init(&win, 8), 0);
    for (uint64_t seq = 1; seq <= 3; seq++) {
        add(&win, seq)->state = MM_ENTRY_IN_FLIGHT;
    }
    mm_window_at(&win, 0)->flags |= MM_ENTRY_ORPHAN;
    mm_window_finish(&win, mm_window_at(&win, 1));
    mm_window_advance(&win);
    assert_int_equal(win.head, 0);
    assert_int_equal(win.low, 2);
    assert_int_equal(win.next, 2);
    assert_int_equal(win.n_ahead, 0);
    assert_int_equal(win.n_held, 2);
    assert_int_equal(mm_window_n_finished(&win), 2);
    mm_window_finish(&win, mm_window_at(&win, 0));
    mm_window_advance(&win);
    assert_int_equal(win.head, 2);
    assert_int_equal(win.n_ahead, 0); /* it was not ahead of low */
    assert_int_equal(win.n_held, 1);
    assert_int_equal(mm_window_n_finished(&win), 2);
    mm_window_fini(&win);
}

static void test_passed_records_are_finished(void **state)
{
    (void)state;
    struct mm_window win;
    assert_int_equal(mm_window_init(&win, 4), 0);
    mm_window_pass(&win);
    mm_window_pass(&win);
    assert_int_equal(mm_window_n_finished(&win), 2);
    assert_int_equal(win.n_held, 0);
    add(&win, 3);
    assert_int_equal(win.n_taken, 3);
    assert_int_equal(mm_window_n_finished(&win), 2);
    mm_window_fini(&win);
}

static void test_what_was_skipped_comes_again(void **state)
{
    (void)state;
    struct mm_window win;
    assert_int_equal(mm_window_init(&win, 8), 0);
    for (uint64_t seq = 1; seq <= 6; seq++) {
        add(&win, seq);
    }
    mm_window_unskip(&win); /* nothing was */
    assert_int_equal(win.next, 0);
    mm_window_finish(&win, mm_window_at(&win, win.next++));
    mm_window_skip(&win);
    mm_window_finish(&win, mm_window_at(&win, win.next++));
    mm_window_skip(&win);
    assert_int_equal(win.next, 4);
    assert_int_equal(win.skipped, 1);
    mm_window_unskip(&win);
    assert_int_equal(win.next, 1);
    /* Low may pass what was skipped, when it was let go. */
    mm_window_skip(&win);
    mm_window_finish(&win, mm_window_at(&win, 1));
    mm_window_advance(&win);
    assert_int_equal(win.low, 3);
    win.next = 5;
    mm_window_unskip(&win);
    assert_int_equal(win.next, 3);
    win.next = 4;
    mm_window_skip(&win);
    mm_window_go_back(&win);
    assert_int_equal(win.next, 3);
    mm_window_unskip(&win);
    assert_int_equal(win.next, 3);
    mm_window_fini(&win);
}

/* Whatever is done in whatever order, the figures are those that counting gives. */
static void check_figures(const struct mm_window *win)
{
    uint64_t n_ahead = 0;
    uint64_t n_held = 0;
    uint64_t n_copied = 0;
    assert_true(win->head <= win->low && win->low <= win->next && win->next <= win->tail);
    for (uint64_t i = win->head; i < win->tail; i++) {
        const struct mm_entry *e = mm_window_at(win, i);
        assert_int_equal(mm_window_index(win, e), i);
        assert_int_equal(e->seq, i);
        bool done = e->state == MM_ENTRY_DONE;
        bool copied = e->state == MM_ENTRY_COPIED;
        n_copied += copied;
        n_held += !done && !copied;
        n_ahead += (done || copied) && i >= win->low;
        assert_true(i >= win->low || done || (e->flags & MM_ENTRY_ORPHAN) != 0);
    }
    assert_int_equal(win->n_copied, n_copied);
    assert_int_equal(win->n_ahead, n_ahead);
    assert_int_equal(win->n_held, n_held);
    assert_int_equal(mm_window_n_finished(win), win->low);
    if (win->low < win->tail) {
        const struct mm_entry *e = mm_window_at(win, win->low);
        assert_true(e->state != MM_ENTRY_DONE && (e->flags & MM_ENTRY_ORPHAN) == 0);
    }
}

static void test_figures_hold_in_any_order(void **state)
{
    (void)state;
    struct mm_window win;
    unsigned int seed = 20240611;
    assert_int_equal(mm_window_init(&win, 32), 0);
    for (int step = 0; step < 50000; step++) {
        uint64_t n = win.tail - win.head;
        struct mm_entry *e =
            n == 0 ? NULL : mm_window_at(&win, win.head + (uint64_t)rand_r(&seed) % n);
        int what = rand_r(&seed) % 12;
        int state_now = e == NULL ? MM_ENTRY_DONE : e->state;
        bool orphan = e != NULL && (e->flags & MM_ENTRY_ORPHAN) != 0;
        if (what < 5 && !mm_window_full(&win)) {
            add(&win, win.tail);
        } else if (what < 8 && state_now != MM_ENTRY_DONE) {
            mm_window_finish(&win, e);
        } else if (what == 8 && state_now == MM_ENTRY_WAITING) {
            e->flags |= MM_ENTRY_ORPHAN;
        } else if (what < 11 && state_now == MM_ENTRY_WAITING && !orphan) {
            mm_window_copy(&win, e);
        } else if (state_now == MM_ENTRY_COPIED) {
            mm_window_uncopy(&win, e);
        }
        mm_window_advance(&win);
        if (rand_r(&seed) % 2 == 0) {
            win.next = win.tail;
        } else if (rand_r(&seed) % 16 == 0) {
            win.next = win.low;
        }
        check_figures(&win);
    }
    assert_true(win.tail > 1000);
    mm_window_fini(&win);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_entries_keep_what_they_were_given),
        cmocka_unit_test(test_low_waits_for_the_oldest),
        cmocka_unit_test(test_low_passes_an_orphan_and_head_does_not),
        cmocka_unit_test(test_passed_records_are_finished),
        cmocka_unit_test(test_what_was_skipped_comes_again),
        cmocka_unit_test(test_figures_hold_in_any_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
