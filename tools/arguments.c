#include "arguments.h"

#include "mm_text.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define TIMEOUT_MAX_S 600

bool argument_number(const char *name, const char *text, uint32_t min, uint32_t max, uint32_t *out)
{
    char *end = NULL;
    errno = 0;
    const unsigned long n = strtoul(text, &end, 10);
    if (errno != 0 || !mm_is_digit(text[0]) || *end != '\0' || n < min || n > max) {
        fprintf(stderr,
                "metamorphosis: --%s \"%s\": expected a number from %" PRIu32 " to %" PRIu32 "\n",
                name, text, min, max);
        return false;
    }
    *out = (uint32_t)n;
    return true;
}

bool shared_argument_take(int option, struct shared_arguments *args)
{
    switch (option) {
        case ARGUMENT_CONFIG_FILE:
            args->settings.form = SETTINGS_CONFIG_FILE;
            return true;
        case ARGUMENT_MOSQUITTO_CONF:
            args->settings.form = SETTINGS_MOSQUITTO_CONF;
            return true;
        case ARGUMENT_PLUGIN:
            args->settings.plugin = optarg;
            return true;
        case ARGUMENT_ENV:
            args->settings.environment = true;
            return true;
        case ARGUMENT_CONNECT:
            args->connect = true;
            return true;
        case ARGUMENT_TIMEOUT:
            return argument_number("timeout", optarg, 1, TIMEOUT_MAX_S, &args->timeout_s);
        case ARGUMENT_JSON:
            args->json = true;
            return true;
        default:
            return false; /* getopt has said why */
    }
}
