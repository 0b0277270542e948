/* What Kafka says of the settings (--connect). */
#include "check.h"
#include "kafka_ask.h"
#include "mm_clock.h"
#include "mm_error.h"
#include "mm_kafka.h"
#include "mm_route.h"
#include "mm_template.h"

#include <inttypes.h>
#include <librdkafka/rdkafka.h>
#include <stdlib.h>
#include <string.h>

/* From this version on librdkafka can ask what one may do with a topic (KIP-430). */
#define CAN_ASK_RIGHTS (RD_KAFKA_VERSION >= 0x020300ff)

/* A Kafka topic that the settings name. */
struct topic
{
    const char *name;
    const char *option; /* that names it */
    struct mm_place place;
    bool exists;
};

struct asker
{
    struct kafka_ask ask;
    struct findings *f;
    struct topic *topics;
    size_t n_topics;
    bool rights_told;  /* that they cannot be asked for */
    bool configs_told; /* that we may not see the settings of topics */
};

/* --- the topics --------------------------------------------------------------------------------
 */

static void add_topic(struct asker *a, const char *name, const char *option, struct mm_place place)
{
    for (size_t i = 0; i < a->n_topics; i++) {
        const char *known = a->topics[i].name;
        if (known != NULL && strcmp(known, name) == 0) {
            return;
        }
    }
    a->topics[a->n_topics++] = (struct topic){.name = name, .option = option, .place = place};
}

static bool list_topics(struct asker *a, const struct settings *s)
{
    const struct mm_config *config = a->ask.config;
    a->topics = calloc(config->n_routes + 3, sizeof *a->topics);
    if (a->topics == NULL) {
        findings_add(a->f, MM_LOG_ERROR, findings_nowhere, "%s", mm_strerror(MM_ENOMEM));
        return false;
    }
    add_topic(a, config->kafka_topic, "kafka_topic", settings_place(s, "kafka_topic"));
    for (size_t i = 0; i < config->n_routes; i++) {
        const struct mm_config_route *route = &config->routes[i];
        if (route->lane == MM_ROUTE_LANE_DERIVED) {
            findings_add(a->f, MM_LOG_INFO, route->place,
                         "option route: which Kafka topics \"%s\" becomes is known when messages "
                         "come: Kafka is not asked for them",
                         mm_template_text(route->kafka_topic));
        } else {
            add_topic(a, mm_route_kafka_topic(config, route->lane), "route", route->place);
        }
    }
    if (config->dead_letter_topic != NULL) {
        add_topic(a, config->dead_letter_topic, "dead_letter_topic",
                  settings_place(s, "dead_letter_topic"));
    }
    if (config->kafka_test_topic != NULL) {
        add_topic(a, config->kafka_test_topic, "kafka_test_topic",
                  settings_place(s, "kafka_test_topic"));
    }
    return true;
}

/* The settings of a topic or a broker: hands each to visit(). Returns the error of the answer. */
static rd_kafka_resp_err_t read_settings(struct asker *a,
                                         rd_kafka_ResourceType_t type,
                                         const char *name,
                                         void (*visit)(void *arg,
                                                       const char *name,
                                                       const char *value),
                                         void *arg)
{
    rd_kafka_ConfigResource_t *wanted = rd_kafka_ConfigResource_new(type, name);
    if (wanted == NULL) {
        return RD_KAFKA_RESP_ERR__INVALID_ARG;
    }
    rd_kafka_DescribeConfigs(a->ask.rk, &wanted, 1, NULL, a->ask.queue);
    rd_kafka_ConfigResource_destroy(wanted);
    rd_kafka_event_t *event = kafka_ask_answer(&a->ask);
    if (event == NULL) {
        return RD_KAFKA_RESP_ERR__TIMED_OUT;
    }
    rd_kafka_resp_err_t err = rd_kafka_event_error(event);
    size_t n = 0;
    const rd_kafka_ConfigResource_t **resources = NULL;
    if (err == RD_KAFKA_RESP_ERR_NO_ERROR) {
        resources = rd_kafka_DescribeConfigs_result_resources(
            rd_kafka_event_DescribeConfigs_result(event), &n);
    }
    for (size_t i = 0; i < n; i++) {
        size_t n_entries = 0;
        const rd_kafka_ConfigEntry_t **entries =
            rd_kafka_ConfigResource_configs(resources[i], &n_entries);
        err = rd_kafka_ConfigResource_error(resources[i]);
        for (size_t k = 0; k < n_entries; k++) {
            const char *value = rd_kafka_ConfigEntry_value(entries[k]);
            visit(arg, rd_kafka_ConfigEntry_name(entries[k]), value != NULL ? value : "");
        }
    }
    rd_kafka_event_destroy(event);
    return err;
}

