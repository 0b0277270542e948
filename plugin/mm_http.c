/* One thread owns all of libmicrohttpd: it starts the library's daemon, runs it, and stops it. The
 * loop is ours and not the library's, for three things that its own thread cannot do: accept by our
 * rules, end connections by their age, and end this thread, and it alone, when the library panics.
 *
 * A turn: wait until something is to be done; accept what waits, ending the oldest connection for
 * each one that would be too many; let the library read, answer and close; end what is too old. A
 * connection carries one request: the answer closes it. Request bodies are never read.
 *
 * A connection is ended by shutdown(2), upon which the library closes it in its next run. It is
 * never closed here: the library panics when a socket that it holds is gone. */
#include "mm_http.h"

#include "mm_clock.h"
#include "mm_dead.h"
#include "mm_error.h"
#include "mm_log.h"
#include "mm_metrics.h"
#include "mm_page.h"
#include "mm_status.h"
#include "mm_thread.h"

#include <errno.h>
#include <inttypes.h>
#include <microhttpd.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

/* Evicting begins so far below the limit that one batch never meets it: what is ended in one turn
 * is closed in the same. */
#define MAX_CONNECTIONS 128
#define ACCEPT_BATCH 16
#define EVICT_AT (MAX_CONNECTIONS - ACCEPT_BATCH)

/* A request that does not fit into the memory is answered 414 or 431 by the library. */
#define INACTIVITY_S 3
#define LIFETIME_NS (10 * UINT64_C(1000000000))
#define MEMORY_PER_CONNECTION 8192

/* Pages that clients are slow to fetch may hold so much memory together, and one page more. */
#define MAX_PAGE_BYTES ((size_t)64 * 1024 * 1024)

/* How often connections are looked at while something is connected, and how long nothing is
 * accepted after that has failed. */
#define TICK_MS 500
#define ACCEPT_PAUSE_NS (100 * UINT64_C(1000000))

#define LINE_INTERVAL_NS (10 * UINT64_C(1000000000))

#define TEXT_PLAIN "text/plain; charset=utf-8"
#define TEXT_METRICS "text/plain; version=0.0.4; charset=utf-8"

struct connection
{
    int fd; /* the library's; only shut down here */
    uint64_t since_ns;
    bool ended; /* shut down, and not closed yet */
};

struct mm_http
{
    /* immutable once started */
    const struct mm_metrics *metrics;
    struct mm_spool *spool;
    struct mm_dead *dead;
    struct mm_log *log;
    uint16_t port;
    pthread_t thread;
    int stop_fd; /* an eventfd, readable when the thread is to end */

    /* handed over by started */
    sem_t started;
    int start_err;

    /* http thread */
    int listen_fd; /* -1 after a panic */
    bool serving;
    struct MHD_Daemon *daemon;
    int epoll_fd; /* the daemon's */
    uint64_t accept_after_ns;
    struct mm_status *status;
    size_t page_bytes;                             /* of answers under way */
    struct connection connection[MAX_CONNECTIONS]; /* oldest first */
    size_t n_connections;
    size_t n_ended;
    struct mm_log_limit library_limit;
    struct mm_log_limit accept_limit;
};

/* --- answers ------------------------------------------------------------------------------------
 */

struct request
{
    struct MHD_Connection *connection;
    const char *path;
    const char *rest; /* of the path, behind what the endpoint names */
};

struct answer
{
    unsigned int status;
    const char *type;
    const char *policy; /* the Content-Security-Policy; NULL: no page for a browser */
    const void *text;   /* static; or NULL, and then page has the body */
    char *page;         /* malloc'ed */
    size_t len;
};

static void say(struct answer *a, unsigned int status, const char *text)
{
    *a = (struct answer){.status = status, .type = TEXT_PLAIN, .text = text, .len = strlen(text)};
}

/* The result of a function that made a page. */
static void give(struct answer *a, int err, const char *type, char *page, size_t len)
{
    if (err != 0) {
        say(a, MHD_HTTP_SERVICE_UNAVAILABLE,
            err == MM_EIO ? "the disk could not be read\n" : "out of memory\n");
        return;
    }
    *a = (struct answer){.status = MHD_HTTP_OK, .type = type, .page = page, .len = len};
}

