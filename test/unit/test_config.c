/* What of all that is given counts: names, repetitions, routes, properties, and the environment.
 * The module is included, so that its allocations can be made to fail. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "faulty_alloc.h"

#include "mm_error.h"
#include "mm_filter.h"
#include "mm_route.h"
#include "mm_text.h"

static int faulty_filter_set_new(const char *list,
                                 struct mm_filter_set **out,
                                 char *errstr,
                                 size_t errstr_len)
{
    return alloc_fails() ? MM_ENOMEM : mm_filter_set_new(list, out, errstr, errstr_len);
}

static int faulty_route_add(struct mm_config *config,
                            const char *text,
                            char *errstr,
                            size_t errstr_len)
{
    return alloc_fails() ? MM_ENOMEM : mm_route_add(config, text, errstr, errstr_len);
}

#define malloc faulty_malloc
#define calloc faulty_calloc
#define realloc faulty_realloc
#define strdup faulty_strdup
#define mm_filter_set_new faulty_filter_set_new
#define mm_route_add faulty_route_add
/* NOLINTNEXTLINE(bugprone-suspicious-include) */
#include "../../plugin/mm_config.c"
/* NOLINTNEXTLINE(bugprone-suspicious-include) */
#include "../../plugin/mm_config_file.c"
/* NOLINTNEXTLINE(bugprone-suspicious-include) */
#include "../../plugin/mm_config_gather.c"
/* NOLINTNEXTLINE(bugprone-suspicious-include) */
#include "../../plugin/mm_config_parse.c"
#undef malloc
#undef calloc
#undef realloc
#undef strdup
#undef mm_filter_set_new
#undef mm_route_add

#include "config_run.h"

/* Routes; mm_route has tests of its own */

static void test_routes_are_kept_in_order(void **state)
{
    (void)state;
    static const struct mm_option given[] = {
        {"route", "a/b one"}, {"kafka_topic", "zero"}, {"route", "a/# two"},
        {"route", "c zero"},  {"mqtt_topic", "m,n"},   {"route", "d one"},
    };
    struct run run = {.given = given, .n_given = LEN_OF(given)};
    expect_good(&run);
    assert_int_equal(run.n_lines, 0);
    const struct mm_config *config = run.config;
    static const uint32_t lanes[] = {1, 2, 0, 1};
    assert_int_equal(config->n_routes, LEN_OF(lanes));
    for (size_t i = 0; i < LEN_OF(lanes); i++) {
        assert_int_equal(config->routes[i].lane, lanes[i]);
    }
    assert_int_equal(config->n_route_topics, 2);
    assert_string_equal(config->route_topics[0], "one");
    assert_string_equal(config->route_topics[1], "two");
    assert_string_equal(config->mqtt_topic, "m,n");
    static const char *const carried[] = {"a/b", "a", "c", "d", "m", "n"};
    for (size_t i = 0; i < LEN_OF(carried); i++) {
        assert_true(mm_filter_set_match(config->filters, carried[i], strlen(carried[i])));
    }
    assert_false(mm_filter_set_match(config->filters, "b", 1));
    assert_true(describes(config, "route=\"a/b one\" route=\"a/# two\" route=\"c zero\""));
    end_run(&run);
}

static void test_routes_of_the_environment(void **state)
{
    (void)state;
    static const struct mm_option environment[] = {{"ROUTE", "a one | b two|\n\n c one\r\n|"},
                                                   {NULL, NULL}};
    struct run run = {.environment = environment};
    expect_good(&run);
    assert_int_equal(run.n_lines, 0);
    assert_true(describes(run.config, "route=\"a one\" route=\"b two\" route=\"c one\""));
    end_run(&run);
    /* In an option a '|' is a letter of a filter. */
    static const struct mm_option given = {"route", "a|b one"};
    run = (struct run){.given = &given, .n_given = 1, .environment = environment};
    expect_good(&run);
    assert_int_equal(run.config->n_routes, 1);
    assert_int_equal(mm_route_find(run.config, "a|b", 3)->lane, 1);
    end_run(&run);
    static const struct mm_option wrong[] = {{"ROUTE", "a one|b|c # t|d two"}, {NULL, NULL}};
    run = (struct run){.environment = wrong};
    static const char *const lines[] = {
        "environment variable ROUTE: \"b\" is not valid: it has no Kafka topic; " EXPECTED_ROUTE,
        "environment variable ROUTE: \"c # t\" is not valid: \"t\" is too much; " EXPECTED_ROUTE,
    };
    expect_errors(&run, lines, LEN_OF(lines));
}

static void test_every_wrong_route_is_reported(void **state)
{
    (void)state;
    static const struct mm_option given[] = {
        {"route", ""}, {"route", "a one"}, {"route", "#/# two"}, {"route", NULL}};
    struct run run = {.given = given, .n_given = LEN_OF(given)};
    static const char *const lines[] = {
        "option route: \"\" is not valid: it is empty; " EXPECTED_ROUTE,
        "option route: \"#/# two\" is not valid: filter 1 \"#/#\": " HASH_RULE "; " EXPECTED_ROUTE,
        "option route: \"\" is not valid: it is empty; " EXPECTED_ROUTE,
    };
    expect_errors(&run, lines, LEN_OF(lines));
}

