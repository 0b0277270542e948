/* What a person is told, in each state. Figures of the spool are set by the test. */
#include "mm_clock.h"
#include "mm_lanes.h"
#include "mm_metrics.h"
#include "mm_spool.h"
#include "mm_status.h"
#include "mm_trouble.h"

#include <cjson/cJSON.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SECOND UINT64_C(1000000000)
#define START_MS UINT64_C(1700000000000)
#define LIMIT UINT64_C(1000000)

/* --- a plugin whose figures are ours ------------------------------------------------------------
 */

static struct mm_spool_stats stats;

void __wrap_mm_spool_stats(const struct mm_spool *s, struct mm_spool_stats *out);
void __wrap_mm_spool_stats(const struct mm_spool *s, struct mm_spool_stats *out)
{
    (void)s;
    *out = stats;
}

static uint64_t to_take;

uint64_t __wrap_mm_spool_to_take(const struct mm_spool *s);
uint64_t __wrap_mm_spool_to_take(const struct mm_spool *s)
{
    (void)s;
    return to_take;
}

struct rig
{
    struct mm_lanes *lanes;
    struct mm_metrics *metrics;
    struct mm_spool *spool;
    struct mm_status *status;
    uint64_t begin_ns; /* CLOCK_MONOTONIC */
    uint64_t ns;       /* since then */
};

static void add_lane(struct rig *r, const char *topic)
{
    uint32_t lane;
    assert_int_equal(mm_lanes_get(r->lanes, topic, strlen(topic), &lane), 0);
}

static struct rig *new_rig(uint32_t n_workers)
{
    struct rig *r = calloc(1, sizeof *r);
    assert_non_null(r);
    r->begin_ns = mm_clock_monotonic_ns();
    assert_int_equal(mm_lanes_new(&r->lanes), 0);
    add_lane(r, "mqtt");
    struct mm_metrics_info info = {.version = "1.2.3",
                                   .librdkafka = "2.0.2",
                                   .mosquitto = "2.0",
                                   .n_workers = n_workers,
                                   .lanes = r->lanes};
    assert_int_equal(mm_metrics_new(&info, &r->metrics), 0);
    struct mm_spool_options spool = {.max_bytes = (uint64_t)1024 * 1024, .n_readers = n_workers};
    char errstr[256];
    assert_int_equal(mm_spool_open(&spool, &r->spool, errstr, sizeof errstr), 0);
    assert_int_equal(mm_status_new(r->metrics, r->spool, &r->status), 0);
    stats = (struct mm_spool_stats){.limit_bytes = LIMIT, .allocated_bytes = LIMIT / 4};
    to_take = 0;
    for (uint32_t k = 0; k < n_workers; k++) {
        mm_gauge_set(&mm_metrics_worker(r->metrics, k)->kafka_up, 1);
        mm_gauge_set(&mm_metrics_worker(r->metrics, k)->kafka_was_up, 1);
    }
    return r;
}

static void free_rig(struct rig *r)
{
    mm_status_free(r->status);
    mm_metrics_free(r->metrics);
    mm_spool_close(r->spool);
    mm_lanes_free(r->lanes);
    free(r);
}

static uint64_t now_ms(const struct rig *r)
{
    return START_MS + r->ns / 1000000;
}

/* Let time pass, a look each second. */
static void pass(struct rig *r, uint64_t seconds)
{
    for (uint64_t i = 0; i < seconds; i++) {
        r->ns += SECOND;
        mm_status_sample(r->status, r->begin_ns + r->ns, now_ms(r));
    }
}

/* What /status says now; the caller deletes it. */
static cJSON *ask(struct rig *r)
{
    char *json;
    size_t len;
    assert_int_equal(mm_status_json(r->status, r->begin_ns + r->ns, now_ms(r), &json, &len), 0);
    assert_int_equal(strlen(json), len);
    assert_int_equal(json[len - 1], '\n');
    const char *end;
    cJSON *root = cJSON_ParseWithOpts(json, &end, 0);
    assert_non_null(root);
    assert_string_equal(end, "\n");
    free(json);
    return root;
}

