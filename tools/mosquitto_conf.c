#include "mosquitto_conf.h"

#include "mm_options.h"
#include "mm_text.h"
#include "text_file.h"

#include <dirent.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Every option of Mosquitto 2.0 and 2.1 but those of plugins, in order. */
/* clang-format off */
static const char *const known_names[] = {
    "accept_protocol_versions", "acl_file", "address", "addresses", "allow_anonymous",
    "allow_duplicate_messages", "allow_zero_length_clientid", "auth_plugin",
    "auth_plugin_deny_special_chars", "auto_id_prefix", "autosave_interval",
    "autosave_on_changes", "bind_address", "bind_interface", "bridge_alpn",
    "bridge_attempt_unsubscribe", "bridge_bind_address", "bridge_cafile", "bridge_capath",
    "bridge_certfile", "bridge_ciphers", "bridge_identity", "bridge_insecure", "bridge_keyfile",
    "bridge_max_packet_size", "bridge_max_topic_alias", "bridge_outgoing_retain",
    "bridge_protocol_version", "bridge_psk", "bridge_receive_maximum", "bridge_reload_type",
    "bridge_require_ocsp", "bridge_session_expiry_interval", "bridge_tcp_keepalive",
    "bridge_tcp_user_timeout", "bridge_tls_use_os_certs", "bridge_tls_version", "cafile",
    "capath", "certfile", "check_retain_source", "ciphers", "ciphers_tls1.3", "cleansession",
    "clientid", "clientid_prefixes", "connection", "connection_messages", "crlfile",
    "dhparamfile", "disable_client_cert_date_checks", "enable_control_api",
    "enable_proxy_protocol", "global_max_clients", "global_max_connections", "global_plugin",
    "http_api", "http_dir", "idle_timeout", "include_dir", "keepalive_interval", "keyfile",
    "listener", "listener_allow_anonymous", "listener_auto_id_prefix", "local_cleansession",
    "local_clientid", "local_password", "local_username", "log_dest", "log_facility",
    "log_timestamp", "log_timestamp_format", "log_type", "max_connections", "max_inflight_bytes",
    "max_inflight_messages", "max_keepalive", "max_packet_size", "max_qos", "max_queued_bytes",
    "max_queued_messages", "max_topic_alias", "max_topic_alias_broker", "maximum_qos",
    "memory_limit", "message_size_limit", "mount_point", "notification_topic", "notifications",
    "notifications_local_only", "packet_buffer_size", "password", "password_file",
    "per_listener_settings", "persistence", "persistence_file", "persistence_location",
    "persistent_client_expiration", "pid_file", "plugin", "plugin_load", "plugin_use", "port",
    "protocol", "proxy_protocol_v2_require_tls", "psk_file", "psk_hint", "queue_qos0_messages",
    "remote_clientid", "remote_password", "remote_username", "require_certificate",
    "restart_timeout", "retain_available", "retain_expiry_interval", "retained_persistence",
    "retry_interval", "round_robin", "set_tcp_nodelay", "socket_domain", "start_type",
    "sys_interval", "threshold", "tls_engine", "tls_engine_kpass_sha1", "tls_keyform",
    "tls_version", "topic", "try_private", "upgrade_outgoing_qos", "use_identity_as_username",
    "use_subject_as_username", "use_username_as_clientid", "user", "username",
    "websockets_headers_size", "websockets_log_level", "websockets_origin",
};
/* clang-format on */

/* Names of those that make a file one of the broker's. The plugin's own options have none of these
 * names. */
static bool is_known(const char *name)
{
    size_t low = 0;
    size_t high = sizeof known_names / sizeof known_names[0];
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        const int order = strcmp(name, known_names[middle]);
        if (order == 0) {
            return true;
        }
        if (order < 0) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return false;
}

/* A file that is being read. What the broker keeps for each file anew. */
struct reader
{
    struct mosquitto_conf *conf;
    struct findings *findings;
    struct mm_place place;
    size_t level;      /* 0: the main file; 1: one that it includes */
    bool includes;     /* are other files read? */
    size_t plugin;     /* whose options follow; conf->n_plugins or above: none */
    bool has_listener; /* a listener line was read */
    bool out_of_memory;
};

