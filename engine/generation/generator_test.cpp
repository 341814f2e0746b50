// Generation against the Transformer's own logits, and its promises: the same sequences whatever the batch and the threads,
// continuation, budgets, stops, filters, errors.
#include "engine/generation/generator.h"

#include <gtest/gtest.h>
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "core/error.h"
#include "core/random.h"
#include "core/test_support.h"

namespace trimtab {
namespace {

const bool kOneThread = (at::set_num_threads(1), true);   // small problems

TransformerConfig random_config(Draws& draws) {
  TransformerConfig c;
  const char* families[] = {"llama", "qwen2", "qwen3"};
  c.family = families[draws.below(3)];
  c.vocab_size = 5 + draws.below(90), c.hidden_size = 4 + 3 * draws.below(20), c.num_layers = 1 + draws.below(3);
  c.num_kv_heads = 1 + draws.below(3), c.num_heads = c.num_kv_heads * (1 + draws.below(3));
  const int64_t head_dims[] = {2, 6, 16, 20, 32, 40, 64, 128};
  c.head_dim = head_dims[draws.below(8)], c.intermediate_size = 1 + draws.below(80), c.max_positions = 512;
  c.qkv_bias = c.family == "qwen2" || draws.below(3) == 0, c.qk_norm = c.family == "qwen3", c.tied_embeddings = draws.below(2) == 0;
  c.output_bias = c.family != "qwen2" && draws.below(3) == 0, c.mlp_bias = c.family == "llama" && draws.below(2) == 0;
  if (draws.below(3) == 0) c.rope.scaling = RopeConfig::Scaling::kYarn, c.rope.factor = 4, c.rope.original_positions = 32;
  return c;
}

// Weights large enough that attention and the next token are far from uniform; biases that are not 0.
void stir(const Transformer& model, Draws& draws, float scale = 8) {
  const at::NoGradGuard no_grad;
  for (const auto& [name, p] : model.parameters()) {
    if (p.dim() == 2) p.mul_(scale);
    if (p.dim() == 1)
      for (int64_t i = 0; i < p.numel(); ++i) p[i] += 0.2f * draws.normal();
  }
}

std::vector<int32_t> random_prompt(int64_t length, const TransformerConfig& c, Draws& draws) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < length; ++i) ids.push_back(static_cast<int32_t>(draws.below(static_cast<uint32_t>(c.vocab_size))));
  return ids;
}

TransformerConfig small() {
  TransformerConfig c;
  c.vocab_size = 29, c.hidden_size = 48, c.num_layers = 2, c.num_heads = 4, c.num_kv_heads = 2, c.head_dim = 16, c.intermediate_size = 56;
  return c;
}

struct World {   // a model and requests for it
  Transformer model;
  std::vector<GenerationRequest> requests;
};
World random_world(uint32_t index) {
  Draws draws(test_seed(), Stream::kTest, index);
  Transformer model(random_config(draws), test_seed() + index);
  stir(model, draws);
  World w{std::move(model), {}};
  for (uint32_t r = 0, n = 1 + draws.below(6); r < n; ++r) {
    GenerationRequest& request = w.requests.emplace_back();
    request.prompt = random_prompt(draws.below(4) == 0 ? 100 + draws.below(150) : 1 + draws.below(40), w.model.config(), draws);
    request.samples = 1 + draws.below(9), request.key = uint64_t{draws.bits()} << 32 | r, request.first_sample = draws.below(3);
    request.max_tokens = 1 + draws.below(40);
  }
  return w;
}

std::vector<Completion> generate(const Transformer& model, std::span<const GenerationRequest> requests, const SamplingOptions& sampling,
                                 const StopRules& stop = {}, GeneratorOptions options = {}, int threads = 1) {
  Pool pool(threads);
  return Generator(model, options).generate(requests, sampling, stop, 7, pool);
}

