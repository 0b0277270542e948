#include "mm_segment.h"

#include "mm_error.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

/* Linux 5.14; older kernels answer EINVAL and the pages come one by one. */
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

/* The salt need not be secret, only different from that of the file that held these blocks before.
 */
static uint64_t random_salt(void)
{
    uint64_t salt;
    if (getrandom(&salt, sizeof salt, GRND_NONBLOCK) == (ssize_t)sizeof salt) {
        return salt;
    }
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_nsec * 0x9E3779B97F4A7C15u ^ (uint64_t)now.tv_sec << 32 ^
           (uint64_t)(uintptr_t)&salt;
}

uint32_t mm_segment_round(uint64_t bytes)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    if (bytes > UINT32_MAX - page) {
        return 0;
    }
    return (uint32_t)((bytes + page - 1) / page * page);
}

int mm_segment_new(uint32_t size, struct mm_segment **out)
{
    *out = NULL;
    struct mm_segment *seg = aligned_alloc(alignof(struct mm_segment), sizeof *seg);
    if (seg == NULL) {
        return MM_ENOMEM;
    }
    void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) {
        free(seg);
        return MM_ENOMEM;
    }
    seg->base = base;
    seg->number = 0;
    seg->salt = random_salt();
    seg->size = size;
    atomic_init(&seg->end, 0);
    atomic_init(&seg->next, NULL);
    *out = seg;
    return 0;
}

void mm_segment_populate(struct mm_segment *seg)
{
    /* EINVAL (old kernel) and ENOMEM (memory limit) are both mended by the first write. */
    (void)madvise(seg->base, seg->size, MADV_POPULATE_WRITE);
}

void mm_segment_free(struct mm_segment *seg)
{
    if (seg == NULL) {
        return;
    }
    munmap(seg->base, seg->size);
    free(seg);
}
