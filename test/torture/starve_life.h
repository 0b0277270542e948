/* starve_life.h - the lives that are lived while something fails.
 *
 * A life does with a part of the plugin all that the plugin does with it, and takes each error as
 * the part's header says it. What it was promised it notes; afterwards, when nothing fails any
 * more, that must hold. */
#ifndef STARVE_LIFE_H
#define STARVE_LIFE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct starve_life
{
    const char *name;
    bool is_slow;          /* takes as much as a second: the short form tries some of the faults */
    void (*prepare)(void); /* NULL: nothing */
    void (*live)(void);
    void (*verify)(void); /* NULL: nothing */
};

extern const struct starve_life starve_parts[]; /* starve_parts.c; ends with .name NULL */
extern const struct starve_life starve_whole[]; /* starve_whole.c */
extern const struct starve_life starve_tool[];  /* starve_tool.c */

/* Where files can be made; removed at the end. */
extern char starve_dir[256];

/* A log of 60 records in segments of 32 KiB, as a process leaves it that was killed; damaged: in a
 * record, a copy of a header and a seal. Returns its directory, which the lives of the parts use.
 */
const char *starve_left_spool(bool damaged);

/* A promise: when it does not hold, the test tells where it is, and ends. */
#define CHECK(condition) starve_check(condition, #condition, __FILE__, __LINE__)
void starve_check(bool condition, const char *text, const char *file, int line);

#endif
