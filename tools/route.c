#include "route.h"

#include "arguments.h"
#include "kafka_ask.h"
#include "mm_clock.h"
#include "mm_error.h"
#include "mm_filter.h"
#include "mm_lanes.h"
#include "mm_record.h"
#include "mm_route.h"
#include "mm_text.h"
#include "route_args.h"
#include "text_file.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char route_help[] =
    "Shows what becomes of a message by the settings in FILE, a mosquitto.conf or a config_file:\n"
    "whether it is taken, by which route, to which Kafka topic, with which key, headers and size,\n"
    "and to which partition. The same code as in the plugin decides. Nothing is sent.\n"
    "\n"
    "  --config FILE           what the settings are in\n"
    "  --topic TOPIC           the MQTT topic\n"
    "  --client-id ID, --username NAME, --qos N, --retain\n"
    "                          of the publish; QoS 0 if nothing else is said\n"
    "  --payload FILE          what the payload is in; else it is empty\n"
    "  --user-property NAME=VALUE, --content-type T, --response-topic T, --correlation-data D\n"
    "                          properties of MQTT 5; the first may be given several times\n"
    "  --partitions N          how many partitions the Kafka topic has\n"
    "  --connect               ask Kafka for that; --timeout S seconds for each answer (10)\n"
    "  --config-file, --mosquitto-conf, --plugin NAME, --env\n"
    "                          as with check-config\n"
    "  --json                  one object\n"
    "\n"
    "Exit codes: 0 it goes to a Kafka topic, 1 it does not, or FILE has mistakes, 2 wrong use.\n";

enum route_option {
    OPT_CONFIG = 256,
    OPT_TOPIC,
    OPT_CLIENT_ID,
    OPT_USERNAME,
    OPT_QOS,
    OPT_RETAIN,
    OPT_PAYLOAD,
    OPT_USER_PROPERTY,
    OPT_CONTENT_TYPE,
    OPT_RESPONSE_TOPIC,
    OPT_CORRELATION_DATA,
    OPT_PARTITIONS,
};

/* --- arguments ----------------------------------------------------------------------------------
 */

/* MQTT's own limit of a text. */
#define TEXT_MAX_LEN ((size_t)UINT16_MAX)

static uint8_t *grow_props(struct route_args *args, size_t len)
{
    uint8_t *props = realloc(args->props, args->props_len + MM_PROP_HEADER_LEN + len);
    if (props != NULL) {
        args->props = props;
        props += args->props_len;
        args->props_len += MM_PROP_HEADER_LEN + len;
    }
    return props;
}

static bool add_text(struct route_args *args, enum mm_record_tag tag, const char *text)
{
    const size_t len = strlen(text);
    uint8_t *dst = len <= TEXT_MAX_LEN ? grow_props(args, len) : NULL;
    if (dst == NULL) {
        return false;
    }
    (void)mm_prop_put(dst, (uint16_t)tag, text, (uint32_t)len);
    return true;
}

/* "name=value" */
static bool add_user_property(struct route_args *args, const char *text)
{
    const char *equals = strchr(text, '=');
    if (equals == NULL) {
        return false;
    }
    const struct mm_prop_pair pair = {.name = text,
                                      .name_len = (size_t)(equals - text),
                                      .value = equals + 1,
                                      .value_len = strlen(equals + 1)};
    if (pair.name_len > TEXT_MAX_LEN || pair.value_len > TEXT_MAX_LEN) {
        return false;
    }
    uint8_t *dst = grow_props(args, mm_prop_pair_len(&pair));
    return dst != NULL && mm_prop_put_pair(dst, &pair) != NULL;
}

static bool take_option(int option, struct route_args *args)
{
    switch (option) {
        case OPT_CONFIG:
            args->file = optarg;
            return true;
        case OPT_TOPIC:
            args->topic = optarg;
            return true;
        case OPT_CLIENT_ID:
            return add_text(args, MM_TAG_CLIENT_ID, optarg);
        case OPT_USERNAME:
            return add_text(args, MM_TAG_USERNAME, optarg);
        case OPT_QOS:
            return argument_number("qos", optarg, 0, 2, &args->qos);
        case OPT_RETAIN:
            args->retain = true;
            return true;
        case OPT_PAYLOAD:
            args->payload_file = optarg;
            return true;
        case OPT_USER_PROPERTY:
            return add_user_property(args, optarg);
        case OPT_CONTENT_TYPE:
            return add_text(args, MM_TAG_CONTENT_TYPE, optarg);
        case OPT_RESPONSE_TOPIC:
            return add_text(args, MM_TAG_RESPONSE_TOPIC, optarg);
        case OPT_CORRELATION_DATA:
            return add_text(args, MM_TAG_CORRELATION_DATA, optarg);
        case OPT_PARTITIONS:
            return argument_number("partitions", optarg, 1, INT32_MAX, &args->n_partitions);
        default:
            return shared_argument_take(option, &args->shared);
    }
}

