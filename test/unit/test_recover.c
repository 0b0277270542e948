/* What a start makes of files that no process of ours leaves: values that cannot be under a
 * checksum that is right, damage at chosen places, files of a newer version, a disk that fails. */
#include "made_log.h"
#include "mm_dir.h"
#include "mm_error.h"
#include "mm_segment.h"
#include "mm_spool.h"

#include <errno.h>
#include <stdatomic.h>

#define SCAN 100000

/* --- faults -------------------------------------------------------------------------------------
 */

/* The linker turns the library's calls into these. */
uint64_t __wrap_mm_spool_now_ns(void);
uint64_t __real_mm_spool_now_ns(void);
int __wrap_usleep(useconds_t us);
ssize_t __wrap_pread(int fd, void *dst, size_t len, off_t offset);
ssize_t __real_pread(int fd, void *dst, size_t len, off_t offset);
int __wrap_mm_segment_open(const struct mm_dir *dir, uint64_t file, bool write);
int __real_mm_segment_open(const struct mm_dir *dir, uint64_t file, bool write);

/* Time passes as quickly as the log waits. */
static _Atomic uint64_t ahead_ns;

uint64_t __wrap_mm_spool_now_ns(void)
{
    return __real_mm_spool_now_ns() + atomic_load(&ahead_ns);
}

int __wrap_usleep(useconds_t us)
{
    atomic_fetch_add(&ahead_ns, us * UINT64_C(1000));
    return 0;
}

static bool bad_records; /* the disk gives the header of a segment and nothing behind it */
static bool bad_words;   /* ... nor a single word of it, though it did before */

ssize_t __wrap_pread(int fd, void *dst, size_t len, off_t offset)
{
    if (is_file(fd, ".seg") && ((bad_records && offset + (off_t)len > MM_LAYOUT_HEADER_LEN) ||
                                (bad_words && len == sizeof(uint32_t)))) {
        errno = EIO;
        return -1;
    }
    return __real_pread(fd, dst, len, offset);
}

/* Opening the first segment fails for this reason, so often, after so many times that it did not.
 */
static int open_errno;
static uint32_t n_bad_opens;
static uint32_t n_good_opens;

int __wrap_mm_segment_open(const struct mm_dir *dir, uint64_t file, bool write)
{
    if (file != 1 || n_bad_opens == 0) {
        return __real_mm_segment_open(dir, file, write);
    }
    if (n_good_opens > 0) {
        n_good_opens--;
        return __real_mm_segment_open(dir, file, write);
    }
    n_bad_opens--;
    if (open_errno == ENOENT) { /* somebody deletes it just now */
        assert_int_equal(unlinkat(mm_dir_fd(dir), name_of(file), 0), 0);
        return MM_EAGAIN;
    }
    errno = open_errno;
    return MM_EIO;
}

static void fail_opens(int reason, uint32_t n_good, uint32_t n_bad)
{
    open_errno = reason;
    n_good_opens = n_good;
    n_bad_opens = n_bad;
}

/* --- starts -------------------------------------------------------------------------------------
 */

static int try_start(const struct log_dir *d, struct mm_spool **s, char errstr[512])
{
    const struct mm_spool_options opts = {.max_bytes = 1 << 20,
                                          .segment_bytes = 64 * 1024,
                                          .n_readers = 1,
                                          .manual = true,
                                          .dir = d->path};
    errstr[0] = '\0';
    return mm_spool_open(&opts, s, errstr, 512);
}

static struct mm_spool *start(const struct log_dir *d)
{
    struct mm_spool *s;
    char errstr[512];
    if (try_start(d, &s, errstr) != 0) {
        fail_msg("%s", errstr);
    }
    return s;
}

/* The next record of the log is this one, with all its parts. */
static void assert_next(struct mm_spool *s, uint64_t seq, struct mm_spool_pos *pos)
{
    char topic[32];
    char payload[64];
    struct mm_record r;
    const struct mm_record want = record_of(seq, topic, payload);
    assert_int_equal(mm_spool_next(mm_spool_reader(s, 0), SCAN, &r, pos), 0);
    assert_int_equal(r.seq, seq);
    assert_int_equal(r.time_ms, want.time_ms);
    assert_int_equal(r.topic_len, want.topic_len);
    assert_memory_equal(r.topic, want.topic, want.topic_len);
    assert_int_equal(r.payload_len, want.payload_len);
    assert_memory_equal(r.payload, want.payload, want.payload_len);
}

