/* A parser for each way in which a value is written (mm_config_impl.h). */
#include "mm_config_impl.h"
#include "mm_error.h"
#include "mm_filter.h"
#include "mm_headers.h"
#include "mm_keyfile.h"
#include "mm_options.h"
#include "mm_route.h"
#include "mm_template.h"
#include "mm_text.h"

#include <arpa/inet.h>
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HOST_MAX_LEN 255

static mm_parse_fn parse_number, parse_size, parse_size_or_auto, parse_word, parse_filters,
    parse_kafka_port, parse_brokers, parse_kafka_topic, parse_allow, parse_key, parse_headers,
    parse_route, parse_field_names, parse_path, parse_address, parse_file, parse_text, parse_url;

mm_parse_fn *const mm_config_parsers[MM_N_TYPES] = {
    [MM_TYPE_NUMBER] = parse_number,
    [MM_TYPE_SIZE] = parse_size,
    [MM_TYPE_SIZE_OR_AUTO] = parse_size_or_auto,
    [MM_TYPE_WORD] = parse_word,
    [MM_TYPE_FILTERS] = parse_filters,
    [MM_TYPE_KAFKA_PORT] = parse_kafka_port,
    [MM_TYPE_BROKERS] = parse_brokers,
    [MM_TYPE_KAFKA_TOPIC] = parse_kafka_topic,
    [MM_TYPE_ALLOW] = parse_allow,
    [MM_TYPE_KEY] = parse_key,
    [MM_TYPE_HEADERS] = parse_headers,
    [MM_TYPE_ROUTE] = parse_route,
    [MM_TYPE_FIELD_NAMES] = parse_field_names,
    [MM_TYPE_PATH] = parse_path,
    [MM_TYPE_FILE] = parse_file,
    [MM_TYPE_ADDRESS] = parse_address,
    [MM_TYPE_TEXT] = parse_text,
    [MM_TYPE_SECRET] = parse_text,
    [MM_TYPE_URL] = parse_url,
};

/* The field of a number, a word or a boolean, whatever its width. */
static void store_number(struct mm_config *config, const struct mm_option_def *def, uint64_t number)
{
    void *field = (char *)config + def->offset;
    const uint8_t n8 = (uint8_t)number;
    const uint16_t n16 = (uint16_t)number;
    const uint32_t n32 = (uint32_t)number;
    switch (def->size) {
        case sizeof n8:
            memcpy(field, &n8, sizeof n8);
            break;
        case sizeof n16:
            memcpy(field, &n16, sizeof n16);
            break;
        case sizeof n32:
            memcpy(field, &n32, sizeof n32);
            break;
        default:
            assert(def->size == sizeof number);
            memcpy(field, &number, sizeof number);
    }
}

static int store_text(struct mm_config *config, const struct mm_option_def *def, const char *text)
{
    char *copy = strdup(text);
    if (copy == NULL) {
        return MM_ENOMEM;
    }
    memcpy((char *)config + def->offset, &copy, sizeof copy);
    return 0;
}

/* Read digits up to the first other character, which *end is set to. False: there is no digit, or
 * the number is above max. */
static bool read_digits(const char *text, uint64_t max, const char **end, uint64_t *out)
{
    uint64_t number = 0;
    const char *p = text;
    for (; mm_is_digit(*p); p++) {
        const uint64_t digit = (uint64_t)(*p - '0');
        if (digit > max || number > (max - digit) / 10) {
            return false;
        }
        number = number * 10 + digit;
    }
    *end = p;
    *out = number;
    return p != text;
}

/* The whole text as a number from min to max. */
static bool read_number(const char *text, uint64_t min, uint64_t max, uint64_t *out)
{
    const char *end = NULL;
    return read_digits(text, max, &end, out) && *end == '\0' && *out >= min;
}

static int parse_number(struct mm_parser *p, const struct mm_option_def *def, const char *value)
{
    uint64_t number = 0;
    if (!read_number(value, def->min, def->max, &number)) {
        return MM_EINVAL;
    }
    store_number(p->config, def, number);
    return 0;
}

