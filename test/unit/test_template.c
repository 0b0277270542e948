/* Templates: what they say of a wrong text, and what they make of a message, against a slow
 * reference that goes over the text character by character. */
#include "mm_error.h"
#include "mm_template.h"
#include "random.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define LEN_OF(array) (sizeof(array) / sizeof(array)[0])

static struct mm_template *make(const char *text)
{
    struct mm_template *t = NULL;
    char errstr[256] = "";
    if (mm_template_new(text, &t, errstr, sizeof errstr) != 0) {
        fail_msg("\"%s\" is refused: %s", text, errstr);
    }
    return t;
}

static struct mm_template_values values(const char *topic, const char *client, const char *user)
{
    return (struct mm_template_values){.topic = topic,
                                       .topic_len = strlen(topic),
                                       .client_id = client,
                                       .client_id_len = client == NULL ? 0 : strlen(client),
                                       .username = user,
                                       .username_len = user == NULL ? 0 : strlen(user),
                                       .qos = 1};
}

static void expect(const char *text, const struct mm_template_values *v, const char *filled)
{
    char dst[256];
    struct mm_template *t = make(text);
    size_t len = mm_template_fill(t, v, dst, sizeof dst);
    assert_int_equal(len, strlen(filled));
    assert_memory_equal(dst, filled, len);
    assert_int_equal(mm_template_fill(t, v, NULL, 0), len);
    mm_template_free(t);
}

static void expect_name(const char *text, const struct mm_template_values *v, const char *filled)
{
    char dst[256];
    struct mm_template *t = make(text);
    size_t len = mm_template_fill_name(t, v, dst, sizeof dst);
    assert_int_equal(len, strlen(filled));
    assert_memory_equal(dst, filled, len);
    mm_template_free(t);
}

static void test_variables(void **state)
{
    (void)state;
    struct mm_template_values v = values("plant/1/temp", "sensor-7", "joe");
    static const char *const cases[][2] = {
        {"", ""},
        {"plain", "plain"},
        {"${topic}", "plant/1/temp"},
        {"${topic[0]}", "plant"},
        {"${topic[1]}", "1"},
        {"${topic[2]}", "temp"},
        {"${topic[3]}", ""},
        {"${topic[255]}", ""},
        {"${topic[007]}", ""},
        {"${topic[02]}", "temp"},
        {"${clientid}", "sensor-7"},
        {"${username}", "joe"},
        {"${qos}", "1"},
        {"a${qos}b${qos}c", "a1b1c"},
        {"${topic[0]}${topic[2]}", "planttemp"},
        {"$", "$"},
        {"$$", "$$"},
        {"$x}", "$x}"},
        {"}{", "}{"},
        {"$${topic}", "${topic}"},
        {"$$${topic}", "$${topic}"},
        {"$${${qos}", "${1"},
        {"x$", "x$"},
    };
    for (size_t i = 0; i < LEN_OF(cases); i++) {
        expect(cases[i][0], &v, cases[i][1]);
    }
}

static void test_odd_messages(void **state)
{
    (void)state;
    struct mm_template_values none = values("a", NULL, NULL);
    expect("[${clientid}${username}]", &none, "[]");
    expect_name("x.${clientid}.${username}", &none, "x._._");
    struct mm_template_values empty = values("", "", "");
    expect("[${topic}${topic[0]}${clientid}]", &empty, "[]");
    expect_name("${topic}-${topic[0]}", &empty, "_-_");
    struct mm_template_values levels = values("/a//b/", "c", "u");
    static const char *const cases[] = {"", "a", "", "b", "", ""};
    for (size_t i = 0; i < LEN_OF(cases); i++) {
        char text[16];
        snprintf(text, sizeof text, "${topic[%zu]}", i);
        expect(text, &levels, cases[i]);
        expect_name(text, &levels, cases[i][0] == '\0' ? "_" : cases[i]);
    }
    expect_name("${topic}", &levels, ".a..b.");
    struct mm_template_values odd = values("Caf\xC3\xA9/x y/\x01#+$SYS_-.", NULL, NULL);
    expect_name("${topic}", &odd, "Caf__.x_y.____SYS_-.");
    expect_name("A.${topic[0]}.z", &odd, "A.Caf__.z");
    expect("${topic[0]}", &odd, "Caf\xC3\xA9");
    struct mm_template_values dots = values("../..", NULL, NULL);
    expect_name("${topic}", &dots, ".....");
    expect_name("${topic[0]}", &dots, "..");
}

