/* mm_status_impl.h - what mm_status.c knows and mm_status_json.c writes.
 *
 * Thread: http. */
#ifndef MM_STATUS_IMPL_H
#define MM_STATUS_IMPL_H

#include "mm_config.h"
#include "mm_lanes.h"
#include "mm_metrics.h"
#include "mm_status.h"

#include <stdbool.h>
#include <stdint.h>

/* The nearest to a loss first: the first one that is active is what the page begins with. */
enum mm_problem_kind {
    MM_PROBLEM_STUCK,
    MM_PROBLEM_DROPPING,
    MM_PROBLEM_REFUSING,
    MM_PROBLEM_FULL,
    MM_PROBLEM_UNSYNCED,
    MM_PROBLEM_LOW_SPACE,
    MM_PROBLEM_NEARLY_FULL,
    MM_PROBLEM_KAFKA,
    MM_PROBLEM_PARKED,
    MM_PROBLEM_BEHIND,
    MM_PROBLEM_RELOAD,
    MM_PROBLEM_DEAD,
    MM_PROBLEM_DISK,
    MM_PROBLEM_BAD_FILES,
    MM_N_PROBLEMS
};

#define MM_STATUS_TITLE_LEN 320
#define MM_STATUS_TEXT_LEN 640

struct mm_problem_def
{
    const char *id;
    bool critical;
    const char *was;    /* the title of the event that it is when it is over */
    uint32_t hold_s;    /* how long it is told after it was seen last */
    const char *advice; /* NULL: depends on the cause */
};

struct mm_problem
{
    bool active;
    bool is_start; /* the first connection: no event if it is made soon */
    uint64_t since_ms;
    uint64_t seen_ns; /* last */
    uint64_t count;   /* of messages or errors in this episode; 0: not countable */
    uint64_t event;   /* its number */
};

struct mm_event
{
    enum mm_problem_kind kind;
    uint64_t began_ms;
    uint64_t ended_ms; /* 0: not yet */
    uint64_t count;
    const char *advice;
};

/* Rates are told over the last five of these, a second each. */
#define MM_STATUS_SECONDS UINT64_C(64)
#define MM_STATUS_RATE_S UINT64_C(5)

struct mm_second
{
    uint64_t ns;
    uint64_t received;
    uint64_t delivered;
    uint64_t used_bytes;
    uint64_t worker_delivered[MM_CONFIG_WORKERS_MAX];
};

/* Ten minutes in steps of ten seconds. */
#define MM_STATUS_STEP_S UINT64_C(10)
#define MM_STATUS_STEPS UINT64_C(60)

struct mm_step
{
    uint64_t received_milli; /* a second, thousandths */
    uint64_t delivered_milli;
    uint64_t used_bytes; /* at its end */
};

#define MM_STATUS_EVENTS UINT64_C(20)

struct mm_status
{
    /* immutable */
    const struct mm_metrics *metrics;
    const struct mm_spool *spool;

    /* http thread */
    struct mm_snapshot shot;
    uint64_t n[MM_LAYOUT_COUNTERS]; /* by enum mm_metrics_slot */
    uint64_t now_ns;
    uint64_t now_ms;

    struct mm_second seconds[MM_STATUS_SECONDS];
    uint64_t topic_delivered[MM_STATUS_RATE_S + 1][MM_LANES_MAX]; /* of the last seconds */
    uint64_t n_seconds; /* that were taken, of which the last MM_STATUS_SECONDS are there */
    struct mm_step steps[MM_STATUS_STEPS];
    uint64_t n_steps;
    uint64_t step_ns; /* when the step began */
    uint64_t step_received;
    uint64_t step_delivered;

    struct mm_problem problems[MM_N_PROBLEMS];
    uint64_t refused; /* when last looked at */
    uint64_t dropped;
    uint64_t dead_lettered;
    uint64_t io_errors;
    struct mm_event events[MM_STATUS_EVENTS];
    uint64_t n_events; /* there ever were */

    int verdict; /* the first active problem, -1: none */
    uint64_t verdict_since_ms;

    /* why the Kafka problem and the parked one are there, of the last look */
    uint64_t kafka_why; /* enum mm_trouble, or MM_METRICS_STALLED */
    bool kafka_was_up;
    uint32_t n_workers_down;
    uint32_t n_parked;
    bool all_parked;      /* a worker waits as a whole */
    uint32_t parked_lane; /* the first of them */
    const char *parked_error;
};

extern const struct mm_problem_def mm_problem_defs[MM_N_PROBLEMS];

/* The figures of this moment; a second of the history if one is due. */
void mm_status_look(struct mm_status *s, uint64_t now_ns, uint64_t now_ms);

/* Why Kafka does not do something, in words: what it means, and what is to be done. name: Kafka's,
 * or NULL. */
struct mm_cause
{
    const char *name;
    const char *text; /* "there is no right to write to it" */
    const char *advice;
};

const struct mm_cause *mm_status_cause(const char *name);

/* Why Kafka is not reached, likewise. */
void mm_status_kafka_cause(const struct mm_status *s, struct mm_cause *out);

/* What is to be done about a problem that is active. */
const char *mm_status_advice(const struct mm_status *s, enum mm_problem_kind kind);

/* Rates of the last five seconds, thousandths a second. */
uint64_t mm_status_rate_received(const struct mm_status *s);
uint64_t mm_status_rate_delivered(const struct mm_status *s);
uint64_t mm_status_rate_worker(const struct mm_status *s, uint32_t k);
uint64_t mm_status_rate_topic(const struct mm_status *s, uint32_t lane, uint64_t delivered);

/* Seconds until the spool or its disk is full at the pace of the last minute; UINT64_MAX: it does
 * not grow. */
uint64_t mm_status_to_full_s(const struct mm_status *s);

#endif
