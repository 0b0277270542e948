/* mm_options.h - the table of options: what can be set, for those files that make the settings of
 * it (mm_config.c) and tell about it (mm_config_doc.c).
 *
 * One row makes an option's parser and checks, its place in the start log's line and in the
 * reference. Everything here is constant. Thread: any. */
#ifndef MM_OPTIONS_H
#define MM_OPTIONS_H

#include "mm_keyfile.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum mm_option_kind {
    MM_OPTION_SETTING,
    MM_OPTION_ALIAS,   /* another name of an option: stands_for */
    MM_OPTION_IGNORED, /* of the Go program; means nothing inside the broker */
};

/* How a value is written. */
enum mm_option_type {
    MM_TYPE_NUMBER,
    MM_TYPE_SIZE,
    MM_TYPE_SIZE_OR_AUTO, /* auto: UINT64_MAX */
    MM_TYPE_WORD,
    MM_TYPE_FILTERS,
    MM_TYPE_KAFKA_PORT, /* has no field: goes into the brokers */
    MM_TYPE_BROKERS,
    MM_TYPE_KAFKA_TOPIC,
    MM_TYPE_ALLOW, /* patterns for Kafka topics */
    MM_TYPE_KEY,
    MM_TYPE_HEADERS,
    MM_TYPE_ROUTE, /* has no field: mm_route_add() */
    MM_TYPE_FIELD_NAMES,
    MM_TYPE_PATH,
    MM_TYPE_FILE, /* a path that is there already; `file` says what it holds */
    MM_TYPE_ADDRESS,
    MM_TYPE_TEXT,
    MM_TYPE_SECRET, /* a text that is never shown */
    MM_TYPE_URL,
    MM_N_TYPES,
};

/* A value that is one of several words. */
struct mm_option_word
{
    const char *name;
    unsigned value;
    bool foreign; /* understood with a warning, as the word before it of the same value */
};

/* A row of the table. */
struct mm_option_def
{
    const char *name;
    enum mm_option_kind kind;
    enum mm_option_type type; /* of a setting, as all that follows */
    const char *stands_for;
    const char *fallback;         /* the default, parsed like any value; NULL: not set */
    const char *fallback_on_disk; /* the default with spool_dir; NULL: the same */
    bool on_disk_only;            /* means nothing without spool_dir */
    bool quiet;                   /* the start log leaves it out while it has its default */
    bool repeatable;              /* may be given again; each value is parsed on its own */
    bool not_in_file;             /* cannot stand in the config_file */
    bool fixed;                   /* counts from the broker's next start on, not from a reload */
    size_t offset;                /* of the field in struct mm_config */
    size_t size;                  /* of the field, when it is a number, a word or a boolean */
    uint64_t min;
    uint64_t max;
    const char *unit;                   /* of a number: " of seconds"; may be NULL */
    const struct mm_option_word *words; /* ends with a NULL name */
    enum mm_keyfile_kind file;
    const char *properties[2]; /* of librdkafka, all names of the one that this option sets */
    const char *expected;      /* NULL: made of the range or the words */
    const char *meaning;       /* for the reference; Markdown */
};

/* The table, in the order in which values are parsed and told. */
#define MM_N_OPTIONS 66
extern const struct mm_option_def *const mm_option_defs;

/* Longer than the longest name. */
#define MM_OPTION_NAME_LEN 64

/* "all" of health_address. */
#define MM_OPTION_ADDRESS_ALL "0.0.0.0"

/* The longest value of type path, bytes. Leaves room in PATH_MAX for what the spool puts behind
 * it. */
#define MM_OPTION_PATH_MAX_LEN 1024

/* The longest value of the types text, secret and url, bytes. */
#define MM_OPTION_TEXT_MAX_LEN 1024

/* NULL: there is no option of this name. */
const struct mm_option_def *mm_option_find(const char *name);

/* What was probably meant by a name (shorter than MM_OPTION_NAME_LEN) in small letters with
 * underscores; NULL: cannot say. */
const char *mm_option_nearest(const char *name);

/* Is the value of an option of this name, rdkafka.<property> too, never to be shown? */
bool mm_option_is_secret(const char *name);

/* Write the variable of the environment for an option, its name in capitals. Returns dst. */
const char *mm_option_variable(const struct mm_option_def *def, char dst[MM_OPTION_NAME_LEN]);

/* Write what a value has to be: "a whole number from 1 to 64". */
void mm_option_expected(const struct mm_option_def *def, char *dst, size_t dst_len);

/* Write a number of bytes with the largest suffix that leaves it whole: "256k". */
void mm_option_format_size(uint64_t bytes, char *dst, size_t dst_len);

#endif
