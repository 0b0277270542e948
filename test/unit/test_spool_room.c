/* A log on disk that gets less than it asks for: room, a reservation, memory, a write; and records
 * that are larger than the others. */
#include "disk_log.h"
#include "mm_error.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

/* --- faults -------------------------------------------------------------------------------------
 */

/* The linker turns the library's calls into these. */
int __wrap_fallocate(int fd, int mode, off_t offset, off_t len);
int __real_fallocate(int fd, int mode, off_t offset, off_t len);
ssize_t __wrap_pwrite(int fd, const void *data, size_t len, off_t offset);
ssize_t __real_pwrite(int fd, const void *data, size_t len, off_t offset);
void *__wrap_realloc(void *old, size_t len);
void *__real_realloc(void *old, size_t len);
struct mm_dir;
int __wrap_mm_dir_space(const struct mm_dir *d, uint64_t *free_bytes, uint64_t *total_bytes);
int __real_mm_dir_space(const struct mm_dir *d, uint64_t *free_bytes, uint64_t *total_bytes);

/* So many reservations fail, for this reason. */
static uint32_t n_bad_reservations;
static int reservation_errno;

int __wrap_fallocate(int fd, int mode, off_t offset, off_t len)
{
    if (n_bad_reservations > 0) {
        n_bad_reservations--;
        errno = reservation_errno;
        return -1;
    }
    return __real_fallocate(fd, mode, offset, len);
}

static bool bad_writes;   /* into segments */
static uint32_t n_writes; /* into segments, behind their headers */

ssize_t __wrap_pwrite(int fd, const void *data, size_t len, off_t offset)
{
    bool is_segment = is_file(fd, ".seg");
    if (bad_writes && is_segment) {
        errno = EIO;
        return -1;
    }
    n_writes += is_segment && offset >= MM_LAYOUT_HEADER_LEN;
    return __real_pwrite(fd, data, len, offset);
}

static bool no_memory;

void *__wrap_realloc(void *old, size_t len)
{
    return no_memory ? NULL : __real_realloc(old, len);
}

/* What the file system has left, and its size; 0: what it really has. */
static uint64_t space_left;
static uint64_t space_total;

int __wrap_mm_dir_space(const struct mm_dir *d, uint64_t *free_bytes, uint64_t *total_bytes)
{
    int err = __real_mm_dir_space(d, free_bytes, total_bytes);
    *free_bytes = space_left != 0 ? space_left : *free_bytes;
    *total_bytes = space_total != 0 ? space_total : *total_bytes;
    return err;
}

static int append_large(struct mm_spool *s, uint32_t payload_len)
{
    static const char payload[1 << 20];
    assert_true(payload_len <= sizeof payload);
    const struct mm_record r = {.time_ms = 1,
                                .type = MM_RECORD_MESSAGE,
                                .flags = 1,
                                .topic_len = 1,
                                .payload_len = payload_len,
                                .topic = "t",
                                .payload = payload};
    return mm_spool_append(s, &r);
}

/* Append until there is no room; returns how many records that was. */
static uint32_t append_until_full(struct mm_spool *s)
{
    uint32_t n = 0;
    int err;
    while ((err = append(s, 1)) == 0) {
        n++;
    }
    assert_int_equal(err, MM_EFULL);
    return n;
}

/* Everything that the log holds is read and finished, and its room comes back. */
static void drain(struct mm_spool *s, uint32_t n)
{
    struct mm_spool_reader *rd = mm_spool_reader(s, 0);
    assert_int_equal(read_all(rd), n);
    mm_spool_finish(rd, NULL, n, 0);
    pass_a_second(s);
}

/* --- reservations -------------------------------------------------------------------------------
 */

/* Where the file system cannot reserve, a mapping could end the process: records are written. */
static void test_a_file_system_that_cannot_reserve(void **state)
{
    (void)state;
    const struct mm_spool_options opts = plain();
    reservation_errno = EOPNOTSUPP;
    n_bad_reservations = UINT32_MAX;
    n_writes = 0;
    struct mm_spool *s = open_log(&opts);
    append_some(s, 200);
    assert_true(n_writes >= 200);
    assert_int_equal(read_all(mm_spool_reader(s, 0)), 200);
    mm_spool_close(s);
    s = open_log(&opts);
    assert_int_equal(read_all(mm_spool_reader(s, 0)), 200);
    mm_spool_close(s);
    n_bad_reservations = 0;
}

