#include "mm_layout.h"

#include "mm_error.h"
#include "mm_record.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>

/* The places of the fields, bytes from the beginning of the structure. A number's width is its
 * type's in the struct. What has no name is reserved: written as 0, under the checksum, not looked
 * at when read. A checksum is CRC-32C of all bytes before it; a seal's begins with the salt, 8
 * bytes little-endian.
 *
 * Magic, version and checksum of header and STATE keep their places in all versions, so that any
 * version can tell a newer one from damage. */
enum header_offset {
    HEADER_MAGIC = 0,   /* "MQKSPOOL" */
    HEADER_VERSION = 8, /* 4 bytes */
    HEADER_FLAGS = 12,  /* 4 bytes */
    HEADER_UUID = 16,   /* 16 bytes */
    HEADER_FILE = 32,
    HEADER_RUN_SEQ = 40,
    HEADER_SALT = 48,
    HEADER_CREATED_MS = 56,
    HEADER_SIZE = 64,
    HEADER_CRC = 124, /* 4 bytes */
    HEADER_LEN = 128,
};

#define FIRST_COPY 0
#define SECOND_COPY 2048

enum seal_offset {
    SEAL_MAGIC = 0, /* "MQKSSEAL" */
    SEAL_FIRST_SEQ = 8,
    SEAL_LAST_SEQ = 16,
    SEAL_N_RECORDS = 24,
    SEAL_FIRST_MS = 32,
    SEAL_END = 40,
    SEAL_CRC = 60, /* 4 bytes */
};

enum state_offset {
    STATE_MAGIC = 0,   /* "MQKSTATE" */
    STATE_VERSION = 8, /* 4 bytes */
    STATE_FLAGS = 12,  /* 4 bytes: STATE_CLEAN */
    STATE_UUID = 16,   /* 16 bytes */
    STATE_BOOT = 32,   /* 16 bytes */
    STATE_GENERATION = 48,
    STATE_WRITTEN_MS = 56,
    STATE_NEXT_SEQ = 64,
    STATE_N_PENDING = 72,
    STATE_N_REPEAT = 80,
    STATE_N_RANGES = 88,  /* 4 bytes */
    STATE_COUNTERS = 128, /* MM_LAYOUT_COUNTERS times 8 bytes */
    STATE_RANGES = 512,   /* MM_LAYOUT_RANGES_MAX times RANGE_LEN; 0 from n_ranges on */
    STATE_CRC = 4092,     /* 4 bytes */
};

#define STATE_CLEAN 1u

enum range_offset {
    RANGE_HASH = 0, /* 4 bytes; 4 reserved */
    RANGE_LOW = 8,
    RANGE_LEN = 16,
};

#define MAGIC_LEN 8
#define UUID_LEN 16

static const uint8_t header_magic[MAGIC_LEN] = {'M', 'Q', 'K', 'S', 'P', 'O', 'O', 'L'};
static const uint8_t seal_magic[MAGIC_LEN] = {'M', 'Q', 'K', 'S', 'S', 'E', 'A', 'L'};
static const uint8_t state_magic[MAGIC_LEN] = {'M', 'Q', 'K', 'S', 'T', 'A', 'T', 'E'};

static void put_u32(uint8_t *dst, uint32_t v)
{
    v = htole32(v);
    memcpy(dst, &v, sizeof v);
}

static void put_u64(uint8_t *dst, uint64_t v)
{
    v = htole64(v);
    memcpy(dst, &v, sizeof v);
}

static uint32_t get_u32(const uint8_t *src)
{
    uint32_t v;
    memcpy(&v, src, sizeof v);
    return le32toh(v);
}

static uint64_t get_u64(const uint8_t *src)
{
    uint64_t v;
    memcpy(&v, src, sizeof v);
    return le64toh(v);
}

static bool all_zero(const uint8_t *src, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (src[i] != 0) {
            return false;
        }
    }
    return true;
}

/* --- header -------------------------------------------------------------------------------------
 */

