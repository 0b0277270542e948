#include "prove_args.h"

#include "arguments.h"
#include "mm_clock.h"
#include "mm_text.h"

#include <getopt.h>
#include <inttypes.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* --- arguments ----------------------------------------------------------------------------------
 */

enum {
    ARG_KAFKA = 1,
    ARG_MINUTES,
    ARG_TOPIC,
    ARG_OPTION,
    ARG_CLIENTS,
    ARG_TOPICS,
    ARG_RATE,
    ARG_KILL_EVERY,
    ARG_MOSQUITTO,
    ARG_PLUGIN,
    ARG_SEED,
    ARG_QOS,
    ARG_POWER,
    ARG_KEEP,
    ARG_JSON,
};

static bool take_option_argument(struct prove_args *a, const char *text)
{
    if (strchr(text, '=') == NULL || strchr(text, '\n') != NULL ||
        a->n_options == PROVE_OPTIONS_MAX) {
        fprintf(stderr, "metamorphosis: --option \"%s\": expected NAME=VALUE, at most %d of them\n",
                text, PROVE_OPTIONS_MAX);
        return false;
    }
    a->options[a->n_options++] = text;
    return true;
}

static bool take_minutes(struct prove_args *a, const char *text)
{
    char *end;
    const double minutes = strtod(text, &end);
    if (!mm_is_digit(text[0]) || *end != '\0' || !(minutes >= 0.1) || minutes > 100000) {
        fprintf(stderr, "metamorphosis: --minutes \"%s\": expected a number from 0.1 to 100000\n",
                text);
        return false;
    }
    a->seconds = (uint32_t)(minutes * 60);
    return true;
}

static bool take_argument(int option, struct prove_args *a)
{
    switch (option) {
        case ARG_KAFKA:
            a->kafka = optarg;
            return true;
        case ARG_MINUTES:
            return take_minutes(a, optarg);
        case ARG_TOPIC:
            a->topic = optarg;
            return true;
        case ARG_OPTION:
            return take_option_argument(a, optarg);
        case ARG_CLIENTS:
            return argument_number("clients", optarg, 1, 1000, &a->clients);
        case ARG_TOPICS:
            return argument_number("topics", optarg, 1, 1000, &a->topics);
        case ARG_RATE:
            return argument_number("rate", optarg, 1, 1000000, &a->rate);
        case ARG_KILL_EVERY:
            return argument_number("kill-every", optarg, 1, 3600, &a->kill_every_s);
        case ARG_MOSQUITTO:
            a->mosquitto = optarg;
            return true;
        case ARG_PLUGIN:
            a->plugin = optarg;
            return true;
        case ARG_SEED:
            return argument_number("seed", optarg, 0, UINT32_MAX, &a->seed);
        case ARG_QOS:
            return argument_number("qos", optarg, 1, 2, &a->qos);
        case ARG_POWER:
            return a->power = true;
        case ARG_KEEP:
            return a->keep = true;
        case ARG_JSON:
            return a->json = true;
        default:
            return false; /* getopt has said why */
    }
}

bool prove_args_parse(int argc, char **argv, struct prove_args *a)
{
    static const struct option options[] = {
        ARGUMENT("kafka", required_argument, ARG_KAFKA),
        ARGUMENT("minutes", required_argument, ARG_MINUTES),
        ARGUMENT("topic", required_argument, ARG_TOPIC),
        ARGUMENT("option", required_argument, ARG_OPTION),
        ARGUMENT("clients", required_argument, ARG_CLIENTS),
        ARGUMENT("topics", required_argument, ARG_TOPICS),
        ARGUMENT("rate", required_argument, ARG_RATE),
        ARGUMENT("kill-every", required_argument, ARG_KILL_EVERY),
        ARGUMENT("mosquitto", required_argument, ARG_MOSQUITTO),
        ARGUMENT("plugin", required_argument, ARG_PLUGIN),
        ARGUMENT("seed", required_argument, ARG_SEED),
        ARGUMENT("qos", required_argument, ARG_QOS),
        ARGUMENT("power", no_argument, ARG_POWER),
        ARGUMENT("keep", no_argument, ARG_KEEP),
        ARGUMENT("json", no_argument, ARG_JSON),
        {NULL, 0, NULL, 0},
    };
    *a = (struct prove_args){
        .seconds = 60,
        .clients = 8,
        .topics = 8,
        .rate = 2000,
        .kill_every_s = 3,
        .qos = 1,
        .seed = (uint32_t)(mm_clock_realtime_ms() ^ (uint64_t)getpid() << 16),
    };
    optind = 0; /* the GNU way to begin anew */
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (!take_argument(option, a)) {
            return false;
        }
    }
    return a->kafka != NULL && optind == argc;
}

