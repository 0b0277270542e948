/* The trie against the words of MQTT 5.0 section 4.7, and against a matcher that is too simple to
 * be wrong. The module is included, so that its allocations can be made to fail. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "faulty_alloc.h"
#include "random.h"

#define calloc faulty_calloc
#define malloc faulty_malloc
/* NOLINTNEXTLINE(bugprone-suspicious-include) */
#include "../../plugin/mm_filter.c"
#undef calloc
#undef malloc

#include "mm_error.h"

static struct mm_filter_set *make_set(const char *list)
{
    struct mm_filter_set *set = NULL;
    char errstr[256] = "";
    if (mm_filter_set_new(list, &set, errstr, sizeof errstr) != 0) {
        fail_msg("\"%.80s\" was refused: %s", list, errstr);
    }
    return set;
}

/* Match a copy that ends where the topic ends, so that a sanitizer sees a read behind it. */
static bool match_len(const struct mm_filter_set *set, const char *topic, size_t len)
{
    char *copy = malloc(len > 0 ? len : 1);
    assert_non_null(copy);
    memcpy(copy, topic, len);
    bool matches = mm_filter_set_match(set, copy, len);
    free(copy);
    return matches;
}

static bool match(const struct mm_filter_set *set, const char *topic)
{
    return match_len(set, topic, strlen(topic));
}

