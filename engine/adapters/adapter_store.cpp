#include "engine/adapters/adapter_store.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <ranges>
#include <string_view>

namespace trimtab {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "base_model.model.", kA = ".lora_A.weight", kB = ".lora_B.weight", kLayers = "model.layers.";
constexpr const char* kServed[kLoraTargets] = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"};
constexpr int64_t kMostHeader = int64_t{1} << 24;   // bytes of a safetensors header of a thousand layers, and many times more

[[noreturn]] void fail(const fs::path& file, const std::string& why) { throw DataError(fmt::format("{}: {}", file.string(), why)); }

// Where "model.layers.3.self_attn.q_proj" is; layer -1: no layer that is served.
struct Place {
  int64_t layer = -1;
  LoraTarget target = LoraTarget::kQuery;
};
Place place_of(const std::string& layer) {
  const auto found = std::find(std::begin(kServed), std::end(kServed), layer.substr(layer.rfind('.') + 1));
  if (!layer.starts_with(kLayers) || found == std::end(kServed)) return {};
  return {std::stoll(layer.substr(kLayers.size())), static_cast<LoraTarget>(found - std::begin(kServed))};
}

fs::path weights_of(const fs::path& folder) {
  const fs::path file = folder / "adapter_model.safetensors";
  if (fs::is_regular_file(file)) return file;
  fail(folder, fs::exists(folder / "adapter_model.bin")
                   ? "holds adapter_model.bin, but adapters are read from adapter_model.safetensors: save it again with a newer PEFT"
                   : "holds no adapter_model.safetensors: copy it from where the adapter was trained");
}

int64_t numbers_of(const std::vector<int64_t>& shape) { return shape[0] * shape[1]; }

// The largest number by size; one that is not finite is above all that are, as are its bits.
float largest_of(const Tensor& t, int64_t count) {
  uint32_t bits = 0;
  with_numbers(t, [&](auto number) {
    for (int64_t i = 0; i < count; ++i) bits = std::max(bits, std::bit_cast<uint32_t>(number(i)) & 0x7fffffff);
  });
  return std::bit_cast<float>(bits);
}

// The tensors of one adapter_model.safetensors, taken one by one; what is left at the end should not be there.
class StoredTensors {
 public:
  explicit StoredTensors(const fs::path& file) : file_(file) {
    TensorFile contents = read_safetensors(file);
    fingerprint_ = fingerprint_in(contents);
    for (auto& [stored, tensor] : contents.tensors) {
      const std::string name = stored.starts_with(kPrefix) ? stored.substr(kPrefix.size()) : stored;
      if (!tensors_.emplace(name, std::move(tensor)).second) fail(file_, fmt::format("tensor '{}' is there twice, with and without '{}'", name, kPrefix));
    }
  }
  Tensor take(const std::string& name, const std::vector<int64_t>& shape, int64_t rank, float& largest) {
    auto node = tensors_.extract(name);
    if (node.empty()) fail(file_, fmt::format("tensor '{}{}' is missing: is the file another adapter's, or not all of it?", kPrefix, name));
    const Tensor& t = node.mapped();
    if (t.dtype != "F32" && t.dtype != "F16" && t.dtype != "BF16")
      fail(file_, fmt::format("tensor '{}' is {}, but only F32, F16 and BF16 are served: save the adapter in one of these", name, t.dtype));
    if (t.shape != shape)
      fail(file_, fmt::format("tensor '{}' has shape [{}], but rank {} on the base model makes it [{}]: is the adapter another model's?", name,
                              fmt::join(t.shape, ", "), rank, fmt::join(shape, ", ")));
    const float here = largest_of(t, numbers_of(shape));
    if (!std::isfinite(here)) fail(file_, fmt::format("tensor '{}' has numbers that are not finite: its training has failed, take an earlier checkpoint", name));
    largest = std::max(largest, here);
    return std::move(node.mapped());
  }
  const std::string& base_fingerprint() const { return fingerprint_; }
  void check_all_taken() const {
    if (tensors_.empty()) return;
    const std::string& name = tensors_.begin()->first;
    const bool low_rank = name.ends_with(kA) || name.ends_with(kB);
    fail(file_, fmt::format("tensor '{}'{} {}", name, tensors_.size() > 1 ? fmt::format(" (and {} more)", tensors_.size() - 1) : "",
                            low_rank ? "belongs to no layer that 'target_modules' adapts in the base model: is the adapter another model's?"
                                     : "is no lora_A or lora_B: DoRA, adapted embeddings and modules saved whole are not served, train without them"));
  }

