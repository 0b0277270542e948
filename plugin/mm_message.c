#include "mm_message.h"

#include "mm_config.h"
#include "mm_error.h"
#include "mm_format.h"
#include "mm_headers.h"
#include "mm_route.h"
#include "mm_template.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What a Kafka message has around key, value and headers at most (message format 2), and a header
 * around its name and value. */
#define MESSAGE_OVERHEAD 36
#define HEADER_OVERHEAD 10

/* An mm-id: a UUID, '-', and a number. */
#define ID_MAX_LEN 57

/* Digits of a number and a NUL. */
#define NUMBER_LEN 21

#define USER_PREFIX "mqtt.user."

struct mm_message
{
    char *bytes; /* for one message: key, value, names and numbers of headers */
    size_t cap;
    struct mm_kafka_header headers[MM_MESSAGE_HEADERS_MAX + 4]; /* extra ones included */
};

int mm_message_new(struct mm_message **out)
{
    *out = calloc(1, sizeof **out);
    return *out == NULL ? MM_ENOMEM : 0;
}

void mm_message_free(struct mm_message *m)
{
    if (m == NULL) {
        return;
    }
    free(m->bytes);
    free(m);
}

/* --- what a record has --------------------------------------------------------------------------
 */

static const char *get_text(const struct mm_record *rec, uint16_t tag, size_t *len)
{
    uint32_t found_len = 0;
    const uint8_t *found =
        rec->props_len == 0 ? NULL : mm_prop_get(rec->props, rec->props_len, tag, &found_len);
    *len = found == NULL ? 0 : found_len;
    return (const char *)found;
}

static void get_values(const struct mm_record *rec, struct mm_template_values *v)
{
    *v = (struct mm_template_values){
        .topic = rec->topic, .topic_len = rec->topic_len, .qos = rec->flags & MM_RECORD_QOS_MASK};
    v->client_id = get_text(rec, MM_TAG_CLIENT_ID, &v->client_id_len);
    v->username = get_text(rec, MM_TAG_USERNAME, &v->username_len);
}

/* --- the way ------------------------------------------------------------------------------------
 */

static void refuse(struct mm_message_way *way, const char *error, const char *reason)
{
    way->error = error;
    way->reason = reason;
}

/* Fill in the name of the Kafka topic. False: it is refused. */
static bool fill_name(const struct mm_config *config,
                      const struct mm_record *rec,
                      struct mm_message_way *way)
{
    struct mm_template_values values;
    get_values(rec, &values);
    size_t room = sizeof way->kafka_topic - 1;
    size_t len = mm_template_fill_name(way->route->kafka_topic, &values, way->kafka_topic, room);
    way->kafka_topic[len < room ? len : room] = '\0';
    if (len > room) {
        refuse(way, "KAFKA_TOPIC_TOO_LONG",
               "the route makes a Kafka topic of it that is longer than 249 characters");
    } else if (!mm_route_allows(config, way->kafka_topic)) {
        refuse(way, "KAFKA_TOPIC_NOT_ALLOWED",
               "the route makes a Kafka topic of it that kafka_topic_allow does not name");
    } else if (mm_route_is_reserved(config, way->kafka_topic)) {
        refuse(way, "KAFKA_TOPIC_NOT_ALLOWED",
               "the route makes a Kafka topic of it that is that of dead_letter_topic or "
               "kafka_test_topic, or differs from it in '.' and '_' alone");
    }
    return way->error == NULL;
}

static void get_lane(const struct mm_config *config,
                     struct mm_lanes *lanes,
                     const struct mm_record *rec,
                     struct mm_message_way *way)
{
    if (!fill_name(config, rec, way)) {
        return;
    }
    int err = mm_lanes_get(lanes, way->kafka_topic, strlen(way->kafka_topic), &way->lane);
    if (err == MM_EINVAL) {
        refuse(way, "KAFKA_TOPIC_COLLIDES",
               "the route makes a Kafka topic of it that differs from another in '.' and '_' "
               "alone: Kafka lets only one of them be made");
    } else if (err != 0) {
        refuse(way, "KAFKA_TOPICS_MAX",
               "the route makes one Kafka topic more of it than kafka_topics_max allows");
    }
}

