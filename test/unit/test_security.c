/* Files with keys and secrets, and what the options of TLS and SASL say together. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "mm_config.h"
#include "mm_error.h"
#include "mm_keyfile.h"
#include "mm_options.h"

#define LEN_OF(array) (sizeof(array) / sizeof(array)[0])
#define SECRET "hunter2-is-my-word"

/* --- files --------------------------------------------------------------------------------------
 */

static char directory[] = "/tmp/mm-security-XXXXXX";

/* The path of a file in the test's directory. */
static const char *at(const char *name)
{
    static char paths[8][128];
    static size_t next;
    char *path = paths[next++ % LEN_OF(paths)];
    snprintf(path, sizeof paths[0], "%s/%s", directory, name);
    return path;
}

static const char *write_file(const char *name, const void *data, size_t len, mode_t mode)
{
    const char *path = at(name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, len, f), len);
    assert_int_equal(fclose(f), 0);
    assert_int_equal(chmod(path, mode), 0);
    return path;
}

static const char *write_text(const char *name, const char *text)
{
    return write_file(name, text, strlen(text), 0600);
}

static const char certificate[] = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
static const char key[] = "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n";
static const char encrypted_key[] =
    "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
static const char old_encrypted_key[] =
    "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: x\n\nAAAA\n"
    "-----END RSA PRIVATE KEY-----\n";

static int make_files(void **state)
{
    (void)state;
    if (mkdtemp(directory) == NULL) {
        return -1;
    }
    write_text("ca", certificate);
    write_text("cert", certificate);
    write_text("key", key);
    write_text("encrypted", encrypted_key);
    write_text("old-encrypted", old_encrypted_key);
    write_text("secret", SECRET "\n");
    write_text("empty", "");
    write_text("junk", "no key at all\n");
    write_file("open", SECRET "\n", strlen(SECRET) + 1, 0644);
    return 0;
}

static int remove_files(void **state)
{
    (void)state;
    static const char *const names[] = {"ca",     "cert",  "key",  "encrypted", "old-encrypted",
                                        "secret", "empty", "junk", "open",      "some"};
    for (size_t i = 0; i < LEN_OF(names); i++) {
        (void)unlink(at(names[i]));
    }
    return rmdir(directory);
}

/* --- mm_keyfile ---------------------------------------------------------------------------------
 */

static void test_secret_is_a_line(void **state)
{
    (void)state;
    static const struct
    {
        const char *content;
        const char *secret; /* NULL: not taken */
    } cases[] = {
        {"word", "word"},
        {"word\n", "word"},
        {"word\r\n", "word"},
        {" wo rd \n", " wo rd "},
        {"\xC3\xBC;,=\"\n", "\xC3\xBC;,=\""},
        {"", NULL},
        {"\n", NULL},
        {"\r\n", NULL},
        {"word\n\n", NULL},
        {"word\nmore", NULL},
        {"\nword", NULL},
        {"\xEF\xBB\xBFword\n", NULL}, /* the mark would be part of it, for nobody to see */
    };
    for (size_t i = 0; i < LEN_OF(cases); i++) {
        char secret[MM_SECRET_LEN] = "before";
        char why[128] = "";
        const char *path = write_text("some", cases[i].content);
        int rc = mm_secret_read(path, secret, why, sizeof why);
        assert_int_equal(rc, cases[i].secret != NULL ? 0 : MM_EINVAL);
        assert_string_equal(secret, cases[i].secret != NULL ? cases[i].secret : "");
        assert_int_equal(why[0] == '\0', rc == 0);
        assert_null(strstr(why, "word"));
        assert_int_equal(mm_keyfile_check(path, MM_KEYFILE_SECRET, why, sizeof why), rc);
    }
}

static void test_secret_length(void **state)
{
    (void)state;
    char content[MM_SECRET_LEN + 1];
    memset(content, 'x', sizeof content);
    char secret[MM_SECRET_LEN];
    char why[128];
    const char *path = write_file("some", content, MM_SECRET_LEN - 1, 0600);
    assert_int_equal(mm_secret_read(path, secret, why, sizeof why), 0);
    assert_int_equal(strlen(secret), MM_SECRET_LEN - 1);
    path = write_file("some", content, MM_SECRET_LEN, 0600);
    assert_int_equal(mm_secret_read(path, secret, why, sizeof why), MM_EINVAL);
    path = write_file("some", "a\0b", 3, 0600);
    assert_int_equal(mm_secret_read(path, secret, why, sizeof why), MM_EINVAL);
    assert_string_equal(why, "it has a NUL byte");
}

