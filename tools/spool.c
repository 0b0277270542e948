#include "spool.h"

#include "mm_error.h"
#include "mm_json.h"
#include "spool_args.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    LS = 1,
    STAT = 2,
    VERIFY = 4,
    DUMP = 8,
    REPLAY = 16,
    REPAIR = 32,
};

#define DEFAULT_TIMEOUT_S 60
#define MAX_TIMEOUT_S 86400

/* --- the commands -------------------------------------------------------------------------------
 */

struct spool_command
{
    const char *name;
    unsigned bit;
    const char *needs; /* what must be given besides DIR */
    const char *what;
    const char *more;
    int (*run)(const struct spool_args *args);
};

static const struct spool_command commands[] = {
    {"ls", LS, "", "list the segment files",
     "One line a file, in the order of the log: what it holds, since when, its bytes and its\n"
     "state: sealed (takes no more records), open (is written, or was when the broker ended),\n"
     "spare (prepared, without records), damaged (cannot be read; verify says why).\n",
     spool_ls},
    {"stat", STAT, "", "show whose the spool is and how much waits in it",
     "Records that wait for Kafka are those behind what STATE calls finished. While the broker\n"
     "runs, STATE is a moment old.\n",
     spool_stat},
    {"verify", VERIFY, "", "read every byte and tell each piece of damage",
     "For each: the file, the place, and which records are lost by it. Those in use may be\n"
     "verified too: what is being written is no damage. Exit code 1 when anything is wrong.\n",
     spool_verify},
    {"dump", DUMP, "", "show the records",
     "Of the log in DIR alone: DIR/parked/KAFKA_TOPIC and DIR/dead are logs of their own.\n"
     "Damage on the way is told on standard error (as objects in between, with --json); exit\n"
     "code 1 then.\n",
     spool_dump},
    {"replay", REPLAY, "--kafka HOST:PORT --topic T", "send the records to Kafka again",
     "As the plugin would: the same value, key, header mm-id and time, in order for each MQTT\n"
     "topic. Without --all, --from and --to: those that are not finished, and those parked, as\n"
     "STATE tells: what was lost with a broker that does not come back. Nothing in DIR is\n"
     "changed: a broker that starts there sends the same records again.\n"
     "Kafka topics are chosen as by the plugin: --topic is its option kafka_topic, and\n"
     "--set route=... works as in mosquitto.conf. A record that Kafka refuses is told and does\n"
     "not hold up the others. Exit code 1 when any was not delivered.\n",
     spool_replay},
    {"repair", REPAIR, "", "mend what can be mended, when no broker has the spool",
     "A header copy is written from the other one; a damaged seal from the records; a segment\n"
     "without a good header is moved to bad/; when no slot of STATE is good, both are written\n"
     "with everything unfinished, so that all records are delivered again. Nothing else is\n"
     "removed. Take a copy of DIR before: `cp -a DIR COPY`.\n",
     spool_repair},
};

#define N_COMMANDS (sizeof commands / sizeof commands[0])

/* --- the options --------------------------------------------------------------------------------
 */

enum kind {
    FLAG,    /* bool */
    NUMBER,  /* uint64_t, from 1 */
    SECONDS, /* uint32_t */
    TEXT,    /* const char * */
    SETTING, /* NAME=VALUE of the plugin */
};

