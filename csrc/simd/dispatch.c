/* Chooses the SIMD level. The one file of this folder that is compiled only once. */
#include <stddef.h>
#include <string.h>

#include "simd/simd.h"

#define DECLARE(level)                              \
    extern const dad_conv_ops dad_conv_ops_##level; \
    extern const dad_layer_ops dad_layer_ops_##level;
#define LEVEL(level) {#level, &dad_conv_ops_##level, &dad_layer_ops_##level}

DECLARE(baseline)
#ifdef DAD_X86_LEVELS
DECLARE(avx2)
DECLARE(avx512)
#endif

static const dad_simd_level levels[] = {
    LEVEL(baseline),
#ifdef DAD_X86_LEVELS
    LEVEL(avx2),
    LEVEL(avx512),
#endif
};
enum { LEVELS = sizeof(levels) / sizeof(levels[0]) };

static const dad_simd_level *current = NULL;

static int runnable(int i) {
#ifdef DAD_X86_LEVELS
    if (i == 1) {
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    }
    if (i == 2) {
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    }
#endif
    return i == 0;
}

const dad_simd_level *dad_simd_runnable(int i) {
    return i >= 0 && i < LEVELS && runnable(i) ? &levels[i] : NULL;
}

int dad_simd_select(const char *name) {
    for (int i = LEVELS - 1; i >= 0; i--) {
        if (runnable(i) && (name == NULL || strcmp(name, levels[i].name) == 0)) {
            current = &levels[i];
            return 1;
        }
    }
    return 0;
}

const dad_simd_level *dad_simd(void) {
    if (current == NULL) {
        dad_simd_select(NULL);
    }
    return current;
}

int dad_simd_has_bfloat16(void) {
    if (dad_simd()->conv->product_bfloat16 == NULL) {
        return 0;
    }
#ifdef DAD_X86_LEVELS
    return __builtin_cpu_supports("avx512bf16") != 0;
#else
    return 0;
#endif
}
