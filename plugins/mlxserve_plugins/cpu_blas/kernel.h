/* Products of some rows with a layer's weights, for x86 with AVX2 and FMA.
 *
 * OpenBLAS copies the weights of every product into an order of its own first, and for the rows of a
 * batch that copy takes longer than the product. Here nothing is copied: a row of weights is read as
 * it lies, against three rows at a time, and what is multiplied stays in the first-level cache. Each
 * number is added up in an order that depends on the length of the rows alone, so that a row comes
 * out the same whoever is beside it. */

#pragma once
#include <stdint.h>

typedef struct {
  int m, n, k;
  int64_t lda, ldb, ldc;
  float alpha, beta;
  const float *a, *b;
  float *c;
} product;

#if defined(__x86_64__)
#include <immintrin.h>

#define FAST __attribute__((target("avx2,fma")))
#define INLINED FAST __attribute__((always_inline)) static inline
#define UNROLL _Pragma("GCC unroll 4")

enum { LANES = 8, TALL = 3, WIDE = 4 };
/* Floats of a row that are multiplied at a time: those of 3 + 4 rows fit the first-level cache. */
enum { DEEP = 1024 };
/* Rows that stay in the second-level cache while weights go by. */
enum { STAYING = 48 };

static int kernel_usable(void) {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

INLINED __m256i first_lanes(int count) {
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lanes);
}

INLINED __m128 sums(const __m256 *v) {
  __m256 all = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
  return _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
}

/* c[high][wide] = alpha * a[high][k] . b[wide][k] + beta * c; high <= TALL, wide <= WIDE. */
INLINED void dots(const int high, const int wide, const product *p, int k, const float *a,
                  const float *b, float beta, float *c) {
  __m256 sum[TALL][WIDE];
  UNROLL for (int r = 0; r < TALL; r++)
    UNROLL for (int j = 0; j < WIDE; j++) sum[r][j] = _mm256_setzero_ps();
  int at = 0;
  for (; at + LANES <= k; at += LANES) {
    __m256 x[TALL];
    UNROLL for (int r = 0; r < high; r++) x[r] = _mm256_loadu_ps(a + r * p->lda + at);
    UNROLL for (int j = 0; j < wide; j++) {
      const __m256 w = _mm256_loadu_ps(b + j * p->ldb + at);
      UNROLL for (int r = 0; r < high; r++) sum[r][j] = _mm256_fmadd_ps(x[r], w, sum[r][j]);
    }
  }
  if (at < k) {
    const __m256i some = first_lanes(k - at);
    UNROLL for (int j = 0; j < wide; j++) {
      const __m256 w = _mm256_maskload_ps(b + j * p->ldb + at, some);
      UNROLL for (int r = 0; r < high; r++)
        sum[r][j] = _mm256_fmadd_ps(_mm256_maskload_ps(a + r * p->lda + at, some), w, sum[r][j]);
    }
  }
  const __m128i kept = _mm256_castsi256_si128(first_lanes(wide));
  UNROLL for (int r = 0; r < high; r++) {
    float *to = c + r * p->ldc;
    __m128 out = _mm_mul_ps(sums(sum[r]), _mm_set1_ps(p->alpha));
    if (beta != 0) out = _mm_fmadd_ps(_mm_maskload_ps(to, kept), _mm_set1_ps(beta), out);
    _mm_maskstore_ps(to, kept, out);
  }
}

#define DOTS(HIGH, WIDTH)                                                                          \
  FAST __attribute__((noinline)) static void dots_##HIGH##_##WIDTH(                                \
      const product *p, int k, const float *a, const float *b, float beta, float *c) {             \
    dots(HIGH, WIDTH, p, k, a, b, beta, c);                                                        \
  }
DOTS(1, 1) DOTS(1, 2) DOTS(1, 3) DOTS(1, 4)
DOTS(2, 1) DOTS(2, 2) DOTS(2, 3) DOTS(2, 4)
DOTS(3, 1) DOTS(3, 2) DOTS(3, 3) DOTS(3, 4)

typedef void (*dots_of)(const product *, int, const float *, const float *, float, float *);
static const dots_of DOTS_OF[TALL][WIDE] = {{dots_1_1, dots_1_2, dots_1_3, dots_1_4},
                                            {dots_2_1, dots_2_2, dots_2_3, dots_2_4},
                                            {dots_3_1, dots_3_2, dots_3_3, dots_3_4}};

/* Ask memory for the floats [from, to) of a few rows of weights; return where to go on. */
FAST static inline int64_t fetch(const product *p, int64_t j, int deep, int64_t from, int64_t to) {
  for (; from < to; from += 16)
    UNROLL for (int w = 0; w < WIDE; w++)
      _mm_prefetch((const char *)(p->b + (j + w) * p->ldb + deep + from), _MM_HINT_T0);
  return from;
}

