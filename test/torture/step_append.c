/* step_append - kill -9 after each single instruction of one append.
 *
 * A child opens a log, writes a few records and stops itself. It is led through one more append one
 * instruction at a time (ptrace), a step further with each child, and killed there. Another process
 * then opens the log: the record is absent or complete, those before it are intact, and further
 * appends work.
 *
 * MM_TEST_LONG=1: more sizes, both writers, each instruction also of a sanitizer's build, but of
 * records above 1 KiB. Else no more than some hundred kills for each case. Needs ptrace(2). */
#include "content.h"
#include "files.h"
#include "form.h"
#include "load.h"
#include "notes.h"

#include "mm_error.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#define CAPACITY 4096
#define SEGMENT_BYTES 32768
#define WIDE_SEGMENT_BYTES 131072 /* has room for some records that are large */

/* Did the record go where the case wants it? In notes->stage. */
enum {
    PLACED = 1,
    MISPLACED = 2
};

/* Up to here the long form kills at each instruction. */
#define SMALL_PAYLOAD_LEN 1024

/* At the end of an append the record becomes complete: always each instruction. */
#define TAIL_STEPS 100

/* More steps than any append takes. */
#define STEPS_MAX 1000000

struct step_case
{
    const char *name;
    uint32_t payload_len; /* of the record that is appended step by step */
    enum mm_spool_writer writer;
    enum mm_spool_sync sync;
    bool roll; /* it is the first of the next segment */
    bool wide; /* the segments are */
    bool only_long;
};

static const struct step_case cases[] = {
    {"100 B, mapped", 100, MM_SPOOL_WRITER_MMAP, MM_SPOOL_SYNC_INTERVAL, false, false, false},
    {"100 B, mapped, into the next segment", 100, MM_SPOOL_WRITER_MMAP, MM_SPOOL_SYNC_INTERVAL,
     true, false, false},
    {"100 B, pwrite", 100, MM_SPOOL_WRITER_PWRITE, MM_SPOOL_SYNC_INTERVAL, false, false, true},
    {"100 B, pwrite, into the next segment", 100, MM_SPOOL_WRITER_PWRITE, MM_SPOOL_SYNC_INTERVAL,
     true, false, true},
    {"100 B, mapped, synced", 100, MM_SPOOL_WRITER_MMAP, MM_SPOOL_SYNC_ALWAYS, false, false, true},
    {"0 B, mapped", 0, MM_SPOOL_WRITER_MMAP, MM_SPOOL_SYNC_INTERVAL, false, false, true},
    {"1 KiB, mapped", 1024, MM_SPOOL_WRITER_MMAP, MM_SPOOL_SYNC_NEVER, false, false, true},
    {"20 KiB, mapped", 20000, MM_SPOOL_WRITER_MMAP, MM_SPOOL_SYNC_INTERVAL, false, true, true},
    {"40 KiB, a segment of its own", 40000, MM_SPOOL_WRITER_MMAP, MM_SPOOL_SYNC_INTERVAL, true,
     false, true},
};

/* How the log was found after a kill. */
struct outcomes
{
    uint64_t n_kills;
    uint64_t n_absent;   /* the record is not there */
    uint64_t n_touched;  /* of those: some of its bytes are in the file */
    uint64_t n_complete; /* the record is there */
};

struct place
{
    char root[FILES_PATH_MAX];
    char dir[FILES_PATH_MAX];
    char notes[FILES_PATH_MAX];
};

static uint32_t segment_bytes(const struct step_case *c)
{
    return c->wide ? WIDE_SEGMENT_BYTES : SEGMENT_BYTES;
}

static struct load_options options_of(const struct step_case *c, const struct place *place)
{
    return (struct load_options){.dir = place->dir,
                                 .max_bytes = 1 << 20,
                                 .segment_bytes = segment_bytes(c),
                                 .n_readers = 1,
                                 .window = 8,
                                 .sync = c->sync,
                                 .writer = c->writer,
                                 .seed = 1};
}

/* All records of a case have about the size that it names: a rule whose every record is "large"
 * makes them so. */
static struct content_rule rule_of(const struct step_case *c)
{
    return (struct content_rule){.seed = 7,
                                 .n_topics = 3,
                                 .max_payload = 64,
                                 .large_every = c->payload_len == 0 ? 0 : 1,
                                 .large_from = c->payload_len * 2 / 3};
}

/* --- the child that dies ------------------------------------------------------------------------
 */

static void require(bool condition, const char *what)
{
    if (!condition) {
        fprintf(stderr, "the child could not get ready: %s\n", what);
        _exit(2);
    }
}

