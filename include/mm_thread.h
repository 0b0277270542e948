/* mm_thread.h - threads beside the broker's: deaf to signals, with a name, waited for with an end.
 *
 * The broker's signals are the broker's: a thread that does not block them would run its handlers.
 * What a thread makes inherits its mask, so threads of a library (the Kafka client's) are made
 * while the signals of the caller are blocked.
 *
 * Thread: any. */
#ifndef MM_THREAD_H
#define MM_THREAD_H

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

/* Block all signals in this thread. *before: for mm_thread_restore_signals(). */
void mm_thread_block_signals(sigset_t *before);
void mm_thread_restore_signals(const sigset_t *before);

/* Start run(arg) in a thread that blocks all signals. name: what the system shows, 15 bytes at
 * most. Returns 0 or, as pthread_create(3), the number of an error. */
int mm_thread_start(const char *name, void *(*run)(void *), void *arg, pthread_t *out);

/* Wait for the end of a thread, timeout_ms at most. False: it goes on, and is still to be joined.
 */
bool mm_thread_join(pthread_t thread, uint32_t timeout_ms);

/* A condition whose timed waits go by the monotonic clock, to be destroyed by the caller. */
void mm_thread_cond_init(pthread_cond_t *cond);

/* The end of a timed wait for such a condition that begins now. */
struct timespec mm_thread_deadline(uint32_t timeout_ms);

#endif
