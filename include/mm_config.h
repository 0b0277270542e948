/* mm_config.h - the settings: one option table, one immutable struct.
 *
 * An option comes from the broker's configuration (plugin_opt_<name>) or from the file that the
 * option config_file names (mm_config_file.h), else from the environment (<NAME> in capitals; a
 * variable that is empty counts as not set), else from the table's default. Values are trimmed;
 * words are understood in any case. Everything is checked here, and every mistake is reported, not
 * only the first.
 *
 * Who keeps the broker's options can make the settings again at any time, with what the config_file
 * says then; mm_config_diff_fixed() tells what of it a running broker cannot take over. */
#ifndef MM_CONFIG_H
#define MM_CONFIG_H

#include "mm_log.h"
#include "mm_security.h"
#include "mm_spool.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct mm_filter_set;
struct mm_format;
struct mm_headers;
struct mm_template;

enum mm_payload_format {
    MM_PAYLOAD_JSON,
    MM_PAYLOAD_RAW,
    MM_PAYLOAD_BASE64,
};

enum mm_when_too_large {
    MM_WHEN_TOO_LARGE_DEAD_LETTER, /* taken, and never handed to Kafka */
    MM_WHEN_TOO_LARGE_REJECT,      /* as when_full reject */
};

enum mm_when_full {
    MM_WHEN_FULL_REJECT,      /* QoS 1, 2: no acknowledgement, the publisher sends again */
    MM_WHEN_FULL_DROP_NEWEST, /* the new message is acknowledged, dropped and counted */
    MM_WHEN_FULL_DROP_OLDEST, /* old messages are dropped and counted to make room */
};

enum mm_refuse_v5 {
    MM_REFUSE_DISCONNECT,  /* close the connection: the client sends again after its reconnect */
    MM_REFUSE_REASON_CODE, /* MQTT 5 on Mosquitto 2.1 and later: reason code 0x97 */
};

enum mm_compression {
    MM_COMPRESSION_NONE,
    MM_COMPRESSION_GZIP,
    MM_COMPRESSION_SNAPPY,
    MM_COMPRESSION_LZ4,
    MM_COMPRESSION_ZSTD,
};

/* Of a key; what has none goes anywhere (RANDOM), or to always the same partition. */
enum mm_partitioner {
    MM_PARTITIONER_MURMUR2_RANDOM, /* as Kafka's Java client */
    MM_PARTITIONER_MURMUR2,
    MM_PARTITIONER_CONSISTENT_RANDOM, /* CRC-32 */
    MM_PARTITIONER_CONSISTENT,
    MM_PARTITIONER_FNV1A_RANDOM,
    MM_PARTITIONER_FNV1A,
};

/* One setting as the broker hands it over. */
struct mm_option
{
    const char *name; /* without plugin_opt_ */
    const char *value;
};

/* Where something stands. */
struct mm_place
{
    const char *file; /* NULL: not known */
    unsigned line;    /* from 1 */
};

/* One rdkafka.<property>. */
struct mm_config_property
{
    char *name;
    char *value;
    struct mm_place place;
};

/* One route: `<filters> <kafka topic> [key=...] [format=...] [headers=...]`. */
struct mm_config_route
{
    char *mqtt_filters;              /* the list as given; NULL: the default route */
    struct mm_template *kafka_topic; /* NULL: the default route */
    uint32_t lane; /* of its Kafka topic: 0 is kafka_topic, else 1 + an index of route_topics;
                      MM_ROUTE_LANE_DERIVED: the template makes it of the message */
    struct mm_template *key; /* NULL: messages have no key */
    enum mm_payload_format format;
    struct mm_headers *headers; /* beside mm-id */
    struct mm_place place;
};

