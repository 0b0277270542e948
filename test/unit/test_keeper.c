/* What the keeper of a log on disk does where files are many, gone, or cannot be opened. */
#include "disk_log.h"
#include "mm_dir.h"
#include "mm_error.h"
#include "mm_segment.h"

#include <errno.h>
#include <fcntl.h>

/* --- faults -------------------------------------------------------------------------------------
 */

/* The linker turns the library's calls into these. */
int __wrap_fdatasync(int fd);
int __real_fdatasync(int fd);
int __wrap_mm_segment_open(const struct mm_dir *dir, uint64_t file, bool write);
int __real_mm_segment_open(const struct mm_dir *dir, uint64_t file, bool write);

static uint64_t n_synced; /* segment files, since it was set to 0 */

int __wrap_fdatasync(int fd)
{
    n_synced += is_file(fd, ".seg");
    return __real_fdatasync(fd);
}

static int open_errno; /* why no segment can be opened; 0: it can */

int __wrap_mm_segment_open(const struct mm_dir *dir, uint64_t file, bool write)
{
    if (open_errno != 0) {
        errno = open_errno;
        return MM_EIO;
    }
    return __real_mm_segment_open(dir, file, write);
}

static void delete_segment(uint64_t file)
{
    char path[sizeof directory + 32];
    segment_path(path, sizeof path, file);
    assert_int_equal(unlink(path), 0);
}

/* --- what a killed process left -----------------------------------------------------------------
 */

/* A long backlog is synced in parts, so that what comes in is not kept waiting. */
static void test_a_long_backlog_is_synced_in_parts(void **state)
{
    (void)state;
    struct mm_spool_options opts = plain();
    opts.max_bytes = 4 << 20;
    leave_killed_log_of(&opts, 2000);
    struct mm_spool *s = open_log(&opts);
    uint64_t n_found = mm_spool_found(s)->n_segments;
    assert_in_range(n_found, 33, 48);
    uint64_t most = 0;
    uint64_t sum = 0;
    for (int i = 0; i < 10; i++) {
        n_synced = 0;
        mm_spool_tick(s);
        most = n_synced > most ? n_synced : most;
        sum += n_synced;
        assert_int_equal(sum == n_found, i >= 2);
    }
    assert_true(most < n_found);
    assert_int_equal(sum, n_found);
    mm_spool_close(s);
    /* But all at once for who wants it to be safe now. */
    leave_killed_log_of(&opts, 1);
    s = open_log(&opts);
    n_found = mm_spool_found(s)->n_segments;
    n_synced = 0;
    assert_int_equal(mm_spool_sync(s), 0);
    assert_int_equal(n_synced, n_found);
    mm_spool_close(s);
}

/* What is delivered sooner than it would be synced goes without, and nothing is left to be synced.
 */
static void test_a_long_backlog_is_finished_before_it_is_synced(void **state)
{
    (void)state;
    struct mm_spool_options opts = plain();
    opts.max_bytes = 4 << 20;
    leave_killed_log_of(&opts, 2000);
    struct mm_spool *s = open_log(&opts);
    uint64_t n_found = mm_spool_found(s)->n_segments;
    assert_int_equal(read_all(mm_spool_reader(s, 0)), 2000);
    mm_spool_finish(mm_spool_reader(s, 0), NULL, 2000, 0);
    n_synced = 0;
    mm_spool_tick(s);
    assert_in_range(n_synced, 1, n_found - 1);
    assert_int_equal(stats_of(s).n_segments, 1);
    assert_int_equal(count_segment_files(), 1);
    n_synced = 0;
    append_some(s, 10);
    assert_int_equal(mm_spool_sync(s), 0);
    assert_int_equal(n_synced, 0); /* its own goes by the mapping */
    assert_int_equal(read_all(mm_spool_reader(s, 0)), 10);
    mm_spool_close(s);
}

/* A file that somebody deletes before it is synced is lost, and counts so; the log is none the
 * worse for it. */
static void test_a_segment_goes_before_it_is_synced(void **state)
{
    (void)state;
    const struct mm_spool_options opts = plain();
    leave_killed_log(200);
    struct mm_spool *s = open_log(&opts);
    uint64_t n_found = mm_spool_found(s)->n_segments;
    delete_segment(2);
    n_synced = 0;
    assert_int_equal(mm_spool_sync(s), 0);
    assert_int_equal(n_synced, n_found - 1);
    assert_false(stats_of(s).degraded);
    uint32_t n = read_all(mm_spool_reader(s, 0));
    assert_in_range(n, 100, 199);
    mm_spool_finish(mm_spool_reader(s, 0), NULL, n, 0);
    assert_int_equal(stats_of(s).n_lost, 200 - n);
    mm_spool_close(s);
}

/* A file that cannot be opened cannot be made safe: that is told, and not forgotten by a sync of
 * others; a new segment makes good for what comes. */
