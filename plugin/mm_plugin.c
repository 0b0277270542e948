/* mm_plugin.c - the door between Mosquitto and Metamorphosis.
 *
 * With mm_plugin_props.c the only file that knows the broker. Everything here runs on the broker's
 * one thread. The way of a message is on_message(); what is made in init is undone by stop_all(),
 * in reverse, whether init fails half-way or the broker ends. */
#include "mm_clock.h"
#include "mm_config.h"
#include "mm_dead.h"
#include "mm_error.h"
#include "mm_filter.h"
#include "mm_headers.h"
#include "mm_http.h"
#include "mm_kafka.h"
#include "mm_lanes.h"
#include "mm_live.h"
#include "mm_log.h"
#include "mm_message.h"
#include "mm_metrics.h"
#include "mm_plugin_props.h"
#include "mm_record.h"
#include "mm_route.h"
#include "mm_sender.h"
#include "mm_spool.h"
#include "mm_trouble.h"
#include "mm_version.h"

#include <inttypes.h>
#include <limits.h>
#include <mosquitto.h>
#include <mosquitto_broker.h>
#include <mosquitto_plugin.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

/* A publish in so many is timed, for the histogram of the callback. A power of two. */
#define TIMED_EVERY 64

/* The stop: at most DRAIN_MS to deliver what is left, and the rest for the Kafka client to end. */
#define DRAIN_MS 5000
/* With nobody to deliver to, and nothing to be lost by not trying. */
#define DRAIN_AWAY_MS 500
#define STOP_MS 9000
#define STOP_LIVE_MS 3000 /* of that, for a change of the settings that is under way */
#define STOP_END_MS 4000  /* of that, for the Kafka client */

#define REFUSAL_LINE_INTERVAL_NS (30 * UINT64_C(1000000000))

/* Mosquitto 2.1 and later has it, 2.0 does not: it tells the two apart. */
extern int mosquitto_plugin_set_info(mosquitto_plugin_id_t *id,
                                     const char *name,
                                     const char *version) __attribute__((weak));

/* Its value, for headers of Mosquitto 2.0, which lack the name. 2.1 makes 0x97 of it for MQTT 5,
 * but a plain acknowledgement for MQTT 3.1.1; 2.0 closes the connection. */
#define ERR_QUOTA_EXCEEDED (-6)

/* How long 2.1 may wait until the next tick. Headers of 2.0 have another name for the field, which
 * their broker does not look at. */
#if __has_include(<mosquitto/broker.h>)
#define NEXT_MS next_ms
#else
#define NEXT_MS next_ns
#endif

struct mm
{
    mosquitto_plugin_id_t *id;
    bool broker_2_1;
    struct mm_option *options;      /* as the broker gave them; the texts are its */
    const struct mm_config *config; /* what counts now; asked for at the start of each callback */
    struct mm_config *first_config; /* until there is live, which owns it then */
    struct mm_log *log;
    struct mm_spool_budget budget; /* of the spool and of what is parked */
    struct mm_spool *spool;
    struct mm_dead *dead;
    struct mm_lanes *lanes;
    struct mm_metrics *metrics;
    struct mm_http *http;
    struct mm_sender *sender;
    struct mm_live *live;

    struct mm_plugin_props props;
    struct mm_metrics_broker *counters;
    uint64_t n_messages; /* that passed the filter */
    struct mm_log_limit full_limit;
    struct mm_log_limit qos0_limit;
    struct mm_log_limit too_large_limit;
    struct mm_log_limit io_limit;
};

/* One copy of the code is in the process however often the broker loads it, and one instance is all
 * that it can serve: a second plugin line would double every message. */
static atomic_flag loaded = ATOMIC_FLAG_INIT;

/* What a thread that did not end in time may still use: kept until the process ends. */
static struct mm *left_behind;

/* --- logging ------------------------------------------------------------------------------------
 */

