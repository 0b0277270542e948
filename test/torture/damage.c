/* damage - a small spool with changed bytes, cut files, missing files and files that are not its.
 *
 *   damage bytes|cuts|files|all
 *
 * After each damage the log is opened and read to its end: no crash, no wrong record, no more
 * missing than the damaged bytes belong to, and all that is missing is counted as lost.
 *
 * MM_TEST_LONG=1: each byte of each file in five ways, each length of each file. Else each byte
 * once, and the lengths around the edges of records and every 64th. */
#include "content.h"
#include "files.h"
#include "form.h"
#include "load.h"
#include "notes.h"

#include "mm_error.h"
#include "mm_layout.h"

#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CAPACITY 512
#define SEGMENT_BYTES 32768
#define PLACES_MAX 512

/* Where a record lies in the files of a base. */
struct place
{
    uint32_t file; /* index in the image */
    uint32_t offset;
    uint32_t len; /* without padding */
    uint64_t seq;
    bool pending; /* is read again */
    bool known;   /* STATE knows that it was appended */
};

/* A spool to be damaged, and what it has when it is not. */
struct base
{
    const char *name;
    struct load_options opts;
    struct files_image image;
    struct notes *notes; /* copied for each trial */
    void *notes_bytes;
    uint64_t n_read;
    uint32_t n_places;
    struct place places[PLACES_MAX];
};

static char root[FILES_PATH_MAX];
static char dir[FILES_PATH_MAX];
static char now[200]; /* what is tried */
static uint64_t n_trials;
static uint64_t n_lost_in_all;

/* --- telling ------------------------------------------------------------------------------------
 */

__attribute__((format(printf, 1, 2), noreturn)) static void fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "%s: ", now);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(1);
}

/* Which damage it was that killed us. */
static void on_crash(int number)
{
    static const char text[] = " crashed\n";
    (void)!write(2, now, strlen(now));
    (void)!write(2, text, sizeof text - 1);
    signal(number, SIG_DFL);
    raise(number);
}

__attribute__((format(printf, 1, 2))) static void trying(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(now, sizeof now, format, args);
    va_end(args);
}

/* --- bases --------------------------------------------------------------------------------------
 */

static void check_setup(bool condition, const char *what)
{
    if (!condition) {
        fail("the base could not be made: %s", what);
    }
}

/* Some 100 records in a few segments; the first are finished, some behind them out of order. */
static struct mm_spool *write_base(struct base *b, struct consumer *consumers, bool late)
{
    static struct consumer_ledger ledger;
    struct mm_spool *s;
    check_setup(load_open(&b->opts, &ledger, &s) == 0, "open");
    for (uint32_t k = 0; k < b->opts.n_readers; k++) {
        consumer_init(&consumers[k], s, k, b->notes, &ledger, 12, 99);
    }
    for (int i = 0; i < 100; i++) {
        check_setup(notes_append(b->notes, s) == 0, "append");
        if (i == 40) {
            mm_spool_tick(s);
            check_setup(consumer_take(&consumers[0], 12) == 12, "take");
            consumer_finish(&consumers[0], 5);
            check_setup(mm_spool_sync(s) == 0, "sync");
        }
    }
    check_setup(consumer_take(&consumers[0], 6) >= 0, "take");
    consumer_finish(&consumers[0], 5);
    if (!late) {
        mm_spool_tick(s); /* else several segments have no seal */
    }
    load_checkpoint(b->notes, s, consumers, b->opts.n_readers);
    for (int i = 0; late && i < 8; i++) {
        check_setup(notes_append(b->notes, s) == 0, "append");
    }
    return s;
}

static int state_of(const struct files_image *image, struct mm_layout_state *out)
{
    const struct files_file *file = files_find((struct files_image *)image, "STATE");
    int found = MM_EAGAIN;
    for (size_t i = 0; file != NULL && i < 2 && file->len >= (i + 1) * MM_LAYOUT_STATE_LEN; i++) {
        struct mm_layout_state state;
        if (mm_layout_decode_state(file->data + i * MM_LAYOUT_STATE_LEN, &state) == 0 &&
            (found != 0 || state.generation > out->generation)) {
            *out = state;
            found = 0;
        }
    }
    return found;
}

