#include "mm_dir.h"
#include "mm_error.h"
#include "mm_file.h"
#include "mm_inspect_impl.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

/* How often the directory is listed again because numbers are missing between two segments: the
 * name of one that is made while the names are read may escape. */
#define MAX_LOOKS 3

#define SEGMENT_NAME_LEN 20

#define OLDEST_MAX_BYTES (UINT64_C(64) << 20)

/* --- files --------------------------------------------------------------------------------------
 */

/* O_NONBLOCK: what is in the place of a file may be a pipe. */
int mm_inspect_open_file(int dir_fd, const char *name, struct stat *st)
{
    int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0) {
        return -1;
    }
    if (fstat(fd, st) == 0 && S_ISREG(st->st_mode)) {
        return fd;
    }
    close(fd);
    errno = EINVAL;
    return -1;
}

bool mm_inspect_all_zero(const uint8_t *bytes, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (bytes[i] != 0) {
            return false;
        }
    }
    return true;
}

static DIR *open_dir(int dir_fd, const char *name)
{
    int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (dir == NULL && fd >= 0) {
        close(fd);
    }
    return dir;
}

/* --- STATE --------------------------------------------------------------------------------------
 */

static int decode_slots(struct mm_inspect_info *info, const uint8_t *bytes)
{
    struct mm_layout_state state;
    int worst = 0;
    info->slot = -1;
    memset(&info->state, 0, sizeof info->state);
    for (int i = 0; i < 2; i++) {
        int err = mm_layout_decode_state(bytes + (size_t)i * MM_LAYOUT_STATE_LEN, &state);
        info->slot_err[i] = err;
        worst = err == MM_ECORRUPT ? err : worst;
        if (err == 0 && (info->slot < 0 || state.generation > info->state.generation)) {
            info->slot = i;
            info->state = state;
        }
    }
    return worst;
}

/* The owner may be writing a slot: what looks damaged is read again. */
static int read_state(struct mm_inspect *in, uint8_t bytes[2 * MM_LAYOUT_STATE_LEN])
{
    struct stat st;
    memset(bytes, 0, (size_t)2 * MM_LAYOUT_STATE_LEN);
    int fd = mm_inspect_open_file(in->fd, "STATE", &st);
    in->info.has_state_file = fd >= 0;
    if (fd < 0) {
        (void)decode_slots(&in->info, bytes);
        return errno == ENOENT ? 0 : MM_EIO;
    }
    int err = MM_ECORRUPT;
    for (int i = 0; i < MAX_LOOKS && err == MM_ECORRUPT; i++) {
        memset(bytes, 0, (size_t)2 * MM_LAYOUT_STATE_LEN);
        size_t n;
        if (mm_file_read(fd, 0, bytes, (size_t)2 * MM_LAYOUT_STATE_LEN, &n) != 0) {
            close(fd);
            return MM_EIO;
        }
        err = decode_slots(&in->info, bytes);
    }
    close(fd);
    return 0;
}

uint64_t mm_inspect_low(const struct mm_layout_state *state)
{
    uint64_t low = UINT64_MAX;
    for (uint32_t i = 0; i < state->n_ranges; i++) {
        low = state->ranges[i].low < low ? state->ranges[i].low : low;
    }
    return low;
}

bool mm_inspect_finished(const struct mm_inspect *in, uint64_t seq, uint32_t topic_hash)
{
    const struct mm_layout_state *state = &in->info.state;
    bool finished = false;
    for (uint32_t i = 0; i < state->n_ranges && state->ranges[i].hash <= topic_hash; i++) {
        finished = seq < state->ranges[i].low;
    }
    return finished;
}

/* --- LOCK ---------------------------------------------------------------------------------------
 */

#define FILE_ID_LEN 64

/* "1: FLOCK  ADVISORY  WRITE 712 fe:00:9977996 0 EOF"; with "->" before FLOCK, one that waits. */
struct lock_line
{
    char type[16];
    char mode[16];
    char pid[16];
    char file[FILE_ID_LEN]; /* device and inode */
    char from[24];          /* byte */
};

