// The model over shared prefixes against the same sequences one by one, in double precision with every parameter's gradient;
// and folders that cannot be right.
#include "policies/language/transformer.h"

#include <gtest/gtest.h>
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <cmath>
#include <fstream>
#include <map>

#include "core/error.h"
#include "core/files.h"
#include "core/random.h"
#include "core/safetensors.h"
#include "core/test_support.h"
#include "core/text.h"
#include "policies/language/ops/linear_logprob.h"
#include "policies/language/rotary_rows.h"
#include "policies/language/test_support.h"
#include "policies/language/verify_prefix.h"

namespace trimtab {
namespace {

const bool kOneThread = (at::set_num_threads(1), true);   // small problems

// Weights large enough that attention is far from uniform.
Transformer random_model(const std::string& family) {
  Transformer model(tiny(family), test_seed(), at::kDouble);
  const at::NoGradGuard no_grad;
  for (const auto& [name, p] : model.parameters())
    if (p.dim() == 2) p.mul_(15);
  return model;
}

struct Group {
  Trie trie;
  std::vector<int64_t> tokens;
  std::vector<int64_t> leaves;
};

void grow(Group& g, int64_t parent, int depth, Draws& draws) {
  for (uint32_t c = 0, n = 1 + draws.below(3); c < n; ++c) {
    const bool leaf = depth == 0;
    const int64_t length = leaf ? 1 + draws.below(6) : draws.below(7);
    const int64_t s = g.trie.add(parent, length);
    for (int64_t k = 0; k < length; ++k) g.tokens.push_back(draws.below(23));
    if (leaf) g.leaves.push_back(s);
    else grow(g, s, depth - 1, draws);
  }
}

// Sum over leaves and their own tokens of weight x log p; tokens without a predictor (nothing before them) count nothing.
at::Tensor shared_loss(const Transformer& m, const Group& g, const std::vector<double>& weight) {
  const at::Tensor hidden = m.hidden(at::tensor(g.tokens, at::kLong), g.trie);
  const std::vector<int64_t> predictors = g.trie.predictors();
  std::vector<int64_t> rows, targets;
  std::vector<double> w;
  for (const int64_t leaf : g.leaves) {
    const auto& s = g.trie.segments[leaf];
    for (int64_t r = s.first; r < s.first + s.length; ++r)
      if (predictors[r] >= 0) rows.push_back(predictors[r]), targets.push_back(g.tokens[r]), w.push_back(weight[r]);
  }
  const auto [logp, entropy] = linear_logprob(hidden.index_select(0, at::tensor(rows, at::kLong)), m.head(), at::tensor(targets, at::kLong));
  return (logp * at::tensor(w, at::kDouble)).sum();
}

at::Tensor repeated_loss(const Transformer& m, const Group& g, const std::vector<double>& weight) {
  at::Tensor loss = at::zeros({}, at::kDouble);
  for (const int64_t leaf : g.leaves) {
    const std::vector<int64_t> path = g.trie.path_rows(leaf);
    const int64_t own = g.trie.segments[leaf].length;
    std::vector<int64_t> ids;
    for (const int64_t r : path) ids.push_back(g.tokens[r]);
    Trie alone;
    alone.add(-1, static_cast<int64_t>(path.size()));
    const at::Tensor all = at::log_softmax(m.logits(at::tensor(ids, at::kLong), alone), -1);
    for (size_t k = path.size() - own; k < path.size(); ++k)
      if (k > 0) loss = loss + weight[path[k]] * all[static_cast<int64_t>(k) - 1][ids[k]];
  }
  return loss;
}

void expect_equal_to_repeated(const Transformer& model, const Group& g, Draws& draws, const std::string& where) {
  std::vector<double> weight(g.tokens.size());
  for (double& w : weight) w = draws.normal();
  model.flat_gradient().zero_();
  const at::Tensor ours = shared_loss(model, g, weight);
  if (ours.requires_grad()) ours.backward();
  std::map<std::string, at::Tensor> gradients;
  for (const auto& [name, p] : model.trainable_parameters()) gradients[name] = p.grad().clone();
  model.flat_gradient().zero_();
  const at::Tensor theirs = repeated_loss(model, g, weight);
  if (theirs.requires_grad()) theirs.backward();
  ASSERT_NEAR(ours.item<double>(), theirs.item<double>(), 1e-10 * (1 + std::abs(theirs.item<double>()))) << where;
  for (const auto& [name, p] : model.trainable_parameters())
    ASSERT_LE((gradients[name] - p.grad()).abs().max().item<double>(), 1e-10 * (1 + p.grad().abs().max().item<double>())) << where << ' ' << name;
}

TEST(shared_prefix, loss_and_every_gradient_equal_the_repeated_forward) {
  Draws draws(test_seed(), Stream::kTest, 11);
  for (const char* family : {"llama", "qwen2", "qwen3"}) {
    const Transformer model = random_model(family);
    for (int round = 0; round < 120; ++round) {
      Group g;
      grow(g, -1, static_cast<int>(draws.below(3)), draws);
      ASSERT_NO_FATAL_FAILURE(expect_equal_to_repeated(model, g, draws, fmt::format("{} round {}", family, round)));
    }
  }
}

TEST(shared_prefix, adapters_get_the_gradients_of_the_repeated_forward) {
  Draws draws(test_seed(), Stream::kTest, 17);
  for (const char* family : {"llama", "qwen2", "qwen3"}) {
    const Transformer model = random_model(family).with_adapter(LoraConfig{.rank = 3, .alpha = 5}, test_seed());
    for (int64_t i = 0; i < model.trainable().numel(); ++i) model.trainable()[i] = 0.3 * draws.normal();
    for (int round = 0; round < 40; ++round) {
      Group g;
      grow(g, -1, static_cast<int>(draws.below(3)), draws);
      ASSERT_NO_FATAL_FAILURE(expect_equal_to_repeated(model, g, draws, fmt::format("{} round {}", family, round)));
    }
  }
}

void add_segment(Group& g, int64_t parent, int64_t length, bool leaf, Draws& draws) {
  const int64_t s = g.trie.add(parent, length);
  for (int64_t k = 0; k < length; ++k) g.tokens.push_back(draws.below(23));
  if (leaf) g.leaves.push_back(s);
}

TEST(shared_prefix, many_prompts_in_one_batch_groups_of_one_empty_prompts_and_one_token_responses) {
  Draws draws(test_seed(), Stream::kTest, 12);
  for (const char* family : {"llama", "qwen2", "qwen3"}) {
    const Transformer model = random_model(family);
    Group packed;
    for (int prompt = 0; prompt < 30; ++prompt) {
      const auto root = static_cast<int64_t>(packed.trie.segments.size());
      add_segment(packed, -1, prompt % 4 == 0 ? 0 : draws.below(12), false, draws);
      for (int g = 0, n = prompt % 3 == 0 ? 1 : 1 + static_cast<int>(draws.below(5)); g < n; ++g)
        add_segment(packed, root, prompt % 5 == 0 ? 1 : 1 + draws.below(8), true, draws);
    }
    ASSERT_NO_FATAL_FAILURE(expect_equal_to_repeated(model, packed, draws, family));
  }
}

TEST(shared_prefix, long_prompts_and_responses_cross_the_tiles_of_the_kernel) {
  Draws draws(test_seed(), Stream::kTest, 13);
  for (const char* family : {"llama", "qwen3"}) {
    const Transformer model = random_model(family);
    Group g;
    add_segment(g, -1, 130 + draws.below(150), false, draws);
    for (int i = 0; i < 4; ++i) add_segment(g, 0, 1 + draws.below(180), true, draws);
    ASSERT_NO_FATAL_FAILURE(expect_equal_to_repeated(model, g, draws, family));
  }
}

TEST(shared_prefix, results_do_not_depend_on_the_number_of_threads) {
  Draws draws(test_seed(), Stream::kTest, 14);
  const Transformer model = random_model("qwen3");
  Group g;
  for (int prompt = 0; prompt < 3; ++prompt) {
    const auto root = static_cast<int64_t>(g.trie.segments.size());
    add_segment(g, -1, 100, false, draws);
    for (int i = 0; i < 3; ++i) add_segment(g, root, 60, true, draws);
  }
  const std::vector<double> weight(g.tokens.size(), 0.5);
  std::vector<at::Tensor> gradients;
  for (const int threads : {1, 2, 3}) {
    at::set_num_threads(threads);
    model.flat_gradient().zero_();
    shared_loss(model, g, weight).backward();
    gradients.push_back(model.flat_gradient().clone());
  }
  at::set_num_threads(1);
  // The matrix library may cut its sums by thread: bit equality is a worker's, who has one. Ours alone are bit-equal (ops_test).
  for (const at::Tensor& other : gradients) EXPECT_LE((gradients[0] - other).abs().max().item<double>(), 1e-12 * (1 + other.abs().max().item<double>()));
}

struct Verification {
  at::Tensor tokens, rows, d_logp, d_entropy;
};
Verification verification_of(const Group& g, Draws& draws, at::ScalarType dtype) {
  const std::vector<int64_t> predictors = g.trie.predictors();
  std::vector<int64_t> rows;
  std::vector<double> weight;
  for (int64_t r = 0; r < g.trie.num_rows; ++r)
    if (predictors[r] >= 0) rows.push_back(r), weight.push_back(draws.normal());
  return {at::tensor(g.tokens, at::kLong), at::tensor(rows, at::kLong), at::tensor(weight, at::kDouble).to(dtype), at::tensor(weight, at::kDouble).to(dtype) * 0.1};
}

TEST(verify_shared_prefix, passes_what_is_right_in_both_precisions_and_leaves_the_gradient) {
  Draws draws(test_seed(), Stream::kTest, 15);
  for (const char* family : {"llama", "qwen2", "qwen3"})
    for (const at::ScalarType dtype : {at::kFloat, at::kDouble}) {
      const Transformer model(tiny(family), 3, dtype);
      model.flat_gradient().fill_(7);
      for (int round = 0; round < 10; ++round) {
        Group g;
        grow(g, -1, 2, draws);
        const Verification v = verification_of(g, draws, dtype);
        EXPECT_LE(verify_shared_prefix(model, {v.tokens, g.trie, v.rows, v.d_logp, v.d_entropy}), dtype == at::kFloat ? 1e-4 : 1e-12);
      }
      EXPECT_TRUE(model.flat_gradient().eq(7).all().item<bool>());
    }
}

TEST(verify_shared_prefix, names_what_differs) {
  Draws draws(test_seed(), Stream::kTest, 16);
  const Transformer model(tiny("llama"), 3);
  Group g;
  add_segment(g, -1, 9, false, draws), add_segment(g, 0, 5, true, draws), add_segment(g, 0, 7, true, draws);
  const Verification v = verification_of(g, draws, at::kFloat);
  try {
    verify_shared_prefix(model, {v.tokens, g.trie, v.rows, v.d_logp, v.d_entropy}, 1e-30);   // no two summation orders are that near
    FAIL() << "1e-30 was met";
  } catch (const RunError& e) {
    EXPECT_NE(std::string(e.what()).find("differs from the repeated one"), std::string::npos) << e.what();
  }
}

TEST(rotary_rows, are_the_c_librarys_to_the_bit_at_every_position) {
  const RopeFrequencies rope{.inverse = {1, 0.25, 1e-4}, .attention_factor = 1.25};
  const std::vector<int64_t> positions = {70000, 3, 0, 3, 512};
  const RotaryRows rows = rotary_rows(rope, positions, at::kDouble);
  ASSERT_EQ(rows.cosine.sizes(), (std::vector<int64_t>{5, 3}));
  for (size_t t = 0; t < positions.size(); ++t)
    for (size_t i = 0; i < 3; ++i) {
      const double angle = static_cast<double>(positions[t]) * rope.inverse[i];
      EXPECT_EQ(rows.cosine[t][i].item<double>(), std::cos(angle) * 1.25);
      EXPECT_EQ(rows.sine[t][i].item<double>(), std::sin(angle) * 1.25);
    }
  EXPECT_TRUE(rotary_rows(rope, positions, at::kFloat).sine.equal(rows.sine.to(at::kFloat)));
  EXPECT_EQ(rotary_rows(rope, {}, at::kFloat).cosine.sizes(), (std::vector<int64_t>{0, 3}));
}

TEST(transformer, same_seed_same_weights_whatever_the_layout) {
  TransformerConfig a = tiny("llama"), b = tiny("llama");
  b.num_layers = 3;
  const Transformer x(a, 5), y(b, 5), z(a, 6);
  EXPECT_TRUE(x.parameters().at("model.embed_tokens.weight").equal(y.parameters().at("model.embed_tokens.weight")));
  EXPECT_FALSE(x.flat().equal(z.flat()));
}

std::string refusal(const std::filesystem::path& folder) {
  try {
    Transformer::read(folder);
  } catch (const DataError& e) {
    return e.what();
  }
  return "";
}
void replace(const std::filesystem::path& file, const std::string& from, const std::string& to) {
  std::string text = read_file(file);
  const size_t at = text.find(from);
  ASSERT_NE(at, std::string::npos) << from;
  text.replace(at, from.size(), to);
  std::ofstream(file) << text;
}

TEST(transformer, folders_that_cannot_be_right_are_refused_with_the_cure) {
  const TemporaryFolder root;
  const auto fresh = [&](const char* name, int64_t shard = int64_t{1} << 30) {
    const std::filesystem::path folder = root.path() / name;
    Transformer(tiny("qwen3"), 1).write(folder, shard);
    return folder;
  };
  const auto expect = [](const std::string& message, std::initializer_list<const char*> words) {
    for (const char* word : words) EXPECT_NE(message.find(word), std::string::npos) << message << " lacks " << word;
  };
  EXPECT_EQ(refusal(fresh("good")), "");
  EXPECT_EQ(refusal(fresh("sharded", 3000)), "");
  auto f = fresh("no-shard", 3000);
  for (const auto& entry : std::filesystem::directory_iterator(f))
    if (entry.path().filename().string().starts_with("model-00003")) {
      std::filesystem::remove(entry.path());
      break;
    }
  expect(refusal(f), {"missing", "shard"});
  f = fresh("no-config"), std::filesystem::remove(f / "config.json");
  expect(refusal(f), {"config.json"});
  f = fresh("garbage"), std::ofstream(f / "config.json") << "{";
  expect(refusal(f), {"config.json", "JSON"});
  f = fresh("other-family"), replace(f / "config.json", "\"qwen3\"", "\"mamba\"");
  expect(refusal(f), {"model_type", "mamba", "llama"});
  f = fresh("heads"), replace(f / "config.json", "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3");
  expect(refusal(f), {"num_key_value_heads"});
  f = fresh("negative"), replace(f / "config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": -2");
  expect(refusal(f), {"num_hidden_layers", "-2"});
  f = fresh("more-layers"), replace(f / "config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3");
  expect(refusal(f), {"model"});
  f = fresh("huge"), replace(f / "config.json", "\"vocab_size\": 23", "\"vocab_size\": 2000000000");
  expect(refusal(f), {"config.json"});
  f = fresh("vocabulary"), replace(f / "config.json", "\"vocab_size\": 23", "\"vocab_size\": 24");
  expect(refusal(f), {"lm_head", "24", "23"});
  f = fresh("truncated"), std::filesystem::resize_file(f / "model.safetensors", std::filesystem::file_size(f / "model.safetensors") - 100);
  expect(refusal(f), {"model.safetensors"});
  f = fresh("no-weights"), std::filesystem::remove(f / "model.safetensors");
  expect(refusal(f), {"model.safetensors"});
  f = fresh("nan");
  TensorFile file = read_safetensors(f / "model.safetensors");
  reinterpret_cast<float*>(file.tensors.at("model.norm.weight").bytes.data())[3] = NAN;
  write_safetensors(f / "model.safetensors", file);
  expect(refusal(f), {"model.norm.weight", "finite"});
  file.tensors.erase("model.norm.weight");
  write_safetensors(f / "model.safetensors", file);
  expect(refusal(f), {"model.norm.weight", "missing"});
}

}  // namespace
}  // namespace trimtab
