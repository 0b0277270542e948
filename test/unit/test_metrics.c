#include "mm_clock.h"
#include "mm_error.h"
#include "mm_metrics.h"
#include "mm_spool.h"

#include <ctype.h>
#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define SPOOL_BYTES 262144

/* What the log tells of a disk, in place of its own figures (the linker's --wrap). */
static const struct mm_spool_stats *disk_stats;

void __real_mm_spool_stats(const struct mm_spool *s, struct mm_spool_stats *out);
void __wrap_mm_spool_stats(const struct mm_spool *s, struct mm_spool_stats *out);
void __wrap_mm_spool_stats(const struct mm_spool *s, struct mm_spool_stats *out)
{
    if (disk_stats != NULL) {
        *out = *disk_stats;
    } else {
        __real_mm_spool_stats(s, out);
    }
}

static struct mm_spool *open_spool(uint32_t n_readers)
{
    struct mm_spool_options opts = {.max_bytes = SPOOL_BYTES, .n_readers = n_readers};
    struct mm_spool *s;
    char errstr[256];
    assert_int_equal(mm_spool_open(&opts, &s, errstr, sizeof errstr), 0);
    return s;
}

/* Kafka topics for all tests: their figures are of the metrics. */
static struct mm_lanes *three_lanes(void)
{
    static const char *const topics[] = {"mqtt", "to\"pic", "other"};
    static struct mm_lanes *lanes;
    if (lanes == NULL) {
        assert_int_equal(mm_lanes_new(&lanes), 0);
        for (size_t i = 0; i < 3; i++) {
            uint32_t lane;
            assert_int_equal(mm_lanes_get(lanes, topics[i], strlen(topics[i]), &lane), 0);
            assert_int_equal(lane, i);
        }
    }
    return lanes;
}

static struct mm_metrics *new_metrics_of(uint32_t n_workers, uint32_t n_lanes, bool sync_always)
{
    struct mm_metrics_info info = {
        .version = "1.2.3",
        .librdkafka = "2.0.2",
        .mosquitto = "2.0.11",
        .n_workers = n_workers,
        .lanes = n_lanes > 0 ? three_lanes() : NULL,
        .sync_always = sync_always,
    };
    struct mm_metrics *m;
    assert_int_equal(mm_metrics_new(&info, &m), 0);
    for (uint32_t i = 0; i < n_lanes; i++) {
        assert_non_null(mm_metrics_park(m, i));
    }
    return m;
}

static struct mm_metrics *new_metrics(uint32_t n_workers)
{
    return new_metrics_of(n_workers, 0, false);
}

static int append(struct mm_spool *s, unsigned int number, size_t payload_len)
{
    static const char payload[SPOOL_BYTES];
    char topic[32];
    snprintf(topic, sizeof topic, "t/%u", number);
    struct mm_record r = {.flags = 1,
                          .type = MM_RECORD_MESSAGE,
                          .topic = topic,
                          .topic_len = (uint16_t)strlen(topic),
                          .payload = payload,
                          .payload_len = (uint32_t)payload_len};
    return mm_spool_append(s, &r);
}

static void reach_kafka(struct mm_metrics *m, uint32_t k)
{
    mm_gauge_set(&mm_metrics_worker(m, k)->kafka_up, 1);
    mm_gauge_set(&mm_metrics_worker(m, k)->kafka_was_up, 1);
}

static char *page_of(const struct mm_metrics *m, struct mm_spool *s)
{
    char *text = NULL;
    size_t len = 0;
    assert_int_equal(mm_metrics_text(m, s, &text, &len), 0);
    assert_int_equal(strlen(text), len);
    return text;
}

/* Does the page have this line? */
static bool has_line(const char *page, const char *line)
{
    size_t len = strlen(line);
    for (const char *p = page; (p = strstr(p, line)) != NULL; p++) {
        if ((p == page || p[-1] == '\n') && p[len] == '\n') {
            return true;
        }
    }
    return false;
}

static void check_line(const char *page, const char *line)
{
    if (!has_line(page, line)) {
        fail_msg("the page has no line \"%s\":\n%s", line, page);
    }
}

/* --- the ledger ---------------------------------------------------------------------------------
 */

static void test_everything_is_zero_at_first(void **state)
{
    (void)state;
    struct mm_metrics *m = new_metrics(2);
    struct mm_spool *s = open_spool(2);
    struct mm_snapshot shot;
    mm_metrics_snapshot(m, s, &shot);
    assert_int_equal(shot.received, 0);
    assert_int_equal(shot.in_spool, 0);
    assert_int_equal(shot.ledger_difference, 0);
    assert_int_equal(shot.oldest_ms, 0);
    assert_true(shot.live);
    assert_true(shot.ready);
    assert_false(shot.healthy);
    assert_string_equal(shot.reason, "Kafka has not been reached yet");
    mm_spool_close(s);
    mm_metrics_free(m);
    mm_metrics_free(NULL);
}

