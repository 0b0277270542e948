/* A template is a list of parts, literals and variables in turn; the literals lie in one text, in
 * which "$${" is "${" already. */
#include "mm_template.h"

#include "mm_error.h"
#include "mm_text.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum variable {
    LITERAL,
    TOPIC,
    LEVEL,
    CLIENT_ID,
    USERNAME,
    QOS,
};

struct part
{
    enum variable variable;
    uint32_t level;   /* of LEVEL */
    const char *text; /* of LITERAL, as its length */
    size_t len;
    size_t place; /* in the text of the template, from 0 */
};

struct mm_template
{
    char *text;
    char *literals; /* of all parts */
    size_t n_parts;
    struct part parts[2 * MM_TEMPLATE_MAX_VARIABLES + 1];
};

static const struct
{
    const char *name;
    enum variable variable;
} names[] = {
    {"topic", TOPIC},
    {"clientid", CLIENT_ID},
    {"username", USERNAME},
    {"qos", QOS},
};

#define N_NAMES (sizeof names / sizeof names[0])

/* --- compiling ----------------------------------------------------------------------------------
 */

struct compiler
{
    struct mm_template *t;
    size_t n_variables;
    char *literal; /* where the next literal byte goes */
    char *errstr;
    size_t errstr_len;
};

/* The variable that a wrong name is nearest to; NULL: none is near. */
static const char *nearest(const char *name, size_t len)
{
    char text[16];
    const char *best = NULL;
    size_t least = SIZE_MAX;
    if (len >= sizeof text) {
        return NULL;
    }
    for (size_t i = 0; i < len; i++) {
        text[i] = mm_lower(name[i]);
    }
    text[len] = '\0';
    for (size_t i = 0; i < N_NAMES; i++) {
        size_t distance = mm_edit_distance(text, names[i].name);
        /* Half of the letters may be wrong. */
        if (distance < least && distance <= strlen(names[i].name) / 2) {
            least = distance;
            best = names[i].name;
        }
    }
    return best;
}

static int fail_unknown(struct compiler *c, size_t place, const char *name, size_t len)
{
    char shown[MM_PRINTABLE_LEN];
    mm_printable(name, len, shown, sizeof shown);
    size_t name_len = strcspn(name, "[}");
    const char *near = nearest(name, name_len < len ? name_len : len);
    if (near != NULL) {
        snprintf(c->errstr, c->errstr_len,
                 "character %zu: unknown variable ${%s}; did you mean ${%s}?", place + 1, shown,
                 near);
    } else {
        snprintf(c->errstr, c->errstr_len,
                 "character %zu: unknown variable ${%s}; there are ${topic}, ${topic[N]}, "
                 "${clientid}, ${username} and ${qos}",
                 place + 1, shown);
    }
    return MM_EINVAL;
}

static int fail_level(struct compiler *c, size_t place)
{
    snprintf(c->errstr, c->errstr_len,
             "character %zu: ${topic[N]} needs a number from 0 to %d in its brackets", place + 1,
             MM_TEMPLATE_MAX_LEVEL);
    return MM_EINVAL;
}

/* "[N]" to its end. */
static int parse_level(struct compiler *c,
                       size_t place,
                       const char *text,
                       size_t len,
                       struct part *part)
{
    uint32_t level = 0;
    size_t i = 1;
    for (; i < len && mm_is_digit(text[i]) && level <= MM_TEMPLATE_MAX_LEVEL; i++) {
        level = level * 10 + (uint32_t)(text[i] - '0');
    }
    if (i == 1 || i + 1 != len || text[i] != ']' || level > MM_TEMPLATE_MAX_LEVEL) {
        return fail_level(c, place);
    }
    part->variable = LEVEL;
    part->level = level;
    return 0;
}

