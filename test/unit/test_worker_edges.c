/* Workers where two things happen at once: a Kafka topic is refused and the disk, the memory or the
 * client fails in that moment. See rig.h. */
#include "rig.h"
#include "scratch.h"

#include "../../plugin/mm_worker_impl.h"

#include "mm_clock.h"
#include "mm_error.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LANE_POWER 1
#define LANE_HEAT 2

#define MISSING RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART
#define GRANTED RD_KAFKA_RESP_ERR_NO_ERROR

/* Kafka topics mqtt, heat and power, of which one takes nothing yet. */
static struct rig *refusing_rig(const char *refused)
{
    struct rig *g = rig_new(1);
    rig_topic(g, "heat");
    rig_topic(g, "power");
    rig_option(g, "rdkafka.topic.metadata.propagation.max.ms", "200");
    rig_option(g, "route", "power/# power");
    rig_option(g, "route", "heat/# heat");
    rig_refuse(g, refused, MISSING);
    faults.one_request = true;
    return g;
}

/* The same with a spool on disk, in a directory that is made: scratch_remove(dir). */
static struct rig *refusing_disk_rig(const char *refused, char dir[SCRATCH_LEN])
{
    assert_int_equal(scratch_make(dir, "edges"), 0);
    struct rig *g = refusing_rig(refused);
    rig_option(g, "spool_dir", dir);
    rig_option(g, "spool_max_bytes", "16M");
    return g;
}

static struct mm_park_info info_of(struct rig *g, uint32_t lane)
{
    struct mm_park_info info;
    mm_park_info(g->park, lane, &info);
    return info;
}

/* --- parking, and the disk ----------------------------------------------------------------------
 */

/* The first record of a Kafka topic that is to be parked is damaged: those behind it are parked all
 * the same, and it is told. */
static void test_a_damaged_record_is_not_parked(void **state)
{
    (void)state;
    struct rig *g = refusing_rig("heat");
    faults.bad_err = MM_ECORRUPT;
    faults.bad_seq = 1;
    rig_start(g);
    rig_publish_to(g, "heat/a", 5);
    rig_publish_to(g, "else", 5);
    rig_wait_for(info_of(g, LANE_HEAT).n_records == 4 && rig_figures(g).delivered == 5);
    struct mm_snapshot shot = rig_figures(g);
    assert_int_equal(shot.dead_lettered, 1);
    assert_int_equal(shot.ledger_difference, 0);
    const struct mm_metrics_worker *m = mm_metrics_worker(g->metrics, 0);
    assert_int_equal(mm_counter_get(&m->dead_lettered[MM_DEAD_UNREADABLE]), 1);
    assert_int_equal(mm_counter_get(&m->parked), 4);
    assert_int_equal(mm_counter_get(&m->producer_restarts), 1); /* it took one refusal */
    rig_refuse(g, "heat", GRANTED);
    assert_true(rig_wait_empty(g, RIG_WAIT_MS));
    check_topic(g, "heat", 4, "heat/a");
    check_topic(g, "mqtt", 5, "else");
    char id[64];
    snprintf(id, sizeof id, "\"id\":\"%s-1\"", mm_spool_uuid(g->spool));
    char *text;
    size_t len;
    assert_int_equal(mm_dead_list(g->dead, &text, &len), 0);
    assert_non_null(strstr(text, id));
    assert_non_null(strstr(text, "the record is damaged in the spool"));
    free(text);
    rig_end(g);
}

/* There is no other record: nothing is parked, as there is nothing to park. */
static void test_nothing_is_parked_for_a_damaged_record_alone(void **state)
{
    (void)state;
    struct rig *g = refusing_rig("heat");
    faults.bad_err = MM_ECORRUPT;
    faults.bad_seq = 1;
    rig_start(g);
    rig_publish_to(g, "heat/a", 1);
    assert_true(rig_wait_empty(g, RIG_WAIT_MS));
    assert_int_equal(rig_figures(g).dead_lettered, 1);
    assert_true(rig_logged(g, "Kafka topic heat refuses messages"));
    assert_false(info_of(g, LANE_HEAT).parked);
    rig_publish_to(g, "else", 5);
    assert_true(rig_wait_delivered(g, 5, RIG_WAIT_MS));
    assert_int_equal(mm_counter_get(&mm_metrics_worker(g->metrics, 0)->parked), 0);
    /* It is parked for the next one. */
    rig_publish_to(g, "heat/a", 3);
    rig_wait_for(info_of(g, LANE_HEAT).n_records == 3);
    rig_refuse(g, "heat", GRANTED);
    assert_true(rig_wait_empty(g, RIG_WAIT_MS));
    check_topic(g, "heat", 3, "heat/a");
    rig_end(g);
}

