/* Any bytes as a mosquitto.conf: read to its end, whatever stands there; an option belongs to a
 * plugin, has a value, and stands behind the plugin's line. */
#include "../../tools/mosquitto_conf.h"

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool good)
{
    if (!good) {
        abort();
    }
}

static void check_plugin(const struct mosquitto_plugin *plugin)
{
    check(plugin->path != NULL && plugin->path[0] != '\0' && plugin->place.line > 0);
    check((plugin->kind == PLUGIN_LOAD) == (plugin->name != NULL));
    for (size_t i = 0; i < plugin->n_options; i++) {
        check(strlen(plugin->options[i].name) >= 3 && plugin->options[i].value[0] != '\0');
        check(strchr(plugin->options[i].name, ' ') == NULL);
        check(plugin->places[i].line > plugin->place.line);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct findings findings = {0};
    struct mosquitto_conf *conf = NULL;
    mosquitto_conf_parse((const char *)data, size, "m.conf", &findings, &conf);
    (void)mosquitto_conf_is_one((const char *)data, size);
    if (conf != NULL) {
        for (size_t i = 0; i < conf->n_plugins; i++) {
            check_plugin(&conf->plugins[i]);
        }
    }
    check(findings.n >= findings.n_errors + findings.n_warnings);
    findings_sort(&findings);
    findings_free(&findings);
    mosquitto_conf_free(conf);
    return 0;
}
