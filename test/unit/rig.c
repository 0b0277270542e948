#include "rig.h"

#include "mm_dead_topic.h"
#include "mm_error.h"
#include "mm_kafka.h"
#include "mm_message.h"
#include "mm_route.h"
#include "mm_thread.h"
#include "mm_window.h"

#include <dlfcn.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* --- faults -------------------------------------------------------------------------------------
 */

struct faults faults;

/* The log that is not of a parked lane. Set while no other thread runs. */
static struct mm_spool *main_spool;

extern int __real_mm_spool_next(struct mm_spool_reader *rd,
                                uint32_t max_scan,
                                struct mm_record *out,
                                struct mm_spool_pos *pos);
extern int __real_mm_spool_read(struct mm_spool_reader *rd,
                                const struct mm_spool_pos *pos,
                                struct mm_record *out);
extern void __real_mm_spool_finish(struct mm_spool_reader *rd,
                                   const struct mm_spool_pos *pos,
                                   uint64_t n_finished,
                                   uint64_t n_repeat);
extern bool __real_mm_spool_take_repeat(struct mm_spool *s);
extern int __real_mm_spool_open(const struct mm_spool_options *opts,
                                struct mm_spool **out,
                                char *errstr,
                                size_t errstr_len);
extern int __real_mm_spool_append(struct mm_spool *s, const struct mm_record *r);
extern int __real_mm_spool_sync(struct mm_spool *s);
extern int __real_mm_dead_add(struct mm_dead *d, const struct mm_dead_letter *letter);
int __wrap_mm_spool_next(struct mm_spool_reader *rd,
                         uint32_t max_scan,
                         struct mm_record *out,
                         struct mm_spool_pos *pos);
int __wrap_mm_spool_read(struct mm_spool_reader *rd,
                         const struct mm_spool_pos *pos,
                         struct mm_record *out);
void __wrap_mm_spool_finish(struct mm_spool_reader *rd,
                            const struct mm_spool_pos *pos,
                            uint64_t n_finished,
                            uint64_t n_repeat);
bool __wrap_mm_spool_take_repeat(struct mm_spool *s);
int __wrap_mm_spool_open(const struct mm_spool_options *opts,
                         struct mm_spool **out,
                         char *errstr,
                         size_t errstr_len);
int __wrap_mm_spool_append(struct mm_spool *s, const struct mm_record *r);
int __wrap_mm_spool_sync(struct mm_spool *s);
int __wrap_mm_dead_add(struct mm_dead *d, const struct mm_dead_letter *letter);
extern rd_kafka_t *__real_rd_kafka_new(rd_kafka_type_t type,
                                       rd_kafka_conf_t *conf,
                                       char *errstr,
                                       size_t errstr_len);
rd_kafka_t *__wrap_rd_kafka_new(rd_kafka_type_t type,
                                rd_kafka_conf_t *conf,
                                char *errstr,
                                size_t errstr_len);

extern void __real_rd_kafka_destroy(rd_kafka_t *rk);
void __wrap_rd_kafka_destroy(rd_kafka_t *rk);
extern int __real_rd_kafka_poll(rd_kafka_t *rk, int timeout_ms);
int __wrap_rd_kafka_poll(rd_kafka_t *rk, int timeout_ms);
extern rd_kafka_resp_err_t __real_rd_kafka_flush(rd_kafka_t *rk, int timeout_ms);
rd_kafka_resp_err_t __wrap_rd_kafka_flush(rd_kafka_t *rk, int timeout_ms);
extern char *__real_mm_route_describe(const struct mm_config *config);
char *__wrap_mm_route_describe(const struct mm_config *config);
extern int __real_mm_lanes_reset(struct mm_lanes *lanes, const struct mm_config *config);
int __wrap_mm_lanes_reset(struct mm_lanes *lanes, const struct mm_config *config);
extern int __real_mm_thread_start(const char *name,
                                  void *(*run)(void *),
                                  void *arg,
                                  pthread_t *out);
int __wrap_mm_thread_start(const char *name, void *(*run)(void *), void *arg, pthread_t *out);
extern int __real_mm_window_init(struct mm_window *win, uint64_t len);
int __wrap_mm_window_init(struct mm_window *win, uint64_t len);
extern int __real_mm_message_new(struct mm_message **out);
int __wrap_mm_message_new(struct mm_message **out);
extern int __real_mm_dead_topic_new(const struct mm_dead_topic_options *opts,
                                    struct mm_dead_topic **out);
