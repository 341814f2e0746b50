// Adapters against PEFT: golden logits of tiny models with LoRA (golden/make_peft.py); and, where that package is installed beside the
// peers, each reading what the other writes.
#include <gtest/gtest.h>
#include <ATen/core/Tensor.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "core/test_support.h"
#include "tests/oracle/tiny_models.h"

namespace trimtab {
namespace {

using Json = nlohmann::json;

const Json& golden() {
  static const Json json = Json::parse(read_file(std::filesystem::path(TRIMTAB_SOURCE_DIR) / "tests/oracle/golden/peft.json"));
  return json;
}

// The adapter's folder as PEFT wrote it.
std::filesystem::path write_adapter(const std::filesystem::path& folder, const Json& expected) {
  constexpr std::string_view kBase = "base_layer.weight";   // an output layer's own weight
  std::filesystem::create_directories(folder);
  write_file_atomically(folder / "adapter_config.json", expected["adapter_config"].dump());
  TensorFile file;
  for (const auto& [name, shape] : expected["tensors"].items()) {
    const auto sizes = shape.get<std::vector<int64_t>>();
    file.tensors[name] = Tensor::f32(sizes, fill(name.ends_with(kBase) ? "lm_head.weight" : name, c10::multiply_integers(sizes)));
  }
  write_safetensors(folder / "adapter_model.safetensors", file);
  return folder;
}

TEST(Peft, LogitsWithAnAdapterEqualTheirs) {
  const TemporaryFolder root;
  for (const auto& [name, expected] : golden()["cases"].items()) {
    SCOPED_TRACE(name);
    const auto adapter = write_adapter(root.path() / name / "adapter", expected), base = write_case(root.path() / name / "base", expected["config"]);
    const Transformer model = Transformer::read(base);
    EXPECT_GT(largest_error(golden()["tokens"], model, expected), 1e-2);   // the adapter matters
    const Transformer adapted = model.with_adapter(adapter);
    EXPECT_LE(largest_error(golden()["tokens"], adapted, expected), 1e-4);
    EXPECT_LE(largest_error(golden()["tokens"], Transformer::read(base, at::kDouble).with_adapter(adapter), expected), 1e-5);   // their rotary angles are f32
    adapted.write_adapter(root.path() / name / "again");
    EXPECT_LE(largest_error(golden()["tokens"], model.with_adapter(root.path() / name / "again"), expected), 1e-4);
    adapted.write(root.path() / name / "merged");
    EXPECT_LE(largest_error(golden()["tokens"], Transformer::read(root.path() / name / "merged"), expected), 1e-4);
  }
}

int run(const std::string& command, const std::filesystem::path& log) { return std::system(fmt::format("{} > '{}' 2>&1", command, log.string()).c_str()); }

TEST(Peft, WeLoadWhatItWrites) {
  const std::filesystem::path python = peers_python("peft");
  if (python.empty()) GTEST_SKIP() << "needs peft: scripts/setup --peers";
  const TemporaryFolder root;
  ASSERT_EQ(run(fmt::format("PYTHONDONTWRITEBYTECODE=1 '{}' '{}/tests/oracle/golden/make_peft.py' '{}'", python.string(), TRIMTAB_SOURCE_DIR,
                            root.path().string()), root.path() / "log"), 0) << read_file(root.path() / "log");
  for (const auto& [name, expected] : golden()["cases"].items()) {
    const Transformer model = Transformer::read(write_case(root.path() / name / "base", expected["config"]));
    EXPECT_LE(largest_error(golden()["tokens"], model.with_adapter(root.path() / name), expected), 1e-4) << name;
  }
}

TEST(Peft, LoadsWhatWeWrite) {
  const std::filesystem::path python = peers_python("peft");
  if (python.empty()) GTEST_SKIP() << "needs peft: scripts/setup --peers";
  const TemporaryFolder root;
  for (const auto& [name, expected] : golden()["cases"].items()) {
    const auto base = write_case(root.path() / name / "base", expected["config"]);
    const Transformer adapted = Transformer::read(base).with_adapter(write_adapter(root.path() / name / "adapter", expected));
    adapted.write_adapter(root.path() / name / "ours");
    adapted.write(root.path() / name / "merged");
  }
  std::ofstream(root.path() / "check.py") << R"(
import json, sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
golden, folder = json.load(open(sys.argv[1])), sys.argv[2]
def error(model, case):
    logits = model(torch.tensor([golden["tokens"]])).logits[0]
    return (logits[case["rows"]] - torch.tensor(case["logits"])).abs().max().item()
for name, case in golden["cases"].items():
    load = lambda which: AutoModelForCausalLM.from_pretrained(f"{folder}/{name}/{which}", attn_implementation="eager").eval()
    adapted = PeftModel.from_pretrained(load("base"), f"{folder}/{name}/ours").eval()
    loaded = adapted.load_adapter(f"{folder}/{name}/ours", adapter_name="again")
    assert not loaded.unexpected_keys and not [k for k in loaded.missing_keys if "lora_" in k], (name, loaded)
    assert error(adapted, case) < 1e-4, (name, error(adapted, case))
    assert error(load("merged"), case) < 1e-4, (name, "merged")
)";
  EXPECT_EQ(run(fmt::format("'{}' -W ignore '{}' '{}/tests/oracle/golden/peft.json' '{}'", python.string(), (root.path() / "check.py").string(),
                            TRIMTAB_SOURCE_DIR, root.path().string()), root.path() / "log"), 0) << read_file(root.path() / "log");
}

}  // namespace
}  // namespace trimtab
