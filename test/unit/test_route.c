/* Routes: how they are written, which one counts, and what memory that runs out leaves behind. The
 * module is included, so that its allocations can be made to fail. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "faulty_alloc.h"

#include "mm_headers.h"
#include "mm_template.h"

#include "mm_error.h"
#include "mm_filter.h"
#include "mm_lanes.h"

static int faulty_filter_set_new(const char *list,
                                 struct mm_filter_set **out,
                                 char *errstr,
                                 size_t errstr_len)
{
    return alloc_fails() ? MM_ENOMEM : mm_filter_set_new(list, out, errstr, errstr_len);
}

static int faulty_template_new(const char *text,
                               struct mm_template **out,
                               char *errstr,
                               size_t errstr_len)
{
    return alloc_fails() ? MM_ENOMEM : mm_template_new(text, out, errstr, errstr_len);
}

static int faulty_headers_new(const char *list,
                              struct mm_headers **out,
                              char *errstr,
                              size_t errstr_len)
{
    return alloc_fails() ? MM_ENOMEM : mm_headers_new(list, out, errstr, errstr_len);
}

#define realloc faulty_realloc
#define strdup faulty_strdup
#define mm_template_new faulty_template_new
#define mm_headers_new faulty_headers_new
#define mm_filter_set_new faulty_filter_set_new
/* NOLINTNEXTLINE(bugprone-suspicious-include) */
#include "../../plugin/mm_route.c"
#undef realloc
#undef strdup
#undef mm_filter_set_new
#undef mm_template_new
#undef mm_headers_new

#define LEN_OF(array) (sizeof(array) / sizeof(array)[0])

static char default_topic[] = "default";

static struct mm_config no_routes(void)
{
    return (struct mm_config){.kafka_topic = default_topic};
}

static void add(struct mm_config *config, const char *text)
{
    char errstr[256] = "";
    int rc = mm_route_add(config, text, errstr, sizeof errstr);
    if (rc != 0) {
        fail_msg("\"%s\" is refused: %s", text, errstr);
    }
}

/* A route that was added. */
static const struct mm_config_route *route_at(const struct mm_config *config, size_t i)
{
    if (config->routes == NULL || i >= config->n_routes) {
        fail_msg("there is no route %zu", i);
        abort();
    }
    return &config->routes[i];
}

static uint32_t lane_of(struct mm_config *config, const char *topic, size_t topic_len)
{
    assert_int_equal(mm_route_finish(config), 0);
    uint32_t lane = mm_route_find(config, topic, topic_len)->lane;
    mm_filter_set_free(config->filters);
    config->filters = NULL;
    return lane;
}

static const char *kafka_topic_of(struct mm_config *config, const char *topic)
{
    uint32_t lane = lane_of(config, topic, strlen(topic));
    assert_in_range(lane, 0, mm_route_n_lanes(config) - 1);
    return mm_route_kafka_topic(config, lane);
}

static void test_without_routes(void **state)
{
    (void)state;
    struct mm_config config = no_routes();
    assert_int_equal(mm_route_n_lanes(&config), 1);
    assert_string_equal(kafka_topic_of(&config, "a"), "default");
    assert_string_equal(kafka_topic_of(&config, "$SYS/a"), "default");
    mm_route_free_all(&config);
}

