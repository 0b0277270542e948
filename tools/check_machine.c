/* What this machine has to say: asked of the system as the user that the broker runs as. */
#include "as_user.h"
#include "check.h"
#include "human.h"
#include "mm_options.h"
#include "mm_property.h"
#include "mm_text.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <netinet/in.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* As the spool has it (spool_min_free auto), and the room for two files, below which it is full. */
#define MIN_FREE_PART 20
#define MIN_FREE_MAX (UINT64_C(1024) * 1024 * 1024)
#define TWO_FILES (UINT64_C(16) * 1024 * 1024)

struct machine
{
    const struct settings *s;
    const struct mm_config *config;
    const char *user; /* who tries */
    struct findings *f;
};

/* The directory on the way to a path that lets nobody like us through; false: it is not one. */
static bool find_barrier(const char *path, char *dst, size_t dst_len)
{
    for (const char *slash = strchr(path + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        const size_t len = (size_t)(slash - path);
        if (len >= dst_len) {
            return false;
        }
        memcpy(dst, path, len);
        dst[len] = '\0';
        if (faccessat(AT_FDCWD, dst, X_OK, AT_EACCESS) != 0) {
            return true;
        }
    }
    return false;
}

/* Why the system refused a path, in words: errno is set. */
static const char *explain(const struct machine *m, const char *path, char *dst, size_t dst_len)
{
    const int err = errno;
    char barrier[PATH_MAX];
    if ((err == EACCES || err == ENOENT) && find_barrier(path, barrier, sizeof barrier)) {
        snprintf(
            dst, dst_len,
            err == EACCES ? "the directory \"%s\" does not let user %s in" : "there is no \"%s\"",
            barrier, m->user);
    } else {
        snprintf(dst, dst_len, "%s, as user %s", strerror(err), m->user);
    }
    return dst;
}

/* A file that has to be there and readable. */
static void check_file(const struct machine *m,
                       const char *option,
                       const char *path,
                       struct mm_place place,
                       bool secret)
{
    char why[PATH_MAX + 64];
    char shown[MM_LOG_LINE_LEN / 2];
    struct stat st;
    mm_printable(path, strlen(path), shown, sizeof shown);
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0) {
        findings_add(m->f, MM_LOG_ERROR, place, "option %s: \"%s\" cannot be read: %s", option,
                     shown, explain(m, path, why, sizeof why));
        return;
    }
    if (fstat(fd, &st) == 0 && secret && (st.st_mode & S_IROTH) != 0) {
        findings_add(m->f, MM_LOG_WARN, place,
                     "option %s: everybody can read the secret in \"%s\" (mode %04o); take the "
                     "right away with chmod o-r",
                     option, shown, (unsigned)st.st_mode & 07777);
    }
    close(fd);
}

/* What is in it, and who else can read it, the parser has judged. */
static void check_option_file(void *arg, const char *option, const char *path)
{
    const struct machine *m = arg;
    check_file(m, option, path, settings_place(m->s, option), false);
}

static void check_files(const struct machine *m)
{
    const struct mosquitto_plugin *plugin = m->s->plugin;
    if (plugin != NULL && strchr(plugin->path, '/') != NULL) {
        char shown[MM_LOG_LINE_LEN / 2];
        char why[PATH_MAX + 64];
        mm_printable(plugin->path, strlen(plugin->path), shown, sizeof shown);
        if (faccessat(AT_FDCWD, plugin->path, R_OK, AT_EACCESS) != 0) {
            findings_add(m->f, MM_LOG_ERROR, plugin->place, "plugin \"%s\" cannot be loaded: %s",
                         shown, explain(m, plugin->path, why, sizeof why));
        }
    }
    if (m->config->config_file != NULL) {
        check_file(m, "config_file", m->config->config_file, settings_place(m->s, "config_file"),
                   false); /* its secrets are the parser's affair */
    }
    mm_config_files(m->config, check_option_file, (void *)m);
    for (size_t i = 0; i < m->config->n_properties; i++) {
        const struct mm_config_property *property = &m->config->properties[i];
        bool secret;
        if (mm_property_names_file(property->name, &secret)) {
            char option[MM_PROPERTY_MAX_LEN + sizeof MM_PROPERTY_PREFIX];
            snprintf(option, sizeof option, MM_PROPERTY_PREFIX "%s", property->name);
            check_file(m, option, property->value, property->place, secret);
        }
    }
}

