/* From a record to a Kafka message: where it goes, its key, its value, its headers, its size. */
#include "mm_message.h"

#include "mm_config.h"
#include "mm_error.h"
#include "mm_headers.h"
#include "mm_route.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define LEN_OF(array) (sizeof(array) / sizeof(array)[0])
#define ID "01234567-89ab-cdef-0123-456789abcdef-42"

static void report(void *arg, const struct mm_finding *finding)
{
    (void)arg;
    print_message("%s\n", finding->text);
}

static struct mm_config *config_of(const struct mm_option *options, size_t n)
{
    struct mm_config_source source = {.options = options, .n_options = n, .report = report};
    struct mm_config *config = NULL;
    assert_int_equal(mm_config_new(&source, &config), 0);
    return config;
}

/* A record with room for properties. */
struct made
{
    struct mm_record rec;
    uint8_t props[200000];
};

static struct made *new_record(const char *topic, const void *payload, size_t len)
{
    struct made *made = calloc(1, sizeof *made);
    assert_non_null(made);
    made->rec = (struct mm_record){.seq = 42,
                                   .time_ms = 1700000000000,
                                   .type = MM_RECORD_MESSAGE,
                                   .flags = 1 | MM_RECORD_RETAIN,
                                   .topic = topic,
                                   .topic_len = (uint16_t)strlen(topic),
                                   .payload = payload,
                                   .payload_len = (uint32_t)len,
                                   .props = made->props};
    return made;
}

static void add_prop(struct made *made, uint16_t tag, const void *data, size_t len)
{
    uint8_t *end = mm_prop_put(made->props + made->rec.props_len, tag, data, (uint32_t)len);
    made->rec.props_len = (uint32_t)(end - made->props);
}

static void add_text(struct made *made, uint16_t tag, const char *text)
{
    add_prop(made, tag, text, strlen(text));
}

static void add_user(struct made *made, const char *name, const char *value)
{
    const struct mm_prop_pair pair = {
        .name = name, .name_len = strlen(name), .value = value, .value_len = strlen(value)};
    uint8_t *end = mm_prop_put_pair(made->props + made->rec.props_len, &pair);
    made->rec.props_len = (uint32_t)(end - made->props);
}

static void make(struct mm_message *m,
                 const struct mm_config *config,
                 const struct mm_record *rec,
                 struct mm_kafka_message *out)
{
    struct mm_message_source source = {
        .rec = rec, .id = ID, .id_len = strlen(ID), .now_ms = 1700000000250};
    assert_int_equal(
        mm_message_make(m, config, mm_route_find(config, rec->topic, rec->topic_len), &source, out),
        0);
}

static void expect_header(const struct mm_kafka_message *m, const char *name, const char *value)
{
    for (size_t i = 0; i < m->n_headers; i++) {
        if (strcmp(m->headers[i].name, name) == 0) {
            assert_int_equal(m->headers[i].value_len, strlen(value));
            assert_memory_equal(m->headers[i].value, value, strlen(value));
            return;
        }
    }
    fail_msg("there is no header %s", name);
}

static bool has_header(const struct mm_kafka_message *m, const char *name)
{
    for (size_t i = 0; i < m->n_headers; i++) {
        if (strcmp(m->headers[i].name, name) == 0) {
            return true;
        }
    }
    return false;
}

/* By default: what the Go program writes, and mm-id. */
static void test_default(void **state)
{
    (void)state;
    struct mm_config *config = config_of(NULL, 0);
    struct made *made = new_record("a/b", "hello", 5);
    struct mm_message *m;
    struct mm_kafka_message out;
    add_text(made, MM_TAG_CLIENT_ID, "c"); /* stored by other settings */
    assert_int_equal(config->stored, 0);
    assert_int_equal(mm_message_new(&m), 0);
    make(m, config, &made->rec, &out);
    static const char value[] = "{\"Topic\":\"a/b\",\"Content\":\"aGVsbG8=\"}";
    assert_int_equal(out.value_len, strlen(value));
    assert_memory_equal(out.value, value, strlen(value));
    assert_int_equal(out.key_len, 3);
    assert_memory_equal(out.key, "a/b", 3);
    assert_int_equal(out.n_headers, 1);
    expect_header(&out, "mm-id", ID);
    assert_int_equal(out.time_ms, 1700000000000);
    made->rec.time_ms = 1800000000000; /* the clock was set back since */
    make(m, config, &made->rec, &out);
    assert_int_equal(out.time_ms, 1700000000250);
    mm_message_free(m);
    mm_message_free(NULL);
    free(made);
    mm_config_free(config);
}

