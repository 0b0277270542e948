#include "mm_dead.h"
#include "mm_error.h"
#include "mm_http.h"
#include "mm_log.h"
#include "mm_metrics.h"
#include "mm_spool.h"
#include "pause.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define LETTER_ID "01234567-89ab-4cde-8f01-23456789abcd"
#define SPOOL_BYTES 262144

/* What the server should take in all: its connections, and a few descriptors more. */
#define MAX_SERVER_FDS 140

/* --- a server and a client ----------------------------------------------------------------------
 */

struct server
{
    struct mm_metrics *metrics;
    struct mm_spool *spool;
    struct mm_dead *dead;
    struct mm_log *log;
    struct mm_lanes *lanes;
    struct mm_http *http;
};

static struct server start_on(const char *address)
{
    struct server s = {0};
    assert_int_equal(mm_lanes_new(&s.lanes), 0);
    struct mm_metrics_info info = {
        .version = "1", .librdkafka = "2", .mosquitto = "3", .n_workers = 2, .lanes = s.lanes};
    struct mm_spool_options spool = {.max_bytes = SPOOL_BYTES, .n_readers = 2};
    char errstr[256] = "";
    assert_int_equal(mm_metrics_new(&info, &s.metrics), 0);
    uint32_t lane;
    assert_int_equal(mm_lanes_get(s.lanes, "mqtt", 4, &lane), 0);
    assert_non_null(mm_metrics_park(s.metrics, lane));
    assert_int_equal(mm_spool_open(&spool, &s.spool, errstr, sizeof errstr), 0);
    struct mm_dead_options dead = {.max_bytes = (uint64_t)100 * 1024 * 1024};
    assert_int_equal(mm_dead_open(&dead, &s.dead, errstr, sizeof errstr), 0);
    assert_int_equal(mm_log_new(MM_LOG_TRACE, &s.log), 0);
    struct mm_http_options opts = {
        .address = address, .metrics = s.metrics, .spool = s.spool, .dead = s.dead, .log = s.log};
    if (mm_http_start(&opts, &s.http, errstr, sizeof errstr) != 0) {
        fail_msg("%s", errstr);
    }
    return s;
}

static struct server start(void)
{
    return start_on("127.0.0.1");
}

static void free_all_but_http(struct server *s)
{
    mm_dead_close(s->dead);
    mm_spool_close(s->spool);
    mm_metrics_free(s->metrics);
    mm_lanes_free(s->lanes);
    mm_log_free(s->log);
}

static void stop(struct server *s)
{
    mm_http_stop(s->http);
    free_all_but_http(s);
}

static void reach_kafka(struct server *s, uint64_t up)
{
    for (uint32_t k = 0; k < 2; k++) {
        mm_gauge_set(&mm_metrics_worker(s->metrics, k)->kafka_up, up);
        mm_gauge_set(&mm_metrics_worker(s->metrics, k)->kafka_was_up, 1);
    }
}

static int connect_to(const char *address, uint16_t port)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(port)};
    assert_int_equal(inet_pton(AF_INET, address, &in.sin_addr), 1);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&in, sizeof in), 0);
    return fd;
}

static int connect_server(const struct server *s)
{
    return connect_to("127.0.0.1", mm_http_port(s->http));
}

/* Send what the server takes; it may close before it has read all. */
static void send_all(int fd, const void *data, size_t len)
{
    const char *p = data;
    while (len > 0) {
        ssize_t n = send(fd, p, len, MSG_NOSIGNAL);
        if (n < 0) {
            return;
        }
        p += n;
        len -= (size_t)n;
    }
}

struct reply
{
    int status; /* 0: the server said nothing */
    char *text; /* all of it, NUL-terminated */
    char *body; /* in text; NULL without one */
    size_t body_len;
};

/* Everything up to the end of the connection, or the 20 s are over. */
static struct reply read_reply(int fd)
{
    struct timeval limit = {.tv_sec = 20};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    struct reply r = {0};
    size_t len = 0;
    size_t size = 65536;
    r.text = malloc(size);
    assert_non_null(r.text);
    for (;;) {
        ssize_t n = recv(fd, r.text + len, size - len - 1, 0);
        if (n <= 0) {
            if (n < 0 && errno == EAGAIN) {
                fail_msg("the server neither answers nor closes");
            }
            break;
        }
        len += (size_t)n;
        if (size - len < 2) {
            size *= 2;
            char *grown = realloc(r.text, size);
            assert_non_null(grown);
            r.text = grown;
        }
    }
    r.text[len] = '\0';
    if (len > 0) {
        static const char version[] = "HTTP/1.1 ";
        assert_true(len > sizeof version);
        assert_memory_equal(r.text, version, strlen("HTTP/1."));
        r.status = (int)strtol(r.text + strlen(version), NULL, 10);
    }
    char *end = strstr(r.text, "\r\n\r\n");
    if (end != NULL) {
        end[2] = '\0';
        r.body = end + 4;
        r.body_len = len - (size_t)(r.body - r.text);
    }
    return r;
}

