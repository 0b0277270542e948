#include "mm_status.h"

#include "mm_error.h"
#include "mm_spool.h"
#include "mm_status_impl.h"
#include "mm_trouble.h"

#include <stdlib.h>
#include <string.h>

#define SECOND_NS UINT64_C(1000000000)

/* A message that is older has been waiting; younger ones are on their way. */
#define WAITING_MS 5000
#define BEHIND_MS (UINT64_C(10) * 60 * 1000)

/* So long the first connection may take without being an event. */
#define START_MS 10000

/* A pace that takes longer than this is none. */
#define TO_FULL_MAX_S (UINT64_C(30) * 24 * 3600)

const struct mm_problem_def mm_problem_defs[MM_N_PROBLEMS] = {
    [MM_PROBLEM_STUCK] = {"stuck", true, "A worker thread did not move", 0,
                          "Restart the broker if it stays so: with spool_dir nothing that was "
                          "acknowledged is lost."},
    [MM_PROBLEM_DROPPING] = {"dropping", true, "Messages were lost", 60,
                             "Make room: bring Kafka back, or raise spool_max_bytes. Publish with "
                             "QoS 1 what must not be lost."},
    [MM_PROBLEM_REFUSING] = {"refusing", true, "Publishers were turned away", 60,
                             "Make room: bring Kafka back, free space on the disk, or raise "
                             "spool_max_bytes."},
    [MM_PROBLEM_FULL] = {"full", true, "The spool was full", 0,
                         "Bring Kafka back, or raise spool_max_bytes and restart the broker."},
    [MM_PROBLEM_UNSYNCED] = {"unsynced", true, "The disk did not sync", 0,
                             "Do not restart the machine before the spool is drained. Look at the "
                             "kernel's log, and replace the disk."},
    [MM_PROBLEM_LOW_SPACE] = {"low_space", true, "The disk of the spool was nearly full", 0,
                              "Free space on the file system of spool_dir, or enlarge it."},
    [MM_PROBLEM_NEARLY_FULL] = {"nearly_full", true, "The spool was nearly full", 0,
                                "Bring Kafka back, or raise spool_max_bytes and restart the "
                                "broker: with spool_dir nothing is lost by that."},
    [MM_PROBLEM_KAFKA] = {"kafka", false, "Kafka was not reached", 0, NULL},
    [MM_PROBLEM_PARKED] = {"parked", false, "Kafka refused a topic", 0, NULL},
    [MM_PROBLEM_BEHIND] = {"behind", false, "Kafka was more than ten minutes behind", 0,
                           "After an outage it is enough to wait. Otherwise look at Kafka, or "
                           "raise kafka_workers."},
    [MM_PROBLEM_RELOAD] = {"reload", false, "New settings were not taken", 0,
                           "The broker's log has the reason. Mend the file, and reload the broker "
                           "(SIGHUP)."},
    [MM_PROBLEM_DEAD] = {"dead_letters", false, "Kafka refused messages for good", 600,
                         "Look at the dead letters: the usual reason is their size. They can be "
                         "sent again by \"metamorphosis dead redrive\"."},
    [MM_PROBLEM_DISK] = {"disk", false, "The disk of the spool had errors", 600,
                         "The broker's log has the file and the reason; look at the kernel's log, "
                         "too."},
    [MM_PROBLEM_BAD_FILES] = {"bad_files", false, "Damaged files were set aside", 0,
                              "Look at the directory bad/ below spool_dir with \"metamorphosis "
                              "spool verify\", then delete what is in it."},
};

/* --- causes -------------------------------------------------------------------------------------
 */

