// What every version of the adapters' kernels is held to wherever it runs: Array<T> is memory that the kernel reads (plain vectors, the
// host's grid, or a device). `kernels` has shrink, expand and attention, each true where the call was accepted.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "core/random.h"
#include "kernels/lora/lora.h"

namespace trimtab {

constexpr float kUntouched = 1e30f;   // in what a kernel must leave as it is

inline std::vector<float> lora_numbers(int64_t n, Draws& draws, float scale = 1) {
  std::vector<float> out(n);
  for (float& x : out) x = scale * draws.normal();
  return out;
}

// Rows by segments, with what they are multiplied by.
struct LoraCase {
  int64_t rows = 0, in = 0, out = 0, most_rank = 0;
  std::vector<int32_t> rank, start{0}, segment_adapter, row_adapter;
  std::vector<float> scale, weights;          // every adapter's A and B, one after the other
  std::vector<uint16_t> halves;               // the upper halves of weights, which are all of those of an adapter in bfloat16
  std::vector<LoraNumbers> numbers;
  std::vector<int64_t> at;                    // where they begin
  std::vector<float> x, y;                    // [rows, in + 3], [rows, out + 5]
  int64_t x_stride() const { return in + 3; }
  int64_t v_stride() const { return most_rank + 2; }
  int64_t y_stride() const { return out + 5; }
};

inline LoraCase random_lora_case(Draws& draws, uint32_t most_in, uint32_t most_out, uint32_t most_segments, uint32_t most_length) {
  LoraCase c;
  const int32_t ranks[] = {8, 16, 32, 64, 8, 16, 24, 48, 1, 5, 0, 100};
  c.in = draws.below(8) == 0 ? 1 : draws.below(most_in), c.out = 1 + draws.below(most_out);
  const int32_t adapters = 1 + static_cast<int32_t>(draws.below(8));
  for (int32_t a = 0; a < adapters; ++a) {
    c.rank.push_back(ranks[draws.below(12)]), c.scale.push_back(draws.uniform(-2, 2));
    c.at.push_back(static_cast<int64_t>(c.weights.size()));
    c.weights.resize(c.weights.size() + c.rank[a] * (c.in + c.out) + 1);   // and no alignment
    c.most_rank = std::max<int64_t>(c.most_rank, c.rank[a]);
  }
  for (int32_t a = 0; a < adapters; ++a) c.numbers.push_back(draws.below(2) == 0 ? LoraNumbers::kFloat : LoraNumbers::kBfloat16);
  for (float& w : c.weights) w = draws.normal();
  for (size_t i = 0, a = 0; i < c.weights.size(); ++i) {
    while (a + 1 < c.at.size() && static_cast<int64_t>(i) >= c.at[a + 1]) ++a;
    uint32_t bits;
    std::memcpy(&bits, &c.weights[i], sizeof bits);
    c.halves.push_back(static_cast<uint16_t>(bits >> 16));
    if (c.numbers[a] == LoraNumbers::kBfloat16) bits &= 0xffff0000u, std::memcpy(&c.weights[i], &bits, sizeof bits);
  }
  for (uint32_t s = 0, segments = draws.below(most_segments + 1); s < segments; ++s) {
    const auto length = static_cast<int32_t>(draws.below(4) == 0 ? draws.below(2) : draws.below(most_length + 1));
    c.segment_adapter.push_back(static_cast<int32_t>(draws.below(adapters + 1)) - 1), c.start.push_back(c.start.back() + length);
    c.row_adapter.insert(c.row_adapter.end(), length, c.segment_adapter.back());
  }
  c.rows = c.start.back();
  c.x = lora_numbers(c.rows * c.x_stride(), draws), c.y = lora_numbers(c.rows * c.y_stride(), draws);
  return c;
}

// The rows of `c` in another order: row r becomes row order[r].
inline LoraCase permuted(const LoraCase& c, const std::vector<int64_t>& order) {
  LoraCase out = c;
  for (int64_t r = 0; r < c.rows; ++r) {
    out.row_adapter[order[r]] = c.row_adapter[r];
    std::copy_n(c.x.begin() + r * c.x_stride(), c.x_stride(), out.x.begin() + order[r] * c.x_stride());
    std::copy_n(c.y.begin() + r * c.y_stride(), c.y_stride(), out.y.begin() + order[r] * c.y_stride());
  }
  return out;
}

template <template <class> class Array>
class LoraRun {
 public:
  LoraRun(const LoraCase& c, bool by_segments)
      : c_(c), weights_(c.weights), halves_(c.halves), x_(c.x), v_(std::vector<float>(c.rows * c.v_stride(), kUntouched)), y_(c.y), adapters_(adapters()),
        adapter_(by_segments ? c.segment_adapter : c.row_adapter), start_(c.start), by_segments_(by_segments) {}

