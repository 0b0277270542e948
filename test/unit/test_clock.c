/* The system's clock is set back while messages flow; see rig.h. */
#include "rig.h"

#include <dlfcn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

#define SLICE_NS 2000000L

/* How often the clock was set back, by an hour each time. */
static atomic_uint n_jumps;

__attribute__((visibility("default"))) int clock_gettime(clockid_t clock, struct timespec *now)
{
    int result = (int)syscall(SYS_clock_gettime, clock, now);
    now->tv_sec -= clock == CLOCK_REALTIME ? (time_t)atomic_load(&n_jumps) * 3600 : 0;
    return result;
}

/* The Kafka client waits until a moment of the system's clock. What it waits for when that is set
 * back is hours away then, unless somebody wakes it; what it waits for later is not. This function
 * stands before the C library's. */
__attribute__((visibility("default"))) int cnd_timedwait(cnd_t *restrict cond,
                                                         mtx_t *restrict mutex,
                                                         const struct timespec *restrict until)
{
    static int (*real)(cnd_t *, mtx_t *, const struct timespec *);
    if (real == NULL) {
        *(void **)&real = dlsym(RTLD_NEXT, "cnd_timedwait");
    }
    unsigned int before = atomic_load(&n_jumps);
    for (;;) {
        struct timespec now;
        (void)syscall(SYS_clock_gettime, CLOCK_REALTIME, &now);
        struct timespec slice = now;
        slice.tv_nsec += SLICE_NS;
        slice.tv_sec += slice.tv_nsec / 1000000000L;
        slice.tv_nsec %= 1000000000L;
        bool jumped = atomic_load(&n_jumps) != before;
        bool near = until->tv_sec < slice.tv_sec ||
                    (until->tv_sec == slice.tv_sec && until->tv_nsec <= slice.tv_nsec);
        int result = real(cond, mutex, near && !jumped ? until : &slice);
        if (result != thrd_timedout || (near && !jumped)) {
            return result;
        }
    }
}

/* Few messages, so that the worker mostly waits for the next one. */
static void test_messages_flow_on_when_it_is_set_back(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    rig_start(g);
    rig_publish_many(g, 10, 1);
    assert_true(rig_wait_empty(g, 10000));
    for (int i = 0; i < 20; i++) {
        rig_publish_many(g, 1, 1);
        assert_true(rig_wait_empty(g, 5000));
        sleep_ms(5);
        atomic_fetch_add(&n_jumps, 1);
    }
    rig_publish_many(g, 10, 1);
    assert_true(rig_wait_empty(g, 5000));
    atomic_store(&n_jumps, 0); /* what ends a thread's life is waited for by that clock, too */
    rig_end(g);
}

/* The same with nobody there to deliver to: what the client does then is woken by nothing. */
static void test_an_outage_ends_when_it_was_set_back(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    rig_start(g);
    rig_publish_many(g, 10, 1);
    assert_true(rig_wait_empty(g, 10000));
    rd_kafka_mock_broker_set_down(g->cluster, 1);
    rig_publish_many(g, 10, 1);
    sleep_ms(300);
    for (int i = 0; i < 20; i++) {
        atomic_fetch_add(&n_jumps, 1);
        sleep_ms(20);
    }
    rd_kafka_mock_broker_set_up(g->cluster, 1);
    assert_true(rig_wait_empty(g, 15000));
    check_all_there(g, 1);
    atomic_store(&n_jumps, 0);
    rig_end(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_messages_flow_on_when_it_is_set_back),
        cmocka_unit_test(test_an_outage_ends_when_it_was_set_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
