// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0

// One position a row through a stack of pre-norm transformer layers (RMS norm, rotary attention with
// grouped keys, SwiGLU), over key-value caches that are written in place, and a group of speech tokens
// chosen one after another. A step of one to a few rows is bound by reading the weights, so they are
// read once for all rows, and by the calls around them, so a whole stack or group is one call. Every
// row is summed in the same order whatever stands beside it.
//
// Vectors are GCC's and Clang's own, as wide as the processor's.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <vector>
#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif
constexpr int BLOCK = 4;               // rows of a matrix at a time
constexpr int64_t PARALLEL = 1 << 16;  // weights from which threads are worth their start
constexpr int AHEAD = 8192;            // bytes; short rows end before the processor prefetches by itself
constexpr int CANDIDATES = 256;        // tokens of which the most likely ones usually have a mass of p
// PyTorch sums and divides probabilities in another order. Where that could change a choice, it decides.
constexpr double MASS_MARGIN = 1e-4, SHARE_MARGIN = 1e-5;
typedef float Lanes __attribute__((vector_size(4 * LANES)));

template <class V>
inline V load(const void* from) {
  V lanes;
  std::memcpy(&lanes, from, sizeof lanes);
  return lanes;
}
inline Lanes widen(const float* from) { return load<Lanes>(from); }

// bfloat16 is the upper half of a float. GCC widens small integers one by one unless it is told how.
#if defined(__AVX512F__)
inline Lanes widen(const uint16_t* from) {
  const __m512i words = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)from));
  return (Lanes)_mm512_slli_epi32(words, 16);
}
inline Lanes widen(const int8_t* from) {
  return (Lanes)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)from)));
}
#elif defined(__AVX2__)
inline Lanes widen(const uint16_t* from) {
  const __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)from));
  return (Lanes)_mm256_slli_epi32(words, 16);
}
inline Lanes widen(const int8_t* from) {
  return (Lanes)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)from)));
}
#else
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));
typedef int8_t Bytes __attribute__((vector_size(LANES)));
inline Lanes widen(const uint16_t* from) {
  return (Lanes)(__builtin_convertvector(load<Halves>(from), Words) << 16);
}
inline Lanes widen(const int8_t* from) { return __builtin_convertvector(load<Bytes>(from), Lanes); }
#endif
inline float widen_one(float value) { return value; }
inline float widen_one(int8_t value) { return value; }
inline float widen_one(uint16_t value) {
  uint32_t word = uint32_t(value) << 16;
  float one;
  std::memcpy(&one, &word, sizeof one);
  return one;
}
inline float sum(Lanes lanes) {
  float total = 0;
  for (int i = 0; i < LANES; i++) total += lanes[i];
  return total;
}
inline float dot(const float* a, const float* b, int size) {
  Lanes lanes = {};
  int i = 0;
  for (; i + LANES <= size; i += LANES) lanes += load<Lanes>(a + i) * load<Lanes>(b + i);
  float total = sum(lanes);
  for (; i < size; i++) total += a[i] * b[i];
  return total;
}
template <int BYTES>
inline void prefetch(const void* from) {
  for (int offset = 0; offset < BYTES; offset += 64) __builtin_prefetch((const char*)from + offset);
}

// BLOCK rows, of which `count` are wanted, times one vector [size].
template <bool FIRST, class T>
inline void multiply_block(const T* const line[BLOCK], int size, const float* in, float* out, int count) {
  Lanes even[BLOCK] = {}, odd[BLOCK] = {};  // a sum waits for the one before it
  int i = 0;
  for (; i + 2 * LANES <= size; i += 2 * LANES) {
    const Lanes left = load<Lanes>(in + i), right = load<Lanes>(in + i + LANES);
    for (int j = 0; j < BLOCK; j++) {
      even[j] += widen(line[j] + i) * left;
      odd[j] += widen(line[j] + i + LANES) * right;
    }
    if (FIRST) prefetch<2 * LANES * BLOCK * sizeof(T)>((const char*)(line[0] + (size_t)BLOCK * i) + AHEAD);
  }
  for (int j = 0; j < count; j++) {
    out[j] = sum(even[j] + odd[j]);
    for (int rest = i; rest < size; rest++) out[j] += widen_one(line[j][rest]) * in[rest];
  }
}

