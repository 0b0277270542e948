#include "mm_record.h"
#include "random.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define BUFFER_LEN 16384

/* Pseudo-random, the same in each run. */
static uint8_t *new_random_bytes(size_t len)
{
    uint8_t *bytes = malloc(len);
    assert_non_null(bytes);
    uint64_t state = 1;
    for (size_t i = 0; i < len; i++) {
        bytes[i] = (uint8_t)next_random(&state);
    }
    return bytes;
}

/* Bit by bit, from the definition. */
static uint32_t model(uint32_t crc, const uint8_t *bytes, size_t len)
{
    crc = ~crc;
    for (size_t i = 0; i < len; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++) {
            crc = (crc & 1) != 0 ? crc >> 1 ^ 0x82F63B78u : crc >> 1;
        }
    }
    return ~crc;
}

static void check(const void *bytes, size_t len, uint32_t expected)
{
    assert_int_equal(mm_crc32c(0, bytes, len), expected);
    assert_int_equal(mm_crc32c_portable(0, bytes, len), expected);
}

static void test_published_vectors(void **state)
{
    (void)state;
    uint8_t bytes[32] = {0};
    check(bytes, sizeof bytes, 0x8A9136AAu); /* RFC 3720 B.4, as are the next three */
    memset(bytes, 0xFF, sizeof bytes);
    check(bytes, sizeof bytes, 0x62A8AB43u);
    for (uint8_t i = 0; i < 32; i++) {
        bytes[i] = i;
    }
    check(bytes, sizeof bytes, 0x46DD794Eu);
    for (uint8_t i = 0; i < 32; i++) {
        bytes[i] = (uint8_t)(31 - i);
    }
    check(bytes, sizeof bytes, 0x113FDB5Cu);
    check("123456789", 9, 0xE3069283u);
    check("", 0, 0);
}

static void test_nothing_changes_nothing(void **state)
{
    (void)state;
    assert_int_equal(mm_crc32c(0xDEADBEEFu, NULL, 0), 0xDEADBEEFu);
    assert_int_equal(mm_crc32c_portable(0xDEADBEEFu, NULL, 0), 0xDEADBEEFu);
}

static void test_agrees_with_model(void **state)
{
    (void)state;
    uint8_t *bytes = new_random_bytes(BUFFER_LEN);
    for (size_t len = 0; len <= 700; len++) {
        uint32_t start = (uint32_t)len * 0x9E3779B9u;
        uint32_t expected = model(start, bytes, len);
        assert_int_equal(mm_crc32c(start, bytes, len), expected);
        assert_int_equal(mm_crc32c_portable(start, bytes, len), expected);
    }
    uint32_t expected = model(0, bytes, BUFFER_LEN);
    check(bytes, BUFFER_LEN, expected);
    free(bytes);
}

static void test_instruction_agrees_with_tables(void **state)
{
    (void)state;
    uint8_t *bytes = new_random_bytes(BUFFER_LEN);
    for (size_t len = 0; len <= 5100; len++) {
        for (size_t offset = 0; offset < 8; offset++) {
            uint32_t start = (uint32_t)(len << 3 | offset) * 0x9E3779B9u;
            assert_int_equal(mm_crc32c(start, bytes + offset, len),
                             mm_crc32c_portable(start, bytes + offset, len));
        }
    }
    free(bytes);
}

static void test_continues(void **state)
{
    (void)state;
    uint8_t *bytes = new_random_bytes(BUFFER_LEN);
    uint32_t whole = mm_crc32c_portable(0, bytes, 1300);
    for (size_t cut = 0; cut <= 1300; cut++) {
        uint32_t crc = mm_crc32c(0, bytes, cut);
        assert_int_equal(mm_crc32c(crc, bytes + cut, 1300 - cut), whole);
        assert_int_equal(mm_crc32c_portable(crc, bytes + cut, 1300 - cut), whole);
    }

    whole = mm_crc32c_portable(0, bytes, BUFFER_LEN);
    uint64_t random = 7;
    for (int round = 0; round < 500; round++) {
        uint32_t crc = 0;
        for (size_t done = 0; done < BUFFER_LEN;) {
            size_t part = next_random(&random) % 2000;
            part = part < BUFFER_LEN - done ? part : BUFFER_LEN - done;
            crc = mm_crc32c(crc, bytes + done, part);
            done += part;
        }
        assert_int_equal(crc, whole);
    }
    free(bytes);
}

/* The address sanitizer watches both ends. */
static void test_reads_only_its_bytes(void **state)
{
    (void)state;
    uint8_t *bytes = new_random_bytes(BUFFER_LEN);
    for (size_t len = 1; len <= 1600; len++) {
        uint8_t *exact = malloc(len);
        assert_non_null(exact);
        memcpy(exact, bytes, len);
        assert_int_equal(mm_crc32c(0, exact, len), mm_crc32c_portable(0, exact, len));
        free(exact);
    }
    free(bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published_vectors),
        cmocka_unit_test(test_nothing_changes_nothing),
        cmocka_unit_test(test_agrees_with_model),
        cmocka_unit_test(test_instruction_agrees_with_tables),
        cmocka_unit_test(test_continues),
        cmocka_unit_test(test_reads_only_its_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
