/* producer - a bare librdkafka producer: what Kafka and its client give without a broker in front.
 *
 * It writes what the plugin would write for the messages of loadgen, byte for byte as long: JSON
 * value, key, mm-id, time stamp; with the plugin's settings of the client, made by the plugin's own
 * code from the same options. But the value is made once, nothing is kept, and nobody is told: what
 * is lost here is lost. One thread produces and serves the reports, as in a worker of the plugin.
 *
 * The clock runs from the first message after the warm-up to the acknowledgement of the last. */
#include "payload.h"

#include "../plugin/mm_kafka_impl.h"
#include "mm_config.h"
#include "mm_format.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <librdkafka/rdkafka.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#define NS_PER_S UINT64_C(1000000000)
#define PREFIX "bench/t"
#define TOPIC_LEN (sizeof PREFIX - 1 + TOPIC_DIGITS)
#define ID_PREFIX "00000000-0000-4000-8000-000000000000-" /* as long as a spool's uuid */
#define ID_DIGITS 7
#define ID_LEN (sizeof ID_PREFIX - 1 + ID_DIGITS)
#define OPTIONS_MAX 64
#define POLL_EVERY 256 /* messages */

struct settings
{
    const char *kafka_topic;
    uint64_t n_messages;
    uint64_t n_warm_up;
    uint64_t payload_len;
    uint64_t n_topics;
    uint64_t timeout_s; /* without an acknowledgement */
    struct mm_option options[OPTIONS_MAX];
    size_t n_options;
};

struct producer
{
    struct settings set;
    rd_kafka_t *rk;
    rd_kafka_topic_t *topic;
    uint64_t n_sent;
    uint64_t n_acked;
    uint64_t last_ack_ns; /* served, CLOCK_MONOTONIC */

    /* One message; the digits are written in place, since the client copies. */
    uint8_t key[TOPIC_LEN];
    uint8_t id[ID_LEN];
    uint8_t *value;
    size_t value_len;
    size_t topic_at; /* of its digits, in value */
};

static void die(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));

static void die(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fputs("bench_producer: ", stderr);
    vfprintf(stderr, fmt, args);
    fputc('\n', stderr);
    va_end(args);
    exit(EXIT_FAILURE);
}

static uint64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

static double cpu_seconds(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* --- the client ---------------------------------------------------------------------------------
 */

static void on_delivery(rd_kafka_t *rk, const rd_kafka_message_t *m, void *opaque)
{
    (void)rk;
    struct producer *p = opaque;
    if (m->err != RD_KAFKA_RESP_ERR_NO_ERROR) {
        die("a message was not delivered: %s", rd_kafka_err2str(m->err));
    }
    p->n_acked++;
    p->last_ack_ns = now_ns();
}

static void print_finding(void *arg, const struct mm_finding *finding)
{
    (void)arg;
    if (finding->level == MM_LOG_ERROR) {
        fprintf(stderr, "bench_producer: %s\n", finding->text);
    }
}

/* The plugin may tell its client when to send, and have it wait long otherwise. Nobody tells ours:
 * it waits for as long as is the option's meaning. */
static void set_linger(rd_kafka_conf_t *conf, const struct mm_config *config)
{
    if (mm_config_has_property(config, "linger.ms") ||
        mm_config_has_property(config, "queue.buffering.max.ms")) {
        return; /* given by librdkafka's name */
    }
    char ms[16];
    char errstr[256];
    snprintf(ms, sizeof ms, "%" PRIu32, config->kafka_linger_ms);
    if (rd_kafka_conf_set(conf, "linger.ms", ms, errstr, sizeof errstr) != RD_KAFKA_CONF_OK) {
        die("%s", errstr);
    }
}

static void connect_client(struct producer *p)
{
    const struct mm_config_source source = {
        .options = p->set.options,
        .n_options = p->set.n_options,
        .report = print_finding,
    };
    struct mm_config *config;
    if (mm_config_new(&source, &config) != 0) {
        die("these options are none");
    }
    if (config->payload_format != MM_PAYLOAD_JSON) {
        die("payload_format: only JSON can be compared");
    }
    char errstr[512];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    const struct mm_kafka_options opts = {.config = config};
    if (mm_kafka_configure(conf, &opts, errstr, sizeof errstr) != 0) {
        die("%s", errstr);
    }
    set_linger(conf, config);
    rd_kafka_conf_set_opaque(conf, p);
    rd_kafka_conf_set_dr_msg_cb(conf, on_delivery);
    p->rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, errstr, sizeof errstr);
    if (p->rk == NULL) {
        die("%s", errstr);
    }
    p->topic = rd_kafka_topic_new(p->rk, p->set.kafka_topic, NULL);
    if (p->topic == NULL) {
        die("%s: %s", p->set.kafka_topic, rd_kafka_err2str(rd_kafka_last_error()));
    }
    mm_config_free(config);
}