 private:
  const fs::path& file_;
  std::string fingerprint_;
  std::map<std::string, Tensor> tensors_;
};

}  // namespace

const char* name_of(AdapterMedium medium) { return medium == AdapterMedium::kDisk ? "disk" : "host"; }

AdapterFolders adapters_in(const fs::path& folder) {
  AdapterFolders out;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error))
    if (const fs::path adapter = adapter_folder(it->path()); fs::exists(adapter / "adapter_config.json")) out.emplace(it->path().filename().string(), adapter);
  if (error) fail(folder, fmt::format("can't be read as a folder of adapters: {}", error.message()));
  if (out.empty()) fail(folder, "holds no adapters: give a folder of runs with adapters, or of folders that each hold an adapter_config.json");
  return out;
}

AdapterFolders adapters_named(const std::vector<std::string>& name_is_path) {
  AdapterFolders out;
  for (const std::string& text : name_is_path) {
    const size_t at = text.find('=');
    if (at == std::string::npos || at == 0 || at + 1 == text.size())
      throw ConfigError(fmt::format("adapter '{}' must be NAME=PATH, with PATH a PEFT folder or a run with an adapter", text));
    if (!out.emplace(text.substr(0, at), adapter_folder(text.substr(at + 1))).second)
      throw ConfigError(fmt::format("adapter '{}' is named twice: give one of them another name", text.substr(0, at)));
  }
  return out;
}

AdapterStore::AdapterStore(TransformerConfig base, AdapterBase base_model, AdapterFolders folders, int64_t host_bytes)
    : base_(std::move(base)), base_model_(std::move(base_model)), folders_(std::move(folders)), budget_(host_bytes) {
  if (host_bytes < 0) throw ConfigError(fmt::format("{} bytes of host memory for adapters: give 0 (keep none) or more", host_bytes));
}

AdapterRead AdapterStore::read(const std::string& name) {
  check_name(name);
  {
    const std::lock_guard lock(mutex_);
    if (const auto it = kept_.find(name); it != kept_.end()) {
      it->second.read = ++reads_;
      return {it->second.adapter, AdapterMedium::kHost};
    }
  }
  const auto adapter = from_disk(name);   // meanwhile others may read
  const std::lock_guard lock(mutex_);
  keep(adapter);
  return {adapter, AdapterMedium::kDisk};
}

void AdapterStore::keep(const std::shared_ptr<const HostAdapter>& adapter) {
  if (adapter->bytes > budget_ || kept_.contains(adapter->name)) return;
  while (bytes_ + adapter->bytes > budget_) {
    const auto oldest = std::ranges::min_element(kept_, {}, [](const auto& entry) { return entry.second.read; });
    bytes_ -= oldest->second.adapter->bytes;
    kept_.erase(oldest);
  }
  kept_[adapter->name] = {adapter, ++reads_};
  bytes_ += adapter->bytes;
}

void AdapterStore::check_name(const std::string& name) const {
  if (folders_.contains(name)) return;
  constexpr size_t kMost = 20;
  const std::vector<std::string> known = names();
  throw DataError(fmt::format("adapter '{}' is unknown: there are {}{}", name, known.empty() ? "none" : fmt::format("{}", fmt::join(known | std::views::take(kMost), ", ")),
                              known.size() > kMost ? fmt::format(" and {} more", known.size() - kMost) : ""));
}

