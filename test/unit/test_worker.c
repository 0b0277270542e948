/* The workers against a mock cluster; see rig.h. */
#include "rig.h"

#include "mm_clock.h"
#include "mm_error.h"
#include "mm_kafka.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void test_messages_arrive_with_key_value_and_id(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    rig_start(g);
    assert_int_equal(rig_publish(g, "a/b", "hello", 5), 0);
    assert_int_equal(rig_publish(g, "c", NULL, 0), 0);
    assert_true(rig_wait_empty(g, 10000));
    struct seen *seen = consume(g, "mqtt", 1);
    assert_int_equal(seen->n, 2);
    assert_string_equal(seen->message[0].key, "a/b");
    assert_string_equal(seen->message[0].value, "{\"Topic\":\"a/b\",\"Content\":\"aGVsbG8=\"}");
    char id[64];
    snprintf(id, sizeof id, "%s-1", mm_spool_uuid(g->spool));
    assert_string_equal(seen->message[0].id, id);
    assert_string_equal(seen->message[1].value, "{\"Topic\":\"c\",\"Content\":\"\"}");
    free(seen);
    struct mm_snapshot shot = rig_figures(g);
    assert_int_equal(shot.delivered, 2);
    assert_true(shot.healthy);
    rig_end(g);
}

static void test_several_workers_keep_the_order_of_each_topic(void **state)
{
    (void)state;
    struct rig *g = rig_new(4);
    rig_option(g, "kafka_workers", "3");
    rig_start(g);
    rig_publish_many(g, 3000, 30);
    assert_true(rig_wait_empty(g, 20000));
    check_all_there(g, 4);
    rig_end(g);
}

static void test_a_refused_topic_waits_and_is_tried_again(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    faults.one_request = true;
    rig_start(g);
    rig_publish_many(g, 100, 5);
    assert_true(rig_wait_empty(g, 10000));
    rd_kafka_mock_push_request_errors(g->cluster, API_PRODUCE, 2,
                                      RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
                                      RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED);
    uint64_t start = now_ms();
    rig_publish_many(g, 500, 5);
    assert_true(rig_wait_empty(g, 20000));
    assert_true(now_ms() - start >= 900); /* the retry timer, not a hot loop */
    assert_true(rig_logged(g, "TOPIC_AUTHORIZATION_FAILED"));
    struct mm_snapshot shot = rig_figures(g);
    assert_int_equal(shot.dead_lettered, 0);
    check_all_there(g, 1);
    rig_end(g);
}

static void test_neighbours_of_a_suspect_are_delivered(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    faults.one_request = true;
    rig_start(g);
    rig_publish_many(g, 50, 5);
    assert_true(rig_wait_empty(g, 10000));
    rd_kafka_mock_push_request_errors(g->cluster, API_PRODUCE, 1, RD_KAFKA_RESP_ERR_INVALID_RECORD);
    rig_publish_many(g, 500, 5);
    assert_true(rig_wait_empty(g, 20000));
    assert_int_equal(rig_figures(g).dead_lettered, 0);
    check_all_there(g, 1);
    /* And it goes on as before. */
    rig_publish_many(g, 100, 5);
    assert_true(rig_wait_empty(g, 10000));
    check_all_there(g, 1);
    rig_end(g);
}

static void test_who_fails_alone_too_is_a_dead_letter(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    faults.one_request = true;
    rig_start(g);
    rig_publish_many(g, 10, 1);
    assert_true(rig_wait_empty(g, 10000));
    /* The batch, then the first message that is sent alone. */
    rd_kafka_mock_push_request_errors(g->cluster, API_PRODUCE, 2, RD_KAFKA_RESP_ERR_INVALID_RECORD,
                                      RD_KAFKA_RESP_ERR_INVALID_RECORD);
    rig_publish_many(g, 20, 1);
    assert_true(rig_wait_empty(g, 20000));
    struct mm_snapshot shot = rig_figures(g);
    assert_in_range(shot.dead_lettered, 1, 2);
    assert_int_equal(shot.delivered, 30 - shot.dead_lettered);
    assert_int_equal(mm_lanes_n_delivered(g->lanes, 0), shot.delivered);
    struct mm_dead_stats dead;
    mm_dead_stats(g->dead, &dead);
    assert_int_equal(dead.n_letters, shot.dead_lettered);
    assert_true(rig_logged(g, "dead letter"));
    check_all_there(g, 1);
    rig_end(g);
}

/* A new producer has its first message in Kafka only after up to a second (librdkafka 2.8 and
 * later). So not each message that is refused may cost one. */
static void test_many_dead_letters_take_few_producers(void **state)
{
    (void)state;
    struct rig *g = rig_new(2);
    faults.one_request = true;
    rig_start(g);
    rig_publish_many(g, 10, 1);
    assert_true(rig_wait_empty(g, 10000));
    uint64_t n_before = faults.n_clients;
    /* All in one batch: it is refused, and then 40 of those that are sent alone. */
    rd_kafka_mock_broker_set_down(g->cluster, 1);
    rig_publish_many(g, 100, 1);
    sleep_ms(50);
    for (int i = 0; i < 41; i++) {
        rd_kafka_mock_push_request_errors(g->cluster, API_PRODUCE, 1,
                                          RD_KAFKA_RESP_ERR_INVALID_RECORD);
    }
    rd_kafka_mock_broker_set_up(g->cluster, 1);
    assert_true(rig_wait_empty(g, 60000));
    struct mm_snapshot shot = rig_figures(g);
    assert_int_equal(shot.dead_lettered, 40);
    assert_int_equal(shot.delivered, 70);
    /* The one that judges them, and the one that goes on. */
    assert_int_equal(faults.n_clients - n_before, 2);
    check_all_there(g, 2);
    /* The next one finds its judge there. */
    n_before = faults.n_clients;
    rd_kafka_mock_push_request_errors(g->cluster, API_PRODUCE, 2, RD_KAFKA_RESP_ERR_INVALID_RECORD,
                                      RD_KAFKA_RESP_ERR_INVALID_RECORD);
    rig_publish_many(g, 1, 1);
    assert_true(rig_wait_empty(g, 10000));
    assert_int_equal(rig_figures(g).dead_lettered, 41);
    rig_publish_many(g, 1, 1);
    assert_true(rig_wait_empty(g, 10000));
    assert_int_equal(faults.n_clients - n_before, 1);
    /* The judge has another epoch now, which its statistics show. That doubles nothing. */
    sleep_ms(2500);
    assert_false(rig_logged(g, "they may be there twice"));
    check_all_there(g, 2);
    rig_end(g);
}

