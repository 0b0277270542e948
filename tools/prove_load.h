/* prove_load.h - publishers for "prove", who keep what is not acknowledged and send it again.
 *
 * Each of some MQTT 3.1.1 clients publishes messages of QoS 1 or 2, numbered from 0, with a window
 * of those that are not acknowledged; message n goes to its topic n % n_topics. When its connection
 * ends it comes again and goes on at the oldest message that was not acknowledged, as clients do
 * that lose nothing. A message of QoS 2 is acknowledged by its PUBREC, from which on it is the
 * broker's; its place in the window is free when PUBCOMP has come, too. The rate is not even:
 * pauses and bursts follow each other at random. */
#ifndef PROVE_LOAD_H
#define PROVE_LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PROVE_TOPIC_LEN 64     /* of an MQTT topic, with its NUL, at most */
#define PROVE_PAYLOAD_MIN 32   /* bytes */
#define PROVE_PAYLOAD_MAX 4096 /* bytes */

struct prove_load;

struct prove_load_options
{
    uint16_t port; /* of 127.0.0.1 */
    uint32_t n_clients;
    uint32_t n_topics; /* of each client */
    uint32_t rate;     /* messages a second of all together, on average */
    uint32_t payload_max;
    uint8_t qos;  /* 1 or 2 */
    uint32_t run; /* the number of this run; it is in topics and payloads */
};

struct prove_load_figures
{
    uint64_t n_made;
    uint64_t n_acked;
    uint64_t n_connections;
    uint64_t n_sent_again;
};

/* Start them, in a thread. False: out of memory, or no thread. */
bool prove_load_start(const struct prove_load_options *opts, struct prove_load **out);

/* Make no new messages, and wait until all that were made are acknowledged, timeout_ms at most; the
 * thread ends. False: some are not. */
bool prove_load_stop(struct prove_load *l, uint32_t timeout_ms);

void prove_load_figures(const struct prove_load *l, struct prove_load_figures *out);

/* Messages of a client that were acknowledged: its first ones. */
uint64_t prove_load_acked(const struct prove_load *l, uint32_t client);

/* How many have a connection? When the broker is gone and it is none, each has read what the broker
 * sent. */
uint32_t prove_load_connected(const struct prove_load *l);

/* Accepts NULL. After the stop. */
void prove_load_free(struct prove_load *l);

/* What message n of a client is: its MQTT topic, and its payload. Returns the payload's length. */
size_t prove_message(const struct prove_load_options *opts,
                     uint32_t client,
                     uint64_t n,
                     char topic[PROVE_TOPIC_LEN],
                     uint8_t payload[PROVE_PAYLOAD_MAX]);

/* Which message has this payload, if it is of this run? False: of none. */
bool prove_which(const struct prove_load_options *opts,
                 const uint8_t *payload,
                 size_t len,
                 uint32_t *client,
                 uint64_t *n);

#endif
