/* as_user.h - do as another user may: what the broker will be able to read and write is asked of
 * the system by the user that it runs as. For a process with one thread. */
#ifndef AS_USER_H
#define AS_USER_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct as_user
{
    bool changed;
    gid_t *groups; /* that this process had */
    int n_groups;
};

/* Take on the effective user and groups of a name, if this process is root's; else nothing
 * changes and u->changed is false. False: there is no such user, or the system refused; nothing has
 * changed. */
bool as_user_begin(const char *name, struct as_user *u);

/* Be who we were. Ends the process if that fails, which it cannot for one that was root. */
void as_user_end(struct as_user *u);

#endif
