/* prove_power.h - power failures for the broker that "prove" kills.
 *
 * What a SIGKILL leaves is what the system knows; what a power failure leaves is what the disk has.
 * The broker runs with metamorphosis_power.so preloaded (power_preload.c), which keeps what is on
 * the disk for sure. A failure puts in the spool's place what was safe and any part of what was
 * not: of each sector of 512 bytes the old or the new one, of each name that was made or deleted
 * since its directory was synced, whether it is there; of a file its length. And the system has
 * been started anew. test/torture/power.c has the same model, for the spool alone.
 *
 * Not imitated: disks that lie about a sync. */
#ifndef PROVE_POWER_H
#define PROVE_POWER_H

#include "prove_broker.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Have the broker's later starts watched by library. False: why was told to standard error. */
bool prove_power_prepare(struct prove_broker *b, const char *library);

/* The power has failed; the broker was killed. How much of what was not safe is there is chosen by
 * *random, the state of rand_r(). False: it cannot be done; why has the reason. */
bool prove_power_fail(const struct prove_broker *b,
                      unsigned int *random,
                      char *why,
                      size_t why_len);

/* How long the longest sync took, in nanoseconds. False: the library was never loaded. */
bool prove_power_slowest(const struct prove_broker *b, uint64_t *ns);

#endif
