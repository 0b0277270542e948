/* Every option with good and bad values, by both ways in, and the lines that are told about them.
 */
#include "config_run.h"
#include "mm_filter.h"
#include "mm_headers.h"

/* Defaults */

static void test_defaults(void **state)
{
    (void)state;
    static const struct mm_option nothing[] = {{NULL, NULL}};
    struct run run = {.environment = nothing};
    expect_good(&run);
    assert_int_equal(run.n_lines, 0);
    const struct mm_config *config = run.config;
    assert_string_equal(config->mqtt_topic, "#");
    assert_int_equal(mm_filter_set_count(config->filters), 1);
    assert_true(mm_filter_set_match(config->filters, "a/b", 3));
    assert_string_equal(config->kafka_bootstrap, "localhost:9092");
    assert_string_equal(config->kafka_topic, "mqtt");
    assert_int_equal(config->kafka_workers, 1);
    assert_int_equal(config->kafka_retry_interval_s, 10);
    assert_false(config->kafka_test_message);
    assert_null(config->kafka_test_topic);
    assert_string_equal(config->json_topic_name, "Topic");
    assert_string_equal(config->json_content_name, "Content");
    assert_int_equal(config->spool_max_bytes, 268435456);
    assert_null(config->spool_dir);
    assert_int_equal(config->spool_sync, MM_SPOOL_SYNC_INTERVAL);
    assert_int_equal(config->spool_sync_interval_ms, 500);
    assert_true(config->spool_min_free == UINT64_MAX);
    assert_int_equal(config->spool_writer, MM_SPOOL_WRITER_AUTO);
    assert_int_equal(config->dead_letter_max_bytes, 16777216);
    assert_null(config->dead_letter_topic);
    assert_int_equal(config->n_routes, 0);
    assert_int_equal(config->n_route_topics, 0);
    assert_int_equal(config->when_full, MM_WHEN_FULL_REJECT);
    assert_int_equal(config->refuse_v5, MM_REFUSE_DISCONNECT);
    assert_int_equal(config->health_port, 8080);
    assert_string_equal(config->health_address, "127.0.0.1");
    assert_int_equal(config->log_level, MM_LOG_INFO);
    assert_int_equal(config->n_properties, 0);
    end_run(&run);
}

static void test_all_given(void **state)
{
    (void)state;
    static const struct mm_option given[] = {
        {"mqtt_topic", "a/+;b/#"},
        {"kafka_broker", "k1,k2:1"},
        {"kafka_port", "9"},
        {"kafka_topic", "t.T_-0"},
        {"kafka_workers", "7"},
        {"kafka_retry_interval", "30"},
        {"kafka_test_message", "true"},
        {"kafka_test_topic", "probe"},
        {"json_field_names", "topic,content"},
        {"spool_dir", "/var/spool/mm"},
        {"spool_max_bytes", "2G"},
        {"spool_sync", "always"},
        {"spool_sync_interval_ms", "20"},
        {"spool_min_free", "10M"},
        {"spool_writer", "pwrite"},
        {"dead_letter_max_bytes", "1M"},
        {"dead_letter_topic", "dead"},
        {"route", "c/# r1"},
        {"route", "$x/+;d/# r2"},
        {"when_full", "drop_oldest"},
        {"refuse_v5", "reason_code"},
        {"health_port", "81"},
        {"health_address", "::1"},
        {"log_level", "debug"},
        {"rdkafka.linger.ms", "20"},
    };
    struct run run = {.given = given, .n_given = LEN_OF(given)};
    expect_good(&run);
    assert_int_equal(run.n_lines, 0);
    const struct mm_config *config = run.config;
    assert_string_equal(config->mqtt_topic, "a/+;b/#");
    assert_int_equal(mm_filter_set_count(config->filters), 5); /* with the routes' */
    assert_string_equal(config->kafka_bootstrap, "k1:9,k2:1");
    assert_string_equal(config->kafka_topic, "t.T_-0");
    assert_int_equal(config->kafka_workers, 7);
    assert_int_equal(config->kafka_retry_interval_s, 30);
    assert_true(config->kafka_test_message);
    assert_string_equal(config->kafka_test_topic, "probe");
    assert_string_equal(config->json_topic_name, "topic");
    assert_string_equal(config->json_content_name, "content");
    assert_string_equal(config->spool_dir, "/var/spool/mm");
    assert_true(config->spool_max_bytes == 2147483648);
    assert_int_equal(config->spool_sync, MM_SPOOL_SYNC_ALWAYS);
    assert_int_equal(config->spool_sync_interval_ms, 20);
    assert_int_equal(config->spool_min_free, 10485760);
    assert_int_equal(config->spool_writer, MM_SPOOL_WRITER_PWRITE);
    assert_int_equal(config->dead_letter_max_bytes, 1048576);
    assert_string_equal(config->dead_letter_topic, "dead");
    assert_int_equal(config->n_routes, 2);
    assert_string_equal(config->routes[1].mqtt_filters, "$x/+;d/#");
    assert_int_equal(config->routes[1].lane, 2);
    assert_int_equal(config->n_route_topics, 2);
    assert_string_equal(config->route_topics[1], "r2");
    assert_int_equal(config->when_full, MM_WHEN_FULL_DROP_OLDEST);
    assert_int_equal(config->refuse_v5, MM_REFUSE_REASON_CODE);
    assert_int_equal(config->health_port, 81);
    assert_string_equal(config->health_address, "::1");
    assert_int_equal(config->log_level, MM_LOG_DEBUG);
    assert_int_equal(config->n_properties, 1);
    end_run(&run);
}

