// The mixture: against merged models, its gradients against finite differences, its decoding against whole forwards, its folder.
#include "policies/language/adapter_mixture/mixture.h"

#include <gtest/gtest.h>
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/optim.h>

#include <fstream>

#include "core/error.h"
#include "core/random.h"
#include "core/test_support.h"
#include "policies/language/test_support.h"

namespace trimtab {
namespace {

const bool kOneThread = (at::set_num_threads(1), true);   // small problems

const std::vector<std::string> kAll = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"};

void randomise(const at::Tensor& to, double deviation, uint32_t stream) {
  const at::NoGradGuard no_grad;
  Draws draws(test_seed(), Stream::kTest, stream);
  const at::Tensor flat = to.view({-1});
  for (int64_t i = 0; i < flat.numel(); ++i) flat[i] = deviation * draws.normal();
}

// Adapters of one base with other ranks, scales and targets.
struct Family {
  explicit Family(const std::string& family = "llama", at::ScalarType dtype = at::kDouble) : base(tiny(family), 1, dtype, {.weight = 0.3, .embedding = 0.3}) {
    add({.rank = 3, .alpha = 5, .targets = kAll}, 41);
    add({.rank = 2, .alpha = 3, .rslora = true, .targets = {"q_proj", "down_proj"}}, 42);
    add({.rank = 4, .alpha = 4, .targets = {"layers.1.self_attn.v_proj", "o_proj", "up_proj"}}, 43);
  }
  void add(const LoraConfig& lora, uint32_t stream) {
    adapters.push_back(base.with_adapter(lora, 1));
    randomise(adapters.back().trainable(), 0.3, stream);
  }
  AdapterMixture mixture(const TsallisRouting& routing = {}) const { return AdapterMixture(base, adapters, routing); }
  Transformer base;
  std::vector<Transformer> adapters;
};

struct Sequences {   // a prompt with two continuations
  explicit Sequences(uint32_t stream = 44) {
    Draws draws(test_seed(), Stream::kTest, stream);
    const int64_t root = trie.add(-1, 5);
    trie.add(root, 4), trie.add(root, 6);
    std::vector<int64_t> ids;
    for (int64_t i = 0; i < trie.num_rows; ++i) ids.push_back(draws.below(23));
    tokens = at::tensor(ids, at::kLong);
  }
  Trie trie;
  at::Tensor tokens;
};

at::Tensor logits(const AdapterMixture& m, const Sequences& s) { return at::mm(m.forward(s.tokens, s.trie).hidden, m.head().t()); }
double difference(const at::Tensor& a, const at::Tensor& b) { return (a - b).abs().max().item<double>(); }

TEST(AdapterMixture, OfOneAdapterIsThatAdapter) {
  for (const char* family : {"llama", "qwen2", "qwen3"}) {
    const Family f(family);
    const Sequences s;
    for (const Transformer& adapter : f.adapters) {
      const AdapterMixture mixture(f.base, std::span(&adapter, 1), {});
      randomise(mixture.routers(), 1, 45);
      Transformer merged(f.base.config(), 1, at::kDouble);
      {
        const at::NoGradGuard no_grad;
        for (const auto& [name, value] : adapter.merged()) merged.parameters().at(name).copy_(value);
      }
      EXPECT_LE(difference(logits(mixture, s), merged.logits(s.tokens, s.trie)), 1e-11) << family;
    }
  }
}

TEST(AdapterMixture, RoutersThatAreSureGiveOneAdapter) {
  for (const char* family : {"llama", "qwen2"}) {
    const Family f(family);
    const Sequences s;
    for (int64_t i = 0; i < 3; ++i) {
      const AdapterMixture mixture = f.mixture();
      {
        const at::NoGradGuard no_grad;
        mixture.routers().select(1, i).select(1, mixture.config().hidden_size).fill_(200);   // of the others e^-200 is left
      }
      const at::Tensor wanted = f.adapters[i].logits(s.tokens, s.trie);
      EXPECT_LE(difference(logits(mixture, s), wanted), 1e-11);
      std::vector<double> alone(3);
      alone[i] = 1;
      EXPECT_LE(difference(logits(f.mixture().with_fixed_weights(alone), s), wanted), 1e-11);
    }
    EXPECT_LE(difference(logits(f.mixture().with_fixed_weights({0, 0, 0}), s), f.base.logits(s.tokens, s.trie)), 1e-11);
  }
}

// Against a model whose weights are W + sum_i w_i scale_i B_i A_i.
TEST(AdapterMixture, FixedWeightsAreTheWeightedSumOfWhatTheAdaptersAdd) {
  const Family f;
  const Sequences s;
  const std::vector<double> weights = {0.5, 0.3, 0.2};
  Transformer sum(f.base.config(), 1, at::kDouble);
  {
    const at::NoGradGuard no_grad;
    for (const auto& [name, value] : f.base.parameters()) {
      const at::Tensor& to = sum.parameters().at(name).copy_(value);
      for (size_t i = 0; i < weights.size(); ++i) to.add_(f.adapters[i].merged().at(name) - value, weights[i]);
    }
  }
  EXPECT_LE(difference(logits(f.mixture().with_fixed_weights(weights), s), sum.logits(s.tokens, s.trie)), 1e-11);
}

TEST(AdapterMixture, StartsEvenAndRoutesByItsRule) {
  const Family f;
  const Sequences s;
  const AdapterMixture mixture = f.mixture();
  EXPECT_LE(difference(logits(mixture, s), logits(mixture.with_fixed_weights({1.0 / 3, 1.0 / 3, 1.0 / 3}), s)), 1e-11);
  randomise(mixture.routers(), 1, 46);
  const MixturePass pass = mixture.forward(s.tokens, s.trie);
  ASSERT_EQ(pass.weights.size(), 2u);
  int64_t soft = 0;
  for (size_t l = 0; l < 2; ++l)
    for (int64_t t = 0; t < s.tokens.numel(); ++t) {
      const at::Tensor p = pass.probabilities[l][t].detach().contiguous();
      std::vector<double> wanted(3);
      soft += route({p.data_ptr<double>(), 3}, mixture.routing(), wanted);
      for (int64_t i = 0; i < 3; ++i) EXPECT_NEAR(pass.weights[l][t][i].item<double>(), wanted[i], 1e-12);
    }
  EXPECT_EQ(pass.soft, soft);
}

// Central differences of `loss` at a few entries of the routers against its gradient. What is kept and counted is constant nearly everywhere.
void expect_gradients(const AdapterMixture& mixture, const std::function<at::Tensor()>& loss) {
  const at::Tensor gradient = torch::autograd::grad({loss()}, {mixture.routers()})[0].view({-1}), flat = mixture.routers().detach().view({-1});
  EXPECT_GT(gradient.abs().max().item<double>(), 0);
  Draws draws(test_seed(), Stream::kTest, 47);
  const at::NoGradGuard no_grad;
  constexpr double kStep = 1e-6;
  for (int trial = 0; trial < 25; ++trial) {
    const int64_t i = draws.below(static_cast<uint32_t>(flat.numel()));
    const double value = flat[i].item<double>();
    flat[i] = value + kStep;
    const double above = loss().item<double>();
    flat[i] = value - kStep;
    const double below = loss().item<double>();
    flat[i] = value;
    EXPECT_NEAR(gradient[i].item<double>(), (above - below) / (2 * kStep), 1e-6 * (1 + gradient.abs().max().item<double>()));
  }
}

TEST(AdapterMixture, GradientsAreFiniteDifferencesSoftAndHard) {
  const Family f;
  const Sequences s;
  for (const TsallisRouting& routing : {TsallisRouting{.threshold = 0}, TsallisRouting{.threshold = 1, .top_p = 0, .keep = 2}, TsallisRouting{.q = 1}}) {
    const AdapterMixture mixture = f.mixture(routing);
    randomise(mixture.routers(), 0.7, 48);
    expect_gradients(mixture, [&] { return mixture.router_loss(mixture.forward(s.tokens, s.trie), {.entropy = 1, .balance = 0.5}); });
    expect_gradients(mixture, [&] { return at::log_softmax(logits(mixture, s), 1).select(1, 3).mean(); });
  }
}

TEST(AdapterMixture, RouterLossIsItsDefinition) {
  const at::Tensor p = at::tensor({0.7, 0.2, 0.1, 0.1, 0.5, 0.4, 0.6, 0.3, 0.1}, at::kDouble).view({3, 3});
  double entropy = 0;
  for (int64_t t = 0; t < 3; ++t) entropy += tsallis_entropy(std::span<const double>(p.data_ptr<double>() + 3 * t, 3), 1.1) / 3;
  EXPECT_NEAR(tsallis_entropy(p, 1.1).mean().item<double>(), entropy, 1e-12);
  // The two likeliest: {0, 1}, {1, 2}, {0, 1}: f = 2/6, 3/6, 1/6; P = 1.4/3, 1/3, 0.6/3.
  EXPECT_NEAR(balance_loss(p).item<double>(), 3 * (2 * 1.4 + 3 * 1.0 + 1 * 0.6) / 18, 1e-12);
  EXPECT_NEAR(balance_loss(at::full({4, 5}, 0.2, at::kDouble)).item<double>(), 1, 1e-12);
}

TEST(AdapterMixture, DecodesWhatWholeForwardsFindLikeliest) {
  for (const char* family : {"llama", "qwen2", "qwen3"}) {
    const Family f(family);
    const AdapterMixture mixture = f.mixture();
    randomise(mixture.routers(), 1, 49);
    const std::vector<std::vector<int32_t>> prompts = {{3, 4, 5}, {7}, {1, 2, 3, 4, 5, 6}};
    const auto replies = mixture.complete(prompts, 8, [](size_t prompt, std::span<const int32_t> reply) { return prompt == 1 && reply.size() == 4; });
    for (size_t i = 0; i < prompts.size(); ++i) {
      ASSERT_EQ(replies[i].size(), i == 1 ? 4u : 8u);
      std::vector<int64_t> tokens(prompts[i].begin(), prompts[i].end());
      for (const int32_t token : replies[i]) {
        Trie trie;
        trie.add(-1, static_cast<int64_t>(tokens.size()));
        const at::Tensor hidden = mixture.forward(at::tensor(tokens, at::kLong), trie).hidden;
        EXPECT_EQ(at::mv(mixture.head(), hidden[hidden.size(0) - 1]).argmax().item<int64_t>(), token) << family;
        tokens.push_back(token);
      }
    }
  }
}

TEST(AdapterMixture, FoldersAreReadAsTheyWereWritten) {
  const TemporaryFolder root;
  const Family f("llama", at::kFloat);
  const AdapterMixture mixture = f.mixture({.q = 1.5, .threshold = 0.4, .top_p = 0.6, .keep = 1});
  randomise(mixture.routers(), 1, 50);
  mixture.write(root.path());
  const AdapterMixture again = AdapterMixture::read(f.base, root.path());
  const Sequences s;
  EXPECT_TRUE(again.routers().equal(mixture.routers()));
  EXPECT_EQ(again.routing().q, 1.5);
  EXPECT_EQ(again.routing().keep, 1);
  EXPECT_TRUE(logits(again, s).equal(logits(mixture, s)));
  EXPECT_TRUE(again.routers().requires_grad());
}

std::string refusal(const Transformer& base, const std::filesystem::path& folder) {
  try {
    AdapterMixture::read(base, folder);
  } catch (const DataError& e) {
    return e.what();
  }
  return "";
}

TEST(AdapterMixture, WhatCannotBeRightIsRefusedByName) {
  const TemporaryFolder root;
  Family f("llama", at::kFloat);
  EXPECT_NE(refusal(f.base, root.path()).find("mixture.json"), std::string::npos);
  f.mixture().write(root.path());
  EXPECT_EQ(refusal(f.base, root.path()), "");
  std::filesystem::remove_all(root.path() / "adapters" / "2");
  EXPECT_NE(refusal(f.base, root.path()).find("adapter_config.json"), std::string::npos);
  std::ofstream(root.path() / "mixture.json") << R"({"q": 1.1, "threshold": 0.9, "top_p": 0.75, "keep": 2, "adapters": 2})";
  EXPECT_NE(refusal(f.base, root.path()).find("'routers' has shape [2, 3, 17]"), std::string::npos);
  std::ofstream(root.path() / "mixture.json") << R"({"q": 1.1, "threshold": 9, "top_p": 0.75, "keep": 2, "adapters": 2})";
  EXPECT_NE(refusal(f.base, root.path()).find("'threshold'"), std::string::npos);
  EXPECT_THROW(AdapterMixture(f.base, {}, {}), ConfigError);
  f.add({.rank = 2, .targets = {"lm_head"}}, 51);
  EXPECT_THROW(f.mixture(), ConfigError);
}

// Two tasks with tokens of their own: the next one is one further in a circle of ten, or three further in another circle. One adapter is trained
// for each; then the routers, on both.
struct TwoTasks {
  static constexpr int64_t kLength = 9;
  static Sequences texts(int task, uint32_t draw) {
    Sequences out;
    out.trie = {};
    Draws draws(test_seed(), Stream::kTest, 52, draw);
    std::vector<int64_t> ids;
    for (int64_t i = 0; i < 8; ++i) {
      out.trie.add(-1, kLength);
      int64_t value = draws.below(10);
      for (int64_t t = 0; t < kLength; ++t, value = (value + 1 + 2 * task) % 10) ids.push_back(10 * task + value);
    }
    out.tokens = at::tensor(ids, at::kLong);
    return out;
  }
  // Mean loss of the tokens after the first.
  static at::Tensor loss(const at::Tensor& hidden, const at::Tensor& head, const Sequences& s) {
    const at::Tensor logp = at::log_softmax(at::mm(hidden, head.t()), 1).view({-1, kLength, 23}).narrow(1, 0, kLength - 1);
    return -logp.gather(2, s.tokens.view({-1, kLength, 1}).narrow(1, 1, kLength - 1)).mean();
  }
};

void descend(const at::Tensor& parameters, double lr, int steps, const std::function<at::Tensor(int step)>& loss) {
  torch::optim::Adam adam({parameters}, lr);
  for (int step = 0; step < steps; ++step) {
    parameters.mutable_grad() = torch::autograd::grad({loss(step)}, {parameters})[0];
    adam.step();
  }
}

TEST(AdapterMixture, RoutersLearnWhichAdapterATaskNeeds) {
  Family f("llama", at::kFloat);
  f.adapters.clear();
  for (int task = 0; task < 2; ++task) {
    f.adapters.push_back(f.base.with_adapter({.rank = 8, .alpha = 16, .targets = kAll}, 1 + task));
    const Transformer& adapter = f.adapters.back();
    std::vector<at::Tensor> leaves;
    for (const auto& [name, value] : adapter.trainable_parameters()) leaves.push_back(value);
    torch::optim::Adam adam(leaves, 2e-2);
    for (uint32_t step = 0; step < 120; ++step) {
      const Sequences s = TwoTasks::texts(task, step);
      adapter.flat_gradient().zero_();
      TwoTasks::loss(adapter.hidden(s.tokens, s.trie), adapter.head().detach(), s).backward();
      adam.step();
    }
  }
  const AdapterMixture mixture = f.mixture();
  const auto task_loss = [&](const AdapterMixture& m, int task, uint32_t draw) {
    const Sequences s = TwoTasks::texts(task, draw);
    return TwoTasks::loss(m.forward(s.tokens, s.trie).hidden, m.head(), s);
  };
  double even[2], alone[2], other[2];
  for (int task = 0; task < 2; ++task) {
    even[task] = task_loss(mixture, task, 9999).item<double>();
    alone[task] = task_loss(mixture.with_fixed_weights({1.0 - task, 0.0 + task}), task, 9999).item<double>();
    other[task] = task_loss(mixture.with_fixed_weights({0.0 + task, 1.0 - task}), task, 9999).item<double>();
    EXPECT_LT(alone[task], 0.5) << "adapter " << task << " has not learned its task";
    EXPECT_GT(other[task], 1) << "the other adapter solves task " << task << " too";
  }
  descend(mixture.routers(), 3e-2, 120, [&](int step) {
    const Sequences s = TwoTasks::texts(step % 2, 5000 + step);
    const MixturePass pass = mixture.forward(s.tokens, s.trie);
    return TwoTasks::loss(pass.hidden, mixture.head(), s) + mixture.router_loss(pass, {});
  });
  for (int task = 0; task < 2; ++task) {
    const double learned = task_loss(mixture, task, 9999).item<double>();
    EXPECT_LT(learned, alone[task] + 0.5 * (even[task] - alone[task])) << "task " << task << ", even " << even[task] << ", alone " << alone[task];
    const Sequences s = TwoTasks::texts(task, 9999);
    double right = 0;
    for (const at::Tensor& w : mixture.forward(s.tokens, s.trie).weights) right += w.select(1, task).mean().item<double>() / 2;
    EXPECT_GT(right, 0.6) << "task " << task;
  }
}

}  // namespace
}  // namespace trimtab