/* --- the spool ----------------------------------------------------------------------------------
 */

static uint64_t n_used; /* by count_file(), which has no other place for it */

static int count_file(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)path;
    (void)ftw;
    n_used += type == FTW_F ? (uint64_t)st->st_blocks * 512 : 0;
    return 0;
}

/* dir: of the spool, or the one above it. */
static void check_space(const struct machine *m, const char *dir, struct mm_place place)
{
    struct statvfs fs;
    if (statvfs(dir, &fs) != 0) {
        return; /* the directory itself has been told of */
    }
    const uint64_t total = (uint64_t)fs.f_blocks * fs.f_frsize;
    const uint64_t free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
    uint64_t min_free = m->config->spool_min_free;
    if (min_free == UINT64_MAX) {
        min_free = total / MIN_FREE_PART < MIN_FREE_MAX ? total / MIN_FREE_PART : MIN_FREE_MAX;
    }
    n_used = 0;
    if (strcmp(dir, m->config->spool_dir) == 0) {
        (void)nftw(dir, count_file, 16, FTW_PHYS);
    }
    char free_text[HUMAN_LEN];
    char min_text[HUMAN_LEN];
    char room_text[HUMAN_LEN];
    char limit_text[HUMAN_LEN];
    const uint64_t left = free_bytes > min_free ? free_bytes - min_free : 0;
    human_bytes(free_bytes, free_text);
    human_bytes(min_free, min_text);
    human_bytes(left + n_used, room_text);
    human_bytes(m->config->spool_max_bytes, limit_text);
    if (left < TWO_FILES) {
        findings_add(m->f, MM_LOG_ERROR, place,
                     "option spool_dir: the spool is full at once: its file system has %s free, of "
                     "which spool_min_free leaves %s to others",
                     free_text, min_text);
    } else if (left + n_used < m->config->spool_max_bytes) {
        findings_add(
            m->f, MM_LOG_WARN, place,
            "option spool_dir: the spool is full with %s, not with spool_max_bytes %s: its "
            "file system has %s free, of which spool_min_free leaves %s to others",
            room_text, limit_text, free_text, min_text);
    }
}

static const char *owner_of(const struct stat *st)
{
    const struct passwd *pw = getpwuid(st->st_uid);
    return pw != NULL ? pw->pw_name : "somebody unknown here";
}

static void check_spool(const struct machine *m)
{
    const char *dir = m->config->spool_dir;
    if (dir == NULL) {
        return;
    }
    const struct mm_place place = settings_place(m->s, "spool_dir");
    char shown[MM_LOG_LINE_LEN / 2];
    char why[PATH_MAX + 64];
    char above[PATH_MAX];
    struct stat st;
    mm_printable(dir, strlen(dir), shown, sizeof shown);
    if (stat(dir, &st) == 0) {
        if (!S_ISDIR(st.st_mode)) {
            findings_add(m->f, MM_LOG_ERROR, place,
                         "option spool_dir: \"%s\" is a file; expected a directory", shown);
        } else if (faccessat(AT_FDCWD, dir, R_OK | W_OK | X_OK, AT_EACCESS) != 0) {
            findings_add(m->f, MM_LOG_ERROR, place,
                         "option spool_dir: \"%s\" belongs to %s (mode %04o), and user %s cannot "
                         "write there",
                         shown, owner_of(&st), (unsigned)st.st_mode & 07777, m->user);
        } else {
            check_space(m, dir, place);
        }
        return;
    }
    if (errno != ENOENT) {
        findings_add(m->f, MM_LOG_ERROR, place, "option spool_dir: \"%s\" cannot be opened: %s",
                     shown, explain(m, dir, why, sizeof why));
        return;
    }
    /* The plugin makes it, but not those above it. */
    snprintf(above, sizeof above, "%s", dir);
    for (size_t len = strlen(above); len > 1 && above[len - 1] == '/';) {
        above[--len] = '\0';
    }
    char *slash = strrchr(above, '/');
    slash[slash == above ? 1 : 0] = '\0';
    if (faccessat(AT_FDCWD, above, W_OK | X_OK, AT_EACCESS) != 0) {
        findings_add(m->f, MM_LOG_ERROR, place,
                     "option spool_dir: \"%s\" cannot be made: %s; the directory above has to be "
                     "there and to be writable for user %s",
                     shown, strerror(errno), m->user);
    } else {
        check_space(m, above, place);
    }
}

