/* mm_gate.h - a gate before the door of a Kafka that has refused us.
 *
 * Who tries a wrong password again and again may find the user locked. After a refusal the gate is
 * shut: of all producers of this process one may try, then none until a pause is over, which grows
 * from one try to the next. Whoever gets in opens it for all. It also knows which of them tells
 * people of it, since the others no longer see for themselves. Atomic throughout; no locks. */
#ifndef MM_GATE_H
#define MM_GATE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct mm_gate
{
    /* immutable after init */
    uint32_t first_ms;
    uint32_t max_ms;

    _Atomic uint32_t pause_ms; /* after the next try; 0: open */
    _Atomic uint64_t next_ns;  /* CLOCK_MONOTONIC; no try before it */
    _Atomic uint64_t told_ns;  /* when it was told last; 0: never */
    _Atomic int reason;        /* that was told and is not over; 0: none */
};

/* The first pause, and the longest. Thread: setup. */
void mm_gate_init(struct mm_gate *g, uint32_t first_ms, uint32_t max_ms);

/* Somebody was refused, for this reason (a number of the caller's, not 0). Shuts an open gate; a
 * shut one stays as it is. True: it is for the caller to tell people, because it is new, or was
 * told ten minutes ago. Thread: any. */
bool mm_gate_shut(struct mm_gate *g, uint64_t now_ns, int reason);

/* Somebody got in. Thread: any. */
void mm_gate_open(struct mm_gate *g);

/* It is over for good: the reason that was told, for the caller to tell that it is over; 0:
 * somebody has told it, or there was none. Thread: any. */
int mm_gate_mended(struct mm_gate *g);

/* May one try be made now? A yes at a shut gate counts as the try. Thread: any. */
bool mm_gate_pass(struct mm_gate *g, uint64_t now_ns);

/* The pause before the next try after that, for people; 0: the gate is open. Thread: any. */
uint32_t mm_gate_pause_ms(const struct mm_gate *g);

#endif