static bool parse_lock_line(const char *line, struct lock_line *out)
{
    return sscanf(line, "%*s %15s %*s %15s %15s %63s %23s", out->type, out->mode, out->pid,
                  out->file, out->from) == 5;
}

/* How /proc/locks names a file is not always what stat(2) says of it (overlayfs, btrfs). A lock of
 * our own, of the other family, which flock(2) does not know of, on a byte that nobody uses, shows
 * it. */
#define OWN_LOCK_BYTE INT64_C(0x3FFFFFFFFFFF5150)

static bool find_own_lock(FILE *locks, char id[FILE_ID_LEN])
{
    char text[256];
    char pid[24];
    char from[24];
    struct lock_line line;
    snprintf(pid, sizeof pid, "%d", (int)getpid());
    snprintf(from, sizeof from, "%" PRId64, OWN_LOCK_BYTE);
    while (fgets(text, sizeof text, locks) != NULL) {
        if (parse_lock_line(text, &line) && strcmp(line.type, "POSIX") == 0 &&
            strcmp(line.pid, pid) == 0 && strcmp(line.from, from) == 0) {
            memcpy(id, line.file, FILE_ID_LEN);
            return true;
        }
    }
    return false;
}

/* Who holds a flock(2) on the file behind fd? 0: nobody that we can see. */
static int64_t find_holder(int fd, const struct stat *st)
{
    struct flock own = {
        .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = OWN_LOCK_BYTE, .l_len = 1};
    char id[FILE_ID_LEN];
    char text[256];
    struct lock_line line;
    int64_t holder = 0;
    FILE *locks = fopen("/proc/locks", "re");
    if (locks == NULL) {
        return 0;
    }
    if (fcntl(fd, F_SETLK, &own) != 0 || !find_own_lock(locks, id)) {
        snprintf(id, sizeof id, "%02x:%02x:%ju", major(st->st_dev), minor(st->st_dev),
                 (uintmax_t)st->st_ino);
    }
    rewind(locks);
    while (holder == 0 && fgets(text, sizeof text, locks) != NULL) {
        if (parse_lock_line(text, &line) && strcmp(line.type, "FLOCK") == 0 &&
            strcmp(line.mode, "WRITE") == 0 && strcmp(line.file, id) == 0) {
            holder = strtoll(line.pid, NULL, 10);
        }
    }
    (void)fclose(locks);
    return holder;
}

static bool read_lock(struct mm_inspect *in)
{
    struct stat st;
    int fd = mm_inspect_open_file(in->fd, "LOCK", &st);
    if (fd < 0) {
        return false;
    }
    mm_dir_read_lock_text(fd, in->info.lock_text);
    in->info.holder = find_holder(fd, &st);
    in->info.held = in->info.holder != 0;
    in->info.holder = in->info.holder > 0 ? in->info.holder : 0;
    close(fd); /* and with it our own lock */
    return true;
}

/* --- segments -----------------------------------------------------------------------------------
 */

static bool is_segment_name(const char *name)
{
    return strspn(name, "0123456789abcdef") == 16 && strcmp(name + 16, ".seg") == 0;
}

/* Bytes of the file in which records can be. */
uint64_t mm_inspect_area_end(const struct mm_inspect_segment *seg)
{
    uint64_t end = seg->seal_err == 0 ? seg->seal.end : seg->header.size;
    end = end < seg->size ? end : seg->size;
    return (end + MM_RECORD_ALIGN - 1) / MM_RECORD_ALIGN * MM_RECORD_ALIGN;
}

