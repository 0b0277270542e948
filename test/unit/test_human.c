#include "../../tools/human.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void test_bytes(void **arg)
{
    (void)arg;
    static const struct
    {
        uint64_t n;
        const char *text;
    } cases[] = {
        {0, "0 B"},
        {1023, "1023 B"},
        {1024, "1.0 KiB"},
        {12897484, "12.3 MiB"},
        {1024 * 1024 - 1, "1.0 MiB"}, /* never 1024.0 of a unit */
        {UINT64_MAX, "16.0 EiB"},
    };
    char dst[HUMAN_LEN];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_string_equal(human_bytes(cases[i].n, dst), cases[i].text);
    }
}

static void test_count(void **arg)
{
    (void)arg;
    char dst[HUMAN_LEN];
    assert_string_equal(human_count(0, dst), "0");
    assert_string_equal(human_count(999, dst), "999");
    assert_string_equal(human_count(1000, dst), "1,000");
    assert_string_equal(human_count(123456, dst), "123,456");
    assert_string_equal(human_count(UINT64_MAX, dst), "18,446,744,073,709,551,615");
}

static void test_time(void **arg)
{
    (void)arg;
    char dst[HUMAN_LEN];
    assert_string_equal(human_time(0, dst), "-");
    assert_string_equal(human_time(1, dst), "1970-01-01T00:00:00.001Z");
    assert_string_equal(human_time(1767225599999, dst), "2025-12-31T23:59:59.999Z");
    assert_string_equal(human_time(UINT64_MAX, dst), "584556019-04-03T14:25:51.615Z");
}

static void test_duration(void **arg)
{
    (void)arg;
    char dst[HUMAN_LEN];
    assert_string_equal(human_duration(0, dst), "0.0 s");
    assert_string_equal(human_duration(9999, dst), "9.9 s");
    assert_string_equal(human_duration(10000, dst), "10 s");
    assert_string_equal(human_duration(61000, dst), "1 min 1 s");
    assert_string_equal(human_duration(3600000 + 120000, dst), "1 h 2 min");
    assert_string_equal(human_duration(UINT64_C(100) * 3600000, dst), "4 d 4 h");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_count),
        cmocka_unit_test(test_time),
        cmocka_unit_test(test_duration),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
