/* A small spool of format version 1, in test/data/spool-v1: whatever this project becomes, it has
 * to be read as it is.
 *
 * expected.jsonl was written by another reader, test/integration/harness/spool_format.py, which
 * knows docs/spool-format.md and none of this project's code.
 *
 *     test_spool_v1                  the tests
 *     test_spool_v1 --write <dir>    make the files again, in a directory that is there */
#include "mm_error.h"
#include "mm_layout.h"
#include "mm_record.h"
#include "mm_spool.h"
#include "scratch.h"

#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define DATA_DIR MM_TEST_DATA_DIR "/spool-v1"

#define LEN_OF(array) (sizeof(array) / sizeof(array)[0])

/* Where the numbers of the second process begin: the system had been restarted in between. */
#define JUMP (UINT64_C(1) << 32)
#define TIME_MS UINT64_C(1767225600000) /* 2026-01-01T00:00:00Z */
#define SALT_SEALED UINT64_C(0x9E3779B97F4A7C15)
#define SALT_OPEN UINT64_C(0xC2B2AE3D27D4EB4F)
#define SALT_DEAD UINT64_C(0x165667B19E3779F9)
#define SALT_PARKED UINT64_C(0x27D4EB2F165667C5)
#define ORIGIN "8f14e45f-ceea-467f-a0e6-9d1e3c2b4a51-"

enum {
    FILE_MAX = 12 * 1024,
    FILE_LEN = 8 * 1024,
    SEGMENT_SIZE = 8 * 1024 * 1024 /* what the headers say: the files were cut */
};

static const char spool_uuid[] = "8f14e45f-ceea-467f-a0e6-9d1e3c2b4a51";
static const char dead_uuid[] = "c9f0f895-fb98-4ab9-959b-3b1d5e6f7a82";
static const char parked_uuid[] = "45c48cce-2e2d-4bea-9a1a-fc51c7c6ad26";
static const char boot[] = "d3d94468-02a4-4259-b55d-38e6d163e820";

/* --- making -------------------------------------------------------------------------------------
 */

/* A file in the making. What a record's payload and properties are made of lives in scratch. */
struct file
{
    size_t len;
    size_t at;
    uint64_t salt;
    struct mm_layout_seal seal;
    uint64_t bytes[FILE_MAX / 8];
    uint8_t scratch[2048];
    uint8_t *scratch_end;
};

static uint8_t *bytes_of(struct file *f)
{
    return (uint8_t *)f->bytes;
}

static void begin_segment(struct file *f,
                          const char *uuid,
                          uint64_t number,
                          uint64_t run_seq,
                          uint64_t salt,
                          size_t len)
{
    struct mm_layout_header h = {
        .file = number,
        .run_seq = run_seq,
        .salt = salt,
        .created_ms = TIME_MS + number,
        .size = SEGMENT_SIZE,
    };
    assert_int_equal(mm_layout_parse_uuid(uuid, h.uuid), 0);
    memset(f, 0, sizeof *f);
    f->len = len;
    f->salt = salt;
    f->at = MM_LAYOUT_HEADER_LEN;
    mm_layout_encode_header(bytes_of(f), &h);
}

/* All but the commit word; returns its value. */
static uint32_t write_uncommitted(struct file *f, struct mm_record *r)
{
    size_t size = (size_t)mm_record_size(r->topic_len, r->payload_len, r->props_len);
    assert_true(size <= f->len - f->at);
    r->topic_hash = mm_topic_hash(r->topic, r->topic_len);
    return mm_record_encode(bytes_of(f) + f->at, f->salt, r);
}

static void append(struct file *f, struct mm_record r)
{
    uint32_t len = write_uncommitted(f, &r);
    mm_record_commit(bytes_of(f) + f->at, len);
    if (f->seal.n_records++ == 0) {
        f->seal.first_seq = r.seq;
        f->seal.first_ms = r.time_ms;
    }
    f->seal.last_seq = r.seq;
    f->at += (size_t)mm_record_size(r.topic_len, r.payload_len, r.props_len);
    f->seal.end = f->at;
}