// [tokens of the completion, vocab]: the model's own log-probabilities.
at::Tensor reference(const Transformer& model, const std::vector<int32_t>& prompt, const std::vector<int32_t>& tokens, double temperature) {
  std::vector<int64_t> ids(prompt.begin(), prompt.end());
  ids.insert(ids.end(), tokens.begin(), tokens.end() - 1);
  Trie trie;
  trie.add(-1, static_cast<int64_t>(ids.size()));
  const at::NoGradGuard no_grad;
  const at::Tensor logits = model.logits(at::tensor(ids, at::kLong), trie);
  return at::log_softmax(logits.narrow(0, static_cast<int64_t>(prompt.size()) - 1, static_cast<int64_t>(tokens.size())).to(at::kDouble) / temperature, -1);
}

void expect_equal(const std::vector<Completion>& a, const std::vector<Completion>& b, const std::string& what) {
  ASSERT_EQ(a.size(), b.size()) << what;
  for (size_t i = 0; i < a.size(); ++i) {
    ASSERT_EQ(a[i].request, b[i].request) << what;
    ASSERT_EQ(a[i].sample, b[i].sample) << what;
    ASSERT_EQ(a[i].tokens, b[i].tokens) << what << ", completion " << i;
    ASSERT_EQ(a[i].logprobs, b[i].logprobs) << what << ", completion " << i;   // bit for bit
    ASSERT_EQ(a[i].finish, b[i].finish) << what << ", completion " << i;
  }
}

TEST(generator, log_probabilities_are_the_models_own) {
  for (uint32_t round = 0; round < 60; ++round) {
    const World w = random_world(round);
    const bool greedy = round % 3 == 0;
    const double temperature = greedy ? 1 : round % 3 == 1 ? 1 : 0.7;
    const auto completions = generate(w.model, w.requests, {.temperature = greedy ? 0 : temperature}, {}, {}, 1 + round % 2);
    double worst = 0;
    for (const Completion& c : completions) {
      const GenerationRequest& r = w.requests[c.request];
      ASSERT_EQ(static_cast<int64_t>(c.tokens.size()), r.max_tokens);
      ASSERT_EQ(c.finish, Finish::kLength);
      const at::Tensor logp = reference(w.model, r.prompt, c.tokens, temperature);
      for (size_t i = 0; i < c.tokens.size(); ++i) {
        const double expected = logp[i][c.tokens[i]].item<double>();
        worst = std::max(worst, std::abs(expected - c.logprobs[i]));
        if (greedy) worst = std::max(worst, logp[i].max().item<double>() - expected);   // the likeliest
      }
    }
    ASSERT_LE(worst, 2e-5) << "round " << round << ", " << w.model.config().json();
  }
}

TEST(generator, sequences_do_not_depend_on_batch_or_threads) {
  for (uint32_t round = 100; round < 112; ++round) {
    const World w = random_world(round);
    const SamplingOptions sampling{.temperature = 1.1, .top_k = round % 2 ? 4 : 0, .top_p = round % 3 ? 1 : 0.8};
    const StopRules stop{.ids = {1, 3}};
    const auto expected = generate(w.model, w.requests, sampling, stop, {.max_sequences = 64});
    for (const int64_t sequences : {1, 3, 64})
      for (const int threads : {1, 2, 3})
        expect_equal(generate(w.model, w.requests, sampling, stop, {.max_sequences = sequences}, threads), expected,
                     fmt::format("round {}, {} sequences, {} threads", round, sequences, threads));
    std::vector<Completion> alone;
    for (size_t r = 0; r < w.requests.size(); ++r) {
      GenerationRequest one = w.requests[r];
      for (one.samples = 1; one.first_sample < w.requests[r].first_sample + w.requests[r].samples; ++one.first_sample) {
        alone.push_back(generate(w.model, {&one, 1}, sampling, stop)[0]);
        alone.back().request = static_cast<int64_t>(r);
      }
    }
    expect_equal(alone, expected, fmt::format("round {}, alone", round));
  }
}