static void find_auto_create(void *arg, const char *name, const char *value)
{
    if (strcmp(name, "auto.create.topics.enable") == 0) {
        *(int *)arg = strcmp(value, "true") == 0;
    }
}

/* Would Kafka make a missing topic? 1: yes, 0: no, -1: it does not say. */
static int asks_to_create(struct asker *a, int32_t broker)
{
    char name[16];
    int answer = -1;
    snprintf(name, sizeof name, "%d", (int)broker);
    (void)read_settings(a, RD_KAFKA_RESOURCE_BROKER, name, find_auto_create, &answer);
    return answer;
}

static void tell_missing(struct asker *a, const struct topic *topic, int32_t broker)
{
    const int made = asks_to_create(a, broker);
    if (made == 1) {
        findings_add(a->f, MM_LOG_WARN, topic->place,
                     "option %s: there is no Kafka topic \"%s\"; Kafka makes it with the first "
                     "message (auto.create.topics.enable), with its default number of partitions",
                     topic->option, topic->name);
    } else {
        findings_add(a->f, made == 0 ? MM_LOG_ERROR : MM_LOG_WARN, topic->place,
                     "option %s: there is no Kafka topic \"%s\"%s; its messages wait in the spool "
                     "until it is made",
                     topic->option, topic->name,
                     made == 0 ? ", and Kafka does not make it by itself"
                               : " (whether Kafka would make it, it does not tell this user)");
    }
}

/* What the settings of a topic say. */
struct topic_settings
{
    uint64_t max_message_bytes; /* 0: not known */
    uint64_t min_insync;
};

static void find_topic_settings(void *arg, const char *name, const char *value)
{
    struct topic_settings *found = arg;
    if (strcmp(name, "max.message.bytes") == 0) {
        found->max_message_bytes = strtoull(value, NULL, 10);
    } else if (strcmp(name, "min.insync.replicas") == 0) {
        found->min_insync = strtoull(value, NULL, 10);
    }
}

static void check_topic_settings(struct asker *a, const struct topic *topic, int n_replicas)
{
    struct topic_settings found = {0, 0};
    const rd_kafka_resp_err_t err =
        read_settings(a, RD_KAFKA_RESOURCE_TOPIC, topic->name, find_topic_settings, &found);
    const uint64_t most = mm_kafka_max_message(a->ask.producer);
    if (err != RD_KAFKA_RESP_ERR_NO_ERROR && !a->configs_told) {
        a->configs_told = true;
        findings_add(a->f, MM_LOG_INFO, findings_nowhere,
                     "how large a message each Kafka topic takes is not known: %s",
                     rd_kafka_err2str(err));
    }
    if (found.max_message_bytes > 0 && found.max_message_bytes < most) {
        findings_add(a->f, MM_LOG_WARN, topic->place,
                     "option %s: Kafka topic \"%s\" takes messages of %" PRIu64
                     " bytes at most "
                     "(max.message.bytes), max_message_bytes allows %" PRIu64
                     ": larger ones become "
                     "dead letters",
                     topic->option, topic->name, found.max_message_bytes, most);
    }
    if (n_replicas > 0 && found.min_insync > (uint64_t)n_replicas) {
        findings_add(a->f, MM_LOG_ERROR, topic->place,
                     "option %s: Kafka topic \"%s\" takes no message: it has %d replicas, and "
                     "min.insync.replicas is %" PRIu64,
                     topic->option, topic->name, n_replicas, found.min_insync);
    }
}