static void test_what_a_file_is(void **state)
{
    (void)state;
    static const struct
    {
        const char *name;
        enum mm_keyfile_kind kind;
        const char *why; /* NULL: good */
    } cases[] = {
        {"ca", MM_KEYFILE_CERTIFICATES, NULL},
        {"key", MM_KEYFILE_KEY, NULL},
        {"encrypted", MM_KEYFILE_KEY, NULL},
        {"old-encrypted", MM_KEYFILE_KEY, NULL},
        {"junk", MM_KEYFILE_OTHER, NULL},
        {"key", MM_KEYFILE_CERTIFICATES, "it has no PEM block \"BEGIN CERTIFICATE\""},
        {"ca", MM_KEYFILE_KEY, "it has no PEM block \"BEGIN PRIVATE KEY\""},
        {"junk", MM_KEYFILE_CERTIFICATES, "it has no PEM block \"BEGIN CERTIFICATE\""},
        {"empty", MM_KEYFILE_OTHER, "it is empty"},
        {"absent", MM_KEYFILE_KEY, "it cannot be opened: No such file or directory"},
        {"", MM_KEYFILE_CERTIFICATES, "it is a directory"},
    };
    for (size_t i = 0; i < LEN_OF(cases); i++) {
        char why[128] = "";
        int rc = mm_keyfile_check(at(cases[i].name), cases[i].kind, why, sizeof why);
        assert_string_equal(why, cases[i].why != NULL ? cases[i].why : "");
        assert_int_equal(rc, cases[i].why != NULL ? MM_EINVAL : 0);
    }
    char why[128];
    assert_int_equal(mm_keyfile_check("/dev/null", MM_KEYFILE_OTHER, why, sizeof why), MM_EINVAL);
    assert_string_equal(why, "it is no plain file");
}

/* A block that has no end is half a file. */
static void test_cut_pem(void **state)
{
    (void)state;
    for (size_t len = 1; len < sizeof certificate - 2; len++) {
        char why[128];
        const char *path = write_file("some", certificate, len, 0600);
        int rc = mm_keyfile_check(path, MM_KEYFILE_CERTIFICATES, why, sizeof why);
        bool has_end = strstr(certificate, "-----END ") + 9 <= certificate + len;
        assert_int_equal(rc, has_end ? 0 : MM_EINVAL);
    }
}

/* As large as a file may be: to look for the end of each block behind each beginning would take
 * minutes. */
static void test_beginnings_without_end(void **state)
{
    (void)state;
    static const char begin[] = "-----BEGIN ";
    const size_t len = (size_t)4 * 1024 * 1024;
    char *content = malloc(len);
    assert_non_null(content);
    for (size_t i = 0; i < len; i++) {
        content[i] = begin[i % (sizeof begin - 1)];
    }
    char why[128];
    const char *path = write_file("some", content, len, 0600);
    assert_int_equal(mm_keyfile_check(path, MM_KEYFILE_KEY, why, sizeof why), MM_EINVAL);
    assert_int_equal(mm_keyfile_check(path, MM_KEYFILE_CERTIFICATES, why, sizeof why), MM_EINVAL);
    free(content);
}

static void test_encrypted_keys(void **state)
{
    (void)state;
    assert_true(mm_keyfile_is_encrypted(at("encrypted")));
    assert_true(mm_keyfile_is_encrypted(at("old-encrypted")));
    assert_false(mm_keyfile_is_encrypted(at("key")));
    assert_false(mm_keyfile_is_encrypted(at("junk")));
    assert_false(mm_keyfile_is_encrypted(at("absent")));
}

static void test_rights(void **state)
{
    (void)state;
    static const mode_t open_modes[] = {0644, 0604, 0602, 0666};
    static const mode_t closed_modes[] = {0600, 0400, 0640, 0660};
    for (size_t i = 0; i < LEN_OF(open_modes); i++) {
        assert_true(mm_keyfile_is_open_to_all(write_file("some", "x", 1, open_modes[i])));
        assert_false(mm_keyfile_is_open_to_all(write_file("some", "x", 1, closed_modes[i])));
    }
    assert_false(mm_keyfile_is_open_to_all(at("absent")));
}

/* --- options together ---------------------------------------------------------------------------
 */

enum {
    MAX_LINES = 16
};

struct run
{
    struct mm_config *config;
    int rc;
    size_t n_lines;
    enum mm_log_level levels[MAX_LINES];
    char lines[MAX_LINES][MM_LOG_LINE_LEN];
};

