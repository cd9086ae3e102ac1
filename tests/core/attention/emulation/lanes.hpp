// Runs a kernel's body on a CPU: every lane is a fiber, and lanes meet at shuffles and barriers.
//
// One thread block runs at a time, its lanes in turn, each until it must wait. It is slow, and honest
// about logic: indexing, shuffles, barriers, shared memory. A shuffle or barrier that some lanes do
// not reach ends the run with an error. It says nothing of a compiler's taste, of limits or of speed.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

namespace emu {
constexpr int WARP = 32, MOST = 256;
constexpr size_t STACK = 256 * 1024;

struct Meeting {  // `size` lanes wait for each other, again and again
  int size = 0, come = 0;
  unsigned round = 0;
};
inline Meeting warps[MOST / WARP], everyone;
inline int lane, block, lanes, waits;  // who runs; of how many; turns since somebody went on
inline bool done[MOST], stuck;
inline jmp_buf places[MOST], home;
inline uint64_t slots[2][MOST];
inline void (*body)();

inline void next() {  // let the next lane run; come back when it is this one's turn again
  if (++waits > 4 * MOST) {
    stuck = true;
    _longjmp(home, 1);
  }
  int from = lane;
  do lane = (lane + 1) % lanes;
  while (done[lane] && lane != from);
  if (_setjmp(places[from]) == 0) _longjmp(places[lane], 1);
}
inline void meet(Meeting& at) {
  unsigned mine = at.round;
  if (++at.come == at.size) {
    at.come = 0;
    at.round++;
    waits = 0;
  } else {
    while (at.round == mine) next();
  }
}
template <class V>
V exchange(V value, int from) {
  static_assert(sizeof(V) <= 8);
  Meeting& warp = warps[lane / WARP];
  auto& slot = slots[warp.round % 2];  // a lane may be one round ahead of those that still read
  std::memcpy(&slot[lane], &value, sizeof(V));
  meet(warp);
  V got;
  std::memcpy(&got, &slot[lane / WARP * WARP + from % WARP], sizeof(V));
  return got;
}
inline void live() {  // a lane's whole life
  body();
  done[lane] = true;
  waits = 0;
  for (int i = 1; i <= lanes; i++) {
    int other = (lane + i) % lanes;
    if (!done[other]) {
      lane = other;
      _longjmp(places[other], 1);
    }
  }
  _longjmp(home, 1);
}
inline ucontext_t came_from, contexts[MOST];
inline void begin() {  // runs once as a context of its own, so that a jump can find its stack
  if (_setjmp(places[lane]) == 0) swapcontext(&contexts[lane], &came_from);
  live();
}
inline int run(int blocks, int count, void (*of)()) {
  static std::vector<std::unique_ptr<char[]>> stacks;
  while (stacks.size() < size_t(count)) stacks.push_back(std::make_unique<char[]>(STACK));
  body = of;
  lanes = count;
  for (block = 0; block < blocks; block++) {
    stuck = false;
    waits = 0;
    everyone = {count};
    for (auto& warp : warps) warp = {WARP};
    for (lane = 0; lane < count; lane++) {
      done[lane] = false;
      getcontext(&contexts[lane]);
      contexts[lane].uc_stack = {.ss_sp = stacks[lane].get(), .ss_size = STACK};
      contexts[lane].uc_link = nullptr;
      makecontext(&contexts[lane], begin, 0);
      swapcontext(&came_from, &contexts[lane]);
    }
    lane = 0;
    if (_setjmp(home) == 0) _longjmp(places[0], 1);
    if (stuck) return 1;
  }
  return 0;
}

struct Bfloat {  // rounds to nearest, ties to even
  uint16_t bits;
  Bfloat() = default;
  explicit Bfloat(float value) {
    uint32_t all;
    std::memcpy(&all, &value, 4);
    bits = value != value ? 0x7fc0 : uint16_t((all + 0x7fff + (all >> 16 & 1)) >> 16);
  }
  explicit operator float() const {
    uint32_t all = uint32_t(bits) << 16;
    float value;
    std::memcpy(&value, &all, 4);
    return value;
  }
};
struct Half {
  _Float16 value;
  Half() = default;
  explicit Half(float x) : value(static_cast<_Float16>(x)) {}
  explicit operator float() const { return static_cast<float>(value); }
};
struct Index {
  unsigned x, y, z;
};
template <class To, class From>
To same_bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}
#ifdef TIES_TO_EVEN  // as mlx's CPU quantizes; its GPUs round ties away from zero
inline float rounded(float x) { return std::nearbyint(x); }
#else
inline float rounded(float x) { return std::round(x); }
#endif
}  // namespace emu

struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
template <class V>
V max(V a, V b) {
  return a > b ? a : b;
}
template <class V>
V min(V a, V b) {
  return a < b ? a : b;
}
