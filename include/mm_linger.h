/* mm_linger.h - when the Kafka client is to send what it was given.
 *
 * The client can wait for company before it sends a message, but for a fixed time only, and it
 * wakes all the time while it waits for something else: an answer that is to come before it may
 * send on. So it is made to wait long, and is told to send: *pushed*. When, is decided here.
 *
 *   - A push is *due* for messages that nothing keeps from being sent: their partition has hardly
 *     any on the wire. The others follow when an answer has come for theirs.
 *   - Between two pushes lies a *gap*, the longer, the more messages come: none where it would
 *     bring no company, all of the time that the settings allow where it would bring a crowd. A
 *     message on its own goes at once.
 *   - A push can be missed by a client that is held up. While no answer comes it is repeated a few
 *     times; after that the client has waited for as long as it was told to, and sends by itself.
 *
 * All times are of CLOCK_MONOTONIC, ns. Thread: one. */
#ifndef MM_LINGER_H
#define MM_LINGER_H

#include <stdbool.h>
#include <stdint.h>

struct mm_linger
{
    uint64_t max_ns;    /* of the settings */
    uint64_t pushed_ns; /* when the last push was; 0: none was */
    uint64_t again_ns;  /* how long after it another is due, while no answer comes */
    uint64_t crowd;     /* messages that came in the time max_ns, lately, in 256ths */
    uint32_t n_handed;  /* since the last push */
    bool wanted;        /* there are messages that could be sent */
};

/* The time that the settings allow. */
void mm_linger_init(struct mm_linger *l, uint32_t max_ms);

/* A message was given to the client. may_go: nothing keeps it from being sent. */
void mm_linger_handed(struct mm_linger *l, bool may_go);

/* An answer has come. waiting: more messages of its partition are out. */
void mm_linger_answered(struct mm_linger *l, bool waiting);

/* How long until the next push, ns, with n_out messages out; 0: it is due; UINT64_MAX: none is. */
uint64_t mm_linger_due_in(const struct mm_linger *l, uint64_t n_out, uint64_t now_ns);

/* The push was made. */
void mm_linger_pushed(struct mm_linger *l, uint64_t now_ns);

#endif