static const cJSON *member(const cJSON *object, const char *name)
{
    const cJSON *found = cJSON_GetObjectItemCaseSensitive(object, name);
    if (found == NULL) {
        fail_msg("no member %s", name);
    }
    return found;
}

static const char *text(const cJSON *object, const char *name)
{
    const char *found = cJSON_GetStringValue(member(object, name));
    assert_non_null(found);
    return found;
}

static double number(const cJSON *object, const char *name)
{
    const cJSON *found = member(object, name);
    assert_true(cJSON_IsNumber(found));
    return found->valuedouble;
}

static void assert_near(double value, double expected, double tolerance)
{
    if (value < expected - tolerance || value > expected + tolerance) {
        fail_msg("%f is not near %f", value, expected);
    }
}

static void assert_no(const cJSON *object, const char *name)
{
    assert_true(cJSON_IsNull(member(object, name)));
}

static void assert_contains(const char *whole, const char *part)
{
    if (strstr(whole, part) == NULL) {
        fail_msg("\"%s\" does not contain \"%s\"", whole, part);
    }
}

/* The problem with this id, or NULL. */
static const cJSON *problem(const cJSON *root, const char *id)
{
    const cJSON *p;
    for (p = member(root, "problems")->child; p != NULL; p = p->next) {
        if (strcmp(text(p, "id"), id) == 0) {
            return p;
        }
    }
    return NULL;
}

/* --- tests --------------------------------------------------------------------------------------
 */

static void test_well(void **state)
{
    (void)state;
    struct rig *r = new_rig(2);
    pass(r, 1);
    cJSON *root = ask(r);
    assert_string_equal(text(root, "level"), "ok");
    assert_string_equal(text(root, "title"), "All is well");
    assert_string_equal(text(root, "text"), "Kafka is reached. Nothing comes in at the moment.");
    assert_string_equal(text(root, "reason"), "ok");
    assert_true(cJSON_IsTrue(member(root, "healthy")));
    assert_true(cJSON_IsTrue(member(root, "ready")));
    assert_true(cJSON_IsTrue(member(root, "live")));
    assert_string_equal(text(root, "version"), "1.2.3");
    assert_string_equal(text(root, "librdkafka"), "2.0.2");
    assert_string_equal(text(root, "mosquitto"), "2.0");
    assert_int_equal(cJSON_GetArraySize(member(root, "problems")), 0);
    assert_int_equal(cJSON_GetArraySize(member(root, "events")), 0);
    assert_int_equal(cJSON_GetArraySize(member(root, "workers")), 2);
    const cJSON *spool = member(root, "spool");
    assert_no(spool, "oldest_seconds");
    assert_no(spool, "seconds_to_full");
    const cJSON *topic = cJSON_GetArrayItem(member(root, "topics"), 0);
    assert_string_equal(text(topic, "kafka_topic"), "mqtt");
    assert_true(cJSON_IsFalse(member(topic, "parked")));
    assert_no(topic, "next_try");
    cJSON_Delete(root);

    mm_counter_add(&mm_metrics_broker(r->metrics)->received[1], 50);
    r->ns += SECOND / 2;
    root = ask(r);
    assert_string_equal(text(root, "text"), "Messages flow to Kafka as they come.");
    cJSON_Delete(root);
    mm_gauge_set(&mm_metrics_worker(r->metrics, 0)->oldest_ms, now_ms(r) - 6000);
    to_take = 50;
    root = ask(r);
    assert_string_equal(text(root, "text"), "What has waited is being delivered: 50 messages.");
    assert_near(number(member(root, "spool"), "oldest_seconds"), 6, 0.001);
    cJSON_Delete(root);
    free_rig(r);
}

/* Each problem: how it comes, what it is called, and how it goes. */

static struct mm_metrics_worker *worker(struct rig *r)
{
    return mm_metrics_worker(r->metrics, 0);
}

static void make_stuck(struct rig *r, bool on)
{
    mm_gauge_set(&worker(r)->heartbeat_ns, on ? 1 : 0);
}

static void make_full(struct rig *r, bool on)
{
    (void)r;
    stats.full = on;
}

