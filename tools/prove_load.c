#include "prove_load.h"

#include "mm_clock.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define NS_PER_MS UINT64_C(1000000)
#define WINDOW 20 /* messages of a client that are not acknowledged; Mosquitto's own limit */
#define OUT_LEN ((size_t)64 * 1024)
#define IN_LEN 512
#define SLACK 512 /* for the head of a PUBLISH, and a PUBREL for all of the window */
#define RETRY_NS (20 * NS_PER_MS)
#define TURN_MS 2
#define HEAD_LEN 30 /* of a payload: "RRRRRRRR CCCC NNNNNNNNNNNNNNNN" */

enum {
    CONNECT = 0x10,
    CONNACK = 0x20,
    PUBLISH_QOS_1 = 0x32,
    PUBLISH_QOS_2 = 0x34,
    PUBACK = 0x40,
    PUBREC = 0x50,
    PUBREL = 0x62,
    PUBCOMP = 0x70,
};

enum client_state {
    CLIENT_DOWN,
    CLIENT_GREETING, /* CONNECT is on its way */
    CLIENT_UP,
};

struct client
{
    uint32_t number;
    enum client_state state;
    int fd;
    uint64_t retry_ns;
    uint64_t n_made;
    _Atomic uint64_t n_acked;
    uint64_t n_done; /* those of them that the broker will say no more about */
    uint64_t next;   /* to be sent by this connection */
    uint8_t in[IN_LEN];
    size_t in_len;
    uint8_t *out;
    size_t out_begin;
    size_t out_end;
};

struct prove_load
{
    struct prove_load_options opts;
    struct client *clients;
    struct pollfd *polls;
    pthread_t thread;
    atomic_bool stop;
    _Atomic uint64_t stop_at_ns;
    _Atomic uint64_t n_made;
    _Atomic uint64_t n_acked;
    _Atomic uint64_t n_connections;
    _Atomic uint32_t n_up; /* clients with a connection */
    _Atomic uint64_t n_sent_again;
    uint32_t first; /* client to be served */
    double tokens;  /* messages that may be made now */
    double factor;  /* of the rate, just now */
    uint64_t factor_until_ns;
    uint64_t turn_ns; /* of the last turn */
    unsigned int seed;
};

/* --- messages -----------------------------------------------------------------------------------
 */

