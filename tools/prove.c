/* prove: is it true, here, with this Kafka?
 *
 * A broker with the plugin and a spool on disk, publishers who keep what is not acknowledged, a
 * killer, and a judge who reads Kafka. At the end each message that was acknowledged must be in
 * Kafka, in order within its MQTT topic when repeats with the same mm-id are left out. */
#include "prove.h"

#include "human.h"
#include "interrupt.h"
#include "kafka_ask.h"
#include "mm_clock.h"
#include "mm_inspect.h"
#include "mm_json.h"
#include "prove_args.h"
#include "prove_broker.h"
#include "prove_check.h"
#include "prove_grace.h"
#include "prove_load.h"
#include "prove_power.h"
#include "settings.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NS_PER_MS UINT64_C(1000000)
#define ASK_TIMEOUT_MS 10000
#define STOP_TIMEOUT_MS 15000
#define ACK_TIMEOUT_MS 60000   /* for what is not acknowledged at the end */
#define IDLE_TIMEOUT_MS 20000  /* nothing has come from Kafka, and something is missing */
#define BROKEN_TIMEOUT_MS 5000 /* the same, when something is known to be lost */
#define LAST_LOOK_MS 2000      /* for repeats, behind the last message */
#define HANG_UP_MS 5000        /* until the last publisher knows that the broker is gone */
#define GRACE_MS 1000 /* by which a sync may be late, on a machine that has other things to do */
#define LINGER_MS 5   /* what the plugin has if nothing is said */
#define LINGER_MAX_MS 1000 /* what it takes */
#define NOBODY "127.0.0.1:1"

const char prove_help[] =
    "Starts a Mosquitto with the plugin and a spool of its own on 127.0.0.1, publishes messages "
    "to\n"
    "it, and ends it by SIGKILL at random moments, also while it starts, and sometimes "
    "by\n"
    "SIGTERM. The publishers keep what is not acknowledged and send it again. At the end each\n"
    "acknowledged message must be in Kafka, in order within its MQTT topic, when records with an\n"
    "mm-id that was there before are left out. The run ends early when that is seen to be broken.\n"
    "Nothing but the one Kafka topic is touched. In most of its\n"
    "lives the broker has a longer kafka_linger_ms than usual, up to a second, so that much is on\n"
    "its way when it is killed, unless --option says something of that.\n"
    "\n"
    "  --kafka HOST:PORT     the cluster, as kafka_broker\n"
    "  --minutes N           how long to publish and kill, at least 0.1 (default 1)\n"
    "  --topic NAME          an existing Kafka topic; without it one is made, and deleted again\n"
    "  --option NAME=VALUE   an option of the plugin, TLS and passwords for instance\n"
    "  --clients N           publishers (default 8), and for each of them\n"
    "  --topics N            MQTT topics (default 8)\n"
    "  --rate N              messages a second of all together (default 2000)\n"
    "  --kill-every S        seconds from one kill to the next, on average (default 3)\n"
    "  --qos N               of the messages: 1 (default) or 2\n"
    "  --power               most of the kills are power failures: the broker finds again what "
    "was\n"
    "                        synced, and any part of what was not. With spool_sync always nothing\n"
    "                        that was acknowledged may be lost, with interval nothing that was\n"
    "                        so for some seconds\n"
    "  --mosquitto FILE      the broker (default: of the PATH)\n"
    "  --plugin FILE         the plugin (default: the one that belongs to this program)\n"
    "  --seed N              of the moments at which it is killed; each run prints its own\n"
    "  --keep                leave directory and Kafka topic behind, as after a failure\n"
    "  --json                the report as an object of JSON\n"
    "\n"
    "Exit codes: 0 nothing was lost, 1 something was, or it could not be found out, 2 wrong use.\n";

