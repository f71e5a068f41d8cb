// edgedit's own kernels: noise from (seed, image index), and float images to grey levels with guidance.
//
// Compiled on the board by pycuda (nvcc --cubin -arch sm_XY, no_extern_c), 64-bit only. Threads do not talk to each other.

typedef unsigned int u32;
typedef unsigned long long u64;

// Philox4x64-10 (Salmon et al. 2011), key (seed, 0): `word` holds the counter and becomes the four words.
__device__ __forceinline__ void philox(u64 word[4], u64 seed) {
  const u64 m0 = 0xD2E7470EE14C6C93ull, m1 = 0xCA5A826395121157ull, w0 = 0x9E3779B97F4A7C15ull, w1 = 0xBB67AE8584CAA73Bull;
  u64 k0 = seed, k1 = 0;
  for (int round = 0; round < 10; round++) {
    const u64 high0 = __umul64hi(m0, word[0]), low0 = m0 * word[0], high1 = __umul64hi(m1, word[2]), low1 = m1 * word[2];
    word[0] = high1 ^ word[1] ^ k0;
    word[1] = low1;
    word[2] = high0 ^ word[3] ^ k1;
    word[3] = low0;
    k0 += w0;
    k1 += w1;
  }
}

// The eight uint32 of block `b` of image `i`, where an image has `blocks` of them: counter i·blocks + b + 1, 128 bits.
__device__ __forceinline__ void draw(u32 u[8], u64 seed, u64 i, u32 blocks, u32 b) {
  const u64 start = i * blocks, low = start + b + 1;
  u64 word[4] = {low, __umul64hi(i, blocks) + (low < start), 0, 0};
  philox(word, seed);
  for (int w = 0; w < 4; w++) {
    u[2 * w] = (u32)word[w];
    u[2 * w + 1] = (u32)(word[w] >> 32);
  }
}

// Unit Gaussian noise, as edgedit/core/noise.py defines it: out float32 (rows, values).
//
// indices: int64 (rows,), the images; a negative one is padding and gives zeros.
// Grid: y a row, x · block threads t = 0 … ceil(blocks / 2) - 1 of it. Thread t takes the eight radius words of block t and the eight
// angle words that lie half an image further; with an odd number of blocks those straddle two blocks.
extern "C" __global__ void noise(float *out, const long long *indices, u64 seed, u32 values) {
  const u32 blocks = (values + 7) / 8, half = 4 * blocks;
  const u32 t = blockIdx.x * blockDim.x + threadIdx.x;
  if (8 * t >= half) return;
  float *row = out + (u64)blockIdx.y * values;
  const long long image = indices[blockIdx.y];
  u32 radii[8], angles[8];
  if (image >= 0) {
    draw(radii, seed, (u64)image, blocks, t);
    const u32 first = (8 * t + half) / 8;
    if (blocks % 2 == 0) {
      draw(angles, seed, (u64)image, blocks, first);
    } else {
      u32 drawn[8];
      draw(drawn, seed, (u64)image, blocks, first);
      for (int k = 0; k < 4; k++) angles[k] = drawn[4 + k];
      if (first + 1 < blocks) draw(drawn, seed, (u64)image, blocks, first + 1);
      for (int k = 0; k < 4; k++) angles[4 + k] = drawn[k];
    }
  }
  for (int k = 0; k < 8; k++) {
    const u32 j = 8 * t + k;
    if (j >= half) break;
    float cosine = 0.0f, sine = 0.0f;
    if (image >= 0) {
      const float uniform = ((float)radii[k] + 0.5f) * 2.3283064365386963e-10f;  // 2^-32
      const float radius = sqrtf(-2.0f * logf(uniform));
      const float angle = (float)(angles[k] >> 8) * 3.7450704e-07f;  // 2 pi 2^-24, rounded to float32 as core does
      cosine = radius * cosf(angle);
      sine = radius * sinf(angle);
    }
    if (j < values) row[j] = cosine;
    if (j + half < values) row[j + half] = sine;
  }
}

// Images of a network without guidance and quantisation in its graph: uint8 (rows, side·side, channels) from float32
// (rows or 2·rows, channels, side·side) in -1 … 1. With `guided` the second half are the same images without a class, and
// image = unconditional + scale·(conditional - unconditional). Level = clip(floor(127.5·x + 128), 0, 255), as the exported graph does.
extern "C" __global__ void levels(unsigned char *out, const float *images, u32 rows, u32 channels, u32 pixels, u32 guided, float scale) {
  const u64 n = (u64)blockIdx.x * blockDim.x + threadIdx.x, size = (u64)channels * pixels;
  if (n >= rows * size) return;
  const u64 row = n / size;
  const u32 rest = (u32)(n % size), pixel = rest / channels, channel = rest % channels;
  const u64 at = row * size + (u64)channel * pixels + pixel;
  float x = images[at];
  if (guided) {
    const float without = images[rows * size + at];
    x = without + scale * (x - without);
  }
  const float level = fminf(fmaxf(127.5f * x + 128.0f, 0.0f), 255.0f);
  out[n] = (unsigned char)level;
}
