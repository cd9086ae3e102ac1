/* The three functions that mlx's CPU backend calls on every matrix product, sent on to an OpenBLAS
 * whose integers are 64 bits wide (numpy's). Only these are exported, so that nothing else in the
 * process changes its library.
 *
 * A product of a few rows with a layer's weights, which is what decoding is, goes out as products of
 * single rows: OpenBLAS copies the weights of a matrix product into an order of its own first, and
 * for a few rows that copy takes longer than the product. Weights go by in blocks that stay in the
 * cache while each row meets them, so that they are read from memory once. */

#include <stdint.h>

typedef void (*sgemm64)(int, int, int, int64_t, int64_t, int64_t, float, const float *, int64_t,
                        const float *, int64_t, float, float *, int64_t);
typedef void (*dgemm64)(int, int, int, int64_t, int64_t, int64_t, double, const double *, int64_t,
                        const double *, int64_t, double, double *, int64_t);
typedef void (*cgemm64)(int, int, int, int64_t, int64_t, int64_t, const void *, const void *,
                        int64_t, const void *, int64_t, const void *, void *, int64_t);

typedef void (*sgemv64)(int, int, int64_t, int64_t, float, const float *, int64_t, const float *,
                        int64_t, float, float *, int64_t);

enum { ROW_MAJOR = 101, NO_TRANS = 111, TRANS = 112 };
enum { FEW_ROWS = 12, MANY_WEIGHTS = 1 << 15 };

static sgemm64 s_target;
static dgemm64 d_target;
static cgemm64 c_target;
static sgemv64 s_row_target;
static int64_t block_floats;

/* To be called before the first product: addresses of the functions to forward to, and how many
 * bytes of weights stay in the cache. */
void mlxserve_bind_gemm(void *s, void *d, void *c, void *s_row, int64_t block_bytes) {
  s_target = (sgemm64)s;
  d_target = (dgemm64)d;
  c_target = (cgemm64)c;
  s_row_target = (sgemv64)s_row;
  block_floats = block_bytes / (int64_t)sizeof(float);
}

static void row_by_row(int m, int n, int k, float alpha, const float *a, int lda, const float *b,
                       int ldb, float beta, float *c, int ldc) {
  int64_t block = block_floats / k > 16 ? block_floats / k : 16;
  for (int64_t from = 0; from < n; from += block) {
    int64_t count = n - from < block ? n - from : block;
    for (int64_t row = 0; row < m; row++) {
      s_row_target(ROW_MAJOR, NO_TRANS, count, k, alpha, b + from * ldb, ldb, a + row * lda, 1,
                   beta, c + row * ldc + from, 1);
    }
  }
}

void cblas_sgemm(int order, int ta, int tb, int m, int n, int k, float alpha, const float *a,
                 int lda, const float *b, int ldb, float beta, float *c, int ldc) {
  if (m <= FEW_ROWS && order == ROW_MAJOR && ta == NO_TRANS && tb == TRANS &&
      (int64_t)n * k >= MANY_WEIGHTS) {
    row_by_row(m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
    return;
  }
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
