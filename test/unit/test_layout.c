#include "mm_error.h"
#include "mm_layout.h"
#include "mm_record.h"
#include "random.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SALT 0x1122334455667788u
#define SECOND_COPY 2048
#define COPY_LEN 128
#define HEADER_CRC 124
#define STATE_COUNTERS 128
#define STATE_RANGES 512
#define RANGE_LEN 16
#define STATE_CRC 4092

/* The bytes of the samples below, computed apart from this project's code. They stand in files: a
 * change here is a new format. What is left out is zero. */
static const uint8_t header_bytes[] = {
    0x4D, 0x51, 0x4B, 0x53, 0x50, 0x4F, 0x4F, 0x4C, 0x01, 0x00, 0x00, 0x00, 0x0D, 0x0C, 0x0B,
    0x0A, 0xA0, 0xA1, 0xA2, 0xA3, 0xA4, 0xA5, 0xA6, 0xA7, 0xA8, 0xA9, 0xAA, 0xAB, 0xAC, 0xAD,
    0xAE, 0xAF, 0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11, 0x28, 0x27, 0x26, 0x25, 0x24,
    0x23, 0x22, 0x21, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0x7B, 0x68, 0xE5, 0xCF,
    0x8B, 0x01, 0x00, 0x00, 0x00, 0x00, 0x80, 0x00, 0x00, 0x00, 0x00, 0x00,
};
static const uint8_t header_crc_bytes[] = {0xDA, 0xA1, 0x92, 0x90};

static const uint8_t seal_bytes[] = {
    0x4D, 0x51, 0x4B, 0x53, 0x53, 0x45, 0x41, 0x4C, 0x38, 0x37, 0x36, 0x35, 0x34, 0x33, 0x32, 0x31,
    0x40, 0x37, 0x36, 0x35, 0x34, 0x33, 0x32, 0x31, 0x07, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0xC8, 0x69, 0xE5, 0xCF, 0x8B, 0x01, 0x00, 0x00, 0x68, 0x45, 0x23, 0x01, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xC9, 0x52, 0x52, 0x91,
};

static const uint8_t state_bytes[] = {
    0x4D, 0x51, 0x4B, 0x53, 0x54, 0x41, 0x54, 0x45, 0x01, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00,
    0xA0, 0xA1, 0xA2, 0xA3, 0xA4, 0xA5, 0xA6, 0xA7, 0xA8, 0xA9, 0xAA, 0xAB, 0xAC, 0xAD, 0xAE, 0xAF,
    0xC0, 0xC1, 0xC2, 0xC3, 0xC4, 0xC5, 0xC6, 0xC7, 0xC8, 0xC9, 0xCA, 0xCB, 0xCC, 0xCD, 0xCE, 0xCF,
    0x48, 0x47, 0x46, 0x45, 0x44, 0x43, 0x42, 0x41, 0x15, 0x6B, 0xE5, 0xCF, 0x8B, 0x01, 0x00, 0x00,
    0x58, 0x57, 0x56, 0x55, 0x54, 0x53, 0x52, 0x51, 0x09, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x03, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
};
static const uint8_t state_crc_bytes[] = {0x5D, 0x2A, 0x74, 0x02};
static const uint8_t range_bytes[] = {
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x67, 0x66, 0x65, 0x64, 0x63, 0x62, 0x61,
    0x40, 0x30, 0x20, 0x10, 0x00, 0x00, 0x00, 0x00, 0x01, 0x67, 0x66, 0x65, 0x64, 0x63, 0x62, 0x61,
    0x80, 0x60, 0x40, 0x20, 0x00, 0x00, 0x00, 0x00, 0x02, 0x67, 0x66, 0x65, 0x64, 0x63, 0x62, 0x61,
};

static const char uuid_text[] = "a0a1a2a3-a4a5-a6a7-a8a9-aaabacadaeaf";

/* Pseudo-random, the same in each run. */
static void fill(uint8_t dst[16], uint8_t first)
{
    for (uint8_t i = 0; i < 16; i++) {
        dst[i] = (uint8_t)(first + i);
    }
}

/* The number of different ways in which the tests change a byte. */
#define N_CHANGES 5

