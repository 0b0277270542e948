#include "mm_kafka.h"

#include "mm_error.h"
#include "mm_json.h"
#include "mm_log.h"

#include <librdkafka/rdkafka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <time.h>

/* Handles that are kept: librdkafka before 2.10.1 takes up to 1.7 s for the first message to a
 * topic that is given by name each time (#5032). */
#define N_TOPICS 16

/* A connection error is told at most this often; what was held back is counted in the line. */
#define ERROR_LINE_INTERVAL_NS (30 * UINT64_C(1000000000))

#define MIN_DOWN_STATISTICS 3

#define MAX_QUEUE_KBYTES 65536

/* KIP-467, known to librdkafka since 2.4.0: another message of the batch is the culprit. */
#define ERR_INVALID_DIFFERENT_RECORD ((rd_kafka_resp_err_t)-138)

struct mm_kafka
{
    rd_kafka_t *rk;
    struct
    {
        char *name;
        rd_kafka_topic_t *handle;
    } topics[N_TOPICS]; /* most recently used first */
    size_t n_topics;

    mm_kafka_report_fn on_report;
    void *arg;
    struct mm_log *log;
    size_t max_message;

    uint64_t n_out;
    uint64_t n_errors;
    bool up;
    uint32_t n_down; /* statistics in a row without a connection */
    struct mm_log_limit error_limit;
    char last_error[256];
    char fatal_reason[256];
};

/* --- error classes ------------------------------------------------------------------------------
 */

/* Not in the table: MM_KAFKA_WAIT. "Permanent" is the client's word: most such errors end when an
 * operator acts, and only the few SUSPECT ones can mean that the message itself will never do. */
static const struct
{
    rd_kafka_resp_err_t err;
    enum mm_kafka_class class;
} classes[] = {
    {RD_KAFKA_RESP_ERR_NO_ERROR, MM_KAFKA_DELIVERED},

    {RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, MM_KAFKA_SUSPECT},
    {RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE, MM_KAFKA_SUSPECT},
    {RD_KAFKA_RESP_ERR_INVALID_MSG, MM_KAFKA_SUSPECT},
    {RD_KAFKA_RESP_ERR_INVALID_MSG_SIZE, MM_KAFKA_SUSPECT},
    {RD_KAFKA_RESP_ERR_INVALID_RECORD, MM_KAFKA_SUSPECT},
    {ERR_INVALID_DIFFERENT_RECORD, MM_KAFKA_SUSPECT},
    {RD_KAFKA_RESP_ERR_UNSUPPORTED_FOR_MESSAGE_FORMAT, MM_KAFKA_SUSPECT},
    {RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION, MM_KAFKA_SUSPECT},

    /* We or a fatal error took it back. */
    {RD_KAFKA_RESP_ERR__PURGE_QUEUE, MM_KAFKA_AGAIN},
    {RD_KAFKA_RESP_ERR__PURGE_INFLIGHT, MM_KAFKA_AGAIN},
    {RD_KAFKA_RESP_ERR__FATAL, MM_KAFKA_AGAIN},
    {RD_KAFKA_RESP_ERR__GAPLESS_GUARANTEE, MM_KAFKA_AGAIN},
    {RD_KAFKA_RESP_ERR__DESTROY, MM_KAFKA_AGAIN},
    {RD_KAFKA_RESP_ERR__MSG_TIMED_OUT, MM_KAFKA_AGAIN},

    /* The producer is at fault, not the message nor the topic: a new producer mends it. */
    {RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER, MM_KAFKA_AGAIN},
    {RD_KAFKA_RESP_ERR_UNKNOWN_PRODUCER_ID, MM_KAFKA_AGAIN},
    {RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH, MM_KAFKA_AGAIN},
    {RD_KAFKA_RESP_ERR_PRODUCER_FENCED, MM_KAFKA_AGAIN},
    {RD_KAFKA_RESP_ERR_DUPLICATE_SEQUENCE_NUMBER, MM_KAFKA_AGAIN},
};

static enum mm_kafka_class classify(rd_kafka_resp_err_t err)
{
    for (size_t i = 0; i < sizeof classes / sizeof classes[0]; i++) {
        if (classes[i].err == err) {
            return classes[i].class;
        }
    }
    return MM_KAFKA_WAIT;
}

static void fill_report(struct mm_kafka_report *report, rd_kafka_resp_err_t err, void *tag)
{
    *report = (struct mm_kafka_report){
        .tag = tag,
        .class = classify(err),
        .too_large = err == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE ||
                     err == RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE,
        .error = rd_kafka_err2name(err),
        .reason = rd_kafka_err2str(err),
    };
}

/* --- callbacks ----------------------------------------------------------------------------------
 */