static void print_line(void *arg, enum mm_log_level level, const char *line)
{
    (void)arg;
    static const int levels[] = {MOSQ_LOG_DEBUG, MOSQ_LOG_DEBUG, MOSQ_LOG_INFO, MOSQ_LOG_WARNING,
                                 MOSQ_LOG_ERR};
    mosquitto_log_printf(levels[level], "metamorphosis: %s", line);
}

static void report_finding(void *arg, const struct mm_finding *finding)
{
    char line[MM_FINDING_LINE_LEN];
    print_line(arg, finding->level, mm_finding_line(finding, line, sizeof line));
}

/* --- a message ----------------------------------------------------------------------------------
 */

/* How old the oldest message is, in seconds. */
static uint64_t age_s(uint64_t oldest_ms)
{
    return mm_clock_age_ms(oldest_ms) / 1000;
}

/* Where the spool is, for a line. */
static const char *spool_place(const struct mm *mm)
{
    return mm->config->spool_dir == NULL ? "memory" : mm->config->spool_dir;
}

/* qos0: the message was one of QoS 0, which has to give way before the others. */
static void log_full(struct mm *mm, bool qos0)
{
    uint64_t n_held = 0;
    uint64_t now_ns = mm_clock_monotonic_ns();
    struct mm_log_limit *limit = qos0 ? &mm->qos0_limit : &mm->full_limit;
    if (!mm_log_allowed(limit, now_ns, REFUSAL_LINE_INTERVAL_NS, &n_held)) {
        return;
    }
    struct mm_snapshot shot;
    mm_metrics_snapshot(mm->metrics, mm->spool, &shot);
    char room[96] = "";
    if (shot.spool.on_disk) {
        snprintf(room, sizeof room, ", the disk has %" PRIu64 " bytes more than spool_min_free",
                 shot.spool.free_bytes);
    }
    mm_log_write(mm->log, MM_LOG_WARN,
                 "the spool in %s is %s (spool_max_bytes %" PRIu64 ", %" PRIu64
                 " bytes taken%s; %" PRIu64 " messages, the oldest from %" PRIu64
                 " s ago): %s, %" PRIu64 " more since the last such line",
                 spool_place(mm), shot.spool.full ? "full" : "nearly full", shot.spool.limit_bytes,
                 shot.spool.allocated_bytes, room, shot.in_spool, age_s(shot.oldest_ms),
                 mm->config->when_full == MM_WHEN_FULL_DROP_NEWEST
                     ? "new messages are dropped (when_full drop_newest)"
                 : qos0 ? "QoS 0 is dropped, so that QoS 1 and 2 have what is left"
                        : "publishers with QoS 1 and 2 are refused, QoS 0 is dropped",
                 n_held);
}

static void log_too_large(struct mm *mm, const struct mosquitto_evt_message *ev)
{
    uint64_t n_held = 0;
    uint64_t now_ns = mm_clock_monotonic_ns();
    if (mm_log_allowed(&mm->too_large_limit, now_ns, REFUSAL_LINE_INTERVAL_NS, &n_held)) {
        mm_log_write(mm->log, MM_LOG_WARN,
                     "a message of %u bytes on topic \"%.128s\" can never fit into spool_max_bytes "
                     "%" PRIu64
                     "; max_packet_size in mosquitto.conf keeps such messages away; %" PRIu64
                     " more since the last such line",
                     ev->payloadlen, ev->topic, mm->config->spool_max_bytes, n_held);
    }
}

static void log_too_large_for_kafka(struct mm *mm, const struct mosquitto_evt_message *ev)
{
    uint64_t n_held = 0;
    uint64_t now_ns = mm_clock_monotonic_ns();
    if (mm_log_allowed(&mm->too_large_limit, now_ns, REFUSAL_LINE_INTERVAL_NS, &n_held)) {
        mm_log_write(mm->log, MM_LOG_WARN,
                     "a message of %u bytes on topic \"%.128s\" would be larger in Kafka than "
                     "max_message_bytes %u and is %s (when_too_large reject); %" PRIu64
                     " more since the last such line",
                     ev->payloadlen, ev->topic, mm->config->max_message_bytes,
                     ev->qos == 0 ? "dropped" : "refused", n_held);
    }
}

