/* The log on disk when the system fails it: calls that fail, at a moment that the test chooses. */
#include "disk_log.h"
#include "mm_error.h"
#include "mm_inspect.h"
#include "mm_layout.h"
#include "pause.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define BLOCK_LEN 4096

/* --- faults -------------------------------------------------------------------------------------
 */

/* The linker turns the library's calls into these. */
ssize_t __wrap_pwrite(int fd, const void *data, size_t len, off_t offset);
ssize_t __real_pwrite(int fd, const void *data, size_t len, off_t offset);
ssize_t __wrap_pread(int fd, void *dst, size_t len, off_t offset);
ssize_t __real_pread(int fd, void *dst, size_t len, off_t offset);
int __wrap_usleep(useconds_t us);

/* Blocks of segment files that the disk does not give: a bit for each of the first 64. */
static uint64_t bad_blocks;
static const char *bad_file; /* nothing of files with this in their names */

int __wrap_fallocate(int fd, int mode, off_t offset, off_t len);
int __real_fallocate(int fd, int mode, off_t offset, off_t len);

static atomic_bool bad_reserve; /* of a segment: the disk has become full meanwhile */

/* As ext4 does it: what there was is kept for the file. */
int __wrap_fallocate(int fd, int mode, off_t offset, off_t len)
{
    if (atomic_load(&bad_reserve)) {
        (void)__real_fallocate(fd, mode, offset, len / 2);
        errno = ENOSPC;
        return -1;
    }
    return __real_fallocate(fd, mode, offset, len);
}

static atomic_bool bad_writes; /* into segments */
static bool ends_in_write;     /* the process, behind a page of a segment that is written */

ssize_t __wrap_pwrite(int fd, const void *data, size_t len, off_t offset)
{
    if (atomic_load(&bad_writes) && is_file(fd, ".seg")) {
        errno = EROFS;
        return -1;
    }
    size_t in_page = BLOCK_LEN - (size_t)(offset % BLOCK_LEN);
    if (ends_in_write && offset >= BLOCK_LEN && len > in_page && is_file(fd, ".seg")) {
        _exit(__real_pwrite(fd, data, in_page, offset) != (ssize_t)in_page);
    }
    return __real_pwrite(fd, data, len, offset);
}

ssize_t __wrap_pread(int fd, void *dst, size_t len, off_t offset)
{
    if (bad_file != NULL && is_file(fd, bad_file)) {
        errno = EIO;
        return -1;
    }
    for (off_t at = offset; bad_blocks != 0 && at < offset + (off_t)len; at += BLOCK_LEN) {
        if ((bad_blocks >> (at / BLOCK_LEN % 64) & 1) != 0 && is_file(fd, ".seg")) {
            errno = EIO;
            return -1;
        }
    }
    return __real_pread(fd, dst, len, offset);
}

int __wrap_fstat(int fd, struct stat *st);
int __real_fstat(int fd, struct stat *st);

/* How many looks at segment files the disk still refuses. */
static int n_blind_looks;

int __wrap_fstat(int fd, struct stat *st)
{
    if (n_blind_looks > 0 && is_file(fd, ".seg")) {
        n_blind_looks--;
        errno = EIO;
        return -1;
    }
    return __real_fstat(fd, st);
}

/* Time passes as quickly as the log waits. */
int __wrap_usleep(useconds_t us)
{
    atomic_fetch_add(&ahead_ns, us * UINT64_C(1000));
    return 0;
}

struct mm_dir;
int __wrap_mm_dir_space(const struct mm_dir *d, uint64_t *free_bytes, uint64_t *total_bytes);
int __real_mm_dir_space(const struct mm_dir *d, uint64_t *free_bytes, uint64_t *total_bytes);

/* What the file system has left, in bytes; 0: what it really has. */
static _Atomic uint64_t space_left;

int __wrap_mm_dir_space(const struct mm_dir *d, uint64_t *free_bytes, uint64_t *total_bytes)
{
    int err = __real_mm_dir_space(d, free_bytes, total_bytes);
    if (atomic_load(&space_left) != 0) {
        *free_bytes = atomic_load(&space_left);
    }
    return err;
}

void __wrap_mm_dir_boot_id(uint8_t boot[16]);
int __wrap_fdatasync(int fd);
int __real_fdatasync(int fd);
int __wrap_msync(void *addr, size_t len, int flags);
int __real_msync(void *addr, size_t len, int flags);

static uint8_t boot_id[16];

void __wrap_mm_dir_boot_id(uint8_t boot[16])
{
    memcpy(boot, boot_id, sizeof boot_id);
}

/* STATE as it was when it was last made safe. */
static uint8_t safe_state[2 * MM_LAYOUT_STATE_LEN];
static atomic_int n_bad_syncs; /* so many fail from now on */
static bool bad_state_syncs;   /* those of STATE do */
static const char *bad_sync;   /* of the file with this name they do */
static atomic_int n_segments_synced;

int __wrap_fdatasync(int fd)
{
    if ((bad_state_syncs && is_file(fd, "/STATE")) || (bad_sync != NULL && is_file(fd, bad_sync))) {
        errno = EIO;
        return -1;
    }
    if (is_file(fd, "/STATE")) {
        (void)pread(fd, safe_state, sizeof safe_state, 0);
    } else if (atomic_load(&n_bad_syncs) > 0) {
        atomic_fetch_sub(&n_bad_syncs, 1);
        errno = EIO;
        return -1;
    }
    atomic_fetch_add(&n_segments_synced, is_file(fd, ".seg"));
    return __real_fdatasync(fd);
}

/* What the kernel does (errseq_t): an error of a mapping and its file is told once, to whoever of
 * those that sync by it comes first. The others hear that all is well. */
