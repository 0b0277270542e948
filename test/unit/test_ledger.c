/* The ledger over restarts, against a made-up log: what a disk keeps of a process that is killed,
 * and nothing else, outlives it here. mm_metrics calls four functions of the log; the linker puts
 * those below in their place (--wrap). */
#include "mm_metrics.h"
#include "mm_spool.h"

#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* --- a made-up log ------------------------------------------------------------------------------
 *
 * One reader. Records are numbers from 0. What is below low is finished; what is finished above it
 * is done "again" after a restart. */

#define RECORDS_MAX 3000

struct state
{
    bool written;
    uint32_t low;
    uint32_t next_seq;
    uint32_t n_repeat;
    uint64_t counters[MM_LAYOUT_COUNTERS];
};

struct log
{
    /* kept by the disk */
    uint32_t n_records;
    bool damaged[RECORDS_MAX];
    struct state state;

    /* of the process */
    struct mm_spool_found found;
    uint64_t to_take;
    uint64_t n_repeat; /* not taken yet */
    uint64_t n_lost;
    uint32_t cursor;
    bool done[RECORDS_MAX];
    uint32_t n_taken;
    uint32_t n_held;
    uint32_t low; /* as the worker published it */
    uint32_t n_done_above_low;
};

static struct log main_log;
static struct log parked_log;
static struct mm_metrics *metrics;

/* Records that were counted as finished since the logs were opened, or since an orderly stop. */
static uint64_t n_finished;

/* Called while STATE is being made, between what the log knows and the counters; and when that is
 * done. */
static void (*interrupt)(void);
static void (*afterwards)(void);

static struct mm_spool *spool(void)
{
    return (struct mm_spool *)(void *)&main_log;
}

static void write_state(struct log *l, mm_spool_counters_fn counters, void *arg)
{
    struct state state = l->state; /* the counters are handed in as they were */
    state.written = true;
    state.low = l->low;
    state.n_repeat = l->n_done_above_low + (uint32_t)l->n_repeat;
    state.next_seq = l->n_records;
    if (interrupt != NULL) {
        interrupt();
    }
    counters(arg, state.counters);
    l->state = state;
    if (afterwards != NULL) {
        afterwards();
    }
}

void __wrap_mm_spool_checkpoint(struct mm_spool *s);
void __wrap_mm_spool_checkpoint(struct mm_spool *s)
{
    write_state((struct log *)(void *)s, mm_metrics_counters, metrics);
}

uint64_t __wrap_mm_spool_to_take(const struct mm_spool *s);
uint64_t __wrap_mm_spool_to_take(const struct mm_spool *s)
{
    return ((const struct log *)(const void *)s)->to_take;
}

uint64_t __wrap_mm_spool_n_repeat(const struct mm_spool *s);
uint64_t __wrap_mm_spool_n_repeat(const struct mm_spool *s)
{
    return ((const struct log *)(const void *)s)->n_repeat;
}

void __wrap_mm_spool_stats(const struct mm_spool *s, struct mm_spool_stats *out);
void __wrap_mm_spool_stats(const struct mm_spool *s, struct mm_spool_stats *out)
{
    const struct log *l = (const struct log *)(const void *)s;
    *out = (struct mm_spool_stats){.limit_bytes = 1000000, .on_disk = true, .n_lost = l->n_lost};
}

static bool take_repeat(struct log *l)
{
    if (l->n_repeat == 0) {
        return false;
    }
    l->n_repeat--;
    return true;
}

static void open_log(struct log *l)
{
    const struct state *s = &l->state;
    /* What STATE knows and the disk has not is met by the reader, like a record that is damaged. */
    while (l->n_records < s->next_seq) {
        l->damaged[l->n_records++] = true;
    }
    l->found = (struct mm_spool_found){
        .n_records = l->n_records - s->low,
        .n_repeat = s->n_repeat,
        .has_counters = s->written,
    };
    memcpy(l->found.counters, s->counters, sizeof s->counters);
    l->to_take = l->found.n_records;
    l->n_repeat = l->found.n_repeat;
    l->n_lost = 0;
    l->low = s->low;
    l->cursor = s->low;
    l->n_taken = 0;
    l->n_held = 0;
    l->n_done_above_low = 0;
    memset(l->done, 0, sizeof l->done);
}

