#include "redriven.h"

#include "idset.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

struct redriven
{
    char path[PATH_MAX];
    int fd; /* -1: not to be written */

    struct idset ids;
    char *unwritten; /* lines */
    size_t unwritten_len;
    size_t unwritten_cap;
};

static void complain(const struct redriven *r, const char *what)
{
    fprintf(stderr, "metamorphosis: %s: %s\n", r->path, what);
}

bool redriven_has(const struct redriven *r, const char *id, size_t len)
{
    return idset_has(&r->ids, id, len);
}

/* --- the file -----------------------------------------------------------------------------------
 */

static bool read_all(struct redriven *r, int fd, char **text, size_t *len)
{
    struct stat st;
    if (fstat(fd, &st) != 0) {
        complain(r, strerror(errno));
        return false;
    }
    size_t cap = (size_t)st.st_size;
    char *buffer = malloc(cap + 1);
    size_t n = 0;
    while (buffer != NULL && n < cap) {
        ssize_t got = pread(fd, buffer + n, cap - n, (off_t)n);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            complain(r, strerror(errno));
            free(buffer);
            return false;
        }
        if (got == 0) {
            break;
        }
        n += (size_t)got;
    }
    if (buffer == NULL) {
        complain(r, "out of memory");
        return false;
    }
    *text = buffer;
    *len = n;
    return true;
}

/* Take the lines that are whole. What stands behind them, if anything, was cut off: the next line
 * must not be glued to it. */
static bool read_ids(struct redriven *r, int fd)
{
    char *text;
    size_t len;
    if (!read_all(r, fd, &text, &len)) {
        return false;
    }
    bool good = true;
    const char *at = text;
    const char *newline;
    while (good && (newline = memchr(at, '\n', (size_t)(text + len - at))) != NULL) {
        if (idset_is_id(at, (size_t)(newline - at)) &&
            !idset_add(&r->ids, at, (size_t)(newline - at))) {
            complain(r, "out of memory");
            good = false;
        }
        at = newline + 1;
    }
    if (good && r->fd >= 0 && at != text + len && ftruncate(r->fd, at - text) != 0) {
        complain(r, strerror(errno));
        good = false;
    }
    free(text);
    return good;
}

/* Made by an administrator, the file belongs to whom the directory belongs. */
static bool give_to_owner(const struct redriven *r, int dir_fd)
{
    struct stat dir;
    if (fstat(dir_fd, &dir) != 0 ||
        (geteuid() == 0 && fchown(r->fd, dir.st_uid, dir.st_gid) != 0)) {
        complain(r, strerror(errno));
        return false;
    }
    return true;
}

static bool open_for_writing(struct redriven *r, const char *dir)
{
    int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd < 0) {
        complain(r, strerror(errno));
        return false;
    }
    r->fd = openat(dir_fd, "redriven", O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
    bool good = false;
    if (r->fd < 0) {
        complain(r, strerror(errno));
    } else if (flock(r->fd, LOCK_EX | LOCK_NB) != 0) {
        complain(r, errno == EWOULDBLOCK ? "another redrive is at work here" : strerror(errno));
    } else {
        good = give_to_owner(r, dir_fd) && read_ids(r, r->fd);
        if (good && fsync(dir_fd) != 0) { /* the name must outlive the power too */
            complain(r, strerror(errno));
            good = false;
        }
    }
    close(dir_fd);
    return good;
}

static bool open_for_reading(struct redriven *r)
{
    int fd = open(r->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && errno == ENOENT) {
        return true;
    }
    if (fd < 0) {
        complain(r, strerror(errno));
        return false;
    }
    bool good = read_ids(r, fd);
    close(fd);
    return good;
}

bool redriven_open(const char *dir, bool write, struct redriven **out)
{
    *out = NULL;
    struct redriven *r = calloc(1, sizeof *r);
    if (r == NULL) {
        fprintf(stderr, "metamorphosis: out of memory\n");
        return false;
    }
    r->fd = -1;
    snprintf(r->path, sizeof r->path, "%s/redriven", dir);
    if (!(write ? open_for_writing(r, dir) : open_for_reading(r))) {
        redriven_close(r);
        return false;
    }
    *out = r;
    return true;
}

void redriven_close(struct redriven *r)
{
    if (r == NULL) {
        return;
    }
    if (r->fd >= 0) {
        close(r->fd); /* gives the lock back */
    }
    idset_fini(&r->ids);
    free(r->unwritten);
    free(r);
}

bool redriven_note(struct redriven *r, const char *id, size_t len)
{
    if (idset_has(&r->ids, id, len)) {
        return true;
    }
    if (r->unwritten_len + len + 1 > r->unwritten_cap) {
        size_t cap = 2 * r->unwritten_cap + IDSET_ID_MAX + 1;
        char *larger = realloc(r->unwritten, cap);
        if (larger == NULL) {
            complain(r, "out of memory");
            return false;
        }
        r->unwritten = larger;
        r->unwritten_cap = cap;
    }
    if (!idset_add(&r->ids, id, len)) {
        complain(r, "out of memory");
        return false;
    }
    memcpy(r->unwritten + r->unwritten_len, id, len);
    r->unwritten[r->unwritten_len + len] = '\n';
    r->unwritten_len += len + 1;
    return true;
}

bool redriven_sync(struct redriven *r)
{
    const char *at = r->unwritten;
    while (r->unwritten_len > 0) {
        ssize_t n = write(r->fd, at, r->unwritten_len);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            complain(r, strerror(errno));
            return false;
        }
        at += n;
        r->unwritten_len -= (size_t)n;
    }
    if (fdatasync(r->fd) != 0) {
        complain(r, strerror(errno));
        return false;
    }
    return true;
}
