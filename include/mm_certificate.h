/* mm_certificate.h - when is a certificate in date?
 *
 * Reads the two times of an X.509 certificate (RFC 5280, 4.1.2.5) and nothing else of it: whether
 * it is worth anything is for TLS to say. Pure functions but mm_certificate_read(). Thread: any. */
#ifndef MM_CERTIFICATE_H
#define MM_CERTIFICATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Seconds since the epoch, both inclusive. */
struct mm_certificate_period
{
    int64_t begin_s;
    int64_t end_s;
};

/* Of a certificate in DER. False: it is none. */
bool mm_certificate_period(const uint8_t *der, size_t len, struct mm_certificate_period *out);

/* Of the first certificate in a text of PEM. False: there is none. */
bool mm_certificate_period_pem(const char *pem, struct mm_certificate_period *out);

/* Of the first certificate in a file of PEM. Reads the file. False: there is none. */
bool mm_certificate_read(const char *path, struct mm_certificate_period *out);

#endif
