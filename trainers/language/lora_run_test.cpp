// Runs that train an adapter beside frozen weights: what they write, resuming, what starts from it; and runs with layers computed again.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "core/checkpoint.h"
#include "core/error.h"
#include "core/files.h"
#include "policies/language/pretrained.h"
#include "trainers/language/job.h"
#include "trainers/language/test_support.h"
#include "trainers/language/tools.h"

namespace trimtab {
namespace {

const std::string kSft = "preset: sft, steps: 4, rows: 6, facts: 1, clean: 1";
const std::string kGroup = "preset: grpo, steps: 4, prompts: 4, group_size: 4, minibatches: 2, lr: 1e-2, token_budget: 128, patience: 1000, "
                           "sampling: {max_tokens: 12}, reward: {overlong_cache: 11}";

std::vector<uint8_t> parameters(const std::filesystem::path& run) {
  return CheckpointFolder(run / "checkpoints").load("latest").state.at("parameters").bytes;
}

// A model to put adapters on.
class LoraRun : public testing::Test {
 protected:
  LoraRun() {
    train_in(start.path(), tiny_run("preset: sft, steps: 2, rows: 4"));
    as_run(start.path());
  }
  static void as_run(const std::filesystem::path& folder) { write_file_atomically(folder / "config.yaml", "run: {name: a-run}\n"); }
  std::vector<std::string> lora() const {
    return {"policy.model=" + start.path().string(), "policy.lora={rank: 3, alpha: 6, targets: [q_proj, v_proj, down_proj]}"};
  }
  LanguageModel base() const { return LanguageModel::load(start.path()); }
  const TemporaryFolder start;
};

at::Tensor logits(const Transformer& model) {
  const at::NoGradGuard no_grad;
  Trie trie;
  trie.add(-1, 8);
  return model.logits(at::arange(8), trie);
}

TEST_F(LoraRun, TrainsTheAdapterAloneAndWritesItAloneAndMerged) {
  for (const std::string& trainer : {kSft, kGroup}) {
    SCOPED_TRACE(trainer);
    TemporaryFolder run;
    const MetricLines lines = train_in(run.path(), tiny_run(trainer), lora());
    EXPECT_GT(total(lines, "train/grad_norm"), 0);
    if (trainer == kGroup) {
      EXPECT_LT(lines.back().at("train/mismatch_max"), 1e-3);   // what is sampled from is the merged model
    }
    as_run(run.path());
    const LanguageModel model = base(), merged = LanguageModel::load(run.path());
    const Transformer adapted = model.transformer->with_adapter(run.path() / "adapter");
    EXPECT_EQ(static_cast<int64_t>(parameters(run.path()).size()), 4 * adapted.trainable().numel());
    EXPECT_EQ(adapted.adapter()->rank, 3);
    EXPECT_EQ(adapted.adapter()->base_model, start.path().string());
    EXPECT_LE((logits(adapted) - logits(*merged.transformer)).abs().max().item<float>(), 1e-4f);
    for (const char* frozen : {"model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "model.norm.weight"})
      EXPECT_TRUE(merged.transformer->parameters().at(frozen).equal(model.transformer->parameters().at(frozen))) << frozen;
  }
}

TEST_F(LoraRun, LearnsAndIsTheSameForAnyThreadsAndAfterAStop) {
  TemporaryFolder whole, cut, one;
  std::vector<std::string> options = lora();
  options.push_back("trainer.lr=3e-2");
  const MetricLines lines = train_in(whole.path(), tiny_run(kSft), options);
  train_in(cut.path(), tiny_run(kSft), options);
  std::filesystem::remove_all(cut.path() / "checkpoints" / "step-000003");
  std::filesystem::remove_all(cut.path() / "checkpoints" / "step-000004");
  std::filesystem::remove(cut.path() / "checkpoints" / "latest");
  EXPECT_EQ(train_in(cut.path(), tiny_run(kSft), options).front().at("step"), 3);
  EXPECT_EQ(parameters(whole.path()), parameters(cut.path()));
  options.push_back("run.threads=1");
  train_in(one.path(), tiny_run(kSft), options);
  EXPECT_EQ(parameters(whole.path()), parameters(one.path()));
}

// `trimtab generate MODEL --adapters FOLDER`: each prompt by the adapter it names, all in the same batches.
TEST_F(LoraRun, AnswersPromptsByTheAdaptersTheyName) {
  TemporaryFolder run, adapters;
  train_in(run.path(), tiny_run(kSft), lora());
  as_run(run.path());
  std::filesystem::copy(run.path() / "adapter", adapters.path() / "good", std::filesystem::copy_options::recursive);
  std::filesystem::copy(run.path() / "adapter", adapters.path() / "bad", std::filesystem::copy_options::recursive);
  std::filesystem::resize_file(adapters.path() / "bad" / "adapter_model.safetensors", 100);
  const TemporaryFolder other;   // the same shapes, other weights
  train_in(other.path(), tiny_run("preset: sft, steps: 2, rows: 4"), {"run.seed=7"});
  as_run(other.path());
  const auto& generate = Registry<LanguageTools>::instance().get("libtorch", "language tools").generate;
  GenerateOrder order;
  order.model.path = start.path().string(), order.samples = 2, order.max_tokens = 12, order.seed = 3;
  const auto tokens = [&](const std::string& model) {
    GenerateOrder plain = order;
    plain.model.path = model, plain.prompts = {{.place = "p", .text = "1+2=", .tokens = {}}};
    std::vector<std::vector<int32_t>> out;
    for (const GeneratedText& t : generate(plain)) out.push_back(t.tokens);
    return out;
  };
  for (const char* adapter : {"good", "", "bad"}) order.prompts.push_back({.place = "p", .text = "1+2=", .tokens = {}, .adapter = adapter});
  order.prompts[1].text = "2+1=";   // draws belong to a prompt's number
  order.adapters = adapters.path().string();
  testing::internal::CaptureStderr();
  const std::vector<GeneratedText> texts = generate(order);
  const std::string told = testing::internal::GetCapturedStderr();
  EXPECT_NE(told.find("1 adapters paged in"), std::string::npos) << told;
  EXPECT_NE(told.find("rank 3 from disk: 1 loads"), std::string::npos) << told;
  ASSERT_EQ(texts.size(), 5u);   // two samples each of two prompts, and what is wrong with the third
  const auto merged = tokens(run.path().string());
  for (int i = 0; i < 2; ++i) EXPECT_EQ(texts[i].tokens, merged[i]);
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(texts[i].error.empty() && texts[i].prompt == i / 2);
  EXPECT_EQ(texts[4].prompt, 2);
  EXPECT_NE(texts[4].error.find("bad"), std::string::npos) << texts[4].error;
  order.model.path = start.path().string() + "/model/";   // another way to the base
  for (const GeneratedText& t : generate(order)) EXPECT_TRUE(t.error.empty() || t.prompt == 2) << t.error;
  order.model.path = other.path().string();
  for (const GeneratedText& t : generate(order)) EXPECT_EQ(t.prompt != 0, t.error.find("trained beside the weights of \"" + start.path().string()) == std::string::npos) << t.error;
  order.prompts[0].adapter = "nobody";
  EXPECT_THROW(generate(order), DataError);
}

TEST_F(LoraRun, GoesOnFromAnAdapterAsAFolderOrARun) {
  TemporaryFolder first, folder, run;
  train_in(first.path(), tiny_run(kSft), lora());
  as_run(first.path());
  const std::string model = "policy.model=" + start.path().string();
  train_in(folder.path(), tiny_run(kSft), {model, "policy.adapter=" + (first.path() / "adapter").string()});
  train_in(run.path(), tiny_run(kSft), {model, "policy.adapter=" + first.path().string()});
  EXPECT_EQ(parameters(folder.path()), parameters(run.path()));
  const Transformer at_first = base().transformer->with_adapter(first.path() / "adapter");
  TemporaryFolder still;
  train_in(still.path(), tiny_run(kSft), {model, "policy.adapter=" + first.path().string(), "trainer.lr=0"});
  EXPECT_TRUE(base().transformer->with_adapter(still.path() / "adapter").trainable().equal(at_first.trainable()));
}

TEST_F(LoraRun, ACheckpointOfOneCanBeLoaded) {
  TemporaryFolder run;
  Config config = Config::parse(tiny_run(kSft), "tiny");
  for (const std::string& text : lora()) config.apply(text);
  write_file_atomically(run.path() / "config.yaml", resolve_config(config));
  train_in(run.path(), tiny_run(kSft), lora());
  const LanguageModel model = load_model({.path = run.path().string(), .checkpoint = "latest"});
  ASSERT_NE(model.transformer->adapter(), nullptr);
  const std::vector<uint8_t> saved = parameters(run.path());
  EXPECT_EQ(std::memcmp(model.transformer->trainable().data_ptr(), saved.data(), saved.size()), 0);
}

TEST_F(LoraRun, MistakesAreNamed) {
  const auto message = [&](const std::vector<std::string>& options) -> std::string {
    try {
      Config config = Config::parse(tiny_run(kSft), "tiny");
      for (const std::string& text : options) config.apply(text);
      LanguageJob(config).make_model();
    } catch (const std::exception& e) {
      return e.what();
    }
    return "";
  };
  const std::string model = "policy.model=" + start.path().string();
  EXPECT_EQ(message(lora()), "");
  EXPECT_NE(message({"policy.lora.rank=4"}).find("policy.model"), std::string::npos);
  EXPECT_NE(message({model, "policy.lora.rank=4", "policy.adapter=x"}).find("leave one of them out"), std::string::npos);
  EXPECT_NE(message({model, "policy.adapter=/nowhere"}).find("adapter_config.json"), std::string::npos);
  EXPECT_NE(message({model, "policy.lora={rank: 4, targets: [qkv]}"}).find("'qkv'"), std::string::npos);
  EXPECT_NE(message({model, "policy.adapter=" + start.path().string()}).find("merged"), std::string::npos);
}

TEST_F(LoraRun, LayersComputedAgainTrainTheSameBits) {
  for (const std::string& trainer : {kSft, kGroup})
    for (const bool with_lora : {false, true}) {
      SCOPED_TRACE(trainer);
      std::vector<std::string> options = with_lora ? lora() : std::vector<std::string>{};
      TemporaryFolder kept, again;
      EXPECT_GT(total(train_in(kept.path(), tiny_run(trainer), options), "train/grad_norm"), 0);
      options.push_back("trainer.checkpoint_activations=true");
      train_in(again.path(), tiny_run(trainer), options);
      EXPECT_EQ(parameters(kept.path()), parameters(again.path()));
    }
}

}  // namespace
}  // namespace trimtab