static void make_unsynced(struct rig *r, bool on)
{
    (void)r;
    stats.degraded = on;
}

static void make_low_space(struct rig *r, bool on)
{
    (void)r;
    stats.low_space = on;
}

static void make_nearly_full(struct rig *r, bool on)
{
    (void)r;
    stats.used_bytes = on ? LIMIT * 8 / 10 : 0;
}

static void make_tight(struct rig *r, bool on)
{
    (void)r;
    stats.tight = on;
}

static void make_down(struct rig *r, bool on)
{
    mm_gauge_set(&worker(r)->kafka_up, on ? 0 : 1);
    mm_gauge_set(&worker(r)->down_why, on ? MM_TROUBLE_EXPIRED : MM_TROUBLE_NONE);
}

static void make_stalled(struct rig *r, bool on)
{
    make_down(r, on);
    mm_gauge_set(&worker(r)->down_why, MM_METRICS_STALLED);
}

static void make_never_up(struct rig *r, bool on)
{
    make_down(r, on);
    mm_gauge_set(&worker(r)->kafka_was_up, on ? 0 : 1);
}

static void make_parked_worker(struct rig *r, bool on)
{
    mm_gauge_set(&worker(r)->state, on ? MM_WORKER_PARKED : MM_WORKER_RUNNING);
    atomic_store(&worker(r)->refusal, "TOPIC_AUTHORIZATION_FAILED");
    to_take = on ? 7 : 0;
}

static void make_parked_topic(struct rig *r, bool on)
{
    struct mm_metrics_worker *w = mm_metrics_park(r->metrics, 0);
    atomic_store(&w->refusal, "UNKNOWN_TOPIC_OR_PART");
    mm_metrics_park_set(r->metrics, 0, on ? 1 : 0, 0, 100);
}

static void make_parked_old(struct rig *r, bool on)
{
    assert_non_null(mm_metrics_park(r->metrics, MM_METRICS_LANE_OLD));
    mm_metrics_park_set(r->metrics, MM_METRICS_LANE_OLD, on ? 3 : 0, 0, 100);
}

static void make_behind(struct rig *r, bool on)
{
    mm_gauge_set(&worker(r)->oldest_ms, on ? now_ms(r) - (uint64_t)700 * 1000 : 0);
}

static void make_bad_files(struct rig *r, bool on)
{
    (void)r;
    stats.n_bad_files = on ? 2 : 0;
}

static void make_reload_failed(struct rig *r, bool on)
{
    mm_gauge_set(&mm_metrics_live(r->metrics)->failed, on ? 1 : 0);
}

