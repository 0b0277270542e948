/* What a log keeps beside its records: the ranges of STATE when the number of readers has changed
 * often, LOCK, where its directory is, and what of a segment is in the process' memory. */
#include "mm_dir.h"
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
#include <stdlib.h>
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

/* The MQTT topic of record n. Returns its length. */
static uint16_t name_topic(char topic[32], uint32_t n)
{
    return (uint16_t)snprintf(topic, 32, "topic/%u", n);
}

static void append_one(struct mm_spool *s, uint32_t n)
{
    char topic[32];
    const uint16_t len = name_topic(topic, n);
    const struct mm_record r = {.time_ms = 1,
                                .type = MM_RECORD_MESSAGE,
                                .flags = 1,
                                .topic = topic,
                                .topic_len = len,
                                .payload = &n,
                                .payload_len = sizeof n};
    assert_int_equal(mm_spool_append(s, &r), 0);
}

static void append_numbered(struct mm_spool *s)
{
    for (uint32_t n = 0; n < N_RECORDS; n++) {
        append_one(s, n);
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

/* STATE, which a log may be using. */
static void read_state(struct mm_layout_state *state)
{
    struct mm_inspect *in;
    char errstr[256];
    assert_int_equal(mm_inspect_open(directory, &in, errstr, sizeof errstr), 0);
    *state = mm_inspect_info(in)->state;
    mm_inspect_close(in);
}

/* Whatever was not finished is there, once. Returns how many records that were finished are there
 * as well. */
static uint32_t read_the_rest(void)
{
    struct mm_record r;
    struct mm_spool_pos pos;
    bool seen[N_RECORDS] = {false};
    uint32_t n_again = 0;
    struct mm_spool *s = open_log(1);
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
    mm_spool_close(s);
    return n_again;
}

/* What the readers of each start have finished is kept, whatever their number was, and nothing is
 * left out. */
static void test_many_numbers_of_readers(void **state)
{
    (void)state;
    static const uint32_t n_readers[] = {64, 63, 62, 61, 60, 59, 58, 57};
    uint32_t most = 0;
    memset(finished, 0, sizeof finished);
    struct mm_spool *s = open_log(1);
    append_numbered(s);
    mm_spool_close(s);
    for (size_t i = 0; i < sizeof n_readers / sizeof n_readers[0]; i++) {
        s = open_log(n_readers[i]);
        for (uint32_t k = 0; k < n_readers[i]; k++) {
            finish_some(mm_spool_reader(s, k), i == 0 ? 1 + k * 13 % 20 : k % 2);
        }
        mm_spool_close(s);
        struct mm_layout_state left;
        read_state(&left);
        most = left.n_ranges > most ? left.n_ranges : most;
    }
    assert_in_range(most, 130, MM_LAYOUT_RANGES_MAX);
    assert_int_equal(read_the_rest(), 0);
}

/* Write STATE as if a process had left it so. */
static void leave_state(struct mm_layout_state *state)
{
    struct mm_dir *d;
    char errstr[512];
    struct mm_layout_state found;
    assert_int_equal(mm_dir_open(directory, &d, errstr, sizeof errstr), 0);
    assert_int_equal(mm_dir_read_state(d, &found), 0);
    state->generation = found.generation + 1;
    assert_int_equal(mm_dir_write_state(d, state, true), 0);
    mm_dir_close(d);
}

/* More ranges than STATE has places for: neighbours are joined. Some records may come again for it,
 * but none is left out. */
static void test_ranges_are_joined(void **state)
{
    (void)state;
    static struct mm_layout_state full;
    struct mm_spool *s = open_log(1);
    append_numbered(s);
    mm_spool_close(s);
    read_state(&full);
    full.n_ranges = MM_LAYOUT_RANGES_MAX;
    unsigned seed = 1;
    for (uint32_t i = 0; i < full.n_ranges; i++) {
        full.ranges[i].hash = (uint32_t)(((uint64_t)i << 32) / full.n_ranges);
        /* Every second one has come farther than the readers will. */
        full.ranges[i].low = (i % 2 == 0 ? 1000 : 1) + (uint64_t)rand_r(&seed) % 10;
    }
    full.n_pending = 0;
    for (uint32_t n = 0; n < N_RECORDS; n++) {
        char topic[32];
        uint32_t hash = mm_topic_hash(topic, name_topic(topic, n));
        finished[n] = n + 1 < full.ranges[mm_topic_shard(hash, full.n_ranges)].low;
        full.n_pending += !finished[n];
    }
    leave_state(&full);
    s = open_log(MM_LAYOUT_SHARDS_MAX - 1);
    assert_int_equal(mm_spool_found(s)->n_records, full.n_pending);
    for (uint32_t k = 0; k < MM_LAYOUT_SHARDS_MAX - 1; k++) {
        finish_some(mm_spool_reader(s, k), 1 + k * 13 % 5);
    }
    mm_spool_close(s);
    struct mm_layout_state joined;
    read_state(&joined);
    assert_in_range(joined.n_ranges, MM_LAYOUT_RANGES_MAX - 1, MM_LAYOUT_RANGES_MAX);
    assert_in_range(read_the_rest(), 1, N_RECORDS / 2);
}

/* A reader that had nothing of its own to do moves what STATE tells, though no figure changes. */
static void test_a_reader_without_records_moves_state(void **state)
{
    (void)state;
    struct mm_record r;
    struct mm_spool_pos pos;
    struct mm_layout_state after_one;
    struct mm_layout_state after_two;
    struct mm_spool *s = open_log(3);
    char topic[32];
    uint32_t i = 0;
    while (mm_topic_shard(mm_topic_hash(topic, name_topic(topic, i)), 3) != 2) {
        i++;
    }
    for (uint32_t n = 0; n < 6; n++) {
        append_one(s, i);
    }
    finish_some(mm_spool_reader(s, 2), 6);
    mm_spool_checkpoint(s);
    read_state(&after_one);
    assert_int_equal(mm_spool_next(mm_spool_reader(s, 1), SCAN, &r, &pos), MM_EAGAIN);
    mm_spool_finish(mm_spool_reader(s, 1), NULL, 0, 0);
    mm_spool_checkpoint(s);
    read_state(&after_two);
    mm_spool_close(s);
    assert_int_equal(after_one.n_ranges, 2);
    assert_int_equal(after_two.n_ranges, 2);
    assert_int_equal(after_one.ranges[1].low, 7);
    assert_int_equal(after_two.ranges[1].low, 7);
    assert_int_equal(mm_topic_shard(after_one.ranges[1].hash, 3), 2);
    assert_int_equal(mm_topic_shard(after_two.ranges[1].hash, 3), 1);
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
    static const char text[] = "pid 1\x1B[2J host \xFF\x7F\nsecond";
    assert_int_equal(write(fd, text, sizeof text - 1), sizeof text - 1);
    assert_int_equal(flock(fd, LOCK_EX), 0);
    assert_int_equal(open_in(directory, 1, &s, errstr), MM_EBUSY);
    assert_null(s);
    assert_non_null(strstr(errstr,
                           "(pid 1?[2J host ?"
                           "?)"));
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
        cmocka_unit_test_setup_teardown(test_ranges_are_joined, make_directory, remove_directory),
        cmocka_unit_test_setup_teardown(test_a_reader_without_records_moves_state, make_directory,
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
