/* The sending half comes to rest and goes on with other settings, while messages keep coming. */
#include "rig.h"
#include "scratch.h"

#include <ftw.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A publisher that does not stop for anything. */
struct publisher
{
    struct rig *g;
    uint32_t n_topics;
    _Atomic bool stop;
    pthread_t thread;
};

static void *publish(void *arg)
{
    struct publisher *p = arg;
    while (!p->stop) {
        rig_publish_many(p->g, 5, p->n_topics);
        sleep_ms(2);
    }
    return NULL;
}

static void start_publisher(struct publisher *p, struct rig *g, uint32_t n_topics)
{
    *p = (struct publisher){.g = g, .n_topics = n_topics};
    assert_int_equal(pthread_create(&p->thread, NULL, publish, p), 0);
}

static void stop_publisher(struct publisher *p)
{
    p->stop = true;
    assert_int_equal(pthread_join(p->thread, NULL), 0);
}

/* Two tables of values that are taken in turn. */
static const char *const intervals[] = {"1", "2"};
static const char *const names[] = {"Topic,Content", "topic,content"};

static void change(struct rig *g, size_t i)
{
    size_t n = g->n_options;
    rig_option(g, "kafka_retry_interval", intervals[i % 2]);
    rig_option(g, "json_field_names", names[i % 2]);
    assert_true(rig_settle(g, 5000, 10000));
    rig_resume(g);
    g->n_options = n;
}

/* Drops the options of rig_new() that change() sets, so that none is given twice. */
static void forget_interval(struct rig *g)
{
    assert_string_equal(g->options[g->n_options - 1].name, "kafka_retry_interval");
    g->n_options--;
}

/* Until the settings have come into use: the first message of a producer of librdkafka 2.15 takes
 * half a second. */
static void wait_for_more(struct rig *g)
{
    const uint64_t before = rig_figures(g).delivered;
    for (int i = 0; i < 500 && rig_figures(g).delivered == before; i++) {
        sleep_ms(20);
    }
    assert_true(rig_figures(g).delivered > before);
}

static void test_changes_under_load_lose_and_repeat_nothing(void **state)
{
    (void)state;
    struct rig *g = rig_new(4);
    forget_interval(g);
    rig_option(g, "kafka_workers", "3");
    rig_start(g);
    struct publisher p;
    start_publisher(&p, g, 40);
    for (size_t i = 0; i < 20 && (i < 4 || rig_figures(g).received < 3000); i++) {
        wait_for_more(g);
        change(g, i);
    }
    stop_publisher(&p);
    assert_true(rig_wait_empty(g, 20000));
    assert_int_equal(rig_stop_workers(g, 0) / 20000, 0);
    check_all_there(g, 4); /* in order, and none twice: the windows were handed over */
    struct seen *seen = consume(g, "mqtt", 4);
    size_t n_small = 0;
    for (size_t i = 0; i < seen->n; i++) {
        n_small += strncmp(seen->message[i].value, "{\"topic\"", 8) == 0;
    }
    assert_in_range(n_small, 1, seen->n - 1); /* both settings were in use */
    free(seen);
    rig_free(g);
}

static void test_no_answer_in_time_makes_repeats_of_the_same_id(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    rig_start(g);
    rig_publish_many(g, 10, 1);
    assert_true(rig_wait_empty(g, 10000));
    rd_kafka_mock_broker_set_rtt(g->cluster, 1, 1500);
    rig_publish_many(g, 10, 1);
    sleep_ms(300); /* they are on the wire */
    assert_true(rig_settle(g, 100, 10000));
    rd_kafka_mock_broker_set_rtt(g->cluster, 1, 0);
    rig_resume(g);
    assert_true(rig_wait_empty(g, 20000));
    rig_stop_workers(g, 0);
    assert_true(rig_logged(g, "10 messages were sent to Kafka without an answer"));
    struct seen *seen = consume(g, "mqtt", 1);
    assert_in_range(seen->n, 20, 30);
    /* The last copies of all are in order. */
    unsigned long last = 0;
    for (size_t i = seen->n - 10; i < seen->n; i++) {
        unsigned long seq = strtoul(strrchr(seen->message[i].id, '-') + 1, NULL, 10);
        assert_true(i == seen->n - 10 || seq == last + 1);
        last = seq;
    }
    free(seen);
    rig_free(g);
}