static uint8_t changed(uint8_t byte, size_t way)
{
    const uint8_t bytes[N_CHANGES] = {
        (uint8_t)(byte ^ 1), (uint8_t)(byte ^ 0x80), (uint8_t)~byte, (uint8_t)(byte + 1), 0,
    };
    return bytes[way];
}

/* The checksum in the last 4 bytes made right again. */
static void mend(uint8_t *bytes, size_t len)
{
    uint32_t crc = mm_crc32c(0, bytes, len - 4);
    for (size_t i = 0; i < 4; i++) {
        bytes[len - 4 + i] = (uint8_t)(crc >> 8 * i);
    }
}

/* --- header -------------------------------------------------------------------------------------
 */

static struct mm_layout_header sample_header(void)
{
    struct mm_layout_header h = {
        .version = 77, /* of no effect */
        .flags = 0x0A0B0C0D,
        .file = 0x1112131415161718,
        .run_seq = 0x2122232425262728,
        .salt = SALT,
        .created_ms = 1700000000123,
        .size = 8 << 20,
    };
    fill(h.uuid, 0xA0);
    return h;
}

static void assert_same_header(const struct mm_layout_header *a, const struct mm_layout_header *b)
{
    assert_int_equal(a->version, MM_LAYOUT_VERSION);
    assert_int_equal(a->flags, b->flags);
    assert_memory_equal(a->uuid, b->uuid, 16);
    assert_int_equal(a->file, b->file);
    assert_int_equal(a->run_seq, b->run_seq);
    assert_int_equal(a->salt, b->salt);
    assert_int_equal(a->created_ms, b->created_ms);
    assert_int_equal(a->size, b->size);
}

/* Returns the error, after a look that only the version can have been written for it. */
static int header_error(const uint8_t *src, size_t len, uint32_t *n_copies, uint32_t *version)
{
    struct mm_layout_header out;
    struct mm_layout_header before;
    memset(&out, 0x5A, sizeof out);
    memcpy(&before, &out, sizeof out);
    int err = mm_layout_decode_header(src, len, &out, n_copies);
    *version = out.version;
    if (err == MM_EVERSION) {
        before.version = out.version;
    }
    if (err != 0) {
        assert_memory_equal(&out, &before, sizeof out);
    }
    return err;
}

/* The sample, but maybe for what is behind the copies. */
static void assert_decodes_to_sample(const uint8_t *src, size_t len, uint32_t n_copies)
{
    struct mm_layout_header h = sample_header();
    struct mm_layout_header out;
    uint32_t n = 99;
    assert_int_equal(mm_layout_decode_header(src, len, &out, &n), 0);
    assert_int_equal(n, n_copies);
    assert_same_header(&out, &h);
}

static uint8_t *new_header(void)
{
    struct mm_layout_header h = sample_header();
    uint8_t *bytes = malloc(MM_LAYOUT_HEADER_LEN);
    assert_non_null(bytes);
    memset(bytes, 0xAA, MM_LAYOUT_HEADER_LEN);
    mm_layout_encode_header(bytes, &h);
    return bytes;
}

static void test_header_layout(void **state)
{
    (void)state;
    uint8_t expected[MM_LAYOUT_HEADER_LEN] = {0};
    for (size_t at = 0; at <= SECOND_COPY; at += SECOND_COPY) {
        memcpy(expected + at, header_bytes, sizeof header_bytes);
        memcpy(expected + at + HEADER_CRC, header_crc_bytes, sizeof header_crc_bytes);
    }
    uint8_t *bytes = new_header();
    assert_memory_equal(bytes, expected, sizeof expected);
    assert_decodes_to_sample(bytes, MM_LAYOUT_HEADER_LEN, 2);
    free(bytes);
}

static void test_header_round_trip(void **state)
{
    (void)state;
    uint64_t random = 1;
    for (int round = 0; round < 2000; round++) {
        struct mm_layout_header h = {
            .flags = (uint32_t)next_random64(&random),
            .file = next_random64(&random),
            .run_seq = next_random64(&random),
            .salt = next_random64(&random),
            .created_ms = next_random64(&random),
            .size = next_random64(&random),
        };
        fill(h.uuid, (uint8_t)next_random64(&random));
        uint8_t bytes[MM_LAYOUT_HEADER_LEN];
        mm_layout_encode_header(bytes, &h);
        struct mm_layout_header out;
        uint32_t n_copies;
        assert_int_equal(mm_layout_decode_header(bytes, sizeof bytes, &out, &n_copies), 0);
        assert_int_equal(n_copies, 2);
        assert_same_header(&out, &h);
    }
}

