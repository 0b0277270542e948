/* mm_contact.h - watches a producer's connections and tells people what is wrong with them, once.
 *
 * The Kafka client reports each failed connection, several a second, in its own words. What is
 * wrong is told in ours (mm_trouble.h): when it begins, when it becomes something else, now and
 * then while it lasts, and when it is over. A refused password also shuts the gate (mm_gate.h). */
#ifndef MM_CONTACT_H
#define MM_CONTACT_H

#include "mm_trouble.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mm_gate;
struct mm_log;

/* What was told already. Outlives the producers of one owner, who come and go. All zero at first.
 * Thread: the owner of the producers. */
struct mm_contact_told
{
    enum mm_trouble trouble; /* the last one, as long as it is not over */
    struct
    {
        uint64_t last_ns; /* CLOCK_MONOTONIC; 0: never */
        uint64_t n_held;  /* since then */
    } lines[MM_N_TROUBLES];
};

struct mm_contact_options
{
    struct mm_trouble_context context; /* its texts are copied */
    const char *cert_file;             /* borrowed; our own certificate; NULL: none */
    struct mm_contact_told *told;      /* borrowed; NULL: nothing was told before */
    struct mm_gate *gate;              /* borrowed; NULL: none */
    struct mm_log *log;                /* borrowed */
    bool quiet;                        /* tell all at debug: another watch tells it */
};

/* In the producer that owns it. */
struct mm_contact
{
    struct mm_contact_options opts;
    char mechanism[32];
    char user[64];
    struct mm_contact_told own; /* when none is lent */

    /* owner */
    uint64_t n_errors;
    bool troubled;           /* since Kafka was reached last */
    bool down;               /* no connection was left at all */
    uint64_t last_error_ns;  /* CLOCK_MONOTONIC */
    enum mm_trouble guess;   /* not told yet */
    enum mm_trouble trouble; /* the last one, but for connections that were lost */
    char last_error[256];

    /* any thread, under the lock */
    pthread_mutex_t lock;
    char hang_up[256]; /* "": there is none to be looked at */
    int x509_error;
    int x509_depth;
};

/* Thread: setup or the owner. */
void mm_contact_init(struct mm_contact *w, const struct mm_contact_options *opts);
void mm_contact_fini(struct mm_contact *w);

/* The client reports an error: librdkafka's name and text. Thread: the owner. */
void mm_contact_error(struct mm_contact *w, const char *error, const char *text);

/* The client logs that the other side has hung up, which it does not report as an error (librdkafka
 * from 2.11 on). Looked at by mm_contact_poll(). Thread: any. */
void mm_contact_hang_up(struct mm_contact *w, const char *text);

/* OpenSSL's verdict on a certificate, before the error that follows from it. Thread: any. */
void mm_contact_certificate(struct mm_contact *w, int x509_error, int depth);

/* Look at what other threads have left. Thread: the owner. */
void mm_contact_poll(struct mm_contact *w);

/* No connection is left. Thread: the owner. */
void mm_contact_down(struct mm_contact *w);

/* Kafka answers. Costs nothing where there was no trouble. Thread: the owner. */
void mm_contact_reached(struct mm_contact *w);

/* Kafka has let a connection in: nobody waits at the gate any more. Thread: any. */
void mm_contact_let_in(struct mm_contact *w);

/* May a connection be tried now? Thread: any. */
bool mm_contact_may_connect(struct mm_contact *w);

#endif
