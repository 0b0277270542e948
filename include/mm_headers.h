/* mm_headers.h - which headers a Kafka message gets beside mm-id.
 *
 * A list of words, separated by ',':
 *
 *     topic, qos, retain, client_id, username, content_type, response_topic, correlation_data,
 *     payload_format    mqtt.<word>: what the MQTT message has of it
 *     time              mqtt.received_at, mm-waited-ms: when it was received, how long it waited
 *     user              its user properties, as mqtt.user.<name>; traceparent and tracestate under
 *                       their own names
 *     user:<pattern>    only those whose name matches it, or another such pattern
 *     all               all of these but username
 *     none              none of these; stands alone
 *
 * Compiled once and immutable then. Thread: any, but to make and free one: setup. */
#ifndef MM_HEADERS_H
#define MM_HEADERS_H

#include <stdbool.h>
#include <stddef.h>

struct mm_headers;

enum mm_headers_field {
    MM_HEADERS_TOPIC = 0x001,
    MM_HEADERS_QOS = 0x002,
    MM_HEADERS_RETAIN = 0x004,
    MM_HEADERS_CLIENT_ID = 0x008,
    MM_HEADERS_USERNAME = 0x010,
    MM_HEADERS_CONTENT_TYPE = 0x020,
    MM_HEADERS_RESPONSE_TOPIC = 0x040,
    MM_HEADERS_CORRELATION_DATA = 0x080,
    MM_HEADERS_PAYLOAD_FORMAT = 0x100,
    MM_HEADERS_TIME = 0x200,
    MM_HEADERS_USER = 0x400,
};

/* What a list has to be, for errors. */
#define MM_HEADERS_RULE                                                                 \
    "none, or a list of all, topic, qos, retain, client_id, username, content_type, "   \
    "response_topic, correlation_data, payload_format, time, user and user:<pattern>, " \
    "separated by ','"

/* Compile a list. The caller frees *out with mm_headers_free().
 *
 * Errors: MM_EINVAL, errstr names the word that is wrong; MM_ENOMEM. *out is NULL then. */
int mm_headers_new(const char *list, struct mm_headers **out, char *errstr, size_t errstr_len);

/* Accepts NULL. */
void mm_headers_free(struct mm_headers *h);

/* The list as given. */
const char *mm_headers_text(const struct mm_headers *h);

/* Bits of enum mm_headers_field. */
unsigned mm_headers_fields(const struct mm_headers *h);

/* Does the user property of this name become a header, where MM_HEADERS_USER is set? */
bool mm_headers_takes(const struct mm_headers *h, const char *name, size_t name_len);

#endif
