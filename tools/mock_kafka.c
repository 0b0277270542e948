#include "mock_kafka.h"

#include "mm_route.h"

#include <errno.h>
#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TOPICS 32
#define MAX_PARTITIONS 1000
#define MAX_BROKERS 9

struct mock_options
{
    int n_brokers;
    const char *topics[MAX_TOPICS]; /* NAME[:PARTITIONS] */
    size_t n_topics;
    const char *address_file;
};

/* A whole number from 1 to max; 0 when text is something else. */
static int parse_count(const char *text, int max)
{
    char *end;
    errno = 0;
    long n = strtol(text, &end, 10);
    return errno != 0 || *text == '\0' || *end != '\0' || n < 1 || n > max ? 0 : (int)n;
}

static bool parse(int argc, char **argv, struct mock_options *o)
{
    *o = (struct mock_options){.n_brokers = 1};
    for (int i = 1; i < argc; i += 2) {
        if (i + 1 >= argc) {
            fprintf(stderr, "metamorphosis: %s: a value or a known option is missing\n", argv[i]);
            return false;
        }
        const char *value = argv[i + 1];
        if (strcmp(argv[i], "--brokers") == 0) {
            o->n_brokers = parse_count(value, MAX_BROKERS);
            if (o->n_brokers == 0) {
                fprintf(stderr, "metamorphosis: --brokers \"%s\": expected 1 to %d\n", value,
                        MAX_BROKERS);
                return false;
            }
        } else if (strcmp(argv[i], "--topic") == 0 && o->n_topics < MAX_TOPICS) {
            o->topics[o->n_topics++] = value;
        } else if (strcmp(argv[i], "--write-address") == 0) {
            o->address_file = value;
        } else {
            fprintf(stderr, "metamorphosis: mock-kafka does not know \"%s\", or has enough of it\n",
                    argv[i]);
            return false;
        }
    }
    return true;
}

static bool create_topic(rd_kafka_mock_cluster_t *cluster, const char *spec, int n_brokers)
{
    char name[256];
    const char *colon = strchr(spec, ':');
    size_t len = colon == NULL ? strlen(spec) : (size_t)(colon - spec);
    int n_partitions = colon == NULL ? 1 : parse_count(colon + 1, MAX_PARTITIONS);
    if (len == 0 || len >= sizeof name || n_partitions == 0) {
        fprintf(stderr,
                "metamorphosis: --topic \"%s\": expected NAME or NAME:PARTITIONS, 1 to %d "
                "partitions\n",
                spec, MAX_PARTITIONS);
        return false;
    }
    memcpy(name, spec, len);
    name[len] = '\0';
    if (!mm_route_is_kafka_topic(name)) {
        fprintf(stderr, "metamorphosis: --topic \"%s\": expected " MM_ROUTE_KAFKA_TOPIC_RULE "\n",
                spec);
        return false;
    }
    rd_kafka_resp_err_t err = rd_kafka_mock_topic_create(cluster, name, n_partitions, n_brokers);
    if (err != RD_KAFKA_RESP_ERR_NO_ERROR) {
        fprintf(stderr, "metamorphosis: --topic \"%s\": %s\n", spec, rd_kafka_err2str(err));
        return false;
    }
    return true;
}

/* For scripts: the address appears in the file whole or not at all. */
static bool write_address(const char *path, const char *address)
{
    char part[4096];
    int len = snprintf(part, sizeof part, "%s.part", path);
    FILE *f = len < 0 || (size_t)len >= sizeof part ? NULL : fopen(part, "w");
    bool good = f != NULL && fprintf(f, "%s\n", address) > 0;
    if (f != NULL && fclose(f) != 0) {
        good = false;
    }
    if (!good || rename(part, path) != 0) {
        fprintf(stderr, "metamorphosis: --write-address \"%s\": %s\n", path, strerror(errno));
        return false;
    }
    return true;
}

static int serve(rd_kafka_t *rk, const struct mock_options *o, const sigset_t *until)
{
    rd_kafka_mock_cluster_t *cluster = rd_kafka_mock_cluster_new(rk, o->n_brokers);
    if (cluster == NULL) {
        fprintf(stderr, "metamorphosis: the mock cluster could not be started\n");
        return 1;
    }
    int result = 1;
    for (size_t i = 0; i < o->n_topics; i++) {
        if (!create_topic(cluster, o->topics[i], o->n_brokers)) {
            result = 2;
            goto out;
        }
    }
    const char *address = rd_kafka_mock_cluster_bootstraps(cluster);
    if (o->address_file != NULL && !write_address(o->address_file, address)) {
        goto out;
    }
    printf("Kafka (mock cluster) on %s\n", address);
    fflush(stdout);
    int sig;
    sigwait(until, &sig);
    result = 0;

out:
    rd_kafka_mock_cluster_destroy(cluster);
    return result;
}

int run_mock_kafka(int argc, char **argv)
{
    struct mock_options o;
    if (!parse(argc, argv, &o)) {
        return 2;
    }
    /* Blocked before the client makes its threads, so that sigwait() alone gets them. */
    sigset_t until;
    sigemptyset(&until);
    sigaddset(&until, SIGINT);
    sigaddset(&until, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &until, NULL);

    char errstr[256];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    /* The client that hosts the cluster has no cluster of its own, and would say so. */
    (void)rd_kafka_conf_set(conf, "log_level", "4", NULL, 0);
    rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, errstr, sizeof errstr);
    if (rk == NULL) {
        rd_kafka_conf_destroy(conf);
        fprintf(stderr, "metamorphosis: %s\n", errstr);
        return 1;
    }
    int result = serve(rk, &o, &until);
    rd_kafka_destroy(rk);
    return result;
}
