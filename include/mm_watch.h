/* mm_watch.h - has the content of files changed?
 *
 * By content, not by time or name: what Kubernetes and cert-manager swap under a symbolic link,
 * what is written in place and what is moved there count alike, and a file that is only touched
 * does not. */
#ifndef MM_WATCH_H
#define MM_WATCH_H

#include <stddef.h>
#include <stdint.h>

/* What to begin a sum with. */
#define MM_WATCH_EMPTY UINT64_C(0xCBF29CE484222325)

/* Add a file to a sum: its content, or that it cannot be read. Two sums over the same paths differ
 * when a content does (but by a chance of 1 in 2^64). Only regular files are read, the first 4 MiB
 * of each.
 *
 * Thread: any; reads the disk. */
uint64_t mm_watch_add(uint64_t sum, const char *path);

/* The same for a file that has been read: all of its content, up to 4 MiB. Thread: any. */
uint64_t mm_watch_add_content(uint64_t sum, const void *data, size_t len);

#endif
