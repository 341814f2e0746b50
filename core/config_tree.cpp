#include "core/config_tree.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <charconv>
#include <sstream>

#include "core/registry.h"
#include "core/text.h"

namespace trimtab {
namespace {

// Builds ConfigNodes from yaml-cpp's events. `open_` holds the containers that are not closed yet; the
// addresses stay valid because a container is moved into its parent only when it closes.
class TreeBuilder final : public YAML::EventHandler {
 public:
  TreeBuilder(const std::string& name, PlaceStyle style) : name_(name), style_(style) {}

  std::string place(const YAML::Mark& mark) const {
    if (style_ == PlaceStyle::kNameOnly || mark.is_null()) return name_;
    return fmt::format("{}:{}:{}", name_, mark.line + 1, mark.column + 1);
  }
  ConfigNode take() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    refuse_anchor(mark, anchor);
    if (wants_key())
      throw PlacedConfigError(place(mark), "a key must be a word; put null in quotes if it is meant");
    // An empty value has no text of its own: its key's place is where the reader must look.
    const std::string where = in_map() ? open_.back().key_place : place(mark);
    add({.kind = ConfigNode::Kind::kNull, .text = {}, .place = where, .entries = {}, .items = {}});
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    throw PlacedConfigError(place(mark), "YAML aliases (*name) are not supported; repeat the value");
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    refuse_anchor(mark, anchor);
    refuse_tag(mark, tag);
    if (wants_key()) {
      start_entry(value, place(mark));
      return;
    }
    add({.kind = ConfigNode::Kind::kScalar,
         .text = value,
         .quoted = tag == "!",
         .place = place(mark),
         .entries = {},
         .items = {}});
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(mark, tag, anchor, ConfigNode::Kind::kList);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(mark, tag, anchor, ConfigNode::Kind::kMap);
  }
  void OnMapEnd() override { close(); }

 private:
  struct Open {
    ConfigNode node;
    bool has_key = false;  // a map whose next event is the value of `key`
    std::string key, key_place;
    size_t key_parts = 1;  // a dotted key opens several levels
    size_t depth = 0;
  };

  bool in_map() const { return !open_.empty() && open_.back().node.is_map(); }
  bool wants_key() const { return in_map() && !open_.back().has_key; }

  void refuse_anchor(const YAML::Mark& mark, YAML::anchor_t anchor) const {
    if (anchor != 0)
      throw PlacedConfigError(place(mark), "YAML anchors (&name) are not supported; repeat the value");
  }
  void refuse_tag(const YAML::Mark& mark, const std::string& tag) const {
    if (!tag.empty() && tag != "?" && tag != "!")
      throw PlacedConfigError(place(mark),
                              fmt::format("YAML tags ({}) are not supported; write the plain value", tag));
  }

  void start_entry(const std::string& key, const std::string& where) {
    const std::vector<std::string> parts = split(key, '.');
    if (parts.empty() ||
        std::any_of(parts.begin(), parts.end(), [](const auto& part) { return part.empty(); }))
      throw PlacedConfigError(where, fmt::format("key '{}': expected words joined by single dots", key));
    if (open_.back().depth + parts.size() > kConfigMaxDepth) throw too_deep(where);
    open_.back().has_key = true;
    open_.back().key_parts = parts.size();
    open_.back().key = key;
    open_.back().key_place = where;
  }

  PlacedConfigError too_deep(const std::string& where) const {
    return {where, fmt::format("nested deeper than {} levels", kConfigMaxDepth)};
  }

  void open(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor, ConfigNode::Kind kind) {
    refuse_anchor(mark, anchor);
    refuse_tag(mark, tag);
    if (wants_key())
      throw PlacedConfigError(place(mark),
                              "a key must be a word, not a list or a map; is a bracket left open?");
    const size_t depth = open_.empty() ? 0 : open_.back().depth + (in_map() ? open_.back().key_parts : 1);
    if (depth >= kConfigMaxDepth) throw too_deep(place(mark));
    open_.push_back({});
    open_.back().depth = depth;
    open_.back().node.kind = kind;
    open_.back().node.place = place(mark);
  }

  void close() {
    ConfigNode node = std::move(open_.back().node);
    open_.pop_back();
    add(std::move(node));
  }

  void add(ConfigNode node) {
    if (++num_values_ > kConfigMaxValues)
      throw PlacedConfigError(node.place, fmt::format("more than {} values; is this a configuration?", kConfigMaxValues));
    if (open_.empty()) {
      root_ = std::move(node);
      return;
    }
    Open& parent = open_.back();
    if (parent.node.is_list()) {
      parent.node.items.push_back(std::move(node));
      return;
    }
    add_entry(parent, std::move(node));
    parent.has_key = false;
  }

