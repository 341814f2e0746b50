#include "policies/tokenizer/tokenizer.h"

#include "core/files.h"
#include "policies/tokenizer/tokenizer_test_support.h"

namespace trimtab {
namespace {

using Ids = std::vector<int32_t>;
using nlohmann::json;

TEST(Tokenizer, MergesByRank) {
  const auto tokenizer = make_small(small_document());
  EXPECT_EQ(tokenizer->encode("hello"), Ids{*tokenizer->token_id("hello")});
  EXPECT_EQ(tokenizer->encode("hell h"), (Ids{*tokenizer->token_id("hell"), ' ', 'h'}));
  EXPECT_EQ(tokenizer->encode(""), Ids{});
  EXPECT_EQ(tokenizer->token('h'), "h");
  EXPECT_EQ(tokenizer->token(' '), "Ġ");
  EXPECT_EQ(tokenizer->token_bytes(' '), " ");
}

TEST(Tokenizer, DecodesWhatItEncoded) {
  for (const char* name : {"gpt2", "llama3", "qwen2"}) {
    const auto tokenizer = golden_tokenizer(name);
    const bool nfc = std::string(name) == "qwen2";
    for (uint32_t round = 0; round < 300; ++round) {
      Draws draws(test_seed(), Stream::kTest, round);
      const std::string text = random_text(draws);
      SCOPED_TRACE(
          fmt::format("TRIMTAB_TEST_SEED={} {} {}", test_seed(), name, json(text).dump(-1, ' ', true)));
      const Ids ids = tokenizer->encode(text, {.allow_special = false});
      ASSERT_EQ(tokenizer->decode(ids), nfc ? normalise_nfc(text) : text);
      for (const int32_t id : ids) ASSERT_FALSE(tokenizer->is_special(id));
    }
  }
}

TEST(Tokenizer, SpecialTokensAreTextWhereTheyAreNotAllowed) {
  const auto tokenizer = make_small(small_document());
  const int32_t end = *tokenizer->token_id("<end>");
  EXPECT_EQ(tokenizer->encode("a<end>b"), (Ids{'a', end, 'b'}));
  EXPECT_EQ(tokenizer->encode("<end>", {.allow_special = false}), (Ids{'<', 'e', 'n', 'd', '>'}));
  EXPECT_EQ(tokenizer->decode(Ids{'a', end}), "a<end>");
  EXPECT_EQ(tokenizer->decode(Ids{'a', end}, {.skip_special = true}), "a");
  EXPECT_EQ(tokenizer->special_ids(), Ids{end});
}

TEST(Tokenizer, AWholeWordIsNeverASpecialToken) {
  json document = small_document();
  document["model"]["ignore_merges"] = true;
  document["model"]["vocab"]["word"] = 260;
  document["model"]["vocab"]["end"] = 261;
  document["added_tokens"][0]["id"] = 261;
  document["added_tokens"][0]["content"] = "end";
  const auto tokenizer = make_small(document);
  EXPECT_EQ(tokenizer->encode("word"), Ids{260});
  EXPECT_EQ(tokenizer->encode("end"), Ids{261});
  EXPECT_EQ(tokenizer->encode("end", {.allow_special = false}), (Ids{'e', 'n', 'd'}));
}

TEST(Tokenizer, IllFormedBytesCountAsReplacementCharacters) {
  const auto tokenizer = make_small(small_document());
  EXPECT_EQ(tokenizer->encode("a\xFF\x62"), tokenizer->encode("a\uFFFDb"));
  EXPECT_EQ(tokenizer->decode(Ids{'a', 0xE2, 0x82, 'b', 0xFF}), "a\uFFFDb\uFFFD");
  EXPECT_EQ(tokenizer->decode(Ids{0xE2, 0x82, 0xAC}), "€");
}

TEST(Tokenizer, IdsWithoutATokenDecodeToNothing) {
  const auto tokenizer = make_small(small_document());
  EXPECT_EQ(tokenizer->vocab_size(), 261);
  EXPECT_EQ(tokenizer->decode(Ids{'a', 261, 151935, 'b'}), "ab");
  EXPECT_THROW(tokenizer->token(261), DataError);
}

TEST(Tokenizer, ReadsMarkersBesideIt) {
  const TokenizerFiles files{
      {"tokenizer.json", small_document().dump()},
      {"tokenizer_config.json",
       R"({"eos_token": {"content": "<end>"}, "pad_token": "hello", "bos_token": null})"},
      {"generation_config.json", R"({"eos_token_id": [260, 5]})"}};
  const auto tokenizer = make_tokenizer(files, "model");
  EXPECT_EQ(tokenizer->eos_id(), 260);
  EXPECT_EQ(tokenizer->pad_id(), 259);
  EXPECT_EQ(tokenizer->bos_id(), std::nullopt);
  EXPECT_EQ(tokenizer->stop_ids(), (Ids{5, 260}));
  const auto with = [&](const char* file, const char* text) {
    TokenizerFiles other = files;
    other[file] = text;
    return message_of<DataError>([&] { make_tokenizer(other, "model"); });
  };
  EXPECT_EQ(with("tokenizer_config.json", R"({"eos_token": "</s>"})"),
            "model/tokenizer_config.json: eos_token: \"</s>\" is not in the vocabulary of tokenizer.json");
  EXPECT_EQ(with("generation_config.json", R"({"eos_token_id": 261})"),
            "model/generation_config.json: eos_token_id: there is no token 261 in tokenizer.json");
}

TEST(Tokenizer, SavedAndLoadedItIsTheSame) {
  const TokenizerFiles files{{"tokenizer.json", small_document().dump(1)},
                             {"generation_config.json", R"({"eos_token_id": 260})"}};
  const auto tokenizer = make_tokenizer(files, "model");
  const TemporaryFolder folder;
  save_tokenizer(*tokenizer, folder.path() / "new" / "tokenizer");
  for (const char* name : {"new/tokenizer", "new/tokenizer/tokenizer.json"}) {
    const auto loaded = load_tokenizer(folder.path() / name);
    EXPECT_EQ(loaded->files(), files);
    EXPECT_EQ(loaded->hash(), tokenizer->hash());
    EXPECT_EQ(loaded->stop_ids(), Ids{260});
  }
  EXPECT_NE(make_small(small_document())->hash(), tokenizer->hash());
  EXPECT_NE(message_of<DataError>([&] { load_tokenizer(folder.path()); }).find("name a tokenizer.json"),
            std::string::npos);
}

TEST(Tokenizer, LongTextsAreNoTrouble) {
  const auto tokenizer = golden_tokenizer("qwen2");
  for (const std::string unit :
       {" ", "\n", " \n", "a", "!", "1", "\u3000", "\u0301\u0323", "<", "<|im_end|", "中", "ab "}) {
    std::string text;
    while (text.size() < 100'000) text += unit;
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), normalise_nfc(text)) << json(unit).dump();
  }
}

TEST(CharacterTokenizer, OneIdPerCharacter) {
  const auto tokenizer = make_tokenizer({{"tokenizer.json", character_tokenizer_json("01+=é")}}, "run");
  EXPECT_EQ(tokenizer->encode("1+é"), (Ids{1, 2, 4}));
  EXPECT_EQ(tokenizer->encode("1<eos><pad>"), (Ids{1, 6, 5}));
  EXPECT_EQ(tokenizer->decode(Ids{1, 2, 4, 6}), "1+é<eos>");
  EXPECT_EQ(tokenizer->vocab_size(), 7);
  EXPECT_EQ(tokenizer->pad_id(), 5);
  EXPECT_EQ(tokenizer->eos_id(), 6);
  EXPECT_EQ(tokenizer->stop_ids(), Ids{6});
  EXPECT_EQ(message_of<DataError>([&] { tokenizer->encode("é1x"); }),
            "character 3 of the text is U+0078 \"x\", which the tokenizer's alphabet lacks; add it there or "
            "change the text");
  EXPECT_NE(message_of<DataError>([&] { tokenizer->encode("<eos>1 ", {}); }).find("character 7"),
            std::string::npos);
  EXPECT_NE(
      message_of<DataError>([&] { tokenizer->encode("<eos>", {.allow_special = false}); }).find("U+003C"),
      std::string::npos);
}

TEST(CharacterTokenizer, RefusesAnAlphabetItCannotUse) {
  EXPECT_EQ(message_of<ConfigError>([] { character_tokenizer_json(""); }), "the alphabet is empty");
  EXPECT_EQ(message_of<ConfigError>([] { character_tokenizer_json("aéé"); }),
            "the alphabet has U+00E9 \"é\" twice");
  EXPECT_EQ(message_of<ConfigError>([] { character_tokenizer_json("\xFF"); }), "the alphabet is not UTF-8");
  const auto read = [](const char* text) {
    return message_of<DataError>([&] { make_tokenizer({{"tokenizer.json", text}}, "run"); });
  };
  EXPECT_EQ(read(R"({"type": "trimtab_characters", "version": 1, "alphabet": "aa"})"),
            "run/tokenizer.json: alphabet: the alphabet has U+0061 \"a\" twice");
  EXPECT_EQ(read(R"({"type": "trimtab_characters", "version": 2, "alphabet": "a"})"),
            "run/tokenizer.json: version: expected a number from 1 to 1, found 2");
  EXPECT_EQ(read(R"({"type": "words"})"),
            "run/tokenizer.json: type: only \"trimtab_characters\" is supported");
}

}  // namespace
}  // namespace trimtab
