#include "mm_kafka.h"

#include "mm_clock.h"
#include "mm_contact.h"
#include "mm_error.h"
#include "mm_json.h"
#include "mm_kafka_impl.h"
#include "mm_linger.h"
#include "mm_log.h"

#include <inttypes.h>
#include <librdkafka/rdkafka.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* So many pages of statistics in a row have to say that the connection is down, or up, before it is
 * taken for more than a moment's state. */
#define MIN_DOWN_STATISTICS 3
#define MIN_UP_STATISTICS 3

/* After the first message is handed over the client is hurried, again after twice the time, and so
 * on, until the time would be longer than the last. */
#define HURRY_FIRST_NS (10 * UINT64_C(1000000))
#define HURRY_LAST_NS (640 * UINT64_C(1000000))

/* The system's clock is adjusted by less than this all the time; by more it is set. */
#define CLOCK_STEP_MS 1000

/* Kafka forgets a producer that has been silent in a partition for so long (a day by default), and
 * the partition is to be warmed anew; well before that. */
#define WARM_NS (600 * UINT64_C(1000000000))

/* Of Kafka topics by their names. */
#define N_BUCKETS 512

/* The client sends no more to a partition that has so many messages on the wire. */
#define FREE_BELOW 5

#define PUSH_MS 1

#define LINE_INTERVAL_NS (60 * UINT64_C(1000000000))

struct partition
{
    uint64_t acked_ns; /* CLOCK_MONOTONIC of the last acknowledgement; 0: none */
    uint64_t n_out;    /* messages that should be in it, whose report is still to come */
    bool warming;      /* its first message is out */
};

/* Kept for the life of the producer: librdkafka before 2.10.1 takes up to 1.7 s for the first
 * message to a topic that is given by name each time (#5032). */
struct topic
{
    struct topic *next;
    rd_kafka_topic_t *handle;
    mm_kafka_partitioner_fn partitioner;
    uint64_t n_out; /* messages whose report is still to come */
    bool finding;   /* the one that is out was sent before its partition was known */

    /* Written by whichever thread assigns a partition, read by the owner; 0: not known yet. */
    _Atomic int32_t n_partitions;

    /* The other way: of the message without a key that was handed over last. While the client
     * assigns partitions on a thread of its own, because the topic is not known yet, no other is
     * out: see may_send(). */
    _Atomic int32_t spread;

    struct partition *partitions;
    int32_t n_known; /* of partitions */
};

struct mm_kafka
{
    rd_kafka_t *rk;
    int wake_fd;         /* readable when there is something to be served; -1: there is none */
    uint64_t now_ns;     /* CLOCK_MONOTONIC when it was last polled: exact enough for a message */
    int64_t clock_ms;    /* what the system's clock is ahead of CLOCK_MONOTONIC by */
    bool clock_set_back; /* since the producer was made */
    struct topic *topics[N_BUCKETS]; /* by name */
    mm_kafka_partitioner_fn partitioner;

    mm_kafka_report_fn on_report;
    void *arg;
    struct mm_log *log;
    size_t max_message;

    bool loose;
    bool careful;
    bool pushes; /* the client waits for our push; see mm_linger.h */
    struct mm_linger linger;
    struct topic *hurry_topic; /* of the first message; NULL: there was none, or it is over */
    uint64_t hurry_ns;         /* CLOCK_MONOTONIC when the client is hurried next */
    uint64_t hurry_pause_ns;   /* since the last time; 0: it needs none, or no more */
    uint64_t n_out;
    bool up;
    uint32_t n_up;   /* statistics in a row with a connection */
    uint32_t n_down; /* and without */
    int64_t id;      /* of the producer, as Kafka knows it; -1: it has had none yet */
    int64_t epoch;
    bool epoch_due; /* another one follows, because a message was refused */
    struct mm_log_limit epoch_limit;
    struct mm_contact contact;
    char fatal_reason[256];
};

/* --- callbacks ----------------------------------------------------------------------------------
 */

