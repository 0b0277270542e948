/* Parked Kafka topics against a mock cluster; see rig.h. */
#include "rig.h"
#include "scratch.h"

#include "mm_error.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LANE_HEAT 1
#define LANE_POWER 2

#define DENIED RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED
#define MISSING RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART
#define GRANTED RD_KAFKA_RESP_ERR_NO_ERROR

/* Three Kafka topics: mqtt, heat, power. */
static struct rig *routed_rig(void)
{
    struct rig *g = rig_new(1);
    rig_topic(g, "heat");
    rig_topic(g, "power");
    rig_option(g, "route", "heat/# heat");
    rig_option(g, "route", "power/# power");
    rig_option(g, "rdkafka.topic.metadata.propagation.max.ms", "200");
    return g;
}

static struct mm_park_info info_of(struct rig *g, uint32_t lane)
{
    struct mm_park_info info;
    mm_park_info(g->park, lane, &info);
    return info;
}

static bool wait_parked(struct rig *g, uint32_t lane, uint64_t n, uint64_t timeout_ms)
{
    uint64_t end = now_ms() + timeout_ms;
    while (now_ms() < end) {
        struct mm_park_info info = info_of(g, lane);
        if (info.parked == (n > 0) && info.n_records == n &&
            rig_figures(g).ledger_difference == 0) {
            return true;
        }
        sleep_ms(5);
    }
    return false;
}

/* Until the worker has copied all that there is: while it does, the ledger may differ. */
static bool wait_all_parked(struct rig *g, uint64_t timeout_ms)
{
    uint64_t end = now_ms() + timeout_ms;
    while (now_ms() < end) {
        struct mm_snapshot shot = rig_figures(g);
        if (shot.parked > 0 && shot.parked == shot.in_spool && shot.ledger_difference == 0) {
            return true;
        }
        sleep_ms(5);
    }
    return false;
}

static uint64_t n_parked_ever(struct rig *g)
{
    uint64_t n = 0;
    for (uint32_t k = 0; k < g->config->kafka_workers; k++) {
        n += mm_counter_get(&mm_metrics_worker(g->metrics, k)->parked);
    }
    return n;
}

/* --- in memory ----------------------------------------------------------------------------------
 */

static void test_a_refused_topic_holds_up_no_other(void **state)
{
    (void)state;
    struct rig *g = routed_rig();
    rig_refuse(g, "heat", MISSING);
    rig_start(g);
    for (int i = 0; i < 20; i++) {
        rig_publish_to(g, "heat/a", 3);
        rig_publish_to(g, "power/a", 2);
        rig_publish_to(g, "else", 5);
        rig_publish_to(g, "heat/b", 1);
    }
    assert_true(rig_wait_delivered(g, 140, 10000));
    assert_true(wait_parked(g, LANE_HEAT, 80, 2000));
    struct mm_snapshot shot = rig_figures(g);
    assert_int_equal(shot.in_spool, 80);
    assert_int_equal(shot.parked, 80);
    assert_false(shot.healthy);
    assert_true(shot.ready);
    assert_string_equal(shot.reason, "a Kafka topic is parked");
    struct mm_park_info info = info_of(g, LANE_HEAT);
    uint64_t end = now_ms() + 2000;
    while (info.oldest_ms == 0 && now_ms() < end) { /* its worker is just being started */
        sleep_ms(1);
        info = info_of(g, LANE_HEAT);
    }
    assert_string_equal(info.kafka_topic, "heat");
    assert_string_equal(info.error, "UNKNOWN_TOPIC_OR_PART");
    assert_true(info.n_bytes > 0);
    assert_true(info.oldest_ms > 0);
    assert_true(info.retry_at_ms > info.oldest_ms);
    assert_int_equal(faults.n_finished, 220); /* the spool itself has its place back */
    assert_int_equal(faults.n_ahead, 0);
    assert_true(rig_logged(g, "Kafka topic heat refuses messages"));

    /* What comes now goes behind, and the others go on. */
    rig_publish_to(g, "heat/a", 10);
    rig_publish_to(g, "power/a", 10);
    assert_true(rig_wait_delivered(g, 150, 5000));
    assert_true(wait_parked(g, LANE_HEAT, 90, 2000));

    rig_refuse(g, "heat", GRANTED);
    assert_true(rig_wait_empty(g, 10000));
    assert_true(wait_parked(g, LANE_HEAT, 0, 2000));
    assert_true(rig_logged(g, "Kafka topic heat is not parked any more"));
    assert_int_equal(n_parked_ever(g), 90);
    assert_true(rig_figures(g).healthy);

    /* And then directly again. */
    rig_publish_to(g, "heat/a", 10);
    assert_true(rig_wait_empty(g, 10000));
    assert_int_equal(n_parked_ever(g), 90);
    check_topic(g, "heat", 100, "heat/");
    check_topic(g, "power", 50, "power/");
    check_topic(g, "mqtt", 100, "else");
    struct seen *seen = consume(g, "heat", 1);
    for (size_t i = 0; i < seen->n; i++) {
        /* The id is that of the spool, as if it had gone directly. */
        const char *uuid = mm_spool_uuid(g->spool);
        assert_int_equal(strncmp(seen->message[i].id, uuid, strlen(uuid)), 0);
        assert_true(seen->message[i].time_ms > 0);
    }
    assert_string_equal(seen->message[0].value,
                        "{\"Topic\":\"heat/a\",\"Content\":"
                        "\"MDAwMDAwMDAwMA==\"}");
    free(seen);
    assert_int_equal(rig_figures(g).delivered, g->n_appended);
    rig_end(g);
}

