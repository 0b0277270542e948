#include "mm_live.h"

#include "mm_clock.h"
#include "mm_error.h"
#include "mm_expiry.h"
#include "mm_gate.h"
#include "mm_kafka.h"
#include "mm_lanes.h"
#include "mm_log.h"
#include "mm_metrics.h"
#include "mm_property.h"
#include "mm_route.h"
#include "mm_sender.h"
#include "mm_spool.h"
#include "mm_thread.h"
#include "mm_watch.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SECOND_NS UINT64_C(1000000000)

/* How often the files are looked at. What has changed is used when it is the same at the next look:
 * it might have been half written. */
#define LOOK_MS 1000

/* How long the cluster may take to answer, and to one whom it does not let in: who is refused for
 * who he is is not tried again at once. A question waits longer and longer, so that a stop is
 * noticed soon and a slow cluster is heard all the same. */
#define PROVE_NS (10 * SECOND_NS)
#define REJECTED_NS (3 * SECOND_NS)
#define ASK_MIN_MS 250
#define ASK_MAX_MS 2000

/* What is in flight may take so long to be answered. */
#define SETTLE_MS 5000
#define SETTLE_POLL_MS 100
#define SETTLE_LINE_NS (10 * SECOND_NS)

/* When the plugin ends meanwhile: so much of its time is for the change. */
#define SETTLE_STOP_NS (2 * SECOND_NS)

/* Files that do not work are tried again, longer and longer apart, unless those in use do not work
 * either. */
#define RETRY_MIN_S 10
#define RETRY_MAX_S 300

#define LINE_INTERVAL_NS (60 * SECOND_NS)

/* Settings that were in use, until the broker's thread has seen others. */
struct retired
{
    struct retired *next;
    struct mm_config *config;
};

struct mm_live
{
    struct mm_live_options opts;
    struct mm_metrics_live *m;

    /* V1: publishes what the settings say; read by the broker's thread. */
    _Atomic(struct mm_config *) current;
    /* V2: what the broker's thread has read; releases what it did by earlier ones before. */
    _Atomic(const struct mm_config *) seen;

    pthread_mutex_t lock; /* for all that follows */
    pthread_cond_t cond;
    bool reload;  /* is asked for */
    bool stop;    /* is asked for */
    bool holding; /* the thread has the sending half */
    uint64_t stop_ns;

    /* the owner's */
    bool started;
    pthread_t thread;

    /* the thread's */
    uint64_t file_sum;       /* of the config_file in use */
    uint64_t files_sum;      /* of the files with certificates and secrets in use */
    uint64_t look_sum;       /* the same when last looked at */
    bool files_failed;       /* they have changed, and do not work */
    bool files_waiting;      /* they have changed, and Kafka is away */
    uint64_t tried_ns;       /* when they were tried last; 0: since they have changed never */
    uint64_t retry_s;        /* pause before they are tried again */
    struct mm_expiry expiry; /* of the certificate in use */
    struct retired *retired;
    struct mm_log_limit resume_limit;
};

/* --- the broker's thread ------------------------------------------------------------------------
 */

const struct mm_config *mm_live_settings(struct mm_live *l)
{
    /* Pairs with V1. */
    const struct mm_config *config = atomic_load_explicit(&l->current, memory_order_acquire);
    if (config != atomic_load_explicit(&l->seen, memory_order_relaxed)) {
        atomic_store_explicit(&l->seen, config, memory_order_release); /* V2 */
    }
    return config;
}

void mm_live_reload(struct mm_live *l)
{
    pthread_mutex_lock(&l->lock); /* never held for longer than it takes to set a field */
    l->reload = true;
    pthread_cond_broadcast(&l->cond);
    pthread_mutex_unlock(&l->lock);
}

/* --- small things -------------------------------------------------------------------------------
 */

static struct mm_config *current(struct mm_live *l)
{
    return atomic_load_explicit(&l->current, memory_order_relaxed); /* it is ours to change */
}

static bool stopping(struct mm_live *l)
{
    pthread_mutex_lock(&l->lock);
    bool stop = l->stop;
    pthread_mutex_unlock(&l->lock);
    return stop;
}

