#include "resend.h"

#include "mm_error.h"
#include "mm_thread.h"

int resend_init(struct resend *r, const struct mm_config_source *source)
{
    int err = mm_config_new(source, &r->config);
    if (err == 0) {
        err = mm_message_new(&r->message);
    }
    if (err == 0) {
        err = mm_lanes_new(&r->lanes);
    }
    if (err == 0) {
        err = mm_lanes_reset(r->lanes, r->config);
    }
    if (err == 0) {
        err = mm_log_new(MM_LOG_WARN, &r->log);
    }
    return err;
}

int resend_start(struct resend *r,
                 bool alone,
                 mm_kafka_report_fn on_report,
                 void *arg,
                 char *errstr,
                 size_t errstr_len)
{
    struct mm_kafka_options opts = {
        .config = r->config,
        .single = alone,
        .careful = alone,
        .on_report = on_report,
        .arg = arg,
        .log = r->log,
        .told = &r->told,
    };
    sigset_t before;
    mm_thread_block_signals(&before);
    int err = mm_kafka_new(&opts, &r->kafka, errstr, errstr_len);
    mm_thread_restore_signals(&before);
    return err;
}

void resend_stop(struct resend *r, uint32_t wait_ms)
{
    mm_kafka_close(r->kafka, wait_ms);
    r->kafka = NULL;
}

void resend_fini(struct resend *r)
{
    mm_log_free(r->log);
    mm_message_free(r->message);
    mm_lanes_free(r->lanes);
    mm_config_free(r->config);
}
