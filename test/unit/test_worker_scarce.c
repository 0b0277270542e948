/* Workers that get no memory, no thread, no Kafka client, no room: they tell it, wait and go on.
 * See rig.h. */
#include "rig.h"

#include "mm_error.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
    rig_stop_workers(g, 5000);
    rig_free(g);
}

/* At the start: the caller is told, and can begin anew. */
static void test_a_start_without_memory_or_threads_is_told(void **state)
{
    (void)state;
    struct rig *g = two_topics();
    rig_option(g, "kafka_workers", "2");
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
    assert_int_equal(mm_sender_new(&opts, &g->sender, errstr, sizeof errstr), 0);
    g->park = mm_sender_park(g->sender);
    assert_int_equal(mm_sender_start(g->sender, errstr, sizeof errstr), 0);
    rig_publish_many(g, 50, 5);
    assert_true(rig_wait_empty(g, RIG_WAIT_MS));
    check_all_there(g, 1);
    rig_stop_workers(g, 5000);
    rig_free(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_other_routes_without_memory_are_tried_again),
        cmocka_unit_test(test_a_start_without_memory_or_threads_is_told),
    };
    cmocka_set_test_filter(getenv("CMOCKA_TEST_FILTER"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
