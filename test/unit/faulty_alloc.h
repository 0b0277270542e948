/* faulty_alloc.h - allocations that fail when it is their turn, for tests that include a module:
 *
 *     #include "faulty_alloc.h"
 *     #define malloc faulty_malloc
 *     #include "../../plugin/mm_module.c"
 *     #undef malloc */
#ifndef FAULTY_ALLOC_H
#define FAULTY_ALLOC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

static long n_allocs_left = -1; /* until the one that fails; negative: none fails */

static inline bool alloc_fails(void)
{
    return n_allocs_left >= 0 && n_allocs_left-- == 0;
}

static inline void *faulty_malloc(size_t size)
{
    return alloc_fails() ? NULL : malloc(size);
}

static inline void *faulty_calloc(size_t n, size_t size)
{
    return alloc_fails() ? NULL : calloc(n, size);
}

static inline void *faulty_realloc(void *memory, size_t size)
{
    return alloc_fails() ? NULL : realloc(memory, size);
}

static inline char *faulty_strdup(const char *text)
{
    return alloc_fails() ? NULL : strdup(text);
}

#endif
