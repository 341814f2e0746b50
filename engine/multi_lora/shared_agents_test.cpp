// Agents on one cache: against the merged model where that is exact, against a dense float64 reference of what is approximated elsewhere,
// and their promises: bits, bytes, errors.
#include "engine/multi_lora/shared_agents.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "core/test_support.h"
#include "engine/multi_lora/multi_lora_cases.h"
#include "engine/multi_lora/shared_cache.h"

namespace trimtab {
namespace {

const bool kOneThread = (at::set_num_threads(1), true);   // small problems

LoraConfig query_value(int64_t rank) { return {.rank = rank, .alpha = 2.0 * static_cast<double>(rank), .targets = {"q_proj", "v_proj"}}; }

struct World {
  Transformer base;
  std::vector<AdapterCase> adapters;   // agent i + 1; agent 0 is the base
  std::vector<int32_t> text;
  std::vector<AgentRequest> requests;
  std::vector<const AdapterWeights*> agents() const {
    std::vector<const AdapterWeights*> out{nullptr};
    for (const AdapterCase& a : adapters) out.push_back(&a.weights);
    return out;
  }
};

World random_world(uint32_t index, int64_t layers = 0) {
  Draws draws(test_seed(), Stream::kTest, 11000 + index);
  TransformerConfig config = random_base(draws);
  if (layers > 0) config.num_layers = layers;
  Transformer base(config, test_seed() + index);
  stir_weights(base, draws);
  World w{std::move(base), {}, {}, {}};
  const bool same_a = draws.below(2) == 0;
  const int64_t rank = 1 + draws.below(12);
  for (uint32_t i = 0, n = 1 + draws.below(4); i < n; ++i) {
    LoraConfig lora = query_value(same_a ? rank : 1 + draws.below(20));
    if (!same_a && draws.below(3) == 0) lora.targets = {draws.below(2) == 0 ? "q_proj" : "v_proj"};
    w.adapters.push_back(adapter_case(w.base, lora, draws, 0.3f, draws.below(3) == 0 ? LoraNumbers::kBfloat16 : LoraNumbers::kFloat, same_a ? 5 : 0));
  }
  w.text = random_tokens(draws.below(3) == 0 ? 100 + draws.below(150) : 1 + draws.below(40), w.base.config(), draws);
  for (uint32_t r = 0, n = 1 + draws.below(6); r < n; ++r)
    w.requests.push_back({.agent = draws.below(static_cast<uint32_t>(w.adapters.size()) + 1), .samples = 1 + draws.below(4),
                          .key = uint64_t{draws.bits()} << 32 | r, .first_sample = draws.below(3), .max_tokens = 1 + draws.below(30)});
  return w;
}

std::vector<Completion> generate(const World& w, std::span<const AgentRequest> requests, const SamplingOptions& sampling = {}, const StopRules& stop = {},
                                 GeneratorOptions options = {}, int threads = 1) {
  Pool pool(threads);
  SharedAgents agents(w.base, w.agents(), static_cast<int64_t>(w.text.size()), options, pool);
  agents.read(w.text, pool);
  return agents.generate(requests, sampling, stop, 7, pool);
}

// The definition, in float64: the base model reads the text but for its last token; the agent goes on over its K and V + scale Z B.
class DenseAgent {
 public:
  DenseAgent(const Transformer& base, const AdapterCase* adapter) : base_(base), adapter_(adapter), c_(base.config()) {}

  at::Tensor logprobs(const std::vector<int32_t>& text, const std::vector<int32_t>& tokens) {
    const at::NoGradGuard no_grad;
    std::vector<int64_t> shared(text.begin(), text.end() - 1), own{text.back()};
    own.insert(own.end(), tokens.begin(), tokens.end() - 1);
    at::Tensor x = embed(shared), y = embed(own);
    for (int64_t l = 0; l < c_.num_layers; ++l) {
      layer_ = fmt::format("model.layers.{}.", l);
      const at::Tensor a = normed(x, "input_layernorm.weight"), b = normed(y, "input_layernorm.weight");
      const int64_t n = a.size(0);
      const at::Tensor k = heads(linear(a, "self_attn.k_proj"), "k_norm", 0), v = split(linear(a, "self_attn.v_proj"));
      const at::Tensor agent_v = split(linear(a, "self_attn.v_proj") + low_rank(a, "v_proj"));
      const at::Tensor own_k = heads(linear(b, "self_attn.k_proj"), "k_norm", n), own_v = split(linear(b, "self_attn.v_proj") + low_rank(b, "v_proj"));
      const at::Tensor q = heads(linear(a, "self_attn.q_proj"), "q_norm", 0), own_q = heads(linear(b, "self_attn.q_proj") + low_rank(b, "q_proj"), "q_norm", n);
      x = rest(x, attend(q, k, v, 0));
      y = rest(y, attend(own_q, at::cat({k, own_k}, 1), at::cat({agent_v, own_v}, 1), n));
    }
    layer_ = "model.";
    return at::log_softmax(at::mm(normed(y, "norm.weight"), base_.head().to(at::kDouble).t()), -1);
  }