/* What stands between the braces. */
static int parse_variable(struct compiler *c, size_t place, const char *text, size_t len)
{
    struct part part = {.place = place};
    if (len == 0) {
        snprintf(c->errstr, c->errstr_len, "character %zu: ${} names no variable", place + 1);
        return MM_EINVAL;
    }
    if (c->n_variables == MM_TEMPLATE_MAX_VARIABLES) {
        snprintf(c->errstr, c->errstr_len, "character %zu: more than %d variables", place + 1,
                 MM_TEMPLATE_MAX_VARIABLES);
        return MM_EINVAL;
    }
    size_t name_len = strcspn(text, "[}");
    if (name_len < len) {
        if (name_len != strlen("topic") || memcmp(text, "topic", name_len) != 0) {
            return fail_unknown(c, place, text, len);
        }
        int err = parse_level(c, place, text + name_len, len - name_len, &part);
        if (err != 0) {
            return err;
        }
    }
    for (size_t i = 0; i < N_NAMES && part.variable == LITERAL; i++) {
        if (strlen(names[i].name) == len && memcmp(names[i].name, text, len) == 0) {
            part.variable = names[i].variable;
        }
    }
    if (part.variable == LITERAL) {
        return fail_unknown(c, place, text, len);
    }
    c->n_variables++;
    c->t->parts[c->t->n_parts++] = part;
    return 0;
}

static void add_literal(struct compiler *c, size_t place, char byte)
{
    struct mm_template *t = c->t;
    if (t->n_parts == 0 || t->parts[t->n_parts - 1].variable != LITERAL) {
        t->parts[t->n_parts++] =
            (struct part){.variable = LITERAL, .text = c->literal, .place = place};
    }
    *c->literal++ = byte;
    t->parts[t->n_parts - 1].len++;
}

static int compile(struct compiler *c)
{
    const char *text = c->t->text;
    size_t i = 0;
    int err = 0;
    while (err == 0 && text[i] != '\0') {
        if (strncmp(text + i, "$${", 3) == 0) {
            add_literal(c, i, '$');
            add_literal(c, i, '{');
            i += 3;
        } else if (strncmp(text + i, "${", 2) == 0) {
            const char *name = text + i + 2;
            const char *end = strchr(name, '}');
            if (end == NULL) {
                snprintf(c->errstr, c->errstr_len, "character %zu: ${ has no } behind it", i + 1);
                return MM_EINVAL;
            }
            err = parse_variable(c, i, name, (size_t)(end - name));
            i = (size_t)(end - text) + 1;
        } else {
            add_literal(c, i, text[i]);
            i++;
        }
    }
    return err;
}

int mm_template_new(const char *text, struct mm_template **out, char *errstr, size_t errstr_len)
{
    *out = NULL;
    if (strlen(text) > MM_TEMPLATE_MAX_LEN) {
        snprintf(errstr, errstr_len, "it is longer than %d bytes", MM_TEMPLATE_MAX_LEN);
        return MM_EINVAL;
    }
    struct mm_template *t = calloc(1, sizeof *t);
    if (t == NULL) {
        return MM_ENOMEM;
    }
    t->text = strdup(text);
    t->literals = malloc(strlen(text) + 1);
    int err = t->text == NULL || t->literals == NULL ? MM_ENOMEM : 0;
    if (err == 0) {
        struct compiler c = {
            .t = t, .literal = t->literals, .errstr = errstr, .errstr_len = errstr_len};
        err = compile(&c);
    }
    if (err != 0) {
        mm_template_free(t);
        return err;
    }
    *out = t;
    return 0;
}

void mm_template_free(struct mm_template *t)
{
    if (t == NULL) {
        return;
    }
    free(t->literals);
    free(t->text);
    free(t);
}

/* --- asking -------------------------------------------------------------------------------------
 */

const char *mm_template_text(const struct mm_template *t)
{
    return t->text;
}

static bool has(const struct mm_template *t, enum variable variable)
{
    for (size_t i = 0; i < t->n_parts; i++) {
        if (t->parts[i].variable == variable) {
            return true;
        }
    }
    return false;
}