/* Learn by reading all of it what a seal would tell. */
static int scan_segment(struct mm_scan *scan, int fd, struct mm_inspect_segment *seg)
{
    struct mm_record rec;
    uint64_t offset;
    size_t size;
    int err;
    seg->first_seq = seg->last_seq = seg->n_records = seg->first_ms = seg->n_bad_bytes = 0;
    seg->end = MM_LAYOUT_HEADER_LEN;
    mm_scan_begin(scan, fd, seg->header.salt, mm_inspect_area_end(seg));
    while ((err = mm_scan_next(scan, &rec, &offset, &size)) == 0) {
        if (seg->n_records++ == 0) {
            seg->first_seq = rec.seq;
            seg->first_ms = rec.time_ms;
        }
        seg->last_seq = rec.seq;
        seg->n_bad_bytes += offset - seg->end;
        seg->end = offset + size;
    }
    return err == MM_EAGAIN ? 0 : err;
}

static void take_seal(struct mm_inspect_segment *seg)
{
    seg->first_seq = seg->seal.first_seq;
    seg->last_seq = seg->seal.last_seq;
    seg->n_records = seg->seal.n_records;
    seg->first_ms = seg->seal.first_ms;
    seg->end = seg->seal.end;
}

/* Is the file one that was just being made: nothing but zeros? One that is larger than a segment
 * can be is none of ours, and need not be read, which could take for ever: it may be a hole. */
static int is_empty_file(int fd, uint64_t size, bool *empty)
{
    uint8_t bytes[65536];
    *empty = size <= UINT32_MAX;
    for (uint64_t at = 0; *empty && at < size;) {
        size_t n;
        if (mm_file_read(fd, at, bytes, sizeof bytes, &n) != 0) {
            return MM_EIO;
        }
        if (n == 0) {
            break;
        }
        *empty = mm_inspect_all_zero(bytes, n);
        at += n;
    }
    return 0;
}

/* A seal that cannot be, whatever its checksum says. */
static bool is_impossible(const struct mm_layout_seal *seal, const struct mm_layout_header *h)
{
    return seal->first_seq == 0 || seal->first_seq > seal->last_seq ||
           seal->end < MM_LAYOUT_HEADER_LEN || seal->end > h->size;
}

/* Size, header and seal, in this order: a file has its size before its header, and loses some of it
 * only after it has its seal. *good: nothing about them is damaged. */
static int read_header(int fd, struct mm_inspect_segment *seg, bool *good)
{
    struct stat st;
    uint8_t bytes[MM_LAYOUT_HEADER_LEN] = {0};
    size_t n;
    if (fstat(fd, &st) != 0) {
        return MM_EIO;
    }
    seg->size = (uint64_t)st.st_size;
    seg->on_disk = (uint64_t)st.st_blocks * 512;
    if (mm_file_read(fd, 0, bytes, sizeof bytes, &n) != 0) {
        return MM_EIO;
    }
    memset(&seg->header, 0, sizeof seg->header);
    memset(&seg->seal, 0, sizeof seg->seal);
    seg->seal_err = MM_EAGAIN;
    seg->header_err = mm_layout_decode_header(bytes, n, &seg->header, &seg->n_copies);
    if (seg->header_err == 0) {
        seg->seal_err =
            mm_layout_decode_seal(bytes + MM_LAYOUT_SEAL_OFFSET, seg->header.salt, &seg->seal);
    }
    if (seg->seal_err == 0 && is_impossible(&seg->seal, &seg->header)) {
        memset(&seg->seal, 0, sizeof seg->seal);
        seg->seal_err = MM_ECORRUPT;
    }
    bool is_short = seg->seal_err == MM_EAGAIN && seg->size < seg->header.size;
    *good = seg->n_copies == 2 && seg->seal_err != MM_ECORRUPT && !is_short;
    return 0;
}

/* What looks damaged is read again: it may be written at this moment. *empty: there is nothing in
 * the file yet. */
static int read_header_at_rest(int fd, struct mm_inspect_segment *seg, bool *empty)
{
    bool good = false;
    *empty = false;
    for (int i = 0; i < MAX_LOOKS && !good && !*empty; i++) {
        if (i > 0) {
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        }
        int err = read_header(fd, seg, &good);
        if (err == 0 && seg->header_err == MM_ECORRUPT) {
            err = is_empty_file(fd, seg->size, empty);
        }
        if (err != 0) {
            return err;
        }
    }
    return 0;
}