/* One changed byte costs the copy that it lies in, and nothing elsewhere. */
static void test_header_each_changed_byte(void **state)
{
    (void)state;
    uint8_t *bytes = new_header();
    for (size_t i = 0; i < MM_LAYOUT_HEADER_LEN; i++) {
        uint8_t good = bytes[i];
        bool in_copy = i % SECOND_COPY < COPY_LEN;
        for (size_t way = 0; way < N_CHANGES; way++) {
            bytes[i] = changed(good, way);
            bool counts = in_copy && bytes[i] != good;
            assert_decodes_to_sample(bytes, MM_LAYOUT_HEADER_LEN, counts ? 1 : 2);
        }
        bytes[i] = good;
    }
    free(bytes);
}

static void test_header_both_copies_damaged(void **state)
{
    (void)state;
    uint8_t *bytes = new_header();
    for (size_t i = 0; i < COPY_LEN; i++) {
        for (size_t way = 0; way < N_CHANGES - 1; way++) {
            uint8_t good = bytes[i];
            bytes[i] = changed(good, way);
            bytes[SECOND_COPY + i] = bytes[i];
            uint32_t n_copies = 99;
            uint32_t version;
            assert_int_equal(header_error(bytes, MM_LAYOUT_HEADER_LEN, &n_copies, &version),
                             MM_ECORRUPT);
            assert_int_equal(n_copies, 0);
            bytes[i] = good;
            bytes[SECOND_COPY + i] = good;
        }
    }
    free(bytes);
}

static void test_header_each_cut(void **state)
{
    (void)state;
    uint8_t *bytes = new_header();
    for (size_t len = 0; len <= MM_LAYOUT_HEADER_LEN; len++) {
        uint8_t *cut = malloc(len + (len == 0));
        assert_non_null(cut);
        memcpy(cut, bytes, len);
        if (len < COPY_LEN) {
            uint32_t n_copies = 99;
            uint32_t version;
            assert_int_equal(header_error(cut, len, &n_copies, &version), MM_ECORRUPT);
            assert_int_equal(n_copies, 0);
        } else {
            assert_decodes_to_sample(cut, len, len < SECOND_COPY + COPY_LEN ? 1 : 2);
        }
        free(cut);
    }
    free(bytes);
}

/* Both copies of a header with another version, sound in themselves. */
static void set_version(uint8_t *copy, uint32_t version)
{
    for (size_t i = 0; i < 4; i++) {
        copy[8 + i] = (uint8_t)(version >> 8 * i);
    }
    mend(copy, COPY_LEN);
}

static void test_header_unknown_version(void **state)
{
    (void)state;
    const uint32_t unknown[] = {0, MM_LAYOUT_VERSION + 1, 0x01000000, UINT32_MAX};
    for (size_t k = 0; k < sizeof unknown / sizeof unknown[0]; k++) {
        uint8_t *bytes = new_header();
        uint32_t n_copies;
        uint32_t version;

        set_version(bytes + SECOND_COPY, unknown[k]);
        assert_decodes_to_sample(bytes, MM_LAYOUT_HEADER_LEN, 2);

        bytes[0] ^= 1;
        assert_int_equal(header_error(bytes, MM_LAYOUT_HEADER_LEN, &n_copies, &version),
                         MM_EVERSION);
        assert_int_equal(n_copies, 1);
        assert_int_equal(version, unknown[k]);

        bytes[0] ^= 1;
        set_version(bytes, unknown[k]);
        assert_int_equal(header_error(bytes, MM_LAYOUT_HEADER_LEN, &n_copies, &version),
                         MM_EVERSION);
        assert_int_equal(n_copies, 2);
        assert_int_equal(version, unknown[k]);
        free(bytes);
    }
}

/* A later writer may use them for what an older reader need not know. */
static void test_header_reserved_bytes(void **state)
{
    (void)state;
    uint8_t *bytes = new_header();
    for (size_t i = sizeof header_bytes; i < HEADER_CRC; i++) {
        bytes[i] = 0xEE;
        mend(bytes, COPY_LEN);
        assert_decodes_to_sample(bytes, MM_LAYOUT_HEADER_LEN, 2);
    }
    free(bytes);
}

