/* The table of options (mm_options.h) makes the parser and the checks.
 *
 * Parsing has two steps. Gathering finds each option's value: the broker's, the environment's or
 * the default; names are judged here. Applying hands the value to the option's parser, in the order
 * of the table; what options say together is judged at the end. A mistake is reported and does not
 * stop any of this; only missing memory does. */
#include "mm_config.h"

#include "mm_config_impl.h"
#include "mm_error.h"
#include "mm_filter.h"
#include "mm_options.h"
#include "mm_property.h"
#include "mm_route.h"
#include "mm_text.h"

#include <assert.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static void report_unknown(struct mm_parser *p, const char *name);
static int add_property(struct mm_parser *p, const char *name, const char *value);

void mm_config_report(struct mm_parser *p, enum mm_log_level level, const char *fmt, ...)
{
    if (level == MM_LOG_ERROR) {
        p->n_mistakes++;
    }
    if (p->source->report == NULL) {
        return;
    }
    char text[2 * MM_LOG_LINE_LEN] = "";
    char line[MM_LOG_LINE_LEN];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    mm_printable(text, strlen(text), line, sizeof line);
    p->source->report(p->source->report_arg, level, line);
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

static struct mm_setting *setting_of(struct mm_parser *p, const struct mm_option_def *def)
{
    return &p->settings[def - mm_option_defs];
}

static void report_twice(struct mm_parser *p, const char *first, const char *second)
{
    char shown_first[MM_PRINTABLE_LEN];
    char shown_second[MM_PRINTABLE_LEN];
    mm_config_report(p, MM_LOG_ERROR, "%s: given twice, first \"%s\", then \"%s\"", p->subject,
                     mm_printable(first, strlen(first), shown_first, sizeof shown_first),
                     mm_printable(second, strlen(second), shown_second, sizeof shown_second));
}

/* Add a value of a repeatable option. Frees it. */
static int add_line(struct mm_setting *setting, char *value)
{
    const size_t len = strlen(setting->value);
    const size_t value_len = strlen(value);
    char *lines = malloc(len + 1 + value_len + 1);
    if (lines == NULL) {
        free(value);
        return MM_ENOMEM;
    }
    memcpy(lines, setting->value, len);
    lines[len] = '\n';
    memcpy(lines + len + 1, value, value_len + 1);
    free(value);
    free(setting->value);
    setting->value = lines;
    return 0;
}

static int gather_option(struct mm_parser *p, const struct mm_option *given)
{
    char shown[MM_PRINTABLE_LEN];
    snprintf(p->subject, sizeof p->subject, "option %s",
             mm_printable(given->name, strlen(given->name), shown, sizeof shown));
    if (strncmp(given->name, MM_PROPERTY_PREFIX, strlen(MM_PROPERTY_PREFIX)) == 0) {
        return add_property(p, given->name + strlen(MM_PROPERTY_PREFIX), given->value);
    }
    const struct mm_option_def *def = mm_option_find(given->name);
    if (def == NULL) {
        report_unknown(p, given->name);
        return 0;
    }
    if (def->kind == MM_OPTION_ALIAS) {
        mm_config_report(p, MM_LOG_WARN, "%s: is taken as %s", p->subject, def->stands_for);
        def = mm_option_find(def->stands_for);
    }
    char *value = copy_trimmed(given->value);
    if (value == NULL) {
        return MM_ENOMEM;
    }
    struct mm_setting *setting = setting_of(p, def);
    if (setting->value != NULL && def->repeatable) {
        return add_line(setting, value);
    }
    if (setting->value != NULL) {
        report_twice(p, setting->value, value);
        free(value);
        return 0;
    }
    *setting = (struct mm_setting){.value = value, .name = given->name};
    return 0;
}

/* A variable that is empty counts as not set: that is how containers and unit files unset one. In
 * a variable of a repeatable option a '|' is as good as a line's end, which is hard to write there.
 */
static int gather_variable(struct mm_parser *p, const struct mm_option_def *def)
{
    char name[MM_OPTION_NAME_LEN];
    const char *text = p->source->getenv(p->source->getenv_arg, mm_option_variable(def, name));
    if (text == NULL) {
        return 0;
    }
    char *value = copy_trimmed(text);
    if (value == NULL) {
        return MM_ENOMEM;
    }
    if (value[0] == '\0') {
        free(value);
        return 0;
    }
    for (char *bar = value; def->repeatable && (bar = strchr(bar, '|')) != NULL;) {
        *bar = '\n';
    }
    setting_of(p, def)->value = value;
    return 0;
}

static int gather(struct mm_parser *p)
{
    /* At most every option is a property; one more, since calloc(0) may give NULL. */
    p->config->properties = calloc(p->source->n_options + 1, sizeof *p->config->properties);
    if (p->config->properties == NULL) {
        return MM_ENOMEM;
    }
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < p->source->n_options; i++) {
        rc = gather_option(p, &p->source->options[i]);
    }
    for (size_t i = 0; rc == 0 && p->source->getenv != NULL && i < MM_N_OPTIONS; i++) {
        if (mm_option_defs[i].kind != MM_OPTION_ALIAS && p->settings[i].value == NULL) {
            rc = gather_variable(p, &mm_option_defs[i]);
        }
    }
    return rc;
}

