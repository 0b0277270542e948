#include "mm_json.h"

#include "mm_error.h"
#include "mm_text.h"

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

/* A member that is a number of at most 53 bits, or -1. */
static int64_t number_of(const cJSON *object, const char *name)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
    bool fits = cJSON_IsNumber(item) && item->valuedouble >= 0 && item->valuedouble < 0x1p53;
    return fits ? (int64_t)item->valuedouble : -1;
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
    out->producer_id = -1;
    out->producer_epoch = -1;
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
    const cJSON *producer = cJSON_GetObjectItemCaseSensitive(root, "eos");
    out->producer_id = number_of(producer, "producer_id");
    out->producer_epoch = number_of(producer, "producer_epoch");
    cJSON_Delete(root);
    return 0;
}

/* --- writing ------------------------------------------------------------------------------------
 */

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
    fputc('"', out);
    for (size_t i = 0; i < len;) {
        size_t n = mm_utf8_len(text + i, len - i);
        if (n == 0) {
            fputs("\xEF\xBF\xBD", out);
            n = 1;
        } else if (n == 1) {
            write_ascii(out, (unsigned char)text[i]);
        } else {
            fwrite(text + i, 1, n, out);
        }
        i += n;
    }
    fputc('"', out);
}
