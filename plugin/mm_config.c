/* One table of options makes the parser, the checks, the start log's line and the reference.
 *
 * Parsing has two steps. Gathering finds each option's value: the broker's, the environment's or
 * the default; names are judged here. Applying hands the value to the option's parser, in the order
 * of the table. A mistake is reported and does not stop either; only missing memory does. */
#include "mm_config.h"

#include "mm_error.h"
#include "mm_filter.h"
#include "mm_text.h"

#include <arpa/inet.h>
#include <assert.h>
#include <ctype.h>
#include <fnmatch.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define PROPERTY_PREFIX "rdkafka."
#define HEALTH_ADDRESS_ALL "0.0.0.0"
#define KAFKA_TOPIC_MAX_LEN 249
#define HOST_MAX_LEN 255
#define PROPERTY_MAX_LEN 128
#define SPOOL_MAX ((uint64_t)1 << 40)
/* Longer than the longest option, for names that are compared or changed. */
#define NAME_BUF_LEN 64

struct parser;
struct option;

/* Check a value, trimmed, and store it. Errors: MM_EINVAL, with parser->why filled or left empty
 * where the option's "expected" says it all; MM_ENOMEM. */
typedef int parse_fn(struct parser *p, const struct option *option, const char *value);

/* Write an option's value as a user would. */
typedef void show_fn(const struct mm_config *config,
                     const struct option *option,
                     char *dst,
                     size_t dst_len);

static parse_fn parse_number, parse_size, parse_word, parse_filters, parse_kafka_port,
    parse_brokers, parse_kafka_topic, parse_field_names, parse_address;
static show_fn show_number, show_size, show_word, show_text, show_field_names;

enum option_kind {
    OPTION_SETTING,
    OPTION_ALIAS,   /* another name of an option: stands_for */
    OPTION_IGNORED, /* of the Go program; means nothing inside the broker */
};

/* A value that is one of several words. */
struct word
{
    const char *name;
    unsigned value;
    bool foreign; /* understood with a warning, as the word before it of the same value */
};

struct option
{
    const char *name;
    enum option_kind kind;
    const char *stands_for;
    const char *fallback; /* the default, parsed like any value; NULL: not set */
    parse_fn *parse;
    show_fn *show; /* NULL: shown with another option */
    size_t offset; /* of the field in struct mm_config */
    size_t size;   /* of the field, when it is a number, a word or a boolean */
    uint64_t min;
    uint64_t max;
    const char *unit;         /* of a number: " of seconds"; may be NULL */
    const struct word *words; /* ends with a NULL name */
    const char *expected;     /* NULL: made of the range or the words */
    const char *meaning;      /* for the reference; Markdown */
};

/* clang-format off */
static const struct word booleans[] = {
    {"true", true, false},
    {"false", false, false},
    {NULL, 0, false},
};

static const struct word when_full_words[] = {
    {"reject", MM_WHEN_FULL_REJECT, false},
    {"drop_newest", MM_WHEN_FULL_DROP_NEWEST, false},
    {"drop_oldest", MM_WHEN_FULL_DROP_OLDEST, false},
    {NULL, 0, false},
};

static const struct word refuse_v5_words[] = {
    {"disconnect", MM_REFUSE_DISCONNECT, false},
    {"reason_code", MM_REFUSE_REASON_CODE, false},
    {NULL, 0, false},
};

static const struct word log_level_words[] = {
    {"trace", MM_LOG_TRACE, false},
    {"debug", MM_LOG_DEBUG, false},
    {"info", MM_LOG_INFO, false},
    {"warn", MM_LOG_WARN, false},
    {"error", MM_LOG_ERROR, false},
    {"fatal", MM_LOG_ERROR, true}, /* the Go program's */
    {NULL, 0, false},
};

#define FIELD(member) \
    .offset = offsetof(struct mm_config, member), .size = sizeof(((struct mm_config *)0)->member)
#define IGNORED(option_name) {.name = (option_name), .kind = OPTION_IGNORED}

static const char expected_kafka_topic[] =
    "1 to 249 of the characters a-z, A-Z, 0-9, '.', '_' and '-', but not '.' or '..' alone";