// Rows [first, last) of a matrix [*, size] times every one of `batch` vectors [batch, size].
template <class T>
void multiply_rows(const T* weight, const float* scale, int size, const float* in, float* out,
                   int64_t out_stride, int batch, int first, int last) {
  static thread_local std::vector<float> widened;
  const bool once = sizeof(T) < sizeof(float) && batch > 1;  // widen for all vectors together
  if (once) widened.resize((size_t)BLOCK * size + LANES);
  for (int row = first; row < last; row += BLOCK) {
    const int count = last - row < BLOCK ? last - row : BLOCK;
    const T* line[BLOCK];
    const float* wide[BLOCK];
    for (int j = 0; j < BLOCK; j++) line[j] = weight + (size_t)(row + (j < count ? j : 0)) * size;
    if (once)
      for (int j = 0; j < BLOCK; j++) {
        float* own = widened.data() + (size_t)j * size;
        int i = 0;
        for (; i + LANES <= size; i += LANES) {
          const Lanes lanes = widen(line[j] + i);
          std::memcpy(own + i, &lanes, sizeof lanes);
          prefetch<LANES * sizeof(T)>((const char*)(line[j] + i) + AHEAD);
        }
        for (; i < size; i++) own[i] = widen_one(line[j][i]);
        wide[j] = own;
      }
    for (int b = 0; b < batch; b++) {
      float* own = out + b * out_stride + row;
      if (once)
        multiply_block<false>(wide, size, in + (int64_t)b * size, own, count);
      else if (b == 0)
        multiply_block<true>(line, size, in, own, count);
      else
        multiply_block<false>(line, size, in + (int64_t)b * size, own, count);
      for (int j = 0; scale && j < count; j++) own[j] *= scale[row + j];
    }
  }
}

// exp to 2e-7 of itself; values below -87 give 0. Inlined, so that loops over it become vectors.
inline float quick_exp(float x) {
  const float low = x < -87.f ? -87.f : x, high = low > 88.f ? 88.f : low;
  const float n = __builtin_rintf(high * 1.44269504f);
  const float r = (high - n * 0.693359375f) + n * 2.12194440e-4f;
  float y = 1.9875691500e-4f;
  y = y * r + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * r * r + r + 1.f;
  const int32_t bits = ((int32_t)n + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return x < -87.f ? 0.f : y * power;
}

void normalize(const float* in, const float* weight, float* out, int size, float epsilon) {
  const float scale = 1.f / std::sqrt(dot(in, in, size) / size + epsilon);
  for (int i = 0; i < size; i++) out[i] = in[i] * scale * weight[i];
}

}  // namespace

extern "C" {

enum Kind : int32_t { FLOAT32, BFLOAT16, INT8 };

struct Matrix {  // [rows, size]
  const void* weight;
  const float* scale;  // [rows] of int8 weights, else null
  int32_t rows, size, kind;
};

struct Layer {
  Matrix qkv, out, gate_up, down;
  const float *attention_norm, *mlp_norm;  // [width]
  const float *query_norm, *key_norm;      // [head_size] or null
};

struct Head {
  Matrix input, output, tokens;
};

struct Choice {             // of one row
  const float* noise;       // exponential, [tokens] for each token of a group; null takes the arg-max
  int64_t noise_stride;     // from one token of a group to the next
  const int64_t* history;   // [history_size] tokens that the penalty acts on
  int64_t history_size;
  int32_t elsewhere;        // whether the caller chooses
  int32_t top_k;            // 0: all
  float penalty, temperature, top_p, min_p;  // without effect at 1, 1, 1, 0
};

struct Row {
  float* const* caches;  // keys and values [key_heads, capacity, head_size] of each layer in turn
  const int64_t* length;  // positions that they hold already
  int64_t capacity;
};

struct Stack {
  Layer* layers;
  const float* norm;           // [width]
  const float *cosine, *sine;  // [positions, head_size]
  int32_t count, width, heads, key_heads, head_size;
  float epsilon, scaling;
};

void multiply(const Matrix* matrix, const float* in, float* out, int32_t batch, int32_t threads) {
  const int64_t rows = matrix->rows, size = matrix->size;
  if (rows * size < PARALLEL) threads = 1;
  const int64_t share = ((rows + threads - 1) / threads + BLOCK - 1) / BLOCK * BLOCK;
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static, 1)
  for (int part = 0; part < threads; part++) {
    const int64_t first = part * share, end = first + share, last = end < rows ? end : rows;
    if (matrix->kind == FLOAT32)
      multiply_rows((const float*)matrix->weight, matrix->scale, size, in, out, rows, batch, first, last);
    else if (matrix->kind == BFLOAT16)
      multiply_rows((const uint16_t*)matrix->weight, matrix->scale, size, in, out, rows, batch, first, last);
    else
      multiply_rows((const int8_t*)matrix->weight, matrix->scale, size, in, out, rows, batch, first, last);
  }
}

