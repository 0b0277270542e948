/* prove.h - the command "prove". */
#ifndef PROVE_H
#define PROVE_H

#define PROVE_USAGE                                                                           \
    "--kafka HOST:PORT [--minutes N] [--topic NAME] [--option NAME=VALUE]... [--clients N]\n" \
    "      [--topics N] [--rate N] [--kill-every S] [--qos N] [--power] [--mosquitto FILE]\n" \
    "      [--plugin FILE] [--seed N] [--keep] [--json]"

extern const char prove_help[];

/* Publish to a broker of its own, kill it again and again, and look whether all is in Kafka.
 * argv[0] is the command's name. Returns the exit code. */
int run_prove(int argc, char **argv);

#endif