 private:
  at::Tensor get(const std::string& name) const { return base_.parameters().at(layer_ + name).detach().to(at::kDouble); }
  at::Tensor embed(const std::vector<int64_t>& ids) const {
    return at::embedding(base_.parameters().at("model.embed_tokens.weight").detach().to(at::kDouble), at::tensor(ids, at::kLong));
  }
  at::Tensor rms(const at::Tensor& x, const at::Tensor& weight) const { return weight * x * at::rsqrt(x.square().mean(-1, true) + c_.norm_eps); }
  at::Tensor normed(const at::Tensor& x, const std::string& name) const { return rms(x, get(name)); }
  at::Tensor linear(const at::Tensor& x, const std::string& name) const {
    const at::Tensor y = at::mm(x, get(name + ".weight").t());
    return base_.parameters().contains(layer_ + name + ".bias") ? y + get(name + ".bias") : y;
  }
  at::Tensor low_rank(const at::Tensor& x, const std::string& target) const {
    if (adapter_ == nullptr) return at::zeros({1}, at::kDouble);
    const auto& p = adapter_->merged.trainable_parameters();
    const auto a = p.find(layer_ + "self_attn." + target + ".lora_A.weight");
    if (a == p.end()) return at::zeros({1}, at::kDouble);
    const at::Tensor b = p.at(layer_ + "self_attn." + target + ".lora_B.weight");
    return at::mm(at::mm(x, a->second.detach().to(at::kDouble).t()), b.detach().to(at::kDouble).t()) * adapter_->merged.adapter()->scale();
  }
  at::Tensor split(const at::Tensor& x) const { return x.view({x.size(0), x.size(1) / c_.head_dim, c_.head_dim}).transpose(0, 1); }   // [heads, rows, head_dim]
  at::Tensor heads(const at::Tensor& x, const char* norm, int64_t position) const {
    at::Tensor h = split(x);
    if (c_.qk_norm) h = rms(h, get(fmt::format("self_attn.{}.weight", norm)));
    const RopeFrequencies rope = rope_frequencies(c_.rope, c_.head_dim);
    const at::Tensor angles = at::outer(at::arange(position, position + x.size(0), at::kDouble), at::tensor(rope.inverse, at::kDouble));
    const at::Tensor cosine = angles.cos() * rope.attention_factor, sine = angles.sin() * rope.attention_factor;
    const at::Tensor a = h.narrow(2, 0, c_.head_dim / 2), b = h.narrow(2, c_.head_dim / 2, c_.head_dim / 2);
    return at::cat({a * cosine - b * sine, b * cosine + a * sine}, 2);
  }
  // Row i sees the first `before` + i + 1 keys.
  at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int64_t before) const {
    const int64_t group = c_.num_heads / c_.num_kv_heads;
    const at::Tensor scores = at::matmul(q, k.repeat_interleave(group, 0).transpose(1, 2)) / std::sqrt(static_cast<double>(c_.head_dim));
    const at::Tensor hidden = at::ones({q.size(1), k.size(1)}, at::kBool).triu(before + 1);
    const at::Tensor mixed = at::matmul(at::softmax(scores.masked_fill(hidden, -INFINITY), -1), v.repeat_interleave(group, 0));
    return mixed.transpose(0, 1).reshape({q.size(1), c_.num_heads * c_.head_dim});
  }
  at::Tensor rest(const at::Tensor& x, const at::Tensor& mixed) const {
    const at::Tensor y = x + linear(mixed, "self_attn.o_proj"), z = normed(y, "post_attention_layernorm.weight");
    return y + linear(at::silu(linear(z, "mlp.gate_proj")) * linear(z, "mlp.up_proj"), "mlp.down_proj");
  }

