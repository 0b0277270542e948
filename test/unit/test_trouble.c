/* Why Kafka is not reached, from the texts that librdkafka 2.0.2 and 2.15.1 really wrote when they
 * met a real Kafka; what is told of it, and when; the gate before a Kafka that has refused us; the
 * dates of certificates. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "mm_certificate.h"
#include "mm_clock.h"
#include "mm_config.h"
#include "mm_contact.h"
#include "mm_expiry.h"
#include "mm_gate.h"
#include "mm_log.h"
#include "mm_trouble.h"

#define LEN_OF(array) (sizeof(array) / sizeof(array)[0])
#define SECOND_NS UINT64_C(1000000000)
#define V202 0x020002ff
#define V215 0x020f01ff

/* How the client was told to connect. */
static const struct mm_trouble_context plaintext = {.mechanism = "",
                                                    .user = "",
                                                    .client_version = V202};
static const struct mm_trouble_context tls = {.tls = true,
                                              .mechanism = "",
                                              .user = "",
                                              .client_version = V202};
static const struct mm_trouble_context tls_cert = {.tls = true,
                                                   .mechanism = "",
                                                   .user = "",
                                                   .has_cert = true,
                                                   .client_version = V202};
static const struct mm_trouble_context plain = {.sasl = true,
                                                .mechanism = "PLAIN",
                                                .user = "alice",
                                                .client_version = V202};
static const struct mm_trouble_context plain_tls = {.tls = true,
                                                    .sasl = true,
                                                    .mechanism = "PLAIN",
                                                    .user = "alice",
                                                    .client_version = V202};
static const struct mm_trouble_context scram_202 = {.sasl = true,
                                                    .mechanism = "SCRAM-SHA-256",
                                                    .user = "alice",
                                                    .client_version = V202};
static const struct mm_trouble_context scram_215 = {.sasl = true,
                                                    .mechanism = "SCRAM-SHA-256",
                                                    .user = "alice",
                                                    .client_version = V215};
static const struct mm_trouble_context oauth = {.sasl = true,
                                                .mechanism = "OAUTHBEARER",
                                                .user = "",
                                                .client_version = V215};
static const struct mm_trouble_context kerberos = {.sasl = true,
                                                   .mechanism = "GSSAPI",
                                                   .user = "",
                                                   .client_version = V202};

#define VERIFY_FAILED                                                                            \
    "SSL handshake failed: error:0A000086:SSL routines::certificate verify failed: broker "      \
    "certificate could not be verified, verify that ssl.ca.location is correctly configured or " \
    "root CA certificates are installed (install ca-certificates package) (after 6ms in state "  \
    "SSL_HANDSHAKE)"
#define EOF_IN_HANDSHAKE                                                                          \
    "SSL handshake failed: error:0A000126:SSL routines::unexpected eof while reading (after 3ms " \
    "in state SSL_HANDSHAKE)"
#define HANDSHAKE_CLOSED                                                                  \
    "SSL handshake failed: Disconnected: SSL connection closed by peer: connecting to a " \
    "PLAINTEXT broker listener? (after 2ms in state SSL_HANDSHAKE)"
#define API_VERSION_CLOSED_202                                                                  \
    "Disconnected while requesting ApiVersion: might be caused by incorrect security.protocol " \
    "configuration (connecting to a SSL listener?) or broker version is < 0.10 (see "           \
    "api.version.request) (after 3ms in state APIVERSION_QUERY)"
#define API_VERSION_CLOSED_215                                                             \
    "Disconnected: connection closed by peer: receive 0 after POLLIN (after 3ms in state " \
    "APIVERSION_QUERY)"
#define WRONG_SASL_STATE                                                                       \
    "SASL PLAIN mechanism handshake failed: Broker: Request not valid in current SASL state: " \
    "broker's supported mechanisms:  (after 1ms in state AUTH_HANDSHAKE)"
#define SCRAM_REFUSED                                                                        \
    "SASL authentication error: Authentication failed during authentication due to invalid " \
    "credentials with SASL mechanism SCRAM-SHA-256 (after 316ms in state AUTH_REQ)"