/* The disk does not give the first record of a Kafka topic that is to be parked: all wait, and
 * nothing is overtaken, lost or taken for damaged. */
static void test_a_topic_is_parked_when_the_disk_reads_again(void **state)
{
    (void)state;
    struct rig *g = refusing_rig("heat");
    faults.bad_err = MM_EIO;
    faults.bad_seq = 1;
    rig_start(g);
    rig_publish_to(g, "heat/a", 10);
    rig_wait_for(
        rig_logged(g, "the messages for Kafka topic heat, which is parked, cannot be laid"));
    rig_publish_to(g, "else", 5);
    /* Tried again after kafka_retry_interval: it is the spool that cannot be read then. */
    rig_wait_for(rig_logged(g, "the spool cannot be read"));
    assert_int_equal(mm_counter_get(&mm_metrics_worker(g->metrics, 0)->state), MM_WORKER_PARKED);
    assert_false(info_of(g, LANE_HEAT).parked);
    struct mm_snapshot shot = rig_figures(g);
    assert_int_equal(shot.in_spool, 15);
    assert_int_equal(shot.dead_lettered, 0);
    assert_int_equal(shot.ledger_difference, 0);
    faults.bad_seq = 0;
    rig_wait_for(info_of(g, LANE_HEAT).n_records == 10 && rig_figures(g).delivered == 5);
    rig_refuse(g, "heat", GRANTED);
    assert_true(rig_wait_empty(g, RIG_WAIT_MS));
    assert_int_equal(rig_figures(g).dead_lettered, 0);
    check_topic(g, "heat", 10, "heat/a");
    check_topic(g, "mqtt", 5, "else");
    rig_end(g);
}

/* What an earlier process had counted is counted once, whether that is found when it is parked (it
 * may be in the lane's log a second time) or when it comes out of there. */
static void test_a_repeat_that_is_parked_is_counted_once(void **state)
{
    (void)state;
    for (int late = 0; late < 2; late++) {
        struct rig *g = refusing_rig("heat");
        rig_start(g);
        const struct mm_metrics_worker *lane = mm_metrics_park(g->metrics, LANE_HEAT);
        faults.n_repeat = late ? 0 : 3;
        rig_publish_to(g, "heat/a", 10);
        rig_wait_for(info_of(g, LANE_HEAT).n_records == 10);
        assert_int_equal(faults.n_repeat, 0);
        faults.n_repeat = late ? 3 : 0;
        rig_refuse(g, "heat", GRANTED);
        rig_wait_for(mm_counter_get(&lane->delivered) + mm_counter_get(&lane->repeated) == 10);
        assert_int_equal(mm_counter_get(&lane->delivered), 7);
        assert_int_equal(mm_counter_get(&lane->repeated), 3);
        assert_int_equal(faults.n_repeat, 0);
        check_topic(g, "heat", 10, "heat/a");
        rig_end(g);
    }
}

/* --- while a Kafka topic is parked --------------------------------------------------------------
 */

/* kafka_topic was parked by an earlier process: a test message would be refused, and stop the
 * producer of all the others for it. */
static void test_a_parked_topic_gets_no_test_message(void **state)
{
    (void)state;
    char dir[SCRATCH_LEN];
    struct rig *g = refusing_disk_rig("mqtt", dir);
    rig_option(g, "spool_sync", "never");
    rig_start(g);
    rig_publish_to(g, "else", 10);
    rig_wait_for(info_of(g, 0).n_records == 10);
    rig_stop_workers(g, 100);
    rig_close(g);

    g->n_lines = 0;
    rig_option(g, "kafka_test_message", "true");
    rig_start(g);
    assert_true(info_of(g, 0).parked);
    rig_publish_to(g, "heat/a", 5);
    assert_true(rig_wait_delivered(g, 5, RIG_WAIT_MS));
    /* What is parked was tried, and refused; so would have been a test message long before. */
    const struct mm_metrics_worker *lane = mm_metrics_park(g->metrics, 0);
    rig_wait_for(mm_counter_get(&lane->retry_at_ms) != 0);
    const uint64_t first_try_ms = mm_counter_get(&lane->retry_at_ms);
    rig_wait_for(mm_counter_get(&lane->retry_at_ms) > first_try_ms);
    assert_false(rig_logged(g, "the test message was refused"));
    rig_refuse(g, "mqtt", GRANTED);
    assert_true(rig_wait_empty(g, RIG_WAIT_MS));
    const struct mm_metrics_worker *m = mm_metrics_worker(g->metrics, 0);
    assert_int_equal(mm_counter_get(&m->test_messages), 0);
    assert_int_equal(mm_counter_get(&m->producer_restarts), 0);
    check_topic(g, "mqtt", 10, "else");
    check_topic(g, "heat", 5, "heat/a");
    rig_end(g);
    assert_int_equal(scratch_remove(dir), 0);
}