/* The log holds these records and no other. */
static void assert_holds(struct mm_spool *s, uint64_t first, uint64_t last)
{
    struct mm_record r;
    struct mm_spool_pos pos;
    for (uint64_t seq = first; seq <= last; seq++) {
        assert_next(s, seq, &pos);
    }
    assert_int_equal(mm_spool_next(mm_spool_reader(s, 0), SCAN, &r, &pos), MM_EAGAIN);
}

static bool exists(const struct log_dir *d, const char *name)
{
    return faccessat(d->fd, name, F_OK, 0) == 0;
}

static bool is_set_aside(const struct log_dir *d, uint64_t file)
{
    char name[32];
    snprintf(name, sizeof name, "bad/%s", name_of(file));
    return exists(d, name) && !exists(d, name_of(file));
}

/* A start takes the second segment, 11 to 20, and sets the first aside. */
static void assert_first_is_set_aside(const struct log_dir *d)
{
    struct mm_spool *s = start(d);
    assert_int_equal(mm_spool_found(s)->n_bad_files, 1);
    assert_true(is_set_aside(d, 1));
    assert_holds(s, 11, 20);
    mm_spool_close(s);
}

/* --- values that cannot be ----------------------------------------------------------------------
 */

/* What such a seal says of the records is not believed: they are looked at themselves. */
static void test_a_seal_that_cannot_be(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++) {
        struct log_dir d;
        uint8_t bytes[MM_LAYOUT_SEAL_LEN];
        make_dir(&d);
        size_t end = add_segment(&d, (struct plan){.file = 1, .run_seq = 1, .first = 1, .last = 9});
        struct mm_layout_seal seal = {.first_seq = 1, .last_seq = 9, .n_records = 9, .end = end};
        seal.end = i == 0 ? MM_LAYOUT_HEADER_LEN - 8 : seal.end; /* in its header */
        seal.end = i == 1 ? SEGMENT_LEN + 8 : seal.end;          /* behind its end */
        seal.first_seq = i == 2 ? 10 : seal.first_seq;           /* the last before the first */
        mm_layout_encode_seal(bytes, SALT_OF(1), &seal);
        write_at(&d, name_of(1), MM_LAYOUT_SEAL_OFFSET, bytes, sizeof bytes);
        add_state(&d, 1, 10);
        struct mm_spool *s = start(&d);
        assert_int_equal(mm_spool_found(s)->n_records, 9);
        assert_int_equal(mm_spool_found(s)->n_bad_files, 0);
        assert_holds(s, 1, 9);
        mm_spool_close(s);
        remove_dir(&d);
    }
}

/* A segment whose header has such a size holds nothing that could be found: it is kept for people.
 */
static void test_a_header_that_cannot_be(void **state)
{
    (void)state;
    static const uint64_t sizes[] = {0, MM_LAYOUT_HEADER_LEN - 1, UINT64_C(1) << 32, UINT64_MAX};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct log_dir d;
        uint8_t page[MM_LAYOUT_HEADER_LEN];
        make_dir(&d);
        add_segment(&d, (struct plan){.file = 1, .run_seq = 1, .first = 1, .last = 10});
        add_segment(&d, (struct plan){.file = 2, .run_seq = 1, .first = 11, .last = 20});
        struct mm_layout_header h = {.file = 1, .run_seq = 1, .salt = SALT_OF(1), .size = sizes[i]};
        memcpy(h.uuid, uuid, sizeof h.uuid);
        mm_layout_encode_header(page, &h);
        write_at(&d, name_of(1), 0, page, sizeof page);
        add_state(&d, 1, 21);
        assert_first_is_set_aside(&d);
        remove_dir(&d);
    }
}

/* --- a newer version ----------------------------------------------------------------------------
 */

/* The version of tomorrow, under a checksum that is right. */
static void make_newer(uint8_t *bytes, size_t crc_at)
{
    bytes[8] = MM_LAYOUT_VERSION + 1;
    uint32_t crc = mm_crc32c(0, bytes, crc_at);
    memcpy(bytes + crc_at, &crc, sizeof crc);
}

/* One file of a newer version, and be it the last: the start is refused, and what is not finished
 * stays as it is. */
