#include "mm_segment.h"

#include "mm_dir.h"
#include "mm_error.h"
#include "mm_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* Linux 5.14; older kernels answer EINVAL and the pages come one by one. */
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

/* Fewer are not worth a call. */
#define FORGET_PAGES 8

/* --- making -------------------------------------------------------------------------------------
 */

/* The salt need not be secret, only different from that of the file that held these blocks before.
 */
uint64_t mm_segment_salt(void)
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

static size_t page_size(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

uint32_t mm_segment_round(uint64_t bytes)
{
    uint64_t page = page_size();
    if (bytes > UINT32_MAX - page) {
        return 0;
    }
    return (uint32_t)((bytes + page - 1) / page * page);
}

static struct mm_segment *allocate(void)
{
    struct mm_segment *seg = aligned_alloc(alignof(struct mm_segment), sizeof *seg);
    if (seg != NULL) {
        memset(seg, 0, sizeof *seg);
        seg->fd = -1;
    }
    return seg;
}

int mm_segment_new(uint32_t size, struct mm_segment **out)
{
    *out = NULL;
    struct mm_segment *seg = allocate();
    if (seg == NULL) {
        return MM_ENOMEM;
    }
    void *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) {
        free(seg);
        return MM_ENOMEM;
    }
    seg->map = map;
    atomic_init(&seg->base, seg->map);
    seg->salt = mm_segment_salt();
    seg->size = size;
    *out = seg;
    return 0;
}

/* What the system's refusal means to us. */
static int error_of(int number)
{
    switch (number) {
        case ENOSPC:
        case EDQUOT:
            return MM_EFULL;
        case ENOMEM:
            return MM_ENOMEM;
        default:
            return MM_EIO;
    }
}

/* May a file of this process be so large? To try it would bring SIGXFSZ, by which it ends. */
static bool may_be_so_large(uint32_t size)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_FSIZE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY ||
        size <= limit.rlim_cur) {
        return true;
    }
    errno = EFBIG;
    return false;
}

/* Reserve the space. *reserved: the file system can; if not, there is nothing to be had but the
 * writing itself. */
static int reserve(int fd, uint32_t size, bool *reserved)
{
    *reserved = true;
    while (fallocate(fd, 0, 0, (off_t)size) != 0) {
        if (errno == EOPNOTSUPP) {
            *reserved = false;
            return 0;
        }
        if (errno != EINTR) {
            return error_of(errno);
        }
    }
    return 0;
}

/* Fill the new file behind fd. */
static int fill(struct mm_segment *seg, const struct mm_layout_header *h, bool map)
{
    uint8_t header[MM_LAYOUT_HEADER_LEN];
    bool reserved;
    int err = reserve(seg->fd, seg->size, &reserved);
    if (err != 0) {
        return err;
    }
    mm_layout_encode_header(header, h);
    err = mm_file_write(seg->fd, 0, header, sizeof header);
    err = err == 0 ? 0 : error_of(errno);
    /* A mapping of what is not reserved could end the process by SIGBUS: pwrite(2) then. */
    if (err != 0 || !map || !reserved) {
        return err;
    }
    void *at = mmap(NULL, seg->size, PROT_READ | PROT_WRITE, MAP_SHARED, seg->fd, 0);
    if (at == MAP_FAILED) {
        return error_of(errno);
    }
    seg->map = at;
    atomic_init(&seg->base, seg->map);
    return 0;
}