static void test_a_missing_topic_is_parked_until_it_is_made(void **state)
{
    (void)state;
    struct rig *g = routed_rig();
    rig_refuse(g, "power", MISSING);
    rig_start(g);
    rig_publish_to(g, "power/a", 30);
    rig_publish_to(g, "else", 30);
    assert_true(rig_wait_delivered(g, 30, 5000));
    assert_true(wait_parked(g, LANE_POWER, 30, 5000));
    rig_refuse(g, "power", GRANTED);
    assert_true(rig_wait_empty(g, 10000));
    check_topic(g, "power", 30, "power/");
    rig_end(g);
}

static void test_all_topics_may_be_parked(void **state)
{
    (void)state;
    struct rig *g = routed_rig();
    rig_option(g, "kafka_workers", "2");
    rig_refuse(g, "mqtt", MISSING);
    rig_refuse(g, "heat", MISSING);
    rig_refuse(g, "power", MISSING);
    rig_start(g);
    for (int i = 0; i < 50; i++) {
        char topic[32];
        snprintf(topic, sizeof topic, "%s/%d", i % 2 == 0 ? "heat" : "power", i % 10);
        rig_publish_to(g, topic, 4);
        snprintf(topic, sizeof topic, "else/%d", i % 10);
        rig_publish_to(g, topic, 4);
    }
    assert_true(wait_parked(g, 0, 200, 10000));
    assert_true(wait_parked(g, LANE_HEAT, 100, 10000));
    assert_true(wait_parked(g, LANE_POWER, 100, 10000));
    assert_int_equal(rig_figures(g).in_spool, 400);
    rig_refuse(g, "heat", GRANTED);
    assert_true(wait_parked(g, LANE_HEAT, 0, 10000));
    assert_int_equal(rig_figures(g).in_spool, 300);
    rig_refuse(g, "mqtt", GRANTED);
    rig_refuse(g, "power", GRANTED);
    assert_true(rig_wait_empty(g, 20000));
    check_topic(g, "heat", 100, "heat/");
    check_topic(g, "power", 100, "power/");
    check_topic(g, "mqtt", 200, "else/");
    rig_end(g);
}

/* A reason that is not the topic's alone parks no lane: all would be copied for nothing. */
static void test_a_general_refusal_parks_the_worker(void **state)
{
    (void)state;
    struct rig *g = routed_rig();
    faults.one_request = true;
    rig_start(g);
    rig_publish_to(g, "heat/a", 10);
    rig_publish_to(g, "else", 10);
    assert_true(rig_wait_empty(g, 10000));
    rd_kafka_mock_push_request_errors(g->cluster, API_PRODUCE, 2,
                                      RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED,
                                      RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED);
    uint64_t start = now_ms();
    rig_publish_to(g, "heat/a", 50);
    rig_publish_to(g, "else", 50);
    assert_true(rig_wait_empty(g, 20000));
    assert_true(now_ms() - start >= 900);
    assert_int_equal(n_parked_ever(g), 0);
    check_topic(g, "heat", 60, "heat/");
    check_topic(g, "mqtt", 60, "else");
    rig_end(g);
}

/* Topics that are refused and granted again while messages flow, by several workers. */
static void test_order_holds_while_topics_come_and_go(void **state)
{
    (void)state;
    struct rig *g = routed_rig();
    rig_option(g, "kafka_workers", "3");
    faults.one_request = true;
    rig_start(g);
    for (int round = 0; round < 60; round++) {
        for (int i = 0; i < 30; i++) {
            static const char *const roots[] = {"heat", "power", "else"};
            char topic[32];
            snprintf(topic, sizeof topic, "%s/%d", roots[i % 3], (i / 3 + round) % 8);
            rig_publish_to(g, topic, 1);
        }
        if (round % 10 == 3) {
            rd_kafka_mock_push_request_errors(g->cluster, API_PRODUCE, 3, DENIED, DENIED, DENIED);
        }
        sleep_ms(20);
    }
    assert_true(rig_wait_empty(g, 40000));
    struct mm_snapshot shot = rig_figures(g);
    assert_int_equal(shot.delivered, 1800);
    assert_true(n_parked_ever(g) > 0);
    print_message("%llu of 1800 were parked\n", (unsigned long long)n_parked_ever(g));
    check_topic(g, "heat", 600, "heat/");
    check_topic(g, "power", 600, "power/");
    check_topic(g, "mqtt", 600, "else/");
    rig_end(g);
}