static struct reply ask_raw(const struct server *s, const void *data, size_t len)
{
    int fd = connect_server(s);
    send_all(fd, data, len);
    struct reply r = read_reply(fd);
    close(fd);
    return r;
}

static struct reply ask(const struct server *s, const char *method, const char *path)
{
    char text[1024];
    int len = snprintf(text, sizeof text, "%s %s HTTP/1.1\r\nHost: x\r\n\r\n", method, path);
    assert_in_range(len, 1, sizeof text - 1);
    return ask_raw(s, text, (size_t)len);
}

static bool has_header(const struct reply *r, const char *line)
{
    char text[256];
    snprintf(text, sizeof text, "\r\n%s\r\n", line);
    return strcasestr(r->text, text) != NULL;
}

static void check(const struct server *s,
                  const char *method,
                  const char *path,
                  int status,
                  const char *type,
                  const char *body)
{
    struct reply r = ask(s, method, path);
    char line[128];
    if (r.status != status) {
        fail_msg("%s %s: %d instead of %d", method, path, r.status, status);
    }
    assert_non_null(r.body);
    snprintf(line, sizeof line, "Content-Type: %s", type);
    assert_true(has_header(&r, line));
    assert_true(has_header(&r, "Cache-Control: no-store"));
    assert_true(has_header(&r, "X-Content-Type-Options: nosniff"));
    assert_true(has_header(&r, "Connection: close"));
    assert_int_equal(has_header(&r, "Allow: GET, HEAD"), status == 405);
    if (body != NULL) {
        assert_string_equal(r.body, strcmp(method, "HEAD") == 0 ? "" : body);
        snprintf(line, sizeof line, "Content-Length: %zu", strlen(body));
        assert_true(has_header(&r, line));
    }
    free(r.text);
}

#define PLAIN "text/plain; charset=utf-8"
#define METRICS "text/plain; version=0.0.4; charset=utf-8"

static void fill_spool(struct server *s)
{
    static const char payload[1000];
    struct mm_record r = {.flags = 1,
                          .type = MM_RECORD_MESSAGE,
                          .topic = "t",
                          .topic_len = 1,
                          .payload = payload,
                          .payload_len = sizeof payload};
    /* A segment that is being prepared just now is no room yet. */
    for (int n_failed = 0; n_failed < 5; n_failed++) {
        while (mm_spool_append(s->spool, &r) == 0) {
            n_failed = 0;
        }
        sleep_ms(20);
    }
}

/* --- answers ------------------------------------------------------------------------------------
 */

static void test_pages_of_health(void **state)
{
    (void)state;
    struct server s = start();
    check(&s, "GET", "/livez", 200, PLAIN, "ok\n");
    check(&s, "GET", "/readyz", 200, PLAIN, "ok\n");
    check(&s, "GET", "/healthz", 423, PLAIN, "not ready");
    reach_kafka(&s, 1);
    check(&s, "GET", "/healthz", 200, PLAIN, "ok");
    reach_kafka(&s, 0);
    check(&s, "GET", "/healthz", 423, PLAIN, "not ready");
    check(&s, "GET", "/readyz", 200, PLAIN, "ok\n");
    reach_kafka(&s, 1);
    mm_metrics_park_set(s.metrics, 0, 1, 0, 100);
    check(&s, "GET", "/healthz", 423, PLAIN, "not ready");
    check(&s, "GET", "/readyz", 200, PLAIN, "ok\n");
    mm_metrics_park_set(s.metrics, 0, 0, 0, 0);
    check(&s, "GET", "/healthz", 200, PLAIN, "ok");
    mm_gauge_set(&mm_metrics_worker(s.metrics, 1)->heartbeat_ns, 1);
    if (now_ms() > 31000) {
        check(&s, "GET", "/livez", 503, PLAIN, "not live: a worker thread does not move\n");
        check(&s, "GET", "/healthz", 423, PLAIN, "not ready");
        check(&s, "GET", "/readyz", 200, PLAIN, "ok\n");
    }
    mm_gauge_set(&mm_metrics_worker(s.metrics, 1)->heartbeat_ns, 0);
    fill_spool(&s);
    check(&s, "GET", "/livez", 200, PLAIN, "ok\n");
    check(&s, "GET", "/readyz", 503, PLAIN, "not ready: the spool is full\n");
    check(&s, "GET", "/healthz", 423, PLAIN, "not ready");
    stop(&s);
}

static void test_metrics_page(void **state)
{
    (void)state;
    struct server s = start();
    mm_counter_add(&mm_metrics_broker(s.metrics)->received[1], 7);
    char *expected = NULL;
    size_t len = 0;
    assert_int_equal(mm_metrics_text(s.metrics, s.spool, &expected, &len), 0);
    check(&s, "GET", "/metrics", 200, METRICS, expected);
    check(&s, "HEAD", "/metrics", 200, METRICS, expected);
    free(expected);
    stop(&s);
}

