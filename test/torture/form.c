#include "form.h"

#include <stdlib.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED true
#else
#define SANITIZED false
#endif

bool form_is_long(void)
{
    const char *value = getenv("MM_TEST_LONG");
    return value != NULL && *value != '\0' && strcmp(value, "0") != 0;
}

uint64_t form_pick(uint64_t usual, uint64_t sanitized, uint64_t all)
{
    if (form_is_long()) {
        return all;
    }
    return SANITIZED ? sanitized : usual;
}

bool form_seed(uint64_t *seed)
{
    const char *value = getenv("MM_TEST_SEED");
    if (value == NULL) {
        return false;
    }
    *seed = strtoull(value, NULL, 10);
    return true;
}
