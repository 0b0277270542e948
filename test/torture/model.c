/* model - random sequences of operations on a log, against what a memory of them says.
 *
 *   model [N]     sequences; default 300, with MM_TEST_LONG=1 10,000
 *
 * A sequence follows from its seed: settings, records and operations. Half of the seeds are the
 * same in each run, the others follow from the time of day. MM_TEST_SEED=n runs one sequence. */
#include "consumer.h"
#include "content.h"
#include "files.h"
#include "form.h"
#include "load.h"
#include "notes.h"

#include "mm_error.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define CAPACITY 20000
#define READERS_MAX 6

/* Times that a log which is finished to the end may need to notice it. */
#define TICKS_MAX 50

struct world
{
    uint64_t seed;
    struct content_rng rng;
    struct load_options opts;
    char root[FILES_PATH_MAX];
    char dir[2][FILES_PATH_MAX]; /* the log, and where its copy goes */
    int at;                      /* which of them is the log's */
    struct notes *notes;
    struct mm_spool *spool;
    struct consumer_ledger ledger;
    struct consumer consumers[READERS_MAX];
    uint64_t appended; /* since the log was opened */
    uint64_t found;    /* when it was */
    const char *operation;
    uint64_t n_operations;
};

/* What all sequences together have done: a test that never meets a full log proves nothing. */
static struct
{
    uint64_t sequences, operations, opens, crashes, full, dropped, retries, repeated;
} tally;

__attribute__((format(printf, 2, 3), noreturn)) static void fail(const struct world *w,
                                                                 const char *format,
                                                                 ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "MM_TEST_SEED=%" PRIu64 ": operation %" PRIu64 ", %s: ", w->seed,
            w->n_operations, w->operation);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, "\n(%s, %u readers, segments of %u, limit %" PRIu64 ", writer %d, sync %d%s)\n",
            w->opts.dir == NULL ? "in memory" : "on disk", w->opts.n_readers, w->opts.segment_bytes,
            w->opts.max_bytes, (int)w->opts.writer, (int)w->opts.sync,
            w->opts.drop_oldest ? ", drops the oldest" : "");
    exit(1);
}

/* --- open, close, crash -------------------------------------------------------------------------
 */

static void open_log(struct world *w)
{
    w->opts.n_readers = 1 + (uint32_t)content_below(&w->rng, READERS_MAX);
    if (load_open(&w->opts, &w->ledger, &w->spool) != 0) {
        fail(w, "not opened");
    }
    struct notes_terms terms = {.n_readers = w->opts.n_readers};
    struct notes_verdict verdict;
    char why[256] = "";
    if (!notes_verify(w->notes, w->spool, &terms, &verdict, why, sizeof why)) {
        fail(w, "%s", why);
    }
    for (uint32_t k = 0; k < w->opts.n_readers; k++) {
        consumer_init(&w->consumers[k], w->spool, k, w->notes, &w->ledger, w->opts.window,
                      content_random(&w->rng));
        mm_spool_seek(w->consumers[k].reader, NULL);
    }
    w->appended = 0;
    w->found = verdict.n_read;
    tally.opens++;
    tally.repeated += verdict.n_repeated;
}

static void close_log(struct world *w)
{
    uint64_t lows[READERS_MAX];
    for (uint32_t k = 0; k < w->opts.n_readers; k++) {
        lows[k] = atomic_load(&w->consumers[k].low);
    }
    mm_spool_close(w->spool);
    notes_settle(w->notes, lows, w->opts.n_readers);
}

static void reopen(struct world *w)
{
    close_log(w);
    open_log(w);
}

/* The files as they are now are what a kill would leave; the process's memory is gone. */
static void crash(struct world *w)
{
    struct files_image image;
    files_load(w->dir[w->at], &image);
    mm_spool_close(w->spool);
    files_remove(w->dir[w->at]);
    w->at = !w->at;
    w->opts.dir = w->dir[w->at];
    files_store(&image, w->opts.dir);
    files_free(&image);
    open_log(w);
    tally.crashes++;
}

/* --- operations ---------------------------------------------------------------------------------
 */

static int append(struct world *w)
{
    int err = notes_append(w->notes, w->spool);
    if (err == 0) {
        w->appended++;
    } else if (err == MM_EFULL) {
        tally.full++;
    } else {
        fail(w, "append: %s", mm_strerror(err));
    }
    return err;
}

static void append_some(struct world *w)
{
    for (uint64_t n = 1 + content_below(&w->rng, 20); n > 0; n--) {
        (void)append(w);
    }
}

