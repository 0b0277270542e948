/* What librdkafka says of its settings: each property by itself, so that none hides another, then
 * all of them together in a producer that is given no address. */
#include "check.h"

#include "mm_error.h"
#include "mm_kafka.h"
#include "mm_property.h"
#include "mm_text.h"

#include <librdkafka/rdkafka.h>
#include <string.h>

/* Its words may hold the value, which is not for everybody when it is a secret. */
static void check_property(const struct mm_config_property *property, struct findings *f)
{
    char reason[256] = "";
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    if (conf != NULL && rd_kafka_conf_set(conf, property->name, property->value, reason,
                                          sizeof reason) != RD_KAFKA_CONF_OK) {
        const bool secret = mm_property_is_secret(property->name);
        findings_add(
            f, MM_LOG_ERROR, property->place, "option " MM_PROPERTY_PREFIX "%s: %s", property->name,
            secret || reason[0] == '\0' ? "the Kafka client does not accept this value" : reason);
    }
    if (conf != NULL) {
        rd_kafka_conf_destroy(conf);
    }
}

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

void check_client(const struct settings *s, bool form_only, struct findings *f)
{
    const struct mm_config *config = settings_best(s);
    if (config == NULL) {
        return;
    }
    const size_t n_errors = f->n_errors;
    for (size_t i = 0; i < config->n_properties; i++) {
        check_property(&config->properties[i], f);
    }
    if (f->n_errors == n_errors && !form_only) {
        check_together(s, config, f);
    }
}