static void log_io(struct mm *mm)
{
    uint64_t n_held = 0;
    uint64_t now_ns = mm_clock_monotonic_ns();
    if (mm_log_allowed(&mm->io_limit, now_ns, REFUSAL_LINE_INTERVAL_NS, &n_held)) {
        mm_log_write(
            mm->log, MM_LOG_ERROR,
            "a message could not be stored in %s: the disk fails; QoS 1 and 2 are refused, "
            "QoS 0 is dropped; %" PRIu64 " more since the last such line",
            spool_place(mm), n_held);
    }
}

static enum mm_refused_reason refused_for(int err)
{
    return err == MM_ETOOBIG ? MM_REFUSED_TOO_LARGE
           : err == MM_EIO   ? MM_REFUSED_IO
                             : MM_REFUSED_FULL;
}

static enum mm_dropped_reason dropped_for(int err, int qos)
{
    return err == MM_ETOOBIG ? MM_DROPPED_TOO_LARGE
           : err == MM_EIO   ? MM_DROPPED_IO
           : qos == 0        ? MM_DROPPED_QOS0
                             : MM_DROPPED_NEWEST;
}

/* The publisher of a QoS 1 or 2 message that was not stored is to keep it: what the broker shall
 * answer.
 *
 * A code that makes the broker acknowledge to an MQTT 3.1.1 client (ACL_DENIED always,
 * QUOTA_EXCEEDED on 2.1) is never returned to one: it would take the message for delivered. UNKNOWN
 * closes the connection without an acknowledgement, and the client sends again. */
static int refusal(const struct mm *mm, const struct mosquitto_evt_message *ev)
{
    if (mm_config_refuse_by_code(mm->config, mm->broker_2_1,
                                 mosquitto_client_protocol_version(ev->client))) {
        return ERR_QUOTA_EXCEEDED;
    }
    return MOSQ_ERR_UNKNOWN;
}

/* A publish that was not stored: what the broker shall answer. */
static int refuse(struct mm *mm, const struct mosquitto_evt_message *ev, int err)
{
    if (err == MM_ETOOBIG) {
        log_too_large(mm, ev);
    } else if (err == MM_EIO) {
        log_io(mm);
    } else {
        log_full(mm, ev->qos == 0);
    }
    if (ev->qos == 0 || mm->config->when_full == MM_WHEN_FULL_DROP_NEWEST) {
        mm_counter_add(&mm->counters->dropped[dropped_for(err, ev->qos)], 1);
        return MOSQ_ERR_SUCCESS; /* the broker's own subscribers get it all the same */
    }
    mm_counter_add(&mm->counters->refused[refused_for(err)], 1);
    return refusal(mm, ev);
}

/* A publish that Kafka would not take, with when_too_large reject. */
static int refuse_too_large(struct mm *mm, const struct mosquitto_evt_message *ev)
{
    log_too_large_for_kafka(mm, ev);
    if (ev->qos == 0) {
        mm_counter_add(&mm->counters->dropped[MM_DROPPED_TOO_LARGE], 1);
        return MOSQ_ERR_SUCCESS;
    }
    mm_counter_add(&mm->counters->refused[MM_REFUSED_TOO_LARGE], 1);
    return refusal(mm, ev);
}

/* Is it to be refused for its size in Kafka? Only where that is wanted: what is taken in spite of
 * its size becomes a dead letter. */
static bool is_too_large(const struct mm *mm, const struct mm_record *record)
{
    const struct mm_config *config = mm->config;
    return config->when_too_large == MM_WHEN_TOO_LARGE_REJECT &&
           mm_message_size(config, mm_route_find(config, record->topic, record->topic_len),
                           record) > config->max_message_bytes;
}

