/* human.h - figures as people read them, and how far long work has come. */
#ifndef HUMAN_H
#define HUMAN_H

#include <stdbool.h>
#include <stdint.h>

#define HUMAN_LEN 32

/* "712 B", "12.3 MiB". Each of these returns dst. */
const char *human_bytes(uint64_t n, char dst[HUMAN_LEN]);

/* "12,345,678". */
const char *human_count(uint64_t n, char dst[HUMAN_LEN]);

/* Milliseconds since the epoch as "2026-01-31T12:00:00.123Z"; "-" for 0. */
const char *human_time(uint64_t ms, char dst[HUMAN_LEN]);

/* A duration: "3 d 4 h", "5 min 12 s", "0.8 s". */
const char *human_duration(uint64_t ms, char dst[HUMAN_LEN]);

/* A line on standard error that says how far the work is: on a terminal the same line again and
 * again, else, when it is wanted, a line every five seconds. Nothing in the first second. */
struct progress
{
    const char *what; /* "verify" */
    bool on;
    bool tty;
    uint64_t start_ns;
    uint64_t shown_ns; /* 0: nothing stands there */
};

/* wanted: also when standard error is no terminal. */
void progress_begin(struct progress *p, const char *what, bool wanted);

/* done and total in bytes. */
void progress_show(struct progress *p, uint64_t done, uint64_t total);

/* Make room for another line. */
void progress_clear(struct progress *p);

#endif
