/* route.h - "metamorphosis route": what becomes of a message by the settings in a file. */
#ifndef ROUTE_H
#define ROUTE_H

#define ROUTE_USAGE                                                                          \
    "--config FILE --topic TOPIC [--client-id ID] [--username NAME] [--qos 0|1|2]\n"         \
    "      [--retain] [--payload FILE] [--user-property NAME=VALUE]... [--content-type T]\n" \
    "      [--response-topic T] [--correlation-data D] [--partitions N | --connect] [--json]"

extern const char route_help[];

int run_route(int argc, char **argv);

#endif
