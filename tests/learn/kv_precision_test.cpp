// Widths of a KV cache by ppo and grpo, against the exact optimum of the surrogate. Returns are over the relaxed optimum, which is -1 or
// better; widths drawn at random get about -6.
#include "tests/training_support.h"

namespace trimtab {
namespace {

constexpr char kLayers[] = R"(
run: {name: kv-layers, threads: 2}
data: {train: [DATA/kv/layers-train.safetensors]}
env: {type: kv_precision, low_bits: 3.2, high_bits: 7}
policy: {widths: {hidden: [64, 64]}, critic: {hidden: [64, 64]}}
trainer: {preset: ppo, steps: 400k, num_envs: 64, horizon: 72, minibatch_size: 768, epochs: 4, lr: 1e-3, gamma: 1, lambda: 0.95}
eval: {every: 10M, episodes: 256}
)";

std::string with_data(std::string yaml) {
  const std::string mark = "DATA", place = TRIMTAB_SOURCE_DIR "/data";
  return yaml.replace(yaml.find(mark), mark.size(), place);
}

void expect_near_optimum(const std::vector<std::string>& overrides) {
  const TemporaryFolder random;
  EXPECT_LT(train_in(random.path(), with_data(kLayers), {"trainer.lr=0", "trainer.steps=8k"}).last.at("train/return"), -3);
  for (const int seed : {1, 2, 3}) {
    const TemporaryFolder folder;
    std::vector<std::string> all = overrides;
    all.push_back("run.seed=" + std::to_string(seed));
    EXPECT_GE(train_in(folder.path(), with_data(kLayers), all).last.at("eval/return"), -1.15) << "seed " << seed;
  }
}

TEST(Learn, KvLayersByPpo) { expect_near_optimum({}); }
TEST(Learn, KvLayersByGrpo) { expect_near_optimum({"trainer.preset=grpo", "trainer.group_size=16"}); }

}  // namespace
}  // namespace trimtab
