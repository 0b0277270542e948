#include "check.h"

#include "mm_text.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Which listeners the plugin hears. */
static void check_listeners(const struct settings *s, struct findings *f)
{
    const struct mosquitto_value *per_listener = &s->conf->per_listener_settings;
    const struct mosquitto_plugin *plugin = s->plugin;
    if (plugin->kind == PLUGIN_LOAD && !plugin->in_use) {
        findings_add(f, MM_LOG_ERROR, plugin->place,
                     "plugin_load alone does nothing: no plugin_use below a listener names it; "
                     "global_plugin is for all listeners");
    }
    if (plugin->kind != PLUGIN_LINE || per_listener->text == NULL ||
        strcmp(per_listener->text, "true") != 0) {
        return;
    }
    if (plugin->below_listener) {
        findings_add(
            f, MM_LOG_WARN, plugin->place,
            "with per_listener_settings true (line %u) the plugin hears the listener above "
            "this line and no other, nor a bridge; on Mosquitto 2.1 global_plugin hears "
            "all",
            per_listener->place.line);
    } else {
        findings_add(
            f, MM_LOG_ERROR, plugin->place,
            "with per_listener_settings true (line %u) and no listener above this line, the "
            "plugin hears nothing on Mosquitto 2.0, and 2.1 does not start",
            per_listener->place.line);
    }
}

/* A number as the broker reads it. False: it is none. */
static bool read_limit(const struct mosquitto_value *value, uint64_t *out)
{
    char *end = NULL;
    errno = 0;
    if (value->text == NULL || !mm_is_digit(value->text[0])) {
        return false;
    }
    *out = strtoull(value->text, &end, 10);
    return errno == 0 && *end == '\0';
}

/* Messages that are turned away, or that Kafka will not take. */
static void check_sizes(const struct settings *s, struct findings *f)
{
    const struct mosquitto_conf *conf = s->conf;
    uint64_t limit = 0;
    if (read_limit(&conf->message_size_limit, &limit) && limit > 0) {
        findings_add(f, MM_LOG_WARN, conf->message_size_limit.place,
                     "message_size_limit %s: Mosquitto acknowledges what is larger to MQTT 3.1.1 "
                     "clients and throws it away, and the plugin never sees it; max_packet_size "
                     "closes the connection instead",
                     conf->message_size_limit.text);
    }
    if (settings_best(s) == NULL || !read_limit(&conf->max_packet_size, &limit)) {
        return;
    }
    const uint64_t most = settings_best(s)->max_message_bytes;
    if (limit > most) {
        findings_add(f, MM_LOG_WARN, conf->max_packet_size.place,
                     "max_packet_size %s lets in messages that are larger than the %" PRIu64
                     " bytes that "
                     "go to Kafka (max_message_bytes): they become dead letters",
                     conf->max_packet_size.text, most);
    }
}

void check_broker(const struct settings *s, struct findings *f)
{
    if (s->conf == NULL) {
        return;
    }
    if (s->plugin != NULL) {
        check_listeners(s, f);
    }
    check_sizes(s, f);
}