  LoraRows rows(int64_t first, int64_t last) {
    return {adapters_.data(), static_cast<int64_t>(c_.rank.size()), adapter_.data(), by_segments_ ? start_.data() : nullptr,
            by_segments_ ? static_cast<int64_t>(c_.segment_adapter.size()) : 0, first, last};
  }
  LoraShrink shrink(int64_t first, int64_t last) { return {rows(first, last), c_.in, x_.data(), c_.x_stride(), v_.data(), c_.v_stride()}; }
  LoraExpand expand(int64_t first, int64_t last, int64_t first_panel, int64_t last_panel) {
    return {rows(first, last), c_.out, v_.data(), c_.v_stride(), y_.data(), c_.y_stride(), first_panel, last_panel};
  }
  // Shared out in parts of rows and of panels.
  template <class Kernels>
  bool go(const Kernels& kernels, int64_t row_parts = 1, int64_t panel_parts = 1) {
    bool accepted = true;
    const int64_t panels = lora_panels(c_.out);
    for (int64_t i = 0; i < row_parts; ++i) accepted &= kernels.shrink(shrink(c_.rows * i / row_parts, c_.rows * (i + 1) / row_parts));
    for (int64_t i = 0; i < row_parts; ++i)
      for (int64_t p = 0; p < panel_parts; ++p)
        accepted &= kernels.expand(expand(c_.rows * i / row_parts, c_.rows * (i + 1) / row_parts, panels * p / panel_parts, panels * (p + 1) / panel_parts));
    return accepted;
  }
  std::vector<float> v() const { return v_.host(); }
  std::vector<float> y() const { return y_.host(); }

 private:
  std::vector<LoraAdapter> adapters() {
    std::vector<LoraAdapter> out;
    for (size_t a = 0; a < c_.rank.size(); ++a) {
      const int64_t b = c_.at[a] + c_.in * c_.rank[a];
      if (c_.numbers[a] == LoraNumbers::kFloat) out.push_back({weights_.data() + c_.at[a], weights_.data() + b, c_.rank[a], c_.scale[a]});
      else out.push_back({halves_.data() + c_.at[a], halves_.data() + b, c_.rank[a], c_.scale[a], LoraNumbers::kBfloat16});
    }
    return out;
  }