static const struct state
{
    const char *id;
    const char *level;
    void (*make)(struct rig *r, bool on);
    const char *title;
    const char *text;    /* a part */
    const char *advice;  /* a part */
    const char *verdict; /* a part of the text above all */
    const char *was;
} states[] = {
    {"stuck", "critical", make_stuck, "A worker thread does not move", "more than 30 s", "Restart",
     "not all of them are delivered", "A worker thread did not move"},
    {"full", "critical", make_full, "The spool is full", "QoS 1 and 2 are refused",
     "Bring Kafka back", "New messages are not taken.", "The spool was full"},
    {"unsynced", "critical", make_unsynced, "The disk does not sync", "power failure",
     "Do not restart the machine", "a power failure would lose some", "The disk did not sync"},
    {"low_space", "critical", make_low_space, "The disk of the spool is nearly full",
     "Others may have filled it", "Free space", "can take no more",
     "The disk of the spool was nearly full"},
    {"nearly_full", "critical", make_nearly_full, "The spool is nearly full", "80 % of it are used",
     "raise spool_max_bytes", "Soon publishers are turned away.", "The spool was nearly full"},
    {"nearly_full", "critical", make_tight, "The spool is nearly full", "0 % of it are used",
     "raise spool_max_bytes", "Soon publishers are turned away.", "The spool was nearly full"},
    {"kafka", "warning", make_down, "Kafka is not reached", "Reason: its certificate has expired.",
     "Renew it at Kafka (or is this machine's clock wrong?).", "kept in the spool",
     "Kafka was not reached"},
    {"kafka", "warning", make_stalled, "Kafka is not reached",
     "Reason: it is connected, but confirms nothing.", "frozen", "kept in the spool",
     "Kafka was not reached"},
    {"kafka", "warning", make_never_up, "Kafka has not been reached yet", "Messages wait",
     "Renew it at Kafka (or is this machine's clock wrong?).", "kept in the spool",
     "Kafka was not reached"},
    {"parked", "warning", make_parked_worker, "Kafka refuses the topic mqtt",
     "there is no right to write to it (TOPIC_AUTHORIZATION_FAILED). 7 messages wait, in order. It",
     "Grant", "kept in the spool", "Kafka refused a topic"},
    {"parked", "warning", make_parked_topic, "Kafka refuses the topic mqtt",
     "it is not there (UNKNOWN_TOPIC_OR_PART). 1 message waits, in order; all others go on.",
     "Make the topic", "all others flow", "Kafka refused a topic"},
    {"parked", "warning", make_parked_old, "Kafka refuses what was parked by earlier routes",
     "the broker's log says why. 3 messages wait", "log", "all others flow",
     "Kafka refused a topic"},
    {"behind", "warning", make_behind, "Kafka is more than ten minutes behind",
     "has waited for 11 min", "kafka_workers", "go out late",
     "Kafka was more than ten minutes behind"},
    {"reload", "warning", make_reload_failed, "New settings were not taken",
     "The settings of before are in use.", "SIGHUP", "flow by the settings of before",
     "New settings were not taken"},
    {"bad_files", "warning", make_bad_files, "Damaged files were set aside", "2 files lie in bad/",
     "spool verify", "Messages flow to Kafka.", "Damaged files were set aside"},
};

static void check_state(const struct state *s)
{
    struct rig *r = new_rig(1);
    pass(r, 20);
    s->make(r, true);
    pass(r, 1);
    uint64_t began_ms = now_ms(r);
    pass(r, 12);
    cJSON *root = ask(r);
    assert_string_equal(text(root, "level"), s->level);
    assert_string_equal(text(root, "title"), s->title);
    assert_contains(text(root, "text"), s->verdict);
    assert_near(number(root, "since"), (double)began_ms / 1000, 0.001);
    assert_int_equal(cJSON_GetArraySize(member(root, "problems")), 1);
    const cJSON *p = problem(root, s->id);
    assert_non_null(p);
    assert_string_equal(text(p, "level"), s->level);
    assert_string_equal(text(p, "title"), s->title);
    assert_contains(text(p, "text"), s->text);
    assert_contains(text(p, "advice"), s->advice);
    assert_near(number(p, "since"), (double)began_ms / 1000, 0.001);
    const cJSON *e = cJSON_GetArrayItem(member(root, "events"), 0);
    assert_string_equal(text(e, "title"), s->title);
    assert_no(e, "ended");
    cJSON_Delete(root);

    s->make(r, false);
    pass(r, 1);
    root = ask(r);
    assert_string_equal(text(root, "level"), "ok");
    assert_near(number(root, "since"), (double)now_ms(r) / 1000, 0.001);
    assert_int_equal(cJSON_GetArraySize(member(root, "events")), 1);
    e = cJSON_GetArrayItem(member(root, "events"), 0);
    assert_string_equal(text(e, "id"), s->id);
    assert_string_equal(text(e, "title"), s->was);
    assert_contains(text(e, "advice"), s->advice);
    assert_near(number(e, "began"), (double)began_ms / 1000, 0.001);
    assert_near(number(e, "ended"), (double)now_ms(r) / 1000, 0.001);
    cJSON_Delete(root);
    free_rig(r);
}

static void test_states(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof states / sizeof states[0]; i++) {
        check_state(&states[i]);
    }
}

