/* mm_filter.h - MQTT topic filters (MQTT 5.0 section 4.7), a compiled set of them.
 *
 * The set is immutable once made. A match costs a walk over the levels of the topic, whatever the
 * number of filters; no lock, no allocation, no system call, no recursion. Only where filters that
 * differ by '+' alone lie over each other (a/+/x beside +/b/y) is more than one way tried; each
 * node of the trie is entered at most once, so a topic can never cost more than the filters'
 * levels. */
#ifndef MM_FILTER_H
#define MM_FILTER_H

#include <stdbool.h>
#include <stddef.h>

struct mm_filter_set;

/* Compile a list of filters separated by ',' or ';'. Blanks around a filter are trimmed; empty
 * items (a trailing separator) are refused. A topic may hold these characters, a filter of the list
 * cannot name them: they always separate, and '+' stands for such a level. The text is copied. The
 * caller frees *out.
 *
 * A filter is valid UTF-8 without U+0000 and U+D800..U+DFFF, 1 to 65535 bytes; '+' stands alone in
 * its level; '#' stands alone in the last. Shared subscriptions ($share/...) are refused by name: a
 * plugin sees each message once anyway.
 *
 * Errors: MM_EINVAL, errstr names the filter (its number in the list and its text, control
 * characters shown as '?') and the rule it breaks; MM_ENOMEM. *out is NULL then.
 *
 * Thread: setup. */
int mm_filter_set_new(const char *list,
                      struct mm_filter_set **out,
                      char *errstr,
                      size_t errstr_len);

/* The same of several lists, for mm_filter_set_first(). An error is that of the first list that has
 * one. */
int mm_filter_set_new_lists(const char *const *lists,
                            size_t n_lists,
                            struct mm_filter_set **out,
                            char *errstr,
                            size_t errstr_len);

/* Accepts NULL. Thread: setup. */
void mm_filter_set_free(struct mm_filter_set *set);

/* Number of filters in the lists; one that stands there twice counts twice. Thread: any. */
size_t mm_filter_set_count(const struct mm_filter_set *set);

/* Does any filter match the topic (topic_len bytes, a topic name without wildcards)? A wildcard in
 * the first level does not match a topic that begins with '$' (section 4.7.2). An empty topic,
 * which MQTT does not know, matches nothing.
 *
 * Thread: any. */
bool mm_filter_set_match(const struct mm_filter_set *set, const char *topic, size_t topic_len);

/* The first of the lists, from 0, that has a filter which matches; SIZE_MAX: none has. Does not
 * take longer for many lists, but all filters that match are looked at. Thread: any. */
size_t mm_filter_set_first(const struct mm_filter_set *set, const char *topic, size_t topic_len);

#endif