static void on_delivery(rd_kafka_t *rk, const rd_kafka_message_t *m, void *opaque)
{
    (void)rk;
    struct mm_kafka *k = opaque;
    struct mm_kafka_report report;
    fill_report(&report, m->err, m->_private);
    report.value_len = m->len;
    report.maybe_persisted = m->err != RD_KAFKA_RESP_ERR_NO_ERROR &&
                             rd_kafka_message_status(m) == RD_KAFKA_MSG_STATUS_POSSIBLY_PERSISTED;
    k->n_out--;
    if (report.class == MM_KAFKA_DELIVERED) {
        k->up = true;
    }
    k->on_report(k->arg, &report);
}

static uint64_t monotonic_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

static void on_error(rd_kafka_t *rk, int err, const char *reason, void *opaque)
{
    (void)rk;
    struct mm_kafka *k = opaque;
    k->n_errors++;
    if (err == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN) {
        k->up = false;
        mm_log_write(k->log, MM_LOG_DEBUG, "Kafka: %s", reason);
        return; /* the error of the connection itself, which is told, has the reason */
    }
    snprintf(k->last_error, sizeof k->last_error, "%s", reason);
    uint64_t n_held = 0;
    if (mm_log_allowed(&k->error_limit, monotonic_ns(), ERROR_LINE_INTERVAL_NS, &n_held)) {
        mm_log_write(k->log, MM_LOG_WARN, "Kafka: %s (%s; %llu more since the last such line)",
                     reason, rd_kafka_err2name((rd_kafka_resp_err_t)err),
                     (unsigned long long)n_held);
    }
}

static int on_statistics(rd_kafka_t *rk, char *json, size_t json_len, void *opaque)
{
    (void)rk;
    struct mm_kafka *k = opaque;
    struct mm_kafka_stats stats;
    if (mm_json_kafka_stats(json, json_len, &stats) == 0) {
        /* One page without a connection may be an idle one that is just made again. */
        k->n_down = stats.any_broker_up ? 0 : k->n_down + 1;
        k->up = stats.any_broker_up || (k->up && k->n_down < MIN_DOWN_STATISTICS);
    }
    return 0; /* librdkafka frees the text */
}

/* Runs on librdkafka's threads. What matters to people also comes as an error or a report. */
static void on_log(const rd_kafka_t *rk, int level, const char *fac, const char *buf)
{
    struct mm_kafka *k = rd_kafka_opaque(rk);
    bool connection = strcmp(fac, "FAIL") == 0 || strcmp(fac, "ERROR") == 0;
    enum mm_log_level ours = level <= LOG_ERR && !connection ? MM_LOG_WARN : MM_LOG_DEBUG;
    mm_log_write(k->log, ours, "librdkafka: %s: %s", fac, buf);
}

/* --- configuration ------------------------------------------------------------------------------
 */

struct setting
{
    const char *name;
    const char *value;
};

/* What the promise rests on, and what experience with outages asks for. */
static const struct setting settings[] = {
    {"client.id", "metamorphosis"},
    {"enable.idempotence", "true"},
    {"acks", "all"},
    {"message.timeout.ms", "0"}, /* none: the spool alone decides how long a message lives */
    {"linger.ms", "5"},
    {"queue.buffering.max.messages", "100000"},
    {"message.max.bytes", "1048588"}, /* the cluster's own default */
    {"reconnect.backoff.ms", "100"},
    {"reconnect.backoff.max.ms", "1000"},
    {"socket.keepalive.enable", "true"},
    {"socket.connection.setup.timeout.ms", "5000"},
    {"topic.metadata.refresh.interval.ms", "10000"},
    {"partitioner", "murmur2_random"}, /* as Kafka's Java client; the default differs */
    {"log.connection.close", "false"}, /* an idle connection that is closed is no failure */
    {"statistics.interval.ms", "1000"},
};

static int set_property(rd_kafka_conf_t *conf,
                        const char *name,
                        const char *value,
                        char *errstr,
                        size_t errstr_len)
{
    char reason[256];
    if (rd_kafka_conf_set(conf, name, value, reason, sizeof reason) == RD_KAFKA_CONF_OK) {
        return 0;
    }
    snprintf(errstr, errstr_len, "option rdkafka.%s: %s", name, reason);
    return MM_EKAFKA;
}

static size_t get_max_message(const rd_kafka_conf_t *conf)
{
    char value[32];
    size_t len = sizeof value;
    if (rd_kafka_conf_get(conf, "message.max.bytes", value, &len) != RD_KAFKA_CONF_OK) {
        return 1000000;
    }
    return strtoul(value, NULL, 10);
}

/* The client's queue is a window over the spool and never larger than it, but a message of the
 * largest size must find room: the client refuses for ever what is larger than its queue. */
