#include "mm_file.h"

#include "mm_error.h"

#include <errno.h>
#include <unistd.h>

int mm_file_read(int fd, uint64_t offset, void *dst, size_t len, size_t *n)
{
    *n = 0;
    while (*n < len) {
        ssize_t got = pread(fd, (uint8_t *)dst + *n, len - *n, (off_t)(offset + *n));
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return MM_EIO;
        }
        if (got == 0) {
            break;
        }
        *n += (size_t)got;
    }
    return 0;
}

int mm_file_write(int fd, uint64_t offset, const void *data, size_t len)
{
    const uint8_t *at = data;
    while (len > 0) {
        ssize_t n = pwrite(fd, at, len, (off_t)offset);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            errno = n == 0 ? EIO : errno;
            return MM_EIO;
        }
        at += n;
        offset += (uint64_t)n;
        len -= (size_t)n;
    }
    return 0;
}
