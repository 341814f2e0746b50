#include "domain/kv_recipe/kv_recipe.h"

#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/test_support.h"
#include "domain/kv_recipe/kv_recipe_test_util.h"

namespace trimtab {
namespace {

using nlohmann::json;

KvRecipe sample() {
  KvRecipe r;
  r.name = "sample";
  r.model = {"0123456789abcdef", 3, 2, 32};
  r.page_tokens = 32;
  r.sinks = 4;
  r.tail = 32;
  r.bits = {{8, 4}, {4, 2}, {16, 16}};
  r.bits_per_element = 8.5;
  r.kl_to_16bit = 0.0021;
  return r;
}

std::string refusal(const std::string& text) {
  return message_of([&] { parse_kv_recipe(text, "r.json"); });
}
std::string refusal_after(const std::function<void(json&)>& change) {
  json document = json::parse(kv_recipe_json(sample()));
  change(document);
  return refusal(document.dump());
}

TEST(KvRecipe, WhatIsWrittenReadsBackEqual) {
  for (uint32_t round = 0; round < 300; ++round) {
    SCOPED_TRACE(fmt::format("TRIMTAB_TEST_SEED={} round {}", test_seed(), round));
    Draws draws(test_seed(), Stream::kTest, round);
    const KvRecipe recipe = random_recipe(draws);
    EXPECT_EQ(parse_kv_recipe(kv_recipe_json(recipe), "r.json"), recipe);
  }
}

TEST(KvRecipe, FilesReadBackAndAMissingFolderIsSaid) {
  const TemporaryFolder folder;
  const auto file = folder.path() / "recipe.json";
  write_kv_recipe(sample(), file);
  EXPECT_EQ(read_kv_recipe(file), sample());
  EXPECT_THROW(write_kv_recipe(sample(), folder.path() / "absent" / "recipe.json"), CheckpointError);
}

TEST(KvRecipe, TheFormIsStable) {
  EXPECT_EQ(kv_recipe_json(sample()),
            "{\n  \"kv_recipe_version\": 1,\n  \"name\": \"sample\",\n"
            "  \"model\": {\"hash\":\"0123456789abcdef\",\"layers\":3,\"kv_heads\":2,\"head_dim\":32},\n"
            "  \"quantiser\": {\"page_tokens\":32,\"key_groups\":\"channel\",\"value_group\":0,\"symmetric\":false,\"key_norm\":false,"
            "\"value_channel_scale\":false,\"hadamard_keys\":false,\"hadamard_values\":false},\n"
            "  \"sinks\": 4,\n  \"tail\": 32,\n  \"measured\": {\"bits_per_element\":8.5,\"kl_to_16bit\":0.0021},\n"
            "  \"bits\": [\n    [8,4],\n    [4,2],\n    [16,16]\n  ]\n}\n");
}

TEST(KvRecipe, ReadsPairsPerHeadAlsoOfASingleHead) {
  KvRecipe recipe = sample();
  recipe.model.kv_heads = 1;
  json document = json::parse(kv_recipe_json(recipe));
  document["bits"] = {{{8, 4}}, {{4, 2}}, {{16, 16}}};
  EXPECT_EQ(parse_kv_recipe(document.dump(), "r.json"), recipe);
  recipe.model.kv_heads = 2;
  recipe.bits = {{8, 4}, {2, 2}, {4, 2}, {0, 0}, {16, 16}, {16, 8}};
  EXPECT_EQ(recipe.at(2, 1), (KvBits{16, 8}));
  EXPECT_EQ(sample().at(2, 1), (KvBits{16, 16}));
  EXPECT_EQ(parse_kv_recipe(kv_recipe_json(recipe), "r.json"), recipe);
}

struct Refused {
  const char* name;
  void (*change)(json&);
  const char* message;
};
const Refused kRefused[] = {
    {"unknown", [](json& d) { d["sink"] = 1; }, "r.json: the document: unknown key 'sink'; did you mean 'sinks'?"},
    {"unknown, none near", [](json& d) { d["model"]["vocabulary"] = 1; },
     "r.json: /model: unknown key 'vocabulary'; expected one of hash, layers, kv_heads, head_dim"},
    {"unknown, deeper", [](json& d) { d["measured"]["kl_to_16bits"] = 1; }, "r.json: /measured: unknown key 'kl_to_16bits'; did you mean 'kl_to_16bit'?"},
    {"missing", [](json& d) { d.erase("tail"); }, "r.json: the document: the key 'tail' is missing"},
    {"missing, deeper", [](json& d) { d["quantiser"].erase("key_norm"); }, "r.json: /quantiser: the key 'key_norm' is missing"},
    {"version", [](json& d) { d["kv_recipe_version"] = 2; d["new"] = 1; }, "r.json: /kv_recipe_version: version 2; this program reads 1"},
    {"type", [](json& d) { d["sinks"] = "4"; }, "r.json: /sinks: expected a whole number, found \"4\""},
    {"float", [](json& d) { d["model"]["layers"] = 3.0; }, "r.json: /model/layers: expected a whole number, found 3.0"},
    {"null", [](json& d) { d["quantiser"]["symmetric"] = nullptr; }, "r.json: /quantiser/symmetric: expected true or false, found null"},
    {"list", [](json& d) { d["name"] = json::array(); }, "r.json: /name: expected text, found a list"},
    {"object", [](json& d) { d["model"] = 3; }, "r.json: /model: expected an object {...}, found 3"},
    {"negative", [](json& d) { d["tail"] = -1; }, "r.json: /tail: expected a whole number from 0 to 1073741824, found -1"},
    {"huge", [](json& d) { d["model"]["kv_heads"] = UINT64_MAX; }, "r.json: /model/kv_heads: expected a whole number, found 18446744073709551615"},
    {"head", [](json& d) { d["model"]["head_dim"] = 33; }, "r.json: /quantiser: heads of 33 numbers cannot be packed: a multiple of 16 up to 512 can"},
    {"hash", [](json& d) { d["model"]["hash"] = "ABC"; }, "r.json: /model/hash: expected 8 to 128 lower-case hex digits, found 'ABC'"},
    {"groups", [](json& d) { d["quantiser"]["key_groups"] = "head"; }, "r.json: /quantiser/key_groups: expected 'channel' or 'token', found 'head'"},
    {"line", [](json& d) { d["name"] = "a\nb"; }, "r.json: /name: expected one line of UTF-8, at most 1000 bytes"},
    {"layers", [](json& d) { d["model"]["layers"] = 4; }, "r.json: /bits: expected one entry for each of the 4 layers that /model/layers says, found 3"},
    {"heads", [](json& d) { d["bits"] = {{{8, 8}, {8, 8}}, {{8, 8}}, {{8, 8}, {8, 8}}}; },
     "r.json: /bits/1: expected a pair for each of the 2 KV heads that /model/kv_heads says, found 1"},
    {"mixed forms", [](json& d) { d["bits"][1] = {{8, 8}, {8, 8}}; }, "r.json: /bits/1/0: expected a whole number, found a list"},
    {"mixed forms, heads first", [](json& d) { d["bits"][0] = {{8, 8}, {8, 8}}; }, "r.json: /bits/1/0: expected a list [...], found 4"},
    {"triple", [](json& d) { d["bits"][2] = {8, 8, 8}; }, "r.json: /bits/2: expected [bits of keys, bits of values], found a list of 3"},
    {"width", [](json& d) { d["bits"][2][1] = 3; }, "r.json: /bits/2/1: expected 16, 8, 4, 2 or 0 bits, found 3"},
    {"half evicted", [](json& d) { d["bits"][2] = {8, 0}; },
     "r.json: /bits/2: widths of 8 bits for keys and 0 for values: each is 16, 8, 4 or 2, or both are 0 (evicted)"},
    {"measured", [](json& d) { d["measured"]["kl_to_16bit"] = -0.5; }, "r.json: /measured/kl_to_16bit: expected a number from 0 to 1000000, found -0.5"},
    {"pointer", [](json& d) { d["model"]["a/b~\n"] = 1; d["model"].erase("hash"); },
     "r.json: /model: unknown key 'a/b~?'; expected one of hash, layers, kv_heads, head_dim"},
};

TEST(KvRecipe, RefusesWithFilePlaceAndCure) {
  for (const Refused& refused : kRefused) {
    SCOPED_TRACE(refused.name);
    EXPECT_EQ(refusal_after(refused.change), refused.message);
  }
}

TEST(KvRecipe, RefusesWhatIsNotJson) {
  EXPECT_EQ(refusal("{\n  \"a\": tru\n}").substr(0, 20), "r.json:2:11: not JSO");
  EXPECT_EQ(refusal("").substr(0, 20), "r.json:1:1: not JSON");
  EXPECT_NE(refusal("{\"sinks\": NaN}").find("r.json:1:11: not JSON"), std::string::npos) << refusal("{\"sinks\": NaN}");
  EXPECT_NE(refusal("{\"sinks\": 1e999}").find("r.json:1:15: not JSON: number overflow parsing '1e999'"), std::string::npos) << refusal("{\"sinks\": 1e999}");
  EXPECT_NE(refusal("{\"name\": \"\xff\"}").find("not JSON"), std::string::npos);
  EXPECT_NE(refusal(kv_recipe_json(sample()) + '\0' + "x").find("a zero byte"), std::string::npos);
  EXPECT_NE(refusal(kv_recipe_json(sample()) + "{}").find("not JSON"), std::string::npos);
  EXPECT_EQ(refusal("{\"model\": {\"x\": [0, {\"a\": 1, \"a\": 2}]}}"), "r.json: /model/x/1: the key 'a' is there twice; remove one");
  EXPECT_NE(refusal(std::string(1'000'000, '[')).find("more than 16 levels"), std::string::npos);
  std::string deep;
  for (int i = 0; i < 100'000; ++i) deep += "{\"a\":";
  EXPECT_NE(refusal(deep).find("more than 16 levels"), std::string::npos);
  EXPECT_EQ(refusal("[]"), "r.json: the document: expected an object {...}, found a list");
  EXPECT_NE(refusal(std::string(KvRecipe::kMaxBytes + 1, ' ')).find("4194305 bytes; a recipe has at most 4194304"), std::string::npos);
}

TEST(KvRecipe, RefusesFilesThatAreNone) {
  const TemporaryFolder folder;
  const auto read = [](const std::filesystem::path& file) { return message_of([&] { read_kv_recipe(file); }); };
  EXPECT_NE(read(folder.path() / "absent.json").find("absent.json: cannot be read"), std::string::npos);
  EXPECT_NE(read(folder.path()).find("cannot be read"), std::string::npos);
  EXPECT_NE(read("/dev/zero").find("cannot be read"), std::string::npos);
  const auto huge = folder.path() / "huge.json";
  std::ofstream(huge) << "{";
  std::filesystem::resize_file(huge, uint64_t{1} << 40);   // sparse: takes no room
  EXPECT_NE(read(huge).find("a recipe has at most 4194304"), std::string::npos);
}

TEST(KvRecipe, AFaultyRecipeIsNotWritten) {
  const auto refusal = [](const std::function<void(KvRecipe&)>& change) {
    KvRecipe recipe = sample();
    change(recipe);
    return message_of([&] { kv_recipe_json(recipe); });
  };
  EXPECT_EQ(refusal([](KvRecipe& r) { r.bits.pop_back(); }), "the recipe: /bits: 2 pairs for 3 layers of 2 KV heads; expected 3 or 6");
  EXPECT_EQ(refusal([](KvRecipe& r) { r.kl_to_16bit = std::numeric_limits<double>::quiet_NaN(); }),
            "the recipe: /measured/kl_to_16bit: expected a number from 0 to 1000000, found nan");
  EXPECT_EQ(refusal([](KvRecipe& r) { r.name = "\xff"; }), "the recipe: /name: expected one line of UTF-8, at most 1000 bytes");
  EXPECT_EQ(refusal([](KvRecipe& r) { r.page_tokens = 24; }), "the recipe: /quantiser: pages of 24 tokens: choose a multiple of 16 up to 256");
  EXPECT_EQ(refusal([](KvRecipe& r) { r.model.layers = int64_t{1} << 62; }),
            "the recipe: /model/layers: expected a whole number from 1 to 4096, found 4611686018427387904");
}

// The largest recipe that can be written can be read.
TEST(KvRecipe, TheLargestFits) {
  KvRecipe recipe = sample();
  recipe.model.layers = 128;
  recipe.model.kv_heads = 256;
  recipe.bits.assign(128 * 256, {16, 16});
  EXPECT_EQ(parse_kv_recipe(kv_recipe_json(recipe), "r.json"), recipe);
  recipe.model.layers = 129;
  recipe.bits.assign(129 * 256, {16, 16});
  EXPECT_THROW(kv_recipe_json(recipe), DataError);
}

TEST(KvRecipe, FitsItsModelAlone) {
  EXPECT_NO_THROW(check_recipe_fits(sample(), 3, 2, 32, "0123456789abcdef"));
  EXPECT_EQ(message_of([] { check_recipe_fits(sample(), 4, 2, 32, "ffffffffffffffff"); }),
            "the recipe 'sample' is for another model: it was made for 3 layers, 2 KV heads of 32 numbers, hash 0123456789abcdef; this model has 4 layers, "
            "2 KV heads of 32 numbers, hash ffffffffffffffff. Search a recipe for this model, or load the other");
  EXPECT_THROW(check_recipe_fits(sample(), 3, 1, 32, "0123456789abcdef"), DataError);
  EXPECT_THROW(check_recipe_fits(sample(), 3, 2, 64, "0123456789abcdef"), DataError);
  EXPECT_THROW(check_recipe_fits(sample(), 3, 2, 32, "0123456789abcdee"), DataError);
}

// Read or refused by name, never worse; what is read can be written and read again.
bool survives(const std::string& text) {
  try {
    const KvRecipe recipe = parse_kv_recipe(text, "r.json");
    EXPECT_EQ(parse_kv_recipe(kv_recipe_json(recipe), "r.json"), recipe) << text;
    return true;
  } catch (const DataError& error) {
    EXPECT_TRUE(std::string(error.what()).starts_with("r.json:")) << error.what();
    return false;
  }
}

TEST(KvRecipe, SurvivesTruncationAtEveryByte) {
  const std::string whole = kv_recipe_json(sample());
  for (size_t length = 0; length + 2 < whole.size(); ++length) EXPECT_FALSE(survives(whole.substr(0, length))) << length;
}

TEST(KvRecipe, SurvivesEveryFlippedBit) {
  const std::string whole = kv_recipe_json(sample());
  for (size_t i = 0; i < whole.size() * 8; ++i) {
    std::string damaged = whole;
    damaged[i / 8] = static_cast<char>(damaged[i / 8] ^ (1 << (i % 8)));
    survives(damaged);
  }
}

TEST(KvRecipe, SurvivesAnyValueInAnyPlace) {
  const json whole = json::parse(kv_recipe_json(sample()));
  const json flat = whole.flatten();
  const std::vector<json> values = {nullptr, true, -1, 0, 3.5, 1e300, UINT64_MAX, INT64_MIN, "", "x", json::array(), json::object(), {1, 2}, {{"a", 1}}};
  for (const auto& [place, unused] : flat.items()) {
    for (size_t up = 0; up < 3; ++up) {
      json::json_pointer pointer(place);
      for (size_t i = 0; i < up && !pointer.empty(); ++i) pointer.pop_back();
      for (const json& value : values) {
        json damaged = whole;
        damaged[pointer] = value;
        survives(damaged.dump());
      }
    }
  }
}

}  // namespace
}  // namespace trimtab
