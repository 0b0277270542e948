/* power_preload - keeps what a disk has for sure: for a broker that "prove --power" ends.
 *
 * To be preloaded. It stands in front of the calls of libc by which a program makes bytes and names
 * safe (fdatasync, fsync, msync), below one directory, and keeps a second directory, the disk: of
 * each file the bytes as they were when its last sync began, once that sync has succeeded, and of
 * each directory the names at its last sync. What was not synced is not there. So whoever kills the
 * broker can make what a power failure would have left; see prove_power.h.
 *
 *   MM_POWER_WATCHED=directory   an absolute path without links
 *   MM_POWER_DISK=directory      another one, in which the paths below the first stand again; a
 *                                directory's names are in its file ".names", each with a NUL behind
 *   MM_POWER_SLOWEST=file        8 bytes in the machine's order: how long the longest sync took, in
 *                                nanoseconds. It is there as soon as this file has been loaded.
 *
 * A disk that cannot be kept would say that the plugin loses what it does not: the process ends. */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define PATH_LEN 4096
#define GIVE_UP 99

typedef int (*sync_fn)(int fd);
typedef int (*msync_fn)(void *addr, size_t len, int flags);
typedef int (*rename_fn)(const char *from, const char *to);
typedef int (*renameat_fn)(int from_fd, const char *from, int to_fd, const char *to);

static sync_fn real_fdatasync;
static sync_fn real_fsync;
static msync_fn real_msync;
static rename_fn real_rename;
static renameat_fn real_renameat;
static const char *watched; /* NULL: nothing is */
static const char *disk;
static uint64_t *slowest_ns;
/* One sync after the other: who is the last to begin is the last to say what is safe. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* A range of a file, or the names of a directory, when the sync began. */
struct snapshot
{
    char path[PATH_LEN]; /* of the disk */
    bool is_dir;
    uint8_t *data;
    size_t len;
    off_t at;
    off_t file_len;
};

static void give_up(const char *what)
{
    fprintf(stderr, "metamorphosis_power: %s: %s\n", what, strerror(errno));
    _exit(GIVE_UP);
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

static void *find(const char *name)
{
    void *symbol = dlsym(RTLD_NEXT, name);
    if (symbol == NULL) {
        give_up(name);
    }
    return symbol;
}

__attribute__((constructor)) static void begin(void)
{
    void *symbol;
    memcpy(&real_fdatasync, (symbol = find("fdatasync"), &symbol), sizeof symbol);
    memcpy(&real_fsync, (symbol = find("fsync"), &symbol), sizeof symbol);
    memcpy(&real_msync, (symbol = find("msync"), &symbol), sizeof symbol);
    memcpy(&real_rename, (symbol = find("rename"), &symbol), sizeof symbol);
    memcpy(&real_renameat, (symbol = find("renameat"), &symbol), sizeof symbol);
    const char *slowest = getenv("MM_POWER_SLOWEST");
    disk = getenv("MM_POWER_DISK");
    watched = getenv("MM_POWER_WATCHED");
    if (watched == NULL || disk == NULL || slowest == NULL) {
        watched = NULL;
        return;
    }
    int fd = open(slowest, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, sizeof *slowest_ns) != 0) {
        give_up(slowest);
    }
    slowest_ns = mmap(NULL, sizeof *slowest_ns, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (slowest_ns == MAP_FAILED) {
        give_up(slowest);
    }
    close(fd);
}

/* --- paths --------------------------------------------------------------------------------------
 */

/* Where on the disk the file of this path is. False: it is none of those that are watched. */
static bool place_of(const char *path, char out[PATH_LEN])
{
    size_t len = strlen(watched);
    if (strncmp(path, watched, len) != 0 || (path[len] != '/' && path[len] != '\0')) {
        return false;
    }
    int n = snprintf(out, PATH_LEN, "%s%s", disk, path + len);
    return n > 0 && n < PATH_LEN;
}

static bool path_of_fd(int fd, char path[PATH_LEN])
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t len = readlink(link, path, PATH_LEN - 1);
    path[len < 0 ? 0 : len] = '\0';
    return len > 0;
}

