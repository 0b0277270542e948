#include "mm_linger.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define MS UINT64_C(1000000)
#define SECOND (1000 * MS)

/* Messages come at this rate, each for a partition that is free, and Kafka answers at once: how
 * many pushes are made in a second, once that has gone on for some time? Looked at every 0.1 ms. */
static unsigned pushes_at(uint32_t max_ms, unsigned rate)
{
    struct mm_linger l;
    mm_linger_init(&l, max_ms);
    uint64_t n_out = 0;
    uint64_t n_handed = 0;
    unsigned n_pushes = 0;
    for (uint64_t now = 10 * SECOND; now < 13 * SECOND; now += MS / 10) {
        for (; n_handed < (now - 10 * SECOND) * rate / SECOND; n_handed++) {
            mm_linger_handed(&l, true);
            n_out++;
        }
        if (mm_linger_due_in(&l, n_out, now) == 0) {
            mm_linger_pushed(&l, now);
            n_pushes += now >= 12 * SECOND;
            mm_linger_answered(&l, false);
            n_out = 0;
        }
    }
    return n_pushes;
}

static void test_few_messages_go_at_once(void **state)
{
    (void)state;
    assert_in_range(pushes_at(5, 100), 99, 101);
    assert_in_range(pushes_at(5, 400), 390, 401);
    assert_in_range(pushes_at(1000, 1), 1, 1);
}

static void test_the_gap_grows_with_the_rate(void **state)
{
    (void)state;
    unsigned at_1000 = pushes_at(5, 1000);
    unsigned at_2000 = pushes_at(5, 2000);
    unsigned at_4000 = pushes_at(5, 4000);
    assert_in_range(at_1000, 800, 1001);
    assert_in_range(at_2000, 400, 800); /* every 1.25 to 2.5 ms */
    assert_in_range(at_4000, 250, 400);
}

static void test_a_crowd_waits_as_long_as_is_allowed(void **state)
{
    (void)state;
    assert_in_range(pushes_at(5, 8000), 195, 201);
    assert_in_range(pushes_at(5, 100000), 195, 201);
    assert_in_range(pushes_at(50, 10000), 19, 21);
    assert_in_range(pushes_at(500, 100), 1, 3);
}

static void test_without_linger_each_goes_at_once(void **state)
{
    (void)state;
    assert_in_range(pushes_at(0, 5000), 4990, 5001);
}

static void test_nothing_out_is_nothing_due(void **state)
{
    (void)state;
    struct mm_linger l;
    mm_linger_init(&l, 5);
    assert_true(mm_linger_due_in(&l, 0, SECOND) == UINT64_MAX);
    mm_linger_handed(&l, true);
    assert_int_equal(mm_linger_due_in(&l, 1, SECOND), 0);
    /* It was taken back. */
    mm_linger_answered(&l, false);
    assert_true(mm_linger_due_in(&l, 0, SECOND) == UINT64_MAX);
}

/* What follows messages on the wire goes when their answer has come. */
static void test_who_waits_behind_others_goes_with_their_answer(void **state)
{
    (void)state;
    struct mm_linger l;
    mm_linger_init(&l, 5);
    mm_linger_handed(&l, true);
    mm_linger_pushed(&l, SECOND);
    mm_linger_handed(&l, false);
    assert_in_range(mm_linger_due_in(&l, 2, SECOND + MS), 1, 5 * MS);
    mm_linger_answered(&l, true);
    assert_int_equal(mm_linger_due_in(&l, 1, SECOND + MS), 0);
}

static void test_a_push_is_repeated_a_few_times(void **state)
{
    (void)state;
    static const uint64_t pauses_ms[] = {5, 10, 20, 40, 80};
    struct mm_linger l;
    mm_linger_init(&l, 5);
    mm_linger_handed(&l, true);
    uint64_t now = SECOND;
    mm_linger_pushed(&l, now);
    for (size_t i = 0; i < sizeof pauses_ms / sizeof pauses_ms[0]; i++) {
        assert_int_equal(mm_linger_due_in(&l, 1, now), pauses_ms[i] * MS);
        now += pauses_ms[i] * MS;
        assert_int_equal(mm_linger_due_in(&l, 1, now), 0);
        mm_linger_pushed(&l, now);
    }
    assert_true(mm_linger_due_in(&l, 1, now + SECOND) == UINT64_MAX);
    mm_linger_answered(&l, false);
    assert_int_equal(mm_linger_due_in(&l, 1, now), 5 * MS);
    /* For others it is as if nothing had been. */
    mm_linger_handed(&l, true);
    mm_linger_pushed(&l, now + SECOND);
    assert_int_equal(mm_linger_due_in(&l, 2, now + SECOND), 5 * MS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_few_messages_go_at_once),
        cmocka_unit_test(test_the_gap_grows_with_the_rate),
        cmocka_unit_test(test_a_crowd_waits_as_long_as_is_allowed),
        cmocka_unit_test(test_without_linger_each_goes_at_once),
        cmocka_unit_test(test_nothing_out_is_nothing_due),
        cmocka_unit_test(test_who_waits_behind_others_goes_with_their_answer),
        cmocka_unit_test(test_a_push_is_repeated_a_few_times),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
