// Jacobi decoding is greedy decoding in fewer passes.
#include "engine/diffusion/jacobi.h"

#include <gtest/gtest.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>

#include "core/error.h"
#include "core/random.h"
#include "core/test_support.h"

namespace trimtab {
namespace {

Transformer model_of(uint32_t index, float scale) {
  TransformerConfig c;
  c.vocab_size = 19, c.hidden_size = 32, c.num_layers = 2, c.num_heads = 2, c.num_kv_heads = 1, c.head_dim = 16, c.intermediate_size = 40, c.max_positions = 256;
  Transformer model(c, test_seed() + index);
  const at::NoGradGuard no_grad;
  for (const auto& [name, p] : model.parameters())
    if (p.dim() == 2) p.mul_(scale);
  return model;
}

TEST(jacobi, is_what_plain_generation_gives) {
  int64_t passes = 0, tokens = 0;
  for (uint32_t round = 0; round < 8; ++round) {
    const Transformer model = model_of(round, 4);
    Draws draws(test_seed(), Stream::kTest, round);
    std::vector<GenerationRequest> requests;
    for (int64_t r = 0; r < 5; ++r) {
      GenerationRequest& q = requests.emplace_back();
      for (int64_t i = 0, n = 1 + draws.below(r == 0 ? 150 : 20); i < n; ++i) q.prompt.push_back(static_cast<int32_t>(draws.below(19)));
      q.samples = 1 + draws.below(2), q.max_tokens = r == 1 ? 1 : 1 + draws.below(60);
    }
    const StopRules stop{.ids = {static_cast<int32_t>(round)}};
    Pool pool(1 + round % 2);
    const int64_t window = 1 + round * 4;
    const auto plain = Generator(model).generate(requests, {.temperature = 0}, stop, 1, pool);
    const auto jacobi = JacobiDecoder(model, {.max_sequences = 1 + round, .window = window}).generate(requests, 60, stop, pool);
    ASSERT_EQ(plain.size(), jacobi.size());
    for (size_t i = 0; i < plain.size(); ++i) {
      const Completion& c = jacobi[i].completion;
      EXPECT_EQ(plain[i].tokens, c.tokens) << "completion " << i;
      EXPECT_EQ(plain[i].logprobs, c.logprobs);   // bit for bit
      EXPECT_EQ(plain[i].finish, c.finish);
      const int64_t n = static_cast<int64_t>(c.tokens.size());
      EXPECT_LE(jacobi[i].passes, n);
      EXPECT_GE(jacobi[i].passes * (1 + window), n);
      passes += jacobi[i].passes, tokens += n;
    }
  }
  EXPECT_LT(passes, tokens);
}

// A model that says the last token again and again is guessed right at once.
TEST(jacobi, right_guesses_settle_a_window_in_a_pass) {
  Transformer model = model_of(30, 1);
  {
    const at::NoGradGuard no_grad;
    for (const auto& [name, p] : model.parameters())
      if (name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight")) p.zero_();
    model.parameters().at("lm_head.weight").copy_(model.parameters().at("model.embed_tokens.weight"));
    model.parameters().at("model.embed_tokens.weight").mul_(10), model.parameters().at("lm_head.weight").div_(0.02);
  }
  GenerationRequest request;
  request.prompt = {4, 9, 2}, request.max_tokens = 27;
  Pool pool(1);
  const auto out = JacobiDecoder(model, {.window = 8}).generate(std::span(&request, 1), 27, {}, pool);
  EXPECT_EQ(out[0].completion.tokens, std::vector<int32_t>(27, 2));
  EXPECT_EQ(out[0].passes, 3);   // nine tokens each
}

TEST(jacobi, refuses_what_cannot_be) {
  const Transformer model = model_of(31, 1);
  EXPECT_THROW(JacobiDecoder(model, {.window = 0}), ConfigError);
  EXPECT_THROW(JacobiDecoder(model, {.window = 41}), ConfigError);
  JacobiDecoder decoder(model);
  Pool pool(1);
  GenerationRequest request;
  EXPECT_THROW(decoder.generate(std::span(&request, 1), 10, {}, pool), DataError);
  request.prompt.assign(250, 1);
  EXPECT_THROW(decoder.generate(std::span(&request, 1), 10, {}, pool), DataError);
  request.prompt = {1}, request.begun = {{{1}, {0}}};
  EXPECT_THROW(decoder.generate(std::span(&request, 1), 10, {}, pool), DataError);
}

}  // namespace
}  // namespace trimtab
