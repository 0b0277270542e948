/* mm_record_find() over areas that were damaged in every way that a disk, a power failure or a
 * person can damage them. A record that it gives is one that was written, byte for byte, and it
 * misses none that is whole.
 *
 * MM_TEST_LONG=1 makes more of the random images. The module is included, so that the checksums
 * which it computes can be counted. */
#include "mm_error.h"
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

static size_t n_checksums;
static size_t n_checksum_bytes;

static uint32_t counted_crc32c(uint32_t crc, const void *data, size_t len)
{
    n_checksums++;
    n_checksum_bytes += len;
    return mm_crc32c(crc, data, len);
}

#define mm_crc32c counted_crc32c
/* NOLINTNEXTLINE(bugprone-suspicious-include) */
#include "../../plugin/mm_record.c"
#undef mm_crc32c

#define SALT 0x1122334455667788u
#define FIRST_SEQ 1000

enum {
    N_RECORDS = 30,
    AREA_LEN = 16 * 1024, /* the records and some room that was never written */
    SECTOR = 512,
    PAGE = 4096
};

/* A record as it was written. */
struct written
{
    size_t offset;
    size_t len; /* without padding */
    size_t size;
};

static uint64_t area[AREA_LEN / 8];
static struct written written[N_RECORDS];

/* Pseudo-random, the same in each run. */
static size_t scaled(size_t n)
{
    const char *text = getenv("MM_TEST_LONG");
    return text != NULL && strcmp(text, "1") == 0 ? n * 60 : n;
}

static void *new_bytes(size_t len)
{
    void *bytes = malloc(len + (len == 0));
    assert_non_null(bytes);
    return bytes;
}

static size_t write_record(void *dst, uint64_t salt, const struct mm_record *r)
{
    uint32_t len = mm_record_encode(dst, salt, r);
    mm_record_commit(dst, len);
    return len;
}

/* Sizes from nothing to more than a page, most of them some hundred bytes; payloads of zeros, of
 * one byte again and again, and of anything. */
static uint32_t make_payload(uint64_t *random, size_t k, uint8_t *dst)
{
    static const uint32_t lens[] = {0, 1, 7, 8, 100, 333, 472, 600, 1300, 5000};
    uint32_t len = lens[k * 7 % (sizeof lens / sizeof lens[0])];
    len = k >= 10 && len >= 1000 ? 50 : len;
    for (uint32_t i = 0; i < len; i++) {
        dst[i] = k % 3 == 0 ? 0 : k % 3 == 1 ? 0xEE : (uint8_t)next_random(random);
    }
    return len;
}

static int make_area(void **state)
{
    (void)state;
    uint64_t random = 1;
    size_t offset = 0;
    for (uint32_t k = 0; k < N_RECORDS; k++) {
        uint8_t payload[5000];
        struct mm_record r = {
            .seq = FIRST_SEQ + k,
            .time_ms = 1700000000000 + k,
            .topic_hash = next_random(&random),
            .flags = (uint8_t)(k % 8),
            .type = MM_RECORD_MESSAGE,
            .topic = "sensors/kitchen/temperature",
            .topic_len = (uint16_t)(1 + k % 27),
            .payload = payload,
            .payload_len = make_payload(&random, k, payload),
            .props = "\x09\x00\x02\x00\x00\x00hi",
            .props_len = k % 4 == 0 ? 8 : 0,
        };
        struct written *w = &written[k];
        w->offset = offset;
        w->size = (size_t)mm_record_size(r.topic_len, r.payload_len, r.props_len);
        assert_true(offset + w->size + PAGE / 2 <= AREA_LEN);
        w->len = write_record((uint8_t *)area + offset, SALT, &r);
        offset += w->size;
    }
    assert_true(offset > AREA_LEN / 2);
    return 0;
}

/* --- looking ------------------------------------------------------------------------------------
 */

/* What a walk over an area found. */
struct found
{
    size_t n;
    size_t offset[AREA_LEN / MM_RECORD_HEADER_LEN];
    uint64_t seq[AREA_LEN / MM_RECORD_HEADER_LEN];
};

static void take(struct found *f, size_t offset, uint64_t seq)
{
    assert_true(f->n < sizeof f->offset / sizeof f->offset[0]);
    f->offset[f->n] = offset;
    f->seq[f->n] = seq;
    f->n++;
}

