/* The thread count: DIFFUSIONAD_NUM_THREADS, else OpenMP's own default (OMP_NUM_THREADS, or
 * the processors this process may run on). */
#include "base/threads.h"

#include <stdatomic.h>
#include <stdlib.h>
#ifdef _OPENMP
#include <omp.h>
#ifndef _WIN32
#include <pthread.h>
#define CAN_FORK
#endif
#endif

static int thread_count = 0; /* 0: not decided yet */
static int wanted_count = 0; /* 0: as thread_count */
static int calls = 0;        /* in flight */
static atomic_bool threaded; /* there may be threads beside the caller's */
static bool orphaned;        /* forked from a process that had such threads */

static int decided_count(void) {
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

int dad_num_threads(void) {
    int count = decided_count();
    if (count > 1) {
        atomic_store_explicit(&threaded, true, memory_order_relaxed);
    }
    return count;
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

int dad_wanted_threads(void) { return wanted_count > 0 ? wanted_count : decided_count(); }

void dad_begin_call(void) { calls++; }

void dad_end_call(void) {
    calls--;
    apply_wanted();
}

bool dad_in_call(void) { return calls > 0; }

/* ---- fork ------------------------------------------------------------------------ */

#ifdef CAN_FORK
/* Only the thread that forks is copied: OpenMP would wait for its others forever, and calls
 * of other Python threads never end. */
static void begin_child(void) {
    calls = 0;
    apply_wanted();
    if (atomic_load_explicit(&threaded, memory_order_relaxed)) {
        orphaned = true;
        thread_count = 1;
    }
}
#endif

bool dad_threads_init(void) {
#ifdef CAN_FORK
    static bool done = false;
    if (!done) {
        done = pthread_atfork(NULL, NULL, begin_child) == 0;
    }
    return done;
#else
    return true;
#endif
}

bool dad_only_one_thread(void) { return orphaned; }

int dad_thread_id(void) {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}