static void test_templates_need_an_allow_list(void **state)
{
    (void)state;
    struct mm_option given[] = {{"route", "a/# p.${topic[1]}"},
                                {"route", "b/# b"},
                                {"route", "c/# ${topic}"},
                                {"kafka_topic_allow", "p.*,*.c"}};
    struct run run = {.given = given, .n_given = LEN_OF(given)};
    expect_good(&run);
    assert_int_equal(run.config->routes[0].lane, MM_ROUTE_LANE_DERIVED);
    assert_int_equal(run.config->routes[1].lane, 1);
    assert_int_equal(mm_route_n_lanes(run.config), 2);
    assert_int_equal(mm_route_n_possible(run.config), 100);
    static const struct
    {
        const char *topic;
        bool allowed;
    } cases[] = {{"p.", true},     {"p.x", true},  {"px", false},     {".c", true},
                 {"__x.c", false}, {"_x.c", true}, {"p.__x.y", true}, {"p.x y", false}};
    for (size_t i = 0; i < LEN_OF(cases); i++) {
        assert_int_equal(mm_route_allows(run.config, cases[i].topic), cases[i].allowed);
    }
    end_run(&run);
    run.n_given = 3;
    static const char *const lines[] = {
        "option route: the Kafka topic \"p.${topic[1]}\" is made of what publishers send: "
        "kafka_topic_allow has to say which Kafka topics that may be",
        "option route: the Kafka topic \"${topic}\" is made of what publishers send: "
        "kafka_topic_allow has to say which Kafka topics that may be"};
    expect_errors(&run, lines, LEN_OF(lines));
    /* One that is not valid is told of once. */
    run.n_given = 4;
    given[3].value = "a b";
    static const char *const wrong[] = {
        "option kafka_topic_allow: \"a b\" is not valid: " EXPECTED_ALLOW};
    expect_errors(&run, wrong, LEN_OF(wrong));
}

static void test_many_lanes(void **state)
{
    (void)state;
    enum {
        N = 100 /* the default of kafka_topics_max */
    };
    char values[N][32];
    struct mm_option given[N + 1];
    for (size_t i = 0; i < N; i++) {
        snprintf(values[i], sizeof values[i], "a/%zu t%zu", i, i);
        given[i] = (struct mm_option){"route", values[i]};
    }
    given[N - 1].value = "b t0";
    given[N].name = "route";
    given[N].value = "c mqtt";
    struct run run = {.given = given, .n_given = LEN_OF(given)};
    expect_good(&run);
    assert_int_equal(mm_route_n_lanes(run.config), N);
    assert_int_equal(run.config->n_routes, N + 1);
    assert_int_equal(run.config->routes[N - 2].lane, N - 1);
    end_run(&run);
    given[N - 1].value = values[N - 1];
    static const char *const lines[] = {
        "option kafka_topics_max: 100 is too few: kafka_topic and the routes name 101 Kafka "
        "topics"};
    expect_errors(&run, lines, LEN_OF(lines));
}

/* A line for two Kafka topics of which Kafka lets one be made. */
#define COLLIDE(a, b)                                          \
    "the Kafka topics \"" a "\" and \"" b                      \
    "\" cannot both be: Kafka's metrics have '_' for '.', so " \
    "that the two names are one there"

static void test_kafka_topics_beside_each_other(void **state)
{
    (void)state;
    static const struct
    {
        struct mm_option given[4]; /* up to a NULL name */
        const char *line;          /* NULL: they are good */
    } cases[] = {
        {{{"kafka_topic", "a.b"}, {"route", "x a_b"}}, "option route: " COLLIDE("a.b", "a_b")},
        {{{"route", "x a_b.c"}, {"route", "y a.b_c"}}, "option route: " COLLIDE("a_b.c", "a.b_c")},
        {{{"kafka_topic", "a.b"}, {"dead_letter_topic", "a_b"}},
         "option dead_letter_topic: " COLLIDE("a.b", "a_b")},
        {{{"kafka_topic", "a.b"}, {"kafka_test_topic", "a_b"}},
         "option kafka_test_topic: " COLLIDE("a.b", "a_b")},
        {{{"dead_letter_topic", "a.b"}, {"kafka_test_topic", "a_b"}},
         "option kafka_test_topic: " COLLIDE("a.b", "a_b")},
        {{{"dead_letter_topic", "mqtt"}},
         "option dead_letter_topic: \"mqtt\" is not valid: kafka_topic goes there; expected a "
         "Kafka "
         "topic of its own"},
        {{{"dead_letter_topic", "r"}, {"route", "a q"}, {"route", "b r"}},
         "option dead_letter_topic: \"r\" is not valid: a route goes there; expected a Kafka topic "
         "of its own"},
        {{{"kafka_topic", "a.b"}, {"route", "x a.b"}, {"kafka_test_topic", "a.b"}}, NULL},
        {{{"kafka_topic", "a.b"}, {"route", "x a.c"}, {"route", "y a-b"}}, NULL},
        {{{"kafka_topic", "a.b"}, {"route", "x a_b_"}, {"dead_letter_topic", "a_"}}, NULL},
        {{{"kafka_test_topic", "d"}, {"dead_letter_topic", "d"}}, NULL},
    };
    for (size_t i = 0; i < LEN_OF(cases); i++) {
        struct run run = {.given = cases[i].given};
        while (run.n_given < LEN_OF(cases[i].given) && run.given[run.n_given].name != NULL) {
            run.n_given++;
        }
        if (cases[i].line != NULL) {
            expect_errors(&run, &cases[i].line, 1);
        } else {
            expect_good(&run);
            assert_int_equal(run.n_lines, 0);
            end_run(&run);
        }
    }
    /* Beside a topic that is not valid itself. */
    static const struct mm_option wrong[] = {
        {"kafka_topic", "a/b"}, {"route", "x a_b"}, {"dead_letter_topic", "a.b"}};
    struct run run = {.given = wrong, .n_given = LEN_OF(wrong)};
    static const char *const lines[] = {
        "option kafka_topic: \"a/b\" is not valid: " EXPECTED_TOPIC,
        "option dead_letter_topic: " COLLIDE("a_b", "a.b"),
    };
    expect_errors(&run, lines, LEN_OF(lines));
}

