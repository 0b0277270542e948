/* starve.h - memory and calls of the system that fail, one at a time.
 *
 * The linker leads the calls that the plugin's own objects make to starve.c (see CMakeLists.txt),
 * which counts them and lets the n-th fail, once, or that and all behind it. Not those that
 * libraries make: librdkafka ends the process by itself when it gets no memory.
 *
 * Thread: arm, disarm and pause: any; calls are counted over all threads. */
#ifndef STARVE_H
#define STARVE_H

#include <stdbool.h>
#include <stdint.h>

enum starve_what {
    STARVE_MEMORY, /* malloc and its kind */
    STARVE_CALLS,  /* files, sockets, threads */
};

/* From now on call number n, from 1, fails; with for_ever all that come after it, too. */
void starve_arm(enum starve_what what, uint64_t n, bool for_ever);

/* Nothing fails any more. True: a call has failed since starve_arm(). */
bool starve_disarm(void);

/* The name of the first call that failed since. */
const char *starve_failed(void);

/* What the calling thread does from now on until starve_go_on() is the test's own, and never fails.
 */
void starve_pause(void);
void starve_go_on(void);

/* For a life that is another process: what is armed here, as text for its environment variable
 * MM_STARVE; what that process then found is told here. There, starve_inherit() arms, and gives
 * false when the variable is not set or cannot be. */
#define STARVE_VARIABLE "MM_STARVE"
#define STARVE_TEXT_LEN 64
void starve_write(char text[STARVE_TEXT_LEN]);
void starve_tell(bool failed);
bool starve_inherit(const char *text);

#endif