void mm_message_route(const struct mm_config *config,
                      struct mm_lanes *lanes,
                      const struct mm_record *rec,
                      struct mm_message_way *way)
{
    way->route = mm_route_find(config, rec->topic, rec->topic_len);
    way->error = NULL;
    way->reason = NULL;
    way->lane = way->route->lane;
    if (way->lane == MM_ROUTE_LANE_DERIVED) {
        get_lane(config, lanes, rec, way);
    } else {
        snprintf(way->kafka_topic, sizeof way->kafka_topic, "%s",
                 mm_route_kafka_topic(config, way->lane));
    }
}

/* --- the message --------------------------------------------------------------------------------
 */

/* A message under construction. */
struct maker
{
    struct mm_message *m;
    const struct mm_record *rec;
    const struct mm_message_source *source;
    struct mm_kafka_message *out;
    char *at; /* in m->bytes */
};

static bool ensure(struct mm_message *m, size_t len)
{
    if (len <= m->cap) {
        return true;
    }
    size_t cap = len < 4096 ? 4096 : len;
    char *bytes = realloc(m->bytes, cap);
    if (bytes == NULL) {
        return false;
    }
    m->bytes = bytes;
    m->cap = cap;
    return true;
}

static void add_header(struct maker *mk, const char *name, const void *value, size_t value_len)
{
    mk->m->headers[mk->out->n_headers++] =
        (struct mm_kafka_header){.name = name, .value = value, .value_len = value_len};
}

static void add_number(struct maker *mk, const char *name, uint64_t number)
{
    int len = snprintf(mk->at, NUMBER_LEN, "%" PRIu64, number);
    add_header(mk, name, mk->at, (size_t)len);
    mk->at += len;
}

static void add_property(struct maker *mk, const char *name, uint16_t tag)
{
    uint32_t len;
    const uint8_t *data = mm_prop_get(mk->rec->props, mk->rec->props_len, tag, &len);
    if (data != NULL) {
        add_header(mk, name, data, len);
    }
}

/* Does the user property that stands in these bytes become a header? */
static bool takes_user(const struct mm_headers *headers,
                       const uint8_t *data,
                       uint32_t len,
                       struct mm_prop_pair *out)
{
    return mm_prop_split_pair(data, len, out) &&
           mm_headers_takes(headers, out->name, out->name_len);
}

static bool is_trace(const char *name, size_t len)
{
    return (len == strlen("traceparent") && memcmp(name, "traceparent", len) == 0) ||
           (len == strlen("tracestate") && memcmp(name, "tracestate", len) == 0);
}

/* One user property, under its name. */
static void add_user(struct maker *mk, const struct mm_prop_pair *pair)
{
    char *start = mk->at;
    if (!is_trace(pair->name, pair->name_len)) {
        memcpy(mk->at, USER_PREFIX, strlen(USER_PREFIX));
        mk->at += strlen(USER_PREFIX);
    }
    memcpy(mk->at, pair->name, pair->name_len);
    mk->at[pair->name_len] = '\0';
    mk->at += pair->name_len + 1;
    add_header(mk, start, pair->value, pair->value_len);
}

static void add_users(struct maker *mk, const struct mm_headers *headers)
{
    uint32_t offset = 0;
    uint16_t tag;
    const uint8_t *data;
    uint32_t len;
    uint64_t n = 0;
    while (mm_prop_next(mk->rec->props, mk->rec->props_len, &offset, &tag, &data, &len)) {
        struct mm_prop_pair pair;
        if (tag == MM_TAG_USER_PROPERTY && takes_user(headers, data, len, &pair) &&
            n++ < MM_MESSAGE_USER_MAX) {
            add_user(mk, &pair);
        }
    }
    if (n > MM_MESSAGE_USER_MAX) {
        add_number(mk, "mm-user-left-out", n - MM_MESSAGE_USER_MAX);
    }
}

/* Properties that become a header each, as they are. */
static const struct item
{
    unsigned field;
    uint16_t tag;
    const char *name;
} items[] = {
    {MM_HEADERS_CLIENT_ID, MM_TAG_CLIENT_ID, "mqtt.client_id"},
    {MM_HEADERS_USERNAME, MM_TAG_USERNAME, "mqtt.username"},
    {MM_HEADERS_CONTENT_TYPE, MM_TAG_CONTENT_TYPE, "mqtt.content_type"},
    {MM_HEADERS_RESPONSE_TOPIC, MM_TAG_RESPONSE_TOPIC, "mqtt.response_topic"},
    {MM_HEADERS_CORRELATION_DATA, MM_TAG_CORRELATION_DATA, "mqtt.correlation_data"},
};