static const struct option
{
    const char *name;
    const char *value; /* its name in the help; NULL: it has none */
    unsigned commands;
    enum kind kind;
    size_t offset; /* in struct spool_args */
    const char *what;
} options[] = {
#define AT(member) offsetof(struct spool_args, member)
    {"--from", "SEQ", DUMP | REPLAY, NUMBER, AT(from), "from this record on"},
    {"--to", "SEQ", DUMP | REPLAY, NUMBER, AT(to), "up to this record"},
    {"--topic", "FILTER", DUMP, TEXT, AT(topic),
     "only MQTT topics that match; several separated by ','"},
    {"--pending", NULL, DUMP, FLAG, AT(pending), "only records that are not finished"},
    {"--limit", "N", DUMP, NUMBER, AT(limit), "at most so many records"},
    {"--kafka", "HOST:PORT", REPLAY, TEXT, AT(kafka), "the cluster; several separated by ','"},
    {"--topic", "T", REPLAY, TEXT, AT(topic), "the Kafka topic"},
    {"--all", NULL, REPLAY, FLAG, AT(all), "finished records too"},
    {"--live", NULL, REPLAY, FLAG, AT(live),
     "even if a broker has the spool, which sends the same"},
    {"--timeout", "S", REPLAY, SECONDS, AT(timeout_s),
     "give up when nothing was delivered for so long (60)"},
    {"--set", "NAME=VALUE", REPLAY, SETTING, 0,
     "an option of the plugin, as in mosquitto.conf\n"
     "                          without plugin_opt_; may be repeated"},
    {"--rdkafka.PROPERTY=VALUE", NULL, REPLAY, SETTING, 0, "a setting of the Kafka client"},
    {"--dry-run", NULL, REPLAY, FLAG, AT(dry_run), "only count what would be sent"},
    {"--dry-run", NULL, REPAIR, FLAG, AT(dry_run), "only say what would be done"},
    {"--rewrite", NULL, REPAIR, FLAG, AT(rewrite),
     "copy the good records of a segment with damaged\n"
     "                          records to a new file, and move the old one to bad/"},
    {"--json", NULL, STAT, FLAG, AT(json), "one JSON document"},
    {"--json", NULL, LS | VERIFY | DUMP | REPAIR, FLAG, AT(json), "one JSON object a line"},
    {"--progress", NULL, VERIFY | DUMP | REPLAY | REPAIR, FLAG, AT(progress),
     "tell how far it is, also when standard error is no terminal"},
#undef AT
};

#define N_OPTIONS (sizeof options / sizeof options[0])

/* --- help ---------------------------------------------------------------------------------------
 */

static void print_usage(FILE *stream, const struct spool_command *c)
{
    fprintf(stream, "usage: metamorphosis spool %s%s%s [OPTION]... DIR\n", c->name,
            c->needs[0] == '\0' ? "" : " ", c->needs);
}

static void print_command_help(const struct spool_command *c)
{
    print_usage(stdout, c);
    printf(
        "\n%c%s.\n\n%s\n"
        "DIR is the directory of a spool (spool_dir), in use or not, or a copy of it.\n\n",
        c->what[0] - 'a' + 'A', c->what + 1, c->more);
    for (size_t i = 0; i < N_OPTIONS; i++) {
        if ((options[i].commands & c->bit) != 0) {
            char left[64];
            snprintf(left, sizeof left, "%s%s%s", options[i].name,
                     options[i].value == NULL ? "" : " ",
                     options[i].value == NULL ? "" : options[i].value);
            printf("  %-22s  %s\n", left, options[i].what);
        }
    }
    printf("\nExit codes: 0 good, 1 something bad was found or happened, 2 wrong use.\n");
}

static void print_help(FILE *stream)
{
    fprintf(stream, "usage: metamorphosis spool COMMAND [OPTION]... DIR\n\n");
    for (size_t i = 0; i < N_COMMANDS; i++) {
        fprintf(stream, "  %-8s %s\n", commands[i].name, commands[i].what);
    }
    fprintf(stream,
            "\n"
            "DIR is the directory of a spool (spool_dir), in use or not, or a copy of it. Nothing\n"
            "is locked and nothing changed, but by repair. Each command explains itself:\n"
            "metamorphosis spool COMMAND --help.\n"
            "\n"
            "Exit codes: 0 good, 1 something bad was found or happened, 2 wrong use.\n");
}

/* --- arguments ----------------------------------------------------------------------------------
 */

static bool parse_number(const char *text, uint64_t max, uint64_t *out)
{
    char *end;
    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0 || n < 1 || n > max) {
        return false;
    }
    *out = n;
    return true;
}

/* text: NAME=VALUE; it is cut in two. */
static bool add_setting(struct spool_args *args, char *text)
{
    char *equals = strchr(text, '=');
    if (equals == NULL || equals == text) {
        fprintf(stderr, "metamorphosis: \"%s\": expected NAME=VALUE\n", text);
        return false;
    }
    if (args->n_settings + 2 >= SPOOL_MAX_SETTINGS) { /* two of them are ours */
        fprintf(stderr, "metamorphosis: too many settings\n");
        return false;
    }
    *equals = '\0';
    args->settings[args->n_settings++] = (struct mm_option){.name = text, .value = equals + 1};
    return true;
}