/* NOLINTBEGIN(bugprone-suspicious-missing-comma): long texts */
static const struct
{
    const struct mm_trouble_context *context;
    const char *error;
    const char *text;
    int x509_error;
    int x509_depth;
    enum mm_trouble trouble;
    const char *what; /* NULL: the text itself */
} cases[] = {
    {&tls, "_SSL", "ssl://localhost:31681/bootstrap: " VERIFY_FAILED, 20, 0, MM_TROUBLE_UNKNOWN_CA,
     "Kafka at localhost:31681: its certificate is signed by an authority that is not trusted"},
    {&tls, "_TRANSPORT",
     "ssl://localhost:31681/1: error:0A000086:SSL routines::certificate verify failed (after 4ms "
     "in "
     "state SSL_HANDSHAKE)",
     19, 1, MM_TROUBLE_UNKNOWN_CA,
     "Kafka at localhost:31681: its certificate is signed by an authority that is not trusted"},
    {&tls, "_SSL", "ssl://localhost:16816/bootstrap: " VERIFY_FAILED, 10, 0, MM_TROUBLE_EXPIRED,
     "Kafka at localhost:16816: its certificate has expired"},
    {&tls, "_SSL", "ssl://localhost:16816/bootstrap: " VERIFY_FAILED, 10, 1, MM_TROUBLE_CA_EXPIRED,
     "Kafka at localhost:16816: the certificate of an authority above its own has expired"},
    {&tls, "_SSL", "ssl://localhost:16816/bootstrap: " VERIFY_FAILED, 9, 0,
     MM_TROUBLE_NOT_YET_VALID, "Kafka at localhost:16816: its certificate is not valid yet"},
    {&tls, "_SSL", "ssl://localhost:21913/bootstrap: " VERIFY_FAILED, 62, 0, MM_TROUBLE_OTHER_HOST,
     "Kafka at localhost:21913: its certificate is for another host name"},
    {&tls, "_SSL", "ssl://127.0.0.1:21913/bootstrap: " VERIFY_FAILED, 64, 0, MM_TROUBLE_OTHER_HOST,
     "Kafka at 127.0.0.1:21913: its certificate is for another host name"},
    {&tls, "_SSL", "ssl://[::1]:21913/bootstrap: " VERIFY_FAILED, 23, 0, MM_TROUBLE_BAD_CERT,
     "Kafka at [::1]:21913: its certificate does not hold (X.509 error 23)"},
    {&tls, "_SSL", "ssl://localhost:21913/bootstrap: " VERIFY_FAILED, 0, 0, MM_TROUBLE_BAD_CERT,
     "Kafka at localhost:21913: its certificate does not hold"},
    {&tls, "_TRANSPORT",
     "ssl://localhost:31247/bootstrap: Receive failed: error:0A000412:SSL routines::sslv3 alert "
     "bad "
     "certificate: SSL alert number 42 (after 3ms in state APIVERSION_QUERY)",
     0, 0, MM_TROUBLE_CERT_MISSING, "Kafka at localhost:31247: it wants a certificate of ours"},
    {&tls_cert, "_TRANSPORT",
     "ssl://localhost:31247/bootstrap: Receive failed: error:0A000412:SSL routines::ssl/tls alert "
     "bad certificate: SSL alert number 42 (after 3ms in state APIVERSION_QUERY)",
     0, 0, MM_TROUBLE_CERT_REFUSED, "Kafka at localhost:31247: it refused our certificate"},
    {&tls_cert, "_TRANSPORT",
     "ssl://localhost:31247/bootstrap: Receive failed: error:0A000416:SSL routines::sslv3 alert "
     "certificate unknown: SSL alert number 46 (after 3ms in state APIVERSION_QUERY)",
     0, 0, MM_TROUBLE_CERT_REFUSED, "Kafka at localhost:31247: it refused our certificate"},
    {&tls_cert, "_TRANSPORT",
     "ssl://localhost:1/1: Receive failed: error:0A000415:SSL routines::sslv3 alert certificate "
     "expired: SSL alert number 45 (after 3ms in state APIVERSION_QUERY)",
     0, 0, MM_TROUBLE_CERT_EXPIRED,
     "Kafka at localhost:1: it refused our certificate, which has expired"},
    {&tls, "_SSL",
     "ssl://localhost:1/1: SSL handshake failed: error:0A00042E:SSL routines::tlsv1 alert protocol "
     "version: SSL alert number 70 (after 3ms in state SSL_HANDSHAKE)",
     0, 0, MM_TROUBLE_TLS_VERSIONS,
     "Kafka at localhost:1: there is no version or cipher of TLS that both sides take"},
    {&tls, "_SSL",
     "ssl://localhost:80/1: SSL handshake failed: error:0A00010B:SSL routines::wrong version "
     "number "
     "(after 3ms in state SSL_HANDSHAKE)",
     0, 0, MM_TROUBLE_NO_TLS, "Kafka at localhost:80: its listener does not seem to speak TLS"},
    {&tls, "_SSL", "ssl://127.0.0.1:20468/bootstrap: " EOF_IN_HANDSHAKE, 0, 0, MM_TROUBLE_NO_TLS,
     "Kafka at 127.0.0.1:20468: its listener does not seem to speak TLS"},
    {&plain_tls, "_SSL", "sasl_ssl://localhost:32123/bootstrap: " EOF_IN_HANDSHAKE, 0, 0,
     MM_TROUBLE_NO_TLS, "Kafka at localhost:32123: its listener does not seem to speak TLS"},
    {&tls, "_TRANSPORT", "ssl://127.0.0.1:20468/bootstrap: " HANDSHAKE_CLOSED, 0, 0,
     MM_TROUBLE_NO_TLS, "Kafka at 127.0.0.1:20468: its listener does not seem to speak TLS"},
    {&tls, "_TRANSPORT",
     "ssl://127.0.0.1:20468/bootstrap: Disconnected: SSL connection closed by peer (after 3ms in "
     "state SSL_HANDSHAKE)",
     0, 0, MM_TROUBLE_NO_TLS, "Kafka at 127.0.0.1:20468: its listener does not seem to speak TLS"},
    {&plaintext, "_TRANSPORT", "localhost:31681/bootstrap: " API_VERSION_CLOSED_202, 0, 0,
     MM_TROUBLE_WANTS_TLS,
     "Kafka at localhost:31681: it hangs up at our first word: its listener seems to speak TLS"},
    {&plaintext, "_TRANSPORT", "localhost:31681/bootstrap: " API_VERSION_CLOSED_215, 0, 0,
     MM_TROUBLE_WANTS_TLS,
     "Kafka at localhost:31681: it hangs up at our first word: its listener seems to speak TLS"},
    {&plain, "_TRANSPORT", "sasl_plaintext://localhost:31681/bootstrap: " API_VERSION_CLOSED_215, 0,
     0, MM_TROUBLE_WANTS_TLS,
     "Kafka at localhost:31681: it hangs up at our first word: its listener seems to speak TLS"},
    {&plaintext, "_TRANSPORT",
     "localhost:32123/bootstrap: Disconnected: verify that security.protocol is correctly "
     "configured, broker might require SASL authentication (after 1ms in state UP)",
     0, 0, MM_TROUBLE_WANTS_SASL,
     "Kafka at localhost:32123: it hangs up at our first question: its listener seems to want "
     "SASL"},
    {&plaintext, "_TRANSPORT",
     "localhost:32123/bootstrap: Disconnected: connection closed by peer: receive 0 after POLLIN "
     "(after 1ms in state UP, 1 identical error(s) suppressed)",
     0, 0, MM_TROUBLE_WANTS_SASL,
     "Kafka at localhost:32123: it hangs up at our first question: its listener seems to want "
     "SASL"},
    {&tls, "_TRANSPORT",
     "ssl://localhost:26887/bootstrap: Disconnected: SSL connection closed by peer (after 2ms in "
     "state UP)",
     0, 0, MM_TROUBLE_WANTS_SASL,
     "Kafka at localhost:26887: it hangs up at our first question: its listener seems to want "
     "SASL"},
    {&plaintext, "_TRANSPORT", "localhost:9092/1: Disconnected (after 912345ms in state UP)", 0, 0,
     MM_TROUBLE_LOST, NULL},
    {&plain, "_TRANSPORT",
     "sasl_plaintext://localhost:9092/1: Disconnected (after 2ms in state UP)", 0, 0,
     MM_TROUBLE_LOST, NULL},
    {&tls, "_TRANSPORT",
     "ssl://localhost:9092/1: Disconnected: connection reset by peer (after 12ms in state "
     "APIVERSION_QUERY)",
     0, 0, MM_TROUBLE_LOST, NULL},
    {&plain, "_AUTHENTICATION", "sasl_plaintext://127.0.0.1:20468/bootstrap: " WRONG_SASL_STATE, 0,
     0, MM_TROUBLE_NO_SASL, "Kafka at 127.0.0.1:20468: its listener does not take SASL"},
    {&scram_202, "_AUTHENTICATION",
     "sasl_plaintext://localhost:27853/bootstrap: SASL SCRAM-SHA-256 mechanism handshake failed: "
     "Broker: Unsupported SASL mechanism: broker's supported mechanisms: PLAIN,GSSAPI (after 301ms "
     "in state AUTH_HANDSHAKE)",
     0, 0, MM_TROUBLE_MECHANISM,
     "Kafka at localhost:27853: it does not offer the mechanism SCRAM-SHA-256, but PLAIN,GSSAPI"},
    {&plain, "_AUTHENTICATION",
     "sasl_plaintext://localhost:32123/bootstrap: SASL authentication error: Authentication "
     "failed: "
     "Invalid username or password (after 301ms in state AUTH_REQ)",
     0, 0, MM_TROUBLE_PASSWORD,
     "Kafka at localhost:32123: it refused the user or the password (user \"alice\", PLAIN)"},
    {&scram_202, "_AUTHENTICATION", "sasl_plaintext://localhost:32123/bootstrap: " SCRAM_REFUSED, 0,
     0, MM_TROUBLE_SCRAM,
     "Kafka at localhost:32123: it refused the user or the password, or this is the fault of "
     "librdkafka before 2.6.1, whose right passwords Kafka 4 refuses (user \"alice\", "
     "SCRAM-SHA-256)"},
    {&scram_215, "_AUTHENTICATION", "sasl_plaintext://localhost:32123/bootstrap: " SCRAM_REFUSED, 0,
     0, MM_TROUBLE_PASSWORD,
     "Kafka at localhost:32123: it refused the user or the password (user \"alice\", "
     "SCRAM-SHA-256)"},
    {&oauth, "_AUTHENTICATION",
     "Failed to acquire SASL OAUTHBEARER token: Failed to connect to 127.0.0.1 port 1 after 0 ms: "
     "Couldn't connect to server",
     0, 0, MM_TROUBLE_NO_TOKEN, "Kafka: there is no token from kafka_oauth_token_endpoint_url"},
    {&oauth, "_AUTHENTICATION",
     "sasl_plaintext://localhost:1/1: SASL authentication error: {\"status\":\"invalid_token\"} "
     "(after 3ms in state AUTH_REQ)",
     0, 0, MM_TROUBLE_TOKEN_REFUSED, "Kafka at localhost:1: it refused our token"},
    {&kerberos, "_AUTHENTICATION",
     "sasl_plaintext://localhost:1/1: Failed to initialize SASL authentication: SASL handshake "
     "failed (start (-1)): SASL(-1): generic failure: GSSAPI Error (after 3ms in state AUTH_REQ)",
     0, 0, MM_TROUBLE_KERBEROS, "Kafka at localhost:1: Kerberos does not let us in"},
    {&plaintext, "_TRANSPORT",
     "localhost:1/bootstrap: Connect to ipv4#127.0.0.1:1 failed: Connection refused (after 0ms in "
     "state CONNECT)",
     0, 0, MM_TROUBLE_UNREACHABLE, NULL},
    {&plaintext, "_RESOLVE",
     "nowhere.invalid:9092/bootstrap: Failed to resolve 'nowhere.invalid:9092': Name or service "
     "not "
     "known (after 4ms in state CONNECT)",
     0, 0, MM_TROUBLE_UNKNOWN_HOST, NULL},
    {&plaintext, "_TIMED_OUT", "localhost:1/1: 3 request(s) timed out: disconnect (after 60001ms)",
     0, 0, MM_TROUBLE_OTHER, NULL},
    {&plaintext, "", "", 0, 0, MM_TROUBLE_OTHER, NULL},
};
/* NOLINTEND(bugprone-suspicious-missing-comma) */

