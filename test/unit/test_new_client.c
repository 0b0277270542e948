/* How long a Kafka client takes to begin and to end; see rig.h. Each was once up to a second, by
 * the timers of some versions of librdkafka. And what its connections, or that it cannot be made,
 * mean to the gate that all clients share. */
#include "rig.h"

#include "mm_clock.h"
#include "mm_config.h"
#include "mm_error.h"
#include "mm_gate.h"
#include "mm_kafka.h"
#include "mm_thread.h"

#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define N_CLIENTS 10

#define GATE_PAUSE_MS 600000

/* Less than the shortest of those times, and more than it takes on a slow machine. */
#define SLOW_MS 450

struct life
{
    struct mm_kafka *kafka;
    uint64_t n_delivered;
    uint64_t first_ms; /* from its making until its first message was delivered */
    uint64_t end_ms;   /* that its end took */
};

static void on_report(void *arg, const struct mm_kafka_report *report)
{
    struct life *l = arg;
    assert_int_equal(report->class, MM_KAFKA_DELIVERED);
    l->n_delivered++;
}

static void deliver_one(struct life *l)
{
    const struct mm_kafka_message m = {
        .topic = "mqtt", .key = "k", .key_len = 1, .value = "v", .value_len = 1, .tag = l};
    struct mm_kafka_report report;
    assert_int_equal(mm_kafka_produce(l->kafka, &m, &report), 0);
    for (uint64_t begin_ms = now_ms(); l->n_delivered == 0 && now_ms() < begin_ms + 10000;) {
        mm_kafka_poll(l->kafka, 20);
    }
    assert_int_equal(l->n_delivered, 1);
}

/* A client that delivers one message. */
static void live(const struct mm_config *config, bool careful, struct life *l)
{
    const struct mm_kafka_options opts = {
        .config = config, .single = careful, .careful = careful, .on_report = on_report, .arg = l};
    char errstr[256];
    *l = (struct life){.n_delivered = 0};
    uint64_t begin_ms = now_ms();
    assert_int_equal(mm_kafka_new(&opts, &l->kafka, errstr, sizeof errstr), 0);
    deliver_one(l);
    uint64_t end_ms = now_ms();
    mm_kafka_close(l->kafka, 1000);
    l->first_ms = end_ms - begin_ms;
    l->end_ms = now_ms() - end_ms;
}

/* One behind the other, every other one as it judges suspects. */
static void test_it_begins_and_ends_in_no_second(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    struct mm_config *config = rig_config(g);
    sigset_t before;
    mm_thread_block_signals(&before);
    int n_slow_first = 0;
    int n_slow_ends = 0;
    for (int i = 0; i < N_CLIENTS; i++) {
        struct life l;
        live(config, i % 2 == 1, &l);
        print_message("first message after %d ms, ended in %d ms\n", (int)l.first_ms,
                      (int)l.end_ms);
        n_slow_first += l.first_ms >= SLOW_MS;
        n_slow_ends += l.end_ms >= SLOW_MS;
    }
    mm_thread_restore_signals(&before);
    mm_config_free(config);
    rig_free(g);
    assert_in_range(n_slow_first, 0, 2);
    assert_in_range(n_slow_ends, 0, 1);
}

/* One may pass now, and the next in ten minutes. */
static void shut_for_all_but_one(struct mm_gate *gate)
{
    const uint64_t pause_ns = GATE_PAUSE_MS * UINT64_C(1000000);
    mm_gate_init(gate, GATE_PAUSE_MS, GATE_PAUSE_MS);
    assert_true(mm_gate_shut(gate, mm_clock_monotonic_ns() - pause_ns, 1));
}

/* Behind a gate through which one connection may pass, which finds the password right again: it
 * opens the gate for all others that the client needs. */
