// Reading a tree into a unit's options: the visitor behind Config::read.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>
#include <set>

#include "core/config.h"
#include "core/config_tree.h"
#include "core/text.h"

namespace trimtab {
namespace {

using std::optional;

template <class T>
optional<T> parse_whole(std::string_view text) {
  if (text.starts_with("+")) text.remove_prefix(1);
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return {};
  return value;
}

optional<double> parse_number(std::string_view text) {
  if (text.starts_with("+-")) return {};
  const optional<double> value = parse_whole<double>(text);
  return value && std::isfinite(*value) ? value : std::nullopt;
}

// "12", "-3", "500k", "1.5M", "1e6"; never "1.5" or "010" (which YAML 1.1 reads as eight).
optional<int64_t> parse_integer(std::string_view text) {
  if (text.empty() || text.starts_with("+-")) return {};
  double scale = 1;
  switch (text.back()) {
    case 'k':
      scale = 1e3;
      break;
    case 'M':
      scale = 1e6;
      break;
    case 'G':
      scale = 1e9;
      break;
    default:
      break;
  }
  if (scale != 1) text.remove_suffix(1);
  const size_t digits = text.find_first_not_of("+-");
  if (digits == std::string_view::npos) return {};
  if (text[digits] == '0' && text.size() > digits + 1 && text[digits + 1] != '.') return {};
  if (scale == 1) {
    if (const optional<int64_t> plain = parse_whole<int64_t>(text)) return plain;
  }
  constexpr double kLargestExact = 0x1p53;  // beyond it a double no longer tells neighbouring integers apart
  const optional<double> value = parse_number(text);
  if (!value || std::abs(*value * scale) > kLargestExact) return {};
  // 1.1M is 1100000 though 1.1 has no exact double: the product must be an integer to within its rounding.
  const double product = *value * scale, whole = std::round(product);
  if (std::abs(product - whole) > std::abs(whole) * 0x1p-52) return {};
  return static_cast<int64_t>(whole);
}

std::string range_text(const FieldInfo& info) {
  if (!std::isfinite(info.low) && !std::isfinite(info.high)) return "";
  const std::string low = std::isfinite(info.low) ? fmt::format("[{}", info.low) : "(-inf";
  const std::string high = std::isfinite(info.high) ? fmt::format("{}]", info.high) : "inf)";
  return fmt::format(" in {}, {}", low, high);
}

// Turns one scalar into a value of each kind; `problem` says what was expected when it cannot.
struct ScalarReader {
  const ConfigNode& node;
  const FieldInfo& info;

  bool read(bool& value) const {
    if (node.quoted || (node.text != "true" && node.text != "false")) return false;
    value = node.text == "true";
    return true;
  }
  bool read(int64_t& value) const {
    const optional<int64_t> parsed = node.quoted ? std::nullopt : parse_integer(node.text);
    if (!parsed || static_cast<double>(*parsed) < info.low || static_cast<double>(*parsed) > info.high)
      return false;
    value = *parsed;
    return true;
  }
  bool read(double& value) const {
    const optional<double> parsed = node.quoted ? std::nullopt : parse_number(node.text);
    if (!parsed || *parsed < info.low || *parsed > info.high) return false;
    value = *parsed;
    return true;
  }
  bool read(std::string& value) const {
    const auto& choices = info.choices;
    if (!choices.empty() && std::find(choices.begin(), choices.end(), node.text) == choices.end())
      return false;
    value = node.text;
    return true;
  }
};

std::string expected(const bool&, const FieldInfo&) { return "true or false"; }
std::string expected(const int64_t&, const FieldInfo& info) { return "integer" + range_text(info); }
std::string expected(const double&, const FieldInfo& info) { return "number" + range_text(info); }
std::string expected(const std::string&, const FieldInfo& info) {
  return info.choices.empty() ? "text" : "one of " + join(info.choices, ", ");
}
template <class T>
std::string expected(const std::vector<T>&, const FieldInfo& info) {
  return "list of " + expected(T{}, info);
}

// What a reader of other YAML dialects may have meant by a word that is no boolean here.
std::string boolean_hint(const std::string& word) {
  const std::set<std::string> yes = {"yes", "Yes", "YES", "y", "Y", "on", "On", "ON", "True", "TRUE", "1"};
  const std::set<std::string> no = {"no", "No", "NO", "n", "N", "off", "Off", "OFF", "False", "FALSE", "0"};
  if (yes.contains(word)) return "; did you mean 'true'?";
  if (no.contains(word)) return "; did you mean 'false'?";
  return did_you_mean(word, {"true", "false"});
}

class Reader final : public Fields {
 public:
  Reader(const Config::Tree& tree, const std::vector<std::string>& also) : tree_(tree) {
    open(&tree.root, tree.path, tree.root.place.empty() ? tree.name : tree.root.place);
    levels_.back().known = also;
  }
  void finish() {
    TT_CHECK_EQ(levels_.size(), 1u);
    close();
  }

 protected:
  void visit(std::string_view key, FieldValue value, const FieldInfo& info) override {
    std::visit([&](auto* target) { read(std::string(key), *target, info); }, value);
  }

  bool enter(std::string_view key_view, const std::string&) override {
    const std::string key(key_view);
    const ConfigNode* node = declare(key);
    open(node, join_path(levels_.back().path, key), node == nullptr ? levels_.back().place : node->place);
    return true;
  }
  void leave() override { close(); }

