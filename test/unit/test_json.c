#include "mm_error.h"
#include "mm_json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>
#include <cmocka.h>

/* Cut from a statistics line of librdkafka 2.0.2. */
static const char statistics[] =
    "{ \"name\": \"rdkafka#producer-1\", \"ts\":5016483227792, \"time\":1527060869, "
    "\"msg_cnt\":22710, \"msg_size\":704010, \"msg_max\":500000, \"brokers\":{ "
    "\"localhost:9092/bootstrap\":{ \"name\":\"localhost:9092/bootstrap\", \"nodeid\":-1, "
    "\"state\":\"UP\", \"rtt\": { \"min\":1580, \"max\":3389, \"avg\":2349, \"cnt\":79 } }, "
    "\"localhost:9093/2\":{ \"name\":\"localhost:9093/2\", \"nodeid\":2, \"state\":\"UP\", "
    "\"rtt\": { \"avg\":4087 } }, "
    "\"localhost:9094/3\":{ \"name\":\"localhost:9094/3\", \"nodeid\":3, \"state\":\"DOWN\", "
    "\"rtt\": { \"avg\":0 } } }, \"topics\":{ }, \"tx\":631, \"txmsgs\":4300, "
    "\"eos\":{ \"idemp_state\":\"Assigned\", \"idemp_stateage\":631, \"producer_id\":1000, "
    "\"producer_epoch\":3, \"epoch_cnt\":1 } }";

static void test_statistics_are_read(void **state)
{
    (void)state;
    struct mm_kafka_stats stats;
    assert_int_equal(mm_json_kafka_stats(statistics, strlen(statistics), &stats), 0);
    assert_true(stats.any_broker_up);
    assert_int_equal(stats.n_brokers_up, 2);
    assert_int_equal(stats.msg_cnt, 22710);
    assert_int_equal(stats.msg_size, 704010);
    assert_int_equal(stats.rtt_avg_us, 4087);
    assert_int_equal(stats.producer_id, 1000);
    assert_int_equal(stats.producer_epoch, 3);
}

static int read_text(const char *text, struct mm_kafka_stats *stats)
{
    return mm_json_kafka_stats(text, strlen(text), stats);
}

static void test_no_broker_up(void **state)
{
    (void)state;
    struct mm_kafka_stats stats;
    assert_int_equal(read_text("{\"brokers\":{}}", &stats), 0);
    assert_false(stats.any_broker_up);
    assert_int_equal(stats.producer_id, -1);
    assert_int_equal(stats.producer_epoch, -1);
    assert_int_equal(read_text("{\"brokers\":{\"a\":{\"state\":\"INIT\"},\"b\":{\"state\":1},"
                               "\"c\":{},\"d\":7,\"e\":{\"state\":\"UPSIDE\"}}}",
                               &stats),
                     0);
    assert_false(stats.any_broker_up);
    assert_int_equal(stats.n_brokers_up, 0);
    assert_int_equal(read_text("{\"brokers\":{\"a\":{\"state\":\"UPDATE\"}}}", &stats), 0);
    assert_true(stats.any_broker_up);
}

static void test_odd_numbers_do_no_harm(void **state)
{
    (void)state;
    struct mm_kafka_stats stats;
    assert_int_equal(read_text("{\"msg_cnt\":-5,\"msg_size\":1e300,\"brokers\":{\"a\":{"
                               "\"rtt\":{\"avg\":\"x\"}},\"b\":{\"rtt\":[]}}}",
                               &stats),
                     0);
    assert_int_equal(stats.msg_cnt, 0);
    assert_true(stats.msg_size == UINT64_MAX);
    assert_int_equal(stats.rtt_avg_us, 0);
}

static void test_what_is_not_statistics_is_an_error(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "", "{", "null", "[]", "7", "{}", "{\"brokers\":[]}", "{\"brokers\":null}", "\"brokers\"",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct mm_kafka_stats stats = {.any_broker_up = true, .msg_cnt = 1};
        assert_int_equal(read_text(texts[i], &stats), MM_EINVAL);
        assert_false(stats.any_broker_up);
        assert_int_equal(stats.msg_cnt, 0);
    }
}

