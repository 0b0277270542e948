/* check.h - "metamorphosis check-config": what is wrong, or will be, with the settings in a file.
 *
 * Its parts, each of which adds what it finds. */
#ifndef CHECK_H
#define CHECK_H

#include "findings.h"
#include "settings.h"

#include <stdbool.h>
#include <stdint.h>

#define CHECK_USAGE                                                                           \
    "[--json] [--strict] [--form-only] [--env] [--config-file | --mosquitto-conf] [--plugin " \
    "NAME]\n"                                                                                 \
    "      [--user NAME] [--connect [--timeout S] [--produce-test]] FILE"

extern const char check_help[];

int run_check_config(int argc, char **argv);

/* Around the settings of the plugin: what the broker would do with them, and what of the broker's
 * own settings is at odds with what the plugin promises. */
void check_broker(const struct settings *s, struct findings *f);

/* On this machine, with the eyes of the user that the broker runs as: directories, files, free
 * space, the port of the health pages. */
void check_machine(const struct settings *s, const char *user, struct findings *f);

/* The files of TLS among them: what is in them, and for how long it is valid. Nothing without the
 * settings for it. */
void check_tls(const struct settings *s, struct findings *f);

/* What the Kafka client says of the settings that it gets, together. It opens the files that they
 * name. */
void check_client(const struct settings *s, struct findings *f);

/* Ask Kafka: is it there, does it let us in, are the Kafka topics there and may they be written?
 * Waits timeout_ms at most for each answer. produce_test: write one record to each Kafka topic. */
void check_kafka(const struct settings *s,
                 uint32_t timeout_ms,
                 bool produce_test,
                 struct findings *f);

#endif
