// A block of four warps takes one list's pages, [split] to [split + 1], past eight queries. Pages come through a ring of slots in shared
// memory, half a page (keys or values) per slot, so that while one half is worked on the next ones are under way. Half-pages of more than
// kCodes bytes come in runs of tokens; what is done at once, a visit, is then such a run.
//
//   keys    the queries times the page's scales become left operands; products with the codes; scores; softmax weights
//   values  the weights times the page's scales become left operands; products with the codes are added to the output
//
// Left operands have sixteen rows: the upper pieces of eight queries, then their lower pieces, so that both lie in one lane of a product.
// Output and weights stay in registers: of a product's columns, and of 16 lanes per query with four tokens each.
#include "kernels/attention_decode/attention_decode_cuda.h"

#include "kernels/cuda_device/cuda_device.cuh"
#include "kernels/kv_pack/kv_page.cuh"

namespace trimtab {
namespace {

constexpr int kWarps = 4, kThreads = kWarps * kWarp;
constexpr int kQueries = 8, kLanes = kThreads / kQueries;   // lanes that prepare a query
constexpr int kMostTokens = 64, kMostSplit = 64;
constexpr int kGroups = 2;                                   // value groups whose weights are prepared together
constexpr int kRow = kMostTokens + 8;                        // of scores; the pad keeps rows off one bank, as elsewhere below
constexpr int kByteRow = kMostTokens / 4 + 4, kHalfRow = kMostTokens / 2 + 4;   // words of a row of weights in pieces
constexpr float kPieces = 4063;                              // 63 * 64 + 31: the largest integer of two pieces
constexpr float kLeast = 1e-30f;                             // numbers below it are taken as 0, lest their inverse is infinite

template <int kDim>
struct Sizes {
  static constexpr int kCodes = 64 * kDim < 8192 ? 64 * kDim : 8192;                // bytes of half a visit, at most
  static constexpr int kCodeChunks = (kCodes + 8 * kDim) / 16;                      // with the pad of its rows
  static constexpr int kChunks = kCodeChunks + kDim * 18 / 16;                      // and its parameters: kDim / 16 groups of 64, and kDim
  static constexpr int kSlots = kDim <= 64 ? 4 : kDim <= 128 ? 3 : 2;
  static constexpr int kByteRow = kDim / 4 + 4, kHalfRow = kDim / 2 + 4;           // words of a row of queries in pieces
};

// What turns sums of products into numbers: factor * sum + bias.
struct Line {
  float factor, bias;
};
struct Page {
  const uint8_t* data;
  int tokens;
  uint8_t key_bits, value_bits;
};

template <int kDim>
struct Shared {
  using S = Sizes<kDim>;
  Chunk slots[S::kSlots][S::kChunks];
  Word query_bytes[2 * kQueries * S::kByteRow];
  Word query_halves[2 * kQueries * S::kHalfRow];
  Word weights[kGroups * 2 * kQueries * kByteRow];   // or [2 * kQueries * kHalfRow]
  float scores[kQueries * kRow];
  Line byte_line[kQueries], half_line[kQueries], weight_line[kGroups * kQueries];
  float shrink[kQueries];                             // of what was summed before this visit
  Page pages[kMostSplit];
};

// Where a lane's numbers of a product lie (cuda_device.cuh).
__device__ inline int lane_row() { return static_cast<int>(threadIdx.x) % kWarp / 4; }
__device__ inline int lane_quarter() { return static_cast<int>(threadIdx.x) % 4; }
__device__ inline int warp_index() { return static_cast<int>(threadIdx.x) / kWarp; }

// Over the 16 lanes of a query.
__device__ inline float query_sum(float x) {
  for (int lanes = kLanes / 2; lanes > 0; lanes /= 2) x += __shfl_xor_sync(kAllLanes, x, lanes);
  return x;
}
__device__ inline float query_max(float x) {
  for (int lanes = kLanes / 2; lanes > 0; lanes /= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, lanes));
  return x;
}

// ---- Products ----

// sum += left [16, along] right [along, 8], of which `right` is the first of eight columns, in rows of `across` words of codes. Left rows
// are zero from `along` to the next multiple of 64, so what is read beyond the last row of codes does not count.
template <int kBits>
__device__ void multiply_codes(int32_t (&sum)[4], const Word* left, int left_row, const Word* right, int across, int along) {
  const Word *upper = left + lane_row() * left_row, *lower = upper + kQueries * left_row;
  right += lane_row();
  const auto pair = [&](int first, int second, uint32_t b0, uint32_t b1) {
    const uint32_t a[4] = {upper[first], lower[first], upper[second], lower[second]};
    mma_16x8x32(sum, a, b0, b1);
  };
  constexpr int kPer = 8 / kBits;
  for (int quad = 0; quad < along / 4; quad += kBits == 2 ? 16 : 8) {
    const int row = quad / kPer + lane_quarter();
    if (kBits == 8) {
      pair(row, row + 4, right[row * across], right[(row + 4) * across]);
    } else {
      const uint32_t word = right[row * across], mask = kBits == 4 ? 0x0f0f0f0fu : 0x03030303u;
      for (int j = 0; j < kPer; j += 2) pair(row * kPer + j, row * kPer + j + 1, word >> (j * kBits) & mask, word >> (j * kBits + kBits) & mask);
    }
  }
}

// The same with f16: keys are rows along the sum, values across it. `right_row` is in words.
__device__ void multiply_keys(float (&sum)[4], const Word* left, int left_row, const Word* right, int right_row, int along) {
  const Word *upper = left + lane_row() * left_row + lane_quarter(), *lower = upper + kQueries * left_row;
  right += lane_row() * right_row + lane_quarter();
  for (int i = 0; i < along / 2; i += 8) {
    const uint32_t a[4] = {upper[i], lower[i], upper[i + 4], lower[i + 4]};
    mma_16x8x16(sum, a, right[i], right[i + 4], Float16{});
  }
}
__device__ void multiply_values(float (&sum)[4], const Word* left, int left_row, const Float16* right, int right_row, int along) {
  const Word *upper = left + lane_row() * left_row + lane_quarter(), *lower = upper + kQueries * left_row;
  right += lane_row();
  for (int i = 0; i < along / 2; i += 8) {
    const uint32_t a[4] = {upper[i], lower[i], upper[i + 4], lower[i + 4]};
    const Float16* row = right + (2 * i + 2 * lane_quarter()) * 2 * right_row;
    mma_16x8x16(sum, a, packed(row[0], row[2 * right_row]), packed(row[16 * right_row], row[18 * right_row]), Float16{});
  }
}

// Four numbers in two pieces each: bytes, of integers up to kPieces; or f16, of numbers up to 1.
__device__ inline void put_bytes(const float (&x)[4], float inverse, Word* upper, Word* lower) {
  uint32_t high = 0, low = 0;
  for (int e = 0; e < 4; ++e) {
    const auto whole = static_cast<int32_t>(float_to_bits(x[e] * inverse + 0x1.8p23f)) - 0x4b400000;   // the nearest integer
    const int32_t piece = (whole + 32) >> 6;
    high |= (static_cast<uint32_t>(piece) & 0xffu) << (8 * e), low |= (static_cast<uint32_t>(whole - 64 * piece) & 0xffu) << (8 * e);
  }
  *upper = high, *lower = low;
}
__device__ inline void put_halves(const float (&x)[4], float inverse, Word* upper, Word* lower) {
  for (int e = 0; e < 4; e += 2) {
    const float first = x[e] * inverse, second = x[e + 1] * inverse;
    const Float16 f = rounded<Float16>(first), s = rounded<Float16>(second);
    upper[e / 2] = packed(f, s), lower[e / 2] = packed<Float16>(first - to_float(f), second - to_float(s));
  }
}

// One query's numbers as left rows q and q + 8, by its 16 lanes, of which each has the quads lane, lane + 16 and so on.
template <bool kHalves, int kQuads>
__device__ Line put_left(const float (&x)[kQuads][4], float bias, Word* left, int left_row, int q) {
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  float most = 0;
  TRIMTAB_UNROLL
  for (int j = 0; j < kQuads; ++j)
    for (int e = 0; e < 4; ++e) most = fmaxf(most, fabsf(x[j][e]));
  most = query_max(most);
  const float inverse = most > kLeast ? (kHalves ? 1 : kPieces) / most : 0;
  TRIMTAB_UNROLL
  for (int j = 0; j < kQuads; ++j) {
    const int quad = lane + j * kLanes;
    Word *upper = left + q * left_row + (kHalves ? 2 * quad : quad), *lower = upper + kQueries * left_row;
    if (kHalves) put_halves(x[j], inverse, upper, lower);
    else put_bytes(x[j], inverse, upper, lower);
  }
  return {kHalves ? most : most / kPieces, query_sum(bias)};
}

// ---- Pages into shared memory ----

// `rows` rows of `chunks` times sixteen bytes; those from `filled` on become zeros. Strides: of `to` in chunks, of `from` in bytes.
__device__ void copy_rows(Chunk* to, int to_stride, const uint8_t* from, int from_stride, int rows, int chunks, int filled) {
  int shift = 0;   // 2^shift threads to a row, without dividing
  while ((1 << shift) < chunks) ++shift;
  const int column = static_cast<int>(threadIdx.x) & ((1 << shift) - 1);
  if (column >= chunks) return;
  for (int row = static_cast<int>(threadIdx.x) >> shift; row < rows; row += kThreads >> shift)
    copy_async(to + row * to_stride + column, reinterpret_cast<const Chunk*>(from + static_cast<int64_t>(row) * from_stride) + column, row < filled);
}

// Half of a visit: the keys or the values of some tokens of a page.
struct Cursor {
  int page = 0, first = 0;
  bool values = false;
};
// What is staged in a slot, and how.
struct Half {
  Page page;
  int bits, first, count;             // tokens [first, first + count); count is a multiple of 16
  int row, parameters;                // words of a row of codes; f16 of a kind of parameter
  __device__ int filled() const { return page.tokens - first; }
};

template <class T, int kDim>
class Decode {
  using S = Sizes<kDim>;
  static constexpr int kQuads = kDim / 64, kTiles = kDim / 32;   // of a lane's query; of eight channels, of a warp's output