/* The same where they fail one by one: the first one, which goes alone into a partition that the
 * producer is new to, and then all that come behind it. */
static void test_what_comes_behind_a_dead_letter_goes_alone_too(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    uint64_t n_before = faults.n_clients;
    rig_start(g);
    for (int i = 0; i < 31; i++) {
        rd_kafka_mock_push_request_errors(g->cluster, API_PRODUCE, 1,
                                          RD_KAFKA_RESP_ERR_INVALID_RECORD);
    }
    rig_publish_many(g, 100, 5);
    assert_true(rig_wait_empty(g, 60000));
    struct mm_snapshot shot = rig_figures(g);
    assert_int_equal(shot.dead_lettered, 30);
    assert_int_equal(shot.delivered, 70);
    assert_int_equal(faults.n_clients - n_before, 3); /* with the first one */
    check_all_there(g, 1);
    rig_end(g);
}

static void test_a_message_too_large_for_the_client_is_a_dead_letter_at_once(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    rig_option(g, "max_message_bytes", "2000");
    rig_start(g);
    rig_publish_many(g, 50, 1);
    char big[4000] = {0};
    assert_int_equal(rig_publish(g, "plant/0", big, sizeof big), 0);
    assert_int_equal(rig_publish(g, "plant/0", big, 1490), 0); /* the JSON around it is too much */
    rig_publish_many(g, 50, 1);
    assert_true(rig_wait_empty(g, 20000));
    struct mm_snapshot shot = rig_figures(g);
    assert_int_equal(shot.dead_lettered, 2);
    assert_int_equal(shot.delivered, 100);
    assert_int_equal(mm_counter_get(&mm_metrics_worker(g->metrics, 0)->producer_restarts), 0);
    check_all_there(g, 1);
    rig_end(g);
}

static void test_a_producer_that_dies_is_replaced(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    faults.one_request = true;
    rig_start(g);
    rig_publish_many(g, 50, 5);
    assert_true(rig_wait_empty(g, 10000));
    for (int i = 0; i < 3; i++) {
        rd_kafka_mock_push_request_errors(g->cluster, API_PRODUCE, 1,
                                          RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER);
        rig_publish_many(g, 300, 5);
        assert_true(rig_wait_empty(g, 20000));
    }
    assert_true(mm_counter_get(&mm_metrics_worker(g->metrics, 0)->producer_restarts) >= 3);
    assert_int_equal(rig_figures(g).dead_lettered, 0);
    check_all_there(g, 1);
    rig_end(g);
}

static void test_a_refused_producer_id_is_asked_for_again(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    rd_kafka_mock_push_request_errors(g->cluster, API_INIT_PRODUCER_ID, 1,
                                      RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED);
    rig_start(g);
    rig_publish_many(g, 50, 5);
    assert_true(rig_wait_empty(g, 20000));
    check_all_there(g, 1);
    rig_end(g);
}

/* The codes of the classes, each once: nothing is lost, nothing is twice, the order holds. */
static void test_every_kind_of_error_is_survived(void **state)
{
    (void)state;
    static const rd_kafka_resp_err_t errors[] = {
        RD_KAFKA_RESP_ERR_UNKNOWN,
        RD_KAFKA_RESP_ERR_INVALID_MSG,
        RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART,
        RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE,
        RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
        RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE,
        RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION,
        RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE,
        RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
        RD_KAFKA_RESP_ERR_INVALID_REQUIRED_ACKS,
        RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
        RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED,
        RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP,
        RD_KAFKA_RESP_ERR_UNSUPPORTED_FOR_MESSAGE_FORMAT,
        RD_KAFKA_RESP_ERR_POLICY_VIOLATION,
        RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER,
        RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH,
        RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR,
        RD_KAFKA_RESP_ERR_UNKNOWN_PRODUCER_ID,
        RD_KAFKA_RESP_ERR_INVALID_RECORD,
    };
    struct rig *g = rig_new(1);
    faults.one_request = true;
    rig_start(g);
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        rd_kafka_mock_push_request_errors(g->cluster, API_PRODUCE, 1, errors[i]);
        rig_publish_many(g, 60, 3);
        if (!rig_wait_empty(g, 20000)) {
            print_message("not drained after %s\n", rd_kafka_err2name(errors[i]));
            assert_true(false);
        }
    }
    assert_int_equal(rig_figures(g).dead_lettered, 0);
    check_all_there(g, 1);
    rig_end(g);
}

/* Kafka does not know the producer any more: the client takes another epoch, and says nothing. It
 * is found out by the statistics, once a second. */
static void test_a_new_epoch_is_told(void **state)
{
    (void)state;
    static const char told[] = "they may be there twice";
    struct rig *g = rig_new(1);
    faults.one_request = true;
    rig_start(g);
    rig_publish_many(g, 60, 3);
    assert_true(rig_wait_empty(g, 20000));
    sleep_ms(2500);
    assert_false(rig_logged(g, told));
    for (int n = 0; n < 20 && !rig_logged(g, told); n++) {
        rd_kafka_mock_push_request_errors(g->cluster, API_PRODUCE, 1,
                                          RD_KAFKA_RESP_ERR_UNKNOWN_PRODUCER_ID);
        rig_publish_many(g, 60, 3);
        assert_true(rig_wait_empty(g, 20000));
        sleep_ms(1500);
    }
    assert_true(rig_logged(g, told));
    check_all_there(g, 1);
    rig_end(g);
}

static void test_an_outage_loses_and_doubles_nothing(void **state)
{
    (void)state;
    struct rig *g = rig_new(2);
    rig_option(g, "kafka_workers", "2");
    rig_start(g);
    rig_publish_many(g, 200, 10);
    assert_true(rig_wait_empty(g, 10000));
    assert_true(rig_figures(g).healthy);
    rd_kafka_mock_broker_set_down(g->cluster, 1);
    rig_publish_many(g, 1000, 10);
    uint64_t end = now_ms() + 10000;
    struct mm_snapshot shot = rig_figures(g);
    while ((shot.healthy || shot.oldest_ms == 0) && now_ms() < end) {
        sleep_ms(10);
        shot = rig_figures(g);
    }
    assert_false(shot.healthy);
    assert_true(shot.ready);
    assert_true(shot.live);
    assert_int_equal(shot.in_spool, 1000);
    assert_int_equal(shot.ledger_difference, 0);
    assert_true(shot.oldest_ms > 0);
    rd_kafka_mock_broker_set_up(g->cluster, 1);
    uint64_t start = now_ms();
    assert_true(rig_wait_empty(g, 20000));
    print_message("drained %llu ms after the return\n", (unsigned long long)(now_ms() - start));
    end = now_ms() + 5000;
    while (!rig_figures(g).healthy && now_ms() < end) {
        sleep_ms(10);
    }
    assert_true(rig_figures(g).healthy);
    check_all_there(g, 2);
    rig_end(g);
}

