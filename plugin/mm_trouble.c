#include "mm_trouble.h"

#include "mm_text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* OpenSSL's X509_V_ERR_...: part of its interface, the same since 1.0.2. */
enum {
    X509_UNABLE_TO_GET_ISSUER = 2,
    X509_NOT_YET_VALID = 9,
    X509_HAS_EXPIRED = 10,
    X509_SELF_SIGNED = 18,
    X509_SELF_SIGNED_IN_CHAIN = 19,
    X509_UNABLE_TO_GET_ISSUER_LOCALLY = 20,
    X509_UNABLE_TO_VERIFY_LEAF = 21,
    X509_HOST_MISMATCH = 62,
    X509_IP_MISMATCH = 64,
};

/* SCRAM with Kafka 4 works from this librdkafka on. */
#define VERSION_SCRAM_FIXED 0x02060100

/* A connection that is closed so soon after it was made was closed because of what it asked. */
#define SOON_MS 2000

struct words
{
    const char *what;
    const char *remedy;
};

static const struct words words[MM_N_TROUBLES] = {
    [MM_TROUBLE_NONE] = {"no trouble", ""},
    [MM_TROUBLE_LOST] = {"the connection was closed", ""},
    [MM_TROUBLE_OTHER] = {"", ""},
    [MM_TROUBLE_UNREACHABLE] = {"nobody answers", ""},
    [MM_TROUBLE_UNKNOWN_HOST] = {"its name is not known",
                                 "mend kafka_broker, or the name service (DNS)"},
    [MM_TROUBLE_UNKNOWN_CA] = {"its certificate is signed by an authority that is not trusted",
                               "kafka_tls_ca_file has to hold that authority's certificate"},
    [MM_TROUBLE_OTHER_HOST] =
        {"its certificate is for another host name",
         "kafka_broker, and the cluster's advertised.listeners, have to give a name that is in it"},
    [MM_TROUBLE_EXPIRED] = {"its certificate has expired",
                            "renew it at Kafka (or is this machine's clock wrong?)"},
    [MM_TROUBLE_CA_EXPIRED] =
        {"the certificate of an authority above its own has expired",
         "renew it, and kafka_tls_ca_file (or is this machine's clock wrong?)"},
    [MM_TROUBLE_NOT_YET_VALID] = {"its certificate is not valid yet",
                                  "is this machine's clock right?"},
    [MM_TROUBLE_BAD_CERT] = {"its certificate does not hold", "look at Kafka's certificate"},
    [MM_TROUBLE_CERT_MISSING] = {"it wants a certificate of ours",
                                 "set kafka_tls_cert_file and kafka_tls_key_file"},
    [MM_TROUBLE_CERT_REFUSED] =
        {"it refused our certificate",
         "kafka_tls_cert_file has to be signed by an authority that Kafka trusts, and in date"},
    [MM_TROUBLE_CERT_EXPIRED] = {"it refused our certificate, which has expired",
                                 "renew kafka_tls_cert_file"},
    [MM_TROUBLE_TLS_VERSIONS] = {"there is no version or cipher of TLS that both sides take",
                                 "look at ssl.enabled.protocols and ssl.cipher.suites of Kafka"},
    [MM_TROUBLE_NO_TLS] = {"its listener does not seem to speak TLS",
                           "set kafka_security_protocol to plaintext or sasl_plaintext, or take "
                           "another port in kafka_broker"},
    [MM_TROUBLE_WANTS_TLS] = {"it hangs up at our first word: its listener seems to speak TLS",
                              "set kafka_security_protocol to ssl or sasl_ssl, or take another "
                              "port in kafka_broker"},
    [MM_TROUBLE_NO_SASL] = {"its listener does not take SASL",
                            "set kafka_security_protocol to plaintext or ssl, or take another "
                            "port in kafka_broker"},
    [MM_TROUBLE_WANTS_SASL] = {"it hangs up at our first question: its listener seems to want SASL",
                               "set kafka_security_protocol to sasl_plaintext or sasl_ssl, or "
                               "take another port in kafka_broker"},
    [MM_TROUBLE_MECHANISM] = {"it does not offer the mechanism", "mend kafka_sasl_mechanism"},
    [MM_TROUBLE_PASSWORD] = {"it refused the user or the password",
                             "mend kafka_sasl_username and kafka_sasl_password, or the user at "
                             "Kafka"},
    [MM_TROUBLE_SCRAM] = {"it refused the user or the password, or this is the fault of "
                          "librdkafka before 2.6.1, whose right passwords Kafka 4 refuses",
                          "take PLAIN over TLS, a client certificate, or a plugin with a newer "
                          "librdkafka (docs/kafka-security.md)"},
    [MM_TROUBLE_NO_TOKEN] = {"there is no token from kafka_oauth_token_endpoint_url",
                             "mend the endpoint, the client's id or its secret"},
    [MM_TROUBLE_TOKEN_REFUSED] = {"it refused our token",
                                  "look at what Kafka expects of a token (audience, scope, "
                                  "issuer), and at both clocks"},
    [MM_TROUBLE_KERBEROS] = {"Kerberos does not let us in",
                             "look at kafka_kerberos_principal, its keytab and the ticket "
                             "(kinit, klist)"},
};

