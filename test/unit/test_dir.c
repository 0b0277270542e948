/* The directory of a log on disk: where a mapping is trusted, what LOCK tells, the names in it,
 * bad/, the slots of STATE. */
#include "mm_dir.h"
#include "mm_error.h"
#include "scratch.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define XFS_MAGIC 0x58465342UL
#define FUSE_MAGIC 0x65735546UL
#define ZFS_MAGIC 0x2FC12FC1UL
#define BTRFS_MAGIC 0x9123683EUL

static char directory[SCRATCH_LEN];

static int make_directory(void **state)
{
    (void)state;
    return scratch_make(directory, "dir");
}

static int remove_directory(void **state)
{
    (void)state;
    return scratch_remove(directory);
}

/* --- faults -------------------------------------------------------------------------------------
 */

/* The linker turns the library's calls into these. */
int __wrap_fstatfs(int fd, struct statfs *fs);
int __real_fstatfs(int fd, struct statfs *fs);
DIR *__wrap_fdopendir(int fd);
DIR *__real_fdopendir(int fd);
time_t __wrap_time(time_t *now);
time_t __real_time(time_t *now);
int __wrap_fdatasync(int fd);
int __real_fdatasync(int fd);

/* What the directory lies on, as statfs(2) tells it; 0: what it really lies on. */
static unsigned long file_system;

int __wrap_fstatfs(int fd, struct statfs *fs)
{
    int err = __real_fstatfs(fd, fs);
    if (file_system != 0) {
        fs->f_type = (__typeof__(fs->f_type))file_system;
    }
    return err;
}

static bool no_memory; /* for a directory that is to be read */

DIR *__wrap_fdopendir(int fd)
{
    if (no_memory) {
        errno = ENOMEM;
        return NULL;
    }
    return __real_fdopendir(fd);
}

static bool no_date; /* the clock shows a year that no calendar has */

time_t __wrap_time(time_t *now)
{
    return no_date ? (time_t)INT64_MAX : __real_time(now);
}

/* A slot that is written while STATE is synced. */
static struct mm_dir *writes;
static const struct mm_layout_state *written;

int __wrap_fdatasync(int fd)
{
    if (writes != NULL) {
        assert_int_equal(mm_dir_write_state(writes, written, true), 0);
        writes = NULL;
    }
    return __real_fdatasync(fd);
}

/* --- opening ------------------------------------------------------------------------------------
 */

static struct mm_dir *open_dir(void)
{
    struct mm_dir *d;
    char errstr[256];
    if (mm_dir_open(directory, &d, errstr, sizeof errstr) != 0) {
        fail_msg("%s", errstr);
    }
    return d;
}

/* The descriptor that the system gives next. */
static int next_descriptor(void)
{
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    close(fd);
    return fd;
}

/* A mapping is written to only where reserved space is there for sure: elsewhere a full disk would
 * end the broker. */
static void test_where_a_reservation_is_a_promise(void **state)
{
    (void)state;
    static const struct
    {
        unsigned long magic;
        bool is_promise;
    } kinds[] = {
        {EXT4_SUPER_MAGIC, true}, {XFS_MAGIC, true},    {F2FS_SUPER_MAGIC, true},
        {TMPFS_MAGIC, true},      {BTRFS_MAGIC, false}, {OVERLAYFS_SUPER_MAGIC, true},
        {ZFS_MAGIC, false},       {FUSE_MAGIC, false},  {NFS_SUPER_MAGIC, false},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        file_system = kinds[i].magic;
        struct mm_dir *d = open_dir();
        assert_int_equal(mm_dir_can_reserve(d), kinds[i].is_promise);
        mm_dir_close(d);
    }
    file_system = 0;
}

static void put_lock(const char *text)
{
    char path[sizeof directory + 8];
    snprintf(path, sizeof path, "%s/LOCK", directory);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
}

/* Whom the directory belonged to is told when that was another host: by its whole name, and by as
 * much of it as a host's name can have. */
static void test_another_host_is_told(void **state)
{
    (void)state;
    char host[65] = "";
    char text[256];
    assert_int_equal(gethostname(host, sizeof host - 1), 0);
    snprintf(text, sizeof text, "pid 1 host %s started never\n", host);
    put_lock(text);
    struct mm_dir *d = open_dir();
    assert_null(mm_dir_other_host(d));
    mm_dir_close(d);

    char *last = host + strlen(host) - 1;
    *last = (char)(*last == 'x' ? 'y' : 'x');
    snprintf(text, sizeof text, "pid 1 host %s started never\n", host);
    put_lock(text);
    d = open_dir();
    assert_string_equal(mm_dir_other_host(d), host);
    mm_dir_close(d);

    char longer[101] = "";
    memset(longer, 'h', sizeof longer - 1);
    snprintf(text, sizeof text, "pid 1 host %s started never\n", longer);
    put_lock(text);
    d = open_dir();
    longer[64] = '\0';
    assert_string_equal(mm_dir_other_host(d), longer);
    mm_dir_close(d);
}

static void test_without_a_date_the_directory_is_taken_all_the_same(void **state)
{
    (void)state;
    char path[sizeof directory + 8];
    char text[MM_DIR_LOCK_TEXT_LEN];
    no_date = true;
    struct mm_dir *d = open_dir();
    no_date = false;
    snprintf(path, sizeof path, "%s/LOCK", directory);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    mm_dir_read_lock_text(fd, text);
    close(fd);
    assert_int_equal(strncmp(text, "pid ", 4), 0);
    assert_string_equal(strstr(text, " started "), " started ");
    mm_dir_close(d);
}

/* --- names --------------------------------------------------------------------------------------
 */