static void test_header_not_there(void **state)
{
    (void)state;
    uint8_t bytes[MM_LAYOUT_HEADER_LEN] = {0};
    uint32_t n_copies = 99;
    uint32_t version;
    assert_int_equal(header_error(bytes, sizeof bytes, &n_copies, &version), MM_ECORRUPT);
    assert_int_equal(n_copies, 0);

    /* The right checksum alone is not enough. */
    mend(bytes, COPY_LEN);
    assert_int_equal(header_error(bytes, sizeof bytes, &n_copies, &version), MM_ECORRUPT);
}

/* --- seal ---------------------------------------------------------------------------------------
 */

static struct mm_layout_seal sample_seal(void)
{
    return (struct mm_layout_seal){
        .first_seq = 0x3132333435363738,
        .last_seq = 0x3132333435363740,
        .n_records = 7,
        .first_ms = 1700000000456,
        .end = 0x1234568,
    };
}

static void assert_same_seal(const struct mm_layout_seal *a, const struct mm_layout_seal *b)
{
    assert_int_equal(a->first_seq, b->first_seq);
    assert_int_equal(a->last_seq, b->last_seq);
    assert_int_equal(a->n_records, b->n_records);
    assert_int_equal(a->first_ms, b->first_ms);
    assert_int_equal(a->end, b->end);
}

/* Returns the error, after a look that nothing was written for it. */
static int seal_error(const uint8_t *src, uint64_t salt)
{
    struct mm_layout_seal out;
    struct mm_layout_seal before;
    memset(&out, 0x5A, sizeof out);
    memcpy(&before, &out, sizeof out);
    int err = mm_layout_decode_seal(src, salt, &out);
    if (err != 0) {
        assert_memory_equal(&out, &before, sizeof out);
    }
    return err;
}

static void test_seal_layout(void **state)
{
    (void)state;
    struct mm_layout_seal seal = sample_seal();
    uint8_t bytes[MM_LAYOUT_SEAL_LEN];
    memset(bytes, 0xAA, sizeof bytes);
    mm_layout_encode_seal(bytes, SALT, &seal);
    assert_int_equal(sizeof seal_bytes, sizeof bytes);
    assert_memory_equal(bytes, seal_bytes, sizeof bytes);
    struct mm_layout_seal out;
    assert_int_equal(mm_layout_decode_seal(bytes, SALT, &out), 0);
    assert_same_seal(&out, &seal);
}

static void test_seal_round_trip(void **state)
{
    (void)state;
    uint64_t random = 2;
    for (int round = 0; round < 2000; round++) {
        uint64_t salt = next_random64(&random);
        struct mm_layout_seal seal = {
            .first_seq = next_random64(&random),
            .last_seq = next_random64(&random),
            .n_records = next_random64(&random),
            .first_ms = next_random64(&random),
            .end = next_random64(&random),
        };
        uint8_t bytes[MM_LAYOUT_SEAL_LEN];
        mm_layout_encode_seal(bytes, salt, &seal);
        struct mm_layout_seal out;
        assert_int_equal(mm_layout_decode_seal(bytes, salt, &out), 0);
        assert_same_seal(&out, &seal);
    }
}

static void test_seal_not_there(void **state)
{
    (void)state;
    uint8_t bytes[MM_LAYOUT_SEAL_LEN] = {0};
    assert_int_equal(seal_error(bytes, SALT), MM_EAGAIN);
    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = 1;
        assert_int_equal(seal_error(bytes, SALT), MM_ECORRUPT);
        bytes[i] = 0;
    }
}

static void test_seal_each_changed_byte(void **state)
{
    (void)state;
    uint8_t bytes[MM_LAYOUT_SEAL_LEN];
    memcpy(bytes, seal_bytes, sizeof bytes);
    for (size_t i = 0; i < sizeof bytes; i++) {
        for (size_t way = 0; way < N_CHANGES; way++) {
            bytes[i] = changed(seal_bytes[i], way);
            bool same = bytes[i] == seal_bytes[i];
            assert_int_equal(seal_error(bytes, SALT), same ? 0 : MM_ECORRUPT);
        }
        bytes[i] = seal_bytes[i];
    }
}

