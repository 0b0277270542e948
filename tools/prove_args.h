/* prove_args.h - what "prove" was given, and the broker's configuration that it makes of that. */
#ifndef PROVE_ARGS_H
#define PROVE_ARGS_H

#include "prove_broker.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PROVE_OPTIONS_MAX 64
#define PROVE_PATH_LEN 4096

struct prove_args
{
    const char *kafka;
    const char *topic; /* NULL: one is made */
    const char *options[PROVE_OPTIONS_MAX];
    size_t n_options;
    const char *mosquitto;
    const char *plugin;
    uint32_t seconds;
    uint32_t clients;
    uint32_t topics;
    uint32_t rate;
    uint32_t kill_every_s;
    uint32_t seed;
    uint32_t qos;
    bool power;
    bool keep;
    bool json;
};

/* False: wrong use; what was wrong was told to standard error. *a borrows from argv. */
bool prove_args_parse(int argc, char **argv, struct prove_args *a);

/* The plugin's file: the one that was named, or the one beside this program, in a build or
 * installed. False: there is none, which standard error was told. */
bool prove_args_plugin(const struct prove_args *a, char path[PROVE_PATH_LEN]);

/* The library that keeps what the broker syncs (power_preload.c), which lies beside the plugin.
 * False: it does not, which standard error was told. */
bool prove_args_power_library(const char *plugin, char path[PROVE_PATH_LEN]);

/* Write the broker's mosquitto.conf. linger_ms counts if no --option says something of that. False:
 * why was told to standard error. */
bool prove_args_configure(const struct prove_args *a,
                          const struct prove_broker *b,
                          const char *plugin,
                          const char *topic,
                          const char *kafka,
                          uint32_t linger_ms);

#endif