/* Values */

/* A value, and what the settings then say. */
static const struct
{
    const char *name;
    const char *value;
    const char *pair;
} good_values[] = {
    {"mqtt_topic", "a", "mqtt_topic=a"},
    {"mqtt_topic", " a/+ ; $SYS/# ", "mqtt_topic=\"a/+ ; $SYS/#\""},
    {"kafka_port", "1", "kafka_broker=localhost:1"},
    {"kafka_port", "65535", "kafka_broker=localhost:65535"},
    {"kafka_port", "0009092", "kafka_broker=localhost:9092"},
    {"kafka_broker", "kafka", "kafka_broker=kafka:9092"},
    {"kafka_broker", "kafka:1", "kafka_broker=kafka:1"},
    {"kafka_broker", "kafka:65535", "kafka_broker=kafka:65535"},
    {"kafka_broker", "10.0.0.1:9093", "kafka_broker=10.0.0.1:9093"},
    {"kafka_broker", "[::1]", "kafka_broker=[::1]:9092"},
    {"kafka_broker", "[2001:db8::7]:19092", "kafka_broker=[2001:db8::7]:19092"},
    {"kafka_broker", " a , b:2,\tmy_host-1.lan ", "kafka_broker=a:9092,b:2,my_host-1.lan:9092"},
    {"kafka_broker", "a,a", "kafka_broker=a:9092,a:9092"},
    {"kafka_topic", "t", "kafka_topic=t"},
    {"kafka_topic", "...", "kafka_topic=..."},
    {"kafka_topic", "-A.z_9", "kafka_topic=-A.z_9"},
    {"kafka_topic", "  spaced\t\r\n", "kafka_topic=spaced"},
    {"kafka_workers", "1", "kafka_workers=1"},
    {"kafka_workers", "64", "kafka_workers=64"},
    {"kafka_retry_interval", "1", "kafka_retry_interval=1"},
    {"kafka_retry_interval", "3600", "kafka_retry_interval=3600"},
    {"kafka_test_message", "true", "kafka_test_message=true"},
    {"kafka_test_message", "TRUE", "kafka_test_message=true"},
    {"kafka_test_message", "False", "kafka_test_message=false"},
    {"kafka_test_topic", "probe", "kafka_test_topic=probe"},
    {"json_field_names", "topic,content", "json_field_names=topic,content"},
    {"json_field_names", " a , b ", "json_field_names=a,b"},
    {"json_field_names", "\xC3\xBC,\xE2\x82\xAC", "json_field_names=\xC3\xBC,\xE2\x82\xAC"},
    {"json_field_names", "topic,Topic", "json_field_names=topic,Topic"},
    {"spool_max_bytes", "262144", "spool_max_bytes=256k"},
    {"spool_max_bytes", "262145", "spool_max_bytes=262145"},
    {"spool_max_bytes", "256k", "spool_max_bytes=256k"},
    {"spool_max_bytes", "256K", "spool_max_bytes=256k"},
    {"spool_max_bytes", "1m", "spool_max_bytes=1M"},
    {"spool_max_bytes", "3M", "spool_max_bytes=3M"},
    {"spool_max_bytes", "2048M", "spool_max_bytes=2G"},
    {"spool_max_bytes", "1g", "spool_max_bytes=1G"},
    {"spool_max_bytes", "1024G", "spool_max_bytes=1024G"},
    {"spool_max_bytes", "1099511627776", "spool_max_bytes=1024G"},
    {"spool_dir", "/", "spool_dir=/"},
    {"spool_dir", " /var/lib/my spool/ ", "spool_dir=\"/var/lib/my spool/\""},
    {"dead_letter_max_bytes", "256k", "dead_letter_max_bytes=256k"},
    {"dead_letter_max_bytes", "1024G", "dead_letter_max_bytes=1024G"},
    {"dead_letter_topic", "d", "dead_letter_topic=d"},
    {"route", "a t", "route=\"a t\""},
    {"route", "a t key=none", "route=\"a t key=none\""},
    {"route", "a t  headers=qos,user:x-*  key=${clientid}/1 format=RAW",
     "route=\"a t key=${clientid}/1 format=raw headers=qos,user:x-*\""},
    {"kafka_key", "none", "kafka_key=none"},
    {"kafka_key", "${topic[0]}/$${x}", "kafka_key=${topic[0]}/$${x}"},
    {"payload_format", "RAW", "payload_format=raw"},
    {"kafka_headers", "Auto", "kafka_headers=Auto"},
    {"kafka_headers", "all, username,user:a*b", "kafka_headers=\"all, username,user:a*b\""},
    {"kafka_topic_allow", "plant.*, *.x", "kafka_topic_allow=\"plant.*, *.x\""},
    {"kafka_topics_max", "1024", "kafka_topics_max=1024"},
    {"spool_properties", "all", "spool_properties=all"},
    {"max_message_bytes", "2M", "max_message_bytes=2M"},
    {"when_too_large", "reject", "when_too_large=reject"},
    {"route", "  a/+ ; $b/# ,c\t t.1  ", "route=\"a/+ ; $b/# ,c t.1\""},
    {"route", "a mqtt", "route=\"a mqtt\""},
    {"when_full", "reject", "when_full=reject"},
    {"when_full", "drop_newest", "when_full=drop_newest"},
    {"when_full", "Drop_Oldest", "when_full=drop_oldest"},
    {"refuse_v5", "disconnect", "refuse_v5=disconnect"},
    {"refuse_v5", "reason_code", "refuse_v5=reason_code"},
    {"health_port", "0", "health_port=0"},
    {"health_port", "65535", "health_port=65535"},
    {"health_address", "0.0.0.0", "health_address=0.0.0.0"},
    {"health_address", "all", "health_address=0.0.0.0"},
    {"health_address", "192.168.1.2", "health_address=192.168.1.2"},
    {"health_address", "::", "health_address=::"},
    {"log_level", "trace", "log_level=trace"},
    {"log_level", "debug", "log_level=debug"},
    {"log_level", "info", "log_level=info"},
    {"log_level", "warn", "log_level=warn"},
    {"log_level", "ERROR", "log_level=error"},
};

