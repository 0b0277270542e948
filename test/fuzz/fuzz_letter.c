/* A record of any properties, as the tool and the HTTP page show it: a dead letter's description
 * and a message's properties lie in their record, and are JSON in UTF-8 whatever the bytes are. The
 * input is the length of the topic and of the payload, a byte each, then topic, payload and
 * properties. */
#include "../../tools/properties.h"
#include "mm_dead.h"
#include "mm_text.h"

#include <cjson/cJSON.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool good)
{
    if (!good) {
        abort();
    }
}

static void check_text(const struct mm_record *rec, struct mm_dead_text text)
{
    const uint8_t *at = (const uint8_t *)text.text;
    const uint8_t *props = rec->props;
    check(text.text != NULL);
    check(text.len == 0 || (at >= props && at + text.len <= props + rec->props_len));
}

/* Returns the JSON, malloc'ed. */
static char *write_json(const struct mm_record *rec, const struct mm_dead_view *view, size_t *len)
{
    char *json = NULL;
    FILE *out = open_memstream(&json, len);
    check(out != NULL);
    fputc('{', out);
    mm_dead_write_json(out, rec, view);
    check(properties_write_json(out, rec));
    fputc('}', out);
    check(fclose(out) == 0);
    return json;
}

static void check_json(const char *json, size_t len)
{
    check(mm_utf8_valid(json, len));
    for (size_t i = 0; i < len; i++) {
        check((uint8_t)json[i] >= ' ');
    }
    const char *end = NULL;
    cJSON *value = cJSON_ParseWithLengthOpts(json, len, &end, 0);
    check(value != NULL && end == json + len);
    check(cJSON_IsString(cJSON_GetObjectItemCaseSensitive(value, "id")));
    cJSON_Delete(value);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2) {
        return 0;
    }
    size_t left = size - 2;
    const size_t topic_len = data[0] < left ? data[0] : left;
    left -= topic_len;
    const size_t payload_len = data[1] < left ? data[1] : left;
    left -= payload_len;
    uint8_t *props = malloc(left + (left == 0)); /* exact, for the address sanitizer */
    check(props != NULL);
    memcpy(props, data + 2 + topic_len + payload_len, left);
    const struct mm_record rec = {.time_ms = data[0] * UINT64_C(0x0101010101010101),
                                  .topic = (const char *)data + 2,
                                  .topic_len = (uint16_t)topic_len,
                                  .payload = data + 2 + topic_len,
                                  .payload_len = (uint32_t)payload_len,
                                  .props = props,
                                  .props_len = (uint32_t)left};
    struct mm_dead_view view;
    mm_dead_view(&rec, &view);
    check_text(&rec, view.id);
    check_text(&rec, view.kafka_topic);
    check_text(&rec, view.error);
    check_text(&rec, view.reason);
    check(!view.has_payload || view.payload_len == payload_len);
    size_t len = 0;
    char *json = write_json(&rec, &view, &len);
    check_json(json, len);
    free(json);
    free(props);
    return 0;
}
