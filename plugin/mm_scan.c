#include "mm_scan.h"

#include "mm_error.h"
#include "mm_file.h"
#include "mm_layout.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHUNK_LEN ((size_t)1 << 20)
#define BLOCK_LEN ((size_t)4096) /* what is given up when the system cannot read it */

void mm_scan_begin(struct mm_scan *s, int fd, uint64_t salt, uint64_t limit)
{
    s->fd = fd;
    s->salt = salt;
    s->limit = limit;
    s->at = s->look = MM_LAYOUT_HEADER_LEN;
    s->again = s->tail_bad = false;
    s->data_len = 0;
    s->bad_from = s->bad_to = 0;
    s->bad_errno = 0;
}

void mm_scan_fini(struct mm_scan *s)
{
    free(s->data);
    s->data = NULL;
    s->cap = 0;
}

/* --- reading ------------------------------------------------------------------------------------
 */

static void note_bad(struct mm_scan *s, uint64_t from, uint64_t to)
{
    if (s->bad_from == s->bad_to) {
        s->bad_from = from;
    }
    s->bad_to = to;
    s->bad_errno = errno;
}

/* The block at offset is beyond the system: zeros stand for it. */
static size_t skip_block(struct mm_scan *s, uint8_t *dst, size_t len, uint64_t offset)
{
    size_t n = BLOCK_LEN - (size_t)(offset % BLOCK_LEN);
    n = n < len ? n : len;
    memset(dst, 0, n);
    note_bad(s, offset, offset + n);
    return n;
}

/* The file ends here. Of a record at the end of a file that was cut the padding need not be there:
 * it is made up. */
static void end_data(struct mm_scan *s)
{
    while (s->data_len % MM_RECORD_ALIGN != 0) {
        s->data[s->data_len++] = 0;
    }
    s->limit = s->data_at + s->data_len;
}

/* Have the bytes from offset on in the buffer: want of them, or CHUNK_LEN if that is more, or what
 * there is up to the limit. */
static int load(struct mm_scan *s, uint64_t offset, size_t want)
{
    want = want < CHUNK_LEN ? CHUNK_LEN : want;
    want = want < s->limit - offset ? want : (size_t)(s->limit - offset);
    if (want > s->cap) {
        /* Aligned for records, as all of malloc(3); with room for a last record's padding. */
        uint8_t *data = realloc(s->data, want + MM_RECORD_ALIGN);
        if (data == NULL) {
            return MM_ENOMEM;
        }
        s->data = data;
        s->cap = want;
    }
    s->data_at = offset;
    s->data_len = 0;
    while (s->data_len < want) {
        uint8_t *dst = s->data + s->data_len;
        size_t n;
        int err = mm_file_read(s->fd, offset + s->data_len, dst, want - s->data_len, &n);
        if (err == 0 && n == 0) {
            end_data(s);
            break;
        }
        s->data_len += n > 0 ? n : skip_block(s, dst, want - s->data_len, offset + s->data_len);
    }
    return 0;
}

static bool at_hand(const struct mm_scan *s, uint64_t offset)
{
    return offset >= s->data_at && offset < s->data_at + s->data_len;
}

/* --- looking ------------------------------------------------------------------------------------
 */

/* From s->look to the next sound record. */
static int find(struct mm_scan *s, struct mm_record *out, uint64_t *offset, size_t *size)
{
    while (s->look < s->limit) {
        int err = at_hand(s, s->look) ? 0 : load(s, s->look, 0);
        if (err != 0) {
            return err;
        }
        size_t in_data = (size_t)(s->look - s->data_at);
        err = mm_record_find(s->data, s->data_len, (size_t)(s->limit - s->data_at), s->salt,
                             &in_data, out, size);
        s->look = s->data_at + in_data;
        if (err == 0) {
            *offset = s->look;
            return 0;
        }
        if (s->look >= s->limit) {
            break;
        }
        err = load(s, s->look, err == MM_EPARTIAL ? *size : 0);
        if (err != 0) {
            return err;
        }
    }
    return MM_EAGAIN;
}

/* Go back to the last record found, and let nothing be known of what is behind it. */
static void rewind_scan(struct mm_scan *s)
{
    s->look = s->at;
    s->data_len = 0;
}

/* Is there more than a place for the next record? */
static bool has_commit_word(const struct mm_scan *s)
{
    uint32_t word;
    size_t n;
    if (s->limit - s->at < sizeof word || s->at >= s->limit) {
        return false;
    }
    return mm_file_read(s->fd, s->at, &word, sizeof word, &n) != 0 || n < sizeof word || word != 0;
}

int mm_scan_next(struct mm_scan *s, struct mm_record *out, uint64_t *offset, size_t *size)
{
    for (;;) {
        int err = find(s, out, offset, size);
        if (err != 0 && err != MM_EAGAIN) {
            return err;
        }
        bool seems_damaged = err == 0 ? *offset > s->at : has_commit_word(s);
        if (seems_damaged && !s->again) {
            s->again = true;
            rewind_scan(s);
            continue;
        }
        /* A word that was there before the second look belongs to no record that came meanwhile. */
        s->tail_bad = err != 0 && seems_damaged;
        s->again = false;
        if (err == 0) {
            s->at = s->look = *offset + *size;
        } else {
            rewind_scan(s);
        }
        return err;
    }
}

int mm_scan_tail(struct mm_scan *s, uint64_t *n_bytes)
{
    *n_bytes = 0;
    if (!s->tail_bad) {
        return 0;
    }
    uint64_t offset = s->at;
    while (offset < s->limit) {
        int err = load(s, offset, 0);
        if (err != 0) {
            return err;
        }
        for (size_t i = s->data_len; i > 0; i--) {
            if (s->data[i - 1] != 0) {
                *n_bytes = offset + i - s->at;
                break;
            }
        }
        offset += s->data_len;
    }
    rewind_scan(s);
    return 0;
}
