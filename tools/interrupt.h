/* interrupt.h - SIGINT and SIGTERM as a question, for work that has to end in order. */
#ifndef INTERRUPT_H
#define INTERRUPT_H

#include <stdbool.h>

/* From now on the first of them is noted; another one, a second later or more, ends the process. */
void interrupt_catch(void);

/* Has one come? */
bool interrupt_came(void);

#endif