static void test_first_match_counts(void **state)
{
    (void)state;
    struct mm_config config = no_routes();
    add(&config, "plant/+/alarm,office/alarm alarms");
    add(&config, "plant/quiet/# default");
    add(&config, "plant/# plant");
    add(&config, "$own/# own");
    add(&config, "plant/# never");
    add(&config, "+/+/+/deep plant");
    static const struct
    {
        const char *topic;
        const char *kafka_topic;
        uint32_t lane;
    } cases[] = {
        {"plant/1/alarm", "alarms", 1},
        {"office/alarm", "alarms", 1},
        {"plant/quiet/alarm", "alarms", 1},
        {"plant/quiet/x", "default", 0},
        {"plant/quiet", "default", 0},
        {"plant", "plant", 2},
        {"plant/1/alarm/x", "plant", 2},
        {"plant/1/2/deep", "plant", 2},
        {"a/b/c/deep", "plant", 2},
        {"$own/x", "own", 3},
        {"$b/b/c/deep", "default", 0},
        {"office", "default", 0},
        {"", "default", 0},
    };
    assert_int_equal(mm_route_n_lanes(&config), 5);
    for (size_t i = 0; i < LEN_OF(cases); i++) {
        assert_string_equal(kafka_topic_of(&config, cases[i].topic), cases[i].kafka_topic);
        assert_int_equal(lane_of(&config, cases[i].topic, strlen(cases[i].topic)), cases[i].lane);
    }
    assert_string_equal(mm_route_kafka_topic(&config, 4), "never");
    mm_route_free_all(&config);
}

/* A topic is a length, not a string. */
static void test_topic_with_more_behind_it(void **state)
{
    (void)state;
    struct mm_config config = no_routes();
    add(&config, "a/b t");
    assert_int_equal(lane_of(&config, "a/b/c", 3), 1);
    assert_int_equal(lane_of(&config, "a/b/c", 5), 0);
    mm_route_free_all(&config);
}

static void test_each_kafka_topic_has_one_lane(void **state)
{
    (void)state;
    struct mm_config config = no_routes();
    static const char *const routes[] = {"a t", "b u", "c t", "d default", "e T"};
    static const uint32_t lanes[] = {1, 2, 1, 0, 3};
    for (size_t i = 0; i < LEN_OF(routes); i++) {
        add(&config, routes[i]);
        assert_int_equal(route_at(&config, i)->lane, lanes[i]);
    }
    assert_int_equal(mm_route_n_lanes(&config), 4);
    mm_route_free_all(&config);
    assert_int_equal(config.n_routes, 0);
    assert_int_equal(mm_route_n_lanes(&config), 1);
    mm_route_free_all(&config); /* nothing is there any more */
}

static void test_blanks(void **state)
{
    (void)state;
    static const struct
    {
        const char *text;
        const char *filters;
        size_t n_filters;
    } cases[] = {
        {"a t", "a", 1},
        {" \t a \t t \r\n", "a", 1},
        {"a,b t", "a,b", 2},
        {"a, b t", "a, b", 2},
        {"a ,b t", "a ,b", 2},
        {"a ; b , c t", "a ; b , c", 3},
        {"a/+\t;\t#\tt", "a/+\t;\t#", 2},
    };
    for (size_t i = 0; i < LEN_OF(cases); i++) {
        struct mm_config config = no_routes();
        add(&config, cases[i].text);
        assert_string_equal(route_at(&config, 0)->mqtt_filters, cases[i].filters);
        assert_int_equal(mm_route_finish(&config), 0);
        assert_int_equal(mm_filter_set_count(config.filters), cases[i].n_filters);
        mm_filter_set_free(config.filters);
        assert_string_equal(mm_route_kafka_topic(&config, 1), "t");
        mm_route_free_all(&config);
    }
}

