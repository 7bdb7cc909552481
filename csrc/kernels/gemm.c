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

const char *dad_blas_name(void) { return BLAS(openblas_get_config)(); }

void dad_gemm(bool transpose_a, bool transpose_b, ptrdiff_t M, ptrdiff_t N, ptrdiff_t K,
              const float *A, ptrdiff_t lda, const float *B, ptrdiff_t ldb, float beta,
              float *C, ptrdiff_t ldc) {
    BLAS(cblas_sgemm)(CblasRowMajor, transpose_a ? CblasTrans : CblasNoTrans,
                      transpose_b ? CblasTrans : CblasNoTrans, (int)M, (int)N, (int)K, 1.0f,
                      A, (int)lda, B, (int)ldb, beta, C, (int)ldc);
}

/* OpenBLAS chooses its kernels by processor, and 0.3.34 from PyPI has empty ones for Arm's
 * SME: wrong numbers and no error (seen under qemu). A^T B + C of small integers is exact
 * on any that work. */
static bool multiplies_rightly(void) {
    enum { M = 3, N = 5, K = 4 };
    float A[K * M], B[K * N], C[M * N];
    for (int i = 0; i < K * M; i++) {
        A[i] = (float)(i % 7 - 3);
    }
    for (int i = 0; i < K * N; i++) {
        B[i] = (float)(i % 5 + 1);
    }
    for (int i = 0; i < M * N; i++) {
        C[i] = (float)i;
    }
    dad_gemm(true, false, M, N, K, A, M, B, N, 1.0f, C, N);
    bool right = true;
    for (int m = 0; m < M; m++) {
        for (int n = 0; n < N; n++) {
            float sum = (float)(m * N + n);
            for (int k = 0; k < K; k++) {
                sum += A[k * M + m] * B[k * N + n];
            }
            right = right && sum == C[m * N + n];
        }
    }
    return right;
}

bool dad_gemm_init(void) {
    BLAS(openblas_set_num_threads)(1);
    return multiplies_rightly();
}
