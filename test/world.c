/* world.c - a clock that can be set, and names that resolve or not: for one process.
 *
 * To be preloaded into a broker by the integration tests (test/integration/harness/world.py). It
 * stands in front of libc.
 *
 *   MM_WORLD_CLOCK=file   8 bytes, a signed number of nanoseconds in the machine's order: what
 *                         CLOCK_REALTIME is ahead of the true one. Changed at any time, by writing
 *                         to the file. The monotonic clock goes on as ever, and timed waits behave
 *                         as the kernel's: one until a moment of CLOCK_REALTIME ends when that
 *                         clock says so.
 *   MM_WORLD_NAMES=file   lines "name address"; read at each question. A name that ends in ".test"
 *                         resolves to what it says there, and otherwise not at all. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define SECOND INT64_C(1000000000)

/* A wait looks at the clock so often. */
#define SLICE (20 * INT64_C(1000000))

static const _Atomic int64_t *offset; /* NULL: the true time */

static int64_t to_ns(const struct timespec *t)
{
    return t->tv_sec * SECOND + t->tv_nsec;
}

static struct timespec to_timespec(int64_t ns)
{
    return (struct timespec){.tv_sec = ns / SECOND, .tv_nsec = ns % SECOND};
}

/* Not by libc, whose function this file takes the place of. */
static int64_t true_time(clockid_t clock)
{
    struct timespec now = {0};
    syscall(SYS_clock_gettime, clock, &now);
    return to_ns(&now);
}

static int64_t ahead(void)
{
    return offset == NULL ? 0 : atomic_load_explicit(offset, memory_order_relaxed);
}

__attribute__((constructor)) static void open_world(void)
{
    const char *path = getenv("MM_WORLD_CLOCK");
    int fd = path == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return;
    }
    const void *map = mmap(NULL, sizeof *offset, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (map != MAP_FAILED) {
        offset = map;
    }
}

/* --- the clock ----------------------------------------------------------------------------------
 */

EXPORT int clock_gettime(clockid_t clock, struct timespec *out)
{
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) {
        *out = to_timespec(true_time(clock) + ahead());
        return 0;
    }
    return (int)syscall(SYS_clock_gettime, clock, out);
}

EXPORT int gettimeofday(struct timeval *restrict out, void *restrict zone)
{
    (void)zone;
    int64_t now = true_time(CLOCK_REALTIME) + ahead();
    *out = (struct timeval){.tv_sec = now / SECOND, .tv_usec = now % SECOND / 1000};
    return 0;
}

EXPORT time_t time(time_t *out)
{
    time_t now = (true_time(CLOCK_REALTIME) + ahead()) / SECOND;
    if (out != NULL) {
        *out = now;
    }
    return now;
}

EXPORT int timespec_get(struct timespec *out, int base)
{
    *out = to_timespec(true_time(CLOCK_REALTIME) + ahead());
    return base;
}

typedef int (*wait_fn)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);

static wait_fn real_wait(void)
{
    static _Atomic(wait_fn) found;
    wait_fn function = atomic_load_explicit(&found, memory_order_relaxed);
    if (function == NULL) {
        void *symbol = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
        memcpy(&function, &symbol, sizeof function);
        atomic_store_explicit(&found, function, memory_order_relaxed);
    }
    return function;
}

/* Which clock a condition goes by stands in glibc's own bits, elsewhere from version to version. A
 * moment tells it, too: the monotonic clock counts from the start of the machine, the other one has
 * passed this number of seconds in 2001. */
static bool is_monotonic(const struct timespec *until)
{
    return until->tv_sec < 1000000000;
}

/* In slices, since the clock may be set meanwhile. The mutex is held between them, so that no
 * signal comes then that is meant for this waiter. */
EXPORT int pthread_cond_timedwait(pthread_cond_t *cond,
                                  pthread_mutex_t *mutex,
                                  const struct timespec *until)
{
    if (is_monotonic(until) || offset == NULL) {
        return real_wait()(cond, mutex, until);
    }
    for (;;) {
        int64_t now = true_time(CLOCK_REALTIME);
        int64_t left = to_ns(until) - ahead() - now;
        struct timespec slice = to_timespec(now + (left < 0 ? 0 : left < SLICE ? left : SLICE));
        int err = real_wait()(cond, mutex, &slice);
        if (err != ETIMEDOUT || to_ns(until) <= true_time(CLOCK_REALTIME) + ahead()) {
            return err;
        }
    }
}

/* glibc's types of both kinds have the same representation. */
EXPORT int cnd_timedwait(cnd_t *restrict cond,
                         mtx_t *restrict mutex,
                         const struct timespec *restrict until)
{
    int err = pthread_cond_timedwait((pthread_cond_t *)cond, (pthread_mutex_t *)mutex, until);
    return err == 0 ? thrd_success : err == ETIMEDOUT ? thrd_timedout : thrd_error;
}

/* --- names --------------------------------------------------------------------------------------
 */

typedef int (*resolve_fn)(const char *, const char *, const struct addrinfo *, struct addrinfo **);

static bool is_ours(const char *name)
{
    size_t len = name == NULL ? 0 : strlen(name);
    return len > 5 && strcmp(name + len - 5, ".test") == 0;
}

/* The address of a name, in out. False: it has none. */
static bool look_up(const char *name, char out[64])
{
    const char *path = getenv("MM_WORLD_NAMES");
    FILE *file = path == NULL ? NULL : fopen(path, "re");
    bool found = false;
    char line[256];
    while (file != NULL && !found && fgets(line, sizeof line, file) != NULL) {
        char entry[128];
        found = sscanf(line, "%127s %63s", entry, out) == 2 && strcmp(entry, name) == 0;
    }
    if (file != NULL) {
        fclose(file);
    }
    return found;
}

EXPORT int getaddrinfo(const char *restrict name,
                       const char *restrict service,
                       const struct addrinfo *restrict hints,
                       struct addrinfo **restrict out)
{
    void *symbol = dlsym(RTLD_NEXT, "getaddrinfo");
    resolve_fn real;
    memcpy(&real, &symbol, sizeof real);
    char address[64];
    if (!is_ours(name)) {
        return real(name, service, hints, out);
    }
    return look_up(name, address) ? real(address, service, hints, out) : EAI_AGAIN;
}
