#include "mm_dead.h"
#include "mm_error.h"
#include "scratch.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cjson/cJSON.h>
#include <cmocka.h>

#define UUID "01234567-89ab-4cde-8f01-23456789abcd"
#define KIB ((size_t)1024)
#define SMALLEST (256 * KIB) /* of a log */

/* Each test runs with a log in memory and with one in a directory of its own. */
struct form
{
    bool on_disk;
    char dir[SCRATCH_LEN]; /* "" in memory */
};

/* In front of the C library's: count, and fail when told to. */
static _Atomic uint64_t n_syncs;
static _Atomic bool syncs_fail;

static bool sync_fails(void)
{
    n_syncs++;
    errno = EIO;
    return syncs_fail;
}

int fdatasync(int fd)
{
    return sync_fails() ? -1 : (int)syscall(SYS_fdatasync, fd);
}

int msync(void *begin, size_t len, int flags)
{
    return sync_fails() ? -1 : (int)syscall(SYS_msync, begin, len, flags);
}

static struct mm_dead *open_synced(const struct form *form,
                                   uint64_t max_bytes,
                                   enum mm_spool_sync sync)
{
    struct mm_dead_options opts = {
        .max_bytes = max_bytes,
        .dir = form->on_disk ? form->dir : NULL,
        .sync = sync,
    };
    char errstr[512] = "";
    struct mm_dead *d;
    if (mm_dead_open(&opts, &d, errstr, sizeof errstr) != 0) {
        fail_msg("%s", errstr);
    }
    return d;
}

static struct mm_dead *open_log(const struct form *form, uint64_t max_bytes)
{
    return open_synced(form, max_bytes, MM_SPOOL_SYNC_NEVER);
}

static struct mm_dead_letter letter(const char *id, const void *payload, size_t payload_len)
{
    return (struct mm_dead_letter){
        .id = id,
        .time_ms = 1700000000123,
        .died_ms = 1700000001000,
        .topic = "a/b",
        .topic_len = 3,
        .payload = payload,
        .payload_len = payload_len,
        .kafka_topic = "mqtt",
        .error = "MSG_SIZE_TOO_LARGE",
        .reason = "the message is larger than Kafka takes",
    };
}

static const char *id_of(uint64_t seq)
{
    static _Thread_local char id[64];
    snprintf(id, sizeof id, "%s-%llu", UUID, (unsigned long long)seq);
    return id;
}

static void add(struct mm_dead *d, uint64_t seq, const void *payload, size_t payload_len)
{
    struct mm_dead_letter l = letter(id_of(seq), payload, payload_len);
    assert_int_equal(mm_dead_add(d, &l), 0);
}

static int fetch(struct mm_dead *d, uint64_t seq, void **data, size_t *len)
{
    return mm_dead_payload(d, id_of(seq), data, len);
}

static bool is_there(struct mm_dead *d, uint64_t seq)
{
    void *data = NULL;
    size_t len = 0;
    int err = fetch(d, seq, &data, &len);
    free(data);
    return err == 0;
}

static struct mm_dead_stats stats_of(struct mm_dead *d)
{
    struct mm_dead_stats stats;
    mm_dead_stats(d, &stats);
    return stats;
}

static cJSON *list(struct mm_dead *d)
{
    char *text = NULL;
    size_t len = 0;
    assert_int_equal(mm_dead_list(d, &text, &len), 0);
    assert_int_equal(strlen(text), len);
    cJSON *parsed = cJSON_Parse(text);
    assert_true(cJSON_IsArray(parsed));
    free(text);
    return parsed;
}

static const char *string_of(const cJSON *array, int index, const char *name)
{
    const cJSON *object = cJSON_GetArrayItem(array, index);
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, name));
    assert_non_null(text);
    return text;
}

static const cJSON *member(const cJSON *array, int index, const char *name)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(cJSON_GetArrayItem(array, index), name);
    assert_non_null(item);
    return item;
}

/* --- one letter ---------------------------------------------------------------------------------
 */

static void test_empty_log(void **state)
{
    struct mm_dead *d = open_log(*state, SMALLEST);
    cJSON *array = list(d);
    assert_int_equal(cJSON_GetArraySize(array), 0);
    cJSON_Delete(array);
    struct mm_dead_stats stats = stats_of(d);
    assert_int_equal(stats.n_letters, 0);
    assert_int_equal(stats.n_bytes, 0);
    assert_int_equal(stats.n_evicted, 0);
    void *data = NULL;
    size_t len = 0;
    assert_int_equal(fetch(d, 1, &data, &len), MM_EINVAL);
    mm_dead_close(d);
    mm_dead_close(NULL);
}

