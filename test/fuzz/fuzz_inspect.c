/* The directory of a log is looked at whatever is in it. The input is a segment file and, behind
 * it, STATE. A fuzzer does not find checksums, so bits of the first byte say which of those that
 * are wrong are set right before. */
#include "mm_inspect.h"
#include "mm_layout.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SEGMENT_LEN 8192

enum {
    GOOD_HEADER = 1,
    GOOD_SEAL = 2,
    GOOD_STATE = 4,
    GOOD_RECORD = 8,
    CUT = 16,
};

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char dir[] = "/dev/shm/mm-fuzz-XXXXXX";
static char segment_path[64];
static char state_path[64];

static void remove_all(void)
{
    (void)unlink(segment_path);
    (void)unlink(state_path);
    (void)rmdir(dir);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    if (mkdtemp(dir) == NULL) {
        abort();
    }
    snprintf(segment_path, sizeof segment_path, "%s/0000000000000001.seg", dir);
    snprintf(state_path, sizeof state_path, "%s/STATE", dir);
    (void)atexit(remove_all);
    return 0;
}

static void write_file(const char *path, const uint8_t *bytes, size_t len)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || write(fd, bytes, len) != (ssize_t)len) {
        abort();
    }
    close(fd);
}

static const uint8_t header_start[] = {'M', 'Q', 'K', 'S', 'P', 'O', 'O', 'L', 1, 0, 0, 0};
static const uint8_t seal_start[] = {'M', 'Q', 'K', 'S', 'S', 'E', 'A', 'L'};
static const uint8_t state_start[] = {'M', 'Q', 'K', 'S', 'T', 'A', 'T', 'E', 1, 0, 0, 0};

static void put_crc(uint8_t *at, uint32_t crc)
{
    memcpy(at, &crc, sizeof crc);
}

static void set_right(uint8_t *segment, uint8_t *state, unsigned what)
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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static _Alignas(8) uint8_t bytes[SEGMENT_LEN + MM_LAYOUT_STATE_LEN];
    char errstr[256];
    struct mm_inspect *in;
    if (size < 1) {
        return 0;
    }
    unsigned what = data[0];
    size_t len = size - 1 < sizeof bytes ? size - 1 : sizeof bytes;
    memset(bytes, 0, sizeof bytes);
    memcpy(bytes, data + 1, len);
    set_right(bytes, bytes + SEGMENT_LEN, what);
    size_t cut = (what & CUT) != 0 && size - 1 < SEGMENT_LEN ? size - 1 : SEGMENT_LEN;
    write_file(segment_path, bytes, cut);
    write_file(state_path, bytes + SEGMENT_LEN, MM_LAYOUT_STATE_LEN);

    if (mm_inspect_open(dir, &in, errstr, sizeof errstr) != 0) {
        abort(); /* there is a segment and STATE */
    }
    size_t n = 0;
    struct mm_inspect_verify_options opts = {.on_damage = on_damage, .arg = &n};
    struct mm_inspect_verdict verdict;
    uint64_t seq;
    uint64_t time_ms;
    if (mm_inspect_verify(in, &opts, &verdict) != 0) {
        abort();
    }
    (void)mm_inspect_oldest(in, &seq, &time_ms);
    mm_inspect_close(in);
    return 0;
}
