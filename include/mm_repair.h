/* mm_repair.h - mend the files of a log that nobody has.
 *
 * Only what can be known is written: a copy of a header from the other copy, a seal from the
 * records, a slot of STATE from the other slot. What cannot be mended is moved to bad/, never
 * deleted. Every record that can be read before can be read after.
 *
 * Thread: one at a time. */
#ifndef MM_REPAIR_H
#define MM_REPAIR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mm_repair_options
{
    bool dry_run; /* nothing is written, and the log may be somebody's */
    bool rewrite; /* segments with damaged records are copied without them */

    /* What was done, or would be: the file's name in the directory, and a sentence; both valid
     * during the call. err is not 0 when it failed: MM_EIO, with errno. NULL: not told. */
    void (*on_action)(void *arg, const char *file, const char *what, int err);
    void *arg;
};

struct mm_repair_result
{
    uint64_t n_actions; /* done, or to be done */
    uint64_t n_failed;
};

/* Repair the log in dir (not those below it): take its LOCK, mend, release it. New files belong to
 * the caller's user: a caller who is root becomes the directory's owner before.
 *
 * Errors: MM_EINVAL, no log; MM_EBUSY, somebody has it; MM_EVERSION, a newer version wrote some of
 * it; MM_EIO, MM_ENOMEM. errstr has the path and the reason. What failed after the beginning is
 * told by on_action and counted, and 0 is returned. */
int mm_repair(const char *dir,
              const struct mm_repair_options *opts,
              struct mm_repair_result *out,
              char *errstr,
              size_t errstr_len);

#endif
