/* What is told of the settings: the start log's line, and the reference of all options. */
#include "mm_config.h"

#include "mm_config_file.h"
#include "mm_error.h"
#include "mm_headers.h"
#include "mm_options.h"
#include "mm_property.h"
#include "mm_route.h"
#include "mm_template.h"
#include "mm_text.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Write an option's value as a user would; nothing when it is not set. */
typedef void show_fn(const struct mm_config *config,
                     const struct mm_option_def *def,
                     char *dst,
                     size_t dst_len);

static uint64_t load_number(const struct mm_config *config, const struct mm_option_def *def)
{
    const void *field = (const char *)config + def->offset;
    uint8_t n8;
    uint16_t n16;
    uint32_t n32;
    uint64_t n64;
    switch (def->size) {
        case sizeof n8:
            memcpy(&n8, field, sizeof n8);
            return n8;
        case sizeof n16:
            memcpy(&n16, field, sizeof n16);
            return n16;
        case sizeof n32:
            memcpy(&n32, field, sizeof n32);
            return n32;
        default:
            assert(def->size == sizeof n64);
            memcpy(&n64, field, sizeof n64);
            return n64;
    }
}

static const char *load_text(const struct mm_config *config, const struct mm_option_def *def)
{
    const char *text;
    memcpy(&text, (const char *)config + def->offset, sizeof text);
    return text;
}

static void show_number(const struct mm_config *config,
                        const struct mm_option_def *def,
                        char *dst,
                        size_t dst_len)
{
    snprintf(dst, dst_len, "%" PRIu64, load_number(config, def));
}

static void show_size(const struct mm_config *config,
                      const struct mm_option_def *def,
                      char *dst,
                      size_t dst_len)
{
    mm_option_format_size(load_number(config, def), dst, dst_len);
}

static void show_size_or_auto(const struct mm_config *config,
                              const struct mm_option_def *def,
                              char *dst,
                              size_t dst_len)
{
    if (load_number(config, def) == UINT64_MAX) {
        snprintf(dst, dst_len, "auto");
    } else {
        show_size(config, def, dst, dst_len);
    }
}

static void show_word(const struct mm_config *config,
                      const struct mm_option_def *def,
                      char *dst,
                      size_t dst_len)
{
    const struct mm_option_word *word = def->words;
    while (word->name != NULL && word->value != load_number(config, def)) {
        word++;
    }
    snprintf(dst, dst_len, "%s", word->name != NULL ? word->name : "");
}

static void show_text(const struct mm_config *config,
                      const struct mm_option_def *def,
                      char *dst,
                      size_t dst_len)
{
    const char *text = load_text(config, def);
    if (text == NULL) {
        text = "";
    }
    mm_printable(text, strlen(text), dst, dst_len);
}

static void show_field_names(const struct mm_config *config,
                             const struct mm_option_def *def,
                             char *dst,
                             size_t dst_len)
{
    (void)def;
    char topic[MM_PRINTABLE_LEN];
    char content[MM_PRINTABLE_LEN];
    snprintf(
        dst, dst_len, "%s,%s",
        mm_printable(config->json_topic_name, strlen(config->json_topic_name), topic, sizeof topic),
        mm_printable(config->json_content_name, strlen(config->json_content_name), content,
                     sizeof content));
}

static void show_secret(const struct mm_config *config,
                        const struct mm_option_def *def,
                        char *dst,
                        size_t dst_len)
{
    snprintf(dst, dst_len, "%s", load_text(config, def) != NULL ? "***" : "");
}