 public:
  __device__ Decode(const AttentionDecodeCuda<T>& a, Shared<kDim>& shared) : a_(a), f_(a.format), s_(shared) {}

  __device__ void run() {
    load_pages();
    load_queries();
    Cursor ahead = first_cursor(), now = ahead;
    for (int slot = 0; slot < S::kSlots - 1; ++slot) stage(ahead, slot);
    for (int slot = 0; now.page < pages_; slot = slot + 1 == S::kSlots ? 0 : slot + 1) {
      wait_for_copies<S::kSlots - 2>();
      __syncthreads();   // the half has come for all, and all are done with the slot that is filled next
      stage(ahead, slot == 0 ? S::kSlots - 1 : slot - 1);
      if (now.values) mix(half_of(now), s_.slots[slot]);
      else score(half_of(now), s_.slots[slot]);
      advance(now);
    }
    store();
  }

 private:
  // ---- What there is to do ----

  __device__ int64_t list() const { return blockIdx.x; }
  __device__ int thread_query() const { return static_cast<int>(threadIdx.x) / kLanes; }
  __device__ int queries() const {   // of this block's eight
    const int64_t left = a_.group - int64_t{blockIdx.y} * kQueries;
    return left < kQueries ? static_cast<int>(left) : kQueries;
  }
  __device__ bool warp_has_queries() const { return warp_index() * (kWarp / kLanes) < queries(); }

