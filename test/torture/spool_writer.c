/* spool_writer - one life of a log as a process, to be killed, starved and lied to from outside.
 *
 *   spool_writer new NOTES [--topics N] [--payload N] [--large-every N] [--large-from N]
 *                          [--capacity N] [--rule-seed N]
 *   spool_writer run NOTES [options]      writes and reads; see load.h
 *   spool_writer check NOTES [options]    opens what was left and compares it with the notes
 *   spool_writer prove NOTES [options]    the same, then appends some more, finishes all, and
 * checks that nothing is left spool_writer show NOTES               the figures of the notes
 *
 * NOTES is the file that survives. Options: --dir D --max-bytes N --segment N --readers N
 * --sync never|interval|always --writer auto|mmap|pwrite --threads --window N --seed N --appends N
 * --drain --exit; of check also --loss (records may be missing if the log says how many), --back
 * (settled records may come back) and --bad N (files that must be in bad/).
 *
 * Prints one line of JSON. Exits 0 good; 1 the log broke its promise; 2 the test cannot run; 3 the
 * log could not be opened. */
#include "content.h"
#include "load.h"
#include "notes.h"

#include "mm_error.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    GOOD = 0,
    BROKEN = 1,
    CANNOT = 2,
    NOT_OPENED = 3
};

struct arguments
{
    struct content_rule rule;
    uint64_t capacity;
    struct load_options load;
    struct notes_terms terms;
};

static const char *const sync_names[] = {"interval", "never", "always"};
static const char *const writer_names[] = {"auto", "mmap", "pwrite"};

static int choice(const char *value, const char *const *names, int n)
{
    for (int i = 0; i < n; i++) {
        if (strcmp(value, names[i]) == 0) {
            return i;
        }
    }
    fprintf(stderr, "unknown choice %s\n", value);
    exit(CANNOT);
}

static uint64_t number(const char *value)
{
    char *end;
    errno = 0;
    uint64_t n = strtoull(value, &end, 10);
    if (errno != 0 || *end != '\0' || end == value) {
        fprintf(stderr, "not a number: %s\n", value);
        exit(CANNOT);
    }
    return n;
}

static const struct option options[] = {
    {"dir", required_argument, NULL, 'd'},
    {"max-bytes", required_argument, NULL, 'm'},
    {"segment", required_argument, NULL, 's'},
    {"readers", required_argument, NULL, 'r'},
    {"sync", required_argument, NULL, 'y'},
    {"writer", required_argument, NULL, 'w'},
    {"threads", no_argument, NULL, 't'},
    {"window", required_argument, NULL, 'i'},
    {"seed", required_argument, NULL, 'e'},
    {"appends", required_argument, NULL, 'a'},
    {"drain", no_argument, NULL, 'n'},
    {"exit", no_argument, NULL, 'x'},
    {"loss", no_argument, NULL, 'l'},
    {"back", no_argument, NULL, 'b'},
    {"topics", required_argument, NULL, 'T'},
    {"payload", required_argument, NULL, 'P'},
    {"large-every", required_argument, NULL, 'L'},
    {"large-from", required_argument, NULL, 'F'},
    {"capacity", required_argument, NULL, 'C'},
    {"rule-seed", required_argument, NULL, 'S'},
    {"bad", required_argument, NULL, 'B'},
    {NULL, 0, NULL, 0},
};

static void set_switch(struct arguments *a, int key)
{
    a->load.threads |= key == 't';
    a->load.drain |= key == 'n';
    a->load.stop = key == 'x' ? LOAD_EXIT : a->load.stop;
    a->terms.loss_allowed |= key == 'l';
    a->terms.back_allowed |= key == 'b';
}

static void set_number(struct arguments *a, int key, uint64_t n)
{
    switch (key) {
        case 'm':
            a->load.max_bytes = n;
            break;
        case 's':
            a->load.segment_bytes = (uint32_t)n;
            break;
        case 'r':
            a->load.n_readers = a->terms.n_readers = (uint32_t)n;
            break;
        case 'i':
            a->load.window = (uint32_t)n;
            break;
        case 'e':
            a->load.seed = n;
            break;
        case 'a':
            a->load.n_appends = n;
            break;
        case 'T':
            a->rule.n_topics = (uint32_t)n;
            break;
        case 'P':
            a->rule.max_payload = (uint32_t)n;
            break;
        case 'L':
            a->rule.large_every = (uint32_t)n;
            break;
        case 'F':
            a->rule.large_from = (uint32_t)n;
            break;
        case 'C':
            a->capacity = n;
            break;
        case 'B':
            a->terms.n_bad = n;
            break;
        default:
            a->rule.seed = n;
            break;
    }
}

