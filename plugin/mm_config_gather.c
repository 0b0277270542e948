/* The first half of mm_config_new(): finds the values of each option in the broker's configuration,
 * in the config_file and in the environment, and judges the names.
 *
 * An option may stand in one of the two files. In both it is refused, since nobody could tell which
 * of them counts; the same value in both does no harm. Routes count in their order, which two files
 * do not have: they stand in one of them. */
#include "mm_config_file.h"
#include "mm_config_impl.h"
#include "mm_error.h"
#include "mm_property.h"
#include "mm_text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct mm_setting *mm_config_setting(struct mm_parser *p, const struct mm_option_def *def)
{
    return &p->settings[def - mm_option_defs];
}

bool mm_config_is_given(struct mm_parser *p, const struct mm_option_def *def)
{
    return mm_config_setting(p, def)->n_values > 0;
}

/* A copy of a value without the blanks around it, for the caller to free; NULL: no memory. */
static char *copy_trimmed(const char *value)
{
    char *copy = strdup(value != NULL ? value : "");
    if (copy != NULL) {
        const char *trimmed = mm_trim(copy);
        memmove(copy, trimmed, strlen(trimmed) + 1);
    }
    return copy;
}

/* Does a place lie in the config_file? Its path is one string, of the settings. */
static bool is_in_config_file(const struct mm_parser *p, struct mm_place place)
{
    return place.file != NULL && place.file == p->config->config_file;
}

/* Write where the first of two stands, " (line 3 of ...)", if that is known and worth telling. */
static void name_first_place(const struct mm_parser *p,
                             struct mm_place first,
                             char *dst,
                             size_t dst_len)
{
    char shown[MM_CONFIG_PATH_SHOWN_LEN];
    dst[0] = '\0';
    if (first.file != NULL) {
        snprintf(dst, dst_len, " (line %u of \"%s\")", first.line,
                 mm_printable(first.file, strlen(first.file), shown, sizeof shown));
    } else if (is_in_config_file(p, p->place)) {
        snprintf(dst, dst_len, " (in the broker's configuration)");
    }
}

/* Append a value, which becomes the setting's. */
static int add_value(struct mm_setting *setting, char *text, struct mm_place place)
{
    const size_t n = setting->n_values;
    if ((n & (n - 1)) == 0) { /* room for the next power of two */
        struct mm_value *values = realloc(setting->values, (n > 0 ? 2 * n : 1) * sizeof *values);
        if (values == NULL) {
            free(text);
            return MM_ENOMEM;
        }
        setting->values = values;
    }
    setting->values[setting->n_values++] = (struct mm_value){.text = text, .place = place};
    return 0;
}

/* Given twice, without the values, since they may be secret. */
static void report_hidden_twice(struct mm_parser *p, struct mm_place first)
{
    char place[MM_CONFIG_PATH_SHOWN_LEN + 32];
    name_first_place(p, first, place, sizeof place);
    mm_config_report(p, MM_LOG_ERROR, "%s: given twice%s%s", p->subject,
                     place[0] != '\0' ? ", first" : "", place);
}

static void report_twice(struct mm_parser *p,
                         const struct mm_option_def *def,
                         const struct mm_value *first,
                         const char *second)
{
    if (def->type == MM_TYPE_SECRET) {
        report_hidden_twice(p, first->place);
        return;
    }
    char place[MM_CONFIG_PATH_SHOWN_LEN + 32];
    char shown_first[MM_PRINTABLE_LEN];
    char shown_second[MM_PRINTABLE_LEN];
    name_first_place(p, first->place, place, sizeof place);
    mm_config_report(
        p, MM_LOG_ERROR, "%s: given twice, first \"%s\"%s, then \"%s\"", p->subject,
        mm_printable(first->text, strlen(first->text), shown_first, sizeof shown_first), place,
        mm_printable(second, strlen(second), shown_second, sizeof shown_second));
}

static void report_unknown(struct mm_parser *p, const char *name)
{
    char ours[MM_OPTION_NAME_LEN]; /* in the manner of our own names */
    const char *nearest = NULL;
    if (strlen(name) < sizeof ours) {
        size_t i = 0;
        for (; name[i] != '\0'; i++) {
            ours[i] = mm_lower(name[i]);
            if (ours[i] == '-' || ours[i] == '.') {
                ours[i] = '_';
            }
        }
        ours[i] = '\0';
        nearest = mm_option_nearest(ours);
    }
    if (nearest != NULL) {
        mm_config_report(p, MM_LOG_ERROR, "%s: unknown; did you mean %s?", p->subject, nearest);
    } else if (strchr(name, '.') != NULL && mm_property_is_name(name)) {
        char shown[MM_PRINTABLE_LEN];
        mm_config_report(p, MM_LOG_ERROR, "%s: unknown; did you mean " MM_PROPERTY_PREFIX "%s?",
                         p->subject, mm_printable(name, strlen(name), shown, sizeof shown));
    } else {
        mm_config_report(p, MM_LOG_ERROR, "%s: unknown", p->subject);
    }
}

