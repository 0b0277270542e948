#include "mm_route.h"

#include "mm_config.h"
#include "mm_error.h"
#include "mm_filter.h"
#include "mm_headers.h"
#include "mm_lanes.h"
#include "mm_template.h"
#include "mm_text.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KAFKA_TOPIC_MAX_LEN 249

const struct mm_config_route *mm_route_find(const struct mm_config *config,
                                            const char *topic,
                                            size_t topic_len)
{
    if (config->n_routes == 0) {
        return &config->default_route;
    }
    size_t i = mm_filter_set_first(config->filters, topic, topic_len);
    return i < config->n_routes ? &config->routes[i] : &config->default_route;
}

uint32_t mm_route_n_lanes(const struct mm_config *config)
{
    return 1 + (uint32_t)config->n_route_topics;
}

static bool has_derived(const struct mm_config *config)
{
    for (size_t i = 0; i < config->n_routes; i++) {
        if (config->routes[i].lane == MM_ROUTE_LANE_DERIVED) {
            return true;
        }
    }
    return false;
}

uint32_t mm_route_n_possible(const struct mm_config *config)
{
    uint32_t n = mm_route_n_lanes(config);
    return has_derived(config) && config->kafka_topics_max > n ? config->kafka_topics_max : n;
}

const char *mm_route_kafka_topic(const struct mm_config *config, uint32_t lane)
{
    assert(lane < mm_route_n_lanes(config));
    return lane == 0 ? config->kafka_topic : config->route_topics[lane - 1];
}

/* --- Kafka topics --- */

static const char letters[] =
    "abcdefghijklmnopqrstuvwxyz"
    "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    "0123456789._-";

bool mm_route_is_kafka_topic(const char *name)
{
    const size_t len = strspn(name, letters);
    return name[len] == '\0' && len > 0 && len <= KAFKA_TOPIC_MAX_LEN && strcmp(name, ".") != 0 &&
           strcmp(name, "..") != 0;
}

static bool is_dot_or_bar(char c)
{
    return c == '.' || c == '_';
}

bool mm_route_topics_collide(const char *a, const char *b)
{
    bool equal = true;
    for (; *a != '\0' && *b != '\0'; a++, b++) {
        if (*a == *b) {
            continue;
        }
        if (!is_dot_or_bar(*a) || !is_dot_or_bar(*b)) {
            return false;
        }
        equal = false;
    }
    return *a == *b && !equal;
}

/* --- what a template may make of a message --- */

/* The pattern that begins here, and where the next one does; NULL: it was the last. */
static const char *next_pattern(const char *list, char *dst, size_t dst_len)
{
    const char *end = strchrnul(list, ',');
    size_t len = (size_t)(end - list);
    len = len < dst_len ? len : dst_len - 1;
    memcpy(dst, list, len);
    dst[len] = '\0';
    const char *trimmed = mm_trim(dst);
    memmove(dst, trimmed, strlen(trimmed) + 1);
    return *end == '\0' ? NULL : end + 1;
}

/* Longer than any that could match. */
#define PATTERN_LEN 512

bool mm_route_is_allow_list(const char *list)
{
    char pattern[PATTERN_LEN];
    while (list != NULL) {
        list = next_pattern(list, pattern, sizeof pattern);
        size_t len = strlen(pattern);
        if (len == 0 || len == sizeof pattern - 1) {
            return false;
        }
        for (const char *c = pattern; *c != '\0'; c++) {
            if (*c != '*' && strchr(letters, *c) == NULL) {
                return false;
            }
        }
    }
    return true;
}

bool mm_route_allows(const struct mm_config *config, const char *kafka_topic)
{
    if (!mm_route_is_kafka_topic(kafka_topic)) {
        return false;
    }
    bool internal = strncmp(kafka_topic, "__", 2) == 0;
    char pattern[PATTERN_LEN];
    for (const char *list = config->kafka_topic_allow; list != NULL;) {
        list = next_pattern(list, pattern, sizeof pattern);
        if (mm_glob(pattern, kafka_topic, strlen(kafka_topic)) &&
            (!internal || strncmp(pattern, "__", 2) == 0)) {
            return true;
        }
    }
    return false;
}