int __wrap_mm_dead_topic_new(const struct mm_dead_topic_options *opts, struct mm_dead_topic **out);
extern int __real_mm_message_make(struct mm_message *m,
                                  const struct mm_config *config,
                                  const struct mm_config_route *route,
                                  const struct mm_message_source *source,
                                  struct mm_kafka_message *out);
int __wrap_mm_message_make(struct mm_message *m,
                           const struct mm_config *config,
                           const struct mm_config_route *route,
                           const struct mm_message_source *source,
                           struct mm_kafka_message *out);

int __wrap_mm_spool_next(struct mm_spool_reader *rd,
                         uint32_t max_scan,
                         struct mm_record *out,
                         struct mm_spool_pos *pos)
{
    if (faults.read_eio) {
        faults.n_eio++;
        return MM_EIO;
    }
    return __real_mm_spool_next(rd, max_scan, out, pos);
}

int __wrap_mm_spool_read(struct mm_spool_reader *rd,
                         const struct mm_spool_pos *pos,
                         struct mm_record *out)
{
    if (faults.read_eio) {
        faults.n_eio++;
        return MM_EIO;
    }
    if (faults.bad_seq == pos->seq && pos->seq != 0 && main_spool != NULL &&
        rd == mm_spool_reader(main_spool, 0)) {
        faults.n_eio++;
        return faults.bad_err;
    }
    return __real_mm_spool_read(rd, pos, out);
}

void __wrap_mm_spool_finish(struct mm_spool_reader *rd,
                            const struct mm_spool_pos *pos,
                            uint64_t n_finished,
                            uint64_t n_repeat)
{
    if (main_spool != NULL && rd == mm_spool_reader(main_spool, 0)) {
        faults.n_finished = n_finished;
        faults.n_ahead = n_repeat;
    }
    __real_mm_spool_finish(rd, pos, n_finished, n_repeat);
}

bool __wrap_mm_spool_take_repeat(struct mm_spool *s)
{
    if (s != main_spool || faults.n_repeat == 0) {
        return __real_mm_spool_take_repeat(s);
    }
    faults.n_repeat--;
    return true;
}

int __wrap_mm_spool_open(const struct mm_spool_options *opts,
                         struct mm_spool **out,
                         char *errstr,
                         size_t errstr_len)
{
    int err = opts->manual ? faults.park_open_err : 0;
    if (err != 0) {
        faults.n_park_faults++;
        *out = NULL;
        snprintf(errstr, errstr_len, "fault");
        return err;
    }
    return __real_mm_spool_open(opts, out, errstr, errstr_len);
}

int __wrap_mm_spool_append(struct mm_spool *s, const struct mm_record *r)
{
    int err = s == main_spool ? 0 : faults.park_append_err;
    faults.n_park_faults += err != 0;
    return err != 0 ? err : __real_mm_spool_append(s, r);
}

int __wrap_mm_spool_sync(struct mm_spool *s)
{
    int err = s == main_spool ? 0 : faults.park_sync_err;
    faults.n_park_syncs += s != main_spool;
    faults.n_park_faults += err != 0;
    return err != 0 ? err : __real_mm_spool_sync(s);
}

rd_kafka_t *__wrap_rd_kafka_new(rd_kafka_type_t type,
                                rd_kafka_conf_t *conf,
                                char *errstr,
                                size_t errstr_len)
{
    if (faults.one_request &&
        rd_kafka_conf_set(conf, "max.in.flight", "1", errstr, errstr_len) != RD_KAFKA_CONF_OK) {
        return NULL;
    }
    if (faults.no_client && type == RD_KAFKA_PRODUCER) {
        faults.n_scarce++;
        snprintf(errstr, errstr_len, "no client");
        return NULL;
    }
    faults.n_clients++;
    return __real_rd_kafka_new(type, conf, errstr, errstr_len);
}

void __wrap_rd_kafka_destroy(rd_kafka_t *rk)
{
    char name[16] = "";
    pthread_getname_np(pthread_self(), name, sizeof name);
    const char *only = faults.hang_only;
    if (only == NULL || strcmp(name, only) == 0) {
        faults.n_hanging++;
        while (faults.hang_destroy) {
            sleep_ms(5);
        }
        faults.n_hanging--;
    }
    __real_rd_kafka_destroy(rk);
}

