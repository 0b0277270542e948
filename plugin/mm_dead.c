#include "mm_dead.h"

#include "mm_error.h"
#include "mm_json.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* One letter in one allocation: the strings of head point into bytes. */
struct letter
{
    struct letter *next; /* newer */
    size_t size;         /* of this allocation: what counts against max_bytes */
    bool has_payload;    /* else it was too large; head.payload_len is still its length */
    struct mm_dead_letter head;
    char bytes[];
};

struct mm_dead
{
    /* immutable */
    size_t max_bytes;
    char *uuid;

    /* under lock */
    pthread_mutex_t lock;
    struct letter *oldest;
    struct letter *newest;
    struct mm_dead_stats stats;
};

int mm_dead_new(size_t max_bytes, const char *uuid, struct mm_dead **out)
{
    *out = NULL;
    struct mm_dead *d = calloc(1, sizeof *d);
    char *copy = strdup(uuid);
    if (d == NULL || copy == NULL) {
        free(copy);
        free(d);
        return MM_ENOMEM;
    }
    d->max_bytes = max_bytes;
    d->uuid = copy;
    pthread_mutex_init(&d->lock, NULL);
    *out = d;
    return 0;
}

static void remove_oldest(struct mm_dead *d)
{
    struct letter *l = d->oldest;
    d->oldest = l->next;
    if (d->oldest == NULL) {
        d->newest = NULL;
    }
    d->stats.n_letters--;
    d->stats.n_bytes -= l->size;
    free(l);
}

void mm_dead_free(struct mm_dead *d)
{
    if (d == NULL) {
        return;
    }
    while (d->oldest != NULL) {
        remove_oldest(d);
    }
    pthread_mutex_destroy(&d->lock);
    free(d->uuid);
    free(d);
}

/* --- adding -------------------------------------------------------------------------------------
 */

/* Copy len bytes and a NUL to *at, and move it behind them. */
static const char *put(char **at, const void *data, size_t len)
{
    char *start = *at;
    if (len > 0) {
        memcpy(start, data, len);
    }
    start[len] = '\0';
    *at = start + len + 1;
    return start;
}

/* A copy of the letter, without its payload where that would not fit into max_bytes. NULL: out of
 * memory, or the description alone does not fit. */
static struct letter *copy_letter(const struct mm_dead_letter *from, size_t max_bytes)
{
    size_t kafka_topic_len = strlen(from->kafka_topic);
    size_t error_len = strlen(from->error);
    size_t reason_len = strlen(from->reason);
    size_t size = sizeof(struct letter) + from->topic_len + kafka_topic_len + error_len +
                  reason_len + 5; /* the NULs, the payload's too */
    if (size > max_bytes) {
        return NULL;
    }
    bool has_payload = from->payload_len <= max_bytes - size;
    size += has_payload ? from->payload_len : 0;
    struct letter *l = malloc(size);
    if (l == NULL) {
        return NULL;
    }
    char *at = l->bytes;
    l->next = NULL;
    l->size = size;
    l->has_payload = has_payload;
    l->head = *from;
    l->head.topic = put(&at, from->topic, from->topic_len);
    l->head.kafka_topic = put(&at, from->kafka_topic, kafka_topic_len);
    l->head.error = put(&at, from->error, error_len);
    l->head.reason = put(&at, from->reason, reason_len);
    l->head.payload = put(&at, from->payload, has_payload ? from->payload_len : 0);
    return l;
}

int mm_dead_add(struct mm_dead *d, const struct mm_dead_letter *letter)
{
    struct letter *l = copy_letter(letter, d->max_bytes);
    if (l == NULL) {
        return MM_ENOMEM;
    }
    pthread_mutex_lock(&d->lock);
    while (d->stats.n_bytes > d->max_bytes - l->size) {
        remove_oldest(d);
        d->stats.n_evicted++;
    }
    if (d->newest == NULL) {
        d->oldest = l;
    } else {
        d->newest->next = l;
    }
    d->newest = l;
    d->stats.n_letters++;
    d->stats.n_bytes += l->size;
    d->stats.n_evicted += l->has_payload ? 0 : 1;
    pthread_mutex_unlock(&d->lock);
    return 0;
}

void mm_dead_stats(struct mm_dead *d, struct mm_dead_stats *out)
{
    pthread_mutex_lock(&d->lock);
    *out = d->stats;
    pthread_mutex_unlock(&d->lock);
}

