/* append - what mm_spool_append() costs its caller, record by record.
 *
 * The caller is the broker's one thread, so it is the slowest appends that matter: each is timed,
 * and the table shows median, p99.9, p99.99 and the worst, with the CPU of the appending thread a
 * record, its page faults and its waits. Nobody reads: Kafka is away.
 *
 *     append [--dir DIR] [--seconds N] [--max-mib N] [--limit MIB]
 *
 * DIR is on the disk to be measured. With --limit the process is put into a memory cgroup of so
 * many MiB first (needs root). Variants: memory, and in DIR mapped and by pwrite(2); 100 B and
 * 1 KiB; paced and flat out; with syncs that take 300 ms longer than the disk does. */
#include "mm_spool.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SECOND_NS UINT64_C(1000000000)
#define MAX_NS 4000000 /* what takes longer is kept as the worst only */

static uint64_t sync_delay_ns;

/* The disk's syncs, made slow on purpose: the program's own definitions come before libc's. */
static void delay(void)
{
    struct timespec t = {.tv_sec = (time_t)(sync_delay_ns / SECOND_NS),
                         .tv_nsec = (long)(sync_delay_ns % SECOND_NS)};
    if (sync_delay_ns > 0) {
        nanosleep(&t, NULL);
    }
}

int fdatasync(int fd)
{
    delay();
    return (int)syscall(SYS_fdatasync, fd);
}

int msync(void *addr, size_t len, int flags)
{
    delay();
    return (int)syscall(SYS_msync, addr, len, flags);
}

struct variant
{
    const char *name;
    bool on_disk;
    enum mm_spool_writer writer;
    uint32_t payload_len;
    uint32_t rate; /* records a second; 0: as fast as it goes */
    uint32_t sync_ms;
};

static const struct variant variants[] = {
    {"memory", false, MM_SPOOL_WRITER_AUTO, 100, 20000, 0},
    {"mapped", true, MM_SPOOL_WRITER_MMAP, 100, 20000, 0},
    {"mapped", true, MM_SPOOL_WRITER_MMAP, 100, 20000, 300},
    {"pwrite", true, MM_SPOOL_WRITER_PWRITE, 100, 20000, 0},
    {"memory", false, MM_SPOOL_WRITER_AUTO, 100, 0, 0},
    {"mapped", true, MM_SPOOL_WRITER_MMAP, 100, 0, 0},
    {"mapped", true, MM_SPOOL_WRITER_MMAP, 100, 0, 300},
    {"memory", false, MM_SPOOL_WRITER_AUTO, 1024, 20000, 0},
    {"mapped", true, MM_SPOOL_WRITER_MMAP, 1024, 20000, 0},
    {"mapped", true, MM_SPOOL_WRITER_MMAP, 1024, 20000, 300},
    {"mapped", true, MM_SPOOL_WRITER_MMAP, 1024, 0, 0},
};

struct settings
{
    const char *dir;
    uint64_t seconds;
    uint64_t max_bytes;
    uint64_t limit_mib;
};

static uint64_t now_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * SECOND_NS + (uint64_t)t.tv_nsec;
}

/* Appends of this process, which runs one variant, by the ns that each took. */
static uint32_t counts[MAX_NS + 1];

static uint64_t percentile(uint64_t n, double part)
{
    uint64_t left = (uint64_t)((double)n * part);
    for (uint64_t ns = 0; ns < MAX_NS; ns++) {
        if (counts[ns] > left) {
            return ns;
        }
        left -= counts[ns];
    }
    return MAX_NS;
}

/* What came of a run. */
struct result
{
    uint64_t n; /* records */
    uint64_t worst_ns;
    uint64_t cpu_ns;
    uint64_t wall_ns;
    long n_faults; /* of pages */
    long n_waits;
    uint64_t n_unprepared; /* segments */
};

/* When the next record may come: with a rate, waits in turns of a millisecond, as a broker gets its
 * packets in batches. Returns the time. */