static void test_the_worst_comes_first(void **state)
{
    (void)state;
    struct rig *r = new_rig(1);
    pass(r, 1);
    make_down(r, true);
    make_nearly_full(r, true);
    make_bad_files(r, true);
    pass(r, 1);
    cJSON *root = ask(r);
    assert_string_equal(text(root, "title"), "The spool is nearly full");
    const cJSON *problems = member(root, "problems");
    assert_int_equal(cJSON_GetArraySize(problems), 3);
    assert_string_equal(text(cJSON_GetArrayItem(problems, 0), "id"), "nearly_full");
    assert_string_equal(text(cJSON_GetArrayItem(problems, 1), "id"), "kafka");
    assert_string_equal(text(cJSON_GetArrayItem(problems, 2), "id"), "bad_files");
    cJSON_Delete(root);

    /* A full spool is not also nearly full. */
    make_full(r, true);
    root = ask(r);
    assert_no(member(root, "spool"), "seconds_to_full");
    assert_non_null(problem(root, "full"));
    assert_true(problem(root, "nearly_full") == NULL);
    cJSON_Delete(root);
    free_rig(r);
}

static void test_drop_oldest(void **state)
{
    (void)state;
    struct rig *r = new_rig(1);
    stats.drop_oldest = true;
    make_nearly_full(r, true);
    cJSON *root = ask(r);
    assert_contains(text(root, "text"), "the oldest messages give way");
    assert_contains(text(problem(root, "nearly_full"), "text"), "the oldest messages give way");
    cJSON_Delete(root);
    make_full(r, true);
    root = ask(r);
    assert_contains(text(root, "text"), "The oldest messages give way");
    assert_contains(text(problem(root, "full"), "text"), "The oldest messages give way");
    cJSON_Delete(root);
    free_rig(r);
}

/* What is counted: what was there before the first look is no news; then it is told for a while. */
static void check_counted(const char *id,
                          const char *title,
                          const char *words,
                          uint64_t hold_s,
                          void (*count)(struct rig *r, uint64_t n))
{
    struct rig *r = new_rig(1);
    count(r, 5);
    pass(r, 3);
    cJSON *root = ask(r);
    assert_true(problem(root, id) == NULL);
    cJSON_Delete(root);

    count(r, 2);
    pass(r, 1);
    uint64_t began_ms = now_ms(r);
    pass(r, 10);
    count(r, 1);
    pass(r, hold_s - 1);
    root = ask(r);
    const cJSON *p = problem(root, id);
    assert_non_null(p);
    assert_string_equal(text(p, "title"), title);
    assert_contains(text(p, "text"), words);
    assert_near(number(p, "count"), 3, 0);
    assert_near(number(p, "since"), (double)began_ms / 1000, 0.001);
    cJSON_Delete(root);

    pass(r, 2);
    root = ask(r);
    assert_true(problem(root, id) == NULL);
    const cJSON *e = cJSON_GetArrayItem(member(root, "events"), 0);
    assert_string_equal(text(e, "id"), id);
    assert_near(number(e, "count"), 3, 0);
    assert_true(cJSON_IsNumber(member(e, "ended")));
    cJSON_Delete(root);
    free_rig(r);
}

static void count_refused(struct rig *r, uint64_t n)
{
    mm_counter_add(&mm_metrics_broker(r->metrics)->refused[MM_REFUSED_TOO_LARGE], n);
}

static void count_dropped(struct rig *r, uint64_t n)
{
    mm_counter_add(&mm_metrics_broker(r->metrics)->dropped[MM_DROPPED_QOS0], n);
}

static void count_dead(struct rig *r, uint64_t n)
{
    mm_counter_add(&worker(r)->dead_lettered[MM_DEAD_INVALID], n);
}

static void count_errors(struct rig *r, uint64_t n)
{
    (void)r;
    stats.n_io_errors += n;
}

static void test_counted(void **state)
{
    (void)state;
    check_counted("refusing", "Publishers are turned away", "3 messages were refused", 60,
                  count_refused);
    check_counted("dropping", "Messages are lost", "3 messages were let go", 60, count_dropped);
    check_counted("dead_letters", "Kafka refuses messages for good",
                  "3 messages became dead letters", 600, count_dead);
    check_counted("disk", "The disk of the spool has errors", "3 times reading, writing", 600,
                  count_errors);
}