/* Half as long again each time, from kafka_retry_interval on, and five minutes at most. */
static void test_tries_become_no_rarer_than_five_minutes(void **state)
{
    (void)state;
    uint64_t ms = mm_worker_longer_retry(0, 1000);
    assert_int_equal(ms, 1000);
    for (int i = 0; i < 14; i++) {
        uint64_t longer_ms = mm_worker_longer_retry(ms, 1000);
        assert_int_equal(longer_ms, ms * 3 / 2);
        ms = longer_ms;
    }
    assert_in_range(ms, 200001, 299999);
    for (int i = 0; i < 3; i++) {
        ms = mm_worker_longer_retry(ms, 1000);
        assert_int_equal(ms, 300000);
    }
    /* Who wants it rarer has it as rare, and no rarer. */
    assert_int_equal(mm_worker_longer_retry(0, 600000), 600000);
    assert_int_equal(mm_worker_longer_retry(600000, 600000), 600000);
    /* A new producer, a sync, a dead letter: 1, 2, 4 ... 30 s. */
    static const uint32_t pauses[] = {1, 2, 4, 8, 16, 30, 30};
    uint32_t seconds = 0;
    for (size_t i = 0; i < sizeof pauses / sizeof pauses[0]; i++) {
        seconds = mm_worker_longer_pause(seconds);
        assert_int_equal(seconds, pauses[i]);
    }
}

/* --- ages ---------------------------------------------------------------------------------------
 */

static void publish_aged(struct rig *g, int64_t age_s)
{
    struct mm_record r = {.type = MM_RECORD_MESSAGE, .topic = "t", .topic_len = 1};
    r.time_ms = (uint64_t)((int64_t)mm_clock_realtime_ms() - age_s * 1000);
    mm_counter_add(&mm_metrics_broker(g->metrics)->received[1], 1);
    assert_int_equal(mm_spool_append(g->spool, &r), 0);
}

/* Two of one request, which is refused for their time stamps. */
static void publish_refused_pair(struct rig *g, const int64_t ages_s[2])
{
    const struct mm_metrics_worker *m = mm_metrics_worker(g->metrics, 0);
    rig_publish_to(g, "t", 1);
    assert_true(rig_wait_delivered(g, 1, RIG_WAIT_MS)); /* so that they may go together */
    rd_kafka_mock_broker_set_down(g->cluster, 1);
    publish_aged(g, ages_s[0]);
    publish_aged(g, ages_s[1]);
    rig_wait_for(mm_counter_get(&m->in_flight) == 2);
    rd_kafka_mock_push_request_errors(g->cluster, API_PRODUCE, 1,
                                      RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP);
    rd_kafka_mock_broker_set_up(g->cluster, 1);
    assert_true(rig_wait_delivered(g, 3, RIG_WAIT_MS));
    assert_int_equal(rig_count_lines(g, "stamped with the time of its sending"), 1);
    assert_int_equal(rig_count_lines(g, "refuses messages"), 0);
}

/* The youngest of those that are refused for their age says what is too old, in whichever order
 * they are told. */