static void test_a_letter_is_copied_and_comes_back(void **state)
{
    struct mm_dead *d = open_log(*state, SMALLEST);
    char payload[] = "pay\0load";
    add(d, UINT64_MAX, payload, sizeof payload);
    memset(payload, 'x', sizeof payload);
    void *data = NULL;
    size_t len = 0;
    assert_int_equal(fetch(d, UINT64_MAX, &data, &len), 0);
    assert_int_equal(len, sizeof payload);
    assert_memory_equal(data, "pay\0load", sizeof payload);
    free(data);

    cJSON *array = list(d);
    assert_int_equal(cJSON_GetArraySize(array), 1);
    assert_string_equal(string_of(array, 0, "id"), UUID "-18446744073709551615");
    assert_string_equal(string_of(array, 0, "mqtt_topic"), "a/b");
    assert_string_equal(string_of(array, 0, "received"), "2023-11-14T22:13:20.123Z");
    assert_string_equal(string_of(array, 0, "died"), "2023-11-14T22:13:21.000Z");
    assert_string_equal(string_of(array, 0, "kafka_topic"), "mqtt");
    assert_string_equal(string_of(array, 0, "error"), "MSG_SIZE_TOO_LARGE");
    assert_string_equal(string_of(array, 0, "reason"), "the message is larger than Kafka takes");
    assert_int_equal(member(array, 0, "payload_bytes")->valueint, sizeof payload);
    assert_true(cJSON_IsTrue(member(array, 0, "payload_kept")));
    cJSON_Delete(array);
    mm_dead_close(d);
}

static void test_an_empty_payload_and_topic(void **state)
{
    struct mm_dead *d = open_log(*state, SMALLEST);
    struct mm_dead_letter l = letter(id_of(1), NULL, 0);
    l.topic = NULL;
    l.topic_len = 0;
    assert_int_equal(mm_dead_add(d, &l), 0);
    void *data = NULL;
    size_t len = 1;
    assert_int_equal(fetch(d, 1, &data, &len), 0);
    assert_non_null(data);
    assert_int_equal(len, 0);
    free(data);
    mm_dead_close(d);
}

static void test_odd_text_is_valid_json(void **state)
{
    static const char topic[] = "a\"\\/\n\t\0\xFF\xC3\x28\xED\xA0\x80\xE2\x82\xAC";
    struct mm_dead *d = open_log(*state, SMALLEST);
    struct mm_dead_letter l = letter(id_of(1), "p", 1);
    l.topic = topic;
    l.topic_len = sizeof topic - 1;
    l.kafka_topic = "k\"\xFE";
    l.error = "E\\";
    l.reason = "line\nbreak";
    l.died_ms = UINT64_MAX;
    assert_int_equal(mm_dead_add(d, &l), 0);
    cJSON *array = list(d);
    assert_string_equal(string_of(array, 0, "kafka_topic"), "k\"\xEF\xBF\xBD");
    assert_string_equal(string_of(array, 0, "error"), "E\\");
    assert_string_equal(string_of(array, 0, "reason"), "line\nbreak");
    assert_memory_equal(string_of(array, 0, "mqtt_topic"), "a\"\\/\n\t", 6);
    cJSON_Delete(array);
    mm_dead_close(d);
}

static void test_ids_that_are_not_there(void **state)
{
    struct mm_dead *d = open_log(*state, SMALLEST);
    add(d, 10, "ten", 3);
    static const char *const ids[] = {
        "",
        "10",
        UUID,
        UUID "-",
        UUID "-1",
        UUID "-100",
        UUID "-010",
        UUID "-10 ",
        " " UUID "-10",
        "11234567-89ab-4cde-8f01-23456789abcd-10",
    };
    void *data = NULL;
    size_t len = 0;
    for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++) {
        assert_int_equal(mm_dead_payload(d, ids[i], &data, &len), MM_EINVAL);
        assert_null(data);
    }
    assert_int_equal(mm_dead_payload(d, UUID "-10", &data, &len), 0);
    assert_memory_equal(data, "ten", 3);
    free(data);
    mm_dead_close(d);
}

