#include "dead.h"

#include "arguments.h"
#include "idset.h"
#include "letters.h"
#include "mm_config.h"
#include "mm_format.h"
#include "mm_text.h"
#include "properties.h"
#include "redrive.h"
#include "redriven.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define TIMEOUT_S 60
#define TIMEOUT_MAX_S 86400

/* kafka_broker, kafka_topic, json_field_names, and those of --set and --rdkafka.… */
#define MAX_SETTINGS 128

struct arguments
{
    const char *dir;
    bool json;
    bool all;
    struct idset ids;
    struct mm_option settings[MAX_SETTINGS];
    struct redrive_options redrive;
};

/* --- ls -----------------------------------------------------------------------------------------
 */

#define TIME_LEN 32

/* "2026-01-31 12:34:56", UTC. */
static const char *format_time(uint64_t ms, char dst[TIME_LEN])
{
    time_t seconds = (time_t)(ms / 1000);
    struct tm tm;
    if (ms == 0 || gmtime_r(&seconds, &tm) == NULL ||
        strftime(dst, TIME_LEN, "%Y-%m-%d %H:%M:%S", &tm) == 0) {
        snprintf(dst, TIME_LEN, "-");
    }
    return dst;
}

static const char row[] = "%-42s  %-19s  %-19s  %14s  %-8s  %-22s  %-20s  %s\n";

static void print_row(const struct mm_record *rec,
                      const struct mm_dead_view *view,
                      bool was_redriven)
{
    char id[MM_PRINTABLE_LEN];
    char received[TIME_LEN];
    char died[TIME_LEN];
    char bytes[32];
    char error[MM_PRINTABLE_LEN];
    char kafka_topic[MM_PRINTABLE_LEN];
    char topic[MM_PRINTABLE_LEN];
    snprintf(bytes, sizeof bytes, "%" PRIu64 "%s", view->payload_len,
             view->has_payload ? "" : " (gone)");
    printf(row, mm_printable(view->id.text, view->id.len, id, sizeof id),
           format_time(rec->time_ms, received), format_time(view->died_ms, died), bytes,
           was_redriven ? "yes" : "no",
           mm_printable(view->error.text, view->error.len, error, sizeof error),
           mm_printable(view->kafka_topic.text, view->kafka_topic.len, kafka_topic,
                        sizeof kafka_topic),
           mm_printable(rec->topic, rec->topic_len, topic, sizeof topic));
}

static void print_object(const struct mm_record *rec,
                         const struct mm_dead_view *view,
                         bool was_redriven)
{
    putchar('{');
    mm_dead_write_json(stdout, rec, view);
    printf(",\"redriven\":%s}\n", was_redriven ? "true" : "false");
}

static int list(struct letters *letters, const struct arguments *args)
{
    struct redriven *redriven;
    if (!redriven_open(letters_dir(letters), false, &redriven)) {
        return 1;
    }
    struct mm_record rec;
    struct mm_dead_view view;
    uint64_t n = 0;
    uint64_t n_redriven = 0;
    while (letters_next(letters, &rec, &view)) {
        bool was_redriven = redriven_has(redriven, view.id.text, view.id.len);
        if (args->json) {
            print_object(&rec, &view, was_redriven);
        } else {
            if (n == 0) {
                printf(row, "ID", "RECEIVED (UTC)", "DIED (UTC)", "BYTES", "REDRIVEN", "ERROR",
                       "KAFKA TOPIC", "MQTT TOPIC");
            }
            print_row(&rec, &view, was_redriven);
        }
        n++;
        n_redriven += was_redriven ? 1 : 0;
    }
    redriven_close(redriven);
    if (!args->json) {
        printf("%" PRIu64 " dead letter%s, %" PRIu64 " redriven\n", n, n == 1 ? "" : "s",
               n_redriven);
    }
    return letters_damaged(letters);
}

/* --- dump ---------------------------------------------------------------------------------------
 */

