#include "mm_format.h"
#include "random.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include <cmocka.h>

/* Pseudo-random, the same in each run. */
/* Bytes and how many: topics and values may hold NUL. */
struct bytes
{
    uint8_t *data;
    size_t len;
};

static struct bytes new_bytes(size_t size)
{
    struct bytes b = {.data = malloc(size + 1), .len = 0};
    assert_non_null(b.data);
    return b;
}

static void add(struct bytes *b, const char *text)
{
    size_t len = strlen(text);
    memcpy(b->data + b->len, text, len);
    b->len += len;
}

/* The model: one code point at a time, by arithmetic. */

/* Length and value of the well-formed sequence at p, or 0. */
static size_t model_decode(const uint8_t *p, size_t left, uint32_t *code)
{
    static const uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t n_ones = 0;
    while (n_ones < 8 && (p[0] >> (7 - n_ones) & 1) == 1) {
        n_ones++;
    }
    if (n_ones == 0) {
        *code = p[0];
        return 1;
    }
    if (n_ones == 1 || n_ones > 4 || n_ones > left) {
        return 0;
    }
    uint32_t value = p[0] & (0xFFu >> (n_ones + 1));
    for (size_t i = 1; i < n_ones; i++) {
        if (p[i] < 0x80 || p[i] > 0xBF) {
            return 0;
        }
        value = value * 64 + (p[i] - 0x80u);
    }
    bool surrogate = value >= 0xD800 && value < 0xE000;
    if (value < smallest[n_ones] || value > 0x10FFFF || surrogate) {
        return 0;
    }
    *code = value;
    return n_ones;
}

static void model_escape(struct bytes *out, const uint8_t *p, size_t len)
{
    while (len > 0) {
        uint32_t code = 0;
        size_t n = model_decode(p, len, &code);
        char text[8] = "";
        if (n == 0) {
            add(out, "\\ufffd");
            n = 1;
        } else if (code == '"' || code == '\\') {
            snprintf(text, sizeof text, "\\%c", (char)code);
        } else if (code == '\b') {
            add(out, "\\b");
        } else if (code == '\f') {
            add(out, "\\f");
        } else if (code == '\n') {
            add(out, "\\n");
        } else if (code == '\r') {
            add(out, "\\r");
        } else if (code == '\t') {
            add(out, "\\t");
        } else if (code < 0x20 || code == '<' || code == '>' || code == '&' || code == 0x2028 ||
                   code == 0x2029) {
            snprintf(text, sizeof text, "\\u%04x", code & 0xFFFFu);
        } else {
            memcpy(text, p, n);
        }
        add(out, text);
        p += n;
        len -= n;
    }
}

/* Six bits at a time from a string of bits. */
static void model_base64(struct bytes *out, const uint8_t *p, size_t len)
{
    static const char alphabet[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t bit = 0; bit < 8 * len; bit += 6) {
        unsigned value = 0;
        for (size_t i = bit; i < bit + 6; i++) {
            unsigned byte = i < 8 * len ? p[i / 8] : 0;
            value = value << 1 | (byte >> (7 - i % 8) & 1);
        }
        out->data[out->len++] = (uint8_t)alphabet[value];
    }
    while (out->len % 4 != 0) {
        out->data[out->len++] = '=';
    }
}

static struct bytes decode_base64(const char *text)
{
    size_t len = strlen(text);
    struct bytes out = new_bytes(len);
    uint32_t bits = 0;
    unsigned n_bits = 0;
    for (size_t i = 0; i < len && text[i] != '='; i++) {
        static const char alphabet[] =
            "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        const char *found = strchr(alphabet, text[i]);
        assert_non_null(found);
        bits = bits << 6 | (uint32_t)(found - alphabet);
        n_bits += 6;
        if (n_bits >= 8) {
            n_bits -= 8;
            out.data[out.len++] = (uint8_t)(bits >> n_bits);
        }
    }
    return out;
}

