/* Names are found by a hash table whose slots hold numbers of lanes. A lane is written whole before
 * its number is put into a slot and the count goes up, each with release order; who looks up loads
 * with acquire order. Slots are never emptied but by mm_lanes_reset(), when nobody looks up.
 *
 * The key is the name with '_' for '.', as Kafka's own metrics have it: so a name that collides
 * with another is found in the place of that one, in one step. */
#include "mm_lanes.h"

#include "mm_config.h"
#include "mm_error.h"
#include "mm_route.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define N_SLOTS (UINT32_C(4) * MM_LANES_MAX) /* a power of two */

/* The name is here, and not behind a pointer: a message that makes a new Kafka topic needs no
 * memory that there may not be. Pages are taken as lanes are. */
struct lane
{
    uint64_t hash;
    size_t name_len;
    char name[MM_LANES_NAME_LEN]; /* NUL-terminated */
};

struct mm_lanes
{
    _Atomic uint32_t n;
    _Atomic uint16_t slots[N_SLOTS]; /* 1 + a lane; 0: free */
    struct lane lanes[MM_LANES_MAX];
    _Atomic uint64_t n_delivered[MM_LANES_MAX];

    _Atomic uint32_t max;
    pthread_mutex_t lock; /* for adding, and for the names of those who do not end before a reset */
};

int mm_lanes_new(struct mm_lanes **out)
{
    struct mm_lanes *lanes = calloc(1, sizeof *lanes);
    *out = lanes;
    if (lanes == NULL) {
        return MM_ENOMEM;
    }
    pthread_mutex_init(&lanes->lock, NULL);
    atomic_init(&lanes->max, MM_LANES_MAX);
    return 0;
}

/* The caller has the lock. */
static void clear(struct mm_lanes *lanes)
{
    uint32_t n = atomic_load_explicit(&lanes->n, memory_order_relaxed);
    for (uint32_t i = 0; i < n; i++) {
        lanes->lanes[i] = (struct lane){.name_len = 0};
        atomic_store_explicit(&lanes->n_delivered[i], 0, memory_order_relaxed);
    }
    for (uint32_t i = 0; i < N_SLOTS; i++) {
        atomic_store_explicit(&lanes->slots[i], 0, memory_order_relaxed);
    }
    atomic_store_explicit(&lanes->n, 0, memory_order_release);
}

void mm_lanes_free(struct mm_lanes *lanes)
{
    if (lanes == NULL) {
        return;
    }
    pthread_mutex_destroy(&lanes->lock);
    free(lanes);
}

/* --- looking up ---------------------------------------------------------------------------------
 */

static char as_key(char c)
{
    return (char)(c == '.' ? '_' : c);
}

/* FNV-1a, over the key. Whoever chooses names that meet in the table gains little: it is never more
 * than a quarter full. */
static uint64_t hash_name(const char *name, size_t len)
{
    uint64_t hash = UINT64_C(0xCBF29CE484222325);
    for (size_t i = 0; i < len; i++) {
        hash = (hash ^ (unsigned char)as_key(name[i])) * UINT64_C(0x100000001B3);
    }
    return hash ^ hash >> 32;
}

static bool same_key(const struct lane *lane, const char *name, size_t len)
{
    if (lane->name_len != len) {
        return false;
    }
    for (size_t i = 0; i < len; i++) {
        if (as_key(lane->name[i]) != as_key(name[i])) {
            return false;
        }
    }
    return true;
}

/* The slot of the name, or of one that collides with it, or the free one where it would be. *found:
 * what is in it. */
static uint32_t find_slot(const struct mm_lanes *lanes,
                          const char *name,
                          size_t len,
                          uint64_t hash,
                          const struct lane **found)
{
    for (uint32_t i = (uint32_t)hash % N_SLOTS;; i = (i + 1) % N_SLOTS) {
        /* Pairs with the store in add(): the lane is whole. */
        uint32_t number = atomic_load_explicit(&lanes->slots[i], memory_order_acquire);
        *found = number == 0 ? NULL : &lanes->lanes[number - 1];
        if (number == 0 || ((*found)->hash == hash && same_key(*found, name, len))) {
            return i;
        }
    }
}