static void test_methods(void **state)
{
    (void)state;
    struct server s = start();
    reach_kafka(&s, 1);
    static const char *const methods[] = {"POST",  "PUT",   "DELETE",  "OPTIONS",
                                          "PATCH", "TRACE", "CONNECT", "BREW"};
    static const char *const paths[] = {"/metrics", "/livez",  "/readyz", "/dead",
                                        "/dead/x",  "/status", "/",       "/page.js"};
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++) {
        for (size_t j = 0; j < sizeof paths / sizeof paths[0]; j++) {
            check(&s, methods[i], paths[j], 405, PLAIN, "405 method not allowed\n");
        }
        /* An answer to CONNECT has no Content-Length. */
        bool is_connect = strcmp(methods[i], "CONNECT") == 0;
        check(&s, methods[i], "/healthz", 200, PLAIN, is_connect ? NULL : "ok");
        check(&s, methods[i], "/nothing", 404, PLAIN, "404 page not found\n");
    }
    check(&s, "HEAD", "/healthz", 200, PLAIN, "ok");
    check(&s, "HEAD", "/livez", 200, PLAIN, "ok\n");
    check(&s, "HEAD", "/readyz", 200, PLAIN, "ok\n");
    check(&s, "HEAD", "/nothing", 404, PLAIN, "404 page not found\n");
    check(&s, "HEAD", "/dead", 200, "application/json", NULL);
    stop(&s);
}

static void test_paths(void **state)
{
    (void)state;
    struct server s = start();
    static const char *const unknown[] = {
        "/page",    "/x",     "/healthz/", "/metrics/",   "//metrics", "/METRICS", "/livezz",
        "/livez/x", "/dead/", "/deadx",    "/../livez",   "metrics",   "*",        "http://x/livez",
        "/status/", "/page.", "/page.js/", "/index.html", "//",        "/%00",     "/livez%00",
        "/%00/x",   "/%2500",
    };
    for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++) {
        check(&s, "GET", unknown[i], 404, PLAIN, "404 page not found\n");
    }
    check(&s, "GET", "/livez?", 200, PLAIN, "ok\n");
    check(&s, "GET", "/livez?x=1&y=%41&&=", 200, PLAIN, "ok\n");
    check(&s, "GET", "/%6Civez?x=%00", 200, PLAIN, "ok\n");
    check(&s, "GET", "/metrics?x=1", 200, METRICS, NULL);
    stop(&s);
}

/* The files of the page come with a policy that lets in nothing else; what is not for a browser to
 * show has none. */
static void test_page(void **state)
{
    (void)state;
    struct server s = start();
    static const struct
    {
        const char *path;
        const char *type;
        const char *part;
    } files[] = {
        {"/", "text/html; charset=utf-8", "<script src=\"page.js\" defer></script>"},
        {"/page.css", "text/css; charset=utf-8", "prefers-color-scheme: dark"},
        {"/page.js", "text/javascript; charset=utf-8", "\"use strict\";"},
        {"/page.svg", "image/svg+xml", "</svg>"},
    };
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        check(&s, "GET", files[i].path, 200, files[i].type, NULL);
        check(&s, "HEAD", files[i].path, 200, files[i].type, NULL);
        struct reply r = ask(&s, "GET", files[i].path);
        assert_non_null(strstr(r.body, files[i].part));
        assert_true(has_header(&r, "Referrer-Policy: no-referrer"));
        assert_true(has_header(
            &r,
            "Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; "
            "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'"));
        free(r.text);
    }
    struct reply r = ask(&s, "GET", "/livez");
    assert_true(strcasestr(r.text, "Content-Security-Policy") == NULL);
    free(r.text);
    stop(&s);
}

/* Somebody looks once a second, also while nobody asks: what has been is told. */
static void test_status(void **state)
{
    (void)state;
    struct server s = start();
    reach_kafka(&s, 1);
    check(&s, "GET", "/status", 200, "application/json", NULL);
    check(&s, "HEAD", "/status", 200, "application/json", NULL);
    mm_gauge_set(&mm_metrics_worker(s.metrics, 0)->state, MM_WORKER_PARKED);
    sleep_ms(1500);
    mm_gauge_set(&mm_metrics_worker(s.metrics, 0)->state, MM_WORKER_RUNNING);
    sleep_ms(1500);
    struct reply r = ask(&s, "GET", "/status");
    assert_non_null(strstr(r.body, "\"title\":\"All is well\""));
    assert_non_null(strstr(r.body, "\"title\":\"Kafka refused a topic\""));
    free(r.text);
    stop(&s);
}

