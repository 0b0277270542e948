#include "notes.h"

#include "mm_error.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define SCAN_MAX 1000000

/* --- the file -----------------------------------------------------------------------------------
 */

static size_t file_len(uint64_t capacity)
{
    return sizeof(struct notes) + capacity * sizeof(uint64_t);
}

static struct notes *map_file(int fd, size_t len)
{
    void *base = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return base == MAP_FAILED ? NULL : base;
}

struct notes *notes_create(const char *path, const struct content_rule *rule, uint64_t capacity)
{
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) {
        return NULL;
    }
    struct notes *notes = NULL;
    if (ftruncate(fd, (off_t)file_len(capacity)) == 0) {
        notes = map_file(fd, file_len(capacity));
    }
    close(fd);
    if (notes != NULL) {
        notes->rule = *rule;
        notes->capacity = capacity;
        atomic_store(&notes->settled_below, 1);
    }
    return notes;
}

struct notes *notes_open(const char *path)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    struct stat st;
    struct notes *notes = NULL;
    if (fd >= 0 && fstat(fd, &st) == 0 && (size_t)st.st_size > sizeof(struct notes)) {
        notes = map_file(fd, (size_t)st.st_size);
    }
    if (fd >= 0) {
        close(fd);
    }
    return notes;
}

void notes_close(struct notes *notes)
{
    if (notes != NULL) {
        munmap(notes, file_len(notes->capacity));
    }
}

size_t notes_len(const struct notes *notes)
{
    return file_len(notes->capacity);
}

uint8_t notes_flags(const struct notes *notes, uint64_t n)
{
    return (uint8_t)atomic_load(&notes->seq_and_flags[n]);
}

void notes_add(struct notes *notes, uint64_t n, uint8_t flags)
{
    atomic_fetch_or(&notes->seq_and_flags[n], flags);
}

uint64_t notes_seq(const struct notes *notes, uint64_t n)
{
    return atomic_load(&notes->seq_and_flags[n]) >> 8;
}

/* --- what happens -------------------------------------------------------------------------------
 */

int notes_append(struct notes *notes, struct mm_spool *s)
{
    uint64_t n = atomic_load(&notes->attempted) + 1;
    if (n >= notes->capacity) {
        return MM_ETOOBIG;
    }
    char topic[CONTENT_TOPIC_MAX];
    struct mm_record r;
    content_make(&notes->rule, n, topic, &r);
    atomic_store(&notes->attempted, n);
    atomic_store(&notes->appending, 1);
    int err = mm_spool_append(s, &r);
    notes_add(notes, n, err == 0 ? NOTE_ACKED : NOTE_REFUSED);
    atomic_store(&notes->appending, 0);
    atomic_fetch_add(err == 0 ? &notes->n_appends : &notes->n_refused, 1);
    if (err != 0) {
        atomic_store(&notes->last_refused, n);
    }
    return err;
}

static uint32_t shard_of(const struct notes *notes, uint64_t n, uint32_t n_shards)
{
    char topic[CONTENT_TOPIC_MAX];
    struct mm_record r;
    content_make(&notes->rule, n, topic, &r);
    return mm_topic_shard(mm_topic_hash(r.topic, r.topic_len), n_shards);
}

void notes_settle(struct notes *notes, const uint64_t *lows, uint32_t n_shards)
{
    uint64_t highest = 0;
    for (uint32_t k = 0; k < n_shards; k++) {
        highest = lows[k] > highest ? lows[k] : highest;
    }
    bool all = true;
    for (uint64_t n = atomic_load(&notes->settled_below); n < highest; n++) {
        uint8_t flags = notes_flags(notes, n);
        if ((flags & NOTE_DELIVERED) != 0 && n < lows[shard_of(notes, n, n_shards)]) {
            notes_add(notes, n, NOTE_SETTLED);
        } else if ((flags & (NOTE_REFUSED | NOTE_LOST)) == 0) {
            all = false;
        }
        if (all) {
            atomic_store(&notes->settled_below, n + 1);
        }
    }
}

/* --- comparing ----------------------------------------------------------------------------------
 */

struct verification
{
    struct notes *notes;
    struct mm_spool *spool;
    const struct notes_terms *terms;
    struct notes_verdict *out;
    uint8_t *seen; /* [n]: how often */
    char *why;
    size_t why_len;
};

__attribute__((format(printf, 2, 3))) static bool wrong(struct verification *v,
                                                        const char *format,
                                                        ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(v->why, v->why_len, format, args);
    va_end(args);
    return false;
}

/* One record that the log gave to reader k. *last: the number before it, of that reader. */
static bool verify_record(struct verification *v,
                          uint32_t k,
                          const struct mm_record *r,
                          uint64_t *last)
{
    struct notes *notes = v->notes;
    uint64_t n = content_number(r);
    if (n == 0 || n > atomic_load(&notes->attempted)) {
        return wrong(v, "seq %" PRIu64 " is a record that was never appended", r->seq);
    }
    if (!content_is_right(&notes->rule, r)) {
        return wrong(v, "record %" PRIu64 " (seq %" PRIu64 ") is wrong", n, r->seq);
    }
    if (mm_topic_shard(r->topic_hash, v->terms->n_readers) != k) {
        return wrong(v, "record %" PRIu64 " came to reader %u, which is not its own", n, k);
    }
    if (n <= *last) {
        return wrong(v, "record %" PRIu64 " came behind record %" PRIu64, n, *last);
    }
    *last = n;
    uint8_t flags = notes_flags(notes, n);
    if ((flags & NOTE_REFUSED) != 0) {
        return wrong(v, "record %" PRIu64 " is there although its append failed", n);
    }
    if ((flags & NOTE_LOST) != 0) {
        return wrong(v, "record %" PRIu64 " is there although it was counted as lost", n);
    }
    if ((flags & NOTE_SETTLED) != 0 && !v->terms->back_allowed) {
        return wrong(v, "record %" PRIu64 " is back although STATE knows that it is finished", n);
    }
    uint64_t seq = notes_seq(notes, n);
    if (seq != 0 && seq != r->seq) {
        return wrong(v, "record %" PRIu64 " had seq %" PRIu64 " and now has %" PRIu64, n, seq,
                     r->seq);
    }
    atomic_store(&notes->seq_and_flags[n], r->seq << 8 | flags | NOTE_ACKED);
    v->seen[n] = 1;
    v->out->n_read++;
    v->out->n_repeated += (flags & NOTE_DELIVERED) != 0;
    v->out->n_uncertain += (flags & NOTE_ACKED) == 0;
    return true;
}

