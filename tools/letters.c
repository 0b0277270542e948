#include "letters.h"

#include "mm_error.h"
#include "mm_inspect.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct letters
{
    struct mm_inspect *in;
    struct mm_inspect_reader *reader;
    uint64_t n_damages;
    uint64_t n_others; /* records that are no dead letters */
};

static void on_damage(void *arg, const struct mm_inspect_damage *d)
{
    struct letters *l = arg;
    l->n_damages++;
    fprintf(stderr, "metamorphosis: %s%s%s: %s\n", mm_inspect_dir(l->in),
            d->file[0] == '\0' ? "" : "/", d->file, d->text);
}

/* Letters below this number were let go of. */
static uint64_t first_held(const struct mm_inspect_info *info)
{
    uint64_t first = info->state.n_ranges == 0 ? 0 : UINT64_MAX;
    for (uint32_t i = 0; i < info->state.n_ranges; i++) {
        uint64_t low = info->state.ranges[i].low;
        first = low < first ? low : first;
    }
    return first;
}

/* A spool has its dead letters below it; what is there and is no directory is told. */
static bool open_log(struct letters *l, const char *dir)
{
    char below[PATH_MAX];
    char errstr[PATH_MAX + 256];
    int len = snprintf(below, sizeof below, "%s/dead", dir);
    bool is_spool = len > 0 && (size_t)len < sizeof below && access(below, F_OK) == 0;
    if (mm_inspect_open(is_spool ? below : dir, &l->in, errstr, sizeof errstr) != 0) {
        fprintf(stderr, "metamorphosis: %s\n", errstr);
        return false;
    }
    struct mm_inspect_reader_options opts = {
        .segment = MM_INSPECT_ALL,
        .from_seq = first_held(mm_inspect_info(l->in)),
        .on_damage = on_damage,
        .arg = l,
    };
    int err = mm_inspect_reader_new(l->in, &opts, &l->reader);
    if (err != 0) {
        fprintf(stderr, "metamorphosis: %s: %s\n", dir, mm_strerror(err));
    }
    mm_inspect_tell_unread(l->in, on_damage, l);
    return err == 0;
}

bool letters_open(const char *dir, struct letters **out)
{
    *out = NULL;
    struct letters *l = calloc(1, sizeof *l);
    if (l == NULL) {
        fprintf(stderr, "metamorphosis: %s\n", mm_strerror(MM_ENOMEM));
        return false;
    }
    if (!open_log(l, dir)) {
        letters_close(l);
        return false;
    }
    *out = l;
    return true;
}

void letters_close(struct letters *l)
{
    if (l == NULL) {
        return;
    }
    mm_inspect_reader_free(l->reader);
    mm_inspect_close(l->in);
    free(l);
}

const char *letters_dir(const struct letters *l)
{
    return mm_inspect_dir(l->in);
}

static void tell_others(const struct letters *l)
{
    if (l->n_others > 0) {
        fprintf(
            stderr,
            "metamorphosis: %s: %" PRIu64
            " records that are no dead letters were passed over; is it the directory of a spool "
            "without any?\n",
            mm_inspect_dir(l->in), l->n_others);
    }
}

bool letters_next(struct letters *l, struct mm_record *rec, struct mm_dead_view *view)
{
    struct mm_inspect_place place;
    int err;
    while ((err = mm_inspect_next(l->reader, rec, &place)) == 0) {
        if (rec->type != MM_RECORD_DEAD) {
            l->n_others++;
        } else if (!mm_inspect_finished(l->in, rec->seq, rec->topic_hash)) {
            mm_dead_view(rec, view);
            return true;
        }
    }
    if (err != MM_EAGAIN) {
        l->n_damages++;
        fprintf(stderr, "metamorphosis: %s: %s\n", mm_inspect_dir(l->in), mm_strerror(err));
    }
    tell_others(l);
    return false;
}

bool letters_damaged(const struct letters *l)
{
    return l->n_damages > 0 || l->n_others > 0;
}

unsigned int letters_percent(const struct letters *l)
{
    uint64_t done = 0;
    uint64_t total = 0;
    mm_inspect_progress(l->reader, &done, &total);
    return total == 0 ? 100 : (unsigned int)(done * 100 / total);
}
