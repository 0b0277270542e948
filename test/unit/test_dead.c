#include "mm_dead.h"
#include "mm_error.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>
#include <cmocka.h>

#define UUID "01234567-89ab-4cde-8f01-23456789abcd"

static struct mm_dead *new_log(size_t max_bytes)
{
    struct mm_dead *d;
    assert_int_equal(mm_dead_new(max_bytes, UUID, &d), 0);
    return d;
}

static struct mm_dead_letter letter(uint64_t seq, const void *payload, size_t payload_len)
{
    return (struct mm_dead_letter){
        .seq = seq,
        .time_ms = 1700000000123,
        .died_ms = 1700000001000,
        .topic = "a/b",
        .topic_len = 3,
        .payload = payload,
        .payload_len = payload_len,
        .kafka_topic = "mqtt",
        .error = "MSG_SIZE_TOO_LARGE",
        .reason = "the message is larger than Kafka takes",
    };
}

static void add(struct mm_dead *d, uint64_t seq, const void *payload, size_t payload_len)
{
    struct mm_dead_letter l = letter(seq, payload, payload_len);
    assert_int_equal(mm_dead_add(d, &l), 0);
}

static int fetch(struct mm_dead *d, uint64_t seq, void **data, size_t *len)
{
    char id[64];
    snprintf(id, sizeof id, "%s-%llu", UUID, (unsigned long long)seq);
    return mm_dead_payload(d, id, data, len);
}

static cJSON *list(struct mm_dead *d)
{
    char *text = NULL;
    size_t len = 0;
    assert_int_equal(mm_dead_list(d, &text, &len), 0);
    assert_int_equal(strlen(text), len);
    cJSON *parsed = cJSON_Parse(text);
    assert_true(cJSON_IsArray(parsed));
    free(text);
    return parsed;
}

static const char *string_of(const cJSON *array, int index, const char *name)
{
    const cJSON *object = cJSON_GetArrayItem(array, index);
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, name));
    assert_non_null(text);
    return text;
}

static void test_empty_log(void **state)
{
    (void)state;
    struct mm_dead *d = new_log(1000);
    cJSON *array = list(d);
    assert_int_equal(cJSON_GetArraySize(array), 0);
    cJSON_Delete(array);
    struct mm_dead_stats stats;
    mm_dead_stats(d, &stats);
    assert_int_equal(stats.n_letters, 0);
    assert_int_equal(stats.n_bytes, 0);
    void *data = NULL;
    size_t len = 0;
    assert_int_equal(fetch(d, 1, &data, &len), MM_EINVAL);
    mm_dead_free(d);
    mm_dead_free(NULL);
}

static void test_a_letter_is_copied_and_comes_back(void **state)
{
    (void)state;
    struct mm_dead *d = new_log(1000000);
    char payload[] = "pay\0load";
    add(d, UINT64_MAX, payload, sizeof payload);
    memset(payload, 'x', sizeof payload);
    void *data = NULL;
    size_t len = 0;
    assert_int_equal(fetch(d, UINT64_MAX, &data, &len), 0);
    assert_int_equal(len, sizeof payload);
    assert_memory_equal(data, "pay\0load", sizeof payload);
    free(data);

    cJSON *array = list(d);
    assert_int_equal(cJSON_GetArraySize(array), 1);
    assert_string_equal(string_of(array, 0, "id"), UUID "-18446744073709551615");
    assert_string_equal(string_of(array, 0, "mqtt_topic"), "a/b");
    assert_string_equal(string_of(array, 0, "received"), "2023-11-14T22:13:20.123Z");
    assert_string_equal(string_of(array, 0, "died"), "2023-11-14T22:13:21.000Z");
    assert_string_equal(string_of(array, 0, "kafka_topic"), "mqtt");
    assert_string_equal(string_of(array, 0, "error"), "MSG_SIZE_TOO_LARGE");
    const cJSON *object = cJSON_GetArrayItem(array, 0);
    assert_int_equal(cJSON_GetObjectItem(object, "payload_bytes")->valueint, sizeof payload);
    assert_true(cJSON_IsTrue(cJSON_GetObjectItem(object, "payload_kept")));
    cJSON_Delete(array);
    mm_dead_free(d);
}

