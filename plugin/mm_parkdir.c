#include "mm_parkdir.h"

#include "mm_config.h"
#include "mm_error.h"
#include "mm_lanes.h"
#include "mm_route.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ROUTES_NAME "ROUTES"
#define ROUTES_NEW_NAME "ROUTES.new"

struct mm_parkdir
{
    char path[MM_PARKDIR_PATH_LEN - 256]; /* <spool_dir>/parked */
    char *spool_dir;
    char *routes; /* the present ones, as ROUTES has them */
    bool made;    /* the directory and ROUTES are there */
    struct mm_parkdir_log *logs;
    size_t n_logs;
    uint64_t max_age; /* of any log */
};

static int fail(const struct mm_parkdir *d, const char *what, char *errstr, size_t errstr_len)
{
    char reason[64];
    snprintf(errstr, errstr_len, "\"%s\": %s: %s", d->path, what,
             strerror_r(errno, reason, sizeof reason));
    return MM_EIO;
}

/* --- ROUTES -------------------------------------------------------------------------------------
 */

/* Does ROUTES say what the present routes are? A file that is not there, or not as long, does not.
 */
static bool same_routes(const struct mm_parkdir *d, int dir_fd)
{
    size_t len = strlen(d->routes);
    char *found = malloc(len + 1);
    int fd = openat(dir_fd, ROUTES_NAME, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    bool same = false;
    if (found != NULL && fd >= 0) {
        ssize_t n = read(fd, found, len + 1); /* a regular file: no short reads but at its end */
        same = n == (ssize_t)len && memcmp(found, d->routes, len) == 0;
    }
    if (fd >= 0) {
        close(fd);
    }
    free(found);
    return same;
}

static bool write_all(int fd, const char *text)
{
    size_t left = strlen(text);
    while (left > 0) {
        ssize_t n = write(fd, text, left);
        if (n < 0 && errno != EINTR) {
            return false;
        }
        text += n < 0 ? 0 : n;
        left -= n < 0 ? 0 : (size_t)n;
    }
    return true;
}

/* Write ROUTES, whole or not at all, also when the power fails. */
static int write_routes(const struct mm_parkdir *d, int dir_fd)
{
    int fd = openat(dir_fd, ROUTES_NEW_NAME, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW,
                    0600);
    if (fd < 0) {
        return MM_EIO;
    }
    bool good = write_all(fd, d->routes) && fsync(fd) == 0;
    int saved = errno;
    if (close(fd) != 0 && good) {
        saved = errno;
        good = false;
    }
    if (good && renameat(dir_fd, ROUTES_NEW_NAME, dir_fd, ROUTES_NAME) == 0 && fsync(dir_fd) == 0) {
        return 0;
    }
    errno = good ? errno : saved;
    return MM_EIO;
}

/* --- names --------------------------------------------------------------------------------------
 */

/* What a name says. False: it is not one of ours. */
static bool parse_name(const char *name, struct mm_parkdir_log *log)
{
    if (strlen(name) >= sizeof log->name) {
        return false;
    }
    memset(log, 0, sizeof *log);
    snprintf(log->name, sizeof log->name, "%s", name);
    snprintf(log->kafka_topic, sizeof log->kafka_topic, "%s", name);
    char *age = strchr(log->kafka_topic, '~');
    if (age != NULL) {
        *age++ = '\0';
        char *end;
        errno = 0;
        log->age = strtoull(age, &end, 10);
        if (*age < '1' || *age > '9' || *end != '\0' || errno != 0) {
            return false;
        }
    }
    return mm_route_is_kafka_topic(log->kafka_topic);
}

static bool is_directory(int dir_fd, const char *name)
{
    struct stat st;
    return fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode);
}

static int add_log(struct mm_parkdir *d, const struct mm_parkdir_log *log)
{
    struct mm_parkdir_log *grown = realloc(d->logs, (d->n_logs + 1) * sizeof *grown);
    if (grown == NULL) {
        return MM_ENOMEM;
    }
    d->logs = grown;
    d->logs[d->n_logs++] = *log;
    return 0;
}

/* Takes dir_fd. */
static int list_logs(struct mm_parkdir *d, int dir_fd)
{
    DIR *dir = fdopendir(dir_fd);
    if (dir == NULL) {
        close(dir_fd);
        return MM_EIO;
    }
    int err = 0;
    errno = 0;
    for (struct dirent *e; err == 0 && (e = readdir(dir)) != NULL; errno = 0) {
        struct mm_parkdir_log log;
        if (parse_name(e->d_name, &log) && is_directory(dirfd(dir), e->d_name)) {
            err = add_log(d, &log);
        }
    }
    err = err == 0 && errno != 0 ? MM_EIO : err;
    int saved = errno;
    closedir(dir);
    errno = saved;
    return err;
}