// One key head of one row: its queries [shared, head_size] over the first `seen` places.
static void attend(const Stack& stack, const float* keys, const float* values, const float* queries,
                   float* out, int64_t seen, float* scores) {
  const int size = stack.head_size, shared = stack.heads / stack.key_heads;
  multiply_rows(keys, (const float*)nullptr, size, queries, scores, seen, shared, 0, (int)seen);
  for (int q = 0; q < shared; q++) {
    float* own = scores + q * seen;
    float most = own[0], total = 0;
    for (int64_t t = 1; t < seen; t++) most = own[t] > most ? own[t] : most;
    for (int64_t t = 0; t < seen; t++) own[t] = quick_exp((own[t] - most) * stack.scaling);
    for (int64_t t = 0; t < seen; t++) total += own[t];
    float* to = out + q * size;
    int i = 0;
    for (; i + BLOCK * LANES <= size; i += BLOCK * LANES) {
      Lanes lanes[BLOCK] = {};
      for (int64_t t = 0; t < seen; t++)
        for (int j = 0; j < BLOCK; j++) lanes[j] += own[t] * load<Lanes>(values + t * size + i + j * LANES);
      for (int j = 0; j < BLOCK; j++) lanes[j] /= total;
      std::memcpy(to + i, lanes, sizeof lanes);
    }
    if (i < size) {
      std::fill(to + i, to + size, 0.f);
      for (int64_t t = 0; t < seen; t++)
        for (int rest = i; rest < size; rest++) to[rest] += own[t] / total * values[t * size + rest];
    }
  }
}