bool mm_route_is_reserved(const struct mm_config *config, const char *kafka_topic)
{
    const char *const others[] = {config->dead_letter_topic, config->kafka_test_topic};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        if (others[i] != NULL && (strcmp(others[i], kafka_topic) == 0 ||
                                  mm_route_topics_collide(others[i], kafka_topic))) {
            return true;
        }
    }
    return false;
}

/* --- words --- */

static const char *const format_names[] = {
    [MM_PAYLOAD_JSON] = "json",
    [MM_PAYLOAD_RAW] = "raw",
    [MM_PAYLOAD_BASE64] = "base64",
};

/* The format of a word. False: it is none. */
static bool parse_format(const char *text, enum mm_payload_format *out)
{
    for (size_t i = 0; i < sizeof format_names / sizeof format_names[0]; i++) {
        if (mm_equal_in_any_case(text, format_names[i])) {
            *out = (enum mm_payload_format)i;
            return true;
        }
    }
    return false;
}

const char *mm_route_format_name(enum mm_payload_format format)
{
    return format_names[format];
}

int mm_route_parse_key(const char *text, struct mm_template **out, char *errstr, size_t errstr_len)
{
    *out = NULL;
    if (text[0] == '\0' || mm_equal_in_any_case(text, "none")) {
        return 0;
    }
    return mm_template_new(text, out, errstr, errstr_len);
}

int mm_route_parse_headers(const char *text,
                           enum mm_payload_format format,
                           struct mm_headers **out,
                           char *errstr,
                           size_t errstr_len)
{
    if (mm_equal_in_any_case(text, "auto")) {
        text = format == MM_PAYLOAD_JSON ? "none" : "all";
    }
    return mm_headers_new(text, out, errstr, errstr_len);
}

/* --- adding a route --- */

static bool is_separator(char c)
{
    return c == ',' || c == ';';
}

static char *skip_blanks(char *text)
{
    while (mm_is_blank(*text)) {
        text++;
    }
    return text;
}

/* Cut a word off, in place. Returns what follows it and its blanks. */
static char *cut_word(char *word)
{
    char *end = word;
    while (*end != '\0' && !mm_is_blank(*end)) {
        end++;
    }
    char *next = skip_blanks(end);
    *end = '\0';
    return next;
}

/* The same for a list of filters, in which blanks may stand beside a separator. */
static char *cut_filters(char *list)
{
    char *end = list;
    for (char *c = list; *c != '\0'; c = skip_blanks(c)) {
        if (c > list && !is_separator(*c) && !is_separator(end[-1])) {
            *end = '\0';
            return c;
        }
        while (*c != '\0' && !mm_is_blank(*c)) {
            c++;
        }
        end = c;
    }
    *end = '\0';
    return end;
}

/* The lane of a Kafka topic, which may be a new one. Errors: MM_EFULL, MM_ENOMEM. */
static int find_lane(struct mm_config *config, const char *kafka_topic, uint32_t *lane)
{
    if (config->kafka_topic != NULL && strcmp(config->kafka_topic, kafka_topic) == 0) {
        *lane = 0;
        return 0;
    }
    const size_t n = config->n_route_topics;
    for (size_t i = 0; i < n; i++) {
        if (strcmp(config->route_topics[i], kafka_topic) == 0) {
            *lane = (uint32_t)i + 1;
            return 0;
        }
    }
    if (mm_route_n_lanes(config) == MM_LANES_MAX) {
        return MM_EFULL;
    }
    char **topics = realloc(config->route_topics, (n + 1) * sizeof *topics);
    if (topics == NULL) {
        return MM_ENOMEM;
    }
    config->route_topics = topics;
    topics[n] = strdup(kafka_topic);
    if (topics[n] == NULL) {
        return MM_ENOMEM;
    }
    config->n_route_topics++;
    *lane = (uint32_t)n + 1;
    return 0;
}