static void test_huge_number_of_routes(void **state)
{
    (void)state;
    enum {
        N = 20000
    };
    static const char route[] = {'a', '/', '+', ',', 'c', '/', '#', ' ', 't', '|'};
    char *routes = repeat(' ', N * sizeof route);
    for (size_t i = 0; i < N; i++) {
        memcpy(routes + i * sizeof route, route, sizeof route);
    }
    const struct mm_option environment[] = {{"ROUTE", routes}, {NULL, NULL}};
    struct run run = {.environment = environment};
    expect_good(&run);
    assert_int_equal(run.config->n_routes, N);
    assert_int_equal(run.config->n_route_topics, 1);
    char line[MM_LOG_LINE_LEN];
    mm_config_describe(run.config, line, sizeof line);
    assert_string_equal(line + strlen(line) - 4, " ...");
    end_run(&run);
    free(routes);
}

/* Names */

static const struct
{
    const char *name;
    const char *line;
} unknown_names[] = {
    {"kafka_worker", "option kafka_worker: unknown; did you mean kafka_workers?"},
    {"kafka_wrokers", "option kafka_wrokers: unknown; did you mean kafka_workers?"},
    {"kafka-broker", "option kafka-broker: unknown; did you mean kafka_broker?"},
    {"kafka_brokers", "option kafka_brokers: unknown; did you mean kafka_broker?"},
    {"kafka.broker", "option kafka.broker: unknown; did you mean kafka_broker?"},
    {"KAFKA_BROKER", "option KAFKA_BROKER: unknown; did you mean kafka_broker?"},
    {"Kafka-Port", "option Kafka-Port: unknown; did you mean kafka_port?"},
    {"mqttopic", "option mqttopic: unknown; did you mean mqtt_topic?"},
    {"mqtt_brokr", "option mqtt_brokr: unknown; did you mean mqtt_broker?"},
    {"loglevel", "option loglevel: unknown; did you mean log_level?"},
    {"spool_max", "option spool_max: unknown; did you mean spool_max_bytes?"},
    {"whenfull", "option whenfull: unknown; did you mean when_full?"},
    {"refuse_v6", "option refuse_v6: unknown; did you mean refuse_v5?"},
    {"kafka_test", "option kafka_test: unknown"},
    {"health", "option health: unknown"},
    {"kafka_t", "option kafka_t: unknown"},
    {"when_f", "option when_f: unknown; did you mean when_full?"},
    {"whe", "option whe: unknown"},
    {"x", "option x: unknown"},
    {"", "option : unknown"},
    {"completely_different", "option completely_different: unknown"},
    {"linger.ms", "option linger.ms: unknown; did you mean rdkafka.linger.ms?"},
    {"rdkafka", "option rdkafka: unknown; did you mean rdkafka.<property>?"},
    {"rdkafka_linger_ms", "option rdkafka_linger_ms: unknown; did you mean kafka_linger_ms?"},
    {"rdkafka_acks", "option rdkafka_acks: unknown; did you mean rdkafka.<property>?"},
    {"RDKAFKA.linger.ms", "option RDKAFKA.linger.ms: unknown; did you mean kafka_linger_ms?"},
    {"a\nb\xFF", "option a?b?: unknown"},
};

static void test_unknown_names(void **state)
{
    (void)state;
    for (size_t i = 0; i < LEN_OF(unknown_names); i++) {
        const struct mm_option given = {unknown_names[i].name, "hunter2"};
        struct run run = {.given = &given, .n_given = 1};
        expect_errors(&run, &unknown_names[i].line, 1);
    }
}