/* A property a second time. */
static void repeat_property(struct mm_parser *p,
                            const struct mm_config_property *first,
                            const char *value)
{
    const bool in_both = is_in_config_file(p, p->place) && !is_in_config_file(p, first->place);
    if (!in_both || strcmp(first->value, value) != 0) {
        report_hidden_twice(p, first->place);
    }
}

/* Append a property; name and value become the settings'. */
static int append_property(struct mm_parser *p, char *name, char *value)
{
    struct mm_config *config = p->config;
    const size_t n = config->n_properties;
    if ((n & (n - 1)) == 0) {
        struct mm_config_property *properties =
            realloc(config->properties, (n > 0 ? 2 * n : 1) * sizeof *properties);
        if (properties == NULL) {
            free(value);
            free(name);
            return MM_ENOMEM;
        }
        config->properties = properties;
    }
    config->properties[config->n_properties++] =
        (struct mm_config_property){.name = name, .value = value, .place = p->place};
    return 0;
}

/* What is wrong with a value, by us or by the Kafka client; its words may have the value in them.
 */
static void judge_property(struct mm_parser *p, const char *name, const char *value)
{
    char why[MM_LOG_LINE_LEN];
    const char *fault = mm_property_fault(name, value);
    const mm_config_judge_fn judge = p->source->judge;
    if (fault == NULL && judge != NULL && !judge(name, value, why, sizeof why)) {
        fault = mm_property_is_secret(name) ? "the Kafka client does not accept this value" : why;
    }
    if (fault != NULL) {
        mm_config_report(p, MM_LOG_ERROR, "%s: %s", p->subject, fault);
    }
}

/* Take one property. No finding shows its value, since that may be a secret. */
static int add_property(struct mm_parser *p, const char *name, const char *given)
{
    if (!mm_property_is_name(name)) {
        mm_config_report(p, MM_LOG_ERROR,
                         "%s: not the name of a property: expected " MM_PROPERTY_PREFIX
                         "<property> of 1 to %d of the characters a-z, 0-9, '.' and '_'",
                         p->subject, MM_PROPERTY_MAX_LEN);
        return 0;
    }
    const char *refusal = mm_property_refusal(name);
    if (refusal != NULL) {
        mm_config_report(p, MM_LOG_ERROR, "%s: cannot be set: %s", p->subject, refusal);
        return 0;
    }
    char *value = copy_trimmed(given);
    if (value == NULL) {
        return MM_ENOMEM;
    }
    const struct mm_config_property *first = mm_config_find_property(p->config, name);
    if (first != NULL) {
        repeat_property(p, first, value);
        free(value);
        return 0;
    }
    char *own_name = strdup(name);
    if (own_name == NULL) {
        free(value);
        return MM_ENOMEM;
    }
    judge_property(p, name, value);
    return append_property(p, own_name, value);
}

/* A value for an option that has one already. Frees text. */
static int repeat_option(struct mm_parser *p, const struct mm_option_def *def, char *text)
{
    struct mm_setting *setting = mm_config_setting(p, def);
    const struct mm_value *first = &setting->values[0];
    const bool in_both = is_in_config_file(p, p->place) && !is_in_config_file(p, first->place);
    if (def->repeatable && !in_both) {
        return add_value(setting, text, p->place);
    }
    if (def->repeatable) {
        char place[MM_CONFIG_PATH_SHOWN_LEN + 32];
        name_first_place(p, first->place, place, sizeof place);
        mm_config_report(p, MM_LOG_ERROR,
                         "%s: others are given already%s: their order counts, so all have to stand "
                         "in one file",
                         p->subject, place);
    } else if (!in_both || strcmp(first->text, text) != 0) {
        report_twice(p, def, first, text);
    }
    free(text);
    return 0;
}

/* With the options of the broker's configuration every name stands behind plugin_opt_ or auth_opt_;
 * in the config_file the prefix is a mistake that is easy to make. */
static bool report_prefix(struct mm_parser *p, const char *name)
{
    static const char *const prefixes[] = {"plugin_opt_", "auth_opt_"};
    for (size_t i = 0; is_in_config_file(p, p->place) && i < sizeof prefixes / sizeof prefixes[0];
         i++) {
        const size_t len = strlen(prefixes[i]);
        if (strncmp(name, prefixes[i], len) == 0) {
            mm_config_report(p, MM_LOG_ERROR,
                             "%s: unknown; in the config_file the names stand without %s",
                             p->subject, prefixes[i]);
            return true;
        }
    }
    return false;
}