  const LoraCase& c_;
  Array<float> weights_;
  Array<uint16_t> halves_;
  Array<float> x_, v_, y_;
  Array<LoraAdapter> adapters_;
  Array<int32_t> adapter_, start_;
  bool by_segments_;
};

// x b in double, and within what the sum of so many floats may be.
struct LoraSum {
  double sum = 0, size = 0;
  void add(double x, double b) { sum += x * b, size += std::abs(x * b); }
  bool is(double got, int64_t terms) const { return std::abs(got - sum) <= (2 * static_cast<double>(terms) + 8) * 0x1p-24 * size + 1e-37; }
};

// What differs from the formulas, or nothing.
inline std::string lora_difference(const LoraCase& c, const std::vector<float>& v, const std::vector<float>& y) {
  for (int64_t r = 0; r < c.rows; ++r) {
    const int32_t a = c.row_adapter[r];
    const int64_t rank = a < 0 ? 0 : c.rank[a];
    const float *down = c.weights.data() + (a < 0 ? 0 : c.at[a]), *up = down + c.in * rank;
    for (int64_t i = 0; i < c.v_stride(); ++i) {
      const float got = v[r * c.v_stride() + i];
      LoraSum want;
      for (int64_t k = 0; i < rank && k < c.in; ++k) want.add(c.x[r * c.x_stride() + k], down[k * rank + i]);
      if (i < rank ? !want.is(got, c.in) : got != kUntouched) return "v[" + std::to_string(r) + "][" + std::to_string(i) + "] is " + std::to_string(got);
    }
    for (int64_t o = 0; o < c.y_stride(); ++o) {
      const float got = y[r * c.y_stride() + o], before = c.y[r * c.y_stride() + o];
      LoraSum want;
      want.add(before, 1);
      for (int64_t k = 0; o < c.out && k < rank; ++k) want.add(double{v[r * c.v_stride() + k]} * c.scale[a], up[k * c.out + o]);
      if (o < c.out && rank > 0 ? !want.is(got, rank) : got != before) return "y[" + std::to_string(r) + "][" + std::to_string(o) + "] is " + std::to_string(got);
    }
  }
  return "";
}

// By segments against the formulas; then parts of rows and panels, and rows in any order with an adapter each: equal to the bit.
template <template <class> class Array, class Kernels>
std::string lora_mismatch(const LoraCase& c, const Kernels& kernels, Draws& draws) {
  LoraRun<Array> whole(c, true), parts(c, true);
  if (!whole.go(kernels) || !parts.go(kernels, 1 + draws.below(5), 1 + draws.below(3))) return "refused";
  const std::vector<float> v = whole.v(), y = whole.y();
  const std::string wrong = lora_difference(c, v, y);
  if (!wrong.empty()) return wrong;
  if (parts.v() != v || parts.y() != y) return "parts differ from the whole";
  std::vector<int64_t> order(c.rows);
  for (int64_t r = 0; r < c.rows; ++r) order[r] = r;
  for (int64_t r = c.rows - 1; r > 0; --r) std::swap(order[r], order[draws.below(static_cast<uint32_t>(r + 1))]);
  const LoraCase other = permuted(c, order);
  LoraRun<Array> by_row(other, false);
  if (!by_row.go(kernels, 1 + draws.below(3), 1 + draws.below(3))) return "refused by rows";
  const std::vector<float> other_v = by_row.v(), other_y = by_row.y();
  for (int64_t r = 0; r < c.rows; ++r)
    if (!std::equal(v.begin() + r * c.v_stride(), v.begin() + (r + 1) * c.v_stride(), other_v.begin() + order[r] * c.v_stride()) ||
        !std::equal(y.begin() + r * c.y_stride(), y.begin() + (r + 1) * c.y_stride(), other_y.begin() + order[r] * c.y_stride()))
      return "row " + std::to_string(r) + " differs by rows and by segments";
  return "";
}

// Agents with adapters of their own on caches of the base model.
struct LoraAttentionCase {
  struct Agent {
    int64_t cache = 0, rank = 0, keys = 0, heads = 1, z = 0, b = 0;   // places in `numbers`
    float scale = 1;
  };
  int64_t head_dim = 1;
  std::vector<int64_t> lengths, keys, values;                  // of caches: keys there are, places in `numbers`
  std::vector<Agent> agents;
  std::vector<float> numbers, q;                               // q [queries, head_dim]
  int64_t value_stride() const { return head_dim + 3; }
  int64_t b_stride() const { return head_dim + 2; }
  static int64_t z_stride(int64_t rank) { return rank + 1; }
  int64_t queries() const { return static_cast<int64_t>(q.size()) / head_dim; }
  float& key(int64_t cache, int64_t j, int64_t i) {
    return numbers[keys[cache] + j / kLoraKeyBlock * kLoraKeyBlock * head_dim + i * kLoraKeyBlock + j % kLoraKeyBlock];
  }
  float key(int64_t cache, int64_t j, int64_t i) const { return const_cast<LoraAttentionCase*>(this)->key(cache, j, i); }
};

// NaN wherever nothing was written.
inline LoraAttentionCase random_lora_attention(Draws& draws, uint32_t most_keys, uint32_t most_head) {
  LoraAttentionCase c;
  const int64_t ranks[] = {0, 1, 8, 16, 33, 64};
  c.head_dim = draws.below(3) == 0 ? std::min<int64_t>(most_head, 128) : 1 + draws.below(most_head);
  const float nothing = std::numeric_limits<float>::quiet_NaN();
  const auto place = [&](int64_t rows, int64_t width, int64_t stride) {
    const auto at = static_cast<int64_t>(c.numbers.size());
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = 0; i < stride; ++i) c.numbers.push_back(i < width ? draws.normal() : nothing);
    return at;
  };
  for (uint32_t n = 1 + draws.below(2); c.lengths.size() < n;) {
    const int64_t length = 1 + draws.below(most_keys), blocks = (length + kLoraKeyBlock - 1) / kLoraKeyBlock, cache = static_cast<int64_t>(c.lengths.size());
    c.lengths.push_back(length);
    c.keys.push_back(place(blocks, 0, c.head_dim * kLoraKeyBlock)), c.values.push_back(place(length, c.head_dim, c.value_stride()));
    for (int64_t j = 0; j < length; ++j)
      for (int64_t i = 0; i < c.head_dim; ++i) c.key(cache, j, i) = draws.normal();
    for (uint32_t agents = 1 + draws.below(5), a = 0; a < agents; ++a) {
      LoraAttentionCase::Agent agent;
      agent.cache = cache, agent.rank = ranks[draws.below(6)], agent.heads = 1 + draws.below(8), agent.scale = draws.uniform(-2, 2);
      agent.keys = draws.below(3) == 0 ? draws.below(static_cast<uint32_t>(length + 1)) : length;
      agent.z = place(agent.keys, agent.rank, LoraAttentionCase::z_stride(agent.rank)), agent.b = place(agent.rank, c.head_dim, c.b_stride());
      for (int64_t i = 0; i < agent.heads * c.head_dim; ++i) c.q.push_back(2 * draws.normal() / std::sqrt(static_cast<float>(c.head_dim)));
      c.agents.push_back(agent);
    }
  }
  return c;
}