static void write_seal(struct file *f)
{
    mm_layout_encode_seal(bytes_of(f) + MM_LAYOUT_SEAL_OFFSET, f->salt, &f->seal);
}

static struct mm_record message(uint64_t seq, uint8_t flags, const char *topic)
{
    return (struct mm_record){
        .seq = seq,
        .time_ms = TIME_MS + 1000 * (seq % JUMP),
        .flags = flags,
        .type = MM_RECORD_MESSAGE,
        .topic = topic,
        .topic_len = (uint16_t)strlen(topic),
    };
}

static struct mm_record with(struct mm_record r, const void *payload, size_t len)
{
    r.payload = payload;
    r.payload_len = (uint32_t)len;
    return r;
}

static struct mm_record with_text(struct mm_record r, const char *payload)
{
    return with(r, payload, strlen(payload));
}

static uint8_t *begin_props(struct file *f)
{
    f->scratch_end = f->scratch;
    return f->scratch_end;
}

static void put_text(struct file *f, uint16_t tag, const char *text)
{
    f->scratch_end = mm_prop_put(f->scratch_end, tag, text, (uint32_t)strlen(text));
}

static struct mm_record with_props(struct file *f, struct mm_record r)
{
    r.props = f->scratch;
    r.props_len = (uint32_t)(f->scratch_end - f->scratch);
    return r;
}

static void append_payloads_of_each_length(struct file *f, uint64_t *seq)
{
    for (size_t len = 1; len <= 8; len += 3) {
        append(f, with(message((*seq)++, 0, "devices/7"), "12345678", len));
    }
}

/* 13 records, numbered from 1; sealed. */
static void make_sealed(struct file *f)
{
    static uint8_t bytes[1500];
    static char long_topic[301];
    uint64_t seq = 1;
    uint64_t forged[16] = {0};
    struct mm_record inner = with_text(message(99, 1, "forged"), "not a message");
    begin_segment(f, spool_uuid, 10, 1, SALT_SEALED, FILE_LEN);
    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = (uint8_t)(i < 256 ? i : i * i >> 3);
    }
    memset(long_topic, '/', sizeof long_topic - 1);

    append(f, message(seq++, 0, "a"));
    append(f, with_text(message(seq++, 1, "sensors/kitchen/temperature"), "21.5"));
    append(f, with(message(seq++, 2, "binary"), bytes, 256));
    append(f, with_text(message(seq++, 1 | MM_RECORD_RETAIN,
                                "k\xC3\xBC"
                                "che/\xE6\xB8\xA9\xE5\xBA\xA6"),
                        "{\"\xC2\xB0"
                        "C\":21.5}"));
    append_payloads_of_each_length(f, &seq);
    append(f, with_text(message(seq++, 1, long_topic), "long topic"));
    append(f, with(message(seq++, 2, "large"), bytes, sizeof bytes));
    append(f, with_text(message(seq++, 0 | MM_RECORD_RETAIN, "\xF0\x9F\x8F\xAD/1"), "on"));
    begin_props(f);
    f->scratch_end = mm_prop_put(f->scratch_end, 0x7777, "of a later version", 18);
    append(f, with_props(f, with(message(seq++, 1, "props"), "a\0b", 3)));
    mm_record_commit(forged, mm_record_encode(forged, SALT_OPEN, &inner));
    append(f, with(message(seq++, 1, "12345678"), forged, sizeof forged));
    append(f, with_text(message(seq++, 1, "sensors/kitchen/temperature"), "21.6"));
    write_seal(f);
}

/* 7 records of the next process, one number left out, and one that was not committed. Its file's
 * number is smaller: the order is that of the records. */