static void append_to(struct log *l)
{
    l->damaged[l->n_records++] = false;
    l->to_take++;
}

/* The reader meets a record that is damaged. When all that is left was finished before, so was it.
 */
static void lose(struct log *l, uint32_t seq)
{
    l->done[seq] = true;
    l->to_take--;
    uint64_t left = l->to_take + 1 - l->n_taken + l->n_held;
    if (l->n_repeat >= left) {
        l->n_repeat--;
    } else {
        l->n_lost++;
        n_finished++;
    }
}

static void take(struct log *l)
{
    while (l->cursor < l->n_records) {
        uint32_t seq = l->cursor++;
        if (l->done[seq]) {
            continue;
        }
        if (!l->damaged[seq]) {
            l->n_taken++;
            l->n_held++;
            return;
        }
        lose(l, seq);
    }
}

/* What the worker tells the log and the metrics, once a turn. */
static void publish(struct log *l, struct mm_metrics_worker *w)
{
    while (l->low < l->cursor && l->done[l->low]) {
        l->low++;
    }
    l->n_done_above_low = 0;
    for (uint32_t i = l->low; i < l->cursor; i++) {
        l->n_done_above_low += l->done[i] ? 1 : 0;
    }
    mm_gauge_set(&w->taken, l->n_taken);
    mm_gauge_set(&w->held, l->n_held);
}

/* --- a made-up plugin ---------------------------------------------------------------------------
 */

/* What has happened in all histories: a history in which nothing happens proves nothing. */
static struct
{
    uint64_t n_kills;
    uint64_t n_orderly;
    uint64_t n_repeated;
    uint64_t n_parked;
    uint64_t n_damaged;
    uint64_t n_cut_off;
    uint64_t n_twice;
} tally;

static uint64_t seed;
static uint64_t random_state;

static uint32_t any(uint32_t n)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 33) % n;
}