/* A text that says it all; the first that fits counts. */
static const struct
{
    const char *error; /* NULL: any */
    const char *part;  /* of the text; NULL: any */
    enum mm_trouble trouble;
} texts[] = {
    {NULL, "SSL alert number 45", MM_TROUBLE_CERT_EXPIRED},
    {NULL, "SSL alert number 42", MM_TROUBLE_CERT_REFUSED},
    {NULL, "SSL alert number 43", MM_TROUBLE_CERT_REFUSED},
    {NULL, "SSL alert number 44", MM_TROUBLE_CERT_REFUSED},
    {NULL, "SSL alert number 46", MM_TROUBLE_CERT_REFUSED},
    {NULL, "SSL alert number 48", MM_TROUBLE_CERT_REFUSED},
    {NULL, "SSL alert number 49", MM_TROUBLE_CERT_REFUSED},
    {NULL, "SSL alert number 116", MM_TROUBLE_CERT_MISSING},
    {NULL, "client SSL authentication might be required", MM_TROUBLE_CERT_MISSING},
    {NULL, "SSL alert number 40", MM_TROUBLE_TLS_VERSIONS},
    {NULL, "SSL alert number 70", MM_TROUBLE_TLS_VERSIONS},
    {NULL, "SSL alert number 71", MM_TROUBLE_TLS_VERSIONS},
    {NULL, "unsupported protocol", MM_TROUBLE_TLS_VERSIONS},
    {NULL, "no protocols available", MM_TROUBLE_TLS_VERSIONS},
    {NULL, "wrong version number", MM_TROUBLE_NO_TLS},
    {NULL, "connecting to a PLAINTEXT broker listener", MM_TROUBLE_NO_TLS},
    {NULL, "Broker did not provide a certificate", MM_TROUBLE_BAD_CERT},
    {NULL, "certificate verify failed", MM_TROUBLE_BAD_CERT},
    {NULL, "Failed to verify broker certificate", MM_TROUBLE_BAD_CERT},
    {NULL, "Failed to acquire SASL OAUTHBEARER token", MM_TROUBLE_NO_TOKEN},
    {NULL, "Request not valid in current SASL state", MM_TROUBLE_NO_SASL},
    {NULL, "Unsupported SASL mechanism", MM_TROUBLE_MECHANISM},
    {"_AUTHENTICATION", NULL, MM_TROUBLE_PASSWORD},
    {"SASL_AUTHENTICATION_FAILED", NULL, MM_TROUBLE_PASSWORD},
    {"_RESOLVE", NULL, MM_TROUBLE_UNKNOWN_HOST},
    {NULL, "Connection refused", MM_TROUBLE_UNREACHABLE},
    {NULL, "No route to host", MM_TROUBLE_UNREACHABLE},
    {NULL, "Network is unreachable", MM_TROUBLE_UNREACHABLE},
    {NULL, "Connection timed out", MM_TROUBLE_UNREACHABLE},
    {NULL, "Connection setup timed out", MM_TROUBLE_UNREACHABLE},
};

static bool has(const char *text, const char *part)
{
    return strstr(text, part) != NULL;
}

/* The "after 17ms in state UP" behind a text; SOON_MS when there is none. */
static long age_ms(const char *text)
{
    static const char begin[] = "(after ";
    const char *found = NULL;
    for (const char *next = text; (next = strstr(next, begin)) != NULL; next++) {
        found = next;
    }
    return found != NULL ? strtol(found + sizeof begin - 1, NULL, 10) : SOON_MS;
}

/* The other side has closed the connection and said nothing. What it had been asked tells why, or
 * makes a guess. */