/* A route as it is written. */
struct words
{
    const char *filters;
    const char *kafka_topic;
    const char *key; /* NULL: not given, as the two below */
    const char *format;
    const char *headers;
};

/* Take "key=..." and the like. Returns what is wrong; NULL: nothing. */
static const char *take_word(struct words *w, const char *word)
{
    static const char *const names[] = {"key=", "format=", "headers="};
    const char **const values[] = {&w->key, &w->format, &w->headers};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strncmp(word, names[i], strlen(names[i])) == 0) {
            if (*values[i] != NULL) {
                return "is given twice";
            }
            *values[i] = word + strlen(names[i]);
            return NULL;
        }
    }
    return "is too much";
}

/* Take a route apart, in place. Errors: MM_EINVAL. */
static int split(char *text, struct words *w, char *errstr, size_t errstr_len)
{
    char *filters = skip_blanks(text);
    char *kafka_topic = cut_filters(filters);
    char *rest = cut_word(kafka_topic);
    *w = (struct words){.filters = filters, .kafka_topic = kafka_topic};
    if (filters[0] == '\0') {
        snprintf(errstr, errstr_len, "it is empty");
        return MM_EINVAL;
    }
    if (kafka_topic[0] == '\0') {
        snprintf(errstr, errstr_len, "it has no Kafka topic");
        return MM_EINVAL;
    }
    while (rest[0] != '\0') {
        const char *word = rest;
        rest = cut_word(rest);
        const char *wrong = take_word(w, word);
        if (wrong != NULL) {
            char shown[MM_PRINTABLE_LEN];
            snprintf(errstr, errstr_len, "\"%s\" %s",
                     mm_printable(word, strlen(word), shown, sizeof shown), wrong);
            return MM_EINVAL;
        }
    }
    return 0;
}

/* Say what an error is about. */
static int fail_in(const char *what, const char *value, const char *why, char *dst, size_t dst_len)
{
    char shown[MM_PRINTABLE_LEN];
    snprintf(dst, dst_len, "%s \"%s\": %s", what,
             mm_printable(value, strlen(value), shown, sizeof shown), why);
    return MM_EINVAL;
}

/* The template of the Kafka topic. */
static int parse_topic(struct mm_config_route *route,
                       const char *text,
                       char *errstr,
                       size_t errstr_len)
{
    char why[256] = "";
    int err = mm_template_new(text, &route->kafka_topic, why, sizeof why);
    if (err != 0) {
        return err == MM_EINVAL ? fail_in("Kafka topic", text, why, errstr, errstr_len) : err;
    }
    if (mm_template_is_constant(route->kafka_topic)) {
        if (!mm_route_is_kafka_topic(text)) {
            char shown[MM_PRINTABLE_LEN];
            snprintf(errstr, errstr_len, "\"%s\" is no Kafka topic (" MM_ROUTE_KAFKA_TOPIC_RULE ")",
                     mm_printable(text, strlen(text), shown, sizeof shown));
            return MM_EINVAL;
        }
        return 0;
    }
    route->lane = MM_ROUTE_LANE_DERIVED;
    size_t place = mm_template_foreign(route->kafka_topic, letters);
    if (place > 0) {
        snprintf(why, sizeof why,
                 "character %zu: no Kafka topic has it; there may be a-z, A-Z, 0-9, '.', '_' and "
                 "'-', and variables",
                 place);
        return fail_in("Kafka topic", text, why, errstr, errstr_len);
    }
    return 0;
}

