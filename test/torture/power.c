/* power - what a power failure may leave, at any moment of a log's life.
 *
 * The calls by which a program makes bytes and names safe (fdatasync, fsync, msync) go through this
 * file (--wrap), which keeps what is safe: of each file the bytes at its last sync, and the names
 * at the last sync of the directory. At a moment in the middle of any of the log's calls the power
 * goes. What is found after it is made of what was safe and of any part of what was not: of each
 * sector of 512 bytes the old or the new one, of each name that was made or deleted since, whether
 * it is there; of a file that was never synced its length.
 *
 * Then: what was appended before a sync that returned 0 is there, nothing is wrong, no number is
 * given twice, and the log can be used.
 *
 *   power [N]    lives; default 300, with MM_TEST_LONG=1 4,000, of 5 or 50 images each
 *
 * MM_TEST_SEED=n runs one life. What is not shown here: disks that lie about a sync. */
#include "consumer.h"
#include "content.h"
#include "files.h"
#include "form.h"
#include "load.h"
#include "notes.h"

#include "mm_error.h"
#include "mm_layout.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define CAPACITY 4096
#define SECTOR 512
#define TRACKED_MAX 128

/* The linker turns the library's calls into these. */
int __wrap_fdatasync(int fd);
int __wrap_fsync(int fd);
int __wrap_msync(void *addr, size_t len, int flags);
int __wrap_unlinkat(int dir_fd, const char *name, int flags);
int __wrap_ftruncate(int fd, off_t len);
ssize_t __wrap_pwrite(int fd, const void *data, size_t len, off_t at);
int __real_fdatasync(int fd);
int __real_fsync(int fd);
int __real_msync(void *addr, size_t len, int flags);
int __real_unlinkat(int dir_fd, const char *name, int flags);
int __real_ftruncate(int fd, off_t len);
ssize_t __real_pwrite(int fd, const void *data, size_t len, off_t at);

/* One file that is there, or was. */
struct tracked
{
    char name[FILES_NAME_MAX];
    bool failed;    /* a sync failed: what was not safe then may never be, whatever is said later */
    bool there;     /* by what the system would say now */
    bool name_safe; /* its name is on the disk */
    bool synced;    /* safe has meaning */
    uint8_t *safe;  /* what is on the disk */
    size_t safe_len;
    uint8_t *now; /* what the system would give; of a deleted file, gave last */
    size_t now_len;
};

struct disk
{
    uint32_t n;
    struct tracked file[TRACKED_MAX];
};

static struct
{
    bool on; /* a life is being watched */
    char dir[FILES_PATH_MAX];
    struct disk disk;
    uint64_t calls_left; /* before the power goes */
    bool gone;
    struct disk at_cut;
    struct notes *notes;
    void *notes_at_cut;
    bool safe[CAPACITY]; /* [number]: a sync that returned 0 has come after it */
    bool safe_at_cut[CAPACITY];
    struct content_rng faults;
    uint32_t fault_every; /* one sync in so many fails; 0: none */
} watch;

static uint64_t seed_now;
static uint64_t n_lives;
static uint64_t n_images;
static uint64_t n_gone; /* records that were lost, all of them after the last sync */
static uint64_t n_safe;
static uint64_t n_ranges_synced; /* by msync() */
static uint64_t n_faults;

__attribute__((format(printf, 1, 2), noreturn)) static void fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "MM_TEST_SEED=%" PRIu64 ", image %" PRIu64 ": ", seed_now, n_images);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(1);
}

/* --- what is safe -------------------------------------------------------------------------------
 */

static void *copy_of(const void *data, size_t len)
{
    void *copy = malloc(len + 1);
    if (copy == NULL) {
        files_give_up("memory");
    }
    memcpy(copy, data, len);
    return copy;
}