static const struct option options[] = {
    {
        .name = "mqtt_topic", .fallback = "#", .parse = parse_filters, .show = show_text,
        FIELD(mqtt_topic), .expected = "MQTT topic filters, separated by ',' or ';'",
        .meaning = "Which messages go to Kafka (filters of MQTT 5.0 section 4.7). `#` leaves out the "
                   "topics that begin with `$`; a filter that begins with `$` takes them.",
    },
    { /* before kafka_broker, which needs it */
        .name = "kafka_port", .fallback = "9092", .parse = parse_kafka_port, .min = 1, .max = 65535,
        .meaning = "The port of each entry of `kafka_broker` that has none.",
    },
    {
        .name = "kafka_broker", .fallback = "localhost", .parse = parse_brokers, .show = show_text,
        FIELD(kafka_bootstrap),
        .expected = "host, host:port or [IPv6 address]:port, several separated by ','",
        .meaning = "Where the Kafka cluster is asked for its members first.",
    },
    {
        .name = "kafka_topic", .fallback = "mqtt", .parse = parse_kafka_topic, .show = show_text,
        FIELD(kafka_topic), .expected = expected_kafka_topic,
        .meaning = "The Kafka topic that the messages go to.",
    },
    {
        .name = "kafka_workers", .fallback = "1", .parse = parse_number, .show = show_number,
        FIELD(kafka_workers), .min = 1, .max = MM_CONFIG_WORKERS_MAX,
        .meaning = "Threads that write to Kafka, each with a producer of its own. The messages of "
                   "one MQTT topic stay with one of them, in order.",
    },
    {
        .name = "kafka_retry_interval", .fallback = "10", .parse = parse_number,
        .show = show_number, FIELD(kafka_retry_interval_s), .min = 1, .max = 3600,
        .unit = " of seconds",
        .meaning = "Pause before something that Kafka refused is tried again.",
    },
    {
        .name = "kafka_test_message", .fallback = "false", .parse = parse_word, .show = show_word,
        FIELD(kafka_test_message), .words = booleans,
        .meaning = "Write the Go program's test message at start. On its own, `kafka_test_topic` "
                   "switches it on.",
    },
    {
        .name = "kafka_test_topic", .parse = parse_kafka_topic, .show = show_text,
        FIELD(kafka_test_topic), .expected = expected_kafka_topic,
        .meaning = "Another Kafka topic for the test message. Not set: `kafka_topic`.",
    },
    {
        .name = "json_field_names", .fallback = "Topic,Content", .parse = parse_field_names,
        .show = show_field_names, .expected = "two different names in UTF-8, separated by ','",
        .meaning = "The names of the two fields of the JSON value. The Go program's releases 0.1.x "
                   "write the default, its later ones `topic,content`.",
    },
    {
        .name = "spool_max_bytes", .fallback = "256M", .parse = parse_size, .show = show_size,
        FIELD(spool_max_bytes), .min = MM_CONFIG_SPOOL_MIN, .max = SPOOL_MAX,
        .meaning = "How much is kept while Kafka is away.",
    },
    {
        .name = "when_full", .fallback = "reject", .parse = parse_word, .show = show_word,
        FIELD(when_full), .words = when_full_words,
        .meaning = "When the spool is full: refuse a QoS 1 or 2 message, so that its publisher sends "
                   "it again; or drop and count the newest or the oldest messages. QoS 0 is never "
                   "refused, only dropped.",
    },
    {
        .name = "refuse_v5", .fallback = "disconnect", .parse = parse_word, .show = show_word,
        FIELD(refuse_v5), .words = refuse_v5_words,
        .meaning = "How an MQTT 5 client is told that its message was refused: by the end of the "
                   "connection, after which it sends again; or by the reason code 0x97 "
                   "(Mosquitto 2.1 and later), after which a client may give the message up.",
    },
    {
        .name = "health_port", .fallback = "8080", .parse = parse_number, .show = show_number,
        FIELD(health_port), .max = 65535,
        .meaning = "The port of the health and metrics pages. 0 switches HTTP off.",
    },
    {
        .name = "health_address", .fallback = "127.0.0.1", .parse = parse_address,
        .show = show_text, FIELD(health_address),
        .expected = "a numeric IPv4 or IPv6 address, or all",
        .meaning = "The address that HTTP listens on. `all` is " HEALTH_ADDRESS_ALL ", every IPv4 "
                   "address of this machine.",
    },
    {
        .name = "log_level", .fallback = "info", .parse = parse_word, .show = show_word,
        FIELD(log_level), .words = log_level_words,
        .meaning = "The least weight of a line that goes to the broker's log. The Go program's "
                   "`fatal` is taken as `error`.",
    },
    {.name = "kakfa_port", .kind = OPTION_ALIAS, .stands_for = "kafka_port"},
    IGNORED("mqtt_broker"),
    IGNORED("mqtt_port"),
    IGNORED("mqtt_tls"),
    IGNORED("root_ca"),
    IGNORED("mqtt_client_cert"),
    IGNORED("mqtt_client_key"),
    IGNORED("mqtt_client_id"),
    IGNORED("kafka_batch_size"),
    IGNORED("kafka_max_batch_size"),
    IGNORED("kafka_interval"),
};
/* clang-format on */

#define N_OPTIONS (sizeof options / sizeof options[0])

/* Properties of librdkafka that the plugin sets itself, or that would break its promise. The names
 * are fnmatch patterns. */
static const struct
{
    const char *names[4];
    const char *reason;
} refusals[] = {
    {{"bootstrap.servers", "metadata.broker.list"}, "use kafka_broker"},
    {{"message.timeout.ms", "delivery.timeout.ms"},
     "a message must not expire: it is tried until Kafka has it"},
    {{"enable.idempotence"}, "the plugin sets it: without it a repeat may break the order"},
    {{"acks", "request.required.acks"},
     "the plugin sets it to all: with less, Kafka may lose what it has confirmed"},
    {{"max.in.flight", "max.in.flight.requests.per.connection"},
     "the plugin sets it: more than 5 break the order"},
    {{"retries", "message.send.max.retries"},
     "the plugin sets it: a message is tried until Kafka has it"},
    {{"enable.gapless.guarantee"}, "the plugin sets it: without it a failure may break the order"},
    {{"queuing.strategy"}, "the order must be first in, first out"},
    {{"test.*", "ut_*"}, "this is for tests of librdkafka itself: messages would go nowhere"},
    {{"topic.blacklist"}, "no message must be kept away from its topic"},
    {{"transactional.id"}, "the plugin does not use transactions"},
    {{"queue.buffering.max.messages", "queue.buffering.max.kbytes"},
     "the plugin sets the window: what waits is kept in the spool (spool_max_bytes)"},
    {{"delivery.report.only.error"}, "the plugin needs the report of every message"},
    {{"statistics.interval.ms"}, "the plugin sets it for its metrics"},
    {{"enabled_events"}, "the plugin needs the reports by its callbacks"},
    {{"*_cb", "opaque", "interceptors", "default_topic_conf"},
     "this is a pointer in a program, not a setting"},
};

/* The stop waits 5 s for what is under way. */
#define LINGER_MAX_MS 1000

#define N_REFUSALS (sizeof refusals / sizeof refusals[0])
#define N_REFUSAL_NAMES (sizeof refusals[0].names / sizeof refusals[0].names[0])

/* Properties whose values are never shown; fnmatch patterns. */
static const char *const secrets[] = {
    "*password*", "*secret*", "*passphrase*", "*.pem", "sasl.jaas*", "sasl.oauthbearer*",
};

#define N_SECRETS (sizeof secrets / sizeof secrets[0])

/* What gathering found for an option. */
struct setting
{
    char *value;      /* trimmed, owned; NULL: the default counts */
    const char *name; /* of the option as it was written; NULL: the environment has it */
};