/* What does not fit is not written, and the length is told all the same. */
static void test_little_room(void **state)
{
    (void)state;
    struct mm_template *t = make("ab${topic}cd${qos}");
    struct mm_template_values v = values("xyz", NULL, NULL);
    static const char whole[] = "abxyzcd1";
    for (size_t room = 0; room <= sizeof whole; room++) {
        char *dst = malloc(room + 1); /* for the sanitizer */
        assert_non_null(dst);
        assert_int_equal(mm_template_fill(t, &v, dst, room), strlen(whole));
        assert_memory_equal(dst, whole, room < strlen(whole) ? room : strlen(whole));
        assert_int_equal(mm_template_fill_name(t, &v, dst, room), strlen(whole));
        assert_memory_equal(dst, whole, room < strlen(whole) ? room : strlen(whole));
        free(dst);
    }
    mm_template_free(t);
}

static void test_longest_topic(void **state)
{
    (void)state;
    char *topic = malloc(UINT16_MAX);
    char *dst = malloc(UINT16_MAX);
    assert_non_null(topic);
    assert_non_null(dst);
    memset(topic, '/', UINT16_MAX);
    struct mm_template *t = make("${topic}");
    struct mm_template_values v = {.topic = topic, .topic_len = UINT16_MAX};
    assert_int_equal(mm_template_fill(t, &v, dst, UINT16_MAX), UINT16_MAX);
    assert_memory_equal(dst, topic, UINT16_MAX);
    assert_int_equal(mm_template_fill_name(t, &v, dst, 249), UINT16_MAX);
    for (size_t i = 0; i < 249; i++) {
        assert_int_equal(dst[i], '.');
    }
    mm_template_free(t);
    free(dst);
    free(topic);
}

static void test_wrong_texts(void **state)
{
    (void)state;
#define ALL "there are ${topic}, ${topic[N]}, ${clientid}, ${username} and ${qos}"
#define LEVEL_RULE "${topic[N]} needs a number from 0 to 255 in its brackets"
    static const char *const cases[][2] = {
        {"${", "character 1: ${ has no } behind it"},
        {"ab${topic", "character 3: ${ has no } behind it"},
        {"$${ ${topic", "character 5: ${ has no } behind it"},
        {"a ${}", "character 3: ${} names no variable"},
        {"${tpoic}", "character 1: unknown variable ${tpoic}; did you mean ${topic}?"},
        {"${TOPIC}", "character 1: unknown variable ${TOPIC}; did you mean ${topic}?"},
        {"${ topic}", "character 1: unknown variable ${ topic}; did you mean ${topic}?"},
        {"${client_id}", "character 1: unknown variable ${client_id}; did you mean ${clientid}?"},
        {"${client}", "character 1: unknown variable ${client}; did you mean ${clientid}?"},
        {"${user}", "character 1: unknown variable ${user}; did you mean ${username}?"},
        {"${qso}", "character 1: unknown variable ${qso}; did you mean ${qos}?"},
        {"x${payload}", "character 2: unknown variable ${payload}; " ALL},
        {"${retain}", "character 1: unknown variable ${retain}; " ALL},
        {"${qos[1]}", "character 1: unknown variable ${qos[1]}; did you mean ${qos}?"},
        {"${topics[1]}", "character 1: unknown variable ${topics[1]}; did you mean ${topic}?"},
        {"${\x01}", "character 1: unknown variable ${?}; " ALL},
        {"${topic[256]}", "character 1: " LEVEL_RULE},
        {"${topic[99999999999999999999]}", "character 1: " LEVEL_RULE},
        {"${topic[]}", "character 1: " LEVEL_RULE},
        {"${topic[-1]}", "character 1: " LEVEL_RULE},
        {"${topic[1}", "character 1: " LEVEL_RULE},
        {"${topic[1]x}", "character 1: " LEVEL_RULE},
        {"${topic[1 ]}", "character 1: " LEVEL_RULE},
        {"${topic[1][2]}", "character 1: " LEVEL_RULE},
    };
    for (size_t i = 0; i < LEN_OF(cases); i++) {
        struct mm_template *t = (struct mm_template *)state; /* must be overwritten */
        char errstr[256] = "";
        assert_int_equal(mm_template_new(cases[i][0], &t, errstr, sizeof errstr), MM_EINVAL);
        assert_null(t);
        assert_string_equal(errstr, cases[i][1]);
        char little[8];
        assert_int_equal(mm_template_new(cases[i][0], &t, little, sizeof little), MM_EINVAL);
        assert_in_range(strlen(little), 1, 7);
    }
}

