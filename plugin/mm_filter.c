/* A trie with one node for each level of the filters. All its memory is taken when it is made: the
 * text, the nodes, and one hash table for all children that have a name, keyed by parent and name.
 *
 * A match goes down the trie, by name where it can and else by '+'. Where it can do neither it goes
 * back up, over the nodes' parents and the topic's own separators, to the nearest '+' that was not
 * tried. So it needs no memory, and enters no node twice: a topic leads to a node on one way only.
 */
#include "mm_filter.h"

#include "mm_error.h"
#include "mm_text.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* MQTT 5.0 section 4.7.3 */
#define FILTER_MAX_LEN 65535

struct node
{
    const struct node *parent; /* NULL: the root, which stands before the first level */
    struct node *plus;         /* the child of a '+'; NULL: none */
    const char *name;          /* in the set's text; not terminated */
    size_t name_len;
    uint64_t child_lens; /* bit n: a child's name has a length that is n modulo 64 */
    bool is_plus;
    uint32_t ends; /* the first list with a filter that ends with this level; NO_LIST: none */
    uint32_t rest; /* ... that goes on with '#': this level and all that is below it */
};

#define NO_LIST UINT32_MAX

/* Where a child is found by its parent and name. */
struct slot
{
    uint64_t hash;
    struct node *node; /* NULL: the slot is free */
};

struct mm_filter_set
{
    char *text; /* the lists, each with its NUL */
    size_t n_filters;
    struct node *nodes; /* the first one is the root */
    size_t n_nodes;
    struct slot *slots; /* open addressing, at most half full */
    size_t slot_mask;
};

/* A part of a text. */
struct span
{
    const char *start;
    size_t len;
};

/* The part up to the next of the separators. *rest is moved behind it; NULL: it was the last. */
static struct span next_part(const char **rest, const char *end, const char *separators)
{
    struct span part = {.start = *rest, .len = 0};
    while (part.start + part.len < end && strchr(separators, part.start[part.len]) == NULL) {
        part.len++;
    }
    *rest = part.start + part.len < end ? part.start + part.len + 1 : NULL;
    return part;
}

static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static struct span trim(struct span s)
{
    while (s.len > 0 && is_blank(s.start[0])) {
        s.start++;
        s.len--;
    }
    while (s.len > 0 && is_blank(s.start[s.len - 1])) {
        s.len--;
    }
    return s;
}

static bool is_word(struct span s, char c)
{
    return s.len == 1 && s.start[0] == c;
}

/* The rule of MQTT 5.0 section 4.7 that a filter breaks; NULL: none. */
static const char *broken_rule(struct span filter)
{
    static const char share[] = "$share/";
    if (filter.len == 0) {
        return "it is empty";
    }
    if (filter.len > FILTER_MAX_LEN) {
        return "it is longer than 65535 bytes";
    }
    if (!mm_utf8_valid(filter.start, filter.len)) {
        return "it is not valid UTF-8";
    }
    if (filter.len >= sizeof share - 1 && memcmp(filter.start, share, sizeof share - 1) == 0) {
        return "a shared subscription ($share/...) has no meaning for a plugin, which sees each "
               "message once anyway";
    }
    const char *end = filter.start + filter.len;
    for (const char *rest = filter.start; rest != NULL;) {
        struct span level = next_part(&rest, end, "/");
        if (memchr(level.start, '#', level.len) != NULL && (level.len > 1 || rest != NULL)) {
            return "'#' must stand alone in the last level";
        }
        if (memchr(level.start, '+', level.len) != NULL && level.len > 1) {
            return "'+' must stand alone in its level";
        }
    }
    return NULL;
}

static uint64_t load32(const char *bytes)
{
    uint32_t word;
    memcpy(&word, bytes, sizeof word);
    return word;
}

static uint64_t load64(const char *bytes)
{
    uint64_t word;
    memcpy(&word, bytes, sizeof word);
    return word;
}

/* The last 0 to 8 bytes of a name as one word; where they are few, some are in it twice. */
static uint64_t load_tail(struct span tail)
{
    if (tail.len >= sizeof(uint32_t)) {
        return load32(tail.start) << 32 | load32(tail.start + tail.len - sizeof(uint32_t));
    }
    if (tail.len == 0) {
        return 0;
    }
    const unsigned char *bytes = (const unsigned char *)tail.start;
    return (uint64_t)bytes[0] << 16 | (uint64_t)bytes[tail.len / 2] << 8 | bytes[tail.len - 1];
}

static uint64_t mix(uint64_t hash, uint64_t word)
{
    hash = (hash ^ word) * 0x9E3779B97F4A7C15; /* 2^64 / golden ratio */
    return hash ^ (hash >> 32);
}

