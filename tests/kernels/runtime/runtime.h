/* What the parts of the runtime have in common, beside what tests see. */
#ifndef RUNTIME_H
#define RUNTIME_H

#include "kernel.h"

void init_hypercalls(void);
void init_memory(void);
void init_console(void);
void init_traps(void);
void init_events(void);

/* Called by start.S. */
void kernel_main(void);
void handle_entry(struct frame *frame);

/* Entry ENTRY_EVENT. */
void handle_upcall(struct frame *frame);

#endif