static bool is_below_low(const struct mm_layout_state *state, const struct mm_record *r)
{
    uint32_t i = 0;
    while (i + 1 < state->n_ranges && state->ranges[i + 1].hash <= r->topic_hash) {
        i++;
    }
    return r->seq < state->ranges[i].low;
}

static void find_places_in(struct base *b, uint32_t file, const struct mm_layout_state *state)
{
    const struct files_file *f = &b->image.file[file];
    struct mm_layout_header h;
    uint32_t n_copies;
    check_setup(mm_layout_decode_header(f->data, f->len, &h, &n_copies) == 0, "a header");
    uint8_t *data = f->data + MM_LAYOUT_HEADER_LEN; /* 8-byte aligned: malloc'ed */
    size_t len = f->len - MM_LAYOUT_HEADER_LEN;
    struct mm_record r;
    size_t size;
    for (size_t at = 0; mm_record_find(data, len, len, h.salt, &at, &r, &size) == 0; at += size) {
        check_setup(b->n_places < PLACES_MAX, "too many records");
        uint32_t record_len;
        memcpy(&record_len, data + at, sizeof record_len);
        b->places[b->n_places++] = (struct place){
            .file = file,
            .offset = (uint32_t)at + MM_LAYOUT_HEADER_LEN,
            .len = record_len,
            .seq = r.seq,
            .pending = !is_below_low(state, &r),
            .known = r.seq < state->next_seq,
        };
    }
}

static void find_places(struct base *b)
{
    struct mm_layout_state state;
    check_setup(state_of(&b->image, &state) == 0, "no STATE");
    uint64_t n_pending = 0;
    for (uint32_t i = 0; i < b->image.n; i++) {
        if (files_is_segment(b->image.file[i].name)) {
            find_places_in(b, i, &state);
        }
    }
    for (uint32_t i = 0; i < b->n_places; i++) {
        n_pending += b->places[i].pending;
    }
    check_setup(n_pending > 60 && n_pending < b->n_places, "finished and unfinished records");
    b->n_read = n_pending;
}

enum base_kind {
    CLEAN,  /* stopped in order */
    KILLED, /* some records were appended after the last STATE */
};

static void make_base(struct base *b, enum base_kind kind, uint32_t n_readers)
{
    memset(b, 0, sizeof *b);
    b->name = kind == CLEAN ? "clean" : "killed";
    b->opts = (struct load_options){.dir = dir,
                                    .max_bytes = 1 << 20,
                                    .segment_bytes = SEGMENT_BYTES,
                                    .n_readers = n_readers,
                                    .window = 12};
    struct content_rule rule = {.seed = 5, .n_topics = 9, .max_payload = 14000};
    char path[FILES_PATH_MAX];
    static uint32_t n_bases;
    char name[32];
    snprintf(name, sizeof name, "notes-%u", n_bases++);
    files_join(path, root, name);
    trying("making the base %s", b->name);
    b->notes = notes_create(path, &rule, CAPACITY);
    check_setup(b->notes != NULL, "notes");
    files_remove(dir);
    struct consumer *consumers = calloc(n_readers, sizeof *consumers);
    check_setup(consumers != NULL, "memory");
    struct mm_spool *s = write_base(b, consumers, kind == KILLED);
    if (kind == KILLED) {
        files_load(dir, &b->image);
        mm_spool_close(s);
    } else {
        mm_spool_close(s);
        files_load(dir, &b->image);
    }
    free(consumers);
    b->notes_bytes = malloc(notes_len(b->notes));
    check_setup(b->notes_bytes != NULL, "memory");
    memcpy(b->notes_bytes, b->notes, notes_len(b->notes));
    find_places(b);
}

static void free_base(struct base *b)
{
    files_free(&b->image);
    notes_close(b->notes);
    free(b->notes_bytes);
}

/* --- trials -------------------------------------------------------------------------------------
 */

/* What a trial may find. */
struct expectation
{
    uint64_t n_missing; /* pending records that cannot be there */
    uint64_t n_unknown; /* of those: that nobody can know of */
    uint64_t n_bad;     /* files to be set aside */
    bool state_gone;    /* what was finished may come again */
    bool state_lost;    /* neither slot can be used */
};

