#include "properties.h"

#include "mm_format.h"
#include "mm_json.h"

#include <stdint.h>
#include <stdlib.h>

static const struct
{
    uint16_t tag;
    const char *name;
} texts[] = {
    {MM_TAG_CLIENT_ID, "client_id"},
    {MM_TAG_USERNAME, "username"},
    {MM_TAG_CONTENT_TYPE, "content_type"},
    {MM_TAG_RESPONSE_TOPIC, "response_topic"},
};

static void write_texts(FILE *out, const struct mm_record *rec)
{
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        uint32_t len;
        const uint8_t *text = mm_prop_get(rec->props, rec->props_len, texts[i].tag, &len);
        if (text != NULL) {
            fprintf(out, ",\"%s\":", texts[i].name);
            mm_json_write_string(out, (const char *)text, len);
        }
    }
}

static bool write_correlation(FILE *out, const struct mm_record *rec)
{
    uint32_t len;
    const uint8_t *data = mm_prop_get(rec->props, rec->props_len, MM_TAG_CORRELATION_DATA, &len);
    if (data == NULL) {
        return true;
    }
    char *base64 = malloc(mm_base64_len(len) + 1);
    if (base64 == NULL) {
        return false;
    }
    fputs(",\"correlation_data\":\"", out);
    fwrite(base64, 1, mm_base64_encode(data, len, base64), out);
    fputc('"', out);
    free(base64);
    return true;
}

static void write_user(FILE *out, const uint8_t *data, uint32_t len)
{
    struct mm_prop_pair pair;
    if (!mm_prop_split_pair(data, len, &pair)) {
        fputs("null", out); /* no such thing is ever written */
        return;
    }
    fputc('[', out);
    mm_json_write_string(out, pair.name, pair.name_len);
    fputc(',', out);
    mm_json_write_string(out, pair.value, pair.value_len);
    fputc(']', out);
}

static void write_users(FILE *out, const struct mm_record *rec)
{
    uint32_t offset = 0;
    uint16_t tag;
    const uint8_t *data;
    uint32_t len;
    const char *between = ",\"user_properties\":[";
    while (mm_prop_next(rec->props, rec->props_len, &offset, &tag, &data, &len)) {
        if (tag == MM_TAG_USER_PROPERTY) {
            fputs(between, out);
            write_user(out, data, len);
            between = ",";
        }
    }
    if (between[1] == '\0') {
        fputc(']', out);
    }
}

bool properties_write_json(FILE *out, const struct mm_record *rec)
{
    uint32_t len;
    write_texts(out, rec);
    const uint8_t *format = mm_prop_get(rec->props, rec->props_len, MM_TAG_PAYLOAD_FORMAT, &len);
    if (format != NULL && len == 1) {
        fprintf(out, ",\"payload_format\":%d", format[0]);
    }
    write_users(out, rec);
    return write_correlation(out, rec);
}
