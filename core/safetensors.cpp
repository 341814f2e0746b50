#include "core/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files.h"
#include "core/json_shape.h"
#include "core/text.h"

namespace trimtab {
namespace {

using Json = nlohmann::json;
static_assert(std::endian::native == std::endian::little, "tensors are kept as they lie in the file");

constexpr size_t kLengthBytes = 8;                 // the header's length comes first, as uint64
constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the limit of the reference implementation
constexpr const char* kMetadataKey = "__metadata__";

const std::map<std::string, size_t>& dtype_bytes() {
  static const std::map<std::string, size_t> kSizes = {
      {"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E5M2", 1}, {"F8_E4M3", 1}, {"F8_E8M0", 1},
      {"I16", 2},  {"U16", 2}, {"F16", 2}, {"BF16", 2},    {"I32", 4},     {"U32", 4},
      {"F32", 4},  {"F64", 8}, {"I64", 8}, {"U64", 8},     {"C64", 8}};
  return kSizes;
}

// Bytes of a tensor, or nothing when a size is negative or the product does not fit.
bool checked_bytes(const std::string& dtype, const std::vector<int64_t>& shape, uint64_t& bytes) {
  bytes = dtype_bytes().at(dtype);
  for (const int64_t size : shape) {
    if (size < 0 || __builtin_mul_overflow(bytes, static_cast<uint64_t>(size), &bytes)) return false;
  }
  return true;
}

// Where one tensor lies in the buffer.
struct Extent {
  uint64_t begin = 0, end = 0;
  std::string name;
};

class Parser {
 public:
  Parser(std::span<const uint8_t> bytes, const std::string& name) : bytes_(bytes), name_(name) {}

  TensorFile parse() {
    const Json header = parse_header();
    for (const auto& [key, value] : header.items()) {
      if (key == kMetadataKey) {
        read_metadata(value);
      } else {
        read_tensor(key, value);
      }
    }
    check_cover();
    return std::move(file_);
  }

 private:
  [[noreturn]] void fail(const std::string& defect) const {
    throw DataError(fmt::format("{}: damaged or not a safetensors file: {}", name_, defect));
  }

  Json parse_header() {
    if (bytes_.size() < kLengthBytes) fail(fmt::format("{} bytes are too few for a header", bytes_.size()));
    uint64_t length = 0;
    std::memcpy(&length, bytes_.data(), kLengthBytes);
    if (length > kMaxHeaderBytes)
      fail(fmt::format("a header of {} bytes is more than the format's {}", length, kMaxHeaderBytes));
    if (length > bytes_.size() - kLengthBytes)
      fail(fmt::format("the header of {} bytes goes beyond the end of the file", length));
    const std::string_view text(reinterpret_cast<const char*>(bytes_.data()) + kLengthBytes, length);
    buffer_ = bytes_.subspan(kLengthBytes + length);
    if (text.empty() || text[0] != '{') fail("the header does not begin with '{'");
    if (!is_utf8(text)) fail("the header is not UTF-8");
    // The JSON parser takes a zero byte for the end of its input and would ignore what follows.
    if (text.find('\0') != std::string_view::npos) fail("the header holds a zero byte");
    return parse_json(text);
  }

  Json parse_json(std::string_view text) const {
    constexpr size_t kMaxDepth = 3;  // header, tensor, shape
    // What a value of the header takes at most while it is read, and how much of it a file can justify.
    constexpr size_t kBytesPerValue = 320, kAlways = size_t{12} << 20;
    if (json_shape(text).values > (bytes_.size() + kAlways) / kBytesPerValue)
      fail("the header describes more than a file of this size can hold");
    return parse_checked_json(text, kMaxDepth, [&](JsonFault fault, const std::string& detail) {
      if (fault == JsonFault::kTooDeep) fail("the header is nested too deeply");
      if (fault == JsonFault::kKeyTwice) fail(fmt::format("key '{}' appears twice in the header", detail));
      fail(fmt::format("the header is not valid JSON: {}", detail));
    });
  }

