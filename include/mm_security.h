/* mm_security.h - how the way to Kafka is secured: the settings of TLS and SASL.
 *
 * Part of struct mm_config (mm_config.h), which owns the texts. What is not set is NULL. A setting
 * that comes from a file is read when a producer is made, each time anew (mm_keyfile.h). */
#ifndef MM_SECURITY_H
#define MM_SECURITY_H

#include <stdbool.h>

enum mm_protocol {
    MM_PROTOCOL_PLAINTEXT,
    MM_PROTOCOL_SSL,
    MM_PROTOCOL_SASL_PLAINTEXT,
    MM_PROTOCOL_SASL_SSL,
};

enum mm_mechanism {
    MM_MECHANISM_NONE, /* not set */
    MM_MECHANISM_PLAIN,
    MM_MECHANISM_SCRAM_SHA_256,
    MM_MECHANISM_SCRAM_SHA_512,
    MM_MECHANISM_OAUTHBEARER,
    MM_MECHANISM_GSSAPI,
};

struct mm_security
{
    enum mm_protocol protocol;

    /* TLS; the files are PEM */
    char *tls_ca_file; /* NULL: the authorities that the system trusts */
    char *tls_cert_file;
    char *tls_key_file;
    char *tls_key_password; /* secret */
    char *tls_key_password_file;
    bool tls_verify_hostname;

    /* SASL */
    enum mm_mechanism mechanism;
    char *username;
    char *password; /* secret */
    char *password_file;

    /* OAUTHBEARER: a token by OpenID Connect, client credentials */
    char *oauth_token_endpoint_url;
    char *oauth_client_id;
    char *oauth_client_secret; /* secret */
    char *oauth_client_secret_file;
    char *oauth_scope;
    char *oauth_extensions; /* "key=value,..." */

    /* GSSAPI */
    char *kerberos_service_name;
    char *kerberos_principal;
    char *kerberos_keytab;
};

/* Is the connection encrypted? Thread: any. */
static inline bool mm_security_has_tls(const struct mm_security *s)
{
    return s->protocol == MM_PROTOCOL_SSL || s->protocol == MM_PROTOCOL_SASL_SSL;
}

/* Does the client say who it is by SASL? Thread: any. */
static inline bool mm_security_has_sasl(const struct mm_security *s)
{
    return s->protocol == MM_PROTOCOL_SASL_PLAINTEXT || s->protocol == MM_PROTOCOL_SASL_SSL;
}

#endif
