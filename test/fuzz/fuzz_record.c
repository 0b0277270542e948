/* A record is read from bytes that we did not write: a damaged file, or an older one's blocks. The
 * input is a salt and such bytes. */
#include "mm_record.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok)
{
    if (!ok) {
        abort();
    }
}

/* The parts lie one behind the other in the padded record at src; read each byte of them, for the
 * address sanitizer. */
static void check_inside(const uint8_t *src, size_t avail, const struct mm_record *r, size_t padded)
{
    const uint8_t *topic = (const uint8_t *)r->topic;
    const uint8_t *end = topic + r->topic_len + r->payload_len + r->props_len;
    check(topic == src + MM_RECORD_HEADER_LEN);
    check(r->payload == topic + r->topic_len);
    check(r->props == topic + r->topic_len + r->payload_len);
    check(padded <= avail && padded % MM_RECORD_ALIGN == 0);
    check(end <= src + padded && end > src + padded - MM_RECORD_ALIGN);
    volatile uint8_t sink = 0;
    for (const uint8_t *p = topic; p < end; p++) {
        sink = *p;
    }
    (void)sink;
}

/* Encode what was decoded from src. If that was verified it gives the same bytes, but for the
 * padding, which no checksum covers; in any case it gives a record that can be verified. */
static void check_encode(const uint8_t *src,
                         uint64_t salt,
                         const struct mm_record *r,
                         size_t padded,
                         bool same)
{
    check(mm_record_size(r->topic_len, r->payload_len, r->props_len) == padded);
    uint8_t *copy = malloc(padded);
    check(copy != NULL);
    memset(copy, 0xAA, padded);
    uint32_t len = mm_record_encode(copy, salt, r);
    mm_record_commit(copy, len);
    check(len <= padded && padded - len < MM_RECORD_ALIGN);
    check(!same || memcmp(copy, src, len) == 0);

    struct mm_record again;
    size_t again_padded;
    check(mm_record_decode(copy, padded, salt, true, &again, &again_padded) == 0);
    check(again_padded == padded);
    check(again.seq == r->seq && again.time_ms == r->time_ms);
    check(again.topic_hash == r->topic_hash && again.flags == r->flags && again.type == r->type);
    check(again.topic_len == r->topic_len && again.payload_len == r->payload_len);
    check(again.props_len == r->props_len);
    check(memcmp(again.topic, r->topic, len - MM_RECORD_HEADER_LEN) == 0);
    free(copy);
}

static void check_at(const uint8_t *src, size_t avail, uint64_t salt)
{
    struct mm_record trusted;
    struct mm_record verified;
    size_t padded;
    size_t verified_padded;
    bool trusts = mm_record_decode(src, avail, salt, false, &trusted, &padded) == 0;
    bool verifies = mm_record_decode(src, avail, salt, true, &verified, &verified_padded) == 0;
    check(trusts || !verifies);
    if (trusts) {
        check_inside(src, avail, &trusted, padded);
        check_encode(src, salt, &trusted, padded, verifies);
    }
    if (verifies) {
        check_inside(src, avail, &verified, verified_padded);
        check_encode(src, salt, &verified, verified_padded, true);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint64_t salt;
    if (size <= sizeof salt) {
        return 0;
    }
    memcpy(&salt, data, sizeof salt);
    size_t avail = size - sizeof salt;
    uint8_t *area = malloc(avail);
    check(area != NULL);
    memcpy(area, data + sizeof salt, avail);
    for (size_t i = 0; i < avail; i += MM_RECORD_ALIGN) {
        check_at(area + i, avail - i, salt);
    }
    free(area);
    return 0;
}