static void test_each_message_is_in_one_place(void **state)
{
    (void)state;
    struct mm_metrics *m = new_metrics(3);
    struct mm_spool *s = open_spool(3);
    struct mm_metrics_broker *b = mm_metrics_broker(m);
    for (unsigned int i = 0; i < 100; i++) {
        assert_int_equal(append(s, i, 10), 0);
    }
    mm_counter_add(&b->spooled, 100);
    mm_counter_add(&b->received[0], 20);
    mm_counter_add(&b->received[1], 60);
    mm_counter_add(&b->received[2], 50);
    mm_counter_add(&b->refused[MM_REFUSED_FULL], 7);
    mm_counter_add(&b->refused[MM_REFUSED_TOO_LARGE], 3);
    mm_counter_add(&b->dropped[MM_DROPPED_QOS0], 11);
    mm_counter_add(&b->dropped[MM_DROPPED_NEWEST], 5);
    mm_counter_add(&b->dropped[MM_DROPPED_TOO_LARGE], 4);
    struct mm_snapshot shot;
    mm_metrics_snapshot(m, s, &shot);
    assert_int_equal(shot.received, 130);
    assert_int_equal(shot.refused, 10);
    assert_int_equal(shot.dropped, 20);
    assert_int_equal(shot.in_spool, 100);
    assert_int_equal(shot.ledger_difference, 0);

    /* Worker k takes all of its shard and finishes all but two. */
    uint64_t n_delivered = 0;
    for (uint32_t k = 0; k < 3; k++) {
        struct mm_metrics_worker *w = mm_metrics_worker(m, k);
        uint64_t n = k == 0 ? 40 : 30; /* of 100 */
        mm_gauge_set(&w->taken, n);
        mm_gauge_set(&w->held, 2);
        mm_counter_add(&w->dead_lettered[MM_DEAD_INVALID], 1);
        mm_counter_add(&w->dead_lettered[MM_DEAD_TOO_LARGE], 1);
        mm_counter_add(&w->dropped_oldest, 3);
        mm_counter_add(&w->delivered, n - 7);
        n_delivered += n - 7;
    }
    mm_metrics_snapshot(m, s, &shot);
    assert_int_equal(shot.delivered, n_delivered);
    assert_int_equal(shot.dead_lettered, 6);
    assert_int_equal(shot.dropped, 29);
    assert_int_equal(shot.in_spool, 6);
    assert_int_equal(shot.ledger_difference, 0);

    char *page = page_of(m, s);
    check_line(page, "metamorphosis_messages_received_total{qos=\"0\"} 20");
    check_line(page, "metamorphosis_messages_received_total{qos=\"1\"} 60");
    check_line(page, "metamorphosis_messages_received_total{qos=\"2\"} 50");
    check_line(page, "metamorphosis_messages_refused_total{reason=\"spool_full\"} 7");
    check_line(page, "metamorphosis_messages_dropped_total{reason=\"qos0_spool_full\"} 11");
    check_line(page, "metamorphosis_messages_dropped_total{reason=\"drop_oldest\"} 9");
    check_line(page, "metamorphosis_messages_dead_lettered_total{reason=\"invalid\"} 3");
    check_line(page, "metamorphosis_spool_messages 6");
    check_line(page, "metamorphosis_ledger_difference 0");
    check_line(page, "mqtt_received 100");
    check_line(page, "mqtt_errors 39");
    free(page);
    mm_spool_close(s);
    mm_metrics_free(m);
}

static void test_a_difference_is_shown_with_its_sign(void **state)
{
    (void)state;
    struct mm_metrics *m = new_metrics(1);
    struct mm_spool *s = open_spool(1);
    struct mm_snapshot shot;
    mm_counter_add(&mm_metrics_broker(m)->received[1], 2);
    mm_metrics_snapshot(m, s, &shot);
    assert_int_equal(shot.ledger_difference, 2);
    mm_counter_add(&mm_metrics_worker(m, 0)->delivered, 5);
    mm_metrics_snapshot(m, s, &shot);
    assert_true(shot.ledger_difference == -3);
    char *page = page_of(m, s);
    check_line(page, "metamorphosis_ledger_difference -3");
    free(page);

    /* What a worker took a moment ago may not be seen as appended yet. */
    mm_gauge_set(&mm_metrics_worker(m, 0)->taken, 1);
    mm_metrics_snapshot(m, s, &shot);
    assert_int_equal(shot.in_spool, 0);
    mm_spool_close(s);
    mm_metrics_free(m);
}

/* --- health -------------------------------------------------------------------------------------
 */

static void check_health(const struct mm_metrics *m,
                         struct mm_spool *s,
                         bool live,
                         bool ready,
                         const char *reason)
{
    struct mm_snapshot shot;
    mm_metrics_snapshot(m, s, &shot);
    assert_string_equal(shot.reason, reason);
    assert_int_equal(shot.live, live);
    assert_int_equal(shot.ready, ready);
    assert_int_equal(shot.healthy, strcmp(reason, "ok") == 0);
    char *page = page_of(m, s);
    check_line(page, live ? "metamorphosis_live 1" : "metamorphosis_live 0");
    check_line(page, ready ? "metamorphosis_ready 1" : "metamorphosis_ready 0");
    check_line(page, shot.healthy ? "metamorphosis_healthy 1" : "metamorphosis_healthy 0");
    free(page);
}

static void test_health_of_kafka(void **state)
{
    (void)state;
    struct mm_metrics *m = new_metrics(2);
    struct mm_spool *s = open_spool(2);
    check_health(m, s, true, true, "Kafka has not been reached yet");
    reach_kafka(m, 0);
    check_health(m, s, true, true, "Kafka has not been reached yet");
    char *page = page_of(m, s);
    check_line(page, "kafka_state 1");
    free(page);
    reach_kafka(m, 1);
    check_health(m, s, true, true, "ok");
    page = page_of(m, s);
    check_line(page, "kafka_state 0");
    free(page);
    mm_gauge_set(&mm_metrics_worker(m, 1)->kafka_up, 0);
    check_health(m, s, true, true, "Kafka is not reached");
    reach_kafka(m, 1);
    mm_gauge_set(&mm_metrics_worker(m, 0)->state, MM_WORKER_PARKED);
    check_health(m, s, true, true, "a Kafka topic is parked");
    mm_gauge_set(&mm_metrics_worker(m, 0)->state, MM_WORKER_RUNNING);
    check_health(m, s, true, true, "ok");
    mm_spool_close(s);
    mm_metrics_free(m);
}

