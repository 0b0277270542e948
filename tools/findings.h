/* findings.h - what a check has found, collected, put in order and printed. */
#ifndef FINDINGS_H
#define FINDINGS_H

#include "mm_config.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

/* One of them; the level is MM_LOG_ERROR, MM_LOG_WARN or MM_LOG_INFO. */
struct found
{
    enum mm_log_level level;
    struct mm_place place; /* the file is one of the collection's own names */
    char *text;
};

/* All of them. Begins as all zero; findings_free() takes what it owns. */
struct findings
{
    struct found *items;
    size_t n;
    char **files; /* names of those that have findings, in the order of their first */
    size_t n_files;
    size_t n_errors;
    size_t n_warnings;
    const char *path;     /* borrowed: findings of this file ... */
    const char *as_given; /* ... are told under this name; NULL: of none */
    bool incomplete;      /* memory was short: some are missing */
};

/* Tell what is found in the file of the absolute path under the name that the user gave it. Both
 * are borrowed until findings_rename() is called again, with NULL for none. */
void findings_rename(struct findings *f, const char *path, const char *as_given);

/* Add one. The text is a line for people: control characters in it become '?'. */
void findings_add(struct findings *f,
                  enum mm_log_level level,
                  struct mm_place place,
                  const char *fmt,
                  ...) __attribute__((format(printf, 4, 5)));

/* The same as a mm_config_report_fn; arg is the struct findings. */
void findings_report(void *arg, const struct mm_finding *finding);

/* Put those of one file beside each other, in the order of its lines; the files in the order in
 * which each was first seen, those without a place at the end. */
void findings_sort(struct findings *f);

/* "FILE:LINE: error: text", one a line. */
void findings_print(const struct findings *f, FILE *out);

/* The same as a JSON array of {"level", "file", "line", "text"}. */
void findings_print_json(const struct findings *f, FILE *out);

void findings_free(struct findings *f);

/* No place. */
extern const struct mm_place findings_nowhere;

#endif
