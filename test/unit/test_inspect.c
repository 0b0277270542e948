#include "made_log.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/file.h>
#include <sys/mman.h>

/* --- a good log ------------------------------------------------------------------------------ */

static void test_sees_all_there_is(void **arg)
{
    (void)arg;
    struct log_dir d;
    make_dir(&d);
    add_log(&d);
    struct mm_inspect *in = open_log(&d);
    const struct mm_inspect_info *info = mm_inspect_info(in);
    assert_string_equal(info->uuid, UUID_TEXT);
    assert_string_equal(info->lock_text, "pid 1 host h started t");
    assert_false(info->held);
    assert_int_equal(info->slot, 1);
    assert_int_equal(info->state.next_seq, 31);
    assert_int_equal(info->first_seq, 1);
    assert_int_equal(info->last_seq, 30);
    assert_int_equal(info->n_records, 30);
    assert_int_equal(info->n_pending, 19);
    assert_int_equal(info->n_bytes, 4 * SEGMENT_LEN);
    assert_int_equal(info->n_bad_files, 0);
    assert_int_equal(mm_inspect_n_segments(in), 4);
    static const enum mm_inspect_segment_state states[] = {MM_INSPECT_SEALED, MM_INSPECT_SEALED,
                                                           MM_INSPECT_OPEN, MM_INSPECT_SPARE};
    for (size_t i = 0; i < 4; i++) {
        const struct mm_inspect_segment *seg = mm_inspect_segment(in, i);
        assert_string_equal(seg->name, name_of(i + 1));
        assert_int_equal(seg->state, states[i]);
        assert_int_equal(seg->first_seq, i < 3 ? i * 10 + 1 : 0);
        assert_int_equal(seg->last_seq, i < 3 ? i * 10 + 10 : 0);
        assert_int_equal(seg->n_records, i < 3 ? 10 : 0);
        assert_int_equal(seg->first_ms, i < 3 ? 1700000000001u + i * 10 : 0);
    }
    assert_true(mm_inspect_finished(in, 11, 0));
    assert_false(mm_inspect_finished(in, 12, 0xFFFFFFFFu));
    uint64_t seq;
    uint64_t time_ms;
    assert_int_equal(mm_inspect_oldest(in, &seq, &time_ms), 0);
    assert_int_equal(seq, 12);
    assert_int_equal(time_ms, 1700000000012u);
    mm_inspect_close(in);

    struct told t;
    look(&d, &t);
    assert_int_equal(t.verdict.n_damages, 0);
    assert_int_equal(t.verdict.n_missing, 0);
    assert_seqs(&t, 1, 30, 0);
    remove_dir(&d);
}

static void test_reads_a_part(void **arg)
{
    (void)arg;
    static const struct
    {
        size_t segment;
        uint64_t from, to;
        uint64_t first, last; /* wanted; 0: none */
    } cases[] = {
        {MM_INSPECT_ALL, 0, 0, 1, 30},
        {MM_INSPECT_ALL, 15, 0, 15, 30},
        {MM_INSPECT_ALL, 0, 15, 1, 15},
        {MM_INSPECT_ALL, 11, 20, 11, 20},
        {MM_INSPECT_ALL, 10, 11, 10, 11},
        {MM_INSPECT_ALL, 30, 30, 30, 30},
        {MM_INSPECT_ALL, 31, 0, 0, 0},
        {MM_INSPECT_ALL, 20, 19, 0, 0},
        {1, 0, 0, 11, 20},
        {1, 13, 17, 13, 17},
        {2, 0, 0, 21, 30},
        {3, 0, 0, 0, 0},
        {0, 11, 0, 0, 0},
    };
    struct log_dir d;
    make_dir(&d);
    add_log(&d);
    struct mm_inspect *in = open_log(&d);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct told t = {0};
        struct mm_inspect_reader_options opts = {.segment = cases[i].segment,
                                                 .from_seq = cases[i].from,
                                                 .to_seq = cases[i].to,
                                                 .on_damage = note_damage,
                                                 .arg = &t};
        struct mm_inspect_reader *rd;
        struct mm_inspect_place place;
        struct mm_record rec;
        assert_int_equal(mm_inspect_reader_new(in, &opts, &rd), 0);
        uint64_t next = cases[i].first;
        int err;
        while ((err = mm_inspect_next(rd, &rec, &place)) == 0) {
            assert_int_equal(rec.seq, next);
            assert_int_equal(place.segment, (next - 1) / 10);
            assert_int_equal(place.size,
                             mm_record_size(rec.topic_len, rec.payload_len, rec.props_len));
            next++;
        }
        assert_int_equal(err, MM_EAGAIN);
        assert_int_equal(mm_inspect_next(rd, &rec, &place), MM_EAGAIN);
        assert_int_equal(next, cases[i].first == 0 ? 0 : cases[i].last + 1);
        for (size_t k = 0; k < MM_INSPECT_N_KINDS; k++) {
            assert_int_equal(t.n[k], 0);
        }
        uint64_t done;
        uint64_t total;
        mm_inspect_progress(rd, &done, &total);
        assert_true(done <= total);
        mm_inspect_reader_free(rd);
    }
    mm_inspect_close(in);
    remove_dir(&d);
}

