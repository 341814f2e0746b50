#include "policies/tokenizer/character_tokenizer.h"

#include "core/error.h"
#include "core/text.h"
#include "policies/tokenizer/added_tokens.h"
#include "policies/tokenizer/unicode.h"

namespace trimtab {
namespace {

constexpr const char* kType = "trimtab_characters";
constexpr const char* kPad = "<pad>";
constexpr const char* kEos = "<eos>";

// Empty: all is well.
std::string alphabet_problem(std::string_view alphabet) {
  if (alphabet.empty()) return "the alphabet is empty";
  if (!is_utf8(alphabet)) return "the alphabet is not UTF-8";
  Vocabulary seen;
  while (!alphabet.empty()) {
    const CodePoint point = first_code_point(alphabet);
    const std::string character(alphabet.substr(0, point.length));
    if (!seen.add(seen.size(), character, character, false))
      return fmt::format("the alphabet has {} \"{}\" twice", code_point_name(point.value), character);
    alphabet.remove_prefix(point.length);
  }
  return "";
}

Vocabulary make_vocabulary(std::string_view alphabet) {
  Vocabulary vocabulary;
  while (!alphabet.empty()) {
    const std::string character(alphabet.substr(0, first_code_point(alphabet).length));
    vocabulary.add(vocabulary.size(), character, character, false);
    alphabet.remove_prefix(character.size());
  }
  for (const char* token : {kPad, kEos}) vocabulary.add(vocabulary.size(), token, token, true);
  return vocabulary;
}

MarkerIds find_markers(const Vocabulary& vocabulary) {
  const auto eos = vocabulary.find(kEos);
  return {.bos = {}, .eos = eos, .pad = vocabulary.find(kPad), .stop = {*eos}};
}

class CharacterTokenizer : public Tokenizer {
 public:
  CharacterTokenizer(const Vocabulary& vocabulary, TokenizerFiles files)
      : Tokenizer(vocabulary, find_markers(vocabulary), std::move(files)),
        special_({{.id = *pad_id(), .content = kPad, .special = true},
                  {.id = *eos_id(), .content = kEos, .special = true}}) {}

 private:
  void encode_valid(std::string_view text, EncodeOptions options, std::vector<int32_t>& ids) const override {
    std::vector<AddedTokens::Piece> pieces;
    special_.split(text, options.allow_special, pieces);
    size_t position = 0;
    for (const AddedTokens::Piece& piece : pieces) {
      if (piece.id >= 0) {
        ids.push_back(piece.id);
        position += piece.text.size();
        continue;
      }
      for (std::string_view rest = piece.text; !rest.empty(); ++position) {
        const CodePoint point = first_code_point(rest);
        ids.push_back(character_id(rest.substr(0, point.length), point.value, position));
        rest.remove_prefix(point.length);
      }
    }
  }

  // `position` counts characters from 0.
  int32_t character_id(std::string_view character, uint32_t value, size_t position) const {
    const auto id = vocabulary().find(character);
    if (!id)
      throw DataError(
          fmt::format("character {} of the text is {} \"{}\", which the tokenizer's alphabet lacks; add it "
                      "there or change the text",
                      position + 1, code_point_name(value), character));
    return *id;
  }

  AddedTokens special_;
};

}  // namespace

std::unique_ptr<Tokenizer> make_character_tokenizer(const JsonPlace& document, TokenizerFiles files) {
  document.only_keys({"type", "version", "alphabet"});
  if (document.text_of("type") != kType)
    document.member("type").fail(fmt::format("only \"{}\" is supported", kType));
  document.member("version").integer(1, 1);
  const JsonPlace alphabet = document.member("alphabet");
  if (const std::string problem = alphabet_problem(alphabet.text()); !problem.empty()) alphabet.fail(problem);
  return std::make_unique<CharacterTokenizer>(make_vocabulary(alphabet.text()), std::move(files));
}

std::string character_tokenizer_json(std::string_view alphabet) {
  if (const std::string problem = alphabet_problem(alphabet); !problem.empty()) throw ConfigError(problem);
  const nlohmann::ordered_json json = {{"type", kType}, {"version", 1}, {"alphabet", std::string(alphabet)}};
  return json.dump() + "\n";
}

}  // namespace trimtab