static void test_drop_oldest_keeps_the_newest(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    rig_option(g, "spool_max_bytes", "1M");
    rig_option(g, "when_full", "drop_oldest");
    rig_start(g);
    rd_kafka_mock_broker_set_down(g->cluster, 1);
    static char payload[8000];
    uint64_t refused = 0;
    for (int i = 0; i < 2000; i++) {
        snprintf(payload, sizeof payload, "%d", i);
        while (rig_publish(g, "t", payload, sizeof payload) != 0) {
            refused++;
            sleep_ms(1);
        }
    }
    /* What the client had in its hands is delivered, and the newest; what was between is dropped.
     */
    rd_kafka_mock_broker_set_up(g->cluster, 1);
    assert_true(rig_wait_empty(g, 30000));
    struct mm_snapshot shot = rig_figures(g);
    assert_int_equal(shot.delivered + shot.dropped, 2000);
    assert_true(shot.dropped > 1000);
    assert_int_equal(shot.ledger_difference, 0);
    assert_true(rig_logged(g, "drop_oldest"));
    print_message("%llu delivered, %llu dropped, %llu tries were refused\n",
                  (unsigned long long)shot.delivered, (unsigned long long)shot.dropped,
                  (unsigned long long)refused);
    /* The mock cluster keeps the last 5 MiB only. */
    struct seen *seen = consume(g, "mqtt", 1);
    assert_true(seen->n > 10 && seen->n <= shot.delivered);
    check_order(seen);
    assert_int_equal(strtoul(strrchr(seen->message[seen->n - 1].id, '-') + 1, NULL, 10), 2000);
    free(seen);
    rig_end(g);
}

static void test_a_stop_without_kafka_ends_in_time_and_counts_what_is_left(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    g->options[0].value = "127.0.0.1:1";
    rig_option(g, "kafka_workers", "4");
    rig_start(g);
    rig_publish_many(g, 1000, 10);
    sleep_ms(300);
    uint64_t took = rig_stop_workers(g, 1000);
    print_message("stopped in %llu ms\n", (unsigned long long)took);
    assert_true(took < 5000);
    struct mm_snapshot shot = rig_figures(g);
    assert_int_equal(shot.in_spool, 1000);
    assert_int_equal(shot.delivered, 0);
    assert_int_equal(shot.ledger_difference, 0);
    rig_free(g);
}

static void test_a_stop_delivers_what_is_left(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    rig_start(g);
    rig_publish_many(g, 2000, 10);
    rig_stop_workers(g, 10000);
    assert_int_equal(rig_figures(g).in_spool, 0);
    check_all_there(g, 1);
    rig_free(g);
}

static void test_the_test_message_is_written_by_each_worker(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    rig_option(g, "kafka_workers", "3");
    rig_option(g, "kafka_test_message", "true");
    rig_start(g);
    uint64_t end = now_ms() + 10000;
    uint64_t n = 0;
    while (n < 3 && now_ms() < end) {
        n = 0;
        for (uint32_t k = 0; k < 3; k++) {
            n += mm_counter_get(&mm_metrics_worker(g->metrics, k)->test_messages);
        }
        sleep_ms(5);
    }
    assert_int_equal(n, 3);
    struct seen *seen = consume(g, "mqtt", 1);
    assert_int_equal(seen->n, 3);
    assert_string_equal(seen->message[0].value,
                        "{\"Topic\":\"test\",\"Content\":\"SnVzdCBhIHRlc3Q=\"}");
    assert_int_equal(rig_figures(g).delivered, 0); /* no MQTT message */
    free(seen);
    rig_end(g);
}

/* A Kafka topic of its own gets one of another text, from the first worker alone. */
static void test_a_test_message_of_its_own_topic(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    rig_topic(g, "probe");
    rig_option(g, "kafka_workers", "2");
    rig_option(g, "kafka_test_message", "true");
    rig_option(g, "kafka_test_topic", "probe");
    rig_start(g);
    const uint64_t end = now_ms() + 10000;
    while (mm_counter_get(&mm_metrics_worker(g->metrics, 0)->test_messages) == 0 &&
           now_ms() < end) {
        sleep_ms(5);
    }
    rig_publish_many(g, 20, 10);
    assert_true(rig_wait_empty(g, 10000)); /* both workers reach Kafka */
    rig_stop_workers(g, 5000);
    assert_int_equal(mm_counter_get(&mm_metrics_worker(g->metrics, 1)->test_messages), 0);
    struct seen *seen = consume(g, "probe", 1);
    assert_int_equal(seen->n, 1);
    assert_string_equal(seen->message[0].key, "test");
    free(seen);
    rig_free(g);
}

/* Kafka takes any first number of a producer that it does not know, so a second message on its way
 * behind a first that is refused for the moment would make librdkafka take the first for stored. */
static void test_a_cold_partition_gets_one_message_first(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    rd_kafka_mock_broker_set_rtt(g->cluster, 1, 400);
    rig_start(g);
    struct mm_metrics_worker *m = mm_metrics_worker(g->metrics, 0);
    uint64_t most_before = 0;
    uint64_t most_after = 0;
    uint64_t end = now_ms() + 20000;
    for (int i = 0; i < 40; i++) {
        assert_int_equal(rig_publish(g, i % 2 == 0 ? "a" : "b", "x", 1), 0);
    }
    while (rig_figures(g).in_spool > 0 && now_ms() < end) {
        uint64_t n = mm_counter_get(&m->in_flight);
        if (mm_counter_get(&m->delivered) == 0) {
            most_before = n > most_before ? n : most_before;
        } else {
            most_after = n > most_after ? n : most_after;
        }
        sleep_ms(2);
    }
    assert_true(rig_wait_empty(g, 1000));
    assert_int_equal(most_before, 1);
    assert_in_range(most_after, 10, 39); /* and then it is warm */
    rig_end(g);
}

