/* scratch.h - directories of one test, which goes with all that is in it. */
#ifndef SCRATCH_H
#define SCRATCH_H

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#define SCRATCH_LEN 64 /* of a path, its NUL included */

/* Make a directory /tmp/mm_<name>_XXXXXX and write its path. 0, or -1, as cmocka wants it. */
static inline int scratch_make(char path[SCRATCH_LEN], const char *name)
{
    snprintf(path, SCRATCH_LEN, "/tmp/mm_%s_XXXXXX", name);
    return mkdtemp(path) == NULL ? -1 : 0;
}

static inline int scratch_remove_entry(const char *path,
                                       const struct stat *st,
                                       int type,
                                       struct FTW *place)
{
    (void)st;
    (void)type;
    (void)place;
    return remove(path);
}

/* Remove a directory and all that is in it. 0, or what cmocka takes for a failure. */
static inline int scratch_remove(const char *path)
{
    return nftw(path, scratch_remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

#endif
