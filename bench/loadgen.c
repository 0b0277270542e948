/* loadgen - publishes to an MQTT 3.1.1 broker as fast as it takes it, or at a given rate, and
 * measures.
 *
 * One thread, one epoll, N connections, each with a buffer of packets to be written and, for QoS 1
 * and 2, a window of packet ids. The clock runs from the first PUBLISH to the moment when the
 * broker has handled the last one: its PUBACK or PUBCOMP, or for QoS 0 the answer to a PINGREQ
 * behind it.
 *
 * Message i goes out on connection i % N to topic i % T. When paced, message i is due at the start
 * plus i / rate, and its latency counts from then on, not from when it could be written: a broker
 * that stands still makes all the messages late that were due meanwhile.
 *
 * The time at the beginning of a payload (payload.h) is when it was due, or at full speed made. */
#include "payload.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S UINT64_C(1000000000)

#define PREFIX_MAX_LEN 200
#define PAYLOAD_MAX_LEN ((size_t)1024 * 1024)
#define CONNECTIONS_MAX 20000
#define TOPICS_MAX 1000000
#define WINDOW_MAX 65535
#define BATCH_LEN ((size_t)64 * 1024) /* written at once, when there is that much */
#define INPUT_LEN (16 * 1024)
#define SMALL_MAX_LEN 4 /* of any packet but CONNECT and PUBLISH */

/* First bytes of the packets (MQTT 3.1.1 section 2.2). */
enum {
    CONNECT = 0x10,
    CONNACK = 0x20,
    PUBLISH = 0x30,
    PUBACK = 0x40,
    PUBREC = 0x50,
    PUBREL = 0x62,
    PUBCOMP = 0x70,
    PINGREQ = 0xC0,
    PINGRESP = 0xD0,
    DISCONNECT = 0xE0,
};

struct settings
{
    struct sockaddr_in address;
    uint64_t n_messages;
    uint64_t rate; /* messages a second over all connections; 0: as fast as possible */
    uint32_t n_connections;
    uint32_t n_topics;
    uint32_t window;
    uint32_t payload_len;
    uint32_t timeout_s; /* without any progress */
    uint32_t watched;   /* a process whose CPU time is told; 0: none */
    uint8_t qos;
    const char *prefix; /* of the topics */
};

/* CPU time of a process since it began, ns. */
struct cpu
{
    uint64_t main;    /* of its first thread */
    uint64_t process; /* of all, those that have ended included */
};

struct connection
{
    int fd;
    bool wants_write; /* EPOLLOUT is asked for */
    bool pinged;      /* QoS 0: the last PINGREQ is out */
    bool done;
    uint64_t next; /* index of the next message of this connection */

    uint8_t *out;
    size_t out_begin;
    size_t out_end;

    uint8_t in[INPUT_LEN];
    size_t in_len;

    uint16_t *free_ids; /* a stack */
    uint32_t n_free;
    uint64_t *due_ns; /* by packet id; when paced */
};

struct load
{
    struct settings set;
    struct connection *connections;
    uint32_t n_done;
    int epoll_fd;
    int timer_fd; /* -1: not paced */
    size_t out_size;
    uint64_t start_ns;
    uint64_t n_sent;
    uint64_t n_finished; /* PUBACK or PUBCOMP */

    uint8_t *packet; /* a PUBLISH, whole; the changing parts are written in place */
    size_t packet_len;
    size_t topic_at; /* of its TOPIC_DIGITS, in packet */
    size_t id_at;
    size_t payload_at;

    uint32_t *latencies_us; /* one for each message finished; when paced and QoS >= 1 */

    /* Of the watched process, without what it did to connect and disconnect us. */
    struct cpu cpu_start;
    struct cpu cpu_end;
};

static void die(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));

static void die(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fputs("loadgen: ", stderr);
    vfprintf(stderr, fmt, args);
    fputc('\n', stderr);
    va_end(args);
    exit(EXIT_FAILURE);
}

static void *allocate(size_t n, size_t size)
{
    void *memory = calloc(n, size);
    if (memory == NULL) {
        die("no memory for %zu times %zu bytes", n, size);
    }
    return memory;
}

static uint64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