static enum mm_trouble of_silence(const struct mm_trouble_context *c, const char *text)
{
    if (c->tls && has(text, "in state SSL_HANDSHAKE")) {
        return MM_TROUBLE_NO_TLS;
    }
    if (!c->tls && has(text, "in state APIVERSION_QUERY")) {
        return MM_TROUBLE_WANTS_TLS;
    }
    if (!c->sasl && has(text, "in state UP") && age_ms(text) < SOON_MS) {
        return MM_TROUBLE_WANTS_SASL;
    }
    return MM_TROUBLE_LOST;
}

static bool is_silence(const char *text)
{
    return has(text, ": Disconnected") || has(text, "unexpected eof while reading");
}

static enum mm_trouble of_x509(int error, int depth)
{
    switch (error) {
        case X509_HAS_EXPIRED:
            return depth == 0 ? MM_TROUBLE_EXPIRED : MM_TROUBLE_CA_EXPIRED;
        case X509_NOT_YET_VALID:
            return MM_TROUBLE_NOT_YET_VALID;
        case X509_HOST_MISMATCH:
        case X509_IP_MISMATCH:
            return MM_TROUBLE_OTHER_HOST;
        case X509_UNABLE_TO_GET_ISSUER:
        case X509_SELF_SIGNED:
        case X509_SELF_SIGNED_IN_CHAIN:
        case X509_UNABLE_TO_GET_ISSUER_LOCALLY:
        case X509_UNABLE_TO_VERIFY_LEAF:
            return MM_TROUBLE_UNKNOWN_CA;
        default:
            return MM_TROUBLE_BAD_CERT;
    }
}

/* Who was refused depends on how we say who we are. */
static enum mm_trouble of_refusal(const struct mm_trouble_context *c)
{
    if (strcmp(c->mechanism, "OAUTHBEARER") == 0) {
        return MM_TROUBLE_TOKEN_REFUSED;
    }
    if (strcmp(c->mechanism, "GSSAPI") == 0) {
        return MM_TROUBLE_KERBEROS;
    }
    if (strncmp(c->mechanism, "SCRAM-", 6) == 0 && c->client_version < VERSION_SCRAM_FIXED) {
        return MM_TROUBLE_SCRAM;
    }
    return MM_TROUBLE_PASSWORD;
}

static enum mm_trouble look_up(const struct mm_trouble_event *e)
{
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        if ((texts[i].error == NULL || strcmp(texts[i].error, e->error) == 0) &&
            (texts[i].part == NULL || has(e->text, texts[i].part))) {
            return texts[i].trouble;
        }
    }
    return MM_TROUBLE_OTHER;
}

enum mm_trouble mm_trouble_of(const struct mm_trouble_context *context,
                              const struct mm_trouble_event *event)
{
    enum mm_trouble trouble = look_up(event);
    switch (trouble) {
        case MM_TROUBLE_OTHER:
            return is_silence(event->text) ? of_silence(context, event->text) : trouble;
        case MM_TROUBLE_BAD_CERT:
            return event->x509_error != 0 ? of_x509(event->x509_error, event->x509_depth) : trouble;
        case MM_TROUBLE_CERT_REFUSED:
            return context->has_cert ? trouble : MM_TROUBLE_CERT_MISSING;
        case MM_TROUBLE_PASSWORD:
            return of_refusal(context);
        default:
            return trouble;
    }
}

bool mm_trouble_is_guess(enum mm_trouble trouble)
{
    return trouble == MM_TROUBLE_NO_TLS || trouble == MM_TROUBLE_WANTS_TLS ||
           trouble == MM_TROUBLE_WANTS_SASL;
}

bool mm_trouble_is_refusal(enum mm_trouble trouble)
{
    return trouble == MM_TROUBLE_PASSWORD || trouble == MM_TROUBLE_SCRAM ||
           trouble == MM_TROUBLE_TOKEN_REFUSED || trouble == MM_TROUBLE_KERBEROS;
}

bool mm_trouble_needs_mending(enum mm_trouble trouble)
{
    return trouble > MM_TROUBLE_UNKNOWN_HOST;
}

/* The "localhost:9093" of "ssl://localhost:9093/bootstrap: SSL handshake failed". Returns its
 * length; 0: there is none. */
static size_t find_address(const char *text, const char **address)
{
    const char *end = strstr(text, ": ");
    const char *begin = strstr(text, "://");
    *address = begin != NULL && end != NULL && begin < end ? begin + 3 : text;
    const size_t len = strcspn(*address, "/ ");
    const char *colon = memchr(*address, ':', len);
    return end != NULL && colon != NULL && *address + len <= end ? len : 0;
}