static void test_another_cluster_gets_what_comes_after_the_change(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    struct rig *other = rig_new(1);
    rig_start(g);
    rig_publish_many(g, 100, 5);
    assert_true(rig_wait_empty(g, 10000));
    assert_true(rig_settle(g, 5000, 10000));
    g->options[0].value = other->bootstrap;
    rig_publish_many(g, 70, 5); /* while nobody sends */
    rig_resume(g);
    assert_true(rig_wait_empty(g, 10000));
    rig_stop_workers(g, 0);
    check_topic(g, "mqtt", 100, "plant/");
    check_topic(other, "mqtt", 70, "plant/");
    rig_free(g);
    rig_free(other);
}

static void test_a_change_mends_an_address_that_was_wrong(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    g->options[0].value = "127.0.0.1:1";
    rig_start(g);
    rig_publish_many(g, 50, 5);
    sleep_ms(500);
    assert_int_equal(rig_figures(g).delivered, 0);
    uint64_t start_ms = now_ms();
    assert_true(rig_settle(g, 5000, 10000));
    assert_true(now_ms() - start_ms < 3000); /* nothing is on the wire: not waited for */
    g->options[0].value = g->bootstrap;
    rig_resume(g);
    assert_true(rig_wait_empty(g, 10000));
    rig_stop_workers(g, 0);
    check_topic(g, "mqtt", 50, "plant/");
    rig_free(g);
}

/* Waits for it. */
static bool is_parked(struct rig *g, uint32_t lane)
{
    struct mm_park_info info = {0};
    for (uint64_t end = now_ms() + 10000; !info.parked && now_ms() < end;) {
        sleep_ms(5);
        mm_park_info(g->park, lane, &info);
    }
    return info.parked;
}

static void test_what_is_parked_stays_parked_and_arrives(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    forget_interval(g);
    rig_option(g, "route", "b/# beta");
    rig_topic(g, "beta");
    rig_option(g, "rdkafka.topic.metadata.propagation.max.ms", "200");
    rig_refuse(g, "beta", RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART);
    rig_start(g);
    rig_publish_to(g, "b/1", 50);
    rig_publish_to(g, "a/1", 50);
    assert_true(rig_wait_delivered(g, 50, 10000));
    assert_true(is_parked(g, 1));
    for (size_t i = 0; i < 5; i++) {
        change(g, i);
        rig_publish_to(g, "b/1", 10);
        rig_publish_to(g, "a/1", 10);
        assert_true(rig_wait_delivered(g, 60 + 10 * i, 10000));
    }
    assert_true(is_parked(g, 1));
    rig_refuse(g, "beta", RD_KAFKA_RESP_ERR_NO_ERROR);
    change(g, 5); /* which tries at once */
    assert_true(rig_wait_empty(g, 10000));
    rig_stop_workers(g, 0);
    check_topic(g, "mqtt", 100, "a/1");
    check_topic(g, "beta", 100, "b/1");
    rig_free(g);
}

/* A parked topic that has no worker yet is tried at once by the change, too, and not when it would
 * have been by the settings before. */
static void test_what_has_no_worker_yet_is_tried_at_once(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    forget_interval(g); /* 10 s */
    rig_option(g, "route", "b/# beta");
    rig_topic(g, "beta");
    rig_option(g, "rdkafka.topic.metadata.propagation.max.ms", "200");
    rig_refuse(g, "beta", RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART);
    faults.no_thread = "mm-parked";
    rig_start(g);
    rig_publish_to(g, "b/1", 50);
    rig_wait_for(faults.no_thread == NULL); /* it could not be started */
    rig_refuse(g, "beta", RD_KAFKA_RESP_ERR_NO_ERROR);
    change(g, 0);
    assert_true(rig_wait_empty(g, 7000));
    rig_stop_workers(g, 0);
    check_topic(g, "beta", 50, "b/1");
    rig_free(g);
}

/* A rig whose Kafka topic beta takes nothing, and the route "b/# beta" as its last option. */
static struct rig *refusing_rig(const char *spool_dir)
{
    struct rig *g = rig_new(1);
    rig_option(g, "rdkafka.topic.metadata.propagation.max.ms", "200");
    if (spool_dir != NULL) {
        rig_option(g, "spool_dir", spool_dir);
        rig_option(g, "spool_max_bytes", "16M");
    }
    rig_topic(g, "beta");
    rig_topic(g, "gamma");
    rig_topic(g, "delta");
    rig_refuse(g, "beta", RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART);
    rig_option(g, "route", "b/# beta");
    return g;
}

