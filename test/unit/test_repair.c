#include "made_log.h"
#include "mm_repair.h"
#include "mm_spool.h"

#include <dirent.h>
#include <sys/file.h>

static void count_action(void *arg, const char *file, const char *what, int err)
{
    uint64_t *n = arg;
    assert_true(strlen(file) > 0);
    assert_true(strlen(what) > 0);
    assert_int_equal(err, 0);
    (*n)++;
}

/* Returns the number of things mended. */
static uint64_t repair(const struct log_dir *d, bool rewrite, bool dry_run)
{
    uint64_t n = 0;
    struct mm_repair_options opts = {
        .rewrite = rewrite, .dry_run = dry_run, .on_action = count_action, .arg = &n};
    struct mm_repair_result result;
    char errstr[256] = "";
    int err = mm_repair(d->path, &opts, &result, errstr, sizeof errstr);
    assert_string_equal(errstr, "");
    assert_int_equal(err, 0);
    assert_int_equal(result.n_failed, 0);
    assert_int_equal(result.n_actions, n);
    return n;
}

static bool exists(const struct log_dir *d, const char *name)
{
    struct stat st;
    return fstatat(d->fd, name, &st, 0) == 0;
}

static void assert_clean(const struct log_dir *d, uint64_t without)
{
    struct told t;
    look(d, &t);
    if (t.verdict.n_damages > 0) {
        fail_msg("%s in %s: %s", mm_inspect_kind_name(t.last.kind), t.file, t.text);
    }
    assert_seqs(&t, 1, 30, without);
    assert_int_equal(t.verdict.n_given_up, without == 0 ? 0 : 1);
    assert_int_equal(repair(d, true, false), 0); /* there is nothing more to do */
}

/* A checksum over names and contents of all files but LOCK. */
static uint32_t sum_files(const struct log_dir *d)
{
    static uint8_t bytes[4 * SEGMENT_LEN];
    uint32_t sum = 0;
    DIR *dir = fdopendir(openat(d->fd, ".", O_RDONLY | O_DIRECTORY));
    assert_non_null(dir);
    for (struct dirent *e; (e = readdir(dir)) != NULL;) {
        struct stat st;
        assert_int_equal(fstatat(d->fd, e->d_name, &st, 0), 0);
        if (S_ISREG(st.st_mode) && strcmp(e->d_name, "LOCK") != 0) {
            size_t len = read_file(d, e->d_name, bytes, sizeof bytes);
            uint32_t one = mm_crc32c(0, e->d_name, strlen(e->d_name));
            sum += mm_crc32c(one, bytes, len); /* in any order */
        }
    }
    closedir(dir);
    return sum;
}

static void test_leaves_a_good_log_alone(void **arg)
{
    (void)arg;
    struct log_dir d;
    make_dir(&d);
    add_log(&d);
    uint32_t sum = sum_files(&d);
    assert_int_equal(repair(&d, true, false), 0);
    assert_int_equal(sum_files(&d), sum);
    assert_false(exists(&d, "bad"));
    remove_dir(&d);
}

/* --- each byte ------------------------------------------------------------------------------- */

/* Change a byte, repair, and have all that was there before but, at most, one record. */
static void check_byte(const char *name_given, uint64_t offset, uint64_t *n_lost)
{
    struct log_dir d;
    struct told before;
    struct told after;
    char name[24];
    snprintf(name, sizeof name, "%s", name_given); /* which may be of name_of() */
    make_dir(&d);
    add_log(&d);
    flip(&d, name, offset, (uint8_t)(1u << offset % 8));
    look(&d, &before);

    uint32_t sum = sum_files(&d);
    uint64_t n_planned = repair(&d, false, true);
    assert_int_equal(sum_files(&d), sum);
    assert_int_equal(repair(&d, false, false), n_planned);
    look(&d, &after);
    assert_int_equal(after.n_seqs, before.n_seqs);
    assert_int_equal(after.verdict.n_damages,
                     before.n[MM_INSPECT_BYTES] + before.n[MM_INSPECT_MISSING]);
    assert_int_equal(after.verdict.n_missing, before.verdict.n_missing);
    assert_int_equal(repair(&d, false, false), 0);

    n_planned = repair(&d, true, true);
    assert_int_equal(repair(&d, true, false), n_planned);
    uint64_t lost = before.verdict.n_missing > 0 ? before.last.first_seq : 0;
    assert_clean(&d, lost);
    assert_int_equal(exists(&d, "bad"), before.n[MM_INSPECT_BYTES] > 0);
    *n_lost += lost != 0;
    remove_dir(&d);
}

