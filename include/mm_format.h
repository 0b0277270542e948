/* mm_format.h - the Kafka value of a record as JSON, and as base64.
 *
 * {"Topic":"<MQTT topic>","Content":"<payload in base64>"}, byte for byte what the Go program of
 * the same name writes (encoding/json of Go 1.22 and later, standard base64 with padding). The
 * names of the two fields are settings. Rules for the topic:
 *
 *   - '"' and '\' get a backslash; \b \f \n \r \t for those five; other bytes below 0x20: \u00xx;
 *   - '<' '>' '&' become \u003c \u003e \u0026; U+2028 and U+2029 become \u2028 and \u2029;
 *   - each byte that does not begin a valid UTF-8 sequence becomes \ufffd;
 *   - everything else stands as it is. */
#ifndef MM_FORMAT_H
#define MM_FORMAT_H

#include <stddef.h>
#include <stdint.h>

struct mm_format;

/* A formatter with these two field names, which are written escaped by the same rules. The strings
 * are copied. The caller frees *out with mm_format_free().
 *
 * Thread: setup. Errors: MM_ENOMEM. */
int mm_format_new(const char *topic_name, const char *content_name, struct mm_format **out);

/* Accepts NULL. */
void mm_format_free(struct mm_format *f);

/* Largest number of bytes that mm_format_json() can write for a topic and a payload of these
 * lengths.
 *
 * Thread: any. */
size_t mm_format_json_bound(const struct mm_format *f, size_t topic_len, size_t payload_len);

/* Write the value into dst, which has mm_format_json_bound() bytes. No NUL is added. Returns the
 * number of bytes written. payload may be NULL when payload_len is 0.
 *
 * Thread: any (the formatter is read only). */
size_t mm_format_json(const struct mm_format *f,
                      const char *topic,
                      size_t topic_len,
                      const void *payload,
                      size_t payload_len,
                      char *dst);

/* The number of bytes that mm_format_json() writes. Thread: any. */
size_t mm_format_json_len(const struct mm_format *f,
                          const char *topic,
                          size_t topic_len,
                          size_t payload_len);

/* Bytes of the base64 of len bytes. Thread: any. */
size_t mm_base64_len(size_t len);

/* Standard base64 with padding (RFC 4648 section 4) of len bytes into dst, which has
 * mm_base64_len() bytes. Returns the bytes written. Thread: any. */
size_t mm_base64_encode(const void *src, size_t len, char *dst);

#endif
