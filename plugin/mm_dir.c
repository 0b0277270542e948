#include "mm_dir.h"

#include "mm_error.h"
#include "mm_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

/* Linux 5.13 */
#ifndef XFS_SUPER_MAGIC
#define XFS_SUPER_MAGIC 0x58465342
#endif

struct mm_dir
{
    char *path;
    int fd;
    int lock_fd;
    int state_fd;
    /* Of STATE, which one thread may write while another one syncs it. */
    _Atomic int last_slot;    /* read as the newest, or written last; -1: there is none */
    _Atomic int safe_slot;    /* the one that is on the disk for sure; -1: that is not known */
    _Atomic uint64_t version; /* odd: a slot is being written, or could not be */
    bool can_reserve;
    char other_host[65];
    uint64_t n_bad;
};

/* --- opening ------------------------------------------------------------------------------------
 */

static int fail(char *errstr, size_t errstr_len, const char *path, const char *what)
{
    char reason[64];
    snprintf(errstr, errstr_len, "spool_dir \"%s\": %s: %s (as user %u)", path, what,
             strerror_r(errno, reason, sizeof reason), (unsigned)geteuid());
    return MM_EIO;
}

/* A new directory outlives a power failure only when its name does. */
static void sync_parent(const struct mm_dir *d)
{
    int fd = openat(d->fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        (void)fsync(fd); /* one that may be entered, but not read, is its owner's care */
        close(fd);
    }
}

