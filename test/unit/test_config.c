/* Every option with good and bad values, by both ways in, and the lines that are told about them.
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

enum {
    MAX_LINES = 32,
    HUGE_LEN = 1024 * 1024
};

#define LEN_OF(array) (sizeof(array) / sizeof(array)[0])

/* One call of mm_config_new(): what goes in, what was told, what came out. */
struct run
{
    const struct mm_option *given;
    size_t n_given;
    const struct mm_option *environment; /* ends with a NULL name; NULL: it is not read */

    int rc;
    struct mm_config *config;
    size_t n_lines;
    enum mm_log_level levels[MAX_LINES];
    char lines[MAX_LINES][MM_FINDING_LINE_LEN];
};

static const char *look_up(void *arg, const char *name)
{
    const struct run *run = arg;
    for (const struct mm_option *var = run->environment; var->name != NULL; var++) {
        if (strcmp(var->name, name) == 0) {
            return var->value;
        }
    }
    return NULL;
}

static void take_line(void *arg, const struct mm_finding *finding)
{
    struct run *run = arg;
    char line[MM_FINDING_LINE_LEN];
    mm_finding_line(finding, line, sizeof line);
    assert_in_range(run->n_lines, 0, MAX_LINES - 1);
    assert_in_range(strlen(finding->text), 1, MM_LOG_LINE_LEN - 1);
    for (const char *c = line; *c != '\0'; c++) {
        assert_in_range((unsigned char)*c, 0x20, 0xFF);
    }
    run->levels[run->n_lines] = finding->level;
    memcpy(run->lines[run->n_lines++], line, strlen(line) + 1);
}

static void start_run(struct run *run)
{
    struct mm_config_source source = {
        .options = run->given,
        .n_options = run->n_given,
        .getenv = run->environment != NULL ? look_up : NULL,
        .getenv_arg = run,
        .report = take_line,
        .report_arg = run,
    };
    run->n_lines = 0;
    run->config = (struct mm_config *)run; /* must be overwritten */
    run->rc = mm_config_new(&source, &run->config);
    assert_true((run->rc == 0) == (run->config != NULL));
}

static void end_run(struct run *run)
{
    mm_config_free(run->config);
    run->config = NULL;
}

static size_t count_level(const struct run *run, enum mm_log_level level)
{
    size_t n = 0;
    for (size_t i = 0; i < run->n_lines; i++) {
        n += run->levels[i] == level;
    }
    return n;
}

/* Run, and expect these errors in this order, and nothing else. */
static void expect_errors(struct run *run, const char *const *lines, size_t n_lines)
{
    start_run(run);
    for (size_t i = 0; i < n_lines && i < run->n_lines; i++) {
        assert_string_equal(run->lines[i], lines[i]);
        assert_int_equal(run->levels[i], MM_LOG_ERROR);
    }
    assert_int_equal(run->n_lines, n_lines);
    assert_int_equal(run->rc, MM_EINVAL);
    end_run(run);
}

/* Run, and expect settings. */
static void expect_good(struct run *run)
{
    start_run(run);
    if (run->rc != 0) {
        fail_msg("refused: %s", run->n_lines > 0 ? run->lines[0] : "(no line)");
    }
    assert_int_equal(count_level(run, MM_LOG_ERROR), 0);
}

static bool describes(const struct mm_config *config, const char *pair)
{
    char line[4096] = " ";
    mm_config_describe(config, line + 1, sizeof line - 2);
    size_t len = strlen(line);
    memcpy(line + len, " ", 2);
    char wanted[256];
    snprintf(wanted, sizeof wanted, " %s ", pair);
    return strstr(line, wanted) != NULL;
}

static char *repeat(char c, size_t len)
{
    char *text = malloc(len + 1);
    assert_non_null(text);
    memset(text, c, len);
    text[len] = '\0';
    return text;
}

/* The options that mean something; the table must not have others. */
static const char *const setting_names[] = {
    "mqtt_topic",
    "kafka_port",
    "kafka_broker",
    "kafka_topic",
    "kafka_workers",
    "kafka_retry_interval",
    "kafka_compression",
    "kafka_partitioner",
    "kafka_linger_ms",
    "kafka_security_protocol",
    "kafka_tls_verify_hostname",
    "kafka_test_topic",
    "kafka_test_message",
    "json_field_names",
    "spool_max_bytes",
    "when_full",
    "refuse_v5",
    "health_port",
    "health_address",
    "log_level",
    "route",
    "spool_dir",
    "spool_sync",
    "spool_sync_interval_ms",
    "spool_min_free",
    "spool_writer",
    "dead_letter_max_bytes",
    "dead_letter_topic",
    "config_file",
    "kafka_topics_max",
    "kafka_topic_allow",
    "kafka_key",
    "payload_format",
    "kafka_headers",
    "spool_properties",
    "max_message_bytes",
    "when_too_large",
};

/* Of these, those that mean nothing without spool_dir. */
static const char *const on_disk_names[] = {
    "spool_sync",
    "spool_sync_interval_ms",
    "spool_min_free",
    "spool_writer",
};

/* Of these, those that have no default that could be given. */
static const char *const names_without_default[] = {
    "kafka_test_topic",  "route",       "spool_dir",
    "dead_letter_topic", "config_file", "kafka_topic_allow",
};

/* Defaults */

static void test_defaults(void **state)
{
    (void)state;
    static const struct mm_option nothing[] = {{NULL, NULL}};
    struct run run = {.environment = nothing};
    expect_good(&run);
    assert_int_equal(run.n_lines, 0);
    const struct mm_config *config = run.config;
    assert_string_equal(config->mqtt_topic, "#");
    assert_int_equal(mm_filter_set_count(config->filters), 1);
    assert_true(mm_filter_set_match(config->filters, "a/b", 3));
    assert_string_equal(config->kafka_bootstrap, "localhost:9092");
    assert_string_equal(config->kafka_topic, "mqtt");
    assert_int_equal(config->kafka_workers, 1);
    assert_int_equal(config->kafka_retry_interval_s, 10);
    assert_false(config->kafka_test_message);
    assert_null(config->kafka_test_topic);
    assert_string_equal(config->json_topic_name, "Topic");
    assert_string_equal(config->json_content_name, "Content");
    assert_int_equal(config->spool_max_bytes, 268435456);
    assert_null(config->spool_dir);
    assert_int_equal(config->spool_sync, MM_SPOOL_SYNC_INTERVAL);
    assert_int_equal(config->spool_sync_interval_ms, 500);
    assert_true(config->spool_min_free == UINT64_MAX);
    assert_int_equal(config->spool_writer, MM_SPOOL_WRITER_AUTO);
    assert_int_equal(config->dead_letter_max_bytes, 16777216);
    assert_null(config->dead_letter_topic);
    assert_int_equal(config->n_routes, 0);
    assert_int_equal(config->n_route_topics, 0);
    assert_int_equal(config->when_full, MM_WHEN_FULL_REJECT);
    assert_int_equal(config->refuse_v5, MM_REFUSE_DISCONNECT);
    assert_int_equal(config->health_port, 8080);
    assert_string_equal(config->health_address, "127.0.0.1");
    assert_int_equal(config->log_level, MM_LOG_INFO);
    assert_int_equal(config->n_properties, 0);
    end_run(&run);
}