int __wrap_rd_kafka_poll(rd_kafka_t *rk, int timeout_ms)
{
    if (faults.mute) {
        sleep_ms(timeout_ms);
        return 0;
    }
    return __real_rd_kafka_poll(rk, timeout_ms);
}

rd_kafka_resp_err_t __wrap_rd_kafka_flush(rd_kafka_t *rk, int timeout_ms)
{
    if (faults.mute) {
        sleep_ms(timeout_ms);
        return RD_KAFKA_RESP_ERR__TIMED_OUT;
    }
    return __real_rd_kafka_flush(rk, timeout_ms);
}

/* Is it the turn of this call to fail? One thread makes them. */
static bool fails_now(_Atomic uint32_t *at)
{
    return *at > 0 && --*at == 0;
}

char *__wrap_mm_route_describe(const struct mm_config *config)
{
    return fails_now(&faults.describe_err_at) ? NULL : __real_mm_route_describe(config);
}

int __wrap_mm_lanes_reset(struct mm_lanes *lanes, const struct mm_config *config)
{
    return fails_now(&faults.reset_err_at) ? MM_ENOMEM : __real_mm_lanes_reset(lanes, config);
}

/* Is this the function that finds no memory? */
static bool lacks_memory(const char *function)
{
    const char *unlucky = faults.no_memory;
    if (unlucky == NULL || strcmp(function, unlucky) != 0) {
        return false;
    }
    faults.no_memory = NULL;
    return true;
}

int __wrap_mm_window_init(struct mm_window *win, uint64_t len)
{
    return lacks_memory("mm_window_init") ? MM_ENOMEM : __real_mm_window_init(win, len);
}

int __wrap_mm_message_new(struct mm_message **out)
{
    if (lacks_memory("mm_message_new")) {
        *out = NULL;
        return MM_ENOMEM;
    }
    return __real_mm_message_new(out);
}

int __wrap_mm_dead_topic_new(const struct mm_dead_topic_options *opts, struct mm_dead_topic **out)
{
    if (lacks_memory("mm_dead_topic_new")) {
        *out = NULL;
        return MM_ENOMEM;
    }
    return __real_mm_dead_topic_new(opts, out);
}

int __wrap_mm_message_make(struct mm_message *m,
                           const struct mm_config *config,
                           const struct mm_config_route *route,
                           const struct mm_message_source *source,
                           struct mm_kafka_message *out)
{
    if (faults.no_message) {
        faults.n_scarce++;
        return MM_ENOMEM;
    }
    return __real_mm_message_make(m, config, route, source, out);
}

int __wrap_mm_thread_start(const char *name, void *(*run)(void *), void *arg, pthread_t *out)
{
    const char *unwanted = faults.no_thread;
    if (unwanted != NULL && strcmp(name, unwanted) == 0) {
        faults.no_thread = NULL;
        return EAGAIN;
    }
    return __real_mm_thread_start(name, run, arg, out);
}

/* In the place of the C library's, for the Kafka client, too. */
__attribute__((visibility("default"))) int getaddrinfo(const char *name,
                                                       const char *service,
                                                       const struct addrinfo *hints,
                                                       struct addrinfo **out)
{
    typedef int (*getaddrinfo_fn)(const char *, const char *, const struct addrinfo *,
                                  struct addrinfo **);
    if (name != NULL && strcmp(name, RIG_HANGING_HOST) == 0) {
        faults.n_hanging++;
        while (faults.hang_resolver) {
            sleep_ms(5);
        }
        faults.n_hanging--;
        return EAI_NONAME;
    }
    void *found = dlsym(RTLD_NEXT, "getaddrinfo");
    getaddrinfo_fn real;
    memcpy(&real, &found, sizeof real);
    return real(name, service, hints, out);
}

int __wrap_mm_dead_add(struct mm_dead *d, const struct mm_dead_letter *letter)
{
    int err = faults.dead_err;
    if (err != 0) {
        faults.n_unburied++;
        return err;
    }
    return __real_mm_dead_add(d, letter);
}

/* --- the rig ------------------------------------------------------------------------------------
 */

void rig_option(struct rig *g, const char *name, const char *value)
{
    assert_true(g->n_options < MAX_OPTIONS);
    g->options[g->n_options++] = (struct mm_option){name, value};
}

