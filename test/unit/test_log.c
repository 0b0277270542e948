#include "mm_error.h"
#include "mm_log.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct printed
{
    size_t n;
    enum mm_log_level level[1000];
    char text[1000][MM_LOG_LINE_LEN];
};

static void print(void *arg, enum mm_log_level level, const char *line)
{
    struct printed *p = arg;
    if (p->n < 1000) {
        p->level[p->n] = level;
        snprintf(p->text[p->n], MM_LOG_LINE_LEN, "%s", line);
    }
    p->n++;
}

static struct printed *drain(struct mm_log *log)
{
    struct printed *p = calloc(1, sizeof *p);
    assert_non_null(p);
    mm_log_drain(log, print, p);
    return p;
}

static void test_lines_come_in_order_from_their_level_up(void **state)
{
    (void)state;
    struct mm_log *log;
    assert_int_equal(mm_log_new(MM_LOG_INFO, &log), 0);
    mm_log_write(log, MM_LOG_DEBUG, "not kept");
    mm_log_write(log, MM_LOG_INFO, "one %d", 1);
    mm_log_write(log, MM_LOG_ERROR, "two");
    assert_false(mm_log_enabled(log, MM_LOG_DEBUG));
    assert_true(mm_log_enabled(log, MM_LOG_INFO));
    struct printed *p = drain(log);
    assert_int_equal(p->n, 2);
    assert_string_equal(p->text[0], "one 1");
    assert_int_equal(p->level[0], MM_LOG_INFO);
    assert_string_equal(p->text[1], "two");
    assert_int_equal(p->level[1], MM_LOG_ERROR);
    free(p);
    p = drain(log);
    assert_int_equal(p->n, 0);
    free(p);
    mm_log_free(log);
    mm_log_free(NULL);
    mm_log_write(NULL, MM_LOG_ERROR, "nobody hears it");
}

static void test_a_long_line_is_cut_and_control_characters_are_replaced(void **state)
{
    (void)state;
    struct mm_log *log;
    assert_int_equal(mm_log_new(MM_LOG_TRACE, &log), 0);
    char big[2000];
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = '\0';
    mm_log_write(log, MM_LOG_INFO, "%s", big);
    mm_log_write(log, MM_LOG_INFO, "a\nb\x1b[31m\x7f");
    struct printed *p = drain(log);
    assert_int_equal(p->n, 2);
    assert_int_equal(strlen(p->text[0]), MM_LOG_LINE_LEN - 1);
    assert_string_equal(p->text[0] + MM_LOG_LINE_LEN - 4, "...");
    assert_string_equal(p->text[1], "a?b?[31m?");
    free(p);
    mm_log_free(log);
}

static void test_a_full_ring_counts_what_it_lost(void **state)
{
    (void)state;
    struct mm_log *log;
    assert_int_equal(mm_log_new(MM_LOG_INFO, &log), 0);
    for (int i = 0; i < MM_LOG_LINES + 44; i++) {
        mm_log_write(log, MM_LOG_INFO, "line %d", i);
    }
    struct printed *p = drain(log);
    assert_int_equal(p->n, MM_LOG_LINES);
    assert_string_equal(p->text[MM_LOG_LINES - 1], "line 255");
    free(p);
    mm_log_write(log, MM_LOG_INFO, "after");
    p = drain(log);
    assert_int_equal(p->n, 2);
    assert_string_equal(p->text[0], "44 log lines were lost: too many at once");
    assert_string_equal(p->text[1], "after");
    free(p);
    mm_log_free(log);
}

#define N_THREADS 4
#define N_LINES 5000

static void *write_lines(void *arg)
{
    for (int i = 0; i < N_LINES; i++) {
        mm_log_write(arg, MM_LOG_INFO, "x");
    }
    return NULL;
}

static void test_threads_write_while_the_broker_prints(void **state)
{
    (void)state;
    struct mm_log *log;
    assert_int_equal(mm_log_new(MM_LOG_INFO, &log), 0);
    pthread_t threads[N_THREADS];
    for (int i = 0; i < N_THREADS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, write_lines, log), 0);
    }
    struct printed *p = calloc(1, sizeof *p);
    assert_non_null(p);
    for (int i = 0; i < 2000; i++) {
        mm_log_drain(log, print, p);
    }
    for (int i = 0; i < N_THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    mm_log_drain(log, print, p);
    mm_log_write(log, MM_LOG_INFO, "end");
    mm_log_drain(log, print, p);
    /* Printed lines, and lines counted as lost, are all that were written. */
    uint64_t lost = 0;
    uint64_t others = 0;
    for (size_t i = 0; i < p->n && i < 1000; i++) {
        if (strstr(p->text[i], "log lines were lost") != NULL) {
            lost += strtoull(p->text[i], NULL, 10);
            others++;
        }
    }
    if (p->n <= 1000) {
        assert_int_equal(p->n - others + lost, N_THREADS * N_LINES + 1);
    } else {
        assert_true(p->n <= N_THREADS * N_LINES + 2 + N_THREADS * N_LINES / MM_LOG_LINES);
    }
    free(p);
    mm_log_free(log);
}

static void test_limit_holds_back_and_counts(void **state)
{
    (void)state;
    struct mm_log_limit limit = {0};
    uint64_t n = 99;
    assert_true(mm_log_allowed(&limit, 1000, 100, &n));
    assert_int_equal(n, 0);
    assert_false(mm_log_allowed(&limit, 1050, 100, &n));
    assert_false(mm_log_allowed(&limit, 1099, 100, &n));
    assert_true(mm_log_allowed(&limit, 1100, 100, &n));
    assert_int_equal(n, 2);
    assert_string_equal(mm_strerror(MM_EFULL), "the spool is full");
    assert_string_equal(mm_strerror(0), "no error");
    assert_string_equal(mm_strerror(-1000), "unknown error");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines_come_in_order_from_their_level_up),
        cmocka_unit_test(test_a_long_line_is_cut_and_control_characters_are_replaced),
        cmocka_unit_test(test_a_full_ring_counts_what_it_lost),
        cmocka_unit_test(test_threads_write_while_the_broker_prints),
        cmocka_unit_test(test_limit_holds_back_and_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