static void take_line(void *arg, const struct mm_finding *finding)
{
    struct run *run = arg;
    assert_in_range(run->n_lines, 0, MAX_LINES - 1);
    assert_null(strstr(finding->text, SECRET));
    run->levels[run->n_lines] = finding->level;
    snprintf(run->lines[run->n_lines++], MM_LOG_LINE_LEN, "%s", finding->text);
}

/* Parse "name=value" pairs; "@file" as a value is that file of the test's directory. */
static void start_run(struct run *run, const char *const *pairs)
{
    struct mm_option options[16];
    char names[16][MM_OPTION_NAME_LEN];
    size_t n = 0;
    for (; pairs[n] != NULL; n++) {
        const char *equals = strchr(pairs[n], '=');
        snprintf(names[n], sizeof names[n], "%.*s", (int)(equals - pairs[n]), pairs[n]);
        options[n].name = names[n];
        options[n].value = equals[1] == '@' ? at(equals + 2) : equals + 1;
    }
    struct mm_config_source source = {
        .options = options, .n_options = n, .report = take_line, .report_arg = run};
    *run = (struct run){0};
    run->rc = mm_config_new(&source, &run->config);
}

#define TLS "kafka_security_protocol=ssl"
#define SASL "kafka_security_protocol=sasl_ssl"
#define CA "kafka_tls_ca_file=@ca"
#define CERT "kafka_tls_cert_file=@cert"
#define KEY "kafka_tls_key_file=@key"
#define PLAIN "kafka_sasl_mechanism=PLAIN"
#define SCRAM "kafka_sasl_mechanism=scram-sha-512"
#define OAUTH "kafka_sasl_mechanism=OAUTHBEARER"
#define GSSAPI "kafka_sasl_mechanism=GSSAPI"
#define USER "kafka_sasl_username=alice"
#define PASSWORD "kafka_sasl_password=" SECRET
#define PASSWORD_FILE "kafka_sasl_password_file=@secret"
#define URL "kafka_oauth_token_endpoint_url=https://id.example.test/token"
#define CLIENT "kafka_oauth_client_id=mm"
#define CLIENT_SECRET "kafka_oauth_client_secret=" SECRET

/* Long texts in lists: */
/* NOLINTBEGIN(bugprone-suspicious-missing-comma) */

static void test_good_settings(void **state)
{
    (void)state;
    static const char *const cases[][12] = {
        {NULL},
        {"kafka_tls_verify_hostname=true", NULL},
        {TLS, NULL},
        {TLS, CA, NULL},
        {TLS, CA, CERT, KEY, NULL},
        {TLS, CERT, "kafka_tls_key_file=@encrypted", "kafka_tls_key_password=" SECRET, NULL},
        {TLS, CERT, "kafka_tls_key_file=@old-encrypted", "kafka_tls_key_password_file=@secret",
         NULL},
        {SASL, PLAIN, USER, PASSWORD, NULL},
        {SASL, CA, SCRAM, USER, PASSWORD_FILE, NULL},
        {"kafka_security_protocol=sasl_plaintext", SCRAM, USER, PASSWORD_FILE, NULL},
        {SASL, OAUTH, URL, CLIENT, CLIENT_SECRET, NULL},
        {SASL, OAUTH, URL, CLIENT, "kafka_oauth_client_secret_file=@secret",
         "kafka_oauth_scope=kafka", "kafka_oauth_extensions=logicalCluster=lkc-1", NULL},
        {SASL, OAUTH, "kafka_oauth_token_endpoint_url=http://127.0.0.1:8/t", CLIENT, CLIENT_SECRET,
         NULL},
        {SASL, OAUTH, "rdkafka.enable.sasl.oauthbearer.unsecure.jwt=true", NULL},
        {SASL, GSSAPI, "kafka_kerberos_principal=mm@EXAMPLE.TEST", "kafka_kerberos_keytab=@junk",
         "kafka_kerberos_service_name=kafka", NULL},
        {SASL, GSSAPI, "rdkafka.sasl.kerberos.kinit.cmd=true", NULL},
        /* What librdkafka is told by name is its own affair. */
        {"rdkafka.security.protocol=ssl", CA, NULL},
        {"rdkafka.security.protocol=sasl_ssl", "rdkafka.sasl.mechanism=PLAIN", NULL},
        {SASL, PLAIN, "rdkafka.sasl.username=alice", "rdkafka.sasl.password=" SECRET, NULL},
        {"kafka_compression=ZSTD", "kafka_partitioner=murmur2", "kafka_linger_ms=0", NULL},
    };
    for (size_t i = 0; i < LEN_OF(cases); i++) {
        struct run run;
        start_run(&run, cases[i]);
        if (run.rc != 0 || run.n_lines != 0) {
            fail_msg("case %zu: %s", i, run.lines[0]);
        }
        char line[4096];
        mm_config_describe(run.config, line, sizeof line);
        assert_null(strstr(line, SECRET));
        mm_config_free(run.config);
    }
}