static void put_file(const char *name)
{
    char path[sizeof directory + 64];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    assert_int_equal(mknod(path, S_IFREG | 0600, 0), 0);
}

static bool has_file(const char *name)
{
    char path[sizeof directory + 64];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    return access(path, F_OK) == 0;
}

/* As many segments as there are, in their order, and nothing else that lies there. */
static void test_all_segments_are_listed(void **state)
{
    (void)state;
    enum {
        N = 200
    };
    char name[MM_DIR_NAME_LEN];
    for (uint64_t i = 0; i < N; i++) {
        mm_dir_segment_name(1 + i * 7 % N, name);
        put_file(name);
    }
    put_file("0000000000000001.segment");
    put_file("00000000000000AA.seg");
    put_file("ffffffffffffffff.seg");
    struct mm_dir *d = open_dir();
    uint64_t *files;
    size_t n_files;
    assert_int_equal(mm_dir_list(d, &files, &n_files), 0);
    assert_int_equal(n_files, N);
    for (size_t i = 0; i < N; i++) {
        assert_int_equal(files[i], i + 1);
    }
    free(files);
    mm_dir_close(d);
}

/* No memory to read a directory with: told where it matters, and no descriptor is left behind. */
static void test_without_memory_no_directory_is_read(void **state)
{
    (void)state;
    char path[sizeof directory + 8];
    snprintf(path, sizeof path, "%s/bad", directory);
    assert_int_equal(mkdir(path, 0700), 0);
    put_file("bad/one");
    int before = next_descriptor();
    no_memory = true;
    struct mm_dir *d = open_dir();
    assert_int_equal(mm_dir_n_bad(d), 0); /* only a figure: it keeps nobody from the messages */
    uint64_t *files;
    size_t n_files;
    assert_int_equal(mm_dir_list(d, &files, &n_files), MM_EIO);
    assert_null(files);
    no_memory = false;
    mm_dir_close(d);
    assert_int_equal(next_descriptor(), before);
    d = open_dir();
    assert_int_equal(mm_dir_n_bad(d), 1);
    mm_dir_close(d);
}

/* What lies in bad/ is never overwritten: a file of the same name gets another one, and stays where
 * it is when there is none. */
static void test_nothing_in_bad_is_overwritten(void **state)
{
    (void)state;
    enum {
        N = 10000
    };
    char name[64];
    char path[sizeof directory + 64];
    snprintf(path, sizeof path, "%s/bad", directory);
    assert_int_equal(mkdir(path, 0700), 0);
    put_file("bad/0000000000000001.seg");
    for (int i = 1; i < N; i++) {
        snprintf(name, sizeof name, "bad/0000000000000001.seg.%d", i);
        put_file(name);
    }
    put_file("0000000000000001.seg");
    struct mm_dir *d = open_dir();
    assert_int_equal(mm_dir_n_bad(d), N);
    assert_int_equal(mm_dir_set_aside(d, 1), MM_EIO);
    assert_true(has_file("0000000000000001.seg"));
    assert_int_equal(mm_dir_n_bad(d), N);
    snprintf(path, sizeof path, "%s/bad/0000000000000001.seg.77", directory);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mm_dir_set_aside(d, 1), 0);
    assert_true(has_file("bad/0000000000000001.seg.77"));
    assert_false(has_file("0000000000000001.seg"));
    mm_dir_close(d);
}

/* --- STATE --------------------------------------------------------------------------------------
 */

static struct mm_layout_state state_of(uint64_t generation)
{
    return (struct mm_layout_state){.generation = generation, .next_seq = 1, .n_ranges = 1};
}

static void write_generation(struct mm_dir *d, uint64_t generation)
{
    const struct mm_layout_state state = state_of(generation);
    assert_int_equal(mm_dir_write_state(d, &state, true), 0);
}

/* Is this generation in one of the slots? */
static bool has_generation(uint64_t generation)
{
    char path[sizeof directory + 8];
    uint8_t slots[2][MM_LAYOUT_STATE_LEN] = {{0}};
    snprintf(path, sizeof path, "%s/STATE", directory);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_true(read(fd, slots, sizeof slots) > 0);
    close(fd);
    bool found = false;
    for (int i = 0; i < 2; i++) {
        struct mm_layout_state state;
        found |= mm_layout_decode_state(slots[i], &state) == 0 && state.generation == generation;
    }
    return found;
}

/* A slot that was written while STATE was synced may be on the disk in part: the other one, which
 * is there for sure, is left alone until the next sync. */
static void test_a_slot_written_during_a_sync_is_not_safe(void **state)
{
    (void)state;
    struct mm_layout_state found;
    struct mm_dir *d = open_dir();
    assert_int_equal(mm_dir_read_state(d, &found), MM_EAGAIN);
    write_generation(d, 1);
    assert_int_equal(mm_dir_sync_state(d), 0);
    write_generation(d, 2);
    const struct mm_layout_state third = state_of(3);
    written = &third;
    writes = d;
    assert_int_equal(mm_dir_sync_state(d), 0);
    assert_null(writes);
    assert_true(has_generation(3));
    write_generation(d, 4);
    assert_true(has_generation(1));
    assert_true(has_generation(4));
    assert_int_equal(mm_dir_sync_state(d), 0);
    write_generation(d, 5);
    assert_true(has_generation(4));
    assert_true(has_generation(5));
    mm_dir_close(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_where_a_reservation_is_a_promise, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_another_host_is_told, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_without_a_date_the_directory_is_taken_all_the_same,
                                        make_directory, remove_directory),
        cmocka_unit_test_setup_teardown(test_all_segments_are_listed, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_without_memory_no_directory_is_read, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_nothing_in_bad_is_overwritten, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_a_slot_written_during_a_sync_is_not_safe,
                                        make_directory, remove_directory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