static void test_huge_names(void **state)
{
    (void)state;
    for (size_t len = 60; len < 70; len++) { /* around the longest that is compared */
        char *name = repeat('k', len);
        const struct mm_option given = {name, "1"};
        struct run run = {.given = &given, .n_given = 1};
        start_run(&run);
        assert_int_equal(run.rc, MM_EINVAL);
        assert_non_null(strstr(run.lines[0], ": unknown"));
        free(name);
    }
    static const char *const beginnings[] = {"", "rdkafka.", "rdkafka", "kafka_workers", "a."};
    for (size_t i = 0; i < LEN_OF(beginnings); i++) {
        char *name = repeat('a', HUGE_LEN);
        memcpy(name, beginnings[i], strlen(beginnings[i]));
        const struct mm_option given = {name, "1"};
        struct run run = {.given = &given, .n_given = 1};
        start_run(&run);
        assert_int_equal(run.rc, MM_EINVAL);
        assert_int_equal(run.n_lines, 1);
        assert_non_null(strstr(run.lines[0], "aaa...: "));
        assert_in_range(strlen(run.lines[0]), 64, 250);
        free(name);
    }
}

static void test_duplicates(void **state)
{
    (void)state;
    for (size_t i = 0; i < LEN_OF(setting_names); i++) {
        if (strcmp(setting_names[i], "route") == 0) {
            continue; /* may be given again */
        }
        const struct mm_option given[] = {{setting_names[i], " a "}, {setting_names[i], "b\n"}};
        struct run run = {.given = given, .n_given = 2};
        char line[MM_LOG_LINE_LEN];
        snprintf(line, sizeof line, "option %s: given twice, first \"a\", then \"b\"",
                 setting_names[i]);
        start_run(&run);
        assert_int_equal(run.rc, MM_EINVAL);
        assert_string_equal(run.lines[0], line);
        assert_int_equal(run.levels[0], MM_LOG_ERROR);
        end_run(&run);
    }
    /* The same value twice is a duplicate too, and each further one is told. */
    static const struct mm_option thrice[] = {
        {"when_full", "reject"}, {"when_full", "reject"}, {"when_full", "drop_newest"}};
    struct run run = {.given = thrice, .n_given = LEN_OF(thrice)};
    static const char *const lines[] = {
        "option when_full: given twice, first \"reject\", then \"reject\"",
        "option when_full: given twice, first \"reject\", then \"drop_newest\"",
    };
    expect_errors(&run, lines, LEN_OF(lines));
}

static void test_duplicate_of_huge_values(void **state)
{
    (void)state;
    char *value = repeat('x', HUGE_LEN);
    const struct mm_option given[] = {{"mqtt_client_id", value}, {"mqtt_client_id", value}};
    struct run run = {.given = given, .n_given = LEN_OF(given)};
    start_run(&run);
    assert_int_equal(run.rc, MM_EINVAL);
    assert_int_equal(count_level(&run, MM_LOG_ERROR), 1);
    assert_in_range(strlen(run.lines[0]), 150, 250);
    free(value);
}

static void test_every_mistake_is_reported(void **state)
{
    (void)state;
    static const struct mm_option given[] = {
        {"kafka_workers", "abc"}, {"kafka_worker", "1"},  {"rdkafka.acks", "1"},
        {"log_level", "loud"},    {"mqtt_topic", "#/#"},  {"log_level", "info"},
        {"health_port", "1"},     {"kafka_broker", "a,"}, {"kafka_port", "x"},
    };
    static const struct mm_option environment[] = {
        {"WHEN_FULL", "never"},
        {"KAFKA_WORKERS", "0"}, /* not asked: the option is given, if wrong */
        {NULL, NULL},
    };
    struct run run = {.given = given, .n_given = LEN_OF(given), .environment = environment};
    static const char *const lines[] = {
        "option kafka_worker: unknown; did you mean kafka_workers?",
        "option rdkafka.acks: cannot be set: the plugin sets it to all: with less, Kafka may lose "
        "what it has confirmed",
        "option log_level: given twice, first \"loud\", then \"info\"",
        "option mqtt_topic: \"#/#\" is not valid: filter 1 \"#/#\": " HASH_RULE
        "; " EXPECTED_FILTERS,
        "option kafka_port: \"x\" is not valid: " EXPECTED_PORT,
        "option kafka_broker: \"a,\" is not valid: entry 2 is empty; " EXPECTED_BROKERS,
        "option kafka_workers: \"abc\" is not valid: " EXPECTED_WORKERS,
        "environment variable WHEN_FULL: \"never\" is not valid: " EXPECTED_WHEN_FULL,
        "option log_level: \"loud\" is not valid: " EXPECTED_LEVEL,
    };
    expect_errors(&run, lines, LEN_OF(lines));
}

/* Sources */

static void test_option_before_environment(void **state)
{
    (void)state;
    static const struct mm_option given[] = {{"kafka_topic", "option"}};
    static const struct mm_option environment[] = {
        {"KAFKA_TOPIC", "environment"}, {"KAFKA_WORKERS", " 3 "}, {NULL, NULL}};
    struct run run = {.given = given, .n_given = 1, .environment = environment};
    expect_good(&run);
    assert_string_equal(run.config->kafka_topic, "option");
    assert_int_equal(run.config->kafka_workers, 3);
    assert_int_equal(run.config->kafka_retry_interval_s, 10);
    end_run(&run);
}