static void test_the_youngest_refused_age_counts(void **state)
{
    (void)state;
    static const int64_t pairs_s[][2] = {{7200, 3600}, {3600, 7200}};
    for (size_t i = 0; i < 2; i++) {
        struct rig *g = rig_new(1);
        faults.one_request = true;
        rig_start(g);
        const uint64_t start_ms = mm_clock_realtime_ms();
        publish_refused_pair(g, pairs_s[i]);
        publish_aged(g, 2400); /* more than half an hour, */
        publish_aged(g, 1200); /* ... and less */
        assert_true(rig_wait_delivered(g, 5, RIG_WAIT_MS));
        struct seen *seen = consume(g, "mqtt", 1);
        assert_int_equal(seen->n, 5);
        check_order(seen);
        const uint64_t now = mm_clock_realtime_ms();
        for (size_t k = 1; k < 4; k++) {
            assert_in_range(seen->message[k].time_ms, start_ms, now);
        }
        assert_in_range(seen->message[4].time_ms, start_ms - 1200000, now - 1200000);
        free(seen);
        rig_end(g);
    }
}

/* One that cannot be meant, as it is not old, was refused with one that is: it is sent again with
 * it, and Kafka's topic is not waited for. */
static void test_who_is_refused_with_an_old_one_goes_on_with_it(void **state)
{
    (void)state;
    static const int64_t ages_s[2] = {7200, -60};
    struct rig *g = rig_new(1);
    faults.one_request = true;
    rig_start(g);
    publish_refused_pair(g, ages_s);
    struct seen *seen = consume(g, "mqtt", 1);
    assert_int_equal(seen->n, 3);
    check_order(seen);
    free(seen);
    rig_end(g);
}

/* --- clients that hang --------------------------------------------------------------------------
 */

/* The client sends, and tells nothing of it, until it is given up: what it had is sent again. */
static void test_reports_that_never_come_make_repeats_of_the_same_id(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    rig_start(g);
    const struct mm_metrics_worker *m = mm_metrics_worker(g->metrics, 0);
    rig_publish_many(g, 10, 1);
    assert_true(rig_wait_empty(g, RIG_WAIT_MS));
    faults.mute = true;
    rig_publish_many(g, 10, 1);
    rig_wait_for(mm_counter_get(&m->in_flight) == 10);
    struct seen *seen = consume(g, "mqtt", 1);
    for (uint64_t end_ms = now_ms() + RIG_WAIT_MS; seen->n < 20 && now_ms() < end_ms;) {
        free(seen);
        seen = consume(g, "mqtt", 1);
    }
    assert_int_equal(seen->n, 20); /* Kafka has them */
    free(seen);
    assert_int_equal(rig_figures(g).delivered, 10);
    assert_true(rig_settle(g, 100, RIG_WAIT_MS));
    assert_int_equal(mm_counter_get(&m->in_flight), 0);
    assert_int_equal(rig_figures(g).in_spool, 10);
    faults.mute = false;
    rig_resume(g);
    assert_true(rig_wait_empty(g, RIG_WAIT_MS));
    assert_true(rig_logged(g, "10 messages were sent to Kafka without an answer"));
    assert_int_equal(mm_counter_get(&m->maybe_duplicated), 10);
    assert_int_equal(mm_counter_get(&m->retried), 10);
    assert_int_equal(rig_figures(g).delivered, 20);
    seen = consume(g, "mqtt", 1);
    assert_int_equal(seen->n, 30);
    for (size_t i = 0; i < 10; i++) {
        assert_string_equal(seen->message[10 + i].id, seen->message[20 + i].id);
    }
    free(seen);
    rig_end(g);
}

/* The same where drop_oldest has taken the place of what was in flight: that is dropped, as its
 * place is somebody else's by then, and is not sent again. */
static void test_reports_that_never_come_of_what_lost_its_place(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    rig_option(g, "spool_max_bytes", "512k");
    rig_option(g, "when_full", "drop_oldest");
    rig_start(g);
    const struct mm_metrics_worker *m = mm_metrics_worker(g->metrics, 0);
    rig_publish_many(g, 10, 1);
    assert_true(rig_wait_empty(g, RIG_WAIT_MS));
    faults.mute = true;
    rig_publish_many(g, 10, 1);
    rig_wait_for(mm_counter_get(&m->in_flight) == 10);
    static const char payload[8000];
    for (int i = 0; i < 200; i++) {
        while (rig_publish(g, "t", payload, sizeof payload) != 0) {
            sleep_ms(1);
        }
    }
    assert_true(rig_settle(g, 100, RIG_WAIT_MS));
    /* The ten, at least, and of the large ones those that there is no room for. */
    assert_in_range(rig_figures(g).dropped, 10 + 200 - 512 * 1024 / 8000, 209);
    faults.mute = false;
    rig_resume(g);
    assert_true(rig_wait_empty(g, RIG_WAIT_MS));
    struct mm_snapshot shot = rig_figures(g);
    assert_int_equal(shot.delivered + shot.dropped, 220);
    assert_int_equal(shot.ledger_difference, 0);
    struct seen *seen = consume(g, "mqtt", 1);
    size_t n_small = 0;
    for (size_t i = 0; i < seen->n; i++) {
        n_small += strncmp(seen->message[i].key, "plant/", 6) == 0;
    }
    assert_in_range(n_small, 10, 20); /* none was sent twice */
    assert_string_equal(seen->message[seen->n - 1].key, "t");
    free(seen);
    rig_end(g);
}

