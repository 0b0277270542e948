/* made_log.h - logs made by hand, for tests of what reads them. */
#ifndef MADE_LOG_H
#define MADE_LOG_H

#include "mm_error.h"
#include "mm_inspect.h"
#include "mm_layout.h"
#include "mm_record.h"
#include "scratch.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define SEGMENT_LEN 8192

static const uint8_t uuid[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
#define UUID_TEXT "01020304-0506-0708-090a-0b0c0d0e0f10"

struct log_dir
{
    char path[64];
    int fd;
};

static inline void make_dir(struct log_dir *d)
{
    /* In memory where that can be: a disk that is waited for shows nothing more. */
    bool shm = access("/dev/shm", W_OK | X_OK) == 0;
    snprintf(d->path, sizeof d->path, "%s/mm-made-log-XXXXXX", shm ? "/dev/shm" : "/tmp");
    assert_non_null(mkdtemp(d->path));
    d->fd = open(d->path, O_RDONLY | O_DIRECTORY);
    assert_true(d->fd >= 0);
}

static inline void remove_dir(struct log_dir *d)
{
    close(d->fd);
    assert_int_equal(scratch_remove(d->path), 0);
}

static inline void write_at(const struct log_dir *d,
                            const char *name,
                            uint64_t offset,
                            const void *data,
                            size_t len)
{
    int fd = openat(d->fd, name, O_RDWR | O_CREAT, 0600);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, data, len, (off_t)offset), len);
    close(fd);
}

static inline size_t read_file(const struct log_dir *d, const char *name, uint8_t *dst, size_t len)
{
    int fd = openat(d->fd, name, O_RDONLY);
    assert_true(fd >= 0);
    ssize_t n = read(fd, dst, len);
    assert_true(n >= 0);
    close(fd);
    return (size_t)n;
}

static inline void cut_file(const struct log_dir *d, const char *name, off_t len)
{
    int fd = openat(d->fd, name, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, len), 0);
    close(fd);
}

static inline void flip(const struct log_dir *d, const char *name, uint64_t offset, uint8_t mask)
{
    uint8_t byte;
    int fd = openat(d->fd, name, O_RDWR);
    assert_int_equal(pread(fd, &byte, 1, (off_t)offset), 1);
    byte ^= mask;
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)offset), 1);
    close(fd);
}

static inline const char *name_of(uint64_t file)
{
    static char name[24];
    snprintf(name, sizeof name, "%016llx.seg", (unsigned long long)file);
    return name;
}

/* What stands in record seq: lengths differ so that there is padding of each length. */
static inline struct mm_record record_of(uint64_t seq, char topic[32], char payload[64])
{
    int topic_len = snprintf(topic, 32, "t/%d", (int)(seq % 3));
    int payload_len = snprintf(payload, 64, "%.*s%d", (int)(seq % 8), "payload:", (int)seq);
    return (struct mm_record){
        .seq = seq,
        .time_ms = 1700000000000u + seq,
        .topic_hash = mm_topic_hash(topic, (size_t)topic_len),
        .flags = 1,
        .type = MM_RECORD_MESSAGE,
        .topic_len = (uint16_t)topic_len,
        .payload_len = (uint32_t)payload_len,
        .topic = topic,
        .payload = payload,
    };
}

struct plan
{
    uint64_t file;
    uint64_t run_seq;
    uint64_t first; /* 0: no records */
    uint64_t last;
    bool sealed;
};

#define SALT_OF(file) (0x1122334455667788u * (file))

/* Bytes of a whole segment. Returns where its records end. */
static inline size_t encode_segment(uint8_t bytes[SEGMENT_LEN], const struct plan *p)
{
    struct mm_layout_header h = {.file = p->file,
                                 .run_seq = p->run_seq,
                                 .salt = SALT_OF(p->file),
                                 .created_ms = 1700000000000u,
                                 .size = SEGMENT_LEN};
    memcpy(h.uuid, uuid, sizeof h.uuid);
    memset(bytes, 0, SEGMENT_LEN);
    mm_layout_encode_header(bytes, &h);
    size_t at = MM_LAYOUT_HEADER_LEN;
    for (uint64_t seq = p->first; p->first != 0 && seq <= p->last; seq++) {
        char topic[32];
        char payload[64];
        struct mm_record r = record_of(seq, topic, payload);
        mm_record_commit(bytes + at, mm_record_encode(bytes + at, h.salt, &r));
        at += (size_t)mm_record_size(r.topic_len, r.payload_len, r.props_len);
    }
    if (p->sealed) {
        struct mm_layout_seal seal = {.first_seq = p->first,
                                      .last_seq = p->last,
                                      .n_records = p->last - p->first + 1,
                                      .first_ms = 1700000000000u + p->first,
                                      .end = at};
        mm_layout_encode_seal(bytes + MM_LAYOUT_SEAL_OFFSET, h.salt, &seal);
    }
    return at;
}

static inline size_t add_segment(const struct log_dir *d, struct plan p)
{
    uint8_t bytes[SEGMENT_LEN];
    size_t end = encode_segment(bytes, &p);
    write_at(d, name_of(p.file), 0, bytes, sizeof bytes);
    return end;
}