/* The scheduler's own account, to the ns: utime and stime of .../stat are in steps of 10 ms. */
static struct cpu cpu_of(uint32_t pid)
{
    struct cpu cpu = {0};
    if (pid == 0) {
        return cpu;
    }
    char path[64];
    snprintf(path, sizeof path, "/proc/%" PRIu32 "/task/%" PRIu32 "/schedstat", pid, pid);
    FILE *f = fopen(path, "r");
    char text[64] = "";
    if (f == NULL || fgets(text, sizeof text, f) == NULL) {
        die("--watch %" PRIu32 ": %s: %s", pid, path, strerror(errno));
    }
    fclose(f);
    char *end;
    cpu.main = strtoull(text, &end, 10);
    struct timespec ts;
    clockid_t clock;
    if (end == text || clock_getcpuclockid((pid_t)pid, &clock) != 0 ||
        clock_gettime(clock, &ts) != 0) {
        die("--watch %" PRIu32 ": there is no such account", pid);
    }
    cpu.process = (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
    return cpu;
}

/* --- packets ------------------------------------------------------------------------------------
 */

static void put_u16(uint8_t *dst, uint32_t value)
{
    dst[0] = (uint8_t)(value >> 8);
    dst[1] = (uint8_t)value;
}

/* Write the remaining length (section 2.2.3); returns its own length. */
static size_t put_remaining(uint8_t *dst, size_t value)
{
    size_t n = 0;
    do {
        uint8_t byte = value & 0x7F;
        value >>= 7;
        dst[n++] = (uint8_t)(byte | (value > 0 ? 0x80 : 0));
    } while (value > 0);
    return n;
}

/* Make the PUBLISH that all others are copies of. */
static void make_packet(struct load *l)
{
    const struct settings *s = &l->set;
    size_t prefix_len = strlen(s->prefix);
    size_t topic_len = prefix_len + TOPIC_DIGITS;
    size_t rest = 2 + topic_len + (s->qos > 0 ? 2 : 0) + s->payload_len;
    uint8_t *p = allocate(1, rest + 5);
    l->packet = p;
    *p++ = (uint8_t)(PUBLISH | (s->qos << 1));
    p += put_remaining(p, rest);
    put_u16(p, (uint32_t)topic_len);
    memcpy(p + 2, s->prefix, prefix_len);
    l->topic_at = (size_t)(p - l->packet) + 2 + prefix_len;
    l->id_at = l->topic_at + TOPIC_DIGITS;
    l->payload_at = l->id_at + (s->qos > 0 ? 2 : 0);
    l->packet_len = l->payload_at + s->payload_len;
    put_digits(l->packet + l->topic_at, TOPIC_DIGITS, 0);
    make_payload(l->packet + l->payload_at, s->payload_len);
}

static void append_small(struct load *l, struct connection *c, uint8_t type, const uint8_t *id)
{
    if (l->out_size - c->out_end < SMALL_MAX_LEN) {
        die("the output buffer is full of acknowledgements");
    }
    uint8_t *p = c->out + c->out_end;
    *p++ = type;
    *p++ = id != NULL ? 2 : 0;
    if (id != NULL) {
        memcpy(p, id, 2);
        p += 2;
    }
    c->out_end = (size_t)(p - c->out);
}

/* Append message `index`, with a packet id if the QoS needs one. */
static void append_publish(struct load *l, struct connection *c, uint64_t index, uint64_t stamp_ns)
{
    uint8_t *p = c->out + c->out_end;
    memcpy(p, l->packet, l->packet_len);
    if (l->set.n_topics > 1) {
        put_digits(p + l->topic_at, TOPIC_DIGITS, index % l->set.n_topics);
    }
    if (l->set.qos > 0) {
        uint16_t id = c->free_ids[--c->n_free];
        put_u16(p + l->id_at, id);
        c->due_ns[id] = stamp_ns;
    }
    if (l->set.payload_len >= STAMP_LEN) {
        put_digits(p + l->payload_at, STAMP_LEN, stamp_ns);
    }
    c->out_end += l->packet_len;
    l->n_sent++;
}

/* --- connections --------------------------------------------------------------------------------
 */

static void write_whole(int fd, const uint8_t *data, size_t len)
{
    while (len > 0) {
        ssize_t n = write(fd, data, len);
        if (n < 0) {
            die("write: %s", strerror(errno));
        }
        data += n;
        len -= (size_t)n;
    }
}

/* CONNECT with a clean session and no keep-alive, and wait for the answer. */
static void log_in(int fd, uint32_t number)
{
    char client_id[32];
    size_t id_len = (size_t)snprintf(client_id, sizeof client_id, "loadgen-%" PRIu32, number);
    static const uint8_t head[] = {0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 0};
    uint8_t packet[64];
    packet[0] = CONNECT;
    packet[1] = (uint8_t)(sizeof head + 2 + id_len);
    memcpy(packet + 2, head, sizeof head);
    put_u16(packet + 2 + sizeof head, (uint32_t)id_len);
    memcpy(packet + 4 + sizeof head, client_id, id_len);
    write_whole(fd, packet, 4 + sizeof head + id_len);

    uint8_t answer[4];
    size_t len = 0;
    while (len < sizeof answer) {
        ssize_t n = read(fd, answer + len, sizeof answer - len);
        if (n <= 0) {
            die("no CONNACK: %s", n < 0 ? strerror(errno) : "closed");
        }
        len += (size_t)n;
    }
    if (answer[0] != CONNACK || answer[3] != 0) {
        die("the broker refused the connection with code %u", answer[3]);
    }
}

static void open_connection(struct load *l, uint32_t number)
{
    struct connection *c = &l->connections[number];
    c->next = number;
    c->out = allocate(1, l->out_size);
    if (l->set.qos > 0) {
        c->free_ids = allocate(l->set.window, sizeof *c->free_ids);
        c->due_ns = allocate((size_t)l->set.window + 1, sizeof *c->due_ns);
        for (uint32_t i = 0; i < l->set.window; i++) {
            c->free_ids[i] = (uint16_t)(l->set.window - i);
        }
        c->n_free = l->set.window;
    }
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0) {
        die("socket: %s", strerror(errno));
    }
    if (connect(c->fd, (const struct sockaddr *)&l->set.address, sizeof l->set.address) != 0) {
        die("connect: %s", strerror(errno));
    }
    int one = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    log_in(c->fd, number);
    if (fcntl(c->fd, F_SETFL, O_NONBLOCK) != 0) {
        die("fcntl: %s", strerror(errno));
    }
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    if (epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, c->fd, &event) != 0) {
        die("epoll_ctl: %s", strerror(errno));
    }
}