/* Other routes, in the place of the last option. */
static void reroute(struct rig *g, const char *route)
{
    assert_string_equal(g->options[g->n_options - 1].name, "route");
    g->options[g->n_options - 1].value = route;
    assert_true(rig_settle(g, 5000, 10000));
    rig_resume(g);
}

static void check_reroute(const char *spool_dir)
{
    struct rig *g = refusing_rig(spool_dir);
    rig_start(g);
    rig_publish_to(g, "b/1", 500);
    rig_publish_to(g, "a/1", 50);
    assert_true(rig_wait_delivered(g, 50, 10000));
    assert_true(is_parked(g, 1));
    rig_publish_to(g, "b/1", 20);
    reroute(g, "b/# gamma");
    rig_publish_to(g, "b/1", 20);
    rig_publish_to(g, "a/1", 20);
    assert_true(rig_wait_empty(g, 15000));
    assert_true(rig_logged(g, "what was parked by earlier routes is dealt with"));
    rig_publish_to(g, "b/1", 10);
    assert_true(rig_wait_empty(g, 10000));
    assert_int_equal(rig_figures(g).delivered, g->n_appended);
    assert_int_equal(rig_figures(g).parked, 0);
    assert_true(rig_figures(g).live);
    rig_stop_workers(g, 0);
    rig_refuse(g, "beta", RD_KAFKA_RESP_ERR_NO_ERROR);
    check_topic(g, "gamma", 550, "b/1"); /* in order, none twice */
    check_topic(g, "mqtt", 70, "a/1");
    check_topic(g, "beta", 0, "");
    rig_free(g);
}

/* An empty directory of its own for each test; the caller removes it with forget_dir(). */
static char *new_dir(void)
{
    char *dir = malloc(SCRATCH_LEN);
    assert_non_null(dir);
    assert_int_equal(scratch_make(dir, "sender"), 0);
    return dir;
}

static void forget_dir(char *dir)
{
    assert_int_equal(scratch_remove(dir), 0);
    free(dir);
}

static void test_what_is_parked_goes_where_the_new_routes_lead(void **state)
{
    (void)state;
    check_reroute(NULL);
}

static void test_the_same_on_disk(void **state)
{
    (void)state;
    char *dir = new_dir();
    check_reroute(dir);
    forget_dir(dir);
}

/* Kafka topics that a template makes, of which one is parked, and another template. */
static void check_other_template(const char *spool_dir)
{
    struct rig *g = refusing_rig(spool_dir);
    const char *const topics[] = {"b.1", "b.2", "n.1", "n.2"};
    for (size_t i = 0; i < 4; i++) {
        rig_topic(g, topics[i]);
    }
    g->options[g->n_options - 1] = (struct mm_option){"kafka_topic_allow", "b.*,n.*"};
    rig_option(g, "kafka_topics_max", "3");
    rig_option(g, "route", "b/# b.${topic[1]}");
    rig_refuse(g, "b.1", RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART);
    rig_start(g);
    rig_publish_to(g, "b/1", 300);
    rig_publish_to(g, "b/2", 50);
    assert_true(rig_wait_delivered(g, 50, 20000));
    rig_publish_to(g, "b/1", 20);
    /* The names are new: those of before do not count against the maximum. */
    reroute(g, "b/# n.${topic[1]}");
    rig_publish_to(g, "b/1", 20);
    rig_publish_to(g, "b/2", 20);
    assert_true(rig_wait_empty(g, 20000));
    assert_int_equal(rig_figures(g).delivered, g->n_appended);
    assert_int_equal(rig_figures(g).dead_lettered, 0);
    assert_int_equal(mm_lanes_n(g->lanes), 3);
    /* And back to a Kafka topic of the settings alone. */
    reroute(g, "b/# gamma");
    rig_publish_to(g, "b/1", 10);
    assert_true(rig_wait_empty(g, 20000));
    assert_int_equal(mm_lanes_n(g->lanes), 2);
    rig_stop_workers(g, 0);
    rig_refuse(g, "b.1", RD_KAFKA_RESP_ERR_NO_ERROR);
    check_topic(g, "b.1", 0, "");
    check_topic(g, "b.2", 50, "b/2");
    check_topic(g, "n.1", 340, "b/1");
    check_topic(g, "n.2", 20, "b/2");
    check_topic(g, "gamma", 10, "b/1");
    rig_free(g);
}

