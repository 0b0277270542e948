/* properties.h - what a record has of its MQTT message beside topic and payload, as JSON. */
#ifndef PROPERTIES_H
#define PROPERTIES_H

#include "mm_record.h"

#include <stdbool.h>
#include <stdio.h>

/* Write ,"client_id":"..." and the like for each that there is: client_id, username, content_type,
 * response_topic, payload_format (a number), correlation_data (base64), and user_properties, a list
 * of lists of two. Failures to write stay in ferror(out). False: no memory. */
bool properties_write_json(FILE *out, const struct mm_record *rec);

#endif
