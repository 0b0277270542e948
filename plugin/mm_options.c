#include "mm_options.h"

#include "mm_config.h"
#include "mm_headers.h"
#include "mm_keyfile.h"
#include "mm_lanes.h"
#include "mm_property.h"
#include "mm_route.h"
#include "mm_text.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define SPOOL_MAX ((uint64_t)1 << 40)

/* clang-format off */
static const struct mm_option_word booleans[] = {
    {"true", true, false},
    {"false", false, false},
    {NULL, 0, false},
};

static const struct mm_option_word payload_format_words[] = {
    {"json", MM_PAYLOAD_JSON, false},
    {"raw", MM_PAYLOAD_RAW, false},
    {"base64", MM_PAYLOAD_BASE64, false},
    {NULL, 0, false},
};

static const struct mm_option_word spool_properties_words[] = {
    {"needed", false, false},
    {"all", true, false},
    {NULL, 0, false},
};

static const struct mm_option_word when_too_large_words[] = {
    {"dead_letter", MM_WHEN_TOO_LARGE_DEAD_LETTER, false},
    {"reject", MM_WHEN_TOO_LARGE_REJECT, false},
    {NULL, 0, false},
};

static const struct mm_option_word when_full_words[] = {
    {"reject", MM_WHEN_FULL_REJECT, false},
    {"drop_newest", MM_WHEN_FULL_DROP_NEWEST, false},
    {"drop_oldest", MM_WHEN_FULL_DROP_OLDEST, false},
    {NULL, 0, false},
};

static const struct mm_option_word spool_sync_words[] = {
    {"never", MM_SPOOL_SYNC_NEVER, false},
    {"interval", MM_SPOOL_SYNC_INTERVAL, false},
    {"always", MM_SPOOL_SYNC_ALWAYS, false},
    {NULL, 0, false},
};

static const struct mm_option_word spool_writer_words[] = {
    {"auto", MM_SPOOL_WRITER_AUTO, false},
    {"mmap", MM_SPOOL_WRITER_MMAP, false},
    {"pwrite", MM_SPOOL_WRITER_PWRITE, false},
    {NULL, 0, false},
};

static const struct mm_option_word refuse_v5_words[] = {
    {"disconnect", MM_REFUSE_DISCONNECT, false},
    {"reason_code", MM_REFUSE_REASON_CODE, false},
    {NULL, 0, false},
};

static const struct mm_option_word log_level_words[] = {
    {"trace", MM_LOG_TRACE, false},
    {"debug", MM_LOG_DEBUG, false},
    {"info", MM_LOG_INFO, false},
    {"warn", MM_LOG_WARN, false},
    {"error", MM_LOG_ERROR, false},
    {"fatal", MM_LOG_ERROR, true}, /* the Go program's */
    {NULL, 0, false},
};

static const struct mm_option_word protocol_words[] = {
    {"plaintext", MM_PROTOCOL_PLAINTEXT, false},
    {"ssl", MM_PROTOCOL_SSL, false},
    {"sasl_plaintext", MM_PROTOCOL_SASL_PLAINTEXT, false},
    {"sasl_ssl", MM_PROTOCOL_SASL_SSL, false},
    {NULL, 0, false},
};

static const struct mm_option_word mechanism_words[] = {
    {"PLAIN", MM_MECHANISM_PLAIN, false},
    {"SCRAM-SHA-256", MM_MECHANISM_SCRAM_SHA_256, false},
    {"SCRAM-SHA-512", MM_MECHANISM_SCRAM_SHA_512, false},
    {"OAUTHBEARER", MM_MECHANISM_OAUTHBEARER, false},
    {"GSSAPI", MM_MECHANISM_GSSAPI, false},
    {NULL, 0, false},
};

static const struct mm_option_word compression_words[] = {
    {"none", MM_COMPRESSION_NONE, false},
    {"gzip", MM_COMPRESSION_GZIP, false},
    {"snappy", MM_COMPRESSION_SNAPPY, false},
    {"lz4", MM_COMPRESSION_LZ4, false},
    {"zstd", MM_COMPRESSION_ZSTD, false},
    {NULL, 0, false},
};