static void test_a_worker_that_stands_still(void **state)
{
    (void)state;
    struct mm_metrics *m = new_metrics(2);
    struct mm_spool *s = open_spool(2);
    reach_kafka(m, 0);
    reach_kafka(m, 1);
    /* The machine may have started less than 31 s ago. */
    uint64_t now = mm_clock_monotonic_ns();
    uint64_t half_minute = 31 * UINT64_C(1000000000);
    uint64_t old = now > half_minute ? now - half_minute : 1;
    mm_gauge_set(&mm_metrics_worker(m, 0)->heartbeat_ns, now);
    mm_gauge_set(&mm_metrics_worker(m, 1)->heartbeat_ns, old);
    if (now > half_minute) {
        check_health(m, s, false, true, "a worker thread does not move");
    }
    mm_gauge_set(&mm_metrics_worker(m, 1)->heartbeat_ns, now - 1);
    check_health(m, s, true, true, "ok");
    mm_spool_close(s);
    mm_metrics_free(m);
}

static void test_health_of_the_spool(void **state)
{
    (void)state;
    struct mm_metrics *m = new_metrics(1);
    struct mm_spool *s = open_spool(1);
    reach_kafka(m, 0);
    check_health(m, s, true, true, "ok");
    unsigned int n = 0;
    unsigned int n_tight = 0;
    /* A segment that is being prepared just now is no room yet. */
    for (int n_failed = 0; n_failed < 5;) {
        if (append(s, n, 100) != 0) {
            n_failed++;
            nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
            continue;
        }
        n++;
        n_failed = 0;
        struct mm_spool_stats stats;
        mm_spool_stats(s, &stats);
        struct mm_snapshot shot;
        mm_metrics_snapshot(m, s, &shot);
        bool below = stats.used_bytes < SPOOL_BYTES - SPOOL_BYTES / 10;
        /* Nearly full it may be before: when the last segment is the tail. */
        bool tight = strcmp(shot.reason, "the spool is nearly full") == 0;
        n_tight += tight;
        assert_int_equal(shot.ready, below && !tight);
        if (!tight) {
            assert_string_equal(shot.reason, below ? "ok" : "the spool is more than 90 % used");
        }
    }
    assert_true(n_tight < n / 2);
    check_health(m, s, true, false, "the spool is full");
    /* What /readyz has to tell comes first. */
    mm_gauge_set(&mm_metrics_worker(m, 0)->kafka_up, 0);
    check_health(m, s, true, false, "the spool is full");
    char *page = page_of(m, s);
    check_line(page, "metamorphosis_spool_full 1");
    free(page);
    mm_spool_close(s);
    mm_metrics_free(m);
}

/* --- the disk -----------------------------------------------------------------------------------
 */

static const struct mm_spool_stats good_disk = {.limit_bytes = 1000,
                                                .used_bytes = 899,
                                                .on_disk = true,
                                                .free_bytes = 5000};

static void check_disk(bool sync_always, struct mm_spool_stats stats, bool ready, const char *why)
{
    struct mm_metrics *m = new_metrics_of(1, 0, sync_always);
    struct mm_spool *s = open_spool(1);
    reach_kafka(m, 0);
    disk_stats = &stats;
    check_health(m, s, true, ready, why);
    disk_stats = NULL;
    mm_spool_close(s);
    mm_metrics_free(m);
}

static void test_health_of_the_disk(void **state)
{
    (void)state;
    struct mm_spool_stats stats = good_disk;
    check_disk(true, stats, true, "ok");
    stats.used_bytes = 900;
    check_disk(true, stats, false, "the spool is more than 90 % used");
    stats.drop_oldest = true;
    check_disk(true, stats, true, "ok");

    stats = good_disk;
    stats.degraded = true; /* a matter of power failures only, unless each message is synced */
    check_disk(false, stats, true, "ok");
    check_disk(true, stats, false, "the spool's disk fails to sync");

    stats = good_disk;
    stats.low_space = true;
    check_disk(false, stats, false, "the spool's disk is short of space");
    stats.drop_oldest = true;
    check_disk(false, stats, false, "the spool's disk is short of space");
    stats.degraded = true;
    check_disk(true, stats, false, "the spool's disk fails to sync");
    stats.full = true;
    check_disk(true, stats, false, "the spool is full, and its disk short of space");
    stats.low_space = false;
    check_disk(true, stats, false, "the spool is full");
}

