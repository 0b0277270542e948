#include "prove_check.h"

#include "mm_clock.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define UUID_LEN 36
#define PARTITIONS 3
#define BATCH 1000
#define READ_MS 20

/* A set of numbers that begins at 0 and has few gaps. */
struct bits
{
    uint8_t *bytes;
    size_t n_bytes;
};

/* The numbers in mm-id that have come, of one spool between two jumps: at a start behind a failure
 * of the power they jump by 2^32, or begin anew. */
struct ids
{
    char uuid[UUID_LEN + 1];
    uint32_t epoch; /* the number's upper half */
    struct bits numbers;
};

struct prove_check
{
    struct kafka_ask *ask;
    struct prove_load_options load;
    char *topic;
    rd_kafka_topic_t *rkt;
    rd_kafka_queue_t *queue;
    int32_t n_partitions;
    int32_t n_started;
    struct bits *seen;    /* messages, by client */
    struct bits *excused; /* the same */
    uint64_t *next;       /* by client and MQTT topic: how many are up to the last one that came */
    uint32_t n_jumps;     /* of the power */
    struct ids *ids;
    size_t n_ids;
    struct prove_check_figures n; /* what was found */
    char fault[PROVE_CHECK_WHY_LEN];
    bool no_memory;
};

/* --- sets ---------------------------------------------------------------------------------------
 */

static bool has(const struct bits *set, uint64_t n)
{
    return n / 8 < set->n_bytes && (set->bytes[n / 8] >> n % 8 & 1) != 0;
}

static bool add(struct bits *set, uint64_t n)
{
    if (n / 8 >= set->n_bytes) {
        size_t n_bytes = (size_t)(n / 8 + 1) * 2 + 4096;
        uint8_t *bytes = realloc(set->bytes, n_bytes);
        if (bytes == NULL) {
            return false;
        }
        memset(bytes + set->n_bytes, 0, n_bytes - set->n_bytes);
        *set = (struct bits){.bytes = bytes, .n_bytes = n_bytes};
    }
    set->bytes[n / 8] |= (uint8_t)(1U << n % 8);
    return true;
}

/* --- records ------------------------------------------------------------------------------------
 */

static void wrong(struct prove_check *c, const rd_kafka_message_t *m, const char *what)
{
    c->n.n_wrong++;
    if (c->fault[0] == '\0') {
        snprintf(c->fault, sizeof c->fault, "partition %" PRId32 ", offset %" PRId64 ": %s",
                 m->partition, m->offset, what);
    }
}

/* The numbers that this one belongs to. NULL: it is none that the spool may have now. */
static struct ids *find_ids(struct prove_check *c, const char *uuid, uint64_t seq)
{
    uint64_t epoch = seq >> 32;
    for (size_t i = c->n_ids; i > 0; i--) {
        if (c->ids[i - 1].epoch == epoch && memcmp(c->ids[i - 1].uuid, uuid, UUID_LEN) == 0) {
            return &c->ids[i - 1];
        }
    }
    if (c->n_ids > c->n_jumps || epoch > c->n_jumps) {
        return NULL;
    }
    struct ids *grown = realloc(c->ids, (c->n_ids + 1) * sizeof *grown);
    if (grown == NULL) {
        c->no_memory = true;
        return NULL;
    }
    c->ids = grown;
    struct ids *ids = &grown[c->n_ids++];
    *ids = (struct ids){.epoch = (uint32_t)epoch};
    memcpy(ids->uuid, uuid, UUID_LEN);
    return ids;
}

/* The number in mm-id, and those it belongs to. False: there is none, or it is another spool's. */
static bool read_id(struct prove_check *c,
                    const rd_kafka_message_t *m,
                    struct ids **ids,
                    uint32_t *number)
{
    rd_kafka_headers_t *headers;
    const void *value;
    size_t len;
    char text[UUID_LEN + 22];
    if (rd_kafka_message_headers(m, &headers) != RD_KAFKA_RESP_ERR_NO_ERROR ||
        rd_kafka_header_get_last(headers, "mm-id", &value, &len) != RD_KAFKA_RESP_ERR_NO_ERROR ||
        len <= UUID_LEN + 1 || len >= sizeof text) {
        return false;
    }
    memcpy(text, value, len);
    text[len] = '\0';
    char *end;
    uint64_t seq = strtoull(text + UUID_LEN + 1, &end, 10);
    if (*end != '\0') {
        return false;
    }
    *ids = find_ids(c, text, seq);
    *number = (uint32_t)seq;
    return *ids != NULL;
}