/* --- messages -----------------------------------------------------------------------------------
 */

static void make_message(struct producer *p)
{
    memcpy(p->key, PREFIX, sizeof PREFIX - 1);
    put_digits(p->key + sizeof PREFIX - 1, TOPIC_DIGITS, 0);
    memcpy(p->id, ID_PREFIX, sizeof ID_PREFIX - 1);

    struct mm_format *format;
    uint8_t *payload = malloc(p->set.payload_len + 1);
    if (payload == NULL || mm_format_new("Topic", "Content", &format) != 0) {
        die("no memory");
    }
    make_payload(payload, p->set.payload_len);
    if (p->set.payload_len >= STAMP_LEN) {
        put_digits(payload, STAMP_LEN, now_ns());
    }
    p->value = malloc(mm_format_json_bound(format, TOPIC_LEN, p->set.payload_len));
    if (p->value == NULL) {
        die("no memory");
    }
    p->value_len = mm_format_json(format, (const char *)p->key, TOPIC_LEN, payload,
                                  p->set.payload_len, (char *)p->value);
    const uint8_t *found = memmem(p->value, p->value_len, PREFIX, sizeof PREFIX - 1);
    p->topic_at = (size_t)(found - p->value) + sizeof PREFIX - 1;
    mm_format_free(format);
    free(payload);
}

static rd_kafka_resp_err_t produce(struct producer *p)
{
    rd_kafka_vu_t parts[] = {
        {.vtype = RD_KAFKA_VTYPE_RKT, .u.rkt = p->topic},
        {.vtype = RD_KAFKA_VTYPE_MSGFLAGS, .u.i = RD_KAFKA_MSG_F_COPY},
        {.vtype = RD_KAFKA_VTYPE_VALUE, .u.mem = {.ptr = p->value, .size = p->value_len}},
        {.vtype = RD_KAFKA_VTYPE_KEY, .u.mem = {.ptr = p->key, .size = sizeof p->key}},
        {.vtype = RD_KAFKA_VTYPE_HEADER,
         .u.header = {.name = "mm-id", .val = p->id, .size = sizeof p->id}},
    };
    rd_kafka_error_t *error = rd_kafka_produceva(p->rk, parts, sizeof parts / sizeof parts[0]);
    rd_kafka_resp_err_t err = rd_kafka_error_code(error);
    rd_kafka_error_destroy(error);
    return err;
}

static void poll_client(struct producer *p, int timeout_ms)
{
    rd_kafka_poll(p->rk, timeout_ms);
    if (now_ns() - p->last_ack_ns > p->set.timeout_s * NS_PER_S) {
        die("Kafka has acknowledged nothing for %" PRIu64 " s; %" PRIu64 " of %" PRIu64
            " messages sent have an answer",
            p->set.timeout_s, p->n_acked, p->n_sent);
    }
}

/* Send n messages and wait for the acknowledgement of the last. Returns when it came. */
static uint64_t send_all(struct producer *p, uint64_t n)
{
    p->last_ack_ns = now_ns();
    for (uint64_t i = 0; i < n; i++) {
        put_digits(p->value + p->topic_at, TOPIC_DIGITS, i % p->set.n_topics);
        put_digits(p->key + sizeof PREFIX - 1, TOPIC_DIGITS, i % p->set.n_topics);
        put_digits(p->id + sizeof ID_PREFIX - 1, ID_DIGITS, p->n_sent);
        rd_kafka_resp_err_t err;
        while ((err = produce(p)) == RD_KAFKA_RESP_ERR__QUEUE_FULL) {
            poll_client(p, 10);
        }
        if (err != RD_KAFKA_RESP_ERR_NO_ERROR) {
            die("a message is refused: %s", rd_kafka_err2str(err));
        }
        p->n_sent++;
        if (i % POLL_EVERY == 0) {
            poll_client(p, 0);
        }
    }
    while (p->n_acked < p->n_sent) {
        poll_client(p, 10);
    }
    return p->last_ack_ns;
}

static void run(struct producer *p)
{
    connect_client(p);
    make_message(p);
    send_all(p, p->set.n_warm_up);
    double cpu = cpu_seconds();
    uint64_t start_ns = now_ns();
    uint64_t end_ns = send_all(p, p->set.n_messages);
    cpu = cpu_seconds() - cpu;
    double seconds = (double)(end_ns - start_ns) / (double)NS_PER_S;
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    printf("{\"messages\": %" PRIu64
           ", \"seconds\": %.6f, \"rate\": %.1f, \"cpu_seconds\": %.6f"
           ", \"value\": %zu, \"max_rss_kib\": %ld, \"librdkafka\": \"%s\"}\n",
           p->set.n_messages, seconds, (double)p->set.n_messages / seconds, cpu, p->value_len,
           usage.ru_maxrss, rd_kafka_version_str());
    rd_kafka_topic_destroy(p->topic);
    rd_kafka_destroy(p->rk);
    free(p->value);
}