static void try_image(struct base *b, const struct files_image *image, const struct expectation *e)
{
    files_store(image, dir);
    memcpy(b->notes, b->notes_bytes, notes_len(b->notes));
    struct mm_spool *s;
    if (load_open(&b->opts, NULL, &s) != 0) {
        fail("it was not opened");
    }
    /* A gap at the end is seen when there is something behind it. */
    if (notes_append(b->notes, s) != 0) {
        fail("it takes no record");
    }
    struct notes_terms terms = {.n_readers = b->opts.n_readers,
                                .loss_allowed = true,
                                .back_allowed = e->state_gone,
                                .finish = true};
    struct notes_verdict v;
    char why[256] = "";
    if (!notes_verify(b->notes, s, &terms, &v, why, sizeof why)) {
        fail("%s", why);
    }
    v.n_read--;
    uint64_t n_there = v.n_read + e->n_missing;
    if (e->state_gone ? n_there < b->n_read : n_there != b->n_read) {
        fail("%" PRIu64 " records read; it should be %" PRIu64 " less %" PRIu64, v.n_read,
             b->n_read, e->n_missing);
    }
    if (v.n_lost != e->n_missing - e->n_unknown) {
        fail("%" PRIu64 " records counted as lost; it should be %" PRIu64 " less %" PRIu64,
             v.n_lost, e->n_missing, e->n_unknown);
    }
    uint64_t n_bad = mm_spool_found(s)->n_bad_files;
    if (n_bad != e->n_bad) {
        fail("%" PRIu64 " files were set aside; it should be %" PRIu64, n_bad, e->n_bad);
    }
    if (mm_spool_found(s)->state_lost != e->state_lost) {
        fail("STATE was %s", e->state_lost ? "used" : "not used");
    }
    mm_spool_close(s);
    n_trials++;
    n_lost_in_all += v.n_lost;
}

/* Records are gone: what of them is to be missed, and what of that cannot be known? Nothing is
 * known of a record that no STATE tells of and that no other follows. */
static void expect_gone(const struct base *b, const bool gone[PLACES_MAX], struct expectation *e)
{
    uint64_t last = 0;
    for (uint32_t i = 0; i < b->n_places; i++) {
        if (!gone[i] && b->places[i].seq > last) {
            last = b->places[i].seq;
        }
    }
    for (uint32_t i = 0; i < b->n_places; i++) {
        const struct place *p = &b->places[i];
        e->n_missing += gone[i] && p->pending;
        e->n_unknown += gone[i] && p->pending && !p->known && p->seq > last;
    }
}

static bool covers(const struct place *p, uint32_t file, size_t at)
{
    return p->file == file && at >= p->offset && at < p->offset + p->len;
}

static void expect_no_file(const struct base *b, uint32_t file, struct expectation *e)
{
    bool gone[PLACES_MAX];
    for (uint32_t i = 0; i < b->n_places; i++) {
        gone[i] = b->places[i].file == file;
    }
    expect_gone(b, gone, e);
}

/* --- bytes --------------------------------------------------------------------------------------
 */

static uint8_t change(uint8_t byte, uint64_t way)
{
    switch (way % 5) {
        case 0:
            return byte ^ 1;
        case 1:
            return (uint8_t)~byte;
        case 2:
            return byte == 0 ? 0x80 : 0;
        case 3:
            return byte == 0xFF ? 0x7F : 0xFF;
        default:
            return (uint8_t)(byte + 41);
    }
}

static struct expectation expect_of_byte(const struct base *b, uint32_t file, size_t at)
{
    struct expectation e = {.state_gone = strcmp(b->image.file[file].name, "STATE") == 0};
    bool gone[PLACES_MAX];
    for (uint32_t i = 0; i < b->n_places; i++) {
        gone[i] = covers(&b->places[i], file, at);
    }
    expect_gone(b, gone, &e);
    return e;
}

static void try_byte(struct base *b, uint32_t file, size_t at, uint64_t way)
{
    struct files_file *f = &b->image.file[file];
    uint8_t before = f->data[at];
    struct expectation e = expect_of_byte(b, file, at);
    f->data[at] = change(before, way);
    trying("base %s: byte %zu of %s changed from %#x to %#x", b->name, at, f->name, before,
           f->data[at]);
    try_image(b, &b->image, &e);
    f->data[at] = before;
}