static void test_an_empty_payload_and_topic(void **state)
{
    (void)state;
    struct mm_dead *d = new_log(1000);
    struct mm_dead_letter l = letter(1, NULL, 0);
    l.topic = NULL;
    l.topic_len = 0;
    assert_int_equal(mm_dead_add(d, &l), 0);
    void *data = NULL;
    size_t len = 1;
    assert_int_equal(fetch(d, 1, &data, &len), 0);
    assert_non_null(data);
    assert_int_equal(len, 0);
    free(data);
    mm_dead_free(d);
}

static void test_the_oldest_makes_room(void **state)
{
    (void)state;
    enum {
        MAX = 10000,
        N = 100
    };
    static const char payload[1000];
    struct mm_dead *d = new_log(MAX);
    for (uint64_t seq = 1; seq <= N; seq++) {
        add(d, seq, payload, sizeof payload);
        struct mm_dead_stats stats;
        mm_dead_stats(d, &stats);
        assert_true(stats.n_bytes <= MAX);
        assert_int_equal(stats.n_letters + stats.n_evicted, seq);
    }
    struct mm_dead_stats stats;
    mm_dead_stats(d, &stats);
    assert_in_range(stats.n_letters, 6, 9);

    void *data = NULL;
    size_t len = 0;
    assert_int_equal(fetch(d, N - stats.n_letters, &data, &len), MM_EINVAL);
    for (uint64_t seq = N - stats.n_letters + 1; seq <= N; seq++) {
        assert_int_equal(fetch(d, seq, &data, &len), 0);
        free(data);
    }
    cJSON *array = list(d);
    assert_int_equal(cJSON_GetArraySize(array), stats.n_letters);
    assert_string_equal(string_of(array, (int)stats.n_letters - 1, "id"), UUID "-100");
    cJSON_Delete(array);
    mm_dead_free(d);
}

static void test_one_that_is_too_large_keeps_its_description(void **state)
{
    (void)state;
    static const char payload[5000];
    struct mm_dead *d = new_log(4000);
    add(d, 1, "x", 1);
    add(d, 2, payload, sizeof payload);
    struct mm_dead_stats stats;
    mm_dead_stats(d, &stats);
    assert_int_equal(stats.n_letters, 2);
    assert_int_equal(stats.n_evicted, 1);
    void *data = NULL;
    size_t len = 0;
    assert_int_equal(fetch(d, 2, &data, &len), MM_EINVAL);
    assert_int_equal(fetch(d, 1, &data, &len), 0);
    free(data);
    cJSON *array = list(d);
    const cJSON *object = cJSON_GetArrayItem(array, 1);
    assert_int_equal(cJSON_GetObjectItem(object, "payload_bytes")->valueint, sizeof payload);
    assert_true(cJSON_IsFalse(cJSON_GetObjectItem(object, "payload_kept")));
    cJSON_Delete(array);
    mm_dead_free(d);
}

static void test_a_description_that_is_too_large_is_not_kept(void **state)
{
    (void)state;
    static const char topic[65535];
    struct mm_dead *d = new_log(4000);
    add(d, 1, "x", 1);
    struct mm_dead_letter l = letter(2, "y", 1);
    l.topic = topic;
    l.topic_len = sizeof topic;
    assert_int_equal(mm_dead_add(d, &l), MM_ENOMEM);
    struct mm_dead_stats stats;
    mm_dead_stats(d, &stats);
    assert_int_equal(stats.n_letters, 1);
    mm_dead_free(d);
    d = new_log(0);
    l = letter(3, "", 0);
    assert_int_equal(mm_dead_add(d, &l), MM_ENOMEM);
    mm_dead_free(d);
}

/* Around the size at which the payload is just kept and just not. */
static void test_sizes_at_the_limit(void **state)
{
    (void)state;
    static const char payload[1200];
    size_t n_kept = 0;
    for (size_t len = 0; len <= sizeof payload; len++) {
        struct mm_dead *d = new_log(1000);
        add(d, 1, payload, len);
        struct mm_dead_stats stats;
        mm_dead_stats(d, &stats);
        assert_int_equal(stats.n_letters, 1);
        assert_true(stats.n_bytes <= 1000);
        void *data = NULL;
        size_t got = 0;
        if (fetch(d, 1, &data, &got) == 0) {
            assert_int_equal(got, len);
            assert_int_equal(n_kept, len); /* none above the limit is kept */
            n_kept++;
        }
        free(data);
        mm_dead_free(d);
    }
    assert_in_range(n_kept, 500, 1000);
}

