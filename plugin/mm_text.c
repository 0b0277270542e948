#include "mm_text.h"

#include <assert.h>
#include <string.h>

/* The well-formed byte sequences (The Unicode Standard, table 3-7): the first byte decides the
 * length and the range of the second byte; all later ones are 80..BF. */
static const struct
{
    unsigned char first_min, first_max;
    unsigned char second_min, second_max;
    size_t len;
} forms[] = {
    {0x00, 0x7F, 0x00, 0x00, 1}, {0xC2, 0xDF, 0x80, 0xBF, 2}, {0xE0, 0xE0, 0xA0, 0xBF, 3},
    {0xE1, 0xEC, 0x80, 0xBF, 3}, {0xED, 0xED, 0x80, 0x9F, 3}, {0xEE, 0xEF, 0x80, 0xBF, 3},
    {0xF0, 0xF0, 0x90, 0xBF, 4}, {0xF1, 0xF3, 0x80, 0xBF, 4}, {0xF4, 0xF4, 0x80, 0x8F, 4},
};

static bool in_range(unsigned char byte, unsigned char min, unsigned char max)
{
    return byte >= min && byte <= max;
}

size_t mm_utf8_len(const char *text, size_t len)
{
    const unsigned char *bytes = (const unsigned char *)text;
    for (size_t i = 0; len > 0 && i < sizeof forms / sizeof forms[0]; i++) {
        if (!in_range(bytes[0], forms[i].first_min, forms[i].first_max)) {
            continue;
        }
        if (forms[i].len > len) {
            return 0;
        }
        if (forms[i].len > 1 && !in_range(bytes[1], forms[i].second_min, forms[i].second_max)) {
            return 0;
        }
        for (size_t k = 2; k < forms[i].len; k++) {
            if (!in_range(bytes[k], 0x80, 0xBF)) {
                return 0;
            }
        }
        return forms[i].len;
    }
    return 0;
}

bool mm_utf8_valid(const char *text, size_t len)
{
    for (size_t pos = 0; pos < len;) {
        size_t char_len = mm_utf8_len(text + pos, len - pos);
        if (char_len == 0) {
            return false;
        }
        pos += char_len;
    }
    return true;
}

/* U+0000..U+001F, U+007F and U+0080..U+009F (a well-formed C2 80 to C2 9F). */
static bool is_control(const char *text)
{
    unsigned char first = (unsigned char)text[0];
    return first < 0x20 || first == 0x7F || (first == 0xC2 && (unsigned char)text[1] < 0xA0);
}

char *mm_printable(const char *text, size_t len, char *dst, size_t dst_len)
{
    static const char more[] = "...";
    assert(dst_len >= sizeof more);
    size_t room = dst_len - 1;
    size_t used = 0;
    size_t cut = 0; /* where "..." goes if the text turns out too long */
    for (size_t pos = 0; pos < len;) {
        size_t char_len = mm_utf8_len(text + pos, len - pos);
        bool shown = char_len > 0 && !is_control(text + pos);
        size_t out_len = shown ? char_len : 1;
        if (used + out_len > room) {
            memcpy(dst + cut, more, sizeof more);
            return dst;
        }
        if (shown) {
            memcpy(dst + used, text + pos, out_len);
        } else {
            dst[used] = '?';
        }
        used += out_len;
        if (used + sizeof more - 1 <= room) {
            cut = used;
        }
        pos += char_len > 0 ? char_len : 1;
    }
    dst[used] = '\0';
    return dst;
}

char mm_lower(char c)
{
    return (char)(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
}

bool mm_is_digit(char c)
{
    return c >= '0' && c <= '9';
}

bool mm_is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

bool mm_equal_in_any_case(const char *a, const char *b)
{
    while (*a != '\0' && mm_lower(*a) == mm_lower(*b)) {
        a++;
        b++;
    }
    return mm_lower(*a) == mm_lower(*b);
}

char *mm_trim(char *text)
{
    while (mm_is_blank(*text)) {
        text++;
    }
    size_t len = strlen(text);
    while (len > 0 && mm_is_blank(text[len - 1])) {
        len--;
    }
    text[len] = '\0';
    return text;
}

bool mm_glob(const char *pattern, const char *text, size_t text_len)
{
    const char *end = text + text_len;
    const char *star = NULL;  /* the last '*' */
    const char *taken = NULL; /* up to here it stands for what was passed */
    while (text < end) {
        if (*pattern == '*') {
            star = pattern++;
            taken = text;
        } else if (*pattern == *text && *pattern != '\0') {
            pattern++;
            text++;
        } else if (star != NULL) {
            pattern = star + 1;
            text = ++taken;
        } else {
            return false;
        }
    }
    while (*pattern == '*') {
        pattern++;
    }
    return *pattern == '\0';
}

static size_t min3(size_t a, size_t b, size_t c)
{
    const size_t ab = a < b ? a : b;
    return ab < c ? ab : c;
}

size_t mm_edit_distance(const char *a, const char *b)
{
    /* rows[i % 3][k]: from the first i of a to the first k of b */
    size_t rows[3][MM_EDIT_MAX_LEN];
    const size_t a_len = strlen(a);
    const size_t b_len = strlen(b);
    for (size_t k = 0; k <= b_len; k++) {
        rows[0][k] = k;
    }
    for (size_t i = 1; i <= a_len; i++) {
        size_t *row = rows[i % 3];
        const size_t *above = rows[(i + 2) % 3];
        row[0] = i;
        for (size_t k = 1; k <= b_len; k++) {
            row[k] = min3(row[k - 1] + 1, above[k] + 1, above[k - 1] + (a[i - 1] != b[k - 1]));
            if (i > 1 && k > 1 && a[i - 1] == b[k - 2] && a[i - 2] == b[k - 1]) {
                row[k] = min3(row[k], rows[(i + 1) % 3][k - 2] + 1, row[k]);
            }
        }
    }
    return rows[a_len % 3][b_len];
}