static void test_figures_of_the_disk(void **state)
{
    (void)state;
    struct mm_metrics *m = new_metrics(1);
    struct mm_spool *s = open_spool(1);
    char *page = page_of(m, s);
    check_line(page, "metamorphosis_spool_on_disk 0");
    check_line(page, "metamorphosis_spool_last_sync_timestamp_seconds 0.000");
    free(page);
    struct mm_spool_stats stats = {
        .limit_bytes = 1000,
        .n_lost = 3,
        .on_disk = true,
        .degraded = true,
        .low_space = true,
        .free_bytes = 4001,
        .n_synced = 4002,
        .n_io_errors = 4003,
        .n_bad_files = 4004,
        .synced_ms = 1700000000005,
        .unsynced_bytes = 4006,
        .sync_max_ns = 12000000007,
    };
    disk_stats = &stats;
    page = page_of(m, s);
    disk_stats = NULL;
    check_line(page, "metamorphosis_spool_on_disk 1");
    check_line(page, "metamorphosis_spool_degraded 1");
    check_line(page, "metamorphosis_spool_low_space 1");
    check_line(page, "metamorphosis_spool_free_bytes 4001");
    check_line(page, "metamorphosis_spool_syncs_total 4002");
    check_line(page, "metamorphosis_spool_io_errors_total 4003");
    check_line(page, "metamorphosis_spool_bad_files 4004");
    check_line(page, "metamorphosis_spool_last_sync_timestamp_seconds 1700000000.005");
    check_line(page, "metamorphosis_spool_unsynced_bytes 4006");
    check_line(page, "metamorphosis_spool_sync_duration_max_seconds 12.000000007");
    check_line(page, "metamorphosis_messages_dropped_total{reason=\"lost\"} 3");
    check_line(page, "metamorphosis_ledger_difference -3"); /* nobody had received them */
    free(page);
    mm_spool_close(s);
    mm_metrics_free(m);
}

/* --- parked Kafka topics ------------------------------------------------------------------------
 */

static void test_parked_topics_are_in_the_spool(void **state)
{
    (void)state;
    struct mm_metrics *m = new_metrics_of(1, 3, false);
    struct mm_spool *s = open_spool(1);
    reach_kafka(m, 0);
    /* 100 messages: 60 delivered, 40 parked, of which 4 are delivered later, 1 is given up, 2 are
     * lost and 3 are held. */
    for (unsigned int i = 0; i < 100; i++) {
        assert_int_equal(append(s, i, 10), 0);
    }
    mm_counter_add(&mm_metrics_broker(m)->received[1], 100);
    mm_counter_add(&mm_metrics_broker(m)->spooled, 100);
    struct mm_metrics_worker *w = mm_metrics_worker(m, 0);
    mm_gauge_set(&w->taken, 100);
    mm_counter_add(&w->delivered, 60);
    mm_counter_add(&w->parked, 40);
    mm_metrics_park_set(m, 1, 30, 0, 3000);
    mm_metrics_park_set(m, 2, 8, 2, 800);
    struct mm_metrics_worker *lane = mm_metrics_park(m, 2);
    mm_gauge_set(&lane->taken, 8);
    mm_gauge_set(&lane->held, 3);
    mm_gauge_set(&lane->oldest_ms, 1700000000001);
    mm_gauge_set(&lane->retry_at_ms, 1700000020000);
    mm_gauge_set(&mm_metrics_park(m, 1)->retry_at_ms, 1700000010000);
    mm_gauge_set(&mm_metrics_park(m, 0)->retry_at_ms, 1700000000000); /* of old */
    mm_counter_add(&lane->delivered, 4);
    mm_counter_add(&lane->dead_lettered[MM_DEAD_INVALID], 1);
    mm_histogram_latency(&lane->latency, 1);

    check_health(m, s, true, true, "a Kafka topic is parked");
    struct mm_spool_stats stats;
    mm_spool_stats(s, &stats);
    struct mm_snapshot shot;
    mm_metrics_snapshot(m, s, &shot);
    assert_int_equal(shot.ledger_difference, 0);
    assert_int_equal(shot.in_spool, 33);
    assert_int_equal(shot.parked, 33);
    assert_int_equal(shot.delivered, 64);
    assert_int_equal(shot.dropped, 2);
    assert_int_equal(shot.spool.used_bytes, stats.used_bytes + 3800);
    assert_int_equal(shot.oldest_ms, 1700000000001);
    char *page = page_of(m, s);
    check_line(page, "metamorphosis_spool_messages 33");
    check_line(page, "metamorphosis_parked_messages 33");
    check_line(page, "metamorphosis_parked_bytes 3800");
    check_line(page, "metamorphosis_parked_topics 2");
    check_line(page, "metamorphosis_parked_retry_timestamp_seconds 1700000010.000");
    check_line(page, "metamorphosis_parked_topic_messages{kafka_topic=\"to\\\"pic\"} 30");
    check_line(page, "metamorphosis_parked_topic_messages{kafka_topic=\"other\"} 3");
    assert_null(strstr(page, "kafka_topic=\"mqtt\""));
    check_line(page, "metamorphosis_messages_parked_total 40");
    check_line(page, "metamorphosis_worker_delivered_total{worker=\"0\"} 60");
    check_line(page, "metamorphosis_delivery_latency_seconds_count 1");
    free(page);

    /* All delivered. */
    mm_gauge_set(&lane->held, 0);
    mm_counter_add(&lane->delivered, 3);
    mm_gauge_set(&mm_metrics_park(m, 1)->taken, 30);
    mm_counter_add(&mm_metrics_park(m, 1)->delivered, 30);
    check_health(m, s, true, true, "ok");
    page = page_of(m, s);
    check_line(page, "metamorphosis_ledger_difference 0");
    check_line(page, "metamorphosis_spool_messages 0");
    check_line(page, "metamorphosis_parked_topics 0");
    check_line(page, "metamorphosis_parked_retry_timestamp_seconds 0.000");
    assert_null(strstr(page, "kafka_topic"));
    free(page);
    mm_spool_close(s);
    mm_metrics_free(m);
}

