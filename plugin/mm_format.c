#include "mm_format.h"

#include "mm_error.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <tmmintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

/* The longest that one byte of a topic can become: \uXXXX. */
#define MAX_ESCAPE_LEN 6

/* The constant parts of a value. */
struct mm_format
{
    size_t head_len;   /* {"Topic":" */
    size_t middle_len; /* ","Content":" */
    char text[];       /* head, then middle */
};

static const char tail[] = "\"}";
#define TAIL_LEN (sizeof tail - 1)

/* What becomes of a byte: 0, it stands as it is; U, \u00xx; M, it depends on those that follow; any
 * other, a backslash and that character. */
enum {
    U = 'u',
    M = 'm'
};
static const char class_of[256] = {
    /* clang-format off */
    U, U, U, U, U, U, U, U, 'b', 't', 'n', U, 'f', 'r', U, U,
    U, U, U, U, U, U, U, U, U, U, U, U, U, U, U, U,
    0, 0, '"', 0, 0, 0, U, 0, 0, 0, 0, 0, 0, 0, 0, 0, /* & */
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, U, 0, U, 0,   /* < > */
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, '\\', 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M,
    M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M,
    M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M,
    M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M,
    M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M,
    M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M,
    M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M,
    M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M,
    /* clang-format on */
};

static bool is_continuation(uint8_t byte)
{
    return (byte & 0xC0) == 0x80;
}

/* Length of the UTF-8 sequence of two bytes or more that p begins with; 0 when it is none (Unicode
 * 15.0, table 3-7). What is not shortest, a surrogate or above U+10FFFF shows in the second byte.
 */
static size_t utf8_len(const uint8_t *p, size_t left)
{
    uint8_t lead = p[0];
    if (lead < 0xC2 || lead > 0xF4 || left < 2 || !is_continuation(p[1])) {
        return 0;
    }
    if (lead < 0xE0) {
        return 2;
    }
    if (left < 3 || !is_continuation(p[2])) {
        return 0;
    }
    if (lead < 0xF0) {
        bool overlong = lead == 0xE0 && p[1] < 0xA0;
        bool surrogate = lead == 0xED && p[1] > 0x9F;
        return overlong || surrogate ? 0 : 3;
    }
    if (left < 4 || !is_continuation(p[3])) {
        return 0;
    }
    bool overlong = lead == 0xF0 && p[1] < 0x90;
    bool too_large = lead == 0xF4 && p[1] > 0x8F;
    return overlong || too_large ? 0 : 4;
}

static char *put(char *dst, const void *src, size_t len)
{
    memcpy(dst, src, len);
    return dst + len;
}

static char *put_hex_escape(char *dst, uint8_t byte)
{
    static const char hex[] = "0123456789abcdef";
    dst = put(dst, "\\u00", 4);
    *dst++ = hex[byte >> 4];
    *dst++ = hex[byte & 15];
    return dst;
}

/* One character at *p that is not ASCII, or one byte that begins none. Moves *p behind it. */
static char *put_multi_byte(char *dst, const uint8_t **p, const uint8_t *end)
{
    const uint8_t *c = *p;
    size_t n = utf8_len(c, (size_t)(end - c));
    if (n == 0) {
        *p += 1;
        return put(dst, "\\ufffd", 6);
    }
    *p += n;
    if (c[0] == 0xE2 && c[1] == 0x80 && (c[2] == 0xA8 || c[2] == 0xA9)) {
        return put(dst, c[2] == 0xA8 ? "\\u2028" : "\\u2029", 6);
    }
    return put(dst, c, n);
}

static char *put_special(char *dst, const uint8_t **p, const uint8_t *end)
{
    char class = class_of[**p];
    if (class == M) {
        return put_multi_byte(dst, p, end);
    }
    uint8_t byte = *(*p)++;
    if (class == U) {
        return put_hex_escape(dst, byte);
    }
    *dst++ = '\\';
    *dst++ = class;
    return dst;
}

static bool are_8_plain(const uint8_t *p)
{
    return (class_of[p[0]] | class_of[p[1]] | class_of[p[2]] | class_of[p[3]] | class_of[p[4]] |
            class_of[p[5]] | class_of[p[6]] | class_of[p[7]]) == 0;
}