/* Append so many that the next record goes where the case wants it. */
static void get_ready(const struct step_case *c, struct mm_spool *s, struct notes *notes)
{
    for (int i = 0; i < 3; i++) {
        require(notes_append(notes, s) == 0, "append");
    }
    struct mm_spool_stats stats;
    mm_spool_stats(s, &stats);
    uint64_t segments = stats.n_segments;
    uint64_t room = segment_bytes(c) - MM_LAYOUT_HEADER_LEN;
    while (c->roll && c->payload_len < room) {
        char topic[CONTENT_TOPIC_MAX];
        struct mm_record next;
        content_make(&notes->rule, atomic_load(&notes->attempted) + 1, topic, &next);
        mm_spool_stats(s, &stats);
        if (stats.used_bytes + mm_record_size(next.topic_len, next.payload_len, next.props_len) >
            room) {
            break;
        }
        require(notes_append(notes, s) == 0, "append");
    }
    if (!c->roll) {
        mm_spool_tick(s); /* elsewhere the log has threads for it */
    }
    mm_spool_stats(s, &stats);
    require(stats.n_segments == segments || c->payload_len >= room, "one segment");
}

/* The record is made and noted before the stop: between it and the end of the append there is
 * little else than the append. */
static void die_in_append(const struct step_case *c, const struct place *place)
{
    struct notes *notes = notes_open(place->notes);
    require(notes != NULL, "notes");
    struct load_options opts = options_of(c, place);
    opts.threads = c->roll; /* without them there is no prepared segment */
    struct mm_spool *s;
    require(load_open(&opts, NULL, &s) == 0, "open");
    get_ready(c, s, notes);
    uint64_t n = atomic_load(&notes->attempted) + 1;
    char topic[CONTENT_TOPIC_MAX];
    struct mm_record r;
    content_make(&notes->rule, n, topic, &r);
    struct mm_spool_stats stats;
    mm_spool_stats(s, &stats);
    require(ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0, "ptrace");
    atomic_store(&notes->attempted, n);
    atomic_store(&notes->appending, 1);
    raise(SIGSTOP);
    if (mm_spool_append(s, &r) == 0) {
        notes_add(notes, n, NOTE_ACKED);
        atomic_store(&notes->appending, 0);
    }
    struct mm_spool_stats before = stats;
    mm_spool_stats(s, &stats);
    atomic_store(&notes->stage, stats.n_segments == before.n_segments + c->roll &&
                                        stats.n_unprepared == before.n_unprepared
                                    ? PLACED
                                    : MISPLACED);
    for (;;) {
        raise(SIGSTOP);
    }
}

/* --- its parent ---------------------------------------------------------------------------------
 */

static int wait_for_stop(pid_t pid)
{
    int status;
    if (waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status)) {
        files_give_up("the child ended before it was to");
    }
    return WSTOPSIG(status);
}

/* Lead the child n instructions further. False: the append was over before that. */
static bool step(pid_t pid, uint64_t n, const struct notes *notes)
{
    for (uint64_t i = 0; i < n; i++) {
        if (ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL) != 0) {
            files_give_up("ptrace");
        }
        if (wait_for_stop(pid) == SIGSTOP) {
            files_give_up("the append failed");
        }
        if (atomic_load(&notes->appending) == 0) {
            return false;
        }
    }
    return true;
}

static void kill_child(pid_t pid)
{
    int status;
    kill(pid, SIGKILL);
    if (waitpid(pid, &status, 0) != pid || !WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL) {
        files_give_up("the child was not killed");
    }
}

/* Bytes of the files, but STATE and LOCK, that are not zero. */
static uint64_t written_bytes(const char *dir)
{
    struct files_image image;
    files_load(dir, &image);
    uint64_t n = 0;
    for (uint32_t i = 0; i < image.n; i++) {
        for (size_t at = MM_LAYOUT_HEADER_LEN;
             files_is_segment(image.file[i].name) && at < image.file[i].len; at++) {
            n += image.file[i].data[at] != 0;
        }
    }
    files_free(&image);
    return n;
}

/* In a process of its own: what was left is right, and the log can be used. Returns 0, or 10 when
 * the record in question is there. */
static int examine(const struct step_case *c, const struct place *place)
{
    struct notes *notes = notes_open(place->notes);
    struct load_options opts = options_of(c, place);
    struct notes_terms terms = {.n_readers = 1};
    struct notes_verdict verdict;
    char why[256] = "";
    if (!load_check(&opts, notes, &terms, &verdict, why, sizeof why)) {
        fprintf(stderr, "%s\n", why);
        return 1;
    }
    uint64_t last = atomic_load(&notes->attempted);
    bool there = (notes_flags(notes, last) & NOTE_ACKED) != 0;
    uint64_t before = verdict.n_total;
    opts.n_appends = 5;
    opts.drain = true;
    if (before != last - !there || load_run(&opts, notes) != 0 ||
        atomic_load(&notes->last_refused) > last) {
        fprintf(stderr, "the log takes no more records\n");
        return 1;
    }
    if (!load_check(&opts, notes, &terms, &verdict, why, sizeof why) || verdict.n_read != 0 ||
        verdict.n_total != before + 5) {
        fprintf(stderr, "later: %s; %" PRIu64 " left, %" PRIu64 " in all, %" PRIu64 " before\n",
                why, verdict.n_read, verdict.n_total, before);
        return 1;
    }
    return there ? 10 : 0;
}

