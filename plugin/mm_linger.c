#include "mm_linger.h"

#include <string.h>

#define MS UINT64_C(1000000)

/* So many messages are a crowd: more do not make a request that is much cheaper for each. */
#define CROWD UINT64_C(32)
#define ONE UINT64_C(256) /* of crowd */

/* Repeats of a push: after this time, twice as long, and so on. */
#define AGAIN_MIN_NS (5 * MS)
#define AGAIN_MAX_NS (80 * MS)

void mm_linger_init(struct mm_linger *l, uint32_t max_ms)
{
    memset(l, 0, sizeof *l);
    l->max_ns = max_ms * MS;
    l->again_ns = AGAIN_MIN_NS;
}

void mm_linger_handed(struct mm_linger *l, bool may_go)
{
    l->n_handed++;
    l->wanted = l->wanted || may_go;
}

void mm_linger_answered(struct mm_linger *l, bool waiting)
{
    l->wanted = l->wanted || waiting;
    l->again_ns = AGAIN_MIN_NS;
}

static uint64_t gap_ns(const struct mm_linger *l)
{
    return l->crowd >= CROWD * ONE ? l->max_ns : l->max_ns / (CROWD * ONE) * l->crowd;
}

uint64_t mm_linger_due_in(const struct mm_linger *l, uint64_t n_out, uint64_t now_ns)
{
    if (n_out == 0 || (!l->wanted && l->again_ns > AGAIN_MAX_NS)) {
        return UINT64_MAX;
    }
    uint64_t due_ns = l->pushed_ns + (l->wanted ? gap_ns(l) : l->again_ns);
    return due_ns > now_ns ? due_ns - now_ns : 0;
}

void mm_linger_pushed(struct mm_linger *l, uint64_t now_ns)
{
    uint64_t since_ns = now_ns - l->pushed_ns;
    uint64_t n = l->n_handed * ONE * l->max_ns / (since_ns == 0 ? 1 : since_ns);
    l->crowd = (l->crowd * 3 + n) / 4;
    l->again_ns = l->wanted ? AGAIN_MIN_NS : l->again_ns * 2;
    l->n_handed = 0;
    l->wanted = false;
    l->pushed_ns = now_ns;
}