struct rig *rig_new(int n_partitions)
{
    struct rig *g = calloc(1, sizeof *g);
    assert_non_null(g);
    memset(&faults, 0, sizeof faults);
    char errstr[256];
    g->host = rd_kafka_new(RD_KAFKA_PRODUCER, rd_kafka_conf_new(), errstr, sizeof errstr);
    assert_non_null(g->host);
    g->cluster = rd_kafka_mock_cluster_new(g->host, 1);
    assert_non_null(g->cluster);
    assert_int_equal(rd_kafka_mock_topic_create(g->cluster, "mqtt", n_partitions, 1), 0);
    snprintf(g->bootstrap, sizeof g->bootstrap, "%s", rd_kafka_mock_cluster_bootstraps(g->cluster));
    rig_option(g, "kafka_broker", g->bootstrap);
    rig_option(g, "log_level", "debug");
    rig_option(g, "kafka_retry_interval", "1");
    return g;
}

static void report(void *arg, const struct mm_finding *finding)
{
    (void)arg;
    if (finding->level >= MM_LOG_WARN) {
        print_message("%s\n", finding->text);
    }
}

void rig_topic(struct rig *g, const char *kafka_topic)
{
    assert_int_equal(rd_kafka_mock_topic_create(g->cluster, kafka_topic, 1, 1), 0);
}

void rig_refuse(struct rig *g, const char *kafka_topic, rd_kafka_resp_err_t err)
{
    rd_kafka_mock_topic_set_error(g->cluster, kafka_topic, err);
}

static void check(int err, const char *errstr)
{
    if (err != 0) {
        print_message("%s\n", errstr);
    }
    assert_int_equal(err, 0);
}

static void open_logs(struct rig *g)
{
    char errstr[512] = "";
    struct mm_spool_options spool = {
        .max_bytes = g->config->spool_max_bytes,
        .n_readers = g->config->kafka_workers,
        .drop_oldest = g->config->when_full == MM_WHEN_FULL_DROP_OLDEST,
        .budget = &g->budget,
        .log = g->log,
        .dir = g->config->spool_dir,
        .sync = g->config->spool_sync,
        .sync_interval_ms = g->config->spool_sync_interval_ms,
        .min_free = 0,
        .counters = mm_metrics_counters,
        .counters_arg = g->metrics,
    };
    g->budget = (struct mm_spool_budget){.max_bytes = spool.max_bytes};
    check(mm_spool_open(&spool, &g->spool, errstr, sizeof errstr), errstr);
    main_spool = g->spool;
    struct mm_dead_options dead = {.max_bytes = 1 << 20};
    assert_int_equal(mm_dead_open(&dead, &g->dead, errstr, sizeof errstr), 0);
    struct mm_sender_options sender = {
        .config = g->config,
        .spool = g->spool,
        .budget = &g->budget,
        .lanes = g->lanes,
        .metrics = g->metrics,
        .dead = g->dead,
        .log = g->log,
    };
    check(mm_sender_new(&sender, &g->sender, errstr, sizeof errstr), errstr);
    g->park = mm_sender_park(g->sender);
    mm_metrics_restore(g->metrics, g->spool, mm_spool_found(g->spool));
}

struct mm_config *rig_config(struct rig *g)
{
    struct mm_config *config;
    struct mm_config_source source = {
        .options = g->options, .n_options = g->n_options, .report = report};
    assert_int_equal(mm_config_new(&source, &config), 0);
    return config;
}

void rig_start(struct rig *g)
{
    g->config = rig_config(g);
    assert_int_equal(mm_lanes_new(&g->lanes), 0);
    struct mm_metrics_info info = {
        .version = "test",
        .librdkafka = mm_kafka_version(),
        .mosquitto = "none",
        .n_workers = g->config->kafka_workers,
        .lanes = g->lanes,
    };
    assert_int_equal(mm_log_new(g->config->log_level, &g->log), 0);
    assert_int_equal(mm_metrics_new(&info, &g->metrics), 0);
    open_logs(g);
    char errstr[512] = "";
    check(mm_sender_start(g->sender, errstr, sizeof errstr), errstr);
}

bool rig_settle(struct rig *g, uint32_t wait_ms, uint32_t timeout_ms)
{
    mm_sender_settle(g->sender, wait_ms);
    return mm_sender_await(g->sender, timeout_ms);
}