static void test_all_given(void **state)
{
    (void)state;
    static const struct mm_option given[] = {
        {"mqtt_topic", "a/+;b/#"},
        {"kafka_broker", "k1,k2:1"},
        {"kafka_port", "9"},
        {"kafka_topic", "t.T_-0"},
        {"kafka_workers", "7"},
        {"kafka_retry_interval", "30"},
        {"kafka_test_message", "true"},
        {"kafka_test_topic", "probe"},
        {"json_field_names", "topic,content"},
        {"spool_dir", "/var/spool/mm"},
        {"spool_max_bytes", "2G"},
        {"spool_sync", "always"},
        {"spool_sync_interval_ms", "20"},
        {"spool_min_free", "10M"},
        {"spool_writer", "pwrite"},
        {"dead_letter_max_bytes", "1M"},
        {"dead_letter_topic", "dead"},
        {"route", "c/# r1"},
        {"route", "$x/+;d/# r2"},
        {"when_full", "drop_oldest"},
        {"refuse_v5", "reason_code"},
        {"health_port", "81"},
        {"health_address", "::1"},
        {"log_level", "debug"},
        {"rdkafka.linger.ms", "20"},
    };
    struct run run = {.given = given, .n_given = LEN_OF(given)};
    expect_good(&run);
    assert_int_equal(run.n_lines, 0);
    const struct mm_config *config = run.config;
    assert_string_equal(config->mqtt_topic, "a/+;b/#");
    assert_int_equal(mm_filter_set_count(config->filters), 5); /* with the routes' */
    assert_string_equal(config->kafka_bootstrap, "k1:9,k2:1");
    assert_string_equal(config->kafka_topic, "t.T_-0");
    assert_int_equal(config->kafka_workers, 7);
    assert_int_equal(config->kafka_retry_interval_s, 30);
    assert_true(config->kafka_test_message);
    assert_string_equal(config->kafka_test_topic, "probe");
    assert_string_equal(config->json_topic_name, "topic");
    assert_string_equal(config->json_content_name, "content");
    assert_string_equal(config->spool_dir, "/var/spool/mm");
    assert_true(config->spool_max_bytes == 2147483648);
    assert_int_equal(config->spool_sync, MM_SPOOL_SYNC_ALWAYS);
    assert_int_equal(config->spool_sync_interval_ms, 20);
    assert_int_equal(config->spool_min_free, 10485760);
    assert_int_equal(config->spool_writer, MM_SPOOL_WRITER_PWRITE);
    assert_int_equal(config->dead_letter_max_bytes, 1048576);
    assert_string_equal(config->dead_letter_topic, "dead");
    assert_int_equal(config->n_routes, 2);
    assert_string_equal(config->routes[1].mqtt_filters, "$x/+;d/#");
    assert_int_equal(config->routes[1].lane, 2);
    assert_int_equal(config->n_route_topics, 2);
    assert_string_equal(config->route_topics[1], "r2");
    assert_int_equal(config->when_full, MM_WHEN_FULL_DROP_OLDEST);
    assert_int_equal(config->refuse_v5, MM_REFUSE_REASON_CODE);
    assert_int_equal(config->health_port, 81);
    assert_string_equal(config->health_address, "::1");
    assert_int_equal(config->log_level, MM_LOG_DEBUG);
    assert_int_equal(config->n_properties, 1);
    end_run(&run);
}

/* Values */

/* A value, and what the settings then say. */
static const struct
{
    const char *name;
    const char *value;
    const char *pair;
} good_values[] = {
    {"mqtt_topic", "a", "mqtt_topic=a"},
    {"mqtt_topic", " a/+ ; $SYS/# ", "mqtt_topic=\"a/+ ; $SYS/#\""},
    {"kafka_port", "1", "kafka_broker=localhost:1"},
    {"kafka_port", "65535", "kafka_broker=localhost:65535"},
    {"kafka_port", "0009092", "kafka_broker=localhost:9092"},
    {"kafka_broker", "kafka", "kafka_broker=kafka:9092"},
    {"kafka_broker", "kafka:1", "kafka_broker=kafka:1"},
    {"kafka_broker", "kafka:65535", "kafka_broker=kafka:65535"},
    {"kafka_broker", "10.0.0.1:9093", "kafka_broker=10.0.0.1:9093"},
    {"kafka_broker", "[::1]", "kafka_broker=[::1]:9092"},
    {"kafka_broker", "[2001:db8::7]:19092", "kafka_broker=[2001:db8::7]:19092"},
    {"kafka_broker", " a , b:2,\tmy_host-1.lan ", "kafka_broker=a:9092,b:2,my_host-1.lan:9092"},
    {"kafka_broker", "a,a", "kafka_broker=a:9092,a:9092"},
    {"kafka_topic", "t", "kafka_topic=t"},
    {"kafka_topic", "...", "kafka_topic=..."},
    {"kafka_topic", "-A.z_9", "kafka_topic=-A.z_9"},
    {"kafka_topic", "  spaced\t\r\n", "kafka_topic=spaced"},
    {"kafka_workers", "1", "kafka_workers=1"},
    {"kafka_workers", "64", "kafka_workers=64"},
    {"kafka_retry_interval", "1", "kafka_retry_interval=1"},
    {"kafka_retry_interval", "3600", "kafka_retry_interval=3600"},
    {"kafka_test_message", "true", "kafka_test_message=true"},
    {"kafka_test_message", "TRUE", "kafka_test_message=true"},
    {"kafka_test_message", "False", "kafka_test_message=false"},
    {"kafka_test_topic", "probe", "kafka_test_topic=probe"},
    {"json_field_names", "topic,content", "json_field_names=topic,content"},
    {"json_field_names", " a , b ", "json_field_names=a,b"},
    {"json_field_names", "\xC3\xBC,\xE2\x82\xAC", "json_field_names=\xC3\xBC,\xE2\x82\xAC"},
    {"json_field_names", "topic,Topic", "json_field_names=topic,Topic"},
    {"spool_max_bytes", "262144", "spool_max_bytes=256k"},
    {"spool_max_bytes", "262145", "spool_max_bytes=262145"},
    {"spool_max_bytes", "256k", "spool_max_bytes=256k"},
    {"spool_max_bytes", "256K", "spool_max_bytes=256k"},
    {"spool_max_bytes", "1m", "spool_max_bytes=1M"},
    {"spool_max_bytes", "3M", "spool_max_bytes=3M"},
    {"spool_max_bytes", "2048M", "spool_max_bytes=2G"},
    {"spool_max_bytes", "1g", "spool_max_bytes=1G"},
    {"spool_max_bytes", "1024G", "spool_max_bytes=1024G"},
    {"spool_max_bytes", "1099511627776", "spool_max_bytes=1024G"},
    {"spool_dir", "/", "spool_dir=/"},
    {"spool_dir", " /var/lib/my spool/ ", "spool_dir=\"/var/lib/my spool/\""},
    {"dead_letter_max_bytes", "256k", "dead_letter_max_bytes=256k"},
    {"dead_letter_max_bytes", "1024G", "dead_letter_max_bytes=1024G"},
    {"dead_letter_topic", "d", "dead_letter_topic=d"},
    {"route", "a t", "route=\"a t\""},
    {"route", "a t key=none", "route=\"a t key=none\""},
    {"route", "a t  headers=qos,user:x-*  key=${clientid}/1 format=RAW",
     "route=\"a t key=${clientid}/1 format=raw headers=qos,user:x-*\""},
    {"kafka_key", "none", "kafka_key=none"},
    {"kafka_key", "${topic[0]}/$${x}", "kafka_key=${topic[0]}/$${x}"},
    {"payload_format", "RAW", "payload_format=raw"},
    {"kafka_headers", "Auto", "kafka_headers=Auto"},
    {"kafka_headers", "all, username,user:a*b", "kafka_headers=\"all, username,user:a*b\""},
    {"kafka_topic_allow", "plant.*, *.x", "kafka_topic_allow=\"plant.*, *.x\""},
    {"kafka_topics_max", "1024", "kafka_topics_max=1024"},
    {"spool_properties", "all", "spool_properties=all"},
    {"max_message_bytes", "2M", "max_message_bytes=2M"},
    {"when_too_large", "reject", "when_too_large=reject"},
    {"route", "  a/+ ; $b/# ,c\t t.1  ", "route=\"a/+ ; $b/# ,c t.1\""},
    {"route", "a mqtt", "route=\"a mqtt\""},
    {"when_full", "reject", "when_full=reject"},
    {"when_full", "drop_newest", "when_full=drop_newest"},
    {"when_full", "Drop_Oldest", "when_full=drop_oldest"},
    {"refuse_v5", "disconnect", "refuse_v5=disconnect"},
    {"refuse_v5", "reason_code", "refuse_v5=reason_code"},
    {"health_port", "0", "health_port=0"},
    {"health_port", "65535", "health_port=65535"},
    {"health_address", "0.0.0.0", "health_address=0.0.0.0"},
    {"health_address", "all", "health_address=0.0.0.0"},
    {"health_address", "192.168.1.2", "health_address=192.168.1.2"},
    {"health_address", "::", "health_address=::"},
    {"log_level", "trace", "log_level=trace"},
    {"log_level", "debug", "log_level=debug"},
    {"log_level", "info", "log_level=info"},
    {"log_level", "warn", "log_level=warn"},
    {"log_level", "ERROR", "log_level=error"},
};

