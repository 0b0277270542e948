/* A reader of a log on disk: places that cannot be read, now or ever, that somebody overwrote, and
 * going back. */
#include "disk_log.h"
#include "mm_dir.h"
#include "mm_error.h"
#include "mm_segment.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#define BLOCK_LEN 4096

/* --- faults -------------------------------------------------------------------------------------
 */

/* The linker turns the library's calls into these. */
ssize_t __wrap_pread(int fd, void *dst, size_t len, off_t offset);
ssize_t __real_pread(int fd, void *dst, size_t len, off_t offset);
int __wrap_mm_segment_open(const struct mm_dir *dir, uint64_t file, bool write);
int __real_mm_segment_open(const struct mm_dir *dir, uint64_t file, bool write);
int __wrap_usleep(useconds_t us);
void __wrap_mm_dir_boot_id(uint8_t id[16]);

static const char *bad_file; /* the disk gives nothing of files with this in their names */
static uint64_t bad_blocks;  /* nor these blocks of any segment: a bit for each */

ssize_t __wrap_pread(int fd, void *dst, size_t len, off_t offset)
{
    bool bad = bad_file != NULL && is_file(fd, bad_file);
    off_t last = (offset + (off_t)len - 1) / BLOCK_LEN;
    for (off_t i = offset / BLOCK_LEN; bad_blocks != 0 && !bad && i <= last; i++) {
        bad = (bad_blocks >> i % 64 & 1) != 0 && is_file(fd, ".seg");
    }
    if (bad) {
        errno = EIO;
        return -1;
    }
    return __real_pread(fd, dst, len, offset);
}

