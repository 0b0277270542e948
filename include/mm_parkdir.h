/* mm_parkdir.h - the directory of the logs of parked Kafka topics, <spool_dir>/parked.
 *
 *     parked/ROUTES         the routes by which the records beside it were parked, as text
 *     parked/<topic>/       a log: records that these routes lead to this Kafka topic
 *     parked/<topic>~<n>/   a log that was parked by other routes, of an earlier start
 *
 * When a start finds that the routes have changed, it renames the logs to <topic>~<n>, with a
 * number n that is higher than any there, before it writes ROUTES anew. What is in such a log may
 * lead to any Kafka topic now. It is older than anything that was spooled and not parked, and what
 * has a higher n is older than what has a lower one: a log of <n> was filled out of those that are
 * renamed now. So all these logs are to be sent first, those with the highest number foremost, and
 * the order of each MQTT topic holds. An MQTT topic is in one log of the same n only.
 *
 * Names and files only; the logs themselves are mm_spool's. */
#ifndef MM_PARKDIR_H
#define MM_PARKDIR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mm_config;
struct mm_lanes;
struct mm_parkdir;

/* Longest path of a log with its NUL. */
#define MM_PARKDIR_PATH_LEN 1536

/* Longest name of a log with its NUL. */
#define MM_PARKDIR_NAME_LEN 256

struct mm_parkdir_log
{
    char name[MM_PARKDIR_NAME_LEN];
    char kafka_topic[256]; /* that it was parked for */
    uint64_t age;          /* n; 0: parked by the present routes */
    uint32_t lane;         /* of lanes, when age is 0 */
};

/* Look at what is there, and rename it where the routes have changed. What was parked by the
 * present routes gets its lane. Nothing is made yet.
 *
 * Thread: setup. Errors: MM_EIO, errstr has the path, the operation and the system's reason;
 * MM_EINVAL, "parked" is no directory; MM_ENOMEM. *out is NULL then. */
int mm_parkdir_open(const struct mm_config *config,
                    struct mm_lanes *lanes,
                    struct mm_parkdir **out,
                    char *errstr,
                    size_t errstr_len);

/* Accepts NULL. Thread: setup. */
void mm_parkdir_close(struct mm_parkdir *d);

/* The logs found, in the order in which they are to be sent: the highest age first. *n_logs of
 * them; valid as long as d. Thread: any. */
const struct mm_parkdir_log *mm_parkdir_logs(const struct mm_parkdir *d, size_t *n_logs);

/* Make the directory and ROUTES if they are not there: before the first log is made.
 *
 * Thread: one at a time. Errors: MM_EIO, errno tells; MM_ENOMEM. */
int mm_parkdir_make(struct mm_parkdir *d);

/* The path of the log of this name. Thread: any. */
void mm_parkdir_path(const struct mm_parkdir *d, const char *name, char path[MM_PARKDIR_PATH_LEN]);

/* Make new names in the directory survive a power failure. Thread: any. Errors: MM_EIO. */
int mm_parkdir_sync(const struct mm_parkdir *d);

/* The routes change while the plugin runs: first each log that is there becomes an old one, of the
 * highest age, and gets another name (dst may be name); then the routes are those of config. A
 * failure can be tried again, from where it came to.
 *
 * Thread: one at a time, while no log is made. Errors: MM_EIO, errstr tells; MM_ENOMEM. */
int mm_parkdir_make_old(struct mm_parkdir *d,
                        const char *name,
                        char dst[MM_PARKDIR_NAME_LEN],
                        char *errstr,
                        size_t errstr_len);
int mm_parkdir_reroute(struct mm_parkdir *d,
                       const struct mm_config *config,
                       char *errstr,
                       size_t errstr_len);

/* Delete the directory of a log that is closed, if there are no records in it any more. Whatever
 * keeps it from being deleted is no harm: it is looked at again at the next start.
 *
 * Thread: one at a time. */
void mm_parkdir_remove(const struct mm_parkdir *d, const char *name);

#endif