/* "option kafka_port" or "environment variable KAFKA_PORT" */
static void name_subject(struct mm_parser *p, const struct mm_option_def *def)
{
    const struct mm_setting *setting = setting_of(p, def);
    char variable[MM_OPTION_NAME_LEN];
    if (setting->value != NULL && setting->name == NULL) {
        snprintf(p->subject, sizeof p->subject, "environment variable %s",
                 mm_option_variable(def, variable));
    } else {
        snprintf(p->subject, sizeof p->subject, "option %s",
                 setting->name != NULL ? setting->name : def->name);
    }
}

static void report_invalid(struct mm_parser *p, const struct mm_option_def *def, const char *value)
{
    char shown[MM_PRINTABLE_LEN];
    char expected[MM_LOG_LINE_LEN];
    mm_option_expected(def, expected, sizeof expected);
    mm_config_report(p, MM_LOG_ERROR, "%s: \"%s\" is not valid: %s%sexpected %s", p->subject,
                     mm_printable(value, strlen(value), shown, sizeof shown), p->why,
                     p->why[0] != '\0' ? "; " : "", expected);
}

static int apply_value(struct mm_parser *p, const struct mm_option_def *def, const char *value)
{
    p->why[0] = '\0';
    int rc = mm_config_parsers[def->type](p, def, value);
    if (rc == MM_EINVAL) {
        report_invalid(p, def, value);
        rc = 0;
    }
    return rc;
}

/* A repeatable option's values, one a line. Empty lines of a variable do not count: they are how
 * its text was laid out. */
static int apply_lines(struct mm_parser *p, const struct mm_option_def *def, const char *lines)
{
    char *copy = strdup(lines);
    if (copy == NULL) {
        return MM_ENOMEM;
    }
    const bool from_variable = setting_of(p, def)->name == NULL;
    int rc = 0;
    for (char *rest = copy; rc == 0 && rest != NULL;) {
        const char *value = mm_trim(strsep(&rest, "\n"));
        if (value[0] != '\0' || !from_variable) {
            rc = apply_value(p, def, value);
        }
    }
    free(copy);
    return rc;
}

static const char *fallback_of(struct mm_parser *p, const struct mm_option_def *def)
{
    return p->config->spool_dir != NULL && def->fallback_on_disk != NULL ? def->fallback_on_disk
                                                                         : def->fallback;
}

static int apply(struct mm_parser *p, const struct mm_option_def *def)
{
    const char *value = setting_of(p, def)->value;
    if (value == NULL) {
        value = fallback_of(p, def);
    }
    if (value == NULL || def->kind != MM_OPTION_SETTING) {
        return 0;
    }
    name_subject(p, def);
    return def->repeatable ? apply_lines(p, def, value) : apply_value(p, def, value);
}

/* As the Go program's releases 0.3.x did, where KAFKA_TEST_TOPIC alone asks for the message. */
static void apply_test_topic(struct mm_parser *p)
{
    const struct mm_setting *wish = setting_of(p, mm_option_find("kafka_test_message"));
    if (wish->value == NULL && p->config->kafka_test_topic != NULL) {
        p->config->kafka_test_message = true;
    }
}

