#include "load.h"

#include "mm_error.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdalign.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct run
{
    const struct load_options *opts;
    struct notes *notes;
    struct mm_spool *spool;
    struct consumer_ledger ledger;
    struct consumer *consumers;
    struct content_rng rng;
    atomic_bool stop;
    atomic_uint next_reader; /* hands the consumers out to the threads */
};

/* --- open ---------------------------------------------------------------------------------------
 */

int load_open(const struct load_options *opts,
              struct consumer_ledger *ledger,
              struct mm_spool **out)
{
    if (ledger != NULL) {
        atomic_store(&ledger->restored, false);
    }
    struct mm_spool_options options = {
        .max_bytes = opts->max_bytes,
        .segment_bytes = opts->segment_bytes,
        .n_readers = opts->n_readers,
        .drop_oldest = opts->drop_oldest,
        .manual = !opts->threads,
        .dir = opts->dir,
        .sync = opts->sync,
        .sync_interval_ms = 20,
        .writer = opts->writer,
        .counters = ledger == NULL ? NULL : consumer_counters,
        .counters_arg = ledger,
    };
    char errstr[512] = "";
    int err = mm_spool_open(&options, out, errstr, sizeof errstr);
    if (err != 0) {
        fprintf(stderr, "the log could not be opened: %s: %s\n", mm_strerror(err), errstr);
        return err;
    }
    if (ledger != NULL) {
        atomic_store(&ledger->delivered, mm_spool_found(*out)->counters[0]);
        atomic_store(&ledger->restored, true);
    }
    return 0;
}

/* --- one thread ---------------------------------------------------------------------------------
 */

void load_checkpoint(struct notes *notes,
                     struct mm_spool *s,
                     const struct consumer *consumers,
                     uint32_t n)
{
    uint64_t lows[MM_LAYOUT_SHARDS_MAX];
    for (uint32_t k = 0; k < n; k++) {
        lows[k] = atomic_load(&consumers[k].low);
    }
    mm_spool_checkpoint(s);
    notes_settle(notes, lows, n);
}

/* An error of reading is not the end, the record is still in the log; a wrong record is. */
static void look_at(const struct consumer *c, int taken)
{
    if (taken == CONSUMER_WRONG) {
        fprintf(stderr, "%s\n", c->why);
        _exit(1);
    }
    if (taken < 0) {
        fprintf(stderr, "the log could not be read: %s\n", mm_strerror(taken));
    }
}

static void take_and_finish(struct run *run, uint32_t n)
{
    struct consumer *c = &run->consumers[content_below(&run->rng, run->opts->n_readers)];
    look_at(c, consumer_take(c, n));
    consumer_finish(c, (uint32_t)content_below(&run->rng, n + 1));
}

static void append_one(struct run *run)
{
    int err = notes_append(run->notes, run->spool);
    if (err == MM_EFULL) {
        take_and_finish(run, run->opts->window);
        mm_spool_tick(run->spool);
    }
}

/* First the readers fall behind, so that segments grow cold, then they catch up. */
static void run_alone(struct run *run)
{
    const struct load_options *opts = run->opts;
    for (uint64_t i = 0; i < opts->n_appends; i++) {
        append_one(run);
        bool behind = i < opts->n_appends / 2;
        if (content_below(&run->rng, behind ? 12 : 3) == 0) {
            take_and_finish(run, 8);
        }
        if (content_below(&run->rng, 8) == 0) {
            mm_spool_tick(run->spool);
        }
        if (content_below(&run->rng, 40) == 0) {
            load_checkpoint(run->notes, run->spool, run->consumers, opts->n_readers);
        }
        if (content_below(&run->rng, 100) == 0) {
            (void)mm_spool_sync(run->spool);
        }
    }
    atomic_store(&run->notes->stage, LOAD_APPENDED);
    for (uint32_t k = 0; opts->drain && k < opts->n_readers; k++) {
        look_at(&run->consumers[k], consumer_drain(&run->consumers[k]));
        mm_spool_tick(run->spool);
    }
}

/* --- threads ------------------------------------------------------------------------------------
 */

static void *reader_main(void *arg)
{
    struct run *run = arg;
    uint32_t k = atomic_fetch_add(&run->next_reader, 1);
    struct consumer *c = &run->consumers[k];
    for (uint32_t i = 1;; i++) {
        bool stop = atomic_load(&run->stop);
        int taken = consumer_take(c, 32);
        look_at(c, taken);
        consumer_finish(c, (uint32_t)content_below(&c->rng, 40));
        if (k == 0 && i % 64 == 0) {
            load_checkpoint(run->notes, run->spool, run->consumers, run->opts->n_readers);
        }
        if (taken <= 0) {
            if (stop) {
                break;
            }
            mm_spool_wait(c->reader, 2);
        }
    }
    if (run->opts->drain) {
        look_at(c, consumer_drain(c));
    }
    return NULL;
}