static void try_bytes(struct base *b, size_t stride)
{
    for (uint32_t i = 0; i < b->image.n; i++) {
        for (size_t at = 0; at < b->image.file[i].len; at += stride) {
            for (uint64_t way = 0; way < form_pick(1, 1, 5); way++) {
                try_byte(b, i, at, way + content_mix(at + i));
            }
        }
    }
}

/* Several bytes at once: no more missing than bytes changed. */
static void try_many_bytes(struct base *b, struct content_rng *rng)
{
    struct files_image image;
    files_copy(&b->image, &image);
    struct expectation e = {0};
    bool gone[PLACES_MAX] = {false};
    uint64_t n = 2 + content_below(rng, 6);
    trying("base %s: %" PRIu64 " bytes changed, at random", b->name, n);
    for (uint64_t k = 0; k < n; k++) {
        uint32_t file = b->places[content_below(rng, b->n_places)].file;
        size_t at =
            MM_LAYOUT_HEADER_LEN + content_below(rng, image.file[file].len - MM_LAYOUT_HEADER_LEN);
        image.file[file].data[at] ^= (uint8_t)(1 + content_below(rng, 255));
        for (uint32_t i = 0; i < b->n_places; i++) {
            const struct place *p = &b->places[i];
            gone[i] |=
                covers(p, file, at) && image.file[file].data[at] != b->image.file[file].data[at];
        }
    }
    expect_gone(b, gone, &e);
    try_image(b, &image, &e);
    files_free(&image);
}

/* Both copies of a header: the file is set aside, its records are lost and counted. */
static void try_headers(struct base *b)
{
    for (uint32_t i = 0; i < b->image.n; i++) {
        struct files_file *f = &b->image.file[i];
        if (!files_is_segment(f->name)) {
            continue;
        }
        struct expectation e = {.n_bad = 1};
        expect_no_file(b, i, &e);
        f->data[8] ^= 0x20; /* the first copy's, and some byte of the second's */
        f->data[2048 + 40] ^= 0x20;
        trying("base %s: both headers of %s broken", b->name, f->name);
        try_image(b, &b->image, &e);
        f->data[8] ^= 0x20;
        f->data[2048 + 40] ^= 0x20;
    }
}

static void test_bytes(struct base *b, size_t stride)
{
    struct content_rng rng = {.state = 3};
    try_bytes(b, stride);
    try_headers(b);
    for (int i = 0; i < ((int)form_pick(500, 200, 20000)); i++) {
        try_many_bytes(b, &rng);
    }
}

/* --- cuts ---------------------------------------------------------------------------------------
 */

static bool is_near_an_edge(const struct base *b, uint32_t file, size_t len)
{
    for (uint32_t i = 0; i < b->n_places; i++) {
        const struct place *p = &b->places[i];
        size_t end = p->offset + p->len;
        if (p->file == file && (len == p->offset || len == p->offset + 4 || len == end - 1 ||
                                len == end || len == p->offset + MM_RECORD_HEADER_LEN)) {
            return true;
        }
    }
    return len < 160 || len % 64 == 0;
}

static bool has_seal(const struct files_file *f, size_t len)
{
    for (size_t at = MM_LAYOUT_SEAL_OFFSET; at < MM_LAYOUT_SEAL_OFFSET + MM_LAYOUT_SEAL_LEN; at++) {
        if (at < len && f->data[at] != 0) {
            return true;
        }
    }
    return false;
}

/* Bytes that are not there count as zeros: a record that ends with zeros may lose those. Of a
 * segment without a seal, which ends where the file ends, no more than belong to one word. */
static bool is_cut(const struct base *b, const struct place *p, uint32_t file, size_t len)
{
    if (p->file != file) {
        return false;
    }
    const struct files_file *f = &b->image.file[file];
    size_t end = p->offset + p->len;
    if (!has_seal(f, len) && end > (len + 7) / 8 * 8) {
        return true;
    }
    while (end > len && end > p->offset && f->data[end - 1] == 0) {
        end--;
    }
    return end > len;
}

/* Not even one copy of the header is left; without a byte it could as well be one that was just
 * made. A segment that ends within its first record is like one whose process was killed in its
 * first append. */