static void make_open(struct file *f)
{
    uint64_t seq = JUMP + 14;
    begin_segment(f, spool_uuid, 9, seq, SALT_OPEN, FILE_MAX);
    append(f, with_text(message(seq++, 1, "sensors/kitchen/temperature"), "21.7"));
    append(f, with_text(message(seq++, 1, "plant/alarms"), "high"));
    struct mm_record back = with_text(message(seq++, 0, "clock/back"), "an hour");
    back.time_ms -= 3600000;
    append(f, back);
    seq++;
    append(f, message(seq++, 2 | MM_RECORD_RETAIN, "sensors/kitchen/temperature"));
    struct mm_record beginning = with_text(message(seq++, 0, "clock"), "not set");
    beginning.time_ms = 0;
    append(f, beginning);
    append(f, with_text(message(seq++, 1, "a"), "b"));
    append(f, with_text(message(seq++, 1, "plant/alarms"), "low"));
    struct mm_record torn = with_text(message(seq, 1, "torn"), "the process was killed");
    (void)write_uncommitted(f, &torn);
}

/* Each with the properties of a dead letter; the second without its payload. */
static void make_dead(struct file *f)
{
    begin_segment(f, dead_uuid, 1, 1, SALT_DEAD, FILE_LEN);
    begin_props(f);
    put_text(f, MM_TAG_KAFKA_TOPIC, "plant");
    put_text(f, MM_TAG_ERROR, "INVALID_RECORD");
    put_text(f, MM_TAG_REASON, "Broker failed to validate record");
    f->scratch_end = mm_prop_put_u64(f->scratch_end, MM_TAG_DIED_MS, TIME_MS + 60001);
    put_text(f, MM_TAG_ORIGIN, ORIGIN "2");
    struct mm_record r = with_text(message(1, 1, "sensors/kitchen/temperature"), "21.5");
    r.type = MM_RECORD_DEAD;
    append(f, with_props(f, r));

    begin_props(f);
    put_text(f, MM_TAG_KAFKA_TOPIC, "plant");
    put_text(f, MM_TAG_ERROR, "MSG_SIZE_TOO_LARGE");
    put_text(f, MM_TAG_REASON, "Broker: Message size too large");
    f->scratch_end = mm_prop_put_u64(f->scratch_end, MM_TAG_DIED_MS, TIME_MS + 60002);
    put_text(f, MM_TAG_ORIGIN, ORIGIN "4294967310");
    f->scratch_end = mm_prop_put_u64(f->scratch_end, MM_TAG_PAYLOAD_LEN, 268435456);
    r = message(2, 2, "large");
    r.type = MM_RECORD_DEAD;
    append(f, with_props(f, r));
}

static void make_parked(struct file *f)
{
    begin_segment(f, parked_uuid, 1, 1, SALT_PARKED, FILE_LEN);
    begin_props(f);
    put_text(f, MM_TAG_ORIGIN, ORIGIN "4294967311");
    append(f, with_props(f, with_text(message(1, 1, "plant/alarms"), "high")));
    write_seal(f);
}

static void write_slot(struct file *f, const char *uuid, struct mm_layout_state s)
{
    assert_int_equal(mm_layout_parse_uuid(uuid, s.uuid), 0);
    assert_int_equal(mm_layout_parse_uuid(boot, s.boot), 0);
    s.written_ms = TIME_MS + s.generation;
    for (size_t k = 0; k < MM_LAYOUT_COUNTERS; k++) {
        s.counters[k] = s.generation * 1000 + k;
    }
    f->len = (size_t)2 * MM_LAYOUT_STATE_LEN;
    mm_layout_encode_state(bytes_of(f) + s.generation % 2 * MM_LAYOUT_STATE_LEN, &s);
}

/* The newer slot, of a process that was killed: the last two records are not known to it, nor is
 * its count of pending ones theirs. */
static void make_state(struct file *f)
{
    memset(f, 0, sizeof *f);
    struct mm_layout_state s = {
        .generation = 41,
        .next_seq = JUMP + 19,
        .n_ranges = 3,
        .n_pending = 11,
        .n_repeat = 1,
        .ranges = {{0, 11}, {0x40000000, 4}, {0xC0000000, 9}},
    };
    write_slot(f, spool_uuid, s);
    s.generation = 40;
    s.n_ranges = 1;
    s.ranges[0].low = 4;
    write_slot(f, spool_uuid, s);
}

