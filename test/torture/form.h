/* form.h - how much of a test is run, and with which seed.
 *
 * MM_TEST_LONG=1 asks for all of it. A sanitizer's build runs less: it looks at how, not how often.
 *
 * Thread: any. */
#ifndef FORM_H
#define FORM_H

#include <stdbool.h>
#include <stdint.h>

bool form_is_long(void);

/* The number for the form that runs. */
uint64_t form_pick(uint64_t usual, uint64_t sanitized, uint64_t all);

/* MM_TEST_SEED; false: it is not set. */
bool form_seed(uint64_t *seed);

#endif