static void overtaken(struct prove_check *c,
                      const rd_kafka_message_t *m,
                      uint32_t client,
                      uint64_t n,
                      uint64_t missing)
{
    c->n.n_overtaken++;
    if (c->fault[0] == '\0') {
        snprintf(c->fault, sizeof c->fault,
                 "partition %" PRId32 ", offset %" PRId64 ": message %" PRIu64 " of client %" PRIu32
                 " came before message %" PRIu64 " of the same MQTT topic",
                 m->partition, m->offset, n, client, missing);
    }
}

/* A message that is there for the first time. */
static void take_message(struct prove_check *c,
                         const rd_kafka_message_t *m,
                         uint32_t client,
                         uint64_t n)
{
    uint64_t *next = &c->next[(size_t)client * c->load.n_topics + n % c->load.n_topics];
    uint64_t index = n / c->load.n_topics; /* in its MQTT topic */
    c->no_memory = c->no_memory || !add(&c->seen[client], n);
    c->n.n_messages++;
    if (index < *next) {
        c->n.n_disorder++;
        return;
    }
    for (; *next < index; (*next)++) {
        uint64_t missing = *next * c->load.n_topics + n % c->load.n_topics;
        if (!has(&c->excused[client], missing)) {
            overtaken(c, m, client, n, missing);
        }
    }
    *next = index + 1;
}

static void take_record(struct prove_check *c, const rd_kafka_message_t *m)
{
    uint32_t client;
    uint64_t n;
    struct ids *ids;
    uint32_t number;
    char topic[PROVE_TOPIC_LEN];
    uint8_t payload[PROVE_PAYLOAD_MAX];
    if (!prove_which(&c->load, m->payload, m->len, &client, &n)) {
        return; /* somebody else's */
    }
    c->n.n_records++;
    size_t len = n >> 40 != 0 ? 0 : prove_message(&c->load, client, n, topic, payload);
    if (len != m->len || memcmp(payload, m->payload, len) != 0) {
        wrong(c, m, "it has a payload that nobody published");
        return;
    }
    if (m->key_len != strlen(topic) || memcmp(m->key, topic, m->key_len) != 0) {
        wrong(c, m, "its key is not the MQTT topic of its payload");
        return;
    }
    if (!read_id(c, m, &ids, &number)) {
        wrong(c, m, "it has no mm-id of this spool");
        return;
    }
    if (has(&ids->numbers, number)) {
        c->n.n_repeats++;
        return;
    }
    c->no_memory = c->no_memory || !add(&ids->numbers, number);
    if (has(&c->seen[client], n)) {
        c->n.n_sent_again++;
        return;
    }
    take_message(c, m, client, n);
}

bool prove_check_read(struct prove_check *c, char *why, size_t why_len)
{
    rd_kafka_message_t *messages[BATCH];
    ssize_t n = rd_kafka_consume_batch_queue(c->queue, READ_MS, messages, BATCH);
    for (ssize_t i = 0; i < n; i++) {
        if (messages[i]->err == RD_KAFKA_RESP_ERR_NO_ERROR) {
            take_record(c, messages[i]);
        }
        rd_kafka_message_destroy(messages[i]); /* else: the client goes on by itself */
    }
    rd_kafka_poll(c->ask->rk, 0);
    if (c->no_memory) {
        snprintf(why, why_len, "out of memory");
    }
    return !c->no_memory;
}

/* --- the Kafka topic ----------------------------------------------------------------------------
 */