static void test_real_texts(void **state)
{
    (void)state;
    for (size_t i = 0; i < LEN_OF(cases); i++) {
        const struct mm_trouble_event event = {.error = cases[i].error,
                                               .text = cases[i].text,
                                               .x509_error = cases[i].x509_error,
                                               .x509_depth = cases[i].x509_depth};
        enum mm_trouble trouble = mm_trouble_of(cases[i].context, &event);
        if (trouble != cases[i].trouble) {
            fail_msg("%d instead of %d: %s", trouble, cases[i].trouble, cases[i].text);
        }
        char what[512];
        mm_trouble_what(trouble, cases[i].context, &event, what, sizeof what);
        assert_string_equal(what, cases[i].what != NULL ? cases[i].what : cases[i].text);
        assert_int_equal(mm_trouble_needs_mending(trouble), cases[i].what != NULL);
    }
}

/* Every trouble that somebody has to mend is in the table above, and has words for what to do. */
static void test_every_trouble(void **state)
{
    (void)state;
    for (enum mm_trouble t = MM_TROUBLE_NONE; t < MM_N_TROUBLES; t++) {
        bool seen = false;
        for (size_t i = 0; i < LEN_OF(cases); i++) {
            seen = seen || cases[i].trouble == t;
        }
        assert_true(seen || t == MM_TROUBLE_NONE);
        assert_non_null(mm_trouble_name(t));
        assert_non_null(mm_trouble_remedy(t));
        if (mm_trouble_needs_mending(t)) {
            assert_true(mm_trouble_name(t)[0] != '\0' && mm_trouble_remedy(t)[0] != '\0');
        }
        assert_false(mm_trouble_is_refusal(t) && mm_trouble_is_guess(t));
    }
}

static void test_foreign_text_is_cut(void **state)
{
    (void)state;
    char text[2048] = "sasl_plaintext://";
    memset(text + 17, 'h', 1000);
    snprintf(text + 1017, 1000,
             ":9/1: Broker: Unsupported SASL mechanism: broker's supported "
             "mechanisms: %0500d\x01",
             7);
    const struct mm_trouble_event event = {.error = "_AUTHENTICATION", .text = text};
    char what[512];
    mm_trouble_what(MM_TROUBLE_MECHANISM, &plain, &event, what, sizeof what);
    assert_in_range(strlen(what), 50, 300);
    for (const char *c = what; *c != '\0'; c++) {
        assert_in_range((unsigned char)*c, 0x20, 0x7E);
    }
}

