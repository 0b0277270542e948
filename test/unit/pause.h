/* pause.h - time in tests: how much has passed, and letting some pass. */
#ifndef PAUSE_H
#define PAUSE_H

#include "mm_clock.h"

#include <stdint.h>
#include <time.h>

/* Of the monotonic clock. */
static inline uint64_t now_ms(void)
{
    return mm_clock_monotonic_ns() / 1000000;
}

static inline void sleep_ms(long ms)
{
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

#endif
