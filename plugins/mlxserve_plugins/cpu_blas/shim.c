/* The three functions that mlx's CPU backend calls on every matrix product, sent on to an OpenBLAS
 * whose integers are 64 bits wide (numpy's). Only these are exported, so that nothing else in the
 * process changes its library. */

#include <stdint.h>

typedef void (*sgemm64)(int, int, int, int64_t, int64_t, int64_t, float, const float *, int64_t,
                        const float *, int64_t, float, float *, int64_t);
typedef void (*dgemm64)(int, int, int, int64_t, int64_t, int64_t, double, const double *, int64_t,
                        const double *, int64_t, double, double *, int64_t);
typedef void (*cgemm64)(int, int, int, int64_t, int64_t, int64_t, const void *, const void *,
                        int64_t, const void *, int64_t, const void *, void *, int64_t);

static sgemm64 s_target;
static dgemm64 d_target;
static cgemm64 c_target;

/* To be called before the first product: addresses of the three functions to forward to. */
void mlxserve_bind_gemm(void *s, void *d, void *c) {
  s_target = (sgemm64)s;
  d_target = (dgemm64)d;
  c_target = (cgemm64)c;
}

void cblas_sgemm(int order, int ta, int tb, int m, int n, int k, float alpha, const float *a,
                 int lda, const float *b, int ldb, float beta, float *c, int ldc) {
  s_target(order, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

void cblas_dgemm(int order, int ta, int tb, int m, int n, int k, double alpha, const double *a,
                 int lda, const double *b, int ldb, double beta, double *c, int ldc) {
  d_target(order, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

void cblas_cgemm(int order, int ta, int tb, int m, int n, int k, const void *alpha, const void *a,
                 int lda, const void *b, int ldb, const void *beta, void *c, int ldc) {
  c_target(order, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