static int look_inside(struct mm_scan *scan, int fd, struct mm_inspect_segment *seg)
{
    bool empty;
    int err = read_header_at_rest(fd, seg, &empty);
    if (err != 0) {
        return err;
    }
    if (seg->header_err != 0) {
        seg->state = empty ? MM_INSPECT_SPARE : MM_INSPECT_DAMAGED;
        return 0;
    }
    if (seg->seal_err == 0) {
        take_seal(seg);
        seg->state = MM_INSPECT_SEALED;
        return 0;
    }
    err = scan_segment(scan, fd, seg);
    if (seg->n_records == 0) {
        seg->state = MM_INSPECT_SPARE;
    } else {
        seg->state = seg->seal_err == MM_EAGAIN ? MM_INSPECT_OPEN : MM_INSPECT_SEALED;
    }
    return err;
}

/* MM_EAGAIN: the file is gone. What cannot be read is a damaged segment. */
static int look_at_segment(struct mm_inspect *in,
                           struct mm_scan *scan,
                           const char *name,
                           struct mm_inspect_segment *seg)
{
    struct stat st;
    memset(seg, 0, sizeof *seg);
    memcpy(seg->name, name, SEGMENT_NAME_LEN + 1);
    seg->seal_err = MM_EAGAIN;
    int fd = mm_inspect_open_file(in->fd, name, &st);
    if (fd < 0 && errno == ENOENT) {
        return MM_EAGAIN;
    }
    int err = MM_EIO;
    if (fd >= 0) {
        err = look_inside(scan, fd, seg);
        close(fd);
    }
    if (err == MM_EIO) {
        seg->header_err = MM_EIO;
        seg->state = MM_INSPECT_DAMAGED;
        err = 0;
    }
    return err;
}

/* What cannot be read last, what has no records before it, by number in the name. */
static int compare_segments(const void *a, const void *b)
{
    const struct mm_inspect_segment *x = a;
    const struct mm_inspect_segment *y = b;
    int rank_x = x->state == MM_INSPECT_DAMAGED ? 2 : x->state == MM_INSPECT_SPARE;
    int rank_y = y->state == MM_INSPECT_DAMAGED ? 2 : y->state == MM_INSPECT_SPARE;
    if (rank_x != rank_y) {
        return rank_x - rank_y;
    }
    if (x->first_seq != y->first_seq) {
        return x->first_seq < y->first_seq ? -1 : 1;
    }
    return strcmp(x->name, y->name);
}

static int add_segment(struct mm_inspect *in, size_t *cap, const struct mm_inspect_segment *seg)
{
    if (in->n_segments == *cap) {
        size_t more = *cap == 0 ? 16 : *cap * 2;
        struct mm_inspect_segment *grown = realloc(in->segments, more * sizeof *grown);
        if (grown == NULL) {
            return MM_ENOMEM;
        }
        in->segments = grown;
        *cap = more;
    }
    in->segments[in->n_segments++] = *seg;
    return 0;
}

static int list_segments(struct mm_inspect *in)
{
    DIR *dir = open_dir(in->fd, ".");
    if (dir == NULL) {
        return MM_EIO;
    }
    struct mm_scan scan = {0};
    struct mm_inspect_segment seg;
    size_t cap = 0;
    int err = 0;
    errno = 0;
    for (struct dirent *e; err == 0 && (e = readdir(dir)) != NULL; errno = 0) {
        if (!is_segment_name(e->d_name)) {
            continue;
        }
        err = look_at_segment(in, &scan, e->d_name, &seg);
        err = err == 0 ? add_segment(in, &cap, &seg) : err == MM_EAGAIN ? 0 : err;
    }
    err = err == 0 && errno != 0 ? MM_EIO : err;
    mm_scan_fini(&scan);
    closedir(dir);
    if (in->n_segments > 0) {
        qsort(in->segments, in->n_segments, sizeof *in->segments, compare_segments);
    }
    return err;
}

