#include "mm_dead.h"

#include "mm_error.h"
#include "mm_json.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Small segments: few letters make room for a new one, and a log without any costs little. */
#define SEGMENTS_PER_LIMIT 64
#define MIN_SEGMENT_BYTES (UINT64_C(32) * 1024)
#define MAX_SEGMENT_BYTES (UINT64_C(1024) * 1024)

#define SCAN_MAX 1000

/* The owner's counters in STATE: how long letters were let go is known across restarts. */
#define COUNTER_EVICTED 0

struct mm_dead
{
    /* immutable */
    uint32_t segment_bytes;
    bool sync;
    struct mm_spool *spool;
    struct mm_spool_reader *reader; /* the lock's, as the spool itself */

    /* under lock */
    pthread_mutex_t lock;
    uint64_t n_finished; /* letters that this process let go */
    uint64_t n_evicted;
};

/* Called by the spool, which is ours under the lock. */
static void give_counters(void *arg, uint64_t counters[MM_LAYOUT_COUNTERS])
{
    const struct mm_dead *d = arg;
    counters[COUNTER_EVICTED] = d->n_evicted;
}

static uint32_t choose_segment_bytes(uint64_t max_bytes)
{
    uint64_t size = max_bytes / SEGMENTS_PER_LIMIT / MIN_SEGMENT_BYTES * MIN_SEGMENT_BYTES;
    size = size < MIN_SEGMENT_BYTES ? MIN_SEGMENT_BYTES : size;
    return (uint32_t)(size > MAX_SEGMENT_BYTES ? MAX_SEGMENT_BYTES : size);
}

int mm_dead_open(const struct mm_dead_options *opts,
                 struct mm_dead **out,
                 char *errstr,
                 size_t errstr_len)
{
    *out = NULL;
    struct mm_dead *d = calloc(1, sizeof *d);
    if (d == NULL) {
        snprintf(errstr, errstr_len, "%s", mm_strerror(MM_ENOMEM));
        return MM_ENOMEM;
    }
    d->segment_bytes = choose_segment_bytes(opts->max_bytes);
    d->sync = opts->dir != NULL && opts->sync != MM_SPOOL_SYNC_NEVER;
    struct mm_spool_options spool = {
        .max_bytes = opts->max_bytes,
        .segment_bytes = d->segment_bytes,
        .n_readers = 1,
        .manual = true,
        .log = opts->log,
        .dir = opts->dir,
        .min_free = opts->min_free,
        /* mm_dead_add() syncs: whatever the QoS, and not twice. */
        .sync = d->sync ? MM_SPOOL_SYNC_INTERVAL : MM_SPOOL_SYNC_NEVER,
        .writer = opts->writer,
        .counters = give_counters,
        .counters_arg = d,
    };
    int err = mm_spool_open(&spool, &d->spool, errstr, errstr_len);
    if (err != 0) {
        free(d);
        return err;
    }
    const struct mm_spool_found *found = mm_spool_found(d->spool);
    d->n_evicted = found->has_counters ? found->counters[COUNTER_EVICTED] : 0;
    d->reader = mm_spool_reader(d->spool, 0);
    pthread_mutex_init(&d->lock, NULL);
    *out = d;
    return 0;
}

void mm_dead_close(struct mm_dead *d)
{
    if (d == NULL) {
        return;
    }
    mm_spool_close(d->spool);
    pthread_mutex_destroy(&d->lock);
    free(d);
}

/* --- reading; the lock is held ------------------------------------------------------------------
 */

/* Go to the oldest letter. */
static void rewind_log(struct mm_dead *d)
{
    mm_spool_seek(d->reader, NULL);
}

/* The next letter. Errors: MM_EAGAIN, that was the last; MM_EIO. */
static int next_letter(struct mm_dead *d, struct mm_record *rec, struct mm_spool_pos *pos)
{
    int err;
    do {
        err = mm_spool_next(d->reader, SCAN_MAX, rec, pos);
    } while (err == MM_EAGAIN && mm_spool_pending(d->reader));
    return err;
}

/* --- adding; the lock is held -------------------------------------------------------------------
 */