static void test_reasons(void **state)
{
    (void)state;
    struct rig *r = new_rig(1);
    count_refused(r, 1);
    count_dropped(r, 2);
    count_dead(r, 3);
    cJSON *root = ask(r);
    const cJSON *flow = member(root, "flow");
    assert_near(number(flow, "refused"), 1, 0);
    assert_near(number(member(flow, "refused_by_reason"), "too_large"), 1, 0);
    assert_near(number(member(flow, "refused_by_reason"), "spool_full"), 0, 0);
    assert_near(number(flow, "dropped"), 2, 0);
    assert_near(number(member(flow, "dropped_by_reason"), "qos0_spool_full"), 2, 0);
    assert_near(number(flow, "dead_lettered"), 3, 0);
    assert_near(number(member(flow, "dead_lettered_by_reason"), "invalid"), 3, 0);
    assert_near(number(flow, "difference"), -6, 0);
    cJSON_Delete(root);
    free_rig(r);
}

/* The first connection takes a moment, and that is no event; a long one is. */
static void test_start(void **state)
{
    (void)state;
    static const struct
    {
        uint64_t seconds;
        int n_events;
    } cases[] = {{3, 0}, {30, 1}};
    for (size_t i = 0; i < 2; i++) {
        struct rig *r = new_rig(1);
        make_never_up(r, true);
        pass(r, cases[i].seconds);
        cJSON *root = ask(r);
        assert_string_equal(text(root, "title"), "Kafka has not been reached yet");
        assert_int_equal(cJSON_GetArraySize(member(root, "events")), 1);
        cJSON_Delete(root);
        make_never_up(r, false);
        pass(r, 1);
        root = ask(r);
        assert_int_equal(cJSON_GetArraySize(member(root, "events")), cases[i].n_events);
        cJSON_Delete(root);
        free_rig(r);
    }
}

static void test_some_workers(void **state)
{
    (void)state;
    struct rig *r = new_rig(3);
    make_down(r, true);
    pass(r, 1);
    cJSON *root = ask(r);
    assert_string_equal(text(root, "title"), "1 of 3 workers do not reach Kafka");
    const cJSON *workers = member(root, "workers");
    assert_true(cJSON_IsFalse(member(cJSON_GetArrayItem(workers, 0), "kafka_reached")));
    assert_true(cJSON_IsTrue(member(cJSON_GetArrayItem(workers, 2), "kafka_reached")));
    cJSON_Delete(root);
    free_rig(r);
}

static void test_worker(void **state)
{
    (void)state;
    struct rig *r = new_rig(1);
    struct mm_metrics_worker *w = worker(r);
    pass(r, 10);
    mm_counter_add(&w->delivered, 500);
    mm_gauge_set(&w->held, 9);
    mm_gauge_set(&w->in_flight, 4);
    mm_gauge_set(&w->oldest_ms, now_ms(r) - 1500);
    mm_gauge_set(&w->last_delivery_ms, now_ms(r) - 250);
    mm_gauge_set(&w->retry_at_ms, now_ms(r) + 3000);
    mm_gauge_set(&w->state, MM_WORKER_SINGLE);
    cJSON *root = ask(r);
    const cJSON *found = cJSON_GetArrayItem(member(root, "workers"), 0);
    assert_string_equal(text(found, "state"), "single");
    assert_true(cJSON_IsTrue(member(found, "alive")));
    assert_near(number(found, "delivered"), 500, 0);
    assert_near(number(found, "delivered_per_second"), 100, 0.1); /* in the last five seconds */
    assert_near(number(found, "held"), 9, 0);
    assert_near(number(found, "in_flight"), 4, 0);
    assert_near(number(found, "oldest_seconds"), 1.5, 0.001);
    assert_near(number(found, "last_delivery"), (double)now_ms(r) / 1000 - 0.25, 0.001);
    assert_near(number(found, "next_try"), (double)now_ms(r) / 1000 + 3, 0.001);
    cJSON_Delete(root);
    free_rig(r);
}

/* 200 messages and 1000 bytes a second come in, and half of the messages go out. */
static void flow(struct rig *r, uint64_t seconds)
{
    for (uint64_t i = 0; i < seconds; i++) {
        mm_counter_add(&mm_metrics_broker(r->metrics)->received[0], 200);
        mm_counter_add(&worker(r)->delivered, 100);
        stats.used_bytes += 1000;
        pass(r, 1);
    }
}

