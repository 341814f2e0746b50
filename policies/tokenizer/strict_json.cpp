#include "policies/tokenizer/strict_json.h"

#include <algorithm>

#include "core/error.h"
#include "core/json_shape.h"

namespace trimtab {
namespace {

using Json = nlohmann::json;
constexpr size_t kDeepest = 32;

// Text of a file as it may stand in a message: short and printable.
std::string shown(std::string_view text) {
  std::string out;
  for (const char c : text.substr(0, 60)) out += static_cast<uint8_t>(c) < 0x20 || c == 0x7F ? '?' : c;
  return Json(out + (text.size() > 60 ? "..." : "")).dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

Json parse_strict_json(const std::string& text, const std::string& file) {
  // The parser takes a zero byte for the end of its input and would ignore what follows.
  if (text.find('\0') != std::string::npos) throw DataError(fmt::format("{}: this is not JSON (a zero byte); fetch or write the file again", file));
  return parse_checked_json(text, kDeepest, [&](JsonFault fault, const std::string& detail) {
    if (fault == JsonFault::kTooDeep)
      throw DataError(fmt::format("{}: more than {} levels of brackets; no tokenizer needs that", file, kDeepest));
    if (fault == JsonFault::kKeyTwice)
      throw DataError(fmt::format("{}: the key {} is there twice in one object; remove one", file, shown(detail)));
    throw DataError(fmt::format("{}: this is not JSON ({}); fetch or write the file again", file, detail));
  });
}

void JsonPlace::fail(const std::string& what) const {
  throw DataError(fmt::format("{}: {}: {}", file_, path_.empty() ? "the document" : path_, what));
}

const Json& JsonPlace::object() const {
  if (!value_->is_object()) fail(fmt::format("expected an object, found {}", value_->type_name()));
  return *value_;
}

JsonPlace JsonPlace::member(const std::string& key) const {
  const auto found = object().find(key);
  if (found == value_->end()) fail(fmt::format("the key \"{}\" is missing", key));
  return {&*found, file_, path_.empty() ? key : path_ + "." + key};
}

std::optional<JsonPlace> JsonPlace::find(const std::string& key) const {
  const auto found = object().find(key);
  if (found == value_->end() || found->is_null()) return std::nullopt;
  return member(key);
}

size_t JsonPlace::size() const {
  if (!value_->is_array()) fail(fmt::format("expected a list, found {}", value_->type_name()));
  return value_->size();
}

JsonPlace JsonPlace::element(size_t index) const {
  return {&(*value_)[index], file_, fmt::format("{}[{}]", path_, index)};
}

void JsonPlace::only_keys(std::initializer_list<std::string_view> keys) const {
  for (const auto& [key, value] : object().items()) {
    if (std::find(keys.begin(), keys.end(), key) == keys.end())
      fail(
          fmt::format("the key {} is not known here; it may change what the tokenizer does, so it is refused",
                      shown(key)));
  }
}

const std::string& JsonPlace::text() const {
  if (!value_->is_string()) fail(fmt::format("expected text, found {}", value_->type_name()));
  return value_->get_ref<const std::string&>();
}

bool JsonPlace::flag(const std::string& key, std::optional<bool> absent) const {
  if (absent && !find(key)) return *absent;
  const JsonPlace place = member(key);
  if (!place.value().is_boolean())
    place.fail(fmt::format("expected true or false, found {}", place.value().type_name()));
  return place.value().get<bool>();
}

int32_t JsonPlace::integer(int32_t low, int32_t high) const {
  if (!value_->is_number_integer())
    fail(fmt::format("expected a whole number, found {}", value_->type_name()));
  const bool too_large =
      value_->is_number_unsigned() && value_->get<uint64_t>() > static_cast<uint64_t>(high);
  const auto number = value_->get<int64_t>();
  if (too_large || number < low || number > high)
    fail(fmt::format("expected a number from {} to {}, found {}", low, high, value_->dump()));
  return static_cast<int32_t>(number);
}

}  // namespace trimtab