struct prove
{
    const struct prove_args *args;
    char topic[256];
    char plugin[PROVE_PATH_LEN];
    struct prove_broker broker;
    struct settings settings;
    struct kafka_ask ask;
    bool asking; /* ask is to be closed */
    struct prove_load_options load_options;
    struct prove_load *load;
    struct prove_check *check;
    struct prove_grace *grace; /* NULL: no power failure may take anything */
    bool alone;                /* the broker does not reach Kafka in this life */
    uint64_t look_ns;          /* of the last look */
    uint64_t latest_ns;        /* by which a look was late, at most */
    unsigned int random;       /* the state of rand_r() */
    uint64_t begin_ns;
    uint64_t act_ns; /* when the broker is ended next */
    uint64_t n_kills;
    uint64_t n_start_kills; /* of those, while it started */
    uint64_t n_power_failures;
    uint64_t n_stops;
    uint64_t n_lost;
    uint64_t n_unanswered; /* messages that were never acknowledged */
    char why[512];         /* it could not be found out */
};

/* --- the run ------------------------------------------------------------------------------------
 */

static uint32_t random_below(struct prove *p, uint32_t n)
{
    return (uint32_t)rand_r(&p->random) % n;
}

static void act_in_ms(struct prove *p, uint32_t ms)
{
    p->act_ns = mm_clock_monotonic_ns() + ms * NS_PER_MS;
}

static bool stop_broker(struct prove *p)
{
    if (!prove_broker_stop(&p->broker, STOP_TIMEOUT_MS)) {
        snprintf(p->why, sizeof p->why, "the broker did not stop within %u s",
                 STOP_TIMEOUT_MS / 1000);
        return false;
    }
    return true;
}

static bool out_of_memory(struct prove *p)
{
    snprintf(p->why, sizeof p->why, "out of memory");
    return false;
}

/* Each publisher has read what the broker sent before its end. */
static bool await_publishers(struct prove *p)
{
    uint64_t end_ns = mm_clock_monotonic_ns() + HANG_UP_MS * NS_PER_MS;
    while (prove_load_connected(p->load) > 0) {
        if (mm_clock_monotonic_ns() > end_ns) {
            snprintf(p->why, sizeof p->why, "the broker was killed, and its connections stay");
            return false;
        }
        usleep(1000);
    }
    return true;
}

/* How old a message must be to be on the disk, with spool_sync interval: a sync begins an interval
 * after the last one, and takes its time; and a machine that has other things to do may be late
 * with it, as it was with us. */
static uint64_t safe_after_ms(const struct prove *p, uint64_t slowest_ns)
{
    return p->settings.config->spool_sync_interval_ms +
           2 * (slowest_ns + p->latest_ns) / NS_PER_MS + GRACE_MS;
}

/* The disk may not have all of it. */
static bool excuse(struct prove *p)
{
    uint64_t slowest_ns;
    struct prove_load_figures n;
    prove_load_figures(p->load, &n);
    if (!prove_power_slowest(&p->broker, &slowest_ns)) {
        if (n.n_connections == 0) {
            return true; /* it was killed before it was what it is */
        }
        snprintf(p->why, sizeof p->why, "the broker did not load %.400s", p->broker.preload);
        return false;
    }
    return p->grace == NULL ||
           prove_grace_excuse(p->grace, p->load, p->check, safe_after_ms(p, slowest_ns)) ||
           out_of_memory(p);
}

/* The broker was killed, and now it is the system's end, too. */
static bool fail_power(struct prove *p)
{
    p->n_power_failures++;
    return await_publishers(p) && excuse(p) &&
           prove_power_fail(&p->broker, &p->random, p->why, sizeof p->why);
}

/* SIGKILL, and what goes with it. */
static bool kill_broker(struct prove *p)
{
    bool power = p->args->power && random_below(p, 4) > 0;
    prove_broker_kill(&p->broker);
    if (!power) {
        p->n_kills++;
        return true;
    }
    return fail_power(p);
}

/* A new life of the broker, of which nobody knows how long it is, with a linger of its own. With
 * the usual one hardly anything is on its way to a fast Kafka when the broker is killed, and there
 * is hardly anything to lose. With a long one it is what came in a good part of the life, while
 * STATE was written again and again.
 *
 * Some lives are without Kafka, so that all waits; where the disk may have some time many are,
 * since only what waits for longer can be lost there. */