bool mm_inspect_has_records(const struct mm_inspect_segment *seg)
{
    return seg->state == MM_INSPECT_SEALED || seg->state == MM_INSPECT_OPEN;
}

static bool has_gap(const struct mm_inspect *in)
{
    for (size_t i = 1; i < in->n_segments && mm_inspect_has_records(&in->segments[i]); i++) {
        const struct mm_inspect_segment *seg = &in->segments[i];
        struct mm_inspect_gap gap =
            mm_inspect_gap(in->segments[i - 1].last_seq + 1, seg->first_seq, seg->header.run_seq);
        if (gap.n_before + gap.n_behind > 0) {
            return true;
        }
    }
    return false;
}

/* Without STATE the id is the one that most segments have, as it is for a start of the broker: a
 * few may be strangers. */
static int choose_uuid(const struct mm_inspect *in, uint8_t uuid[16], bool *found)
{
    uint8_t(*uuids)[16] = calloc(in->n_segments + 1, sizeof *uuids);
    size_t n = 0;
    if (uuids == NULL) {
        return MM_ENOMEM;
    }
    for (size_t i = 0; i < in->n_segments; i++) {
        if (in->segments[i].header_err == 0) {
            memcpy(uuids[n++], in->segments[i].header.uuid, sizeof *uuids);
        }
    }
    *found = n > 0;
    if (*found) {
        mm_layout_most_frequent_uuid(uuids, n, uuid);
    }
    free(uuids);
    return 0;
}

/* A segment of another log stands in the way of nothing, but is not read. */
static int set_strangers_apart(struct mm_inspect *in)
{
    uint8_t uuid[16] = {0};
    bool found = in->info.slot >= 0;
    if (found) {
        memcpy(uuid, in->info.state.uuid, sizeof uuid);
    } else if (choose_uuid(in, uuid, &found) != 0) {
        return MM_ENOMEM;
    }
    for (size_t i = 0; i < in->n_segments; i++) {
        struct mm_inspect_segment *seg = &in->segments[i];
        if (seg->header_err == 0 && memcmp(uuid, seg->header.uuid, sizeof uuid) != 0) {
            seg->state = MM_INSPECT_DAMAGED;
        }
    }
    if (found) {
        mm_layout_format_uuid(uuid, in->info.uuid);
    }
    if (in->n_segments > 0) {
        qsort(in->segments, in->n_segments, sizeof *in->segments, compare_segments);
    }
    return 0;
}

/* --- a log --------------------------------------------------------------------------------------
 */