/* All rows with the weights' rows [from, to): c = alpha * a . b^T + beta * c. */
FAST static void rows_with_weights(const product *p, int64_t from, int64_t to) {
  for (int64_t top = 0; top < p->m; top += STAYING) {
    const int64_t bottom = top + STAYING < p->m ? top + STAYING : p->m;
    for (int64_t j = from; j < to; j += WIDE) {
      const int wide = to - j < WIDE ? (int)(to - j) : WIDE;
      /* The next weights come from memory while these are multiplied; with fewer rows than this the
       * processor's own guesses do better. */
      const int ahead = bottom - top > 2 * TALL && j + 2 * WIDE <= to;
      for (int deep = 0; deep < p->k; deep += DEEP) {
        const int k = p->k - deep < DEEP ? p->k - deep : DEEP;
        const int64_t tiles = (bottom - top + TALL - 1) / TALL;
        int64_t tile = 0, fetched = 0;
        for (int64_t r = top; r < bottom; r += TALL, tile++) {
          if (ahead) fetched = fetch(p, j + WIDE, deep, fetched, k * (tile + 1) / tiles);
          const int high = bottom - r < TALL ? (int)(bottom - r) : TALL;
          DOTS_OF[high - 1][wide - 1](p, k, p->a + r * p->lda + deep, p->b + j * p->ldb + deep,
                                      deep ? 1 : p->beta, p->c + r * p->ldc + j);
        }
      }
    }
  }
}

/* c[high][8 * vectors or less] = alpha * a[high][k] . b[k][..] + beta * c. */
INLINED void mixes(const int high, const int vectors, const product *p, const float *a,
                   const float *b, float *c, __m256i kept) {
  __m256 sum[TALL][WIDE];
  UNROLL for (int r = 0; r < TALL; r++)
    UNROLL for (int v = 0; v < WIDE; v++) sum[r][v] = _mm256_setzero_ps();
  for (int at = 0; at < p->k; at++) {
    __m256 x[TALL];
    UNROLL for (int r = 0; r < high; r++) x[r] = _mm256_broadcast_ss(a + r * p->lda + at);
    UNROLL for (int v = 0; v < vectors; v++) {
      const float *from = b + at * p->ldb + v * LANES;
      const __m256 y = vectors > 1 ? _mm256_loadu_ps(from) : _mm256_maskload_ps(from, kept);
      UNROLL for (int r = 0; r < high; r++) sum[r][v] = _mm256_fmadd_ps(x[r], y, sum[r][v]);
    }
  }
  UNROLL for (int r = 0; r < high; r++) {
    UNROLL for (int v = 0; v < vectors; v++) {
      float *to = c + r * p->ldc + v * LANES;
      __m256 out = _mm256_mul_ps(sum[r][v], _mm256_set1_ps(p->alpha));
      if (p->beta != 0)
        out = _mm256_fmadd_ps(_mm256_maskload_ps(to, kept), _mm256_set1_ps(p->beta), out);
      _mm256_maskstore_ps(to, kept, out);
    }
  }
}

#define MIXES(HIGH)                                                                                \
  FAST __attribute__((noinline)) static void mixes_##HIGH(                                         \
      const product *p, const float *a, const float *b, float *c, int columns) {                   \
    if (columns == WIDE * LANES)                                                                   \
      mixes(HIGH, WIDE, p, a, b, c, _mm256_set1_epi32(-1));                                        \
    else                                                                                           \
      mixes(HIGH, 1, p, a, b, c, first_lanes(columns));                                            \
  }
MIXES(1) MIXES(2) MIXES(3)

typedef void (*mixes_of)(const product *, const float *, const float *, float *, int);
static const mixes_of MIXES_OF[TALL] = {mixes_1, mixes_2, mixes_3};

/* Some rows of weights, each for a row of values, which is what attention ends with:
 * c = alpha * a . b + beta * c. */
FAST static void rows_of_values(const product *p) {
  for (int64_t j = 0; j < p->n;) {
    const int64_t left = p->n - j;
    const int columns = left >= WIDE * LANES ? WIDE * LANES : left < LANES ? (int)left : LANES;
    for (int64_t r = 0; r < p->m; r += TALL) {
      const int high = p->m - r < TALL ? (int)(p->m - r) : TALL;
      MIXES_OF[high - 1](p, p->a + r * p->lda, p->b + j, p->c + r * p->ldc + j, columns);
    }
    j += columns;
  }
}

#else
static int kernel_usable(void) { return 0; }
static void rows_with_weights(const product *p, int64_t from, int64_t to) {
  (void)p, (void)from, (void)to;
}
static void rows_of_values(const product *p) { (void)p; }
#endif
