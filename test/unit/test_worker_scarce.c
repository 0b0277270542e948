/* Workers that get no memory, no thread, no Kafka client, no room: they tell it, wait and go on.
 * See rig.h. */
#include "rig.h"
#include "scratch.h"

#include "mm_error.h"
#include "mm_worker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#define LANE_HEAT 1

#define MISSING RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART
#define GRANTED RD_KAFKA_RESP_ERR_NO_ERROR

/* Kafka topics mqtt and heat, of which the second takes nothing yet. */
static struct rig *two_topics(void)
{
    struct rig *g = rig_new(1);
    rig_topic(g, "heat");
    rig_option(g, "rdkafka.topic.metadata.propagation.max.ms", "200");
    rig_option(g, "route", "heat/# heat");
    rig_refuse(g, "heat", MISSING);
    faults.one_request = true;
    return g;
}

static uint64_t n_parked(struct rig *g)
{
    struct mm_park_info info;
    mm_park_info(g->park, LANE_HEAT, &info);
    return info.n_records;
}

static void refuse_resume(struct rig *g, int err, const char *reason)
{
    char errstr[256] = "";
    assert_int_equal(mm_sender_resume(g->sender, g->config, errstr, sizeof errstr), err);
    if (strstr(errstr, reason) == NULL) {
        print_message("\"%s\"\n", errstr);
    }
    assert_non_null(strstr(errstr, reason));
    assert_int_equal(faults.describe_err_at + faults.reset_err_at, 0);
    assert_null(faults.no_thread);
}

/* The routes change, and there is no memory for that, then no thread: it is tried until there is,
 * and nothing is lost, what was parked neither. */
static void test_other_routes_without_memory_are_tried_again(void **state)
{
    (void)state;
    struct rig *g = two_topics();
    rig_topic(g, "power");
    rig_option(g, "kafka_workers", "2");
    rig_start(g);
    rig_publish_to(g, "heat/a", 10);
    rig_publish_to(g, "else", 10);
    rig_wait_for(n_parked(g) == 10 && rig_figures(g).delivered == 10);
    assert_true(rig_settle(g, 1000, RIG_WAIT_MS));
    rig_publish_to(g, "heat/a", 10);
    assert_string_equal(g->options[g->n_options - 2].name, "route");
    g->options[g->n_options - 2].value = "heat/# power";
    struct mm_config *before = g->config;
    g->config = rig_config(g);

    const char *no_memory = mm_strerror(MM_ENOMEM);
    for (uint32_t k = 1; k <= 2; k++) { /* for the old routes, for the new ones */
        faults.describe_err_at = k;
        refuse_resume(g, MM_ENOMEM, no_memory);
    }
    faults.reset_err_at = 1;
    refuse_resume(g, MM_ENOMEM, no_memory);
    static const char *const threads[] = {"mm-park", "mm-worker-0", "mm-worker-1"};
    for (size_t i = 0; i < 3; i++) {
        faults.no_thread = threads[i];
        refuse_resume(g, MM_ETHREAD, "could not be started");
    }
    char errstr[256] = "";
    assert_int_equal(mm_sender_resume(g->sender, g->config, errstr, sizeof errstr), 0);
    mm_config_free(before);
    assert_int_equal(mm_lanes_n(g->lanes), 2); /* mqtt and power: the numbers are new */
    rig_publish_to(g, "heat/a", 10);
    rig_publish_to(g, "else", 10);
    assert_true(rig_wait_empty(g, RIG_WAIT_MS));
    assert_int_equal(rig_figures(g).delivered, g->n_appended);
    rig_refuse(g, "heat", GRANTED);
    check_topic(g, "power", 30, "heat/a");
    check_topic(g, "mqtt", 20, "else");
    check_topic(g, "heat", 0, "");
    rig_end(g);
}

/* The routes change, and there is no descriptor left by which the disk could learn to which routes
 * what is parked belongs: nothing goes on by the new ones until it has. */
