/* The parts of the plugin, one at a time: settings, the log in memory and on disk, dead letters,
 * the look at a log and its repair, HTTP. */
#include "files.h"
#include "starve.h"
#include "starve_life.h"

#include "mm_config.h"
#include "mm_dead.h"
#include "mm_error.h"
#include "mm_http.h"
#include "mm_inspect.h"
#include "mm_lanes.h"
#include "mm_log.h"
#include "mm_metrics.h"
#include "mm_repair.h"
#include "mm_spool.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static void join(char dst[256], const char *name)
{
    CHECK(snprintf(dst, 256, "%s/%s", starve_dir, name) < 256);
}

static void write_text(const char *name, const char *text)
{
    char path[256];
    join(path, name);
    FILE *file = fopen(path, "we");
    CHECK(file != NULL && fputs(text, file) >= 0 && fclose(file) == 0);
}

/* --- settings -----------------------------------------------------------------------------------
 */

static void prepare_config(void)
{
    write_text("settings",
               "kafka_topic_allow t.*\n"
               "route a/# t.${topic} key=${clientid}${username} format=raw\n"
               "route b/# t.${clientid} key=none format=base64 headers=user:a*,user:*b,time\n"
               "rdkafka.linger.ms 7\n");
    write_text("ca", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    write_text("secret", "a secret\n");
}

struct told
{
    size_t n_errors;
};

static void count_told(void *arg, const struct mm_finding *finding)
{
    struct told *told = arg;
    told->n_errors += finding->level == MM_LOG_ERROR;
}

static const char *get_variable(void *arg, const char *name)
{
    (void)arg;
    return strcmp(name, "KAFKA_WORKERS") == 0 ? "3" : NULL;
}

/* Settings are whole, or are none. That memory was missing is not told as a mistake of theirs. */
static void live_config(void)
{
    char file[256];
    char ca[256];
    char secret[256];
    join(file, "settings");
    join(ca, "ca");
    join(secret, "secret");
    const struct mm_option options[] = {
        {"config_file", file},
        {"mqtt_topic", "a/#;b/+;$SYS/#"},
        {"kafka_broker", "one:1,two:2"},
        {"kafka_security_protocol", "sasl_ssl"},
        {"kafka_sasl_mechanism", "PLAIN"},
        {"kafka_sasl_username", "user"},
        {"kafka_sasl_password_file", secret},
        {"kafka_tls_ca_file", ca},
        {"mispelt", "value"},
    };
    struct told told = {0};
    struct mm_config_source source = {.options = options,
                                      .n_options = sizeof options / sizeof options[0] - 1,
                                      .getenv = get_variable,
                                      .report = count_told,
                                      .report_arg = &told};
    struct mm_config *config = NULL;
    int err = mm_config_new(&source, &config);
    CHECK((err == 0) == (config != NULL));
    CHECK(err == 0 || err == MM_ENOMEM || (err == MM_EINVAL && told.n_errors > 0));
    if (config != NULL) {
        char described[1024];
        mm_config_describe(config, described, sizeof described);
        CHECK(config->kafka_workers == 3 && config->n_routes == 2);
        struct mm_config *other = NULL;
        if (mm_config_new(&source, &other) == 0) {
            char differ[256];
            CHECK(mm_config_diff_fixed(config, other, differ, sizeof differ) == 0);
            (void)mm_config_keep_fixed(config, other);
        }
        mm_config_free(other);
    }
    mm_config_free(config);
    source.n_options++;
    CHECK(mm_config_new(&source, &config) != 0 && config == NULL);
}

/* --- the log ------------------------------------------------------------------------------------
 */

enum {
    N_BEFORE = 60, /* records that an earlier process left */
    N_RECORDS = 200,
    PAYLOAD = 900,
    SEGMENT_BYTES = 32 * 1024
};

/* By number: what the log has promised, and what has become of it. */
static struct
{
    bool acked[N_RECORDS];
    bool finished[N_RECORDS]; /* told to the log, which may know or not */
    bool seen[N_RECORDS];
} promise;

static char spool_dir[256];
static struct files_image left; /* what the life begins with */

static struct mm_spool_options spool_options(const char *dir, bool threads)
{
    return (struct mm_spool_options){
        .max_bytes = 1 << 19,
        .segment_bytes = SEGMENT_BYTES,
        .n_readers = 1,
        .manual = !threads,
        .dir = dir,
        .sync = MM_SPOOL_SYNC_INTERVAL,
        .sync_interval_ms = 1,
    };
}

static struct mm_record make_record(uint32_t n, uint8_t payload[PAYLOAD])
{
    memset(payload, (int)n, PAYLOAD);
    memcpy(payload, &n, sizeof n);
    return (struct mm_record){.time_ms = 1000 + n,
                              .flags = 1,
                              .type = MM_RECORD_MESSAGE,
                              .topic = "a/b",
                              .topic_len = 3,
                              .payload = payload,
                              .payload_len = PAYLOAD};
}

static uint32_t number_of(const struct mm_record *rec)
{
    uint32_t n = N_RECORDS;
    uint8_t payload[PAYLOAD];
    CHECK(rec->payload_len == PAYLOAD);
    memcpy(&n, rec->payload, sizeof n);
    CHECK(n < N_RECORDS);
    const struct mm_record expected = make_record(n, payload);
    CHECK(memcmp(rec->payload, expected.payload, PAYLOAD) == 0 && rec->topic_len == 3);
    return n;
}

static void append(struct mm_spool *s, uint32_t n)
{
    uint8_t payload[PAYLOAD];
    const struct mm_record rec = make_record(n, payload);
    promise.acked[n] = mm_spool_append(s, &rec) == 0;
}

/* What a process leaves that was killed: three segments, one of them not sealed. */
static void leave_spool(void)
{
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        struct mm_spool *s = NULL;
        char errstr[256];
        const struct mm_spool_options opts = spool_options(spool_dir, false);
        if (mm_spool_open(&opts, &s, errstr, sizeof errstr) != 0) {
            _exit(1);
        }
        for (uint32_t n = 0; n < N_BEFORE; n++) {
            append(s, n);
            mm_spool_tick(s);
        }
        mm_spool_checkpoint(s);
        _exit(promise.acked[N_BEFORE - 1] ? 0 : 1);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

static void prepare_promise(uint32_t n_before)
{
    memset(&promise, 0, sizeof promise);
    for (uint32_t n = 0; n < n_before; n++) {
        promise.acked[n] = true;
    }
}

static void prepare_spool(void)
{
    if (left.n == 0) {
        join(spool_dir, "spool");
        leave_spool();
        files_load(spool_dir, &left);
    }
    files_remove(spool_dir);
    files_store(&left, spool_dir);
    prepare_promise(N_BEFORE);
}

static void prepare_memory(void)
{
    prepare_promise(0);
}

/* Read some; finish them when that is wanted. */
static void read_some(struct mm_spool *s, uint32_t max, bool finish)
{
    static uint64_t n_finished;
    struct mm_spool_reader *reader = mm_spool_reader(s, 0);
    struct mm_spool_pos first;
    struct mm_spool_pos pos;
    struct mm_record rec;
    mm_spool_cursor(reader, &first);
    n_finished = first.offset == 0 ? 0 : n_finished;
    for (uint32_t i = 0; i < max; i++) {
        const int err = mm_spool_next(reader, 1000, &rec, &pos);
        if (err != 0) {
            CHECK(err == MM_EAGAIN || err == MM_EIO);
            break;
        }
        const uint32_t n = number_of(&rec);
        struct mm_record again;
        const int read_err = mm_spool_read(reader, &pos, &again);
        CHECK(read_err == MM_EIO || (read_err == 0 && number_of(&again) == n));
        promise.finished[n] = promise.finished[n] || finish;
    }
    if (finish) {
        mm_spool_finish(reader, NULL, 0, 0);
    }
}

static void live_with(const char *dir, bool threads)
{
    struct mm_spool *s = NULL;
    char errstr[512] = "";
    const struct mm_spool_options opts = spool_options(dir, threads);
    const int err = mm_spool_open(&opts, &s, errstr, sizeof errstr);
    CHECK((err == 0) == (s != NULL) && (err == 0 || errstr[0] != '\0'));
    if (err != 0) {
        return;
    }
    for (uint32_t n = N_BEFORE; n < N_RECORDS; n++) {
        append(s, n);
        if (n % 16 == 0 && !threads) {
            mm_spool_tick(s);
        }
        if (n % 50 == 0) {
            read_some(s, 40, n % 100 == 0);
            (void)mm_spool_sync(s);
        }
    }
    mm_spool_checkpoint(s);
    if (!threads) {
        mm_spool_tick(s);
    }
    mm_spool_close(s);
}

static void live_spool(void)
{
    live_with(spool_dir, false);
}

static void live_spool_threads(void)
{
    live_with(spool_dir, true);
}

static void live_memory(void)
{
    live_with(NULL, false);
}

/* All that was promised and not finished is there, in order; what a start could not look at is in
 * bad/, and counted. */
static void verify_spool(void)
{
    struct mm_spool *s = NULL;
    char errstr[512] = "";
    const struct mm_spool_options opts = spool_options(spool_dir, false);
    CHECK(mm_spool_open(&opts, &s, errstr, sizeof errstr) == 0);
    struct mm_spool_reader *reader = mm_spool_reader(s, 0);
    struct mm_record rec;
    struct mm_spool_pos pos;
    uint32_t last = 0;
    bool any = false;
    int err;
    while ((err = mm_spool_next(reader, 1000, &rec, &pos)) == 0) {
        const uint32_t n = number_of(&rec);
        CHECK(!any || n > last);
        any = true;
        last = n;
        promise.seen[n] = true;
    }
    CHECK(err == MM_EAGAIN);
    struct mm_spool_stats stats;
    mm_spool_stats(s, &stats);
    uint64_t n_missing = 0;
    for (uint32_t n = 0; n < N_RECORDS; n++) {
        n_missing += promise.acked[n] && !promise.finished[n] && !promise.seen[n];
    }
    CHECK(n_missing == 0 || stats.n_bad_files > 0);
    mm_spool_close(s);
}

/* --- dead letters -------------------------------------------------------------------------------
 */

static bool letter_added[4];
static char dead_dir[256];

static void prepare_dead(void)
{
    join(dead_dir, "dead");
    files_remove(dead_dir);
    memset(letter_added, 0, sizeof letter_added);
}

static struct mm_dead *open_dead(void)
{
    char errstr[512] = "";
    struct mm_dead *d = NULL;
    const struct mm_dead_options opts = {.max_bytes = 1 << 18, .dir = dead_dir};
    const int err = mm_dead_open(&opts, &d, errstr, sizeof errstr);
    CHECK((err == 0) == (d != NULL) && (err == 0 || errstr[0] != '\0'));
    return d;
}

static const char *letter_id(size_t i)
{
    static const char *const ids[] = {"a-1", "a-2", "a-3", "a-4"};
    return ids[i];
}

static bool has_letter(struct mm_dead *d, size_t i, int *err)
{
    void *payload = NULL;
    size_t len = 0;
    *err = mm_dead_payload(d, letter_id(i), &payload, &len);
    CHECK((*err == 0) == (payload != NULL) && (*err != 0 || len == 7));
    free(payload);
    return *err == 0;
}

static void live_dead(void)
{
    struct mm_dead *d = open_dead();
    if (d == NULL) {
        return;
    }
    for (size_t i = 0; i < 4; i++) {
        const struct mm_dead_letter letter = {.id = letter_id(i),
                                              .topic = "a/b",
                                              .topic_len = 3,
                                              .payload = "payload",
                                              .payload_len = 7,
                                              .kafka_topic = "mqtt",
                                              .error = "E",
                                              .reason = "r"};
        letter_added[i] = mm_dead_add(d, &letter) == 0;
    }
    char *text = NULL;
    size_t len = 0;
    const int err = mm_dead_list(d, &text, &len);
    CHECK((err == 0) == (text != NULL) && (err == 0 || err == MM_ENOMEM || err == MM_EIO));
    free(text);
    int read_err;
    CHECK(has_letter(d, 1, &read_err) || read_err != MM_EINVAL || !letter_added[1]);
    mm_dead_close(d);
}

static void verify_dead(void)
{
    struct mm_dead *d = open_dead();
    CHECK(d != NULL);
    for (size_t i = 0; i < 4; i++) {
        int err;
        CHECK(has_letter(d, i, &err) || !letter_added[i]);
    }
    mm_dead_close(d);
}

/* --- the look at a log, and its repair ----------------------------------------------------------
 */

static void damage(const char *name, off_t at)
{
    char path[256];
    CHECK(snprintf(path, sizeof path, "%s/%s", spool_dir, name) < (int)sizeof path);
    const int fd = open(path, O_WRONLY | O_CLOEXEC);
    CHECK(fd >= 0 && pwrite(fd, "xxxx", 4, at) == 4);
    close(fd);
}

/* A record, a copy of a header and a seal. */
static void prepare_damaged(void)
{
    prepare_spool();
    damage("0000000000000001.seg", 6000);
    damage("0000000000000001.seg", 20);
    damage("0000000000000002.seg", 1024 + 30);
}

const char *starve_left_spool(bool damaged)
{
    if (damaged) {
        prepare_damaged();
    } else {
        prepare_spool();
    }
    return spool_dir;
}

static void count_damage(void *arg, const struct mm_inspect_damage *d)
{
    size_t *n = arg;
    *n += d->text[0] != '\0';
}

static void live_inspect(void)
{
    struct mm_inspect *in = NULL;
    char errstr[512] = "";
    int err = mm_inspect_open(spool_dir, &in, errstr, sizeof errstr);
    CHECK((err == 0) == (in != NULL) && (err == 0 || errstr[0] != '\0'));
    if (err == 0) {
        size_t n_told = 0;
        const struct mm_inspect_verify_options opts = {.on_damage = count_damage, .arg = &n_told};
        struct mm_inspect_verdict verdict;
        err = mm_inspect_verify(in, &opts, &verdict);
        CHECK(err == MM_ENOMEM || (err == 0 && n_told > 0));
        uint64_t seq;
        uint64_t time_ms;
        (void)mm_inspect_oldest(in, &seq, &time_ms);
    }
    mm_inspect_close(in);
    char **paths = NULL;
    size_t n_paths = 0;
    err = mm_inspect_list_logs(spool_dir, &paths, &n_paths);
    CHECK(err == 0 || err == MM_ENOMEM || err == MM_EIO);
    free(paths);
}

static void live_repair(void)
{
    char errstr[512] = "";
    struct mm_repair_result result;
    const struct mm_repair_options opts = {.rewrite = true};
    const int err = mm_repair(spool_dir, &opts, &result, errstr, sizeof errstr);
    CHECK(err == 0 || errstr[0] != '\0');
}

/* The record that was damaged is gone; no other is, and no file either. */
static void verify_repair(void)
{
    struct mm_spool *s = NULL;
    char errstr[512] = "";
    const struct mm_spool_options opts = spool_options(spool_dir, false);
    CHECK(mm_spool_open(&opts, &s, errstr, sizeof errstr) == 0);
    struct mm_record rec;
    struct mm_spool_pos pos;
    uint32_t n_seen = 0;
    while (mm_spool_next(mm_spool_reader(s, 0), 1000, &rec, &pos) == 0) {
        (void)number_of(&rec);
        n_seen++;
    }
    CHECK(n_seen == N_BEFORE - 1);
    mm_spool_close(s);
}

/* --- HTTP ---------------------------------------------------------------------------------------
 */

static void get(uint16_t port, const char *path)
{
    char request[128];
    char answer[4096];
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(port)};
    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const int len = snprintf(request, sizeof request, "GET %s HTTP/1.0\r\n\r\n", path);
    starve_pause();
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const struct timeval patience = {.tv_usec = 200000}; /* nothing may be accepted any more */
    CHECK(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) == 0);
    CHECK(fd >= 0 && connect(fd, (struct sockaddr *)&in, sizeof in) == 0);
    if (send(fd, request, (size_t)len, MSG_NOSIGNAL) == len) {
        while (recv(fd, answer, sizeof answer, 0) > 0) {
        }
    }
    close(fd);
    starve_go_on();
}