/* Only one slot was ever written. */
static void make_dead_state(struct file *f)
{
    memset(f, 0, sizeof *f);
    write_slot(f, dead_uuid,
               (struct mm_layout_state){
                   .generation = 1,
                   .next_seq = 3,
                   .n_pending = 2,
                   .clean = true,
                   .n_ranges = 1,
                   .ranges = {{0, 1}},
               });
}

static void make_parked_state(struct file *f)
{
    memset(f, 0, sizeof *f);
    for (uint64_t generation = 6; generation <= 7; generation++) {
        write_slot(f, parked_uuid,
                   (struct mm_layout_state){
                       .generation = generation,
                       .next_seq = 2,
                       .n_pending = 1,
                       .clean = generation == 7,
                       .n_ranges = 1,
                       .ranges = {{0, 1}},
                   });
    }
}

static void make_lock(struct file *f)
{
    static const char text[] = "pid 4242 host gateway-7 started 2026-01-01T00:00:00Z\n";
    memset(f, 0, sizeof *f);
    f->len = sizeof text - 1;
    memcpy(bytes_of(f), text, f->len);
}

/* In the order of their paths. */
static const struct
{
    const char *path;
    void (*make)(struct file *f);
} files[] = {
    {"0000000000000009.seg", make_open},
    {"000000000000000a.seg", make_sealed},
    {"LOCK", make_lock},
    {"STATE", make_state},
    {"dead/0000000000000001.seg", make_dead},
    {"dead/STATE", make_dead_state},
    {"parked/plant.alarms/0000000000000001.seg", make_parked},
    {"parked/plant.alarms/STATE", make_parked_state},
};

static bool write_file(const char *dir, const char *path, const void *bytes, size_t len)
{
    char full[4096];
    snprintf(full, sizeof full, "%s/%s", dir, path);
    FILE *out = fopen(full, "wb");
    bool failed = out == NULL || fwrite(bytes, 1, len, out) != len;
    failed = (out != NULL && fclose(out) != 0) || failed;
    if (failed) {
        perror(full);
    }
    return !failed;
}

static bool make_directories(const char *dir)
{
    static const char *const names[] = {"dead", "parked", "parked/plant.alarms"};
    char full[4096];
    for (size_t i = 0; i < LEN_OF(names); i++) {
        snprintf(full, sizeof full, "%s/%s", dir, names[i]);
        if (mkdir(full, 0700) != 0 && errno != EEXIST) {
            perror(full);
            return false;
        }
    }
    return true;
}

static int write_files(const char *dir)
{
    static struct file f;
    bool good = make_directories(dir);
    for (size_t i = 0; good && i < LEN_OF(files); i++) {
        files[i].make(&f);
        good = write_file(dir, files[i].path, f.bytes, f.len);
    }
    return good ? 0 : 1;
}

/* --- reading ------------------------------------------------------------------------------------
 */

/* The whole file in malloc'ed memory of its size. */
static uint8_t *read_file(const char *path, size_t *len)
{
    char full[4096];
    snprintf(full, sizeof full, "%s/%s", DATA_DIR, path);
    FILE *in = fopen(full, "rb");
    if (in == NULL) {
        fail_msg("%s: %s", full, strerror(errno));
    }
    struct stat st;
    assert_int_equal(fstat(fileno(in), &st), 0);
    *len = (size_t)st.st_size;
    uint8_t *bytes = malloc(*len + 1);
    assert_non_null(bytes);
    assert_int_equal(fread(bytes, 1, *len, in), *len);
    assert_int_equal(fclose(in), 0);
    return bytes;
}

static void print_hex(FILE *out, const char *name, const void *data, size_t len)
{
    const uint8_t *bytes = data;
    fprintf(out, ", \"%s\": \"", name);
    for (size_t i = 0; i < len; i++) {
        fprintf(out, "%02x", bytes[i]);
    }
    fputc('"', out);
}

