/* mosquitto_conf.h - a mosquitto.conf as the broker reads it, as far as a plugin is concerned.
 *
 * The rules are those of Mosquitto 2.0 and 2.1 (mosquitto.conf(5)): one "name value" a line with a
 * blank, not a tab, between them; a comment has its '#' in the first column; options of a plugin
 * stand behind its plugin line in the same file; include_dir reads the files of a directory whose
 * names end in ".conf", in the order of their names in small letters. Which options the broker has
 * besides is known by name only; their values are the broker's affair. */
#ifndef MOSQUITTO_CONF_H
#define MOSQUITTO_CONF_H

#include "findings.h"
#include "mm_config.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum plugin_kind {
    PLUGIN_LINE,   /* plugin, auth_plugin */
    PLUGIN_GLOBAL, /* global_plugin, of 2.1 */
    PLUGIN_LOAD,   /* plugin_load, of 2.1 */
};

/* A plugin and its options. */
struct mosquitto_plugin
{
    enum plugin_kind kind;
    struct mm_place place;
    char *path;
    char *name;                /* of plugin_load; else NULL */
    bool in_use;               /* plugin_load: a plugin_use names it */
    bool below_listener;       /* a listener line stands above, in the same file */
    bool others_included;      /* an include_dir that has plugins came after its line */
    bool told_of_include;      /* an option behind that was reported */
    struct mm_option *options; /* in file order */
    struct mm_place *places;   /* of each */
    size_t n_options;
};

/* A value that has a place; file NULL: not given. */
struct mosquitto_value
{
    struct mm_place place;
    char *text;
};

struct mosquitto_conf
{
    char **files; /* that were read; places borrow these */
    size_t n_files;
    struct mosquitto_plugin *plugins;
    size_t n_plugins;
    struct mosquitto_value user;
    struct mosquitto_value per_listener_settings;
    struct mosquitto_value message_size_limit;
    struct mosquitto_value max_packet_size;
};

/* Read a file and those that it includes. What the broker would refuse is added to the findings;
 * reading goes on behind it. *out is NULL when memory is short, which is told too. The caller frees
 * *out with mosquitto_conf_free(). */
void mosquitto_conf_read(const char *path, struct findings *findings, struct mosquitto_conf **out);

/* The same for a text in memory, which includes nothing. */
void mosquitto_conf_parse(const char *text,
                          size_t len,
                          const char *path,
                          struct findings *findings,
                          struct mosquitto_conf **out);

/* Has the text a line that only a mosquitto.conf has, and no config_file of the plugin? */
bool mosquitto_conf_is_one(const char *text, size_t len);

/* Accepts NULL. */
void mosquitto_conf_free(struct mosquitto_conf *conf);

#endif