static void test_follows_a_writer(void **arg)
{
    (void)arg;
    struct log_dir d;
    make_dir(&d);
    uint8_t bytes[SEGMENT_LEN];
    struct plan p = {.file = 1, .run_seq = 1, .first = 1, .last = 1};
    add_segment(&d, p);
    struct mm_inspect *in = open_log(&d);
    struct told t = {0};
    struct mm_inspect_reader_options opts = {
        .segment = MM_INSPECT_ALL, .on_damage = note_damage, .arg = &t};
    struct mm_inspect_reader *rd;
    struct mm_inspect_place place;
    struct mm_record rec;
    assert_int_equal(mm_inspect_reader_new(in, &opts, &rd), 0);
    for (p.last = 1; p.last <= 20; p.last++) {
        assert_int_equal(mm_inspect_next(rd, &rec, &place), p.last == 1 ? 0 : MM_EAGAIN);
        if (p.last > 1) {
            /* All of the record but its commit word. */
            encode_segment(bytes, &p);
            uint32_t zero = 0;
            uint8_t word[4];
            memcpy(word, bytes + place.offset + place.size, sizeof word);
            memcpy(bytes + place.offset + place.size, &zero, sizeof zero);
            write_at(&d, name_of(1), 0, bytes, sizeof bytes);
            assert_int_equal(mm_inspect_next(rd, &rec, &place), MM_EAGAIN);
            write_at(&d, name_of(1), place.offset + place.size, word, sizeof word);
            assert_int_equal(mm_inspect_next(rd, &rec, &place), 0);
        }
        assert_int_equal(rec.seq, p.last);
    }
    for (size_t k = 0; k < MM_INSPECT_N_KINDS; k++) {
        assert_int_equal(t.n[k], 0);
    }
    mm_inspect_reader_free(rd);
    mm_inspect_close(in);
    remove_dir(&d);
}

/* --- whose it is ----------------------------------------------------------------------------- */

static void test_sees_who_holds_it(void **arg)
{
    (void)arg;
    struct log_dir d;
    make_dir(&d);
    add_log(&d);
    int fd = openat(d.fd, "LOCK", O_RDWR);
    assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), 0);
    struct mm_inspect *in = open_log(&d);
    assert_true(mm_inspect_info(in)->held);
    assert_int_equal(mm_inspect_info(in)->holder, getpid());
    mm_inspect_close(in);
    close(fd);
    in = open_log(&d);
    assert_false(mm_inspect_info(in)->held);
    assert_int_equal(mm_inspect_info(in)->holder, 0);
    mm_inspect_close(in);
    remove_dir(&d);
}

struct lookers
{
    const struct log_dir *d;
    _Atomic bool stop;
};

static void *look_on(void *arg)
{
    struct lookers *l = arg;
    while (!atomic_load(&l->stop)) {
        char errstr[256];
        struct mm_inspect *in;
        if (mm_inspect_open(l->d->path, &in, errstr, sizeof errstr) == 0) {
            mm_inspect_close(in);
        }
    }
    return NULL;
}

static void test_refuses_no_owner(void **arg)
{
    (void)arg;
    struct log_dir d;
    make_dir(&d);
    add_log(&d);
    struct lookers l = {.d = &d};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, look_on, &l), 0);
    for (int i = 0; i < 2000; i++) {
        int fd = openat(d.fd, "LOCK", O_RDWR);
        assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), 0);
        close(fd);
    }
    atomic_store(&l.stop, true);
    pthread_join(thread, NULL);
    remove_dir(&d);
}

static void test_refuses_what_is_no_log(void **arg)
{
    (void)arg;
    struct log_dir d;
    struct mm_inspect *in;
    char errstr[256];
    make_dir(&d);
    assert_int_equal(mm_inspect_open(d.path, &in, errstr, sizeof errstr), MM_EINVAL);
    assert_null(in);
    assert_non_null(strstr(errstr, d.path));
    assert_non_null(strstr(errstr, "no spool"));

    write_at(&d, "LOCK", 0, "", 0);
    assert_int_equal(mm_inspect_open(d.path, &in, errstr, sizeof errstr), 0);
    assert_string_equal(mm_inspect_info(in)->uuid, "");
    mm_inspect_close(in);
    struct told t;
    look(&d, &t);
    assert_int_equal(t.verdict.n_damages, 0);

    char path[96];
    snprintf(path, sizeof path, "%s/LOCK", d.path);
    assert_int_equal(mm_inspect_open(path, &in, errstr, sizeof errstr), MM_EINVAL);
    assert_non_null(strstr(errstr, path));
    snprintf(path, sizeof path, "%s/none", d.path);
    assert_int_equal(mm_inspect_open(path, &in, errstr, sizeof errstr), MM_EINVAL);
    assert_non_null(strstr(errstr, "No such file"));
    mm_inspect_close(NULL);
    mm_inspect_reader_free(NULL);
    remove_dir(&d);
}

