/* interrupt.h - SIGINT and SIGTERM as a question, for work that has to end in order. */
#ifndef INTERRUPT_H
#define INTERRUPT_H

#include <stdbool.h>

/* From now on these signals are noted instead of ending the process. */
void interrupt_catch(void);

/* Has one come? */
bool interrupt_came(void);

#endif