  __device__ void load_pages() {
    const int64_t first = blockIdx.z * a_.split_pages, left = a_.page_counts[list()] - first;
    pages_ = static_cast<int>(left < 0 ? 0 : left < a_.split_pages ? left : a_.split_pages);
    for (int i = static_cast<int>(threadIdx.x); i < pages_; i += kThreads) {
      const KvPageCuda& page = a_.pages[list() * a_.page_stride + first + i];
      s_.pages[i] = {page.data, page.tokens, page.key_bits, page.value_bits};
    }
    __syncthreads();
  }

  // Into registers; and into those left operands that hold for all pages.
  __device__ void load_queries() {
    const int q = thread_query();
    const int64_t sequence = list() / a_.kv_heads, head = list() % a_.kv_heads * a_.group + int64_t{blockIdx.y} * kQueries + q;
    const T* from = a_.q + sequence * a_.q_stride + head * f_.head_dim;
    float sum = 0, check = 0;
    TRIMTAB_UNROLL
    for (int j = 0; j < kQuads; ++j)
      for (int e = 0; e < 4; ++e) {
        const int c = channel(j) + e;
        query_[j][e] = q < queries() && c < f_.head_dim ? to_float(from[c]) * a_.scale : 0;
        sum += query_[j][e], check += query_[j][e] * 0;
      }
    poison_ = query_sum(check);
    if (!(poison_ == 0))
      TRIMTAB_UNROLL
      for (int j = 0; j < kQuads; ++j)
        for (int e = 0; e < 4; ++e) query_[j][e] = 0;
    const Line halves = put_left<true>(query_, 0, s_.query_halves, S::kHalfRow, q);
    const Line bytes = put_left<false>(query_, sum, s_.query_bytes, S::kByteRow, q);
    if (threadIdx.x % kLanes == 0) s_.half_line[q] = halves, s_.byte_line[q] = bytes;
  }
  __device__ int channel(int quad) const { return 4 * (static_cast<int>(threadIdx.x) % kLanes + quad * kLanes); }