static void test_who_is_let_in_opens_the_gate(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    struct mm_config *config = rig_config(g);
    struct mm_gate gate;
    shut_for_all_but_one(&gate);
    assert_int_equal(mm_gate_pause_ms(&gate), GATE_PAUSE_MS);
    sigset_t before;
    mm_thread_block_signals(&before);
    struct life l = {.n_delivered = 0};
    const struct mm_kafka_options opts = {
        .config = config, .gate = &gate, .on_report = on_report, .arg = &l};
    char errstr[256];
    assert_int_equal(mm_kafka_new(&opts, &l.kafka, errstr, sizeof errstr), 0);
    deliver_one(&l);
    assert_int_equal(mm_gate_pause_ms(&gate), 0);
    mm_kafka_close(l.kafka, 1000);
    mm_thread_restore_signals(&before);
    mm_config_free(config);
    rig_free(g);
}

/* An end of TCP that accepts connections and says nothing: whoever connects to it is not let in. */
static int listen_mutely(char *bootstrap, size_t bootstrap_len)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(fd, 16), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
    snprintf(bootstrap, bootstrap_len, "127.0.0.1:%u", (unsigned)ntohs(a.sin_port));
    return fd;
}

/* A connection that is only made, and not let in, leaves the gate as it is. */
static void stays_shut(const struct mm_config *config, int fd)
{
    struct mm_gate gate;
    shut_for_all_but_one(&gate);
    sigset_t before;
    mm_thread_block_signals(&before);
    struct life l = {.n_delivered = 0};
    const struct mm_kafka_options opts = {
        .config = config, .gate = &gate, .on_report = on_report, .arg = &l};
    char errstr[256];
    assert_int_equal(mm_kafka_new(&opts, &l.kafka, errstr, sizeof errstr), 0);
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    assert_int_equal(poll(&wait, 1, 10000), 1); /* it is through the gate */
    for (int i = 0; i < 10; i++) {
        mm_kafka_poll(l.kafka, 20);
    }
    assert_int_equal(mm_gate_pause_ms(&gate), GATE_PAUSE_MS);
    mm_kafka_close(l.kafka, 1000);
    mm_thread_restore_signals(&before);
}

static void test_who_only_connects_leaves_the_gate_shut(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    struct mm_config *config = rig_config(g);
    struct mm_config_property properties[] = {
        /* Then librdkafka has a connection to itself, which is up at once. */
        {.name = "enable.sparse.connections", .value = "false"},
    };
    for (size_t n = 0; n <= 1; n++) {
        char bootstrap[32];
        int fd = listen_mutely(bootstrap, sizeof bootstrap);
        struct mm_config mute = *config;
        mute.kafka_bootstrap = bootstrap;
        mute.properties = properties;
        mute.n_properties = n;
        stays_shut(&mute, fd);
        close(fd);
    }
    mm_config_free(config);
    rig_free(g);
}

/* librdkafka before 2.13 frees twice what it was told of interceptors when it cannot make a client.
 */
static void test_a_client_that_cannot_be_made(void **state)
{
    (void)state;
    struct rig *g = rig_new(1);
    struct mm_config *config = rig_config(g);
    struct mm_config_property properties[] = {
        {.name = "security.protocol", .value = "ssl"},
        {.name = "ssl.ca.location", .value = "/dev/null"},
    };
    struct mm_config bad = *config;
    bad.properties = properties;
    bad.n_properties = 2;
    struct mm_gate gate;
    mm_gate_init(&gate, 1000, 1000);
    for (int i = 0; i < 3; i++) {
        struct life l = {.n_delivered = 0};
        const struct mm_kafka_options opts = {
            .config = &bad, .gate = &gate, .on_report = on_report, .arg = &l};
        char errstr[256] = "";
        assert_int_equal(mm_kafka_new(&opts, &l.kafka, errstr, sizeof errstr), MM_EKAFKA);
        assert_null(l.kafka);
        assert_non_null(strstr(errstr, "ssl.ca.location failed"));
    }
    mm_config_free(config);
    rig_free(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_it_begins_and_ends_in_no_second),
        cmocka_unit_test(test_who_is_let_in_opens_the_gate),
        cmocka_unit_test(test_who_only_connects_leaves_the_gate_shut),
        cmocka_unit_test(test_a_client_that_cannot_be_made),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