static atomic_bool overlap; /* syncs wait for another one; the producer's is told nothing */
static _Thread_local bool is_producer;
static atomic_int n_in_sync;

int __wrap_msync(void *addr, size_t len, int flags)
{
    if (atomic_load(&overlap)) {
        atomic_fetch_add(&n_in_sync, 1);
        for (int i = 0; i < 300 && atomic_load(&n_in_sync) < 2; i++) {
            sleep_ms(1);
        }
        if (!is_producer) {
            sleep_ms(100);
            errno = EIO;
            return -1;
        }
        return 0;
    }
    if (atomic_load(&n_bad_syncs) > 0) {
        atomic_fetch_sub(&n_bad_syncs, 1);
        errno = EIO;
        return -1;
    }
    return __real_msync(addr, len, flags);
}

int __wrap_mlock(const void *addr, size_t len);

/* RLIMIT_MEMLOCK is nought, for root, too. */
int __wrap_mlock(const void *addr, size_t len)
{
    (void)addr;
    (void)len;
    errno = ENOMEM;
    return -1;
}

/* --- what a killed process left -----------------------------------------------------------------
 */

/* What was acknowledged in time must not wait for the system to write it some day, because its
 * process was killed before it could. */
static void test_what_a_killed_process_left_is_synced(void **state)
{
    (void)state;
    const struct mm_spool_options opts = plain();
    leave_killed_log(200);
    atomic_store(&n_segments_synced, 0);
    struct mm_spool *s = open_log(&opts);
    int n_found = (int)mm_spool_found(s)->n_segments;
    assert_true(n_found >= 3);
    mm_spool_tick(s);
    assert_int_equal(atomic_load(&n_segments_synced), n_found);
    mm_spool_tick(s);
    assert_int_equal(atomic_load(&n_segments_synced), n_found);
    mm_spool_close(s);
    /* After an orderly stop all is on the disk. */
    atomic_store(&n_segments_synced, 0);
    s = open_log(&opts);
    assert_int_equal(mm_spool_found(s)->n_segments, n_found);
    mm_spool_tick(s);
    assert_int_equal(atomic_load(&n_segments_synced), 0);
    mm_spool_close(s);
}

static void test_what_a_killed_process_left_cannot_be_synced(void **state)
{
    (void)state;
    const struct mm_spool_options opts = plain();
    struct mm_spool_stats stats;
    leave_killed_log(1);
    struct mm_spool *s = open_log(&opts);
    bad_sync = "/0000000000000001.seg";
    assert_int_equal(mm_spool_sync(s), MM_EIO);
    bad_sync = NULL;
    mm_spool_stats(s, &stats);
    assert_true(stats.degraded);
    /* A sync that succeeds now would prove nothing of that file. */
    atomic_store(&n_segments_synced, 0);
    append_some(s, 1);
    assert_int_equal(mm_spool_sync(s), 0);
    assert_int_equal(atomic_load(&n_segments_synced), 1);
    mm_spool_stats(s, &stats);
    assert_false(stats.degraded);
    mm_spool_close(s);
}

/* --- descriptors --------------------------------------------------------------------------------
 */

static void test_without_descriptors_records_wait(void **state)
{
    (void)state;
    struct mm_spool_options opts = plain();
    struct mm_spool *s = open_log(&opts);
    struct mm_spool_reader *rd = mm_spool_reader(s, 0);
    append_some(s, 200);
    mm_spool_tick(s); /* what is full is not mapped any more */

    struct rlimit before;
    take_descriptors(&before);
    for (int i = 0; i < 60; i++) {
        struct mm_record r;
        struct mm_spool_pos pos;
        int err = mm_spool_next(rd, SCAN, &r, &pos);
        if (err != MM_EIO) {
            give_descriptors(&before);
        }
        assert_int_equal(err, MM_EIO);
        atomic_fetch_add(&ahead_ns, UINT64_C(2000000000));
    }
    give_descriptors(&before);
    assert_int_equal(read_all(rd), 200);
    mm_spool_close(s);
}

/* drop_oldest is for want of room, and for nothing else that keeps a segment from being made. */
static void test_without_descriptors_nothing_is_dropped(void **state)
{
    (void)state;
    struct mm_spool_options opts = plain();
    opts.manual = false;
    opts.drop_oldest = true;
    struct mm_spool *s = open_log(&opts);
    struct mm_spool_reader *rd = mm_spool_reader(s, 0);
    struct mm_record r;
    struct mm_spool_pos pos;
    append_some(s, 200);
    assert_int_equal(mm_spool_next(rd, SCAN, &r, &pos), 0);
    sleep_ms(100);
    struct rlimit before;
    take_descriptors(&before);
    uint32_t n = 0;
    while (n < 400 && append(s, 1) == 0) {
        n++; /* into the tail and what is prepared */
    }
    sleep_ms(500);
    bool unwanted = mm_spool_unwanted(rd, &pos);
    give_descriptors(&before);
    assert_in_range(n, 1, 399);
    assert_false(unwanted);
    mm_spool_close(s);
}

/* A log with some records that drops its oldest, on a disk of which others have a part. *first: the
 * first record, which its reader has taken. */
static struct mm_spool *open_on_a_shared_disk(struct mm_spool_pos *first)
{
    struct mm_spool_options opts = plain();
    opts.manual = false;
    opts.drop_oldest = true;
    opts.min_free = 100 << 20;
    space_left = UINT64_C(1) << 30;
    struct mm_spool *s = open_log(&opts);
    struct mm_record r;
    append_some(s, 200);
    assert_int_equal(mm_spool_next(mm_spool_reader(s, 0), SCAN, &r, first), 0);
    return s;
}