/* A place in here borrows its file from config_file, or from the source's places. */
struct mm_config
{
    char *config_file;               /* an absolute path; NULL: none */
    uint64_t config_file_sum;        /* of what was read from it (mm_watch.h) */
    size_t config_file_n;            /* options in it */
    char *mqtt_topic;                /* the list as given */
    struct mm_filter_set *filters;   /* list i: those of route i; list n_routes: mqtt_topic */
    char *kafka_bootstrap;           /* "host:port[,host:port...]"; IPv6 literals in brackets */
    char *kafka_topic;               /* [a-zA-Z0-9._-]{1,249} */
    uint32_t kafka_workers;          /* 1..64 */
    uint32_t kafka_retry_interval_s; /* seconds, 1..3600 */
    struct mm_security security;
    enum mm_compression kafka_compression;
    enum mm_partitioner kafka_partitioner;
    uint32_t kafka_linger_ms; /* 0..1000 */
    bool kafka_test_message;  /* also when only kafka_test_topic is set; see docs/go-program.md */
    char *kafka_test_topic;   /* NULL: the test message goes to kafka_topic */
    char *json_topic_name;
    char *json_content_name;
    uint64_t spool_max_bytes; /* >= MM_CONFIG_SPOOL_MIN */
    char *spool_dir;          /* an absolute path; NULL: the spool is in memory */
    enum mm_spool_sync spool_sync;
    uint32_t spool_sync_interval_ms; /* 10..60000 */
    uint64_t spool_min_free;         /* bytes; UINT64_MAX: the spool's default */
    enum mm_spool_writer spool_writer;
    uint64_t dead_letter_max_bytes; /* of the dead-letter log; >= MM_CONFIG_SPOOL_MIN */
    char *dead_letter_topic; /* a Kafka topic for a copy of each dead letter, not one that routing
                                leads to; NULL: none */
    struct mm_config_route *routes; /* in file order */
    size_t n_routes;
    struct mm_config_route default_route; /* what none of the routes takes */
    char *kafka_key;                      /* a template as given, or "none" */
    enum mm_payload_format payload_format;
    char *kafka_headers;        /* a list as given, or "auto" */
    char *kafka_topic_allow;    /* patterns, separated by ','; NULL: none */
    bool spool_all_properties;  /* also what no route needs now */
    unsigned stored;            /* what of a message is stored: enum mm_headers_field */
    bool tells_wait;            /* a header tells how long a message has waited */
    struct mm_format *format;   /* of json_topic_name and json_content_name */
    uint32_t max_message_bytes; /* of a Kafka message */
    enum mm_when_too_large when_too_large;
    uint32_t kafka_topics_max; /* 1..MM_LANES_MAX */
    char **route_topics; /* Kafka topics of the routes that are not kafka_topic, each once; fewer
                            than kafka_topics_max */
    size_t n_route_topics;
    enum mm_when_full when_full;
    enum mm_refuse_v5 refuse_v5;
    uint16_t health_port; /* 0: no HTTP */
    char *health_address; /* a numeric IPv4 or IPv6 address */
    enum mm_log_level log_level;
    struct mm_config_property *properties; /* of librdkafka, in file order, each name once */
    size_t n_properties;
};

#define MM_CONFIG_SPOOL_MIN (UINT64_C(256) * 1024)
#define MM_CONFIG_WORKERS_MAX 64

/* Reads a variable of the environment; NULL when it is not set. The result is used before the next
 * call. */
typedef const char *(*mm_config_getenv_fn)(void *arg, const char *name);

/* Something that was found in the settings. */
struct mm_finding
{
    enum mm_log_level level; /* MM_LOG_ERROR (parsing will fail), MM_LOG_WARN or MM_LOG_INFO */
    struct mm_place place;   /* in the config_file, or one of the source's places */
    const char *text; /* names the option (or the environment variable), the value found and what
                         was expected, never the value of a secret; without the place */
};

/* Takes one finding, which lives during the call. */
typedef void (*mm_config_report_fn)(void *arg, const struct mm_finding *finding);

/* Write a finding as the plugin's log has it: the place in the config_file, if there is one, and
 * the text. Returns dst, always terminated; MM_FINDING_LINE_LEN is room enough. Thread: any. */
const char *mm_finding_line(const struct mm_finding *finding, char *dst, size_t dst_len);

#define MM_FINDING_LINE_LEN (MM_LOG_LINE_LEN + 256)