template <template <class> class Array>
class LoraAttentionRun {
 public:
  explicit LoraAttentionRun(const LoraAttentionCase& c)
      : c_(c), numbers_(c.numbers), q_(c.q), out_(std::vector<float>(c.q.size(), kUntouched)), caches_(caches()), queries_(queries()) {}
  AttentionLora call(int64_t first, int64_t count) { return {c_.head_dim, caches_.data(), queries_.data() + first, count}; }
  std::vector<float> out() const { return out_.host(); }

 private:
  std::vector<LoraCache> caches() {
    std::vector<LoraCache> out;
    for (size_t i = 0; i < c_.lengths.size(); ++i) out.push_back({numbers_.data() + c_.keys[i], numbers_.data() + c_.values[i], c_.value_stride()});
    return out;
  }
  std::vector<LoraQuery> queries() {
    std::vector<LoraQuery> out;
    for (const LoraAttentionCase::Agent& a : c_.agents)
      for (int64_t h = 0; h < a.heads; ++h) {
        const int64_t at = static_cast<int64_t>(out.size()) * c_.head_dim;
        out.push_back({static_cast<int32_t>(a.cache), static_cast<int32_t>(a.rank), a.keys, q_.data() + at, numbers_.data() + a.z,
                       LoraAttentionCase::z_stride(a.rank), numbers_.data() + a.b, c_.b_stride(), a.scale, out_.data() + at});
      }
    return out;
  }

  const LoraAttentionCase& c_;
  Array<float> numbers_, q_, out_;
  Array<LoraCache> caches_;
  Array<LoraQuery> queries_;
};

// An agent's values V + scale Z B, in double.
inline std::vector<double> materialised(const LoraAttentionCase& c, const LoraAttentionCase::Agent& a) {
  std::vector<double> out(a.keys * c.head_dim);
  for (int64_t j = 0; j < a.keys; ++j)
    for (int64_t i = 0; i < c.head_dim; ++i) {
      double low_rank = 0;
      for (int64_t k = 0; k < a.rank; ++k) low_rank += double{c.numbers[a.z + j * c.z_stride(a.rank) + k]} * c.numbers[a.b + k * c.b_stride() + i];
      out[j * c.head_dim + i] = c.numbers[c.values[a.cache] + j * c.value_stride() + i] + a.scale * low_rank;
    }
  return out;
}

// What differs from softmax(q K^T)(V + scale Z B) with the values made, by more than 2e-5 of the largest of them, or nothing.
inline std::string lora_attention_difference(const LoraAttentionCase& c, const std::vector<float>& out) {
  int64_t query = 0;
  for (const LoraAttentionCase::Agent& a : c.agents) {
    const std::vector<double> values = materialised(c, a);
    double largest = 1;
    for (const double v : values) largest = std::max(largest, std::abs(v));
    for (int64_t h = 0; h < a.heads; ++h, ++query) {
      std::vector<double> weights(a.keys), want(c.head_dim);
      for (int64_t j = 0; j < a.keys; ++j)
        for (int64_t i = 0; i < c.head_dim; ++i) weights[j] += double{c.q[query * c.head_dim + i]} * c.key(a.cache, j, i);
      double max = -1e300, sum = 0;
      for (const double w : weights) max = std::max(max, w);
      for (double& w : weights) sum += w = std::exp(w - max);
      for (int64_t j = 0; j < a.keys; ++j)
        for (int64_t i = 0; i < c.head_dim; ++i) want[i] += weights[j] / sum * values[j * c.head_dim + i];
      for (int64_t i = 0; i < c.head_dim; ++i)
        if (!(std::abs(out[query * c.head_dim + i] - want[i]) <= 2e-5 * largest))
          return "query " + std::to_string(query) + "[" + std::to_string(i) + "] is " + std::to_string(out[query * c.head_dim + i]) + ", not " +
                 std::to_string(want[i]);
    }
  }
  return "";
}

// Against the definition; then every query alone: equal to the bit.
template <template <class> class Array, class Kernels>
std::string lora_attention_mismatch(const LoraAttentionCase& c, const Kernels& kernels) {
  LoraAttentionRun<Array> together(c), alone(c);
  if (!kernels.attention(together.call(0, c.queries()))) return "refused";
  const std::string wrong = lora_attention_difference(c, together.out());
  if (!wrong.empty()) return wrong;
  for (int64_t i = 0; i < c.queries(); ++i)
    if (!kernels.attention(alone.call(i, 1))) return "refused alone";
  return alone.out() == together.out() ? "" : "a query alone differs";
}

}  // namespace trimtab