static const struct
{
    const char *list;
    const char *topic;
    bool matches;
} conformance[] = {
    /* 4.7.1.2, the multi-level wildcard */
    {"sport/tennis/player1/#", "sport/tennis/player1", true},
    {"sport/tennis/player1/#", "sport/tennis/player1/ranking", true},
    {"sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true},
    {"sport/tennis/player1/#", "sport/tennis/player2", false},
    {"sport/tennis/player1/#", "sport/tennis/player10", false},
    {"sport/tennis/player1/#", "sport/tennis", false},
    {"sport/#", "sport", true},
    {"sport/#", "sport/", true},
    {"sport/#", "sports", false},
    {"sport/#", "spor", false},
    {"#", "a", true},
    {"#", "/", true},
    {"#", "a/b/c", true},
    {"sport/tennis/#", "sport/tennis", true},
    /* 4.7.1.3, the single-level wildcard */
    {"sport/tennis/+", "sport/tennis/player1", true},
    {"sport/tennis/+", "sport/tennis/player2", true},
    {"sport/tennis/+", "sport/tennis/player1/ranking", false},
    {"sport/tennis/+", "sport/tennis", false},
    {"sport/+", "sport", false},
    {"sport/+", "sport/", true},
    {"+", "finance", true},
    {"+", "/finance", false},
    {"+/+", "/finance", true},
    {"/+", "/finance", true},
    {"+/tennis/#", "sport/tennis", true},
    {"+/tennis/#", "sport/tennis/a/b", true},
    {"+/tennis/#", "tennis", false},
    {"sport/+/player1", "sport/tennis/player1", true},
    {"sport/+/player1", "sport//player1", true},
    {"sport/+/player1", "sport/player1", false},
    {"+/#", "a", true},
    {"+/#", "a/b/c", true},
    {"+/+/#", "a", false},
    {"+/+/#", "a/b", true},
    /* 4.7.2, topics that begin with $ */
    {"#", "$SYS/monitor/Clients", false},
    {"#", "$", false},
    {"+/monitor/Clients", "$SYS/monitor/Clients", false},
    {"+/#", "$SYS", false},
    {"+", "$SYS", false},
    {"$SYS/#", "$SYS/monitor/Clients", true},
    {"$SYS/#", "$SYS", true},
    {"$SYS/#", "$SYSTEM", false},
    {"$SYS/monitor/+", "$SYS/monitor/Clients", true},
    {"$SYS/+/Clients", "$SYS/monitor/Clients", true},
    {"#,$SYS/#", "$SYS/monitor/Clients", true},
    {"#,$SYS/#", "a/b", true},
    {"#,$SYS/#", "$foo/x", false},
    {"+/$b", "a/$b", true},
    {"a/#", "a/$b", true},
    {"a/+", "a/$b", true},
    {"$share", "$share", true},
    /* 4.7.3: case, spaces and empty levels count */
    {"ACCOUNTS", "Accounts", false},
    {"Accounts payable", "Accounts payable", true},
    {"/finance", "finance", false},
    {"/", "/", true},
    {"/", "//", false},
    {"/a", "/a", true},
    {"/a", "a", false},
    {"a/", "a/", true},
    {"a/", "a", false},
    {"a", "a/", false},
    {"a//b", "a//b", true},
    {"a//b", "a/b", false},
    {"a/+/b", "a//b", true},
    {"//", "//", true},
    {"//#", "//", true},
    {"//#", "/", true},
    {"//#", "a/", false},
    {"/#", "/", true},
    {"/#", "a", false},
    {"/#", "/a", true},
    /* by name first, and back to '+' where that fails */
    {"a/b/c,a/+/d", "a/b/d", true},
    {"a/b/c,a/+/d", "a/b/c", true},
    {"a/b/c,a/+/d", "a/x/d", true},
    {"a/b/c,a/+/d", "a/x/c", false},
    {"a/b/c/x,+/b/c/y,a/+/c/z,a/b/+/w", "a/b/c/x", true},
    {"a/b/c/x,+/b/c/y,a/+/c/z,a/b/+/w", "a/b/c/y", true},
    {"a/b/c/x,+/b/c/y,a/+/c/z,a/b/+/w", "a/b/c/z", true},
    {"a/b/c/x,+/b/c/y,a/+/c/z,a/b/+/w", "a/b/c/w", true},
    {"a/b/c/x,+/b/c/y,a/+/c/z,a/b/+/w", "a/b/c/v", false},
    {"a/b/c/x,+/b/c/y,a/+/c/z,a/b/+/w", "q/b/c/y", true},
    {"a/b/c/x,+/b/c/y,a/+/c/z,a/b/+/w", "q/b/c/x", false},
    {"+/b,a", "a/b", true},
    {"+/b,a", "a", true},
    {"+/b,a", "b", false},
    {"$a/b/x,+/b/y", "$a/b/y", false},
    {"$a/b/x,$a/+/y", "$a/b/y", true},
    {"a/b/c,#", "a/b", true},
    /* lengths that the trie's bit map cannot tell from another: 1 and 65 */
    {"a", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", false},
    /* lists */
    {" a ; b/+ ,c/# ", "a", true},
    {" a ; b/+ ,c/# ", "b/x", true},
    {" a ; b/+ ,c/# ", "c", true},
    {" a ; b/+ ,c/# ", "b", false},
    {" a ; b/+ ,c/# ", " a ", false},
    {"+", "a,b;c", true},
    {"a,a,a", "a", true},
    {"\tx y\r", "x y", true},
    {"t\xC3\xBCr/+", "t\xC3\xBCr/auf", true},
    {"t\xC3\xBCr/+", "tur/auf", false},
    /* what MQTT does not know */
    {"#", "", false},
    {"+", "", false},
};

static void test_conformance(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof conformance / sizeof conformance[0]; i++) {
        struct mm_filter_set *set = make_set(conformance[i].list);
        if (match(set, conformance[i].topic) != conformance[i].matches) {
            fail_msg("\"%s\" and \"%s\": expected %s", conformance[i].list, conformance[i].topic,
                     conformance[i].matches ? "a match" : "none");
        }
        mm_filter_set_free(set);
    }
}

static void test_topic_is_bounded_by_its_length(void **state)
{
    (void)state;
    struct mm_filter_set *set = make_set("a/b,x");
    assert_true(mm_filter_set_match(set, "a/bc", 3));
    assert_true(mm_filter_set_match(set, "x/y", 1));
    assert_false(mm_filter_set_match(set, "a/b", 2));
    assert_false(match_len(set, "x\0y", 3));
    mm_filter_set_free(set);
}

#define SHARE_RULE                                                                             \
    "a shared subscription ($share/...) has no meaning for a plugin, which sees each message " \
    "once anyway"
#define HASH_RULE "'#' must stand alone in the last level"
#define PLUS_RULE "'+' must stand alone in its level"
#define UTF8_RULE "it is not valid UTF-8"

static const struct
{
    const char *list;
    const char *errstr;
} refused[] = {
    {"", "filter 1 \"\": it is empty"},
    {"  ", "filter 1 \"\": it is empty"},
    {",", "filter 1 \"\": it is empty"},
    {"a,", "filter 2 \"\": it is empty"},
    {"a;", "filter 2 \"\": it is empty"},
    {";a", "filter 1 \"\": it is empty"},
    {"a,,b", "filter 2 \"\": it is empty"},
    {"a,b; ;c", "filter 3 \"\": it is empty"},
    {"a/#/b", "filter 1 \"a/#/b\": " HASH_RULE},
    {"#/", "filter 1 \"#/\": " HASH_RULE},
    {"##", "filter 1 \"##\": " HASH_RULE},
    {"sport/tennis#", "filter 1 \"sport/tennis#\": " HASH_RULE},
    {"a,sport/#tennis", "filter 2 \"sport/#tennis\": " HASH_RULE},
    {"a/+#", "filter 1 \"a/+#\": " HASH_RULE},
    {"sport+", "filter 1 \"sport+\": " PLUS_RULE},
    {"a/++", "filter 1 \"a/++\": " PLUS_RULE},
    {"+a/b", "filter 1 \"+a/b\": " PLUS_RULE},
    {"a/b+/c", "filter 1 \"a/b+/c\": " PLUS_RULE},
    {"$share/group/#", "filter 1 \"$share/group/#\": " SHARE_RULE},
    {"a;$share/g/b", "filter 2 \"$share/g/b\": " SHARE_RULE},
    {"a\xFF", "filter 1 \"a?\": " UTF8_RULE},
    {"\xC3", "filter 1 \"?\": " UTF8_RULE},
    {"\xC0\xAF", "filter 1 \"??\": " UTF8_RULE},
    {"\xED\xA0\x80", "filter 1 \"???\": " UTF8_RULE},
    {"\xF4\x90\x80\x80", "filter 1 \"????\": " UTF8_RULE},
    {"a\x01\n\x1B[0m\x7F\xC2\x85\xC3\xBC/#/", "filter 1 \"a???[0m??\xC3\xBC/#/\": " HASH_RULE},
};

static void test_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        struct mm_filter_set *set = (struct mm_filter_set *)&set;
        char errstr[256] = "";
        assert_int_equal(mm_filter_set_new(refused[i].list, &set, errstr, sizeof errstr),
                         MM_EINVAL);
        assert_null(set);
        assert_string_equal(errstr, refused[i].errstr);
    }
}

