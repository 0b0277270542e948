#include "mm_error.h"
#include "mm_record.h"
#include "mm_spool.h"
#include "pause.h"
#include "scratch.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define SCAN 1000000

/* All tests run twice: in memory, and in a directory of their own. */
static bool on_disk;
static char directory[SCRATCH_LEN];

static int make_directory(void **state)
{
    (void)state;
    return scratch_make(directory, "spool");
}

static int remove_directory(void **state)
{
    (void)state;
    return scratch_remove(directory);
}

static struct mm_spool *open_spool(uint64_t max_bytes, uint32_t n_readers, bool drop_oldest)
{
    static unsigned n_logs;
    char dir[96];
    snprintf(dir, sizeof dir, "%s/%u", directory, n_logs++);
    struct mm_spool_options opts = {.max_bytes = max_bytes,
                                    .n_readers = n_readers,
                                    .drop_oldest = drop_oldest,
                                    .dir = on_disk ? dir : NULL};
    struct mm_spool *s;
    char errstr[256];
    assert_int_equal(mm_spool_open(&opts, &s, errstr, sizeof errstr), 0);
    return s;
}

/* The payload begins with the number, so that a reader can tell which record it has. */
static int append(struct mm_spool *s, const char *topic, uint32_t number, size_t payload_len)
{
    static char payload[9 * 1024 * 1024];
    assert_true(payload_len >= sizeof number && payload_len <= sizeof payload);
    memcpy(payload, &number, sizeof number);
    struct mm_record r = {.time_ms = number,
                          .flags = 1,
                          .type = MM_RECORD_MESSAGE,
                          .topic_len = (uint16_t)strlen(topic),
                          .payload_len = (uint32_t)payload_len,
                          .topic = topic,
                          .payload = payload};
    return mm_spool_append(s, &r);
}

static uint32_t number_of(const struct mm_record *r)
{
    uint32_t number;
    memcpy(&number, r->payload, sizeof number);
    return number;
}

/* Waits for what the housekeeper is to bring about, at most 10 s. */
#define ASSERT_EVENTUALLY(condition)               \
    do {                                           \
        int tries_ = 0;                            \
        while (!(condition) && tries_++ < 10000) { \
            sleep_ms(1);                           \
        }                                          \
        assert_in_range(tries_, 0, 10000);         \
    } while (0)

/* Append number n and up, until the log is full and stays so: the last segment may just be being
 * made. Returns the next number. */
static uint32_t append_until_full(struct mm_spool *s, const char *topic, uint32_t n, size_t len)
{
    int err = 0;
    for (int n_tries = 0; n_tries < 100;) {
        err = append(s, topic, n, len);
        if (err == 0) {
            n++;
            n_tries = 0;
        } else {
            n_tries++;
            sleep_ms(1);
        }
    }
    assert_int_equal(err, MM_EFULL);
    return n;
}

static struct mm_spool_stats stats_of(const struct mm_spool *s)
{
    struct mm_spool_stats stats;
    mm_spool_stats(s, &stats);
    return stats;
}