static void test_limits(void **state)
{
    (void)state;
    char text[MM_TEMPLATE_MAX_LEN + 2];
    char errstr[256];
    struct mm_template *t;
    memset(text, 'x', sizeof text);
    text[MM_TEMPLATE_MAX_LEN] = '\0';
    mm_template_free(make(text));
    text[MM_TEMPLATE_MAX_LEN] = 'x';
    text[MM_TEMPLATE_MAX_LEN + 1] = '\0';
    assert_int_equal(mm_template_new(text, &t, errstr, sizeof errstr), MM_EINVAL);
    assert_string_equal(errstr, "it is longer than 1024 bytes");

    size_t len = 0;
    for (int i = 0; i < MM_TEMPLATE_MAX_VARIABLES; i++) {
        len += (size_t)snprintf(text + len, sizeof text - len, "a${qos}");
    }
    len += (size_t)snprintf(text + len, sizeof text - len, "a");
    mm_template_free(make(text));
    snprintf(text + len, sizeof text - len, "${qos}");
    assert_int_equal(mm_template_new(text, &t, errstr, sizeof errstr), MM_EINVAL);
    assert_string_equal(errstr, "character 226: more than 32 variables");
}

static void test_questions(void **state)
{
    (void)state;
    static const struct
    {
        const char *text;
        bool constant;
        bool topic;
        bool client_id;
        bool username;
    } cases[] = {
        {"", true, false, false, false},
        {"a$${b", true, false, false, false},
        {"${topic}", false, true, false, false},
        {"${topic}x", false, false, false, false},
        {"${topic[0]}", false, false, false, false},
        {"${clientid}", false, false, true, false},
        {"${topic}${username}/${clientid}", false, false, true, true},
    };
    for (size_t i = 0; i < LEN_OF(cases); i++) {
        struct mm_template *t = make(cases[i].text);
        assert_string_equal(mm_template_text(t), cases[i].text);
        assert_int_equal(mm_template_is_constant(t), cases[i].constant);
        assert_int_equal(mm_template_is_topic(t), cases[i].topic);
        assert_int_equal(mm_template_has_client_id(t), cases[i].client_id);
        assert_int_equal(mm_template_has_username(t), cases[i].username);
        mm_template_free(t);
    }
    struct mm_template *t = make("ab.${topic}c/d");
    assert_int_equal(mm_template_foreign(t, "abcd."), 13);
    assert_int_equal(mm_template_foreign(t, "abcd./"), 0);
    assert_int_equal(mm_template_foreign(t, "b"), 1);
    mm_template_free(t);
    mm_template_free(NULL);
}

/* --- against a reference --- */

static uint64_t random_state = 0x74656D706C;

#define TEXT_LEN 4096

/* All texts here have TEXT_LEN bytes. */
static void append(char *dst, const char *text)
{
    size_t used = strlen(dst);
    snprintf(dst + used, TEXT_LEN - used, "%s", text);
}

/* Level n of the topic, found by counting. */
static void reference_level(const char *topic, size_t n, char *dst)
{
    size_t level = 0;
    size_t used = 0;
    for (const char *c = topic; *c != '\0'; c++) {
        if (*c == '/') {
            level++;
        } else if (level == n) {
            dst[used++] = *c;
        }
    }
    dst[used] = '\0';
}

/* Append the value of what stands between the braces; false: there is no such thing. */
static bool reference_value(const char *name, const struct mm_template_values *v, char *value)
{
    value[0] = '\0';
    if (strcmp(name, "topic") == 0) {
        append(value, v->topic);
    } else if (strcmp(name, "clientid") == 0) {
        append(value, v->client_id);
    } else if (strcmp(name, "username") == 0) {
        append(value, v->username);
    } else if (strcmp(name, "qos") == 0) {
        snprintf(value, 2, "%u", v->qos);
    } else {
        for (size_t level = 0; level < 20; level++) {
            char wanted[32];
            snprintf(wanted, sizeof wanted, "topic[%zu]", level);
            if (strcmp(name, wanted) == 0) {
                reference_level(v->topic, level, value);
                return true;
            }
        }
        return false;
    }
    return true;
}