static void test_poison_in_a_parked_log_is_a_dead_letter(void **state)
{
    (void)state;
    struct rig *g = routed_rig();
    rig_option(g, "max_message_bytes", "2000");
    rig_refuse(g, "heat", MISSING);
    rig_start(g);
    rig_publish_to(g, "heat/a", 10);
    char big[4000] = {0};
    assert_int_equal(rig_publish(g, "heat/a", big, sizeof big), 0);
    rig_publish_to(g, "heat/a", 10);
    assert_true(wait_parked(g, LANE_HEAT, 21, 10000));
    rig_refuse(g, "heat", GRANTED);
    assert_true(rig_wait_empty(g, 10000));
    struct mm_snapshot shot = rig_figures(g);
    assert_int_equal(shot.dead_lettered, 1);
    assert_int_equal(shot.delivered, 20);
    check_topic(g, "heat", 20, "heat/");
    char *text;
    size_t len;
    char id[64];
    snprintf(id, sizeof id, "%s-11", mm_spool_uuid(g->spool));
    assert_int_equal(mm_dead_list(g->dead, &text, &len), 0);
    assert_non_null(strstr(text, id));
    assert_non_null(strstr(text, "\"kafka_topic\":\"heat\""));
    free(text);
    rig_end(g);
}

/* The parked log is full: its messages wait in the spool, behind them the others of the same Kafka
 * topic, and nothing is lost or overtaken. */
static void test_a_full_parked_log_loses_nothing(void **state)
{
    (void)state;
    static const int errors[] = {MM_EFULL, MM_EIO};
    for (size_t i = 0; i < 2; i++) {
        struct rig *g = routed_rig();
        rig_refuse(g, "heat", MISSING);
        rig_start(g);
        rig_publish_to(g, "heat/a", 10);
        assert_true(wait_parked(g, LANE_HEAT, 10, 10000));
        faults.park_append_err = errors[i];
        rig_publish_to(g, "heat/a", 10);
        rig_publish_to(g, "else", 10);
        assert_true(rig_wait_delivered(g, 10, 5000));
        sleep_ms(600);
        assert_in_range(faults.n_park_faults, 1, 10);
        struct mm_snapshot shot = rig_figures(g);
        assert_int_equal(shot.in_spool, 20);
        assert_int_equal(shot.parked, 10);
        assert_int_equal(shot.ledger_difference, 0);
        assert_true(rig_logged(g, "cannot be laid aside"));
        if (i == 0) {
            /* Either the log takes them again, ... */
            faults.park_append_err = 0;
            assert_true(wait_parked(g, LANE_HEAT, 20, 5000));
        }
        /* ... or it is delivered, and they go directly. */
        rig_refuse(g, "heat", GRANTED);
        assert_true(rig_wait_empty(g, 10000));
        assert_int_equal(n_parked_ever(g), i == 0 ? 20 : 10);
        check_topic(g, "heat", 20, "heat/");
        check_topic(g, "mqtt", 10, "else");
        rig_end(g);
    }
}

/* Where a lane cannot be parked at all, the worker waits, as it does with one Kafka topic. */
static void test_a_lane_that_cannot_be_parked_is_waited_for(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        struct rig *g = routed_rig();
        rig_refuse(g, "heat", MISSING);
        faults.one_request = true;
        rig_start(g);
        if (i == 0) {
            faults.park_open_err = MM_EIO;
        } else {
            faults.park_append_err = MM_EFULL;
        }
        rig_publish_to(g, "heat/a", 10);
        rig_publish_to(g, "else", 10);
        uint64_t end = now_ms() + 5000;
        while (rig_figures(g).healthy && now_ms() < end) {
            sleep_ms(5);
        }
        sleep_ms(2500);
        assert_in_range(faults.n_park_faults, 1, 4); /* once at each try */
        struct mm_snapshot shot = rig_figures(g);
        assert_true(shot.in_spool >= 10);
        assert_int_equal(shot.parked, 0);
        assert_int_equal(shot.ledger_difference, 0);
        rig_refuse(g, "heat", GRANTED);
        assert_true(rig_wait_empty(g, 15000));
        assert_int_equal(n_parked_ever(g), 0);
        check_topic(g, "heat", 10, "heat/");
        check_topic(g, "mqtt", 10, "else");
        /* Later it can be. */
        faults.park_open_err = faults.park_append_err = 0;
        rd_kafka_mock_push_request_errors(g->cluster, API_PRODUCE, 1, DENIED);
        rig_publish_to(g, "heat/a", 10);
        assert_true(rig_wait_empty(g, 15000));
        assert_int_equal(n_parked_ever(g), 10);
        check_topic(g, "heat", 20, "heat/");
        rig_end(g);
    }
}

