/* starve_main - each n-th allocation and each n-th call of the system fails, once, and for ever
 * from there on, until a life has ended without that anything failed: no crash, no leak of memory,
 * descriptors or threads, no broken promise.
 *
 *   starve [LIFE]...    MM_TEST_LONG=1: every fault of the slow lives too
 *
 * Leaks of memory are found where the address sanitizer is built in. */
#include "files.h"
#include "starve.h"
#include "starve_life.h"

#include <dirent.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Tells by its result whether memory is lost; there only with the address sanitizer. */
extern int __lsan_do_recoverable_leak_check(void) __attribute__((weak));

/* Runs of a slow life, short form, for each kind of fault. */
#define SLOW_RUNS 12

/* To look for what is lost takes longer than most lives. */
#define RUNS_PER_LOOK 16

char starve_dir[256];
static char place[256];

void starve_check(bool condition, const char *text, const char *file, int line)
{
    if (!condition) {
        (void)starve_disarm();
        fprintf(stderr, "%s (%s): %s:%d: not so: %s\n", place, starve_failed(), file, line, text);
        exit(1);
    }
}

static void on_signal(int number)
{
    static const char text[] = ": the process was ended by a signal\n";
    ssize_t n = write(STDERR_FILENO, place, strlen(place));
    n = n < 0 ? n : write(STDERR_FILENO, text, sizeof text - 1);
    (void)n;
    (void)signal(number, SIG_DFL);
    (void)raise(number);
}

static size_t count_entries(const char *path)
{
    DIR *dir = opendir(path);
    size_t n = 0;
    if (dir == NULL) {
        files_give_up("%s", path);
    }
    while (readdir(dir) != NULL) {
        n++;
    }
    closedir(dir);
    return n;
}

/* A thread that was joined may be seen for a moment more. */
static void check_back_to(const char *path, size_t n)
{
    for (int i = 0; i < 2000 && count_entries(path) > n; i++) {
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    CHECK(count_entries(path) <= n);
}

/* Returns whether something has failed. */
static bool run_once(const struct starve_life *life, enum starve_what what, uint64_t n, bool ever)
{
    static const char *const names[] = {[STARVE_MEMORY] = "allocation", [STARVE_CALLS] = "call"};
    snprintf(place, sizeof place, "%s, %s %" PRIu64 "%s", life->name, names[what], n,
             ever ? " and all behind it" : "");
    if (life->prepare != NULL) {
        life->prepare();
    }
    const size_t n_fds = count_entries("/proc/self/fd");
    const size_t n_threads = count_entries("/proc/self/task");
    starve_arm(what, n, ever);
    life->live();
    const bool failed = starve_disarm();
    check_back_to("/proc/self/fd", n_fds);
    check_back_to("/proc/self/task", n_threads);
    if (life->verify != NULL) {
        life->verify();
    }
    return failed;
}

static void check_leaks(void)
{
    if (__lsan_do_recoverable_leak_check != NULL) {
        CHECK(__lsan_do_recoverable_leak_check() == 0);
    }
}

/* Every fault, or some of them up to the last. Returns how many. */
static uint64_t run_all(const struct starve_life *life, enum starve_what what, bool ever, bool all)
{
    uint64_t n_faults = 0;
    uint64_t step = 1;
    for (uint64_t n = 1; run_once(life, what, n, ever); n += step) {
        if (++n_faults % RUNS_PER_LOOK == 0) {
            check_leaks();
        }
        /* The first ones one by one, then fewer and fewer. */
        if (!all && n_faults % (SLOW_RUNS / 3) == 0) {
            step *= 3;
        }
    }
    check_leaks();
    return n_faults;
}

static bool is_wanted(const struct starve_life *life, int argc, char **argv)
{
    bool wanted = argc <= 1;
    for (int i = 1; i < argc; i++) {
        wanted = wanted || strcmp(argv[i], life->name) == 0;
    }
    return wanted;
}

static void run_life(const struct starve_life *life, bool is_long)
{
    const bool all = is_long || !life->is_slow;
    uint64_t n[4];
    for (int i = 0; i < 4; i++) {
        n[i] = run_all(life, i < 2 ? STARVE_MEMORY : STARVE_CALLS, i % 2 == 1, all);
        CHECK(n[i] > 0 || i >= 2);
    }
    printf("%-16s %5" PRIu64 " allocations and %5" PRIu64 " calls failed once, %5" PRIu64
           " and %5" PRIu64 " for ever\n",
           life->name, n[0], n[2], n[1], n[3]);
    fflush(stdout);
}

static void *do_nothing(void *arg)
{
    return arg;
}

/* A sanitizer may have a thread of its own from the first one on that is made: before they are
 * counted. */
static void make_first_thread(void)
{
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, do_nothing, NULL) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
}

int main(int argc, char **argv)
{
    const char *value = getenv("MM_TEST_LONG");
    const bool is_long = value != NULL && strcmp(value, "1") == 0;
    const struct starve_life *const tables[] = {starve_parts, starve_tool, starve_whole};
    int n_lives = 0;
    files_make_dir(true, starve_dir);
    make_first_thread();
    (void)signal(SIGSEGV, on_signal);
    (void)signal(SIGABRT, on_signal);
    (void)signal(SIGPIPE, SIG_IGN);
    for (size_t t = 0; t < sizeof tables / sizeof tables[0]; t++) {
        for (const struct starve_life *life = tables[t]; life->name != NULL; life++) {
            if (is_wanted(life, argc, argv)) {
                run_life(life, is_long);
                n_lives++;
            }
        }
    }
    CHECK(n_lives > 0);
    return 0;
}
