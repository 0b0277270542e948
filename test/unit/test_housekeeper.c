/* The pages of a log on disk that are made present ahead of the producer. */
#include "disk_log.h"

#define KIB_OF_MIB UINT64_C(1024)

/* Append so many records of 1 MiB, in so many ms. */
static void append_mib(struct mm_spool *s, uint32_t n, uint64_t ms)
{
    static const char payload[(1 << 20) - 64];
    const struct mm_record r = {.time_ms = 1,
                                .type = MM_RECORD_MESSAGE,
                                .flags = 1,
                                .topic_len = 1,
                                .payload_len = sizeof payload,
                                .topic = "t",
                                .payload = payload};
    for (uint32_t i = 0; i < n; i++) {
        assert_int_equal(mm_spool_append(s, &r), 0);
    }
    atomic_fetch_add(&frozen_ns, ms * UINT64_C(1000000));
}

/* As many passes as it takes, and no time, until nothing more becomes present. Returns KiB. */
static uint64_t prepare(struct mm_spool *s)
{
    uint64_t before;
    uint64_t after = 0;
    do {
        before = after;
        mm_spool_tick(s);
        after = resident_kib(directory);
    } while (after > before);
    return after;
}

/* The faster messages come, the farther ahead pages are there: 4 MiB at least, 16 at most. */
static void test_pages_are_prepared_by_the_pace(void **state)
{
    (void)state;
    struct mm_spool_options opts = plain();
    opts.max_bytes = 256 << 20;
    opts.segment_bytes = 64 << 20;
    opts.writer = MM_SPOOL_WRITER_MMAP;
    frozen_ns = __real_mm_spool_now_ns();
    struct mm_spool *s = open_log(&opts);
    uint64_t at = 0;            /* MiB that were appended */
    const uint64_t spare = 256; /* KiB: what the system maps beside */
    uint64_t kib = prepare(s);
    assert_in_range(kib, 4 * KIB_OF_MIB, 5 * KIB_OF_MIB + spare);
    /* 50 MB/s: as if nothing came. */
    append_mib(s, 4, 84);
    at += 4;
    kib = prepare(s);
    assert_in_range(kib, (at + 2) * KIB_OF_MIB, (at + 6) * KIB_OF_MIB + spare);
    /* 157 MB/s, of which 60 ms are 9 MiB. */
    append_mib(s, 6, 40);
    at += 6;
    kib = prepare(s);
    assert_in_range(kib, (at + 4) * KIB_OF_MIB, (at + 9) * KIB_OF_MIB + spare);
    /* As fast as it goes. */
    append_mib(s, 20, 10);
    at += 20;
    kib = prepare(s);
    assert_in_range(kib, (at + 8) * KIB_OF_MIB - 64, (at + 16) * KIB_OF_MIB + spare);
    /* Then nothing for a while: what is there stays, and no more comes. */
    atomic_fetch_add(&frozen_ns, 100 * UINT64_C(1000000));
    assert_int_equal(prepare(s), kib);
    assert_int_equal(read_all(mm_spool_reader(s, 0)), at);
    mm_spool_close(s);
    frozen_ns = 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_pages_are_prepared_by_the_pace, make_directory,
                                        remove_directory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
