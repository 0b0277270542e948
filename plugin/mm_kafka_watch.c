#include "mm_contact.h"
#include "mm_kafka_impl.h"
#include "mm_log.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <syslog.h>

/* From this librdkafka on it is not reported as an error that the other side hangs up. */
#define VERSION_QUIET_HANG_UP 0x020b0000

/* Before this librdkafka a client that cannot be made frees the interceptors of its configuration,
 * and who destroys that frees them again (#4142). */
#define VERSION_FREES_ONCE 0x020d0000

/* Before MM_KAFKA_VERSION_GIVES_UP the statistics see a connection that was let in. */
static bool is_intercepted(const struct mm_kafka_options *opts)
{
    return opts->gate != NULL && rd_kafka_version() >= MM_KAFKA_VERSION_GIVES_UP;
}

bool mm_kafka_may_destroy(const struct mm_kafka_options *opts)
{
    return !is_intercepted(opts) || rd_kafka_version() >= VERSION_FREES_ONCE;
}

bool mm_kafka_was_held_back(const char *reason)
{
    return strstr(reason, "Operation canceled") != NULL; /* the text of ECANCELED */
}

/* Runs on librdkafka's threads, in the place of connect(). Returns an error number; 0 when the
 * connection is being made. */
static int on_connect(int fd,
                      const struct sockaddr *address,
                      int address_len,
                      const char *id,
                      void *opaque)
{
    (void)id;
    if (!mm_contact_may_connect(mm_kafka_contact(opaque))) {
        return ECANCELED;
    }
    if (connect(fd, address, (socklen_t)address_len) == 0 || errno == EINPROGRESS) {
        return 0;
    }
    return errno;
}

/* Runs on librdkafka's threads, before a connection that was let in is used for anything. The first
 * one of a client only tells it of Kafka's nodes, to which it needs others: these may be tried. */
static rd_kafka_resp_err_t on_state(rd_kafka_t *rk,
                                    int32_t node,
                                    const char *protocol,
                                    const char *name,
                                    int port,
                                    const char *state,
                                    void *opaque)
{
    (void)rk;
    (void)node;
    (void)protocol;
    (void)port;
    /* One without a name is librdkafka's own, which goes nowhere and may be up all the time. */
    if (name[0] != '\0' && strcmp(state, "UP") == 0) {
        mm_contact_let_in(opaque);
    }
    return RD_KAFKA_RESP_ERR_NO_ERROR;
}

/* Runs within rd_kafka_new(), the only time at which librdkafka can be asked for this. */
static rd_kafka_resp_err_t on_new(rd_kafka_t *rk,
                                  const rd_kafka_conf_t *conf,
                                  void *opaque,
                                  char *errstr,
                                  size_t errstr_len)
{
    (void)conf;
    (void)errstr;
    (void)errstr_len;
    return rd_kafka_interceptor_add_on_broker_state_change(rk, "metamorphosis", on_state, opaque);
}

/* Runs on librdkafka's threads. OpenSSL's own verdict stands; only who hears it can say what was
 * wrong. */
static int on_certificate(rd_kafka_t *rk,
                          const char *broker_name,
                          int32_t broker_id,
                          int *x509_error,
                          int depth,
                          const char *certificate,
                          size_t certificate_len,
                          char *errstr,
                          size_t errstr_len,
                          void *opaque)
{
    (void)rk;
    (void)broker_name;
    (void)broker_id;
    (void)certificate;
    (void)certificate_len;
    if (*x509_error == 0) {
        return 1;
    }
    mm_contact_certificate(mm_kafka_contact(opaque), *x509_error, depth);
    snprintf(errstr, errstr_len, "X.509 error %d", *x509_error);
    return 0;
}

/* Runs on librdkafka's threads. What matters to people also comes as an error or a report. */
static void on_log(const rd_kafka_t *rk, int level, const char *fac, const char *buf)
{
    struct mm_contact *contact = mm_kafka_contact(rd_kafka_opaque(rk));
    static const char *const told[] = {"FAIL", "ERROR", "FATAL", "SSLCERTVRFY", "OIDC"};
    bool is_told = false;
    for (size_t i = 0; i < sizeof told / sizeof told[0]; i++) {
        is_told = is_told || strcmp(fac, told[i]) == 0;
    }
    enum mm_log_level ours = level <= LOG_ERR && !is_told ? MM_LOG_WARN : MM_LOG_DEBUG;
    mm_log_write(contact->opts.log, ours, "librdkafka: %s: %s", fac, buf);
    if (strcmp(fac, "FAIL") == 0 && (level == LOG_WARNING || level == LOG_INFO) &&
        rd_kafka_version() >= VERSION_QUIET_HANG_UP) {
        const char *text = strncmp(buf, "[thrd:", 6) == 0 ? strstr(buf, "]: ") : NULL;
        mm_contact_hang_up(contact, text != NULL ? text + 3 : buf);
    }
}

/* What the client was really told, whether by our options or by librdkafka's names. */
static void start_contact(struct mm_contact *contact,
                          const rd_kafka_conf_t *conf,
                          const struct mm_kafka_options *opts)
{
    char protocol[32];
    char mechanism[32];
    char user[256];
    char cert[8]; /* whether there is one */
    mm_kafka_property(conf, "security.protocol", protocol, sizeof protocol);
    mm_kafka_property(conf, "sasl.mechanisms", mechanism, sizeof mechanism);
    mm_kafka_property(conf, "sasl.username", user, sizeof user);
    size_t cert_len = sizeof cert;
    const bool has_cert =
        rd_kafka_conf_get(conf, "ssl.certificate.location", NULL, &cert_len) == RD_KAFKA_CONF_OK &&
        cert_len > 1;
    const struct mm_contact_options watched = {
        .context = {.tls = strstr(protocol, "ssl") != NULL,
                    .sasl = strstr(protocol, "sasl") != NULL,
                    .mechanism = mechanism,
                    .user = user,
                    .has_cert = has_cert,
                    .client_version = rd_kafka_version()},
        .cert_file = opts->config->security.tls_cert_file,
        .told = opts->told,
        .gate = opts->gate,
        .log = opts->log,
        .quiet = opts->quiet,
    };
    mm_contact_init(contact, &watched);
}

void mm_kafka_watch(rd_kafka_conf_t *conf,
                    const struct mm_kafka_options *opts,
                    struct mm_contact *contact)
{
    start_contact(contact, conf, opts);
    rd_kafka_conf_set_log_cb(conf, on_log);
    (void)rd_kafka_conf_set_ssl_cert_verify_cb(conf, on_certificate); /* it may have no TLS */
    if (opts->gate != NULL) {
        rd_kafka_conf_set_connect_cb(conf, on_connect);
    }
    if (is_intercepted(opts)) {
        (void)rd_kafka_conf_interceptor_add_on_new(conf, "metamorphosis", on_new, contact);
    }
}