static bool print_with_payload(const struct mm_record *rec, const struct mm_dead_view *view)
{
    putchar('{');
    mm_dead_write_json(stdout, rec, view);
    if (!properties_write_json(stdout, rec)) {
        fprintf(stderr, "metamorphosis: out of memory\n");
        return false;
    }
    if (!view->has_payload) {
        puts(",\"payload\":null}");
        return true;
    }
    char *text = malloc(4 * (((size_t)rec->payload_len + 2) / 3) + 1);
    if (text == NULL) {
        fprintf(stderr, "metamorphosis: out of memory\n");
        return false;
    }
    size_t len = mm_base64_encode(rec->payload, rec->payload_len, text);
    fputs(",\"payload\":\"", stdout);
    fwrite(text, 1, len, stdout);
    puts("\"}");
    free(text);
    return true;
}

static bool print_payload(const struct mm_record *rec, const struct mm_dead_view *view)
{
    if (!view->has_payload) {
        char id[MM_PRINTABLE_LEN];
        fprintf(stderr, "metamorphosis: the payload of %s was not kept\n",
                mm_printable(view->id.text, view->id.len, id, sizeof id));
        return false;
    }
    fwrite(rec->payload, 1, rec->payload_len, stdout);
    return true;
}

/* A letter that is in the log twice is shown once, unless all are wanted. */
static int dump(struct letters *letters, const struct arguments *args)
{
    struct mm_record rec;
    struct mm_dead_view view;
    struct idset found = {0};
    bool good = true;
    while (letters_next(letters, &rec, &view)) {
        if (!args->all) {
            if (!idset_has(&args->ids, view.id.text, view.id.len) ||
                idset_has(&found, view.id.text, view.id.len)) {
                continue;
            }
            good = idset_add(&found, view.id.text, view.id.len) && good;
        }
        good = (args->json ? print_with_payload(&rec, &view) : print_payload(&rec, &view)) && good;
    }
    if (found.n_ids < args->ids.n_ids) {
        fprintf(stderr, "metamorphosis: no such dead letter (%zu of %zu ids were found)\n",
                found.n_ids, args->ids.n_ids);
        good = false;
    }
    idset_fini(&found);
    return !good || letters_damaged(letters);
}

/* --- arguments ----------------------------------------------------------------------------------
 */

static bool complain(const char *argument, const char *expected)
{
    char text[MM_PRINTABLE_LEN];
    fprintf(stderr, "metamorphosis: %s: %s\n",
            mm_printable(argument, strlen(argument), text, sizeof text), expected);
    return false;
}

static bool add_setting(struct arguments *args, const char *name, const char *value)
{
    if (args->redrive.n_settings == MAX_SETTINGS) {
        return complain(name, "these are too many settings");
    }
    args->settings[args->redrive.n_settings++] = (struct mm_option){name, value};
    return true;
}

static bool add_id(struct arguments *args, const char *id)
{
    if (!idset_is_id(id, strlen(id))) {
        return complain(id, "expected the id of a letter, as dead ls shows it");
    }
    return idset_add(&args->ids, id, strlen(id)) || complain(id, "out of memory");
}

static bool take_format(struct arguments *args, const char *value)
{
    args->redrive.raw = strcmp(value, "raw") == 0;
    return args->redrive.raw || strcmp(value, "json") == 0 ||
           complain(value, "expected --format json or raw");
}

static bool take_timeout(struct arguments *args, const char *value)
{
    return argument_number("timeout", value, 1, TIMEOUT_MAX_S, &args->redrive.timeout_s);
}

static bool take_kafka(struct arguments *args, const char *value)
{
    return add_setting(args, "kafka_broker", value);
}

static bool take_topic(struct arguments *args, const char *value)
{
    args->redrive.topic = value;
    return add_setting(args, "kafka_topic", value);
}

