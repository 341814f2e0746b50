// The tiny models of golden/make_transformers.py, whose weights are a formula: what tests against Hugging Face's packages share.
#pragma once

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/files.h"
#include "core/safetensors.h"
#include "core/text.h"
#include "policies/language/transformer.h"

namespace trimtab {

// The formula of make_transformers.py.
inline std::vector<float> fill(const std::string& name, int64_t n) {
  const uint32_t h = fnv1a(name);
  std::vector<float> x(n);
  for (int64_t i = 0; i < n; ++i) {
    const auto t = static_cast<double>(i);
    const double wave = std::sin(t * 0.7 + (h % 1000) * 0.01 + t * t * 0.013);
    x[i] = static_cast<float>(name.find("norm") != std::string::npos ? 1 + 0.2 * wave : 0.25 * wave);
  }
  return x;
}

// A Hugging Face folder of the case.
inline std::filesystem::path write_case(const std::filesystem::path& folder, const nlohmann::json& config) {
  std::filesystem::create_directories(folder);
  write_file_atomically(folder / "config.json", config.dump());
  TensorFile file;
  for (const auto& [name, shape] : parameter_shapes(TransformerConfig::read(folder)))
    file.tensors[name] = Tensor::f32(shape, fill(name, c10::multiply_integers(shape)));
  write_safetensors(folder / "model.safetensors", file);
  return folder;
}

// The Python of .deps/peers (scripts/setup --peers) where it has `package`, else empty.
inline std::filesystem::path peers_python(const std::string& package) {
  const std::filesystem::path python = std::filesystem::path(TRIMTAB_SOURCE_DIR) / ".deps/peers/bin/python";
  if (!std::filesystem::exists(python) ||
      std::system(fmt::format("'{}' -c 'import {}' 2>/dev/null", python.string(), package).c_str()) != 0)
    return {};
  return python;
}

// The largest difference of a case's logits, of the rows that its golden file holds, from those of `model` on `tokens`.
inline double largest_error(const std::vector<int64_t>& tokens, const Transformer& model, const nlohmann::json& expected) {
  Trie trie;
  trie.add(-1, static_cast<int64_t>(tokens.size()));
  const at::NoGradGuard no_grad;
  const at::Tensor logits = model.logits(at::tensor(tokens, at::kLong), trie).to(at::kDouble);
  double worst = 0;
  for (size_t r = 0; r < expected["rows"].size(); ++r) {
    const at::Tensor theirs = at::tensor(expected["logits"][r].get<std::vector<double>>(), at::kDouble);
    worst = std::max(worst, (logits[expected["rows"][r].get<int64_t>()] - theirs).abs().max().item<double>());
  }
  return worst;
}

}  // namespace trimtab
