#include "consumer.h"

#include "mm_error.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define SCAN_MAX 1000

void consumer_counters(void *arg, uint64_t counters[MM_LAYOUT_COUNTERS])
{
    struct consumer_ledger *ledger = arg;
    if (atomic_load(&ledger->restored)) {
        counters[0] = atomic_load(&ledger->delivered);
    }
}

void consumer_init(struct consumer *c,
                   struct mm_spool *s,
                   uint32_t k,
                   struct notes *notes,
                   struct consumer_ledger *ledger,
                   uint32_t window,
                   uint64_t seed)
{
    memset(c, 0, sizeof *c);
    c->spool = s;
    c->reader = mm_spool_reader(s, k);
    c->notes = notes;
    c->ledger = ledger;
    c->window = window < CONSUMER_WINDOW_MAX ? window : CONSUMER_WINDOW_MAX;
    c->rng.state = content_mix(seed + k);
}

static int wrong(struct consumer *c, const struct mm_record *r, uint64_t expected)
{
    uint64_t n = content_number(r);
    snprintf(c->why, sizeof c->why,
             "a reader got number %" PRIu64 ", seq %" PRIu64 "; expected %" PRIu64
             ", last was %" PRIu64 "; noted seq %" PRIu64,
             n, r->seq, expected, c->last,
             n < c->notes->capacity ? notes_seq(c->notes, n) : UINT64_MAX);
    return CONSUMER_WRONG;
}

static bool is_right(const struct consumer *c, const struct mm_record *r)
{
    uint64_t n = content_number(r);
    return content_is_right(&c->notes->rule, r) && n <= atomic_load(&c->notes->attempted) &&
           (notes_seq(c->notes, n) == 0 || notes_seq(c->notes, n) == r->seq);
}

static uint64_t number_at(const struct consumer *c, uint64_t i)
{
    return c->ring[i % CONSUMER_WINDOW_MAX].number;
}

static void finish_at(struct consumer *c, uint64_t i)
{
    notes_add(c->notes, number_at(c, i), NOTE_DELIVERED);
    c->ring[i % CONSUMER_WINDOW_MAX].done = true;
    c->n_done++;
    if (!mm_spool_take_repeat(c->spool)) {
        atomic_fetch_add(&c->ledger->delivered, 1);
    }
    atomic_fetch_add(&c->notes->n_finished, 1);
}

static void tell(struct consumer *c)
{
    while (c->head < c->tail && c->ring[c->head % CONSUMER_WINDOW_MAX].done) {
        c->head++;
        c->n_done--;
    }
    if (c->head == c->tail) {
        mm_spool_finish(c->reader, NULL, c->n_taken, 0);
        atomic_store(&c->low, c->last + 1);
    } else {
        mm_spool_finish(c->reader, &c->ring[c->head % CONSUMER_WINDOW_MAX].pos,
                        c->n_taken - (c->tail - c->head), c->n_done);
        atomic_store(&c->low, c->ring[c->head % CONSUMER_WINDOW_MAX].number);
    }
}

static int take_one(struct consumer *c)
{
    struct mm_record r;
    struct mm_spool_pos pos;
    int err = mm_spool_next(c->reader, SCAN_MAX, &r, &pos);
    if (err != 0) {
        return err;
    }
    uint64_t number = content_number(&r);
    if (!is_right(c, &r) || number <= c->last) {
        return wrong(c, &r, 0);
    }
    atomic_fetch_or(&c->notes->seq_and_flags[number], r.seq << 8);
    c->ring[c->tail % CONSUMER_WINDOW_MAX].pos = pos;
    c->ring[c->tail % CONSUMER_WINDOW_MAX].number = number;
    c->ring[c->tail % CONSUMER_WINDOW_MAX].done = false;
    c->tail++;
    c->n_taken++;
    c->last = number;
    if (mm_spool_unwanted(c->reader, &pos)) {
        finish_at(c, c->tail - 1);
        tell(c);
    }
    return 0;
}

int consumer_take(struct consumer *c, uint32_t n)
{
    int taken = 0;
    while ((uint32_t)taken < n && c->tail - c->head < c->window) {
        int err = take_one(c);
        if (err == MM_EAGAIN) {
            break;
        }
        if (err != 0) {
            return err;
        }
        taken++;
    }
    return taken;
}

int consumer_retry(struct consumer *c)
{
    struct mm_spool_pos cursor;
    mm_spool_cursor(c->reader, &cursor);
    mm_spool_seek(c->reader,
                  c->head < c->tail ? &c->ring[c->head % CONSUMER_WINDOW_MAX].pos : NULL);
    for (uint64_t i = c->head; i < c->tail;) {
        struct mm_record r;
        struct mm_spool_pos pos;
        int err = mm_spool_next(c->reader, SCAN_MAX, &r, &pos);
        if (err == MM_EAGAIN && mm_spool_pending(c->reader)) {
            continue;
        }
        if (err != 0) {
            mm_spool_seek(c->reader, &cursor);
            return err;
        }
        if (!is_right(c, &r) || content_number(&r) != number_at(c, i) || pos.seq != r.seq) {
            return wrong(c, &r, number_at(c, i));
        }
        c->ring[i % CONSUMER_WINDOW_MAX].pos = pos;
        i++;
    }
    return 0;
}

int consumer_look_back(struct consumer *c)
{
    if (c->head == c->tail) {
        return 0;
    }
    uint64_t i = c->head + content_below(&c->rng, c->tail - c->head);
    struct mm_record r;
    int err = mm_spool_read(c->reader, &c->ring[i % CONSUMER_WINDOW_MAX].pos, &r);
    if (err != 0) {
        return err;
    }
    return is_right(c, &r) && content_number(&r) == number_at(c, i) ? 0
                                                                    : wrong(c, &r, number_at(c, i));
}

void consumer_finish(struct consumer *c, uint32_t n)
{
    for (; n > 0 && c->n_done < c->tail - c->head; n--) {
        uint64_t i = c->head + content_below(&c->rng, c->tail - c->head);
        while (c->ring[i % CONSUMER_WINDOW_MAX].done) {
            i = i + 1 < c->tail ? i + 1 : c->head;
        }
        finish_at(c, i);
        tell(c);
    }
    tell(c); /* records may have been passed: of other shards, or unwanted */
}

int consumer_drain(struct consumer *c)
{
    for (;;) {
        int taken = consumer_take(c, c->window);
        if (taken < 0) {
            return taken;
        }
        consumer_finish(c, c->window);
        if (taken == 0 && !mm_spool_pending(c->reader)) {
            return 0;
        }
    }
}
