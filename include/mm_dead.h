/* mm_dead.h - the dead-letter log, in memory.
 *
 * A record that Kafka refuses even when it is sent alone ends here with the reason, so that a
 * person can look at it and fetch it. Bounded: the oldest letter makes room for a new one and is
 * counted. It lives as long as the process. A lock protects it: letters are rare and the broker
 * thread never comes here. */
#ifndef MM_DEAD_H
#define MM_DEAD_H

#include <stddef.h>
#include <stdint.h>

struct mm_dead;

struct mm_dead_letter
{
    uint64_t seq;      /* of the spool: the number in mm-id */
    uint64_t time_ms;  /* of receipt, since the epoch */
    uint64_t died_ms;  /* when it came here, since the epoch */
    const char *topic; /* MQTT topic, topic_len bytes, no NUL */
    size_t topic_len;
    const void *payload;
    size_t payload_len;
    const char *kafka_topic; /* NUL-terminated, as all below */
    const char *error;       /* Kafka's name of the error, e.g. MSG_SIZE_TOO_LARGE */
    const char *reason;      /* in words */
};

/* max_bytes: of all letters together. uuid: the spool's, for the ids. Thread: setup.
 * Errors: MM_ENOMEM. */
int mm_dead_new(size_t max_bytes, const char *uuid, struct mm_dead **out);

/* Accepts NULL. Thread: setup. */
void mm_dead_free(struct mm_dead *d);

/* Add a copy of the letter. One larger than the whole log keeps its description without the
 * payload.
 *
 * Thread: any but the broker. Errors: MM_ENOMEM, also when the description alone is larger than the
 * log: it is not kept; the caller has counted and logged. */
int mm_dead_add(struct mm_dead *d, const struct mm_dead_letter *letter);

struct mm_dead_stats
{
    uint64_t n_letters; /* held now */
    uint64_t n_bytes;   /* held now */
    uint64_t n_evicted; /* made room for others, or came without their payload, ever */
};

/* Thread: any but the broker. */
void mm_dead_stats(struct mm_dead *d, struct mm_dead_stats *out);

/* All letters, newest last, as a JSON array without payloads (id, mqtt_topic, payload_bytes,
 * payload_kept, received, died, kafka_topic, error, reason; times as RFC 3339 UTC). Bytes of a
 * topic that are not UTF-8 become U+FFFD. *text is malloc'ed for the caller to free.
 *
 * Thread: any but the broker. Errors: MM_ENOMEM. */
int mm_dead_list(struct mm_dead *d, char **text, size_t *len);

/* A copy of the payload of the letter with this id ("<uuid>-<seq>"), malloc'ed for the caller to
 * free.
 *
 * Thread: any but the broker. Errors: MM_EINVAL, no such letter or its payload was not kept;
 * MM_ENOMEM. */
int mm_dead_payload(struct mm_dead *d, const char *id, void **data, size_t *len);

#endif