/* Does the Kafka client take this property? False: why has its reason, which may have the value in
 * it (mm_kafka_judge()). */
typedef bool (*mm_config_judge_fn)(const char *name, const char *value, char *why, size_t why_len);

/* Where a setting comes from and what hears of mistakes. */
struct mm_config_source
{
    const struct mm_option *options; /* in file order */
    const struct mm_place *places;   /* one for each option; NULL: not known, as in the plugin */
    size_t n_options;
    mm_config_getenv_fn getenv; /* NULL: the environment is not read */
    void *getenv_arg;
    mm_config_report_fn report; /* NULL: findings are not told */
    void *report_arg;
    mm_config_judge_fn judge; /* of rdkafka.<property>; NULL: only their names are judged */
    bool form_only; /* do not look at the files that options name; the config_file is read */
};

/* Check everything and make the settings. The caller frees *out with mm_config_free().
 *
 * Thread: setup. Errors: MM_EINVAL, at least one mistake was reported; MM_ENOMEM, which is not
 * reported. *out is NULL then. */
int mm_config_new(const struct mm_config_source *source, struct mm_config **out);

/* Accepts NULL. Thread: setup. */
void mm_config_free(struct mm_config *config);

/* Write which options differ although they count only from a start of the broker on (the table says
 * which those are): "kafka_workers (1, wanted 4), spool_dir (not set, wanted /var/spool/mm)". A
 * list that does not fit into dst (dst_len >= 1) ends in " ...". Returns how many differ; dst is
 * empty when none does. Thread: any. */
size_t mm_config_diff_fixed(const struct mm_config *running,
                            const struct mm_config *wanted,
                            char *dst,
                            size_t dst_len);

/* Give the settings that are wanted the values of those that run, for all options that count only
 * from a start of the broker on.
 *
 * Thread: setup. Errors: MM_ENOMEM; some have them then. */
int mm_config_keep_fixed(const struct mm_config *running, struct mm_config *wanted);

/* Is this property of librdkafka given by name, so that what an option says of it does not count?
 *
 * Thread: any. */
bool mm_config_has_property(const struct mm_config *config, const char *name);

/* The property of that name; NULL: it is not given. Valid as long as the settings. Thread: any. */
const struct mm_config_property *mm_config_find_property(const struct mm_config *config,
                                                         const char *name);

/* Is a SCRAM mechanism used, by our option or by librdkafka's? Thread: any. */
bool mm_config_uses_scram(const struct mm_config *config);

/* One file that the settings name, by the option that names it. */
typedef void (*mm_config_file_fn)(void *arg, const char *option, const char *path);

/* Call fn for each file that is read when a producer is made: a change of it counts for the next
 * one. Thread: any. */
void mm_config_files(const struct mm_config *config, mm_config_file_fn fn, void *arg);

/* How a refused QoS 1 or 2 message is answered: with a reason code (true), or by closing the
 * connection.
 *
 * A code only where it can be seen as one: for MQTT 5 (mqtt_version 5) on Mosquitto 2.1 and later.
 * To older clients, and to all by 2.0, a code is either an ordinary acknowledgement, which would
 * lose the message, or a closed connection anyway. Thread: any. */
bool mm_config_refuse_by_code(const struct mm_config *config, bool broker_2_1, int mqtt_version);

/* The settings as one line of "name=value" pairs for the start log, without secrets. What is not
 * set or, in memory, means nothing is left out. Routes come behind the options. Long values are
 * cut; a pair that does not fit into dst (dst_len >= 1) is left out and the line ends in
 * " ...". The result is always terminated. Thread: any. */
void mm_config_describe(const struct mm_config *config, char *dst, size_t dst_len);

/* The option reference as Markdown, made from the table that the parser uses (docs/options.md).
 *
 * Thread: any. Errors: MM_EINVAL, the stream reported a write error. */
int mm_config_write_reference(FILE *stream);

/* The same table as a manual page, mosquitto_metamorphosis(7), in roff with the macros of man(7).
 *
 * Thread: any. Errors: MM_EINVAL, the stream reported a write error. */
int mm_config_write_man(FILE *stream);

#endif