/* Room for the state of n partitions. Their number never shrinks in Kafka. */
static bool know_partitions(struct topic *topic, int32_t n)
{
    if (n <= topic->n_known) {
        return true;
    }
    struct partition *partitions =
        realloc(topic->partitions, (size_t)n * sizeof *topic->partitions);
    if (partitions == NULL) {
        return false;
    }
    memset(&partitions[topic->n_known], 0,
           (size_t)(n - topic->n_known) * sizeof *topic->partitions);
    topic->partitions = partitions;
    topic->n_known = n;
    return true;
}

/* There is a connection. Where there was none, what was wrong with it is over. */
static void note_up(struct mm_kafka *k)
{
    if (!k->up) {
        mm_contact_down(&k->contact);
    }
    k->up = true;
}

static void end_hurry(struct mm_kafka *k)
{
    k->hurry_topic = NULL;
    k->hurry_pause_ns = 0;
}

static void on_delivery(rd_kafka_t *rk, const rd_kafka_message_t *m, void *opaque)
{
    (void)rk;
    struct mm_kafka *k = opaque;
    struct mm_kafka_report report;
    mm_kafka_fill_report(&report, m->err, m->_private);
    report.value_len = m->len;
    report.maybe_persisted = m->err != RD_KAFKA_RESP_ERR_NO_ERROR &&
                             rd_kafka_message_status(m) == RD_KAFKA_MSG_STATUS_POSSIBLY_PERSISTED;
    k->n_out--;
    if (m->err >= 0) {
        end_hurry(k); /* it is Kafka that says so */
    }
    struct topic *topic = rd_kafka_topic_opaque(m->rkt);
    topic->n_out--;
    bool delivered = report.class == MM_KAFKA_DELIVERED;
    /* A refusal by Kafka ends a strict producer. Any other leaves the number out by a new epoch. */
    k->epoch_due = k->epoch_due || (m->err > 0 && (k->loose || k->careful));
    if (topic->n_out == 0) {
        topic->finding = false;
        /* Nothing is out, so nothing warms. Where a message went elsewhere than was foreseen,
         * because the topic had grown, its report cannot end the warming of the partition foreseen.
         */
        for (int32_t p = 0; p < topic->n_known; p++) {
            topic->partitions[p].warming = false;
            topic->partitions[p].n_out = 0;
        }
    }
    bool waiting = topic->n_out > 0;
    if (m->partition >= 0 && know_partitions(topic, m->partition + 1)) {
        struct partition *partition = &topic->partitions[m->partition];
        partition->warming = false;
        partition->acked_ns = delivered ? k->now_ns : 0;
        partition->n_out -= partition->n_out > 0;
        waiting = partition->n_out > 0;
    }
    mm_linger_answered(&k->linger, waiting);
    if (delivered) {
        note_up(k);
        mm_contact_reached(&k->contact);
    }
    k->on_report(k->arg, &report);
}

static void on_error(rd_kafka_t *rk, int err, const char *reason, void *opaque)
{
    (void)rk;
    struct mm_kafka *k = opaque;
    if (err == RD_KAFKA_RESP_ERR__FATAL) {
        return; /* mm_kafka_failed() tells the owner */
    }
    if (err == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN) {
        k->up = false;
        mm_contact_down(&k->contact);
        mm_log_write(k->log, MM_LOG_DEBUG, "Kafka: %s", reason);
        return; /* the error of the connection itself, which is told, has the reason */
    }
    end_hurry(k); /* a hurried client does not wait before it tries another connection */
    if (!mm_kafka_was_held_back(reason)) {
        mm_contact_error(&k->contact, rd_kafka_err2name((rd_kafka_resp_err_t)err), reason);
    }
}

/* Where Kafka's answers do not fit what was sent, the client takes another epoch, or another id,
 * and sends all again that is on its way, some of which may have been written: the one case in
 * which it doubles without an error. It happens when several nodes go away at once. Where the
 * epoch is another one because a message was refused, nothing was on its way: no word of it. */