static const struct mm_option_word partitioner_words[] = {
    {"murmur2_random", MM_PARTITIONER_MURMUR2_RANDOM, false},
    {"murmur2", MM_PARTITIONER_MURMUR2, false},
    {"consistent_random", MM_PARTITIONER_CONSISTENT_RANDOM, false},
    {"consistent", MM_PARTITIONER_CONSISTENT, false},
    {"fnv1a_random", MM_PARTITIONER_FNV1A_RANDOM, false},
    {"fnv1a", MM_PARTITIONER_FNV1A, false},
    {NULL, 0, false},
};

#define FIELD(member) \
    .offset = offsetof(struct mm_config, member), .size = sizeof(((struct mm_config *)0)->member)
#define IGNORED(option_name) {.name = (option_name), .kind = MM_OPTION_IGNORED}

static const char expected_path[] =
    "an absolute path of at most 1024 bytes without control characters";
static const char expected_kafka_topic[] = MM_ROUTE_KAFKA_TOPIC_RULE;

static const struct mm_option_def defs[] = {
    { /* before all others, some of which it may have */
        .name = "config_file", .type = MM_TYPE_PATH, .not_in_file = true, .fixed = true,
        FIELD(config_file), .expected = expected_path,
        .meaning = "A file of more options ([The config_file](#the-config_file)).",
    },
    {
        .name = "mqtt_topic", .fallback = "#", .type = MM_TYPE_FILTERS,
        FIELD(mqtt_topic), .expected = "MQTT topic filters, separated by ',' or ';'",
        .meaning = "Which messages go to Kafka (filters of MQTT 5.0 section 4.7). `#` leaves out the "
                   "topics that begin with `$`; a filter that begins with `$` takes them.",
    },
    { /* before kafka_broker, which needs it */
        .name = "kafka_port", .fallback = "9092", .type = MM_TYPE_KAFKA_PORT,
        .min = 1, .max = 65535,
        .meaning = "The port of each entry of `kafka_broker` that has none.",
    },
    {
        .name = "kafka_broker", .fallback = "localhost", .type = MM_TYPE_BROKERS,
        FIELD(kafka_bootstrap),
        .expected = "host, host:port or [IPv6 address]:port, several separated by ','",
        .meaning = "Where the Kafka cluster is asked for its members first.",
    },
    {
        .name = "kafka_topic", .fallback = "mqtt", .type = MM_TYPE_KAFKA_TOPIC,
        FIELD(kafka_topic), .expected = expected_kafka_topic,
        .meaning = "The Kafka topic of the messages that no `route` takes elsewhere.",
    },
    {
        .name = "kafka_topic_allow", .type = MM_TYPE_ALLOW, FIELD(kafka_topic_allow),
        .expected = "names of Kafka topics, in which * stands for any characters, separated by ','",
        .meaning = "The Kafka topics that templates may make of messages "
                   "([Confinement](routes.md#confinement)). A route whose Kafka topic has a "
                   "variable needs it.",
    },
    {
        .name = "kafka_key", .quiet = true, .fallback = "${topic}", .type = MM_TYPE_KEY, FIELD(kafka_key),
        .expected = MM_ROUTE_KEY_RULE,
        .meaning = "The key of the Kafka messages ([Keys](routes.md#keys)). A route may say "
                   "otherwise.",
    },
    {
        .name = "payload_format", .quiet = true, .fallback = "json", .type = MM_TYPE_WORD,
        FIELD(payload_format), .words = payload_format_words,
        .meaning = "The value of the Kafka messages: JSON with the MQTT topic and the payload in "
                   "base64, the payload as it is, or the payload in base64 "
                   "([Formats](routes.md#formats)). A route may say otherwise.",
    },
    {
        .name = "kafka_headers", .quiet = true, .fallback = "auto", .type = MM_TYPE_HEADERS, FIELD(kafka_headers),
        .expected = "auto, " MM_HEADERS_RULE,
        .meaning = "The headers of the Kafka messages beside `mm-id` "
                   "([Headers](routes.md#headers)). `auto`: none with `json`, else all. A route "
                   "may say otherwise.",
    },
    { /* after kafka_topic, which has a lane of its own, and the options that it stands on */
        .name = "route", .type = MM_TYPE_ROUTE, .repeatable = true,
        .expected = "<filters> <kafka topic> [key=<key>] [format=<format>] [headers=<headers>]",
        .meaning = "Messages that match one of the MQTT topic filters go to this Kafka topic "
                   "([Routes](#routes)). May be given several times: the first one that matches "
                   "counts.",
    },
    {
        .name = "kafka_topics_max", .quiet = true, .fallback = "100", .type = MM_TYPE_NUMBER,
        FIELD(kafka_topics_max), .min = 1, .max = MM_LANES_MAX,
        .meaning = "How many Kafka topics `kafka_topic` and the routes may lead to together.",
    },
    {
        .name = "kafka_workers", .fixed = true, .fallback = "1", .type = MM_TYPE_NUMBER,
        FIELD(kafka_workers), .min = 1, .max = MM_CONFIG_WORKERS_MAX,
        .meaning = "Threads that write to Kafka, each with a producer of its own. The messages of "
                   "one MQTT topic stay with one of them, in order.",
    },
    {
        .name = "kafka_retry_interval", .fallback = "10", .type = MM_TYPE_NUMBER,
        FIELD(kafka_retry_interval_s), .min = 1, .max = 3600,
        .unit = " of seconds",
        .meaning = "Pause before something that Kafka refused is tried again.",
    },
    {
        .name = "kafka_compression", .fallback = "none", .type = MM_TYPE_WORD, .quiet = true,
        FIELD(kafka_compression), .words = compression_words,
        .properties = {"compression.codec", "compression.type"},
        .meaning = "How batches of messages are compressed on their way to Kafka and in it.",
    },
    {
        .name = "kafka_partitioner", .fallback = "murmur2_random", .type = MM_TYPE_WORD,
        .quiet = true, FIELD(kafka_partitioner), .words = partitioner_words,
        .properties = {"partitioner"},
        .meaning = "How the partition follows from the key. `murmur2_random` and `murmur2` choose "
                   "as Kafka's Java client does; what has no key goes to any partition with "
                   "`…_random`, else to always the same one.",
    },
    {
        .name = "kafka_linger_ms", .fallback = "5", .type = MM_TYPE_NUMBER, .quiet = true,
        FIELD(kafka_linger_ms), .max = MM_PROPERTY_LINGER_MAX_MS, .unit = " of milliseconds",
        .properties = {"linger.ms", "queue.buffering.max.ms"},
        .meaning = "How long a message waits for others at most, to go to Kafka in one batch with "
                   "them. It waits the less, the fewer there are to wait for; a message on its own "
                   "goes at once. (`rdkafka.linger.ms` is a fixed time.)",
    },
    {
        .name = "kafka_security_protocol", .fallback = "plaintext", .type = MM_TYPE_WORD,
        .quiet = true, FIELD(security.protocol), .words = protocol_words,
        .properties = {"security.protocol"},
        .meaning = "What the Kafka listener at `kafka_broker` speaks: `ssl` is TLS, `sasl_ssl` TLS "
                   "and SASL ([Security](#security)).",
    },
    {
        .name = "kafka_tls_ca_file", .type = MM_TYPE_FILE, FIELD(security.tls_ca_file),
        .file = MM_KEYFILE_CERTIFICATES, .properties = {"ssl.ca.location"},
        .meaning = "The authorities that may sign the certificates of Kafka's brokers, in PEM. Not "
                   "set: those that the system trusts.",
    },
    {
        .name = "kafka_tls_cert_file", .type = MM_TYPE_FILE, FIELD(security.tls_cert_file),
        .file = MM_KEYFILE_CERTIFICATES, .properties = {"ssl.certificate.location"},
        .meaning = "Our own certificate in PEM, with those between it and its authority behind it, "
                   "for Kafka that asks its clients for one (mutual TLS).",
    },
    {
        .name = "kafka_tls_key_file", .type = MM_TYPE_FILE, FIELD(security.tls_key_file),
        .file = MM_KEYFILE_KEY, .properties = {"ssl.key.location"},
        .meaning = "The private key of `kafka_tls_cert_file`, in PEM.",
    },
    {
        .name = "kafka_tls_key_password", .type = MM_TYPE_SECRET, FIELD(security.tls_key_password),
        .properties = {"ssl.key.password"},
        .meaning = "The password of `kafka_tls_key_file`, if it is encrypted.",
    },
    {
        .name = "kafka_tls_key_password_file", .type = MM_TYPE_FILE,
        FIELD(security.tls_key_password_file), .file = MM_KEYFILE_SECRET,
        .properties = {"ssl.key.password"},
        .meaning = "A file with that password.",
    },
    {
        .name = "kafka_tls_verify_hostname", .fallback = "true", .type = MM_TYPE_WORD,
        .quiet = true, FIELD(security.tls_verify_hostname), .words = booleans,
        .properties = {"ssl.endpoint.identification.algorithm"},
        .meaning = "Whether the certificate of a Kafka broker has to name the host that was "
                   "connected to. With `false` whoever has any certificate of a trusted authority "
                   "can pose as Kafka, and read and swallow all messages.",
    },
    {
        .name = "kafka_sasl_mechanism", .type = MM_TYPE_WORD, FIELD(security.mechanism),
        .words = mechanism_words, .properties = {"sasl.mechanisms", "sasl.mechanism"},
        .meaning = "How the plugin says who it is ([Security](#security)).",
    },
    {
        .name = "kafka_sasl_username", .type = MM_TYPE_TEXT, FIELD(security.username),
        .properties = {"sasl.username"},
        .meaning = "Who the plugin is for Kafka, with PLAIN and SCRAM.",
    },
    {
        .name = "kafka_sasl_password", .type = MM_TYPE_SECRET, FIELD(security.password),
        .properties = {"sasl.password"},
        .meaning = "The password of `kafka_sasl_username`.",
    },
    {
        .name = "kafka_sasl_password_file", .type = MM_TYPE_FILE, FIELD(security.password_file),
        .file = MM_KEYFILE_SECRET, .properties = {"sasl.password"},
        .meaning = "A file with that password.",
    },
    {
        .name = "kafka_oauth_token_endpoint_url", .type = MM_TYPE_URL,
        FIELD(security.oauth_token_endpoint_url),
        .properties = {"sasl.oauthbearer.token.endpoint.url"},
        .meaning = "Where OAUTHBEARER gets its token (OpenID Connect, client credentials).",
    },
    {
        .name = "kafka_oauth_client_id", .type = MM_TYPE_TEXT, FIELD(security.oauth_client_id),
        .properties = {"sasl.oauthbearer.client.id"},
        .meaning = "Who the plugin is for the token endpoint.",
    },
    {
        .name = "kafka_oauth_client_secret", .type = MM_TYPE_SECRET,
        FIELD(security.oauth_client_secret), .properties = {"sasl.oauthbearer.client.secret"},
        .meaning = "The secret of `kafka_oauth_client_id`.",
    },
    {
        .name = "kafka_oauth_client_secret_file", .type = MM_TYPE_FILE,
        FIELD(security.oauth_client_secret_file), .file = MM_KEYFILE_SECRET,
        .properties = {"sasl.oauthbearer.client.secret"},
        .meaning = "A file with that secret.",
    },
    {
        .name = "kafka_oauth_scope", .type = MM_TYPE_TEXT, FIELD(security.oauth_scope),
        .properties = {"sasl.oauthbearer.scope"},
        .meaning = "The scope that the token is asked for.",
    },
    {
        .name = "kafka_oauth_extensions", .type = MM_TYPE_TEXT, FIELD(security.oauth_extensions),
        .expected = "key=value, several separated by ',', without control characters",
        .properties = {"sasl.oauthbearer.extensions"},
        .meaning = "What is told to Kafka beside the token: `logicalCluster=lkc-1,…`.",
    },
    {
        .name = "kafka_kerberos_service_name", .type = MM_TYPE_TEXT,
        FIELD(security.kerberos_service_name), .properties = {"sasl.kerberos.service.name"},
        .meaning = "The first part of the brokers' Kerberos principal. Not set: `kafka`.",
    },
    {
        .name = "kafka_kerberos_principal", .type = MM_TYPE_TEXT,
        FIELD(security.kerberos_principal), .properties = {"sasl.kerberos.principal"},
        .meaning = "Our Kerberos principal, for GSSAPI.",
    },
    {
        .name = "kafka_kerberos_keytab", .type = MM_TYPE_FILE, FIELD(security.kerberos_keytab),
        .file = MM_KEYFILE_OTHER, .properties = {"sasl.kerberos.keytab"},
        .meaning = "The keytab with the key of `kafka_kerberos_principal`.",
    },
    {
        .name = "kafka_test_message", .fixed = true, .fallback = "false", .type = MM_TYPE_WORD,
        FIELD(kafka_test_message), .words = booleans,
        .meaning = "Write the Go program's test message at start. On its own, `kafka_test_topic` "
                   "switches it on.",
    },
    {
        .name = "kafka_test_topic", .fixed = true, .type = MM_TYPE_KAFKA_TOPIC,
        FIELD(kafka_test_topic), .expected = expected_kafka_topic,
        .meaning = "Another Kafka topic for the test message. Not set: `kafka_topic`.",
    },
    {
        .name = "json_field_names", .fallback = "Topic,Content", .type = MM_TYPE_FIELD_NAMES,
        .expected = "two different names in UTF-8, separated by ','",
        .meaning = "The names of the two fields of the JSON value. The Go program's releases 0.1.x "
                   "write the default, its later ones `topic,content`.",
    },
    { /* before the options whose default depends on it */
        .name = "spool_dir", .fixed = true, .type = MM_TYPE_PATH, FIELD(spool_dir),
        .expected = expected_path,
        .meaning = "The directory of the spool, for this broker alone. It is made if it is not "
                   "there; the directory above it has to be. Not set: the spool is in memory, and "
                   "lost when the broker ends.",
    },
    {
        .name = "spool_max_bytes", .fixed = true, .fallback = "256M", .fallback_on_disk = "1G",
        .type = MM_TYPE_SIZE, FIELD(spool_max_bytes),
        .min = MM_CONFIG_SPOOL_MIN, .max = SPOOL_MAX,
        .meaning = "How much is kept while Kafka is away.",
    },
    {
        .name = "spool_sync", .fixed = true, .fallback = "interval", .on_disk_only = true, .type = MM_TYPE_WORD,
        FIELD(spool_sync), .words = spool_sync_words,
        .meaning = "When the spool is synced to the disk. `never`: what is acknowledged survives a "
                   "crash and a `kill -9` of the broker, but no power failure. `interval`: it also "
                   "survives a power failure, except for the last `spool_sync_interval_ms`. "
                   "`always`: each acknowledged message also survives a power failure, at the "
                   "price of one disk sync for each QoS 1 or 2 message, for which the whole broker "
                   "waits.",
    },
    {
        .name = "spool_sync_interval_ms", .fixed = true, .fallback = "500", .on_disk_only = true,
        .type = MM_TYPE_NUMBER, FIELD(spool_sync_interval_ms), .min = 10,
        .max = 60000, .unit = " of milliseconds",
        .meaning = "Time from one sync to the next, with `spool_sync interval`.",
    },
    {
        .name = "spool_min_free", .fixed = true, .fallback = "auto", .on_disk_only = true,
        .type = MM_TYPE_SIZE_OR_AUTO, FIELD(spool_min_free),
        .max = SPOOL_MAX,
        .expected = "auto, or a number of bytes, or of k, M or G (powers of 1024), from 0 to 1024G",
        .meaning = "How much of the file system the spool leaves to others: it counts as full when "
                   "no more than that is free. `auto`: 5 % of the file system, at most 1 GiB.",
    },
    {
        .name = "spool_writer", .fixed = true, .fallback = "auto", .on_disk_only = true, .type = MM_TYPE_WORD,
        FIELD(spool_writer), .words = spool_writer_words,
        .meaning = "How a record gets into its file: by a mapping, or by one system call each, "
                   "which file systems need where a reservation of space is no promise. `auto`: "
                   "`mmap` on ext2 to ext4, xfs, f2fs, tmpfs and overlays, else (btrfs, zfs, nfs, "
                   "fuse …) `pwrite`.",
    },
    {
        .name = "spool_properties", .quiet = true, .fallback = "needed", .type = MM_TYPE_WORD,
        FIELD(spool_all_properties), .words = spool_properties_words,
        .meaning = "What is stored of a message beside topic, payload, QoS, retain and time: what "
                   "keys, Kafka topics and headers need by the present settings, or all of it, so "
                   "that other settings find it in what waits.",
    },
    {
        .name = "max_message_bytes", .quiet = true, .fallback = "1048588", .type = MM_TYPE_SIZE,
        FIELD(max_message_bytes), .min = 1000, .max = 1000000000,
        .meaning = "How large a Kafka message may be, with key and headers. Kafka has a limit of "
                   "its own for each Kafka topic, `max.message.bytes`, with the same default.",
    },
    {
        .name = "when_too_large", .quiet = true, .fallback = "dead_letter", .type = MM_TYPE_WORD,
        FIELD(when_too_large), .words = when_too_large_words,
        .meaning = "When the Kafka message would be larger than `max_message_bytes`: take the MQTT "
                   "message and put it to the dead letters; or refuse it as `when_full reject` "
                   "does, again and again if its publisher does not give it up.",
    },
    {
        .name = "when_full", .fallback = "reject", .type = MM_TYPE_WORD,
        FIELD(when_full), .words = when_full_words,
        .meaning = "When the spool is full: refuse a QoS 1 or 2 message, so that its publisher sends "
                   "it again; or drop and count the newest or the oldest messages. QoS 0 is never "
                   "refused, only dropped.",
    },
    {
        .name = "refuse_v5", .fallback = "disconnect", .type = MM_TYPE_WORD,
        FIELD(refuse_v5), .words = refuse_v5_words,
        .meaning = "How an MQTT 5 client is told that its message was refused: by the end of the "
                   "connection, after which it sends again; or by the reason code 0x97 "
                   "(Mosquitto 2.1 and later), after which a client may give the message up.",
    },
    {
        .name = "dead_letter_max_bytes", .fixed = true, .fallback = "16M", .fallback_on_disk = "64M",
        .type = MM_TYPE_SIZE, FIELD(dead_letter_max_bytes),
        .min = MM_CONFIG_SPOOL_MIN, .max = SPOOL_MAX,
        .meaning = "How much is kept of the messages that Kafka will never take.",
    },
    {
        .name = "dead_letter_topic", .type = MM_TYPE_KAFKA_TOPIC,
        FIELD(dead_letter_topic), .expected = expected_kafka_topic,
        .meaning = "A Kafka topic that a copy of each dead letter goes to, with the reason in its "
                   "headers; not `kafka_topic`, nor that of a `route`. A copy that fails is "
                   "counted and not tried again.",
    },
    {
        .name = "health_port", .fixed = true, .fallback = "8080", .type = MM_TYPE_NUMBER,
        FIELD(health_port), .max = 65535,
        .meaning = "The port of the health and metrics pages. 0 switches HTTP off.",
    },
    {
        .name = "health_address", .fixed = true, .fallback = "127.0.0.1", .type = MM_TYPE_ADDRESS,
        FIELD(health_address),
        .expected = "a numeric IPv4 or IPv6 address, or all",
        .meaning = "The address that HTTP listens on. `all` is " MM_OPTION_ADDRESS_ALL ", every IPv4 "
                   "address of this machine.",
    },
    {
        .name = "log_level", .fallback = "info", .type = MM_TYPE_WORD,
        FIELD(log_level), .words = log_level_words,
        .meaning = "The least weight of a line that goes to the broker's log. The Go program's "
                   "`fatal` is taken as `error`.",
    },
    {.name = "kakfa_port", .kind = MM_OPTION_ALIAS, .stands_for = "kafka_port"},
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

_Static_assert(sizeof defs / sizeof defs[0] == MM_N_OPTIONS, "MM_N_OPTIONS is another number");

const struct mm_option_def *const mm_option_defs = defs;

const struct mm_option_def *mm_option_find(const char *name)
{
    for (size_t i = 0; i < MM_N_OPTIONS; i++) {
        if (strcmp(defs[i].name, name) == 0) {
            return &defs[i];
        }
    }
    return NULL;
}

bool mm_option_is_secret(const char *name)
{
    const size_t len = strlen(MM_PROPERTY_PREFIX);
    if (strncmp(name, MM_PROPERTY_PREFIX, len) == 0) {
        return mm_property_is_secret(name + len);
    }
    const struct mm_option_def *def = mm_option_find(name);
    return def != NULL && def->kind == MM_OPTION_SETTING && def->type == MM_TYPE_SECRET;
}

const char *mm_option_variable(const struct mm_option_def *def, char dst[MM_OPTION_NAME_LEN])
{
    size_t len = strlen(def->name);
    assert(len < MM_OPTION_NAME_LEN);
    for (size_t i = 0; i <= len; i++) {
        const char c = def->name[i];
        dst[i] = (char)(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c);
    }
    return dst;
}

/* The option that begins with this, if it is one only; short beginnings say too little. */
static const char *only_longer(const char *name)
{
    const char *found = NULL;
    if (strlen(name) < 4) {
        return NULL;
    }
    for (size_t i = 0; i < MM_N_OPTIONS; i++) {
        if (defs[i].kind != MM_OPTION_ALIAS && strncmp(defs[i].name, name, strlen(name)) == 0) {
            if (found != NULL) {
                return NULL;
            }
            found = defs[i].name;
        }
    }
    return found;
}

const char *mm_option_nearest(const char *name)
{
    const char *nearest = NULL;
    size_t least = strlen(name) / 4 + 1; /* one letter in four may be wrong */
    const size_t len = strlen(name);
    for (size_t i = 0; i < MM_N_OPTIONS; i++) {
        const size_t other = strlen(defs[i].name);
        const size_t at_least = len > other ? len - other : other - len;
        if (defs[i].kind == MM_OPTION_ALIAS || at_least >= least) {
            continue;
        }
        size_t distance = mm_edit_distance(name, defs[i].name);
        if (distance < least) {
            least = distance;
            nearest = defs[i].name;
        }
    }
    if (nearest == NULL && strncmp(name, "rdkafka", strlen("rdkafka")) == 0) {
        return MM_PROPERTY_PREFIX "<property>";
    }
    return nearest != NULL ? nearest : only_longer(name);
}

/* "reject, drop_newest or drop_oldest" */
static void list_words(const struct mm_option_word *words, char *dst, size_t dst_len)
{
    size_t used = 0;
    for (const struct mm_option_word *w = words; w->name != NULL && !w->foreign && used < dst_len;
         w++) {
        bool is_last = w[1].name == NULL || w[1].foreign;
        const char *before = w == words ? "" : is_last ? " or " : ", ";
        int len = snprintf(dst + used, dst_len - used, "%s%s", before, w->name);
        used += len > 0 ? (size_t)len : 0;
    }
}

/* Where the type says it all; NULL: it does not. */
static const char *expected_of_type(const struct mm_option_def *def)
{
    static const char *const files[] = {
        [MM_KEYFILE_CERTIFICATES] = "the absolute path of a PEM file with a certificate",
        [MM_KEYFILE_KEY] = "the absolute path of a PEM file with a private key",
        [MM_KEYFILE_SECRET] = "the absolute path of a file of one line",
        [MM_KEYFILE_OTHER] = "the absolute path of a file",
    };
    switch (def->type) {
        case MM_TYPE_FILE:
            return files[def->file];
        case MM_TYPE_TEXT:
        case MM_TYPE_SECRET:
            return "1 to 1024 bytes without control characters";
        case MM_TYPE_URL:
            return "an address that begins with http:// or https://";
        default:
            return NULL;
    }
}

void mm_option_expected(const struct mm_option_def *def, char *dst, size_t dst_len)
{
    const char *expected = def->expected != NULL ? def->expected : expected_of_type(def);
    if (expected != NULL) {
        snprintf(dst, dst_len, "%s", expected);
    } else if (def->words != NULL) {
        list_words(def->words, dst, dst_len);
    } else if (def->type == MM_TYPE_SIZE) {
        char min[24];
        char max[24];
        mm_option_format_size(def->min, min, sizeof min);
        mm_option_format_size(def->max, max, sizeof max);
        snprintf(dst, dst_len, "a number of bytes, or of k, M or G (powers of 1024), from %s to %s",
                 min, max);
    } else {
        snprintf(dst, dst_len, "a whole number%s from %" PRIu64 " to %" PRIu64,
                 def->unit != NULL ? def->unit : "", def->min, def->max);
    }
}

void mm_option_format_size(uint64_t bytes, char *dst, size_t dst_len)
{
    static const char *const suffixes[] = {"", "k", "M", "G"};
    size_t i = 0;
    for (; i < 3 && bytes > 0 && bytes % 1024 == 0; i++) {
        bytes /= 1024;
    }
    snprintf(dst, dst_len, "%" PRIu64 "%s", bytes, suffixes[i]);
}
