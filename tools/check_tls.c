/* What is in the files of TLS. The only file of the tool that knows OpenSSL. */
#include "check.h"
#include "mm_expiry.h"
#include "mm_keyfile.h"
#include "mm_property.h"
#include "mm_security.h"
#include "mm_text.h"
#include "text_file.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* "CN=gateway, O=plant" in UTF-8. */
#define NAME_FORM (XN_FLAG_SEP_CPLUS_SPC | (ASN1_STRFLGS_RFC2253 & ~ASN1_STRFLGS_ESC_MSB))

/* So many of a file are looked at. */
#define MAX_CERTS 1024

/* A file of PEM and the option that names it. */
struct pem
{
    const char *option;
    const char *path;
    struct mm_place place;
    BIO *bio; /* of text; NULL: it cannot be read, which others tell */
    char *text;
};

static void open_pem(struct pem *pem)
{
    size_t len = 0;
    const char *why = "";
    pem->text = text_file_read(pem->path, &len, &why);
    pem->bio = pem->text != NULL ? BIO_new_mem_buf(pem->text, (int)len) : NULL;
}

static void close_pem(struct pem *pem)
{
    BIO_free(pem->bio);
    free(pem->text);
}

/* "2026-01-31" */
static void write_date(const ASN1_TIME *at, char *dst, size_t dst_len)
{
    struct tm tm;
    if (ASN1_TIME_to_tm(at, &tm) != 1 || strftime(dst, dst_len, "%Y-%m-%d", &tm) == 0) {
        snprintf(dst, dst_len, "an unknown day");
    }
}

static void name_subject(const X509 *cert, char *dst, size_t dst_len)
{
    BIO *bio = BIO_new(BIO_s_mem());
    char *name = NULL;
    snprintf(dst, dst_len, "an unknown subject");
    if (bio != NULL && X509_NAME_print_ex(bio, X509_get_subject_name(cert), 0, NAME_FORM) > 0) {
        const long len = BIO_get_mem_data(bio, &name);
        mm_printable(name, (size_t)len, dst, dst_len);
    }
    BIO_free(bio);
}

static void check_dates(const struct pem *pem, const X509 *cert, struct findings *f)
{
    char date[32];
    char subject[MM_LOG_LINE_LEN / 2];
    int days = 0;
    int seconds = 0;
    name_subject(cert, subject, sizeof subject);
    if (X509_cmp_current_time(X509_get0_notBefore(cert)) > 0) {
        write_date(X509_get0_notBefore(cert), date, sizeof date);
        findings_add(f, MM_LOG_ERROR, pem->place,
                     "option %s: the certificate of %s is valid from %s on, not yet", pem->option,
                     subject, date);
    }
    write_date(X509_get0_notAfter(cert), date, sizeof date);
    if (ASN1_TIME_diff(&days, &seconds, NULL, X509_get0_notAfter(cert)) != 1) {
        findings_add(f, MM_LOG_ERROR, pem->place,
                     "option %s: the certificate of %s has no date that can be read", pem->option,
                     subject);
    } else if (days < 0 || seconds < 0) {
        findings_add(f, MM_LOG_ERROR, pem->place, "option %s: the certificate of %s expired on %s",
                     pem->option, subject, date);
    } else if (days < MM_EXPIRY_SOON_DAYS) {
        findings_add(f, MM_LOG_WARN, pem->place,
                     "option %s: the certificate of %s expires on %s, in %d days", pem->option,
                     subject, date, days);
    }
}

/* Read the certificates of a file, at most max of them. Returns how many; told when there is none,
 * or one that cannot be read. */
static size_t read_certificates(const struct pem *pem, X509 **certs, size_t max, struct findings *f)
{
    size_t n = 0;
    X509 *cert = NULL;
    while (n < max && (cert = PEM_read_bio_X509(pem->bio, NULL, NULL, NULL)) != NULL) {
        certs[n++] = cert;
    }
    const unsigned long err = ERR_peek_last_error();
    const bool at_end =
        n == max || (ERR_GET_LIB(err) == ERR_LIB_PEM && ERR_GET_REASON(err) == PEM_R_NO_START_LINE);
    ERR_clear_error();
    if (n == 0 || !at_end) {
        char shown[MM_LOG_LINE_LEN / 2];
        findings_add(f, MM_LOG_ERROR, pem->place,
                     "option %s: \"%s\" %s: expected certificates in PEM", pem->option,
                     mm_printable(pem->path, strlen(pem->path), shown, sizeof shown),
                     n == 0 ? "has no certificate" : "has one that cannot be read");
    }
    return n;
}

/* Is it between its dates? */
static bool is_valid_now(const X509 *cert)
{
    return X509_cmp_current_time(X509_get0_notBefore(cert)) <= 0 &&
           X509_cmp_current_time(X509_get0_notAfter(cert)) > 0;
}

