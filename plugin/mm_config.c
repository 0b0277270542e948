/* The table of options (mm_options.h) makes the parser and the checks.
 *
 * Parsing has two steps. Gathering (mm_config_gather.c) finds each option's value: the broker's,
 * that of the config_file, the environment's or the default; names are judged there. Applying hands
 * the value to the option's parser, in the order of the table; what options say together is judged
 * at the end. A mistake is reported and does not stop any of this; only missing memory does. */
#include "mm_config.h"

#include "mm_config_impl.h"
#include "mm_error.h"
#include "mm_filter.h"
#include "mm_format.h"
#include "mm_lanes.h"
#include "mm_options.h"
#include "mm_property.h"
#include "mm_route.h"
#include "mm_template.h"
#include "mm_text.h"

#include <assert.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

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
    const struct mm_finding finding = {.level = level, .place = p->place, .text = line};
    p->source->report(p->source->report_arg, &finding);
}

void mm_config_subject(struct mm_parser *p, const struct mm_option_def *def)
{
    const struct mm_setting *setting = mm_config_setting(p, def);
    char variable[MM_OPTION_NAME_LEN];
    p->place = (struct mm_place){NULL, 0};
    if (setting->n_values > 0) {
        p->place = setting->values[0].place;
    }
    if (setting->n_values > 0 && setting->name == NULL) {
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
    if (def->type == MM_TYPE_SECRET) {
        value = "***";
    }
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

static const char *fallback_of(struct mm_parser *p, const struct mm_option_def *def)
{
    return p->config->spool_dir != NULL && def->fallback_on_disk != NULL ? def->fallback_on_disk
                                                                         : def->fallback;
}

static int apply(struct mm_parser *p, const struct mm_option_def *def)
{
    const struct mm_setting *setting = mm_config_setting(p, def);
    const char *fallback = fallback_of(p, def);
    if (def->kind != MM_OPTION_SETTING) {
        return 0;
    }
    mm_config_subject(p, def);
    if (setting->n_values == 0) {
        return fallback != NULL ? apply_value(p, def, fallback) : 0;
    }
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < setting->n_values; i++) {
        p->place = setting->values[i].place;
        rc = apply_value(p, def, setting->values[i].text);
    }
    return rc;
}

/* As the Go program's releases 0.3.x did, where KAFKA_TEST_TOPIC alone asks for the message. */
static void apply_test_topic(struct mm_parser *p)
{
    const bool wished = mm_config_is_given(p, mm_option_find("kafka_test_message"));
    if (!wished && p->config->kafka_test_topic != NULL) {
        p->config->kafka_test_message = true;
    }
}

/* Report a Kafka topic, that of p->subject, if it cannot be beside one of n others. */
static void check_collisions(struct mm_parser *p,
                             const char *topic,
                             const char *const *topics,
                             size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (mm_route_topics_collide(topic, topics[i])) {
            char shown[MM_PRINTABLE_LEN];
            char shown_other[MM_PRINTABLE_LEN];
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

/* Where the first route of a lane stands. */
static struct mm_place place_of_lane(const struct mm_config *config, uint32_t lane)
{
    size_t i = 0;
    while (config->routes[i].lane != lane) {
        i++;
    }
    return config->routes[i].place;
}

/* No publisher may choose a Kafka topic that the operator has not thought of. */
static void check_templates(struct mm_parser *p)
{
    const struct mm_config *config = p->config;
    mm_config_subject(p, mm_option_find("route"));
    for (size_t i = 0; i < config->n_routes; i++) {
        const struct mm_config_route *route = &config->routes[i];
        /* An allow list that was not valid has been told of. */
        if (route->lane == MM_ROUTE_LANE_DERIVED && config->kafka_topic_allow == NULL &&
            !mm_config_is_given(p, mm_option_find("kafka_topic_allow"))) {
            const char *text = mm_template_text(route->kafka_topic);
            char shown[MM_PRINTABLE_LEN];
            p->place = route->place;
            mm_config_report(p, MM_LOG_ERROR,
                             "%s: the Kafka topic \"%s\" is made of what publishers send: "
                             "kafka_topic_allow has to say which Kafka topics that may be",
                             p->subject, mm_printable(text, strlen(text), shown, sizeof shown));
        }
    }
}

/* The Kafka topics of all options beside each other. Those that were not valid are not there. */
static void check_kafka_topics(struct mm_parser *p)
{
    const struct mm_config *config = p->config;
    const char *topics[MM_LANES_MAX + 1];
    size_t n = 0;
    if (config->kafka_topic != NULL) {
        topics[n++] = config->kafka_topic;
    }
    for (size_t i = 0; i < config->n_route_topics; i++) {
        mm_config_subject(p, mm_option_find("route"));
        p->place = place_of_lane(config, (uint32_t)i + 1);
        check_collisions(p, config->route_topics[i], topics, n);
        topics[n++] = config->route_topics[i];
    }
    if (n > config->kafka_topics_max && config->kafka_topics_max > 0) {
        mm_config_subject(p, mm_option_find("kafka_topics_max"));
        mm_config_report(p, MM_LOG_ERROR,
                         "%s: %u is too few: kafka_topic and the routes name %zu Kafka topics",
                         p->subject, config->kafka_topics_max, n);
    }
    check_templates(p);
    const char *dead = config->dead_letter_topic;
    for (size_t i = 0; dead != NULL && i < n; i++) {
        if (strcmp(topics[i], dead) == 0) {
            char shown[MM_PRINTABLE_LEN];
            mm_config_subject(p, mm_option_find("dead_letter_topic"));
            mm_config_report(
                p, MM_LOG_ERROR,
                "%s: \"%s\" is not valid: %s goes there; expected a Kafka topic of its own",
                p->subject, mm_printable(dead, strlen(dead), shown, sizeof shown),
                topics[i] == config->kafka_topic ? "kafka_topic" : "a route");
        }
    }
    if (dead != NULL) {
        mm_config_subject(p, mm_option_find("dead_letter_topic"));
        check_collisions(p, dead, topics, n);
        topics[n++] = dead;
    }
    if (config->kafka_test_topic != NULL) {
        mm_config_subject(p, mm_option_find("kafka_test_topic"));
        check_collisions(p, config->kafka_test_topic, topics, n);
    }
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
        if (!wanted(&mm_option_defs[i]) || setting->n_values == 0) {
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
    const bool in_memory = !mm_config_is_given(p, mm_option_find("spool_dir"));
    p->place = (struct mm_place){NULL, 0};
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

/* Find all values; the config_file has to be known before it can be read. */
static int gather(struct mm_parser *p)
{
    const struct mm_option_def *config_file = mm_option_find("config_file");
    int rc = mm_config_gather_given(p);
    if (rc == 0) {
        rc = mm_config_gather_variable(p, config_file);
    }
    if (rc == 0) {
        rc = apply(p, config_file);
    }
    if (rc == 0 && p->config->config_file != NULL) {
        rc = mm_config_gather_file(p);
    }
    for (size_t i = 0; rc == 0 && i < MM_N_OPTIONS; i++) {
        if (&mm_option_defs[i] != config_file) {
            rc = mm_config_gather_variable(p, &mm_option_defs[i]);
        }
    }
    return rc;
}

/* What is made of several values. Those that were not valid are not there. */
static int finish(struct mm_config *config)
{
    int rc = mm_route_finish(config);
    if (rc == 0 && config->json_topic_name != NULL) {
        rc = mm_format_new(config->json_topic_name, config->json_content_name, &config->format);
    }
    return rc;
}

static int apply_all(struct mm_parser *p)
{
    const struct mm_option_def *config_file = mm_option_find("config_file");
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < MM_N_OPTIONS; i++) {
        if (&mm_option_defs[i] != config_file) {
            rc = apply(p, &mm_option_defs[i]);
        }
    }
    return rc == 0 ? finish(p->config) : rc;
}

int mm_config_new(const struct mm_config_source *source, struct mm_config **out)
{
    *out = NULL;
    struct mm_parser p = {.source = source, .config = calloc(1, sizeof *p.config)};
    if (p.config == NULL) {
        return MM_ENOMEM;
    }
    int rc = gather(&p);
    if (rc == 0) {
        rc = apply_all(&p);
    }
    if (rc == 0) {
        apply_test_topic(&p);
        check_kafka_topics(&p);
        mm_config_check_properties(&p);
        mm_config_check_security(&p);
        report_useless(&p);
        rc = p.n_mistakes > 0 ? MM_EINVAL : 0;
    }
    mm_config_gather_fini(&p);
    if (rc != 0) {
        mm_config_free(p.config);
        return rc;
    }
    *out = p.config;
    return 0;
}

static void free_secret(char *secret)
{
    if (secret != NULL) {
        explicit_bzero(secret, strlen(secret));
        free(secret);
    }
}

static void free_security(struct mm_security *s)
{
    free(s->tls_ca_file);
    free(s->tls_cert_file);
    free(s->tls_key_file);
    free_secret(s->tls_key_password);
    free(s->tls_key_password_file);
    free(s->username);
    free_secret(s->password);
    free(s->password_file);
    free(s->oauth_token_endpoint_url);
    free(s->oauth_client_id);
    free_secret(s->oauth_client_secret);
    free(s->oauth_client_secret_file);
    free(s->oauth_scope);
    free(s->oauth_extensions);
    free(s->kerberos_service_name);
    free(s->kerberos_principal);
    free(s->kerberos_keytab);
}

void mm_config_free(struct mm_config *config)
{
    if (config == NULL) {
        return;
    }
    for (size_t i = 0; i < config->n_properties; i++) {
        free(config->properties[i].name);
        free_secret(config->properties[i].value);
    }
    free(config->properties);
    free_security(&config->security);
    mm_route_free_all(config);
    mm_format_free(config->format);
    free(config->kafka_topic_allow);
    free(config->kafka_headers);
    free(config->kafka_key);
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
    free(config->config_file);
    free(config);
}

const char *mm_finding_line(const struct mm_finding *finding, char *dst, size_t dst_len)
{
    char shown[MM_CONFIG_PATH_SHOWN_LEN];
    const char *file = finding->place.file;
    if (file == NULL) {
        snprintf(dst, dst_len, "%s", finding->text);
    } else {
        snprintf(dst, dst_len, "config_file \"%s\" line %u: %s",
                 mm_printable(file, strlen(file), shown, sizeof shown), finding->place.line,
                 finding->text);
    }
    return dst;
}

bool mm_config_refuse_by_code(const struct mm_config *config, bool broker_2_1, int mqtt_version)
{
    return config->refuse_v5 == MM_REFUSE_REASON_CODE && broker_2_1 && mqtt_version == 5;
}