/* Settings that were current, and are not now. */
static void retire(struct mm_live *l, struct mm_config *config)
{
    struct retired *r = malloc(sizeof *r);
    if (r == NULL) {
        return; /* a leak of some kilobytes, where memory has come to its end */
    }
    *r = (struct retired){.next = l->retired, .config = config};
    l->retired = r;
}

static void free_retired(struct mm_live *l)
{
    while (l->retired != NULL) {
        struct retired *r = l->retired;
        l->retired = r->next;
        mm_config_free(r->config);
        free(r);
    }
}

/* The sending half has gone over to the current settings long ago; the broker's thread, too? */
static void free_unused(struct mm_live *l)
{
    /* Pairs with V2. */
    if (atomic_load_explicit(&l->seen, memory_order_acquire) == current(l)) {
        free_retired(l);
    }
}

static uint64_t sum_of_config_file(const struct mm_config *config)
{
    return config->config_file == NULL ? MM_WATCH_EMPTY
                                       : mm_watch_add(MM_WATCH_EMPTY, config->config_file);
}

/* The same of the content that settings were made of: the file may have changed since. */
static uint64_t sum_of_what_was_read(const struct mm_config *config)
{
    return config->config_file == NULL ? MM_WATCH_EMPTY : config->config_file_sum;
}

static void add_to_sum(void *arg, const char *option, const char *path)
{
    uint64_t *sum = arg;
    (void)option;
    *sum = mm_watch_add(*sum, path);
}

static uint64_t sum_of_files(const struct mm_config *config)
{
    uint64_t sum = MM_WATCH_EMPTY;
    mm_config_files(config, add_to_sum, &sum);
    for (size_t i = 0; i < config->n_properties; i++) {
        bool secret;
        if (mm_property_names_file(config->properties[i].name, &secret)) {
            sum = mm_watch_add(sum, config->properties[i].value);
        }
    }
    return sum;
}

/* The certificate in use may be another one now. */
static void note_certificate(struct mm_live *l)
{
    mm_expiry_read(&l->expiry, current(l));
    mm_gauge_set(&l->m->cert_end_ms, (uint64_t)l->expiry.end_s * 1000);
}

static void tell_expiry(struct mm_live *l)
{
    char line[256];
    if (mm_expiry_line(&l->expiry, (int64_t)(mm_clock_realtime_ms() / 1000), line, sizeof line)) {
        mm_log_write(l->opts.log, MM_LOG_WARN, "%s", line);
    }
}

/* The count comes last, here and below: who sees it finds all else, and the line, done. */
static void note_success(struct mm_live *l, enum mm_reload how)
{
    mm_gauge_set(&l->m->failed, 0);
    mm_gauge_set(&l->m->success_ms, mm_clock_realtime_ms());
    mm_counter_add(&l->m->reloads[how], 1);
}

static void note_failure(struct mm_live *l, const char *what, const char *why)
{
    mm_log_write(l->opts.log, MM_LOG_ERROR, "reload: %s: %s; what was in use before stays in use",
                 what, why);
    mm_gauge_set(&l->m->failed, 1);
    mm_counter_add(&l->m->reloads[MM_RELOAD_FAILED], 1);
}

/* --- check --------------------------------------------------------------------------------------
 */

static void report(void *arg, const struct mm_finding *finding)
{
    struct mm_live *l = arg;
    char line[MM_FINDING_LINE_LEN];
    mm_log_write(l->opts.log, finding->level, "%s", mm_finding_line(finding, line, sizeof line));
}

/* Options that count from a start on keep their value, and are named. */
static int keep_fixed(struct mm_live *l, struct mm_config *wanted)
{
    char list[MM_LOG_LINE_LEN];
    size_t n = mm_config_diff_fixed(current(l), wanted, list, sizeof list);
    mm_gauge_set(&l->m->restart_needed, n);
    if (n == 0) {
        return 0;
    }
    mm_log_write(l->opts.log, MM_LOG_WARN,
                 "reload: only the next start of the broker can change: %s; all else is changed",
                 list);
    return mm_config_keep_fixed(current(l), wanted);
}

