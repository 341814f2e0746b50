// Language models against Hugging Face transformers: golden logits of tiny models of each family (golden/make_transformers.py),
// and, where that package is installed beside the peers, transformers loading what we write.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/files.h"
#include "core/safetensors.h"
#include "core/test_support.h"
#include "policies/language/transformer.h"

namespace trimtab {
namespace {

using Json = nlohmann::json;

const Json& golden() {
  static const Json json = Json::parse(read_file(std::filesystem::path(TRIMTAB_SOURCE_DIR) / "tests/oracle/golden/transformers.json"));
  return json;
}

// The formula of make_transformers.py.
std::vector<float> fill(const std::string& name, int64_t n) {
  uint32_t h = 2166136261u;
  for (const char c : name) h = (h ^ static_cast<uint8_t>(c)) * 16777619u;
  std::vector<float> x(n);
  for (int64_t i = 0; i < n; ++i) {
    const auto t = static_cast<double>(i);
    const double wave = std::sin(t * 0.7 + (h % 1000) * 0.01 + t * t * 0.013);
    x[i] = static_cast<float>(name.find("norm") != std::string::npos ? 1 + 0.2 * wave : 0.25 * wave);
  }
  return x;
}

// A Hugging Face folder of the case.
std::filesystem::path write_case(const std::filesystem::path& folder, const Json& config) {
  std::filesystem::create_directories(folder);
  write_file_atomically(folder / "config.json", config.dump());
  TensorFile file;
  for (const auto& [name, shape] : parameter_shapes(TransformerConfig::read(folder)))
    file.tensors[name] = Tensor::f32(shape, fill(name, c10::multiply_integers(shape)));
  write_safetensors(folder / "model.safetensors", file);
  return folder;
}

double largest_error(const Transformer& model, const Json& expected) {
  const auto ids = golden()["tokens"].get<std::vector<int64_t>>();
  Trie trie;
  trie.add(-1, static_cast<int64_t>(ids.size()));
  const torch::NoGradGuard no_grad;
  const at::Tensor logits = model.logits(at::tensor(ids, at::kLong), trie).to(at::kDouble);
  double worst = 0;
  for (size_t r = 0; r < expected["rows"].size(); ++r) {
    const auto theirs = expected["logits"][r].get<std::vector<double>>();
    const at::Tensor ours = logits[expected["rows"][r].get<int64_t>()];
    worst = std::max(worst, (ours - at::tensor(theirs, at::kDouble)).abs().max().item<double>());
  }
  return worst;
}

TEST(transformers, logits_of_every_family_equal_theirs) {
  const TemporaryFolder folder;
  for (const auto& [name, expected] : golden()["cases"].items()) {
    const auto model_folder = write_case(folder.path() / name, expected["config"]);
    EXPECT_LE(largest_error(Transformer::read(model_folder), expected), 1e-4) << name;
    EXPECT_LE(largest_error(Transformer::read(model_folder, at::kDouble), expected), 1e-5) << name;   // their rotary angles are f32
    Transformer::read(model_folder).write(folder.path() / (name + "-again"), 20000);
    EXPECT_LE(largest_error(Transformer::read(folder.path() / (name + "-again")), expected), 1e-4) << name << ", read, written in shards, read";
  }
}

TEST(transformers, load_what_we_write) {
  const std::filesystem::path python = std::filesystem::path(TRIMTAB_SOURCE_DIR) / ".deps/peers/bin/python";
  if (!std::filesystem::exists(python) ||
      std::system(fmt::format("'{}' -c 'import transformers' 2>/dev/null", python.string()).c_str()) != 0)
    GTEST_SKIP() << "needs transformers: scripts/setup --peers";
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
