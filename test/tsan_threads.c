/* tsan_threads.c - C11 threads by way of pthreads, for ThreadSanitizer.
 *
 * librdkafka uses glibc's <threads.h>. ThreadSanitizer of GCC 12 intercepts the pthread functions
 * but not these, so it would see neither its threads nor its locks and report races that are none.
 * This library stands in front of libc and does the same through the functions that are watched.
 * glibc's types of both kinds have the same representation. */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <threads.h>

#define EXPORT __attribute__((visibility("default")))

static int to_thrd(int err)
{
    switch (err) {
        case 0:
            return thrd_success;
        case ENOMEM:
            return thrd_nomem;
        case ETIMEDOUT:
            return thrd_timedout;
        case EBUSY:
            return thrd_busy;
        default:
            return thrd_error;
    }
}

struct start
{
    thrd_start_t function;
    void *arg;
};

/* A thread's result in a pthread's. */
union result {
    void *pointer;
    int number;
};

static void *run(void *arg)
{
    struct start start = *(struct start *)arg;
    free(arg);
    union result result = {.pointer = NULL};
    result.number = start.function(start.arg);
    return result.pointer;
}

EXPORT int thrd_create(thrd_t *thread, thrd_start_t function, void *arg)
{
    struct start *start = malloc(sizeof *start);
    if (start == NULL) {
        return thrd_nomem;
    }
    *start = (struct start){function, arg};
    int err = pthread_create(thread, NULL, run, start);
    if (err != 0) {
        free(start);
    }
    return to_thrd(err);
}

EXPORT int thrd_join(thrd_t thread, int *result)
{
    union result ended = {.pointer = NULL};
    int err = pthread_join(thread, &ended.pointer);
    if (result != NULL) {
        *result = ended.number;
    }
    return to_thrd(err);
}

EXPORT int thrd_detach(thrd_t thread)
{
    return to_thrd(pthread_detach(thread));
}

EXPORT int mtx_init(mtx_t *mutex, int type)
{
    pthread_mutexattr_t attr;
    pthread_mutexattr_init(&attr);
    if ((type & mtx_recursive) != 0) {
        pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
    }
    int err = pthread_mutex_init((pthread_mutex_t *)mutex, &attr);
    pthread_mutexattr_destroy(&attr);
    return to_thrd(err);
}

EXPORT void mtx_destroy(mtx_t *mutex)
{
    pthread_mutex_destroy((pthread_mutex_t *)mutex);
}

EXPORT int mtx_lock(mtx_t *mutex)
{
    return to_thrd(pthread_mutex_lock((pthread_mutex_t *)mutex));
}

EXPORT int mtx_trylock(mtx_t *mutex)
{
    return to_thrd(pthread_mutex_trylock((pthread_mutex_t *)mutex));
}

EXPORT int mtx_unlock(mtx_t *mutex)
{
    return to_thrd(pthread_mutex_unlock((pthread_mutex_t *)mutex));
}

EXPORT int cnd_init(cnd_t *cond)
{
    return to_thrd(pthread_cond_init((pthread_cond_t *)cond, NULL));
}

EXPORT void cnd_destroy(cnd_t *cond)
{
    pthread_cond_destroy((pthread_cond_t *)cond);
}

EXPORT int cnd_signal(cnd_t *cond)
{
    return to_thrd(pthread_cond_signal((pthread_cond_t *)cond));
}

EXPORT int cnd_broadcast(cnd_t *cond)
{
    return to_thrd(pthread_cond_broadcast((pthread_cond_t *)cond));
}

EXPORT int cnd_wait(cnd_t *cond, mtx_t *mutex)
{
    return to_thrd(pthread_cond_wait((pthread_cond_t *)cond, (pthread_mutex_t *)mutex));
}

EXPORT int cnd_timedwait(cnd_t *restrict cond,
                         mtx_t *restrict mutex,
                         const struct timespec *restrict until)
{
    return to_thrd(pthread_cond_timedwait((pthread_cond_t *)cond, (pthread_mutex_t *)mutex, until));
}
