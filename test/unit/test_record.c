#include "mm_error.h"
#include "mm_record.h"
#include "random.h"

#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SALT 0x1122334455667788u

/* Pseudo-random, the same in each run. */
static struct mm_record sample(void)
{
    return (struct mm_record){
        .seq = 0x0102030405060708u,
        .time_ms = 1700000000123u,
        .topic_hash = mm_topic_hash("a/b", 3),
        .flags = 1 | MM_RECORD_RETAIN,
        .type = MM_RECORD_MESSAGE,
        .topic_len = 3,
        .payload_len = 5,
        .props_len = 2,
        .topic = "a/b",
        .payload = "hello",
        .props = "\x01\x02",
    };
}

/* The bytes of sample(), computed apart from this project's code. They stand in files: a change
 * here is a new format. */
static const uint8_t sample_bytes[] = {
    0x32, 0x00, 0x00, 0x00, 0x93, 0xC9, 0xEB, 0xB1, 0x08, 0x07, 0x06, 0x05, 0x04, 0x03,
    0x02, 0x01, 0x7B, 0x68, 0xE5, 0xCF, 0x8B, 0x01, 0x00, 0x00, 0x7E, 0x26, 0xCB, 0x4A,
    0xB9, 0xA8, 0x5A, 0xCD, 0x05, 0x00, 0x00, 0x00, 0x03, 0x00, 0x05, 0x01, 0x61, 0x2F,
    0x62, 0x68, 0x65, 0x6C, 0x6C, 0x6F, 0x01, 0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
};

static size_t size_of(const struct mm_record *r)
{
    return (size_t)mm_record_size(r->topic_len, r->payload_len, r->props_len);
}

static void write_record(void *dst, uint64_t salt, const struct mm_record *r)
{
    mm_record_commit(dst, mm_record_encode(dst, salt, r));
}

/* Exactly as large as the record, so that the address sanitizer sees each byte too many. */
static uint8_t *new_encoded(uint64_t salt, const struct mm_record *r)
{
    uint8_t *bytes = malloc(size_of(r));
    assert_non_null(bytes);
    memset(bytes, 0xAA, size_of(r));
    write_record(bytes, salt, r);
    return bytes;
}

static void assert_same_bytes(const void *a, const void *b, size_t len)
{
    if (len > 0) {
        assert_memory_equal(a, b, len);
    }
}

static void assert_same(const struct mm_record *a, const struct mm_record *b)
{
    assert_int_equal(a->seq, b->seq);
    assert_int_equal(a->time_ms, b->time_ms);
    assert_int_equal(a->topic_hash, b->topic_hash);
    assert_int_equal(a->flags, b->flags);
    assert_int_equal(a->type, b->type);
    assert_int_equal(a->topic_len, b->topic_len);
    assert_int_equal(a->payload_len, b->payload_len);
    assert_int_equal(a->props_len, b->props_len);
    assert_same_bytes(a->topic, b->topic, a->topic_len);
    assert_same_bytes(a->payload, b->payload, a->payload_len);
    assert_same_bytes(a->props, b->props, a->props_len);
}

static void assert_decodes_to(const void *src, size_t avail, const struct mm_record *expected)
{
    for (int verify = 0; verify <= 1; verify++) {
        struct mm_record out;
        size_t size = 0;
        assert_int_equal(mm_record_decode(src, avail, SALT, verify != 0, &out, &size), 0);
        assert_int_equal(size, size_of(expected));
        assert_same(&out, expected);
    }
}

/* Returns the error, after a look that nothing was written for it. */
static int decode_error(const void *src, size_t avail, uint64_t salt, bool verify)
{
    struct mm_record out;
    struct mm_record before;
    memset(&out, 0x5A, sizeof out);
    memcpy(&before, &out, sizeof out);
    size_t size = 12345;
    int err = mm_record_decode(src, avail, salt, verify, &out, &size);
    if (err != 0) {
        assert_memory_equal(&out, &before, sizeof out);
        assert_int_equal(size, 12345);
    }
    return err;
}

static void test_size(void **state)
{
    (void)state;
    assert_int_equal(mm_record_size(0, 0, 0), 40);
    assert_int_equal(mm_record_size(1, 0, 0), 48);
    assert_int_equal(mm_record_size(0, 8, 0), 48);
    assert_int_equal(mm_record_size(3, 3, 3), 56);
    assert_int_equal(mm_record_size(0, UINT32_MAX - 47, 0), 0xFFFFFFF8u);
    assert_int_equal(mm_record_size(0, UINT32_MAX - 40, 0), 0x100000000u);
    assert_int_equal(mm_record_size(UINT16_MAX, UINT32_MAX - 40, 0), 0x100010000u);
    assert_int_equal(mm_record_size(UINT16_MAX, UINT32_MAX, UINT32_MAX), 0x200010028u);
}

