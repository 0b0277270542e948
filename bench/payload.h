/* payload.h - what the messages of the benchmarks are made of, whoever sends them.
 *
 * A payload begins with a time as 20 decimal digits, CLOCK_MONOTONIC in ns; one that is too short
 * for that has none. MQTT topics end in six digits. */
#ifndef BENCH_PAYLOAD_H
#define BENCH_PAYLOAD_H

#include <stddef.h>
#include <stdint.h>

#define STAMP_LEN 20
#define TOPIC_DIGITS 6

/* Write value right-aligned as decimal digits, zeros in front. */
static inline void put_digits(uint8_t *dst, size_t n_digits, uint64_t value)
{
    for (size_t i = n_digits; i > 0; i--) {
        dst[i - 1] = (uint8_t)('0' + value % 10);
        value /= 10;
    }
}

/* Neither constant nor random: what a compressor makes of it is about what it makes of telemetry.
 */
static inline void make_payload(uint8_t *dst, size_t len)
{
    uint32_t state = 1;
    for (size_t i = 0; i < len; i++) {
        state = state * 1664525 + 1013904223;
        dst[i] = (uint8_t)("0123456789.,-\":{}eE abcdefghiklmn"[state >> 27]);
    }
}

#endif