static void test_records_come_back_in_order_with_all_their_parts(void **state)
{
    (void)state;
    struct mm_spool *s = open_spool(4 << 20, 1, false);
    struct mm_spool_reader *rd = mm_spool_reader(s, 0);
    struct mm_record r;
    struct mm_spool_pos pos;
    assert_int_equal(mm_spool_next(rd, SCAN, &r, &pos), MM_EAGAIN);
    assert_false(mm_spool_pending(rd));

    struct mm_record in = {.time_ms = 1234567,
                           .flags = 2 | MM_RECORD_RETAIN,
                           .type = MM_RECORD_MESSAGE,
                           .topic_len = 3,
                           .payload_len = 5,
                           .topic = "a/b",
                           .payload = "hello"};
    assert_int_equal(mm_spool_append(s, &in), 0);
    in.payload = NULL;
    in.payload_len = 0;
    assert_int_equal(mm_spool_append(s, &in), 0);

    assert_true(mm_spool_pending(rd));
    assert_int_equal(mm_spool_next(rd, SCAN, &r, &pos), 0);
    assert_int_equal(r.seq, 1);
    assert_int_equal(r.time_ms, 1234567);
    assert_int_equal(r.flags, 2 | MM_RECORD_RETAIN);
    assert_int_equal(r.topic_len, 3);
    assert_memory_equal(r.topic, "a/b", 3);
    assert_int_equal(r.payload_len, 5);
    assert_memory_equal(r.payload, "hello", 5);
    assert_int_equal(r.topic_hash, mm_topic_hash("a/b", 3));
    struct mm_record again;
    assert_int_equal(mm_spool_read(rd, &pos, &again), 0);
    assert_int_equal(again.seq, 1);
    assert_int_equal(mm_spool_next(rd, SCAN, &r, &pos), 0);
    assert_int_equal(r.seq, 2);
    assert_int_equal(r.payload_len, 0);
    assert_int_equal(mm_spool_next(rd, SCAN, &r, &pos), MM_EAGAIN);

    assert_int_equal(strlen(mm_spool_uuid(s)), 36);
    assert_int_equal(mm_spool_uuid(s)[14], '4');
    mm_spool_close(s);
    mm_spool_close(NULL);
}

static void test_each_record_goes_to_one_shard_and_one_topic_to_the_same(void **state)
{
    (void)state;
    enum {
        N = 5,
        TOPICS = 40,
        EACH = 50
    };
    struct mm_spool *s = open_spool(8 << 20, N, false);
    char topic[32];
    for (uint32_t i = 0; i < TOPICS * EACH; i++) {
        snprintf(topic, sizeof topic, "site/%u/temp", i % TOPICS);
        assert_int_equal(append(s, topic, i, 64), 0);
    }
    uint64_t total = 0;
    for (uint32_t k = 0; k < N; k++) {
        struct mm_spool_reader *rd = mm_spool_reader(s, k);
        struct mm_record r;
        struct mm_spool_pos pos;
        uint64_t n = 0;
        int64_t last[TOPICS];
        memset(last, -1, sizeof last);
        while (mm_spool_next(rd, SCAN, &r, &pos) == 0) {
            uint32_t i = number_of(&r);
            assert_int_equal(mm_topic_shard(r.topic_hash, N), k);
            assert_true(last[i % TOPICS] < (int64_t)i);
            last[i % TOPICS] = i;
            n++;
        }
        assert_false(mm_spool_pending(rd));
        assert_int_equal(n % EACH, 0);
        total += n;
    }
    assert_int_equal(total, TOPICS * EACH);
    assert_int_equal(stats_of(s).n_appended, TOPICS * EACH);
    mm_spool_close(s);
}

static void test_max_scan_gives_the_thread_back(void **state)
{
    (void)state;
    struct mm_spool *s = open_spool(4 << 20, 2, false);
    const char *topic = "only/one/topic";
    uint32_t other = 1 - mm_topic_shard(mm_topic_hash(topic, strlen(topic)), 2);
    for (uint32_t i = 0; i < 100; i++) {
        assert_int_equal(append(s, topic, i, 16), 0);
    }
    struct mm_spool_reader *rd = mm_spool_reader(s, other);
    struct mm_record r;
    struct mm_spool_pos pos;
    assert_int_equal(mm_spool_next(rd, 10, &r, &pos), MM_EAGAIN);
    assert_true(mm_spool_pending(rd));
    assert_int_equal(mm_spool_next(rd, SCAN, &r, &pos), MM_EAGAIN);
    assert_false(mm_spool_pending(rd));
    mm_spool_close(s);
}

/* Fill until it says full, drain, and so on: the limit holds, nothing is lost, memory comes back.
 */