static void test_lists_logs_below(void **arg)
{
    (void)arg;
    struct log_dir d;
    char **paths;
    size_t n;
    make_dir(&d);
    assert_int_equal(mm_inspect_list_logs(d.path, &paths, &n), 0);
    assert_int_equal(n, 0);
    free(paths);
    assert_int_equal(mkdirat(d.fd, "parked", 0700), 0);
    assert_int_equal(mkdirat(d.fd, "parked/b", 0700), 0);
    assert_int_equal(mkdirat(d.fd, "parked/a", 0700), 0);
    /* By other routes: the highest number is the oldest, and to be sent first. */
    assert_int_equal(mkdirat(d.fd, "parked/a~9", 0700), 0);
    assert_int_equal(mkdirat(d.fd, "parked/b~10", 0700), 0);
    assert_int_equal(mkdirat(d.fd, "parked/b~9", 0700), 0);
    assert_int_equal(mkdirat(d.fd, "bad", 0700), 0);
    write_at(&d, "parked/file", 0, "x", 1);
    write_at(&d, "bad/0000000000000009.seg", 0, "12345", 5);
    assert_int_equal(mkdirat(d.fd, "dead", 0700), 0);
    write_at(&d, "LOCK", 0, "", 0);
    assert_int_equal(mm_inspect_list_logs(d.path, &paths, &n), 0);
    static const char *const expected[] = {"parked/b~10", "parked/a~9", "parked/b~9",
                                           "parked/a",    "parked/b",   "dead"};
    assert_int_equal(n, 6);
    for (size_t i = 0; i < n; i++) {
        assert_string_equal(paths[i], expected[i]);
    }
    free(paths);
    struct mm_inspect *in = open_log(&d);
    assert_int_equal(mm_inspect_info(in)->n_bad_files, 1);
    assert_int_equal(mm_inspect_info(in)->bad_bytes, 5);
    mm_inspect_close(in);
    remove_dir(&d);
}

/* Who opens all that is listed finds out. */
static void test_lists_what_is_no_directory(void **arg)
{
    (void)arg;
    struct log_dir d;
    char **paths;
    size_t n;
    make_dir(&d);
    write_at(&d, "parked", 0, "x", 1);
    write_at(&d, "dead", 0, "x", 1);
    assert_int_equal(mm_inspect_list_logs(d.path, &paths, &n), 0);
    assert_int_equal(n, 2);
    for (size_t i = 0; i < n; i++) {
        char path[96];
        char errstr[512];
        struct mm_inspect *in;
        assert_string_equal(paths[i], i == 0 ? "parked" : "dead");
        snprintf(path, sizeof path, "%s/%s", d.path, paths[i]);
        assert_int_equal(mm_inspect_open(path, &in, errstr, sizeof errstr), MM_EINVAL);
        assert_non_null(strstr(errstr, path));
    }
    free(paths);
    remove_dir(&d);
}

/* --- damage ---------------------------------------------------------------------------------- */

/* Bytes of the log that mean nothing, so that nobody misses them: the place for later records, but
 * for the word that would say that there is one. */
static bool is_meaningless(uint64_t file, uint64_t offset, const size_t end[5])
{
    bool sealed = file <= 2;
    return offset >= end[file] + (sealed ? 0 : 4);
}

static void check_changed(const struct log_dir *d,
                          const char *name,
                          uint64_t offset,
                          uint8_t mask,
                          bool meaningless)
{
    struct told t;
    flip(d, name, offset, mask);
    look(d, &t);
    flip(d, name, offset, mask);
    if (meaningless) {
        assert_int_equal(t.verdict.n_damages, 0);
        assert_seqs(&t, 1, 30, 0);
        return;
    }
    if (t.verdict.n_damages == 0) {
        fail_msg("byte %d of %s, mask %02x: not seen", (int)offset, name, mask);
    }
    assert_true(t.n_seqs >= 29);
    assert_int_equal(t.verdict.n_missing, 30 - t.n_seqs);
    bool has_name = strcmp(t.file, name) == 0 || t.n[MM_INSPECT_MISSING] > 0;
    assert_true(has_name);
}

static void test_sees_each_changed_byte(void **arg)
{
    (void)arg;
    struct log_dir d;
    struct told t;
    make_dir(&d);
    add_log(&d);
    size_t end[5] = {0};
    uint8_t bytes[SEGMENT_LEN];
    for (uint64_t file = 1; file <= 4; file++) {
        struct plan p = {.file = file, .run_seq = 1};
        if (file < 4) {
            p.first = file * 10 - 9;
            p.last = file * 10;
        }
        end[file] = encode_segment(bytes, &p);
        for (uint64_t offset = 0; offset < SEGMENT_LEN; offset++) {
            bool meaningless = is_meaningless(file, offset, end);
            if (meaningless && offset % 61 != 0) {
                continue; /* one byte is as another */
            }
            check_changed(&d, name_of(file), offset, (uint8_t)(1u << offset % 8), meaningless);
        }
    }
    for (uint64_t offset = 0; offset < UINT64_C(2) * MM_LAYOUT_STATE_LEN; offset += 7) {
        check_changed(&d, "STATE", offset, (uint8_t)(1u << offset % 8), false);
    }
    look(&d, &t); /* all is as it was */
    assert_int_equal(t.verdict.n_damages, 0);
    remove_dir(&d);
}

