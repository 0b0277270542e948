/* The workers against librdkafka's mock cluster: real producers, a real protocol, errors on demand.
 */
#include "mm_config.h"
#include "mm_dead.h"
#include "mm_error.h"
#include "mm_format.h"
#include "mm_kafka.h"
#include "mm_log.h"
#include "mm_metrics.h"
#include "mm_spool.h"
#include "mm_worker.h"

#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define API_PRODUCE 0
#define API_INIT_PRODUCER_ID 22
#define MAX_OPTIONS 12
#define MAX_MESSAGES 4000

/* One mock cluster and what stands in the broker's process in front of it. */
struct rig
{
    rd_kafka_t *host;
    rd_kafka_mock_cluster_t *cluster;
    char bootstrap[256];
    struct mm_option options[MAX_OPTIONS];
    size_t n_options;

    struct mm_config *config;
    struct mm_log *log;
    struct mm_format *format;
    struct mm_spool *spool;
    struct mm_metrics *metrics;
    struct mm_dead *dead;
    struct mm_worker *workers[8];
    char lines[200][MM_LOG_LINE_LEN];
    size_t n_lines;
    uint64_t n_appended;
};

static uint64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void sleep_ms(long ms)
{
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

static void rig_option(struct rig *g, const char *name, const char *value)
{
    assert_true(g->n_options < MAX_OPTIONS);
    g->options[g->n_options++] = (struct mm_option){name, value};
}

static struct rig *rig_new(int n_partitions)
{
    struct rig *g = calloc(1, sizeof *g);
    assert_non_null(g);
    char errstr[256];
    g->host = rd_kafka_new(RD_KAFKA_PRODUCER, rd_kafka_conf_new(), errstr, sizeof errstr);
    assert_non_null(g->host);
    g->cluster = rd_kafka_mock_cluster_new(g->host, 1);
    assert_non_null(g->cluster);
    assert_int_equal(rd_kafka_mock_topic_create(g->cluster, "mqtt", n_partitions, 1), 0);
    snprintf(g->bootstrap, sizeof g->bootstrap, "%s", rd_kafka_mock_cluster_bootstraps(g->cluster));
    rig_option(g, "kafka_broker", g->bootstrap);
    rig_option(g, "log_level", "debug");
    rig_option(g, "kafka_retry_interval", "1");
    return g;
}

static void report(void *arg, enum mm_log_level level, const char *line)
{
    (void)arg;
    if (level >= MM_LOG_WARN) {
        print_message("%s\n", line);
    }
}

static void rig_start(struct rig *g)
{
    struct mm_config_source source = {
        .options = g->options, .n_options = g->n_options, .report = report};
    char errstr[256] = "";
    assert_int_equal(mm_config_new(&source, &g->config), 0);
    struct mm_spool_options spool = {
        .max_bytes = g->config->spool_max_bytes,
        .n_readers = g->config->kafka_workers,
        .drop_oldest = g->config->when_full == MM_WHEN_FULL_DROP_OLDEST};
    struct mm_metrics_info info = {.version = "test",
                                   .librdkafka = mm_kafka_version(),
                                   .mosquitto = "none",
                                   .n_workers = g->config->kafka_workers};
    assert_int_equal(mm_log_new(g->config->log_level, &g->log), 0);
    assert_int_equal(mm_format_new("Topic", "Content", &g->format), 0);
    assert_int_equal(mm_spool_open(&spool, &g->spool, errstr, sizeof errstr), 0);
    assert_int_equal(mm_metrics_new(&info, &g->metrics), 0);
    assert_int_equal(mm_dead_new(1 << 20, mm_spool_uuid(g->spool), &g->dead), 0);
    for (uint32_t k = 0; k < g->config->kafka_workers; k++) {
        struct mm_worker_options opts = {.index = k,
                                         .config = g->config,
                                         .format = g->format,
                                         .spool = g->spool,
                                         .metrics = mm_metrics_worker(g->metrics, k),
                                         .dead = g->dead,
                                         .log = g->log};
        int err = mm_worker_start(&opts, &g->workers[k], errstr, sizeof errstr);
        if (err != 0) {
            print_message("%s\n", errstr);
        }
        assert_int_equal(err, 0);
    }
}

static void keep_line(void *arg, enum mm_log_level level, const char *line)
{
    struct rig *g = arg;
    if (level >= MM_LOG_INFO && g->n_lines < 200) {
        snprintf(g->lines[g->n_lines++], MM_LOG_LINE_LEN, "%s", line);
    }
}

static bool rig_logged(struct rig *g, const char *text)
{
    mm_log_drain(g->log, keep_line, g);
    for (size_t i = 0; i < g->n_lines; i++) {
        if (strstr(g->lines[i], text) != NULL) {
            return true;
        }
    }
    return false;
}

static struct mm_snapshot rig_figures(struct rig *g)
{
    struct mm_snapshot shot;
    mm_metrics_snapshot(g->metrics, g->spool, &shot);
    return shot;
}

/* What the broker thread does for each message. */
static int rig_publish(struct rig *g, const char *topic, const void *payload, size_t payload_len)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    struct mm_record r = {
        .time_ms = (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000,
        .type = MM_RECORD_MESSAGE,
        .topic = topic,
        .topic_len = (uint16_t)strlen(topic),
        .payload = payload,
        .payload_len = (uint32_t)payload_len,
    };
    struct mm_metrics_broker *b = mm_metrics_broker(g->metrics);
    mm_counter_add(&b->received[1], 1);
    int err = mm_spool_append(g->spool, &r);
    if (err != 0) {
        mm_counter_add(&b->refused[MM_REFUSED_FULL], 1);
    } else {
        g->n_appended++;
    }
    return err;
}

/* n messages "<number>" over so many topics. */
static void rig_publish_many(struct rig *g, uint32_t n, uint32_t n_topics)
{
    static uint32_t number;
    for (uint32_t i = 0; i < n; i++) {
        char topic[32];
        char payload[32];
        snprintf(topic, sizeof topic, "plant/%u", number % n_topics);
        snprintf(payload, sizeof payload, "%010u", number++);
        assert_int_equal(rig_publish(g, topic, payload, strlen(payload)), 0);
    }
}

/* Until nothing is in the spool; false after timeout_ms. */
static bool rig_wait_empty(struct rig *g, uint64_t timeout_ms)
{
    uint64_t end = now_ms() + timeout_ms;
    while (now_ms() < end) {
        struct mm_snapshot shot = rig_figures(g);
        if (shot.in_spool == 0 && shot.ledger_difference == 0) {
            return true;
        }
        sleep_ms(5);
    }
    return false;
}

/* Returns the ms that the stop took. */
static uint64_t rig_stop_workers(struct rig *g, uint32_t drain_ms)
{
    uint64_t start = now_ms();
    for (uint32_t k = 0; k < g->config->kafka_workers; k++) {
        mm_worker_stop(g->workers[k], drain_ms);
    }
    mm_spool_wake(g->spool);
    for (uint32_t k = 0; k < g->config->kafka_workers; k++) {
        assert_true(mm_worker_join(g->workers[k], 20000));
    }
    return now_ms() - start;
}

static void rig_free(struct rig *g)
{
    (void)rig_logged(g, "");
    mm_dead_free(g->dead);
    mm_spool_close(g->spool);
    mm_format_free(g->format);
    mm_metrics_free(g->metrics);
    mm_log_free(g->log);
    mm_config_free(g->config);
    rd_kafka_mock_cluster_destroy(g->cluster);
    rd_kafka_destroy(g->host);
    free(g);
}

/* --- reading back -------------------------------------------------------------------------------
 */

struct seen
{
    size_t n;
    struct
    {
        char key[64];
        char value[256];
        char id[64];
        int64_t time_ms;
    } message[MAX_MESSAGES];
};

static void remember(struct seen *seen, const rd_kafka_message_t *m)
{
    assert_true(seen->n < MAX_MESSAGES);
    snprintf(seen->message[seen->n].key, 64, "%.*s", (int)m->key_len, (const char *)m->key);
    snprintf(seen->message[seen->n].value, 256, "%.*s", (int)m->len, (const char *)m->payload);
    seen->message[seen->n].time_ms = rd_kafka_message_timestamp(m, NULL);
    rd_kafka_headers_t *headers;
    const void *id;
    size_t id_len;
    if (rd_kafka_message_headers(m, &headers) == RD_KAFKA_RESP_ERR_NO_ERROR &&
        rd_kafka_header_get_last(headers, "mm-id", &id, &id_len) == RD_KAFKA_RESP_ERR_NO_ERROR) {
        snprintf(seen->message[seen->n].id, 64, "%.*s", (int)id_len, (const char *)id);
    }
    seen->n++;
}

/* Everything that is in the topic, partition by partition. */
static struct seen *consume(struct rig *g, const char *topic, int n_partitions)
{
    struct seen *seen = calloc(1, sizeof *seen);
    assert_non_null(seen);
    char errstr[256];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    rd_kafka_conf_set(conf, "bootstrap.servers", g->bootstrap, NULL, 0);
    rd_kafka_conf_set(conf, "group.id", "test", NULL, 0);
    rd_kafka_conf_set(conf, "enable.partition.eof", "true", NULL, 0);
    rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, errstr, sizeof errstr);
    assert_non_null(rk);
    for (int p = 0; p < n_partitions; p++) {
        rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
        rd_kafka_topic_partition_list_add(list, topic, p)->offset = RD_KAFKA_OFFSET_BEGINNING;
        assert_int_equal(rd_kafka_assign(rk, list), 0);
        rd_kafka_topic_partition_list_destroy(list);
        for (bool end = false; !end;) {
            rd_kafka_message_t *m = rd_kafka_consumer_poll(rk, 15000);
            assert_non_null(m);
            end = m->err == RD_KAFKA_RESP_ERR__PARTITION_EOF;
            if (m->err == RD_KAFKA_RESP_ERR_NO_ERROR) {
                remember(seen, m);
            }
            rd_kafka_message_destroy(m);
        }
    }
    rd_kafka_consumer_close(rk);
    rd_kafka_destroy(rk);
    return seen;
}