/* The client of one of the workers does not end: all wait for it, and none is lost or forgotten. */
static void test_one_worker_hangs_while_others_end(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    rig_option(g, "kafka_workers", "3");
    rig_start(g);
    rig_publish_many(g, 100, 10);
    assert_true(rig_wait_empty(g, RIG_WAIT_MS));
    faults.hang_only = "mm-worker-1";
    faults.hang_destroy = true;
    assert_false(rig_settle(g, 100, 500));
    rig_wait_for(faults.n_hanging == 1);
    assert_false(mm_sender_await(g->sender, 100));
    rig_publish_many(g, 100, 10);
    faults.hang_destroy = false;
    assert_true(mm_sender_await(g->sender, RIG_WAIT_MS));
    rig_resume(g);
    assert_true(rig_wait_empty(g, RIG_WAIT_MS));
    check_all_there(g, 1);

    faults.hang_only = "mm-worker-0";
    faults.hang_destroy = true;
    mm_sender_stop(g->sender, 100);
    assert_false(mm_sender_join(g->sender, 500));
    rig_wait_for(faults.n_hanging == 1);
    assert_false(mm_sender_join(g->sender, 100));
    faults.hang_destroy = false;
    assert_true(mm_sender_join(g->sender, RIG_WAIT_MS));
    assert_int_equal(rig_figures(g).ledger_difference, 0);
    rig_free(g);
}

/* A test topic that does not exist is told, and all messages go on. */
static void test_a_refused_test_message_is_told(void **state)
{
    (void)state;
    struct rig *g = refusing_rig("probe");
    rig_option(g, "kafka_test_message", "true");
    rig_option(g, "kafka_test_topic", "probe");
    rig_start(g);
    rig_publish_to(g, "else", 20);
    rig_wait_for(rig_logged(g, "the test message was refused: UNKNOWN_TOPIC_OR_PART"));
    rig_publish_to(g, "heat/a", 20);
    assert_true(rig_wait_empty(g, RIG_WAIT_MS));
    assert_int_equal(mm_counter_get(&mm_metrics_worker(g->metrics, 0)->test_messages), 0);
    assert_int_equal(rig_figures(g).delivered, 40);
    check_topic(g, "mqtt", 20, "else");
    check_topic(g, "heat", 20, "heat/a");
    rig_end(g);
}

/* A test message that was taken back, as the settings changed before Kafka was there, is sent by
 * the next client: once. */
static void test_a_test_message_is_sent_again(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    rig_option(g, "kafka_test_message", "true");
    rd_kafka_mock_broker_set_down(g->cluster, 1);
    rig_start(g);
    const struct mm_metrics_worker *m = mm_metrics_worker(g->metrics, 0);
    rig_publish_to(g, "else", 5);
    sleep_ms(300); /* the client has it by then, most likely */
    assert_true(rig_settle(g, 100, RIG_WAIT_MS));
    assert_int_equal(mm_counter_get(&m->test_messages), 0);
    rd_kafka_mock_broker_set_up(g->cluster, 1);
    rig_resume(g);
    rig_wait_for(mm_counter_get(&m->test_messages) == 1);
    assert_true(rig_wait_empty(g, RIG_WAIT_MS));
    struct seen *seen = consume(g, "mqtt", 1);
    assert_int_equal(seen->n, 6);
    size_t n_tests = 0;
    for (size_t i = 0; i < seen->n; i++) {
        n_tests += strcmp(seen->message[i].key, "test") == 0;
    }
    assert_int_equal(n_tests, 1);
    free(seen);
    rig_end(g);
}