TEST(generator, many_rows_of_a_small_model_equal_one_at_a_time) {
  Draws draws(test_seed(), Stream::kTest, 150);
  const Transformer model(small(), 3);
  stir(model, draws);
  std::vector<GenerationRequest> requests;
  for (int r = 0; r < 40; ++r)
    requests.push_back({.prompt = random_prompt(1 + draws.below(30), model.config(), draws), .samples = 7, .key = uint64_t(r), .max_tokens = 1 + draws.below(12)});
  const auto expected = generate(model, requests, {}, {}, {.max_sequences = 1});
  for (const int threads : {1, 2, 3}) expect_equal(generate(model, requests, {}, {}, {.max_sequences = 256}, threads), expected, "256");
}

// Weights beyond a core's cache: threads share every matrix when there are few rows.
TEST(generator, few_rows_of_a_large_model_do_not_depend_on_threads) {
  Draws draws(test_seed(), Stream::kTest, 160);
  TransformerConfig config = small();
  config.hidden_size = 256, config.head_dim = 40, config.intermediate_size = 500, config.vocab_size = 300, config.qk_norm = true, config.family = "qwen3";
  const Transformer model(config, 3);
  stir(model, draws, 3);
  std::vector<GenerationRequest> requests;
  for (const int64_t length : {150, 5, 1})
    requests.push_back({.prompt = random_prompt(length, config, draws), .samples = 3, .key = uint64_t(length), .max_tokens = 6});
  const auto expected = generate(model, requests, {}, {}, {.max_sequences = 1});
  for (const int threads : {1, 2, 3})
    for (const int64_t sequences : {1, 9}) expect_equal(generate(model, requests, {}, {}, {.max_sequences = sequences}, threads), expected, "large");
  const at::Tensor logp = reference(model, requests[0].prompt, expected[0].tokens, 1);
  for (int64_t i = 0; i < 6; ++i) EXPECT_NEAR(logp[i][expected[0].tokens[i]].item<double>(), expected[0].logprobs[i], 2e-5);
}

TEST(generator, works_inside_a_task_of_the_pool) {
  const World w = random_world(130);
  const auto expected = generate(w.model, w.requests, {});
  Pool pool(2);
  std::vector<std::vector<Completion>> inside(2);
  pool.run(2, [&](int64_t i) { inside[i] = Generator(w.model).generate(w.requests, {}, {}, 7, pool); });
  for (const auto& c : inside) expect_equal(c, expected, "inside");
}

TEST(generator, continues_as_if_never_interrupted) {
  for (uint32_t round = 200; round < 206; ++round) {
    World w = random_world(round);
    const StopRules stop{.ids = {2}};
    const auto expected = generate(w.model, w.requests, {}, stop);
    int64_t all = 0;
    for (const Completion& c : expected) all += static_cast<int64_t>(c.tokens.size());
    for (const int64_t budget : {int64_t{1}, all / 3, all - 1}) {
      if (budget < 1) continue;
      auto requests = w.requests;
      std::vector<Completion> got;
      for (int64_t part = 0, made = 0; made < all; ++part) {
        got = generate(w.model, requests, {}, stop, {.max_sequences = 5, .token_budget = part == 0 ? budget : std::max(budget, all / 4)}, 1 + part % 2);
        int64_t now = 0;
        for (auto& r : requests) r.begun.clear();
        for (const Completion& c : got) requests[c.request].begun.push_back({c.tokens, c.logprobs}), now += static_cast<int64_t>(c.tokens.size());
        ASSERT_TRUE(part > 0 || now == std::min(budget, all));
        ASSERT_GT(now, made);
        made = now;
      }
      expect_equal(got, expected, fmt::format("round {}, budget {}", round, budget));
    }
  }
}

