/* mm_http.h - the endpoints for health and metrics, and the status page.
 *
 *     GET /          the status page (mm_page.h), and what it loads: /page.css, .js, .svg
 *     GET /status    the same as JSON (mm_status.h, docs/status.md)
 *     GET /metrics   Prometheus text
 *     GET /livez     200 "ok" or 503: do the workers move? Never depends on Kafka.
 *     GET /readyz    200 "ok" or 503 and the reason: can a record be stored?
 *     GET /healthz   200 "ok" or 423 "not ready", as the Go program answered, but true:
 *                    the spool takes records and Kafka is reached
 *     GET /dead      the dead letters as JSON, without payloads
 *     GET /dead/<id> one payload; 403 unless the client's address is a loopback address
 *
 * HEAD as GET (and any method on /healthz, as the Go program); else 405. Unknown paths 404
 * "404 page not found". One thread of its own; it reads counters, once a second also unasked, and
 * never touches the broker. Slow or hostile clients are limited in number, time and size, and the
 * oldest of them makes room for a new one, so that a probe is always answered. A connection carries
 * one request, whose body is not read. Where libmicrohttpd itself finds a fault of its own, HTTP
 * ends and the process goes on. */
#ifndef MM_HTTP_H
#define MM_HTTP_H

#include <stddef.h>
#include <stdint.h>

struct mm_dead;
struct mm_http;
struct mm_log;
struct mm_metrics;
struct mm_spool;

/* All pointers are borrowed and must outlive the server. */
struct mm_http_options
{
    const char *address; /* numeric IPv4 or IPv6 */
    uint16_t port;       /* 0: any free port, for tests */
    const struct mm_metrics *metrics;
    struct mm_spool *spool;
    struct mm_dead *dead;
    struct mm_log *log;
};

/* Bind and serve.
 *
 * Thread: setup; blocks all signals in the thread that it makes.
 * Errors: MM_EHTTP, errstr names address, port and the reason; MM_ENOMEM. *out is NULL then. */
int mm_http_start(const struct mm_http_options *opts,
                  struct mm_http **out,
                  char *errstr,
                  size_t errstr_len);

/* The port that is served. Thread: setup. */
uint16_t mm_http_port(const struct mm_http *h);

/* Close all connections and join the thread; at most about a second. Accepts NULL. Thread: setup.
 */
void mm_http_stop(struct mm_http *h);

#endif