/* The same for options that mean nothing without spool_dir. */
static const struct
{
    const char *name;
    const char *value;
    const char *pair;
} good_values_on_disk[] = {
    {"spool_sync", "never", "spool_sync=never"},
    {"spool_sync", "Interval", "spool_sync=interval"},
    {"spool_sync", "always", "spool_sync=always"},
    {"spool_sync_interval_ms", "10", "spool_sync_interval_ms=10"},
    {"spool_sync_interval_ms", "60000", "spool_sync_interval_ms=60000"},
    {"spool_min_free", "auto", "spool_min_free=auto"},
    {"spool_min_free", "AUTO", "spool_min_free=auto"},
    {"spool_min_free", "0", "spool_min_free=0"},
    {"spool_min_free", "1", "spool_min_free=1"},
    {"spool_min_free", "0G", "spool_min_free=0"},
    {"spool_min_free", "64m", "spool_min_free=64M"},
    {"spool_min_free", "1024G", "spool_min_free=1024G"},
    {"spool_writer", "auto", "spool_writer=auto"},
    {"spool_writer", "mmap", "spool_writer=mmap"},
    {"spool_writer", "PWRITE", "spool_writer=pwrite"},
};

/* The variable of an option, made here by other means than in the module. */
static void capitals(const char *name, char dst[64])
{
    static const char small[] = "abcdefghijklmnopqrstuvwxyz";
    static const char large[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
    assert_in_range(strlen(name), 1, 63);
    memcpy(dst, name, strlen(name) + 1);
    for (char *c = dst; *c != '\0'; c++) {
        const char *letter = strchr(small, *c);
        if (letter != NULL) {
            *c = large[letter - small];
        }
    }
}

static void test_good_values(void **state)
{
    (void)state;
    for (size_t i = 0; i < LEN_OF(good_values); i++) {
        const struct mm_option given = {good_values[i].name, good_values[i].value};
        char variable[64];
        capitals(given.name, variable);
        const struct mm_option environment[] = {{variable, given.value}, {NULL, NULL}};
        struct run runs[] = {{.given = &given, .n_given = 1}, {.environment = environment}};
        for (size_t k = 0; k < LEN_OF(runs); k++) {
            expect_good(&runs[k]);
            assert_int_equal(runs[k].n_lines, 0);
            if (!describes(runs[k].config, good_values[i].pair)) {
                fail_msg("%s \"%s\": not described as %s", given.name, given.value,
                         good_values[i].pair);
            }
            end_run(&runs[k]);
        }
    }
}

static void test_good_values_on_disk(void **state)
{
    (void)state;
    for (size_t i = 0; i < LEN_OF(good_values_on_disk); i++) {
        const struct mm_option given[] = {
            {good_values_on_disk[i].name, good_values_on_disk[i].value}, {"spool_dir", "/d"}};
        struct run run = {.given = given, .n_given = LEN_OF(given)};
        expect_good(&run);
        assert_int_equal(run.n_lines, 0);
        if (!describes(run.config, good_values_on_disk[i].pair)) {
            fail_msg("%s \"%s\": not described as %s", given[0].name, given[0].value,
                     good_values_on_disk[i].pair);
        }
        end_run(&run);
    }
}

#define EXPECTED_FILTERS "expected MQTT topic filters, separated by ',' or ';'"
#define EXPECTED_BROKERS "expected host, host:port or [IPv6 address]:port, several separated by ','"
#define EXPECTED_TOPIC                                                                          \
    "expected 1 to 249 of the characters a-z, A-Z, 0-9, '.', '_' and '-', but not '.' or '..' " \
    "alone"
#define EXPECTED_PORT "expected a whole number from 1 to 65535"
#define EXPECTED_HEALTH_PORT "expected a whole number from 0 to 65535"
#define EXPECTED_WORKERS "expected a whole number from 1 to 64"
#define EXPECTED_SECONDS "expected a whole number of seconds from 1 to 3600"
#define EXPECTED_BOOLEAN "expected true or false"
#define EXPECTED_NAMES "expected two different names in UTF-8, separated by ','"
#define EXPECTED_SIZE \
    "expected a number of bytes, or of k, M or G (powers of 1024), from 256k to 1024G"
#define EXPECTED_PATH "expected an absolute path of at most 1024 bytes without control characters"
#define EXPECTED_SYNC "expected never, interval or always"
#define EXPECTED_MILLISECONDS "expected a whole number of milliseconds from 10 to 60000"
#define EXPECTED_FREE \
    "expected auto, or a number of bytes, or of k, M or G (powers of 1024), from 0 to 1024G"
#define EXPECTED_WRITER "expected auto, mmap or pwrite"
#define EXPECTED_KEY                                                                             \
    "expected none, or text with the variables ${topic}, ${topic[N]}, ${clientid}, ${username} " \
    "and ${qos}"
#define EXPECTED_HEADERS "expected auto, " MM_HEADERS_RULE
#define EXPECTED_ALLOW \
    "expected names of Kafka topics, in which * stands for any characters, separated by ','"
#define EXPECTED_MESSAGE \
    "expected a number of bytes, or of k, M or G (powers of 1024), from 1000 to 1000000000"
#define EXPECTED_ROUTE                                                \
    "expected <filters> <kafka topic> [key=<key>] [format=<format>] " \
    "[headers=<headers>]"
#define TOPIC_RULE                                                                             \
    " is no Kafka topic (1 to 249 of the characters a-z, A-Z, 0-9, '.', '_' and '-', but not " \
    "'.' or '..' alone); "
#define EXPECTED_WHEN_FULL "expected reject, drop_newest or drop_oldest"
#define EXPECTED_REFUSE_V5 "expected disconnect or reason_code"
#define EXPECTED_ADDRESS "expected a numeric IPv4 or IPv6 address, or all"
#define EXPECTED_LEVEL "expected trace, debug, info, warn or error"
#define HASH_RULE "'#' must stand alone in the last level"

/* A value, and the end of the line that refuses it. shown: the value in the line, if not as given.
 */
static const struct
{
    const char *name;
    const char *value;
    const char *end;
    const char *shown;
} bad_values[] = {
    {"mqtt_topic", "", "filter 1 \"\": it is empty; " EXPECTED_FILTERS, NULL},
    {"mqtt_topic", "a/#/b", "filter 1 \"a/#/b\": " HASH_RULE "; " EXPECTED_FILTERS, NULL},
    {"mqtt_topic", "a,", "filter 2 \"\": it is empty; " EXPECTED_FILTERS, NULL},
    {"kafka_port", "", EXPECTED_PORT, NULL},
    {"kafka_port", "0", EXPECTED_PORT, NULL},
    {"kafka_port", "65536", EXPECTED_PORT, NULL},
    {"kafka_port", "+1", EXPECTED_PORT, NULL},
    {"kafka_port", "kafka", EXPECTED_PORT, NULL},
    {"kafka_broker", "", "entry 1 is empty; " EXPECTED_BROKERS, NULL},
    {"kafka_broker", "a,,b", "entry 2 is empty; " EXPECTED_BROKERS, NULL},
    {"kafka_broker", "a, ", "entry 2 is empty; " EXPECTED_BROKERS, "a,"},
    {"kafka_broker", ",a", "entry 1 is empty; " EXPECTED_BROKERS, NULL},
    {"kafka_broker", "a b", "entry 1 has no valid host name; " EXPECTED_BROKERS, NULL},
    {"kafka_broker", ":9092", "entry 1 has no valid host name; " EXPECTED_BROKERS, NULL},
    {"kafka_broker", "a;b", "entry 1 has no valid host name; " EXPECTED_BROKERS, NULL},
    {"kafka_broker", "x,ssl://a",
     "entry 2 has a port that is no whole number from 1 to 65535; " EXPECTED_BROKERS, NULL},
    {"kafka_broker",
     "a:", "entry 1 has a port that is no whole number from 1 to 65535; " EXPECTED_BROKERS, NULL},
    {"kafka_broker", "a:0",
     "entry 1 has a port that is no whole number from 1 to 65535; " EXPECTED_BROKERS, NULL},
    {"kafka_broker", "a:65536",
     "entry 1 has a port that is no whole number from 1 to 65535; " EXPECTED_BROKERS, NULL},
    {"kafka_broker", "[::1]:x",
     "entry 1 has a port that is no whole number from 1 to 65535; " EXPECTED_BROKERS, NULL},
    {"kafka_broker", "::1",
     "entry 1 has more than one ':' (an IPv6 address stands in brackets); " EXPECTED_BROKERS, NULL},
    {"kafka_broker", "[::1", "entry 1 has no ']'; " EXPECTED_BROKERS, NULL},
    {"kafka_broker", "[::1]9092", "entry 1 has something behind its ']'; " EXPECTED_BROKERS, NULL},
    {"kafka_broker", "[kafka]:9092",
     "entry 1 has no IPv6 address in its brackets; " EXPECTED_BROKERS, NULL},
    {"kafka_topic", "", EXPECTED_TOPIC, NULL},
    {"kafka_topic", ".", EXPECTED_TOPIC, NULL},
    {"kafka_topic", "..", EXPECTED_TOPIC, NULL},
    {"kafka_topic", "a/b c", EXPECTED_TOPIC, NULL},
    {"kafka_topic", "t\xC3\xBC", EXPECTED_TOPIC, NULL},
    {"kafka_workers", "", EXPECTED_WORKERS, NULL},
    {"kafka_workers", "0", EXPECTED_WORKERS, NULL},
    {"kafka_workers", "65", EXPECTED_WORKERS, NULL},
    {"kafka_workers", "abc", EXPECTED_WORKERS, NULL},
    {"kafka_workers", "-1", EXPECTED_WORKERS, NULL},
    {"kafka_workers", "+5", EXPECTED_WORKERS, NULL},
    {"kafka_workers", "5x", EXPECTED_WORKERS, NULL},
    {"kafka_workers", "5 5", EXPECTED_WORKERS, NULL},
    {"kafka_workers", "0x5", EXPECTED_WORKERS, NULL},
    {"kafka_workers", "5.0", EXPECTED_WORKERS, NULL},
    {"kafka_workers", "18446744073709551617", EXPECTED_WORKERS, NULL}, /* 2^64 + 1 */
    {"kafka_workers", "4294967297", EXPECTED_WORKERS, NULL},           /* 2^32 + 1 */
    {"kafka_retry_interval", "", EXPECTED_SECONDS, NULL},
    {"kafka_retry_interval", "10s", EXPECTED_SECONDS, NULL},
    {"kafka_retry_interval", "0", EXPECTED_SECONDS, NULL},
    {"kafka_retry_interval", "3601", EXPECTED_SECONDS, NULL},
    {"kafka_test_message", "", EXPECTED_BOOLEAN, NULL},
    {"kafka_test_message", "1", EXPECTED_BOOLEAN, NULL},
    {"kafka_test_message", "yes", EXPECTED_BOOLEAN, NULL},
    {"kafka_test_message", "truely", EXPECTED_BOOLEAN, NULL},
    {"kafka_test_message", "tru", EXPECTED_BOOLEAN, NULL},
    {"kafka_test_topic", "", EXPECTED_TOPIC, NULL},
    {"kafka_test_topic", "a b", EXPECTED_TOPIC, NULL},
    {"json_field_names", "", EXPECTED_NAMES, NULL},
    {"json_field_names", "topic", EXPECTED_NAMES, NULL},
    {"json_field_names", "a,b,c", EXPECTED_NAMES, NULL},
    {"json_field_names", "a,b,", EXPECTED_NAMES, NULL},
    {"json_field_names", "a,", EXPECTED_NAMES, NULL},
    {"json_field_names", " ,b", EXPECTED_NAMES, ",b"},
    {"json_field_names", "same, same", EXPECTED_NAMES, NULL},
    {"json_field_names", "a,\xFF", EXPECTED_NAMES, "a,?"},
    {"spool_max_bytes", "", EXPECTED_SIZE, NULL},
    {"spool_max_bytes", "0", EXPECTED_SIZE, NULL},
    {"spool_max_bytes", "262143", EXPECTED_SIZE, NULL},
    {"spool_max_bytes", "255k", EXPECTED_SIZE, NULL},
    {"spool_max_bytes", "1025G", EXPECTED_SIZE, NULL},
    {"spool_max_bytes", "1099511627777", EXPECTED_SIZE, NULL},
    {"spool_max_bytes", "17179869185G", EXPECTED_SIZE, NULL}, /* 2^64 + 1 GiB */
    {"spool_max_bytes", "18446744073709551616", EXPECTED_SIZE, NULL},
    {"spool_max_bytes", "M", EXPECTED_SIZE, NULL},
    {"spool_max_bytes", "1T", EXPECTED_SIZE, NULL},
    {"spool_max_bytes", "1MB", EXPECTED_SIZE, NULL},
    {"spool_max_bytes", "1 M", EXPECTED_SIZE, NULL},
    {"spool_max_bytes", "1.5G", EXPECTED_SIZE, NULL},
    {"spool_max_bytes", "-1", EXPECTED_SIZE, NULL},
    {"spool_dir", "", "it is empty; " EXPECTED_PATH, NULL},
    {"spool_dir", "spool", "it is relative; " EXPECTED_PATH, NULL},
    {"spool_dir", "./spool", "it is relative; " EXPECTED_PATH, NULL},
    {"spool_dir", "~/spool", "it is relative; " EXPECTED_PATH, NULL},
    {"spool_dir", "/a\nb", "it has a control character; " EXPECTED_PATH, "/a?b"},
    {"spool_dir", "/\x7F", "it has a control character; " EXPECTED_PATH, "/?"},
    {"dead_letter_max_bytes", "", EXPECTED_SIZE, NULL},
    {"dead_letter_max_bytes", "0", EXPECTED_SIZE, NULL},
    {"dead_letter_max_bytes", "255k", EXPECTED_SIZE, NULL},
    {"dead_letter_max_bytes", "auto", EXPECTED_SIZE, NULL},
    {"dead_letter_topic", "", EXPECTED_TOPIC, NULL},
    {"dead_letter_topic", "a/b", EXPECTED_TOPIC, NULL},
    {"route", "", "it is empty; " EXPECTED_ROUTE, NULL},
    {"route", "a/#", "it has no Kafka topic; " EXPECTED_ROUTE, NULL},
    {"route", "a, b", "it has no Kafka topic; " EXPECTED_ROUTE, NULL},
    {"route", "a t kei=x", "\"kei=x\" is too much; " EXPECTED_ROUTE, NULL},
    {"route", "a t key=", "key \"\": it is empty; " EXPECTED_KEY "; " EXPECTED_ROUTE, NULL},
    {"route", "a t key=${", "key \"${\": character 1: ${ has no } behind it; " EXPECTED_ROUTE,
     NULL},
    {"route", "a ${topic[256]}",
     "Kafka topic \"${topic[256]}\": character 1: ${topic[N]} needs a number from 0 to 255 in its "
     "brackets; " EXPECTED_ROUTE,
     NULL},
    {"kafka_key", "a${}", "character 2: ${} names no variable; " EXPECTED_KEY, NULL},
    {"kafka_key", "${user}",
     "character 1: unknown variable ${user}; did you mean ${username}?; " EXPECTED_KEY, NULL},
    {"kafka_key", "x ${payload}",
     "character 3: unknown variable ${payload}; there are ${topic}, ${topic[N]}, ${clientid}, "
     "${username} and ${qos}; " EXPECTED_KEY,
     NULL},
    {"payload_format", "xml", "expected json, raw or base64", NULL},
    {"kafka_headers", "", "\"\" is empty; " EXPECTED_HEADERS, NULL},
    {"kafka_headers", "all,qoss", "\"qoss\" is unknown; " EXPECTED_HEADERS, NULL},
    {"kafka_topic_allow", "", EXPECTED_ALLOW, NULL},
    {"kafka_topic_allow", "a,,b", EXPECTED_ALLOW, NULL},
    {"kafka_topic_allow", "a/*", EXPECTED_ALLOW, NULL},
    {"kafka_topics_max", "0", "expected a whole number from 1 to 1024", NULL},
    {"kafka_topics_max", "1025", "expected a whole number from 1 to 1024", NULL},
    {"spool_properties", "none", "expected needed or all", NULL},
    {"max_message_bytes", "999", EXPECTED_MESSAGE, NULL},
    {"max_message_bytes", "1G", EXPECTED_MESSAGE, NULL},
    {"when_too_large", "drop", "expected dead_letter or reject", NULL},
    {"route", "a b t", "\"t\" is too much; " EXPECTED_ROUTE, NULL},
    {"route", "a t  u\tv w", "\"u\" is too much; " EXPECTED_ROUTE, "a t  u?v w"},
    {"route", "a/#/b t", "filter 1 \"a/#/b\": " HASH_RULE "; " EXPECTED_ROUTE, NULL},
    {"route", "a,,b t", "filter 2 \"\": it is empty; " EXPECTED_ROUTE, NULL},
    {"route", "a, t", "it has no Kafka topic; " EXPECTED_ROUTE, NULL},
    {"route", "a .", "\".\"" TOPIC_RULE EXPECTED_ROUTE, NULL},
    {"route", "a t/u", "\"t/u\"" TOPIC_RULE EXPECTED_ROUTE, NULL},
    {"when_full", "", EXPECTED_WHEN_FULL, NULL},
    {"when_full", "drop", EXPECTED_WHEN_FULL, NULL},
    {"when_full", "reject,drop_oldest", EXPECTED_WHEN_FULL, NULL},
    {"refuse_v5", "", EXPECTED_REFUSE_V5, NULL},
    {"refuse_v5", "0x97", EXPECTED_REFUSE_V5, NULL},
    {"health_port", "", EXPECTED_HEALTH_PORT, NULL},
    {"health_port", "65536", EXPECTED_HEALTH_PORT, NULL},
    {"health_port", "off", EXPECTED_HEALTH_PORT, NULL},
    {"health_address", "", EXPECTED_ADDRESS, NULL},
    {"health_address", "localhost", EXPECTED_ADDRESS, NULL},
    {"health_address", "127.0.0.1:8080", EXPECTED_ADDRESS, NULL},
    {"health_address", "[::1]", EXPECTED_ADDRESS, NULL},
    {"health_address", "127.1", EXPECTED_ADDRESS, NULL},
    {"log_level", "", EXPECTED_LEVEL, NULL},
    {"log_level", "panic", EXPECTED_LEVEL, NULL},
    {"log_level", "warning", EXPECTED_LEVEL, NULL},
    {"log_level", "4", EXPECTED_LEVEL, NULL},
    {"log_level", "a\tb\x1B[0m\xC3\xBC\xFF", EXPECTED_LEVEL, "a?b?[0m\xC3\xBC?"},
};

/* The same for options that mean nothing without spool_dir. */
static const struct mm_option bad_values_on_disk[] = {
    {"spool_sync", EXPECTED_SYNC},
    {"spool_sync_interval_ms", EXPECTED_MILLISECONDS},
    {"spool_min_free", EXPECTED_FREE},
    {"spool_writer", EXPECTED_WRITER},
};

static void expect_bad(const char *subject, size_t i, struct run *run)
{
    const char *shown = bad_values[i].shown != NULL ? bad_values[i].shown : bad_values[i].value;
    char line[MM_LOG_LINE_LEN];
    snprintf(line, sizeof line, "%s: \"%s\" is not valid: %s", subject, shown, bad_values[i].end);
    const char *lines[] = {line};
    expect_errors(run, lines, 1);
}

static void test_bad_values(void **state)
{
    (void)state;
    for (size_t i = 0; i < LEN_OF(bad_values); i++) {
        const struct mm_option given = {bad_values[i].name, bad_values[i].value};
        char subject[128];
        snprintf(subject, sizeof subject, "option %s", given.name);
        struct run run = {.given = &given, .n_given = 1};
        expect_bad(subject, i, &run);

        if (given.value[0] != '\0') { /* an empty variable is not set */
            char variable[64];
            capitals(given.name, variable);
            snprintf(subject, sizeof subject, "environment variable %s", variable);
            const struct mm_option environment[] = {{variable, given.value}, {NULL, NULL}};
            struct run from_environment = {.environment = environment};
            expect_bad(subject, i, &from_environment);
        }
    }
}

static void test_bad_values_on_disk(void **state)
{
    (void)state;
    static const char *const values[] = {"",   "9",     "-1",    "60001", "5%",
                                         "0x", "1025G", "autos", "on"};
    for (size_t i = 0; i < LEN_OF(bad_values_on_disk); i++) {
        for (size_t k = 0; k < LEN_OF(values); k++) {
            const struct mm_option given[] = {{"spool_dir", "/d"},
                                              {bad_values_on_disk[i].name, values[k]}};
            const bool good = strcmp(given[1].name, "spool_min_free") == 0 &&
                              (strcmp(values[k], "9") == 0 || strcmp(values[k], "60001") == 0);
            struct run run = {.given = given, .n_given = LEN_OF(given)};
            if (good) {
                expect_good(&run);
                end_run(&run);
                continue;
            }
            char line[MM_LOG_LINE_LEN];
            snprintf(line, sizeof line, "option %s: \"%s\" is not valid: %s", given[1].name,
                     values[k], bad_values_on_disk[i].value);
            const char *lines[] = {line};
            expect_errors(&run, lines, 1);
        }
    }
}

static void test_path_length(void **state)
{
    (void)state;
    char *path = repeat('/', 1025);
    const struct mm_option given = {"spool_dir", path};
    struct run run = {.given = &given, .n_given = 1};
    start_run(&run);
    assert_int_equal(run.rc, MM_EINVAL);
    assert_non_null(strstr(run.lines[0], "it is too long; " EXPECTED_PATH));
    path[1024] = '\0';
    expect_good(&run);
    assert_string_equal(run.config->spool_dir, path);
    end_run(&run);
    free(path);
}

/* Limits whose default is larger on a disk than in memory. */
static void test_defaults_on_disk(void **state)
{
    (void)state;
    static const struct mm_option given[] = {{"dead_letter_max_bytes", "1M"}, {"spool_dir", "/d"}};
    struct run run = {.given = &given[1], .n_given = 1};
    expect_good(&run);
    assert_string_equal(run.config->spool_dir, "/d");
    assert_int_equal(run.config->spool_max_bytes, 1073741824);
    assert_int_equal(run.config->dead_letter_max_bytes, 67108864);
    end_run(&run);
    run = (struct run){.given = given, .n_given = 2};
    expect_good(&run);
    assert_int_equal(run.config->spool_max_bytes, 1073741824);
    assert_int_equal(run.config->dead_letter_max_bytes, 1048576);
    end_run(&run);
    static const struct mm_option environment[] = {{"SPOOL_DIR", "/e"}, {NULL, NULL}};
    run = (struct run){.environment = environment};
    expect_good(&run);
    assert_string_equal(run.config->spool_dir, "/e");
    assert_int_equal(run.config->spool_max_bytes, 1073741824);
    end_run(&run);
}

static void test_options_without_effect_in_memory(void **state)
{
    (void)state;
    static const struct mm_option given[] = {
        {"spool_sync", "always"}, {"spool_min_free", "1M"}, {"spool_dir", "/d"}};
    static const struct mm_option environment[] = {{"SPOOL_WRITER", "mmap"}, {NULL, NULL}};
    struct run run = {.given = given, .n_given = 2, .environment = environment};
    expect_good(&run);
    assert_int_equal(run.n_lines, 1);
    assert_int_equal(run.levels[0], MM_LOG_WARN);
    assert_string_equal(run.lines[0],
                        "these settings have no effect on a spool in memory; only spool_dir makes "
                        "one on disk: spool_sync, spool_min_free, SPOOL_WRITER");
    assert_false(describes(run.config, "spool_sync=always"));
    end_run(&run);
    run.n_given = 3;
    expect_good(&run);
    assert_int_equal(run.n_lines, 0);
    assert_true(describes(run.config, "spool_sync=always"));
    end_run(&run);
    for (size_t i = 0; i < LEN_OF(on_disk_names); i++) {
        const struct mm_option one = {on_disk_names[i], "x"};
        run = (struct run){.given = &one, .n_given = 1};
        start_run(&run);
        assert_int_equal(run.n_lines, 2);
        assert_int_equal(run.levels[1], MM_LOG_WARN);
        assert_non_null(strstr(run.lines[1], on_disk_names[i]));
    }
    /* Who gave a wrong directory did not forget it. */
    static const struct mm_option wrong[] = {{"spool_dir", "d"}, {"spool_sync", "always"}};
    run = (struct run){.given = wrong, .n_given = 2};
    static const char *const lines[] = {
        "option spool_dir: \"d\" is not valid: it is relative; " EXPECTED_PATH};
    expect_errors(&run, lines, 1);
}

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

static void test_kafka_topic_length(void **state)
{
    (void)state;
    char *topic = repeat('k', 250);
    const struct mm_option given = {"kafka_topic", topic};
    struct run run = {.given = &given, .n_given = 1};
    start_run(&run);
    assert_int_equal(run.rc, MM_EINVAL);
    topic[249] = '\0';
    expect_good(&run);
    assert_string_equal(run.config->kafka_topic, topic);
    end_run(&run);
    free(topic);
}

static void test_host_length(void **state)
{
    (void)state;
    char *host = repeat('h', 256);
    const struct mm_option given = {"kafka_broker", host};
    struct run run = {.given = &given, .n_given = 1};
    start_run(&run);
    assert_int_equal(run.rc, MM_EINVAL);
    host[255] = '\0';
    expect_good(&run);
    assert_int_equal(strlen(run.config->kafka_bootstrap), 255 + strlen(":9092"));
    end_run(&run);
    free(host);
}

/* Many brokers with the longest that the plugin adds to each. */
static void test_many_brokers(void **state)
{
    (void)state;
    enum {
        N = 5000
    };
    char *list = repeat(',', 2 * N - 1);
    for (size_t i = 0; i < N; i++) {
        list[2 * i] = 'a';
    }
    const struct mm_option given[] = {{"kafka_broker", list}, {"kafka_port", "65535"}};
    struct run run = {.given = given, .n_given = LEN_OF(given)};
    expect_good(&run);
    const char *bootstrap = run.config->kafka_bootstrap;
    assert_int_equal(strlen(bootstrap), N * strlen("a:65535,") - 1);
    assert_string_equal(bootstrap + strlen(bootstrap) - 16, ",a:65535,a:65535");
    end_run(&run);
    free(list);
}

static void test_huge_values(void **state)
{
    (void)state;
    static const char bytes[] = {'x', '1', '\xFF', '\x01', '[', '/'};
    for (size_t b = 0; b < LEN_OF(bytes); b++) {
        char *value = repeat(bytes[b], HUGE_LEN);
        for (size_t i = 0; i < LEN_OF(setting_names); i++) {
            const struct mm_option given = {setting_names[i], value};
            struct run run = {.given = &given, .n_given = 1};
            start_run(&run);
            assert_int_equal(run.rc, MM_EINVAL);
            assert_int_equal(count_level(&run, MM_LOG_ERROR), 1);
            assert_non_null(strstr(run.lines[0], "...\" is not valid: "));
            assert_in_range(strlen(run.lines[0]), 100, 400);
        }
        free(value);
    }
}

static void test_huge_value_of_the_environment(void **state)
{
    (void)state;
    char *value = repeat('9', HUGE_LEN);
    const struct mm_option environment[] = {{"KAFKA_WORKERS", value}, {NULL, NULL}};
    struct run run = {.environment = environment};
    static const char *const lines[] = {
        "environment variable KAFKA_WORKERS: "
        "\"9999999999999999999999999999999999999999999999999999999999999999...\" is not valid: "
        "expected a whole number from 1 to 64"};
    expect_errors(&run, lines, 1);
    free(value);
}

static void test_absent_value_is_empty(void **state)
{
    (void)state;
    static const struct mm_option given[] = {{"kafka_workers", NULL}, {"rdkafka.linger.ms", NULL}};
    struct run run = {.given = given, .n_given = LEN_OF(given)};
    static const char *const lines[] = {
        "option rdkafka.linger.ms: \"\" is not valid: expected a value of librdkafka",
        "option kafka_workers: \"\" is not valid: expected a whole number from 1 to 64",
    };
    expect_errors(&run, lines, LEN_OF(lines));
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

/* Telling */

static void test_describe(void **state)
{
    (void)state;
    static const struct mm_option given[] = {{"rdkafka.linger.ms", "20"}};
    struct run run = {.given = given, .n_given = 1};
    expect_good(&run);
    char line[MM_LOG_LINE_LEN];
    mm_config_describe(run.config, line, sizeof line);
    assert_string_equal(line,
                        "mqtt_topic=# kafka_broker=localhost:9092 kafka_topic=mqtt kafka_workers=1 "
                        "kafka_retry_interval=10 kafka_test_message=false "
                        "json_field_names=Topic,Content spool_max_bytes=256M when_full=reject "
                        "refuse_v5=disconnect dead_letter_max_bytes=16M health_port=8080 "
                        "health_address=127.0.0.1 log_level=info rdkafka.linger.ms=20");
    end_run(&run);
}

static void test_describe_on_disk(void **state)
{
    (void)state;
    static const struct mm_option given[] = {{"spool_dir", "/var/lib/mm"},
                                             {"route", "a/#,b/# t.1"},
                                             {"kafka_test_topic", "probe"},
                                             {"dead_letter_topic", "dead"},
                                             {"rdkafka.linger.ms", "20"}};
    struct run run = {.given = given, .n_given = LEN_OF(given)};
    expect_good(&run);
    char line[2 * MM_LOG_LINE_LEN];
    mm_config_describe(run.config, line, sizeof line);
    assert_string_equal(
        line,
        "mqtt_topic=# kafka_broker=localhost:9092 kafka_topic=mqtt kafka_workers=1 "
        "kafka_retry_interval=10 kafka_test_message=true kafka_test_topic=probe "
        "json_field_names=Topic,Content spool_dir=/var/lib/mm spool_max_bytes=1G "
        "spool_sync=interval spool_sync_interval_ms=500 spool_min_free=auto spool_writer=auto "
        "when_full=reject refuse_v5=disconnect dead_letter_max_bytes=64M dead_letter_topic=dead "
        "health_port=8080 health_address=127.0.0.1 log_level=info route=\"a/#,b/# t.1\" "
        "rdkafka.linger.ms=20");
    end_run(&run);
}

static void test_describe_is_bounded(void **state)
{
    (void)state;
    struct run run = {.given = NULL};
    expect_good(&run);
    char whole[MM_LOG_LINE_LEN];
    mm_config_describe(run.config, whole, sizeof whole);
    for (size_t len = 1; len <= strlen(whole) + 6; len++) {
        char *line = repeat('X', len);
        mm_config_describe(run.config, line, len);
        assert_non_null(memchr(line, '\0', len));
        if (len >= strlen(whole) + sizeof " ...") {
            assert_string_equal(line, whole);
        } else if (len > strlen("mqtt_topic=# ...")) {
            size_t kept = strlen(line) - 4;
            assert_string_equal(line + kept, " ...");
            assert_memory_equal(line, whole, kept);
            assert_int_equal(whole[kept], ' '); /* only whole pairs */
        }
        free(line);
    }
    end_run(&run);
}

static char *write_by(int (*write)(FILE *stream))
{
    char *text = NULL;
    size_t len = 0;
    FILE *stream = open_memstream(&text, &len);
    assert_non_null(stream);
    assert_int_equal(write(stream), 0);
    assert_int_equal(fclose(stream), 0);
    assert_non_null(text);
    return text;
}

static char *write_reference(void)
{
    return write_by(mm_config_write_reference);
}

static void expect_text(const char *text, const char *part)
{
    if (strstr(text, part) == NULL) {
        fail_msg("\"%s\" is missing", part);
    }
}

static void test_reference(void **state)
{
    (void)state;
    char *text = write_reference();
    char *again = write_reference();
    assert_string_equal(text, again);
    free(again);
    char part[256];
    for (size_t i = 0; i < LEN_OF(setting_names); i++) {
        char variable[64];
        capitals(setting_names[i], variable);
        snprintf(part, sizeof part, "\n| `%s` | `%s` | ", setting_names[i], variable);
        expect_text(text, part);
    }
    expect_text(text, "| `kafka_workers` | `KAFKA_WORKERS` | `1` | a whole number from 1 to 64 | ");
    expect_text(text, "| `kafka_test_topic` | `KAFKA_TEST_TOPIC` | not set | 1 to 249 ");
    expect_text(text,
                "| `when_full` | `WHEN_FULL` | `reject` | reject, drop_newest or drop_oldest ");
    expect_text(text, "\n- `kafka_max_batch_size`\n");
    expect_text(text, "`kakfa_port`, as the Go program spells it, is taken as `kafka_port`.");
    expect_text(text, "| `acks`, `request.required.acks` | the plugin sets it to all");
    expect_text(text, "| `*_cb`, `opaque`, `interceptors`, `default_topic_conf` | ");
    expect_text(text, "`*password*`");
    for (const char *row = strstr(text, "\n| `"); row != NULL; row = strstr(row + 1, "\n| `")) {
        size_t n_bars = 0;
        for (const char *c = row + 1; *c != '\n'; c++) {
            n_bars += *c == '|';
        }
        assert_true(n_bars == 6 || n_bars == 3);
    }
    free(text);
}

/* The manual page has every option of the reference, and nothing that roff or a reader would
 * stumble over: Markdown's marks, or text that is taken for a request. */
static void test_manual_page(void **state)
{
    (void)state;
    char *text = write_by(mm_config_write_man);
    char part[256];
    for (size_t i = 0; i < LEN_OF(setting_names); i++) {
        char variable[64];
        capitals(setting_names[i], variable);
        snprintf(part, sizeof part, "\n.TP\n.B %s\n", setting_names[i]);
        expect_text(text, part);
        snprintf(part, sizeof part, "Environment: %s.\n", variable);
        expect_text(text, part);
    }
    expect_text(text,
                "\nValues: a whole number from 1 to 64. Default: 1. Environment: KAFKA_WORKERS.\n");
    expect_text(text, "Values: reject, drop_newest or drop_oldest. Default: reject. ");
    expect_text(text, "Counts from a start on.");
    assert_null(strchr(text, '`'));
    assert_null(strstr(text, "]("));
    expect_text(
        text,
        "\n\\&The value of the Kafka messages: JSON with the MQTT topic and the payload in "
        "base64, the payload as it is, or the payload in base64. A route may say otherwise.");
    for (const char *line = text; *line != '\0'; line = strchr(line, '\n') + 1) {
        static const char *const requests[] = {".TH ", ".SH ", ".TP\n", ".PP\n", ".B ",   ".BR ",
                                               ".BI ", ".I ",  ".br\n", ".nf\n", ".fi\n", ".\\\" "};
        bool known = *line != '.';
        for (size_t i = 0; i < LEN_OF(requests); i++) {
            known = known || strncmp(line, requests[i], strlen(requests[i])) == 0;
        }
        assert_true(known && *line != '\'' && *line != ' ');
    }
    for (const char *c = text; *c != '\0'; c++) {
        assert_true((unsigned char)*c < 0x80);
    }
    free(text);
}

static void test_reference_write_error(void **state)
{
    (void)state;
    FILE *full = fopen("/dev/full", "w");
    if (full == NULL) {
        skip();
    }
    assert_int_equal(mm_config_write_reference(full), MM_EINVAL);
    fclose(full);
}

/* Give an option the value that the reference calls its default; nothing else may change. */
static void expect_default(const char *name, const char *value, const char *dir)
{
    const struct mm_option given[] = {{name, value}, {"spool_dir", dir}};
    struct run run = {.given = given, .n_given = dir != NULL ? 2 : 1};
    struct run plain = {.given = &given[1], .n_given = dir != NULL ? 1 : 0};
    expect_good(&run);
    expect_good(&plain);
    char line[MM_LOG_LINE_LEN];
    char expected[MM_LOG_LINE_LEN];
    mm_config_describe(run.config, line, sizeof line);
    mm_config_describe(plain.config, expected, sizeof expected);
    assert_string_equal(line, expected);
    end_run(&run);
    end_run(&plain);
}

static void test_defaults_can_be_given(void **state)
{
    (void)state;
    char *text = write_reference();
    size_t n_rows = 0;
    size_t n_on_disk = 0;
    for (const char *row = strstr(text, "\n| `"); row != NULL; row = strstr(row + 1, "\n| `")) {
        char name[64];
        char variable[64];
        char value[64];
        char on_disk[64];
        int n_found = sscanf(row,
                             "\n| `%63[a-z_0-9]` | `%63[A-Z_0-9]` | `%63[^`]`, or `%63[^`]` when "
                             "`spool_dir` is set |",
                             name, variable, value, on_disk);
        if (n_found < 3) {
            continue;
        }
        for (size_t i = 0; i < LEN_OF(names_without_default); i++) {
            assert_string_not_equal(name, names_without_default[i]);
        }
        n_rows++;
        n_on_disk += n_found == 4;
        expect_default(name, value, NULL);
        expect_default(name, n_found == 4 ? on_disk : value, "/d");
    }
    assert_int_equal(n_rows, LEN_OF(setting_names) - LEN_OF(names_without_default));
    assert_int_equal(n_on_disk, 2);
    free(text);
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

/* mm_error, which has no test of its own */

static void test_error_texts(void **state)
{
    (void)state;
    assert_string_equal(mm_strerror(0), "no error");
    assert_string_equal(mm_strerror(MM_ENOMEM), "out of memory");
    assert_string_equal(mm_strerror(MM_EHTTP), "the HTTP server could not be started");
    assert_string_equal(mm_strerror(1), "unknown error");
    assert_string_equal(mm_strerror(-1000), "unknown error");
}

static void test_utf8(void **state)
{
    (void)state;
    static const struct
    {
        const char *text;
        size_t len;
        size_t char_len;
    } cases[] = {
        {"", 0, 0},
        {"a", 1, 1},
        {"\0", 1, 1},
        {"\x7F", 1, 1},
        {"\x80", 1, 0},
        {"\xBF", 1, 0},
        {"\xC1\xBF", 2, 0},
        {"\xC2\x80", 2, 2},
        {"\xC2", 1, 0},
        {"\xC2\x80", 1, 0},
        {"\xC2\x7F", 2, 0},
        {"\xDF\xBF", 2, 2},
        {"\xE0\x9F\xBF", 3, 0},
        {"\xE0\xA0\x80", 3, 3},
        {"\xE0\xA0", 2, 0},
        {"\xE0\xA0\xC0", 3, 0},
        {"\xED\x9F\xBF", 3, 3},
        {"\xED\xA0\x80", 3, 0},
        {"\xEE\x80\x80", 3, 3},
        {"\xEF\xBF\xBF", 3, 3},
        {"\xF0\x8F\xBF\xBF", 4, 0},
        {"\xF0\x90\x80\x80", 4, 4},
        {"\xF0\x90\x80", 3, 0},
        {"\xF3\x80\x80\x80", 4, 4},
        {"\xF4\x8F\xBF\xBF", 4, 4},
        {"\xF4\x90\x80\x80", 4, 0},
        {"\xF5\x80\x80\x80", 4, 0},
        {"\xFF", 1, 0},
    };
    for (size_t i = 0; i < LEN_OF(cases); i++) {
        assert_int_equal(mm_utf8_len(cases[i].text, cases[i].len), cases[i].char_len);
        assert_int_equal(mm_utf8_valid(cases[i].text, cases[i].len),
                         cases[i].len == 0 || cases[i].char_len > 0);
    }
    assert_true(mm_utf8_valid("a\xC3\xBC\xE2\x82\xAC", 6));
    assert_false(mm_utf8_valid("a\xC3\xBC\xE2\x82", 5));
}

static void test_printable(void **state)
{
    (void)state;
    static const struct
    {
        const char *text;
        size_t dst_len;
        const char *result;
    } cases[] = {
        {"", 4, ""},
        {"abc", 4, "abc"},
        {"abcd", 4, "..."},
        {"abcd", 5, "abcd"},
        {"abcde", 5, "a..."},
        {"a\r\n\x1B\x7F", 64, "a????"},
        {"\xC2\x80\xC2\x9F\xC2\xA0", 64, "??\xC2\xA0"},
        {"\xFF\xE2\x82", 64, "???"},
        {"\xE2\x82\xAC", 4, "\xE2\x82\xAC"},
        {"\xE2\x82\xAC\xE2\x82\xAC", 7, "\xE2\x82\xAC\xE2\x82\xAC"},
        {"\xE2\x82\xAC\xE2\x82\xAC\xE2\x82\xAC", 9, "\xE2\x82\xAC..."},
        {"a\xE2\x82\xAC\xE2\x82\xAC", 7, "a..."},
    };
    for (size_t i = 0; i < LEN_OF(cases); i++) {
        char *dst = repeat('X', cases[i].dst_len - 1); /* as long as is told, for the sanitizer */
        assert_ptr_equal(mm_printable(cases[i].text, strlen(cases[i].text), dst, cases[i].dst_len),
                         dst);
        assert_string_equal(dst, cases[i].result);
        free(dst);
    }
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
        cmocka_unit_test(test_only_mqtt_5_on_2_1_is_refused_by_code),
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_all_given),
        cmocka_unit_test(test_good_values),
        cmocka_unit_test(test_good_values_on_disk),
        cmocka_unit_test(test_bad_values),
        cmocka_unit_test(test_bad_values_on_disk),
        cmocka_unit_test(test_path_length),
        cmocka_unit_test(test_defaults_on_disk),
        cmocka_unit_test(test_options_without_effect_in_memory),
        cmocka_unit_test(test_routes_are_kept_in_order),
        cmocka_unit_test(test_routes_of_the_environment),
        cmocka_unit_test(test_every_wrong_route_is_reported),
        cmocka_unit_test(test_templates_need_an_allow_list),
        cmocka_unit_test(test_many_lanes),
        cmocka_unit_test(test_kafka_topics_beside_each_other),
        cmocka_unit_test(test_huge_number_of_routes),
        cmocka_unit_test(test_kafka_topic_length),
        cmocka_unit_test(test_host_length),
        cmocka_unit_test(test_many_brokers),
        cmocka_unit_test(test_huge_values),
        cmocka_unit_test(test_huge_value_of_the_environment),
        cmocka_unit_test(test_absent_value_is_empty),
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
        cmocka_unit_test(test_describe),
        cmocka_unit_test(test_describe_on_disk),
        cmocka_unit_test(test_describe_is_bounded),
        cmocka_unit_test(test_reference),
        cmocka_unit_test(test_manual_page),
        cmocka_unit_test(test_reference_write_error),
        cmocka_unit_test(test_defaults_can_be_given),
        cmocka_unit_test(test_out_of_memory),
        cmocka_unit_test(test_error_texts),
        cmocka_unit_test(test_utf8),
        cmocka_unit_test(test_printable),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