/* Could a client publish to it? */
static bool is_mqtt_topic(const char *topic)
{
    const size_t len = strlen(topic);
    return len > 0 && len <= TEXT_MAX_LEN && strpbrk(topic, "+#") == NULL &&
           mm_utf8_valid(topic, len);
}

static bool read_args(int argc, char **argv, struct route_args *args)
{
    static const struct option options[] = {
        {"config", required_argument, NULL, OPT_CONFIG},
        {"topic", required_argument, NULL, OPT_TOPIC},
        {"client-id", required_argument, NULL, OPT_CLIENT_ID},
        {"username", required_argument, NULL, OPT_USERNAME},
        {"qos", required_argument, NULL, OPT_QOS},
        {"retain", no_argument, NULL, OPT_RETAIN},
        {"payload", required_argument, NULL, OPT_PAYLOAD},
        {"user-property", required_argument, NULL, OPT_USER_PROPERTY},
        {"content-type", required_argument, NULL, OPT_CONTENT_TYPE},
        {"response-topic", required_argument, NULL, OPT_RESPONSE_TOPIC},
        {"correlation-data", required_argument, NULL, OPT_CORRELATION_DATA},
        {"partitions", required_argument, NULL, OPT_PARTITIONS},
        SHARED_ARGUMENTS,
        {NULL, 0, NULL, 0},
    };
    *args = (struct route_args){.shared = SHARED_ARGUMENTS_DEFAULT};
    optind = 0; /* the GNU way to begin anew */
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (!take_option(option, args)) {
            return false;
        }
    }
    if (args->topic != NULL && !is_mqtt_topic(args->topic)) {
        fputs(
            "metamorphosis: no client can publish to such a topic: expected 1 to 65535 bytes of "
            "UTF-8 without + and #\n",
            stderr);
        return false;
    }
    args->shared.settings.form_only = !args->shared.connect;
    return args->file != NULL && args->topic != NULL && optind == argc &&
           (args->n_partitions == 0 || !args->shared.connect);
}

/* --- the way ------------------------------------------------------------------------------------
 */

/* Ask Kafka how many partitions the topic has. False: told why not. */
static bool ask_partitions(const struct route_args *args, struct route_result *result)
{
    struct kafka_ask ask;
    char why[MM_LOG_LINE_LEN];
    const struct rd_kafka_metadata *md = NULL;
    rd_kafka_resp_err_t err = RD_KAFKA_RESP_ERR__FAIL;
    bool ok = kafka_ask_open(&ask, result->config, args->shared.timeout_s * 1000, why, sizeof why);
    if (ok) {
        err = kafka_ask_topic(&ask, result->way.kafka_topic, &md);
        err = md != NULL ? md->topics[0].err : err;
        ok = md != NULL && err == RD_KAFKA_RESP_ERR_NO_ERROR;
        snprintf(why, sizeof why, "Kafka topic \"%s\": %s", result->way.kafka_topic,
                 rd_kafka_err2str(err));
    }
    if (ok) {
        result->n_partitions = (uint32_t)md->topics[0].partition_cnt;
    } else {
        fprintf(stderr, "metamorphosis: %s\n", why);
    }
    if (md != NULL) {
        rd_kafka_metadata_destroy(md);
    }
    kafka_ask_close(&ask);
    return ok;
}