/* A quota that is used up is a full disk: refused, and taken again when there is some. */
static void test_a_quota_that_is_used_up(void **state)
{
    (void)state;
    const struct mm_spool_options opts = plain();
    reservation_errno = EDQUOT;
    n_bad_reservations = UINT32_MAX;
    struct mm_spool *s = open_log(&opts);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(append(s, 1), MM_EFULL);
        assert_int_equal(count_segment_files(), 0);
        assert_true(stats_of(s).full);
    }
    assert_int_equal(stats_of(s).n_io_errors, 0);
    n_bad_reservations = 0;
    append_some(s, 200);
    assert_false(stats_of(s).full);
    n_bad_reservations = UINT32_MAX;
    uint32_t n = 200 + append_until_full(s);
    n_bad_reservations = 0;
    append_some(s, 1);
    assert_int_equal(read_all(mm_spool_reader(s, 0)), n + 1);
    mm_spool_close(s);
}

static void test_an_interrupted_reservation_is_tried_again(void **state)
{
    (void)state;
    const struct mm_spool_options opts = plain();
    reservation_errno = EINTR;
    n_bad_reservations = 5;
    struct mm_spool *s = open_log(&opts);
    assert_int_equal(n_bad_reservations, 0);
    assert_false(stats_of(s).full);
    append_some(s, 10);
    mm_spool_close(s);
}

/* --- memory and writes --------------------------------------------------------------------------
 */

/* No memory is no room, and may come back. */
static void test_no_memory_to_write_with(void **state)
{
    (void)state;
    struct mm_spool_options opts = plain();
    opts.writer = MM_SPOOL_WRITER_PWRITE;
    struct mm_spool *s = open_log(&opts);
    no_memory = true;
    int err = append(s, 1);
    no_memory = false;
    assert_int_equal(err, MM_EFULL);
    append_some(s, 10);
    no_memory = true;
    err = append_large(s, 20000); /* more than there was a need for before */
    append_some(s, 1);
    no_memory = false;
    assert_int_equal(err, MM_EFULL);
    assert_int_equal(append_large(s, 20000), 0);
    assert_int_equal(read_all(mm_spool_reader(s, 0)), 12);
    mm_spool_close(s);
}

/* Of a record that could not be written there is no trace, whether it lies in one page or in many.
 */
static void test_a_record_that_cannot_be_written(void **state)
{
    (void)state;
    struct mm_spool_options opts = plain();
    opts.writer = MM_SPOOL_WRITER_PWRITE;
    struct mm_spool *s = open_log(&opts);
    append_some(s, 1);
    bad_writes = true;
    int one_page = append(s, 1);
    int many_pages = append_large(s, 20000);
    bad_writes = false;
    assert_int_equal(one_page, MM_EIO);
    assert_int_equal(many_pages, MM_EIO);
    append_some(s, 1);
    bad_writes = true;
    many_pages = append_large(s, 20000); /* where the tail has room for it */
    bad_writes = false;
    assert_int_equal(many_pages, MM_EIO);
    append_some(s, 1);
    struct mm_record r;
    struct mm_spool_pos pos;
    for (uint64_t seq = 1; seq <= 3; seq++) {
        assert_int_equal(mm_spool_next(mm_spool_reader(s, 0), SCAN, &r, &pos), 0);
        assert_int_equal(r.seq, seq);
        assert_int_equal(r.payload_len, PAYLOAD_LEN);
    }
    assert_int_equal(read_all(mm_spool_reader(s, 0)), 0);
    mm_spool_close(s);
}

/* --- the file system ----------------------------------------------------------------------------
 */

/* A twentieth of a small file system is left to others, when nobody says how much. */
static void test_others_keep_their_part_of_a_small_disk(void **state)
{
    (void)state;
    struct mm_spool_options opts = plain();
    opts.min_free = UINT64_MAX;
    space_total = UINT64_C(1) << 30;
    space_left = space_total / 20 + 2 * SEGMENT_BYTES;
    struct mm_spool *s = open_log(&opts);
    append_some(s, 1);
    space_left = space_total / 20 + SEGMENT_BYTES - 1; /* less than a segment is to be had */
    uint32_t n = 1 + append_until_full(s);
    space_left++;
    append_some(s, 1);
    assert_int_equal(read_all(mm_spool_reader(s, 0)), n + 1);
    mm_spool_close(s);
    space_left = space_total = 0;
}

/* Little space is told where it is the disk that wants it, and not where the log has come to its
 * own limit anyway. */
static void test_low_space_is_the_disks(void **state)
{
    (void)state;
    const struct mm_spool_options opts = plain();
    struct mm_spool *s = open_log(&opts);
    uint32_t n = append_until_full(s);
    space_left = 10000;
    pass_a_second(s);
    assert_false(stats_of(s).low_space);
    drain(s, n);
    pass_a_second(s);
    assert_true(stats_of(s).low_space);
    space_left = 0;
    pass_a_second(s);
    assert_false(stats_of(s).low_space);
    mm_spool_close(s);
}