#define N_ITEMS (sizeof items / sizeof items[0])

/* What the properties of the record tell. */
static void add_properties(struct maker *mk, const struct mm_headers *headers)
{
    unsigned fields = mm_headers_fields(headers);
    for (size_t i = 0; i < N_ITEMS; i++) {
        if ((fields & items[i].field) != 0) {
            add_property(mk, items[i].name, items[i].tag);
        }
    }
    if ((fields & MM_HEADERS_PAYLOAD_FORMAT) != 0) {
        size_t len;
        const char *format = get_text(mk->rec, MM_TAG_PAYLOAD_FORMAT, &len);
        if (format != NULL && len == 1) {
            const char *text = *format == 1 ? "utf8" : "bytes";
            add_header(mk, "mqtt.payload_format", text, strlen(text));
        }
    }
    if ((fields & MM_HEADERS_USER) != 0) {
        add_users(mk, headers);
    }
}

static void add_headers(struct maker *mk, const struct mm_headers *headers)
{
    const struct mm_record *rec = mk->rec;
    unsigned fields = mm_headers_fields(headers);
    add_header(mk, "mm-id", mk->source->id, mk->source->id_len);
    if (fields == 0) {
        return;
    }
    if ((fields & MM_HEADERS_TOPIC) != 0) {
        add_header(mk, "mqtt.topic", rec->topic, rec->topic_len);
    }
    if ((fields & MM_HEADERS_QOS) != 0) {
        add_number(mk, "mqtt.qos", rec->flags & MM_RECORD_QOS_MASK);
    }
    if ((fields & MM_HEADERS_RETAIN) != 0) {
        const char *text = (rec->flags & MM_RECORD_RETAIN) != 0 ? "true" : "false";
        add_header(mk, "mqtt.retain", text, strlen(text));
    }
    if ((fields & MM_HEADERS_TIME) != 0) {
        uint64_t now_ms = mk->source->now_ms;
        add_number(mk, "mqtt.received_at", rec->time_ms);
        add_number(mk, "mm-waited-ms", now_ms > rec->time_ms ? now_ms - rec->time_ms : 0);
    }
    if (rec->props_len > 0) {
        add_properties(mk, headers);
    }
}

static void add_value(struct maker *mk, const struct mm_config *config, enum mm_payload_format how)
{
    const struct mm_record *rec = mk->rec;
    mk->out->value = mk->at;
    switch (how) {
        case MM_PAYLOAD_RAW:
            mk->out->value = rec->payload;
            mk->out->value_len = rec->payload_len;
            return;
        case MM_PAYLOAD_BASE64:
            mk->out->value_len = mm_base64_encode(rec->payload, rec->payload_len, mk->at);
            break;
        case MM_PAYLOAD_JSON:
        default:
            mk->out->value_len = mm_format_json(config->format, rec->topic, rec->topic_len,
                                                rec->payload, rec->payload_len, mk->at);
    }
    mk->at += mk->out->value_len;
}

/* Most bytes that the value takes in the message's own memory. */
static size_t value_room(const struct mm_config *config,
                         enum mm_payload_format how,
                         const struct mm_record *rec)
{
    switch (how) {
        case MM_PAYLOAD_RAW:
            return 0;
        case MM_PAYLOAD_BASE64:
            return mm_base64_len(rec->payload_len);
        case MM_PAYLOAD_JSON:
        default:
            return mm_format_json_bound(config->format, rec->topic_len, rec->payload_len);
    }
}

/* A key that is empty is none. */
static void add_key(struct maker *mk, const struct mm_template *key, size_t key_len)
{
    const struct mm_record *rec = mk->rec;
    if (key_len == 0) {
        mk->out->spread = rec->topic;
        mk->out->spread_len = rec->topic_len;
        return;
    }
    mk->out->key_len = key_len;
    if (mm_template_is_topic(key)) {
        mk->out->key = rec->topic;
        return;
    }
    struct mm_template_values values;
    get_values(rec, &values);
    (void)mm_template_fill(key, &values, mk->at, key_len);
    mk->out->key = mk->at;
    mk->at += key_len;
}

static size_t len_of_key(const struct mm_template *key, const struct mm_record *rec)
{
    if (key == NULL) {
        return 0;
    }
    if (mm_template_is_topic(key)) {
        return rec->topic_len;
    }
    struct mm_template_values values;
    get_values(rec, &values);
    return mm_template_fill(key, &values, NULL, 0);
}