static void test_option_hides_wrong_variable(void **state)
{
    (void)state;
    static const struct mm_option given[] = {{"kafka_workers", "2"}};
    static const struct mm_option environment[] = {{"KAFKA_WORKERS", "many"}, {NULL, NULL}};
    struct run run = {.given = given, .n_given = 1, .environment = environment};
    expect_good(&run);
    assert_int_equal(run.config->kafka_workers, 2);
    assert_int_equal(run.n_lines, 0);
    end_run(&run);
}

static void test_empty_variable_is_not_set(void **state)
{
    (void)state;
    for (size_t i = 0; i < LEN_OF(setting_names); i++) {
        char variable[64];
        capitals(setting_names[i], variable);
        static const char *const blanks[] = {"", " \t"};
        for (size_t k = 0; k < LEN_OF(blanks); k++) {
            const struct mm_option environment[] = {{variable, blanks[k]}, {NULL, NULL}};
            struct run run = {.environment = environment};
            expect_good(&run);
            assert_int_equal(run.n_lines, 0);
            end_run(&run);
        }
    }
}

static void test_environment_is_not_read_without_getenv(void **state)
{
    (void)state;
    struct run run = {.given = NULL};
    expect_good(&run);
    assert_int_equal(run.config->kafka_workers, 1);
    end_run(&run);
}

/* Only known names in capitals are asked for: no property, not the misspelt kakfa_port. */
static const char *note_name(void *arg, const char *name)
{
    size_t *n_asked = arg;
    ++*n_asked;
    assert_null(strchr(name, '.'));
    assert_string_not_equal(name, "KAKFA_PORT");
    char variable[64];
    capitals(name, variable);
    assert_string_equal(name, variable);
    return NULL;
}

static void test_variables_asked_for(void **state)
{
    (void)state;
    size_t n_asked = 0;
    struct mm_config_source source = {.getenv = note_name, .getenv_arg = &n_asked};
    struct mm_config *config = NULL;
    assert_int_equal(mm_config_new(&source, &config), 0);
    size_t n_options = 0;
    for (size_t i = 0; i < MM_N_OPTIONS; i++) {
        n_options += mm_option_defs[i].kind != MM_OPTION_ALIAS;
    }
    assert_int_equal(n_asked, n_options);
    mm_config_free(config);
}

static void test_nobody_hears(void **state)
{
    (void)state;
    static const struct mm_option given[] = {{"nonsense", "x"}};
    struct mm_config_source source = {.options = given, .n_options = 1};
    struct mm_config *config = (struct mm_config *)&source;
    assert_int_equal(mm_config_new(&source, &config), MM_EINVAL);
    assert_null(config);
    mm_config_free(NULL);
}

/* What the Go program did */

static void test_test_topic_switches_message_on(void **state)
{
    (void)state;
    static const struct mm_option topic = {"kafka_test_topic", "probe"};
    static const struct mm_option both[] = {{"kafka_test_topic", "probe"},
                                            {"kafka_test_message", "false"}};
    static const struct mm_option none[] = {{NULL, NULL}};
    static const struct mm_option topic_variable[] = {{"KAFKA_TEST_TOPIC", "probe"}, {NULL, NULL}};
    static const struct mm_option off_variable[] = {{"KAFKA_TEST_MESSAGE", "false"}, {NULL, NULL}};
    static const struct mm_option empty_variable[] = {{"KAFKA_TEST_MESSAGE", ""}, {NULL, NULL}};
    struct
    {
        struct run run;
        bool message;
    } cases[] = {
        {{.given = &topic, .n_given = 1, .environment = none}, true},
        {{.environment = topic_variable}, true},
        {{.given = &topic, .n_given = 1, .environment = empty_variable}, true},
        {{.given = both, .n_given = 2, .environment = none}, false},
        {{.given = &topic, .n_given = 1, .environment = off_variable}, false},
        {{.given = &both[1], .n_given = 1, .environment = topic_variable}, false},
        {{.environment = none}, false},
    };
    for (size_t i = 0; i < LEN_OF(cases); i++) {
        expect_good(&cases[i].run);
        assert_int_equal(cases[i].run.config->kafka_test_message, cases[i].message);
        end_run(&cases[i].run);
    }
}

