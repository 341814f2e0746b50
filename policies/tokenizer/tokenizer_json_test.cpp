// Files that somebody else wrote: what is refused, and with which words.
#include <functional>

#include "policies/tokenizer/strict_json.h"
#include "policies/tokenizer/tokenizer_test_support.h"

namespace trimtab {
namespace {

using nlohmann::json;

std::string refusal(const std::function<void(json&)>& change) {
  json document = small_document();
  change(document);
  return message_of<DataError>([&] { make_small(document); });
}

struct Refused {
  const char* name;
  std::function<void(json&)> change;
  const char* message;  // after "small/tokenizer.json: "
};

const json kSplit = {
    {"type", "Split"}, {"pattern", {{"Regex", "\\d+"}}}, {"behavior", "Isolated"}, {"invert", false}};

const Refused kRefused[] = {
    {"version", [](json& d) { d["version"] = "2.0"; }, "version: only \"1.0\" is supported"},
    {"no version", [](json& d) { d.erase("version"); }, "the document: the key \"version\" is missing"},
    {"a key", [](json& d) { d["extra"] = 1; },
     "the document: the key \"extra\" is not known here; it may change what the tokenizer does, so it is "
     "refused"},
    {"truncation",
     [](json& d) {
       d["truncation"] = {{"max_length", 8}};
     },
     "truncation: not supported: texts are never cut or filled; set it to null"},
    {"word piece", [](json& d) { d["model"]["type"] = "WordPiece"; },
     "model.type: only \"BPE\" is supported"},
    {"dropout", [](json& d) { d["model"]["dropout"] = 0.1; },
     "model.dropout: merges left out at random are not supported; set it to null"},
    {"fallback", [](json& d) { d["model"]["byte_fallback"] = true; },
     "model.byte_fallback: only false is supported: this is byte-level BPE"},
    {"suffix", [](json& d) { d["model"]["end_of_word_suffix"] = "</w>"; },
     "model.end_of_word_suffix: not supported; byte-level BPE has none"},
    {"model key", [](json& d) { d["model"]["prune"] = 1; },
     "model: the key \"prune\" is not known here; it may change what the tokenizer does, so it is refused"},
    {"id twice", [](json& d) { d["model"]["vocab"]["hello"] = 7; },
     "model.vocab.ć: the id 7 belongs to \"hello\" too"},
    {"id below", [](json& d) { d["model"]["vocab"]["hello"] = -1; },
     "model.vocab.hello: expected a number from 0 to 16777215, found -1"},
    {"id above", [](json& d) { d["model"]["vocab"]["hello"] = 18446744073709551615ull; },
     "model.vocab.hello: expected a number from 0 to 16777215, found 18446744073709551615"},
    {"id text", [](json& d) { d["model"]["vocab"]["hello"] = "1"; },
     "model.vocab.hello: expected a whole number, found string"},
    {"no byte", [](json& d) { d["model"]["vocab"].erase("Ġ"); },
     "model.vocab: \"Ġ\", which stands for byte 20, is missing; byte-level BPE needs all 256"},
    {"merge", [](json& d) { d["model"]["merges"][1] = "l q"; },
     "model.merges[1]: \"lq\" is not in the vocabulary"},
    {"merge of one", [](json& d) { d["model"]["merges"][0] = "he"; },
     "model.merges[0]: expected two tokens with one space between, or a list of two tokens"},
    {"merge of three",
     [](json& d) {
       d["model"]["merges"][0] = {"h", "e", "l"};
     },
     "model.merges[0]: expected two tokens"},
    {"merge twice", [](json& d) { d["model"]["merges"][3] = "h e"; },
     "model.merges[3]: this pair is in the list before; remove one"},
    {"merge number", [](json& d) { d["model"]["merges"][0] = 1; },
     "model.merges[0]: expected text, found number"},
    {"normalizer",
     [](json& d) {
       d["normalizer"] = {{"type", "Lowercase"}};
     },
     "normalizer: type \"Lowercase\" is not supported, only NFC, or a Sequence of it; see "
     "policies/tokenizer/README.md"},
    {"normalizer in a list",
     [](json& d) {
       d["normalizer"] = {{"type", "Sequence"}, {"normalizers", {{{"type", "NFC"}}, {{"type", "Strip"}}}}};
     },
     "normalizer.normalizers[1]: type \"Strip\" is not supported, only NFC, or a Sequence of it; see "
     "policies/tokenizer/README.md"},
    {"no pre-tokenizer", [](json& d) { d["pre_tokenizer"] = nullptr; },
     "pre_tokenizer: expected an object, found null"},
    {"whitespace",
     [](json& d) {
       d["pre_tokenizer"] = {{"type", "Whitespace"}};
     },
     "pre_tokenizer: type \"Whitespace\" is not supported, only ByteLevel, Split, Digits, or a Sequence of "
     "them; see policies/tokenizer/README.md"},
    {"pattern", [](json& d) { d["pre_tokenizer"] = kSplit; },
     "pre_tokenizer.pattern.Regex: character 1 of the pattern: of the escapes only \\s \\S \\p{L} \\p{N} \\r "
     "\\n \\t and escaped punctuation are supported"},
    {"behaviour",
     [](json& d) {
       d["pre_tokenizer"] = kSplit;
       d["pre_tokenizer"]["behavior"] = "Removed";
     },
     "pre_tokenizer.behavior: only \"Isolated\" is supported"},
    {"no byte level",
     [](json& d) {
       d["pre_tokenizer"] = kSplit;
       d["pre_tokenizer"]["pattern"]["Regex"] = "a";
     },
     "pre_tokenizer: expected ByteLevel at the end; other BPE than byte-level is not supported"},
    {"decoder",
     [](json& d) {
       d["decoder"] = {{"type", "Metaspace"}};
     },
     "decoder: type \"Metaspace\" is not supported, only ByteLevel; see policies/tokenizer/README.md"},
    {"post-processor",
     [](json& d) {
       d["post_processor"] = {{"type", "BertProcessing"}};
     },
     "post_processor: type \"BertProcessing\" is not supported, only ByteLevel, TemplateProcessing, or a "
     "Sequence of them; see policies/tokenizer/README.md"},
    {"template without text",
     [](json& d) {
       d["post_processor"] = {{"type", "TemplateProcessing"},
                              {"single", json::array()},
                              {"pair", nullptr},
                              {"special_tokens", json::object()}};
     },
     "post_processor.single: expected the sequence \"A\" exactly once"},
    {"added id", [](json& d) { d["added_tokens"][0]["id"] = 300; },
     "added_tokens[0].id: \"<end>\" has id 300 here, but by its place in this file and the vocabulary it "
     "gets 260; correct the file"},
    {"added twice", [](json& d) { d["added_tokens"].push_back(d["added_tokens"][0]); },
     "added_tokens[1]: this token is in the list before; remove one"},
    {"added empty", [](json& d) { d["added_tokens"][0]["content"] = ""; },
     "added_tokens[0].content: expected a text of 1 to 1024 bytes"},
    {"added flag", [](json& d) { d["added_tokens"][0]["lstrip"] = 1; },
     "added_tokens[0].lstrip: expected true or false, found number"},
    {"forgeable",
     [](json& d) {
       d["added_tokens"][0]["content"] = "hello";
       d["added_tokens"][0]["id"] = 259;
     },
     "added_tokens[0]: \"hello\" is marked special, but ordinary text can become it; set \"special\" to "
     "false or take it out of the merges"},
};

TEST(TokenizerJson, RefusesWithFilePlaceAndCure) {
  for (const Refused& refused : kRefused) {
    SCOPED_TRACE(refused.name);
    EXPECT_EQ(refusal(refused.change), std::string("small/tokenizer.json: ") + refused.message);
  }
}

TEST(TokenizerJson, ReadsTheSpellingsThatShip) {
  const auto reads = [](const std::function<void(json&)>& change) {
    json document = small_document();
    change(document);
    return make_small(document)->encode("hello") == std::vector<int32_t>{259};
  };
  EXPECT_TRUE(reads([](json& d) { d["model"].erase("type"); }));
  EXPECT_TRUE(reads([](json& d) { d["model"]["unk_token"] = "<end>"; }));
  EXPECT_TRUE(reads([](json& d) { d["model"]["dropout"] = 0.0; }));
  EXPECT_TRUE(reads([](json& d) {
    d["model"]["merges"] = json::parse(R"([["h", "e"], ["l", "l"], ["he", "ll"], ["hell", "o"]])");
  }));
  EXPECT_TRUE(reads([](json& d) {
    d["normalizer"] = {{"type", "Sequence"}, {"normalizers", json::array()}};
  }));
  EXPECT_TRUE(reads([](json& d) { d.erase("added_tokens"); }));
}

TEST(TokenizerJson, RefusesWhatIsNotJson) {
  const auto read = [](const std::string& text) {
    return message_of<DataError>([&] { make_tokenizer({{"tokenizer.json", text}}, "small"); });
  };
  EXPECT_NE(read("").find("small/tokenizer.json: this is not JSON"), std::string::npos);
  EXPECT_NE(read("{\"version\": \"1.0\"").find("this is not JSON"), std::string::npos);
  EXPECT_NE(read("{\"a\": \"\\ud800\"}").find("this is not JSON"), std::string::npos);
  EXPECT_NE(read("{\"a\": \"\xFF\"}").find("this is not JSON"), std::string::npos);
  EXPECT_EQ(read("{\"a\": {\"b\": 1, \"c\": 2, \"b\": 3}}"),
            "small/tokenizer.json: the key \"b\" is there twice in one object; remove one");
  EXPECT_NE(read(std::string(100'000, '[')).find("more than 32 levels"), std::string::npos);
  EXPECT_EQ(read("[]"), "small/tokenizer.json: the document: expected an object, found array");
}

// Any single value of the document replaced by something else: read or refused, never worse.
TEST(TokenizerJson, SurvivesDamage) {
  json whole = small_document();
  whole["post_processor"] = {
      {"type", "TemplateProcessing"},
      {"single",
       {{{"SpecialToken", {{"id", "<end>"}, {"type_id", 0}}}},
        {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
      {"pair", json::array()},
      {"special_tokens", {{"<end>", {{"id", "<end>"}, {"ids", {260}}, {"tokens", {"<end>"}}}}}}};
  EXPECT_EQ(make_small(whole)->encode("h", {.add_special_tokens = true}), (std::vector<int32_t>{260, 'h'}));
  const json flat = whole.flatten();
  const std::vector<json> values = {nullptr,
                                    true,
                                    -1,
                                    3.5,
                                    1e300,
                                    "",
                                    "x",
                                    json::array(),
                                    json::object(),
                                    {{"type", "Sequence"}},
                                    "[",
                                    "(?i:ss)",
                                    4294967296};
  int refused = 0;
  for (uint32_t round = 0; round < 400; ++round) {
    Draws draws(test_seed(), Stream::kTest, round);
    auto place = flat.begin();
    do {
      place = std::next(flat.begin(), draws.below(static_cast<uint32_t>(flat.size())));
    } while (place.key().starts_with("/model/vocab") && draws.below(20) != 0);
    json damaged = whole;
    json::json_pointer pointer(place.key());
    for (uint32_t up = draws.below(3); up > 0 && !pointer.empty(); --up) pointer.pop_back();
    damaged[pointer] = values[draws.below(static_cast<uint32_t>(values.size()))];
    SCOPED_TRACE(
        fmt::format("TRIMTAB_TEST_SEED={} {} {}", test_seed(), pointer.to_string(), damaged[pointer].dump()));
    try {
      const auto tokenizer = make_small(damaged);
      tokenizer->decode(tokenizer->encode("hello <end> 12 \u00e9"));
    } catch (const DataError& e) {
      ++refused;
      EXPECT_TRUE(std::string(e.what()).starts_with("small/tokenizer.json: ")) << e.what();
    }
  }
  EXPECT_GT(refused, 100);
}

}  // namespace
}  // namespace trimtab