static struct consumer *any(struct world *w)
{
    return &w->consumers[content_below(&w->rng, w->opts.n_readers)];
}

static void must(struct world *w, const struct consumer *c, int err)
{
    if (err == CONSUMER_WRONG) {
        fail(w, "%s", c->why);
    }
    if (err < 0) {
        fail(w, "%s", mm_strerror(err));
    }
}

static void take(struct world *w)
{
    struct consumer *c = any(w);
    must(w, c, consumer_take(c, (uint32_t)content_below(&w->rng, 40)));
}

static void finish(struct world *w)
{
    consumer_finish(any(w), (uint32_t)content_below(&w->rng, 40));
}

static void retry(struct world *w)
{
    struct consumer *c = any(w);
    must(w, c, consumer_retry(c));
    must(w, c, consumer_look_back(c));
    tally.retries++;
}

static void tick(struct world *w)
{
    mm_spool_tick(w->spool);
}

static void checkpoint(struct world *w)
{
    load_checkpoint(w->notes, w->spool, w->consumers, w->opts.n_readers);
}

static void sync_log(struct world *w)
{
    if (mm_spool_sync(w->spool) != 0) {
        fail(w, "sync failed");
    }
}

static void wait_for_records(struct world *w)
{
    mm_spool_wait(any(w)->reader, 0);
}

static void compare_figures(struct world *w)
{
    struct mm_spool_stats stats;
    mm_spool_stats(w->spool, &stats);
    if (stats.n_appended != w->appended || mm_spool_to_take(w->spool) != w->appended + w->found) {
        fail(w, "%" PRIu64 " appended, %" PRIu64 " to take; it was %" PRIu64 " and %" PRIu64,
             stats.n_appended, mm_spool_to_take(w->spool), w->appended, w->appended + w->found);
    }
    /* A log that was full when it was opened has a place holder of a header's size. */
    if (stats.allocated_bytes > w->opts.max_bytes + MM_LAYOUT_HEADER_LEN ||
        stats.used_bytes > stats.allocated_bytes) {
        fail(w, "%" PRIu64 " bytes used, %" PRIu64 " allocated, limit %" PRIu64, stats.used_bytes,
             stats.allocated_bytes, w->opts.max_bytes);
    }
    if (stats.n_lost != 0 || stats.degraded || stats.n_io_errors != 0) {
        fail(w, "%" PRIu64 " lost, %" PRIu64 " errors", stats.n_lost, stats.n_io_errors);
    }
}

/* Until nothing is left: all that was acknowledged has then been delivered. */
static void drain(struct world *w)
{
    for (uint32_t k = 0; k < w->opts.n_readers; k++) {
        must(w, &w->consumers[k], consumer_drain(&w->consumers[k]));
    }
    for (uint64_t n = 1; n <= atomic_load(&w->notes->attempted); n++) {
        if ((notes_flags(w->notes, n) & (NOTE_ACKED | NOTE_DELIVERED)) == NOTE_ACKED) {
            fail(w, "record %" PRIu64 " was passed over", n);
        }
    }
}

/* Full, and empty again: then there is room. */
static void fill(struct world *w)
{
    for (int i = 0; i < 2000 && append(w) != MM_EFULL; i++) {
        if (content_below(&w->rng, 16) == 0) {
            tick(w);
        }
    }
    compare_figures(w);
    if (w->opts.drop_oldest) {
        uint64_t before = atomic_load(&w->notes->n_finished);
        for (int i = 0; i < 3; i++) {
            tick(w);
            take(w);
        }
        tally.dropped += atomic_load(&w->notes->n_finished) - before;
    }
    if (content_below(&w->rng, 2) == 0) {
        return;
    }
    drain(w);
    for (int i = 0; i < TICKS_MAX; i++) {
        tick(w);
        int err = append(w);
        if (err == 0) {
            return;
        }
    }
    fail(w, "no room in an empty log");
}

/* --- sequences ----------------------------------------------------------------------------------
 */

static const struct
{
    const char *name;
    void (*run)(struct world *w);
    uint32_t weight;
    bool files; /* only of a log on disk */
} operations[] = {
    {"append", append_some, 30, false},
    {"take", take, 40, false},
    {"finish", finish, 40, false},
    {"retry", retry, 5, false},
    {"tick", tick, 20, false},
    {"checkpoint", checkpoint, 5, false},
    {"sync", sync_log, 3, false},
    {"wait", wait_for_records, 2, false},
    {"figures", compare_figures, 5, false},
    {"fill", fill, 1, false},
    {"drain", drain, 1, false},
    {"reopen", reopen, 4, true},
    {"crash", crash, 6, true},
};
#define N_OPERATIONS (sizeof operations / sizeof operations[0])