static struct tracked *track(struct disk *disk, const char *name)
{
    for (uint32_t i = 0; i < disk->n; i++) {
        if (strcmp(disk->file[i].name, name) == 0) {
            return &disk->file[i];
        }
    }
    if (disk->n == TRACKED_MAX) {
        files_give_up("too many files");
    }
    struct tracked *t = &disk->file[disk->n++];
    memset(t, 0, sizeof *t);
    snprintf(t->name, sizeof t->name, "%s", name);
    return t;
}

static void free_disk(struct disk *disk)
{
    for (uint32_t i = 0; i < disk->n; i++) {
        free(disk->file[i].safe);
        free(disk->file[i].now);
    }
    disk->n = 0;
}

static void copy_disk(const struct disk *src, struct disk *dst)
{
    *dst = *src;
    for (uint32_t i = 0; i < src->n; i++) {
        const struct tracked *t = &src->file[i];
        dst->file[i].safe = t->safe == NULL ? NULL : copy_of(t->safe, t->safe_len);
        dst->file[i].now = t->now == NULL ? NULL : copy_of(t->now, t->now_len);
    }
}

/* Look at all files as they are now. */
static void look(struct disk *disk)
{
    struct files_image image;
    files_load(watch.dir, &image);
    for (uint32_t i = 0; i < disk->n; i++) {
        disk->file[i].there = false;
    }
    for (uint32_t i = 0; i < image.n; i++) {
        struct tracked *t = track(disk, image.file[i].name);
        free(t->now);
        t->now = image.file[i].data;
        t->now_len = image.file[i].len;
        t->there = true;
    }
}

/* Bytes from to to, or all, of this file are on the disk now. */
static void make_safe(struct tracked *t, size_t from, size_t to)
{
    if (t->failed) {
        return;
    }
    size_t len = t->now_len;
    uint8_t *safe = calloc(1, len + 1);
    if (safe == NULL) {
        files_give_up("memory");
    }
    if (t->synced) {
        memcpy(safe, t->safe, t->safe_len < len ? t->safe_len : len);
    }
    from = from < len ? from : len;
    to = to < len ? to : len;
    memcpy(safe + from, t->now + from, to - from);
    free(t->safe);
    t->safe = safe;
    t->safe_len = len;
    t->synced = true;
}

