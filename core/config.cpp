// Finding, overriding and merging; reading into options is config_read.cpp, help and YAML text
// config_write.cpp.
#include "core/config.h"

#include <algorithm>

#include "core/config_tree.h"
#include "core/files.h"
#include "core/text.h"

namespace trimtab {
namespace {

const ConfigNode* find(const ConfigNode& root, const std::string& path) {
  const ConfigNode* node = &root;
  for (const std::string& part : split(path, '.')) {
    node = node->child(part);
    if (node == nullptr) return nullptr;
  }
  return node;
}

// The place of `path`, or of the deepest map above it that exists.
std::string place_of(const Config::Tree& tree, const std::string& path) {
  const ConfigNode* node = &tree.root;
  for (const std::string& part : split(path, '.')) {
    const ConfigNode* next = node->child(part);
    if (next == nullptr) break;
    node = next;
  }
  return node->place.empty() ? tree.name : node->place;
}

ConfigNode merged(const ConfigNode& base, const ConfigNode& over) {
  if (base.is_map() && over.is_null()) return base;  // `env:` with every key commented out
  if (!base.is_map() || !over.is_map()) return over;
  ConfigNode out = base;
  out.place = over.place;
  for (const ConfigNode::Entry& entry : over.entries) {
    const auto same = [&](const ConfigNode::Entry& e) { return e.key == entry.key; };
    const auto it = std::find_if(out.entries.begin(), out.entries.end(), same);
    if (it == out.entries.end()) {
      out.entries.push_back(entry);
    } else {
      *it = {entry.key, entry.place, merged(it->value, entry.value)};
    }
  }
  return out;
}

// One command-line override, taken apart.
struct Override {
  char action = '=';  // '=' sets, '+' adds, '~' removes
  std::string place, key, value;
  std::vector<std::string> parts;

