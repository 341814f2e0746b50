// The exact optimum against enumeration, heuristics within their budget and in their order, and table files good and bad.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <limits>

#include "core/error.h"
#include "core/random.h"
#include "core/safetensors.h"
#include "core/test_support.h"
#include "domain/kv_precision/allocation.h"
#include "domain/kv_precision/nsga2.h"
#include "domain/kv_precision/sensitivity.h"

namespace trimtab {
namespace {

KvSensitivity random_table(Draws& draws, int64_t layers) {
  KvSensitivity t;
  t.layers = layers, t.kv_heads = 2, t.head_dim = 64, t.page_tokens = 32, t.per_head = draws.below(2) == 0;
  t.pairs = {{8, 8}, {8, 4}, {4, 4}, {4, 2}, {2, 2}};
  for (const KvBits b : t.pairs) t.page_bytes.push_back(kv_layout({64, 32}, {}, b).bytes);
  for (int64_t u = 0; u < t.units(); ++u) {
    double kl = 1e-4 * draws.exponential();
    t.kl.emplace_back();
    for (size_t p = 0; p < t.pairs.size(); ++p, kl *= 1 + 9 * draws.uniform()) t.kl.back().push_back(kl);
  }
  return t;
}

// All allocations, one by one.
double least_kl(const KvSensitivity& t, int64_t budget) {
  double best = std::numeric_limits<double>::infinity();
  KvAllocation a(t.units(), 0);
  while (true) {
    if (allocation_bytes(t, a) <= budget) best = std::min(best, surrogate_kl(t, a));
    size_t i = 0;
    while (i < a.size() && ++a[i] == static_cast<int>(t.pairs.size())) a[i++] = 0;
    if (i == a.size()) return best;
  }
}

TEST(KvAllocation, TheOptimumIsThatOfEnumeration) {
  for (uint32_t round = 0; round < 40; ++round) {
    Draws draws(test_seed(), Stream::kTest, round);
    const KvSensitivity t = random_table(draws, 1 + draws.below(3));
    const int64_t low = least_bytes(t), high = allocation_bytes(t, uniform_allocation(t, 0));
    const int64_t budget = low + static_cast<int64_t>(draws.uniform() * static_cast<float>(high - low));
    const KvAllocation best = best_allocation(t, budget);
    EXPECT_LE(allocation_bytes(t, best), budget);
    EXPECT_NEAR(surrogate_kl(t, best), least_kl(t, budget), 1e-12) << round;
  }
}

TEST(KvAllocation, Nsga2ComesNearTheOptimumWithinTheBudget) {
  for (uint32_t round = 0; round < 10; ++round) {
    Draws draws(test_seed(), Stream::kTest, round, 7);
    const KvSensitivity t = random_table(draws, 2 + draws.below(4));
    const int64_t budget = t.bytes_at(draws.uniform(3.2f, 8.0f));
    const KvAllocation found = nsga2_allocation(t, budget, 2000, test_seed() + round), best = best_allocation(t, budget);
    EXPECT_LE(allocation_bytes(t, found), budget);
    EXPECT_GE(surrogate_kl(t, found), surrogate_kl(t, best) - 1e-15);
    EXPECT_LE(surrogate_kl(t, found), 1.5 * surrogate_kl(t, best));
    EXPECT_LE(relaxed_kl(t, budget), surrogate_kl(t, best) + 1e-15);
    EXPECT_EQ(found, nsga2_allocation(t, budget, 2000, test_seed() + round));
  }
  Draws draws(test_seed(), Stream::kTest, 0, 8);
  EXPECT_THROW(nsga2_allocation(random_table(draws, 3), 1, 10, 1), ConfigError);
}

TEST(KvAllocation, HeuristicsKeepTheBudgetAndUseIt) {
  for (uint32_t round = 0; round < 40; ++round) {
    Draws draws(test_seed(), Stream::kTest, round, 1);
    const KvSensitivity t = random_table(draws, 2 + draws.below(10));
    const int64_t budget = t.bytes_at(draws.uniform(3.2f, 8.0f));
    const double optimum = surrogate_kl(t, best_allocation(t, budget));
    for (const std::string& name : heuristic_names()) {
      const KvAllocation a = heuristic_allocation(t, name, budget, round);
      EXPECT_LE(allocation_bytes(t, a), budget) << name;
      EXPECT_GT(allocation_bytes(t, a), budget - t.unit_bytes(0)) << name;
      EXPECT_GE(surrogate_kl(t, a), optimum - 1e-12) << name;
    }
    const KvAllocation first = heuristic_allocation(t, "first_layers", budget, 0), last = heuristic_allocation(t, "last_layers", budget, 0);
    EXPECT_TRUE(std::equal(first.begin(), first.end(), last.rbegin()));
  }
}

TEST(KvAllocation, ThePriceMeetsTheBudget) {
  Draws draws(test_seed(), Stream::kTest, 3);
  const KvSensitivity t = random_table(draws, 12);
  EXPECT_EQ(byte_price(t, 0, t.bytes_at(20)), 0);
  double last = 0;
  for (const double bits : {8.0, 6.0, 5.0, 4.0, 3.6}) {
    const double price = byte_price(t, 0, t.bytes_at(bits));
    EXPECT_GE(price, last);
    last = price;
  }
  EXPECT_GT(last, 0);
}

TEST(KvAllocation, ABudgetThatCannotBeMetIsAConfigError) {
  Draws draws(test_seed(), Stream::kTest, 4);
  const KvSensitivity t = random_table(draws, 4);
  EXPECT_THROW(best_allocation(t, least_bytes(t) - 1), ConfigError);
  EXPECT_THROW(heuristic_allocation(t, "random", least_bytes(t) - 1, 0), ConfigError);
  EXPECT_NO_THROW(best_allocation(t, least_bytes(t)));
}

class SensitivityFile : public testing::Test {
 protected:
  std::filesystem::path file_ = std::filesystem::temp_directory_path() / fmt::format("kv_table_{}.safetensors", getpid());
  void TearDown() override { std::filesystem::remove(file_); }
};

TEST_F(SensitivityFile, ComesBackAsItWas) {
  Draws draws(test_seed(), Stream::kTest, 5);
  KvSensitivity t = random_table(draws, 3);
  t.measured["text"] = "a";
  write_sensitivity(t, file_);
  const KvSensitivity back = read_sensitivity(file_);
  EXPECT_EQ(back.pairs, t.pairs);
  EXPECT_EQ(back.page_bytes, t.page_bytes);
  EXPECT_EQ(back.per_head, t.per_head);
  EXPECT_EQ(back.measured.at("text"), "a");
  for (int64_t u = 0; u < t.units(); ++u)
    for (size_t p = 0; p < t.pairs.size(); ++p) EXPECT_EQ(back.kl[u][p], static_cast<float>(t.kl[u][p]));
}

TEST_F(SensitivityFile, FaultsAreNamed) {
  Draws draws(test_seed(), Stream::kTest, 6);
  KvSensitivity t = random_table(draws, 3);
  write_sensitivity(t, file_);
  const TensorFile good = read_safetensors(file_);
  const auto refused = [&](auto change) {
    TensorFile bad = good;
    change(bad);
    write_safetensors(file_, bad);
    try {
      read_sensitivity(file_);
    } catch (const DataError& e) {
      return std::string(e.what()).find(file_.string()) == 0;
    }
    return false;
  };
  EXPECT_TRUE(refused([](TensorFile& f) { f.metadata["layers"] = "0"; }));
  EXPECT_TRUE(refused([](TensorFile& f) { f.metadata["layers"] = "7"; }));
  EXPECT_TRUE(refused([](TensorFile& f) { f.metadata.erase("head_dim"); }));
  EXPECT_TRUE(refused([](TensorFile& f) { f.tensors.erase("kl"); }));
  EXPECT_TRUE(refused([](TensorFile& f) { f.tensors["key_bits"].bytes[0] = 3; }));
  EXPECT_TRUE(refused([](TensorFile& f) { f.tensors["key_bits"] = f.tensors["page_bytes"]; }));
  EXPECT_TRUE(refused([](TensorFile& f) { f.tensors["kl"].bytes[3] = 0xff; }));   // negative or NaN
}

}  // namespace
}  // namespace trimtab