TEST(generator, a_token_budget_ends_the_call_with_what_there_is) {
  const World w = random_world(210);
  const auto whole = generate(w.model, w.requests, {});
  const auto part = generate(w.model, w.requests, {}, {}, {.max_sequences = 2, .token_budget = 9});
  ASSERT_EQ(part.size(), whole.size());
  size_t made = 0, unfinished = 0;
  for (size_t i = 0; i < part.size(); ++i) {
    made += part[i].tokens.size(), unfinished += part[i].finish == Finish::kUnfinished;
    ASSERT_TRUE(std::equal(part[i].tokens.begin(), part[i].tokens.end(), whole[i].tokens.begin()));
    ASSERT_EQ(part[i].finish == Finish::kUnfinished, part[i].tokens.size() < whole[i].tokens.size());
  }
  EXPECT_EQ(made, 9u);
  EXPECT_GT(unfinished, 0u);
}

// First tokens of many samples of one prompt: their counts against the filtered distribution.
void check_frequencies(const SamplingOptions& sampling, const std::function<void(std::vector<double>&)>& filter) {
  Draws draws(test_seed(), Stream::kTest, 300);
  const Transformer model(small(), 5);
  stir(model, draws);
  GenerationRequest request{.prompt = random_prompt(5, model.config(), draws), .samples = 20000, .max_tokens = 1};
  const at::Tensor logp = reference(model, request.prompt, {0}, sampling.temperature)[0];
  std::vector<double> p;
  for (int64_t i = 0; i < logp.numel(); ++i) p.push_back(std::exp(logp[i].item<double>()));
  filter(p);
  double total = 0;
  for (const double x : p) total += x;
  std::vector<int64_t> counts(p.size());
  for (const Completion& c : generate(model, {&request, 1}, sampling)) {
    ++counts[c.tokens[0]];
    ASSERT_NEAR(c.logprobs[0], logp[c.tokens[0]].item<double>(), 2e-5);   // over the whole vocabulary
  }
  double chi = 0, freedom = -1;
  for (size_t i = 0; i < p.size(); ++i) {
    const double expected = 20000 * p[i] / total;
    ASSERT_TRUE(p[i] > 0 || counts[i] == 0) << "token " << i << " was to be left out";
    if (expected >= 5) chi += (counts[i] - expected) * (counts[i] - expected) / expected, ++freedom;
  }
  ASSERT_GE(freedom, 1);
  EXPECT_LE(chi, freedom + 5 * std::sqrt(2 * freedom) + 5);
}
std::vector<size_t> likeliest_first(const std::vector<double>& p) {
  std::vector<size_t> order(p.size());
  for (size_t i = 0; i < p.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return p[a] > p[b]; });
  return order;
}
void keep_mass(std::vector<double>& p, double wanted) {
  double total = 0, seen = 0;
  for (const double x : p) total += x;
  for (const size_t i : likeliest_first(p)) {
    const bool keep = seen < wanted * total;
    seen += p[i];
    if (!keep) p[i] = 0;
  }
}
void keep_count(std::vector<double>& p, size_t count) {
  const auto order = likeliest_first(p);
  for (size_t i = count; i < order.size(); ++i) p[order[i]] = 0;
}

TEST(generator, draws_follow_the_distribution) {
  check_frequencies({}, [](auto&) {});
  check_frequencies({.temperature = 1.7}, [](auto&) {});
}
TEST(generator, top_k_and_top_p_leave_out_the_rest) {
  check_frequencies({.temperature = 1.5, .top_k = 5}, [](auto& p) { keep_count(p, 5); });
  check_frequencies({.temperature = 1.5, .top_p = 0.7}, [](auto& p) { keep_mass(p, 0.7); });
  check_frequencies({.temperature = 2, .top_k = 9, .top_p = 0.6}, [](auto& p) { keep_count(p, 9), keep_mass(p, 0.6); });
}

