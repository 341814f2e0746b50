// Rules on a small random model: identities between them, the oracle's promise, windows and guards that are the policy's own, and answers that
// depend on neither order nor company.
#include "envs/token_commit/live/commit_decoder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <thread>

#include "core/error.h"
#include "core/files.h"
#include "core/test_support.h"
#include "envs/token_commit/live/small_models.h"
#include "envs/token_commit/token_commit.h"

namespace trimtab {
namespace {

TokenCommitOptions options_of(std::vector<std::string> rules = {}) {
  TokenCommitOptions o;
  o.model = "m", o.length = kLength, o.block = 4, o.width = 4, o.rules = std::move(rules), o.stop = {};
  return o;
}
CommitDecoder decoder_of(uint32_t index, const TokenCommitOptions& options) { return {model_of(index), problems_of(index), "p.jsonl", options}; }

using Commits = std::vector<std::pair<int32_t, int32_t>>;
Commits commits_of(const DiffusionCompletion& c) {
  Commits out;
  for (const DiffusionCommit& commit : c.commits) out.push_back({commit.pass, commit.position});
  return out;
}

TEST(commit_decoder, every_rule_fills_the_canvas) {
  TokenCommitOptions o = options_of();
  o.finish_early = false, o.delimiters = {"6"}, o.both_guards = true;
  const CommitDecoder decoder = decoder_of(1, o);
  EXPECT_GT(decoder.policies(false).size(), 80u);
  for (const EvaluatedPolicy& p : decoder.policies(false))
    for (int64_t i = 0; i < 2; ++i) {
      const DiffusionCompletion c = decoder.decode(p.name, {}, i, 1).completion;
      EXPECT_EQ(std::count(c.canvas.begin(), c.canvas.end(), -1), 0) << p.name;
      EXPECT_EQ(std::ssize(c.canvas), kLength) << p.name;
      EXPECT_EQ(std::ssize(c.commits), kLength) << p.name;
      EXPECT_LE(c.passes, kLength) << p.name;
      EXPECT_TRUE(c.passes == kLength || !p.name.starts_with("top1")) << p.name;
      EXPECT_TRUE(c.refused == 0 || !p.name.ends_with("+noguard")) << p.name;
    }
}

TEST(commit_decoder, rules_without_parallelism_are_top1) {
  for (const bool early : {false, true})
    for (const char* window : {"full", "block", "sliding"}) {
      TokenCommitOptions o = options_of({"threshold_101", "topk_1", "quota", "localleap_101_101_0", "threshold_101+noguard"});
      o.finish_early = early, o.window = window;
      const CommitDecoder decoder = decoder_of(2, o);
      for (int64_t i = 0; i < kProblems; ++i)
        for (const char* guard : {"", "+noguard"}) {
          const DiffusionCompletion top1 = decoder.decode(std::string("top1") + guard, {}, i, 1).completion;
          for (const char* rule : {"threshold_101", "topk_1", "quota", "localleap_101_101_0"}) {
            const DiffusionCompletion c = decoder.decode(std::string(rule) + guard, {}, i, 1).completion;
            EXPECT_EQ(c.canvas, top1.canvas) << rule << guard;
            EXPECT_EQ(commits_of(c), commits_of(top1)) << rule << guard;
          }
        }
    }
}

TEST(commit_decoder, the_guard_is_the_policys_own) {
  int64_t refused = 0, different = 0;
  for (uint32_t index = 20; index < 30; ++index) {
    TokenCommitOptions o = options_of({"topk_3", "topk_3+noguard"});
    const CommitDecoder decoder = decoder_of(index, o);
    o.eos_guard = false;
    const CommitDecoder without = decoder_of(index, o);
    for (int64_t i = 0; i < kProblems; ++i) {
      const DiffusionCompletion guarded = decoder.decode("topk_3", {}, i, 1).completion, bare = decoder.decode("topk_3+noguard", {}, i, 1).completion;
      EXPECT_EQ(bare.refused, 0);
      EXPECT_EQ(commits_of(bare), commits_of(without.decode("topk_3", {}, i, 1).completion));
      refused += guarded.refused, different += guarded.canvas != bare.canvas;
    }
  }
  EXPECT_GT(refused, 0);
  EXPECT_GT(different, 0);
}

TEST(commit_decoder, lock_in_reaches_top1s_answer_in_no_more_passes) {
  int64_t fewer = 0, different = 0;
  for (uint32_t index = 10; index < 16; ++index)
    for (const bool early : {false, true}) {
      TokenCommitOptions o = options_of({"threshold_0"});
      o.finish_early = early, o.eos_guard = index % 3 != 0;
      const CommitDecoder decoder = decoder_of(index, o);
      for (int64_t i = 0; i < kProblems; ++i) {
        const DiffusionCompletion top1 = decoder.decode("top1", {}, i, 1).completion, oracle = decoder.decode("lock_in", {}, i, 1).completion;
        EXPECT_LE(oracle.passes, top1.passes);
        EXPECT_EQ(oracle.tokens, top1.tokens);
        EXPECT_EQ(oracle.ended, top1.ended);
        EXPECT_EQ(oracle.forced, 0);
        EXPECT_TRUE(early || oracle.canvas == top1.canvas);
        fewer += top1.passes - oracle.passes;
        different += decoder.decode("threshold_0", {}, i, 1).completion.tokens != top1.tokens;
      }
    }
  EXPECT_GT(fewer, 0);
  EXPECT_GT(different, 10);   // the answers do depend on what is committed when
}

TEST(commit_decoder, windows_are_the_rules_own) {
  TokenCommitOptions o = options_of({"wedlm_100000", "threshold_0"});
  o.finish_early = false, o.eos_guard = false;
  const CommitDecoder full = decoder_of(4, o);
  o.window = "block";
  const CommitDecoder blocks = decoder_of(4, o);
  for (int64_t i = 0; i < kProblems; ++i) {
    EXPECT_EQ(full.decode("threshold_0", {}, i, 1).completion.passes, 1);
    EXPECT_EQ(blocks.decode("threshold_0", {}, i, 1).completion.passes, kLength / 4);
    EXPECT_EQ(full.decode("wedlm_100000", {}, i, 1).completion.passes, kLength / 4);   // windows of `width`, whatever the option window
  }
}

TEST(commit_decoder, windows_of_dcd_slide_in_every_pass) {
  int64_t ahead = 0;
  for (uint32_t index = 40; index < 46; ++index) {
    TokenCommitOptions o = options_of({"dcd_101"});   // one a pass
    o.finish_early = false, o.eos_guard = false;
    const CommitDecoder decoder = decoder_of(index, o);
    for (int64_t i = 0; i < kProblems; ++i) {
      std::vector<bool> open(kLength, true);
      for (const DiffusionCommit& c : decoder.decode("dcd_101", {}, i, 1).completion.commits) {
        EXPECT_LT(std::count(open.begin(), open.begin() + c.position, true), o.width);
        ahead += c.position / o.width > (std::find(open.begin(), open.end(), true) - open.begin()) / o.width;   // beyond a window that had to fill first
        open[c.position] = false;
      }
    }
  }
  EXPECT_GT(ahead, 0);
}

TEST(commit_decoder, answers_do_not_depend_on_order_or_company) {
  TokenCommitOptions o = options_of();
  o.temperature = 0.7;
  const CommitDecoder one = decoder_of(5, o), two = decoder_of(5, o);
  const auto& policies = one.policies(false);
  const auto jobs = std::ssize(policies) * kProblems;
  const auto job = [&](const CommitDecoder& d, int64_t j) { return d.decode(policies[j / kProblems].name, {}, j % kProblems, 3).completion; };
  std::vector<DiffusionCompletion> forth(jobs), back(jobs);
  for (int64_t j = 0; j < jobs; ++j) forth[j] = job(one, j);
  const auto half = [&](int64_t parity) {
    for (int64_t j = jobs - 1 - parity; j >= 0; j -= 2) back[j] = job(two, j);
  };
  std::thread other(half, 1);
  half(0);
  other.join();
  for (int64_t j = 0; j < jobs; ++j) {
    EXPECT_EQ(forth[j].canvas, back[j].canvas) << policies[j / kProblems].name;
    EXPECT_EQ(commits_of(forth[j]), commits_of(back[j])) << policies[j / kProblems].name;
  }
}

TEST(commit_decoder, random_commits_are_of_the_problem_and_the_seed) {
  std::vector<FileProblem> same(3, problems_of(6, 1)[0]);
  TokenCommitOptions o = options_of({"random"});
  o.finish_early = false;
  const CommitDecoder decoder(model_of(6), same, "p.jsonl", o);
  std::set<Commits> different;
  for (int64_t i = 0; i < 3; ++i)
    for (const uint64_t seed : {1, 2}) different.insert(commits_of(decoder.decode("random", {}, i, seed).completion));
  EXPECT_EQ(different.size(), 6u);
  EXPECT_EQ(commits_of(decoder.decode("random", {}, 1, 2).completion), commits_of(decoder.decode("random", {}, 1, 2).completion));
}

TEST(commit_decoder, says_whether_a_reply_is_right) {
  int64_t right = 0;
  for (uint32_t index = 30; index < 40; ++index) {
    std::vector<FileProblem> problems = problems_of(index);
    const LanguageModel model = model_of(index);
    const CommitDecoder first(model_of(index), problems, "p.jsonl", options_of());
    std::vector<double> expected;
    for (int64_t i = 0; i < kProblems; ++i) {
      const std::string reply = model.tokenizer->decode(first.decode("top1", {}, i, 1).completion.tokens);
      const bool number = !reply.empty() && reply.find_first_not_of("0123456789") == std::string::npos;
      if (number && i % 2 == 0) problems[i].problem.answer = reply;
      else problems[i].problem.answer = "1" + std::string(20, '0');   // longer than any reply
      expected.push_back(number && i % 2 == 0 ? 1 : 0), right += number && i % 2 == 0;
    }
    const CommitDecoder second(model_of(index), problems, "p.jsonl", options_of());
    for (int64_t i = 0; i < kProblems; ++i) EXPECT_EQ(second.decode("top1", {}, i, 1).correct, expected[i]) << problems[i].problem.answer;
  }
  EXPECT_GT(right, 0);
}

TEST(commit_decoder, refuses_what_does_not_fit) {
  const auto refusal = [](LanguageModel model, std::vector<FileProblem> problems, const TokenCommitOptions& o) -> std::string {
    try {
      CommitDecoder(std::move(model), std::move(problems), "p.jsonl", o);
    } catch (const ConfigError& error) {
      return std::string("config: ") + error.what();
    } catch (const DataError& error) {
      return std::string("data: ") + error.what();
    }
    return "";
  };
  const auto says = [](const std::string& message, const std::string& kind, const std::string& part) {
    EXPECT_TRUE(message.starts_with(kind) && message.find(part) != std::string::npos) << message;
  };
  EXPECT_EQ(refusal(model_of(1), problems_of(1), options_of()), "");
  says(refusal(model_of(1, false), problems_of(1), options_of()), "config", "no mask token");
  says(refusal(model_of(1), problems_of(1), options_of({"treshold_90"})), "config", "no rule 'treshold_90'");
  TokenCommitOptions o = options_of();
  o.delimiters = {"12"};
  says(refusal(model_of(1), problems_of(1), o), "config", "'12' is 2 tokens");
  LanguageModel blocks = model_of(1);
  TransformerConfig config = blocks.transformer->config();
  config.diffusion.block = 4;
  const auto in_blocks = [&] {
    LanguageModel out = model_of(1);
    out.transformer = std::make_unique<Transformer>(config, 1);
    return out;
  };
  TokenCommitOptions window = options_of({"top1"});
  says(refusal(in_blocks(), problems_of(1), window), "config", "set env.window=block env.block=4");
  window.window = "block", window.block = 6;
  says(refusal(in_blocks(), problems_of(1), window), "config", "windows are blocks of 6");
  window.block = 4;
  EXPECT_EQ(refusal(in_blocks(), problems_of(1), window), "");
  config = model_of(1).transformer->config(), config.diffusion.mask_id = model_of(1).tokenizer->encode("3").at(0);
  std::vector<FileProblem> masked = problems_of(1);
  masked[2].problem.prompt = "12345";
  for (FileProblem& problem : masked) std::erase_if(problem.problem.prompt, [&](char c) { return c == '3' && &problem != &masked[2]; });
  for (FileProblem& problem : masked) problem.problem.prompt += "1";
  says(refusal(in_blocks(), masked, options_of()), "data", "p.jsonl:3: the prompt holds the mask token");
  std::vector<FileProblem> longest = problems_of(1);
  longest[4].problem.prompt = std::string(37, '1');
  says(refusal(model_of(1), longest, options_of()), "data", "p.jsonl:5");
}

// Says of every position its confidence.
class ConfidenceAgent final : public AgentFunction {
 public:
  void decide(const float*, const float* items, const uint8_t*, int num_items, float* action) override {
    const CommitView view({.items = 1});
    const int features = view.spec().item_size();
    for (int i = 0; i < num_items; ++i) action[i] = items[i * features];
  }
};
AgentFactory confidence_agents() {
  return [] {
    std::map<std::string, std::unique_ptr<AgentFunction>> out;
    out.emplace("commit", std::make_unique<ConfidenceAgent>());
    return out;
  };
}

TEST(learned_commit, an_agent_that_says_confidence_is_the_threshold_rule) {
  for (uint32_t k = 0; k < 3; ++k) {
    TokenCommitOptions o = options_of({"threshold_30", "threshold_60"});
    o.items = kLength, o.thresholds = {0.3, 0.6}, o.window = k == 0 ? "full" : k == 1 ? "block" : "sliding";
    const CommitDecoder decoder = decoder_of(20 + k, o);
    for (int64_t i = 0; i < kProblems; ++i) {
      for (const char* number : {"30", "60"}) {
        const DiffusionCompletion rule = decoder.decode(std::string("threshold_") + number, {}, i, 1).completion;
        const DiffusionCompletion agent = decoder.decode(std::string("learned_") + number, confidence_agents(), i, 1).completion;
        EXPECT_EQ(commits_of(rule), commits_of(agent)) << o.window << " " << number;
      }
    }
  }
}

// rho-EOS: a canvas may grow to `longest`, and every policy still answers.
TEST(commit_decoder, answers_of_adapted_length) {
  TokenCommitOptions o = options_of({"threshold_40", "topk_3"});
  o.window = "full", o.longest = 24, o.length = 8;
  int64_t grown = 0;
  for (uint32_t index = 40; index < 44; ++index) {
    const CommitDecoder decoder = decoder_of(index, o);
    for (int64_t i = 0; i < kProblems; ++i)
      for (const char* name : {"top1", "threshold_40", "topk_3", "lock_in"}) {
        const CommitDecoder::Decoded d = decoder.decode(name, {}, i, 1);
        EXPECT_LE(std::ssize(d.completion.canvas), 24);
        EXPECT_LE(d.premature, std::ssize(d.completion.commits));
        grown += std::ssize(d.completion.canvas) > 8;
      }
  }
  EXPECT_GT(grown, 0);
}

// What an agent says of the cache is what the passes compute.
class RefreshAgent final : public AgentFunction {
 public:
  explicit RefreshAgent(float choice) : choice_(choice) {}
  void decide(const float*, const float*, const uint8_t*, int, float* action) override { action[0] = choice_; }

