/* The three functions that mlx's CPU backend calls on every matrix product, sent on to an OpenBLAS
 * whose integers are 64 bits wide (numpy's). Only these are exported, so that nothing else in the
 * process changes its library.
 *
 * A product of a few rows with a layer's weights, which is what decoding is, goes out as products of
 * single rows: OpenBLAS copies the weights of a matrix product into an order of its own first, and
 * for a few rows that copy takes longer than the product. Weights go by in blocks that stay in the
 * cache while each row meets them, so that they are read from memory once. */

#include <pthread.h>
#include <stdatomic.h>
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
static int helped;

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

/* A large product with a layer's weights, on a machine where OpenBLAS is left one core of two: blocks
 * of weights are dealt to this thread and to one helper as each becomes free. OpenBLAS's own threads
 * take halves and meet at the end, so that other work on either core holds up both: seen to make a
 * product ten times slower. Here the wait is for one block at most. */
enum { DEALT = 16 };
static const int64_t LARGE = (int64_t)1 << 24;

static struct {
  int m, n, k, lda, ldb, ldc, block;
  float alpha, beta;
  const float *a, *b;
  float *c;
} deal;
static atomic_int next_block, blocks_left, blocks;
static pthread_mutex_t door = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t dealt = PTHREAD_COND_INITIALIZER, finished = PTHREAD_COND_INITIALIZER;
static atomic_flag dealing = ATOMIC_FLAG_INIT;
static uint64_t deals;
static int helping;

static void take_blocks(void) {
  for (int at = atomic_fetch_add(&next_block, 1); at < atomic_load(&blocks);
       at = atomic_fetch_add(&next_block, 1)) {
    int64_t from = (int64_t)at * deal.block;
    int64_t count = deal.n - from < deal.block ? deal.n - from : deal.block;
    s_target(ROW_MAJOR, NO_TRANS, TRANS, deal.m, count, deal.k, deal.alpha, deal.a, deal.lda,
             deal.b + from * deal.ldb, deal.ldb, deal.beta, deal.c + from, deal.ldc);
    if (atomic_fetch_sub(&blocks_left, 1) == 1) {
      pthread_mutex_lock(&door);
      pthread_cond_broadcast(&finished);
      pthread_mutex_unlock(&door);
    }
  }
}

static void *help(void *nothing) {
  uint64_t seen = 0;
  for (;;) {
    pthread_mutex_lock(&door);
    while (deals == seen) pthread_cond_wait(&dealt, &door);
    seen = deals;
    helping = 1;
    pthread_mutex_unlock(&door);
    take_blocks();
    pthread_mutex_lock(&door);
    helping = 0;
    pthread_cond_broadcast(&finished);
    pthread_mutex_unlock(&door);
  }
  return nothing;
}

/* Returns 0 if another thread's product is being dealt out. */
static int deal_out(int m, int n, int k, float alpha, const float *a, int lda, const float *b,
                    int ldb, float beta, float *c, int ldc) {
  if (atomic_flag_test_and_set(&dealing)) return 0;
  pthread_mutex_lock(&door);
  deal.m = m, deal.n = n, deal.k = k, deal.lda = lda, deal.ldb = ldb, deal.ldc = ldc;
  deal.alpha = alpha, deal.beta = beta, deal.a = a, deal.b = b, deal.c = c;
  deal.block = ((n + DEALT - 1) / DEALT + 15) / 16 * 16;
  int count = (n + deal.block - 1) / deal.block;
  atomic_store(&blocks_left, count);
  atomic_store(&blocks, count);
  atomic_store(&next_block, 0);
  deals++;
  pthread_cond_signal(&dealt);
  pthread_mutex_unlock(&door);
  take_blocks();
  pthread_mutex_lock(&door);
  /* The helper must be out of this deal before the next one is written. */
  while (atomic_load(&blocks_left) > 0 || helping) pthread_cond_wait(&finished, &door);
  atomic_store(&blocks, 0);
  pthread_mutex_unlock(&door);
  atomic_flag_clear(&dealing);
  return 1;
}

/* To be called once, after the functions are bound. */
int mlxserve_help(void) {
  pthread_t thread;
  helped = pthread_create(&thread, 0, help, 0) == 0;
  if (helped) pthread_detach(thread);
  return helped;
}

void cblas_sgemm(int order, int ta, int tb, int m, int n, int k, float alpha, const float *a,
                 int lda, const float *b, int ldb, float beta, float *c, int ldc) {
  if (m <= FEW_ROWS && order == ROW_MAJOR && ta == NO_TRANS && tb == TRANS &&
      (int64_t)n * k >= MANY_WEIGHTS) {
    row_by_row(m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
    return;
  }
  if (helped && order == ROW_MAJOR && ta == NO_TRANS && tb == TRANS &&
      (int64_t)n * k >= MANY_WEIGHTS && (int64_t)m * n * k >= LARGE &&
      deal_out(m, n, k, alpha, a, lda, b, ldb, beta, c, ldc)) {
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
