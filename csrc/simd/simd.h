/* The inner loops, one table per level, chosen once.
 *
 * Each file of this folder but dispatch.c is compiled once per level (baseline; AVX2 with
 * FMA and AVX-512 on x86-64) and defines one constant table, `DAD_AT_LEVEL(dad_conv_ops)`
 * and so on. Inner loops run in one thread, know nothing of images beyond what they are
 * told, and never allocate. A level's result does not depend on how its callers cut the
 * work. */
#ifndef DAD_SIMD_H
#define DAD_SIMD_H

#include "simd/conv_ops.h"
#include "simd/layer_ops.h"

typedef struct {
    const char *name; /* "baseline", "avx2", "avx512" */
    const dad_conv_ops *conv;
    const dad_layer_ops *layer;
} dad_simd_level;

/* The level in use: the best that the processor has, or the one that DIFFUSIONAD_ISA names.
 */
const dad_simd_level *dad_simd(void);

/* Choose by name (NULL: the best). False when there is no such level or the processor lacks
 * it. */
int dad_simd_select(const char *name);

/* Whether the level in use has products of bfloat16, and the processor their instruction.
 */
int dad_simd_has_bfloat16(void);

/* The i-th level that this processor can run, from baseline up; NULL past the last. */
const dad_simd_level *dad_simd_runnable(int i);

#endif