/* A record as found is one that was written, here or at another place. */
static bool was_written(const uint8_t *at, const struct mm_record *r, size_t size)
{
    if (r->seq < FIRST_SEQ || r->seq >= FIRST_SEQ + N_RECORDS) {
        return false;
    }
    const struct written *w = &written[r->seq - FIRST_SEQ];
    const uint8_t *original = (const uint8_t *)area + w->offset;
    return size == w->size && memcmp(at, original, w->len) == 0 &&
           r->topic == (const char *)at + MM_RECORD_HEADER_LEN &&
           (const char *)r->payload == r->topic + r->topic_len &&
           (const char *)r->props == r->topic + r->topic_len + r->payload_len &&
           (const uint8_t *)r->props + r->props_len == at + w->len;
}

/* All of an area that is at hand as a whole. */
static void look(const void *data, size_t limit, struct found *f)
{
    size_t offset = 0;
    f->n = 0;
    for (;;) {
        struct mm_record r;
        size_t size = 12345;
        size_t before = offset;
        int err = mm_record_find(data, limit, limit, SALT, &offset, &r, &size);
        if (err != 0) {
            assert_int_equal(err, MM_EAGAIN);
            assert_int_equal(offset, limit);
            assert_int_equal(size, 12345);
            return;
        }
        assert_true(offset >= before && offset % MM_RECORD_ALIGN == 0);
        assert_true(size >= MM_RECORD_HEADER_LEN && size <= limit - offset);
        assert_true(was_written((const uint8_t *)data + offset, &r, size));
        take(f, offset, r.seq);
        offset += size;
    }
}

/* The same with a window of at least len bytes, in memory of its own, that moves over the area: as
 * a file is read. */
static void look_chunked(const void *data, size_t limit, size_t len, struct found *f)
{
    size_t start = 0; /* of the window */
    size_t room = len;
    f->n = 0;
    while (start < limit) {
        size_t at_hand = room < limit - start ? room : limit - start;
        uint8_t *window = new_bytes(at_hand);
        memcpy(window, (const uint8_t *)data + start, at_hand);
        size_t offset = 0;
        size_t size = 0;
        struct mm_record r;
        int err;
        while ((err = mm_record_find(window, at_hand, limit - start, SALT, &offset, &r, &size)) ==
               0) {
            assert_true(was_written(window + offset, &r, size));
            take(f, start + offset, r.seq);
            offset += size;
        }
        free(window);
        assert_true(err == MM_EAGAIN || err == MM_EPARTIAL);
        assert_true(offset % MM_RECORD_ALIGN == 0 || start + offset == limit);
        /* It gets on, or says how much it needs. */
        assert_true(offset > 0 || (err == MM_EPARTIAL && size > at_hand));
        assert_true(err != MM_EPARTIAL || (size > at_hand - offset && size <= limit - start));
        room = err == MM_EPARTIAL && size > len ? size : len;
        start += offset;
    }
    assert_int_equal(start, limit);
}

static void assert_same_found(const struct found *a, const struct found *b)
{
    assert_int_equal(a->n, b->n);
    assert_memory_equal(a->offset, b->offset, a->n * sizeof a->offset[0]);
    assert_memory_equal(a->seq, b->seq, a->n * sizeof a->seq[0]);
}

/* Exactly the records are found whose bytes in image, of which there are limit, are as written. */
static void assert_finds_the_whole(const void *image, size_t limit)
{
    struct found f;
    look(image, limit, &f);
    size_t n = 0;
    for (size_t k = 0; k < N_RECORDS; k++) {
        const struct written *w = &written[k];
        bool whole =
            w->offset + w->size <= limit && memcmp((const uint8_t *)image + w->offset,
                                                   (const uint8_t *)area + w->offset, w->len) == 0;
        if (whole) {
            assert_true(n < f.n && f.seq[n] == FIRST_SEQ + k && f.offset[n] == w->offset);
            n++;
        }
    }
    assert_int_equal(f.n, n);
}

/* --- nothing is wrong ---------------------------------------------------------------------------
 */

static void test_finds_all(void **state)
{
    (void)state;
    struct found f;
    look(area, AREA_LEN, &f);
    assert_int_equal(f.n, N_RECORDS);
    assert_finds_the_whole(area, AREA_LEN);
}