static bool begin_life(struct prove *p, bool may_be_alone)
{
    uint32_t longest_ms = p->args->kill_every_s * 1000 / 4;
    longest_ms = longest_ms < LINGER_MAX_MS ? longest_ms : LINGER_MAX_MS;
    uint32_t dice = random_below(p, 4);
    uint32_t some_ms = random_below(p, longest_ms);
    bool alone = random_below(p, 8) < (p->grace != NULL ? 5 : 1);
    p->alone = may_be_alone && alone;
    if (p->n_power_failures > 0) {
        prove_check_may_jump(p->check);
    }
    return prove_args_configure(p->args, &p->broker, p->plugin, p->topic,
                                p->alone ? NOBODY : p->args->kafka,
                                dice == 0   ? LINGER_MS
                                : dice == 1 ? some_ms
                                            : longest_ms) &&
           prove_broker_start(&p->broker);
}

/* End the broker and start it again. */
static bool act(struct prove *p)
{
    uint32_t mean_ms = p->args->kill_every_s * 1000;
    uint32_t dice = random_below(p, 8);
    p->n_stops += dice == 0;
    if (!(dice == 0 ? stop_broker(p) : kill_broker(p))) {
        return false;
    }
    if (dice == 1) {
        p->n_start_kills++; /* the next one, soon */
        act_in_ms(p, random_below(p, 100));
    } else {
        act_in_ms(p, mean_ms / 10 + random_below(p, mean_ms * 9 / 5));
    }
    p->look_ns = 0; /* this took the time that it takes */
    if (!begin_life(p, true)) {
        snprintf(p->why, sizeof p->why, "the broker could not be started again");
        return false;
    }
    return true;
}

/* Look at Kafka and at the broker. */
static bool look(struct prove *p)
{
    uint64_t now_ns = mm_clock_monotonic_ns();
    uint64_t took_ns = p->look_ns == 0 ? 0 : now_ns - p->look_ns;
    p->latest_ns = took_ns > p->latest_ns ? took_ns : p->latest_ns;
    p->look_ns = now_ns;
    if (p->grace != NULL) {
        prove_grace_note(p->grace, p->load);
    }
    return prove_check_read(p->check, p->why, sizeof p->why) &&
           !prove_broker_ended(&p->broker, p->why, sizeof p->why);
}

/* Has it been seen already that the promise is broken? */
static bool is_broken(const struct prove *p)
{
    struct prove_check_figures n;
    prove_check_figures(p->check, &n);
    return n.n_overtaken > 0 || n.n_wrong > 0;
}

/* False: it cannot go on. */
static bool trouble(struct prove *p)
{
    uint64_t end_ns = p->begin_ns + p->args->seconds * UINT64_C(1000000000);
    while (mm_clock_monotonic_ns() < end_ns && !interrupt_came() && !is_broken(p)) {
        if (!look(p) || (mm_clock_monotonic_ns() >= p->act_ns && !act(p))) {
            return false;
        }
    }
    return true;
}

/* The last life is one with Kafka. */
static bool end_alone(struct prove *p)
{
    if (!p->alone) {
        return true;
    }
    if (!kill_broker(p)) {
        return false;
    }
    p->look_ns = 0;
    if (!begin_life(p, false)) {
        snprintf(p->why, sizeof p->why, "the broker could not be started again");
        return false;
    }
    return true;
}

/* How many of the messages that were acknowledged are not in Kafka? */
static uint64_t count_missing(const struct prove *p)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < p->load_options.n_clients; i++) {
        uint64_t first;
        n += prove_check_missing(p->check, i, prove_load_acked(p->load, i), &first);
    }
    return n;
}

/* How many of them may come yet? */
static uint64_t count_awaited(const struct prove *p)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < p->load_options.n_clients; i++) {
        n += prove_check_awaited(p->check, i, prove_load_acked(p->load, i));
    }
    return n;
}

/* How many did a failure of the power take, as it may? */
static uint64_t count_excused(const struct prove *p)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < p->load_options.n_clients; i++) {
        n += prove_check_excused(p->check, i, prove_load_acked(p->load, i));
    }
    return n;
}