static void test_a_newer_version_that_is_found_late(void **state)
{
    (void)state;
    struct log_dir d;
    struct mm_spool *s;
    char errstr[512];
    uint8_t old[SEGMENT_LEN];
    uint8_t newer[SEGMENT_LEN];
    make_dir(&d);
    add_log(&d);
    read_file(&d, name_of(4), old, sizeof old);
    memcpy(newer, old, sizeof newer);
    make_newer(newer, 124);
    memcpy(newer + 2048, newer, 128);
    write_at(&d, name_of(4), 0, newer, sizeof newer);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(try_start(&d, &s, errstr), MM_EVERSION);
        assert_null(s);
        assert_non_null(strstr(errstr, "segment 0000000000000004 is of format version 2"));
    }
    for (uint64_t file = 2; file <= 4; file++) {
        assert_true(exists(&d, name_of(file)));
    }
    assert_false(exists(&d, "bad"));
    write_at(&d, name_of(4), 0, old, sizeof old);
    s = start(&d);
    assert_holds(s, 12, 30);
    mm_spool_close(s);
    remove_dir(&d);
}

static void test_a_state_of_a_newer_version(void **state)
{
    (void)state;
    struct log_dir d;
    struct mm_spool *s;
    char errstr[512];
    uint8_t old[2 * MM_LAYOUT_STATE_LEN];
    uint8_t newer[MM_LAYOUT_STATE_LEN];
    make_dir(&d);
    add_log(&d);
    read_file(&d, "STATE", old, sizeof old);
    memcpy(newer, old + MM_LAYOUT_STATE_LEN, sizeof newer);
    make_newer(newer, MM_LAYOUT_STATE_LEN - 4);
    write_at(&d, "STATE", MM_LAYOUT_STATE_LEN, newer, sizeof newer);
    assert_int_equal(try_start(&d, &s, errstr), MM_EVERSION);
    assert_null(s);
    assert_non_null(strstr(errstr, "STATE is of format version 2"));
    for (uint64_t file = 1; file <= 4; file++) {
        assert_true(exists(&d, name_of(file)));
    }
    write_at(&d, "STATE", 0, old, sizeof old);
    s = start(&d);
    assert_holds(s, 12, 30);
    mm_spool_close(s);
    remove_dir(&d);
}

/* --- no sound record ----------------------------------------------------------------------------
 */

/* A segment without records beside one with 11 to 20. */
static void add_empty_and_full(const struct log_dir *d)
{
    add_segment(d, (struct plan){.file = 1, .run_seq = 1});
    add_segment(d, (struct plan){.file = 2, .run_seq = 1, .first = 11, .last = 20});
    add_state(d, 11, 21);
}

/* A segment without a sound record may be one whose process was killed in its first append: that
 * had been acknowledged to nobody, and the file goes. Whatever else there is was a record once, and
 * is not deleted. */
static void test_the_only_record_is_damaged(void **state)
{
    (void)state;
    static const struct
    {
        uint32_t word;  /* the commit word */
        uint32_t other; /* where another byte is that is not 0; 0: nowhere */
        bool was_record;
    } cases[] = {
        {0, 0, false},
        {0, 64, false},
        {MM_RECORD_HEADER_LEN, 0, false},
        {100, 90, false},
        {100, 100, true},
        {64, 4000, true},
        {MM_RECORD_HEADER_LEN - 1, 0, true},
        {UINT32_MAX, 0, true},
        {SEGMENT_LEN, 0, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct log_dir d;
        const uint8_t one = 1;
        make_dir(&d);
        add_empty_and_full(&d);
        write_at(&d, name_of(1), MM_LAYOUT_HEADER_LEN, &cases[i].word, sizeof cases[i].word);
        if (cases[i].other != 0) {
            write_at(&d, name_of(1), MM_LAYOUT_HEADER_LEN + cases[i].other, &one, 1);
        }
        struct mm_spool *s = start(&d);
        assert_false(exists(&d, name_of(1)));
        assert_int_equal(is_set_aside(&d, 1), cases[i].was_record);
        assert_int_equal(mm_spool_found(s)->n_bad_files, cases[i].was_record);
        assert_holds(s, 11, 20);
        mm_spool_close(s);
        remove_dir(&d);
    }
}

/* Nor is one that cannot be looked at any more. */
static void test_whether_there_was_a_record_cannot_be_seen(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        struct log_dir d;
        make_dir(&d);
        add_empty_and_full(&d);
        bad_words = i == 0;
        fail_opens(EMFILE, 2, i == 0 ? 0 : 1);
        assert_first_is_set_aside(&d);
        assert_int_equal(n_bad_opens, 0);
        bad_words = false;
        remove_dir(&d);
    }
}