/* Report a Kafka topic that cannot be beside one of the first n. */
static void check_collisions(struct mm_parser *p,
                             const struct mm_option_def *def,
                             const char *topic,
                             const char *const *topics,
                             size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (mm_route_topics_collide(topic, topics[i])) {
            char shown[MM_PRINTABLE_LEN];
            char shown_other[MM_PRINTABLE_LEN];
            name_subject(p, def);
            mm_config_report(
                p, MM_LOG_ERROR,
                "%s: the Kafka topics \"%s\" and \"%s\" cannot both be: Kafka's metrics have '_' "
                "for '.', so that the two names are one there",
                p->subject,
                mm_printable(topics[i], strlen(topics[i]), shown_other, sizeof shown_other),
                mm_printable(topic, strlen(topic), shown, sizeof shown));
            return;
        }
    }
}

/* The Kafka topics of all options beside each other. Those that were not valid are not there. */
static void check_kafka_topics(struct mm_parser *p)
{
    const struct mm_config *config = p->config;
    const char *topics[MM_ROUTE_LANES_MAX + 1];
    size_t n = 0;
    if (config->kafka_topic != NULL) {
        topics[n++] = config->kafka_topic;
    }
    for (size_t i = 0; i < config->n_route_topics; i++) {
        check_collisions(p, mm_option_find("route"), config->route_topics[i], topics, n);
        topics[n++] = config->route_topics[i];
    }
    const char *dead = config->dead_letter_topic;
    for (size_t i = 0; dead != NULL && i < n; i++) {
        if (strcmp(topics[i], dead) == 0) {
            char shown[MM_PRINTABLE_LEN];
            name_subject(p, mm_option_find("dead_letter_topic"));
            mm_config_report(
                p, MM_LOG_ERROR,
                "%s: \"%s\" is not valid: %s goes there; expected a Kafka topic of its own",
                p->subject, mm_printable(dead, strlen(dead), shown, sizeof shown),
                topics[i] == config->kafka_topic ? "kafka_topic" : "a route");
        }
    }
    if (dead != NULL) {
        check_collisions(p, mm_option_find("dead_letter_topic"), dead, topics, n);
        topics[n++] = dead;
    }
    if (config->kafka_test_topic != NULL) {
        check_collisions(p, mm_option_find("kafka_test_topic"), config->kafka_test_topic, topics,
                         n);
    }
}

/* A message is carried when mqtt_topic or a route matches it: one set of filters for the broker
 * thread, which asks for each message. */
static int unite_filters(struct mm_parser *p)
{
    struct mm_config *config = p->config;
    if (config->n_routes == 0 || config->mqtt_topic == NULL) {
        return 0;
    }
    size_t len = strlen(config->mqtt_topic) + 1;
    for (size_t i = 0; i < config->n_routes; i++) {
        len += 1 + strlen(config->routes[i].mqtt_filters);
    }
    char *list = malloc(len);
    if (list == NULL) {
        return MM_ENOMEM;
    }
    char *end = stpcpy(list, config->mqtt_topic);
    for (size_t i = 0; i < config->n_routes; i++) {
        *end++ = ',';
        end = stpcpy(end, config->routes[i].mqtt_filters);
    }
    mm_filter_set_free(config->filters);
    config->filters = NULL;
    int rc = mm_filter_set_new(list, &config->filters, p->why, sizeof p->why);
    assert(rc != MM_EINVAL); /* each part was taken before */
    free(list);
    return rc;
}

/* Write the names of the options that are given and wanted, as they are given. False: there is
 * none. */
static bool list_given(struct mm_parser *p,
                       bool (*wanted)(const struct mm_option_def *def),
                       char *dst,
                       size_t dst_len)
{
    size_t used = 0;
    for (size_t i = 0; i < MM_N_OPTIONS; i++) {
        const struct mm_setting *setting = &p->settings[i];
        if (!wanted(&mm_option_defs[i]) || setting->value == NULL) {
            continue;
        }
        char variable[MM_OPTION_NAME_LEN];
        int len =
            snprintf(dst + used, dst_len - used, "%s%s", used > 0 ? ", " : "",
                     setting->name != NULL ? setting->name
                                           : mm_option_variable(&mm_option_defs[i], variable));
        used += len > 0 ? (size_t)len : 0;
    }
    return used > 0;
}

