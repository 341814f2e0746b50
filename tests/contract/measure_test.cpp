// Sensitivities of a KV cache by the command: the table, what it is used for, and what is refused.
#include <map>

#include "core/files.h"
#include "domain/kv_precision/sensitivity.h"
#include "domain/kv_recipe/formats.h"
#include "domain/kv_recipe/kv_recipe.h"
#include "tests/contract/language_support.h"

namespace trimtab {
namespace {

const std::string kText = "7+4=a 7+4=11 ok;#11.2+3=5 ok;#5.1-9=8;6+6=12;3-1=2;8+8=16;5+5=10;9-3=6;4+4=8;2+2=4";

class MeasureTest : public LanguageTest {
 protected:
  std::string model() {
    if (!std::filesystem::exists(path("tiny"))) train("tiny", kTinyRun, {"policy.architecture.hidden_size=32"});
    return path("tiny");
  }
  Answer measure(std::vector<std::string> words) {
    words.insert(words.begin(), {"measure", model()});
    return command(words);
  }
};

TEST_F(MeasureTest, ATableOfEveryHeadThatTheEnvironmentReads) {
  const std::string text = file("text.txt", kText), table = path("table.safetensors");
  const Answer answer = measure({"--text", text, "--out", table, "--per-head", "kv.page_tokens=16", "kv.rotate_keys=true"});
  ASSERT_EQ(answer.code, 0) << answer.err;
  const KvSensitivity t = read_sensitivity(table);
  EXPECT_EQ(t.units(), 2);
  EXPECT_EQ(t.head_dim, 16);
  ASSERT_EQ(t.pairs.size(), 5u);
  for (const auto& row : t.kl) EXPECT_LT(row[0], row[4]);   // 8 bits are nearer to 16 than 2
  ASSERT_EQ(t.page_ns.size(), 5u);
  for (const double ns : t.page_ns) EXPECT_GT(ns, 0);
  EXPECT_NE(t.measured.at("cache").find("rotate_keys: true"), std::string::npos);
  EXPECT_NE(answer.out.find("K8V4"), std::string::npos);
  const std::string run = train("widths", "run: {threads: 2}\ndata: {train: [" + table +
                                              "]}\nenv: {type: kv_precision, low_bits: 5, high_bits: 9}\ntrainer: {preset: ppo, steps: 256, num_envs: 8, horizon: 16}\n");
  const Answer evaluated = command({"eval", "none", "--config", run + "/config.yaml", "--data", table});
  EXPECT_EQ(evaluated.code, 0) << evaluated.err;
  EXPECT_NE(evaluated.out.find("best_allocation"), std::string::npos);
}

TEST_F(MeasureTest, PagesAreLearnedAndComparedOnTheModelThatWasMeasured) {
  const std::string text = file("text.txt", kText), table = path("table.safetensors");
  ASSERT_EQ(measure({"--text", text, "--out", table, "--per-head", "kv.page_tokens=16", "kv.rotate_keys=true"}).code, 0);
  const std::string env = "env: {type: kv_precision, mode: pages, model: " + model() + ", table: " + table + ", low_bits: 4, high_bits: 6}\n";
  const std::string body = "trainer: {preset: ppo, steps: 64, num_envs: 2, horizon: 16, minibatch_size: 16}\n";
  const std::string run = train("pages", "run: {threads: 2}\ndata: {train: [" + text + "]}\n" + env + body);
  const std::string other = file("other.txt", kText + "7-7=0");
  const Answer answer = command({"eval", run, "--data", other});
  ASSERT_EQ(answer.code, 0) << answer.err;
  for (const char* row : {"learned", "zipcache", "prefix_kv_4", "kl_to_16bit", "attention_us"}) EXPECT_NE(answer.out.find(row), std::string::npos) << row;
  // As the issue of recipes has it: the model and the text named directly.
  expect_says(command({"train", file("none.yaml", "data: {train: [" + text + "]}\nenv: {type: kv_precision, mode: pages}\n" + body), "--out", path("a")}), 2,
              {"env.model", "env.table"});
  train("another", kTinyRun, {"policy.architecture.hidden_size=32", "run.seed=9"});
  expect_says(command({"eval", run, "--data", other, "env.model=" + path("another")}), 3, {"another model", "hash"});
  expect_says(command({"eval", run, "--data", other, "env.low_bits=1"}), 2, {"low_bits", "cheapest"});
  expect_says(command({"eval", run, "--data", file("short.txt", "1+1=2")}), 3, {"short.txt", "20 tokens"});
  const std::string exported = path("exported");
  ASSERT_EQ(command({"export", run, "--to", "ttc,header", "--out", exported}).code, 0);
  EXPECT_TRUE(std::filesystem::exists(exported + "/controller.h"));
}

TEST_F(MeasureTest, RefusalsNameTheFault) {
  const std::string text = file("text.txt", kText), out = path("out.safetensors");
  expect_says(measure({"--text", text}), 2, {"--out"});
  expect_says(measure({"--text", path("absent.txt"), "--out", out}), 3, {"absent.txt"});
  expect_says(measure({"--text", file("letters.txt", "7+4=Z"), "--out", out}), 3, {"letters.txt"});
  expect_says(measure({"--text", file("bad.jsonl", "{\"text\": \"1+1=2\"}\n{\"words\": 1}\n"), "--out", out}), 3, {"bad.jsonl:2", "text"});
  expect_says(measure({"--text", file("empty.txt", ""), "--out", out}), 3, {"empty.txt", "no text"});
  expect_says(measure({"--text", text, "--out", out, "--pairs", "8x8,4y4"}), 2, {"4y4", "KEYSxVALUES"});
  expect_says(measure({"--text", text, "--out", out, "--pairs", "3x3", "kv.page_tokens=16"}), 2, {"3 bits"});
  expect_says(measure({"--text", text, "--out", out, "kv.pagetokens=16"}), 2, {"kv.pagetokens", "page_tokens"});
  expect_says(measure({"--text", text, "--out", out, "kv.page_tokens=40"}), 2, {"40 tokens", "multiple of 16"});
  train("narrow", kTinyRun);   // heads of 8 numbers
  expect_says(command({"measure", path("narrow"), "--text", text, "--out", out}), 2, {"heads of 8 numbers"});
  EXPECT_FALSE(std::filesystem::exists(out));
}

// The recipe of the tiny model whose heads all have the given widths.
KvRecipe recipe_for(const KvSensitivity& table, KvBits bits) {
  KvRecipe r;
  r.model = {table.measured.at("model_hash"), table.layers, table.kv_heads, table.head_dim};
  r.page_tokens = table.page_tokens, r.sinks = 4, r.tail = table.page_tokens, r.hadamard_keys = true;
  r.bits.assign(table.layers, bits);
  return r;
}

TEST_F(MeasureTest, RecipesAreEvaluatedBesideTheRules) {
  const std::string text = file("text.txt", kText), table = path("table.safetensors"), recipe = path("recipe.json"), out = path("out.json");
  ASSERT_EQ(measure({"--text", text, "--out", table, "kv.page_tokens=16", "kv.rotate_keys=true"}).code, 0);
  write_kv_recipe(recipe_for(read_sensitivity(table), {8, 4}), recipe);
  const Answer answer = command({"eval", recipe, "--model", model(), "--text", text, "--table", table, "--json", out});
  ASSERT_EQ(answer.code, 0) << answer.err;
  const nlohmann::json document = read_json(out);
  std::map<std::string, nlohmann::json> figures;
  for (const nlohmann::json& row : document["policies"])
    if (row["file"] == "") figures[row["name"]] = row["metrics"];
  for (const char* metric : {"kl_to_16bit", "bits_per_element", "bytes", "perplexity"}) {
    ASSERT_TRUE(figures["recipe"].contains(metric)) << metric;
    EXPECT_EQ(figures["recipe"][metric]["mean"], figures["k8v4"][metric]["mean"]);   // which it is
  }
  EXPECT_LT(figures["k8v8"]["kl_to_16bit"]["mean"].get<double>(), figures["k2v2"]["kl_to_16bit"]["mean"].get<double>());
  for (const char* name : {"first_layers", "last_layers", "both_ends", "random", "sensitive_first", "nsga2", "zipcache", "prefix_kv_4", "best_allocation"}) {
    ASSERT_TRUE(figures.contains(name)) << name;
    EXPECT_LE(figures[name]["bytes"]["mean"].get<double>(), figures["recipe"]["bytes"]["mean"].get<double>()) << name;
  }
}

TEST_F(MeasureTest, ARunOfLayersBecomesARecipe) {
  const std::string text = file("text.txt", kText), table = path("table.safetensors"), out = path("out");
  ASSERT_EQ(measure({"--text", text, "--out", table, "kv.page_tokens=16", "kv.rotate_keys=true"}).code, 0);
  const std::string run = train("widths", "run: {threads: 2}\ndata: {train: [" + table +
                                              "]}\nenv: {type: kv_precision, low_bits: 5, high_bits: 9}\ntrainer: {preset: ppo, steps: 256, num_envs: 8, horizon: 16}\n");
  const Answer exported = command({"export", run, "--to", "recipe,kvtuner", "--bits", "7", "--out", out});
  ASSERT_EQ(exported.code, 0) << exported.err;
  const KvRecipe recipe = read_kv_recipe(out + "/recipe.json");
  const KvSensitivity t = read_sensitivity(table);
  EXPECT_EQ(recipe.model.hash, t.measured.at("model_hash"));
  EXPECT_TRUE(recipe.hadamard_keys);
  EXPECT_EQ(recipe.page_tokens, 16);
  int64_t bytes = 0;
  for (const KvBits b : recipe_widths(recipe)) bytes += kv_layout({recipe.model.head_dim, 16}, recipe.quantiser, b).bytes;
  EXPECT_LE(t.bits(bytes), 7);
  EXPECT_EQ(read_kv_format("kvtuner", read_file(out + "/recipe.kvtuner"), "recipe.kvtuner", recipe).bits, recipe.bits);
  // The run and its recipe are the same widths.
  const auto kl_of = [&](const std::vector<std::string>& subject) {
    std::vector<std::string> words = {"eval"};
    words.insert(words.end(), subject.begin(), subject.end());
    for (const char* word : {"--model", "MODEL", "--text", "TEXT", "--json", "JSON"})
      words.push_back(std::string(word) == "MODEL" ? model() : std::string(word) == "TEXT" ? text : std::string(word) == "JSON" ? path("e.json") : word);
    const Answer answer = command(words);
    EXPECT_EQ(answer.code, 0) << answer.err;
    return read_json(path("e.json"))["policies"][0]["metrics"]["kl_to_16bit"]["mean"].get<double>();
  };
  EXPECT_EQ(kl_of({run, "--bits", "7"}), kl_of({out + "/recipe.json"}));
  expect_says(command({"export", run, "--to", "recipe", "--out", out}), 2, {"--bits", "5 to 9"});
  expect_says(command({"export", run, "--to", "recipes", "--out", out}), 2, {"did you mean 'recipe'"});
  expect_says(command({"export", model(), "--to", "recipe", "--bits", "5", "--out", out}), 2, {"kv_precision"});
}

TEST_F(MeasureTest, RecipesOfOtherModelsAreRefused) {
  const std::string text = file("text.txt", kText), table = path("table.safetensors"), recipe = path("recipe.json");
  ASSERT_EQ(measure({"--text", text, "--out", table, "kv.page_tokens=16"}).code, 0);
  KvRecipe r = recipe_for(read_sensitivity(table), {4, 4});
  r.model.hash[0] = r.model.hash[0] == '0' ? '1' : '0';
  write_kv_recipe(r, recipe);
  expect_says(command({"eval", recipe, "--model", model(), "--text", text}), 3, {"another model"});
  expect_says(command({"eval", recipe, "--text", text}), 2, {"--model"});
  expect_says(command({"eval", file("cut.json", "{\"kv_recipe_version\": 1"), "--model", model(), "--text", text}), 3, {"cut.json"});
  expect_says(command({"eval", model(), "--model", model(), "--text", text}), 2, {"kv_precision", "layers"});
}

TEST_F(MeasureTest, EnvironmentRefusesWhatItCannotUse) {
  const auto train_on = [&](const std::string& data, const std::string& env) {
    return try_train("run", "data: {train: [" + data + "]}\nenv: {type: kv_precision" + env + "}\ntrainer: {preset: ppo, steps: 64, num_envs: 8, horizon: 8}\n");
  };
  const std::string table = TRIMTAB_SOURCE_DIR "/data/kv/layers-train.safetensors";
  expect_says(train_on(table, ", low_bits: 1"), 2, {"low_bits", "cheapest widths"});
  expect_says(train_on(table, ", low_bits: 5, high_bits: 4"), 2, {"high_bits"});
  expect_says(train_on(table, ", mode: page"), 2, {"'page'", "pages"});
  expect_says(train_on(file("damaged.safetensors", "nonsense"), ", low_bits: 4"), 3, {"damaged.safetensors"});
  expect_says(try_train("none", "env: {type: kv_precision}\ntrainer: {preset: ppo, steps: 64, num_envs: 8, horizon: 8}\n"), 2, {"trimtab measure"});
}

}  // namespace
}  // namespace trimtab
