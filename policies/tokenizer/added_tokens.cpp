#include "policies/tokenizer/added_tokens.h"

#include <fmt/format.h>

#include <algorithm>

#include "policies/tokenizer/pattern.h"
#include "policies/tokenizer/unicode.h"
#include "policies/tokenizer/unicode_classes.h"

namespace trimtab {
namespace {

bool is_word_character(uint32_t value) {
  static const Pattern pattern(fmt::format("[{}]", kWordClass));
  std::string character;
  append_code_point(value, character);
  TextRange match;
  return pattern.find(character, 0, match);
}

bool stands_alone(std::string_view before, std::string_view after) {
  return (before.empty() || !is_word_character(last_code_point(before).value)) &&
         (after.empty() || !is_word_character(first_code_point(after).value));
}

size_t white_space_at_end(std::string_view text) {
  size_t length = 0;
  while (!text.empty()) {
    const CodePoint last = last_code_point(text);
    if (!is_white_space(last.value)) break;
    length += last.length;
    text.remove_suffix(last.length);
  }
  return length;
}

size_t white_space_at_start(std::string_view text) {
  size_t length = 0;
  while (length < text.size()) {
    const CodePoint first = first_code_point(text.substr(length));
    if (!is_white_space(first.value)) break;
    length += first.length;
  }
  return length;
}

}  // namespace

AddedTokens::AddedTokens(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)), trie_(1) {
  // Two contents can become one by normalisation; the special token then goes before.
  std::stable_partition(tokens_.begin(), tokens_.end(),
                        [](const AddedToken& token) { return token.special; });
  for (size_t i = 0; i < tokens_.size(); ++i) {
    int32_t node = 0;
    starts_[static_cast<uint8_t>(tokens_[i].content[0])] = true;
    for (const char c : tokens_[i].content) {
      int32_t next = child(node, c);
      if (next < 0) {
        next = static_cast<int32_t>(trie_.size());
        trie_.emplace_back();
        auto& edges = trie_[node].next;
        edges.insert(std::upper_bound(edges.begin(), edges.end(), std::pair(c, next)), {c, next});
      }
      node = next;
    }
    if (trie_[node].token < 0) trie_[node].token = static_cast<int32_t>(i);
  }
}

int32_t AddedTokens::child(int32_t node, char c) const {
  const auto& edges = trie_[node].next;
  const auto edge = std::lower_bound(edges.begin(), edges.end(), std::pair(c, -1));
  return edge != edges.end() && edge->first == c ? edge->second : -1;
}

bool AddedTokens::find(std::string_view text, size_t from, Match& match) const {
  for (size_t begin = from; begin < text.size(); ++begin) {
    if (!starts_[static_cast<uint8_t>(text[begin])]) continue;
    match.token = -1;
    int32_t node = 0;
    for (size_t end = begin; end < text.size() && (node = child(node, text[end])) >= 0;) {
      ++end;
      if (trie_[node].token >= 0) match = {trie_[node].token, begin, end};
    }
    if (match.token >= 0) return true;
  }
  return false;
}

void AddedTokens::split(std::string_view text, bool allow_special, std::vector<Piece>& pieces) const {
  size_t done = 0, from = 0;
  for (Match match; find(text, from, match);) {
    from = match.end;  // also past a match that does not count
    const AddedToken& token = tokens_[match.token];
    if (token.special && !allow_special) continue;
    if (token.single_word && !stands_alone(text.substr(0, match.begin), text.substr(match.end))) continue;
    size_t begin = match.begin, end = match.end;
    // White space that the token before took already is not taken again.
    if (token.lstrip)
      begin = std::max(begin - white_space_at_end(text.substr(0, begin)), std::min(done, begin));
    if (token.rstrip) end += white_space_at_start(text.substr(end));
    if (begin > done) pieces.push_back({text.substr(done, begin - done)});
    pieces.push_back({text.substr(begin, end - begin), token.id});
    done = end;
  }
  if (done < text.size()) pieces.push_back({text.substr(done)});
}

}  // namespace trimtab
