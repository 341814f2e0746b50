// Verification against its definition in double, and the law of what comes out against the target's by chi-square.
#include "kernels/speculative_verify/speculative_verify.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "core/error.h"
#include "core/random.h"
#include "core/test_support.h"
#include "kernels/speculative_verify/speculative_verify_cases.h"
#include "kernels/test_support.h"

namespace trimtab {
namespace {

struct CpuVerify {
  template <class Batch>
  bool operator()(const Batch& batch) const {
    bool sound = true;
    const bool told = speculative_verify(batch);
    for (int64_t b = 0; b < batch.num_sequences; ++b) sound &= batch.verdict[b].fault == SpeculativeFault::kNone;
    EXPECT_EQ(told, sound);
    return true;
  }
};

TEST(SpeculativeVerify, EqualsItsDefinition) {
  Compared compared{.close = 2e-6};
  for (int64_t vocab = 1; vocab <= 70; ++vocab) {
    Draws draws(test_seed(), Stream::kTest, static_cast<uint32_t>(vocab));
    const ChainCase chains = random_chains(vocab, 100, draws);
    const TreeCase trees = random_trees(vocab, 100, draws);
    EXPECT_EQ(definition_mismatch<PlainArray>(chains, CpuVerify{}, compared), "");
    EXPECT_EQ(definition_mismatch<PlainArray>(trees, CpuVerify{}, compared), "");
    EXPECT_EQ(split_mismatch<PlainArray>(chains, CpuVerify{}), "");
    EXPECT_EQ(split_mismatch<PlainArray>(trees, CpuVerify{}), "");
  }
  for (const int64_t vocab : {127, 1000, 32003}) {
    Draws draws(test_seed(), Stream::kTest, static_cast<uint32_t>(vocab));
    EXPECT_EQ(definition_mismatch<PlainArray>(random_chains(vocab, 20, draws), CpuVerify{}, compared), "");
    EXPECT_EQ(definition_mismatch<PlainArray>(random_trees(vocab, 20, draws), CpuVerify{}, compared), "");
  }
  EXPECT_LE(compared.skipped * 100, compared.all) << compared.all;
}

TEST(SpeculativeVerify, FaultsAreOfTheirSequence) {
  for (const int64_t vocab : {1, 2, 5, 64, 70, 1000}) EXPECT_EQ(hostile_mismatch<PlainArray>(vocab, CpuVerify{}), "");
  EXPECT_EQ(border_mismatch<PlainArray>(CpuVerify{}), "");
}

TEST(SpeculativeVerify, WrongShapesAreRefused) {
  SpeculativeChains chains;
  chains.vocab = chains.p_stride = 8;
  EXPECT_TRUE(speculative_verify(chains));   // of no sequences
  chains.num_sequences = 1;
  EXPECT_DEATH(speculative_verify(chains), "check failed");
  chains.num_sequences = 0, chains.p_stride = 7;
  EXPECT_DEATH(speculative_verify(chains), "check failed");
  SpeculativeTrees trees;
  EXPECT_DEATH(speculative_verify(trees), "check failed");
}

// Laws over kVocab tokens: the text's next token, and the one after it given the next.
constexpr int64_t kVocab = 6;
constexpr int32_t kRounds = 60000;

std::vector<float> law(Draws& draws, double power) {
  std::vector<double> w(kVocab);
  double sum = 0;
  for (double& x : w) sum += x = std::pow(0.05 + double{draws.exponential()}, power);
  std::vector<float> out(kVocab);
  for (int64_t j = 0; j < kVocab; ++j) out[j] = static_cast<float>(w[j] / sum);
  return out;
}

// Row 0: the law of the first token; row 1 + x: of the second one after x. Token 2 never comes first, nor token 4 after token 1.
struct Laws {
  std::vector<std::vector<float>> p, q;
};
Laws random_laws(uint32_t number) {
  Draws draws(test_seed(), Stream::kTest, number, 77);
  Laws laws;
  for (int64_t row = 0; row <= kVocab; ++row) {
    laws.p.push_back(law(draws, 1)), laws.q.push_back(law(draws, 0.7));
    const int64_t never = row == 0 ? 2 : row == 2 ? 4 : -1;
    if (never < 0) continue;
    const float rest = 1 - laws.p.back()[never];
    laws.p.back()[never] = 0;
    for (float& x : laws.p.back()) x /= rest;
  }
  return laws;
}

// Chi-square of counts against a law, whose bound is passed once in 3 million (Wilson and Hilferty). What the law lacks must not occur.
void expect_law(const std::vector<int64_t>& counts, const std::vector<double>& expected_law) {
  double total = 0, sum = 0, freedom = -1;
  for (const int64_t n : counts) total += static_cast<double>(n);
  for (size_t j = 0; j < counts.size(); ++j) {
    const double expected = total * expected_law[j];
    if (expected_law[j] <= 0) {
      EXPECT_EQ(counts[j], 0) << j;
      continue;
    }
    sum += std::pow(static_cast<double>(counts[j]) - expected, 2) / expected;
    freedom += 1;
  }
  const double spread = 2 / (9 * freedom);
  EXPECT_LT(sum, freedom * std::pow(1 - spread + 5 * std::sqrt(spread), 3)) << "of freedom " << freedom;
}

// Counts of the first token, and of pairs; a second token that a round did not come to is drawn by another.
class Pairs {
 public:
  explicit Pairs(const Laws& laws) : laws_(laws), first_(kVocab), both_(kVocab * kVocab) {}