static struct made *full_record(void)
{
    struct made *made = new_record("plant/1/temp", "21.5", 4);
    add_text(made, MM_TAG_CLIENT_ID, "sensor 7");
    add_text(made, MM_TAG_USERNAME, "joe");
    add_text(made, MM_TAG_CONTENT_TYPE, "text/plain");
    add_text(made, MM_TAG_RESPONSE_TOPIC, "answer/here");
    add_prop(made, MM_TAG_CORRELATION_DATA, "\0\xFF", 2);
    add_prop(made, MM_TAG_PAYLOAD_FORMAT, "\1", 1);
    add_user(made, "x-unit", "C");
    add_user(made, "traceparent", "00-1-2-01");
    add_user(made, "tracestate", "");
    add_user(made, "", "no name");
    add_user(made, "x-unit", "again");
    return made;
}

static void test_all_headers(void **state)
{
    (void)state;
    static const struct mm_option options[] = {{"payload_format", "raw"},
                                               {"kafka_headers", "all,username"}};
    struct mm_config *config = config_of(options, LEN_OF(options));
    struct made *made = full_record();
    struct mm_message *m;
    struct mm_kafka_message out;
    assert_int_equal(mm_message_new(&m), 0);
    make(m, config, &made->rec, &out);
    assert_ptr_equal(out.value, made->rec.payload); /* not copied */
    assert_int_equal(out.value_len, 4);
    static const char *const expected[][2] = {
        {"mm-id", ID},
        {"mqtt.topic", "plant/1/temp"},
        {"mqtt.qos", "1"},
        {"mqtt.retain", "true"},
        {"mqtt.received_at", "1700000000000"},
        {"mm-waited-ms", "250"},
        {"mqtt.client_id", "sensor 7"},
        {"mqtt.username", "joe"},
        {"mqtt.content_type", "text/plain"},
        {"mqtt.response_topic", "answer/here"},
        {"mqtt.payload_format", "utf8"},
        {"mqtt.user.x-unit", "C"},
        {"traceparent", "00-1-2-01"},
        {"tracestate", ""},
        {"mqtt.user.", "no name"},
    };
    for (size_t i = 0; i < LEN_OF(expected); i++) {
        expect_header(&out, expected[i][0], expected[i][1]);
    }
    assert_true(has_header(&out, "mqtt.correlation_data"));
    assert_int_equal(out.n_headers, LEN_OF(expected) + 2); /* the two of one name */
    assert_memory_equal(out.headers[out.n_headers - 1].value, "again", 5);
    mm_message_free(m);
    free(made);
    mm_config_free(config);
}

static void test_some_headers(void **state)
{
    (void)state;
    static const struct
    {
        const char *headers;
        size_t n; /* beside mm-id */
        const char *some;
    } cases[] = {
        {"none", 0, "mm-id"},
        {"topic", 1, "mqtt.topic"},
        {"QoS,retain", 2, "mqtt.retain"},
        {"time", 2, "mm-waited-ms"},
        {"client_id,correlation_data", 2, "mqtt.correlation_data"},
        {"payload_format", 1, "mqtt.payload_format"},
        {"user", 5, "mqtt.user."},
        {"user:x-*", 2, "mqtt.user.x-unit"},
        {"user:x-*,user", 2, "mqtt.user.x-unit"},
        {"user:trace*,user:x-unit", 4, "traceparent"},
        {"user:nothing", 0, "mm-id"},
        {"all,user:nothing", 10, "mqtt.client_id"},
        {"all", 15, "mqtt.client_id"},
    };
    struct made *made = full_record();
    for (size_t i = 0; i < LEN_OF(cases); i++) {
        struct mm_option option = {"kafka_headers", cases[i].headers};
        struct mm_config *config = config_of(&option, 1);
        struct mm_message *m;
        struct mm_kafka_message out;
        assert_int_equal(mm_message_new(&m), 0);
        make(m, config, &made->rec, &out);
        assert_int_equal(out.n_headers, cases[i].n + 1);
        assert_true(has_header(&out, cases[i].some));
        assert_false(has_header(&out, "mqtt.username"));
        mm_message_free(m);
        mm_config_free(config);
    }
    free(made);
}