static bool set_option(struct spool_args *args, const struct option *o, char *value)
{
    char *at = (char *)args + o->offset;
    uint64_t n;
    bool good = true;
    switch (o->kind) {
        case FLAG:
            *(bool *)at = true;
            break;
        case NUMBER:
            good = parse_number(value, UINT64_MAX, (uint64_t *)(void *)at);
            break;
        case SECONDS:
            good = parse_number(value, MAX_TIMEOUT_S, &n);
            *(uint32_t *)(void *)at = good ? (uint32_t)n : 0;
            break;
        case TEXT:
            *(const char **)(void *)at = value;
            good = value[0] != '\0';
            break;
        case SETTING:
            return add_setting(args, value);
    }
    if (!good) {
        fprintf(stderr, "metamorphosis: %s \"%s\": expected %s\n", o->name, value,
                o->kind == NUMBER    ? "a number from 1"
                : o->kind == SECONDS ? "seconds, 1 to 86400"
                                     : "a value");
    }
    return good;
}

static const struct option *find_option(const struct spool_command *c, const char *name, size_t len)
{
    for (size_t i = 0; i < N_OPTIONS; i++) {
        if ((options[i].commands & c->bit) != 0 && strlen(options[i].name) == len &&
            strncmp(options[i].name, name, len) == 0) {
            return &options[i];
        }
    }
    return NULL;
}

/* One option, with its value behind '=' or in the next argument. Returns how many arguments it
 * took; 0: wrong, and told. */
static int parse_option(struct spool_args *args, const struct spool_command *c, char **argv)
{
    static const char property[] = "--rdkafka.";
    if (c->bit == REPLAY && strncmp(argv[0], property, sizeof property - 1) == 0) {
        return add_setting(args, argv[0] + 2) ? 1 : 0;
    }
    size_t len = strcspn(argv[0], "=");
    bool joined = argv[0][len] == '=';
    const struct option *o = find_option(c, argv[0], len);
    if (o == NULL || (o->value == NULL && joined)) {
        fprintf(stderr, "metamorphosis: spool %s does not know \"%s\"\n", c->name, argv[0]);
        return 0;
    }
    char *value = joined ? argv[0] + len + 1 : o->value == NULL ? argv[0] : argv[1];
    if (value == NULL) {
        fprintf(stderr, "metamorphosis: %s: expected %s behind it\n", argv[0], o->value);
        return 0;
    }
    if (!set_option(args, o, value)) {
        return 0;
    }
    return joined || o->value == NULL ? 1 : 2;
}

static bool parse(struct spool_args *args, const struct spool_command *c, int argc, char **argv)
{
    bool only_dir = false; /* behind "--" */
    for (int i = 1; i < argc;) {
        if (!only_dir && strcmp(argv[i], "--") == 0) {
            only_dir = true;
            i++;
        } else if (!only_dir && argv[i][0] == '-' && argv[i][1] != '\0') {
            int n = parse_option(args, c, argv + i);
            if (n == 0) {
                return false;
            }
            i += n;
        } else if (args->dir == NULL) {
            args->dir = argv[i++];
        } else {
            fprintf(stderr, "metamorphosis: one directory only, found \"%s\" and \"%s\"\n",
                    args->dir, argv[i]);
            return false;
        }
    }
    if (args->dir == NULL || args->dir[0] == '\0') {
        fprintf(stderr, "metamorphosis: spool %s: expected the directory of a spool\n", c->name);
        return false;
    }
    if (c->bit == REPLAY && !args->dry_run && (args->kafka == NULL || args->topic == NULL)) {
        fprintf(stderr, "metamorphosis: spool replay: expected --kafka and --topic\n");
        return false;
    }
    if (args->to != 0 && args->from > args->to) {
        fprintf(stderr, "metamorphosis: --from is behind --to\n");
        return false;
    }
    return true;
}

static const struct spool_command *find_command(const char *name)
{
    for (size_t i = 0; i < N_COMMANDS; i++) {
        if (strcmp(commands[i].name, name) == 0) {
            return &commands[i];
        }
    }
    return NULL;
}

static bool is_help(const char *text)
{
    return strcmp(text, "--help") == 0 || strcmp(text, "-h") == 0;
}