static bool read_shard(struct verification *v, uint32_t k)
{
    struct mm_spool_reader *rd = mm_spool_reader(v->spool, k);
    struct mm_record r;
    struct mm_spool_pos pos;
    uint64_t last = 0;
    uint64_t before = v->out->n_read;
    for (;;) {
        int err = mm_spool_next(rd, SCAN_MAX, &r, &pos);
        if (err == MM_EAGAIN && !mm_spool_pending(rd)) {
            if (v->terms->finish) {
                mm_spool_finish(rd, NULL, v->out->n_read - before, 0);
            }
            return true;
        }
        if (err == 0 && !verify_record(v, k, &r, &last)) {
            return false;
        }
        if (err != 0 && err != MM_EAGAIN) {
            return wrong(v, "the log cannot be read: %s", mm_strerror(err));
        }
    }
}

/* What is not there: numbers that must be, and seqs that go back. */
static bool verify_rest(struct verification *v)
{
    struct notes *notes = v->notes;
    uint64_t attempted = atomic_load(&notes->attempted);
    uint64_t seq = 0;
    for (uint64_t n = 1; n <= attempted; n++) {
        uint8_t flags = notes_flags(notes, n);
        if ((flags & (NOTE_ACKED | NOTE_REFUSED)) == 0) {
            notes_add(notes, n, NOTE_REFUSED); /* was not appended, and must not come later */
            continue;
        }
        v->out->n_total += (flags & NOTE_ACKED) != 0;
        if ((flags & (NOTE_ACKED | NOTE_DELIVERED | NOTE_LOST)) == NOTE_ACKED && !v->seen[n]) {
            if (!v->terms->loss_allowed) {
                return wrong(v, "record %" PRIu64 " was acknowledged and is not there", n);
            }
            notes_add(notes, n, NOTE_LOST);
            v->out->n_missing++;
        }
        uint64_t own = notes_seq(notes, n);
        if (own != 0 && own <= seq) {
            return wrong(v, "record %" PRIu64 " has seq %" PRIu64 ", one before it %" PRIu64, n,
                         own, seq);
        }
        seq = own != 0 ? own : seq;
    }
    return true;
}

static bool verify_figures(struct verification *v)
{
    const struct mm_spool_found *found = mm_spool_found(v->spool);
    const struct notes_verdict *out = v->out;
    struct mm_spool_stats stats;
    mm_spool_stats(v->spool, &stats);
    v->out->n_lost = stats.n_lost;
    if (v->terms->finish && mm_spool_to_take(v->spool) != out->n_read) {
        return wrong(v, "%" PRIu64 " records were to be taken, %" PRIu64 " were there",
                     mm_spool_to_take(v->spool), out->n_read);
    }
    if (v->terms->loss_allowed || v->terms->lost_free) {
        return true;
    }
    if (stats.n_bad_files != v->terms->n_bad) {
        return wrong(v, "%" PRIu64 " files are set aside, not %" PRIu64, stats.n_bad_files,
                     v->terms->n_bad);
    }
    if (found->n_records != out->n_read || stats.n_lost != 0) {
        return wrong(v, "found %" PRIu64 " records, read %" PRIu64 ", lost %" PRIu64,
                     found->n_records, out->n_read, stats.n_lost);
    }
    if (found->n_repeat > out->n_repeated) {
        return wrong(v, "%" PRIu64 " repeats were announced, %" PRIu64 " came", found->n_repeat,
                     out->n_repeated);
    }
    uint64_t counted = found->counters[0] + found->n_records - found->n_repeat;
    uint64_t off = counted > out->n_total ? counted - out->n_total : out->n_total - counted;
    if (off > v->terms->ledger_slack) {
        return wrong(v,
                     "%" PRIu64 " delivered + %" PRIu64 " found - %" PRIu64
                     " repeats are not the %" PRIu64 " that were received",
                     found->counters[0], found->n_records, found->n_repeat, out->n_total);
    }
    return true;
}

bool notes_verify(struct notes *notes,
                  struct mm_spool *s,
                  const struct notes_terms *terms,
                  struct notes_verdict *out,
                  char *why,
                  size_t why_len)
{
    memset(out, 0, sizeof *out);
    struct verification v = {
        .notes = notes, .spool = s, .terms = terms, .out = out, .why = why, .why_len = why_len};
    size_t len = atomic_load(&notes->attempted) + 1;
    void *map = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) {
        return wrong(&v, "out of memory");
    }
    v.seen = map;
    bool good = true;
    for (uint32_t k = 0; good && k < terms->n_readers; k++) {
        good = read_shard(&v, k);
    }
    good = good && verify_rest(&v) && (terms->figures_free || verify_figures(&v));
    munmap(map, len);
    atomic_fetch_add(&notes->n_repeated, out->n_repeated);
    return good;
}