static void one_operation(struct world *w)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < N_OPERATIONS; i++) {
        sum += operations[i].weight;
    }
    uint64_t choice = content_below(&w->rng, sum);
    size_t i = 0;
    for (; choice >= operations[i].weight; i++) {
        choice -= operations[i].weight;
    }
    if (operations[i].files && w->opts.dir == NULL) {
        return;
    }
    w->operation = operations[i].name;
    w->n_operations++;
    operations[i].run(w);
}

static void choose(struct world *w, struct content_rule *rule)
{
    static const uint32_t sizes[] = {32768, 65536, 131072};
    uint32_t segment = sizes[content_below(&w->rng, 3)];
    w->opts = (struct load_options){
        .dir = content_below(&w->rng, 8) == 0 ? NULL : w->dir[0],
        .segment_bytes = segment,
        .max_bytes = segment * (8 + content_below(&w->rng, 8)),
        .sync = (enum mm_spool_sync)content_below(&w->rng, 3),
        .writer = content_below(&w->rng, 3) == 0 ? MM_SPOOL_WRITER_PWRITE : MM_SPOOL_WRITER_MMAP,
        .drop_oldest = content_below(&w->rng, 5) == 0,
        .window = 1 + (uint32_t)content_below(&w->rng, 100),
        .seed = content_random(&w->rng),
    };
    *rule = (struct content_rule){.seed = content_random(&w->rng),
                                  .n_topics = 1 + (uint32_t)content_below(&w->rng, 60),
                                  .max_payload = (uint32_t)content_below(&w->rng, 20000),
                                  .large_every = 40 + (uint32_t)content_below(&w->rng, 200),
                                  .large_from = segment};
}

static void run_sequence(uint64_t seed, const char *root)
{
    static struct world world;
    struct world *w = &world;
    memset(w, 0, sizeof *w);
    w->seed = seed;
    w->rng.state = content_mix(seed);
    w->operation = "open";
    files_join(w->dir[0], root, "one");
    files_join(w->dir[1], root, "two");
    char path[FILES_PATH_MAX];
    files_join(path, root, "notes");
    struct content_rule rule;
    choose(w, &rule);
    w->notes = notes_create(path, &rule, CAPACITY);
    if (w->notes == NULL) {
        files_give_up("%s", path);
    }
    open_log(w);
    uint64_t n = 20 + content_below(&w->rng, 300);
    while (w->n_operations < n && atomic_load(&w->notes->attempted) < CAPACITY - 3000) {
        one_operation(w);
    }
    w->operation = "the end";
    drain(w);
    if (w->opts.dir != NULL) {
        reopen(w);
        if (w->found != 0) {
            fail(w, "%" PRIu64 " records in a log that was finished", w->found);
        }
    }
    compare_figures(w);
    mm_spool_close(w->spool);
    notes_close(w->notes);
    files_remove(w->dir[0]);
    files_remove(w->dir[1]);
    tally.sequences++;
    tally.operations += w->n_operations;
}

/* Over many sequences each of these happens, or the test is no test. */
static bool everything_happened(void)
{
    return tally.opens > tally.sequences && tally.crashes > 0 && tally.full > 0 &&
           tally.dropped > 0 && tally.retries > 0 && tally.repeated > 0;
}

int main(int argc, char **argv)
{
    uint64_t n = argc > 1 ? strtoull(argv[1], NULL, 10) : form_pick(300, 100, 10000);
    uint64_t seed;
    char root[FILES_PATH_MAX];
    content_init();
    files_make_dir(true, root);
    if (form_seed(&seed)) {
        run_sequence(seed, root);
        return 0;
    }
    uint64_t now = (uint64_t)time(NULL) * 100000;
    printf("seeds 1 to %" PRIu64 " and from %" PRIu64 " on\n", n / 2, now);
    fflush(stdout);
    for (uint64_t i = 1; i <= n; i++) {
        run_sequence(i <= n / 2 ? i : now + i, root);
    }
    printf("%" PRIu64 " sequences, %" PRIu64 " operations: %" PRIu64 " opens, %" PRIu64
           " crashes, %" PRIu64 " times full, %" PRIu64 " dropped, %" PRIu64 " retries, %" PRIu64
           " came again\n",
           tally.sequences, tally.operations, tally.opens, tally.crashes, tally.full, tally.dropped,
           tally.retries, tally.repeated);
    return n < 100 ? 0 : !everything_happened();
}
