/* One level of threads: OpenMP outside, everything below it (OpenBLAS too) single-threaded.
 *
 * Every parallel region says `num_threads(dad_num_threads())`. What is summed is cut into
 * pieces whose number and order depend on the shapes only, never on the thread count, so
 * that results do not; pieces that change no result may follow the threads.
 *
 * Scratch is sized by the thread count before a call and cut by it during the call, so the
 * count changes only while no call is in flight. What counts calls and sets the count is
 * for one thread at a time (Python's GIL sees to that). */
#ifndef DAD_THREADS_H
#define DAD_THREADS_H

#include <stdbool.h>

#include "base/status.h"

enum { DAD_MOST_THREADS = 1024 };

int dad_num_threads(void);
int dad_thread_id(void); /* 0 .. dad_num_threads() - 1, inside a parallel region */

/* OpenMP's own (OMP_NUM_THREADS, or the processors this process may run on); what a text
 * says, false unless that is 1 to DAD_MOST_THREADS. */
int dad_default_threads(void);
DAD_MUST_CHECK bool dad_parse_threads(int *count, const char *text);

/* count >= 1; holds at once, or when the last call in flight ends. */
void dad_set_num_threads(int count);
int dad_wanted_threads(void); /* what was set last */

/* A process that is forked from one that has used several threads has one, for good: where
 * this is so, no count above 1 may be set. Init sees to it; false: no memory. */
bool dad_only_one_thread(void);
DAD_MUST_CHECK bool dad_threads_init(void);

void dad_begin_call(void);
void dad_end_call(void);
bool dad_in_call(void); /* any thread's */

#endif
