#include "starve.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/types.h>
#include <sys/vfs.h>
#include <unistd.h>

static _Atomic bool armed;
static _Atomic bool fired;
static _Atomic uint64_t n_calls;
static enum starve_what armed_what; /* these three: written while not armed */
static uint64_t armed_n;
static bool armed_for_ever;
static const char *_Atomic failed_name;
static _Thread_local unsigned paused;

void starve_arm(enum starve_what what, uint64_t n, bool for_ever)
{
    armed_what = what;
    armed_n = n;
    armed_for_ever = for_ever;
    n_calls = 0;
    fired = false;
    armed = true;
}

bool starve_disarm(void)
{
    armed = false;
    return fired;
}

void starve_write(char text[STARVE_TEXT_LEN])
{
    snprintf(text, STARVE_TEXT_LEN, "%d %llu %d", (int)armed_what, (unsigned long long)armed_n,
             armed_for_ever);
}

void starve_tell(bool failed)
{
    failed_name = "a call of the other process";
    fired = failed;
}

bool starve_inherit(const char *text)
{
    int what;
    unsigned long long n;
    int ever;
    if (text == NULL ||
        sscanf(text, "%d %llu %d", &what, &n, &ever) != 3) { /* NOLINT(cert-err34-c) */
        return false;
    }
    starve_arm((enum starve_what)what, n, ever != 0);
    return true;
}

const char *starve_failed(void)
{
    return fired ? failed_name : "none";
}

void starve_pause(void)
{
    paused++;
}

void starve_go_on(void)
{
    paused--;
}

static bool fails(enum starve_what what, const char *name)
{
    if (!armed || paused > 0 || what != armed_what) {
        return false;
    }
    const uint64_t n = ++n_calls;
    if (n != armed_n && (n < armed_n || !armed_for_ever)) {
        return false;
    }
    if (!fired) {
        failed_name = name;
    }
    fired = true;
    return true;
}

