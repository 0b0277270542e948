/* mm_property.h - the properties of librdkafka that a user may set, as rdkafka.<property>: which
 * ones would break the plugin's promise, and which ones are secret. Whether librdkafka knows a
 * property is found out by who hands it over. Pure functions. Thread: any. */
#ifndef MM_PROPERTY_H
#define MM_PROPERTY_H

#include <stdbool.h>
#include <stdio.h>

/* Before the name, as an option. */
#define MM_PROPERTY_PREFIX "rdkafka."

#define MM_PROPERTY_MAX_LEN 128

/* The longest linger.ms: the stop waits 5 s for what is under way. */
#define MM_PROPERTY_LINGER_MAX_MS 1000

/* Could it be a name: 1 to MM_PROPERTY_MAX_LEN of the characters a-z, 0-9, '.' and '_'? */
bool mm_property_is_name(const char *name);

/* Why this property cannot be set; NULL: it can. */
const char *mm_property_refusal(const char *name);

/* What is wrong with a value, without the value; NULL: nothing that can be seen here. */
const char *mm_property_fault(const char *name, const char *value);

/* Must its value never be shown? */
bool mm_property_is_secret(const char *name);

/* Does its value name a file, which librdkafka reads when a producer is made? *secret: which nobody
 * else should read. */
bool mm_property_names_file(const char *name, bool *secret);

/* Write the section of the reference. Errors: those of the stream. */
void mm_property_write_reference(FILE *stream);

#endif
