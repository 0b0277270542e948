#include "mm_record.h"

#include "mm_error.h"

#include <endian.h>
#include <string.h>

/* The commit word is written and read as a uint32_t by the atomic built-ins, everything else of a
 * record by memcpy(). A segment is mapped or allocated memory, which has no declared type, so its
 * first four bytes take the type of the store and both views are lawful (C11 6.5 p6, p7).
 *
 * The header is handled as five words of 8 bytes, least significant byte first:
 *
 *     0  len, header crc
 *     1  seq
 *     2  time_ms
 *     3  body crc, topic_hash
 *     4  payload_len, topic_len, flags, type
 *
 * Whole words also let the checksum, computed right behind, load what was just stored. */

static uint64_t pad(uint64_t len)
{
    return (len + MM_RECORD_ALIGN - 1) & ~(uint64_t)(MM_RECORD_ALIGN - 1);
}

uint64_t mm_record_size(uint16_t topic_len, uint32_t payload_len, uint32_t props_len)
{
    return pad((uint64_t)MM_RECORD_HEADER_LEN + topic_len + payload_len + props_len);
}

static uint64_t load_word(const uint8_t *header, size_t i)
{
    uint64_t v;
    memcpy(&v, header + i * sizeof v, sizeof v);
    return le64toh(v);
}

static void store_word(uint8_t *header, size_t i, uint64_t v)
{
    v = htole64(v);
    memcpy(header + i * sizeof v, &v, sizeof v);
}

static uint32_t header_crc(uint64_t salt, uint32_t len, const uint8_t *header)
{
    uint64_t start[2] = {htole64(salt), htole64(len)};
    uint32_t crc = mm_crc32c(0, start, sizeof salt + sizeof len);
    return mm_crc32c(crc, header + 8, MM_RECORD_HEADER_LEN - 8);
}

static uint32_t body_crc(uint64_t salt, uint64_t seq, const uint8_t *body, size_t body_len)
{
    uint64_t start[2] = {htole64(salt), htole64(seq)};
    uint32_t crc = mm_crc32c(0, start, sizeof start);
    return mm_crc32c(crc, body, body_len);
}

/* Returns the byte behind the copy. src may be NULL when n is 0, which memcpy() does not allow. */
static uint8_t *put(uint8_t *dst, const void *src, size_t n)
{
    if (n > 0) {
        memcpy(dst, src, n);
    }
    return dst + n;
}

uint32_t mm_record_encode(void *dst, uint64_t salt, const struct mm_record *r)
{
    uint8_t *header = dst;
    uint8_t *body = header + MM_RECORD_HEADER_LEN;
    uint64_t size = mm_record_size(r->topic_len, r->payload_len, r->props_len);

    __atomic_store_n((uint32_t *)dst, 0, __ATOMIC_RELAXED);
    store_word(header, size / 8 - 1, 0); /* the padding; what is not padding is written below */
    uint8_t *end = put(body, r->topic, r->topic_len);
    end = put(end, r->payload, r->payload_len);
    end = put(end, r->props, r->props_len);
    uint32_t len = (uint32_t)(end - header);

    uint32_t crc = body_crc(salt, r->seq, body, len - MM_RECORD_HEADER_LEN);
    store_word(header, 1, r->seq);
    store_word(header, 2, r->time_ms);
    store_word(header, 3, crc | (uint64_t)r->topic_hash << 32);
    store_word(header, 4,
               r->payload_len | (uint64_t)r->topic_len << 32 | (uint64_t)r->flags << 48 |
                   (uint64_t)r->type << 56);
    crc = htole32(header_crc(salt, len, header));
    memcpy(header + 4, &crc, sizeof crc);
    return len;
}

void mm_record_commit(void *dst, uint32_t len)
{
    /* Publishes the bytes that mm_record_encode() wrote; pairs with the acquire load in
     * mm_record_decode(). Without it a reader could see the length and the old bytes; and a process
     * killed here could leave a length in front of bytes that never came. */
    __atomic_store_n((uint32_t *)dst, htole32(len), __ATOMIC_RELEASE);
}

