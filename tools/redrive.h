/* redrive.h - dead letters sent to Kafka again. */
#ifndef REDRIVE_H
#define REDRIVE_H

#include "idset.h"
#include "letters.h"
#include "mm_config.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct redrive_options
{
    const struct mm_option *settings; /* kafka_broker, rdkafka.…, as the plugin's */
    size_t n_settings;
    const struct idset *ids; /* only these; empty: all */
    const char *topic;       /* the Kafka topic; NULL: the one that the letter was meant for */
    bool raw;                /* the payload as it is, not in JSON */
    bool again;              /* those too that were sent again before */
    bool dry_run;
    uint32_t timeout_s; /* to wait for Kafka's next answer */
};

/* Send letters as the plugin would have sent them: key, value, header mm-id and time are the same.
 * Each is noted (redriven.h) when Kafka has it; one that Kafka refuses holds up no other. What is
 * done is on standard output, what went wrong on standard error. Returns the exit code. */
int redrive(struct letters *letters, const struct redrive_options *opts);

#endif