/* The publishers have ended: wait for all that was acknowledged, as long as something comes. */
static bool await_rest(struct prove *p)
{
    struct prove_check_figures n;
    prove_check_figures(p->check, &n);
    uint64_t n_records = n.n_records;
    uint64_t moved_ns = mm_clock_monotonic_ns();
    uint64_t timeout_ms = is_broken(p) ? BROKEN_TIMEOUT_MS : IDLE_TIMEOUT_MS;
    while (count_awaited(p) > 0 && mm_clock_monotonic_ns() - moved_ns < timeout_ms * NS_PER_MS) {
        if (!look(p)) {
            return false;
        }
        prove_check_figures(p->check, &n);
        if (n.n_records != n_records) {
            n_records = n.n_records;
            moved_ns = mm_clock_monotonic_ns();
        }
    }
    return true;
}

static bool end_in_order(struct prove *p)
{
    if (!stop_broker(p)) {
        return false;
    }
    uint64_t end_ns = mm_clock_monotonic_ns() + LAST_LOOK_MS * NS_PER_MS;
    while (mm_clock_monotonic_ns() < end_ns) {
        if (!prove_check_read(p->check, p->why, sizeof p->why)) {
            return false;
        }
    }
    return true;
}

/* Messages that wait in the spool of the stopped broker: they are not lost. */
static uint64_t count_waiting(const struct prove *p)
{
    char dir[PROVE_PATH_LEN + 16];
    char errstr[256];
    struct mm_inspect *in;
    snprintf(dir, sizeof dir, "%s/spool", p->broker.dir);
    if (mm_inspect_open(dir, &in, errstr, sizeof errstr) != 0) {
        return 0;
    }
    uint64_t n = mm_inspect_info(in)->n_pending;
    mm_inspect_close(in);
    return n;
}

/* All the way. False: it could not be found out; why has the reason. The publishers have ended in
 * any case. */
static bool prove(struct prove *p)
{
    p->begin_ns = mm_clock_monotonic_ns();
    act_in_ms(p, p->args->kill_every_s * 1000);
    bool good = trouble(p) && end_alone(p);
    bool answered = prove_load_stop(p->load, good ? ACK_TIMEOUT_MS : 0);
    struct prove_load_figures load;
    prove_load_figures(p->load, &load);
    p->n_unanswered = load.n_made - load.n_acked;
    if (good && !answered) {
        snprintf(p->why, sizeof p->why,
                 "%" PRIu64 " messages were not acknowledged within %u s after the last kill",
                 p->n_unanswered, ACK_TIMEOUT_MS / 1000);
        good = false;
    }
    good = good && await_rest(p) && end_in_order(p);
    p->n_lost = count_missing(p);
    uint64_t n_waiting = good && p->n_lost > 0 ? count_waiting(p) : 0;
    if (n_waiting > 0) {
        snprintf(p->why, sizeof p->why,
                 "%" PRIu64 " messages wait in the spool still, as Kafka has taken none for %u s",
                 n_waiting, IDLE_TIMEOUT_MS / 1000);
        good = false;
    }
    return good;
}

/* --- the report ---------------------------------------------------------------------------------
 */

static bool is_good(const struct prove *p)
{
    struct prove_check_figures n;
    prove_check_figures(p->check, &n);
    return p->why[0] == '\0' && p->n_lost == 0 && n.n_overtaken == 0 && n.n_wrong == 0 &&
           n.n_messages > 0;
}

static void print_row(const char *name, uint64_t value, const char *more)
{
    char text[HUMAN_LEN];
    printf("  %-28s %14s%s\n", name, human_count(value, text), more);
}

/* The first messages that are missing. */
static void print_lost(const struct prove *p)
{
    for (uint32_t i = 0; i < p->load_options.n_clients; i++) {
        uint64_t first = 0;
        char topic[PROVE_TOPIC_LEN];
        uint8_t payload[PROVE_PAYLOAD_MAX];
        uint64_t n_acked = prove_load_acked(p->load, i);
        uint64_t n = prove_check_missing(p->check, i, n_acked, &first);
        if (n > 0) {
            (void)prove_message(&p->load_options, i, first, topic, payload);
            printf("  client %" PRIu32 ": %" PRIu64 " of %" PRIu64
                   " are missing, the first is its message %" PRIu64 ", MQTT topic %s\n",
                   i, n, n_acked, first, topic);
        }
    }
}