static void want_write(struct load *l, struct connection *c, bool wanted)
{
    if (c->wants_write == wanted) {
        return;
    }
    c->wants_write = wanted;
    struct epoll_event event = {.events = wanted ? EPOLLIN | EPOLLOUT : EPOLLIN, .data.ptr = c};
    if (epoll_ctl(l->epoll_fd, EPOLL_CTL_MOD, c->fd, &event) != 0) {
        die("epoll_ctl: %s", strerror(errno));
    }
}

/* True: all is written. */
static bool flush(struct connection *c)
{
    while (c->out_begin < c->out_end) {
        ssize_t n = write(c->fd, c->out + c->out_begin, c->out_end - c->out_begin);
        if (n < 0 && errno == EAGAIN) {
            return false;
        }
        if (n < 0) {
            die("the broker closed a connection: write: %s", strerror(errno));
        }
        c->out_begin += (size_t)n;
    }
    c->out_begin = 0;
    c->out_end = 0;
    return true;
}

static uint64_t due_ns(const struct load *l, uint64_t index)
{
    uint64_t whole_s = index / l->set.rate;
    uint64_t rest = index % l->set.rate;
    return l->start_ns + whole_s * NS_PER_S + rest * NS_PER_S / l->set.rate;
}

/* May the connection's next message go out now? */
static bool may_send(const struct load *l, const struct connection *c, uint64_t now)
{
    if (c->next >= l->set.n_messages || (l->set.qos > 0 && c->n_free == 0)) {
        return false;
    }
    return l->set.rate == 0 || due_ns(l, c->next) <= now;
}

static void finish(struct load *l, struct connection *c)
{
    c->done = true;
    l->n_done++;
}

