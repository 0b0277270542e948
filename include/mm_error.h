/* mm_error.h - the error list.
 *
 * Every function of this project that can fail returns 0 or one of these negative numbers. Only
 * mm_plugin.c translates them into the broker's codes. */
#ifndef MM_ERROR_H
#define MM_ERROR_H

#define MM_ERRORS(X)                                         \
    X(MM_EINVAL, -1, "invalid argument or setting")          \
    X(MM_ENOMEM, -2, "out of memory")                        \
    X(MM_EFULL, -3, "the spool is full")                     \
    X(MM_ETOOBIG, -4, "larger than the spool can ever hold") \
    X(MM_ECORRUPT, -5, "damaged data")                       \
    X(MM_EAGAIN, -6, "not now, try again")                   \
    X(MM_ETHREAD, -7, "a thread could not be started")       \
    X(MM_EKAFKA, -8, "the Kafka client reported an error")   \
    X(MM_EHTTP, -9, "the HTTP server could not be started")  \
    X(MM_EIO, -10, "the disk could not be read or written")  \
    X(MM_EVERSION, -11, "written by a newer version")        \
    X(MM_EBUSY, -12, "in use by another process")            \
    X(MM_EPARTIAL, -13, "more bytes are needed")

enum mm_error {
#define MM_ERROR_ENUM(name, value, text) name = (value),
    MM_ERRORS(MM_ERROR_ENUM)
#undef MM_ERROR_ENUM
};

/* The text of an error number; "no error" for 0, "unknown error" for anything else. Never NULL.
 *
 * Thread: any. */
const char *mm_strerror(int err);

#endif
