/* The config_file: what is read of it, what it means beside the broker's configuration and the
 * environment, what is told of its mistakes, and what of it a running broker cannot take over. */
#include "mm_config_file.h"
#include "scratch.h"

#include "mm_error.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define LEN_OF(array) (sizeof(array) / sizeof(array)[0])
#define MAX_LINES 32

/* A file in a directory of its own, and what is told when it is used. */
struct bench
{
    char dir[SCRATCH_LEN];
    char path[80];
    size_t n_lines;
    enum mm_log_level levels[MAX_LINES];
    char lines[MAX_LINES][MM_FINDING_LINE_LEN];
    unsigned line_numbers[MAX_LINES];
    const char *variable; /* the environment: one name ... */
    const char *value;    /* ... and its value */
};

static int set_up(void **state)
{
    struct bench *b = calloc(1, sizeof *b);
    assert_non_null(b);
    assert_int_equal(scratch_make(b->dir, "config_file"), 0);
    snprintf(b->path, sizeof b->path, "%s/mm.conf", b->dir);
    *state = b;
    return 0;
}

static int tear_down(void **state)
{
    struct bench *b = *state;
    unlink(b->path);
    rmdir(b->path);
    assert_int_equal(rmdir(b->dir), 0);
    free(b);
    return 0;
}

static void write_bytes(struct bench *b, const char *bytes, size_t len)
{
    const int fd = open(b->path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, len), len);
    assert_int_equal(close(fd), 0);
}

static void take_finding(void *arg, const struct mm_finding *finding)
{
    struct bench *b = arg;
    assert_in_range(b->n_lines, 0, MAX_LINES - 1);
    b->levels[b->n_lines] = finding->level;
    b->line_numbers[b->n_lines] = finding->place.line;
    mm_finding_line(finding, b->lines[b->n_lines], sizeof b->lines[0]);
    b->n_lines++;
}

static const char *look_up(void *arg, const char *name)
{
    const struct bench *b = arg;
    return b->variable != NULL && strcmp(b->variable, name) == 0 ? b->value : NULL;
}

/* Settings of a text as config_file and of n other options. NULL: refused. */
static struct mm_config *make(struct bench *b,
                              const char *text,
                              const struct mm_option *others,
                              size_t n_others)
{
    struct mm_option options[8] = {{"config_file", b->path}};
    assert_in_range(n_others, 0, LEN_OF(options) - 1);
    for (size_t i = 0; i < n_others; i++) {
        options[1 + i] = others[i];
    }
    const struct mm_config_source source = {
        .options = options,
        .n_options = 1 + n_others,
        .getenv = look_up,
        .getenv_arg = b,
        .report = take_finding,
        .report_arg = b,
    };
    if (text != NULL) {
        write_bytes(b, text, strlen(text));
    }
    b->n_lines = 0;
    struct mm_config *config = NULL;
    const int rc = mm_config_new(&source, &config);
    assert_true((rc == 0) == (config != NULL));
    assert_true(rc == 0 || rc == MM_EINVAL);
    return config;
}

/* The finding of this number is this one of the file: config_file "<path>" <rest>. */
static void expect_finding(const struct bench *b,
                           size_t i,
                           enum mm_log_level level,
                           const char *rest)
{
    char line[2 * MM_FINDING_LINE_LEN];
    snprintf(line, sizeof line, "config_file \"%s\" %s", b->path, rest);
    assert_in_range(i, 0, b->n_lines - 1);
    assert_string_equal(b->lines[i], line);
    assert_int_equal(b->levels[i], level);
}

/* Refused with this one error. */
static void expect_refused(struct bench *b,
                           const char *text,
                           const struct mm_option *others,
                           size_t n_others,
                           const char *rest)
{
    assert_null(make(b, text, others, n_others));
    expect_finding(b, 0, MM_LOG_ERROR, rest);
    assert_int_equal(b->n_lines, 1);
}

static void expect_taken(struct bench *b, const struct mm_config *config)
{
    if (config == NULL) {
        fail_msg("refused: %s", b->lines[0]);
    }
    assert_int_equal(b->n_lines, 0);
}

