/* mm_page.h - the files of the status page, which are part of the program.
 *
 * They are plugin/page/page.*, put into a header of bytes by cmake/embed.cmake. The page asks for
 * "status" every two seconds (docs/status.md) and loads nothing from elsewhere.
 *
 * Thread: any. */
#ifndef MM_PAGE_H
#define MM_PAGE_H

#include <stddef.h>

struct mm_page
{
    const char *path; /* "/" is the page itself, the others are what it loads */
    const char *type; /* the MIME type */
    const void *data;
    size_t len;
};

/* NULL: there is none of this path. Static. */
const struct mm_page *mm_page_find(const char *path);

/* The Content-Security-Policy of the page: nothing but its own files and its own questions. */
#define MM_PAGE_POLICY                                                          \
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; " \
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

#endif
