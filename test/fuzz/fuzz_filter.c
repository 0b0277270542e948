/* A list of filters and a topic, separated by the first NUL byte: never crashes, and what the set
 * says is what a plain matcher says for at least the one-filter lists. */
#include "mm_filter.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* MQTT 5.0 section 4.7, level by level. */
static bool plain_match(const char *filter, const char *topic)
{
    if (topic[0] == '$' && (filter[0] == '+' || filter[0] == '#')) {
        return false;
    }
    for (;;) {
        if (strcmp(filter, "#") == 0) {
            return true;
        }
        size_t f = strcspn(filter, "/");
        size_t t = strcspn(topic, "/");
        bool any = f == 1 && filter[0] == '+';
        if (!any && (f != t || memcmp(filter, topic, f) != 0)) {
            return false;
        }
        filter += f;
        topic += t;
        if (*topic == '\0') {
            return *filter == '\0' || strcmp(filter, "/#") == 0;
        }
        if (*filter == '\0') {
            return false;
        }
        filter++;
        topic++;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 2);
    if (text == NULL) {
        return 0;
    }
    memcpy(text, data, size);
    text[size] = '\0';
    text[size + 1] = '\0';
    const char *topic = text + strlen(text) + (strlen(text) < size ? 1 : 0);
    struct mm_filter_set *set;
    char errstr[200];
    if (mm_filter_set_new(text, &set, errstr, sizeof errstr) == 0) {
        bool match = mm_filter_set_match(set, topic, strlen(topic));
        bool plain = strpbrk(text, ",; \t\r\n\v\f") == NULL && strpbrk(topic, "+#") == NULL;
        if (plain && topic[0] != '\0' && match != plain_match(text, topic)) {
            abort();
        }
    } else if (strlen(errstr) == 0) {
        abort();
    }
    mm_filter_set_free(set);
    free(text);
    return 0;
}
