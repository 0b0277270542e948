/* metamorphosis - the command-line tool.
 *
 * Exit codes: 0 good, 1 something bad was found or happened, 2 wrong use. */
#include "check.h"
#include "dead.h"
#include "health.h"
#include "mm_config.h"
#include "mm_kafka.h"
#include "mm_version.h"
#include "mock_kafka.h"
#include "prove.h"
#include "route.h"
#include "spool.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

struct command
{
    const char *name;
    const char *usage;
    const char *what;
    int (*run)(int argc, char **argv); /* argv[0] is the command's name */
    bool explains;                     /* says itself what was wrong with its use */
    const char *help;                  /* for --help, behind what; NULL: no more to say */
};

static int run_version(int argc, char **argv)
{
    (void)argv;
    if (argc > 1) {
        return 2;
    }
    printf("metamorphosis %s (librdkafka %s)\n", MM_VERSION, mm_kafka_version());
    return 0;
}

static int run_options(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--man") == 0) {
        return mm_config_write_man(stdout) == 0 ? 0 : 1;
    }
    if (argc > 1) {
        return 2;
    }
    return mm_config_write_reference(stdout) == 0 ? 0 : 1;
}

static const struct command commands[] = {
    {"check-config", CHECK_USAGE,
     "a mosquitto.conf or a config_file: every mistake in it, and what on this machine is at odds "
     "with\n"
     "      it; with --connect also what Kafka says",
     run_check_config, false, check_help},
    {"dead", DEAD_USAGE,
     "dead letters in the directory of a spool, or in a copy of it: list them, show their "
     "payloads,\n"
     "      send them to Kafka again",
     run_dead, false, NULL},
    {"health", HEALTH_USAGE, "ask the broker on this machine how it is", run_health, false,
     health_help},
    {"mock-kafka", MOCK_KAFKA_USAGE,
     "serve Kafka's protocol from memory, for trying things out; until SIGINT or SIGTERM",
     run_mock_kafka, false, NULL},
    {"options", "[--man]", "print the option reference, in Markdown or as a manual page",
     run_options, false, NULL},
    {"prove", PROVE_USAGE,
     "kill a broker of its own again and again under load, and see that Kafka has all that was\n"
     "      acknowledged",
     run_prove, false, prove_help},
    {"route", ROUTE_USAGE,
     "what becomes of a message: route, Kafka topic, key, partition, headers, size", run_route,
     false, route_help},
    {"spool", SPOOL_USAGE,
     "the directory of a spool, in use or not, or a copy of it: list its files, show how it is,\n"
     "      read every byte, show records, send them to Kafka again, mend what is damaged",
     run_spool, true, NULL},
    {"version", "", "print the version", run_version, false, NULL},
};

#define N_COMMANDS (sizeof commands / sizeof commands[0])

/* How a command is called; no newline. */
static void print_call(FILE *stream, const struct command *command)
{
    fprintf(stream, "%s%s%s", command->name, command->usage[0] == '\0' ? "" : " ", command->usage);
}

static void print_usage(FILE *stream, const struct command *command)
{
    fputs("usage: metamorphosis ", stream);
    print_call(stream, command);
    fputc('\n', stream);
}

static void print_help(FILE *stream)
{
    fprintf(stream, "usage: metamorphosis COMMAND [ARGUMENTS]\n\n");
    for (size_t i = 0; i < N_COMMANDS; i++) {
        fputs("  ", stream);
        print_call(stream, &commands[i]);
        fprintf(stream, "\n      %s\n", commands[i].what);
    }
}

static void print_command_help(const struct command *command)
{
    print_usage(stdout, command);
    printf("\n      %s\n", command->what);
    if (command->help != NULL) {
        printf("\n%s", command->help);
    }
}

static const struct command *find_command(const char *name)
{
    for (size_t i = 0; i < N_COMMANDS; i++) {
        if (strcmp(commands[i].name, name) == 0) {
            return &commands[i];
        }
    }
    return NULL;
}

/* Was all that is on standard output written? Otherwise the command has failed, whatever it says.
 */
static int end_output(int result)
{
    if (fflush(stdout) == 0 && !ferror(stdout)) {
        return result;
    }
    fprintf(stderr, "metamorphosis: standard output cannot be written\n");
    return result == 0 ? 1 : result;
}

static int run(int argc, char **argv)
{
    if (argc < 2) {
        print_help(stderr);
        return 2;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0) {
        print_help(stdout);
        return 0;
    }
    const struct command *command =
        find_command(strcmp(argv[1], "--version") == 0 ? "version" : argv[1]);
    if (command == NULL) {
        fprintf(stderr, "metamorphosis: unknown command \"%s\"\n", argv[1]);
        print_help(stderr);
        return 2;
    }
    if (argc == 3 && !command->explains &&
        (strcmp(argv[2], "--help") == 0 || strcmp(argv[2], "-h") == 0)) {
        print_command_help(command);
        return 0;
    }
    int result = command->run(argc - 1, argv + 1);
    if (result == 2 && !command->explains) {
        print_usage(stderr, command);
    }
    return result;
}

int main(int argc, char **argv)
{
    return end_output(run(argc, argv));
}
