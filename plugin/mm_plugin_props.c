#include "mm_plugin_props.h"

#include "mm_error.h"
#include "mm_headers.h"
#include "mm_record.h"

#include <mosquitto.h>
#include <mosquitto_broker.h>
#include <mosquitto_plugin.h>
#include <mqtt_protocol.h>
#include <stdlib.h>
#include <string.h>

/* Mosquitto 2.0 does not export them when it is built with its makefiles. */
#pragma weak mosquitto_property_next
#pragma weak mosquitto_property_identifier
#pragma weak mosquitto_property_read_byte
#pragma weak mosquitto_property_read_string
#pragma weak mosquitto_property_read_binary
#pragma weak mosquitto_property_read_string_pair

/* Client id and user name at their longest. */
#define USUAL_CAP ((size_t)2 * (UINT16_MAX + MM_PROP_HEADER_LEN))

/* More than so much is given back at once. */
#define KEPT_CAP ((size_t)1024 * 1024)

bool mm_plugin_props_readable(void)
{
    return mosquitto_property_next != NULL && mosquitto_property_identifier != NULL &&
           mosquitto_property_read_byte != NULL && mosquitto_property_read_string != NULL &&
           mosquitto_property_read_binary != NULL && mosquitto_property_read_string_pair != NULL;
}

int mm_plugin_props_init(struct mm_plugin_props *p)
{
    p->bytes = malloc(USUAL_CAP);
    p->cap = p->bytes == NULL ? 0 : USUAL_CAP;
    return p->bytes == NULL ? MM_ENOMEM : 0;
}

void mm_plugin_props_fini(struct mm_plugin_props *p)
{
    free(p->bytes);
    p->bytes = NULL;
    p->len = 0;
    p->cap = 0;
}

void mm_plugin_props_done(struct mm_plugin_props *p)
{
    p->len = 0;
    if (p->cap > KEPT_CAP) {
        uint8_t *smaller = realloc(p->bytes, USUAL_CAP);
        p->bytes = smaller != NULL ? smaller : p->bytes;
        p->cap = smaller != NULL ? USUAL_CAP : p->cap;
    }
}

/* --- adding -------------------------------------------------------------------------------------
 */

static int reserve(struct mm_plugin_props *p, size_t len)
{
    size_t need = p->len + MM_PROP_HEADER_LEN + len;
    if (need <= p->cap) {
        return 0;
    }
    size_t cap = p->cap < USUAL_CAP ? USUAL_CAP : p->cap;
    while (cap < need) {
        cap *= 2;
    }
    uint8_t *grown = realloc(p->bytes, cap);
    if (grown == NULL) {
        return MM_ENOMEM;
    }
    p->bytes = grown;
    p->cap = cap;
    return 0;
}

static int add(struct mm_plugin_props *p, uint16_t tag, const void *data, size_t len)
{
    int err = reserve(p, len);
    if (err == 0) {
        p->len = (size_t)(mm_prop_put(p->bytes + p->len, tag, data, (uint32_t)len) - p->bytes);
    }
    return err;
}

static int add_text(struct mm_plugin_props *p, uint16_t tag, const char *text)
{
    return text == NULL ? 0 : add(p, tag, text, strlen(text));
}

static int add_pair(struct mm_plugin_props *p, const char *name, const char *value)
{
    const struct mm_prop_pair pair = {
        .name = name, .name_len = strlen(name), .value = value, .value_len = strlen(value)};
    int err = reserve(p, mm_prop_pair_len(&pair));
    if (err == 0) {
        p->len = (size_t)(mm_prop_put_pair(p->bytes + p->len, &pair) - p->bytes);
    }
    return err;
}

/* --- the broker's properties --------------------------------------------------------------------
 */

/* The broker's copies: in 2.1 they are counted as its own memory. */
static void give_back(const struct mm_plugin_props *p, void *copy)
{
    if (copy == NULL) {
        return;
    }
    if (p->broker_2_1) {
        mosquitto_free(copy);
    } else {
        free(copy);
    }
}