static void answer_metrics(struct mm_http *h, const struct request *r, struct answer *a)
{
    (void)r;
    char *page = NULL;
    size_t len = 0;
    int err = mm_metrics_text(h->metrics, h->spool, &page, &len);
    give(a, err, TEXT_METRICS, page, len);
}

static void answer_livez(struct mm_http *h, const struct request *r, struct answer *a)
{
    (void)r;
    struct mm_snapshot shot;
    mm_metrics_snapshot(h->metrics, h->spool, &shot);
    if (shot.live) {
        say(a, MHD_HTTP_OK, "ok\n");
    } else {
        say(a, MHD_HTTP_SERVICE_UNAVAILABLE, "not live: a worker thread does not move\n");
    }
}

static void answer_readyz(struct mm_http *h, const struct request *r, struct answer *a)
{
    (void)r;
    struct mm_snapshot shot;
    mm_metrics_snapshot(h->metrics, h->spool, &shot);
    if (shot.ready) {
        say(a, MHD_HTTP_OK, "ok\n");
        return;
    }
    char *page = NULL;
    int len = asprintf(&page, "not ready: %s\n", shot.reason);
    give(a, len < 0 ? MM_ENOMEM : 0, TEXT_PLAIN, page, (size_t)len);
    a->status = MHD_HTTP_SERVICE_UNAVAILABLE;
}

/* Status and both bodies as the Go program has them: 423, and no newline. */
static void answer_healthz(struct mm_http *h, const struct request *r, struct answer *a)
{
    (void)r;
    struct mm_snapshot shot;
    mm_metrics_snapshot(h->metrics, h->spool, &shot);
    if (shot.healthy) {
        say(a, MHD_HTTP_OK, "ok");
    } else {
        say(a, MHD_HTTP_LOCKED, "not ready");
    }
}

static void answer_dead_list(struct mm_http *h, const struct request *r, struct answer *a)
{
    (void)r;
    char *page = NULL;
    size_t len = 0;
    int err = mm_dead_list(h->dead, &page, &len);
    give(a, err, "application/json", page, len);
}

/* 127.0.0.0/8, ::1, and the former as a client of an IPv6 socket. */
static bool is_loopback(const struct sockaddr *addr)
{
    if (addr->sa_family == AF_INET) {
        struct sockaddr_in in;
        memcpy(&in, addr, sizeof in);
        return ntohl(in.sin_addr.s_addr) >> 24 == 127;
    }
    if (addr->sa_family == AF_INET6) {
        struct sockaddr_in6 in6;
        memcpy(&in6, addr, sizeof in6);
        return IN6_IS_ADDR_LOOPBACK(&in6.sin6_addr) ||
               (IN6_IS_ADDR_V4MAPPED(&in6.sin6_addr) && in6.sin6_addr.s6_addr[12] == 127);
    }
    return false;
}

/* A payload may be anything, so it goes to nobody but people on this machine. */
static void answer_dead_payload(struct mm_http *h, const struct request *r, struct answer *a)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(r->connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    if (info == NULL || info->client_addr == NULL || !is_loopback(info->client_addr)) {
        say(a, MHD_HTTP_FORBIDDEN,
            "payloads are shown to clients on this machine only: ask on a loopback address\n");
        return;
    }
    void *payload = NULL;
    size_t len = 0;
    int err = mm_dead_payload(h->dead, r->rest, &payload, &len);
    if (err == MM_EINVAL) {
        say(a, MHD_HTTP_NOT_FOUND, "no such dead letter, or its payload was not kept\n");
        return;
    }
    give(a, err, "application/octet-stream", payload, len);
}

static void answer_status(struct mm_http *h, const struct request *r, struct answer *a)
{
    (void)r;
    char *page = NULL;
    size_t len = 0;
    int err =
        mm_status_json(h->status, mm_clock_monotonic_ns(), mm_clock_realtime_ms(), &page, &len);
    give(a, err, "application/json", page, len);
}