static void test_mends_each_changed_byte(void **arg)
{
    (void)arg;
    uint64_t n_lost = 0;
    for (uint64_t file = 1; file <= 4; file++) {
        for (uint64_t offset = 0; offset < MM_LAYOUT_HEADER_LEN; offset += 23) {
            check_byte(name_of(file), offset, &n_lost);
        }
        assert_int_equal(n_lost, 0);
    }
    for (uint64_t offset = 0; offset < UINT64_C(2) * MM_LAYOUT_STATE_LEN; offset += 97) {
        check_byte("STATE", offset, &n_lost);
    }
    assert_int_equal(n_lost, 0);
    for (uint64_t file = 1; file <= 3; file++) {
        for (uint64_t offset = 0; offset < 600; offset += 5) {
            check_byte(name_of(file), MM_LAYOUT_HEADER_LEN + offset, &n_lost);
        }
    }
    assert_true(n_lost > 100);
    check_byte(name_of(4), MM_LAYOUT_HEADER_LEN, &n_lost);
}

/* --- what cannot be mended ------------------------------------------------------------------- */

static void test_sets_aside_what_has_no_header(void **arg)
{
    (void)arg;
    struct log_dir d;
    struct told t;
    uint8_t before[SEGMENT_LEN];
    uint8_t after[SEGMENT_LEN];
    make_dir(&d);
    add_log(&d);
    add_state(&d, 1, 31);
    flip(&d, name_of(2), 20, 1);
    flip(&d, name_of(2), 2068, 1);
    read_file(&d, name_of(2), before, sizeof before);
    assert_int_equal(repair(&d, false, false), 1);
    assert_false(exists(&d, name_of(2)));
    read_file(&d, "bad/0000000000000002.seg", after, sizeof after);
    assert_memory_equal(before, after, sizeof before);
    look(&d, &t);
    assert_int_equal(t.n[MM_INSPECT_MISSING], 1);
    assert_int_equal(t.verdict.n_missing, 10);
    assert_int_equal(t.verdict.n_damages, 1);
    /* Which numbers were in it is not known for sure: the next owner is to leave room for them. */
    struct mm_inspect *in = open_log(&d);
    static const uint8_t unknown[16];
    assert_false(mm_inspect_info(in)->state.clean);
    assert_memory_equal(mm_inspect_info(in)->state.boot, unknown, sizeof unknown);
    assert_int_equal(mm_inspect_info(in)->state.next_seq, 31);
    mm_inspect_close(in);
    remove_dir(&d);
}

/* Without STATE, too, it is the stranger that goes, and not what it stands among. */
static void test_sets_aside_a_stranger_alone(void **arg)
{
    (void)arg;
    struct log_dir d;
    make_dir(&d);
    add_log(&d);
    struct told t;
    assert_int_equal(unlinkat(d.fd, "STATE", 0), 0);
    assert_int_equal(unlinkat(d.fd, name_of(1), 0), 0);
    add_stranger(&d, 8, 1, 5);
    assert_int_equal(repair(&d, false, false), 2);
    assert_true(exists(&d, "bad/0000000000000008.seg"));
    look(&d, &t);
    assert_int_equal(t.verdict.n_damages, 0);
    assert_seqs(&t, 11, 30, 0);
    remove_dir(&d);
}

