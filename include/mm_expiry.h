/* mm_expiry.h - says in time that our own certificate runs out.
 *
 * Of settings: kafka_tls_cert_file, or rdkafka.ssl.certificate.location. From MM_EXPIRY_SOON_DAYS
 * before the end on there is a line a day. (metamorphosis check-config looks at the other files,
 * too.)
 *
 * Thread: one at a time. */
#ifndef MM_EXPIRY_H
#define MM_EXPIRY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mm_config;

/* A certificate that ends sooner is told of. */
#define MM_EXPIRY_SOON_DAYS 30

/* All zero: nothing was looked at. */
struct mm_expiry
{
    const char *option; /* static: which names the file */
    int64_t end_s;      /* since the epoch; 0: there is no certificate, or none that can be read */
    int64_t told_s;     /* when a line told of this end; 0: never */
};

/* Look at the certificate of these settings. Reads its file. */
void mm_expiry_read(struct mm_expiry *e, const struct mm_config *config);

/* Is there something to say? dst: the line. */
bool mm_expiry_line(struct mm_expiry *e, int64_t now_s, char *dst, size_t dst_len);

#endif
