/* files.h - directories of a test: made, copied, changed, removed.
 *
 * An image is the files of a spool directory in memory, without its subdirectories: the state from
 * which a test begins over and over again, and which it damages.
 *
 * A failure of these functions is no finding but an environment that cannot run the test: the
 * process says so and ends with exit code 2.
 *
 * Thread: one at a time. */
#ifndef FILES_H
#define FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FILES_PATH_MAX 256
#define FILES_MAX 64
#define FILES_NAME_MAX 64

/* A new directory under MM_TEST_TMP, else TMPDIR, else /tmp; with fast, under /dev/shm where there
 * is one. Once in a process, at whose exit it is removed. */
void files_make_dir(bool fast, char path[FILES_PATH_MAX]);
void files_remove(const char *path); /* with all that is in it; it need not be there */

/* dir/name in dst. */
void files_join(char dst[FILES_PATH_MAX], const char *dir, const char *name);

struct files_file
{
    char name[FILES_NAME_MAX];
    size_t len;
    uint8_t *data;
};

struct files_image
{
    uint32_t n;
    struct files_file file[FILES_MAX]; /* by name */
};

/* Read all files of dir. The caller frees it. */
void files_load(const char *dir, struct files_image *out);
void files_copy(const struct files_image *src, struct files_image *dst);
void files_free(struct files_image *image);

/* Make dir, which is emptied first, hold these files. */
void files_store(const struct files_image *image, const char *dir);

struct files_file *files_find(struct files_image *image, const char *name); /* NULL: none */
bool files_is_segment(const char *name);
uint32_t files_count(const char *dir); /* 0 when it is not there */

/* Text of a failure that is not the log's, and the end of the process. */
__attribute__((format(printf, 1, 2), noreturn)) void files_give_up(const char *format, ...);

#endif