/* Let go of the letters of the oldest segment that has any. False: that was all that can be done.
 */
static bool evict(struct mm_dead *d)
{
    struct mm_record rec;
    struct mm_spool_pos first;
    struct mm_spool_pos pos;
    uint64_t n = 0;
    rewind_log(d);
    int err = next_letter(d, &rec, &first);
    while (err == 0) {
        n++;
        err = next_letter(d, &rec, &pos);
        if (err == 0 && pos.segment != first.segment) {
            break;
        }
    }
    if (err != 0 && err != MM_EAGAIN) {
        return false;
    }
    d->n_finished += n;
    d->n_evicted += n;
    /* Where nothing was left, what is finished already may still be behind by a segment. */
    mm_spool_finish(d->reader, err == 0 ? &pos : NULL, d->n_finished, 0);
    mm_spool_tick(d->spool);
    return n > 0;
}

/* Is it our own limit that leaves no room for a record of so many bytes? */
static bool at_limit(const struct mm_dead *d, uint64_t size)
{
    struct mm_spool_stats stats;
    mm_spool_stats(d->spool, &stats);
    uint64_t file = size + MM_LAYOUT_HEADER_LEN;
    uint64_t needed = file > d->segment_bytes ? file : d->segment_bytes;
    return stats.allocated_bytes + needed > stats.limit_bytes;
}

/* Append, and make room for it where that helps: a file system that is full is not emptied of its
 * letters for the sake of one. */
static int append(struct mm_dead *d, const struct mm_record *rec)
{
    int err = mm_spool_append(d->spool, rec);
    if (err == MM_EFULL) {
        mm_spool_tick(d->spool); /* prepared segments make room for a large record */
        err = mm_spool_append(d->spool, rec);
    }
    uint64_t size = mm_record_size(rec->topic_len, rec->payload_len, rec->props_len);
    for (bool more = true; err == MM_EFULL && more && at_limit(d, size);) {
        more = evict(d);
        err = mm_spool_append(d->spool, rec);
    }
    return err;
}

/* Append the letter, or if need be its description alone, for which rec's properties have one item
 * more: described_len bytes of them. */
static int store(struct mm_dead *d, struct mm_record *rec, uint32_t described_len)
{
    int err = append(d, rec);
    if (err == MM_ETOOBIG && rec->props_len != described_len) {
        rec->payload_len = 0;
        rec->props_len = described_len;
        err = append(d, rec);
        if (err == 0) {
            d->n_evicted++;
            mm_spool_checkpoint(d->spool);
        }
    }
    if (err == 0 && d->sync) {
        err = mm_spool_sync(d->spool);
    }
    mm_spool_tick(d->spool);
    return err;
}

/* --- adding -------------------------------------------------------------------------------------
 */

static uint8_t *put_text(uint8_t *dst, uint16_t tag, const char *text)
{
    return mm_prop_put(dst, tag, text, (uint32_t)strlen(text));
}

/* The properties of the letter's record. *len: without the last item, which is for a letter whose
 * payload is not kept; *described_len: with it. NULL: out of memory. */
static uint8_t *make_props(const struct mm_dead_letter *l, uint32_t *len, uint32_t *described_len)
{
    size_t room = l->props_len + strlen(l->kafka_topic) + strlen(l->error) + strlen(l->reason) +
                  strlen(l->id) + 2 * sizeof(uint64_t) + (size_t)6 * MM_PROP_HEADER_LEN;
    uint8_t *props = malloc(room);
    if (props == NULL) {
        return NULL;
    }
    uint8_t *at = props;
    if (l->props_len > 0) {
        memcpy(at, l->props, l->props_len);
        at += l->props_len;
    }
    at = put_text(at, MM_TAG_KAFKA_TOPIC, l->kafka_topic);
    at = put_text(at, MM_TAG_ERROR, l->error);
    at = put_text(at, MM_TAG_REASON, l->reason);
    at = mm_prop_put_u64(at, MM_TAG_DIED_MS, l->died_ms);
    at = put_text(at, MM_TAG_ORIGIN, l->id);
    *len = (uint32_t)(at - props);
    at = mm_prop_put_u64(at, MM_TAG_PAYLOAD_LEN, l->payload_len);
    *described_len = (uint32_t)(at - props);
    return props;
}