static void test_layout(void **state)
{
    (void)state;
    struct mm_record r = sample();
    uint8_t *bytes = new_encoded(SALT, &r);
    assert_int_equal(size_of(&r), sizeof sample_bytes);
    assert_memory_equal(bytes, sample_bytes, sizeof sample_bytes);
    assert_decodes_to(bytes, size_of(&r), &r);
    free(bytes);
}

static void test_encode_leaves_commit_word_zero(void **state)
{
    (void)state;
    struct mm_record r = sample();
    uint8_t *bytes = malloc(size_of(&r));
    assert_non_null(bytes);
    memset(bytes, 0xAA, size_of(&r));
    uint32_t len = mm_record_encode(bytes, SALT, &r);
    assert_int_equal(len, 50);
    assert_memory_equal(bytes, "\0\0\0\0", 4);
    assert_memory_equal(bytes + 4, sample_bytes + 4, sizeof sample_bytes - 4);
    assert_int_equal(decode_error(bytes, size_of(&r), SALT, true), MM_EAGAIN);
    assert_int_equal(decode_error(bytes, size_of(&r), SALT, false), MM_EAGAIN);
    mm_record_commit(bytes, len);
    assert_decodes_to(bytes, size_of(&r), &r);
    free(bytes);
}

static void test_round_trip(void **state)
{
    (void)state;
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz";
    for (uint16_t topic_len = 0; topic_len <= 20; topic_len++) {
        for (uint32_t payload_len = 0; payload_len <= 20; payload_len++) {
            for (uint32_t props_len = 0; props_len <= 9; props_len++) {
                struct mm_record r = sample();
                r.topic_len = topic_len;
                r.topic = letters;
                r.payload_len = payload_len;
                r.payload = payload_len == 0 ? NULL : letters + 2;
                r.props_len = props_len;
                r.props = props_len == 0 ? NULL : letters + 4;
                r.seq = topic_len;
                uint8_t *bytes = new_encoded(SALT, &r);
                assert_decodes_to(bytes, size_of(&r), &r);
                free(bytes);
            }
        }
    }
}

static void test_extreme_fields(void **state)
{
    (void)state;
    struct mm_record r = sample();
    r.seq = UINT64_MAX;
    r.time_ms = UINT64_MAX;
    r.topic_hash = UINT32_MAX;
    r.flags = UINT8_MAX;
    r.type = UINT8_MAX;
    uint8_t *bytes = new_encoded(SALT, &r);
    assert_decodes_to(bytes, size_of(&r), &r);
    free(bytes);

    size_t large = (size_t)3 << 20;
    char *text = malloc(large);
    assert_non_null(text);
    memset(text, 'x', large);
    r.topic = text;
    r.topic_len = UINT16_MAX;
    r.payload = text;
    r.payload_len = (uint32_t)large;
    r.props = text;
    r.props_len = (uint32_t)large - 1;
    bytes = new_encoded(SALT, &r);
    assert_decodes_to(bytes, size_of(&r), &r);
    free(bytes);
    free(text);
}

static void test_avail_may_be_larger(void **state)
{
    (void)state;
    struct mm_record r = sample();
    uint64_t area[16];
    memset(area, 0xEE, sizeof area);
    write_record(area, SALT, &r);
    for (size_t avail = size_of(&r); avail <= sizeof area; avail++) {
        assert_decodes_to(area, avail, &r);
    }
}

/* A changed byte is noticed, or was none that counts (padding). */
static void test_each_changed_byte(void **state)
{
    (void)state;
    struct mm_record r = sample();
    uint8_t *bytes = new_encoded(SALT, &r);
    for (size_t i = 0; i < size_of(&r); i++) {
        uint8_t good = bytes[i];
        const uint8_t bad[] = {
            (uint8_t)(good ^ 1), (uint8_t)(good ^ 0x80), (uint8_t)~good, (uint8_t)(good + 1), 0,
        };
        for (size_t k = 0; k < sizeof bad; k++) {
            bytes[i] = bad[k];
            if (decode_error(bytes, size_of(&r), SALT, true) == 0) {
                assert_true(bad[k] == good || i >= 50);
                assert_decodes_to(bytes, size_of(&r), &r);
            }
        }
        bytes[i] = good;
    }
    free(bytes);
}