/* Put a message that passed the filter into the spool. Returns what the broker shall answer. */
static int put_away(struct mm *mm, const struct mosquitto_evt_message *ev, struct mm_record *record)
{
    const struct mm_config *config = mm->config;
    int err = config->stored == 0 ? 0 : mm_plugin_props_collect(&mm->props, config->stored, ev);
    if (err == 0 && config->stored != 0) {
        record->props = mm->props.bytes;
        record->props_len = (uint32_t)mm->props.len;
    }
    if (err == 0 && is_too_large(mm, record)) {
        return refuse_too_large(mm, ev);
    }
    if (err == 0) {
        err = mm_spool_append(mm->spool, record);
    }
    if (err != 0) {
        return refuse(mm, ev, err);
    }
    mm_counter_add(&mm->counters->spooled, 1);
    return MOSQ_ERR_SUCCESS;
}

/* Store one message that passed the filter. */
static int store(struct mm *mm, const struct mosquitto_evt_message *ev, size_t topic_len)
{
    struct mm_record record = {
        .time_ms = mm_clock_realtime_ms(),
        .flags = (uint8_t)(ev->qos | (ev->retain ? MM_RECORD_RETAIN : 0)),
        .type = MM_RECORD_MESSAGE,
        .topic_len = (uint16_t)topic_len,
        .payload_len = ev->payloadlen,
        .topic = ev->topic,
        .payload = ev->payload,
    };
    /* A mount_point in front of the longest topic makes one that no record can hold. */
    int answer = topic_len > UINT16_MAX ? refuse(mm, ev, MM_ETOOBIG) : put_away(mm, ev, &record);
    mm_plugin_props_done(&mm->props);
    /* Last: a page never shows a message as received that a start after a kill would not find. */
    mm_counter_add(&mm->counters->received_bytes, ev->payloadlen);
    mm_counter_add(&mm->counters->received[ev->qos <= 2 ? ev->qos : 2], 1);
    return answer;
}

/* MOSQ_EVT_MESSAGE: after the write ACL, before the acknowledgement. MOSQ_ERR_SUCCESS lets the
 * broker acknowledge, so it is returned only for what is stored, or not to be stored. */
static int on_message(int event, void *event_data, void *userdata)
{
    (void)event;
    struct mm *mm = userdata;
    const struct mosquitto_evt_message *ev = event_data;
    mm->config = mm_live_settings(mm->live);
    mm_log_drain(mm->log, print_line, NULL);
    size_t topic_len = strlen(ev->topic);
    if (!mm_filter_set_match(mm->config->filters, ev->topic, topic_len)) {
        return MOSQ_ERR_SUCCESS;
    }
    if ((mm->n_messages++ & (TIMED_EVERY - 1)) != 0) {
        return store(mm, ev, topic_len);
    }
    uint64_t start_ns = mm_clock_monotonic_ns();
    int answer = store(mm, ev, topic_len);
    mm_histogram_callback(&mm->counters->callback, mm_clock_monotonic_ns() - start_ns);
    return answer;
}

/* MOSQ_EVT_TICK: for the log, and to let go of settings that are gone. Nothing else may depend on
 * it, since an idle broker may not tick for long. */
static int on_tick(int event, void *event_data, void *userdata)
{
    (void)event;
    struct mm *mm = userdata;
    struct mosquitto_evt_tick *ev = event_data;
    mm->config = mm_live_settings(mm->live);
    mm_log_drain(mm->log, print_line, NULL);
    if (mm->broker_2_1) {
        ev->NEXT_MS = 100;
    }
    return MOSQ_ERR_SUCCESS;
}

/* MOSQ_EVT_RELOAD: the broker gives no options here; config_file has them. What comes of it is not
 * waited for. Any other answer than SUCCESS would make 2.0 drop its ACL file and 2.1 stop. */