static void print_header(FILE *out, const struct mm_layout_header *h, uint32_t n_copies)
{
    char uuid[37];
    mm_layout_format_uuid(h->uuid, uuid);
    fprintf(out,
            ", \"copies\": %" PRIu32 ", \"version\": %" PRIu32 ", \"flags\": %" PRIu32
            ", \"uuid\": \"%s\", \"number\": %" PRIu64 ", \"run_seq\": %" PRIu64
            ", \"salt\": \"%016" PRIx64 "\", \"created_ms\": %" PRIu64 ", \"size\": %" PRIu64,
            n_copies, h->version, h->flags, uuid, h->file, h->run_seq, h->salt, h->created_ms,
            h->size);
}

static void print_seal(FILE *out, const uint8_t *src, uint64_t salt)
{
    struct mm_layout_seal seal;
    int err = mm_layout_decode_seal(src, salt, &seal);
    if (err != 0) {
        assert_int_equal(err, MM_EAGAIN);
        fputs(", \"seal\": null}\n", out);
        return;
    }
    fprintf(out,
            ", \"seal\": {\"first_seq\": %" PRIu64 ", \"last_seq\": %" PRIu64
            ", \"n_records\": %" PRIu64 ", \"first_ms\": %" PRIu64 ", \"end\": %" PRIu64 "}}\n",
            seal.first_seq, seal.last_seq, seal.n_records, seal.first_ms, seal.end);
}

static void print_record(FILE *out, const char *path, size_t offset, const struct mm_record *r)
{
    fprintf(out,
            "{\"file\": \"%s\", \"offset\": %zu, \"seq\": %" PRIu64 ", \"time_ms\": %" PRIu64
            ", \"topic_hash\": %" PRIu32 ", \"flags\": %d, \"type\": %d",
            path, offset, r->seq, r->time_ms, r->topic_hash, r->flags, r->type);
    print_hex(out, "topic", r->topic, r->topic_len);
    print_hex(out, "payload", r->payload, r->payload_len);
    print_hex(out, "props", r->props, r->props_len);
    fputs("}\n", out);
}

static void print_segment(FILE *out, const char *path, const uint8_t *bytes, size_t len)
{
    struct mm_layout_header h;
    uint32_t n_copies;
    assert_int_equal(mm_layout_decode_header(bytes, len, &h, &n_copies), 0);
    fprintf(out, "{\"file\": \"%s\", \"len\": %zu", path, len);
    print_header(out, &h, n_copies);
    print_seal(out, bytes + MM_LAYOUT_SEAL_OFFSET, h.salt);
    struct mm_record r;
    size_t size;
    size_t offset = MM_LAYOUT_HEADER_LEN;
    while (mm_record_find(bytes, len, len, h.salt, &offset, &r, &size) == 0) {
        print_record(out, path, offset, &r);
        offset += size;
    }
}

static void print_slot(FILE *out, const char *path, int slot, const uint8_t *src)
{
    struct mm_layout_state s;
    char uuid[37];
    char boot_id[37];
    fprintf(out, "{\"file\": \"%s\", \"slot\": %d", path, slot);
    int err = mm_layout_decode_state(src, &s);
    if (err != 0) {
        assert_int_equal(err, MM_EAGAIN);
        fputs("}\n", out);
        return;
    }
    mm_layout_format_uuid(s.uuid, uuid);
    mm_layout_format_uuid(s.boot, boot_id);
    fprintf(out,
            ", \"uuid\": \"%s\", \"boot\": \"%s\", \"generation\": %" PRIu64
            ", \"written_ms\": %" PRIu64 ", \"next_seq\": %" PRIu64 ", \"n_pending\": %" PRIu64
            ", \"n_repeat\": %" PRIu64 ", \"clean\": %s, \"ranges\": [",
            uuid, boot_id, s.generation, s.written_ms, s.next_seq, s.n_pending, s.n_repeat,
            s.clean ? "true" : "false");
    for (size_t k = 0; k < s.n_ranges; k++) {
        fprintf(out, "%s[%" PRIu32 ", %" PRIu64 "]", k == 0 ? "" : ", ", s.ranges[k].hash,
                s.ranges[k].low);
    }
    fputs("], \"counters\": [", out);
    for (size_t k = 0; k < MM_LAYOUT_COUNTERS; k++) {
        fprintf(out, "%s%" PRIu64, k == 0 ? "" : ", ", s.counters[k]);
    }
    fputs("]}\n", out);
}