static bool is_ignored(const struct mm_option_def *def)
{
    return def->kind == MM_OPTION_IGNORED;
}

static bool is_on_disk_only(const struct mm_option_def *def)
{
    return def->on_disk_only;
}

/* What is given and changes nothing. */
static void report_useless(struct mm_parser *p)
{
    char list[MM_N_OPTIONS * MM_OPTION_NAME_LEN];
    const bool in_memory = setting_of(p, mm_option_find("spool_dir"))->value == NULL;
    if (in_memory && list_given(p, is_on_disk_only, list, sizeof list)) {
        mm_config_report(
            p, MM_LOG_WARN,
            "these settings have no effect on a spool in memory; only spool_dir makes one on "
            "disk: %s",
            list);
    }
    if (list_given(p, is_ignored, list, sizeof list)) {
        mm_config_report(
            p, MM_LOG_INFO,
            "these settings have no meaning for a plugin inside the broker and are ignored: %s",
            list);
    }
}

int mm_config_new(const struct mm_config_source *source, struct mm_config **out)
{
    *out = NULL;
    struct mm_parser p = {.source = source, .config = calloc(1, sizeof *p.config)};
    if (p.config == NULL) {
        return MM_ENOMEM;
    }
    int rc = gather(&p);
    for (size_t i = 0; rc == 0 && i < MM_N_OPTIONS; i++) {
        rc = apply(&p, &mm_option_defs[i]);
    }
    if (rc == 0) {
        rc = unite_filters(&p);
    }
    if (rc == 0) {
        apply_test_topic(&p);
        check_kafka_topics(&p);
        report_useless(&p);
        rc = p.n_mistakes > 0 ? MM_EINVAL : 0;
    }
    for (size_t i = 0; i < MM_N_OPTIONS; i++) {
        free(p.settings[i].value);
    }
    if (rc != 0) {
        mm_config_free(p.config);
        return rc;
    }
    *out = p.config;
    return 0;
}

void mm_config_free(struct mm_config *config)
{
    if (config == NULL) {
        return;
    }
    for (size_t i = 0; i < config->n_properties; i++) {
        free(config->properties[i].name);
        free(config->properties[i].value);
    }
    free(config->properties);
    mm_route_free_all(config);
    free(config->health_address);
    free(config->dead_letter_topic);
    free(config->spool_dir);
    free(config->json_content_name);
    free(config->json_topic_name);
    free(config->kafka_test_topic);
    free(config->kafka_topic);
    free(config->kafka_bootstrap);
    mm_filter_set_free(config->filters);
    free(config->mqtt_topic);
    free(config);
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

static bool has_property(const struct mm_config *config, const char *name)
{
    for (size_t i = 0; i < config->n_properties; i++) {
        if (strcmp(config->properties[i].name, name) == 0) {
            return true;
        }
    }
    return false;
}

/* Take one property. No finding shows its value, since that may be a secret. */
static int add_property(struct mm_parser *p, const char *name, const char *value)
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
    if (has_property(p->config, name)) {
        mm_config_report(p, MM_LOG_ERROR, "%s: given twice", p->subject);
        return 0;
    }
    struct mm_config_property *property = &p->config->properties[p->config->n_properties++];
    property->name = strdup(name);
    property->value = copy_trimmed(value);
    if (property->name == NULL || property->value == NULL) {
        return MM_ENOMEM;
    }
    const char *fault = mm_property_fault(name, property->value);
    if (fault != NULL) {
        mm_config_report(p, MM_LOG_ERROR, "%s: %s", p->subject, fault);
    }
    return 0;
}

bool mm_config_refuse_by_code(const struct mm_config *config, bool broker_2_1, int mqtt_version)
{
    return config->refuse_v5 == MM_REFUSE_REASON_CODE && broker_2_1 && mqtt_version == 5;
}