static void test_rates(void **state)
{
    (void)state;
    struct rig *r = new_rig(1);
    pass(r, 1);
    flow(r, 30);
    cJSON *root = ask(r);
    assert_near(number(member(root, "flow"), "received_per_second"), 200, 0.1);
    assert_near(number(member(root, "flow"), "delivered_per_second"), 100, 0.1);
    /* Nothing has waited for long: what is in the spool is on its way. */
    assert_no(member(root, "spool"), "seconds_to_full");
    cJSON_Delete(root);

    mm_gauge_set(&worker(r)->oldest_ms, now_ms(r) - 20000);
    root = ask(r);
    assert_near(number(member(root, "spool"), "seconds_to_full"), 970, 1);
    cJSON_Delete(root);
    make_down(r, true);
    root = ask(r);
    assert_contains(text(root, "text"), "At this pace there is room for 16 min.");
    cJSON_Delete(root);

    /* The disk is full before the limit is reached: 250,000 bytes are taken, 30,000 of them used.
     */
    stats.on_disk = true;
    stats.free_bytes = 10000;
    root = ask(r);
    assert_near(number(member(root, "spool"), "seconds_to_full"), 230, 1);
    cJSON_Delete(root);

    /* It does not grow any more. */
    stats.on_disk = false;
    pass(r, 70);
    root = ask(r);
    assert_no(member(root, "spool"), "seconds_to_full");
    assert_near(number(member(root, "flow"), "received_per_second"), 0, 0);
    cJSON_Delete(root);
    free_rig(r);
}

static void test_topic_rates(void **state)
{
    (void)state;
    struct rig *r = new_rig(1);
    add_lane(r, "other");
    for (int i = 0; i < 20; i++) {
        for (int n = 0; n < 30; n++) {
            mm_lanes_count_delivered(r->lanes, 1);
        }
        pass(r, 1);
    }
    cJSON *root = ask(r);
    const cJSON *topics = member(root, "topics");
    assert_near(number(cJSON_GetArrayItem(topics, 0), "delivered_per_second"), 0, 0);
    assert_near(number(cJSON_GetArrayItem(topics, 1), "delivered_per_second"), 30, 0.01);
    assert_near(number(cJSON_GetArrayItem(topics, 1), "delivered"), 600, 0);
    cJSON_Delete(root);
    pass(r, 6);
    root = ask(r);
    topics = member(root, "topics");
    assert_near(number(cJSON_GetArrayItem(topics, 1), "delivered_per_second"), 0, 0);
    cJSON_Delete(root);
    free_rig(r);
}

static void test_history(void **state)
{
    (void)state;
    struct rig *r = new_rig(1);
    pass(r, 1);
    flow(r, 45);
    cJSON *root = ask(r);
    const cJSON *history = member(root, "history");
    assert_near(number(history, "step_seconds"), 10, 0);
    const cJSON *received = member(history, "received_per_second");
    assert_int_equal(cJSON_GetArraySize(received), 4);
    assert_int_equal(cJSON_GetArraySize(member(history, "delivered_per_second")), 4);
    assert_near(cJSON_GetArrayItem(received, 3)->valuedouble, 200, 0.1);
    assert_near(cJSON_GetArrayItem(member(history, "spool_bytes"), 3)->valuedouble, 40000, 0);
    cJSON_Delete(root);

    /* The oldest is the first, and ten minutes are kept. */
    pass(r, 580);
    flow(r, 20);
    root = ask(r);
    history = member(root, "history");
    received = member(history, "received_per_second");
    assert_int_equal(cJSON_GetArraySize(received), 60);
    assert_near(cJSON_GetArrayItem(received, 30)->valuedouble, 0, 0);
    assert_true(cJSON_GetArrayItem(received, 0)->valuedouble > 0);
    assert_true(cJSON_GetArrayItem(received, 59)->valuedouble > 0);
    cJSON_Delete(root);
    free_rig(r);
}