static void test_templates_change(void **state)
{
    (void)state;
    check_other_template(NULL);
    char *dir = new_dir();
    check_other_template(dir);
    forget_dir(dir);
}

/* Routes change again and again while what is parked is not dealt with: it is parked anew out of
 * the old logs, and comes before what is left in these. */
static void check_many_reroutes(const char *spool_dir)
{
    static const char *const routes[] = {"b/# beta", "b/1 beta", "b/2 beta", "b/+ beta"};
    struct rig *g = refusing_rig(spool_dir);
    rig_start(g);
    uint64_t n = 0;
    for (int i = 0; i < 12; i++) {
        rig_publish_to(g, "b/1", 100);
        rig_publish_to(g, "b/2", 100);
        sleep_ms(i % 3 * 150L);
        reroute(g, routes[i % 4]);
        n += 100;
    }
    /* All have the same order in whichever Kafka topic they are: b/1 may have gone to mqtt. */
    rig_refuse(g, "beta", RD_KAFKA_RESP_ERR_NO_ERROR);
    assert_true(rig_wait_empty(g, 60000));
    assert_int_equal(rig_figures(g).delivered, g->n_appended);
    rig_stop_workers(g, 0);
    struct seen *beta = consume(g, "beta", 1);
    struct seen *mqtt = consume(g, "mqtt", 1);
    check_order(beta);
    check_order(mqtt);
    assert_int_equal(beta->n + mqtt->n, 2 * n);
    free(beta);
    free(mqtt);
    rig_free(g);
}

static void test_routes_change_again_and_again(void **state)
{
    (void)state;
    check_many_reroutes(NULL);
    char *dir = new_dir();
    check_many_reroutes(dir);
    forget_dir(dir);
}

/* What is parked stays so over several changes, and over a restart. */
static void test_an_old_log_outlives_the_process(void **state)
{
    (void)state;
    char *dir = new_dir();
    struct rig *g = refusing_rig(dir);
    rig_start(g);
    rig_publish_to(g, "b/1", 100);
    assert_true(is_parked(g, 1));
    rig_refuse(g, "gamma", RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART);
    reroute(g, "b/# gamma");
    rig_publish_to(g, "b/1", 100);
    sleep_ms(300);
    reroute(g, "b/# delta");
    rig_stop_workers(g, 0);
    rig_close(g);
    uint64_t n = g->n_appended;
    rig_start(g);
    assert_true(rig_wait_empty(g, 20000));
    rig_stop_workers(g, 0);
    struct seen *seen = consume(g, "delta", 1);
    assert_in_range(seen->n, n, n + 200); /* repeats are allowed over an end of the process */
    free(seen);
    rig_free(g);
    forget_dir(dir);
}

static void test_suspects_are_judged_after_the_change(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    rig_start(g);
    rig_publish_many(g, 20, 4);
    assert_true(rig_wait_empty(g, 10000));
    static char large[1100000];
    memset(large, 'x', sizeof large);
    for (int i = 0; i < 5; i++) {
        rig_publish_many(g, 20, 4);
        assert_int_equal(rig_publish(g, "plant/0", large, sizeof large), 0);
        rig_publish_many(g, 20, 4);
        assert_true(rig_settle(g, 5000, 10000));
        rig_resume(g);
    }
    assert_true(rig_wait_empty(g, 20000));
    assert_int_equal(rig_figures(g).dead_lettered, 5);
    rig_stop_workers(g, 0);
    check_all_there(g, 1);
    rig_free(g);
}

