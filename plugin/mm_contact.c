#include "mm_contact.h"

#include "mm_certificate.h"
#include "mm_clock.h"
#include "mm_gate.h"
#include "mm_log.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define SECOND_NS UINT64_C(1000000000)

/* How long after a line the next one of its kind may come: while the trouble is the same, and when
 * there was another in between, as when two nodes of Kafka fail in two ways. */
#define AGAIN_NS (30 * SECOND_NS)
#define AGAIN_UNMENDED_NS (600 * SECOND_NS)

/* The client repeats an error of one node every 30 s at least: it is over when it does not. */
#define CALM_NS (40 * SECOND_NS)

void mm_contact_init(struct mm_contact *w, const struct mm_contact_options *opts)
{
    *w = (struct mm_contact){.opts = *opts};
    snprintf(w->mechanism, sizeof w->mechanism, "%s", opts->context.mechanism);
    snprintf(w->user, sizeof w->user, "%s", opts->context.user);
    w->opts.context.mechanism = w->mechanism;
    w->opts.context.user = w->user;
    if (w->opts.told == NULL) {
        w->opts.told = &w->own;
    }
    /* What the producer before has told is for this one to mend. */
    w->troubled = true;
    w->down = w->opts.told->trouble != MM_TROUBLE_NONE ||
              (opts->gate != NULL && mm_gate_pause_ms(opts->gate) != 0);
    pthread_mutex_init(&w->lock, NULL);
}

void mm_contact_fini(struct mm_contact *w)
{
    pthread_mutex_destroy(&w->lock);
}

/* --- telling ------------------------------------------------------------------------------------
 */

/* May a line on this trouble be written now? Then *n_held is how many were not. */
static bool may_tell(struct mm_contact_told *told, enum mm_trouble trouble, uint64_t *n_held)
{
    const uint64_t now_ns = mm_clock_monotonic_ns();
    const bool lasts = told->trouble == trouble && mm_trouble_needs_mending(trouble);
    const uint64_t pause_ns = lasts ? AGAIN_UNMENDED_NS : AGAIN_NS;
    uint64_t last_ns = told->lines[trouble].last_ns;
    if (last_ns != 0 && now_ns - last_ns < pause_ns) {
        told->lines[trouble].n_held++;
        return false;
    }
    *n_held = told->lines[trouble].n_held;
    told->lines[trouble].last_ns = now_ns;
    told->lines[trouble].n_held = 0;
    return true;
}

static void tell(struct mm_contact *w,
                 enum mm_trouble trouble,
                 const struct mm_trouble_event *event,
                 const char *what)
{
    const bool shut = w->opts.gate != NULL && mm_trouble_is_refusal(trouble);
    uint64_t n_held = 0;
    bool quiet = w->opts.quiet;
    bool allowed = false;
    if (shut) {
        /* One tells it for all, whoever it is: the others may never come to be refused. */
        allowed = mm_gate_shut(w->opts.gate, mm_clock_monotonic_ns(), (int)trouble);
        quiet = false;
    } else {
        allowed = may_tell(w->opts.told, trouble, &n_held);
        w->opts.told->trouble = trouble;
    }
    if (!allowed) {
        return;
    }
    const char *remedy = mm_trouble_remedy(trouble);
    if (!mm_trouble_needs_mending(trouble)) {
        mm_log_write(w->opts.log, quiet ? MM_LOG_DEBUG : MM_LOG_WARN,
                     "Kafka: %s%s%s (%s; %" PRIu64 " more since the last such line)", what,
                     remedy[0] != '\0' ? "; " : "", remedy, event->error, n_held);
        return;
    }
    char pause[64] = "";
    if (shut) {
        snprintf(pause, sizeof pause, ", tried again every %u to %u s",
                 (unsigned)(w->opts.gate->first_ms / 1000),
                 (unsigned)(w->opts.gate->max_ms / 1000));
    }
    mm_log_write(w->opts.log, quiet ? MM_LOG_DEBUG : MM_LOG_ERROR,
                 "%s; %s. Messages wait%s (%s: %s)", what, remedy, pause, event->error,
                 event->text);
}

/* Kafka's answer does not say why it refused our certificate. That it is out of date can be seen.
 */
static bool is_own_expired(const struct mm_contact *w)
{
    struct mm_certificate_period period;
    return w->opts.cert_file != NULL && mm_certificate_read(w->opts.cert_file, &period) &&
           period.end_s < (int64_t)(mm_clock_realtime_ms() / 1000);
}