static void test_nothing_there(void **state)
{
    (void)state;
    struct found f;
    for (size_t limit = 0; limit <= 200; limit++) {
        uint8_t *zeros = new_bytes(limit);
        memset(zeros, 0, limit);
        look(zeros, limit, &f);
        assert_int_equal(f.n, 0);
        look_chunked(zeros, limit, 40, &f);
        assert_int_equal(f.n, 0);
        free(zeros);
    }
}

static void test_from_an_offset(void **state)
{
    (void)state;
    size_t k = 0;
    for (size_t from = 0; from <= AREA_LEN; from += MM_RECORD_ALIGN) {
        while (k < N_RECORDS && written[k].offset < from) {
            k++;
        }
        struct mm_record r;
        size_t size;
        size_t offset = from;
        int err = mm_record_find(area, AREA_LEN, AREA_LEN, SALT, &offset, &r, &size);
        assert_int_equal(err, k < N_RECORDS ? 0 : MM_EAGAIN);
        assert_int_equal(offset, k < N_RECORDS ? written[k].offset : AREA_LEN);
    }
}

static void test_needs_the_salt(void **state)
{
    (void)state;
    for (int bit = 0; bit < 64; bit++) {
        struct mm_record r;
        size_t size;
        size_t offset = 0;
        uint64_t salt = SALT ^ (uint64_t)1 << bit;
        assert_int_equal(mm_record_find(area, AREA_LEN, AREA_LEN, salt, &offset, &r, &size),
                         MM_EAGAIN);
        assert_int_equal(offset, AREA_LEN);
    }
}

/* --- damage -------------------------------------------------------------------------------------
 */

/* At most the record touched is missing, and only it. */
static void test_each_changed_byte(void **state)
{
    (void)state;
    uint64_t *image = new_bytes(AREA_LEN);
    memcpy(image, area, AREA_LEN);
    uint8_t *bytes = (uint8_t *)image;
    for (size_t i = 0; i < AREA_LEN; i++) {
        uint8_t good = bytes[i];
        const uint8_t bad[] = {
            (uint8_t)(good ^ 1), (uint8_t)(good ^ 0x80), (uint8_t)~good, (uint8_t)(good + 1), 0,
        };
        for (size_t k = 0; k < sizeof bad; k++) {
            bytes[i] = bad[k];
            assert_finds_the_whole(image, AREA_LEN);
        }
        bytes[i] = good;
    }
    free(image);
}

/* The file was cut: limit is its length. */
static void test_each_cut_of_the_area(void **state)
{
    (void)state;
    for (size_t limit = 0; limit <= AREA_LEN; limit++) {
        uint8_t *image = new_bytes(limit);
        memcpy(image, area, limit);
        assert_finds_the_whole(image, limit);
        free(image);
    }
}

/* Blocks that were never written, or lost their content, while the length stayed. */
static void test_each_cut_filled_with_zeros(void **state)
{
    (void)state;
    uint64_t *image = new_bytes(AREA_LEN);
    memcpy(image, area, AREA_LEN);
    for (size_t len = AREA_LEN; len-- > 0;) {
        ((uint8_t *)image)[len] = 0;
        assert_finds_the_whole(image, AREA_LEN);
    }
    free(image);
}

/* The power went: of what was not synced, any blocks may have come to the disk. */
static void lose_blocks(size_t block, size_t n_images, uint64_t seed)
{
    uint64_t random = seed;
    uint64_t *image = new_bytes(AREA_LEN);
    for (size_t i = 0; i < n_images; i++) {
        memcpy(image, area, AREA_LEN);
        uint32_t lost_of_16 = 1 + next_random(&random) % 15;
        for (size_t at = 0; at < AREA_LEN; at += block) {
            if (next_random(&random) % 16 < lost_of_16) {
                memset((uint8_t *)image + at, 0, block);
            }
        }
        assert_finds_the_whole(image, AREA_LEN);
    }
    free(image);
}

static void test_lost_sectors(void **state)
{
    (void)state;
    lose_blocks(SECTOR, scaled(5000), 2);
}

static void test_lost_pages(void **state)
{
    (void)state;
    lose_blocks(PAGE, scaled(3000), 3);
}