static void count_bad_files(struct mm_inspect *in)
{
    DIR *dir = open_dir(in->fd, "bad");
    if (dir == NULL) {
        return;
    }
    struct stat st;
    for (struct dirent *e; (e = readdir(dir)) != NULL;) {
        if (e->d_name[0] != '.' && fstatat(dirfd(dir), e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0) {
            in->info.n_bad_files++;
            in->info.bad_bytes += (uint64_t)st.st_size;
        }
    }
    closedir(dir);
}

static void add_up(struct mm_inspect *in)
{
    struct mm_inspect_info *info = &in->info;
    for (size_t i = 0; i < in->n_segments; i++) {
        const struct mm_inspect_segment *seg = &in->segments[i];
        info->n_bytes += seg->size;
        if (mm_inspect_has_records(seg)) {
            info->first_seq = info->first_seq == 0 ? seg->first_seq : info->first_seq;
            info->last_seq = seg->last_seq > info->last_seq ? seg->last_seq : info->last_seq;
            info->n_records += seg->n_records;
        }
    }
    if (info->slot < 0) {
        info->n_pending = info->n_records;
        return;
    }
    info->n_pending = info->state.n_pending;
    for (size_t i = in->n_segments; i-- > 0;) {
        const struct mm_inspect_segment *seg = &in->segments[i];
        if (mm_inspect_has_records(seg) && seg->last_seq >= info->state.next_seq) {
            uint64_t n_behind = seg->last_seq - info->state.next_seq + 1;
            info->n_pending += n_behind < seg->n_records ? n_behind : seg->n_records;
        }
    }
}

/* STATE is read before the segments, for what must be in them, and after, for what need not be in
 * them any more. */
static int look(struct mm_inspect *in)
{
    uint8_t bytes[2 * MM_LAYOUT_STATE_LEN];
    int err = 0;
    for (int i = 0; i < MAX_LOOKS && err == 0; i++) {
        err = read_state(in, bytes);
        in->next_seq = in->info.state.next_seq;
        in->n_segments = 0;
        free(in->segments);
        in->segments = NULL;
        err = err == 0 ? list_segments(in) : err;
        if (err == 0 && !has_gap(in)) {
            break;
        }
    }
    return err == 0 ? read_state(in, bytes) : err;
}

static int fail(const char *dir, const char *what, char *errstr, size_t errstr_len)
{
    char reason[64];
    snprintf(errstr, errstr_len, "\"%s\": %s: %s", dir, what,
             strerror_r(errno, reason, sizeof reason));
    return MM_EIO;
}

static int open_log(struct mm_inspect *in, char *errstr, size_t errstr_len)
{
    in->fd = open(in->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (in->fd < 0) {
        bool absent = errno == ENOENT || errno == ENOTDIR;
        int err = fail(in->dir, "cannot be opened as a directory", errstr, errstr_len);
        return absent ? MM_EINVAL : err;
    }
    bool has_lock = read_lock(in);
    int err = look(in);
    err = err == 0 ? set_strangers_apart(in) : err;
    if (err == MM_ENOMEM) {
        snprintf(errstr, errstr_len, "%s", mm_strerror(err));
        return err;
    }
    if (err != 0) {
        return fail(in->dir, "cannot be read", errstr, errstr_len);
    }
    if (!has_lock && !in->info.has_state_file && in->n_segments == 0) {
        snprintf(errstr, errstr_len,
                 "\"%s\": this is no spool: there is neither LOCK nor STATE nor a segment in it",
                 in->dir);
        return MM_EINVAL;
    }
    count_bad_files(in);
    add_up(in);
    return 0;
}

int mm_inspect_open(const char *dir, struct mm_inspect **out, char *errstr, size_t errstr_len)
{
    *out = NULL;
    struct mm_inspect *in = calloc(1, sizeof *in);
    char *copy = strdup(dir);
    if (in == NULL || copy == NULL) {
        free(in);
        free(copy);
        snprintf(errstr, errstr_len, "%s", mm_strerror(MM_ENOMEM));
        return MM_ENOMEM;
    }
    in->dir = copy;
    int err = open_log(in, errstr, errstr_len);
    if (err != 0) {
        mm_inspect_close(in);
        return err;
    }
    *out = in;
    return 0;
}

void mm_inspect_close(struct mm_inspect *in)
{
    if (in == NULL) {
        return;
    }
    if (in->fd >= 0) {
        close(in->fd);
    }
    free(in->segments);
    free(in->dir);
    free(in);
}

const char *mm_inspect_dir(const struct mm_inspect *in)
{
    return in->dir;
}

const struct mm_inspect_info *mm_inspect_info(const struct mm_inspect *in)
{
    return &in->info;
}

size_t mm_inspect_n_segments(const struct mm_inspect *in)
{
    return in->n_segments;
}

const struct mm_inspect_segment *mm_inspect_segment(const struct mm_inspect *in, size_t i)
{
    return &in->segments[i];
}

int mm_inspect_oldest(struct mm_inspect *in, uint64_t *seq, uint64_t *time_ms)
{
    struct mm_inspect_reader_options opts = {
        .segment = MM_INSPECT_ALL,
        .from_seq = in->info.slot < 0 ? 0 : mm_inspect_low(&in->info.state)};
    struct mm_inspect_reader *rd;
    struct mm_inspect_place place;
    struct mm_record rec;
    int err = mm_inspect_reader_new(in, &opts, &rd);
    if (err != 0) {
        return err;
    }
    uint64_t done = 0;
    uint64_t total;
    while ((err = mm_inspect_next(rd, &rec, &place)) == 0) {
        mm_inspect_progress(rd, &done, &total);
        if (done > OLDEST_MAX_BYTES || !mm_inspect_finished(in, rec.seq, rec.topic_hash)) {
            *seq = rec.seq;
            *time_ms = rec.time_ms;
            break;
        }
    }
    mm_inspect_reader_free(rd);
    return err;
}

/* --- logs below a spool -------------------------------------------------------------------------
 */

/* n of "<topic>~<n>", which other routes parked; 0: parked by the present ones. */
static uint64_t age_of(const char *name)
{
    const char *mark = strrchr(name, '~');
    return mark == NULL ? 0 : strtoull(mark + 1, NULL, 10);
}

/* The oldest first: it holds what came before what is in the others. */
static int compare_names(const void *a, const void *b)
{
    const char *const *x = a;
    const char *const *y = b;
    uint64_t age_x = age_of(*x);
    uint64_t age_y = age_of(*y);
    return age_x != age_y ? (age_x < age_y) - (age_x > age_y) : strcmp(*x, *y);
}

struct names
{
    char **name;
    size_t n;
};

static int add_name(struct names *names, const char *before, const char *name)
{
    char **grown = realloc(names->name, (names->n + 1) * sizeof *grown);
    if (grown == NULL) {
        return MM_ENOMEM;
    }
    names->name = grown;
    return asprintf(&grown[names->n], "%s%s", before, name) < 0 ? MM_ENOMEM : (names->n++, 0);
}

static void free_names(struct names *names)
{
    for (size_t i = 0; i < names->n; i++) {
        free(names->name[i]);
    }
    free(names->name);
}

static int list_parked(int dir_fd, struct names *names)
{
    DIR *dir = open_dir(dir_fd, "parked");
    if (dir == NULL && errno == ENOTDIR) {
        return add_name(names, "", "parked");
    }
    if (dir == NULL) {
        return errno == ENOENT ? 0 : MM_EIO;
    }
    int err = 0;
    struct stat st;
    for (struct dirent *e; err == 0 && (e = readdir(dir)) != NULL;) {
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0 &&
            fstatat(dirfd(dir), e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode)) {
            err = add_name(names, "parked/", e->d_name);
        }
    }
    closedir(dir);
    if (names->n > 0) {
        qsort(names->name, names->n, sizeof *names->name, compare_names);
    }
    return err;
}

/* One allocation: the pointers, then the text. */
static int pack_names(const struct names *names, char ***paths)
{
    size_t len = 0;
    for (size_t i = 0; i < names->n; i++) {
        len += strlen(names->name[i]) + 1;
    }
    char **packed = malloc((names->n + 1) * sizeof *packed + len);
    if (packed == NULL) {
        return MM_ENOMEM;
    }
    char *text = (char *)(packed + names->n + 1);
    for (size_t i = 0; i < names->n; i++) {
        packed[i] = text;
        text = stpcpy(text, names->name[i]) + 1;
    }
    packed[names->n] = NULL;
    *paths = packed;
    return 0;
}

int mm_inspect_list_logs(const char *dir, char ***paths, size_t *n_paths)
{
    *paths = NULL;
    *n_paths = 0;
    struct names names = {0};
    struct stat st;
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return MM_EIO;
    }
    int err = list_parked(fd, &names);
    if (err == 0 && fstatat(fd, "dead", &st, AT_SYMLINK_NOFOLLOW) == 0) {
        err = add_name(&names, "", "dead");
    }
    close(fd);
    err = err == 0 ? pack_names(&names, paths) : err;
    *n_paths = err == 0 ? names.n : 0;
    free_names(&names);
    return err;
}