static const struct mm_cause causes[] = {
    {"TOPIC_AUTHORIZATION_FAILED", "there is no right to write to it",
     "Grant the plugin's user the right to write to it."},
    {"CLUSTER_AUTHORIZATION_FAILED", "a right at the cluster is missing",
     "Grant the plugin's user the right to write."},
    {"UNKNOWN_TOPIC_OR_PART", "it is not there", "Make the topic in Kafka, or change the route."},
    {"_UNKNOWN_TOPIC", "it is not there", "Make the topic in Kafka, or change the route."},
    {"_UNKNOWN_PARTITION", "it is not there", "Make the topic in Kafka, or change the route."},
    {"POLICY_VIOLATION", "a policy of the cluster forbids it", "Ask who runs Kafka."},
};

const struct mm_cause *mm_status_cause(const char *name)
{
    static const struct mm_cause unknown = {"", "the broker's log says why",
                                            "Look at the broker's log and at Kafka's."};
    for (size_t i = 0; name != NULL && i < sizeof causes / sizeof causes[0]; i++) {
        if (strcmp(causes[i].name, name) == 0) {
            return &causes[i];
        }
    }
    return &unknown;
}

void mm_status_kafka_cause(const struct mm_status *s, struct mm_cause *out)
{
    static const char nobody[] =
        "Is Kafka running? Are kafka_broker and its port right? Is a firewall in between?";
    *out = (struct mm_cause){"", "there is no connection", nobody};
    if (s->kafka_why == MM_METRICS_STALLED) {
        out->text = "it is connected, but confirms nothing";
        out->advice = "Is Kafka frozen or overloaded, or is the Kafka topic missing?";
    } else if (s->kafka_why != MM_TROUBLE_NONE && s->kafka_why < MM_N_TROUBLES) {
        const char *remedy = mm_trouble_remedy((enum mm_trouble)s->kafka_why);
        const char *name = mm_trouble_name((enum mm_trouble)s->kafka_why);
        out->text = name[0] != '\0' ? name : "the broker's log says why";
        out->advice = remedy[0] != '\0' ? remedy : nobody;
    }
}

const char *mm_status_advice(const struct mm_status *s, enum mm_problem_kind kind)
{
    if (kind == MM_PROBLEM_KAFKA) {
        struct mm_cause cause;
        mm_status_kafka_cause(s, &cause);
        return cause.advice;
    }
    if (kind == MM_PROBLEM_PARKED) {
        return mm_status_cause(s->parked_error)->advice;
    }
    return mm_problem_defs[kind].advice;
}

/* --- rates --------------------------------------------------------------------------------------
 */

/* The second that was taken n_back before the last one, or the oldest that is there. */
static const struct mm_second *second_before(const struct mm_status *s, uint64_t n_back)
{
    uint64_t n_there = s->n_seconds < MM_STATUS_SECONDS ? s->n_seconds : MM_STATUS_SECONDS;
    n_back = n_back < n_there ? n_back : n_there - 1;
    return &s->seconds[(s->n_seconds - 1 - n_back) % MM_STATUS_SECONDS];
}

/* Thousandths a second. */
static uint64_t rate(uint64_t before, uint64_t after, uint64_t ns)
{
    if (ns < SECOND_NS / 10 || after <= before) {
        return 0;
    }
    return (uint64_t)((double)(after - before) * 1e12 / (double)ns);
}

uint64_t mm_status_rate_received(const struct mm_status *s)
{
    const struct mm_second *from = second_before(s, MM_STATUS_RATE_S);
    return rate(from->received, s->shot.received, s->now_ns - from->ns);
}

uint64_t mm_status_rate_delivered(const struct mm_status *s)
{
    const struct mm_second *from = second_before(s, MM_STATUS_RATE_S);
    return rate(from->delivered, s->shot.delivered, s->now_ns - from->ns);
}

uint64_t mm_status_rate_worker(const struct mm_status *s, uint32_t k)
{
    const struct mm_second *from = second_before(s, MM_STATUS_RATE_S);
    struct mm_worker_view w;
    mm_metrics_view_worker(s->metrics, k, &w);
    return rate(from->worker_delivered[k], w.delivered, s->now_ns - from->ns);
}