static void test_sets_aside_what_has_no_record(void **arg)
{
    (void)arg;
    struct log_dir d;
    struct told t;
    uint8_t junk[SEGMENT_LEN - MM_LAYOUT_HEADER_LEN];
    make_dir(&d);
    add_log(&d);
    add_state(&d, 1, 31);
    memset(junk, 0xFF, sizeof junk);
    write_at(&d, name_of(1), MM_LAYOUT_HEADER_LEN, junk, sizeof junk);
    assert_int_equal(repair(&d, false, false), 0);
    assert_int_equal(repair(&d, true, false), 1);
    assert_false(exists(&d, name_of(1)));
    assert_true(exists(&d, "bad/0000000000000001.seg"));
    look(&d, &t);
    assert_int_equal(t.verdict.n_missing, 10);
    remove_dir(&d);
}

static void test_seals_what_was_cut_short(void **arg)
{
    (void)arg;
    struct log_dir d;
    make_dir(&d);
    add_log(&d);
    struct plan p = {.file = 3, .first = 21, .last = 30};
    uint8_t bytes[SEGMENT_LEN];
    size_t end = encode_segment(bytes, &p);
    cut_file(&d, name_of(3), (off_t)end);
    cut_file(&d, name_of(4), 5000);
    assert_int_equal(repair(&d, false, false), 2);
    assert_true(exists(&d, "bad/0000000000000004.seg"));
    assert_clean(&d, 0);
    remove_dir(&d);
}

/* The reader of a real log finds what is there. */
static void check_with_spool(const struct log_dir *d, uint64_t first, uint64_t last)
{
    struct mm_spool *spool;
    char errstr[256] = "";
    struct mm_spool_options opts = {.max_bytes = 1u << 20,
                                    .segment_bytes = 32768,
                                    .n_readers = 1,
                                    .manual = true,
                                    .dir = d->path,
                                    .min_free = 0};
    int err = mm_spool_open(&opts, &spool, errstr, sizeof errstr);
    assert_string_equal(errstr, "");
    assert_int_equal(err, 0);
    assert_string_equal(mm_spool_uuid(spool), UUID_TEXT);
    assert_int_equal(mm_spool_found(spool)->n_records, last - first + 1);
    struct mm_spool_reader *rd = mm_spool_reader(spool, 0);
    struct mm_record rec;
    struct mm_spool_pos pos;
    for (uint64_t seq = first; seq <= last; seq++) {
        assert_int_equal(mm_spool_next(rd, 1000, &rec, &pos), 0);
        assert_int_equal(rec.seq, seq);
    }
    assert_int_equal(mm_spool_next(rd, 1000, &rec, &pos), MM_EAGAIN);
    mm_spool_close(spool);
}

static void test_rebuilds_state(void **arg)
{
    (void)arg;
    static const uint8_t junk[2 * MM_LAYOUT_STATE_LEN] = {0xFF, [MM_LAYOUT_STATE_LEN] = 0xFF};
    for (int way = 0; way < 3; way++) {
        struct log_dir d;
        make_dir(&d);
        add_log(&d);
        if (way == 0) {
            write_at(&d, "STATE", 0, junk, sizeof junk);
        } else if (way == 1) {
            cut_file(&d, "STATE", 0);
        } else {
            assert_int_equal(unlinkat(d.fd, "STATE", 0), 0);
        }
        assert_int_equal(repair(&d, false, false), 1);
        assert_clean(&d, 0);
        struct mm_inspect *in = open_log(&d);
        assert_int_equal(mm_inspect_info(in)->n_pending, 30);
        assert_false(mm_inspect_info(in)->state.clean);
        mm_inspect_close(in);
        check_with_spool(&d, 1, 30);
        remove_dir(&d);
    }
}

