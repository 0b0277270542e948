/* prove_broker.h - the broker that "prove" kills: a Mosquitto with the plugin, in a directory of
 * its own.
 *
 * For one thread, which must be the one that starts it: the broker ends with it. */
#ifndef PROVE_BROKER_H
#define PROVE_BROKER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* In dir: how long its longest sync took, when one counts; see power_preload.c. */
#define PROVE_BROKER_SLOWEST "slowest"

struct prove_broker
{
    char dir[4096];     /* mosquitto.conf, mosquitto.log, spool/ */
    char config[4128];  /* its mosquitto.conf */
    char preload[4096]; /* counts its syncs, and keeps what they made safe in disk/; "": nobody does
                         */
    const char *program;
    uint16_t port; /* on 127.0.0.1, as long as nobody else takes it while the broker is down */
    pid_t pid;     /* 0: it does not run */
};

/* Make the directory, below $TMPDIR or /tmp, and choose a port. program: the Mosquitto; NULL: the
 * one that the PATH has, or /usr/sbin. False: why was told to standard error. */
bool prove_broker_make(struct prove_broker *b, const char *program);

/* False: why was told to standard error. */
bool prove_broker_start(struct prove_broker *b);

/* SIGKILL, and wait for its end. */
void prove_broker_kill(struct prove_broker *b);

/* SIGTERM, and wait, timeout_ms at most. False: it did not end, and was killed. */
bool prove_broker_stop(struct prove_broker *b, uint32_t timeout_ms);

/* Has it ended by itself? Puts how into text. */
bool prove_broker_ended(struct prove_broker *b, char *text, size_t text_len);

/* The last lines of its log, to standard error. */
void prove_broker_show_log(const struct prove_broker *b);

/* Delete the directory. */
void prove_broker_remove(const struct prove_broker *b);

/* Delete a directory and all below it. Returns 0; or -1, and errno says why. */
int prove_broker_remove_tree(const char *path);

#endif