/* The process ended between the copy and the finishing of the record. */
static void test_a_letter_that_came_twice(void **state)
{
    struct mm_dead *d = open_log(*state, SMALLEST);
    add(d, 1, "one", 3);
    add(d, 2, "two", 3);
    add(d, 1, "one", 3);
    cJSON *array = list(d);
    assert_int_equal(cJSON_GetArraySize(array), 3);
    assert_string_equal(string_of(array, 0, "id"), UUID "-1");
    assert_string_equal(string_of(array, 2, "id"), UUID "-1");
    cJSON_Delete(array);
    assert_true(is_there(d, 1));
    assert_int_equal(stats_of(d).n_letters, 3);
    mm_dead_close(d);
}

/* --- the limit ----------------------------------------------------------------------------------
 */

static void test_a_log_that_is_too_small_is_refused(void **state)
{
    const struct form *form = *state;
    struct mm_dead_options opts = {.max_bytes = SMALLEST - 1,
                                   .dir = form->on_disk ? form->dir : NULL};
    char errstr[512] = "";
    struct mm_dead *d;
    assert_int_equal(mm_dead_open(&opts, &d, errstr, sizeof errstr), MM_EINVAL);
    assert_null(d);
    assert_string_not_equal(errstr, "");
}

static void test_the_oldest_make_room(void **state)
{
    enum {
        N = 1500
    };
    static const char payload[1000];
    struct mm_dead *d = open_log(*state, SMALLEST);
    for (uint64_t seq = 1; seq <= N; seq++) {
        add(d, seq, payload, sizeof payload);
        struct mm_dead_stats stats = stats_of(d);
        assert_true(stats.n_bytes <= SMALLEST);
        assert_int_equal(stats.n_letters + stats.n_evicted, seq);
    }
    struct mm_dead_stats stats = stats_of(d);
    assert_in_range(stats.n_letters, 100, 220);

    assert_false(is_there(d, N - stats.n_letters));
    for (uint64_t seq = N - stats.n_letters + 1; seq <= N; seq++) {
        assert_true(is_there(d, seq));
    }
    cJSON *array = list(d);
    assert_int_equal(cJSON_GetArraySize(array), stats.n_letters);
    assert_string_equal(string_of(array, (int)stats.n_letters - 1, "id"), UUID "-1500");
    cJSON_Delete(array);
    mm_dead_close(d);
}

static void test_letters_of_all_sizes_in_turn(void **state)
{
    static const size_t largest[] = {100, 1000, 30 * KIB, 70 * KIB, 210 * KIB};
    enum {
        N = 1000,
        N_LARGEST = sizeof largest / sizeof largest[0]
    };
    unsigned short random[3] = {1, 2, 3};
    char *payload = malloc(SMALLEST);
    assert_non_null(payload);
    struct mm_dead *d = open_log(*state, SMALLEST);
    for (uint64_t seq = 1; seq <= N; seq++) {
        size_t size = (size_t)nrand48(random) % largest[(size_t)nrand48(random) % N_LARGEST];
        memset(payload, (int)seq, size);
        add(d, seq, payload, size);
        struct mm_dead_stats stats = stats_of(d);
        assert_true(stats.n_bytes <= SMALLEST);
        assert_int_equal(stats.n_letters + stats.n_evicted, seq);
        void *data = NULL;
        size_t len = 0;
        assert_int_equal(fetch(d, seq, &data, &len), 0);
        assert_int_equal(len, size);
        assert_memory_equal(data, payload, size);
        free(data);
    }
    free(payload);
    mm_dead_close(d);
}

static void test_one_that_is_too_large_keeps_its_description(void **state)
{
    struct mm_dead *d = open_log(*state, SMALLEST);
    char *payload = calloc(1, 2 * SMALLEST);
    assert_non_null(payload);
    add(d, 1, "x", 1);
    add(d, 2, payload, 2 * SMALLEST);
    struct mm_dead_stats stats = stats_of(d);
    assert_int_equal(stats.n_letters, 2);
    assert_int_equal(stats.n_evicted, 1);
    void *data = NULL;
    size_t len = 0;
    assert_int_equal(fetch(d, 2, &data, &len), MM_EINVAL);
    assert_true(is_there(d, 1));
    struct mm_dead_letter l = letter(id_of(3), payload, (size_t)UINT32_MAX + 1);
    assert_int_equal(mm_dead_add(d, &l), 0);
    cJSON *array = list(d);
    assert_string_equal(string_of(array, 1, "id"), UUID "-2");
    assert_int_equal(member(array, 1, "payload_bytes")->valueint, 2 * SMALLEST);
    assert_true(cJSON_IsFalse(member(array, 1, "payload_kept")));
    assert_true(member(array, 2, "payload_bytes")->valuedouble == 4294967296.0);
    cJSON_Delete(array);
    free(payload);
    mm_dead_close(d);
}