/* What is parked takes room too. */
static void test_parked_bytes_count_against_the_limit(void **state)
{
    (void)state;
    struct mm_metrics *m = new_metrics_of(1, 1, false);
    struct mm_spool *s = open_spool(1);
    reach_kafka(m, 0);
    struct mm_spool_stats stats = good_disk;
    stats.used_bytes = 500;
    disk_stats = &stats;
    mm_metrics_park_set(m, 0, 1, 0, 399);
    check_health(m, s, true, true, "a Kafka topic is parked");
    mm_metrics_park_set(m, 0, 1, 0, 400);
    check_health(m, s, true, false, "the spool is more than 90 % used");
    disk_stats = NULL;
    mm_spool_close(s);
    mm_metrics_free(m);
}

static void test_a_parked_worker_that_stands_still(void **state)
{
    (void)state;
    struct mm_metrics *m = new_metrics_of(1, 1, false);
    struct mm_spool *s = open_spool(1);
    reach_kafka(m, 0);
    struct mm_metrics_worker *lane = mm_metrics_park(m, 0);
    mm_gauge_set(&lane->heartbeat_ns, 1);
    if (mm_clock_monotonic_ns() > 31 * UINT64_C(1000000000)) {
        check_health(m, s, false, true, "a worker thread does not move");
    }
    mm_gauge_set(&lane->state, MM_WORKER_STOPPED);
    check_health(m, s, true, true, "ok");
    mm_gauge_set(&lane->state, MM_WORKER_RUNNING);
    mm_gauge_set(&lane->heartbeat_ns, 0);
    check_health(m, s, true, true, "ok");
    mm_spool_close(s);
    mm_metrics_free(m);
}

/* --- histograms ---------------------------------------------------------------------------------
 */

static void test_histogram_of_the_callback(void **state)
{
    (void)state;
    struct mm_metrics *m = new_metrics(1);
    struct mm_spool *s = open_spool(1);
    struct mm_histogram *h = &mm_metrics_broker(m)->callback;
    mm_histogram_callback(h, 0);
    mm_histogram_callback(h, 100);
    mm_histogram_callback(h, 101);
    mm_histogram_callback(h, 1000);
    mm_histogram_callback(h, 100000000);
    mm_histogram_callback(h, 100000001);
    mm_histogram_callback(h, UINT64_C(5000000000));
    char *page = page_of(m, s);
    check_line(page, "metamorphosis_callback_duration_seconds_bucket{le=\"1e-07\"} 2");
    check_line(page, "metamorphosis_callback_duration_seconds_bucket{le=\"2.5e-07\"} 3");
    check_line(page, "metamorphosis_callback_duration_seconds_bucket{le=\"5e-07\"} 3");
    check_line(page, "metamorphosis_callback_duration_seconds_bucket{le=\"1e-06\"} 4");
    check_line(page, "metamorphosis_callback_duration_seconds_bucket{le=\"0.05\"} 4");
    check_line(page, "metamorphosis_callback_duration_seconds_bucket{le=\"0.1\"} 5");
    check_line(page, "metamorphosis_callback_duration_seconds_bucket{le=\"+Inf\"} 7");
    check_line(page, "metamorphosis_callback_duration_seconds_count 7");
    check_line(page, "metamorphosis_callback_duration_seconds_sum 5.200001202");
    free(page);
    mm_spool_close(s);
    mm_metrics_free(m);
}

static void test_histogram_of_the_workers_is_added_up(void **state)
{
    (void)state;
    struct mm_metrics *m = new_metrics(2);
    struct mm_spool *s = open_spool(2);
    struct mm_histogram *first = &mm_metrics_worker(m, 0)->latency;
    struct mm_histogram *second = &mm_metrics_worker(m, 1)->latency;
    mm_histogram_latency(first, 1000000);
    mm_histogram_latency(first, 1000001);
    mm_histogram_latency(second, 1000000);
    mm_histogram_latency(second, UINT64_C(3600000000000));
    mm_histogram_latency(second, UINT64_C(3600000000001));
    char *page = page_of(m, s);
    check_line(page, "metamorphosis_delivery_latency_seconds_bucket{le=\"0.001\"} 2");
    check_line(page, "metamorphosis_delivery_latency_seconds_bucket{le=\"0.0025\"} 3");
    check_line(page, "metamorphosis_delivery_latency_seconds_bucket{le=\"1800\"} 3");
    check_line(page, "metamorphosis_delivery_latency_seconds_bucket{le=\"3600\"} 4");
    check_line(page, "metamorphosis_delivery_latency_seconds_bucket{le=\"+Inf\"} 5");
    check_line(page, "metamorphosis_delivery_latency_seconds_sum 7200.003000002");
    free(page);
    mm_spool_close(s);
    mm_metrics_free(m);
}

