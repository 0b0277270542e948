/* Scans of segments that are larger than what is read at a time, of records that are, and without
 * the memory for one. */
#include "mm_error.h"
#include "mm_layout.h"
#include "mm_scan.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#define SALT UINT64_C(0x1122334455667788)
#define CHUNK ((uint64_t)1 << 20) /* what is read at a time */
#define BLOCK_LEN 4096

/* --- faults -------------------------------------------------------------------------------------
 */

/* The linker turns the library's calls into these. */
void *__wrap_realloc(void *old, size_t len);
void *__real_realloc(void *old, size_t len);
ssize_t __wrap_pread(int fd, void *dst, size_t len, off_t offset);
ssize_t __real_pread(int fd, void *dst, size_t len, off_t offset);

static size_t most_memory = SIZE_MAX; /* that is to be had at once */

void *__wrap_realloc(void *old, size_t len)
{
    return len > most_memory ? NULL : __real_realloc(old, len);
}

static off_t bad_block = -1; /* the disk does not give it */

ssize_t __wrap_pread(int fd, void *dst, size_t len, off_t offset)
{
    if (bad_block >= 0 && offset < bad_block + BLOCK_LEN && offset + (off_t)len > bad_block) {
        if (offset >= bad_block) {
            errno = EIO;
            return -1;
        }
        len = (size_t)(bad_block - offset);
    }
    return __real_pread(fd, dst, len, offset);
}

/* --- a segment ----------------------------------------------------------------------------------
 */

struct file
{
    int fd;
    uint64_t end; /* of the records */
    uint64_t seq; /* of the last one */
};

static struct file make_file(void)
{
    struct file f = {.fd = memfd_create("segment", MFD_CLOEXEC), .end = MM_LAYOUT_HEADER_LEN};
    assert_true(f.fd >= 0);
    return f;
}

static void add_record(struct file *f, uint32_t payload_len)
{
    static char payload[3 << 20];
    size_t size = (size_t)mm_record_size(1, payload_len, 0);
    uint8_t *bytes = calloc(1, size);
    assert_non_null(bytes);
    assert_true(payload_len <= sizeof payload);
    memset(payload, 'x', payload_len);
    const struct mm_record r = {.seq = ++f->seq,
                                .type = MM_RECORD_MESSAGE,
                                .topic_len = 1,
                                .payload_len = payload_len,
                                .topic = "t",
                                .payload = payload};
    mm_record_commit(bytes, mm_record_encode(bytes, SALT, &r));
    assert_int_equal(pwrite(f->fd, bytes, size, (off_t)f->end), size);
    f->end += size;
    free(bytes);
}

/* The next record is this one, with a payload of this length. */
static void assert_next(struct mm_scan *scan, uint64_t seq, uint32_t payload_len)
{
    struct mm_record r;
    uint64_t offset;
    size_t size;
    assert_int_equal(mm_scan_next(scan, &r, &offset, &size), 0);
    assert_int_equal(r.seq, seq);
    assert_int_equal(r.payload_len, payload_len);
    assert_int_equal(size, mm_record_size(1, payload_len, 0));
    const char *payload = r.payload;
    assert_int_equal(payload[0], 'x');
    assert_int_equal(payload[payload_len - 1], 'x');
    assert_int_equal(scan->at, offset + size);
}

static void assert_no_more(struct mm_scan *scan)
{
    struct mm_record r;
    uint64_t offset;
    size_t size;
    assert_int_equal(mm_scan_next(scan, &r, &offset, &size), MM_EAGAIN);
}

/* --- tests --------------------------------------------------------------------------------------
 */

static void test_records_of_any_size_are_found(void **state)
{
    (void)state;
    static const uint32_t lens[] = {100,     700 * 1024, 3 << 20, 100, (1 << 20) - 44,
                                    1 << 20, 900 * 1024, 300,     8};
    struct file f = make_file();
    for (size_t i = 0; i < sizeof lens / sizeof lens[0]; i++) {
        add_record(&f, lens[i]);
    }
    struct mm_scan scan = {0};
    mm_scan_begin(&scan, f.fd, SALT, f.end);
    for (size_t i = 0; i < sizeof lens / sizeof lens[0]; i++) {
        assert_next(&scan, i + 1, lens[i]);
    }
    assert_no_more(&scan);
    assert_int_equal(scan.at, f.end);
    mm_scan_fini(&scan);
    close(f.fd);
}