static void print_report(const struct prove *p)
{
    char duration[HUMAN_LEN];
    char starts[64];
    char qos[32];
    struct prove_check_figures n;
    struct prove_load_figures load;
    prove_check_figures(p->check, &n);
    prove_load_figures(p->load, &load);
    snprintf(starts, sizeof starts, ", %" PRIu64 " of them while it started", p->n_start_kills);
    printf("%s, Kafka %s, topic %s, seed %" PRIu32 "\n",
           human_duration((mm_clock_monotonic_ns() - p->begin_ns) / NS_PER_MS, duration),
           p->args->kafka, p->topic, p->args->seed);
    print_row("the broker was killed", p->n_kills, starts);
    print_row("the broker was stopped", p->n_stops, "");
    if (p->args->power) {
        print_row("the power failed", p->n_power_failures, "");
    }
    snprintf(qos, sizeof qos, " messages of QoS %" PRIu32, p->args->qos);
    print_row("acknowledged", load.n_acked, qos);
    print_row("in Kafka", n.n_messages, "");
    if (p->grace != NULL) {
        print_row("taken by the power failures", count_excused(p), ", as spool_sync interval says");
    }
    print_row("lost", p->n_lost, "");
    print_row("out of order", n.n_disorder, "");
    print_row("wrong", n.n_wrong, "");
    print_row("repeated, same mm-id", n.n_repeats, "");
    print_row("sent again by publishers", n.n_sent_again, "");
    print_lost(p);
    if (prove_check_first_fault(p->check)[0] != '\0') {
        printf("  %s\n", prove_check_first_fault(p->check));
    }
    if (p->why[0] != '\0') {
        printf("It could not be found out: %s.\n", p->why);
    } else {
        puts(is_good(p) ? "Nothing was lost, and nothing is out of order."
                        : "The promise is broken.");
    }
}

static void print_json(const struct prove *p)
{
    struct prove_check_figures n;
    struct prove_load_figures load;
    prove_check_figures(p->check, &n);
    prove_load_figures(p->load, &load);
    printf("{\"good\":%s,\"seed\":%" PRIu32 ",\"seconds\":%.1f,\"kafka_topic\":",
           is_good(p) ? "true" : "false", p->args->seed,
           (double)(mm_clock_monotonic_ns() - p->begin_ns) / 1e9);
    mm_json_write_string(stdout, p->topic, strlen(p->topic));
    printf(",\"qos\":%" PRIu32 ",\"power_failures\":%" PRIu64 ",\"taken_by_power\":%" PRIu64
           ",\"kills\":%" PRIu64 ",\"kills_while_starting\":%" PRIu64 ",\"stops\":%" PRIu64
           ",\"acknowledged\":%" PRIu64 ",\"in_kafka\":%" PRIu64 ",\"lost\":%" PRIu64
           ",\"out_of_order\":%" PRIu64 ",\"wrong\":%" PRIu64 ",\"repeated\":%" PRIu64
           ",\"sent_again\":%" PRIu64 ",\"not_acknowledged\":%" PRIu64 ",\"first_fault\":",
           p->args->qos, p->n_power_failures, count_excused(p), p->n_kills, p->n_start_kills,
           p->n_stops, load.n_acked, n.n_messages, p->n_lost, n.n_disorder, n.n_wrong, n.n_repeats,
           n.n_sent_again, p->n_unanswered);
    const char *fault = prove_check_first_fault(p->check);
    mm_json_write_string(stdout, fault, strlen(fault));
    fputs(",\"not_found_out\":", stdout);
    mm_json_write_string(stdout, p->why, strlen(p->why));
    puts("}");
}

/* --- all of it ----------------------------------------------------------------------------------
 */

/* Read it as the broker will. */
static bool load_settings(struct prove *p)
{
    struct findings findings = {0};
    struct settings_options opts = {.form = SETTINGS_MOSQUITTO_CONF};
    bool good = settings_load(p->broker.config, &opts, &findings, &p->settings) &&
                p->settings.config != NULL;
    if (!good) {
        findings_print(&findings, stderr);
    }
    findings_free(&findings);
    return good;
}