#define USELESS_TLS ": has no effect: expected kafka_security_protocol ssl or sasl_ssl, or no "
#define USELESS_SASL \
    ": has no effect: expected kafka_security_protocol sasl_plaintext or sasl_ssl, or no "

static const struct
{
    const char *pairs[8];
    const char *lines[4]; /* errors; "@" stands for the test's directory */
} bad_settings[] = {
    {{CA}, {"option kafka_tls_ca_file" USELESS_TLS "kafka_tls_ca_file"}},
    {{"kafka_security_protocol=sasl_plaintext", SCRAM, USER, PASSWORD, CERT, KEY},
     {"option kafka_tls_cert_file" USELESS_TLS "kafka_tls_cert_file",
      "option kafka_tls_key_file" USELESS_TLS "kafka_tls_key_file"}},
    {{TLS, CERT}, {"option kafka_tls_cert_file: expected kafka_tls_key_file beside it"}},
    {{TLS, KEY}, {"option kafka_tls_key_file: expected kafka_tls_cert_file beside it"}},
    {{TLS, "kafka_tls_key_password=" SECRET},
     {"option kafka_tls_key_password: has no effect: expected kafka_tls_key_file, or no "
      "kafka_tls_key_password"}},
    {{TLS, CERT, "kafka_tls_key_file=@encrypted"},
     {"option kafka_tls_key_file: \"@/encrypted\" is encrypted: expected "
      "kafka_tls_key_password or kafka_tls_key_password_file beside it"}},
    {{TLS, CERT, KEY, "kafka_tls_key_password=" SECRET, "kafka_tls_key_password_file=@secret"},
     {"option kafka_tls_key_password: given twice, here and in kafka_tls_key_password_file; "
      "expected one of them"}},
    {{TLS, "kafka_tls_ca_file=@absent"},
     {"option kafka_tls_ca_file: \"@/absent\" is not valid: it cannot be opened: No such file "
      "or directory; expected the absolute path of a PEM file with a certificate"}},
    {{TLS, "kafka_tls_ca_file=@key"},
     {"option kafka_tls_ca_file: \"@/key\" is not valid: it has no PEM block \"BEGIN "
      "CERTIFICATE\"; expected the absolute path of a PEM file with a certificate"}},
    {{TLS, "kafka_tls_ca_file=ca.crt"},
     {"option kafka_tls_ca_file: \"ca.crt\" is not valid: it is relative; expected the "
      "absolute "
      "path of a PEM file with a certificate"}},
    {{TLS, CERT, "kafka_tls_key_file=@cert"},
     {"option kafka_tls_key_file: \"@/cert\" is not valid: it has no PEM block \"BEGIN PRIVATE "
      "KEY\"; expected the absolute path of a PEM file with a private key"}},
    {{"kafka_security_protocol=tls"},
     {"option kafka_security_protocol: \"tls\" is not valid: expected plaintext, ssl, "
      "sasl_plaintext or sasl_ssl"}},
    {{"kafka_security_protocol=tls", CA, PLAIN},
     {"option kafka_security_protocol: \"tls\" is not valid: expected plaintext, ssl, "
      "sasl_plaintext or sasl_ssl"}},
    {{TLS, "kafka_tls_verify_hostname=maybe"},
     {"option kafka_tls_verify_hostname: \"maybe\" is not valid: expected true or false"}},
    {{TLS, PLAIN, USER, PASSWORD},
     {"option kafka_sasl_mechanism" USELESS_SASL "kafka_sasl_mechanism",
      "option kafka_sasl_username" USELESS_SASL "kafka_sasl_username",
      "option kafka_sasl_password" USELESS_SASL "kafka_sasl_password"}},
    {{SASL}, {"option kafka_security_protocol: expected kafka_sasl_mechanism beside it"}},
    {{SASL, "kafka_sasl_mechanism=SCRAM", USER, PASSWORD},
     {"option kafka_sasl_mechanism: \"SCRAM\" is not valid: expected PLAIN, SCRAM-SHA-256, "
      "SCRAM-SHA-512, OAUTHBEARER or GSSAPI"}},
    {{SASL, PLAIN},
     {"option kafka_sasl_mechanism: expected kafka_sasl_username beside it",
      "option kafka_sasl_mechanism: expected kafka_sasl_password or kafka_sasl_password_file "
      "beside it"}},
    {{SASL, PLAIN, USER, PASSWORD, PASSWORD_FILE},
     {"option kafka_sasl_password: given twice, here and in kafka_sasl_password_file; expected "
      "one of them"}},
    {{SASL, PLAIN, USER, "kafka_sasl_password="},
     {"option kafka_sasl_password: \"***\" is not valid: it is empty; expected 1 to 1024 bytes "
      "without control characters"}},
    {{SASL, PLAIN, USER, "kafka_sasl_password=" SECRET "\t" SECRET},
     {"option kafka_sasl_password: \"***\" is not valid: it has a control character; expected "
      "1 to 1024 bytes without control characters"}},
    {{SASL, PLAIN, USER, PASSWORD, PASSWORD}, {"option kafka_sasl_password: given twice"}},
    {{SASL, PLAIN, USER, "kafka_sasl_password_file=@empty"},
     {"option kafka_sasl_password_file: \"@/empty\" is not valid: it is empty; expected the "
      "absolute path of a file of one line"}},
    {{SASL, PLAIN, USER, PASSWORD, "kafka_oauth_scope=x"},
     {"option kafka_oauth_scope: has no effect: expected kafka_sasl_mechanism OAUTHBEARER, or "
      "no kafka_oauth_scope"}},
    {{SASL, PLAIN, USER, PASSWORD, "kafka_kerberos_principal=x"},
     {"option kafka_kerberos_principal: has no effect: expected kafka_sasl_mechanism GSSAPI, "
      "or no kafka_kerberos_principal"}},
    {{SASL, OAUTH},
     {"option kafka_sasl_mechanism: expected kafka_oauth_token_endpoint_url beside it",
      "option kafka_sasl_mechanism: expected kafka_oauth_client_id beside it",
      "option kafka_sasl_mechanism: expected kafka_oauth_client_secret or "
      "kafka_oauth_client_secret_file beside it"}},
    {{SASL, OAUTH, "kafka_oauth_token_endpoint_url=id.example.test", CLIENT, CLIENT_SECRET},
     {"option kafka_oauth_token_endpoint_url: \"id.example.test\" is not valid: expected an "
      "address that begins with http:// or https://"}},
    {{SASL, OAUTH, URL, CLIENT, CLIENT_SECRET, USER},
     {"option kafka_sasl_username: has no effect: expected kafka_sasl_mechanism PLAIN, "
      "SCRAM-SHA-256 or SCRAM-SHA-512, or no kafka_sasl_username"}},
    {{SASL, GSSAPI},
     {"option kafka_sasl_mechanism: expected kafka_kerberos_keytab beside it",
      "option kafka_sasl_mechanism: expected kafka_kerberos_principal beside it"}},
    {{TLS, CA, "rdkafka.ssl.ca.location=/x"},
     {"option kafka_tls_ca_file: given twice, here and as rdkafka.ssl.ca.location; expected "
      "one "
      "of them"}},
    {{SASL, PLAIN, USER, PASSWORD_FILE, "rdkafka.sasl.password=" SECRET},
     {"option kafka_sasl_password_file: given twice, here and as rdkafka.sasl.password; "
      "expected one of them"}},
    {{TLS, "rdkafka.security.protocol=ssl"},
     {"option kafka_security_protocol: given twice, here and as rdkafka.security.protocol; "
      "expected one of them"}},
    {{"kafka_linger_ms=1", "rdkafka.queue.buffering.max.ms=1"},
     {"option kafka_linger_ms: given twice, here and as rdkafka.queue.buffering.max.ms; "
      "expected one of them"}},
    {{"kafka_linger_ms=1001"},
     {"option kafka_linger_ms: \"1001\" is not valid: expected a whole number of milliseconds "
      "from 0 to 1000"}},
    {{"kafka_compression=bzip2"},
     {"option kafka_compression: \"bzip2\" is not valid: expected none, gzip, snappy, lz4 or "
      "zstd"}},
    {{"kafka_partitioner=random"},
     {"option kafka_partitioner: \"random\" is not valid: expected murmur2_random, murmur2, "
      "consistent_random, consistent, fnv1a_random or fnv1a"}},
};

