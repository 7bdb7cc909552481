/* One level of threads: OpenMP outside, everything below it (OpenBLAS too) single-threaded.
 *
 * Every parallel region says `num_threads(dad_num_threads())`. What is summed is cut into
 * pieces whose number and order depend on the shapes only, never on the thread count, so
 * that results do not; pieces that change no result may follow the threads. */
#ifndef DAD_THREADS_H
#define DAD_THREADS_H

int dad_num_threads(void);
void dad_set_num_threads(int count); /* count >= 1 */
int dad_thread_id(void); /* 0 .. dad_num_threads() - 1, inside a parallel region */

#endif
