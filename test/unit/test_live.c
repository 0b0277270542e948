/* Settings that change while messages flow, without a broker: on demand and by watched files. */
#include "mm_live.h"
#include "mm_watch.h"
#include "rig.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A rig with what changes its settings, and a thread of the broker, which is this one. */
struct stage
{
    struct rig *g;
    struct mm_live *live;
    char dir[64];
    char file[96]; /* config_file */
    char watched[96];
    struct mm_option options[2];
};

static void write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    assert_int_equal(close(fd), 0);
}

/* The config_file of a stage: where Kafka is, and more. */
static void write_settings(struct stage *s, const char *bootstrap, const char *more)
{
    char text[1024];
    snprintf(text, sizeof text,
             "kafka_broker %s\nlog_level debug\nkafka_retry_interval 1\n"
             "rdkafka.ssl.ca.location %s\n%s",
             bootstrap, s->watched, more);
    write_file(s->file, text);
}

/* At these brokers; hang: whoever looks for a hanging host hangs from the start on; late: what is
 * added to the config_file when it has been read. */
static struct stage *stage_at(const char *bootstrap, bool hang, const char *late)
{
    struct stage *s = calloc(1, sizeof *s);
    assert_non_null(s);
    s->g = rig_new(1);
    snprintf(s->dir, sizeof s->dir, "/tmp/mm-test-live-XXXXXX");
    assert_non_null(mkdtemp(s->dir));
    snprintf(s->file, sizeof s->file, "%s/settings", s->dir);
    snprintf(s->watched, sizeof s->watched, "%s/ca", s->dir);
    write_file(s->watched, "one");
    write_settings(s, bootstrap == NULL ? s->g->bootstrap : bootstrap, "");
    faults.hang_resolver = hang;
    s->g->n_options = 0;
    rig_option(s->g, "config_file", s->file);
    rig_start(s->g);
    s->options[0] = (struct mm_option){"config_file", s->file};
    struct mm_config_source source = {.options = s->options, .n_options = 1};
    struct mm_live_options opts = {
        .options = s->options,
        .n_options = 1,
        .sender = s->g->sender,
        .spool = s->g->spool,
        .metrics = s->g->metrics,
        .log = s->g->log,
    };
    assert_int_equal(mm_config_new(&source, &opts.config), 0); /* the rig has its own */
    if (late != NULL) {
        write_settings(s, s->g->bootstrap, late);
    }
    assert_int_equal(mm_live_new(&opts, &s->live), 0);
    char errstr[256];
    assert_int_equal(mm_live_start(s->live, errstr, sizeof errstr), 0);
    return s;
}

static struct stage *stage_new(void)
{
    return stage_at(NULL, false, NULL);
}

static void stage_free(struct stage *s)
{
    assert_true(mm_live_stop(s->live, 5000));
    rig_stop_workers(s->g, 0);
    assert_true(mm_live_join(s->live, 5000));
    rig_free(s->g);
    mm_live_free(s->live);
    unlink(s->watched);
    unlink(s->file);
    assert_int_equal(rmdir(s->dir), 0);
    free(s);
}

static uint64_t count(struct stage *s, enum mm_reload how)
{
    return mm_counter_get(&mm_metrics_live(s->g->metrics)->reloads[how]);
}

/* Does what the broker's thread does until so many changes have ended like this. */
static bool wait_count(struct stage *s, enum mm_reload how, uint64_t n, uint64_t timeout_ms)
{
    uint64_t end = now_ms() + timeout_ms;
    while (count(s, how) < n && now_ms() < end) {
        (void)mm_live_settings(s->live);
        (void)rig_logged(s->g, "");
        sleep_ms(2);
    }
    return count(s, how) == n;
}

static void test_on_demand(void **state)
{
    (void)state;
    struct stage *s = stage_new();
    const struct mm_config *before = mm_live_settings(s->live);
    assert_true(rig_wait_empty(s->g, 5000));
    mm_live_reload(s->live);
    assert_true(wait_count(s, MM_RELOAD_UNCHANGED, 1, 10000));
    assert_ptr_equal(mm_live_settings(s->live), before);

    rig_publish_many(s->g, 100, 5);
    write_settings(s, s->g->bootstrap, "when_full drop_oldest\nmqtt_topic a/#\nkafka_workers 7\n");
    mm_live_reload(s->live);
    assert_true(wait_count(s, MM_RELOAD_APPLIED, 1, 20000));
    const struct mm_config *after = mm_live_settings(s->live);
    assert_ptr_not_equal(after, before);
    assert_string_equal(after->mqtt_topic, "a/#");
    assert_int_equal(after->kafka_workers, 1); /* it counts from a start on */
    assert_true(rig_logged(s->g, "kafka_workers (1, wanted 7)"));
    assert_int_equal(mm_metrics_live(s->g->metrics)->restart_needed, 1);
    assert_true(rig_figures(s->g).spool.drop_oldest);
    assert_true(rig_wait_empty(s->g, 10000));
    stage_free(s);
}

