/* mm_lanes.h - the Kafka topics in use, by number.
 *
 * A *lane* is a Kafka topic by number. Lanes 0 to mm_route_n_lanes() - 1 are the Kafka topics that
 * the settings name; each one that a template makes of a message gets the next number when it is
 * first seen. All that is kept for each Kafka topic (what a worker knows of it, the log of what is
 * parked, the figures) is found by that number.
 *
 * Lanes are added and never taken away, up to a maximum, so that no publisher can make more of them
 * than the operator allows. To find one takes no lock; to add one does. Two names that differ in
 * '.' and '_' alone cannot both be lanes: Kafka lets only one of them be made.
 *
 * The registry belongs to nobody's settings. When these change, mm_lanes_reset() gives all numbers
 * anew: whoever knows lanes by number has ended before. Only the metrics go on; what they keep by
 * number is empty then but for sums.
 *
 * Thread: any, where nothing else is told. */
#ifndef MM_LANES_H
#define MM_LANES_H

#include <stddef.h>
#include <stdint.h>

struct mm_config;
struct mm_lanes;

/* Most lanes that there can be. */
#define MM_LANES_MAX 1024

/* Room for the name of a Kafka topic, with its NUL. */
#define MM_LANES_NAME_LEN 250

/* An empty registry that takes MM_LANES_MAX lanes. Thread: setup. Errors: MM_ENOMEM; *out is NULL
 * then. */
int mm_lanes_new(struct mm_lanes **out);

/* Accepts NULL. Thread: setup. */
void mm_lanes_free(struct mm_lanes *lanes);

/* Begin anew, with the Kafka topics that the settings name; config->kafka_topics_max is the maximum
 * from now on. Nobody uses a lane or its name meanwhile, but mm_lanes_copy_name().
 *
 * Thread: setup. Errors: as mm_lanes_get(), which settings that were accepted do not give. */
int mm_lanes_reset(struct mm_lanes *lanes, const struct mm_config *config);

/* The lane of a Kafka topic (name_len bytes, valid for Kafka), which may be a new one. Takes no
 * memory.
 *
 * Errors: MM_EFULL, it would be one too many; MM_EINVAL, its name and that of another lane differ
 * in '.' and '_' alone, or it is longer than Kafka allows. */
int mm_lanes_get(struct mm_lanes *lanes, const char *name, size_t name_len, uint32_t *lane);

/* Lanes there are. Lanes below are all ready. */
uint32_t mm_lanes_n(const struct mm_lanes *lanes);

/* The Kafka topic of a lane below mm_lanes_n(). Valid until mm_lanes_reset(). */
const char *mm_lanes_name(const struct mm_lanes *lanes, uint32_t lane);

/* The same for those who go on over a reset: a copy, "" when there is no such lane. Takes a lock.
 */
void mm_lanes_copy_name(struct mm_lanes *lanes, uint32_t lane, char dst[MM_LANES_NAME_LEN]);

/* A message was delivered to the Kafka topic of this lane, below MM_LANES_MAX; and how many were
 * since it was added. */
void mm_lanes_count_delivered(struct mm_lanes *lanes, uint32_t lane);
uint64_t mm_lanes_n_delivered(const struct mm_lanes *lanes, uint32_t lane);

#endif
