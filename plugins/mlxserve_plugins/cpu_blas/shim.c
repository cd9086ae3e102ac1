/* The three functions that mlx's CPU backend calls on every matrix product, sent on to an OpenBLAS
 * whose integers are 64 bits wide (numpy's). Only these are exported, so that nothing else in the
 * process changes its library.
 *
 * A product of a batch's rows with a layer's weights, which is what decoding is, is not OpenBLAS's
 * strength: kernel.h has it. Without the instructions for that it goes out as products of single
 * rows, with weights in blocks that stay in the cache while each row meets them. */

#include "deal.h"
#include "kernel.h"

typedef void (*sgemm64)(int, int, int, int64_t, int64_t, int64_t, float, const float *, int64_t,
                        const float *, int64_t, float, float *, int64_t);
typedef void (*dgemm64)(int, int, int, int64_t, int64_t, int64_t, double, const double *, int64_t,
                        const double *, int64_t, double, double *, int64_t);
typedef void (*cgemm64)(int, int, int, int64_t, int64_t, int64_t, const void *, const void *,
                        int64_t, const void *, int64_t, const void *, void *, int64_t);
typedef void (*sgemv64)(int, int, int64_t, int64_t, float, const float *, int64_t, const float *,
                        int64_t, float, float *, int64_t);

enum { ROW_MAJOR = 101, NO_TRANS = 111, TRANS = 112 };
enum { KERNEL_ROWS = 192, FEW_ROWS = 12, MANY_WEIGHTS = 1 << 15 };
/* What attention ends with: more columns than a head has are read in pieces that lie far apart. */
enum { VALUE_ROWS = 32, VALUE_COLUMNS = 512 };
/* Weights of a part: about ten microseconds of reading. */
enum { PART_WEIGHTS = 1 << 15 };
/* Parts of a large product, and rows of one: OpenBLAS copies the weights anew for each, which so many
 * rows make up for; in parts of the weights, with the rows copied anew, it lost a quarter. */
enum { LARGE_PARTS = 16, LEAST_LARGE = 128 };
static const int64_t LARGE = (int64_t)1 << 24;

static sgemm64 s_target;
static dgemm64 d_target;
static cgemm64 c_target;
static sgemv64 s_row_target;
static int64_t block_floats;
static int with_kernel;

/* To be called before the first product: addresses of the functions to forward to, and how many
 * bytes of weights stay in the cache. */
void mlxserve_bind_gemm(void *s, void *d, void *c, void *s_row, int64_t block_bytes) {
  s_target = (sgemm64)s;
  d_target = (dgemm64)d;
  c_target = (cgemm64)c;
  s_row_target = (sgemv64)s_row;
  block_floats = block_bytes / (int64_t)sizeof(float);
  with_kernel = kernel_usable();
}

/* Let so many more cores help; to be called once. Returns how many do. */
int mlxserve_help(int count) {
  start_helpers(count);
  return helpers;
}

static void row_by_row(const product *p) {
  int64_t block = block_floats / p->k > 16 ? block_floats / p->k : 16;
  for (int64_t from = 0; from < p->n; from += block) {
    int64_t count = p->n - from < block ? p->n - from : block;
    for (int64_t row = 0; row < p->m; row++) {
      s_row_target(ROW_MAJOR, NO_TRANS, count, p->k, p->alpha, p->b + from * p->ldb, p->ldb,
                   p->a + row * p->lda, 1, p->beta, p->c + row * p->ldc + from, 1);
    }
  }
}

static int64_t kernel_part(const product *p) {
  int64_t rows = PART_WEIGHTS / p->k / 4 * 4;
  return rows > 4 ? rows : 4;
}

static void run_kernel_part(const void *job, int part) {
  const product *p = job;
  int64_t from = part * kernel_part(p), to = from + kernel_part(p);
  rows_with_weights(p, from, to < p->n ? to : p->n);
}

static int64_t large_part(const product *p) {
  int64_t rows = ((p->m + LARGE_PARTS - 1) / LARGE_PARTS + 31) / 32 * 32;
  return rows > LEAST_LARGE ? rows : LEAST_LARGE;
}

static void run_large_part(const void *job, int part) {
  const product *p = job;
  int64_t from = part * large_part(p);
  int64_t count = p->m - from < large_part(p) ? p->m - from : large_part(p);
  s_target(ROW_MAJOR, NO_TRANS, TRANS, (int)count, p->n, p->k, p->alpha, p->a + from * p->lda,
           p->lda, p->b, p->ldb, p->beta, p->c + from * p->ldc, p->ldc);
}

/* Rows with weights that lie as a layer has them; returns 0 where OpenBLAS is to do it whole. */
static int weights_product(const product *p) {
  if (with_kernel && p->m <= KERNEL_ROWS) {
    deal_out(run_kernel_part, p, (int)((p->n + kernel_part(p) - 1) / kernel_part(p)));
    return 1;
  }
  if ((int64_t)p->n * p->k < MANY_WEIGHTS) return 0;
  if (p->m <= FEW_ROWS) return row_by_row(p), 1;
  if (!helpers || (int64_t)p->m * p->n * p->k < LARGE) return 0;
  deal_out(run_large_part, p, (int)((p->m + large_part(p) - 1) / large_part(p)));
  return 1;
}

void cblas_sgemm(int order, int ta, int tb, int m, int n, int k, float alpha, const float *a,
                 int lda, const float *b, int ldb, float beta, float *c, int ldc) {
  if (order == ROW_MAJOR && ta == NO_TRANS && m > 0 && n > 0 && k > 0) {
    const product p = {m, n, k, lda, ldb, ldc, alpha, beta, a, b, c};
    if (tb == TRANS && weights_product(&p)) return;
    if (tb == NO_TRANS && with_kernel && m <= VALUE_ROWS && n <= VALUE_COLUMNS) {
      rows_of_values(&p);
      return;
    }
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