static void test_a_message_that_is_lost_has_no_payload(void **state)
{
    struct mm_dead *d = open_log(*state, SMALLEST);
    struct mm_dead_letter l = letter(id_of(1), NULL, 0);
    l.lost = true;
    assert_int_equal(mm_dead_add(d, &l), 0);
    assert_int_equal(stats_of(d).n_letters, 1);
    assert_int_equal(stats_of(d).n_evicted, 0);
    assert_false(is_there(d, 1));
    cJSON *array = list(d);
    assert_true(cJSON_IsFalse(member(array, 0, "payload_kept")));
    cJSON_Delete(array);
    mm_dead_close(d);
}

static void test_a_description_that_is_too_large_is_not_kept(void **state)
{
    struct mm_dead *d = open_log(*state, SMALLEST);
    add(d, 1, "x", 1);
    char *props = calloc(1, SMALLEST);
    assert_non_null(props);
    struct mm_dead_letter l = letter(id_of(2), "y", 1);
    l.props = props;
    l.props_len = SMALLEST;
    assert_int_equal(mm_dead_add(d, &l), MM_ETOOBIG);
    free(props);
    struct mm_dead_stats stats = stats_of(d);
    assert_int_equal(stats.n_letters, 1);
    assert_int_equal(stats.n_evicted, 0);
    mm_dead_close(d);
}

/* Is a letter with a payload of so many bytes kept as a whole? */
static bool keeps(const struct form *form, const void *payload, size_t len)
{
    struct mm_dead *d = open_log(form, SMALLEST);
    add(d, 1, "a small one before it", 21);
    add(d, len, payload, len);
    struct mm_dead_stats stats = stats_of(d);
    assert_true(stats.n_bytes <= SMALLEST);
    bool kept = is_there(d, len);
    /* It is kept at the cost of the small one, or without payload. */
    assert_int_equal(stats.n_letters + stats.n_evicted, kept ? 2 : 3);
    mm_dead_close(d);
    return kept;
}

/* Around the size at which the payload is just kept and just not. */
static void test_sizes_at_the_limit(void **state)
{
    struct form form = {.on_disk =
                            false}; /* the sizes are the same in a directory but for a page */
    (void)state;
    char *payload = calloc(1, SMALLEST);
    assert_non_null(payload);
    size_t low = 128 * KIB;
    size_t high = SMALLEST;
    assert_true(keeps(&form, payload, low));
    assert_false(keeps(&form, payload, high));
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        *(keeps(&form, payload, middle) ? &low : &high) = middle;
    }
    assert_in_range(low, 223 * KIB, 224 * KIB);
    for (size_t len = low - 40; len < low + 40; len++) {
        assert_int_equal(keeps(&form, payload, len), len <= low);
    }
    free(payload);
}

/* --- what outlives the process ------------------------------------------------------------------
 */

static void test_letters_are_there_at_the_next_start(void **state)
{
    struct mm_dead *d = open_synced(*state, SMALLEST, MM_SPOOL_SYNC_INTERVAL);
    for (uint64_t seq = 1; seq <= 20; seq++) {
        add(d, seq, "payload", 7);
    }
    char *before = NULL;
    char *after = NULL;
    size_t len;
    assert_int_equal(mm_dead_list(d, &before, &len), 0);
    for (uint32_t n = 0; n < 3; n++) {
        mm_dead_close(d);
        d = open_synced(*state, SMALLEST, MM_SPOOL_SYNC_INTERVAL);
        assert_int_equal(stats_of(d).n_letters, 20);
        assert_int_equal(stats_of(d).n_evicted, 0);
        assert_int_equal(mm_dead_list(d, &after, &len), 0);
        assert_string_equal(after, before);
        free(after);
        assert_true(is_there(d, 20));
    }
    free(before);
    add(d, 21, "one more", 8);
    cJSON *array = list(d);
    assert_int_equal(cJSON_GetArraySize(array), 21);
    assert_string_equal(string_of(array, 20, "id"), UUID "-21");
    cJSON_Delete(array);
    mm_dead_close(d);
}