TEST(generator, a_tie_at_the_border_of_top_k_keeps_the_lower_ids) {
  const Transformer model(small(), 5);
  {
    const at::NoGradGuard no_grad;
    model.parameters().at("lm_head.weight").zero_();
  }
  GenerationRequest request{.prompt = {1}, .samples = 200, .max_tokens = 1};
  std::set<int32_t> seen;
  for (const Completion& c : generate(model, {&request, 1}, {.top_k = 3})) seen.insert(c.tokens[0]);
  EXPECT_EQ(seen, (std::set<int32_t>{0, 1, 2}));
  request.samples = 1;
  EXPECT_EQ(generate(model, {&request, 1}, {.temperature = 0})[0].tokens[0], 0);
}

TEST(generator, stops_at_ids_and_strings) {
  Draws draws(test_seed(), Stream::kTest, 400);
  TransformerConfig config = small();
  config.vocab_size = 31;   // two ids that the tokenizer does not know
  const Transformer model(config, 5);
  stir(model, draws, 3);
  const auto tokenizer = make_tokenizer({{"tokenizer.json", character_tokenizer_json("abcdefghijklmnopqrstuvwxyz ")}}, "test");
  const std::vector<GenerationRequest> requests = {{.prompt = {1, 2}, .samples = 300, .max_tokens = 60}};
  const auto free = generate(model, requests, {});
  const StopRules stop{.ids = {28}, .strings = {"ab", "c", "def"}, .tokenizer = tokenizer.get()};
  const auto stopped = generate(model, requests, {}, stop);
  int by_string = 0, by_id = 0;
  for (size_t i = 0; i < free.size(); ++i) {
    size_t end = 0;
    bool found = false;
    while (!found && end < free[i].tokens.size()) {
      ++end;
      const std::string text = tokenizer->decode({free[i].tokens.data(), end});
      const bool string = text.find("ab") != text.npos || text.find('c') != text.npos || text.find("def") != text.npos, id = free[i].tokens[end - 1] == 28;
      found = string || id, by_string += string, by_id += id;
    }
    ASSERT_EQ(stopped[i].tokens, std::vector<int32_t>(free[i].tokens.begin(), free[i].tokens.begin() + end));
    ASSERT_EQ(stopped[i].finish, found ? Finish::kStop : Finish::kLength);
  }
  EXPECT_GT(by_string, 10);
  EXPECT_GT(by_id, 10);
}

TEST(generator, begun_sequences_that_are_over_come_back_as_they_are) {
  const Transformer model(small(), 5);
  std::vector<GenerationRequest> requests = {{.prompt = {1}, .samples = 3, .max_tokens = 4},   {.prompt = {1, 2}, .samples = 2, .key = 4, .max_tokens = 4}};
  requests[0].begun = {{{5, 6, 7, 8}, {-1, -1, -1, -1}}, {{5, 9}, {-1, -2}}, {{}, {}}};
  for (const int64_t sequences : {1, 8}) {
    const auto c = generate(model, requests, {}, {.ids = {9}}, {.max_sequences = sequences});
    EXPECT_EQ(c[0].finish, Finish::kLength);
    EXPECT_EQ(c[0].tokens, requests[0].begun[0].tokens);
    EXPECT_EQ(c[1].finish, Finish::kStop);
    EXPECT_EQ(c[1].logprobs, requests[0].begun[1].logprobs);
    EXPECT_NE(c[4].finish, Finish::kUnfinished);
  }
}

TEST(generator, samples_what_was_last_trained) {
  const Transformer model(small(), 5);
  Generator generator(model);
  Pool pool(1);
  const GenerationRequest request{.prompt = {3}, .samples = 4, .max_tokens = 20};
  const auto before = generator.generate({&request, 1}, {}, {}, 7, pool);
  Draws draws(test_seed(), Stream::kTest, 500);
  stir(model, draws);
  expect_equal(generator.generate({&request, 1}, {}, {}, 7, pool), generate(model, {&request, 1}, {}), "after");
  EXPECT_NE(before[0].tokens, generate(model, {&request, 1}, {})[0].tokens);
}