struct parser
{
    const struct mm_config_source *source; /* borrowed */
    struct mm_config *config;              /* under construction, owned */
    struct setting settings[N_OPTIONS];    /* of options[] with the same index */
    uint16_t kafka_port;
    size_t n_mistakes;
    char subject[128];         /* what a finding is about: "option kafka_workers" */
    char why[MM_LOG_LINE_LEN]; /* what a parse_fn has to say about a wrong value; may be empty */
};

static void report_unknown(struct parser *p, const char *name);
static int add_property(struct parser *p, const char *name, const char *value);
static bool is_secret(const char *property);
static void describe_expected(const struct option *option, char *dst, size_t dst_len);
static void report(struct parser *p, enum mm_log_level level, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static void report(struct parser *p, enum mm_log_level level, const char *fmt, ...)
{
    if (level == MM_LOG_ERROR) {
        p->n_mistakes++;
    }
    if (p->source->report == NULL) {
        return;
    }
    char text[2 * MM_LOG_LINE_LEN] = "";
    char line[MM_LOG_LINE_LEN];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    mm_printable(text, strlen(text), line, sizeof line);
    p->source->report(p->source->report_arg, level, line);
}

/* The names are ASCII, and the process may have any locale. */
static char to_lower(char c)
{
    return (char)(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
}

static char to_upper(char c)
{
    return (char)(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c);
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_letter(char c)
{
    return to_lower(c) >= 'a' && to_lower(c) <= 'z';
}

static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool equal_in_any_case(const char *a, const char *b)
{
    while (*a != '\0' && to_lower(*a) == to_lower(*b)) {
        a++;
        b++;
    }
    return to_lower(*a) == to_lower(*b);
}

/* Cut the blanks off both ends, in place. */
static char *trim(char *text)
{
    while (is_blank(*text)) {
        text++;
    }
    size_t len = strlen(text);
    while (len > 0 && is_blank(text[len - 1])) {
        len--;
    }
    text[len] = '\0';
    return text;
}

/* A copy of a value without the blanks around it, for the caller to free; NULL: no memory. */
static char *copy_trimmed(const char *value)
{
    char *copy = strdup(value != NULL ? value : "");
    if (copy != NULL) {
        const char *trimmed = trim(copy);
        memmove(copy, trimmed, strlen(trimmed) + 1);
    }
    return copy;
}

static const struct option *find_option(const char *name)
{
    for (size_t i = 0; i < N_OPTIONS; i++) {
        if (strcmp(options[i].name, name) == 0) {
            return &options[i];
        }
    }
    return NULL;
}

static struct setting *setting_of(struct parser *p, const struct option *option)
{
    return &p->settings[option - options];
}

/* The variable of the environment for an option: its name in capitals. */
static const char *variable_name(const struct option *option, char dst[NAME_BUF_LEN])
{
    size_t len = strlen(option->name);
    assert(len < NAME_BUF_LEN);
    for (size_t i = 0; i <= len; i++) {
        dst[i] = to_upper(option->name[i]);
    }
    return dst;
}

static void report_twice(struct parser *p, const char *first, const char *second)
{
    char shown_first[MM_PRINTABLE_LEN];
    char shown_second[MM_PRINTABLE_LEN];
    report(p, MM_LOG_ERROR, "%s: given twice, first \"%s\", then \"%s\"", p->subject,
           mm_printable(first, strlen(first), shown_first, sizeof shown_first),
           mm_printable(second, strlen(second), shown_second, sizeof shown_second));
}

static int gather_option(struct parser *p, const struct mm_option *given)
{
    char shown[MM_PRINTABLE_LEN];
    snprintf(p->subject, sizeof p->subject, "option %s",
             mm_printable(given->name, strlen(given->name), shown, sizeof shown));
    if (strncmp(given->name, PROPERTY_PREFIX, strlen(PROPERTY_PREFIX)) == 0) {
        return add_property(p, given->name + strlen(PROPERTY_PREFIX), given->value);
    }
    const struct option *option = find_option(given->name);
    if (option == NULL) {
        report_unknown(p, given->name);
        return 0;
    }
    if (option->kind == OPTION_ALIAS) {
        report(p, MM_LOG_WARN, "%s: is taken as %s", p->subject, option->stands_for);
        option = find_option(option->stands_for);
    }
    char *value = copy_trimmed(given->value);
    if (value == NULL) {
        return MM_ENOMEM;
    }
    struct setting *setting = setting_of(p, option);
    if (setting->value != NULL) {
        report_twice(p, setting->value, value);
        free(value);
        return 0;
    }
    *setting = (struct setting){.value = value, .name = given->name};
    return 0;
}

/* A variable that is empty counts as not set: that is how containers and unit files unset one. */
static int gather_variable(struct parser *p, const struct option *option)
{
    char name[NAME_BUF_LEN];
    const char *text = p->source->getenv(p->source->getenv_arg, variable_name(option, name));
    if (text == NULL) {
        return 0;
    }
    char *value = copy_trimmed(text);
    if (value == NULL) {
        return MM_ENOMEM;
    }
    if (value[0] == '\0') {
        free(value);
        return 0;
    }
    setting_of(p, option)->value = value;
    return 0;
}

static int gather(struct parser *p)
{
    /* At most every option is a property; one more, since calloc(0) may give NULL. */
    p->config->properties = calloc(p->source->n_options + 1, sizeof *p->config->properties);
    if (p->config->properties == NULL) {
        return MM_ENOMEM;
    }
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < p->source->n_options; i++) {
        rc = gather_option(p, &p->source->options[i]);
    }
    for (size_t i = 0; rc == 0 && p->source->getenv != NULL && i < N_OPTIONS; i++) {
        if (options[i].kind != OPTION_ALIAS && p->settings[i].value == NULL) {
            rc = gather_variable(p, &options[i]);
        }
    }
    return rc;
}

/* "option kafka_port" or "environment variable KAFKA_PORT" */
static void name_subject(struct parser *p, const struct option *option)
{
    const struct setting *setting = setting_of(p, option);
    char variable[NAME_BUF_LEN];
    if (setting->value != NULL && setting->name == NULL) {
        snprintf(p->subject, sizeof p->subject, "environment variable %s",
                 variable_name(option, variable));
    } else {
        snprintf(p->subject, sizeof p->subject, "option %s",
                 setting->name != NULL ? setting->name : option->name);
    }
}

static void report_invalid(struct parser *p, const struct option *option, const char *value)
{
    char shown[MM_PRINTABLE_LEN];
    char expected[MM_LOG_LINE_LEN];
    describe_expected(option, expected, sizeof expected);
    report(p, MM_LOG_ERROR, "%s: \"%s\" is not valid: %s%sexpected %s", p->subject,
           mm_printable(value, strlen(value), shown, sizeof shown), p->why,
           p->why[0] != '\0' ? "; " : "", expected);
}

static int apply(struct parser *p, const struct option *option)
{
    const char *value = setting_of(p, option)->value;
    if (value == NULL) {
        value = option->fallback;
    }
    if (value == NULL || option->kind != OPTION_SETTING) {
        return 0;
    }
    name_subject(p, option);
    p->why[0] = '\0';
    int rc = option->parse(p, option, value);
    if (rc == MM_EINVAL) {
        report_invalid(p, option, value);
        rc = 0;
    }
    return rc;
}

/* As the Go program's releases 0.3.x did, where KAFKA_TEST_TOPIC alone asks for the message. */
static void apply_test_topic(struct parser *p)
{
    const struct setting *wish = setting_of(p, find_option("kafka_test_message"));
    if (wish->value == NULL && p->config->kafka_test_topic != NULL) {
        p->config->kafka_test_message = true;
    }
}

static void report_ignored(struct parser *p)
{
    char list[N_OPTIONS * NAME_BUF_LEN];
    size_t used = 0;
    for (size_t i = 0; i < N_OPTIONS; i++) {
        const struct setting *setting = &p->settings[i];
        if (options[i].kind != OPTION_IGNORED || setting->value == NULL) {
            continue;
        }
        char variable[NAME_BUF_LEN];
        int len =
            snprintf(list + used, sizeof list - used, "%s%s", used > 0 ? ", " : "",
                     setting->name != NULL ? setting->name : variable_name(&options[i], variable));
        used += len > 0 ? (size_t)len : 0;
    }
    if (used > 0) {
        report(p, MM_LOG_INFO,
               "these settings have no meaning for a plugin inside the broker and are ignored: %s",
               list);
    }
}

int mm_config_new(const struct mm_config_source *source, struct mm_config **out)
{
    *out = NULL;
    struct parser p = {.source = source, .config = calloc(1, sizeof *p.config)};
    if (p.config == NULL) {
        return MM_ENOMEM;
    }
    int rc = gather(&p);
    for (size_t i = 0; rc == 0 && i < N_OPTIONS; i++) {
        rc = apply(&p, &options[i]);
    }
    if (rc == 0) {
        apply_test_topic(&p);
        report_ignored(&p);
        rc = p.n_mistakes > 0 ? MM_EINVAL : 0;
    }
    for (size_t i = 0; i < N_OPTIONS; i++) {
        free(p.settings[i].value);
    }
    if (rc != 0) {
        mm_config_free(p.config);
        return rc;
    }
    *out = p.config;
    return 0;
}

void mm_config_free(struct mm_config *config)
{
    if (config == NULL) {
        return;
    }
    for (size_t i = 0; i < config->n_properties; i++) {
        free(config->properties[i].name);
        free(config->properties[i].value);
    }
    free(config->properties);
    free(config->health_address);
    free(config->json_content_name);
    free(config->json_topic_name);
    free(config->kafka_test_topic);
    free(config->kafka_topic);
    free(config->kafka_bootstrap);
    mm_filter_set_free(config->filters);
    free(config->mqtt_topic);
    free(config);
}

static size_t min3(size_t a, size_t b, size_t c)
{
    const size_t ab = a < b ? a : b;
    return ab < c ? ab : c;
}

/* Edits that make b of a, both shorter than NAME_BUF_LEN: a letter put in, left out or changed, two
 * neighbours swapped (optimal string alignment). */
static size_t edit_distance(const char *a, const char *b)
{
    size_t rows[3][NAME_BUF_LEN]; /* rows[i % 3][k]: from the first i of a to the first k of b */
    const size_t a_len = strlen(a);
    const size_t b_len = strlen(b);
    for (size_t k = 0; k <= b_len; k++) {
        rows[0][k] = k;
    }
    for (size_t i = 1; i <= a_len; i++) {
        size_t *row = rows[i % 3];
        const size_t *above = rows[(i + 2) % 3];
        row[0] = i;
        for (size_t k = 1; k <= b_len; k++) {
            row[k] = min3(row[k - 1] + 1, above[k] + 1, above[k - 1] + (a[i - 1] != b[k - 1]));
            if (i > 1 && k > 1 && a[i - 1] == b[k - 2] && a[i - 2] == b[k - 1]) {
                row[k] = min3(row[k], rows[(i + 1) % 3][k - 2] + 1, row[k]);
            }
        }
    }
    return rows[a_len % 3][b_len];
}

/* The option that begins with this, if it is one only; short beginnings say too little. */
static const char *only_longer(const char *name)
{
    const char *found = NULL;
    if (strlen(name) < 4) {
        return NULL;
    }
    for (size_t i = 0; i < N_OPTIONS; i++) {
        if (options[i].kind != OPTION_ALIAS && strncmp(options[i].name, name, strlen(name)) == 0) {
            if (found != NULL) {
                return NULL;
            }
            found = options[i].name;
        }
    }
    return found;
}

/* What was probably meant by a name in small letters with underscores; NULL: cannot say. */
static const char *nearest_option(const char *name)
{
    const char *nearest = NULL;
    size_t least = strlen(name) / 4 + 1; /* one letter in four may be wrong */
    for (size_t i = 0; i < N_OPTIONS; i++) {
        size_t distance = edit_distance(name, options[i].name);
        if (options[i].kind != OPTION_ALIAS && distance < least) {
            least = distance;
            nearest = options[i].name;
        }
    }
    if (nearest == NULL && strncmp(name, "rdkafka", strlen("rdkafka")) == 0) {
        return PROPERTY_PREFIX "<property>";
    }
    return nearest != NULL ? nearest : only_longer(name);
}

static bool is_property_name(const char *name)
{
    const char *c = name;
    while ((*c >= 'a' && *c <= 'z') || is_digit(*c) || *c == '.' || *c == '_') {
        c++;
    }
    return *c == '\0' && c != name && c - name <= PROPERTY_MAX_LEN;
}

static void report_unknown(struct parser *p, const char *name)
{
    char ours[NAME_BUF_LEN]; /* in the manner of our own names */
    const char *nearest = NULL;
    if (strlen(name) < sizeof ours) {
        size_t i = 0;
        for (; name[i] != '\0'; i++) {
            ours[i] = to_lower(name[i]);
            if (ours[i] == '-' || ours[i] == '.') {
                ours[i] = '_';
            }
        }
        ours[i] = '\0';
        nearest = nearest_option(ours);
    }
    if (nearest != NULL) {
        report(p, MM_LOG_ERROR, "%s: unknown; did you mean %s?", p->subject, nearest);
    } else if (strchr(name, '.') != NULL && is_property_name(name)) {
        char shown[MM_PRINTABLE_LEN];
        report(p, MM_LOG_ERROR, "%s: unknown; did you mean " PROPERTY_PREFIX "%s?", p->subject,
               mm_printable(name, strlen(name), shown, sizeof shown));
    } else {
        report(p, MM_LOG_ERROR, "%s: unknown", p->subject);
    }
}

static const char *refusal_of(const char *property)
{
    for (size_t i = 0; i < N_REFUSALS; i++) {
        for (size_t k = 0; k < N_REFUSAL_NAMES && refusals[i].names[k] != NULL; k++) {
            if (fnmatch(refusals[i].names[k], property, 0) == 0) {
                return refusals[i].reason;
            }
        }
    }
    return NULL;
}

static bool is_secret(const char *property)
{
    for (size_t i = 0; i < N_SECRETS; i++) {
        if (fnmatch(secrets[i], property, 0) == 0) {
            return true;
        }
    }
    return false;
}

static bool has_property(const struct mm_config *config, const char *name)
{
    for (size_t i = 0; i < config->n_properties; i++) {
        if (strcmp(config->properties[i].name, name) == 0) {
            return true;
        }
    }
    return false;
}

/* One key must always lead to one partition: the order of an MQTT topic rests on it. */
static bool is_good_partitioner(const char *value)
{
    static const char *const good[] = {"murmur2_random", "murmur2",      "consistent_random",
                                       "consistent",     "fnv1a_random", "fnv1a"};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        if (strcmp(value, good[i]) == 0) {
            return true;
        }
    }
    return false;
}

/* librdkafka takes fractions; so do we. */
static bool is_good_linger(const char *value)
{
    char *end;
    double ms = strtod(value, &end);
    return isdigit((unsigned char)value[0]) && *end == '\0' && ms >= 0 && ms <= LINGER_MAX_MS;
}

/* Take one property. No finding shows its value, since that may be a secret. */
static int add_property(struct parser *p, const char *name, const char *value)
{
    if (!is_property_name(name)) {
        report(p, MM_LOG_ERROR,
               "%s: not the name of a property: expected " PROPERTY_PREFIX
               "<property> of 1 to %d of the characters a-z, 0-9, '.' and '_'",
               p->subject, PROPERTY_MAX_LEN);
        return 0;
    }
    const char *refusal = refusal_of(name);
    if (refusal != NULL) {
        report(p, MM_LOG_ERROR, "%s: cannot be set: %s", p->subject, refusal);
        return 0;
    }
    if (has_property(p->config, name)) {
        report(p, MM_LOG_ERROR, "%s: given twice", p->subject);
        return 0;
    }
    struct mm_config_property *property = &p->config->properties[p->config->n_properties++];
    property->name = strdup(name);
    property->value = copy_trimmed(value);
    if (property->name == NULL || property->value == NULL) {
        return MM_ENOMEM;
    }
    if (property->value[0] == '\0') {
        report(p, MM_LOG_ERROR, "%s: \"\" is not valid: expected a value of librdkafka",
               p->subject);
    } else if ((strcmp(name, "linger.ms") == 0 || strcmp(name, "queue.buffering.max.ms") == 0) &&
               !is_good_linger(property->value)) {
        report(p, MM_LOG_ERROR,
               "%s: not valid: expected a number of milliseconds from 0 to %d; what lingers longer "
               "is lost when the broker stops",
               p->subject, LINGER_MAX_MS);
    } else if (strcmp(name, "partitioner") == 0 && !is_good_partitioner(property->value)) {
        report(p, MM_LOG_ERROR,
               "%s: not valid: expected murmur2_random, murmur2, consistent_random, consistent, "
               "fnv1a_random or fnv1a, which give each MQTT topic one partition",
               p->subject);
    }
    return 0;
}

/* The field of a number, a word or a boolean, whatever its width. */
static void store_number(struct mm_config *config, const struct option *option, uint64_t number)
{
    void *field = (char *)config + option->offset;
    const uint8_t n8 = (uint8_t)number;
    const uint16_t n16 = (uint16_t)number;
    const uint32_t n32 = (uint32_t)number;
    switch (option->size) {
        case sizeof n8:
            memcpy(field, &n8, sizeof n8);
            break;
        case sizeof n16:
            memcpy(field, &n16, sizeof n16);
            break;
        case sizeof n32:
            memcpy(field, &n32, sizeof n32);
            break;
        default:
            assert(option->size == sizeof number);
            memcpy(field, &number, sizeof number);
    }
}

static uint64_t load_number(const struct mm_config *config, const struct option *option)
{
    const void *field = (const char *)config + option->offset;
    uint8_t n8;
    uint16_t n16;
    uint32_t n32;
    uint64_t n64;
    switch (option->size) {
        case sizeof n8:
            memcpy(&n8, field, sizeof n8);
            return n8;
        case sizeof n16:
            memcpy(&n16, field, sizeof n16);
            return n16;
        case sizeof n32:
            memcpy(&n32, field, sizeof n32);
            return n32;
        default:
            assert(option->size == sizeof n64);
            memcpy(&n64, field, sizeof n64);
            return n64;
    }
}

static int store_text(struct mm_config *config, const struct option *option, const char *text)
{
    char *copy = strdup(text);
    if (copy == NULL) {
        return MM_ENOMEM;
    }
    memcpy((char *)config + option->offset, &copy, sizeof copy);
    return 0;
}

static const char *load_text(const struct mm_config *config, const struct option *option)
{
    const char *text;
    memcpy(&text, (const char *)config + option->offset, sizeof text);
    return text;
}

/* Read digits up to the first other character, which *end is set to. False: there is no digit, or
 * the number is above max. */
static bool read_digits(const char *text, uint64_t max, const char **end, uint64_t *out)
{
    uint64_t number = 0;
    const char *p = text;
    for (; is_digit(*p); p++) {
        const uint64_t digit = (uint64_t)(*p - '0');
        if (digit > max || number > (max - digit) / 10) {
            return false;
        }
        number = number * 10 + digit;
    }
    *end = p;
    *out = number;
    return p != text;
}

/* The whole text as a number from min to max. */
static bool read_number(const char *text, uint64_t min, uint64_t max, uint64_t *out)
{
    const char *end = NULL;
    return read_digits(text, max, &end, out) && *end == '\0' && *out >= min;
}

static int parse_number(struct parser *p, const struct option *option, const char *value)
{
    uint64_t number = 0;
    if (!read_number(value, option->min, option->max, &number)) {
        return MM_EINVAL;
    }
    store_number(p->config, option, number);
    return 0;
}

static int parse_size(struct parser *p, const struct option *option, const char *value)
{
    uint64_t number = 0;
    const char *suffix = NULL;
    if (!read_digits(value, option->max, &suffix, &number)) {
        return MM_EINVAL;
    }
    unsigned shift = 0;
    switch (to_lower(*suffix)) {
        case 'k':
            shift = 10;
            break;
        case 'm':
            shift = 20;
            break;
        case 'g':
            shift = 30;
            break;
        default:
            break;
    }
    if (shift > 0) {
        suffix++;
    }
    if (*suffix != '\0' || number > option->max >> shift || number << shift < option->min) {
        return MM_EINVAL;
    }
    store_number(p->config, option, number << shift);
    return 0;
}

static int parse_kafka_port(struct parser *p, const struct option *option, const char *value)
{
    uint64_t number = 0;
    if (!read_number(value, option->min, option->max, &number)) {
        return MM_EINVAL;
    }
    p->kafka_port = (uint16_t)number;
    return 0;
}

static int parse_word(struct parser *p, const struct option *option, const char *value)
{
    const struct word *word = option->words;
    while (word->name != NULL && !equal_in_any_case(word->name, value)) {
        word++;
    }
    if (word->name == NULL) {
        return MM_EINVAL;
    }
    store_number(p->config, option, word->value);
    if (word->foreign) {
        char taken_as[NAME_BUF_LEN];
        show_word(p->config, option, taken_as, sizeof taken_as);
        report(p, MM_LOG_WARN, "%s: \"%s\" is taken as %s", p->subject, word->name, taken_as);
    }
    return 0;
}

static int parse_filters(struct parser *p, const struct option *option, const char *value)
{
    int rc = mm_filter_set_new(value, &p->config->filters, p->why, sizeof p->why);
    return rc == 0 ? store_text(p->config, option, value) : rc;
}

static bool is_ipv6(const char *text)
{
    struct in6_addr addr;
    return inet_pton(AF_INET6, text, &addr) == 1;
}

static bool is_ipv4(const char *text)
{
    struct in_addr addr;
    return inet_pton(AF_INET, text, &addr) == 1;
}

/* The letters that a host name, an IPv4 address and a Kafka topic may consist of. */
static bool is_plain_name(const char *text, size_t max_len)
{
    size_t len = 0;
    while (is_letter(text[len]) || is_digit(text[len]) ||
           (text[len] != '\0' && strchr("._-", text[len]) != NULL)) {
        len++;
    }
    return text[len] == '\0' && len > 0 && len <= max_len;
}

/* One entry of kafka_broker. */
struct broker
{
    const char *host; /* IPv6: without the brackets */
    bool is_ipv6;
    const char *port; /* NULL: none was given */
};

/* Take "[address]" or "[address]:port" apart, in place. Returns what is wrong; NULL: nothing. */
static const char *split_bracketed(char *item, struct broker *out)
{
    char *close = strchr(item, ']');
    if (close == NULL) {
        return "has no ']'";
    }
    *close = '\0';
    *out = (struct broker){.host = item + 1, .is_ipv6 = true, .port = NULL};
    if (close[1] == ':') {
        out->port = close + 2;
    } else if (close[1] != '\0') {
        return "has something behind its ']'";
    }
    return is_ipv6(out->host) ? NULL : "has no IPv6 address in its brackets";
}

/* The same for "host" or "host:port". */
static const char *split_plain(char *item, struct broker *out)
{
    *out = (struct broker){.host = item, .is_ipv6 = false, .port = NULL};
    char *colon = strchr(item, ':');
    if (colon != NULL) {
        /* ::1:9092 is an address with a port and also an address without: only brackets tell. */
        if (strchr(colon + 1, ':') != NULL) {
            return "has more than one ':' (an IPv6 address stands in brackets)";
        }
        *colon = '\0';
        out->port = colon + 1;
    }
    return is_plain_name(item, HOST_MAX_LEN) ? NULL : "has no valid host name";
}

/* Write one entry as librdkafka wants it. Returns what is wrong with it; NULL: nothing. */
static const char *write_broker(char *item, uint16_t default_port, char *dst, size_t dst_len)
{
    if (item[0] == '\0') {
        return "is empty";
    }
    struct broker broker;
    const char *wrong =
        item[0] == '[' ? split_bracketed(item, &broker) : split_plain(item, &broker);
    if (wrong != NULL) {
        return wrong;
    }
    uint64_t port = default_port;
    if (broker.port != NULL && !read_number(broker.port, 1, UINT16_MAX, &port)) {
        return "has a port that is no whole number from 1 to 65535";
    }
    snprintf(dst, dst_len, broker.is_ipv6 ? "[%s]:%" PRIu64 : "%s:%" PRIu64, broker.host, port);
    return NULL;
}

static int parse_brokers(struct parser *p, const struct option *option, const char *value)
{
    (void)option;
    static const char longest_addition[] = ":65535,";
    size_t n_items = 1;
    for (const char *c = value; *c != '\0'; c++) {
        n_items += *c == ',';
    }
    const size_t list_len = strlen(value) + n_items * sizeof longest_addition;
    char *items = strdup(value);
    char *list = malloc(list_len);
    if (items == NULL || list == NULL) {
        free(list);
        free(items);
        return MM_ENOMEM;
    }
    const char *wrong = NULL;
    size_t used = 0;
    char *rest = items;
    for (size_t n = 1; wrong == NULL && rest != NULL; n++) {
        if (n > 1) {
            list[used++] = ',';
        }
        wrong = write_broker(trim(strsep(&rest, ",")), p->kafka_port, list + used, list_len - used);
        if (wrong != NULL) {
            snprintf(p->why, sizeof p->why, "entry %zu %s", n, wrong);
        } else {
            used += strlen(list + used);
        }
    }
    free(items);
    if (wrong != NULL) {
        free(list);
        return MM_EINVAL;
    }
    p->config->kafka_bootstrap = list;
    return 0;
}

static int parse_kafka_topic(struct parser *p, const struct option *option, const char *value)
{
    if (!is_plain_name(value, KAFKA_TOPIC_MAX_LEN) || strcmp(value, ".") == 0 ||
        strcmp(value, "..") == 0) {
        return MM_EINVAL;
    }
    return store_text(p->config, option, value);
}

static int parse_field_names(struct parser *p, const struct option *option, const char *value)
{
    (void)option;
    char *names = strdup(value);
    if (names == NULL) {
        return MM_ENOMEM;
    }
    int rc = MM_EINVAL;
    char *rest = names;
    const char *topic = trim(strsep(&rest, ","));
    const char *content = rest != NULL ? trim(strsep(&rest, ",")) : "";
    if (rest != NULL || topic[0] == '\0' || content[0] == '\0' || strcmp(topic, content) == 0 ||
        !mm_utf8_valid(value, strlen(value))) {
        goto out;
    }
    p->config->json_topic_name = strdup(topic);
    p->config->json_content_name = strdup(content);
    rc = p->config->json_topic_name != NULL && p->config->json_content_name != NULL ? 0 : MM_ENOMEM;
out:
    free(names);
    return rc;
}

static int parse_address(struct parser *p, const struct option *option, const char *value)
{
    if (equal_in_any_case(value, "all")) {
        return store_text(p->config, option, HEALTH_ADDRESS_ALL);
    }
    return is_ipv4(value) || is_ipv6(value) ? store_text(p->config, option, value) : MM_EINVAL;
}

/* Write a number of bytes with the largest suffix that leaves it whole. */
static void format_size(uint64_t bytes, char *dst, size_t dst_len)
{
    static const char *const suffixes[] = {"", "k", "M", "G"};
    size_t i = 0;
    for (; i < 3 && bytes > 0 && bytes % 1024 == 0; i++) {
        bytes /= 1024;
    }
    snprintf(dst, dst_len, "%" PRIu64 "%s", bytes, suffixes[i]);
}

static void show_number(const struct mm_config *config,
                        const struct option *option,
                        char *dst,
                        size_t dst_len)
{
    snprintf(dst, dst_len, "%" PRIu64, load_number(config, option));
}

static void show_size(const struct mm_config *config,
                      const struct option *option,
                      char *dst,
                      size_t dst_len)
{
    format_size(load_number(config, option), dst, dst_len);
}

static void show_word(const struct mm_config *config,
                      const struct option *option,
                      char *dst,
                      size_t dst_len)
{
    const struct word *word = option->words;
    while (word->name != NULL && word->value != load_number(config, option)) {
        word++;
    }
    snprintf(dst, dst_len, "%s", word->name != NULL ? word->name : "?");
}

static void show_text(const struct mm_config *config,
                      const struct option *option,
                      char *dst,
                      size_t dst_len)
{
    const char *text = load_text(config, option);
    if (text == NULL) {
        text = "(not set)";
    }
    mm_printable(text, strlen(text), dst, dst_len);
}

static void show_field_names(const struct mm_config *config,
                             const struct option *option,
                             char *dst,
                             size_t dst_len)
{
    (void)option;
    char topic[MM_PRINTABLE_LEN];
    char content[MM_PRINTABLE_LEN];
    snprintf(
        dst, dst_len, "%s,%s",
        mm_printable(config->json_topic_name, strlen(config->json_topic_name), topic, sizeof topic),
        mm_printable(config->json_content_name, strlen(config->json_content_name), content,
                     sizeof content));
}

/* "reject, drop_newest or drop_oldest" */
static void list_words(const struct word *words, char *dst, size_t dst_len)
{
    size_t used = 0;
    for (const struct word *w = words; w->name != NULL && !w->foreign && used < dst_len; w++) {
        bool is_last = w[1].name == NULL || w[1].foreign;
        const char *before = w == words ? "" : is_last ? " or " : ", ";
        int len = snprintf(dst + used, dst_len - used, "%s%s", before, w->name);
        used += len > 0 ? (size_t)len : 0;
    }
}

/* What a value has to be, for errors and the reference. */
static void describe_expected(const struct option *option, char *dst, size_t dst_len)
{
    if (option->expected != NULL) {
        snprintf(dst, dst_len, "%s", option->expected);
    } else if (option->words != NULL) {
        list_words(option->words, dst, dst_len);
    } else if (option->parse == parse_size) {
        char min[24];
        char max[24];
        format_size(option->min, min, sizeof min);
        format_size(option->max, max, sizeof max);
        snprintf(dst, dst_len, "a number of bytes, or of k, M or G (powers of 1024), from %s to %s",
                 min, max);
    } else {
        snprintf(dst, dst_len, "a whole number%s from %" PRIu64 " to %" PRIu64,
                 option->unit != NULL ? option->unit : "", option->min, option->max);
    }
}

/* A line under construction. */
struct line
{
    char *dst;
    size_t len;
    size_t used;
};

/* Add " name=value" if it fits whole; else the line ends in " ...". */
static bool add_pair(struct line *line, const char *name, const char *value)
{
    static const char more[] = " ...";
    const char *quote = strchr(value, ' ') != NULL ? "\"" : "";
    char pair[MM_LOG_LINE_LEN];
    snprintf(pair, sizeof pair, "%s%s=%s%s%s", line->used > 0 ? " " : "", name, quote, value,
             quote);
    size_t pair_len = strlen(pair);
    if (line->used + pair_len + sizeof more <= line->len) {
        memcpy(line->dst + line->used, pair, pair_len + 1);
        line->used += pair_len;
        return true;
    }
    snprintf(line->dst + line->used, line->len - line->used, "%s", more);
    return false;
}

bool mm_config_refuse_by_code(const struct mm_config *config, bool broker_2_1, int mqtt_version)
{
    return config->refuse_v5 == MM_REFUSE_REASON_CODE && broker_2_1 && mqtt_version == 5;
}

void mm_config_describe(const struct mm_config *config, char *dst, size_t dst_len)
{
    struct line line = {.dst = dst, .len = dst_len, .used = 0};
    char value[192];
    for (size_t i = 0; i < N_OPTIONS; i++) {
        if (options[i].show == NULL) {
            continue;
        }
        options[i].show(config, &options[i], value, sizeof value);
        if (!add_pair(&line, options[i].name, value)) {
            return;
        }
    }
    for (size_t i = 0; i < config->n_properties; i++) {
        const struct mm_config_property *property = &config->properties[i];
        const char *shown = is_secret(property->name) ? "***" : property->value;
        char name[192];
        snprintf(name, sizeof name, PROPERTY_PREFIX "%s", property->name);
        mm_printable(shown, strlen(shown), value, sizeof value);
        if (!add_pair(&line, name, value)) {
            return;
        }
    }
}

static void write_option(FILE *stream, const struct option *option)
{
    char variable[NAME_BUF_LEN];
    char expected[MM_LOG_LINE_LEN];
    describe_expected(option, expected, sizeof expected);
    fprintf(stream, "| `%s` | `%s` | ", option->name, variable_name(option, variable));
    if (option->fallback != NULL) {
        fprintf(stream, "`%s`", option->fallback);
    } else {
        fputs("not set", stream);
    }
    fprintf(stream, " | %s | %s |\n", expected, option->meaning);
}

static void write_other_names(FILE *stream)
{
    fputs(
        "\n## Settings of the Go program\n\n"
        "They are accepted as options and variables, so that its settings can stay as they are, "
        "but mean nothing inside the broker. A line of the log lists those that are set.\n\n",
        stream);
    for (size_t i = 0; i < N_OPTIONS; i++) {
        if (options[i].kind == OPTION_IGNORED) {
            fprintf(stream, "- `%s`\n", options[i].name);
        }
    }
    fputc('\n', stream);
    for (size_t i = 0; i < N_OPTIONS; i++) {
        if (options[i].kind == OPTION_ALIAS) {
            fprintf(stream, "`%s`, as the Go program spells it, is taken as `%s`.\n",
                    options[i].name, options[i].stands_for);
        }
    }
}

static void write_properties(FILE *stream)
{
    fputs(
        "\n## `rdkafka.<property>`\n\n"
        "Every other property of librdkafka can be set under its own name, once each, in the "
        "broker's configuration only: `plugin_opt_rdkafka.linger.ms 20`. Never shown are the "
        "values of ",
        stream);
    for (size_t i = 0; i < N_SECRETS; i++) {
        fprintf(stream, "%s`%s`", i == 0 ? "" : i + 1 < N_SECRETS ? ", " : " and ", secrets[i]);
    }
    fputs(".\n\nThese are refused:\n\n| property | because |\n| --- | --- |\n", stream);
    for (size_t i = 0; i < N_REFUSALS; i++) {
        fputs("| ", stream);
        for (size_t k = 0; k < N_REFUSAL_NAMES && refusals[i].names[k] != NULL; k++) {
            fprintf(stream, "%s`%s`", k > 0 ? ", " : "", refusals[i].names[k]);
        }
        fprintf(stream, " | %s |\n", refusals[i].reason);
    }
}

int mm_config_write_reference(FILE *stream)
{
    fputs(
        "# Options\n\n"
        "Made from the option table in `plugin/mm_config.c`; do not edit.\n\n"
        "An option stands in the broker's configuration as `plugin_opt_<option> <value>`, below "
        "its `plugin` line. Without it the environment variable counts, unless that is empty; "
        "without both, the default. An option that is unknown, given twice or not valid keeps "
        "the broker from starting; all of them are reported. Words are understood in any "
        "case.\n\n"
        "| option | environment | default | values | meaning |\n"
        "| --- | --- | --- | --- | --- |\n",
        stream);
    for (size_t i = 0; i < N_OPTIONS; i++) {
        if (options[i].kind == OPTION_SETTING) {
            write_option(stream, &options[i]);
        }
    }
    write_other_names(stream);
    write_properties(stream);
    return fflush(stream) == 0 && !ferror(stream) ? 0 : MM_EINVAL;
}