static void test_dead_letters(void **state)
{
    (void)state;
    struct server s = start();
    check(&s, "GET", "/dead", 200, "application/json", "[\n]\n");
    char *payload = malloc(1000000);
    assert_non_null(payload);
    for (size_t i = 0; i < 1000000; i++) {
        payload[i] = (char)(i * 7);
    }
    struct mm_dead_letter letter = {.id = LETTER_ID "-42",
                                    .topic = "a",
                                    .topic_len = 1,
                                    .payload = payload,
                                    .payload_len = 1000000,
                                    .kafka_topic = "k",
                                    .error = "E",
                                    .reason = "r"};
    assert_int_equal(mm_dead_add(s.dead, &letter), 0);
    char path[128];
    snprintf(path, sizeof path, "/dead/" LETTER_ID "-42");
    struct reply r = ask(&s, "GET", path);
    assert_int_equal(r.status, 200);
    assert_true(has_header(&r, "Content-Type: application/octet-stream"));
    assert_int_equal(r.body_len, 1000000);
    assert_memory_equal(r.body, payload, 1000000);
    free(r.text);
    r = ask(&s, "GET", "/dead");
    assert_non_null(strstr(r.body, path + strlen("/dead/")));
    free(r.text);
    check(&s, "GET", "/dead/x", 404, PLAIN, "no such dead letter, or its payload was not kept\n");
    check(&s, "GET", "/dead/" LETTER_ID "-42%00", 404, PLAIN,
          "no such dead letter, or its payload was not kept\n");
    letter = (struct mm_dead_letter){
        .id = LETTER_ID "-43", .topic = "", .kafka_topic = "", .error = "", .reason = ""};
    assert_int_equal(mm_dead_add(s.dead, &letter), 0);
    snprintf(path, sizeof path, "/dead/" LETTER_ID "-43");
    check(&s, "GET", path, 200, "application/octet-stream", "");
    free(payload);
    stop(&s);
}

/* An IPv4 address of this machine that is no loopback address. */
static bool find_other_address(char *text, size_t len)
{
    struct ifaddrs *all = NULL;
    bool found = false;
    assert_int_equal(getifaddrs(&all), 0);
    for (struct ifaddrs *i = all; i != NULL && !found; i = i->ifa_next) {
        if (i->ifa_addr != NULL && i->ifa_addr->sa_family == AF_INET) {
            struct sockaddr_in in;
            memcpy(&in, i->ifa_addr, sizeof in);
            found = ntohl(in.sin_addr.s_addr) >> 24 != 127 &&
                    inet_ntop(AF_INET, &in.sin_addr, text, (socklen_t)len) != NULL;
        }
    }
    freeifaddrs(all);
    return found;
}

static int ask_status_at(const struct server *s, const char *address, const char *path)
{
    int fd = connect_to(address, mm_http_port(s->http));
    char text[256];
    int len = snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path);
    send_all(fd, text, (size_t)len);
    struct reply r = read_reply(fd);
    close(fd);
    free(r.text);
    return r.status;
}

static void test_payloads_are_for_this_machine_only(void **state)
{
    (void)state;
    char address[INET_ADDRSTRLEN];
    if (!find_other_address(address, sizeof address)) {
        print_message("this machine has loopback addresses only\n");
        skip();
    }
    static const char *const all[] = {"0.0.0.0", "::"};
    for (size_t i = 0; i < 2; i++) {
        if (i == 1 && access("/proc/net/if_inet6", F_OK) != 0) {
            break;
        }
        struct server s = start_on(all[i]);
        assert_int_equal(ask_status_at(&s, address, "/dead/x"), 403);
        assert_int_equal(ask_status_at(&s, address, "/dead"), 200);
        assert_int_equal(ask_status_at(&s, address, "/livez"), 200);
        assert_int_equal(ask_status_at(&s, "127.0.0.1", "/dead/x"), 404);
        assert_int_equal(ask_status_at(&s, "127.8.8.8", "/dead/x"), 404);
        stop(&s);
    }
}

/* --- requests that are not what they should be --------------------------------------------------
 */

/* The server is not impressed. */
static void check_alive(const struct server *s)
{
    check(s, "GET", "/livez", 200, PLAIN, "ok\n");
}

/* A request that begins so and goes on with the same over and over. */
static struct reply ask_long(const struct server *s, const char *begin, const char *unit)
{
    enum {
        LEN = 200000
    };
    char *text = malloc(LEN);
    assert_non_null(text);
    size_t begin_len = strlen(begin);
    size_t unit_len = strlen(unit);
    for (size_t i = 0; i < LEN; i++) {
        const char *from = i < begin_len ? &begin[i] : &unit[(i - begin_len) % unit_len];
        text[i] = *from;
    }
    struct reply r = ask_raw(s, text, LEN);
    free(text);
    return r;
}