/* Pairs with the release store in mm_record_commit(). */
static uint32_t load_len(const void *src)
{
    return le32toh(__atomic_load_n((const uint32_t *)src, __ATOMIC_ACQUIRE));
}

/* Do the lengths agree with each other and with room, which the record may not exceed? Only len is
 * looked at when it is not that of a whole header. */
static bool lengths_agree(const uint8_t *header, uint32_t len, uint64_t room)
{
    if (len < MM_RECORD_HEADER_LEN || pad(len) > room) {
        return false;
    }
    uint64_t rest = load_word(header, 4);
    return (uint64_t)(uint32_t)rest + (uint16_t)(rest >> 32) <= len - MM_RECORD_HEADER_LEN;
}

static bool header_sound(const uint8_t *header, uint32_t len, uint64_t salt)
{
    uint32_t crc;
    memcpy(&crc, header + 4, sizeof crc);
    return header_crc(salt, len, header) == le32toh(crc);
}

static bool body_sound(const uint8_t *header, uint32_t len, uint64_t salt)
{
    uint32_t crc = (uint32_t)load_word(header, 3);
    return body_crc(salt, load_word(header, 1), header + MM_RECORD_HEADER_LEN,
                    len - MM_RECORD_HEADER_LEN) == crc;
}

/* The parts of a record whose lengths agree. */
static void split(const uint8_t *header, uint32_t len, struct mm_record *out)
{
    const uint8_t *body = header + MM_RECORD_HEADER_LEN;
    uint64_t rest = load_word(header, 4);
    out->seq = load_word(header, 1);
    out->time_ms = load_word(header, 2);
    out->topic_hash = (uint32_t)(load_word(header, 3) >> 32);
    out->flags = (uint8_t)(rest >> 48);
    out->type = (uint8_t)(rest >> 56);
    out->topic_len = (uint16_t)(rest >> 32);
    out->payload_len = (uint32_t)rest;
    out->props_len = len - MM_RECORD_HEADER_LEN - out->topic_len - out->payload_len;
    out->topic = (const char *)body;
    out->payload = body + out->topic_len;
    out->props = body + out->topic_len + out->payload_len;
}

int mm_record_decode(const void *src,
                     size_t avail,
                     uint64_t salt,
                     bool verify,
                     struct mm_record *out,
                     size_t *size)
{
    if (avail < sizeof(uint32_t)) {
        return MM_ECORRUPT;
    }
    uint32_t len = load_len(src);
    if (len == 0) {
        return MM_EAGAIN;
    }
    if (!lengths_agree(src, len, avail) ||
        (verify && !(header_sound(src, len, salt) && body_sound(src, len, salt)))) {
        return MM_ECORRUPT;
    }
    split(src, len, out);
    *size = (size_t)pad(len);
    return 0;
}

/* Linear: a place costs a checksum of one header, and a body's is computed only behind a sound
 * header, after which the whole record is behind us, taken or stepped over. The lengths come first
 * since they are cheaper and refuse most of what is no record. */
int mm_record_find(const void *data,
                   size_t len,
                   size_t limit,
                   uint64_t salt,
                   size_t *offset,
                   struct mm_record *out,
                   size_t *size)
{
    size_t at = *offset;
    while (at < limit && limit - at >= MM_RECORD_HEADER_LEN) {
        if (at >= len || len - at < MM_RECORD_HEADER_LEN) {
            *offset = at;
            return MM_EAGAIN;
        }
        const uint8_t *header = (const uint8_t *)data + at;
        uint32_t record_len = load_len(header);
        if (!lengths_agree(header, record_len, limit - at) ||
            !header_sound(header, record_len, salt)) {
            at += MM_RECORD_ALIGN;
            continue;
        }
        size_t padded = (size_t)pad(record_len);
        if (padded > len - at) {
            *offset = at;
            *size = padded;
            return MM_EPARTIAL;
        }
        if (body_sound(header, record_len, salt)) {
            split(header, record_len, out);
            *offset = at;
            *size = padded;
            return 0;
        }
        at += padded;
    }
    *offset = limit;
    return MM_EAGAIN;
}

/* --- properties ---------------------------------------------------------------------------------
 */