static int on_reload(int event, void *event_data, void *userdata)
{
    (void)event;
    (void)event_data;
    struct mm *mm = userdata;
    mm->config = mm_live_settings(mm->live);
    mm_live_reload(mm->live);
    mm_log_drain(mm->log, print_line, NULL);
    return MOSQ_ERR_SUCCESS;
}

static const struct
{
    int event;
    MOSQ_FUNC_generic_callback callback;
} events[] = {
    {MOSQ_EVT_MESSAGE, on_message},
    {MOSQ_EVT_TICK, on_tick},
    {MOSQ_EVT_RELOAD, on_reload},
};

#define N_EVENTS (sizeof events / sizeof events[0])

/* --- start and stop -----------------------------------------------------------------------------
 */

static const char *read_environment(void *arg, const char *name)
{
    (void)arg;
    return getenv(name);
}

static int fail(const char *errstr)
{
    print_line(NULL, MM_LOG_ERROR, errstr);
    return MOSQ_ERR_UNKNOWN;
}

static int read_config(struct mm *mm, const struct mosquitto_opt *opts, int n_opts)
{
    mm->options = calloc((size_t)n_opts + 1, sizeof *mm->options);
    if (mm->options == NULL) {
        return MM_ENOMEM;
    }
    for (int i = 0; i < n_opts; i++) {
        mm->options[i].name = opts[i].key;
        mm->options[i].value = opts[i].value;
    }
    struct mm_config_source source = {
        .options = mm->options,
        .n_options = (size_t)n_opts,
        .getenv = read_environment,
        .report = report_finding,
        .judge = mm_kafka_judge,
    };
    int err = mm_config_new(&source, &mm->first_config);
    mm->config = mm->first_config;
    return err;
}

static int start_http(struct mm *mm, char *errstr, size_t errstr_len)
{
    if (mm->config->health_port == 0) {
        return 0;
    }
    struct mm_http_options opts = {
        .address = mm->config->health_address,
        .port = mm->config->health_port,
        .metrics = mm->metrics,
        .spool = mm->spool,
        .dead = mm->dead,
        .log = mm->log,
    };
    return mm_http_start(&opts, &mm->http, errstr, errstr_len);
}

/* Say what of the messages this broker does not give. */
static void log_unreadable(struct mm *mm)
{
    static const unsigned of_mqtt_5 = MM_HEADERS_CONTENT_TYPE | MM_HEADERS_RESPONSE_TOPIC |
                                      MM_HEADERS_CORRELATION_DATA | MM_HEADERS_PAYLOAD_FORMAT |
                                      MM_HEADERS_USER;
    if ((mm->config->stored & of_mqtt_5) != 0 && !mm_plugin_props_readable()) {
        mm_log_write(mm->log, MM_LOG_WARN,
                     "this build of Mosquitto does not show plugins the properties of MQTT 5 "
                     "messages (mosquitto_property_read_string is not exported): content type, "
                     "response topic, correlation data, payload format and user properties do not "
                     "become headers; all else works");
    }
}

/* Say what an earlier process left. */
static void log_found(struct mm *mm)
{
    const struct mm_spool_found *found = mm_spool_found(mm->spool);
    if (mm->config->spool_dir == NULL) {
        return;
    }
    if (!found->has_counters && !found->state_lost) {
        mm_log_write(mm->log, MM_LOG_INFO, "spool_dir \"%s\" is new", mm->config->spool_dir);
        return;
    }
    mm_log_write(
        mm->log, MM_LOG_INFO,
        "spool_dir \"%s\": found %" PRIu64 " messages that are not delivered (%" PRIu64
        " bytes in %" PRIu64 " segments, the oldest from %" PRIu64 " s ago); the last run %s",
        mm->config->spool_dir, found->n_records, found->n_bytes, found->n_segments,
        age_s(found->oldest_ms),
        found->clean          ? "ended in order"
        : found->has_counters ? "did not end in order"
                              : "left no STATE: all messages in the segments are delivered "
                                "again");
}