static int run_examination(const struct step_case *c, const struct place *place)
{
    pid_t pid = fork();
    if (pid == 0) {
        _exit(examine(c, place));
    }
    int status;
    if (pid < 0 || waitpid(pid, &status, 0) != pid) {
        files_give_up("fork");
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

static pid_t start_child(const struct step_case *c, const struct place *place)
{
    files_remove(place->dir);
    struct content_rule rule = rule_of(c);
    struct notes *notes = notes_create(place->notes, &rule, CAPACITY);
    if (notes == NULL) {
        files_give_up("%s", place->notes);
    }
    notes_close(notes);
    pid_t pid = fork();
    if (pid == 0) {
        die_in_append(c, place);
    }
    if (pid < 0) {
        files_give_up("fork");
    }
    wait_for_stop(pid);
    return pid;
}

/* Kill after n steps and look. False: the append was over. */
static bool kill_after(const struct step_case *c,
                       const struct place *place,
                       uint64_t n,
                       struct outcomes *outcomes)
{
    pid_t pid = start_child(c, place);
    struct notes *notes = notes_open(place->notes);
    uint64_t before = written_bytes(place->dir);
    bool inside = step(pid, n, notes);
    kill_child(pid);
    notes_close(notes);
    if (!inside) {
        return false;
    }
    bool touched = written_bytes(place->dir) != before;
    int found = run_examination(c, place);
    if (found != 0 && found != 10) {
        fprintf(stderr, "%s: killed after %" PRIu64 " instructions: failed\n", c->name, n);
        exit(1);
    }
    outcomes->n_kills++;
    outcomes->n_absent += found == 0;
    outcomes->n_touched += found == 0 && touched;
    outcomes->n_complete += found == 10;
    return true;
}

static uint64_t count_steps(const struct step_case *c, const struct place *place)
{
    pid_t pid = start_child(c, place);
    struct notes *notes = notes_open(place->notes);
    uint64_t n = 0;
    while (n < STEPS_MAX && step(pid, 1, notes)) {
        n++;
    }
    if (ptrace(PTRACE_CONT, pid, NULL, NULL) != 0 || wait_for_stop(pid) != SIGSTOP) {
        files_give_up("ptrace");
    }
    bool misplaced = atomic_load(&notes->stage) != PLACED;
    kill_child(pid);
    notes_close(notes);
    if (misplaced && c->payload_len < SEGMENT_BYTES) {
        fprintf(stderr, "%s: the record went elsewhere\n", c->name);
        exit(1);
    }
    return n;
}

static void run_case(const struct step_case *c, const struct place *place)
{
    uint64_t n_steps = count_steps(c, place);
    /* The way of a large record is that of a small one with more turns of its loops. */
    uint64_t most = c->payload_len <= SMALL_PAYLOAD_LEN ? STEPS_MAX : 500;
    uint64_t n_kills = form_pick(c->roll ? 300 : 600, 100, most);
    uint64_t stride = n_steps / n_kills + 1;
    uint64_t end = n_steps > TAIL_STEPS ? n_steps - TAIL_STEPS : 0;
    struct outcomes o = {0};
    uint64_t last = 0; /* the last one that was inside */
    for (uint64_t n = 1; kill_after(c, place, n, &o);) {
        last = n;
        n = n < end && n + stride > end ? end : n + (n < end ? stride : 1);
    }
    /* It may have been shorter than when it was counted: what a new segment takes varies. Then the
     * end is looked for, in smaller and smaller steps. */
    for (uint64_t pace = stride; pace > 1;) {
        pace = (pace + 9) / 10;
        while (kill_after(c, place, last + pace, &o)) {
            last += pace;
        }
    }
    printf("%s: %" PRIu64 " instructions, %" PRIu64 " kills inside append: %" PRIu64
           " absent (%" PRIu64 " of those half written), %" PRIu64 " complete, 0 wrong\n",
           c->name, n_steps, o.n_kills, o.n_absent, o.n_touched, o.n_complete);
    if (o.n_absent == 0 || o.n_complete == 0 ||
        (c->writer == MM_SPOOL_WRITER_MMAP && o.n_touched == 0)) {
        fprintf(stderr, "%s: the kills did not hit all that they were to hit\n", c->name);
        exit(1);
    }
}

int main(void)
{
    bool all = form_is_long();
    setvbuf(stdout, NULL, _IOLBF, 0);
    content_init();
    struct place place;
    files_make_dir(true, place.root);
    files_join(place.dir, place.root, "spool");
    files_join(place.notes, place.root, "notes");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        if (all || !cases[i].only_long) {
            run_case(&cases[i], &place);
        }
    }
    return 0;
}