int mm_segment_create(const struct mm_dir *dir,
                      struct mm_layout_header *h,
                      uint32_t size,
                      bool map,
                      struct mm_segment **out)
{
    *out = NULL;
    struct mm_segment *seg;
    char name[MM_DIR_NAME_LEN];
    h->salt = mm_segment_salt();
    h->size = size;
    if (!may_be_so_large(size)) {
        return MM_EIO;
    }
    int err = mm_segment_describe(h, h->file, &seg);
    if (err != 0) {
        return err;
    }
    mm_dir_segment_name(h->file, name);
    seg->fd =
        openat(mm_dir_fd(dir), name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (seg->fd < 0) {
        int reason = errno;
        mm_segment_free(seg);
        errno = reason;
        return error_of(reason);
    }
    err = fill(seg, h, map);
    if (err != 0) {
        int reason = errno;
        /* At once: on ext4 a reservation that failed keeps all the space there was. */
        (void)unlinkat(mm_dir_fd(dir), name, 0);
        mm_segment_free(seg);
        errno = reason;
        return err;
    }
    *out = seg;
    return 0;
}

int mm_segment_describe(const struct mm_layout_header *h, uint64_t file, struct mm_segment **out)
{
    *out = allocate();
    if (*out == NULL) {
        return MM_ENOMEM;
    }
    (*out)->salt = h->salt;
    (*out)->file = file;
    (*out)->run_seq = h->run_seq;
    (*out)->first_seq = h->run_seq;
    (*out)->start = MM_LAYOUT_HEADER_LEN;
    (*out)->size = (uint32_t)h->size;
    atomic_init(&(*out)->end, MM_LAYOUT_HEADER_LEN);
    return 0;
}

/* --- writing ------------------------------------------------------------------------------------
 */

void mm_segment_populate(struct mm_segment *seg, uint32_t from, uint32_t to)
{
    size_t page = page_size();
    size_t begin = from / page * page;
    if (seg->map != NULL && to > begin) {
        /* EINVAL (old kernel) and ENOMEM (memory limit) are both mended by the first write. */
        (void)madvise(seg->map + begin, to - begin, MADV_POPULATE_WRITE);
    }
}

void mm_segment_forget_pages(struct mm_segment *seg, uint32_t from, uint32_t to)
{
    size_t page = page_size();
    size_t begin = (from + page - 1) / page * page;
    size_t end = to / page * page;
    if (seg->map != NULL && end > begin && end - begin >= FORGET_PAGES * page) {
        atomic_store_explicit(&seg->forgotten, (uint32_t)end, memory_order_relaxed);
        /* What goes from the mapping stays in the file's page cache, dirty as it was. */
        (void)madvise(seg->map + begin, end - begin, MADV_DONTNEED);
    }
}

int mm_segment_write(const struct mm_segment *seg, uint32_t offset, const void *data, size_t len)
{
    return mm_file_write(seg->fd, offset, data, len) == 0 ? 0 : error_of(errno);
}

int mm_segment_sync(const struct mm_segment *seg, uint32_t from, uint32_t to, bool whole)
{
    if (seg->map == NULL || whole) {
        return fdatasync(seg->fd) == 0 ? 0 : MM_EIO;
    }
    /* Of the mapping only what was written: the pages ahead stay writable, so that the producer
     * does not fault when it comes there. msync(2) syncs as fdatasync(2) does, of a range. */
    size_t page = page_size();
    size_t begin = from / page * page;
    return msync(seg->map + begin, to - begin, MS_SYNC) == 0 ? 0 : MM_EIO;
}

int mm_segment_seal(struct mm_segment *seg, const struct mm_layout_seal *seal)
{
    uint8_t bytes[MM_LAYOUT_SEAL_LEN];
    mm_layout_encode_seal(bytes, seg->salt, seal);
    int err = mm_file_write(seg->fd, MM_LAYOUT_SEAL_OFFSET, bytes, sizeof bytes);
    return err == 0 ? 0 : error_of(errno);
}

bool mm_segment_is_deleted(const struct mm_segment *seg)
{
    struct stat st;
    return seg->fd >= 0 && fstat(seg->fd, &st) == 0 && st.st_nlink == 0;
}

void mm_segment_trim(struct mm_segment *seg, uint32_t end)
{
    uint32_t size = mm_segment_round(end);
    if (size < seg->size && ftruncate(seg->fd, (off_t)size) != 0) {
        return; /* it is reserved for longer than it need be */
    }
}

/* --- reading ------------------------------------------------------------------------------------
 */

int mm_segment_open(const struct mm_dir *dir, uint64_t file, bool write)
{
    char name[MM_DIR_NAME_LEN];
    mm_dir_segment_name(file, name);
    /* What is to be read can be read on a file system that an error has made read-only. A FIFO of
     * this name must not be waited for. */
    int fd = openat(mm_dir_fd(dir), name,
                    (write ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd >= 0) {
        return fd;
    }
    return errno == ENOENT ? MM_EAGAIN : MM_EIO;
}

/* --- giving back --------------------------------------------------------------------------------
 */

void mm_segment_pin(const struct mm_segment *seg)
{
    if (seg->map != NULL && mlock(seg->map, seg->size) != 0) {
        /* Beyond the limit of locked memory it is refused. What is in the mapping is at least among
         * the last that the system takes; a sync that failed has left clean what is not in it, and
         * mm_segment_forget_pages() took it out before. */
        (void)madvise(seg->map, seg->size, MADV_POPULATE_READ);
    }
}

void mm_segment_close(struct mm_segment *seg)
{
    if (seg->fd >= 0) {
        close(seg->fd);
        seg->fd = -1;
    }
}

void mm_segment_unmap(struct mm_segment *seg)
{
    if (seg->map != NULL) {
        munmap(seg->map, seg->size);
        seg->map = NULL;
    }
}

int mm_segment_unlink(const struct mm_dir *dir, uint64_t file)
{
    char name[MM_DIR_NAME_LEN];
    mm_dir_segment_name(file, name);
    return unlinkat(mm_dir_fd(dir), name, 0) == 0 || errno == ENOENT ? 0 : MM_EIO;
}

void mm_segment_free(struct mm_segment *seg)
{
    if (seg == NULL) {
        return;
    }
    mm_segment_unmap(seg);
    mm_segment_close(seg);
    free(seg);
}
