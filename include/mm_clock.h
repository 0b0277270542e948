/* mm_clock.h - the two clocks.
 *
 * All waits and ages inside the process go by the monotonic one. The wall clock may jump; it is for
 * times that are stored or shown.
 *
 * Thread: any. */
#ifndef MM_CLOCK_H
#define MM_CLOCK_H

#include <stdint.h>
#include <time.h>

/* Nanoseconds since some moment before the process began (CLOCK_MONOTONIC). */
static inline uint64_t mm_clock_monotonic_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

/* Milliseconds since the epoch (CLOCK_REALTIME). */
static inline uint64_t mm_clock_realtime_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* How long ago that was, in milliseconds, by the clock that may jump; 0: there was nothing, or it
 * is still to come. */
static inline uint64_t mm_clock_age_ms(uint64_t since_ms)
{
    uint64_t now_ms = mm_clock_realtime_ms();
    return since_ms == 0 || since_ms > now_ms ? 0 : now_ms - since_ms;
}

/* Milliseconds until then, by the monotonic clock; 0: it is over. */
static inline uint32_t mm_clock_left_ms(uint64_t until_ns)
{
    uint64_t now_ns = mm_clock_monotonic_ns();
    uint64_t left_ms = until_ns > now_ns ? (until_ns - now_ns) / 1000000 : 0;
    return left_ms < UINT32_MAX ? (uint32_t)left_ms : UINT32_MAX;
}

#endif