int mm_dead_add(struct mm_dead *d, const struct mm_dead_letter *letter)
{
    uint32_t len;
    uint32_t described_len;
    uint8_t *props = make_props(letter, &len, &described_len);
    if (props == NULL) {
        return MM_ENOMEM;
    }
    /* What is larger than a record can be is too large for any log. */
    uint32_t payload_len =
        letter->payload_len > UINT32_MAX ? UINT32_MAX : (uint32_t)letter->payload_len;
    struct mm_record rec = {
        .time_ms = letter->time_ms,
        .flags = letter->flags,
        .type = MM_RECORD_DEAD,
        .topic_len = (uint16_t)letter->topic_len,
        .payload_len = letter->lost ? 0 : payload_len,
        .props_len = letter->lost ? described_len : len,
        .topic = letter->topic,
        .payload = letter->payload,
        .props = props,
    };
    pthread_mutex_lock(&d->lock);
    int err = store(d, &rec, described_len);
    pthread_mutex_unlock(&d->lock);
    free(props);
    return err;
}

void mm_dead_stats(struct mm_dead *d, struct mm_dead_stats *out)
{
    struct mm_spool_stats stats;
    pthread_mutex_lock(&d->lock);
    mm_spool_stats(d->spool, &stats);
    uint64_t n = mm_spool_to_take(d->spool);
    out->n_letters = n > d->n_finished ? n - d->n_finished : 0;
    out->n_bytes = stats.used_bytes;
    out->n_evicted = d->n_evicted;
    pthread_mutex_unlock(&d->lock);
}

/* --- a letter as it stands in its record --------------------------------------------------------
 */

/* The last item with this tag: those before it came with the message. */
static const uint8_t *last_item(const struct mm_record *r, uint16_t tag, uint32_t *len)
{
    const uint8_t *found = NULL;
    const uint8_t *at = r->props;
    const uint8_t *end = r->props_len > 0 ? at + r->props_len : at;
    const uint8_t *item;
    uint32_t item_len;
    while (at != end && (item = mm_prop_get(at, (uint32_t)(end - at), tag, &item_len)) != NULL) {
        found = item;
        *len = item_len;
        at = item + item_len;
    }
    return found;
}

static struct mm_dead_text get_text(const struct mm_record *r, uint16_t tag)
{
    uint32_t len = 0;
    const uint8_t *data = last_item(r, tag, &len);
    return (struct mm_dead_text){.text = data == NULL ? "" : (const char *)data, .len = len};
}

static bool get_u64(const struct mm_record *r, uint16_t tag, uint64_t *value)
{
    uint32_t len;
    const uint8_t *data = last_item(r, tag, &len);
    return data != NULL &&
           mm_prop_get_u64(data - MM_PROP_HEADER_LEN, MM_PROP_HEADER_LEN + len, tag, value);
}

void mm_dead_view(const struct mm_record *r, struct mm_dead_view *out)
{
    *out = (struct mm_dead_view){
        .id = get_text(r, MM_TAG_ORIGIN),
        .kafka_topic = get_text(r, MM_TAG_KAFKA_TOPIC),
        .error = get_text(r, MM_TAG_ERROR),
        .reason = get_text(r, MM_TAG_REASON),
    };
    (void)get_u64(r, MM_TAG_DIED_MS, &out->died_ms);
    out->has_payload = !get_u64(r, MM_TAG_PAYLOAD_LEN, &out->payload_len);
    if (out->has_payload) {
        out->payload_len = r->payload_len;
    }
}

/* Milliseconds since the epoch as RFC 3339 in UTC, in quotes. */
static void write_time(FILE *out, uint64_t ms)
{
    time_t seconds = (time_t)(ms / 1000);
    struct tm tm;
    char text[64];
    if (gmtime_r(&seconds, &tm) == NULL ||
        strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &tm) == 0) {
        fputs("null", out);
        return;
    }
    fprintf(out, "\"%s.%03uZ\"", text, (unsigned int)(ms % 1000));
}

