/* What librdkafka says of its settings together, in a producer that is given no address. Of each by
 * itself the parser has asked it. */
#include "check.h"

#include "mm_error.h"
#include "mm_kafka.h"
#include "mm_property.h"
#include "mm_text.h"
#include "mm_trouble.h"

#include <string.h>

static void ignore_report(void *arg, const struct mm_kafka_report *report)
{
    (void)arg;
    (void)report;
}

/* Where the option stands that a text begins with. */
static struct mm_place place_of(const struct settings *s, const char *text)
{
    static const char prefix[] = "option ";
    char name[MM_PROPERTY_MAX_LEN + sizeof MM_PROPERTY_PREFIX];
    if (strncmp(text, prefix, strlen(prefix)) != 0) {
        return findings_nowhere;
    }
    text += strlen(prefix);
    const size_t len = strcspn(text, ": ");
    if (len >= sizeof name) {
        return findings_nowhere;
    }
    memcpy(name, text, len);
    name[len] = '\0';
    return settings_place(s, name);
}

/* Make the producer that the plugin would make, but let it talk to nobody. */
static void check_together(const struct settings *s,
                           const struct mm_config *config,
                           struct findings *f)
{
    static char nowhere[] = "";
    struct mm_config lonely = *config;
    lonely.kafka_bootstrap = nowhere;
    const struct mm_kafka_options opts = {.config = &lonely, .on_report = ignore_report};
    struct mm_kafka *kafka = NULL;
    char errstr[MM_LOG_LINE_LEN];
    if (mm_kafka_new(&opts, &kafka, errstr, sizeof errstr) != 0) {
        findings_add(f, MM_LOG_ERROR, place_of(s, errstr), "%s", errstr);
    }
    mm_kafka_close(kafka, 0);
}

/* A fault of the librdkafka that runs here, and perhaps with the broker. */
static void tell_fault(void *arg, const char *line)
{
    findings_add(arg, MM_LOG_INFO, findings_nowhere, "%s", line);
}

void check_client(const struct settings *s, struct findings *f)
{
    const struct mm_config *config = settings_best(s);
    if (config != NULL) {
        check_together(s, config, f);
        mm_trouble_client_faults(mm_kafka_version_number(), mm_config_uses_scram(config),
                                 tell_fault, f);
    }
}
