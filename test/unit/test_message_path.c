/* What the broker's thread does for a message: no allocation, no lock, no system call. */
#include "mm_clock.h"
#include "mm_filter.h"
#include "mm_log.h"
#include "mm_metrics.h"
#include "mm_spool.h"
#include "scratch.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define N_MESSAGES 20000 /* they fit into a file; those in memory have a quarter of that */
#define MAX_BYTES (UINT64_C(64) * 1024 * 1024)

/* --- what is counted ----------------------------------------------------------------------------
 */

/* In memory that a child shares with its parent. */
struct counts
{
    uint64_t n_stored;
    uint64_t n_segments;
    uint64_t n_calls;    /* allocations and locks, by our own code */
    uint64_t n_syscalls; /* by whatever the thread runs */
    uint64_t n_futex;    /* of those */
    int number;          /* of the last one that was none */
};

/* ThreadSanitizer puts signals off, and makes system calls of its own. */
#ifdef __SANITIZE_THREAD__
static const bool counts_syscalls = false;
#else
static const bool counts_syscalls = true;
#endif

static struct counts *counts;
static _Thread_local bool counting;

static void note_call(void)
{
    if (counting) {
        counts->n_calls++; /* only one thread does */
    }
}

/* The linker turns the library's calls into these. */
#define WRAP(type, name, parameters, arguments) \
    type __wrap_##name parameters;              \
    type __real_##name parameters;              \
    type __wrap_##name parameters               \
    {                                           \
        note_call();                            \
        return __real_##name arguments;         \
    }

WRAP(void *, malloc, (size_t size), (size))
WRAP(void *, calloc, (size_t n, size_t size), (n, size))
WRAP(void *, realloc, (void *old, size_t size), (old, size))
WRAP(void *, aligned_alloc, (size_t align, size_t size), (align, size))
WRAP(int, pthread_mutex_lock, (pthread_mutex_t * mutex), (mutex))
WRAP(int, pthread_mutex_trylock, (pthread_mutex_t * mutex), (mutex))

/* The system hands each call of the thread to us, and makes none. */
static void on_syscall(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)context;
    counts->n_syscalls++;
    if (info->si_syscall == SYS_futex) {
        counts->n_futex++;
    } else {
        counts->number = info->si_syscall;
    }
}

/* From now on this thread makes no system calls, but to return from the handler and to end. */
static int forbid_syscalls(void)
{
    struct sock_filter rules[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_rt_sigreturn, 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit_group, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof rules / sizeof rules[0], .filter = rules};
    struct sigaction action = {.sa_sigaction = on_syscall, .sa_flags = SA_SIGINFO};
    if (sigaction(SIGSYS, &action, NULL) != 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
        return errno;
    }
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) == 0 ? 0 : errno;
}

/* --- the way of a message -----------------------------------------------------------------------
 */

struct way
{
    struct mm_log *log;
    struct mm_filter_set *filters;
    struct mm_metrics *metrics;
    struct mm_metrics_broker *counters;
    struct mm_spool *spool;
};

static char directory[SCRATCH_LEN];

static bool open_way(struct way *w, const char *dir)
{
    char errstr[256];
    struct mm_metrics_info info = {
        .version = "1", .librdkafka = "1", .mosquitto = "1", .n_workers = 1};
    struct mm_spool_options opts = {
        .max_bytes = MAX_BYTES, .n_readers = 1, .dir = dir, .min_free = 0};
    if (mm_log_new(MM_LOG_INFO, &w->log) != 0 || mm_metrics_new(&info, &w->metrics) != 0 ||
        mm_filter_set_new("a/+/b,plant/#,x", &w->filters, errstr, sizeof errstr) != 0) {
        return false;
    }
    w->counters = mm_metrics_broker(w->metrics);
    opts.log = w->log;
    return mm_spool_open(&opts, &w->spool, errstr, sizeof errstr) == 0;
}

static void print_nothing(void *arg, enum mm_log_level level, const char *line)
{
    (void)arg;
    (void)level;
    (void)line;
}