/* Each bound is what its label says, and none is below the one before. */
static void test_bounds_are_what_their_labels_say(void **state)
{
    (void)state;
    struct mm_metrics *m = new_metrics(1);
    struct mm_spool *s = open_spool(1);
    char *page = page_of(m, s);
    static const char name[] = "metamorphosis_callback_duration_seconds_bucket{le=\"";
    double before = 0;
    size_t n = 0;
    for (const char *p = page; (p = strstr(p, name)) != NULL;) {
        p += strlen(name);
        double bound = strtod(p, NULL);
        assert_true(bound > before);
        before = bound;
        n++;
        if (*p == '+') {
            break;
        }
        uint64_t ns = (uint64_t)(bound * 1e9 + 0.5);
        struct mm_metrics *one = new_metrics(1);
        mm_histogram_callback(&mm_metrics_broker(one)->callback, ns);
        char *with = page_of(one, s);
        char line[128];
        snprintf(line, sizeof line, "%s%.*s\"} 1", name, (int)strcspn(p, "\""), p);
        check_line(with, line);
        free(with);
        mm_metrics_free(one);
        one = new_metrics(1);
        mm_histogram_callback(&mm_metrics_broker(one)->callback, ns + 1);
        with = page_of(one, s);
        snprintf(line, sizeof line, "%s%.*s\"} 0", name, (int)strcspn(p, "\""), p);
        check_line(with, line);
        free(with);
        mm_metrics_free(one);
    }
    assert_int_equal(n, 20);
    free(page);
    mm_spool_close(s);
    mm_metrics_free(m);
}

/* --- the text -----------------------------------------------------------------------------------
 */

static void test_states_and_times_of_the_workers(void **state)
{
    (void)state;
    static const char *const names[] = {"running", "draining",   "single",
                                        "parked",  "restarting", "stopped"};
    struct mm_metrics *m = new_metrics(6);
    struct mm_spool *s = open_spool(6);
    for (uint32_t k = 0; k < 6; k++) {
        struct mm_metrics_worker *w = mm_metrics_worker(m, k);
        mm_gauge_set(&w->state, k);
        mm_gauge_set(&w->oldest_ms, k == 2 ? 0 : 1700000000500 - k);
        mm_gauge_set(&w->last_delivery_ms, 1700000000042 + k % 4);
        mm_gauge_set(&w->retry_at_ms, k == 3 ? 1700000009007 : 0);
        mm_gauge_set(&w->in_flight, UINT64_C(10) * k);
        mm_counter_add(&w->delivered, k);
    }
    char *page = page_of(m, s);
    for (uint32_t k = 0; k < 6; k++) {
        for (uint32_t i = 0; i < 6; i++) {
            char line[128];
            snprintf(line, sizeof line, "metamorphosis_worker_state{worker=\"%u\",state=\"%s\"} %d",
                     k, names[i], i == k);
            check_line(page, line);
        }
    }
    check_line(page, "metamorphosis_worker_delivered_total{worker=\"5\"} 5");
    check_line(page, "metamorphosis_kafka_in_flight_messages{worker=\"4\"} 40");
    check_line(page, "metamorphosis_kafka_up{worker=\"0\"} 0");
    check_line(page, "metamorphosis_spool_oldest_message_timestamp_seconds 1700000000.495");
    check_line(page, "metamorphosis_kafka_last_delivery_timestamp_seconds 1700000000.045");
    check_line(page, "metamorphosis_worker_retry_timestamp_seconds{worker=\"3\"} 1700000009.007");
    check_line(page, "metamorphosis_worker_retry_timestamp_seconds{worker=\"0\"} 0.000");
    free(page);
    mm_spool_close(s);
    mm_metrics_free(m);
}

static void test_label_values_are_escaped(void **state)
{
    (void)state;
    struct mm_metrics_info info = {
        .version = "a\"b\\c\nd", .librdkafka = "\\", .mosquitto = "", .n_workers = 1};
    struct mm_metrics *m;
    assert_int_equal(mm_metrics_new(&info, &m), 0);
    struct mm_spool *s = open_spool(1);
    char *page = page_of(m, s);
    check_line(page,
               "metamorphosis_build_info{version=\"a\\\"b\\\\c\\nd\",librdkafka=\"\\\\\","
               "mosquitto=\"\"} 1");
    free(page);
    mm_spool_close(s);
    mm_metrics_free(m);
}

static void test_changes_of_the_settings(void **state)
{
    (void)state;
    struct mm_metrics *m = new_metrics(1);
    struct mm_spool *s = open_spool(1);
    struct mm_metrics_live *live = mm_metrics_live(m);
    char *page = page_of(m, s);
    check_line(page, "metamorphosis_config_reloads_total{result=\"failed\"} 0");
    check_line(page, "metamorphosis_config_last_reload_successful 1");
    check_line(page, "metamorphosis_kafka_tls_certificate_expiry_timestamp_seconds 0.000");
    free(page);
    mm_counter_add(&live->reloads[MM_RELOAD_APPLIED], 2);
    mm_counter_add(&live->reloads[MM_RELOAD_UNCHANGED], 3);
    mm_counter_add(&live->reloads[MM_RELOAD_FAILED], 4);
    mm_gauge_set(&live->failed, 1);
    mm_gauge_set(&live->success_ms, 1234567);
    mm_gauge_set(&live->file_changed, 1);
    mm_gauge_set(&live->restart_needed, 5);
    mm_gauge_set(&live->cert_end_ms, 1900000000000);
    page = page_of(m, s);
    check_line(page, "metamorphosis_config_reloads_total{result=\"applied\"} 2");
    check_line(page, "metamorphosis_config_reloads_total{result=\"unchanged\"} 3");
    check_line(page, "metamorphosis_config_reloads_total{result=\"failed\"} 4");
    check_line(page, "metamorphosis_config_last_reload_successful 0");
    check_line(page, "metamorphosis_config_last_reload_success_timestamp_seconds 1234.567");
    check_line(page, "metamorphosis_config_file_changed 1");
    check_line(page, "metamorphosis_config_restart_needed 5");
    check_line(page, "metamorphosis_kafka_tls_certificate_expiry_timestamp_seconds 1900000000.000");
    free(page);
    mm_spool_close(s);
    mm_metrics_free(m);
}

