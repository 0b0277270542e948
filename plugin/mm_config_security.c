/* What the options of TLS and SASL say together: what is missing, what has no effect, and what is
 * not as safe as it looks. A setting that has no effect is a mistake here, not a warning: who gave
 * it believes that the connection is secured by it. */
#include "mm_config_impl.h"
#include "mm_keyfile.h"
#include "mm_options.h"
#include "mm_property.h"
#include "mm_security.h"
#include "mm_text.h"

#include <stdio.h>
#include <string.h>

const struct mm_config_property *mm_config_find_property(const struct mm_config *config,
                                                         const char *name)
{
    for (size_t i = 0; i < config->n_properties; i++) {
        if (strcmp(config->properties[i].name, name) == 0) {
            return &config->properties[i];
        }
    }
    return NULL;
}

bool mm_config_has_property(const struct mm_config *config, const char *name)
{
    return mm_config_find_property(config, name) != NULL;
}

bool mm_config_uses_scram(const struct mm_config *config)
{
    for (size_t i = 0; i < config->n_properties; i++) {
        if (strncmp(config->properties[i].name, "sasl.mechanism", 14) == 0 &&
            strncmp(config->properties[i].value, "SCRAM-", 6) == 0) {
            return true;
        }
    }
    return config->security.mechanism == MM_MECHANISM_SCRAM_SHA_256 ||
           config->security.mechanism == MM_MECHANISM_SCRAM_SHA_512;
}

void mm_config_files(const struct mm_config *config, mm_config_file_fn fn, void *arg)
{
    for (size_t i = 0; i < MM_N_OPTIONS; i++) {
        const struct mm_option_def *def = &mm_option_defs[i];
        if (def->kind == MM_OPTION_SETTING && def->type == MM_TYPE_FILE) {
            const char *path;
            memcpy(&path, (const char *)config + def->offset, sizeof path);
            if (path != NULL) {
                fn(arg, def->name, path);
            }
        }
    }
}

/* --- options and properties ---------------------------------------------------------------------
 */

#define N_PROPERTY_NAMES (sizeof((struct mm_option_def *)0)->properties / sizeof(const char *))

/* The property of librdkafka that stands for an option and is given; NULL: none is. */
static const char *property_of(const struct mm_config *config, const struct mm_option_def *def)
{
    for (size_t k = 0; k < N_PROPERTY_NAMES && def->properties[k] != NULL; k++) {
        if (mm_config_has_property(config, def->properties[k])) {
            return def->properties[k];
        }
    }
    return NULL;
}

void mm_config_check_properties(struct mm_parser *p)
{
    for (size_t i = 0; i < MM_N_OPTIONS; i++) {
        const struct mm_option_def *def = &mm_option_defs[i];
        const char *property = property_of(p->config, def);
        if (property != NULL && mm_config_is_given(p, def)) {
            mm_config_subject(p, def);
            mm_config_report(p, MM_LOG_ERROR,
                             "%s: given twice, here and as " MM_PROPERTY_PREFIX
                             "%s; expected one of them",
                             p->subject, property);
        }
    }
}

/* --- groups of options --------------------------------------------------------------------------
 */

/* Make it the subject. */
static void take(struct mm_parser *p, const char *name)
{
    mm_config_subject(p, mm_option_find(name));
}

/* Given by itself or as a property. */
static bool is_set(struct mm_parser *p, const char *name)
{
    const struct mm_option_def *def = mm_option_find(name);
    return mm_config_is_given(p, def) || property_of(p->config, def) != NULL;
}

/* A word that is given and was not understood has been reported; what rests on it would only
 * confuse. */
static bool is_understood(struct mm_parser *p, const char *name)
{
    const struct mm_option_def *def = mm_option_find(name);
    const struct mm_option_word *word = def->words;
    if (!mm_config_is_given(p, def)) {
        return true;
    }
    const char *value = mm_config_setting(p, def)->values[0].text;
    while (word->name != NULL && !mm_equal_in_any_case(word->name, value)) {
        word++;
    }
    return word->name != NULL;
}

/* Report an option that is given and has no effect, and what it would take. */
static void check_useless(struct mm_parser *p, const char *const *names, const char *expected)
{
    for (; *names != NULL; names++) {
        const struct mm_option_def *def = mm_option_find(*names);
        if (mm_config_is_given(p, def)) {
            mm_config_subject(p, def);
            mm_config_report(p, MM_LOG_ERROR, "%s: has no effect: expected %s, or no %s",
                             p->subject, expected, *names);
        }
    }
}

/* Report that something is missing which `name`, the cause, needs. */
static void report_missing(struct mm_parser *p, const char *name, const char *what)
{
    take(p, name);
    mm_config_report(p, MM_LOG_ERROR, "%s: expected %s beside it", p->subject, what);
}

