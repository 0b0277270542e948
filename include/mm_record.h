/* mm_record.h - the bytes of one record of the spool.
 *
 * A record is one MQTT message. Little-endian, starts at a multiple of 8, padded to one with zero
 * bytes:
 *
 *     off  size  field
 *       0     4  len          of the whole record without padding, bytes; the commit word: 0 until
 *                             all other bytes are written, then stored once with release order
 *       4     4  header crc   CRC-32C of salt (8 bytes, little-endian), len, bytes 8 to 39
 *       8     8  seq          +1 for each record of the spool, from 1; a gap counts what was lost
 *      16     8  time_ms      time of receipt, ms since the epoch (UTC)
 *      24     4  body crc     CRC-32C of salt, seq, body
 *      28     4  topic_hash   mm_topic_hash() of the MQTT topic: chooses the worker
 *      32     4  payload_len  bytes
 *      36     2  topic_len    bytes
 *      38     1  flags        MM_RECORD_QOS_MASK, MM_RECORD_RETAIN
 *      39     1  type         MM_RECORD_MESSAGE
 *      40        body         MQTT topic, payload, properties (the rest of len)
 *
 * Each field but the padding is under one of the two checksums.
 *
 * The salt is the segment's: bytes of an older file at the same place, or a record forged inside a
 * payload, cannot pass for a record. The header has a checksum of its own so that len can be
 * trusted when the body is damaged. CRC-32C: RFC 3720 appendix B.4. Pure functions, no state.
 *
 * Thread: any. */
#ifndef MM_RECORD_H
#define MM_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MM_RECORD_HEADER_LEN 40
#define MM_RECORD_ALIGN 8

#define MM_RECORD_QOS_MASK 0x03
#define MM_RECORD_RETAIN 0x04

#define MM_RECORD_MESSAGE 1 /* an MQTT message */
#define MM_RECORD_DEAD 2    /* a dead letter: a message with properties that tell why */

struct mm_record
{
    uint64_t seq;
    uint64_t time_ms;
    uint32_t topic_hash;
    uint8_t flags;
    uint8_t type;
    uint16_t topic_len;
    uint32_t payload_len;
    uint32_t props_len;
    const char *topic;   /* topic_len bytes, no NUL */
    const void *payload; /* payload_len bytes; may be NULL when 0 */
    const void *props;   /* props_len bytes; may be NULL when 0 */
};

/* Bytes that a record takes in a segment, padding included. Does not overflow for any arguments. */
uint64_t mm_record_size(uint16_t topic_len, uint32_t payload_len, uint32_t props_len);

/* Write a record at dst, all but its commit word (left 0), and its zero padding. dst is 8-byte
 * aligned and has mm_record_size() bytes. Returns the value for mm_record_commit().
 * The caller has made sure that the record's length fits into 32 bits. */
uint32_t mm_record_encode(void *dst, uint64_t salt, const struct mm_record *r);

/* Store the commit word with release order. Pairs with the acquire load in mm_record_decode(). */
void mm_record_commit(void *dst, uint32_t len);

/* Read the record at src, which is 8-byte aligned and of which avail bytes may be touched, any
 * number. The result points into src. *size is its length with padding. With verify both checksums
 * are computed; without, only the lengths are checked against each other and avail, for memory that
 * nobody else can have written. flags and type may have values that this version does not know.
 *
 * Errors: MM_EAGAIN, the commit word is 0; MM_ECORRUPT, no record, or one that does not end within
 * avail (so always when avail < 4). *out and *size are unchanged then. */
int mm_record_decode(const void *src,
                     size_t avail,
                     uint64_t salt,
                     bool verify,
                     struct mm_record *out,
                     size_t *size);

/* Find the first sound record at or behind *offset, stepping over damage and over places that were
 * never written. data is 8-byte aligned and is the beginning of an area of limit bytes that records
 * lie in, of which the first len bytes are at hand; *offset is a multiple of 8. Both checksums are
 * computed. A record whose header is sound and whose body is not is stepped over as a whole;
 * anything else by 8 bytes. The time is linear in the bytes stepped over, whatever they hold.
 *
 * On 0 the record is at *offset and takes *size bytes.
 * Errors: MM_EAGAIN, there is none within len: *offset is where to go on when more bytes are at
 * hand, or limit when that was all; MM_EPARTIAL, a sound header at *offset, of a record that goes
 * on behind len: *size bytes from *offset are needed. */