static int parse_size(struct mm_parser *p, const struct mm_option_def *def, const char *value)
{
    uint64_t number = 0;
    const char *suffix = NULL;
    if (!read_digits(value, def->max, &suffix, &number)) {
        return MM_EINVAL;
    }
    unsigned shift = 0;
    switch (mm_lower(*suffix)) {
        case 'k':
            shift = 10;
            break;
        case 'm':
            shift = 20;
            break;
        case 'g':
            shift = 30;
            break;
        default:
            break;
    }
    if (shift > 0) {
        suffix++;
    }
    if (*suffix != '\0' || number > def->max >> shift || number << shift < def->min) {
        return MM_EINVAL;
    }
    store_number(p->config, def, number << shift);
    return 0;
}

static int parse_size_or_auto(struct mm_parser *p,
                              const struct mm_option_def *def,
                              const char *value)
{
    if (mm_equal_in_any_case(value, "auto")) {
        store_number(p->config, def, UINT64_MAX);
        return 0;
    }
    return parse_size(p, def, value);
}

static int parse_kafka_port(struct mm_parser *p, const struct mm_option_def *def, const char *value)
{
    uint64_t number = 0;
    if (!read_number(value, def->min, def->max, &number)) {
        return MM_EINVAL;
    }
    p->kafka_port = (uint16_t)number;
    return 0;
}

static int parse_word(struct mm_parser *p, const struct mm_option_def *def, const char *value)
{
    const struct mm_option_word *word = def->words;
    while (word->name != NULL && !mm_equal_in_any_case(word->name, value)) {
        word++;
    }
    if (word->name == NULL) {
        return MM_EINVAL;
    }
    store_number(p->config, def, word->value);
    if (word->foreign) {
        const struct mm_option_word *own = def->words;
        while (own->value != word->value) {
            own++;
        }
        mm_config_report(p, MM_LOG_WARN, "%s: \"%s\" is taken as %s", p->subject, word->name,
                         own->name);
    }
    return 0;
}

static int parse_filters(struct mm_parser *p, const struct mm_option_def *def, const char *value)
{
    int rc = mm_filter_set_new(value, &p->config->filters, p->why, sizeof p->why);
    return rc == 0 ? store_text(p->config, def, value) : rc;
}

static bool is_ipv6(const char *text)
{
    struct in6_addr addr;
    return inet_pton(AF_INET6, text, &addr) == 1;
}

static bool is_ipv4(const char *text)
{
    struct in_addr addr;
    return inet_pton(AF_INET, text, &addr) == 1;
}

static bool is_letter(char c)
{
    return mm_lower(c) >= 'a' && mm_lower(c) <= 'z';
}

/* A name or an IPv4 address. */
static bool is_host(const char *text)
{
    size_t len = 0;
    while (is_letter(text[len]) || mm_is_digit(text[len]) ||
           (text[len] != '\0' && strchr("._-", text[len]) != NULL)) {
        len++;
    }
    return text[len] == '\0' && len > 0 && len <= HOST_MAX_LEN;
}

/* One entry of kafka_broker. */
struct broker
{
    const char *host; /* IPv6: without the brackets */
    bool is_ipv6;
    const char *port; /* NULL: none was given */
};

/* Take "[address]" or "[address]:port" apart, in place. Returns what is wrong; NULL: nothing. */
static const char *split_bracketed(char *item, struct broker *out)
{
    char *close = strchr(item, ']');
    if (close == NULL) {
        return "has no ']'";
    }
    *close = '\0';
    *out = (struct broker){.host = item + 1, .is_ipv6 = true, .port = NULL};
    if (close[1] == ':') {
        out->port = close + 2;
    } else if (close[1] != '\0') {
        return "has something behind its ']'";
    }
    return is_ipv6(out->host) ? NULL : "has no IPv6 address in its brackets";
}