/* Others fill the disk: dropping all that is stored would make no room. */
static void test_nothing_is_dropped_for_room_that_does_not_come(void **state)
{
    (void)state;
    struct mm_spool_pos pos;
    struct mm_spool *s = open_on_a_shared_disk(&pos);
    struct mm_spool_reader *rd = mm_spool_reader(s, 0);
    space_left = 90 << 20;
    sleep_ms(700);
    uint32_t n = 0;
    while (n < 400 && append(s, 1) == 0) {
        n++;
    }
    sleep_ms(700);
    bool unwanted = mm_spool_unwanted(rd, &pos);
    assert_in_range(n, 1, 399);
    assert_false(unwanted);
    space_left = (UINT64_C(100) << 20) - SEGMENT_BYTES; /* less than they have: dropping helps */
    sleep_ms(700);
    unwanted = mm_spool_unwanted(rd, &pos);
    space_left = 0;
    assert_true(unwanted);
    mm_spool_close(s);
}

/* The same while the log is at work: what it knows of the disk is older than the want of room. */
static void test_nothing_is_dropped_when_the_disk_is_taken_suddenly(void **state)
{
    (void)state;
    struct mm_spool_pos pos;
    struct mm_spool *s = open_on_a_shared_disk(&pos);
    struct mm_spool_reader *rd = mm_spool_reader(s, 0);
    space_left = 90 << 20;
    uint32_t n = 0;
    while (n < 400 && append(s, 1) == 0) {
        n++;
    }
    sleep_ms(300);
    bool unwanted = mm_spool_unwanted(rd, &pos);
    space_left = 0;
    mm_spool_close(s);
    assert_in_range(n, 1, 399);
    assert_false(unwanted);
}

/* A file system that the system has made read-only after an error can still be read. */
static void test_segments_are_opened_for_reading_only(void **state)
{
    (void)state;
    struct mm_spool_options opts = plain();
    struct mm_spool *s = open_log(&opts);
    struct mm_spool_reader *rd = mm_spool_reader(s, 0);
    append_some(s, 200);
    mm_spool_tick(s);
    struct mm_record r;
    struct mm_spool_pos pos;
    assert_int_equal(mm_spool_next(rd, SCAN, &r, &pos), 0);
    int n_reading = 0;
    for (int fd = 0; fd < 64; fd++) {
        char link[64];
        char path[256] = "";
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        if (readlink(link, path, sizeof path - 1) > 0 && strstr(path, "0001.seg") != NULL) {
            assert_int_equal(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDONLY);
            n_reading++;
        }
    }
    assert_int_equal(n_reading, 1);
    mm_spool_close(s);
}

/* --- a start on a failing disk ------------------------------------------------------------------
 */

/* How many records a start finds that cannot read these blocks of a segment without seal. */
static uint32_t start_without(uint64_t blocks)
{
    struct mm_spool_options opts = plain();
    bad_blocks = blocks;
    alarm(30); /* it ends */
    struct mm_spool *s = open_log(&opts);
    alarm(0);
    bad_blocks = 0;
    uint32_t n = read_all(mm_spool_reader(s, 0));
    mm_spool_close(s);
    return n;
}

static void test_a_start_passes_two_bad_places(void **state)
{
    (void)state;
    leave_killed_log(40);
    (void)start_without(UINT64_C(1) << 2 | UINT64_C(1) << 5);
    assert_int_equal(start_without(0), 40);
}

/* A record that begins in a good block and ends in a bad one stops nobody for ever. */
static void test_a_bad_block_costs_the_records_in_it(void **state)
{
    (void)state;
    struct mm_spool_options opts = plain();
    struct mm_spool *s = open_log(&opts);
    struct mm_spool_reader *rd = mm_spool_reader(s, 0);
    append_some(s, 100);
    mm_spool_tick(s);
    bad_blocks = UINT64_C(1) << 2;
    uint32_t n = 0;
    for (int i = 0; i < 100; i++) {
        n += read_all(rd);
        atomic_fetch_add(&ahead_ns, UINT64_C(1000000000));
    }
    bad_blocks = 0;
    assert_in_range(n, 90, 94); /* of each of the two segments, three to five */
    mm_spool_finish(rd, NULL, n, 0);
    struct mm_spool_stats stats;
    mm_spool_stats(s, &stats);
    assert_int_equal(stats.n_lost, 100 - n);
    mm_spool_close(s);
}

/* What could not be read at the start is still looked for when the disk gives it again. */
static void test_what_a_start_cannot_read_is_kept(void **state)
{
    (void)state;
    leave_killed_log(40);
    assert_int_equal(start_without(~UINT64_C(0) << 4), 40);
}

/* Numbers that may stand in what could not be read are not given to others; nor when the system was
 * not started meanwhile, which by itself would be a reason to leave some out. */
static void test_numbers_that_cannot_be_read_are_not_used_again(void **state)
{
    (void)state;
    struct mm_spool_options opts = plain();
    boot_id[0] = 1;
    leave_killed_log(40);
    bad_blocks = ~UINT64_C(0) << 4;
    struct mm_spool *s = open_log(&opts);
    bad_blocks = 0;
    append_some(s, 40);
    assert_int_equal(read_all(mm_spool_reader(s, 0)), 80);
    mm_spool_close(s);
    boot_id[0] = 0;
}

/* --- numbers ------------------------------------------------------------------------------------
 */

/* The number of the first record that is read. */
static uint64_t first_seq(struct mm_spool_reader *rd)
{
    struct mm_record r;
    struct mm_spool_pos pos;
    assert_int_equal(mm_spool_next(rd, SCAN, &r, &pos), 0);
    return r.seq;
}