static void test_form(void **state)
{
    struct bench *b = *state;
    struct mm_config *config = make(b,
                                    "\xEF\xBB\xBF# a comment\r\n"
                                    "\r\n"
                                    "   \t \n"
                                    "kafka_topic  plant.data  \r\n"
                                    "\t mqtt_topic\ta b/# , c/+\t\n"
                                    "  # indented\n"
                                    "#kafka_workers 99\n"
                                    "route x/# xs\n"
                                    "rdkafka.client.id \"a # b\"\n"
                                    "route y/# ys",
                                    NULL, 0);
    expect_taken(b, config);
    assert_string_equal(config->config_file, b->path);
    assert_string_equal(config->kafka_topic, "plant.data");
    assert_string_equal(config->mqtt_topic, "a b/# , c/+");
    assert_int_equal(config->kafka_workers, 1);
    assert_int_equal(config->n_routes, 2);
    assert_int_equal(config->routes[0].place.line, 8);
    assert_string_equal(config->routes[1].mqtt_filters, "y/#");
    assert_string_equal(config->routes[1].place.file, b->path);
    assert_int_equal(config->routes[1].place.line, 10);
    assert_int_equal(config->n_properties, 1);
    assert_string_equal(config->properties[0].name, "client.id");
    assert_string_equal(config->properties[0].value, "\"a # b\"");
    assert_int_equal(config->properties[0].place.line, 9);
    mm_config_free(config);
}

static void test_nothing_in_it(void **state)
{
    struct bench *b = *state;
    static const char *const texts[] = {"", "\n", "\r\n\r\n", "#", "# x", "\xEF\xBB\xBF", " "};
    for (size_t i = 0; i < LEN_OF(texts); i++) {
        struct mm_config *config = make(b, texts[i], NULL, 0);
        expect_taken(b, config);
        assert_string_equal(config->kafka_topic, "mqtt");
        mm_config_free(config);
    }
}

static void test_mistakes_have_their_line(void **state)
{
    struct bench *b = *state;
    assert_null(make(b,
                     "# 1\n"
                     "kafka_workers 99x\n"
                     "kafka_brokr k\n"
                     "kafka_topic\n"
                     "plugin_opt_kafka_port 9092\n"
                     "auth_opt_x y\n"
                     "config_file /etc/other.conf\n"
                     "rdkafka.acks 1\n"
                     "linger.ms 5\n"
                     "route a/#\n"
                     "log_level \xFF\n"
                     "include other.conf\n"
                     "rdkafka.sasl.password x\n"
                     "rdkafka.sasl.password y\n"
                     "when_full reject\n"
                     "when_full reject\n",
                     NULL, 0));
    static const char *const rests[] = {
        "line 11: the line is not UTF-8",
        "line 3: option kafka_brokr: unknown; did you mean kafka_broker?",
        "line 5: option plugin_opt_kafka_port: unknown; in the config_file the names stand without "
        "plugin_opt_",
        "line 6: option auth_opt_x: unknown; in the config_file the names stand without auth_opt_",
        "line 7: option config_file: cannot stand in the config_file itself",
        "line 8: option rdkafka.acks: cannot be set: the plugin sets it to all: with less, Kafka "
        "may lose what it has confirmed",
        "line 9: option linger.ms: unknown; did you mean rdkafka.linger.ms?",
        "line 12: option include: unknown",
        NULL, /* below */
        NULL,
        "line 4: option kafka_topic: \"\" is not valid: expected 1 to 249 of the characters a-z, "
        "A-Z, 0-9, '.', '_' and '-', but not '.' or '..' alone",
        "line 10: option route: \"a/#\" is not valid: it has no Kafka topic; expected <filters> "
        "<kafka topic> [key=<key>] [format=<format>] [headers=<headers>]",
        "line 2: option kafka_workers: \"99x\" is not valid: expected a whole number from 1 to 64",
    };
    for (size_t i = 0; i < LEN_OF(rests); i++) {
        if (rests[i] != NULL) {
            expect_finding(b, i, MM_LOG_ERROR, rests[i]);
        }
    }
    assert_int_equal(b->n_lines, LEN_OF(rests));
    char line[MM_FINDING_LINE_LEN];
    snprintf(line, sizeof line,
             "line 14: option rdkafka.sasl.password: given twice, first (line 13 of \"%s\")",
             b->path);
    expect_finding(b, 8, MM_LOG_ERROR, line);
    snprintf(line, sizeof line,
             "line 16: option when_full: given twice, first \"reject\" (line 15 of \"%s\"), then "
             "\"reject\"",
             b->path);
    expect_finding(b, 9, MM_LOG_ERROR, line);
}

