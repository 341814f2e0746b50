// The CUDA kernel on the host's grid: the same source, its fragments, masks, copies and barriers, against the definition and the CPU.
#define TRIMTAB_HOST_GRID
#include "kernels/attention_decode/attention_decode_cuda.cu"   // NOLINT

#include <gtest/gtest.h>

#include "core/test_support.h"
#include "kernels/attention_decode/attention_decode.h"
#include "kernels/attention_decode/attention_decode_cuda_cases.h"
#include "kernels/kv_pack/kv_pack_cases.h"

namespace trimtab {
namespace {

template <class T>
double value_of(T x) {
  return to_float(x);
}
template <class T>
constexpr DecodeNumbers<T> kNumbers{rounded<T>, value_of<T>, rounded<Float16>, value_of<Float16>};

void alternate_order(uint32_t i) { host_grid::order() = i % 2 ? host_grid::Order::kAscending : host_grid::Order::kDescending; }

std::string text(const DecodeCase& c) {
  const KvFormatCuda& f = c.format;
  std::string out = std::to_string(c.lists.size()) + " lists, group " + std::to_string(c.group) + ", splits of " + std::to_string(c.split_pages) + ", heads of " +
                    std::to_string(f.head_dim) + ", pages of " + std::to_string(f.tokens) + ", value groups of " + std::to_string(f.value_group) +
                    (f.keys_by_token ? ", by token" : "") + (f.symmetric ? ", symmetric" : "") + (f.key_norm ? ", norms" : "") +
                    (f.value_channel_scale ? ", channel scales" : "") + ":";
  for (const auto& list : c.lists) {
    for (const DecodePage& p : list) out += " " + std::to_string(p.key_bits) + "/" + std::to_string(p.value_bits) + "x" + std::to_string(p.tokens);
    out += ";";
  }
  return out;
}

template <class T>
void expect_definition(uint32_t first, uint32_t cases, double tolerance) {
  for (uint32_t i = first; i < first + cases; ++i) {
    alternate_order(i);
    const DecodeCase c = random_decode_case<T>(test_seed(), i, kNumbers<T>);
    EXPECT_EQ((attention_decode_cuda_mismatch<T, HostArray>(c, test_seed() + i, tolerance, kNumbers<T>)), "") << "case " << i << ": " << text(c);
  }
}

TEST(AttentionDecodeCuda, EqualsItsDefinitionOnTheHostsGrid) {
  expect_definition<float>(0, 40, 2e-3);
  expect_definition<Float16>(40, 10, 3e-3);
  expect_definition<Bfloat16>(50, 10, 8e-3);
}

// Rows of f16 alone are as good as f32.
TEST(AttentionDecodeCuda, SixteenBitsAreExactToRounding) {
  for (uint32_t i = 0; i < 8; ++i) {
    alternate_order(i);
    DecodeCase c = random_decode_case<float>(test_seed(), i, kNumbers<float>);
    Draws draws(test_seed(), Stream::kTest, i, 95);
    PageMaker<float> maker(c.format, kNumbers<float>, draws);
    for (auto& list : c.lists) list = {maker.rows(c.format.tokens), maker.rows(1 + static_cast<int>(draws.below(c.format.tokens)))};
    EXPECT_EQ((attention_decode_cuda_mismatch<float, HostArray>(c, test_seed() + i, 5e-6, kNumbers<float>)), "") << "case " << i << ": " << text(c);
  }
}

// What a sequence gets depends neither on the others of the batch nor on how much room their lists have.
TEST(AttentionDecodeCuda, ASequenceAloneGetsTheSame) {
  for (uint32_t i = 0; i < 4; ++i) {
    DecodeCase c = random_decode_case<float>(test_seed(), i, kNumbers<float>);
    c.lists.resize(c.kv_heads), c.sequences = 1;
    DecodeCase both = c;
    both.sequences = 2;
    const std::vector<DecodePage> longer(19, c.lists[0].empty() ? DecodePage{0, 0, 0, {}, {}, {}} : c.lists[0][0]);
    for (int64_t h = 0; h < c.kv_heads; ++h) both.lists.push_back(longer);
    const int64_t width = c.kv_heads * c.group * c.format.head_dim;
    Draws draws(test_seed(), Stream::kTest, i, 96);
    std::vector<float> q(2 * width);
    for (float& x : q) x = draws.normal();
    DecodeRun<float, HostArray> alone(c, {q.begin(), q.begin() + width}, width), together(both, q, width);
    ASSERT_EQ(attention_decode_cuda(alone.call, nullptr), cudaSuccess);
    ASSERT_EQ(attention_decode_cuda(together.call, nullptr), cudaSuccess);
    std::vector<float> out = together.out.host();
    out.resize(width);
    EXPECT_EQ(alone.out.host(), out) << text(c);
  }
}

// Pages that the CPU packed, of inputs that are hard to quantise, give what the CPU's kernel gives.
TEST(AttentionDecodeCuda, EqualsTheCpu) {
  for (uint32_t round = 0; round < 24; ++round) {
    alternate_order(round);
    Draws draws(test_seed(), Stream::kTest, round, 97);
    const KvShape shape = random_kv_shape(draws);
    const KvQuantiser quantiser = random_quantiser(shape, draws);
    const int64_t n = 1 + draws.below(5), group = 1 + draws.below(8), d = shape.head_dim;
    std::vector<std::vector<uint8_t>> bytes(n);
    std::vector<KvPage> pages;
    std::vector<KvPageCuda> list;
    double largest = 0;
    for (int64_t p = 0; p < n; ++p) {
      PackCase c = random_pack_case(draws, shape, quantiser);
      for (float& x : c.keys) x /= std::max(1.0f, c.largest_key / 4);
      c.pack();
      largest = std::max(largest, double{c.largest_value}), bytes[p] = c.page;
      pages.push_back({bytes[p].data(), c.bits, static_cast<int32_t>(shape.tokens), 0});
      list.push_back({bytes[p].data(), pages[p].tokens, c.bits.key, c.bits.value});
    }
    std::vector<float> q(group * d), expected(group * d), out(group * d);
    for (float& x : q) x = draws.normal() * 2 / std::sqrt(static_cast<float>(d));
    std::vector<const float*> queries;
    std::vector<AttentionState> states(group);
    for (int64_t g = 0; g < group; ++g) queries.push_back(q.data() + g * d), states[g].out = expected.data() + g * d;
    begin_attention(states, d), attention_decode({shape, quantiser, pages, queries, states}), finish_attention(states, d);

    const int32_t count = static_cast<int32_t>(n);
    AttentionDecodeCuda<float> a;
    a.format = kv_format_cuda(shape, quantiser), a.sequences = 1, a.group = group, a.q = q.data(), a.q_stride = a.out_stride = group * d;
    a.pages = list.data(), a.page_stride = a.most_pages = n, a.page_counts = &count, a.split_pages = 1 + draws.below(3), a.out = out.data();
    std::vector<float> scratch(attention_decode_scratch(a), NAN);
    a.scratch = scratch.data();
    ASSERT_EQ(attention_decode_cuda(a, nullptr), cudaSuccess);
    for (int64_t i = 0; i < group * d; ++i) ASSERT_NEAR(out[i], expected[i], 2e-3 * largest) << "round " << round;
  }
}

TEST(AttentionDecodeCuda, RefusesWhatItCannotRead) {
  AttentionDecodeCuda<float> good;
  good.format = {64, 64};
  EXPECT_EQ(attention_decode_cuda(good, nullptr), cudaSuccess);   // of no sequences
  const auto refused = [&](const auto& change) {
    AttentionDecodeCuda<float> a = good;
    change(a);
    return attention_decode_cuda(a, nullptr) == cudaErrorInvalidValue;
  };
  EXPECT_TRUE(refused([](auto& a) { a.format.head_dim = 272; }));
  EXPECT_TRUE(refused([](auto& a) { a.format.head_dim = 24; }));
  EXPECT_TRUE(refused([](auto& a) { a.format.tokens = 80; }));
  EXPECT_TRUE(refused([](auto& a) { a.format.value_group = 48; }));
  EXPECT_TRUE(refused([](auto& a) { a.format.key_norm = a.format.keys_by_token = true; }));
  EXPECT_TRUE(refused([](auto& a) { a.split_pages = 65; }));
  EXPECT_TRUE(refused([](auto& a) { a.split_pages = 0; }));
  EXPECT_TRUE(refused([](auto& a) { a.group = 0; }));
}

}  // namespace
}  // namespace trimtab