static int open_state(void)
{
    char path[sizeof directory + 8];
    snprintf(path, sizeof path, "%s/STATE", directory);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

static void put_state(const uint8_t *bytes)
{
    int fd = open_state();
    assert_int_equal(pwrite(fd, bytes, sizeof safe_state, 0), sizeof safe_state);
    close(fd);
}

static void get_state(uint8_t *bytes)
{
    int fd = open_state();
    assert_int_equal(pread(fd, bytes, sizeof safe_state, 0), sizeof safe_state);
    close(fd);
}

/* The power goes soon after a start: what the STATE of the stop before it says must not be all that
 * there is. */
static void test_a_start_is_on_the_disk_before_records_are(void **state)
{
    (void)state;
    memset(boot_id, 1, sizeof boot_id);
    struct mm_spool_options opts = plain();
    mm_spool_close(open_log(&opts));
    struct mm_spool *s = open_log(&opts);
    uint8_t at_failure[sizeof safe_state];
    memcpy(at_failure, safe_state, sizeof at_failure);
    append_some(s, 5); /* delivered, say, and then the power goes */
    struct mm_spool_reader *rd = mm_spool_reader(s, 0);
    assert_int_equal(read_all(rd), 5);
    struct mm_spool_pos end;
    mm_spool_cursor(rd, &end);
    mm_spool_finish(rd, NULL, 5, 0);
    mm_spool_close(s); /* deletes the segment: it never came to the disk */
    put_state(at_failure);
    memset(boot_id, 2, sizeof boot_id);
    s = open_log(&opts);
    append_some(s, 1);
    assert_true(first_seq(mm_spool_reader(s, 0)) >= end.seq);
    mm_spool_close(s);
}

/* Where the system does not tell its boot id, nobody knows that it is the same. */
static void test_an_unknown_boot_is_another_one(void **state)
{
    (void)state;
    memset(boot_id, 0, sizeof boot_id);
    leave_killed_log(5);
    struct mm_spool_options opts = plain();
    struct mm_spool *s = open_log(&opts);
    struct mm_spool_reader *rd = mm_spool_reader(s, 0);
    assert_int_equal(read_all(rd), 5);
    append_some(s, 1);
    assert_true(first_seq(rd) > UINT64_C(1) << 32);
    mm_spool_close(s);
}

/* The numbers jump at a start, and STATE could not be written from there on. */
static void test_a_jump_that_state_does_not_know_is_no_record(void **state)
{
    (void)state;
    uint8_t before[sizeof safe_state];
    memset(boot_id, 1, sizeof boot_id);
    leave_killed_log(10);
    get_state(before);
    memset(boot_id, 2, sizeof boot_id);
    leave_killed_log(5);
    put_state(before);
    struct mm_spool_options opts = plain();
    struct mm_spool *s = open_log(&opts);
    assert_int_equal(mm_spool_found(s)->n_records, 15);
    assert_int_equal(read_all(mm_spool_reader(s, 0)), 15);
    struct mm_spool_stats stats;
    mm_spool_stats(s, &stats);
    assert_int_equal(stats.n_lost, 0);
    assert_int_equal(mm_spool_to_take(s), 15);
    mm_spool_close(s);
}

static void test_a_stop_that_deletes_is_in_order(void **state)
{
    (void)state;
    struct mm_spool_options opts = plain();
    struct mm_spool *s = open_log(&opts);
    struct mm_spool_reader *rd = mm_spool_reader(s, 0);
    append_some(s, 200);
    assert_int_equal(read_all(rd), 200);
    mm_spool_finish(rd, NULL, 200, 0);
    mm_spool_close(s);
    s = open_log(&opts);
    assert_true(mm_spool_found(s)->clean);
    mm_spool_close(s);
}

/* --- syncs --------------------------------------------------------------------------------------
 */

static void test_what_failed_to_sync_is_not_called_safe(void **state)
{
    (void)state;
    struct mm_spool_options opts = plain();
    struct mm_spool *s = open_log(&opts);
    append_some(s, 5);
    atomic_store(&n_bad_syncs, 1);
    assert_int_equal(mm_spool_sync(s), MM_EIO);
    assert_int_equal(mm_spool_sync(s), MM_EIO); /* that nothing was tried makes it no better */
    append_some(s, 1);                          /* into another segment */
    assert_int_equal(mm_spool_sync(s), 0);
    assert_int_equal(read_all(mm_spool_reader(s, 0)), 6);
    mm_spool_close(s);
}

/* The pages of a failed sync are clean in the kernel: what nobody has in his memory is the first to
 * be taken, and is read again from a disk that does not have it. */
static void test_what_failed_to_sync_stays_in_memory(void **state)
{
    (void)state;
    struct mm_spool_options opts = plain();
    opts.max_bytes = 32 << 20;
    opts.segment_bytes = 4 << 20;
    struct mm_spool *s = open_log(&opts);
    const uint32_t n_records = (2 << 20) / PAYLOAD_LEN;
    append_some(s, n_records);
    atomic_store(&n_bad_syncs, 1);
    assert_int_equal(mm_spool_sync(s), MM_EIO);
    assert_true(resident_kib(directory) >= 2 << 10);
    assert_int_equal(read_all(mm_spool_reader(s, 0)), n_records);
    mm_spool_close(s);
}

/* What was synced is no longer in the mapping. A disk that does not give it back is waited for, as
 * elsewhere: in the mapping it would be the end of the process. */
static void test_what_was_synced_is_read_as_a_file(void **state)
{
    (void)state;
    struct mm_spool_options opts = plain();
    opts.max_bytes = 32 << 20;
    opts.segment_bytes = 4 << 20;
    struct mm_spool *s = open_log(&opts);
    struct mm_spool_reader *rd = mm_spool_reader(s, 0);
    struct mm_record r;
    struct mm_spool_pos pos;
    const uint32_t n_records = (1 << 20) / PAYLOAD_LEN;
    append_some(s, n_records);
    assert_int_equal(mm_spool_sync(s), 0);
    append_some(s, 1);
    bad_blocks = UINT64_MAX;
    assert_int_equal(mm_spool_next(rd, SCAN, &r, &pos), MM_EIO);
    bad_blocks = 0;
    atomic_fetch_add(&ahead_ns, UINT64_C(2000000000));
    assert_int_equal(read_all(rd), n_records + 1);
    mm_spool_close(s);
}

/* But not where there is none: it is delivered from memory. */
static void test_what_was_synced_and_deleted_is_read(void **state)
{
    (void)state;
    struct mm_spool_options opts = plain();
    char path[sizeof directory + 32];
    opts.max_bytes = 32 << 20;
    opts.segment_bytes = 4 << 20;
    struct mm_spool *s = open_log(&opts);
    const uint32_t n_records = (1 << 20) / PAYLOAD_LEN;
    append_some(s, n_records);
    assert_int_equal(mm_spool_sync(s), 0);
    segment_path(path, sizeof path, 1);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(read_all(mm_spool_reader(s, 0)), n_records);
    mm_spool_close(s);
}

static void *sync_log(void *arg)
{
    is_producer = false;
    (void)mm_spool_sync(arg);
    return NULL;
}

/* The keeper hears of the error; the producer's own sync, at the same time, does not. */
static void test_always_believes_no_sync_beside_one_that_fails(void **state)
{
    (void)state;
    struct mm_spool_options opts = plain();
    opts.sync = MM_SPOOL_SYNC_ALWAYS;
    struct mm_spool *s = open_log(&opts);
    is_producer = true;
    assert_int_equal(append(s, 1), 0); /* the first one makes the file safe as well */
    assert_int_equal(append(s, 0), 0);
    atomic_store(&n_in_sync, 0);
    atomic_store(&overlap, true);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, sync_log, s), 0);
    while (atomic_load(&n_in_sync) == 0) {
        sleep_ms(1);
    }
    int err = append(s, 1);
    pthread_join(thread, NULL);
    atomic_store(&overlap, false);
    assert_int_equal(err, MM_EIO);
    mm_spool_close(s);
}

