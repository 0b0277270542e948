/* The tool's commands, each in a process of its own: it ends in order; and what it prints with the
 * exit code of good is what it prints when nothing fails. */
#include "starve.h"
#include "starve_life.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    N_ARGUMENTS = 10,
    MAX_OUTPUT = 1 << 20,
    WRONG_ADDRESS = 99 /* exit code of the sanitizers */
};

static char config_file[256];
static char payload_file[256];
static char failed_file[256];
static char output_file[256];
static const char *spool_dir;

static void write_text(char path[256], const char *name, const char *text)
{
    CHECK(snprintf(path, 256, "%s/%s", starve_dir, name) < 256);
    FILE *file = fopen(path, "we");
    CHECK(file != NULL && fputs(text, file) >= 0 && fclose(file) == 0);
}

static void prepare(void)
{
    write_text(config_file, "tool.conf",
               "mqtt_topic a/#\nkafka_topic_allow t.*\nroute a/# t.${topic} key=${clientid} "
               "headers=user:*\nhealth_port 0\n");
    write_text(payload_file, "payload", "payload");
    CHECK(snprintf(failed_file, sizeof failed_file, "%s/failed", starve_dir) < 256);
    CHECK(snprintf(output_file, sizeof output_file, "%s/output", starve_dir) < 256);
}

static void prepare_spool(void)
{
    prepare();
    spool_dir = starve_left_spool(false);
}

static void prepare_damaged(void)
{
    prepare();
    spool_dir = starve_left_spool(true);
}

/* In the child. */
static void execute(const char *const *arguments, const char *faults)
{
    const int out = open(output_file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    const int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
    if (out < 0 || nowhere < 0 || dup2(out, STDOUT_FILENO) < 0 ||
        dup2(nowhere, STDERR_FILENO) < 0 || setenv("MM_STARVE_FAILED", failed_file, 1) != 0 ||
        setenv("ASAN_OPTIONS", "exitcode=99", 1) != 0 ||
        (faults != NULL && setenv(STARVE_VARIABLE, faults, 1) != 0)) {
        _exit(WRONG_ADDRESS);
    }
    const char *argv[N_ARGUMENTS + 2] = {STARVED_TOOL};
    for (size_t i = 0; i < N_ARGUMENTS && arguments[i] != NULL; i++) {
        argv[i + 1] = arguments[i];
    }
    execv(argv[0], (char *const *)argv);
    _exit(WRONG_ADDRESS);
}

/* Returns the exit code, and what was printed, malloc'ed. */
static int run_tool(const char *const *arguments, const char *faults, char **output)
{
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        execute(arguments, faults);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) != WRONG_ADDRESS);
    *output = calloc(1, MAX_OUTPUT);
    const int fd = open(output_file, O_RDONLY | O_CLOEXEC);
    CHECK(*output != NULL && fd >= 0 && read(fd, *output, MAX_OUTPUT - 1) >= 0);
    close(fd);
    return WEXITSTATUS(status);
}

static void live(const char *const *arguments)
{
    char faults[STARVE_TEXT_LEN];
    starve_write(faults);
    starve_pause();
    (void)unlink(failed_file);
    char *expected = NULL;
    char *output = NULL;
    const int good = run_tool(arguments, NULL, &expected);
    const int code = run_tool(arguments, faults, &output);
    const bool is_told = strstr(output, "\"level\":\"warning\"") != NULL; /* of check-config */
    CHECK(code != 0 || is_told || (good == 0 && strcmp(output, expected) == 0));
    free(expected);
    free(output);
    starve_tell(access(failed_file, F_OK) == 0);
    starve_go_on();
}

#define LIVE(name, ...)                                                 \
    static void name(void)                                              \
    {                                                                   \
        const char *const arguments[N_ARGUMENTS] = {__VA_ARGS__, NULL}; \
        live(arguments);                                                \
    }

LIVE(live_check, "check-config", "--config-file", "--json", config_file)
LIVE(live_route,
     "route",
     "--config",
     config_file,
     "--topic",
     "a/b",
     "--payload",
     payload_file,
     "--user-property",
     "a=b")
LIVE(live_ls, "spool", "ls", "--json", spool_dir)
LIVE(live_dump, "spool", "dump", "--json", spool_dir)
LIVE(live_verify, "spool", "verify", "--json", spool_dir)
LIVE(live_repair, "spool", "repair", "--rewrite", "--dry-run", spool_dir)

const struct starve_life starve_tool[] = {
    {"tool-check", true, prepare, live_check, NULL},
    {"tool-route", true, prepare, live_route, NULL},
    {"tool-ls", true, prepare_spool, live_ls, NULL},
    {"tool-dump", true, prepare_spool, live_dump, NULL},
    {"tool-verify", true, prepare_spool, live_verify, NULL},
    {"tool-verify-bad", true, prepare_damaged, live_verify, NULL},
    {"tool-repair", true, prepare_damaged, live_repair, NULL},
    {NULL, false, NULL, NULL, NULL},
};
