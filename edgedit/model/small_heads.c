/* Attention of small heads on a CPU, forward and backward: softmax(q kᵀ · scale) v for heads of HEAD values (4 to 32, say).

   Stock kernels pack matrices for units that want 32 or more values a row. Here tokens lie side by side in vector registers and the
   head's few values are unrolled. Forward, a tile of LANES queries meets one key after another, whose values are broadcast from memory:
   no sum crosses lanes. Backward, a tile of LANES keys meets one query after another likewise; only the queries' own gradient is summed
   across lanes. What a tile works on stays in the L1 cache. GCC and Clang lower the vectors to what the CPU has. Operations: 4·HEAD and
   an exponential for each logit forward, 10·HEAD and an exponential backward. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef __AVX512F__
#include <immintrin.h>
#define LANES 16
#else
#define LANES 8
#endif
#define CHUNK (HEAD < 8 ? HEAD : 8)                     /* values of a head that are summed at once: a register each */
#define PAD ((HEAD + CHUNK - 1) / CHUNK * CHUNK)        /* values of a row in memory, zeros after the head's */
#define STEP 4                                          /* rows that meet a tile at once */
#define SAFE 64.0f                                      /* |logit| in powers of 2 up to which no row needs its maximum taken off */
#define NOTHING -1e5f                                   /* a logit that gives no share */

#ifdef HALF /* what is read and written is bfloat16 */
typedef uint16_t T;
static inline float get(T x)
{
    union { uint32_t bits; float value; } as = {(uint32_t)x << 16};
    return as.value;
}

static inline T put(float x) /* the nearest, of two the even one */
{
    union { float value; uint32_t bits; } as = {x};
    return x != x ? as.bits >> 16 | 64 : (as.bits + 0x7fff + (as.bits >> 16 & 1)) >> 16;
}
#else
typedef float T;
static inline float get(T x) { return x; }
static inline T put(float x) { return x; }
#endif

typedef float V __attribute__((vector_size(4 * LANES)));
typedef int32_t I __attribute__((vector_size(4 * LANES)));

#ifdef __AVX512F__
static inline V higher(V a, V b) { return (V)_mm512_max_ps((__m512)a, (__m512)b); } /* b where they cannot be compared */
static inline float sum(V x) { return _mm512_reduce_add_ps((__m512)x); }
#else
static inline V higher(V a, V b)
{
    I more = a > b;
    return (V)((more & (I)a) | (~more & (I)b));
}

static inline float sum(V x)
{
    float all = 0;
    for (int l = 0; l < LANES; l++) all += x[l];
    return all;
}
#endif

static inline V power(V x) /* 2^x for x < 127, to about 2e-7 of it; 0 or next to it below -126; what is not a number stays so */
{
#ifdef __AVX512F__
    x = higher((V){0} - 200.0f, x);
    V n = (V)_mm512_roundscale_ps((__m512)x, 8), r = x - n;
#else
    const float magic = 12582912.0f; /* 1.5 * 2^23: added, it leaves the nearest integer in the lowest bits */
    x = higher((V){0} - 126.0f, x);
    V shifted = x + magic, n = shifted - magic, r = x - n;
#endif
    V p = r * 1.535336188e-4f + 1.339887440e-3f; /* Cephes' exp2f */
    p = p * r + 9.618437357e-3f;
    p = p * r + 5.550332471e-2f;
    p = p * r + 2.402264791e-1f;
    p = p * r + 6.931472029e-1f;
    p = p * r + 1.0f;
#ifdef __AVX512F__
    return (V)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
    I is_nan = x != x;
    return (V)((is_nan & (I)x) | (~is_nan & ((I)p + ((I)shifted << 23)))); /* times 2^n */
#endif
}

/* (tokens, HEAD) by a stride to (HEAD, wide * LANES), times a factor; what is beyond the tokens stays as it is: zeros */
static void turn(const T *from, long step, long tokens, long wide, float factor, V *to)
{
    for (long j = 0; j < tokens; j++)
        for (int d = 0; d < HEAD; d++)
            ((float *)(to + d * wide))[j] = factor * get(from[j * step + d]);
}

/* A tile's sums, a lane a row, times what each lane says, to rows by a stride */
static void turn_back(const V *from, long rows, V factor, long step, T *to)
{
    for (int d = 0; d < HEAD; d++) {
        V here = from[d] * factor;
        for (long l = 0; l < rows; l++) to[l * step + d] = put(here[l]);
    }
}

/* (tokens, HEAD) by a stride to (rows, PAD), times a factor; what is beyond stays as it is: zeros */
static void pack(const T *from, long step, long tokens, float factor, float *to)
{
    for (long j = 0; j < tokens; j++)
        for (int d = 0; d < HEAD; d++)
            to[j * PAD + d] = factor * get(from[j * step + d]);
}