static int open_dead(struct mm *mm, char *errstr, size_t errstr_len)
{
    const struct mm_config *config = mm->config;
    char dir[PATH_MAX];
    struct mm_dead_options dead = {
        .max_bytes = config->dead_letter_max_bytes,
        .log = mm->log,
        .sync = config->spool_sync,
        .writer = config->spool_writer,
        .min_free = config->spool_min_free,
    };
    if (config->spool_dir != NULL) {
        snprintf(dir, sizeof dir, "%s/dead", config->spool_dir);
        dead.dir = dir;
    }
    return mm_dead_open(&dead, &mm->dead, errstr, errstr_len);
}

static int new_sender(struct mm *mm, char *errstr, size_t errstr_len)
{
    struct mm_sender_options opts = {
        .config = mm->config,
        .spool = mm->spool,
        .budget = &mm->budget,
        .lanes = mm->lanes,
        .metrics = mm->metrics,
        .dead = mm->dead,
        .log = mm->log,
    };
    return mm_sender_new(&opts, &mm->sender, errstr, errstr_len);
}

static int new_live(struct mm *mm, size_t n_options, char *errstr, size_t errstr_len)
{
    struct mm_live_options opts = {
        .config = mm->first_config,
        .options = mm->options,
        .n_options = n_options,
        .getenv = read_environment,
        .sender = mm->sender,
        .spool = mm->spool,
        .metrics = mm->metrics,
        .log = mm->log,
    };
    int err = mm_live_new(&opts, &mm->live);
    if (err != 0) {
        snprintf(errstr, errstr_len, "%s", mm_strerror(err));
        return err;
    }
    mm->first_config = NULL;
    return 0;
}

static int new_metrics(struct mm *mm)
{
    const struct mm_config *config = mm->config;
    struct mm_metrics_info info = {
        .version = MM_VERSION,
        .librdkafka = mm_kafka_version(),
        .mosquitto = mm->broker_2_1 ? "2.1" : "2.0",
        .n_workers = config->kafka_workers,
        .sync_always = config->spool_sync == MM_SPOOL_SYNC_ALWAYS,
        .lanes = mm->lanes,
    };
    int err = mm_metrics_new(&info, &mm->metrics);
    if (err == 0) {
        mm->counters = mm_metrics_broker(mm->metrics);
    }
    return err;
}

static int open_spool(struct mm *mm, char *errstr, size_t errstr_len)
{
    const struct mm_config *config = mm->config;
    struct mm_spool_options opts = {
        .max_bytes = config->spool_max_bytes,
        .n_readers = config->kafka_workers,
        .drop_oldest = config->when_full == MM_WHEN_FULL_DROP_OLDEST,
        .dir = config->spool_dir,
        .min_free = config->spool_min_free,
        .sync = config->spool_sync,
        .sync_interval_ms = config->spool_sync_interval_ms,
        .writer = config->spool_writer,
        .budget = &mm->budget,
        .counters = mm_metrics_counters,
        .counters_arg = mm->metrics,
        .log = mm->log,
    };
    mm->budget.max_bytes = config->spool_max_bytes;
    return mm_spool_open(&opts, &mm->spool, errstr, errstr_len);
}

/* Make everything between the settings and the first message. */
static int start_all(struct mm *mm, size_t n_options, char *errstr, size_t errstr_len)
{
    snprintf(errstr, errstr_len, "%s", mm_strerror(MM_ENOMEM));
    int err = mm_log_new(mm->config->log_level, &mm->log);
    if (err == 0 && mm->config->stored != 0) {
        err = mm_plugin_props_init(&mm->props);
    }
    if (err == 0) {
        err = mm_lanes_new(&mm->lanes);
    }
    if (err == 0) {
        err = new_metrics(mm);
    }
    if (err == 0) {
        err = open_spool(mm, errstr, errstr_len);
    }
    if (err == 0) {
        log_unreadable(mm);
        log_found(mm);
        err = open_dead(mm, errstr, errstr_len);
    }
    if (err == 0) {
        err = new_sender(mm, errstr, errstr_len);
    }
    if (err == 0) {
        mm_metrics_restore(mm->metrics, mm->spool, mm_spool_found(mm->spool));
        err = start_http(mm, errstr, errstr_len);
    }
    if (err == 0) {
        err = new_live(mm, n_options, errstr, errstr_len);
    }
    if (err == 0) {
        err = mm_sender_start(mm->sender, errstr, errstr_len);
    }
    if (err == 0) {
        /* The last to start: from here on the settings, and the sending half, may change. */
        err = mm_live_start(mm->live, errstr, errstr_len);
    }
    return err;
}