static struct arguments parse(int argc, char **argv)
{
    struct arguments a = {
        .rule = {.seed = 1,
                 .n_topics = 40,
                 .max_payload = 4096,
                 .large_every = 50,
                 .large_from = 40000},
        .capacity = 100000,
        .load = {.max_bytes = 4 << 20,
                 .segment_bytes = 32768,
                 .n_readers = 1,
                 .window = 32,
                 .seed = 1,
                 .n_appends = 300},
        .terms = {.n_readers = 1},
    };
    int key;
    while ((key = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (key == '?') {
            exit(CANNOT);
        }
        if (optarg == NULL) {
            set_switch(&a, key);
        } else if (key == 'd') {
            a.load.dir = optarg;
        } else if (key == 'y') {
            a.load.sync = (enum mm_spool_sync)choice(optarg, sync_names, 3);
        } else if (key == 'w') {
            a.load.writer = (enum mm_spool_writer)choice(optarg, writer_names, 3);
        } else {
            set_number(&a, key, number(optarg));
        }
    }
    /* Threads count and write STATE at the same time: see notes_terms. */
    a.terms.ledger_slack = a.load.threads ? UINT64_MAX : 0;
    return a;
}

static int run(struct arguments *a, struct notes *notes)
{
    return load_run(&a->load, notes) == 0 ? GOOD : NOT_OPENED;
}

static bool use_again(struct arguments *a, struct notes *notes, char *why, size_t why_len)
{
    struct notes_verdict after;
    a->load.n_appends = 20;
    a->load.drain = true;
    uint64_t n_refused = atomic_load(&notes->n_refused);
    bool good = load_run(&a->load, notes) == 0 && atomic_load(&notes->n_refused) == n_refused;
    if (!good) {
        snprintf(why, why_len, "the log takes no more records");
    } else if (load_check(&a->load, notes, &a->terms, &after, why, why_len) && after.n_read != 0) {
        snprintf(why, why_len, "%" PRIu64 " records are left of a log that was finished",
                 after.n_read);
    }
    return *why == '\0';
}

static int check(struct arguments *a, struct notes *notes, bool again)
{
    struct notes_verdict verdict;
    char why[256] = "";
    bool good = load_check(&a->load, notes, &a->terms, &verdict, why, sizeof why) &&
                (!again || use_again(a, notes, why, sizeof why));
    printf("{\"good\": %s, \"why\": \"%s\", \"read\": %" PRIu64 ", \"repeated\": %" PRIu64
           ", \"uncertain\": %" PRIu64 ", \"missing\": %" PRIu64 ", \"total\": %" PRIu64 "}\n",
           good ? "true" : "false", why, verdict.n_read, verdict.n_repeated, verdict.n_uncertain,
           verdict.n_missing, verdict.n_total);
    return good ? GOOD : BROKEN;
}

static int show(const struct notes *notes)
{
    printf("{\"stage\": %u, \"appending\": %u, \"attempted\": %" PRIu64 ", \"appended\": %" PRIu64
           ", \"refused\": %" PRIu64 ", \"refused_last\": %" PRIu64 ", \"finished\": %" PRIu64
           ", \"repeated\": %" PRIu64 "}\n",
           atomic_load(&notes->stage), atomic_load(&notes->appending),
           atomic_load(&notes->attempted), atomic_load(&notes->n_appends),
           atomic_load(&notes->n_refused), atomic_load(&notes->last_refused),
           atomic_load(&notes->n_finished), atomic_load(&notes->n_repeated));
    return GOOD;
}

static int act(const char *command, const char *path, struct arguments *a)
{
    if (strcmp(command, "new") == 0) {
        struct notes *made = notes_create(path, &a->rule, a->capacity);
        notes_close(made);
        return made == NULL ? CANNOT : GOOD;
    }
    struct notes *notes = notes_open(path);
    if (notes == NULL) {
        fprintf(stderr, "%s cannot be opened\n", path);
        return CANNOT;
    }
    int code = CANNOT;
    if (strcmp(command, "run") == 0) {
        code = run(a, notes);
    } else if (strcmp(command, "check") == 0) {
        code = check(a, notes, false);
    } else if (strcmp(command, "prove") == 0) {
        code = check(a, notes, true);
    } else if (strcmp(command, "show") == 0) {
        code = show(notes);
    }
    notes_close(notes);
    return code;
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fputs("usage: spool_writer new|run|check|prove|show NOTES [options]\n", stderr);
        return CANNOT;
    }
    content_init();
    struct arguments a = parse(argc - 2, argv + 2);
    return act(argv[1], argv[2], &a);
}