static void test_each_cut(void **state)
{
    (void)state;
    struct mm_record r = sample();
    uint8_t *bytes = new_encoded(SALT, &r);
    for (size_t avail = 0; avail < size_of(&r); avail++) {
        uint8_t *cut = malloc(avail + (avail == 0));
        assert_non_null(cut);
        memcpy(cut, bytes, avail);
        assert_int_equal(decode_error(cut, avail, SALT, true), MM_ECORRUPT);
        assert_int_equal(decode_error(cut, avail, SALT, false), MM_ECORRUPT);
        free(cut);
    }
    free(bytes);
}

static void test_empty_memory(void **state)
{
    (void)state;
    for (size_t avail = 0; avail <= 100; avail++) {
        uint8_t *zeros = calloc(1, avail + (avail == 0));
        assert_non_null(zeros);
        int expected = avail < 4 ? MM_ECORRUPT : MM_EAGAIN;
        assert_int_equal(decode_error(zeros, avail, SALT, true), expected);
        assert_int_equal(decode_error(zeros, avail, SALT, false), expected);
        free(zeros);
    }
}

static void test_lying_lengths(void **state)
{
    (void)state;
    uint64_t random = 3;
    for (int round = 0; round < 300000; round++) {
        size_t avail = next_random(&random) % 160;
        uint8_t *bytes = malloc(avail + (avail == 0));
        assert_non_null(bytes);
        for (size_t i = 0; i < avail; i++) {
            /* Mostly small numbers, or nearly all is refused by the first comparison. */
            bytes[i] =
                (i & 3) < 1 || next_random(&random) % 16 == 0 ? (uint8_t)next_random(&random) : 0;
        }
        struct mm_record out;
        size_t size;
        if (mm_record_decode(bytes, avail, SALT, false, &out, &size) == 0) {
            const uint8_t *end = (const uint8_t *)out.props + out.props_len;
            assert_true(out.topic == (const char *)bytes + MM_RECORD_HEADER_LEN);
            assert_true((const char *)out.payload == out.topic + out.topic_len);
            assert_true((const uint8_t *)out.props ==
                        (const uint8_t *)out.payload + out.payload_len);
            assert_true(size <= avail && size % MM_RECORD_ALIGN == 0);
            assert_true(end <= bytes + size && end > bytes + size - MM_RECORD_ALIGN);
        }
        assert_int_not_equal(decode_error(bytes, avail, SALT, true), 0);
        free(bytes);
    }
}

static void test_lengths_that_wrap(void **state)
{
    (void)state;
    uint64_t area[8];
    uint8_t *bytes = (uint8_t *)area;
    struct mm_record r = sample();
    write_record(bytes, SALT, &r);
    /* payload_len so large that with topic_len it fits again, in 32 bits. */
    memset(bytes + 32, 0xFF, 4);
    assert_int_equal(decode_error(bytes, sizeof area, SALT, false), MM_ECORRUPT);
    /* len so large that its padding makes it 0, in 32 bits. */
    memset(bytes, 0xFF, 4);
    assert_int_equal(decode_error(bytes, sizeof area, SALT, false), MM_ECORRUPT);
    assert_int_equal(decode_error(bytes, sizeof area, SALT, true), MM_ECORRUPT);
}

static void test_another_salt(void **state)
{
    (void)state;
    struct mm_record r = sample();
    uint8_t *bytes = new_encoded(SALT, &r);
    for (int bit = 0; bit < 64; bit++) {
        uint64_t salt = SALT ^ (uint64_t)1 << bit;
        assert_int_equal(decode_error(bytes, size_of(&r), salt, true), MM_ECORRUPT);
    }
    free(bytes);
}

/* What a resync after damage may meet: a whole record inside a payload. */
static void test_forged_record_in_payload(void **state)
{
    (void)state;
    struct mm_record inner = sample();
    uint64_t forged[8] = {0};
    write_record(forged, SALT + 1, &inner);

    struct mm_record outer = sample();
    outer.topic = "topics/8";
    outer.topic_len = 8;
    outer.payload = forged;
    outer.payload_len = sizeof forged;
    uint8_t *bytes = new_encoded(SALT, &outer);
    assert_decodes_to(bytes, size_of(&outer), &outer);
    for (size_t i = 8; i < size_of(&outer); i += 8) {
        assert_int_not_equal(decode_error(bytes + i, size_of(&outer) - i, SALT, true), 0);
    }
    assert_int_equal(decode_error(bytes + 48, size_of(&outer) - 48, SALT + 1, true), 0);
    free(bytes);
}

