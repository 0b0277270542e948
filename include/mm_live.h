/* mm_live.h - settings that change while messages flow.
 *
 * Owns the settings. On demand (the broker's SIGHUP) it reads the config_file again; by itself it
 * watches the content of the files with certificates and secrets that the settings name. In both
 * cases it goes on in these steps, on a thread of its own:
 *
 *   - check: the new settings as a whole, as at a start. Options that count only from a start on
 *     keep their value, and a line of the log names them;
 *   - prove: a Kafka producer of its own, made of the new settings, has to get an answer from the
 *     cluster. Only where the present settings do not reach Kafka either, settings are taken
 *     without that, so that an operator can mend them during an outage (files are not: they are
 *     tried again);
 *   - rest: the sending half (mm_sender.h) has the reports of what is in flight, and ends its
 *     producers. What the broker receives meanwhile waits in the spool;
 *   - swap: the broker's thread and the sending half go on with the new settings.
 *
 * What fails before the third step leaves everything as it was: a line of the log and the metrics
 * say so. Nothing is sent by the new settings before the old ones have come to rest, so the order
 * of each MQTT topic holds.
 *
 * The broker's thread reads the settings without a lock: it asks for them at the start of each
 * callback (mm_live_settings()), by which it gives the earlier ones free. */
#ifndef MM_LIVE_H
#define MM_LIVE_H

#include "mm_config.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mm_live;
struct mm_log;
struct mm_metrics;
struct mm_sender;
struct mm_spool;

/* All pointers are borrowed and must outlive it, but config. */
struct mm_live_options
{
    struct mm_config *config; /* those that run; mm_live_free() frees them */
    const struct mm_option *options;
    size_t n_options; /* what the broker gave, in file order */
    mm_config_getenv_fn getenv;
    void *getenv_arg;
    struct mm_sender *sender; /* running when mm_live_start() is called; its owner leaves it alone
                                 from mm_live_start() on until mm_live_stop() */
    struct mm_spool *spool;
    struct mm_metrics *metrics;
    struct mm_log *log;
};

/* What the files with certificates and secrets hold now is taken for what is in use: to be called
 * before the sending half starts, which reads them.
 *
 * Thread: setup. Errors: MM_ENOMEM; *out is NULL and config still the caller's then. */
int mm_live_new(const struct mm_live_options *opts, struct mm_live **out);

/* Start the thread, which blocks all signals. Thread: setup. Errors: MM_ETHREAD; errstr has the
 * reason. */
int mm_live_start(struct mm_live *l, char *errstr, size_t errstr_len);

/* The settings that count now. They live until the next call, or mm_live_free(). One load when
 * nothing has changed.
 *
 * Thread: broker, at the start of each callback. */
const struct mm_config *mm_live_settings(struct mm_live *l);

/* The config_file is to be read again. Returns at once; what comes of it is told by the log. Asking
 * many times in a row makes no more changes than needed.
 *
 * Thread: any. */
void mm_live_reload(struct mm_live *l);

/* Change nothing more. A change that has begun to stop the sending half is waited for, at most
 * timeout_ms; it goes on with the new settings, or if it cannot in that time stays at rest. False:
 * it has not let go of the sending half, which must be left alone. Accepts NULL. Thread: setup. */
bool mm_live_stop(struct mm_live *l, uint32_t timeout_ms);

/* After mm_live_stop(): wait for the thread, at most timeout_ms. False: it did not end (the Kafka
 * client hangs); all that was lent must be left alone until the process ends. Accepts NULL. Thread:
 * setup. */
bool mm_live_join(struct mm_live *l, uint32_t timeout_ms);

/* Accepts NULL. Thread: setup, after mm_live_join(), when nobody uses the settings. */
void mm_live_free(struct mm_live *l);

#endif