/* A message without properties, of an old client: what it does not have is left out. */
static void test_absent_headers(void **state)
{
    (void)state;
    static const struct mm_option options[] = {{"payload_format", "base64"}};
    struct mm_config *config = config_of(options, LEN_OF(options));
    struct made *made = new_record("t", NULL, 0);
    struct mm_message *m;
    struct mm_kafka_message out;
    made->rec.props = NULL;
    made->rec.flags = 0;
    assert_int_equal(mm_message_new(&m), 0);
    make(m, config, &made->rec, &out);
    assert_int_equal(out.value_len, 0);
    assert_int_equal(out.n_headers, 6);
    expect_header(&out, "mqtt.retain", "false");
    expect_header(&out, "mqtt.qos", "0");
    made->rec.payload = "\xFF\xFE!";
    made->rec.payload_len = 3;
    make(m, config, &made->rec, &out);
    assert_int_equal(out.value_len, 4);
    assert_memory_equal(out.value, "//4h", 4);
    mm_message_free(m);
    free(made);
    mm_config_free(config);
}

/* A record of a disk that has rotted, or of a broker that gives what MQTT does not know: what is
 * whole becomes headers, nothing is read beyond its end. And a clock that was set back. */
static void test_odd_properties(void **state)
{
    (void)state;
    static const struct mm_option options[] = {{"payload_format", "raw"}};
    /* The length of the name, and what there is of it. */
    static const char *const damaged[] = {"", "\1", "\2\1x", "\4\1abcd", "\xFF\xFFx"};
    struct mm_config *config = config_of(options, LEN_OF(options));
    struct made *made = new_record("t", "x", 1);
    struct mm_message *m;
    struct mm_kafka_message out;
    add_prop(made, MM_TAG_PAYLOAD_FORMAT, "\2", 1);
    for (size_t i = 0; i < LEN_OF(damaged); i++) {
        add_prop(made, MM_TAG_USER_PROPERTY, damaged[i], strlen(damaged[i]));
    }
    add_prop(made, MM_TAG_USER_PROPERTY, "\3\0ab", 4); /* one byte is missing */
    add_prop(made, MM_TAG_USER_PROPERTY, "\2\0ab", 4); /* an empty value */
    made->rec.time_ms = 1700000009999;                 /* later than now */
    assert_int_equal(mm_message_new(&m), 0);
    make(m, config, &made->rec, &out);
    expect_header(&out, "mqtt.payload_format", "bytes");
    expect_header(&out, "mqtt.user.ab", "");
    expect_header(&out, "mqtt.received_at", "1700000009999");
    expect_header(&out, "mm-waited-ms", "0");
    assert_int_equal(out.n_headers, 8);
    mm_message_free(m);
    free(made);
    mm_config_free(config);
}

static void test_many_user_properties(void **state)
{
    (void)state;
    static const struct mm_option options[] = {{"kafka_headers", "user:n*"}};
    struct mm_config *config = config_of(options, LEN_OF(options));
    struct made *made = new_record("t", "x", 1);
    struct mm_message *m;
    struct mm_kafka_message out;
    assert_int_equal(mm_message_new(&m), 0);
    for (int i = 0; i < 2 * MM_MESSAGE_USER_MAX; i++) {
        char name[16];
        snprintf(name, sizeof name, "%c%d", i % 2 == 0 ? 'n' : 'm', i);
        add_user(made, name, name);
    }
    make(m, config, &made->rec, &out);
    assert_int_equal(out.n_headers, 1 + MM_MESSAGE_USER_MAX);
    assert_false(has_header(&out, "mm-user-left-out"));
    add_user(made, "n", "one more");
    add_user(made, "nn", "and another");
    make(m, config, &made->rec, &out);
    assert_int_equal(out.n_headers, 2 + MM_MESSAGE_USER_MAX);
    expect_header(&out, "mm-user-left-out", "2");
    expect_header(&out, "mqtt.user.n0", "n0");
    expect_header(&out, "mqtt.user.n254", "n254");
    mm_message_free(m);
    free(made);
    mm_config_free(config);
}

static void test_keys(void **state)
{
    (void)state;
    static const struct
    {
        const char *key;
        const char *expected; /* NULL: none */
    } cases[] = {
        {"${topic}", "plant/1/temp"},
        {"${topic[1]}/${clientid}", "1/sensor 7"},
        {"none", NULL},
        {"None", NULL},
        {"${topic[7]}", NULL},
        {"constant", "constant"},
        {"${username}-${qos}", "joe-1"},
    };
    struct made *made = full_record();
    for (size_t i = 0; i < LEN_OF(cases); i++) {
        struct mm_option option = {"kafka_key", cases[i].key};
        struct mm_config *config = config_of(&option, 1);
        struct mm_message *m;
        struct mm_kafka_message out;
        assert_int_equal(mm_message_new(&m), 0);
        make(m, config, &made->rec, &out);
        if (cases[i].expected == NULL) {
            assert_null(out.key);
            assert_int_equal(out.key_len, 0);
            assert_int_equal(out.spread_len, strlen("plant/1/temp"));
            assert_memory_equal(out.spread, "plant/1/temp", out.spread_len);
        } else {
            assert_int_equal(out.key_len, strlen(cases[i].expected));
            assert_memory_equal(out.key, cases[i].expected, out.key_len);
        }
        mm_message_free(m);
        mm_config_free(config);
    }
    free(made);
}