static void write_text(FILE *out, const char *name, struct mm_dead_text t)
{
    fprintf(out, "\"%s\":", name);
    mm_json_write_string(out, t.text, t.len);
}

void mm_dead_write_json(FILE *out, const struct mm_record *r, const struct mm_dead_view *view)
{
    write_text(out, "id", view->id);
    fputs(",\"mqtt_topic\":", out);
    mm_json_write_string(out, r->topic, r->topic_len);
    fprintf(out,
            ",\"payload_bytes\":%" PRIu64 ",\"payload_kept\":%s,\"received\":", view->payload_len,
            view->has_payload ? "true" : "false");
    write_time(out, r->time_ms);
    fputs(",\"died\":", out);
    write_time(out, view->died_ms);
    fputc(',', out);
    write_text(out, "kafka_topic", view->kafka_topic);
    fputc(',', out);
    write_text(out, "error", view->error);
    fputc(',', out);
    write_text(out, "reason", view->reason);
}

/* --- showing ------------------------------------------------------------------------------------
 */

/* All letters to out; the lock is held. Errors: MM_EIO. */
static int write_list(struct mm_dead *d, FILE *out)
{
    struct mm_record rec;
    struct mm_spool_pos pos;
    const char *between = "[\n{";
    int err;
    rewind_log(d);
    while ((err = next_letter(d, &rec, &pos)) == 0) {
        struct mm_dead_view view;
        mm_dead_view(&rec, &view);
        fputs(between, out);
        mm_dead_write_json(out, &rec, &view);
        fputc('}', out);
        between = ",\n{";
    }
    fputs(between[0] == '[' ? "[\n]\n" : "\n]\n", out);
    return err == MM_EAGAIN ? 0 : err;
}

int mm_dead_list(struct mm_dead *d, char **text, size_t *len)
{
    *text = NULL;
    *len = 0;
    FILE *out = open_memstream(text, len);
    if (out == NULL) {
        return MM_ENOMEM;
    }
    pthread_mutex_lock(&d->lock);
    int err = write_list(d, out);
    pthread_mutex_unlock(&d->lock);
    bool failed = ferror(out) != 0;
    if (fclose(out) != 0 || failed || *text == NULL) {
        err = MM_ENOMEM;
    }
    if (err != 0) {
        free(*text);
        *text = NULL;
        *len = 0;
    }
    return err;
}

/* The letter with this id; the lock is held. Errors: MM_EINVAL, there is none; MM_EIO. */
static int find_letter(struct mm_dead *d,
                       const char *id,
                       struct mm_record *rec,
                       struct mm_dead_view *view)
{
    size_t id_len = strlen(id);
    struct mm_spool_pos pos;
    int err;
    rewind_log(d);
    while ((err = next_letter(d, rec, &pos)) == 0) {
        mm_dead_view(rec, view);
        if (view->id.len == id_len && memcmp(view->id.text, id, id_len) == 0) {
            return 0;
        }
    }
    return err == MM_EAGAIN ? MM_EINVAL : err;
}

/* The letter's payload copied; the lock is held. */
static int copy_payload(struct mm_dead *d, const char *id, void **data, size_t *len)
{
    struct mm_record rec;
    struct mm_dead_view view;
    int err = find_letter(d, id, &rec, &view);
    if (err != 0 || !view.has_payload) {
        return err != 0 ? err : MM_EINVAL;
    }
    void *copy = malloc((size_t)rec.payload_len + 1); /* an empty payload is one too */
    if (copy == NULL) {
        return MM_ENOMEM;
    }
    if (rec.payload_len > 0) {
        memcpy(copy, rec.payload, rec.payload_len);
    }
    *data = copy;
    *len = rec.payload_len;
    return 0;
}

int mm_dead_payload(struct mm_dead *d, const char *id, void **data, size_t *len)
{
    *data = NULL;
    *len = 0;
    pthread_mutex_lock(&d->lock);
    int err = copy_payload(d, id, data, len);
    pthread_mutex_unlock(&d->lock);
    return err;
}