static void test_errstr_is_bounded(void **state)
{
    (void)state;
    struct mm_filter_set *set = NULL;
    char errstr[12];
    memset(errstr, 'x', sizeof errstr);
    assert_int_equal(mm_filter_set_new("a/#/b", &set, errstr, 10), MM_EINVAL);
    assert_string_equal(errstr, "filter 1 ");
    assert_int_equal(errstr[10], 'x');
    assert_int_equal(mm_filter_set_new("a/#/b", &set, NULL, 0), MM_EINVAL);
}

static void test_count(void **state)
{
    (void)state;
    static const struct
    {
        const char *list;
        size_t n;
    } cases[] = {{"#", 1}, {"a,b;c", 3}, {"a,a", 2}, {"$SYS/#, #", 2}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct mm_filter_set *set = make_set(cases[i].list);
        assert_int_equal(mm_filter_set_count(set), cases[i].n);
        mm_filter_set_free(set);
    }
    mm_filter_set_free(NULL);
}

static void test_list_is_copied(void **state)
{
    (void)state;
    char list[] = "a/b,c";
    struct mm_filter_set *set = make_set(list);
    memset(list, 'z', strlen(list));
    assert_true(match(set, "a/b"));
    assert_true(match(set, "c"));
    assert_false(match(set, "zzzzz"));
    mm_filter_set_free(set);
}

/* MQTT 5.0 section 4.7, read literally: both are walked level by level. */
static bool reference_match(const char *filter, const char *topic)
{
    if (topic[0] == '$' && (filter[0] == '+' || filter[0] == '#')) {
        return false;
    }
    while (filter != NULL) {
        size_t filter_len = strcspn(filter, "/");
        if (filter_len == 1 && filter[0] == '#') {
            return true;
        }
        if (topic == NULL) {
            return false;
        }
        size_t topic_len = strcspn(topic, "/");
        bool is_any = filter_len == 1 && filter[0] == '+';
        if (!is_any && (filter_len != topic_len || memcmp(filter, topic, topic_len) != 0)) {
            return false;
        }
        filter = filter[filter_len] == '/' ? filter + filter_len + 1 : NULL;
        topic = topic[topic_len] == '/' ? topic + topic_len + 1 : NULL;
    }
    return topic == NULL;
}

/* xorshift64*, with a fixed seed: a failure comes again. */
static uint64_t random_state = 0x4D65746121;

