#include "health.h"

#include "arguments.h"
#include "mm_clock.h"
#include "mm_text.h"
#include "settings.h"

#include <errno.h>
#include <getopt.h>
#include <netdb.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

const char health_help[] =
    "Ask the broker on this machine how it is, and print its answer: for health checks of\n"
    "containers, which then need no HTTP client. FILE is a mosquitto.conf or a config_file: the\n"
    "port and the address stand there, else in the environment (HEALTH_PORT, HEALTH_ADDRESS).\n"
    "\n"
    "  --path PATH     what to ask for; /livez, which does not depend on Kafka\n"
    "  --timeout S     seconds to wait in all, 1 to 600; 5\n"
    "\n"
    "Exit codes: 0 the answer has the status 200, 1 another one or none, 2 wrong use.\n";

#define DEFAULT_PATH "/livez"
#define MAX_PATH_LEN 200
#define MAX_ANSWER 4096

struct health_args
{
    const char *file; /* NULL: the environment alone */
    const char *path;
    uint32_t timeout_s;
};

/* It goes into a request line as it is: printable ASCII without a blank. */
static bool is_path(const char *text)
{
    if (text[0] != '/' || strlen(text) > MAX_PATH_LEN) {
        return false;
    }
    for (const char *at = text; *at != '\0'; at++) {
        if (*at <= ' ' || *at > '~') {
            return false;
        }
    }
    return true;
}

static bool read_args(int argc, char **argv, struct health_args *args)
{
    static const struct option options[] = {
        {"path", required_argument, NULL, 'p'},
        {"timeout", required_argument, NULL, 't'},
        {NULL, 0, NULL, 0},
    };
    *args = (struct health_args){.path = DEFAULT_PATH, .timeout_s = 5};
    optind = 0; /* the GNU way to begin anew */
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (option == 'p' && is_path(optarg)) {
            args->path = optarg;
        } else if (option != 't' || !argument_number("timeout", optarg, 1, 600, &args->timeout_s)) {
            return false;
        }
    }
    args->file = optind < argc ? argv[optind] : NULL;
    return optind >= argc - 1;
}

/* Where to ask, as the settings have it. False: a line has said why it is not known. */
static bool find_target(const char *file, char *address, size_t address_len, uint16_t *port)
{
    const struct settings_options opts = {.environment = true};
    struct findings findings = {0};
    struct settings settings = {0};
    if (file != NULL) {
        (void)settings_load(file, &opts, &findings, &settings);
    } else {
        const struct mm_config_source source = {
            .getenv = settings_variable,
            .report = findings_report,
            .report_arg = &findings,
        };
        (void)mm_config_new(&source, &settings.config);
    }
    const struct mm_config *config = settings_best(&settings);
    bool known = false;
    if (config == NULL) {
        findings_print(&findings, stderr);
        fputs("metamorphosis: the health port is not known: the settings have mistakes\n", stderr);
    } else if (config->health_port == 0) {
        fputs("metamorphosis: health_port is 0: there is nobody to ask\n", stderr);
    } else {
        known = true;
        *port = config->health_port;
        const bool all = strcmp(config->health_address, "0.0.0.0") == 0;
        snprintf(address, address_len, "%s", all ? "127.0.0.1" : config->health_address);
    }
    findings_rename(&findings, NULL, NULL);
    findings_free(&findings);
    settings_free(&settings);
    return known;
}

static int64_t now_ms(void)
{
    return (int64_t)(mm_clock_monotonic_ns() / 1000000);
}

/* Wait until the socket is ready for it. errno says why not. */
static bool wait_for(int fd, short events, int64_t deadline_ms)
{
    for (;;) {
        const int64_t left = deadline_ms - now_ms();
        struct pollfd ready = {.fd = fd, .events = events};
        const int n = left <= 0 ? 0 : poll(&ready, 1, (int)left);
        if (n > 0) {
            return true;
        }
        if (n == 0) {
            errno = ETIMEDOUT;
            return false;
        }
        if (errno != EINTR) {
            return false;
        }
    }
}

/* Connect to a numeric address. Returns the socket; -1 with errno. */
static int open_connection(const char *address, uint16_t port, int64_t deadline_ms)
{
    char service[6];
    snprintf(service, sizeof service, "%u", (unsigned int)port);
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
    struct addrinfo *found = NULL;
    if (getaddrinfo(address, service, &hints, &found) != 0) {
        errno = EADDRNOTAVAIL;
        return -1;
    }
    int fd = socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int err = 0;
    if (fd < 0 || (connect(fd, found->ai_addr, found->ai_addrlen) != 0 && errno != EINPROGRESS) ||
        !wait_for(fd, POLLOUT, deadline_ms)) {
        err = errno;
    } else {
        socklen_t len = sizeof err;
        getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len);
    }
    freeaddrinfo(found);
    if (err != 0 && fd >= 0) {
        close(fd);
        fd = -1;
    }
    errno = err;
    return fd;
}

/* Send the request, which fits into any socket's buffer, and read the answer until its end. */
static bool exchange(int fd, const char *path, int64_t deadline_ms, char answer[MAX_ANSWER])
{
    char request[MAX_PATH_LEN + 64];
    const int len =
        snprintf(request, sizeof request, "GET %s HTTP/1.0\r\nHost: localhost\r\n\r\n", path);
    if (send(fd, request, (size_t)len, MSG_NOSIGNAL) != len) {
        return false;
    }
    size_t n = 0;
    while (n < MAX_ANSWER - 1) {
        if (!wait_for(fd, POLLIN, deadline_ms)) {
            return false;
        }
        const ssize_t got = recv(fd, answer + n, MAX_ANSWER - 1 - n, 0);
        if (got < 0 && errno != EINTR && errno != EAGAIN) {
            return false;
        }
        if (got == 0) {
            break;
        }
        n += got > 0 ? (size_t)got : 0;
    }
    answer[n] = '\0';
    return true;
}

/* Print what was answered; the exit code is in its status. */
static int judge(const char *answer)
{
    const char *status = strncmp(answer, "HTTP/1.", 7) == 0 ? strchr(answer, ' ') : NULL;
    const char *body = strstr(answer, "\r\n\r\n");
    if (status == NULL || body == NULL) {
        fputs("metamorphosis: what answers does not speak HTTP\n", stderr);
        return 1;
    }
    char line[MAX_ANSWER];
    body += 4;
    puts(mm_printable(body, strcspn(body, "\r\n"), line, sizeof line));
    return strncmp(status, " 200 ", 5) == 0 ? 0 : 1;
}

int run_health(int argc, char **argv)
{
    struct health_args args;
    char address[64];
    uint16_t port = 0;
    if (!read_args(argc, argv, &args)) {
        return 2;
    }
    if (!find_target(args.file, address, sizeof address, &port)) {
        return 1;
    }
    const int64_t deadline_ms = now_ms() + (int64_t)args.timeout_s * 1000;
    char answer[MAX_ANSWER];
    const int fd = open_connection(address, port, deadline_ms);
    if (fd < 0 || !exchange(fd, args.path, deadline_ms, answer)) {
        fprintf(stderr, "metamorphosis: %s port %u, %s: %s\n", address, (unsigned int)port,
                args.path, strerror(errno));
        if (fd >= 0) {
            close(fd);
        }
        return 1;
    }
    close(fd);
    return judge(answer);
}