static void print_file(FILE *out, const char *path)
{
    size_t len;
    uint8_t *bytes = read_file(path, &len);
    const char *dot = strrchr(path, '.');
    if (dot != NULL && strcmp(dot, ".seg") == 0) {
        print_segment(out, path, bytes, len);
    } else if (strcmp(path, "LOCK") != 0) {
        assert_int_equal(len, 2 * MM_LAYOUT_STATE_LEN);
        print_slot(out, path, 0, bytes);
        print_slot(out, path, 1, bytes + MM_LAYOUT_STATE_LEN);
    }
    free(bytes);
}

static void test_reads_as_ever(void **state)
{
    (void)state;
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    assert_non_null(out);
    for (size_t i = 0; i < LEN_OF(files); i++) {
        print_file(out, files[i].path);
    }
    assert_int_equal(fclose(out), 0);
    size_t expected_len;
    uint8_t *expected = read_file("expected.jsonl", &expected_len);
    expected[expected_len] = '\0';
    assert_string_equal(text, (char *)expected);
    free(expected);
    free(text);
}

static void test_writes_as_ever(void **state)
{
    (void)state;
    static struct file f;
    for (size_t i = 0; i < LEN_OF(files); i++) {
        size_t len;
        uint8_t *bytes = read_file(files[i].path, &len);
        files[i].make(&f);
        assert_int_equal(len, f.len);
        assert_memory_equal(bytes, f.bytes, len);
        free(bytes);
    }
}

/* The records of a segment file, in order; at most cap. Returns how many. The bytes stay. */
static size_t read_records(const char *path, struct mm_record *records, size_t cap, uint8_t **bytes)
{
    size_t len;
    struct mm_layout_header h;
    uint32_t n_copies;
    *bytes = read_file(path, &len);
    assert_int_equal(mm_layout_decode_header(*bytes, len, &h, &n_copies), 0);
    size_t n = 0;
    size_t size;
    size_t offset = MM_LAYOUT_HEADER_LEN;
    struct mm_record r;
    while (mm_record_find(*bytes, len, len, h.salt, &offset, &r, &size) == 0) {
        assert_true(n < cap);
        records[n++] = r;
        offset += size;
    }
    return n;
}

static void assert_prop(const struct mm_record *r, uint16_t tag, const char *expected)
{
    uint32_t len;
    const uint8_t *data = mm_prop_get(r->props, r->props_len, tag, &len);
    assert_non_null(data);
    assert_int_equal(len, strlen(expected));
    assert_memory_equal(data, expected, len);
}

static void assert_prop_u64(const struct mm_record *r, uint16_t tag, uint64_t expected)
{
    uint64_t value;
    assert_true(mm_prop_get_u64(r->props, r->props_len, tag, &value));
    assert_int_equal(value, expected);
}

static void test_dead_letters(void **state)
{
    (void)state;
    struct mm_record r[2];
    uint8_t *bytes;
    assert_int_equal(read_records("dead/0000000000000001.seg", r, LEN_OF(r), &bytes), 2);
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(r[i].type, MM_RECORD_DEAD);
        assert_prop(&r[i], MM_TAG_KAFKA_TOPIC, "plant");
    }
    uint64_t value;
    assert_prop(&r[0], MM_TAG_ERROR, "INVALID_RECORD");
    assert_prop(&r[0], MM_TAG_REASON, "Broker failed to validate record");
    assert_prop_u64(&r[0], MM_TAG_DIED_MS, TIME_MS + 60001);
    assert_prop(&r[0], MM_TAG_ORIGIN, "8f14e45f-ceea-467f-a0e6-9d1e3c2b4a51-2");
    assert_false(mm_prop_get_u64(r[0].props, r[0].props_len, MM_TAG_PAYLOAD_LEN, &value));
    assert_int_equal(r[0].payload_len, 4);
    assert_prop(&r[1], MM_TAG_ERROR, "MSG_SIZE_TOO_LARGE");
    assert_prop_u64(&r[1], MM_TAG_PAYLOAD_LEN, 268435456);
    assert_int_equal(r[1].payload_len, 0);
    free(bytes);
}