/* The same for options that mean nothing without spool_dir. */
static const struct
{
    const char *name;
    const char *value;
    const char *pair;
} good_values_on_disk[] = {
    {"spool_sync", "never", "spool_sync=never"},
    {"spool_sync", "Interval", "spool_sync=interval"},
    {"spool_sync", "always", "spool_sync=always"},
    {"spool_sync_interval_ms", "10", "spool_sync_interval_ms=10"},
    {"spool_sync_interval_ms", "60000", "spool_sync_interval_ms=60000"},
    {"spool_min_free", "auto", "spool_min_free=auto"},
    {"spool_min_free", "AUTO", "spool_min_free=auto"},
    {"spool_min_free", "0", "spool_min_free=0"},
    {"spool_min_free", "1", "spool_min_free=1"},
    {"spool_min_free", "0G", "spool_min_free=0"},
    {"spool_min_free", "64m", "spool_min_free=64M"},
    {"spool_min_free", "1024G", "spool_min_free=1024G"},
    {"spool_writer", "auto", "spool_writer=auto"},
    {"spool_writer", "mmap", "spool_writer=mmap"},
    {"spool_writer", "PWRITE", "spool_writer=pwrite"},
};

static void test_good_values(void **state)
{
    (void)state;
    for (size_t i = 0; i < LEN_OF(good_values); i++) {
        const struct mm_option given = {good_values[i].name, good_values[i].value};
        char variable[64];
        capitals(given.name, variable);
        const struct mm_option environment[] = {{variable, given.value}, {NULL, NULL}};
        struct run runs[] = {{.given = &given, .n_given = 1}, {.environment = environment}};
        for (size_t k = 0; k < LEN_OF(runs); k++) {
            expect_good(&runs[k]);
            assert_int_equal(runs[k].n_lines, 0);
            if (!describes(runs[k].config, good_values[i].pair)) {
                fail_msg("%s \"%s\": not described as %s", given.name, given.value,
                         good_values[i].pair);
            }
            end_run(&runs[k]);
        }
    }
}

static void test_good_values_on_disk(void **state)
{
    (void)state;
    for (size_t i = 0; i < LEN_OF(good_values_on_disk); i++) {
        const struct mm_option given[] = {
            {good_values_on_disk[i].name, good_values_on_disk[i].value}, {"spool_dir", "/d"}};
        struct run run = {.given = given, .n_given = LEN_OF(given)};
        expect_good(&run);
        assert_int_equal(run.n_lines, 0);
        if (!describes(run.config, good_values_on_disk[i].pair)) {
            fail_msg("%s \"%s\": not described as %s", given[0].name, given[0].value,
                     good_values_on_disk[i].pair);
        }
        end_run(&run);
    }
}

#define EXPECTED_HEALTH_PORT "expected a whole number from 0 to 65535"
#define EXPECTED_SECONDS "expected a whole number of seconds from 1 to 3600"
#define EXPECTED_BOOLEAN "expected true or false"
#define EXPECTED_NAMES "expected two different names in UTF-8, separated by ','"
#define EXPECTED_SIZE \
    "expected a number of bytes, or of k, M or G (powers of 1024), from 256k to 1024G"
