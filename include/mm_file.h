/* mm_file.h - reads and writes at a place of a file, whole, however often the system stops between.
 *
 * Thread: any. */
#ifndef MM_FILE_H
#define MM_FILE_H

#include <stddef.h>
#include <stdint.h>

/* Read up to len bytes at offset. *n: how many; less than len at the end of the file, or in front
 * of what cannot be read. Errors: MM_EIO, errno tells. */
int mm_file_read(int fd, uint64_t offset, void *dst, size_t len, size_t *n);

/* Write all of it at offset. Errors: MM_EIO, errno tells. */
int mm_file_write(int fd, uint64_t offset, const void *data, size_t len);

#endif