static bool make_topic(struct prove_check *c, char *why, size_t why_len)
{
    char errstr[256];
    rd_kafka_NewTopic_t *topic =
        rd_kafka_NewTopic_new(c->topic, PARTITIONS, -1, errstr, sizeof errstr);
    if (topic == NULL) {
        snprintf(why, why_len, "%s", errstr);
        return false;
    }
    rd_kafka_CreateTopics(c->ask->rk, &topic, 1, NULL, c->ask->queue);
    rd_kafka_NewTopic_destroy(topic);
    rd_kafka_event_t *event = kafka_ask_answer(c->ask);
    const rd_kafka_CreateTopics_result_t *result =
        event == NULL ? NULL : rd_kafka_event_CreateTopics_result(event);
    const char *problem = "Kafka does not answer";
    if (result != NULL && rd_kafka_event_error(event) != RD_KAFKA_RESP_ERR_NO_ERROR) {
        problem = rd_kafka_event_error_string(event);
    } else if (result != NULL) {
        size_t n;
        const rd_kafka_topic_result_t **topics = rd_kafka_CreateTopics_result_topics(result, &n);
        problem = n != 1 ? "no result"
                  : rd_kafka_topic_result_error(topics[0]) == RD_KAFKA_RESP_ERR_NO_ERROR ? NULL
                  : rd_kafka_topic_result_error_string(topics[0]) != NULL
                      ? rd_kafka_topic_result_error_string(topics[0])
                      : rd_kafka_err2str(rd_kafka_topic_result_error(topics[0]));
    }
    if (problem != NULL) {
        snprintf(why, why_len, "the Kafka topic %s cannot be made: %s", c->topic, problem);
    }
    if (event != NULL) {
        rd_kafka_event_destroy(event);
    }
    return problem == NULL;
}

void prove_check_delete_topic(struct prove_check *c)
{
    rd_kafka_DeleteTopic_t *topic = rd_kafka_DeleteTopic_new(c->topic);
    rd_kafka_DeleteTopics(c->ask->rk, &topic, 1, NULL, c->ask->queue);
    rd_kafka_DeleteTopic_destroy(topic);
    rd_kafka_event_t *event = kafka_ask_answer(c->ask);
    if (event != NULL) {
        rd_kafka_event_destroy(event);
    }
}

/* Wait until all nodes know it: those that were asked last may not yet. */
static bool find_topic(struct prove_check *c, char *why, size_t why_len)
{
    rd_kafka_resp_err_t err = RD_KAFKA_RESP_ERR__FAIL;
    for (int i = 0; i < 100; i++) {
        const struct rd_kafka_metadata *md;
        err = kafka_ask_topic(c->ask, c->topic, &md);
        if (md != NULL) {
            err = md->topics[0].err;
            c->n_partitions = md->topics[0].partition_cnt;
            rd_kafka_metadata_destroy(md);
        }
        if (err == RD_KAFKA_RESP_ERR_NO_ERROR && c->n_partitions > 0) {
            return true;
        }
        rd_kafka_poll(c->ask->rk, 50);
    }
    snprintf(why, why_len, "Kafka topic %s: %s", c->topic, rd_kafka_err2str(err));
    return false;
}

/* Where a partition ends now. A topic that was just made may have no leader for a moment. */
static rd_kafka_resp_err_t find_end(struct prove_check *c, int32_t partition, int64_t *end)
{
    rd_kafka_resp_err_t err = RD_KAFKA_RESP_ERR__FAIL;
    const uint64_t end_ns = mm_clock_monotonic_ns() + c->ask->timeout_ms * UINT64_C(1000000);
    while (err != RD_KAFKA_RESP_ERR_NO_ERROR && mm_clock_monotonic_ns() < end_ns) {
        int64_t begin;
        err = rd_kafka_query_watermark_offsets(c->ask->rk, c->topic, partition, &begin, end,
                                               (int)c->ask->timeout_ms);
        rd_kafka_poll(c->ask->rk, err == RD_KAFKA_RESP_ERR_NO_ERROR ? 0 : 100);
    }
    return err;
}

