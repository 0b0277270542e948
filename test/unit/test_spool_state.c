/* What a log keeps beside its records: the ranges of STATE when the number of readers has changed
 * often, LOCK, where its directory is, and what of a segment is in the process' memory. */
#include "mm_error.h"
#include "mm_inspect.h"
#include "mm_spool.h"
#include "scratch.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include <cmocka.h>

#define N_RECORDS 4000
#define SCAN 1000000

static char directory[SCRATCH_LEN];

static int make_directory(void **state)
{
    (void)state;
    return scratch_make(directory, "state");
}

static int remove_directory(void **state)
{
    (void)state;
    return scratch_remove(directory);
}

static int open_in(const char *dir, uint32_t n_readers, struct mm_spool **out, char errstr[512])
{
    const struct mm_spool_options opts = {
        .max_bytes = 1 << 22, .n_readers = n_readers, .manual = true, .dir = dir};
    errstr[0] = '\0';
    return mm_spool_open(&opts, out, errstr, 512);
}

static struct mm_spool *open_log(uint32_t n_readers)
{
    struct mm_spool *s;
    char errstr[512];
    if (open_in(directory, n_readers, &s, errstr) != 0) {
        fail_msg("%s", errstr);
    }
    return s;
}

/* --- ranges -------------------------------------------------------------------------------------
 */

static bool finished[N_RECORDS]; /* by number */

static void append_numbered(struct mm_spool *s)
{
    for (uint32_t n = 0; n < N_RECORDS; n++) {
        char topic[32];
        const int len = snprintf(topic, sizeof topic, "topic/%u", n);
        const struct mm_record r = {.time_ms = 1,
                                    .type = MM_RECORD_MESSAGE,
                                    .flags = 1,
                                    .topic = topic,
                                    .topic_len = (uint16_t)len,
                                    .payload = &n,
                                    .payload_len = sizeof n};
        assert_int_equal(mm_spool_append(s, &r), 0);
    }
}

/* Read a few records of a reader and finish them. */
static void finish_some(struct mm_spool_reader *rd, uint32_t n_wanted)
{
    struct mm_record r;
    struct mm_spool_pos pos;
    uint32_t n_read = 0;
    while (n_read < n_wanted && mm_spool_next(rd, SCAN, &r, &pos) == 0) {
        uint32_t n;
        memcpy(&n, r.payload, sizeof n);
        finished[n] = true;
        n_read++;
    }
    mm_spool_finish(rd, NULL, n_read, 0);
}

static uint32_t n_ranges(void)
{
    struct mm_inspect *in;
    char errstr[256];
    assert_int_equal(mm_inspect_open(directory, &in, errstr, sizeof errstr), 0);
    const uint32_t n = mm_inspect_info(in)->state.n_ranges;
    mm_inspect_close(in);
    return n;
}

/* What the readers of each start have finished is kept, whatever their number was, and nothing is
 * left out. */
static void test_many_numbers_of_readers(void **state)
{
    (void)state;
    static const uint32_t n_readers[] = {64, 63, 62, 61, 60, 59, 58, 57};
    uint32_t most = 0;
    struct mm_spool *s = open_log(1);
    append_numbered(s);
    mm_spool_close(s);
    for (size_t i = 0; i < sizeof n_readers / sizeof n_readers[0]; i++) {
        s = open_log(n_readers[i]);
        for (uint32_t k = 0; k < n_readers[i]; k++) {
            finish_some(mm_spool_reader(s, k), i == 0 ? 1 + k * 13 % 20 : k % 2);
        }
        mm_spool_close(s);
        most = n_ranges() > most ? n_ranges() : most;
    }
    assert_in_range(most, 130, MM_LAYOUT_RANGES_MAX);
    s = open_log(1);
    struct mm_record r;
    struct mm_spool_pos pos;
    static bool seen[N_RECORDS];
    uint32_t n_again = 0;
    while (mm_spool_next(mm_spool_reader(s, 0), SCAN, &r, &pos) == 0) {
        uint32_t n;
        memcpy(&n, r.payload, sizeof n);
        assert_false(seen[n]);
        seen[n] = true;
        n_again += finished[n];
    }
    for (uint32_t n = 0; n < N_RECORDS; n++) {
        assert_true(finished[n] || seen[n]);
    }
    assert_int_equal(n_again, 0);
    mm_spool_close(s);
}

