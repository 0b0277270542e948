#include "text_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char *read_all(int fd, size_t size, size_t *len, const char **why)
{
    char *text = malloc(size + 1);
    if (text == NULL) {
        *why = strerror(ENOMEM);
        return NULL;
    }
    *len = 0;
    while (*len < size) {
        const ssize_t n = read(fd, text + *len, size - *len);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            *why = strerror(errno);
            free(text);
            return NULL;
        }
        if (n == 0) {
            break; /* somebody has cut it meanwhile */
        }
        *len += (size_t)n;
    }
    text[*len] = '\0';
    return text;
}

char *text_file_read(const char *path, size_t *len, const char **why)
{
    struct stat st;
    char *text = NULL;
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st) != 0) {
        *why = strerror(errno);
    } else if (S_ISDIR(st.st_mode)) {
        *why = strerror(EISDIR);
    } else if (!S_ISREG(st.st_mode)) {
        *why = "it is not a regular file";
    } else if ((uint64_t)st.st_size > TEXT_FILE_MAX) {
        *why = "it is larger than 16 MiB";
    } else {
        text = read_all(fd, (size_t)st.st_size, len, why);
    }
    if (fd >= 0) {
        close(fd);
    }
    return text;
}
