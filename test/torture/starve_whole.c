/* The sending half in front of a mock of Kafka, with topics that are refused and parked, and ones
 * that a template makes; and a change of the settings while it sends. What was taken is delivered
 * in the end, whatever failed, and nothing becomes a dead letter for it. */
#include "files.h"
#include "starve.h"
#include "starve_life.h"

#include "mm_clock.h"
#include "mm_config.h"
#include "mm_dead.h"
#include "mm_kafka.h"
#include "mm_lanes.h"
#include "mm_live.h"
#include "mm_log.h"
#include "mm_metrics.h"
#include "mm_sender.h"
#include "mm_spool.h"

#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    N_MESSAGES = 30,
    FAULT_MS = 400, /* so long may things fail */
    MEND_MS = 30000 /* and so long it may take to be well again: several pauses of workers */
};

static rd_kafka_mock_cluster_t *cluster;
static char bootstrap[256];
static char spool_dir[256];
static char settings_file[256];

/* --- Kafka --------------------------------------------------------------------------------------
 */

/* Whose cluster it is lives until the process ends, with it. */
static rd_kafka_t *host;

static void free_cluster(void)
{
    rd_kafka_mock_cluster_destroy(cluster);
    rd_kafka_destroy(host);
}

static void make_cluster(void)
{
    static const char *const topics[] = {"mqtt", "refused", "t.c"};
    char errstr[256];
    host = rd_kafka_new(RD_KAFKA_PRODUCER, rd_kafka_conf_new(), errstr, sizeof errstr);
    CHECK(host != NULL);
    cluster = rd_kafka_mock_cluster_new(host, 1);
    CHECK(cluster != NULL && atexit(free_cluster) == 0);
    for (size_t i = 0; i < sizeof topics / sizeof topics[0]; i++) {
        CHECK(rd_kafka_mock_topic_create(cluster, topics[i], 1, 1) == 0);
    }
    snprintf(bootstrap, sizeof bootstrap, "%s", rd_kafka_mock_cluster_bootstraps(cluster));
}

static void refuse(bool on)
{
    rd_kafka_mock_topic_set_error(
        cluster, "refused",
        on ? RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED : RD_KAFKA_RESP_ERR_NO_ERROR);
}

/* --- what stands in the broker's process --------------------------------------------------------
 */

struct whole
{
    struct mm_option options[8];
    size_t n_options;
    struct mm_config *config; /* the live half's, when there is one */
    struct mm_lanes *lanes;
    struct mm_metrics *metrics;
    struct mm_log *log;
    struct mm_spool_budget budget;
    struct mm_spool *spool;
    struct mm_dead *dead;
    struct mm_sender *sender;
    struct mm_live *live;
    uint64_t n_taken;
};

static void add_option(struct whole *w, const char *name, const char *value)
{
    w->options[w->n_options++] = (struct mm_option){name, value};
}

static void write_settings(const char *more)
{
    FILE *file = fopen(settings_file, "we");
    CHECK(file != NULL && fprintf(file, "kafka_broker %s\n%s", bootstrap, more) > 0);
    CHECK(fclose(file) == 0);
}

static void prepare(void)
{
    if (cluster == NULL) {
        make_cluster();
        CHECK(snprintf(spool_dir, sizeof spool_dir, "%s/whole", starve_dir) < 256);
        CHECK(snprintf(settings_file, sizeof settings_file, "%s/live", starve_dir) < 256);
    }
    files_remove(spool_dir);
    refuse(true);
}

static bool make_parts(struct whole *w)
{
    char errstr[512] = "";
    const struct mm_config_source source = {.options = w->options, .n_options = w->n_options};
    if (mm_config_new(&source, &w->config) != 0 || mm_lanes_new(&w->lanes) != 0 ||
        mm_log_new(w->config->log_level, &w->log) != 0) {
        return false;
    }
    const struct mm_metrics_info info = {.version = "test",
                                         .librdkafka = mm_kafka_version(),
                                         .mosquitto = "none",
                                         .n_workers = w->config->kafka_workers,
                                         .lanes = w->lanes};
    if (mm_metrics_new(&info, &w->metrics) != 0) {
        return false;
    }
    const struct mm_spool_options spool = {.max_bytes = w->config->spool_max_bytes,
                                           .n_readers = w->config->kafka_workers,
                                           .budget = &w->budget,
                                           .log = w->log,
                                           .dir = w->config->spool_dir,
                                           .counters = mm_metrics_counters,
                                           .counters_arg = w->metrics};
    const struct mm_dead_options dead = {.max_bytes = 1 << 20};
    w->budget.max_bytes = spool.max_bytes;
    if (mm_spool_open(&spool, &w->spool, errstr, sizeof errstr) != 0 ||
        mm_dead_open(&dead, &w->dead, errstr, sizeof errstr) != 0) {
        CHECK(errstr[0] != '\0');
        return false;
    }
    return true;
}

static bool make_sender(struct whole *w)
{
    char errstr[512] = "";
    const struct mm_sender_options opts = {.config = w->config,
                                           .spool = w->spool,
                                           .budget = &w->budget,
                                           .lanes = w->lanes,
                                           .metrics = w->metrics,
                                           .dead = w->dead,
                                           .log = w->log};
    if (mm_sender_new(&opts, &w->sender, errstr, sizeof errstr) != 0) {
        CHECK(w->sender == NULL && errstr[0] != '\0');
        return false;
    }
    mm_metrics_restore(w->metrics, w->spool, mm_spool_found(w->spool));
    if (mm_sender_start(w->sender, errstr, sizeof errstr) != 0) {
        CHECK(errstr[0] != '\0');
        return false;
    }
    return true;
}