static bool is_set_aside(const struct files_file *f, size_t len)
{
    return files_is_segment(f->name) && len < 128 && len > 0;
}

static void try_cut(struct base *b, uint32_t file, size_t len)
{
    struct files_file *f = &b->image.file[file];
    struct expectation e = {.state_gone = strcmp(f->name, "STATE") == 0};
    bool gone[PLACES_MAX];
    for (uint32_t i = 0; i < b->n_places; i++) {
        gone[i] = is_cut(b, &b->places[i], file, len);
    }
    expect_gone(b, gone, &e);
    e.state_lost = e.state_gone && len < MM_LAYOUT_STATE_LEN; /* the other slot is cut, too */
    e.n_bad = is_set_aside(f, len);
    size_t before = f->len;
    f->len = len;
    trying("base %s: %s cut to %zu bytes", b->name, f->name, len);
    try_image(b, &b->image, &e);
    f->len = before;
}

static void test_cuts(struct base *b)
{
    for (uint32_t i = 0; i < b->image.n; i++) {
        for (size_t len = 0; len < b->image.file[i].len; len++) {
            if (form_is_long() || is_near_an_edge(b, i, len)) {
                try_cut(b, i, len);
            }
        }
    }
}

/* --- files --------------------------------------------------------------------------------------
 */

static void try_without(struct base *b, uint32_t file)
{
    struct files_image image = b->image;
    struct expectation e = {.state_gone = strcmp(image.file[file].name, "STATE") == 0};
    expect_no_file(b, file, &e);
    e.state_lost = e.state_gone;
    trying("base %s: %s deleted", b->name, image.file[file].name);
    memmove(&image.file[file], &image.file[file + 1], (image.n - file - 1) * sizeof image.file[0]);
    image.n--;
    try_image(b, &image, &e);
}

static void add_file(struct files_image *image, const char *name, const uint8_t *data, size_t len)
{
    if (image->n == FILES_MAX) {
        files_give_up("too many files");
    }
    struct files_file *f = &image->file[image->n++];
    snprintf(f->name, sizeof f->name, "%s", name);
    f->len = len;
    f->data = malloc(len + 1);
    if (f->data == NULL) {
        files_give_up("%s", name);
    }
    memcpy(f->data, data, len);
}

static void drop_last_file(struct files_image *image)
{
    free(image->file[--image->n].data);
}

/* Files that are named as segments and are none, or are not named as segments. */
static void try_garbage(struct base *b, struct content_rng *rng)
{
    static const size_t lengths[] = {0, 1, 127, 128, 4096, 5000, SEGMENT_BYTES};
    static uint8_t data[SEGMENT_BYTES];
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        for (size_t at = 0; at < lengths[i]; at++) {
            data[at] = (uint8_t)content_random(rng);
        }
        char name[FILES_NAME_MAX];
        snprintf(name, sizeof name, "%016" PRIx64 ".seg", 1000 + content_below(rng, 1000));
        trying("base %s: %zu random bytes as %s", b->name, lengths[i], name);
        add_file(&b->image, name, data, lengths[i]);
        struct expectation e = {.n_bad = lengths[i] > 0};
        try_image(b, &b->image, &e);
        drop_last_file(&b->image);
    }
    static const char *const names[] = {"core",
                                        "0000000000000001.seg.tmp",
                                        "1.seg",
                                        "00000000000000FF.seg",
                                        "x000000000000001.seg",
                                        "STATE~"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        trying("base %s: a file %s", b->name, names[i]);
        add_file(&b->image, names[i], data, 5000);
        struct expectation e = {0};
        try_image(b, &b->image, &e);
        drop_last_file(&b->image);
    }
}

/* Segments of another spool, whose records are right but not ours. */
static void try_foreign(struct base *b)
{
    struct base *other = calloc(1, sizeof *other);
    check_setup(other != NULL, "memory");
    make_base(other, KILLED, 1);
    for (uint32_t i = 0; i < other->image.n; i++) {
        const struct files_file *f = &other->image.file[i];
        if (!files_is_segment(f->name)) {
            continue;
        }
        trying("base %s: a segment of another spool", b->name);
        add_file(&b->image, "00000000000003e8.seg", f->data, f->len);
        struct expectation e = {.n_bad = 1};
        try_image(b, &b->image, &e);
        drop_last_file(&b->image);
    }
    free_base(other);
    free(other);
}