static struct mm_format *new_format(const char *topic_name, const char *content_name)
{
    struct mm_format *f = NULL;
    assert_int_equal(mm_format_new(topic_name, content_name, &f), 0);
    assert_non_null(f);
    return f;
}

/* The value, in memory of exactly the promised size: the address sanitizer sees each byte too
 * many. */
static struct bytes format(const struct mm_format *f,
                           const void *topic,
                           size_t topic_len,
                           const void *payload,
                           size_t n)
{
    size_t bound = mm_format_json_bound(f, topic_len, n);
    struct bytes out = {.data = malloc(bound), .len = 0};
    assert_non_null(out.data);
    out.len = mm_format_json(f, topic, topic_len, payload, n, (char *)out.data);
    assert_true(out.len <= bound);
    return out;
}

static void assert_equal_bytes(struct bytes got, struct bytes expected)
{
    assert_int_equal(got.len, expected.len);
    if (got.len > 0) {
        assert_memory_equal(got.data, expected.data, got.len);
    }
}

static void check_escaped(const char *topic, size_t topic_len, const char *escaped)
{
    struct mm_format *f = new_format("t", "c");
    struct bytes got = format(f, topic, topic_len, NULL, 0);
    struct bytes expected = new_bytes(strlen(escaped) + 20);
    add(&expected, "{\"t\":\"");
    add(&expected, escaped);
    add(&expected, "\",\"c\":\"\"}");
    assert_equal_bytes(got, expected);
    free(expected.data);
    free(got.data);
    mm_format_free(f);
}

#define CHECK(topic, escaped) check_escaped(topic, sizeof(topic) - 1, escaped)

static struct bytes member(const cJSON *line, const char *name)
{
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(line, name));
    assert_non_null(text);
    return decode_base64(text);
}

static void check_golden(const cJSON *line, const struct mm_format *f, const char *value_name)
{
    struct bytes topic = member(line, "topic_base64");
    struct bytes payload = member(line, "payload_base64");
    struct bytes expected = member(line, value_name);
    struct bytes got = format(f, topic.data, topic.len, payload.data, payload.len);
    assert_equal_bytes(got, expected);
    free(got.data);
    free(expected.data);
    free(payload.data);
    free(topic.data);
}

static void test_golden(void **state)
{
    (void)state;
    struct mm_format *capital = new_format("Topic", "Content");
    struct mm_format *small = new_format("topic", "content");
    FILE *file = fopen(MM_TEST_DATA_DIR "/golden.jsonl", "r");
    assert_non_null(file);
    char *text = NULL;
    size_t text_size = 0;
    int n_cases = 0;
    while (getline(&text, &text_size, file) > 0) {
        cJSON *line = cJSON_Parse(text);
        assert_non_null(line);
        check_golden(line, capital, "value_capital_base64");
        check_golden(line, small, "value_small_base64");
        cJSON_Delete(line);
        n_cases++;
    }
    assert_int_equal(n_cases, 60);
    free(text);
    assert_int_equal(fclose(file), 0);
    mm_format_free(small);
    mm_format_free(capital);
}

static void test_control_characters(void **state)
{
    (void)state;
    for (int c = 0; c < 0x20; c++) {
        char topic[] = {'a', (char)c, 'b'};
        char escaped[16];
        snprintf(escaped, sizeof escaped, "a\\u%04xb", (unsigned)c);
        static const char shorts[] = "\bb\ff\nn\rr\tt";
        for (size_t i = 0; i < sizeof shorts - 1; i += 2) {
            if (c == shorts[i]) {
                snprintf(escaped, sizeof escaped, "a\\%cb", shorts[i + 1]);
            }
        }
        check_escaped(topic, sizeof topic, escaped);
    }
}

static void test_ascii_that_stands(void **state)
{
    (void)state;
    for (int c = 0x20; c < 0x80; c++) {
        if (strchr("\"\\<>&", c) == NULL) {
            char topic[] = {(char)c, '\0'};
            check_escaped(topic, 1, topic);
        }
    }
}