/* False: why was told to standard error. */
static bool prepare_power(struct prove *p)
{
    const struct mm_config *config = p->settings.config;
    char library[PROVE_PATH_LEN];
    if (!p->args->power) {
        return true;
    }
    if (config->spool_sync == MM_SPOOL_SYNC_NEVER) {
        fputs(
            "metamorphosis: --power: with spool_sync never nothing is promised that it could find "
            "broken\n",
            stderr);
        return false;
    }
    if (config->spool_sync == MM_SPOOL_SYNC_INTERVAL &&
        !prove_grace_new(p->args->clients, config->spool_sync_interval_ms + 2 * UINT64_C(10000),
                         &p->grace)) {
        perror("metamorphosis");
        return false;
    }
    return prove_args_power_library(p->plugin, library) && prove_power_prepare(&p->broker, library);
}

/* False: why was told to standard error. */
static bool prepare(struct prove *p)
{
    const struct prove_args *a = p->args;
    if (!prove_args_plugin(a, p->plugin) || !prove_broker_make(&p->broker, a->mosquitto)) {
        return false;
    }
    p->load_options.port = p->broker.port;
    if (!prove_args_configure(a, &p->broker, p->plugin, p->topic, a->kafka, LINGER_MS) ||
        !load_settings(p) || !prepare_power(p)) {
        return false;
    }
    p->asking = true;
    bool good =
        kafka_ask_open(&p->ask, p->settings.config, ASK_TIMEOUT_MS, p->why, sizeof p->why) &&
        prove_check_open(&p->ask, &p->load_options, p->topic, a->topic == NULL, &p->check, p->why,
                         sizeof p->why);
    if (!good) {
        fprintf(stderr, "metamorphosis: %s\n", p->why);
        return false;
    }
    if (!begin_life(p, false)) {
        return false;
    }
    if (!prove_load_start(&p->load_options, &p->load)) {
        fputs("metamorphosis: the publishers could not be started\n", stderr);
        return false;
    }
    return true;
}

static void clean_up(struct prove *p, bool good)
{
    bool keep = p->args->keep || !good;
    prove_broker_kill(&p->broker);
    if (!keep && p->args->topic == NULL && p->check != NULL) {
        prove_check_delete_topic(p->check);
    }
    prove_check_close(p->check);
    if (p->asking) {
        kafka_ask_close(&p->ask);
    }
    prove_load_free(p->load);
    prove_grace_free(p->grace);
    settings_free(&p->settings);
    if (p->broker.dir[0] != '\0' && (!keep || p->load == NULL)) {
        prove_broker_remove(&p->broker);
    } else if (p->broker.dir[0] != '\0') {
        fprintf(stderr, "metamorphosis: left behind: %s%s%s\n", p->broker.dir,
                p->args->topic == NULL ? ", Kafka topic " : "",
                p->args->topic == NULL ? p->topic : "");
    }
}

int run_prove(int argc, char **argv)
{
    struct prove_args args;
    if (!prove_args_parse(argc, argv, &args)) {
        return 2;
    }
    struct prove *p = calloc(1, sizeof *p);
    if (p == NULL) {
        perror("metamorphosis");
        return 1;
    }
    p->args = &args;
    p->random = args.seed;
    p->load_options = (struct prove_load_options){
        .n_clients = args.clients,
        .n_topics = args.topics,
        .rate = args.rate,
        .payload_max = 512,
        .qos = (uint8_t)args.qos,
        .run = (uint32_t)(mm_clock_realtime_ms() ^ (uint64_t)getpid() << 20),
    };
    if (args.topic != NULL) {
        snprintf(p->topic, sizeof p->topic, "%s", args.topic);
    } else {
        snprintf(p->topic, sizeof p->topic, "metamorphosis-prove-%08" PRIx32, p->load_options.run);
    }
    interrupt_catch();
    bool good = prepare(p);
    if (good) {
        good = prove(p);
        if (!good) {
            prove_broker_show_log(&p->broker);
        }
        (args.json ? print_json : print_report)(p);
        good = is_good(p);
    }
    clean_up(p, good);
    free(p);
    return good ? 0 : 1;
}