  __device__ int next_page(int page) const {
    while (page < pages_ && (s_.pages[page].key_bits == 0 || s_.pages[page].tokens <= 0)) ++page;
    return page;
  }
  __device__ Cursor first_cursor() const { return {next_page(0), 0, false}; }
  __device__ void advance(Cursor& c) const {
    c.values = !c.values;
    if (c.values) return;
    const Page& page = s_.pages[c.page];
    c.first += visit_tokens(page);
    if (c.first >= page.tokens) c.page = next_page(c.page + 1), c.first = 0;
  }
  __device__ int visit_tokens(const Page& page) const {
    const int bits = page.key_bits > page.value_bits ? page.key_bits : page.value_bits;
    if (bits < 8) return kMostTokens;
    const int most = S::kCodes * 8 / bits / f_.head_dim / 16 * 16;
    return most < kMostTokens ? most : kMostTokens;
  }
  __device__ Half half_of(const Cursor& c) const {
    Half h;
    h.page = s_.pages[c.page], h.first = c.first, h.bits = c.values ? h.page.value_bits : h.page.key_bits;
    const int most = visit_tokens(h.page), left = (h.page.tokens + 15) / 16 * 16 - c.first;
    h.count = left < most ? left : most;
    h.row = h.bits == 16 ? f_.head_dim / 2 + 4 : (c.values ? f_.head_dim : h.count) + 8;
    h.parameters = c.values ? f_.head_dim / value_group_of(f_) * h.count : f_.keys_by_token ? h.count : f_.head_dim;
    return h;
  }

  // ---- Staging: the codes, and behind them scales, zero points if there are any, norms or channel scales ----

