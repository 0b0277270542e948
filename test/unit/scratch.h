/* scratch.h - directories of one test, which goes with all that is in it; which of its files a
 * descriptor is of, and what of them is in memory. */
#ifndef SCRATCH_H
#define SCRATCH_H

#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

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

/* Is this a descriptor of a file whose path has name in it? */
static inline bool is_file(int fd, const char *name)
{
    char link[64];
    char path[256] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    return readlink(link, path, sizeof path - 1) > 0 && strstr(path, name) != NULL;
}

/* What of the files in a directory is mapped and present. */
static inline uint64_t resident_kib(const char *path)
{
    FILE *f = fopen("/proc/self/smaps", "r");
    assert_non_null(f);
    char line[1024];
    bool ours = false;
    uint64_t kib = 0;
    while (fgets(line, sizeof line, f) != NULL) {
        const char *value = strncmp(line, "Rss:", 4) == 0 ? line + 4 : NULL;
        if (line[strspn(line, "0123456789abcdef")] == '-') { /* the addresses of the next mapping */
            ours = strstr(line, path) != NULL;
        } else if (ours && value != NULL) {
            kib += strtoull(value, NULL, 10);
        }
    }
    fclose(f);
    return kib;
}

#endif
