#include "mm_error.h"
#include "mm_file.h"
#include "mm_inspect_impl.h"

#include <inttypes.h>
#include <string.h>
#include <unistd.h>

/* Counts what passes on its way to the caller. */
struct verifier
{
    const struct mm_inspect_verify_options *opts;
    struct mm_inspect_verdict *out;
};

static void on_damage(void *arg, const struct mm_inspect_damage *d)
{
    struct verifier *v = arg;
    v->out->n_damages++;
    v->out->n_missing += d->n_missing;
    if (v->opts->on_damage != NULL) {
        v->opts->on_damage(v->opts->arg, d);
    }
}

static void verify_slot(struct mm_inspect *in, struct verifier *v, int i)
{
    const struct mm_inspect_info *info = &in->info;
    struct mm_inspect_damage d = {.kind = MM_INSPECT_STATE_SLOT,
                                  .file = "STATE",
                                  .offset = (uint64_t)i * MM_LAYOUT_STATE_LEN,
                                  .len = MM_LAYOUT_STATE_LEN};
    switch (info->slot_err[i]) {
        case MM_ECORRUPT:
            mm_inspect_tell(on_damage, v, &d, "this slot of STATE is damaged%s",
                            info->slot >= 0 ? "; the other one counts" : "");
            break;
        case MM_EVERSION:
            d.kind = MM_INSPECT_VERSION;
            mm_inspect_tell(on_damage, v, &d, "a newer version wrote this slot of STATE");
            break;
        case MM_EAGAIN:
            /* Not before the third time is it sure that each was written. */
            if (info->slot >= 0 && info->state.generation > 2) {
                mm_inspect_tell(on_damage, v, &d,
                                "this slot of STATE is empty; the other one counts");
            }
            break;
        default:
            break;
    }
}

static void verify_state(struct mm_inspect *in, struct verifier *v)
{
    verify_slot(in, v, 0);
    verify_slot(in, v, 1);
    bool written = in->info.slot_err[0] != MM_EAGAIN || in->info.slot_err[1] != MM_EAGAIN;
    if (in->info.held && !written) {
        return; /* its owner has just begun */
    }
    if (in->info.slot < 0 && in->info.n_records > 0) {
        struct mm_inspect_damage d = {.kind = MM_INSPECT_STATE, .file = "STATE"};
        mm_inspect_tell(
            on_damage, v, &d,
            "%s: which records were delivered is not known, so all of them are delivered again",
            in->info.has_state_file ? "no slot of STATE is good" : "there is no STATE");
    }
}

/* The bytes of the header's page that belong to neither copy nor to the seal. */
static void verify_page(const uint8_t *bytes,
                        const struct mm_inspect_segment *seg,
                        struct verifier *v)
{
    uint8_t good[MM_LAYOUT_HEADER_LEN];
    mm_layout_encode_header(good, &seg->header);
    memcpy(good + MM_LAYOUT_SEAL_OFFSET, bytes + MM_LAYOUT_SEAL_OFFSET, MM_LAYOUT_SEAL_LEN);
    size_t first = 0;
    while (first < sizeof good && good[first] == bytes[first]) {
        first++;
    }
    if (first < sizeof good) {
        struct mm_inspect_damage d = {
            .kind = MM_INSPECT_PADDING, .file = seg->name, .offset = first, .len = 1};
        mm_inspect_tell(on_damage, v, &d, "bytes that nobody uses were changed, from here on");
    }
}