static void write_details(enum mm_trouble trouble,
                          const struct mm_trouble_context *c,
                          const struct mm_trouble_event *e,
                          char *dst,
                          size_t dst_len)
{
    static const char offered_begin[] = "broker's supported mechanisms: ";
    char shown[MM_PRINTABLE_LEN];
    const char *offered = strstr(e->text, offered_begin);
    dst[0] = '\0';
    if (trouble == MM_TROUBLE_MECHANISM && offered != NULL) {
        offered += sizeof offered_begin - 1;
        snprintf(dst, dst_len, " %s, but %s", c->mechanism,
                 mm_printable(offered, strcspn(offered, " ("), shown, sizeof shown));
    } else if (trouble == MM_TROUBLE_PASSWORD || trouble == MM_TROUBLE_SCRAM) {
        snprintf(dst, dst_len, " (user \"%s\", %s)",
                 mm_printable(c->user, strlen(c->user), shown, sizeof shown), c->mechanism);
    } else if (trouble == MM_TROUBLE_BAD_CERT && e->x509_error != 0) {
        snprintf(dst, dst_len, " (X.509 error %d)", e->x509_error);
    }
}

const char *mm_trouble_what(enum mm_trouble trouble,
                            const struct mm_trouble_context *context,
                            const struct mm_trouble_event *event,
                            char *dst,
                            size_t dst_len)
{
    char details[160];
    char where[MM_PRINTABLE_LEN + 8] = "";
    const char *address;
    if (!mm_trouble_needs_mending(trouble)) {
        snprintf(dst, dst_len, "%s", event->text);
        return dst;
    }
    const size_t len = find_address(event->text, &address);
    if (len > 0) {
        snprintf(where, sizeof where, " at ");
        mm_printable(address, len, where + 4, sizeof where - 4);
    }
    write_details(trouble, context, event, details, sizeof details);
    snprintf(dst, dst_len, "Kafka%s: %s%s", where, words[trouble].what, details);
    return dst;
}

const char *mm_trouble_name(enum mm_trouble trouble)
{
    return words[trouble].what;
}

const char *mm_trouble_remedy(enum mm_trouble trouble)
{
    return words[trouble].remedy;
}

/* --- what Kafka refuses -------------------------------------------------------------------------
 */

const char *mm_trouble_hint(const char *error)
{
    static const struct
    {
        const char *error;
        const char *hint;
    } hints[] = {
        {"TOPIC_AUTHORIZATION_FAILED", "give our user the right WRITE on it"},
        {"CLUSTER_AUTHORIZATION_FAILED", "give our user the right WRITE on the Kafka topics"},
        {"UNKNOWN_TOPIC_OR_PART", "make the topic"},
        {"_UNKNOWN_TOPIC", "make the topic"},
    };
    for (size_t i = 0; i < sizeof hints / sizeof hints[0]; i++) {
        if (strcmp(hints[i].error, error) == 0) {
            return hints[i].hint;
        }
    }
    return "";
}

/* --- faults of librdkafka -----------------------------------------------------------------------
 */

void mm_trouble_client_faults(int version, bool scram, mm_trouble_fault_fn fn, void *arg)
{
    static const struct
    {
        int from;
        int before;
        bool scram; /* matters with SCRAM only */
        const char *text;
    } faults[] = {
        {0, VERSION_SCRAM_FIXED, true,
         "SCRAM of librdkafka before 2.6.1: Kafka 4 refuses right passwords (Kafka 3.8.1 to 3.9 "
         "take them); use PLAIN over TLS, a client certificate, or a plugin built with a newer "
         "librdkafka (docs/kafka-security.md)"},
        {0, 0x02030000, false,
         "librdkafka before 2.3.0: a restart of Kafka's nodes can end a producer for good "
         "(librdkafka #4438). The plugin makes a new one and goes on: nothing is lost, some "
         "messages may be there twice"},
        {0x02020000, 0x02050000, false,
         "librdkafka 2.2 to 2.4: a large batch that is sent again can end a producer for good "
         "(librdkafka #4750). The plugin makes a new one and goes on: nothing is lost, some "
         "messages may be there twice"},
    };
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
        if (version >= faults[i].from && version < faults[i].before &&
            (scram || !faults[i].scram)) {
            fn(arg, faults[i].text);
        }
    }
}