static void test_bytes_that_are_no_text(void **state)
{
    struct bench *b = *state;
    static const char bytes[] = "kafka_topic a\nlog_level in\0fo\n\xC3(\nkafka_workers 2\n";
    write_bytes(b, bytes, sizeof bytes - 1);
    assert_null(make(b, NULL, NULL, 0));
    assert_int_equal(b->n_lines, 2);
    expect_finding(b, 0, MM_LOG_ERROR, "line 2: the line has a NUL byte");
    expect_finding(b, 1, MM_LOG_ERROR, "line 3: the line is not UTF-8");
}

static void test_both_places(void **state)
{
    struct bench *b = *state;
    static const struct mm_option others[] = {
        {"kafka_topic", "a"}, {"rdkafka.linger.ms", "5"}, {"rdkafka.sasl.password", "hunter2"}};
    struct mm_config *config =
        make(b, "kafka_topic a\nrdkafka.linger.ms 5\nlog_level debug\n", others, LEN_OF(others));
    expect_taken(b, config); /* both say the same */
    assert_int_equal(config->n_properties, 2);
    assert_int_equal(config->log_level, MM_LOG_DEBUG);
    mm_config_free(config);
    expect_refused(b, "\nkafka_topic b\n", others, LEN_OF(others),
                   "line 2: option kafka_topic: given twice, first \"a\" (in the broker's "
                   "configuration), then \"b\"");
    expect_refused(b, "rdkafka.sasl.password swordfish\n", others, LEN_OF(others),
                   "line 1: option rdkafka.sasl.password: given twice, first (in the broker's "
                   "configuration)");
}

static void test_routes_in_both_places(void **state)
{
    struct bench *b = *state;
    static const struct mm_option others[] = {{"route", "a/# as"}, {"route", "b/# bs"}};
    expect_refused(b, "route a/# as\n", others, LEN_OF(others),
                   "line 1: option route: others are given already (in the broker's "
                   "configuration): their order counts, so all have to stand in one file");
}

/* What stands in the file hides the environment, as an option does; even when it is wrong. */
static void test_environment_is_last(void **state)
{
    struct bench *b = *state;
    b->variable = "KAFKA_TOPIC";
    b->value = "c";
    struct mm_config *config = make(b, "kafka_topic b\n", NULL, 0);
    expect_taken(b, config);
    assert_string_equal(config->kafka_topic, "b");
    mm_config_free(config);
    config = make(b, "log_level info\n", NULL, 0);
    expect_taken(b, config);
    assert_string_equal(config->kafka_topic, "c");
    mm_config_free(config);
}

static void test_file_of_the_environment(void **state)
{
    struct bench *b = *state;
    write_bytes(b, "kafka_topic b\nkafka_workers x\n", strlen("kafka_topic b\nkafka_workers x\n"));
    b->variable = "CONFIG_FILE";
    b->value = b->path;
    const struct mm_config_source source = {
        .getenv = look_up, .getenv_arg = b, .report = take_finding, .report_arg = b};
    struct mm_config *config = NULL;
    assert_int_equal(mm_config_new(&source, &config), MM_EINVAL);
    expect_finding(b, 0, MM_LOG_ERROR,
                   "line 2: option kafka_workers: \"x\" is not valid: expected a whole number from "
                   "1 to 64");
    b->value = "mm.conf";
    b->n_lines = 0;
    assert_int_equal(mm_config_new(&source, &config), MM_EINVAL);
    assert_string_equal(b->lines[0],
                        "environment variable CONFIG_FILE: \"mm.conf\" is not valid: it is "
                        "relative; expected an absolute path of at most 1024 bytes without control "
                        "characters");
}

static void expect_unreadable(struct bench *b, const char *why)
{
    static const struct mm_option wrong = {"kafka_workers", "x"};
    char line[MM_FINDING_LINE_LEN];
    snprintf(line, sizeof line, "option config_file: \"%s\" cannot be read: %s", b->path, why);
    assert_null(make(b, NULL, &wrong, 1));
    assert_string_equal(b->lines[0], line);
    assert_int_equal(b->n_lines, 2); /* the other mistake is found all the same */
}

static void test_unreadable(void **state)
{
    struct bench *b = *state;
    expect_unreadable(b, "No such file or directory");
    assert_int_equal(mkdir(b->path, 0700), 0);
    expect_unreadable(b, "Is a directory");
    assert_int_equal(rmdir(b->path), 0);
    assert_int_equal(mkfifo(b->path, 0600), 0);
    expect_unreadable(b, "it is not a regular file");
    assert_int_equal(unlink(b->path), 0);
}