  // Places `node` under the (perhaps dotted) pending key of `parent`, making the maps between.
  void add_entry(Open& parent, ConfigNode node) {
    const std::vector<std::string> parts = split(parent.key, '.');
    ConfigNode* map = &parent.node;
    for (size_t i = 0; i + 1 < parts.size(); ++i) {
      ConfigNode* next = map->child(parts[i]);
      if (next == nullptr) {
        ConfigNode between;
        between.kind = ConfigNode::Kind::kMap;
        between.place = parent.key_place;
        map->entries.push_back({parts[i], parent.key_place, std::move(between)});
        next = &map->entries.back().value;
      } else if (!next->is_map()) {
        throw PlacedConfigError(parent.key_place,
                                fmt::format("key '{}': '{}' is already {} at {}", parent.key, parts[i],
                                            next->shown(), next->place));
      }
      map = next;
    }
    for (const ConfigNode::Entry& entry : map->entries) {
      if (entry.key == parts.back())
        throw PlacedConfigError(parent.key_place,
                                fmt::format("key '{}': given twice, first at {}", open_path(), entry.place));
    }
    map->entries.push_back({parts.back(), parent.key_place, std::move(node)});
  }

  // The path of the pending key, through every open container.
  std::string open_path() const {
    std::string path;
    for (const Open& level : open_) {
      path = join_path(path, level.node.is_list() ? std::to_string(level.node.items.size()) : level.key);
    }
    return path;
  }

  const std::string& name_;
  PlaceStyle style_;
  std::vector<Open> open_;
  size_t num_values_ = 0;
  ConfigNode root_;
};

// Every value but the first has one of these before it, or a dash on a line of its own; nested dashes are counted by the builder.
size_t most_values(const std::string& yaml) {
  return 1 + static_cast<size_t>(std::count_if(yaml.begin(), yaml.end(), [](char c) {
           return c == ',' || c == ':' || c == '[' || c == '{' || c == '?' || c == '\n';
         }));
}

// yaml-cpp takes a tab in the indentation for part of a word or fails far from it, so it is looked for here.
void refuse_tabs(const std::string& yaml, const std::string& name) {
  size_t line_number = 0;
  for (const std::string& line : split(yaml, '\n')) {
    ++line_number;
    const size_t first = line.find_first_not_of(" \t\r");
    if (first == std::string::npos || line[first] == '#') continue;
    const size_t tab = line.find('\t');
    if (tab < first)
      throw PlacedConfigError(fmt::format("{}:{}:{}", name, line_number, tab + 1),
                              "a tab in the indentation; use spaces");
  }
}

}  // namespace

ConfigNode* ConfigNode::child(const std::string& key) {
  if (is_map()) {
    for (Entry& entry : entries) {
      if (entry.key == key) return &entry.value;
    }
    return nullptr;
  }
  size_t index = 0;
  const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), index);
  const bool number = error == std::errc() && end == key.data() + key.size();
  return is_list() && number && index < items.size() ? &items[index] : nullptr;
}

std::vector<std::string> ConfigNode::keys() const {
  std::vector<std::string> out;
  for (const Entry& entry : entries) out.push_back(entry.key);
  return out;
}

std::string ConfigNode::shown() const {
  constexpr size_t kLongest = 60;  // a message stays one readable line
  switch (kind) {
    case Kind::kNull:
      return "nothing";
    case Kind::kList:
      return "a list";
    case Kind::kMap:
      return "a map";
    case Kind::kScalar:
      break;
  }
  const std::string brief = text.size() <= kLongest ? text : text.substr(0, kLongest) + "...";
  return fmt::format("'{}'{}", brief, quoted ? " in quotes" : "");
}

ConfigNode parse_yaml(const std::string& yaml, const std::string& name, PlaceStyle style) {
  if (yaml.size() > kConfigMaxBytes)
    throw PlacedConfigError(
        name, fmt::format("{} bytes is more than the 1 MiB a configuration may have", yaml.size()));
  if (!is_utf8(yaml)) throw PlacedConfigError(name, "not UTF-8 text; is this a configuration?");
  if (yaml.find('\0') != std::string::npos)
    throw PlacedConfigError(name, "holds a zero byte; is this a configuration?");
  if (most_values(yaml) > kConfigMaxValues)
    throw PlacedConfigError(name, fmt::format("more than {} lines, commas, colons and brackets; is this a configuration?", kConfigMaxValues));
  if (style == PlaceStyle::kLineAndColumn) refuse_tabs(yaml, name);
  TreeBuilder builder(name, style);
  try {
    std::istringstream stream(yaml);
    YAML::Parser parser(stream);
    TreeBuilder second(name, style);
    if (parser.HandleNextDocument(builder) && parser.HandleNextDocument(second))
      throw PlacedConfigError(name, "holds several YAML documents (---); one is expected");
  } catch (const YAML::Exception& error) {
    throw PlacedConfigError(builder.place(error.mark), "not valid YAML: " + error.msg);
  }
  return builder.take();
}

std::string join_path(const std::string& prefix, const std::string& key) {
  if (prefix.empty() || key.empty()) return prefix + key;
  return prefix + "." + key;
}

std::string did_you_mean(const std::string& word, const std::vector<std::string>& known,
                         const std::string& prefix) {
  const std::string near = nearest(word, known);
  return near.empty() ? "" : fmt::format("; did you mean '{}'?", join_path(prefix, near));
}

}  // namespace trimtab
