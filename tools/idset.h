/* idset.h - a set of ids of dead letters.
 *
 * Thread: one at a time. */
#ifndef IDSET_H
#define IDSET_H

#include <stdbool.h>
#include <stddef.h>

/* Longest id, bytes: "<uuid>-<seq>" is 36 + 1 + 20 at most. */
#define IDSET_ID_MAX 64

/* All zero: empty. */
struct idset
{
    char **places;   /* a table with open addressing, at most half full */
    size_t n_places; /* 0, or a power of two */
    size_t n_ids;
};

/* False: out of memory. To add what is there already changes nothing. */
bool idset_add(struct idset *set, const char *id, size_t len);

bool idset_has(const struct idset *set, const char *id, size_t len);

/* Leaves the set empty. */
void idset_fini(struct idset *set);

/* Is this what an id of a letter looks like: hex digits and '-'? It can stand in a line of text. */
bool idset_is_id(const char *id, size_t len);

#endif
