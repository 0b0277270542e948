/* spool_args.h - the commands of "spool" and what they were given. */
#ifndef SPOOL_ARGS_H
#define SPOOL_ARGS_H

#include "mm_config.h"
#include "mm_inspect.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SPOOL_MAX_SETTINGS 128

struct spool_args
{
    const char *dir;
    bool json;
    bool progress;
    bool pending;
    bool all;
    bool live;
    bool dry_run;
    bool rewrite;
    uint64_t from;     /* 0: from the beginning */
    uint64_t to;       /* 0: to the end */
    uint64_t limit;    /* 0: none */
    const char *topic; /* dump: a list of MQTT filters; replay: the Kafka topic */
    const char *kafka;
    uint32_t timeout_s;
    struct mm_option settings[SPOOL_MAX_SETTINGS]; /* of the plugin */
    size_t n_settings;
};

/* The commands. Each returns the exit code: 0 good, 1 something bad was found or happened. */
int spool_ls(const struct spool_args *args);
int spool_stat(const struct spool_args *args);
int spool_verify(const struct spool_args *args);
int spool_dump(const struct spool_args *args);
int spool_replay(const struct spool_args *args);
int spool_repair(const struct spool_args *args);

/* --- for all of them -------------------------------------------------------------------------- */

struct spool_log
{
    struct mm_inspect *in;
    char *name; /* relative to the directory given: "" for that itself, "parked/x", "dead" */
};

/* A log and, when it is a spool's, those below it. */
struct spool_logs
{
    struct spool_log *log;
    size_t n;
};

/* False: the reason is on standard error, and nothing needs to be closed. With below, those that
 * are below dir too; one of these that cannot be opened is told and *complete becomes false. */
bool spool_open(const char *dir, bool below, struct spool_logs *out, bool *complete);
void spool_close(struct spool_logs *logs);

/* A line for people about a piece of damage, or an object of JSON without its newline, on standard
 * output. log: the name of the log it is in, as in struct spool_logs. */
void spool_print_damage(const char *log, const struct mm_inspect_damage *d, bool json);

#endif
