// Reading JSON that somebody else wrote: every refusal names the file, the place in it and what to do.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace trimtab {

// Parses UTF-8. DataError for what is not JSON, for a key that is there twice in one object, and for more
// than 32 levels.
nlohmann::json parse_strict_json(const std::string& text, const std::string& file);

// A value that knows where it stands. The document must outlive it.
class JsonPlace {
 public:
  JsonPlace(const nlohmann::json& document, std::string file) : value_(&document), file_(std::move(file)) {}

  [[noreturn]] void fail(const std::string& what) const;  // DataError "FILE: PLACE: what"

  JsonPlace member(const std::string& key) const;               // must be there
  std::optional<JsonPlace> find(const std::string& key) const;  // nothing when absent or null
  JsonPlace element(size_t index) const;
  size_t size() const;                                                 // of a list
  void only_keys(std::initializer_list<std::string_view> keys) const;  // fails at any other

  const nlohmann::json& value() const { return *value_; }
  const nlohmann::json& object() const;
  const std::string& text() const;
  std::string text_of(const std::string& key) const { return member(key).text(); }
  bool flag(const std::string& key,
            std::optional<bool> absent = std::nullopt) const;  // absent: its value then; else required
  int32_t integer(int32_t low, int32_t high) const;
  bool is_null() const { return value_->is_null(); }

 private:
  JsonPlace(const nlohmann::json* value, std::string file, std::string path)
      : value_(value), file_(std::move(file)), path_(std::move(path)) {}
  const nlohmann::json* value_;
  std::string file_, path_;
};

}  // namespace trimtab