/* Fill the buffer with what may go out; behind the last QoS 0 message comes a PINGREQ. */
static void fill(struct load *l, struct connection *c, uint64_t now)
{
    while (may_send(l, c, now) && c->out_end < BATCH_LEN) {
        append_publish(l, c, c->next, l->set.rate > 0 ? due_ns(l, c->next) : now);
        c->next += l->set.n_connections;
    }
    if (l->set.qos == 0 && c->next >= l->set.n_messages && !c->pinged) {
        append_small(l, c, PINGREQ, NULL);
        c->pinged = true;
    }
}

/* Write until the socket takes no more or nothing may be sent. One batch a call, so that the
 * connections take turns. */
static void push(struct load *l, struct connection *c)
{
    uint64_t now = now_ns();
    if (c->out_begin == 0) {
        fill(l, c, now);
    }
    want_write(l, c, !flush(c) || may_send(l, c, now));
}

/* --- answers ------------------------------------------------------------------------------------
 */

static void take_finished(struct load *l, struct connection *c, const uint8_t *id_bytes)
{
    uint32_t id = (uint32_t)id_bytes[0] << 8 | id_bytes[1];
    if (id == 0 || id > l->set.window || c->n_free == l->set.window) {
        die("an acknowledgement of packet %" PRIu32 ", which was not sent", id);
    }
    if (l->latencies_us != NULL) {
        uint64_t us = (now_ns() - c->due_ns[id]) / 1000;
        l->latencies_us[l->n_finished] = us < UINT32_MAX ? (uint32_t)us : UINT32_MAX;
    }
    c->free_ids[c->n_free++] = (uint16_t)id;
    l->n_finished++;
    if (c->next >= l->set.n_messages && c->n_free == l->set.window) {
        finish(l, c);
    }
}

/* One packet of four or two bytes: the broker sends no others to a client without subscriptions. */
static void take_packet(struct load *l, struct connection *c, const uint8_t *packet)
{
    switch (packet[0]) {
        case PUBACK:
        case PUBCOMP:
            take_finished(l, c, packet + 2);
            break;
        case PUBREC:
            append_small(l, c, PUBREL, packet + 2);
            break;
        case PINGRESP:
            finish(l, c);
            break;
        default:
            die("an unexpected packet, type 0x%02X", packet[0]);
    }
}

/* A broker without TCP_NODELAY holds its next acknowledgement back until TCP has acknowledged the
 * one before. While we publish, each of our packets does that; behind the last it would take 40 ms.
 */
static void acknowledge_at_once(const struct load *l, const struct connection *c)
{
    if (c->next >= l->set.n_messages) {
        int one = 1;
        setsockopt(c->fd, IPPROTO_TCP, TCP_QUICKACK, &one, sizeof one);
    }
}

static void receive(struct load *l, struct connection *c)
{
    ssize_t n = read(c->fd, c->in + c->in_len, sizeof c->in - c->in_len);
    if (n < 0 && errno == EAGAIN) {
        return;
    }
    if (n <= 0) {
        die("the broker closed a connection: %s", n < 0 ? strerror(errno) : "end of file");
    }
    acknowledge_at_once(l, c);
    c->in_len += (size_t)n;
    size_t at = 0;
    while (c->in_len - at >= 2 && c->in_len - at >= (size_t)c->in[at + 1] + 2) {
        take_packet(l, c, c->in + at);
        at += (size_t)c->in[at + 1] + 2;
    }
    c->in_len -= at;
    memmove(c->in, c->in + at, c->in_len);
}

/* --- the run ------------------------------------------------------------------------------------
 */

/* Let the timer ring when the next message of all is due. */
static void set_timer(struct load *l)
{
    uint64_t next = UINT64_MAX;
    for (uint32_t i = 0; i < l->set.n_connections; i++) {
        const struct connection *c = &l->connections[i];
        bool waits = c->next < l->set.n_messages && (l->set.qos == 0 || c->n_free > 0);
        next = waits && c->next < next ? c->next : next;
    }
    if (next == UINT64_MAX) {
        return;
    }
    uint64_t ns = due_ns(l, next);
    struct itimerspec when = {
        .it_value = {.tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S)},
    };
    if (timerfd_settime(l->timer_fd, TFD_TIMER_ABSTIME, &when, NULL) != 0) {
        die("timerfd_settime: %s", strerror(errno));
    }
}

