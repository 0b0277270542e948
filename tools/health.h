/* health.h - the command "health". */
#ifndef HEALTH_H
#define HEALTH_H

#define HEALTH_USAGE "[--path PATH] [--timeout S] [FILE]"

extern const char health_help[];

/* Ask a broker on this machine how it is, over the port that its settings name. argv[0] is the
 * command's name. Returns the exit code. */
int run_health(int argc, char **argv);

#endif