/* The same for "host" or "host:port". */
static const char *split_plain(char *item, struct broker *out)
{
    *out = (struct broker){.host = item, .is_ipv6 = false, .port = NULL};
    char *colon = strchr(item, ':');
    if (colon != NULL) {
        /* ::1:9092 is an address with a port and also an address without: only brackets tell. */
        if (strchr(colon + 1, ':') != NULL) {
            return "has more than one ':' (an IPv6 address stands in brackets)";
        }
        *colon = '\0';
        out->port = colon + 1;
    }
    return is_host(item) ? NULL : "has no valid host name";
}

/* Write one entry as librdkafka wants it. Returns what is wrong with it; NULL: nothing. */
static const char *write_broker(char *item, uint16_t default_port, char *dst, size_t dst_len)
{
    if (item[0] == '\0') {
        return "is empty";
    }
    struct broker broker;
    const char *wrong =
        item[0] == '[' ? split_bracketed(item, &broker) : split_plain(item, &broker);
    if (wrong != NULL) {
        return wrong;
    }
    uint64_t port = default_port;
    if (broker.port != NULL && !read_number(broker.port, 1, UINT16_MAX, &port)) {
        return "has a port that is no whole number from 1 to 65535";
    }
    snprintf(dst, dst_len, broker.is_ipv6 ? "[%s]:%" PRIu64 : "%s:%" PRIu64, broker.host, port);
    return NULL;
}

static int parse_brokers(struct mm_parser *p, const struct mm_option_def *def, const char *value)
{
    (void)def;
    static const char longest_addition[] = ":65535,";
    size_t n_items = 1;
    for (const char *c = value; *c != '\0'; c++) {
        n_items += *c == ',';
    }
    const size_t list_len = strlen(value) + n_items * sizeof longest_addition;
    char *items = strdup(value);
    char *list = malloc(list_len);
    if (items == NULL || list == NULL) {
        free(list);
        free(items);
        return MM_ENOMEM;
    }
    const char *wrong = NULL;
    size_t used = 0;
    char *rest = items;
    for (size_t n = 1; wrong == NULL && rest != NULL; n++) {
        if (n > 1) {
            list[used++] = ',';
        }
        wrong =
            write_broker(mm_trim(strsep(&rest, ",")), p->kafka_port, list + used, list_len - used);
        if (wrong != NULL) {
            snprintf(p->why, sizeof p->why, "entry %zu %s", n, wrong);
        } else {
            used += strlen(list + used);
        }
    }
    free(items);
    if (wrong != NULL) {
        free(list);
        return MM_EINVAL;
    }
    p->config->kafka_bootstrap = list;
    return 0;
}

static int parse_kafka_topic(struct mm_parser *p,
                             const struct mm_option_def *def,
                             const char *value)
{
    return mm_route_is_kafka_topic(value) ? store_text(p->config, def, value) : MM_EINVAL;
}

static int parse_allow(struct mm_parser *p, const struct mm_option_def *def, const char *value)
{
    return mm_route_is_allow_list(value) ? store_text(p->config, def, value) : MM_EINVAL;
}

static int parse_key(struct mm_parser *p, const struct mm_option_def *def, const char *value)
{
    struct mm_template *key = NULL;
    int rc = mm_route_parse_key(value, &key, p->why, sizeof p->why);
    mm_template_free(key);
    return rc == 0 ? store_text(p->config, def, value[0] != '\0' ? value : "none") : rc;
}

static int parse_headers(struct mm_parser *p, const struct mm_option_def *def, const char *value)
{
    struct mm_headers *headers = NULL;
    int rc = mm_route_parse_headers(value, MM_PAYLOAD_JSON, &headers, p->why, sizeof p->why);
    mm_headers_free(headers);
    return rc == 0 ? store_text(p->config, def, value) : rc;
}

static int parse_route(struct mm_parser *p, const struct mm_option_def *def, const char *value)
{
    (void)def;
    int rc = mm_route_add(p->config, value, p->why, sizeof p->why);
    if (rc == 0) {
        p->config->routes[p->config->n_routes - 1].place = p->place;
    }
    return rc;
}

