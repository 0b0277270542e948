/* In every unit test: the variable CMOCKA_TEST_FILTER names those of its tests that run; '*' and
 * '?' stand for characters. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

__attribute__((constructor)) static void choose_tests(void)
{
    cmocka_set_test_filter(getenv("CMOCKA_TEST_FILTER"));
}
