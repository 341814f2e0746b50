// The tree behind a Config: what a YAML file or an override says, each piece with its place. Internal to
// core.
//
// YAML is read through yaml-cpp's events rather than its nodes, because its nodes keep the last of two equal
// keys and forget where keys stood. Anchors, aliases, tags, several documents, nesting deeper than 64 and
// duplicate keys are errors here. A dotted key `a.b: c` is shorthand for `a: {b: c}`.
#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "core/config.h"
#include "core/error.h"

namespace trimtab {

// A ConfigError that already names its place, so that nobody puts a second place in front of it.
struct PlacedConfigError : ConfigError {
  PlacedConfigError(const std::string& place, const std::string& message)
      : ConfigError(place + ": " + message) {}
};

struct ConfigNode {
  enum class Kind { kNull, kScalar, kList, kMap };
  struct Entry;

  Kind kind = Kind::kNull;
  std::string text;               // kScalar: as written, without quotes
  bool quoted = false;            // kScalar: written in quotes, so it is text whatever it looks like
  std::string place;              // "file:line:col" or "override 'a.b=c'"
  std::vector<Entry> entries;     // kMap, in file order
  std::vector<ConfigNode> items;  // kList

  bool is_map() const { return kind == Kind::kMap; }
  bool is_list() const { return kind == Kind::kList; }
  bool is_scalar() const { return kind == Kind::kScalar; }
  bool is_null() const { return kind == Kind::kNull; }
  ConfigNode* child(const std::string& key);  // of a map by key, of a list by index; nullptr when absent
  const ConfigNode* child(const std::string& key) const { return const_cast<ConfigNode*>(this)->child(key); }
  std::vector<std::string> keys() const;
  std::string shown() const;  // "'0.5'", "a list", "a map", "nothing": for messages
};

struct ConfigNode::Entry {
  std::string key;
  std::string place;  // of the key
  ConfigNode value;
};

struct Config::Tree {
  std::string name;  // file, or what stands for it
  std::string path;  // from the root of the file to here; "" at the root
  ConfigNode root;
};

inline constexpr size_t kConfigMaxBytes = size_t{1} << 20;
inline constexpr size_t kConfigMaxDepth = 64;
// yaml-cpp and the tree take some hundred bytes for what may be two bytes of text ("a,").
inline constexpr size_t kConfigMaxValues = 32768;

// How places are written while parsing: "name:line:col", or `name` alone for an override (it has one line,
// which it shows).
enum class PlaceStyle { kLineAndColumn, kNameOnly };
ConfigNode parse_yaml(const std::string& yaml, const std::string& name, PlaceStyle style);

std::string join_path(const std::string& prefix, const std::string& key);  // "a" + "b" -> "a.b"
std::string did_you_mean(const std::string& word, const std::vector<std::string>& known,
                         const std::string& prefix = "");

std::string quoted_yaml(
    const std::string& text);  // plain when that reads back as the same text, quoted otherwise
void write_yaml(const ConfigNode& node, int indent, std::string& out);

}  // namespace trimtab