/* A line of /proc/self/maps: "begin-end rights offset device inode path". */
static bool path_at(const void *addr, char path[PATH_LEN], off_t *offset)
{
    FILE *maps = fopen("/proc/self/maps", "re");
    char line[PATH_LEN + 128];
    bool found = false;
    while (maps != NULL && !found && fgets(line, sizeof line, maps) != NULL) {
        char *end;
        uintptr_t first = strtoull(line, &end, 16);
        uintptr_t behind = *end == '-' ? strtoull(end + 1, &end, 16) : 0;
        const char *slash = strchr(end, '/');
        found = (uintptr_t)addr >= first && (uintptr_t)addr < behind && slash != NULL;
        if (found) {
            *offset = (off_t)((uintptr_t)addr - first + strtoull(end + 6, NULL, 16));
            snprintf(path, PATH_LEN, "%.*s", (int)strcspn(slash, "\n"), slash);
        }
    }
    if (maps != NULL) {
        (void)fclose(maps);
    }
    return found;
}

static void make_directories(const char *path)
{
    char part[PATH_LEN];
    for (const char *slash = strchr(path + strlen(disk), '/'); slash != NULL;
         slash = strchr(slash + 1, '/')) {
        snprintf(part, sizeof part, "%.*s", (int)(slash - path), path);
        if (mkdir(part, 0700) != 0 && errno != EEXIST) {
            give_up(part);
        }
    }
}

/* --- what is safe -------------------------------------------------------------------------------
 */

static void add(struct snapshot *s, const void *data, size_t len)
{
    uint8_t *grown = realloc(s->data, s->len + len + 1);
    if (grown == NULL) {
        give_up("memory");
    }
    memcpy(grown + s->len, data, len);
    s->data = grown;
    s->len += len;
}

static void take_names(struct snapshot *s, const char *path)
{
    DIR *dir = opendir(path);
    if (dir == NULL) {
        give_up(path);
    }
    for (const struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
            add(s, entry->d_name, strlen(entry->d_name) + 1);
        }
    }
    closedir(dir);
}

static void take_bytes(struct snapshot *s, const char *path, off_t at, off_t len)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    s->data = malloc((size_t)len + 1);
    if (fd < 0 || s->data == NULL) {
        give_up(path);
    }
    s->at = at;
    while (s->len < (size_t)len) {
        ssize_t n = pread(fd, s->data + s->len, (size_t)len - s->len, at + (off_t)s->len);
        if (n <= 0) {
            break; /* it is shorter now */
        }
        s->len += (size_t)n;
    }
    close(fd);
}

/* What a sync of these bytes of the file, or of all if len is 0, will make safe. False: the file is
 * not watched, or has lost its name. */
static bool take(struct snapshot *s, const char *path, off_t at, off_t len)
{
    struct stat st;
    memset(s, 0, sizeof *s);
    if (!place_of(path, s->path) || stat(path, &st) != 0) {
        return false;
    }
    s->is_dir = S_ISDIR(st.st_mode);
    s->file_len = st.st_size;
    if (s->is_dir) {
        take_names(s, path);
    } else if (len == 0) {
        take_bytes(s, path, 0, st.st_size);
    } else {
        take_bytes(s, path, at,
                   at + len < st.st_size ? len
                   : at < st.st_size     ? st.st_size - at
                                         : 0);
    }
    return true;
}

static void write_all(int fd, const struct snapshot *s, const char *path)
{
    for (size_t n = 0; n < s->len;) {
        ssize_t written = pwrite(fd, s->data + n, s->len - n, s->at + (off_t)n);
        if (written <= 0) {
            give_up(path);
        }
        n += (size_t)written;
    }
}

static bool has_name(const struct snapshot *s, const char *name)
{
    for (size_t at = 0; at < s->len; at += strlen((const char *)s->data + at) + 1) {
        if (strcmp((const char *)s->data + at, name) == 0) {
            return true;
        }
    }
    return false;
}

/* Files whose names are gone for sure will not be asked for again. */
static void forget(const struct snapshot *s)
{
    DIR *dir = opendir(s->path);
    for (const struct dirent *entry; dir != NULL && (entry = readdir(dir)) != NULL;) {
        if (entry->d_type == DT_REG && entry->d_name[0] != '.' && !has_name(s, entry->d_name)) {
            (void)unlinkat(dirfd(dir), entry->d_name, 0);
        }
    }
    if (dir != NULL) {
        closedir(dir);
    }
}

