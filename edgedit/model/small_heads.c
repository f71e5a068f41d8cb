/* Attention of small heads on a CPU, forward and backward: softmax(q kᵀ · scale) v for heads of HEAD values (4 to 32, say).

   Stock kernels pack matrices for units that want 32 or more values a row. Here tokens lie side by side in vector registers, the
   head's few values are unrolled, and ROWS rows of logits live in the L1 cache and never leave it. GCC and Clang lower the vectors to
   what the CPU has. Operations: 4·HEAD and an exponential for each logit forward, 10·HEAD and an exponential backward. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef __AVX512F__
#define LANES 16
#else
#define LANES 8
#endif
#define ROWS 4

typedef float V __attribute__((vector_size(4 * LANES)));
typedef int32_t I __attribute__((vector_size(4 * LANES)));

static inline V higher(V a, V b) /* b where they cannot be compared */
{
    I more = a > b;
    return (V)((more & (I)a) | (~more & (I)b));
}

static inline V power(V x) /* e^x for x <= 0, to about 1e-7 of it; e^-87 for less; what is not a number stays so */
{
    const float magic = 12582912.0f; /* 1.5 * 2^23: added, it leaves the nearest integer in the lowest bits */
    x = higher((V){0} - 87.0f, x);
    V shifted = x * 1.44269504f + magic, n = shifted - magic;
    V r = (x - n * 0.693359375f) + n * 2.12194440e-4f; /* ln 2 in two parts */
    V p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    I is_nan = x != x;
    return (V)((is_nan & (I)x) | (~is_nan & ((I)p + ((I)shifted << 23)))); /* times 2^n */
}

static inline float sum(V x)
{
    float all = 0;
    for (int l = 0; l < LANES; l++) all += x[l];
    return all;
}

/* (tokens, HEAD) by a stride to (HEAD, wide * LANES); what is beyond the tokens stays as it is: zeros */
static void turn(const float *from, long step, long tokens, long wide, V *to)
{
    for (long j = 0; j < tokens; j++)
        for (int d = 0; d < HEAD; d++)
            ((float *)(to + d * wide))[j] = from[j * step + d];
}

static void turn_back(const V *from, long step, long tokens, long wide, float *to)
{
    for (long j = 0; j < tokens; j++)
        for (int d = 0; d < HEAD; d++)
            to[j * step + d] = ((const float *)(from + d * wide))[j];
}

static void take(const float *from, long step, long rows, float factor, float to[ROWS][HEAD]) /* rows that are not there: zeros */
{
    for (int r = 0; r < ROWS; r++)
        for (int d = 0; d < HEAD; d++)
            to[r][d] = r < rows ? factor * from[r * step + d] : 0.0f;
}

static V *room(long vectors) /* zeros, aligned */
{
    size_t bytes = (size_t)vectors * sizeof(V);
    V *here = aligned_alloc(sizeof(V), bytes);
    return here ? memset(here, 0, bytes) : here;
}

static void end_row(V *beyond, long tokens, long wide) /* what logits begin with: nothing, but beyond the last token minus infinity */
{
    for (long j = tokens; j < wide * LANES; j++) ((float *)beyond)[j] = -INFINITY;
}

/* For first <= i < last of images * heads: of qkv (images, tokens, 3, heads, HEAD), out (images, tokens, heads, HEAD) and lse
   (images * heads, tokens), the logarithm of each row's sum of powers. Returns 0, or 1 where memory is short. */
int forward(const float *qkv, float *out, float *lse, long heads, long tokens, long first, long last)
{
    long w = heads * HEAD, step = 3 * w;
    float scale = 1.0f / sqrtf(HEAD);
    long wide = (tokens + LANES - 1) / LANES;
    V *kt = room(wide * (2 * HEAD + ROWS + 1)), *vt = kt + HEAD * wide, *s = vt + HEAD * wide, *beyond = s + ROWS * wide;
    if (!kt) return 1;
    end_row(beyond, tokens, wide);
    for (long i = first; i < last; i++) {
        const float *q = qkv + i / heads * tokens * step + i % heads * HEAD;
        float *to = out + i / heads * tokens * w + i % heads * HEAD;
        turn(q + w, step, tokens, wide, kt);
        turn(q + 2 * w, step, tokens, wide, vt);
        for (long t = 0; t < tokens; t += ROWS) {
            long rows = tokens - t < ROWS ? tokens - t : ROWS;
            float row[ROWS][HEAD], total[ROWS];
            V top[ROWS];
            take(q + t * step, step, rows, scale, row);
            for (int r = 0; r < ROWS; r++) top[r] = (V){0} - INFINITY;
            for (long j = 0; j < wide; j++) {
                V here[ROWS];
                for (int r = 0; r < ROWS; r++) here[r] = beyond[j];
                for (int d = 0; d < HEAD; d++)
                    for (int r = 0; r < ROWS; r++)
                        here[r] += row[r][d] * kt[d * wide + j];
                for (int r = 0; r < ROWS; r++) {
                    s[r * wide + j] = here[r];
                    top[r] = higher(here[r], top[r]);
                }
            }
            for (int r = 0; r < ROWS; r++) {
                float most = top[r][0];
                for (int l = 1; l < LANES; l++) most = top[r][l] > most ? top[r][l] : most;
                V all = {0};
                for (long j = 0; j < wide; j++) all += s[r * wide + j] = power(s[r * wide + j] - most);
                total[r] = sum(all);
                if (r < rows) lse[i * tokens + t + r] = most + logf(total[r]);
            }
            for (int d = 0; d < HEAD; d++) {
                V o[ROWS] = {{0}};
                for (long j = 0; j < wide; j++)
                    for (int r = 0; r < ROWS; r++)
                        o[r] += s[r * wide + j] * vt[d * wide + j];
                for (int r = 0; r < rows; r++) to[(t + r) * w + d] = sum(o[r]) / total[r];
            }
        }
    }
    free(kt);
    return 0;
}

