/* mm_trouble.h - why Kafka is not reached, in words.
 *
 * The Kafka client tells what it saw: "SSL alert number 42". People want to know what it means and
 * what to do: Kafka wants a certificate and has got none. This table knows the texts of librdkafka
 * 2.0 to 2.15 and the numbers of OpenSSL. Also here: the faults of some versions of librdkafka that
 * users meet. Pure functions; no librdkafka, no OpenSSL. Thread: any. */
#ifndef MM_TROUBLE_H
#define MM_TROUBLE_H

#include <stdbool.h>
#include <stddef.h>

enum mm_trouble {
    MM_TROUBLE_NONE,
    MM_TROUBLE_LOST,          /* a connection that was good has ended: that happens */
    MM_TROUBLE_OTHER,         /* in the client's own words */
    MM_TROUBLE_UNREACHABLE,   /* refused, timed out, no route: nobody is there */
    MM_TROUBLE_UNKNOWN_HOST,  /* its name cannot be resolved */
    MM_TROUBLE_UNKNOWN_CA,    /* Kafka's certificate is of an authority that we do not trust */
    MM_TROUBLE_OTHER_HOST,    /* Kafka's certificate is for another name */
    MM_TROUBLE_EXPIRED,       /* Kafka's certificate is out of date */
    MM_TROUBLE_CA_EXPIRED,    /* that of an authority above it is */
    MM_TROUBLE_NOT_YET_VALID, /* Kafka's certificate begins later: a wrong clock? */
    MM_TROUBLE_BAD_CERT,      /* Kafka's certificate is wrong in another way */
    MM_TROUBLE_CERT_MISSING,  /* Kafka wants a certificate of ours, and we have none */
    MM_TROUBLE_CERT_REFUSED,  /* Kafka does not take our certificate */
    MM_TROUBLE_CERT_EXPIRED,  /* because it is out of date */
    MM_TROUBLE_TLS_VERSIONS,  /* no version or cipher of TLS in common */
    MM_TROUBLE_NO_TLS,        /* we speak TLS, the listener does not */
    MM_TROUBLE_WANTS_TLS,     /* the other way round */
    MM_TROUBLE_NO_SASL,       /* we speak SASL, the listener does not */
    MM_TROUBLE_WANTS_SASL,    /* the other way round */
    MM_TROUBLE_MECHANISM,     /* the listener has other mechanisms */
    MM_TROUBLE_PASSWORD,      /* Kafka does not know this user with this password */
    MM_TROUBLE_SCRAM,         /* the same, or a fault of librdkafka before 2.6.1 */
    MM_TROUBLE_NO_TOKEN,      /* the token endpoint gave none */
    MM_TROUBLE_TOKEN_REFUSED, /* Kafka does not take the token */
    MM_TROUBLE_KERBEROS,      /* no ticket, or Kafka does not take it */
    MM_N_TROUBLES,
};

/* How the client was told to connect. */
struct mm_trouble_context
{
    bool tls;
    bool sasl;
    const char *mechanism; /* "" without SASL */
    const char *user;      /* "" when there is none */
    bool has_cert;         /* one of our own */
    bool cert_expired;     /* our own */
    int client_version;    /* librdkafka's, e.g. 0x020002ff */
};

/* What the client saw. */
struct mm_trouble_event
{
    const char *error; /* librdkafka's name, "_SSL" */
    const char *text;
    int x509_error; /* of OpenSSL's X509_V_ERR_...; 0: none that is known of */
    int x509_depth; /* of the certificate it is about: 0 is Kafka's own */
};

enum mm_trouble mm_trouble_of(const struct mm_trouble_context *context,
                              const struct mm_trouble_event *event);

/* Is it a guess, because the other side only hung up? Once may be an accident. */
bool mm_trouble_is_guess(enum mm_trouble trouble);

/* Has Kafka looked at who we say we are, and refused it? Who tries on at once can be locked out. */
bool mm_trouble_is_refusal(enum mm_trouble trouble);

/* Does it take somebody to mend it? Else it may pass by itself. */
bool mm_trouble_needs_mending(enum mm_trouble trouble);

/* Write what it is, "the certificate of Kafka at localhost:9093 has expired", without secrets.
 * Returns dst. */
const char *mm_trouble_what(enum mm_trouble trouble,
                            const struct mm_trouble_context *context,
                            const struct mm_trouble_event *event,
                            char *dst,
                            size_t dst_len);

/* The same in short, "its certificate has expired". Static. */
const char *mm_trouble_name(enum mm_trouble trouble);

/* What to do; "" when that is not known. Static. */
const char *mm_trouble_remedy(enum mm_trouble trouble);

/* What an operator can do about a Kafka error by which a topic or a producer is refused, e.g.
 * "TOPIC_AUTHORIZATION_FAILED"; "" when there is nothing to say. Static. */
const char *mm_trouble_hint(const char *error);

/* Takes one line on a fault of the librdkafka that runs. */
typedef void (*mm_trouble_fault_fn)(void *arg, const char *line);

/* Tell the faults that a version of librdkafka has and that matter here. scram: a SCRAM mechanism
 * is used. */
void mm_trouble_client_faults(int version, bool scram, mm_trouble_fault_fn fn, void *arg);

#endif