static void answer_page(struct mm_http *h, const struct request *r, struct answer *a)
{
    (void)h;
    const struct mm_page *page = mm_page_find(r->path);
    *a = (struct answer){.status = MHD_HTTP_OK,
                         .type = page->type,
                         .policy = MM_PAGE_POLICY,
                         .text = page->data,
                         .len = page->len};
}

static const struct endpoint
{
    const char *path;
    bool is_prefix;  /* of the paths that are meant, which are longer */
    bool any_method; /* else GET and HEAD */
    bool is_large;   /* counts against MAX_PAGE_BYTES */
    void (*answer)(struct mm_http *h, const struct request *r, struct answer *a);
} endpoints[] = {
    {"/metrics", false, false, true, answer_metrics},
    {"/livez", false, false, false, answer_livez},
    {"/readyz", false, false, false, answer_readyz},
    {"/healthz", false, true, false, answer_healthz},
    {"/dead", false, false, true, answer_dead_list},
    {"/dead/", true, false, true, answer_dead_payload},
    {"/status", false, false, true, answer_status},
    {"/", false, false, false, answer_page},
    {"/page.css", false, false, false, answer_page},
    {"/page.js", false, false, false, answer_page},
    {"/page.svg", false, false, false, answer_page},
};

static const struct endpoint *find_endpoint(const char *path, const char **rest)
{
    for (size_t i = 0; i < sizeof endpoints / sizeof endpoints[0]; i++) {
        size_t len = strlen(endpoints[i].path);
        if (strncmp(path, endpoints[i].path, len) == 0 &&
            (path[len] != '\0') == endpoints[i].is_prefix) {
            *rest = path + len;
            return &endpoints[i];
        }
    }
    return NULL;
}

/* --- requests -----------------------------------------------------------------------------------
 */

/* A page that the library holds until it is sent or its connection has ended. */
struct page
{
    struct mm_http *h;
    size_t len;
    char *data;
};

static void on_page_sent(void *arg)
{
    struct page *page = arg;
    page->h->page_bytes -= page->len;
    free(page->data);
    free(page);
}

/* The library's form of an answer; takes the page over, also when it fails. NULL: out of memory. */
static struct MHD_Response *make_response(struct mm_http *h, const struct answer *a)
{
    if (a->page == NULL) {
        /* The library's parameter is not const, but a persistent buffer is only read. */
        return MHD_create_response_from_buffer(a->len, (void *)a->text, MHD_RESPMEM_PERSISTENT);
    }
    struct page *page = malloc(sizeof *page);
    if (page == NULL) {
        free(a->page);
        return NULL;
    }
    *page = (struct page){.h = h, .len = a->len, .data = a->page};
    struct MHD_Response *response = MHD_create_response_from_buffer_with_free_callback_cls(
        page->len, page->data, on_page_sent, page);
    h->page_bytes += page->len;
    if (response == NULL) {
        on_page_sent(page);
    }
    return response;
}

static bool add_headers(struct MHD_Response *response, const struct answer *a)
{
    const char *const headers[][2] = {
        {MHD_HTTP_HEADER_CONTENT_TYPE, a->type},
        {MHD_HTTP_HEADER_CACHE_CONTROL, "no-store"},
        {"X-Content-Type-Options", "nosniff"},
        {"Content-Security-Policy", a->policy},
        {"Referrer-Policy", a->policy != NULL ? "no-referrer" : NULL},
        {MHD_HTTP_HEADER_ALLOW, a->status == MHD_HTTP_METHOD_NOT_ALLOWED ? "GET, HEAD" : NULL},
    };
    for (size_t i = 0; i < sizeof headers / sizeof headers[0]; i++) {
        if (headers[i][1] != NULL &&
            MHD_add_response_header(response, headers[i][0], headers[i][1]) != MHD_YES) {
            return false;
        }
    }
    return true;
}