  void read_metadata(const Json& value) {
    if (!value.is_object()) fail("__metadata__ is not a map");
    for (const auto& [key, text] : value.items()) {
      if (!text.is_string()) fail(fmt::format("__metadata__ '{}' is not text", key));
      file_.metadata[key] = text.get<std::string>();
    }
  }

  uint64_t unsigned_of(const Json& value, const std::string& tensor, const char* what) const {
    if (!value.is_number_unsigned())
      fail(fmt::format("{} of tensor '{}' is not a list of whole numbers from 0", what, tensor));
    return value.get<uint64_t>();
  }

  void read_tensor(const std::string& name, const Json& info) {
    const bool whole = info.is_object() && info.size() == 3 && info.contains("dtype") &&
                       info.contains("shape") && info.contains("data_offsets");
    if (!whole)
      fail(fmt::format("tensor '{}' must have dtype, shape and data_offsets, and nothing else", name));
    const Json &dtype = info["dtype"], &shape = info["shape"], &offsets = info["data_offsets"];
    if (!dtype.is_string() || !dtype_bytes().contains(dtype.get<std::string>()))
      fail(fmt::format("tensor '{}' has the unknown dtype {}", name, dtype.dump()));
    if (!shape.is_array()) fail(fmt::format("shape of tensor '{}' is not a list", name));
    if (!offsets.is_array() || offsets.size() != 2)
      fail(fmt::format("data_offsets of tensor '{}' are not two numbers", name));

    Tensor tensor;
    tensor.dtype = dtype.get<std::string>();
    for (const Json& size : shape) {
      const uint64_t value = unsigned_of(size, name, "shape");
      if (value > INT64_MAX) fail(fmt::format("shape of tensor '{}' is too large", name));
      tensor.shape.push_back(static_cast<int64_t>(value));
    }
    const Extent extent{unsigned_of(offsets[0], name, "data_offsets"),
                        unsigned_of(offsets[1], name, "data_offsets"), name};
    if (extent.begin > extent.end) fail(fmt::format("tensor '{}' ends before it begins", name));
    if (extent.end > buffer_.size())
      fail(fmt::format("tensor '{}' ends at byte {} of {}: the file is cut short", name, extent.end,
                       buffer_.size()));
    uint64_t expected = 0;
    if (!checked_bytes(tensor.dtype, tensor.shape, expected))
      fail(fmt::format("shape of tensor '{}' is too large", name));
    if (expected != extent.end - extent.begin)
      fail(fmt::format("tensor '{}' has {} bytes where its shape and dtype ask for {}", name,
                       extent.end - extent.begin, expected));
    extents_.push_back(extent);
    file_.tensors.emplace(name, std::move(tensor));
  }

  // Every byte of the buffer belongs to exactly one tensor. Bytes are copied only after that is known, so
  // that many tensors cannot claim the same bytes and multiply the memory.
  void check_cover() {
    std::sort(extents_.begin(), extents_.end(), [](const Extent& a, const Extent& b) {
      return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
    });
    uint64_t position = 0;
    for (const Extent& extent : extents_) {
      if (extent.begin < position) fail(fmt::format("tensor '{}' overlaps the one before it", extent.name));
      if (extent.begin > position)
        fail(fmt::format("{} unused bytes before tensor '{}'", extent.begin - position, extent.name));
      position = extent.end;
    }
    if (position != buffer_.size())
      fail(fmt::format("{} bytes follow the last tensor", buffer_.size() - position));
    for (const Extent& extent : extents_) {
      const auto bytes = buffer_.subspan(extent.begin, extent.end - extent.begin);
      file_.tensors.at(extent.name).bytes.assign(bytes.begin(), bytes.end());
    }
  }