/* --- the broker's configuration -----------------------------------------------------------------
 */

bool prove_args_plugin(const struct prove_args *a, char path[PROVE_PATH_LEN])
{
    static const char *const places[] = {
        "../lib/mosquitto_metamorphosis.so",
#ifdef MM_PLUGIN_FILE
        MM_PLUGIN_FILE,
#endif
    };
    if (a->plugin != NULL) {
        if (realpath(a->plugin, path) != NULL) {
            return true;
        }
        fprintf(stderr, "metamorphosis: --plugin \"%s\": no such file\n", a->plugin);
        return false;
    }
    char self[3072];
    ssize_t len = readlink("/proc/self/exe", self, sizeof self - 1);
    self[len < 0 ? 0 : len] = '\0';
    char *slash = strrchr(self, '/');
    for (size_t i = 0; slash != NULL && i < sizeof places / sizeof places[0]; i++) {
        char place[PROVE_PATH_LEN];
        *slash = '\0';
        snprintf(place, sizeof place, "%s%s%s", places[i][0] == '/' ? "" : self,
                 places[i][0] == '/' ? "" : "/", places[i]);
        if (realpath(place, path) != NULL) {
            return true;
        }
    }
    fputs("metamorphosis: the plugin is not where it was expected: --plugin FILE names it\n",
          stderr);
    return false;
}

bool prove_args_power_library(const char *plugin, char path[PROVE_PATH_LEN])
{
    char place[PROVE_PATH_LEN + 32];
    const char *slash = strrchr(plugin, '/');
    snprintf(place, sizeof place, "%.*s/metamorphosis_power.so",
             slash == NULL ? 0 : (int)(slash - plugin), plugin);
    if (realpath(place, path) != NULL) {
        return true;
    }
    fprintf(stderr, "metamorphosis: --power: there is no %s\n", place);
    return false;
}

static bool is_given(const struct prove_args *a, const char *name)
{
    size_t len = strlen(name);
    for (size_t i = 0; i < a->n_options; i++) {
        if (strncmp(a->options[i], name, len) == 0 && a->options[i][len] == '=') {
            return true;
        }
    }
    return false;
}

bool prove_args_configure(const struct prove_args *a,
                          const struct prove_broker *b,
                          const char *plugin,
                          const char *topic,
                          const char *kafka,
                          uint32_t linger_ms)
{
    static const struct
    {
        const char *name;
        const char *value;
    } usual[] = {{"kafka_workers", "2"}, {"health_port", "0"}};
    const struct passwd *user = getpwuid(geteuid());
    FILE *file = fopen(b->config, "we");
    if (file == NULL) {
        perror(b->config);
        return false;
    }
    fprintf(file, "listener %u 127.0.0.1\nallow_anonymous true\nlog_dest stderr\n", b->port);
    if (user != NULL) {
        fprintf(file, "user %s\n", user->pw_name);
    }
    fprintf(file, "plugin %s\n", plugin);
    fprintf(file, "plugin_opt_mqtt_topic prove/#\nplugin_opt_payload_format raw\n");
    fprintf(file, "plugin_opt_kafka_broker %s\nplugin_opt_kafka_topic %s\n", kafka, topic);
    fprintf(file, "plugin_opt_spool_dir %s/spool\n", b->dir);
    for (size_t i = 0; i < sizeof usual / sizeof usual[0]; i++) {
        if (!is_given(a, usual[i].name)) {
            fprintf(file, "plugin_opt_%s %s\n", usual[i].name, usual[i].value);
        }
    }
    if (!is_given(a, "kafka_linger_ms") && !is_given(a, "rdkafka.linger.ms") &&
        !is_given(a, "config_file")) {
        fprintf(file, "plugin_opt_kafka_linger_ms %" PRIu32 "\n", linger_ms);
    }
    for (size_t i = 0; i < a->n_options; i++) {
        const char *equals = strchr(a->options[i], '=');
        fprintf(file, "plugin_opt_%.*s %s\n", (int)(equals - a->options[i]), a->options[i],
                equals + 1);
    }
    return fclose(file) == 0;
}
