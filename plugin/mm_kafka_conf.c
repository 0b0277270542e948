/* The configuration of a producer: what the promise rests on, our options, and what the user gives
 * to librdkafka by name, in this order. */
#include "mm_config.h"
#include "mm_error.h"
#include "mm_kafka_impl.h"
#include "mm_keyfile.h"
#include "mm_options.h"
#include "mm_property.h"
#include "mm_security.h"
#include "mm_text.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What the producers of all workers may hold together: a window that covers the way to Kafka and
 * back, not a store. */
#define MAX_QUEUE_KBYTES (24U * 1024)
#define MAX_QUEUE_MESSAGES 40000U
#define MIN_QUEUE_MESSAGES 4000U

/* And the loose ones, which nothing waits for. */
#define MAX_LOOSE_KBYTES (8U * 1024)
#define MAX_LOOSE_MESSAGES 4000U

/* A client that is told when to send sends by itself when it was not for so much longer than it
 * should have been. */
#define UNPUSHED_MS 200

/* These clients, when they end, often wait a second for a thing that has happened already: the end
 * of the metrics that they push to Kafka (KIP-714). With nothing to push they wait for nothing. */
#define VERSION_LATE_END 0x02050000
#define VERSION_END_MENDED 0x020a0000

/* A configuration under construction. */
struct build
{
    rd_kafka_conf_t *conf;
    const struct mm_config *config;
    char *errstr;
    size_t errstr_len;
};

struct setting
{
    const char *name;
    const char *value;
};

/* What the promise rests on, and what experience with outages asks for. */
static const struct setting settings[] = {
    {"client.id", "metamorphosis"},
    {"enable.idempotence", "true"},
    {"enable.gapless.guarantee", "true"},
    {"acks", "all"},
    {"message.timeout.ms", "0"}, /* none: the spool alone decides how long a message lives */
    {"reconnect.backoff.ms", "100"},
    {"reconnect.backoff.max.ms", "1000"},
    {"socket.keepalive.enable", "true"},
    {"socket.connection.setup.timeout.ms", "5000"},
    /* Only the want of an answer tells of a node that is frozen, and until then the partitions that
     * it led stand still: half as long as by default. A request shares its time with those before
     * it on a slow line, so a batch is half as large, too. */
    {"socket.timeout.ms", "30000"},
    {"batch.size", "524288"},
    {"topic.metadata.refresh.interval.ms", "10000"},
    /* Else librdkafka puts messages without a key where it likes, and does not ask on_partition().
     */
    {"sticky.partitioning.linger.ms", "0"},
    /* A listener that speaks another protocol says so by nothing but hanging up. That an idle
     * connection is closed is still not told. */
    {"log.connection.close", "true"},
    {"statistics.interval.ms", "1000"},
};

bool mm_kafka_judge(const char *name, const char *value, char *why, size_t why_len)
{
    char reason[256] = "";
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    if (conf == NULL) {
        return true; /* the producer will tell */
    }
    const bool taken =
        rd_kafka_conf_set(conf, name, value, reason, sizeof reason) == RD_KAFKA_CONF_OK;
    rd_kafka_conf_destroy(conf);
    snprintf(why, why_len, "%s (librdkafka %s)",
             reason[0] != '\0' ? reason : "the Kafka client does not accept this value",
             rd_kafka_version_str());
    return taken;
}

/* Set a property for the user's setting `subject`, "option kafka_tls_ca_file". */
static int set(struct build *b, const char *subject, const char *name, const char *value)
{
    char reason[256] = "";
    rd_kafka_conf_res_t res = rd_kafka_conf_set(b->conf, name, value, reason, sizeof reason);
    if (res == RD_KAFKA_CONF_OK) {
        return 0;
    }
    snprintf(b->errstr, b->errstr_len, "%s: %s (librdkafka %s)", subject,
             reason[0] != '\0' ? reason : "the Kafka client does not accept this value",
             rd_kafka_version_str());
    return MM_EKAFKA;
}

