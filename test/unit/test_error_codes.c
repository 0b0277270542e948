/* Each error code of Kafka's, as the answer to Produce, Metadata and InitProducerId of a mock
 * cluster; see rig.h. Nothing is lost, nothing is twice, the order holds, neighbours arrive.
 *
 * MM_TEST_LONG=1: all codes; else some, chosen by a seed that is printed (MM_TEST_SEED). */
#include "rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define API_METADATA 3
#define LAST_CODE 120
#define N_MESSAGES 30 /* for each code */
#define N_TOPICS 3    /* of MQTT */
#define N_SHORT 6     /* codes in the short form */

static unsigned int seed;

static int choose_seed(void **state)
{
    (void)state;
    const char *text = getenv("MM_TEST_SEED");
    seed = text != NULL ? (unsigned int)strtoul(text, NULL, 10) : (unsigned int)time(NULL);
    print_message("MM_TEST_SEED=%u\n", seed);
    return 0;
}

static bool is_long(void)
{
    const char *text = getenv("MM_TEST_LONG");
    return text != NULL && text[0] != '\0' && text[0] != '0';
}

/* "I have it already": a cluster that says so of what it has not is none. */
static bool is_a_lie(int16_t api, int code)
{
    return api == API_PRODUCE && code == RD_KAFKA_RESP_ERR_DUPLICATE_SEQUENCE_NUMBER;
}

/* One answer with this code; where the API is not Produce, to a producer that is made anew because
 * a message was refused. */
static void survive(struct rig *g, int16_t api, int code)
{
    if (api != API_PRODUCE) {
        rd_kafka_mock_push_request_errors(g->cluster, API_PRODUCE, 1,
                                          RD_KAFKA_RESP_ERR_INVALID_RECORD);
    }
    rd_kafka_mock_push_request_errors(g->cluster, api, 1, (rd_kafka_resp_err_t)code);
    rig_publish_many(g, N_MESSAGES, N_TOPICS);
    if (!rig_wait_empty(g, 30000)) {
        fail_msg("not drained 30 s after %s (%d) for API %d",
                 rd_kafka_err2name((rd_kafka_resp_err_t)code), code, api);
    }
    rd_kafka_mock_clear_request_errors(g->cluster, api); /* what was not asked for */
}

static void survive_all(int16_t api)
{
    struct rig *g = rig_new(1);
    faults.one_request = true;
    rig_start(g);
    rig_publish_many(g, N_MESSAGES, N_TOPICS);
    assert_true(rig_wait_empty(g, 20000));
    uint64_t n = 1;
    if (is_long()) {
        for (int code = -1; code <= LAST_CODE; code++) {
            if (code != 0 && !is_a_lie(api, code)) {
                survive(g, api, code);
                n++;
            }
        }
    } else {
        while (n <= N_SHORT) {
            int code = 1 + rand_r(&seed) % LAST_CODE;
            if (!is_a_lie(api, code)) {
                survive(g, api, code);
                n++;
            }
        }
    }
    struct mm_snapshot shot = rig_figures(g);
    assert_int_equal(shot.dead_lettered, 0); /* alone, each was taken */
    assert_int_equal(shot.delivered, n * N_MESSAGES);
    assert_int_equal(shot.ledger_difference, 0);
    check_all_there(g, 1);
    rig_end(g);
}

static void test_produce(void **state)
{
    (void)state;
    survive_all(API_PRODUCE);
}

static void test_metadata(void **state)
{
    (void)state;
    survive_all(API_METADATA);
}

static void test_init_producer_id(void **state)
{
    (void)state;
    survive_all(API_INIT_PRODUCER_ID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_produce),
        cmocka_unit_test(test_metadata),
        cmocka_unit_test(test_init_producer_id),
    };
    return cmocka_run_group_tests(tests, choose_seed, NULL);
}