/* --- large records ------------------------------------------------------------------------------
 */

/* Room is kept for a large record that was refused, but not for ever: whoever published it may not
 * come again. */
static void test_room_is_kept_for_a_while(void **state)
{
    (void)state;
    const struct mm_spool_options opts = plain();
    struct mm_spool *s = open_log(&opts);
    (void)append_until_full(s);
    assert_int_equal(append_large(s, 200000), MM_EFULL);
    uint32_t n_passes = 0;
    while (stats_of(s).full && n_passes < 10000) {
        mm_spool_tick(s);
        n_passes++;
    }
    assert_in_range(n_passes, 400, 600); /* of the housekeeper, 10 ms each */
    mm_spool_close(s);
}

/* A large record waits for space of the file system. */
static void test_a_large_record_waits_for_space(void **state)
{
    (void)state;
    const struct mm_spool_options opts = plain();
    struct mm_spool *s = open_log(&opts);
    append_some(s, 1);
    space_left = 150000;
    assert_int_equal(append_large(s, 200000), MM_EFULL);
    for (int i = 0; i < 3; i++) {
        mm_spool_tick(s);
        assert_true(stats_of(s).full);
    }
    space_left = 0;
    mm_spool_tick(s);
    assert_false(stats_of(s).full);
    assert_int_equal(append_large(s, 200000), 0);
    assert_int_equal(read_all(mm_spool_reader(s, 0)), 2);
    mm_spool_close(s);
}

/* A log whose limit was lowered below what it holds takes nothing, large or small, until that is
 * read; nothing of it is lost. */
static void test_a_limit_below_what_there_is(void **state)
{
    (void)state;
    struct mm_spool_options opts = plain();
    struct mm_spool *s = open_log(&opts);
    uint32_t n = append_until_full(s);
    mm_spool_close(s);
    opts.max_bytes /= 2;
    s = open_log(&opts);
    assert_true(stats_of(s).allocated_bytes > opts.max_bytes);
    assert_int_equal(append(s, 1), MM_EFULL);
    assert_int_equal(append_large(s, 100000), MM_EFULL);
    for (int i = 0; i < 3; i++) {
        mm_spool_tick(s);
        assert_true(stats_of(s).full);
    }
    drain(s, n);
    mm_spool_tick(s);
    assert_false(stats_of(s).full);
    assert_int_equal(append_large(s, 100000), 0);
    append_some(s, 1);
    assert_int_equal(read_all(mm_spool_reader(s, 0)), 2);
    mm_spool_close(s);
}

/* What is left to other logs is not taken: not for a segment, and not for a large record, which is
 * told to be too large for as long as that is so. */
static void test_what_is_left_to_other_logs(void **state)
{
    (void)state;
    const struct mm_spool_options opts = plain();
    struct mm_spool *s = open_log(&opts);
    append_some(s, 1);
    mm_spool_leave(s, 2 * opts.max_bytes);
    uint32_t n = 1 + append_until_full(s);
    assert_int_equal(append_large(s, 200000), MM_ETOOBIG);
    mm_spool_leave(s, opts.max_bytes / 2);
    assert_int_equal(append_large(s, 600000), MM_ETOOBIG);
    mm_spool_leave(s, 0);
    assert_int_equal(append_large(s, 600000), 0);
    append_some(s, 1);
    assert_int_equal(read_all(mm_spool_reader(s, 0)), n + 2);
    mm_spool_close(s);
}

/* Lengths at the end of what 32 bits hold. */
static void test_no_length_is_too_large_to_be_refused(void **state)
{
    (void)state;
    const struct mm_spool_options opts = plain();
    struct mm_spool *s = open_log(&opts);
    for (uint32_t less = 0; less < 3 * MM_LAYOUT_HEADER_LEN; less += 8) {
        const struct mm_record r = {
            .flags = 1, .topic_len = 1, .topic = "t", .payload_len = UINT32_MAX - less};
        assert_int_equal(mm_spool_append(s, &r), MM_ETOOBIG);
    }
    append_some(s, 1);
    assert_int_equal(read_all(mm_spool_reader(s, 0)), 1);
    mm_spool_close(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_file_system_that_cannot_reserve, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_a_quota_that_is_used_up, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_an_interrupted_reservation_is_tried_again,
                                        make_directory, remove_directory),
        cmocka_unit_test_setup_teardown(test_no_memory_to_write_with, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_a_record_that_cannot_be_written, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_others_keep_their_part_of_a_small_disk, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_low_space_is_the_disks, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_room_is_kept_for_a_while, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_a_large_record_waits_for_space, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_a_limit_below_what_there_is, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_what_is_left_to_other_logs, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_no_length_is_too_large_to_be_refused, make_directory,
                                        remove_directory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