/* What was let go stays so, and is still counted, however the process ends. */
static void test_evicted_ones_are_counted_across_starts(void **state)
{
    static const char payload[1000];
    uint64_t seq = 0;
    for (uint32_t start = 0; start < 12; start++) {
        fflush(NULL);
        pid_t pid = start % 2 == 0 ? 0 : fork();
        uint64_t n_more = 90;
        if (pid == 0) {
            struct mm_dead *d = open_log(*state, SMALLEST);
            struct mm_dead_stats stats = stats_of(d);
            assert_int_equal(stats.n_letters + stats.n_evicted, seq);
            for (uint64_t i = 1; i <= n_more; i++) {
                add(d, seq + i, payload, sizeof payload);
            }
            stats = stats_of(d);
            assert_int_equal(stats.n_letters + stats.n_evicted, seq + n_more);
            assert_true(stats.n_bytes <= SMALLEST);
            assert_true(is_there(d, seq + n_more));
            if (start % 2 != 0) {
                _exit(0); /* no close: as if killed */
            }
            mm_dead_close(d);
        } else {
            int status = 0;
            assert_int_equal(waitpid(pid, &status, 0), pid);
            assert_int_equal(status, 0);
        }
        seq += n_more;
    }
    struct mm_dead *d = open_log(*state, SMALLEST);
    assert_in_range(stats_of(d).n_letters, 80, 220);
    assert_true(stats_of(d).n_evicted > 0);
    mm_dead_close(d);
}

static void test_a_payload_that_was_not_kept_is_still_counted(void **state)
{
    struct mm_dead *d = open_log(*state, SMALLEST);
    char *payload = calloc(1, SMALLEST);
    assert_non_null(payload);
    add(d, 1, payload, SMALLEST);
    free(payload);
    mm_dead_close(d);
    d = open_log(*state, SMALLEST);
    assert_int_equal(stats_of(d).n_letters, 1);
    assert_int_equal(stats_of(d).n_evicted, 1);
    cJSON *array = list(d);
    assert_int_equal(member(array, 0, "payload_bytes")->valueint, SMALLEST);
    assert_true(cJSON_IsFalse(member(array, 0, "payload_kept")));
    cJSON_Delete(array);
    mm_dead_close(d);
}

static void test_a_smaller_limit_lets_letters_go(void **state)
{
    static const char payload[1000];
    struct mm_dead *d = open_log(*state, 4 * SMALLEST);
    for (uint64_t seq = 1; seq <= 700; seq++) {
        add(d, seq, payload, sizeof payload);
    }
    assert_int_equal(stats_of(d).n_letters, 700);
    mm_dead_close(d);
    d = open_log(*state, SMALLEST);
    add(d, 701, payload, sizeof payload);
    assert_true(is_there(d, 701));
    for (uint64_t seq = 702; seq <= 800; seq++) {
        add(d, seq, payload, sizeof payload);
    }
    struct mm_dead_stats stats = stats_of(d);
    assert_int_equal(stats.n_letters + stats.n_evicted, 800);
    assert_true(stats.n_bytes <= SMALLEST);
    mm_dead_close(d);
}

/* Somebody else has filled the file system: old letters are not given up for nothing. */
static void test_a_full_file_system_costs_no_letters(void **state)
{
    const struct form *form = *state;
    static const char payload[10000];
    struct mm_dead *d = open_log(form, SMALLEST);
    add(d, 1, payload, sizeof payload);
    mm_dead_close(d);
    struct mm_dead_options opts = {
        .max_bytes = SMALLEST, .dir = form->dir, .min_free = UINT64_MAX / 2};
    char errstr[512] = "";
    if (mm_dead_open(&opts, &d, errstr, sizeof errstr) != 0) {
        fail_msg("%s", errstr);
    }
    uint64_t seq = 2;
    int err = 0;
    while (seq < 100 && err == 0) {
        struct mm_dead_letter l = letter(id_of(seq), payload, sizeof payload);
        err = mm_dead_add(d, &l);
        seq += err == 0 ? 1 : 0;
    }
    assert_int_equal(err, MM_EFULL);
    struct mm_dead_stats stats = stats_of(d);
    assert_int_equal(stats.n_evicted, 0);
    assert_int_equal(stats.n_letters, seq - 1);
    assert_true(is_there(d, 1));
    mm_dead_close(d);
}

