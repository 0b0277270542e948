/* mm_log.h - log lines of any thread, printed by the broker thread.
 *
 * Calling the broker from another thread than its own corrupts it, so every thread writes into a
 * ring here and the broker thread prints the ring from its callbacks. A full ring drops the newest
 * line and counts it; the next line that fits says how many were lost. */
#ifndef MM_LOG_H
#define MM_LOG_H

#include <stdbool.h>
#include <stdint.h>

enum mm_log_level {
    MM_LOG_TRACE,
    MM_LOG_DEBUG,
    MM_LOG_INFO,
    MM_LOG_WARN,
    MM_LOG_ERROR,
};

/* Longest line, in bytes with the final NUL; what is longer is cut and ends in "...". */
#define MM_LOG_LINE_LEN 512
#define MM_LOG_LINES 256

struct mm_log;

/* Prints one finished line. level is never below the log's own; line has no newline and is valid
 * during the call only. */
typedef void (*mm_log_print_fn)(void *arg, enum mm_log_level level, const char *line);

/* A log that keeps lines of at least this level. The caller frees it with mm_log_free().
 *
 * Thread: setup. Errors: MM_ENOMEM. */
int mm_log_new(enum mm_log_level level, struct mm_log **out);

/* From now on keep lines of at least this level. Thread: any. */
void mm_log_set_level(struct mm_log *log, enum mm_log_level level);

/* Lines that were not drained are lost. Accepts NULL. Thread: setup, when no other thread logs. */
void mm_log_free(struct mm_log *log);

/* Add a line. Takes a short lock (never held while anything is printed). A NULL log is accepted and
 * the line is dropped. Control characters in the result are replaced by '?'.
 *
 * Thread: any. */
void mm_log_write(struct mm_log *log, enum mm_log_level level, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Would a line of this level be kept? Lets a caller spare the making of it. Thread: any. */
bool mm_log_enabled(const struct mm_log *log, enum mm_log_level level);

/* Print what is in the ring, oldest first. Costs one relaxed load when it is empty, and gives up at
 * once when another thread is writing a line just now: the broker thread never waits here.
 *
 * Thread: broker. */
void mm_log_drain(struct mm_log *log, mm_log_print_fn print, void *arg);

/* Rate limit of one kind of line: at most one each interval. One writer thread each. */
struct mm_log_limit
{
    uint64_t next_ns; /* CLOCK_MONOTONIC; 0: nothing was logged yet */
    uint64_t n_held;  /* lines held back since the last one */
};

/* May a line be written now? Then *n_held is how many were held back before it, for the line to
 * say.
 *
 * Thread: the owner of limit. now_ns: CLOCK_MONOTONIC. */
bool mm_log_allowed(struct mm_log_limit *limit,
                    uint64_t now_ns,
                    uint64_t interval_ns,
                    uint64_t *n_held);

#endif