uint64_t mm_status_rate_topic(const struct mm_status *s, uint32_t lane, uint64_t delivered)
{
    if (lane >= MM_LANES_MAX) {
        return 0; /* what was parked by earlier routes is counted where it goes */
    }
    const struct mm_second *from = second_before(s, MM_STATUS_RATE_S);
    uint64_t n_back = s->n_seconds - 1 < MM_STATUS_RATE_S ? s->n_seconds - 1 : MM_STATUS_RATE_S;
    uint64_t row = (s->n_seconds - 1 - n_back) % (MM_STATUS_RATE_S + 1);
    return rate(s->topic_delivered[row][lane], delivered, s->now_ns - from->ns);
}

static bool is_waiting(const struct mm_status *s, uint64_t longer_ms)
{
    return s->shot.oldest_ms != 0 && s->shot.oldest_ms + longer_ms < s->now_ms;
}

uint64_t mm_status_to_full_s(const struct mm_status *s)
{
    const struct mm_spool_stats *stats = &s->shot.spool;
    const struct mm_second *from = second_before(s, MM_STATUS_SECONDS - 1);
    uint64_t a_second = rate(from->used_bytes, stats->used_bytes, s->now_ns - from->ns) / 1000;
    if (!is_waiting(s, WAITING_MS) || a_second == 0) {
        return UINT64_MAX;
    }
    uint64_t used = stats->used_bytes;
    uint64_t room = stats->limit_bytes > used ? stats->limit_bytes - used : 0;
    if (stats->on_disk) {
        uint64_t taken = stats->allocated_bytes > used ? stats->allocated_bytes - used : 0;
        room = stats->free_bytes + taken < room ? stats->free_bytes + taken : room;
    }
    return room / a_second > TO_FULL_MAX_S ? UINT64_MAX : room / a_second;
}

/* --- problems -----------------------------------------------------------------------------------
 */

static struct mm_event *event_of(struct mm_status *s, const struct mm_problem *p)
{
    bool is_there = s->n_events - p->event <= MM_STATUS_EVENTS;
    return is_there ? &s->events[p->event % MM_STATUS_EVENTS] : NULL;
}

static void begin(struct mm_status *s, enum mm_problem_kind kind)
{
    struct mm_problem *p = &s->problems[kind];
    *p = (struct mm_problem){.active = true,
                             .is_start = kind == MM_PROBLEM_KAFKA && !s->kafka_was_up,
                             .since_ms = s->now_ms,
                             .event = s->n_events};
    s->events[s->n_events % MM_STATUS_EVENTS] =
        (struct mm_event){.kind = kind, .began_ms = s->now_ms};
    s->n_events++;
}

static void end(struct mm_status *s, enum mm_problem_kind kind)
{
    struct mm_problem *p = &s->problems[kind];
    struct mm_event *event = event_of(s, p);
    bool is_newest = p->event == s->n_events - 1;
    if (p->is_start && is_newest && s->now_ms - p->since_ms < START_MS) {
        s->n_events--;
    } else if (event != NULL) {
        event->ended_ms = s->now_ms;
    }
    p->active = false;
}

/* Is it there now? n: how many messages or errors more it has. */
static void note(struct mm_status *s, enum mm_problem_kind kind, bool is_there, uint64_t n)
{
    struct mm_problem *p = &s->problems[kind];
    if (is_there && !p->active) {
        begin(s, kind);
    }
    if (is_there) {
        p->seen_ns = s->now_ns;
        p->count += n;
        struct mm_event *event = event_of(s, p);
        if (event != NULL) {
            event->count = p->count;
            event->advice = mm_status_advice(s, kind);
        }
    } else if (p->active && s->now_ns - p->seen_ns >= mm_problem_defs[kind].hold_s * SECOND_NS) {
        end(s, kind);
    }
}