/* That of an older file, in blocks that this one got. */
static void test_seal_of_another_salt(void **state)
{
    (void)state;
    for (int bit = 0; bit < 64; bit++) {
        assert_int_equal(seal_error(seal_bytes, SALT ^ (uint64_t)1 << bit), MM_ECORRUPT);
    }
}

/* --- STATE --------------------------------------------------------------------------------------
 */

static struct mm_layout_state sample_state(void)
{
    struct mm_layout_state s = {
        .version = 77, /* of no effect */
        .generation = 0x4142434445464748,
        .written_ms = 1700000000789,
        .next_seq = 0x5152535455565758,
        .n_pending = 9,
        .n_repeat = 2,
        .clean = true,
        .n_ranges = 3,
    };
    fill(s.uuid, 0xA0);
    fill(s.boot, 0xC0);
    for (uint32_t k = 0; k < s.n_ranges; k++) {
        s.ranges[k].hash = k * 0x10203040;
        s.ranges[k].low = 0x6162636465666700 + k;
    }
    for (size_t k = 0; k < MM_LAYOUT_COUNTERS; k++) {
        s.counters[k] = 0x7100 + k;
    }
    return s;
}

static void assert_same_state(const struct mm_layout_state *a, const struct mm_layout_state *b)
{
    assert_int_equal(a->version, MM_LAYOUT_VERSION);
    assert_memory_equal(a->uuid, b->uuid, 16);
    assert_memory_equal(a->boot, b->boot, 16);
    assert_int_equal(a->generation, b->generation);
    assert_int_equal(a->written_ms, b->written_ms);
    assert_int_equal(a->next_seq, b->next_seq);
    assert_int_equal(a->n_pending, b->n_pending);
    assert_int_equal(a->n_repeat, b->n_repeat);
    assert_int_equal(a->clean, b->clean);
    assert_int_equal(a->n_ranges, b->n_ranges);
    for (size_t k = 0; k < MM_LAYOUT_RANGES_MAX; k++) {
        assert_int_equal(a->ranges[k].hash, b->ranges[k].hash);
        assert_int_equal(a->ranges[k].low, b->ranges[k].low);
    }
    assert_memory_equal(a->counters, b->counters, sizeof a->counters);
}

/* Returns the error, after a look that nothing was written for it. */
static int state_error(const uint8_t *src)
{
    struct mm_layout_state out;
    struct mm_layout_state before;
    memset(&out, 0x5A, sizeof out);
    memcpy(&before, &out, sizeof out);
    int err = mm_layout_decode_state(src, &out);
    if (err == MM_EVERSION) {
        before.version = out.version;
    }
    if (err != 0) {
        assert_memory_equal(&out, &before, sizeof out);
    }
    return err;
}

static uint8_t *new_state(const struct mm_layout_state *s)
{
    uint8_t *bytes = malloc(MM_LAYOUT_STATE_LEN);
    assert_non_null(bytes);
    memset(bytes, 0xAA, MM_LAYOUT_STATE_LEN);
    mm_layout_encode_state(bytes, s);
    return bytes;
}

static void assert_state_decodes_to(const uint8_t *src, const struct mm_layout_state *expected)
{
    struct mm_layout_state out;
    memset(&out, 0x5A, sizeof out);
    assert_int_equal(mm_layout_decode_state(src, &out), 0);
    assert_same_state(&out, expected);
}

static void test_state_layout(void **state)
{
    (void)state;
    uint8_t expected[MM_LAYOUT_STATE_LEN] = {0};
    memcpy(expected, state_bytes, sizeof state_bytes);
    for (size_t k = 0; k < MM_LAYOUT_COUNTERS; k++) {
        expected[STATE_COUNTERS + 8 * k] = (uint8_t)k;
        expected[STATE_COUNTERS + 8 * k + 1] = 0x71;
    }
    memcpy(expected + STATE_RANGES, range_bytes, sizeof range_bytes);
    memcpy(expected + STATE_CRC, state_crc_bytes, sizeof state_crc_bytes);

    struct mm_layout_state s = sample_state();
    uint8_t *bytes = new_state(&s);
    assert_memory_equal(bytes, expected, sizeof expected);
    assert_state_decodes_to(bytes, &s);
    free(bytes);
}

