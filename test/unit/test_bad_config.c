/* Every configuration of test/data/bad_config.txt, by the plugin's parser: refused, with these
 * errors and no others. The file describes its form. */
#include "mm_config.h"
#include "mm_error.h"
#include "mm_text.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define MAX_ERRORS 64
#define BODY_ROOM ((size_t)256 * 1024)

/* A case of the table, and what came of it. */
struct bad
{
    char name[128];
    char *body; /* of BODY_ROOM */
    size_t body_len;
    size_t n_expected;
    char expected[MAX_ERRORS][MM_FINDING_LINE_LEN]; /* "LINE: TEXT" */
    size_t n_told;
    char told[MAX_ERRORS][MM_FINDING_LINE_LEN]; /* "": found in expected */
};

/* Of the file; our own, so that two runs at a time do not meet. */
static char path[64];

static void add_bytes(struct bad *bad, char c, size_t n)
{
    assert_in_range(n, 0, BODY_ROOM - bad->body_len);
    memset(bad->body + bad->body_len, c, n);
    bad->body_len += n;
}

/* <<x*300>> or <<00FF>>. Returns what is behind it. */
static const char *add_special(struct bad *bad, const char *text)
{
    const char *end = strstr(text, ">>");
    assert_non_null(end);
    if (text[3] == '*') {
        add_bytes(bad, text[2], strtoul(text + 4, NULL, 10));
        return end + 2;
    }
    for (const char *c = text + 2; c < end; c += 2) {
        const char digits[] = {c[0], c[1], '\0'};
        add_bytes(bad, (char)strtoul(digits, NULL, 16), 1);
    }
    return end + 2;
}

static void add_line(struct bad *bad, const char *line)
{
    while (*line != '\0') {
        if (strncmp(line, "<<", 2) == 0) {
            line = add_special(bad, line);
        } else {
            add_bytes(bad, *line++, 1);
        }
    }
    add_bytes(bad, '\n', 1);
}

/* Expect a line, with the path of the file in place of FILE. */
static void add_expected(struct bad *bad, const char *text)
{
    assert_in_range(bad->n_expected, 0, MAX_ERRORS - 1);
    char *dst = bad->expected[bad->n_expected++];
    const char *found = strstr(text, "\"FILE\"");
    if (found == NULL) {
        snprintf(dst, sizeof bad->expected[0], "%s", text);
    } else {
        snprintf(dst, sizeof bad->expected[0], "%.*s\"%s\"%s", (int)(found - text), text, path,
                 found + strlen("\"FILE\""));
    }
}

static void take_finding(void *arg, const struct mm_finding *finding)
{
    struct bad *bad = arg;
    if (finding->level != MM_LOG_ERROR) {
        return;
    }
    assert_in_range(bad->n_told, 0, MAX_ERRORS - 1);
    assert_string_equal(finding->place.file, path);
    snprintf(bad->told[bad->n_told++], sizeof bad->told[0], "%u: %s", finding->place.line,
             finding->text);
}

/* The same lines, in any order; one that is told is taken out. */
static void compare(struct bad *bad)
{
    for (size_t i = 0; i < bad->n_expected; i++) {
        size_t k = 0;
        while (k < bad->n_told && strcmp(bad->told[k], bad->expected[i]) != 0) {
            k++;
        }
        if (k == bad->n_told) {
            fail_msg("%s: not told: %s\ntold first: %s", bad->name, bad->expected[i],
                     bad->n_told > 0 ? bad->told[0] : "(nothing)");
        }
        bad->told[k][0] = '\0';
    }
    for (size_t k = 0; k < bad->n_told; k++) {
        if (bad->told[k][0] != '\0') {
            fail_msg("%s: told, and not expected: %s", bad->name, bad->told[k]);
        }
    }
}

static void try_case(struct bad *bad)
{
    const struct mm_option option = {.name = "config_file", .value = path};
    const struct mm_config_source source = {
        .options = &option,
        .n_options = 1,
        .report = take_finding,
        .report_arg = bad,
        .form_only = true, /* the files that are named are on no machine */
    };
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bad->body, bad->body_len), bad->body_len);
    close(fd);
    if (bad->n_expected == 0) {
        fail_msg("%s: no error is expected", bad->name);
    }
    struct mm_config *config = NULL;
    const int rc = mm_config_new(&source, &config);
    if (rc != MM_EINVAL) {
        fail_msg("%s: taken", bad->name);
    }
    compare(bad);
    bad->n_expected = 0;
    bad->n_told = 0;
    bad->body_len = 0;
}

static void test_table(void **state)
{
    (void)state;
    static struct bad bad;
    bad.body = malloc(BODY_ROOM);
    size_t n = 0;
    char *line = NULL;
    size_t room = 0;
    FILE *table = fopen(MM_TEST_DATA_DIR "/bad_config.txt", "r");
    assert_non_null(table);
    assert_non_null(bad.body);
    snprintf(path, sizeof path, "/tmp/mm-test-bad-config-%d.conf", (int)getpid());
    while (getline(&line, &room, table) > 0) {
        line[strcspn(line, "\n")] = '\0';
        if (strncmp(line, "## ", 3) == 0) {
            if (n++ > 0) {
                try_case(&bad);
            }
            snprintf(bad.name, sizeof bad.name, "%s", line + 3);
        } else if (strncmp(line, "=> ", 3) == 0) {
            add_expected(&bad, line + 3);
        } else if (n > 0 && line[0] != '\0') {
            add_line(&bad, line);
        }
    }
    try_case(&bad);
    assert_in_range(n, 100, 100000);
    free(line);
    fclose(table);
    free(bad.body);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_table)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