/* A hash for a table that only the operator fills; a publisher can look up in it, not add to it. */
static uint64_t hash_name(const struct mm_filter_set *set,
                          const struct node *parent,
                          struct span name)
{
    uint64_t hash = (uint64_t)(parent - set->nodes) << 16 ^ name.len;
    for (; name.len > sizeof(uint64_t); name.len -= sizeof(uint64_t)) {
        hash = mix(hash, load64(name.start));
        name.start += sizeof(uint64_t);
    }
    return mix(mix(hash, load_tail(name)), 0);
}

static bool is_child(const struct node *node, const struct node *parent, struct span name)
{
    return node->parent == parent && node->name_len == name.len &&
           memcmp(node->name, name.start, name.len) == 0;
}

/* The slot of the child of that name, or the free slot where it would be. */
static struct slot *find_slot(const struct mm_filter_set *set,
                              const struct node *parent,
                              struct span name,
                              uint64_t hash)
{
    size_t i = (size_t)hash & set->slot_mask;
    while (set->slots[i].node != NULL &&
           (set->slots[i].hash != hash || !is_child(set->slots[i].node, parent, name))) {
        i = (i + 1) & set->slot_mask;
    }
    return &set->slots[i];
}

static uint64_t len_bit(size_t len)
{
    return (uint64_t)1 << (len % 64);
}

static const struct node *find_child(const struct mm_filter_set *set,
                                     const struct node *parent,
                                     struct span name)
{
    if ((parent->child_lens & len_bit(name.len)) == 0) {
        return NULL;
    }
    return find_slot(set, parent, name, hash_name(set, parent, name))->node;
}

static struct node *new_node(struct mm_filter_set *set, const struct node *parent, struct span name)
{
    struct node *node = &set->nodes[set->n_nodes++];
    node->parent = parent;
    node->name = name.start;
    node->name_len = name.len;
    node->ends = NO_LIST;
    node->rest = NO_LIST;
    return node;
}

/* The node for this level under parent, made if there is none. */
static struct node *add_level(struct mm_filter_set *set, struct node *parent, struct span name)
{
    if (is_word(name, '+')) {
        if (parent->plus == NULL) {
            parent->plus = new_node(set, parent, name);
            parent->plus->is_plus = true;
        }
        return parent->plus;
    }
    uint64_t hash = hash_name(set, parent, name);
    struct slot *slot = find_slot(set, parent, name, hash);
    if (slot->node == NULL) {
        slot->hash = hash;
        slot->node = new_node(set, parent, name);
        parent->child_lens |= len_bit(name.len);
    }
    return slot->node;
}

static void add_filter(struct mm_filter_set *set, struct span filter, uint32_t list)
{
    struct node *node = set->nodes;
    const char *end = filter.start + filter.len;
    for (const char *rest = filter.start; rest != NULL;) {
        struct span level = next_part(&rest, end, "/");
        if (is_word(level, '#')) {
            node->rest = list < node->rest ? list : node->rest;
            return;
        }
        node = add_level(set, node, level);
    }
    node->ends = list < node->ends ? list : node->ends;
}

/* An empty set with room for every level of the lists; NULL: no memory. */
static struct mm_filter_set *alloc_set(const char *const *lists, size_t n_lists)
{
    size_t n_nodes = 1; /* the root, and the last level of each list */
    size_t len = 1;
    for (size_t i = 0; i < n_lists; i++) {
        n_nodes++;
        for (const char *p = lists[i]; *p != '\0'; p++) {
            n_nodes += strchr("/,;", *p) != NULL;
        }
        len += strlen(lists[i]) + 1;
    }
    size_t n_slots = 4;
    while (n_slots < 2 * n_nodes) {
        n_slots *= 2;
    }
    struct mm_filter_set *set = calloc(1, sizeof *set);
    if (set == NULL) {
        return NULL;
    }
    set->text = malloc(len);
    set->nodes = calloc(n_nodes, sizeof *set->nodes);
    set->slots = calloc(n_slots, sizeof *set->slots);
    if (set->text == NULL || set->nodes == NULL || set->slots == NULL) {
        mm_filter_set_free(set);
        return NULL;
    }
    set->slot_mask = n_slots - 1;
    (void)new_node(set, NULL, (struct span){.start = NULL, .len = 0});
    return set;
}

/* Add the filters of a list, which lies in the set's text. */
static int add_list(struct mm_filter_set *set,
                    const char *text,
                    uint32_t list,
                    char *errstr,
                    size_t errstr_len)
{
    const char *end = text + strlen(text);
    size_t n = 0;
    for (const char *rest = text; rest != NULL;) {
        struct span filter = trim(next_part(&rest, end, ",;"));
        const char *rule = broken_rule(filter);
        n++;
        if (rule != NULL) {
            char shown[MM_PRINTABLE_LEN];
            snprintf(errstr, errstr_len, "filter %zu \"%s\": %s", n,
                     mm_printable(filter.start, filter.len, shown, sizeof shown), rule);
            return MM_EINVAL;
        }
        add_filter(set, filter, list);
    }
    set->n_filters += n;
    return 0;
}