/* While a topic is refused: told, not healthy, tried once an interval and with one message. */
static void test_a_parked_topic_is_told_and_probed(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    faults.one_request = true;
    rig_start(g);
    rig_publish_many(g, 20, 2);
    assert_true(rig_wait_empty(g, 10000));
    rd_kafka_resp_err_t errors[3];
    for (int i = 0; i < 3; i++) {
        errors[i] = RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    }
    rd_kafka_mock_push_request_errors_array(g->cluster, API_PRODUCE, 3, errors);
    rig_publish_many(g, 500, 2);
    struct mm_metrics_worker *m = mm_metrics_worker(g->metrics, 0);
    bool parked = false;
    uint64_t most_probing = 0;
    uint64_t start = now_ms();
    while (rig_figures(g).in_spool > 0 && now_ms() - start < 20000) {
        if (mm_counter_get(&m->state) == MM_WORKER_PARKED) {
            parked = true;
            struct mm_snapshot shot = rig_figures(g);
            if (mm_counter_get(&m->state) == MM_WORKER_PARKED) {
                assert_false(shot.healthy);
                assert_true(shot.ready);
                assert_string_equal(shot.reason, "a Kafka topic is parked");
            }
            uint64_t n = mm_counter_get(&m->in_flight);
            most_probing = n > most_probing ? n : most_probing;
        }
        sleep_ms(1);
    }
    assert_true(parked);
    assert_in_range(most_probing, 0, 1);
    assert_true(now_ms() - start >= 1000); /* kafka_retry_interval */
    assert_true(rig_wait_empty(g, 1000));
    assert_true(rig_figures(g).healthy);
    check_all_there(g, 1);
    rig_end(g);
}

/* Connected, but no answer: after 10 s that is no health, and the log says what it is. */
static void test_a_cluster_that_confirms_nothing_is_not_healthy(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    rig_start(g);
    rig_publish_many(g, 20, 2);
    assert_true(rig_wait_empty(g, 10000));
    rd_kafka_mock_broker_set_rtt(g->cluster, 1, 14000);
    rig_publish_many(g, 20, 2);
    uint64_t end = now_ms() + 13000;
    while (rig_figures(g).healthy && now_ms() < end) {
        sleep_ms(20);
    }
    assert_false(rig_figures(g).healthy);
    assert_true(rig_logged(g, "has confirmed nothing for 10 s"));
    rd_kafka_mock_broker_set_rtt(g->cluster, 1, 0);
    assert_true(rig_wait_empty(g, 40000));
    rig_end(g);
}

/* Kafka refuses a whole batch for one time stamp far ahead: a clock that was set back meanwhile. */
static void test_a_time_in_the_future_is_clamped(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    rig_start(g);
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    uint64_t now = (uint64_t)t.tv_sec * 1000;
    struct mm_record r = {.type = MM_RECORD_MESSAGE, .topic = "t", .topic_len = 1};
    r.time_ms = now + 7200000;
    assert_int_equal(mm_spool_append(g->spool, &r), 0);
    r.time_ms = now - 7200000;
    assert_int_equal(mm_spool_append(g->spool, &r), 0);
    uint64_t end = now_ms() + 10000;
    while (rig_figures(g).delivered < 2 && now_ms() < end) {
        sleep_ms(5);
    }
    struct seen *seen = consume(g, "mqtt", 1);
    assert_int_equal(seen->n, 2);
    assert_in_range(seen->message[0].time_ms, now, now + 20000);
    assert_int_equal(seen->message[1].time_ms, now - 7200000);
    free(seen);
    rig_end(g);
}

/* As rig_wait_delivered(), where records were appended behind the rig's back. */
static bool wait_delivered(struct rig *g, uint64_t n, uint64_t timeout_ms)
{
    uint64_t end = now_ms() + timeout_ms;
    while (rig_figures(g).delivered < n && now_ms() < end) {
        sleep_ms(5);
    }
    return rig_figures(g).delivered == n;
}

/* The topic takes no time stamp as old as those of the backlog. */
static void test_a_time_too_old_becomes_the_present(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    rig_start(g);
    uint64_t now = mm_clock_realtime_ms();
    struct mm_record r = {.type = MM_RECORD_MESSAGE, .topic = "t", .topic_len = 1};
    rd_kafka_mock_push_request_errors(g->cluster, API_PRODUCE, 1,
                                      RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP);
    const uint64_t ages[] = {7200000, 7200000, 10000};
    for (size_t i = 0; i < 3; i++) {
        r.time_ms = now - ages[i];
        assert_int_equal(mm_spool_append(g->spool, &r), 0);
    }
    assert_true(wait_delivered(g, 3, 8000)); /* the topic is not waited for: that takes 10 s */
    struct seen *seen = consume(g, "mqtt", 1);
    assert_int_equal(seen->n, 3);
    assert_in_range(seen->message[0].time_ms, now, now + 20000);
    assert_in_range(seen->message[1].time_ms, now, now + 20000);
    assert_int_equal(seen->message[2].time_ms, now - 10000); /* it is far younger */
    assert_true(rig_logged(g, "stamped with the time of its sending"));
    free(seen);
    rig_end(g);
}

/* A time stamp that is new is refused for another reason, and so is one that was renewed. */
static void test_a_wrong_time_for_no_age_waits(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    rig_start(g);
    /* A client that is new can take so long to send that a message is old by then. */
    assert_int_equal(rig_publish(g, "t", "x", 1), 0);
    assert_true(rig_wait_empty(g, 10000));
    for (uint64_t i = 0; i < 2; i++) {
        struct mm_record r = {.type = MM_RECORD_MESSAGE, .topic = "t", .topic_len = 1};
        r.time_ms = mm_clock_realtime_ms() - 7200000 * i;
        rd_kafka_mock_push_request_errors(g->cluster, API_PRODUCE, i + 1,
                                          RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP,
                                          RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP);
        assert_int_equal(mm_spool_append(g->spool, &r), 0);
        assert_true(wait_delivered(g, i + 2, 20000));
        assert_true(rig_count_lines(g, "refuses messages: INVALID_TIMESTAMP") > 0);
        assert_true(rig_count_lines(g, "stamped with the time of its sending") == i);
    }
    rig_end(g);
}

