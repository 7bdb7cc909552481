/* The products of conv_ops.c with operands in bfloat16, two to a float's place: one
 * instruction multiplies both of a pair and adds both to a float. */
#include "simd/conv_ops.h"
#include "simd/vec.h"

#if DAD_BFLOAT16

#define WITH_BFLOAT16 __attribute__((target("avx512bf16")))

/* A pair, whose bits are no float. */
DAD_INLINE vf broadcast_pair(const float *p) {
    int32_t pair;
    memcpy(&pair, p, sizeof pair);
    return (vf)_mm512_set1_epi32(pair);
}

WITH_BFLOAT16 DAD_INLINE vf add_products(vf c, vf a, vf b) {
    return (vf)_mm512_dpbf16_ps((__m512)c, (__m512bh)a, (__m512bh)b);
}

#define PRODUCT_TARGET WITH_BFLOAT16
#define PRODUCT_FACTOR(p) broadcast_pair(p)
#define PRODUCT_ADD(c, a, b) add_products(c, a, b)
#include "simd/product.inc"

extern dad_product DAD_AT_LEVEL(dad_product_bfloat16);
void DAD_AT_LEVEL(dad_product_bfloat16)(float *c, ptrdiff_t c_panel, const float *a,
                                        ptrdiff_t lda, const float *b, ptrdiff_t b_panel,
                                        int panels, ptrdiff_t rows, ptrdiff_t K, int add) {
    product(c, c_panel, a, lda, b, b_panel, panels, rows, K, add);
}

#endif