#define N_PUBLISHED 2000
#define PUBLISHED_SIZE 56

struct published
{
    uint64_t area[N_PUBLISHED * PUBLISHED_SIZE / 8];
};

static void *publish(void *arg)
{
    struct published *p = arg;
    for (size_t i = 0; i < N_PUBLISHED; i++) {
        struct mm_record r = sample();
        r.seq = i + 1;
        write_record((uint8_t *)p->area + i * PUBLISHED_SIZE, SALT, &r);
    }
    return NULL;
}

/* A reader that only looks at the commit word never sees a record in part. Mostly for the thread
 * sanitizer. */
static void test_commit_publishes(void **state)
{
    (void)state;
    struct published *p = calloc(1, sizeof *p);
    assert_non_null(p);
    pthread_t writer;
    assert_int_equal(pthread_create(&writer, NULL, publish, p), 0);
    size_t n_read = 0;
    while (n_read < N_PUBLISHED) {
        const uint8_t *src = (const uint8_t *)p->area + n_read * PUBLISHED_SIZE;
        size_t avail = (N_PUBLISHED - n_read) * PUBLISHED_SIZE;
        struct mm_record out;
        size_t size;
        int err = mm_record_decode(src, avail, SALT, true, &out, &size);
        if (err == MM_EAGAIN) {
            continue;
        }
        assert_int_equal(err, 0);
        assert_int_equal(size, PUBLISHED_SIZE);
        assert_int_equal(out.seq, ++n_read);
    }
    assert_int_equal(pthread_join(writer, NULL), 0);
    free(p);
}

/* Stored in files, so it has to stay. */
static void test_topic_hash_values(void **state)
{
    (void)state;
    assert_int_equal(mm_topic_hash("", 0), 0);
    assert_int_equal(mm_topic_hash("a", 1), 0xEAD78E20u);
    assert_int_equal(mm_topic_hash("a/b", 3), 0xCD5AA8B9u);
    assert_int_equal(mm_topic_hash("sensors/kitchen/temperature", 27), 0xEBA5E0ACu);
    assert_int_equal(mm_topic_hash("bl\xC3\xA5"
                                   "b\xC3\xA6r",
                                   8),
                     0x39CFBD29u);
}

static void test_topic_shard_range(void **state)
{
    (void)state;
    assert_int_equal(mm_topic_shard(UINT32_MAX, 1), 0);
    assert_int_equal(mm_topic_shard(0, 64), 0);
    assert_int_equal(mm_topic_shard(UINT32_MAX, 64), 63);
    assert_int_equal(mm_topic_shard(UINT32_MAX, UINT32_MAX), UINT32_MAX - 1);
}

#define N_TOPICS 20000

typedef int (*name_topic_fn)(char *dst, size_t size, unsigned i);

static int name_device(char *dst, size_t size, unsigned i)
{
    return snprintf(dst, size, "devices/%u/status", i);
}

static int name_padded(char *dst, size_t size, unsigned i)
{
    return snprintf(dst, size, "v1/gw-%08u", i);
}

static int name_room(char *dst, size_t size, unsigned i)
{
    return snprintf(dst, size, "sensors/building%u/floor%u/room%u/temperature", i / 400,
                    i / 20 % 20, i % 20);
}

static int name_mac(char *dst, size_t size, unsigned i)
{
    return snprintf(dst, size, "tele/tasmota_5C:CF:7F:%02X:%02X:%02X/SENSOR", i >> 16, i >> 8 & 255,
                    i & 255);
}

static double chi_square(name_topic_fn name, uint32_t n_shards)
{
    unsigned counts[64] = {0};
    for (unsigned i = 0; i < N_TOPICS; i++) {
        char topic[100];
        int len = name(topic, sizeof topic, i);
        uint32_t shard = mm_topic_shard(mm_topic_hash(topic, (size_t)len), n_shards);
        assert_true(shard < n_shards);
        counts[shard]++;
    }
    double expected = (double)N_TOPICS / n_shards;
    double sum = 0;
    for (uint32_t i = 0; i < n_shards; i++) {
        sum += (counts[i] - expected) * (counts[i] - expected) / expected;
    }
    return sum;
}

