/* mm_keyfile.h - files with secrets, keys and certificates: can they be read, and are they what
 * they should be?
 *
 * No cryptography: what a key is worth is for TLS to say. Nothing of a file's content ever gets
 * into an error text. */
#ifndef MM_KEYFILE_H
#define MM_KEYFILE_H

#include <stdbool.h>
#include <stddef.h>

enum mm_keyfile_kind {
    MM_KEYFILE_CERTIFICATES, /* PEM: one CERTIFICATE at least */
    MM_KEYFILE_KEY,          /* PEM: a PRIVATE KEY, which may be encrypted */
    MM_KEYFILE_SECRET,       /* one line: a password */
    MM_KEYFILE_OTHER,        /* not empty; a keytab */
};

/* The longest secret, in bytes with its NUL. */
#define MM_SECRET_LEN 4096

/* Judge a file.
 *
 * Thread: any. It reads the file. Errors: MM_EINVAL, why says what is wrong with it ("it cannot be
 * opened: No such file or directory"). */
int mm_keyfile_check(const char *path, enum mm_keyfile_kind kind, char *why, size_t why_len);

/* Read a secret from its file: all of it but the end of its one line.
 *
 * Thread: any. Errors: as mm_keyfile_check(); dst holds "" then. The caller wipes dst with
 * explicit_bzero(). */
int mm_secret_read(const char *path, char dst[MM_SECRET_LEN], char *why, size_t why_len);

/* Read a file that is not empty, of at most 4 MiB: *len bytes and a NUL behind them, to be given
 * back by mm_keyfile_unload(), which wipes them and accepts NULL. NULL: it cannot be had, why says
 * why.
 *
 * Thread: any. */
char *mm_keyfile_load(const char *path, size_t *len, char *why, size_t why_len);
void mm_keyfile_unload(char *data, size_t len);

/* Does everybody on this machine have a right on the file? False also when that cannot be told.
 *
 * Thread: any. */
bool mm_keyfile_is_open_to_all(const char *path);

/* Is the key in a PEM file encrypted, so that it takes a password? False also when the file cannot
 * be read. Thread: any. */
bool mm_keyfile_is_encrypted(const char *path);

#endif