static void verify_header(struct mm_inspect *in,
                          const struct mm_inspect_segment *seg,
                          struct verifier *v)
{
    struct mm_inspect_damage d = {.file = seg->name};
    struct stat st;
    uint8_t bytes[MM_LAYOUT_HEADER_LEN] = {0};
    if (seg->n_copies < 2) {
        d.kind = MM_INSPECT_HEADER_COPY;
        d.len = MM_LAYOUT_HEADER_LEN;
        mm_inspect_tell(on_damage, v, &d,
                        "one copy of the header is damaged; the other one counts");
    }
    if (seg->seal_err == MM_ECORRUPT) {
        d.kind = MM_INSPECT_SEAL;
        d.offset = MM_LAYOUT_SEAL_OFFSET;
        d.len = MM_LAYOUT_SEAL_LEN;
        mm_inspect_tell(on_damage, v, &d, "the seal is damaged; the records tell the same");
    }
    /* When it is sealed, what it does not need is cut off. */
    if (seg->seal_err == MM_EAGAIN && seg->size < seg->header.size) {
        d.kind = MM_INSPECT_SHORT;
        d.offset = seg->size;
        d.len = seg->header.size - seg->size;
        mm_inspect_tell(on_damage, v, &d, "the file ought to have %" PRIu64 " bytes",
                        seg->header.size);
    }
    int fd = seg->n_copies == 2 ? mm_inspect_open_file(in->fd, seg->name, &st) : -1;
    size_t n = 0;
    if (fd >= 0 && mm_file_read(fd, 0, bytes, sizeof bytes, &n) == 0 && n == sizeof bytes) {
        verify_page(bytes, seg, v);
    }
    if (fd >= 0) {
        close(fd);
    }
}

/* A segment without records may have got some since it was looked at; what must not be is a
 * beginning of one that is none. */
static int verify_spare(struct mm_inspect *in,
                        const struct mm_inspect_segment *seg,
                        struct verifier *v)
{
    struct stat st;
    int fd = seg->header_err == 0 ? mm_inspect_open_file(in->fd, seg->name, &st) : -1;
    if (fd < 0) {
        return 0;
    }
    struct mm_scan scan = {0};
    struct mm_record rec;
    struct mm_inspect_damage d = {
        .kind = MM_INSPECT_BYTES, .file = seg->name, .offset = MM_LAYOUT_HEADER_LEN};
    uint64_t offset;
    size_t size;
    mm_scan_begin(&scan, fd, seg->header.salt, mm_inspect_area_end(seg));
    int err = mm_scan_next(&scan, &rec, &offset, &size);
    if (err == MM_EAGAIN) {
        err = mm_scan_tail(&scan, &d.len);
    }
    if (err == 0 && d.len > 0) {
        mm_inspect_tell(on_damage, v, &d,
                        "no record can be read here; how many there were is not known");
    }
    v->out->n_bytes += seg->size;
    mm_scan_fini(&scan);
    close(fd);
    return err;
}

static int verify_records(struct mm_inspect *in, struct verifier *v)
{
    struct mm_inspect_reader_options opts = {
        .segment = MM_INSPECT_ALL, .on_damage = on_damage, .arg = v};
    struct mm_inspect_reader *rd;
    struct mm_inspect_place place;
    struct mm_record rec;
    int err = mm_inspect_reader_new(in, &opts, &rd);
    if (err != 0) {
        return err;
    }
    uint64_t told = 0;
    uint64_t done;
    uint64_t total;
    while ((err = mm_inspect_next(rd, &rec, &place)) == 0) {
        v->out->n_records++;
        mm_inspect_progress(rd, &done, &total);
        if (v->opts->on_progress != NULL && done - told >= (UINT64_C(1) << 20)) {
            told = done;
            v->opts->on_progress(v->opts->arg, done, total);
        }
    }
    mm_inspect_progress(rd, &done, &total);
    v->out->n_bytes += total;
    v->out->n_given_up = rd->n_given_up;
    mm_inspect_reader_free(rd);
    return err == MM_EAGAIN ? 0 : err;
}

int mm_inspect_verify(struct mm_inspect *in,
                      const struct mm_inspect_verify_options *opts,
                      struct mm_inspect_verdict *out)
{
    struct verifier v = {.opts = opts, .out = out};
    memset(out, 0, sizeof *out);
    verify_state(in, &v);
    for (size_t i = 0; i < in->n_segments; i++) {
        const struct mm_inspect_segment *seg = &in->segments[i];
        if (seg->state != MM_INSPECT_DAMAGED && seg->header_err == 0) {
            verify_header(in, seg, &v);
        }
    }
    mm_inspect_tell_unread(in, on_damage, &v);
    int err = verify_records(in, &v);
    for (size_t i = 0; err == 0 && i < in->n_segments; i++) {
        if (in->segments[i].state == MM_INSPECT_SPARE) {
            err = verify_spare(in, &in->segments[i], &v);
        }
    }
    return err;
}
