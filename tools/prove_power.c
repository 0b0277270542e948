#include "prove_power.h"

#include "mm_layout.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PATH_LEN 4096
#define SECTOR 512

/* One failure. */
struct failure
{
    unsigned int *random;
    uint32_t of_16; /* so many parts of 16 of what was not safe are there */
    char why[256];
};

struct names
{
    char **name;
    size_t n;
};

struct bytes
{
    uint8_t *data; /* NULL: there is no such file */
    size_t len;
};

static bool fail(struct failure *f, const char *path)
{
    if (f->why[0] == '\0') {
        snprintf(f->why, sizeof f->why, "%.150s: %s", path, strerror(errno));
    }
    return false;
}

static bool is_there(const struct failure *f)
{
    return (uint32_t)rand_r(f->random) % 16 < f->of_16;
}

/* False: it is too long. */
static bool join(char out[PATH_LEN], const char *dir, const char *name)
{
    int n = snprintf(out, PATH_LEN, "%s/%s", dir, name);
    errno = ENAMETOOLONG;
    return n > 0 && n < PATH_LEN;
}

/* --- files --------------------------------------------------------------------------------------
 */

/* False: it is there and cannot be read. */
static bool load(struct failure *f, const char *path, struct bytes *out)
{
    struct stat st;
    *out = (struct bytes){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) {
        return errno == ENOENT || fail(f, path);
    }
    bool good = fstat(fd, &st) == 0 && (out->data = calloc(1, (size_t)st.st_size + 1)) != NULL;
    while (good && out->len < (size_t)st.st_size) {
        ssize_t n = read(fd, out->data + out->len, (size_t)st.st_size - out->len);
        good = n > 0;
        out->len += n > 0 ? (size_t)n : 0;
    }
    close(fd);
    return good || fail(f, path);
}

static bool store(struct failure *f, const char *path, const uint8_t *data, size_t len)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    bool good = fd >= 0;
    for (size_t at = 0; good && at < len;) {
        ssize_t n = write(fd, data + at, len - at);
        good = n > 0;
        at += n > 0 ? (size_t)n : 0;
    }
    good = good || fail(f, path);
    if (fd >= 0) {
        close(fd);
    }
    return good;
}

static bool remove_tree(struct failure *f, const char *path)
{
    return prove_broker_remove_tree(path) == 0 || errno == ENOENT || fail(f, path);
}

/* --- names --------------------------------------------------------------------------------------
 */

static bool has_name(const struct names *set, const char *name)
{
    for (size_t i = 0; i < set->n; i++) {
        if (strcmp(set->name[i], name) == 0) {
            return true;
        }
    }
    return false;
}

static bool add_name(struct failure *f, struct names *set, const char *name)
{
    char **grown = realloc(set->name, (set->n + 1) * sizeof *grown);
    if (grown == NULL) {
        return fail(f, name);
    }
    set->name = grown;
    set->name[set->n] = strdup(name);
    return set->name[set->n++] != NULL || fail(f, name);
}