static void test_wrong_routes(void **state)
{
    (void)state;
    static const struct
    {
        const char *text;
        const char *errstr;
    } cases[] = {
        {"", "it is empty"},
        {" \t", "it is empty"},
        {"a", "it has no Kafka topic"},
        {"a,b", "it has no Kafka topic"},
        {"a, t", "it has no Kafka topic"},
        {"a ,t", "it has no Kafka topic"},
        {"a t u", "\"u\" is too much"},
        {"a t keys=x format=raw", "\"keys=x\" is too much"},
        {"a t ,b", "\",b\" is too much"},
        {"a t key=x key=y", "\"key=y\" is given twice"},
        {"a t format=raw key=x format=raw", "\"format=raw\" is given twice"},
        {"a t format=xml", "format \"xml\": expected json, raw or base64"},
        {"a t key= format=raw", "key \"\": it is empty; expected " MM_ROUTE_KEY_RULE},
        {"a t format=", "format \"\": expected json, raw or base64"},
        {"a t headers=", "headers: \"\" is empty; expected " MM_HEADERS_RULE},
        {"a t key=${tpoic}",
         "key \"${tpoic}\": character 1: unknown variable ${tpoic}; did you "
         "mean ${topic}?"},
        {"a t headers=topic,,qos", "headers: \"\" is empty; expected " MM_HEADERS_RULE},
        {"a t headers=none,qos", "headers: \"none\" stands alone; expected " MM_HEADERS_RULE},
        {"a t headers=foo", "headers: \"foo\" is unknown; expected " MM_HEADERS_RULE},
        {"a t headers=user:", "headers: \"user:\" has no pattern; expected " MM_HEADERS_RULE},
        {"a p/${topic[1]}",
         "Kafka topic \"p/${topic[1]}\": character 2: no Kafka topic has it; "
         "there may be a-z, A-Z, 0-9, '.', '_' and '-', and variables"},
        {"a p.${topic", "Kafka topic \"p.${topic\": character 3: ${ has no } behind it"},
        {"a t\n", NULL},
        {"a t/u", "\"t/u\" is no Kafka topic (" MM_ROUTE_KAFKA_TOPIC_RULE ")"},
        {"a ..", "\"..\" is no Kafka topic (" MM_ROUTE_KAFKA_TOPIC_RULE ")"},
        {", t", "it has no Kafka topic"},
        {",a t", "filter 1 \"\": it is empty"},
        {"a,,b t", "filter 2 \"\": it is empty"},
        {"a/#/b t", "filter 1 \"a/#/b\": '#' must stand alone in the last level"},
    };
    for (size_t i = 0; i < LEN_OF(cases); i++) {
        struct mm_config config = no_routes();
        char errstr[512] = "";
        int rc = mm_route_add(&config, cases[i].text, errstr, sizeof errstr);
        if (cases[i].errstr == NULL) {
            assert_int_equal(rc, 0);
        } else {
            assert_int_equal(rc, MM_EINVAL);
            assert_string_equal(errstr, cases[i].errstr);
            assert_int_equal(config.n_routes, 0);
            assert_int_equal(config.n_route_topics, 0);
        }
        mm_route_free_all(&config);
    }
}

/* What is told of a huge text is short, and fits into a short errstr. */
static void test_huge_route(void **state)
{
    (void)state;
    enum {
        N = 1024 * 1024
    };
    char *text = malloc(N + 1);
    assert_non_null(text);
    static const char *const beginnings[] = {"", "a ", "a b ", "a,,"};
    for (size_t i = 0; i < LEN_OF(beginnings); i++) {
        memset(text, 'x', N);
        text[N] = '\0';
        memcpy(text, beginnings[i], strlen(beginnings[i]));
        struct mm_config config = no_routes();
        char errstr[512];
        assert_int_equal(mm_route_add(&config, text, errstr, sizeof errstr), MM_EINVAL);
        assert_in_range(strlen(errstr), 1, 250);
        char little[8];
        assert_int_equal(mm_route_add(&config, text, little, sizeof little), MM_EINVAL);
        assert_in_range(strlen(little), 1, 7);
        mm_route_free_all(&config);
    }
    free(text);
}

static void test_no_more_lanes_than_there_can_be(void **state)
{
    (void)state;
    struct mm_config config = no_routes();
    char text[32];
    for (int i = 1; i < MM_LANES_MAX; i++) {
        snprintf(text, sizeof text, "a/%d t%d", i, i);
        add(&config, text);
    }
    assert_int_equal(mm_route_n_lanes(&config), MM_LANES_MAX);
    char errstr[256];
    assert_int_equal(mm_route_add(&config, "b one-more", errstr, sizeof errstr), MM_EINVAL);
    assert_string_equal(errstr, "kafka_topic and the routes before name 1024 Kafka topics");
    assert_int_equal(config.n_routes, MM_LANES_MAX - 1);
    add(&config, "b t1");
    add(&config, "c default");
    assert_string_equal(kafka_topic_of(&config, "b"), "t1");
    assert_string_equal(kafka_topic_of(&config, "a/1023"), "t1023");
    mm_route_free_all(&config);
}

