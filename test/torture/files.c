#include "files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void files_give_up(const char *format, ...)
{
    char reason[128];
    const char *why = strerror_r(errno, reason, sizeof reason);
    va_list args;
    va_start(args, format);
    fputs("the test cannot run: ", stderr);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, " (%s)\n", why);
    exit(2);
}

void files_join(char dst[FILES_PATH_MAX], const char *dir, const char *name)
{
    if (snprintf(dst, FILES_PATH_MAX, "%s/%s", dir, name) >= FILES_PATH_MAX) {
        files_give_up("%s/%s is too long", dir, name);
    }
}

static char made[FILES_PATH_MAX];
static pid_t maker;

static void remove_made(void)
{
    if (getpid() == maker) {
        files_remove(made);
    }
}

void files_make_dir(bool fast, char path[FILES_PATH_MAX])
{
    const char *base = getenv("MM_TEST_TMP");
    if (base == NULL && fast && access("/dev/shm", W_OK) == 0) {
        base = "/dev/shm";
    }
    base = base == NULL ? getenv("TMPDIR") : base;
    files_join(path, base == NULL ? "/tmp" : base, "mm-torture-XXXXXX");
    if (mkdtemp(path) == NULL || atexit(remove_made) != 0) {
        files_give_up("%s", path);
    }
    maker = getpid();
    files_join(made, path, "");
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    if (remove(path) != 0) {
        files_give_up("%s", path);
    }
    return 0;
}

void files_remove(const char *path)
{
    (void)nftw(path, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static void load_file(int dir_fd, const char *name, struct files_file *out)
{
    int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) != 0) {
        files_give_up("%s", name);
    }
    if ((size_t)snprintf(out->name, sizeof out->name, "%s", name) >= sizeof out->name) {
        files_give_up("the name %s is too long", name);
    }
    out->len = (size_t)st.st_size;
    out->data = malloc(out->len + 1);
    if (out->data == NULL || pread(fd, out->data, out->len, 0) != (ssize_t)out->len) {
        files_give_up("%s", name);
    }
    close(fd);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct files_file *)a)->name, ((const struct files_file *)b)->name);
}

static DIR *open_dir(const char *dir)
{
    DIR *d = opendir(dir);
    if (d == NULL) {
        files_give_up("%s", dir);
    }
    return d;
}

void files_load(const char *dir, struct files_image *out)
{
    memset(out, 0, sizeof *out);
    DIR *d = open_dir(dir);
    for (struct dirent *entry; (entry = readdir(d)) != NULL;) {
        struct stat st;
        if (fstatat(dirfd(d), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
            S_ISREG(st.st_mode)) {
            if (out->n == FILES_MAX) {
                files_give_up("%s has too many files", dir);
            }
            load_file(dirfd(d), entry->d_name, &out->file[out->n++]);
        }
    }
    closedir(d);
    qsort(out->file, out->n, sizeof out->file[0], by_name);
}

void files_copy(const struct files_image *src, struct files_image *dst)
{
    *dst = *src;
    for (uint32_t i = 0; i < src->n; i++) {
        dst->file[i].data = malloc(src->file[i].len + 1);
        if (dst->file[i].data == NULL) {
            files_give_up("%s", src->file[i].name);
        }
        memcpy(dst->file[i].data, src->file[i].data, src->file[i].len);
    }
}

void files_free(struct files_image *image)
{
    for (uint32_t i = 0; i < image->n; i++) {
        free(image->file[i].data);
    }
    image->n = 0;
}

static void store_file(int dir_fd, const struct files_file *file)
{
    int fd = openat(dir_fd, file->name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 || pwrite(fd, file->data, file->len, 0) != (ssize_t)file->len) {
        files_give_up("%s", file->name);
    }
    close(fd);
}

void files_store(const struct files_image *image, const char *dir)
{
    files_remove(dir);
    if (mkdir(dir, 0700) != 0) {
        files_give_up("%s", dir);
    }
    DIR *d = open_dir(dir);
    for (uint32_t i = 0; i < image->n; i++) {
        store_file(dirfd(d), &image->file[i]);
    }
    closedir(d);
}

struct files_file *files_find(struct files_image *image, const char *name)
{
    for (uint32_t i = 0; i < image->n; i++) {
        if (strcmp(image->file[i].name, name) == 0) {
            return &image->file[i];
        }
    }
    return NULL;
}

bool files_is_segment(const char *name)
{
    return strlen(name) == 20 && strcmp(name + 16, ".seg") == 0;
}

uint32_t files_count(const char *dir)
{
    uint32_t n = 0;
    DIR *d = opendir(dir);
    for (struct dirent *entry; d != NULL && (entry = readdir(d)) != NULL;) {
        n += entry->d_name[0] != '.';
    }
    if (d != NULL) {
        closedir(d);
    }
    return n;
}