static void test_limit_holds_and_room_comes_back(void **state)
{
    (void)state;
    const uint64_t limit = 1 << 20;
    struct mm_spool *s = open_spool(limit, 1, false);
    struct mm_spool_reader *rd = mm_spool_reader(s, 0);
    uint32_t appended = 0;
    uint32_t read = 0;
    for (int round = 0; round < 5; round++) {
        uint32_t before = appended;
        appended = append_until_full(s, "t", appended, 1000);
        struct mm_spool_stats stats = stats_of(s);
        assert_true(stats.full);
        assert_true(stats.allocated_bytes <= limit);
        assert_true(stats.used_bytes > limit / 2);
        assert_true(appended - before > limit / 2 / 1048);
        /* Refused for as long as nothing is finished, and without a trace. */
        assert_int_equal(append(s, "t", 999999, 1000), MM_EFULL);

        struct mm_record r;
        struct mm_spool_pos pos;
        while (mm_spool_next(rd, SCAN, &r, &pos) == 0) {
            assert_int_equal(number_of(&r), read);
            read++;
        }
        assert_int_equal(read, appended);
        mm_spool_finish(rd, NULL, 0, 0);
        ASSERT_EVENTUALLY(!stats_of(s).full);
        ASSERT_EVENTUALLY(stats_of(s).n_segments == 1);
        assert_int_equal(stats_of(s).used_bytes, 0);
    }
    /* The tail and the prepared segments are all that is kept. */
    ASSERT_EVENTUALLY(stats_of(s).allocated_bytes <= 3 * limit / 8);
    mm_spool_close(s);
}