static void test_sees_each_record_that_is_lost(void **arg)
{
    (void)arg;
    struct log_dir d;
    make_dir(&d);
    add_log(&d);
    struct mm_inspect *in = open_log(&d);
    struct mm_inspect_reader_options all = {.segment = MM_INSPECT_ALL};
    struct mm_inspect_reader *rd;
    struct mm_inspect_place place;
    struct mm_record rec;
    assert_int_equal(mm_inspect_reader_new(in, &all, &rd), 0);
    while (mm_inspect_next(rd, &rec, &place) == 0) {
        uint64_t seq = rec.seq;
        /* In the body, the header, and the whole header, with and without a commit word. */
        for (int way = 0; way < 4; way++) {
            uint8_t before[256];
            uint8_t junk[256];
            const char *name = mm_inspect_segment(in, place.segment)->name;
            int fd = openat(d.fd, name, O_RDWR);
            assert_int_equal(pread(fd, before, place.size, (off_t)place.offset), place.size);
            memcpy(junk, before, place.size);
            switch (way) {
                case 0:
                    junk[MM_RECORD_HEADER_LEN] ^= 1;
                    break;
                case 1:
                    junk[8] ^= 1;
                    break;
                case 2:
                    memset(junk, 0xFF, place.size);
                    break;
                default:
                    memset(junk, 0, place.size);
            }
            assert_int_equal(pwrite(fd, junk, place.size, (off_t)place.offset), place.size);
            struct told t;
            look(&d, &t);
            assert_seqs(&t, 1, 30, seq);
            assert_int_equal(t.verdict.n_damages, 1);
            assert_int_equal(t.verdict.n_missing, 1);
            assert_int_equal(t.last.first_seq, seq);
            if (way < 3 || seq != 30) {
                assert_int_equal(t.n[MM_INSPECT_BYTES], 1);
                assert_string_equal(t.file, name);
                assert_int_equal(t.last.offset, place.offset);
                assert_true(t.last.len <= place.size);
            } else {
                assert_int_equal(t.n[MM_INSPECT_MISSING], 1); /* as STATE knows */
            }
            assert_int_equal(pwrite(fd, before, place.size, (off_t)place.offset), place.size);
            close(fd);
        }
    }
    mm_inspect_reader_free(rd);
    mm_inspect_close(in);
    remove_dir(&d);
}

static void test_sees_each_cut(void **arg)
{
    (void)arg;
    struct log_dir d;
    struct told t;
    make_dir(&d);
    add_log(&d);
    add_state(&d, 1, 31);
    for (uint64_t file = 1; file <= 4; file++) {
        uint8_t bytes[SEGMENT_LEN];
        struct plan p = {.file = file, .first = file * 10 - 9, .last = file * 10};
        size_t end = encode_segment(bytes, &p);
        assert_int_equal(read_file(&d, name_of(file), bytes, sizeof bytes), SEGMENT_LEN);
        for (off_t cut = 0; cut < SEGMENT_LEN; cut += cut % 128 == 0   ? 1
                                                      : cut % 128 == 1 ? 6
                                                                       : 121) {
            cut_file(&d, name_of(file), cut);
            look(&d, &t);
            write_at(&d, name_of(file), 0, bytes, sizeof bytes);
            /* What a seal has no need of may go, and the padding of the last record with it; an
             * empty file is one that is just being made. */
            bool harmless = file <= 2 ? cut > (off_t)end - MM_RECORD_ALIGN && t.n_seqs == 30
                                      : file == 4 && cut == 0;
            assert_int_equal(t.verdict.n_damages == 0, harmless);
            assert_true(t.n_seqs >= 20);
            assert_true(t.verdict.n_missing == 30 - t.n_seqs);
        }
    }
    uint8_t slots[2 * MM_LAYOUT_STATE_LEN];
    assert_int_equal(read_file(&d, "STATE", slots, sizeof slots), sizeof slots);
    for (off_t cut = 0; cut < (off_t)sizeof slots; cut += 101) {
        cut_file(&d, "STATE", cut);
        look(&d, &t);
        write_at(&d, "STATE", 0, slots, sizeof slots);
        assert_true(t.verdict.n_damages > 0);
        assert_int_equal(t.n[MM_INSPECT_STATE], cut < MM_LAYOUT_STATE_LEN);
        assert_seqs(&t, 1, 30, 0);
    }
    remove_dir(&d);
}

