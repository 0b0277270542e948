#include "prove_broker.h"

#include "mm_clock.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_MS UINT64_C(1000000)
#define LOG_LINES 15
#define LOG_TAIL 8192

/* A port on which nobody listens now. 0: there is none. */
static uint16_t free_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    uint16_t port = 0;
    if (fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0 &&
        getsockname(fd, (struct sockaddr *)&address, &len) == 0) {
        port = ntohs(address.sin_port);
    }
    if (fd >= 0) {
        close(fd);
    }
    return port;
}

static bool fail(const char *what)
{
    fprintf(stderr, "metamorphosis: %s: %s\n", what, strerror(errno));
    return false;
}

bool prove_broker_make(struct prove_broker *b, const char *program)
{
    const char *named = getenv("TMPDIR");
    char parent[4096];
    *b = (struct prove_broker){.program = program};
    int n = realpath(named == NULL || named[0] == '\0' ? "/tmp" : named, parent) == NULL
                ? -1
                : snprintf(b->dir, sizeof b->dir, "%s/metamorphosis-prove-XXXXXX", parent);
    if (n < 0 || (size_t)n >= sizeof b->dir || mkdtemp(b->dir) == NULL) {
        return fail("a directory for the broker");
    }
    snprintf(b->config, sizeof b->config, "%s/mosquitto.conf", b->dir);
    b->port = free_port();
    return b->port != 0 ? true : fail("a port of 127.0.0.1");
}

/* In the child: what is preloaded already stays. */
static void watch_syncs(const struct prove_broker *b)
{
    char text[2 * sizeof b->dir];
    const char *others = getenv("LD_PRELOAD");
    snprintf(text, sizeof text, "%s%s%s", others == NULL ? "" : others,
             others == NULL || others[0] == '\0' ? "" : ":", b->preload);
    setenv("LD_PRELOAD", text, 1);
    setenv("MM_POWER_WATCHED", b->dir, 1);
    snprintf(text, sizeof text, "%s/disk", b->dir);
    setenv("MM_POWER_DISK", text, 1);
    snprintf(text, sizeof text, "%s/" PROVE_BROKER_SLOWEST, b->dir);
    setenv("MM_POWER_SLOWEST", text, 1);
}

/* In the child. */
static void become_broker(const struct prove_broker *b, int log_fd)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    dup2(log_fd, STDOUT_FILENO);
    dup2(log_fd, STDERR_FILENO);
    if (b->preload[0] != '\0') {
        watch_syncs(b);
    }
    if (b->program != NULL) {
        execl(b->program, b->program, "-c", b->config, (char *)NULL);
    } else {
        execlp("mosquitto", "mosquitto", "-c", b->config, (char *)NULL);
        execl("/usr/sbin/mosquitto", "mosquitto", "-c", b->config, (char *)NULL);
    }
    dprintf(STDERR_FILENO, "%s cannot be started: %s\n",
            b->program != NULL ? b->program : "mosquitto", strerror(errno));
    _exit(127);
}

bool prove_broker_start(struct prove_broker *b)
{
    char path[sizeof b->dir + 32];
    snprintf(path, sizeof path, "%s/mosquitto.log", b->dir);
    int log_fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log_fd < 0) {
        return fail(path);
    }
    b->pid = fork();
    if (b->pid == 0) {
        become_broker(b, log_fd);
    }
    close(log_fd);
    if (b->pid < 0) {
        b->pid = 0;
        return fail("the broker");
    }
    return true;
}

void prove_broker_kill(struct prove_broker *b)
{
    if (b->pid > 0) {
        kill(b->pid, SIGKILL);
        while (waitpid(b->pid, NULL, 0) < 0 && errno == EINTR) {
        }
        b->pid = 0;
    }
}

bool prove_broker_stop(struct prove_broker *b, uint32_t timeout_ms)
{
    const uint64_t end_ns = mm_clock_monotonic_ns() + timeout_ms * NS_PER_MS;
    if (b->pid <= 0) {
        return true;
    }
    kill(b->pid, SIGTERM);
    while (mm_clock_monotonic_ns() < end_ns) {
        if (waitpid(b->pid, NULL, WNOHANG) == b->pid) {
            b->pid = 0;
            return true;
        }
        nanosleep(&(struct timespec){.tv_nsec = 10 * (long)NS_PER_MS}, NULL);
    }
    prove_broker_kill(b);
    return false;
}

bool prove_broker_ended(struct prove_broker *b, char *text, size_t text_len)
{
    int status;
    if (b->pid <= 0 || waitpid(b->pid, &status, WNOHANG) != b->pid) {
        return false;
    }
    b->pid = 0;
    if (WIFSIGNALED(status)) {
        snprintf(text, text_len, "the broker was ended by signal %d (%s)", WTERMSIG(status),
                 strsignal(WTERMSIG(status)));
    } else {
        snprintf(text, text_len, "the broker ended with exit code %d", WEXITSTATUS(status));
    }
    return true;
}

void prove_broker_show_log(const struct prove_broker *b)
{
    char path[sizeof b->dir + 32];
    char text[LOG_TAIL + 1];
    snprintf(path, sizeof path, "%s/mosquitto.log", b->dir);
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        return;
    }
    if (fseek(file, -LOG_TAIL, SEEK_END) != 0) {
        rewind(file);
    }
    size_t len = fread(text, 1, LOG_TAIL, file);
    (void)fclose(file);
    text[len] = '\0';
    const char *line = text + len;
    for (int n = 0; line > text && n <= LOG_LINES; line--) {
        n += line[-1] == '\n' && line != text + len;
        if (n == LOG_LINES) {
            break;
        }
    }
    fprintf(stderr, "--- the end of %s ---\n%s", path, line);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

int prove_broker_remove_tree(const char *path)
{
    return nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

void prove_broker_remove(const struct prove_broker *b)
{
    (void)prove_broker_remove_tree(b->dir);
}