static uint64_t resident_bytes(void)
{
    char line[128];
    FILE *f = fopen("/proc/self/statm", "r");
    assert_non_null(f);
    assert_non_null(fgets(line, sizeof line, f));
    fclose(f);
    const char *second = strchr(line, ' ');
    assert_non_null(second);
    return strtoull(second, NULL, 10) * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void test_memory_returns_to_the_system(void **state)
{
    (void)state;
    struct mm_spool *s = open_spool(64 << 20, 1, false);
    struct mm_spool_reader *rd = mm_spool_reader(s, 0);
    uint64_t before = resident_bytes();
    uint32_t n = append_until_full(s, "t", 0, 4000);
    uint64_t filled = resident_bytes();
    for (int tries = 0; on_disk && filled >= before + (40 << 20) && tries < 10000; tries++) {
        sleep_ms(1); /* the keeper unmaps what is sealed */
        filled = resident_bytes();
    }
    assert_true(stats_of(s).allocated_bytes > 60 << 20);
    struct mm_record r;
    struct mm_spool_pos pos;
    while (mm_spool_next(rd, SCAN, &r, &pos) == 0) {
        n--;
    }
    assert_int_equal(n, 0);
    mm_spool_finish(rd, NULL, 0, 0);
    ASSERT_EVENTUALLY(stats_of(s).n_segments == 1);
    ASSERT_EVENTUALLY(stats_of(s).allocated_bytes <= (on_disk ? 24U : 6U) << 20);
#ifndef __SANITIZE_THREAD__ /* keeps memory of its own for each byte that was ever used */
    ASSERT_EVENTUALLY(resident_bytes() < before + (16 << 20));
    /* The test would show nothing otherwise. On disk the backlog is not in memory at all. */
    assert_true(on_disk ? filled < before + (40 << 20) : filled > before + (48 << 20));
#endif
    mm_spool_close(s);
}

static void test_low_keeps_what_is_not_finished(void **state)
{
    (void)state;
    struct mm_spool *s = open_spool(256 << 10, 1, false);
    struct mm_spool_reader *rd = mm_spool_reader(s, 0);
    struct mm_record r;
    struct mm_spool_pos first;
    struct mm_spool_pos pos;
    assert_int_equal(append(s, "t", 0, 100), 0);
    assert_int_equal(mm_spool_next(rd, SCAN, &r, &first), 0);
    uint32_t n = append_until_full(s, "t", 1, 100);
    while (mm_spool_next(rd, SCAN, &r, &pos) == 0) {
    }
    mm_spool_finish(rd, &first, 0, 0);
    sleep_ms(300); /* time enough for the housekeeper to do wrong */
    assert_int_equal(append(s, "t", n, 100), MM_EFULL);
    assert_int_equal(mm_spool_read(rd, &first, &r), 0);
    assert_int_equal(number_of(&r), 0);
    /* The cursor goes back: the same records again. */
    mm_spool_seek(rd, &first);
    for (uint32_t i = 0; i < n; i++) {
        assert_int_equal(mm_spool_next(rd, SCAN, &r, &pos), 0);
        assert_int_equal(number_of(&r), i);
    }
    mm_spool_finish(rd, NULL, 0, 0);
    ASSERT_EVENTUALLY(append(s, "t", n, 100) == 0);
    mm_spool_close(s);
}

static void test_a_slow_shard_keeps_its_records_only_as_long_as_it_must(void **state)
{
    (void)state;
    struct mm_spool *s = open_spool(256 << 10, 2, false);
    const char *topic = "t";
    uint32_t k = mm_topic_shard(mm_topic_hash(topic, 1), 2);
    struct mm_spool_reader *busy = mm_spool_reader(s, k);
    struct mm_spool_reader *idle = mm_spool_reader(s, 1 - k);
    struct mm_record r;
    struct mm_spool_pos pos;
    (void)append_until_full(s, topic, 0, 100);
    while (mm_spool_next(busy, SCAN, &r, &pos) == 0) {
    }
    mm_spool_finish(busy, NULL, 0, 0);
    sleep_ms(300);
    assert_true(stats_of(s).n_segments > 1); /* the other has not looked yet */
    assert_int_equal(mm_spool_next(idle, SCAN, &r, &pos), MM_EAGAIN);
    mm_spool_finish(idle, NULL, 0, 0);
    ASSERT_EVENTUALLY(stats_of(s).n_segments == 1);
    mm_spool_close(s);
}

static void test_large_records_have_a_segment_to_themselves(void **state)
{
    (void)state;
    struct mm_spool *s = open_spool(16 << 20, 1, false);
    struct mm_spool_reader *rd = mm_spool_reader(s, 0);
    assert_int_equal(append(s, "t", 0, 100), 0);
    assert_int_equal(append(s, "t", 1, 8 << 20), 0);
    assert_int_equal(append(s, "t", 2, 100), 0);
    assert_true(stats_of(s).allocated_bytes <= 16 << 20);
    struct mm_record r;
    struct mm_spool_pos pos;
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(mm_spool_next(rd, SCAN, &r, &pos), 0);
        assert_int_equal(number_of(&r), i);
    }
    assert_int_equal(append(s, "t", 3, 8 << 20), MM_EFULL);
    mm_spool_finish(rd, NULL, 0, 0);
    bool there = false;
    for (int i = 0; i < 1000 && !there; i++) {
        there = append(s, "t", 3, 8 << 20) == 0;
        sleep_ms(10); /* a client sends again, a worker looks again */
        assert_true(there || !mm_spool_pending(rd));
        mm_spool_finish(rd, NULL, 0, 0);
    }
    assert_true(there);
    assert_int_equal(mm_spool_next(rd, SCAN, &r, &pos), 0);
    assert_int_equal(r.payload_len, 8 << 20);
    mm_spool_close(s);

    s = open_spool(4 << 20, 1, false);
    assert_int_equal(append(s, "t", 0, 4 << 20), MM_ETOOBIG);
    struct mm_record huge = {.topic = "t", .topic_len = 1, .payload_len = UINT32_MAX};
    assert_int_equal(mm_spool_append(s, &huge), MM_ETOOBIG);
    assert_int_equal(append(s, "t", 0, 100), 0);
    mm_spool_close(s);
}

/* The prepared segments stand in the way, and go. */
static void test_room_is_made_for_a_large_record(void **state)
{
    (void)state;
    struct mm_spool *s = open_spool(12 << 20, 1, false);
    assert_int_equal(append(s, "t", 0, 100), 0);
    ASSERT_EVENTUALLY(stats_of(s).allocated_bytes > 4 << 20);
    ASSERT_EVENTUALLY(append(s, "t", 1, 8 << 20) == 0);
    assert_true(stats_of(s).allocated_bytes <= 12 << 20);
    mm_spool_close(s);
}