/* A segment of another log, with records first to last. */
static inline void add_stranger(const struct log_dir *d,
                                uint64_t file,
                                uint64_t first,
                                uint64_t last)
{
    uint8_t bytes[SEGMENT_LEN];
    struct plan p = {.file = file, .run_seq = 1, .first = first, .last = last};
    struct mm_layout_header h = {
        .uuid = {9}, .file = file, .run_seq = 1, .salt = SALT_OF(file), .size = SEGMENT_LEN};
    (void)encode_segment(bytes, &p);
    mm_layout_encode_header(bytes, &h);
    write_at(d, name_of(file), 0, bytes, sizeof bytes);
}

static inline struct mm_layout_state state_of(uint64_t low, uint64_t next_seq)
{
    struct mm_layout_state state = {.generation = 7,
                                    .written_ms = 1700000000000u,
                                    .next_seq = next_seq,
                                    .n_pending = next_seq - low,
                                    .clean = true,
                                    .n_ranges = 1,
                                    .ranges = {{.hash = 0, .low = low}}};
    memcpy(state.uuid, uuid, sizeof state.uuid);
    return state;
}

/* Both slots, the older one a record behind. */
static inline void add_state(const struct log_dir *d, uint64_t low, uint64_t next_seq)
{
    uint8_t slot[MM_LAYOUT_STATE_LEN];
    for (uint64_t generation = 6; generation <= 7; generation++) {
        struct mm_layout_state state = state_of(low, next_seq);
        state.generation = generation;
        mm_layout_encode_state(slot, &state);
        write_at(d, "STATE", (generation & 1) * MM_LAYOUT_STATE_LEN, slot, sizeof slot);
    }
}

/* Two sealed segments, one that is not, one without records; 1 to 30, 11 of them finished. */
static inline void add_log(const struct log_dir *d)
{
    add_segment(d, (struct plan){.file = 1, .run_seq = 1, .first = 1, .last = 10, .sealed = true});
    add_segment(d, (struct plan){.file = 2, .run_seq = 1, .first = 11, .last = 20, .sealed = true});
    add_segment(d, (struct plan){.file = 3, .run_seq = 1, .first = 21, .last = 30});
    add_segment(d, (struct plan){.file = 4, .run_seq = 1});
    add_state(d, 12, 31);
    write_at(d, "LOCK", 0, "pid 1 host h started t\n", 23);
}

static inline struct mm_inspect *open_log(const struct log_dir *d)
{
    char errstr[256] = "";
    struct mm_inspect *in;
    int err = mm_inspect_open(d->path, &in, errstr, sizeof errstr);
    assert_string_equal(errstr, "");
    assert_int_equal(err, 0);
    return in;
}

/* --- what was told --------------------------------------------------------------------------- */

struct told
{
    struct mm_inspect_verdict verdict;
    size_t n[MM_INSPECT_N_KINDS];
    struct mm_inspect_damage last; /* file and text are copied */
    char file[32];
    char text[256];
    uint64_t seqs[64]; /* sound ones */
    size_t n_seqs;
};

static inline void note_damage(void *arg, const struct mm_inspect_damage *d)
{
    struct told *t = arg;
    assert_true((unsigned)d->kind < MM_INSPECT_N_KINDS);
    assert_true(strlen(d->text) > 0);
    assert_true(d->n_missing == 0 || d->first_seq != 0);
    t->n[d->kind]++;
    t->last = *d;
    snprintf(t->file, sizeof t->file, "%s", d->file);
    snprintf(t->text, sizeof t->text, "%s", d->text);
}

/* Verify, and read all records beside it. */
static inline void look(const struct log_dir *d, struct told *t)
{
    memset(t, 0, sizeof *t);
    struct mm_inspect *in = open_log(d);
    struct mm_inspect_verify_options opts = {.on_damage = note_damage, .arg = t};
    assert_int_equal(mm_inspect_verify(in, &opts, &t->verdict), 0);
    size_t sum = 0;
    for (size_t i = 0; i < MM_INSPECT_N_KINDS; i++) {
        sum += t->n[i];
    }
    assert_int_equal(sum, t->verdict.n_damages);

    struct mm_inspect_reader_options all = {.segment = MM_INSPECT_ALL};
    struct mm_inspect_reader *rd;
    struct mm_inspect_place place;
    struct mm_record rec;
    assert_int_equal(mm_inspect_reader_new(in, &all, &rd), 0);
    while (mm_inspect_next(rd, &rec, &place) == 0) {
        char topic[32];
        char payload[64];
        struct mm_record want = record_of(rec.seq, topic, payload);
        assert_int_equal(rec.topic_len, want.topic_len);
        assert_memory_equal(rec.topic, want.topic, want.topic_len);
        assert_int_equal(rec.payload_len, want.payload_len);
        assert_memory_equal(rec.payload, want.payload, want.payload_len);
        assert_int_equal(rec.time_ms, want.time_ms);
        assert_true(t->n_seqs < 64);
        t->seqs[t->n_seqs++] = rec.seq;
    }
    assert_int_equal(t->n_seqs, t->verdict.n_records);
    mm_inspect_reader_free(rd);
    mm_inspect_close(in);
}

static inline void assert_seqs(const struct told *t,
                               uint64_t first,
                               uint64_t last,
                               uint64_t without)
{
    size_t i = 0;
    for (uint64_t seq = first; seq <= last; seq++) {
        if (seq != without) {
            assert_true(i < t->n_seqs);
            assert_int_equal(t->seqs[i], seq);
            i++;
        }
    }
    assert_int_equal(i, t->n_seqs);
}

#endif