/* The start of the broker takes a while; what somebody writes meanwhile is not in use. */
static void test_a_file_that_changes_during_the_start(void **state)
{
    (void)state;
    struct stage *s = stage_at(NULL, false, "mqtt_topic a/#\n");
    assert_string_equal(mm_live_settings(s->live)->mqtt_topic, "#");
    mm_live_reload(s->live);
    assert_true(wait_count(s, MM_RELOAD_APPLIED, 1, 20000));
    assert_string_equal(mm_live_settings(s->live)->mqtt_topic, "a/#");
    mm_live_reload(s->live);
    assert_true(wait_count(s, MM_RELOAD_UNCHANGED, 1, 10000));
    stage_free(s);
}

static void test_mistakes_change_nothing(void **state)
{
    (void)state;
    struct stage *s = stage_new();
    const struct mm_config *before = mm_live_settings(s->live);
    rig_publish_many(s->g, 1, 1);
    assert_true(rig_wait_empty(s->g, 5000)); /* Kafka is reached */
    write_settings(s, s->g->bootstrap, "kafka_retry_interval\nno_such_option 1\n");
    mm_live_reload(s->live);
    assert_true(wait_count(s, MM_RELOAD_FAILED, 1, 10000));
    assert_true(rig_logged(s->g, "no_such_option"));
    assert_int_equal(mm_metrics_live(s->g->metrics)->failed, 1);

    assert_int_equal(unlink(s->file), 0);
    mm_live_reload(s->live);
    assert_true(wait_count(s, MM_RELOAD_FAILED, 2, 10000));

    write_file(s->file, "# nothing yet\n");
    mm_live_reload(s->live);
    assert_true(wait_count(s, MM_RELOAD_FAILED, 3, 10000));
    assert_true(rig_logged(s->g, "no option is left in the config_file"));

    write_settings(s, "127.0.0.1:1", "");
    mm_live_reload(s->live);
    assert_true(wait_count(s, MM_RELOAD_FAILED, 4, 20000));
    assert_true(rig_logged(s->g, "Kafka is not reached"));
    assert_ptr_equal(mm_live_settings(s->live), before);

    write_settings(s, s->g->bootstrap, "");
    mm_live_reload(s->live);
    assert_true(wait_count(s, MM_RELOAD_UNCHANGED, 1, 10000));
    assert_int_equal(mm_metrics_live(s->g->metrics)->failed, 0);
    rig_publish_many(s->g, 10, 1);
    assert_true(rig_wait_empty(s->g, 5000));
    stage_free(s);
}

static void test_watched_files(void **state)
{
    (void)state;
    struct stage *s = stage_new();
    rig_publish_many(s->g, 10, 1);
    write_file(s->watched, "two");
    assert_true(wait_count(s, MM_RELOAD_APPLIED, 1, 10000));
    assert_true(rig_logged(s->g, "secrets that have changed are in use"));
    write_file(s->watched, "two"); /* touched, and the same */
    sleep_ms(2500);
    assert_int_equal(count(s, MM_RELOAD_APPLIED), 1);
    /* A link that leads elsewhere. */
    char other[128];
    snprintf(other, sizeof other, "%s/other", s->dir);
    write_file(other, "three");
    assert_int_equal(unlink(s->watched), 0);
    assert_int_equal(symlink(other, s->watched), 0);
    assert_true(wait_count(s, MM_RELOAD_APPLIED, 2, 10000));
    assert_true(rig_wait_empty(s->g, 5000));
    assert_int_equal(unlink(other), 0);
    stage_free(s);
}

/* A callback of the broker may take its time: what it was given stays until the next one asks. */
static void test_settings_live_until_the_next_call(void **state)
{
    (void)state;
    struct stage *s = stage_new();
    rig_publish_many(s->g, 10, 1);
    const struct mm_config *held = mm_live_settings(s->live);
    for (uint64_t n = 1; n <= 2; n++) {
        write_settings(s, s->g->bootstrap, n == 1 ? "mqtt_topic a/#\n" : "mqtt_topic b/#\n");
        mm_live_reload(s->live);
        for (uint64_t end = now_ms() + 20000; count(s, MM_RELOAD_APPLIED) < n && now_ms() < end;) {
            (void)rig_logged(s->g, "");
            sleep_ms(5);
        }
        assert_int_equal(count(s, MM_RELOAD_APPLIED), n);
    }
    sleep_ms(1500); /* the thread has looked for what is unused */
    assert_string_equal(held->mqtt_topic, "#");
    assert_string_equal(held->config_file, s->file);
    assert_string_equal(mm_live_settings(s->live)->mqtt_topic, "b/#");
    stage_free(s);
}

