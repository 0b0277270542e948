#include "mm_sender.h"

#include "mm_clock.h"
#include "mm_config.h"
#include "mm_error.h"
#include "mm_gate.h"
#include "mm_lanes.h"
#include "mm_metrics.h"
#include "mm_park.h"
#include "mm_route.h"
#include "mm_spool.h"
#include "mm_worker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct mm_sender
{
    struct mm_sender_options opts;
    struct mm_gate gate; /* of all producers */
    struct mm_park *park;
    bool new_routes;    /* since it came to rest */
    bool rerouted;      /* ... and what is parked is old now */
    uint32_t n_workers; /* that are started */
    struct mm_worker *workers[MM_CONFIG_WORKERS_MAX];
};

/* A refused password is tried again after kafka_retry_interval, then after longer and longer. */
#define GATE_MAX_MS (60U * 1000)

static void init_gate(struct mm_sender *s, const struct mm_config *config)
{
    const uint32_t first_ms = config->kafka_retry_interval_s * 1000;
    const uint32_t max_ms = first_ms > GATE_MAX_MS / 8 ? GATE_MAX_MS : first_ms * 8;
    mm_gate_init(&s->gate, first_ms, max_ms);
}

/* --- start --------------------------------------------------------------------------------------
 */

static int open_park(struct mm_sender *s, char *errstr, size_t errstr_len)
{
    struct mm_park_options opts = {
        .config = s->opts.config,
        .spool = s->opts.spool,
        .budget = s->opts.budget,
        .lanes = s->opts.lanes,
        .metrics = s->opts.metrics,
        .dead = s->opts.dead,
        .gate = &s->gate,
        .log = s->opts.log,
    };
    return mm_park_open(&opts, &s->park, errstr, errstr_len);
}

int mm_sender_new(const struct mm_sender_options *opts,
                  struct mm_sender **out,
                  char *errstr,
                  size_t errstr_len)
{
    *out = NULL;
    struct mm_sender *s = calloc(1, sizeof *s);
    snprintf(errstr, errstr_len, "%s", mm_strerror(MM_ENOMEM));
    if (s == NULL) {
        return MM_ENOMEM;
    }
    s->opts = *opts;
    init_gate(s, opts->config);
    int err = mm_lanes_reset(opts->lanes, opts->config);
    if (err == 0) {
        err = open_park(s, errstr, errstr_len);
    }
    if (err != 0) {
        mm_sender_free(s);
        return err;
    }
    *out = s;
    return 0;
}

static int start_worker(struct mm_sender *s, uint32_t k, char *errstr, size_t errstr_len)
{
    struct mm_worker_options opts = {
        .index = k,
        .config = s->opts.config,
        .lanes = s->opts.lanes,
        .spool = s->opts.spool,
        .park = s->park,
        .metrics = mm_metrics_worker(s->opts.metrics, k),
        .dead = s->opts.dead,
        .gate = &s->gate,
        .log = s->opts.log,
    };
    return mm_worker_start(&opts, &s->workers[k], errstr, errstr_len);
}

int mm_sender_start(struct mm_sender *s, char *errstr, size_t errstr_len)
{
    int err = mm_park_start(s->park, errstr, errstr_len);
    while (err == 0 && s->n_workers < s->opts.config->kafka_workers) {
        err = start_worker(s, s->n_workers, errstr, errstr_len);
        s->n_workers += err == 0;
    }
    return err;
}

struct mm_park *mm_sender_park(const struct mm_sender *s)
{
    return s->park;
}

bool mm_sender_reaches_kafka(const struct mm_sender *s)
{
    for (uint32_t k = 0; k < s->n_workers; k++) {
        if (mm_counter_get(&mm_metrics_worker(s->opts.metrics, k)->kafka_up) != 0) {
            return true;
        }
    }
    return false;
}

/* --- change --------------------------------------------------------------------------------------
 */

void mm_sender_settle(struct mm_sender *s, uint32_t wait_ms)
{
    for (uint32_t k = 0; k < s->n_workers; k++) {
        mm_worker_settle(s->workers[k], wait_ms);
    }
    mm_park_settle(s->park, wait_ms);
    mm_spool_wake(s->opts.spool);
}