static void test_a_letter_is_synced_before_it_counts(void **state)
{
    static const enum mm_spool_sync policies[] = {MM_SPOOL_SYNC_INTERVAL, MM_SPOOL_SYNC_ALWAYS};
    uint64_t seq = 0;
    for (size_t i = 0; i < sizeof policies / sizeof policies[0]; i++) {
        struct mm_dead *d = open_synced(*state, SMALLEST, policies[i]);
        for (uint32_t n = 0; n < 5; n++) {
            uint64_t before = n_syncs;
            add(d, ++seq, "x", 1);
            assert_true(n_syncs > before);
        }
        mm_dead_close(d);
    }
    struct mm_dead *d = open_synced(*state, SMALLEST, MM_SPOOL_SYNC_NEVER);
    uint64_t before = n_syncs;
    add(d, ++seq, "x", 1);
    assert_int_equal(n_syncs, before);
    mm_dead_close(d);
}

/* The caller keeps the record, and comes again. */
static void test_a_letter_that_cannot_be_synced_is_not_promised(void **state)
{
    struct mm_dead *d = open_synced(*state, SMALLEST, MM_SPOOL_SYNC_INTERVAL);
    add(d, 1, "x", 1);
    syncs_fail = true;
    struct mm_dead_letter l = letter(id_of(2), "y", 1);
    assert_int_equal(mm_dead_add(d, &l), MM_EIO);
    assert_int_equal(mm_dead_add(d, &l), MM_EIO);
    syncs_fail = false;
    assert_int_equal(mm_dead_add(d, &l), 0);
    assert_true(is_there(d, 1));
    assert_true(is_there(d, 2));
    mm_dead_close(d);
    d = open_synced(*state, SMALLEST, MM_SPOOL_SYNC_INTERVAL);
    assert_true(is_there(d, 1));
    assert_true(is_there(d, 2));
    mm_dead_close(d);
}

static void test_the_directory_has_one_owner(void **state)
{
    const struct form *form = *state;
    struct mm_dead *d = open_log(form, SMALLEST);
    struct mm_dead_options opts = {.max_bytes = SMALLEST, .dir = form->dir};
    char errstr[512] = "";
    struct mm_dead *second;
    assert_int_equal(mm_dead_open(&opts, &second, errstr, sizeof errstr), MM_EBUSY);
    assert_null(second);
    assert_non_null(strstr(errstr, form->dir));
    mm_dead_close(d);
}

/* --- many at once -------------------------------------------------------------------------------
 */

static void *add_many(void *arg)
{
    for (uint64_t seq = 0; seq < 2000; seq++) {
        struct mm_dead_letter l = letter(id_of(seq), "0123456789", 10);
        if (mm_dead_add(arg, &l) != 0) {
            abort();
        }
    }
    return NULL;
}

static void test_workers_add_while_it_is_read(void **state)
{
    struct mm_dead *d = open_log(*state, SMALLEST);
    pthread_t threads[4];
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, add_many, d), 0);
    }
    for (uint64_t i = 0; i < 100; i++) {
        cJSON_Delete(list(d));
        void *data = NULL;
        size_t len = 0;
        if (fetch(d, i * 20, &data, &len) == 0) {
            assert_int_equal(len, 10);
            free(data);
        }
    }
    for (size_t i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
    }
    struct mm_dead_stats stats = stats_of(d);
    assert_int_equal(stats.n_letters + stats.n_evicted, 8000);
    mm_dead_close(d);
}

/* --- the record of a letter ---------------------------------------------------------------------
 */

static void check_text(struct mm_dead_text t, const char *expected)
{
    assert_int_equal(t.len, strlen(expected));
    assert_memory_equal(t.text, expected, t.len);
}

static void test_a_record_without_properties(void **state)
{
    (void)state;
    struct mm_record r = {.payload = "p", .payload_len = 1};
    struct mm_dead_view view;
    mm_dead_view(&r, &view);
    check_text(view.id, "");
    check_text(view.error, "");
    assert_int_equal(view.died_ms, 0);
    assert_int_equal(view.payload_len, 1);
    assert_true(view.has_payload);
}

