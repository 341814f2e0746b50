#include "engine/drafters/drafter.h"

#include <limits>

#include "core/config.h"
#include "core/test_support.h"
#include "engine/drafters/draft_cases.h"

namespace trimtab {
namespace {

const DraftTree kTree = {.tokens = {5, 3, 8, 9, 1}, .parents = {-1, -1, 0, 1, 3}, .scores = {0.5f, 0.4f, 0.3f, 0.25f, 0.2f}};

TEST(DraftTree, DepthCountsFromTheTextsLastToken) {
  const TestText depths = {1, 1, 2, 2, 3};
  for (int64_t node = 0; node < kTree.size(); ++node) EXPECT_EQ(draft_depth(kTree, node), depths[node]);
  EXPECT_DEATH(draft_depth(kTree, 5), "check failed");
}

TEST(DraftTree, BestChainHasTheLargestSum) {
  const DraftTree chain = best_chain(kTree);
  EXPECT_EQ(chain.tokens, (TestText{3, 9, 1}));   // 0.85 against 0.8
  EXPECT_EQ(chain.parents, (TestText{-1, 0, 1}));
  EXPECT_EQ(chain.scores, (std::vector<float>{0.4f, 0.25f, 0.2f}));
  EXPECT_EQ(best_chain({}).size(), 0);
  EXPECT_EQ(best_chain({{7, 2}, {-1, -1}, {0.5f, 0.5f}}).tokens, TestText{2}) << "a tie goes to the lower token";
}

TEST(DraftTree, BreadthFirstKeepsParentsAndScores) {
  const DraftTree sorted = breadth_first({{4, 6, 2, 3}, {-1, 0, -1, 2}, {0.9f, 0.8f, 0.1f, 0.05f}});
  EXPECT_EQ(sorted.tokens, (TestText{4, 2, 6, 3}));
  EXPECT_EQ(sorted.parents, (TestText{-1, -1, 0, 1}));
  EXPECT_EQ(sorted.scores, (std::vector<float>{0.9f, 0.1f, 0.8f, 0.05f}));
}

DrafterOptions options_of(const std::string& yaml) {
  DrafterOptions options;
  Config::parse(yaml, "drafter.yaml").read(options);
  return options;
}

TEST(MakeDrafter, MakesEveryMethodFromItsName) {
  for (const std::string method : {"prompt_lookup", "suffix", "token_recycling"}) {
    const auto drafter = make_drafter(options_of("method: " + method + "\ntoken_recycling: {vocab: 10}\n"));
    EXPECT_EQ(drafter->candidates(), method == "token_recycling" ? 8 : 0);
    drafter->update(1, TestText{2});   // those that learn from text alone let it pass
    drafter->begin(1, TestText{1, 2, 3, 1, 2});
    expect_well_formed(drafter->draft(1, 4), 4);
    drafter->finish(1);
  }
}

TEST(MakeDrafter, RefusesWrongOptions) {
  DrafterOptions unknown;
  unknown.method = "sufix";
  try {
    make_drafter(unknown);
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_EQ(std::string(error.what()), "unknown drafter 'sufix', did you mean 'suffix'?");
  }
  for (const std::string wrong :
       {"prompt_lookup: {min_ngram: 5}", "prompt_lookup: {num_tokens: 0}", "suffix: {depth: 1}", "suffix: {history: 128, depth: 65}",
        "suffix: {min_prob: 0}", "suffix: {factor: 0}", "suffix: {shape: bush}", "token_recycling: {children: []}",
        "token_recycling: {children: [9]}", "token_recycling: {children: [8, 8, 8, 8]}", "method: draft_model"}) {
    EXPECT_THROW(options_of(wrong), ConfigError) << wrong;
  }
}

TEST(MakeDrafter, HoldsOptionsSetInCodeToTheSameRanges) {
  const auto refuses = [](auto change) {
    DrafterOptions options;
    options.token_recycling.vocab = 10;
    change(options);
    EXPECT_THROW(make_drafter(options), ConfigError);
  };
  refuses([](DrafterOptions& o) { o.method = "prompt_lookup", o.prompt_lookup.num_tokens = 0; });
  refuses([](DrafterOptions& o) { o.method = "prompt_lookup", o.prompt_lookup.max_ngram = -1; });
  refuses([](DrafterOptions& o) { o.suffix.depth = 0; });
  refuses([](DrafterOptions& o) { o.suffix.min_prob = std::numeric_limits<double>::quiet_NaN(); });
  refuses([](DrafterOptions& o) { o.suffix.shape = "bush"; });
  refuses([](DrafterOptions& o) { o.method = "token_recycling", o.token_recycling.vocab = 0; });
  refuses([](DrafterOptions& o) { o.method = "token_recycling", o.token_recycling.children = {2, 0}; });
}

class EveryDrafter : public testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<Drafter> make() const { return make_drafter(options_of("method: " + GetParam() + "\ntoken_recycling: {vocab: 40}\n")); }
};

TEST_P(EveryDrafter, RefusesWhatOnlyWeCanGetWrong) {
  const auto drafter = make();
  drafter->begin(7, TestText{1, 2});
  EXPECT_DEATH(drafter->begin(7, {}), "check failed");
  EXPECT_DEATH(drafter->append(8, TestText{1}), "check failed");
  EXPECT_DEATH(drafter->append(7, TestText{1, -1}), "check failed");
  EXPECT_DEATH(drafter->begin(9, TestText{-3}), "check failed");
  EXPECT_DEATH(drafter->draft(7, 0), "check failed");
  EXPECT_DEATH(drafter->draft(8, 1), "check failed");
  EXPECT_DEATH(drafter->finish(8), "check failed");
  drafter->finish(7);
  EXPECT_DEATH(drafter->draft(7, 1), "check failed");
  drafter->begin(7, {});   // an id may be used again
}

TEST_P(EveryDrafter, SaysNothingOfTextsTooShort) {
  const auto drafter = make();
  drafter->begin(1, {});
  EXPECT_EQ(drafter->draft(1, 8).size(), 0);
  drafter->append(1, {});
  drafter->append(1, TestText{3});
  EXPECT_EQ(drafter->draft(1, 8).size(), 0);
  drafter->finish(1);
}

TEST_P(EveryDrafter, DraftsAreWellFormedAndTheSameEveryTime) {
  Draws draws(test_seed(), Stream::kTest, 900);
  const auto a = make(), b = make();
  for (int64_t sequence = 0; sequence < 20; ++sequence) {
    const TestText text = random_text(draws, 60, 40);
    for (const auto* drafter : {&a, &b}) (*drafter)->begin(sequence, TestText(text.begin(), text.begin() + 10));
    for (size_t i = 10; i < text.size(); ++i) {
      const TestText likeliest = {static_cast<int32_t>(draws.below(20)), static_cast<int32_t>(20 + draws.below(20))};
      const int64_t most = 1 + draws.below(12);
      for (const auto* drafter : {&a, &b}) {
        (*drafter)->append(sequence, {&text[i], 1});
        (*drafter)->update(text[i], likeliest);
      }
      const DraftTree draft = a->draft(sequence, most), again = b->draft(sequence, most);
      expect_well_formed(draft, most);
      ASSERT_EQ(draft.tokens, again.tokens);
      ASSERT_EQ(draft.parents, again.parents);
      ASSERT_EQ(draft.scores, again.scores);
    }
    for (const auto* drafter : {&a, &b}) (*drafter)->finish(sequence);
  }
}

INSTANTIATE_TEST_SUITE_P(Methods, EveryDrafter, testing::Values("prompt_lookup", "suffix", "token_recycling"));

}  // namespace
}  // namespace trimtab