/* The oldest first; the rest only so that it is always the same order. */
static int compare_logs(const void *a, const void *b)
{
    const struct mm_parkdir_log *x = a;
    const struct mm_parkdir_log *y = b;
    return x->age != y->age ? (x->age < y->age) - (x->age > y->age)
                            : strcmp(x->kafka_topic, y->kafka_topic);
}

/* The lane that the present routes give a Kafka topic which they parked. False: they do not. */
static bool find_lane(const struct mm_config *config,
                      struct mm_lanes *lanes,
                      const char *kafka_topic,
                      uint32_t *lane)
{
    bool known = mm_route_n_possible(config) > mm_route_n_lanes(config);
    for (uint32_t i = 0; !known && i < mm_route_n_lanes(config); i++) {
        known = strcmp(mm_route_kafka_topic(config, i), kafka_topic) == 0;
    }
    return known && mm_lanes_get(lanes, kafka_topic, strlen(kafka_topic), lane) == 0;
}

/* The routes have changed: mark what was parked by those before. */
static int make_old(struct mm_parkdir *d,
                    int dir_fd,
                    const struct mm_config *config,
                    struct mm_lanes *lanes,
                    bool same,
                    char *errstr,
                    size_t errstr_len)
{
    uint64_t age = 0;
    for (size_t i = 0; i < d->n_logs; i++) {
        age = d->logs[i].age > age ? d->logs[i].age : age;
    }
    d->max_age = age;
    for (size_t i = 0; i < d->n_logs; i++) {
        struct mm_parkdir_log *log = &d->logs[i];
        if (log->age != 0 || (same && find_lane(config, lanes, log->kafka_topic, &log->lane))) {
            continue;
        }
        char name[sizeof log->name + 24];
        snprintf(name, sizeof name, "%s~%" PRIu64, log->kafka_topic, age + 1);
        if (strlen(name) >= sizeof log->name) {
            errno = ENAMETOOLONG;
            return fail(d, "a log cannot be renamed", errstr, errstr_len);
        }
        if (renameat(dir_fd, log->name, dir_fd, name) != 0) {
            return fail(d, "a log cannot be renamed", errstr, errstr_len);
        }
        memcpy(log->name, name, strlen(name) + 1);
        log->age = d->max_age = age + 1;
    }
    return fsync(dir_fd) == 0 ? 0 : fail(d, "cannot be synced", errstr, errstr_len);
}

/* --- the interface ------------------------------------------------------------------------------
 */

/* What is in the directory, which is there. */
static int look(struct mm_parkdir *d,
                int dir_fd,
                const struct mm_config *config,
                struct mm_lanes *lanes,
                char *errstr,
                size_t errstr_len)
{
    int list_fd = fcntl(dir_fd, F_DUPFD_CLOEXEC, 0);
    int err = list_fd < 0 ? MM_EIO : list_logs(d, list_fd);
    if (err == MM_EIO) {
        return fail(d, "cannot be read", errstr, errstr_len);
    }
    if (err != 0) {
        snprintf(errstr, errstr_len, "%s", mm_strerror(err));
        return err;
    }
    bool same = same_routes(d, dir_fd);
    err = make_old(d, dir_fd, config, lanes, same, errstr, errstr_len);
    if (err == 0 && !same && write_routes(d, dir_fd) != 0) {
        err = fail(d, "ROUTES cannot be written", errstr, errstr_len);
    }
    d->made = err == 0;
    if (d->n_logs > 1) {
        qsort(d->logs, d->n_logs, sizeof *d->logs, compare_logs);
    }
    return err;
}