bool mm_template_is_constant(const struct mm_template *t)
{
    return t->n_parts == 0 || (t->n_parts == 1 && t->parts[0].variable == LITERAL);
}

bool mm_template_is_topic(const struct mm_template *t)
{
    return t->n_parts == 1 && t->parts[0].variable == TOPIC;
}

bool mm_template_has_client_id(const struct mm_template *t)
{
    return has(t, CLIENT_ID);
}

bool mm_template_has_username(const struct mm_template *t)
{
    return has(t, USERNAME);
}

size_t mm_template_foreign(const struct mm_template *t, const char *letters)
{
    for (size_t i = 0; i < t->n_parts; i++) {
        const struct part *part = &t->parts[i];
        for (size_t k = 0; part->variable == LITERAL && k < part->len; k++) {
            if (strchr(letters, part->text[k]) == NULL) {
                return part->place + k + 1;
            }
        }
    }
    return 0;
}

/* --- filling ------------------------------------------------------------------------------------
 */

struct span
{
    const char *start;
    size_t len;
};

/* Level n of the topic; empty when there is none. */
static struct span level_of(const struct mm_template_values *values, uint32_t n)
{
    const char *start = values->topic;
    const char *end = values->topic + values->topic_len;
    while (start != NULL && n > 0) {
        const char *slash = start == end ? NULL : memchr(start, '/', (size_t)(end - start));
        start = slash == NULL ? NULL : slash + 1;
        n--;
    }
    if (start == NULL || start == end) {
        return (struct span){.start = NULL, .len = 0};
    }
    const char *slash = memchr(start, '/', (size_t)(end - start));
    return (struct span){.start = start, .len = (size_t)((slash == NULL ? end : slash) - start)};
}

static struct span value_of(const struct part *part, const struct mm_template_values *values)
{
    static const char digits[] = "0123";
    switch (part->variable) {
        case TOPIC:
            return (struct span){.start = values->topic, .len = values->topic_len};
        case LEVEL:
            return level_of(values, part->level);
        case CLIENT_ID:
            return (struct span){.start = values->client_id, .len = values->client_id_len};
        case USERNAME:
            return (struct span){.start = values->username, .len = values->username_len};
        case QOS:
            return (struct span){.start = &digits[values->qos & 3], .len = 1};
        case LITERAL:
        default:
            return (struct span){.start = part->text, .len = part->len};
    }
}

/* What of a text goes into dst, which is used already. */
static size_t fitting(size_t len, size_t used, size_t dst_len)
{
    size_t room = used < dst_len ? dst_len - used : 0;
    return len < room ? len : room;
}

size_t mm_template_fill(const struct mm_template *t,
                        const struct mm_template_values *values,
                        char *dst,
                        size_t dst_len)
{
    size_t used = 0;
    for (size_t i = 0; i < t->n_parts; i++) {
        struct span s = value_of(&t->parts[i], values);
        size_t n = fitting(s.len, used, dst_len);
        if (n > 0) {
            memcpy(dst + used, s.start, n);
        }
        used += s.len;
    }
    return used;
}

static char name_byte(char c)
{
    bool stands = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                  c == '.' || c == '_' || c == '-';
    if (stands) {
        return c;
    }
    return (char)(c == '/' ? '.' : '_');
}

size_t mm_template_fill_name(const struct mm_template *t,
                             const struct mm_template_values *values,
                             char *dst,
                             size_t dst_len)
{
    static const struct span nothing = {.start = "_", .len = 1};
    size_t used = 0;
    for (size_t i = 0; i < t->n_parts; i++) {
        bool literal = t->parts[i].variable == LITERAL;
        struct span s = value_of(&t->parts[i], values);
        s = s.len == 0 ? nothing : s;
        size_t n = fitting(s.len, used, dst_len);
        for (size_t k = 0; k < n; k++) {
            dst[used + k] = s.start[k];
            if (!literal) {
                dst[used + k] = name_byte(s.start[k]);
            }
        }
        used += s.len;
    }
    return used;
}
