/* The ledger over restarts, on a real disk and with a real kill -9. What a made-up log has to show
 * is in test_ledger.c. */
#include "mm_error.h"
#include "mm_layout.h"
#include "mm_metrics.h"
#include "mm_spool.h"
#include "scratch.h"

#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static char directory[SCRATCH_LEN];

static int make_directory(void **state)
{
    (void)state;
    return scratch_make(directory, "ledger");
}

static int remove_directory(void **state)
{
    (void)state;
    return scratch_remove(directory);
}

/* --- a plugin -----------------------------------------------------------------------------------
 */

struct plugin
{
    struct mm_metrics *metrics;
    struct mm_spool *spool;
    struct mm_spool_reader *reader;
};

/* Everything but mm_metrics_restore(). False: it could not be done. */
static bool begin(struct plugin *p)
{
    struct mm_metrics_info info = {
        .version = "1", .librdkafka = "2", .mosquitto = "3", .n_workers = 1};
    if (mm_metrics_new(&info, &p->metrics) != 0) {
        return false;
    }
    struct mm_spool_options opts = {
        .max_bytes = 1048576,
        .n_readers = 1,
        .dir = directory,
        .min_free = 0,
        .counters = mm_metrics_counters,
        .counters_arg = p->metrics,
    };
    char errstr[256];
    if (mm_spool_open(&opts, &p->spool, errstr, sizeof errstr) != 0) {
        return false;
    }
    p->reader = mm_spool_reader(p->spool, 0);
    return true;
}

static struct plugin start(void)
{
    struct plugin p;
    assert_true(begin(&p));
    mm_metrics_restore(p.metrics, p.spool, mm_spool_found(p.spool));
    return p;
}

static void stop(struct plugin *p)
{
    mm_spool_close(p->spool);
    mm_metrics_free(p->metrics);
}

static bool receive(struct plugin *p)
{
    struct mm_record r = {
        .type = MM_RECORD_MESSAGE, .topic = "t", .topic_len = 1, .payload = "x", .payload_len = 1};
    struct mm_metrics_broker *b = mm_metrics_broker(p->metrics);
    if (mm_spool_append(p->spool, &r) != 0) {
        return false;
    }
    mm_counter_add(&b->spooled, 1);
    mm_counter_add(&b->received[2], 1);
    return true;
}

static bool take(struct plugin *p, struct mm_spool_pos *pos)
{
    struct mm_record r;
    return mm_spool_next(p->reader, 100, &r, pos) == 0;
}

static void deliver(struct plugin *p)
{
    struct mm_metrics_worker *w = mm_metrics_worker(p->metrics, 0);
    mm_counter_add(mm_spool_take_repeat(p->spool) ? &w->repeated : &w->delivered, 1);
}

static void tell(struct plugin *p, uint64_t n_taken, uint64_t n_held)
{
    mm_gauge_set(&mm_metrics_worker(p->metrics, 0)->taken, n_taken);
    mm_gauge_set(&mm_metrics_worker(p->metrics, 0)->held, n_held);
}

static struct mm_snapshot snapshot(const struct plugin *p)
{
    struct mm_snapshot shot;
    mm_metrics_snapshot(p->metrics, p->spool, &shot);
    return shot;
}

/* What STATE says now: what a start would find if the process were killed. */
static struct mm_layout_state read_state(void)
{
    char path[sizeof directory + 10];
    snprintf(path, sizeof path, "%s/STATE", directory);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    struct mm_layout_state best = {0};
    while (best.generation == 0) {
        for (int i = 0; i < 2; i++) {
            uint8_t slot[MM_LAYOUT_STATE_LEN];
            struct mm_layout_state state;
            ssize_t n = pread(fd, slot, sizeof slot, (off_t)i * MM_LAYOUT_STATE_LEN);
            /* One may be just being written. */
            if (n == sizeof slot && mm_layout_decode_state(slot, &state) == 0 &&
                state.generation > best.generation) {
                best = state;
            }
        }
    }
    close(fd);
    return best;
}

/* --- tests --------------------------------------------------------------------------------------
 */

/* 20 messages; 10 taken, 7 delivered: 5 in order and 2 behind one that is not; a page; 3 more
 * messages; killed. What went wrong is the exit status. */