/* A secret is given by itself or by its file; not by both. */
static bool has_secret(struct mm_parser *p, const char *name, const char *file_name)
{
    const bool by_value = mm_config_is_given(p, mm_option_find(name));
    const bool by_file = mm_config_is_given(p, mm_option_find(file_name));
    if (by_value && by_file) {
        take(p, name);
        mm_config_report(p, MM_LOG_ERROR, "%s: given twice, here and in %s; expected one of them",
                         p->subject, file_name);
    }
    return by_value || by_file || is_set(p, name);
}

static const char *const tls_names[] = {"kafka_tls_ca_file",           "kafka_tls_cert_file",
                                        "kafka_tls_key_file",          "kafka_tls_key_password",
                                        "kafka_tls_key_password_file", NULL};
static const char *const mechanism_names[] = {"kafka_sasl_mechanism", NULL};
static const char *const password_names[] = {"kafka_sasl_username", "kafka_sasl_password",
                                             "kafka_sasl_password_file", NULL};
static const char *const oauth_names[] = {"kafka_oauth_token_endpoint_url",
                                          "kafka_oauth_client_id",
                                          "kafka_oauth_client_secret",
                                          "kafka_oauth_client_secret_file",
                                          "kafka_oauth_scope",
                                          "kafka_oauth_extensions",
                                          NULL};
static const char *const kerberos_names[] = {
    "kafka_kerberos_service_name", "kafka_kerberos_principal", "kafka_kerberos_keytab", NULL};

/* --- TLS ----------------------------------------------------------------------------------------
 */

static void check_key(struct mm_parser *p)
{
    const struct mm_security *s = &p->config->security;
    const bool has_cert = is_set(p, "kafka_tls_cert_file");
    const bool has_key = is_set(p, "kafka_tls_key_file");
    const bool has_password =
        has_secret(p, "kafka_tls_key_password", "kafka_tls_key_password_file");
    if (has_cert && !has_key) {
        report_missing(p, "kafka_tls_cert_file", "kafka_tls_key_file");
    }
    if (has_key && !has_cert) {
        report_missing(p, "kafka_tls_key_file", "kafka_tls_cert_file");
    }
    if (has_password && !has_key) {
        static const char *const names[] = {"kafka_tls_key_password", "kafka_tls_key_password_file",
                                            NULL};
        check_useless(p, names, "kafka_tls_key_file");
    }
    if (s->tls_key_file != NULL && !has_password && !p->source->form_only &&
        mm_keyfile_is_encrypted(s->tls_key_file)) {
        char shown[MM_PRINTABLE_LEN];
        take(p, "kafka_tls_key_file");
        mm_config_report(
            p, MM_LOG_ERROR,
            "%s: \"%s\" is encrypted: expected kafka_tls_key_password or "
            "kafka_tls_key_password_file beside it",
            p->subject,
            mm_printable(s->tls_key_file, strlen(s->tls_key_file), shown, sizeof shown));
    }
}

static void check_tls(struct mm_parser *p)
{
    if (!mm_security_has_tls(&p->config->security)) {
        check_useless(p, tls_names, "kafka_security_protocol ssl or sasl_ssl");
        return;
    }
    check_key(p);
    if (!p->config->security.tls_verify_hostname) {
        take(p, "kafka_tls_verify_hostname");
        mm_config_report(p, MM_LOG_WARN,
                         "%s: false: whoever has any certificate of a trusted authority can pose "
                         "as Kafka",
                         p->subject);
    }
}

/* --- SASL ---------------------------------------------------------------------------------------
 */

static void check_password(struct mm_parser *p)
{
    const bool has_password = has_secret(p, "kafka_sasl_password", "kafka_sasl_password_file");
    if (!is_set(p, "kafka_sasl_username")) {
        report_missing(p, "kafka_sasl_mechanism", "kafka_sasl_username");
    }
    if (!has_password) {
        report_missing(p, "kafka_sasl_mechanism",
                       "kafka_sasl_password or kafka_sasl_password_file");
    }
    if (p->config->security.protocol == MM_PROTOCOL_SASL_PLAINTEXT &&
        p->config->security.mechanism == MM_MECHANISM_PLAIN) {
        take(p, "kafka_security_protocol");
        mm_config_report(p, MM_LOG_WARN,
                         "%s: sasl_plaintext sends the password of PLAIN in clear: use sasl_ssl, "
                         "or a SCRAM mechanism",
                         p->subject);
    }
}

/* Another way to a token than those of the options is asked for by properties. */
static bool has_own_token(const struct mm_config *config)
{
    for (size_t i = 0; i < config->n_properties; i++) {
        const char *name = config->properties[i].name;
        if (strncmp(name, "sasl.oauthbearer.", 17) == 0 ||
            strcmp(name, "enable.sasl.oauthbearer.unsecure.jwt") == 0) {
            return true;
        }
    }
    return false;
}