/* Time passes as quickly as a start waits. */
int __wrap_usleep(useconds_t us)
{
    atomic_fetch_add(&ahead_ns, us * UINT64_C(1000));
    return 0;
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

static uint8_t boot; /* how often the system was started */

void __wrap_mm_dir_boot_id(uint8_t id[16])
{
    memset(id, boot, 16);
}

static void let_pass(uint64_t seconds)
{
    atomic_fetch_add(&ahead_ns, seconds * UINT64_C(1000000000));
}

/* --- places that cannot be read -----------------------------------------------------------------
 */

/* Where the process lacks something, no place is given up, however long it takes. */
static void test_what_the_process_lacks_costs_no_record(void **state)
{
    (void)state;
    static const int lacks[] = {EMFILE, ENFILE, ENOMEM, EACCES, EPERM};
    const struct mm_spool_options opts = plain();
    struct mm_spool *s = open_log(&opts);
    struct mm_spool_reader *rd = mm_spool_reader(s, 0);
    append_some(s, 200);
    mm_spool_tick(s); /* what is full is not mapped any more */
    for (size_t i = 0; i < sizeof lacks / sizeof lacks[0]; i++) {
        open_errno = lacks[i];
        for (int n = 0; n < 60; n++) {
            struct mm_record r;
            struct mm_spool_pos pos;
            assert_int_equal(mm_spool_next(rd, SCAN, &r, &pos), MM_EIO);
            let_pass(2);
        }
    }
    open_errno = 0;
    assert_int_equal(read_all(rd), 200);
    mm_spool_finish(rd, NULL, 200, 0);
    assert_int_equal(stats_of(s).n_lost, 0);
    mm_spool_close(s);
}

static void append_large(struct mm_spool *s, uint32_t payload_len)
{
    static const char payload[SEGMENT_BYTES];
    const struct mm_record r = {.time_ms = 1,
                                .type = MM_RECORD_MESSAGE,
                                .flags = 1,
                                .topic_len = 1,
                                .payload_len = payload_len,
                                .topic = "t",
                                .payload = payload};
    assert_int_equal(mm_spool_append(s, &r), 0);
}

/* Read all that the disk gives, and wait until the rest is given up. *n_within: records that lie
 * whole in this block of the first segment. */
static uint32_t read_patiently(struct mm_spool_reader *rd, uint32_t block, uint32_t *n_within)
{
    uint32_t n = 0;
    *n_within = 0;
    for (int i = 0; i < 100; i++) {
        struct mm_record r;
        struct mm_spool_pos pos;
        while (mm_spool_next(rd, SCAN, &r, &pos) == 0) {
            uint64_t end = pos.offset + mm_record_size(r.topic_len, r.payload_len, r.props_len);
            *n_within += pos.segment->file == 1 && pos.offset >= block * BLOCK_LEN &&
                         end <= ((uint64_t)block + 1) * BLOCK_LEN;
            n++;
        }
        let_pass(1);
    }
    return n;
}

/* A record that is larger than a block lies in a bad one, and behind it is another bad one: the
 * small records in the good block between them are not lost with it. */
static void test_a_good_block_between_bad_ones_is_read(void **state)
{
    (void)state;
    const struct mm_spool_options opts = plain();
    struct mm_spool *s = open_log(&opts);
    struct mm_spool_reader *rd = mm_spool_reader(s, 0);
    append_large(s, 8000); /* from block 1 into block 2 */
    append_some(s, 100);
    mm_spool_tick(s);
    bad_blocks = UINT64_C(1) << 2 | UINT64_C(1) << 4;
    uint32_t n_within;
    uint32_t n = read_patiently(rd, 3, &n_within);
    bad_blocks = 0;
    assert_int_equal(n_within, 3);
    /* Lost: the large one, the one that begins in block 2 with it, four that have a part in
     * block 4; and of the newest segment, five of each of the blocks. */
    assert_int_equal(n, 101 - 6 - 10);
    mm_spool_finish(rd, NULL, n, 0);
    assert_int_equal(stats_of(s).n_lost, 101 - n);
    mm_spool_close(s);
}

/* The same of a start that reads through a segment without a seal: a record of which several blocks
 * are bad costs no other, and is read when the disk gives it again. */
static void test_a_start_passes_a_large_record(void **state)
{
    (void)state;
    const struct mm_spool_options opts = plain();
    pid_t pid = fork();
    if (pid == 0) {
        struct mm_spool *s = open_log(&opts);
        append_large(s, 20000); /* from block 1 into block 5 */
        append_some(s, 30);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    bad_blocks = UINT64_C(1) << 2 | UINT64_C(1) << 4;
    struct mm_spool *s = open_log(&opts);
    uint32_t n_within;
    assert_int_equal(read_patiently(mm_spool_reader(s, 0), 6, &n_within), 30);
    bad_blocks = 0;
    assert_true(n_within > 0);
    mm_spool_close(s);
    s = open_log(&opts);
    assert_int_equal(read_all(mm_spool_reader(s, 0)), 31);
    mm_spool_close(s);
}

/* A place far ahead that cannot be read keeps nobody from going back to what can. */
static void test_going_back_from_a_place_that_cannot_be_read(void **state)
{
    (void)state;
    const struct mm_spool_options opts = plain();
    struct mm_spool *s = open_log(&opts);
    struct mm_spool_reader *rd = mm_spool_reader(s, 0);
    append_some(s, 200);
    mm_spool_tick(s);
    bad_file = "/0000000000000003.seg";
    uint32_t n = read_all(rd);
    assert_in_range(n, 1, 199);
    for (int i = 0; i < 5; i++) {
        mm_spool_seek(rd, NULL);
        assert_int_equal(read_all(rd), n);
        let_pass(2);
    }
    bad_file = NULL;
    assert_int_equal(read_all(rd), 200 - n);
    mm_spool_close(s);
}

/* A record that is to be read again is waited for when the disk does not give it, though not for
 * ever; and is there when the disk gives it again. */
static void test_reading_again_what_cannot_be_read(void **state)
{
    (void)state;
    const struct mm_spool_options opts = plain();
    struct mm_spool *s = open_log(&opts);
    struct mm_spool_reader *rd = mm_spool_reader(s, 0);
    struct mm_record r;
    struct mm_spool_pos first;
    append_some(s, 200);
    mm_spool_tick(s);
    assert_int_equal(mm_spool_next(rd, SCAN, &r, &first), 0);
    assert_int_equal(read_all(rd), 199);
    bad_file = "/0000000000000001.seg";
    int n = 0;
    int err;
    while ((err = mm_spool_read(rd, &first, &r)) == MM_EIO && n < 100) {
        let_pass(1);
        n++;
    }
    bad_file = NULL;
    assert_int_equal(err, MM_ECORRUPT);
    assert_in_range(n, 5, 20); /* seconds */
    assert_int_equal(mm_spool_read(rd, &first, &r), 0);
    assert_int_equal(r.seq, 1);
    mm_spool_close(s);
}

/* --- places that are not what they were ---------------------------------------------------------
 */

static void overwrite(uint64_t file, off_t offset)
{
    char path[sizeof directory + 32];
    static const char other[] = "other";
    segment_path(path, sizeof path, file);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, other, sizeof other, offset), sizeof other);
    close(fd);
}

