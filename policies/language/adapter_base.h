// Which base model an adapter belongs to. Shapes don't tell: all models of one architecture share them.
//
// Adapters that are written here carry a fingerprint of the base weights they were trained beside, in the metadata of their safetensors file,
// which PEFT passes over. It decides wherever the base's is known, whatever the two are called: folders move, and a run trains on under its name.
// Without one (PEFT writes none) names are compared, where both are names on Hugging Face's hub.
#pragma once

#include <filesystem>
#include <string>

#include "core/safetensors.h"
#include "policies/language/transformer.h"

namespace trimtab {

// A base model; either may be empty, for unknown.
struct AdapterBase {
  std::string name;          // a path, or a name on the hub
  std::string fingerprint;
};

inline constexpr const char* kBaseFingerprint = "trimtab.base_fingerprint";   // the metadata's key

// Of all weights but the adapter's, rounded to bf16: a base that was saved again in bf16 is the same base.
std::string fingerprint_of(const Transformer& base);
std::string fingerprint_in(const TensorFile& adapter);   // empty: none

// "Qwen/Qwen3-0.6B" of that name, or of a path in Hugging Face's cache (models--Qwen--Qwen3-0.6B/...); empty for any other path.
std::string hub_name(const std::string& name);

// DataError naming the file in `folder`, both models and the cure when the adapter there says that its base is another one.
void check_base(const AdapterBase& said, const AdapterBase& base, const std::filesystem::path& folder);

// The PEFT folder that a path means: RUN/adapter of a run, else the path itself.
std::filesystem::path adapter_folder(const std::filesystem::path& path);

// Transformer::with_adapter(adapter_folder(path)), which compares fingerprints; names are compared too, and what is wrong names the model.
Transformer read_adapter(const Transformer& base, const std::string& base_name, const std::filesystem::path& path);

}  // namespace trimtab