static void test_state_round_trip(void **state)
{
    (void)state;
    uint64_t random = 3;
    for (uint32_t round = 0; round < 10 * MM_LAYOUT_RANGES_MAX; round++) {
        struct mm_layout_state s = {
            .generation = next_random64(&random),
            .written_ms = next_random64(&random),
            .next_seq = next_random64(&random),
            .n_pending = next_random64(&random),
            .n_repeat = next_random64(&random),
            .clean = next_random64(&random) % 2 != 0,
            .n_ranges = 1 + round % MM_LAYOUT_RANGES_MAX,
        };
        fill(s.uuid, (uint8_t)next_random64(&random));
        fill(s.boot, (uint8_t)next_random64(&random));
        for (uint32_t k = 0; k < s.n_ranges; k++) {
            uint32_t step = UINT32_MAX / MM_LAYOUT_RANGES_MAX;
            s.ranges[k].hash = k == 0 ? 0 : step * k + (uint32_t)next_random64(&random) % step;
            s.ranges[k].low = next_random64(&random);
        }
        for (size_t k = 0; k < MM_LAYOUT_COUNTERS; k++) {
            s.counters[k] = next_random64(&random);
        }
        uint8_t *bytes = new_state(&s);
        assert_state_decodes_to(bytes, &s);
        free(bytes);
    }
}

/* What is behind n_ranges is nobody's and stays out of the file. */
static void test_state_unused_ranges(void **state)
{
    (void)state;
    struct mm_layout_state s = sample_state();
    uint8_t *expected = new_state(&s);
    for (size_t k = s.n_ranges; k < MM_LAYOUT_RANGES_MAX; k++) {
        s.ranges[k].hash = 0x1234;
        s.ranges[k].low = 0x1234;
    }
    uint8_t *bytes = new_state(&s);
    assert_memory_equal(bytes, expected, MM_LAYOUT_STATE_LEN);
    free(bytes);

    memset(expected + STATE_RANGES + (size_t)RANGE_LEN * s.n_ranges, 0xEE, RANGE_LEN);
    mend(expected, MM_LAYOUT_STATE_LEN);
    s = sample_state();
    assert_state_decodes_to(expected, &s);
    free(expected);
}

static void test_state_n_ranges_out_of_range(void **state)
{
    (void)state;
    const uint32_t bad[] = {0, MM_LAYOUT_RANGES_MAX + 1, UINT32_MAX};
    for (size_t k = 0; k < sizeof bad / sizeof bad[0]; k++) {
        struct mm_layout_state s = sample_state();
        for (uint32_t i = 0; i < MM_LAYOUT_RANGES_MAX; i++) {
            s.ranges[i].hash = i;
        }
        s.n_ranges = bad[k];
        uint8_t *bytes = new_state(&s);
        /* In order even where one too many would be. */
        memset(bytes + STATE_RANGES + (size_t)RANGE_LEN * MM_LAYOUT_RANGES_MAX, 0x7F, 4);
        mend(bytes, MM_LAYOUT_STATE_LEN);
        assert_int_equal(state_error(bytes), MM_ECORRUPT);
        free(bytes);
    }
}

/* Together they cover each hash once. */
static void test_state_ranges_out_of_order(void **state)
{
    (void)state;
    const struct
    {
        uint32_t hashes[3];
        int err;
    } cases[] = {
        {{0, 1, 2}, 0},
        {{0, 0x7FFFFFFF, 0x80000000}, 0},
        {{0, 0xFFFFFFFE, 0xFFFFFFFF}, 0},
        {{1, 2, 3}, MM_ECORRUPT},
        {{0x01000000, 0x02000000, 0x03000000}, MM_ECORRUPT},
        {{0, 0, 1}, MM_ECORRUPT},
        {{0, 5, 5}, MM_ECORRUPT},
        {{0, 6, 5}, MM_ECORRUPT},
        {{0, 0x80000000, 0x7FFFFFFF}, MM_ECORRUPT},
        {{0, 5, 0}, MM_ECORRUPT},
    };
    for (size_t k = 0; k < sizeof cases / sizeof cases[0]; k++) {
        struct mm_layout_state s = sample_state();
        for (size_t i = 0; i < 3; i++) {
            s.ranges[i].hash = cases[k].hashes[i];
        }
        uint8_t *bytes = new_state(&s);
        assert_int_equal(state_error(bytes), cases[k].err);
        free(bytes);
    }
}