#define EXPECTED_PATH "expected an absolute path of at most 1024 bytes without control characters"
#define EXPECTED_SYNC "expected never, interval or always"
#define EXPECTED_MILLISECONDS "expected a whole number of milliseconds from 10 to 60000"
#define EXPECTED_FREE \
    "expected auto, or a number of bytes, or of k, M or G (powers of 1024), from 0 to 1024G"
#define EXPECTED_WRITER "expected auto, mmap or pwrite"
#define EXPECTED_KEY                                                                             \
    "expected none, or text with the variables ${topic}, ${topic[N]}, ${clientid}, ${username} " \
    "and ${qos}"
#define EXPECTED_HEADERS "expected auto, " MM_HEADERS_RULE
#define EXPECTED_MESSAGE \
    "expected a number of bytes, or of k, M or G (powers of 1024), from 1000 to 1000000000"
#define TOPIC_RULE                                                                             \
    " is no Kafka topic (1 to 249 of the characters a-z, A-Z, 0-9, '.', '_' and '-', but not " \
    "'.' or '..' alone); "
#define EXPECTED_REFUSE_V5 "expected disconnect or reason_code"
#define EXPECTED_ADDRESS "expected a numeric IPv4 or IPv6 address, or all"

/* A value, and the end of the line that refuses it. shown: the value in the line, if not as given.
 */
