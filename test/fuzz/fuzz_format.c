/* The value is JSON whatever bytes the topic and the payload have, and the payload comes back. The
 * input is the length of the topic (2 bytes), the topic and the payload. */
#include "mm_format.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok)
{
    if (!ok) {
        abort();
    }
}

static uint8_t *new_copy(const uint8_t *src, size_t len)
{
    uint8_t *copy = malloc(len + (len == 0));
    check(copy != NULL);
    memcpy(copy, src, len);
    return copy;
}

static uint32_t value_of(char c)
{
    static const char alphabet[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *found = c == '\0' ? NULL : strchr(alphabet, c);
    check(found != NULL);
    return (uint32_t)(found - alphabet);
}

static void check_base64(const char *text, const uint8_t *expected, size_t len)
{
    check(strlen(text) == (len + 2) / 3 * 4);
    for (size_t i = 0; i < len; i++) {
        size_t bit = 8 * i;
        uint32_t two = value_of(text[bit / 6]) << 6 | value_of(text[bit / 6 + 1]);
        check((uint8_t)(two >> (4 - bit % 6)) == expected[i]);
    }
    for (size_t i = (8 * len + 5) / 6; text[i] != '\0'; i++) {
        check(text[i] == '=');
    }
}

static const char *string_of(const cJSON *value, const char *name)
{
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(value, name));
    check(text != NULL);
    return text;
}

/* A topic in ASCII comes back as it was. (The unit test compares the others with a model.) */
static void check_topic(const char *text, const uint8_t *topic, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (topic[i] == 0 || topic[i] >= 0x80) {
            return;
        }
    }
    check(strlen(text) == len && memcmp(text, topic, len) == 0);
}

static void check_json(const char *json,
                       size_t json_len,
                       const uint8_t *topic,
                       size_t topic_len,
                       const uint8_t *payload,
                       size_t payload_len)
{
    for (size_t i = 0; i < json_len; i++) {
        check((uint8_t)json[i] >= 0x20);
    }
    const char *end = NULL;
    cJSON *value = cJSON_ParseWithLengthOpts(json, json_len, &end, 0);
    check(value != NULL && end == json + json_len);
    check(cJSON_GetArraySize(value) == 2);
    check_topic(string_of(value, "Topic"), topic, topic_len);
    check_base64(string_of(value, "Content"), payload, payload_len);
    cJSON_Delete(value);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2) {
        return 0;
    }
    size_t topic_len = (size_t)data[0] << 8 | data[1];
    size_t rest = size - 2;
    topic_len = topic_len < rest ? topic_len : rest;
    size_t payload_len = rest - topic_len;
    uint8_t *topic = new_copy(data + 2, topic_len);
    uint8_t *payload = new_copy(data + 2 + topic_len, payload_len);

    struct mm_format *f;
    check(mm_format_new("Topic", "Content", &f) == 0);
    size_t bound = mm_format_json_bound(f, topic_len, payload_len);
    char *json = malloc(bound);
    check(json != NULL);
    size_t json_len = mm_format_json(f, (const char *)topic, topic_len, payload, payload_len, json);
    check(json_len <= bound);
    check_json(json, json_len, topic, topic_len, payload, payload_len);

    free(json);
    mm_format_free(f);
    free(payload);
    free(topic);
    return 0;
}
