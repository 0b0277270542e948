/* Segment header, seal and STATE are read from files that we did not write. The first byte of the
 * input says which, and whether its checksum is made right, since no fuzzer finds one; the rest is
 * the beginning of the bytes. */
#include "mm_error.h"
#include "mm_layout.h"
#include "mm_record.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define SALT 0x1122334455667788u
#define HEADER_COPY_LEN 128
#define SECOND_COPY 2048

enum what {
    WHAT_HEADER,
    WHAT_SEAL,
    WHAT_STATE,
    N_WHAT
};

static void check(bool ok)
{
    if (!ok) {
        abort();
    }
}

/* Put the right magic, and the right checksum in the last 4 bytes. */
static void mend(uint8_t *bytes, size_t len, const char *magic, uint32_t start)
{
    for (size_t i = 0; magic[i] != '\0'; i++) {
        bytes[i] = (uint8_t)magic[i];
    }
    uint32_t crc = mm_crc32c(start, bytes, len - 4);
    for (size_t i = 0; i < 4; i++) {
        bytes[len - 4 + i] = (uint8_t)(crc >> 8 * i);
    }
}

/* Exactly as many bytes as the decoder may touch: the input, then zeros. */
static uint8_t *new_bytes(const uint8_t *data, size_t size, size_t len)
{
    uint8_t *bytes = calloc(1, len + (len == 0));
    check(bytes != NULL);
    memcpy(bytes, data, size < len ? size : len);
    return bytes;
}

static void check_header(const uint8_t *data, size_t size, bool mended)
{
    size_t len = size < MM_LAYOUT_HEADER_LEN ? size : MM_LAYOUT_HEADER_LEN;
    uint8_t *bytes = new_bytes(data, size, len);
    if (mended && len >= HEADER_COPY_LEN) {
        mend(bytes, HEADER_COPY_LEN, "MQKSPOOL", 0);
    }
    if (mended && len >= SECOND_COPY + HEADER_COPY_LEN && bytes[12] % 2 != 0) {
        mend(bytes + SECOND_COPY, HEADER_COPY_LEN, "MQKSPOOL", 0);
    }
    struct mm_layout_header h = {.version = 99};
    uint32_t n_copies = 99;
    int err = mm_layout_decode_header(bytes, len, &h, &n_copies);
    check(n_copies <= 2 && (n_copies == 0) == (err == MM_ECORRUPT));
    check(err == 0 || err == MM_ECORRUPT || err == MM_EVERSION);
    check(!mended || len < HEADER_COPY_LEN || n_copies > 0);
    check(err != MM_EVERSION || h.version != MM_LAYOUT_VERSION);
    if (err == 0) {
        uint8_t encoded[MM_LAYOUT_HEADER_LEN];
        struct mm_layout_header again;
        mm_layout_encode_header(encoded, &h);
        check(mm_layout_decode_header(encoded, sizeof encoded, &again, &n_copies) == 0);
        check(n_copies == 2 && memcmp(&again, &h, sizeof h) == 0);
    }
    free(bytes);
}

static void check_seal(const uint8_t *data, size_t size, bool mended)
{
    uint8_t *bytes = new_bytes(data, size, MM_LAYOUT_SEAL_LEN);
    if (mended) {
        static const uint8_t salt[8] = {0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11};
        mend(bytes, MM_LAYOUT_SEAL_LEN, "MQKSSEAL", mm_crc32c(0, salt, sizeof salt));
    }
    struct mm_layout_seal seal;
    int err = mm_layout_decode_seal(bytes, SALT, &seal);
    check(err == 0 || (!mended && (err == MM_EAGAIN || err == MM_ECORRUPT)));
    if (err == 0) {
        uint8_t encoded[MM_LAYOUT_SEAL_LEN];
        struct mm_layout_seal again;
        mm_layout_encode_seal(encoded, SALT, &seal);
        check(mm_layout_decode_seal(encoded, SALT, &again) == 0);
        check(memcmp(&again, &seal, sizeof seal) == 0);
        check(mm_layout_decode_seal(encoded, SALT + 1, &again) == MM_ECORRUPT);
    }
    free(bytes);
}

static void check_state(const uint8_t *data, size_t size, bool mended)
{
    static const uint8_t version[4] = {MM_LAYOUT_VERSION, 0, 0, 0};
    uint8_t *bytes = new_bytes(data, size, MM_LAYOUT_STATE_LEN);
    bool known = memcmp(bytes + 8, version, sizeof version) == 0;
    if (mended) {
        mend(bytes, MM_LAYOUT_STATE_LEN, "MQKSTATE", 0);
    }
    struct mm_layout_state s;
    int err = mm_layout_decode_state(bytes, &s);
    check(err == 0 || err == MM_EAGAIN || err == MM_ECORRUPT || err == MM_EVERSION);
    check(!mended || (err == MM_EVERSION) == !known);
    if (err == 0) {
        check(s.n_ranges >= 1 && s.n_ranges <= MM_LAYOUT_RANGES_MAX && s.ranges[0].hash == 0);
        for (size_t k = 1; k < s.n_ranges; k++) {
            check(s.ranges[k - 1].hash < s.ranges[k].hash);
        }
        uint8_t encoded[MM_LAYOUT_STATE_LEN];
        uint8_t twice[MM_LAYOUT_STATE_LEN];
        struct mm_layout_state again;
        mm_layout_encode_state(encoded, &s);
        check(mm_layout_decode_state(encoded, &again) == 0);
        mm_layout_encode_state(twice, &again);
        check(memcmp(twice, encoded, sizeof twice) == 0);
        check(again.n_ranges == s.n_ranges && again.next_seq == s.next_seq);
    }
    free(bytes);
}

static void check_uuid(const uint8_t *data, size_t size)
{
    char *text = (char *)new_bytes(data, size, size + 1);
    uint8_t uuid[16];
    if (mm_layout_parse_uuid(text, uuid) == 0) {
        char again[37];
        mm_layout_format_uuid(uuid, again);
        for (size_t i = 0; i < sizeof again; i++) {
            check(again[i] == text[i] || again[i] == (text[i] | 0x20));
        }
    }
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) {
        return 0;
    }
    bool mended = data[0] >= 128;
    enum what what = (enum what)(data[0] % N_WHAT);
    data++;
    size--;
    if (what == WHAT_HEADER) {
        check_header(data, size, mended);
        check_uuid(data, size);
    } else if (what == WHAT_SEAL) {
        check_seal(data, size, mended);
    } else {
        check_state(data, size, mended);
    }
    return 0;
}
