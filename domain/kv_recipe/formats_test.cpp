#include "domain/kv_recipe/formats.h"

#include <gtest/gtest.h>

#include <functional>

#include "core/test_support.h"
#include "domain/kv_recipe/kv_recipe_test_util.h"

namespace trimtab {
namespace {

KvRecipe recipe_of(std::vector<KvBits> bits, int64_t kv_heads = 1) {
  KvRecipe r;
  r.model = {"0123456789abcdef", static_cast<int64_t>(bits.size()) / kv_heads, kv_heads, 64};
  r.bits = std::move(bits);
  return r;
}

std::string write_refusal(const std::string& format, const KvRecipe& recipe) {
  return message_of([&] { write_kv_format(format, recipe); });
}
std::string read_refusal(const std::string& format, const std::string& text, int64_t layers, int64_t kv_heads = 1) {
  return message_of([&] { read_kv_format(format, text, "f", recipe_of(std::vector<KvBits>(layers * kv_heads), kv_heads)); });
}
std::vector<KvBits> bits_read(const std::string& format, const std::string& text, int64_t layers) {
  return read_kv_format(format, text, "f", recipe_of(std::vector<KvBits>(layers))).bits;
}

bool same_widths(const KvRecipe& a, const KvRecipe& b) {
  for (int64_t layer = 0; layer < a.model.layers; ++layer) {
    for (int64_t head = 0; head < a.model.kv_heads; ++head) {
      if (a.at(layer, head) != b.at(layer, head)) return false;
    }
  }
  return a.model == b.model;
}

// Recipes of which every format can represent some: few widths, in runs.
KvRecipe random_simple_recipe(Draws& draws) {
  KvRecipe r = random_recipe(draws);
  const std::vector<KvBits> widths = {{16, 16}, {8, 8}, {4, 4}, {8, 4}, {2, 2}};
  const uint32_t kinds = 1 + draws.below(3);
  KvBits chosen[3];
  for (KvBits& bits : chosen) bits = widths[draws.below(widths.size())];
  r.bits.resize(r.model.layers * (draws.below(4) == 0 ? r.model.kv_heads : 1));
  for (size_t i = 0; i < r.bits.size(); ++i) r.bits[i] = i > 0 && draws.below(8) != 0 ? r.bits[i - 1] : chosen[draws.below(kinds)];
  return r;
}

TEST(KvFormats, WidthsSurviveThereAndBackOrAreRefused) {
  for (const KvRecipeFormat& format : kv_recipe_formats()) {
    int written = 0, refused = 0;
    for (uint32_t round = 0; round < 1500; ++round) {
      SCOPED_TRACE(fmt::format("{} TRIMTAB_TEST_SEED={} round {}", format.name, test_seed(), round));
      Draws draws(test_seed(), Stream::kTest, round);
      const KvRecipe recipe = round % 8 == 0 ? random_recipe(draws) : random_simple_recipe(draws);
      std::string text;
      try {
        text = write_kv_format(format.name, recipe);
      } catch (const DataError& error) {
        ++refused;
        const std::string message = error.what();
        EXPECT_TRUE(message.starts_with(format.name + " cannot represent the recipe: ") && message.find("; ") != std::string::npos) << message;
        continue;
      }
      ++written;
      KvRecipe rest = recipe;
      rest.bits.clear();
      const KvRecipe back = read_kv_format(format.name, text, "f", rest);
      EXPECT_TRUE(same_widths(back, recipe)) << text;
      KvRecipe without = recipe;   // all else is unchanged; the measured facts are not those of other bits
      without.bits = back.bits;
      without.bits_per_element = without.kl_to_16bit = std::nullopt;
      EXPECT_EQ(back, without);
      EXPECT_EQ(write_kv_format(format.name, back), text);
    }
    EXPECT_GT(written, 30) << format.name;
    EXPECT_GT(refused, 30) << format.name;
  }
}

TEST(KvFormats, TheTableIsWhole) {
  for (const KvRecipeFormat& format : kv_recipe_formats()) {
    EXPECT_FALSE(format.doc.empty() || format.use.empty());
    EXPECT_EQ(&kv_recipe_format(format.name), &format);
  }
  try {
    kv_recipe_format("model_opt");
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_STREQ(error.what(), "unknown recipe format 'model_opt'; did you mean 'modelopt'?");
  }
}

TEST(KvFormats, ReadingKeepsMeasuredFactsOfTheSameBits) {
  KvRecipe recipe = recipe_of({{8, 8}, {4, 4}});
  recipe.kl_to_16bit = 0.5;
  EXPECT_EQ(read_kv_format("kvtuner", write_kv_format("kvtuner", recipe), "f", recipe), recipe);
  EXPECT_FALSE(read_kv_format("sglang", "0-1:fp8", "f", recipe).kl_to_16bit);
}

TEST(KvFormats, NoneButKvTunerKnowsHeadsAndNoneKnowsEviction) {
  const KvRecipe heads = recipe_of({{8, 8}, {4, 4}}, 2);
  const KvRecipe alike = recipe_of({{8, 8}, {8, 8}}, 2);
  for (const KvRecipeFormat& format : kv_recipe_formats()) {
    EXPECT_EQ(write_refusal(format.name, alike), "no error") << format.name;
    if (format.name != "kvtuner") {
      EXPECT_EQ(write_refusal(format.name, heads),
                format.name + " cannot represent the recipe: the KV heads of layer 0 differ (head 0: 8-bit keys and 8-bit values, head 1: 4-bit keys and "
                              "4-bit values); search a recipe per layer, or write the format 'kvtuner'");
      EXPECT_EQ(write_refusal(format.name, recipe_of({{0, 0}})),
                format.name + " cannot represent the recipe: layer 0 is evicted; search a recipe without 0 bits");
    }
    EXPECT_NE(write_refusal(format.name, recipe_of({{0, 0}, {8, 8}})), "no error");
    EXPECT_EQ(write_refusal(format.name, recipe_of({{8, 3}})).substr(0, 20), "the recipe: /bits/0:");
  }
}

TEST(KvTuner, WritesAsItsPresets) {
  EXPECT_EQ(write_kv_format("kvtuner", recipe_of({{8, 4}, {2, 2}})), "0:\n  nbits_key: 8\n  nbits_value: 4\n1:\n  nbits_key: 2\n  nbits_value: 2\n");
  EXPECT_EQ(write_kv_format("kvtuner", recipe_of({{8, 4}, {2, 2}}, 2)), "0:\n  0:\n    nbits_key: 8\n    nbits_value: 4\n  1:\n    nbits_key: 2\n    nbits_value: 2\n");
  EXPECT_EQ(write_refusal("kvtuner", recipe_of({{8, 4}, {16, 16}})),
            "kvtuner cannot represent the recipe: layer 1 has 16-bit keys and 16-bit values; its caches know 2, 4 and 8 bits: search a recipe with these alone");
}

TEST(KvTuner, ReadsFlowStyleAndAnyOrder) {
  EXPECT_EQ(bits_read("kvtuner", "1: {nbits_value: 2, nbits_key: 4}\n0: {nbits_key: 8, nbits_value: 8}\n", 2), (std::vector<KvBits>{{8, 8}, {4, 2}}));
}

TEST(KvTuner, RefusesWithPlace) {
  const auto says = [](const std::string& text, const std::string& part, int64_t heads = 1) {
    const std::string message = read_refusal("kvtuner", text, 2, heads);
    EXPECT_TRUE(message.starts_with("f") && message.find(part) != std::string::npos) << message;
  };
  const std::string first = "0: {nbits_key: 8, nbits_value: 8}\n";
  says(first, "1 of 2 layers; each needs its widths");
  says(first + "2: {nbits_key: 8, nbits_value: 8}\n", "expected layers from 0 to 1, got '2'");
  says(first + "01: {nbits_key: 8, nbits_value: 8}\n", "got '01'");
  says(first + first, "0");   // a second key of the same name
  says(first + "1: {nbits_key: 8}\n", "is missing; expected 2, 4 or 8");
  says(first + "1: {nbits_key: 16, nbits_value: 8}\n", "expected 2, 4 or 8, got '16'");
  says(first + "1: {nbits_key: 8, nbits_values: 8}\n", "did you mean 'nbits_value'?");
  says(first + "1: 8\n", "f:2");
  says("- 1\n", "f:1");
  says("0: {0: {nbits_key: 8, nbits_value: 8}}\n1: {0: {nbits_key: 8, nbits_value: 8}}\n", "1 of 2 KV heads", 2);
  says("{", "f:1");
  says("a: &x 1\nb: *x\n", "f:1");
  says("", "got an empty file");
}

TEST(ModelOpt, WritesSchemaOne) {
  EXPECT_EQ(write_kv_format("modelopt", recipe_of({{8, 8}, {4, 4}, {8, 4}, {16, 16}})),
            "{\n  \"producer\": {\n    \"name\": \"trimtab\",\n    \"version\": \"" TRIMTAB_VERSION
            "\"\n  },\n  \"quantization\": {\n    \"kv_cache_quant_algo\": \"MIXED_PRECISION\",\n    \"kv_cache_schema_version\": 1,\n"
            "    \"kv_cache_quantized_layers\": {\n      \"model.layers.0.self_attn\": {\n        \"quant_algo\": \"FP8\"\n      },\n"
            "      \"model.layers.1.self_attn\": {\n        \"quant_algo\": \"NVFP4\"\n      },\n"
            "      \"model.layers.2.self_attn\": {\n        \"quant_algo\": \"FP8_K_NVFP4_V\"\n      }\n    }\n  }\n}\n");
  EXPECT_EQ(write_refusal("modelopt", recipe_of({{8, 8}, {4, 2}})),
            "modelopt cannot represent the recipe: layer 1 has 4-bit keys and 2-bit values; it knows 16/16, 8/8, 4/4 and 8/4 bits for keys/values: search a "
            "recipe with these alone");
  EXPECT_EQ(write_refusal("modelopt", recipe_of({{16, 16}})), "modelopt cannot represent the recipe: every layer is left at 16 bits; leave the checkpoint as it is");
}

std::string modelopt(const std::string& algorithm, const std::string& layers, const std::string& more = "") {
  return fmt::format("{{\"producer\": {{}}, \"quantization\": {{\"quant_algo\": null, \"exclude_modules\": [], \"kv_cache_quant_algo\": \"{}\", "
                     "\"kv_cache_schema_version\": 1, \"kv_cache_quantized_layers\": {{{}}}{}}}}}", algorithm, layers, more);
}

TEST(ModelOpt, ReadsWhatModelOptWrites) {
  const std::vector<KvBits> expected = {{16, 16}, {8, 8}};
  EXPECT_EQ(bits_read("modelopt", modelopt("MIXED_PRECISION", "\"model.layers.1.self_attn\": {\"quant_algo\": \"FP8\"}"), 2), expected);
  EXPECT_EQ(bits_read("modelopt", modelopt("FP8", "\"model.layers.1.self_attn\": {\"quant_algo\": \"FP8\"}"), 2), expected);
  EXPECT_EQ(bits_read("modelopt", modelopt("FP8", "\"language_model.model.layers.1.attn\": {\"quant_algo\": \"FP8\"}", ", \"kv_cache_deployment_supported\": false"), 2), expected);
}

TEST(ModelOpt, RefusesWithPlace) {
  const auto says = [](const std::string& text, const std::string& message) { EXPECT_EQ(read_refusal("modelopt", text, 2), message); };
  const std::string fp8 = "{\"quant_algo\": \"FP8\"}", first = "\"model.layers.0.self_attn\": " + fp8;
  says("{}", "f: the document: the key 'quantization' is missing");
  says("{\"quantization\": {\"quant_algo\": \"FP8\"}}", "f: /quantization: the key 'kv_cache_schema_version' is missing");
  says("{\"quantization\": {\"kv_cache_schema_version\": 2}}", "f: /quantization/kv_cache_schema_version: schema 2; this program reads 1");
  says(modelopt("MIXED_PRECISION", first, ", \"kv_cache_quant_algos\": 1"), "f: /quantization: unknown key 'kv_cache_quant_algos'; did you mean 'kv_cache_quant_algo'?");
  says(modelopt("MIXED_PRECISION", ""), "f: /quantization/kv_cache_quantized_layers: no layer; expected those that are quantised");
  says(modelopt("MIXED_PRECISION", "\"model.layers.2.self_attn\": " + fp8),
       "f: /quantization/kv_cache_quantized_layers/model.layers.2.self_attn: expected a name such as model.layers.0.self_attn with a layer from 0 to 1");
  says(modelopt("MIXED_PRECISION", first + ", \"m.layers.0.attn\": " + fp8),
       "f: /quantization/kv_cache_quantized_layers/model.layers.0.self_attn: layer 0 is there twice under different names; remove one");
  says(modelopt("MIXED_PRECISION", first + ", " + first), "f: /quantization/kv_cache_quantized_layers: the key 'model.layers.0.self_attn' is there twice; remove one");
  says(modelopt("NVFP4", first), "f: /quantization/kv_cache_quantized_layers/model.layers.0.self_attn/quant_algo: 'FP8', but kv_cache_quant_algo says that all are NVFP4");
  says(modelopt("INT8", first), "f: the type 'INT8' has no width of 16, 8, 4 or 2 bits that is known here; expected one of FP8, NVFP4, FP8_K_NVFP4_V");
  for (const char* name : {"layers.0", "layers.0.", "xlayers.0.a", "layers..a", "layers.-1.a", "layers.00.a", "", "layers.99999999999999999999.a"})
    EXPECT_NE(read_refusal("modelopt", modelopt("MIXED_PRECISION", fmt::format("\"{}\": {}", name, fp8)), 2).find("expected a name such as"), std::string::npos) << name;
}

TEST(Ranges, MergeRunsAndReadBack) {
  const KvRecipe recipe = recipe_of({{16, 16}, {16, 16}, {8, 8}, {4, 4}, {4, 4}, {4, 4}});
  EXPECT_EQ(write_kv_format("sglang", recipe), "0-1:bf16,2:fp8_e4m3,3-5:fp4_e2m1\n");
  EXPECT_EQ(write_kv_format("tensorrt_llm", recipe), "0-1:bfloat16,2:fp8,3-5:nvfp4\n");
  EXPECT_EQ(bits_read("sglang", "3-5:int4,0-1:bf16,2:int8", 6), recipe.bits);
  EXPECT_EQ(bits_read("tensorrt_llm", "0-3:fp8,4-35:nvfp4", 36)[4], (KvBits{4, 4}));
  EXPECT_EQ(bits_read("sglang", "0-1:bf16,2-35:fp8", 36)[35], (KvBits{8, 8}));
  EXPECT_EQ(write_refusal("sglang", recipe_of({{8, 8}, {8, 4}})),
            "sglang cannot represent the recipe: layer 1 has 8-bit keys and 4-bit values; it knows 16, 8 and 4 bits, keys and values alike: search a recipe with "
            "these alone");
}

TEST(Ranges, RefuseWithTheRange) {
  const auto says = [](const std::string& text, const std::string& message) { EXPECT_EQ(read_refusal("sglang", text, 4), message); };
  says("0-1:bf16", "f: layer 2 is in no range; name the type of all 4 layers");
  says("0-2:bf16,2-3:fp8", "f: layer 2 is in two ranges; the second is '2-3:fp8'");
  says("0-3:auto", "f: the type 'auto' has no width of 16, 8, 4 or 2 bits that is known here; expected one of bf16, fp8_e4m3, fp4_e2m1, bfloat16, fp8_e5m2, fp8, int8, int4");
  says("", "f: expected one text without spaces, such as 0-1:bf16,2-35:fp8");
  says("0-1:bf16 2-3:fp8", "f: expected one text without spaces, such as 0-1:bf16,2-35:fp8");
  for (const char* range : {"0-4:fp8", "3-0:fp8", "-1:fp8", "0-:fp8", "0-3", ":fp8", "0--3:fp8", "+0:fp8", "00:fp8", "0-99999999999999999999:fp8", "bf16"})
    says(range, fmt::format("f: expected FIRST-LAST:TYPE with layers from 0 to 3, got '{}'", range));
  says("0-3:fp8,", "f: expected FIRST-LAST:TYPE with layers from 0 to 3, got ''");
}

TEST(Vllm, WritesOneTypeAndTheLayersLeftOut) {
  EXPECT_EQ(write_kv_format("vllm", recipe_of({{16, 16}, {8, 8}, {8, 8}, {16, 16}})), "--kv-cache-dtype int8_per_token_head --kv-cache-dtype-skip-layers 0 3\n");
  EXPECT_EQ(write_kv_format("vllm", recipe_of({{4, 4}, {4, 4}})), "--kv-cache-dtype int4_per_token_head\n");
  EXPECT_EQ(write_kv_format("vllm", recipe_of({{16, 16}, {16, 16}})), "--kv-cache-dtype auto\n");
  EXPECT_EQ(write_kv_format("vllm", recipe_of({{16, 16}, {16, 16}, {8, 4}, {16, 16}, {16, 16}})),
            "--kv-cache-dtype turboquant_k8v4 --kv-cache-dtype-skip-layers 0 1 3 4\n");
  EXPECT_EQ(write_refusal("vllm", recipe_of({{8, 4}, {16, 16}, {8, 4}})),
            "vllm cannot represent the recipe: layer 0 has 8-bit keys and 4-bit values, but with turboquant_k8v4 vLLM keeps the first and last two layers at 16 bits; "
            "search a recipe that does so too");
  EXPECT_EQ(write_refusal("vllm", recipe_of({{8, 8}, {4, 4}})),
            "vllm cannot represent the recipe: layer 1 has 4-bit keys and 4-bit values, a layer before it 8-bit keys and 8-bit values; give all layers that are not "
            "16 bits the same widths, or write the format 'modelopt'");
  EXPECT_EQ(write_refusal("vllm", recipe_of({{4, 2}})),
            "vllm cannot represent the recipe: 4-bit keys and 2-bit values; it knows 8/8, 4/4 and 8/4 bits for keys/values: search a recipe with one of these");
}

TEST(Vllm, ReadsItsTypesAndBoundaries) {
  EXPECT_EQ(bits_read("vllm", "--kv-cache-dtype-skip-layers 0 1\n--kv-cache-dtype fp8_e4m3\n", 3), (std::vector<KvBits>{{16, 16}, {16, 16}, {8, 8}}));
  EXPECT_EQ(bits_read("vllm", "--kv-cache-dtype turboquant_4bit_nc", 5), (std::vector<KvBits>{{16, 16}, {16, 16}, {4, 4}, {16, 16}, {16, 16}}));
  EXPECT_EQ(bits_read("vllm", "--kv-cache-dtype turboquant_k8v4", 3), (std::vector<KvBits>{{16, 16}, {8, 4}, {16, 16}}));
  EXPECT_EQ(bits_read("vllm", "--kv-cache-dtype turboquant_k8v4", 1), (std::vector<KvBits>{{8, 4}}));
}

TEST(Vllm, RefusesOtherFlags) {
  const auto says = [](const std::string& text, const std::string& part) {
    const std::string message = read_refusal("vllm", text, 3);
    EXPECT_TRUE(message.starts_with("f: ") && message.find(part) != std::string::npos) << message;
  };
  says("", "--kv-cache-dtype is missing");
  says("--kv-cache-dtype", "nothing after --kv-cache-dtype");
  says("--kv-cache-dtype fp8 --kv-cache-dtype fp8", "--kv-cache-dtype is there twice");
  says("--kv-cache-dtype fp8 --kv-cache-dtype-skip-layers 0 --kv-cache-dtype-skip-layers 1", "is there twice");
  says("--kv-cache-dtype fp8 --kv-cache-dtype-skip-layers 3", "expected layers from 0 to 2, got '3'");
  says("--kv-cache-dtype fp8 --kv-cache-dtype-skip-layers sliding_window", "got 'sliding_window'");
  says("--kv-cache-dtype fp7", "the type 'fp7'");
  says("--kv_cache-dtype fp8", "unknown flag '--kv_cache-dtype'");
}

TEST(IkLlama, WritesTheEndsApart) {
  KvRecipe recipe = recipe_of({{16, 8}, {16, 8}, {8, 4}, {8, 4}, {4, 4}});
  EXPECT_EQ(write_kv_format("ik_llama", recipe), "-ctk q8_0 -ctk-first f16,2 -ctk-last q4_0,1 -ctv q4_0 -ctv-first q8_0,2\n");
  recipe = recipe_of({{8, 8}, {8, 8}, {8, 16}});
  recipe.hadamard_keys = recipe.hadamard_values = true;
  EXPECT_EQ(write_kv_format("ik_llama", recipe), "-ctk q8_0 -ctv q8_0 -ctv-last f16,1 -khad -vhad\n");
  EXPECT_EQ(write_refusal("ik_llama", recipe_of({{8, 8}, {4, 8}, {8, 8}, {4, 8}})),
            "ik_llama cannot represent the recipe: the keys change width 3 times from layer to layer; it sets the first, the last and the layers between: give each of "
            "these three one width");
  EXPECT_EQ(write_refusal("ik_llama", recipe_of({{8, 2}})),
            "ik_llama cannot represent the recipe: values of 2 bits; it knows 16, 8 and 4 bits: search a recipe with these alone");
}

TEST(IkLlama, ReadsShortAndLongFlags) {
  EXPECT_EQ(bits_read("ik_llama", "--cache-type-v iq4_nl -ctk-last bf16,1 -ctk q8_0", 3), (std::vector<KvBits>{{8, 4}, {8, 4}, {16, 4}}));
  EXPECT_EQ(bits_read("ik_llama", "-ctk-first q8_0,2", 3), (std::vector<KvBits>{{8, 16}, {8, 16}, {16, 16}}));
  EXPECT_EQ(bits_read("ik_llama", "-ctk-first q8_0,0 -ctk-last q4_0,3", 3), (std::vector<KvBits>(3, {4, 16})));
  EXPECT_TRUE(read_kv_format("ik_llama", "--k-cache-hadamard", "f", recipe_of({{8, 8}})).hadamard_keys);
}

TEST(IkLlama, RefusesOtherFlags) {
  const auto says = [](const std::string& text, const std::string& part) {
    const std::string message = read_refusal("ik_llama", text, 3);
    EXPECT_TRUE(message.starts_with("f: ") && message.find(part) != std::string::npos) << message;
  };
  says("", "no flags");
  says("-ctk", "nothing after -ctk");
  says("-ctk q8_0 --cache-type-k q4_0", "-ctk is there twice");
  says("-ctk q5_1", "the type 'q5_1'");
  says("-ctk-frist f16,2", "did you mean '-ctk-first'?");
  says("-ctk-first f16", "-ctk-first: expected TYPE,N with N from 0 to 3 layers, got 'f16'");
  says("-ctk-first f16,-1", "expected TYPE,N");
  says("-ctk-first f16,4", "expected TYPE,N");
  says("-ctk-first f16,2 -ctk-last f16,2", "-ctk-first and -ctk-last overlap: the model has 3 layers");
}

// A recipe that every format can represent, in each of them.
KvRecipe common_sample() { return recipe_of({{8, 8}, {8, 8}, {4, 4}}); }

void survives(const KvRecipeFormat& format, const std::string& text, const KvRecipe& rest) {
  try {
    check_recipe(read_kv_format(format.name, text, "f", rest), "what was read");
  } catch (const DataError& error) {
    EXPECT_TRUE(std::string(error.what()).starts_with("f:")) << format.name << ": " << error.what();
  }
}

TEST(KvFormats, SurviveDamage) {
  for (const KvRecipeFormat& format : kv_recipe_formats()) {
    const KvRecipe rest = format.name == "vllm" ? recipe_of({{16, 16}, {8, 8}, {16, 16}}) : common_sample();
    const std::string whole = write_kv_format(format.name, rest);
    for (size_t length = 0; length < whole.size(); ++length) survives(format, whole.substr(0, length), rest);
    for (size_t i = 0; i < whole.size() * 8; ++i) {
      std::string damaged = whole;
      damaged[i / 8] = static_cast<char>(damaged[i / 8] ^ (1 << (i % 8)));
      survives(format, damaged, rest);
    }
    for (uint32_t round = 0; round < 300; ++round) {   // pieces of the text in another order
      Draws draws(test_seed(), Stream::kTest, round);
      std::string mixed;
      for (int piece = 0; piece < 4; ++piece) mixed += whole.substr(draws.below(whole.size()), draws.below(40));
      survives(format, mixed, rest);
    }
  }
}

TEST(KvFormats, RefuseWhatIsTooLargeOrTooDeep) {
  const KvRecipe rest = common_sample();
  for (const KvRecipeFormat& format : kv_recipe_formats()) {
    const auto refuses = [&](const std::string& text) { EXPECT_THROW(read_kv_format(format.name, text, "f", rest), DataError) << format.name; };
    refuses(std::string(KvRecipe::kMaxBytes + 1, ' '));
    refuses(std::string(200'000, '['));
    refuses(std::string(200'000, '{'));
    refuses(std::string("0-2:fp8\0", 8) + "x");
    refuses("0: {nbits_key: 1e999, nbits_value: .nan}");
    KvRecipe hollow = rest;   // nothing to read for
    hollow.model.layers = 0;
    EXPECT_THROW(read_kv_format(format.name, "", "f", hollow), DataError);
    hollow.model.layers = INT64_MAX;
    EXPECT_THROW(read_kv_format(format.name, "", "f", hollow), DataError);
  }
}

}  // namespace
}  // namespace trimtab
