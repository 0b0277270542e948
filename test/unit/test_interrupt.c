/* Signals that a command of the tool takes: the first ends it in order, and a later one at once. */
#include "../../tools/interrupt.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

int __wrap_clock_gettime(clockid_t clock, struct timespec *out);
int __real_clock_gettime(clockid_t clock, struct timespec *out);

static time_t ahead_s;

int __wrap_clock_gettime(clockid_t clock, struct timespec *out)
{
    int err = __real_clock_gettime(clock, out);
    out->tv_sec += ahead_s;
    return err;
}

/* What becomes of a process that gets two signals, so many seconds apart: as waitpid(2) says. */
static int take_two(int first, int second, time_t apart_s)
{
    pid_t pid = fork();
    if (pid == 0) {
        interrupt_catch();
        bool before = interrupt_came();
        (void)raise(first);
        bool after = interrupt_came();
        ahead_s = apart_s;
        (void)raise(second);
        _exit(!before && after && interrupt_came() ? 0 : 1);
    }
    int status;
    assert_true(pid > 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

/* timeout(1) signals the process, and then its group, which it is in. */
static void test_one_that_comes_twice_is_one(void **state)
{
    (void)state;
    assert_int_equal(take_two(SIGINT, SIGINT, 0), 0);
    assert_int_equal(take_two(SIGTERM, SIGTERM, 0), 0);
    assert_int_equal(take_two(SIGINT, SIGTERM, 0), 0);
}

static void test_a_later_one_ends_the_process(void **state)
{
    (void)state;
    static const int numbers[] = {SIGINT, SIGTERM};
    for (size_t i = 0; i < 2; i++) {
        int status = take_two(SIGINT, numbers[i], 1);
        assert_true(WIFSIGNALED(status));
        assert_int_equal(WTERMSIG(status), numbers[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_that_comes_twice_is_one),
        cmocka_unit_test(test_a_later_one_ends_the_process),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
