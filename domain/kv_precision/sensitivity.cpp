#include "domain/kv_precision/sensitivity.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>

#include "core/error.h"
#include "core/safetensors.h"

namespace trimtab {
namespace {

constexpr int64_t kMostUnits = 1 << 16, kMostPairs = 64;

int64_t whole_number(const TensorFile& contents, const std::string& key, int64_t most, const std::string& file) {
  const auto it = contents.metadata.find(key);
  int64_t out = 0;
  const bool there = it != contents.metadata.end();
  const char* end = there ? it->second.data() + it->second.size() : nullptr;
  if (!there || std::from_chars(it->second.data(), end, out).ptr != end || out < 1 || out > most)
    throw DataError(fmt::format("{}: metadata '{}' is {}, expected a number from 1 to {}: was it made by `trimtab measure`?", file, key,
                                there ? "'" + it->second + "'" : "missing", most));
  return out;
}

void read_pairs(const TensorFile& contents, const std::string& file, KvSensitivity& out) {
  const auto key = contents.at("key_bits").as_u8(), value = contents.at("value_bits").as_u8();
  const auto bytes = contents.at("page_bytes").as_i64();
  const auto is_width = [](int b) { return b == 0 || b == 2 || b == 4 || b == 8 || b == 16; };
  if (key.empty() || key.size() > kMostPairs || value.size() != key.size() || bytes.size() != key.size())
    throw DataError(fmt::format("{}: key_bits, value_bits and page_bytes have {}, {} and {} entries, expected equally many, 1 to {}", file, key.size(),
                                value.size(), bytes.size(), kMostPairs));
  for (size_t p = 0; p < key.size(); ++p) {
    if (!is_width(key[p]) || !is_width(value[p]) || bytes[p] < 0 || bytes[p] > (int64_t{1} << 32))
      throw DataError(fmt::format("{}: pair {} has {} and {} bits and {} bytes a page: widths are 0, 2, 4, 8 or 16", file, p, key[p], value[p], bytes[p]));
    out.pairs.push_back({key[p], value[p]}), out.page_bytes.push_back(bytes[p]);
  }
}

}  // namespace

double KvSensitivity::bits(int64_t bytes) const {
  return 8.0 * static_cast<double>(bytes) / static_cast<double>(2 * layers * kv_heads * head_dim * page_tokens);
}
int64_t KvSensitivity::bytes_at(double bits) const {
  return static_cast<int64_t>(std::floor(bits * static_cast<double>(2 * layers * kv_heads * head_dim * page_tokens) / 8 + 1e-6));
}

const std::string& measured_fact(const KvSensitivity& t, const std::string& name, const std::string& file) {
  const auto it = t.measured.find(name);
  if (it == t.measured.end()) throw DataError(fmt::format("{}: does not say its {}: make it with `trimtab measure`", file, name));
  return it->second;
}

KvSensitivity read_sensitivity(const std::filesystem::path& file) {
  const TensorFile contents = read_safetensors(file);
  const std::string name = file.string();
  KvSensitivity out;
  out.layers = whole_number(contents, "layers", kMostUnits, name), out.kv_heads = whole_number(contents, "kv_heads", kMostUnits, name);
  out.head_dim = whole_number(contents, "head_dim", 512, name), out.page_tokens = whole_number(contents, "page_tokens", 256, name);
  try {
    read_pairs(contents, name, out);
    const Tensor& kl = contents.at("kl");
    const auto values = kl.as_f32();
    const int64_t pairs = static_cast<int64_t>(out.pairs.size()), units = kl.shape.empty() ? 0 : kl.shape[0];
    out.per_head = units != out.layers;
    if (kl.shape.size() != 2 || units != out.units() || kl.shape[1] != pairs)
      throw DataError(fmt::format("'kl' has {} numbers, expected [{} layers or {} KV heads, {} pairs]", values.size(), out.layers, out.layers * out.kv_heads, pairs));
    for (int64_t u = 0; u < units; ++u)
      for (int64_t p = 0; p < pairs; ++p) {
        const double x = values[u * pairs + p];
        if (!(x >= 0) || std::isinf(x)) throw DataError(fmt::format("'kl' of unit {}, pair {} is {}, expected a number from 0", u, p, x));
        if (p == 0) out.kl.emplace_back();
        out.kl.back().push_back(x);
      }
    if (contents.tensors.contains("page_ns")) {
      for (const float ns : contents.at("page_ns").as_f32()) out.page_ns.push_back(ns);
      const auto bad = [](double ns) { return !(ns >= 0) || std::isinf(ns); };
      if (static_cast<int64_t>(out.page_ns.size()) != pairs || std::any_of(out.page_ns.begin(), out.page_ns.end(), bad))
        throw DataError(fmt::format("'page_ns' has {} entries, expected {} times from 0, one for each pair", out.page_ns.size(), pairs));
    }
  } catch (const DataError& e) {
    const std::string what = e.what();
    throw DataError(what.starts_with(name) ? what : name + ": " + what);
  }
  out.measured = contents.metadata;
  return out;
}

void write_sensitivity(const KvSensitivity& table, const std::filesystem::path& file) {
  TensorFile out;
  std::vector<float> kl;
  std::vector<uint8_t> key, value;
  for (const auto& row : table.kl)
    for (const double x : row) kl.push_back(static_cast<float>(x));
  for (const KvBits b : table.pairs) key.push_back(b.key), value.push_back(b.value);
  const int64_t pairs = static_cast<int64_t>(table.pairs.size());
  out.tensors["kl"] = Tensor::f32({table.units(), pairs}, kl);
  out.tensors["key_bits"] = Tensor::u8({pairs}, key), out.tensors["value_bits"] = Tensor::u8({pairs}, value);
  out.tensors["page_bytes"] = Tensor::i64({pairs}, table.page_bytes);
  if (!table.page_ns.empty())
    out.tensors["page_ns"] = Tensor::f32({pairs}, std::vector<float>(table.page_ns.begin(), table.page_ns.end()));
  out.metadata = table.measured;
  out.metadata["layers"] = std::to_string(table.layers), out.metadata["kv_heads"] = std::to_string(table.kv_heads);
  out.metadata["head_dim"] = std::to_string(table.head_dim), out.metadata["page_tokens"] = std::to_string(table.page_tokens);
  write_safetensors(file, out);
}

}  // namespace trimtab