static void append(char *dst, size_t dst_len, const char *text)
{
    size_t used = strlen(dst);
    assert_true(used + strlen(text) < dst_len);
    memcpy(dst + used, text, strlen(text) + 1);
}

enum {
    RANDOM_LEN = 80
};

/* 1 to 5 levels of few names, so that matches are frequent; never empty, since neither a filter nor
 * a topic may be. */
static void random_levels(char dst[RANDOM_LEN], bool wildcards)
{
    static const char *const names[] = {"a", "b", "", "aa", "$a", "\xC3\xBC", "abcdefgh", "+", "+"};
    size_t n_names = sizeof names / sizeof names[0] - (wildcards ? 0 : 2);
    size_t n_levels = random_below(&random_state, 5) + 1;
    do {
        dst[0] = '\0';
        for (size_t i = 0; i < n_levels; i++) {
            append(dst, RANDOM_LEN, i > 0 ? "/" : "");
            append(dst, RANDOM_LEN, names[random_below(&random_state, n_names)]);
        }
        if (wildcards && random_below(&random_state, 6) == 0) {
            append(dst, RANDOM_LEN, dst[0] != '\0' ? "/#" : "#");
        }
    } while (dst[0] == '\0');
}

static void test_random_against_reference(void **state)
{
    (void)state;
    enum {
        N_SETS = 4000,
        N_TOPICS = 25,
        MAX_FILTERS = 12,
        MAX_LEN = 80
    };
    size_t n_matches = 0;
    for (size_t s = 0; s < N_SETS; s++) {
        char filters[MAX_FILTERS][RANDOM_LEN];
        char list[MAX_FILTERS * RANDOM_LEN] = "";
        size_t n_filters = random_below(&random_state, MAX_FILTERS) + 1;
        for (size_t i = 0; i < n_filters; i++) {
            random_levels(filters[i], true);
            append(list, sizeof list,
                   i == 0                                ? ""
                   : random_below(&random_state, 2) == 0 ? ","
                                                         : ";");
            append(list, sizeof list, filters[i]);
        }
        struct mm_filter_set *set = make_set(list);
        for (size_t t = 0; t < N_TOPICS; t++) {
            char topic[RANDOM_LEN];
            random_levels(topic, false);
            bool expected = false;
            for (size_t i = 0; i < n_filters; i++) {
                expected = expected || reference_match(filters[i], topic);
            }
            n_matches += expected;
            if (match(set, topic) != expected) {
                fail_msg("\"%s\" and \"%s\": expected %s", list, topic,
                         expected ? "a match" : "none");
            }
        }
        mm_filter_set_free(set);
    }
    /* Neither answer may be the rule, or the comparison says little. */
    assert_in_range(n_matches, N_SETS * N_TOPICS / 10, N_SETS * N_TOPICS * 9 / 10);
}

/* The same for several lists: the first that matches. */
static void test_random_first_of_lists(void **state)
{
    (void)state;
    enum {
        N_SETS = 2000,
        N_TOPICS = 25,
        MAX_LISTS = 8
    };
    size_t n_matches = 0;
    size_t n_not_first = 0;
    for (size_t s = 0; s < N_SETS; s++) {
        char filters[MAX_LISTS][2][RANDOM_LEN];
        char texts[MAX_LISTS][2 * RANDOM_LEN];
        const char *lists[MAX_LISTS];
        size_t n_lists = random_below(&random_state, MAX_LISTS) + 1;
        for (size_t i = 0; i < n_lists; i++) {
            random_levels(filters[i][0], true);
            random_levels(filters[i][1], true);
            snprintf(texts[i], sizeof texts[i], "%s,%s", filters[i][0], filters[i][1]);
            lists[i] = texts[i];
        }
        struct mm_filter_set *set = NULL;
        char errstr[256] = "";
        assert_int_equal(mm_filter_set_new_lists(lists, n_lists, &set, errstr, sizeof errstr), 0);
        assert_int_equal(set == NULL ? 0 : mm_filter_set_count(set), 2 * n_lists);
        for (size_t t = 0; t < N_TOPICS; t++) {
            char topic[RANDOM_LEN];
            random_levels(topic, false);
            size_t expected = SIZE_MAX;
            for (size_t i = n_lists; i-- > 0;) {
                if (reference_match(filters[i][0], topic) ||
                    reference_match(filters[i][1], topic)) {
                    n_not_first += expected != SIZE_MAX;
                    expected = i;
                }
            }
            n_matches += expected != SIZE_MAX;
            assert_true(mm_filter_set_first(set, topic, strlen(topic)) == expected);
            assert_true(match(set, topic) == (expected != SIZE_MAX));
        }
        mm_filter_set_free(set);
    }
    assert_in_range(n_matches, N_SETS * N_TOPICS / 10, N_SETS * N_TOPICS * 9 / 10);
    assert_in_range(n_not_first, N_SETS, SIZE_MAX);
}

