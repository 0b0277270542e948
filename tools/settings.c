#include "settings.h"

#include "mm_error.h"
#include "mm_kafka.h"
#include "mm_text.h"
#include "text_file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

const char *settings_variable(void *arg, const char *name)
{
    (void)arg;
    return getenv(name);
}

/* Is a mistake known of this line? */
static bool is_wrong(const struct findings *findings, struct mm_place place)
{
    if (place.file != NULL && findings->path != NULL && strcmp(place.file, findings->path) == 0) {
        place.file = findings->as_given;
    }
    for (size_t i = 0; i < findings->n; i++) {
        const struct found *found = &findings->items[i];
        if (found->level == MM_LOG_ERROR && found->place.file != NULL && place.file != NULL &&
            found->place.line == place.line && strcmp(found->place.file, place.file) == 0) {
            return true;
        }
    }
    return false;
}

static bool is_config_file(const struct mm_option *option)
{
    return option->name != NULL && strcmp(option->name, "config_file") == 0;
}

/* List all options, those of the config_file too. The file's form was judged by the parser. */
static bool list_options(const char *as_given, struct settings *s)
{
    const size_t n_given = s->plugin != NULL ? s->plugin->n_options : 0;
    const char *file = s->plugin == NULL ? as_given : NULL;
    char why[MM_LOG_LINE_LEN];
    for (size_t i = 0; i < n_given; i++) {
        file = is_config_file(&s->plugin->options[i]) ? s->plugin->options[i].value : file;
    }
    if (file != NULL) {
        (void)mm_config_file_read(file, NULL, NULL, &s->file, why, sizeof why);
    }
    const size_t n_in_file = s->file != NULL ? s->file->n_options : 0;
    s->options = calloc(n_given + n_in_file + 1, sizeof *s->options);
    s->places = calloc(n_given + n_in_file + 1, sizeof *s->places);
    if (s->options == NULL || s->places == NULL) {
        return false;
    }
    for (size_t i = 0; i < n_given; i++) {
        s->options[s->n_options] = s->plugin->options[i];
        s->places[s->n_options++] = s->plugin->places[i];
    }
    for (size_t i = 0; i < n_in_file; i++) {
        s->options[s->n_options] = s->file->options[i];
        s->places[s->n_options++] = s->file->places[i];
    }
    return true;
}

/* Settings of those lines that have no mistake. */
static void make_rest(const struct findings *findings,
                      struct mm_config_source source,
                      struct settings *s)
{
    struct mm_option *options = calloc(s->n_options + 1, sizeof *options);
    struct mm_place *places = calloc(s->n_options + 1, sizeof *places);
    source.n_options = 0;
    for (size_t i = 0; options != NULL && places != NULL && i < s->n_options; i++) {
        if (!is_wrong(findings, s->places[i]) && !is_config_file(&s->options[i])) {
            options[source.n_options] = s->options[i];
            places[source.n_options++] = s->places[i];
        }
    }
    source.options = options;
    source.places = places;
    source.report = NULL;
    (void)mm_config_new(&source, &s->rest); /* NULL then, which is no news */
    free(places);
    free(options);
}

static void make(const char *as_given,
                 const struct settings_options *opts,
                 struct findings *findings,
                 struct settings *s)
{
    const struct mm_option file = {.name = "config_file", .value = s->path};
    const struct mm_config_source source = {
        .options = s->plugin != NULL ? s->plugin->options : &file,
        .places = s->plugin != NULL ? s->plugin->places : NULL,
        .n_options = s->plugin != NULL ? s->plugin->n_options : 1,
        .getenv = opts->environment ? settings_variable : NULL,
        .report = findings_report,
        .report_arg = findings,
        .judge = mm_kafka_judge,
        .form_only = opts->form_only,
    };
    const int err = mm_config_new(&source, &s->config);
    if (err == MM_ENOMEM || !list_options(as_given, s)) {
        findings_add(findings, MM_LOG_ERROR, findings_nowhere, "%s", mm_strerror(MM_ENOMEM));
    } else if (err != 0) {
        make_rest(findings, source, s);
    }
}

const struct mm_config *settings_best(const struct settings *s)
{
    return s->config != NULL ? s->config : s->rest;
}

struct mm_place settings_place(const struct settings *s, const char *option)
{
    for (size_t i = 0; i < s->n_options; i++) {
        if (strcmp(s->options[i].name, option) == 0) {
            return s->places[i];
        }
    }
    return findings_nowhere;
}

/* The last part of a path. */
static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}

static bool is_ours(const struct mosquitto_plugin *plugin, const char *wanted)
{
    return wanted == NULL
               ? strstr(base_name(plugin->path), "metamorphosis") != NULL
               : strcmp(plugin->path, wanted) == 0 || strcmp(base_name(plugin->path), wanted) == 0;
}

/* Find the plugin among those of the broker; a second one is a mistake. */
static void find_plugin(const char *as_given,
                        const struct settings_options *opts,
                        struct findings *findings,
                        struct settings *s)
{
    for (size_t i = 0; i < s->conf->n_plugins; i++) {
        const struct mosquitto_plugin *plugin = &s->conf->plugins[i];
        if (!is_ours(plugin, opts->plugin)) {
            continue;
        }
        if (s->plugin == NULL) {
            s->plugin = plugin;
            continue;
        }
        char shown[MM_LOG_LINE_LEN / 2];
        const char *first = s->plugin->place.file;
        findings_add(findings, MM_LOG_ERROR, plugin->place,
                     "the plugin is loaded twice, first in line %u of \"%s\": it refuses that, "
                     "since every message would be in Kafka twice",
                     s->plugin->place.line,
                     mm_printable(first, strlen(first), shown, sizeof shown));
    }
    if (s->plugin == NULL) {
        findings_add(findings, MM_LOG_ERROR, (struct mm_place){as_given, 0},
                     "no plugin line loads the plugin: expected plugin <directory>/%s",
                     opts->plugin != NULL ? base_name(opts->plugin) : "mosquitto_metamorphosis.so");
    }
}

bool settings_load(const char *path,
                   const struct settings_options *opts,
                   struct findings *findings,
                   struct settings *out)
{
    *out = (struct settings){0};
    size_t len = 0;
    const char *why = "";
    char *text = text_file_read(path, &len, &why);
    out->path = realpath(path, NULL);
    if (text == NULL || out->path == NULL) {
        findings_add(findings, MM_LOG_ERROR, (struct mm_place){path, 0}, "cannot be read: %s",
                     text == NULL ? why : strerror(errno));
        free(text);
        return false;
    }
    findings_rename(findings, out->path, path);
    const bool is_broker_s = opts->form == SETTINGS_MOSQUITTO_CONF ||
                             (opts->form == SETTINGS_ANY && mosquitto_conf_is_one(text, len));
    free(text);
    if (is_broker_s) {
        mosquitto_conf_read(path, findings, &out->conf);
        if (out->conf != NULL) {
            find_plugin(path, opts, findings, out);
        }
    }
    if (!is_broker_s || out->plugin != NULL) {
        make(path, opts, findings, out);
    }
    return true;
}

void settings_free(struct settings *s)
{
    mm_config_free(s->rest);
    mm_config_free(s->config);
    mm_config_file_free(s->file);
    free(s->options);
    free(s->places);
    mosquitto_conf_free(s->conf);
    free(s->path);
}