static void test_size(void **state)
{
    struct bench *b = *state;
    char *text = malloc(MM_CONFIG_FILE_MAX + 1);
    assert_non_null(text);
    memset(text, '\n', MM_CONFIG_FILE_MAX + 1);
    write_bytes(b, text, MM_CONFIG_FILE_MAX);
    struct mm_config *config = make(b, NULL, NULL, 0);
    expect_taken(b, config);
    mm_config_free(config);
    write_bytes(b, text, MM_CONFIG_FILE_MAX + 1);
    expect_unreadable(b, "it is larger than 1048576 bytes");
    /* One line of all that room. */
    memset(text, 'x', MM_CONFIG_FILE_MAX);
    write_bytes(b, text, MM_CONFIG_FILE_MAX);
    assert_null(make(b, NULL, NULL, 0));
    assert_int_equal(b->n_lines, 1);
    assert_non_null(strstr(b->lines[0], "line 1: option xxxxx"));
    free(text);
}

/* Only a secret in a file that all can read, and only once. */
static void test_readable_secret(void **state)
{
    struct bench *b = *state;
    static const char text[] =
        "log_level info\nrdkafka.sasl.password x\nrdkafka.ssl.key.password y\n";
    struct mm_config *config = make(b, text, NULL, 0);
    expect_taken(b, config);
    mm_config_free(config);
    assert_int_equal(chmod(b->path, 0644), 0);
    config = make(b, text, NULL, 0);
    assert_non_null(config);
    mm_config_free(config);
    assert_int_equal(b->n_lines, 1);
    expect_finding(b, 0, MM_LOG_WARN,
                   "line 2: option rdkafka.sasl.password: a secret in a file that everybody can "
                   "read (mode 0644); take the right away with chmod o-r");
    config = make(b, "log_level info\n", NULL, 0);
    expect_taken(b, config);
    mm_config_free(config);
}

/* Who has read the broker's configuration knows each option's place. */
static void test_places_of_the_source(void **state)
{
    struct bench *b = *state;
    static const struct mm_option options[] = {
        {"kafka_workers", "x"}, {"log_level", "info"}, {"log_level", "debug"}, {"nonsense", "1"}};
    static const struct mm_place places[] = {
        {"/etc/a.conf", 7}, {"/etc/a.conf", 8}, {"/etc/b.conf", 2}, {NULL, 0}};
    const struct mm_config_source source = {
        .options = options,
        .places = places,
        .n_options = LEN_OF(options),
        .report = take_finding,
        .report_arg = b,
    };
    struct mm_config *config = NULL;
    assert_int_equal(mm_config_new(&source, &config), MM_EINVAL);
    assert_int_equal(b->n_lines, 3);
    assert_string_equal(b->lines[0],
                        "config_file \"/etc/b.conf\" line 2: option log_level: given twice, first "
                        "\"info\" (line 8 of \"/etc/a.conf\"), then \"debug\"");
    assert_string_equal(b->lines[1], "option nonsense: unknown");
    assert_int_equal(b->line_numbers[2], 7);
}

static void test_colliding_route_has_its_line(void **state)
{
    struct bench *b = *state;
    expect_refused(b, "route a/# x\nroute b/# a.b\nroute c/# x\nroute d/# a_b\n", NULL, 0,
                   "line 4: option route: the Kafka topics \"a.b\" and \"a_b\" cannot both be: "
                   "Kafka's metrics have '_' for '.', so that the two names are one there");
}

/* Takes nothing but "x 1", and says the value. */
static bool judge(const char *name, const char *value, char *why, size_t why_len)
{
    snprintf(why, why_len, "no \"%s\" for %s", value, name);
    return strcmp(name, "x") == 0 && strcmp(value, "1") == 0;
}

/* Every property that is not taken is told, with its line and beside other mistakes; the words that
 * were found for a secret are not. One that we refuse ourselves is not asked for. */
static void test_judge_of_properties(void **state)
{
    struct bench *b = *state;
    static const char text[] =
        "rdkafka.x 1\nrdkafka.y 2\nkafka_workers 0\nrdkafka.sasl.password p\n"
        "rdkafka.acks 1\nrdkafka.z \n";
    const struct mm_option option = {"config_file", b->path};
    const struct mm_config_source source = {
        .options = &option,
        .n_options = 1,
        .report = take_finding,
        .report_arg = b,
        .judge = judge,
    };
    write_bytes(b, text, strlen(text));
    struct mm_config *config = NULL;
    assert_int_equal(mm_config_new(&source, &config), MM_EINVAL);
    assert_int_equal(b->n_lines, 5);
    expect_finding(b, 0, MM_LOG_ERROR, "line 2: option rdkafka.y: no \"2\" for y");
    expect_finding(b, 1, MM_LOG_ERROR,
                   "line 4: option rdkafka.sasl.password: the Kafka client does not accept this "
                   "value");
    expect_finding(b, 3, MM_LOG_ERROR,
                   "line 6: option rdkafka.z: \"\" is not valid: expected a value of librdkafka");
}