/* here[r] += tile · row r, of STEP rows (STEP, PAD) */
static inline void meet(const V tile[HEAD], const float *rows, V here[STEP])
{
#pragma GCC unroll 32
    for (int d = 0; d < HEAD; d++)
#pragma GCC unroll 4
        for (int r = 0; r < STEP; r++)
            here[r] += tile[d] * rows[r * PAD + d];
}

/* to[d] = sum over rows of weight[row] * values[row][d], a lane a column of the weights */
static inline void gather(const V *weight, const float *values, long rows, V to[PAD])
{
    for (int c = 0; c < PAD; c += CHUNK) {
        V all[CHUNK] = {{0}};
        for (long j = 0; j < rows; j++)
#pragma GCC unroll 8
            for (int d = 0; d < CHUNK; d++)
                all[d] += weight[j] * values[j * PAD + c + d];
        for (int d = 0; d < CHUNK; d++) to[c + d] = all[d];
    }
}

static V *room(long vectors) /* zeros, aligned */
{
    size_t bytes = (size_t)vectors * sizeof(V);
    V *here = aligned_alloc(sizeof(V), bytes);
    return here ? memset(here, 0, bytes) : here;
}

static long up(long n, long to) { return (n + to - 1) / to; }

/* For first <= i < last of images * heads: of qkv (images, tokens, 3, heads, HEAD), out (images, tokens, heads, HEAD) and lse
   (images * heads, tokens), the logarithm to base 2 of each row's sum of powers. Returns 0, or 1 where memory is short. */
int forward(const T *qkv, T *out, float *lse, long heads, long tokens, long first, long last)
{
    long w = heads * HEAD, step = 3 * w, wide = up(tokens, LANES), rows = wide * LANES; /* STEP divides LANES */
    float scale = 1.44269504f / sqrtf(HEAD);
    V *qt = room(wide * HEAD + rows + 2 * PAD * wide + wide), *p = qt + wide * HEAD;
    if (!qt) return 1;
    float *k = (float *)(p + rows), *v = k + PAD * rows, *begin = v + PAD * rows;
    for (long j = tokens; j < rows; j++) begin[j] = NOTHING;
    for (long i = first; i < last; i++) {
        const T *q = qkv + i / heads * tokens * step + i % heads * HEAD;
        T *to = out + i / heads * tokens * w + i % heads * HEAD;
        float longest = 0;
        turn(q, step, tokens, wide, scale, qt);
        pack(q + w, step, tokens, 1, k);
        pack(q + 2 * w, step, tokens, 1, v);
        for (long j = 0; j < tokens; j++) {
            float square = 0;
            for (int d = 0; d < HEAD; d++) square += k[j * PAD + d] * k[j * PAD + d];
            longest = square > longest ? square : longest;
        }
        for (long n = 0; n < wide; n++) {
            V tile[HEAD], square = {0}, shift = {0}, total = {0}, o[PAD];
            for (int d = 0; d < HEAD; d++) {
                tile[d] = qt[d * wide + n];
                square += tile[d] * tile[d];
            }
            I safe = square * longest <= (V){0} + SAFE * SAFE; /* no logit is larger than the product of the lengths */
            int all_safe = 1;
            for (int l = 0; l < LANES; l++) all_safe &= safe[l] != 0;
            if (!all_safe) {
                shift = (V){0} - INFINITY;
                for (long j = 0; j < rows; j += STEP) {
                    V s[STEP];
                    for (int r = 0; r < STEP; r++) s[r] = (V){0} + begin[j + r];
                    meet(tile, k + j * PAD, s);
                    for (int r = 0; r < STEP; r++) shift = higher(s[r], shift);
                }
            }
            for (long j = 0; j < rows; j += STEP) {
                V s[STEP];
                for (int r = 0; r < STEP; r++) s[r] = begin[j + r] - shift;
                meet(tile, k + j * PAD, s);
                for (int r = 0; r < STEP; r++) total += p[j + r] = power(s[r]);
            }
            gather(p, v, rows, o);
            long here = tokens - n * LANES < LANES ? tokens - n * LANES : LANES;
            turn_back(o, here, 1.0f / total, w, to + n * LANES * w);
            for (long l = 0; l < here; l++) lse[i * tokens + n * LANES + l] = shift[l] + log2f(total[l]);
        }
    }
    free(qt);
    return 0;
}