/* A file that has lost all that was in it is taken for one that is just being written: by it the
 * backlog would go where the defaults lead. */
static bool was_emptied(struct mm_live *l, const struct mm_config *wanted)
{
    return wanted->config_file_n == 0 && current(l)->config_file_n > 0;
}

/* The settings as the config_file has them now. NULL: something is wrong with them, which is told.
 */
static struct mm_config *check(struct mm_live *l)
{
    struct mm_config_source source = {
        .options = l->opts.options,
        .n_options = l->opts.n_options,
        .getenv = l->opts.getenv,
        .getenv_arg = l->opts.getenv_arg,
        .report = report,
        .report_arg = l,
        .judge = mm_kafka_judge,
    };
    struct mm_config *wanted;
    int err = mm_config_new(&source, &wanted);
    if (err == 0 && was_emptied(l, wanted)) {
        mm_config_free(wanted);
        note_failure(l, "the new settings are not taken",
                     "no option is left in the config_file; is it just being written?");
        return NULL;
    }
    if (err == 0) {
        err = keep_fixed(l, wanted);
        if (err != 0) {
            mm_config_free(wanted);
        }
    }
    if (err != 0) {
        note_failure(l, "the new settings are not taken",
                     err == MM_EINVAL ? "the mistakes above are to be mended" : mm_strerror(err));
        return NULL;
    }
    return wanted;
}

/* --- prove --------------------------------------------------------------------------------------
 */

enum proof {
    PROVED,
    NO_ANSWER, /* nothing is wrong with them as far as one can see, but the cluster is not reached
                */
    UNUSABLE,  /* no producer can be made of them */
};

static void tell_topic(void *arg, const char *topic, const char *error, const char *reason)
{
    struct mm_live *l = arg;
    mm_log_write(l->opts.log, MM_LOG_INFO,
                 "reload: Kafka topic %s: %s (%s); messages for it wait until that is mended",
                 topic, error, reason);
}

/* Ask until there is an answer, or it is no use. */
static bool ask(struct mm_live *l,
                struct mm_kafka *kafka,
                const struct mm_gate *gate,
                const struct mm_config *config)
{
    const char *topics[MM_LANES_MAX + 1];
    size_t n = mm_route_n_lanes(config);
    for (uint32_t i = 0; i < n; i++) {
        topics[i] = mm_route_kafka_topic(config, i);
    }
    if (config->dead_letter_topic != NULL) {
        topics[n++] = config->dead_letter_topic;
    }
    uint64_t start_ns = mm_clock_monotonic_ns();
    uint32_t wait_ms = ASK_MIN_MS;
    uint64_t spent_ns = 0;
    while (spent_ns < PROVE_NS && !stopping(l)) {
        if (mm_kafka_ask(kafka, topics, n, wait_ms, tell_topic, l) == 0) {
            return true;
        }
        spent_ns = mm_clock_monotonic_ns() - start_ns;
        if (mm_gate_pause_ms(gate) > 0 || (mm_kafka_is_rejected(kafka) && spent_ns > REJECTED_NS)) {
            return false;
        }
        wait_ms = wait_ms * 2 > ASK_MAX_MS ? ASK_MAX_MS : wait_ms * 2;
    }
    return false;
}

/* Does a producer of these settings reach the cluster? why: where it does not. */
static enum proof prove(struct mm_live *l,
                        const struct mm_config *config,
                        char *why,
                        size_t why_len)
{
    struct mm_gate gate; /* of its own: one that is refused is refused once */
    struct mm_kafka_options opts = {
        .config = config,
        .loose = true,
        .quiet = true,
        .log = l->opts.log,
        .gate = &gate,
    };
    struct mm_kafka *kafka;
    mm_gate_init(&gate, RETRY_MIN_S * 1000, RETRY_MAX_S * 1000);
    if (mm_kafka_new(&opts, &kafka, why, why_len) != 0) {
        return UNUSABLE;
    }
    bool answered = ask(l, kafka, &gate, config);
    const char *error = mm_kafka_last_error(kafka);
    if (!answered) {
        snprintf(why, why_len, "Kafka is not reached: %s",
                 error[0] == '\0' ? "there is no answer" : error);
    }
    mm_kafka_close(kafka, 0);
    return answered ? PROVED : NO_ANSWER;
}

