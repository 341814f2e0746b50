// Help lines, the resolved configuration, and trees as YAML text.
#include <algorithm>
#include <array>
#include <cmath>

#include "core/config.h"
#include "core/config_tree.h"
#include "core/text.h"

namespace trimtab {
namespace {

// The value as it would be written in YAML.
std::string shown(bool value) { return value ? "true" : "false"; }
std::string shown(int64_t value) { return std::to_string(value); }
std::string shown(double value) {
  TT_CHECK(std::isfinite(value), "an option has the value {}, which no configuration can hold", value);
  return fmt::format("{}", value);
}
std::string shown(const std::string& value) { return quoted_yaml(value); }
template <class T>
std::string shown(const std::vector<T>& values) {
  std::vector<std::string> words;
  words.reserve(values.size());
  for (const T& value : values) words.push_back(shown(value));
  return "[" + join(words, ", ") + "]";
}

const char* type_name(const FieldValue& value) {
  constexpr std::array<const char*, std::variant_size_v<FieldValue>> kNames = {
      "true or false", "integer", "number", "text", "list of integers", "list of numbers", "list of texts"};
  return kNames[value.index()];
}

std::string range_of(const FieldInfo& info) {
  if (!info.choices.empty()) return join(info.choices, " | ");
  if (!std::isfinite(info.low) && !std::isfinite(info.high)) return "";
  const std::string low = std::isfinite(info.low) ? fmt::format("[{}", info.low) : "(-inf";
  const std::string high = std::isfinite(info.high) ? fmt::format("{}]", info.high) : "inf)";
  return low + ", " + high;
}

class Lister final : public Fields {
 public:
  std::vector<FieldLine> lines;

 protected:
  void visit(std::string_view key, FieldValue value, const FieldInfo& info) override {
    FieldLine line;
    line.path = join_path(prefix_, std::string(key));
    line.type = type_name(value);
    line.fallback = info.required ? "required" : std::visit([](auto* v) { return shown(*v); }, value);
    line.range = range_of(info);
    line.unit = info.unit;
    line.doc = info.doc;
    lines.push_back(std::move(line));
  }
  bool enter(std::string_view key, const std::string& doc) override {
    prefix_ = join_path(prefix_, std::string(key));
    lines.push_back({prefix_, "block", "", "", "", doc});
    return true;
  }
  void leave() override {
    const size_t dot = prefix_.rfind('.');
    prefix_ = dot == std::string::npos ? "" : prefix_.substr(0, dot);
  }

 private:
  std::string prefix_;
};

class Writer final : public Fields {
 public:
  std::string out;

 protected:
  void visit(std::string_view key, FieldValue value, const FieldInfo&) override {
    line(fmt::format("{}: {}", key, std::visit([](auto* v) { return shown(*v); }, value)));
  }
  bool enter(std::string_view key, const std::string&) override {
    line(fmt::format("{}:", key));
    ++depth_;
    return true;
  }
  void leave() override { --depth_; }

 private:
  void line(const std::string& text) { out += std::string(2 * depth_, ' ') + text + "\n"; }
  size_t depth_ = 0;
};

bool is_plain_word(const std::string& text) {
  const auto plain = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) ||
           std::string_view("_-./+").find(c) != std::string_view::npos;
  };
  if (text.empty() || !std::all_of(text.begin(), text.end(), plain)) return false;
  // "null" would come back as nothing, "-" and "---" as YAML's own marks.
  if (text == "null" || text == "Null" || text == "NULL" || text == "...") return false;
  return text[0] != '-' ||
         (text.size() > 1 && (std::isdigit(static_cast<unsigned char>(text[1])) || text[1] == '.'));
}

}  // namespace

std::string quoted_yaml(const std::string& text) {
  if (is_plain_word(text)) return text;
  std::string out = "\"";
  for (const char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) {
          out += fmt::format("\\x{:02x}", static_cast<unsigned>(c));
        } else {
          out += c;
        }
    }
  }
  return out + "\"";
}

// Maps in block style, everything else on its key's line.
void write_yaml(const ConfigNode& node, int indent, std::string& out) {
  const auto inline_text = [](const ConfigNode& value, const auto& self) -> std::string {
    std::vector<std::string> words;
    switch (value.kind) {
      case ConfigNode::Kind::kNull:
        return "null";
      case ConfigNode::Kind::kScalar: {
        const std::string text = quoted_yaml(value.text);
        return value.quoted && text[0] != '"' ? '"' + text + '"' : text;
      }
      case ConfigNode::Kind::kList:
        for (const ConfigNode& item : value.items) words.push_back(self(item, self));
        return "[" + join(words, ", ") + "]";
      case ConfigNode::Kind::kMap:
        for (const auto& [key, place, item] : value.entries)
          words.push_back(quoted_yaml(key) + ": " + self(item, self));
        return "{" + join(words, ", ") + "}";
    }
    return "";
  };
  if (!node.is_map()) {
    out += inline_text(node, inline_text) + "\n";
    return;
  }
  for (const auto& [key, place, value] : node.entries) {
    out += std::string(static_cast<size_t>(indent), ' ') + quoted_yaml(key) + ":";
    if (value.is_map() && !value.entries.empty()) {
      out += "\n";
      write_yaml(value, indent + 2, out);
    } else {
      out += " " + inline_text(value, inline_text) + "\n";
    }
  }
}

std::vector<FieldLine> describe_fields(const std::function<void(Fields&)>& describe) {
  Lister lister;
  describe(lister);
  return std::move(lister.lines);
}

std::string resolved_yaml(const std::function<void(Fields&)>& describe) {
  Writer writer;
  describe(writer);
  return std::move(writer.out);
}

}  // namespace trimtab