static void test_quotes_and_html(void **state)
{
    (void)state;
    CHECK("\"", "\\\"");
    CHECK("\\", "\\\\");
    CHECK("a\"b\\c", "a\\\"b\\\\c");
    CHECK("<", "\\u003c");
    CHECK(">", "\\u003e");
    CHECK("&", "\\u0026");
    CHECK("<b>&amp;</b>", "\\u003cb\\u003e\\u0026amp;\\u003c/b\\u003e");
    CHECK("/'`\x7F", "/'`\x7F");
}

static void test_line_separators(void **state)
{
    (void)state;
    CHECK("\u2028", "\\u2028");
    CHECK("\u2029", "\\u2029");
    CHECK("a\u2028b\u2029c", "a\\u2028b\\u2029c");
    CHECK("\u2027\u202A", "\u2027\u202A");
    CHECK("\u1028\u3028\u2068", "\u1028\u3028\u2068");
}

static void test_valid_utf8_stands(void **state)
{
    (void)state;
    CHECK("", "");
    CHECK("\xC2\x80", "\xC2\x80");         /* U+0080 */
    CHECK("\xDF\xBF", "\xDF\xBF");         /* U+07FF */
    CHECK("\xE0\xA0\x80", "\xE0\xA0\x80"); /* U+0800 */
    CHECK("\xED\x9F\xBF", "\xED\x9F\xBF"); /* U+D7FF */
    CHECK("\xEE\x80\x80", "\xEE\x80\x80"); /* U+E000 */
    CHECK("\xEF\xBB\xBF", "\xEF\xBB\xBF"); /* U+FEFF */
    CHECK("\xEF\xBF\xBD", "\xEF\xBF\xBD"); /* U+FFFD */
    CHECK("\xEF\xBF\xBF", "\xEF\xBF\xBF"); /* U+FFFF */
    CHECK("\xF0\x90\x80\x80", "\xF0\x90\x80\x80");
    CHECK("\xF0\x9F\x9A\x80", "\xF0\x9F\x9A\x80");
    CHECK("\xF4\x8F\xBF\xBF", "\xF4\x8F\xBF\xBF"); /* U+10FFFF */
}

#define BAD "\\ufffd"

static void test_invalid_utf8(void **state)
{
    (void)state;
    CHECK("\x80", BAD);
    CHECK("\xBF", BAD);
    CHECK("\xFF", BAD);
    CHECK("\xF5\xFE", BAD BAD);
    CHECK("\xC0\x80", BAD BAD); /* overlong */
    CHECK("\xC1\xBF", BAD BAD);
    CHECK("\xE0\x80\xAF", BAD BAD BAD);
    CHECK("\xE0\x9F\xBF", BAD BAD BAD);
    CHECK("\xF0\x80\x80\xAF", BAD BAD BAD BAD);
    CHECK("\xF0\x8F\xBF\xBF", BAD BAD BAD BAD);
    CHECK("\xED\xA0\x80", BAD BAD BAD); /* surrogates */
    CHECK("\xED\xBF\xBF", BAD BAD BAD);
    CHECK("\xED\xA0\xBD\xED\xB8\x80", BAD BAD BAD BAD BAD BAD);
    CHECK("\xF4\x90\x80\x80", BAD BAD BAD BAD); /* above U+10FFFF */
    CHECK("\xF5\x80\x80\x80", BAD BAD BAD BAD);
    CHECK("\xF8\x88\x80\x80\x80", BAD BAD BAD BAD BAD);
}

static void test_truncated_utf8(void **state)
{
    (void)state;
    CHECK("\xC3", BAD);
    CHECK("\xC3/", BAD "/");
    CHECK("\xE2\x82", BAD BAD);
    CHECK("\xE2\x82/", BAD BAD "/");
    CHECK("\xE2/\x82", BAD "/" BAD);
    CHECK("\xF0\x9F\x98", BAD BAD BAD);
    CHECK("\xF0\x9F\x98/", BAD BAD BAD "/");
    CHECK("\xF0\x9F", BAD BAD);
    CHECK("\xF0", BAD);
    CHECK("\xE2\x82\xC3\xA6", BAD BAD "\xC3\xA6"); /* the next byte is looked at afresh */
    CHECK("\xE2\x80\xA8\xE2\x80", "\\u2028" BAD BAD);
}

