/* arguments.h - arguments that several commands take. */
#ifndef ARGUMENTS_H
#define ARGUMENTS_H

#include "settings.h"

#include <stdbool.h>
#include <stdint.h>

/* Of the commands that look at settings in a file and may ask Kafka. */
struct shared_arguments
{
    struct settings_options settings;
    bool connect;
    uint32_t timeout_s; /* to wait for Kafka */
    bool json;
};

/* Above those of any command's own. */
enum {
    ARGUMENT_CONFIG_FILE = 1000,
    ARGUMENT_MOSQUITTO_CONF,
    ARGUMENT_PLUGIN,
    ARGUMENT_ENV,
    ARGUMENT_CONNECT,
    ARGUMENT_TIMEOUT,
    ARGUMENT_JSON,
};

/* For the table of getopt_long(). */
#define ARGUMENT(name, value, number) \
    {                                 \
        name, value, NULL, number     \
    }
#define SHARED_ARGUMENTS                                                  \
    ARGUMENT("config-file", no_argument, ARGUMENT_CONFIG_FILE),           \
        ARGUMENT("mosquitto-conf", no_argument, ARGUMENT_MOSQUITTO_CONF), \
        ARGUMENT("plugin", required_argument, ARGUMENT_PLUGIN),           \
        ARGUMENT("env", no_argument, ARGUMENT_ENV),                       \
        ARGUMENT("connect", no_argument, ARGUMENT_CONNECT),               \
        ARGUMENT("timeout", required_argument, ARGUMENT_TIMEOUT),         \
        ARGUMENT("json", no_argument, ARGUMENT_JSON)

#define SHARED_ARGUMENTS_DEFAULT ((struct shared_arguments){.timeout_s = 10})

/* Take what getopt_long() has found, and optarg. False: it is none of these, or its value is bad,
 * which standard error was told. args borrows optarg. */
bool shared_argument_take(int option, struct shared_arguments *args);

/* Read a whole number. name: of the argument. False: standard error was told what was expected, and
 * *out is as it was. */
bool argument_number(const char *name, const char *text, uint32_t min, uint32_t max, uint32_t *out);

#endif