static void test_drop_oldest_offers_the_oldest_and_goes_on(void **state)
{
    (void)state;
    struct mm_spool *s = open_spool(256 << 10, 1, true);
    struct mm_spool_reader *rd = mm_spool_reader(s, 0);
    uint32_t n = 0;
    uint32_t dropped = 0;
    uint32_t expected = 0;
    struct mm_record r;
    struct mm_spool_pos pos;
    while (n < 20000) {
        if (append(s, "t", n, 100) == 0) {
            n++;
            continue;
        }
        /* A worker's part: let go of what is unwanted, keep the rest. */
        mm_spool_cursor(rd, &pos);
        if (mm_spool_unwanted(rd, &pos) && mm_spool_next(rd, SCAN, &r, &pos) == 0) {
            if (mm_spool_unwanted(rd, &pos)) {
                assert_int_equal(number_of(&r), expected);
                expected++;
                dropped++;
            } else {
                mm_spool_seek(rd, &pos);
            }
        } else {
            sleep_ms(1);
        }
        mm_spool_finish(rd, NULL, 0, 0);
    }
    assert_true(dropped > 15000);
    uint32_t left = 0;
    while (mm_spool_next(rd, SCAN, &r, &pos) == 0) {
        assert_int_equal(number_of(&r), expected);
        expected++;
        left++;
    }
    assert_int_equal(dropped + left, n);
    assert_true(left > 500);
    mm_spool_close(s);
}

/* What is left at last is for those who are told when a message is refused. */
static void test_qos_0_gives_way_first(void **state)
{
    (void)state;
    struct mm_spool *s = open_spool(1 << 20, 1, false);
    struct mm_record r = {
        .type = MM_RECORD_MESSAGE, .topic = "t", .topic_len = 1, .payload = "p", .payload_len = 1};
    assert_int_equal(mm_spool_append(s, &r), 0);
    for (uint32_t n = 0; !stats_of(s).tight; n++) {
        assert_int_equal(append(s, "t", n, 4000), 0);
        sleep_ms(6); /* the housekeeper looks each 10 ms */
    }
    assert_false(stats_of(s).full);
    assert_int_equal(mm_spool_append(s, &r), MM_EFULL);
    assert_int_equal(append(s, "t", 0, 4000), 0);
    mm_spool_close(s);
}

/* Once full, it takes some room more than for one segment to go on: not one message at a time. */
static void test_full_is_left_with_room_to_spare(void **state)
{
    (void)state;
    struct mm_spool *s = open_spool(1 << 20, 1, false);
    struct mm_spool_reader *rd = mm_spool_reader(s, 0);
    struct mm_record r;
    struct mm_spool_pos first;
    struct mm_spool_pos pos;
    uint32_t n = append_until_full(s, "t", 0, 4000);
    assert_int_equal(mm_spool_next(rd, SCAN, &r, &first), 0);
    for (int freed = 1; freed <= 2; freed++) {
        pos = first;
        while (pos.segment == first.segment) {
            assert_int_equal(mm_spool_next(rd, SCAN, &r, &pos), 0);
        }
        first = pos;
        mm_spool_finish(rd, &pos, 0, 0);
        if (freed == 1 && on_disk) {
            sleep_ms(400);
            assert_true(stats_of(s).full);
            assert_int_equal(append(s, "t", n, 4000), MM_EFULL);
        }
    }
    ASSERT_EVENTUALLY(!stats_of(s).full);
    assert_int_equal(append(s, "t", n, 4000), 0);
    mm_spool_close(s);
}

/* Another log has all of the limit: to let go of the newest records would give no room. */
static void test_drop_oldest_keeps_the_tail(void **state)
{
    (void)state;
    struct mm_spool_budget budget = {.max_bytes = 256 << 10};
    struct mm_spool_options opts = {.max_bytes = budget.max_bytes,
                                    .n_readers = 1,
                                    .drop_oldest = true,
                                    .manual = true,
                                    .budget = &budget,
                                    .dir = on_disk ? directory : NULL};
    struct mm_spool *s;
    char errstr[256];
    assert_int_equal(mm_spool_open(&opts, &s, errstr, sizeof errstr), 0);
    struct mm_spool_reader *rd = mm_spool_reader(s, 0);
    assert_int_equal(append(s, "t", 0, 100), 0);
    uint64_t own = atomic_load(&budget.allocated);
    atomic_store(&budget.allocated, budget.max_bytes);
    for (int i = 0; i < 3; i++) {
        mm_spool_tick(s);
    }
    struct mm_record r;
    struct mm_spool_pos pos;
    mm_spool_cursor(rd, &pos);
    assert_false(mm_spool_unwanted(rd, &pos));
    assert_int_equal(mm_spool_next(rd, SCAN, &r, &pos), 0);
    assert_false(mm_spool_unwanted(rd, &pos));
    atomic_store(&budget.allocated, own);
    mm_spool_close(s);
}