 private:
  float choice_;
};

TEST(learned_commit, a_refresh_agent_decides_what_passes_compute) {
  TokenCommitOptions o = options_of({"threshold_60"});
  o.items = kLength, o.thresholds = {0.6}, o.cache = "dual", o.window = "block", o.decide_refresh = true, o.finish_early = false;
  TokenCommitOptions none = o;
  none.cache = "none", none.decide_refresh = false;
  const CommitDecoder decoder = decoder_of(50, o), plain = decoder_of(50, none);
  const auto rows = [&](const CommitDecoder& d, float choice, int64_t i) {
    return d.decode("learned_60", [choice] {
      auto agents = confidence_agents()();
      agents.emplace("refresh", std::make_unique<RefreshAgent>(choice));
      return agents;
    }, i, 1).completion;
  };
  for (int64_t i = 0; i < kProblems; ++i) {
    const DiffusionCompletion everything = rows(decoder, 2, i), exact = rows(plain, 0, i);
    EXPECT_EQ(everything.canvas, exact.canvas) << "a cache that is renewed in every pass is none";
    EXPECT_EQ(everything.rows, exact.rows);
    const DiffusionCompletion window = rows(decoder, 1, i);
    EXPECT_LT(static_cast<double>(window.rows) / static_cast<double>(window.passes), static_cast<double>(everything.rows) / static_cast<double>(everything.passes));
  }
}

// The projection of hidden states is a fixed one, of the rows that the model computed.
class FirstHidden final : public AgentFunction {
 public:
  explicit FirstHidden(std::vector<float>& seen) : seen_(seen) {}
  void decide(const float*, const float* items, const uint8_t*, int num_items, float* action) override {
    const CommitView view({.items = num_items, .projected = 2, .hidden_size = 24});
    const int64_t width = view.spec().item_size();
    seen_.insert(seen_.end(), {items[width - 2], items[width - 1]});
    for (int i = 0; i < num_items; ++i) action[i] = 0;
  }

