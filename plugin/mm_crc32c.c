#include "mm_record.h"

#include <endian.h>
#include <string.h>

#if defined(__x86_64__)
#include <nmmintrin.h>
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

/* The polynomial of RFC 3720, bits reversed: the lowest bit is the highest power. */
#define POLYNOMIAL 0x82F63B78u

/* The state of this file is filled before main(), or before dlopen() returns, and only read since:
 * no thread of ours exists then, so nothing is atomic. */
static uint32_t slices[8][256]; /* [k][b]: byte b, followed by k zero bytes */
static bool has_instruction;

static uint32_t load_le32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return le32toh(v);
}

static uint32_t step_table(uint32_t crc, uint8_t byte)
{
    return crc >> 8 ^ slices[0][(crc ^ byte) & 0xff];
}

uint32_t mm_crc32c_portable(uint32_t crc, const void *data, size_t len)
{
    const uint8_t *p = data;
    crc = ~crc;
    for (; len >= 8; len -= 8, p += 8) {
        uint32_t a = load_le32(p) ^ crc;
        uint32_t b = load_le32(p + 4);
        crc = slices[7][a & 0xff] ^ slices[6][a >> 8 & 0xff] ^ slices[5][a >> 16 & 0xff] ^
              slices[4][a >> 24] ^ slices[3][b & 0xff] ^ slices[2][b >> 8 & 0xff] ^
              slices[1][b >> 16 & 0xff] ^ slices[0][b >> 24];
    }
    for (; len > 0; len--, p++) {
        crc = step_table(crc, *p);
    }
    return ~crc;
}

static void fill_slices(void)
{
    for (uint32_t b = 0; b < 256; b++) {
        uint32_t crc = b;
        for (int bit = 0; bit < 8; bit++) {
            crc = crc >> 1 ^ (POLYNOMIAL & (0u - (crc & 1)));
        }
        slices[0][b] = crc;
    }
    for (uint32_t k = 1; k < 8; k++) {
        for (uint32_t b = 0; b < 256; b++) {
            slices[k][b] = step_table(slices[k - 1][b], 0);
        }
    }
}

#if defined(__x86_64__) || defined(__aarch64__)

/* The steps take the running checksum, not inverted, and the next bytes. It is 64 bits wide, with
 * the upper half 0, because the x86 instruction is: each narrowing would cost a move. */
#if defined(__x86_64__)

#define INSTRUCTION __attribute__((target("sse4.2")))

static inline INSTRUCTION uint64_t step8(uint64_t crc, const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return _mm_crc32_u64(crc, v);
}

static inline INSTRUCTION uint64_t step4(uint64_t crc, const uint8_t *p)
{
    return _mm_crc32_u32((uint32_t)crc, load_le32(p));
}

static inline INSTRUCTION uint64_t step2(uint64_t crc, const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return _mm_crc32_u16((uint32_t)crc, v);
}

static inline INSTRUCTION uint64_t step1(uint64_t crc, const uint8_t *p)
{
    return _mm_crc32_u8((uint32_t)crc, *p);
}

static bool detect_instruction(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("sse4.2") != 0;
}

#else

/* In assembler since <arm_acle.h> has these functions only when the whole file is compiled for a
 * processor that is known to have them (clang before 16). */
#define INSTRUCTION
#define STEP(name, value, registers) \
    __asm__(".arch_extension crc\n\t" name " %w0, %w0, " registers : "+r"(crc) : "r"(value))

static inline uint64_t step8(uint64_t crc, const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    STEP("crc32cx", le64toh(v), "%x1");
    return crc;
}

static inline uint64_t step4(uint64_t crc, const uint8_t *p)
{
    STEP("crc32cw", load_le32(p), "%w1");
    return crc;
}

static inline uint64_t step2(uint64_t crc, const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof v);
    STEP("crc32ch", (uint32_t)le16toh(v), "%w1");
    return crc;
}