static void note_epoch(struct mm_kafka *k, const struct mm_kafka_stats *stats)
{
    if (stats->producer_id < 0) {
        return; /* being asked for */
    }
    bool anew = k->id >= 0 && (k->id != stats->producer_id || k->epoch != stats->producer_epoch);
    uint64_t n_held = 0;
    if (anew && !k->epoch_due &&
        mm_log_allowed(&k->epoch_limit, mm_clock_monotonic_ns(), LINE_INTERVAL_NS, &n_held)) {
        mm_log_write(k->log, MM_LOG_WARN,
                     "Kafka: the client counts its messages anew (producer %" PRId64
                     ", epoch %" PRId64
                     "), as it does after nodes went away with requests: messages "
                     "that had no answer are sent again: they may be there twice, with the same "
                     "mm-id (%" PRIu64 " more such lines were held back)",
                     stats->producer_id, stats->producer_epoch, n_held);
    }
    k->epoch_due = k->epoch_due && !anew && k->id >= 0; /* the first one seen is the latest */
    k->id = stats->producer_id;
    k->epoch = stats->producer_epoch;
}

static int on_statistics(rd_kafka_t *rk, char *json, size_t json_len, void *opaque)
{
    (void)rk;
    struct mm_kafka *k = opaque;
    struct mm_kafka_stats stats;
    if (mm_json_kafka_stats(json, json_len, &stats) == 0) {
        note_epoch(k, &stats);
        /* One page without a connection may be an idle one that is just made again. */
        k->n_down = stats.any_broker_up ? 0 : k->n_down + 1;
        if (stats.any_broker_up) {
            note_up(k);
        } else if (k->n_down >= MIN_DOWN_STATISTICS) {
            k->up = false;
        }
        k->n_up = stats.any_broker_up ? k->n_up + 1 : 0;
        if (k->n_up >= MIN_UP_STATISTICS) {
            mm_contact_reached(&k->contact);
        }
    }
    return 0; /* librdkafka frees the text */
}

/* --- waiting ------------------------------------------------------------------------------------
 */

/* The client waits until a moment of the system's clock: a wait that goes on while that is set back
 * takes as much longer. So ours is not its own, but one for a descriptor that it writes to. */
static void wake_by_descriptor(struct mm_kafka *k)
{
    static const uint64_t one = 1;
    k->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (k->wake_fd >= 0) {
        rd_kafka_queue_t *queue = rd_kafka_queue_get_main(k->rk);
        rd_kafka_queue_io_event_enable(queue, k->wake_fd, &one, sizeof one);
        rd_kafka_queue_destroy(queue);
    }
}

static void read_clocks(struct mm_kafka *k, int64_t *ahead_ms)
{
    k->now_ns = mm_clock_monotonic_ns();
    *ahead_ms = (int64_t)mm_clock_realtime_ms() - (int64_t)(k->now_ns / 1000000);
}

/* Has the system's clock been set back? Threads of the client may sleep for as long as it was then:
 * until something wakes them, as the end of the producer does. */
static void look_at_clock(struct mm_kafka *k)
{
    int64_t ahead_ms;
    read_clocks(k, &ahead_ms);
    k->clock_set_back = k->clock_set_back || ahead_ms + CLOCK_STEP_MS < k->clock_ms;
    k->clock_ms = ahead_ms;
}

/* Run the callbacks that are due; wait so long for one. */
static void serve(struct mm_kafka *k, uint32_t timeout_ms)
{
    if (rd_kafka_poll(k->rk, 0) > 0 || timeout_ms == 0) {
        return;
    }
    if (k->wake_fd < 0) {
        rd_kafka_poll(k->rk, (int)timeout_ms);
        return;
    }
    struct pollfd wait = {.fd = k->wake_fd, .events = POLLIN};
    uint64_t n;
    if (poll(&wait, 1, (int)timeout_ms) > 0 && read(k->wake_fd, &n, sizeof n) < 0) {
        return; /* somebody else has read it: nobody else is there */
    }
    rd_kafka_poll(k->rk, 0);
}

/* How long until the client is to be hurried, ns; UINT64_MAX: it is not. */
static uint64_t hurry_in(const struct mm_kafka *k)
{
    if (k->hurry_topic == NULL || k->n_out == 0) {
        return UINT64_MAX;
    }
    return k->hurry_ns > k->now_ns ? k->hurry_ns - k->now_ns : 0;
}

/* A new client gives up the connection that it came by as soon as Kafka has told it of its nodes,
 * and with it the question for its producer id. It makes another connection and asks again when its
 * timer says so, half a second or a whole one later. But it does so, too, when somebody wants to
 * know something of a topic: the connection at once, the question when the answer comes, which is
 * not waited for. */
