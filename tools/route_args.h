/* route_args.h - what "route" was given, and what it found: for its two files. */
#ifndef ROUTE_ARGS_H
#define ROUTE_ARGS_H

#include "arguments.h"
#include "mm_message.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The message as it would be published. */
struct route_args
{
    const char *file;
    struct shared_arguments shared;
    const char *topic;
    unsigned qos;
    bool retain;
    const char *payload_file; /* NULL: the payload is empty */
    uint8_t *props;           /* of the record, owned */
    size_t props_len;
    uint32_t n_partitions; /* 0: not known */
};

/* What becomes of it. */
struct route_result
{
    const struct mm_config *config;
    bool taken;            /* a filter matches it */
    size_t route;          /* number of the route, from 1; 0: the default route */
    struct mm_place place; /* of the route; of kafka_topic for the default route, if given */
    struct mm_message_way way;
    struct mm_kafka_message message; /* when way.error is NULL */
    uint64_t size;                   /* bytes, against max_message_bytes */
    bool too_large;
    uint32_t n_partitions; /* 0: not known */
    int32_t partition;     /* -1: not known, or any */
};

/* The id in mm-id is given when a message is stored: this stands for it. */
#define ROUTE_ID "00000000-0000-0000-0000-000000000000-1"
#define ROUTE_ID_SHOWN "<spool>-<number>"

/* Print it for people, or as an object of JSON. */
void route_print(const struct route_args *args, const struct route_result *result);
void route_print_json(const struct route_args *args, const struct route_result *result);

#endif