/* A stop that has time for the next try of what is parked waits for it. */
static void test_a_stop_delivers_what_is_parked(void **state)
{
    (void)state;
    struct rig *g = refusing_rig("heat");
    rig_start(g);
    rig_publish_to(g, "heat/a", 10);
    rig_wait_for(info_of(g, LANE_HEAT).n_records == 10);
    rig_wait_for(info_of(g, LANE_HEAT).retry_at_ms != 0); /* its worker is there, and has tried */
    rig_refuse(g, "heat", GRANTED);
    rig_stop_workers(g, 15000);
    assert_int_equal(rig_figures(g).delivered, 10);
    assert_int_equal(rig_figures(g).in_spool, 0);
    check_topic(g, "heat", 10, "heat/a");
    rig_free(g);
}

/* Kafka refuses a record of a parked topic for what it is: a dead letter, and the others follow. */
static void test_poison_of_a_parked_topic_is_judged_alone(void **state)
{
    (void)state;
    struct rig *g = refusing_rig("heat");
    rig_start(g);
    rig_publish_to(g, "heat/a", 10);
    rig_wait_for(info_of(g, LANE_HEAT).n_records == 10);
    rd_kafka_mock_push_request_errors(g->cluster, API_PRODUCE, 2, RD_KAFKA_RESP_ERR_INVALID_RECORD,
                                      RD_KAFKA_RESP_ERR_INVALID_RECORD);
    rig_refuse(g, "heat", GRANTED);
    assert_true(rig_wait_empty(g, RIG_WAIT_MS));
    struct mm_snapshot shot = rig_figures(g);
    assert_int_equal(shot.dead_lettered, 1);
    assert_int_equal(shot.delivered, 9);
    check_topic(g, "heat", 9, "heat/a");
    rig_end(g);
}

/* Two Kafka topics are parked and the logs of both cannot be synced: each is copied again, whole
 * and by itself. */
static void test_two_topics_are_copied_again(void **state)
{
    (void)state;
    char dir[SCRATCH_LEN];
    struct rig *g = refusing_disk_rig("heat", dir);
    rig_refuse(g, "power", MISSING);
    rig_start(g);
    rig_publish_to(g, "heat/a", 1);
    rig_publish_to(g, "power/a", 1);
    rig_wait_for(info_of(g, LANE_HEAT).n_records == 1 && info_of(g, LANE_POWER).n_records == 1);
    rig_wait_for(faults.n_finished == 2);
    faults.park_sync_err = MM_EIO;
    for (int i = 0; i < 10; i++) {
        rig_publish_to(g, "heat/a", 1);
        rig_publish_to(g, "power/a", 1);
        rig_publish_to(g, "else", 1);
    }
    rig_wait_for(faults.n_park_faults >= 2);
    assert_true(rig_wait_delivered(g, 10, RIG_WAIT_MS)); /* they hold up nothing */
    assert_int_equal(faults.n_finished, 2);
    assert_int_equal(rig_figures(g).in_spool, 22);
    faults.park_sync_err = 0;
    rig_wait_for(faults.n_finished == 32);
    rig_refuse(g, "heat", GRANTED);
    rig_refuse(g, "power", GRANTED);
    assert_true(rig_wait_empty(g, RIG_WAIT_MS));
    assert_int_equal(rig_figures(g).delivered, 32);
    static const char *const topics[] = {"heat", "power"};
    for (size_t k = 0; k < 2; k++) {
        const uint32_t lane = k == 0 ? LANE_HEAT : LANE_POWER;
        uint64_t n_repeated = mm_counter_get(&mm_metrics_park(g->metrics, lane)->repeated);
        assert_true(n_repeated > 0);
        struct seen *seen = consume(g, topics[k], 1);
        assert_int_equal(seen->n, 11 + n_repeated);
        free(seen);
    }
    rig_end(g);
    assert_int_equal(scratch_remove(dir), 0);
}

/* --- dead letters -------------------------------------------------------------------------------
 */

/* What is too large to be kept is told, with a topic that is cut, not all of it. */
static void test_a_letter_that_is_not_kept_is_told(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    rig_option(g, "max_message_bytes", "2000");
    rig_start(g);
    char topic[201] = {0};
    memset(topic, 't', 200);
    static const char large[4000];
    faults.dead_err = MM_ETOOBIG;
    assert_int_equal(rig_publish(g, topic, large, sizeof large), 0);
    assert_true(rig_wait_empty(g, RIG_WAIT_MS));
    assert_int_equal(rig_figures(g).dead_lettered, 1);
    char quoted[140];
    snprintf(quoted, sizeof quoted, "\"%.128s\"", topic);
    assert_int_equal(rig_count_lines(g, quoted), 1);
    assert_true(rig_logged(g, "dead_letter_max_bytes is too little to keep it"));
    rig_end(g);
}