static void hurry(struct mm_kafka *k)
{
    const struct rd_kafka_metadata *answer;
    if (rd_kafka_metadata(k->rk, 0, k->hurry_topic->handle, &answer, 0) ==
        RD_KAFKA_RESP_ERR_NO_ERROR) {
        rd_kafka_metadata_destroy(answer);
    }
    k->hurry_pause_ns *= 2;
    k->hurry_ns = k->now_ns + k->hurry_pause_ns;
    if (k->hurry_pause_ns > HURRY_LAST_NS) {
        end_hurry(k);
    }
}

/* Have sent what the client has. Its threads are woken, and do not wait for company while they see
 * that it is being flushed; a millisecond is enough for that. Callbacks are served meanwhile, and
 * it is over when all is reported. */
static void push(struct mm_kafka *k)
{
    mm_linger_pushed(&k->linger, k->now_ns);
    (void)rd_kafka_flush(k->rk, PUSH_MS);
}

void mm_kafka_poll(struct mm_kafka *k, uint32_t timeout_ms)
{
    look_at_clock(k);
    if (hurry_in(k) == 0) {
        hurry(k);
    }
    uint64_t due_ns = k->pushes ? mm_linger_due_in(&k->linger, k->n_out, k->now_ns) : UINT64_MAX;
    if (due_ns == 0) {
        push(k);
    } else {
        due_ns = hurry_in(k) < due_ns ? hurry_in(k) : due_ns;
        uint64_t due_ms = due_ns / 1000000 + 1;
        serve(k, due_ns != UINT64_MAX && due_ms < timeout_ms ? (uint32_t)due_ms : timeout_ms);
    }
    mm_contact_poll(&k->contact);
}

/* --- making -------------------------------------------------------------------------------------
 */

int mm_kafka_new(const struct mm_kafka_options *opts,
                 struct mm_kafka **out,
                 char *errstr,
                 size_t errstr_len)
{
    *out = NULL;
    struct mm_kafka *k = calloc(1, sizeof *k);
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    int err = MM_ENOMEM;
    bool in_contact = false;
    if (k == NULL || conf == NULL) {
        snprintf(errstr, errstr_len, "%s", mm_strerror(err));
        goto fail;
    }
    k->on_report = opts->on_report;
    k->arg = opts->arg;
    k->log = opts->log;
    k->id = -1;
    k->loose = opts->loose;
    k->careful = opts->careful;
    k->pushes = mm_kafka_is_pushed(opts);
    mm_linger_init(&k->linger, opts->config->kafka_linger_ms);
    k->hurry_pause_ns = rd_kafka_version() >= MM_KAFKA_VERSION_GIVES_UP ? HURRY_FIRST_NS : 0;
    k->up = opts->up;
    err = mm_kafka_configure(conf, opts, errstr, errstr_len);
    if (err != 0) {
        goto fail;
    }
    rd_kafka_conf_set_opaque(conf, k);
    mm_kafka_watch(conf, opts, &k->contact);
    in_contact = true;
    k->partitioner = mm_kafka_partitioner(conf);
    rd_kafka_conf_set_dr_msg_cb(conf, on_delivery);
    rd_kafka_conf_set_error_cb(conf, on_error);
    rd_kafka_conf_set_stats_cb(conf, on_statistics);

    char reason[256];
    k->rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, reason, sizeof reason);
    if (k->rk == NULL) {
        mm_kafka_explain_new(opts->config, reason, errstr, errstr_len);
        err = MM_EKAFKA;
        conf = mm_kafka_may_destroy(opts) ? conf : NULL;
        goto fail;
    }
    k->max_message = opts->config->max_message_bytes;
    read_clocks(k, &k->clock_ms);
    wake_by_descriptor(k);
    *out = k;
    return 0;

fail:
    if (conf != NULL) {
        rd_kafka_conf_destroy(conf);
    }
    if (in_contact) {
        mm_contact_fini(&k->contact);
    }
    free(k);
    return err;
}

/* --- producing ----------------------------------------------------------------------------------
 */

