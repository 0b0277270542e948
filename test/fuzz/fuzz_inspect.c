/* The directory of a log is looked at whatever is in it. A fuzzer does not find checksums, so bits
 * of the first byte say which of those that are wrong are set right before. Behind it come the
 * parts of the files that are not 0: see parts. */
#include "mm_error.h"
#include "mm_inspect.h"
#include "mm_layout.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    GOOD_HEADER = 1,
    GOOD_SEAL = 2,
    GOOD_STATE = 4,
    GOOD_RECORD = 8,
    CUT = 16,
};

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
/* By the linker's --wrap: what looks damaged is looked at again a little later, in case that it is
 * being written. */
int __wrap_nanosleep(const struct timespec *wanted, struct timespec *left);

int __wrap_nanosleep(const struct timespec *wanted, struct timespec *left)
{
    (void)wanted, (void)left;
    return 0;
}

/* /proc/locks costs more than all the rest, and has nothing of ours. */
FILE *__wrap_fopen(const char *path, const char *mode);

FILE *__wrap_fopen(const char *path, const char *mode)
{
    (void)path, (void)mode;
    return NULL;
}

static char dir[] = "/dev/shm/mm-fuzz-XXXXXX";

/* The files stay open: less work for the kernel with each input. */
static struct file
{
    const char *name;
    int fd;
} files[] = {{"0000000000000001.seg", -1}, {"STATE", -1}, {"LOCK", -1}};

enum {
    SEGMENT,
    STATE,
    LOCK,
    N_FILES
};

static _Alignas(8) uint8_t segment[8192];
static uint8_t state[2 * MM_LAYOUT_STATE_LEN];
static uint8_t lock[64];

/* In the order of the input: where a part of it lies. */
static const struct part
{
    uint8_t *at;
    size_t len;
} parts[] = {
    {state, 256},
    {lock, sizeof lock},
    {segment, 128},                        /* the header's first copy */
    {segment + MM_LAYOUT_SEAL_OFFSET, 64}, /* the seal */
    {segment + 4096, 1024},                /* records */
    {state + MM_LAYOUT_STATE_LEN, 256},
    {segment + 2048, 128}, /* the header's second copy */
    {segment + 5120, sizeof segment - 5120},
};

static void remove_all(void)
{
    for (int i = 0; i < N_FILES; i++) {
        char path[64];
        snprintf(path, sizeof path, "%s/%s", dir, files[i].name);
        (void)unlink(path);
    }
    (void)rmdir(dir);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    if (mkdtemp(dir) == NULL) {
        abort();
    }
    (void)atexit(remove_all);
    for (int i = 0; i < N_FILES; i++) {
        char path[64];
        snprintf(path, sizeof path, "%s/%s", dir, files[i].name);
        files[i].fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (files[i].fd < 0) {
            abort();
        }
    }
    return 0;
}

static void write_file(int which, const uint8_t *bytes, size_t len)
{
    static size_t lens[N_FILES];
    const int fd = files[which].fd;
    if (pwrite(fd, bytes, len, 0) != (ssize_t)len ||
        (lens[which] > len && ftruncate(fd, (off_t)len) != 0)) {
        abort();
    }
    lens[which] = len;
}

static const uint8_t header_start[] = {'M', 'Q', 'K', 'S', 'P', 'O', 'O', 'L', 1, 0, 0, 0};
static const uint8_t seal_start[] = {'M', 'Q', 'K', 'S', 'S', 'E', 'A', 'L'};
static const uint8_t state_start[] = {'M', 'Q', 'K', 'S', 'T', 'A', 'T', 'E', 1, 0, 0, 0};

static void put_crc(uint8_t *at, uint32_t crc)
{
    memcpy(at, &crc, sizeof crc);
}