/* --- whose it is --------------------------------------------------------------------------------
 */

/* Somebody takes the LOCK for a leftover and deletes it. */
static void test_without_its_lock_file_a_directory_is_in_use(void **state)
{
    (void)state;
    struct mm_spool_options opts = plain();
    struct mm_spool *s = open_log(&opts);
    char path[sizeof directory + 8];
    snprintf(path, sizeof path, "%s/LOCK", directory);
    assert_int_equal(unlink(path), 0);
    struct mm_spool *other;
    char errstr[256];
    assert_int_equal(mm_spool_open(&opts, &other, errstr, sizeof errstr), MM_EBUSY);
    mm_spool_close(s);
}

/* --- what is in it ------------------------------------------------------------------------------
 */

/* A file of a segment with one record. */
static void put_segment_of(uint8_t log, uint64_t file, uint64_t run_seq, uint64_t seq)
{
    _Alignas(8) uint8_t bytes[2 * MM_LAYOUT_HEADER_LEN] = {0};
    struct mm_layout_header h = {
        .uuid = {log}, .file = file, .run_seq = run_seq, .salt = file, .size = sizeof bytes};
    struct mm_record r = {.seq = seq, .type = MM_RECORD_MESSAGE, .topic_len = 1, .topic = "t"};
    r.topic_hash = mm_topic_hash(r.topic, r.topic_len);
    mm_layout_encode_header(bytes, &h);
    uint8_t *at = bytes + MM_LAYOUT_HEADER_LEN;
    mm_record_commit(at, mm_record_encode(at, h.salt, &r));
    char path[sizeof directory + 32];
    snprintf(path, sizeof path, "%s/%016" PRIx64 ".seg", directory, file);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, sizeof bytes), sizeof bytes);
    close(fd);
}

static void put_segment(uint64_t file, uint64_t run_seq, uint64_t seq)
{
    put_segment_of(1, file, run_seq, seq);
}

/* Entries that have a segment's name and are none: the start neither waits for them nor ends. */
static void test_what_is_no_file_is_set_aside(void **state)
{
    (void)state;
    char path[sizeof directory + 32];
    put_segment(3, 1, 1);
    segment_path(path, sizeof path, 1);
    assert_int_equal(mkfifo(path, 0600), 0);
    segment_path(path, sizeof path, 2);
    assert_int_equal(mkdir(path, 0700), 0);
    segment_path(path, sizeof path, 4);
    assert_int_equal(symlink("/dev/zero", path), 0);
    segment_path(path, sizeof path, 5);
    assert_int_equal(mknod(path, S_IFSOCK | 0600, 0), 0);
    segment_path(path, sizeof path, 6);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(ftruncate(fd, INT64_C(1) << 33), 0); /* larger than a segment can be */
    close(fd);
    struct mm_spool_options opts = plain();
    struct mm_spool *s = open_log(&opts);
    assert_int_equal(mm_spool_found(s)->n_bad_files, 5);
    assert_int_equal(read_all(mm_spool_reader(s, 0)), 1);
    mm_spool_close(s);
}

/* One first page that the disk does not give must not keep the broker from the other messages. */
static void test_a_first_page_that_cannot_be_read(void **state)
{
    (void)state;
    for (uint64_t file = 1; file <= 3; file++) {
        put_segment(file, 1, file);
    }
    bad_file = "0000000000000002.seg";
    struct mm_spool_options opts = plain();
    struct mm_spool *s = open_log(&opts);
    bad_file = NULL;
    assert_int_equal(mm_spool_found(s)->n_bad_files, 1);
    assert_int_equal(read_all(mm_spool_reader(s, 0)), 2);
    mm_spool_close(s);
}