static void test_a_client_that_hangs_is_waited_for(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    faults.hang_resolver = true;
    g->options[0].value = RIG_HANGING_HOST ":1";
    rig_start(g);
    rig_publish_many(g, 50, 5);
    for (uint64_t end = now_ms() + 10000; faults.n_hanging == 0 && now_ms() < end;) {
        sleep_ms(5);
    }
    assert_true(faults.n_hanging > 0);
    assert_false(rig_settle(g, 1000, 3000)); /* its client cannot be ended */
    rig_publish_many(g, 50, 5);
    assert_false(mm_sender_await(g->sender, 200));
    faults.hang_resolver = false;
    assert_true(mm_sender_await(g->sender, 20000));
    g->options[0].value = g->bootstrap;
    rig_resume(g);
    assert_true(rig_wait_empty(g, 10000));
    rig_stop_workers(g, 0);
    check_all_there(g, 1);
    rig_free(g);
}

static bool wait_logged(struct rig *g, const char *text)
{
    const uint64_t end = now_ms() + 15000;
    while (!rig_logged(g, text) && now_ms() < end) {
        sleep_ms(20);
    }
    return rig_logged(g, text);
}

/* The client that has sent what was parked hangs in its end: then all goes on that waits for it. */
static void test_the_end_of_an_old_log_hangs(void **state)
{
    (void)state;
    struct rig *g = refusing_rig(NULL);
    rig_start(g);
    rig_publish_to(g, "b/1", 50);
    rig_publish_to(g, "a/1", 10);
    assert_true(rig_wait_delivered(g, 10, 10000));
    assert_true(is_parked(g, 1));
    reroute(g, "b/# gamma");
    faults.hang_destroy = true;
    assert_true(wait_logged(g, "the worker of the parked Kafka topic beta does not end"));
    rig_publish_to(g, "b/1", 10);
    rig_publish_to(g, "a/1", 10);
    faults.hang_destroy = false;
    assert_true(rig_wait_empty(g, 10000));
    rig_stop_workers(g, 0);
    check_topic(g, "gamma", 60, "b/1");
    check_topic(g, "mqtt", 20, "a/1");
    rig_free(g);
}

/* The same of a lane that was parked: it can be parked again when the client has ended. */
static void test_the_end_of_a_parked_lane_hangs(void **state)
{
    (void)state;
    struct rig *g = refusing_rig(NULL);
    rig_start(g);
    rig_publish_to(g, "b/1", 50);
    assert_true(is_parked(g, 1));
    faults.hang_destroy = true;
    rig_refuse(g, "beta", RD_KAFKA_RESP_ERR_NO_ERROR);
    assert_true(wait_logged(g, "the worker of the parked Kafka topic beta does not end"));
    faults.hang_destroy = false;
    rd_kafka_mock_push_request_errors(g->cluster, API_PRODUCE, 1,
                                      RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED);
    rig_publish_to(g, "b/1", 10);
    assert_true(is_parked(g, 1));
    rig_publish_to(g, "a/1", 10);
    assert_true(rig_wait_empty(g, 15000));
    rig_stop_workers(g, 0);
    check_topic(g, "beta", 60, "b/1");
    check_topic(g, "mqtt", 10, "a/1");
    rig_free(g);
}

static void test_a_stop_comes_while_all_is_at_rest(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    rig_start(g);
    rig_publish_many(g, 100, 4);
    mm_sender_settle(g->sender, 5000);
    assert_true(rig_stop_workers(g, 1000) < 8000);
    rig_free(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_changes_under_load_lose_and_repeat_nothing),
        cmocka_unit_test(test_no_answer_in_time_makes_repeats_of_the_same_id),
        cmocka_unit_test(test_another_cluster_gets_what_comes_after_the_change),
        cmocka_unit_test(test_a_change_mends_an_address_that_was_wrong),
        cmocka_unit_test(test_what_is_parked_stays_parked_and_arrives),
        cmocka_unit_test(test_what_has_no_worker_yet_is_tried_at_once),
        cmocka_unit_test(test_what_is_parked_goes_where_the_new_routes_lead),
        cmocka_unit_test(test_the_same_on_disk),
        cmocka_unit_test(test_templates_change),
        cmocka_unit_test(test_routes_change_again_and_again),
        cmocka_unit_test(test_an_old_log_outlives_the_process),
        cmocka_unit_test(test_suspects_are_judged_after_the_change),
        cmocka_unit_test(test_a_client_that_hangs_is_waited_for),
        cmocka_unit_test(test_the_end_of_an_old_log_hangs),
        cmocka_unit_test(test_the_end_of_a_parked_lane_hangs),
        cmocka_unit_test(test_a_stop_comes_while_all_is_at_rest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