  std::span<const uint8_t> bytes_, buffer_;
  const std::string& name_;
  TensorFile file_;
  std::vector<Extent> extents_;
};

template <class T>
Tensor make_tensor(const char* dtype, std::vector<int64_t> shape, std::span<const T> values) {
  uint64_t bytes = 0;
  TT_CHECK(checked_bytes(dtype, shape, bytes));
  TT_CHECK_EQ(bytes, values.size_bytes());
  const auto* first = reinterpret_cast<const uint8_t*>(values.data());
  return {dtype, std::move(shape), {first, first + values.size_bytes()}};
}

template <class T>
std::span<const T> view(const Tensor& tensor, const char* dtype) {
  if (tensor.dtype != dtype)
    throw DataError(fmt::format("a tensor has dtype {} where {} is expected", tensor.dtype, dtype));
  TT_CHECK_EQ(tensor.bytes.size() % sizeof(T), 0u);
  return {reinterpret_cast<const T*>(tensor.bytes.data()), tensor.bytes.size() / sizeof(T)};
}

}  // namespace

Tensor Tensor::f32(std::vector<int64_t> shape, std::span<const float> values) {
  return make_tensor("F32", std::move(shape), values);
}
Tensor Tensor::f64(std::vector<int64_t> shape, std::span<const double> values) {
  return make_tensor("F64", std::move(shape), values);
}
Tensor Tensor::i64(std::vector<int64_t> shape, std::span<const int64_t> values) {
  return make_tensor("I64", std::move(shape), values);
}
Tensor Tensor::u8(std::vector<int64_t> shape, std::span<const uint8_t> values) {
  return make_tensor("U8", std::move(shape), values);
}
std::span<const float> Tensor::as_f32() const { return view<float>(*this, "F32"); }
std::span<const double> Tensor::as_f64() const { return view<double>(*this, "F64"); }
std::span<const int64_t> Tensor::as_i64() const { return view<int64_t>(*this, "I64"); }
std::span<const uint8_t> Tensor::as_u8() const { return view<uint8_t>(*this, "U8"); }

const Tensor& TensorFile::at(const std::string& name) const {
  if (const auto it = tensors.find(name); it != tensors.end()) return it->second;
  throw DataError(fmt::format("there is no tensor '{}' among the {} of this file", name, tensors.size()));
}

TensorFile parse_safetensors(std::span<const uint8_t> bytes, const std::string& name) {
  return Parser(bytes, name).parse();
}

TensorFile read_safetensors(const std::filesystem::path& file) {
  const std::string bytes = read_file(file);
  return parse_safetensors({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}, file.string());
}

// The widest dtypes come first and the header is padded, so that every tensor is aligned for who maps the
// file.
std::string serialise_safetensors(const TensorFile& file) {
  std::vector<const std::pair<const std::string, Tensor>*> order;
  for (const auto& entry : file.tensors) order.push_back(&entry);
  const auto width = [](const auto* entry) { return dtype_bytes().at(entry->second.dtype); };
  std::stable_sort(order.begin(), order.end(),
                   [&](const auto* a, const auto* b) { return width(a) > width(b); });

  Json header = Json::object();
  if (!file.metadata.empty()) header[kMetadataKey] = file.metadata;
  std::string buffer;
  for (const auto* entry : order) {
    const auto& [name, tensor] = *entry;
    uint64_t bytes = 0;
    TT_CHECK(name != kMetadataKey && checked_bytes(tensor.dtype, tensor.shape, bytes), "tensor '{}'", name);
    TT_CHECK_EQ(bytes, tensor.bytes.size());
    header[name] = {{"dtype", tensor.dtype},
                    {"shape", tensor.shape},
                    {"data_offsets", {buffer.size(), buffer.size() + bytes}}};
    buffer.append(tensor.bytes.begin(), tensor.bytes.end());
  }
  std::string text = header.dump();
  text.append((kLengthBytes - text.size() % kLengthBytes) % kLengthBytes, ' ');
  TT_CHECK_LE(text.size(), kMaxHeaderBytes);
  const uint64_t length = text.size();
  std::string out(reinterpret_cast<const char*>(&length), sizeof(length));
  return out + text + buffer;
}

void write_safetensors(const std::filesystem::path& file, const TensorFile& contents) {
  write_file_atomically(file, serialise_safetensors(contents));
}

}  // namespace trimtab