/* A new producer after a failure says nothing about the cluster: no alarm, no test message. */
static void test_a_new_producer_is_no_outage(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    rig_option(g, "kafka_test_message", "true");
    rig_start(g);
    rig_publish_many(g, 50, 5);
    assert_true(rig_wait_empty(g, 10000));
    rd_kafka_mock_push_request_errors(g->cluster, API_PRODUCE, 1, RD_KAFKA_RESP_ERR_INVALID_RECORD);
    rig_publish_many(g, 50, 5);
    assert_true(rig_wait_empty(g, 20000));
    assert_true(rig_figures(g).healthy);
    sleep_ms(1500); /* a page of statistics later */
    assert_true(rig_figures(g).healthy);
    assert_true(mm_counter_get(&mm_metrics_worker(g->metrics, 0)->producer_restarts) > 0);
    assert_false(rig_logged(g, "not reached"));
    assert_int_equal(mm_counter_get(&mm_metrics_worker(g->metrics, 0)->test_messages), 1);
    rig_end(g);
}

/* Each wake-up costs the broker's thread some 14 us. A worker whose topics are quiet must not ask
 * to be woken for the messages of the others. */
static void test_a_quiet_shard_costs_no_wakeups(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    rig_option(g, "kafka_workers", "5");
    rig_start(g);
    sleep_ms(500); /* all asleep */
    for (int i = 0; i < 1000; i++) {
        assert_int_equal(rig_publish(g, "one/topic", "x", 1), 0);
        sleep_ms(1);
    }
    struct mm_spool_stats stats;
    mm_spool_stats(g->spool, &stats);
    print_message("%llu wake-ups\n", (unsigned long long)stats.n_wakes);
    assert_in_range(stats.n_wakes, 1, 50);
    assert_true(rig_wait_empty(g, 10000));
    rig_end(g);
}

/* drop_oldest takes the place of records that the client has in its hands; when such a record is
 * then refused, it must not be read again. */
static void test_a_suspect_that_lost_its_place_is_dropped(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    rig_option(g, "spool_max_bytes", "512k");
    rig_option(g, "when_full", "drop_oldest");
    rig_start(g);
    rig_publish_many(g, 10, 1);
    assert_true(rig_wait_empty(g, 10000));
    rd_kafka_mock_broker_set_down(g->cluster, 1);
    static const char payload[8000];
    for (int i = 0; i < 400; i++) {
        while (rig_publish(g, "t", payload, sizeof payload) != 0) {
            sleep_ms(1);
        }
    }
    rd_kafka_mock_push_request_errors(
        g->cluster, API_PRODUCE, 6, RD_KAFKA_RESP_ERR_INVALID_RECORD,
        RD_KAFKA_RESP_ERR_INVALID_RECORD, RD_KAFKA_RESP_ERR_INVALID_RECORD,
        RD_KAFKA_RESP_ERR_INVALID_RECORD, RD_KAFKA_RESP_ERR_INVALID_RECORD,
        RD_KAFKA_RESP_ERR_INVALID_RECORD);
    rd_kafka_mock_broker_set_up(g->cluster, 1);
    assert_true(rig_wait_empty(g, 30000));
    struct mm_snapshot shot = rig_figures(g);
    assert_int_equal(shot.delivered + shot.dropped + shot.dead_lettered, 410);
    rig_end(g);
}

/* A disk that does not read is waited for; nothing is taken for damaged. */
/* The disk fails again and again, but not in a hot loop. */
static void check_disk_is_asked_calmly(void)
{
    const uint64_t begin = now_ms();
    do {
        sleep_ms(300);
    } while (faults.n_eio < 5 && now_ms() - begin < 10000);
    assert_in_range(faults.n_eio, 5, (now_ms() - begin) * 2 / 3);
}

static void test_a_record_that_cannot_be_read_waits(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    faults.one_request = true;
    rig_start(g);
    rig_publish_many(g, 50, 5);
    assert_true(rig_wait_empty(g, 10000));
    faults.read_eio = true;
    rig_publish_many(g, 50, 5);
    check_disk_is_asked_calmly();
    assert_int_equal(rig_figures(g).in_spool, 50);
    faults.read_eio = false;
    assert_true(rig_wait_empty(g, 10000));
    /* Those that are to be sent again are waited for too. */
    struct mm_metrics_worker *m = mm_metrics_worker(g->metrics, 0);
    rd_kafka_mock_broker_set_down(g->cluster, 1);
    rig_publish_many(g, 50, 5);
    uint64_t end = now_ms() + 10000;
    while (mm_counter_get(&m->in_flight) < 50 && now_ms() < end) {
        sleep_ms(1);
    }
    faults.read_eio = true;
    faults.n_eio = 0;
    rd_kafka_mock_push_request_errors(g->cluster, API_PRODUCE, 1, RD_KAFKA_RESP_ERR_INVALID_RECORD);
    rd_kafka_mock_broker_set_up(g->cluster, 1);
    end = now_ms() + 10000;
    while (mm_counter_get(&m->state) != MM_WORKER_SINGLE && now_ms() < end) {
        sleep_ms(1);
    }
    check_disk_is_asked_calmly();
    faults.read_eio = false;
    assert_true(rig_wait_empty(g, 20000));
    assert_int_equal(rig_figures(g).dead_lettered, 0);
    assert_true(rig_logged(g, "the spool cannot be read"));
    size_t n_lines = 0;
    for (size_t i = 0; i < g->n_lines; i++) {
        n_lines += strstr(g->lines[i], "the spool cannot be read") != NULL;
    }
    assert_int_equal(n_lines, 1);
    check_all_there(g, 1);
    rig_end(g);
}

static void test_a_record_of_an_unknown_type_is_a_dead_letter(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    rig_start(g);
    rig_publish_many(g, 10, 1);
    struct mm_record r = {.type = 77, .topic = "t", .topic_len = 1, .time_ms = 1};
    mm_counter_add(&mm_metrics_broker(g->metrics)->received[0], 1);
    assert_int_equal(mm_spool_append(g->spool, &r), 0);
    rig_publish_many(g, 10, 1);
    assert_true(rig_wait_empty(g, 10000));
    struct mm_snapshot shot = rig_figures(g);
    assert_int_equal(shot.dead_lettered, 1);
    assert_int_equal(shot.delivered, 20);
    struct mm_metrics_worker *m = mm_metrics_worker(g->metrics, 0);
    assert_int_equal(mm_counter_get(&m->dead_lettered[MM_DEAD_INVALID]), 1);
    assert_int_equal(mm_counter_get(&m->producer_restarts), 0);
    char *text;
    size_t len;
    assert_int_equal(mm_dead_list(g->dead, &text, &len), 0);
    assert_non_null(strstr(text, "\"reason\":\"unknown record type\""));
    free(text);
    rig_end(g);
}