/* As on_message() in mm_plugin.c, which is not to be had without a broker. */
static int store(struct way *w, size_t i)
{
    static const char *const topics[] = {"plant/1/temperature", "a/long/b", "x"};
    static const char payload[100];
    mm_log_drain(w->log, print_nothing, NULL);
    const char *topic = topics[i % 3];
    size_t topic_len = strlen(topic);
    if (!mm_filter_set_match(w->filters, topic, topic_len)) {
        return -1;
    }
    uint64_t start_ns = mm_clock_monotonic_ns();
    struct mm_record r = {.time_ms = mm_clock_realtime_ms(),
                          .flags = (uint8_t)(i % 3),
                          .type = MM_RECORD_MESSAGE,
                          .topic_len = (uint16_t)topic_len,
                          .payload_len = sizeof payload,
                          .topic = topic,
                          .payload = payload};
    int err = mm_spool_append(w->spool, &r);
    mm_counter_add(&w->counters->spooled, 1);
    mm_counter_add(&w->counters->received_bytes, sizeof payload);
    mm_counter_add(&w->counters->received[i % 3], 1);
    mm_histogram_callback(&w->counters->callback, mm_clock_monotonic_ns() - start_ns);
    return err;
}

/* In a child: nobody else is to live under that rule. Its status: what could not be had; 0. */
static int run(const char *dir, size_t n)
{
    struct way w = {0};
    if (!open_way(&w, dir)) {
        return 1;
    }
    for (size_t i = 0; i < 10; i++) {
        (void)store(&w,
                    i); /* what is done for the first time only (the dynamic linker, the vdso) */
    }
    int err = counts_syscalls ? forbid_syscalls() : 0;
    if (err != 0) {
        return err;
    }
    counting = true;
    for (size_t i = 0; i < n; i++) {
        counts->n_stored += store(&w, i) == 0;
    }
    counting = false;
    struct mm_spool_stats stats;
    uint64_t n_syscalls = counts->n_syscalls;
    mm_spool_stats(w.spool, &stats);
    counts->n_syscalls = n_syscalls;
    counts->n_segments = stats.n_segments;
    return 0;
}

static void count(const char *dir, size_t n)
{
    memset(counts, 0, sizeof *counts);
    pid_t pid = fork();
    if (pid == 0) {
        syscall(SYS_exit_group, run(dir, n));
    }
    int status;
    assert_true(pid > 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_int_equal(counts->n_stored, n);
}

static void check_no_calls(const char *dir, size_t n)
{
    count(dir, n);
    assert_int_equal(counts->n_segments, 1);
    assert_int_equal(counts->n_calls, 0);
    assert_int_equal(counts->n_syscalls, 0);
}

/* Once a segment the housekeeper is told, and nothing else. */
static void check_new_segments(const char *dir, size_t n)
{
    count(dir, n);
    assert_in_range(counts->n_segments, 2, 3);
    assert_int_equal(counts->n_calls, 0);
    assert_int_equal(counts->number, 0);
    assert_int_equal(counts->n_syscalls, counts->n_futex);
    assert_in_range(counts->n_futex, counts_syscalls ? 1 : 0, counts->n_segments);
}

static int make_directory(void **state)
{
    (void)state;
    return scratch_make(directory, "path");
}

static int remove_directory(void **state)
{
    (void)state;
    return scratch_remove(directory);
}

static void test_in_memory(void **state)
{
    (void)state;
    check_no_calls(NULL, N_MESSAGES / 4);
}

static void test_on_disk(void **state)
{
    (void)state;
    check_no_calls(directory, N_MESSAGES);
}

static void test_a_new_segment_in_memory(void **state)
{
    (void)state;
    check_new_segments(NULL, 20000);
}

static void test_a_new_segment_on_disk(void **state)
{
    (void)state;
    check_new_segments(directory, 60000);
}

int main(void)
{
    counts = mmap(NULL, sizeof *counts, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_in_memory),
        cmocka_unit_test_setup_teardown(test_on_disk, make_directory, remove_directory),
        cmocka_unit_test(test_a_new_segment_in_memory),
        cmocka_unit_test_setup_teardown(test_a_new_segment_on_disk, make_directory,
                                        remove_directory),
    };
    return counts == MAP_FAILED || cmocka_run_group_tests(tests, NULL, NULL);
}