static int set_own(struct build *b, const char *name, const char *value)
{
    char subject[MM_PROPERTY_MAX_LEN + 32];
    snprintf(subject, sizeof subject, "option " MM_PROPERTY_PREFIX "%s", name);
    return set(b, subject, name, value);
}

/* --- our options --------------------------------------------------------------------------------
 */

/* Set what an option stands for, under the option's name; nothing when value is NULL, or when the
 * property is given by name. */
static int set_option(struct build *b, const char *option, const char *value)
{
    const struct mm_option_def *def = mm_option_find(option);
    char subject[MM_OPTION_NAME_LEN + 16];
    for (size_t i = 0; i < sizeof def->properties / sizeof def->properties[0]; i++) {
        if (def->properties[i] != NULL && mm_config_has_property(b->config, def->properties[i])) {
            return 0;
        }
    }
    snprintf(subject, sizeof subject, "option %s", option);
    return value == NULL ? 0 : set(b, subject, def->properties[0], value);
}

/* The word of a value. */
static const char *word_of(const char *option, unsigned value)
{
    const struct mm_option_word *word = mm_option_find(option)->words;
    while (word->name != NULL && word->value != value) {
        word++;
    }
    return word->name;
}

/* Set a secret by its value or by what its file says now. */
static int set_secret(struct build *b,
                      const char *option,
                      const char *secret,
                      const char *file_option,
                      const char *file)
{
    if (file == NULL) {
        return set_option(b, option, secret);
    }
    char value[MM_SECRET_LEN];
    char why[160];
    int err = mm_secret_read(file, value, why, sizeof why);
    if (err != 0) {
        char shown[MM_PRINTABLE_LEN];
        snprintf(b->errstr, b->errstr_len, "option %s: \"%s\" is not valid: %s", file_option,
                 mm_printable(file, strlen(file), shown, sizeof shown), why);
        return MM_EKAFKA;
    }
    err = set_option(b, option, value);
    explicit_bzero(value, sizeof value);
    return err;
}

static int set_tls(struct build *b)
{
    const struct mm_security *s = &b->config->security;
    if (!mm_security_has_tls(s)) {
        return 0;
    }
    /* "probe" finds the system's authorities also where OpenSSL was built to look elsewhere. */
    int err = set_option(b, "kafka_tls_ca_file", s->tls_ca_file != NULL ? s->tls_ca_file : "probe");
    if (err == 0) {
        err = set_option(b, "kafka_tls_cert_file", s->tls_cert_file);
    }
    if (err == 0) {
        err = set_option(b, "kafka_tls_key_file", s->tls_key_file);
    }
    if (err == 0) {
        err = set_secret(b, "kafka_tls_key_password", s->tls_key_password,
                         "kafka_tls_key_password_file", s->tls_key_password_file);
    }
    if (err == 0) {
        err = set_option(b, "kafka_tls_verify_hostname", s->tls_verify_hostname ? "https" : "none");
    }
    return err;
}

/* Is this one of the features that librdkafka was built with? */
static bool has_feature(const struct build *b, const char *name)
{
    char features[512];
    char *rest = features;
    mm_kafka_property(b->conf, "builtin.features", features, sizeof features);
    for (const char *f; (f = strsep(&rest, ",")) != NULL;) {
        if (strcmp(f, name) == 0) {
            return true;
        }
    }
    return false;
}

/* Kerberos, TLS and tokens are left out of some builds. */
static int check_feature(struct build *b, const char *subject, const char *feature)
{
    if (has_feature(b, feature)) {
        return 0;
    }
    snprintf(b->errstr, b->errstr_len,
             "%s: the librdkafka that runs here, %s, was built without it (%s); the plugin can be "
             "built with one that has it (docs/kafka-security.md)",
             subject, rd_kafka_version_str(), feature);
    return MM_EKAFKA;
}