static void test_bad_settings(void **state)
{
    (void)state;
    for (size_t i = 0; i < LEN_OF(bad_settings); i++) {
        struct run run;
        start_run(&run, bad_settings[i].pairs);
        assert_int_equal(run.rc, MM_EINVAL);
        size_t n_errors = 0;
        for (size_t k = 0; k < run.n_lines; k++) {
            if (run.levels[k] != MM_LOG_ERROR) {
                continue;
            }
            char expected[MM_LOG_LINE_LEN] = "";
            const char *line =
                n_errors < LEN_OF(bad_settings[i].lines) ? bad_settings[i].lines[n_errors] : NULL;
            const char *mark = line != NULL ? strchr(line, '@') : NULL;
            if (mark != NULL) {
                snprintf(expected, sizeof expected, "%.*s%s%s", (int)(mark - line), line, directory,
                         mark + 1);
            } else if (line != NULL) {
                snprintf(expected, sizeof expected, "%s", line);
            }
            assert_string_equal(run.lines[k], expected);
            n_errors++;
        }
        assert_true(n_errors == LEN_OF(bad_settings[i].lines) ||
                    bad_settings[i].lines[n_errors] == NULL);
    }
}

static void test_warnings(void **state)
{
    (void)state;
    static const struct
    {
        const char *pairs[8];
        const char *line;
    } cases[] = {
        {{"kafka_security_protocol=sasl_plaintext", PLAIN, USER, PASSWORD},
         "sends the password of PLAIN in clear"},
        {{TLS, "kafka_tls_verify_hostname=false"}, "can pose as Kafka"},
        {{TLS, "rdkafka.enable.ssl.certificate.verification=FALSE"},
         "anybody on the way can pose as Kafka"},
        {{TLS, "rdkafka.ssl.endpoint.identification.algorithm=none"},
         "has any certificate of a trusted authority can pose as Kafka"},
        {{SASL, PLAIN, USER, "kafka_sasl_password_file=@open"},
         "is open to everybody on this machine"},
        {{SASL, OAUTH, "kafka_oauth_token_endpoint_url=http://id.example.test/t", CLIENT,
          CLIENT_SECRET},
         "sends the client's secret in clear"},
    };
    for (size_t i = 0; i < LEN_OF(cases); i++) {
        struct run run;
        start_run(&run, cases[i].pairs);
        assert_int_equal(run.rc, 0);
        assert_int_equal(run.n_lines, 1);
        assert_int_equal(run.levels[0], MM_LOG_WARN);
        assert_non_null(strstr(run.lines[0], cases[i].line));
        mm_config_free(run.config);
    }
}