std::vector<std::string> AdapterStore::names() const {
  std::vector<std::string> out;
  for (const auto& [name, folder] : folders_) out.push_back(name);
  return out;
}

std::vector<std::string> AdapterStore::in_host_memory() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::string> out;
  for (const auto& [name, kept] : kept_) out.push_back(name);
  return out;
}

int64_t AdapterStore::host_bytes() const {
  const std::lock_guard lock(mutex_);
  return bytes_;
}

void AdapterStore::check(const LoraConfig& config, const fs::path& file) const {
  if (config.rank > kLoraMostRank)
    fail(file, fmt::format("'r' is {}, but adapters are served up to rank {}: train it again with a lower rank", config.rank, kLoraMostRank));
  if (!std::isfinite(static_cast<float>(config.scale()))) fail(file, fmt::format("'lora_alpha' is {}, a scale that no float holds", config.alpha));
  for (const std::string& target : config.targets) {
    LoraConfig alone = config;
    alone.targets = {target};
    const std::vector<std::string> layers = adapted_layers(alone, base_);
    if (layers.empty() || std::ranges::any_of(layers, [](const std::string& layer) { return place_of(layer).layer < 0; }))
      fail(file, fmt::format("'target_modules' names '{}', but what can be served are {} of the base model's {} layers: train the adapter again on these, "
                             "or is it another model's?", target, fmt::join(kServed, ", "), base_.num_layers));
  }
}

AdapterShape AdapterStore::shape(const std::string& name) const {
  check_name(name);
  AdapterShape out;
  {
    const std::lock_guard lock(mutex_);
    if (const auto it = kept_.find(name); it != kept_.end()) {
      out.rank = it->second.adapter->config.rank;
      for (const HostMatrices& m : it->second.adapter->matrices) out.layers.emplace_back(m.in, m.out);
      return out;
    }
  }
  const fs::path& folder = folders_.at(name);
  const LoraConfig config = LoraConfig::read(folder);
  check(config, folder / "adapter_config.json");
  out.rank = config.rank;
  const auto shapes = adapter_shapes(config, base_);
  for (size_t i = 0; i + 1 < shapes.size(); i += 2) out.layers.emplace_back(shapes[i].second[1], shapes[i + 1].second[0]);
  return out;
}

std::shared_ptr<const HostAdapter> AdapterStore::from_disk(const std::string& name) const {
  const fs::path& folder = folders_.at(name);
  auto out = std::make_shared<HostAdapter>();
  out->name = name, out->config = LoraConfig::read(folder);
  check(out->config, folder / "adapter_config.json");
  const fs::path file = weights_of(folder);
  const auto shapes = adapter_shapes(out->config, base_);   // A and B of a layer behind one another
  int64_t most = kMostHeader;
  for (const auto& [tensor, shape] : shapes) most += 4 * numbers_of(shape);
  if (static_cast<int64_t>(fs::file_size(file)) > most)
    fail(file, fmt::format("has {} bytes, but rank {} on the base model needs at most {}: is the adapter another model's?", fs::file_size(file),
                           out->config.rank, most));
  StoredTensors stored(file);
  check_base({out->config.base_model, stored.base_fingerprint()}, base_model_, folder);
  for (size_t i = 0; i + 1 < shapes.size(); i += 2) {
    const auto& [a, a_shape] = shapes[i];
    const auto& [b, b_shape] = shapes[i + 1];
    const Place place = place_of(a.substr(0, a.size() - kA.size()));
    HostMatrices m{place.layer, place.target, a_shape[1], b_shape[0], stored.take(a, a_shape, out->config.rank, out->largest),
                   stored.take(b, b_shape, out->config.rank, out->largest)};
    out->bytes += static_cast<int64_t>(m.a.bytes.size() + m.b.bytes.size());
    out->matrices.push_back(std::move(m));
  }
  stored.check_all_taken();
  return out;
}

}  // namespace trimtab