static uint8_t *put_header(uint8_t *dst, uint16_t tag, uint32_t len)
{
    uint16_t tag_le = htole16(tag);
    uint32_t len_le = htole32(len);
    dst = put(dst, &tag_le, sizeof tag_le);
    return put(dst, &len_le, sizeof len_le);
}

uint8_t *mm_prop_put(uint8_t *dst, uint16_t tag, const void *data, uint32_t len)
{
    return put(put_header(dst, tag, len), data, len);
}

uint8_t *mm_prop_put_u64(uint8_t *dst, uint16_t tag, uint64_t value)
{
    value = htole64(value);
    return mm_prop_put(dst, tag, &value, sizeof value);
}

size_t mm_prop_pair_len(const struct mm_prop_pair *pair)
{
    return sizeof(uint16_t) + pair->name_len + pair->value_len;
}

uint8_t *mm_prop_put_pair(uint8_t *dst, const struct mm_prop_pair *pair)
{
    uint16_t name_len_le = htole16((uint16_t)pair->name_len);
    dst = put_header(dst, MM_TAG_USER_PROPERTY, (uint32_t)mm_prop_pair_len(pair));
    dst = put(dst, &name_len_le, sizeof name_len_le);
    dst = put(dst, pair->name, pair->name_len);
    return put(dst, pair->value, pair->value_len);
}

bool mm_prop_split_pair(const uint8_t *data, uint32_t len, struct mm_prop_pair *out)
{
    uint16_t name_len;
    if (len < sizeof name_len) {
        return false;
    }
    memcpy(&name_len, data, sizeof name_len);
    name_len = le16toh(name_len);
    const size_t rest = len - sizeof name_len;
    if (name_len > rest) {
        return false;
    }
    const char *text = (const char *)data + sizeof name_len;
    *out = (struct mm_prop_pair){
        .name = text, .name_len = name_len, .value = text + name_len, .value_len = rest - name_len};
    return true;
}

bool mm_prop_next(const void *props,
                  uint32_t props_len,
                  uint32_t *offset,
                  uint16_t *tag,
                  const uint8_t **data,
                  uint32_t *len)
{
    if (props_len - *offset < MM_PROP_HEADER_LEN) {
        return false;
    }
    const uint8_t *at = (const uint8_t *)props + *offset;
    memcpy(tag, at, sizeof *tag);
    memcpy(len, at + sizeof *tag, sizeof *len);
    *tag = le16toh(*tag);
    *len = le32toh(*len);
    if (*len > props_len - *offset - MM_PROP_HEADER_LEN) {
        return false;
    }
    *data = at + MM_PROP_HEADER_LEN;
    *offset += MM_PROP_HEADER_LEN + *len;
    return true;
}

const uint8_t *mm_prop_get(const void *props, uint32_t props_len, uint16_t tag, uint32_t *len)
{
    uint32_t offset = 0;
    uint16_t item_tag;
    const uint8_t *data;
    uint32_t item_len;
    while (mm_prop_next(props, props_len, &offset, &item_tag, &data, &item_len)) {
        if (item_tag == tag) {
            *len = item_len;
            return data;
        }
    }
    return NULL;
}

bool mm_prop_get_u64(const void *props, uint32_t props_len, uint16_t tag, uint64_t *value)
{
    uint32_t len;
    const uint8_t *data = mm_prop_get(props, props_len, tag, &len);
    if (data == NULL || len != sizeof *value) {
        return false;
    }
    memcpy(value, data, sizeof *value);
    *value = le64toh(*value);
    return true;
}

/* --- topic hash ---------------------------------------------------------------------------------
 */

/* CRC-32C alone would not do: it is linear, so that topics which differ in a few bits differ in a
 * fixed pattern, and the high bits, which choose the shard, would follow the pattern. What comes
 * behind is the finalizer of MurmurHash3, which lets each bit depend on all. It is a bijection and
 * adds no collisions. */
uint32_t mm_topic_hash(const char *topic, size_t topic_len)
{
    uint32_t h = mm_crc32c(0, topic, topic_len);
    h ^= h >> 16;
    h *= 0x85EBCA6Bu;
    h ^= h >> 13;
    h *= 0xC2B2AE35u;
    h ^= h >> 16;
    return h;
}
