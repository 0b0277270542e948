#include "check.h"

#include "arguments.h"
#include "mm_json.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>

const char check_help[] =
    "FILE is a mosquitto.conf with the plugin's lines, of which the files in its include_dir are\n"
    "read too, or a config_file of the plugin. Every mistake is told, with its file and line, and\n"
    "what on this machine is at odds with the settings: paths, rights, free space, certificates,\n"
    "the port of the health pages. Nothing is changed.\n"
    "\n"
    "  --config-file, --mosquitto-conf\n"
    "                  what FILE is; else its content decides\n"
    "  --plugin NAME   the plugin line to look at, by path or file name; else the one whose file\n"
    "                  name has \"metamorphosis\" in it\n"
    "  --env           the variables of this process are those of the broker, and count\n"
    "  --form-only     look at the text alone, not at this machine\n"
    "  --user NAME     who the broker runs as; else the user line of mosquitto.conf, else\n"
    "                  mosquitto. Rights are tried as that user, if root runs this\n"
    "  --connect       ask Kafka: is it there, does it let us in, are the Kafka topics there, may\n"
    "                  they be written, how large may messages be. Writes nothing\n"
    "  --timeout S     seconds to wait for Kafka; 10\n"
    "  --produce-test  with --connect: write one record to each Kafka topic, which consumers will\n"
    "                  see; the only sure answer where the Kafka client cannot ask for rights\n"
    "  --strict        warnings count as mistakes\n"
    "  --json          one object: {\"file\", \"good\", \"errors\", \"warnings\", \"findings\": "
    "[{\"level\",\n"
    "                  \"file\", \"line\", \"text\"}]}; file and line may be null\n"
    "\n"
    "Exit codes: 0 no mistake, 1 at least one, 2 wrong use.\n";

struct args
{
    const char *file;
    const char *user;
    struct shared_arguments shared;
    bool strict;
    bool produce_test;
};

enum check_option {
    OPT_FORM_ONLY = 256,
    OPT_USER,
    OPT_PRODUCE_TEST,
    OPT_STRICT,
};

static bool take_option(int option, struct args *args)
{
    switch (option) {
        case OPT_FORM_ONLY:
            args->shared.settings.form_only = true;
            return true;
        case OPT_USER:
            args->user = optarg;
            return true;
        case OPT_PRODUCE_TEST:
            args->produce_test = true;
            return true;
        case OPT_STRICT:
            args->strict = true;
            return true;
        default:
            return shared_argument_take(option, &args->shared);
    }
}

static bool read_args(int argc, char **argv, struct args *args)
{
    static const struct option options[] = {
        {"form-only", no_argument, NULL, OPT_FORM_ONLY},
        {"user", required_argument, NULL, OPT_USER},
        {"produce-test", no_argument, NULL, OPT_PRODUCE_TEST},
        {"strict", no_argument, NULL, OPT_STRICT},
        SHARED_ARGUMENTS,
        {NULL, 0, NULL, 0},
    };
    *args = (struct args){.shared = SHARED_ARGUMENTS_DEFAULT};
    optind = 0; /* the GNU way to begin anew */
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (!take_option(option, args)) {
            return false;
        }
    }
    args->file = optind < argc ? argv[optind] : NULL;
    if (args->file != NULL && args->file[0] == '\0') {
        fprintf(stderr, "metamorphosis: FILE \"\": expected the name of a file\n");
        return false;
    }
    return args->file != NULL && optind + 1 == argc &&
           (!args->produce_test || args->shared.connect);
}

/* Who the broker will be. */
static const char *broker_user(const struct args *args, const struct settings *s)
{
    if (args->user != NULL) {
        return args->user;
    }
    return s->conf != NULL && s->conf->user.text != NULL ? s->conf->user.text : "mosquitto";
}

static void check_all(const struct args *args, struct findings *f)
{
    struct settings s;
    if (settings_load(args->file, &args->shared.settings, f, &s)) {
        check_broker(&s, f);
        if (!args->shared.settings.form_only) {
            check_client(&s, f);
            check_machine(&s, broker_user(args, &s), f);
            check_tls(&s, f);
        }
        if (args->shared.connect && s.config == NULL) {
            findings_add(f, MM_LOG_INFO, findings_nowhere,
                         "Kafka was not asked: the settings have mistakes");
        } else if (args->shared.connect) {
            check_kafka(&s, args->shared.timeout_s * 1000, args->produce_test, f);
        }
    }
    if (f->incomplete) {
        findings_add(f, MM_LOG_ERROR, findings_nowhere, "not enough memory: some are not told");
    }
    findings_rename(f, NULL, NULL);
    settings_free(&s);
}

static void print(const struct args *args, const struct findings *f, bool good)
{
    if (args->shared.json) {
        fputs("{\"file\":", stdout);
        mm_json_write_string(stdout, args->file, strlen(args->file));
        printf(",\"good\":%s,\"errors\":%zu,\"warnings\":%zu,\"findings\":",
               good ? "true" : "false", f->n_errors, f->n_warnings);
        findings_print_json(f, stdout);
        fputs("}\n", stdout);
        return;
    }
    findings_print(f, stdout);
    if (f->n_errors == 0 && f->n_warnings == 0) {
        printf("%s: no mistake found\n", args->file);
    } else {
        printf("%s: %zu error%s, %zu warning%s\n", args->file, f->n_errors,
               f->n_errors == 1 ? "" : "s", f->n_warnings, f->n_warnings == 1 ? "" : "s");
    }
}

int run_check_config(int argc, char **argv)
{
    struct args args;
    if (!read_args(argc, argv, &args)) {
        return 2;
    }
    struct findings f = {0};
    check_all(&args, &f);
    findings_sort(&f);
    const bool good = f.n_errors == 0 && (!args.strict || f.n_warnings == 0);
    print(&args, &f, good);
    findings_free(&f);
    return good ? 0 : 1;
}
