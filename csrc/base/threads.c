/* The thread count, calls in flight, and what is left of both after a fork. */
#include "base/threads.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#ifdef _OPENMP
#include <omp.h>
#ifndef _WIN32
#include <pthread.h>
#define CAN_FORK
#endif
#endif

static int thread_count = 1; /* decided when the core is loaded */
static int wanted_count = 0; /* 0: as thread_count */
static int calls = 0;        /* in flight */
static atomic_bool threaded; /* there may be threads beside the caller's */
static bool orphaned;        /* forked from a process that had such threads */

int dad_num_threads(void) {
    if (thread_count > 1) {
        atomic_store_explicit(&threaded, true, memory_order_relaxed);
    }
    return thread_count;
}

bool dad_parse_threads(int *count, const char *text) {
    char *end;
    errno = 0;
    long value = strtol(text, &end, 10);
    *count = (int)value;
    return errno == 0 && end != text && *end == '\0' && value >= 1 &&
           value <= DAD_MOST_THREADS;
}

int dad_default_threads(void) {
#ifdef _OPENMP
    return omp_get_max_threads();
#else
    return 1;
#endif
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

int dad_wanted_threads(void) { return wanted_count > 0 ? wanted_count : thread_count; }

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