struct house
{
    struct mm_lanes *lanes;
    struct mm_metrics *metrics;
    struct mm_spool *spool;
    struct mm_dead *dead;
    struct mm_log *log;
};

static bool open_house(struct house *h)
{
    char errstr[512];
    const struct mm_spool_options spool = {.max_bytes = 262144, .n_readers = 1, .manual = true};
    const struct mm_dead_options dead = {.max_bytes = 262144};
    struct mm_metrics_info info = {
        .version = "1", .librdkafka = "2", .mosquitto = "3", .n_workers = 1};
    if (mm_lanes_new(&h->lanes) != 0) {
        return false;
    }
    info.lanes = h->lanes;
    uint32_t lane;
    return mm_metrics_new(&info, &h->metrics) == 0 &&
           mm_lanes_get(h->lanes, "mqtt", 4, &lane) == 0 &&
           mm_metrics_park(h->metrics, lane) != NULL &&
           mm_spool_open(&spool, &h->spool, errstr, sizeof errstr) == 0 &&
           mm_dead_open(&dead, &h->dead, errstr, sizeof errstr) == 0 &&
           mm_log_new(MM_LOG_TRACE, &h->log) == 0;
}

static void close_house(struct house *h)
{
    mm_dead_close(h->dead);
    mm_spool_close(h->spool);
    mm_metrics_free(h->metrics);
    mm_lanes_free(h->lanes);
    mm_log_free(h->log);
}