static void test_many_events(void **state)
{
    (void)state;
    struct rig *r = new_rig(1);
    make_bad_files(r, true); /* its event is forgotten, and it goes on */
    pass(r, 1);
    for (int i = 0; i < 50; i++) {
        make_low_space(r, true);
        pass(r, 1);
        make_low_space(r, false);
        pass(r, 1);
    }
    cJSON *root = ask(r);
    const cJSON *events = member(root, "events");
    assert_int_equal(cJSON_GetArraySize(events), 20);
    const cJSON *e;
    double before = 1e18;
    for (e = events->child; e != NULL; e = e->next) {
        assert_string_equal(text(e, "id"), "low_space");
        assert_true(number(e, "began") < before);
        before = number(e, "began");
    }
    assert_non_null(problem(root, "bad_files"));
    cJSON_Delete(root);
    make_bad_files(r, false);
    pass(r, 1);
    root = ask(r);
    for (e = member(root, "events")->child; e != NULL; e = e->next) {
        assert_string_equal(text(e, "id"), "low_space");
    }
    cJSON_Delete(root);
    free_rig(r);
}

/* Those that are parked come first; of many, the rest is only counted. */
static void test_topics(void **state)
{
    (void)state;
    struct rig *r = new_rig(1);
    for (int i = 0; i < 150; i++) {
        char topic[16];
        snprintf(topic, sizeof topic, "t%d", i);
        add_lane(r, topic);
    }
    static const uint32_t parked[] = {120, 149};
    for (size_t i = 0; i < 2; i++) {
        struct mm_metrics_worker *w = mm_metrics_park(r->metrics, parked[i]);
        mm_metrics_park_set(r->metrics, parked[i], 10, 0, 1000);
        mm_gauge_set(&w->oldest_ms, now_ms(r) - 5000);
        mm_gauge_set(&w->retry_at_ms, now_ms(r) + 1000);
        atomic_store(&w->refusal, "POLICY_VIOLATION");
    }
    cJSON *root = ask(r);
    assert_string_equal(text(root, "title"), "Kafka refuses 2 topics");
    const cJSON *topics = member(root, "topics");
    assert_int_equal(cJSON_GetArraySize(topics), 100);
    assert_near(number(root, "topics_left_out"), 51, 0);
    const cJSON *t = cJSON_GetArrayItem(topics, 0);
    assert_string_equal(text(t, "kafka_topic"), "t119");
    assert_true(cJSON_IsTrue(member(t, "parked")));
    assert_string_equal(text(t, "error"), "POLICY_VIOLATION");
    assert_string_equal(text(t, "reason"), "a policy of the cluster forbids it");
    assert_near(number(t, "messages"), 10, 0);
    assert_near(number(t, "bytes"), 1000, 0);
    assert_near(number(t, "oldest_seconds"), 5, 0.001);
    assert_near(number(t, "next_try"), (double)now_ms(r) / 1000 + 1, 0.001);
    assert_string_equal(text(cJSON_GetArrayItem(topics, 1), "kafka_topic"), "t148");
    assert_string_equal(text(cJSON_GetArrayItem(topics, 2), "kafka_topic"), "mqtt");
    assert_string_equal(text(cJSON_GetArrayItem(topics, 2), "reason"), "");
    cJSON_Delete(root);

    /* A worker that waits as a whole, with several topics. */
    mm_metrics_park_set(r->metrics, 120, 0, 0, 0);
    mm_metrics_park_set(r->metrics, 149, 0, 0, 0);
    make_parked_worker(r, true);
    root = ask(r);
    assert_string_equal(text(root, "title"), "Kafka refuses all messages");
    cJSON_Delete(root);
    free_rig(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_well),        cmocka_unit_test(test_states),
        cmocka_unit_test(test_drop_oldest), cmocka_unit_test(test_the_worst_comes_first),
        cmocka_unit_test(test_counted),     cmocka_unit_test(test_reasons),
        cmocka_unit_test(test_start),       cmocka_unit_test(test_some_workers),
        cmocka_unit_test(test_worker),      cmocka_unit_test(test_rates),
        cmocka_unit_test(test_history),     cmocka_unit_test(test_many_events),
        cmocka_unit_test(test_topics),      cmocka_unit_test(test_topic_rates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