static bool take_field_names(struct arguments *args, const char *value)
{
    return add_setting(args, "json_field_names", value);
}

static bool take_json(struct arguments *args, const char *value)
{
    (void)value;
    return args->json = true;
}

static bool take_all(struct arguments *args, const char *value)
{
    (void)value;
    return args->all = true;
}

static bool take_again(struct arguments *args, const char *value)
{
    (void)value;
    return args->redrive.again = true;
}

static bool take_dry_run(struct arguments *args, const char *value)
{
    (void)value;
    return args->redrive.dry_run = true;
}

enum {
    LS = 1,
    DUMP = 2,
    REDRIVE = 4
};

static const struct option
{
    const char *name;
    unsigned int of; /* which commands have it */
    bool has_value;
    bool (*take)(struct arguments *args, const char *value);
} options[] = {
    {"--json", LS | DUMP, false, take_json},
    {"--all", DUMP, false, take_all},
    {"--kafka", REDRIVE, true, take_kafka},
    {"--topic", REDRIVE, true, take_topic},
    {"--id", REDRIVE, true, add_id},
    {"--again", REDRIVE, false, take_again},
    {"--dry-run", REDRIVE, false, take_dry_run},
    {"--format", REDRIVE, true, take_format},
    {"--json-field-names", REDRIVE, true, take_field_names},
    {"--timeout", REDRIVE, true, take_timeout},
};

#define N_OPTIONS (sizeof options / sizeof options[0])

/* NAME=VALUE. argv[] is ours: the name ends where the '=' was. */
static bool take_setting(struct arguments *args, char *argument, const char *expected)
{
    char *equals = strchr(argument, '=');
    if (equals == NULL) {
        return complain(argument, expected);
    }
    *equals = '\0';
    return add_setting(args, argument, equals + 1);
}

/* One option, at argv[*i]; moves *i to its last argument. */
static bool take_option(struct arguments *args, unsigned int command, char **argv, int *i)
{
    char *argument = argv[*i];
    if (command == REDRIVE && strncmp(argument, "--rdkafka.", strlen("--rdkafka.")) == 0) {
        return take_setting(args, argument + strlen("--"), "expected --rdkafka.PROPERTY=VALUE");
    }
    if (command == REDRIVE && strcmp(argument, "--set") == 0 && argv[*i + 1] != NULL) {
        return take_setting(args, argv[++*i], "expected --set NAME=VALUE");
    }
    for (size_t k = 0; k < N_OPTIONS; k++) {
        const struct option *o = &options[k];
        size_t len = strlen(o->name);
        if ((o->of & command) == 0 || strncmp(argument, o->name, len) != 0) {
            continue;
        }
        if (argument[len] == '=' && o->has_value) {
            return o->take(args, argument + len + 1);
        }
        if (argument[len] == '\0') {
            if (o->has_value && argv[*i + 1] == NULL) {
                return complain(argument, "a value is missing");
            }
            return o->take(args, o->has_value ? argv[++*i] : NULL);
        }
    }
    return complain(argument, "unknown option");
}

/* The directory, and for dump the ids behind it. */
static bool take_operand(struct arguments *args, unsigned int command, const char *argument)
{
    if (args->dir == NULL) {
        args->dir = argument;
        return true;
    }
    return command == DUMP ? add_id(args, argument) : complain(argument, "one DIR is enough");
}

static bool is_complete(const struct arguments *args, unsigned int command)
{
    if (args->dir == NULL) {
        return complain("DIR", "missing: the directory of the spool, or a copy of it");
    }
    if (command == DUMP && args->all == (args->ids.n_ids > 0)) {
        return complain("dump", "expected ids or --all");
    }
    bool has_kafka = false;
    for (size_t i = 0; i < args->redrive.n_settings; i++) {
        has_kafka = has_kafka || strcmp(args->settings[i].name, "kafka_broker") == 0;
    }
    return command != REDRIVE || has_kafka || args->redrive.dry_run ||
           complain("--kafka", "missing: where the letters are to be sent");
}

