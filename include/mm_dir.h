/* mm_dir.h - the directory of a spool on disk: whose it is, what is in it, how much room it has.
 *
 * All operations go by a descriptor of the directory, so that a renamed or replaced path does not
 * lead elsewhere. Files are made with mode 0600, directories with 0700.
 *
 * Thread: any, unless a function says otherwise. */
#ifndef MM_DIR_H
#define MM_DIR_H

#include "mm_layout.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mm_dir;

/* Open the directory, make it if only its last part is missing, take its LOCK and count bad/.
 *
 * Thread: setup. Errors: MM_EIO, errstr has the path, the operation and the system's reason;
 * MM_EINVAL, something else than a directory is there; MM_EBUSY, errstr names the process that has
 * it; MM_ENOMEM. */
int mm_dir_open(const char *path, struct mm_dir **out, char *errstr, size_t errstr_len);

/* Release the LOCK. Accepts NULL. Thread: setup. */
void mm_dir_close(struct mm_dir *d);

/* What LOCK says of who has or had the directory, one line of printable characters; "" when it
 * cannot be read. fd: of LOCK. */
#define MM_DIR_LOCK_TEXT_LEN 256
void mm_dir_read_lock_text(int fd, char text[MM_DIR_LOCK_TEXT_LEN]);

/* Lives as long as the directory. */
const char *mm_dir_path(const struct mm_dir *d);
int mm_dir_fd(const struct mm_dir *d);

/* Is a reservation of space a promise on this file system? Not on btrfs, zfs, nfs and fuse. */
bool mm_dir_can_reserve(const struct mm_dir *d);

/* The host that had the directory before, when it was another one; else NULL. */
const char *mm_dir_other_host(const struct mm_dir *d);

/* Bytes that an unprivileged process may still use, and the size of the file system.
 * Errors: MM_EIO. */
int mm_dir_space(const struct mm_dir *d, uint64_t *free_bytes, uint64_t *total_bytes);

/* Make new, renamed and deleted names survive a power failure. Errors: MM_EIO. */
int mm_dir_sync(const struct mm_dir *d);

/* The numbers of all segment files, ascending, malloc'ed for the caller to free (NULL when there
 * are none). Errors: MM_EIO, MM_ENOMEM. */
int mm_dir_list(const struct mm_dir *d, uint64_t **files, size_t *n_files);

/* "%016x.seg" */
#define MM_DIR_NAME_LEN 21
void mm_dir_segment_name(uint64_t file, char name[MM_DIR_NAME_LEN]);

/* Move a segment file to bad/. Thread: setup. Errors: MM_EIO. */
int mm_dir_set_aside(struct mm_dir *d, uint64_t file);

/* Files in bad/. */
uint64_t mm_dir_n_bad(const struct mm_dir *d);

/* The valid slot of STATE with the higher generation.
 *
 * Thread: setup. Errors: MM_EAGAIN, there is no STATE or it was never written; MM_ECORRUPT, no slot
 * is good; MM_EVERSION, out->version is set; MM_EIO. */
int mm_dir_read_state(struct mm_dir *d, struct mm_layout_state *out);

/* Write one slot: with `syncs` (STATE is synced now and then) not the one that is on the disk for
 * sure, else the two in turn. After mm_dir_read_state(). Thread: one at a time. Errors: MM_EIO. */
int mm_dir_write_state(struct mm_dir *d, const struct mm_layout_state *state, bool syncs);

/* Has somebody removed the directory, though we have it open? Thread: any. */
bool mm_dir_is_gone(const struct mm_dir *d);

/* Make STATE again if somebody has deleted it: a new file, in which nothing is. True if that was
 * so. Thread: one at a time, as for writing it. */
bool mm_dir_restore_state(struct mm_dir *d);

/* Make STATE survive a power failure. Thread: one at a time; another one may be writing it. Errors:
 * MM_EIO. */
int mm_dir_sync_state(struct mm_dir *d);

/* The id of the system's present start; zeros when the system does not tell. */
void mm_dir_boot_id(uint8_t boot[16]);

#endif