/* Write a string of JSON without its quotes: at most MAX_ESCAPE_LEN * len bytes. Returns the byte
 * behind. */
static char *put_escaped(char *dst, const char *str, size_t len)
{
    const uint8_t *p = (const uint8_t *)str;
    const uint8_t *end = p + len;
    while (p < end) {
        for (; end - p >= 8 && are_8_plain(p); p += 8) {
            dst = put(dst, p, 8);
        }
        for (; p < end && class_of[*p] == 0; p++) {
            *dst++ = (char)*p;
        }
        if (p < end) {
            dst = put_special(dst, &p, end);
        }
    }
    return dst;
}

int mm_format_new(const char *topic_name, const char *content_name, struct mm_format **out)
{
    size_t topic_len = strlen(topic_name);
    size_t content_len = strlen(content_name);
    struct mm_format *f = malloc(sizeof *f + sizeof "{\"\":\"" + sizeof "\",\"\":\"" +
                                 MAX_ESCAPE_LEN * (topic_len + content_len));
    *out = f;
    if (f == NULL) {
        return MM_ENOMEM;
    }
    char *p = put(f->text, "{\"", 2);
    p = put_escaped(p, topic_name, topic_len);
    p = put(p, "\":\"", 3);
    f->head_len = (size_t)(p - f->text);
    p = put(p, "\",\"", 3);
    p = put_escaped(p, content_name, content_len);
    p = put(p, "\":\"", 3);
    f->middle_len = (size_t)(p - f->text) - f->head_len;
    return 0;
}

void mm_format_free(struct mm_format *f)
{
    free(f);
}

size_t mm_base64_len(size_t len)
{
    return (len / 3 + (len % 3 != 0)) * 4;
}

size_t mm_format_json_bound(const struct mm_format *f, size_t topic_len, size_t payload_len)
{
    return f->head_len + MAX_ESCAPE_LEN * topic_len + f->middle_len + mm_base64_len(payload_len) +
           TAIL_LEN;
}

size_t mm_format_json(const struct mm_format *f,
                      const char *topic,
                      size_t topic_len,
                      const void *payload,
                      size_t payload_len,
                      char *dst)
{
    char *p = put(dst, f->text, f->head_len);
    p = put_escaped(p, topic, topic_len);
    p = put(p, f->text + f->head_len, f->middle_len);
    p += mm_base64_encode(payload, payload_len, p);
    p = put(p, tail, TAIL_LEN);
    return (size_t)(p - dst);
}

static size_t escaped_len(const char *text, size_t len)
{
    char special[MAX_ESCAPE_LEN];
    const uint8_t *p = (const uint8_t *)text;
    const uint8_t *end = p + len;
    size_t n = 0;
    while (p < end) {
        if (class_of[*p] == 0) {
            p++;
            n++;
        } else {
            n += (size_t)(put_special(special, &p, end) - special);
        }
    }
    return n;
}

size_t mm_format_json_len(const struct mm_format *f,
                          const char *topic,
                          size_t topic_len,
                          size_t payload_len)
{
    return f->head_len + escaped_len(topic, topic_len) + f->middle_len +
           mm_base64_len(payload_len) + TAIL_LEN;
}

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/* A step of the vector forms: reads VECTOR_READ bytes at src (of which it encodes VECTOR_IN) and
 * writes VECTOR_IN / 3 * 4 at dst. */
#if defined(__x86_64__)

#define VECTOR __attribute__((target("ssse3")))
#define VECTOR_READ 16
#define VECTOR_IN 12

static bool has_vector(void)
{
    return __builtin_cpu_supports("ssse3") != 0;
}

/* After W. Mula and D. Lemire, "Faster Base64 Encoding and Decoding Using AVX2 Instructions" (ACM
 * TWEB 2018), section 3, in registers of 128 bits. */