static void test_tries_become_rarer(void **state)
{
    (void)state;
    struct rig *g = routed_rig();
    rig_refuse(g, "heat", MISSING);
    rig_start(g);
    rig_publish_to(g, "heat/a", 10);
    assert_true(wait_parked(g, LANE_HEAT, 10, 10000));
    struct mm_metrics_worker *m = mm_metrics_park(g->metrics, LANE_HEAT);
    uint64_t tries[3] = {0};
    size_t n = 0;
    uint64_t last = mm_counter_get(&m->retry_at_ms);
    uint64_t end = now_ms() + 20000;
    while (n < 3 && now_ms() < end) {
        uint64_t next = mm_counter_get(&m->retry_at_ms);
        if (next != 0 && next != last) {
            tries[n++] = next;
            last = next;
        }
        assert_in_range(mm_counter_get(&m->in_flight), 0, 1);
        sleep_ms(1);
    }
    assert_int_equal(n, 3);
    for (size_t i = 1; i < 3; i++) {
        print_message("next try %llu ms later\n", (unsigned long long)(tries[i] - tries[i - 1]));
    }
    /* 1 s times 1.5 each time, up to a fifth more, and what the try itself takes. */
    assert_in_range(tries[1] - tries[0], 2200, 5000);
    assert_in_range(tries[2] - tries[1], 3300, 6500);
    rig_stop_workers(g, 1000);
    rig_free(g);
}

static void test_a_stop_with_parked_topics_ends_in_time(void **state)
{
    (void)state;
    struct rig *g = routed_rig();
    rig_option(g, "kafka_workers", "2");
    rig_refuse(g, "heat", MISSING);
    rig_refuse(g, "power", MISSING);
    rig_start(g);
    rig_publish_to(g, "heat/a", 100);
    rig_publish_to(g, "power/a", 100);
    rig_publish_to(g, "else", 100);
    assert_true(wait_parked(g, LANE_HEAT, 100, 10000));
    assert_true(wait_parked(g, LANE_POWER, 100, 10000));
    uint64_t took = rig_stop_workers(g, 500);
    print_message("stopped in %llu ms\n", (unsigned long long)took);
    assert_true(took < 3000);
    struct mm_snapshot shot = rig_figures(g);
    assert_int_equal(shot.in_spool, 200);
    assert_int_equal(shot.delivered, 100);
    assert_int_equal(shot.ledger_difference, 0);
    rig_free(g);
}

/* --- on disk ------------------------------------------------------------------------------------
 */

struct place
{
    char dir[SCRATCH_LEN];
    char parked[128];
};

static struct rig *disk_rig(struct place *place)
{
    struct rig *g = routed_rig();
    assert_int_equal(scratch_make(place->dir, "park"), 0);
    snprintf(place->parked, sizeof place->parked, "%s/parked", place->dir);
    rig_option(g, "spool_dir", place->dir);
    rig_option(g, "spool_max_bytes", "16M");
    return g;
}

static bool there_is(const struct place *place, const char *name)
{
    char path[256];
    struct stat st;
    snprintf(path, sizeof path, "%s/%s", place->parked, name);
    return stat(path, &st) == 0;
}

static size_t count_directories(const struct place *place)
{
    size_t n = 0;
    DIR *dir = opendir(place->parked);
    assert_non_null(dir);
    for (struct dirent *e; (e = readdir(dir)) != NULL;) {
        n += e->d_name[0] != '.' && strcmp(e->d_name, "ROUTES") != 0;
    }
    closedir(dir);
    return n;
}

/* Are the directories of the logs gone? Soon after their lanes are not parked any more. */
static bool are_gone(const struct place *place)
{
    uint64_t end = now_ms() + 3000;
    while (count_directories(place) > 0 && now_ms() < end) {
        sleep_ms(5);
    }
    return count_directories(place) == 0;
}

static void restart(struct rig *g, uint32_t drain_ms)
{
    rig_stop_workers(g, drain_ms);
    rig_close(g);
    rig_start(g);
}

/* An outage has filled the spool to its limit, and when Kafka comes back one Kafka topic of several
 * is not to be had: there is room to lay its messages aside all the same, or nothing would go on.
 */
