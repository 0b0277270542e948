/* Any bytes as a config_file: each line is a setting, or nothing, or told; a setting has a name
 * without a blank and a value without one at its ends; the file alone decides, byte for byte. */
#include "mm_config_file.h"
#include "mm_text.h"

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool good)
{
    if (!good) {
        abort();
    }
}

static void count(void *arg, const struct mm_finding *finding)
{
    check(finding->level == MM_LOG_ERROR && finding->place.line > 0 && finding->text[0] != '\0');
    ++*(size_t *)arg;
}

static void check_option(const struct mm_option *option, struct mm_place place, size_t n_lines)
{
    const size_t name_len = strlen(option->name);
    const size_t value_len = strlen(option->value);
    check(name_len > 0 && option->name[0] != '#');
    for (size_t i = 0; i < name_len; i++) {
        check(!mm_is_blank(option->name[i]));
    }
    check(value_len == 0 ||
          (!mm_is_blank(option->value[0]) && !mm_is_blank(option->value[value_len - 1])));
    check(strchr(option->value, '\n') == NULL);
    check(mm_utf8_valid(option->name, name_len) && mm_utf8_valid(option->value, value_len));
    check(place.line >= 1 && place.line <= n_lines);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct mm_config_file *file = NULL;
    size_t n_told = 0;
    size_t n_lines = 1;
    for (size_t i = 0; i < size; i++) {
        n_lines += data[i] == '\n';
    }
    if (mm_config_file_parse((const char *)data, size, "f", count, &n_told, &file) != 0) {
        return 0;
    }
    check(n_told == file->n_mistakes && file->n_options + n_told <= n_lines);
    for (size_t i = 0; i < file->n_options; i++) {
        check_option(&file->options[i], file->places[i], n_lines);
        check(i == 0 || file->places[i].line > file->places[i - 1].line);
    }
    mm_config_file_free(file);
    return 0;
}