/* A record that is a dead letter at once, whatever Kafka does. */
static void publish_unknown(struct rig *g, const char *topic)
{
    struct mm_record r = {.type = 77,
                          .topic = topic,
                          .topic_len = (uint16_t)strlen(topic),
                          .payload = "hello",
                          .payload_len = 5,
                          .time_ms = 1234567890123};
    mm_counter_add(&mm_metrics_broker(g->metrics)->received[0], 1);
    assert_int_equal(mm_spool_append(g->spool, &r), 0);
    g->n_appended++;
}

static bool wait_copies(struct rig *g, uint64_t n, uint64_t n_failed)
{
    const struct mm_metrics_worker *m = mm_metrics_worker(g->metrics, 0);
    for (uint64_t end = now_ms() + 15000; now_ms() < end; sleep_ms(5)) {
        if (mm_counter_get(&m->dead_copies) == n &&
            mm_counter_get(&m->dead_copies_failed) == n_failed) {
            return true;
        }
    }
    print_message("%llu copies, %llu failed\n", (unsigned long long)mm_counter_get(&m->dead_copies),
                  (unsigned long long)mm_counter_get(&m->dead_copies_failed));
    return false;
}

static void test_a_dead_letter_is_copied_to_its_topic(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    rig_topic(g, "dead");
    rig_option(g, "dead_letter_topic", "dead");
    rig_option(g, "max_message_bytes", "2000");
    faults.one_request = true;
    rig_start(g);
    rig_publish_many(g, 10, 1);
    assert_true(rig_wait_empty(g, 10000));
    publish_unknown(g, "a/b");
    assert_true(wait_copies(g, 1, 0));
    /* Refused in a batch, and by itself. */
    rd_kafka_mock_push_request_errors(g->cluster, API_PRODUCE, 2, RD_KAFKA_RESP_ERR_INVALID_RECORD,
                                      RD_KAFKA_RESP_ERR_INVALID_RECORD);
    assert_int_equal(rig_publish(g, "c", "x", 1), 0);
    assert_true(rig_wait_empty(g, 20000));
    assert_true(wait_copies(g, 2, 0));
    struct seen *seen = consume(g, "dead", 1);
    assert_int_equal(seen->n, 2);
    char id[64];
    snprintf(id, sizeof id, "%s-11", mm_spool_uuid(g->spool));
    assert_string_equal(seen->message[0].id, id);
    assert_string_equal(seen->message[0].key, "a/b");
    assert_string_equal(seen->message[0].value, "{\"Topic\":\"a/b\",\"Content\":\"aGVsbG8=\"}");
    assert_string_equal(seen->message[0].error, "UNKNOWN_RECORD_TYPE");
    assert_string_equal(seen->message[0].reason, "unknown record type");
    assert_string_equal(seen->message[0].kafka_topic, "mqtt");
    assert_int_equal(seen->message[0].time_ms, 1234567890123);
    assert_string_equal(seen->message[1].key, "c");
    assert_string_equal(seen->message[1].error, "INVALID_RECORD");
    free(seen);
    /* The client takes no copy either: the letter is in the log. */
    char big[4000] = {0};
    assert_int_equal(rig_publish(g, "c", big, sizeof big), 0);
    assert_int_equal(rig_publish(g, "c", big, 1490), 0); /* the JSON around it is too much */
    assert_true(rig_wait_empty(g, 20000));
    assert_true(wait_copies(g, 2, 2));
    struct mm_dead_stats dead;
    mm_dead_stats(g->dead, &dead);
    assert_int_equal(dead.n_letters, 4);
    assert_int_equal(rig_figures(g).dead_lettered, 4);
    check_all_there(g, 1);
    rig_end(g);
}

static void test_copies_that_are_refused_are_counted_and_hold_up_nothing(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    rig_topic(g, "dead");
    rig_refuse(g, "dead", RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART);
    rig_option(g, "rdkafka.topic.metadata.propagation.max.ms", "200");
    rig_option(g, "rdkafka.topic.metadata.refresh.interval.ms", "500");
    rig_option(g, "dead_letter_topic", "dead");
    faults.one_request = true;
    rig_start(g);
    rig_publish_many(g, 50, 1);
    assert_true(rig_wait_empty(g, 10000));
    publish_unknown(g, "a");
    assert_true(wait_copies(g, 0, 1)); /* by a report */
    for (int i = 0; i < 20; i++) {
        publish_unknown(g, "a");
        rig_publish_many(g, 20, 1);
    }
    assert_true(rig_wait_empty(g, 10000));
    assert_true(wait_copies(g, 0, 21)); /* now on the spot */
    struct mm_dead_stats dead;
    mm_dead_stats(g->dead, &dead);
    assert_int_equal(dead.n_letters, 21);
    struct mm_snapshot shot = rig_figures(g);
    assert_int_equal(shot.dead_lettered, 21);
    assert_int_equal(shot.delivered, 450);
    assert_int_equal(mm_counter_get(&mm_metrics_worker(g->metrics, 0)->producer_restarts), 0);
    assert_int_equal(
        rig_count_lines(g, "copy of a dead letter for Kafka topic dead (dead_letter_topic) failed"),
        1);
    assert_true(rig_logged(g, "UNKNOWN_TOPIC"));
    check_all_there(g, 1);
    /* What comes once the topic is there is copied, unless it is refused. */
    rig_refuse(g, "dead", RD_KAFKA_RESP_ERR_NO_ERROR);
    sleep_ms(2000);
    publish_unknown(g, "b");
    assert_true(wait_copies(g, 1, 21));
    rd_kafka_mock_push_request_errors(g->cluster, API_PRODUCE, 1,
                                      RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED);
    publish_unknown(g, "c");
    assert_true(wait_copies(g, 1, 22));
    sleep_ms(2000); /* until then the client takes the topic for one that it may not write to */
    publish_unknown(g, "d");
    assert_true(wait_copies(g, 2, 22));
    rig_end(g);
}