/* The same options and another file: what a reload does. */
static void test_again(void **state)
{
    struct bench *b = *state;
    struct mm_config *before = make(b, "kafka_topic a\nkafka_workers 1\n", NULL, 0);
    expect_taken(b, before);
    struct mm_config *after = make(b, "kafka_topic b\nroute x/# xs\nlog_level debug\n", NULL, 0);
    expect_taken(b, after);
    char text[256] = "x";
    assert_int_equal(mm_config_diff_fixed(before, after, text, sizeof text), 0);
    assert_string_equal(text, "");
    assert_string_equal(before->kafka_topic, "a");
    assert_string_equal(after->kafka_topic, "b");
    mm_config_free(after);
    after = make(b,
                 "kafka_topic b\nkafka_workers 4\nhealth_address all\nspool_dir /var/spool/mm\n"
                 "spool_max_bytes 256M\ndead_letter_max_bytes 16M\nspool_min_free 10M\n"
                 "kafka_test_message true\n",
                 NULL, 0);
    expect_taken(b, after);
    assert_int_equal(mm_config_diff_fixed(before, after, text, sizeof text), 5);
    assert_string_equal(text,
                        "kafka_workers (1, wanted 4), kafka_test_message (false, wanted true), "
                        "spool_dir (not set, wanted /var/spool/mm), spool_min_free (auto, wanted "
                        "10M), health_address (127.0.0.1, wanted 0.0.0.0)");
    assert_int_equal(mm_config_diff_fixed(after, before, text, 70), 5);
    assert_string_equal(text, "kafka_workers (4, wanted 1) ...");
    assert_int_equal(mm_config_diff_fixed(after, before, text, 1), 5);
    assert_string_equal(text, "");
    mm_config_free(after);
    mm_config_free(before);
}

/* No two options of the same meaning: each one that is fixed is told when it alone differs. */
static void test_every_fixed_option(void **state)
{
    struct bench *b = *state;
    static const struct mm_option others[] = {
        {"kafka_workers", "2"},    {"kafka_test_message", "true"}, {"kafka_test_topic", "t"},
        {"spool_max_bytes", "3M"}, {"spool_sync", "always"},       {"spool_sync_interval_ms", "20"},
        {"spool_min_free", "1M"},  {"spool_writer", "pwrite"},     {"dead_letter_max_bytes", "3M"},
        {"health_port", "1"},      {"health_address", "::1"},
    };
    char text[256];
    for (size_t i = 0; i < LEN_OF(others); i++) {
        struct mm_config *plain =
            make(b, "spool_dir /s\nkafka_test_message false\nlog_level info\n", NULL, 0);
        expect_taken(b, plain);
        char file[128];
        snprintf(
            file, sizeof file, "spool_dir /s\n%s%s %s\n",
            strcmp(others[i].name, "kafka_test_message") == 0 ? "" : "kafka_test_message false\n",
            others[i].name, others[i].value);
        struct mm_config *other = make(b, file, NULL, 0);
        expect_taken(b, other);
        assert_int_equal(mm_config_diff_fixed(plain, other, text, sizeof text), 1);
        assert_memory_equal(text, others[i].name, strlen(others[i].name));
        assert_int_equal(mm_config_keep_fixed(plain, other), 0);
        assert_int_equal(mm_config_diff_fixed(plain, other, text, sizeof text), 0);
        mm_config_free(other);
        mm_config_free(plain);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, set_up, tear_down)
        TEST(form),
        TEST(nothing_in_it),
        TEST(mistakes_have_their_line),
        TEST(bytes_that_are_no_text),
        TEST(both_places),
        TEST(routes_in_both_places),
        TEST(environment_is_last),
        TEST(file_of_the_environment),
        TEST(unreadable),
        TEST(size),
        TEST(readable_secret),
        TEST(places_of_the_source),
        TEST(colliding_route_has_its_line),
        TEST(judge_of_properties),
        TEST(again),
        TEST(every_fixed_option),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
