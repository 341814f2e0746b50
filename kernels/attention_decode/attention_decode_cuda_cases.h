// Checks of the CUDA kernel against attention in double over what its pages' bytes say, wherever it runs: Array<T> is device memory
// (tests/gpu/device.h) or the host's (kernels/cuda_device/host_grid.h).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "core/random.h"
#include "kernels/attention_decode/attention_decode_cuda.h"
#include "kernels/kv_pack/kv_page.cuh"

namespace trimtab {

// Conversions, which the device's toolkit and the host spell differently.
template <class T>
struct DecodeNumbers {
  T (*of)(float);
  double (*value)(T);
  Float16 (*half_of)(float);
  double (*half_value)(Float16);
};

// A page's bytes and what they say.
struct DecodePage {
  int key_bits = 16, value_bits = 16, tokens = 0;
  std::vector<uint8_t> bytes;
  std::vector<double> keys, values;   // [tokens, head_dim]
};
struct DecodeCase {
  KvFormatCuda format;
  int64_t sequences = 1, kv_heads = 1, group = 1, split_pages = 1;
  std::vector<std::vector<DecodePage>> lists;   // [sequences * kv_heads]
};

// Bit patterns of codes are all alike to the kernel, so they are drawn as they are; parameters are of a size that scores can have.
template <class T>
class PageMaker {
 public:
  PageMaker(const KvFormatCuda& format, const DecodeNumbers<T>& numbers, Draws& draws) : f_(format), n_(numbers), draws_(draws) {}

  DecodePage packed(int key_bits, int value_bits) {
    DecodePage p{key_bits, value_bits, f_.tokens, {}, {}, {}};
    fill(p);
    return p;
  }
  DecodePage rows(int tokens) {
    DecodePage p{16, 16, tokens, {}, {}, {}};
    fill(p);
    return p;
  }

 private:
  void fill(DecodePage& p) {
    const KvPlaces at = kv_places(f_, p.key_bits, p.value_bits);
    p.bytes.resize(at.bytes);
    for (uint8_t& b : p.bytes) b = static_cast<uint8_t>(draws_.below(256));
    p.keys = part(p, at.key, true), p.values = part(p, at.value, false);
  }

  double half(DecodePage& p, int place, int index) {
    Float16 x;
    std::memcpy(&x, &p.bytes[place + 2 * index], 2);
    return n_.half_value(x);
  }
  void put(DecodePage& p, int place, int index, float x) {
    const Float16 h = n_.half_of(x);
    std::memcpy(&p.bytes[place + 2 * index], &h, 2);
  }

  std::vector<double> part(DecodePage& p, const KvPartPlaces& at, bool keys) {
    const int d = f_.head_dim, bits = keys ? p.key_bits : p.value_bits, steps = (1 << bits) - 1;
    const int groups = keys ? key_groups_of(f_) : d / value_group_of(f_) * f_.tokens;
    const bool extra = keys ? f_.key_norm : f_.value_channel_scale;
    if (bits == 16) {   // rows that are not filled yet hold the worst
      for (int i = 0; i < f_.tokens * d; ++i) put(p, at.codes, i, i < p.tokens * d ? draws_.normal() : NAN);
    } else {
      for (int i = 0; i < groups; ++i) put(p, at.scale, i, draws_.uniform(0.5f, 4) / static_cast<float>(steps));
      for (int i = 0; i < groups && !f_.symmetric; ++i) put(p, at.zero, i, draws_.uniform(-3, 0));
      for (int i = 0; i < (keys ? f_.tokens : d) && extra; ++i) put(p, at.extra, i, draws_.uniform(0.2f, 1.5f));
    }
    std::vector<double> out(p.tokens * d);
    for (int t = 0; t < p.tokens; ++t)
      for (int c = 0; c < d; ++c) out[t * d + c] = number(p, at, keys, t, c);
    return out;
  }
  // By the text of kv_format.h.
  double number(DecodePage& p, const KvPartPlaces& at, bool keys, int t, int c) {
    const int d = f_.head_dim, bits = keys ? p.key_bits : p.value_bits;
    if (bits == 16) return half(p, at.codes, t * d + c);
    const int along = keys ? c : t, place = keys ? t : c, across = keys ? f_.tokens : d, per = 8 / bits, quad = along / 4;
    const int code = p.bytes[at.codes + (quad / per * across + place) * 4 + along % 4] >> (quad % per * bits) & ((1 << bits) - 1);
    const int group = !keys ? c / value_group_of(f_) * f_.tokens + t : f_.keys_by_token ? t : c;
    const double s = half(p, at.scale, group), m = f_.symmetric ? -s * (1 << (bits - 1)) : half(p, at.zero, group);
    const bool extra = keys ? f_.key_norm : f_.value_channel_scale;
    return (s * code + m) * (extra ? half(p, at.extra, keys ? t : c) : 1);
  }