static void test_a_producer_of_copies_that_dies_is_replaced_later(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    rig_topic(g, "dead");
    rig_option(g, "dead_letter_topic", "dead");
    rig_start(g);
    rig_publish_many(g, 10, 1);
    assert_true(rig_wait_empty(g, 10000));
    rd_kafka_mock_push_request_errors(g->cluster, API_INIT_PRODUCER_ID, 1,
                                      RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED);
    publish_unknown(g, "a");
    assert_true(wait_copies(g, 0, 1));
    for (uint64_t end = now_ms() + 5000; !rig_logged(g, "producer for dead_letter_topic failed");) {
        assert_true(now_ms() < end);
        sleep_ms(5);
    }
    publish_unknown(g, "a");
    assert_true(wait_copies(g, 0, 2)); /* not at once */
    rig_publish_many(g, 10, 1);
    assert_true(rig_wait_empty(g, 10000));
    sleep_ms(5100);
    publish_unknown(g, "a");
    assert_true(wait_copies(g, 1, 2));
    struct mm_dead_stats dead;
    mm_dead_stats(g->dead, &dead);
    assert_int_equal(dead.n_letters, 3);
    assert_int_equal(mm_counter_get(&mm_metrics_worker(g->metrics, 0)->producer_restarts), 0);
    check_all_there(g, 1);
    rig_end(g);
}

/* A copy is made of what the log has, so that one letter is not copied again and again. */
static void test_a_letter_that_cannot_be_kept_is_not_copied(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    rig_topic(g, "dead");
    rig_option(g, "dead_letter_topic", "dead");
    rig_start(g);
    faults.dead_err = MM_EIO;
    publish_unknown(g, "a");
    sleep_ms(1500);
    assert_true(faults.n_unburied >= 2);
    assert_int_equal(rig_figures(g).in_spool, 1);
    assert_true(wait_copies(g, 0, 0));
    faults.dead_err = 0;
    assert_true(rig_wait_empty(g, 10000));
    assert_true(wait_copies(g, 1, 0));
    faults.dead_err = MM_ETOOBIG; /* it never will be kept: its copy is all there is */
    publish_unknown(g, "b");
    assert_true(rig_wait_empty(g, 10000));
    assert_true(wait_copies(g, 2, 0));
    check_topic(g, "dead", 2, "");
    rig_end(g);
}

static void test_a_stop_gives_copies_a_moment(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    rig_topic(g, "dead");
    rig_option(g, "dead_letter_topic", "dead");
    rig_start(g);
    publish_unknown(g, "a");
    assert_true(wait_copies(g, 1, 0));
    assert_int_equal(rd_kafka_mock_broker_set_rtt(g->cluster, 1, 400), 0);
    publish_unknown(g, "b");
    assert_true(rig_wait_empty(g, 10000));
    const struct mm_metrics_worker *m = mm_metrics_worker(g->metrics, 0);
    assert_int_equal(mm_counter_get(&m->dead_copies), 1);
    rig_stop_workers(g, 5000);
    assert_int_equal(mm_counter_get(&m->dead_copies), 2);
    assert_int_equal(mm_counter_get(&m->dead_copies_failed), 0);
    assert_int_equal(rd_kafka_mock_broker_set_rtt(g->cluster, 1, 0), 0);
    check_topic(g, "dead", 2, "");
    rig_free(g);
}

static void test_a_stop_does_not_wait_long_for_copies(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    rig_topic(g, "dead");
    rig_option(g, "dead_letter_topic", "dead");
    rig_start(g);
    rig_publish_many(g, 10, 1);
    assert_true(rig_wait_empty(g, 10000));
    assert_int_equal(rd_kafka_mock_broker_set_down(g->cluster, 1), 0);
    publish_unknown(g, "a");
    assert_true(rig_wait_empty(g, 10000));
    uint64_t took = rig_stop_workers(g, 5000);
    assert_in_range(took, 900, 3500);
    assert_true(wait_copies(g, 0, 1));
    assert_int_equal(rig_figures(g).dead_lettered, 1);
    assert_true(
        rig_logged(g, "copy of a dead letter for Kafka topic dead (dead_letter_topic) failed"));
    rig_free(g);
}

/* A record leaves the spool only when something else has it. */
static void test_a_dead_letter_that_cannot_be_kept_stays_in_the_spool(void **state)
{
    (void)state;
    static const int errors[] = {MM_ENOMEM, MM_EIO};
    struct rig *g = rig_new(1);
    rig_option(g, "max_message_bytes", "2000");
    rig_start(g);
    for (size_t i = 0; i < 2; i++) {
        faults.dead_err = errors[i];
        faults.n_unburied = 0;
        char big[4000] = {0};
        rig_publish_many(g, 20, 2);
        assert_int_equal(rig_publish(g, "plant/0", big, sizeof big), 0);
        rig_publish_many(g, 20, 2);
        for (int k = 0; k < 100 && faults.n_unburied < 2; k++) {
            sleep_ms(100);
        }
        sleep_ms(500);
        assert_in_range(faults.n_unburied, 2, 4); /* after 0, 1 and 2 s: tried again, later */
        struct mm_snapshot shot = rig_figures(g);
        assert_true(shot.in_spool >= 1);
        assert_int_equal(shot.dead_lettered, i);
        assert_int_equal(shot.ledger_difference, 0);
        assert_true(rig_logged(g, mm_strerror(errors[0])));
        faults.dead_err = 0;
        assert_true(rig_wait_empty(g, 10000));
        assert_int_equal(rig_figures(g).dead_lettered, i + 1);
    }
    /* What can never be kept does not stay for ever. */
    faults.dead_err = MM_ETOOBIG;
    char big[4000] = {0};
    assert_int_equal(rig_publish(g, "plant/0", big, sizeof big), 0);
    assert_true(rig_wait_empty(g, 10000));
    assert_int_equal(rig_figures(g).dead_lettered, 3);
    check_all_there(g, 1);
    rig_end(g);
}

static void test_what_an_earlier_process_counted_is_a_repeat(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    rig_option(g, "max_message_bytes", "2000");
    rig_start(g);
    struct mm_metrics_worker *m = mm_metrics_worker(g->metrics, 0);
    faults.n_repeat = 3;
    rig_publish_many(g, 10, 1);
    uint64_t end = now_ms() + 10000;
    while (mm_counter_get(&m->delivered) + mm_counter_get(&m->repeated) < 10 && now_ms() < end) {
        sleep_ms(1);
    }
    assert_int_equal(mm_counter_get(&m->repeated), 3);
    assert_int_equal(mm_counter_get(&m->delivered), 7);
    assert_int_equal(faults.n_repeat, 0);
    /* A dead letter too may have been one. */
    faults.n_repeat = 1;
    char big[4000] = {0};
    assert_int_equal(rig_publish(g, "plant/0", big, sizeof big), 0);
    while (mm_counter_get(&m->repeated) < 4 && now_ms() < end) {
        sleep_ms(1);
    }
    assert_int_equal(mm_counter_get(&m->repeated), 4);
    assert_int_equal(rig_figures(g).dead_lettered, 0);
    rig_stop_workers(g, 5000);
    assert_int_equal(faults.n_finished, 11);
    assert_int_equal(faults.n_ahead, 0);
    rig_free(g);
}

