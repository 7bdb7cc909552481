/* The thread count: DIFFUSIONAD_NUM_THREADS, else OpenMP's own default (OMP_NUM_THREADS, or
 * the processors this process may run on). Set it between calls, not during one. */
#include "base/threads.h"

#include <stdlib.h>
#ifdef _OPENMP
#include <omp.h>
#endif

static int thread_count = 0; /* 0: not decided yet */

int dad_num_threads(void) {
    if (thread_count == 0) {
        const char *text = getenv("DIFFUSIONAD_NUM_THREADS");
        int wanted = text != NULL ? atoi(text) : 0;
#ifdef _OPENMP
        thread_count = wanted > 0 ? wanted : omp_get_max_threads();
#else
        thread_count = 1;
        (void)wanted;
#endif
    }
    return thread_count;
}

void dad_set_num_threads(int count) {
#ifdef _OPENMP
    thread_count = count > 0 ? count : 1;
#else
    (void)count;
    thread_count = 1;
#endif
}

int dad_thread_id(void) {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}
