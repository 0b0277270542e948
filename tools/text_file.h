/* text_file.h - a whole file in memory. */
#ifndef TEXT_FILE_H
#define TEXT_FILE_H

#include <stddef.h>

/* Larger ones are refused. */
#define TEXT_FILE_MAX ((size_t)16 * 1024 * 1024)

/* Read a regular file. The text ends in a NUL behind its *len bytes and is malloc'ed for the
 * caller. NULL: *why says why not, in words; static or valid until the next call. */
char *text_file_read(const char *path, size_t *len, const char **why);

#endif