/* --- the command line ---------------------------------------------------------------------------
 */

static const char usage_text[] =
    "usage: bench_producer --kafka HOST:PORT --topic TOPIC [options]\n"
    "\n"
    "Writes to a Kafka topic what the plugin would make of loadgen's messages, by a producer with\n"
    "the plugin's settings, and prints one line of JSON.\n"
    "\n"
    "  --messages N          (100000)\n"
    "  --warm-up N           messages before the clock runs (5000)\n"
    "  --size N              bytes of payload (100)\n"
    "  --topics N            MQTT topics; message i has topic i modulo N (1)\n"
    "  --option NAME=VALUE   of the plugin\n"
    "  --timeout S           give up when Kafka acknowledges nothing for S seconds (60)\n";

enum {
    OPT_MESSAGES,
    OPT_WARM_UP,
    OPT_SIZE,
    OPT_TOPICS,
    OPT_TIMEOUT,
    N_NUMBERS,
    OPT_KAFKA = N_NUMBERS,
    OPT_TOPIC,
    OPT_OPTION,
    OPT_HELP,
};

static void usage_error(const char *what)
{
    fprintf(stderr, "bench_producer: %s\n%s", what, usage_text);
    exit(2);
}

static uint64_t parse_number(const char *text, uint64_t min, uint64_t max)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || text[0] == '-' || value < min || value > max) {
        fprintf(stderr, "bench_producer: %s: expected a number from %" PRIu64 " to %" PRIu64 "\n",
                text, min, max);
        exit(2);
    }
    return value;
}

static void add_option(struct settings *s, const char *name, const char *value)
{
    if (s->n_options == OPTIONS_MAX) {
        usage_error("too many options");
    }
    s->options[s->n_options++] = (struct mm_option){.name = name, .value = value};
}

/* NAME=VALUE; the text is cut in two. */
static void split_option(struct settings *s, char *text)
{
    char *equals = strchr(text, '=');
    if (equals == NULL) {
        usage_error("--option takes NAME=VALUE");
        return;
    }
    *equals = '\0';
    add_option(s, text, equals + 1);
}

static void parse_command_line(int argc, char **argv, struct settings *s)
{
    static const struct option options[] = {
        {"messages", required_argument, NULL, OPT_MESSAGES},
        {"warm-up", required_argument, NULL, OPT_WARM_UP},
        {"size", required_argument, NULL, OPT_SIZE},
        {"topics", required_argument, NULL, OPT_TOPICS},
        {"timeout", required_argument, NULL, OPT_TIMEOUT},
        {"kafka", required_argument, NULL, OPT_KAFKA},
        {"topic", required_argument, NULL, OPT_TOPIC},
        {"option", required_argument, NULL, OPT_OPTION},
        {"help", no_argument, NULL, OPT_HELP},
        {NULL, 0, NULL, 0},
    };
    static const uint64_t limits[N_NUMBERS][2] = {
        [OPT_MESSAGES] = {1, UINT32_MAX}, [OPT_WARM_UP] = {0, UINT32_MAX},
        [OPT_SIZE] = {0, 64 << 20},       [OPT_TOPICS] = {1, 1000000},
        [OPT_TIMEOUT] = {1, 86400},
    };
    uint64_t *numbers[N_NUMBERS] = {
        [OPT_MESSAGES] = &s->n_messages, [OPT_WARM_UP] = &s->n_warm_up,
        [OPT_SIZE] = &s->payload_len,    [OPT_TOPICS] = &s->n_topics,
        [OPT_TIMEOUT] = &s->timeout_s,
    };
    const char *bootstrap = NULL;
    int found;
    while ((found = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (found == OPT_HELP) {
            fputs(usage_text, stdout);
            exit(EXIT_SUCCESS);
        } else if (found == OPT_KAFKA) {
            bootstrap = optarg;
        } else if (found == OPT_TOPIC) {
            s->kafka_topic = optarg;
        } else if (found == OPT_OPTION) {
            split_option(s, optarg);
        } else if (found >= 0 && found < N_NUMBERS) {
            *numbers[found] = parse_number(optarg, limits[found][0], limits[found][1]);
        } else {
            usage_error("what is meant?");
        }
    }
    if (optind != argc || bootstrap == NULL || s->kafka_topic == NULL) {
        usage_error("--kafka and --topic are needed, and nothing else but options");
    }
    add_option(s, "kafka_broker", bootstrap);
    add_option(s, "kafka_topic", s->kafka_topic);
}

int main(int argc, char **argv)
{
    struct producer p = {
        .set = {.n_messages = 100000,
                .n_warm_up = 5000,
                .payload_len = 100,
                .n_topics = 1,
                .timeout_s = 60},
    };
    parse_command_line(argc, argv, &p.set);
    run(&p);
    return ferror(stdout) != 0 || fflush(stdout) != 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
