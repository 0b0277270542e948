#include "mm_gate.h"

#include <stddef.h>

#define NS_PER_MS UINT64_C(1000000)

/* How soon a line may come again: while the same lasts, and after something else. */
#define AGAIN_NS (30000 * NS_PER_MS)
#define AGAIN_UNMENDED_NS (600000 * NS_PER_MS)

void mm_gate_init(struct mm_gate *g, uint32_t first_ms, uint32_t max_ms)
{
    g->first_ms = first_ms;
    g->max_ms = max_ms < first_ms ? first_ms : max_ms;
    atomic_init(&g->pause_ms, 0);
    atomic_init(&g->next_ns, 0);
    atomic_init(&g->told_ns, 0);
    atomic_init(&g->reason, 0);
}

/* Of those who ask at the same time one is told yes. */
static bool may_tell(struct mm_gate *g, uint64_t now_ns, int reason)
{
    uint64_t told_ns = atomic_load_explicit(&g->told_ns, memory_order_acquire);
    const bool lasts = atomic_load_explicit(&g->reason, memory_order_acquire) == reason;
    const uint64_t pause_ns = lasts ? AGAIN_UNMENDED_NS : AGAIN_NS;
    if ((told_ns != 0 && now_ns - told_ns < pause_ns) ||
        !atomic_compare_exchange_strong_explicit(&g->told_ns, &told_ns, now_ns,
                                                 memory_order_acq_rel, memory_order_acquire)) {
        return false;
    }
    atomic_store_explicit(&g->reason, reason, memory_order_release);
    return true;
}

bool mm_gate_shut(struct mm_gate *g, uint64_t now_ns, int reason)
{
    uint32_t open = 0;
    /* The time first: whoever sees the gate shut must not see an old time. */
    if (atomic_load_explicit(&g->pause_ms, memory_order_acquire) == 0) {
        atomic_store_explicit(&g->next_ns, now_ns + g->first_ms * NS_PER_MS, memory_order_release);
        atomic_compare_exchange_strong_explicit(&g->pause_ms, &open, g->first_ms,
                                                memory_order_acq_rel, memory_order_acquire);
    }
    return may_tell(g, now_ns, reason);
}

int mm_gate_mended(struct mm_gate *g)
{
    return atomic_exchange_explicit(&g->reason, 0, memory_order_acq_rel);
}

void mm_gate_open(struct mm_gate *g)
{
    atomic_store_explicit(&g->pause_ms, 0, memory_order_release);
}

bool mm_gate_pass(struct mm_gate *g, uint64_t now_ns)
{
    uint32_t pause_ms = atomic_load_explicit(&g->pause_ms, memory_order_acquire);
    if (pause_ms == 0) {
        return true;
    }
    uint64_t next_ns = atomic_load_explicit(&g->next_ns, memory_order_acquire);
    uint32_t longer_ms = pause_ms > g->max_ms / 2 ? g->max_ms : pause_ms * 2;
    /* Of those who come at the same time one wins. */
    if (now_ns < next_ns || !atomic_compare_exchange_strong_explicit(
                                &g->next_ns, &next_ns, now_ns + longer_ms * NS_PER_MS,
                                memory_order_acq_rel, memory_order_acquire)) {
        return false;
    }
    /* Unless it was opened meanwhile. */
    atomic_compare_exchange_strong_explicit(&g->pause_ms, &pause_ms, longer_ms,
                                            memory_order_acq_rel, memory_order_acquire);
    return true;
}

uint32_t mm_gate_pause_ms(const struct mm_gate *g)
{
    return atomic_load_explicit(&g->pause_ms, memory_order_relaxed);
}