/* Several changed bytes, runs of anything, and blocks from elsewhere. */
static void test_random_damage(void **state)
{
    (void)state;
    uint64_t random = 4;
    uint64_t *image = new_bytes(AREA_LEN);
    uint8_t *bytes = (uint8_t *)image;
    for (size_t i = scaled(5000); i > 0; i--) {
        memcpy(image, area, AREA_LEN);
        for (uint32_t n = 1 + next_random(&random) % 8; n > 0; n--) {
            size_t at = next_random(&random) % AREA_LEN;
            size_t len = next_random(&random) % 4 == 0 ? next_random(&random) % 700 : 1;
            for (; len > 0 && at < AREA_LEN; len--, at++) {
                bytes[at] = (uint8_t)next_random(&random);
            }
        }
        assert_finds_the_whole(image, AREA_LEN);
    }
    free(image);
}

/* Records that were moved are found where they are: their content is right. That their place is
 * not is for the reader of the log to see, by seq. */
static void test_moved_pieces(void **state)
{
    (void)state;
    uint64_t random = 5;
    uint64_t *image = new_bytes(AREA_LEN);
    size_t n_found = 0;
    for (size_t i = scaled(5000); i > 0; i--) {
        memcpy(image, area, AREA_LEN);
        for (uint32_t n = 1 + next_random(&random) % 5; n > 0; n--) {
            size_t step = next_random(&random) % 2 == 0 ? MM_RECORD_ALIGN : SECTOR;
            size_t from = next_random(&random) % (AREA_LEN / step) * step;
            size_t to = next_random(&random) % (AREA_LEN / step) * step;
            size_t most = AREA_LEN - (from > to ? from : to);
            memmove((uint8_t *)image + to, (uint8_t *)image + from,
                    next_random(&random) % (most + 1));
        }
        struct found f;
        look(image, AREA_LEN, &f);
        n_found += f.n;
    }
    assert_true(n_found > scaled(5000));
    free(image);
}

static void test_garbage(void **state)
{
    (void)state;
    uint64_t random = 6;
    uint64_t *image = new_bytes(AREA_LEN);
    for (size_t i = scaled(5000); i > 0; i--) {
        /* Mostly small numbers in every second image, or nearly all is refused by the lengths. */
        bool small = i % 2 == 0;
        for (size_t k = 0; k < AREA_LEN / 8; k++) {
            uint64_t low = next_random(&random) & (small ? 0xFFF : UINT32_MAX);
            image[k] = (uint64_t)next_random(&random) << 32 | low;
        }
        struct found f;
        look(image, AREA_LEN, &f);
        assert_int_equal(f.n, 0);
    }
    free(image);
}

/* --- records inside of records ------------------------------------------------------------------
 */

/* A record whose payload is a run of whole records with this salt. Gives the offset of the next
 * one's place. */
static size_t write_outer(uint8_t *dst, uint64_t inner_salt)
{
    uint64_t inner[64] = {0};
    struct mm_record r = {
        .seq = 7,
        .type = MM_RECORD_MESSAGE,
        .topic = "forged",
        .topic_len = 6,
        .payload = "payload!",
        .payload_len = 8,
    };
    for (size_t k = 0; k < 8; k++) {
        write_record(inner + k * 8, inner_salt, &r);
    }
    struct mm_record outer = {
        .seq = 1,
        .type = MM_RECORD_MESSAGE,
        .topic = "topics/8",
        .topic_len = 8,
        .payload = inner,
        .payload_len = sizeof inner,
    };
    write_record(dst, SALT, &outer);
    return (size_t)mm_record_size(outer.topic_len, outer.payload_len, 0);
}

/* The seq of the first record found in an area with such a record and a plain one behind, after a
 * change of the byte at this offset. */
static uint64_t find_after_change(uint64_t inner_salt, size_t changed)
{
    uint64_t bytes[128] = {0};
    size_t end = write_outer((uint8_t *)bytes, inner_salt);
    struct mm_record r = {.seq = 2, .topic = "b", .topic_len = 1};
    write_record((uint8_t *)bytes + end, SALT, &r);
    ((uint8_t *)bytes)[changed] ^= 1;

    struct mm_record out;
    size_t size;
    size_t offset = 0;
    assert_int_equal(mm_record_find(bytes, sizeof bytes, sizeof bytes, SALT, &offset, &out, &size),
                     0);
    return out.seq;
}

/* A publisher can put anything into a payload, but does not know the salt. */
static void test_forged_without_the_salt(void **state)
{
    (void)state;
    for (size_t i = 0; i < MM_RECORD_HEADER_LEN + 8 + 512; i++) {
        assert_int_equal(find_after_change(SALT + 1, i), 2);
    }
}