/* The disk does not give what is to become a dead letter: it becomes one when it does. */
static void test_a_letter_that_cannot_be_read_waits(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    rig_option(g, "max_message_bytes", "2000");
    rig_start(g);
    static const char large[4000];
    faults.bad_err = MM_EIO;
    faults.bad_seq = 1;
    assert_int_equal(rig_publish(g, "plant/0", large, sizeof large), 0);
    rig_publish_many(g, 10, 1);
    rig_wait_for(rig_logged(g, "cannot be put to the dead letters"));
    assert_int_equal(rig_figures(g).dead_lettered, 0);
    assert_int_equal(rig_figures(g).ledger_difference, 0);
    faults.bad_seq = 0;
    assert_true(rig_wait_empty(g, RIG_WAIT_MS));
    assert_int_equal(rig_figures(g).dead_lettered, 1);
    assert_int_equal(rig_figures(g).delivered, 10);
    check_all_there(g, 1);
    rig_end(g);
}

/* A damaged record is found out when a Kafka topic is to be parked, and its letter cannot be kept:
 * it stays until it can. */
static void test_a_damaged_record_waits_for_its_letter(void **state)
{
    (void)state;
    struct rig *g = refusing_rig("heat");
    faults.bad_err = MM_ECORRUPT;
    faults.bad_seq = 1;
    faults.dead_err = MM_EIO;
    rig_start(g);
    rig_publish_to(g, "heat/a", 5);
    rig_wait_for(faults.n_unburied > 0);
    assert_int_equal(rig_figures(g).dead_lettered, 0);
    assert_int_equal(rig_figures(g).in_spool, 5);
    faults.dead_err = 0;
    rig_refuse(g, "heat", GRANTED);
    assert_true(rig_wait_empty(g, RIG_WAIT_MS));
    assert_int_equal(rig_figures(g).dead_lettered, 1);
    assert_int_equal(rig_figures(g).delivered, 4);
    check_topic(g, "heat", 4, "heat/a");
    rig_end(g);
}

/* A record that no route takes is damaged when it is to be kept: it is told without what is lost.
 */
static void test_a_damaged_record_of_no_topic_is_a_letter(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    rig_option(g, "route", "t/# t.${topic[1]}");
    rig_option(g, "kafka_topic_allow", "t.o*");
    rig_start(g);
    faults.bad_err = MM_ECORRUPT;
    faults.bad_seq = 1;
    rig_publish_to(g, "t/a", 1); /* makes a name that is not allowed */
    rig_publish_to(g, "else", 5);
    assert_true(rig_wait_empty(g, RIG_WAIT_MS));
    assert_int_equal(rig_figures(g).dead_lettered, 1);
    assert_int_equal(rig_figures(g).delivered, 5);
    char *text;
    size_t len;
    assert_int_equal(mm_dead_list(g->dead, &text, &len), 0);
    assert_non_null(strstr(text, "\"kafka_topic\":\"\""));
    free(text);
    rig_end(g);
}

/* The client of a parked topic alone does not end: a change of the settings waits for it, and so
 * does a stop. */
static void test_the_client_of_a_parked_topic_hangs(void **state)
{
    (void)state;
    struct rig *g = refusing_rig("heat");
    rig_start(g);
    rig_publish_to(g, "heat/a", 10);
    rig_wait_for(info_of(g, LANE_HEAT).n_records == 10);
    const struct mm_metrics_worker *lane = mm_metrics_park(g->metrics, LANE_HEAT);
    faults.hang_only = "mm-parked";
    faults.hang_destroy = true;
    /* Its client is ended after each try that is refused. */
    rig_wait_for(faults.n_hanging == 1);
    assert_false(rig_settle(g, 100, 500));
    assert_false(mm_sender_await(g->sender, 100));
    faults.hang_destroy = false;
    assert_true(mm_sender_await(g->sender, RIG_WAIT_MS));
    rig_resume(g);
    faults.hang_destroy = true;
    rig_wait_for(faults.n_hanging == 1);
    mm_sender_stop(g->sender, 100);
    assert_false(mm_sender_join(g->sender, 500));
    faults.hang_destroy = false;
    assert_true(mm_sender_join(g->sender, RIG_WAIT_MS));
    assert_int_equal(mm_counter_get(&lane->delivered), 0);
    assert_int_equal(rig_figures(g).in_spool, 10);
    assert_int_equal(rig_figures(g).ledger_difference, 0);
    rig_free(g);
}