/* What the disk does not give at once is not set aside for that. */
static void test_a_first_page_that_comes_later(void **state)
{
    (void)state;
    for (uint64_t file = 1; file <= 3; file++) {
        put_segment(file, 1, file);
    }
    n_blind_looks = 3;
    struct mm_spool_options opts = plain();
    struct mm_spool *s = open_log(&opts);
    assert_int_equal(n_blind_looks, 0);
    assert_int_equal(mm_spool_found(s)->n_bad_files, 0);
    assert_int_equal(read_all(mm_spool_reader(s, 0)), 3);
    mm_spool_close(s);
}

/* But a disk that gives nothing is not emptied into bad/. */
static void test_no_first_page_can_be_read(void **state)
{
    (void)state;
    for (uint64_t file = 1; file <= 3; file++) {
        put_segment(file, 1, file);
    }
    bad_file = ".seg";
    struct mm_spool_options opts = plain();
    struct mm_spool *s;
    char errstr[256];
    assert_int_equal(mm_spool_open(&opts, &s, errstr, sizeof errstr), MM_EIO);
    assert_non_null(strstr(errstr, "no segment can be read"));
    bad_file = NULL;
    s = open_log(&opts);
    assert_int_equal(mm_spool_found(s)->n_bad_files, 0);
    assert_int_equal(read_all(mm_spool_reader(s, 0)), 3);
    mm_spool_close(s);
}

/* Without STATE, the first file is not asked alone whose log this is. */
static void test_a_stranger_does_not_name_the_log(void **state)
{
    (void)state;
    put_segment_of(9, 1, 1, 1);
    for (uint64_t file = 2; file <= 4; file++) {
        put_segment(file, 1, file);
    }
    struct mm_spool_options opts = plain();
    struct mm_spool *s = open_log(&opts);
    assert_int_equal(mm_spool_found(s)->n_bad_files, 1);
    assert_int_equal(read_all(mm_spool_reader(s, 0)), 3);
    mm_spool_close(s);
}

/* --- files that somebody deletes ----------------------------------------------------------------
 */

/* Nothing is acknowledged that is in a directory which nobody finds again. */
static void test_a_removed_directory_takes_nothing(void **state)
{
    struct mm_spool_options opts = plain();
    struct mm_spool *s = open_log(&opts);
    append_some(s, 5);
    assert_int_equal(remove_directory(state), 0);
    pass_a_second(s);
    assert_int_equal(append(s, 1), MM_EIO);
    assert_int_equal(read_all(mm_spool_reader(s, 0)), 5);
    mm_spool_close(s);
    assert_int_equal(mkdir(directory, 0700), 0);
    s = open_log(&opts);
    append_some(s, 1);
    mm_spool_close(s);
}

/* Files alone are made again: STATE, and segments. */
static void test_deleted_files_are_made_again(void **state)
{
    (void)state;
    char path[sizeof directory + 32];
    struct mm_spool_options opts = plain();
    struct mm_spool *s = open_log(&opts);
    append_some(s, 5);
    for (uint64_t file = 1; file < 100; file++) {
        segment_path(path, sizeof path, file);
        (void)unlink(path);
    }
    snprintf(path, sizeof path, "%s/STATE", directory);
    assert_int_equal(unlink(path), 0);
    for (int i = 0; i < 10; i++) {
        pass_a_second(s);
        append_some(s, 1);
    }
    assert_true(count_segment_files() > 0);
    assert_int_equal(mm_spool_sync(s), MM_EIO); /* what was in the deleted ones is not safe */
    assert_int_equal(mm_spool_sync(s), 0);
    assert_int_equal(access(path, F_OK), 0);
    assert_int_equal(read_all(mm_spool_reader(s, 0)), 15);
    mm_spool_close(s);
    s = open_log(&opts);
    assert_true(mm_spool_found(s)->clean);
    assert_true(read_all(mm_spool_reader(s, 0)) >= 5); /* those of the files that were made again */
    mm_spool_close(s);
}

/* --- STATE --------------------------------------------------------------------------------------
 */