  const Transformer& base_;
  const AdapterCase* adapter_;
  const TransformerConfig& c_;
  std::string layer_;
};

double worst_difference(const at::Tensor& logp, const Completion& c) {
  double worst = 0;
  for (size_t i = 0; i < c.tokens.size(); ++i) worst = std::max(worst, std::abs(logp[static_cast<int64_t>(i)][c.tokens[i]].item<double>() - c.logprobs[i]));
  return worst;
}

TEST(shared_agents, follow_their_definition) {
  for (uint32_t round = 0; round < 30; ++round) {
    const World w = random_world(round);
    for (const Completion& c : generate(w, w.requests, {}, {}, {}, 1 + round % 2)) {
      const int64_t agent = w.requests[c.request].agent;
      DenseAgent dense(w.base, agent == 0 ? nullptr : &w.adapters[agent - 1]);
      ASSERT_LE(worst_difference(dense.logprobs(w.text, c.tokens), c), 1e-4) << "round " << round << ", " << w.base.config().json();
    }
  }
}

void expect_merged(const World& w, uint32_t round) {
  for (const Completion& c : generate(w, w.requests)) {
    const int64_t agent = w.requests[c.request].agent;
    const Transformer& model = agent == 0 ? w.base : w.adapters[agent - 1].merged;
    ASSERT_LE(worst_difference(reference(model, w.text, c.tokens), c), 1e-4) << round;
  }
}

// Of one layer all inputs of K, V and Z are embeddings: V + scale Z B is the merged model's V.
TEST(shared_agents, one_layer_is_the_merged_model) {
  for (uint32_t round = 100; round < 120; ++round) {
    const World w = random_world(round, 1);
    expect_merged(w, round);
  }
}

TEST(shared_agents, a_text_of_one_token_is_the_merged_model) {
  for (uint32_t round = 150; round < 160; ++round) {
    World w = random_world(round, 3);
    w.text.resize(1);
    expect_merged(w, round);
  }
}

TEST(shared_agents, b_zero_is_the_base_to_the_bit_and_the_base_is_generators) {
  for (uint32_t round = 200; round < 215; ++round) {
    World w = random_world(round);
    Draws draws(test_seed(), Stream::kTest, 12000 + round);
    w.adapters.clear();
    w.adapters.push_back(adapter_case(w.base, query_value(6), draws, 0));
    auto requests = w.requests;
    for (auto& r : requests) r.agent = 0;
    const auto base = generate(w, requests);
    for (auto& r : requests) r.agent = 1;
    expect_equal(generate(w, requests), base, fmt::format("round {}", round));
    for (const Completion& c : base) ASSERT_LE(worst_difference(reference(w.base, w.text, c.tokens), c), 1e-4) << round;
  }
}

TEST(shared_agents, sequences_do_not_depend_on_company_threads_or_how_the_text_was_read) {
  for (uint32_t round = 300; round < 312; ++round) {
    const World w = random_world(round);
    const SamplingOptions sampling{.temperature = 1.1, .top_k = round % 2 ? 4 : 0};
    const StopRules stop{.ids = {1, 3}};
    const auto expected = generate(w, w.requests, sampling, stop);
    for (const int64_t sequences : {1, 3, 64})
      for (const int threads : {1, 2, 3})
        expect_equal(generate(w, w.requests, sampling, stop, {.max_sequences = sequences}, threads), expected,
                     fmt::format("round {}, {} sequences, {} threads", round, sequences, threads));
    for (const Completion& c : expected) {
      AgentRequest one = w.requests[c.request];
      one.samples = 1, one.first_sample = c.sample;
      expect_same(generate(w, {&one, 1}, sampling, stop)[0], c, fmt::format("round {}, alone", round));
    }
    Pool pool(2);
    SharedAgents agents(w.base, w.agents(), 400, {}, pool);
    agents.read(std::vector<int32_t>(70, 1), pool), agents.clear();
    for (size_t first = 0, step = 1; first < w.text.size(); first += step, step = step * 2 + 1) {
      agents.read(std::span(w.text).subspan(first, std::min(step, w.text.size() - first)), pool);
      if (step == 3) agents.generate(w.requests, sampling, stop, 8, pool);   // leaves no trace
    }
    EXPECT_EQ(agents.tokens(), static_cast<int64_t>(w.text.size()));
    expect_equal(agents.generate(w.requests, sampling, stop, 7, pool), expected, fmt::format("round {}, in parts", round));
  }
}

TEST(shared_agents, budget_ends_a_call) {
  const World w = random_world(400);
  const AgentRequest request{.agent = 1, .samples = 3, .max_tokens = 10};
  const auto got = generate(w, {&request, 1}, {}, {}, {.token_budget = 7}), whole = generate(w, {&request, 1});
  size_t made = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    made += got[i].tokens.size();
    EXPECT_EQ(got[i].finish, Finish::kUnfinished);
    EXPECT_TRUE(std::equal(got[i].tokens.begin(), got[i].tokens.end(), whole[i].tokens.begin()));
  }
  EXPECT_EQ(made, 7u);
}