/* A text that names no node is not taken for one that does. */
static void test_no_address(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "Failed: SSL alert number 40",
        "Failed:1/1: SSL alert number 40",
        "SSL alert number 40",
        "SSL alert number 40 by host:9",
    };
    for (size_t i = 0; i < LEN_OF(texts); i++) {
        const struct mm_trouble_event event = {.error = "_SSL", .text = texts[i]};
        char what[512];
        const enum mm_trouble trouble = mm_trouble_of(&tls, &event);
        mm_trouble_what(trouble, &tls, &event, what, sizeof what);
        assert_string_equal(what, i == 1
                                      ? "Kafka at Failed:1: there is no version or cipher of TLS "
                                        "that both sides take"
                                      : "Kafka: there is no version or cipher of TLS that both "
                                        "sides take");
    }
}

static void test_hints(void **state)
{
    (void)state;
    assert_string_equal(mm_trouble_hint("TOPIC_AUTHORIZATION_FAILED"),
                        "give our user the right WRITE on it");
    assert_string_equal(mm_trouble_hint("MSG_SIZE_TOO_LARGE"), "");
}

struct lines
{
    size_t n;
    char text[8][512];
};

static void take_line(void *arg, const char *line)
{
    struct lines *lines = arg;
    assert_in_range(lines->n, 0, 7);
    snprintf(lines->text[lines->n++], sizeof lines->text[0], "%s", line);
}

static void test_faults_of_versions(void **state)
{
    (void)state;
    static const struct
    {
        int version;
        bool scram;
        const char *parts[3]; /* of the lines, in order */
    } versions[] = {
        {0x020002ff, false, {"#4438"}},
        {0x020002ff, true, {"Kafka 4 refuses right passwords", "#4438"}},
        {0x020100ff, true, {"Kafka 4 refuses right passwords", "#4438"}},
        {0x020200ff, false, {"#4438", "#4750"}},
        {0x020201ff, true, {"Kafka 4 refuses", "#4438", "#4750"}},
        {0x020300ff, false, {"#4750"}},
        {0x020400ff, true, {"Kafka 4 refuses", "#4750"}},
        {0x020500ff, false, {NULL}},
        {0x020600ff, true, {"Kafka 4 refuses"}},
        {0x02050000, true, {"Kafka 4 refuses"}}, /* the first that has #4750 mended */
        {0x02060100, true, {NULL}},              /* and the first with SCRAM mended */
        {0x020601ff, true, {NULL}},
        {0x020a01ff, true, {NULL}},
        {V215, true, {NULL}},
    };
    for (size_t i = 0; i < LEN_OF(versions); i++) {
        struct lines lines = {0};
        mm_trouble_client_faults(versions[i].version, versions[i].scram, take_line, &lines);
        size_t n = 0;
        for (; n < LEN_OF(versions[i].parts) && versions[i].parts[n] != NULL; n++) {
            assert_non_null(strstr(lines.text[n], versions[i].parts[n]));
        }
        assert_int_equal(lines.n, n);
    }
}

/* --- the gate -----------------------------------------------------------------------------------
 */

static void test_gate(void **state)
{
    (void)state;
    struct mm_gate g;
    mm_gate_init(&g, 1000, 5000);
    for (int i = 0; i < 100; i++) {
        assert_true(mm_gate_pass(&g, 1));
    }
    uint64_t now_ns = 100 * SECOND_NS;
    mm_gate_shut(&g, now_ns, 1);
    assert_int_equal(mm_gate_pause_ms(&g), 1000);
    static const unsigned pauses_s[] = {1, 2, 4, 5, 5, 5};
    for (size_t i = 0; i < LEN_OF(pauses_s); i++) {
        assert_false(mm_gate_pass(&g, now_ns));
        mm_gate_shut(&g, now_ns, 1); /* refused again: nothing changes */
        assert_false(mm_gate_pass(&g, now_ns + pauses_s[i] * SECOND_NS - 1));
        now_ns += pauses_s[i] * SECOND_NS;
        assert_true(mm_gate_pass(&g, now_ns));
    }
    mm_gate_open(&g);
    assert_int_equal(mm_gate_pause_ms(&g), 0);
    assert_true(mm_gate_pass(&g, now_ns));
    mm_gate_shut(&g, now_ns, 1);
    assert_int_equal(mm_gate_pause_ms(&g), 1000);
}

/* Of all who are refused one tells it, and one tells that it is over. */
static void test_one_tells_for_all(void **state)
{
    (void)state;
    struct mm_gate g;
    mm_gate_init(&g, 1000, 5000);
    uint64_t now_ns = 100 * SECOND_NS;
    assert_int_equal(mm_gate_mended(&g), 0);
    assert_true(mm_gate_shut(&g, now_ns, 7));
    assert_false(mm_gate_shut(&g, now_ns, 7));
    assert_false(mm_gate_shut(&g, now_ns + 599 * SECOND_NS, 7));
    now_ns += 600 * SECOND_NS;
    assert_true(mm_gate_shut(&g, now_ns, 7));
    assert_false(mm_gate_shut(&g, now_ns + 29 * SECOND_NS, 8)); /* another reason, but too soon */
    assert_true(mm_gate_shut(&g, now_ns + 30 * SECOND_NS, 8));
    mm_gate_open(&g); /* one node lets us in: that is not the end of it */
    assert_int_equal(mm_gate_mended(&g), 8);
    assert_int_equal(mm_gate_mended(&g), 0);
    assert_false(mm_gate_shut(&g, now_ns + 31 * SECOND_NS, 8));
    assert_true(mm_gate_shut(&g, now_ns + 60 * SECOND_NS, 8));
}

enum {
    N_THREADS = 4,
    N_ROUNDS = 2000
};

struct runner
{
    pthread_t thread;
    struct mm_gate *gate;
    atomic_uint *passed;
};

static void *run(void *arg)
{
    struct runner *r = arg;
    for (uint64_t i = 0; i < N_ROUNDS; i++) {
        if (mm_gate_pass(r->gate, (i + 1) * SECOND_NS)) {
            atomic_fetch_add(&r->passed[i], 1);
        }
    }
    return NULL;
}