/* Whoever has renewed a secret and asks for it does not have to wait until it is seen. */
static void test_files_on_demand(void **state)
{
    (void)state;
    struct stage *s = stage_new();
    rig_publish_many(s->g, 10, 1);
    assert_true(rig_wait_empty(s->g, 5000));
    write_file(s->watched, "two");
    mm_live_reload(s->live);
    assert_true(wait_count(s, MM_RELOAD_APPLIED, 1, 10000));
    assert_int_equal(count(s, MM_RELOAD_UNCHANGED), 0);
    assert_true(rig_logged(s->g, "the new settings are in use"));
    sleep_ms(2500);
    assert_int_equal(count(s, MM_RELOAD_APPLIED), 1);
    stage_free(s);
}

static void test_files_that_change_in_an_outage(void **state)
{
    (void)state;
    struct stage *s = stage_new();
    rig_publish_many(s->g, 10, 1);
    assert_true(rig_wait_empty(s->g, 5000));
    rd_kafka_mock_broker_set_down(s->g->cluster, 1);
    for (uint64_t end = now_ms() + 15000; now_ms() < end && rig_figures(s->g).healthy;) {
        sleep_ms(20);
    }
    assert_false(rig_figures(s->g).healthy);
    write_file(s->watched, "two");
    rig_publish_many(s->g, 10, 1);
    for (uint64_t end = now_ms() + 20000;
         now_ms() < end && !rig_logged(s->g, "are used when Kafka is reached by them");) {
        sleep_ms(20);
    }
    assert_true(rig_logged(s->g, "are used when Kafka is reached by them"));
    assert_int_equal(count(s, MM_RELOAD_FAILED), 0); /* it is not theirs that Kafka is away */
    assert_int_equal(count(s, MM_RELOAD_APPLIED), 0);
    rd_kafka_mock_broker_set_up(s->g->cluster, 1);
    assert_true(wait_count(s, MM_RELOAD_APPLIED, 1, 25000));
    assert_true(rig_wait_empty(s->g, 10000));
    stage_free(s);
}

/* Change the file again and again, for 4 s. Returns the longest time that it was left alone, ms: on
 * a busy machine that may be long enough to be taken for the end. */
static uint64_t keep_changing(struct stage *s)
{
    char text[32];
    uint64_t longest = 0;
    uint64_t last = now_ms();
    for (uint64_t end = last + 4000; last < end;) {
        snprintf(text, sizeof text, "%llu", (unsigned long long)last);
        write_file(s->watched, text);
        sleep_ms(50);
        uint64_t now = now_ms();
        longest = now - last > longest ? now - last : longest;
        last = now;
    }
    return longest;
}

static void test_a_file_that_keeps_changing_is_waited_for(void **state)
{
    (void)state;
    struct stage *s = stage_new();
    uint64_t n_applied = 0;
    uint64_t n_before;
    uint64_t longest;
    for (int i = 0; i < 10; i++) {
        n_before = n_applied;
        longest = keep_changing(s);
        n_applied = count(s, MM_RELOAD_APPLIED);
        if (longest < 500) {
            break;
        }
        print_message("the file was left alone for %llu ms: again\n", (unsigned long long)longest);
    }
    assert_in_range(longest, 0, 499);
    assert_int_equal(n_applied, n_before);
    assert_true(wait_count(s, MM_RELOAD_APPLIED, n_before + 1, 10000));
    stage_free(s);
}

static void test_config_file_is_not_read_unasked(void **state)
{
    (void)state;
    struct stage *s = stage_new();
    write_settings(s, s->g->bootstrap, "mqtt_topic a/#\n");
    write_file(s->watched, "two");
    assert_true(wait_count(s, MM_RELOAD_APPLIED, 1, 10000));
    assert_string_equal(mm_live_settings(s->live)->mqtt_topic, "#");
    assert_int_equal(mm_metrics_live(s->g->metrics)->file_changed, 1);
    stage_free(s);
}

static void test_a_stop_does_not_wait_for_a_proof(void **state)
{
    (void)state;
    struct stage *s = stage_new();
    rig_publish_many(s->g, 1, 1);
    assert_true(rig_wait_empty(s->g, 5000));
    write_settings(s, "127.0.0.1:1", "");
    mm_live_reload(s->live);
    sleep_ms(300);
    uint64_t start = now_ms();
    assert_true(mm_live_stop(s->live, 5000));
    assert_true(now_ms() - start < 200); /* the sending half can be ended at once */
    assert_true(mm_live_join(s->live, 5000));
    assert_int_equal(count(s, MM_RELOAD_FAILED), 0);
    stage_free(s);
}

