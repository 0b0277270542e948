/* The records of a segment file that anything may have happened to. The input is an area as it is,
 * or a recipe for one: records, gaps and other bytes one behind the other, then changes of single
 * bytes. What mm_record_find() finds is compared with a walk written down as the format says it,
 * and with the same search when the area comes in pieces. */
#include "mm_error.h"
#include "mm_record.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define SALT 0x1122334455667788u

enum {
    AREA_MAX = 16 * 1024,
    FOUND_MAX = AREA_MAX / MM_RECORD_HEADER_LEN + 1
};

/* The records of an area: where they are and how many bytes they take. */
struct found
{
    size_t n;
    size_t offset[FOUND_MAX];
    size_t size[FOUND_MAX];
};

static void check(bool ok)
{
    if (!ok) {
        abort();
    }
}

static void take(struct found *f, size_t offset, size_t size)
{
    check(f->n < FOUND_MAX);
    f->offset[f->n] = offset;
    f->size[f->n] = size;
    f->n++;
}

/* --- the input ----------------------------------------------------------------------------------
 */

struct input
{
    const uint8_t *at;
    const uint8_t *end;
};

/* 0 behind the end. */
static uint8_t next_byte(struct input *in)
{
    return in->at < in->end ? *in->at++ : 0;
}

static size_t next_number(struct input *in)
{
    size_t low = next_byte(in);
    return low | (size_t)next_byte(in) << 8;
}

/* Up to len bytes of the input itself; *n of them. */
static const uint8_t *next_bytes(struct input *in, size_t len, size_t *n)
{
    const uint8_t *bytes = in->at;
    size_t left = (size_t)(in->end - in->at);
    *n = len < left ? len : left;
    in->at += *n;
    return bytes;
}

/* Append a record at *len, when there is room; without its commit word when torn. */
static void add_record(struct input *in, uint8_t *area, size_t *len, uint64_t salt, bool torn)
{
    size_t topic_len;
    size_t payload_len;
    uint8_t lens = next_byte(in);
    const uint8_t *topic = next_bytes(in, lens & 15, &topic_len);
    const uint8_t *payload = next_bytes(in, (size_t)(lens >> 4) * 24, &payload_len);
    struct mm_record r = {
        .seq = *len,
        .topic = (const char *)topic,
        .topic_len = (uint16_t)topic_len,
        .payload = payload,
        .payload_len = (uint32_t)payload_len,
    };
    size_t size = (size_t)mm_record_size(r.topic_len, r.payload_len, 0);
    if (size <= AREA_MAX - *len) {
        uint32_t commit = mm_record_encode(area + *len, salt, &r);
        if (!torn) {
            mm_record_commit(area + *len, commit);
        }
        *len += size;
    }
}

static void add_bytes(struct input *in, uint8_t *area, size_t *len)
{
    size_t n;
    const uint8_t *bytes = next_bytes(in, next_byte(in), &n);
    size_t padded = (n + MM_RECORD_ALIGN - 1) / MM_RECORD_ALIGN * MM_RECORD_ALIGN;
    if (padded <= AREA_MAX - *len) {
        memcpy(area + *len, bytes, n);
        *len += padded;
    }
}

/* One whole record with the right salt inside the payload of another, or of what says it is. */
static void add_nested(struct input *in, uint8_t *area, size_t *len)
{
    uint64_t inner[8] = {0};
    struct mm_record r = {.seq = *len, .topic = "12345678", .topic_len = 8};
    mm_record_commit(inner, mm_record_encode(inner, SALT, &r));
    r.payload = inner;
    r.payload_len = sizeof inner;
    size_t size = (size_t)mm_record_size(r.topic_len, r.payload_len, 0);
    if (size <= AREA_MAX - *len) {
        mm_record_commit(area + *len, mm_record_encode(area + *len, SALT, &r));
        area[*len + next_byte(in) % size] ^= next_byte(in);
        *len += size;
    }
}

/* Returns the length of the area that the rest of the input describes. */
static size_t cook(struct input *in, uint8_t *area)
{
    size_t len = 0;
    uint8_t n_changes = next_byte(in);
    size_t changes_len = (size_t)n_changes * 3;
    if (changes_len > (size_t)(in->end - in->at)) {
        changes_len = 0;
    }
    struct input changes = {in->at, in->at + changes_len};
    in->at += changes_len;
    while (in->at < in->end && len < AREA_MAX) {
        uint8_t what = next_byte(in);
        if (what < 128) {
            add_record(in, area, &len, SALT, false);
        } else if (what < 160) {
            add_record(in, area, &len, SALT + 1, false);
        } else if (what < 192) {
            add_record(in, area, &len, SALT, true);
        } else if (what < 208) {
            add_nested(in, area, &len);
        } else if (what < 224) {
            add_bytes(in, area, &len);
        } else {
            size_t gap = (size_t)(what - 223) * MM_RECORD_ALIGN;
            len += gap <= AREA_MAX - len ? gap : 0;
        }
    }
    while (changes.at < changes.end && len > 0) {
        size_t at = next_number(&changes) % len;
        area[at] ^= next_byte(&changes);
    }
    return len;
}

/* --- three ways to look -------------------------------------------------------------------------
 */

static uint32_t load_u32(const uint8_t *src)
{
    return src[0] | (uint32_t)src[1] << 8 | (uint32_t)src[2] << 16 | (uint32_t)src[3] << 24;
}