/* What STATE calls finished is deleted only when that STATE is on the disk. */
static void test_a_start_deletes_what_a_safe_state_knows(void **state)
{
    (void)state;
    pid_t pid = fork();
    if (pid == 0) {
        struct mm_spool_options opts = plain();
        struct mm_spool *s = open_log(&opts);
        append_some(s, 200);
        (void)read_all(mm_spool_reader(s, 0));
        mm_spool_finish(mm_spool_reader(s, 0), NULL, 200, 0);
        mm_spool_checkpoint(s); /* written, not synced */
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    uint32_t n = count_segment_files();
    assert_true(n > 1);
    struct mm_spool_options opts = plain();
    memset(safe_state, 0, sizeof safe_state);
    bad_state_syncs = true;
    struct mm_spool *s;
    char errstr[256];
    (void)mm_spool_open(&opts, &s, errstr, sizeof errstr);
    assert_true(count_segment_files() >= n);
    mm_spool_close(s);
    bad_state_syncs = false;
    s = open_log(&opts);
    mm_spool_close(s);
    assert_int_equal(count_segment_files(), 0);
}

/* A STATE that may never have reached the disk is written again before it is believed. */
static void test_state_is_written_again_after_a_failed_sync(void **state)
{
    (void)state;
    struct mm_spool_options opts = plain();
    struct mm_spool *s = open_log(&opts);
    append_some(s, 200);
    assert_int_equal(read_all(mm_spool_reader(s, 0)), 200);
    mm_spool_finish(mm_spool_reader(s, 0), NULL, 200, 0);
    bad_state_syncs = true;
    uint32_t n = count_segment_files();
    pass_a_second(s);
    pass_a_second(s);
    assert_true(count_segment_files() >= n);
    bad_state_syncs = false;
    /* As the kernel may have it: what was to be written is gone. */
    char path[sizeof directory + 8];
    snprintf(path, sizeof path, "%s/STATE", directory);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    uint8_t zeros[sizeof safe_state] = {0};
    assert_int_equal(pwrite(fd, zeros, sizeof zeros, 0), sizeof zeros);
    pass_a_second(s);
    assert_true(count_segment_files() < n);
    struct mm_layout_state found;
    uint8_t slots[sizeof safe_state];
    assert_int_equal(pread(fd, slots, sizeof slots, 0), sizeof slots);
    close(fd);
    int good = mm_layout_decode_state(slots, &found) == 0 ||
               mm_layout_decode_state(slots + MM_LAYOUT_STATE_LEN, &found) == 0;
    assert_true(good);
    mm_spool_close(s);
}

/* What a reservation that failed has got of the disk is given back at once. */
static void test_a_failed_reservation_keeps_nothing(void **state)
{
    (void)state;
    struct mm_spool_options opts = plain();
    struct mm_spool *s = open_log(&opts);
    append_some(s, 10);
    uint32_t n = count_segment_files();
    struct mm_spool_stats before;
    struct mm_spool_stats after;
    mm_spool_stats(s, &before);
    atomic_store(&bad_reserve, true);
    int err = 0;
    for (int i = 0; i < 200 && err == 0; i++) {
        err = append(s, 1);
    }
    assert_int_equal(err, MM_EFULL);
    mm_spool_tick(s);
    mm_spool_stats(s, &after);
    assert_int_equal(count_segment_files(), n);
    assert_int_equal(after.allocated_bytes, before.allocated_bytes);
    atomic_store(&bad_reserve, false);
    append_some(s, 10);
    mm_spool_close(s);
}

/* A kill may end a write between two pages. What is there of the record then is none, and no
 * damage.
 */
static void test_a_write_that_ends_half_way(void **state)
{
    (void)state;
    struct mm_spool_options opts = plain();
    opts.writer = MM_SPOOL_WRITER_PWRITE;
    pid_t pid = fork();
    if (pid == 0) {
        ends_in_write = true;
        append_some(open_log(&opts), 10);
        _exit(2);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    char errstr[256];
    struct mm_inspect *in;
    struct mm_inspect_verify_options all = {0};
    struct mm_inspect_verdict verdict;
    assert_int_equal(mm_inspect_open(directory, &in, errstr, sizeof errstr), 0);
    assert_int_equal(mm_inspect_verify(in, &all, &verdict), 0);
    mm_inspect_close(in);
    assert_int_equal(verdict.n_damages, 0);
    assert_int_equal(verdict.n_records, 3);
    struct mm_spool *s = open_log(&opts);
    append_some(s, 1);
    assert_int_equal(read_all(mm_spool_reader(s, 0)), 4);
    mm_spool_close(s);
}

static bool comes_to_be_full(const struct mm_spool *s, bool full)
{
    struct mm_spool_stats stats;
    for (int i = 0; i < 5000; i++) {
        mm_spool_stats(s, &stats);
        if (stats.full == full) {
            return true;
        }
        sleep_ms(1);
    }
    return false;
}

/* A disk that takes nothing more (an error has made it read-only) is not called ready for long, and
 * is again when it is mended, also when nobody tries to store anything meanwhile. */
static void test_a_disk_that_cannot_be_written_is_full(void **state)
{
    (void)state;
    struct mm_spool_options opts = plain();
    opts.manual = false;
    opts.sync = MM_SPOOL_SYNC_NEVER;
    opts.writer = MM_SPOOL_WRITER_PWRITE;
    struct mm_spool *s = open_log(&opts);
    append_some(s, 10);
    sleep_ms(50); /* segments are prepared */
    atomic_store(&bad_writes, true);
    for (int i = 0; i < 20; i++) {
        assert_int_equal(append(s, 1), MM_EIO);
    }
    assert_true(comes_to_be_full(s, true));
    sleep_ms(300);
    assert_true(comes_to_be_full(s, true));
    atomic_store(&bad_writes, false);
    assert_true(comes_to_be_full(s, false));
    append_some(s, 10);
    assert_int_equal(read_all(mm_spool_reader(s, 0)), 20);
    mm_spool_close(s);
}

/* A limit for the size of files (ulimit -f) refuses what does not fit, and ends nobody. */
static void test_a_limit_for_files_ends_no_process(void **state)
{
    (void)state;
    struct rlimit before;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    struct rlimit few = {.rlim_cur = SEGMENT_BYTES, .rlim_max = before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &few), 0);
    struct mm_spool_options opts = plain();
    struct mm_spool *s = open_log(&opts);
    append_some(s, 200);
    static const char large[2 * SEGMENT_BYTES];
    struct mm_record r = {.type = MM_RECORD_MESSAGE,
                          .flags = 1,
                          .topic_len = 1,
                          .payload_len = sizeof large,
                          .topic = "t",
                          .payload = large};
    assert_int_equal(mm_spool_append(s, &r), MM_EIO);
    append_some(s, 1);
    mm_spool_close(s);
    /* No segment at all; what is there is read. */
    few.rlim_cur = SEGMENT_BYTES / 2;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &few), 0);
    s = open_log(&opts);
    assert_int_equal(append(s, 1), MM_EIO);
    assert_int_equal(read_all(mm_spool_reader(s, 0)), 201);
    mm_spool_close(s);
    few.rlim_cur = 1000;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &few), 0);
    char errstr[256];
    assert_int_equal(mm_spool_open(&opts, &s, errstr, sizeof errstr), MM_EIO);
    assert_non_null(strstr(errstr, "limit for the size of files"));
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
}

