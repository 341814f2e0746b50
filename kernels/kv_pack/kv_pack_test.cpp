// Packing against the quantiser's definition, read back from the bytes by the layout's text, on inputs that real caches have and
// worse: outlier channels, sink tokens, equal rows, denormal numbers, ranges that f16 rounds.
#include "kernels/kv_pack/kv_pack.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/half.h"
#include "core/test_support.h"
#include "kernels/kv_pack/kv_pack_cases.h"

namespace trimtab {
namespace {

double half_at(const uint8_t* page, int64_t at, int64_t index) { return half_to_float(reinterpret_cast<const uint16_t*>(page + at)[index]); }

// The code of number `along` of the axis summed over, at `at` of the other (kv_format.h), from the bytes.
int code_at(const uint8_t* codes, int bits, int64_t across, int64_t along, int64_t at) {
  const int64_t per = 8 / bits, quad = along / 4, byte = (quad / per * across + at) * 4 + along % 4;
  return codes[byte] >> (quad % per * bits) & ((1 << bits) - 1);
}

struct Expected {
  double value, scale;   // x', and the step it was rounded to
};

Expected key_at(const PackCase& c, const KvLayout& l, int64_t t, int64_t i) {
  if (c.bits.key == 16) return {half_at(c.page.data(), l.key.codes, t * c.shape.head_dim + i), 0};
  const int64_t group = c.quantiser.key_groups == KeyGroups::kChannel ? i : t;
  const double s = half_at(c.page.data(), l.key.scale, group), offset = 1 << (c.bits.key - 1);
  const double m = c.quantiser.symmetric ? -s * offset : half_at(c.page.data(), l.key.zero, group);
  const double norm = c.quantiser.key_norm ? half_at(c.page.data(), l.key.norm, t) : 1;
  return {(s * code_at(c.page.data() + l.key.codes, c.bits.key, c.shape.tokens, i, t) + m) * norm, s * norm};
}
Expected value_at(const PackCase& c, const KvLayout& l, int64_t t, int64_t i) {
  if (c.bits.value == 16) return {half_at(c.page.data(), l.value.codes, t * c.shape.head_dim + i), 0};
  const int64_t group = i / value_group_of(c.shape, c.quantiser) * c.shape.tokens + t;
  const double s = half_at(c.page.data(), l.value.scale, group), offset = 1 << (c.bits.value - 1);
  const double m = c.quantiser.symmetric ? -s * offset : half_at(c.page.data(), l.value.zero, group);
  const double scale = c.quantiser.value_channel_scale ? half_at(c.page.data(), l.value.channel, i) : 1;
  return {(s * code_at(c.page.data() + l.value.codes, c.bits.value, c.shape.head_dim, t, i) + m) * scale, s * scale};
}

// x' is x to half a step; f32 adds the rounding of the group's largest number.
void expect_near(double x, const Expected& e, double largest, const char* what, uint32_t round) {
  const double f16 = e.scale == 0 ? 0x1p-11 * std::abs(x) : 0;
  EXPECT_NEAR(e.value, x, 0.5 * e.scale + f16 + 0x1p-20 * largest + 0x1p-23) << what << ", round " << round;
}

TEST(KvPack, EqualsItsDefinitionReadFromTheBytes) {
  for (uint32_t round = 0; round < 400; ++round) {
    Draws draws(test_seed(), Stream::kTest, round);
    PackCase c = random_pack_case(draws);
    const KvLayout l = kv_layout(c.shape, c.quantiser, c.bits);
    const KvPackResult result = c.pack();
    ASSERT_EQ(result.bad_token, -1);
    std::vector<float> keys(c.keys.size()), values(c.values.size());
    kv_unpack({c.shape, c.quantiser, c.bits, c.page.data(), keys.data(), values.data(), c.shape.head_dim});
    double lost[2] = {}, size[2] = {};
    for (int64_t t = 0; t < c.shape.tokens; ++t)
      for (int64_t i = 0; i < c.shape.head_dim; ++i) {
        const int64_t at = t * c.shape.head_dim + i;
        const Expected key = key_at(c, l, t, i), value = value_at(c, l, t, i);
        ASSERT_NEAR(keys[at], key.value, 1e-6 * std::abs(key.value) + 1e-6 * c.largest_key) << "round " << round;
        ASSERT_NEAR(values[at], value.value, 1e-6 * std::abs(value.value) + 1e-6 * c.largest_value) << "round " << round;
        expect_near(c.keys[at], key, c.largest_key, "key", round);
        expect_near(c.values[at], value, c.largest_value, "value", round);
        lost[0] += std::pow(keys[at] - c.keys[at], 2), size[0] += std::pow(c.keys[at], 2);
        lost[1] += std::pow(values[at] - c.values[at], 2), size[1] += std::pow(c.values[at], 2);
      }
    const double key_error = c.bits.key == 16 ? 0 : std::sqrt(lost[0] / size[0]), value_error = c.bits.value == 16 ? 0 : std::sqrt(lost[1] / size[1]);
    EXPECT_NEAR(result.key_error, key_error, 1e-4 + 1e-3 * key_error);
    EXPECT_NEAR(result.value_error, value_error, 1e-4 + 1e-3 * value_error);
    if (HasFailure()) return;
  }
}

TEST(KvPack, NumbersThatCannotBeStoredAreNamed) {
  Draws draws(test_seed(), Stream::kTest, 7);
  for (const float bad : {NAN, INFINITY, -INFINITY, 65505.0f, -1e30f})
    for (const bool value : {false, true}) {
      PackCase c = random_pack_case(draws);
      const int64_t at = static_cast<int64_t>(draws.below(static_cast<uint32_t>(c.keys.size())));
      (value ? c.values : c.keys)[at] = bad;
      const KvPackResult r = c.pack();
      EXPECT_EQ(r.bad_token, at / c.shape.head_dim);
      EXPECT_EQ(r.bad_channel, at % c.shape.head_dim);
      EXPECT_EQ(r.bad_value, value);
    }
}

TEST(KvPack, AppendedTokensEqualAPackedPageAt16Bits) {
  Draws draws(test_seed(), Stream::kTest, 8);
  PackCase c = random_pack_case(draws);
  c.bits = {16, 16}, c.page.assign(kv_layout(c.shape, c.quantiser, c.bits).bytes, 0);
  c.pack();
  std::vector<uint8_t> page(c.page.size());
  for (int64_t t = 0; t < c.shape.tokens; ++t)
    ASSERT_TRUE(kv_append(c.shape, t, c.keys.data() + t * c.shape.head_dim, c.values.data() + t * c.shape.head_dim, page.data()));
  EXPECT_EQ(page, c.page);
  std::vector<float> bad(c.shape.head_dim, NAN);
  EXPECT_FALSE(kv_append(c.shape, 0, bad.data(), c.values.data(), page.data()));
  EXPECT_EQ(page, c.page);
}

TEST(KvPack, FaultsSayWhatToChange) {
  const auto fault = [](int64_t d, int64_t tokens, KvQuantiser q, KvBits bits) { return kv_format_fault({d, tokens}, q, bits); };
  EXPECT_EQ(fault(64, 32, {}, {4, 2}), "");
  EXPECT_EQ(fault(64, 32, {}, {0, 0}), "");
  EXPECT_NE(fault(24, 32, {}, {4, 4}), "");
  EXPECT_NE(fault(64, 24, {}, {4, 4}), "");
  EXPECT_NE(fault(64, 32, {.value_group = 48}, {4, 4}), "");
  EXPECT_NE(fault(64, 32, {}, {4, 0}), "");
  EXPECT_NE(fault(64, 32, {}, {3, 4}), "");
  EXPECT_NE(fault(64, 32, {.key_groups = KeyGroups::kToken, .key_norm = true}, {4, 4}), "");
}

TEST(KvPack, BytesCountScales) {
  EXPECT_EQ(kv_layout({128, 64}, {}, {16, 16}).bytes, 64 * 128 * 4);
  EXPECT_EQ(kv_layout({128, 64}, {}, {4, 4}).bytes, 64 * 128 + 128 * 4 + 64 * 4);                                     // 4.375 bits
  EXPECT_EQ(kv_layout({128, 64}, {.value_group = 64}, {2, 2}).bytes, 64 * 128 / 2 + 128 * 4 + 64 * 8);
  EXPECT_EQ(kv_layout({128, 64}, {.key_groups = KeyGroups::kToken, .symmetric = true}, {8, 8}).bytes, 64 * 256 + 64 * 4);
  EXPECT_EQ(kv_layout({128, 64}, {}, {0, 0}).bytes, 0);
}

}  // namespace
}  // namespace trimtab