static void test_other_routes_without_descriptors_are_tried_again(void **state)
{
    (void)state;
    char dir[SCRATCH_LEN];
    assert_int_equal(scratch_make(dir, "scarce"), 0);
    struct rig *g = two_topics();
    rig_topic(g, "power");
    rig_option(g, "spool_dir", dir);
    rig_option(g, "spool_max_bytes", "16M");
    rig_start(g);
    rig_publish_to(g, "heat/a", 10);
    rig_publish_to(g, "else", 10);
    rig_wait_for(n_parked(g) == 10 && rig_figures(g).delivered == 10);
    assert_true(rig_settle(g, 1000, RIG_WAIT_MS));
    for (size_t i = 0; i < g->n_options; i++) {
        if (strcmp(g->options[i].name, "route") == 0) {
            g->options[i].value = "heat/# power";
        }
    }
    struct mm_config *before = g->config;
    g->config = rig_config(g);
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    const struct rlimit none = {.rlim_cur = 0, .rlim_max = limit.rlim_max};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
        char errstr[256] = "";
        int err = mm_sender_resume(g->sender, g->config, errstr, sizeof errstr);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
        assert_int_equal(err, MM_EIO);
        assert_non_null(strstr(errstr, "ROUTES cannot be written"));
    }
    assert_int_equal(rig_figures(g).in_spool, 10);
    char errstr[256] = "";
    assert_int_equal(mm_sender_resume(g->sender, g->config, errstr, sizeof errstr), 0);
    mm_config_free(before);
    rig_publish_to(g, "heat/a", 10);
    assert_true(rig_wait_empty(g, RIG_WAIT_MS));
    assert_int_equal(rig_figures(g).delivered, g->n_appended);
    check_topic(g, "power", 20, "heat/a");
    check_topic(g, "mqtt", 10, "else");
    rig_stop_workers(g, 5000);
    rig_free(g);
    scratch_remove(dir);
}

/* A worker that goes on has no memory for the copies of its dead letters, then no thread. */
static void test_a_worker_without_memory_goes_on_later(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    rig_option(g, "dead_letter_topic", "dead");
    rig_start(g);
    rig_publish_many(g, 10, 2);
    assert_true(rig_wait_empty(g, RIG_WAIT_MS));
    assert_true(rig_settle(g, 1000, RIG_WAIT_MS));
    rig_publish_many(g, 10, 2);
    faults.no_memory = "mm_dead_topic_new";
    refuse_resume(g, MM_ENOMEM, mm_strerror(MM_ENOMEM));
    assert_null(faults.no_memory);
    faults.no_thread = "mm-worker-0";
    refuse_resume(g, MM_ETHREAD, "a worker thread could not be started");
    assert_int_equal(rig_figures(g).in_spool, 10);
    rig_resume(g);
    assert_true(rig_wait_empty(g, RIG_WAIT_MS));
    check_all_there(g, 1);
    rig_end(g);
}

/* At the start: the caller is told, and can begin anew. */
static void test_a_start_without_memory_or_threads_is_told(void **state)
{
    (void)state;
    struct rig *g = two_topics();
    rig_option(g, "kafka_workers", "2");
    rig_option(g, "dead_letter_topic", "dead");
    rig_start(g);
    rig_stop_workers(g, 0);
    mm_sender_free(g->sender);
    const struct mm_sender_options opts = {.config = g->config,
                                           .spool = g->spool,
                                           .budget = &g->budget,
                                           .lanes = g->lanes,
                                           .metrics = g->metrics,
                                           .dead = g->dead,
                                           .log = g->log};
    char errstr[256] = "";
    faults.reset_err_at = 1;
    assert_int_equal(mm_sender_new(&opts, &g->sender, errstr, sizeof errstr), MM_ENOMEM);
    assert_null(g->sender);
    assert_string_equal(errstr, mm_strerror(MM_ENOMEM));
    static const char *const threads[] = {"mm-park", "mm-worker-0", "mm-worker-1"};
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(mm_sender_new(&opts, &g->sender, errstr, sizeof errstr), 0);
        faults.no_thread = threads[i];
        assert_int_equal(mm_sender_start(g->sender, errstr, sizeof errstr), MM_ETHREAD);
        assert_non_null(strstr(errstr, "could not be started"));
        rig_stop_workers(g, 0);
        mm_sender_free(g->sender);
    }
    static const char *const functions[] = {"mm_window_init", "mm_message_new",
                                            "mm_dead_topic_new"};
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(mm_sender_new(&opts, &g->sender, errstr, sizeof errstr), 0);
        faults.no_memory = functions[i];
        assert_int_equal(mm_sender_start(g->sender, errstr, sizeof errstr), MM_ENOMEM);
        assert_string_equal(errstr, mm_strerror(MM_ENOMEM));
        assert_null(faults.no_memory);
        rig_stop_workers(g, 0);
        mm_sender_free(g->sender);
    }
    assert_int_equal(mm_sender_new(&opts, &g->sender, errstr, sizeof errstr), 0);
    g->park = mm_sender_park(g->sender);
    assert_int_equal(mm_sender_start(g->sender, errstr, sizeof errstr), 0);
    rig_publish_many(g, 50, 5);
    assert_true(rig_wait_empty(g, RIG_WAIT_MS));
    check_all_there(g, 1);
    rig_end(g);
}