void rig_resume(struct rig *g)
{
    char errstr[512] = "";
    struct mm_config *before = g->config;
    g->config = rig_config(g);
    assert_true(mm_sender_await(g->sender, 60000));
    check(mm_sender_resume(g->sender, g->config, errstr, sizeof errstr), errstr);
    mm_config_free(before);
}

static void keep_line(void *arg, enum mm_log_level level, const char *line)
{
    struct rig *g = arg;
    if (level >= MM_LOG_INFO && g->n_lines < 200) {
        snprintf(g->lines[g->n_lines++], MM_LOG_LINE_LEN, "%s", line);
    }
}

size_t rig_count_lines(struct rig *g, const char *text)
{
    size_t n = 0;
    mm_log_drain(g->log, keep_line, g);
    for (size_t i = 0; i < g->n_lines; i++) {
        n += strstr(g->lines[i], text) != NULL;
    }
    return n;
}

bool rig_logged(struct rig *g, const char *text)
{
    return rig_count_lines(g, text) > 0;
}

struct mm_snapshot rig_figures(struct rig *g)
{
    struct mm_snapshot shot;
    mm_metrics_snapshot(g->metrics, g->spool, &shot);
    return shot;
}

int rig_publish(struct rig *g, const char *topic, const void *payload, size_t payload_len)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    struct mm_record r = {
        .time_ms = (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000,
        .flags = 1,
        .type = MM_RECORD_MESSAGE,
        .topic = topic,
        .topic_len = (uint16_t)strlen(topic),
        .payload = payload,
        .payload_len = (uint32_t)payload_len,
    };
    struct mm_metrics_broker *b = mm_metrics_broker(g->metrics);
    mm_counter_add(&b->received[1], 1);
    int err = mm_spool_append(g->spool, &r);
    if (err != 0) {
        mm_counter_add(&b->refused[MM_REFUSED_FULL], 1);
    } else {
        g->n_appended++;
    }
    return err;
}

void rig_publish_many(struct rig *g, uint32_t n, uint32_t n_topics)
{
    static uint32_t number;
    for (uint32_t i = 0; i < n; i++) {
        char topic[32];
        char payload[32];
        snprintf(topic, sizeof topic, "plant/%u", number % n_topics);
        snprintf(payload, sizeof payload, "%010u", number++);
        assert_int_equal(rig_publish(g, topic, payload, strlen(payload)), 0);
    }
}

bool rig_wait_empty(struct rig *g, uint64_t timeout_ms)
{
    uint64_t end = now_ms() + timeout_ms;
    while (now_ms() < end) {
        struct mm_snapshot shot = rig_figures(g);
        if (shot.in_spool == 0 && shot.ledger_difference == 0) {
            return true;
        }
        sleep_ms(5);
    }
    return false;
}

bool rig_wait_delivered(struct rig *g, uint64_t n, uint64_t timeout_ms)
{
    uint64_t end = now_ms() + timeout_ms;
    while (now_ms() < end) {
        struct mm_snapshot shot = rig_figures(g);
        if (shot.delivered == n && shot.ledger_difference == 0) {
            return true;
        }
        sleep_ms(5);
    }
    return false;
}

uint64_t rig_stop_workers(struct rig *g, uint32_t drain_ms)
{
    uint64_t start = now_ms();
    mm_sender_stop(g->sender, drain_ms);
    assert_true(mm_sender_join(g->sender, 20000));
    return now_ms() - start;
}

void rig_close(struct rig *g)
{
    (void)rig_logged(g, "");
    mm_sender_free(g->sender);
    mm_spool_close(g->spool);
    main_spool = NULL;
    assert_int_equal(g->budget.allocated, 0);
    mm_dead_close(g->dead);
    mm_metrics_free(g->metrics);
    mm_lanes_free(g->lanes);
    mm_log_free(g->log);
    mm_config_free(g->config);
    g->config = NULL;
}

void rig_free(struct rig *g)
{
    if (g->config != NULL) {
        rig_close(g);
    }
    rd_kafka_mock_cluster_destroy(g->cluster);
    rd_kafka_destroy(g->host);
    free(g);
}

void rig_end(struct rig *g)
{
    (void)rig_stop_workers(g, 5000);
    rig_free(g);
}

/* --- reading back -------------------------------------------------------------------------------
 */

