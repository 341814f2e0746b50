// Added tokens: strings that are found in a text before it is cut into words, each with an id of its own.
// Follows Hugging Face tokenizers: of the tokens that start leftmost the longest wins; tokens marked
// `normalized` are sought in the normalised text between the others.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace trimtab {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = false;
  bool lstrip = false, rstrip = false;  // takes the white space on that side with it
  bool single_word = false;             // found only where no word character (\w) touches it
  bool normalized = false;
};

class AddedTokens {
 public:
  // A stretch of text, or the token found there (id >= 0).
  struct Piece {
    std::string_view text;
    int32_t id = -1;
  };

  explicit AddedTokens(
      std::vector<AddedToken> tokens);  // all of one kind: `normalized` or not; contents differ

  // `text` cut into pieces, in order, none empty. Special tokens stay text unless `allow_special`.
  void split(std::string_view text, bool allow_special, std::vector<Piece>& pieces) const;

 private:
  struct Node {
    int32_t token = -1;                          // index of the token that ends here
    std::vector<std::pair<char, int32_t>> next;  // ascending
  };
  struct Match {
    int32_t token = -1;
    size_t begin = 0, end = 0;
  };
  bool find(std::string_view text, size_t from, Match& match) const;
  int32_t child(int32_t node, char c) const;

  std::vector<AddedToken> tokens_;
  std::vector<Node> trie_;
  std::array<bool, 256> starts_{};  // bytes that a token begins with
};

}  // namespace trimtab
