// Language models against Hugging Face transformers: golden logits of tiny models of each family (golden/make_transformers.py);
// against plain PyTorch: loss and gradients of a grouped batch (golden/make_grouped.py);
// and, where that package is installed beside the peers, transformers loading what we write.
#include <gtest/gtest.h>
#include <ATen/ATen.h>

#include <cmath>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/files.h"
#include "core/safetensors.h"
#include "core/test_support.h"
#include "policies/language/ops/linear_logprob.h"
#include "policies/language/transformer.h"
#include "tests/oracle/tiny_models.h"

namespace trimtab {
namespace {

using Json = nlohmann::json;

const Json& golden() {
  static const Json json = Json::parse(read_file(std::filesystem::path(TRIMTAB_SOURCE_DIR) / "tests/oracle/golden/transformers.json"));
  return json;
}

TEST(transformers, logits_of_every_family_equal_theirs) {
  const TemporaryFolder folder;
  for (const auto& [name, expected] : golden()["cases"].items()) {
    const auto model_folder = write_case(folder.path() / name, expected["config"]);
    EXPECT_LE(largest_error(golden()["tokens"], Transformer::read(model_folder), expected), 1e-4) << name;
    EXPECT_LE(largest_error(golden()["tokens"], Transformer::read(model_folder, at::kDouble), expected), 1e-5) << name;   // their rotary angles are f32
    Transformer::read(model_folder).write(folder.path() / (name + "-again"), 20000);
    EXPECT_LE(largest_error(golden()["tokens"], Transformer::read(folder.path() / (name + "-again")), expected), 1e-4) << name << ", read, written in shards, read";
  }
}

// A trie of the golden prompts and responses, and what is scored in it.
struct Grouped {
  Trie trie;
  std::vector<int64_t> tokens, rows, targets;
  std::vector<double> weights;
};
Grouped grouped_batch(const Json& json) {
  Grouped b;
  for (size_t p = 0; p < json["prompts"].size(); ++p) {
    const auto prompt = json["prompts"][p].get<std::vector<int64_t>>();
    const int64_t root = b.trie.add(-1, static_cast<int64_t>(prompt.size()));
    b.tokens.insert(b.tokens.end(), prompt.begin(), prompt.end());
    for (size_t r = 0; r < json["responses"][p].size(); ++r) {
      const auto response = json["responses"][p][r].get<std::vector<int64_t>>();
      b.trie.add(root, static_cast<int64_t>(response.size()));
      for (size_t k = 0; k < response.size(); ++k) {
        b.rows.push_back(static_cast<int64_t>(b.tokens.size())), b.targets.push_back(response[k]), b.tokens.push_back(response[k]);
        b.weights.push_back(static_cast<double>(1 + p + 2 * r) * (k % 2 == 0 ? 1 : -1) / 10);
      }
    }
  }
  return b;
}

std::vector<double> figures(const at::Tensor& gradient) {
  const at::Tensor g = gradient.flatten(), i = at::arange(g.numel(), at::kDouble);
  return {g.square().sum().item<double>(), (g * (0.37 * i).sin()).sum().item<double>(), (g * (1.3 * i + 1).cos()).sum().item<double>()};
}

TEST(transformers, shared_prefix_loss_and_every_gradient_equal_plain_pytorch) {
  const Json json = Json::parse(read_file(std::filesystem::path(TRIMTAB_SOURCE_DIR) / "tests/oracle/golden/grouped.json"));
  const TemporaryFolder folder;
  const Grouped b = grouped_batch(json);
  for (const auto& [name, expected] : json["cases"].items()) {
    const Transformer model = Transformer::read(write_case(folder.path() / name, expected["config"]), at::kDouble);
    const at::Tensor predictors = at::tensor(b.trie.predictors(), at::kLong).index_select(0, at::tensor(b.rows, at::kLong));
    const auto [logp, entropy] = linear_logprob(model.hidden(at::tensor(b.tokens, at::kLong), b.trie).index_select(0, predictors), model.head(),
                                                at::tensor(b.targets, at::kLong));
    const at::Tensor loss = (logp * at::tensor(b.weights, at::kDouble)).sum() + 0.05 * entropy.sum();
    EXPECT_NEAR(loss.item<double>(), expected["loss"].get<double>(), 1e-10) << name;
    loss.backward();
    EXPECT_EQ(model.parameters().size(), expected["gradients"].size()) << name;
    for (const auto& [parameter, p] : model.parameters()) {
      const std::vector<double> ours = figures(p.grad()), theirs = expected["gradients"].at(parameter);
      for (size_t i = 0; i < ours.size(); ++i)
        EXPECT_NEAR(ours[i], theirs[i], 1e-10 * (1 + std::abs(theirs[0]))) << name << ' ' << parameter << " figure " << i;
    }
  }
}

TEST(transformers, load_what_we_write) {
  const std::filesystem::path python = peers_python("transformers");
  if (python.empty()) GTEST_SKIP() << "needs transformers: scripts/setup --peers";
  const TemporaryFolder folder;
  Json models = Json::array();
  for (const auto& [name, expected] : golden()["cases"].items()) {
    const auto original = write_case(folder.path() / (name + "-original"), expected["config"]), written = folder.path() / name;
    Transformer::read(original).write(written, 20000);
    models.push_back(written.string());
  }
  std::ofstream(folder.path() / "check.py") << R"(
import json, sys, torch
from transformers import AutoModelForCausalLM
golden, folder = json.load(open(sys.argv[1])), sys.argv[2]
for name, case in golden["cases"].items():
    model, info = AutoModelForCausalLM.from_pretrained(f"{folder}/{name}", output_loading_info=True, attn_implementation="eager")
    assert not info["missing_keys"] and not info["unexpected_keys"], (name, info)
    logits = model(torch.tensor([golden["tokens"]])).logits[0]
    error = (logits[case["rows"]] - torch.tensor(case["logits"])).abs().max().item()
    assert error < 1e-4, (name, error)
)";
  EXPECT_EQ(std::system(fmt::format("'{}' '{}' '{}/tests/oracle/golden/transformers.json' '{}' > '{}' 2>&1", python.string(),
                                    (folder.path() / "check.py").string(), TRIMTAB_SOURCE_DIR, folder.path().string(),
                                    (folder.path() / "log").string()).c_str()), 0)
      << read_file(folder.path() / "log");
}

}  // namespace
}  // namespace trimtab