/* By type; NULL: shown with another option or on its own. */
static show_fn *const shows[MM_N_TYPES] = {
    [MM_TYPE_NUMBER] = show_number,
    [MM_TYPE_SIZE] = show_size,
    [MM_TYPE_SIZE_OR_AUTO] = show_size_or_auto,
    [MM_TYPE_WORD] = show_word,
    [MM_TYPE_FILTERS] = show_text,
    [MM_TYPE_BROKERS] = show_text,
    [MM_TYPE_KAFKA_TOPIC] = show_text,
    [MM_TYPE_ALLOW] = show_text,
    [MM_TYPE_KEY] = show_text,
    [MM_TYPE_HEADERS] = show_text,
    [MM_TYPE_FIELD_NAMES] = show_field_names,
    [MM_TYPE_PATH] = show_text,
    [MM_TYPE_FILE] = show_text,
    [MM_TYPE_ADDRESS] = show_text,
    [MM_TYPE_TEXT] = show_text,
    [MM_TYPE_SECRET] = show_secret,
    [MM_TYPE_URL] = show_text,
};

/* A line under construction. */
struct line
{
    char *dst;
    size_t len;
    size_t used;
};

/* Add " name=value" if it fits whole; else the line ends in " ...". */
static bool add_pair(struct line *line, const char *name, const char *value)
{
    static const char more[] = " ...";
    const char *quote = strchr(value, ' ') != NULL ? "\"" : "";
    char pair[MM_LOG_LINE_LEN];
    snprintf(pair, sizeof pair, "%s%s=%s%s%s", line->used > 0 ? " " : "", name, quote, value,
             quote);
    size_t pair_len = strlen(pair);
    if (line->used + pair_len + sizeof more <= line->len) {
        memcpy(line->dst + line->used, pair, pair_len + 1);
        line->used += pair_len;
        return true;
    }
    snprintf(line->dst + line->used, line->len - line->used, "%s", more);
    return false;
}

/* Add the options that count and are set. */
static bool add_options(struct line *line, const struct mm_config *config)
{
    char value[192];
    for (size_t i = 0; i < MM_N_OPTIONS; i++) {
        const struct mm_option_def *def = &mm_option_defs[i];
        if (def->kind != MM_OPTION_SETTING || shows[def->type] == NULL ||
            (def->on_disk_only && config->spool_dir == NULL)) {
            continue;
        }
        shows[def->type](config, def, value, sizeof value);
        if (def->quiet && strcmp(value, def->fallback) == 0) {
            continue;
        }
        if (value[0] != '\0' && !add_pair(line, def->name, value)) {
            return false;
        }
    }
    return true;
}

/* A route in full, but for what is as the options say. */
static void show_route(const struct mm_config *config,
                       const struct mm_config_route *route,
                       char *dst,
                       size_t dst_len)
{
    const char *key = route->key == NULL ? "none" : mm_template_text(route->key);
    char filters[192];
    char shown_key[192];
    int len = snprintf(
        dst, dst_len, "%s %s",
        mm_printable(route->mqtt_filters, strlen(route->mqtt_filters), filters, sizeof filters),
        mm_template_text(route->kafka_topic));
    size_t used = len < 0 || (size_t)len >= dst_len ? dst_len - 1 : (size_t)len;
    if (!mm_equal_in_any_case(key, config->kafka_key)) {
        len = snprintf(dst + used, dst_len - used, " key=%s",
                       mm_printable(key, strlen(key), shown_key, sizeof shown_key));
        used = len < 0 || (size_t)len >= dst_len - used ? dst_len - 1 : used + (size_t)len;
    }
    if (route->format != config->payload_format) {
        len =
            snprintf(dst + used, dst_len - used, " format=%s", mm_route_format_name(route->format));
        used = len < 0 || (size_t)len >= dst_len - used ? dst_len - 1 : used + (size_t)len;
    }
    if (mm_headers_fields(route->headers) != mm_headers_fields(config->default_route.headers)) {
        const char *headers = mm_headers_text(route->headers);
        (void)snprintf(dst + used, dst_len - used, " headers=%s",
                       mm_printable(headers, strlen(headers), shown_key, sizeof shown_key));
    }
}