/* A message that there is no memory for stays where it is, and in its place. */
static void test_a_message_without_memory_waits(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    rig_start(g);
    rig_publish_many(g, 10, 2);
    assert_true(rig_wait_empty(g, RIG_WAIT_MS));
    faults.no_message = true;
    rig_publish_many(g, 50, 2);
    rig_wait_for(faults.n_scarce >= 5);
    struct mm_snapshot shot = rig_figures(g);
    assert_int_equal(shot.in_spool, 50);
    assert_int_equal(shot.dead_lettered, 0);
    assert_int_equal(shot.ledger_difference, 0);
    faults.no_message = false;
    assert_true(rig_wait_empty(g, RIG_WAIT_MS));
    assert_int_equal(rig_figures(g).dead_lettered, 0);
    check_all_there(g, 1);
    rig_end(g);
}

/* No new client can be made in the place of one that failed, for suspects or for all: that is told,
 * tried again after longer and longer, and costs nothing. */
static void test_a_client_that_cannot_be_made_is_tried_again(void **state)
{
    (void)state;
    static const rd_kafka_resp_err_t errors[] = {RD_KAFKA_RESP_ERR_INVALID_RECORD,
                                                 RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER};
    for (size_t i = 0; i < 2; i++) {
        struct rig *g = rig_new(1);
        faults.one_request = true;
        rig_start(g);
        rig_publish_many(g, 10, 2);
        assert_true(rig_wait_empty(g, RIG_WAIT_MS));
        faults.no_client = true;
        rd_kafka_mock_push_request_errors(g->cluster, API_PRODUCE, 1, errors[i]);
        rig_publish_many(g, 50, 2);
        rig_wait_for(faults.n_scarce >= 3); /* after 0 and 1 s */
        assert_in_range(faults.n_scarce, 3, 6);
        assert_true(rig_logged(g, "worker 0: "));
        assert_true(rig_logged(g, "no client"));
        struct mm_snapshot shot = rig_figures(g);
        assert_true(shot.in_spool > 0);
        assert_int_equal(shot.dead_lettered, 0);
        assert_int_equal(shot.ledger_difference, 0);
        faults.no_client = false;
        assert_true(rig_wait_empty(g, RIG_WAIT_MS));
        assert_int_equal(rig_figures(g).dead_lettered, 0);
        check_all_there(g, 1);
        rig_end(g);
    }
}

/* The spool is full, and the disk does not give what is to be dropped for the new: the new is
 * refused until it does. What an earlier process had counted is not counted as dropped. */
static void test_what_cannot_be_read_is_dropped_later(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    rig_option(g, "spool_max_bytes", "512k");
    rig_option(g, "when_full", "drop_oldest");
    rig_start(g);
    faults.read_eio = true;
    static const char payload[8000];
    uint64_t n_refused = 0;
    while (n_refused < 3) {
        int err = rig_publish(g, "t", payload, sizeof payload);
        n_refused += err != 0;
        sleep_ms(err != 0 ? 20 : 0);
    }
    assert_true(g->n_appended >= 10);
    rig_wait_for(rig_logged(g, "the spool cannot be read"));
    assert_int_equal(rig_figures(g).dropped, 0);
    assert_int_equal(rig_figures(g).in_spool, g->n_appended);
    faults.n_repeat = 2;
    faults.read_eio = false;
    for (int i = 0; i < 200; i++) {
        while (rig_publish(g, "t", payload, sizeof payload) != 0) {
            sleep_ms(1);
        }
    }
    const struct mm_metrics_worker *m = mm_metrics_worker(g->metrics, 0);
    rig_wait_for(mm_counter_get(&m->delivered) + mm_counter_get(&m->dropped_oldest) + 2 ==
                 g->n_appended);
    assert_int_equal(mm_counter_get(&m->repeated), 2);
    assert_true(mm_counter_get(&m->dropped_oldest) > 0);
    struct seen *seen = consume(g, "mqtt", 1);
    check_order(seen);
    char id[64];
    snprintf(id, sizeof id, "%s-%llu", mm_spool_uuid(g->spool), (unsigned long long)g->n_appended);
    assert_string_equal(seen->message[seen->n - 1].id, id);
    free(seen);
    rig_end(g);
}

