/* in_root.c - runs a program with the /usr of another Debian, in its own place.
 *
 *   in_root ROOT PROGRAM [ARGUMENTS]
 *
 * ROOT is a Debian in a directory. The program finds that one's /usr, and with it its loader, its
 * C library and all other libraries and programs, in a mount namespace of its own; every other path
 * (its configuration, its spool, the plugin) is this system's. It is one process from beginning to
 * end: whoever started it has the program under that pid, and nothing forks. So the integration
 * tests run over the brokers of other Debians (scripts/matrix.sh). Needs root. */
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

static int fail(const char *what)
{
    fprintf(stderr, "in_root: %s: %s\n", what, strerror(errno));
    return 127;
}

/* Put what ROOT has under a path in the place of ours. */
static int take(const char *root, const char *path)
{
    char from[4096];
    int len = snprintf(from, sizeof from, "%s%s", root, path);
    if (len < 0 || (size_t)len >= sizeof from) {
        errno = ENAMETOOLONG;
        return -1;
    }
    return mount(from, path, NULL, MS_BIND, NULL);
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: in_root ROOT PROGRAM [ARGUMENTS]\n");
        return 127;
    }
    /* What is mounted later is seen in there, too, but not the other way round. */
    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) != 0) {
        return fail("a mount namespace");
    }
    /* The loader's list of libraries goes with /usr, and so do the links by which Debian chooses
     * programs in there: kinit is one from Debian 13 on. */
    if (take(argv[1], "/usr") != 0 || take(argv[1], "/etc/ld.so.cache") != 0 ||
        take(argv[1], "/etc/alternatives") != 0) {
        return fail(argv[1]);
    }
    execv(argv[2], argv + 2);
    return fail(argv[2]);
}
