/* mm_error.h - the error list, and text from outside in an error line.
 *
 * Every function of this project that can fail returns 0 or one of these negative numbers. Only
 * mm_plugin.c translates them into the broker's codes. */
#ifndef MM_ERROR_H
#define MM_ERROR_H

#include <stdbool.h>
#include <stddef.h>

#define MM_ERRORS(X)                                         \
    X(MM_EINVAL, -1, "invalid argument or setting")          \
    X(MM_ENOMEM, -2, "out of memory")                        \
    X(MM_EFULL, -3, "the spool is full")                     \
    X(MM_ETOOBIG, -4, "larger than the spool can ever hold") \
    X(MM_ECORRUPT, -5, "damaged data")                       \
    X(MM_EAGAIN, -6, "not now, try again")                   \
    X(MM_ETHREAD, -7, "a thread could not be started")       \
    X(MM_EKAFKA, -8, "the Kafka client reported an error")   \
    X(MM_EHTTP, -9, "the HTTP server could not be started")

enum mm_error {
#define MM_ERROR_ENUM(name, value, text) name = (value),
    MM_ERRORS(MM_ERROR_ENUM)
#undef MM_ERROR_ENUM
};

/* The text of an error number; "no error" for 0, "unknown error" for anything else. Never NULL.
 *
 * Thread: any. */
const char *mm_strerror(int err);

/* Bytes of the UTF-8 character that text begins with, 1 to 4; 0 when it begins with none: len is 0,
 * or the form is not well (RFC 3629: too long, a surrogate, above U+10FFFF, cut off).
 *
 * Thread: any. */
size_t mm_utf8_len(const char *text, size_t len);

/* Is it UTF-8 throughout? An empty text is. Thread: any. */
bool mm_utf8_valid(const char *text, size_t len);

/* Room for 64 bytes of foreign text, "..." and the NUL: what an error line has for a value. */
#define MM_PRINTABLE_LEN 68

/* Make text from outside (len bytes) fit to stand in a line for people: control characters and
 * bytes that are no UTF-8 become '?', so that it can neither break the line nor fill it; what does
 * not fit into dst is cut between two characters and ends in "...". dst_len is at least 4. Returns
 * dst, always terminated.
 *
 * Thread: any. */
char *mm_printable(const char *text, size_t len, char *dst, size_t dst_len);

#endif
