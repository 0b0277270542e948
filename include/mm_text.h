/* mm_text.h - text from outside: is it UTF-8, and how to show it to people. Pure functions. */
#ifndef MM_TEXT_H
#define MM_TEXT_H

#include <stdbool.h>
#include <stddef.h>

/* Bytes of the UTF-8 character that text begins with, 1 to 4; 0 when it begins with none: len is 0,
 * or the form is not well (RFC 3629: too long, a surrogate, above U+10FFFF, cut off).
 *
 * Thread: any. */
size_t mm_utf8_len(const char *text, size_t len);

/* Is it UTF-8 throughout? An empty text is. Thread: any. */
bool mm_utf8_valid(const char *text, size_t len);

/* Room for 64 bytes of foreign text, "..." and the NUL: what an error line has for a value. */
#define MM_PRINTABLE_LEN 68

/* Make text from outside (len bytes) fit to stand in a line for people: control characters and
 * bytes that are no UTF-8 become '?', so that it can neither break the line nor fill it; what does
 * not fit into dst is cut between two characters and ends in "...". dst_len is at least 4. Returns
 * dst, always terminated.
 *
 * Thread: any. */
char *mm_printable(const char *text, size_t len, char *dst, size_t dst_len);

/* The names of options and settings are ASCII, and the process may have any locale: these look at
 * ASCII alone. */
char mm_lower(char c);
bool mm_is_digit(char c);
bool mm_is_blank(char c); /* a space, a tab, or one of the ends of a line */
bool mm_equal_in_any_case(const char *a, const char *b);

/* Cut the blanks off both ends, in place. Returns where the rest begins. */
char *mm_trim(char *text);

/* Does the text match the pattern, in which '*' stands for any run of bytes, also for none? Thread:
 * any. */
bool mm_glob(const char *pattern, const char *text, size_t text_len);

/* The longest text that mm_edit_distance() takes, with its NUL. */
#define MM_EDIT_MAX_LEN 64

/* Edits that make b of a, both shorter than MM_EDIT_MAX_LEN: a letter put in, left out or changed,
 * two neighbours swapped (optimal string alignment). Thread: any. */
size_t mm_edit_distance(const char *a, const char *b);

#endif