static void test_the_five_names_of_the_go_program(void **state)
{
    (void)state;
    struct mm_metrics *m = new_metrics(1);
    struct mm_spool *s = open_spool(1);
    reach_kafka(m, 0);
    struct mm_metrics_worker *w = mm_metrics_worker(m, 0);
    mm_counter_add(&mm_metrics_broker(m)->spooled, 9);
    mm_counter_add(&w->delivered, 5);
    mm_counter_add(&w->test_messages, 2);
    mm_counter_add(&w->kafka_errors, 3);
    char *page = page_of(m, s);
    static const char expected[] =
        "# HELP mqtt_received Number of received MQTT messages\n"
        "# TYPE mqtt_received counter\n"
        "mqtt_received 9\n"
        "# HELP mqtt_errors Number of erroneous MQTT messages\n"
        "# TYPE mqtt_errors counter\n"
        "mqtt_errors 0\n"
        "# HELP kafka_sent Number of sent Kafka messages\n"
        "# TYPE kafka_sent counter\n"
        "kafka_sent 7\n"
        "# HELP kafka_errors No of errors encountered with Kafka\n"
        "# TYPE kafka_errors counter\n"
        "kafka_errors 3\n"
        "# HELP kafka_state Kafka status (0 is OK)\n"
        "# TYPE kafka_state gauge\n"
        "kafka_state 0\n";
    assert_true(strlen(page) > strlen(expected));
    assert_string_equal(page + strlen(page) - strlen(expected), expected);
    free(page);
    mm_spool_close(s);
    mm_metrics_free(m);
}

/* Length of a metric or label name at p; 0: there is none. */
static size_t name_len(const char *p)
{
    size_t n = 0;
    while (isalpha((unsigned char)p[n]) || p[n] == '_' || p[n] == ':' ||
           (n > 0 && isdigit((unsigned char)p[n]))) {
        n++;
    }
    return n;
}

/* Behind the labels at p, which begin with '{'. */
static const char *skip_labels(const char *p)
{
    do {
        p++;
        size_t n = name_len(p);
        assert_true(n > 0);
        p += n;
        assert_true(p[0] == '=' && p[1] == '"');
        for (p += 2; *p != '"'; p++) {
            assert_true(*p != '\0');
            if (*p == '\\') {
                p++;
                assert_true(*p == '\\' || *p == '"' || *p == 'n');
            }
        }
        p++;
    } while (*p == ',');
    assert_true(*p == '}');
    return p + 1;
}

struct family
{
    char name[100];
    char type[20];
    size_t n_samples;
};

/* "# HELP name text" or "# TYPE name type"; a family's HELP comes first and only once. */
static void read_comment(const char *line, struct family *families, size_t *n)
{
    char name[100];
    char type[20];
    if (sscanf(line, "# HELP %99s", name) == 1) {
        for (size_t i = 0; i < *n; i++) {
            assert_string_not_equal(families[i].name, name);
        }
        assert_int_equal(name_len(name), strlen(name));
        assert_true(strlen(line) > strlen("# HELP ") + strlen(name) + 10);
        memcpy(families[(*n)++].name, name, sizeof name);
        return;
    }
    assert_int_equal(sscanf(line, "# TYPE %99s %19s", name, type), 2);
    struct family *f = &families[*n - 1];
    assert_string_equal(f->name, name);
    assert_string_equal(f->type, "");
    assert_true(strcmp(type, "counter") == 0 || strcmp(type, "gauge") == 0 ||
                strcmp(type, "histogram") == 0);
    memcpy(f->type, type, sizeof type);
}

static void read_sample(const char *line, struct family *f)
{
    size_t n = name_len(line);
    assert_true(n >= strlen(f->name));
    assert_memory_equal(line, f->name, strlen(f->name));
    char suffix[20];
    assert_true(n - strlen(f->name) < sizeof suffix);
    snprintf(suffix, sizeof suffix, "%.*s", (int)(n - strlen(f->name)), line + strlen(f->name));
    if (strcmp(f->type, "histogram") == 0) {
        assert_true(strcmp(suffix, "_bucket") == 0 || strcmp(suffix, "_sum") == 0 ||
                    strcmp(suffix, "_count") == 0);
    } else {
        assert_string_equal(suffix, "");
    }
    const char *p = line + n;
    if (*p == '{') {
        p = skip_labels(p);
    }
    assert_true(*p == ' ');
    char *end = NULL;
    strtod(p + 1, &end);
    assert_true(end > p + 1);
    assert_int_equal(*end, '\0');
    f->n_samples++;
}