#define NO_PLUGIN SIZE_MAX

static void add_error(struct reader *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void add_error(struct reader *r, const char *fmt, ...)
{
    char text[MM_LOG_LINE_LEN];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    findings_add(r->findings, MM_LOG_ERROR, r->place, "%s", text);
}

static char *copy(struct reader *r, const char *text)
{
    char *own = strdup(text);
    r->out_of_memory = r->out_of_memory || own == NULL;
    return own;
}

/* Room for one more behind n items, where n grows by one each time. NULL: no memory; what there
 * was is as before. */
static void *grow(struct reader *r, void *items, size_t n, size_t size)
{
    if ((n & (n - 1)) != 0) {
        return items;
    }
    void *grown = realloc(items, (n > 0 ? 2 * n : 1) * size);
    r->out_of_memory = r->out_of_memory || grown == NULL;
    return grown;
}

/* --- the lines of a plugin ----------------------------------------------------------------------
 */

static void add_plugin(struct reader *r, enum plugin_kind kind, char *name, const char *path)
{
    struct mosquitto_conf *conf = r->conf;
    struct mosquitto_plugin *plugins = grow(r, conf->plugins, conf->n_plugins, sizeof *plugins);
    if (plugins == NULL) {
        free(name);
        return;
    }
    conf->plugins = plugins;
    r->plugin = conf->n_plugins++;
    plugins[r->plugin] = (struct mosquitto_plugin){
        .kind = kind,
        .place = r->place,
        .path = copy(r, path),
        .name = name,
        .below_listener = r->has_listener,
    };
}

/* plugin_load NAME PATH */
static void load_plugin(struct reader *r, char *value)
{
    char *path = value + strcspn(value, " ");
    if (path[strspn(path, " ")] == '\0') {
        add_error(r, "plugin_load has no path: expected plugin_load <name> <path>");
        r->plugin = NO_PLUGIN;
        return;
    }
    *path++ = '\0';
    add_plugin(r, PLUGIN_LOAD, copy(r, value), path + strspn(path, " "));
}

static void use_plugin(struct reader *r, const char *name)
{
    for (size_t i = 0; i < r->conf->n_plugins; i++) {
        struct mosquitto_plugin *plugin = &r->conf->plugins[i];
        if (plugin->name != NULL && strcmp(plugin->name, name) == 0) {
            plugin->in_use = true;
            r->plugin = i;
            return;
        }
    }
    char shown[MM_PRINTABLE_LEN];
    add_error(r, "plugin_use: no plugin_load before this names a plugin \"%s\"",
              mm_printable(name, strlen(name), shown, sizeof shown));
}

/* The broker takes no shorter ones. */
#define MIN_KEY_LEN 3

static void add_option(struct reader *r, const char *keyword, const char *key, const char *value)
{
    char shown[MM_PRINTABLE_LEN];
    mm_printable(keyword, strlen(keyword), shown, sizeof shown);
    if (r->plugin >= r->conf->n_plugins) {
        add_error(r, "%s stands behind no plugin line of this file: the broker does not start",
                  shown);
        return;
    }
    struct mosquitto_plugin *plugin = &r->conf->plugins[r->plugin];
    if (strlen(key) < MIN_KEY_LEN) {
        add_error(r, "%s: Mosquitto takes no option with a name of less than %d characters", shown,
                  MIN_KEY_LEN);
        return;
    }
    if (value[0] == '\0') {
        add_error(r, "%s has no value: the broker does not start", shown);
        return;
    }
    if (plugin->others_included && !plugin->told_of_include) {
        plugin->told_of_include = true;
        add_error(r,
                  "%s: an include_dir with other plugins stands between this and its plugin line: "
                  "Mosquitto 2.0 loses the option or crashes; move the include_dir",
                  shown);
    }
    const size_t n = plugin->n_options;
    struct mm_option *options = grow(r, plugin->options, n, sizeof *options);
    if (options == NULL) {
        return;
    }
    plugin->options = options;
    struct mm_place *places = grow(r, plugin->places, n, sizeof *places);
    if (places == NULL) {
        return;
    }
    plugin->places = places;
    plugin->options[n] = (struct mm_option){.name = copy(r, key), .value = copy(r, value)};
    plugin->places[n] = r->place;
    plugin->n_options++;
}

/* --- other lines --------------------------------------------------------------------------------
 */

static void set_value(struct reader *r, struct mosquitto_value *dst, const char *value)
{
    free(dst->text);
    *dst = (struct mosquitto_value){.place = r->place, .text = copy(r, value)};
}

static void read_file(struct mosquitto_conf *conf,
                      struct findings *findings,
                      const char *path,
                      struct mm_place included_at,
                      size_t level,
                      bool *out_of_memory);

static int compare_names(const void *a, const void *b)
{
    return strcasecmp(*(char *const *)a, *(char *const *)b);
}

/* As the broker chooses them. */
static bool is_included(const char *name)
{
    static const char suffix[] = ".conf";
    const size_t len = strlen(name);
    return len > strlen(suffix) && strcmp(name + len - strlen(suffix), suffix) == 0;
}

/* The paths of the files of a directory that are included, in their order. */
static char **list_dir(struct reader *r, DIR *dir, const char *path, size_t *n)
{
    char **paths = NULL;
    *n = 0;
    for (struct dirent *entry = readdir(dir); entry != NULL; entry = readdir(dir)) {
        char *file = NULL;
        if (!is_included(entry->d_name)) {
            continue;
        }
        char **grown = grow(r, paths, *n, sizeof *paths);
        if (grown == NULL || asprintf(&file, "%s/%s", path, entry->d_name) < 0) {
            r->out_of_memory = true;
            paths = grown != NULL ? grown : paths;
            break;
        }
        paths = grown;
        paths[(*n)++] = file;
    }
    if (*n > 0) {
        qsort(paths, *n, sizeof *paths, compare_names);
    }
    return paths;
}

static void include_dir(struct reader *r, const char *path)
{
    char shown[MM_LOG_LINE_LEN / 2];
    if (!r->includes) {
        return;
    }
    if (r->level > 0) {
        findings_add(r->findings, MM_LOG_ERROR, r->place,
                     "include_dir in an included file: Mosquitto 2.0 passes over it, 2.1 does not "
                     "start");
        return;
    }
    DIR *dir = opendir(path);
    if (dir == NULL) {
        add_error(r, "include_dir: \"%s\" cannot be read: %s",
                  mm_printable(path, strlen(path), shown, sizeof shown), strerror(errno));
        return;
    }
    size_t n = 0;
    char **paths = list_dir(r, dir, path, &n);
    closedir(dir);
    const size_t n_plugins = r->conf->n_plugins;
    for (size_t i = 0; i < n; i++) {
        read_file(r->conf, r->findings, paths[i], r->place, 1, &r->out_of_memory);
        free(paths[i]);
    }
    free(paths);
    if (r->conf->n_plugins > n_plugins && r->plugin < n_plugins) {
        r->conf->plugins[r->plugin].others_included = true;
    }
}

static void name_unknown(struct reader *r, const char *keyword)
{
    char shown[MM_PRINTABLE_LEN];
    mm_printable(keyword, strlen(keyword), shown, sizeof shown);
    if (keyword[0] == '#') {
        add_error(r,
                  "a comment has its # in the first column; Mosquitto takes \"%s\" for an option",
                  shown);
    } else if (strchr(keyword, '\t') != NULL) {
        add_error(r, "\"%s\": Mosquitto wants a blank behind a name, not a tab", shown);
    } else if (mm_option_find(keyword) != NULL) {
        add_error(r, "\"%s\" is no option of Mosquitto; did you mean plugin_opt_%s?", shown, shown);
    } else {
        findings_add(r->findings, MM_LOG_WARN, r->place,
                     "\"%s\" is no option of Mosquitto 2.0 or 2.1, as far as is known here: the "
                     "broker may not start",
                     shown);
    }
}

/* Take a line whose name and value were parted. */
static void take_setting(struct reader *r, char *keyword, char *value)
{
    struct mosquitto_conf *conf = r->conf;
    if (strncmp(keyword, "plugin_opt_", strlen("plugin_opt_")) == 0 &&
        strchr(keyword, '\t') == NULL) {
        add_option(r, keyword, keyword + strlen("plugin_opt_"), value);
        return;
    }
    if (strncmp(keyword, "auth_opt_", strlen("auth_opt_")) == 0 && strchr(keyword, '\t') == NULL) {
        add_option(r, keyword, keyword + strlen("auth_opt_"), value);
        return;
    }
    if (!is_known(keyword)) {
        name_unknown(r, keyword);
    } else if (value[0] == '\0') {
        add_error(r, "%s has no value: the broker does not start", keyword);
    } else if (strcmp(keyword, "plugin") == 0 || strcmp(keyword, "auth_plugin") == 0) {
        add_plugin(r, PLUGIN_LINE, NULL, value);
    } else if (strcmp(keyword, "global_plugin") == 0) {
        add_plugin(r, PLUGIN_GLOBAL, NULL, value);
    } else if (strcmp(keyword, "plugin_load") == 0) {
        load_plugin(r, value);
    } else if (strcmp(keyword, "plugin_use") == 0) {
        use_plugin(r, value);
    } else if (strcmp(keyword, "listener") == 0) {
        r->has_listener = true;
    } else if (strcmp(keyword, "include_dir") == 0) {
        include_dir(r, value);
    } else if (strcmp(keyword, "user") == 0) {
        set_value(r, &conf->user, value);
    } else if (strcmp(keyword, "per_listener_settings") == 0) {
        set_value(r, &conf->per_listener_settings, value);
    } else if (strcmp(keyword, "message_size_limit") == 0) {
        set_value(r, &conf->message_size_limit, value);
    } else if (strcmp(keyword, "max_packet_size") == 0) {
        set_value(r, &conf->max_packet_size, value);
    }
}

/* Part a line, which ends in a NUL, in place. False: there is nothing in it. */
static bool split_line(char *line, char **keyword, char **value)
{
    size_t len = strlen(line);
    while (len > 0 && line[len - 1] == '\r') {
        line[--len] = '\0';
    }
    if (line[0] == '#') {
        return false;
    }
    *keyword = line + strspn(line, " ");
    if ((*keyword)[0] == '\0') {
        return false;
    }
    char *end = strchr(*keyword, ' ');
    if (end == NULL) {
        *value = line + len;
        return true;
    }
    *end = '\0';
    *value = end + 1 + strspn(end + 1, " \t");
    return true;
}

static void take_text(struct reader *r, char *text, size_t len)
{
    char *const end = text + len;
    while (text < end && !r->out_of_memory) {
        char *keyword = NULL;
        char *value = NULL;
        char *next = memchr(text, '\n', (size_t)(end - text));
        next = next != NULL ? next : end;
        r->place.line++;
        if (memchr(text, '\0', (size_t)(next - text)) != NULL) {
            add_error(r, "the line has a NUL byte");
        } else {
            *next = '\0';
            if (split_line(text, &keyword, &value)) {
                take_setting(r, keyword, value);
            }
        }
        text = next + 1;
    }
}

static const char *add_file(struct mosquitto_conf *conf, const char *path)
{
    char **files = realloc(conf->files, (conf->n_files + 1) * sizeof *files);
    if (files == NULL) {
        return NULL;
    }
    conf->files = files;
    files[conf->n_files] = strdup(path);
    return files[conf->n_files] != NULL ? files[conf->n_files++] : NULL;
}

static void read_file(struct mosquitto_conf *conf,
                      struct findings *findings,
                      const char *path,
                      struct mm_place included_at,
                      size_t level,
                      bool *out_of_memory)
{
    size_t len = 0;
    const char *why = "";
    const char *own_path = add_file(conf, path);
    char *text = text_file_read(path, &len, &why);
    if (own_path == NULL) {
        *out_of_memory = true;
    } else if (text == NULL) {
        char shown[MM_LOG_LINE_LEN / 2];
        findings_add(findings, MM_LOG_ERROR, included_at, "\"%s\" cannot be read: %s",
                     mm_printable(path, strlen(path), shown, sizeof shown), why);
    } else {
        struct reader r = {.conf = conf,
                           .findings = findings,
                           .place = {.file = own_path, .line = 0},
                           .level = level,
                           .includes = true,
                           .plugin = NO_PLUGIN};
        take_text(&r, text, len);
        *out_of_memory = *out_of_memory || r.out_of_memory;
    }
    free(text);
}

/* Hand over what was read, or tell that it could not be. */
static void finish(struct mosquitto_conf *conf,
                   struct findings *findings,
                   bool out_of_memory,
                   struct mosquitto_conf **out)
{
    if (out_of_memory) {
        findings_add(findings, MM_LOG_ERROR, findings_nowhere, "not enough memory");
        mosquitto_conf_free(conf);
        conf = NULL;
    }
    *out = conf;
}

void mosquitto_conf_read(const char *path, struct findings *findings, struct mosquitto_conf **out)
{
    struct mosquitto_conf *conf = calloc(1, sizeof *conf);
    bool out_of_memory = conf == NULL;
    if (conf != NULL) {
        read_file(conf, findings, path, findings_nowhere, 0, &out_of_memory);
    }
    finish(conf, findings, out_of_memory, out);
}

void mosquitto_conf_parse(const char *text,
                          size_t len,
                          const char *path,
                          struct findings *findings,
                          struct mosquitto_conf **out)
{
    struct mosquitto_conf *conf = calloc(1, sizeof *conf);
    char *own = malloc(len + 1);
    const char *own_path = conf != NULL ? add_file(conf, path) : NULL;
    bool out_of_memory = conf == NULL || own == NULL || own_path == NULL;
    if (!out_of_memory) {
        memcpy(own, text, len);
        own[len] = '\0';
        struct reader r = {.conf = conf,
                           .findings = findings,
                           .place = {.file = own_path, .line = 0},
                           .plugin = NO_PLUGIN};
        take_text(&r, own, len);
        out_of_memory = r.out_of_memory;
    }
    free(own);
    finish(conf, findings, out_of_memory, out);
}

bool mosquitto_conf_is_one(const char *text, size_t len)
{
    const char *const end = text + len;
    while (text < end) {
        char name[64];
        const char *next = memchr(text, '\n', (size_t)(end - text));
        next = next != NULL ? next : end;
        while (text < next && mm_is_blank(*text)) {
            text++;
        }
        size_t name_len = 0;
        while (text + name_len < next && !mm_is_blank(text[name_len])) {
            name_len++;
        }
        if (name_len > 0 && name_len < sizeof name) {
            memcpy(name, text, name_len);
            name[name_len] = '\0';
            if (is_known(name)) {
                return true;
            }
        }
        text = next + 1;
    }
    return false;
}

static void free_plugin(struct mosquitto_plugin *plugin)
{
    for (size_t i = 0; i < plugin->n_options; i++) {
        free((char *)plugin->options[i].name);
        free((char *)plugin->options[i].value);
    }
    free(plugin->options);
    free(plugin->places);
    free(plugin->name);
    free(plugin->path);
}

void mosquitto_conf_free(struct mosquitto_conf *conf)
{
    if (conf == NULL) {
        return;
    }
    for (size_t i = 0; i < conf->n_plugins; i++) {
        free_plugin(&conf->plugins[i]);
    }
    free(conf->plugins);
    for (size_t i = 0; i < conf->n_files; i++) {
        free(conf->files[i]);
    }
    free(conf->files);
    free(conf->user.text);
    free(conf->per_listener_settings.text);
    free(conf->message_size_limit.text);
    free(conf->max_packet_size.text);
    free(conf);
}