/* Of a segment the disk gives the header and nothing else. It goes as it is to where people look,
 * and what it holds is there when the disk can be read again. */
static void test_no_record_of_a_segment_can_be_read(void **state)
{
    (void)state;
    struct log_dir d;
    uint8_t before[SEGMENT_LEN];
    uint8_t after[SEGMENT_LEN];
    make_dir(&d);
    add_segment(&d, (struct plan){.file = 1, .run_seq = 1, .first = 1, .last = 10});
    add_state(&d, 1, 11);
    read_file(&d, name_of(1), before, sizeof before);
    bad_records = true;
    struct mm_spool *s = start(&d);
    bad_records = false;
    assert_int_equal(mm_spool_found(s)->n_bad_files, 1);
    assert_true(is_set_aside(&d, 1));
    mm_spool_close(s);
    assert_int_equal(read_file(&d, "bad/0000000000000001.seg", after, sizeof after), SEGMENT_LEN);
    assert_memory_equal(after, before, sizeof after);
    assert_int_equal(renameat(d.fd, "bad/0000000000000001.seg", d.fd, name_of(1)), 0);
    s = start(&d);
    assert_holds(s, 1, 10);
    mm_spool_close(s);
    remove_dir(&d);
}

/* --- setting aside ------------------------------------------------------------------------------
 */

/* Where nothing can be moved to bad/, what is damaged stays and keeps nobody from the rest; its
 * number is not given to another file. */
static void test_there_is_no_bad_directory(void **state)
{
    (void)state;
    struct log_dir d;
    make_dir(&d);
    add_segment(&d, (struct plan){.file = 2, .run_seq = 1, .first = 11, .last = 20});
    write_at(&d, name_of(3), 0, "no segment", 10);
    write_at(&d, "bad", 0, "no directory", 12);
    add_state(&d, 11, 21);
    for (int i = 0; i < 2; i++) {
        struct mm_spool *s = start(&d);
        assert_int_equal(mm_spool_found(s)->n_bad_files, 1);
        assert_true(exists(&d, name_of(3)));
        assert_true(exists(&d, name_of(4)));
        assert_holds(s, 11, 20);
        mm_spool_close(s);
    }
    remove_dir(&d);
}

/* --- opening ------------------------------------------------------------------------------------
 */

static void test_a_segment_cannot_be_opened(void **state)
{
    (void)state;
    struct log_dir d;
    struct mm_spool *s;
    char errstr[512];
    make_dir(&d);
    add_segment(&d, (struct plan){.file = 1, .run_seq = 1, .first = 1, .last = 10});
    add_segment(&d, (struct plan){.file = 2, .run_seq = 1, .first = 11, .last = 20});
    add_state(&d, 1, 21);
    /* The process lacks something: that says nothing of the file, and all stays as it is. */
    fail_opens(EMFILE, 0, 1);
    assert_int_equal(try_start(&d, &s, errstr), MM_EIO);
    assert_non_null(strstr(errstr, "a segment cannot be opened: Too many open files"));
    assert_true(exists(&d, name_of(1)));
    /* The disk does not give it at once. */
    fail_opens(EIO, 0, 3);
    s = start(&d);
    assert_int_equal(n_bad_opens, 0);
    assert_int_equal(mm_spool_found(s)->n_bad_files, 0);
    assert_holds(s, 1, 20);
    mm_spool_close(s);
    /* It is a device without a driver. */
    fail_opens(ENODEV, 0, 1);
    assert_first_is_set_aside(&d);
    remove_dir(&d);
}

/* Somebody deletes a file just when it is looked at. */
static void test_a_segment_goes_during_the_start(void **state)
{
    (void)state;
    struct log_dir d;
    make_dir(&d);
    add_segment(&d, (struct plan){.file = 1, .run_seq = 1, .first = 1, .last = 10});
    add_segment(&d, (struct plan){.file = 2, .run_seq = 1, .first = 11, .last = 20});
    add_state(&d, 1, 21);
    fail_opens(ENOENT, 0, 1);
    struct mm_spool *s = start(&d);
    assert_int_equal(mm_spool_found(s)->n_records, 20);
    assert_holds(s, 11, 20);
    mm_spool_finish(mm_spool_reader(s, 0), NULL, 10, 0);
    struct mm_spool_stats stats;
    mm_spool_stats(s, &stats);
    assert_int_equal(stats.n_lost, 10);
    mm_spool_close(s);
    remove_dir(&d);
}

