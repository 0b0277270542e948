/* letters.h - the dead letters in a directory, in use or not, the original or a copy: read only.
 *
 * Thread: one at a time. */
#ifndef LETTERS_H
#define LETTERS_H

#include "mm_dead.h"
#include "mm_record.h"

#include <stdbool.h>
#include <stdint.h>

struct letters;

/* dir: of a spool, or of the dead-letter log itself. False: the reason is on standard error, and
 * *out is NULL. */
bool letters_open(const char *dir, struct letters **out);

/* Accepts NULL. */
void letters_close(struct letters *l);

/* The directory of the dead-letter log. Valid as long as l. */
const char *letters_dir(const struct letters *l);

/* The next letter that is not let go of, oldest first. Damage on the way is told on standard error.
 * Both results are valid until the next call. False: that was the last. */
bool letters_next(struct letters *l, struct mm_record *rec, struct mm_dead_view *view);

/* Was there anything on the way that is no letter, or cannot be read? Told already. */
bool letters_damaged(const struct letters *l);

/* How much of the directory is read, percent. */
unsigned int letters_percent(const struct letters *l);

#endif
