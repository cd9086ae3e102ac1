// What the CUDA dialect needs of CUDA.
#pragma once
#include "lanes.hpp"

#define __shared__ static
typedef emu::Bfloat __nv_bfloat16;
typedef emu::Half __half;
typedef std::array<int64_t, 10> Strides;
inline float roundf_(float x) { return emu::rounded(x); }
#define roundf roundf_
inline float __uint_as_float(uint32_t bits) { return emu::same_bits<float>(bits); }
inline __half __ushort_as_half(unsigned short bits) { return emu::same_bits<__half>(bits); }
inline float __half2float(__half x) { return float(x); }
template <class V>
V __shfl_xor_sync(unsigned, V value, int mask) {
  return emu::exchange(value, (emu::lane % emu::WARP) ^ mask);
}
template <class V>
V __shfl_sync(unsigned, V value, int from) {
  return emu::exchange(value, from);
}
template <class V>
V __ldg(const V* from) {
  return *from;
}
inline void __syncthreads() { emu::meet(emu::everyone); }
#define blockIdx emu::Index { unsigned(emu::block) }
#define threadIdx emu::Index { unsigned(emu::lane) }