/* A property that cannot be read is left out: its publisher is not to be turned away for it, again
 * and again. Mosquitto 2.1 gives NULL for a text that is empty. */
static int take_text(struct mm_plugin_props *p,
                     const mosquitto_property *prop,
                     int id,
                     uint16_t tag)
{
    char *text = NULL;
    if (mosquitto_property_read_string(prop, id, &text, false) == NULL) {
        return 0;
    }
    int err = add_text(p, tag, text == NULL ? "" : text);
    give_back(p, text);
    return err;
}

static int take_correlation(struct mm_plugin_props *p, const mosquitto_property *prop)
{
    void *data = NULL;
    uint16_t len = 0;
    if (mosquitto_property_read_binary(prop, MQTT_PROP_CORRELATION_DATA, &data, &len, false) ==
        NULL) {
        return 0;
    }
    int err = add(p, MM_TAG_CORRELATION_DATA, data, data == NULL ? 0 : len);
    give_back(p, data);
    return err;
}

static int take_pair(struct mm_plugin_props *p, const mosquitto_property *prop)
{
    char *name = NULL;
    char *value = NULL;
    if (mosquitto_property_read_string_pair(prop, MQTT_PROP_USER_PROPERTY, &name, &value, false) ==
        NULL) {
        return 0;
    }
    int err = add_pair(p, name == NULL ? "" : name, value == NULL ? "" : value);
    give_back(p, name);
    give_back(p, value);
    return err;
}

static int take_format(struct mm_plugin_props *p, const mosquitto_property *prop)
{
    uint8_t format = 0;
    if (mosquitto_property_read_byte(prop, MQTT_PROP_PAYLOAD_FORMAT_INDICATOR, &format, false) ==
        NULL) {
        return 0;
    }
    return add(p, MM_TAG_PAYLOAD_FORMAT, &format, sizeof format);
}

static int take(struct mm_plugin_props *p, unsigned stored, const mosquitto_property *prop)
{
    switch (mosquitto_property_identifier(prop)) {
        case MQTT_PROP_PAYLOAD_FORMAT_INDICATOR:
            return (stored & MM_HEADERS_PAYLOAD_FORMAT) != 0 ? take_format(p, prop) : 0;
        case MQTT_PROP_CONTENT_TYPE:
            return (stored & MM_HEADERS_CONTENT_TYPE) != 0
                       ? take_text(p, prop, MQTT_PROP_CONTENT_TYPE, MM_TAG_CONTENT_TYPE)
                       : 0;
        case MQTT_PROP_RESPONSE_TOPIC:
            return (stored & MM_HEADERS_RESPONSE_TOPIC) != 0
                       ? take_text(p, prop, MQTT_PROP_RESPONSE_TOPIC, MM_TAG_RESPONSE_TOPIC)
                       : 0;
        case MQTT_PROP_CORRELATION_DATA:
            return (stored & MM_HEADERS_CORRELATION_DATA) != 0 ? take_correlation(p, prop) : 0;
        case MQTT_PROP_USER_PROPERTY:
            return (stored & MM_HEADERS_USER) != 0 ? take_pair(p, prop) : 0;
        default:
            return 0;
    }
}

int mm_plugin_props_collect(struct mm_plugin_props *p,
                            unsigned stored,
                            const struct mosquitto_evt_message *ev)
{
    int err = 0;
    p->len = 0;
    if ((stored & MM_HEADERS_CLIENT_ID) != 0 && ev->client != NULL) {
        err = add_text(p, MM_TAG_CLIENT_ID, mosquitto_client_id(ev->client));
    }
    if (err == 0 && (stored & MM_HEADERS_USERNAME) != 0 && ev->client != NULL) {
        err = add_text(p, MM_TAG_USERNAME, mosquitto_client_username(ev->client));
    }
    const mosquitto_property *prop = mm_plugin_props_readable() ? ev->properties : NULL;
    while (err == 0 && prop != NULL) {
        err = take(p, stored, prop);
        prop = mosquitto_property_next(prop);
    }
    return err;
}