static void copy_header(rd_kafka_headers_t *headers, const char *name, char *dst, size_t dst_len)
{
    const void *value;
    size_t len;
    if (rd_kafka_header_get_last(headers, name, &value, &len) == RD_KAFKA_RESP_ERR_NO_ERROR) {
        snprintf(dst, dst_len, "%.*s", (int)len, (const char *)value);
    }
}

static void remember(struct seen *seen, const rd_kafka_message_t *m)
{
    assert_true(seen->n < MAX_MESSAGES);
    struct seen_message *s = &seen->message[seen->n++];
    snprintf(s->key, sizeof s->key, "%.*s", (int)m->key_len, (const char *)m->key);
    snprintf(s->value, sizeof s->value, "%.*s", (int)m->len, (const char *)m->payload);
    s->time_ms = rd_kafka_message_timestamp(m, NULL);
    rd_kafka_headers_t *headers;
    if (rd_kafka_message_headers(m, &headers) == RD_KAFKA_RESP_ERR_NO_ERROR) {
        copy_header(headers, "mm-id", s->id, sizeof s->id);
        copy_header(headers, "mm-error", s->error, sizeof s->error);
        copy_header(headers, "mm-reason", s->reason, sizeof s->reason);
        copy_header(headers, "mm-kafka-topic", s->kafka_topic, sizeof s->kafka_topic);
    }
}

struct seen *consume(struct rig *g, const char *topic, int n_partitions)
{
    struct seen *seen = calloc(1, sizeof *seen);
    assert_non_null(seen);
    char errstr[256];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    rd_kafka_conf_set(conf, "bootstrap.servers", g->bootstrap, NULL, 0);
    rd_kafka_conf_set(conf, "group.id", "test", NULL, 0);
    rd_kafka_conf_set(conf, "enable.partition.eof", "true", NULL, 0);
    rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, errstr, sizeof errstr);
    assert_non_null(rk);
    for (int p = 0; p < n_partitions; p++) {
        rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
        rd_kafka_topic_partition_list_add(list, topic, p)->offset = RD_KAFKA_OFFSET_BEGINNING;
        assert_int_equal(rd_kafka_assign(rk, list), 0);
        rd_kafka_topic_partition_list_destroy(list);
        for (bool end = false; !end;) {
            rd_kafka_message_t *m = rd_kafka_consumer_poll(rk, 15000);
            assert_non_null(m);
            end = m->err == RD_KAFKA_RESP_ERR__PARTITION_EOF;
            if (m->err == RD_KAFKA_RESP_ERR_NO_ERROR) {
                remember(seen, m);
            }
            rd_kafka_message_destroy(m);
        }
    }
    rd_kafka_consumer_close(rk);
    rd_kafka_destroy(rk);
    return seen;
}

void check_order(const struct seen *seen)
{
    for (size_t i = 0; i < seen->n; i++) {
        for (size_t j = i + 1; j < seen->n; j++) {
            if (strcmp(seen->message[i].key, seen->message[j].key) == 0) {
                assert_true(strcmp(seen->message[i].id, "") != 0);
                unsigned long a = strtoul(strrchr(seen->message[i].id, '-') + 1, NULL, 10);
                unsigned long b = strtoul(strrchr(seen->message[j].id, '-') + 1, NULL, 10);
                if (a >= b) {
                    print_message("%s: %lu is followed by %lu\n", seen->message[i].key, a, b);
                }
                assert_true(a < b); /* also: none twice */
                break;
            }
        }
    }
}

void check_all_there(struct rig *g, int n_partitions)
{
    struct seen *seen = consume(g, "mqtt", n_partitions);
    struct mm_snapshot shot = rig_figures(g);
    assert_int_equal(seen->n, g->n_appended - shot.dead_lettered - shot.dropped);
    check_order(seen);
    free(seen);
}

void rig_publish_to(struct rig *g, const char *topic, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        char payload[32];
        snprintf(payload, sizeof payload, "%010u", i);
        assert_int_equal(rig_publish(g, topic, payload, strlen(payload)), 0);
    }
}

void check_topic(struct rig *g, const char *kafka_topic, size_t n, const char *keys)
{
    struct seen *seen = consume(g, kafka_topic, 1);
    assert_int_equal(seen->n, n);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(strncmp(seen->message[i].key, keys, strlen(keys)), 0);
    }
    check_order(seen);
    free(seen);
}