/* A slot of STATE takes several sectors, of which a power failure may leave any on the disk: those
 * of the last sync, and those written since. One of the slots is whole all the same, and it knows
 * what was deleted. */
static void test_a_slot_of_state_outlives_the_power(void **state)
{
    (void)state;
    enum {
        SECTOR = 512
    };
    static const enum mm_spool_sync policies[] = {MM_SPOOL_SYNC_INTERVAL, MM_SPOOL_SYNC_ALWAYS};
    for (size_t i = 0; i < 2; i++) {
        struct mm_spool_options opts = plain();
        opts.sync = policies[i];
        struct mm_spool *s = open_log(&opts);
        int fd = open_state();
        uint64_t n = 0;
        for (int round = 0; round < 30; round++) {
            /* Some rounds delete a segment, for which STATE is synced; the others write it only. */
            append_some(s, 10);
            n += read_all(mm_spool_reader(s, 0));
            mm_spool_finish(mm_spool_reader(s, 0), NULL, n, 0);
            pass_a_second(s);
            struct mm_layout_state safe[2];
            struct mm_layout_state torn;
            uint8_t now[sizeof safe_state];
            uint8_t mixed[sizeof safe_state];
            uint64_t newest = 0;
            uint64_t left = 0;
            assert_int_equal(pread(fd, now, sizeof now, 0), sizeof now);
            for (size_t at = 0; at < sizeof mixed; at += SECTOR) {
                bool old = at / SECTOR % 2 == 0;
                memcpy(mixed + at, (old ? safe_state : now) + at, SECTOR);
            }
            for (size_t k = 0; k < 2; k++) {
                size_t at = k * MM_LAYOUT_STATE_LEN;
                if (mm_layout_decode_state(safe_state + at, &safe[k]) == 0) {
                    newest = safe[k].generation > newest ? safe[k].generation : newest;
                }
                if (mm_layout_decode_state(mixed + at, &torn) == 0) {
                    left = torn.generation > left ? torn.generation : left;
                }
            }
            assert_true(newest > 0);
            assert_true(left >= newest);
        }
        close(fd);
        mm_spool_close(s);
    }
}

/* A file that somebody made must not lead the numbers where no new record is ever read. */
static void test_impossible_numbers_are_set_aside(void **state)
{
    (void)state;
    put_segment(1, 1, 1);
    put_segment(2, UINT64_MAX, UINT64_MAX);
    put_segment(3, 1, UINT64_MAX - 1);
    put_segment(4, 1000, 2);
    put_segment(UINT64_MAX, 1, 3); /* no name of ours: another number could not be above it */
    put_segment(0, 1, 4);          /* nor this one */
    struct mm_spool_options opts = plain();
    struct mm_spool *s = open_log(&opts);
    assert_int_equal(mm_spool_found(s)->n_bad_files, 3);
    append_some(s, 5);
    assert_int_equal(read_all(mm_spool_reader(s, 0)), 6);
    mm_spool_close(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_what_a_killed_process_left_is_synced, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_what_a_killed_process_left_cannot_be_synced,
                                        make_directory, remove_directory),
        cmocka_unit_test_setup_teardown(test_without_descriptors_records_wait, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_without_descriptors_nothing_is_dropped, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_nothing_is_dropped_when_the_disk_is_taken_suddenly,
                                        make_directory, remove_directory),
        cmocka_unit_test_setup_teardown(test_nothing_is_dropped_for_room_that_does_not_come,
                                        make_directory, remove_directory),
        cmocka_unit_test_setup_teardown(test_segments_are_opened_for_reading_only, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_a_start_passes_two_bad_places, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_a_bad_block_costs_the_records_in_it, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_what_a_start_cannot_read_is_kept, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_numbers_that_cannot_be_read_are_not_used_again,
                                        make_directory, remove_directory),
        cmocka_unit_test_setup_teardown(test_a_start_is_on_the_disk_before_records_are,
                                        make_directory, remove_directory),
        cmocka_unit_test_setup_teardown(test_an_unknown_boot_is_another_one, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_a_jump_that_state_does_not_know_is_no_record,
                                        make_directory, remove_directory),
        cmocka_unit_test_setup_teardown(test_a_stop_that_deletes_is_in_order, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_what_failed_to_sync_is_not_called_safe, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_what_failed_to_sync_stays_in_memory, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_what_was_synced_is_read_as_a_file, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_what_was_synced_and_deleted_is_read, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_always_believes_no_sync_beside_one_that_fails,
                                        make_directory, remove_directory),
        cmocka_unit_test_setup_teardown(test_without_its_lock_file_a_directory_is_in_use,
                                        make_directory, remove_directory),
        cmocka_unit_test_setup_teardown(test_impossible_numbers_are_set_aside, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_what_is_no_file_is_set_aside, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_a_first_page_that_comes_later, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_a_first_page_that_cannot_be_read, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_no_first_page_can_be_read, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_a_stranger_does_not_name_the_log, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_a_removed_directory_takes_nothing, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_deleted_files_are_made_again, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_a_start_deletes_what_a_safe_state_knows,
                                        make_directory, remove_directory),
        cmocka_unit_test_setup_teardown(test_state_is_written_again_after_a_failed_sync,
                                        make_directory, remove_directory),
        cmocka_unit_test_setup_teardown(test_a_failed_reservation_keeps_nothing, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_a_write_that_ends_half_way, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_a_disk_that_cannot_be_written_is_full, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_a_limit_for_files_ends_no_process, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_a_slot_of_state_outlives_the_power, make_directory,
                                        remove_directory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