static int gather_option(struct mm_parser *p, const struct mm_option *given, struct mm_place place)
{
    char shown[MM_PRINTABLE_LEN];
    p->place = place;
    snprintf(p->subject, sizeof p->subject, "option %s",
             mm_printable(given->name, strlen(given->name), shown, sizeof shown));
    if (strncmp(given->name, MM_PROPERTY_PREFIX, strlen(MM_PROPERTY_PREFIX)) == 0) {
        return add_property(p, given->name + strlen(MM_PROPERTY_PREFIX), given->value);
    }
    const struct mm_option_def *def = mm_option_find(given->name);
    const struct mm_option_def *written = def;
    if (def == NULL) {
        if (!report_prefix(p, given->name)) {
            report_unknown(p, given->name);
        }
        return 0;
    }
    if (def->kind == MM_OPTION_ALIAS) {
        mm_config_report(p, MM_LOG_WARN, "%s: is taken as %s", p->subject, def->stands_for);
        def = mm_option_find(def->stands_for);
    }
    if (def->not_in_file && is_in_config_file(p, place)) {
        mm_config_report(p, MM_LOG_ERROR, "%s: cannot stand in the config_file itself", p->subject);
        return 0;
    }
    char *text = copy_trimmed(given->value);
    if (text == NULL) {
        return MM_ENOMEM;
    }
    struct mm_setting *setting = mm_config_setting(p, def);
    if (setting->n_values > 0) {
        return repeat_option(p, def, text);
    }
    setting->name = written->name; /* the table's, which outlives the file */
    return add_value(setting, text, place);
}

int mm_config_gather_given(struct mm_parser *p)
{
    static const struct mm_place unknown = {NULL, 0};
    const struct mm_config_source *source = p->source;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < source->n_options; i++) {
        rc = gather_option(p, &source->options[i],
                           source->places != NULL ? source->places[i] : unknown);
    }
    return rc;
}

/* In a variable of a repeatable option a '|' is as good as a line's end, which is hard to write
 * there. Empty lines do not count: they are how the text was laid out. */
static int add_parts(struct mm_setting *setting, char *text)
{
    static const struct mm_place unknown = {NULL, 0};
    int rc = 0;
    for (char *rest = text; rc == 0 && rest != NULL;) {
        const char *part = mm_trim(strsep(&rest, "|\n"));
        if (part[0] != '\0') {
            char *own = strdup(part);
            rc = own != NULL ? add_value(setting, own, unknown) : MM_ENOMEM;
        }
    }
    free(text);
    return rc;
}

int mm_config_gather_variable(struct mm_parser *p, const struct mm_option_def *def)
{
    static const struct mm_place unknown = {NULL, 0};
    char name[MM_OPTION_NAME_LEN];
    if (p->source->getenv == NULL || def->kind == MM_OPTION_ALIAS || mm_config_is_given(p, def)) {
        return 0;
    }
    const char *value = p->source->getenv(p->source->getenv_arg, mm_option_variable(def, name));
    if (value == NULL) {
        return 0;
    }
    char *text = copy_trimmed(value);
    if (text == NULL) {
        return MM_ENOMEM;
    }
    if (text[0] == '\0') { /* how containers and unit files unset one */
        free(text);
        return 0;
    }
    struct mm_setting *setting = mm_config_setting(p, def);
    return def->repeatable ? add_parts(setting, text) : add_value(setting, text, unknown);
}

/* --- the config_file ---------------------------------------------------------------------------
 */

/* A secret that everybody on the machine can read. One line of the log is enough. */
static void report_readable_secret(struct mm_parser *p, const struct mm_config_file *file)
{
    if ((file->mode & S_IROTH) == 0) {
        return;
    }
    for (size_t i = 0; i < file->n_options; i++) {
        const char *name = file->options[i].name;
        if (!mm_option_is_secret(name)) {
            continue;
        }
        char shown[MM_PRINTABLE_LEN];
        p->place = file->places[i];
        mm_config_report(p, MM_LOG_WARN,
                         "option %s: a secret in a file that everybody can read (mode %04o); take "
                         "the right away with chmod o-r",
                         mm_printable(name, strlen(name), shown, sizeof shown), file->mode);
        return;
    }
}

int mm_config_gather_file(struct mm_parser *p)
{
    struct mm_config_file *file = NULL;
    int rc = mm_config_file_read(p->config->config_file, p->source->report, p->source->report_arg,
                                 &file, p->why, sizeof p->why);
    if (rc == MM_EIO || rc == MM_ETOOBIG) {
        char shown[MM_CONFIG_PATH_SHOWN_LEN];
        const char *path = p->config->config_file;
        mm_config_report(p, MM_LOG_ERROR, "%s: \"%s\" cannot be read: %s", p->subject,
                         mm_printable(path, strlen(path), shown, sizeof shown), p->why);
        return 0;
    }
    if (rc != 0) {
        return rc;
    }
    p->config->config_file_sum = file->sum;
    p->config->config_file_n = file->n_options;
    p->n_mistakes += file->n_mistakes;
    for (size_t i = 0; rc == 0 && i < file->n_options; i++) {
        rc = gather_option(p, &file->options[i], file->places[i]);
    }
    if (rc == 0) {
        report_readable_secret(p, file);
    }
    mm_config_file_free(file);
    return rc;
}

void mm_config_gather_fini(struct mm_parser *p)
{
    for (size_t i = 0; i < MM_N_OPTIONS; i++) {
        for (size_t k = 0; k < p->settings[i].n_values; k++) {
            char *text = p->settings[i].values[k].text;
            explicit_bzero(text, strlen(text)); /* it may be a secret */
            free(text);
        }
        free(p->settings[i].values);
    }
}