/* --- gaps ---------------------------------------------------------------------------------------
 */

/* Damage this record of a segment, which begins with record first. */
static void break_record(const struct log_dir *d, uint64_t file, uint64_t first, uint64_t seq)
{
    char topic[32];
    char payload[64];
    uint64_t at = MM_LAYOUT_HEADER_LEN;
    for (uint64_t i = first; i < seq; i++) {
        const struct mm_record r = record_of(i, topic, payload);
        at += mm_record_size(r.topic_len, r.payload_len, r.props_len);
    }
    flip(d, name_of(file), at + MM_RECORD_HEADER_LEN, 1);
}

/* More damaged places than are kept apart: what is lost is counted to the last record all the same,
 * with STATE and without. */
static void test_many_damaged_records_are_counted(void **state)
{
    (void)state;
    for (int with_state = 0; with_state < 2; with_state++) {
        struct log_dir d;
        struct mm_record r;
        struct mm_spool_pos pos;
        struct mm_spool_stats stats;
        make_dir(&d);
        add_segment(&d,
                    (struct plan){.file = 1, .run_seq = 1, .first = 1, .last = 50, .sealed = true});
        add_segment(
            &d, (struct plan){.file = 2, .run_seq = 1, .first = 51, .last = 100, .sealed = true});
        if (with_state == 1) {
            add_state(&d, 1, 101);
        }
        for (uint64_t seq = 2; seq <= 100; seq += 2) {
            break_record(&d, seq <= 50 ? 1 : 2, seq <= 50 ? 1 : 51, seq);
        }
        struct mm_spool *s = start(&d);
        assert_int_equal(mm_spool_found(s)->n_records, 100);
        for (uint64_t seq = 1; seq < 100; seq += 2) {
            assert_next(s, seq, &pos);
        }
        assert_int_equal(mm_spool_next(mm_spool_reader(s, 0), SCAN, &r, &pos), MM_EAGAIN);
        mm_spool_finish(mm_spool_reader(s, 0), NULL, 50, 0);
        mm_spool_stats(s, &stats);
        assert_int_equal(stats.n_lost, 50);
        assert_int_equal(mm_spool_to_take(s), 50);
        mm_spool_close(s);
        remove_dir(&d);
    }
}

/* A damaged record counts as lost when all before it is finished, and once. */
static void test_a_gap_counts_when_it_is_passed(void **state)
{
    (void)state;
    struct log_dir d;
    struct mm_spool_pos pos[11];
    make_dir(&d);
    add_segment(&d, (struct plan){.file = 1, .run_seq = 1, .first = 1, .last = 10, .sealed = true});
    break_record(&d, 1, 1, 4);
    break_record(&d, 1, 1, 8);
    struct mm_spool *s = start(&d);
    struct mm_spool_reader *rd = mm_spool_reader(s, 0);
    for (uint64_t seq = 1; seq <= 10; seq++) {
        if (seq != 4 && seq != 8) {
            assert_next(s, seq, &pos[seq]);
        }
    }
    static const struct
    {
        uint64_t seq; /* all before is finished */
        uint64_t n_finished;
        uint64_t n_lost;
    } steps[] = {{3, 2, 0}, {6, 4, 1}, {7, 5, 1}, {9, 6, 2}, {10, 7, 2}};
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        struct mm_spool_stats stats;
        mm_spool_finish(rd, &pos[steps[i].seq], steps[i].n_finished, 0);
        mm_spool_stats(s, &stats);
        assert_int_equal(stats.n_lost, steps[i].n_lost);
    }
    mm_spool_close(s);
    remove_dir(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_seal_that_cannot_be),
        cmocka_unit_test(test_a_header_that_cannot_be),
        cmocka_unit_test(test_a_newer_version_that_is_found_late),
        cmocka_unit_test(test_a_state_of_a_newer_version),
        cmocka_unit_test(test_the_only_record_is_damaged),
        cmocka_unit_test(test_whether_there_was_a_record_cannot_be_seen),
        cmocka_unit_test(test_no_record_of_a_segment_can_be_read),
        cmocka_unit_test(test_there_is_no_bad_directory),
        cmocka_unit_test(test_a_segment_cannot_be_opened),
        cmocka_unit_test(test_a_segment_goes_during_the_start),
        cmocka_unit_test(test_many_damaged_records_are_counted),
        cmocka_unit_test(test_a_gap_counts_when_it_is_passed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