TEST(generator, tells_its_progress) {
  const Transformer model(small(), 5);
  const GenerationRequest request{.prompt = {3}, .samples = 300, .max_tokens = 40};
  Pool pool(2);
  int64_t calls = 0, tokens = 0, finished = 0;
  Generator(model).generate({&request, 1}, {}, {}, 7, pool, [&](int64_t t, int64_t f) {
    EXPECT_GE(t, tokens);
    ++calls, tokens = t, finished = f;
  });
  EXPECT_GT(calls, 1);
  EXPECT_EQ(tokens, 12000);
  EXPECT_EQ(finished, 300);
  const auto interrupt = [](int64_t, int64_t) { throw Interrupted("stop"); };
  EXPECT_THROW(Generator(model).generate({&request, 1}, {}, {}, 7, pool, interrupt), Interrupted);
}

template <class Expected>
void expect_error(const Transformer& model, const GenerationRequest& request, const std::string& part, const SamplingOptions& sampling = {},
                  const StopRules& stop = {}) {
  try {
    generate(model, {&request, 1}, sampling, stop, {}, 2);
    ADD_FAILURE() << "no error with '" << part << "'";
  } catch (const Expected& e) {
    EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
  }
}

TEST(generator, errors_say_what_is_wrong) {
  const Transformer model(small(), 5);
  expect_error<DataError>(model, {}, "prompt is empty");
  expect_error<DataError>(model, {.prompt = {1, 29}}, "id 29 at 1");
  expect_error<DataError>(model, {.prompt = {-1}}, "id -1 at 0");
  expect_error<DataError>(model, {.prompt = {1}, .samples = 0}, "one or more");
  expect_error<DataError>(model, {.prompt = {1}, .max_tokens = 2048}, "2048 positions");
  expect_error<DataError>(model, {.prompt = {1}, .max_tokens = -1}, "max_tokens = -1");
  expect_error<DataError>(model, {.prompt = {1}, .begun = {{}, {}}}, "2 begun sequences for 1");
  expect_error<DataError>(model, {.prompt = {1}, .begun = {{{1}, {}}}}, "1 tokens but 0");
  expect_error<DataError>(model, {.prompt = {1}, .begun = {{{77}, {0}}}}, "id 77");
  expect_error<DataError>(model, {.prompt = {1}, .max_tokens = 1, .begun = {{{1, 1}, {0, 0}}}}, "more than max_tokens");
  expect_error<DataError>(model, {.prompt = {1}}, "id 30", {}, {.ids = {30}});
  expect_error<ConfigError>(model, {.prompt = {1}}, "tokenizer", {}, {.strings = {"a"}});
  expect_error<ConfigError>(model, {.prompt = {1}}, "temperature", {.temperature = -1});
  expect_error<ConfigError>(model, {.prompt = {1}}, "top_p", {.top_p = 0});
  expect_error<ConfigError>(model, {.prompt = {1}}, "top_k", {.top_k = -1});
  expect_error<ConfigError>(model, {.prompt = {1}}, "max_tokens", {.max_tokens = 0});
  EXPECT_THROW(Generator(model, {.max_sequences = 0}), ConfigError);
  EXPECT_THROW(Generator(model, {.token_budget = -1}), ConfigError);
  Pool pool(1);
  EXPECT_TRUE(Generator(model).generate({}, {}, {}, 7, pool).empty());
}

TEST(generator, logits_that_are_not_finite_stop_the_run) {
  for (const float poison : {NAN, INFINITY}) {
    const Transformer model(small(), 5);
    const at::NoGradGuard no_grad;
    model.parameters().at("lm_head.weight")[3][4] = poison;
    expect_error<RunError>(model, {.prompt = {1}, .samples = 40, .first_sample = 3}, "request 0, sample 3: the logits of token 0");
  }
}

}  // namespace
}  // namespace trimtab