/* For the same i: the gradient of qkv from that of out. */
int backward(const T *qkv, const T *out, const float *lse, const T *grad, T *grad_qkv, long heads, long tokens, long first, long last)
{
    long w = heads * HEAD, step = 3 * w, wide = up(tokens, LANES), rows = wide * LANES, apart = rows + 1; /* a round number puts all tiles in one set of the cache */
    float scale = 1.0f / sqrtf(HEAD);
    V *kt = room(wide * 2 * HEAD + rows + apart * wide + 2 * PAD * wide + 3 * wide), *vt = kt + HEAD * wide, *p = vt + HEAD * wide, *g = p + rows;
    if (!kt) return 1;
    float *q = (float *)(g + apart * wide), *go = q + PAD * rows, *sums = go + PAD * rows, *dot = sums + rows, *begin = dot + rows;
    for (long j = tokens; j < rows; j++) begin[j] = sums[j] = NOTHING;
    for (long t = tokens; t < rows; t++) sums[t] = -NOTHING; /* a query that is not there gives nothing */
    for (long i = first; i < last; i++) {
        const T *from = qkv + i / heads * tokens * step + i % heads * HEAD;
        T *to = grad_qkv + (from - qkv);
        long at = i / heads * tokens * w + i % heads * HEAD;
        turn(from + w, step, tokens, wide, 1, kt);
        turn(from + 2 * w, step, tokens, wide, 1, vt);
        pack(from, step, tokens, scale * 1.44269504f, q);
        pack(grad + at, w, tokens, 1, go);
        for (long t = 0; t < tokens; t++) {
            sums[t] = lse[i * tokens + t];
            dot[t] = 0;
            for (int d = 0; d < HEAD; d++) dot[t] += get(out[at + t * w + d]) * go[t * PAD + d];
        }
        for (long n = 0; n < wide; n++) {
            V *gn = g + n * apart, begins = ((V *)begin)[n], k[HEAD], v[HEAD], sum_k[PAD], sum_v[PAD];
            for (int d = 0; d < HEAD; d++) k[d] = kt[d * wide + n], v[d] = vt[d * wide + n];
            for (long t = 0; t < rows; t += STEP) {
                V s[STEP], gp[STEP];
                for (int r = 0; r < STEP; r++) {
                    s[r] = begins - sums[t + r];
                    gp[r] = (V){0};
                }
                meet(k, q + t * PAD, s);
                meet(v, go + t * PAD, gp);
                for (int r = 0; r < STEP; r++) {
                    V e = power(s[r]);
                    p[t + r] = e;
                    gn[t + r] = e * (gp[r] - dot[t + r]); /* to the bit 0 where one key has all */
                }
            }
            gather(p, go, rows, sum_v);
            gather(gn, q, rows, sum_k);
            long here = tokens - n * LANES < LANES ? tokens - n * LANES : LANES;
            turn_back(sum_k, here, (V){0} + 0.693147181f, step, to + w + n * LANES * step);
            turn_back(sum_v, here, (V){0} + 1.0f, step, to + 2 * w + n * LANES * step);
        }
        for (long t = 0; t < tokens; t += 2)
            for (int c = 0; c < HEAD; c += CHUNK) {
                V all[2][CHUNK] = {{{0}}};
                for (long n = 0; n < wide; n++)
#pragma GCC unroll 8
                    for (int d = 0; d < CHUNK; d++)
                        if (c + d < HEAD) {
                            V k = kt[(c + d) * wide + n];
                            all[0][d] += g[n * apart + t] * k;
                            all[1][d] += g[n * apart + t + 1] * k;
                        }
                for (int r = 0; r < 2 && t + r < tokens; r++)
                    for (int d = 0; d < CHUNK && c + d < HEAD; d++) to[(t + r) * step + c + d] = put(scale * sum(all[r][d]));
            }
    }
    free(kt);
    return 0;
}

#ifdef _OPENMP
/* The same for all units, in threads of the pool that torch has loaded; no result depends on their number. */
int forward_all(const T *qkv, T *out, float *lse, long heads, long tokens, long units, int threads)
{
    int failed = 0;
#pragma omp parallel for num_threads(threads) schedule(static, 1) reduction(+ : failed)
    for (int n = 0; n < threads; n++) failed += forward(qkv, out, lse, heads, tokens, units * n / threads, units * (n + 1) / threads);
    return failed;
}

int backward_all(const T *qkv, const T *out, const float *lse, const T *grad, T *grad_qkv, long heads, long tokens, long units, int threads)
{
    int failed = 0;
#pragma omp parallel for num_threads(threads) schedule(static, 1) reduction(+ : failed)
    for (int n = 0; n < threads; n++)
        failed += backward(qkv, out, lse, grad, grad_qkv, heads, tokens, units * n / threads, units * (n + 1) / threads);
    return failed;
}
#endif