static void find_way(const struct route_args *args,
                     const struct settings *s,
                     struct mm_lanes *lanes,
                     const struct mm_record *rec,
                     struct route_result *result)
{
    const struct mm_config *config = s->config;
    result->taken = mm_filter_set_match(config->filters, rec->topic, rec->topic_len);
    if (!result->taken) {
        return;
    }
    mm_message_route(config, lanes, rec, &result->way);
    const struct mm_config_route *route = result->way.route;
    if (route == &config->default_route) {
        result->place = settings_place(s, "kafka_topic");
    } else {
        result->route = (size_t)(route - config->routes) + 1;
        result->place = route->place;
    }
    if (result->place.file != NULL && strcmp(result->place.file, s->path) == 0) {
        result->place.file = args->file; /* as the user calls it */
    }
    result->size = mm_message_size(config, route, rec);
    result->too_large = result->size > config->max_message_bytes;
}

/* Make the Kafka message and choose its partition. False: told why not. */
static bool make_message(const struct route_args *args,
                         const struct mm_record *rec,
                         struct mm_message *memory,
                         struct route_result *result)
{
    static const char id[] = ROUTE_ID;
    const struct mm_message_source source = {
        .rec = rec, .id = id, .id_len = sizeof id - 1, .now_ms = rec->time_ms};
    if (mm_message_make(memory, result->config, result->way.route, &source, &result->message) !=
        0) {
        fprintf(stderr, "metamorphosis: %s\n", mm_strerror(MM_ENOMEM));
        return false;
    }
    if (args->shared.connect && !ask_partitions(args, result)) {
        return false;
    }
    if (result->n_partitions > 0) {
        result->partition =
            mm_kafka_partition(result->config, &result->message, (int32_t)result->n_partitions);
    }
    return true;
}

/* Find out all, and print it. Returns the exit code. */
static int show(const struct route_args *args,
                const struct settings *s,
                const struct mm_record *rec,
                struct mm_lanes *lanes,
                struct mm_message *memory)
{
    struct route_result result = {
        .config = s->config, .n_partitions = args->n_partitions, .partition = -1};
    find_way(args, s, lanes, rec, &result);
    if (result.taken && result.way.error == NULL && !make_message(args, rec, memory, &result)) {
        return 1;
    }
    if (args->shared.json) {
        route_print_json(args, &result);
    } else {
        route_print(args, &result);
    }
    return result.taken && result.way.error == NULL && !result.too_large ? 0 : 1;
}

static int show_with_memory(const struct route_args *args,
                            const struct settings *s,
                            const struct mm_record *rec)
{
    struct mm_lanes *lanes = NULL;
    struct mm_message *memory = NULL;
    int code = 1;
    if (mm_lanes_new(&lanes) != 0 || mm_lanes_reset(lanes, s->config) != 0 ||
        mm_message_new(&memory) != 0) {
        fprintf(stderr, "metamorphosis: %s\n", mm_strerror(MM_ENOMEM));
    } else {
        code = show(args, s, rec, lanes, memory);
    }
    mm_message_free(memory);
    mm_lanes_free(lanes);
    return code;
}

static int run(const struct route_args *args, const struct settings *s)
{
    size_t len = 0;
    const char *why = "";
    char *payload = NULL;
    if (args->payload_file != NULL) {
        payload = text_file_read(args->payload_file, &len, &why);
        if (payload == NULL) {
            fprintf(stderr, "metamorphosis: %s: %s\n", args->payload_file, why);
            return 1;
        }
    }
    const size_t topic_len = strlen(args->topic);
    const struct mm_record rec = {
        .seq = 1,
        .time_ms = mm_clock_realtime_ms(),
        .topic_hash = mm_topic_hash(args->topic, topic_len),
        .flags = (uint8_t)(args->qos | (args->retain ? MM_RECORD_RETAIN : 0)),
        .type = MM_RECORD_MESSAGE,
        .topic_len = (uint16_t)topic_len,
        .payload_len = (uint32_t)len,
        .props_len = (uint32_t)args->props_len,
        .topic = args->topic,
        .payload = payload,
        .props = args->props,
    };
    const int code = show_with_memory(args, s, &rec);
    free(payload);
    return code;
}

int run_route(int argc, char **argv)
{
    struct route_args args;
    if (!read_args(argc, argv, &args)) {
        free(args.props);
        return 2;
    }
    struct findings f = {0};
    struct settings s;
    int code = 1;
    (void)settings_load(args.file, &args.shared.settings, &f, &s);
    findings_sort(&f);
    if (f.n_errors > 0 || s.config == NULL) {
        findings_print(&f, stderr);
    } else {
        code = run(&args, &s);
    }
    findings_free(&f);
    settings_free(&s);
    free(args.props);
    return code;
}