/* Of all that come at the same time, one passes at most. */
static void test_one_of_many_passes(void **state)
{
    (void)state;
    static atomic_uint passed[N_ROUNDS];
    struct mm_gate g;
    mm_gate_init(&g, 1000, 1000);
    mm_gate_shut(&g, 0, 1);
    struct runner runners[N_THREADS];
    for (int i = 0; i < N_THREADS; i++) {
        runners[i] = (struct runner){.gate = &g, .passed = passed};
        assert_int_equal(pthread_create(&runners[i].thread, NULL, run, &runners[i]), 0);
    }
    unsigned all = 0;
    for (int i = 0; i < N_THREADS; i++) {
        assert_int_equal(pthread_join(runners[i].thread, NULL), 0);
    }
    for (int i = 0; i < N_ROUNDS; i++) {
        assert_in_range(atomic_load(&passed[i]), 0, 1);
        all += atomic_load(&passed[i]);
    }
    assert_in_range(all, 1, N_ROUNDS);
}

/* --- what is told -------------------------------------------------------------------------------
 */

static uint64_t clock_ns = 1000 * SECOND_NS;

int __wrap_clock_gettime(clockid_t id, struct timespec *now);
int __real_clock_gettime(clockid_t id, struct timespec *now);

int __wrap_clock_gettime(clockid_t id, struct timespec *now)
{
    if (id != CLOCK_MONOTONIC) {
        return __real_clock_gettime(id, now);
    }
    *now = (struct timespec){.tv_sec = (time_t)(clock_ns / SECOND_NS),
                             .tv_nsec = (long)(clock_ns % SECOND_NS)};
    return 0;
}

struct told
{
    size_t n;
    enum mm_log_level levels[64];
    char lines[64][MM_LOG_LINE_LEN];
};

static void take_told(void *arg, enum mm_log_level level, const char *line)
{
    struct told *told = arg;
    assert_in_range(told->n, 0, LEN_OF(told->lines) - 1);
    told->levels[told->n] = level;
    snprintf(told->lines[told->n++], MM_LOG_LINE_LEN, "%s", line);
}

/* A watch and what it has written since the last look. */
struct rig
{
    struct mm_log *log;
    struct mm_contact contact;
    struct mm_contact_told before;
    struct mm_gate gate;
    struct told told;
};

static void start_rig(struct rig *r, const struct mm_trouble_context *context)
{
    *r = (struct rig){0};
    assert_int_equal(mm_log_new(MM_LOG_INFO, &r->log), 0);
    mm_gate_init(&r->gate, 10000, 60000);
    const struct mm_contact_options opts = {
        .context = *context, .told = &r->before, .gate = &r->gate, .log = r->log};
    mm_contact_init(&r->contact, &opts);
}

static void end_rig(struct rig *r)
{
    mm_contact_fini(&r->contact);
    mm_log_free(r->log);
}

/* Lines since the last call. */
static size_t n_told(struct rig *r)
{
    r->told.n = 0;
    mm_log_drain(r->log, take_told, &r->told);
    return r->told.n;
}

#define REFUSED "localhost:1/1: Connect to ipv4#127.0.0.1:1 failed: Connection refused (after 0ms)"
#define EXPIRED "ssl://localhost:16816/bootstrap: " VERIFY_FAILED
#define WRONG_PASSWORD                                                                           \
    "sasl_plaintext://localhost:1/1: SASL authentication error: Authentication failed: Invalid " \
    "username or password (after 301ms in state AUTH_REQ)"

static void test_told_once_and_when_it_is_over(void **state)
{
    (void)state;
    struct rig r;
    start_rig(&r, &plain);
    for (int i = 0; i < 50; i++) {
        mm_contact_error(&r.contact, "_AUTHENTICATION", WRONG_PASSWORD);
        mm_contact_down(&r.contact);
        clock_ns += SECOND_NS;
    }
    assert_int_equal(n_told(&r), 1);
    assert_int_equal(r.told.levels[0], MM_LOG_ERROR);
    assert_non_null(strstr(r.told.lines[0], "it refused the user or the password"));
    assert_non_null(strstr(r.told.lines[0], "mend kafka_sasl_username and kafka_sasl_password"));
    assert_non_null(strstr(r.told.lines[0], "tried again every 10 to 60 s"));
    assert_int_equal(r.contact.n_errors, 50);
    assert_non_null(strstr(r.contact.last_error, "it refused the user or the password"));
    assert_int_equal(mm_gate_pause_ms(&r.gate), 10000);
    clock_ns += 600 * SECOND_NS; /* it is said again in ten minutes */
    mm_contact_error(&r.contact, "_AUTHENTICATION", WRONG_PASSWORD);
    assert_int_equal(n_told(&r), 1);

    mm_contact_reached(&r.contact);
    mm_contact_reached(&r.contact);
    assert_int_equal(n_told(&r), 1);
    assert_int_equal(r.told.levels[0], MM_LOG_INFO);
    assert_string_equal(r.told.lines[0],
                        "Kafka: mended; it was: it refused the user or the password");
    assert_string_equal(r.contact.last_error, "");
    assert_int_equal(mm_gate_pause_ms(&r.gate), 0);
    end_rig(&r);
}

static void test_told_again_when_the_cause_changes(void **state)
{
    (void)state;
    struct rig r;
    start_rig(&r, &tls);
    mm_contact_certificate(&r.contact, 10, 0);
    mm_contact_error(&r.contact, "_SSL", EXPIRED);
    mm_contact_error(&r.contact, "_TRANSPORT", REFUSED);
    mm_contact_error(&r.contact, "_TRANSPORT", REFUSED);
    assert_int_equal(n_told(&r), 2);
    assert_int_equal(r.told.levels[1], MM_LOG_WARN);
    assert_string_equal(r.told.lines[1],
                        "Kafka: " REFUSED " (_TRANSPORT; 0 more since the last such line)");
    /* To and fro, as with two nodes: not a line each time. */
    for (int i = 0; i < 29; i++) {
        mm_contact_error(&r.contact, "_SSL", EXPIRED);
        mm_contact_error(&r.contact, "_TRANSPORT", REFUSED);
        clock_ns += SECOND_NS;
    }
    assert_int_equal(n_told(&r), 0);
    clock_ns += SECOND_NS;
    mm_contact_error(&r.contact, "_SSL", EXPIRED);
    mm_contact_error(&r.contact, "_TRANSPORT", REFUSED);
    assert_int_equal(n_told(&r), 2);
    assert_non_null(strstr(r.told.lines[1], "30 more since the last such line"));
    mm_contact_down(&r.contact);
    mm_contact_reached(&r.contact); /* the worker tells that it is reached */
    assert_int_equal(n_told(&r), 0);
    end_rig(&r);
}