/* The spool is full of what was laid aside a moment ago and is not on the disk there yet: with
 * drop_oldest it gives up its place, but it is laid aside, and not dropped. */
static void test_a_copy_that_loses_its_place_is_not_dropped(void **state)
{
    (void)state;
    char dir[SCRATCH_LEN];
    assert_int_equal(scratch_make(dir, "scarce"), 0);
    struct rig *g = two_topics();
    rig_option(g, "spool_dir", dir);
    rig_option(g, "spool_max_bytes", "4M");
    rig_option(g, "when_full", "drop_oldest");
    rig_start(g);
    rig_publish_to(g, "heat/a", 1);
    rig_wait_for(n_parked(g) == 1);
    static const char payload[8000];
    for (int i = 0; i < 1000; i++) {
        int err = rig_publish(g, "heat/a", payload, sizeof payload);
        sleep_ms(err != 0 ? 1 : 0); /* what is refused is not ours */
    }
    rig_wait_for(rig_figures(g).dropped > 0);
    rig_refuse(g, "heat", GRANTED);
    assert_true(rig_wait_empty(g, RIG_WAIT_MS));
    struct mm_snapshot shot = rig_figures(g);
    assert_int_equal(shot.ledger_difference, 0);
    assert_int_equal(shot.delivered + shot.dropped, g->n_appended);
    struct seen *seen = consume(g, "heat", 1);
    check_order(seen);
    assert_int_equal(seen->n, shot.delivered);
    free(seen);
    rig_stop_workers(g, 5000);
    rig_free(g);
    scratch_remove(dir);
}

/* More is parked than the window of a parked Kafka topic has room for. */
static void test_a_window_that_is_full_goes_on(void **state)
{
    (void)state;
    const uint32_t n = 20000;
    const uint32_t room = 1 << 14;
    struct rig *g = two_topics();
    rig_start(g);
    rig_publish_to(g, "heat/a", n);
    rig_wait_for(n_parked(g) == n);
    const struct mm_metrics_worker *lane = mm_metrics_park(g->metrics, LANE_HEAT);
    rd_kafka_mock_broker_set_rtt(g->cluster, 1, 300);
    rig_refuse(g, "heat", GRANTED);
    rig_wait_for(mm_counter_get(&lane->held) == room);
    rd_kafka_mock_broker_set_rtt(g->cluster, 1, 0);
    assert_true(rig_wait_empty(g, 60000));
    assert_int_equal(rig_figures(g).delivered, n);
    assert_int_equal(mm_counter_get(&lane->repeated), 0);
    rig_end(g);
}

/* One worker has far more than the other looks at in one go: that one still finds its own behind
 * it. */
static void test_records_of_others_are_passed(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    rig_option(g, "kafka_workers", "2");
    rig_start(g);
    assert_true(rig_settle(g, 1000, RIG_WAIT_MS));
    rig_publish_to(g, "much", 25000);
    rig_publish_many(g, 40, 20); /* for both */
    rig_resume(g);
    assert_true(rig_wait_empty(g, 60000));
    const uint64_t n_first = mm_counter_get(&mm_metrics_worker(g->metrics, 0)->delivered);
    const uint64_t n_second = mm_counter_get(&mm_metrics_worker(g->metrics, 1)->delivered);
    assert_int_equal(n_first + n_second, 25040);
    assert_in_range(n_first < n_second ? n_first : n_second, 1, 39);
    rig_end(g);
}

static void test_nothing_can_be_stopped(void **state)
{
    (void)state;
    mm_sender_stop(NULL, 0);
    assert_true(mm_sender_join(NULL, 0));
    mm_sender_free(NULL);
    assert_true(mm_worker_join(NULL, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_other_routes_without_memory_are_tried_again),
        cmocka_unit_test(test_other_routes_without_descriptors_are_tried_again),
        cmocka_unit_test(test_a_worker_without_memory_goes_on_later),
        cmocka_unit_test(test_a_start_without_memory_or_threads_is_told),
        cmocka_unit_test(test_a_message_without_memory_waits),
        cmocka_unit_test(test_a_client_that_cannot_be_made_is_tried_again),
        cmocka_unit_test(test_what_cannot_be_read_is_dropped_later),
        cmocka_unit_test(test_a_copy_that_loses_its_place_is_not_dropped),
        cmocka_unit_test(test_a_window_that_is_full_goes_on),
        cmocka_unit_test(test_records_of_others_are_passed),
        cmocka_unit_test(test_nothing_can_be_stopped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