static bool add_routes(struct line *line, const struct mm_config *config)
{
    for (size_t i = 0; i < config->n_routes; i++) {
        char value[768];
        show_route(config, &config->routes[i], value, sizeof value);
        if (!add_pair(line, "route", value)) {
            return false;
        }
    }
    return true;
}

void mm_config_describe(const struct mm_config *config, char *dst, size_t dst_len)
{
    struct line line = {.dst = dst, .len = dst_len, .used = 0};
    char value[192];
    if (!add_options(&line, config) || !add_routes(&line, config)) {
        return;
    }
    for (size_t i = 0; i < config->n_properties; i++) {
        const struct mm_config_property *property = &config->properties[i];
        const char *shown = mm_property_is_secret(property->name) ? "***" : property->value;
        char name[192];
        snprintf(name, sizeof name, MM_PROPERTY_PREFIX "%s", property->name);
        mm_printable(shown, strlen(shown), value, sizeof value);
        if (!add_pair(&line, name, value)) {
            return;
        }
    }
}

/* --- what differs --- */

/* Is the field of a type that is shown a text, or else a number? */
static bool is_text(enum mm_option_type type)
{
    return shows[type] == show_text || shows[type] == show_secret;
}

static bool differs(const struct mm_config *a,
                    const struct mm_config *b,
                    const struct mm_option_def *def)
{
    if (!is_text(def->type)) {
        return load_number(a, def) != load_number(b, def);
    }
    const char *text_a = load_text(a, def);
    const char *text_b = load_text(b, def);
    return text_a == NULL || text_b == NULL ? text_a != text_b : strcmp(text_a, text_b) != 0;
}

size_t mm_config_diff_fixed(const struct mm_config *running,
                            const struct mm_config *wanted,
                            char *dst,
                            size_t dst_len)
{
    static const char more[] = " ...";
    size_t n = 0;
    size_t used = 0;
    dst[0] = '\0';
    for (size_t i = 0; i < MM_N_OPTIONS; i++) {
        const struct mm_option_def *def = &mm_option_defs[i];
        if (!def->fixed || !differs(running, wanted, def)) {
            continue;
        }
        char now[MM_PRINTABLE_LEN];
        char then[MM_PRINTABLE_LEN];
        char item[3 * MM_PRINTABLE_LEN];
        shows[def->type](running, def, now, sizeof now);
        shows[def->type](wanted, def, then, sizeof then);
        snprintf(item, sizeof item, "%s%s (%s, wanted %s)", n > 0 ? ", " : "", def->name,
                 now[0] != '\0' ? now : "not set", then[0] != '\0' ? then : "not set");
        n++;
        if (used + strlen(item) + sizeof more <= dst_len) {
            memcpy(dst + used, item, strlen(item) + 1);
            used += strlen(item);
        } else if (used < dst_len) {
            snprintf(dst + used, dst_len - used, "%s", more);
            used = dst_len; /* nothing fits any more */
        }
    }
    return n;
}

static int copy_field(const struct mm_config *from,
                      struct mm_config *to,
                      const struct mm_option_def *def)
{
    if (!is_text(def->type)) {
        memcpy((char *)to + def->offset, (const char *)from + def->offset, def->size);
        return 0;
    }
    const char *text = load_text(from, def);
    char *copy = text == NULL ? NULL : strdup(text);
    if (text != NULL && copy == NULL) {
        return MM_ENOMEM;
    }
    char **field = (char **)(void *)((char *)to + def->offset);
    free(*field);
    *field = copy;
    return 0;
}

int mm_config_keep_fixed(const struct mm_config *running, struct mm_config *wanted)
{
    int err = 0;
    for (size_t i = 0; err == 0 && i < MM_N_OPTIONS; i++) {
        const struct mm_option_def *def = &mm_option_defs[i];
        if (def->fixed && differs(running, wanted, def)) {
            err = copy_field(running, wanted, def);
        }
    }
    return err;
}

/* --- the reference --- */