/* What was never written between two records is longer than what is read at a time. */
static void test_a_long_hole_is_stepped_over(void **state)
{
    (void)state;
    struct file f = make_file();
    add_record(&f, 100);
    uint64_t hole = f.end;
    f.end += 3 * CHUNK + 8;
    add_record(&f, 200);
    struct mm_scan scan = {0};
    mm_scan_begin(&scan, f.fd, SALT, f.end);
    assert_next(&scan, 1, 100);
    assert_int_equal(scan.at, hole);
    assert_next(&scan, 2, 200);
    assert_no_more(&scan);
    mm_scan_fini(&scan);
    close(f.fd);
}

/* Without the memory for a large record the scan says so, and goes on with it when there is some.
 */
static void test_a_large_record_waits_for_memory(void **state)
{
    (void)state;
    struct file f = make_file();
    struct mm_record r;
    uint64_t offset;
    size_t size;
    add_record(&f, 100);
    add_record(&f, 3 << 20);
    add_record(&f, 100);
    struct mm_scan scan = {0};
    mm_scan_begin(&scan, f.fd, SALT, f.end);
    most_memory = 0;
    assert_int_equal(mm_scan_next(&scan, &r, &offset, &size), MM_ENOMEM);
    most_memory = 2 << 20;
    assert_next(&scan, 1, 100);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(mm_scan_next(&scan, &r, &offset, &size), MM_ENOMEM);
    }
    most_memory = SIZE_MAX;
    assert_next(&scan, 2, 3 << 20);
    assert_next(&scan, 3, 100);
    assert_no_more(&scan);
    mm_scan_fini(&scan);
    close(f.fd);
}

/* A block in the second part of a large record cannot be read: that record is lost, and told, and
 * the one behind it is not. */
static void test_a_large_record_whose_second_part_cannot_be_read(void **state)
{
    (void)state;
    struct file f = make_file();
    add_record(&f, 100);
    add_record(&f, 3 << 20);
    add_record(&f, 200);
    struct mm_scan scan = {0};
    mm_scan_begin(&scan, f.fd, SALT, f.end);
    bad_block = 2 * (off_t)CHUNK;
    assert_next(&scan, 1, 100);
    assert_int_equal(scan.bad_from, scan.bad_to);
    assert_next(&scan, 3, 200);
    bad_block = -1;
    assert_int_equal(scan.bad_from, 2 * CHUNK);
    assert_int_equal(scan.bad_to, 2 * CHUNK + BLOCK_LEN);
    assert_int_equal(scan.bad_errno, EIO);
    assert_no_more(&scan);
    mm_scan_fini(&scan);
    close(f.fd);
}

/* Bytes behind the last record that no writer leaves there are counted up to the last of them,
 * however many they are. */
static void test_a_long_tail_is_measured(void **state)
{
    (void)state;
    struct file f = make_file();
    uint64_t n_bytes;
    add_record(&f, 100);
    const uint8_t one = 1;
    assert_int_equal(pwrite(f.fd, &one, 1, (off_t)f.end), 1);
    assert_int_equal(pwrite(f.fd, &one, 1, (off_t)(f.end + 2 * CHUNK + 100)), 1);
    struct mm_scan scan = {0};
    mm_scan_begin(&scan, f.fd, SALT, f.end + 4 * CHUNK);
    assert_next(&scan, 1, 100);
    assert_int_equal(mm_scan_tail(&scan, &n_bytes), 0);
    assert_int_equal(n_bytes, 0); /* not known before the end was come to */
    assert_no_more(&scan);
    assert_int_equal(mm_scan_tail(&scan, &n_bytes), 0);
    assert_int_equal(n_bytes, 2 * CHUNK + 101);
    mm_scan_fini(&scan);
    close(f.fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_records_of_any_size_are_found),
        cmocka_unit_test(test_a_long_hole_is_stepped_over),
        cmocka_unit_test(test_a_large_record_waits_for_memory),
        cmocka_unit_test(test_a_large_record_whose_second_part_cannot_be_read),
        cmocka_unit_test(test_a_long_tail_is_measured),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
