/* mm_layout.h - the bytes of a spool's files around the records: segment header, seal, STATE.
 *
 * Everything is little-endian. docs/spool-format.md tells the whole format; the record itself is in
 * mm_record.h. A segment file:
 *
 *     0      header: magic "MQKSPOOL", version, ... CRC-32C; 128 bytes, zero-padded
 *     1024   seal: written once, when the segment takes no more records; zero before
 *     2048   the header again, the same bytes
 *     4096   records
 *
 * STATE is two slots of 4096 bytes; the valid one with the higher generation counts. Pure
 * functions, no state, no files.
 *
 * Thread: any. */
#ifndef MM_LAYOUT_H
#define MM_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MM_LAYOUT_VERSION 1
#define MM_LAYOUT_HEADER_LEN 4096 /* bytes of a segment file before its first record */

/* What a segment file says of itself. Written before its first record and never changed. */
struct mm_layout_header
{
    uint32_t version; /* ignored by the encoder, which writes MM_LAYOUT_VERSION */
    uint32_t flags;   /* none yet: 0 */
    uint8_t uuid[16]; /* of the spool */
    uint64_t file;    /* the number in the file's name */
    uint64_t
        run_seq;   /* seq of the first record that the process which made it appended, or would */
    uint64_t salt; /* random; goes into the checksums of the records */
    uint64_t created_ms; /* since the epoch */
    uint64_t size;       /* of the file, bytes, header included */
};

/* Fill all of dst: both copies, no seal. */
void mm_layout_encode_header(uint8_t dst[MM_LAYOUT_HEADER_LEN], const struct mm_layout_header *h);

/* Read the header from the first len bytes of a file (fewer than MM_LAYOUT_HEADER_LEN is allowed
 * and damage). *n_copies: how many of the two copies were good, 0 to 2. When both are, the first
 * counts.
 *
 * Errors: MM_ECORRUPT, no copy is good; MM_EVERSION, a good copy of a version that we do not know:
 * out->version is set and nothing else. */
int mm_layout_decode_header(const uint8_t *src,
                            size_t len,
                            struct mm_layout_header *out,
                            uint32_t *n_copies);

#define MM_LAYOUT_SEAL_OFFSET 1024
#define MM_LAYOUT_SEAL_LEN 64

/* What is known of a segment once it takes no more records. A segment without any has none. */
struct mm_layout_seal
{
    uint64_t first_seq;
    uint64_t last_seq;
    uint64_t n_records; /* less than last_seq - first_seq + 1 where some are damaged */
    uint64_t first_ms;  /* time of receipt of the first */
    uint64_t end;       /* bytes of the file up to the end of the last record */
};

/* The checksum covers the segment's salt too: an older file's seal cannot pass for this one's. */
void mm_layout_encode_seal(uint8_t dst[MM_LAYOUT_SEAL_LEN],
                           uint64_t salt,
                           const struct mm_layout_seal *seal);

/* Errors: MM_EAGAIN, all bytes are 0: not sealed; MM_ECORRUPT. */
int mm_layout_decode_seal(const uint8_t src[MM_LAYOUT_SEAL_LEN],
                          uint64_t salt,
                          struct mm_layout_seal *out);

#define MM_LAYOUT_STATE_LEN 4096 /* one slot; slot i is at i * MM_LAYOUT_STATE_LEN, i = 0, 1 */
#define MM_LAYOUT_SHARDS_MAX 64
#define MM_LAYOUT_RANGES_MAX 160
#define MM_LAYOUT_COUNTERS 32

/* How far the records of some MQTT topics are finished: of those whose hash (mm_topic_hash() of
 * mm_record.h) is at or above this one and below the next range's, each with a seq below low. */
struct mm_layout_range
{
    uint32_t hash;
    uint64_t low;
};

/* Where the readers are. */
struct mm_layout_state
{
    uint32_t version;    /* ignored by the encoder, which writes MM_LAYOUT_VERSION */
    uint8_t uuid[16];    /* of the spool */
    uint8_t boot[16];    /* of the system's start at which it was written; zero: unknown */
    uint64_t generation; /* +1 for each slot written */
    uint64_t written_ms; /* since the epoch */
    uint64_t next_seq;   /* of the next record to be appended */
    uint64_t n_pending;  /* records below next_seq that are not below the low of their range */
    uint64_t n_repeat;   /* of those, finished already, out of order */
    bool clean;          /* written at an orderly stop */
    uint32_t n_ranges;   /* 1 to MM_LAYOUT_RANGES_MAX */
    struct mm_layout_range ranges[MM_LAYOUT_RANGES_MAX]; /* hashes ascending, the first is 0 */
    uint64_t counters[MM_LAYOUT_COUNTERS];               /* the owner's, opaque here */
};

void mm_layout_encode_state(uint8_t dst[MM_LAYOUT_STATE_LEN], const struct mm_layout_state *state);

/* Errors: MM_EAGAIN, all bytes are 0: never written; MM_ECORRUPT, also for ranges out of order;
 * MM_EVERSION: out->version is set and nothing else. */
int mm_layout_decode_state(const uint8_t src[MM_LAYOUT_STATE_LEN], struct mm_layout_state *out);

/* 16 bytes as the 36 characters of a UUID, and back (MM_EINVAL). */
void mm_layout_format_uuid(const uint8_t uuid[16], char dst[37]);
int mm_layout_parse_uuid(const char *text, uint8_t uuid[16]);

/* The one that most of n (at least one) uuids are; of equally many the first in the order of their
 * bytes, into which they are put. */
void mm_layout_most_frequent_uuid(uint8_t (*uuids)[16], size_t n, uint8_t out[16]);

#endif