 private:
  std::vector<float>& seen_;
};

TEST(learned_commit, projected_hidden_states_are_those_of_the_model) {
  TokenCommitOptions o = options_of({"top1"});
  o.items = kLength, o.projected = 2, o.finish_early = false;
  std::vector<float> seen, expected;
  decoder_of(51, o).decode("learned", [&] {
    std::map<std::string, std::unique_ptr<AgentFunction>> out;
    out.emplace("commit", std::make_unique<FirstHidden>(seen));
    return out;
  }, 0, 1);
  // The same passes by hand: hidden states as the generator gives them, shown by the view whose definition features_test.cpp holds to.
  const LanguageModel model = model_of(51);
  DiffusionOptions engine;
  engine.max_sequences = 1, engine.length = kLength, engine.hidden = true, engine.finish_early = false;
  DiffusionGenerator generator(*model.transformer, diffusion_model_of(model.transformer->config()), engine);
  const CommitView view({.items = kLength, .projected = 2, .hidden_size = 24});
  std::vector<float> context(view.spec().context_size()), items(kLength * view.spec().item_size());
  std::vector<uint8_t> mask(kLength);
  Pool pool(1);
  const GenerationRequest request{.prompt = model.tokenizer->encode(problems_of(51)[0].problem.prompt), .key = 0};
  generator.generate({&request, 1}, {.temperature = 0, .seed = 1}, *make_commit_rule("top1"), pool, [&](const CommitState& s, std::span<const int32_t>, bool) {
    view.show(s, {context.data(), items.data(), mask.data()});
    const int64_t width = view.spec().item_size();
    if (s.pass == 0) expected = {items[width - 2], items[width - 1]};
  });
  ASSERT_GE(seen.size(), 2u);
  ASSERT_EQ(expected.size(), 2u);
  EXPECT_EQ(seen[0], expected[0]);
  EXPECT_EQ(seen[1], expected[1]);
  EXPECT_NE(seen[0], 0);
}

TEST(live_commits, the_environment_decodes_as_the_generator_does_and_goes_on_when_saved) {
  const TemporaryFolder folder;
  model_of(31).save(folder.path() / "model");
  const std::string file = folder.path() / "p.jsonl";
  write_file_atomically(file, "{\"prompt\": \"12\", \"answer\": \"3\"}\n");
  TokenCommitOptions o = options_of({"threshold_40"});
  o.model = folder.path() / "model", o.items = kLength, o.threshold = 0.4, o.window = "block", o.reward = "sum", o.pass_price = 1;
  const CommitDecoder decoder(LanguageModel::load(o.model), read_jsonl(file), file, o);
  const auto passes = static_cast<double>(decoder.decode("threshold_40", {}, 0, 1).completion.passes);
  const auto env_of = [&] { return make_token_commit(o, open_commit_source(o, {file}, 2)); };
  const auto env = env_of();
  const ObservationSpec& spec = env->spec().critic;
  std::vector<float> context(2 * spec.context_size()), items(2 * spec.max_items * spec.item_size()), actions(2 * kLength), reward(2), terms(6);
  std::vector<uint8_t> mask(2 * spec.max_items), terminated(2), truncated(2);
  const ObservationRows rows{context.data(), items.data(), mask.data()};
  const auto step = [&](BatchEnvironment& e) {
    e.observe(0, rows);
    for (int64_t i = 0; i < 2 * kLength; ++i) actions[i] = items[i * spec.item_size()];
    e.act(0, actions.data());
    e.step({reward.data(), terms.data(), terminated.data(), truncated.data(), rows});
  };
  env->reset(std::vector<WorldKey>{{1, 0}, {1, 0}}, 1);
  int64_t steps = 0;
  std::string saved;
  do {
    if (++steps == 2) {
      Archive archive = Archive::writer();
      env->serialise(archive);
      saved = archive.bytes();
    }
    step(*env);
  } while (!terminated[0]);
  EXPECT_EQ(steps, passes);
  EXPECT_TRUE(terminated[1]);
  EXPECT_FLOAT_EQ(terms[1], static_cast<float>(-passes / kLength));
  if (saved.empty()) return;
  const auto other = env_of();
  other->reset(std::vector<WorldKey>{{5, 5}, {5, 6}}, 1);
  Archive archive = Archive::reader(saved);
  other->serialise(archive);
  int64_t left = 1;
  for (step(*other); !terminated[0]; step(*other)) ++left;
  EXPECT_EQ(1 + left, steps);
}

TEST(token_commit_evaluator, decodes_a_file_of_problems) {
  const TemporaryFolder folder;
  model_of(8).save(folder.path() / "model");
  const std::string file = folder.path() / "p.jsonl";
  write_file_atomically(file, "{\"prompt\": \"12\", \"answer\": \"3\"}\n{\"prompt\": \"21\", \"answer\": 3}\n");
  const Config config = Config::parse(fmt::format("env: {{type: token_commit, model: {}, length: {}}}", (folder.path() / "model").string(), kLength), "here").at("env");
  const auto evaluator = Registry<EvaluatorEntry>::instance().get("token_commit", "evaluator").make(config, file);
  EXPECT_EQ(evaluator->num_episodes(), 2);
  EXPECT_EQ(evaluator->policies(true).front().name, "learned");
  const CommitDecoder decoder(LanguageModel::load(folder.path() / "model"), read_jsonl(file), file, options_of());
  std::set<std::string> names;
  for (const EvaluatedPolicy& p : evaluator->policies(false)) {
    names.insert(p.name);
    const EpisodeResult r = evaluator->run(p.name, {}, 1, 1, false);
    ASSERT_EQ(r.metrics.size(), evaluator->metrics().size());
    const auto metric = [&](const std::string& name) {
      for (size_t m = 0; m < r.metrics.size(); ++m)
        if (evaluator->metrics()[m].name == name) return r.metrics[m];
      return -1.0;
    };
    EXPECT_TRUE(metric("correct") == 0 || metric("correct") == 1);
    EXPECT_GE(metric("ms"), 0);
    if (p.name.starts_with("wedlm") || p.name.starts_with("dcd")) continue;   // other widths
    const DiffusionCompletion c = decoder.decode(p.name, {}, 1, 1).completion;
    EXPECT_EQ(metric("passes"), c.passes) << p.name;
    EXPECT_EQ(metric("forced"), c.forced) << p.name;
    EXPECT_EQ(metric("refused"), c.refused) << p.name;
    EXPECT_EQ(metric("reply"), c.tokens.size()) << p.name;
    EXPECT_EQ(metric("rows"), c.rows) << p.name;
    EXPECT_NEAR(metric("tokens_per_pass") * metric("passes"), c.commits.size(), 1e-9) << p.name;
  }
  EXPECT_TRUE(names.contains(evaluator->reference()));
  EXPECT_EQ(evaluator->frontiers().size(), 4u);
  for (const Evaluator::Frontier& f : evaluator->frontiers())
    for (const std::string& name : f.policies) EXPECT_TRUE(names.contains(name)) << name;
}

}  // namespace
}  // namespace trimtab