static void test_topics_spread_evenly(void **state)
{
    (void)state;
    static const name_topic_fn names[] = {name_device, name_padded, name_room, name_mac};
    for (size_t k = 0; k < sizeof names / sizeof names[0]; k++) {
        for (uint32_t n_shards = 1; n_shards <= 64; n_shards++) {
            /* Mean of the chi-square distribution plus five standard deviations: a random spread
             * passes it in all but a few of a million tries. */
            double freedom = n_shards - 1;
            assert_true(chi_square(names[k], n_shards) <= freedom + 5 * sqrt(2 * freedom) + 10);
        }
    }
}

/* --- properties ---------------------------------------------------------------------------------
 */

/* Computed apart from this project's code, as sample_bytes. */
static const uint8_t props_bytes[] = {
    0x02, 0x00, 0x05, 0x00, 0x00, 0x00, 'e',  'r',  'r',  'o',  'r',  0x04, 0x00, 0x08,
    0x00, 0x00, 0x00, 0x08, 0x07, 0x06, 0x05, 0x04, 0x03, 0x02, 0x01, 0x34, 0x12, 0x00,
    0x00, 0x00, 0x00, 0x02, 0x00, 0x03, 0x00, 0x00, 0x00, 'n',  'e',  'w',
};

static void test_props_layout(void **state)
{
    (void)state;
    uint8_t bytes[sizeof props_bytes];
    uint8_t *end = mm_prop_put(bytes, MM_TAG_ERROR, "error", 5);
    end = mm_prop_put_u64(end, MM_TAG_DIED_MS, 0x0102030405060708u);
    end = mm_prop_put(end, 0x1234, NULL, 0);
    end = mm_prop_put(end, MM_TAG_ERROR, "new", 3);
    assert_ptr_equal(end, bytes + sizeof bytes);
    assert_memory_equal(bytes, props_bytes, sizeof bytes);
}

static void test_props_get(void **state)
{
    (void)state;
    uint32_t len = 99;
    const uint8_t *data = mm_prop_get(props_bytes, sizeof props_bytes, MM_TAG_ERROR, &len);
    assert_ptr_equal(data, props_bytes + 6); /* the first of two */
    assert_int_equal(len, 5);
    data = mm_prop_get(props_bytes, sizeof props_bytes, 0x1234, &len);
    assert_ptr_equal(data, props_bytes + 31);
    assert_int_equal(len, 0);

    len = 99;
    assert_null(mm_prop_get(props_bytes, sizeof props_bytes, MM_TAG_ORIGIN, &len));
    assert_null(mm_prop_get(props_bytes, sizeof props_bytes, 0, &len));
    assert_null(mm_prop_get(NULL, 0, MM_TAG_ERROR, &len));
    assert_int_equal(len, 99);
}

static void test_props_get_u64(void **state)
{
    (void)state;
    uint64_t value = 99;
    assert_false(mm_prop_get_u64(props_bytes, sizeof props_bytes, MM_TAG_ERROR, &value));
    assert_false(mm_prop_get_u64(props_bytes, sizeof props_bytes, 0x1234, &value));
    assert_false(mm_prop_get_u64(props_bytes, sizeof props_bytes, MM_TAG_ORIGIN, &value));
    assert_false(mm_prop_get_u64(NULL, 0, MM_TAG_DIED_MS, &value));
    assert_int_equal(value, 99);
    assert_true(mm_prop_get_u64(props_bytes, sizeof props_bytes, MM_TAG_DIED_MS, &value));
    assert_int_equal(value, 0x0102030405060708u);

    uint8_t bytes[MM_PROP_HEADER_LEN + 9];
    for (uint32_t len = 0; len <= 9; len++) {
        mm_prop_put(bytes, 7, "123456789", len);
        assert_int_equal(mm_prop_get_u64(bytes, MM_PROP_HEADER_LEN + len, 7, &value), len == 8);
    }
}

static void test_props_pair(void **state)
{
    (void)state;
    static const uint8_t bytes[] = {0x0D, 0x00, 0x05, 0x00, 0x00, 0x00, 0x02, 0x00, 'a', 'b', 'c'};
    const struct mm_prop_pair pair = {.name = "ab", .name_len = 2, .value = "c", .value_len = 1};
    uint8_t made[sizeof bytes];
    assert_int_equal(mm_prop_pair_len(&pair), sizeof bytes - MM_PROP_HEADER_LEN);
    assert_ptr_equal(mm_prop_put_pair(made, &pair), made + sizeof made);
    assert_memory_equal(made, bytes, sizeof bytes);
    const uint8_t *item = made + MM_PROP_HEADER_LEN;
    for (uint32_t len = 0; len <= sizeof bytes - MM_PROP_HEADER_LEN; len++) {
        struct mm_prop_pair found;
        bool whole = len >= 4; /* the name, and any value */
        assert_int_equal(mm_prop_split_pair(item, len, &found), whole);
        if (whole) {
            assert_int_equal(found.name_len, 2);
            assert_memory_equal(found.name, "ab", 2);
            assert_int_equal(found.value_len, len - 4);
            assert_ptr_equal(found.value, item + 4);
        }
    }
}