static void find_answer(struct mm_http *h,
                        struct MHD_Connection *connection,
                        const char *path,
                        const char *method,
                        struct answer *a)
{
    struct request r = {.connection = connection, .path = path};
    const struct endpoint *e = find_endpoint(path, &r.rest);
    if (e == NULL) {
        say(a, MHD_HTTP_NOT_FOUND, "404 page not found\n");
    } else if (!e->any_method && strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0) {
        say(a, MHD_HTTP_METHOD_NOT_ALLOWED, "405 method not allowed\n");
    } else if (e->is_large && h->page_bytes > MAX_PAGE_BYTES) {
        say(a, MHD_HTTP_SERVICE_UNAVAILABLE, "too many large answers are under way\n");
    } else {
        e->answer(h, &r, a);
    }
}

/* Called by the library when the headers are there. An answer given so early makes it leave the
 * body unread and close the connection afterwards; it says "Connection: close" by itself. */
static enum MHD_Result on_request(void *cls,
                                  struct MHD_Connection *connection,
                                  const char *url,
                                  const char *method,
                                  const char *version,
                                  const char *upload_data,
                                  size_t *upload_data_size,
                                  void **req_cls)
{
    (void)version;
    (void)upload_data;
    (void)upload_data_size;
    (void)req_cls;
    struct mm_http *h = cls;
    struct answer a;
    find_answer(h, connection, url, method, &a);
    struct MHD_Response *response = make_response(h, &a);
    if (response == NULL) {
        return MHD_NO; /* the library closes the connection */
    }
    enum MHD_Result result = MHD_NO;
    if (add_headers(response, &a)) {
        result = MHD_queue_response(connection, a.status, response);
    }
    MHD_destroy_response(response);
    return result;
}

/* --- connections --------------------------------------------------------------------------------
 */

static void forget(struct mm_http *h, int fd)
{
    for (size_t i = 0; i < h->n_connections; i++) {
        if (h->connection[i].fd == fd) {
            h->n_ended -= h->connection[i].ended ? 1 : 0;
            h->n_connections--;
            memmove(&h->connection[i], &h->connection[i + 1],
                    (h->n_connections - i) * sizeof h->connection[0]);
            return;
        }
    }
}

/* Called by the library, before it closes the socket. */
static void on_connection(void *cls,
                          struct MHD_Connection *connection,
                          void **socket_context,
                          enum MHD_ConnectionNotificationCode code)
{
    (void)socket_context;
    if (code == MHD_CONNECTION_NOTIFY_CLOSED) {
        const union MHD_ConnectionInfo *info =
            MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
        forget(cls, info->connect_fd);
    }
}

static void end_connection(struct mm_http *h, struct connection *c)
{
    shutdown(c->fd, SHUT_RDWR);
    c->ended = true;
    h->n_ended++;
}

/* End the oldest connection that is not ended yet. */
static void evict(struct mm_http *h)
{
    for (size_t i = 0; i < h->n_connections; i++) {
        if (!h->connection[i].ended) {
            end_connection(h, &h->connection[i]);
            return;
        }
    }
}

/* The library's timeout ends a silent client; one that drips is ended here. */
static void end_aged(struct mm_http *h, uint64_t now_ns)
{
    for (size_t i = 0; i < h->n_connections; i++) {
        struct connection *c = &h->connection[i];
        if (!c->ended && now_ns - c->since_ns > LIFETIME_NS) {
            end_connection(h, c);
        }
    }
}

/* Without descriptors or memory: make room, and wait a little instead of trying at each turn. */
static void on_accept_failed(struct mm_http *h, int reason, uint64_t now_ns)
{
    evict(h);
    h->accept_after_ns = now_ns + ACCEPT_PAUSE_NS;
    uint64_t n_held = 0;
    if (mm_log_allowed(&h->accept_limit, now_ns, LINE_INTERVAL_NS, &n_held)) {
        char text[128];
        mm_log_write(h->log, MM_LOG_WARN,
                     "HTTP: no connection can be accepted: %s (%" PRIu64
                     " more since the last such line)",
                     strerror_r(reason, text, sizeof text), n_held);
    }
}

