// Reading JSON that somebody else wrote: every refusal names the file, the place as a JSON pointer (RFC 6901) and what was expected.
// Of the units of domain/ that have a JSON format.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace trimtab {

// DataError for what is not JSON ("FILE:line:col: ..."), a key that is there twice in one object (nlohmann would keep the last), more
// than 16 levels, a number that no double holds.
nlohmann::json parse_recipe_json(const std::string& text, const std::string& file);

// Text of a file as it may stand in a message: short, printable ASCII.
std::string printable(std::string_view text, size_t longest = 60);
// "unknown key 'layer'; did you mean 'layers'?" with the known keys where none is near.
std::string unknown_key(const std::string& key, const std::vector<std::string>& known);

// A value that knows where it stands. The document must outlive it.
class RecipeJson {
 public:
  RecipeJson(const nlohmann::json& document, std::string file) : value_(&document), file_(std::move(file)) {}

  [[noreturn]] void fail(const std::string& what) const;   // DataError "FILE: /pointer: what"

  const nlohmann::json& object() const;                          // fails at anything else
  void only_keys(const std::vector<std::string>& known) const;   // fails at any other
  RecipeJson at(const std::string& key) const;                   // must be there
  std::optional<RecipeJson> find(const std::string& key) const;

  bool is_list() const { return value_->is_array(); }
  size_t size() const;   // of a list
  RecipeJson element(size_t index) const;

  int64_t integer() const;
  double number() const;   // finite
  bool flag() const;
  const std::string& text() const;

 private:
  RecipeJson child(const nlohmann::json& value, nlohmann::json::json_pointer pointer) const;
  [[noreturn]] void expected(const char* what) const;   // fails with what was found
  const nlohmann::json* value_;
  std::string file_;
  nlohmann::json::json_pointer pointer_;
};

}  // namespace trimtab