  __device__ void stage(Cursor& c, int slot) const {
    if (c.page < pages_) {
      const Half h = half_of(c);
      const KvPlaces at = kv_places(f_, h.page.key_bits, h.page.value_bits);
      if (h.bits == 16) stage_rows(h, c.values ? at.value.codes : at.key.codes, s_.slots[slot]);
      else if (c.values) stage_values(h, at.value, s_.slots[slot]);
      else stage_keys(h, at.key, s_.slots[slot]);
      advance(c);
    }
    commit_copies();
  }
  __device__ void stage_rows(const Half& h, int codes, Chunk* to) const {
    copy_rows(to, h.row / 4, h.page.data + codes + h.first * f_.head_dim * 2, f_.head_dim * 2, h.count, f_.head_dim / 8, h.filled());
  }
  __device__ void stage_keys(const Half& h, const KvPartPlaces& at, Chunk* to) const {
    const int rows = f_.head_dim * h.bits / 32, kinds = f_.symmetric ? 1 : 2;
    copy_rows(to, h.row / 4, h.page.data + at.codes + h.first * 4, f_.tokens * 4, rows, h.count / 4, rows);
    Chunk* parameters = to + S::kCodeChunks;
    const int first = f_.keys_by_token ? h.first * 2 : 0;
    copy_rows(parameters, h.parameters / 8, h.page.data + at.scale + first, key_groups_of(f_) * 2, kinds, h.parameters / 8, kinds);
    if (f_.key_norm) copy_rows(parameters + kinds * h.parameters / 8, 0, h.page.data + at.extra + h.first * 2, 0, 1, h.count / 8, 1);
  }
  __device__ void stage_values(const Half& h, const KvPartPlaces& at, Chunk* to) const {
    const int rows = h.count * h.bits / 32, kinds = f_.symmetric ? 1 : 2, groups = kinds * (f_.head_dim / value_group_of(f_));
    copy_rows(to, h.row / 4, h.page.data + at.codes + h.first * h.bits / 32 * f_.head_dim * 4, f_.head_dim * 4, rows, f_.head_dim / 4, rows);
    Chunk* parameters = to + S::kCodeChunks;
    copy_rows(parameters, h.count / 8, h.page.data + at.scale + h.first * 2, f_.tokens * 2, groups, h.count / 8, groups);
    if (f_.value_channel_scale) copy_rows(parameters + kinds * h.parameters / 8, 0, h.page.data + at.extra, 0, 1, f_.head_dim / 8, 1);
  }

  // Parameters of a staged half.
  struct Parameters {
    const Float16 *scale, *extra;
    int kind;        // f16 from scales to zero points; 0: symmetric
    float offset;
    __device__ float zero(int i) const { return kind > 0 ? to_float(scale[kind + i]) : -offset * to_float(scale[i]); }
  };
  __device__ Parameters parameters_of(const Half& h, const Chunk* slot) const {
    const auto* scale = reinterpret_cast<const Float16*>(slot + S::kCodeChunks);
    return {scale, scale + (f_.symmetric ? 1 : 2) * h.parameters, f_.symmetric ? 0 : h.parameters, symmetric_offset(h.bits)};
  }

  // ---- Keys ----

  __device__ void score(const Half& h, const Chunk* slot) {
    const auto* codes = reinterpret_cast<const Word*>(slot);
    const Parameters p = parameters_of(h, slot);
    if (h.bits < 16 && !f_.keys_by_token) {
      scale_queries(p);
      __syncthreads();
    }
    for (int tile = warp_index(); tile < h.count / 8; tile += kWarps) {
      switch (h.bits) {
        case 16: put_scores(h, tile, key_rows(codes + tile * 8 * h.row, h.row)); break;
        case 8: put_scores(h, tile, packed_keys<8>(h, p, codes, tile)); break;
        case 4: put_scores(h, tile, packed_keys<4>(h, p, codes, tile)); break;
        default: put_scores(h, tile, packed_keys<2>(h, p, codes, tile));
      }
    }
    __syncthreads();
    weigh(h);
  }

  // Two neighbouring columns of a product.
  struct Two {
    float x[2];
  };