static int live_and_die(void)
{
    struct plugin p;
    if (!begin(&p)) {
        return 2;
    }
    mm_metrics_restore(p.metrics, p.spool, mm_spool_found(p.spool));
    for (int i = 0; i < 20; i++) {
        if (!receive(&p)) {
            return 3;
        }
    }
    struct mm_spool_pos pos[10];
    for (int i = 0; i < 10; i++) {
        if (!take(&p, &pos[i])) {
            return 4;
        }
    }
    for (int i = 0; i < 7; i++) {
        deliver(&p);
    }
    mm_spool_finish(p.reader, &pos[5], 5, 2);
    tell(&p, 10, 3);
    struct mm_snapshot shot = snapshot(&p);
    char *page;
    size_t len;
    if (mm_metrics_text(p.metrics, p.spool, &page, &len) != 0 || shot.ledger_difference != 0) {
        return 5;
    }
    for (int i = 0; i < 3; i++) {
        if (!receive(&p)) {
            return 6;
        }
    }
    raise(SIGKILL);
    return 7;
}

static void kill_one(void)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        _exit(live_and_die());
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (!WIFSIGNALED(status)) {
        fail_msg("the process was not killed, but ended with %d", WEXITSTATUS(status));
    }
    assert_int_equal(WTERMSIG(status), SIGKILL);
}

static void test_killed(void **state)
{
    (void)state;
    kill_one();
    struct plugin p = start();
    struct mm_snapshot shot = snapshot(&p);
    assert_int_equal(shot.ledger_difference, 0);
    assert_int_equal(shot.received, 23);
    assert_int_equal(shot.delivered, 7);
    assert_int_equal(shot.in_spool, 16);
    struct mm_spool_pos pos;
    uint64_t n = 0;
    while (take(&p, &pos)) {
        n++;
        deliver(&p);
        mm_spool_finish(p.reader, NULL, n, 0);
        tell(&p, n, 0);
        assert_int_equal(snapshot(&p).ledger_difference, 0);
    }
    assert_int_equal(n, 18);
    for (int i = 0; i < 2; i++) {
        shot = snapshot(&p);
        assert_int_equal(shot.ledger_difference, 0);
        assert_int_equal(shot.received, 23);
        assert_int_equal(shot.delivered, 23);
        assert_int_equal(shot.in_spool, 0);
        uint64_t counters[MM_LAYOUT_COUNTERS];
        mm_metrics_counters(p.metrics, counters);
        assert_int_equal(counters[MM_SLOT_REPEATED], 2);
        assert_int_equal(counters[MM_SLOT_RECEIVED + 2], 20);
        /* And once more after an orderly stop. */
        stop(&p);
        p = start();
    }
    stop(&p);
}

/* Whatever the log writes before the counters are restored does not forget them. */
static void test_killed_during_the_start(void **state)
{
    (void)state;
    struct plugin p = start();
    for (int i = 0; i < 5; i++) {
        assert_true(receive(&p));
    }
    stop(&p);
    assert_true(begin(&p));
    mm_spool_checkpoint(p.spool);
    assert_int_equal(read_state().counters[MM_SLOT_SPOOLED], 5);
    assert_int_equal(read_state().counters[MM_SLOT_RECEIVED + 2], 5);
    stop(&p);
    p = start();
    assert_int_equal(snapshot(&p).received, 5);
    assert_int_equal(snapshot(&p).in_spool, 5);
    stop(&p);
}

struct rival
{
    struct mm_spool *spool;
    atomic_bool stop;
};

/* Somebody else who writes STATE all the time. */
static void *write_states(void *arg)
{
    struct rival *rival = arg;
    while (!atomic_load(&rival->stop)) {
        mm_spool_checkpoint(rival->spool);
    }
    return NULL;
}

static void test_what_a_page_shows_is_in_STATE(void **state)
{
    (void)state;
    struct plugin p = start();
    struct rival rival = {.spool = p.spool};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, write_states, &rival), 0);
    for (uint64_t i = 1; i <= 500; i++) {
        mm_counter_add(&mm_metrics_worker(p.metrics, 0)->delivered, 1);
        char *page;
        size_t len;
        assert_int_equal(mm_metrics_text(p.metrics, p.spool, &page, &len), 0);
        free(page);
        assert_int_equal(read_state().counters[MM_SLOT_DELIVERED], i);
    }
    atomic_store(&rival.stop, true);
    pthread_join(thread, NULL);
    stop(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_killed, make_directory, remove_directory),
        cmocka_unit_test_setup_teardown(test_killed_during_the_start, make_directory,
                                        remove_directory),
        cmocka_unit_test_setup_teardown(test_what_a_page_shows_is_in_STATE, make_directory,
                                        remove_directory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