static inline VECTOR void encode_vector(const uint8_t *src, char *dst)
{
    __m128i in = _mm_loadu_si128((const __m128i *)src);

    /* Each 32 bits get three bytes a, b, c as b, a, c, b; then two multiplications move the four
     * groups of six bits into a byte each. */
    in = _mm_shuffle_epi8(in, _mm_setr_epi8(1, 0, 2, 1, 4, 3, 5, 4, 7, 6, 8, 7, 10, 9, 11, 10));
    __m128i ac =
        _mm_mulhi_epu16(_mm_and_si128(in, _mm_set1_epi32(0x0FC0FC00)), _mm_set1_epi32(0x04000040));
    __m128i bd =
        _mm_mullo_epi16(_mm_and_si128(in, _mm_set1_epi32(0x003F03F0)), _mm_set1_epi32(0x01000010));
    __m128i six = _mm_or_si128(ac, bd);

    /* The distance from the value to its character depends on the range that it lies in: 13 for A
     * to Z, 0 for a to z, 1 to 10 for the digits, 11 for +, 12 for /. */
    __m128i range = _mm_subs_epu8(six, _mm_set1_epi8(51));
    __m128i is_capital = _mm_cmpgt_epi8(_mm_set1_epi8(26), six);
    range = _mm_or_si128(range, _mm_and_si128(is_capital, _mm_set1_epi8(13)));
    __m128i distance =
        _mm_setr_epi8('a' - 26, '0' - 52, '0' - 52, '0' - 52, '0' - 52, '0' - 52, '0' - 52,
                      '0' - 52, '0' - 52, '0' - 52, '0' - 52, '+' - 62, '/' - 63, 'A', 0, 0);
    _mm_storeu_si128((__m128i *)dst, _mm_add_epi8(six, _mm_shuffle_epi8(distance, range)));
}

#elif defined(__aarch64__)

#define VECTOR
#define VECTOR_READ 48
#define VECTOR_IN 48

static bool has_vector(void)
{
    return true;
}

static inline void encode_vector(const uint8_t *src, char *dst)
{
    uint8x16x4_t table = vld1q_u8_x4((const uint8_t *)alphabet);
    uint8x16_t mask = vdupq_n_u8(63);
    uint8x16x3_t in = vld3q_u8(src);
    uint8x16x4_t six = {{
        vshrq_n_u8(in.val[0], 2),
        vandq_u8(vsliq_n_u8(vshrq_n_u8(in.val[1], 4), in.val[0], 4), mask),
        vandq_u8(vsliq_n_u8(vshrq_n_u8(in.val[2], 6), in.val[1], 2), mask),
        vandq_u8(in.val[2], mask),
    }};
    uint8x16x4_t out = {{
        vqtbl4q_u8(table, six.val[0]),
        vqtbl4q_u8(table, six.val[1]),
        vqtbl4q_u8(table, six.val[2]),
        vqtbl4q_u8(table, six.val[3]),
    }};
    vst4q_u8((uint8_t *)dst, out);
}

#endif

#if defined(VECTOR)

/* Encode as much of len bytes as the vectors take. Returns how much, a multiple of 3. */
static VECTOR size_t encode_vectors(const uint8_t *src, size_t len, char *dst)
{
    size_t done = 0;
    for (; len - done >= VECTOR_READ; done += VECTOR_IN) {
        encode_vector(src + done, dst + done / 3 * 4);
    }
    return done;
}

#else

static bool has_vector(void)
{
    return false;
}

static size_t encode_vectors(const uint8_t *src, size_t len, char *dst)
{
    (void)src, (void)len, (void)dst;
    return 0;
}

#endif

static char *encode_3(const uint8_t *p, char *dst)
{
    dst[0] = alphabet[p[0] >> 2];
    dst[1] = alphabet[(p[0] & 3) << 4 | p[1] >> 4];
    dst[2] = alphabet[(p[1] & 15) << 2 | p[2] >> 6];
    dst[3] = alphabet[p[2] & 63];
    return dst + 4;
}

size_t mm_base64_encode(const void *src, size_t len, char *dst)
{
    if (len == 0) {
        return 0; /* src may be NULL, to which C allows no addition, not even of 0 */
    }
    const uint8_t *p = src;
    size_t done = has_vector() ? encode_vectors(p, len, dst) : 0;
    char *d = dst + done / 3 * 4;
    for (; len - done >= 3; done += 3) {
        d = encode_3(p + done, d);
    }
    if (len > done) {
        /* The last one or two bytes, as if zero bytes followed, which become '='. */
        uint8_t last[3] = {p[done], len - done == 2 ? p[done + 1] : 0, 0};
        d = encode_3(last, d);
        d[-1] = '=';
        if (len - done == 1) {
            d[-2] = '=';
        }
    }
    return (size_t)(d - dst);
}
