/* In the tool: its calls fail as the environment says, and the file that the variable
 * MM_STARVE_FAILED names is made when one of them has. */
#include "starve.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

static void tell(void)
{
    const char *path = getenv("MM_STARVE_FAILED");
    if (starve_disarm() && path != NULL) {
        const int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        if (fd >= 0) {
            close(fd);
        }
    }
}

__attribute__((constructor)) static void begin(void)
{
    if (atexit(tell) == 0) {
        (void)starve_inherit(getenv(STARVE_VARIABLE));
    }
}