static void test_misspelt_port(void **state)
{
    (void)state;
    static const struct mm_option given[] = {{"kakfa_port", "1234"}};
    static const struct mm_option environment[] = {{"KAFKA_PORT", "99"}, {NULL, NULL}};
    struct run run = {.given = given, .n_given = 1, .environment = environment};
    expect_good(&run);
    assert_string_equal(run.config->kafka_bootstrap, "localhost:1234");
    assert_int_equal(run.n_lines, 1);
    assert_int_equal(run.levels[0], MM_LOG_WARN);
    assert_string_equal(run.lines[0], "option kakfa_port: is taken as kafka_port");
    end_run(&run);

    static const struct mm_option wrong[] = {{"kakfa_port", "x"}};
    run = (struct run){.given = wrong, .n_given = 1};
    start_run(&run);
    assert_int_equal(run.rc, MM_EINVAL);
    assert_string_equal(run.lines[1], "option kakfa_port: \"x\" is not valid: " EXPECTED_PORT);

    static const struct mm_option both[] = {{"kakfa_port", "1"}, {"kafka_port", "1"}};
    run = (struct run){.given = both, .n_given = 2};
    start_run(&run);
    assert_int_equal(run.rc, MM_EINVAL);
    assert_string_equal(run.lines[1], "option kafka_port: given twice, first \"1\", then \"1\"");
}

static void test_level_fatal(void **state)
{
    (void)state;
    static const struct mm_option environment[] = {{"LOG_LEVEL", "FATAL"}, {NULL, NULL}};
    struct run run = {.environment = environment};
    expect_good(&run);
    assert_int_equal(run.config->log_level, MM_LOG_ERROR);
    assert_true(describes(run.config, "log_level=error"));
    assert_int_equal(run.n_lines, 1);
    assert_int_equal(run.levels[0], MM_LOG_WARN);
    assert_string_equal(run.lines[0],
                        "environment variable LOG_LEVEL: \"fatal\" is taken as error");
    end_run(&run);
}

static void test_settings_without_meaning(void **state)
{
    (void)state;
    static const struct mm_option given[] = {
        {"mqtt_broker", "host"},       {"mqtt_port", "no number"},
        {"mqtt_tls", "maybe"},         {"root_ca", ""},
        {"mqtt_client_cert", "/c"},    {"mqtt_client_key", "/k"},
        {"mqtt_client_id", "\x01"},    {"kafka_batch_size", "-1"},
        {"kafka_max_batch_size", "x"}, {"kafka_interval", "1 hour"},
    };
    static const char list[] =
        "these settings have no meaning for a plugin inside the broker and are ignored: ";
    char line[MM_LOG_LINE_LEN];
    snprintf(line, sizeof line,
             "%smqtt_broker, mqtt_port, mqtt_tls, root_ca, mqtt_client_cert, mqtt_client_key, "
             "mqtt_client_id, kafka_batch_size, kafka_max_batch_size, kafka_interval",
             list);
    struct run run = {.given = given, .n_given = LEN_OF(given)};
    expect_good(&run);
    assert_int_equal(run.n_lines, 1);
    assert_int_equal(run.levels[0], MM_LOG_INFO);
    assert_string_equal(run.lines[0], line);
    end_run(&run);

    /* From both sources; a variable is named as such, and an empty one is not there. */
    static const struct mm_option environment[] = {
        {"MQTT_BROKER", "other"}, {"ROOT_CA", "/ca"}, {"MQTT_TLS", ""}, {NULL, NULL}};
    run = (struct run){.given = given, .n_given = 2, .environment = environment};
    expect_good(&run);
    assert_int_equal(run.n_lines, 1);
    snprintf(line, sizeof line, "%smqtt_broker, mqtt_port, ROOT_CA", list);
    assert_string_equal(run.lines[0], line);
    end_run(&run);
}

/* Properties of librdkafka */

static void test_properties_are_kept_in_order(void **state)
{
    (void)state;
    static const struct mm_option given[] = {
        {"rdkafka.linger.ms", " 20 "},           {"kafka_topic", "t"},
        {"rdkafka.compression.type", "zstd"},    {"rdkafka.partitioner", "murmur2_random"},
        {"rdkafka.queue.buffering.max.ms", "5"}, {"rdkafka.not.known_here.1", "x y"},
    };
    struct run run = {.given = given, .n_given = LEN_OF(given)};
    expect_good(&run);
    assert_int_equal(run.n_lines, 0);
    static const struct mm_option expected[] = {
        {"linger.ms", "20"},
        {"compression.type", "zstd"},
        {"partitioner", "murmur2_random"},
        {"queue.buffering.max.ms", "5"},
        {"not.known_here.1", "x y"},
    };
    assert_int_equal(run.config->n_properties, LEN_OF(expected));
    for (size_t i = 0; i < LEN_OF(expected); i++) {
        assert_string_equal(run.config->properties[i].name, expected[i].name);
        assert_string_equal(run.config->properties[i].value, expected[i].value);
    }
    assert_true(describes(run.config, "rdkafka.linger.ms=20"));
    assert_true(describes(run.config, "rdkafka.not.known_here.1=\"x y\""));
    end_run(&run);
}

static void test_properties_that_name_files(void **state)
{
    (void)state;
    bool secret = true;
    assert_true(mm_property_names_file("ssl.ca.location", &secret));
    assert_false(secret);
    assert_true(mm_property_names_file("ssl.key.location", &secret));
    assert_true(secret);
    assert_false(mm_property_names_file("ssl.key.password", &secret));
    assert_false(mm_property_names_file("ssl.key.locatio", &secret));
}

