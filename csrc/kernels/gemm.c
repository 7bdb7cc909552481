/* Matrix products by OpenBLAS: the only file that calls it.
 *
 * OpenBLAS is built with threads of its own. Beside OpenMP loops those made small products
 * 20 to 40 times slower, so it is kept at one thread and our loops call it from within. */
#include "kernels/kernels.h"

#ifdef DAD_SYSTEM_BLAS
#include <cblas.h>
#define BLAS(name) name
void openblas_set_num_threads(int count);
char *openblas_get_config(void);
#else
#include <cblas.h> /* of the PyPI package: its symbols carry a prefix */
#define BLAS(name) scipy_##name
#endif

void dad_gemm_init(void) { BLAS(openblas_set_num_threads)(1); }

const char *dad_blas_name(void) { return BLAS(openblas_get_config)(); }

void dad_gemm(bool transpose_a, bool transpose_b, ptrdiff_t M, ptrdiff_t N, ptrdiff_t K,
              float alpha, const float *A, ptrdiff_t lda, const float *B, ptrdiff_t ldb,
              float beta, float *C, ptrdiff_t ldc) {
    BLAS(cblas_sgemm)(CblasRowMajor, transpose_a ? CblasTrans : CblasNoTrans,
                      transpose_b ? CblasTrans : CblasNoTrans, (int)M, (int)N, (int)K,
                      alpha, A, (int)lda, B, (int)ldb, beta, C, (int)ldc);
}