static void append_all(struct run *run)
{
    const struct timespec pause = {.tv_nsec = 200000};
    for (uint64_t i = 0; run->opts->n_appends == 0 || i < run->opts->n_appends; i++) {
        if (notes_append(run->notes, run->spool) == MM_EFULL) {
            nanosleep(&pause, NULL);
        }
    }
}

static void run_with_threads(struct run *run)
{
    pthread_t threads[MM_LAYOUT_SHARDS_MAX] = {0};
    for (uint32_t k = 0; k < run->opts->n_readers; k++) {
        if (pthread_create(&threads[k], NULL, reader_main, run) != 0) {
            fputs("no thread for a reader\n", stderr);
            _exit(2);
        }
    }
    append_all(run);
    atomic_store(&run->notes->stage, LOAD_APPENDED);
    atomic_store(&run->stop, true);
    for (uint32_t k = 0; k < run->opts->n_readers; k++) {
        pthread_join(threads[k], NULL);
    }
}

/* --- a life -------------------------------------------------------------------------------------
 */

static struct consumer *make_consumers(const struct load_options *opts)
{
    struct consumer *consumers = calloc(opts->n_readers, sizeof *consumers);
    if (consumers == NULL) {
        fputs("out of memory\n", stderr);
        _exit(2);
    }
    return consumers;
}

int load_run(const struct load_options *opts, struct notes *notes)
{
    struct run run = {.opts = opts, .notes = notes, .rng = {.state = content_mix(opts->seed)}};
    atomic_store(&notes->stage, LOAD_BEFORE);
    /* A mark in what strace writes: the calls behind it are the log's. */
    (void)syscall(SYS_getpgid, 0);
    int err = load_open(opts, &run.ledger, &run.spool);
    if (err != 0) {
        return err;
    }
    run.consumers = make_consumers(opts);
    for (uint32_t k = 0; k < opts->n_readers; k++) {
        consumer_init(&run.consumers[k], run.spool, k, notes, &run.ledger, opts->window,
                      opts->seed);
    }
    atomic_store(&notes->stage, LOAD_OPENED);
    if (opts->threads) {
        run_with_threads(&run);
    } else {
        run_alone(&run);
    }
    atomic_store(&notes->stage, LOAD_FINISHED);
    if (opts->stop == LOAD_EXIT) {
        _exit(0);
    }
    uint64_t lows[MM_LAYOUT_SHARDS_MAX];
    for (uint32_t k = 0; k < opts->n_readers; k++) {
        lows[k] = atomic_load(&run.consumers[k].low);
    }
    mm_spool_close(run.spool);
    /* When the last STATE could not be written, the log has told it and the test's caller decides
     * what may come back; see notes_terms.back_allowed. */
    notes_settle(notes, lows, opts->n_readers);
    atomic_store(&notes->stage, LOAD_CLOSED);
    free(run.consumers);
    return 0;
}

static bool drain(const struct load_options *opts,
                  struct notes *notes,
                  struct mm_spool *s,
                  struct consumer_ledger *ledger)
{
    bool good = true;
    struct consumer *c = make_consumers(opts);
    for (uint32_t k = 0; good && k < opts->n_readers; k++) {
        consumer_init(c, s, k, notes, ledger, opts->window, opts->seed);
        mm_spool_seek(c->reader, NULL);
        int err = consumer_drain(c);
        look_at(c, err);
        good = err == 0;
    }
    free(c);
    return good;
}

bool load_check(const struct load_options *opts,
                struct notes *notes,
                const struct notes_terms *terms,
                struct notes_verdict *out,
                char *why,
                size_t why_len)
{
    struct consumer_ledger ledger = {0};
    struct mm_spool *s;
    (void)syscall(SYS_getpgid, 0);
    int err = load_open(opts, &ledger, &s);
    if (err != 0) {
        snprintf(why, why_len, "the log could not be opened: %s", mm_strerror(err));
        return false;
    }
    bool good = notes_verify(notes, s, terms, out, why, why_len);
    if (good && opts->drain && !drain(opts, notes, s, &ledger)) {
        snprintf(why, why_len, "the log could not be read to its end");
        good = false;
    }
    bool exact = !terms->loss_allowed && !terms->figures_free && terms->ledger_slack == 0;
    if (good && opts->drain && exact && atomic_load(&ledger.delivered) != out->n_total) {
        snprintf(why, why_len, "%" PRIu64 " were counted as delivered, %" PRIu64 " were received",
                 atomic_load(&ledger.delivered), out->n_total);
        good = false;
    }
    mm_spool_close(s);
    return good;
}