static const struct
{
    const char *name;
    const char *value;
    const char *end;
    const char *shown;
} bad_values[] = {
    {"mqtt_topic", "", "filter 1 \"\": it is empty; " EXPECTED_FILTERS, NULL},
    {"mqtt_topic", "a/#/b", "filter 1 \"a/#/b\": " HASH_RULE "; " EXPECTED_FILTERS, NULL},
    {"mqtt_topic", "a,", "filter 2 \"\": it is empty; " EXPECTED_FILTERS, NULL},
    {"kafka_port", "", EXPECTED_PORT, NULL},
    {"kafka_port", "0", EXPECTED_PORT, NULL},
    {"kafka_port", "65536", EXPECTED_PORT, NULL},
    {"kafka_port", "+1", EXPECTED_PORT, NULL},
    {"kafka_port", "kafka", EXPECTED_PORT, NULL},
    {"kafka_broker", "", "entry 1 is empty; " EXPECTED_BROKERS, NULL},
    {"kafka_broker", "a,,b", "entry 2 is empty; " EXPECTED_BROKERS, NULL},
    {"kafka_broker", "a, ", "entry 2 is empty; " EXPECTED_BROKERS, "a,"},
    {"kafka_broker", ",a", "entry 1 is empty; " EXPECTED_BROKERS, NULL},
    {"kafka_broker", "a b", "entry 1 has no valid host name; " EXPECTED_BROKERS, NULL},
    {"kafka_broker", ":9092", "entry 1 has no valid host name; " EXPECTED_BROKERS, NULL},
    {"kafka_broker", "a;b", "entry 1 has no valid host name; " EXPECTED_BROKERS, NULL},
    {"kafka_broker", "x,ssl://a",
     "entry 2 has a port that is no whole number from 1 to 65535; " EXPECTED_BROKERS, NULL},
    {"kafka_broker",
     "a:", "entry 1 has a port that is no whole number from 1 to 65535; " EXPECTED_BROKERS, NULL},
    {"kafka_broker", "a:0",
     "entry 1 has a port that is no whole number from 1 to 65535; " EXPECTED_BROKERS, NULL},
    {"kafka_broker", "a:65536",
     "entry 1 has a port that is no whole number from 1 to 65535; " EXPECTED_BROKERS, NULL},
    {"kafka_broker", "[::1]:x",
     "entry 1 has a port that is no whole number from 1 to 65535; " EXPECTED_BROKERS, NULL},
    {"kafka_broker", "::1",
     "entry 1 has more than one ':' (an IPv6 address stands in brackets); " EXPECTED_BROKERS, NULL},
    {"kafka_broker", "[::1", "entry 1 has no ']'; " EXPECTED_BROKERS, NULL},
    {"kafka_broker", "[::1]9092", "entry 1 has something behind its ']'; " EXPECTED_BROKERS, NULL},
    {"kafka_broker", "[kafka]:9092",
     "entry 1 has no IPv6 address in its brackets; " EXPECTED_BROKERS, NULL},
    {"kafka_topic", "", EXPECTED_TOPIC, NULL},
    {"kafka_topic", ".", EXPECTED_TOPIC, NULL},
    {"kafka_topic", "..", EXPECTED_TOPIC, NULL},
    {"kafka_topic", "a/b c", EXPECTED_TOPIC, NULL},
    {"kafka_topic", "t\xC3\xBC", EXPECTED_TOPIC, NULL},
    {"kafka_workers", "", EXPECTED_WORKERS, NULL},
    {"kafka_workers", "0", EXPECTED_WORKERS, NULL},
    {"kafka_workers", "65", EXPECTED_WORKERS, NULL},
    {"kafka_workers", "abc", EXPECTED_WORKERS, NULL},
    {"kafka_workers", "-1", EXPECTED_WORKERS, NULL},
    {"kafka_workers", "+5", EXPECTED_WORKERS, NULL},
    {"kafka_workers", "5x", EXPECTED_WORKERS, NULL},
    {"kafka_workers", "5 5", EXPECTED_WORKERS, NULL},
    {"kafka_workers", "0x5", EXPECTED_WORKERS, NULL},
    {"kafka_workers", "5.0", EXPECTED_WORKERS, NULL},
    {"kafka_workers", "18446744073709551617", EXPECTED_WORKERS, NULL}, /* 2^64 + 1 */
    {"kafka_workers", "4294967297", EXPECTED_WORKERS, NULL},           /* 2^32 + 1 */
    {"kafka_retry_interval", "", EXPECTED_SECONDS, NULL},
    {"kafka_retry_interval", "10s", EXPECTED_SECONDS, NULL},
    {"kafka_retry_interval", "0", EXPECTED_SECONDS, NULL},
    {"kafka_retry_interval", "3601", EXPECTED_SECONDS, NULL},
    {"kafka_test_message", "", EXPECTED_BOOLEAN, NULL},
    {"kafka_test_message", "1", EXPECTED_BOOLEAN, NULL},
    {"kafka_test_message", "yes", EXPECTED_BOOLEAN, NULL},
    {"kafka_test_message", "truely", EXPECTED_BOOLEAN, NULL},
    {"kafka_test_message", "tru", EXPECTED_BOOLEAN, NULL},
    {"kafka_test_topic", "", EXPECTED_TOPIC, NULL},
    {"kafka_test_topic", "a b", EXPECTED_TOPIC, NULL},
    {"json_field_names", "", EXPECTED_NAMES, NULL},
    {"json_field_names", "topic", EXPECTED_NAMES, NULL},
    {"json_field_names", "a,b,c", EXPECTED_NAMES, NULL},
    {"json_field_names", "a,b,", EXPECTED_NAMES, NULL},
    {"json_field_names", "a,", EXPECTED_NAMES, NULL},
    {"json_field_names", " ,b", EXPECTED_NAMES, ",b"},
    {"json_field_names", "same, same", EXPECTED_NAMES, NULL},
    {"json_field_names", "a,\xFF", EXPECTED_NAMES, "a,?"},
    {"spool_max_bytes", "", EXPECTED_SIZE, NULL},
    {"spool_max_bytes", "0", EXPECTED_SIZE, NULL},
    {"spool_max_bytes", "262143", EXPECTED_SIZE, NULL},
    {"spool_max_bytes", "255k", EXPECTED_SIZE, NULL},
    {"spool_max_bytes", "1025G", EXPECTED_SIZE, NULL},
    {"spool_max_bytes", "1099511627777", EXPECTED_SIZE, NULL},
    {"spool_max_bytes", "17179869185G", EXPECTED_SIZE, NULL}, /* 2^64 + 1 GiB */
    {"spool_max_bytes", "18446744073709551616", EXPECTED_SIZE, NULL},
    {"spool_max_bytes", "M", EXPECTED_SIZE, NULL},
    {"spool_max_bytes", "1T", EXPECTED_SIZE, NULL},
    {"spool_max_bytes", "1MB", EXPECTED_SIZE, NULL},
    {"spool_max_bytes", "1 M", EXPECTED_SIZE, NULL},
    {"spool_max_bytes", "1.5G", EXPECTED_SIZE, NULL},
    {"spool_max_bytes", "-1", EXPECTED_SIZE, NULL},
    {"spool_dir", "", "it is empty; " EXPECTED_PATH, NULL},
    {"spool_dir", "spool", "it is relative; " EXPECTED_PATH, NULL},
    {"spool_dir", "./spool", "it is relative; " EXPECTED_PATH, NULL},
    {"spool_dir", "~/spool", "it is relative; " EXPECTED_PATH, NULL},
    {"spool_dir", "/a\nb", "it has a control character; " EXPECTED_PATH, "/a?b"},
    {"spool_dir", "/\x7F", "it has a control character; " EXPECTED_PATH, "/?"},
    {"dead_letter_max_bytes", "", EXPECTED_SIZE, NULL},
    {"dead_letter_max_bytes", "0", EXPECTED_SIZE, NULL},
    {"dead_letter_max_bytes", "255k", EXPECTED_SIZE, NULL},
    {"dead_letter_max_bytes", "auto", EXPECTED_SIZE, NULL},
    {"dead_letter_topic", "", EXPECTED_TOPIC, NULL},
    {"dead_letter_topic", "a/b", EXPECTED_TOPIC, NULL},
    {"route", "", "it is empty; " EXPECTED_ROUTE, NULL},
    {"route", "a/#", "it has no Kafka topic; " EXPECTED_ROUTE, NULL},
    {"route", "a, b", "it has no Kafka topic; " EXPECTED_ROUTE, NULL},
    {"route", "a t kei=x", "\"kei=x\" is too much; " EXPECTED_ROUTE, NULL},
    {"route", "a t key=", "key \"\": it is empty; " EXPECTED_KEY "; " EXPECTED_ROUTE, NULL},
    {"route", "a t key=${", "key \"${\": character 1: ${ has no } behind it; " EXPECTED_ROUTE,
     NULL},
    {"route", "a ${topic[256]}",
     "Kafka topic \"${topic[256]}\": character 1: ${topic[N]} needs a number from 0 to 255 in its "
     "brackets; " EXPECTED_ROUTE,
     NULL},
    {"kafka_key", "a${}", "character 2: ${} names no variable; " EXPECTED_KEY, NULL},
    {"kafka_key", "${user}",
     "character 1: unknown variable ${user}; did you mean ${username}?; " EXPECTED_KEY, NULL},
    {"kafka_key", "x ${payload}",
     "character 3: unknown variable ${payload}; there are ${topic}, ${topic[N]}, ${clientid}, "
     "${username} and ${qos}; " EXPECTED_KEY,
     NULL},
    {"payload_format", "xml", "expected json, raw or base64", NULL},
    {"kafka_headers", "", "\"\" is empty; " EXPECTED_HEADERS, NULL},
    {"kafka_headers", "all,qoss", "\"qoss\" is unknown; " EXPECTED_HEADERS, NULL},
    {"kafka_topic_allow", "", EXPECTED_ALLOW, NULL},
    {"kafka_topic_allow", "a,,b", EXPECTED_ALLOW, NULL},
    {"kafka_topic_allow", "a/*", EXPECTED_ALLOW, NULL},
    {"kafka_topics_max", "0", "expected a whole number from 1 to 1024", NULL},
    {"kafka_topics_max", "1025", "expected a whole number from 1 to 1024", NULL},
    {"spool_properties", "none", "expected needed or all", NULL},
    {"max_message_bytes", "999", EXPECTED_MESSAGE, NULL},
    {"max_message_bytes", "1G", EXPECTED_MESSAGE, NULL},
    {"when_too_large", "drop", "expected dead_letter or reject", NULL},
    {"route", "a b t", "\"t\" is too much; " EXPECTED_ROUTE, NULL},
    {"route", "a t  u\tv w", "\"u\" is too much; " EXPECTED_ROUTE, "a t  u?v w"},
    {"route", "a/#/b t", "filter 1 \"a/#/b\": " HASH_RULE "; " EXPECTED_ROUTE, NULL},
    {"route", "a,,b t", "filter 2 \"\": it is empty; " EXPECTED_ROUTE, NULL},
    {"route", "a, t", "it has no Kafka topic; " EXPECTED_ROUTE, NULL},
    {"route", "a .", "\".\"" TOPIC_RULE EXPECTED_ROUTE, NULL},
    {"route", "a t/u", "\"t/u\"" TOPIC_RULE EXPECTED_ROUTE, NULL},
    {"when_full", "", EXPECTED_WHEN_FULL, NULL},
    {"when_full", "drop", EXPECTED_WHEN_FULL, NULL},
    {"when_full", "reject,drop_oldest", EXPECTED_WHEN_FULL, NULL},
    {"refuse_v5", "", EXPECTED_REFUSE_V5, NULL},
    {"refuse_v5", "0x97", EXPECTED_REFUSE_V5, NULL},
    {"health_port", "", EXPECTED_HEALTH_PORT, NULL},
    {"health_port", "65536", EXPECTED_HEALTH_PORT, NULL},
    {"health_port", "off", EXPECTED_HEALTH_PORT, NULL},
    {"health_address", "", EXPECTED_ADDRESS, NULL},
    {"health_address", "localhost", EXPECTED_ADDRESS, NULL},
    {"health_address", "127.0.0.1:8080", EXPECTED_ADDRESS, NULL},
    {"health_address", "[::1]", EXPECTED_ADDRESS, NULL},
    {"health_address", "127.1", EXPECTED_ADDRESS, NULL},
    {"log_level", "", EXPECTED_LEVEL, NULL},
    {"log_level", "panic", EXPECTED_LEVEL, NULL},
    {"log_level", "warning", EXPECTED_LEVEL, NULL},
    {"log_level", "4", EXPECTED_LEVEL, NULL},
    {"log_level", "a\tb\x1B[0m\xC3\xBC\xFF", EXPECTED_LEVEL, "a?b?[0m\xC3\xBC?"},
};

