/* settings.h - the plugin's settings as a file on this machine has them: a mosquitto.conf with the
 * files that it includes, or a config_file of the plugin. Parsed by the plugin's own parser. */
#ifndef SETTINGS_H
#define SETTINGS_H

#include "findings.h"
#include "mm_config.h"
#include "mm_config_file.h"
#include "mosquitto_conf.h"

#include <stdbool.h>
#include <stddef.h>

enum settings_form {
    SETTINGS_ANY, /* told by what stands in it */
    SETTINGS_MOSQUITTO_CONF,
    SETTINGS_CONFIG_FILE,
};

struct settings_options
{
    enum settings_form form;
    const char *plugin; /* the path or file name of the plugin line; NULL: *metamorphosis* */
    bool environment;   /* the environment of this process is the broker's */
    bool form_only;     /* do not look at the files that options name */
};

struct settings
{
    struct mosquitto_conf *conf;           /* NULL: the file is a config_file */
    const struct mosquitto_plugin *plugin; /* ours in conf; NULL: there is none */
    struct mm_config *config;              /* NULL: there are mistakes */
    struct mm_config *rest; /* with mistakes: what the lines without one make; NULL: nothing */
    char *path;             /* absolute */

    /* What was given, in the broker's configuration and then in the config_file. */
    struct mm_config_file *file; /* NULL: there is none that can be read */
    struct mm_option *options;
    struct mm_place *places;
    size_t n_options;
};

/* The getenv of a struct mm_config_source: this process's. arg is not looked at. */
const char *settings_variable(void *arg, const char *name);

/* Load a file. Every mistake is added to the findings. False: the file could not be read, which is
 * among them too. settings_free() takes what *out owns, in any case. */
bool settings_load(const char *path,
                   const struct settings_options *opts,
                   struct findings *findings,
                   struct settings *out);

/* The settings, or as much of them as can be had. NULL: nothing. */
const struct mm_config *settings_best(const struct settings *s);

/* Where an option stands; without a file when it is not given in one. */
struct mm_place settings_place(const struct settings *s, const char *option);

void settings_free(struct settings *s);

#endif
