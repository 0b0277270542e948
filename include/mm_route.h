/* mm_route.h - from an MQTT topic to a Kafka topic.
 *
 * The routes stand in the settings; the first whose filters match decides. A *lane* is a Kafka
 * topic by number (mm_lanes.h): lane 0 is kafka_topic, the default; each other Kafka topic that a
 * route names has one. Routing happens when a record is sent, not when it is stored: who mends a
 * route mends the backlog too. Pure functions of the settings, but for those that make them.
 *
 * Thread: any; those that change the settings: setup. */
#ifndef MM_ROUTE_H
#define MM_ROUTE_H

#include "mm_config.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mm_headers;
struct mm_template;

/* The lane of a route whose template makes Kafka topics of messages. */
#define MM_ROUTE_LANE_DERIVED UINT32_MAX

/* The route of a message: the first that takes it, or the default route. */
const struct mm_config_route *mm_route_find(const struct mm_config *config,
                                            const char *topic,
                                            size_t topic_len);

/* Lanes of Kafka topics that the settings name, 1 to MM_LANES_MAX. */
uint32_t mm_route_n_lanes(const struct mm_config *config);

/* Most lanes that there can be: as many, or, where a template makes Kafka topics of messages,
 * kafka_topics_max. */
uint32_t mm_route_n_possible(const struct mm_config *config);

/* The Kafka topic of a lane below mm_route_n_lanes(). Lives as long as the settings. */
const char *mm_route_kafka_topic(const struct mm_config *config, uint32_t lane);

/* Can a Kafka topic have this name? The rule is Kafka's own (class Topic of its clients). */
bool mm_route_is_kafka_topic(const char *name);

#define MM_ROUTE_KAFKA_TOPIC_RULE \
    "1 to 249 of the characters a-z, A-Z, 0-9, '.', '_' and '-', but not '.' or '..' alone"

/* Are these two Kafka topics that cannot both be? Their names differ in '.' and '_' alone: Kafka's
 * metrics have '_' for '.', so that it lets only one of them be made. */
bool mm_route_topics_collide(const char *a, const char *b);

/* Does kafka_topic_allow name this Kafka topic? A '*' at the beginning of a pattern does not stand
 * for "__", with which the names of Kafka's own topics begin. */
bool mm_route_allows(const struct mm_config *config, const char *kafka_topic);

/* Is it, or does it collide with, the Kafka topic of an option that no route may lead to? */
bool mm_route_is_reserved(const struct mm_config *config, const char *kafka_topic);

/* Add the route "<filters> <kafka topic> [key=...] [format=...] [headers=...]" behind the others,
 * with a lane for its Kafka topic where that is no template. The filters are those of
 * mm_filter_set_new() without a blank inside; blanks may stand around their separators. What it
 * does not say is as the options kafka_key, payload_format and kafka_headers. These and
 * config->kafka_topic are set before, or NULL when they have turned out not to be valid. The text
 * is copied; mm_route_free_all() frees what was added.
 *
 * Errors: MM_EINVAL, errstr says what is wrong; MM_ENOMEM. Nothing was added then. */
int mm_route_add(struct mm_config *config, const char *text, char *errstr, size_t errstr_len);

/* All routes are added, and mqtt_topic is set: make the default route, config->filters and
 * config->stored.
 *
 * Errors: MM_ENOMEM. */
int mm_route_finish(struct mm_config *config);

/* Free the routes and their Kafka topics; config is left without any. */
void mm_route_free_all(struct mm_config *config);

/* The routes as text, one a line: by what a message's Kafka topic is found, and nothing else. Two
 * settings with the same text lead every message to the same Kafka topic. malloc'ed, for the caller
 * to free; NULL: no memory. */
char *mm_route_describe(const struct mm_config *config);

/* Is this a list of patterns for kafka_topic_allow? */
bool mm_route_is_allow_list(const char *list);

/* What a key is, in words. */
#define MM_ROUTE_KEY_RULE \
    "none, or text with the variables ${topic}, ${topic[N]}, ${clientid}, ${username} and ${qos}"

/* The key of a message as an option or a route gives it: "none" or nothing is none, and *out is
 * NULL. mm_route_add() does not take nothing.
 *
 * Errors: as mm_template_new(). */
int mm_route_parse_key(const char *text, struct mm_template **out, char *errstr, size_t errstr_len);

/* Headers as an option or a route gives them: "auto" is none with json, else all. Errors: as
 * mm_headers_new(). */
int mm_route_parse_headers(const char *text,
                           enum mm_payload_format format,
                           struct mm_headers **out,
                           char *errstr,
                           size_t errstr_len);

/* The word for a format. */
const char *mm_route_format_name(enum mm_payload_format format);

#endif