/* Called by librdkafka, in produce or, when the topic is not known yet, on a thread of its own. */
static int32_t on_partition(const rd_kafka_topic_t *rkt,
                            const void *key,
                            size_t key_len,
                            int32_t n_partitions,
                            void *topic_opaque,
                            void *message_opaque)
{
    struct topic *topic = topic_opaque;
    atomic_store_explicit(&topic->n_partitions, n_partitions, memory_order_relaxed);
    if (key == NULL) {
        return atomic_load_explicit(&topic->spread, memory_order_relaxed) % n_partitions;
    }
    return topic->partitioner(rkt, key, key_len, n_partitions, NULL, message_opaque);
}

/* What stands in for the hash of a key where there is none: the partition of INT32_MAX. So a
 * message goes where it would go with m->spread as its key. */
static int32_t spread_of(const struct topic *topic, const struct mm_kafka_message *m)
{
    return topic->partitioner(topic->handle, m->spread, m->spread_len, INT32_MAX, NULL, NULL);
}

/* NULL: no memory, or the client refuses the name. */
static struct topic *new_topic(struct mm_kafka *k, const char *name)
{
    struct topic *topic = calloc(1, sizeof *topic);
    rd_kafka_topic_conf_t *conf = rd_kafka_default_topic_conf_dup(k->rk);
    if (topic == NULL || conf == NULL) {
        free(topic);
        return NULL;
    }
    topic->partitioner = k->partitioner;
    rd_kafka_topic_conf_set_opaque(conf, topic);
    rd_kafka_topic_conf_set_partitioner_cb(conf, on_partition);
    topic->handle = rd_kafka_topic_new(k->rk, name, conf);
    if (topic->handle == NULL) {
        rd_kafka_topic_conf_destroy(conf);
        free(topic);
        return NULL;
    }
    return topic;
}

/* FNV-1a. */
static uint32_t hash_name(const char *name)
{
    uint32_t hash = 0x811C9DC5U;
    for (; *name != '\0'; name++) {
        hash = (hash ^ (unsigned char)*name) * 0x01000193U;
    }
    return hash;
}

/* The topic of this name, from those kept or made now. NULL: not now. Topics are kept as long as
 * the producer: the settings limit their number, and librdkafka may still hold one that was
 * given back, with our pointer in it. */
static struct topic *get_topic(struct mm_kafka *k, const char *name)
{
    struct topic **first = &k->topics[hash_name(name) % N_BUCKETS];
    for (struct topic *t = *first; t != NULL; t = t->next) {
        if (strcmp(rd_kafka_topic_name(t->handle), name) == 0) {
            return t;
        }
    }
    struct topic *topic = new_topic(k, name);
    if (topic != NULL) {
        topic->next = *first;
        *first = topic;
    }
    return topic;
}

/* The partition that a key leads to, as far as the number of partitions is known; NULL: it is not,
 * or there is no memory. */
static struct partition *partition_of(struct topic *topic, const struct mm_kafka_message *m)
{
    int32_t n = atomic_load_explicit(&topic->n_partitions, memory_order_relaxed);
    if (n <= 0 || !know_partitions(topic, n)) {
        return NULL;
    }
    int32_t p = m->key == NULL
                    ? spread_of(topic, m) % n
                    : topic->partitioner(topic->handle, m->key, m->key_len, n, NULL, NULL);
    return &topic->partitions[p];
}

static bool is_warm(const struct mm_kafka *k, const struct partition *partition)
{
    return partition->acked_ns != 0 && k->now_ns - partition->acked_ns < WARM_NS;
}

/* May a message with this key go to the topic now? See the head of mm_kafka.h. */
static bool may_send(struct topic *topic, const struct mm_kafka_message *m)
{
    const struct partition *partition = partition_of(topic, m);
    if (partition == NULL || topic->finding) {
        return topic->n_out == 0; /* the first message finds out */
    }
    return !partition->warming;
}

/* A message was handed over: nothing follows it into a partition that is not warm; for a careful
 * producer none is. Looked up again, since the client may have found more partitions just then. */
