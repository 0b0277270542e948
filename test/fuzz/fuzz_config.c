/* Options, one "name value" a line: never crashes; a refusal always says something, and every line
 * of it is short. */
#include "mm_config.h"

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MAX_OPTIONS 20

static void count_errors(void *arg, enum mm_log_level level, const char *line)
{
    if (strlen(line) > 2000) {
        abort();
    }
    if (level == MM_LOG_ERROR) {
        ++*(size_t *)arg;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1);
    if (text == NULL) {
        return 0;
    }
    memcpy(text, data, size);
    text[size] = '\0';
    struct mm_option options[MAX_OPTIONS];
    size_t n = 0;
    char *rest = NULL;
    for (char *line = strtok_r(text, "\n", &rest); line != NULL && n < MAX_OPTIONS;
         line = strtok_r(NULL, "\n", &rest)) {
        char *blank = strchr(line, ' ');
        if (blank != NULL) {
            *blank = '\0';
            options[n++] = (struct mm_option){line, blank + 1};
        }
    }
    size_t n_errors = 0;
    struct mm_config_source source = {
        .options = options, .n_options = n, .report = count_errors, .report_arg = &n_errors};
    struct mm_config *config;
    int err = mm_config_new(&source, &config);
    if ((err == 0) != (config != NULL) || (err == 0) != (n_errors == 0)) {
        abort();
    }
    if (config != NULL) {
        char described[512];
        mm_config_describe(config, described, sizeof described);
    }
    mm_config_free(config);
    free(text);
    return 0;
}
