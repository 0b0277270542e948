/* spool.h - the command "spool": what is in the directory of a spool. */
#ifndef SPOOL_H
#define SPOOL_H

#define SPOOL_USAGE "ls|stat|verify|dump|replay|repair [OPTION]... DIR (spool --help shows more)"

/* argv[0] is the command's name. Returns the exit code. */
int run_spool(int argc, char **argv);

#endif