/* What STATE says of the records agrees with them. */
static void test_state_counts_the_pending(void **state)
{
    (void)state;
    struct mm_record r[20];
    uint8_t *sealed;
    uint8_t *open;
    size_t n = read_records("000000000000000a.seg", r, 13, &sealed);
    assert_int_equal(n, 13);
    n += read_records("0000000000000009.seg", r + n, 7, &open);
    assert_int_equal(n, 20);

    size_t len;
    struct mm_layout_state s;
    uint8_t *slots = read_file("STATE", &len);
    assert_int_equal(mm_layout_decode_state(slots + MM_LAYOUT_STATE_LEN, &s), 0);
    uint64_t n_pending = 0;
    for (size_t i = 0; i < n; i++) {
        size_t k = s.n_ranges - 1;
        while (s.ranges[k].hash > r[i].topic_hash) {
            k--;
        }
        assert_true(i == 0 || r[i].seq > r[i - 1].seq);
        n_pending += r[i].seq < s.next_seq && r[i].seq >= s.ranges[k].low ? 1 : 0;
    }
    assert_int_equal(n_pending, s.n_pending);
    free(slots);
    free(sealed);
    free(open);
}

/* --- the log itself -----------------------------------------------------------------------------
 */

static char copy[SCRATCH_LEN];

static int make_copy(void **state)
{
    (void)state;
    if (scratch_make(copy, "spool_v1") != 0 || !make_directories(copy)) {
        return 1;
    }
    bool good = true;
    for (size_t i = 0; good && i < LEN_OF(files); i++) {
        size_t len;
        uint8_t *bytes = read_file(files[i].path, &len);
        good = write_file(copy, files[i].path, bytes, len);
        free(bytes);
    }
    return good ? 0 : 1;
}

static int remove_copy(void **state)
{
    (void)state;
    return scratch_remove(copy);
}

static struct mm_spool *open_copy(const char *log, uint32_t n_readers)
{
    char dir[128];
    char errstr[256];
    snprintf(dir, sizeof dir, "%s/%s", copy, log);
    struct mm_spool_options opts = {
        .max_bytes = 1 << 20,
        .segment_bytes = 1 << 16,
        .n_readers = n_readers,
        .manual = true,
        .dir = dir,
    };
    struct mm_spool *s = NULL;
    if (mm_spool_open(&opts, &s, errstr, sizeof errstr) != 0) {
        fail_msg("%s", errstr);
    }
    return s;
}

/* What all readers together give, by seq; each is as it stands in the files. */
static void assert_gives(struct mm_spool *s,
                         uint32_t n_readers,
                         const struct mm_record *expected,
                         size_t n)
{
    size_t n_given = 0;
    for (uint32_t k = 0; k < n_readers; k++) {
        struct mm_record r;
        struct mm_spool_pos pos;
        uint64_t last = 0;
        while (mm_spool_next(mm_spool_reader(s, k), 100, &r, &pos) == 0) {
            const struct mm_record *e = expected;
            while (e < expected + n && e->seq != r.seq) {
                e++;
            }
            assert_true(e < expected + n && r.seq > last);
            last = r.seq;
            assert_int_equal(r.time_ms, e->time_ms);
            assert_int_equal(r.flags, e->flags);
            assert_int_equal(r.type, e->type);
            assert_int_equal(r.topic_len, e->topic_len);
            assert_int_equal(r.payload_len, e->payload_len);
            assert_int_equal(r.props_len, e->props_len);
            assert_memory_equal(r.topic, e->topic,
                                (size_t)r.topic_len + r.payload_len + r.props_len);
            n_given++;
        }
    }
    assert_int_equal(n_given, n);
}

