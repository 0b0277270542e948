/* resend.h - what it takes to send messages to Kafka once more, as the plugin sends them. */
#ifndef RESEND_H
#define RESEND_H

#include "mm_config.h"
#include "mm_contact.h"
#include "mm_kafka.h"
#include "mm_lanes.h"
#include "mm_log.h"
#include "mm_message.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* All of it is the owner's, and ends by resend_fini(). */
struct resend
{
    struct mm_config *config;
    struct mm_message *message; /* for one at a time */
    struct mm_lanes *lanes;     /* of these settings */
    struct mm_log *log;         /* the client's lines from warnings on, for mm_log_drain() */
    struct mm_kafka *kafka;     /* NULL: there is none now */
    struct mm_contact_told told;
};

/* Settings, and what goes with them. r: all zero; to be ended in any case. Errors: MM_EINVAL, a
 * setting is wrong, which source's report was told; MM_ENOMEM. */
int resend_init(struct resend *r, const struct mm_config_source *source);

/* Make a producer, whose threads take no signals: they are the caller's. alone: each message is
 * sent by itself, and none to a partition before the last one's report has come, so that one that
 * is refused takes no other with it, and ends no producer. on_report and arg: as those of struct
 * mm_kafka_options. Errors: as mm_kafka_new(). */
int resend_start(struct resend *r,
                 bool alone,
                 mm_kafka_report_fn on_report,
                 void *arg,
                 char *errstr,
                 size_t errstr_len);

/* End the producer, if there is one. What had no report until now has none to come. */
void resend_stop(struct resend *r, uint32_t wait_ms);

void resend_fini(struct resend *r);

#endif
