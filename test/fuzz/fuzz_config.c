/* Options, one "name value" a line, and the environment, a '$' before each: never crashes; a
 * refusal always says something, and every line of it is short; settings that are given keep what
 * mm_config.h says of routes and Kafka topics. */
#include "mm_config.h"
#include "mm_filter.h"
#include "mm_route.h"

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MAX_OPTIONS 20

static void count_errors(void *arg, const struct mm_finding *finding)
{
    if (strlen(finding->text) > 2000) {
        abort();
    }
    if (finding->level == MM_LOG_ERROR) {
        ++*(size_t *)arg;
    }
}

struct environment
{
    struct mm_option variables[MAX_OPTIONS];
    size_t n;
};

static const char *get_variable(void *arg, const char *name)
{
    const struct environment *env = arg;
    for (size_t i = 0; i < env->n; i++) {
        if (strcmp(env->variables[i].name, name) == 0) {
            return env->variables[i].value;
        }
    }
    return NULL;
}

static void check(bool good)
{
    if (!good) {
        abort();
    }
}

static void check_topics(const struct mm_config *config)
{
    const uint32_t n = mm_route_n_lanes(config);
    check(n >= 1 && n <= config->kafka_topics_max);
    const char *dead = config->dead_letter_topic;
    for (uint32_t i = 0; i < n; i++) {
        const char *topic = mm_route_kafka_topic(config, i);
        check(mm_route_is_kafka_topic(topic));
        check(dead == NULL || (strcmp(dead, topic) != 0 && !mm_route_topics_collide(dead, topic)));
        for (uint32_t k = 0; k < i; k++) {
            const char *other = mm_route_kafka_topic(config, k);
            check(strcmp(other, topic) != 0 && !mm_route_topics_collide(other, topic));
        }
    }
}

/* The first route that takes a message, by asking each. */
static const struct mm_config_route *find(const struct mm_config *config, const char *topic)
{
    for (size_t i = 0; i < config->n_routes; i++) {
        struct mm_filter_set *filters = NULL;
        char errstr[128];
        check(mm_filter_set_new(config->routes[i].mqtt_filters, &filters, errstr, sizeof errstr) ==
              0);
        bool taken = mm_filter_set_match(filters, topic, strlen(topic));
        mm_filter_set_free(filters);
        if (taken) {
            return &config->routes[i];
        }
    }
    return &config->default_route;
}

/* What a route takes is carried, and goes to a Kafka topic of its own, or one that is confined. */
static void check_routes(const struct mm_config *config)
{
    static const char *const topics[] = {"a", "a/b", "$a/b", "/", "b"};
    for (size_t k = 0; k < sizeof topics / sizeof topics[0]; k++) {
        const size_t len = strlen(topics[k]);
        const struct mm_config_route *route = mm_route_find(config, topics[k], len);
        check(route == find(config, topics[k]));
        check(route == &config->default_route ||
              mm_filter_set_match(config->filters, topics[k], len));
        check(route->headers != NULL);
        if (route->lane == MM_ROUTE_LANE_DERIVED) {
            check(config->kafka_topic_allow != NULL);
        } else {
            check(route->lane < mm_route_n_lanes(config));
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1);
    if (text == NULL) {
        return 0;
    }
    memcpy(text, data, size);
    text[size] = '\0';
    struct mm_option options[MAX_OPTIONS];
    size_t n = 0;
    struct environment env = {.n = 0};
    char *rest = NULL;
    for (char *line = strtok_r(text, "\n", &rest); line != NULL && n < MAX_OPTIONS;
         line = strtok_r(NULL, "\n", &rest)) {
        char *blank = strchr(line, ' ');
        if (blank == NULL) {
            continue;
        }
        *blank = '\0';
        const char *name = line + (line[0] == '$');
        if (strcasecmp(name, "config_file") == 0) { /* whose file would be read? */
            continue;
        }
        if (line[0] == '$') {
            env.variables[env.n] = (struct mm_option){name, blank + 1};
            env.n += env.n + 1 < MAX_OPTIONS;
        } else {
            options[n++] = (struct mm_option){line, blank + 1};
        }
    }
    size_t n_errors = 0;
    struct mm_config_source source = {
        .options = options,
        .n_options = n,
        .getenv = env.n > 0 ? get_variable : NULL,
        .getenv_arg = &env,
        .report = count_errors,
        .report_arg = &n_errors,
    };
    struct mm_config *config;
    int err = mm_config_new(&source, &config);
    check((err == 0) == (config != NULL) && (err == 0) == (n_errors == 0));
    if (config != NULL) {
        char described[512];
        mm_config_describe(config, described, sizeof described);
        check_topics(config);
        check_routes(config);
    }
    mm_config_free(config);
    free(text);
    return 0;
}