static void live_http(void)
{
    static const char *const paths[] = {"/",     "/metrics", "/livez",    "/readyz",  "/healthz",
                                        "/dead", "/status",  "/dead/a-1", "/page.js", "/none"};
    struct house h = {0};
    char errstr[512] = "";
    if (open_house(&h)) {
        const struct mm_http_options opts = {.address = "127.0.0.1",
                                             .metrics = h.metrics,
                                             .spool = h.spool,
                                             .dead = h.dead,
                                             .log = h.log};
        struct mm_http *http = NULL;
        const int err = mm_http_start(&opts, &http, errstr, sizeof errstr);
        CHECK((err == 0) == (http != NULL) && (err == 0 || errstr[0] != '\0'));
        for (size_t i = 0; err == 0 && i < sizeof paths / sizeof paths[0]; i++) {
            get(mm_http_port(http), paths[i]);
        }
        mm_http_stop(http);
    }
    close_house(&h);
}

const struct starve_life starve_parts[] = {
    {"config", false, prepare_config, live_config, NULL},
    {"memory", false, prepare_memory, live_memory, NULL},
    {"disk", false, prepare_spool, live_spool, verify_spool},
    {"disk-threads", false, prepare_spool, live_spool_threads, verify_spool},
    {"dead", false, prepare_dead, live_dead, verify_dead},
    {"inspect", false, prepare_damaged, live_inspect, NULL},
    {"repair", false, prepare_damaged, live_repair, verify_repair},
    {"http", true, NULL, live_http, NULL},
    {NULL, false, NULL, NULL, NULL},
};