static void test_state_never_written(void **state)
{
    (void)state;
    uint8_t bytes[MM_LAYOUT_STATE_LEN] = {0};
    assert_int_equal(state_error(bytes), MM_EAGAIN);
    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = 1;
        assert_int_equal(state_error(bytes), MM_ECORRUPT);
        bytes[i] = 0;
    }
}

static void test_state_each_changed_byte(void **state)
{
    (void)state;
    struct mm_layout_state s = sample_state();
    uint8_t *bytes = new_state(&s);
    for (size_t i = 0; i < MM_LAYOUT_STATE_LEN; i++) {
        uint8_t good = bytes[i];
        for (size_t way = 0; way < N_CHANGES; way++) {
            bytes[i] = changed(good, way);
            assert_int_equal(state_error(bytes), bytes[i] == good ? 0 : MM_ECORRUPT);
        }
        bytes[i] = good;
    }
    free(bytes);
}

static void test_state_each_cut(void **state)
{
    (void)state;
    struct mm_layout_state s = sample_state();
    uint8_t *bytes = new_state(&s);
    for (size_t len = MM_LAYOUT_STATE_LEN; len-- > 0;) {
        bytes[len] = 0;
        assert_int_equal(state_error(bytes), len == 0 ? MM_EAGAIN : MM_ECORRUPT);
    }
    free(bytes);
}

/* The power goes while a slot is written over an older one: any of its sectors may be new. */
static void test_state_torn(void **state)
{
    (void)state;
    enum {
        SECTOR = 512,
        N_SECTORS = MM_LAYOUT_STATE_LEN / SECTOR
    };
    struct mm_layout_state s = sample_state();
    uint8_t *before = new_state(&s);
    s.generation += 2;
    s.ranges[1].low++;
    uint8_t *after = new_state(&s);
    uint8_t torn[MM_LAYOUT_STATE_LEN];
    unsigned n_whole = 0;
    for (unsigned mask = 0; mask < 1u << N_SECTORS; mask++) {
        for (size_t k = 0; k < N_SECTORS; k++) {
            memcpy(torn + k * SECTOR, ((mask >> k & 1) != 0 ? after : before) + k * SECTOR, SECTOR);
        }
        bool whole =
            memcmp(torn, before, sizeof torn) == 0 || memcmp(torn, after, sizeof torn) == 0;
        assert_int_equal(state_error(torn), whole ? 0 : MM_ECORRUPT);
        n_whole += whole ? 1 : 0;
    }
    /* Five of the eight sectors are the same in both. */
    assert_int_equal(n_whole, 2 * 32);
    free(before);
    free(after);
}

static void test_state_unknown_version(void **state)
{
    (void)state;
    const uint32_t unknown[] = {0, MM_LAYOUT_VERSION + 1, 0x01000000, UINT32_MAX};
    struct mm_layout_state s = sample_state();
    for (size_t k = 0; k < sizeof unknown / sizeof unknown[0]; k++) {
        uint8_t *bytes = new_state(&s);
        for (size_t i = 0; i < 4; i++) {
            bytes[8 + i] = (uint8_t)(unknown[k] >> 8 * i);
        }
        assert_int_equal(state_error(bytes), MM_ECORRUPT);
        mend(bytes, MM_LAYOUT_STATE_LEN);
        assert_int_equal(state_error(bytes), MM_EVERSION);
        struct mm_layout_state out;
        assert_int_equal(mm_layout_decode_state(bytes, &out), MM_EVERSION);
        assert_int_equal(out.version, unknown[k]);
        free(bytes);
    }
}

/* A later writer may use them for what an older reader need not know. */
static void test_state_reserved_bytes(void **state)
{
    (void)state;
    struct mm_layout_state s = sample_state();
    uint8_t *bytes = new_state(&s);
    memset(bytes + sizeof state_bytes - 4, 0xEE, STATE_COUNTERS - (sizeof state_bytes - 4));
    memset(bytes + 384, 0xEE, STATE_RANGES - 384);
    memset(bytes + STATE_RANGES + 4, 0xEE, 4);
    memset(bytes + 3072, 0xEE, STATE_CRC - 3072);
    bytes[12] |= 0xFE; /* all flags but clean */
    mend(bytes, MM_LAYOUT_STATE_LEN);
    assert_state_decodes_to(bytes, &s);

    bytes[12] = 0xFE;
    mend(bytes, MM_LAYOUT_STATE_LEN);
    s.clean = false;
    assert_state_decodes_to(bytes, &s);
    free(bytes);
}

