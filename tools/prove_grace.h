/* prove_grace.h - what was acknowledged so long ago that it has to be safe.
 *
 * With spool_sync interval a power failure may take what was received since the last sync ended. So
 * the number of messages that each publisher has its acknowledgements for is noted again and again.
 *
 * For one thread. */
#ifndef PROVE_GRACE_H
#define PROVE_GRACE_H

#include "prove_check.h"
#include "prove_load.h"

#include <stdbool.h>
#include <stdint.h>

struct prove_grace;

/* longest_ms: what is asked for is no longer ago. False: out of memory. */
bool prove_grace_new(uint32_t n_clients, uint64_t longest_ms, struct prove_grace **out);

/* To be called again and again; notes something now and then. */
void prove_grace_note(struct prove_grace *g, const struct prove_load *load);

/* Excuse what was acknowledged less than ms ago. False: out of memory. */
bool prove_grace_excuse(const struct prove_grace *g,
                        const struct prove_load *load,
                        struct prove_check *check,
                        uint64_t ms);

/* Accepts NULL. */
void prove_grace_free(struct prove_grace *g);

#endif