void mm_layout_encode_header(uint8_t dst[MM_LAYOUT_HEADER_LEN], const struct mm_layout_header *h)
{
    memset(dst, 0, MM_LAYOUT_HEADER_LEN);
    memcpy(dst + HEADER_MAGIC, header_magic, MAGIC_LEN);
    put_u32(dst + HEADER_VERSION, MM_LAYOUT_VERSION);
    put_u32(dst + HEADER_FLAGS, h->flags);
    memcpy(dst + HEADER_UUID, h->uuid, UUID_LEN);
    put_u64(dst + HEADER_FILE, h->file);
    put_u64(dst + HEADER_RUN_SEQ, h->run_seq);
    put_u64(dst + HEADER_SALT, h->salt);
    put_u64(dst + HEADER_CREATED_MS, h->created_ms);
    put_u64(dst + HEADER_SIZE, h->size);
    put_u32(dst + HEADER_CRC, mm_crc32c(0, dst, HEADER_CRC));
    memcpy(dst + SECOND_COPY, dst + FIRST_COPY, HEADER_LEN);
}

/* Is there a whole copy at this place, of whatever version? */
static bool header_copy_good(const uint8_t *src, size_t len, size_t place)
{
    if (len < place + HEADER_LEN) {
        return false;
    }
    const uint8_t *copy = src + place;
    return memcmp(copy + HEADER_MAGIC, header_magic, MAGIC_LEN) == 0 &&
           mm_crc32c(0, copy, HEADER_CRC) == get_u32(copy + HEADER_CRC);
}

int mm_layout_decode_header(const uint8_t *src,
                            size_t len,
                            struct mm_layout_header *out,
                            uint32_t *n_copies)
{
    bool first = header_copy_good(src, len, FIRST_COPY);
    bool second = header_copy_good(src, len, SECOND_COPY);
    *n_copies = (uint32_t)first + (uint32_t)second;
    if (!first && !second) {
        return MM_ECORRUPT;
    }
    const uint8_t *copy = src + (first ? FIRST_COPY : SECOND_COPY);
    out->version = get_u32(copy + HEADER_VERSION);
    if (out->version != MM_LAYOUT_VERSION) {
        return MM_EVERSION;
    }
    out->flags = get_u32(copy + HEADER_FLAGS);
    memcpy(out->uuid, copy + HEADER_UUID, UUID_LEN);
    out->file = get_u64(copy + HEADER_FILE);
    out->run_seq = get_u64(copy + HEADER_RUN_SEQ);
    out->salt = get_u64(copy + HEADER_SALT);
    out->created_ms = get_u64(copy + HEADER_CREATED_MS);
    out->size = get_u64(copy + HEADER_SIZE);
    return 0;
}

/* --- seal ---------------------------------------------------------------------------------------
 */

static uint32_t seal_crc(const uint8_t seal[MM_LAYOUT_SEAL_LEN], uint64_t salt)
{
    uint8_t start[sizeof salt];
    put_u64(start, salt);
    return mm_crc32c(mm_crc32c(0, start, sizeof start), seal, SEAL_CRC);
}

void mm_layout_encode_seal(uint8_t dst[MM_LAYOUT_SEAL_LEN],
                           uint64_t salt,
                           const struct mm_layout_seal *seal)
{
    memset(dst, 0, MM_LAYOUT_SEAL_LEN);
    memcpy(dst + SEAL_MAGIC, seal_magic, MAGIC_LEN);
    put_u64(dst + SEAL_FIRST_SEQ, seal->first_seq);
    put_u64(dst + SEAL_LAST_SEQ, seal->last_seq);
    put_u64(dst + SEAL_N_RECORDS, seal->n_records);
    put_u64(dst + SEAL_FIRST_MS, seal->first_ms);
    put_u64(dst + SEAL_END, seal->end);
    put_u32(dst + SEAL_CRC, seal_crc(dst, salt));
}