/* Is it the waiting connection that has failed, rather than accept(2)? Then the next one may do. */
static bool is_passing(int reason)
{
    return reason == EINTR || reason == ECONNABORTED || reason == EPROTO || reason == EPERM ||
           reason == ENETDOWN || reason == ENETUNREACH || reason == EHOSTDOWN ||
           reason == EHOSTUNREACH || reason == ENOPROTOOPT || reason == ENONET;
}

/* Accept one connection that waits. False: there is none, or it cannot be done now. */
static bool accept_one(struct mm_http *h, uint64_t now_ns)
{
    struct sockaddr_storage addr;
    socklen_t addr_len = sizeof addr;
    int fd =
        accept4(h->listen_fd, (struct sockaddr *)&addr, &addr_len, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
        int reason = errno;
        if (reason != EAGAIN && !is_passing(reason)) {
            on_accept_failed(h, reason, now_ns);
        }
        return is_passing(reason);
    }
    if (h->n_connections - h->n_ended >= EVICT_AT) {
        evict(h);
    }
    h->connection[h->n_connections++] = (struct connection){.fd = fd, .since_ns = now_ns};
    if (MHD_add_connection(h->daemon, fd, (struct sockaddr *)&addr, addr_len) != MHD_YES) {
        forget(h, fd); /* closed by the library, which tells so or not */
    }
    return true;
}

static bool may_accept(const struct mm_http *h, uint64_t now_ns)
{
    return h->n_connections < MAX_CONNECTIONS && now_ns >= h->accept_after_ns;
}

static void accept_waiting(struct mm_http *h, uint64_t now_ns)
{
    for (int i = 0; i < ACCEPT_BATCH && may_accept(h, now_ns); i++) {
        if (!accept_one(h, now_ns)) {
            return;
        }
    }
}

/* --- the thread ---------------------------------------------------------------------------------
 */

/* The server that the calling thread runs: the library's panic function is one for the process, and
 * the broker or another plugin may use the library too. */
static _Thread_local struct mm_http *ours;

/* Called by the library when it finds itself in a state that should not be; it must not return, and
 * the library's own does abort(). Nothing can be done with the daemon any more: its thread ends
 * here, what it holds stays until the process ends, and the broker and the workers go on. A probe
 * of /livez sees a refused connection then, and whoever asked may restart the broker. */
static void on_panic(void *cls, const char *file, unsigned int line, const char *reason)
{
    (void)cls;
    struct mm_http *h = ours;
    if (h == NULL) {
        /* A daemon of somebody else: what would have happened to it without us. */
        fprintf(stderr, "Fatal error in GNU libmicrohttpd %s:%u: %s\n", file, line, reason);
        abort();
    }
    mm_log_write(h->log, MM_LOG_ERROR, "HTTP: libmicrohttpd failed at %s:%u: %s; HTTP is off", file,
                 line, reason);
    close(h->listen_fd);
    h->listen_fd = -1;
    if (!h->serving) {
        h->start_err = MM_EHTTP;
        sem_post(&h->started);
    }
    pthread_exit(NULL);
}

/* Ours while n_servers are running, so that the library never calls into a plugin that was
 * unloaded. */
static void count_servers(int change)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static int n_servers;
    pthread_mutex_lock(&lock);
    n_servers += change;
    MHD_set_panic_func(n_servers > 0 ? on_panic : NULL, NULL);
    pthread_mutex_unlock(&lock);
}

/* What the library has to say is about clients, so it is for debugging. */
__attribute__((format(printf, 2, 0))) static void on_library_log(void *cls,
                                                                 const char *fmt,
                                                                 va_list args)
{
    struct mm_http *h = cls;
    uint64_t n_held = 0;
    if (!mm_log_enabled(h->log, MM_LOG_DEBUG) ||
        !mm_log_allowed(&h->library_limit, mm_clock_monotonic_ns(), LINE_INTERVAL_NS, &n_held)) {
        return;
    }
    char text[256];
    if (vsnprintf(text, sizeof text, fmt, args) >= 0) {
        text[strcspn(text, "\n")] = '\0';
        mm_log_write(h->log, MM_LOG_DEBUG, "HTTP: %s (%" PRIu64 " more since the last such line)",
                     text, n_held);
    }
}

