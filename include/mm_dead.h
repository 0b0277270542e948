/* mm_dead.h - the dead-letter log, in memory or in a directory.
 *
 * A record that Kafka refuses even when it is sent alone ends here with the reason, so that a
 * person can look at it, fetch it, and send it again. Bounded: the oldest letters make room for a
 * new one and are counted. It is an mm_spool of its own, which nobody drains: a letter is a record
 * of type MM_RECORD_DEAD with topic, payload, flags and time of the message; behind the message's
 * own properties it has those of enum mm_record_tag. In a directory the letters outlive the
 * process; the tool ("metamorphosis dead") reads them there.
 *
 * A lock protects it: letters are rare and the broker thread never comes here. With a directory a
 * call may wait for the disk. */
#ifndef MM_DEAD_H
#define MM_DEAD_H

#include "mm_record.h"
#include "mm_spool.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct mm_dead;
struct mm_log;

struct mm_dead_options
{
    uint64_t max_bytes; /* limit of all letters together, bytes; at least 256 KiB */
    struct mm_log *log; /* borrowed; NULL: nothing is told */

    const char *dir;         /* made if it is not there; NULL: in memory */
    enum mm_spool_sync sync; /* NEVER, or any other: a letter is synced before it counts as added */
    enum mm_spool_writer writer;
    uint64_t min_free; /* as in struct mm_spool_options */
};

struct mm_dead_letter
{
    const char *id;          /* its mm-id, "<uuid of the spool>-<seq>"; NUL-terminated */
    uint64_t time_ms;        /* of receipt, since the epoch */
    uint64_t died_ms;        /* when it came here, since the epoch */
    const char *topic;       /* MQTT topic, no NUL; may be NULL when topic_len is 0 */
    size_t topic_len;        /* bytes, at most 65535 */
    const void *payload;     /* may be NULL when payload_len is 0 */
    size_t payload_len;      /* bytes */
    const void *props;       /* of the record (mm_record.h); may be NULL when props_len is 0 */
    uint32_t props_len;      /* bytes */
    uint8_t flags;           /* of the record: MM_RECORD_QOS_MASK, MM_RECORD_RETAIN */
    const char *kafka_topic; /* NUL-terminated, as all below */
    const char *error;       /* Kafka's name of the error, e.g. MSG_SIZE_TOO_LARGE */
    const char *reason;      /* in words */
    bool lost; /* there is no payload any more, and the letter cannot be sent again: the record was
                  damaged */
};

/* Open the log. The letters that an earlier process left in the directory are there again.
 *
 * Thread: setup. Errors: as mm_spool_open(); errstr has the reason. *out is NULL then. */
int mm_dead_open(const struct mm_dead_options *opts,
                 struct mm_dead **out,
                 char *errstr,
                 size_t errstr_len);

/* Accepts NULL. Thread: setup. */
void mm_dead_close(struct mm_dead *d);

/* Add a copy of the letter. One larger than the log can hold keeps its description without the
 * payload. After a return of 0 the letter outlives the process if the log has a directory, and the
 * end of the system's power unless the policy is never. So a caller that finishes the record
 * afterwards loses nothing; if the process ends in between, the letter is there twice, with one id.
 *
 * Thread: any but the broker. Errors: MM_ENOMEM; MM_EFULL, the file system has no room, and letting
 * old letters go would not give any; MM_EIO, it could not be written or synced (it may be in the
 * log all the same, and be there twice when it is added again); MM_ETOOBIG, the description alone
 * is larger than the log can hold: it never will do. */
int mm_dead_add(struct mm_dead *d, const struct mm_dead_letter *letter);

struct mm_dead_stats
{
    uint64_t n_letters; /* held now */
    uint64_t n_bytes;   /* held now */
    uint64_t n_evicted; /* made room for others, or came without their payload, ever */
};

/* Thread: any but the broker. */
void mm_dead_stats(struct mm_dead *d, struct mm_dead_stats *out);

/* All letters, newest last, as a JSON array without payloads (id, mqtt_topic, payload_bytes,
 * payload_kept, received, died, kafka_topic, error, reason; times as RFC 3339 UTC). Bytes of a
 * topic that are not UTF-8 become U+FFFD. *text is malloc'ed for the caller to free.
 *
 * Thread: any but the broker. Errors: MM_ENOMEM; MM_EIO, the disk could not be read just now. */
int mm_dead_list(struct mm_dead *d, char **text, size_t *len);

/* A copy of the payload of the letter with this id, malloc'ed for the caller to free. The log is
 * read from its beginning.
 *
 * Thread: any but the broker. Errors: MM_EINVAL, no such letter or its payload was not kept;
 * MM_ENOMEM; MM_EIO, the disk could not be read just now. */
int mm_dead_payload(struct mm_dead *d, const char *id, void **data, size_t *len);

/* --- a letter as it stands in its record ------------------------------------------------------ */

struct mm_dead_text
{
    const char *text; /* no NUL; never NULL */
    uint32_t len;
};

struct mm_dead_view
{
    struct mm_dead_text id; /* all empty where the record does not have them */
    struct mm_dead_text kafka_topic;
    struct mm_dead_text error;
    struct mm_dead_text reason;
    uint64_t died_ms;
    uint64_t payload_len; /* of the message, also where it was not kept */
    bool has_payload;
};

/* What the properties of a record of this log tell. *out points into them. A record that came here
 * by way of another log may have a property twice: the last one is ours.
 *
 * Thread: any. */
void mm_dead_view(const struct mm_record *r, struct mm_dead_view *out);

/* The members of the JSON object that mm_dead_list() makes of a letter, without the braces.
 * Failures to write stay in ferror(out). Thread: the one that owns out. */
void mm_dead_write_json(FILE *out, const struct mm_record *r, const struct mm_dead_view *view);

#endif
