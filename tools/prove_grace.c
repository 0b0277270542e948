#include "prove_grace.h"

#include "mm_clock.h"

#include <stdlib.h>

#define NS_PER_MS UINT64_C(1000000)
#define NOTES 512
#define LEAST_NS (10 * NS_PER_MS) /* from one note to the next */

struct prove_grace
{
    uint32_t n_clients;
    uint64_t period_ns;
    uint64_t n; /* notes that were made; note k is in place k % NOTES */
    uint64_t ns[NOTES];
    uint64_t acked[]; /* by place and client */
};

bool prove_grace_new(uint32_t n_clients, uint64_t longest_ms, struct prove_grace **out)
{
    *out = calloc(1, sizeof **out + (size_t)NOTES * n_clients * sizeof(*out)->acked[0]);
    if (*out == NULL) {
        return false;
    }
    uint64_t period_ns = longest_ms * NS_PER_MS * 2 / NOTES;
    (*out)->n_clients = n_clients;
    (*out)->period_ns = period_ns < LEAST_NS ? LEAST_NS : period_ns;
    return true;
}

void prove_grace_note(struct prove_grace *g, const struct prove_load *load)
{
    uint64_t now_ns = mm_clock_monotonic_ns();
    if (g->n > 0 && now_ns - g->ns[(g->n - 1) % NOTES] < g->period_ns) {
        return;
    }
    size_t place = g->n++ % NOTES;
    g->ns[place] = now_ns;
    for (uint32_t i = 0; i < g->n_clients; i++) {
        g->acked[place * g->n_clients + i] = prove_load_acked(load, i);
    }
}

bool prove_grace_excuse(const struct prove_grace *g,
                        const struct prove_load *load,
                        struct prove_check *check,
                        uint64_t ms)
{
    uint64_t now_ns = mm_clock_monotonic_ns();
    uint64_t oldest = g->n > NOTES ? g->n - NOTES : 0;
    uint64_t k = g->n;
    while (k > oldest && now_ns - g->ns[(k - 1) % NOTES] < ms * NS_PER_MS) {
        k--;
    }
    for (uint32_t i = 0; i < g->n_clients; i++) {
        /* Before the first note nothing was acknowledged; what was before the oldest is forgotten.
         */
        uint64_t from = k == oldest ? 0 : g->acked[((k - 1) % NOTES) * g->n_clients + i];
        if (!prove_check_excuse(check, i, from, prove_load_acked(load, i))) {
            return false;
        }
    }
    return true;
}

void prove_grace_free(struct prove_grace *g)
{
    free(g);
}