/* --- LOCK and the directory ---------------------------------------------------------------------
 */

/* What stands in LOCK gets into a line of the log, whatever it is. */
static void test_who_has_it_is_shown_in_one_line(void **state)
{
    (void)state;
    struct mm_spool *s;
    char errstr[512];
    char path[SCRATCH_LEN + 8];
    mm_spool_close(open_log(1));
    snprintf(path, sizeof path, "%s/LOCK", directory);
    const int fd = open(path, O_RDWR | O_TRUNC | O_CLOEXEC);
    static const char text[] = "pid 1\x1B[2J host \xFF\nsecond";
    assert_int_equal(write(fd, text, sizeof text - 1), sizeof text - 1);
    assert_int_equal(flock(fd, LOCK_EX), 0);
    assert_int_equal(open_in(directory, 1, &s, errstr), MM_EBUSY);
    assert_null(s);
    assert_non_null(strstr(errstr, "(pid 1?[2J host ?)"));
    close(fd);
    mm_spool_close(open_log(1));
}

static void test_a_file_in_the_place_of_the_directory(void **state)
{
    (void)state;
    struct mm_spool *s;
    char errstr[512];
    char path[SCRATCH_LEN + 8];
    snprintf(path, sizeof path, "%s/file", directory);
    close(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    assert_int_equal(open_in(path, 1, &s, errstr), MM_EINVAL);
    assert_non_null(strstr(errstr, "expected a directory, found a file"));
    assert_int_equal(open_in(directory, 0, &s, errstr), MM_EINVAL);
    assert_int_equal(open_in(directory, MM_LAYOUT_SHARDS_MAX + 1, &s, errstr), MM_EINVAL);
}

/* --- memory -------------------------------------------------------------------------------------
 */

static void test_what_was_synced_leaves_the_mapping(void **state)
{
    (void)state;
    const struct mm_spool_options opts = {.max_bytes = 64 << 20,
                                          .segment_bytes = 8 << 20,
                                          .n_readers = 1,
                                          .manual = true,
                                          .dir = directory};
    struct mm_spool *s;
    char errstr[512];
    assert_int_equal(mm_spool_open(&opts, &s, errstr, sizeof errstr), 0);
    mm_spool_tick(s);
    static uint8_t payload[1 << 10];
    const uint32_t n_records = 4 << 10;
    for (uint32_t n = 0; n < n_records; n++) {
        memcpy(payload, &n, sizeof n);
        const struct mm_record r = {.time_ms = 1,
                                    .type = MM_RECORD_MESSAGE,
                                    .topic = "t",
                                    .topic_len = 1,
                                    .payload = payload,
                                    .payload_len = sizeof payload};
        assert_int_equal(mm_spool_append(s, &r), 0);
    }
    const uint64_t before = resident_kib(directory);
    assert_int_equal(mm_spool_sync(s), 0);
    const uint64_t after = resident_kib(directory);
    assert_true(before >= 4 << 10);
    assert_true(before - after >= (4 << 10) - 64);

    struct mm_spool_reader *rd = mm_spool_reader(s, 0);
    struct mm_record r;
    struct mm_spool_pos pos;
    uint32_t n = 0;
    for (; mm_spool_next(rd, SCAN, &r, &pos) == 0; n++) {
        assert_memory_equal(r.payload, &n, sizeof n);
    }
    assert_int_equal(n, n_records);
    mm_spool_finish(rd, NULL, n, 0);
    mm_spool_close(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_many_numbers_of_readers, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_who_has_it_is_shown_in_one_line, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_a_file_in_the_place_of_the_directory, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_what_was_synced_leaves_the_mapping, make_directory,
                                        remove_directory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