static void test_bad_settings_are_refused(void **state)
{
    (void)state;
    struct mm_spool *s;
    char errstr[256];
    struct mm_spool_options opts = {.max_bytes = 1000, .n_readers = 1};
    assert_int_equal(mm_spool_open(&opts, &s, errstr, sizeof errstr), MM_EINVAL);
    assert_null(s);
    assert_non_null(strstr(errstr, "1000"));
    opts = (struct mm_spool_options){.max_bytes = 1 << 20, .n_readers = 0};
    assert_int_equal(mm_spool_open(&opts, &s, errstr, sizeof errstr), MM_EINVAL);
    opts =
        (struct mm_spool_options){.max_bytes = 1 << 20, .segment_bytes = 1 << 20, .n_readers = 1};
    assert_int_equal(mm_spool_open(&opts, &s, errstr, sizeof errstr), MM_EINVAL);
}

/* --- threads ------------------------------------------------------------------------------------
 */

#define N_READERS 3
#define N_TOPICS 30

struct consumer
{
    struct mm_spool *s;
    uint32_t k;
    _Atomic bool *done;
    uint64_t n;
    uint64_t last_seq;
    bool wrong;
};

/* Reads its shard, verifies the order of each topic, and now and then goes back to what is not
 * finished, as a worker does after a failure. */
static void *consume(void *arg)
{
    struct consumer *c = arg;
    struct mm_spool_reader *rd = mm_spool_reader(c->s, c->k);
    uint32_t next[N_TOPICS] = {0};
    unsigned seed = c->k;
    struct mm_spool_pos unfinished;
    bool have_unfinished = false;
    uint32_t behind = 0;
    for (;;) {
        bool done = atomic_load(c->done);
        struct mm_record r;
        struct mm_spool_pos pos;
        if (mm_spool_next(rd, 100, &r, &pos) == 0) {
            char name[16] = {0};
            memcpy(name, r.topic, r.topic_len < 15 ? r.topic_len : 15);
            uint32_t topic = (uint32_t)strtoul(name + 1, NULL, 10);
            uint32_t number = number_of(&r);
            c->wrong |= topic >= N_TOPICS || r.payload_len < 4;
            if (!c->wrong && number == next[topic]) {
                next[topic]++;
                c->n++;
            } else {
                c->wrong |= number > next[topic]; /* smaller: read again after going back */
            }
            if (!have_unfinished) {
                unfinished = pos;
                have_unfinished = true;
            }
            if (++behind > 200) {
                behind = 0;
                if (rand_r(&seed) % 2 == 0) {
                    mm_spool_finish(rd, NULL, 0, 0);
                    have_unfinished = false;
                } else {
                    mm_spool_finish(rd, &unfinished, 0, 0);
                    mm_spool_seek(rd, &unfinished);
                }
            }
            continue;
        }
        if (mm_spool_pending(rd)) {
            continue;
        }
        mm_spool_finish(rd, NULL, 0, 0);
        have_unfinished = false;
        if (done && !mm_spool_pending(rd)) {
            return NULL;
        }
        mm_spool_wait(rd, 50);
    }
}