static int set_oauth(struct build *b)
{
    const struct mm_security *s = &b->config->security;
    if (s->oauth_token_endpoint_url == NULL) {
        return 0; /* the user has a way of his own */
    }
    char reason[256];
    if (rd_kafka_conf_set(b->conf, "sasl.oauthbearer.method", "oidc", reason, sizeof reason) !=
        RD_KAFKA_CONF_OK) {
        snprintf(b->errstr, b->errstr_len,
                 "option kafka_oauth_token_endpoint_url: the librdkafka that runs here, %s, was "
                 "built without OpenID Connect (libcurl); the plugin can be built with one that "
                 "has it (docs/kafka-security.md)",
                 rd_kafka_version_str());
        return MM_EKAFKA;
    }
    int err = set_option(b, "kafka_oauth_token_endpoint_url", s->oauth_token_endpoint_url);
    if (err == 0) {
        err = set_option(b, "kafka_oauth_client_id", s->oauth_client_id);
    }
    if (err == 0) {
        err = set_secret(b, "kafka_oauth_client_secret", s->oauth_client_secret,
                         "kafka_oauth_client_secret_file", s->oauth_client_secret_file);
    }
    if (err == 0) {
        err = set_option(b, "kafka_oauth_scope", s->oauth_scope);
    }
    if (err == 0) {
        err = set_option(b, "kafka_oauth_extensions", s->oauth_extensions);
    }
    return err;
}

static int set_kerberos(struct build *b)
{
    const struct mm_security *s = &b->config->security;
    int err = set_option(b, "kafka_kerberos_service_name", s->kerberos_service_name);
    if (err == 0) {
        err = set_option(b, "kafka_kerberos_principal", s->kerberos_principal);
    }
    if (err == 0) {
        err = set_option(b, "kafka_kerberos_keytab", s->kerberos_keytab);
    }
    return err;
}

static const char *feature_of(enum mm_mechanism mechanism)
{
    switch (mechanism) {
        case MM_MECHANISM_PLAIN:
            return "sasl_plain";
        case MM_MECHANISM_SCRAM_SHA_256:
        case MM_MECHANISM_SCRAM_SHA_512:
            return "sasl_scram";
        case MM_MECHANISM_OAUTHBEARER:
            return "sasl_oauthbearer";
        case MM_MECHANISM_GSSAPI:
            return "sasl_gssapi";
        case MM_MECHANISM_NONE:
            break;
    }
    return "sasl";
}

static int set_sasl(struct build *b)
{
    const struct mm_security *s = &b->config->security;
    if (!mm_security_has_sasl(s)) {
        return 0;
    }
    static const char mechanism_option[] = "kafka_sasl_mechanism";
    const char *mechanism = word_of(mechanism_option, s->mechanism);
    int err = 0;
    if (mechanism != NULL) {
        char subject[64];
        snprintf(subject, sizeof subject, "option %s: %s", mechanism_option, mechanism);
        err = check_feature(b, subject, feature_of(s->mechanism));
    }
    if (err == 0) {
        err = set_option(b, mechanism_option, mechanism);
    }
    if (err == 0) {
        err = set_option(b, "kafka_sasl_username", s->username);
    }
    if (err == 0) {
        err = set_secret(b, "kafka_sasl_password", s->password, "kafka_sasl_password_file",
                         s->password_file);
    }
    if (err == 0) {
        err = set_oauth(b);
    }
    return err == 0 ? set_kerberos(b) : err;
}

static int set_security(struct build *b)
{
    const struct mm_security *s = &b->config->security;
    static const char protocol_option[] = "kafka_security_protocol";
    int err = 0;
    if (mm_security_has_tls(s)) {
        err = check_feature(b, "option kafka_security_protocol: TLS", "ssl");
    }
    if (err == 0) {
        err = set_option(b, protocol_option, word_of(protocol_option, s->protocol));
    }
    if (err == 0) {
        err = set_tls(b);
    }
    return err == 0 ? set_sasl(b) : err;
}

bool mm_kafka_is_pushed(const struct mm_kafka_options *opts)
{
    return !opts->single && !opts->loose && !mm_config_has_property(opts->config, "linger.ms") &&
           !mm_config_has_property(opts->config, "queue.buffering.max.ms");
}

