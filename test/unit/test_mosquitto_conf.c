/* The tool's reading of a mosquitto.conf: what belongs to which plugin, what the broker would
 * refuse, and in which order included files come. */
#include "../../tools/mosquitto_conf.h"

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

/* A line and what is told about it. */
struct expected
{
    enum mm_log_level level;
    unsigned line;
    const char *text;
};

static void expect_findings(const struct findings *f, const struct expected *expected, size_t n)
{
    for (size_t i = 0; i < n && i < f->n; i++) {
        assert_string_equal(f->items[i].text, expected[i].text);
        assert_int_equal(f->items[i].level, expected[i].level);
        assert_int_equal(f->items[i].place.line, expected[i].line);
    }
    assert_int_equal(f->n, n);
}

/* Parse a text that has these findings. */
static struct mosquitto_conf *parse(const char *text, const struct expected *expected, size_t n)
{
    struct findings findings = {0};
    struct mosquitto_conf *conf = NULL;
    mosquitto_conf_parse(text, strlen(text), "m.conf", &findings, &conf);
    assert_non_null(conf);
    expect_findings(&findings, expected, n);
    findings_free(&findings);
    return conf;
}

static void expect_option(const struct mosquitto_plugin *plugin,
                          size_t i,
                          const char *name,
                          const char *value,
                          unsigned line)
{
    assert_in_range(i, 0, plugin->n_options - 1);
    assert_string_equal(plugin->options[i].name, name);
    assert_string_equal(plugin->options[i].value, value);
    assert_int_equal(plugin->places[i].line, line);
}

static void test_options_belong_to_the_line_above(void **state)
{
    (void)state;
    struct mosquitto_conf *conf = parse(
        "listener 1883\n"
        "  plugin   /a.so  \r\n"
        "plugin_opt_one  x # y \r\n"
        "# plugin_opt_two 2\n"
        "\n"
        "   \n"
        "auth_plugin /b.so\n"
        "auth_opt_two \t\"2\"\n"
        "plugin_opt_rdkafka.linger.ms 5\n"
        "user someone\n"
        "plugin_opt_two 3",
        NULL, 0);
    assert_int_equal(conf->n_plugins, 2);
    assert_string_equal(conf->plugins[0].path, "/a.so  ");
    assert_int_equal(conf->plugins[0].place.line, 2);
    assert_true(conf->plugins[0].below_listener);
    assert_int_equal(conf->plugins[0].n_options, 1);
    expect_option(&conf->plugins[0], 0, "one", "x # y ", 3);
    assert_string_equal(conf->plugins[1].path, "/b.so");
    assert_int_equal(conf->plugins[1].n_options, 3);
    expect_option(&conf->plugins[1], 0, "two", "\"2\"", 8);
    expect_option(&conf->plugins[1], 1, "rdkafka.linger.ms", "5", 9);
    expect_option(&conf->plugins[1], 2, "two", "3", 11);
    assert_string_equal(conf->user.text, "someone");
    assert_int_equal(conf->user.place.line, 10);
    mosquitto_conf_free(conf);
}

static void test_what_the_broker_refuses(void **state)
{
    (void)state;
    static const struct expected expected[] = {
        {MM_LOG_ERROR, 1,
         "plugin_opt_one stands behind no plugin line of this file: the broker does not start"},
        {MM_LOG_ERROR, 2,
         "a comment has its # in the first column; Mosquitto takes \"#\" for an option"},
        {MM_LOG_ERROR, 4,
         "plugin_opt_id: Mosquitto takes no option with a name of less than 3 characters"},
        {MM_LOG_ERROR, 5, "plugin_opt_abc has no value: the broker does not start"},
        {MM_LOG_ERROR, 6,
         "\"plugin_opt_kafka_topic?mqtt\": Mosquitto wants a blank behind a name, not a tab"},
        {MM_LOG_ERROR, 7,
         "\"kafka_topic\" is no option of Mosquitto; did you mean plugin_opt_kafka_topic?"},
        {MM_LOG_WARN, 8,
         "\"persistense\" is no option of Mosquitto 2.0 or 2.1, as far as is known here: the "
         "broker "
         "may not start"},
        {MM_LOG_ERROR, 9, "plugin has no value: the broker does not start"},
        {MM_LOG_ERROR, 10, "plugin_load has no path: expected plugin_load <name> <path>"},
        {MM_LOG_ERROR, 11, "plugin_use: no plugin_load before this names a plugin \"x\""},
        {MM_LOG_ERROR, 12,
         "plugin_opt_kafka_workers stands behind no plugin line of this file: the broker does not "
         "start"},
        {MM_LOG_ERROR, 13, "\"?plugin\": Mosquitto wants a blank behind a name, not a tab"},
    };
    struct mosquitto_conf *conf = parse(
        "plugin_opt_one 1\n"
        "  # no comment\n"
        "plugin /a.so\n"
        "plugin_opt_id 1\n"
        "plugin_opt_abc\n"
        "plugin_opt_kafka_topic\tmqtt\n"
        "kafka_topic mqtt\n"
        "persistense true\n"
        "plugin\n"
        "plugin_load x\n"
        "plugin_use x\n"
        "plugin_opt_kafka_workers 2\n"
        "\tplugin /b.so\n",
        expected, LEN_OF(expected));
    mosquitto_conf_free(conf);
}