static void test_one_producer_and_several_readers(void **state)
{
    (void)state;
    enum {
        N = 60000
    };
    struct mm_spool *s = open_spool(1 << 20, N_READERS, false);
    _Atomic bool done = false;
    struct consumer consumers[N_READERS];
    pthread_t threads[N_READERS];
    for (uint32_t k = 0; k < N_READERS; k++) {
        consumers[k] = (struct consumer){.s = s, .k = k, .done = &done};
        assert_int_equal(pthread_create(&threads[k], NULL, consume, &consumers[k]), 0);
    }
    uint32_t number[N_TOPICS] = {0};
    unsigned seed = 42;
    uint64_t full = 0;
    for (int i = 0; i < N; i++) {
        uint32_t topic = (uint32_t)rand_r(&seed) % N_TOPICS;
        char name[16];
        snprintf(name, sizeof name, "t%u", topic);
        size_t len = i % 5000 == 0 ? 200000 : 4 + (size_t)rand_r(&seed) % 300;
        while (append(s, name, number[topic], len) != 0) {
            full++;
            sched_yield();
        }
        number[topic]++;
        if (i % 10000 == 0) {
            sleep_ms(5); /* let readers fall asleep, so that waking is tested too */
        }
        struct mm_spool_stats stats = stats_of(s);
        assert_true(stats.allocated_bytes <= stats.limit_bytes);
    }
    atomic_store(&done, true);
    mm_spool_wake(s);
    uint64_t n = 0;
    for (uint32_t k = 0; k < N_READERS; k++) {
        pthread_join(threads[k], NULL);
        assert_false(consumers[k].wrong);
        n += consumers[k].n;
    }
    assert_int_equal(n, N);
    ASSERT_EVENTUALLY(stats_of(s).n_segments == 1);
    print_message("%d records, %llu times full\n", N, (unsigned long long)full);
    mm_spool_close(s);
}

struct sleeper
{
    struct mm_spool *s;
    _Atomic bool asleep;
    int err;
};

static void *sleep_until_record(void *arg)
{
    struct sleeper *sl = arg;
    struct mm_spool_reader *rd = mm_spool_reader(sl->s, 0);
    struct mm_record r;
    struct mm_spool_pos pos;
    atomic_store(&sl->asleep, true);
    /* One wait only, far longer than the test runs: a lost wake-up would hang. */
    mm_spool_wait(rd, 600000);
    sl->err = mm_spool_next(rd, SCAN, &r, &pos);
    return NULL;
}

static void test_a_sleeping_reader_is_woken_by_a_record(void **state)
{
    (void)state;
    for (int i = 0; i < 200; i++) {
        struct sleeper sl = {.s = open_spool(256 << 10, 1, false)};
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, sleep_until_record, &sl), 0);
        while (!atomic_load(&sl.asleep)) {
            sched_yield();
        }
        if (i % 2 == 0) {
            sleep_ms(1);
        }
        assert_int_equal(append(sl.s, "t", 0, 10), 0);
        pthread_join(thread, NULL);
        assert_int_equal(sl.err, 0);
        mm_spool_close(sl.s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_records_come_back_in_order_with_all_their_parts,
                                        make_directory, remove_directory),
        cmocka_unit_test_setup_teardown(
            test_each_record_goes_to_one_shard_and_one_topic_to_the_same, make_directory,
            remove_directory),
        cmocka_unit_test_setup_teardown(test_max_scan_gives_the_thread_back, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_limit_holds_and_room_comes_back, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_memory_returns_to_the_system, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_low_keeps_what_is_not_finished, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_a_slow_shard_keeps_its_records_only_as_long_as_it_must,
                                        make_directory, remove_directory),
        cmocka_unit_test_setup_teardown(test_large_records_have_a_segment_to_themselves,
                                        make_directory, remove_directory),
        cmocka_unit_test_setup_teardown(test_room_is_made_for_a_large_record, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_drop_oldest_offers_the_oldest_and_goes_on,
                                        make_directory, remove_directory),
        cmocka_unit_test_setup_teardown(test_qos_0_gives_way_first, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_full_is_left_with_room_to_spare, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_drop_oldest_keeps_the_tail, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_bad_settings_are_refused, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_one_producer_and_several_readers, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_a_sleeping_reader_is_woken_by_a_record, make_directory,
                                        remove_directory),
    };
    int failed = cmocka_run_group_tests_name("in memory", tests, NULL, NULL);
    on_disk = true;
    return failed + cmocka_run_group_tests_name("on disk", tests, NULL, NULL);
}
