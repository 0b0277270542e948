/* load.h - one life of a log: opened, written, read, finished, closed or left.
 *
 * Without threads everything happens in one thread, in an order that follows from the seed: a run
 * makes the same system calls each time. With threads one appends as fast as it can, each reader
 * has its own, and the log has its own.
 *
 * Thread: the process's first. */
#ifndef LOAD_H
#define LOAD_H

#include "consumer.h"
#include "notes.h"

#include "mm_spool.h"

#include <stdbool.h>
#include <stdint.h>

enum load_stop {
    LOAD_CLOSE, /* in order */
    LOAD_EXIT,  /* the process ends and the log is not told */
};

struct load_options
{
    const char *dir; /* NULL: in memory */
    uint64_t max_bytes;
    uint32_t segment_bytes;
    uint32_t n_readers;
    enum mm_spool_sync sync;
    enum mm_spool_writer writer;
    bool drop_oldest;
    bool threads;
    uint32_t window;
    uint64_t seed;
    uint64_t n_appends; /* to be tried; 0: without end */
    bool drain;         /* finish everything before the stop */
    enum load_stop stop;
};

/* How far a run has come; in notes->stage. */
enum load_stage {
    LOAD_BEFORE = 0,
    LOAD_OPENED,
    LOAD_APPENDED,
    LOAD_FINISHED,
    LOAD_CLOSED,
};

/* mm_spool_open() with these options. ledger, which may be NULL, goes on from what STATE had. On an
 * error the reason is printed. */
int load_open(const struct load_options *opts,
              struct consumer_ledger *ledger,
              struct mm_spool **out);

/* A whole run. Returns 0 or the error of mm_spool_open(). What goes wrong on the way (a full disk,
 * a failing read) is noted and goes on; a wrong record ends the process with exit code 1. */
int load_run(const struct load_options *opts, struct notes *notes);

/* Tell the log to write STATE, and note what it knows then. */
void load_checkpoint(struct notes *notes,
                     struct mm_spool *s,
                     const struct consumer *consumers,
                     uint32_t n);

/* Open the log as it was left and compare it with the notes; then finish everything if drain is
 * set, and close it. False: why tells. */
bool load_check(const struct load_options *opts,
                struct notes *notes,
                const struct notes_terms *terms,
                struct notes_verdict *out,
                char *why,
                size_t why_len);

#endif