/* Key, format and headers: those given, or as the options say. */
static int parse_rest(struct mm_config_route *route,
                      const struct mm_config *config,
                      const struct words *w,
                      char *errstr,
                      size_t errstr_len)
{
    char why[512] = "";
    const char *key = w->key != NULL ? w->key : config->kafka_key;
    const char *headers = w->headers != NULL ? w->headers : config->kafka_headers;
    route->format = config->payload_format;
    if (w->key != NULL && w->key[0] == '\0') {
        return fail_in("key", w->key, "it is empty; expected " MM_ROUTE_KEY_RULE, errstr,
                       errstr_len);
    }
    if (w->format != NULL && !parse_format(w->format, &route->format)) {
        return fail_in("format", w->format, "expected json, raw or base64", errstr, errstr_len);
    }
    key = key != NULL ? key : "${topic}";
    int err = mm_route_parse_key(key, &route->key, why, sizeof why);
    if (err != 0) {
        return err == MM_EINVAL ? fail_in("key", key, why, errstr, errstr_len) : err;
    }
    headers = headers != NULL ? headers : "auto";
    err = mm_route_parse_headers(headers, route->format, &route->headers, why, sizeof why);
    if (err == MM_EINVAL) {
        snprintf(errstr, errstr_len, "headers: %s; expected " MM_HEADERS_RULE, why);
    }
    return err;
}

static void free_route(struct mm_config_route *route)
{
    mm_headers_free(route->headers);
    mm_template_free(route->key);
    mm_template_free(route->kafka_topic);
    free(route->mqtt_filters);
}

/* Are the filters good? */
static int check_filters(const char *list, char *errstr, size_t errstr_len)
{
    struct mm_filter_set *filters = NULL;
    int err = mm_filter_set_new(list, &filters, errstr, errstr_len);
    mm_filter_set_free(filters);
    return err;
}

static int make_route(struct mm_config_route *route,
                      const struct mm_config *config,
                      const struct words *w,
                      char *errstr,
                      size_t errstr_len)
{
    *route = (struct mm_config_route){.mqtt_filters = strdup(w->filters)};
    int err = route->mqtt_filters == NULL ? MM_ENOMEM : 0;
    if (err == 0) {
        err = parse_topic(route, w->kafka_topic, errstr, errstr_len);
    }
    if (err == 0) {
        err = check_filters(w->filters, errstr, errstr_len);
    }
    if (err == 0) {
        err = parse_rest(route, config, w, errstr, errstr_len);
    }
    return err;
}

/* Append a route that is good. */
static int append(struct mm_config *config,
                  const struct mm_config_route *route,
                  char *errstr,
                  size_t errstr_len)
{
    struct mm_config_route *routes =
        realloc(config->routes, (config->n_routes + 1) * sizeof *routes);
    if (routes == NULL) {
        return MM_ENOMEM;
    }
    config->routes = routes;
    routes[config->n_routes] = *route;
    if (route->lane != MM_ROUTE_LANE_DERIVED) {
        int err =
            find_lane(config, mm_template_text(route->kafka_topic), &routes[config->n_routes].lane);
        if (err == MM_EFULL) {
            snprintf(errstr, errstr_len, "kafka_topic and the routes before name %d Kafka topics",
                     MM_LANES_MAX);
            return MM_EINVAL;
        }
        if (err != 0) {
            return err;
        }
    }
    config->n_routes++;
    return 0;
}

int mm_route_add(struct mm_config *config, const char *text, char *errstr, size_t errstr_len)
{
    char *copy = strdup(text);
    if (copy == NULL) {
        return MM_ENOMEM;
    }
    struct words words;
    struct mm_config_route route = {.mqtt_filters = NULL};
    int err = split(copy, &words, errstr, errstr_len);
    if (err == 0) {
        err = make_route(&route, config, &words, errstr, errstr_len);
    }
    if (err == 0) {
        err = append(config, &route, errstr, errstr_len);
    }
    if (err != 0) {
        free_route(&route);
    }
    free(copy);
    return err;
}

void mm_route_free_all(struct mm_config *config)
{
    for (size_t i = 0; i < config->n_routes; i++) {
        free_route(&config->routes[i]);
    }
    free(config->routes);
    config->routes = NULL;
    config->n_routes = 0;
    for (size_t i = 0; i < config->n_route_topics; i++) {
        free(config->route_topics[i]);
    }
    free(config->route_topics);
    config->route_topics = NULL;
    config->n_route_topics = 0;
    free_route(&config->default_route);
    config->default_route = (struct mm_config_route){.mqtt_filters = NULL};
}

/* --- all routes together --- */