/* How long a message waits in the client. */
static uint32_t linger_ms_of(const struct mm_kafka_options *opts)
{
    return opts->config->kafka_linger_ms + (mm_kafka_is_pushed(opts) ? UNPUSHED_MS : 0);
}

static int set_batching(struct build *b, uint32_t linger_ms)
{
    const struct mm_config *config = b->config;
    char linger[16];
    snprintf(linger, sizeof linger, "%u", (unsigned)linger_ms);
    int err = set_option(b, "kafka_linger_ms", linger);
    if (err == 0) {
        err = set_option(b, "kafka_compression",
                         word_of("kafka_compression", config->kafka_compression));
    }
    if (err == 0) {
        err = set_option(b, "kafka_partitioner",
                         word_of("kafka_partitioner", config->kafka_partitioner));
    }
    return err;
}

/* --- all of it ----------------------------------------------------------------------------------
 */

const char *mm_kafka_property(const rd_kafka_conf_t *conf,
                              const char *name,
                              char *dst,
                              size_t dst_len)
{
    size_t len = dst_len;
    if (rd_kafka_conf_get(conf, name, dst, &len) != RD_KAFKA_CONF_OK) {
        dst[0] = '\0';
    }
    return dst;
}

static int set_max_message(struct build *b)
{
    char value[24];
    snprintf(value, sizeof value, "%u", b->config->max_message_bytes);
    return set_own(b, "message.max.bytes", value);
}

/* The client's queue is a window over the spool and never larger than it, but a message of the
 * largest size must find room: the client refuses for ever what is larger than its queue. */
static int set_queue_size(struct build *b, bool loose)
{
    const struct mm_config *config = b->config;
    uint32_t n = config->kafka_workers == 0 ? 1 : config->kafka_workers;
    uint64_t max_kbytes = (loose ? MAX_LOOSE_KBYTES : MAX_QUEUE_KBYTES) / n;
    uint64_t kbytes = config->spool_max_bytes / n / 1024;
    kbytes = kbytes > max_kbytes ? max_kbytes : kbytes;
    uint64_t least = 2 * (uint64_t)config->max_message_bytes / 1024 + 1;
    kbytes = kbytes < least ? least : kbytes;
    char value[24];
    snprintf(value, sizeof value, "%" PRIu64, kbytes);
    int err = set_own(b, "queue.buffering.max.kbytes", value);
    if (err == 0) {
        uint32_t messages = MAX_QUEUE_MESSAGES / n;
        messages = messages < MIN_QUEUE_MESSAGES ? MIN_QUEUE_MESSAGES : messages;
        messages = loose ? MAX_LOOSE_MESSAGES : messages;
        snprintf(value, sizeof value, "%u", messages);
        err = set_own(b, "queue.buffering.max.messages", value);
    }
    return err;
}

static int set_metrics_push(struct build *b)
{
    int version = rd_kafka_version();
    return version >= VERSION_LATE_END && version < VERSION_END_MENDED
               ? set_own(b, "enable.metrics.push", "false")
               : 0;
}

static int set_given(struct build *b)
{
    int err = 0;
    for (size_t i = 0; err == 0 && i < b->config->n_properties; i++) {
        err = set_own(b, b->config->properties[i].name, b->config->properties[i].value);
    }
    return err;
}

int mm_kafka_configure(rd_kafka_conf_t *conf,
                       const struct mm_kafka_options *opts,
                       char *errstr,
                       size_t errstr_len)
{
    struct build b = {
        .conf = conf, .config = opts->config, .errstr = errstr, .errstr_len = errstr_len};
    int err = 0;
    for (size_t i = 0; err == 0 && i < sizeof settings / sizeof settings[0]; i++) {
        err = set_own(&b, settings[i].name, settings[i].value);
    }
    if (err == 0) {
        err = set_batching(&b, linger_ms_of(opts));
    }
    if (err == 0) {
        err = set_security(&b);
    }
    if (err == 0) {
        err = set_metrics_push(&b);
    }
    if (err == 0) {
        err = set_given(&b);
    }
    if (err == 0) {
        err = set_own(&b, "bootstrap.servers", opts->config->kafka_bootstrap);
    }
    if (err == 0) {
        err = set_max_message(&b);
    }
    if (err == 0) {
        err = set_queue_size(&b, opts->loose);
    }
    if (err == 0 && opts->single) {
        err = set_own(&b, "batch.num.messages", "1");
    }
    if (err == 0 && (opts->loose || opts->careful)) {
        err = set_own(&b, "enable.gapless.guarantee", "false");
    }
    return err;
}

