#include "content.h"

#include <stdio.h>
#include <string.h>

#define BLOCK_LEN ((size_t)1024 * 1024)
#define EPOCH_MS UINT64_C(1700000000000)
#define NUMBER_MAX (UINT64_C(1) << 40)
#define PROPS_LEN (MM_PROP_HEADER_LEN + 8)

static uint8_t block[BLOCK_LEN];
static uint8_t props[PROPS_LEN];

/* SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014). */
uint64_t content_mix(uint64_t x)
{
    x += UINT64_C(0x9E3779B97F4A7C15);
    x = (x ^ x >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    x = (x ^ x >> 27) * UINT64_C(0x94D049BB133111EB);
    return x ^ x >> 31;
}

uint64_t content_random(struct content_rng *rng)
{
    return content_mix(rng->state++);
}

uint64_t content_below(struct content_rng *rng, uint64_t n)
{
    return content_random(rng) % n;
}

void content_init(void)
{
    for (size_t i = 0; i < BLOCK_LEN; i += 8) {
        uint64_t word = content_mix(i);
        memcpy(block + i, &word, 8);
    }
    mm_prop_put_u64(props, MM_TAG_DIED_MS, 42);
}

static uint32_t payload_len(const struct content_rule *rule, uint64_t n, uint64_t h)
{
    if (rule->large_every != 0 && h % rule->large_every == 0) {
        return rule->large_from + (uint32_t)((h >> 32) % (rule->large_from + 1));
    }
    uint32_t below = n % 16 == 0 ? rule->max_payload : rule->max_payload / 16;
    return (uint32_t)((h >> 32) % (below + 1));
}

/* Of many lengths, so that the payload begins anywhere. Every 13th topic is a long one. */
static uint16_t make_topic(uint64_t k, char topic[CONTENT_TOPIC_MAX])
{
    int len = snprintf(topic, CONTENT_TOPIC_MAX, "site/%u", (unsigned)k);
    if (k % 13 == 12) {
        memset(topic + len, 'x', 200);
        len += 200;
    }
    return (uint16_t)len;
}

void content_make(const struct content_rule *rule,
                  uint64_t n,
                  char topic[CONTENT_TOPIC_MAX],
                  struct mm_record *out)
{
    uint64_t h = content_mix(rule->seed ^ content_mix(n));
    uint32_t len = payload_len(rule, n, h);
    memset(out, 0, sizeof *out);
    out->time_ms = EPOCH_MS + n;
    out->flags = (uint8_t)(n % 3 | (n % 7 == 0 ? MM_RECORD_RETAIN : 0));
    out->type = MM_RECORD_MESSAGE;
    out->topic = topic;
    out->topic_len = make_topic((h >> 8) % rule->n_topics, topic);
    out->payload = block + h % (BLOCK_LEN - len);
    out->payload_len = len;
    if (n % 5 == 0) {
        out->props = props;
        out->props_len = PROPS_LEN;
    }
}

uint64_t content_number(const struct mm_record *r)
{
    uint64_t n = r->time_ms - EPOCH_MS;
    return r->time_ms > EPOCH_MS && n < NUMBER_MAX ? n : 0;
}

static bool same(const void *a, const void *b, size_t len)
{
    return len == 0 || memcmp(a, b, len) == 0;
}

bool content_is_right(const struct content_rule *rule, const struct mm_record *r)
{
    uint64_t n = content_number(r);
    if (n == 0) {
        return false;
    }
    char topic[CONTENT_TOPIC_MAX];
    struct mm_record want;
    content_make(rule, n, topic, &want);
    return r->flags == want.flags && r->type == want.type && r->topic_len == want.topic_len &&
           r->payload_len == want.payload_len && r->props_len == want.props_len &&
           r->topic_hash == mm_topic_hash(want.topic, want.topic_len) &&
           same(r->topic, want.topic, want.topic_len) &&
           same(r->payload, want.payload, want.payload_len) &&
           same(r->props, want.props, want.props_len);
}
