/* mm_text, and the texts of mm_error. */
#include "mm_error.h"
#include "mm_text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define LEN_OF(array) (sizeof(array) / sizeof(array)[0])

static void test_error_texts(void **state)
{
    (void)state;
    assert_string_equal(mm_strerror(0), "no error");
    assert_string_equal(mm_strerror(MM_ENOMEM), "out of memory");
    assert_string_equal(mm_strerror(MM_EHTTP), "the HTTP server could not be started");
    assert_string_equal(mm_strerror(1), "unknown error");
    assert_string_equal(mm_strerror(-1000), "unknown error");
}

static void test_utf8(void **state)
{
    (void)state;
    static const struct
    {
        const char *text;
        size_t len;
        size_t char_len;
    } cases[] = {
        {"", 0, 0},
        {"a", 1, 1},
        {"\0", 1, 1},
        {"\x7F", 1, 1},
        {"\x80", 1, 0},
        {"\xBF", 1, 0},
        {"\xC1\xBF", 2, 0},
        {"\xC2\x80", 2, 2},
        {"\xC2", 1, 0},
        {"\xC2\x80", 1, 0},
        {"\xC2\x7F", 2, 0},
        {"\xDF\xBF", 2, 2},
        {"\xE0\x9F\xBF", 3, 0},
        {"\xE0\xA0\x80", 3, 3},
        {"\xE0\xA0", 2, 0},
        {"\xE0\xA0\xC0", 3, 0},
        {"\xED\x9F\xBF", 3, 3},
        {"\xED\xA0\x80", 3, 0},
        {"\xEE\x80\x80", 3, 3},
        {"\xEF\xBF\xBF", 3, 3},
        {"\xF0\x8F\xBF\xBF", 4, 0},
        {"\xF0\x90\x80\x80", 4, 4},
        {"\xF0\x90\x80", 3, 0},
        {"\xF3\x80\x80\x80", 4, 4},
        {"\xF4\x8F\xBF\xBF", 4, 4},
        {"\xF4\x90\x80\x80", 4, 0},
        {"\xF5\x80\x80\x80", 4, 0},
        {"\xFF", 1, 0},
    };
    for (size_t i = 0; i < LEN_OF(cases); i++) {
        assert_int_equal(mm_utf8_len(cases[i].text, cases[i].len), cases[i].char_len);
        assert_int_equal(mm_utf8_valid(cases[i].text, cases[i].len),
                         cases[i].len == 0 || cases[i].char_len > 0);
    }
    assert_true(mm_utf8_valid("a\xC3\xBC\xE2\x82\xAC", 6));
    assert_false(mm_utf8_valid("a\xC3\xBC\xE2\x82", 5));
}

static void test_printable(void **state)
{
    (void)state;
    static const struct
    {
        const char *text;
        size_t dst_len;
        const char *result;
    } cases[] = {
        {"", 4, ""},
        {"abc", 4, "abc"},
        {"abcd", 4, "..."},
        {"abcd", 5, "abcd"},
        {"abcde", 5, "a..."},
        {"a\r\n\x1B\x7F", 64, "a????"},
        {"\xC2\x80\xC2\x9F\xC2\xA0", 64, "??\xC2\xA0"},
        {"\xFF\xE2\x82", 64, "???"},
        {"\xE2\x82\xAC", 4, "\xE2\x82\xAC"},
        {"\xE2\x82\xAC\xE2\x82\xAC", 7, "\xE2\x82\xAC\xE2\x82\xAC"},
        {"\xE2\x82\xAC\xE2\x82\xAC\xE2\x82\xAC", 9, "\xE2\x82\xAC..."},
        {"a\xE2\x82\xAC\xE2\x82\xAC", 7, "a..."},
    };
    for (size_t i = 0; i < LEN_OF(cases); i++) {
        char *dst = malloc(cases[i].dst_len); /* as long as is told, for the sanitizer */
        assert_non_null(dst);
        assert_ptr_equal(mm_printable(cases[i].text, strlen(cases[i].text), dst, cases[i].dst_len),
                         dst);
        assert_string_equal(dst, cases[i].result);
        free(dst);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_error_texts),
        cmocka_unit_test(test_utf8),
        cmocka_unit_test(test_printable),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