/* One of four kinds of filter, and a topic that it alone matches. */
static void write_kind(int kind, int number, char *filter, char *topic, size_t len)
{
    switch (kind) {
        case 0:
            snprintf(filter, len, "site/%d/+/temp", number);
            snprintf(topic, len, "site/%d/room/temp", number);
            break;
        case 1:
            snprintf(filter, len, "site/%d/pump/#", number);
            snprintf(topic, len, "site/%d/pump/1/rpm", number);
            break;
        case 2:
            snprintf(filter, len, "+/%d/alarm", number);
            snprintf(topic, len, "site/%d/alarm", number);
            break;
        default:
            snprintf(filter, len, "line%d/a/b", number);
            snprintf(topic, len, "line%d/a/b", number);
    }
}

static void test_thousand_filters(void **state)
{
    (void)state;
    enum {
        N = 1000,
        LEN = 64
    };
    char filter[LEN];
    char topic[LEN];
    char *list = malloc((size_t)N * LEN);
    assert_non_null(list);
    list[0] = '\0';
    for (int i = 0; i < N; i++) {
        write_kind(i % 4, i, filter, topic, LEN);
        append(list, (size_t)N * LEN, i > 0 ? "," : "");
        append(list, (size_t)N * LEN, filter);
    }
    struct mm_filter_set *set = make_set(list);
    free(list);
    assert_int_equal(mm_filter_set_count(set), N);
    for (int i = 0; i < N; i++) {
        for (int kind = 0; kind < 4; kind++) {
            write_kind(kind, i, filter, topic, LEN);
            assert_int_equal(match(set, topic), i % 4 == kind);
        }
    }
    mm_filter_set_free(set);
}

/* All ways of naming a level or not, laid over each other: the worst that '+' can do. */
static void test_overlapping_plus(void **state)
{
    (void)state;
    enum {
        DEPTH = 10,
        N = 1 << DEPTH
    };
    char *list = malloc((size_t)N * (2 * DEPTH + 2));
    assert_non_null(list);
    char *p = list;
    for (unsigned i = 0; i < N; i++) {
        for (unsigned level = 0; level < DEPTH; level++) {
            *p++ = (i >> level & 1) != 0 ? 'a' : '+';
            *p++ = '/';
        }
        *p++ = 'b';
        *p++ = i + 1 < N ? ',' : '\0';
    }
    struct mm_filter_set *set = make_set(list);
    free(list);
    assert_true(match(set, "a/a/a/a/a/a/a/a/a/a/b"));
    assert_true(match(set, "x/x/x/x/x/x/x/x/x/x/b"));
    assert_false(match(set, "a/a/a/a/a/a/a/a/a/a/c"));
    assert_false(match(set, "a/a/a/a/a/a/a/a/a/a"));
    mm_filter_set_free(set);
}

static char *repeat(char c, size_t len)
{
    char *text = malloc(len + 1);
    assert_non_null(text);
    memset(text, c, len);
    text[len] = '\0';
    return text;
}

static void test_longest_level(void **state)
{
    (void)state;
    char *topic = repeat('t', FILTER_MAX_LEN);
    static const char *const lists[] = {"#", "+", "+/#", "x,+"};
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        struct mm_filter_set *set = make_set(lists[i]);
        assert_true(match(set, topic));
        mm_filter_set_free(set);
    }
    struct mm_filter_set *set = make_set(topic);
    assert_true(match(set, topic));
    assert_false(match_len(set, topic, FILTER_MAX_LEN - 1));
    topic[FILTER_MAX_LEN - 1] = 'u';
    assert_false(match(set, topic));
    mm_filter_set_free(set);
    free(topic);

    char *too_long = repeat('t', FILTER_MAX_LEN + 1);
    char errstr[256];
    assert_int_equal(mm_filter_set_new(too_long, &set, errstr, sizeof errstr), MM_EINVAL);
    assert_null(set);
    assert_non_null(strstr(errstr, "tttt...\": it is longer than 65535 bytes"));
    assert_in_range(strlen(errstr), 64, 128);
    free(too_long);
}

