// Packing by CUDA on the host's grid gives the CPU's bytes.
#define TRIMTAB_HOST_GRID
#include "kernels/kv_pack/kv_pack_cuda.cu"   // NOLINT

#include <gtest/gtest.h>

#include "core/test_support.h"
#include "kernels/kv_pack/kv_pack_cases.h"
#include "kernels/kv_pack/kv_pack_cuda_cases.h"

namespace trimtab {
namespace {

KvShape shape_of(const KvFormatCuda& f) { return {f.head_dim, f.tokens}; }
KvQuantiser quantiser_of(const KvFormatCuda& f) {
  return {f.keys_by_token ? KeyGroups::kToken : KeyGroups::kChannel, f.value_group, f.symmetric, f.key_norm, f.value_channel_scale};
}
KvBits bits_of(const PackCudaCase& c) { return {static_cast<uint8_t>(c.key_bits), static_cast<uint8_t>(c.value_bits)}; }

std::vector<uint8_t> pack_by_cpu(const PackCudaCase& c, KvPackResult& result) {
  const KvShape shape = shape_of(c.format);
  std::vector<uint8_t> page(kv_layout(shape, quantiser_of(c.format), bits_of(c)).bytes);
  result = kv_pack({shape, quantiser_of(c.format), bits_of(c), c.keys.data(), c.values.data(), shape.head_dim, page.data()});
  return page;
}

void alternate_order(uint32_t i) { host_grid::order() = i % 2 ? host_grid::Order::kAscending : host_grid::Order::kDescending; }

void expect_same(const PackedByCuda& cuda, const std::vector<uint8_t>& page, const KvPackResult& result, uint32_t i) {
  ASSERT_EQ(cuda.status, cudaSuccess);
  EXPECT_EQ(cuda.page, page) << "case " << i;
  EXPECT_EQ(cuda.result.bad_token, -1);
  EXPECT_NEAR(cuda.result.key_error, result.key_error, 1e-6 * result.key_error);
  EXPECT_NEAR(cuda.result.value_error, result.value_error, 1e-6 * result.value_error);
}

TEST(KvPackCuda, GivesTheCpusBytes) {
  uint64_t all = kEmptyDigest;
  for (uint32_t i = 0; i < kPackCases; ++i) {
    alternate_order(i);
    const PackCudaCase c = pack_cuda_case(i);
    KvPackResult result;
    const std::vector<uint8_t> page = pack_by_cpu(c, result);
    expect_same(pack_by_cuda<float, HostArray>(c, c.keys, c.values), page, result, i);
    all = digest(page, all);
  }
  EXPECT_EQ(all, kPackDigest) << "the CPU's bytes have changed: the GPU test needs the new digest";
}

TEST(KvPackCuda, GivesTheCpusBytesOfHostileInputs) {
  for (uint32_t i = 0; i < 60; ++i) {
    alternate_order(i);
    Draws draws(test_seed(), Stream::kTest, i);
    PackCase c = random_pack_case(draws);
    const KvPackResult result = c.pack();
    const PackCudaCase same{kv_format_cuda(c.shape, c.quantiser), c.bits.key, c.bits.value, {}, {}};
    expect_same(pack_by_cuda<float, HostArray>(same, c.keys, c.values), c.page, result, i);
  }
}

template <class T>
void expect_rows_of() {
  for (uint32_t i = 0; i < 12; ++i) {
    PackCudaCase c = pack_cuda_case(i);
    std::vector<T> keys, values;
    for (float& x : c.keys) keys.push_back(rounded<T>(x)), x = to_float(keys.back());
    for (float& x : c.values) values.push_back(rounded<T>(x)), x = to_float(values.back());
    KvPackResult result;
    const std::vector<uint8_t> page = pack_by_cpu(c, result);
    expect_same(pack_by_cuda<T, HostArray>(c, keys, values), page, result, i);
  }
}

TEST(KvPackCuda, RowsOf16BitsArePackedAsTheFloatsTheyAre) {
  expect_rows_of<Float16>();
  expect_rows_of<Bfloat16>();
}

TEST(KvPackCuda, NumbersThatCannotBeStoredAreNamed) {
  Draws draws(test_seed(), Stream::kTest, 99);
  for (const float bad : {NAN, INFINITY, -INFINITY, 65505.0f, -1e30f})
    for (const bool value : {false, true}) {
      PackCudaCase c = pack_cuda_case(draws.below(kPackCases));
      const auto at = static_cast<int32_t>(draws.below(static_cast<uint32_t>(c.keys.size())));
      (value ? c.values : c.keys)[at] = bad;
      if (!value) c.values[0] = NAN;   // a key before any value
      const KvPackResultCuda r = pack_by_cuda<float, HostArray>(c, c.keys, c.values).result;
      EXPECT_EQ(r.bad_token, at / c.format.head_dim);
      EXPECT_EQ(r.bad_channel, at % c.format.head_dim);
      EXPECT_EQ(r.bad_value, value);
    }
}

TEST(KvPackCuda, PlacesAreTheLayouts) {
  const uint8_t widths[] = {16, 8, 4, 2};
  for (uint32_t i = 0; i < 200; ++i) {
    Draws draws(test_seed(), Stream::kTest, i, 1);
    const KvShape shape = random_kv_shape(draws);
    const KvQuantiser q = random_quantiser(shape, draws);
    for (const uint8_t key : widths)
      for (const uint8_t value : widths) {
        const KvLayout layout = kv_layout(shape, q, {key, value});
        const KvPlaces places = kv_places(kv_format_cuda(shape, q), key, value);
        const auto same = [](const KvPart& part, const KvPartPlaces& at, int64_t extra) {
          const auto equal = [](int64_t expected, int place) { return expected < 0 || place == expected; };
          return at.codes == part.codes && equal(part.scale, at.scale) && equal(part.zero, at.zero) && equal(extra, at.extra);
        };
        ASSERT_TRUE(same(layout.key, places.key, layout.key.norm) && same(layout.value, places.value, layout.value.channel) && layout.bytes == places.bytes);
        ASSERT_TRUE(valid(kv_format_cuda(shape, q), 512, 256));
      }
  }
}

TEST(KvPackCuda, RefusesFormatsThatDoNotExist) {
  KvPackCuda<float> a;
  const KvFormatCuda formats[] = {{24, 32}, {528, 32}, {64, 24}, {64, 32, 48}, {64, 32, 0, true, false, true}};
  for (const KvFormatCuda& f : formats) {
    a.format = f;
    EXPECT_EQ(kv_pack_cuda(a, nullptr), cudaErrorInvalidValue);
  }
}

}  // namespace
}  // namespace trimtab