static void on_timer(struct load *l)
{
    uint64_t n_expired;
    ssize_t n = read(l->timer_fd, &n_expired, sizeof n_expired);
    if (n < 0 && errno != EAGAIN) {
        die("timerfd: %s", strerror(errno));
    }
    uint64_t now = now_ns();
    for (uint32_t i = 0; i < l->set.n_connections; i++) {
        struct connection *c = &l->connections[i];
        if (may_send(l, c, now)) {
            push(l, c);
        }
    }
}

static void on_event(struct load *l, const struct epoll_event *event)
{
    struct connection *c = event->data.ptr;
    if (c == NULL) {
        on_timer(l);
        return;
    }
    if ((event->events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) {
        receive(l, c);
    }
    if (!c->done) {
        push(l, c);
    }
}

static void turn(struct load *l)
{
    struct epoll_event events[64];
    int n = epoll_wait(l->epoll_fd, events, 64, (int)l->set.timeout_s * 1000);
    if (n < 0 && errno != EINTR) {
        die("epoll_wait: %s", strerror(errno));
    }
    if (n == 0) {
        die("the broker did not answer for %" PRIu32 " s; %" PRIu64 " of %" PRIu64
            " messages are sent, %" PRIu64 " acknowledged",
            l->set.timeout_s, l->n_sent, l->set.n_messages, l->n_finished);
    }
    for (int i = 0; i < n; i++) {
        on_event(l, &events[i]);
    }
    if (l->timer_fd >= 0) {
        set_timer(l);
    }
}

static void add_timer(struct load *l)
{
    l->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    if (l->timer_fd < 0 || epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, l->timer_fd, &event) != 0) {
        die("timerfd: %s", strerror(errno));
    }
    if (l->set.qos > 0) {
        l->latencies_us = allocate(l->set.n_messages, sizeof *l->latencies_us);
    }
}

/* Publish everything. Returns the time at which the broker had handled it all. */
static uint64_t run(struct load *l)
{
    l->cpu_start = cpu_of(l->set.watched);
    l->start_ns = now_ns();
    for (uint32_t i = 0; i < l->set.n_connections; i++) {
        if (l->connections[i].next >= l->set.n_messages) {
            finish(l, &l->connections[i]); /* fewer messages than connections */
        } else {
            push(l, &l->connections[i]);
        }
    }
    if (l->timer_fd >= 0) {
        set_timer(l);
    }
    while (l->n_done < l->set.n_connections) {
        turn(l);
    }
    uint64_t end_ns = now_ns();
    l->cpu_end = cpu_of(l->set.watched);
    return end_ns;
}

static void start(struct load *l)
{
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    make_packet(l);
    /* A batch may be one packet longer than BATCH_LEN; behind it may come PUBRELs for a whole
     * window, or a PINGREQ. */
    l->out_size = BATCH_LEN + l->packet_len + ((size_t)l->set.window + 1) * SMALL_MAX_LEN;
    l->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (l->epoll_fd < 0) {
        die("epoll_create1: %s", strerror(errno));
    }
    l->connections = allocate(l->set.n_connections, sizeof *l->connections);
    for (uint32_t i = 0; i < l->set.n_connections; i++) {
        open_connection(l, i);
    }
    l->timer_fd = -1;
    if (l->set.rate > 0) {
        add_timer(l);
    }
}

static void stop(struct load *l)
{
    static const uint8_t disconnect[] = {DISCONNECT, 0};
    for (uint32_t i = 0; i < l->set.n_connections; i++) {
        struct connection *c = &l->connections[i];
        if (write(c->fd, disconnect, sizeof disconnect) != (ssize_t)sizeof disconnect) {
            die("DISCONNECT: %s", strerror(errno));
        }
        close(c->fd);
        free(c->out);
        free(c->free_ids);
        free(c->due_ns);
    }
    if (l->timer_fd >= 0) {
        close(l->timer_fd);
    }
    close(l->epoll_fd);
    free(l->connections);
    free(l->packet);
    free(l->latencies_us);
}

/* --- the report ---------------------------------------------------------------------------------
 */

