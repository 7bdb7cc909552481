/* The thread count: DIFFUSIONAD_NUM_THREADS, else OpenMP's own default (OMP_NUM_THREADS, or
 * the processors this process may run on). */
#include "base/threads.h"

#include <stdlib.h>
#ifdef _OPENMP
#include <omp.h>
#endif

static int thread_count = 0; /* 0: not decided yet */
static int wanted_count = 0; /* 0: as thread_count */
static int calls = 0;        /* in flight */

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

static void apply_wanted(void) {
    if (calls == 0 && wanted_count > 0) {
        thread_count = wanted_count;
        wanted_count = 0;
    }
}

void dad_set_num_threads(int count) {
#ifdef _OPENMP
    wanted_count = count > 0 ? count : 1;
#else
    (void)count;
    wanted_count = 1;
#endif
    apply_wanted();
}

int dad_wanted_threads(void) { return wanted_count > 0 ? wanted_count : dad_num_threads(); }

void dad_begin_call(void) { calls++; }

void dad_end_call(void) {
    calls--;
    apply_wanted();
}

bool dad_in_call(void) { return calls > 0; }

int dad_thread_id(void) {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}