/* --- the way --- */

static void expect_way(const struct mm_config *config,
                       struct mm_lanes *lanes,
                       const char *topic,
                       const char *kafka_topic,
                       const char *error)
{
    struct made *made = new_record(topic, "", 0);
    struct mm_message_way way;
    add_text(made, MM_TAG_CLIENT_ID, "c/1");
    mm_message_route(config, lanes, &made->rec, &way);
    assert_string_equal(way.kafka_topic, kafka_topic);
    if (error == NULL) {
        assert_null(way.error);
        assert_string_equal(mm_lanes_name(lanes, way.lane), kafka_topic);
    } else {
        assert_non_null(way.error);
        assert_string_equal(way.error, error);
        assert_non_null(way.reason);
    }
    free(made);
}

static void test_ways(void **state)
{
    (void)state;
    static const struct mm_option options[] = {
        {"kafka_topic", "rest"},
        {"route", "plant/quiet/# quiet"},
        {"route", "plant/# plant.${topic[1]} key=${clientid} format=raw"},
        {"route", "by/+/client ${topic[1]}.${clientid}"},
        {"route", "all/# ${topic}"},
        {"kafka_topic_allow", "plant.*, all.*,*.c.1"},
        {"kafka_topics_max", "7"},
        {"dead_letter_topic", "plant.dead"},
        {"kafka_test_topic", "all.test.it"},
    };
    struct mm_config *config = config_of(options, LEN_OF(options));
    struct mm_lanes *lanes;
    assert_int_equal(mm_lanes_new(&lanes), 0);
    assert_int_equal(mm_lanes_reset(lanes, config), 0);
    expect_way(config, lanes, "office/1", "rest", NULL);
    expect_way(config, lanes, "plant/quiet/1", "quiet", NULL);
    expect_way(config, lanes, "plant/a", "plant.a", NULL);
    expect_way(config, lanes, "plant/a/b/c", "plant.a", NULL);
    expect_way(config, lanes, "plant", "plant._", NULL);
    expect_way(config, lanes, "plant//x", "plant._", NULL);
    expect_way(config, lanes, "by/x/client", "x.c.1", NULL);
    expect_way(config, lanes, "by/__x/client", "__x.c.1", "KAFKA_TOPIC_NOT_ALLOWED");
    expect_way(config, lanes, "by/x/y", "rest", NULL);
    expect_way(config, lanes, "all", "all", "KAFKA_TOPIC_NOT_ALLOWED");
    expect_way(config, lanes, "all/../..", "all......", NULL);
    expect_way(config, lanes, "plant/dead", "plant.dead", "KAFKA_TOPIC_NOT_ALLOWED");
    expect_way(config, lanes, "all/test_it", "all.test_it", "KAFKA_TOPIC_NOT_ALLOWED");
    assert_int_equal(mm_lanes_n(lanes), 6);
    expect_way(config, lanes, "plant/b.c", "plant.b.c", NULL);
    expect_way(config, lanes, "plant/b_c", "plant.b_c", "KAFKA_TOPIC_COLLIDES");
    expect_way(config, lanes, "plant/d", "plant.d", "KAFKA_TOPICS_MAX");
    expect_way(config, lanes, "plant/a/again", "plant.a", NULL);
    char longest[300] = "all/";
    memset(longest + 4, 'x', 290);
    longest[249] = '\0';
    char name[300];
    memcpy(name, longest, sizeof name);
    name[3] = '.';
    expect_way(config, lanes, longest, name, "KAFKA_TOPICS_MAX");
    longest[249] = 'x';
    longest[250] = '\0';
    expect_way(config, lanes, longest, name, "KAFKA_TOPIC_TOO_LONG");
    mm_lanes_free(lanes);
    mm_config_free(config);
}

/* --- the size --- */

/* What key, value and headers have in all. */
static size_t size_made(const struct mm_kafka_message *out)
{
    size_t size = out->key_len + out->value_len;
    for (size_t k = 0; k < out->n_headers; k++) {
        size += strlen(out->headers[k].name) + out->headers[k].value_len;
    }
    return size;
}

