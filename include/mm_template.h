/* mm_template.h - text with variables, which a message fills.
 *
 *     ${topic}      the MQTT topic
 *     ${topic[N]}   its level N, the first is 0
 *     ${clientid}   the client id of the publisher
 *     ${username}   its user name
 *     ${qos}        0, 1 or 2
 *
 * All else stands as it is; "$${" is "${". What a message does not have is empty: a level that is
 * not there, as one that is and has no characters, no user name, no client id.
 *
 * A template is compiled once and immutable then. To fill it takes no memory but the caller's.
 *
 * Thread: any, but to make and free one: setup. */
#ifndef MM_TEMPLATE_H
#define MM_TEMPLATE_H

#include <stdbool.h>
#include <stddef.h>

struct mm_template;

/* Limits of a template: bytes of its text, and variables. */
#define MM_TEMPLATE_MAX_LEN 1024
#define MM_TEMPLATE_MAX_VARIABLES 32

/* The highest N of ${topic[N]}. */
#define MM_TEMPLATE_MAX_LEVEL 255

/* What a message fills in. Texts need no NUL, and may be NULL when they are empty. */
struct mm_template_values
{
    const char *topic;
    size_t topic_len;
    const char *client_id;
    size_t client_id_len;
    const char *username;
    size_t username_len;
    unsigned qos;
};

/* Compile a text, which is copied. The caller frees *out with mm_template_free().
 *
 * Errors: MM_EINVAL, errstr says what is wrong and at which character (the first is 1); MM_ENOMEM.
 * *out is NULL then. */
int mm_template_new(const char *text, struct mm_template **out, char *errstr, size_t errstr_len);

/* Accepts NULL. */
void mm_template_free(struct mm_template *t);

/* The text that it was made of. Lives as long as the template. */
const char *mm_template_text(const struct mm_template *t);

/* Has it no variable? Then every message gives the same. */
bool mm_template_is_constant(const struct mm_template *t);

/* Is it ${topic} and nothing else? */
bool mm_template_is_topic(const struct mm_template *t);

/* Does it have these variables? */
bool mm_template_has_client_id(const struct mm_template *t);
bool mm_template_has_username(const struct mm_template *t);

/* Fill it: writes as much as dst_len bytes take, without a NUL, and returns how many the whole has.
 * dst may be NULL when dst_len is 0. */
size_t mm_template_fill(const struct mm_template *t,
                        const struct mm_template_values *values,
                        char *dst,
                        size_t dst_len);

/* The same for the name of a Kafka topic: in what a message fills in, '/' becomes '.', each other
 * byte that no name of Kafka's can have becomes '_', and nothing at all becomes '_'. The literal
 * text stands as it is. */
size_t mm_template_fill_name(const struct mm_template *t,
                             const struct mm_template_values *values,
                             char *dst,
                             size_t dst_len);

/* The first character of the literal text that is none of these: its place, the first is 1; 0:
 * there is none. */
size_t mm_template_foreign(const struct mm_template *t, const char *letters);

#endif
