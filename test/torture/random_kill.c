/* random_kill - kill -9 at random moments of a log at full speed.
 *
 * The same directory over and over again: a child appends as fast as it can while its readers
 * finish what they get and the log's threads seal, sync and delete; it is killed after some
 * milliseconds; another process compares what is there with the notes and, every now and then,
 * finishes it all. Number of readers, writer, sync policy and segment size change from one child to
 * the next.
 *
 *   random_kill [N]     kills; default 30, with MM_TEST_LONG=1 1,000
 *
 * MM_TEST_SEED replays the choices (not the moments). */
#include "content.h"
#include "files.h"
#include "form.h"
#include "load.h"
#include "notes.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Numbers of one file of notes; a new one, with a new directory, is begun when they run out. */
#define CAPACITY 4000000
#define KILLS_OF_A_DIRECTORY 10

struct tally
{
    uint64_t n_kills;
    uint64_t n_inside;
    uint64_t n_acked;
    uint64_t n_repeated;
    uint64_t n_most_repeated;
};

struct place
{
    char root[FILES_PATH_MAX];
    char dir[FILES_PATH_MAX];
    char notes[FILES_PATH_MAX];
};

static struct load_options choose(const struct place *place, struct content_rng *rng)
{
    static const uint32_t sizes[] = {65536, 262144, 1048576};
    static const enum mm_spool_sync syncs[] = {MM_SPOOL_SYNC_INTERVAL, MM_SPOOL_SYNC_INTERVAL,
                                               MM_SPOOL_SYNC_NEVER, MM_SPOOL_SYNC_NEVER,
                                               MM_SPOOL_SYNC_ALWAYS};
    return (struct load_options){
        .dir = place->dir,
        .max_bytes = 64 << 20,
        .segment_bytes = sizes[content_below(rng, 3)],
        .n_readers = 1 + (uint32_t)content_below(rng, 4),
        .sync = syncs[content_below(rng, 5)],
        .writer = content_below(rng, 4) == 0 ? MM_SPOOL_WRITER_PWRITE : MM_SPOOL_WRITER_MMAP,
        .threads = true,
        .window = 1 + (uint32_t)content_below(rng, 500),
        .seed = content_random(rng),
    };
}

static void begin(const struct place *place, uint64_t seed)
{
    /* Records of some KiB: the child is to spend its time in append, not between two. */
    struct content_rule rule = {.seed = seed,
                                .n_topics = 100,
                                .max_payload = 50000,
                                .large_every = 500,
                                .large_from = 70000};
    files_remove(place->dir);
    struct notes *notes = notes_create(place->notes, &rule, CAPACITY);
    if (notes == NULL) {
        files_give_up("%s", place->notes);
    }
    notes_close(notes);
}

static void sleep_us(uint64_t us)
{
    struct timespec t = {.tv_sec = (time_t)(us / 1000000), .tv_nsec = (long)(us % 1000000) * 1000};
    nanosleep(&t, NULL);
}

static int wait_for(pid_t pid)
{
    int status;
    if (pid < 0 || waitpid(pid, &status, 0) != pid) {
        files_give_up("fork");
    }
    return status;
}

/* Let a child write and kill it, some time after it has appended its first record. */
static void run_and_kill(const struct place *place, struct content_rng *rng, struct tally *tally)
{
    struct load_options opts = choose(place, rng);
    struct notes *notes = notes_open(place->notes);
    uint64_t before = atomic_load(&notes->attempted);
    uint64_t n_acked = atomic_load(&notes->n_appends);
    pid_t pid = fork();
    if (pid == 0) {
        (void)load_run(&opts, notes);
        _exit(3);
    }
    for (int i = 0; i < 100000 && atomic_load(&notes->attempted) == before; i++) {
        sleep_us(100);
    }
    sleep_us(content_below(rng, 30000));
    kill(pid, SIGKILL);
    int status = wait_for(pid);
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL) {
        fprintf(stderr, "the child ended by itself (%#x) before it was killed\n", (unsigned)status);
        exit(1);
    }
    tally->n_kills++;
    tally->n_inside += atomic_load(&notes->appending);
    tally->n_acked += atomic_load(&notes->n_appends) - n_acked;
    notes_close(notes);
}

static void examine(const struct place *place, struct content_rng *rng, struct tally *tally)
{
    struct load_options opts = choose(place, rng);
    opts.threads = content_below(rng, 2) == 0;
    opts.drain = content_below(rng, 4) == 0;
    struct notes *notes = notes_open(place->notes);
    uint64_t before = atomic_load(&notes->n_repeated);
    pid_t pid = fork();
    if (pid == 0) {
        /* Several threads counted while STATE was written, so its counters are not of one moment.
         */
        struct notes_terms terms = {.n_readers = opts.n_readers, .ledger_slack = UINT64_MAX};
        struct notes_verdict verdict;
        char why[256] = "";
        bool good = load_check(&opts, notes, &terms, &verdict, why, sizeof why);
        if (good && verdict.n_uncertain > 1) {
            snprintf(why, sizeof why, "%" PRIu64 " records that nobody acknowledged",
                     verdict.n_uncertain);
            good = false;
        }
        if (!good) {
            fprintf(stderr, "after kill %" PRIu64 ": %s\n", tally->n_kills, why);
        }
        _exit(good ? 0 : 1);
    }
    int status = wait_for(pid);
    if (status != 0) {
        fprintf(stderr, "the check ended with %#x\n", (unsigned)status);
        exit(1);
    }
    uint64_t repeated = atomic_load(&notes->n_repeated) - before;
    tally->n_repeated += repeated;
    if (repeated > tally->n_most_repeated) {
        tally->n_most_repeated = repeated;
    }
    notes_close(notes);
}

int main(int argc, char **argv)
{
    uint64_t n = argc > 1 ? strtoull(argv[1], NULL, 10) : form_pick(30, 30, 1000);
    uint64_t seed = (uint64_t)time(NULL);
    (void)form_seed(&seed);
    printf("MM_TEST_SEED=%" PRIu64 "\n", seed);
    fflush(stdout);
    content_init();
    struct content_rng rng = {.state = content_mix(seed)};
    struct place place;
    files_make_dir(false, place.root);
    files_join(place.dir, place.root, "spool");
    files_join(place.notes, place.root, "notes");
    struct tally tally = {0};
    while (tally.n_kills < n) {
        if (tally.n_kills % KILLS_OF_A_DIRECTORY == 0) {
            begin(&place, seed + tally.n_kills);
        }
        run_and_kill(&place, &rng, &tally);
        examine(&place, &rng, &tally);
    }
    printf("%" PRIu64 " kills, %" PRIu64 " of them inside append; %" PRIu64
           " records acknowledged, 0 lost, 0 wrong; %" PRIu64 " came again, at most %" PRIu64
           " after one kill\n",
           tally.n_kills, tally.n_inside, tally.n_acked, tally.n_repeated, tally.n_most_repeated);
    if (tally.n_inside * 10 < tally.n_kills * 9) {
        fputs("fewer than nine in ten kills hit an append\n", stderr);
        return 1;
    }
    return 0;
}
