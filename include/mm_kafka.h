/* mm_kafka.h - one producer.
 *
 * The only module that knows librdkafka. A producer is idempotent and strict: when a message fails
 * in a way that would let a later one of the same partition overtake it, the client sends nothing
 * more (librdkafka's enable.gapless.guarantee), Kafka refuses what is on the wire behind it, since
 * its sequence numbers have a gap, and mm_kafka_failed() says so. The caller then waits for the
 * reports that are still out, makes a new producer and sends again from the oldest unfinished
 * record.
 *
 * Kafka knows that there is a gap only once it has stored something of this producer in the
 * partition: of an unknown producer it takes any number first. A first request that it refuses for
 * the moment would be overtaken by the second, and librdkafka would take the second's success for
 * the first's. So a partition is *warmed*: until its first message was acknowledged, no other is
 * sent to it.
 *
 * For messages whose order does not matter there is the *loose* producer: one that fails stops no
 * other, and nothing is warmed. And where many are expected to fail there is the *careful* one: no
 * message is sent to a partition before the last one's report has come, so that nothing can
 * overtake it; so one that fails need not stop the producer, either.
 *
 * All callbacks run inside mm_kafka_poll() and mm_kafka_close(), on the caller's thread. */
#ifndef MM_KAFKA_H
#define MM_KAFKA_H

#include "mm_config.h"

#include "mm_trouble.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mm_gate;
struct mm_kafka;
struct mm_log;
struct mm_contact_told;

/* What a delivery report means for its record. */
enum mm_kafka_class {
    MM_KAFKA_DELIVERED, /* the cluster has it */
    MM_KAFKA_AGAIN,     /* nothing is wrong with it: send it again (it was purged) */
    MM_KAFKA_WAIT,      /* refused for a reason that somebody can mend: keep it, try again later */
    MM_KAFKA_SUSPECT,   /* it, or a neighbour in its batch, can never be stored: send it alone */
};

struct mm_kafka_report
{
    void *tag;        /* as given to mm_kafka_produce() */
    size_t value_len; /* bytes */
    enum mm_kafka_class class;
    bool
        maybe_persisted; /* not delivered as far as we know, but it was sent: a repeat may follow */
    bool too_large;      /* SUSPECT because of its size */
    bool unroutable;     /* never of a producer: SUSPECT because no Kafka topic is found for it */
    bool wrong_time;     /* WAIT because of its time stamp */
    bool general;        /* WAIT for a reason that is not this Kafka topic's alone */
    const char *error;   /* the error's name, e.g. "MSG_SIZE_TOO_LARGE"; static */
    const char *reason;  /* in words; static */
};

typedef void (*mm_kafka_report_fn)(void *arg, const struct mm_kafka_report *report);

struct mm_kafka_options
{
    const struct mm_config *config; /* borrowed, for the life of the producer */
    bool single;                    /* one message in a batch: the judge of suspects */
    bool loose;                     /* see above */
    bool careful;                   /* see above */
    bool quiet; /* connection errors are told at debug: another producer tells them */
    bool up;    /* what is known of the connection from the producer before */
    mm_kafka_report_fn on_report;
    void *arg;
    struct mm_log *log;           /* borrowed */
    struct mm_gate *gate;         /* borrowed; shared by all producers of a process; NULL: none */
    struct mm_contact_told *told; /* borrowed; outlives the producer; NULL: nothing was told */
};

/* Make a producer. Connects in the background; never waits for the cluster.
 *
 * Thread: setup or worker; the threads that it makes inherit the caller's signal mask, so the
 * caller has blocked all signals. Errors: MM_EKAFKA, errstr names the property and the reason;
 * MM_ENOMEM. *out is NULL then. */
int mm_kafka_new(const struct mm_kafka_options *opts,
                 struct mm_kafka **out,
                 char *errstr,
                 size_t errstr_len);

/* Forget what is queued, wait at most wait_ms for what is on the wire, report everything that is
 * still out, and end the producer. Accepts NULL. Thread: the owner. */
void mm_kafka_close(struct mm_kafka *k, uint32_t wait_ms);

struct mm_kafka_header
{
    const char *name; /* NUL-terminated */
    const void *value;
    size_t value_len;
};

struct mm_kafka_message
{
    const char *topic; /* Kafka's; NUL-terminated */
    const void *key;   /* NULL: none */
    size_t key_len;
    const void *spread; /* where there is no key: chooses the partition as a key of these bytes
                           would, so that those with the same ones stay in order; not sent */
    size_t spread_len;
    const void *value;
    size_t value_len;
    const struct mm_kafka_header *headers; /* n_headers of them; copied */
    size_t n_headers;
    uint64_t time_ms; /* since the epoch */
    void *tag;        /* comes back in the report */
};