/* After a power failure, as far as the files tell: the numbers go on behind a gap. */
static void assert_goes_on_at(struct mm_spool *s, uint64_t seq)
{
    struct mm_record in = with_text(message(0, 1, "new"), "of today");
    assert_int_equal(mm_spool_append(s, &in), 0);
    struct mm_record r;
    struct mm_spool_pos pos;
    assert_int_equal(mm_spool_next(mm_spool_reader(s, 0), 100, &r, &pos), 0);
    assert_int_equal(r.seq, seq);
}

/* With any number of readers, *state: what was finished is not given again. */
static void test_goes_on_with_the_spool(void **state)
{
    uint32_t n_readers = *(const uint32_t *)*state;
    struct mm_record r[20];
    uint8_t *sealed;
    uint8_t *open;
    size_t n = read_records("000000000000000a.seg", r, 13, &sealed);
    n += read_records("0000000000000009.seg", r + n, 7, &open);
    size_t n_pending = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t low = r[i].topic_hash < 0x40000000 ? 11 : r[i].topic_hash < 0xC0000000 ? 4 : 9;
        if (r[i].seq >= low) {
            r[n_pending++] = r[i];
        }
    }
    assert_int_equal(n_pending, 14);

    struct mm_spool *s = open_copy(".", n_readers);
    const struct mm_spool_found *found = mm_spool_found(s);
    assert_string_equal(mm_spool_uuid(s), spool_uuid);
    assert_int_equal(found->n_records, n_pending);
    assert_int_equal(found->n_repeat, 1);
    assert_int_equal(found->n_segments, 2);
    assert_int_equal(found->n_bad_files, 0);
    assert_false(found->clean);
    assert_false(found->state_lost);
    assert_true(found->has_counters);
    assert_int_equal(found->counters[31], 41031);
    assert_gives(s, n_readers, r, n_pending);
    if (n_readers == 1) {
        assert_goes_on_at(s, 2 * JUMP + 22);
    }
    mm_spool_close(s);
    free(sealed);
    free(open);
}

static void test_goes_on_with_the_other_logs(void **state)
{
    (void)state;
    struct mm_record r[2] = {{0}};
    uint8_t *bytes;
    assert_int_equal(read_records("dead/0000000000000001.seg", r, 2, &bytes), 2);
    struct mm_spool *s = open_copy("dead", 1);
    assert_string_equal(mm_spool_uuid(s), dead_uuid);
    assert_int_equal(mm_spool_found(s)->n_records, 2);
    assert_gives(s, 1, r, 2);
    assert_goes_on_at(s, 3); /* the stop was orderly */
    mm_spool_close(s);
    free(bytes);

    assert_int_equal(read_records("parked/plant.alarms/0000000000000001.seg", r, 1, &bytes), 1);
    s = open_copy("parked/plant.alarms", 1);
    assert_string_equal(mm_spool_uuid(s), parked_uuid);
    assert_gives(s, 1, r, 1);
    assert_goes_on_at(s, 2);
    mm_spool_close(s);
    free(bytes);
}

static uint32_t reader_counts[] = {1, 2, 7, 64};
#define READ_BY(i)                                                                                \
    cmocka_unit_test_prestate_setup_teardown(test_goes_on_with_the_spool, make_copy, remove_copy, \
                                             &reader_counts[i])

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--write") == 0) {
        return write_files(argv[2]);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads_as_ever),
        cmocka_unit_test(test_writes_as_ever),
        cmocka_unit_test(test_dead_letters),
        cmocka_unit_test(test_state_counts_the_pending),
        READ_BY(0),
        READ_BY(1),
        READ_BY(2),
        READ_BY(3),
        cmocka_unit_test_setup_teardown(test_goes_on_with_the_other_logs, make_copy, remove_copy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