/* A message is carried when mqtt_topic or a route matches it, and the first route that does
 * decides: one set of filters for both. */
static int unite_filters(struct mm_config *config)
{
    const char **lists = malloc((config->n_routes + 1) * sizeof *lists);
    if (lists == NULL) {
        return MM_ENOMEM;
    }
    size_t n = 0;
    for (; n < config->n_routes; n++) {
        lists[n] = config->routes[n].mqtt_filters;
    }
    if (config->mqtt_topic != NULL) {
        lists[n++] = config->mqtt_topic;
    }
    char errstr[256];
    mm_filter_set_free(config->filters);
    config->filters = NULL;
    int err = mm_filter_set_new_lists(lists, n, &config->filters, errstr, sizeof errstr);
    assert(err != MM_EINVAL); /* each part was taken before */
    free(lists);
    return err;
}

/* What of a message a route needs that is not in every record. */
static unsigned needs(const struct mm_config_route *route)
{
    static const unsigned in_record =
        MM_HEADERS_TOPIC | MM_HEADERS_QOS | MM_HEADERS_RETAIN | MM_HEADERS_TIME;
    const struct mm_template *const templates[] = {route->key, route->kafka_topic};
    unsigned fields = mm_headers_fields(route->headers) & ~in_record;
    for (size_t i = 0; i < sizeof templates / sizeof templates[0]; i++) {
        if (templates[i] != NULL && mm_template_has_client_id(templates[i])) {
            fields |= MM_HEADERS_CLIENT_ID;
        }
        if (templates[i] != NULL && mm_template_has_username(templates[i])) {
            fields |= MM_HEADERS_USERNAME;
        }
    }
    return fields;
}

static bool tells_wait(const struct mm_config_route *route)
{
    return (mm_headers_fields(route->headers) & MM_HEADERS_TIME) != 0;
}

/* What the routes need together. */
static void set_needs(struct mm_config *config)
{
    config->stored = needs(&config->default_route);
    config->tells_wait = tells_wait(&config->default_route);
    for (size_t i = 0; i < config->n_routes; i++) {
        config->stored |= needs(&config->routes[i]);
        config->tells_wait = config->tells_wait || tells_wait(&config->routes[i]);
    }
    if (config->spool_all_properties) {
        config->stored |= MM_HEADERS_CLIENT_ID | MM_HEADERS_USERNAME | MM_HEADERS_CONTENT_TYPE |
                          MM_HEADERS_RESPONSE_TOPIC | MM_HEADERS_CORRELATION_DATA |
                          MM_HEADERS_PAYLOAD_FORMAT | MM_HEADERS_USER;
    }
}

int mm_route_finish(struct mm_config *config)
{
    static const struct words nothing = {.filters = NULL};
    char errstr[512];
    free_route(&config->default_route);
    config->default_route = (struct mm_config_route){.mqtt_filters = NULL};
    int err = parse_rest(&config->default_route, config, &nothing, errstr, sizeof errstr);
    assert(err != MM_EINVAL); /* the options were checked */
    if (err == 0) {
        err = unite_filters(config);
    }
    if (err == 0) {
        set_needs(config);
    }
    return err;
}

char *mm_route_describe(const struct mm_config *config)
{
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    if (out == NULL) {
        return NULL;
    }
    for (size_t i = 0; i < config->n_routes; i++) {
        const struct mm_config_route *route = &config->routes[i];
        fprintf(out, "%s %s\n", route->mqtt_filters, mm_template_text(route->kafka_topic));
    }
    fprintf(out, "* %s\n", config->kafka_topic);
    if (has_derived(config)) {
        fprintf(out, "allow %s\nmax %u\n", config->kafka_topic_allow, config->kafka_topics_max);
        fprintf(out, "not %s %s\n",
                config->dead_letter_topic == NULL ? "-" : config->dead_letter_topic,
                config->kafka_test_topic == NULL ? "-" : config->kafka_test_topic);
    }
    bool failed = ferror(out) != 0;
    if (fclose(out) != 0 || failed) {
        free(text);
        return NULL;
    }
    return text;
}