static void test_requests_that_are_too_long(void **state)
{
    (void)state;
    static const struct
    {
        const char *begin;
        const char *unit;
        int status;
    } requests[] = {
        {"GET /", "a", 414},
        {"GET /livez?", "a=b&", 414},
        {"GET /livez HTTP/1.1\r\nHost: x\r\nX-Long: ", "a", 431},
        {"GET /livez HTTP/1.1\r\nHost: x\r\n", "a: b\r\n", 431},
    };
    struct server s = start();
    for (size_t i = 0; i < sizeof requests / sizeof requests[0]; i++) {
        struct reply r = ask_long(&s, requests[i].begin, requests[i].unit);
        assert_int_equal(r.status, requests[i].status);
        free(r.text);
        check_alive(&s);
    }
    stop(&s);
}

static void test_a_body_is_not_read(void **state)
{
    (void)state;
    struct server s = start();
    reach_kafka(&s, 1);
    static const char *const requests[] = {
        "GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n",
        "POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
        "POST /healthz HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n",
        "PUT /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFF\r\nab",
        "GET /healthz HTTP/1.0\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
    };
    for (size_t i = 0; i < sizeof requests / sizeof requests[0]; i++) {
        struct reply r = ask_raw(&s, requests[i], strlen(requests[i]));
        assert_int_equal(r.status, 200);
        assert_string_equal(r.body, "ok");
        free(r.text);
    }
    stop(&s);
}

static void test_broken_requests(void **state)
{
    (void)state;
    struct server s = start();
    static const char *const requests[] = {
        "GET\r\n\r\n",
        "GET /livez\r\n\r\n",
        "GET /livez HTTP/9.9\r\nHost: x\r\n\r\n",
        "GET /livez HTTP/1.1\r\nContent-Length: -1\r\nHost: x\r\n\r\n",
        "GET /livez HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\nHost: x\r\n\r\n",
        "GET /livez HTTP/1.1\r\nno colon here\r\n\r\n",
        "GET /%00%ff%zz%4 HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /%00livez HTTP/1.1\r\nHost: x\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        "\r\n\r\n\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    };
    for (size_t i = 0; i < sizeof requests / sizeof requests[0]; i++) {
        int fd = connect_server(&s);
        send_all(fd, requests[i], strlen(requests[i]));
        shutdown(fd, SHUT_WR);
        struct reply r = read_reply(fd);
        assert_true(r.status == 0 || (r.status >= 200 && r.status < 600));
        free(r.text);
        close(fd);
    }
    check_alive(&s);
    stop(&s);
}

static void test_junk(void **state)
{
    (void)state;
    struct server s = start();
    enum {
        LEN = 65536
    };
    unsigned char *junk = malloc(LEN);
    assert_non_null(junk);
    uint64_t random = 88172645463325252;
    for (int round = 0; round < 100; round++) {
        for (size_t i = 0; i < LEN; i++) {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            junk[i] = (unsigned char)(random >> 32);
        }
        static const unsigned char line[] = {"GET /livez HTTP/1.1\r\n"};
        for (size_t i = 0; round % 2 == 1 && i < sizeof line - 1; i++) {
            junk[i] = line[i];
        }
        int fd = connect_server(&s);
        send_all(fd, junk, LEN);
        shutdown(fd, SHUT_WR);
        struct reply r = read_reply(fd);
        free(r.text);
        close(fd);
    }
    free(junk);
    check_alive(&s);
    stop(&s);
}

/* --- slow clients -------------------------------------------------------------------------------
 */

static size_t count_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    assert_non_null(dir);
    size_t n = 0;
    while (readdir(dir) != NULL) {
        n++;
    }
    closedir(dir);
    return n - 3; /* ".", ".." and dir's own */
}

/* A client of one of four kinds: says nothing; sends half a request; asks for a page and does not
 * read; drips. */
static int open_slow_client(const struct server *s, size_t kind)
{
    int fd = connect_server(s);
    int small = 1;
    static const char *const sent[] = {
        "",
        "GET /metrics HTTP/1.1\r\nHos",
        "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
        "G",
    };
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    send_all(fd, sent[kind % 4], strlen(sent[kind % 4]));
    return fd;
}

static bool is_closed(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLRDHUP};
    return poll(&p, 1, 0) == 1;
}

static uint64_t probe(const struct server *s)
{
    uint64_t begin = now_ms();
    check_alive(s);
    return now_ms() - begin;
}

#define N_SLOW 300

static void open_slow_clients(const struct server *s, int *fds)
{
    for (size_t i = 0; i < N_SLOW; i++) {
        fds[i] = open_slow_client(s, i);
    }
}

static void close_clients(const int *fds)
{
    for (size_t i = 0; i < N_SLOW; i++) {
        close(fds[i]);
    }
}