/* Names of user properties get a prefix and a NUL each, in no more than their properties' headers
 * take and this. */
static size_t headers_room(const struct mm_headers *headers, const struct mm_record *rec)
{
    unsigned fields = mm_headers_fields(headers);
    size_t numbers = fields == 0 ? 0 : (size_t)5 * NUMBER_LEN;
    size_t names = (fields & MM_HEADERS_USER) == 0 || rec->props_len == 0
                       ? 0
                       : rec->props_len + MM_MESSAGE_USER_MAX * sizeof USER_PREFIX;
    return numbers + names;
}

int mm_message_make(struct mm_message *m,
                    const struct mm_config *config,
                    const struct mm_config_route *route,
                    const struct mm_message_source *source,
                    struct mm_kafka_message *out)
{
    const struct mm_record *rec = source->rec;
    size_t key_len = len_of_key(route->key, rec);
    size_t room =
        value_room(config, route->format, rec) + key_len + headers_room(route->headers, rec);
    if (!ensure(m, room)) {
        return MM_ENOMEM;
    }
    *out = (struct mm_kafka_message){
        .headers = m->headers,
        /* A clock that was set back since must not make Kafka refuse the whole batch. */
        .time_ms = rec->time_ms < source->now_ms ? rec->time_ms : source->now_ms,
    };
    struct maker mk = {.m = m, .rec = rec, .source = source, .out = out, .at = m->bytes};
    add_value(&mk, config, route->format);
    add_key(&mk, route->key, key_len);
    add_headers(&mk, route->headers);
    for (size_t i = 0; i < source->n_extra; i++) {
        m->headers[out->n_headers++] = source->extra[i];
    }
    return 0;
}

/* --- the size -----------------------------------------------------------------------------------
 */

static uint64_t size_of_value(const struct mm_config *config,
                              enum mm_payload_format how,
                              const struct mm_record *rec)
{
    switch (how) {
        case MM_PAYLOAD_RAW:
            return rec->payload_len;
        case MM_PAYLOAD_BASE64:
            return mm_base64_len(rec->payload_len);
        case MM_PAYLOAD_JSON:
        default:
            return mm_format_json_len(config->format, rec->topic, rec->topic_len, rec->payload_len);
    }
}

/* What the header of a property adds, if there is to be one. */
static uint64_t size_of_property(const struct mm_headers *headers,
                                 uint16_t tag,
                                 const uint8_t *data,
                                 uint32_t len)
{
    unsigned fields = mm_headers_fields(headers);
    if (tag == MM_TAG_USER_PROPERTY) {
        struct mm_prop_pair pair;
        bool taken = (fields & MM_HEADERS_USER) != 0 && takes_user(headers, data, len, &pair);
        return taken ? sizeof USER_PREFIX + len + HEADER_OVERHEAD : 0;
    }
    for (size_t i = 0; i < N_ITEMS; i++) {
        if (items[i].tag == tag && (fields & items[i].field) != 0) {
            return strlen(items[i].name) + len + HEADER_OVERHEAD;
        }
    }
    return 0;
}

static uint64_t size_of_headers(const struct mm_headers *headers, const struct mm_record *rec)
{
    unsigned fields = mm_headers_fields(headers);
    uint64_t size = sizeof "mm-id" + ID_MAX_LEN + HEADER_OVERHEAD;
    if (fields == 0) {
        return size;
    }
    /* The fixed ones, whose values are short, but for the topic's. */
    size += 6 * (sizeof "mqtt.payload_format" + NUMBER_LEN + HEADER_OVERHEAD);
    size += (fields & MM_HEADERS_TOPIC) != 0 ? rec->topic_len : 0;
    uint32_t offset = 0;
    uint16_t tag;
    const uint8_t *data;
    uint32_t len;
    while (mm_prop_next(rec->props, rec->props_len, &offset, &tag, &data, &len)) {
        size += size_of_property(headers, tag, data, len);
    }
    return size;
}

uint64_t mm_message_size(const struct mm_config *config,
                         const struct mm_config_route *route,
                         const struct mm_record *rec)
{
    return MESSAGE_OVERHEAD + len_of_key(route->key, rec) +
           size_of_value(config, route->format, rec) + size_of_headers(route->headers, rec);
}