#define CHECK(condition)                                                           \
    do {                                                                           \
        if (!(condition)) {                                                        \
            fail_msg("seed %" PRIu64 ", line %d: %s", seed, __LINE__, #condition); \
        }                                                                          \
    } while (0)

static uint64_t n_appended; /* by all processes, less what a power failure took unseen */
static bool may_be_killed;
static bool is_half_way; /* the process is in the middle of a message */
static uint64_t n_twice; /* at most so many were counted twice by a kill */

static struct mm_metrics_worker *main_worker(void)
{
    return mm_metrics_worker(metrics, 0);
}

static struct mm_metrics_worker *parked_worker(void)
{
    return mm_metrics_park(metrics, 0);
}

static void tell_parked(void)
{
    mm_metrics_park_set(metrics, 0, parked_log.to_take - parked_log.n_repeat, parked_log.n_lost, 0);
}

/* A message arrives. The process may be killed half-way. */
static bool receive(void)
{
    is_half_way = true;
    struct mm_metrics_broker *b = mm_metrics_broker(metrics);
    switch (any(8)) {
        case 0:
            mm_counter_add(&b->refused[any(MM_N_REFUSED)], 1);
            break;
        case 1:
            mm_counter_add(&b->dropped[any(MM_DROPPED_IO + 1)], 1);
            break;
        default:
            append_to(&main_log);
            n_appended++;
            if (may_be_killed && any(20) == 0) {
                return false;
            }
            mm_counter_add(&b->spooled, 1);
            break;
    }
    if (may_be_killed && any(20) == 0) {
        return false;
    }
    mm_counter_add(&b->received_bytes, any(100));
    mm_counter_add(&b->received[any(3)], 1);
    is_half_way = false;
    return true;
}

static bool choose_held(const struct log *l, uint32_t *seq)
{
    if (l->n_held == 0) {
        return false;
    }
    uint32_t skip = any(l->n_held < 4 ? l->n_held : 4);
    for (uint32_t i = l->low; i < l->cursor; i++) {
        if (!l->done[i] && skip-- == 0) {
            *seq = i;
            return true;
        }
    }
    return false;
}

static void count_finished(struct mm_metrics_worker *w)
{
    switch (any(10)) {
        case 0:
            mm_counter_add(&w->dead_lettered[any(MM_N_DEAD)], 1);
            break;
        case 1:
            mm_counter_add(&w->dropped_oldest, 1);
            break;
        default:
            mm_counter_add(&w->delivered, 1);
            mm_counter_add(&w->delivered_bytes, any(50));
            break;
    }
}

static void finish_main(bool may_park)
{
    uint32_t seq;
    if (!choose_held(&main_log, &seq)) {
        return;
    }
    n_finished++;
    if (may_park && any(4) == 0) {
        append_to(&parked_log);
        tell_parked();
        mm_counter_add(&main_worker()->parked, 1);
    } else if (take_repeat(&main_log)) {
        mm_counter_add(&main_worker()->repeated, 1);
    } else {
        count_finished(main_worker());
    }
    main_log.done[seq] = true;
    main_log.n_held--;
}

static void finish_parked(void)
{
    uint32_t seq;
    if (!choose_held(&parked_log, &seq)) {
        return;
    }
    n_finished++;
    if (take_repeat(&parked_log) || take_repeat(&main_log)) {
        mm_counter_add(&parked_worker()->repeated, 1);
        tell_parked();
    } else {
        count_finished(parked_worker());
    }
    parked_log.done[seq] = true;
    parked_log.n_held--;
}

static void publish_main(void)
{
    publish(&main_log, main_worker());
}

static void publish_parked(void)
{
    publish(&parked_log, parked_worker());
    tell_parked();
}

/* The counters of the parked log are in the main one's STATE, which is to be no older. */
static void parked_counters(void *arg, uint64_t counters[MM_LAYOUT_COUNTERS])
{
    (void)counters;
    __wrap_mm_spool_checkpoint(arg);
}

static void finish_some(void)
{
    for (uint32_t i = any(4); i > 0; i--) {
        finish_main(false);
    }
    publish_main();
}

/* --- what Prometheus sees -----------------------------------------------------------------------
 */

static char *seen; /* the page before */

/* Is it one of the counters that go on over a restart? */
static bool is_kept(const char *line)
{
    static const char *const kept[] = {
        "metamorphosis_messages_",
        "metamorphosis_received_bytes_total ",
        "mqtt_received ",
        "metamorphosis_delivered_bytes_total ",
        "mqtt_errors ",
        "metamorphosis_kafka_errors_total ",
        "kafka_sent ",
        "metamorphosis_producer_restarts_total ",
        "metamorphosis_test_messages_",
        "kafka_errors ",
    };
    for (size_t i = 0; i < sizeof kept / sizeof kept[0]; i++) {
        if (strncmp(line, kept[i], strlen(kept[i])) == 0) {
            return true;
        }
    }
    return false;
}

static uint64_t value_in(const char *page, const char *name_and_labels)
{
    size_t len = strlen(name_and_labels);
    for (const char *p = page; (p = strstr(p, name_and_labels)) != NULL; p++) {
        if (p[-1] == '\n' && p[len] == ' ') {
            return strtoull(p + len, NULL, 10);
        }
    }
    fail_msg("the page has no %s", name_and_labels);
    return 0;
}

/* No counter is below what the page before had. */
static size_t check_grown(const char *before, const char *page)
{
    size_t n = 0;
    for (const char *line = before; line != NULL && *line != '\0';
         line = strchr(line, '\n'), line += line != NULL ? 1 : 0) {
        if (!is_kept(line)) {
            continue;
        }
        char name[200];
        const char *space = strpbrk(line, "}\n ");
        size_t len = *space == '}' ? (size_t)(space - line) + 1 : (size_t)(space - line);
        CHECK(len < sizeof name);
        memcpy(name, line, len);
        name[len] = '\0';
        uint64_t was = strtoull(line + len, NULL, 10);
        uint64_t is = value_in(page, name);
        if (is < was) {
            fail_msg("seed %" PRIu64 ": %s went from %" PRIu64 " back to %" PRIu64, seed, name, was,
                     is);
        }
        n++;
    }
    return n;
}

static void look(void)
{
    char *page = NULL;
    size_t len = 0;
    afterwards = finish_some;
    CHECK(mm_metrics_text(metrics, spool(), &page, &len) == 0);
    afterwards = NULL;
    CHECK(check_grown(seen, page) == (seen[0] == '\0' ? 0 : 31));
    free(seen);
    seen = page;
}

static struct mm_snapshot snapshot(void)
{
    struct mm_snapshot shot;
    mm_metrics_snapshot(metrics, spool(), &shot);
    return shot;
}

/* --- processes ----------------------------------------------------------------------------------
 */

static struct mm_metrics *new_metrics(void)
{
    static struct mm_lanes *lanes;
    uint32_t lane;
    if (lanes == NULL) {
        assert_int_equal(mm_lanes_new(&lanes), 0);
    }
    assert_int_equal(mm_lanes_get(lanes, "forbidden", strlen("forbidden"), &lane), 0);
    struct mm_metrics_info info = {
        .version = "1", .librdkafka = "2", .mosquitto = "3", .n_workers = 1, .lanes = lanes};
    struct mm_metrics *m;
    assert_int_equal(mm_metrics_new(&info, &m), 0);
    assert_non_null(mm_metrics_park(m, lane));
    return m;
}

static void begin_process(void)
{
    metrics = new_metrics();
    open_log(&main_log);
    open_log(&parked_log);
    tell_parked();
    n_finished = 0;
    is_half_way = false;
}

static void restore(void)
{
    mm_metrics_restore(metrics, spool(), &main_log.found);
    struct mm_snapshot shot = snapshot();
    CHECK(shot.ledger_difference == 0);
    look();
    shot = snapshot();
    CHECK(shot.ledger_difference == 0);
}

static void kill_process(void)
{
    n_twice += n_finished;
    mm_metrics_free(metrics);
    metrics = NULL;
}

/* The system goes down with what was appended last, but STATE is there. */
static void fail_power(void)
{
    uint32_t n = any(10);
    if (main_log.n_records < n + main_log.state.low) {
        return;
    }
    uint32_t before = main_log.n_records;
    main_log.n_records -= n;
    tally.n_cut_off += n;
    /* Those that STATE does not know of are gone unseen; nobody has seen them counted either. */
    uint32_t known = main_log.state.next_seq;
    uint32_t left = main_log.n_records > known ? main_log.n_records : known;
    n_appended -= before > left ? before - left : 0;
}

/* False: the process is killed. */
static bool step(void)
{
    switch (any(16)) {
        case 0:
        case 1:
        case 2:
        case 3:
            return main_log.n_records >= RECORDS_MAX - 1 || receive();
        case 4:
        case 5:
        case 6:
            take(&main_log);
            return true;
        case 7:
        case 8:
            finish_main(true);
            return true;
        case 9:
            take(&parked_log);
            return true;
        case 10:
            finish_parked();
            return true;
        case 11:
            publish_main();
            return true;
        case 12:
            publish_parked();
            return true;
        case 13:
            interrupt = any(2) == 0 ? finish_some : NULL;
            __wrap_mm_spool_checkpoint(spool());
            interrupt = NULL;
            return true;
        case 14:
            write_state(&parked_log, parked_counters, spool());
            return true;
        default:
            if (any(4) == 0) {
                look();
            }
            if (any(30) == 0 && main_log.n_records > 0) {
                main_log.damaged[any(main_log.n_records)] = true;
            }
            return any(10) != 0;
    }
}

static bool at_rest(void)
{
    return main_log.cursor == main_log.n_records && main_log.n_held == 0 &&
           parked_log.cursor == parked_log.n_records && parked_log.n_held == 0;
}

/* Kafka takes everything, and nobody sends any more. */
static void drain(void)
{
    while (!at_rest()) {
        take(&main_log);
        finish_main(false);
        take(&parked_log);
        finish_parked();
    }
    publish_main();
    publish_parked();
}

static void check_quiet(void)
{
    publish_main();
    publish_parked();
    CHECK(snapshot().ledger_difference == 0);
}

static void begin_history(uint64_t s)
{
    seed = s;
    random_state = s * UINT64_C(0x9e3779b97f4a7c15) + 1;
    memset(&main_log, 0, sizeof main_log);
    memset(&parked_log, 0, sizeof parked_log);
    n_appended = 0;
    n_twice = 0;
    free(seen);
    seen = calloc(1, 1);
    assert_non_null(seen);
}

static void end_history(void)
{
    mm_metrics_free(metrics);
    free(seen);
    seen = NULL;
    metrics = NULL;
}

/* --- histories ----------------------------------------------------------------------------------
 */

static void begin_and_restore(void)
{
    begin_process();
    /* The log's own thread may be quicker than the start. */
    if (any(4) == 0) {
        __wrap_mm_spool_checkpoint(spool());
        if (any(4) == 0) {
            kill_process();
            begin_process();
        }
    }
    restore();
}

static void stop_in_order(void)
{
    check_quiet();
    __wrap_mm_spool_checkpoint(spool());
    write_state(&parked_log, parked_counters, spool());
    n_finished = 0;
    tally.n_orderly++;
}

static void live_and_die(void)
{
    begin_and_restore();
    may_be_killed = true;
    for (bool alive = true; alive;) {
        alive = step();
    }
    if (!is_half_way && any(3) == 0) {
        stop_in_order();
    }
    tally.n_kills++;
    tally.n_damaged += main_log.n_lost;
    kill_process();
    if (any(4) == 0) {
        fail_power();
    }
}

static void live_and_rest(void)
{
    begin_and_restore();
    may_be_killed = false;
    for (int i = 0; i < 50; i++) {
        step();
    }
    check_quiet();
    drain();
    look();
}

static void run_history(uint64_t s)
{
    begin_history(s);
    for (uint32_t n = any(8); n > 0; n--) {
        live_and_die();
    }
    live_and_rest();
    struct mm_snapshot shot = snapshot();
    CHECK(shot.ledger_difference == 0);
    CHECK(shot.in_spool == 0);
    CHECK(shot.parked == 0);
    uint64_t n[MM_LAYOUT_COUNTERS];
    mm_metrics_counters(metrics, n);
    uint64_t n_spooled = n[MM_SLOT_SPOOLED];
    CHECK(n_spooled == n[MM_SLOT_DELIVERED] + shot.dead_lettered +
                           n[MM_SLOT_DROPPED + MM_DROPPED_OLDEST] +
                           n[MM_SLOT_DROPPED + MM_DROPPED_LOST]);
    CHECK(n_spooled >= n_appended);
    CHECK(n_spooled <= n_appended + n_twice);
    tally.n_repeated += n[MM_SLOT_REPEATED];
    tally.n_parked += n[MM_SLOT_PARKED];
    tally.n_twice += n_spooled - n_appended;
    end_history();
}

static void test_random_histories(void **state)
{
    (void)state;
    memset(&tally, 0, sizeof tally);
    for (uint64_t s = 1; s <= 1000; s++) {
        run_history(s);
    }
    print_message("%" PRIu64 " kills, %" PRIu64 " orderly stops, %" PRIu64 " repeated, %" PRIu64
                  " parked, %" PRIu64 " damaged, %" PRIu64 " cut off, %" PRIu64 " counted twice\n",
                  tally.n_kills, tally.n_orderly, tally.n_repeated, tally.n_parked, tally.n_damaged,
                  tally.n_cut_off, tally.n_twice);
    assert_true(tally.n_kills > 1000);
    assert_true(tally.n_orderly > 100);
    assert_true(tally.n_repeated > 100);
    assert_true(tally.n_parked > 100);
    assert_true(tally.n_damaged > 10);
    assert_true(tally.n_cut_off > 10);
    assert_true(tally.n_twice > 100);
}

/* --- restoring ----------------------------------------------------------------------------------
 */

static void restore_found(const struct mm_spool_found *found)
{
    begin_history(0);
    metrics = new_metrics();
    main_log.to_take = found->n_records;
    main_log.n_repeat = found->n_repeat;
    mm_metrics_restore(metrics, spool(), found);
    assert_int_equal(snapshot().ledger_difference, 0);
}

static void check_received(const struct mm_spool_found *found,
                           uint64_t qos0,
                           uint64_t qos1,
                           uint64_t qos2)
{
    restore_found(found);
    uint64_t n[MM_LAYOUT_COUNTERS];
    mm_metrics_counters(metrics, n);
    assert_int_equal(n[MM_SLOT_RECEIVED], qos0);
    assert_int_equal(n[MM_SLOT_RECEIVED + 1], qos1);
    assert_int_equal(n[MM_SLOT_RECEIVED + 2], qos2);
    end_history();
}

static void test_nothing_found(void **state)
{
    (void)state;
    struct mm_spool_found found = {0};
    check_received(&found, 0, 0, 0);
}

/* A STATE that is lost, or one of an owner without counters. */
static void test_records_without_counters(void **state)
{
    (void)state;
    struct mm_spool_found found = {.n_records = 12, .n_repeat = 2};
    found.counters[MM_SLOT_DELIVERED] = 1000; /* has_counters is false */
    restore_found(&found);
    struct mm_snapshot shot = snapshot();
    assert_int_equal(shot.received, 10);
    assert_int_equal(shot.in_spool, 10);
    assert_int_equal(shot.delivered, 0);
    end_history();
}

static void test_received_is_what_the_others_add_up_to(void **state)
{
    (void)state;
    struct mm_spool_found found = {.n_records = 10, .n_repeat = 4, .has_counters = true};
    found.counters[MM_SLOT_RECEIVED] = 5;
    found.counters[MM_SLOT_RECEIVED + 1] = 6;
    found.counters[MM_SLOT_RECEIVED + 2] = 7;
    found.counters[MM_SLOT_DELIVERED] = 8;
    found.counters[MM_SLOT_DEAD + MM_DEAD_INVALID] = 1;
    found.counters[MM_SLOT_REFUSED + MM_REFUSED_IO] = 1;
    found.counters[MM_SLOT_DROPPED + MM_DROPPED_QOS0] = 1;
    found.counters[MM_SLOT_DROPPED + MM_DROPPED_OLDEST] = 1;
    check_received(&found, 5, 6, 7);
    found.n_records += 100; /* appended after STATE was written */
    check_received(&found, 5, 106, 7);
    found.n_records = 4;
    check_received(&found, 5, 0, 7);
    found.counters[MM_SLOT_DELIVERED] = 7;
    check_received(&found, 5, 0, 6);
    found.counters[MM_SLOT_DELIVERED] = 0;
    check_received(&found, 4, 0, 0);
}

/* --- the counters -------------------------------------------------------------------------------
 */

/* These stand in files: neither a number nor a meaning may change. */
static void test_slots_are_fixed(void **state)
{
    (void)state;
    static const char *const names[MM_LAYOUT_COUNTERS] = {
        "received_qos0",
        "received_qos1",
        "received_qos2",
        "received_bytes",
        "spooled",
        "delivered",
        "delivered_bytes",
        "repeated",
        "refused_spool_full",
        "refused_too_large",
        "refused_spool_io",
        NULL,
        "dropped_qos0_spool_full",
        "dropped_drop_newest",
        "dropped_too_large",
        "dropped_spool_io",
        "dropped_drop_oldest",
        "dropped_lost",
        NULL,
        "dead_lettered_too_large",
        "dead_lettered_invalid",
        "dead_lettered_unreadable",
        "dead_lettered_unroutable",
        "retried",
        "maybe_duplicated",
        "kafka_errors",
        "producer_restarts",
        "test_messages",
        "parked",
        "dead_letter_copies",
        "dead_letter_copies_failed",
        NULL,
    };
    for (int i = 0; i < MM_LAYOUT_COUNTERS; i++) {
        if (names[i] == NULL) {
            assert_null(mm_metrics_counter_name(i));
        } else {
            assert_non_null(mm_metrics_counter_name(i));
            assert_string_equal(mm_metrics_counter_name(i), names[i]);
        }
    }
    assert_null(mm_metrics_counter_name(-1));
    assert_null(mm_metrics_counter_name(MM_LAYOUT_COUNTERS));
}

static void count_each(struct mm_metrics_broker *b, struct mm_metrics_worker *w, uint64_t times)
{
    _Atomic uint64_t *const counters[] = {
        [MM_SLOT_RECEIVED] = &b->received[0],
        [MM_SLOT_RECEIVED + 1] = &b->received[1],
        [MM_SLOT_RECEIVED + 2] = &b->received[2],
        [MM_SLOT_RECEIVED_BYTES] = &b->received_bytes,
        [MM_SLOT_SPOOLED] = &b->spooled,
        [MM_SLOT_DELIVERED] = &w->delivered,
        [MM_SLOT_DELIVERED_BYTES] = &w->delivered_bytes,
        [MM_SLOT_REPEATED] = &w->repeated,
        [MM_SLOT_REFUSED] = &b->refused[MM_REFUSED_FULL],
        [MM_SLOT_REFUSED + 1] = &b->refused[MM_REFUSED_TOO_LARGE],
        [MM_SLOT_REFUSED + 2] = &b->refused[MM_REFUSED_IO],
        [MM_SLOT_DROPPED] = &b->dropped[MM_DROPPED_QOS0],
        [MM_SLOT_DROPPED + 1] = &b->dropped[MM_DROPPED_NEWEST],
        [MM_SLOT_DROPPED + 2] = &b->dropped[MM_DROPPED_TOO_LARGE],
        [MM_SLOT_DROPPED + 3] = &b->dropped[MM_DROPPED_IO],
        [MM_SLOT_DROPPED + 4] = &w->dropped_oldest,
        [MM_SLOT_DEAD] = &w->dead_lettered[MM_DEAD_TOO_LARGE],
        [MM_SLOT_DEAD + 1] = &w->dead_lettered[MM_DEAD_INVALID],
        [MM_SLOT_DEAD + 2] = &w->dead_lettered[MM_DEAD_UNREADABLE],
        [MM_SLOT_DEAD + 3] = &w->dead_lettered[MM_DEAD_UNROUTABLE],
        [MM_SLOT_RETRIED] = &w->retried,
        [MM_SLOT_MAYBE_DUPLICATED] = &w->maybe_duplicated,
        [MM_SLOT_KAFKA_ERRORS] = &w->kafka_errors,
        [MM_SLOT_PRODUCER_RESTARTS] = &w->producer_restarts,
        [MM_SLOT_TEST_MESSAGES] = &w->test_messages,
        [MM_SLOT_PARKED] = &w->parked,
        [MM_SLOT_DEAD_COPIES] = &w->dead_copies,
        [MM_SLOT_DEAD_COPIES_FAILED] = &w->dead_copies_failed,
    };
    for (size_t i = 0; i < sizeof counters / sizeof counters[0]; i++) {
        if (counters[i] != NULL) {
            mm_counter_add(counters[i], (i + 1) * times);
        }
    }
}

/* Base, broker, workers, parked workers and the logs' losses, each in its slot. */
static void test_counters_are_of_all_processes_and_threads(void **state)
{
    (void)state;
    struct mm_spool_found found = {.has_counters = true};
    for (size_t i = 0; i < MM_LAYOUT_COUNTERS; i++) {
        found.counters[i] = 1000000 * (i + 1);
    }
    restore_found(&found);
    uint64_t before[MM_LAYOUT_COUNTERS];
    uint64_t after[MM_LAYOUT_COUNTERS];
    mm_metrics_counters(metrics, before);
    static struct mm_metrics_broker nobody;
    count_each(mm_metrics_broker(metrics), main_worker(), 1);
    count_each(&nobody, parked_worker(), 1000);
    main_log.n_lost = 5;
    mm_metrics_park_set(metrics, 0, 0, 70, 0);
    mm_metrics_counters(metrics, after);
    for (size_t i = 0; i < MM_LAYOUT_COUNTERS; i++) {
        bool of_broker = i <= MM_SLOT_SPOOLED ||
                         (i >= MM_SLOT_REFUSED && i < MM_SLOT_DROPPED + MM_DROPPED_OLDEST);
        uint64_t grown = (i + 1) * (of_broker ? 1 : 1001);
        if (mm_metrics_counter_name((int)i) == NULL) {
            grown = 0;
        } else if (i == MM_SLOT_DROPPED + MM_DROPPED_LOST) {
            grown = 75;
        }
        assert_int_equal(after[i] - before[i], grown);
    }
    assert_int_equal(before[MM_SLOT_REPEATED], 1000000 * (MM_SLOT_REPEATED + 1));

    /* The page has the same. */
    char *page = NULL;
    size_t len = 0;
    assert_int_equal(mm_metrics_text(metrics, spool(), &page, &len), 0);
    static const struct
    {
        int slot;
        const char *name;
    } shown[] = {
        {MM_SLOT_RECEIVED, "metamorphosis_messages_received_total{qos=\"0\"}"},
        {MM_SLOT_RECEIVED + 2, "metamorphosis_messages_received_total{qos=\"2\"}"},
        {MM_SLOT_RECEIVED_BYTES, "metamorphosis_received_bytes_total"},
        {MM_SLOT_SPOOLED, "metamorphosis_messages_spooled_total"},
        {MM_SLOT_SPOOLED, "mqtt_received"},
        {MM_SLOT_DELIVERED, "metamorphosis_messages_delivered_total"},
        {MM_SLOT_DELIVERED_BYTES, "metamorphosis_delivered_bytes_total"},
        {MM_SLOT_REPEATED, "metamorphosis_messages_repeated_total"},
        {MM_SLOT_REFUSED, "metamorphosis_messages_refused_total{reason=\"spool_full\"}"},
        {MM_SLOT_REFUSED + 2, "metamorphosis_messages_refused_total{reason=\"spool_io\"}"},
        {MM_SLOT_DROPPED + 3, "metamorphosis_messages_dropped_total{reason=\"spool_io\"}"},
        {MM_SLOT_DROPPED + 4, "metamorphosis_messages_dropped_total{reason=\"drop_oldest\"}"},
        {MM_SLOT_DROPPED + 5, "metamorphosis_messages_dropped_total{reason=\"lost\"}"},
        {MM_SLOT_DEAD + 2, "metamorphosis_messages_dead_lettered_total{reason=\"unreadable\"}"},
        {MM_SLOT_DEAD + 3, "metamorphosis_messages_dead_lettered_total{reason=\"unroutable\"}"},
        {MM_SLOT_RETRIED, "metamorphosis_messages_retried_total"},
        {MM_SLOT_MAYBE_DUPLICATED, "metamorphosis_messages_maybe_duplicated_total"},
        {MM_SLOT_KAFKA_ERRORS, "metamorphosis_kafka_errors_total"},
        {MM_SLOT_KAFKA_ERRORS, "kafka_errors"},
        {MM_SLOT_PRODUCER_RESTARTS, "metamorphosis_producer_restarts_total"},
        {MM_SLOT_TEST_MESSAGES, "metamorphosis_test_messages_total"},
        {MM_SLOT_PARKED, "metamorphosis_messages_parked_total"},
        {MM_SLOT_DEAD_COPIES, "metamorphosis_dead_letter_copies_total"},
        {MM_SLOT_DEAD_COPIES_FAILED, "metamorphosis_dead_letter_copies_failed_total"},
    };
    for (size_t i = 0; i < sizeof shown / sizeof shown[0]; i++) {
        assert_int_equal(value_in(page, shown[i].name), after[shown[i].slot]);
    }
    free(page);
    end_history();
}

static void test_nothing_to_keep_before_the_restore(void **state)
{
    (void)state;
    begin_history(0);
    metrics = new_metrics();
    mm_counter_add(&mm_metrics_broker(metrics)->spooled, 1);
    uint64_t n[MM_LAYOUT_COUNTERS] = {42, 43};
    mm_metrics_counters(metrics, n);
    assert_int_equal(n[0], 42);
    assert_int_equal(n[1], 43);
    assert_int_equal(n[MM_SLOT_SPOOLED], 0);
    end_history();
}

static atomic_bool stop_keeping;

/* The log's own thread, which does not wait for the restore. */
static void *keep(void *arg)
{
    uint64_t *n = arg;
    while (!atomic_load(&stop_keeping)) {
        mm_metrics_counters(metrics, n);
        if (n[MM_SLOT_DELIVERED] != 1 && n[MM_SLOT_DELIVERED] != 1000000) {
            break;
        }
    }
    return NULL;
}

static void test_the_log_keeps_while_the_counters_are_restored(void **state)
{
    (void)state;
    struct mm_spool_found found = {.has_counters = true};
    found.counters[MM_SLOT_DELIVERED] = 1000000;
    for (int i = 0; i < 20; i++) {
        begin_history(0);
        metrics = new_metrics();
        atomic_store(&stop_keeping, false);
        uint64_t n[MM_LAYOUT_COUNTERS] = {[MM_SLOT_DELIVERED] = 1};
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, keep, n), 0);
        mm_metrics_restore(metrics, spool(), &found);
        atomic_store(&stop_keeping, true);
        pthread_join(thread, NULL);
        assert_true(n[MM_SLOT_DELIVERED] == 1 || n[MM_SLOT_DELIVERED] == 1000000);
        end_history();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_histories),
        cmocka_unit_test(test_nothing_found),
        cmocka_unit_test(test_records_without_counters),
        cmocka_unit_test(test_received_is_what_the_others_add_up_to),
        cmocka_unit_test(test_slots_are_fixed),
        cmocka_unit_test(test_counters_are_of_all_processes_and_threads),
        cmocka_unit_test(test_nothing_to_keep_before_the_restore),
        cmocka_unit_test(test_the_log_keeps_while_the_counters_are_restored),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
