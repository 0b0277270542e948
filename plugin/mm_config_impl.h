/* mm_config_impl.h - settings under construction, for those files that make them: mm_config.c,
 * which gathers the values and judges what they say together, and mm_config_parse.c, which parses
 * each.
 *
 * Thread: setup. */
#ifndef MM_CONFIG_IMPL_H
#define MM_CONFIG_IMPL_H

#include "mm_config.h"
#include "mm_options.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A value of an option as it was given. */
struct mm_value
{
    char *text; /* trimmed, owned */
    struct mm_place place;
};

/* What gathering found for an option. */
struct mm_setting
{
    struct mm_value *values; /* owned; more than one only of a repeatable option */
    size_t n_values;         /* 0: the default counts */
    const char *name;        /* of the option as it was written; NULL: the environment has it */
};

struct mm_parser
{
    const struct mm_config_source *source;    /* borrowed */
    struct mm_config *config;                 /* under construction, owned */
    struct mm_setting settings[MM_N_OPTIONS]; /* of mm_option_defs[] with the same index */
    uint16_t kafka_port;
    size_t n_mistakes;
    struct mm_place place;     /* of what is being judged */
    char subject[128];         /* what a finding is about: "option kafka_workers" */
    char why[MM_LOG_LINE_LEN]; /* what a parser has to say about a wrong value; may be empty */
};

/* Check a value, trimmed, and store it. Errors: MM_EINVAL, with p->why filled or left empty where
 * the option's "expected" says it all; MM_ENOMEM. */
typedef int mm_parse_fn(struct mm_parser *p, const struct mm_option_def *def, const char *value);

/* One for each type of option. */
extern mm_parse_fn *const mm_config_parsers[MM_N_TYPES];

/* Tell of a finding; one of level MM_LOG_ERROR makes the settings fail. */
void mm_config_report(struct mm_parser *p, enum mm_log_level level, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* A path has so much room in a line for people. */
#define MM_CONFIG_PATH_SHOWN_LEN 200

/* What was found for an option, and whether that is anything. */
struct mm_setting *mm_config_setting(struct mm_parser *p, const struct mm_option_def *def);
bool mm_config_is_given(struct mm_parser *p, const struct mm_option_def *def);

/* Find the values that the broker's configuration has, that the file p->config->config_file has
 * (p->subject names that option), and that the environment has for an option without a value. What
 * was found is freed by mm_config_gather_fini(), whatever these return.
 *
 * Errors: MM_ENOMEM; mistakes are reported. */
int mm_config_gather_given(struct mm_parser *p);
int mm_config_gather_file(struct mm_parser *p);
int mm_config_gather_variable(struct mm_parser *p, const struct mm_option_def *def);
void mm_config_gather_fini(struct mm_parser *p);

/* Make p->subject "option kafka_port" or "environment variable KAFKA_PORT", whichever gave the
 * setting, and p->place where it stands. */
void mm_config_subject(struct mm_parser *p, const struct mm_option_def *def);

/* Judge what the options of TLS and SASL say together. Reports. */
void mm_config_check_security(struct mm_parser *p);

/* Report each property of librdkafka that is given beside the option for the same. */
void mm_config_check_properties(struct mm_parser *p);

#endif