static void note_sent(struct mm_kafka *k, struct topic *topic, const struct mm_kafka_message *m)
{
    topic->n_out++;
    if (k->hurry_topic == NULL && k->hurry_pause_ns != 0) {
        k->hurry_topic = topic;
        k->hurry_ns = k->now_ns + k->hurry_pause_ns;
    }
    struct partition *partition = partition_of(topic, m);
    mm_linger_handed(&k->linger, partition == NULL || partition->n_out < FREE_BELOW);
    if (partition == NULL) {
        topic->finding = true;
        return;
    }
    partition->n_out++;
    if (k->careful || !is_warm(k, partition)) {
        partition->warming = true;
    }
}

/* For parameters of librdkafka that are not const but only read, thanks to RD_KAFKA_MSG_F_COPY. */
static void *unconst(const void *p)
{
    void *same;
    memcpy(&same, &p, sizeof same);
    return same;
}

/* Headers for the client. NULL: no memory. */
static rd_kafka_headers_t *make_headers(const struct mm_kafka_message *m)
{
    rd_kafka_headers_t *headers = rd_kafka_headers_new(m->n_headers);
    for (size_t i = 0; headers != NULL && i < m->n_headers; i++) {
        const struct mm_kafka_header *h = &m->headers[i];
        if (rd_kafka_header_add(headers, h->name, -1, h->value, (ssize_t)h->value_len) !=
            RD_KAFKA_RESP_ERR_NO_ERROR) {
            rd_kafka_headers_destroy(headers);
            return NULL;
        }
    }
    return headers;
}

int mm_kafka_produce(struct mm_kafka *k,
                     const struct mm_kafka_message *m,
                     struct mm_kafka_report *report)
{
    struct topic *topic = get_topic(k, m->topic);
    if (topic == NULL || !(k->loose || may_send(topic, m))) {
        return MM_EAGAIN;
    }
    if (m->key == NULL) {
        atomic_store_explicit(&topic->spread, spread_of(topic, m), memory_order_relaxed);
    }
    /* Not one by one as RD_KAFKA_VTYPE_HEADER: librdkafka before 2.12 frees those twice when the
     * topic is known to be missing or forbidden (#4628). These are ours until it has taken them. */
    rd_kafka_headers_t *headers = make_headers(m);
    if (headers == NULL) {
        return MM_EFULL;
    }
    rd_kafka_vu_t parts[] = {
        {.vtype = RD_KAFKA_VTYPE_RKT, .u.rkt = topic->handle},
        {.vtype = RD_KAFKA_VTYPE_PARTITION, .u.i32 = RD_KAFKA_PARTITION_UA},
        {.vtype = RD_KAFKA_VTYPE_MSGFLAGS, .u.i = RD_KAFKA_MSG_F_COPY},
        {.vtype = RD_KAFKA_VTYPE_VALUE, .u.mem = {.ptr = unconst(m->value), .size = m->value_len}},
        {.vtype = RD_KAFKA_VTYPE_KEY, .u.mem = {.ptr = unconst(m->key), .size = m->key_len}},
        {.vtype = RD_KAFKA_VTYPE_TIMESTAMP, .u.i64 = (int64_t)m->time_ms},
        {.vtype = RD_KAFKA_VTYPE_OPAQUE, .u.ptr = m->tag},
        {.vtype = RD_KAFKA_VTYPE_HEADERS, .u.headers = headers},
    };
    rd_kafka_error_t *error = rd_kafka_produceva(k->rk, parts, sizeof parts / sizeof parts[0]);
    if (error == NULL) {
        k->n_out++;
        note_sent(k, topic, m);
        return 0;
    }
    rd_kafka_headers_destroy(headers);
    rd_kafka_resp_err_t err = rd_kafka_error_code(error);
    rd_kafka_error_destroy(error);
    if (err == RD_KAFKA_RESP_ERR__QUEUE_FULL) {
        return MM_EFULL;
    }
    mm_kafka_fill_report(report, err, m->tag);
    return MM_EKAFKA;
}

void mm_kafka_take_back(struct mm_kafka *k)
{
    rd_kafka_purge(k->rk, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_NON_BLOCKING);
}

