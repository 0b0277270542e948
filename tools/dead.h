/* dead.h - the command "dead". */
#ifndef DEAD_H
#define DEAD_H

#define DEAD_USAGE "ls|dump|redrive [OPTION]... DIR (dead --help shows more)"

/* List dead letters, show their payloads, send them to Kafka again. argv[0] is the command's name.
 * Returns the exit code. */
int run_dead(int argc, char **argv);

#endif