/* Is there a sound header? *size is what the record takes. */
static bool expect_header(const uint8_t *at, size_t room, size_t *size)
{
    if (room < MM_RECORD_HEADER_LEN) {
        return false;
    }
    uint64_t len = load_u32(at);
    uint64_t padded = (len + 7) / 8 * 8;
    uint64_t parts = (uint64_t)load_u32(at + 32) + at[36] + (uint64_t)at[37] * 256;
    if (len < MM_RECORD_HEADER_LEN || padded > room || parts > len - MM_RECORD_HEADER_LEN) {
        return false;
    }
    uint8_t covered[8 + 4 + 32] = {0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11};
    memcpy(covered + 8, at, 4);
    memcpy(covered + 12, at + 8, 32);
    *size = (size_t)padded;
    return mm_crc32c_portable(0, covered, sizeof covered) == load_u32(at + 4);
}

static void expect(const uint8_t *area, size_t limit, struct found *f)
{
    size_t at = 0;
    f->n = 0;
    while (at < limit) {
        struct mm_record r;
        size_t size;
        if (!expect_header(area + at, limit - at, &size)) {
            at += MM_RECORD_ALIGN;
            continue;
        }
        size_t decoded;
        if (mm_record_decode(area + at, limit - at, SALT, true, &r, &decoded) == 0) {
            check(decoded == size);
            take(f, at, size);
        }
        at += size;
    }
}

/* One buffer's worth: everything that is in it. Returns what mm_record_find() said at last. */
static int look(const uint8_t *data,
                size_t len,
                size_t limit,
                size_t start,
                size_t *offset,
                size_t *size,
                struct found *f)
{
    int err;
    struct mm_record r;
    while ((err = mm_record_find(data, len, limit, SALT, offset, &r, size)) == 0) {
        check(*offset % MM_RECORD_ALIGN == 0 && *size <= len - *offset);
        struct mm_record again;
        size_t decoded;
        check(mm_record_decode(data + *offset, *size, SALT, true, &again, &decoded) == 0);
        check(decoded == *size && again.seq == r.seq && again.topic == r.topic &&
              again.props == r.props && again.props_len == r.props_len);
        take(f, start + *offset, *size);
        *offset += *size;
    }
    return err;
}

static void look_whole(const uint8_t *area, size_t limit, struct found *f)
{
    size_t offset = 0;
    size_t size;
    f->n = 0;
    check(look(area, limit, limit, 0, &offset, &size, f) == MM_EAGAIN);
    check(offset == limit);
}

/* With a window of at least len bytes that moves over the area. */
static void look_chunked(const uint8_t *area, size_t limit, size_t len, struct found *f)
{
    size_t start = 0;
    size_t room = len;
    f->n = 0;
    while (start < limit) {
        size_t at_hand = room < limit - start ? room : limit - start;
        uint8_t *window = malloc(at_hand);
        check(window != NULL);
        memcpy(window, area + start, at_hand);
        size_t offset = 0;
        size_t size = 0;
        int err = look(window, at_hand, limit - start, start, &offset, &size, f);
        free(window);
        check(err == MM_EAGAIN || err == MM_EPARTIAL);
        check(offset <= limit - start);
        check(offset > 0 || (err == MM_EPARTIAL && size > at_hand));
        check(err == MM_EAGAIN || (size > at_hand - offset && size <= limit - start - offset));
        room = err == MM_EPARTIAL && size > len ? size : len;
        start += offset;
    }
}

static void check_same(const struct found *a, const struct found *b)
{
    check(a->n == b->n);
    for (size_t i = 0; i < a->n; i++) {
        check(a->offset[i] == b->offset[i] && a->size[i] == b->size[i]);
    }
}

/* Each tag by itself, and all in the record's properties. */
static void check_props(const uint8_t *props, size_t size)
{
    uint8_t *copy = malloc(size + (size == 0));
    check(copy != NULL);
    memcpy(copy, props, size);
    for (uint16_t tag = 0; tag < 8; tag++) {
        uint32_t len;
        const uint8_t *data = mm_prop_get(copy, (uint32_t)size, tag, &len);
        uint64_t value;
        bool is_u64 = mm_prop_get_u64(copy, (uint32_t)size, tag, &value);
        check(is_u64 == (data != NULL && len == 8));
        check(data == NULL ||
              (data >= copy + MM_PROP_HEADER_LEN && len <= (size_t)(copy + size - data)));
    }
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static _Alignas(8) uint8_t cooked[AREA_MAX];
    static struct found expected;
    static struct found whole;
    static struct found chunked;
    struct input in = {data, data + size};
    bool raw = next_byte(&in) % 4 == 0;
    size_t window = MM_RECORD_HEADER_LEN + next_number(&in) % 2000;
    size_t cut = next_byte(&in);

    memset(cooked, 0, sizeof cooked);
    size_t limit;
    if (raw) {
        const uint8_t *bytes = next_bytes(&in, AREA_MAX, &limit);
        check_props(bytes, limit);
        memcpy(cooked, bytes, limit);
    } else {
        limit = cook(&in, cooked);
    }
    limit -= limit >= cut ? cut : 0;
    uint8_t *area = malloc(limit + (limit == 0)); /* exact, for the address sanitizer */
    check(area != NULL);
    memcpy(area, cooked, limit);
    expect(area, limit, &expected);
    look_whole(area, limit, &whole);
    check_same(&expected, &whole);
    look_chunked(area, limit, window, &chunked);
    check_same(&whole, &chunked);
    free(area);
    return 0;
}
