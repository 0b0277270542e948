/* What "route" prints. */
#include "human.h"
#include "mm_config.h"
#include "mm_json.h"
#include "mm_route.h"
#include "mm_text.h"
#include "route_args.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* A value has so much room in a line. */
#define SHOWN_LEN 512

static void print_text(const char *name, const void *text, size_t len)
{
    char shown[SHOWN_LEN];
    printf("%-13s%s\n", name, mm_printable(text, len, shown, sizeof shown));
}

/* " (FILE:LINE)" */
static void print_place(struct mm_place place)
{
    if (place.file != NULL) {
        printf(", %s:%u", place.file, place.line);
    }
}

static void print_route(const struct route_args *args, const struct route_result *r)
{
    char shown[SHOWN_LEN];
    print_text("MQTT topic", args->topic, strlen(args->topic));
    if (!r->taken) {
        printf("%-13sno: no filter of mqtt_topic or of a route matches it%s\n", "taken",
               args->topic[0] == '$' ? " ($ is matched by a filter that begins with $ alone)" : "");
        return;
    }
    if (r->route == 0) {
        printf("%-13sby no route, so to kafka_topic", "taken");
    } else {
        const char *filters = r->way.route->mqtt_filters;
        printf("%-13sby route %zu (%s)", "taken", r->route,
               mm_printable(filters, strlen(filters), shown, sizeof shown));
    }
    print_place(r->place);
    putchar('\n');
}

static void print_partition(const struct route_result *r)
{
    if (r->n_partitions == 0) {
        printf("%-13snot known: --partitions N or --connect\n", "partition");
    } else if (r->partition < 0) {
        printf("%-13sany of %u\n", "partition", r->n_partitions);
    } else {
        printf("%-13s%d of 0 to %u\n", "partition", (int)r->partition, r->n_partitions - 1);
    }
}

static void print_headers(const struct mm_kafka_message *m)
{
    for (size_t i = 0; i < m->n_headers; i++) {
        const struct mm_kafka_header *h = &m->headers[i];
        char name[SHOWN_LEN];
        char value[SHOWN_LEN];
        const bool is_id = strcmp(h->name, "mm-id") == 0;
        mm_printable(h->name, strlen(h->name), name, sizeof name);
        mm_printable(h->value, h->value_len, value, sizeof value);
        printf("%-13s%s: %s\n", i == 0 ? "headers" : "", name, is_id ? ROUTE_ID_SHOWN : value);
    }
}

void route_print(const struct route_args *args, const struct route_result *r)
{
    char size[HUMAN_LEN];
    print_route(args, r);
    if (!r->taken) {
        return;
    }
    if (r->way.error != NULL) {
        print_text("Kafka topic", r->way.kafka_topic, strlen(r->way.kafka_topic));
        printf("%-13s%s: %s; the message becomes a dead letter\n", "refused", r->way.error,
               r->way.reason);
        return;
    }
    print_text("Kafka topic", r->way.kafka_topic, strlen(r->way.kafka_topic));
    if (r->message.key == NULL) {
        printf("%-13snone\n", "key");
    } else {
        print_text("key", r->message.key, r->message.key_len);
    }
    print_partition(r);
    printf("%-13s%s, %s\n", "value", mm_route_format_name(r->way.route->format),
           human_bytes(r->message.value_len, size));
    print_headers(&r->message);
    printf("%-13s%" PRIu64 " bytes at most, max_message_bytes is %u%s\n", "size", r->size,
           r->config->max_message_bytes,
           !r->too_large ? ""
           : r->config->when_too_large == MM_WHEN_TOO_LARGE_REJECT
               ? ": too large, it is refused (when_too_large reject)"
               : ": too large, it becomes a dead letter (when_too_large dead_letter)");
}

/* --- JSON ---------------------------------------------------------------------------------------
 */

static void json_text(const char *name, const void *text, size_t len)
{
    printf("\"%s\":", name);
    if (text != NULL) {
        mm_json_write_string(stdout, text, len);
    } else {
        fputs("null", stdout);
    }
}

static void json_string(const char *name, const char *text)
{
    json_text(name, text, text != NULL ? strlen(text) : 0);
}

static void json_route(const struct route_result *r)
{
    if (r->route == 0) {
        fputs(",\"route\":null", stdout);
    } else {
        printf(",\"route\":{\"number\":%zu,", r->route);
        json_string("filters", r->way.route->mqtt_filters);
        putchar('}');
    }
    putchar(',');
    json_string("file", r->place.file);
    if (r->place.file != NULL) {
        printf(",\"line\":%u,", r->place.line);
    } else {
        fputs(",\"line\":null,", stdout);
    }
    json_string("kafka_topic", r->way.kafka_topic);
    putchar(',');
    json_string("error", r->way.error);
    putchar(',');
    json_string("reason", r->way.reason);
}

static void json_message(const struct route_result *r)
{
    const struct mm_kafka_message *m = &r->message;
    putchar(',');
    json_text("key", m->key, m->key_len);
    if (r->n_partitions == 0) {
        fputs(",\"partitions\":null,\"partition\":null", stdout);
    } else if (r->partition < 0) {
        printf(",\"partitions\":%u,\"partition\":null", r->n_partitions);
    } else {
        printf(",\"partitions\":%u,\"partition\":%d", r->n_partitions, (int)r->partition);
    }
    printf(",\"format\":\"%s\",\"value_bytes\":%zu,\"headers\":[",
           mm_route_format_name(r->way.route->format), m->value_len);
    for (size_t i = 0; i < m->n_headers; i++) {
        const struct mm_kafka_header *h = &m->headers[i];
        fputs(i > 0 ? ",{" : "{", stdout);
        json_string("name", h->name);
        putchar(',');
        if (strcmp(h->name, "mm-id") == 0) {
            json_string("value", ROUTE_ID_SHOWN);
        } else {
            json_text("value", h->value != NULL ? h->value : "", h->value_len);
        }
        putchar('}');
    }
    putchar(']');
}

void route_print_json(const struct route_args *args, const struct route_result *r)
{
    putchar('{');
    json_string("topic", args->topic);
    printf(",\"taken\":%s", r->taken ? "true" : "false");
    if (r->taken) {
        json_route(r);
        printf(",\"size\":%" PRIu64 ",\"max_message_bytes\":%u,\"too_large\":%s", r->size,
               r->config->max_message_bytes, r->too_large ? "true" : "false");
    }
    if (r->taken && r->way.error == NULL) {
        json_message(r);
    }
    puts("}");
}
