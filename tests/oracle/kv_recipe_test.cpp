// Recipes in other programs' formats, read by the libraries that those programs read them with: PyYAML, looked up as KVTuner's
// FlexibleQuantizedCache does, and argparse with vLLM's and ik_llama.cpp's flags.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "core/test_support.h"
#include "domain/kv_recipe/formats.h"
#include "tests/oracle/python.h"

namespace trimtab {
namespace {

class KvRecipeOracle : public testing::Test {
 protected:
  void SetUp() override {
    if (!oracle_has("yaml")) GTEST_SKIP() << ".deps/oracle has no PyYAML: run scripts/setup";
  }
  void write(const std::string& format, std::vector<KvBits> bits, int64_t kv_heads, const std::string& name) {
    KvRecipe recipe;
    recipe.model = {"0123456789abcdef", static_cast<int64_t>(bits.size()) / kv_heads, kv_heads, 64};
    recipe.bits = std::move(bits);
    std::ofstream(folder_.path() / name) << write_kv_format(format, recipe);
  }
  nlohmann::json read_back(const std::string& script) const { return nlohmann::json::parse(run_oracle("import json, sys\n" + script, folder_.path())); }
  TemporaryFolder folder_;
};

// Layers and heads must be numbers there: the cache looks them up by index.
TEST_F(KvRecipeOracle, PyYamlReadsKvTunersFiles) {
  write("kvtuner", {{8, 4}, {2, 2}, {4, 8}, {8, 8}}, 1, "layers.yaml");
  write("kvtuner", {{8, 4}, {2, 2}, {4, 8}, {8, 8}}, 2, "heads.yaml");
  EXPECT_EQ(read_back(R"(
import yaml
layers = yaml.safe_load(open(sys.argv[1] + "/layers.yaml"))
heads = yaml.safe_load(open(sys.argv[1] + "/heads.yaml"))
pair = lambda c: [c["nbits_key"], c["nbits_value"]]
print(json.dumps([[pair(layers[i]) for i in range(len(layers))],
                  [[pair(c) for head, c in heads[i].items() if heads[i][head] is c] for i in range(len(heads))],
                  [list(heads[i]) for i in range(len(heads))]]))
)"),
            nlohmann::json::parse("[[[8,4],[2,2],[4,8],[8,8]], [[[8,4],[2,2]],[[4,8],[8,8]]], [[0,1],[0,1]]]"));
}

TEST_F(KvRecipeOracle, ArgparseReadsTheFlags) {
  write("vllm", {{16, 16}, {8, 8}, {16, 16}}, 1, "vllm");
  write("ik_llama", {{16, 8}, {8, 8}, {8, 8}, {4, 4}}, 1, "ik_llama");
  EXPECT_EQ(read_back(R"(
import argparse, shlex
def read(name, **flags):
    parser = argparse.ArgumentParser()
    for flag, kind in flags.items():
        parser.add_argument("--" + flag.replace("_", "-"), "-" + flag.replace("_", "-"), **kind)
    return vars(parser.parse_args(shlex.split(open(sys.argv[1] + "/" + name).read())))
print(json.dumps([read("vllm", kv_cache_dtype={}, kv_cache_dtype_skip_layers={"nargs": "+"}),
                  read("ik_llama", ctk={}, ctk_first={}, ctk_last={}, ctv={}, ctv_first={}, ctv_last={})]))
)"),
            nlohmann::json::parse(R"([{"kv_cache_dtype": "int8_per_token_head", "kv_cache_dtype_skip_layers": ["0", "2"]},
                                      {"ctk": "q8_0", "ctk_first": "f16,1", "ctk_last": "q4_0,1", "ctv": "q8_0", "ctv_first": null, "ctv_last": "q4_0,1"}])"));
}

}  // namespace
}  // namespace trimtab