static void look_at(struct mm_contact *w, const struct mm_trouble_event *event)
{
    struct mm_trouble_context context = w->opts.context;
    enum mm_trouble trouble = mm_trouble_of(&context, event);
    if (trouble == MM_TROUBLE_CERT_REFUSED && is_own_expired(w)) {
        trouble = MM_TROUBLE_CERT_EXPIRED;
    }
    w->n_errors++;
    w->troubled = true;
    w->last_error_ns = mm_clock_monotonic_ns();
    if (trouble == MM_TROUBLE_LOST) {
        mm_log_write(w->opts.log, MM_LOG_DEBUG, "Kafka: %s", event->text);
        return;
    }
    if (mm_trouble_is_guess(trouble) && w->guess != trouble) {
        w->guess = trouble;
        mm_log_write(w->opts.log, MM_LOG_DEBUG, "Kafka: %s", event->text);
        return;
    }
    w->trouble = trouble;
    char what[256];
    mm_trouble_what(trouble, &context, event, what, sizeof what);
    snprintf(w->last_error, sizeof w->last_error, "%s", what);
    tell(w, trouble, event, what);
}

void mm_contact_error(struct mm_contact *w, const char *error, const char *text)
{
    struct mm_trouble_event event = {.error = error, .text = text};
    pthread_mutex_lock(&w->lock);
    event.x509_error = w->x509_error;
    event.x509_depth = w->x509_depth;
    pthread_mutex_unlock(&w->lock);
    look_at(w, &event);
}

void mm_contact_poll(struct mm_contact *w)
{
    char text[sizeof w->hang_up] = "";
    pthread_mutex_lock(&w->lock);
    if (w->hang_up[0] != '\0') {
        memcpy(text, w->hang_up, sizeof text);
        w->hang_up[0] = '\0';
    }
    pthread_mutex_unlock(&w->lock);
    if (text[0] != '\0') {
        const struct mm_trouble_event event = {.error = "_TRANSPORT", .text = text};
        look_at(w, &event);
    }
}

void mm_contact_down(struct mm_contact *w)
{
    w->troubled = true;
    w->down = true;
}

static void tell_mended(struct mm_contact *w, enum mm_trouble trouble, bool quiet)
{
    if (mm_trouble_needs_mending(trouble)) {
        mm_log_write(w->opts.log, quiet ? MM_LOG_DEBUG : MM_LOG_INFO, "Kafka: mended; it was: %s",
                     mm_trouble_name(trouble));
    }
}

void mm_contact_reached(struct mm_contact *w)
{
    if (!w->troubled) {
        return;
    }
    if (w->opts.gate != NULL) {
        mm_gate_open(w->opts.gate);
    }
    /* Where some of Kafka's nodes answer and one does not, that one is not mended. */
    if (!w->down && mm_clock_monotonic_ns() - w->last_error_ns < CALM_NS) {
        return;
    }
    w->troubled = false;
    w->down = false;
    w->guess = w->trouble = MM_TROUBLE_NONE;
    w->last_error[0] = '\0';
    tell_mended(w, w->opts.told->trouble, w->opts.quiet);
    if (w->opts.gate != NULL) {
        tell_mended(w, (enum mm_trouble)mm_gate_mended(w->opts.gate), false);
    }
    w->opts.told->trouble = MM_TROUBLE_NONE;
}

/* --- from other threads -------------------------------------------------------------------------
 */

void mm_contact_hang_up(struct mm_contact *w, const char *text)
{
    pthread_mutex_lock(&w->lock);
    snprintf(w->hang_up, sizeof w->hang_up, "%s", text);
    pthread_mutex_unlock(&w->lock);
}

void mm_contact_certificate(struct mm_contact *w, int x509_error, int depth)
{
    pthread_mutex_lock(&w->lock);
    w->x509_error = x509_error;
    w->x509_depth = depth;
    pthread_mutex_unlock(&w->lock);
}

void mm_contact_let_in(struct mm_contact *w)
{
    if (w->opts.gate != NULL) {
        mm_gate_open(w->opts.gate);
    }
}

bool mm_contact_may_connect(struct mm_contact *w)
{
    return w->opts.gate == NULL || mm_gate_pass(w->opts.gate, mm_clock_monotonic_ns());
}