static void test_mends_a_state_without_records(void **arg)
{
    (void)arg;
    struct log_dir d;
    struct told t;
    make_dir(&d);
    write_at(&d, "STATE", 0, "junk", 4);
    assert_int_equal(repair(&d, false, false), 1);
    look(&d, &t);
    assert_int_equal(t.verdict.n_damages, 0);
    remove_dir(&d);
}

/* A rewritten log serves as any other. */
static void test_a_log_lives_on_after_it(void **arg)
{
    (void)arg;
    struct log_dir d;
    make_dir(&d);
    add_log(&d);
    flip(&d, name_of(2), MM_LAYOUT_HEADER_LEN + 44, 1); /* in the body of record 11, finished */
    assert_int_equal(repair(&d, true, false), 2);
    check_with_spool(&d, 12, 30);
    remove_dir(&d);
}

/* --- what is not to be touched --------------------------------------------------------------- */

static void check_refused(const struct log_dir *d, int expected, const char *word)
{
    struct mm_repair_options opts = {.rewrite = true};
    struct mm_repair_result result;
    char errstr[256] = "";
    uint32_t sum = sum_files(d);
    assert_int_equal(mm_repair(d->path, &opts, &result, errstr, sizeof errstr), expected);
    assert_non_null(strstr(errstr, d->path));
    assert_non_null(strstr(errstr, word));
    assert_int_equal(sum_files(d), sum);
    assert_int_equal(result.n_actions, 0);
}

static void test_keeps_off_what_is_in_use(void **arg)
{
    (void)arg;
    struct log_dir d;
    make_dir(&d);
    add_log(&d);
    flip(&d, name_of(2), 20, 1);
    int fd = openat(d.fd, "LOCK", O_RDWR);
    assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), 0);
    check_refused(&d, MM_EBUSY, "in use");
    assert_int_equal(repair(&d, false, true), 1); /* to look at it is allowed */
    close(fd);
    assert_int_equal(repair(&d, false, false), 1);
    remove_dir(&d);
}

static void test_keeps_off_a_newer_version(void **arg)
{
    (void)arg;
    struct log_dir d;
    uint8_t slot[MM_LAYOUT_STATE_LEN];
    make_dir(&d);
    add_log(&d);
    flip(&d, name_of(2), 20, 1);
    struct mm_layout_state state = state_of(1, 31);
    mm_layout_encode_state(slot, &state);
    slot[8] = MM_LAYOUT_VERSION + 1;
    uint32_t crc = mm_crc32c(0, slot, sizeof slot - 4);
    memcpy(slot + sizeof slot - 4, &crc, sizeof crc);
    write_at(&d, "STATE", 0, slot, sizeof slot);
    check_refused(&d, MM_EVERSION, "newer version");
    remove_dir(&d);
}

static void test_makes_nothing_where_nothing_is(void **arg)
{
    (void)arg;
    struct log_dir d;
    make_dir(&d);
    check_refused(&d, MM_EINVAL, "no spool");
    assert_false(exists(&d, "LOCK"));
    assert_int_equal(rmdir(d.path), 0);
    check_refused(&d, MM_EINVAL, "No such file");
    assert_int_equal(mkdir(d.path, 0700), 0);
    remove_dir(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_leaves_a_good_log_alone),
        cmocka_unit_test(test_mends_each_changed_byte),
        cmocka_unit_test(test_sets_aside_what_has_no_header),
        cmocka_unit_test(test_sets_aside_a_stranger_alone),
        cmocka_unit_test(test_sets_aside_what_has_no_record),
        cmocka_unit_test(test_seals_what_was_cut_short),
        cmocka_unit_test(test_rebuilds_state),
        cmocka_unit_test(test_mends_a_state_without_records),
        cmocka_unit_test(test_a_log_lives_on_after_it),
        cmocka_unit_test(test_keeps_off_what_is_in_use),
        cmocka_unit_test(test_keeps_off_a_newer_version),
        cmocka_unit_test(test_makes_nothing_where_nothing_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
