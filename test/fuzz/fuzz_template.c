/* Templates of any text, filled by any message: no crash, no byte too much, and names that Kafka
 * can have. Input: template NUL topic NUL client id NUL user name, whose first byte is the QoS. */
#include "mm_error.h"
#include "mm_route.h"
#include "mm_template.h"

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

/* Cut a text off at a NUL. */
static const char *next(const char **at, size_t *left, size_t *len)
{
    const char *start = *at;
    const char *end = *left == 0 ? NULL : memchr(start, '\0', *left);
    *len = end == NULL ? *left : (size_t)(end - start);
    size_t used = end == NULL ? *left : *len + 1;
    *at += used;
    *left -= used;
    return start;
}

/* Fill it with no room, with little, and with enough: each a beginning of the next. */
static void fill(const struct mm_template *t, const struct mm_template_values *v)
{
    size_t len = mm_template_fill(t, v, NULL, 0);
    char *whole = malloc(len + 1);
    char *part = malloc(len / 2 + 1);
    check(whole != NULL && part != NULL);
    check(mm_template_fill(t, v, whole, len) == len);
    check(mm_template_fill(t, v, part, len / 2) == len);
    check(memcmp(whole, part, len / 2) == 0);
    check(!mm_template_is_topic(t) || (len == v->topic_len && memcmp(whole, v->topic, len) == 0));
    free(part);
    free(whole);
}

static void fill_name(const struct mm_template *t, const struct mm_template_values *v)
{
    static const char letters[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    char name[250];
    size_t len = mm_template_fill_name(t, v, name, sizeof name - 1);
    if (len >= sizeof name || mm_template_foreign(t, letters) > 0) {
        return;
    }
    name[len] = '\0';
    check(strspn(name, letters) == len);
    check(mm_route_is_kafka_topic(name) || (len == 0 && mm_template_is_constant(t)) ||
          strcmp(name, ".") == 0 || strcmp(name, "..") == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *at = (const char *)data;
    size_t left = size;
    size_t len;
    const char *text = next(&at, &left, &len);
    char *copy = strndup(text, len);
    check(copy != NULL);
    struct mm_template_values v = {.topic = NULL};
    v.topic = next(&at, &left, &v.topic_len);
    v.client_id = next(&at, &left, &v.client_id_len);
    v.username = next(&at, &left, &v.username_len);
    v.qos = v.username_len == 0 ? 0 : (unsigned)(uint8_t)v.username[0] % 3;
    struct mm_template *t = NULL;
    char errstr[128] = "";
    int err = mm_template_new(copy, &t, errstr, sizeof errstr);
    if (err == 0) {
        check(strcmp(mm_template_text(t), copy) == 0);
        fill(t, &v);
        fill_name(t, &v);
        mm_template_free(t);
    } else {
        check(err == MM_EINVAL && t == NULL && errstr[0] != '\0');
    }
    free(copy);
    return 0;
}