static const char *const refused_properties[] = {
    "bootstrap.servers",
    "metadata.broker.list",
    "message.timeout.ms",
    "delivery.timeout.ms",
    "enable.idempotence",
    "acks",
    "request.required.acks",
    "max.in.flight",
    "max.in.flight.requests.per.connection",
    "retries",
    "message.send.max.retries",
    "enable.gapless.guarantee",
    "queuing.strategy",
    "topic.blacklist",
    "transactional.id",
    "queue.buffering.max.messages",
    "queue.buffering.max.kbytes",
    "delivery.report.only.error",
    "statistics.interval.ms",
    "enabled_events",
    "plugin.library.paths",
    "internal.termination.signal",
    "log.queue",
    "dr_cb",
    "dr_msg_cb",
    "error_cb",
    "log_cb",
    "oauthbearer_token_refresh_cb",
    "ssl.certificate.verify_cb",
    "opaque",
    "interceptors",
    "default_topic_conf",
};

static void test_refused_properties(void **state)
{
    (void)state;
    for (size_t i = 0; i < LEN_OF(refused_properties); i++) {
        char name[128];
        char beginning[192];
        snprintf(name, sizeof name, "rdkafka.%s", refused_properties[i]);
        snprintf(beginning, sizeof beginning, "option %s: cannot be set: ", name);
        const struct mm_option given = {name, "hunter2"};
        struct run run = {.given = &given, .n_given = 1};
        start_run(&run);
        assert_int_equal(run.rc, MM_EINVAL);
        assert_int_equal(run.n_lines, 1);
        assert_memory_equal(run.lines[0], beginning, strlen(beginning));
        assert_true(strlen(run.lines[0]) > strlen(beginning)); /* the reason */
        assert_null(strstr(run.lines[0], "hunter2"));
    }
}

#define NAME_RULE                                                                              \
    ": not the name of a property: expected rdkafka.<property> of 1 to 128 of the characters " \
    "a-z, 0-9, '.' and '_'"

static void test_bad_property_names(void **state)
{
    (void)state;
    static const struct mm_option given[] = {
        {"rdkafka.", "x"},          {"rdkafka.Linger.ms", "x"}, {"rdkafka.linger-ms", "x"},
        {"rdkafka.linger ms", "x"}, {"rdkafka.\xC3\xBC", "x"},
    };
    static const char *const lines[] = {
        "option rdkafka." NAME_RULE,          "option rdkafka.Linger.ms" NAME_RULE,
        "option rdkafka.linger-ms" NAME_RULE, "option rdkafka.linger ms" NAME_RULE,
        "option rdkafka.\xC3\xBC" NAME_RULE,
    };
    struct run run = {.given = given, .n_given = LEN_OF(given)};
    expect_errors(&run, lines, LEN_OF(lines));
}

static void test_longest_property_name(void **state)
{
    (void)state;
    char *name = repeat('p', strlen("rdkafka.") + 129);
    memcpy(name, "rdkafka.", strlen("rdkafka."));
    const struct mm_option given = {name, "x"};
    struct run run = {.given = &given, .n_given = 1};
    start_run(&run);
    assert_int_equal(run.rc, MM_EINVAL);
    name[strlen(name) - 1] = '\0';
    expect_good(&run);
    end_run(&run);
    free(name);
}

static void test_duplicate_property(void **state)
{
    (void)state;
    static const struct mm_option given[] = {
        {"rdkafka.linger.ms", "1"}, {"rdkafka.linger", "1"}, {"rdkafka.linger.ms", "1"}};
    struct run run = {.given = given, .n_given = LEN_OF(given)};
    static const char *const lines[] = {"option rdkafka.linger.ms: given twice"};
    expect_errors(&run, lines, 1);
}

static void test_huge_property_value_is_kept(void **state)
{
    (void)state;
    char *value = repeat('v', HUGE_LEN);
    const struct mm_option given = {"rdkafka.client.id", value};
    struct run run = {.given = &given, .n_given = 1};
    expect_good(&run);
    assert_int_equal(strlen(run.config->properties[0].value), HUGE_LEN);
    char line[4096];
    mm_config_describe(run.config, line, sizeof line);
    assert_non_null(strstr(line, "rdkafka.client.id=vvvv"));
    assert_string_equal(line + strlen(line) - 6, "vvv...");
    assert_in_range(strlen(line), 100, 1000);
    end_run(&run);
    free(value);
}

static void test_secrets_are_never_shown(void **state)
{
    (void)state;
    static const char *const names[] = {
        "rdkafka.sasl.password",
        "rdkafka.ssl.key.password",
        "rdkafka.ssl.keystore.password",
        "rdkafka.sasl.oauthbearer.client.secret",
        "rdkafka.sasl.oauthbearer.config",
        "rdkafka.sasl.oauthbearer.assertion.private.key.passphrase",
        "rdkafka.some.passphrase",
        "rdkafka.sasl.jaas.config",
        "rdkafka.ssl.key.pem",
        "rdkafka.ssl.certificate.pem",
    };
    for (size_t i = 0; i < LEN_OF(names); i++) {
        const struct mm_option given[] = {{names[i], "hunter2"}, {names[i], "hunter2"}};
        struct run run = {.given = given, .n_given = 1};
        expect_good(&run);
        assert_string_equal(run.config->properties[0].value, "hunter2");
        char line[4096];
        mm_config_describe(run.config, line, sizeof line);
        assert_null(strstr(line, "hunter2"));
        char pair[128];
        snprintf(pair, sizeof pair, "%s=***", names[i]);
        assert_true(describes(run.config, pair));
        end_run(&run);

        run.n_given = 2;
        start_run(&run);
        assert_int_equal(run.rc, MM_EINVAL);
        assert_int_equal(run.n_lines, 1);
        assert_null(strstr(run.lines[0], "hunter2"));
    }
}