bool mm_sender_await(struct mm_sender *s, uint32_t timeout_ms)
{
    uint64_t until_ns = mm_clock_monotonic_ns() + timeout_ms * UINT64_C(1000000);
    bool all = true;
    for (uint32_t k = 0; k < s->n_workers; k++) {
        all = mm_worker_await(s->workers[k], mm_clock_left_ms(until_ns)) && all;
    }
    return all && mm_park_await(s->park, mm_clock_left_ms(until_ns));
}

/* Workers and parked logs go on, those that have not yet. */
static int resume_all(struct mm_sender *s,
                      const struct mm_worker_change *change,
                      char *errstr,
                      size_t errstr_len)
{
    int err = mm_park_resume(s->park, change, errstr, errstr_len);
    for (uint32_t k = 0; err == 0 && k < s->n_workers; k++) {
        if (!mm_worker_is_running(s->workers[k])) {
            err = mm_worker_resume(s->workers[k], change, errstr, errstr_len);
        }
    }
    return err;
}

/* Do two settings lead each message to the same lane? */
static int same_routes(const struct mm_config *a, const struct mm_config *b, bool *same)
{
    char *routes_a = mm_route_describe(a);
    char *routes_b = mm_route_describe(b);
    int err = routes_a == NULL || routes_b == NULL ? MM_ENOMEM : 0;
    if (err == 0) {
        *same = strcmp(routes_a, routes_b) == 0;
    }
    free(routes_a);
    free(routes_b);
    return err;
}

/* Take over other settings. */
static int change(struct mm_sender *s, const struct mm_config *config)
{
    bool same = true;
    int err = same_routes(s->opts.config, config, &same);
    if (err == 0) {
        s->opts.config = config;
        s->new_routes = !same;
        s->rerouted = false;
    }
    return err;
}

/* What is parked is to be sent first, by the new routes; then lanes can have other numbers. */
static int reroute(struct mm_sender *s, char *errstr, size_t errstr_len)
{
    int err = mm_park_reroute(s->park, s->opts.config, errstr, errstr_len);
    if (err == 0) {
        snprintf(errstr, errstr_len, "%s", mm_strerror(MM_ENOMEM));
        err = mm_lanes_reset(s->opts.lanes, s->opts.config);
    }
    s->rerouted = err == 0;
    return err;
}

int mm_sender_resume(struct mm_sender *s,
                     const struct mm_config *config,
                     char *errstr,
                     size_t errstr_len)
{
    int err = 0;
    snprintf(errstr, errstr_len, "%s", mm_strerror(MM_ENOMEM));
    if (config != s->opts.config) {
        err = change(s, config);
    }
    if (err == 0 && s->new_routes && !s->rerouted) {
        err = reroute(s, errstr, errstr_len);
    }
    if (err != 0) {
        return err;
    }
    init_gate(s, config); /* what was refused may be mended */
    struct mm_worker_change what = {.config = config, .new_routes = s->new_routes};
    err = resume_all(s, &what, errstr, errstr_len);
    if (err == 0) {
        s->new_routes = false;
    }
    return err;
}

/* --- stop ---------------------------------------------------------------------------------------
 */

void mm_sender_stop(struct mm_sender *s, uint32_t drain_ms)
{
    if (s == NULL) {
        return;
    }
    mm_park_stop(s->park, drain_ms);
    for (uint32_t k = 0; k < s->n_workers; k++) {
        mm_worker_stop(s->workers[k], drain_ms);
    }
    mm_spool_wake(s->opts.spool);
}

bool mm_sender_join(struct mm_sender *s, uint32_t timeout_ms)
{
    if (s == NULL) {
        return true;
    }
    uint64_t until_ns = mm_clock_monotonic_ns() + timeout_ms * UINT64_C(1000000);
    bool all = true;
    for (uint32_t k = 0; k < s->n_workers; k++) {
        if (s->workers[k] != NULL && mm_worker_join(s->workers[k], mm_clock_left_ms(until_ns))) {
            s->workers[k] = NULL;
        }
        all = all && s->workers[k] == NULL;
    }
    return all && mm_park_join(s->park, mm_clock_left_ms(until_ns));
}

void mm_sender_free(struct mm_sender *s)
{
    if (s == NULL) {
        return;
    }
    mm_park_close(s->park);
    free(s);
}
