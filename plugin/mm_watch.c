#include "mm_watch.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_MAX ((size_t)4 * 1024 * 1024)

/* 64-bit FNV-1a: short, and good enough to tell two versions of a file apart.
 * draft-eastlake-fnv, section 2. */
#define FNV_PRIME UINT64_C(0x100000001B3)

static uint64_t add_bytes(uint64_t sum, const void *data, size_t len)
{
    const uint8_t *bytes = data;
    for (size_t i = 0; i < len; i++) {
        sum = (sum ^ bytes[i]) * FNV_PRIME;
    }
    return sum;
}

/* Returns how many bytes were added; -1: it cannot be read. */
static int64_t add_content(int fd, uint64_t *sum)
{
    char buffer[16384];
    size_t len = 0;
    while (len < FILE_MAX) {
        ssize_t n = read(fd, buffer, sizeof buffer);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return n < 0 ? -1 : (int64_t)len;
        }
        *sum = add_bytes(*sum, buffer, (size_t)n);
        len += (size_t)n;
    }
    return (int64_t)len;
}

/* With its length, so that what one file loses at its end is not what the next begins with. */
static uint64_t add_len(uint64_t sum, int64_t len)
{
    return add_bytes(sum, &len, sizeof len);
}

uint64_t mm_watch_add_content(uint64_t sum, const void *data, size_t len)
{
    return add_len(add_bytes(sum, data, len), (int64_t)len);
}

uint64_t mm_watch_add(uint64_t sum, const char *path)
{
    struct stat st;
    int64_t len = -1;
    /* O_NONBLOCK: a pipe without a writer is not waited for. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode)) {
        len = add_content(fd, &sum);
    }
    if (fd >= 0) {
        close(fd);
    }
    return add_len(sum, len);
}
