#include "mm_property.h"

#include <ctype.h>
#include <fnmatch.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

/* Properties of librdkafka that the plugin sets itself, or that would break its promise. The names
 * are fnmatch patterns. */
static const struct
{
    const char *names[4];
    const char *reason;
} refusals[] = {
    {{"bootstrap.servers", "metadata.broker.list"}, "use kafka_broker"},
    {{"message.max.bytes"}, "use max_message_bytes"},

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
    {{"sticky.partitioning.linger.ms"},
     "the plugin sets it: the messages of an MQTT topic stay in one partition, with a key or "
     "without"},
    {{"test.*", "ut_*"}, "this is for tests of librdkafka itself: messages would go nowhere"},
    {{"topic.blacklist"}, "no message must be kept away from its topic"},
    {{"transactional.id"}, "the plugin does not use transactions"},
    {{"queue.buffering.max.messages", "queue.buffering.max.kbytes"},
     "the plugin sets the window: what waits is kept in the spool (spool_max_bytes)"},
    {{"delivery.report.only.error"}, "the plugin needs the report of every message"},
    {{"statistics.interval.ms"}, "the plugin sets it for its metrics"},
    {{"enabled_events"}, "the plugin needs the reports by its callbacks"},
    {{"plugin.library.paths"},
     "a library inside the Kafka client may change or drop messages, and is run by whoever reads "
     "the setting"},
    {{"internal.termination.signal"}, "the Kafka client would take this signal from the broker"},
    {{"log.queue"}, "nobody would hear what the Kafka client says, and it would fill the memory"},
    {{"*_cb", "opaque", "interceptors", "default_topic_conf"},
     "this is a pointer in a program, not a setting"},
};

#define TEXT_OF(number) TEXT(number)
#define TEXT(token) #token

#define N_REFUSALS (sizeof refusals / sizeof refusals[0])
#define N_REFUSAL_NAMES (sizeof refusals[0].names / sizeof refusals[0].names[0])

/* Properties whose values are never shown; fnmatch patterns. */
static const char *const secrets[] = {
    "*password*", "*secret*", "*passphrase*", "*.pem", "sasl.jaas*", "sasl.oauthbearer*",
};

#define N_SECRETS (sizeof secrets / sizeof secrets[0])

/* Properties that name a file, and whether a secret is in it. */
static const struct
{
    const char *name;
    bool secret;
} files[] = {
    {"sasl.kerberos.keytab", true}, {"ssl.ca.location", false}, {"ssl.certificate.location", false},
    {"ssl.crl.location", false},    {"ssl.key.location", true}, {"ssl.keystore.location", true},
};

bool mm_property_is_name(const char *name)
{
    const char *c = name;
    while ((*c >= 'a' && *c <= 'z') || (*c >= '0' && *c <= '9') || *c == '.' || *c == '_') {
        c++;
    }
    return *c == '\0' && c != name && c - name <= MM_PROPERTY_MAX_LEN;
}

const char *mm_property_refusal(const char *property)
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

bool mm_property_is_secret(const char *property)
{
    for (size_t i = 0; i < N_SECRETS; i++) {
        if (fnmatch(secrets[i], property, 0) == 0) {
            return true;
        }
    }
    return false;
}

bool mm_property_names_file(const char *name, bool *secret)
{
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        if (strcmp(name, files[i].name) == 0) {
            *secret = files[i].secret;
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
    return isdigit((unsigned char)value[0]) && *end == '\0' && ms >= 0 &&
           ms <= MM_PROPERTY_LINGER_MAX_MS;
}

const char *mm_property_fault(const char *name, const char *value)
{
    if (value[0] == '\0') {
        return "\"\" is not valid: expected a value of librdkafka";
    }
    if ((strcmp(name, "linger.ms") == 0 || strcmp(name, "queue.buffering.max.ms") == 0) &&
        !is_good_linger(value)) {
        return "not valid: expected a number of milliseconds from 0 to " TEXT_OF(
            MM_PROPERTY_LINGER_MAX_MS) "; what lingers longer is lost when the broker stops";
    }
    if (strcmp(name, "partitioner") == 0 && !is_good_partitioner(value)) {
        return "not valid: expected murmur2_random, murmur2, consistent_random, consistent, "
               "fnv1a_random or fnv1a, which give each MQTT topic one partition";
    }
    return NULL;
}

void mm_property_write_reference(FILE *stream)
{
    fputs(
        "\n## `rdkafka.<property>`\n\n"
        "Every other property of librdkafka can be set under its own name, once each, in the "
        "broker's configuration (`plugin_opt_rdkafka.linger.ms 20`) or in the `config_file` "
        "(`rdkafka.linger.ms 20`), not in the environment. Never shown are the values of ",
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