static void test_kafka_topics(void **state)
{
    (void)state;
    char longest[251];
    memset(longest, 'k', 250);
    longest[250] = '\0';
    assert_false(mm_route_is_kafka_topic(longest));
    longest[249] = '\0';
    assert_true(mm_route_is_kafka_topic(longest));
    static const char *const good[] = {"a", "...", ".a", "-", "_", "aZ09._-"};
    static const char *const bad[] = {"", ".", "..", "a b", "a/b", "a,b", "a\n", "\xC3\xBC", "a:b"};
    for (size_t i = 0; i < LEN_OF(good); i++) {
        assert_true(mm_route_is_kafka_topic(good[i]));
    }
    for (size_t i = 0; i < LEN_OF(bad); i++) {
        assert_false(mm_route_is_kafka_topic(bad[i]));
    }
}

static void test_kafka_topics_that_collide(void **state)
{
    (void)state;
    static const struct
    {
        const char *a;
        const char *b;
        bool collide;
    } cases[] = {
        {"a.b", "a_b", true},  {"._", "_.", true},     {"a.b_c", "a_b_c", true},
        {"a.b", "a.b", false}, {"a.b", "a-b", false},  {"a.b", "a.", false},
        {"a.", "a_b", false},  {"a.b", "a_c", false},  {"x.b", "y_b", false},
        {"", "", false},       {"a.b.", "a_b.", true},
    };
    for (size_t i = 0; i < LEN_OF(cases); i++) {
        assert_int_equal(mm_route_topics_collide(cases[i].a, cases[i].b), cases[i].collide);
        assert_int_equal(mm_route_topics_collide(cases[i].b, cases[i].a), cases[i].collide);
    }
}

/* A kafka_topic that was refused: a route to another one is still looked at. */
static void test_without_default_topic(void **state)
{
    (void)state;
    struct mm_config config = {.kafka_topic = NULL};
    add(&config, "a t");
    assert_int_equal(route_at(&config, 0)->lane, 1);
    mm_route_free_all(&config);
}

static void test_out_of_memory(void **state)
{
    (void)state;
    struct mm_config config = no_routes();
    add(&config, "a t");
    long n = 0;
    for (;; n++) {
        char errstr[64];
        n_allocs_left = n;
        int rc = mm_route_add(&config, "b u", errstr, sizeof errstr);
        bool failed = n_allocs_left < 0;
        n_allocs_left = -1;
        if (!failed) {
            assert_int_equal(rc, 0);
            break;
        }
        assert_int_equal(rc, MM_ENOMEM);
        assert_int_equal(config.n_routes, 1);
        assert_int_equal(config.n_route_topics, 1);
        assert_string_equal(kafka_topic_of(&config, "a"), "t");
    }
    /* The copy, the list, the Kafka topic's template, the filters, the key, the headers, the array
     * of routes, the array of topics, the topic. */
    assert_int_equal(n, 9);
    assert_string_equal(kafka_topic_of(&config, "b"), "u");
    mm_route_free_all(&config);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_without_routes),
        cmocka_unit_test(test_first_match_counts),
        cmocka_unit_test(test_topic_with_more_behind_it),
        cmocka_unit_test(test_each_kafka_topic_has_one_lane),
        cmocka_unit_test(test_blanks),
        cmocka_unit_test(test_wrong_routes),
        cmocka_unit_test(test_huge_route),
        cmocka_unit_test(test_no_more_lanes_than_there_can_be),
        cmocka_unit_test(test_kafka_topics),
        cmocka_unit_test(test_kafka_topics_that_collide),
        cmocka_unit_test(test_without_default_topic),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