static bool make_live(struct whole *w)
{
    char errstr[512] = "";
    const struct mm_live_options opts = {.config = w->config,
                                         .options = w->options,
                                         .n_options = w->n_options,
                                         .sender = w->sender,
                                         .spool = w->spool,
                                         .metrics = w->metrics,
                                         .log = w->log};
    if (mm_live_new(&opts, &w->live) != 0) {
        CHECK(w->live == NULL);
        return false;
    }
    w->config = NULL;
    if (mm_live_start(w->live, errstr, sizeof errstr) != 0) {
        CHECK(errstr[0] != '\0');
        return false;
    }
    return true;
}

static void print_nothing(void *arg, enum mm_log_level level, const char *line)
{
    (void)arg, (void)level;
    CHECK(line[0] != '\0');
}

static void close_all(struct whole *w)
{
    CHECK(mm_live_stop(w->live, 20000));
    mm_sender_stop(w->sender, 0);
    CHECK(mm_sender_join(w->sender, 20000));
    CHECK(mm_live_join(w->live, 20000));
    mm_live_free(w->live);
    mm_sender_free(w->sender);
    mm_spool_close(w->spool);
    CHECK(w->budget.allocated == 0);
    mm_dead_close(w->dead);
    mm_metrics_free(w->metrics);
    mm_lanes_free(w->lanes);
    if (w->log != NULL) {
        mm_log_drain(w->log, print_nothing, NULL);
    }
    mm_log_free(w->log);
    mm_config_free(w->config);
}

/* --- life ---------------------------------------------------------------------------------------
 */

static void publish(struct whole *w, const char *topic)
{
    const struct mm_record rec = {.time_ms = mm_clock_realtime_ms(),
                                  .flags = 1,
                                  .type = MM_RECORD_MESSAGE,
                                  .topic = topic,
                                  .topic_len = (uint16_t)strlen(topic),
                                  .payload = "payload",
                                  .payload_len = 7};
    struct mm_metrics_broker *b = mm_metrics_broker(w->metrics);
    mm_counter_add(&b->received[1], 1);
    if (mm_spool_append(w->spool, &rec) == 0) {
        w->n_taken++;
    } else {
        mm_counter_add(&b->refused[MM_REFUSED_FULL], 1);
    }
}

static void sleep_ms(long ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

/* As the broker's thread does, until so much is delivered; empty: and until nothing is in the log
 * any more, which is known a moment later. */
static bool wait_delivered(struct whole *w, uint64_t n, bool empty, long ms)
{
    for (long i = 0; i < ms; i += 2) {
        struct mm_snapshot shot;
        mm_metrics_snapshot(w->metrics, w->spool, &shot);
        CHECK(shot.dead_lettered == 0);
        if (shot.delivered == n && (!empty || (shot.in_spool == 0 && shot.parked == 0))) {
            return true;
        }
        if (w->live != NULL) {
            (void)mm_live_settings(w->live);
        }
        sleep_ms(2);
    }
    return false;
}

static void publish_all(struct whole *w)
{
    static const char *const topics[] = {"a/x", "b/x", "c/x"};
    for (size_t i = 0; i < N_MESSAGES; i++) {
        publish(w, topics[i % 3]);
    }
}

/* No fault any more, and the topic is granted: all must come through. */
static void mend(struct whole *w)
{
    (void)starve_disarm();
    refuse(false);
    CHECK(wait_delivered(w, w->n_taken, true, MEND_MS));
}

static void live_sender(void)
{
    struct whole w = {0};
    add_option(&w, "kafka_broker", bootstrap);
    add_option(&w, "kafka_retry_interval", "1");
    add_option(&w, "kafka_workers", "2");
    add_option(&w, "spool_dir", spool_dir);
    add_option(&w, "spool_max_bytes", "16M");
    add_option(&w, "kafka_topic_allow", "t.*");
    add_option(&w, "route", "b/# refused");
    add_option(&w, "route", "c/# t.${topic[0]}");
    if (make_parts(&w) && make_sender(&w)) {
        publish_all(&w);
        (void)wait_delivered(&w, (uint64_t)2 * N_MESSAGES / 3, false, FAULT_MS);
        sleep_ms(50); /* what was refused is parked */
        mend(&w);
    }
    close_all(&w);
}

static void prepare_live(void)
{
    prepare();
    refuse(false);
    write_settings("");
}

static uint64_t n_changes(const struct whole *w)
{
    struct mm_metrics_live *m = mm_metrics_live(w->metrics);
    return mm_counter_get(&m->reloads[MM_RELOAD_APPLIED]) +
           mm_counter_get(&m->reloads[MM_RELOAD_FAILED]);
}

static void live_change(void)
{
    struct whole w = {0};
    add_option(&w, "config_file", settings_file);
    add_option(&w, "kafka_retry_interval", "1");
    add_option(&w, "spool_dir", spool_dir);
    add_option(&w, "spool_max_bytes", "16M");
    if (make_parts(&w) && make_sender(&w) && make_live(&w)) {
        publish_all(&w);
        starve_pause();
        write_settings("route b/# refused\nkafka_key none\n");
        starve_go_on();
        mm_live_reload(w.live);
        for (int i = 0; i < FAULT_MS && n_changes(&w) == 0; i += 2) {
            (void)mm_live_settings(w.live);
            sleep_ms(2);
        }
        publish_all(&w);
        mend(&w);
    }
    close_all(&w);
}

const struct starve_life starve_whole[] = {
    {"sender", true, prepare, live_sender, NULL},
    {"live", true, prepare_live, live_change, NULL},
    {NULL, false, NULL, NULL, NULL},
};