/* The client of before hangs in name resolution: the plugin's stop is not held up by it. */
static void test_a_stop_in_a_change_that_hangs(void **state)
{
    (void)state;
    struct stage *s = stage_at(RIG_HANGING_HOST ":1", true, NULL);
    rig_publish_many(s->g, 50, 5);
    uint64_t end = now_ms() + 10000;
    while (faults.n_hanging == 0 && now_ms() < end) {
        sleep_ms(5);
    }
    assert_true(faults.n_hanging > 0);
    write_settings(s, s->g->bootstrap, "");
    mm_live_reload(s->live); /* proved, and then it waits for the client of before */
    assert_false(wait_count(s, MM_RELOAD_APPLIED, 1, 12000));
    assert_true(rig_logged(s->g, "the Kafka client of before does not end"));
    uint64_t start = now_ms();
    assert_true(mm_live_stop(s->live, 5000));
    assert_true(now_ms() - start < 4000);
    assert_true(mm_live_join(s->live, 5000));
    assert_int_equal(count(s, MM_RELOAD_APPLIED), 0);
    faults.hang_resolver = false;
    stage_free(s);
}

static void test_a_storm_is_few_changes(void **state)
{
    (void)state;
    struct stage *s = stage_new();
    rig_publish_many(s->g, 100, 5);
    /* A change takes longer than it takes to ask for some more, however busy the machine is. */
    rd_kafka_mock_broker_set_rtt(s->g->cluster, 1, 100);
    for (int i = 0; i < 200; i++) {
        char more[64];
        snprintf(more, sizeof more, "rdkafka.linger.ms %d\n", i % 100);
        write_settings(s, s->g->bootstrap, more);
        mm_live_reload(s->live);
        (void)mm_live_settings(s->live);
        sleep_ms(1);
    }
    mm_live_reload(s->live);
    uint64_t end = now_ms() + 20000;
    bool last = false;
    while (!last && now_ms() < end) {
        const struct mm_config *now = mm_live_settings(s->live);
        last = now->n_properties == 2 && strcmp(now->properties[1].value, "99") == 0;
        (void)rig_logged(s->g, "");
        sleep_ms(5);
    }
    assert_true(last);
    assert_true(rig_wait_empty(s->g, 10000));
    assert_true(count(s, MM_RELOAD_APPLIED) < 100);
    stage_free(s);
}

static void test_sums_of_files(void **state)
{
    (void)state;
    char dir[] = "/tmp/mm-test-watch-XXXXXX";
    assert_non_null(mkdtemp(dir));
    char a[64];
    char b[64];
    snprintf(a, sizeof a, "%s/a", dir);
    snprintf(b, sizeof b, "%s/b", dir);
    uint64_t none = mm_watch_add(MM_WATCH_EMPTY, a);
    write_file(a, "");
    uint64_t empty = mm_watch_add(MM_WATCH_EMPTY, a);
    assert_true(none != empty && none != MM_WATCH_EMPTY);
    write_file(a, "xy");
    uint64_t full = mm_watch_add(MM_WATCH_EMPTY, a);
    assert_true(full != empty && full == mm_watch_add(MM_WATCH_EMPTY, a));
    /* What moves from the end of one to the beginning of the next is a change. */
    write_file(b, "z");
    uint64_t first = mm_watch_add(mm_watch_add(MM_WATCH_EMPTY, a), b);
    write_file(a, "x");
    write_file(b, "yz");
    assert_true(first != mm_watch_add(mm_watch_add(MM_WATCH_EMPTY, a), b));
    /* What is no file is not read, and not waited for. */
    assert_true(mm_watch_add(MM_WATCH_EMPTY, dir) == none);
    assert_int_equal(unlink(a), 0);
    assert_int_equal(mkfifo(a, 0600), 0);
    assert_true(mm_watch_add(MM_WATCH_EMPTY, a) == none);
    unlink(a);
    unlink(b);
    assert_int_equal(rmdir(dir), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sums_of_files),
        cmocka_unit_test(test_on_demand),
        cmocka_unit_test(test_a_file_that_changes_during_the_start),
        cmocka_unit_test(test_mistakes_change_nothing),
        cmocka_unit_test(test_watched_files),
        cmocka_unit_test(test_files_on_demand),
        cmocka_unit_test(test_settings_live_until_the_next_call),
        cmocka_unit_test(test_files_that_change_in_an_outage),
        cmocka_unit_test(test_a_file_that_keeps_changing_is_waited_for),
        cmocka_unit_test(test_config_file_is_not_read_unasked),
        cmocka_unit_test(test_a_stop_does_not_wait_for_a_proof),
        cmocka_unit_test(test_a_stop_in_a_change_that_hangs),
        cmocka_unit_test(test_a_storm_is_few_changes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
