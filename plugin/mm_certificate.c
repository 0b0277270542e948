#include "mm_certificate.h"

#include "mm_keyfile.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Tags of DER (X.690). */
enum {
    DER_INTEGER = 0x02,
    DER_UTC_TIME = 0x17,
    DER_GENERALIZED_TIME = 0x18,
    DER_SEQUENCE = 0x30,
    DER_VERSION = 0xA0, /* [0] of a TBSCertificate */
};

/* Bytes not read yet. */
struct der
{
    const uint8_t *at;
    size_t len;
};

/* Take the next element off: its tag and what is in it. False: there is no whole one. */
static bool take(struct der *d, uint8_t *tag, struct der *content)
{
    if (d->len < 2) {
        return false;
    }
    *tag = d->at[0];
    size_t len = d->at[1];
    size_t header = 2;
    if (len >= 0x80) {
        size_t n = len & 0x7F;
        if (n == 0 || n > 4 || d->len < 2 + n) {
            return false;
        }
        len = 0;
        for (size_t i = 0; i < n; i++) {
            len = len << 8 | d->at[2 + i];
        }
        header += n;
    }
    if (len > d->len - header) {
        return false;
    }
    *content = (struct der){d->at + header, len};
    d->at += header + len;
    d->len -= header + len;
    return true;
}

/* Take an element of this tag off. */
static bool take_tag(struct der *d, uint8_t wanted, struct der *content)
{
    uint8_t tag;
    return take(d, &tag, content) && tag == wanted;
}

/* n digits; -1: they are none. */
static int digits(const uint8_t *at, size_t n)
{
    int number = 0;
    for (size_t i = 0; i < n; i++) {
        if (at[i] < '0' || at[i] > '9') {
            return -1;
        }
        number = number * 10 + (at[i] - '0');
    }
    return number;
}

/* "YYMMDDHHMMSSZ" or "YYYYMMDDHHMMSSZ": RFC 5280 allows no other form. */
static bool take_time(struct der *d, int64_t *out_s)
{
    uint8_t tag;
    struct der t;
    if (!take(d, &tag, &t) || (tag != DER_UTC_TIME && tag != DER_GENERALIZED_TIME)) {
        return false;
    }
    const size_t n_year = tag == DER_UTC_TIME ? 2 : 4;
    if (t.len != n_year + 11 || t.at[t.len - 1] != 'Z') {
        return false;
    }
    const int year = digits(t.at, n_year);
    int parts[5];
    for (size_t i = 0; i < 5; i++) {
        parts[i] = digits(t.at + n_year + 2 * i, 2);
        if (parts[i] < 0) {
            return false;
        }
    }
    if (year < 0) {
        return false;
    }
    const int since_1900 = n_year == 4 ? year - 1900 : year < 50 ? year + 100 : year;
    struct tm tm = {.tm_year = since_1900,
                    .tm_mon = parts[0] - 1,
                    .tm_mday = parts[1],
                    .tm_hour = parts[2],
                    .tm_min = parts[3],
                    .tm_sec = parts[4]};
    *out_s = timegm(&tm);
    return true;
}

bool mm_certificate_period(const uint8_t *der, size_t len, struct mm_certificate_period *out)
{
    struct der d = {der, len};
    struct der certificate;
    struct der tbs;
    struct der skipped;
    struct der validity;
    if (!take_tag(&d, DER_SEQUENCE, &certificate) || !take_tag(&certificate, DER_SEQUENCE, &tbs)) {
        return false;
    }
    if (tbs.len > 0 && tbs.at[0] == DER_VERSION && !take_tag(&tbs, DER_VERSION, &skipped)) {
        return false;
    }
    return take_tag(&tbs, DER_INTEGER, &skipped) &&  /* serialNumber */
           take_tag(&tbs, DER_SEQUENCE, &skipped) && /* signature */
           take_tag(&tbs, DER_SEQUENCE, &skipped) && /* issuer */
           take_tag(&tbs, DER_SEQUENCE, &validity) && take_time(&validity, &out->begin_s) &&
           take_time(&validity, &out->end_s);
}

/* --- PEM ----------------------------------------------------------------------------------------
 */

/* The value of a character of base64; -1: it is none. */
static int base64_value(char c)
{
    if (c >= 'A' && c <= 'Z') {
        return c - 'A';
    }
    if (c >= 'a' && c <= 'z') {
        return c - 'a' + 26;
    }
    if (c >= '0' && c <= '9') {
        return c - '0' + 52;
    }
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Decode up to the first '=' or '-', without regard to line ends. dst has room for three bytes for
 * each four characters. Returns the bytes written. */
static size_t decode(const char *text, const char *end, uint8_t *dst)
{
    size_t n = 0;
    uint32_t bits = 0;
    unsigned n_bits = 0;
    for (; text < end && *text != '=' && *text != '-'; text++) {
        const int value = base64_value(*text);
        if (value < 0) {
            continue;
        }
        bits = bits << 6 | (uint32_t)value;
        n_bits += 6;
        if (n_bits >= 8) {
            n_bits -= 8;
            dst[n++] = (uint8_t)(bits >> n_bits);
        }
    }
    return n;
}

bool mm_certificate_period_pem(const char *pem, struct mm_certificate_period *out)
{
    static const char begin_line[] = "-----BEGIN CERTIFICATE-----";
    static const char end_line[] = "-----END CERTIFICATE-----";
    const char *begin = strstr(pem, begin_line);
    begin = begin != NULL ? begin + sizeof begin_line - 1 : NULL;
    const char *end = begin != NULL ? strstr(begin, end_line) : NULL;
    if (end == NULL) {
        return false;
    }
    uint8_t *der = malloc((size_t)(end - begin) + 1);
    if (der == NULL) {
        return false;
    }
    const size_t len = decode(begin, end, der);
    const bool good = mm_certificate_period(der, len, out);
    free(der);
    return good;
}

bool mm_certificate_read(const char *path, struct mm_certificate_period *out)
{
    char why[128];
    size_t len = 0;
    char *text = mm_keyfile_load(path, &len, why, sizeof why);
    const bool good = text != NULL && mm_certificate_period_pem(text, out);
    mm_keyfile_unload(text, len);
    return good;
}