int run_spool(int argc, char **argv)
{
    if (argc > 1 && (is_help(argv[1]) || strcmp(argv[1], "help") == 0)) {
        print_help(stdout);
        return 0;
    }
    const struct spool_command *c = argc > 1 ? find_command(argv[1]) : NULL;
    if (c == NULL) {
        if (argc > 1) {
            fprintf(stderr, "metamorphosis: spool: unknown command \"%s\"\n", argv[1]);
        }
        print_help(stderr);
        return 2;
    }
    for (int i = 2; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (is_help(argv[i])) {
            print_command_help(c);
            return 0;
        }
    }
    struct spool_args args = {.timeout_s = DEFAULT_TIMEOUT_S};
    if (!parse(&args, c, argc - 1, argv + 1)) {
        print_usage(stderr, c);
        return 2;
    }
    return c->run(&args);
}

/* --- for all of them ----------------------------------------------------------------------------
 */

static bool add_log(struct spool_logs *logs, const char *dir, const char *name)
{
    char errstr[512];
    char *path;
    if (asprintf(&path, "%s%s%s", dir, name[0] == '\0' ? "" : "/", name) < 0) {
        fprintf(stderr, "metamorphosis: %s\n", mm_strerror(MM_ENOMEM));
        return false;
    }
    int err = mm_inspect_open(path, &logs->log[logs->n].in, errstr, sizeof errstr);
    free(path);
    if (err != 0) {
        fprintf(stderr, "metamorphosis: %s\n", errstr);
        return false;
    }
    logs->log[logs->n].name = strdup(name);
    if (logs->log[logs->n].name == NULL) {
        mm_inspect_close(logs->log[logs->n].in);
        return false;
    }
    logs->n++;
    return true;
}

bool spool_open(const char *dir, bool below, struct spool_logs *out, bool *complete)
{
    char **paths = NULL;
    size_t n_paths = 0;
    memset(out, 0, sizeof *out);
    *complete = true;
    int err = below ? mm_inspect_list_logs(dir, &paths, &n_paths) : 0;
    out->log = err == MM_ENOMEM ? NULL : calloc(n_paths + 1, sizeof *out->log);
    if (out->log == NULL) {
        fprintf(stderr, "metamorphosis: %s\n", mm_strerror(MM_ENOMEM));
        free(paths);
        return false;
    }
    if (!add_log(out, dir, "")) { /* and why what is below cannot be listed */
        spool_close(out);
        free(paths);
        return false;
    }
    if (err != 0) {
        fprintf(stderr, "metamorphosis: \"%s\": what is below cannot be listed\n", dir);
        *complete = false;
    }
    for (size_t i = 0; i < n_paths; i++) {
        *complete = add_log(out, dir, paths[i]) && *complete;
    }
    free(paths);
    return true;
}

void spool_close(struct spool_logs *logs)
{
    for (size_t i = 0; i < logs->n; i++) {
        mm_inspect_close(logs->log[i].in);
        free(logs->log[i].name);
    }
    free(logs->log);
    memset(logs, 0, sizeof *logs);
}

static void print_damage_json(const char *log, const struct mm_inspect_damage *d)
{
    printf("{\"damage\":\"%s\",\"log\":", mm_inspect_kind_name(d->kind));
    mm_json_write_string(stdout, log, strlen(log));
    fputs(",\"file\":", stdout);
    mm_json_write_string(stdout, d->file, strlen(d->file));
    printf(",\"offset\":%" PRIu64 ",\"bytes\":%" PRIu64 ",\"lost\":%" PRIu64, d->offset, d->len,
           d->n_missing);
    if (d->n_missing > 0) {
        printf(",\"first_lost\":%" PRIu64, d->first_seq);
    }
    fputs(",\"text\":", stdout);
    mm_json_write_string(stdout, d->text, strlen(d->text));
    fputs("}\n", stdout);
}

void spool_print_damage(const char *log, const struct mm_inspect_damage *d, bool json)
{
    if (json) {
        print_damage_json(log, d);
        return;
    }
    bool has_place = d->file[0] != '\0';
    printf("%s%s%s", log, log[0] == '\0' || !has_place ? "" : "/", d->file);
    if (!has_place && log[0] == '\0') {
        fputs("the log", stdout);
    }
    if (d->len > 0) {
        printf(", bytes %" PRIu64 " to %" PRIu64, d->offset, d->offset + d->len - 1);
    }
    printf(": %s", d->text);
    if (d->n_missing == 1) {
        printf(": record %" PRIu64 " is lost", d->first_seq);
    } else if (d->n_missing > 1) {
        printf(": %" PRIu64 " records are lost, %" PRIu64 " to %" PRIu64, d->n_missing,
               d->first_seq, d->first_seq + d->n_missing - 1);
    }
    fputs("\n", stdout);
}