/* Say what becomes of that which Kafka did not take. */
static void log_farewell(struct mm *mm)
{
    struct mm_snapshot shot;
    mm_metrics_snapshot(mm->metrics, mm->spool, &shot);
    bool lost = shot.in_spool > 0 && mm->config->spool_dir == NULL;
    mm_log_write(mm->log, lost ? MM_LOG_WARN : MM_LOG_INFO,
                 "stopped: %" PRIu64 " messages received, %" PRIu64 " delivered, %" PRIu64
                 " dead letters, %" PRIu64 " refused, %" PRIu64 " dropped; %" PRIu64
                 " are still in the spool in %s%s",
                 shot.received, shot.delivered, shot.dead_lettered, shot.refused, shot.dropped,
                 shot.in_spool, spool_place(mm),
                 lost                ? " and are lost"
                 : shot.in_spool > 0 ? " and are delivered after the next start"
                                     : "");
    struct mm_dead_stats dead;
    mm_dead_stats(mm->dead, &dead);
    if (dead.n_letters > 0 && mm->config->spool_dir == NULL) {
        mm_log_write(mm->log, MM_LOG_WARN,
                     "%" PRIu64 " dead letters in memory are lost with this process",
                     dead.n_letters);
    }
}

/* End the threads that change the settings and that send. False: one did not end in time. */
static bool stop_threads(struct mm *mm, uint32_t drain_ms)
{
    uint64_t end_ns = mm_clock_monotonic_ns() + STOP_MS * UINT64_C(1000000);
    if (!mm_live_stop(mm->live, STOP_LIVE_MS)) {
        return false;
    }
    uint32_t most_ms = mm_clock_left_ms(end_ns - STOP_END_MS * UINT64_C(1000000));
    mm_sender_stop(mm->sender, drain_ms < most_ms ? drain_ms : most_ms);
    bool joined = mm_sender_join(mm->sender, mm_clock_left_ms(end_ns));
    return mm_live_join(mm->live, mm_clock_left_ms(end_ns)) && joined;
}

/* Undo what start_all() did, as far as it came. drain_ms: 0 when nothing was ever received. */
static void stop_all(struct mm *mm, uint32_t drain_ms)
{
    bool joined = stop_threads(mm, drain_ms);
    mm_http_stop(mm->http);
    if (drain_ms > 0) {
        log_farewell(mm);
    }
    mm_log_drain(mm->log, print_line, NULL);
    if (!joined) {
        /* The code stays mapped (the module is linked nodelete), and so must what the thread uses.
         */
        print_line(NULL, MM_LOG_ERROR,
                   "a worker thread did not end in time; it is left behind until the process ends");
        mm_spool_checkpoint(mm->spool);
        left_behind = mm;
        return;
    }
    mm_sender_free(mm->sender);
    mm_spool_close(mm->spool);
    mm_dead_close(mm->dead);
    mm_metrics_free(mm->metrics);
    mm_lanes_free(mm->lanes);
    mm_plugin_props_fini(&mm->props);
    mm_log_free(mm->log);
    mm_live_free(mm->live);
    mm_config_free(mm->first_config);
    free(mm->options);
    free(mm);
    atomic_flag_clear(&loaded);
}