/* The longest topic and as many user properties as become headers: all of them count. */
static void test_size_of_much(void **state)
{
    (void)state;
    static const struct mm_option options[] = {{"payload_format", "raw"}, {"kafka_key", "none"}};
    struct mm_config *config = config_of(options, LEN_OF(options));
    char *topic = calloc(1, UINT16_MAX + 1);
    assert_non_null(topic);
    memset(topic, 't', UINT16_MAX);
    struct made *made = new_record(topic, "x", 1);
    for (size_t i = 0; i < MM_MESSAGE_USER_MAX; i++) {
        add_user(made, "n", "v");
    }
    struct mm_message *m;
    struct mm_kafka_message out;
    assert_int_equal(mm_message_new(&m), 0);
    make(m, config, &made->rec, &out);
    uint64_t size = mm_message_size(config, &config->default_route, &made->rec);
    assert_true(size_made(&out) > UINT16_MAX + MM_MESSAGE_USER_MAX * strlen("mqtt.user.nv"));
    /* Kafka has two bytes for the lengths of each at least. */
    assert_true(size >= size_made(&out) + 2 * out.n_headers);
    mm_message_free(m);
    free(made);
    free(topic);
    mm_config_free(config);
}

/* It is never less than what is made, and not much more. */
static void test_size(void **state)
{
    (void)state;
    static const char *const headers[] = {"none", "all", "all,username,user:x*", "user"};
    static const char *const formats[] = {"json", "raw", "base64"};
    static const char *const keys[] = {"none", "${topic}", "${clientid}${clientid}"};
    struct made *made = full_record();
    made->rec.topic = "plant/\"<1>\"/\x01";
    made->rec.topic_len = (uint16_t)strlen(made->rec.topic);
    for (size_t i = 0; i < 36; i++) {
        struct mm_option options[] = {{"kafka_headers", headers[i % 4]},
                                      {"payload_format", formats[i / 4 % 3]},
                                      {"kafka_key", keys[i / 12]}};
        struct mm_config *config = config_of(options, LEN_OF(options));
        struct mm_message *m;
        struct mm_kafka_message out;
        assert_int_equal(mm_message_new(&m), 0);
        make(m, config, &made->rec, &out);
        uint64_t size = mm_message_size(config, &config->default_route, &made->rec);
        size_t made_size = size_made(&out);
        assert_in_range(size, made_size + 36 + 2 * out.n_headers, made_size + 500);
        mm_message_free(m);
        mm_config_free(config);
    }
    free(made);
}

/* What the settings need of a message beside what each record has. */
static void test_stored(void **state)
{
    (void)state;
    static const struct
    {
        const char *name;
        const char *value;
        unsigned stored;
    } cases[] = {
        {"kafka_headers", "topic,qos,retain,time", 0},
        {"kafka_headers", "client_id", MM_HEADERS_CLIENT_ID},
        {"kafka_headers", "user:x", MM_HEADERS_USER},
        {"kafka_key", "${username}", MM_HEADERS_USERNAME},
        {"route", "a/# b key=${clientid} headers=content_type",
         MM_HEADERS_CLIENT_ID | MM_HEADERS_CONTENT_TYPE},
        {"payload_format", "raw",
         MM_HEADERS_CLIENT_ID | MM_HEADERS_CONTENT_TYPE | MM_HEADERS_RESPONSE_TOPIC |
             MM_HEADERS_CORRELATION_DATA | MM_HEADERS_PAYLOAD_FORMAT | MM_HEADERS_USER},
        {"spool_properties", "all",
         MM_HEADERS_CLIENT_ID | MM_HEADERS_CONTENT_TYPE | MM_HEADERS_RESPONSE_TOPIC |
             MM_HEADERS_CORRELATION_DATA | MM_HEADERS_PAYLOAD_FORMAT | MM_HEADERS_USER |
             MM_HEADERS_USERNAME},
    };
    for (size_t i = 0; i < LEN_OF(cases); i++) {
        struct mm_option option = {cases[i].name, cases[i].value};
        struct mm_config *config = config_of(&option, 1);
        assert_int_equal(config->stored, cases[i].stored);
        mm_config_free(config);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_default),        cmocka_unit_test(test_all_headers),
        cmocka_unit_test(test_some_headers),   cmocka_unit_test(test_absent_headers),
        cmocka_unit_test(test_odd_properties), cmocka_unit_test(test_many_user_properties),
        cmocka_unit_test(test_keys),           cmocka_unit_test(test_ways),
        cmocka_unit_test(test_size),           cmocka_unit_test(test_size_of_much),
        cmocka_unit_test(test_stored),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
