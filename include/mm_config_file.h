/* mm_config_file.h - a file of settings, taken apart: one "name value" a line.
 *
 * Blanks around name and value do not count, nor do lines that are blank or begin with '#'; what
 * follows the name is the value to the end of the line, '#' and quotes included. Lines end in LF or
 * CRLF; the text is UTF-8, and a byte order mark in front of it does not count. Only this form is
 * judged here; names and values are judged by mm_config_new(), which reads the file of the option
 * config_file by this module. */
#ifndef MM_CONFIG_FILE_H
#define MM_CONFIG_FILE_H

#include "mm_config.h"

#include <stddef.h>
#include <stdint.h>

/* The largest file, bytes. */
#define MM_CONFIG_FILE_MAX ((size_t)1024 * 1024)

/* All lines that are settings. A line whose form is wrong has been reported and is not among them.
 */
struct mm_config_file
{
    struct mm_option *options; /* in file order; a name without a value has the value "" */
    struct mm_place *places;   /* of each; file is the path as it was given */
    size_t n_options;
    size_t n_mistakes; /* lines that were reported */
    unsigned mode;     /* the file's permission bits; 0 for a text in memory */
    uint64_t sum;      /* of the content (mm_watch.h) */
    char *text;        /* what options point into */
    size_t text_len;
};

/* Read a file. The path is borrowed by the places. The caller frees *out with
 * mm_config_file_free().
 *
 * Thread: any. Errors: MM_EIO, no regular file that can be opened and read, and MM_ETOOBIG, errstr
 * has the reason without the path; MM_ENOMEM. *out is NULL then. */
int mm_config_file_read(const char *path,
                        mm_config_report_fn report,
                        void *report_arg,
                        struct mm_config_file **out,
                        char *errstr,
                        size_t errstr_len);

/* The same for a text of len bytes that was read from path.
 *
 * Thread: any. Errors: MM_ENOMEM. */
int mm_config_file_parse(const char *text,
                         size_t len,
                         const char *path,
                         mm_config_report_fn report,
                         void *report_arg,
                         struct mm_config_file **out);

/* Accepts NULL. Thread: any. */
void mm_config_file_free(struct mm_config_file *file);

#endif
