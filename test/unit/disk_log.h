/* disk_log.h - a log in a directory of the test's own: opened, written, read, and left behind by a
 * process that is gone. */
#ifndef DISK_LOG_H
#define DISK_LOG_H

#include "mm_record.h"
#include "mm_spool.h"
#include "scratch.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define SCAN 100000
#define SEGMENT_BYTES ((size_t)64 * 1024)
#define PAYLOAD_LEN 1000

static char directory[SCRATCH_LEN];

static inline int make_directory(void **state)
{
    (void)state;
    return scratch_make(directory, "log");
}

static inline int remove_directory(void **state)
{
    (void)state;
    return scratch_remove(directory);
}

/* What the log's clock is ahead by: its pauses need no waiting. */
static _Atomic uint64_t ahead_ns;
static _Atomic uint64_t frozen_ns; /* the time that it shows; 0: it goes */

/* The linker turns the log's calls into these. */
uint64_t __wrap_mm_spool_now_ns(void);
uint64_t __real_mm_spool_now_ns(void);

uint64_t __wrap_mm_spool_now_ns(void)
{
    uint64_t frozen = atomic_load(&frozen_ns);
    return frozen != 0 ? frozen : __real_mm_spool_now_ns() + atomic_load(&ahead_ns);
}

static inline void pass_a_second(struct mm_spool *s)
{
    atomic_fetch_add(&ahead_ns, UINT64_C(1000000000));
    mm_spool_tick(s);
}

static inline struct mm_spool_options plain(void)
{
    return (struct mm_spool_options){.max_bytes = 1 << 20,
                                     .segment_bytes = SEGMENT_BYTES,
                                     .n_readers = 1,
                                     .manual = true,
                                     .dir = directory};
}

static inline struct mm_spool *open_log(const struct mm_spool_options *opts)
{
    struct mm_spool *s;
    char errstr[256];
    if (mm_spool_open(opts, &s, errstr, sizeof errstr) != 0) {
        fail_msg("%s", errstr);
    }
    return s;
}

static inline int append(struct mm_spool *s, uint8_t qos)
{
    static const char payload[PAYLOAD_LEN];
    struct mm_record r = {.time_ms = 1,
                          .type = MM_RECORD_MESSAGE,
                          .flags = qos,
                          .topic_len = 1,
                          .payload_len = sizeof payload,
                          .topic = "t",
                          .payload = payload};
    return mm_spool_append(s, &r);
}

static inline void append_some(struct mm_spool *s, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        assert_int_equal(append(s, 1), 0);
    }
}

/* Read all that there is; returns how many records that was. */
static inline uint32_t read_all(struct mm_spool_reader *rd)
{
    struct mm_record r;
    struct mm_spool_pos pos;
    uint32_t n = 0;
    while (mm_spool_next(rd, SCAN, &r, &pos) == 0) {
        n++;
    }
    return n;
}

static inline struct mm_spool_stats stats_of(const struct mm_spool *s)
{
    struct mm_spool_stats stats;
    mm_spool_stats(s, &stats);
    return stats;
}

/* A log whose process ended without a word: n records, the last of them in a file without seal. */
static inline void leave_killed_log_of(const struct mm_spool_options *opts, uint32_t n)
{
    pid_t pid = fork();
    if (pid == 0) {
        append_some(open_log(opts), n);
        _exit(0);
    }
    int status;
    assert_true(pid > 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static inline void leave_killed_log(uint32_t n)
{
    const struct mm_spool_options opts = plain();
    leave_killed_log_of(&opts, n);
}

static inline void segment_path(char *path, size_t len, uint64_t file)
{
    snprintf(path, len, "%s/%016" PRIx64 ".seg", directory, file);
}

static inline uint32_t count_segment_files(void)
{
    uint32_t n = 0;
    char path[sizeof directory + 32];
    for (uint64_t file = 1; file < 100; file++) {
        segment_path(path, sizeof path, file);
        n += access(path, F_OK) == 0;
    }
    return n;
}

/* No more descriptors for this process, as when a broker's clients have them all. */
static inline void take_descriptors(struct rlimit *before)
{
    assert_int_equal(getrlimit(RLIMIT_NOFILE, before), 0);
    struct rlimit none = {.rlim_cur = 0, .rlim_max = before->rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
}

static inline void give_descriptors(const struct rlimit *before)
{
    assert_int_equal(setrlimit(RLIMIT_NOFILE, before), 0);
}

#endif