/* The same for options that mean nothing without spool_dir. */
static const struct mm_option bad_values_on_disk[] = {
    {"spool_sync", EXPECTED_SYNC},
    {"spool_sync_interval_ms", EXPECTED_MILLISECONDS},
    {"spool_min_free", EXPECTED_FREE},
    {"spool_writer", EXPECTED_WRITER},
};

static void expect_bad(const char *subject, size_t i, struct run *run)
{
    const char *shown = bad_values[i].shown != NULL ? bad_values[i].shown : bad_values[i].value;
    char line[MM_LOG_LINE_LEN];
    snprintf(line, sizeof line, "%s: \"%s\" is not valid: %s", subject, shown, bad_values[i].end);
    const char *lines[] = {line};
    expect_errors(run, lines, 1);
}

static void test_bad_values(void **state)
{
    (void)state;
    for (size_t i = 0; i < LEN_OF(bad_values); i++) {
        const struct mm_option given = {bad_values[i].name, bad_values[i].value};
        char subject[128];
        snprintf(subject, sizeof subject, "option %s", given.name);
        struct run run = {.given = &given, .n_given = 1};
        expect_bad(subject, i, &run);

        if (given.value[0] != '\0') { /* an empty variable is not set */
            char variable[64];
            capitals(given.name, variable);
            snprintf(subject, sizeof subject, "environment variable %s", variable);
            const struct mm_option environment[] = {{variable, given.value}, {NULL, NULL}};
            struct run from_environment = {.environment = environment};
            expect_bad(subject, i, &from_environment);
        }
    }
}

