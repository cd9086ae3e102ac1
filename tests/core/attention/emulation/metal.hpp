// What the Metal dialect needs of the Metal shading language.
#pragma once
#include "lanes.hpp"

#define device
#define constant
#define threadgroup static
typedef unsigned short ushort;
typedef emu::Bfloat bfloat16_t;
typedef emu::Half half, float16_t;
typedef emu::Index uint3;
typedef const int64_t* Strides;
enum class mem_flags { mem_none, mem_device, mem_threadgroup };
namespace fast {
inline float exp2(float x) { return std::exp2(x); }
}
inline float round(float x) { return emu::rounded(x); }
inline float abs(float x) { return std::fabs(x); }
template <class To, class From>
To as_type(From from) {
  return emu::same_bits<To>(from);
}
template <class V>
V simd_shuffle_xor(V value, ushort mask) {
  return emu::exchange(value, (emu::lane % emu::WARP) ^ mask);
}
template <class V>
V simd_shuffle(V value, ushort from) {
  return emu::exchange(value, from);
}
inline void threadgroup_barrier(mem_flags) { emu::meet(emu::everyone); }
#define threadgroup_position_in_grid emu::Index { unsigned(emu::block) }
#define thread_position_in_threadgroup emu::Index { unsigned(emu::lane) }