/* --- rest and swap ------------------------------------------------------------------------------
 */

/* Take the sending half, or give it back. Taking fails when the plugin is about to end. */
static bool hold(struct mm_live *l, bool holding)
{
    pthread_mutex_lock(&l->lock);
    bool allowed = !holding || !l->stop;
    if (allowed) {
        l->holding = holding;
        pthread_cond_broadcast(&l->cond);
    }
    pthread_mutex_unlock(&l->lock);
    return allowed;
}

/* Has the plugin waited long enough for us? */
static bool out_of_time(struct mm_live *l)
{
    pthread_mutex_lock(&l->lock);
    bool over = l->stop && mm_clock_monotonic_ns() - l->stop_ns > SETTLE_STOP_NS;
    pthread_mutex_unlock(&l->lock);
    return over;
}

/* Until nothing sends any more. False: the plugin ends first. */
static bool rest(struct mm_live *l)
{
    uint64_t start_ns = mm_clock_monotonic_ns();
    bool told = false;
    mm_sender_settle(l->opts.sender, SETTLE_MS);
    while (!mm_sender_await(l->opts.sender, SETTLE_POLL_MS)) {
        if (out_of_time(l)) {
            return false;
        }
        if (!told && mm_clock_monotonic_ns() - start_ns > SETTLE_LINE_NS) {
            told = true;
            mm_log_write(
                l->opts.log, MM_LOG_WARN,
                "reload: the Kafka client of before does not end (it waits for the system, "
                "for a name's address most likely); the new settings wait for it, and the "
                "messages in the spool");
        }
    }
    return true;
}

/* Wait for a second, or the stop. */
static void pause_a_second(struct mm_live *l)
{
    struct timespec until = mm_thread_deadline(1000);
    pthread_mutex_lock(&l->lock);
    bool timed_out = false;
    while (!l->stop && !timed_out) {
        timed_out = pthread_cond_timedwait(&l->cond, &l->lock, &until) == ETIMEDOUT;
    }
    pthread_mutex_unlock(&l->lock);
}

static void resume(struct mm_live *l, const struct mm_config *config)
{
    char errstr[256];
    uint64_t n_held;
    while (mm_sender_resume(l->opts.sender, config, errstr, sizeof errstr) != 0) {
        if (mm_log_allowed(&l->resume_limit, mm_clock_monotonic_ns(), LINE_INTERVAL_NS, &n_held)) {
            mm_log_write(l->opts.log, MM_LOG_ERROR,
                         "reload: sending cannot go on: %s; it is tried again each second", errstr);
        }
        if (stopping(l)) {
            return;
        }
        pause_a_second(l);
    }
}

/* From here on the broker's thread has them. */
static void publish(struct mm_live *l, struct mm_config *config)
{
    struct mm_config *before = current(l);
    if (config == before) {
        return;
    }
    mm_spool_set_drop_oldest(l->opts.spool, config->when_full == MM_WHEN_FULL_DROP_OLDEST);
    mm_log_set_level(l->opts.log, config->log_level);
    atomic_store_explicit(&l->current, config, memory_order_release); /* V1 */
    retire(l, before);
}

/* Go over to these settings, which may be the present ones: their files are read again. False: the
 * plugin ends first, and they are not in use. */
static bool swap(struct mm_live *l, struct mm_config *config, const char *what)
{
    if (!hold(l, true)) {
        return false;
    }
    uint64_t start_ns = mm_clock_monotonic_ns();
    bool rested = rest(l);
    if (rested) {
        publish(l, config);
        note_certificate(l);
        resume(l, config);
        mm_log_write(l->opts.log, MM_LOG_INFO,
                     "reload: %s; for %" PRIu64 " ms messages waited in the spool", what,
                     (mm_clock_monotonic_ns() - start_ns) / 1000000);
    }
    (void)hold(l, false);
    return rested;
}

