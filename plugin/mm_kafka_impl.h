/* mm_kafka_impl.h - for those files that know librdkafka: mm_kafka.c, which owns the producer,
 * mm_kafka_conf.c, which makes its configuration of our settings, mm_kafka_watch.c, which hears of
 * its connections, and mm_kafka_error.c, which knows what an error means.
 *
 * Thread: setup or worker. */
#ifndef MM_KAFKA_IMPL_H
#define MM_KAFKA_IMPL_H

#include "mm_kafka.h"

#include <librdkafka/rdkafka.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mm_contact;

/* From this librdkafka on the connection that a client came by is given up as soon as it has told
 * of Kafka's nodes; a new client is slow to begin then. */
#define MM_KAFKA_VERSION_GIVES_UP 0x020a0000

typedef int32_t (*mm_kafka_partitioner_fn)(const rd_kafka_topic_t *rkt,
                                           const void *key,
                                           size_t key_len,
                                           int32_t n_partitions,
                                           void *topic_opaque,
                                           void *message_opaque);

/* Set all but the callbacks. Files with secrets are read here; those of TLS are read by librdkafka
 * when the producer is made.
 *
 * Errors: MM_EKAFKA; errstr names the option or property and the reason, and no secret. */
int mm_kafka_configure(rd_kafka_conf_t *conf,
                       const struct mm_kafka_options *opts,
                       char *errstr,
                       size_t errstr_len);

/* Is this producer told when to send (mm_linger.h)? Else it has a time to wait by itself. */
bool mm_kafka_is_pushed(const struct mm_kafka_options *opts);

/* The value of a property, or "" when there is none. Returns dst. */
const char *mm_kafka_property(const rd_kafka_conf_t *conf,
                              const char *name,
                              char *dst,
                              size_t dst_len);

/* The function behind the property "partitioner". Only those that give one key one partition: the
 * settings are checked for that. */
mm_kafka_partitioner_fn mm_kafka_partitioner(const rd_kafka_conf_t *conf);

/* Say in our words why librdkafka did not make a producer of this configuration. */
void mm_kafka_explain_new(const struct mm_config *config,
                          const char *reason,
                          char *errstr,
                          size_t errstr_len);

/* Have what librdkafka tells of connections, certificates and in its log go to `contact`, which is
 * made. The configuration is set already, its opaque, too. Thread: setup or worker. */
void mm_kafka_watch(rd_kafka_conf_t *conf,
                    const struct mm_kafka_options *opts,
                    struct mm_contact *contact);

/* Is the configuration still the caller's to destroy when rd_kafka_new() has failed with it? Else
 * half of it is freed, and the rest, some KiB, is lost. */
bool mm_kafka_may_destroy(const struct mm_kafka_options *opts);

/* Of the producer that was set as opaque. Thread: any. */
struct mm_contact *mm_kafka_contact(void *opaque);

/* Is this the error of a connection that the gate held back? */
bool mm_kafka_was_held_back(const char *reason);

/* Fill in all that the error tells; the rest is nought. */
void mm_kafka_fill_report(struct mm_kafka_report *report, rd_kafka_resp_err_t err, void *tag);

#endif