/* --- UUID ---------------------------------------------------------------------------------------
 */

static void test_uuid(void **state)
{
    (void)state;
    uint8_t uuid[16];
    fill(uuid, 0xA0);
    char text[37];
    memset(text, 'x', sizeof text);
    mm_layout_format_uuid(uuid, text);
    assert_string_equal(text, uuid_text);

    uint8_t out[16] = {0};
    assert_int_equal(mm_layout_parse_uuid(text, out), 0);
    assert_memory_equal(out, uuid, sizeof out);
    memset(out, 0, sizeof out);
    assert_int_equal(mm_layout_parse_uuid("A0a1a2a3-A4A5-A6A7-A8A9-AAABACADAEAF", out), 0);
    assert_memory_equal(out, uuid, sizeof out);

    fill(uuid, 0x09);
    mm_layout_format_uuid(uuid, text);
    assert_string_equal(text, "090a0b0c-0d0e-0f10-1112-131415161718");
    assert_int_equal(mm_layout_parse_uuid(text, out), 0);
    assert_memory_equal(out, uuid, sizeof out);
}

static void assert_no_uuid(const char *text)
{
    uint8_t out[16];
    uint8_t before[16];
    memset(before, 0x5A, sizeof before);
    memcpy(out, before, sizeof out);
    assert_int_equal(mm_layout_parse_uuid(text, out), MM_EINVAL);
    assert_memory_equal(out, before, sizeof out);
}

static void test_no_uuid(void **state)
{
    (void)state;
    for (size_t len = 0; len < sizeof uuid_text - 1; len++) {
        char *cut = strndup(uuid_text, len);
        assert_non_null(cut);
        assert_no_uuid(cut);
        free(cut);
    }
    for (size_t i = 0; i < sizeof uuid_text - 1; i++) {
        char text[sizeof uuid_text];
        memcpy(text, uuid_text, sizeof text);
        for (const char *bad = "/:@G`g \x80"; *bad != '\0'; bad++) {
            text[i] = *bad;
            assert_no_uuid(text);
        }
        text[i] = uuid_text[i] == '-' ? '0' : '-';
        assert_no_uuid(text);
    }
    assert_no_uuid("a0a1a2a3-a4a5-a6a7-a8a9-aaabacadaeaf0");
    assert_no_uuid("a0a1a2a3-a4a5-a6a7-a8a9-aaabacadaeaf ");
    assert_no_uuid("{a0a1a2a3-a4a5-a6a7-a8a9-aaabacadaeaf}");
    assert_no_uuid("a0a1a2a3a4a5a6a7a8a9aaabacadaeaf");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_header_layout),
        cmocka_unit_test(test_header_round_trip),
        cmocka_unit_test(test_header_each_changed_byte),
        cmocka_unit_test(test_header_both_copies_damaged),
        cmocka_unit_test(test_header_each_cut),
        cmocka_unit_test(test_header_unknown_version),
        cmocka_unit_test(test_header_reserved_bytes),
        cmocka_unit_test(test_header_not_there),
        cmocka_unit_test(test_seal_layout),
        cmocka_unit_test(test_seal_round_trip),
        cmocka_unit_test(test_seal_not_there),
        cmocka_unit_test(test_seal_each_changed_byte),
        cmocka_unit_test(test_seal_of_another_salt),
        cmocka_unit_test(test_state_layout),
        cmocka_unit_test(test_state_round_trip),
        cmocka_unit_test(test_state_unused_ranges),
        cmocka_unit_test(test_state_n_ranges_out_of_range),
        cmocka_unit_test(test_state_ranges_out_of_order),
        cmocka_unit_test(test_state_never_written),
        cmocka_unit_test(test_state_each_changed_byte),
        cmocka_unit_test(test_state_each_cut),
        cmocka_unit_test(test_state_torn),
        cmocka_unit_test(test_state_unknown_version),
        cmocka_unit_test(test_state_reserved_bytes),
        cmocka_unit_test(test_uuid),
        cmocka_unit_test(test_no_uuid),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