static void test_a_probe_is_answered_beside_300_slow_clients(void **state)
{
    (void)state;
    struct server s = start();
    int fds[N_SLOW];
    size_t before = count_fds();
    uint64_t slowest = 0;
    for (int round = 0; round < 5; round++) {
        open_slow_clients(&s, fds);
        for (int i = 0; i < 10; i++) {
            for (size_t k = 3; k < N_SLOW; k += 4) {
                send_all(fds[k], "G", 1);
            }
            uint64_t ms = probe(&s);
            slowest = ms > slowest ? ms : slowest;
        }
        assert_true(count_fds() - before <= N_SLOW + MAX_SERVER_FDS);
        close_clients(fds);
    }
    print_message("slowest probe beside %d slow clients: %" PRIu64 " ms\n", N_SLOW, slowest);
    assert_true(slowest < 2000);

    /* And all of it is given back. */
    for (int i = 0; i < 200 && count_fds() > before; i++) {
        sleep_ms(50);
    }
    assert_int_equal(count_fds(), before);
    stop(&s);
}

/* Nobody else connects, and still a silent client is gone after 3 s and a dripping one after 10. */
static void test_slow_clients_are_ended(void **state)
{
    (void)state;
    struct server s = start();
    int silent = open_slow_client(&s, 0);
    int half = open_slow_client(&s, 1);
    int dripping = open_slow_client(&s, 3);
    uint64_t begin = now_ms();
    uint64_t silent_ms = 0;
    uint64_t half_ms = 0;
    uint64_t dripping_ms = 0;
    while (dripping_ms == 0 && now_ms() - begin < 20000) {
        sleep_ms(100);
        uint64_t now = now_ms() - begin;
        silent_ms = silent_ms == 0 && is_closed(silent) ? now : silent_ms;
        half_ms = half_ms == 0 && is_closed(half) ? now : half_ms;
        dripping_ms = is_closed(dripping) ? now : 0;
        send_all(dripping, "G", 1);
    }
    print_message("ended: silent %" PRIu64 " ms, half %" PRIu64 " ms, dripping %" PRIu64 " ms\n",
                  silent_ms, half_ms, dripping_ms);
    assert_in_range(silent_ms, 2500, 9000);
    assert_in_range(half_ms, 2500, 9000);
    assert_in_range(dripping_ms, 9000, 15000);
    close(silent);
    close(half);
    close(dripping);
    stop(&s);
}

static uint64_t cpu_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* A page so large that it does not fit into what the kernel holds for a client. */
static void add_large_letter(struct server *s, char *request, size_t request_len)
{
    size_t len = (size_t)40 * 1024 * 1024;
    char *payload = calloc(1, len);
    assert_non_null(payload);
    struct mm_dead_letter letter = {.id = LETTER_ID "-1",
                                    .topic = "",
                                    .payload = payload,
                                    .payload_len = len,
                                    .kafka_topic = "",
                                    .error = "",
                                    .reason = ""};
    assert_int_equal(mm_dead_add(s->dead, &letter), 0);
    free(payload);
    snprintf(request, request_len, "GET /dead/" LETTER_ID "-1 HTTP/1.1\r\nHost: x\r\n\r\n");
}

static void test_waiting_for_slow_clients_costs_nothing(void **state)
{
    (void)state;
    struct server s = start();
    char request[256];
    add_large_letter(&s, request, sizeof request);
    int fds[5];
    for (size_t i = 0; i < 5; i++) {
        fds[i] = open_slow_client(&s, i);
    }
    send_all(fds[0], request, strlen(request)); /* asks, and does not read */
    send_all(fds[1], "\r\n\r\n", 2);
    sleep_ms(200);
    uint64_t begin = cpu_ms();
    sleep_ms(2000);
    uint64_t ms = cpu_ms() - begin;
    print_message("2 s with slow clients: %" PRIu64 " ms of CPU\n", ms);
    assert_true(ms < 500);
    for (size_t i = 0; i < 5; i++) {
        close(fds[i]);
    }
    stop(&s);
}

/* Pages that nobody fetches are bounded together. */
static void test_large_answers_are_limited(void **state)
{
    (void)state;
    struct server s = start();
    char text[256];
    add_large_letter(&s, text, sizeof text);
    size_t n = strlen(text);
    int fds[2];
    for (size_t i = 0; i < 2; i++) {
        char first;
        fds[i] = connect_server(&s);
        send_all(fds[i], text, n);
        assert_int_equal(recv(fds[i], &first, 1, 0), 1);
    }
    struct reply r = ask_raw(&s, text, n);
    assert_int_equal(r.status, 503);
    assert_string_equal(r.body, "too many large answers are under way\n");
    free(r.text);
    check(&s, "GET", "/metrics", 503, PLAIN, NULL);
    check_alive(&s);
    close(fds[0]);
    for (int i = 0; i < 100; i++) {
        r = ask(&s, "GET", "/metrics");
        int status = r.status;
        free(r.text);
        if (status == 200) {
            break;
        }
        assert_in_range(i, 0, 98);
        sleep_ms(50);
    }
    close(fds[1]);
    stop(&s);
}