/* By how much a counter has grown since it was last looked at. */
static uint64_t grown(uint64_t *before, uint64_t now)
{
    uint64_t n = now > *before ? now - *before : 0;
    *before = now;
    return n;
}

static void note_growth(struct mm_status *s,
                        enum mm_problem_kind kind,
                        uint64_t *before,
                        uint64_t now)
{
    uint64_t n = grown(before, now);
    note(s, kind, n > 0, n);
}

/* Kafka topics that are laid aside. */
static void look_at_topics(struct mm_status *s)
{
    s->n_parked = 0;
    uint32_t n = mm_metrics_n_topics(s->metrics);
    for (uint32_t i = 0; i <= n; i++) {
        uint32_t lane = i < n ? i : MM_METRICS_LANE_OLD;
        struct mm_topic_view t;
        mm_metrics_view_topic(s->metrics, lane, &t);
        if (t.n_messages > 0 && s->n_parked++ == 0) {
            s->parked_lane = lane;
            s->parked_error = t.refusal;
        }
    }
}

/* Workers that do not reach Kafka, and those that wait as a whole for what Kafka refuses: the only
 * Kafka topic, or all of them. */
static void look_at_workers(struct mm_status *s)
{
    s->n_workers_down = 0;
    s->kafka_was_up = true;
    s->all_parked = false;
    for (uint32_t k = 0; k < mm_metrics_n_workers(s->metrics); k++) {
        struct mm_worker_view w;
        mm_metrics_view_worker(s->metrics, k, &w);
        if (!w.kafka_up) {
            s->kafka_why = w.down_why;
            s->kafka_was_up = s->kafka_was_up && w.kafka_was_up;
            s->n_workers_down++;
        }
        if (w.state == MM_WORKER_PARKED && s->n_parked == 0) {
            s->all_parked = true;
            s->parked_lane = 0;
            s->parked_error = w.refusal;
        }
    }
    s->n_parked += s->all_parked ? 1 : 0;
}

static bool is_nearly_full(const struct mm_spool_stats *stats)
{
    return stats->tight || stats->used_bytes >= stats->limit_bytes - stats->limit_bytes / 4;
}

static void look_for_problems(struct mm_status *s)
{
    const struct mm_snapshot *shot = &s->shot;
    const struct mm_spool_stats *stats = &shot->spool;
    look_at_topics(s);
    look_at_workers(s);
    note(s, MM_PROBLEM_STUCK, !shot->live, 0);
    note_growth(s, MM_PROBLEM_DROPPING, &s->dropped, shot->dropped);
    note_growth(s, MM_PROBLEM_REFUSING, &s->refused, shot->refused);
    note(s, MM_PROBLEM_FULL, stats->full, 0);
    note(s, MM_PROBLEM_UNSYNCED, stats->degraded, 0);
    note(s, MM_PROBLEM_LOW_SPACE, stats->low_space, 0);
    note(s, MM_PROBLEM_NEARLY_FULL, !stats->full && is_nearly_full(stats), 0);
    note(s, MM_PROBLEM_KAFKA, s->n_workers_down > 0, 0);
    note(s, MM_PROBLEM_PARKED, s->n_parked > 0, 0);
    note(s, MM_PROBLEM_BEHIND,
         is_waiting(s, BEHIND_MS) && s->n_workers_down == 0 && s->n_parked == 0, 0);
    note(s, MM_PROBLEM_RELOAD, mm_metrics_reload_failed(s->metrics), 0);
    note_growth(s, MM_PROBLEM_DEAD, &s->dead_lettered, shot->dead_lettered);
    note_growth(s, MM_PROBLEM_DISK, &s->io_errors, stats->n_io_errors);
    note(s, MM_PROBLEM_BAD_FILES, stats->n_bad_files > 0, 0);

    int verdict = -1;
    for (int i = 0; i < MM_N_PROBLEMS && verdict < 0; i++) {
        verdict = s->problems[i].active ? i : -1;
    }
    if (verdict != s->verdict) {
        s->verdict = verdict;
        s->verdict_since_ms = s->now_ms;
    }
}

