#include "mm_route.h"

#include "mm_config.h"
#include "mm_error.h"
#include "mm_filter.h"
#include "mm_lanes.h"
#include "mm_text.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KAFKA_TOPIC_MAX_LEN 249

uint32_t mm_route_lane(const struct mm_config *config, const char *topic, size_t topic_len)
{
    for (size_t i = 0; i < config->n_routes; i++) {
        const struct mm_config_route *route = &config->routes[i];
        if (mm_filter_set_match(route->filters, topic, topic_len)) {
            return route->lane;
        }
    }
    return 0;
}

uint32_t mm_route_n_lanes(const struct mm_config *config)
{
    return 1 + (uint32_t)config->n_route_topics;
}

uint32_t mm_route_n_possible(const struct mm_config *config)
{
    return mm_route_n_lanes(config);
}

const char *mm_route_kafka_topic(const struct mm_config *config, uint32_t lane)
{
    assert(lane < mm_route_n_lanes(config));
    return lane == 0 ? config->kafka_topic : config->route_topics[lane - 1];
}

/* --- Kafka topics --- */

bool mm_route_is_kafka_topic(const char *name)
{
    static const char letters[] =
        "abcdefghijklmnopqrstuvwxyz"
        "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
        "0123456789._-";
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

/* Append a route of a list and a Kafka topic that are good. */
static int append(struct mm_config *config,
                  const char *list,
                  struct mm_filter_set *filters,
                  const char *kafka_topic)
{
    struct mm_config_route *routes =
        realloc(config->routes, (config->n_routes + 1) * sizeof *routes);
    if (routes == NULL) {
        return MM_ENOMEM;
    }
    config->routes = routes;
    struct mm_config_route *route = &routes[config->n_routes];
    *route = (struct mm_config_route){.filters = filters, .mqtt_filters = strdup(list)};
    if (route->mqtt_filters == NULL) {
        return MM_ENOMEM;
    }
    int rc = find_lane(config, kafka_topic, &route->lane);
    if (rc != 0) {
        free(route->mqtt_filters);
        return rc;
    }
    config->n_routes++;
    return 0;
}

/* What is wrong with the words behind the filters. False: nothing. */
static bool find_fault(const char *kafka_topic, const char *rest, char *errstr, size_t errstr_len)
{
    char shown[MM_PRINTABLE_LEN];
    if (kafka_topic[0] == '\0') {
        snprintf(errstr, errstr_len, "it has no Kafka topic");
    } else if (rest[0] != '\0') {
        snprintf(errstr, errstr_len, "\"%s\" is too much",
                 mm_printable(rest, strlen(rest), shown, sizeof shown));
    } else if (!mm_route_is_kafka_topic(kafka_topic)) {
        snprintf(errstr, errstr_len, "\"%s\" is no Kafka topic (" MM_ROUTE_KAFKA_TOPIC_RULE ")",
                 mm_printable(kafka_topic, strlen(kafka_topic), shown, sizeof shown));
    } else {
        return false;
    }
    return true;
}

int mm_route_add(struct mm_config *config, const char *text, char *errstr, size_t errstr_len)
{
    char *copy = strdup(text);
    if (copy == NULL) {
        return MM_ENOMEM;
    }
    struct mm_filter_set *filters = NULL;
    char *list = skip_blanks(copy);
    char *kafka_topic = cut_filters(list);
    const char *rest = cut_word(kafka_topic);
    int rc = MM_EINVAL;
    if (list[0] == '\0') {
        snprintf(errstr, errstr_len, "it is empty");
    } else if (!find_fault(kafka_topic, rest, errstr, errstr_len)) {
        rc = mm_filter_set_new(list, &filters, errstr, errstr_len);
    }
    if (rc == 0) {
        rc = append(config, list, filters, kafka_topic);
        if (rc == MM_EFULL) {
            snprintf(errstr, errstr_len, "kafka_topic and the routes before name %d Kafka topics",
                     MM_LANES_MAX);
            rc = MM_EINVAL;
        }
        if (rc != 0) {
            mm_filter_set_free(filters);
        }
    }
    free(copy);
    return rc;
}

void mm_route_free_all(struct mm_config *config)
{
    for (size_t i = 0; i < config->n_routes; i++) {
        mm_filter_set_free(config->routes[i].filters);
        free(config->routes[i].mqtt_filters);
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
}