/* A message that came by way of parked/ has properties of its own with the same tags. */
static void test_the_last_property_counts(void **state)
{
    (void)state;
    uint8_t props[256];
    uint8_t *at = mm_prop_put(props, MM_TAG_KAFKA_TOPIC, "old", 3);
    at = mm_prop_put(at, MM_TAG_ERROR, "before", 6);
    at = mm_prop_put(at, 999, "a tag of later", 14);
    at = mm_prop_put(at, MM_TAG_KAFKA_TOPIC, "new", 3);
    at = mm_prop_put(at, MM_TAG_ERROR, "", 0);
    at = mm_prop_put_u64(at, MM_TAG_DIED_MS, 7);
    at = mm_prop_put(at, MM_TAG_REASON, "r", 1);
    struct mm_record r = {.props = props, .props_len = (uint32_t)(at - props)};
    struct mm_dead_view view;
    mm_dead_view(&r, &view);
    check_text(view.kafka_topic, "new");
    check_text(view.error, "");
    check_text(view.reason, "r");
    assert_int_equal(view.died_ms, 7);
    assert_true(view.has_payload);
}

static void test_a_payload_that_was_not_kept(void **state)
{
    (void)state;
    uint8_t props[64];
    uint8_t *at = mm_prop_put_u64(props, MM_TAG_PAYLOAD_LEN, 12345);
    struct mm_record r = {.props = props, .props_len = (uint32_t)(at - props)};
    struct mm_dead_view view;
    mm_dead_view(&r, &view);
    assert_int_equal(view.payload_len, 12345);
    assert_false(view.has_payload);
}

/* --- where the log lives ------------------------------------------------------------------------
 */

static int set_up(void **state)
{
    struct form *form = calloc(1, sizeof *form);
    assert_non_null(form);
    form->on_disk = *(const bool *)*state;
    if (form->on_disk) {
        assert_int_equal(scratch_make(form->dir, "dead"), 0);
    }
    *state = form;
    return 0;
}

static int tear_down(void **state)
{
    struct form *form = *state;
    int err = form->on_disk ? scratch_remove(form->dir) : 0;
    free(form);
    return err;
}

int main(void)
{
    static bool memory = false;
    static bool disk = true;
#define IN_MEMORY(test)                                      \
    {                                                        \
#test " in memory", test, set_up, tear_down, &memory \
    }
#define ON_DISK(test)                                    \
    {                                                    \
#test " on disk", test, set_up, tear_down, &disk \
    }
#define BOTH(test) IN_MEMORY(test), ON_DISK(test)
    const struct CMUnitTest tests[] = {
        BOTH(test_empty_log),
        BOTH(test_a_letter_is_copied_and_comes_back),
        BOTH(test_an_empty_payload_and_topic),
        BOTH(test_odd_text_is_valid_json),
        BOTH(test_ids_that_are_not_there),
        BOTH(test_a_letter_that_came_twice),
        BOTH(test_a_log_that_is_too_small_is_refused),
        BOTH(test_the_oldest_make_room),
        BOTH(test_letters_of_all_sizes_in_turn),
        BOTH(test_one_that_is_too_large_keeps_its_description),
        BOTH(test_a_message_that_is_lost_has_no_payload),
        BOTH(test_a_description_that_is_too_large_is_not_kept),
        IN_MEMORY(test_sizes_at_the_limit),
        BOTH(test_workers_add_while_it_is_read),
        ON_DISK(test_letters_are_there_at_the_next_start),
        ON_DISK(test_evicted_ones_are_counted_across_starts),
        ON_DISK(test_a_payload_that_was_not_kept_is_still_counted),
        ON_DISK(test_a_smaller_limit_lets_letters_go),
        ON_DISK(test_a_full_file_system_costs_no_letters),
        ON_DISK(test_a_letter_is_synced_before_it_counts),
        ON_DISK(test_a_letter_that_cannot_be_synced_is_not_promised),
        ON_DISK(test_the_directory_has_one_owner),
        cmocka_unit_test(test_a_record_without_properties),
        cmocka_unit_test(test_the_last_property_counts),
        cmocka_unit_test(test_a_payload_that_was_not_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