static void test_routes_lead_to_their_topics(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    assert_int_equal(rd_kafka_mock_topic_create(g->cluster, "heat", 1, 1), 0);
    assert_int_equal(rd_kafka_mock_topic_create(g->cluster, "power", 1, 1), 0);
    rig_option(g, "route", "heat/#,warmth/# heat");
    rig_option(g, "route", "power/+ power");
    rig_start(g);
    for (int i = 0; i < 20; i++) {
        rig_publish_to(g, "heat/a", 1);
        rig_publish_to(g, "power/a", 2);
        rig_publish_to(g, "else", 3);
    }
    assert_true(rig_wait_empty(g, 10000));
    check_topic(g, "heat", 20, "heat/a");
    check_topic(g, "power", 40, "power/a");
    check_topic(g, "mqtt", 60, "else");
    rig_end(g);
}

/* A Kafka topic whose partitions are not known holds up its own messages only. */
static void test_a_topic_that_is_not_found_yet_holds_up_no_other(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    assert_int_equal(rd_kafka_mock_topic_create(g->cluster, "later", 1, 1), 0);
    rd_kafka_mock_topic_set_error(g->cluster, "later", RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART);
    rig_option(g, "route", "later/# later");
    rig_start(g);
    rig_publish_to(g, "warm", 1);
    assert_true(rig_wait_empty(g, 10000));
    for (int i = 0; i < 10; i++) {
        rig_publish_to(g, "later/a", 2);
        rig_publish_to(g, "now", 10);
    }
    assert_true(rig_wait_delivered(g, 101, RIG_WAIT_MS));
    struct mm_snapshot shot = rig_figures(g);
    assert_int_equal(shot.in_spool, 20);
    assert_int_equal(shot.ledger_difference, 0);
    sleep_ms(50);
    assert_int_equal(faults.n_finished, 1);
    assert_int_equal(faults.n_ahead, 100);
    rd_kafka_mock_topic_set_error(g->cluster, "later", RD_KAFKA_RESP_ERR_NO_ERROR);
    assert_true(rig_wait_empty(g, 20000));
    assert_int_equal(faults.n_finished, 121);
    assert_int_equal(faults.n_ahead, 0);
    check_topic(g, "later", 20, "later/a");
    check_topic(g, "mqtt", 101, "");
    rig_end(g);
}

static void test_a_setting_that_librdkafka_refuses_is_named(void **state)
{
    (void)state;
    char name[] = "no.such.thing";
    char value[] = "1";
    char bootstrap[] = "127.0.0.1:1";
    struct mm_config_property property = {.name = name, .value = value};
    struct mm_config config = {
        .kafka_bootstrap = bootstrap, .properties = &property, .n_properties = 1};
    struct mm_kafka_options opts = {.config = &config};
    struct mm_kafka *k;
    char errstr[256];
    assert_int_equal(mm_kafka_new(&opts, &k, errstr, sizeof errstr), MM_EKAFKA);
    assert_null(k);
    assert_non_null(strstr(errstr, "rdkafka.no.such.thing"));
    mm_kafka_close(NULL, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_messages_arrive_with_key_value_and_id),
        cmocka_unit_test(test_several_workers_keep_the_order_of_each_topic),
        cmocka_unit_test(test_a_refused_topic_waits_and_is_tried_again),
        cmocka_unit_test(test_neighbours_of_a_suspect_are_delivered),
        cmocka_unit_test(test_many_dead_letters_take_few_producers),
        cmocka_unit_test(test_what_comes_behind_a_dead_letter_goes_alone_too),
        cmocka_unit_test(test_who_fails_alone_too_is_a_dead_letter),
        cmocka_unit_test(test_a_message_too_large_for_the_client_is_a_dead_letter_at_once),
        cmocka_unit_test(test_a_producer_that_dies_is_replaced),
        cmocka_unit_test(test_a_refused_producer_id_is_asked_for_again),
        cmocka_unit_test(test_every_kind_of_error_is_survived),
        cmocka_unit_test(test_a_new_epoch_is_told),
        cmocka_unit_test(test_an_outage_loses_and_doubles_nothing),
        cmocka_unit_test(test_drop_oldest_keeps_the_newest),
        cmocka_unit_test(test_a_stop_without_kafka_ends_in_time_and_counts_what_is_left),
        cmocka_unit_test(test_a_stop_delivers_what_is_left),
        cmocka_unit_test(test_the_test_message_is_written_by_each_worker),
        cmocka_unit_test(test_a_test_message_of_its_own_topic),
        cmocka_unit_test(test_a_cold_partition_gets_one_message_first),
        cmocka_unit_test(test_a_parked_topic_is_told_and_probed),
        cmocka_unit_test(test_a_cluster_that_confirms_nothing_is_not_healthy),
        cmocka_unit_test(test_a_time_in_the_future_is_clamped),
        cmocka_unit_test(test_a_time_too_old_becomes_the_present),
        cmocka_unit_test(test_a_wrong_time_for_no_age_waits),
        cmocka_unit_test(test_a_new_producer_is_no_outage),
        cmocka_unit_test(test_a_quiet_shard_costs_no_wakeups),
        cmocka_unit_test(test_a_suspect_that_lost_its_place_is_dropped),
        cmocka_unit_test(test_a_record_that_cannot_be_read_waits),
        cmocka_unit_test(test_a_record_of_an_unknown_type_is_a_dead_letter),
        cmocka_unit_test(test_a_dead_letter_is_copied_to_its_topic),
        cmocka_unit_test(test_copies_that_are_refused_are_counted_and_hold_up_nothing),
        cmocka_unit_test(test_a_producer_of_copies_that_dies_is_replaced_later),
        cmocka_unit_test(test_a_letter_that_cannot_be_kept_is_not_copied),
        cmocka_unit_test(test_a_stop_gives_copies_a_moment),
        cmocka_unit_test(test_a_stop_does_not_wait_long_for_copies),
        cmocka_unit_test(test_a_dead_letter_that_cannot_be_kept_stays_in_the_spool),
        cmocka_unit_test(test_what_an_earlier_process_counted_is_a_repeat),
        cmocka_unit_test(test_routes_lead_to_their_topics),
        cmocka_unit_test(test_a_topic_that_is_not_found_yet_holds_up_no_other),
        cmocka_unit_test(test_a_setting_that_librdkafka_refuses_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