  void validate_block(std::string_view key_view, const std::function<void()>& check) override {
    const Level& level = levels_.back();
    const std::string key(key_view);
    const ConfigNode* node = level.node == nullptr ? nullptr : level.node->child(key);
    try {
      check();
    } catch (const PlacedConfigError&) {
      throw;
    } catch (const ConfigError& error) {
      fail(node == nullptr ? level.place : node->place, join_path(level.path, key), error.what());
    }
  }

 private:
  // One map that is being read. A missing key is reported only when the map's other keys are known to be
  // right, since a misspelt key is also a missing one.
  struct Level {
    const ConfigNode* node;  // nullptr: the block is absent, every key takes its default
    std::string path, place;
    std::vector<std::string> known;
    std::string missing_key, missing_message;
  };

  [[noreturn]] static void fail(const std::string& place, const std::string& path,
                                const std::string& message) {
    throw PlacedConfigError(place, path.empty() ? message : fmt::format("key '{}': {}", path, message));
  }

  void open(const ConfigNode* node, const std::string& path, const std::string& place) {
    if (node != nullptr && !node->is_map() && !node->is_null())
      fail(place, path, fmt::format("expected a map of keys, got {}", node->shown()));
    levels_.push_back({node, path, place, {}, {}, {}});
  }

  void close() {
    const Level& level = levels_.back();
    if (level.node != nullptr) {
      for (const ConfigNode::Entry& entry : level.node->entries) {
        if (std::find(level.known.begin(), level.known.end(), entry.key) == level.known.end())
          unknown(level, entry);
      }
    }
    if (!level.missing_key.empty())
      fail(level.place, join_path(level.path, level.missing_key), level.missing_message);
    levels_.pop_back();
  }

  [[noreturn]] static void unknown(const Level& level, const ConfigNode::Entry& entry) {
    constexpr size_t kMostListed = 12;  // a message stays readable
    std::string hint = did_you_mean(entry.key, level.known, level.path);
    if (hint.empty() && level.known.empty()) hint = "; no keys are known here";
    if (hint.empty()) {
      std::vector<std::string> shown = level.known;
      if (shown.size() > kMostListed) shown.resize(kMostListed), shown.push_back("...");
      hint = "; known here: " + join(shown, ", ");
    }
    fail(entry.place, join_path(level.path, entry.key), "unknown key" + hint);
  }

  // Notes the key as known and returns its node, if it is given.
  const ConfigNode* declare(const std::string& key) {
    Level& level = levels_.back();
    TT_CHECK(key.find('.') == std::string::npos, "key '{}' of a describe() holds a dot", key);
    TT_CHECK(std::find(level.known.begin(), level.known.end(), key) == level.known.end(),
             "key '{}' is described twice", join_path(level.path, key));
    level.known.push_back(key);
    return level.node == nullptr ? nullptr : level.node->child(key);
  }

  template <class T>
  void read(const std::string& key, T& target, const FieldInfo& info) {
    const ConfigNode* node = declare(key);
    Level& level = levels_.back();
    if (node == nullptr) {
      if (info.required && level.missing_key.empty()) {
        level.missing_key = key;
        level.missing_message = fmt::format("missing; expected {}{}", expected(target, info),
                                            info.doc.empty() ? "" : fmt::format(" ({})", info.doc));
      }
      return;
    }
    read_node(*node, join_path(level.path, key), target, info);
  }

  template <class T>
  static void read_node(const ConfigNode& node, const std::string& path, T& target, const FieldInfo& info) {
    if (node.is_scalar() && ScalarReader{node, info}.read(target)) return;
    std::string hint;
    if constexpr (std::is_same_v<T, bool>) {
      if (node.is_scalar()) hint = boolean_hint(node.text);
    }
    if (node.is_scalar() && !info.choices.empty()) hint = did_you_mean(node.text, info.choices);
    fail(node.place, path, fmt::format("expected {}, got {}{}", expected(target, info), node.shown(), hint));
  }

  template <class T>
  static void read_node(const ConfigNode& node, const std::string& path, std::vector<T>& target,
                        const FieldInfo& info) {
    if (!node.is_list()) {
      const std::string hint = node.is_scalar() ? fmt::format("; write [{}]", node.text) : "";
      fail(node.place, path,
           fmt::format("expected {}, got {}{}", expected(target, info), node.shown(), hint));
    }
    std::vector<T> values(node.items.size());
    for (size_t i = 0; i < values.size(); ++i)
      read_node(node.items[i], join_path(path, std::to_string(i)), values[i], info);
    target = std::move(values);
  }

  const Config::Tree& tree_;
  std::vector<Level> levels_;
};

}  // namespace

std::unique_ptr<Fields> Config::make_reader(const std::vector<std::string>& also) const {
  return std::make_unique<Reader>(*tree_, also);
}

void Config::finish(Fields& reader) const { static_cast<Reader&>(reader).finish(); }

void Config::validate_with(const std::function<void()>& check) const {
  try {
    check();
  } catch (const PlacedConfigError&) {
    throw;
  } catch (const ConfigError& error) {
    fail("", error.what());
  }
}

}  // namespace trimtab
