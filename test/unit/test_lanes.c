/* Numbers for Kafka topics: found again, never two for one, never too many; by many threads at
 * once. */
#include "mm_lanes.h"

#include "mm_config.h"
#include "mm_error.h"
#include "mm_route.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define N_THREADS 4
#define N_NAMES 600

static struct mm_lanes *new_lanes(void)
{
    struct mm_lanes *lanes;
    assert_int_equal(mm_lanes_new(&lanes), 0);
    return lanes;
}

static int get(struct mm_lanes *lanes, const char *name, uint32_t *lane)
{
    *lane = UINT32_MAX;
    return mm_lanes_get(lanes, name, strlen(name), lane);
}

static uint32_t lane_of(struct mm_lanes *lanes, const char *name)
{
    uint32_t lane;
    assert_int_equal(get(lanes, name, &lane), 0);
    assert_string_equal(mm_lanes_name(lanes, lane), name);
    return lane;
}

/* Settings with n Kafka topics t0, t1 ..., and a maximum. */
static struct mm_config *new_config(int n, uint32_t max)
{
    struct mm_config *config = calloc(1, sizeof *config);
    assert_non_null(config);
    config->kafka_topic = strdup("t0");
    config->kafka_topics_max = max;
    for (int i = 1; i < n; i++) {
        char text[32];
        char errstr[128];
        snprintf(text, sizeof text, "a/%d t%d", i, i);
        assert_int_equal(mm_route_add(config, text, errstr, sizeof errstr), 0);
    }
    return config;
}

static void free_config(struct mm_config *config)
{
    mm_route_free_all(config);
    free(config->kafka_topic);
    free(config);
}

static void test_numbers_are_found_again(void **state)
{
    (void)state;
    struct mm_lanes *lanes = new_lanes();
    assert_int_equal(mm_lanes_n(lanes), 0);
    assert_int_equal(lane_of(lanes, "mqtt"), 0);
    assert_int_equal(lane_of(lanes, "plant.1"), 1);
    assert_int_equal(lane_of(lanes, "plant.10"), 2);
    assert_int_equal(lane_of(lanes, "plant.1"), 1);
    assert_int_equal(lane_of(lanes, "mqtt"), 0);
    assert_int_equal(lane_of(lanes, "Mqtt"), 3);
    assert_int_equal(mm_lanes_n(lanes), 4);
    uint32_t lane;
    assert_int_equal(mm_lanes_get(lanes, "plant.100", 8, &lane), 0); /* no NUL is needed */
    assert_int_equal(lane, 2);
    mm_lanes_free(lanes);
    mm_lanes_free(NULL);
}

static void test_names_that_collide(void **state)
{
    (void)state;
    struct mm_lanes *lanes = new_lanes();
    uint32_t lane;
    (void)lane_of(lanes, "a.b_c");
    static const char *const others[] = {"a_b_c", "a.b.c", "a_b.c"};
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(get(lanes, others[i], &lane), MM_EINVAL);
    }
    (void)lane_of(lanes, "a-b-c");
    (void)lane_of(lanes, "a.b_c.");
    assert_int_equal(mm_lanes_n(lanes), 3);
    mm_lanes_free(lanes);
}

static void test_no_more_than_the_maximum(void **state)
{
    (void)state;
    struct mm_lanes *lanes = new_lanes();
    char name[32];
    uint32_t lane;
    for (int i = 0; i < MM_LANES_MAX; i++) {
        snprintf(name, sizeof name, "topic.%d", i);
        assert_int_equal(lane_of(lanes, name), i);
    }
    assert_int_equal(get(lanes, "one-more", &lane), MM_EFULL);
    assert_int_equal(lane_of(lanes, "topic.1023"), 1023);
    assert_int_equal(get(lanes, "topic_1023", &lane), MM_EINVAL);
    assert_int_equal(mm_lanes_n(lanes), MM_LANES_MAX);
    mm_lanes_free(lanes);
}

static void test_reset_to_the_settings(void **state)
{
    (void)state;
    struct mm_lanes *lanes = new_lanes();
    uint32_t lane;
    char name[MM_LANES_NAME_LEN];
    (void)lane_of(lanes, "t.1");
    (void)lane_of(lanes, "t2");
    mm_lanes_count_delivered(lanes, 1);
    mm_lanes_count_delivered(lanes, 1);
    assert_int_equal(mm_lanes_n_delivered(lanes, 0), 0);
    assert_int_equal(mm_lanes_n_delivered(lanes, 1), 2);
    struct mm_config *config = new_config(3, 4);
    assert_int_equal(mm_lanes_reset(lanes, config), 0);
    assert_int_equal(mm_lanes_n(lanes), 3);
    assert_int_equal(mm_lanes_n_delivered(lanes, 1), 0);
    for (uint32_t i = 0; i < 3; i++) {
        assert_string_equal(mm_lanes_name(lanes, i), mm_route_kafka_topic(config, i));
        mm_lanes_copy_name(lanes, i, name);
        assert_string_equal(name, mm_route_kafka_topic(config, i));
    }
    mm_lanes_copy_name(lanes, 3, name);
    assert_string_equal(name, "");
    assert_int_equal(lane_of(lanes, "t.1"), 3);
    assert_int_equal(get(lanes, "t9", &lane), MM_EFULL);
    assert_int_equal(lane_of(lanes, "t1"), 1);
    free_config(config);

    config = new_config(1, MM_LANES_MAX);
    assert_int_equal(mm_lanes_reset(lanes, config), 0);
    assert_int_equal(mm_lanes_n(lanes), 1);
    assert_int_equal(lane_of(lanes, "t9"), 1);
    free_config(config);
    mm_lanes_free(lanes);
}