  KvFormatCuda f_;
  DecodeNumbers<T> n_;
  Draws& draws_;
};

inline KvFormatCuda random_format_cuda(Draws& draws) {
  const int dims[] = {16, 32, 48, 64, 80, 128, 144, 256}, tokens[] = {16, 32, 48, 64};
  KvFormatCuda f{dims[draws.below(8)], tokens[draws.below(4)], 0, draws.below(2) == 0, draws.below(3) == 0, false, draws.below(3) == 0};
  f.value_group = draws.below(2) == 0 ? 0 : f.head_dim % 32 == 0 && draws.below(2) == 0 ? 32 : 16;
  f.key_norm = !f.keys_by_token && draws.below(3) == 0;
  return f;
}

// Lists of 0 to 7 pages of all widths, some evicted, the last one perhaps being filled.
template <class T>
DecodeCase random_decode_case(uint64_t seed, uint32_t number, const DecodeNumbers<T>& numbers) {
  Draws draws(seed, Stream::kTest, number, 93);
  const int widths[] = {16, 8, 4, 2};
  DecodeCase c;
  c.format = random_format_cuda(draws);
  c.sequences = 1 + draws.below(2), c.kv_heads = 1 + draws.below(2), c.group = 1 + draws.below(10), c.split_pages = 1 + draws.below(4);
  PageMaker<T> maker(c.format, numbers, draws);
  for (int64_t i = 0; i < c.sequences * c.kv_heads; ++i) {
    std::vector<DecodePage> list;
    for (uint32_t p = 0, n = draws.below(8); p < n; ++p) {
      const bool last = p + 1 == n && draws.below(2) == 0;
      if (draws.below(6) == 0) list.push_back({0, 0, 0, {}, {}, {}});
      else list.push_back(last ? maker.rows(1 + static_cast<int>(draws.below(c.format.tokens))) : maker.packed(widths[draws.below(4)], widths[draws.below(4)]));
    }
    c.lists.push_back(list);
  }
  return c;
}

// Attention of one query over a list, and the largest value it met.
inline std::vector<double> decode_by_definition(const std::vector<double>& q, const std::vector<DecodePage>& list, double& largest) {
  const auto d = static_cast<int64_t>(q.size());
  std::vector<double> scores, out(d);
  for (const DecodePage& p : list)
    for (int64_t t = 0; t < p.tokens; ++t) {
      double s = 0;
      for (int64_t i = 0; i < d; ++i) s += q[i] * p.keys[t * d + i];
      scores.push_back(s);
    }
  const double most = scores.empty() ? 0 : *std::max_element(scores.begin(), scores.end());
  double total = 0;
  for (double& s : scores) total += s = std::exp(s - most);
  size_t key = 0;
  for (const DecodePage& p : list)
    for (int64_t t = 0; t < p.tokens; ++t, ++key)
      for (int64_t i = 0; i < d; ++i) out[i] += scores[key] / total * p.values[t * d + i], largest = std::max(largest, std::abs(p.values[t * d + i]));
  return out;
}

// A case's arrays and its call.
template <class T, template <class> class Array>
struct DecodeRun {
  Array<uint8_t> bytes;
  Array<KvPageCuda> pages;
  Array<int32_t> counts;
  Array<T> q, out;
  AttentionDecodeCuda<T> call;
  Array<float> scratch;