/* Order per MQTT topic, by the numbers that base64 keeps in order for digits of equal length. */
static void check_order(const struct seen *seen)
{
    for (size_t i = 0; i < seen->n; i++) {
        for (size_t j = i + 1; j < seen->n; j++) {
            if (strcmp(seen->message[i].key, seen->message[j].key) == 0) {
                assert_true(strcmp(seen->message[i].id, "") != 0);
                unsigned long a = strtoul(strrchr(seen->message[i].id, '-') + 1, NULL, 10);
                unsigned long b = strtoul(strrchr(seen->message[j].id, '-') + 1, NULL, 10);
                assert_true(a < b); /* also: none twice */
                break;
            }
        }
    }
}

static void check_all_there(struct rig *g, int n_partitions)
{
    struct seen *seen = consume(g, "mqtt", n_partitions);
    struct mm_snapshot shot = rig_figures(g);
    assert_int_equal(seen->n, g->n_appended - shot.dead_lettered - shot.dropped);
    check_order(seen);
    free(seen);
}

/* --- tests --------------------------------------------------------------------------------------
 */

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
    rig_stop_workers(g, 5000);
    rig_free(g);
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
    rig_stop_workers(g, 5000);
    rig_free(g);
}

static void test_a_refused_topic_waits_and_is_tried_again(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
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
    rig_stop_workers(g, 5000);
    rig_free(g);
}