static void test_nul_byte(void **state)
{
    (void)state;
    static const char text[] = "user a\0b\nuser c\n";
    struct findings findings = {0};
    struct mosquitto_conf *conf = NULL;
    mosquitto_conf_parse(text, sizeof text - 1, "m.conf", &findings, &conf);
    static const struct expected expected[] = {{MM_LOG_ERROR, 1, "the line has a NUL byte"}};
    expect_findings(&findings, expected, 1);
    assert_string_equal(conf->user.text, "c");
    findings_free(&findings);
    mosquitto_conf_free(conf);
}

static void test_plugins_of_2_1(void **state)
{
    (void)state;
    struct mosquitto_conf *conf = parse(
        "global_plugin /g.so\n"
        "plugin_opt_one 1\n"
        "plugin_load mine  /l.so\n"
        "plugin_opt_two 2\n"
        "plugin_load other /o.so\n"
        "listener 1883\n"
        "plugin_use mine\n"
        "plugin_opt_three 3\n",
        NULL, 0);
    assert_int_equal(conf->n_plugins, 3);
    assert_int_equal(conf->plugins[0].kind, PLUGIN_GLOBAL);
    assert_int_equal(conf->plugins[1].kind, PLUGIN_LOAD);
    assert_string_equal(conf->plugins[1].path, "/l.so");
    assert_string_equal(conf->plugins[1].name, "mine");
    assert_true(conf->plugins[1].in_use);
    assert_false(conf->plugins[2].in_use);
    assert_int_equal(conf->plugins[1].n_options, 2);
    expect_option(&conf->plugins[1], 1, "three", "3", 8);
    mosquitto_conf_free(conf);
}

static void write_file(const char *dir, const char *name, const char *text)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
}

static void remove_file(const char *dir, const char *name)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_int_equal(unlink(path), 0);
}

/* As the broker: only *.conf, in the order of the names in small letters, not in included files,
 * and options do not reach over the end of a file. */
static void test_included_files(void **state)
{
    (void)state;
    char dir[] = "/tmp/mm-test-mosquitto-XXXXXX";
    char sub[64];
    char text[256];
    char main_path[64];
    assert_non_null(mkdtemp(dir));
    snprintf(sub, sizeof sub, "%s/conf.d", dir);
    assert_int_equal(mkdir(sub, 0700), 0);
    snprintf(text, sizeof text,
             "plugin /first.so\nplugin_opt_one 1\ninclude_dir %s\nplugin_opt_two 2\n"
             "plugin_opt_three 3\ninclude_dir %s/nothing\n",
             sub, dir);
    write_file(dir, "m.conf", text);
    snprintf(text, sizeof text, "include_dir %s\nplugin /in-9.so\n", dir);
    write_file(sub, "9.conf", text);
    write_file(sub, "10.conf", "plugin /in-10.so\n");
    write_file(sub, "B.conf", "plugin /in-b.so\n");
    write_file(sub, "a.conf", "plugin_opt_four 4\nplugin /in-a.so\n");
    write_file(sub, ".conf", "plugin /hidden.so\n");
    write_file(sub, "c.conf~", "plugin /old.so\n");
    write_file(sub, "d.CONF", "plugin /large.so\n");
    struct findings findings = {0};
    struct mosquitto_conf *conf = NULL;
    snprintf(main_path, sizeof main_path, "%s/m.conf", dir);
    mosquitto_conf_read(main_path, &findings, &conf);
    assert_non_null(conf);
    static const char *const paths[] = {"/first.so", "/in-10.so", "/in-9.so", "/in-a.so",
                                        "/in-b.so"};
    assert_int_equal(conf->n_plugins, LEN_OF(paths));
    for (size_t i = 0; i < LEN_OF(paths); i++) {
        assert_string_equal(conf->plugins[i].path, paths[i]);
    }
    assert_int_equal(conf->plugins[0].n_options, 3);
    assert_int_equal(conf->n_files, 5);
    snprintf(text, sizeof text,
             "include_dir: \"%s/nothing\" cannot be read: No such file or "
             "directory",
             dir);
    const struct expected expected[] = {
        {MM_LOG_ERROR, 1,
         "include_dir in an included file: Mosquitto 2.0 passes over it, 2.1 does not start"},
        {MM_LOG_ERROR, 1,
         "plugin_opt_four stands behind no plugin line of this file: the broker does not start"},
        {MM_LOG_ERROR, 4,
         "plugin_opt_two: an include_dir with other plugins stands between this and its plugin "
         "line: Mosquitto 2.0 loses the option or crashes; move the include_dir"},
        {MM_LOG_ERROR, 6, text},
    };
    expect_findings(&findings, expected, LEN_OF(expected));
    findings_free(&findings);
    mosquitto_conf_free(conf);
    static const char *const names[] = {"9.conf", "10.conf", "B.conf", "a.conf",
                                        ".conf",  "c.conf~", "d.CONF"};
    for (size_t i = 0; i < LEN_OF(names); i++) {
        remove_file(sub, names[i]);
    }
    remove_file(dir, "m.conf");
    assert_int_equal(rmdir(sub), 0);
    assert_int_equal(rmdir(dir), 0);
}