static int compare_u32(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a;
    uint32_t y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* The value below or at which `permille` of 1000 lie; n > 0, sorted. */
static uint32_t quantile(const uint32_t *values, uint64_t n, uint32_t permille)
{
    uint64_t rank = (n * permille + 999) / 1000;
    return values[rank > 0 ? rank - 1 : 0];
}

static double seconds_of(struct timeval t)
{
    return (double)t.tv_sec + (double)t.tv_usec / 1e6;
}

static void print_report(struct load *l, uint64_t end_ns)
{
    double seconds = (double)(end_ns - l->start_ns) / (double)NS_PER_S;
    struct rusage usage = {0};
    getrusage(RUSAGE_SELF, &usage);
    printf("{\"messages\": %" PRIu64
           ", \"seconds\": %.6f, \"rate\": %.1f, \"qos\": %u, "
           "\"payload\": %" PRIu32 ", \"connections\": %" PRIu32 ", \"topics\": %" PRIu32
           ", \"start_ns\": %" PRIu64 ", \"end_ns\": %" PRIu64 ", \"cpu_seconds\": %.6f",
           l->n_sent, seconds, (double)l->n_sent / seconds, l->set.qos, l->set.payload_len,
           l->set.n_connections, l->set.n_topics, l->start_ns, end_ns,
           seconds_of(usage.ru_utime) + seconds_of(usage.ru_stime));
    if (l->latencies_us != NULL && l->n_finished > 0) {
        qsort(l->latencies_us, l->n_finished, sizeof *l->latencies_us, compare_u32);
        printf(", \"latency_us\": {\"p50\": %" PRIu32 ", \"p99\": %" PRIu32 ", \"p99.9\": %" PRIu32
               ", \"max\": %" PRIu32 "}",
               quantile(l->latencies_us, l->n_finished, 500),
               quantile(l->latencies_us, l->n_finished, 990),
               quantile(l->latencies_us, l->n_finished, 999),
               quantile(l->latencies_us, l->n_finished, 1000));
    }
    if (l->set.watched != 0) {
        printf(", \"watched\": {\"start\": {\"main_ns\": %" PRIu64 ", \"process_ns\": %" PRIu64
               "}, \"end\": {\"main_ns\": %" PRIu64 ", \"process_ns\": %" PRIu64 "}}",
               l->cpu_start.main, l->cpu_start.process, l->cpu_end.main, l->cpu_end.process);
    }
    puts("}");
}

/* --- the command line ---------------------------------------------------------------------------
 */

static const char usage_text[] =
    "usage: loadgen --port PORT [options]\n"
    "\n"
    "Publishes to the MQTT 3.1.1 broker at 127.0.0.1:PORT and prints one line of JSON.\n"
    "\n"
    "  --address A       a numeric IPv4 address instead of 127.0.0.1\n"
    "  --messages N      in all (100000)\n"
    "  --qos Q           0, 1 or 2 (0)\n"
    "  --size N          bytes of payload (100)\n"
    "  --connections N   (4)\n"
    "  --topics N        message i goes to topic i modulo N (1)\n"
    "  --prefix P        of the topics, which end with six digits (bench/t)\n"
    "  --window N        messages not yet acknowledged, for each connection, QoS 1 and 2 (100)\n"
    "  --rate N          messages a second over all connections; with QoS 1 and 2 the latency is\n"
    "                    measured, in microseconds from when a message is due to its end\n"
    "                    (0: as fast as the broker takes them)\n"
    "  --watch PID       tell the CPU time of this process at the beginning and at the end\n"
    "  --timeout S       give up when nothing moves for S seconds (60)\n";

static uint64_t parse_number(const char *name, const char *text, uint64_t min, uint64_t max)
{
    char *end = NULL;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || text[0] == '-' || value < min || value > max) {
        fprintf(stderr, "loadgen: --%s %s: expected a number from %" PRIu64 " to %" PRIu64 "\n",
                name, text, min, max);
        exit(2);
    }
    return value;
}

/* Options that are numbers. */
struct number_option
{
    const char *name;
    uint64_t min;
    uint64_t max;
    uint64_t value; /* the default, then what was given */
};