static void test_bad_values_on_disk(void **state)
{
    (void)state;
    static const char *const values[] = {"",   "9",     "-1",    "60001", "5%",
                                         "0x", "1025G", "autos", "on"};
    for (size_t i = 0; i < LEN_OF(bad_values_on_disk); i++) {
        for (size_t k = 0; k < LEN_OF(values); k++) {
            const struct mm_option given[] = {{"spool_dir", "/d"},
                                              {bad_values_on_disk[i].name, values[k]}};
            const bool good = strcmp(given[1].name, "spool_min_free") == 0 &&
                              (strcmp(values[k], "9") == 0 || strcmp(values[k], "60001") == 0);
            struct run run = {.given = given, .n_given = LEN_OF(given)};
            if (good) {
                expect_good(&run);
                end_run(&run);
                continue;
            }
            char line[MM_LOG_LINE_LEN];
            snprintf(line, sizeof line, "option %s: \"%s\" is not valid: %s", given[1].name,
                     values[k], bad_values_on_disk[i].value);
            const char *lines[] = {line};
            expect_errors(&run, lines, 1);
        }
    }
}

static void test_path_length(void **state)
{
    (void)state;
    char *path = repeat('/', 1025);
    const struct mm_option given = {"spool_dir", path};
    struct run run = {.given = &given, .n_given = 1};
    start_run(&run);
    assert_int_equal(run.rc, MM_EINVAL);
    assert_non_null(strstr(run.lines[0], "it is too long; " EXPECTED_PATH));
    path[1024] = '\0';
    expect_good(&run);
    assert_string_equal(run.config->spool_dir, path);
    end_run(&run);
    free(path);
}

/* Limits whose default is larger on a disk than in memory. */
static void test_defaults_on_disk(void **state)
{
    (void)state;
    static const struct mm_option given[] = {{"dead_letter_max_bytes", "1M"}, {"spool_dir", "/d"}};
    struct run run = {.given = &given[1], .n_given = 1};
    expect_good(&run);
    assert_string_equal(run.config->spool_dir, "/d");
    assert_int_equal(run.config->spool_max_bytes, 1073741824);
    assert_int_equal(run.config->dead_letter_max_bytes, 67108864);
    end_run(&run);
    run = (struct run){.given = given, .n_given = 2};
    expect_good(&run);
    assert_int_equal(run.config->spool_max_bytes, 1073741824);
    assert_int_equal(run.config->dead_letter_max_bytes, 1048576);
    end_run(&run);
    static const struct mm_option environment[] = {{"SPOOL_DIR", "/e"}, {NULL, NULL}};
    run = (struct run){.environment = environment};
    expect_good(&run);
    assert_string_equal(run.config->spool_dir, "/e");
    assert_int_equal(run.config->spool_max_bytes, 1073741824);
    end_run(&run);
}

static void test_options_without_effect_in_memory(void **state)
{
    (void)state;
    static const struct mm_option given[] = {
        {"spool_sync", "always"}, {"spool_min_free", "1M"}, {"spool_dir", "/d"}};
    static const struct mm_option environment[] = {{"SPOOL_WRITER", "mmap"}, {NULL, NULL}};
    struct run run = {.given = given, .n_given = 2, .environment = environment};
    expect_good(&run);
    assert_int_equal(run.n_lines, 1);
    assert_int_equal(run.levels[0], MM_LOG_WARN);
    assert_string_equal(run.lines[0],
                        "these settings have no effect on a spool in memory; only spool_dir makes "
                        "one on disk: spool_sync, spool_min_free, SPOOL_WRITER");
    assert_false(describes(run.config, "spool_sync=always"));
    end_run(&run);
    run.n_given = 3;
    expect_good(&run);
    assert_int_equal(run.n_lines, 0);
    assert_true(describes(run.config, "spool_sync=always"));
    end_run(&run);
    for (size_t i = 0; i < LEN_OF(on_disk_names); i++) {
        const struct mm_option one = {on_disk_names[i], "x"};
        run = (struct run){.given = &one, .n_given = 1};
        start_run(&run);
        assert_int_equal(run.n_lines, 2);
        assert_int_equal(run.levels[1], MM_LOG_WARN);
        assert_non_null(strstr(run.lines[1], on_disk_names[i]));
    }
    /* Who gave a wrong directory did not forget it. */
    static const struct mm_option wrong[] = {{"spool_dir", "d"}, {"spool_sync", "always"}};
    run = (struct run){.given = wrong, .n_given = 2};
    static const char *const lines[] = {
        "option spool_dir: \"d\" is not valid: it is relative; " EXPECTED_PATH};
    expect_errors(&run, lines, 1);
}

