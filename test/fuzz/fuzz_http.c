/* Any bytes on a connection to the HTTP port, in one process: the library's parser and our answers.
 * The first byte says where the client is. Whatever comes, the answer is one of HTTP, whole, of a
 * status that we know; JSON is JSON, a payload goes to this machine alone, and nothing is kept. */
#include "../../plugin/mm_http.c" /* NOLINT(bugprone-suspicious-include): what is static there */
#include "mm_lanes.h"

#include <arpa/inet.h>
#include <cjson/cJSON.h>
#include <fcntl.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum {
    MAX_ANSWER = 1024 * 1024,
    MAX_TURNS = 1000
};

static struct mm_http server;

static void check(bool good)
{
    if (!good) {
        abort();
    }
}

static void add_letter(struct mm_dead *dead, const char *id, bool lost)
{
    struct mm_dead_letter letter = {.id = id,
                                    .topic = "a/\xFF/\"b\"",
                                    .topic_len = 7,
                                    .payload = "payload",
                                    .payload_len = 7,
                                    .kafka_topic = "mqtt",
                                    .error = "MSG_SIZE_TOO_LARGE",
                                    .reason = "too large",
                                    .lost = lost};
    check(mm_dead_add(dead, &letter) == 0);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    static struct mm_metrics_info info = {
        .version = "1", .librdkafka = "2", .mosquitto = "3", .n_workers = 1};
    struct mm_spool_options spool = {.max_bytes = 262144, .n_readers = 1, .manual = true};
    struct mm_dead_options dead = {.max_bytes = 1 << 20};
    struct mm_metrics *metrics = NULL;
    struct mm_lanes *lanes = NULL;
    struct mm_status *status = NULL;
    char errstr[256];
    check(mm_lanes_new(&lanes) == 0);
    info.lanes = lanes;
    check(mm_metrics_new(&info, &metrics) == 0);
    check(mm_spool_open(&spool, &server.spool, errstr, sizeof errstr) == 0);
    check(mm_dead_open(&dead, &server.dead, errstr, sizeof errstr) == 0);
    check(mm_log_new(MM_LOG_INFO, &server.log) == 0);
    check(mm_status_new(metrics, server.spool, &status) == 0);
    server.metrics = metrics;
    server.status = status;
    add_letter(server.dead, "a-1", false);
    add_letter(server.dead, "a-2", true);
    ours = &server;
    check(start_daemon(&server) == 0);
    return 0;
}

/* The client's end of a connection that the library has. */
static int connect_client(bool is_local)
{
    int fds[2];
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(1)};
    check(inet_pton(AF_INET, is_local ? "127.0.0.2" : "192.0.2.1", &addr.sin_addr) == 1);
    check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) == 0);
    server.connection[server.n_connections++] = (struct connection){.fd = fds[1]};
    check(MHD_add_connection(server.daemon, fds[1], (struct sockaddr *)&addr, sizeof addr) ==
          MHD_YES);
    return fds[0];
}

/* Until the library has closed its end. Returns the length of what it said. */
static size_t talk(int fd, const uint8_t *data, size_t size, char *answer)
{
    size_t len = 0;
    size_t sent = 0;
    for (int i = 0; i < MAX_TURNS; i++) {
        if (sent < size) {
            ssize_t n = send(fd, data + sent, size - sent, MSG_NOSIGNAL);
            sent = n > 0 ? sent + (size_t)n : size;
        }
        if (sent == size) {
            (void)shutdown(fd, SHUT_WR);
        }
        check(MHD_run(server.daemon) == MHD_YES);
        ssize_t got = recv(fd, answer + len, MAX_ANSWER - len, 0);
        len += got > 0 ? (size_t)got : 0;
        if (got == 0 || (got < 0 && errno != EAGAIN)) {
            check(server.n_connections == 0);
            return len;
        }
    }
    abort(); /* it neither answers nor closes */
}

static bool is_known(int status)
{
    /* 400, 405, 413, 414, 431, 501 and 505 are the library's too. */
    static const int known[] = {200, 400, 403, 404, 405, 411, 413,
                                414, 423, 431, 500, 501, 503, 505};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (known[i] == status) {
            return true;
        }
    }
    return false;
}

static bool has(const char *head, const char *line)
{
    return strstr(head, line) != NULL;
}

static void check_json(const char *body, size_t len)
{
    const char *end = NULL;
    cJSON *value = cJSON_ParseWithLengthOpts(body, len, &end, 0);
    check(value != NULL);
    cJSON_Delete(value);
}

static void check_answer(char *answer, size_t len, bool is_local, bool is_head)
{
    char *body = memmem(answer, len, "\r\n\r\n", 4);
    check(len > 13 && strncmp(answer, "HTTP/1.", 7) == 0 && body != NULL);
    body[2] = '\0';
    body += 4;
    const size_t body_len = len - (size_t)(body - answer);
    const int status = (int)strtol(answer + 9, NULL, 10);
    check(is_known(status));
    if (!has(answer, "\r\nX-Content-Type-Options: nosniff\r\n")) {
        check(status != 200); /* the library's own; 0.9.75 sends some of these twice */
        return;
    }
    const char *told = strcasestr(answer, "\r\nContent-Length: ");
    check(told != NULL);
    check(body_len == strtoul(told + 18, NULL, 10) || (is_head && body_len == 0));
    check(is_local || !has(answer, "application/octet-stream"));
    if (status == 200 && body_len > 0 && has(answer, "application/json")) {
        check_json(body, body_len);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char answer[MAX_ANSWER + 1];
    if (size == 0) {
        return 0;
    }
    const bool is_local = data[0] % 2 == 0;
    int fd = connect_client(is_local);
    size_t len = talk(fd, data + 1, size - 1, answer);
    answer[len] = '\0';
    close(fd);
    if (len > 0) {
        check_answer(answer, len, is_local, size > 5 && memmem(data, size, "HEAD", 4) != NULL);
    }
    check(server.page_bytes == 0 && server.n_ended == 0);
    return 0;
}