  __device__ void scale_queries(const Parameters& p) {
    if (!warp_has_queries()) return;
    float x[kQuads][4], bias = 0;
    TRIMTAB_UNROLL
    for (int j = 0; j < kQuads; ++j)
      for (int e = 0; e < 4; ++e) {
        const int c = channel(j) + e;
        x[j][e] = c < f_.head_dim ? query_[j][e] * to_float(p.scale[c]) : 0;
        if (c < f_.head_dim) bias += query_[j][e] * p.zero(c);
      }
    const Line line = put_left<false>(x, bias, s_.query_bytes, S::kByteRow, thread_query());
    if (threadIdx.x % kLanes == 0) s_.byte_line[thread_query()] = line;
  }

  __device__ Two key_rows(const Word* rows, int row) const {
    float sum[4] = {};
    multiply_keys(sum, s_.query_halves, S::kHalfRow, rows, row, f_.head_dim);
    const float factor = s_.half_line[lane_row()].factor;
    return {{(sum[0] + sum[2]) * factor, (sum[1] + sum[3]) * factor}};
  }
  template <int kBits>
  __device__ Two packed_keys(const Half& h, const Parameters& p, const Word* codes, int tile) const {
    int32_t sum[4] = {};
    multiply_codes<kBits>(sum, s_.query_bytes, S::kByteRow, codes + 8 * tile, h.row, f_.head_dim);
    const Line line = s_.byte_line[lane_row()];
    Two out;
    for (int e = 0; e < 2; ++e) {
      const int t = 8 * tile + 2 * lane_quarter() + e;
      float x = static_cast<float>(64 * sum[e] + sum[2 + e]) * line.factor;
      if (f_.keys_by_token) x = x * to_float(p.scale[t]) + line.bias * p.zero(t);
      else x += line.bias;
      out.x[e] = f_.key_norm ? x * to_float(p.extra[t]) : x;
    }
    return out;
  }
  __device__ void put_scores(const Half& h, int tile, const Two& scores) {
    const int t = 8 * tile + 2 * lane_quarter();
    for (int e = 0; e < 2; ++e) s_.scores[lane_row() * kRow + t + e] = t + e < h.filled() ? scores.x[e] : -INFINITY;
  }

  // Scores become weights exp(score - max), four to a lane; maximum and sum follow.
  __device__ void weigh(const Half& h) {
    if (!warp_has_queries()) return;
    const int q = thread_query(), first = 4 * (static_cast<int>(threadIdx.x) % kLanes);
    float top = max_, added = 0;
    for (int e = 0; e < 4; ++e) {
      weight_[e] = first < h.count ? s_.scores[q * kRow + first + e] : -INFINITY;
      top = fmaxf(top, weight_[e]);
    }
    top = query_max(top);
    for (int e = 0; e < 4; ++e) weight_[e] = weight_[e] == -INFINITY ? 0 : expf(weight_[e] - top), added += weight_[e];
    const float shrink = max_ == -INFINITY ? 0 : expf(max_ - top);
    if (threadIdx.x % kLanes == 0) s_.shrink[q] = shrink;
    sum_ = sum_ * shrink + query_sum(added), max_ = top;
  }

  // ---- Values ----

  __device__ void mix(const Half& h, const Chunk* slot) {
    const float shrink = s_.shrink[lane_row()];
    TRIMTAB_UNROLL
    for (int j = 0; j < kTiles; ++j)
      for (int e = 0; e < 2; ++e) out_[j][e] *= shrink;
    switch (h.bits) {
      case 16: return mix_rows(h, reinterpret_cast<const Float16*>(slot));
      case 8: return mix_packed<8>(h, slot);
      case 4: return mix_packed<4>(h, slot);
      default: mix_packed<2>(h, slot);
    }
  }

  __device__ void mix_rows(const Half& h, const Float16* rows) {
    if (warp_has_queries()) {
      const float x[1][4] = {{weight_[0], weight_[1], weight_[2], weight_[3]}};
      const Line line = put_left<true>(x, 0, s_.weights, kHalfRow, thread_query());
      if (threadIdx.x % kLanes == 0) s_.weight_line[thread_query()] = line;
    }
    __syncthreads();
    const float factor = s_.weight_line[lane_row()].factor;
    TRIMTAB_UNROLL
    for (int j = 0; j < kTiles; ++j) {
      const int first = 8 * (warp_index() + kWarps * j);
      if (first >= f_.head_dim) continue;
      float sum[4] = {};
      multiply_values(sum, s_.weights, kHalfRow, rows + first, h.row, h.count);
      for (int e = 0; e < 2; ++e) out_[j][e] += (sum[e] + sum[2 + e]) * factor;
    }
  }

