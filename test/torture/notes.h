/* notes.h - what a test knows of its records, in a file that outlives every process.
 *
 * The file is mapped shared: what a process noted before it was killed is there for the next one.
 * For each record it holds what has happened to it and the seq under which it was first seen. The
 * log and the notes are two memories of the same events; notes_verify() compares them.
 *
 * Order of writing: `attempted` before mm_spool_append(), `acknowledged` or `refused` after it;
 * `delivered` before mm_spool_finish(); `settled` after a mm_spool_checkpoint() that began when the
 * record lay below its reader's low.
 *
 * Thread: one for append, one for each reader; verify and settle while nobody else writes.
 * Owner: whoever opened it; notes_close() unmaps, the file stays. */
#ifndef NOTES_H
#define NOTES_H

#include "content.h"
#include "mm_spool.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum note {
    NOTE_ACKED = 1,     /* append returned 0, or it was found in the log after a kill */
    NOTE_REFUSED = 2,   /* append returned an error */
    NOTE_DELIVERED = 4, /* mm_spool_finish() has been called for it, or is about to be */
    NOTE_SETTLED = 8,   /* ... and STATE knows: must never come back */
    NOTE_LOST = 16,     /* the log has said that it is lost */
};

struct notes
{
    struct content_rule rule;
    uint64_t capacity; /* numbers 1 to capacity - 1 */
    _Atomic uint64_t attempted;
    _Atomic uint32_t appending; /* 1 while in mm_spool_append() */
    _Atomic uint32_t stage;     /* the driver's: how far it has come */
    _Atomic uint64_t settled_below;
    _Atomic uint64_t n_repeated; /* records that came again, over all runs */
    _Atomic uint64_t n_appends;  /* that returned 0 */
    _Atomic uint64_t n_refused;
    _Atomic uint64_t last_refused; /* number */
    _Atomic uint64_t n_finished;
    _Atomic uint64_t seq_and_flags[]; /* [n]: seq << 8 | enum note */
};

struct notes *notes_create(const char *path, const struct content_rule *rule, uint64_t capacity);
struct notes *notes_open(const char *path);
void notes_close(struct notes *notes); /* accepts NULL */

size_t notes_len(const struct notes *notes); /* bytes of the file */

uint8_t notes_flags(const struct notes *notes, uint64_t n);
void notes_add(struct notes *notes, uint64_t n, uint8_t flags);
uint64_t notes_seq(const struct notes *notes, uint64_t n); /* 0: not seen yet */

/* Append the next record and note it. Returns what mm_spool_append() returned. */
int notes_append(struct notes *notes, struct mm_spool *s);

/* A checkpoint has returned. lows[k]: number below which each record of shard k of n_shards was
 * finished when it began. */
void notes_settle(struct notes *notes, const uint64_t *lows, uint32_t n_shards);

struct notes_verdict
{
    uint64_t n_read;
    uint64_t n_repeated;  /* of those: delivered before */
    uint64_t n_uncertain; /* of those: the process ended before it knew that it had appended them */
    uint64_t n_missing;   /* acknowledged, not delivered, and not there */
    uint64_t n_lost;      /* records that the log says are lost */
    uint64_t n_total;     /* acknowledged, ever */
};

/* What is compared, beside the records themselves. */
struct notes_terms
{
    uint32_t n_readers;
    bool loss_allowed;     /* records may be missing; they are noted as lost */
    bool back_allowed;     /* settled records may come back: STATE was damaged */
    bool figures_free;     /* do not compare the log's figures */
    bool lost_free;        /* of them only: what is to be taken, less what is lost, is there */
    bool finish;           /* finish what was read: losses are counted when low passes them */
    uint64_t n_bad;        /* files in bad/ */
    uint64_t ledger_slack; /* counters[0] may be off by so many: several threads counted */
};

/* Read all that a log just opened has and compare it with the notes. Notes the seqs. False: why
 * says what is wrong. */
bool notes_verify(struct notes *notes,
                  struct mm_spool *s,
                  const struct notes_terms *terms,
                  struct notes_verdict *out,
                  char *why,
                  size_t why_len);

#endif
