#include "human.h"

#include "mm_clock.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SECOND_NS UINT64_C(1000000000)

const char *human_bytes(uint64_t n, char dst[HUMAN_LEN])
{
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    if (n < 1024) {
        snprintf(dst, HUMAN_LEN, "%" PRIu64 " B", n);
        return dst;
    }
    double value = (double)n / 1024;
    size_t unit = 0;
    while (value >= 1023.95 && unit + 1 < sizeof units / sizeof units[0]) {
        value /= 1024;
        unit++;
    }
    snprintf(dst, HUMAN_LEN, "%.1f %s", value, units[unit]);
    return dst;
}

const char *human_count(uint64_t n, char dst[HUMAN_LEN])
{
    char digits[HUMAN_LEN];
    int len = snprintf(digits, sizeof digits, "%" PRIu64, n);
    char *to = dst;
    for (int i = 0; i < len; i++) {
        if (i > 0 && (len - i) % 3 == 0) {
            *to++ = ',';
        }
        *to++ = digits[i];
    }
    *to = '\0';
    return dst;
}

const char *human_time(uint64_t ms, char dst[HUMAN_LEN])
{
    time_t seconds = (time_t)(ms / 1000);
    struct tm tm;
    char text[HUMAN_LEN - 5];
    if (ms == 0 || gmtime_r(&seconds, &tm) == NULL ||
        strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &tm) == 0) {
        snprintf(dst, HUMAN_LEN, "-");
        return dst;
    }
    snprintf(dst, HUMAN_LEN, "%s.%03uZ", text, (unsigned)(ms % 1000));
    return dst;
}

const char *human_duration(uint64_t ms, char dst[HUMAN_LEN])
{
    uint64_t s = ms / 1000;
    if (s < 10) {
        snprintf(dst, HUMAN_LEN, "%" PRIu64 ".%" PRIu64 " s", s, ms % 1000 / 100);
    } else if (s < 60) {
        snprintf(dst, HUMAN_LEN, "%" PRIu64 " s", s);
    } else if (s < 3600) {
        snprintf(dst, HUMAN_LEN, "%" PRIu64 " min %" PRIu64 " s", s / 60, s % 60);
    } else if (s < 86400) {
        snprintf(dst, HUMAN_LEN, "%" PRIu64 " h %" PRIu64 " min", s / 3600, s % 3600 / 60);
    } else {
        snprintf(dst, HUMAN_LEN, "%" PRIu64 " d %" PRIu64 " h", s / 86400, s % 86400 / 3600);
    }
    return dst;
}

void progress_begin(struct progress *p, const char *what, bool wanted)
{
    bool tty = isatty(STDERR_FILENO) != 0;
    *p = (struct progress){
        .what = what, .on = wanted || tty, .tty = tty, .start_ns = mm_clock_monotonic_ns()};
}

void progress_show(struct progress *p, uint64_t done, uint64_t total)
{
    if (!p->on) {
        return;
    }
    uint64_t now_ns = mm_clock_monotonic_ns();
    uint64_t since = p->shown_ns == 0 ? p->start_ns : p->shown_ns;
    uint64_t every = p->shown_ns == 0 ? SECOND_NS : p->tty ? SECOND_NS / 5 : 5 * SECOND_NS;
    if (now_ns - since < every) {
        return;
    }
    p->shown_ns = now_ns;
    char is[HUMAN_LEN];
    char all[HUMAN_LEN];
    char rate[HUMAN_LEN];
    char left[HUMAN_LEN];
    double seconds = (double)(now_ns - p->start_ns) / (double)SECOND_NS;
    double per_second = (double)done / seconds;
    double left_s = per_second >= 1 ? (double)(total > done ? total - done : 0) / per_second : 0;
    fprintf(stderr, "%s%s: %s of %s (%u %%), %s/s, %s left%s", p->tty ? "\r" : "", p->what,
            human_bytes(done, is), human_bytes(total, all),
            total == 0 ? 100 : (unsigned)((double)done * 100 / (double)total),
            human_bytes((uint64_t)per_second, rate),
            per_second >= 1 ? human_duration((uint64_t)(left_s * 1000), left) : "?",
            p->tty ? "\033[K" : "\n");
}

void progress_clear(struct progress *p)
{
    if (p->on && p->tty && p->shown_ns != 0) {
        fputs("\r\033[K", stderr);
    }
}