int mm_record_find(const void *data,
                   size_t len,
                   size_t limit,
                   uint64_t salt,
                   size_t *offset,
                   struct mm_record *out,
                   size_t *size);

/* Properties: what belongs to a message beside topic and payload, as a run of items, each a tag of
 * 2 bytes, a length of 4 bytes (little-endian) and so many bytes. Unknown tags are skipped. */
enum mm_record_tag {
    MM_TAG_KAFKA_TOPIC = 1, /* text: the Kafka topic that the record was meant for */
    MM_TAG_ERROR = 2,       /* text: Kafka's name of the error */
    MM_TAG_REASON = 3,      /* text: the error in words */
    MM_TAG_DIED_MS = 4,     /* 8 bytes: when it became a dead letter, ms since the epoch */
    MM_TAG_ORIGIN = 5,      /* text: the mm-id that it had in the spool, "<uuid>-<seq>" */
    MM_TAG_PAYLOAD_LEN = 6, /* 8 bytes: of the payload, where it was too large to be kept */

    /* of the MQTT message, as far as the settings ask for it */
    MM_TAG_CLIENT_ID = 7,         /* text */
    MM_TAG_USERNAME = 8,          /* text */
    MM_TAG_CONTENT_TYPE = 9,      /* text, MQTT 5, as all that follow */
    MM_TAG_RESPONSE_TOPIC = 10,   /* text */
    MM_TAG_CORRELATION_DATA = 11, /* bytes */
    MM_TAG_PAYLOAD_FORMAT = 12,   /* 1 byte: 0 bytes, 1 UTF-8 */
    MM_TAG_USER_PROPERTY = 13,    /* any number: struct mm_prop_pair */
};

#define MM_PROP_HEADER_LEN 6

/* Add an item at dst, which has room for MM_PROP_HEADER_LEN + len bytes; returns the byte behind.
 * data may be NULL when len is 0. */
uint8_t *mm_prop_put(uint8_t *dst, uint16_t tag, const void *data, uint32_t len);
uint8_t *mm_prop_put_u64(uint8_t *dst, uint16_t tag, uint64_t value);

/* A user property. Its item holds the length of the name (2 bytes, little-endian), name, value. */
struct mm_prop_pair
{
    const char *name;
    size_t name_len; /* at most UINT16_MAX */
    const char *value;
    size_t value_len;
};

/* Bytes of the item behind its header. */
size_t mm_prop_pair_len(const struct mm_prop_pair *pair);

/* Add a user property at dst; returns the byte behind. */
uint8_t *mm_prop_put_pair(uint8_t *dst, const struct mm_prop_pair *pair);

/* Take the bytes of a user property apart; the texts point into data. False: it is damaged. */
bool mm_prop_split_pair(const uint8_t *data, uint32_t len, struct mm_prop_pair *out);

/* The first item with this tag: NULL when there is none before the end, or before an item that does
 * not fit. */
const uint8_t *mm_prop_get(const void *props, uint32_t props_len, uint16_t tag, uint32_t *len);

/* False: no such item, or one of another length. */
bool mm_prop_get_u64(const void *props, uint32_t props_len, uint16_t tag, uint64_t *value);

/* Hash of an MQTT topic, well mixed in all 32 bits, the same on every machine and for ever. */
uint32_t mm_topic_hash(const char *topic, size_t topic_len);

/* The shard of a hash among n: 0 <= result < n; n >= 1. Even, and uses the high bits. */
static inline uint32_t mm_topic_shard(uint32_t topic_hash, uint32_t n)
{
    return (uint32_t)(((uint64_t)topic_hash * n) >> 32);
}

/* The item at *offset, which is moved behind it; begin with 0. False: there is none, or one that
 * does not fit. data points into props; it may be NULL when len is 0. */
bool mm_prop_next(const void *props,
                  uint32_t props_len,
                  uint32_t *offset,
                  uint16_t *tag,
                  const uint8_t **data,
                  uint32_t *len);

/* CRC-32C, continued: start with 0, then pass the last result. By SSE4.2 or ARMv8 instructions
 * where the processor has them, in tables otherwise. data may be NULL when len is 0. Ready when
 * main() is entered or dlopen() returns; not for constructors. */
uint32_t mm_crc32c(uint32_t crc, const void *data, size_t len);

/* The table form of mm_crc32c(), for tests that compare the two. */
uint32_t mm_crc32c_portable(uint32_t crc, const void *data, size_t len);

#endif
