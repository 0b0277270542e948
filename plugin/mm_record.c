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

uint64_t mm_record_size(uint16_t topic_len, uint32_t payload_len, uint32_t props_len)
{
    uint64_t len = (uint64_t)MM_RECORD_HEADER_LEN + topic_len + payload_len + props_len;
    return (len + MM_RECORD_ALIGN - 1) & ~(uint64_t)(MM_RECORD_ALIGN - 1);
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
    uint32_t len = le32toh(__atomic_load_n((const uint32_t *)src, __ATOMIC_ACQUIRE));
    if (len == 0) {
        return MM_EAGAIN;
    }
    uint64_t padded = ((uint64_t)len + MM_RECORD_ALIGN - 1) & ~(uint64_t)(MM_RECORD_ALIGN - 1);
    if (len < MM_RECORD_HEADER_LEN || padded > avail) {
        return MM_ECORRUPT;
    }

    const uint8_t *header = src;
    const uint8_t *body = header + MM_RECORD_HEADER_LEN;
    uint32_t body_len = len - MM_RECORD_HEADER_LEN;
    uint64_t crcs = load_word(header, 3);
    uint64_t rest = load_word(header, 4);
    uint32_t payload_len = (uint32_t)rest;
    uint16_t topic_len = (uint16_t)(rest >> 32);
    uint64_t seq = load_word(header, 1);
    if ((uint64_t)topic_len + payload_len > body_len) {
        return MM_ECORRUPT;
    }
    if (verify) {
        uint32_t crc;
        memcpy(&crc, header + 4, sizeof crc);
        if (header_crc(salt, len, header) != le32toh(crc) ||
            body_crc(salt, seq, body, body_len) != (uint32_t)crcs) {
            return MM_ECORRUPT;
        }
    }

    out->seq = seq;
    out->time_ms = load_word(header, 2);
    out->topic_hash = (uint32_t)(crcs >> 32);
    out->flags = (uint8_t)(rest >> 48);
    out->type = (uint8_t)(rest >> 56);
    out->topic_len = topic_len;
    out->payload_len = payload_len;
    out->props_len = body_len - topic_len - payload_len;
    out->topic = (const char *)body;
    out->payload = body + topic_len;
    out->props = body + topic_len + payload_len;
    *size = (size_t)padded;
    return 0;
}

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