/* --- showing ------------------------------------------------------------------------------------
 */

/* Milliseconds since the epoch as RFC 3339 in UTC, in quotes. */
static void write_time(FILE *out, uint64_t ms)
{
    time_t seconds = (time_t)(ms / 1000);
    struct tm tm;
    char text[64];
    if (gmtime_r(&seconds, &tm) == NULL ||
        strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &tm) == 0) {
        fputs("null", out);
        return;
    }
    fprintf(out, "\"%s.%03uZ\"", text, (unsigned int)(ms % 1000));
}

static void write_letter(FILE *out, const char *uuid, const struct letter *l)
{
    const struct mm_dead_letter *head = &l->head;
    fprintf(out, "{\"id\":\"%s-%" PRIu64 "\",\"mqtt_topic\":", uuid, head->seq);
    mm_json_write_string(out, head->topic, head->topic_len);
    fprintf(out, ",\"payload_bytes\":%zu,\"payload_kept\":%s,\"received\":", head->payload_len,
            l->has_payload ? "true" : "false");
    write_time(out, head->time_ms);
    fputs(",\"died\":", out);
    write_time(out, head->died_ms);
    fputs(",\"kafka_topic\":", out);
    mm_json_write_string(out, head->kafka_topic, strlen(head->kafka_topic));
    fputs(",\"error\":", out);
    mm_json_write_string(out, head->error, strlen(head->error));
    fputs(",\"reason\":", out);
    mm_json_write_string(out, head->reason, strlen(head->reason));
    fputc('}', out);
}

int mm_dead_list(struct mm_dead *d, char **text, size_t *len)
{
    *text = NULL;
    *len = 0;
    FILE *out = open_memstream(text, len);
    if (out == NULL) {
        return MM_ENOMEM;
    }
    fputc('[', out);
    pthread_mutex_lock(&d->lock);
    for (const struct letter *l = d->oldest; l != NULL; l = l->next) {
        fputs(l == d->oldest ? "\n" : ",\n", out);
        write_letter(out, d->uuid, l);
    }
    pthread_mutex_unlock(&d->lock);
    fputs("\n]\n", out);
    bool failed = ferror(out) != 0;
    if (fclose(out) != 0 || failed || *text == NULL) {
        free(*text);
        *text = NULL;
        *len = 0;
        return MM_ENOMEM;
    }
    return 0;
}

/* The number of an id "<uuid>-<seq>", written just as we write it. */
static bool parse_id(const char *id, const char *uuid, uint64_t *seq)
{
    size_t uuid_len = strlen(uuid);
    if (strncmp(id, uuid, uuid_len) != 0 || id[uuid_len] != '-') {
        return false;
    }
    const char *digits = id + uuid_len + 1;
    uint64_t n = 0;
    for (const char *p = digits; *p != '\0'; p++) {
        if (*p < '0' || *p > '9' || __builtin_mul_overflow(n, 10U, &n) ||
            __builtin_add_overflow(n, (uint64_t)(*p - '0'), &n)) {
            return false;
        }
    }
    *seq = n;
    return digits[0] != '\0' && (digits[0] != '0' || digits[1] == '\0');
}

/* The letter's payload copied; the lock is held. */
static int copy_payload(const struct mm_dead *d, uint64_t seq, void **data, size_t *len)
{
    const struct letter *l = d->oldest;
    while (l != NULL && l->head.seq != seq) {
        l = l->next;
    }
    if (l == NULL || !l->has_payload) {
        return MM_EINVAL;
    }
    void *copy = malloc(l->head.payload_len + 1); /* an empty payload is one too */
    if (copy == NULL) {
        return MM_ENOMEM;
    }
    memcpy(copy, l->head.payload, l->head.payload_len + 1);
    *data = copy;
    *len = l->head.payload_len;
    return 0;
}

int mm_dead_payload(struct mm_dead *d, const char *id, void **data, size_t *len)
{
    uint64_t seq = 0;
    *data = NULL;
    *len = 0;
    if (!parse_id(id, d->uuid, &seq)) {
        return MM_EINVAL;
    }
    pthread_mutex_lock(&d->lock);
    int err = copy_payload(d, seq, data, len);
    pthread_mutex_unlock(&d->lock);
    return err;
}