/* One node of several has a trouble, and the others answer all the time. */
static void test_one_node_of_several(void **state)
{
    (void)state;
    struct rig r;
    start_rig(&r, &tls);
    mm_contact_certificate(&r.contact, 10, 0);
    mm_contact_error(&r.contact, "_SSL", EXPIRED);
    assert_int_equal(n_told(&r), 1);
    for (int i = 0; i < 39; i++) {
        mm_contact_reached(&r.contact);
        clock_ns += SECOND_NS;
    }
    assert_int_equal(n_told(&r), 0);
    clock_ns += SECOND_NS;
    mm_contact_reached(&r.contact);
    assert_int_equal(n_told(&r), 1);
    assert_non_null(strstr(r.told.lines[0], "mended"));
    end_rig(&r);
}

/* The gate keeps the others from finding out themselves: the one that was refused tells it, whoever
 * tells such things otherwise, and whoever gets in first tells that it is over. */
static void test_a_refusal_is_told_by_who_was_refused(void **state)
{
    (void)state;
    struct rig r;
    start_rig(&r, &plain);
    struct mm_contact_told before = {0};
    struct mm_contact_options opts = r.contact.opts;
    struct mm_contact quiet;
    opts.quiet = true;
    opts.told = &before;
    mm_contact_init(&quiet, &opts);
    mm_contact_error(&quiet, "_AUTHENTICATION", WRONG_PASSWORD);
    assert_int_equal(n_told(&r), 1);
    assert_int_equal(r.told.levels[0], MM_LOG_ERROR);
    mm_contact_error(&r.contact, "_AUTHENTICATION", WRONG_PASSWORD);
    assert_int_equal(n_told(&r), 0);
    assert_false(mm_contact_may_connect(&r.contact));
    clock_ns += 10 * SECOND_NS;
    assert_true(mm_contact_may_connect(&quiet));
    mm_contact_down(&quiet);
    mm_contact_reached(&quiet);
    assert_int_equal(n_told(&r), 1);
    assert_non_null(strstr(r.told.lines[0], "mended"));
    assert_true(mm_contact_may_connect(&r.contact));
    mm_contact_down(&r.contact);
    mm_contact_reached(&r.contact);
    assert_int_equal(n_told(&r), 0);
    mm_contact_fini(&quiet);
    end_rig(&r);
}

static void test_a_guess_is_made_twice(void **state)
{
    (void)state;
    struct rig r;
    start_rig(&r, &plaintext);
    const char *text = "localhost:31681/bootstrap: " API_VERSION_CLOSED_215;
    mm_contact_hang_up(&r.contact, text);
    mm_contact_poll(&r.contact);
    mm_contact_poll(&r.contact);
    assert_int_equal(n_told(&r), 0);
    assert_string_equal(r.contact.last_error, "");
    mm_contact_hang_up(&r.contact, text);
    mm_contact_poll(&r.contact);
    assert_int_equal(n_told(&r), 1);
    assert_non_null(strstr(r.told.lines[0], "its listener seems to speak TLS"));
    assert_true(mm_contact_may_connect(&r.contact)); /* no refusal: the gate is open */
    end_rig(&r);
}

static void test_a_lost_connection_is_no_news(void **state)
{
    (void)state;
    struct rig r;
    start_rig(&r, &plaintext);
    mm_contact_error(&r.contact, "_TRANSPORT",
                     "localhost:9092/1: Disconnected (after 912345ms in state UP)");
    assert_int_equal(n_told(&r), 0);
    assert_int_equal(r.contact.n_errors, 1);
    assert_string_equal(r.contact.last_error, "");
    end_rig(&r);
}

static void test_verdict_on_a_certificate(void **state)
{
    (void)state;
    struct rig r;
    start_rig(&r, &tls);
    mm_contact_certificate(&r.contact, 62, 0);
    mm_contact_error(&r.contact, "_SSL", "ssl://localhost:21913/bootstrap: " VERIFY_FAILED);
    assert_int_equal(n_told(&r), 1);
    assert_non_null(strstr(r.told.lines[0], "for another host name"));
    mm_contact_certificate(&r.contact, 10, 0);
    mm_contact_error(&r.contact, "_SSL", "ssl://localhost:21913/bootstrap: " VERIFY_FAILED);
    assert_int_equal(n_told(&r), 1);
    assert_non_null(strstr(r.told.lines[0], "has expired"));
    end_rig(&r);
}

/* What the producer before has told is not told again, but its end is. */
static void test_the_next_producer_mends_it(void **state)
{
    (void)state;
    struct rig r;
    start_rig(&r, &plain);
    mm_contact_error(&r.contact, "_AUTHENTICATION", WRONG_PASSWORD);
    assert_int_equal(n_told(&r), 1);
    const struct mm_contact_options opts = r.contact.opts;
    struct mm_trouble_context context = plain;
    mm_contact_fini(&r.contact);
    struct mm_contact_options next = opts;
    next.context = context;
    mm_contact_init(&r.contact, &next);
    mm_contact_error(&r.contact, "_AUTHENTICATION", WRONG_PASSWORD);
    assert_int_equal(n_told(&r), 0);
    mm_contact_reached(&r.contact);
    assert_int_equal(n_told(&r), 1);
    assert_non_null(strstr(r.told.lines[0], "mended"));
    end_rig(&r);
}

/* --- certificates -------------------------------------------------------------------------------
 */