/* The name of the file behind fd, "" for the directory itself; false: nothing of the log's. */
static bool name_of(int fd, char name[FILES_NAME_MAX])
{
    char link[64];
    char path[FILES_PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t len = readlink(link, path, sizeof path - 1);
    size_t dir_len = strlen(watch.dir);
    if (!watch.on || len < (ssize_t)dir_len || strncmp(path, watch.dir, dir_len) != 0) {
        return false;
    }
    path[len] = '\0';
    snprintf(name, FILES_NAME_MAX, "%.60s", path[dir_len] == '/' ? path + dir_len + 1 : "");
    return true;
}

/* Is addr in the mapping that a line of /proc/self/maps tells of, one of a file of the log's?
 * "begin-end rights offset device inode path" */
static bool is_mapped(const char *line, uintptr_t addr, char name[FILES_NAME_MAX], size_t *offset)
{
    char *end;
    uintptr_t first = strtoull(line, &end, 16);
    uintptr_t behind = *end == '-' ? strtoull(end + 1, &end, 16) : 0;
    const char *path = strstr(line, watch.dir);
    if (addr < first || addr >= behind || path == NULL || strlen(end) < 6) {
        return false;
    }
    *offset = addr - first + strtoull(end + 6, NULL, 16); /* behind " rw-s " */
    path += strlen(watch.dir) + 1;
    snprintf(name, FILES_NAME_MAX, "%.*s", (int)strcspn(path, " \n"), path);
    return true;
}

/* The file that is mapped at addr, and where in it that is. */
static bool name_at(const void *addr, char name[FILES_NAME_MAX], size_t *offset)
{
    FILE *maps = fopen("/proc/self/maps", "re");
    char line[1024];
    bool found = false;
    while (watch.on && maps != NULL && !found && fgets(line, sizeof line, maps) != NULL) {
        found = is_mapped(line, (uintptr_t)addr, name, offset);
    }
    if (maps != NULL) {
        fclose(maps);
    }
    return found;
}

/* Before each call: does the power go now? */
static void count_down(void)
{
    if (!watch.on || watch.gone || watch.calls_left-- > 0) {
        return;
    }
    watch.gone = true;
    look(&watch.disk);
    copy_disk(&watch.disk, &watch.at_cut);
    memcpy(watch.notes_at_cut, watch.notes, notes_len(watch.notes));
    memcpy(watch.safe_at_cut, watch.safe, sizeof watch.safe);
}

/* Does this sync fail? The pages of a file are clean then, and no later sync writes them. STATE is
 * written anew each time. */
static bool has_fault(struct tracked *t)
{
    if (!watch.on || watch.fault_every == 0 ||
        content_below(&watch.faults, watch.fault_every) != 0) {
        return false;
    }
    if (t != NULL && strcmp(t->name, "STATE") != 0) {
        t->failed = true;
    }
    n_faults++;
    errno = EIO;
    return true;
}

static struct tracked *tracked_fd(int fd, bool *ours)
{
    char name[FILES_NAME_MAX];
    *ours = name_of(fd, name);
    if (!*ours) {
        return NULL;
    }
    look(&watch.disk);
    return name[0] == '\0' ? NULL : track(&watch.disk, name);
}

static int sync_fd(int fd, int (*real)(int fd))
{
    bool ours;
    count_down();
    struct tracked *t = tracked_fd(fd, &ours);
    if (ours && has_fault(t)) {
        return -1;
    }
    int err = real(fd);
    if (err == 0 && t != NULL) {
        make_safe(t, 0, SIZE_MAX);
    } else if (err == 0 && ours) {
        for (uint32_t i = 0; i < watch.disk.n; i++) {
            watch.disk.file[i].name_safe = watch.disk.file[i].there;
        }
    }
    return err;
}

int __wrap_fdatasync(int fd)
{
    return sync_fd(fd, __real_fdatasync);
}

int __wrap_fsync(int fd)
{
    return sync_fd(fd, __real_fsync);
}

int __wrap_msync(void *addr, size_t len, int flags)
{
    char name[FILES_NAME_MAX];
    size_t offset;
    count_down();
    if (!name_at(addr, name, &offset)) {
        return __real_msync(addr, len, flags);
    }
    look(&watch.disk);
    struct tracked *t = track(&watch.disk, name);
    if (has_fault(t)) {
        return -1;
    }
    int err = __real_msync(addr, len, flags);
    if (err == 0) {
        n_ranges_synced++;
        make_safe(t, offset, offset + len);
    }
    return err;
}

int __wrap_unlinkat(int dir_fd, const char *name, int flags)
{
    count_down();
    if (watch.on) {
        look(&watch.disk); /* what it was last */
    }
    return __real_unlinkat(dir_fd, name, flags);
}

int __wrap_ftruncate(int fd, off_t len)
{
    count_down();
    return __real_ftruncate(fd, len);
}

ssize_t __wrap_pwrite(int fd, const void *data, size_t len, off_t at)
{
    count_down();
    return __real_pwrite(fd, data, len, at);
}

/* --- what is left -------------------------------------------------------------------------------
 */

/* How much of what was not safe is there. */
enum mixture {
    NOTHING,
    EVERYTHING,
    HALF,
    LITTLE,
    MOST,
    N_MIXTURES,
};

static bool is_there(enum mixture mixture, struct content_rng *rng)
{
    static const uint32_t of_16[N_MIXTURES] = {0, 16, 8, 2, 14};
    return content_below(rng, 16) < of_16[mixture];
}

static void mix_file(const struct tracked *t,
                     enum mixture mixture,
                     struct content_rng *rng,
                     struct files_file *out)
{
    size_t safe_len = t->synced ? t->safe_len : 0;
    size_t len = is_there(mixture, rng) ? t->now_len : safe_len;
    snprintf(out->name, sizeof out->name, "%s", t->name);
    out->len = len;
    out->data = calloc(1, len + 1);
    if (out->data == NULL) {
        files_give_up("memory");
    }
    for (size_t at = 0; at < len; at += SECTOR) {
        bool fresh = is_there(mixture, rng);
        const uint8_t *src = fresh ? t->now : t->safe;
        size_t src_len = fresh ? t->now_len : safe_len;
        size_t n = len - at < SECTOR ? len - at : SECTOR;
        if (at < src_len) {
            memcpy(out->data + at, src + at, n < src_len - at ? n : src_len - at);
        }
    }
}

static void mix(const struct disk *disk,
                enum mixture mixture,
                struct content_rng *rng,
                struct files_image *out)
{
    out->n = 0;
    for (uint32_t i = 0; i < disk->n; i++) {
        const struct tracked *t = &disk->file[i];
        bool there = t->there == t->name_safe ? t->there : is_there(mixture, rng) == t->there;
        if (there && out->n < FILES_MAX) {
            mix_file(t, mixture, rng, &out->file[out->n++]);
        }
    }
}

/* The system was started anew: the id of the start that STATE names is another one. */
static void change_boot(struct files_image *image)
{
    struct files_file *f = files_find(image, "STATE");
    for (size_t at = 0; f != NULL && at + MM_LAYOUT_STATE_LEN <= f->len;
         at += MM_LAYOUT_STATE_LEN) {
        struct mm_layout_state state;
        if (mm_layout_decode_state(f->data + at, &state) == 0) {
            state.boot[3] ^= 0x55;
            mm_layout_encode_state(f->data + at, &state);
        }
    }
}

/* --- after it -----------------------------------------------------------------------------------
 */

static bool is_safe(const struct load_options *opts, const struct notes *notes, uint64_t n)
{
    if ((notes_flags(notes, n) & NOTE_ACKED) == 0) {
        return false;
    }
    if (opts->sync == MM_SPOOL_SYNC_ALWAYS && n % 3 != 0) {
        return true; /* QoS 1 or 2: see content_make() */
    }
    return opts->sync != MM_SPOOL_SYNC_NEVER && watch.safe_at_cut[n];
}

/* Forget what the failure may have undone: an append, or that one was taken back because its sync
 * had failed. Returns of how many that is so. */
static uint64_t doubt(const struct load_options *opts, struct notes *notes)
{
    uint64_t n_doubtful = 0;
    for (uint64_t n = 1; n <= atomic_load(&notes->attempted); n++) {
        if (!is_safe(opts, notes, n)) {
            atomic_fetch_and(&notes->seq_and_flags[n], ~(uint64_t)(NOTE_ACKED | NOTE_REFUSED));
            n_doubtful++;
        }
    }
    return n_doubtful;
}

static void forget_seqs(struct notes *notes)
{
    for (uint64_t n = 1; n <= atomic_load(&notes->attempted); n++) {
        atomic_fetch_and(&notes->seq_and_flags[n], 0xFF);
    }
}

/* A new id of the spool, and new numbers: nothing of the old one was safe. */
static void check_uuid(struct notes *notes, const struct mm_spool *s, const char *uuid)
{
    if (strcmp(mm_spool_uuid(s), uuid) == 0) {
        return;
    }
    for (uint64_t n = 1; n <= atomic_load(&notes->attempted); n++) {
        if ((notes_flags(notes, n) & (NOTE_ACKED | NOTE_DELIVERED)) == NOTE_ACKED) {
            fail("the spool has another id, and record %" PRIu64 " was safe", n);
        }
    }
    forget_seqs(notes);
}

static void verify(struct notes *notes,
                   struct mm_spool *s,
                   const struct notes_terms *terms,
                   struct notes_verdict *out,
                   const char *when)
{
    char why[256] = "";
    if (!notes_verify(notes, s, terms, out, why, sizeof why)) {
        fail("%s: %s", when, why);
    }
}

/* What the next system finds, and what it can do with it. */
static void examine(const struct load_options *life, struct notes *notes, const char *uuid)
{
    struct load_options opts = *life;
    struct notes_verdict v;
    struct mm_spool *s;
    memcpy(notes, watch.notes_at_cut, notes_len(notes));
    uint64_t n_doubtful = doubt(&opts, notes);
    if (load_open(&opts, NULL, &s) != 0) {
        fail("the log cannot be opened");
    }
    check_uuid(notes, s, uuid);
    for (int i = 0; i < 5; i++) {
        if (notes_append(notes, s) != 0) {
            fail("the log takes no records");
        }
    }
    /* A record that was taken back, and that comes to light, is one more than was counted. */
    struct notes_terms terms = {
        .n_readers = opts.n_readers,
        .back_allowed = true,
        .figures_free = watch.fault_every != 0 && opts.sync == MM_SPOOL_SYNC_ALWAYS,
        .lost_free = true};
    verify(notes, s, &terms, &v, "after the power failure");
    n_gone += atomic_load(&notes->attempted) - v.n_total;
    mm_spool_close(s);

    /* Numbers that a start has left out are no loss. */
    if (load_open(&opts, NULL, &s) != 0) {
        fail("the log cannot be opened again");
    }
    uint64_t n_read = v.n_read;
    terms.finish = true;
    verify(notes, s, &terms, &v, "at the start behind that");
    if (v.n_read != n_read) {
        fail("%" PRIu64 " records, and then %" PRIu64, n_read, v.n_read);
    }
    /* A segment is deleted when STATE is safe that knows that it is finished: what was in it is not
     * missing. */
    if (opts.sync != MM_SPOOL_SYNC_NEVER && !terms.figures_free && v.n_lost > n_doubtful) {
        fail("%" PRIu64 " records counted as lost, %" PRIu64 " were not safe", v.n_lost,
             n_doubtful);
    }
    mm_spool_close(s);
}

/* --- a life -------------------------------------------------------------------------------------
 */

static void begin_watch(struct notes *notes, uint64_t calls)
{
    free_disk(&watch.disk);
    free_disk(&watch.at_cut);
    watch.notes = notes;
    watch.notes_at_cut = malloc(notes_len(notes));
    if (watch.notes_at_cut == NULL) {
        files_give_up("memory");
    }
    watch.calls_left = calls;
    watch.gone = false;
    memset(watch.safe, 0, sizeof watch.safe);
    memset(watch.safe_at_cut, 0, sizeof watch.safe_at_cut);
    watch.on = true;
}

/* 0 says that all is safe that was appended since it was asked last. */
static void sync_log(struct mm_spool *s, const struct notes *notes, uint64_t *asked)
{
    uint64_t n = atomic_load(&notes->attempted);
    bool good = mm_spool_sync(s) == 0;
    for (; *asked < n; (*asked)++) {
        watch.safe[*asked + 1] = good;
    }
}

static void live(const struct load_options *opts, struct notes *notes, char uuid[37])
{
    struct consumer_ledger ledger = {0};
    struct mm_spool *s;
    struct content_rng rng = {.state = content_mix(opts->seed)};
    if (load_open(opts, &ledger, &s) != 0) {
        fail("open");
    }
    memcpy(uuid, mm_spool_uuid(s), 37);
    struct consumer *c = calloc(opts->n_readers, sizeof *c);
    if (c == NULL) {
        files_give_up("memory");
    }
    for (uint32_t k = 0; k < opts->n_readers; k++) {
        consumer_init(&c[k], s, k, notes, &ledger, CONSUMER_WINDOW_MAX, opts->seed);
    }
    uint64_t asked = 0;
    for (uint64_t i = 0; i < opts->n_appends && !watch.gone; i++) {
        (void)notes_append(notes, s);
        for (uint32_t k = 0; k < opts->n_readers; k++) {
            (void)consumer_take(&c[k], CONSUMER_WINDOW_MAX); /* notes the seq */
        }
        if (content_below(&rng, 4) == 0) {
            consumer_finish(&c[content_below(&rng, opts->n_readers)],
                            (uint32_t)content_below(&rng, 12));
        }
        if (content_below(&rng, 10) == 0) {
            mm_spool_tick(s);
        }
        if (content_below(&rng, 15) == 0) {
            sync_log(s, notes, &asked);
        }
    }
    watch.calls_left = 0; /* at the latest now, or somewhere in the stop */
    watch.calls_left = content_below(&rng, 20);
    mm_spool_close(s);
    watch.calls_left = 0;
    count_down();
    watch.on = false;
    free(c);
}

static void run_life(uint64_t seed, const char *root, uint64_t n_mixes)
{
    struct content_rng rng = {.state = content_mix(seed)};
    char path[FILES_PATH_MAX];
    char uuid[37];
    struct content_rule rule = {.seed = seed,
                                .n_topics = 20,
                                .max_payload = 1000 + (uint32_t)content_below(&rng, 20000),
                                .large_every = 60,
                                .large_from = 40000};
    seed_now = seed;
    files_join(path, root, "notes");
    files_join(watch.dir, root, "spool");
    struct notes *notes = notes_create(path, &rule, CAPACITY);
    if (notes == NULL) {
        files_give_up("%s", path);
    }
    struct load_options opts = {
        .dir = watch.dir,
        .max_bytes = 2 << 20,
        .segment_bytes = 32768,
        .n_readers = 1 + (uint32_t)content_below(&rng, 2),
        .sync = (enum mm_spool_sync)content_below(&rng, 3),
        .writer = content_below(&rng, 3) == 0 ? MM_SPOOL_WRITER_PWRITE : MM_SPOOL_WRITER_MMAP,
        .seed = content_random(&rng),
        .n_appends = 20 + content_below(&rng, 200),
    };
    watch.fault_every = content_below(&rng, 3) == 0 ? 12 : 0;
    watch.faults.state = content_random(&rng);
    begin_watch(notes, content_below(&rng, 250));
    live(&opts, notes, uuid);
    for (uint64_t i = 0; i < n_mixes; i++) {
        struct files_image image;
        mix(&watch.at_cut, (enum mixture)(i % N_MIXTURES), &rng, &image);
        change_boot(&image);
        files_store(&image, watch.dir);
        files_free(&image);
        examine(&opts, notes, uuid);
        n_images++;
    }
    for (uint64_t n = 1; n < CAPACITY; n++) {
        n_safe += watch.safe_at_cut[n];
    }
    n_lives++;
    free(watch.notes_at_cut);
    notes_close(notes);
    files_remove(watch.dir);
}

int main(int argc, char **argv)
{
    uint64_t n = argc > 1 ? strtoull(argv[1], NULL, 10) : form_pick(300, 100, 4000);
    uint64_t n_mixes = form_pick(5, 5, 50);
    uint64_t seed;
    char root[FILES_PATH_MAX];
    content_init();
    files_make_dir(true, root);
    if (form_seed(&seed)) {
        run_life(seed, root, n_mixes);
        return 0;
    }
    uint64_t now = (uint64_t)time(NULL) * 100000;
    printf("seeds 1 to %" PRIu64 " and from %" PRIu64 " on\n", n / 2, now);
    fflush(stdout);
    for (uint64_t i = 1; i <= n; i++) {
        run_life(i <= n / 2 ? i : now + i, root, n_mixes);
    }
    free_disk(&watch.disk);
    free_disk(&watch.at_cut);
    printf("%" PRIu64 " lives, %" PRIu64 " images: %" PRIu64
           " records safe at the cut, 0 of them lost; %" PRIu64
           " later ones lost, 0 wrong; %" PRIu64 " syncs failed\n",
           n_lives, n_images, n_safe, n_gone, n_faults);
    return n_safe == 0 || n_gone == 0 || n_ranges_synced == 0 || n_faults == 0;
}