  // Groups of values have weights of their own: as many as there is room for at a time.
  template <int kBits>
  __device__ void mix_packed(const Half& h, const Chunk* slot) {
    const Parameters p = parameters_of(h, slot);
    const int size = value_group_of(f_), groups = f_.head_dim / size;
    for (int group = 0; group < groups; group += kGroups) {
      if (group > 0) __syncthreads();   // the weights before are done with
      const int count = groups - group < kGroups ? groups - group : kGroups;
      for (int g = 0; g < count && warp_has_queries(); ++g) scale_weights(h, p, group + g, g);
      __syncthreads();
      TRIMTAB_UNROLL
      for (int j = 0; j < kTiles; ++j) {
        const int first = 8 * (warp_index() + kWarps * j);
        if (first < group * size || first >= (group + count) * size) continue;
        add_values<kBits>(h, p, reinterpret_cast<const Word*>(slot), first, groups == 1 ? 0 : first / size - group, out_[j]);
      }
    }
  }
  __device__ void scale_weights(const Half& h, const Parameters& p, int group, int at) {
    const int first = 4 * (static_cast<int>(threadIdx.x) % kLanes), q = thread_query();
    float x[1][4] = {}, bias = 0;
    if (first < h.count)
      for (int e = 0; e < 4; ++e) {
        const int i = group * h.count + first + e;
        x[0][e] = weight_[e] * to_float(p.scale[i]), bias += weight_[e] * p.zero(i);
      }
    const Line line = put_left<false>(x, bias, s_.weights + at * 2 * kQueries * kByteRow, kByteRow, q);
    if (threadIdx.x % kLanes == 0) s_.weight_line[at * kQueries + q] = line;
  }
  template <int kBits>
  __device__ void add_values(const Half& h, const Parameters& p, const Word* codes, int first, int at, float (&out)[2]) const {
    int32_t sum[4] = {};
    multiply_codes<kBits>(sum, s_.weights + at * 2 * kQueries * kByteRow, kByteRow, codes + first, h.row, h.count);
    const Line line = s_.weight_line[at * kQueries + lane_row()];
    for (int e = 0; e < 2; ++e) {
      const float x = static_cast<float>(64 * sum[e] + sum[2 + e]) * line.factor + line.bias;
      out[e] += f_.value_channel_scale ? x * to_float(p.extra[first + 2 * lane_quarter() + e]) : x;
    }
  }

  // ---- The end ----

  // A split's result [head_dim], and behind it maximum and sum.
  __device__ float* partial(int q) const {
    const int64_t query = list() * a_.group + int64_t{blockIdx.y} * kQueries + q;
    return a_.scratch + (query * gridDim.z + blockIdx.z) * (f_.head_dim + 2);
  }
  __device__ void store() const {
    if (lane_row() < queries()) {
      float* to = partial(lane_row());
      TRIMTAB_UNROLL
      for (int j = 0; j < kTiles; ++j) {
        const int c = 8 * (warp_index() + kWarps * j) + 2 * lane_quarter();
        if (c < f_.head_dim) to[c] = out_[j][0], to[c + 1] = out_[j][1];
      }
    }
    if (threadIdx.x % kLanes == 0 && thread_query() < queries()) {
      float* to = partial(thread_query()) + f_.head_dim;
      to[0] = max_, to[1] = sum_ + poison_;
    }
  }

