// Lets a C++ compiler compile CUDA kernels for the host, one thread after another. For kernels whose threads do not talk.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <utility>

#define __global__
#define __device__ static
#define __forceinline__ inline
#define __launch_bounds__(...)

struct uint3_host { unsigned x, y, z; };
static thread_local uint3_host gridDim, blockDim, blockIdx, threadIdx;

static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return (unsigned long long)(((unsigned __int128)a * b) >> 64);
}

// One argument out of CUDA's packed parameter buffer: each sits at the next multiple of its own size.
template <class T> T double_take(const char *packed, size_t &at) {
  at = (at + alignof(T) - 1) / alignof(T) * alignof(T);
  T value;
  std::memcpy(&value, packed + at, sizeof(T));
  at += sizeof(T);
  return value;
}

template <class... A> void double_run(void (*kernel)(A...), const char *packed, const unsigned *grid, const unsigned *block) {
  size_t at = 0;
  std::tuple<A...> arguments{double_take<A>(packed, at)...};  // braces: left to right
  gridDim = {grid[0], grid[1], grid[2]};
  blockDim = {block[0], block[1], block[2]};
  for (blockIdx.z = 0; blockIdx.z < grid[2]; blockIdx.z++)
    for (blockIdx.y = 0; blockIdx.y < grid[1]; blockIdx.y++)
      for (blockIdx.x = 0; blockIdx.x < grid[0]; blockIdx.x++)
        for (threadIdx.z = 0; threadIdx.z < block[2]; threadIdx.z++)
          for (threadIdx.y = 0; threadIdx.y < block[1]; threadIdx.y++)
            for (threadIdx.x = 0; threadIdx.x < block[0]; threadIdx.x++) std::apply(kernel, arguments);
}