/* --- the two occasions --------------------------------------------------------------------------
 */

/* The proof is wanted, unless nothing reaches Kafka anyway. */
static bool may_take(struct mm_live *l, const struct mm_config *wanted)
{
    char why[512];
    enum proof proof = prove(l, wanted, why, sizeof why);
    if (proof == PROVED) {
        return true;
    }
    if (proof == NO_ANSWER && !mm_sender_reaches_kafka(l->opts.sender)) {
        mm_log_write(l->opts.log, MM_LOG_WARN,
                     "reload: %s; nor do the present settings reach it, so the new ones are taken "
                     "without a proof",
                     why);
        return true;
    }
    if (!stopping(l)) {
        note_failure(l, "the new settings are not taken", why);
    }
    return false;
}

/* On demand: the config_file. */
static void reload_settings(struct mm_live *l)
{
    if (sum_of_config_file(current(l)) == l->file_sum && sum_of_files(current(l)) == l->files_sum) {
        mm_log_write(l->opts.log, MM_LOG_INFO, "reload: %s",
                     current(l)->config_file != NULL
                         ? "config_file and all files that it names are as they were"
                         : "there is no config_file; the options of mosquitto.conf are read at the "
                           "start of the broker only");
        note_success(l, MM_RELOAD_UNCHANGED);
        return;
    }
    struct mm_config *wanted = check(l);
    if (wanted == NULL) {
        return;
    }
    uint64_t files_sum = sum_of_files(wanted);
    if (!may_take(l, wanted) || !swap(l, wanted, "the new settings are in use")) {
        mm_config_free(wanted);
        return;
    }
    char text[MM_LOG_LINE_LEN];
    mm_config_describe(wanted, text, sizeof text);
    mm_log_write(l->opts.log, MM_LOG_INFO, "reload: %s", text);
    l->file_sum = sum_of_what_was_read(wanted);
    l->files_sum = l->look_sum = files_sum;
    l->files_failed = false;
    l->files_waiting = false;
    mm_gauge_set(&l->m->file_changed, 0);
    note_success(l, MM_RELOAD_APPLIED);
}

/* Files that have changed do not work. */
static void note_unproved(struct mm_live *l, enum proof proof, const char *why)
{
    l->tried_ns = mm_clock_monotonic_ns();
    if (proof == NO_ANSWER && !mm_sender_reaches_kafka(l->opts.sender)) {
        if (!l->files_waiting) {
            mm_log_write(
                l->opts.log, MM_LOG_WARN,
                "reload: the certificates or secrets have changed, and are used when Kafka "
                "is reached by them: %s",
                why);
        }
        l->files_waiting = true;
        return;
    }
    note_failure(l, "the certificates or secrets have changed and do not work", why);
    l->files_failed = true;
    l->retry_s = l->retry_s == 0 ? RETRY_MIN_S : l->retry_s * 2;
    l->retry_s = l->retry_s > RETRY_MAX_S ? RETRY_MAX_S : l->retry_s;
}

/* The files with certificates and secrets have changed. */
static void renew(struct mm_live *l, uint64_t sum)
{
    char why[512];
    enum proof proof = prove(l, current(l), why, sizeof why);
    if (stopping(l)) {
        return;
    }
    if (proof != PROVED) {
        note_unproved(l, proof, why);
    } else if (swap(l, current(l), "the certificates or secrets that have changed are in use")) {
        l->files_sum = sum;
        l->files_failed = false;
        l->files_waiting = false;
        note_success(l, MM_RELOAD_APPLIED);
    }
}

/* Is it time to try the files that have changed? */
static bool is_due(const struct mm_live *l)
{
    uint64_t pause_s = mm_sender_reaches_kafka(l->opts.sender) ? l->retry_s : RETRY_MIN_S;
    return l->tried_ns == 0 || mm_clock_monotonic_ns() - l->tried_ns >= pause_s * SECOND_NS;
}

