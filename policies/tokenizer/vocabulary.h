// The tokens of a tokenizer by id: how the file spells them, which bytes they stand for, which are special.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace trimtab {

// Lets maps with std::string keys be asked with a std::string_view.
struct StringHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
};
using IdsByToken = std::unordered_map<std::string, int32_t, StringHash, std::equal_to<>>;

class Vocabulary {
 public:
  static constexpr int32_t kMaxId = (1 << 24) - 1;  // bounds what a hostile file can make us allocate

  // Puts a token at `id`, or describes anew the one of the same spelling there. False, and no change: the id
  // has another token, or the token another id.
  bool add(int32_t id, const std::string& token, std::string bytes, bool special);

  int32_t size() const { return static_cast<int32_t>(entries_.size()); }
  int32_t num_tokens() const { return static_cast<int32_t>(ids_.size()); }
  std::optional<int32_t> find(std::string_view token) const;
  const std::string& token(int32_t id) const;  // DataError for an id without a token
  std::string_view bytes(int32_t id) const;    // empty for an id without a token
  bool is_special(int32_t id) const;
  std::vector<int32_t> special_ids() const;

 private:
  struct Entry {
    std::string token, bytes;
    bool present = false, special = false;
  };
  const Entry* entry(int32_t id) const;
  std::vector<Entry> entries_;  // [size]
  IdsByToken ids_;
};

}  // namespace trimtab
