/* What a worker knows of the Kafka topics: which are blocked, which are parked, and what it lays
 * aside for these. */
#include "mm_worker_impl.h"

#include "mm_config.h"
#include "mm_error.h"
#include "mm_lanes.h"
#include "mm_message.h"
#include "mm_park.h"

/* What was parked is on the disk so long after at the latest. */
#define SYNC_NS (200 * UINT64_C(1000000))

/* --- lanes --------------------------------------------------------------------------------------
 */

uint32_t mm_worker_know_lane(struct mm_worker *w, uint32_t number)
{
    uint32_t i = number - w->first_lane;
    struct mm_worker_lane *lane = &w->lanes[i];
    if (lane->kafka_topic == NULL) {
        lane->kafka_topic = mm_lanes_name(w->opts.lanes, number);
        lane->parked = w->opts.role != MM_ROLE_LANE && mm_park_is_parked(w->opts.park, number);
        w->n_lanes = i < w->n_lanes ? w->n_lanes : i + 1;
    }
    return i;
}

uint32_t mm_worker_lane_of(struct mm_worker *w, const struct mm_record *rec)
{
    if (w->max_lanes == 1) {
        return mm_worker_know_lane(w, w->first_lane);
    }
    struct mm_message_way way;
    mm_message_route(w->opts.config, w->opts.lanes, rec, &way);
    return way.error == NULL ? mm_worker_know_lane(w, way.lane) : w->max_lanes;
}

bool mm_worker_parks_lanes(const struct mm_worker *w)
{
    return w->opts.role != MM_ROLE_LANE && w->max_lanes > 1;
}

const char *mm_worker_kafka_topic_of(const struct mm_worker *w, const struct mm_entry *e)
{
    return w->lanes[e->lane].kafka_topic;
}

uint32_t mm_worker_longer_pause(uint32_t seconds)
{
    return seconds == 0                            ? 1
           : seconds * 2 > MM_WORKER_RESTART_MAX_S ? MM_WORKER_RESTART_MAX_S
                                                   : seconds * 2;
}

uint64_t mm_worker_longer_retry(uint64_t last_ms, uint64_t interval_ms)
{
    uint64_t max_ms = interval_ms > MM_WORKER_RETRY_MAX_MS ? interval_ms : MM_WORKER_RETRY_MAX_MS;
    uint64_t ms = last_ms == 0 ? interval_ms : last_ms * 3 / 2;
    return ms > max_ms ? max_ms : ms;
}

void mm_worker_block(struct mm_worker *w, uint32_t lane, uint64_t ns)
{
    w->n_blocked += !w->lanes[lane].blocked;
    w->lanes[lane].blocked = true;
    w->lanes[lane].until_ns = w->now_ns + ns;
}

void mm_worker_unblock(struct mm_worker *w, uint32_t lane)
{
    if (w->lanes[lane].blocked) {
        w->lanes[lane].blocked = false;
        w->n_blocked--;
        mm_window_unskip(&w->win);
    }
}

bool mm_worker_all_blocked(const struct mm_worker *w)
{
    return w->n_blocked == w->max_lanes;
}

void mm_worker_unblock_all(struct mm_worker *w)
{
    for (uint32_t i = 0; w->n_blocked > 0; i++) {
        mm_worker_unblock(w, i);
    }
}

void mm_worker_unblock_due(struct mm_worker *w)
{
    for (uint32_t i = 0; w->n_blocked > 0 && i < w->n_lanes; i++) {
        if (w->now_ns >= w->lanes[i].until_ns) {
            mm_worker_unblock(w, i);
        }
    }
}

/* --- parking a lane -----------------------------------------------------------------------------
 */

void mm_worker_note_full_log(struct mm_worker *w, const struct mm_worker_lane *lane, int err)
{
    uint64_t n_held = 0;
    if (mm_log_allowed(&w->full_limit, w->now_ns, MM_WORKER_LINE_INTERVAL_NS, &n_held)) {
        mm_log_write(w->opts.log, MM_LOG_ERROR,
                     "%s: the messages for Kafka topic %s, which is parked, cannot be laid aside "
                     "(%s); they wait in the spool, and soon all others behind them",
                     w->name, lane->kafka_topic, mm_strerror(err));
    }
}

