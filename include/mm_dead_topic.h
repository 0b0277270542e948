/* mm_dead_topic.h - copies of dead letters in a Kafka topic (dead_letter_topic).
 *
 * A worker gives a copy of each letter that is in the dead-letter log (mm_dead.h). The log is what
 * counts: a copy is tried by the Kafka client and by nobody else, and one that fails is counted,
 * told once in a while, and given up. It never becomes a dead letter itself.
 *
 * The copies have a producer of their own, made when the first one is needed: whatever happens to
 * it stops nothing else, and no order is kept between the copies.
 *
 * Thread: one, the worker's; every callback runs inside a call. No call waits, but
 * mm_dead_topic_close() and, when the producer has failed for good, its replacement. */
#ifndef MM_DEAD_TOPIC_H
#define MM_DEAD_TOPIC_H

#include <stdint.h>

struct mm_config;
struct mm_dead_letter;
struct mm_dead_topic;
struct mm_gate;
struct mm_log;
struct mm_metrics_worker;

/* All is borrowed. */
struct mm_dead_topic_options
{
    const struct mm_config *config;    /* dead_letter_topic is set */
    struct mm_metrics_worker *metrics; /* dead_copies and dead_copies_failed are ours */
    struct mm_gate *gate;              /* of all producers; NULL: none */
    struct mm_log *log;
};

/* Errors: MM_ENOMEM; *out is NULL then. */
int mm_dead_topic_new(const struct mm_dead_topic_options *opts, struct mm_dead_topic **out);

/* Send a copy of the letter: the key, value and time stamp that its record would have had, and the
 * headers mm-id, mm-error, mm-reason and mm-kafka-topic. A letter whose message is lost has none.
 * How it ends is in the metrics and in the log. Accepts NULL. */
void mm_dead_topic_send(struct mm_dead_topic *t, const struct mm_dead_letter *letter);

/* Serve the producer. Accepts NULL. */
void mm_dead_topic_poll(struct mm_dead_topic *t);

/* Wait at most wait_ms for the copies that are on their way, give up the others, and end. Accepts
 * NULL. */
void mm_dead_topic_close(struct mm_dead_topic *t, uint32_t wait_ms);

#endif
