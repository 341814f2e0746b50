// Traces of a model that decodes, and answers to prompts: every kind of rule, controllers, and what is refused.
#include "envs/token_commit/recorder.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "core/error.h"
#include "core/files.h"
#include "envs/token_commit/answerer.h"
#include "envs/token_commit/learn2pd.h"
#include "envs/token_commit/live/commit_decoder.h"
#include "envs/token_commit/live/small_models.h"
#include "envs/token_commit/trace_lock.h"

namespace trimtab {
namespace {

class Recorded : public ::testing::Test {
 protected:
  void SetUp() override {
    model_of(60).save(folder_.path() / "model");
    std::string lines;
    for (const FileProblem& p : problems_of(60)) lines += fmt::format("{{\"prompt\": \"{}\", \"answer\": \"1\"}}\n", p.problem.prompt);
    write_file_atomically(problems(), lines);
  }
  std::string problems() const { return folder_.path() / "p.jsonl"; }
  CommitRecordOrder order(const std::string& rule) const {
    CommitRecordOrder out{.options = {}, .files = {problems()}, .rule = rule};
    out.options.model = folder_.path() / "model", out.options.length = kLength, out.options.items = kLength, out.options.block = 4, out.options.width = 4;
    return out;
  }
  CommitTraceReader read(const Recording& recording) const {
    const std::string file = folder_.path() / "traces.safetensors";
    write_recording(file, recording);
    return CommitTraceReader({file});
  }

  const TemporaryFolder folder_;
};

template <class Work>
std::string refusal(Work&& work) {
  try {
    work();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

TEST_F(Recorded, one_token_a_pass_is_what_careful_decoding_is) {
  const CommitTraceReader traces = read(record_commitment(order("top1")));
  CommitDecoder decoder(LanguageModel::load(folder_.path() / "model"), read_jsonl(problems()), problems(), order("top1").options);
  ASSERT_EQ(traces.answers(), kProblems);
  TracedPass pass;
  for (int64_t i = 0; i < traces.passes(); ++i) {
    traces.look(i, pass);
    EXPECT_EQ(pass.picks.size(), 1u);
    const DiffusionCompletion c = decoder.decode("top1", {}, pass.answer, 1).completion;
    for (size_t m = 0; m < pass.state.masked.size(); ++m) EXPECT_EQ(pass.final_tokens[m], c.canvas[pass.state.masked[m].position]);
  }
}

// The rule decides a drawn number of passes, one token a pass the others: those alone are stored.
TEST_F(Recorded, passes_behind_the_rules_are_careful) {
  const CommitTraceReader traces = read(record_commitment(order("topk_3")));
  EXPECT_GT(traces.passes(), 0);
  int64_t ahead = 0;
  TracedPass pass;
  for (int64_t i = 0; i < traces.passes(); ++i) {
    traces.look(i, pass);
    EXPECT_EQ(pass.picks.size(), 1u);
    ahead += std::count_if(pass.tokens.begin(), pass.tokens.end(), [](int32_t t) { return t >= 0; }) > pass.state.pass;
  }
  EXPECT_GT(ahead, 0) << "some answers were begun by three tokens a pass";
}

TEST_F(Recorded, rules_that_need_more_than_their_name) {
  Learn2PdFilter filter{4, std::vector<float>(16, 0.5f), std::vector<float>(4, 0.0f)};
  filter.save(folder_.path() / "filter.safetensors");
  CommitRecordOrder filtered = order("learn2pd_60");
  EXPECT_NE(refusal([&] { record_commitment(filtered); }).find("env.filter"), std::string::npos);
  filtered.options.filter = folder_.path() / "filter.safetensors";
  EXPECT_GT(record_commitment(filtered).rows(), 0);
  CommitRecordOrder delimited = order("adablock_40_10");
  EXPECT_NE(refusal([&] { record_commitment(delimited); }).find("delimiters"), std::string::npos);
  delimited.options.delimiters = {"6"};
  EXPECT_NE(refusal([&] { record_commitment(delimited); }).find("set env.window=block"), std::string::npos);
  delimited.options.window = "block";
  EXPECT_GT(record_commitment(delimited).rows(), 0);
  CommitRecordOrder sliding = order("wedlm_40");
  EXPECT_NE(refusal([&] { record_commitment(sliding); }).find("set env.window=sliding"), std::string::npos);
  sliding.options.window = "sliding";
  EXPECT_GT(record_commitment(sliding).rows(), 0);
  CommitRecordOrder adapted = order("top1");
  adapted.options.longest = 2 * kLength;
  EXPECT_NE(refusal([&] { record_commitment(adapted); }).find("env.longest"), std::string::npos);
}

TEST_F(Recorded, a_controller_is_fitted_to_them_and_decodes) {
  const std::string file = folder_.path() / "first.safetensors";
  write_recording(file, record_commitment(order("topk_2")));
  const CommitTraceReader traces({file});
  TraceLockOptions options;
  options.view.items = kLength, options.hidden = {8, 8}, options.epochs = 2;
  const TraceLock lock = fit_trace_lock(traces, traces, options);
  export_trace_lock(folder_.path() / "c.ttc.safetensors", {}, lock);
  EXPECT_TRUE(std::filesystem::exists(folder_.path() / "c.ttc.safetensors"));
}

TEST_F(Recorded, prompts_are_answered_as_problems_are_decoded) {
  CommitAnswerOrder asked{.options = order("").options, .prompts = {}, .rule = "threshold_40"};
  asked.options.stop = {};
  for (const FileProblem& p : problems_of(60)) asked.prompts.push_back({.place = "here", .text = p.problem.prompt, .tokens = {}});
  CommitDecoder decoder(LanguageModel::load(folder_.path() / "model"), read_jsonl(problems()), problems(), asked.options);
  const std::vector<CommitAnswer> answers = answer_with_commitment(asked);
  ASSERT_EQ(answers.size(), static_cast<size_t>(kProblems));
  for (const CommitAnswer& a : answers) {
    const DiffusionCompletion c = decoder.decode("threshold_40", {}, a.prompt, 1).completion;
    EXPECT_EQ(a.tokens, c.tokens);
    EXPECT_EQ(a.passes, c.passes);
    EXPECT_EQ(a.ended, c.ended);
    EXPECT_EQ(a.empty, c.tokens.empty());
  }
  asked.prompts[1].text = std::string(40, '1');
  EXPECT_NE(refusal([&] { answer_with_commitment(asked); }).find("here: prompt and an answer of 12 tokens"), std::string::npos);
  asked.prompts[1] = {.place = "file:3", .text = "", .tokens = {static_cast<int32_t>(model_of(60).transformer->config().diffusion.mask_id)}};
  EXPECT_NE(refusal([&] { answer_with_commitment(asked); }).find("file:3: token"), std::string::npos);
}

}  // namespace
}  // namespace trimtab