static bool is_on_this_machine(const char *url)
{
    const char *host = strstr(url, "://") + 3;
    return strncmp(host, "localhost", 9) == 0 || strncmp(host, "127.", 4) == 0 ||
           strncmp(host, "[::1]", 5) == 0;
}

static void check_oauth(struct mm_parser *p)
{
    const char *url = p->config->security.oauth_token_endpoint_url;
    const bool has_secret_too =
        has_secret(p, "kafka_oauth_client_secret", "kafka_oauth_client_secret_file");
    if (url == NULL && has_own_token(p->config)) {
        return;
    }
    if (!is_set(p, "kafka_oauth_token_endpoint_url")) {
        report_missing(p, "kafka_sasl_mechanism", "kafka_oauth_token_endpoint_url");
    }
    if (!is_set(p, "kafka_oauth_client_id")) {
        report_missing(p, "kafka_sasl_mechanism", "kafka_oauth_client_id");
    }
    if (!has_secret_too) {
        report_missing(p, "kafka_sasl_mechanism",
                       "kafka_oauth_client_secret or kafka_oauth_client_secret_file");
    }
    if (url != NULL && strncmp(url, "http://", 7) == 0 && !is_on_this_machine(url)) {
        take(p, "kafka_oauth_token_endpoint_url");
        mm_config_report(p, MM_LOG_WARN, "%s: http sends the client's secret in clear: use https",
                         p->subject);
    }
}

static void check_kerberos(struct mm_parser *p)
{
    if (mm_config_has_property(p->config, "sasl.kerberos.kinit.cmd")) {
        return; /* which may do without */
    }
    if (!is_set(p, "kafka_kerberos_keytab")) {
        report_missing(p, "kafka_sasl_mechanism", "kafka_kerberos_keytab");
    }
    if (!is_set(p, "kafka_kerberos_principal")) {
        report_missing(p, "kafka_sasl_mechanism", "kafka_kerberos_principal");
    }
}

static bool has_password_mechanism(enum mm_mechanism mechanism)
{
    return mechanism == MM_MECHANISM_PLAIN || mechanism == MM_MECHANISM_SCRAM_SHA_256 ||
           mechanism == MM_MECHANISM_SCRAM_SHA_512;
}

static void check_mechanism(struct mm_parser *p)
{
    const enum mm_mechanism mechanism = p->config->security.mechanism;
    if (has_password_mechanism(mechanism)) {
        check_password(p);
    } else {
        check_useless(p, password_names,
                      "kafka_sasl_mechanism PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512");
    }
    if (mechanism == MM_MECHANISM_OAUTHBEARER) {
        check_oauth(p);
    } else {
        check_useless(p, oauth_names, "kafka_sasl_mechanism OAUTHBEARER");
    }
    if (mechanism == MM_MECHANISM_GSSAPI) {
        check_kerberos(p);
    } else {
        check_useless(p, kerberos_names, "kafka_sasl_mechanism GSSAPI");
    }
}

static void check_sasl(struct mm_parser *p)
{
    if (!mm_security_has_sasl(&p->config->security)) {
        static const char expected[] = "kafka_security_protocol sasl_plaintext or sasl_ssl";
        check_useless(p, mechanism_names, expected);
        check_useless(p, password_names, expected);
        check_useless(p, oauth_names, expected);
        check_useless(p, kerberos_names, expected);
        return;
    }
    if (!is_set(p, "kafka_sasl_mechanism")) {
        report_missing(p, "kafka_security_protocol", "kafka_sasl_mechanism");
        return;
    }
    if (p->config->security.mechanism != MM_MECHANISM_NONE) {
        check_mechanism(p);
    }
}

/* Both ends of an encrypted connection have to be who they say. */
static void check_verification(struct mm_parser *p)
{
    static const struct
    {
        const char *name;
        const char *value;
        const char *who;
    } weak[] = {
        {"enable.ssl.certificate.verification", "false", "anybody on the way"},
        {"ssl.endpoint.identification.algorithm", "none",
         "whoever has any certificate of a trusted authority"},
    };
    for (size_t i = 0; i < p->config->n_properties; i++) {
        const struct mm_config_property *property = &p->config->properties[i];
        for (size_t k = 0; k < sizeof weak / sizeof weak[0]; k++) {
            if (strcmp(property->name, weak[k].name) == 0 &&
                mm_equal_in_any_case(property->value, weak[k].value)) {
                p->place = property->place;
                mm_config_report(p, MM_LOG_WARN,
                                 "option " MM_PROPERTY_PREFIX "%s: %s: %s can pose as Kafka",
                                 weak[k].name, weak[k].value, weak[k].who);
            }
        }
    }
}

void mm_config_check_security(struct mm_parser *p)
{
    check_verification(p);
    if (mm_config_has_property(p->config, "security.protocol") ||
        !is_understood(p, "kafka_security_protocol")) {
        return; /* who speaks to librdkafka itself is judged by librdkafka */
    }
    check_tls(p);
    check_sasl(p);
}