static bool start_reading(struct prove_check *c, char *why, size_t why_len)
{
    c->rkt = rd_kafka_topic_new(c->ask->rk, c->topic, NULL);
    c->queue = rd_kafka_queue_new(c->ask->rk);
    for (int32_t i = 0; c->rkt != NULL && i < c->n_partitions; i++) {
        int64_t end;
        rd_kafka_resp_err_t err = find_end(c, i, &end);
        if (err == RD_KAFKA_RESP_ERR_NO_ERROR &&
            rd_kafka_consume_start_queue(c->rkt, i, end, c->queue) != 0) {
            err = rd_kafka_last_error();
        }
        if (err != RD_KAFKA_RESP_ERR_NO_ERROR) {
            snprintf(why, why_len, "Kafka topic %s cannot be read: %s", c->topic,
                     rd_kafka_err2str(err));
            return false;
        }
        c->n_started = i + 1;
    }
    return c->rkt != NULL;
}

bool prove_check_open(struct kafka_ask *ask,
                      const struct prove_load_options *load,
                      const char *topic,
                      bool make,
                      struct prove_check **out,
                      char *why,
                      size_t why_len)
{
    struct prove_check *c = calloc(1, sizeof *c);
    *out = c;
    snprintf(why, why_len, "out of memory");
    if (c == NULL) {
        return false;
    }
    *c = (struct prove_check){.ask = ask, .load = *load, .topic = strdup(topic)};
    c->seen = calloc(load->n_clients, sizeof *c->seen);
    c->excused = calloc(load->n_clients, sizeof *c->excused);
    c->next = calloc((size_t)load->n_clients * load->n_topics, sizeof *c->next);
    if (c->topic == NULL || c->seen == NULL || c->excused == NULL || c->next == NULL) {
        return false;
    }
    if ((make && !make_topic(c, why, why_len)) || !find_topic(c, why, why_len) ||
        !start_reading(c, why, why_len)) {
        return false;
    }
    why[0] = '\0';
    return true;
}

void prove_check_figures(const struct prove_check *c, struct prove_check_figures *out)
{
    *out = c->n;
}

const char *prove_check_first_fault(const struct prove_check *c)
{
    return c->fault;
}

uint64_t prove_check_missing(const struct prove_check *c,
                             uint32_t client,
                             uint64_t n,
                             uint64_t *first)
{
    uint64_t n_missing = 0;
    for (uint64_t i = n; i > 0; i--) {
        if (!has(&c->seen[client], i - 1) && !has(&c->excused[client], i - 1)) {
            n_missing++;
            *first = i - 1;
        }
    }
    return n_missing;
}

void prove_check_may_jump(struct prove_check *c)
{
    c->n_jumps++;
}

bool prove_check_excuse(struct prove_check *c, uint32_t client, uint64_t from, uint64_t to)
{
    for (uint64_t i = from; i < to; i++) {
        if (!add(&c->excused[client], i)) {
            return false;
        }
    }
    return true;
}

uint64_t prove_check_excused(const struct prove_check *c, uint32_t client, uint64_t n)
{
    uint64_t n_excused = 0;
    for (uint64_t i = 0; i < n; i++) {
        n_excused += has(&c->excused[client], i) && !has(&c->seen[client], i);
    }
    return n_excused;
}

uint64_t prove_check_awaited(const struct prove_check *c, uint32_t client, uint64_t n)
{
    uint64_t n_awaited = 0;
    for (uint32_t i = 0; i < c->load.n_topics; i++) {
        uint64_t next = c->next[(size_t)client * c->load.n_topics + i];
        for (uint64_t k = next * c->load.n_topics + i; k < n; k += c->load.n_topics) {
            n_awaited += !has(&c->excused[client], k);
        }
    }
    return n_awaited;
}

void prove_check_close(struct prove_check *c)
{
    if (c == NULL) {
        return;
    }
    for (int32_t i = 0; i < c->n_started; i++) {
        (void)rd_kafka_consume_stop(c->rkt, i);
    }
    if (c->rkt != NULL) {
        rd_kafka_topic_destroy(c->rkt);
    }
    if (c->queue != NULL) {
        rd_kafka_queue_destroy(c->queue);
    }
    for (uint32_t i = 0; c->seen != NULL && c->excused != NULL && i < c->load.n_clients; i++) {
        free(c->seen[i].bytes);
        free(c->excused[i].bytes);
    }
    for (size_t i = 0; i < c->n_ids; i++) {
        free(c->ids[i].numbers.bytes);
    }
    free(c->seen);
    free(c->excused);
    free(c->next);
    free(c->ids);
    free(c->topic);
    free(c);
}
