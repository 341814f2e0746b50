#include "domain/kv_recipe/recipe_json.h"

#include <algorithm>
#include <set>

#include "core/error.h"
#include "core/json_shape.h"
#include "core/registry.h"
#include "core/text.h"

namespace trimtab {
namespace {

using Json = nlohmann::json;
constexpr size_t kDeepest = 16;
constexpr size_t kMostValues = 131072;   // a document of them takes up to 16 MiB

std::string line_and_column(std::string_view text, size_t bytes_read) {
  const std::string_view before = text.substr(0, std::min(text.size(), bytes_read == 0 ? 0 : bytes_read - 1));
  const size_t start = before.rfind('\n');
  return fmt::format("{}:{}", 1 + std::count(before.begin(), before.end(), '\n'),
                     before.size() - (start == std::string_view::npos ? 0 : start + 1) + 1);
}

// "[json.exception.parse_error.101] parse error at line 1, column 2: syntax error ..." without what we say better.
std::string reason(std::string_view message) {
  if (const size_t end = message.find("] "); message.starts_with("[json.") && end != std::string_view::npos) message.remove_prefix(end + 2);
  if (const size_t end = message.find(": "); message.starts_with("parse error") && end != std::string_view::npos) message.remove_prefix(end + 2);
  return printable(message, 200);
}

// Watches the events of the parser for what a finished document no longer shows.
class Watch final : public nlohmann::json_sax<Json> {
 public:
  Watch(std::string_view text, const std::string& file) : text_(text), file_(file) {}

  bool null() override { return value(); }
  bool boolean(bool) override { return value(); }
  bool number_integer(number_integer_t) override { return value(); }
  bool number_unsigned(number_unsigned_t) override { return value(); }
  bool number_float(number_float_t, const string_t&) override { return value(); }
  bool string(string_t&) override { return value(); }
  bool binary(binary_t&) override { return value(); }
  bool start_object(size_t) override { return open(false); }
  bool start_array(size_t) override { return open(true); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t& key) override {
    if (!levels_.back().keys.insert(key).second)
      throw DataError(fmt::format("{}: {}: the key '{}' is there twice; remove one", file_, place(), printable(key)));
    levels_.back().key = key;
    return true;
  }
  bool parse_error(size_t bytes_read, const std::string&, const nlohmann::detail::exception& error) override {
    throw DataError(fmt::format("{}:{}: not JSON: {}", file_, line_and_column(text_, bytes_read), reason(error.what())));
  }

 private:
  struct Level {
    bool list = false;
    int64_t index = -1;           // of the list's element at hand
    std::string key;              // of the object's member at hand
    std::set<std::string> keys;   // of the object so far
  };
  std::string place() const {
    Json::json_pointer pointer;
    for (size_t i = 0; i + 1 < levels_.size(); ++i) pointer = levels_[i].list ? pointer / levels_[i].index : pointer / levels_[i].key;
    return pointer.empty() ? "the document" : printable(pointer.to_string(), 200);
  }
  bool value() {
    if (!levels_.empty()) ++levels_.back().index;
    return true;
  }
  bool open(bool list) {
    value();
    levels_.push_back({.list = list, .index = -1, .key = {}, .keys = {}});
    if (levels_.size() > kDeepest) throw DataError(fmt::format("{}: {}: more than {} levels of brackets; none needs that", file_, place(), kDeepest));
    return true;
  }
  bool close() {
    levels_.pop_back();
    return true;
  }
  std::string_view text_;
  const std::string& file_;
  std::vector<Level> levels_;
};

}  // namespace

std::string printable(std::string_view text, size_t longest) {
  std::string out;
  for (const char c : text.substr(0, longest)) out += c < 0x20 || c >= 0x7F ? '?' : c;
  return out + (text.size() > longest ? "..." : "");
}

std::string unknown_key(const std::string& key, const std::vector<std::string>& known) {
  const std::string near = nearest(key, known);
  return fmt::format("unknown key '{}'; {}", printable(key),
                     near.empty() ? "expected one of " + join(known, ", ") : fmt::format("did you mean '{}'?", near));
}

Json parse_recipe_json(const std::string& text, const std::string& file) {
  // The parser takes a zero byte for the end of its input and would ignore what follows.
  if (const size_t zero = text.find('\0'); zero != std::string::npos)
    throw DataError(fmt::format("{}:{}: not JSON: a zero byte", file, line_and_column(text, zero + 1)));
  if (const JsonShape shape = json_shape(text); shape.depth <= kDeepest && shape.values > kMostValues)
    throw DataError(fmt::format("{}: {} values; no recipe needs more than {}", file, shape.values, kMostValues));
  Watch watch(text, file);
  Json::sax_parse(text, &watch);
  return Json::parse(text);
}

void RecipeJson::fail(const std::string& what) const {
  throw DataError(fmt::format("{}: {}: {}", file_, pointer_.empty() ? "the document" : printable(pointer_.to_string(), 200), what));
}

void RecipeJson::expected(const char* what) const {
  const bool scalar = !value_->is_structured() && !value_->is_null();
  fail(fmt::format("expected {}, found {}", what, scalar ? printable(value_->dump()) : value_->is_array() ? "a list" : value_->is_null() ? "null" : "an object"));
}

RecipeJson RecipeJson::child(const Json& value, Json::json_pointer pointer) const {
  RecipeJson out(value, file_);
  out.pointer_ = std::move(pointer);
  return out;
}

const Json& RecipeJson::object() const {
  if (!value_->is_object()) expected("an object {...}");
  return *value_;
}

void RecipeJson::only_keys(const std::vector<std::string>& known) const {
  for (const auto& [key, value] : object().items()) {
    if (std::find(known.begin(), known.end(), key) == known.end()) fail(unknown_key(key, known));
  }
}

std::optional<RecipeJson> RecipeJson::find(const std::string& key) const {
  const auto found = object().find(key);
  if (found == value_->end()) return std::nullopt;
  return child(*found, pointer_ / key);
}

RecipeJson RecipeJson::at(const std::string& key) const {
  if (const auto found = find(key)) return *found;
  fail(fmt::format("the key '{}' is missing", key));
}

size_t RecipeJson::size() const {
  if (!value_->is_array()) expected("a list [...]");
  return value_->size();
}

RecipeJson RecipeJson::element(size_t index) const { return child((*value_)[index], pointer_ / index); }

int64_t RecipeJson::integer() const {
  const bool too_large = value_->is_number_unsigned() && value_->get<uint64_t>() > uint64_t{INT64_MAX};
  if (!value_->is_number_integer() || too_large) expected("a whole number");
  return value_->get<int64_t>();
}

double RecipeJson::number() const {
  if (!value_->is_number()) expected("a number");
  return value_->get<double>();
}

bool RecipeJson::flag() const {
  if (!value_->is_boolean()) expected("true or false");
  return value_->get<bool>();
}

const std::string& RecipeJson::text() const {
  if (!value_->is_string()) expected("text");
  return value_->get_ref<const std::string&>();
}

}  // namespace trimtab