static void write_option(FILE *stream, const struct mm_option_def *def)
{
    char variable[MM_OPTION_NAME_LEN];
    char expected[MM_LOG_LINE_LEN];
    mm_option_expected(def, expected, sizeof expected);
    fprintf(stream, "| `%s` | `%s` | ", def->name, mm_option_variable(def, variable));
    if (def->fallback != NULL) {
        fprintf(stream, "`%s`", def->fallback);
    } else {
        fputs("not set", stream);
    }
    if (def->fallback_on_disk != NULL) {
        fprintf(stream, ", or `%s` when `spool_dir` is set", def->fallback_on_disk);
    }
    fputs(" | ", stream);
    for (const char *c = expected; *c != '\0'; c++) {
        fprintf(stream, *c == '<' ? "\\%c" : "%c", *c); /* no HTML */
    }
    fprintf(stream, " | %s%s |\n", def->meaning, def->fixed ? " *From a start on.*" : "");
}

static void write_routes(FILE *stream)
{
    fputs(
        "\n## Routes\n\n"
        "A `route` is `<filters> <kafka topic> [key=<key>] [format=<format>] [headers=<headers>]`, "
        "and there may be several:\n\n"
        "    plugin_opt_route plant/+/alarm,office/+/alarm alarms\n"
        "    plugin_opt_route plant/# plant.${topic[1]} format=raw\n"
        "    plugin_opt_kafka_topic_allow plant.*\n\n"
        "- The routes are asked in their order, and the first with a filter that matches says "
        "where a message goes; when none does, it goes to `kafka_topic`.\n"
        "- What the filters of a route match is carried, whether `mqtt_topic` matches it or not.\n"
        "- Filters are written as in `mqtt_topic`, but without a blank inside: `+` stands for a "
        "level that has one.\n"
        "- A message is routed when it is sent, not when it is stored: a new route counts also for "
        "what waits in the spool.\n"
        "- The Kafka topics must not differ in `.` and `_` alone, as `a.b` and `a_b`: Kafka's "
        "metrics have `_` for `.`, so Kafka lets only one of them be made.\n"
        "- In the environment variable `ROUTE` several routes are separated by `|` or by the end "
        "of a line: `ROUTE='plant/# plant | office/# office'`.\n\n"
        "[routes.md](routes.md) has all of it.\n",
        stream);
}

static void write_config_file(FILE *stream)
{
    fprintf(
        stream,
        "\n## The config_file\n\n"
        "The file that `config_file` names has options too, one a line, without `plugin_opt_`:\n\n"
        "    # where to\n"
        "    kafka_broker kafka-1:9092,kafka-2:9092\n"
        "    route plant/# plant\n"
        "    rdkafka.linger.ms 20\n\n"
        "- Every option can stand there but `config_file`. One that stands in the broker's "
        "configuration as well is a mistake unless both have the same value; routes stand in one "
        "of the two. The environment counts for what stands in neither.\n"
        "- Blanks around the name and the value do not count, nor do empty lines and those that "
        "begin with `#`. What follows the name is the value to the end of the line: a `#` in it is "
        "part of it, and so are quotes. There is no way to include another file.\n"
        "- The file is UTF-8 with lines that end in LF or CRLF, and has at most %zu bytes.\n"
        "- With a secret in it, it should be readable for the broker's user alone (`chmod 0640`); "
        "one that everybody can read is told of at start.\n"
        "- The user that the broker runs as (`mosquitto`) reads it.\n"
        "- On SIGHUP it is read again ([live-change.md](live-change.md)). Options that count *from "
        "a start on* keep their value until the broker is started again.\n",
        MM_CONFIG_FILE_MAX);
}

