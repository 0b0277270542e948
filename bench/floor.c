/* floor - a Mosquitto plugin that does nothing, in a process with a second thread.
 *
 * The broker has one thread of its own, and glibc and the kernel spare such a process much: read()
 * and write() need no cancellation points, malloc() no lock, a file descriptor no reference. The
 * first thread that a plugin starts ends that, even if it only sleeps. What this plugin costs is
 * what every plugin with a thread costs, before it has done anything. */
#include <mosquitto.h>
#include <mosquitto_broker.h>
#include <mosquitto_plugin.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stddef.h>

#define EXPORT __attribute__((visibility("default")))

static struct
{
    mosquitto_plugin_id_t *id;
    pthread_t thread;
    sem_t stop;
} state;

static int do_nothing(int event, void *event_data, void *userdata)
{
    (void)event;
    (void)event_data;
    (void)userdata;
    return MOSQ_ERR_SUCCESS;
}

static void *sleep_until_stop(void *arg)
{
    while (sem_wait(&state.stop) != 0) {
    }
    return arg;
}

EXPORT int mosquitto_plugin_version(int supported_version_count, const int *supported_versions)
{
    for (int i = 0; i < supported_version_count; i++) {
        if (supported_versions[i] == MOSQ_PLUGIN_VERSION) {
            return MOSQ_PLUGIN_VERSION;
        }
    }
    return -1;
}

EXPORT int mosquitto_plugin_init(mosquitto_plugin_id_t *identifier,
                                 void **userdata,
                                 struct mosquitto_opt *options,
                                 int option_count)
{
    (void)userdata;
    (void)options;
    (void)option_count;
    state.id = identifier;
    /* The broker's signals are the broker's. */
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    sem_init(&state.stop, 0, 0);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int err = pthread_create(&state.thread, NULL, sleep_until_stop, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (err != 0) {
        return MOSQ_ERR_UNKNOWN;
    }
    err = mosquitto_callback_register(identifier, MOSQ_EVT_MESSAGE, do_nothing, NULL, NULL);
    return err == 0 ? mosquitto_callback_register(identifier, MOSQ_EVT_TICK, do_nothing, NULL, NULL)
                    : err;
}

EXPORT int mosquitto_plugin_cleanup(void *userdata, struct mosquitto_opt *options, int option_count)
{
    (void)userdata;
    (void)options;
    (void)option_count;
    mosquitto_callback_unregister(state.id, MOSQ_EVT_MESSAGE, do_nothing, NULL);
    mosquitto_callback_unregister(state.id, MOSQ_EVT_TICK, do_nothing, NULL);
    sem_post(&state.stop);
    pthread_join(state.thread, NULL);
    sem_destroy(&state.stop);
    return MOSQ_ERR_SUCCESS;
}
