/* consumer.h - what a worker does with its reader, without Kafka.
 *
 * Takes records into a window, finishes them in any order, and tells the log how far it is. Counts
 * what was delivered as the plugin's metrics do.
 *
 * Thread: one for each consumer. Owner: whoever called consumer_init(). */
#ifndef CONSUMER_H
#define CONSUMER_H

#include "notes.h"

#include "mm_spool.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define CONSUMER_WINDOW_MAX 512

/* Beside the errors of mm_spool.h: a record that is wrong, out of order or not the one that it was
 * before. */
#define CONSUMER_WRONG (-1000)

/* What has been counted; counters[0] of STATE. All consumers of a log share one. */
struct consumer_ledger
{
    _Atomic uint64_t delivered;
    atomic_bool restored; /* it goes on from what STATE had; until then it says nothing */
};

void consumer_counters(void *ledger, uint64_t counters[MM_LAYOUT_COUNTERS]);

struct consumer
{
    struct mm_spool *spool;
    struct mm_spool_reader *reader;
    struct notes *notes;
    struct consumer_ledger *ledger;
    struct content_rng rng;
    uint32_t window; /* at most so many in flight */
    uint64_t n_taken;
    uint64_t head; /* the ring: entries head to tail - 1 are in flight or finished behind one */
    uint64_t tail;
    uint64_t n_done; /* of those: finished */
    uint64_t last;   /* the number taken last */
    char why[160];   /* with CONSUMER_WRONG */
    _Atomic uint64_t
        low; /* number below which each of the shard is finished, as the log was told */
    struct
    {
        struct mm_spool_pos pos;
        uint64_t number;
        bool done;
    } ring[CONSUMER_WINDOW_MAX];
};

/* Of reader k of a log that has just been opened. */
void consumer_init(struct consumer *c,
                   struct mm_spool *s,
                   uint32_t k,
                   struct notes *notes,
                   struct consumer_ledger *ledger,
                   uint32_t window,
                   uint64_t seed);

/* Take up to n records; returns how many there were, CONSUMER_WRONG, or an error of
 * mm_spool_next(). A record that drop_oldest wants let go is finished at once. */
int consumer_take(struct consumer *c, uint32_t n);

/* Finish up to n records of the window, in any order, and tell the log after each. */
void consumer_finish(struct consumer *c, uint32_t n);

/* Go back to the first record that is not finished and read the window again. Returns 0 when it is
 * as it was. */
int consumer_retry(struct consumer *c);

/* Read one record of the window again, by its position. Returns 0 when it is as it was. */
int consumer_look_back(struct consumer *c);

/* Take and finish until there is nothing left, or an error, which it returns. */
int consumer_drain(struct consumer *c);

#endif