static uint64_t wait_turn(const struct variant *v, uint64_t begin_ns, uint64_t n)
{
    uint64_t start_ns = now_ns(CLOCK_MONOTONIC);
    uint64_t due_ns = v->rate == 0 ? 0 : begin_ns + n / (v->rate / 1000) * 1000000;
    if (start_ns < due_ns) {
        struct timespec t = {.tv_nsec = (long)(due_ns - start_ns)};
        nanosleep(&t, NULL);
        start_ns = now_ns(CLOCK_MONOTONIC);
    }
    return start_ns;
}

/* Until the time is over or the log is full. */
static void append_all(struct mm_spool *s,
                       const struct variant *v,
                       uint64_t end_ns,
                       struct result *out)
{
    char payload[1024];
    memset(payload, 'x', sizeof payload);
    struct mm_record r = {.type = MM_RECORD_MESSAGE,
                          .flags = 1,
                          .topic = "site/12/line/3/temperature",
                          .topic_len = 26,
                          .payload = payload,
                          .payload_len = v->payload_len};
    uint64_t begin_ns = now_ns(CLOCK_MONOTONIC);
    for (;;) {
        uint64_t start_ns = wait_turn(v, begin_ns, out->n);
        if (start_ns >= end_ns) {
            return;
        }
        r.time_ms = start_ns / 1000000;
        int err = mm_spool_append(s, &r);
        uint64_t took_ns = now_ns(CLOCK_MONOTONIC) - start_ns;
        if (err != 0) {
            return;
        }
        counts[took_ns < MAX_NS ? took_ns : MAX_NS]++;
        out->worst_ns = took_ns > out->worst_ns ? took_ns : out->worst_ns;
        out->n++;
    }
}

static void measure(struct mm_spool *s,
                    const struct variant *v,
                    const struct settings *set,
                    struct result *out)
{
    struct rusage before;
    struct rusage after;
    struct mm_spool_stats stats;
    memset(out, 0, sizeof *out);
    getrusage(RUSAGE_THREAD, &before);
    uint64_t cpu_ns = now_ns(CLOCK_THREAD_CPUTIME_ID);
    uint64_t begin_ns = now_ns(CLOCK_MONOTONIC);
    append_all(s, v, begin_ns + set->seconds * SECOND_NS, out);
    out->wall_ns = now_ns(CLOCK_MONOTONIC) - begin_ns;
    out->cpu_ns = now_ns(CLOCK_THREAD_CPUTIME_ID) - cpu_ns;
    getrusage(RUSAGE_THREAD, &after);
    out->n_faults = after.ru_minflt - before.ru_minflt;
    out->n_waits = after.ru_nvcsw - before.ru_nvcsw;
    mm_spool_stats(s, &stats);
    out->n_unprepared = stats.n_unprepared;
}

static void print_row(const struct variant *v, const struct result *r)
{
    printf("%-7s %5u B %9s %7u %9" PRIu64 " %7" PRIu64
           " %8.2f %8.2f %9.2f %8.0f %7ld %6ld %6" PRIu64 " %7.0f\n",
           v->name, v->payload_len, v->rate == 0 ? "flat out" : "20,000/s", v->sync_ms, r->n,
           percentile(r->n, 0.5), (double)percentile(r->n, 0.999) / 1000,
           (double)percentile(r->n, 0.9999) / 1000, (double)r->worst_ns / 1000,
           (double)r->cpu_ns / (double)r->n, r->n_faults, r->n_waits, r->n_unprepared,
           (double)r->n / ((double)r->wall_ns / 1e9) / 1000);
    fflush(stdout);
}

static void run(const struct variant *v, const struct settings *set)
{
    char dir[4096];
    char errstr[512];
    snprintf(dir, sizeof dir, "%s/append.%d", set->dir, (int)getpid());
    sync_delay_ns = v->sync_ms * UINT64_C(1000000);
    struct mm_spool_options opts = {.max_bytes = set->max_bytes,
                                    .n_readers = 1,
                                    .dir = v->on_disk ? dir : NULL,
                                    .writer = v->writer};
    struct mm_spool *s;
    if (mm_spool_open(&opts, &s, errstr, sizeof errstr) != 0) {
        fprintf(stderr, "append: %s\n", errstr);
        exit(1);
    }
    struct result result;
    measure(s, v, set, &result);
    print_row(v, &result);
    mm_spool_close(s);
    char command[4200];
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    if (v->on_disk && system(command) != 0) {
        fprintf(stderr, "append: %s was not removed\n", dir);
    }
}

