#include "as_user.h"

#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

bool as_user_begin(const char *name, struct as_user *u)
{
    *u = (struct as_user){false, NULL, 0};
    const struct passwd *pw = getpwnam(name);
    if (pw == NULL) {
        return false;
    }
    if (geteuid() != 0 || pw->pw_uid == 0) {
        return true;
    }
    u->n_groups = getgroups(0, NULL);
    u->groups = calloc((size_t)(u->n_groups > 0 ? u->n_groups : 0) + 1, sizeof *u->groups);
    if (u->groups == NULL || u->n_groups < 0 || getgroups(u->n_groups, u->groups) < 0 ||
        initgroups(name, pw->pw_gid) != 0) {
        free(u->groups);
        return false;
    }
    u->changed = true;
    if (setegid(pw->pw_gid) != 0 || seteuid(pw->pw_uid) != 0) {
        as_user_end(u);
        return false;
    }
    return true;
}

void as_user_end(struct as_user *u)
{
    if (!u->changed) {
        return;
    }
    if (seteuid(getuid()) != 0 || setegid(getgid()) != 0 ||
        setgroups((size_t)u->n_groups, u->groups) != 0) {
        perror("metamorphosis: cannot be root again");
        exit(1);
    }
    free(u->groups);
    u->changed = false;
}
