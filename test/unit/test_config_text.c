/* What is told of the settings: the line of the start log, the reference, the manual page. */
#include "config_run.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_describe),
        cmocka_unit_test(test_describe_on_disk),
        cmocka_unit_test(test_describe_is_bounded),
        cmocka_unit_test(test_reference),
        cmocka_unit_test(test_manual_page),
        cmocka_unit_test(test_reference_write_error),
        cmocka_unit_test(test_defaults_can_be_given),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