/* --- threads --- */

struct crowd
{
    struct mm_lanes *lanes;
    pthread_barrier_t start;
    uint32_t lane[N_THREADS][N_NAMES];
};

struct member
{
    struct crowd *crowd;
    uint32_t number;
};

/* Each asks for all names, beginning at another; some collide with what others ask for. */
static void *ask(void *arg)
{
    struct member *me = arg;
    struct crowd *c = me->crowd;
    pthread_barrier_wait(&c->start);
    for (uint32_t k = 0; k < N_NAMES; k++) {
        uint32_t i = (k + me->number * N_NAMES / N_THREADS) % N_NAMES;
        char name[MM_LANES_NAME_LEN];
        uint32_t lane;
        char dot = me->number % 2 == 0 ? '.' : '_';
        int len = snprintf(name, sizeof name, "%c%c%u", i % 2 == 0 ? 'y' : 'x',
                           i % 2 == 0 ? '.' : dot, i / 2);
        int err = mm_lanes_get(c->lanes, name, (size_t)len, &lane);
        c->lane[me->number][i] = err == 0 ? lane : UINT32_MAX;
        if (err == 0 && strcmp(mm_lanes_name(c->lanes, lane), name) != 0) {
            c->lane[me->number][i] = UINT32_MAX - 1;
        }
        mm_lanes_copy_name(c->lanes, i % 8, name);
    }
    return NULL;
}

static void test_many_threads_get_the_same_numbers(void **state)
{
    (void)state;
    static struct crowd crowd;
    struct member members[N_THREADS];
    pthread_t threads[N_THREADS];
    crowd.lanes = new_lanes();
    pthread_barrier_init(&crowd.start, NULL, N_THREADS);
    for (uint32_t t = 0; t < N_THREADS; t++) {
        members[t] = (struct member){.crowd = &crowd, .number = t};
        assert_int_equal(pthread_create(&threads[t], NULL, ask, &members[t]), 0);
    }
    for (uint32_t t = 0; t < N_THREADS; t++) {
        pthread_join(threads[t], NULL);
    }
    assert_int_equal(mm_lanes_n(crowd.lanes), N_NAMES);
    for (uint32_t i = 0; i < N_NAMES; i++) {
        uint32_t n_got = 0;
        uint32_t lane = UINT32_MAX;
        for (uint32_t t = 0; t < N_THREADS; t++) {
            uint32_t got = crowd.lane[t][i];
            assert_int_not_equal(got, UINT32_MAX - 1);
            if (got != UINT32_MAX) {
                assert_true(lane == UINT32_MAX || lane == got);
                lane = got;
                n_got++;
            }
        }
        /* Of two names that collide the one that was first is there for all who ask for it. */
        assert_int_equal(n_got, i % 2 == 0 ? N_THREADS : N_THREADS / 2);
        assert_in_range(lane, 0, N_NAMES - 1);
    }
    pthread_barrier_destroy(&crowd.start);
    mm_lanes_free(crowd.lanes);
}

/* --- no memory ----------------------------------------------------------------------------------
 */

static bool no_memory;

extern void *__real_malloc(size_t size);
extern void *__real_calloc(size_t n, size_t size);
extern void *__real_realloc(void *old, size_t size);
extern char *__real_strndup(const char *text, size_t len);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *old, size_t size);
char *__wrap_strndup(const char *text, size_t len);

void *__wrap_malloc(size_t size)
{
    return no_memory ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return no_memory ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *old, size_t size)
{
    return no_memory ? NULL : __real_realloc(old, size);
}

char *__wrap_strndup(const char *text, size_t len)
{
    return no_memory ? NULL : __real_strndup(text, len);
}

/* A message whose Kafka topic is a new one must not become a dead letter for want of memory. */
static void test_a_new_lane_takes_no_memory(void **state)
{
    (void)state;
    struct mm_lanes *lanes = new_lanes();
    no_memory = true;
    uint32_t lane;
    const int err = get(lanes, "a.new.one", &lane);
    no_memory = false;
    assert_int_equal(err, 0);
    assert_string_equal(mm_lanes_name(lanes, lane), "a.new.one");
    mm_lanes_free(lanes);
}

static void test_a_name_that_is_too_long(void **state)
{
    (void)state;
    char name[MM_LANES_NAME_LEN + 1];
    memset(name, 'a', sizeof name);
    name[MM_LANES_NAME_LEN] = '\0';
    struct mm_lanes *lanes = new_lanes();
    uint32_t lane;
    assert_int_equal(get(lanes, name, &lane), MM_EINVAL);
    name[MM_LANES_NAME_LEN - 1] = '\0';
    assert_int_equal(lane_of(lanes, name), 0);
    mm_lanes_free(lanes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_numbers_are_found_again),
        cmocka_unit_test(test_names_that_collide),
        cmocka_unit_test(test_no_more_than_the_maximum),
        cmocka_unit_test(test_reset_to_the_settings),
        cmocka_unit_test(test_many_threads_get_the_same_numbers),
        cmocka_unit_test(test_a_new_lane_takes_no_memory),
        cmocka_unit_test(test_a_name_that_is_too_long),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