static const char first_pem[] = /* 2020-01-02 03:04:05 to 2021-12-31 23:59:59, as UTCTime */
    "-----BEGIN CERTIFICATE-----\n"
    "MIIBBDCBq6ADAgECAgEBMAoGCCqGSM49BAMCMAwxCjAIBgNVBAMMAXQwHhcNMjAw\n"
    "MTAyMDMwNDA1WhcNMjExMjMxMjM1OTU5WjAMMQowCAYDVQQDDAF0MFkwEwYHKoZI\n"
    "zj0CAQYIKoZIzj0DAQcDQgAEsKYWI4EZE/AxES4FiKWcqqVRI+blpiGFiOQba8Wh\n"
    "gHeApcCPASHARK8CgJkyrrTUpDOkMGKGf3kr9uvG202yXDAKBggqhkjOPQQDAgNI\n"
    "ADBFAiEAgUtWIiNEW8gFAb0pjPXYPKsJw2Cvhp8U6wmB2fiyA8wCIF79pDX88EVR\n"
    "FDCQHqJobiwjQLWqQ1XRgpTiyldoObOB\n"
    "-----END CERTIFICATE-----\n";
static const char second_pem[] = /* 2024-02-29 to 2061-07-08 09:10:11, as GeneralizedTime */
    "-----BEGIN CERTIFICATE-----\r\n"
    "MIIBBjCBraADAgECAgEBMAoGCCqGSM49BAMCMAwxCjAIBgNVBAMMAXQwIBcNMjQw\r\n"
    "MjI5MDAwMDAwWhgPMjA2MTA3MDgwOTEwMTFaMAwxCjAIBgNVBAMMAXQwWTATBgcq\r\n"
    "hkjOPQIBBggqhkjOPQMBBwNCAATGzjmTdlozB3GTJWkxnF62gOh7gUVdW8FRgPOs\r\n"
    "i26a7fI9634JY0O6Z55myxzLz/n1tPPFdojrBMhYAkJ7HUGSMAoGCCqGSM49BAMC\r\n"
    "A0gAMEUCIGskvDk3pY8YV6YjZi3s7nXcaJ1Bx3eOWUKOVNMuQdhLAiEAh8jfEay0\r\n"
    "GZlrlctcnK8iblZ0hFAaYeRcoHNOr3piazM=\r\n"
    "-----END CERTIFICATE-----\r\n";

static void test_periods(void **state)
{
    (void)state;
    struct mm_certificate_period period;
    assert_true(mm_certificate_period_pem(first_pem, &period));
    assert_int_equal(period.begin_s, 1577934245);
    assert_int_equal(period.end_s, 1640995199);
    assert_true(mm_certificate_period_pem(second_pem, &period));
    assert_int_equal(period.begin_s, 1709164800);
    assert_int_equal(period.end_s, 2888039411);
    char both[2048];
    snprintf(both, sizeof both, "some words\n%s%s", second_pem, first_pem);
    assert_true(mm_certificate_period_pem(both, &period));
    assert_int_equal(period.end_s, 2888039411);
    assert_false(mm_certificate_period_pem("", &period));
    assert_false(mm_certificate_period_pem("-----BEGIN CERTIFICATE-----\n", &period));
    /* Two lines that share their dashes are no certificate. */
    assert_false(
        mm_certificate_period_pem("-----BEGIN CERTIFICATE-----END CERTIFICATE-----", &period));
    assert_false(mm_certificate_read("/nonexistent", &period));
}

/* A damaged certificate gives dates or none; no byte beyond it is read (the sanitizer looks). */
static void test_damaged_certificates(void **state)
{
    (void)state;
    struct mm_certificate_period period;
    char text[sizeof first_pem];
    for (size_t i = 0; i < sizeof first_pem - 1; i++) {
        for (size_t k = 0; k < 3; k++) {
            memcpy(text, first_pem, sizeof text);
            text[i] = "A/9"[k];
            (void)mm_certificate_period_pem(text, &period);
        }
        memcpy(text, first_pem, i);
        snprintf(text + i, sizeof text - i, "-----END CERTIFICATE-----");
        (void)mm_certificate_period_pem(text, &period);
    }
    static const char *const no_times[] = {
        "\x30\x80", "\x30\x84\xFF\xFF\xFF\xFF", "\x30\x85\x01\x01\x01\x01\x01",
        "\x30",     "\x30\x02\x30\x00",
    };
    for (size_t i = 0; i < LEN_OF(no_times); i++) {
        assert_false(
            mm_certificate_period((const uint8_t *)no_times[i], strlen(no_times[i]), &period));
    }
}

/* A certificate as far as its dates: 30 LEN (30 LEN (serial, signature, issuer, validity)). Each
 * part is given with its own header; extra is added to the outermost length. */
static size_t put_certificate(uint8_t dst[256], const char *serial, const char *times, int extra)
{
    static const char rest[] = "\x30\x00\x30\x00"; /* signature, issuer */
    const size_t serial_len = serial[1] == '\x80' ? 2 : 2 + (size_t)serial[1];
    const size_t times_len = strlen(times);
    const size_t tbs_len = serial_len + sizeof rest - 1 + 2 + times_len;
    uint8_t *at = dst;
    *at++ = 0x30;
    *at++ = (uint8_t)(tbs_len + 2 + (size_t)extra);
    *at++ = 0x30;
    *at++ = (uint8_t)tbs_len;
    memcpy(at, serial, serial_len);
    at += serial_len;
    memcpy(at, rest, sizeof rest - 1);
    at += sizeof rest - 1;
    *at++ = 0x30;
    *at++ = (uint8_t)times_len;
    memcpy(at, times, times_len);
    return (size_t)(at - dst) + times_len;
}