/* The client that judges suspects fails by itself: another one goes on judging. */
static void test_a_judge_that_dies_is_replaced(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    faults.one_request = true;
    rig_start(g);
    rig_publish_many(g, 10, 2);
    assert_true(rig_wait_empty(g, RIG_WAIT_MS));
    const struct mm_metrics_worker *m = mm_metrics_worker(g->metrics, 0);
    rd_kafka_mock_broker_set_down(g->cluster, 1);
    rig_publish_many(g, 20, 2);
    rig_wait_for(mm_counter_get(&m->in_flight) == 20);
    rd_kafka_mock_push_request_errors(g->cluster, API_PRODUCE, 2, RD_KAFKA_RESP_ERR_INVALID_RECORD,
                                      RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER);
    rd_kafka_mock_broker_set_up(g->cluster, 1);
    assert_true(rig_wait_empty(g, RIG_WAIT_MS));
    assert_int_equal(rig_figures(g).dead_lettered, 0);
    assert_int_equal(rig_figures(g).delivered, 30);
    assert_true(mm_counter_get(&m->producer_restarts) >= 1);
    check_all_there(g, 1);
    rig_end(g);
}

/* The settings change while a record that no route takes waits for its letter. */
static void test_a_record_of_no_topic_outlives_a_change(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    rig_option(g, "route", "t/# t.${topic[1]}");
    rig_option(g, "kafka_topic_allow", "t.o*");
    rig_start(g);
    faults.dead_err = MM_EIO;
    rig_publish_to(g, "t/a", 1);
    rig_wait_for(faults.n_unburied > 0);
    rig_publish_to(g, "else", 5);
    assert_true(rig_settle(g, 1000, RIG_WAIT_MS));
    assert_int_equal(rig_figures(g).dead_lettered, 0);
    rig_resume(g);
    faults.dead_err = 0;
    assert_true(rig_wait_empty(g, RIG_WAIT_MS));
    assert_int_equal(rig_figures(g).dead_lettered, 1);
    assert_int_equal(rig_figures(g).delivered, 5);
    check_topic(g, "mqtt", 5, "else");
    rig_end(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_damaged_record_is_not_parked),
        cmocka_unit_test(test_nothing_is_parked_for_a_damaged_record_alone),
        cmocka_unit_test(test_a_topic_is_parked_when_the_disk_reads_again),
        cmocka_unit_test(test_a_repeat_that_is_parked_is_counted_once),
        cmocka_unit_test(test_a_parked_topic_gets_no_test_message),
        cmocka_unit_test(test_tries_become_no_rarer_than_five_minutes),
        cmocka_unit_test(test_the_youngest_refused_age_counts),
        cmocka_unit_test(test_who_is_refused_with_an_old_one_goes_on_with_it),
        cmocka_unit_test(test_reports_that_never_come_make_repeats_of_the_same_id),
        cmocka_unit_test(test_reports_that_never_come_of_what_lost_its_place),
        cmocka_unit_test(test_one_worker_hangs_while_others_end),
        cmocka_unit_test(test_a_judge_that_dies_is_replaced),
        cmocka_unit_test(test_a_record_of_no_topic_outlives_a_change),
        cmocka_unit_test(test_a_refused_test_message_is_told),
        cmocka_unit_test(test_a_test_message_is_sent_again),
        cmocka_unit_test(test_a_stop_delivers_what_is_parked),
        cmocka_unit_test(test_poison_of_a_parked_topic_is_judged_alone),
        cmocka_unit_test(test_two_topics_are_copied_again),
        cmocka_unit_test(test_a_letter_that_is_not_kept_is_told),
        cmocka_unit_test(test_a_letter_that_cannot_be_read_waits),
        cmocka_unit_test(test_a_damaged_record_waits_for_its_letter),
        cmocka_unit_test(test_a_damaged_record_of_no_topic_is_a_letter),
        cmocka_unit_test(test_the_client_of_a_parked_topic_hangs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