/* NOLINTEND(bugprone-suspicious-missing-comma) */

struct files
{
    size_t n;
    char text[1024];
};

static void take_file(void *arg, const char *option, const char *path)
{
    struct files *files = arg;
    files->n++;
    size_t used = strlen(files->text);
    snprintf(files->text + used, sizeof files->text - used, "%s=%s ", option,
             path + strlen(directory) + 1);
}

static void test_files_of_the_settings(void **state)
{
    (void)state;
    static const char *const pairs[] = {SASL, CA, CERT, KEY, SCRAM, USER, PASSWORD_FILE, NULL};
    struct run run;
    start_run(&run, pairs);
    assert_int_equal(run.rc, 0);
    struct files files = {0};
    mm_config_files(run.config, take_file, &files);
    assert_int_equal(files.n, 4);
    assert_string_equal(files.text,
                        "kafka_tls_ca_file=ca kafka_tls_cert_file=cert "
                        "kafka_tls_key_file=key kafka_sasl_password_file=secret ");
    mm_config_free(run.config);
    static const char *const none[] = {NULL};
    start_run(&run, none);
    files = (struct files){0};
    mm_config_files(run.config, take_file, &files);
    assert_int_equal(files.n, 0);
    mm_config_free(run.config);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_secret_is_a_line),
        cmocka_unit_test(test_secret_length),
        cmocka_unit_test(test_what_a_file_is),
        cmocka_unit_test(test_cut_pem),
        cmocka_unit_test(test_beginnings_without_end),
        cmocka_unit_test(test_encrypted_keys),
        cmocka_unit_test(test_rights),
        cmocka_unit_test(test_good_settings),
        cmocka_unit_test(test_bad_settings),
        cmocka_unit_test(test_warnings),
        cmocka_unit_test(test_files_of_the_settings),
    };
    return cmocka_run_group_tests(tests, make_files, remove_files);
}