/* Every shorter piece of the text, in memory of just that length. */
static void test_a_cut_text_is_an_error_and_is_not_read_past(void **state)
{
    (void)state;
    for (size_t len = 0; len < strlen(statistics); len++) {
        char *cut = malloc(len + 1);
        assert_non_null(cut);
        char *exact = realloc(cut, len > 0 ? len : 1);
        assert_non_null(exact);
        memcpy(exact, statistics, len);
        struct mm_kafka_stats stats;
        assert_int_equal(mm_json_kafka_stats(exact, len, &stats), MM_EINVAL);
        free(exact);
    }
}

static char *write_string(const char *text, size_t len)
{
    char *json = NULL;
    size_t json_len = 0;
    FILE *out = open_memstream(&json, &json_len);
    assert_non_null(out);
    mm_json_write_string(out, text, len);
    assert_int_equal(fclose(out), 0);
    return json;
}

static void check_string(const char *text, size_t len, const char *expected)
{
    char *json = write_string(text, len);
    assert_string_equal(json, expected);
    free(json);
}

#define CHECK_STRING(text, expected) check_string(text, sizeof(text) - 1, expected)
#define BAD "\xEF\xBF\xBD"

static void test_strings_are_escaped(void **state)
{
    (void)state;
    CHECK_STRING("", "\"\"");
    CHECK_STRING("a/b", "\"a/b\"");
    CHECK_STRING("say \"x\\y\"", "\"say \\\"x\\\\y\\\"\"");
    CHECK_STRING("\n\t\x1F\x7F", "\"\\u000a\\u0009\\u001f\\u007f\"");
    CHECK_STRING("a\0b", "\"a\\u0000b\"");
    CHECK_STRING("\xC3\xA6\xE2\x82\xAC\xF0\x9F\x90\x9B",
                 "\"\xC3\xA6\xE2\x82\xAC\xF0\x9F\x90\x9B\"");
}

static void test_bytes_that_are_not_utf8_are_replaced_one_by_one(void **state)
{
    (void)state;
    CHECK_STRING("\x80", "\"" BAD "\"");
    CHECK_STRING(
        "a\xFF\xFE"
        "b",
        "\"a" BAD BAD "b\"");
    CHECK_STRING("\xC0\x80", "\"" BAD BAD "\"");                 /* a long form */
    CHECK_STRING("\xE0\x9F\xBF", "\"" BAD BAD BAD "\"");         /* another */
    CHECK_STRING("\xED\xA0\x80", "\"" BAD BAD BAD "\"");         /* a surrogate */
    CHECK_STRING("\xF4\x90\x80\x80", "\"" BAD BAD BAD BAD "\""); /* above U+10FFFF */
    CHECK_STRING("\xF0\x8F\xBF\xBF", "\"" BAD BAD BAD BAD "\"");
    CHECK_STRING("\xE2\x82", "\"" BAD BAD "\""); /* cut */
    CHECK_STRING("\xE2\x82x", "\"" BAD BAD "x\"");
}

/* Any two bytes make JSON that can be read. */
static void test_any_bytes_make_valid_json(void **state)
{
    (void)state;
    for (unsigned int i = 0; i <= 0xFFFF; i++) {
        char pair[2] = {(char)(i >> 8), (char)(i & 0xFF)};
        char *json = write_string(pair, sizeof pair);
        cJSON *parsed = cJSON_Parse(json);
        assert_true(cJSON_IsString(parsed));
        cJSON_Delete(parsed);
        free(json);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_statistics_are_read),
        cmocka_unit_test(test_no_broker_up),
        cmocka_unit_test(test_odd_numbers_do_no_harm),
        cmocka_unit_test(test_what_is_not_statistics_is_an_error),
        cmocka_unit_test(test_a_cut_text_is_an_error_and_is_not_read_past),
        cmocka_unit_test(test_strings_are_escaped),
        cmocka_unit_test(test_bytes_that_are_not_utf8_are_replaced_one_by_one),
        cmocka_unit_test(test_any_bytes_make_valid_json),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