enum {
    OPT_PORT,
    OPT_MESSAGES,
    OPT_QOS,
    OPT_SIZE,
    OPT_CONNECTIONS,
    OPT_TOPICS,
    OPT_WINDOW,
    OPT_RATE,
    OPT_TIMEOUT,
    OPT_WATCH,
    N_NUMBER_OPTIONS,
    OPT_ADDRESS = N_NUMBER_OPTIONS,
    OPT_PREFIX,
    OPT_HELP,
    N_OPTIONS
};

static void usage_error(const char *what)
{
    fprintf(stderr, "loadgen: %s\n%s", what, usage_text);
    exit(2);
}

static void apply(struct settings *s, const struct number_option *numbers, const char *address)
{
    s->address.sin_family = AF_INET;
    s->address.sin_port = htons((uint16_t)numbers[OPT_PORT].value);
    if (numbers[OPT_PORT].value == 0) {
        usage_error("--port is missing");
    }
    if (inet_pton(AF_INET, address, &s->address.sin_addr) != 1) {
        usage_error("--address is no numeric IPv4 address");
    }
    if (strlen(s->prefix) > PREFIX_MAX_LEN) {
        usage_error("--prefix is too long");
    }
    s->n_messages = numbers[OPT_MESSAGES].value;
    s->qos = (uint8_t)numbers[OPT_QOS].value;
    s->payload_len = (uint32_t)numbers[OPT_SIZE].value;
    s->n_connections = (uint32_t)numbers[OPT_CONNECTIONS].value;
    s->n_topics = (uint32_t)numbers[OPT_TOPICS].value;
    s->window = (uint32_t)numbers[OPT_WINDOW].value;
    s->rate = numbers[OPT_RATE].value;
    s->timeout_s = (uint32_t)numbers[OPT_TIMEOUT].value;
    s->watched = (uint32_t)numbers[OPT_WATCH].value;
}

static void parse_command_line(int argc, char **argv, struct settings *s)
{
    struct number_option numbers[N_NUMBER_OPTIONS] = {
        [OPT_PORT] = {"port", 1, 65535, 0},
        [OPT_MESSAGES] = {"messages", 1, UINT32_MAX, 100000},
        [OPT_QOS] = {"qos", 0, 2, 0},
        [OPT_SIZE] = {"size", 0, PAYLOAD_MAX_LEN, 100},
        [OPT_CONNECTIONS] = {"connections", 1, CONNECTIONS_MAX, 4},
        [OPT_TOPICS] = {"topics", 1, TOPICS_MAX, 1},
        [OPT_WINDOW] = {"window", 1, WINDOW_MAX, 100},
        [OPT_RATE] = {"rate", 0, 10000000, 0},
        [OPT_TIMEOUT] = {"timeout", 1, 86400, 60},
        [OPT_WATCH] = {"watch", 0, INT32_MAX, 0},
    };
    struct option options[N_OPTIONS + 1] = {
        [OPT_ADDRESS] = {"address", required_argument, NULL, OPT_ADDRESS},
        [OPT_PREFIX] = {"prefix", required_argument, NULL, OPT_PREFIX},
        [OPT_HELP] = {"help", no_argument, NULL, OPT_HELP},
    };
    for (int i = 0; i < N_NUMBER_OPTIONS; i++) {
        options[i] = (struct option){numbers[i].name, required_argument, NULL, i};
    }
    const char *address = "127.0.0.1";
    s->prefix = "bench/t";
    int found;
    while ((found = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (found == OPT_HELP) {
            fputs(usage_text, stdout);
            exit(EXIT_SUCCESS);
        } else if (found == OPT_ADDRESS) {
            address = optarg;
        } else if (found == OPT_PREFIX) {
            s->prefix = optarg;
        } else if (found >= 0 && found < N_NUMBER_OPTIONS) {
            struct number_option *n = &numbers[found];
            n->value = parse_number(n->name, optarg, n->min, n->max);
        } else {
            usage_error("what is meant?");
        }
    }
    if (optind != argc) {
        usage_error("there are arguments that are not options");
    }
    apply(s, numbers, address);
}

int main(int argc, char **argv)
{
    struct load load = {0};
    parse_command_line(argc, argv, &load.set);
    start(&load);
    uint64_t end_ns = run(&load);
    print_report(&load, end_ns);
    stop(&load);
    return ferror(stdout) != 0 || fflush(stdout) != 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