/* One who knew it would get as far as this: hence the salt. Behind a sound header not even so. */
static void test_forged_with_the_salt(void **state)
{
    (void)state;
    for (size_t i = 0; i < MM_RECORD_HEADER_LEN; i++) {
        assert_int_equal(find_after_change(SALT, i), 7);
    }
    for (size_t i = MM_RECORD_HEADER_LEN; i < MM_RECORD_HEADER_LEN + 8 + 512; i++) {
        assert_int_equal(find_after_change(SALT, i), 2);
    }
}

/* --- in pieces ----------------------------------------------------------------------------------
 */

static void assert_chunked_same(const void *image, size_t limit, size_t len)
{
    struct found whole;
    struct found chunked;
    look(image, limit, &whole);
    look_chunked(image, limit, len, &chunked);
    assert_same_found(&whole, &chunked);
}

static void test_chunks_of_each_length(void **state)
{
    (void)state;
    for (size_t len = MM_RECORD_HEADER_LEN; len <= 6000; len += len < 200 ? 1 : 37) {
        assert_chunked_same(area, AREA_LEN, len);
    }
    assert_chunked_same(area, AREA_LEN - 3, 100);
    assert_chunked_same(area, AREA_LEN, AREA_LEN);
}

static void test_chunks_of_damage(void **state)
{
    (void)state;
    uint64_t random = 7;
    uint64_t *image = new_bytes(AREA_LEN);
    for (size_t i = scaled(400); i > 0; i--) {
        memcpy(image, area, AREA_LEN);
        for (uint32_t n = next_random(&random) % 20; n > 0; n--) {
            ((uint8_t *)image)[next_random(&random) % AREA_LEN] = (uint8_t)next_random(&random);
        }
        size_t limit = AREA_LEN - next_random(&random) % 10000;
        size_t len = MM_RECORD_HEADER_LEN + next_random(&random) % 3000;
        assert_chunked_same(image, limit, len);
    }
    free(image);
}

/* What is at hand ends at each place: all records before it are given, and the answer tells what is
 * needed for the next one. */
static void test_each_end_of_what_is_at_hand(void **state)
{
    (void)state;
    for (size_t len = 0; len < AREA_LEN; len++) {
        uint8_t *image = new_bytes(len);
        memcpy(image, area, len);
        size_t k = 0;
        while (k < N_RECORDS && written[k].offset + written[k].size <= len) {
            k++;
        }
        size_t last = k > 0 ? written[k - 1].offset : 0;
        struct mm_record r;
        size_t size = 12345;
        size_t offset = last;
        if (k > 0) {
            assert_int_equal(mm_record_find(image, len, AREA_LEN, SALT, &offset, &r, &size), 0);
            assert_int_equal(offset, last);
            offset += size;
            size = 12345;
        }
        int err = mm_record_find(image, len, AREA_LEN, SALT, &offset, &r, &size);
        if (k < N_RECORDS) {
            bool header = len >= written[k].offset + MM_RECORD_HEADER_LEN;
            assert_int_equal(err, header ? MM_EPARTIAL : MM_EAGAIN);
            assert_int_equal(offset, written[k].offset);
            assert_int_equal(size, header ? written[k].size : 12345);
        } else {
            assert_int_equal(err, MM_EAGAIN);
            assert_true(offset <= len && offset % MM_RECORD_ALIGN == 0);
            assert_true(offset + MM_RECORD_HEADER_LEN > len ||
                        offset + MM_RECORD_HEADER_LEN > AREA_LEN);
        }
        free(image);
    }
}

/* A header that promises more than the area has is none, however sound. */
static void test_header_beyond_the_limit(void **state)
{
    (void)state;
    const struct written *w = &written[0];
    struct mm_record r;
    size_t size;
    size_t offset = 0;
    size_t limit = w->size - MM_RECORD_ALIGN;
    assert_int_equal(mm_record_find(area, limit, limit, SALT, &offset, &r, &size), MM_EAGAIN);
    assert_int_equal(offset, limit);
    offset = 0;
    assert_int_equal(mm_record_find(area, 40, limit, SALT, &offset, &r, &size), MM_EAGAIN);
    offset = 0;
    assert_int_equal(mm_record_find(area, 40, w->size, SALT, &offset, &r, &size), MM_EPARTIAL);
    assert_int_equal(offset, 0);
    assert_int_equal(size, w->size);
}