static void tell_no_right(struct asker *a, const struct topic *topic)
{
    findings_add(a->f, MM_LOG_ERROR, topic->place,
                 "option %s: no right to write to the Kafka topic \"%s\"; its messages wait in the "
                 "spool until the right is given",
                 topic->option, topic->name);
}

#if CAN_ASK_RIGHTS

static bool may_write(const rd_kafka_TopicDescription_t *description, bool *known)
{
    size_t n = 0;
    const rd_kafka_AclOperation_t *operations =
        rd_kafka_TopicDescription_authorized_operations(description, &n);
    *known = operations != NULL;
    for (size_t i = 0; i < n; i++) {
        if (operations[i] == RD_KAFKA_ACL_OPERATION_WRITE ||
            operations[i] == RD_KAFKA_ACL_OPERATION_ALL) {
            return true;
        }
    }
    return false;
}

static void check_right(struct asker *a, const struct topic *topic)
{
    const char *names[] = {topic->name};
    rd_kafka_TopicCollection_t *wanted = rd_kafka_TopicCollection_of_topic_names(names, 1);
    rd_kafka_AdminOptions_t *options =
        rd_kafka_AdminOptions_new(a->ask.rk, RD_KAFKA_ADMIN_OP_DESCRIBETOPICS);
    rd_kafka_error_t *error = rd_kafka_AdminOptions_set_include_authorized_operations(options, 1);
    bool known = false;
    bool may = false;
    if (error == NULL) {
        rd_kafka_DescribeTopics(a->ask.rk, wanted, options, a->ask.queue);
        rd_kafka_event_t *event = kafka_ask_answer(&a->ask);
        if (event != NULL && rd_kafka_event_error(event) == RD_KAFKA_RESP_ERR_NO_ERROR) {
            size_t n = 0;
            const rd_kafka_TopicDescription_t **found = rd_kafka_DescribeTopics_result_topics(
                rd_kafka_event_DescribeTopics_result(event), &n);
            may = n == 1 && may_write(found[0], &known);
        }
        if (event != NULL) {
            rd_kafka_event_destroy(event);
        }
    } else {
        rd_kafka_error_destroy(error);
    }
    rd_kafka_AdminOptions_destroy(options);
    rd_kafka_TopicCollection_destroy(wanted);
    if (known && !may) {
        tell_no_right(a, topic);
    } else if (!known && !a->rights_told) {
        a->rights_told = true;
        findings_add(a->f, MM_LOG_INFO, findings_nowhere,
                     "whether the Kafka topics may be written is not known: the cluster does not "
                     "tell; --produce-test finds out");
    }
}

#else

static void check_right(struct asker *a, const struct topic *topic)
{
    (void)topic;
    if (!a->rights_told) {
        a->rights_told = true;
        findings_add(a->f, MM_LOG_INFO, findings_nowhere,
                     "whether the Kafka topics may be written is not known: this tool was built "
                     "with librdkafka before 2.3, which cannot ask; --produce-test finds out");
    }
}

#endif

/* The least number of replicas of its partitions; 0: no partition is known. */
static int least_replicas(const struct rd_kafka_metadata_topic *topic)
{
    int least = 0;
    for (int i = 0; i < topic->partition_cnt; i++) {
        const int n = topic->partitions[i].replica_cnt;
        least = i == 0 || n < least ? n : least;
    }
    return least;
}

static void judge_topic(struct asker *a,
                        struct topic *topic,
                        const struct rd_kafka_metadata *md,
                        bool test)
{
    const struct rd_kafka_metadata_topic *found = &md->topics[0];
    if (found->err == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART) {
        tell_missing(a, topic, md->broker_cnt > 0 ? md->brokers[0].id : md->orig_broker_id);
    } else if (found->err == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED) {
        tell_no_right(a, topic);
    } else if (found->err != RD_KAFKA_RESP_ERR_NO_ERROR) {
        findings_add(a->f, MM_LOG_ERROR, topic->place,
                     "option %s: Kafka topic \"%s\" cannot be written now: %s", topic->option,
                     topic->name, rd_kafka_err2str(found->err));
    } else {
        topic->exists = true;
        check_topic_settings(a, topic, least_replicas(found));
        if (!test) {
            check_right(a, topic);
        }
    }
}