static void test_a_segment_cannot_be_opened_to_be_synced(void **state)
{
    (void)state;
    const struct mm_spool_options opts = plain();
    leave_killed_log(200);
    struct mm_spool *s = open_log(&opts);
    open_errno = EMFILE;
    int err = mm_spool_sync(s);
    open_errno = 0;
    assert_int_equal(err, MM_EIO);
    assert_true(stats_of(s).degraded);
    assert_true(stats_of(s).n_io_errors > 0);
    append_some(s, 1);
    assert_int_equal(mm_spool_sync(s), 0);
    assert_false(stats_of(s).degraded);
    assert_int_equal(read_all(mm_spool_reader(s, 0)), 201);
    mm_spool_close(s);
}

/* --- files that somebody deletes ----------------------------------------------------------------
 */

/* The newest segment is deleted when all in it was synced. The next record goes into another one,
 * which makes the log whole again; and that the file is gone when it is to be deleted is no
 * error. */
static void test_a_synced_segment_is_deleted(void **state)
{
    (void)state;
    const struct mm_spool_options opts = plain();
    struct mm_spool *s = open_log(&opts);
    struct mm_spool_reader *rd = mm_spool_reader(s, 0);
    append_some(s, 5);
    assert_int_equal(mm_spool_sync(s), 0);
    delete_segment(1);
    pass_a_second(s);
    assert_true(stats_of(s).degraded);
    assert_int_equal(mm_spool_sync(s), MM_EIO);
    append_some(s, 1);
    assert_int_equal(mm_spool_sync(s), 0);
    assert_false(stats_of(s).degraded);
    assert_int_equal(read_all(rd), 6);
    uint64_t n_errors = stats_of(s).n_io_errors;
    assert_int_equal(stats_of(s).n_segments, 2);
    mm_spool_finish(rd, NULL, 6, 0);
    pass_a_second(s);
    assert_int_equal(stats_of(s).n_segments, 1);
    assert_int_equal(stats_of(s).n_io_errors, n_errors);
    mm_spool_close(s);
}

/* Where nothing is ever synced a deleted segment makes nothing less safe than it was: the next
 * record goes into another one, and nobody is told that syncs fail. */
static void test_a_segment_that_is_never_synced_is_deleted(void **state)
{
    (void)state;
    struct mm_spool_options opts = plain();
    opts.sync = MM_SPOOL_SYNC_NEVER;
    struct mm_spool *s = open_log(&opts);
    append_some(s, 5);
    delete_segment(1);
    pass_a_second(s);
    assert_false(stats_of(s).degraded);
    append_some(s, 5);
    assert_int_equal(count_segment_files(), 1);
    assert_int_equal(mm_spool_sync(s), 0);
    assert_int_equal(read_all(mm_spool_reader(s, 0)), 10);
    mm_spool_close(s);
    s = open_log(&opts);
    assert_int_equal(read_all(mm_spool_reader(s, 0)), 5); /* those of the other one outlive it */
    mm_spool_close(s);
}

/* STATE is deleted while the process has no descriptor left: it is made again as soon as there is
 * one. */
static void test_state_is_made_again_when_it_can_be(void **state)
{
    (void)state;
    const struct mm_spool_options opts = plain();
    struct mm_spool *s = open_log(&opts);
    char path[sizeof directory + 8];
    snprintf(path, sizeof path, "%s/STATE", directory);
    append_some(s, 5);
    assert_int_equal(unlink(path), 0);
    struct rlimit before;
    take_descriptors(&before);
    pass_a_second(s);
    append_some(s, 5);
    give_descriptors(&before);
    assert_int_equal(access(path, F_OK), -1);
    pass_a_second(s);
    assert_int_equal(access(path, F_OK), 0);
    assert_int_equal(read_all(mm_spool_reader(s, 0)), 10);
    mm_spool_finish(mm_spool_reader(s, 0), NULL, 10, 0);
    append_some(s, 3);
    mm_spool_close(s);
    s = open_log(&opts);
    assert_true(mm_spool_found(s)->clean);
    assert_int_equal(mm_spool_found(s)->n_records, 3);
    assert_int_equal(read_all(mm_spool_reader(s, 0)), 3);
    mm_spool_close(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_long_backlog_is_synced_in_parts, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_a_long_backlog_is_finished_before_it_is_synced,
                                        make_directory, remove_directory),
        cmocka_unit_test_setup_teardown(test_a_segment_goes_before_it_is_synced, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_a_segment_cannot_be_opened_to_be_synced,
                                        make_directory, remove_directory),
        cmocka_unit_test_setup_teardown(test_a_synced_segment_is_deleted, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_a_segment_that_is_never_synced_is_deleted,
                                        make_directory, remove_directory),
        cmocka_unit_test_setup_teardown(test_state_is_made_again_when_it_can_be, make_directory,
                                        remove_directory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