  DecodeRun(const DecodeCase& c, const std::vector<T>& queries, int64_t q_stride)
      : bytes(all_bytes(c)), pages(all_pages(c, bytes.data())), counts(all_counts(c)), q(queries), out(queries), call(call_of(c, q_stride)),
        scratch(std::vector<float>(attention_decode_scratch(call), NAN)) {
    call.q = q.data(), call.out = out.data(), call.pages = pages.data(), call.page_counts = counts.data(), call.scratch = scratch.data();
  }

  static int64_t most_pages(const DecodeCase& c) {
    size_t most = 0;
    for (const auto& list : c.lists) most = std::max(most, list.size());
    return static_cast<int64_t>(most);
  }
  static std::vector<uint8_t> all_bytes(const DecodeCase& c) {
    std::vector<uint8_t> out;
    for (const auto& list : c.lists)
      for (const DecodePage& p : list) out.insert(out.end(), p.bytes.begin(), p.bytes.end());
    return out;
  }
  static std::vector<KvPageCuda> all_pages(const DecodeCase& c, const uint8_t* data) {
    std::vector<KvPageCuda> out;
    for (const auto& list : c.lists) {
      for (const DecodePage& p : list) {
        out.push_back({p.bytes.empty() ? nullptr : data, p.tokens, static_cast<uint8_t>(p.key_bits), static_cast<uint8_t>(p.value_bits)});
        data += p.bytes.size();
      }
      out.resize(out.size() + most_pages(c) - list.size());
    }
    return out;
  }
  static std::vector<int32_t> all_counts(const DecodeCase& c) {
    std::vector<int32_t> out;
    for (const auto& list : c.lists) out.push_back(static_cast<int32_t>(list.size()));
    return out;
  }
  static AttentionDecodeCuda<T> call_of(const DecodeCase& c, int64_t q_stride) {
    AttentionDecodeCuda<T> a;
    a.format = c.format, a.sequences = c.sequences, a.kv_heads = c.kv_heads, a.group = c.group, a.q_stride = a.out_stride = q_stride;
    a.scale = 1 / std::sqrt(static_cast<float>(c.format.head_dim)), a.page_stride = a.most_pages = most_pages(c), a.split_pages = c.split_pages;
    return a;
  }
};

// What differs from the definition by more than `tolerance` of the largest value, or nothing.
template <class T, template <class> class Array>
std::string attention_decode_cuda_mismatch(const DecodeCase& c, uint64_t seed, double tolerance, const DecodeNumbers<T>& n) {
  Draws draws(seed, Stream::kTest, 94);
  const int64_t d = c.format.head_dim, heads = c.kv_heads * c.group, stride = heads * d + 3;
  std::vector<T> q(c.sequences * stride);
  for (T& x : q) x = n.of(2 * draws.normal());
  const int64_t spoilt = draws.below(3) == 0 ? int64_t{draws.below(static_cast<uint32_t>(heads))} : -1;   // a query of the first sequence
  if (spoilt >= 0) q[spoilt * d + draws.below(static_cast<uint32_t>(d))] = n.of(NAN);
  DecodeRun<T, Array> run(c, q, stride);
  if (attention_decode_cuda(run.call, nullptr) != cudaSuccess) return "a launch failed";
  const std::vector<T> out = run.out.host();
  for (int64_t s = 0; s < c.sequences; ++s)
    for (int64_t h = 0; h < heads; ++h) {
      std::vector<double> query(d);
      for (int64_t i = 0; i < d; ++i) query[i] = n.value(q[s * stride + h * d + i]) * run.call.scale;
      double largest = 0;
      const auto& list = c.lists[s * c.kv_heads + h / c.group];
      const std::vector<double> expected = decode_by_definition(query, list, largest);
      for (int64_t i = 0; i < d; ++i) {
        const double got = n.value(out[s * stride + h * d + i]);
        const bool good = s == 0 && h == spoilt && !list.empty() ? std::isnan(got) : std::abs(got - expected[i]) <= tolerance * largest;
        if (good) continue;
        return "sequence " + std::to_string(s) + ", head " + std::to_string(h) + ", number " + std::to_string(i) + ": " + std::to_string(got) +
               " instead of " + std::to_string(expected[i]);
      }
    }
  return "";
}

}  // namespace trimtab
