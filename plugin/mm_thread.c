#include "mm_thread.h"

#include "mm_clock.h"

#include <stddef.h>

void mm_thread_block_signals(sigset_t *before)
{
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, before);
}

void mm_thread_restore_signals(const sigset_t *before)
{
    pthread_sigmask(SIG_SETMASK, before, NULL);
}

int mm_thread_start(const char *name, void *(*run)(void *), void *arg, pthread_t *out)
{
    sigset_t before;
    mm_thread_block_signals(&before);
    int err = pthread_create(out, NULL, run, arg);
    mm_thread_restore_signals(&before);
    if (err == 0) {
        pthread_setname_np(*out, name);
    }
    return err;
}

/* On the wall clock, as sanitizers know no other way; a clock that is set meanwhile is no harm. */
bool mm_thread_join(pthread_t thread, uint32_t timeout_ms)
{
    uint64_t until_ms = mm_clock_realtime_ms() + timeout_ms;
    struct timespec until = {.tv_sec = (time_t)(until_ms / 1000),
                             .tv_nsec = (long)(until_ms % 1000) * 1000000};
    return pthread_timedjoin_np(thread, NULL, &until) == 0;
}

void mm_thread_cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
}

struct timespec mm_thread_deadline(uint32_t timeout_ms)
{
    uint64_t until_ns = mm_clock_monotonic_ns() + timeout_ms * UINT64_C(1000000);
    return (struct timespec){.tv_sec = (time_t)(until_ns / UINT64_C(1000000000)),
                             .tv_nsec = (long)(until_ns % UINT64_C(1000000000))};
}
