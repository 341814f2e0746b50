// A mixed batch against Generator on every merged model, and its promises: the same bits whatever the company and the threads.
#include "engine/multi_lora/multi_lora_generator.h"

#include <ATen/Parallel.h>

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/error.h"
#include "core/test_support.h"
#include "engine/multi_lora/multi_lora_cases.h"

namespace trimtab {
namespace {

const bool kOneThread = (at::set_num_threads(1), true);   // small problems

struct World {
  Transformer base;
  std::vector<AdapterCase> adapters;
  std::vector<AdaptedRequest> requests;
  std::vector<int> whose;   // of each request: its adapter, or -1
};

World random_world(uint32_t index) {
  Draws draws(test_seed(), Stream::kTest, 9000 + index);
  Transformer base(random_base(draws), test_seed() + index);
  stir_weights(base, draws);
  World w{std::move(base), {}, {}, {}};
  for (uint32_t i = 0, n = 1 + draws.below(4); i < n; ++i) w.adapters.push_back(random_adapter(w.base, draws));
  for (uint32_t r = 0, n = 1 + draws.below(7); r < n; ++r) {
    const int adapter = static_cast<int>(draws.below(static_cast<uint32_t>(w.adapters.size()) + 1)) - 1;
    GenerationRequest request;
    request.prompt = random_tokens(draws.below(4) == 0 ? 100 + draws.below(150) : 1 + draws.below(40), w.base.config(), draws);
    request.samples = 1 + draws.below(4), request.key = uint64_t{draws.bits()} << 32 | r, request.first_sample = draws.below(3);
    request.max_tokens = 1 + draws.below(20);
    w.requests.push_back({std::move(request), adapter < 0 ? nullptr : &w.adapters[adapter].weights});
    w.whose.push_back(adapter);
  }
  return w;
}

std::vector<Completion> generate(const World& w, std::span<const AdaptedRequest> requests, const SamplingOptions& sampling, const StopRules& stop = {},
                                 GeneratorOptions options = {}, int threads = 1) {
  Pool pool(threads);
  return MultiLoraGenerator(w.base, options, pool).generate(requests, sampling, stop, 7, pool);
}

TEST(multi_lora, log_probabilities_are_those_of_the_merged_models) {
  for (uint32_t round = 0; round < 40; ++round) {
    const World w = random_world(round);
    double worst = 0;
    for (const Completion& c : generate(w, w.requests, {}, {}, {}, 1 + round % 2)) {
      const GenerationRequest& r = w.requests[c.request].request;
      ASSERT_EQ(static_cast<int64_t>(c.tokens.size()), r.max_tokens);
      const int adapter = w.whose[c.request];
      const at::Tensor logp = reference(adapter < 0 ? w.base : w.adapters[adapter].merged, r.prompt, c.tokens);
      for (size_t i = 0; i < c.tokens.size(); ++i) worst = std::max(worst, std::abs(logp[i][c.tokens[i]].item<double>() - c.logprobs[i]));
    }
    ASSERT_LE(worst, 1e-4) << "round " << round << ", " << w.base.config().json();
  }
}

// Rounding may turn a draw that falls on the border of two tokens; the log-probabilities before it still agree.
TEST(multi_lora, equals_generators_on_merged_models_and_to_the_bit_on_the_base) {
  int64_t same = 0, all = 0;
  for (uint32_t round = 100; round < 130; ++round) {
    const World w = random_world(round);
    for (const Completion& c : generate(w, w.requests, {})) {
      const int adapter = w.whose[c.request];
      GenerationRequest one = w.requests[c.request].request;
      one.samples = 1, one.first_sample = c.sample;
      Pool pool(1);
      Completion expected = Generator(adapter < 0 ? w.base : w.adapters[adapter].merged).generate({&one, 1}, {}, {}, 7, pool)[0];
      if (adapter < 0) {
        expect_same(c, expected, fmt::format("round {}, base", round));
        continue;
      }
      for (size_t i = 0; i < c.tokens.size() && c.tokens[i] == expected.tokens[i]; ++i) ASSERT_NEAR(c.logprobs[i], expected.logprobs[i], 1e-4) << round;
      ++all, same += c.tokens == expected.tokens;
    }
  }
  EXPECT_GE(same, all - all / 20 - 1);
}

TEST(multi_lora, adapters_change_what_is_generated) {
  Draws draws(test_seed(), Stream::kTest, 9500);
  World w = random_world(3);
  w.adapters.clear(), w.requests.clear();
  for (int i = 0; i < 2; ++i) w.adapters.push_back(adapter_case(w.base, {.rank = 4}, draws, 1));
  const GenerationRequest request{.prompt = random_tokens(9, w.base.config(), draws), .max_tokens = 30};
  const auto got = generate(w, std::vector<AdaptedRequest>{{request, nullptr}, {request, &w.adapters[0].weights}, {request, &w.adapters[1].weights}}, {});
  EXPECT_NE(got[0].logprobs, got[1].logprobs);
  EXPECT_NE(got[0].logprobs, got[2].logprobs);
  EXPECT_NE(got[1].logprobs, got[2].logprobs);
}

TEST(multi_lora, sequences_do_not_depend_on_batch_or_threads) {
  for (uint32_t round = 200; round < 214; ++round) {
    const World w = random_world(round);
    const SamplingOptions sampling{.temperature = 1.1, .top_k = round % 2 ? 4 : 0, .top_p = round % 3 ? 1 : 0.8};
    const StopRules stop{.ids = {1, 3}};
    const auto expected = generate(w, w.requests, sampling, stop);
    for (const int64_t sequences : {1, 3, 64})
      for (const int threads : {1, 2, 3})
        expect_equal(generate(w, w.requests, sampling, stop, {.max_sequences = sequences}, threads), expected,
                     fmt::format("round {}, {} sequences, {} threads", round, sequences, threads));
    for (const Completion& c : expected) {
      AdaptedRequest one = w.requests[c.request];
      one.request.samples = 1, one.request.first_sample = c.sample;
      expect_same(generate(w, {&one, 1}, sampling, stop)[0], c, fmt::format("round {}, alone", round));
    }
  }
}

// Segments of rows in prompts, interleaved rows in decoding, blocks that are full.
TEST(multi_lora, many_sequences_of_few_adapters) {
  Draws draws(test_seed(), Stream::kTest, 9600);
  World w = random_world(4);
  w.adapters.clear(), w.requests.clear();
  for (int i = 0; i < 3; ++i) w.adapters.push_back(random_adapter(w.base, draws));
  for (int r = 0; r < 30; ++r) {
    const int adapter = r % 4 - 1;
    GenerationRequest request{.prompt = random_tokens(1 + draws.below(60), w.base.config(), draws), .samples = 7, .key = uint64_t(r)};
    request.max_tokens = 1 + draws.below(9);
    w.requests.push_back({std::move(request), adapter < 0 ? nullptr : &w.adapters[adapter].weights});
  }
  const auto expected = generate(w, w.requests, {}, {}, {.max_sequences = 1});
  for (const int threads : {1, 2}) expect_equal(generate(w, w.requests, {}, {}, {.max_sequences = 256}, threads), expected, "256");
}

// Several panels of every matrix for each thread, heads with padding.
TEST(multi_lora, a_larger_model_does_not_depend_on_threads) {
  Draws draws(test_seed(), Stream::kTest, 9650);
  TransformerConfig config;
  config.family = "qwen3", config.qk_norm = true, config.vocab_size = 300, config.hidden_size = 256, config.num_layers = 2, config.num_heads = 4;
  config.num_kv_heads = 2, config.head_dim = 40, config.intermediate_size = 500, config.max_positions = 512;
  Transformer base(config, 3);
  stir_weights(base, draws, 3);
  World w{std::move(base), {}, {}, {}};
  for (const int64_t rank : {8, 16}) w.adapters.push_back(adapter_case(w.base, {.rank = rank}, draws, 0.05f));
  for (int r = 0; r < 6; ++r)
    w.requests.push_back({{.prompt = random_tokens(1 + draws.below(150), config, draws), .samples = 2, .key = uint64_t(r), .max_tokens = 6},
                          r % 3 == 0 ? nullptr : &w.adapters[r % 3 - 1].weights});
  const auto expected = generate(w, w.requests, {}, {}, {.max_sequences = 1});
  for (const int threads : {1, 2, 3})
    for (const int64_t sequences : {1, 12}) expect_equal(generate(w, w.requests, {}, {}, {.max_sequences = sequences}, threads), expected, "large");
  for (const Completion& c : expected) {
    const int adapter = static_cast<int>(c.request) % 3 - 1;
    const at::Tensor logp = reference(adapter < 0 ? w.base : w.adapters[adapter].merged, w.requests[c.request].request.prompt, c.tokens);
    for (size_t i = 0; i < c.tokens.size(); ++i) EXPECT_NEAR(logp[static_cast<int64_t>(i)][c.tokens[i]].item<double>(), c.logprobs[i], 1e-4);
  }
}

TEST(multi_lora, an_adapter_with_b_zero_is_the_base) {
  for (uint32_t round = 300; round < 306; ++round) {
    World w = random_world(round);
    Draws draws(test_seed(), Stream::kTest, 9700 + round);
    const AdapterCase zero = adapter_case(w.base, {.rank = 8}, draws, 0);
    auto requests = w.requests;
    for (auto& r : requests) r.adapter = nullptr;
    const auto expected = generate(w, requests, {});
    for (auto& r : requests) r.adapter = &zero.weights;
    expect_equal(generate(w, requests, {}), expected, fmt::format("round {}", round));
  }
}

TEST(multi_lora, continues_as_if_never_interrupted) {
  for (uint32_t round = 400; round < 408; ++round) {
    const World w = random_world(round);
    const StopRules stop{.ids = {2}};
    const auto expected = generate(w, w.requests, {}, stop);
    int64_t all = 0;
    for (const Completion& c : expected) all += static_cast<int64_t>(c.tokens.size());
    auto requests = w.requests;
    std::vector<Completion> got;
    for (int64_t made = 0, part = 0; made < all; ++part) {
      got = generate(w, requests, {}, stop, {.max_sequences = 5, .token_budget = std::max<int64_t>(1, all / 4)}, 1 + part % 2);
      int64_t now = 0;
      for (auto& r : requests) r.request.begun.clear();
      for (const Completion& c : got) requests[c.request].request.begun.push_back({c.tokens, c.logprobs}), now += static_cast<int64_t>(c.tokens.size());
      ASSERT_GT(now, made);
      made = now;
    }
    expect_equal(got, expected, fmt::format("round {}", round));
  }
}

TEST(multi_lora, works_inside_a_task_of_the_pool_and_call_after_call) {
  const World w = random_world(500);
  const auto expected = generate(w, w.requests, {});
  Pool pool(2);
  MultiLoraGenerator generator(w.base, {}, pool);
  for (int i = 0; i < 3; ++i) expect_equal(generator.generate(w.requests, {}, {}, 7, pool), expected, "again");
  std::vector<Completion> inside;
  pool.run(1, [&](int64_t) { inside = generator.generate(w.requests, {}, {}, 7, pool); });
  expect_equal(inside, expected, "inside");
  EXPECT_TRUE(generator.generate({}, {}, {}, 7, pool).empty());
}

template <class Call>
std::string message_of(const Call& call) {
  try {
    call();
  } catch (const std::exception& e) {
    return e.what();
  }
  return "";
}

TEST(multi_lora, wrong_adapters_are_refused_by_name) {
  Draws draws(test_seed(), Stream::kTest, 9800);
  const World w = random_world(600);
  const auto refused = [&](const AdapterWeights& a) {
    const AdaptedRequest request{{.prompt = {1}, .max_tokens = 2}, &a};
    EXPECT_THROW(generate(w, {&request, 1}, {}), DataError);
    return message_of([&] { generate(w, {&request, 1}, {}); });
  };
  AdapterCase c = adapter_case(w.base, {.rank = 4}, draws, 1);
  c.weights.name = "legal";
  AdapterWeights wrong = c.weights;
  wrong.matrices.resize(wrong.matrices.size() - kLoraTargets);
  EXPECT_NE(refused(wrong).find("'legal'"), std::string::npos);
  wrong = c.weights, wrong.matrices[2].a = nullptr;
  EXPECT_NE(refused(wrong).find("layer 0, v_proj"), std::string::npos);
  wrong = c.weights, wrong.matrices[0].rank = -1;
  EXPECT_NE(refused(wrong).find("rank -1"), std::string::npos);
  wrong = c.weights, wrong.matrices[0].scale = std::numeric_limits<float>::quiet_NaN();
  EXPECT_NE(refused(wrong).find("scale"), std::string::npos);
  TransformerConfig narrow = w.base.config();
  narrow.hidden_size -= 2;
  const AdapterCase small = adapter_case(Transformer(narrow, 1), {.rank = 4}, draws, 1);
  EXPECT_NE(refused(small.weights).find("smaller"), std::string::npos);
  const AdaptedRequest fits{{.prompt = {1}, .max_tokens = 2}, &c.weights};
  EXPECT_EQ(generate(w, {&fits, 1}, {}).size(), 1u);
}

TEST(multi_lora, wrong_calls_are_refused) {
  Draws draws(test_seed(), Stream::kTest, 9900);
  const World w = random_world(700);
  Pool pool(1);
  EXPECT_THROW(MultiLoraGenerator(w.base.with_adapter(LoraConfig{}, 1), {}, pool), ConfigError);
  EXPECT_THROW(MultiLoraGenerator(w.base.as_diffusion({.mask_id = 0}), {}, pool), ConfigError);
  EXPECT_THROW(MultiLoraGenerator(w.base, {.max_sequences = 0}, pool), ConfigError);
  EXPECT_THROW(MultiLoraGenerator(w.base, {.token_budget = -1}, pool), ConfigError);
  const AdaptedRequest good{{.prompt = {1}, .max_tokens = 2}}, empty{}, far{{.prompt = {static_cast<int32_t>(w.base.config().vocab_size)}}},
      endless{{.prompt = {1}, .max_tokens = 1000}};
  EXPECT_EQ(generate(w, {&good, 1}, {}).size(), 1u);
  for (const AdaptedRequest* r : {&empty, &far, &endless}) EXPECT_THROW(generate(w, {r, 1}, {}), DataError);
  EXPECT_THROW(generate(w, {&good, 1}, {.temperature = -1}), ConfigError);
  EXPECT_THROW(generate(w, {&good, 1}, {}, {.strings = {"x"}}), ConfigError);
  AdapterCase huge = adapter_case(w.base, {.rank = 4}, draws, 1);
  for (LoraAdapter& m : huge.weights.matrices) m.scale = 3e38f;
  const AdaptedRequest diverged{{.prompt = {1, 2}, .max_tokens = 4}, &huge.weights};
  EXPECT_THROW(generate(w, {&diverged, 1}, {}), RunError);
}

}  // namespace
}  // namespace trimtab