// hidden [batch, width], changed in place; `ahead` positions were written beyond the lengths of the rows.
void run(const Stack* pointer, const Row* rows, float* hidden, int32_t batch, int32_t ahead,
         int32_t threads) {
  const Stack& stack = *pointer;
  const int width = stack.width, size = stack.head_size, heads = stack.heads, kv = stack.key_heads;
  const int all = (heads + 2 * kv) * size, inner = stack.count ? stack.layers[0].down.size : 0;
  int64_t longest = 0;
  for (int b = 0; b < batch; b++) longest = std::max(longest, *rows[b].length + ahead);
  const int64_t scores = (longest + 1) * (heads / kv);
  static thread_local std::vector<float> scratch;
  scratch.resize(batch * (int64_t)(2 * width + all + heads * size + 2 * inner + inner) + batch * kv * scores);
  float *normed = scratch.data(), *added = normed + batch * width, *qkv = added + batch * width,
        *seen = qkv + batch * all, *gate_up = seen + batch * heads * size,
        *gated = gate_up + batch * 2 * inner, *room = gated + batch * inner;
  for (int index = 0; index < stack.count; index++) {
    const Layer& layer = stack.layers[index];
    for (int b = 0; b < batch; b++)
      normalize(hidden + b * width, layer.attention_norm, normed + b * width, width, stack.epsilon);
    multiply(&layer.qkv, normed, qkv, batch, threads);
    for (int b = 0; b < batch; b++) {
      const int64_t length = *rows[b].length + ahead;
      const float *cosine = stack.cosine + length * size, *sine = stack.sine + length * size;
      float *const keys = rows[b].caches[2 * index], *const values = rows[b].caches[2 * index + 1];
      for (int head = 0; head < heads + kv; head++) {
        float* own = qkv + b * all + head * size;
        const float* norm = head < heads ? layer.query_norm : layer.key_norm;
        if (norm) normalize(own, norm, own, size, stack.epsilon);
        for (int i = 0; i < size / 2; i++) {
          const float left = own[i], right = own[i + size / 2];
          own[i] = left * cosine[i] - right * sine[i];
          own[i + size / 2] = right * cosine[i + size / 2] + left * sine[i + size / 2];
        }
      }
      for (int head = 0; head < kv; head++) {
        const int64_t place = (head * rows[b].capacity + length) * size;
        std::memcpy(keys + place, qkv + b * all + (heads + head) * size, sizeof(float) * size);
        std::memcpy(values + place, qkv + b * all + (heads + kv + head) * size, sizeof(float) * size);
      }
    }
    const int at_once = batch * kv * (longest + 1) * size < PARALLEL ? 1 : threads;
#pragma omp parallel for num_threads(at_once) if (at_once > 1)
    for (int part = 0; part < batch * kv; part++) {
      const int b = part / kv, head = part % kv, shared = heads / kv;
      const int64_t start = head * rows[b].capacity * size;
      attend(stack, rows[b].caches[2 * index] + start, rows[b].caches[2 * index + 1] + start,
             qkv + b * all + head * shared * size, seen + (b * heads + head * shared) * size,
             *rows[b].length + ahead + 1, room + part * scores);
    }
    multiply(&layer.out, seen, added, batch, threads);
    for (int64_t i = 0; i < (int64_t)batch * width; i++) hidden[i] += added[i];
    for (int b = 0; b < batch; b++)
      normalize(hidden + b * width, layer.mlp_norm, normed + b * width, width, stack.epsilon);
    multiply(&layer.gate_up, normed, gate_up, batch, threads);
    for (int b = 0; b < batch; b++) {
      const float *gate = gate_up + b * 2 * inner, *up = gate + inner;
      float* own = gated + b * inner;
      for (int i = 0; i < inner; i++) own[i] = gate[i] / (1.f + quick_exp(-gate[i])) * up[i];
    }
    multiply(&layer.down, gated, added, batch, threads);
    for (int64_t i = 0; i < (int64_t)batch * width; i++) hidden[i] += added[i];
  }
  for (int b = 0; b < batch; b++) {
    float* own = hidden + b * width;
    normalize(own, stack.norm, own, width, stack.epsilon);
  }
}