/* Called by the library for a path, and for what is behind it. A path with a NUL in it stays as it
 * was sent, and is none of ours: unescaped it would end there, and be another one. */
static size_t unescape(void *cls, struct MHD_Connection *connection, char *text)
{
    (void)cls;
    (void)connection;
    return strstr(text, "%00") != NULL ? strlen(text) : MHD_http_unescape(text);
}

/* select(2) would break in a broker with more than 1024 descriptors: epoll, or nothing. */
static int start_daemon(struct mm_http *h)
{
    struct MHD_OptionItem limits[] = {
        {MHD_OPTION_CONNECTION_LIMIT, MAX_CONNECTIONS, NULL},
        {MHD_OPTION_CONNECTION_TIMEOUT, INACTIVITY_S, NULL},
        {MHD_OPTION_CONNECTION_MEMORY_LIMIT, MEMORY_PER_CONNECTION, NULL},
        {MHD_OPTION_END, 0, NULL},
    };
    /* The logger comes first, so that it hears of the others. */
    h->daemon = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET | MHD_USE_ERROR_LOG, 0, NULL, NULL, on_request, h,
        MHD_OPTION_EXTERNAL_LOGGER, on_library_log, h, MHD_OPTION_NOTIFY_CONNECTION, on_connection,
        h, MHD_OPTION_UNESCAPE_CALLBACK, unescape, NULL, MHD_OPTION_ARRAY, limits, MHD_OPTION_END);
    const union MHD_DaemonInfo *info =
        h->daemon == NULL ? NULL : MHD_get_daemon_info(h->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    if (info == NULL) {
        return MM_EHTTP;
    }
    h->epoll_fd = info->epoll_fd;
    return 0;
}

/* How long the loop may sleep when nothing comes, in ms. */
static int wait_ms(const struct mm_http *h, uint64_t now_ns)
{
    MHD_UNSIGNED_LONG_LONG library_ms = 0;
    uint64_t ms = h->n_connections > 0 ? TICK_MS : MM_STATUS_SAMPLE_MS;
    if (MHD_get_timeout(h->daemon, &library_ms) == MHD_YES && library_ms < ms) {
        ms = library_ms;
    }
    if (now_ns < h->accept_after_ns && ACCEPT_PAUSE_NS / 1000000 < ms) {
        ms = ACCEPT_PAUSE_NS / 1000000;
    }
    return (int)ms;
}

static void serve(struct mm_http *h)
{
    for (;;) {
        uint64_t now_ns = mm_clock_monotonic_ns();
        struct pollfd fds[] = {
            {.fd = h->stop_fd, .events = POLLIN},
            {.fd = h->epoll_fd, .events = POLLIN},
            {.fd = may_accept(h, now_ns) ? h->listen_fd : -1, .events = POLLIN},
        };
        poll(fds, sizeof fds / sizeof fds[0], wait_ms(h, now_ns));
        if (fds[0].revents != 0) {
            return;
        }
        now_ns = mm_clock_monotonic_ns();
        mm_status_sample(h->status, now_ns, mm_clock_realtime_ms());
        end_aged(h, now_ns);
        accept_waiting(h, now_ns);
        MHD_run(h->daemon);
    }
}

static void *http_main(void *arg)
{
    struct mm_http *h = arg;
    ours = h;
    h->start_err = start_daemon(h);
    if (h->start_err == 0) {
        h->serving = true;
    }
    sem_post(&h->started);
    if (h->serving) {
        serve(h);
    }
    MHD_stop_daemon(h->daemon);
    return NULL;
}

/* --- start and stop -----------------------------------------------------------------------------
 */

/* A socket that listens on the address given and on no other, except that "::" is all addresses of
 * both kinds. -1: *reason tells why. */
static int listen_on(const struct addrinfo *at, const char **reason)
{
    int on = 1;
    int off = 0;
    int fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
        (at->ai_family == AF_INET6 &&
         setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off) != 0) ||
        bind(fd, at->ai_addr, at->ai_addrlen) != 0 || listen(fd, SOMAXCONN) != 0) {
        *reason = strerror(errno);
        if (fd >= 0) {
            close(fd);
        }
        return -1;
    }
    return fd;
}

