/* rig.h - the workers, with all that stands around them in the plugin, against librdkafka's mock
 * cluster: real producers, a real protocol, errors on demand. And faults of the disk. */
#ifndef RIG_H
#define RIG_H

#include "mm_config.h"
#include "mm_dead.h"
#include "mm_format.h"
#include "mm_lanes.h"
#include "mm_log.h"
#include "mm_metrics.h"
#include "mm_park.h"
#include "mm_sender.h"
#include "mm_spool.h"
#include "pause.h"

#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define API_PRODUCE 0
#define API_INIT_PRODUCER_ID 22
/* A name that nobody has; see struct faults. */
#define RIG_HANGING_HOST "hanging.test"

#define MAX_OPTIONS 16
#define MAX_MESSAGES 8000

/* The linker leads calls of some functions of the spool, of the dead letters and of the Kafka
 * client to the rig (see CMakeLists.txt). All is cleared by rig_new(). */
struct faults
{
    _Atomic bool read_eio;       /* the disk gives no record */
    _Atomic uint64_t bad_seq;    /* the record of the spool that cannot be read again; 0: none; */
    _Atomic int bad_err;         /* ... for this reason */
    _Atomic int dead_err;        /* the dead-letter log takes nothing; 0: it works */
    _Atomic int park_open_err;   /* the logs of parked lanes: cannot be made; */
    _Atomic int park_append_err; /* ... take nothing; */
    _Atomic int park_sync_err;   /* ... cannot be synced */
    /* Producers have one request on its way at a time. The mock cluster takes any sequence number:
     * a request behind one that it was made to refuse is written, where Kafka refuses it too, as
     * the numbers before are missing. So a test that refuses single requests and looks at the order
     * of what is in Kafka sets this before rig_start(). */
    bool one_request;
    _Atomic bool hang_resolver; /* looking for the address of RIG_HANGING_HOST takes until then */
    _Atomic bool hang_destroy;  /* the end of a client takes until then; */
    _Atomic(const char *) hang_only; /* ... in the thread of that name; NULL: in any */
    _Atomic bool mute;               /* clients tell nothing that happens, no delivery either */
    /* The call of that number from now on finds no memory; 0: none. */
    _Atomic uint32_t describe_err_at; /* of mm_route_describe() */
    _Atomic uint32_t reset_err_at;    /* of mm_lanes_reset() */
    _Atomic(const char *) no_memory;  /* the function of that name finds none, once; */
    _Atomic bool no_message;          /* ... mm_message_make() until then */
    _Atomic bool no_client;           /* no client of Kafka can be made until then */
    _Atomic uint64_t n_scarce;        /* how often that was so */
    _Atomic(const char *) no_thread;  /* the thread of that name cannot be started, once */
    _Atomic uint64_t n_hanging;       /* so many hang just now */
    _Atomic uint64_t n_clients;       /* of Kafka that were made by anyone */
    _Atomic uint64_t n_repeat;        /* so many records were counted by an earlier process */
    _Atomic uint64_t n_eio;           /* how often a fault has happened */
    _Atomic uint64_t n_unburied;
    _Atomic uint64_t n_park_faults;
    _Atomic uint64_t n_park_syncs; /* that were asked for */
    _Atomic uint64_t n_finished;   /* what the spool was told last, by one of its readers */
    _Atomic uint64_t n_ahead;
};
extern struct faults faults;

/* One mock cluster and what stands in the broker's process in front of it. */
struct rig
{
    rd_kafka_t *host;
    rd_kafka_mock_cluster_t *cluster;
    char bootstrap[256];
    struct mm_option options[MAX_OPTIONS];
    size_t n_options;

    struct mm_config *config;
    struct mm_log *log;
    struct mm_spool_budget budget;
    struct mm_spool *spool;
    struct mm_lanes *lanes;
    struct mm_metrics *metrics;
    struct mm_dead *dead;
    struct mm_sender *sender;
    struct mm_park *park; /* the sender's */
    char lines[200][MM_LOG_LINE_LEN];
    size_t n_lines;
    uint64_t n_appended;
};

/* A cluster with a Kafka topic "mqtt" of so many partitions, and the options for it. */
struct rig *rig_new(int n_partitions);

/* name and value live as long as the rig. */
void rig_option(struct rig *g, const char *name, const char *value);

/* Another Kafka topic, of one partition. */
void rig_topic(struct rig *g, const char *kafka_topic);

/* Refuse a Kafka topic to those who do not know it yet; RD_KAFKA_RESP_ERR_NO_ERROR: grant it. */
void rig_refuse(struct rig *g, const char *kafka_topic, rd_kafka_resp_err_t err);

/* What the plugin does at its start. */
void rig_start(struct rig *g);

/* What the plugin does when the settings change: those that rig_option() has added since count.
 * False: the threads have not come to rest in timeout_ms; rig_resume() then waits for them. */
bool rig_settle(struct rig *g, uint32_t wait_ms, uint32_t timeout_ms);
void rig_resume(struct rig *g);

/* The settings that the options say, for mm_sender_resume(). The caller frees them. */
struct mm_config *rig_config(struct rig *g);

/* And at its stop. Returns the ms that the stop of the threads took. */
uint64_t rig_stop_workers(struct rig *g, uint32_t drain_ms);
void rig_close(struct rig *g);

/* Accepts a rig that is closed, or was never started. */
void rig_free(struct rig *g);

/* rig_stop_workers(), with 5 s for what is left, and rig_free(). */
void rig_end(struct rig *g);

bool rig_logged(struct rig *g, const char *text);
size_t rig_count_lines(struct rig *g, const char *text);
struct mm_snapshot rig_figures(struct rig *g);

/* What the broker thread does for each message. */
int rig_publish(struct rig *g, const char *topic, const void *payload, size_t payload_len);

/* n messages "<number>" over so many topics "plant/<number>"; on one topic. */
void rig_publish_many(struct rig *g, uint32_t n, uint32_t n_topics);
void rig_publish_to(struct rig *g, const char *topic, uint32_t n);

/* Until nothing is in the spool and the ledger is even; until so much is delivered. False after
 * timeout_ms. */
bool rig_wait_empty(struct rig *g, uint64_t timeout_ms);
bool rig_wait_delivered(struct rig *g, uint64_t n, uint64_t timeout_ms);

struct seen_message
{
    char key[64];
    char value[256];
    char id[64];
    char error[64]; /* of a dead letter, as the two below */
    char reason[128];
    char kafka_topic[64];
    int64_t time_ms;
};

struct seen
{
    size_t n;
    struct seen_message message[MAX_MESSAGES];
};

/* Waits until the condition holds, and fails when it does not come to. */
#define RIG_WAIT_MS 20000
#define rig_wait_for(condition)                                              \
    do {                                                                     \
        for (uint64_t end_ms = now_ms() + RIG_WAIT_MS; now_ms() < end_ms;) { \
            if (condition) {                                                 \
                break;                                                       \
            }                                                                \
            sleep_ms(5);                                                     \
        }                                                                    \
        assert_true(condition);                                              \
    } while (0)

/* Everything that is in the Kafka topic, partition by partition. The caller frees it. */
struct seen *consume(struct rig *g, const char *kafka_topic, int n_partitions);

/* Order per MQTT topic, and none twice. */
void check_order(const struct seen *seen);

/* All that was published to "mqtt" is there, in order. */
void check_all_there(struct rig *g, int n_partitions);

/* n messages are there, in order, whose keys begin like this. */
void check_topic(struct rig *g, const char *kafka_topic, size_t n, const char *keys);

#endif
