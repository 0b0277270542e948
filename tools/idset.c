#include "idset.h"

#include "mm_record.h"

#include <stdlib.h>
#include <string.h>

/* Where the id is, or would be. There are places. */
static size_t find_place(const struct idset *set, const char *id, size_t len)
{
    size_t i = mm_topic_hash(id, len) & (set->n_places - 1);
    while (set->places[i] != NULL &&
           (strlen(set->places[i]) != len || memcmp(set->places[i], id, len) != 0)) {
        i = (i + 1) & (set->n_places - 1);
    }
    return i;
}

static bool grow(struct idset *set)
{
    struct idset larger = {.n_places = set->n_places == 0 ? 1024 : 2 * set->n_places};
    larger.places = calloc(larger.n_places, sizeof *larger.places);
    if (larger.places == NULL) {
        return false;
    }
    for (size_t i = 0; i < set->n_places; i++) {
        if (set->places[i] != NULL) {
            size_t place = find_place(&larger, set->places[i], strlen(set->places[i]));
            larger.places[place] = set->places[i];
        }
    }
    free(set->places);
    set->places = larger.places;
    set->n_places = larger.n_places;
    return true;
}

bool idset_add(struct idset *set, const char *id, size_t len)
{
    if (2 * (set->n_ids + 1) > set->n_places && !grow(set)) {
        return false;
    }
    size_t place = find_place(set, id, len);
    if (set->places[place] == NULL) {
        set->places[place] = strndup(id, len);
        if (set->places[place] == NULL) {
            return false;
        }
        set->n_ids++;
    }
    return true;
}

bool idset_has(const struct idset *set, const char *id, size_t len)
{
    return set->n_places > 0 && set->places[find_place(set, id, len)] != NULL;
}

void idset_fini(struct idset *set)
{
    for (size_t i = 0; i < set->n_places; i++) {
        free(set->places[i]);
    }
    free(set->places);
    *set = (struct idset){0};
}

bool idset_is_id(const char *id, size_t len)
{
    bool good = len > 0 && len <= IDSET_ID_MAX;
    for (size_t i = 0; good && i < len; i++) {
        good = (id[i] >= '0' && id[i] <= '9') || (id[i] >= 'a' && id[i] <= 'f') || id[i] == '-';
    }
    return good;
}