static void poll_until_empty(struct mm_kafka *k, uint32_t wait_ms, int purge_flags)
{
    uint64_t deadline = mm_clock_monotonic_ns() + (uint64_t)wait_ms * 1000000;
    do {
        /* Again and again: a request that fails puts its messages back into the queue. */
        rd_kafka_purge(k->rk, purge_flags | RD_KAFKA_PURGE_F_NON_BLOCKING);
        mm_kafka_poll(k, 10);
    } while (k->n_out > 0 && mm_clock_monotonic_ns() < deadline);
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
    for (size_t i = 0; i < N_BUCKETS; i++) {
        for (struct topic *t = k->topics[i]; t != NULL; t = t->next) {
            rd_kafka_topic_destroy(t->handle);
        }
    }
    rd_kafka_destroy(k->rk);
    if (k->wake_fd >= 0) {
        close(k->wake_fd);
    }
    /* Only now: the client may call on_partition() until it has ended. */
    for (size_t i = 0; i < N_BUCKETS; i++) {
        for (struct topic *t = k->topics[i]; t != NULL;) {
            struct topic *next = t->next;
            free(t->partitions);
            free(t);
            t = next;
        }
    }
    mm_contact_fini(&k->contact);
    free(k);
}

/* --- a question ---------------------------------------------------------------------------------
 */

static bool is_among(const char *name, const char *const *names, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (strcmp(name, names[i]) == 0) {
            return true;
        }
    }
    return false;
}

int mm_kafka_ask(struct mm_kafka *k,
                 const char *const *topics,
                 size_t n,
                 uint32_t timeout_ms,
                 mm_kafka_topic_fn fn,
                 void *arg)
{
    for (size_t i = 0; i < n; i++) {
        (void)get_topic(k, topics[i]); /* the client asks for those that it knows */
    }
    const struct rd_kafka_metadata *answer;
    rd_kafka_resp_err_t err = rd_kafka_metadata(k->rk, 0, NULL, &answer, (int)timeout_ms);
    rd_kafka_poll(k->rk, 0);
    if (err != RD_KAFKA_RESP_ERR_NO_ERROR) {
        return MM_EAGAIN;
    }
    for (int i = 0; i < answer->topic_cnt; i++) {
        const struct rd_kafka_metadata_topic *topic = &answer->topics[i];
        /* One that is just being made has no leader yet. */
        if (topic->err != RD_KAFKA_RESP_ERR_NO_ERROR &&
            topic->err != RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE &&
            is_among(topic->topic, topics, n)) {
            fn(arg, topic->topic, rd_kafka_err2name(topic->err), rd_kafka_err2str(topic->err));
        }
    }
    rd_kafka_metadata_destroy(answer);
    return 0;
}

/* --- state --------------------------------------------------------------------------------------
 */

bool mm_kafka_failed(struct mm_kafka *k, const char **error, const char **reason, bool *strict)
{
    rd_kafka_resp_err_t err = rd_kafka_fatal_error(k->rk, k->fatal_reason, sizeof k->fatal_reason);
    if (err == RD_KAFKA_RESP_ERR_NO_ERROR && k->clock_set_back) {
        *error = "CLOCK_SET_BACK";
        *reason = "the system's clock was set back, which leaves the Kafka client asleep";
        *strict = false;
        return true;
    }
    if (err == RD_KAFKA_RESP_ERR_NO_ERROR) {
        return false;
    }
    *error = rd_kafka_err2name(err);
    *reason = k->fatal_reason;
    *strict = err == RD_KAFKA_RESP_ERR__GAPLESS_GUARANTEE;
    return true;
}

bool mm_kafka_is_rejected(const struct mm_kafka *k)
{
    return mm_trouble_needs_mending(k->contact.trouble);
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
    return k->contact.n_errors;
}

const char *mm_kafka_last_error(const struct mm_kafka *k)
{
    return k->contact.last_error;
}

const char *mm_kafka_remedy(const struct mm_kafka *k)
{
    return mm_trouble_remedy(k->contact.trouble);
}

struct mm_contact *mm_kafka_contact(void *opaque)
{
    struct mm_kafka *k = opaque;
    return &k->contact;
}

struct rd_kafka_s *mm_kafka_client(struct mm_kafka *k)
{
    return k->rk;
}

enum mm_trouble mm_kafka_trouble(const struct mm_kafka *k)
{
    return k->contact.trouble;
}

const char *mm_kafka_version(void)
{
    return rd_kafka_version_str();
}

int mm_kafka_version_number(void)
{
    return rd_kafka_version();
}