mm_kafka_partitioner_fn mm_kafka_partitioner(const rd_kafka_conf_t *conf)
{
    static const struct
    {
        const char *name;
        mm_kafka_partitioner_fn function;
    } partitioners[] = {
        {"murmur2_random", rd_kafka_msg_partitioner_murmur2_random},
        {"murmur2", rd_kafka_msg_partitioner_murmur2},
        {"consistent_random", rd_kafka_msg_partitioner_consistent_random},
        {"consistent", rd_kafka_msg_partitioner_consistent},
        {"fnv1a_random", rd_kafka_msg_partitioner_fnv1a_random},
        {"fnv1a", rd_kafka_msg_partitioner_fnv1a},
    };
    char value[64];
    mm_kafka_property(conf, "partitioner", value, sizeof value);
    for (size_t i = 0; i < sizeof partitioners / sizeof partitioners[0]; i++) {
        if (strcmp(value, partitioners[i].name) == 0) {
            return partitioners[i].function;
        }
    }
    return partitioners[0].function;
}

int32_t mm_kafka_partition(const struct mm_config *config,
                           const struct mm_kafka_message *m,
                           int32_t n_partitions)
{
    char errstr[256];
    char name[64];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    struct build b = {
        .conf = conf, .config = config, .errstr = errstr, .errstr_len = sizeof errstr};
    if (conf == NULL) {
        return -1;
    }
    (void)set_batching(&b, config->kafka_linger_ms);
    const struct mm_config_property *given = mm_config_find_property(config, "partitioner");
    if (given != NULL) {
        (void)set_own(&b, "partitioner", given->value);
    }
    mm_kafka_partitioner_fn partitioner = mm_kafka_partitioner(conf);
    mm_kafka_property(conf, "partitioner", name, sizeof name);
    rd_kafka_conf_destroy(conf);
    const size_t len = m->key != NULL ? m->key_len : m->spread_len;
    if (len == 0 && strstr(name, "_random") != NULL) {
        return -1; /* these ask the client which partitions are well */
    }
    return m->key != NULL
               ? partitioner(NULL, m->key, m->key_len, n_partitions, NULL, NULL)
               : partitioner(NULL, m->spread, m->spread_len, INT32_MAX, NULL, NULL) % n_partitions;
}

void mm_kafka_explain_new(const struct mm_config *config,
                          const char *reason,
                          char *errstr,
                          size_t errstr_len)
{
    const struct mm_security *s = &config->security;
    const struct
    {
        const char *begin; /* of librdkafka's text */
        const char *option;
        const char *file;
        const char *what;
    } known[] = {
        {"ssl.ca.location failed", "kafka_tls_ca_file", s->tls_ca_file,
         "expected the certificates of authorities"},
        {"ssl.certificate.location failed", "kafka_tls_cert_file", s->tls_cert_file,
         "expected a certificate"},
        {"ssl.key.location failed", "kafka_tls_key_file", s->tls_key_file,
         "expected the private key of kafka_tls_cert_file, and its password if it has one"},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (known[i].file != NULL && strncmp(reason, known[i].begin, strlen(known[i].begin)) == 0) {
            char shown[MM_PRINTABLE_LEN];
            snprintf(errstr, errstr_len, "option %s: \"%s\" is not valid: %s (%s)", known[i].option,
                     mm_printable(known[i].file, strlen(known[i].file), shown, sizeof shown),
                     known[i].what, reason);
            return;
        }
    }
    snprintf(errstr, errstr_len, "the Kafka client could not be made: %s", reason);
}