/* The authorities. One that is valid is enough: bundles hold old ones for years. */
static void check_authorities(const struct pem *pem, struct findings *f)
{
    X509 *certs[MAX_CERTS];
    X509 *last = NULL; /* of those that are valid now, the one that stays so longest */
    const size_t n = read_certificates(pem, certs, MAX_CERTS, f);
    for (size_t i = 0; i < n; i++) {
        if (is_valid_now(certs[i]) &&
            (last == NULL ||
             ASN1_TIME_compare(X509_get0_notAfter(certs[i]), X509_get0_notAfter(last)) > 0)) {
            last = certs[i];
        }
    }
    for (size_t i = 0; i < n; i++) {
        if (last == NULL || certs[i] == last) {
            check_dates(pem, certs[i], f);
        }
        if (certs[i] != last) {
            X509_free(certs[i]);
        }
    }
    X509_free(last);
}

/* Our own certificate and those that lead from it to an authority: all have to be valid. Returns
 * our own, the first, for the caller to free; NULL: there is none. */
static X509 *check_chain(const struct pem *pem, struct findings *f)
{
    X509 *certs[MAX_CERTS];
    const size_t n = read_certificates(pem, certs, MAX_CERTS, f);
    for (size_t i = 0; i < n; i++) {
        check_dates(pem, certs[i], f);
        if (i > 0) {
            X509_free(certs[i]);
        }
    }
    return n > 0 ? certs[0] : NULL;
}

static int give_password(char *dst, int dst_len, int writing, void *arg)
{
    (void)writing;
    const char *password = arg;
    if (password == NULL || strlen(password) >= (size_t)dst_len) {
        return -1;
    }
    return snprintf(dst, (size_t)dst_len, "%s", password);
}

/* cert: NULL when there is none to compare with. */
static void check_key(const struct pem *pem,
                      const char *password,
                      const X509 *cert,
                      struct findings *f)
{
    char shown[MM_LOG_LINE_LEN / 2];
    EVP_PKEY *key = PEM_read_bio_PrivateKey(pem->bio, NULL, give_password, (void *)password);
    mm_printable(pem->path, strlen(pem->path), shown, sizeof shown);
    if (key == NULL) {
        const bool encrypted = strstr(pem->text, "ENCRYPTED") != NULL;
        findings_add(f, MM_LOG_ERROR, pem->place,
                     "option %s: \"%s\" has no key that can be read: %s", pem->option, shown,
                     !encrypted         ? "expected a private key in PEM"
                     : password == NULL ? "it is encrypted, and there is no password for it"
                                        : "it is encrypted with another password");
    } else if (cert != NULL && X509_check_private_key(cert, key) != 1) {
        findings_add(f, MM_LOG_ERROR, pem->place,
                     "option %s: the key in \"%s\" is not that of the certificate", pem->option,
                     shown);
    }
    ERR_clear_error();
    EVP_PKEY_free(key);
}

/* Where a file of TLS is named: an option of the plugin, or the property behind it. */
struct source
{
    const char *option;
    const char *property;
    const char *value; /* of the option; NULL: not set */
};

/* Open the file that an option or a property names. False: there is none, or it cannot be read. */
static bool find_pem(const struct settings *s, const struct source *source, struct pem *out)
{
    const char *property = source->property + strlen(MM_PROPERTY_PREFIX);
    const struct mm_config_property *found = mm_config_find_property(settings_best(s), property);
    *out = (struct pem){.option = source->option, .path = source->value};
    if (source->value != NULL) {
        out->place = settings_place(s, source->option);
    } else if (found != NULL) {
        out->option = source->property;
        out->path = found->value;
        out->place = found->place;
    } else {
        return false;
    }
    open_pem(out);
    return out->bio != NULL;
}

/* The password of the key, in dst or the settings' own; NULL: there is none. */
static const char *find_password(const struct mm_config *config, char dst[MM_SECRET_LEN])
{
    const struct mm_security *security = &config->security;
    const struct mm_config_property *found = mm_config_find_property(config, "ssl.key.password");
    char why[MM_LOG_LINE_LEN];
    if (security->tls_key_password_file != NULL) {
        return mm_secret_read(security->tls_key_password_file, dst, why, sizeof why) == 0 ? dst
                                                                                          : NULL;
    }
    return security->tls_key_password != NULL ? security->tls_key_password
           : found != NULL                    ? found->value
                                              : NULL;
}

void check_tls(const struct settings *s, struct findings *f)
{
    const struct mm_config *config = settings_best(s);
    if (config == NULL) {
        return;
    }
    const struct mm_security *security = &config->security;
    const struct source ca_source = {"kafka_tls_ca_file", MM_PROPERTY_PREFIX "ssl.ca.location",
                                     security->tls_ca_file};
    const struct source cert_source = {"kafka_tls_cert_file",
                                       MM_PROPERTY_PREFIX "ssl.certificate.location",
                                       security->tls_cert_file};
    const struct source key_source = {"kafka_tls_key_file", MM_PROPERTY_PREFIX "ssl.key.location",
                                      security->tls_key_file};
    struct pem ca = {0};
    struct pem cert = {0};
    struct pem key = {0};
    X509 *own = NULL;
    if (find_pem(s, &ca_source, &ca)) {
        check_authorities(&ca, f);
    }
    if (find_pem(s, &cert_source, &cert)) {
        own = check_chain(&cert, f);
    }
    if (find_pem(s, &key_source, &key)) {
        char password[MM_SECRET_LEN];
        check_key(&key, find_password(config, password), own, f);
        explicit_bzero(password, sizeof password);
    }
    X509_free(own);
    close_pem(&key);
    close_pem(&cert);
    close_pem(&ca);
}