/* splitmix64 */
static uint64_t mix(uint64_t x)
{
    x += UINT64_C(0x9E3779B97F4A7C15);
    x = (x ^ x >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    x = (x ^ x >> 27) * UINT64_C(0x94D049BB133111EB);
    return x ^ x >> 31;
}

size_t prove_message(const struct prove_load_options *opts,
                     uint32_t client,
                     uint64_t n,
                     char topic[PROVE_TOPIC_LEN],
                     uint8_t payload[PROVE_PAYLOAD_MAX])
{
    snprintf(topic, PROVE_TOPIC_LEN, "prove/%08" PRIx32 "/%" PRIu32 "/%" PRIu64, opts->run, client,
             n % opts->n_topics);
    uint64_t state = mix((uint64_t)opts->run << 32 ^ mix((uint64_t)client << 48 ^ n));
    size_t len = PROVE_PAYLOAD_MIN + state % (opts->payload_max - PROVE_PAYLOAD_MIN + 1);
    char head[HEAD_LEN + 1];
    snprintf(head, sizeof head, "%08" PRIx32 " %04" PRIx32 " %016" PRIx64, opts->run,
             client & 0xFFFF, n);
    memcpy(payload, head, HEAD_LEN);
    for (size_t i = HEAD_LEN; i < len; i++) {
        payload[i] = (uint8_t)(mix(state + i / 8) >> i % 8 * 8);
    }
    return len;
}

bool prove_which(const struct prove_load_options *opts,
                 const uint8_t *payload,
                 size_t len,
                 uint32_t *client,
                 uint64_t *n)
{
    char head[HEAD_LEN + 1];
    if (len < PROVE_PAYLOAD_MIN || len > PROVE_PAYLOAD_MAX) {
        return false;
    }
    memcpy(head, payload, HEAD_LEN);
    head[HEAD_LEN] = '\0';
    char *end;
    if (strtoul(head, &end, 16) != opts->run || end != head + 8) {
        return false;
    }
    *client = (uint32_t)strtoul(head + 9, NULL, 16);
    *n = strtoull(head + 14, NULL, 16);
    return *client < opts->n_clients;
}

/* --- packets ------------------------------------------------------------------------------------
 */

static size_t put_u16(uint8_t *dst, size_t value)
{
    dst[0] = (uint8_t)(value >> 8);
    dst[1] = (uint8_t)value;
    return 2;
}

/* Type and remaining length. */
static size_t put_head(uint8_t *dst, uint8_t type, size_t remaining)
{
    size_t n = 0;
    dst[n++] = type;
    do {
        dst[n++] = (uint8_t)((remaining & 0x7F) | (remaining > 0x7F ? 0x80 : 0));
        remaining >>= 7;
    } while (remaining > 0);
    return n;
}

static void append_connect(const struct prove_load *l, struct client *c)
{
    static const uint8_t fixed[] = {0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 0}; /* a clean session */
    char id[32];
    size_t id_len =
        (size_t)snprintf(id, sizeof id, "prove-%08" PRIx32 "-%" PRIu32, l->opts.run, c->number);
    uint8_t *p = c->out;
    p += put_head(p, CONNECT, sizeof fixed + 2 + id_len);
    memcpy(p, fixed, sizeof fixed);
    p += sizeof fixed;
    p += put_u16(p, id_len);
    memcpy(p, id, id_len);
    c->out_begin = 0;
    c->out_end = (size_t)(p - c->out) + id_len;
}

static uint16_t packet_id(uint64_t n)
{
    return (uint16_t)(n % UINT16_MAX + 1);
}

static void append_publish(struct prove_load *l, struct client *c)
{
    char topic[PROVE_TOPIC_LEN];
    uint8_t payload[PROVE_PAYLOAD_MAX];
    size_t len = prove_message(&l->opts, c->number, c->next, topic, payload);
    size_t topic_len = strnlen(topic, sizeof topic);
    uint8_t *p = c->out + c->out_end;
    p += put_head(p, l->opts.qos == 2 ? PUBLISH_QOS_2 : PUBLISH_QOS_1, 2 + topic_len + 2 + len);
    p += put_u16(p, topic_len);
    memcpy(p, topic, topic_len);
    p += topic_len;
    p += put_u16(p, packet_id(c->next));
    memcpy(p, payload, len);
    c->out_end = (size_t)(p - c->out) + len;
}

static void append_release(struct client *c, uint64_t n)
{
    uint8_t *p = c->out + c->out_end;
    p += put_head(p, PUBREL, 2);
    p += put_u16(p, packet_id(n));
    c->out_end = (size_t)(p - c->out);
}

/* --- connections --------------------------------------------------------------------------------
 */

static void let_go(struct prove_load *l, struct client *c, uint64_t now)
{
    atomic_fetch_sub(&l->n_up, c->state == CLIENT_UP);
    if (c->fd >= 0) {
        close(c->fd);
    }
    c->fd = -1;
    c->state = CLIENT_DOWN;
    c->retry_ns = now + RETRY_NS;
}

static void come(struct prove_load *l, struct client *c, uint64_t now)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons(l->opts.port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (c->fd < 0 || (connect(c->fd, (const struct sockaddr *)&address, sizeof address) != 0 &&
                      errno != EINPROGRESS)) {
        let_go(l, c, now);
        return;
    }
    int one = 1;
    (void)setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    c->state = CLIENT_GREETING;
    c->in_len = 0;
    append_connect(l, c);
}

/* False: the connection is gone. */
static bool flush(struct client *c)
{
    while (c->out_begin < c->out_end) {
        ssize_t n = send(c->fd, c->out + c->out_begin, c->out_end - c->out_begin, MSG_NOSIGNAL);
        if (n < 0) {
            return errno == EAGAIN || errno == EINTR || errno == ENOTCONN;
        }
        c->out_begin += (size_t)n;
    }
    c->out_begin = c->out_end = 0;
    return true;
}

/* False: it is not what may come now. */
static bool take_packet(struct prove_load *l, struct client *c, const uint8_t *packet)
{
    if (c->state == CLIENT_GREETING) {
        if (packet[0] != CONNACK || packet[3] != 0) {
            return false;
        }
        c->state = CLIENT_UP;
        atomic_fetch_add(&l->n_up, 1);
        atomic_fetch_add(&l->n_connections, 1);
        atomic_fetch_add(&l->n_sent_again, c->next - c->n_acked);
        c->next = c->n_acked;
        c->n_done = c->n_acked; /* a clean session: it has no releases */
        return true;
    }
    int id = packet[2] << 8 | packet[3];
    if (l->opts.qos == 2 && packet[0] == PUBCOMP) {
        if (c->n_done >= c->n_acked || id != packet_id(c->n_done)) {
            return false;
        }
        c->n_done++;
        return true;
    }
    /* In the order in which they were published (MQTT 3.1.1, 4.6). */
    if (packet[0] != (l->opts.qos == 2 ? PUBREC : PUBACK) || c->n_acked >= c->next ||
        id != packet_id(c->n_acked)) {
        return false;
    }
    if (l->opts.qos == 2) {
        append_release(c, c->n_acked);
    } else {
        c->n_done++;
    }
    c->n_acked++;
    atomic_fetch_add(&l->n_acked, 1);
    return true;
}

/* False: the connection is to end. */
static bool receive(struct prove_load *l, struct client *c)
{
    ssize_t n = recv(c->fd, c->in + c->in_len, sizeof c->in - c->in_len, 0);
    if (n < 0) {
        return errno == EAGAIN || errno == EINTR;
    }
    c->in_len += (size_t)n;
    size_t at = 0;
    for (; c->in_len - at >= 4; at += 4) { /* CONNACK and PUBACK are of four bytes both */
        if (!take_packet(l, c, c->in + at)) {
            return false;
        }
    }
    c->in_len -= at;
    memmove(c->in, c->in + at, c->in_len);
    return n > 0;
}

/* --- the thread ---------------------------------------------------------------------------------
 */

/* Put what may go out now into the buffer. */
static void fill(struct prove_load *l, struct client *c, bool may_make)
{
    while (c->next - c->n_done < WINDOW && OUT_LEN - c->out_end > PROVE_PAYLOAD_MAX + SLACK) {
        if (c->next == c->n_made) {
            if (!may_make || l->tokens < 1) {
                return;
            }
            l->tokens -= 1;
            c->n_made++;
            atomic_fetch_add(&l->n_made, 1);
        }
        append_publish(l, c);
        c->next++;
    }
}

/* Pauses, a trickle, the rate, bursts. */
static void earn_tokens(struct prove_load *l, uint64_t now)
{
    static const double factors[] = {0, 0.1, 1, 1, 1, 3};
    if (now >= l->factor_until_ns) {
        l->factor = factors[(size_t)rand_r(&l->seed) % (sizeof factors / sizeof factors[0])];
        l->factor_until_ns = now + (uint64_t)(50 + rand_r(&l->seed) % 950) * NS_PER_MS;
    }
    double earned = (double)(now - l->turn_ns) / 1e9 * l->opts.rate * l->factor;
    double most = l->opts.rate / 10.0 + 1;
    l->tokens = l->tokens + earned > most ? most : l->tokens + earned;
    l->turn_ns = now;
}

static void turn(struct prove_load *l)
{
    uint64_t now = mm_clock_monotonic_ns();
    bool may_make = !atomic_load(&l->stop);
    earn_tokens(l, now);
    for (uint32_t i = 0; i < l->opts.n_clients; i++) {
        struct client *c = &l->clients[i];
        if (c->state == CLIENT_DOWN && now >= c->retry_ns) {
            come(l, c, now);
        }
    }
    l->first = l->first + 1 < l->opts.n_clients ? l->first + 1 : 0; /* each has its share */
    for (uint32_t i = 0; i < l->opts.n_clients; i++) {
        uint32_t k = l->first + i;
        struct client *c = &l->clients[k < l->opts.n_clients ? k : k - l->opts.n_clients];
        if (c->state == CLIENT_UP) {
            fill(l, c, may_make);
        }
    }
    for (uint32_t i = 0; i < l->opts.n_clients; i++) {
        struct client *c = &l->clients[i];
        if (c->state != CLIENT_DOWN && !flush(c)) {
            let_go(l, c, now);
        }
        short more = c->out_begin < c->out_end ? POLLOUT : 0;
        l->polls[i] = (struct pollfd){.fd = c->fd, .events = (short)(POLLIN | more)};
    }
    (void)poll(l->polls, l->opts.n_clients, TURN_MS);
    now = mm_clock_monotonic_ns();
    for (uint32_t i = 0; i < l->opts.n_clients; i++) {
        struct client *c = &l->clients[i];
        if (c->state != CLIENT_DOWN && (l->polls[i].revents & (POLLIN | POLLHUP | POLLERR)) != 0 &&
            !receive(l, c)) {
            let_go(l, c, now);
        }
    }
}

static bool all_acked(const struct prove_load *l)
{
    return atomic_load(&l->n_acked) == atomic_load(&l->n_made);
}

static void *load_main(void *arg)
{
    struct prove_load *l = arg;
    while (!atomic_load(&l->stop) ||
           (!all_acked(l) && mm_clock_monotonic_ns() < atomic_load(&l->stop_at_ns))) {
        turn(l);
    }
    for (uint32_t i = 0; i < l->opts.n_clients; i++) {
        let_go(l, &l->clients[i], 0);
    }
    return NULL;
}

static bool make_clients(struct prove_load *l)
{
    l->clients = calloc(l->opts.n_clients, sizeof *l->clients);
    l->polls = calloc(l->opts.n_clients, sizeof *l->polls);
    if (l->clients == NULL || l->polls == NULL) {
        return false;
    }
    for (uint32_t i = 0; i < l->opts.n_clients; i++) {
        l->clients[i].number = i;
        l->clients[i].fd = -1;
        l->clients[i].out = malloc(OUT_LEN);
        if (l->clients[i].out == NULL) {
            return false;
        }
    }
    return true;
}

bool prove_load_start(const struct prove_load_options *opts, struct prove_load **out)
{
    struct prove_load *l = calloc(1, sizeof *l);
    *out = l;
    if (l == NULL) {
        return false;
    }
    l->opts = *opts;
    l->seed = opts->run;
    l->turn_ns = mm_clock_monotonic_ns();
    if (!make_clients(l) || pthread_create(&l->thread, NULL, load_main, l) != 0) {
        prove_load_free(l);
        *out = NULL;
        return false;
    }
    return true;
}

bool prove_load_stop(struct prove_load *l, uint32_t timeout_ms)
{
    atomic_store(&l->stop_at_ns, mm_clock_monotonic_ns() + timeout_ms * NS_PER_MS);
    atomic_store(&l->stop, true);
    pthread_join(l->thread, NULL);
    return all_acked(l);
}

void prove_load_figures(const struct prove_load *l, struct prove_load_figures *out)
{
    *out = (struct prove_load_figures){
        .n_made = atomic_load(&l->n_made),
        .n_acked = atomic_load(&l->n_acked),
        .n_connections = atomic_load(&l->n_connections),
        .n_sent_again = atomic_load(&l->n_sent_again),
    };
}

uint64_t prove_load_acked(const struct prove_load *l, uint32_t client)
{
    return l->clients[client].n_acked;
}

uint32_t prove_load_connected(const struct prove_load *l)
{
    return atomic_load(&l->n_up);
}

void prove_load_free(struct prove_load *l)
{
    if (l == NULL) {
        return;
    }
    for (uint32_t i = 0; l->clients != NULL && i < l->opts.n_clients; i++) {
        free(l->clients[i].out);
    }
    free(l->clients);
    free(l->polls);
    free(l);
}