static void test_sees_segments_that_are_gone(void **arg)
{
    (void)arg;
    static const struct
    {
        uint64_t file;
        uint64_t low;
        uint64_t n_missing;
    } cases[] = {
        {1, 11, 0}, /* all in it is finished: it was given back */
        {1, 8, 3},  {1, 1, 10}, {2, 1, 10}, {3, 1, 10}, {4, 1, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct log_dir d;
        struct told t;
        make_dir(&d);
        add_log(&d);
        add_state(&d, cases[i].low, 31);
        assert_int_equal(unlinkat(d.fd, name_of(cases[i].file), 0), 0);
        look(&d, &t);
        assert_int_equal(t.verdict.n_missing, cases[i].n_missing);
        assert_int_equal(t.verdict.n_damages, cases[i].n_missing > 0);
        assert_int_equal(t.n[MM_INSPECT_MISSING], cases[i].n_missing > 0);
        remove_dir(&d);
    }
}

static void test_knows_a_jump_from_a_gap(void **arg)
{
    (void)arg;
    const uint64_t far = (UINT64_C(1) << 32) + 11;
    struct log_dir d;
    struct told t;
    make_dir(&d);
    add_segment(&d, (struct plan){.file = 1, .run_seq = 1, .first = 1, .last = 10});
    add_segment(&d, (struct plan){
                        .file = 2, .run_seq = far, .first = far, .last = far + 5, .sealed = true});
    add_state(&d, 1, far + 6);
    look(&d, &t);
    assert_int_equal(t.verdict.n_damages, 0);
    assert_int_equal(t.verdict.n_records, 16);

    /* STATE knew of two more when the power went. */
    assert_int_equal(unlinkat(d.fd, name_of(2), 0), 0);
    add_segment(&d,
                (struct plan){.file = 2, .run_seq = far + 2, .first = far + 2, .last = far + 5});
    look(&d, &t);
    assert_int_equal(t.n[MM_INSPECT_MISSING], 1);
    assert_int_equal(t.verdict.n_missing, 2);
    assert_int_equal(t.last.first_seq, 11);

    /* The same jump without records behind it. */
    assert_int_equal(unlinkat(d.fd, name_of(2), 0), 0);
    add_segment(&d, (struct plan){.file = 2, .run_seq = far});
    add_state(&d, 1, far);
    look(&d, &t);
    assert_int_equal(t.verdict.n_damages, 0);

    /* The first two of the new run are not there. */
    add_segment(&d,
                (struct plan){
                    .file = 2, .run_seq = far, .first = far + 2, .last = far + 5, .sealed = true});
    add_state(&d, 1, far + 6);
    look(&d, &t);
    assert_int_equal(t.n[MM_INSPECT_MISSING], 1);
    assert_int_equal(t.verdict.n_missing, 2);
    assert_int_equal(t.last.first_seq, far);
    remove_dir(&d);
}

static void test_sees_what_does_not_belong(void **arg)
{
    (void)arg;
    struct log_dir d;
    struct told t;
    uint8_t bytes[SEGMENT_LEN];
    struct plan p = {.file = 9, .run_seq = 1, .first = 21, .last = 25};
    make_dir(&d);
    add_log(&d);

    struct mm_layout_header h = {.file = 8, .run_seq = 1, .salt = 5, .size = SEGMENT_LEN};
    memset(bytes, 0, sizeof bytes);
    mm_layout_encode_header(bytes, &h);
    write_at(&d, name_of(8), 0, bytes, sizeof bytes);
    look(&d, &t);
    assert_int_equal(t.verdict.n_damages, 1);
    assert_int_equal(t.n[MM_INSPECT_FOREIGN], 1);
    assert_string_equal(t.file, name_of(8));

    memset(bytes, 0x55, sizeof bytes);
    write_at(&d, name_of(8), 0, bytes, sizeof bytes);
    look(&d, &t);
    assert_int_equal(t.verdict.n_damages, 1);
    assert_int_equal(t.n[MM_INSPECT_HEADER], 1);
    assert_seqs(&t, 1, 30, 0);

    memset(bytes, 0, sizeof bytes); /* one that is just being made */
    write_at(&d, name_of(8), 0, bytes, sizeof bytes);
    look(&d, &t);
    assert_int_equal(t.verdict.n_damages, 0);

    encode_segment(bytes, &p);
    write_at(&d, name_of(9), 0, bytes, sizeof bytes);
    memset(&t, 0, sizeof t);
    struct mm_inspect *in = open_log(&d);
    struct mm_inspect_verify_options opts = {.on_damage = note_damage, .arg = &t};
    assert_int_equal(mm_inspect_verify(in, &opts, &t.verdict), 0);
    assert_int_equal(t.verdict.n_damages, 1);
    assert_int_equal(t.n[MM_INSPECT_REPEATED], 1);
    assert_int_equal(t.verdict.n_missing, 0);
    mm_inspect_close(in);
    remove_dir(&d);
}

/* Without STATE the log is that of most segments, wherever a stranger stands among them. */
static void test_a_stranger_does_not_name_the_log(void **arg)
{
    (void)arg;
    struct log_dir d;
    struct told t;
    make_dir(&d);
    add_log(&d);
    assert_int_equal(unlinkat(d.fd, "STATE", 0), 0);
    assert_int_equal(unlinkat(d.fd, name_of(1), 0), 0);
    add_stranger(&d, 8, 1, 5);
    struct mm_inspect *in = open_log(&d);
    assert_string_equal(mm_inspect_info(in)->uuid, UUID_TEXT);
    mm_inspect_close(in);
    look(&d, &t);
    assert_int_equal(t.n[MM_INSPECT_FOREIGN], 1);
    assert_int_equal(t.n[MM_INSPECT_STATE], 1);
    assert_int_equal(t.verdict.n_damages, 2);
    assert_seqs(&t, 11, 30, 0);
    remove_dir(&d);
}

/* A file that no segment can be is not read through: it may be one large hole. */
static void test_a_huge_file_is_not_read(void **arg)
{
    (void)arg;
    struct log_dir d;
    struct told t;
    make_dir(&d);
    add_log(&d);
    write_at(&d, name_of(8), 0, "", 0);
    int fd = openat(d.fd, name_of(8), O_RDWR);
    assert_int_equal(ftruncate(fd, INT64_C(1) << 33), 0);
    close(fd);
    look(&d, &t);
    assert_int_equal(t.n[MM_INSPECT_HEADER], 1);
    assert_int_equal(t.verdict.n_damages, 1);
    assert_seqs(&t, 1, 30, 0);
    remove_dir(&d);
}

/* Who reads all there is, and no more than that, is told of what could not be read. */
static void test_a_reader_is_told_what_it_passes_over(void **arg)
{
    (void)arg;
    struct log_dir d;
    make_dir(&d);
    add_log(&d);
    add_state(&d, 4, 31);
    flip(&d, name_of(1), 20, 1);
    flip(&d, name_of(1), 2068, 1);
    struct told t = {0};
    struct mm_inspect *in = open_log(&d);
    struct mm_inspect_reader_options opts = {
        .segment = MM_INSPECT_ALL, .on_damage = note_damage, .arg = &t};
    struct mm_inspect_reader *rd;
    struct mm_inspect_place place;
    struct mm_record rec;
    mm_inspect_tell_unread(in, note_damage, &t);
    assert_int_equal(t.n[MM_INSPECT_HEADER], 1);
    assert_string_equal(t.file, name_of(1));
    assert_int_equal(mm_inspect_reader_new(in, &opts, &rd), 0);
    assert_int_equal(mm_inspect_next(rd, &rec, &place), 0);
    assert_int_equal(rec.seq, 11);
    assert_int_equal(t.n[MM_INSPECT_MISSING], 1);
    assert_int_equal(t.last.first_seq, 4);
    assert_int_equal(t.last.n_missing, 7);
    mm_inspect_reader_free(rd);
    mm_inspect_close(in);
    remove_dir(&d);
}

/* A copy of the header with the version of tomorrow. */
static void test_leaves_a_newer_version_alone(void **arg)
{
    (void)arg;
    struct log_dir d;
    struct told t;
    uint8_t bytes[SEGMENT_LEN];
    make_dir(&d);
    add_log(&d);
    add_state(&d, 11, 31);
    read_file(&d, name_of(2), bytes, sizeof bytes);
    bytes[8] = MM_LAYOUT_VERSION + 1;
    uint32_t crc = mm_crc32c(0, bytes, 124);
    memcpy(bytes + 124, &crc, sizeof crc);
    memcpy(bytes + 2048, bytes, 128);
    write_at(&d, name_of(2), 0, bytes, sizeof bytes);
    look(&d, &t);
    assert_int_equal(t.n[MM_INSPECT_VERSION], 1);
    assert_int_equal(t.n[MM_INSPECT_MISSING], 1);
    assert_int_equal(t.verdict.n_missing, 10);
    remove_dir(&d);
}

/* A seal that tells of fewer records than numbers has taken note of the loss. */
static void test_knows_what_was_given_up(void **arg)
{
    (void)arg;
    struct log_dir d;
    struct told t;
    uint8_t bytes[SEGMENT_LEN];
    make_dir(&d);
    struct plan p = {.file = 1, .run_seq = 1, .first = 3, .last = 8};
    size_t end = encode_segment(bytes, &p);
    struct mm_layout_seal seal = {
        .first_seq = 1, .last_seq = 10, .n_records = 6, .first_ms = 1, .end = end};
    mm_layout_encode_seal(bytes + MM_LAYOUT_SEAL_OFFSET, SALT_OF(1), &seal);
    write_at(&d, name_of(1), 0, bytes, sizeof bytes);
    add_state(&d, 1, 11);
    look(&d, &t);
    assert_int_equal(t.verdict.n_damages, 0);
    assert_int_equal(t.verdict.n_given_up, 4);

    seal.n_records = 7;
    mm_layout_encode_seal(bytes + MM_LAYOUT_SEAL_OFFSET, SALT_OF(1), &seal);
    write_at(&d, name_of(1), 0, bytes, sizeof bytes);
    look(&d, &t);
    assert_int_equal(t.verdict.n_damages, 1);
    assert_int_equal(t.verdict.n_missing, 4);
    assert_int_equal(t.verdict.n_given_up, 0);

    p.first = 1;
    p.last = 10;
    seal.end = encode_segment(bytes, &p);
    mm_layout_encode_seal(bytes + MM_LAYOUT_SEAL_OFFSET, SALT_OF(1), &seal);
    write_at(&d, name_of(1), 0, bytes, sizeof bytes);
    look(&d, &t);
    assert_int_equal(t.verdict.n_damages, 1);
    assert_int_equal(t.n[MM_INSPECT_SEAL_WRONG], 1);
    remove_dir(&d);
}

/* --- a disk that cannot be read -------------------------------------------------------------- */

static _Atomic int64_t bad_from = -1; /* offsets of any file at which reading fails */
static _Atomic int64_t bad_to = -1;

ssize_t __real_pread(int fd, void *dst, size_t len, off_t offset);
ssize_t __wrap_pread(int fd, void *dst, size_t len, off_t offset);

ssize_t __wrap_pread(int fd, void *dst, size_t len, off_t offset)
{
    int64_t from = atomic_load(&bad_from);
    if (from >= 0 && offset < atomic_load(&bad_to) && offset + (off_t)len > from) {
        if (offset >= from) {
            errno = EIO;
            return -1;
        }
        len = (size_t)(from - offset);
    }
    return __real_pread(fd, dst, len, offset);
}

static void test_reads_past_bad_blocks(void **arg)
{
    (void)arg;
    struct log_dir d;
    struct told t;
    struct plan p = {.file = 1, .run_seq = 1, .first = 1, .last = 40};
    uint8_t *bytes = calloc(1, (size_t)4 * SEGMENT_LEN);
    make_dir(&d);
    /* Records that reach over a few blocks. */
    struct mm_layout_header h = {
        .file = 1, .run_seq = 1, .salt = SALT_OF(1), .size = (uint64_t)4 * SEGMENT_LEN};
    memcpy(h.uuid, uuid, sizeof h.uuid);
    mm_layout_encode_header(bytes, &h);
    size_t at = MM_LAYOUT_HEADER_LEN;
    uint64_t n_good = 0;
    for (uint64_t seq = 1; seq <= p.last; seq++) {
        char topic[32];
        char payload[64];
        char pad[512];
        memset(pad, 'x', sizeof pad);
        struct mm_record r = record_of(seq, topic, payload);
        r.props = pad;
        r.props_len = sizeof pad;
        size_t size = (size_t)mm_record_size(r.topic_len, r.payload_len, r.props_len);
        mm_record_commit(bytes + at, mm_record_encode(bytes + at, h.salt, &r));
        n_good += at + size <= 12288 || at >= 16384;
        at += size;
    }
    write_at(&d, name_of(1), 0, bytes, (size_t)4 * SEGMENT_LEN);
    free(bytes);
    add_state(&d, 1, 41);
    atomic_store(&bad_from, 12288);
    atomic_store(&bad_to, 16384);
    look(&d, &t);
    atomic_store(&bad_from, -1);
    assert_int_equal(t.n_seqs, n_good);
    assert_int_equal(t.n[MM_INSPECT_UNREADABLE], 1);
    assert_int_equal(t.n[MM_INSPECT_BYTES], 1);
    assert_int_equal(t.verdict.n_missing, 40 - n_good);

    atomic_store(&bad_to, 4096);
    atomic_store(&bad_from, 0); /* nor STATE, so the log cannot be judged */
    char errstr[256];
    struct mm_inspect *in;
    assert_int_equal(mm_inspect_open(d.path, &in, errstr, sizeof errstr), MM_EIO);
    atomic_store(&bad_from, -1);
    assert_non_null(strstr(errstr, "Input/output error"));
    look(&d, &t);
    assert_int_equal(t.verdict.n_damages, 0);
    remove_dir(&d);
}

/* --- a writer at work ------------------------------------------------------------------------ */

#define WRITER_SEGMENT_LEN 65536
#define WRITER_KEEPS 4

struct writer
{
    const struct log_dir *d;
    uint64_t n_segments; /* to be written */
    _Atomic bool done;
};

static void write_state(const struct log_dir *d,
                        uint64_t generation,
                        uint64_t low,
                        uint64_t next_seq)
{
    uint8_t slot[MM_LAYOUT_STATE_LEN];
    struct mm_layout_state state = state_of(low, next_seq);
    state.clean = false;
    state.generation = generation;
    mm_layout_encode_state(slot, &state);
    write_at(d, "STATE", (generation & 1) * MM_LAYOUT_STATE_LEN, slot, sizeof slot);
}

/* Fill a mapped segment with records from seq on, seal it. Returns the next seq. */
static uint64_t fill_segment(const struct writer *w, uint64_t file, uint64_t seq)
{
    struct mm_layout_header h = {
        .file = file, .run_seq = 1, .salt = SALT_OF(file), .size = WRITER_SEGMENT_LEN};
    uint8_t page[MM_LAYOUT_HEADER_LEN];
    uint8_t seal_bytes[MM_LAYOUT_SEAL_LEN];
    memcpy(h.uuid, uuid, sizeof h.uuid);
    mm_layout_encode_header(page, &h);
    int fd = openat(w->d->fd, name_of(file), O_RDWR | O_CREAT | O_EXCL, 0600);
    if (fd < 0 || fallocate(fd, 0, 0, WRITER_SEGMENT_LEN) != 0 ||
        pwrite(fd, page, sizeof page, 0) != (ssize_t)sizeof page) {
        abort();
    }
    uint8_t *map = mmap(NULL, WRITER_SEGMENT_LEN, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    struct mm_layout_seal seal = {
        .first_seq = seq, .first_ms = 1700000000000u + seq, .end = MM_LAYOUT_HEADER_LEN};
    for (;;) {
        char topic[32];
        char payload[64];
        struct mm_record r = record_of(seq, topic, payload);
        size_t size = (size_t)mm_record_size(r.topic_len, r.payload_len, r.props_len);
        if (seal.end + size > WRITER_SEGMENT_LEN) {
            break;
        }
        mm_record_commit(map + seal.end, mm_record_encode(map + seal.end, h.salt, &r));
        seal.end += size;
        seal.last_seq = seq++;
        seal.n_records++;
    }
    mm_layout_encode_seal(seal_bytes, h.salt, &seal);
    if (pwrite(fd, seal_bytes, sizeof seal_bytes, MM_LAYOUT_SEAL_OFFSET) !=
        (ssize_t)sizeof seal_bytes) {
        abort();
    }
    munmap(map, WRITER_SEGMENT_LEN);
    close(fd);
    return seq;
}

static void *write_on(void *arg)
{
    struct writer *w = arg;
    uint64_t first[WRITER_KEEPS] = {0};
    uint64_t seq = 1;
    for (uint64_t file = 1; file <= w->n_segments; file++) {
        uint64_t oldest = first[file % WRITER_KEEPS];
        first[file % WRITER_KEEPS] = seq;
        seq = fill_segment(w, file, seq);
        uint64_t low = first[(file + 1) % WRITER_KEEPS];
        write_state(w->d, file, low == 0 ? 1 : low, seq);
        if (oldest != 0 && file > WRITER_KEEPS) {
            unlinkat(w->d->fd, name_of(file - WRITER_KEEPS), 0);
        }
    }
    atomic_store(&w->done, true);
    return NULL;
}

static void test_takes_no_work_for_damage(void **arg)
{
    (void)arg;
    struct log_dir d;
    make_dir(&d);
    write_at(&d, "LOCK", 0, "", 0);
    write_state(&d, 0, 1, 1);
    struct writer w = {.d = &d, .n_segments = 600};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, write_on, &w), 0);
    uint64_t n_records = 0;
    int n_looks = 0;
    while (!atomic_load(&w.done)) {
        struct told t = {0};
        struct mm_inspect *in = open_log(&d);
        struct mm_inspect_verify_options opts = {.on_damage = note_damage, .arg = &t};
        assert_int_equal(mm_inspect_verify(in, &opts, &t.verdict), 0);
        if (t.verdict.n_damages > 0) {
            fail_msg("%s %s: %s (offset %llu, %llu bytes, %llu missing from %llu)",
                     mm_inspect_kind_name(t.last.kind), t.file, t.text,
                     (unsigned long long)t.last.offset, (unsigned long long)t.last.len,
                     (unsigned long long)t.last.n_missing, (unsigned long long)t.last.first_seq);
        }
        n_records += t.verdict.n_records;
        n_looks++;
        mm_inspect_close(in);
    }
    pthread_join(thread, NULL);
    assert_true(n_looks > 1);
    assert_true(n_records > 0);
    remove_dir(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sees_all_there_is),
        cmocka_unit_test(test_reads_a_part),
        cmocka_unit_test(test_follows_a_writer),
        cmocka_unit_test(test_sees_who_holds_it),
        cmocka_unit_test(test_refuses_no_owner),
        cmocka_unit_test(test_refuses_what_is_no_log),
        cmocka_unit_test(test_lists_logs_below),
        cmocka_unit_test(test_lists_what_is_no_directory),
        cmocka_unit_test(test_sees_each_changed_byte),
        cmocka_unit_test(test_sees_each_record_that_is_lost),
        cmocka_unit_test(test_sees_each_cut),
        cmocka_unit_test(test_sees_segments_that_are_gone),
        cmocka_unit_test(test_knows_a_jump_from_a_gap),
        cmocka_unit_test(test_sees_what_does_not_belong),
        cmocka_unit_test(test_a_stranger_does_not_name_the_log),
        cmocka_unit_test(test_a_huge_file_is_not_read),
        cmocka_unit_test(test_a_reader_is_told_what_it_passes_over),
        cmocka_unit_test(test_leaves_a_newer_version_alone),
        cmocka_unit_test(test_knows_what_was_given_up),
        cmocka_unit_test(test_reads_past_bad_blocks),
        cmocka_unit_test(test_takes_no_work_for_damage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
