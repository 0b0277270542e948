/* Records of any content, with any properties, by routes of every kind: the Kafka message lies in
 * its bounds, and is never larger than was foretold. Input: three bytes of flags and lengths,
 * topic, payload, properties. */
#include "mm_config.h"
#include "mm_message.h"
#include "mm_route.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int condition)
{
    if (!condition) {
        abort();
    }
}

static struct mm_config *new_config(void)
{
    static const struct mm_option options[] = {
        {"kafka_topic_allow", "t.*"},
        {"kafka_topics_max", "20"},
        {"kafka_headers", "all,username"},
        {"route", "a/# t.${topic} key=${clientid}${username} format=raw"},
        {"route", "b/# t.${clientid} key=none format=base64 headers=user:a*,user:*b,time"},
        {"route", "+/c t.x headers=none key=${topic[1]}"},
    };
    struct mm_config_source source = {.options = options,
                                      .n_options = sizeof options / sizeof options[0]};
    struct mm_config *config = NULL;
    check(mm_config_new(&source, &config) == 0);
    return config;
}

/* Touch all that the message points to. */
static size_t walk(const struct mm_kafka_message *m)
{
    size_t size = 0;
    volatile uint8_t sum = 0;
    const uint8_t *const parts[] = {m->key, m->value, m->spread};
    const size_t lens[] = {m->key_len, m->value_len, m->spread_len};
    for (size_t i = 0; i < 3; i++) {
        for (size_t k = 0; k < lens[i]; k++) {
            sum = (uint8_t)(sum + parts[i][k]);
        }
    }
    size += m->key_len + m->value_len;
    check(m->n_headers >= 1 && m->n_headers <= MM_MESSAGE_HEADERS_MAX);
    for (size_t i = 0; i < m->n_headers; i++) {
        const struct mm_kafka_header *h = &m->headers[i];
        for (size_t k = 0; k < h->value_len; k++) {
            sum = (uint8_t)(sum + ((const uint8_t *)h->value)[k]);
        }
        size += strlen(h->name) + h->value_len + 2;
    }
    check((m->key == NULL) == (m->key_len == 0));
    return size;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct mm_config *config;
    static struct mm_lanes *lanes;
    static struct mm_message *message;
    if (config == NULL) {
        config = new_config();
        check(mm_lanes_new(&lanes) == 0 && mm_message_new(&message) == 0);
    }
    if (size < 4) {
        return 0;
    }
    size_t left = size - 3;
    size_t topic_len = data[1] % left + (data[1] % left == 0);
    size_t payload_len = data[2] % (left - topic_len + 1);
    struct mm_record rec = {.time_ms = data[0] * UINT64_C(1000),
                            .flags = data[0] & 7,
                            .type = MM_RECORD_MESSAGE,
                            .topic = (const char *)data + 3,
                            .topic_len = (uint16_t)topic_len,
                            .payload = data + 3 + topic_len,
                            .payload_len = (uint32_t)payload_len};
    rec.props = data + 3 + topic_len + payload_len;
    rec.props_len = (uint32_t)(left - topic_len - payload_len);
    check(mm_lanes_reset(lanes, config) == 0);
    struct mm_message_way way;
    mm_message_route(config, lanes, &rec, &way);
    check(way.error != NULL || mm_route_is_kafka_topic(way.kafka_topic));
    check(way.error != NULL || way.lane < 20);
    struct mm_message_source source = {.rec = &rec, .id = "id", .id_len = 2, .now_ms = 100000};
    struct mm_kafka_message m;
    check(mm_message_make(message, config, way.route, &source, &m) == 0);
    check(walk(&m) <= mm_message_size(config, way.route, &rec));
    return 0;
}
