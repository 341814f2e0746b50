// Controllers against LibTorch autograd in float64: values, log-probabilities, entropies and every
// parameter's gradient, for random networks, masks and heads. The network is written here a second time from
// controller.h's formula.
#include <gtest/gtest.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <numeric>

#include "policies/controllers/controller.h"

namespace trimtab {
namespace {

uint64_t test_seed() {
  const char* text = std::getenv("TRIMTAB_TEST_SEED");
  return text ? std::strtoull(text, nullptr, 10) : 20260101;
}

constexpr double kTolerance = 1e-4;

torch::Tensor constant(const float* data, std::vector<int64_t> shape) {
  return torch::from_blob(const_cast<float*>(data), shape, torch::kFloat32).to(torch::kFloat64);
}

struct Case {
  AgentSpec agent;
  ControllerOptions options;
  int64_t size = 0;
  std::vector<float> context, items;
  std::vector<uint8_t> mask;
  ObservationBatch batch() const { return {size, context.data(), items.data(), mask.data()}; }
};

Case random_case(uint32_t test, bool critic) {
  Draws draws(test_seed(), Stream::kTest, test, critic);
  Case c;
  const auto features = [](int n, const std::string& prefix) {
    std::vector<Feature> out;
    for (int j = 0; j < n; ++j) out.push_back({prefix + std::to_string(j), "1", -1, 1});
    return out;
  };
  c.agent.name = "agent";
  const int kind = static_cast<int>(test % 7);  // categorical, Gaussian, softmax-Gaussian, Dirichlet, choice, subset, order
  const bool set = kind >= 2 || draws.below(2);
  c.agent.observation = {features(static_cast<int>(set ? draws.below(5) : 1 + draws.below(20)), "c"),
                         features(set ? 1 + static_cast<int>(draws.below(9)) : 0, "i"),
                         set ? 1 + static_cast<int>(draws.below(12)) : 0};
  c.agent.head.kind = kind == 0   ? HeadKind::kCategorical
                      : kind == 1 ? HeadKind::kGaussian
                      : kind == 4 ? HeadKind::kChoice
                      : kind == 5 ? HeadKind::kSubset
                      : kind == 6 ? HeadKind::kOrder
                                  : HeadKind::kSimplex;
  c.agent.head.size = kind >= 2 ? c.agent.observation.max_items : 1 + static_cast<int>(draws.below(5));
  c.options.head = kind == 3 ? "dirichlet" : "softmax_gaussian";
  c.options.activation = draws.below(3) ? "tanh" : "relu";
  c.options.hidden.clear();
  for (uint32_t l = draws.below(4); l > 0; --l) c.options.hidden.push_back(1 + draws.below(80));
  if (set && c.options.hidden.size() >= 2 && draws.below(3)) {
    c.options.attention = 1 << draws.below(3);
    for (int64_t& width : c.options.hidden) width += c.options.attention - (width - 1) % c.options.attention - 1;
  }
  c.agent.head.picks = 1 + static_cast<int>(draws.below(8));
  c.options.init_log_std = draws.uniform(-1, 0.5f);
  c.options.last_layer_gain = 1;
  if (kind >= 2 && draws.below(2)) c.options.residual = "i0", c.options.residual_init = draws.uniform(-1, 1);
  c.size = 1 + draws.below(70);
  for (int64_t k = 0; k < c.size * c.agent.observation.context_size(); ++k)
    c.context.push_back(3 * draws.normal() + 1);
  for (int64_t k = 0; k < c.size * c.agent.observation.max_items; ++k) {
    c.mask.push_back(draws.uniform() < 0.7f);
    for (int j = 0; j < c.agent.observation.item_size(); ++j)
      c.items.push_back(c.mask.back() ? 2 * draws.normal() - 1 : 0.0f);
  }
  return c;
}

// Parameters as float64 leaves, by name.
std::map<std::string, torch::Tensor> leaves(const Controller& controller) {
  std::map<std::string, torch::Tensor> out;
  for (const ParameterInfo& info : controller.parameter_infos())
    out[info.name] =
        constant(controller.parameters().data() + info.offset, info.shape).set_requires_grad(true);
  return out;
}

torch::Tensor normalised(const torch::Tensor& x, std::span<const float> mean, std::span<const float> scale) {
  const int64_t n = static_cast<int64_t>(mean.size());
  return torch::clamp((x - constant(mean.data(), {n})) * constant(scale.data(), {n}), -10.0, 10.0);
}

// x + softmax(Q K^T / sqrt(d)) V O over the rows of x, head by head.
torch::Tensor attended(const torch::Tensor& x, std::map<std::string, torch::Tensor>& p, const std::string& prefix,
                       int64_t heads) {
  const auto split = [&](const char* weight) {
    return torch::matmul(x, p[prefix + weight]).reshape({x.size(0), heads, x.size(1) / heads}).transpose(0, 1);
  };
  const torch::Tensor q = split("query"), k = split("key"), v = split("value");
  const torch::Tensor weights = torch::softmax(torch::matmul(q, k.transpose(1, 2)) / std::sqrt(double(q.size(2))), 2);
  return x + torch::matmul(torch::matmul(weights, v).transpose(0, 1).reshape(x.sizes()), p[prefix + "out"]);
}

// The network's output for decision i: [present, 1] for item heads, [1, outputs] for the others.
torch::Tensor output(const Case& c, const Controller& controller, std::map<std::string, torch::Tensor>& p,
                     int64_t i, std::vector<int64_t>* present) {
  const ObservationSpec& view = c.agent.observation;
  const Controller::Normaliser n = controller.normaliser();
  const torch::Tensor context =
      normalised(constant(c.context.data() + i * view.context_size(), {1, view.context_size()}),
                 n.context_mean, n.context_scale);
  torch::Tensor x = context, raw_items;
  const bool set = view.item_size() > 0;
  if (set) {
    std::vector<torch::Tensor> rows;
    for (int64_t k = 0; k < view.max_items; ++k) {
      if (!c.mask[i * view.max_items + k]) continue;
      present->push_back(k);
      rows.push_back(
          constant(c.items.data() + (i * view.max_items + k) * view.item_size(), {1, view.item_size()}));
    }
    raw_items = rows.empty() ? torch::zeros({0, view.item_size()}, torch::kFloat64) : torch::cat(rows);
    x = normalised(raw_items, n.item_mean, n.item_scale);
  }
  const size_t num_layers = c.options.hidden.size() + 1;
  for (size_t l = 0; l < num_layers; ++l) {
    const std::string name = "layer" + std::to_string(l);
    torch::Tensor y = p[name + ".bias"].unsqueeze(0);
    if (p.contains(name + ".context.weight")) {
      const torch::Tensor pooled =
          x.size(0) ? x.mean(0, true) : torch::zeros({1, x.size(1)}, torch::kFloat64);
      const torch::Tensor& weight = p[name + ".context.weight"];
      y = y +
          torch::matmul(weight.size(0) > pooled.size(1) ? torch::cat({context, pooled}, 1) : pooled, weight);
    }
    if (p.contains(name + ".item.weight")) y = y + torch::matmul(x, p[name + ".item.weight"]);
    x = l + 1 == num_layers ? y : c.options.activation == "tanh" ? torch::tanh(y) : torch::relu(y);
    if (p.contains(name + ".attention.query")) x = attended(x, p, name + ".attention.", c.options.attention);
  }
  if (p.contains("residual")) x = x + p["residual"] * raw_items.slice(1, 0, 1);
  return x;
}

struct Scores {
  torch::Tensor logp, entropy;
};

const double kHalfLog2Pi = 0.5 * std::log(2 * M_PI);

Scores normal_scores(const torch::Tensor& mu, const torch::Tensor& log_std, const torch::Tensor& z) {
  const torch::Tensor t = (z - mu) / torch::exp(log_std), ones = torch::ones_like(mu);
  return {(-0.5 * t * t - log_std * ones - kHalfLog2Pi).sum(), ((log_std + 0.5 + kHalfLog2Pi) * ones).sum()};
}

Scores dirichlet_scores(const torch::Tensor& logits, const torch::Tensor& share) {
  const torch::Tensor alpha = 1 + torch::softplus(logits), total = alpha.sum();
  const torch::Tensor log_beta = torch::lgamma(alpha).sum() - torch::lgamma(total);
  const double k = static_cast<double>(alpha.size(0));
  return {((alpha - 1) * torch::log(share)).sum() - log_beta,
          log_beta + (total - k) * torch::digamma(total) - ((alpha - 1) * torch::digamma(alpha)).sum()};
}

// Plackett-Luce; the entropy is that of every pick given those before it.
Scores order_scores(const Case& c, const torch::Tensor& logits, std::vector<int64_t> left, const float* raw) {
  Scores s{torch::zeros({}, torch::kFloat64), torch::zeros({}, torch::kFloat64)};
  std::vector<int64_t> rows(left.size());
  std::iota(rows.begin(), rows.end(), 0);
  for (int j = 0; j < c.agent.head.picks && !left.empty(); ++j) {
    const auto at = std::find(left.begin(), left.end(), static_cast<int64_t>(raw[j])) - left.begin();
    const torch::Tensor log_p = torch::log_softmax(logits.index_select(0, torch::tensor(rows)), 0);
    s.logp = s.logp + log_p[at];
    s.entropy = s.entropy - (torch::exp(log_p) * log_p).sum();
    left.erase(left.begin() + at), rows.erase(rows.begin() + at);
  }
  return s;
}

Scores scores(const Case& c, std::map<std::string, torch::Tensor>& p, const torch::Tensor& out,
              const std::vector<int64_t>& present, const float* raw) {
  if (c.agent.head.kind == HeadKind::kCategorical) {
    const torch::Tensor log_p = torch::log_softmax(out[0], 0);
    return {log_p[static_cast<int64_t>(raw[0])], -(torch::exp(log_p) * log_p).sum()};
  }
  if (c.agent.head.kind == HeadKind::kChoice) {
    if (present.empty()) return {torch::zeros({}, torch::kFloat64), torch::zeros({}, torch::kFloat64)};
    const torch::Tensor log_p = torch::log_softmax(out.squeeze(1), 0);
    const auto chosen = std::find(present.begin(), present.end(), static_cast<int64_t>(raw[0])) - present.begin();
    return {log_p[chosen], -(torch::exp(log_p) * log_p).sum()};
  }
  if (c.agent.head.kind == HeadKind::kSubset) {
    std::vector<float> taken(1);  // of no items: torch asks for an address
    for (const int64_t k : present) taken.push_back(raw[k]);
    const torch::Tensor a = constant(taken.data() + 1, {static_cast<int64_t>(present.size())}), x = out.squeeze(1);
    const torch::Tensor log_p = torch::log_sigmoid(x), log_q = torch::log_sigmoid(-x);
    return {(a * log_p + (1 - a) * log_q).sum(), -(torch::exp(log_p) * log_p + torch::exp(log_q) * log_q).sum()};
  }
  if (c.agent.head.kind == HeadKind::kOrder) return order_scores(c, out.squeeze(1), present, raw);
  if (c.agent.head.kind == HeadKind::kGaussian)
    return normal_scores(out[0], p["log_std"], constant(raw, {c.agent.head.size}));
  std::vector<float> chosen;
  for (const int64_t k : present) chosen.push_back(raw[k]);
  const torch::Tensor taken = constant(chosen.data(), {static_cast<int64_t>(chosen.size())});
  if (c.options.head == "softmax_gaussian") return normal_scores(out.squeeze(1), p["log_std"], taken);
  if (present.empty()) return {torch::zeros({}, torch::kFloat64), torch::zeros({}, torch::kFloat64)};
  return dirichlet_scores(out.squeeze(1), taken);
}

void expect_close(double actual, double expected, double scale, const std::string& what) {
  ASSERT_NEAR(actual, expected, kTolerance * std::max(scale, 1e-3)) << what;
}

// Relative to the largest gradient of the tensor, or a hundredth of the largest of all where that is
// cancellation's remainder.
void compare_gradients(const Controller& controller, std::map<std::string, torch::Tensor>& p,
                       const std::vector<float>& gradient) {
  double largest = 0;
  for (auto& [name, leaf] : p) {
    if (!leaf.grad().defined()) leaf.mutable_grad() = torch::zeros_like(leaf);
    largest = std::max(largest, leaf.grad().abs().max().item<double>());
  }
  for (const ParameterInfo& info : controller.parameter_infos()) {
    const torch::Tensor expected = p[info.name].grad().contiguous();
    const double scale = std::max(expected.abs().max().item<double>(), 0.01 * largest);
    for (int64_t k = 0; k < info.size; ++k)
      expect_close(gradient[info.offset + k], expected.data_ptr<double>()[k], scale,
                   info.name + "[" + std::to_string(k) + "]");
  }
}

TEST(TorchController, PoliciesMatchAutograd) {
  at::set_num_threads(1);
  for (uint32_t test = 0; test < 84; ++test) {
    const Case c = random_case(test, false);
    SCOPED_TRACE("case " + std::to_string(test));
    auto policy = Controller::policy(c.agent, c.options, test_seed() + test);
    policy->accumulate_statistics(c.batch());
    policy->refresh_normaliser();
    auto workspace = policy->workspace(c.size);
    const int64_t width = policy->raw_width();
    std::vector<float> action(c.size * width), raw(c.size * width), logp(c.size), entropy(c.size),
        d_logp(c.size), d_entropy(c.size);
    policy->sample(
        c.batch(), [&](int64_t i) { return Draws(test, Stream::kTest, static_cast<uint32_t>(i), 1); },
        action.data(), raw.data(), logp.data(), *workspace);
    policy->evaluate(c.batch(), raw.data(), logp.data(), entropy.data(), *workspace);
    Draws draws(test_seed(), Stream::kTest, test, 7);
    for (int64_t i = 0; i < c.size; ++i) d_logp[i] = draws.normal(), d_entropy[i] = draws.normal();
    std::vector<float> gradient(policy->parameters().size());
    policy->backward_policy(d_logp.data(), d_entropy.data(), gradient.data(), *workspace);

    auto p = leaves(*policy);
    torch::Tensor loss = torch::zeros({}, torch::kFloat64);
    for (int64_t i = 0; i < c.size; ++i) {
      std::vector<int64_t> present;
      const torch::Tensor out = output(c, *policy, p, i, &present);
      const Scores s = scores(c, p, out, present, raw.data() + i * width);
      expect_close(logp[i], s.logp.item<double>(), 1 + std::abs(s.logp.item<double>()), "logp");
      expect_close(entropy[i], s.entropy.item<double>(), 1 + std::abs(s.entropy.item<double>()), "entropy");
      loss = loss + s.logp * double{d_logp[i]} + s.entropy * double{d_entropy[i]};
    }
    if (loss.requires_grad()) loss.backward();
    compare_gradients(*policy, p, gradient);
    if (HasFatalFailure()) return;
  }
}

TEST(TorchController, CriticsMatchAutograd) {
  at::set_num_threads(1);
  for (uint32_t test = 0; test < 30; ++test) {
    Case c = random_case(test, true);
    c.options.residual.clear();
    SCOPED_TRACE("case " + std::to_string(test));
    auto critic = Controller::critic(c.agent.observation, c.options, test_seed() + test);
    critic->accumulate_statistics(c.batch());
    critic->refresh_normaliser();
    auto workspace = critic->workspace(c.size);
    std::vector<float> value(c.size), d_value(c.size), gradient(critic->parameters().size());
    Draws draws(test_seed(), Stream::kTest, test, 8);
    for (float& x : d_value) x = draws.normal();
    critic->value(c.batch(), value.data(), *workspace);
    critic->backward_value(d_value.data(), gradient.data(), *workspace);

    auto p = leaves(*critic);
    torch::Tensor loss = torch::zeros({}, torch::kFloat64);
    for (int64_t i = 0; i < c.size; ++i) {
      std::vector<int64_t> present;
      const torch::Tensor out = output(c, *critic, p, i, &present)[0][0];
      expect_close(value[i], out.item<double>(), 1 + std::abs(out.item<double>()), "value");
      loss = loss + out * double{d_value[i]};
    }
    loss.backward();
    compare_gradients(*critic, p, gradient);
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace trimtab