static void check_full_spool(struct rig *g)
{
    static const char payload[1000];
    uint64_t n_heat = 0;
    uint64_t n_else = 0;
    rig_refuse(g, "heat", MISSING);
    rd_kafka_mock_broker_set_down(g->cluster, 1);
    rig_start(g);
    for (int n_tries = 0; n_tries < 300;) {
        bool heat = (n_heat + n_else) % 8 == 0;
        if (rig_publish(g, heat ? "heat/a" : "else", payload, sizeof payload) != 0) {
            n_tries++; /* a segment may just be being made */
            sleep_ms(1);
            continue;
        }
        n_tries = 0;
        n_heat += heat;
        n_else += !heat;
    }
    assert_true(rig_figures(g).spool.full);
    rd_kafka_mock_broker_set_up(g->cluster, 1);
    assert_true(rig_wait_delivered(g, n_else, 15000));
    assert_true(wait_parked(g, LANE_HEAT, n_heat, 5000));
    uint64_t end = now_ms() + 5000;
    while (rig_publish(g, "else", payload, sizeof payload) != 0 && now_ms() < end) {
        sleep_ms(5); /* segments are just being deleted */
    }
    assert_true(rig_wait_delivered(g, n_else + 1, 5000));
    rig_refuse(g, "heat", GRANTED);
    assert_true(rig_wait_empty(g, 15000));
    assert_int_equal(rig_figures(g).delivered, n_heat + n_else + 1);
    rig_end(g);
}

static void test_a_full_spool_has_room_to_park(void **state)
{
    (void)state;
    struct rig *g = routed_rig();
    rig_option(g, "spool_max_bytes", "4M");
    check_full_spool(g);
}

static void test_a_full_disk_spool_has_room_to_park(void **state)
{
    (void)state;
    struct place place;
    check_full_spool(disk_rig(&place));
    assert_int_equal(scratch_remove(place.dir), 0);
}