static void set_right(unsigned what)
{
    uint64_t salt;
    uint32_t crc;
    if ((what & GOOD_HEADER) != 0) {
        memcpy(segment, header_start, sizeof header_start);
        put_crc(segment + 124, mm_crc32c(0, segment, 124));
    }
    memcpy(&salt, segment + 48, sizeof salt);
    if ((what & GOOD_SEAL) != 0) {
        uint8_t *seal = segment + MM_LAYOUT_SEAL_OFFSET;
        memcpy(seal, seal_start, sizeof seal_start);
        crc = mm_crc32c(0, &salt, sizeof salt);
        put_crc(seal + 60, mm_crc32c(crc, seal, 60));
    }
    if ((what & GOOD_RECORD) != 0) {
        struct mm_record rec = {.seq = segment[4096], .topic_len = 1, .topic = "t"};
        uint8_t *at = segment + MM_LAYOUT_HEADER_LEN + (size_t)segment[4097] * 8;
        mm_record_commit(at, mm_record_encode(at, salt, &rec));
    }
    if ((what & GOOD_STATE) != 0) {
        memcpy(state, state_start, sizeof state_start);
        put_crc(state + 4092, mm_crc32c(0, state, 4092));
    }
}

static void on_damage(void *arg, const struct mm_inspect_damage *d)
{
    size_t *n = arg;
    *n += strlen(d->file) + strlen(d->text);
}

static void check(bool good)
{
    if (!good) {
        abort();
    }
}

static void spread(const uint8_t *data, size_t size)
{
    memset(segment, 0, sizeof segment);
    memset(state, 0, sizeof state);
    memset(lock, 0, sizeof lock);
    for (size_t i = 0; i < sizeof parts / sizeof parts[0] && size > 0; i++) {
        const size_t len = size < parts[i].len ? size : parts[i].len;
        memcpy(parts[i].at, data, len);
        data += len;
        size -= len;
    }
}

static void check_info(const struct mm_inspect_info *info)
{
    check(!info->held);
    for (const char *p = info->lock_text; *p != '\0'; p++) {
        check(*p >= ' ' && *p <= '~');
    }
    check(info->slot < 0 || info->slot_err[info->slot] == 0);
    check(info->n_pending <= info->n_records || info->slot >= 0);
}

/* A walk finds the records that the verdict counts, each sound and in its place. */
static void check_records(struct mm_inspect *in)
{
    size_t n_told = 0;
    struct mm_inspect_verify_options opts = {.on_damage = on_damage, .arg = &n_told};
    struct mm_inspect_verdict verdict;
    check(mm_inspect_verify(in, &opts, &verdict) == 0);
    check((verdict.n_damages > 0) == (n_told > 0));
    struct mm_inspect_reader_options all = {.segment = MM_INSPECT_ALL};
    struct mm_inspect_reader *reader = NULL;
    check(mm_inspect_reader_new(in, &all, &reader) == 0);
    struct mm_record rec;
    struct mm_inspect_place place;
    uint64_t n = 0;
    int err;
    while ((err = mm_inspect_next(reader, &rec, &place)) == 0) {
        check(place.offset >= MM_LAYOUT_HEADER_LEN && place.offset + place.size <= sizeof segment);
        n++;
    }
    check(err == MM_EAGAIN && n == verdict.n_records);
    mm_inspect_reader_free(reader);
    uint64_t seq;
    uint64_t time_ms;
    err = mm_inspect_oldest(in, &seq, &time_ms);
    check(err == MM_EAGAIN || (err == 0 && n > 0));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char errstr[256];
    struct mm_inspect *in;
    if (size < 1) {
        return 0;
    }
    const unsigned what = data[0];
    spread(data + 1, size - 1);
    set_right(what);
    const size_t cut = (what & CUT) != 0 ? (size_t)lock[0] << 5 : sizeof segment;
    write_file(SEGMENT, segment, cut);
    write_file(STATE, state, sizeof state);
    write_file(LOCK, lock, sizeof lock);
    check(mm_inspect_open(dir, &in, errstr, sizeof errstr) == 0);
    check_info(mm_inspect_info(in));
    check_records(in);
    mm_inspect_close(in);
    return 0;
}