/* --- the port -----------------------------------------------------------------------------------
 */

/* Try an address as the HTTP server will. Returns 0 or an errno. */
static int try_bind(const char *address, uint16_t port)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    const bool is_v4 = inet_pton(AF_INET, address, &v4.sin_addr) == 1;
    const int one = 1;
    if (!is_v4 && inet_pton(AF_INET6, address, &v6.sin6_addr) != 1) {
        return EINVAL;
    }
    const int fd = socket(is_v4 ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return errno;
    }
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    const struct sockaddr *addr = is_v4 ? (const void *)&v4 : (const void *)&v6;
    const int err =
        bind(fd, addr, is_v4 ? sizeof v4 : sizeof v6) != 0 || listen(fd, 1) != 0 ? errno : 0;
    close(fd);
    return err;
}

static void check_port(const struct machine *m)
{
    const struct mm_config *config = m->config;
    if (config->health_port == 0) {
        return;
    }
    const int err = try_bind(config->health_address, config->health_port);
    if (err == EADDRINUSE) {
        findings_add(m->f, MM_LOG_WARN, settings_place(m->s, "health_port"),
                     "option health_port: port %u of %s is taken: by a running broker with these "
                     "settings, or by another program, and then the broker does not start",
                     config->health_port, config->health_address);
    } else if (err == EADDRNOTAVAIL) {
        findings_add(m->f, MM_LOG_ERROR, settings_place(m->s, "health_address"),
                     "option health_address: \"%s\" is no address of this machine",
                     config->health_address);
    } else if (err != 0) {
        findings_add(m->f, MM_LOG_ERROR, settings_place(m->s, "health_port"),
                     "option health_port: port %u of %s cannot be used: %s, as user %s",
                     config->health_port, config->health_address, strerror(err), m->user);
    }
}

/* --- all of it ----------------------------------------------------------------------------------
 */

/* There is no such user. Mosquitto then runs as nobody, if none was asked for. */
static void tell_no_user(const struct settings *s, const char *user, struct findings *f)
{
    const bool asked = s->conf != NULL && s->conf->user.text != NULL &&
                       strcmp(user, s->conf->user.text) == 0 && strcmp(user, "mosquitto") != 0;
    findings_add(
        f, asked ? MM_LOG_ERROR : MM_LOG_WARN, asked ? s->conf->user.place : findings_nowhere,
        "there is no user \"%s\" on this machine: paths and rights are not looked at", user);
}

void check_machine(const struct settings *s, const char *user, struct findings *f)
{
    const struct mm_config *config = settings_best(s);
    struct as_user as_user;
    if (config == NULL) {
        return;
    }
    if (getpwnam(user) == NULL) {
        tell_no_user(s, user, f);
        return;
    }
    if (!as_user_begin(user, &as_user)) {
        findings_add(f, MM_LOG_WARN, findings_nowhere,
                     "paths and rights are not looked at: this process cannot be user %s", user);
        return;
    }
    char name[64]; /* a copy: the system has one place for all */
    const struct passwd *me = getpwuid(geteuid());
    snprintf(name, sizeof name, "%s", me != NULL ? me->pw_name : user);
    const struct machine m = {.s = s, .config = config, .user = name, .f = f};
    if (strcmp(m.user, user) != 0) {
        findings_add(f, MM_LOG_INFO, findings_nowhere,
                     "rights were tried as user %s, who runs this, not as user %s", m.user, user);
    }
    check_files(&m);
    check_spool(&m);
    check_port(&m);
    as_user_end(&as_user);
}
