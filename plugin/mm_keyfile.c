#include "mm_keyfile.h"

#include "mm_error.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* What is larger is no file of certificates: all that a system trusts are some 200 KiB. */
#define MAX_FILE_LEN ((size_t)4 * 1024 * 1024)

/* A file in memory, with a NUL behind it. */
struct content
{
    char *data;
    size_t len;
};

static void wipe(struct content *c)
{
    if (c->data != NULL) {
        explicit_bzero(c->data, c->len);
        free(c->data);
    }
    *c = (struct content){0};
}

static int fail(char *why, size_t why_len, const char *what)
{
    snprintf(why, why_len, "%s", what);
    return MM_EINVAL;
}

static int fail_errno(char *why, size_t why_len, const char *what)
{
    char reason[128] = "";
    const char *text = strerror_r(errno, reason, sizeof reason);
    snprintf(why, why_len, "%s: %s", what, text);
    return MM_EINVAL;
}

static int read_all(int fd, struct content *c, char *why, size_t why_len)
{
    /* One byte more than the size, so that a file that grows meanwhile is not taken for whole. */
    while (c->len <= MAX_FILE_LEN) {
        ssize_t n = read(fd, c->data + c->len, MAX_FILE_LEN + 1 - c->len);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return fail_errno(why, why_len, "it cannot be read");
        }
        if (n == 0) {
            c->data[c->len] = '\0';
            return c->len == 0 ? fail(why, why_len, "it is empty") : 0;
        }
        c->len += (size_t)n;
    }
    return fail(why, why_len, "it is larger than 4 MiB");
}

static int load(const char *path, struct content *c, char *why, size_t why_len)
{
    *c = (struct content){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) {
        return fail_errno(why, why_len, "it cannot be opened");
    }
    struct stat st;
    int rc = 0;
    if (fstat(fd, &st) != 0) {
        rc = fail_errno(why, why_len, "it cannot be looked at");
    } else if (!S_ISREG(st.st_mode)) {
        rc = fail(why, why_len, S_ISDIR(st.st_mode) ? "it is a directory" : "it is no plain file");
    }
    if (rc == 0) {
        c->data = malloc(MAX_FILE_LEN + 1);
        rc = c->data == NULL ? fail(why, why_len, "there is no memory to read it")
                             : read_all(fd, c, why, why_len);
    }
    (void)close(fd);
    if (rc != 0) {
        wipe(c);
    }
    return rc;
}

/* The block of PEM whose label ends in `label`, from its BEGIN line; NULL: there is none that is
 * whole. */
static const char *find_block(const struct content *c, const char *label)
{
    char end_line[64];
    snprintf(end_line, sizeof end_line, "%s-----", label);
    for (const char *begin = c->data; (begin = strstr(begin, "-----BEGIN ")) != NULL;) {
        const char *eol = begin + strcspn(begin, "\r\n");
        if (memmem(begin, (size_t)(eol - begin), end_line, strlen(end_line)) != NULL) {
            return strstr(eol, "-----END ") != NULL ? begin : NULL;
        }
        begin = eol; /* no byte is looked at again: not even a file of nothing else takes long */
    }
    return NULL;
}

static int check_secret(const struct content *c, char *why, size_t why_len)
{
    static const char mark[] = "\xEF\xBB\xBF"; /* as editors of Windows write it, unseen */
    size_t len = c->len;
    if (len > 0 && c->data[len - 1] == '\n') {
        len--;
    }
    if (len > 0 && c->data[len - 1] == '\r') {
        len--;
    }
    if (len == 0) {
        return fail(why, why_len, "it holds nothing but the end of a line");
    }
    if (len >= MM_SECRET_LEN) {
        return fail(why, why_len, "it is longer than 4095 bytes");
    }
    if (len >= strlen(mark) && memcmp(c->data, mark, strlen(mark)) == 0) {
        return fail(why, why_len, "it begins with a byte order mark (EF BB BF)");
    }
    for (size_t i = 0; i < len; i++) {
        if (c->data[i] == '\n' || c->data[i] == '\r') {
            return fail(why, why_len, "it has more than one line");
        }
        if (c->data[i] == '\0') {
            return fail(why, why_len, "it has a NUL byte");
        }
    }
    return 0;
}

static int check(const struct content *c, enum mm_keyfile_kind kind, char *why, size_t why_len)
{
    switch (kind) {
        case MM_KEYFILE_CERTIFICATES:
            return find_block(c, "CERTIFICATE") != NULL
                       ? 0
                       : fail(why, why_len, "it has no PEM block \"BEGIN CERTIFICATE\"");
        case MM_KEYFILE_KEY:
            return find_block(c, "PRIVATE KEY") != NULL
                       ? 0
                       : fail(why, why_len, "it has no PEM block \"BEGIN PRIVATE KEY\"");
        case MM_KEYFILE_SECRET:
            return check_secret(c, why, why_len);
        case MM_KEYFILE_OTHER:
            break;
    }
    return 0;
}

char *mm_keyfile_load(const char *path, size_t *len, char *why, size_t why_len)
{
    struct content c;
    if (load(path, &c, why, why_len) != 0) {
        return NULL;
    }
    *len = c.len;
    return c.data;
}

void mm_keyfile_unload(char *data, size_t len)
{
    struct content c = {data, len};
    wipe(&c);
}

int mm_keyfile_check(const char *path, enum mm_keyfile_kind kind, char *why, size_t why_len)
{
    struct content c;
    int rc = load(path, &c, why, why_len);
    if (rc == 0) {
        rc = check(&c, kind, why, why_len);
        wipe(&c);
    }
    return rc;
}

int mm_secret_read(const char *path, char dst[MM_SECRET_LEN], char *why, size_t why_len)
{
    dst[0] = '\0';
    struct content c;
    int rc = load(path, &c, why, why_len);
    if (rc != 0) {
        return rc;
    }
    rc = check_secret(&c, why, why_len);
    if (rc == 0) {
        size_t len = strcspn(c.data, "\r\n");
        memcpy(dst, c.data, len);
        dst[len] = '\0';
    }
    wipe(&c);
    return rc;
}

bool mm_keyfile_is_open_to_all(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && (st.st_mode & (S_IROTH | S_IWOTH)) != 0;
}

bool mm_keyfile_is_encrypted(const char *path)
{
    char why[128];
    struct content c;
    if (load(path, &c, why, sizeof why) != 0) {
        return false;
    }
    /* PKCS#8, or the form of old. */
    const char *key = find_block(&c, "PRIVATE KEY");
    bool encrypted = key != NULL && (strncmp(key, "-----BEGIN ENCRYPTED", 20) == 0 ||
                                     strstr(key, "Proc-Type: 4,ENCRYPTED") != NULL);
    wipe(&c);
    return encrypted;
}