/* What is wrong with a text that goes on as it is; NULL: nothing. */
static const char *fault_of_text(const char *value, size_t max_len)
{
    if (value[0] == '\0') {
        return "it is empty";
    }
    if (strlen(value) > max_len) {
        return "it is too long";
    }
    for (const char *c = value; *c != '\0'; c++) {
        if ((unsigned char)*c < 0x20 || *c == 0x7F) {
            return "it has a control character";
        }
    }
    return NULL;
}

/* Whether there is such a place, and whose it is, is found out by who opens it. */
static int parse_path(struct mm_parser *p, const struct mm_option_def *def, const char *value)
{
    const char *wrong = value[0] != '\0' && value[0] != '/'
                            ? "it is relative"
                            : fault_of_text(value, MM_OPTION_PATH_MAX_LEN);
    if (wrong != NULL) {
        snprintf(p->why, sizeof p->why, "%s", wrong);
        return MM_EINVAL;
    }
    return store_text(p->config, def, value);
}

static int parse_file(struct mm_parser *p, const struct mm_option_def *def, const char *value)
{
    int rc = parse_path(p, def, value);
    if (p->source->form_only) {
        return rc;
    }
    if (rc == 0) {
        rc = mm_keyfile_check(value, def->file, p->why, sizeof p->why);
    }
    if (rc == 0 && def->file != MM_KEYFILE_CERTIFICATES && mm_keyfile_is_open_to_all(value)) {
        char shown[MM_PRINTABLE_LEN];
        mm_config_report(p, MM_LOG_WARN,
                         "%s: \"%s\" is open to everybody on this machine: take the rights of "
                         "others away (chmod o=)",
                         p->subject, mm_printable(value, strlen(value), shown, sizeof shown));
    }
    return rc;
}

static int parse_text(struct mm_parser *p, const struct mm_option_def *def, const char *value)
{
    const char *wrong = fault_of_text(value, MM_OPTION_TEXT_MAX_LEN);
    if (wrong != NULL) {
        snprintf(p->why, sizeof p->why, "%s", wrong);
        return MM_EINVAL;
    }
    return store_text(p->config, def, value);
}

static int parse_url(struct mm_parser *p, const struct mm_option_def *def, const char *value)
{
    static const char *const schemes[] = {"http://", "https://"};
    for (size_t i = 0; i < sizeof schemes / sizeof schemes[0]; i++) {
        const size_t len = strlen(schemes[i]);
        if (strncmp(value, schemes[i], len) == 0 && value[len] != '\0' && value[len] != '/' &&
            strchr(value, ' ') == NULL) {
            return parse_text(p, def, value);
        }
    }
    return MM_EINVAL;
}

static int parse_field_names(struct mm_parser *p,
                             const struct mm_option_def *def,
                             const char *value)
{
    (void)def;
    char *names = strdup(value);
    if (names == NULL) {
        return MM_ENOMEM;
    }
    int rc = MM_EINVAL;
    char *rest = names;
    const char *topic = mm_trim(strsep(&rest, ","));
    const char *content = rest != NULL ? mm_trim(strsep(&rest, ",")) : "";
    if (rest != NULL || topic[0] == '\0' || content[0] == '\0' || strcmp(topic, content) == 0 ||
        !mm_utf8_valid(value, strlen(value))) {
        goto out;
    }
    p->config->json_topic_name = strdup(topic);
    p->config->json_content_name = strdup(content);
    rc = p->config->json_topic_name != NULL && p->config->json_content_name != NULL ? 0 : MM_ENOMEM;
out:
    free(names);
    return rc;
}

static int parse_address(struct mm_parser *p, const struct mm_option_def *def, const char *value)
{
    if (mm_equal_in_any_case(value, "all")) {
        return store_text(p->config, def, MM_OPTION_ADDRESS_ALL);
    }
    return is_ipv4(value) || is_ipv6(value) ? store_text(p->config, def, value) : MM_EINVAL;
}