/* --- looking ------------------------------------------------------------------------------------
 */

static void take_second(struct mm_status *s)
{
    struct mm_second *second = &s->seconds[s->n_seconds % MM_STATUS_SECONDS];
    *second = (struct mm_second){.ns = s->now_ns,
                                 .received = s->shot.received,
                                 .delivered = s->shot.delivered,
                                 .used_bytes = s->shot.spool.used_bytes};
    for (uint32_t k = 0; k < mm_metrics_n_workers(s->metrics); k++) {
        struct mm_worker_view w;
        mm_metrics_view_worker(s->metrics, k, &w);
        second->worker_delivered[k] = w.delivered;
    }
    uint64_t *row = s->topic_delivered[s->n_seconds % (MM_STATUS_RATE_S + 1)];
    uint32_t n_topics = mm_metrics_n_topics(s->metrics);
    for (uint32_t i = 0; i < MM_LANES_MAX; i++) {
        row[i] = i < n_topics ? mm_metrics_topic_delivered(s->metrics, i) : 0;
    }
    s->n_seconds++;
}

static void take_step(struct mm_status *s)
{
    uint64_t ns = s->now_ns - s->step_ns;
    if (ns < MM_STATUS_STEP_S * SECOND_NS) {
        return;
    }
    s->steps[s->n_steps % MM_STATUS_STEPS] =
        (struct mm_step){.received_milli = rate(s->step_received, s->shot.received, ns),
                         .delivered_milli = rate(s->step_delivered, s->shot.delivered, ns),
                         .used_bytes = s->shot.spool.used_bytes};
    s->n_steps++;
    s->step_ns = s->now_ns;
    s->step_received = s->shot.received;
    s->step_delivered = s->shot.delivered;
}

static void read_figures(struct mm_status *s, uint64_t now_ns, uint64_t now_ms)
{
    s->now_ns = now_ns;
    s->now_ms = now_ms;
    mm_metrics_snapshot(s->metrics, s->spool, &s->shot);
    mm_metrics_view_counters(s->metrics, s->spool, s->n);
}

/* What was counted before the first look is no news. */
static void look_first(struct mm_status *s)
{
    s->refused = s->shot.refused;
    s->dropped = s->shot.dropped;
    s->dead_lettered = s->shot.dead_lettered;
    s->io_errors = s->shot.spool.n_io_errors;
    s->step_ns = s->now_ns;
    s->step_received = s->shot.received;
    s->step_delivered = s->shot.delivered;
    s->verdict_since_ms = s->now_ms;
}

void mm_status_sample(struct mm_status *s, uint64_t now_ns, uint64_t now_ms)
{
    if (s->n_seconds > 0 &&
        now_ns - second_before(s, 0)->ns < MM_STATUS_SAMPLE_MS * UINT64_C(1000000)) {
        return;
    }
    read_figures(s, now_ns, now_ms);
    if (s->n_seconds == 0) {
        look_first(s);
    }
    take_second(s);
    take_step(s);
    look_for_problems(s);
}

void mm_status_look(struct mm_status *s, uint64_t now_ns, uint64_t now_ms)
{
    mm_status_sample(s, now_ns, now_ms);
    read_figures(s, now_ns, now_ms);
    look_for_problems(s);
}

int mm_status_new(const struct mm_metrics *metrics,
                  const struct mm_spool *spool,
                  struct mm_status **out)
{
    *out = calloc(1, sizeof **out);
    if (*out == NULL) {
        return MM_ENOMEM;
    }
    (*out)->metrics = metrics;
    (*out)->spool = spool;
    (*out)->verdict = -1;
    return 0;
}

void mm_status_free(struct mm_status *s)
{
    free(s);
}