/* For the same i: the gradient of qkv from that of out. */
int backward(const float *qkv, const float *out, const float *lse, const float *grad, float *grad_qkv, long heads, long tokens, long first,
             long last)
{
    long w = heads * HEAD, step = 3 * w;
    float scale = 1.0f / sqrtf(HEAD);
    long wide = (tokens + LANES - 1) / LANES;
    V *kt = room(wide * (4 * HEAD + 2 * ROWS + 1)), *vt = kt + HEAD * wide, *gkt = vt + HEAD * wide, *gvt = gkt + HEAD * wide,
      *p = gvt + HEAD * wide, *g = p + ROWS * wide, *beyond = g + ROWS * wide;
    if (!kt) return 1;
    end_row(beyond, tokens, wide);
    for (long i = first; i < last; i++) {
        const float *q = qkv + i / heads * tokens * step + i % heads * HEAD;
        float *gq = grad_qkv + (q - qkv);
        long at = i / heads * tokens * w + i % heads * HEAD;
        turn(q + w, step, tokens, wide, kt);
        turn(q + 2 * w, step, tokens, wide, vt);
        memset(gkt, 0, sizeof(V) * wide * 2 * HEAD);
        for (long t = 0; t < tokens; t += ROWS) {
            long rows = tokens - t < ROWS ? tokens - t : ROWS;
            float row[ROWS][HEAD], o[ROWS][HEAD], go[ROWS][HEAD], dot[ROWS] = {0}, sums[ROWS] = {0};
            take(q + t * step, step, rows, scale, row);
            take(out + at + t * w, w, rows, 1.0f, o);
            take(grad + at + t * w, w, rows, 1.0f, go);
            for (int r = 0; r < rows; r++) {
                sums[r] = lse[i * tokens + t + r];
                for (int d = 0; d < HEAD; d++) dot[r] += o[r][d] * go[r][d];
            }
            for (long j = 0; j < wide; j++) {
                V s[ROWS], gp[ROWS] = {{0}};
                for (int r = 0; r < ROWS; r++) s[r] = beyond[j];
                for (int d = 0; d < HEAD; d++)
                    for (int r = 0; r < ROWS; r++) {
                        s[r] += row[r][d] * kt[d * wide + j];
                        gp[r] += go[r][d] * vt[d * wide + j];
                    }
                for (int r = 0; r < ROWS; r++) {
                    V e = power(s[r] - sums[r]);
                    p[r * wide + j] = e;
                    g[r * wide + j] = e * (gp[r] - dot[r]);
                }
            }
            for (int d = 0; d < HEAD; d++) {
                V gq_d[ROWS] = {{0}};
                for (long j = 0; j < wide; j++) {
                    V to_k = gkt[d * wide + j], to_v = gvt[d * wide + j];
                    for (int r = 0; r < ROWS; r++) {
                        gq_d[r] += g[r * wide + j] * kt[d * wide + j];
                        to_k += g[r * wide + j] * row[r][d];
                        to_v += p[r * wide + j] * go[r][d];
                    }
                    gkt[d * wide + j] = to_k;
                    gvt[d * wide + j] = to_v;
                }
                for (int r = 0; r < rows; r++) gq[(t + r) * step + d] = scale * sum(gq_d[r]);
            }
        }
        turn_back(gkt, step, tokens, wide, gq + w);
        turn_back(gvt, step, tokens, wide, gq + 2 * w);
    }
    free(kt);
    return 0;
}