static void reference_name(char *value)
{
    if (value[0] == '\0') {
        append(value, "_");
    }
    for (char *c = value; *c != '\0'; c++) {
        if (*c == '/') {
            *c = '.';
        } else if (strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-",
                          *c) == NULL) {
            *c = '_';
        }
    }
}

/* False: the template is wrong. */
static bool reference_fill(const char *text,
                           const struct mm_template_values *v,
                           bool as_name,
                           char *dst)
{
    dst[0] = '\0';
    while (*text != '\0') {
        char value[TEXT_LEN];
        if (strncmp(text, "$${", 3) == 0) {
            append(dst, "${");
            text += 3;
        } else if (strncmp(text, "${", 2) == 0) {
            const char *end = strchr(text, '}');
            char name[TEXT_LEN] = "";
            if (end == NULL) {
                return false;
            }
            memcpy(name, text + 2, (size_t)(end - text) - 2);
            if (!reference_value(name, v, value)) {
                return false;
            }
            if (as_name) {
                reference_name(value);
            }
            append(dst, value);
            text = end + 1;
        } else {
            const char one[2] = {*text, '\0'};
            append(dst, one);
            text++;
        }
    }
    return true;
}

static void random_text(char *dst, size_t max_pieces, const char *const *pieces, size_t n_pieces)
{
    dst[0] = '\0';
    for (size_t n = random_below(&random_state, max_pieces + 1); n > 0; n--) {
        append(dst, pieces[random_below(&random_state, n_pieces)]);
    }
}

static void test_random_against_reference(void **state)
{
    (void)state;
    static const char *const parts[] = {
        "${topic}",    "${topic[0]}", "${topic[1]}", "${topic[2]}", "${topic[9]}",
        "${clientid}", "${username}", "${qos}",      "$",           "{",
        "}",           "$${",         "a",           "b.c",         "-",
        "_",           "${qos",       "[1]",         "topic",       "/",
    };
    static const char *const words[] = {"a", "B", "7",        "/", "/", "//", ".",    "_",
                                        "-", " ", "\xC3\xA9", "$", "#", "+",  "\x7F", "\xFF"};
    size_t n_good = 0;
    size_t n_wrong = 0;
    for (int i = 0; i < 60000; i++) {
        char text[TEXT_LEN];
        char topic[TEXT_LEN];
        char client[TEXT_LEN];
        char user[TEXT_LEN];
        char expected[TEXT_LEN];
        char filled[TEXT_LEN];
        char errstr[256];
        random_text(text, 6, parts, LEN_OF(parts));
        random_text(topic, 8, words, LEN_OF(words));
        random_text(client, 3, words, LEN_OF(words));
        random_text(user, 3, words, LEN_OF(words));
        struct mm_template_values v = values(topic, client, user);
        v.qos = (unsigned)random_below(&random_state, 3);
        struct mm_template *t;
        bool good = reference_fill(text, &v, false, expected);
        int err = mm_template_new(text, &t, errstr, sizeof errstr);
        assert_int_equal(err, good ? 0 : MM_EINVAL);
        n_good += good;
        n_wrong += !good;
        if (good) {
            size_t len = mm_template_fill(t, &v, filled, sizeof filled);
            assert_int_equal(len, strlen(expected));
            assert_memory_equal(filled, expected, len);
            (void)reference_fill(text, &v, true, expected);
            len = mm_template_fill_name(t, &v, filled, sizeof filled);
            assert_int_equal(len, strlen(expected));
            assert_memory_equal(filled, expected, len);
            mm_template_free(t);
        }
    }
    assert_in_range(n_good, 10000, 55000);
    assert_in_range(n_wrong, 5000, 50000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_variables),   cmocka_unit_test(test_odd_messages),
        cmocka_unit_test(test_little_room), cmocka_unit_test(test_longest_topic),
        cmocka_unit_test(test_wrong_texts), cmocka_unit_test(test_limits),
        cmocka_unit_test(test_questions),   cmocka_unit_test(test_random_against_reference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
