#include "interrupt.h"

#include "mm_clock.h"

#include <signal.h>
#include <stddef.h>
#include <stdint.h>

/* timeout(1) sends its signal to the process and to its group: twice at once. */
#define ONCE_NS UINT64_C(1000000000)

static volatile sig_atomic_t interrupted;

/* No other comes meanwhile: both are blocked. */
static void on_signal(int number)
{
    static uint64_t first_ns;
    const uint64_t now_ns = mm_clock_monotonic_ns();
    if (interrupted == 0) {
        first_ns = now_ns;
        interrupted = 1;
    } else if (now_ns - first_ns >= ONCE_NS) {
        (void)signal(number, SIG_DFL);
        (void)raise(number); /* ends the process as soon as this function has ended */
    }
}

void interrupt_catch(void)
{
    struct sigaction action = {.sa_handler = on_signal};
    sigemptyset(&action.sa_mask);
    sigaddset(&action.sa_mask, SIGINT);
    sigaddset(&action.sa_mask, SIGTERM);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

bool interrupt_came(void)
{
    return interrupted != 0;
}
