// The sections "model" and "added_tokens" of a tokenizer.json.
#include <algorithm>
#include <set>

#include "core/error.h"
#include "policies/tokenizer/byte_level.h"
#include "policies/tokenizer/tokenizer_json.h"
#include "policies/tokenizer/unicode.h"

namespace trimtab {
namespace {

constexpr size_t kLongestAddedToken =
    1024;  // bytes; bounds the work that a hostile token costs in every text

// A text as JSON, for messages.
std::string as_json(const std::string& text) { return nlohmann::json(text).dump(); }

// Options that must not do anything, because all bytes are in the vocabulary and words are plain bytes.
void check_model_options(const JsonPlace& model) {
  model.only_keys({"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
                   "fuse_unk", "byte_fallback", "ignore_merges", "vocab", "merges"});
  if (model.find("type") && model.text_of("type") != "BPE")
    model.member("type").fail("only \"BPE\" is supported");
  if (const auto dropout = model.find("dropout"); dropout && dropout->value() != 0)
    dropout->fail("merges left out at random are not supported; set it to null");
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (const auto affix = model.find(key); affix && !affix->text().empty())
      affix->fail("not supported; byte-level BPE has none");
  }
  if (model.flag("byte_fallback", false))
    model.member("byte_fallback").fail("only false is supported: this is byte-level BPE");
  if (const auto unknown = model.find("unk_token")) unknown->text();  // never needed
  model.flag("fuse_unk", false);
}

// Ids may leave holes (models that were resized), but an entry is taken for every one of them: not for what a few tokens claim.
constexpr size_t kMostHoles = 65536;
int32_t highest_id(size_t num_tokens) { return static_cast<int32_t>(std::min<size_t>(2 * num_tokens + kMostHoles, Vocabulary::kMaxId)); }

void read_vocabulary(const JsonPlace& place, Vocabulary& vocabulary) {
  const int32_t highest = highest_id(place.object().size());
  for (const auto& [token, id] : place.object().items()) {
    const int32_t number = place.member(token).integer(0, Vocabulary::kMaxId);
    if (number > highest)
      place.member(token).fail(fmt::format("the id {} is far beyond the {} tokens of this vocabulary; is the file damaged?", number, place.object().size()));
    if (token.empty()) place.fail("the empty text cannot be a token");
    if (!vocabulary.add(number, token, byte_level_bytes(token).value_or(token), false))
      place.member(token).fail(
          fmt::format("the id {} belongs to {} too", number, as_json(vocabulary.token(number))));
  }
}

struct MergeWords {
  std::string left, right;
};
// "a b" or ["a", "b"]
MergeWords merge_words(const JsonPlace& merge) {
  if (merge.value().is_array()) {
    if (merge.size() != 2) merge.fail("expected two tokens");
    return {merge.element(0).text(), merge.element(1).text()};
  }
  const std::string& text = merge.text();
  const size_t space = text.find(' ');
  if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos)
    merge.fail("expected two tokens with one space between, or a list of two tokens");
  return {text.substr(0, space), text.substr(space + 1)};
}

int32_t merge_id(const JsonPlace& merge, const std::string& token, const Vocabulary& vocabulary) {
  const auto id = vocabulary.find(token);
  if (!id) merge.fail(fmt::format("{} is not in the vocabulary", as_json(token)));
  return *id;
}

MergeTable read_merges(const JsonPlace& place, const Vocabulary& vocabulary) {
  const size_t size = place.size();
  MergeTable merges(size);
  for (size_t i = 0; i < size; ++i) {
    const JsonPlace merge = place.element(i);
    const auto [left, right] = merge_words(merge);
    const BpeMerge ids{merge_id(merge, left, vocabulary), merge_id(merge, right, vocabulary),
                       merge_id(merge, left + right, vocabulary)};
    if (!merges.insert(ids, static_cast<int32_t>(i)))
      merge.fail("this pair is in the list before; remove one");
  }
  return merges;
}

AddedToken read_added_token(const JsonPlace& place) {
  place.only_keys({"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
  AddedToken token{.id = place.member("id").integer(0, Vocabulary::kMaxId),
                   .content = place.text_of("content")};
  token.special = place.flag("special");
  token.lstrip = place.flag("lstrip");
  token.rstrip = place.flag("rstrip");
  token.single_word = place.flag("single_word");
  token.normalized = place.flag("normalized");
  if (token.content.empty() || token.content.size() > kLongestAddedToken)
    place.member("content").fail(fmt::format("expected a text of 1 to {} bytes", kLongestAddedToken));
  return token;
}

void add_token(const JsonPlace& place, AddedToken token, BpeTokenizerParts& parts) {
  const bool in_model = parts.vocabulary.find(token.content).has_value();
  const std::string sought = token.normalized && parts.nfc ? normalise_nfc(token.content) : token.content;
  // A token of the model keeps its bytes, a new one is what it says.
  std::string bytes = in_model ? std::string(parts.vocabulary.bytes(token.id)) : sought;
  if (token.special) parts.bpe.whole_words.erase(bytes);  // ordinary text must not become it
  if (!parts.vocabulary.add(token.id, token.content, std::move(bytes), token.special))
    place.member("id").fail("the id belongs to another token too");
  token.content = sought;
  parts.added.push_back(std::move(token));
}

}  // namespace

void read_bpe_model(const JsonPlace& model, BpeTokenizerParts& parts) {
  check_model_options(model);
  const JsonPlace vocabulary = model.member("vocab");
  read_vocabulary(vocabulary, parts.vocabulary);
  for (int byte = 0; byte < 256; ++byte) {
    const std::string symbol = byte_level_symbol(static_cast<uint8_t>(byte));
    const auto id = parts.vocabulary.find(symbol);
    if (!id)
      vocabulary.fail(
          fmt::format("{}, which stands for byte {:02X}, is missing; byte-level BPE needs all 256",
                      as_json(symbol), byte));
    parts.bpe.byte_ids[byte] = *id;
  }
  parts.bpe.merges = read_merges(model.member("merges"), parts.vocabulary);
  if (!model.flag("ignore_merges", false)) return;
  for (const auto& [token, id] : vocabulary.value().items()) {
    if (auto bytes = byte_level_bytes(token))
      parts.bpe.whole_words.emplace(std::move(*bytes), id.get<int32_t>());
  }
}

void read_added_tokens(const JsonPlace& tokens, BpeTokenizerParts& parts) {
  int32_t next =
      parts.vocabulary.num_tokens();  // what Hugging Face gives the next new token, whatever the file says
  std::set<int32_t> ordinary(parts.bpe.byte_ids.begin(), parts.bpe.byte_ids.end());
  for (const int32_t product : parts.bpe.merges.products()) ordinary.insert(product);
  std::set<std::string> contents;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const JsonPlace place = tokens.element(i);
    AddedToken token = read_added_token(place);
    if (!contents.insert(token.content).second) place.fail("this token is in the list before; remove one");
    const std::optional<int32_t> in_model = parts.vocabulary.find(token.content);
    if (const int32_t expected = in_model.value_or(next); token.id != expected)
      place.member("id").fail(fmt::format(
          "{} has id {} here, but by its place in this file and the vocabulary it gets {}; correct the file",
          as_json(token.content), token.id, expected));
    if (token.special && ordinary.contains(token.id))
      place.fail(
          fmt::format("{} is marked special, but ordinary text can become it; "
                      "set \"special\" to false or take it out of the merges",
                      as_json(token.content)));
    add_token(place, std::move(token), parts);
    next = std::max(next, parts.added.back().id + 1);
  }
}

}  // namespace trimtab