int mm_worker_lay_aside(struct mm_worker *w,
                        struct mm_entry *e,
                        const struct mm_record *rec,
                        const char *reason)
{
    struct mm_worker_lane *lane = &w->lanes[e->lane];
    char id[MM_WORKER_ID_LEN];
    (void)mm_worker_make_id(w, rec, id);
    if (lane->n_copied == 0) {
        lane->epoch = mm_park_epoch(w->opts.park, e->lane);
    }
    int err = mm_park_add(w->opts.park, e->lane, rec, id, reason);
    if (err != 0) {
        return err;
    }
    if (mm_spool_take_repeat(w->opts.spool)) {
        /* An earlier process had counted it, and laid it aside most likely: it is there twice. */
        mm_park_note_doubles(w->opts.park, e->lane, 1);
    }
    if (w->win.n_copied == 0) {
        bool at_once =
            w->opts.config->spool_dir == NULL || w->opts.config->spool_sync == MM_SPOOL_SYNC_NEVER;
        w->sync_at_ns = w->now_ns + (at_once ? 0 : SYNC_NS);
    }
    mm_counter_add(&w->m->parked, 1);
    mm_window_copy(&w->win, e);
    e->flags &= (uint8_t)~MM_ENTRY_MAYBE;
    lane->n_copied++;
    w->busy_ns = w->now_ns;
    return 0;
}

/* The log of a lane could not be synced: what was copied since is copied again, later. */
static void copy_again(struct mm_worker *w, uint32_t lane)
{
    struct mm_worker_lane *l = &w->lanes[lane];
    mm_park_note_doubles(w->opts.park, lane, l->n_copied);
    for (uint64_t i = w->win.low; i < w->win.tail && l->n_copied > 0; i++) {
        struct mm_entry *e = mm_window_at(&w->win, i);
        if (e->state == MM_ENTRY_COPIED && e->lane == lane) {
            mm_window_uncopy(&w->win, e);
            l->n_copied--;
        }
    }
    l->resync_s = mm_worker_longer_pause(l->resync_s);
    mm_worker_block(w, lane, l->resync_s * MM_WORKER_SECOND_NS);
    mm_worker_note_full_log(w, l, MM_EIO);
}

static void finish_copied(struct mm_worker *w, uint32_t lane)
{
    struct mm_worker_lane *l = &w->lanes[lane];
    for (uint64_t i = w->win.low; i < w->win.tail && l->n_copied > 0; i++) {
        struct mm_entry *e = mm_window_at(&w->win, i);
        if (e->state == MM_ENTRY_COPIED && e->lane == lane) {
            mm_window_finish(&w->win, e);
            l->n_copied--;
        }
    }
    l->resync_s = 0;
}

void mm_worker_sync_copied(struct mm_worker *w, bool now)
{
    if (w->win.n_copied == 0 || (!now && w->now_ns < w->sync_at_ns)) {
        return;
    }
    for (uint32_t i = 0; i < w->n_lanes; i++) {
        if (w->lanes[i].n_copied == 0) {
            continue;
        }
        if (mm_park_sync(w->opts.park, i, w->lanes[i].epoch) == 0) {
            finish_copied(w, i);
        } else {
            copy_again(w, i);
        }
    }
}

/* Park a lane that was refused, with the first of its records. Nothing is in flight. Errors: as
 * mm_park_add(), and MM_EIO. */
static int park_lane(struct mm_worker *w, uint32_t lane)
{
    for (uint64_t i = w->win.low; i < w->win.tail; i++) {
        struct mm_entry *e = mm_window_at(&w->win, i);
        if (e->lane != lane || (e->state != MM_ENTRY_WAITING && e->state != MM_ENTRY_SUSPECT)) {
            continue;
        }
        struct mm_record rec;
        struct mm_spool_pos pos = mm_entry_pos(e);
        int err = mm_spool_read(w->reader, &pos, &rec);
        if (err == MM_ECORRUPT) {
            continue; /* it is found out again when it is to be sent */
        }
        return err != 0 ? err : mm_worker_lay_aside(w, e, &rec, w->lanes[lane].refused);
    }
    return 0; /* there is none any more */
}

bool mm_worker_park_refused(struct mm_worker *w, bool last_try)
{
    for (uint32_t i = 0; i < w->n_lanes; i++) {
        struct mm_worker_lane *lane = &w->lanes[i];
        if (lane->refused == NULL) {
            continue;
        }
        int err = park_lane(w, i);
        if (err == MM_EBUSY && !last_try) {
            return false;
        }
        if (err == 0) {
            lane->parked = mm_park_is_parked(w->opts.park, i);
            w->lane_parked = true;
        } else {
            mm_worker_note_full_log(w, lane, err);
            w->park = true;
        }
        lane->refused = NULL;
    }
    return true;
}

bool mm_worker_release(struct mm_worker *w)
{
    struct mm_park *park = w->opts.park;
    if (w->released) {
        return true;
    }
    if (w->opts.role == MM_ROLE_MAIN && mm_park_comes_first(park)) {
        return false;
    }
    /* Of those that were seen before, to be dropped. */
    for (uint32_t i = 0; w->opts.role != MM_ROLE_LANE && i < w->n_lanes; i++) {
        w->lanes[i].parked = mm_park_is_parked(park, i);
    }
    w->released = true;
    return true;
}