/* Hand a message to the client, which copies it. Its end is a report, and only that, when 0 is
 * returned; there is no report otherwise.
 *
 * Thread: the owner.
 * Errors: MM_EAGAIN, the partition is not warm yet: nothing for this topic until a report has come
 * for it; MM_EFULL, the client's queue or the memory is full: nothing for any topic; MM_EKAFKA,
 * refused on the spot, *report says what it means (tag is set). *report is written to then only. */
int mm_kafka_produce(struct mm_kafka *k,
                     const struct mm_kafka_message *m,
                     struct mm_kafka_report *report);

/* Serve callbacks; waits at most timeout_ms for one. Thread: the owner. */
void mm_kafka_poll(struct mm_kafka *k, uint32_t timeout_ms);

/* Take back what was not sent yet: reports follow with MM_KAFKA_AGAIN. After this the producer must
 * not be used for new messages (their sequence would have a gap). Thread: the owner. */
void mm_kafka_take_back(struct mm_kafka *k);

/* Has the producer stopped for good? Then *error and *reason say why (static or valid as long as
 * the producer); *strict tells that it stopped because a message failed, not because of itself.
 *
 * Thread: the owner. */
bool mm_kafka_failed(struct mm_kafka *k, const char **error, const char **reason, bool *strict);

/* What the cluster says of a Kafka topic that cannot be written to just now. Static texts. */
typedef void (*mm_kafka_topic_fn)(void *arg,
                                  const char *topic,
                                  const char *error,
                                  const char *reason);

/* Ask the cluster for its metadata: a proof that it is reached and lets us in. fn is called for
 * each of the n topics of which it says that something is wrong. Some of the client's errors come
 * only with the next mm_kafka_poll().
 *
 * Thread: the owner, who waits. Errors: MM_EAGAIN, no answer within timeout_ms. */
int mm_kafka_ask(struct mm_kafka *k,
                 const char *const *topics,
                 size_t n,
                 uint32_t timeout_ms,
                 mm_kafka_topic_fn fn,
                 void *arg);

/* Did the last attempt at a connection fail for a reason that does not pass by itself: TLS, or who
 * we are? Thread: the owner. */
bool mm_kafka_is_rejected(const struct mm_kafka *k);

/* Is a connection to the cluster known to be up? From the client's events and its statistics once a
 * second. Thread: the owner. */
bool mm_kafka_up(const struct mm_kafka *k);

/* Messages handed over whose report is still to come. Thread: the owner. */
uint64_t mm_kafka_n_out(const struct mm_kafka *k);

/* The largest message, in bytes, that the client takes (message.max.bytes). Thread: the owner. */
size_t mm_kafka_max_message(const struct mm_kafka *k);

/* Connection losses and refused connections since the producer was made. Thread: the owner. */
uint64_t mm_kafka_n_errors(const struct mm_kafka *k);

/* The last error of the connection in words (mm_trouble_what()), "" when there was none since it
 * was up. Valid until the next poll.
 *
 * Thread: the owner. */
const char *mm_kafka_last_error(const struct mm_kafka *k);

/* What to do about it; "" when nothing is known. Static. Thread: the owner. */
const char *mm_kafka_remedy(const struct mm_kafka *k);

/* Does librdkafka take this property with this value, by itself? False: why has the reason, which
 * may have the value in it. A mm_config_judge_fn. Thread: any. */
bool mm_kafka_judge(const char *name, const char *value, char *why, size_t why_len);

/* The partition among n_partitions (>= 1) that a producer of these settings chooses for a message;
 * -1: any, or memory is short. Thread: any. */
int32_t mm_kafka_partition(const struct mm_config *config,
                           const struct mm_kafka_message *m,
                           int32_t n_partitions);

/* The client itself, librdkafka's rd_kafka_t, for tools that ask the cluster what no producer needs
 * to know. Lives as long as the producer. Thread: the owner. */
struct rd_kafka_s *mm_kafka_client(struct mm_kafka *k);

/* What is wrong with the connections; MM_TROUBLE_NONE while that is not known, or nothing is.
 * Thread: the owner. */
enum mm_trouble mm_kafka_trouble(const struct mm_kafka *k);

/* The client library's version as it runs, e.g. "2.0.2", and as a number (0x020002ff).
 *
 * Thread: any. */
const char *mm_kafka_version(void);
int mm_kafka_version_number(void);

#endif