static void write_security(FILE *stream)
{
    fputs(
        "\n## Security\n\n"
        "What the listener of Kafka wants, and what it takes here:\n\n"
        "| Kafka's listener | `kafka_security_protocol` | and |\n"
        "| --- | --- | --- |\n"
        "| TLS | `ssl` | `kafka_tls_ca_file`, unless the system trusts its authority |\n"
        "| TLS that asks for a certificate | `ssl` | also `kafka_tls_cert_file` and "
        "`kafka_tls_key_file` |\n"
        "| SASL over TLS | `sasl_ssl` | as with TLS, and `kafka_sasl_mechanism` with what it needs "
        "|\n"
        "| SASL without TLS | `sasl_plaintext` | `kafka_sasl_mechanism` with what it needs |\n\n"
        "| `kafka_sasl_mechanism` | needs |\n"
        "| --- | --- |\n"
        "| `PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512` | `kafka_sasl_username`, and "
        "`kafka_sasl_password` or `kafka_sasl_password_file` |\n"
        "| `OAUTHBEARER` | `kafka_oauth_token_endpoint_url`, `kafka_oauth_client_id`, and "
        "`kafka_oauth_client_secret` or `kafka_oauth_client_secret_file` |\n"
        "| `GSSAPI` (Kerberos) | `kafka_kerberos_principal` and `kafka_kerberos_keytab`; the "
        "program `kinit` |\n\n"
        "- A setting that has no effect, as `kafka_tls_ca_file` without TLS, is an error: who "
        "wrote it believes that it secures something.\n"
        "- Files have to be there when the broker starts, and its user has to be able to read "
        "them. A file with a secret holds one line; the end of the line does not count, blanks "
        "do.\n"
        "- Passwords and secrets are never shown. Use the `_file` options: a configuration is "
        "read by more people than a file of its own.\n"
        "- What is given here cannot also be given as `rdkafka.<property>`; with "
        "`rdkafka.security.protocol` all of it is left to librdkafka.\n\n"
        "More, with the errors and what to do: [kafka-security.md](kafka-security.md).\n",
        stream);
}

static void write_other_names(FILE *stream)
{
    fputs(
        "\n## Settings of the Go program\n\n"
        "They are accepted as options and variables, so that its settings can stay as they are, "
        "but mean nothing inside the broker. A line of the log lists those that are set.\n\n",
        stream);
    for (size_t i = 0; i < MM_N_OPTIONS; i++) {
        if (mm_option_defs[i].kind == MM_OPTION_IGNORED) {
            fprintf(stream, "- `%s`\n", mm_option_defs[i].name);
        }
    }
    fputc('\n', stream);
    for (size_t i = 0; i < MM_N_OPTIONS; i++) {
        if (mm_option_defs[i].kind == MM_OPTION_ALIAS) {
            fprintf(stream, "`%s`, as the Go program spells it, is taken as `%s`.\n",
                    mm_option_defs[i].name, mm_option_defs[i].stands_for);
        }
    }
}

int mm_config_write_reference(FILE *stream)
{
    fputs(
        "# Options\n\n"
        "Made from the option table in `plugin/mm_options.c`; do not edit.\n\n"
        "An option stands in the broker's configuration as `plugin_opt_<option> <value>`, below "
        "its `plugin` line, or in the file that `config_file` names. Without it the environment "
        "variable counts, unless that is empty; without all of them, the default. An option that "
        "is unknown, given twice (but `route`) or not "
        "valid keeps the broker from starting; all of them are reported. Words are understood in "
        "any case.\n\n"
        "| option | environment | default | values | meaning |\n"
        "| --- | --- | --- | --- | --- |\n",
        stream);
    for (size_t i = 0; i < MM_N_OPTIONS; i++) {
        if (mm_option_defs[i].kind == MM_OPTION_SETTING) {
            write_option(stream, &mm_option_defs[i]);
        }
    }
    write_config_file(stream);
    write_routes(stream);
    write_security(stream);
    write_other_names(stream);
    mm_property_write_reference(stream);
    return fflush(stream) == 0 && !ferror(stream) ? 0 : MM_EINVAL;
}