/* From time to time: the files. */
static void look(struct mm_live *l)
{
    mm_gauge_set(&l->m->file_changed, sum_of_config_file(current(l)) != l->file_sum);
    uint64_t sum = sum_of_files(current(l));
    bool at_rest = sum == l->look_sum;
    l->look_sum = sum;
    if (sum == l->files_sum) {
        l->files_waiting = false;
        if (l->files_failed) {
            l->files_failed = false;
            mm_gauge_set(&l->m->failed, 0);
            mm_log_write(l->opts.log, MM_LOG_INFO,
                         "reload: the certificates and secrets are again those in use");
        }
        return;
    }
    if (!at_rest) {
        l->retry_s = 0;
        l->tried_ns = 0;
    } else if (is_due(l)) {
        renew(l, sum);
    }
}

/* --- the thread ---------------------------------------------------------------------------------
 */

/* Until there is something to do. False: it is time to end. */
static bool wait_for_work(struct mm_live *l, bool *reload)
{
    struct timespec until = mm_thread_deadline(LOOK_MS);
    pthread_mutex_lock(&l->lock);
    bool timed_out = false;
    while (!l->stop && !l->reload && !timed_out) {
        timed_out = pthread_cond_timedwait(&l->cond, &l->lock, &until) == ETIMEDOUT;
    }
    *reload = l->reload;
    l->reload = false;
    bool goes_on = !l->stop;
    pthread_mutex_unlock(&l->lock);
    return goes_on;
}

static void *live_main(void *arg)
{
    struct mm_live *l = arg;
    bool reload;
    while (wait_for_work(l, &reload)) {
        if (reload) {
            reload_settings(l);
        } else {
            look(l);
        }
        tell_expiry(l);
        free_unused(l);
    }
    return NULL;
}

/* --- start, stop --------------------------------------------------------------------------------
 */

int mm_live_new(const struct mm_live_options *opts, struct mm_live **out)
{
    struct mm_live *l = *out = calloc(1, sizeof *l);
    if (l == NULL) {
        return MM_ENOMEM;
    }
    l->opts = *opts;
    l->m = mm_metrics_live(opts->metrics);
    atomic_init(&l->current, opts->config);
    atomic_init(&l->seen, opts->config);
    l->file_sum = sum_of_what_was_read(opts->config);
    l->files_sum = l->look_sum = sum_of_files(opts->config);
    note_certificate(l);
    pthread_mutex_init(&l->lock, NULL);
    mm_thread_cond_init(&l->cond);
    return 0;
}

int mm_live_start(struct mm_live *l, char *errstr, size_t errstr_len)
{
    int err = mm_thread_start("mm-live", live_main, l, &l->thread);
    if (err != 0) {
        char reason[64];
        snprintf(errstr, errstr_len,
                 "the thread for changes of the settings could not be started: %s",
                 strerror_r(err, reason, sizeof reason));
        return MM_ETHREAD;
    }
    l->started = true;
    return 0;
}

bool mm_live_stop(struct mm_live *l, uint32_t timeout_ms)
{
    if (l == NULL) {
        return true;
    }
    struct timespec until = mm_thread_deadline(timeout_ms);
    pthread_mutex_lock(&l->lock);
    l->stop = true;
    l->stop_ns = mm_clock_monotonic_ns();
    pthread_cond_broadcast(&l->cond);
    bool timed_out = false;
    while (l->holding && !timed_out) {
        timed_out = pthread_cond_timedwait(&l->cond, &l->lock, &until) == ETIMEDOUT;
    }
    bool free = !l->holding;
    pthread_mutex_unlock(&l->lock);
    return free;
}

bool mm_live_join(struct mm_live *l, uint32_t timeout_ms)
{
    if (l == NULL || !l->started) {
        return true;
    }
    l->started = !mm_thread_join(l->thread, timeout_ms);
    return !l->started;
}

void mm_live_free(struct mm_live *l)
{
    if (l == NULL) {
        return;
    }
    free_retired(l);
    mm_config_free(current(l));
    pthread_cond_destroy(&l->cond);
    pthread_mutex_destroy(&l->lock);
    free(l);
}