/* argv[0] is "ls" or its like. */
static bool parse(struct arguments *args, unsigned int command, int argc, char **argv)
{
    bool options_end = false;
    for (int i = 1; i < argc; i++) {
        bool good = true;
        if (!options_end && strcmp(argv[i], "--") == 0) {
            options_end = true;
        } else if (!options_end && argv[i][0] == '-' && argv[i][1] != '\0') {
            good = take_option(args, command, argv, &i);
        } else {
            good = take_operand(args, command, argv[i]);
        }
        if (!good) {
            return false;
        }
    }
    return is_complete(args, command);
}

static int run(const struct arguments *args, unsigned int command)
{
    struct letters *letters;
    if (!letters_open(args->dir, &letters)) {
        return 1;
    }
    int result = command == LS     ? list(letters, args)
                 : command == DUMP ? dump(letters, args)
                                   : redrive(letters, &args->redrive);
    letters_close(letters);
    return result;
}

static const char help[] =
    "usage: metamorphosis dead ls [--json] DIR\n"
    "       metamorphosis dead dump [--json] DIR ID...|--all\n"
    "       metamorphosis dead redrive --kafka HOST:PORT [OPTION]... DIR\n"
    "\n"
    "DIR is the directory of a spool (spool_dir), in use or not, a copy of it, or its dead/ "
    "alone.\n"
    "Nothing is locked and nothing changed, but that redrive notes in DIR/dead/redriven what it\n"
    "has delivered.\n"
    "\n"
    "  ls        list the letters\n"
    "    --json            one JSON object a line\n"
    "  dump      write payloads to standard output\n"
    "    --json            one JSON object a line, with the payload in base64\n"
    "    --all             of all letters, one behind the other\n"
    "  redrive   send letters to Kafka again, as the plugin would have; each once\n"
    "    --kafka HOST:PORT[,HOST:PORT]...  the cluster\n"
    "    --topic T         to this Kafka topic, not to the one that a letter was meant for\n"
    "    --id ID           only this letter; may be repeated\n"
    "    --again           those too that were redriven before\n"
    "    --dry-run         only say what would be sent\n"
    "    --set NAME=VALUE  an option of the plugin, such as route, kafka_key, payload_format and\n"
    "                      kafka_headers; may be repeated\n"
    "    --format F        json (as the plugin; the default), or raw: the payload as it is\n"
    "    --json-field-names A,B  as the plugin's option json_field_names\n"
    "    --timeout S       give up when Kafka says nothing for so many seconds (60)\n"
    "    --rdkafka.PROPERTY=VALUE  a setting of the Kafka client, as the plugin's option\n"
    "\n"
    "Exit codes: 0 good, 1 something bad was found or happened, 2 wrong use.\n";

/* Also behind the name of a command, as with spool. */
static bool wants_help(int argc, char **argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            return true;
        }
    }
    return false;
}

int run_dead(int argc, char **argv)
{
    if (wants_help(argc, argv)) {
        fputs(help, stdout);
        return 0;
    }
    static const struct
    {
        const char *name;
        unsigned int command;
    } commands[] = {{"ls", LS}, {"dump", DUMP}, {"redrive", REDRIVE}};
    unsigned int command = 0;
    for (size_t i = 0; argc > 1 && i < sizeof commands / sizeof commands[0]; i++) {
        command = strcmp(argv[1], commands[i].name) == 0 ? commands[i].command : command;
    }
    if (command == 0) {
        return 2;
    }
    struct arguments args = {.redrive = {.timeout_s = TIMEOUT_S}};
    args.redrive.settings = args.settings;
    args.redrive.ids = &args.ids;
    int result = parse(&args, command, argc - 1, argv + 1) ? run(&args, command) : 2;
    idset_fini(&args.ids);
    return result;
}
