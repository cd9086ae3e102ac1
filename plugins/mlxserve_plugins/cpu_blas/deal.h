/* A product dealt out in parts to this thread and to helpers, each taking the next part as it becomes
 * free. OpenBLAS's own threads take equal shares and meet at the end, so that other work on any core
 * holds up all of them: seen to make a product ten times slower. Here the wait is for one part. */

#pragma once
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>

typedef void (*part_of)(const void *job, int part);

enum { MOST_PARTS = (1 << 16) - 1 };
/* Looks for a new deal before a helper sleeps: some tens of microseconds, as long as a model takes
 * between two products. Waking it takes longer than that. */
enum { LOOKS = 2000 };

static part_of deal_run;
static const void *deal_job;
/* Number of the deal, how many parts it has, the next one. Whoever takes a part by exchanging this
 * has read of the same deal: it cannot end before that part does. */
static _Atomic uint64_t deal_next;
static atomic_int deal_left, sleeping;
static atomic_flag dealing = ATOMIC_FLAG_INIT;
static pthread_mutex_t door = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t dealt = PTHREAD_COND_INITIALIZER;
static int helpers;

static inline void breathe(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

static int has_parts(uint64_t next) { return (next & MOST_PARTS) < ((next >> 16) & MOST_PARTS); }

static void take_parts(void) {
  uint64_t next = atomic_load(&deal_next);
  while (has_parts(next)) {
    if (!atomic_compare_exchange_weak(&deal_next, &next, next + 1)) continue;
    deal_run(deal_job, (int)(next & MOST_PARTS));
    atomic_fetch_sub(&deal_left, 1);
    next = atomic_load(&deal_next);
  }
}

static void *help(void *nothing) {
  for (;;) {
    int looks = 0;
    while (looks++ < LOOKS && !has_parts(atomic_load(&deal_next))) breathe();
    if (!has_parts(atomic_load(&deal_next))) {
      pthread_mutex_lock(&door);
      atomic_fetch_add(&sleeping, 1);
      while (!has_parts(atomic_load(&deal_next))) pthread_cond_wait(&dealt, &door);
      atomic_fetch_sub(&sleeping, 1);
      pthread_mutex_unlock(&door);
    }
    take_parts();
  }
  return nothing;
}

/* Run all parts of a job. Where another thread's is being dealt out, or nobody helps, alone. */
static void deal_out(part_of run, const void *job, int parts) {
  if (!helpers || parts < 2 || parts > MOST_PARTS || atomic_flag_test_and_set(&dealing)) {
    for (int part = 0; part < parts; part++) run(job, part);
    return;
  }
  deal_run = run, deal_job = job;
  atomic_store(&deal_left, parts);
  uint64_t number = (atomic_load(&deal_next) >> 32) + 1;
  atomic_store(&deal_next, number << 32 | (uint64_t)parts << 16);
  if (atomic_load(&sleeping)) {
    pthread_mutex_lock(&door);
    pthread_cond_broadcast(&dealt);
    pthread_mutex_unlock(&door);
  }
  take_parts();
  for (int looks = 0; atomic_load(&deal_left) > 0; looks++) {
    if (looks < LOOKS)
      breathe();
    else
      sched_yield(); /* whoever has the last part may be waiting for this very core */
  }
  atomic_flag_clear(&dealing);
}

static void start_helpers(int count) {
  for (pthread_t thread; count > 0; count--) {
    if (pthread_create(&thread, 0, help, 0)) return;
    pthread_detach(thread);
    helpers++;
  }
}