static void test_neighbours_of_a_suspect_are_delivered(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
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
    rig_stop_workers(g, 5000);
    rig_free(g);
}

static void test_who_fails_alone_too_is_a_dead_letter(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
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
    struct mm_dead_stats dead;
    mm_dead_stats(g->dead, &dead);
    assert_int_equal(dead.n_letters, shot.dead_lettered);
    assert_true(rig_logged(g, "dead letter"));
    check_all_there(g, 1);
    rig_stop_workers(g, 5000);
    rig_free(g);
}

static void test_a_message_too_large_for_the_client_is_a_dead_letter_at_once(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    rig_option(g, "rdkafka.message.max.bytes", "2000");
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
    rig_stop_workers(g, 5000);
    rig_free(g);
}

static void test_a_producer_that_dies_is_replaced(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
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
    rig_stop_workers(g, 5000);
    rig_free(g);
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
    rig_stop_workers(g, 5000);
    rig_free(g);
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
    rig_stop_workers(g, 5000);
    rig_free(g);
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
    rig_stop_workers(g, 5000);
    rig_free(g);
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
    rig_stop_workers(g, 5000);
    rig_free(g);
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
    rig_stop_workers(g, 5000);
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
    rig_stop_workers(g, 5000);
    rig_free(g);
}

/* While a topic is refused: told, not healthy, tried once an interval and with one message. */
static void test_a_parked_topic_is_told_and_probed(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
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
    rig_stop_workers(g, 5000);
    rig_free(g);
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
    rig_stop_workers(g, 5000);
    rig_free(g);
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
    rig_stop_workers(g, 5000);
    rig_free(g);
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
    rig_stop_workers(g, 5000);
    rig_free(g);
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
    rig_stop_workers(g, 5000);
    rig_free(g);
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
    rig_stop_workers(g, 5000);
    rig_free(g);
}

static void test_a_setting_that_librdkafka_refuses_is_named(void **state)
{
    (void)state;
    char name[] = "no.such.thing";
    char value[] = "1";
    char bootstrap[] = "127.0.0.1:1";
    struct mm_config_property property = {name, value};
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
        cmocka_unit_test(test_who_fails_alone_too_is_a_dead_letter),
        cmocka_unit_test(test_a_message_too_large_for_the_client_is_a_dead_letter_at_once),
        cmocka_unit_test(test_a_producer_that_dies_is_replaced),
        cmocka_unit_test(test_a_refused_producer_id_is_asked_for_again),
        cmocka_unit_test(test_every_kind_of_error_is_survived),
        cmocka_unit_test(test_an_outage_loses_and_doubles_nothing),
        cmocka_unit_test(test_drop_oldest_keeps_the_newest),
        cmocka_unit_test(test_a_stop_without_kafka_ends_in_time_and_counts_what_is_left),
        cmocka_unit_test(test_a_stop_delivers_what_is_left),
        cmocka_unit_test(test_the_test_message_is_written_by_each_worker),
        cmocka_unit_test(test_a_cold_partition_gets_one_message_first),
        cmocka_unit_test(test_a_parked_topic_is_told_and_probed),
        cmocka_unit_test(test_a_cluster_that_confirms_nothing_is_not_healthy),
        cmocka_unit_test(test_a_time_in_the_future_is_clamped),
        cmocka_unit_test(test_a_new_producer_is_no_outage),
        cmocka_unit_test(test_a_quiet_shard_costs_no_wakeups),
        cmocka_unit_test(test_a_suspect_that_lost_its_place_is_dropped),
        cmocka_unit_test(test_a_setting_that_librdkafka_refuses_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