static int set_queue_size(rd_kafka_conf_t *conf,
                          const struct mm_config *config,
                          char *errstr,
                          size_t errstr_len)
{
    uint32_t n = config->kafka_workers == 0 ? 1 : config->kafka_workers;
    uint64_t kbytes = config->spool_max_bytes / n / 1024;
    kbytes = kbytes > MAX_QUEUE_KBYTES ? MAX_QUEUE_KBYTES : kbytes;
    uint64_t least = 2 * (uint64_t)get_max_message(conf) / 1024 + 1;
    kbytes = kbytes < least ? least : kbytes;
    char value[24];
    snprintf(value, sizeof value, "%llu", (unsigned long long)kbytes);
    return set_property(conf, "queue.buffering.max.kbytes", value, errstr, errstr_len);
}

static int configure(rd_kafka_conf_t *conf,
                     const struct mm_kafka_options *opts,
                     char *errstr,
                     size_t errstr_len)
{
    int err = 0;
    for (size_t i = 0; err == 0 && i < sizeof settings / sizeof settings[0]; i++) {
        err = set_property(conf, settings[i].name, settings[i].value, errstr, errstr_len);
    }
    for (size_t i = 0; err == 0 && i < opts->config->n_properties; i++) {
        err = set_property(conf, opts->config->properties[i].name,
                           opts->config->properties[i].value, errstr, errstr_len);
    }
    if (err == 0) {
        err = set_property(conf, "bootstrap.servers", opts->config->kafka_bootstrap, errstr,
                           errstr_len);
    }
    if (err == 0) {
        err = set_queue_size(conf, opts->config, errstr, errstr_len);
    }
    if (err == 0 && opts->single) {
        err = set_property(conf, "batch.num.messages", "1", errstr, errstr_len);
    } else if (err == 0) {
        err = set_property(conf, "enable.gapless.guarantee", "true", errstr, errstr_len);
    }
    return err;
}

int mm_kafka_new(const struct mm_kafka_options *opts,
                 struct mm_kafka **out,
                 char *errstr,
                 size_t errstr_len)
{
    *out = NULL;
    struct mm_kafka *k = calloc(1, sizeof *k);
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    int err = MM_ENOMEM;
    if (k == NULL || conf == NULL) {
        snprintf(errstr, errstr_len, "%s", mm_strerror(err));
        goto fail;
    }
    k->on_report = opts->on_report;
    k->arg = opts->arg;
    k->log = opts->log;
    err = configure(conf, opts, errstr, errstr_len);
    if (err != 0) {
        goto fail;
    }
    rd_kafka_conf_set_opaque(conf, k);
    rd_kafka_conf_set_dr_msg_cb(conf, on_delivery);
    rd_kafka_conf_set_error_cb(conf, on_error);
    rd_kafka_conf_set_stats_cb(conf, on_statistics);
    rd_kafka_conf_set_log_cb(conf, on_log);

    char reason[256];
    k->rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, reason, sizeof reason);
    if (k->rk == NULL) {
        snprintf(errstr, errstr_len, "the Kafka client could not be made: %s", reason);
        err = MM_EKAFKA;
        goto fail;
    }
    k->max_message = get_max_message(rd_kafka_conf(k->rk));
    *out = k;
    return 0;

fail:
    if (conf != NULL) {
        rd_kafka_conf_destroy(conf);
    }
    free(k);
    return err;
}

/* --- producing ----------------------------------------------------------------------------------
 */

/* The handle of a topic, from those kept or made now; NULL: the client refuses the name. */
static rd_kafka_topic_t *topic_handle(struct mm_kafka *k, const char *name)
{
    size_t i = 0;
    while (i < k->n_topics && strcmp(k->topics[i].name, name) != 0) {
        i++;
    }
    if (i == 0 && k->n_topics > 0) {
        return k->topics[0].handle;
    }
    char *kept_name;
    rd_kafka_topic_t *handle;
    if (i < k->n_topics) {
        kept_name = k->topics[i].name;
        handle = k->topics[i].handle;
    } else {
        kept_name = strdup(name);
        handle = kept_name == NULL ? NULL : rd_kafka_topic_new(k->rk, name, NULL);
        if (handle == NULL) {
            free(kept_name);
            return NULL;
        }
        if (k->n_topics == N_TOPICS) {
            i = N_TOPICS - 1;
            rd_kafka_topic_destroy(k->topics[i].handle);
            free(k->topics[i].name);
        } else {
            i = k->n_topics++;
        }
    }
    memmove(&k->topics[1], &k->topics[0], i * sizeof k->topics[0]);
    k->topics[0].name = kept_name;
    k->topics[0].handle = handle;
    return handle;
}

/* For parameters of librdkafka that are not const but only read, thanks to RD_KAFKA_MSG_F_COPY. */
static void *unconst(const void *p)
{
    void *same;
    memcpy(&same, &p, sizeof same);
    return same;
}