static void unregister_events(struct mm *mm, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        mosquitto_callback_unregister(mm->id, events[i].event, events[i].callback, NULL);
    }
}

static int register_events(struct mm *mm)
{
    for (size_t i = 0; i < N_EVENTS; i++) {
        int err =
            mosquitto_callback_register(mm->id, events[i].event, events[i].callback, NULL, mm);
        if (err != MOSQ_ERR_SUCCESS) {
            unregister_events(mm, i);
            return err;
        }
    }
    return MOSQ_ERR_SUCCESS;
}

/* --- the broker's entry points ------------------------------------------------------------------
 */

EXPORT int mosquitto_plugin_version(int supported_version_count, const int *supported_versions)
{
    for (int i = 0; i < supported_version_count; i++) {
        if (supported_versions[i] == MOSQ_PLUGIN_VERSION) {
            return MOSQ_PLUGIN_VERSION;
        }
    }
    return -1;
}

static void tell_fault(void *arg, const char *line)
{
    mm_log_write(arg, MM_LOG_WARN, "%s", line);
}

/* The librdkafka that runs may be older than what Kafka needs. */
static void tell_client_faults(struct mm *mm)
{
    mm_trouble_client_faults(mm_kafka_version_number(), mm_config_uses_scram(mm->config),
                             tell_fault, mm->log);
}

EXPORT int mosquitto_plugin_init(mosquitto_plugin_id_t *identifier,
                                 void **userdata,
                                 struct mosquitto_opt *options,
                                 int option_count)
{
    *userdata = NULL;
    if (atomic_flag_test_and_set(&loaded)) {
        return fail(
            "the plugin is loaded twice; one plugin line is enough, and two would carry "
            "every message twice");
    }
    struct mm *mm = calloc(1, sizeof *mm);
    if (mm == NULL) {
        atomic_flag_clear(&loaded);
        return fail(mm_strerror(MM_ENOMEM));
    }
    mm->id = identifier;
    mm->broker_2_1 = mosquitto_plugin_set_info != NULL;
    mm->props.broker_2_1 = mm->broker_2_1;
    if (mm->broker_2_1) {
        mosquitto_plugin_set_info(identifier, "metamorphosis", MM_VERSION);
    }
    int err = read_config(mm, options, option_count);
    if (err != 0) {
        stop_all(mm, 0);
        return fail(err == MM_EINVAL ? "not started: the options above are to be mended"
                                     : mm_strerror(err));
    }
    char text[1024];
    err = start_all(mm, (size_t)option_count, text, sizeof text);
    if (err == 0 && register_events(mm) != MOSQ_ERR_SUCCESS) {
        snprintf(text, sizeof text, "the broker did not accept the plugin's callbacks");
        err = MM_EINVAL;
    }
    if (err != 0) {
        stop_all(mm, 0);
        return fail(text);
    }
    tell_client_faults(mm);
    mm_config_describe(mm->config, text, sizeof text);
    mosquitto_log_printf(MOSQ_LOG_INFO, "metamorphosis: version %s, librdkafka %s: %s", MM_VERSION,
                         mm_kafka_version(), text);
    mm_log_drain(mm->log, print_line, NULL);
    *userdata = mm;
    return MOSQ_ERR_SUCCESS;
}

/* Mosquitto 2.1 also comes here after an init that failed: *userdata is NULL then. */
EXPORT int mosquitto_plugin_cleanup(void *userdata, struct mosquitto_opt *options, int option_count)
{
    (void)options;
    (void)option_count;
    struct mm *mm = userdata;
    if (mm == NULL) {
        return MOSQ_ERR_SUCCESS;
    }
    unregister_events(mm, N_EVENTS);
    mm->config = mm_live_settings(mm->live);
    bool away = mm->config->spool_dir != NULL && !mm_sender_reaches_kafka(mm->sender);
    stop_all(mm, away ? DRAIN_AWAY_MS : DRAIN_MS);
    return MOSQ_ERR_SUCCESS;
}
