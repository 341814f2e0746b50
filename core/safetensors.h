// safetensors: strict reader and writer (format: github.com/huggingface/safetensors, README "Format").
// A hostile or damaged file is a DataError naming file and defect; nothing is allocated beyond what the file's size justifies.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace trimtab {

struct Tensor {
  std::string dtype;            // "F32", "F64", "I64", "I32", "U8", ... as in the file
  std::vector<int64_t> shape;
  std::vector<uint8_t> bytes;   // row-major, little endian

  static Tensor f32(std::vector<int64_t> shape, std::span<const float> values);
  static Tensor f64(std::vector<int64_t> shape, std::span<const double> values);
  static Tensor i64(std::vector<int64_t> shape, std::span<const int64_t> values);
  static Tensor u8(std::vector<int64_t> shape, std::span<const uint8_t> values);
  std::span<const float> as_f32() const;    // DataError when the dtype differs
  std::span<const double> as_f64() const;
  std::span<const int64_t> as_i64() const;
  std::span<const uint8_t> as_u8() const;
};

struct TensorFile {
  std::map<std::string, Tensor> tensors;              // sorted by name, so equal contents give equal bytes
  std::map<std::string, std::string> metadata;        // "__metadata__": string to string
  const Tensor& at(const std::string& name) const;    // DataError naming the tensor when absent
};

TensorFile read_safetensors(const std::filesystem::path& file);
TensorFile parse_safetensors(std::span<const uint8_t> bytes, const std::string& name);
std::string serialise_safetensors(const TensorFile& file);
// Written beside, flushed to disk and renamed: the old file or the new one, never half of it.
void write_safetensors(const std::filesystem::path& file, const TensorFile& contents);

}  // namespace trimtab