static void ask_topic(struct asker *a, struct topic *topic, bool test)
{
    const struct rd_kafka_metadata *md = NULL;
    const rd_kafka_resp_err_t err = kafka_ask_topic(&a->ask, topic->name, &md);
    if (md == NULL) {
        findings_add(a->f, MM_LOG_ERROR, topic->place,
                     "option %s: Kafka says nothing of the Kafka topic \"%s\": %s", topic->option,
                     topic->name, rd_kafka_err2str(err));
        return;
    }
    judge_topic(a, topic, md, test);
    rd_kafka_metadata_destroy(md);
}

/* --- a record ----------------------------------------------------------------------------------
 */

/* The end of one record. */
struct outcome
{
    bool is_out;
    struct mm_kafka_report report;
};

static void take_report(void *arg, const struct mm_kafka_report *report)
{
    (void)arg;
    struct outcome *outcome = report->tag;
    outcome->is_out = false;
    outcome->report = *report;
}

static void produce_one(struct asker *a, struct mm_kafka *kafka, const struct topic *topic)
{
    static const char value[] = "written by metamorphosis check-config --produce-test";
    const struct mm_kafka_header header = {"mm-check", "1", 1};
    struct outcome outcome = {.is_out = true};
    const struct mm_kafka_message message = {
        .topic = topic->name,
        .value = value,
        .value_len = sizeof value - 1,
        .headers = &header,
        .n_headers = 1,
        .time_ms = mm_clock_realtime_ms(),
        .tag = &outcome,
    };
    const int err = mm_kafka_produce(kafka, &message, &outcome.report);
    const uint64_t end_ns = mm_clock_monotonic_ns() + a->ask.timeout_ms * UINT64_C(1000000);
    outcome.is_out = err == 0;
    while (outcome.is_out && mm_clock_monotonic_ns() < end_ns) {
        mm_kafka_poll(kafka, 50);
    }
    if (outcome.is_out || (err != 0 && err != MM_EKAFKA)) {
        findings_add(a->f, MM_LOG_ERROR, topic->place,
                     "option %s: a record for the Kafka topic \"%s\" was not stored within %u s",
                     topic->option, topic->name, a->ask.timeout_ms / 1000);
        mm_kafka_close(kafka, 0); /* outcome must not be reported to later */
        return;
    }
    if (outcome.report.class != MM_KAFKA_DELIVERED) {
        findings_add(a->f, MM_LOG_ERROR, topic->place,
                     "option %s: the Kafka topic \"%s\" cannot be written: %s (%s)", topic->option,
                     topic->name, outcome.report.reason, outcome.report.error);
    } else {
        findings_add(a->f, MM_LOG_INFO, topic->place,
                     "option %s: one record was written to the Kafka topic \"%s\"", topic->option,
                     topic->name);
    }
    mm_kafka_close(kafka, 0);
}

/* Each with a producer of its own, since one that fails takes no more. */
static void produce_tests(struct asker *a)
{
    for (size_t i = 0; i < a->n_topics; i++) {
        const struct mm_kafka_options opts = {
            .config = a->ask.config, .loose = true, .on_report = take_report};
        struct mm_kafka *kafka = NULL;
        char errstr[MM_LOG_LINE_LEN];
        if (a->topics[i].exists && mm_kafka_new(&opts, &kafka, errstr, sizeof errstr) == 0) {
            produce_one(a, kafka, &a->topics[i]);
        }
    }
}

void check_kafka(const struct settings *s,
                 uint32_t timeout_ms,
                 bool produce_test,
                 struct findings *f)
{
    struct asker a = {.f = f};
    char why[MM_LOG_LINE_LEN];
    if (!kafka_ask_open(&a.ask, s->config, timeout_ms, why, sizeof why)) {
        findings_add(f, MM_LOG_ERROR, findings_nowhere, "%s", why);
    } else if (list_topics(&a, s)) {
        for (size_t i = 0; i < a.n_topics; i++) {
            ask_topic(&a, &a.topics[i], produce_test);
        }
        if (produce_test) {
            produce_tests(&a);
        }
    }
    free(a.topics);
    kafka_ask_close(&a.ask);
}