static int judge(const struct mm_lanes *lanes,
                 const struct lane *found,
                 const char *name,
                 size_t len,
                 uint32_t *lane)
{
    *lane = (uint32_t)(found - lanes->lanes);
    return memcmp(found->name, name, len) == 0 ? 0 : MM_EINVAL;
}

/* --- adding -------------------------------------------------------------------------------------
 */

static bool is_full(const struct mm_lanes *lanes)
{
    return mm_lanes_n(lanes) >= atomic_load_explicit(&lanes->max, memory_order_relaxed);
}

/* The caller has the lock. */
static int add(struct mm_lanes *lanes,
               const char *name,
               size_t len,
               uint64_t hash,
               uint32_t slot,
               uint32_t *lane)
{
    uint32_t n = atomic_load_explicit(&lanes->n, memory_order_relaxed);
    if (len >= MM_LANES_NAME_LEN) {
        return MM_EINVAL;
    }
    if (is_full(lanes)) {
        return MM_EFULL;
    }
    struct lane *added = &lanes->lanes[n];
    added->hash = hash;
    added->name_len = len;
    memcpy(added->name, name, len);
    added->name[len] = '\0';
    atomic_store_explicit(&lanes->n, n + 1, memory_order_release);
    atomic_store_explicit(&lanes->slots[slot], (uint16_t)(n + 1), memory_order_release);
    *lane = n;
    return 0;
}

int mm_lanes_get(struct mm_lanes *lanes, const char *name, size_t name_len, uint32_t *lane)
{
    uint64_t hash = hash_name(name, name_len);
    const struct lane *found;
    (void)find_slot(lanes, name, name_len, hash, &found);
    if (found != NULL) {
        return judge(lanes, found, name, name_len, lane);
    }
    if (is_full(lanes)) {
        return MM_EFULL; /* for ever, and without the lock */
    }
    pthread_mutex_lock(&lanes->lock);
    /* Again: somebody may have added it just now. */
    uint32_t slot = find_slot(lanes, name, name_len, hash, &found);
    int err = found != NULL ? judge(lanes, found, name, name_len, lane)
                            : add(lanes, name, name_len, hash, slot, lane);
    pthread_mutex_unlock(&lanes->lock);
    return err;
}

int mm_lanes_reset(struct mm_lanes *lanes, const struct mm_config *config)
{
    pthread_mutex_lock(&lanes->lock);
    clear(lanes);
    atomic_store_explicit(&lanes->max, config->kafka_topics_max, memory_order_relaxed);
    pthread_mutex_unlock(&lanes->lock);
    int err = 0;
    for (uint32_t i = 0; err == 0 && i < mm_route_n_lanes(config); i++) {
        const char *name = mm_route_kafka_topic(config, i);
        uint32_t lane;
        err = mm_lanes_get(lanes, name, strlen(name), &lane);
    }
    return err;
}

/* --- names --------------------------------------------------------------------------------------
 */

uint32_t mm_lanes_n(const struct mm_lanes *lanes)
{
    return atomic_load_explicit(&lanes->n, memory_order_acquire);
}

const char *mm_lanes_name(const struct mm_lanes *lanes, uint32_t lane)
{
    return lanes->lanes[lane].name;
}

void mm_lanes_copy_name(struct mm_lanes *lanes, uint32_t lane, char dst[MM_LANES_NAME_LEN])
{
    dst[0] = '\0';
    pthread_mutex_lock(&lanes->lock);
    if (lane < mm_lanes_n(lanes)) {
        memcpy(dst, lanes->lanes[lane].name, lanes->lanes[lane].name_len + 1);
    }
    pthread_mutex_unlock(&lanes->lock);
}

/* --- figures ------------------------------------------------------------------------------------
 */

void mm_lanes_count_delivered(struct mm_lanes *lanes, uint32_t lane)
{
    atomic_fetch_add_explicit(&lanes->n_delivered[lane], 1, memory_order_relaxed);
}

uint64_t mm_lanes_n_delivered(const struct mm_lanes *lanes, uint32_t lane)
{
    return atomic_load_explicit(&lanes->n_delivered[lane], memory_order_relaxed);
}
