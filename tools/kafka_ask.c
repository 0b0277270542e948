#include "kafka_ask.h"

#include "mm_clock.h"
#include "mm_kafka.h"
#include "mm_text.h"

#include <stdio.h>
#include <string.h>

static void ignore_report(void *arg, const struct mm_kafka_report *report)
{
    (void)arg;
    (void)report;
}

static void on_error(rd_kafka_t *rk, int err, const char *reason, void *opaque)
{
    (void)rk;
    (void)err;
    (void)reason;
    (void)opaque; /* the producer meets the same, and has words for it */
}

static void on_log(const rd_kafka_t *rk, int level, const char *fac, const char *buf)
{
    (void)rk;
    (void)level;
    (void)fac;
    (void)buf;
}

static bool open_clients(struct kafka_ask *a, char *why, size_t why_len)
{
    const struct mm_kafka_options opts = {.config = a->config, .on_report = ignore_report};
    char errstr[256];
    if (mm_kafka_new(&opts, &a->producer, why, why_len) != 0) {
        return false;
    }
    rd_kafka_conf_t *conf = rd_kafka_conf_dup(rd_kafka_conf(mm_kafka_client(a->producer)));
    rd_kafka_conf_set_opaque(conf, a);
    rd_kafka_conf_set_error_cb(conf, on_error);
    rd_kafka_conf_set_log_cb(conf, on_log);
    rd_kafka_conf_set_stats_cb(conf, NULL);
    rd_kafka_conf_set_dr_msg_cb(conf, NULL);
    (void)rd_kafka_conf_set_ssl_cert_verify_cb(conf, NULL); /* the producer's takes its opaque */
    a->rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, errstr, sizeof errstr);
    if (a->rk == NULL) {
        rd_kafka_conf_destroy(conf);
        snprintf(why, why_len, "Kafka cannot be asked: %s", errstr);
        return false;
    }
    a->queue = rd_kafka_queue_new(a->rk);
    return true;
}

/* Why nobody answered. */
static void explain(const struct kafka_ask *a, char *why, size_t why_len)
{
    const char *what = mm_kafka_last_error(a->producer);
    const char *remedy = mm_kafka_remedy(a->producer);
    char shown[256];
    mm_printable(what, strlen(what), shown, sizeof shown);
    snprintf(why, why_len, "Kafka was not reached at %s: %s%s%s", a->config->kafka_bootstrap,
             shown[0] != '\0' ? shown : "it did not answer in time", remedy[0] != '\0' ? "; " : "",
             remedy);
}

bool kafka_ask_open(struct kafka_ask *a,
                    const struct mm_config *config,
                    uint32_t timeout_ms,
                    char *why,
                    size_t why_len)
{
    *a = (struct kafka_ask){.config = config, .timeout_ms = timeout_ms};
    if (!open_clients(a, why, why_len)) {
        return false;
    }
    const struct rd_kafka_metadata *md = NULL;
    const uint64_t end_ns = mm_clock_monotonic_ns() + timeout_ms * UINT64_C(1000000);
    while (!mm_kafka_is_rejected(a->producer) && mm_clock_monotonic_ns() < end_ns) {
        const rd_kafka_resp_err_t err = rd_kafka_metadata(a->rk, 0, NULL, &md, 250);
        rd_kafka_poll(a->rk, 0);
        mm_kafka_poll(a->producer, 50);
        if (err == RD_KAFKA_RESP_ERR_NO_ERROR) {
            rd_kafka_metadata_destroy(md);
            return true;
        }
    }
    explain(a, why, why_len);
    return false;
}

void kafka_ask_close(struct kafka_ask *a)
{
    if (a->queue != NULL) {
        rd_kafka_queue_destroy(a->queue);
    }
    if (a->rk != NULL) {
        rd_kafka_destroy(a->rk);
    }
    mm_kafka_close(a->producer, 1000);
}

rd_kafka_resp_err_t kafka_ask_topic(struct kafka_ask *a,
                                    const char *name,
                                    const struct rd_kafka_metadata **md)
{
    rd_kafka_resp_err_t err = RD_KAFKA_RESP_ERR__FAIL;
    rd_kafka_topic_t *rkt = rd_kafka_topic_new(a->rk, name, NULL);
    *md = NULL;
    if (rkt != NULL) {
        err = rd_kafka_metadata(a->rk, 0, rkt, md, (int)a->timeout_ms);
        rd_kafka_topic_destroy(rkt);
    }
    if (err == RD_KAFKA_RESP_ERR_NO_ERROR && (*md)->topic_cnt != 1) {
        rd_kafka_metadata_destroy(*md);
        *md = NULL;
        err = RD_KAFKA_RESP_ERR__FAIL;
    }
    return err;
}

rd_kafka_event_t *kafka_ask_answer(struct kafka_ask *a)
{
    const uint64_t end_ns = mm_clock_monotonic_ns() + a->timeout_ms * UINT64_C(1000000);
    rd_kafka_event_t *event = NULL;
    while (event == NULL && mm_clock_monotonic_ns() < end_ns) {
        event = rd_kafka_queue_poll(a->queue, 100);
        rd_kafka_poll(a->rk, 0);
    }
    return event;
}