static void test_what_is_parked_outlives_the_process(void **state)
{
    (void)state;
    struct place place;
    struct rig *g = disk_rig(&place);
    rig_refuse(g, "heat", MISSING);
    rig_start(g);
    char uuid[37];
    snprintf(uuid, sizeof uuid, "%s", mm_spool_uuid(g->spool));
    for (int i = 0; i < 20; i++) {
        rig_publish_to(g, "heat/a", 3);
        rig_publish_to(g, "else", 2);
        rig_publish_to(g, "heat/b", 2);
    }
    assert_true(rig_wait_delivered(g, 40, 10000));
    assert_true(wait_parked(g, LANE_HEAT, 100, 10000));
    assert_true(there_is(&place, "heat"));
    assert_true(there_is(&place, "ROUTES"));
    struct stat st;
    assert_int_equal(stat(place.parked, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);

    restart(g, 100);
    struct mm_snapshot shot = rig_figures(g);
    assert_int_equal(shot.in_spool, 100);
    assert_int_equal(shot.parked, 100);
    assert_int_equal(shot.received, 140);
    assert_int_equal(shot.delivered, 40);
    assert_int_equal(shot.ledger_difference, 0);
    assert_true(rig_logged(g, "100 messages wait that were parked for Kafka topic heat"));
    /* What comes now goes behind. */
    rig_publish_to(g, "heat/a", 10);
    rig_publish_to(g, "else", 10);
    assert_true(rig_wait_delivered(g, 50, 10000));
    assert_true(wait_parked(g, LANE_HEAT, 110, 10000));

    restart(g, 100);
    rig_refuse(g, "heat", GRANTED);
    rig_publish_to(g, "heat/b", 10);
    assert_true(rig_wait_empty(g, 10000));
    assert_true(wait_parked(g, LANE_HEAT, 0, 2000));
    assert_int_equal(rig_figures(g).delivered, 170);
    assert_true(are_gone(&place));
    rig_publish_to(g, "heat/b", 10);
    assert_true(rig_wait_empty(g, 10000));
    check_topic(g, "heat", 130, "heat/");
    check_topic(g, "mqtt", 50, "else");
    struct seen *seen = consume(g, "heat", 1);
    for (size_t i = 0; i < seen->n; i++) {
        assert_int_equal(strncmp(seen->message[i].id, uuid, strlen(uuid)), 0);
    }
    free(seen);
    rig_end(g);
    assert_int_equal(scratch_remove(place.dir), 0);
}

/* Many records are finished by one sync, and none before. */
static void test_copies_are_synced_before_they_are_finished(void **state)
{
    (void)state;
    struct place place;
    struct rig *g = disk_rig(&place);
    rig_refuse(g, "heat", MISSING);
    rig_start(g);
    rig_publish_to(g, "heat/a", 500);
    assert_true(wait_parked(g, LANE_HEAT, 500, 10000));
    uint64_t end = now_ms() + 5000;
    while (faults.n_finished < 500 && now_ms() < end) {
        sleep_ms(5);
    }
    assert_int_equal(faults.n_finished, 500);
    assert_in_range(faults.n_park_syncs, 1, 5);

    faults.park_sync_err = MM_EIO;
    rig_publish_to(g, "heat/a", 100);
    sleep_ms(1500);
    assert_int_equal(faults.n_finished, 500);
    struct mm_snapshot shot = rig_figures(g);
    assert_int_equal(shot.in_spool, 600);
    assert_int_equal(shot.ledger_difference, 0);
    assert_in_range(faults.n_park_faults, 1, 3); /* later and later */
    faults.park_sync_err = 0;
    end = now_ms() + 10000;
    while (faults.n_finished < 600 && now_ms() < end) {
        sleep_ms(5);
    }
    assert_int_equal(faults.n_finished, 600);
    assert_int_equal(rig_figures(g).in_spool, 600);
    assert_int_equal(rig_figures(g).ledger_difference, 0);

    /* Those that were copied again are there again, and counted once. */
    rig_refuse(g, "heat", GRANTED);
    assert_true(rig_wait_empty(g, 15000));
    shot = rig_figures(g);
    assert_int_equal(shot.delivered, 600);
    uint64_t repeated = mm_counter_get(&mm_metrics_park(g->metrics, LANE_HEAT)->repeated);
    assert_true(repeated >= 100 && repeated % 100 == 0);
    struct seen *seen = consume(g, "heat", 1);
    assert_int_equal(seen->n, 600 + repeated);
    free(seen);
    rig_end(g);
    assert_int_equal(scratch_remove(place.dir), 0);
}

/* Leave out what was there before, by its id; then all is in order. */
static size_t drop_repeats(struct seen *seen)
{
    size_t n = 0;
    for (size_t i = 0; i < seen->n; i++) {
        bool known = false;
        for (size_t j = 0; j < n && !known; j++) {
            known = strcmp(seen->message[i].id, seen->message[j].id) == 0;
        }
        if (!known) {
            seen->message[n++] = seen->message[i];
        }
    }
    size_t n_repeats = seen->n - n;
    seen->n = n;
    return n_repeats;
}

/* The process ends when records are copied and not finished: they are there twice, and not lost. */
static void test_an_end_between_copy_and_finish_makes_repeats(void **state)
{
    (void)state;
    struct place place;
    struct rig *g = disk_rig(&place);
    rig_refuse(g, "heat", MISSING);
    rig_start(g);
    rig_publish_to(g, "heat/a", 20);
    assert_true(wait_parked(g, LANE_HEAT, 20, 10000));
    uint64_t end = now_ms() + 5000;
    while (faults.n_finished < 20 && now_ms() < end) {
        sleep_ms(5);
    }
    faults.park_sync_err = MM_EIO;
    rig_publish_to(g, "heat/a", 30);
    end = now_ms() + 5000;
    while (faults.n_park_faults == 0 && now_ms() < end) {
        sleep_ms(5);
    }
    rig_stop_workers(g, 0);
    rig_close(g);
    faults.park_sync_err = 0;
    rig_start(g);
    assert_true(wait_all_parked(g, 10000));
    rig_publish_to(g, "heat/a", 10);
    rig_refuse(g, "heat", GRANTED);
    assert_true(rig_wait_empty(g, 15000));
    struct seen *seen = consume(g, "heat", 1);
    size_t n_repeats = drop_repeats(seen);
    print_message("%zu repeats\n", n_repeats);
    assert_true(n_repeats >= 30);
    assert_int_equal(seen->n, 60);
    check_order(seen);
    free(seen);
    rig_end(g);
    assert_int_equal(scratch_remove(place.dir), 0);
}

/* Who mends a route mends what is parked: it is sent by the new routes, before what came later. */
static void test_what_was_parked_by_other_routes_goes_first(void **state)
{
    (void)state;
    struct place place;
    struct rig *g = disk_rig(&place);
    rig_refuse(g, "heat", MISSING);
    rig_start(g);
    rig_publish_to(g, "heat/a", 40);
    rig_publish_to(g, "heat/b", 40);
    rig_publish_to(g, "power/a", 10);
    assert_true(wait_parked(g, LANE_HEAT, 80, 10000));
    rig_stop_workers(g, 100);
    rig_close(g);

    rig_topic(g, "warmth");
    g->options[3].value = "heat/a warmth"; /* heat/b goes to mqtt */
    rd_kafka_mock_broker_set_down(g->cluster, 1);
    rig_start(g);
    assert_true(there_is(&place, "heat~1"));
    assert_false(there_is(&place, "heat"));
    assert_true(rig_logged(g, "the routes have changed since"));
    rig_publish_to(g, "heat/a", 10);
    rig_publish_to(g, "heat/b", 10);
    sleep_ms(500);
    struct mm_snapshot shot = rig_figures(g);
    assert_int_equal(shot.in_spool, 100);
    assert_int_equal(shot.parked, 80);
    assert_int_equal(shot.ledger_difference, 0);
    /* Nothing is taken from the spool before. */
    assert_int_equal(mm_counter_get(&mm_metrics_worker(g->metrics, 0)->taken), 0);
    rd_kafka_mock_broker_set_up(g->cluster, 1);
    assert_true(rig_wait_empty(g, 15000));
    check_topic(g, "warmth", 50, "heat/a");
    check_topic(g, "mqtt", 50, "heat/b");
    assert_int_equal(rig_figures(g).delivered, 110);
    assert_true(rig_logged(g, "what was parked by earlier routes is dealt with"));
    assert_true(are_gone(&place));
    rig_end(g);
    assert_int_equal(scratch_remove(place.dir), 0);
}

/* The routes change again and again, and each time some more is parked elsewhere before the end. */
static void test_routes_may_change_before_all_is_dealt_with(void **state)
{
    (void)state;
    struct place place;
    struct rig *g = disk_rig(&place);
    rig_topic(g, "warmth");
    rig_topic(g, "cold");
    rig_refuse(g, "heat", MISSING);
    rig_refuse(g, "warmth", MISSING);
    rig_refuse(g, "cold", MISSING);
    rig_start(g);
    rig_publish_to(g, "heat/a", 40);
    rig_publish_to(g, "heat/b", 40);
    assert_true(wait_parked(g, LANE_HEAT, 80, 10000));
    rig_stop_workers(g, 100);
    rig_close(g);

    /* A part of it is parked anew: the disk takes no more then. */
    g->options[3].value = "heat/# warmth";
    rig_start(g);
    uint64_t end = now_ms() + 10000;
    while (info_of(g, LANE_HEAT).n_records < 80 && now_ms() < end) {
        sleep_ms(1);
    }
    assert_int_equal(info_of(g, LANE_HEAT).n_records, 80);
    assert_true(wait_parked(g, LANE_HEAT, 80, 5000));
    assert_true(there_is(&place, "warmth"));
    rig_publish_to(g, "heat/a", 10);
    rig_publish_to(g, "heat/b", 10);
    assert_true(wait_parked(g, LANE_HEAT, 100, 10000));
    rig_stop_workers(g, 100);
    rig_close(g);

    g->options[3].value = "heat/a cold";
    rig_start(g);
    rig_publish_to(g, "heat/a", 10);
    rig_publish_to(g, "heat/b", 10);
    assert_true(rig_wait_delivered(g, 60, 15000)); /* heat/b goes to mqtt */
    assert_true(wait_parked(g, LANE_HEAT, 60, 10000));
    assert_int_equal(rig_figures(g).ledger_difference, 0);

    /* Without any routes all goes to one topic. */
    rig_stop_workers(g, 100);
    rig_close(g);
    g->options[3] = g->options[--g->n_options];
    g->options[4] = g->options[--g->n_options];
    rig_start(g);
    rig_publish_to(g, "heat/a", 10);
    assert_true(rig_wait_empty(g, 15000));
    check_topic(g, "mqtt", 130, "heat/");
    assert_true(are_gone(&place));
    rig_end(g);
    assert_int_equal(scratch_remove(place.dir), 0);
}

/* The start finds what an end in the middle of it all has left: two generations. */
static void test_older_logs_come_before_younger_ones(void **state)
{
    (void)state;
    struct place place;
    struct rig *g = disk_rig(&place);
    rig_refuse(g, "heat", MISSING);
    rig_start(g);
    rig_publish_to(g, "heat/a", 40);
    assert_true(wait_parked(g, LANE_HEAT, 40, 10000));
    rig_stop_workers(g, 100);
    rig_close(g);
    /* As if what came first had been parked anew by later routes, and what came then not yet. */
    char from[256];
    char to[256];
    snprintf(from, sizeof from, "%s/heat", place.parked);
    snprintf(to, sizeof to, "%s/heat~2", place.parked);
    assert_int_equal(rename(from, to), 0);
    rig_start(g);
    rig_publish_to(g, "heat/a", 40);
    /* The log of the older one is in front: nothing of the younger one may be sent before. */
    assert_true(wait_parked(g, LANE_HEAT, 80, 10000));
    rig_stop_workers(g, 100);
    rig_close(g);
    /* Split: the second half goes into a log of its own, which is younger. */
    snprintf(to, sizeof to, "%s/heat~1", place.parked);
    assert_int_equal(rename(from, to), 0);
    rig_start(g);
    rig_publish_to(g, "heat/a", 10);
    rig_refuse(g, "heat", GRANTED);
    assert_true(rig_wait_empty(g, 15000));
    check_topic(g, "heat", 90, "heat/a");
    rig_end(g);
    assert_int_equal(scratch_remove(place.dir), 0);
}

/* --- Kafka topics that a template makes ----------------------------------------------------------
 */

#define N_MADE 40

static struct rig *template_rig(void)
{
    static char names[N_MADE][16];
    struct rig *g = rig_new(1);
    rig_option(g, "route", "t/# t.${topic[1]} format=raw");
    rig_option(g, "kafka_topic_allow", "t.*");
    rig_option(g, "kafka_topics_max", "42");
    rig_option(g, "rdkafka.topic.metadata.propagation.max.ms", "200");
    for (int i = 0; i < N_MADE; i++) {
        snprintf(names[i], sizeof names[i], "t.%d", i);
        rig_topic(g, names[i]);
    }
    return g;
}

static void publish_round(struct rig *g, uint32_t n)
{
    for (int i = 0; i < N_MADE; i++) {
        char topic[16];
        snprintf(topic, sizeof topic, "t/%d", i);
        rig_publish_to(g, topic, n);
    }
    rig_publish_to(g, "else", n);
}

static void refuse_all(struct rig *g, rd_kafka_resp_err_t err)
{
    for (int i = 0; i < N_MADE; i++) {
        char name[16];
        snprintf(name, sizeof name, "t.%d", i);
        rig_refuse(g, name, err);
    }
}

/* More of them are refused than may be tried at the same time: kafka_topic goes on; and when they
 * are granted all is delivered, each MQTT topic in order. */
static void test_many_made_topics_are_parked(void **state)
{
    (void)state;
    assert_true(N_MADE > 2 * MM_PARK_TRIES_MAX);
    struct rig *g = template_rig();
    refuse_all(g, MISSING);
    rig_start(g);
    publish_round(g, 3);
    assert_true(rig_wait_delivered(g, 3, 30000));
    uint64_t end = now_ms() + 20000;
    while (rig_figures(g).parked < (uint64_t)3 * N_MADE && now_ms() < end) {
        sleep_ms(5);
    }
    assert_int_equal(rig_figures(g).parked, 3 * N_MADE);
    assert_int_equal(mm_lanes_n(g->lanes), N_MADE + 1);
    publish_round(g, 1);
    assert_true(rig_wait_delivered(g, 4, 10000));
    refuse_all(g, GRANTED);
    assert_true(rig_wait_empty(g, 60000));
    for (int i = 0; i < N_MADE; i++) {
        char name[16];
        char key[16];
        snprintf(name, sizeof name, "t.%d", i);
        snprintf(key, sizeof key, "t/%d", i);
        check_topic(g, name, 4, key);
    }
    assert_int_equal(rig_figures(g).delivered, 4 * (N_MADE + 1));
    rig_stop_workers(g, 1000);
    rig_close(g);
    rig_free(g);
}

/* What no route gives a Kafka topic becomes a dead letter at once, and holds up nothing. */
static void test_refused_names_are_dead_letters(void **state)
{
    (void)state;
    struct rig *g = template_rig();
    rig_start(g);
    publish_round(g, 1);
    rig_publish_to(g, "t/a.b", 2);
    rig_publish_to(g, "t/a_b", 2);
    rig_publish_to(g, "t/one-more", 2);
    publish_round(g, 1);
    assert_true(rig_wait_empty(g, 20000));
    struct mm_snapshot shot = rig_figures(g);
    assert_int_equal(shot.dead_lettered, 4);
    assert_int_equal(shot.delivered, 2 * (N_MADE + 1) + 2);
    assert_int_equal(
        mm_counter_get(&mm_metrics_worker(g->metrics, 0)->dead_lettered[MM_DEAD_UNROUTABLE]), 4);
    assert_int_equal(mm_counter_get(&mm_metrics_worker(g->metrics, 0)->kafka_errors), 0);
    char *text;
    size_t len;
    assert_int_equal(mm_dead_list(g->dead, &text, &len), 0);
    assert_non_null(strstr(text, "\"kafka_topic\":\"t.a_b\",\"error\":\"KAFKA_TOPIC_COLLIDES\""));
    assert_non_null(strstr(text, "\"kafka_topic\":\"t.one-more\",\"error\":\"KAFKA_TOPICS_MAX\""));
    free(text);
    assert_int_equal(rig_count_lines(g, "dead letter"), 1);
    rig_stop_workers(g, 1000);
    rig_close(g);
    rig_free(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_many_made_topics_are_parked),
        cmocka_unit_test(test_refused_names_are_dead_letters),
        cmocka_unit_test(test_a_refused_topic_holds_up_no_other),
        cmocka_unit_test(test_a_missing_topic_is_parked_until_it_is_made),
        cmocka_unit_test(test_all_topics_may_be_parked),
        cmocka_unit_test(test_a_general_refusal_parks_the_worker),
        cmocka_unit_test(test_order_holds_while_topics_come_and_go),
        cmocka_unit_test(test_poison_in_a_parked_log_is_a_dead_letter),
        cmocka_unit_test(test_a_full_parked_log_loses_nothing),
        cmocka_unit_test(test_a_lane_that_cannot_be_parked_is_waited_for),
        cmocka_unit_test(test_a_full_spool_has_room_to_park),
        cmocka_unit_test(test_a_full_disk_spool_has_room_to_park),
        cmocka_unit_test(test_tries_become_rarer),
        cmocka_unit_test(test_a_stop_with_parked_topics_ends_in_time),
        cmocka_unit_test(test_what_is_parked_outlives_the_process),
        cmocka_unit_test(test_copies_are_synced_before_they_are_finished),
        cmocka_unit_test(test_an_end_between_copy_and_finish_makes_repeats),
        cmocka_unit_test(test_what_was_parked_by_other_routes_goes_first),
        cmocka_unit_test(test_routes_may_change_before_all_is_dealt_with),
        cmocka_unit_test(test_older_logs_come_before_younger_ones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