static int open_directory(struct mm_dir *d, char *errstr, size_t errstr_len)
{
    bool made = mkdir(d->path, 0700) == 0;
    if (!made && errno != EEXIST) {
        return fail(errstr, errstr_len, d->path, "cannot be made");
    }
    d->fd = open(d->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (d->fd < 0 && errno == ENOTDIR) {
        snprintf(errstr, errstr_len, "spool_dir \"%s\": expected a directory, found a file",
                 d->path);
        return MM_EINVAL;
    }
    if (d->fd < 0) {
        return fail(errstr, errstr_len, d->path, "cannot be opened");
    }
    if (made) {
        sync_parent(d);
    }
    return 0;
}

void mm_dir_read_lock_text(int fd, char text[MM_DIR_LOCK_TEXT_LEN])
{
    size_t n;
    (void)mm_file_read(fd, 0, text, MM_DIR_LOCK_TEXT_LEN - 1, &n);
    text[n] = '\0';
    text[strcspn(text, "\n")] = '\0';
    for (char *p = text; *p != '\0'; p++) {
        *p = (char)(*p < ' ' || *p > '~' ? '?' : *p);
    }
}

/* "pid 12 host gateway started 2026-01-31T12:00:00Z" */
static void write_lock_text(int fd, const char *host)
{
    struct tm tm;
    char when[32] = "";
    char text[MM_DIR_LOCK_TEXT_LEN];
    time_t now = time(NULL);
    if (gmtime_r(&now, &tm) != NULL) {
        strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", &tm);
    }
    int len = snprintf(text, sizeof text, "pid %d host %s started %s\n", (int)getpid(), host, when);
    off_t end = pwrite(fd, text, (size_t)len, 0) == len ? len : 0;
    int unused = ftruncate(fd, end);
    (void)unused; /* only for people: what cannot be written locks all the same */
}

static void note_other_host(struct mm_dir *d, const char *text, const char *host)
{
    const char *found = strstr(text, " host ");
    if (found == NULL) {
        return;
    }
    found += strlen(" host ");
    size_t len = strcspn(found, " ");
    len = len < sizeof d->other_host ? len : sizeof d->other_host - 1;
    if (len != strlen(host) || strncmp(found, host, len) != 0) {
        memcpy(d->other_host, found, len);
        d->other_host[len] = '\0';
    }
}

static int tell_busy(const struct mm_dir *d, char *errstr, size_t errstr_len)
{
    char text[MM_DIR_LOCK_TEXT_LEN];
    mm_dir_read_lock_text(d->lock_fd, text);
    snprintf(errstr, errstr_len,
             "spool_dir \"%s\" is in use by another process (%s); each broker needs a directory of "
             "its own",
             d->path, text[0] == '\0' ? "it has not said which" : text);
    return MM_EBUSY;
}

static int take_lock(struct mm_dir *d, char *errstr, size_t errstr_len)
{
    char text[MM_DIR_LOCK_TEXT_LEN];
    char host[65] = "unknown";
    if (gethostname(host, sizeof host - 1) != 0) {
        snprintf(host, sizeof host, "unknown");
    }
    d->lock_fd = openat(d->fd, "LOCK", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (d->lock_fd < 0) {
        return fail(errstr, errstr_len, d->path, "LOCK cannot be opened");
    }
    if (flock(d->lock_fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK) {
            return fail(errstr, errstr_len, d->path, "LOCK cannot be taken");
        }
        return tell_busy(d, errstr, errstr_len);
    }
    /* Nor by one whose LOCK somebody has deleted. Where a directory cannot be locked, as on NFS,
     * that is not known. */
    if (flock(d->fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
        return tell_busy(d, errstr, errstr_len);
    }
    mm_dir_read_lock_text(d->lock_fd, text);
    note_other_host(d, text, host);
    write_lock_text(d->lock_fd, host);
    return 0;
}

/* Where space that was reserved is there when a mapping is written to: on file systems that write
 * in place. Elsewhere, and where we do not know, a write to a mapping could end the process by
 * SIGBUS. What an overlay lies on cannot be seen from above: nearly always it is one of these. */
static void look_at_file_system(struct mm_dir *d)
{
    struct statfs fs;
    d->can_reserve = false;
    if (fstatfs(d->fd, &fs) == 0) {
        switch ((unsigned long)fs.f_type) {
            case EXT4_SUPER_MAGIC: /* and ext2, ext3, which may refuse to reserve */
            case XFS_SUPER_MAGIC:
            case F2FS_SUPER_MAGIC:
            case TMPFS_MAGIC:
            case OVERLAYFS_SUPER_MAGIC:
                d->can_reserve = true;
                break;
            default:
                break;
        }
    }
}

static void count_bad(struct mm_dir *d)
{
    int fd = openat(d->fd, "bad", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (dir == NULL) {
        if (fd >= 0) {
            close(fd);
        }
        return;
    }
    for (struct dirent *e; (e = readdir(dir)) != NULL;) {
        d->n_bad += e->d_name[0] != '.';
    }
    closedir(dir);
}

/* Too low a limit for the size of files would end the process when it writes STATE. */
static int check_limit(const struct mm_dir *d, char *errstr, size_t errstr_len)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
        limit.rlim_cur < UINT64_C(2) * MM_LAYOUT_STATE_LEN) {
        errno = EFBIG;
        return fail(errstr, errstr_len, d->path, "the limit for the size of files is too low");
    }
    return 0;
}

int mm_dir_open(const char *path, struct mm_dir **out, char *errstr, size_t errstr_len)
{
    *out = NULL;
    struct mm_dir *d = calloc(1, sizeof *d);
    char *copy = strdup(path);
    if (d == NULL || copy == NULL) {
        free(d);
        free(copy);
        snprintf(errstr, errstr_len, "%s", mm_strerror(MM_ENOMEM));
        return MM_ENOMEM;
    }
    d->path = copy;
    d->fd = d->lock_fd = d->state_fd = -1;
    atomic_init(&d->last_slot, -1);
    atomic_init(&d->safe_slot, -1);
    int err = check_limit(d, errstr, errstr_len);
    if (err == 0) {
        err = open_directory(d, errstr, errstr_len);
    }
    if (err == 0) {
        err = take_lock(d, errstr, errstr_len);
    }
    if (err == 0) {
        d->state_fd = openat(d->fd, "STATE", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        err = d->state_fd >= 0 ? 0 : fail(errstr, errstr_len, d->path, "STATE cannot be opened");
    }
    if (err != 0) {
        mm_dir_close(d);
        return err;
    }
    look_at_file_system(d);
    count_bad(d);
    *out = d;
    return 0;
}

void mm_dir_close(struct mm_dir *d)
{
    if (d == NULL) {
        return;
    }
    if (d->state_fd >= 0) {
        close(d->state_fd);
    }
    if (d->lock_fd >= 0) {
        close(d->lock_fd); /* and with it the lock */
    }
    if (d->fd >= 0) {
        close(d->fd);
    }
    free(d->path);
    free(d);
}

const char *mm_dir_path(const struct mm_dir *d)
{
    return d->path;
}

int mm_dir_fd(const struct mm_dir *d)
{
    return d->fd;
}

bool mm_dir_can_reserve(const struct mm_dir *d)
{
    return d->can_reserve;
}

const char *mm_dir_other_host(const struct mm_dir *d)
{
    return d->other_host[0] == '\0' ? NULL : d->other_host;
}

int mm_dir_space(const struct mm_dir *d, uint64_t *free_bytes, uint64_t *total_bytes)
{
    struct statvfs fs;
    if (fstatvfs(d->fd, &fs) != 0) {
        return MM_EIO;
    }
    *free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
    *total_bytes = (uint64_t)fs.f_blocks * fs.f_frsize;
    return 0;
}

int mm_dir_sync(const struct mm_dir *d)
{
    return fsync(d->fd) == 0 ? 0 : MM_EIO;
}

/* --- segment files ------------------------------------------------------------------------------
 */

void mm_dir_segment_name(uint64_t file, char name[MM_DIR_NAME_LEN])
{
    snprintf(name, MM_DIR_NAME_LEN, "%016" PRIx64 ".seg", file);
}

/* 16 hexadecimal digits in small letters and ".seg", nothing else; neither the lowest number nor
 * the highest, which no file of ours has. */
static bool parse_segment_name(const char *name, uint64_t *file)
{
    if (strspn(name, "0123456789abcdef") != 16 || strcmp(name + 16, ".seg") != 0) {
        return false;
    }
    *file = strtoull(name, NULL, 16);
    return *file != 0 && *file != UINT64_MAX;
}

static int compare_numbers(const void *a, const void *b)
{
    const uint64_t *x = a;
    const uint64_t *y = b;
    return (*x > *y) - (*x < *y);
}

static int add_number(uint64_t **files, size_t *n, size_t *cap, uint64_t file)
{
    if (*n == *cap) {
        size_t more = *cap == 0 ? 64 : *cap * 2;
        uint64_t *grown = realloc(*files, more * sizeof **files);
        if (grown == NULL) {
            return MM_ENOMEM;
        }
        *files = grown;
        *cap = more;
    }
    (*files)[(*n)++] = file;
    return 0;
}

int mm_dir_list(const struct mm_dir *d, uint64_t **files, size_t *n_files)
{
    *files = NULL;
    *n_files = 0;
    size_t cap = 0;
    /* A descriptor of its own: the directory's has one place for all who read it. */
    int fd = openat(d->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (dir == NULL) {
        if (fd >= 0) {
            close(fd);
        }
        return MM_EIO;
    }
    int err = 0;
    errno = 0;
    for (struct dirent *e; err == 0 && (e = readdir(dir)) != NULL; errno = 0) {
        uint64_t file;
        if (parse_segment_name(e->d_name, &file)) {
            err = add_number(files, n_files, &cap, file);
        }
    }
    err = err == 0 && errno != 0 ? MM_EIO : err;
    closedir(dir);
    if (err != 0) {
        free(*files);
        *files = NULL;
        *n_files = 0;
    } else if (*n_files > 0) {
        qsort(*files, *n_files, sizeof **files, compare_numbers);
    }
    return err;
}

/* A name that is free in bad/: what lies there already stays. */
static int free_bad_name(const struct mm_dir *d, const char *name, char *dst, size_t dst_len)
{
    for (int i = 0; i < 10000; i++) {
        struct stat st;
        if (i == 0) {
            snprintf(dst, dst_len, "bad/%s", name);
        } else {
            snprintf(dst, dst_len, "bad/%s.%d", name, i);
        }
        if (fstatat(d->fd, dst, &st, AT_SYMLINK_NOFOLLOW) != 0) {
            return errno == ENOENT ? 0 : MM_EIO;
        }
    }
    return MM_EIO;
}

int mm_dir_set_aside(struct mm_dir *d, uint64_t file)
{
    char from[MM_DIR_NAME_LEN];
    char to[MM_DIR_NAME_LEN + 16];
    mm_dir_segment_name(file, from);
    if ((mkdirat(d->fd, "bad", 0700) != 0 && errno != EEXIST) ||
        free_bad_name(d, from, to, sizeof to) != 0 || renameat(d->fd, from, d->fd, to) != 0) {
        return MM_EIO;
    }
    d->n_bad++;
    return 0;
}

uint64_t mm_dir_n_bad(const struct mm_dir *d)
{
    return d->n_bad;
}

/* --- STATE --------------------------------------------------------------------------------------
 */

int mm_dir_read_state(struct mm_dir *d, struct mm_layout_state *out)
{
    uint8_t slot[MM_LAYOUT_STATE_LEN];
    struct mm_layout_state state;
    bool found = false;
    int problem = MM_EAGAIN;
    for (int i = 0; i < 2; i++) {
        memset(slot, 0, sizeof slot); /* a short file is as one with zeros */
        size_t n;
        if (mm_file_read(d->state_fd, (uint64_t)i * MM_LAYOUT_STATE_LEN, slot, sizeof slot, &n) !=
            0) {
            return MM_EIO;
        }
        int err = mm_layout_decode_state(slot, &state);
        if (err == MM_EVERSION) {
            out->version = state.version;
            return err;
        }
        if (err == 0 && (!found || state.generation > out->generation)) {
            *out = state;
            found = true;
            atomic_store_explicit(&d->last_slot, i, memory_order_relaxed);
        } else if (err == MM_ECORRUPT) {
            problem = err;
        }
    }
    return found ? 0 : problem;
}

/* A slot takes several sectors: when the power goes, each may be the old or the new one. So the
 * slot that is on the disk is left alone as long as the other one is not known to be. Without syncs
 * that slot would grow old: they are written in turn then. */
static int choose_slot(const struct mm_dir *d, bool syncs)
{
    int safe = atomic_load_explicit(&d->safe_slot, memory_order_acquire);
    int last = atomic_load_explicit(&d->last_slot, memory_order_relaxed);
    int before = syncs && safe >= 0 ? safe : last;
    return before < 0 ? 1 : 1 - before;
}

int mm_dir_write_state(struct mm_dir *d, const struct mm_layout_state *state, bool syncs)
{
    uint8_t slot[MM_LAYOUT_STATE_LEN];
    mm_layout_encode_state(slot, state);
    int i = choose_slot(d, syncs);
    off_t at = (off_t)i * MM_LAYOUT_STATE_LEN;
    uint64_t version = atomic_load_explicit(&d->version, memory_order_relaxed) | 1;
    atomic_store(&d->version, version);
    if (pwrite(d->state_fd, slot, sizeof slot, at) != (ssize_t)sizeof slot) {
        return MM_EIO;
    }
    atomic_store_explicit(&d->last_slot, i, memory_order_relaxed);
    /* Pairs with the first load in mm_dir_sync_state(), which takes this slot for whole then. */
    atomic_store_explicit(&d->version, version + 1, memory_order_release);
    return 0;
}

bool mm_dir_is_gone(const struct mm_dir *d)
{
    struct stat st;
    return fstat(d->fd, &st) == 0 && st.st_nlink == 0;
}

bool mm_dir_restore_state(struct mm_dir *d)
{
    struct stat st;
    if (fstat(d->state_fd, &st) != 0 || st.st_nlink != 0) {
        return false;
    }
    int fd = openat(d->fd, "STATE", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        return false;
    }
    close(d->state_fd);
    d->state_fd = fd;
    atomic_store_explicit(&d->last_slot, -1, memory_order_relaxed);
    atomic_store_explicit(&d->safe_slot, -1, memory_order_relaxed);
    return true;
}

int mm_dir_sync_state(struct mm_dir *d)
{
    uint64_t version = atomic_load_explicit(&d->version, memory_order_acquire);
    int slot = atomic_load_explicit(&d->last_slot, memory_order_relaxed);
    if (fdatasync(d->state_fd) != 0) {
        return MM_EIO;
    }
    /* A slot that was written meanwhile may be on the disk in part. */
    if ((version & 1) == 0 && atomic_load(&d->version) == version) {
        atomic_store_explicit(&d->safe_slot, slot, memory_order_release);
    }
    return 0;
}

void mm_dir_boot_id(uint8_t boot[16])
{
    char text[64];
    memset(boot, 0, 16);
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return;
    }
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    text[n < 0 ? 0 : n] = '\0';
    text[strcspn(text, "\n")] = '\0';
    if (mm_layout_parse_uuid(text, boot) != 0) {
        memset(boot, 0, 16);
    }
}