/* The fast path takes eight bytes at a time: every place for what is special. */
static void test_every_place(void **state)
{
    (void)state;
    for (size_t len = 1; len <= 40; len++) {
        for (size_t at = 0; at < len; at++) {
            char topic[41];
            memset(topic, 'x', sizeof topic);
            topic[at] = '<';
            char escaped[64];
            snprintf(escaped, sizeof escaped, "%.*s\\u003c%.*s", (int)at, topic,
                     (int)(len - at - 1), topic + at + 1);
            check_escaped(topic, len, escaped);
        }
    }
}

static void check_model(const struct mm_format *f, const uint8_t *topic, size_t len)
{
    uint8_t *exact = malloc(len + (len == 0));
    assert_non_null(exact);
    memcpy(exact, topic, len);
    struct bytes got = format(f, exact, len, NULL, 0);
    struct bytes expected = new_bytes(6 * len + 30);
    add(&expected, "{\"t\":\"");
    model_escape(&expected, exact, len);
    add(&expected, "\",\"c\":\"\"}");
    assert_equal_bytes(got, expected);
    free(expected.data);
    free(got.data);
    free(exact);
}

static void test_all_short_strings(void **state)
{
    (void)state;
    struct mm_format *f = new_format("t", "c");
    for (unsigned a = 0; a < 256; a++) {
        for (unsigned b = 0; b < 256; b++) {
            uint8_t topic[] = {(uint8_t)a, (uint8_t)b};
            check_model(f, topic, 1);
            check_model(f, topic, 2);
        }
    }
    mm_format_free(f);
}

/* Random bytes are hardly ever UTF-8, so half of the bytes come from a list of those that matter.
 */
static void test_random_strings(void **state)
{
    (void)state;
    static const uint8_t edges[] = {
        0x00, 0x08, 0x1F, 0x20, '"',  '&',  '<',  '>',  '\\', 0x7F, 0x80, 0x8F, 0x90,
        0x9F, 0xA0, 0xA8, 0xA9, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xE2, 0xEC,
        0xED, 0xEE, 0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xFF, 0x80, 0x80, 0xBF,
    };
    struct mm_format *f = new_format("t", "c");
    uint64_t random = 11;
    for (int round = 0; round < 100000; round++) {
        uint8_t topic[48];
        size_t len = next_random(&random) % (sizeof topic + 1);
        uint32_t kind = next_random(&random) % 3;
        for (size_t i = 0; i < len; i++) {
            uint32_t r = next_random(&random);
            bool edge = kind == 0 || (kind == 1 && r % 8 == 0);
            uint8_t any = (uint8_t)(r >> 8);
            topic[i] = edge ? edges[(r >> 8) % sizeof edges] : kind == 1 ? any & 0x7F : any;
        }
        check_model(f, topic, len);
    }
    mm_format_free(f);
}

static void test_field_names_are_escaped(void **state)
{
    (void)state;
    struct mm_format *f = new_format("a\"<\n", "\u00E6\xFF");
    struct bytes got = format(f, "x", 1, "y", 1);
    struct bytes expected = new_bytes(100);
    add(&expected, "{\"a\\\"\\u003c\\n\":\"x\",\"\u00E6\\ufffd\":\"eQ==\"}");
    assert_equal_bytes(got, expected);
    free(expected.data);
    free(got.data);
    mm_format_free(f);

    f = new_format("", "");
    got = format(f, "", 0, NULL, 0);
    assert_int_equal(got.len, strlen("{\"\":\"\",\"\":\"\"}"));
    assert_memory_equal(got.data, "{\"\":\"\",\"\":\"\"}", got.len);
    free(got.data);
    mm_format_free(f);
}