// The token of scores [count], which are changed; -1 where the caller has to choose.
int64_t choose(const Choice& choice, const float* noise, float* scores, int32_t count,
               const int64_t* group, int32_t group_size) {
  if (choice.elsewhere) return -1;
  if (choice.penalty != 1.f) {
    static thread_local std::vector<uint8_t> seen;
    seen.assign(count, 0);
    for (int64_t i = 0; i < choice.history_size + group_size; i++) {
      const int64_t token = i < choice.history_size ? choice.history[i] : group[i - choice.history_size];
      if (seen[token]) continue;
      seen[token] = 1;
      scores[token] = scores[token] < 0 ? scores[token] * choice.penalty : scores[token] / choice.penalty;
    }
  }
  if (!noise) {
    const int64_t best = std::max_element(scores, scores + count) - scores;
    return std::isfinite(scores[best]) ? best : -1;
  }
  if (choice.temperature != 1.f)
    for (int i = 0; i < count; i++) scores[i] /= choice.temperature;
  float most = scores[0], least = -std::numeric_limits<float>::infinity();
  for (int i = 1; i < count; i++) most = scores[i] > most ? scores[i] : most;
  static thread_local std::vector<float> room;
  room.resize(count);
  float* const share = room.data();
  for (int i = 0; i < count; i++) share[i] = quick_exp(scores[i] - most);
  float top[CANDIDATES];
  const int known = std::min(count, CANDIDATES), top_k = choice.top_k < count ? choice.top_k : 0;
  if (top_k || choice.top_p < 1.f)
    std::partial_sort_copy(scores, scores + count, top, top + known, std::greater<float>());
  if (top_k > known) return -1;
  if (top_k) least = top[top_k - 1];
  float total = 0;
  for (int i = 0; i < count; i++) total += scores[i] >= least ? share[i] : 0.f;
  if (!(total >= 1.f) || !std::isfinite(total)) return -1;
  if (choice.top_p < 1.f) {
    double mass = 0;  // of the tokens above
    int kept = 0;
    for (; kept < known && top[kept] >= least; kept++) {
      const double off = mass / total - choice.top_p;
      if (kept && std::fabs(off) <= MASS_MARGIN) return -1;
      if (kept && off > 0) break;
      mass += quick_exp(top[kept] - most);
    }
    if (kept == known && known < count) return -1;
    if (kept < known && top[kept] >= least) {
      if (top[kept - 1] == top[kept]) return -1;
      least = top[kept - 1];
    }
  }
  int64_t best = -1;
  float first = -1, second = -1;
  for (int i = 0; i < count; i++) {
    if (scores[i] < least) continue;
    if (choice.min_p > 0 && std::fabs(share[i] - choice.min_p) <= SHARE_MARGIN * choice.min_p) return -1;
    if (share[i] < choice.min_p) continue;
    const float drawn = share[i] / noise[i];
    if (drawn > first) {
      second = first;
      first = drawn;
      best = i;
    } else if (drawn > second) {
      second = drawn;
    }
  }
  return first - second > SHARE_MARGIN * first ? best : -1;
}

// Run the head up to `count` times, each time with the token chosen before.
//
// fine [batch, count, width]; tokens [batch, count + 1], the first of which were chosen before; logits
// [batch, vocabulary] of the last pass. Return the tokens chosen of all rows. If they are less than
// `count`, a further pass has been made, and the rows whose token is -1 are left to the caller.
int32_t choose_group(const Stack* stack, const Head* head, const Row* rows, const Choice* choices,
                     const float* fine, int64_t* tokens, float* logits, int32_t batch, int32_t count,
                     int32_t threads) {
  const Matrix& codebook = head->tokens;
  const int64_t width = codebook.size, vocabulary = codebook.rows, hidden_width = stack->width;
  static thread_local std::vector<float> scratch;
  scratch.resize(batch * (width + hidden_width) + vocabulary);
  float *wide = scratch.data(), *hidden = wide + batch * width, *scores = hidden + batch * hidden_width;
  for (int32_t index = 0; index < count; index++) {
    for (int b = 0; b < batch; b++) {
      const int64_t token = tokens[b * (count + 1) + index], start = token * width;
      const float* from = fine + (b * (int64_t)count + index) * width;
      float* own = wide + b * width;
      const float scale = codebook.scale ? codebook.scale[token] : 1.f;
      for (int i = 0; i < width; i++) {
        const float weight = codebook.kind == FLOAT32    ? ((const float*)codebook.weight)[start + i]
                             : codebook.kind == BFLOAT16 ? widen_one(((const uint16_t*)codebook.weight)[start + i])
                                                         : widen_one(((const int8_t*)codebook.weight)[start + i]);
        own[i] = from[i] + weight * scale;
      }
    }
    multiply(&head->input, wide, hidden, batch, threads);
    run(stack, rows, hidden, batch, index, threads);
    multiply(&head->output, hidden, wide, batch, threads);
    multiply(&head->tokens, wide, logits, batch, threads);
    bool all = true;
    for (int b = 0; b < batch; b++) {
      int64_t* own = tokens + b * (count + 1) + 1;
      const Choice& choice = choices[b];
      std::memcpy(scores, logits + b * vocabulary, sizeof(float) * vocabulary);
      const float* noise = choice.noise ? choice.noise + index * choice.noise_stride : nullptr;
      own[index] = choose(choice, noise, scores, (int)vocabulary, own, index);
      all = all && own[index] >= 0;
    }
    if (!all) return index;
  }
  return count;
}

}  // extern "C"