/* --- start and stop -----------------------------------------------------------------------------
 */

static void test_stop_does_not_wait_for_clients(void **state)
{
    (void)state;
    struct server s = start();
    int fds[N_SLOW];
    open_slow_clients(&s, fds);
    check_alive(&s);
    uint64_t begin = now_ms();
    stop(&s);
    uint64_t ms = now_ms() - begin;
    print_message("stopped with slow clients in %" PRIu64 " ms\n", ms);
    assert_true(ms < 2000);
    for (size_t i = 0; i < N_SLOW; i++) {
        assert_true(is_closed(fds[i]));
    }
    close_clients(fds);
    mm_http_stop(NULL);
}

static void test_stop_at_once(void **state)
{
    (void)state;
    for (int i = 0; i < 20; i++) {
        struct server s = start();
        stop(&s);
    }
}

static void try_start(const struct server *s,
                      const char *address,
                      uint16_t port,
                      const char *expected)
{
    struct mm_http_options opts = {.address = address,
                                   .port = port,
                                   .metrics = s->metrics,
                                   .spool = s->spool,
                                   .dead = s->dead,
                                   .log = s->log};
    struct mm_http *http = (struct mm_http *)&opts;
    char errstr[256] = "";
    assert_int_equal(mm_http_start(&opts, &http, errstr, sizeof errstr), MM_EHTTP);
    assert_null(http);
    assert_string_equal(errstr, expected);
}

static void test_errors_at_start_say_what_is_wrong(void **state)
{
    (void)state;
    struct server s = start();
    char expected[128];
    size_t before = count_fds();
    snprintf(expected, sizeof expected, "health_port %u on 127.0.0.1: Address already in use",
             (unsigned int)mm_http_port(s.http));
    try_start(&s, "127.0.0.1", mm_http_port(s.http), expected);
    try_start(&s, "localhost", 8080,
              "health_port 8080 on localhost: not a numeric IPv4 or IPv6 address");
    try_start(&s, "", 8080, "health_port 8080 on : not a numeric IPv4 or IPv6 address");
    try_start(&s, "203.0.113.1", 8080,
              "health_port 8080 on 203.0.113.1: Cannot assign requested address");
    assert_int_equal(count_fds(), before);
    check_alive(&s);
    stop(&s);
}

static void test_it_listens_on_its_address_only(void **state)
{
    (void)state;
    struct server s = start_on("127.0.0.2");
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(mm_http_port(s.http))};
    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&in, sizeof in), -1);
    assert_int_equal(errno, ECONNREFUSED);
    close(fd);
    assert_int_equal(ask_status_at(&s, "127.0.0.2", "/livez"), 200);
    stop(&s);
}

static void test_ipv6(void **state)
{
    (void)state;
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&in6, sizeof in6) != 0) {
        print_message("this machine has no IPv6\n");
        if (fd >= 0) {
            close(fd);
        }
        skip();
    }
    close(fd);
    struct server s = start_on("::1");
    in6.sin6_port = htons(mm_http_port(s.http));
    fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&in6, sizeof in6), 0);
    static const char text[] = "GET /dead/x HTTP/1.1\r\nHost: x\r\n\r\n";
    send_all(fd, text, strlen(text));
    struct reply r = read_reply(fd);
    assert_int_equal(r.status, 404); /* and not 403 */
    free(r.text);
    close(fd);
    stop(&s);
}

/* --- descriptors and panics ---------------------------------------------------------------------
 *
 * In a child process, which ends without cleaning up: what it does is not for the others. */