/* What was whole before the cut is found, and nothing else. */
static void test_props_each_cut(void **state)
{
    (void)state;
    for (uint32_t props_len = 0; props_len <= sizeof props_bytes; props_len++) {
        uint8_t *cut = malloc(props_len + (props_len == 0));
        assert_non_null(cut);
        memcpy(cut, props_bytes, props_len);
        uint32_t len;
        uint64_t value;
        assert_int_equal(mm_prop_get(cut, props_len, MM_TAG_ERROR, &len) != NULL, props_len >= 11);
        assert_int_equal(mm_prop_get_u64(cut, props_len, MM_TAG_DIED_MS, &value), props_len >= 25);
        assert_int_equal(mm_prop_get(cut, props_len, 0x1234, &len) != NULL, props_len >= 31);
        assert_null(mm_prop_get(cut, props_len, MM_TAG_ORIGIN, &len));
        free(cut);
    }
}

/* Lengths that lead out of the properties end the search. */
static void test_props_malformed(void **state)
{
    (void)state;
    const uint32_t lens[] = {10, 11, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF3, 0xFFFFFFFA, UINT32_MAX};
    for (size_t k = 0; k < sizeof lens / sizeof lens[0]; k++) {
        uint8_t bytes[MM_PROP_HEADER_LEN + 3 + MM_PROP_HEADER_LEN];
        uint8_t *end = mm_prop_put(bytes, 1, "abc", 3);
        mm_prop_put(end, 2, NULL, 0);
        for (size_t i = 0; i < 4; i++) {
            bytes[2 + i] = (uint8_t)(lens[k] >> 8 * i);
        }
        uint32_t len = 99;
        assert_null(mm_prop_get(bytes, sizeof bytes, 1, &len));
        assert_null(mm_prop_get(bytes, sizeof bytes, 2, &len));
        assert_int_equal(len, 99);
    }
}

static void test_props_random(void **state)
{
    (void)state;
    uint64_t random = 4;
    size_t n_found = 0;
    for (int round = 0; round < 200000; round++) {
        uint32_t props_len = next_random(&random) % 60;
        uint8_t *bytes = malloc(props_len + (props_len == 0));
        assert_non_null(bytes);
        for (uint32_t i = 0; i < props_len; i++) {
            bytes[i] = next_random(&random) % 3 == 0 ? (uint8_t)(next_random(&random) % 12) : 0;
        }
        uint32_t len;
        const uint8_t *data = mm_prop_get(bytes, props_len, 1, &len);
        if (data != NULL) {
            assert_true(data >= bytes + MM_PROP_HEADER_LEN && data <= bytes + props_len);
            assert_true(len <= (size_t)(bytes + props_len - data));
            assert_true(data[-6] == 1 && data[-5] == 0);
            n_found++;
        }
        free(bytes);
    }
    assert_true(n_found > 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_size),
        cmocka_unit_test(test_layout),
        cmocka_unit_test(test_encode_leaves_commit_word_zero),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_extreme_fields),
        cmocka_unit_test(test_avail_may_be_larger),
        cmocka_unit_test(test_each_changed_byte),
        cmocka_unit_test(test_each_cut),
        cmocka_unit_test(test_empty_memory),
        cmocka_unit_test(test_lying_lengths),
        cmocka_unit_test(test_lengths_that_wrap),
        cmocka_unit_test(test_another_salt),
        cmocka_unit_test(test_forged_record_in_payload),
        cmocka_unit_test(test_commit_publishes),
        cmocka_unit_test(test_topic_hash_values),
        cmocka_unit_test(test_topic_shard_range),
        cmocka_unit_test(test_topics_spread_evenly),
        cmocka_unit_test(test_props_layout),
        cmocka_unit_test(test_props_get),
        cmocka_unit_test(test_props_get_u64),
        cmocka_unit_test(test_props_pair),
        cmocka_unit_test(test_props_each_cut),
        cmocka_unit_test(test_props_malformed),
        cmocka_unit_test(test_props_random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