  void add(int32_t first, int32_t second, Draws& draws) {
    if (second < 0) second = next_after(first, draws);
    ++first_[first], ++both_[first * kVocab + second];
  }
  void expect_laws() const {
    std::vector<double> first(kVocab), both(kVocab * kVocab);
    for (int64_t j = 0; j < kVocab; ++j) first[j] = double{laws_.p[0][j]};
    for (int64_t j = 0; j < kVocab * kVocab; ++j) both[j] = first[j / kVocab] * double{laws_.p[1 + j / kVocab][j % kVocab]};
    expect_law(first_, first);
    expect_law(both_, both);
  }

 private:
  int32_t next_after(int32_t first, Draws& draws) const {   // a chain of nothing
    ChainCase c;
    c.vocab = c.p_stride = kVocab, c.p = laws_.p[1 + first];
    c.first_p = c.first_q = {0}, c.num_drafted = {0}, c.final_uniform = {fine_uniform(draws)};
    return results_of<PlainArray>(c, CpuVerify{}).at(0).verdict.token;
  }

  const Laws& laws_;
  std::vector<int64_t> first_, both_;
};

// Two drafted tokens and the row behind them.
ChainCase drafted_chain(const Laws& laws, Draws& draws) {
  ChainCase c;
  c.vocab = c.p_stride = c.q_stride = kVocab;
  c.first_p = c.first_q = {0}, c.num_drafted = {2};
  put_row(c.p, laws.p[0], kVocab), put_row(c.q, laws.q[0], kVocab);
  for (int i = 0; i < 2; ++i) {
    const int64_t row = i == 0 ? 0 : 1 + c.drafted[0];
    c.drafted.push_back(drawn_from(laws.q[row], fine_uniform(draws)));
    put_row(c.p, laws.p[1 + c.drafted[i]], kVocab);
    if (i == 0) put_row(c.q, laws.q[1 + c.drafted[0]], kVocab);
    c.uniform.push_back(fine_uniform(draws));
  }
  c.final_uniform = {fine_uniform(draws)};
  return c;
}

void expect_chain_law(const Laws& laws, uint32_t number, void (*change)(ChainCase&)) {
  Pairs pairs(laws);
  for (int32_t round = 0; round < kRounds; ++round) {
    Draws draws(test_seed(), Stream::kTest, static_cast<uint32_t>(round), number, 78);
    ChainCase c = drafted_chain(laws, draws);
    change(c);
    const SpeculativeVerdict v = results_of<PlainArray>(c, CpuVerify{}).at(0).verdict;
    if (v.accepted == 0) pairs.add(v.token, -1, draws);
    else pairs.add(c.drafted[0], v.accepted == 1 ? v.token : c.drafted[1], draws);
  }
  pairs.expect_laws();
}

TEST(SpeculativeVerify, ChainsHaveTheTargetsLaw) {
  for (const uint32_t number : {1, 2}) expect_chain_law(random_laws(number), number, [](ChainCase&) {});
}

TEST(SpeculativeVerify, ChainsOfCertainDraftsHaveTheTargetsLaw) {
  expect_chain_law(random_laws(3), 3, [](ChainCase& c) { c.q.clear(); });   // whatever was drafted, and by what
}

// A root with three children, each with two; tokens of siblings from the law of their parent, or any three and two different ones.
TreeCase drafted_tree(const Laws& laws, SiblingDraws how, Draws& draws) {
  TreeCase c;
  c.vocab = c.p_stride = c.q_stride = kVocab, c.draws = how;
  c.first_node = {0}, c.num_nodes = {10};
  c.parent = {-1, 0, 0, 0, 1, 1, 2, 2, 3, 3};
  c.token.assign(10, -5);
  for (size_t row = 0; row < laws.p.size(); ++row) put_row(c.p, laws.p[row], kVocab), put_row(c.q, laws.q[row], kVocab);
  c.p_row.assign(10, 0), c.q_row.assign(10, 0);
  for (int32_t i = 0; i < 4; ++i) {
    if (i > 0) c.p_row[i] = c.q_row[i] = 1 + c.token[i];
    draw_children(c, 0, i, laws.q[c.q_row[i]], draws);
  }
  for (int32_t i = 4; i < 10; ++i) c.p_row[i] = 1 + c.token[i];
  for (int32_t i = 0; i < 10; ++i) c.uniform.push_back(fine_uniform(draws));
  c.final_uniform = {fine_uniform(draws)};
  return c;
}

void expect_tree_law(const Laws& laws, uint32_t number, SiblingDraws how, void (*change)(TreeCase&)) {
  Pairs pairs(laws);
  int64_t later_siblings = 0;
  for (int32_t round = 0; round < kRounds; ++round) {
    Draws draws(test_seed(), Stream::kTest, static_cast<uint32_t>(round), number, 79);
    TreeCase c = drafted_tree(laws, how, draws);
    change(c);
    const SpeculativeResult r = results_of<PlainArray>(c, CpuVerify{}).at(0);
    ASSERT_EQ(r.verdict.fault, SpeculativeFault::kNone);
    if (r.path.empty()) pairs.add(r.verdict.token, -1, draws);
    else pairs.add(c.token[r.path[0]], r.path.size() == 1 ? r.verdict.token : c.token[r.path[1]], draws);
    later_siblings += !r.path.empty() && r.path[0] > 1;
  }
  pairs.expect_laws();
  EXPECT_GT(later_siblings, kRounds / 50);   // else the test says little
}

TEST(SpeculativeVerify, TreesHaveTheTargetsLaw) {
  for (const SiblingDraws how : {SiblingDraws::kIndependent, SiblingDraws::kWithoutReplacement})
    for (const uint32_t number : {4, 5}) expect_tree_law(random_laws(number), number, how, [](TreeCase&) {});
}

TEST(SpeculativeVerify, TreesOfCertainDraftsHaveTheTargetsLaw) {
  expect_tree_law(random_laws(6), 6, SiblingDraws::kWithoutReplacement, [](TreeCase& c) { c.q.clear(); });
}

TEST(SpeculativeVerify, OneHotTargetsAreArgmaxMatching) {
  for (uint32_t round = 0; round < 500; ++round) {
    Draws draws(test_seed(), Stream::kTest, round, 80);
    const int64_t vocab = 2 + draws.below(40);
    ChainCase c = random_chains(vocab, 8, draws);
    std::vector<int32_t> best;
    for (size_t row = 0; row * c.p_stride < c.p.size(); ++row) {
      best.push_back(static_cast<int32_t>(draws.below(static_cast<uint32_t>(vocab))));
      for (int64_t j = 0; j < vocab; ++j) c.p[row * c.p_stride + j] = j == best.back() ? 1.0f : 0.0f;
    }
    for (size_t b = 0; b < c.first_p.size(); ++b)   // so that some drafts match
      for (int32_t i = 0; i < c.num_drafted[b]; ++i) {
        const int64_t from = c.first_q[b] + i, likely = best[c.first_p[b] + i];
        if (draws.below(4) != 0 && (c.q.empty() || c.q[from * c.q_stride + likely] > 0)) c.drafted[from] = static_cast<int32_t>(likely);
      }
    const std::vector<SpeculativeResult> got = results_of<PlainArray>(c, CpuVerify{});
    for (size_t b = 0; b < got.size(); ++b) {
      int32_t matching = 0;
      while (matching < c.num_drafted[b] && c.drafted[c.first_q[b] + matching] == best[c.first_p[b] + matching]) ++matching;
      ASSERT_EQ(got[b].verdict.accepted, matching);
      ASSERT_EQ(got[b].verdict.token, best[c.first_p[b] + matching]);
    }
  }
}

TEST(SpeculativeVerify, AllStayWhenTheLawsAreEqualAndNoneWhenTheyShareNothing) {
  for (uint32_t round = 0; round < 300; ++round) {
    Draws draws(test_seed(), Stream::kTest, round, 81);
    const int64_t vocab = 2 + draws.below(70), split = 1 + draws.below(static_cast<uint32_t>(vocab - 1));
    const std::vector<float> same_law = random_law(vocab, draws);
    ChainCase c;
    c.vocab = c.p_stride = c.q_stride = vocab;
    c.first_p = c.first_q = {0, 0, 0}, c.num_drafted = {3, 3, 3};
    for (int i = 0; i < 4; ++i) put_row(c.p, same_law, vocab), put_row(c.q, same_law, vocab);
    for (int i = 0; i < 3; ++i) c.drafted.push_back(drawn_from(same_law, fine_uniform(draws))), c.uniform.push_back(1 - 0x1p-53);
    c.final_uniform = {0, fine_uniform(draws), 1 - 0x1p-53};
    for (const SpeculativeResult& r : results_of<PlainArray>(c, CpuVerify{})) {
      ASSERT_EQ(r.verdict.accepted, 3);
      ASSERT_GT(same_law[r.verdict.token], 0);
    }
    for (int64_t j = 0; j < 4 * vocab; ++j) {   // p on the tokens below `split`, q on the others
      const int64_t token = j % vocab;
      c.p[j] = token < split ? 1 / static_cast<float>(split) : 0.0f, c.q[j] = token < split ? 0.0f : 1 / static_cast<float>(vocab - split);
    }
    c.drafted.assign(3, static_cast<int32_t>(split)), c.uniform.assign(3, 0.0);
    for (const SpeculativeResult& r : results_of<PlainArray>(c, CpuVerify{})) {
      ASSERT_EQ(r.verdict.accepted, 0);
      ASSERT_LT(r.verdict.token, split);
    }
  }
}

}  // namespace
}  // namespace trimtab