  [[noreturn]] void fail(const std::string& message) const {
    throw PlacedConfigError(place, key.empty() ? message : fmt::format("key '{}': {}", key, message));
  }
};

Override parse_override(const std::string& text) {
  Override out;
  // Every value of the override keeps a copy of its place.
  constexpr size_t kLongestShown = 160;
  out.place = fmt::format("override '{}'", text.size() <= kLongestShown ? text : text.substr(0, kLongestShown) + "...");
  constexpr size_t kLongest = size_t{64} << 10;
  if (text.size() > kLongest) out.fail(fmt::format("{} bytes; at most {} are read", text.size(), kLongest));
  std::string rest = text;
  if (rest.starts_with("+") || rest.starts_with("~")) {
    out.action = rest[0];
    rest.erase(0, 1);
  }
  const size_t equals = rest.find('=');
  if (out.action == '~' && equals != std::string::npos) out.fail("a removal has no value; write ~a.b");
  if (out.action != '~' && equals == std::string::npos) out.fail("expected key=value, +key=value or ~key");
  const std::string key = rest.substr(0, equals);
  if (equals != std::string::npos) out.value = rest.substr(equals + 1);
  out.parts = split(key, '.');
  const bool hole =
      std::any_of(out.parts.begin(), out.parts.end(), [](const auto& part) { return part.empty(); });
  if (out.parts.empty() || hole) out.fail("expected a key of words joined by single dots");
  if (out.parts.size() > kConfigMaxDepth)
    out.fail(fmt::format("nested deeper than {} levels", kConfigMaxDepth));
  out.key = key;
  return out;
}

// The node that holds the last part of the key; the maps between are made (a wrong name among them shows when
// read).
ConfigNode& parent_of(ConfigNode& root, const Override& change) {
  ConfigNode* node = &root;
  std::string path;
  for (size_t i = 0;; ++i) {
    if (node->is_null())
      *node = {.kind = ConfigNode::Kind::kMap, .text = {}, .place = change.place, .entries = {}, .items = {}};
    if (!node->is_map() && !node->is_list())
      change.fail(fmt::format("'{}' is {}, not a map", path, node->shown()));
    if (i + 1 == change.parts.size()) return *node;
    const std::string& part = change.parts[i];
    path = join_path(path, part);
    ConfigNode* next = node->child(part);
    if (next == nullptr) {
      if (node->is_list())
        change.fail(fmt::format("the list has no element '{}' (0 to {})", part, int(node->items.size()) - 1));
      node->entries.push_back({part, change.place, {}});
      next = &node->entries.back().value;
    }
    node = next;
  }
}

void remove(ConfigNode& root, const Override& change) {
  ConfigNode* node = &root;
  std::string path;
  for (size_t i = 0; i < change.parts.size(); ++i) {
    const std::string& part = change.parts[i];
    ConfigNode* next = node->child(part);
    if (next == nullptr)
      change.fail("there is no such key to remove" + did_you_mean(part, node->keys(), path));
    if (i + 1 < change.parts.size()) {
      path = join_path(path, part);
      node = next;
    }
  }
  const std::string& last = change.parts.back();
  if (node->is_list()) {
    node->items.erase(node->items.begin() + (node->child(last) - node->items.data()));
  } else {
    std::erase_if(node->entries, [&](const ConfigNode::Entry& entry) { return entry.key == last; });
  }
}

void set(ConfigNode& root, const Override& change) {
  ConfigNode value = parse_yaml(change.value, change.place, PlaceStyle::kNameOnly);
  if (value.place.empty()) value.place = change.place;
  ConfigNode& parent = parent_of(root, change);
  const std::string& last = change.parts.back();
  ConfigNode* present = parent.child(last);
  if (present != nullptr && change.action == '+')
    change.fail(fmt::format("already given at {}; write it without the +", present->place));
  if (present == nullptr && parent.is_list()) {
    if (last != std::to_string(parent.items.size()))
      change.fail(fmt::format("the list has {} elements; the next one is '{}'", parent.items.size(),
                              parent.items.size()));
    parent.items.push_back(std::move(value));
  } else if (present == nullptr) {
    parent.entries.push_back({last, change.place, std::move(value)});
  } else {
    *present = std::move(value);
    for (ConfigNode::Entry& entry : parent.entries) {
      if (entry.key == last) entry.place = change.place;
    }
  }
}

}  // namespace

Config::Config(std::shared_ptr<Tree> tree) : tree_(std::move(tree)) {}

Config Config::load(const std::filesystem::path& file) {
  std::error_code error;
  const uintmax_t size = std::filesystem::file_size(file, error);
  if (error) throw ConfigError(fmt::format("{}: cannot read it: {}", file.string(), error.message()));
  if (size > kConfigMaxBytes)
    throw ConfigError(
        fmt::format("{}: {} bytes is more than the 1 MiB a configuration may have", file.string(), size));
  try {
    return parse(read_file(file), file.string());
  } catch (const DataError& unreadable) {
    throw ConfigError(unreadable.what());
  }
}

Config Config::parse(const std::string& yaml, const std::string& name) {
  auto tree = std::make_shared<Tree>();
  tree->name = name;
  tree->root = parse_yaml(yaml, name, PlaceStyle::kLineAndColumn);
  if (tree->root.is_null())
    throw PlacedConfigError(name + ":1:1", "expected a map of keys, got an empty file");
  if (!tree->root.is_map())
    throw PlacedConfigError(tree->root.place,
                            fmt::format("expected a map of keys, got {}", tree->root.shown()));
  return Config(tree);
}

Config Config::empty(const std::string& name) {
  auto tree = std::make_shared<Tree>();
  tree->name = name;
  tree->root.kind = ConfigNode::Kind::kMap;
  return Config(tree);
}

void Config::apply(const std::string& override_text) {
  const Override change = parse_override(override_text);
  auto tree = std::make_shared<Tree>(*tree_);  // other Configs may share the present one
  if (change.action == '~') {
    remove(tree->root, change);
  } else {
    set(tree->root, change);
  }
  tree_ = std::move(tree);
}

bool Config::has(const std::string& path) const { return find(tree_->root, path) != nullptr; }

Config Config::at(const std::string& path) const {
  auto tree = std::make_shared<Tree>();
  tree->name = tree_->name;
  tree->path = join_path(tree_->path, path);
  if (const ConfigNode* node = find(tree_->root, path)) {
    tree->root = *node;
  } else {
    tree->root.kind = ConfigNode::Kind::kMap;
    tree->root.place = place_of(*tree_, path);
  }
  return Config(tree);
}

std::vector<Config> Config::list(const std::string& path) const {
  const ConfigNode* node = find(tree_->root, path);
  std::vector<Config> out;
  if (node == nullptr || node->is_null()) return out;
  if (!node->is_list()) fail(path, fmt::format("expected a list, got {}; write [...]", node->shown()));
  for (size_t i = 0; i < node->items.size(); ++i) out.push_back(at(join_path(path, std::to_string(i))));
  return out;
}

std::vector<std::string> Config::keys() const {
  if (!tree_->root.is_map() && !tree_->root.is_null())
    fail("", fmt::format("expected a map of keys, got {}", tree_->root.shown()));
  return tree_->root.keys();
}

std::string Config::text(const std::string& path, const std::string& fallback) const {
  const ConfigNode* node = find(tree_->root, path);
  if (node == nullptr) return fallback;
  if (!node->is_scalar()) fail(path, fmt::format("expected text, got {}", node->shown()));
  return node->text;
}

std::string Config::yaml() const {
  std::string out;
  write_yaml(tree_->root, 0, out);
  return out;
}

Config Config::merged_with(const Config& over) const {
  auto tree = std::make_shared<Tree>();
  tree->name = over.tree_->name;
  tree->path = over.tree_->path.empty() ? tree_->path : over.tree_->path;
  tree->root = merged(tree_->root, over.tree_->root);
  if (tree->root.place.empty()) tree->root.place = tree_->root.place;
  return Config(tree);
}

void Config::fail(const std::string& path, const std::string& message) const {
  const std::string full = join_path(tree_->path, path);
  throw PlacedConfigError(place_of(*tree_, path),
                          full.empty() ? message : fmt::format("key '{}': {}", full, message));
}

}  // namespace trimtab