static inline uint64_t step1(uint64_t crc, const uint8_t *p)
{
    STEP("crc32cb", (uint32_t)*p, "%w1");
    return crc;
}

static bool detect_instruction(void)
{
    return (getauxval(AT_HWCAP) & HWCAP_CRC32) != 0;
}

#endif

/* Long data is read as three streams side by side, since the instruction takes three cycles but one
 * can start in each. A stream has this many bytes. */
#define STREAM_LEN ((size_t)168)

/* What a checksum becomes when a certain number of zero bytes follow. That is linear, so each
 * half-byte of the checksum gives a share of its own. */
struct shift
{
    uint32_t share[8][16]; /* [k][v]: of the checksum v << 4k */
};

static struct shift over_one; /* STREAM_LEN zero bytes */
static struct shift over_two; /* 2 * STREAM_LEN */

static inline uint32_t shift(const struct shift *s, uint64_t crc)
{
    return s->share[0][crc & 15] ^ s->share[1][crc >> 4 & 15] ^ s->share[2][crc >> 8 & 15] ^
           s->share[3][crc >> 12 & 15] ^ s->share[4][crc >> 16 & 15] ^ s->share[5][crc >> 20 & 15] ^
           s->share[6][crc >> 24 & 15] ^ s->share[7][crc >> 28 & 15];
}

static uint32_t append_zeros(uint32_t crc, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        crc = step_table(crc, 0);
    }
    return crc;
}

static void fill_shifts(void)
{
    for (uint32_t k = 0; k < 8; k++) {
        for (uint32_t v = 0; v < 16; v++) {
            over_one.share[k][v] = append_zeros(v << (4 * k), STREAM_LEN);
        }
    }
    for (uint32_t k = 0; k < 8; k++) {
        for (uint32_t v = 0; v < 16; v++) {
            over_two.share[k][v] = shift(&over_one, over_one.share[k][v]);
        }
    }
}

/* The next 3 * STREAM_LEN bytes. The second and third stream start from 0; by linearity the result
 * is the sum of the three, each shifted over the bytes that follow it. */
static inline INSTRUCTION uint64_t step_streams(uint64_t crc, const uint8_t *p)
{
    uint64_t b = 0;
    uint64_t c = 0;
    for (size_t i = 0; i < STREAM_LEN; i += 8) {
        crc = step8(crc, p + i);
        b = step8(b, p + STREAM_LEN + i);
        c = step8(c, p + 2 * STREAM_LEN + i);
    }
    return shift(&over_two, crc) ^ shift(&over_one, b) ^ c;
}

static INSTRUCTION uint32_t crc_instruction(uint32_t start, const uint8_t *p, size_t len)
{
    uint64_t crc = ~start;
    for (; len >= 3 * STREAM_LEN; len -= 3 * STREAM_LEN) {
        crc = step_streams(crc, p);
        p += 3 * STREAM_LEN;
    }
    for (; len >= 8; len -= 8, p += 8) {
        crc = step8(crc, p);
    }
    if (len & 4) {
        crc = step4(crc, p);
        p += 4;
    }
    if (len & 2) {
        crc = step2(crc, p);
        p += 2;
    }
    if (len & 1) {
        crc = step1(crc, p);
    }
    return ~(uint32_t)crc;
}

static void prepare_instruction(void)
{
    fill_shifts();
    has_instruction = detect_instruction();
}

#else

static uint32_t crc_instruction(uint32_t start, const uint8_t *p, size_t len)
{
    return mm_crc32c_portable(start, p, len);
}

static void prepare_instruction(void)
{
}

#endif

__attribute__((constructor)) static void prepare(void)
{
    fill_slices();
    prepare_instruction();
}

uint32_t mm_crc32c(uint32_t crc, const void *data, size_t len)
{
    return has_instruction ? crc_instruction(crc, data, len) : mm_crc32c_portable(crc, data, len);
}