static void test_which_form_it_is(void **state)
{
    (void)state;
    static const char *const broker_s[] = {"plugin /a.so", "# x\n\nlistener 1883\n",
                                           "kafka_topic a\ninclude_dir /x",
                                           "per_listener_settings x"};
    static const char *const ours[] = {
        "",      "kafka_topic a", "# plugin /a.so\n", "plugin_opt_kafka_topic a\n", "route a b\n",
        "\xFF\n"};
    for (size_t i = 0; i < LEN_OF(broker_s); i++) {
        assert_true(mosquitto_conf_is_one(broker_s[i], strlen(broker_s[i])));
    }
    for (size_t i = 0; i < LEN_OF(ours); i++) {
        assert_false(mosquitto_conf_is_one(ours[i], strlen(ours[i])));
    }
}

/* Those of one file beside each other and in the order of lines, those of no place last. */
static void test_order_of_findings(void **state)
{
    (void)state;
    struct findings f = {0};
    char name[] = "b";
    findings_add(&f, MM_LOG_ERROR, (struct mm_place){"b", 9}, "1");
    findings_add(&f, MM_LOG_INFO, findings_nowhere, "2");
    findings_add(&f, MM_LOG_WARN, (struct mm_place){"a", 3}, "3\n%d", 4);
    findings_add(&f, MM_LOG_ERROR, (struct mm_place){name, 2}, "5");
    findings_add(&f, MM_LOG_ERROR, (struct mm_place){"b", 9}, "6");
    name[0] = 'x'; /* names are not borrowed */
    findings_sort(&f);
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    findings_print(&f, out);
    findings_print_json(&f, out);
    assert_int_equal(fclose(out), 0);
    assert_string_equal(text,
                        "b:2: error: 5\nb:9: error: 1\nb:9: error: 6\na:3: warning: 3?4\nnote: 2\n"
                        "[{\"level\":\"error\",\"file\":\"b\",\"line\":2,\"text\":\"5\"},"
                        "{\"level\":\"error\",\"file\":\"b\",\"line\":9,\"text\":\"1\"},"
                        "{\"level\":\"error\",\"file\":\"b\",\"line\":9,\"text\":\"6\"},"
                        "{\"level\":\"warning\",\"file\":\"a\",\"line\":3,\"text\":\"3?4\"},"
                        "{\"level\":\"note\",\"file\":null,\"line\":null,\"text\":\"2\"}]");
    assert_int_equal(f.n_errors, 3);
    assert_int_equal(f.n_warnings, 1);
    free(text);
    findings_free(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_options_belong_to_the_line_above),
        cmocka_unit_test(test_what_the_broker_refuses),
        cmocka_unit_test(test_nul_byte),
        cmocka_unit_test(test_plugins_of_2_1),
        cmocka_unit_test(test_included_files),
        cmocka_unit_test(test_which_form_it_is),
        cmocka_unit_test(test_order_of_findings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