/* At once: a kill leaves the old names or the new ones. */
static void put_names(const struct snapshot *s)
{
    char path[PATH_LEN + 16];
    char fresh[PATH_LEN + 16];
    snprintf(path, sizeof path, "%s/.names", s->path);
    snprintf(fresh, sizeof fresh, "%s/.fresh", s->path);
    make_directories(path);
    int fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) {
        give_up(fresh);
    }
    write_all(fd, s, fresh);
    close(fd);
    if (real_rename(fresh, path) != 0) {
        give_up(path);
    }
    forget(s);
}

static void put_bytes(const struct snapshot *s)
{
    make_directories(s->path);
    int fd = open(s->path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) {
        give_up(s->path);
    }
    write_all(fd, s, s->path);
    if (ftruncate(fd, s->file_len) != 0) {
        give_up(s->path);
    }
    close(fd);
}

/* The sync has come to its end: what was taken when it began is on the disk, if it succeeded. */
static void finish(struct snapshot *s, int err, uint64_t begin_ns)
{
    uint64_t took = now_ns() - begin_ns;
    *slowest_ns = took > *slowest_ns ? took : *slowest_ns;
    if (err == 0) {
        (s->is_dir ? put_names : put_bytes)(s);
    }
    free(s->data);
}

/* A sync under way, between begin_sync() and end_sync(). */
struct under_way
{
    struct snapshot snapshot;
    bool ours;
    uint64_t begin_ns;
};

/* The bytes of a file, or all of it if len is 0, are about to be synced. Takes the lock. */
static void begin_sync(struct under_way *u, const char *path, off_t at, off_t len)
{
    pthread_mutex_lock(&lock);
    u->ours = take(&u->snapshot, path, at, len);
    u->begin_ns = now_ns();
}

/* What the real call returned is returned again, with its errno. Gives the lock back. */
static int end_sync(struct under_way *u, int err)
{
    int reason = errno;
    if (u->ours) {
        finish(&u->snapshot, err, u->begin_ns);
    }
    pthread_mutex_unlock(&lock);
    errno = reason;
    return err;
}

/* --- in front of libc ---------------------------------------------------------------------------
 */

static int sync_fd(int fd, sync_fn real)
{
    char path[PATH_LEN];
    struct under_way u;
    if (watched == NULL || !path_of_fd(fd, path)) {
        return real(fd);
    }
    begin_sync(&u, path, 0, 0);
    return end_sync(&u, real(fd));
}

EXPORT int fdatasync(int fd)
{
    return sync_fd(fd, real_fdatasync);
}

EXPORT int fsync(int fd)
{
    return sync_fd(fd, real_fsync);
}

EXPORT int msync(void *addr, size_t len, int flags)
{
    char path[PATH_LEN];
    off_t at;
    struct under_way u;
    if (watched == NULL || (flags & MS_SYNC) == 0 || len == 0 || !path_at(addr, path, &at)) {
        return real_msync(addr, len, flags);
    }
    begin_sync(&u, path, at, (off_t)len);
    return end_sync(&u, real_msync(addr, len, flags));
}

/* The bytes that are safe stay so under the new name. */
static void follow(const char *from, const char *to)
{
    char old[PATH_LEN];
    char new[PATH_LEN];
    if (place_of(from, old) && place_of(to, new) && access(old, F_OK) == 0) {
        make_directories(new);
        if (real_rename(old, new) != 0) {
            give_up(new);
        }
    }
}

EXPORT int rename(const char *from, const char *to)
{
    int err = real_rename(from, to);
    if (err == 0 && watched != NULL) {
        pthread_mutex_lock(&lock);
        follow(from, to);
        pthread_mutex_unlock(&lock);
    }
    return err;
}

static bool path_below(int fd, const char *name, char out[PATH_LEN])
{
    char dir[PATH_LEN];
    if (name[0] == '/') {
        return snprintf(out, PATH_LEN, "%s", name) < PATH_LEN;
    }
    return fd != AT_FDCWD && path_of_fd(fd, dir) &&
           snprintf(out, PATH_LEN, "%s/%s", dir, name) < PATH_LEN;
}

EXPORT int renameat(int from_fd, const char *from, int to_fd, const char *to)
{
    char old[PATH_LEN];
    char new[PATH_LEN];
    int err = real_renameat(from_fd, from, to_fd, to);
    if (err == 0 && watched != NULL && path_below(from_fd, from, old) &&
        path_below(to_fd, to, new)) {
        pthread_mutex_lock(&lock);
        follow(old, new);
        pthread_mutex_unlock(&lock);
    }
    return err;
}