static void free_names(struct names *set)
{
    for (size_t i = 0; i < set->n; i++) {
        free(set->name[i]);
    }
    free(set->name);
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The names in a directory, in an order that is the same in each run; none if there is no such
 * directory. */
static bool list_names(struct failure *f, const char *path, struct names *out)
{
    *out = (struct names){0};
    DIR *dir = opendir(path);
    bool good = dir != NULL || errno == ENOENT || fail(f, path);
    for (const struct dirent *entry; dir != NULL && good && (entry = readdir(dir)) != NULL;) {
        good = entry->d_name[0] == '.' || add_name(f, out, entry->d_name);
    }
    if (dir != NULL) {
        closedir(dir);
    }
    if (out->n > 1) {
        qsort(out->name, out->n, sizeof *out->name, compare_names);
    }
    return good;
}

/* The names in the directory at its last sync. */
static bool load_names(struct failure *f, const char *disk, struct names *out)
{
    char path[PATH_LEN];
    struct bytes list;
    *out = (struct names){0};
    if (!join(path, disk, ".names") || !load(f, path, &list)) {
        return fail(f, disk);
    }
    bool good = true;
    for (size_t at = 0; good && at < list.len;) {
        const char *name = (const char *)list.data + at;
        good = add_name(f, out, name);
        at += strlen(name) + 1;
    }
    free(list.data);
    if (out->n > 1) {
        qsort(out->name, out->n, sizeof *out->name, compare_names);
    }
    return good;
}

/* --- what is left -------------------------------------------------------------------------------
 */

static bool mix_file(struct failure *f, const char *now, const char *disk, const char *out)
{
    struct bytes fresh;
    struct bytes safe = {0};
    bool good = load(f, now, &fresh) && load(f, disk, &safe);
    size_t len = fresh.data != NULL && is_there(f) ? fresh.len : safe.len;
    uint8_t *mixed = calloc(1, len + 1);
    good = good && (mixed != NULL || fail(f, out));
    for (size_t at = 0; good && at < len; at += SECTOR) {
        const struct bytes *src = fresh.data != NULL && is_there(f) ? &fresh : &safe;
        size_t n = len - at < SECTOR ? len - at : SECTOR;
        if (at < src->len) {
            memcpy(mixed + at, src->data + at, n < src->len - at ? n : src->len - at);
        }
    }
    good = good && store(f, out, mixed, len);
    free(mixed);
    free(fresh.data);
    free(safe.data);
    return good;
}

static bool mix_directory(struct failure *f, const char *now, const char *disk, const char *out);

static bool mix_one(struct failure *f, const char *now, const char *disk, const char *out)
{
    struct stat st;
    if (lstat(now, &st) != 0 && lstat(disk, &st) != 0) {
        return true; /* its bytes are nowhere */
    }
    return S_ISDIR(st.st_mode) ? mix_directory(f, now, disk, out) : mix_file(f, now, disk, out);
}

/* The directory's name is there already. */
static bool mix_names(struct failure *f,
                      const char *now,
                      const char *disk,
                      const char *out,
                      const struct names *fresh,
                      const struct names *safe)
{
    bool good = true;
    for (size_t i = 0; good && i < fresh->n + safe->n; i++) {
        char paths[3][PATH_LEN];
        const char *name = i < fresh->n ? fresh->name[i] : safe->name[i - fresh->n];
        bool in_both = has_name(safe, name) && has_name(fresh, name);
        if (in_both ? i >= fresh->n : is_there(f) != (i < fresh->n)) {
            continue;
        }
        good = (join(paths[0], now, name) && join(paths[1], disk, name) &&
                join(paths[2], out, name)) ||
               fail(f, name);
        good = good && mix_one(f, paths[0], paths[1], paths[2]);
    }
    return good;
}

static bool mix_directory(struct failure *f, const char *now, const char *disk, const char *out)
{
    struct names fresh;
    struct names safe = {0};
    bool good = list_names(f, now, &fresh) && load_names(f, disk, &safe) &&
                (mkdir(out, 0700) == 0 || fail(f, out)) &&
                mix_names(f, now, disk, out, &fresh, &safe);
    free_names(&fresh);
    free_names(&safe);
    return good;
}

/* The start of the system that STATE names is another one. */
static bool change_boot(struct failure *f, const char *path)
{
    struct bytes state;
    if (!load(f, path, &state)) {
        return false;
    }
    for (size_t at = 0; at + MM_LAYOUT_STATE_LEN <= state.len; at += MM_LAYOUT_STATE_LEN) {
        struct mm_layout_state decoded;
        if (mm_layout_decode_state(state.data + at, &decoded) == 0) {
            for (size_t i = 0; i < sizeof decoded.boot; i++) {
                decoded.boot[i] = (uint8_t)rand_r(f->random);
            }
            mm_layout_encode_state(state.data + at, &decoded);
        }
    }
    bool good = unlink(path) == 0 && store(f, path, state.data, state.len);
    free(state.data);
    return good || fail(f, path);
}

/* --- the disk from here on ----------------------------------------------------------------------
 */

static bool put_names(struct failure *f, const char *disk, const struct names *names)
{
    char path[PATH_LEN];
    struct bytes list = {0};
    bool good = join(path, disk, ".names") || fail(f, disk);
    for (size_t i = 0; good && i < names->n; i++) {
        size_t len = strlen(names->name[i]) + 1;
        uint8_t *grown = realloc(list.data, list.len + len);
        good = grown != NULL;
        if (grown != NULL) {
            memcpy(grown + list.len, names->name[i], len);
            list.data = grown;
            list.len += len;
        }
    }
    good = good && store(f, path, list.data, list.len);
    free(list.data);
    return good || fail(f, path);
}

/* All that is found after a failure is on the disk. On the way, STATE gets its new start. */
static bool copy_tree(struct failure *f, const char *now, const char *disk)
{
    struct names names;
    bool good = list_names(f, now, &names) && (mkdir(disk, 0700) == 0 || fail(f, disk)) &&
                put_names(f, disk, &names);
    for (size_t i = 0; good && i < names.n; i++) {
        char from[PATH_LEN];
        char to[PATH_LEN];
        struct stat st = {0};
        struct bytes bytes = {0};
        good = (join(from, now, names.name[i]) && join(to, disk, names.name[i]) &&
                lstat(from, &st) == 0) ||
               fail(f, names.name[i]);
        if (good && S_ISDIR(st.st_mode)) {
            good = copy_tree(f, from, to);
        } else if (good) {
            good = (strcmp(names.name[i], "STATE") != 0 || change_boot(f, from)) &&
                   load(f, from, &bytes) && store(f, to, bytes.data, bytes.len);
            free(bytes.data);
        }
    }
    free_names(&names);
    return good;
}

/* Make the directory that holds the spool as it is on the disk: its name is safe, if it is there.
 */
static bool begin_disk(struct failure *f, const char *disk, const char *spool)
{
    char path[PATH_LEN];
    char name[] = "spool";
    char *list[] = {name};
    struct names names = {.name = list, .n = access(spool, F_OK) == 0};
    return remove_tree(f, disk) && (mkdir(disk, 0700) == 0 || fail(f, disk)) &&
           put_names(f, disk, &names) &&
           (names.n == 0 || (join(path, disk, name) && copy_tree(f, spool, path)));
}

/* --- interface ----------------------------------------------------------------------------------
 */

static bool fail_all(struct failure *f, const char *dir)
{
    char spool[PATH_LEN];
    char disk[PATH_LEN];
    char disk_spool[PATH_LEN];
    char image[PATH_LEN];
    struct names safe = {0};
    bool good = (join(spool, dir, "spool") && join(disk, dir, "disk") &&
                 join(image, dir, "image") && join(disk_spool, disk, "spool")) ||
                fail(f, dir);
    good = good && load_names(f, disk, &safe);
    bool there = good && (has_name(&safe, "spool") || is_there(f));
    free_names(&safe);
    return good && (!there || mix_one(f, spool, disk_spool, image)) && remove_tree(f, spool) &&
           (rename(image, spool) == 0 || errno == ENOENT || fail(f, spool)) &&
           begin_disk(f, disk, spool);
}

bool prove_power_prepare(struct prove_broker *b, const char *library)
{
    struct failure f = {0};
    char disk[PATH_LEN];
    char spool[PATH_LEN];
    snprintf(b->preload, sizeof b->preload, "%s", library);
    if (!join(disk, b->dir, "disk") || !join(spool, b->dir, "spool") ||
        !begin_disk(&f, disk, spool)) {
        fprintf(stderr, "metamorphosis: %s\n", f.why);
        return false;
    }
    return true;
}

bool prove_power_fail(const struct prove_broker *b, unsigned int *random, char *why, size_t why_len)
{
    /* Nothing, all, half, little, most. */
    static const uint32_t of_16[] = {0, 16, 8, 2, 14};
    struct failure f = {.random = random};
    f.of_16 = of_16[(size_t)rand_r(random) % (sizeof of_16 / sizeof of_16[0])];
    bool good = fail_all(&f, b->dir);
    if (!good) {
        snprintf(why, why_len, "a power failure cannot be imitated: %s", f.why);
    }
    return good;
}

bool prove_power_slowest(const struct prove_broker *b, uint64_t *ns)
{
    struct failure f = {0};
    struct bytes bytes;
    char path[PATH_LEN];
    if (!join(path, b->dir, PROVE_BROKER_SLOWEST) || !load(&f, path, &bytes)) {
        return false;
    }
    bool good = bytes.len == sizeof *ns;
    if (good) {
        memcpy(ns, bytes.data, sizeof *ns);
    }
    free(bytes.data);
    return good;
}