static void test_bound_is_reached(void **state)
{
    (void)state;
    struct mm_format *f = new_format("Topic", "Content");
    char *topic = malloc(UINT16_MAX);
    assert_non_null(topic);
    memset(topic, 0x01, UINT16_MAX);
    for (size_t len = 0; len <= UINT16_MAX; len = len * 3 + 1) {
        struct bytes got = format(f, topic, len, topic, len);
        assert_int_equal(got.len, mm_format_json_bound(f, len, len));
        free(got.data);
    }
    struct bytes got = format(f, topic, UINT16_MAX, NULL, 0);
    assert_int_equal(got.len, mm_format_json_bound(f, UINT16_MAX, 0));
    free(got.data);
    free(topic);
    mm_format_free(f);
}

static void test_free_accepts_null(void **state)
{
    (void)state;
    mm_format_free(NULL);
}

static void test_base64_rfc_vectors(void **state)
{
    (void)state;
    /* RFC 4648 section 10. */
    static const char *const encoded[] = {"",         "Zg==",     "Zm8=",    "Zm9v",
                                          "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"};
    for (size_t len = 0; len <= 6; len++) {
        char dst[8];
        assert_int_equal(mm_base64_encode("foobar", len, dst), strlen(encoded[len]));
        if (len > 0) {
            assert_memory_equal(dst, encoded[len], strlen(encoded[len]));
        }
    }
    assert_int_equal(mm_base64_encode(NULL, 0, NULL), 0);
}

static void check_base64(const uint8_t *src, size_t len)
{
    uint8_t *exact = malloc(len + (len == 0));
    struct bytes got = {.data = malloc(4 * ((len + 2) / 3) + (len == 0)), .len = 0};
    struct bytes expected = new_bytes(2 * len + 4);
    assert_non_null(exact);
    assert_non_null(got.data);
    memcpy(exact, src, len);
    got.len = mm_base64_encode(exact, len, (char *)got.data);
    model_base64(&expected, exact, len);
    assert_equal_bytes(got, expected);
    free(expected.data);
    free(got.data);
    free(exact);
}

static void test_base64_every_length(void **state)
{
    (void)state;
    uint8_t bytes[2000];
    uint64_t random = 5;
    for (int round = 0; round < 20; round++) {
        for (size_t i = 0; i < sizeof bytes; i++) {
            bytes[i] = (uint8_t)next_random(&random);
        }
        for (size_t len = 0; len <= 200; len++) {
            check_base64(bytes, len);
        }
        check_base64(bytes, sizeof bytes);
    }
}

/* All 64 values in each place of a vector. */
static void test_base64_every_value(void **state)
{
    (void)state;
    for (unsigned value = 0; value < 256; value++) {
        uint8_t bytes[96];
        memset(bytes, (int)value, sizeof bytes);
        check_base64(bytes, sizeof bytes);
        for (size_t i = 0; i < sizeof bytes; i++) {
            bytes[i] = (uint8_t)(value + i);
        }
        check_base64(bytes, sizeof bytes);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_control_characters),
        cmocka_unit_test(test_ascii_that_stands),
        cmocka_unit_test(test_quotes_and_html),
        cmocka_unit_test(test_line_separators),
        cmocka_unit_test(test_valid_utf8_stands),
        cmocka_unit_test(test_invalid_utf8),
        cmocka_unit_test(test_truncated_utf8),
        cmocka_unit_test(test_every_place),
        cmocka_unit_test(test_all_short_strings),
        cmocka_unit_test(test_random_strings),
        cmocka_unit_test(test_field_names_are_escaped),
        cmocka_unit_test(test_bound_is_reached),
        cmocka_unit_test(test_free_accepts_null),
        cmocka_unit_test(test_base64_rfc_vectors),
        cmocka_unit_test(test_base64_every_length),
        cmocka_unit_test(test_base64_every_value),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