/* "a/a/.../a" of 32768 levels */
static char *deep_topic(void)
{
    char *topic = repeat('a', FILTER_MAX_LEN);
    for (size_t i = 1; i < FILTER_MAX_LEN; i += 2) {
        topic[i] = '/';
    }
    return topic;
}

static void test_deepest_topic(void **state)
{
    (void)state;
    char *topic = deep_topic();
    static const struct
    {
        const char *list;
        bool matches;
    } cases[] = {{"#", true}, {"a/#", true}, {"+/+/a/#", true}, {"a", false}, {"+/b/#", false}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct mm_filter_set *set = make_set(cases[i].list);
        assert_int_equal(match(set, topic), cases[i].matches);
        mm_filter_set_free(set);
    }
    free(topic);
}

/* Two filters as deep as can be, one by name and one by '+', that part only at the last level: the
 * match goes back over all of them. */
static void test_deepest_filters(void **state)
{
    (void)state;
    char *topic = deep_topic();
    char *list = malloc((size_t)2 * (FILTER_MAX_LEN + 1));
    assert_non_null(list);
    memcpy(list, topic, FILTER_MAX_LEN);
    list[FILTER_MAX_LEN - 1] = 'b';
    list[FILTER_MAX_LEN] = ',';
    memcpy(list + FILTER_MAX_LEN + 1, topic, FILTER_MAX_LEN + 1);
    list[FILTER_MAX_LEN + 1] = '+';
    struct mm_filter_set *set = make_set(list);
    assert_true(match(set, topic)); /* by the second one */
    topic[FILTER_MAX_LEN - 1] = 'b';
    assert_true(match(set, topic)); /* by the first one */
    topic[FILTER_MAX_LEN - 1] = 'c';
    assert_false(match(set, topic));
    assert_false(match_len(set, topic, FILTER_MAX_LEN - 2));
    mm_filter_set_free(set);
    free(list);
    free(topic);
}

/* The first 300 levels have a '+' beside them each, which leads nowhere. */
static void test_many_ways_back(void **state)
{
    (void)state;
    enum {
        DEPTH = 300
    };
    char *list = malloc((size_t)DEPTH * (2 * DEPTH + 4));
    assert_non_null(list);
    char *p = list;
    for (size_t depth = 0; depth < DEPTH; depth++) {
        for (size_t i = 0; i < depth; i++) {
            *p++ = 'a';
            *p++ = '/';
        }
        memcpy(p, "+/b,", 4);
        p += 4;
    }
    p[-1] = '\0';
    struct mm_filter_set *set = make_set(list);
    free(list);
    char *topic = deep_topic();
    assert_false(match(set, topic));
    assert_false(match(set, "a/a/a"));
    assert_true(match(set, "a/a/b"));
    mm_filter_set_free(set);
    free(topic);
}

static void test_out_of_memory(void **state)
{
    (void)state;
    long n = 0;
    for (;; n++) {
        struct mm_filter_set *set = NULL;
        char errstr[64] = "";
        n_allocs_left = n;
        int rc = mm_filter_set_new("a/b/+,c/#", &set, errstr, sizeof errstr);
        bool failed = n_allocs_left < 0;
        n_allocs_left = -1;
        if (!failed) {
            assert_int_equal(rc, 0);
            mm_filter_set_free(set);
            break;
        }
        assert_int_equal(rc, MM_ENOMEM);
        assert_null(set);
        assert_string_equal(errstr, "out of memory");
    }
    assert_int_equal(n, 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_conformance),
        cmocka_unit_test(test_topic_is_bounded_by_its_length),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_errstr_is_bounded),
        cmocka_unit_test(test_count),
        cmocka_unit_test(test_list_is_copied),
        cmocka_unit_test(test_random_against_reference),
        cmocka_unit_test(test_random_first_of_lists),
        cmocka_unit_test(test_thousand_filters),
        cmocka_unit_test(test_overlapping_plus),
        cmocka_unit_test(test_longest_level),
        cmocka_unit_test(test_deepest_topic),
        cmocka_unit_test(test_deepest_filters),
        cmocka_unit_test(test_many_ways_back),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