int mm_layout_decode_seal(const uint8_t src[MM_LAYOUT_SEAL_LEN],
                          uint64_t salt,
                          struct mm_layout_seal *out)
{
    if (all_zero(src, MM_LAYOUT_SEAL_LEN)) {
        return MM_EAGAIN;
    }
    if (memcmp(src + SEAL_MAGIC, seal_magic, MAGIC_LEN) != 0 ||
        seal_crc(src, salt) != get_u32(src + SEAL_CRC)) {
        return MM_ECORRUPT;
    }
    out->first_seq = get_u64(src + SEAL_FIRST_SEQ);
    out->last_seq = get_u64(src + SEAL_LAST_SEQ);
    out->n_records = get_u64(src + SEAL_N_RECORDS);
    out->first_ms = get_u64(src + SEAL_FIRST_MS);
    out->end = get_u64(src + SEAL_END);
    return 0;
}

/* --- STATE --------------------------------------------------------------------------------------
 */

void mm_layout_encode_state(uint8_t dst[MM_LAYOUT_STATE_LEN], const struct mm_layout_state *state)
{
    memset(dst, 0, MM_LAYOUT_STATE_LEN);
    memcpy(dst + STATE_MAGIC, state_magic, MAGIC_LEN);
    put_u32(dst + STATE_VERSION, MM_LAYOUT_VERSION);
    put_u32(dst + STATE_FLAGS, state->clean ? STATE_CLEAN : 0);
    memcpy(dst + STATE_UUID, state->uuid, UUID_LEN);
    memcpy(dst + STATE_BOOT, state->boot, UUID_LEN);
    put_u64(dst + STATE_GENERATION, state->generation);
    put_u64(dst + STATE_WRITTEN_MS, state->written_ms);
    put_u64(dst + STATE_NEXT_SEQ, state->next_seq);
    put_u64(dst + STATE_N_PENDING, state->n_pending);
    put_u64(dst + STATE_N_REPEAT, state->n_repeat);
    put_u32(dst + STATE_N_RANGES, state->n_ranges);
    for (size_t k = 0; k < MM_LAYOUT_RANGES_MAX && k < state->n_ranges; k++) {
        uint8_t *range = dst + STATE_RANGES + RANGE_LEN * k;
        put_u32(range + RANGE_HASH, state->ranges[k].hash);
        put_u64(range + RANGE_LOW, state->ranges[k].low);
    }
    for (size_t k = 0; k < MM_LAYOUT_COUNTERS; k++) {
        put_u64(dst + STATE_COUNTERS + 8 * k, state->counters[k]);
    }
    put_u32(dst + STATE_CRC, mm_crc32c(0, dst, STATE_CRC));
}

/* Of a slot whose magic and checksum are right. */
static int check_state(const uint8_t *src)
{
    if (get_u32(src + STATE_VERSION) != MM_LAYOUT_VERSION) {
        return MM_EVERSION;
    }
    uint32_t n_ranges = get_u32(src + STATE_N_RANGES);
    if (n_ranges < 1 || n_ranges > MM_LAYOUT_RANGES_MAX ||
        get_u32(src + STATE_RANGES + RANGE_HASH) != 0) {
        return MM_ECORRUPT;
    }
    for (size_t k = 1; k < n_ranges; k++) {
        const uint8_t *range = src + STATE_RANGES + RANGE_LEN * k;
        if (get_u32(range + RANGE_HASH) <= get_u32(range - RANGE_LEN + RANGE_HASH)) {
            return MM_ECORRUPT;
        }
    }
    return 0;
}

