/* redriven.h - which dead letters were sent to Kafka again.
 *
 * The file "redriven" in the directory of the dead-letter log: one id a line, only ever appended
 * to, synced before anybody is told. The plugin never touches it. A line that the end of a process
 * or of the system's power has cut off does not count.
 *
 * Thread: one at a time. */
#ifndef REDRIVEN_H
#define REDRIVEN_H

#include <stdbool.h>
#include <stddef.h>

struct redriven;

/* Read the file in dir; there need not be one. With write it is made, with mode 0600 and the
 * directory's owner, and locked until redriven_close(), so that no two processes send the same
 * letters. False: the reason is on standard error, and *out is NULL. */
bool redriven_open(const char *dir, bool write, struct redriven **out);

/* Accepts NULL. */
void redriven_close(struct redriven *r);

/* Does the file, or a redriven_note() since, have this id? */
bool redriven_has(const struct redriven *r, const char *id, size_t len);

/* Add an id (idset_is_id()); opened with write. It is in the file after the next redriven_sync().
 * False: out of memory. */
bool redriven_note(struct redriven *r, const char *id, size_t len);

/* Write what was noted, and wait until it is on the disk. False: the reason is on standard error.
 */
bool redriven_sync(struct redriven *r);

#endif