static void test_odd_text_is_valid_json(void **state)
{
    (void)state;
    static const char topic[] = "a\"\\/\n\t\0\xFF\xC3\x28\xED\xA0\x80\xE2\x82\xAC";
    struct mm_dead *d = new_log(100000);
    struct mm_dead_letter l = letter(1, "p", 1);
    l.topic = topic;
    l.topic_len = sizeof topic - 1;
    l.kafka_topic = "k\"\xFE";
    l.error = "E\\";
    l.reason = "line\nbreak";
    l.died_ms = UINT64_MAX;
    assert_int_equal(mm_dead_add(d, &l), 0);
    cJSON *array = list(d);
    assert_string_equal(string_of(array, 0, "kafka_topic"), "k\"\xEF\xBF\xBD");
    assert_string_equal(string_of(array, 0, "error"), "E\\");
    assert_string_equal(string_of(array, 0, "reason"), "line\nbreak");
    assert_memory_equal(string_of(array, 0, "mqtt_topic"), "a\"\\/\n\t", 6);
    cJSON_Delete(array);
    mm_dead_free(d);
}

static void test_ids_that_are_not_ours(void **state)
{
    (void)state;
    struct mm_dead *d = new_log(100000);
    add(d, 0, "zero", 4);
    add(d, 1, "one", 3);
    static const char *const ids[] = {
        "",
        "1",
        UUID,
        UUID "-",
        UUID "- 1",
        UUID "-+1",
        UUID "--1",
        UUID "-01",
        UUID "-00",
        UUID "-1 ",
        UUID "-1/",
        UUID "-0x1",
        UUID "-2",
        UUID "-18446744073709551617", /* 2^64 + 1 */
        UUID "-99999999999999999999999999999999999999",
        "11234567-89ab-4cde-8f01-23456789abcd-1",
    };
    void *data = NULL;
    size_t len = 0;
    for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++) {
        assert_int_equal(mm_dead_payload(d, ids[i], &data, &len), MM_EINVAL);
        assert_null(data);
    }
    assert_int_equal(mm_dead_payload(d, UUID "-0", &data, &len), 0);
    assert_memory_equal(data, "zero", 4);
    free(data);
    mm_dead_free(d);
}

static void *add_many(void *arg)
{
    for (uint64_t seq = 0; seq < 2000; seq++) {
        struct mm_dead_letter l = letter(seq, "0123456789", 10);
        if (mm_dead_add(arg, &l) != 0) {
            abort();
        }
    }
    return NULL;
}

static void test_workers_add_while_it_is_read(void **state)
{
    (void)state;
    struct mm_dead *d = new_log(20000);
    pthread_t threads[4];
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, add_many, d), 0);
    }
    for (uint64_t i = 0; i < 200; i++) {
        cJSON_Delete(list(d));
        void *data = NULL;
        size_t len = 0;
        if (fetch(d, i * 10, &data, &len) == 0) {
            assert_int_equal(len, 10);
            free(data);
        }
    }
    for (size_t i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
    }
    struct mm_dead_stats stats;
    mm_dead_stats(d, &stats);
    assert_int_equal(stats.n_letters + stats.n_evicted, 8000);
    mm_dead_free(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_empty_log),
        cmocka_unit_test(test_a_letter_is_copied_and_comes_back),
        cmocka_unit_test(test_an_empty_payload_and_topic),
        cmocka_unit_test(test_the_oldest_makes_room),
        cmocka_unit_test(test_one_that_is_too_large_keeps_its_description),
        cmocka_unit_test(test_a_description_that_is_too_large_is_not_kept),
        cmocka_unit_test(test_sizes_at_the_limit),
        cmocka_unit_test(test_odd_text_is_valid_json),
        cmocka_unit_test(test_ids_that_are_not_ours),
        cmocka_unit_test(test_workers_add_while_it_is_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
