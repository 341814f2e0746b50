// Adapters on disk and in host memory: PEFT's folders (adapter_config.json beside adapter_model.safetensors), checked against the base
// model that serves them, and the last ones read kept as they were stored, within a budget. The third tier, memory that kernels read
// from, is AdapterPool (adapter_pool.h).
//
// Whatever is wrong with a folder is a DataError naming file, key or tensor, and cure: another base model (by its weights' fingerprint, by its
// name on Hugging Face's hub, by shapes; policies/language/adapter_base.h),
// a rank above kLoraMostRank, layers that can't be served (lm_head, embeddings, others), files that are missing, cut short or not
// safetensors, tensors that are missing, too many, doubled, of another shape, not f16, bf16 or f32, or not finite.
#pragma once

#include <bit>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/half.h"
#include "core/safetensors.h"
#include "engine/adapters/adapter_weights.h"
#include "policies/language/adapter_base.h"

namespace trimtab {

// A linear layer's lora_A [rank, in] and lora_B [out, rank] as they were stored, in f16, bf16 or f32.
struct HostMatrices {
  int64_t layer = 0;
  LoraTarget target = LoraTarget::kQuery;
  int64_t in = 0, out = 0;
  Tensor a, b;
};

// A checked adapter.
struct HostAdapter {
  std::string name;
  LoraConfig config;
  std::vector<HostMatrices> matrices;
  int64_t bytes = 0;    // of all tensors
  float largest = 0;    // number by size
};

// What an adapter's configuration says of its matrices.
struct AdapterShape {
  int64_t rank = 0;
  std::vector<std::pair<int64_t, int64_t>> layers;   // in and out of those adapted, in the order of HostAdapter::matrices
};

// f(number): number(i) is the i-th number of a tensor of F32, F16 or BF16.
template <class F>
void with_numbers(const Tensor& t, F&& f) {
  const auto* halves = reinterpret_cast<const uint16_t*>(t.bytes.data());
  if (t.dtype == "F32") return f([floats = reinterpret_cast<const float*>(t.bytes.data())](int64_t i) { return floats[i]; });
  if (t.dtype == "F16") return f([halves](int64_t i) { return half_to_float(halves[i]); });
  TT_CHECK(t.dtype == "BF16", "{}", t.dtype);
  f([halves](int64_t i) { return std::bit_cast<float>(uint32_t{halves[i]} << 16); });
}

enum class AdapterMedium { kDisk, kHost };
const char* name_of(AdapterMedium medium);   // "disk", "host"

struct AdapterRead {
  std::shared_ptr<const HostAdapter> adapter;
  AdapterMedium medium = AdapterMedium::kDisk;   // it came from
};

using AdapterFolders = std::map<std::string, std::filesystem::path>;
AdapterFolders adapters_in(const std::filesystem::path& folder);              // every folder in it with an adapter_config.json, or run with an adapter, by its name; DataError if none
AdapterFolders adapters_named(const std::vector<std::string>& name_is_path);  // of "NAME=PATH"; ConfigError

// Thread-safe. What a folder holds is read anew only once it has left host memory: folders should not change while they are served.
class AdapterStore {
 public:
  // `base_model` is compared with what adapters say of theirs; where that says nothing, shapes alone show whether they belong together.
  // `host_bytes`: tensors kept in host memory, the least recently read leave first. 0 keeps none.
  AdapterStore(TransformerConfig base, AdapterBase base_model, AdapterFolders folders, int64_t host_bytes);

  AdapterRead read(const std::string& name);          // DataError
  AdapterShape shape(const std::string& name) const;  // reads no tensors; DataError
  void check_name(const std::string& name) const;     // DataError with the names there are
  std::vector<std::string> names() const;
  std::vector<std::string> in_host_memory() const;
  int64_t host_bytes() const;                         // held now
  const TransformerConfig& base() const { return base_; }

 private:
  struct Kept {
    std::shared_ptr<const HostAdapter> adapter;
    int64_t read = 0;   // when last, in reads
  };
  std::shared_ptr<const HostAdapter> from_disk(const std::string& name) const;
  void check(const LoraConfig& config, const std::filesystem::path& file) const;
  void keep(const std::shared_ptr<const HostAdapter>& adapter);   // under the mutex

  const TransformerConfig base_;
  const AdapterBase base_model_;
  const AdapterFolders folders_;
  const int64_t budget_;
  mutable std::mutex mutex_;
  std::map<std::string, Kept> kept_;
  int64_t bytes_ = 0, reads_ = 0;
};

}  // namespace trimtab
