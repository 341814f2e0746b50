#include "core/json_shape.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "core/error.h"

namespace trimtab {
namespace {

using Json = nlohmann::json;
using Handler = std::function<void(JsonFault, const std::string&)>;

// Sees the parser's events and keeps nothing but the keys of the objects that are open.
class Watch final : public nlohmann::json_sax<Json> {
 public:
  Watch(size_t most_depth, const Handler& fault) : most_depth_(most_depth), fault_(fault) {}
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(size_t) override { return open(); }
  bool start_array(size_t) override { return open(); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t& key) override {
    if (!keys_.back().insert(key).second) fault_(JsonFault::kKeyTwice, key);
    return true;
  }
  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception& error) override {
    fault_(JsonFault::kSyntax, error.what());
    return false;
  }

 private:
  bool open() {
    keys_.emplace_back();
    if (keys_.size() > most_depth_) fault_(JsonFault::kTooDeep, "");
    return true;
  }
  bool close() {
    keys_.pop_back();
    return true;
  }
  const size_t most_depth_;
  const Handler& fault_;
  std::vector<std::set<std::string>> keys_;
};

}  // namespace

Json parse_checked_json(std::string_view text, size_t most_depth, const Handler& fault) {
  {
    Watch watch(most_depth, fault);
    TT_CHECK(Json::sax_parse(text, &watch), "a fault was let pass");
  }
  return Json::parse(text);
}

JsonShape json_shape(std::string_view text) {
  JsonShape shape;
  size_t depth = 0;
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted) {
      if (c == '\\') ++i;
      if (c == '"') quoted = false;
      continue;
    }
    if (c == '"') quoted = true;
    if (c == ',' || c == '[' || c == '{') ++shape.values;
    if (c == '[' || c == '{') shape.depth = std::max(shape.depth, ++depth);
    if ((c == ']' || c == '}') && depth > 0) --depth;
  }
  return shape;
}

}  // namespace trimtab