/* Memory */

static void test_out_of_memory(void **state)
{
    (void)state;
    char path[] = "/tmp/mm-test-config-XXXXXX";
    const int fd = mkstemp(path);
    assert_true(fd >= 0);
    static const char text[] = "log_level debug\nrdkafka.client.id x\n";
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
    const struct mm_option given[] = {
        {"mqtt_topic", "a,b"},
        {"kafka_broker", "k1,k2"},
        {"kafka_test_topic", "t"},
        {"json_field_names", "a,b"},
        {"health_address", "all"},
        {"mqtt_broker", "x"},
        {"rdkafka.linger.ms", "20"},
        {"rdkafka.sasl.password", "x"},
        {"spool_dir", "/d"},
        {"dead_letter_topic", "d"},
        {"route", "a t"},
        {"route", "b t"},
        {"config_file", path},
    };
    static const struct mm_option environment[] = {
        {"KAFKA_TOPIC", "t"}, {"WHEN_FULL", ""}, {NULL, NULL}};
    struct run run = {.given = given, .n_given = LEN_OF(given), .environment = environment};
    long n = 0;
    for (;; n++) {
        n_allocs_left = n;
        start_run(&run);
        bool failed = n_allocs_left < 0;
        n_allocs_left = -1;
        if (!failed) {
            break;
        }
        assert_int_equal(run.rc, MM_ENOMEM);
        assert_int_equal(run.n_lines, 0);
    }
    assert_int_equal(run.rc, 0);
    end_run(&run);
    unlink(path);
    /* The settings 1; gathered: of each of 12 options its text and its place in the list, variables
     * 3, properties 2 each and 3 for their list; the file 5; applied: filters 2, brokers 2, names
     * 3, routes 2, other texts 6; all filters together 2. */
    assert_int_equal(n, 59);
}

/* A reason code that a client cannot see is an acknowledgement of what was not stored. */
static void test_only_mqtt_5_on_2_1_is_refused_by_code(void **state)
{
    (void)state;
    for (int version = 3; version <= 5; version++) {
        for (int broker_2_1 = 0; broker_2_1 <= 1; broker_2_1++) {
            struct mm_config config = {.refuse_v5 = MM_REFUSE_DISCONNECT};
            assert_false(mm_config_refuse_by_code(&config, broker_2_1 == 1, version));
            config.refuse_v5 = MM_REFUSE_REASON_CODE;
            assert_int_equal(mm_config_refuse_by_code(&config, broker_2_1 == 1, version),
                             broker_2_1 == 1 && version == 5);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_routes_are_kept_in_order),
        cmocka_unit_test(test_routes_of_the_environment),
        cmocka_unit_test(test_every_wrong_route_is_reported),
        cmocka_unit_test(test_templates_need_an_allow_list),
        cmocka_unit_test(test_many_lanes),
        cmocka_unit_test(test_kafka_topics_beside_each_other),
        cmocka_unit_test(test_huge_number_of_routes),
        cmocka_unit_test(test_unknown_names),
        cmocka_unit_test(test_huge_names),
        cmocka_unit_test(test_duplicates),
        cmocka_unit_test(test_duplicate_of_huge_values),
        cmocka_unit_test(test_every_mistake_is_reported),
        cmocka_unit_test(test_option_before_environment),
        cmocka_unit_test(test_option_hides_wrong_variable),
        cmocka_unit_test(test_empty_variable_is_not_set),
        cmocka_unit_test(test_environment_is_not_read_without_getenv),
        cmocka_unit_test(test_variables_asked_for),
        cmocka_unit_test(test_nobody_hears),
        cmocka_unit_test(test_test_topic_switches_message_on),
        cmocka_unit_test(test_misspelt_port),
        cmocka_unit_test(test_level_fatal),
        cmocka_unit_test(test_settings_without_meaning),
        cmocka_unit_test(test_properties_are_kept_in_order),
        cmocka_unit_test(test_properties_that_name_files),
        cmocka_unit_test(test_refused_properties),
        cmocka_unit_test(test_bad_property_names),
        cmocka_unit_test(test_longest_property_name),
        cmocka_unit_test(test_duplicate_property),
        cmocka_unit_test(test_huge_property_value_is_kept),
        cmocka_unit_test(test_secrets_are_never_shown),
        cmocka_unit_test(test_out_of_memory),
        cmocka_unit_test(test_only_mqtt_5_on_2_1_is_refused_by_code),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
