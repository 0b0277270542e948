#include "mm_json.h"

#include "mm_error.h"

#include <cjson/cJSON.h>
#include <string.h>

/* --- reading ------------------------------------------------------------------------------------
 */

/* A member that is a count, as an integer. cJSON keeps numbers as double. */
static uint64_t count_of(const cJSON *object, const char *name)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
    if (!cJSON_IsNumber(item) || !(item->valuedouble > 0)) {
        return 0;
    }
    return item->valuedouble < 0x1p64 ? (uint64_t)item->valuedouble : UINT64_MAX;
}

/* UPDATE is an open connection whose broker's name has just changed: librdkafka counts it as up
 * itself (rd_kafka_broker_state_is_up()). */
static bool is_up(const cJSON *broker)
{
    const char *state = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(broker, "state"));
    return state != NULL && (strcmp(state, "UP") == 0 || strcmp(state, "UPDATE") == 0);
}

static void add_broker(const cJSON *broker, struct mm_kafka_stats *out)
{
    if (is_up(broker)) {
        out->any_broker_up = true;
        out->n_brokers_up++;
    }
    uint64_t rtt = count_of(cJSON_GetObjectItemCaseSensitive(broker, "rtt"), "avg");
    if (rtt > out->rtt_avg_us) {
        out->rtt_avg_us = rtt;
    }
}

int mm_json_kafka_stats(const char *json, size_t len, struct mm_kafka_stats *out)
{
    memset(out, 0, sizeof *out);
    cJSON *root = cJSON_ParseWithLength(json, len);
    const cJSON *brokers = cJSON_GetObjectItemCaseSensitive(root, "brokers");
    if (!cJSON_IsObject(brokers)) {
        cJSON_Delete(root);
        return MM_EINVAL;
    }
    const cJSON *broker = NULL;
    cJSON_ArrayForEach(broker, brokers)
    {
        add_broker(broker, out);
    }
    out->msg_cnt = count_of(root, "msg_cnt");
    out->msg_size = count_of(root, "msg_size");
    cJSON_Delete(root);
    return 0;
}

/* --- writing ------------------------------------------------------------------------------------
 */

/* Bytes of the valid UTF-8 sequence at p (RFC 3629, section 4), or 0. */
static size_t utf8_len(const unsigned char *p, size_t avail)
{
    /* The second byte's range shuts out long forms, surrogates and what is above U+10FFFF. */
    unsigned char low = 0x80;
    unsigned char high = 0xBF;
    size_t len = 0;
    if (p[0] < 0x80) {
        return 1;
    }
    if (p[0] >= 0xC2 && p[0] <= 0xDF) {
        len = 2;
    } else if (p[0] >= 0xE0 && p[0] <= 0xEF) {
        len = 3;
        low = p[0] == 0xE0 ? 0xA0 : 0x80;
        high = p[0] == 0xED ? 0x9F : 0xBF;
    } else if (p[0] >= 0xF0 && p[0] <= 0xF4) {
        len = 4;
        low = p[0] == 0xF0 ? 0x90 : 0x80;
        high = p[0] == 0xF4 ? 0x8F : 0xBF;
    }
    if (len == 0 || len > avail || p[1] < low || p[1] > high) {
        return 0;
    }
    for (size_t i = 2; i < len; i++) {
        if ((p[i] & 0xC0) != 0x80) {
            return 0;
        }
    }
    return len;
}

static void write_ascii(FILE *out, unsigned char c)
{
    if (c == '"' || c == '\\') {
        fputc('\\', out);
        fputc(c, out);
    } else if (c < 0x20 || c == 0x7F) {
        fprintf(out, "\\u%04x", (unsigned int)c);
    } else {
        fputc(c, out);
    }
}

void mm_json_write_string(FILE *out, const char *text, size_t len)
{
    const unsigned char *p = (const unsigned char *)text;
    fputc('"', out);
    for (size_t i = 0; i < len;) {
        size_t n = utf8_len(p + i, len - i);
        if (n == 0) {
            fputs("\xEF\xBF\xBD", out);
            n = 1;
        } else if (n == 1) {
            write_ascii(out, p[i]);
        } else {
            fwrite(p + i, 1, n, out);
        }
        i += n;
    }
    fputc('"', out);
}
