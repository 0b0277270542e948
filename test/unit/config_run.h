/* config_run.h - one call of mm_config_new(), and all that it tells, for tests of the settings. */
#ifndef CONFIG_RUN_H
#define CONFIG_RUN_H

#include "mm_config.h"
#include "mm_error.h"
#include "mm_log.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

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

static inline const char *look_up(void *arg, const char *name)
{
    const struct run *run = arg;
    for (const struct mm_option *var = run->environment; var->name != NULL; var++) {
        if (strcmp(var->name, name) == 0) {
            return var->value;
        }
    }
    return NULL;
}

static inline void take_line(void *arg, const struct mm_finding *finding)
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

static inline void start_run(struct run *run)
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

static inline void end_run(struct run *run)
{
    mm_config_free(run->config);
    run->config = NULL;
}

static inline size_t count_level(const struct run *run, enum mm_log_level level)
{
    size_t n = 0;
    for (size_t i = 0; i < run->n_lines; i++) {
        n += run->levels[i] == level;
    }
    return n;
}

/* Run, and expect these errors in this order, and nothing else. */
static inline void expect_errors(struct run *run, const char *const *lines, size_t n_lines)
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
static inline void expect_good(struct run *run)
{
    start_run(run);
    if (run->rc != 0) {
        fail_msg("refused: %s", run->n_lines > 0 ? run->lines[0] : "(no line)");
    }
    assert_int_equal(count_level(run, MM_LOG_ERROR), 0);
}

static inline bool describes(const struct mm_config *config, const char *pair)
{
    char line[4096] = " ";
    mm_config_describe(config, line + 1, sizeof line - 2);
    size_t len = strlen(line);
    memcpy(line + len, " ", 2);
    char wanted[256];
    snprintf(wanted, sizeof wanted, " %s ", pair);
    return strstr(line, wanted) != NULL;
}

static inline char *repeat(char c, size_t len)
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

/* The variable of an option, made here by other means than in the module. */
static inline void capitals(const char *name, char dst[64])
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

/* What some lines end with. */
#define EXPECTED_FILTERS "expected MQTT topic filters, separated by ',' or ';'"
#define EXPECTED_BROKERS "expected host, host:port or [IPv6 address]:port, several separated by ','"
#define EXPECTED_TOPIC                                                                          \
    "expected 1 to 249 of the characters a-z, A-Z, 0-9, '.', '_' and '-', but not '.' or '..' " \
    "alone"
#define EXPECTED_PORT "expected a whole number from 1 to 65535"
#define EXPECTED_WORKERS "expected a whole number from 1 to 64"
#define EXPECTED_ALLOW \
    "expected names of Kafka topics, in which * stands for any characters, separated by ','"
#define EXPECTED_ROUTE                                                \
    "expected <filters> <kafka topic> [key=<key>] [format=<format>] " \
    "[headers=<headers>]"
#define EXPECTED_WHEN_FULL "expected reject, drop_newest or drop_oldest"
#define EXPECTED_LEVEL "expected trace, debug, info, warn or error"
#define HASH_RULE "'#' must stand alone in the last level"

#endif