TEST(shared_agents, four_adapters_with_one_a_cost_less_than_a_tenth_of_a_cache) {
  Draws draws(test_seed(), Stream::kTest, 12500);
  TransformerConfig c;
  c.vocab_size = 31, c.hidden_size = 64, c.num_layers = 2, c.num_heads = 4, c.num_kv_heads = 2, c.head_dim = 64, c.intermediate_size = 32;
  World w{Transformer(c, 3), {}, {}, {}};
  Pool pool(1);
  const auto bytes = [&](uint64_t seed) {
    w.adapters.clear();
    for (int i = 0; i < 4; ++i) w.adapters.push_back(adapter_case(w.base, query_value(8), draws, 1, LoraNumbers::kFloat, seed));
    SharedAgents agents(w.base, w.agents(), 100, {}, pool);
    agents.read(std::vector<int32_t>(100, 1), pool);
    return agents.cache_bytes();
  };
  const AgentCacheBytes same = bytes(5), own = bytes(0);
  EXPECT_EQ(same.one_cache, 100 * 2 * 2 * 2 * 64 * 4);
  EXPECT_EQ(same.low_rank, 100 * 2 * 8 * 4);
  EXPECT_LE(same.total, 1.1 * same.one_cache);
  EXPECT_EQ(own.low_rank, 4 * same.low_rank);
  EXPECT_LE(own.total, 1.2 * own.one_cache);   // instead of 4
}

TEST(shared_agents, adapters_share_z_where_their_a_is_equal_number_by_number) {
  Draws draws(test_seed(), Stream::kTest, 12600);
  const World w = random_world(500);
  const auto sets = [&](std::vector<AdapterCase> cases) {
    std::vector<const AdapterWeights*> adapters;
    for (const AdapterCase& c : cases) adapters.push_back(&c.weights);
    const AdapterTable table(adapters, w.base.config());
    return SharedCache(w.base.config(), table, 10).num_low_rank(0);
  };
  const auto make = [&](int64_t rank, uint64_t seed, LoraNumbers numbers = LoraNumbers::kFloat) {
    return adapter_case(w.base, query_value(rank), draws, 1, numbers, seed);
  };
  std::vector<AdapterCase> two, three;
  two.push_back(make(4, 1)), two.push_back(make(4, 1));
  three.push_back(make(4, 1)), three.push_back(make(4, 2)), three.push_back(make(8, 1)), three.push_back(make(8, 1, LoraNumbers::kBfloat16));
  EXPECT_EQ(sets(std::move(two)), 1);
  EXPECT_EQ(sets(std::move(three)), 4);
}

TEST(shared_agents, wrong_agents_and_calls_are_refused) {
  Draws draws(test_seed(), Stream::kTest, 12700);
  World w = random_world(600);
  Pool pool(1);
  for (const char* target : {"k_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}) {
    AdapterCase wide = adapter_case(w.base, {.rank = 2, .targets = {"v_proj", target}}, draws, 1);
    wide.weights.name = "legal";
    try {
      SharedAgents(w.base, {&wide.weights}, 10, {}, pool);
      ADD_FAILURE() << target;
    } catch (const DataError& e) {
      EXPECT_NE(std::string(e.what()).find(fmt::format("'legal' changes {}", target)), std::string::npos) << e.what();
    }
  }
  const AdapterCase high = adapter_case(w.base, {.rank = kLoraMostRank + 1, .targets = {"v_proj"}}, draws, 1);
  EXPECT_THROW(SharedAgents(w.base, {&high.weights}, 10, {}, pool), DataError);
  AdapterWeights shallow = w.adapters[0].weights;
  shallow.matrices.pop_back();
  EXPECT_THROW(SharedAgents(w.base, {&shallow}, 10, {}, pool), DataError);
  EXPECT_THROW(SharedAgents(w.base, {}, 0, {}, pool), ConfigError);
  EXPECT_THROW(SharedAgents(w.adapters[0].merged, {}, 10, {}, pool), ConfigError);
  SharedAgents agents(w.base, w.agents(), 10, {}, pool);
  const AgentRequest good{.agent = 1, .max_tokens = 3}, unknown{.agent = 7}, endless{.agent = 1, .max_tokens = 1000};
  EXPECT_THROW(agents.generate({&good, 1}, {}, {}, 7, pool), DataError);   // no text yet
  agents.read(std::vector<int32_t>{1, 2, 3}, pool);
  const auto expected = agents.generate({&good, 1}, {}, {}, 7, pool);
  for (const AgentRequest* r : {&unknown, &endless}) EXPECT_THROW(agents.generate({r, 1}, {}, {}, 7, pool), DataError);
  EXPECT_THROW(agents.read(std::vector<int32_t>{1, -1}, pool), DataError);
  EXPECT_THROW(agents.read(std::vector<int32_t>(8, 1), pool), DataError);
  EXPECT_EQ(agents.tokens(), 3);
  expect_equal(agents.generate({&good, 1}, {}, {}, 7, pool), expected, "after errors");
}

}  // namespace
}  // namespace trimtab