int mm_filter_set_new_lists(const char *const *lists,
                            size_t n_lists,
                            struct mm_filter_set **out,
                            char *errstr,
                            size_t errstr_len)
{
    *out = NULL;
    struct mm_filter_set *set = alloc_set(lists, n_lists);
    if (set == NULL) {
        snprintf(errstr, errstr_len, "%s", mm_strerror(MM_ENOMEM));
        return MM_ENOMEM;
    }
    char *text = set->text;
    int err = 0;
    for (size_t i = 0; err == 0 && i < n_lists; i++) {
        size_t size = strlen(lists[i]) + 1;
        memcpy(text, lists[i], size);
        err = add_list(set, text, (uint32_t)i, errstr, errstr_len);
        text += size;
    }
    if (err != 0) {
        mm_filter_set_free(set);
        return err;
    }
    *out = set;
    return 0;
}

int mm_filter_set_new(const char *list, struct mm_filter_set **out, char *errstr, size_t errstr_len)
{
    return mm_filter_set_new_lists(&list, 1, out, errstr, errstr_len);
}

void mm_filter_set_free(struct mm_filter_set *set)
{
    if (set == NULL) {
        return;
    }
    free(set->slots);
    free(set->nodes);
    free(set->text);
    free(set);
}

size_t mm_filter_set_count(const struct mm_filter_set *set)
{
    return set->n_filters;
}

/* A place on the way down: the node that was entered, and the rest of the topic. */
struct place
{
    const struct node *node;
    size_t pos; /* where the next level begins; topic_len + 1: no level is left */
};

/* May a wildcard stand for the level behind this node? Section 4.7.2. */
static bool takes_wildcard(const struct node *node, const char *topic)
{
    return node->parent != NULL || topic[0] != '$';
}

/* One level down. False: no child fits, and *at stays. */
static bool go_down(const struct mm_filter_set *set,
                    struct place *at,
                    const char *topic,
                    size_t topic_len)
{
    struct span level = {.start = topic + at->pos, .len = topic_len - at->pos};
    const char *slash = memchr(level.start, '/', level.len);
    if (slash != NULL) {
        level.len = (size_t)(slash - level.start);
    }
    const struct node *child = find_child(set, at->node, level);
    if (child == NULL && takes_wildcard(at->node, topic)) {
        child = at->node->plus;
    }
    if (child == NULL) {
        return false;
    }
    at->node = child;
    at->pos += level.len + 1;
    return true;
}

/* Up to the nearest node that was entered by name and has a '+' beside it, and over to that. False:
 * there is none. */
static bool go_back(struct place *at, const char *topic)
{
    while (at->node->parent != NULL) {
        const struct node *parent = at->node->parent;
        if (!at->node->is_plus && parent->plus != NULL && takes_wildcard(parent, topic)) {
            at->node = parent->plus;
            return true;
        }
        at->node = parent;
        const char *slash = memrchr(topic, '/', at->pos - 1);
        at->pos = slash == NULL ? 0 : (size_t)(slash - topic) + 1;
    }
    return false;
}

/* The first list with a filter that ends at this place, or takes all from there. */
static uint32_t list_at(const struct place *at, const char *topic, size_t topic_len)
{
    uint32_t rest = takes_wildcard(at->node, topic) ? at->node->rest : NO_LIST;
    uint32_t ends = at->pos > topic_len ? at->node->ends : NO_LIST;
    return rest < ends ? rest : ends;
}

/* The first list that is good enough, or else the first of all. */
static uint32_t find_list(const struct mm_filter_set *set,
                          const char *topic,
                          size_t topic_len,
                          uint32_t good_enough)
{
    uint32_t first = NO_LIST;
    if (topic_len == 0) {
        return first;
    }
    struct place at = {.node = set->nodes, .pos = 0};
    for (;;) {
        uint32_t list = list_at(&at, topic, topic_len);
        first = list < first ? list : first;
        if (first <= good_enough) {
            return first;
        }
        bool at_end = at.pos > topic_len;
        if ((at_end || !go_down(set, &at, topic, topic_len)) && !go_back(&at, topic)) {
            return first;
        }
    }
}

bool mm_filter_set_match(const struct mm_filter_set *set, const char *topic, size_t topic_len)
{
    return find_list(set, topic, topic_len, NO_LIST - 1) != NO_LIST;
}

size_t mm_filter_set_first(const struct mm_filter_set *set, const char *topic, size_t topic_len)
{
    uint32_t list = find_list(set, topic, topic_len, 0);
    return list == NO_LIST ? SIZE_MAX : list;
}