static uint16_t port_of(int fd)
{
    struct sockaddr_storage addr = {0};
    socklen_t len = sizeof addr;
    if (getsockname(fd, (struct sockaddr *)&addr, &len) != 0) {
        return 0;
    }
    if (addr.ss_family == AF_INET6) {
        struct sockaddr_in6 in6;
        memcpy(&in6, &addr, sizeof in6);
        return ntohs(in6.sin6_port);
    }
    struct sockaddr_in in;
    memcpy(&in, &addr, sizeof in);
    return ntohs(in.sin_port);
}

static int open_listener(struct mm_http *h,
                         const struct mm_http_options *opts,
                         char *errstr,
                         size_t errstr_len)
{
    char port[8];
    snprintf(port, sizeof port, "%u", (unsigned int)opts->port);
    struct addrinfo hints = {
        .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE,
        .ai_socktype = SOCK_STREAM,
    };
    struct addrinfo *found = NULL;
    const char *reason = "not a numeric IPv4 or IPv6 address";
    if (getaddrinfo(opts->address, port, &hints, &found) == 0) {
        h->listen_fd = listen_on(found, &reason);
        freeaddrinfo(found);
    }
    if (h->listen_fd < 0) {
        snprintf(errstr, errstr_len, "health_port %s on %s: %s", port, opts->address, reason);
        return MM_EHTTP;
    }
    h->port = port_of(h->listen_fd);
    return 0;
}

/* Make the thread and wait until the library runs in it. */
static int start_thread(struct mm_http *h, const char **reason)
{
    h->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (h->stop_fd < 0) {
        *reason = strerror(errno);
        return MM_EHTTP;
    }
    int err = mm_thread_start("mm-http", http_main, h, &h->thread);
    if (err != 0) {
        *reason = strerror(err);
        return MM_EHTTP;
    }
    while (sem_wait(&h->started) != 0) {
        continue; /* EINTR is the only reason */
    }
    if (h->start_err != 0) {
        *reason = "libmicrohttpd could not be started";
        pthread_join(h->thread, NULL);
    }
    return h->start_err;
}

static void close_all(struct mm_http *h)
{
    if (h->listen_fd >= 0) {
        close(h->listen_fd);
    }
    if (h->stop_fd >= 0) {
        close(h->stop_fd);
    }
    sem_destroy(&h->started);
    mm_status_free(h->status);
    free(h);
}

int mm_http_start(const struct mm_http_options *opts,
                  struct mm_http **out,
                  char *errstr,
                  size_t errstr_len)
{
    *out = NULL;
    struct mm_http *h = calloc(1, sizeof *h);
    if (h == NULL) {
        snprintf(errstr, errstr_len, "%s", mm_strerror(MM_ENOMEM));
        return MM_ENOMEM;
    }
    h->metrics = opts->metrics;
    h->spool = opts->spool;
    h->dead = opts->dead;
    h->log = opts->log;
    h->listen_fd = -1;
    h->stop_fd = -1;
    sem_init(&h->started, 0, 0);

    const char *reason = "";
    int err = mm_status_new(opts->metrics, opts->spool, &h->status);
    if (err != 0) {
        snprintf(errstr, errstr_len, "%s", mm_strerror(err));
        goto fail;
    }
    err = open_listener(h, opts, errstr, errstr_len);
    if (err != 0) {
        goto fail;
    }
    count_servers(1);
    err = start_thread(h, &reason);
    if (err != 0) {
        count_servers(-1);
        snprintf(errstr, errstr_len, "health_port %u on %s: %s", (unsigned int)opts->port,
                 opts->address, reason);
        goto fail;
    }
    *out = h;
    return 0;
fail:
    close_all(h);
    return err;
}

uint16_t mm_http_port(const struct mm_http *h)
{
    return h->port;
}

void mm_http_stop(struct mm_http *h)
{
    if (h == NULL) {
        return;
    }
    eventfd_write(h->stop_fd, 1);
    pthread_join(h->thread, NULL);
    count_servers(-1);
    close_all(h);
}
