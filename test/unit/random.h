/* random.h - numbers that look random and are the same at each run. */
#ifndef RANDOM_H
#define RANDOM_H

#include <stddef.h>
#include <stdint.h>

/* 32 bits, from the upper half of a linear congruential generator. *state: any number at first. */
static inline uint32_t next_random(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(*state >> 32);
}

static inline uint64_t next_random64(uint64_t *state)
{
    uint64_t high = next_random(state);
    return high << 32 | next_random(state);
}

/* 0 to n - 1. */
static inline size_t random_below(uint64_t *state, size_t n)
{
    return next_random(state) % n;
}

#endif