/* A function that gives `failure` and `error` when it is its turn. */
#define STARVED(what, type, name, parameters, arguments, failure, error) \
    extern type __real_##name parameters;                                \
    type __wrap_##name parameters;                                       \
    type __wrap_##name parameters                                        \
    {                                                                    \
        if (fails(what, #name)) {                                        \
            errno = error;                                               \
            return failure;                                              \
        }                                                                \
        return __real_##name arguments;                                  \
    }

/* --- memory -------------------------------------------------------------------------------------
 */

#define MEMORY(type, name, parameters, arguments) \
    STARVED(STARVE_MEMORY, type, name, parameters, arguments, NULL, ENOMEM)

MEMORY(void *, malloc, (size_t size), (size))
MEMORY(void *, calloc, (size_t n, size_t size), (n, size))
MEMORY(void *, realloc, (void *old, size_t size), (old, size))
MEMORY(void *, aligned_alloc, (size_t alignment, size_t size), (alignment, size))
MEMORY(char *, strdup, (const char *text), (text))
MEMORY(char *, strndup, (const char *text, size_t len), (text, len))
MEMORY(FILE *, open_memstream, (char **text, size_t *len), (text, len))

int __wrap_asprintf(char **out, const char *format, ...) __attribute__((format(printf, 2, 3)));

int __wrap_asprintf(char **out, const char *format, ...)
{
    if (fails(STARVE_MEMORY, "asprintf")) {
        errno = ENOMEM;
        *out = NULL;
        return -1;
    }
    va_list args;
    va_start(args, format);
    const int len = vasprintf(out, format, args);
    va_end(args);
    return len;
}

/* --- waiting ------------------------------------------------------------------------------------
 */

/* A start waits a while for a file that cannot be looked at, in case that it can be soon. */
extern int __real_usleep(useconds_t us);
int __wrap_usleep(useconds_t us);

int __wrap_usleep(useconds_t us)
{
    return __real_usleep(us < 200 ? us : 200);
}

/* --- calls --------------------------------------------------------------------------------------
 */

#define CALL(type, name, parameters, arguments, error) \
    STARVED(STARVE_CALLS, type, name, parameters, arguments, -1, error)

CALL(int, fstat, (int fd, struct stat *st), (fd, st), EIO)
CALL(int,
     fstatat,
     (int fd, const char *path, struct stat *st, int flags),
     (fd, path, st, flags),
     EIO)
CALL(int, stat, (const char *path, struct stat *st), (path, st), EIO)
CALL(int, fstatfs, (int fd, struct statfs *fs), (fd, fs), EIO)
CALL(int, fstatvfs, (int fd, struct statvfs *fs), (fd, fs), EIO)
CALL(int, gethostname, (char *name, size_t len), (name, len), EPERM)
CALL(int, getrlimit, (int what, struct rlimit *limit), (what, limit), EPERM)
CALL(int, fallocate, (int fd, int mode, off_t at, off_t len), (fd, mode, at, len), ENOSPC)
CALL(int, ftruncate, (int fd, off_t len), (fd, len), EIO)
CALL(ssize_t, pread, (int fd, void *dst, size_t len, off_t at), (fd, dst, len, at), EIO)
CALL(ssize_t, pwrite, (int fd, const void *src, size_t len, off_t at), (fd, src, len, at), ENOSPC)
CALL(ssize_t, read, (int fd, void *dst, size_t len), (fd, dst, len), EIO)
CALL(ssize_t, write, (int fd, const void *src, size_t len), (fd, src, len), ENOSPC)
CALL(int, fdatasync, (int fd), (fd), EIO)
CALL(int, fsync, (int fd), (fd), EIO)
CALL(int, msync, (void *at, size_t len, int flags), (at, len, flags), EIO)
CALL(int, flock, (int fd, int operation), (fd, operation), ENOLCK)
CALL(int, mkdir, (const char *path, mode_t mode), (path, mode), ENOSPC)
CALL(int, mkdirat, (int fd, const char *path, mode_t mode), (fd, path, mode), ENOSPC)
CALL(int, unlinkat, (int fd, const char *path, int flags), (fd, path, flags), EIO)
CALL(int, rename, (const char *from, const char *to), (from, to), EIO)
CALL(int,
     renameat,
     (int from_fd, const char *from, int to_fd, const char *to),
     (from_fd, from, to_fd, to),
     EIO)
CALL(ssize_t, getrandom, (void *dst, size_t len, unsigned flags), (dst, len, flags), EIO)
CALL(int, eventfd, (unsigned value, int flags), (value, flags), EMFILE)
CALL(int, socket, (int domain, int type, int protocol), (domain, type, protocol), EMFILE)
CALL(int, bind, (int fd, const struct sockaddr *at, socklen_t len), (fd, at, len), EADDRINUSE)
CALL(int, listen, (int fd, int backlog), (fd, backlog), EADDRINUSE)
CALL(int,
     setsockopt,
     (int fd, int level, int name, const void *value, socklen_t len),
     (fd, level, name, value, len),
     ENOPROTOOPT)
CALL(int,
     accept4,
     (int fd, struct sockaddr *at, socklen_t *len, int flags),
     (fd, at, len, flags),
     EMFILE)
STARVED(STARVE_CALLS,
        void *,
        mmap,
        (void *at, size_t len, int prot, int flags, int fd, off_t offset),
        (at, len, prot, flags, fd, offset),
        MAP_FAILED,
        ENOMEM)
STARVED(STARVE_CALLS, DIR *, fdopendir, (int fd), (fd), NULL, ENOMEM)
STARVED(STARVE_CALLS, struct dirent *, readdir, (DIR * dir), (dir), NULL, EIO)
STARVED(STARVE_CALLS,
        FILE *,
        fopen,
        (const char *path, const char *mode),
        (path, mode),
        NULL,
        EMFILE)
STARVED(STARVE_CALLS,
        int,
        pthread_create,
        (pthread_t * thread, const pthread_attr_t *attr, void *(*run)(void *), void *arg),
        (thread, attr, run, arg),
        EAGAIN,
        errno)
STARVED(
    STARVE_CALLS,
    int,
    getaddrinfo,
    (const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **out),
    (name, service, hints, out),
    EAI_MEMORY,
    errno)

/* What was buffered is lost, and the file closed all the same. */
extern int __real_fclose(FILE *file);
int __wrap_fclose(FILE *file);

int __wrap_fclose(FILE *file)
{
    const int result = __real_fclose(file);
    if (fails(STARVE_CALLS, "fclose")) {
        errno = ENOSPC;
        return EOF;
    }
    return result;
}

extern int __real_openat(int fd, const char *path, int flags, ...);
extern int __real_open(const char *path, int flags, ...);
int __wrap_openat(int fd, const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);

static mode_t mode_of(int flags, va_list args)
{
    return (flags & O_CREAT) != 0 ? va_arg(args, mode_t) : 0;
}

int __wrap_openat(int fd, const char *path, int flags, ...)
{
    if (fails(STARVE_CALLS, "openat")) {
        errno = EMFILE;
        return -1;
    }
    va_list args;
    va_start(args, flags);
    const mode_t mode = mode_of(flags, args);
    va_end(args);
    return __real_openat(fd, path, flags, mode);
}

int __wrap_open(const char *path, int flags, ...)
{
    if (fails(STARVE_CALLS, "open")) {
        errno = EMFILE;
        return -1;
    }
    va_list args;
    va_start(args, flags);
    const mode_t mode = mode_of(flags, args);
    va_end(args);
    return __real_open(path, flags, mode);
}
