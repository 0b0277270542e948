#include "mm_headers.h"

#include "mm_error.h"
#include "mm_text.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char user_prefix[] = "user:";

struct mm_headers
{
    char *text;
    char *words; /* the list with a NUL for each ',' */
    unsigned fields;
    size_t n_patterns;     /* 0: all user properties */
    const char **patterns; /* in words */
};

static const struct
{
    const char *name;
    unsigned fields;
} names[] = {
    {"all", UINT32_C(0x7FF) & ~(unsigned)MM_HEADERS_USERNAME},
    {"topic", MM_HEADERS_TOPIC},
    {"qos", MM_HEADERS_QOS},
    {"retain", MM_HEADERS_RETAIN},
    {"client_id", MM_HEADERS_CLIENT_ID},
    {"username", MM_HEADERS_USERNAME},
    {"content_type", MM_HEADERS_CONTENT_TYPE},
    {"response_topic", MM_HEADERS_RESPONSE_TOPIC},
    {"correlation_data", MM_HEADERS_CORRELATION_DATA},
    {"payload_format", MM_HEADERS_PAYLOAD_FORMAT},
    {"time", MM_HEADERS_TIME},
    {"user", MM_HEADERS_USER},
};

#define N_NAMES (sizeof names / sizeof names[0])

/* Take one word. Returns what is wrong with it; NULL: nothing. */
static const char *add_word(struct mm_headers *h, const char *word)
{
    if (word[0] == '\0') {
        return "is empty";
    }
    if (strncmp(word, user_prefix, strlen(user_prefix)) == 0) {
        if (word[strlen(user_prefix)] == '\0') {
            return "has no pattern";
        }
        h->fields |= MM_HEADERS_USER;
        h->patterns[h->n_patterns++] = word + strlen(user_prefix);
        return NULL;
    }
    for (size_t i = 0; i < N_NAMES; i++) {
        if (mm_equal_in_any_case(word, names[i].name)) {
            h->fields |= names[i].fields;
            return NULL;
        }
    }
    return mm_equal_in_any_case(word, "none") ? "stands alone" : "is unknown";
}

static int add_words(struct mm_headers *h, char *errstr, size_t errstr_len)
{
    char *rest = h->words;
    while (rest != NULL) {
        const char *word = mm_trim(strsep(&rest, ","));
        const char *wrong = add_word(h, word);
        if (wrong != NULL) {
            char shown[MM_PRINTABLE_LEN];
            snprintf(errstr, errstr_len, "\"%s\" %s",
                     mm_printable(word, strlen(word), shown, sizeof shown), wrong);
            return MM_EINVAL;
        }
    }
    return 0;
}

int mm_headers_new(const char *list, struct mm_headers **out, char *errstr, size_t errstr_len)
{
    *out = NULL;
    size_t n_words = 1;
    for (const char *c = list; *c != '\0'; c++) {
        n_words += *c == ',';
    }
    struct mm_headers *h = calloc(1, sizeof *h);
    if (h == NULL) {
        return MM_ENOMEM;
    }
    h->text = strdup(list);
    h->words = strdup(list);
    h->patterns = calloc(n_words, sizeof *h->patterns);
    int err = h->text == NULL || h->words == NULL || h->patterns == NULL ? MM_ENOMEM : 0;
    if (err == 0 && !mm_equal_in_any_case(list, "none")) {
        err = add_words(h, errstr, errstr_len);
    }
    if (err != 0) {
        mm_headers_free(h);
        return err;
    }
    *out = h;
    return 0;
}

void mm_headers_free(struct mm_headers *h)
{
    if (h == NULL) {
        return;
    }
    free(h->patterns);
    free(h->words);
    free(h->text);
    free(h);
}

const char *mm_headers_text(const struct mm_headers *h)
{
    return h->text;
}

unsigned mm_headers_fields(const struct mm_headers *h)
{
    return h->fields;
}

bool mm_headers_takes(const struct mm_headers *h, const char *name, size_t name_len)
{
    for (size_t i = 0; i < h->n_patterns; i++) {
        if (mm_glob(h->patterns[i], name, name_len)) {
            return true;
        }
    }
    return h->n_patterns == 0;
}