int mm_parkdir_open(const struct mm_config *config,
                    struct mm_lanes *lanes,
                    struct mm_parkdir **out,
                    char *errstr,
                    size_t errstr_len)
{
    *out = NULL;
    struct mm_parkdir *d = calloc(1, sizeof *d);
    if (d == NULL || (d->spool_dir = strdup(config->spool_dir)) == NULL ||
        (d->routes = mm_route_describe(config)) == NULL) {
        mm_parkdir_close(d);
        snprintf(errstr, errstr_len, "%s", mm_strerror(MM_ENOMEM));
        return MM_ENOMEM;
    }
    snprintf(d->path, sizeof d->path, "%s/parked", config->spool_dir);
    int err = 0;
    int fd = open(d->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (fd >= 0) {
        err = look(d, fd, config, lanes, errstr, errstr_len);
        close(fd);
    } else if (errno == ENOTDIR || errno == ELOOP) {
        snprintf(errstr, errstr_len, "\"%s\": expected a directory, found something else", d->path);
        err = MM_EINVAL;
    } else if (errno != ENOENT) {
        err = fail(d, "cannot be opened", errstr, errstr_len);
    }
    if (err != 0) {
        mm_parkdir_close(d);
        return err;
    }
    *out = d;
    return 0;
}

void mm_parkdir_close(struct mm_parkdir *d)
{
    if (d == NULL) {
        return;
    }
    free(d->logs);
    free(d->routes);
    free(d->spool_dir);
    free(d);
}

const struct mm_parkdir_log *mm_parkdir_logs(const struct mm_parkdir *d, size_t *n_logs)
{
    *n_logs = d->n_logs;
    return d->logs;
}

static int sync_path(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int err = fd >= 0 && fsync(fd) == 0 ? 0 : MM_EIO;
    if (fd >= 0) {
        close(fd);
    }
    return err;
}

int mm_parkdir_make(struct mm_parkdir *d)
{
    if (d->made) {
        return 0;
    }
    if (mkdir(d->path, 0700) != 0 && errno != EEXIST) {
        return MM_EIO;
    }
    int fd = open(d->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    int err = fd < 0 ? MM_EIO : write_routes(d, fd);
    if (fd >= 0) {
        int saved = errno;
        close(fd);
        errno = saved;
    }
    if (err == 0) {
        err = sync_path(d->spool_dir);
    }
    d->made = err == 0;
    return err;
}

int mm_parkdir_make_old(struct mm_parkdir *d,
                        const char *name,
                        char dst[MM_PARKDIR_NAME_LEN],
                        char *errstr,
                        size_t errstr_len)
{
    char from[MM_PARKDIR_PATH_LEN];
    char to[MM_PARKDIR_PATH_LEN];
    char fresh[MM_PARKDIR_NAME_LEN + 24];
    snprintf(fresh, sizeof fresh, "%s~%" PRIu64, name, d->max_age + 1);
    if (strlen(fresh) >= MM_PARKDIR_NAME_LEN) {
        errno = ENAMETOOLONG;
        return fail(d, "a log cannot be renamed", errstr, errstr_len);
    }
    mm_parkdir_path(d, name, from);
    mm_parkdir_path(d, fresh, to);
    if (rename(from, to) != 0) {
        return fail(d, "a log cannot be renamed", errstr, errstr_len);
    }
    memcpy(dst, fresh, strlen(fresh) + 1);
    return 0;
}

int mm_parkdir_reroute(struct mm_parkdir *d,
                       const struct mm_config *config,
                       char *errstr,
                       size_t errstr_len)
{
    char *routes = mm_route_describe(config);
    if (routes == NULL) {
        snprintf(errstr, errstr_len, "%s", mm_strerror(MM_ENOMEM));
        return MM_ENOMEM;
    }
    free(d->routes);
    d->routes = routes;
    int fd = open(d->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && errno == ENOENT) {
        d->made = false;
        return 0;
    }
    /* The names first: see the top of mm_parkdir.h. */
    int err = fd >= 0 && fsync(fd) == 0 && write_routes(d, fd) == 0
                  ? 0
                  : fail(d, "ROUTES cannot be written", errstr, errstr_len);
    if (fd >= 0) {
        close(fd);
    }
    d->made = err == 0;
    d->max_age += err == 0; /* the next change is another one */
    return err;
}

void mm_parkdir_path(const struct mm_parkdir *d, const char *name, char path[MM_PARKDIR_PATH_LEN])
{
    snprintf(path, MM_PARKDIR_PATH_LEN, "%s/%s", d->path, name);
}

int mm_parkdir_sync(const struct mm_parkdir *d)
{
    return sync_path(d->path);
}

static bool ends_in(const char *name, const char *end)
{
    size_t len = strlen(name);
    size_t end_len = strlen(end);
    return len >= end_len && strcmp(name + len - end_len, end) == 0;
}

/* Is there a file of records? Also when nobody can tell. Takes fd. */
static bool has_segments(int fd)
{
    DIR *dir = fdopendir(fd);
    if (dir == NULL) {
        close(fd);
        return true;
    }
    bool found = false;
    for (struct dirent *e; !found && (e = readdir(dir)) != NULL;) {
        found = ends_in(e->d_name, ".seg");
    }
    closedir(dir);
    return found;
}

void mm_parkdir_remove(const struct mm_parkdir *d, const char *name)
{
    char path[MM_PARKDIR_PATH_LEN];
    mm_parkdir_path(d, name, path);
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) {
        return;
    }
    /* Without STATE, segments would count as not read: never delete it before them. */
    int list_fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (list_fd >= 0 && !has_segments(list_fd)) {
        (void)unlinkat(fd, "STATE", 0);
        (void)unlinkat(fd, "LOCK", 0);
        (void)rmdir(path); /* bad/ is kept, and its directory with it */
    }
    close(fd);
}