/* --- work ---------------------------------------------------------------------------------------
 */

/* Checksums are all the work there is beside a step of 8 bytes. A place costs at most the header's,
 * of 44 bytes, and each byte at most one body's, whose start is 16 bytes. */
static void assert_linear(const void *image, size_t limit)
{
    n_checksums = 0;
    n_checksum_bytes = 0;
    struct mm_record r;
    size_t size;
    size_t offset = 0;
    while (mm_record_find(image, limit, limit, SALT, &offset, &r, &size) == 0) {
        offset += size;
    }
    assert_int_equal(offset, limit);
    assert_true(n_checksum_bytes <= limit / 8 * (44 + 16) + limit);
    assert_true(n_checksums <= limit / 8 * 4);
}

enum {
    HOSTILE_LEN = 1024 * 1024
};

/* The lengths at each place agree with each other and nearly with the end of the area. */
static void test_lengths_that_agree_everywhere(void **state)
{
    (void)state;
    uint64_t *image = new_bytes(HOSTILE_LEN);
    memset(image, 0, HOSTILE_LEN);
    for (size_t i = 0; 10 * i + 80 < HOSTILE_LEN; i++) {
        image[i] = htole64(HOSTILE_LEN - 10 * i);
    }
    assert_linear(image, HOSTILE_LEN);
    /* It did what it should. */
    assert_true(n_checksums >= HOSTILE_LEN / 10);
    free(image);
}

/* The worst that one could do who knows the salt: sound headers, one in the other, of records that
 * all reach to the end and whose bodies are not sound. */
static void test_sound_headers_in_each_other(void **state)
{
    (void)state;
    uint64_t *image = new_bytes(HOSTILE_LEN);
    memset(image, 0xEE, HOSTILE_LEN);
    for (size_t at = 0; at + MM_RECORD_HEADER_LEN <= HOSTILE_LEN; at += MM_RECORD_HEADER_LEN) {
        uint8_t *header = (uint8_t *)image + at;
        uint32_t len = (uint32_t)(HOSTILE_LEN - at);
        store_word(header, 3, 0xEEEEEEEE);
        store_word(header, 4, 0);
        uint32_t crc = htole32(header_crc(SALT, len, header));
        memcpy(header + 4, &crc, sizeof crc);
        mm_record_commit(header, len);
    }
    assert_linear(image, HOSTILE_LEN);
    assert_true(n_checksum_bytes >= HOSTILE_LEN - MM_RECORD_HEADER_LEN);
    free(image);
}

static void test_ordinary_work(void **state)
{
    (void)state;
    assert_linear(area, AREA_LEN);
    /* Room that was never written, and what no record can be, costs no checksum at all. */
    uint64_t *image = new_bytes(HOSTILE_LEN);
    memset(image, 0, HOSTILE_LEN);
    assert_linear(image, HOSTILE_LEN);
    assert_int_equal(n_checksums, 0);
    memset(image, 0xFF, HOSTILE_LEN);
    assert_linear(image, HOSTILE_LEN);
    assert_int_equal(n_checksums, 0);
    free(image);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_finds_all),
        cmocka_unit_test(test_nothing_there),
        cmocka_unit_test(test_from_an_offset),
        cmocka_unit_test(test_needs_the_salt),
        cmocka_unit_test(test_each_changed_byte),
        cmocka_unit_test(test_each_cut_of_the_area),
        cmocka_unit_test(test_each_cut_filled_with_zeros),
        cmocka_unit_test(test_lost_sectors),
        cmocka_unit_test(test_lost_pages),
        cmocka_unit_test(test_random_damage),
        cmocka_unit_test(test_moved_pieces),
        cmocka_unit_test(test_garbage),
        cmocka_unit_test(test_forged_without_the_salt),
        cmocka_unit_test(test_forged_with_the_salt),
        cmocka_unit_test(test_chunks_of_each_length),
        cmocka_unit_test(test_chunks_of_damage),
        cmocka_unit_test(test_each_end_of_what_is_at_hand),
        cmocka_unit_test(test_header_beyond_the_limit),
        cmocka_unit_test(test_lengths_that_agree_everywhere),
        cmocka_unit_test(test_sound_headers_in_each_other),
        cmocka_unit_test(test_ordinary_work),
    };
    return cmocka_run_group_tests(tests, make_area, NULL);
}