/* What is no longer the record that was there is not given for it, nor is its neighbour. */
static void test_a_record_that_was_overwritten_is_not_read_again(void **state)
{
    (void)state;
    const struct mm_spool_options opts = plain();
    struct mm_spool *s = open_log(&opts);
    struct mm_spool_reader *rd = mm_spool_reader(s, 0);
    struct mm_record r;
    struct mm_spool_pos pos[3];
    append_some(s, 200);
    mm_spool_tick(s);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(mm_spool_next(rd, SCAN, &r, &pos[i]), 0);
    }
    assert_int_equal(read_all(rd), 197);
    overwrite(pos[0].segment->file, pos[0].offset);                             /* its header */
    overwrite(pos[1].segment->file, pos[1].offset + MM_RECORD_HEADER_LEN + 10); /* its payload */
    assert_int_equal(mm_spool_read(rd, &pos[0], &r), MM_ECORRUPT);
    assert_int_equal(mm_spool_read(rd, &pos[1], &r), MM_ECORRUPT);
    assert_int_equal(mm_spool_read(rd, &pos[2], &r), 0);
    assert_int_equal(r.seq, 3);
    mm_spool_close(s);
}

/* At the cursor, behind the last record, there is none until one is appended. */
static void test_there_is_no_record_yet(void **state)
{
    (void)state;
    const struct mm_spool_options opts = plain();
    struct mm_spool *s = open_log(&opts);
    struct mm_spool_reader *rd = mm_spool_reader(s, 0);
    struct mm_record r;
    struct mm_spool_pos pos;
    append_some(s, 3);
    assert_int_equal(read_all(rd), 3);
    mm_spool_cursor(rd, &pos);
    assert_int_equal(mm_spool_read(rd, &pos, &r), MM_ECORRUPT);
    append_some(s, 1);
    assert_int_equal(mm_spool_read(rd, &pos, &r), 0);
    assert_int_equal(r.seq, 4);
    mm_spool_close(s);
}

/* --- going back ---------------------------------------------------------------------------------
 */

/* The numbers jump where the system was started anew. Whoever goes back over that place and comes
 * again has lost nothing. */
static void test_going_back_over_a_jump(void **state)
{
    (void)state;
    const struct mm_spool_options opts = plain();
    boot = 1;
    leave_killed_log(10);
    boot = 2;
    struct mm_spool *s = open_log(&opts);
    struct mm_spool_reader *rd = mm_spool_reader(s, 0);
    append_some(s, 5);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(read_all(rd), 15);
        mm_spool_seek(rd, NULL);
    }
    assert_int_equal(read_all(rd), 15);
    mm_spool_finish(rd, NULL, 15, 0);
    assert_int_equal(stats_of(s).n_lost, 0);
    assert_int_equal(mm_spool_to_take(s), 15);
    mm_spool_close(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_what_the_process_lacks_costs_no_record, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_a_good_block_between_bad_ones_is_read, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_a_start_passes_a_large_record, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_going_back_from_a_place_that_cannot_be_read,
                                        make_directory, remove_directory),
        cmocka_unit_test_setup_teardown(test_reading_again_what_cannot_be_read, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_a_record_that_was_overwritten_is_not_read_again,
                                        make_directory, remove_directory),
        cmocka_unit_test_setup_teardown(test_there_is_no_record_yet, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_going_back_over_a_jump, make_directory,
                                        remove_directory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