int mm_kafka_produce(struct mm_kafka *k,
                     const struct mm_kafka_message *m,
                     struct mm_kafka_report *report)
{
    rd_kafka_topic_t *topic = topic_handle(k, m->topic);
    if (topic == NULL) {
        fill_report(report, rd_kafka_last_error(), m->tag);
        return MM_EKAFKA;
    }
    rd_kafka_vu_t parts[] = {
        {.vtype = RD_KAFKA_VTYPE_RKT, .u.rkt = topic},
        {.vtype = RD_KAFKA_VTYPE_PARTITION, .u.i32 = RD_KAFKA_PARTITION_UA},
        {.vtype = RD_KAFKA_VTYPE_MSGFLAGS, .u.i = RD_KAFKA_MSG_F_COPY},
        {.vtype = RD_KAFKA_VTYPE_VALUE, .u.mem = {.ptr = unconst(m->value), .size = m->value_len}},
        {.vtype = RD_KAFKA_VTYPE_KEY, .u.mem = {.ptr = unconst(m->key), .size = m->key_len}},
        {.vtype = RD_KAFKA_VTYPE_TIMESTAMP, .u.i64 = (int64_t)m->time_ms},
        {.vtype = RD_KAFKA_VTYPE_OPAQUE, .u.ptr = m->tag},
        {.vtype = RD_KAFKA_VTYPE_HEADER,
         .u.header = {.name = "mm-id", .val = m->id, .size = (ssize_t)m->id_len}},
    };
    size_t n_parts = sizeof parts / sizeof parts[0] - (m->id == NULL ? 1 : 0);
    rd_kafka_error_t *error = rd_kafka_produceva(k->rk, parts, n_parts);
    if (error == NULL) {
        k->n_out++;
        return 0;
    }
    rd_kafka_resp_err_t err = rd_kafka_error_code(error);
    rd_kafka_error_destroy(error);
    if (err == RD_KAFKA_RESP_ERR__QUEUE_FULL) {
        return MM_EAGAIN;
    }
    fill_report(report, err, m->tag);
    return MM_EKAFKA;
}

void mm_kafka_poll(struct mm_kafka *k, uint32_t timeout_ms)
{
    rd_kafka_poll(k->rk, (int)timeout_ms);
}

void mm_kafka_take_back(struct mm_kafka *k)
{
    rd_kafka_purge(k->rk, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_NON_BLOCKING);
}

static void poll_until_empty(struct mm_kafka *k, uint32_t wait_ms, int purge_flags)
{
    uint64_t deadline = monotonic_ns() + (uint64_t)wait_ms * 1000000;
    do {
        /* Again and again: a request that fails puts its messages back into the queue. */
        rd_kafka_purge(k->rk, purge_flags | RD_KAFKA_PURGE_F_NON_BLOCKING);
        rd_kafka_poll(k->rk, 10);
    } while (k->n_out > 0 && monotonic_ns() < deadline);
}

void mm_kafka_close(struct mm_kafka *k, uint32_t wait_ms)
{
    if (k == NULL) {
        return;
    }
    if (k->n_out > 0) {
        poll_until_empty(k, wait_ms, RD_KAFKA_PURGE_F_QUEUE);
    }
    if (k->n_out > 0) {
        poll_until_empty(k, 1000, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT);
    }
    for (size_t i = 0; i < k->n_topics; i++) {
        rd_kafka_topic_destroy(k->topics[i].handle);
        free(k->topics[i].name);
    }
    rd_kafka_destroy(k->rk);
    free(k);
}

/* --- state --------------------------------------------------------------------------------------
 */

bool mm_kafka_failed(struct mm_kafka *k, const char **error, const char **reason, bool *strict)
{
    rd_kafka_resp_err_t err = rd_kafka_fatal_error(k->rk, k->fatal_reason, sizeof k->fatal_reason);
    if (err == RD_KAFKA_RESP_ERR_NO_ERROR) {
        return false;
    }
    *error = rd_kafka_err2name(err);
    *reason = k->fatal_reason;
    *strict = err == RD_KAFKA_RESP_ERR__GAPLESS_GUARANTEE;
    return true;
}

bool mm_kafka_up(const struct mm_kafka *k)
{
    return k->up;
}

uint64_t mm_kafka_n_out(const struct mm_kafka *k)
{
    return k->n_out;
}

size_t mm_kafka_max_message(const struct mm_kafka *k)
{
    return k->max_message;
}

uint64_t mm_kafka_n_errors(const struct mm_kafka *k)
{
    return k->n_errors;
}

const char *mm_kafka_last_error(const struct mm_kafka *k)
{
    return k->last_error;
}

const char *mm_kafka_version(void)
{
    return rd_kafka_version_str();
}

int mm_kafka_version_number(void)
{
    return rd_kafka_version();
}