static void test_every_line_is_well_formed(void **state)
{
    (void)state;
    struct mm_metrics *m = new_metrics_of(3, 3, true);
    struct mm_spool *s = open_spool(3);
    mm_counter_add(&mm_metrics_worker(m, 0)->delivered, 1);
    mm_metrics_park_set(m, 1, 1, 0, 1);
    char *page = page_of(m, s);
    assert_int_equal(page[strlen(page) - 1], '\n');
    static struct family families[200];
    size_t n = 0;
    char *rest = NULL;
    for (char *line = strtok_r(page, "\n", &rest); line != NULL;
         line = strtok_r(NULL, "\n", &rest)) {
        if (line[0] == '#') {
            read_comment(line, families, &n);
        } else {
            assert_true(n > 0);
            read_sample(line, &families[n - 1]);
        }
        assert_true(n < 200);
    }
    assert_int_equal(n, 67);
    for (size_t i = 0; i < n; i++) {
        struct family *f = &families[i];
        assert_true(f->n_samples > 0);
        assert_string_not_equal(f->type, "");
        bool ours = strncmp(f->name, "metamorphosis_", 14) == 0;
        assert_int_equal(ours, i < n - 5);
        size_t len = strlen(f->name);
        bool total = len > 6 && strcmp(f->name + len - 6, "_total") == 0;
        if (ours) {
            assert_int_equal(total, strcmp(f->type, "counter") == 0);
        }
    }
    free(page);
    mm_spool_close(s);
    mm_metrics_free(m);
}

static void test_a_page_of_64_workers_is_quick(void **state)
{
    (void)state;
    enum {
        N = 200
    };
    struct mm_metrics *m = new_metrics(64);
    struct mm_spool *s = open_spool(64);
    for (uint32_t k = 0; k < 64; k++) {
        mm_counter_add(&mm_metrics_worker(m, k)->delivered, UINT64_MAX / 100);
    }
    uint64_t start = mm_clock_monotonic_ns();
    size_t len = 0;
    for (int i = 0; i < N; i++) {
        char *page = page_of(m, s);
        len = strlen(page);
        free(page);
    }
    uint64_t us = (mm_clock_monotonic_ns() - start) / 1000 / N;
    print_message("a page of 64 workers: %zu bytes, %" PRIu64 " us\n", len, us);
    assert_true(us < 50000); /* far off: sanitizers and loaded machines */
    mm_spool_close(s);
    mm_metrics_free(m);
}

/* --- threads ------------------------------------------------------------------------------------
 */

struct busy
{
    struct mm_metrics *m;
    struct mm_spool *s;
    uint32_t k;
};

static void *work(void *arg)
{
    struct busy *b = arg;
    struct mm_metrics_worker *w = mm_metrics_worker(b->m, b->k);
    for (uint64_t i = 1; i <= 20000; i++) {
        mm_counter_add(&w->delivered, 1);
        mm_histogram_latency(&w->latency, i * 1000000);
        mm_gauge_set(&w->taken, i);
        mm_gauge_set(&w->state, i % MM_N_WORKER_STATES);
    }
    return NULL;
}

/* A histogram read while it is written has buckets that only grow and agree with its count. */
static void check_latency(const char *page, uint64_t *n_before)
{
    static const char name[] = "metamorphosis_delivery_latency_seconds_";
    uint64_t bucket = 0;
    uint64_t count = 0;
    for (const char *p = page; (p = strstr(p, name)) != NULL;) {
        p += strlen(name);
        const char *value = strchr(p, ' ') + 1;
        if (strncmp(p, "bucket", 6) == 0) {
            uint64_t n = strtoull(value, NULL, 10);
            assert_true(n >= bucket);
            bucket = n;
        } else if (strncmp(p, "count", 5) == 0) {
            count = strtoull(value, NULL, 10);
        }
    }
    assert_int_equal(count, bucket);
    assert_true(count >= *n_before);
    *n_before = count;
}

static void test_pages_while_workers_count(void **state)
{
    (void)state;
    enum {
        N = 3
    };
    struct mm_metrics *m = new_metrics(N);
    struct mm_spool *s = open_spool(N);
    struct busy busy[N];
    pthread_t threads[N];
    for (uint32_t k = 0; k < N; k++) {
        busy[k] = (struct busy){m, s, k};
        assert_int_equal(pthread_create(&threads[k], NULL, work, &busy[k]), 0);
    }
    uint64_t n = 0;
    for (int i = 0; i < 50; i++) {
        char *page = page_of(m, s);
        check_latency(page, &n);
        free(page);
    }
    for (uint32_t k = 0; k < N; k++) {
        pthread_join(threads[k], NULL);
    }
    struct mm_snapshot shot;
    mm_metrics_snapshot(m, s, &shot);
    assert_int_equal(shot.delivered, N * 20000);
    mm_spool_close(s);
    mm_metrics_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_everything_is_zero_at_first),
        cmocka_unit_test(test_each_message_is_in_one_place),
        cmocka_unit_test(test_a_difference_is_shown_with_its_sign),
        cmocka_unit_test(test_health_of_kafka),
        cmocka_unit_test(test_a_worker_that_stands_still),
        cmocka_unit_test(test_health_of_the_spool),
        cmocka_unit_test(test_health_of_the_disk),
        cmocka_unit_test(test_figures_of_the_disk),
        cmocka_unit_test(test_parked_topics_are_in_the_spool),
        cmocka_unit_test(test_parked_bytes_count_against_the_limit),
        cmocka_unit_test(test_a_parked_worker_that_stands_still),
        cmocka_unit_test(test_histogram_of_the_callback),
        cmocka_unit_test(test_histogram_of_the_workers_is_added_up),
        cmocka_unit_test(test_bounds_are_what_their_labels_say),
        cmocka_unit_test(test_states_and_times_of_the_workers),
        cmocka_unit_test(test_label_values_are_escaped),
        cmocka_unit_test(test_changes_of_the_settings),
        cmocka_unit_test(test_the_five_names_of_the_go_program),
        cmocka_unit_test(test_every_line_is_well_formed),
        cmocka_unit_test(test_a_page_of_64_workers_is_quick),
        cmocka_unit_test(test_pages_while_workers_count),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
