#include "mm_log.h"

#include "mm_error.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct line
{
    enum mm_log_level level;
    char text[MM_LOG_LINE_LEN];
};

struct mm_log
{
    _Atomic int level; /* enum mm_log_level */

    /* under lock */
    pthread_mutex_t lock;
    size_t first;    /* index of the oldest line */
    size_t n_lines;  /* in the ring */
    uint64_t n_lost; /* since the last line that fitted */
    struct line ring[MM_LOG_LINES];

    /* Written under the lock, read by the broker thread without it: is there anything to print? A
     * stale answer only delays a line to the next drain. */
    _Atomic size_t n_waiting;

    /* broker thread: lines copied out, printed after the lock is released */
    struct line batch[16];
};

int mm_log_new(enum mm_log_level level, struct mm_log **out)
{
    *out = calloc(1, sizeof **out);
    if (*out == NULL) {
        return MM_ENOMEM;
    }
    atomic_init(&(*out)->level, level);
    pthread_mutex_init(&(*out)->lock, NULL);
    return 0;
}

void mm_log_set_level(struct mm_log *log, enum mm_log_level level)
{
    atomic_store_explicit(&log->level, level, memory_order_relaxed);
}

void mm_log_free(struct mm_log *log)
{
    if (log == NULL) {
        return;
    }
    pthread_mutex_destroy(&log->lock);
    free(log);
}

bool mm_log_enabled(const struct mm_log *log, enum mm_log_level level)
{
    return log != NULL && (int)level >= atomic_load_explicit(&log->level, memory_order_relaxed);
}

/* The slot behind the newest line. The ring has room. */
static struct line *push(struct mm_log *log, enum mm_log_level level)
{
    struct line *line = &log->ring[(log->first + log->n_lines) % MM_LOG_LINES];
    log->n_lines++;
    line->level = level;
    return line;
}

/* A line break would let text from outside forge a log line. */
static void make_printable(char *text)
{
    for (char *p = text; *p != '\0'; p++) {
        if ((unsigned char)*p < 0x20 || *p == 0x7F) {
            *p = '?';
        }
    }
}

void mm_log_write(struct mm_log *log, enum mm_log_level level, const char *fmt, ...)
{
    if (!mm_log_enabled(log, level)) {
        return;
    }
    /* The text is made before the lock is taken, so that it is held for a copy only. */
    char text[MM_LOG_LINE_LEN];
    va_list args;
    va_start(args, fmt);
    int len = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (len < 0) {
        return;
    }
    if ((size_t)len >= sizeof text) {
        memcpy(text + sizeof text - 4, "...", 4);
    }
    make_printable(text);

    pthread_mutex_lock(&log->lock);
    if (log->n_lost > 0 && log->n_lines + 2 <= MM_LOG_LINES) {
        struct line *line = push(log, MM_LOG_WARN);
        snprintf(line->text, sizeof line->text, "%" PRIu64 " log lines were lost: too many at once",
                 log->n_lost);
        log->n_lost = 0;
    }
    if (log->n_lost == 0 && log->n_lines < MM_LOG_LINES) {
        memcpy(push(log, level)->text, text, strlen(text) + 1);
    } else {
        log->n_lost++;
    }
    atomic_store_explicit(&log->n_waiting, log->n_lines, memory_order_relaxed);
    pthread_mutex_unlock(&log->lock);
}

void mm_log_drain(struct mm_log *log, mm_log_print_fn print, void *arg)
{
    while (log != NULL && atomic_load_explicit(&log->n_waiting, memory_order_relaxed) > 0) {
        if (pthread_mutex_trylock(&log->lock) != 0) {
            return;
        }
        size_t n = 0;
        for (; n < sizeof log->batch / sizeof log->batch[0] && log->n_lines > 0; n++) {
            log->batch[n] = log->ring[log->first];
            log->first = (log->first + 1) % MM_LOG_LINES;
            log->n_lines--;
        }
        atomic_store_explicit(&log->n_waiting, log->n_lines, memory_order_relaxed);
        pthread_mutex_unlock(&log->lock);
        for (size_t i = 0; i < n; i++) {
            print(arg, log->batch[i].level, log->batch[i].text);
        }
    }
}

bool mm_log_allowed(struct mm_log_limit *limit,
                    uint64_t now_ns,
                    uint64_t interval_ns,
                    uint64_t *n_held)
{
    if (now_ns < limit->next_ns) {
        limit->n_held++;
        return false;
    }
    *n_held = limit->n_held;
    limit->n_held = 0;
    limit->next_ns = now_ns + interval_ns;
    return true;
}