/* What RFC 5280 says of the times, and X.690 of lengths. */
static void test_forms_of_certificates(void **state)
{
    (void)state;
#define UTC(text) "\x17\x0D" text
    static const struct
    {
        const char *serial;
        const char *times;
        int extra;
        bool good;
        int64_t begin_s;
        int64_t end_s;
    } forms[] = {
        {"\x02\x01\x07", UTC("990101000000Z") UTC("491231235959Z"), 0, true, 915148800, 2524607999},
        {"\x02\x01\x07", UTC("500101000000Z") UTC("000229120000Z"), 0, true, -631152000, 951825600},
        {"\x02\x01\x07", UTC("9901010000000") UTC("491231235959Z"), 0, false, 0, 0}, /* no Z */
        {"\x02\x01\x07", UTC("990101000000Z") UTC("49123123595:Z"), 0, false, 0, 0},
        {"\x02\x01\x07",
         "\x17\x0B"
         "9901010000Z" UTC("491231235959Z"),
         0, false, 0, 0},
        {"\x02\x01\x07",
         "\x04\x0D"
         "990101000000Z" UTC("491231235959Z"),
         0, false, 0, 0},
        {"\x02\x01\x07", UTC("990101000000Z"), 0, false, 0, 0},
        {"\x02\x01\x07", UTC("990101000000Z") UTC("491231235959Z"), 1, false, 0, 0}, /* too long */
        {"\x02\x80", UTC("990101000000Z") UTC("491231235959Z"), 0, false, 0, 0},     /* no length */
        {"\x03\x01\x07", UTC("990101000000Z") UTC("491231235959Z"), 0, false, 0, 0},
    };
    for (size_t i = 0; i < LEN_OF(forms); i++) {
        uint8_t der[256];
        struct mm_certificate_period period = {0, 0};
        const size_t len = put_certificate(der, forms[i].serial, forms[i].times, forms[i].extra);
        uint8_t *exact = malloc(len); /* the sanitizer looks at its end */
        assert_non_null(exact);
        memcpy(exact, der, len);
        assert_int_equal(mm_certificate_period(exact, len, &period), forms[i].good);
        if (forms[i].good) {
            assert_int_equal(period.begin_s, forms[i].begin_s);
            assert_int_equal(period.end_s, forms[i].end_s);
        }
        for (size_t k = 0; k < len; k++) {
            uint8_t *cut = malloc(k + 1);
            assert_non_null(cut);
            memcpy(cut, der, k);
            assert_false(mm_certificate_period(cut, k, &period));
            free(cut);
        }
        free(exact);
    }
}

/* From 30 days before the end on a line a day; a renewed certificate ends that. */
static void test_expiry(void **state)
{
    (void)state;
    static const int64_t end = 1640995199; /* of the first, 2021-12-31; the second lasts longer */
    static const int64_t day = 86400;
    char path[] = "/tmp/mm-expiry-XXXXXX";
    struct mm_config_property property = {.name = "ssl.certificate.location", .value = path};
    struct mm_config config = {.security = {.tls_cert_file = path}};
    struct mm_expiry e = {.end_s = 0};
    char line[256] = "";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, first_pem, strlen(first_pem)), (ssize_t)strlen(first_pem));
    mm_expiry_read(&e, &config);
    assert_int_equal(e.end_s, end);
    assert_false(mm_expiry_line(&e, end - 30 * day, line, sizeof line));
    assert_true(mm_expiry_line(&e, end - 30 * day + 1, line, sizeof line));
    assert_string_equal(line,
                        "our certificate (kafka_tls_cert_file) expires on 2021-12-31, in 29 "
                        "days; what is renewed is used without a restart");
    mm_expiry_read(&e, &config); /* the same one */
    assert_false(mm_expiry_line(&e, end - 29 * day, line, sizeof line));
    assert_true(mm_expiry_line(&e, end - day, line, sizeof line));
    assert_non_null(strstr(line, " in 1 day;"));
    assert_true(mm_expiry_line(&e, end, line, sizeof line));
    assert_false(mm_expiry_line(&e, end + 1, line, sizeof line));
    assert_true(mm_expiry_line(&e, end + day, line, sizeof line));
    assert_non_null(strstr(line, "(kafka_tls_cert_file) has expired, on 2021-12-31;"));
    assert_true(mm_expiry_line(&e, end - day, line, sizeof line)); /* the clock was set back */

    assert_int_equal(ftruncate(fd, 0), 0);
    assert_int_equal(pwrite(fd, second_pem, strlen(second_pem), 0), (ssize_t)strlen(second_pem));
    config = (struct mm_config){.properties = &property, .n_properties = 1};
    mm_expiry_read(&e, &config);
    assert_false(mm_expiry_line(&e, end, line, sizeof line));
    assert_true(mm_expiry_line(&e, 2888039411, line, sizeof line));
    assert_non_null(strstr(line, "(rdkafka.ssl.certificate.location) expires on 2061-07-08, in 0"));
    assert_int_equal(close(fd), 0);
    assert_int_equal(unlink(path), 0);
    mm_expiry_read(&e, &config);
    assert_int_equal(e.end_s, 0);
    config.n_properties = 0;
    mm_expiry_read(&e, &config);
    assert_false(mm_expiry_line(&e, 2888039411, line, sizeof line));
}

/* Kafka does not say why it refuses our certificate; that it has expired can be seen here. */
static void test_our_own_has_expired(void **state)
{
    (void)state;
    char path[] = "/tmp/mm-trouble-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    FILE *f = fdopen(fd, "w");
    assert_non_null(f);
    fputs(first_pem, f);
    assert_int_equal(fclose(f), 0);
    struct rig r;
    start_rig(&r, &tls_cert);
    r.contact.opts.cert_file = path;
    mm_contact_error(&r.contact, "_TRANSPORT",
                     "ssl://localhost:31247/bootstrap: Receive failed: error:0A000416:SSL "
                     "routines::sslv3 alert certificate unknown: SSL alert number 46 (after 3ms)");
    assert_int_equal(n_told(&r), 1);
    assert_non_null(strstr(r.told.lines[0],
                           "it refused our certificate, which has expired; renew "
                           "kafka_tls_cert_file"));
    end_rig(&r);
    assert_int_equal(unlink(path), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_real_texts),
        cmocka_unit_test(test_every_trouble),
        cmocka_unit_test(test_foreign_text_is_cut),
        cmocka_unit_test(test_no_address),
        cmocka_unit_test(test_hints),
        cmocka_unit_test(test_faults_of_versions),
        cmocka_unit_test(test_gate),
        cmocka_unit_test(test_one_tells_for_all),
        cmocka_unit_test(test_one_of_many_passes),
        cmocka_unit_test(test_told_once_and_when_it_is_over),
        cmocka_unit_test(test_told_again_when_the_cause_changes),
        cmocka_unit_test(test_one_node_of_several),
        cmocka_unit_test(test_a_refusal_is_told_by_who_was_refused),
        cmocka_unit_test(test_a_guess_is_made_twice),
        cmocka_unit_test(test_a_lost_connection_is_no_news),
        cmocka_unit_test(test_verdict_on_a_certificate),
        cmocka_unit_test(test_the_next_producer_mends_it),
        cmocka_unit_test(test_periods),
        cmocka_unit_test(test_damaged_certificates),
        cmocka_unit_test(test_forms_of_certificates),
        cmocka_unit_test(test_expiry),
        cmocka_unit_test(test_our_own_has_expired),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
