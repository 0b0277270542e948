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

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mm_config;

/* The lane of a message. */
uint32_t mm_route_lane(const struct mm_config *config, const char *topic, size_t topic_len);

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

/* Add the route "<filters> <kafka topic>" behind the others, with a lane for its Kafka topic. The
 * filters are those of mm_filter_set_new() without a blank inside; blanks may stand around their
 * separators. config->kafka_topic is set before, or NULL when it has turned out not to be valid.
 * The text is copied; mm_route_free_all() frees what was added.
 *
 * Errors: MM_EINVAL, errstr says what is wrong; MM_ENOMEM. Nothing was added then. */
int mm_route_add(struct mm_config *config, const char *text, char *errstr, size_t errstr_len);

/* Free the routes and their Kafka topics; config is left without any. */
void mm_route_free_all(struct mm_config *config);

#endif
