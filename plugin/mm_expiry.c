#include "mm_expiry.h"

#include "mm_certificate.h"
#include "mm_config.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#define DAY_S INT64_C(86400)
#define SOON_S (MM_EXPIRY_SOON_DAYS * DAY_S)

/* The file that librdkafka reads our certificate from. NULL: there is none. */
static const char *find_file(const struct mm_config *config, const char **option)
{
    static const char property[] = "ssl.certificate.location";
    *option = "kafka_tls_cert_file";
    if (config->security.tls_cert_file != NULL) {
        return config->security.tls_cert_file;
    }
    const struct mm_config_property *found = mm_config_find_property(config, property);
    if (found != NULL) {
        *option = "rdkafka.ssl.certificate.location";
        return found->value;
    }
    return NULL;
}

void mm_expiry_read(struct mm_expiry *e, const struct mm_config *config)
{
    struct mm_certificate_period period;
    const char *option;
    const char *file = find_file(config, &option);
    int64_t end_s = 0;
    if (file != NULL && mm_certificate_read(file, &period)) {
        end_s = period.end_s > 0 ? period.end_s : 1; /* before 1970: long ago */
    }
    if (end_s != e->end_s) {
        *e = (struct mm_expiry){.option = option, .end_s = end_s};
    }
}

bool mm_expiry_line(struct mm_expiry *e, int64_t now_s, char *dst, size_t dst_len)
{
    const int64_t left_s = e->end_s - now_s;
    const int64_t since_s = now_s - e->told_s; /* less than 0: the clock was set back */
    if (e->end_s == 0 || left_s >= SOON_S ||
        (e->told_s != 0 && since_s < DAY_S && since_s > -DAY_S)) {
        return false;
    }
    e->told_s = now_s;
    char date[32] = "?";
    struct tm tm;
    const time_t end = (time_t)e->end_s;
    if (gmtime_r(&end, &tm) != NULL) {
        strftime(date, sizeof date, "%Y-%m-%d", &tm);
    }
    const long long days = left_s / DAY_S;
    if (left_s < 0) {
        snprintf(dst, dst_len, "our certificate (%s) has expired, on %s", e->option, date);
    } else {
        snprintf(dst, dst_len, "our certificate (%s) expires on %s, in %lld day%s", e->option, date,
                 days, days == 1 ? "" : "s");
    }
    const size_t len = strlen(dst);
    snprintf(dst + len, dst_len - len, "; what is renewed is used without a restart");
    return true;
}