int mm_layout_decode_state(const uint8_t src[MM_LAYOUT_STATE_LEN], struct mm_layout_state *out)
{
    if (all_zero(src, MM_LAYOUT_STATE_LEN)) {
        return MM_EAGAIN;
    }
    if (memcmp(src + STATE_MAGIC, state_magic, MAGIC_LEN) != 0 ||
        mm_crc32c(0, src, STATE_CRC) != get_u32(src + STATE_CRC)) {
        return MM_ECORRUPT;
    }
    int err = check_state(src);
    if (err == 0 || err == MM_EVERSION) {
        out->version = get_u32(src + STATE_VERSION);
    }
    if (err != 0) {
        return err;
    }
    out->clean = (get_u32(src + STATE_FLAGS) & STATE_CLEAN) != 0;
    memcpy(out->uuid, src + STATE_UUID, UUID_LEN);
    memcpy(out->boot, src + STATE_BOOT, UUID_LEN);
    out->generation = get_u64(src + STATE_GENERATION);
    out->written_ms = get_u64(src + STATE_WRITTEN_MS);
    out->next_seq = get_u64(src + STATE_NEXT_SEQ);
    out->n_pending = get_u64(src + STATE_N_PENDING);
    out->n_repeat = get_u64(src + STATE_N_REPEAT);
    out->n_ranges = get_u32(src + STATE_N_RANGES);
    memset(out->ranges, 0, sizeof out->ranges);
    for (size_t k = 0; k < out->n_ranges; k++) {
        const uint8_t *range = src + STATE_RANGES + RANGE_LEN * k;
        out->ranges[k].hash = get_u32(range + RANGE_HASH);
        out->ranges[k].low = get_u64(range + RANGE_LOW);
    }
    for (size_t k = 0; k < MM_LAYOUT_COUNTERS; k++) {
        out->counters[k] = get_u64(src + STATE_COUNTERS + 8 * k);
    }
    return 0;
}

/* --- UUID ---------------------------------------------------------------------------------------
 */

#define UUID_TEXT_LEN 36

static bool is_dash_place(size_t i)
{
    return i == 8 || i == 13 || i == 18 || i == 23;
}

void mm_layout_format_uuid(const uint8_t uuid[16], char dst[37])
{
    static const char digits[] = "0123456789abcdef";
    size_t n_digits = 0;
    for (size_t i = 0; i < UUID_TEXT_LEN; i++) {
        if (is_dash_place(i)) {
            dst[i] = '-';
            continue;
        }
        uint8_t byte = uuid[n_digits / 2];
        dst[i] = digits[n_digits % 2 == 0 ? byte >> 4 : byte & 15];
        n_digits++;
    }
    dst[UUID_TEXT_LEN] = '\0';
}

/* -1: not a digit. */
static int digit_value(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    if (c >= 'a' && c <= 'f') {
        return c - 'a' + 10;
    }
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

int mm_layout_parse_uuid(const char *text, uint8_t uuid[16])
{
    uint8_t parsed[UUID_LEN] = {0};
    size_t n_digits = 0;
    for (size_t i = 0; i < UUID_TEXT_LEN; i++) {
        if (is_dash_place(i)) {
            if (text[i] != '-') {
                return MM_EINVAL;
            }
            continue;
        }
        int value = digit_value(text[i]); /* the NUL of a short text is no digit */
        if (value < 0) {
            return MM_EINVAL;
        }
        parsed[n_digits / 2] = (uint8_t)(parsed[n_digits / 2] << 4 | value);
        n_digits++;
    }
    if (text[UUID_TEXT_LEN] != '\0') {
        return MM_EINVAL;
    }
    memcpy(uuid, parsed, UUID_LEN);
    return 0;
}

static int compare_uuids(const void *a, const void *b)
{
    return memcmp(a, b, UUID_LEN);
}

void mm_layout_most_frequent_uuid(uint8_t (*uuids)[16], size_t n, uint8_t out[16])
{
    size_t n_best = 0;
    qsort(uuids, n, sizeof *uuids, compare_uuids);
    for (size_t i = 0, same = 0; i < n; i++) {
        same = i > 0 && compare_uuids(uuids[i - 1], uuids[i]) == 0 ? same + 1 : 1;
        if (same > n_best) {
            n_best = same;
            memcpy(out, uuids[i], UUID_LEN);
        }
    }
}