/* A segment twice, once under another name: the seqs tell that it has been read. */
static void try_renamed(struct base *b)
{
    for (uint32_t i = 0; i < b->image.n; i++) {
        struct files_file *f = &b->image.file[i];
        if (!files_is_segment(f->name)) {
            continue;
        }
        trying("base %s: %s twice", b->name, f->name);
        add_file(&b->image, "00000000000007d0.seg", f->data, f->len);
        struct expectation e = {0};
        try_image(b, &b->image, &e);
        drop_last_file(&b->image);
    }
}

/* Sectors of one segment in another's free place: sound records of this spool, but the salt is not
 * that segment's. */
static void try_moved(struct base *b, struct content_rng *rng)
{
    for (uint32_t i = 0; i < b->image.n; i++) {
        struct files_file *f = &b->image.file[i];
        size_t end = MM_LAYOUT_HEADER_LEN;
        for (uint32_t k = 0; k < b->n_places; k++) {
            const struct place *p = &b->places[k];
            end = p->file == i && p->offset + p->len > end ? p->offset + p->len : end;
        }
        end = (end + 511) / 512 * 512;
        const struct place *from = &b->places[content_below(rng, b->n_places)];
        size_t room = end < f->len ? f->len - end : 0;
        size_t left = b->image.file[from->file].len - from->offset;
        size_t n = room < left ? room : left;
        if (!files_is_segment(f->name) || n < 64) {
            continue;
        }
        trying("base %s: %zu bytes of %s from %u on, at %zu of %s", b->name, n,
               b->image.file[from->file].name, from->offset, end, f->name);
        uint8_t *before = malloc(n);
        check_setup(before != NULL, "memory");
        memcpy(before, f->data + end, n);
        memmove(f->data + end, b->image.file[from->file].data + from->offset, n);
        struct expectation e = {0};
        try_image(b, &b->image, &e);
        memcpy(f->data + end, before, n);
        free(before);
    }
}

/* Who comes second is refused, and the first does not notice. */
static void try_two(struct base *b)
{
    trying("base %s: opened twice", b->name);
    files_store(&b->image, dir);
    struct mm_spool *s;
    struct mm_spool *second;
    check_setup(load_open(&b->opts, NULL, &s) == 0, "open");
    if (load_open(&b->opts, NULL, &second) != MM_EBUSY) {
        fail("it was opened");
    }
    mm_spool_close(s);
    struct expectation e = {0};
    try_image(b, &b->image, &e);
}

static void test_files(struct base *b)
{
    struct content_rng rng = {.state = 17};
    for (uint32_t i = 0; i < b->image.n; i++) {
        try_without(b, i);
    }
    try_garbage(b, &rng);
    try_renamed(b);
    try_foreign(b);
    try_two(b);
    for (uint64_t i = 0; i < form_pick(50, 20, 5000); i++) {
        try_moved(b, &rng);
    }
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "all";
    bool all = strcmp(what, "all") == 0;
    signal(SIGSEGV, on_crash);
    signal(SIGBUS, on_crash);
    signal(SIGABRT, on_crash);
    content_init();
    files_make_dir(true, root);
    files_join(dir, root, "spool");
    for (int kind = CLEAN; kind <= KILLED; kind++) {
        static struct base b;
        make_base(&b, (enum base_kind)kind, kind == CLEAN ? 2 : 1);
        struct expectation nothing = {0};
        trying("base %s, not damaged", b.name);
        try_image(&b, &b.image, &nothing);
        if (all || strcmp(what, "bytes") == 0) {
            test_bytes(&b, kind == CLEAN ? form_pick(1, 5, 1) : form_pick(7, 11, 1));
        }
        if (all || strcmp(what, "cuts") == 0) {
            test_cuts(&b);
        }
        if (all || strcmp(what, "files") == 0) {
            test_files(&b);
        }
        free_base(&b);
    }
    printf("%s: %" PRIu64 " damaged spools; %" PRIu64
           " records lost and counted, 0 wrong, 0 crashes\n",
           what, n_trials, n_lost_in_all);
    return n_lost_in_all == 0;
}