static void in_child(void (*fn)(void))
{
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        fn();
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

#define REQUIRE(condition)                                                  \
    do {                                                                    \
        if (!(condition)) {                                                 \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            _exit(1);                                                       \
        }                                                                   \
    } while (0)

/* The server's end of the client's connection, in this same process. */
static int find_server_end(int client)
{
    struct sockaddr_in ours = {0};
    socklen_t len = sizeof ours;
    REQUIRE(getsockname(client, (struct sockaddr *)&ours, &len) == 0);
    for (int round = 0; round < 100; round++) {
        for (int fd = 3; fd < 100; fd++) {
            struct sockaddr_in peer = {0};
            len = sizeof peer;
            if (fd != client && getpeername(fd, (struct sockaddr *)&peer, &len) == 0 &&
                peer.sin_port == ours.sin_port) {
                return fd;
            }
        }
        sleep_ms(20);
    }
    return -1;
}

/* close(2) of what belongs to another thread: tsan would rightly object. */
static void vanish(int fd)
{
    REQUIRE(syscall(SYS_close, fd) == 0);
}

static size_t n_panics;

static void count_panics(void *arg, enum mm_log_level level, const char *line)
{
    (void)arg;
    n_panics += level == MM_LOG_ERROR && strstr(line, "HTTP is off") != NULL ? 1 : 0;
}

/* A socket that vanishes under the library is a panic at the stop of the server. */
static void panic_at_stop(void)
{
    struct server s = start();
    int client = connect_server(&s);
    int server_end = find_server_end(client);
    REQUIRE(server_end >= 0);
    vanish(server_end);
    mm_http_stop(s.http);
    mm_log_drain(s.log, count_panics, NULL);
    REQUIRE(n_panics == 1);
}

/* ... or when its time is over; the rest of the process goes on, and the port is free. */
static void panic_while_serving(void)
{
    struct server s = start();
    uint16_t port = mm_http_port(s.http);
    int client = connect_server(&s);
    int server_end = find_server_end(client);
    REQUIRE(server_end >= 0);
    vanish(server_end);
    for (int i = 0; i < 200 && n_panics == 0; i++) {
        sleep_ms(50);
        mm_log_drain(s.log, count_panics, NULL);
    }
    REQUIRE(n_panics == 1);
    mm_http_stop(s.http);
    struct mm_http_options opts = {.address = "127.0.0.1",
                                   .port = port,
                                   .metrics = s.metrics,
                                   .spool = s.spool,
                                   .dead = s.dead,
                                   .log = s.log};
    char errstr[256];
    REQUIRE(mm_http_start(&opts, &s.http, errstr, sizeof errstr) == 0);
    REQUIRE(ask_status_at(&s, "127.0.0.1", "/livez") == 200);
    mm_http_stop(s.http);
}

static void test_a_panic_of_the_library_ends_http_only(void **state)
{
    (void)state;
    in_child(panic_at_stop);
    in_child(panic_while_serving);
}

/* With all descriptors taken by slow clients the oldest is ended, and so is the shortage. */
static void run_out_of_descriptors(void)
{
    struct server s = start();
    struct rlimit limit;
    REQUIRE(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    int clients[40];
    for (size_t i = 0; i < 40; i++) {
        clients[i] = connect_server(&s);
    }
    sleep_ms(200);
    /* Room for the probe's end, but not for the server's. */
    int probe_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    limit.rlim_cur = 128;
    REQUIRE(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    while (open("/dev/null", O_RDONLY | O_CLOEXEC) >= 0) {
        continue;
    }
    REQUIRE(errno == EMFILE);
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(mm_http_port(s.http))};
    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    REQUIRE(connect(probe_fd, (struct sockaddr *)&in, sizeof in) == 0);
    static const char text[] = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";
    send_all(probe_fd, text, strlen(text));
    uint64_t begin = now_ms();
    struct reply r = read_reply(probe_fd);
    REQUIRE(r.status == 200);
    REQUIRE(now_ms() - begin < 2000);
    REQUIRE(is_closed(clients[0]));
    REQUIRE(!is_closed(clients[39]));
    /* Nothing is left to end, the shortage goes on, and the thread does not spin. */
    for (size_t i = 0; i < 40; i++) {
        shutdown(clients[i], SHUT_RDWR);
    }
    while (dup(probe_fd) >= 0 || errno != EMFILE) {
        sleep_ms(1);
    }
    sleep_ms(100);
    while (dup(probe_fd) >= 0) {
        continue;
    }
    begin = cpu_ms();
    sleep_ms(1000);
    REQUIRE(cpu_ms() - begin < 300);
    mm_http_stop(s.http);
}

static void test_out_of_descriptors(void **state)
{
    (void)state;
    in_child(run_out_of_descriptors);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_panic_of_the_library_ends_http_only),
        cmocka_unit_test(test_out_of_descriptors),
        cmocka_unit_test(test_pages_of_health),
        cmocka_unit_test(test_metrics_page),
        cmocka_unit_test(test_methods),
        cmocka_unit_test(test_paths),
        cmocka_unit_test(test_page),
        cmocka_unit_test(test_status),
        cmocka_unit_test(test_dead_letters),
        cmocka_unit_test(test_payloads_are_for_this_machine_only),
        cmocka_unit_test(test_requests_that_are_too_long),
        cmocka_unit_test(test_a_body_is_not_read),
        cmocka_unit_test(test_broken_requests),
        cmocka_unit_test(test_junk),
        cmocka_unit_test(test_a_probe_is_answered_beside_300_slow_clients),
        cmocka_unit_test(test_slow_clients_are_ended),
        cmocka_unit_test(test_waiting_for_slow_clients_costs_nothing),
        cmocka_unit_test(test_large_answers_are_limited),
        cmocka_unit_test(test_stop_does_not_wait_for_clients),
        cmocka_unit_test(test_stop_at_once),
        cmocka_unit_test(test_errors_at_start_say_what_is_wrong),
        cmocka_unit_test(test_it_listens_on_its_address_only),
        cmocka_unit_test(test_ipv6),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