  const AttentionDecodeCuda<T>& a_;
  const KvFormatCuda& f_;
  Shared<kDim>& s_;
  int pages_ = 0;
  float query_[kQuads][4], poison_ = 0;                    // this thread's part of its query; NaN if that is not finite
  float weight_[4] = {}, max_ = -INFINITY, sum_ = 0;       // of its query, max_ and sum_ alike in all its lanes
  float out_[kTiles][2] = {};                              // of query lane_row()
};

template <class T, int kDim>
__global__ void __launch_bounds__(kThreads) decode_kernel(const AttentionDecodeCuda<T> a) {
  __shared__ __align__(16) Shared<kDim> shared;
  Decode<T, kDim>(a, shared).run();
}

// One block per query.
template <class T>
__global__ void __launch_bounds__(kThreads) merge_kernel(const AttentionDecodeCuda<T> a, int64_t most_splits) {
  const int64_t query = blockIdx.x, list = query / a.group, heads = a.kv_heads * a.group;
  const int64_t splits = (a.page_counts[list] + a.split_pages - 1) / a.split_pages;
  const int d = a.format.head_dim;
  const float* partial = a.scratch + query * most_splits * (d + 2);
  float max = -INFINITY, sum = 0;
  for (int64_t s = 0; s < splits; ++s) max = fmaxf(max, partial[s * (d + 2) + d]);
  const auto weight = [&](int64_t s) { return partial[s * (d + 2) + d] == -INFINITY ? 0 : expf(partial[s * (d + 2) + d] - max); };
  for (int64_t s = 0; s < splits; ++s) {
    const float part = partial[s * (d + 2) + d + 1];
    sum += part == part ? weight(s) * part : part;   // NaN also from a split that saw no key
  }
  T* to = a.out + query / heads * a.out_stride + query % heads * d;
  for (int c = static_cast<int>(threadIdx.x); c < d; c += kThreads) {
    float out = 0;
    for (int64_t s = 0; s < splits; ++s) out += weight(s) * partial[s * (d + 2) + c];
    to[c] = rounded<T>(sum == 0 ? 0 : out / sum);
  }
}

template <class T>
bool valid(const AttentionDecodeCuda<T>& a) {
  return valid(a.format, 256, kMostTokens) && a.sequences >= 0 && a.kv_heads > 0 && a.group > 0 && (a.group + kQueries - 1) / kQueries <= 65535 &&
         a.sequences * a.kv_heads * a.group <= 0x7fffffff && a.split_pages > 0 && a.split_pages <= kMostSplit && a.most_pages >= 0 &&
         attention_decode_splits(a) <= 65535;
}

template <class T>
cudaError_t decode(const AttentionDecodeCuda<T>& a, cudaStream_t stream) {
  if (!valid(a)) return cudaErrorInvalidValue;
  const int64_t lists = a.sequences * a.kv_heads, splits = attention_decode_splits(a);
  if (lists == 0) return cudaSuccess;
  const dim3 blocks(static_cast<unsigned>(lists), static_cast<unsigned>((a.group + kQueries - 1) / kQueries), static_cast<unsigned>(splits));
  cudaError_t status = cudaSuccess;
  if (splits > 0) {
    status = a.format.head_dim <= 64    ? launch(decode_kernel<T, 64>, blocks, dim3(kThreads), stream, a)
             : a.format.head_dim <= 128 ? launch(decode_kernel<T, 128>, blocks, dim3(kThreads), stream, a)
                                        : launch(decode_kernel<T, 256>, blocks, dim3(kThreads), stream, a);
  }
  return status != cudaSuccess ? status : launch(merge_kernel<T>, dim3(static_cast<unsigned>(lists * a.group)), dim3(kThreads), stream, a, splits);
}

}  // namespace

cudaError_t attention_decode_cuda(const AttentionDecodeCuda<float>& a, cudaStream_t stream) { return decode(a, stream); }
cudaError_t attention_decode_cuda(const AttentionDecodeCuda<Float16>& a, cudaStream_t stream) { return decode(a, stream); }
cudaError_t attention_decode_cuda(const AttentionDecodeCuda<Bfloat16>& a, cudaStream_t stream) { return decode(a, stream); }

}  // namespace trimtab
