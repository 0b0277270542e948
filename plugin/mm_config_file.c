#include "mm_config_file.h"

#include "mm_error.h"
#include "mm_text.h"
#include "mm_watch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* What is wrong with a line's form; NULL: nothing. */
static const char *fault_of(const char *line, size_t len)
{
    if (memchr(line, '\0', len) != NULL) {
        return "the line has a NUL byte";
    }
    return mm_utf8_valid(line, len) ? NULL : "the line is not UTF-8";
}

/* Take a line, which ends in a NUL, apart in place; false: there is no setting in it. */
static bool split_line(char *line, struct mm_option *out)
{
    char *name = mm_trim(line);
    if (name[0] == '\0' || name[0] == '#') {
        return false;
    }
    char *end = name;
    while (*end != '\0' && !mm_is_blank(*end)) {
        end++;
    }
    char *value = *end != '\0' ? mm_trim(end + 1) : end;
    *end = '\0';
    *out = (struct mm_option){.name = name, .value = value};
    return true;
}

static void split_text(struct mm_config_file *file,
                       char *text,
                       size_t len,
                       const char *path,
                       mm_config_report_fn report,
                       void *report_arg)
{
    struct mm_place place = {.file = path, .line = 0};
    char *const end = text + len;
    while (text < end) {
        char *next = memchr(text, '\n', (size_t)(end - text));
        next = next != NULL ? next : end;
        *next = '\0'; /* at the end: the text's own */
        place.line++;
        const char *fault = fault_of(text, (size_t)(next - text));
        if (fault != NULL) {
            const struct mm_finding finding = {MM_LOG_ERROR, place, fault};
            file->n_mistakes++;
            if (report != NULL) {
                report(report_arg, &finding);
            }
        } else if (split_line(text, &file->options[file->n_options])) {
            file->places[file->n_options++] = place;
        }
        text = next + 1;
    }
}

static size_t count_lines(const char *text, size_t len)
{
    size_t n = 1;
    for (size_t i = 0; i < len; i++) {
        n += text[i] == '\n';
    }
    return n;
}

int mm_config_file_parse(const char *text,
                         size_t len,
                         const char *path,
                         mm_config_report_fn report,
                         void *report_arg,
                         struct mm_config_file **out)
{
    static const char mark[] = "\xEF\xBB\xBF"; /* as editors of Windows write it */
    const uint64_t sum = mm_watch_add_content(MM_WATCH_EMPTY, text, len);
    if (len >= strlen(mark) && memcmp(text, mark, strlen(mark)) == 0) {
        text += strlen(mark);
        len -= strlen(mark);
    }
    *out = NULL;
    struct mm_config_file *file = calloc(1, sizeof *file);
    if (file == NULL) {
        return MM_ENOMEM;
    }
    const size_t n_lines = count_lines(text, len);
    file->options = calloc(n_lines, sizeof *file->options);
    file->places = calloc(n_lines, sizeof *file->places);
    file->text = malloc(len + 1);
    if (file->options == NULL || file->places == NULL || file->text == NULL) {
        mm_config_file_free(file);
        return MM_ENOMEM;
    }
    file->sum = sum;
    memcpy(file->text, text, len);
    file->text_len = len;
    file->text[len] = '\0';
    split_text(file, file->text, len, path, report, report_arg);
    *out = file;
    return 0;
}

/* Read all of fd into a new buffer of MM_CONFIG_FILE_MAX + 1 bytes. */
static int read_all(int fd, char **out, size_t *out_len, char *errstr, size_t errstr_len)
{
    char *text = malloc(MM_CONFIG_FILE_MAX + 1);
    if (text == NULL) {
        return MM_ENOMEM;
    }
    size_t len = 0;
    ssize_t n = 1;
    while (n != 0 && len <= MM_CONFIG_FILE_MAX) {
        n = read(fd, text + len, MM_CONFIG_FILE_MAX + 1 - len);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            snprintf(errstr, errstr_len, "%s", strerror(errno));
            free(text);
            return MM_EIO;
        }
        len += (size_t)n;
    }
    if (len > MM_CONFIG_FILE_MAX) {
        snprintf(errstr, errstr_len, "it is larger than %zu bytes", MM_CONFIG_FILE_MAX);
        free(text);
        return MM_ETOOBIG;
    }
    *out = text;
    *out_len = len;
    return 0;
}

int mm_config_file_read(const char *path,
                        mm_config_report_fn report,
                        void *report_arg,
                        struct mm_config_file **out,
                        char *errstr,
                        size_t errstr_len)
{
    *out = NULL;
    struct stat st;
    char *text = NULL;
    size_t len = 0;
    int rc = MM_EIO;
    /* O_NONBLOCK: a pipe without a writer must not hold up the broker. */
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st) != 0) {
        snprintf(errstr, errstr_len, "%s", strerror(errno));
        goto out;
    }
    if (!S_ISREG(st.st_mode)) {
        snprintf(errstr, errstr_len, "%s",
                 S_ISDIR(st.st_mode) ? strerror(EISDIR) : "it is not a regular file");
        goto out;
    }
    rc = read_all(fd, &text, &len, errstr, errstr_len);
    if (rc == 0) {
        rc = mm_config_file_parse(text, len, path, report, report_arg, out);
    }
    if (rc == 0) {
        (*out)->mode = (unsigned)st.st_mode & 07777;
    }
out:
    if (text != NULL) {
        explicit_bzero(text, len);
    }
    free(text);
    if (fd >= 0) {
        close(fd);
    }
    return rc;
}

void mm_config_file_free(struct mm_config_file *file)
{
    if (file == NULL) {
        return;
    }
    if (file->text != NULL) {
        explicit_bzero(file->text, file->text_len); /* there may be secrets in it */
    }
    free(file->text);
    free(file->places);
    free(file->options);
    free(file);
}