static void test_kafka_topic_length(void **state)
{
    (void)state;
    char *topic = repeat('k', 250);
    const struct mm_option given = {"kafka_topic", topic};
    struct run run = {.given = &given, .n_given = 1};
    start_run(&run);
    assert_int_equal(run.rc, MM_EINVAL);
    topic[249] = '\0';
    expect_good(&run);
    assert_string_equal(run.config->kafka_topic, topic);
    end_run(&run);
    free(topic);
}

static void test_host_length(void **state)
{
    (void)state;
    char *host = repeat('h', 256);
    const struct mm_option given = {"kafka_broker", host};
    struct run run = {.given = &given, .n_given = 1};
    start_run(&run);
    assert_int_equal(run.rc, MM_EINVAL);
    host[255] = '\0';
    expect_good(&run);
    assert_int_equal(strlen(run.config->kafka_bootstrap), 255 + strlen(":9092"));
    end_run(&run);
    free(host);
}

/* Many brokers with the longest that the plugin adds to each. */
static void test_many_brokers(void **state)
{
    (void)state;
    enum {
        N = 5000
    };
    char *list = repeat(',', 2 * N - 1);
    for (size_t i = 0; i < N; i++) {
        list[2 * i] = 'a';
    }
    const struct mm_option given[] = {{"kafka_broker", list}, {"kafka_port", "65535"}};
    struct run run = {.given = given, .n_given = LEN_OF(given)};
    expect_good(&run);
    const char *bootstrap = run.config->kafka_bootstrap;
    assert_int_equal(strlen(bootstrap), N * strlen("a:65535,") - 1);
    assert_string_equal(bootstrap + strlen(bootstrap) - 16, ",a:65535,a:65535");
    end_run(&run);
    free(list);
}

static void test_huge_values(void **state)
{
    (void)state;
    static const char bytes[] = {'x', '1', '\xFF', '\x01', '[', '/'};
    for (size_t b = 0; b < LEN_OF(bytes); b++) {
        char *value = repeat(bytes[b], HUGE_LEN);
        for (size_t i = 0; i < LEN_OF(setting_names); i++) {
            const struct mm_option given = {setting_names[i], value};
            struct run run = {.given = &given, .n_given = 1};
            start_run(&run);
            assert_int_equal(run.rc, MM_EINVAL);
            assert_int_equal(count_level(&run, MM_LOG_ERROR), 1);
            assert_non_null(strstr(run.lines[0], "...\" is not valid: "));
            assert_in_range(strlen(run.lines[0]), 100, 400);
        }
        free(value);
    }
}

static void test_huge_value_of_the_environment(void **state)
{
    (void)state;
    char *value = repeat('9', HUGE_LEN);
    const struct mm_option environment[] = {{"KAFKA_WORKERS", value}, {NULL, NULL}};
    struct run run = {.environment = environment};
    static const char *const lines[] = {
        "environment variable KAFKA_WORKERS: "
        "\"9999999999999999999999999999999999999999999999999999999999999999...\" is not valid: "
        "expected a whole number from 1 to 64"};
    expect_errors(&run, lines, 1);
    free(value);
}

static void test_absent_value_is_empty(void **state)
{
    (void)state;
    static const struct mm_option given[] = {{"kafka_workers", NULL}, {"rdkafka.linger.ms", NULL}};
    struct run run = {.given = given, .n_given = LEN_OF(given)};
    static const char *const lines[] = {
        "option rdkafka.linger.ms: \"\" is not valid: expected a value of librdkafka",
        "option kafka_workers: \"\" is not valid: expected a whole number from 1 to 64",
    };
    expect_errors(&run, lines, LEN_OF(lines));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_all_given),
        cmocka_unit_test(test_good_values),
        cmocka_unit_test(test_good_values_on_disk),
        cmocka_unit_test(test_bad_values),
        cmocka_unit_test(test_bad_values_on_disk),
        cmocka_unit_test(test_path_length),
        cmocka_unit_test(test_defaults_on_disk),
        cmocka_unit_test(test_options_without_effect_in_memory),
        cmocka_unit_test(test_kafka_topic_length),
        cmocka_unit_test(test_host_length),
        cmocka_unit_test(test_many_brokers),
        cmocka_unit_test(test_huge_values),
        cmocka_unit_test(test_huge_value_of_the_environment),
        cmocka_unit_test(test_absent_value_is_empty),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
