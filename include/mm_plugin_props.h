/* mm_plugin_props.h - what a record keeps of a publish beside topic and payload.
 *
 * A part of the plugin's door: with mm_plugin.c the only one that knows the broker. Who published
 * is known to the broker without more; it is copied into memory that was taken at the start. The
 * properties of MQTT 5 the broker gives as copies that it allocates, so a message that has some
 * costs an allocation for each of them; one that has more of them than fit makes our memory grow,
 * and it shrinks behind it. Not all brokers export the functions for that (mosquitto_property_...):
 * by those that do not, all but the properties is kept.
 *
 * Thread: the broker's. */
#ifndef MM_PLUGIN_PROPS_H
#define MM_PLUGIN_PROPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mosquitto_evt_message;

/* All zero at first. bytes and len are what a record is to have as its properties. */
struct mm_plugin_props
{
    uint8_t *bytes;
    size_t len;
    size_t cap;
    bool broker_2_1; /* set by the owner: its copies are freed in another way */
};

/* Does the broker give the properties of MQTT 5? */
bool mm_plugin_props_readable(void);

/* Take the memory that client id and user name may need. Errors: MM_ENOMEM. */
int mm_plugin_props_init(struct mm_plugin_props *p);

/* Accepts what was never made. */
void mm_plugin_props_fini(struct mm_plugin_props *p);

/* Collect what is stored of a message: bits of enum mm_headers_field, not 0. Errors: MM_ENOMEM. */
int mm_plugin_props_collect(struct mm_plugin_props *p,
                            unsigned stored,
                            const struct mosquitto_evt_message *ev);

/* The message is stored, or not to be stored: give back what it took more than usual. */
void mm_plugin_props_done(struct mm_plugin_props *p);

#endif