static bool write_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    bool written = f != NULL && fputs(text, f) >= 0;
    return f != NULL && fclose(f) == 0 && written;
}

/* Put this process into a memory cgroup of its own. */
static void limit_memory(uint64_t mib)
{
    char path[128];
    char file[192];
    char text[64];
    bool v2 = access("/sys/fs/cgroup/cgroup.controllers", F_OK) == 0;
    snprintf(path, sizeof path, "/sys/fs/cgroup/%smm-append-%d", v2 ? "" : "memory/",
             (int)getpid());
    if (v2) {
        (void)write_file("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
    }
    if (mkdir(path, 0755) != 0) {
        fprintf(stderr, "append: --limit: %s: %s\n", path, strerror(errno));
        exit(1);
    }
    snprintf(file, sizeof file, "%s/%s", path, v2 ? "memory.max" : "memory.limit_in_bytes");
    snprintf(text, sizeof text, "%" PRIu64, mib * 1024 * 1024);
    bool limited = write_file(file, text);
    snprintf(file, sizeof file, "%s/cgroup.procs", path);
    snprintf(text, sizeof text, "%d", (int)getpid());
    if (!limited || !write_file(file, text)) {
        fprintf(stderr, "append: --limit: %s: %s\n", file, strerror(errno));
        rmdir(path);
        exit(1);
    }
}

/* Each variant in a process of its own: what one leaves in memory is not the next one's. */
static int run_child(const struct variant *v, const struct settings *set)
{
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        if (set->limit_mib > 0) {
            limit_memory(set->limit_mib);
        }
        run(v, set);
        exit(0);
    }
    int status = 1;
    if (pid < 0 || waitpid(pid, &status, 0) != pid) {
        return 1;
    }
    char path[128];
    snprintf(path, sizeof path, "/sys/fs/cgroup/mm-append-%d", (int)pid);
    (void)rmdir(path);
    snprintf(path, sizeof path, "/sys/fs/cgroup/memory/mm-append-%d", (int)pid);
    (void)rmdir(path);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

static uint64_t number(const char *text)
{
    char *end;
    uint64_t n = strtoull(text, &end, 10);
    if (*text == '\0' || *end != '\0') {
        fprintf(stderr, "append: \"%s\": expected a number\n", text);
        exit(2);
    }
    return n;
}

int main(int argc, char **argv)
{
    struct settings set = {.dir = "/tmp", .seconds = 3, .max_bytes = UINT64_C(2048) * 1024 * 1024};
    for (int i = 1; i < argc; i += 2) {
        if (i + 1 == argc) {
            fprintf(stderr, "append: %s needs a value\n", argv[i]);
            return 2;
        }
        if (strcmp(argv[i], "--dir") == 0) {
            set.dir = argv[i + 1];
        } else if (strcmp(argv[i], "--seconds") == 0) {
            set.seconds = number(argv[i + 1]);
        } else if (strcmp(argv[i], "--max-mib") == 0) {
            set.max_bytes = number(argv[i + 1]) * 1024 * 1024;
        } else if (strcmp(argv[i], "--limit") == 0) {
            set.limit_mib = number(argv[i + 1]);
        } else {
            fprintf(stderr,
                    "append [--dir DIR] [--seconds N] [--max-mib N] [--limit MIB], not %s\n",
                    argv[i]);
            return 2;
        }
    }
    printf("%-7s %7s %9s %7s %9s %7s %8s %8s %9s %8s %7s %6s %6s %7s\n", "spool", "payload", "pace",
           "sync ms", "records", "p50 ns", "p99.9 us", "99.99 us", "worst us", "CPU ns", "faults",
           "waits", "unprep", "1000/s");
    for (size_t i = 0; i < sizeof variants / sizeof variants[0]; i++) {
        /* Under a limit the log in memory has nowhere to go. */
        if ((set.limit_mib == 0 || variants[i].on_disk) && run_child(&variants[i], &set) != 0) {
            return 1;
        }
    }
    return 0;
}
