// Our safetensors against the reference implementation, PyPI safetensors, both ways.
#include "core/safetensors.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files.h"
#include "core/test_support.h"
#include "tests/oracle/python.h"

namespace trimtab {
namespace {

class SafetensorsOracle : public testing::Test {
 protected:
  void SetUp() override {
    if (!oracle_has("safetensors.numpy"))
      GTEST_SKIP() << ".deps/oracle has no safetensors: run scripts/setup";
  }
  TemporaryFolder folder_;
};

TEST_F(SafetensorsOracle, TheReferenceReadsWhatWeWrite) {
  TensorFile file;
  file.tensors["a.f32"] =
      Tensor::f32({2, 2}, std::vector<float>{1.5f, -0.0f, 1e-45f, std::numeric_limits<float>::max()});
  file.tensors["b.f64"] = Tensor::f64({}, std::vector<double>{0.1});
  file.tensors["c.i64"] = Tensor::i64({3}, std::vector<int64_t>{INT64_MIN, 0, INT64_MAX});
  file.tensors["d.u8"] = Tensor::u8({1, 3}, std::vector<uint8_t>{0, 127, 255});
  file.tensors["e \xc3\xa9 \"quoted\""] = Tensor::f32({0, 4}, {});
  file.metadata = {{"spec", "{\"nested\": \"json\"}"}, {"note", "\xe2\x82\xac"}};
  write_safetensors(folder_.path() / "ours.safetensors", file);
  const std::string answer = run_oracle(R"(
import json, sys
from safetensors import safe_open
out = {}
with safe_open(sys.argv[1] + "/ours.safetensors", framework="numpy") as f:
    out["metadata"] = f.metadata()
    for name in f.keys():
        t = f.get_tensor(name)
        out[name] = [str(t.dtype), list(t.shape), t.tobytes().hex()]
print(json.dumps(out))
)",
                                        folder_.path());
  const nlohmann::json read = nlohmann::json::parse(answer);
  EXPECT_EQ(read["metadata"], nlohmann::json(file.metadata));
  ASSERT_EQ(read.size(), file.tensors.size() + 1);
  const std::map<std::string, std::string> numpy_names = {
      {"F32", "float32"}, {"F64", "float64"}, {"I64", "int64"}, {"U8", "uint8"}};
  for (const auto& [name, tensor] : file.tensors) {
    std::string hex;
    for (const uint8_t byte : tensor.bytes) hex += fmt::format("{:02x}", byte);
    EXPECT_EQ(read[name], nlohmann::json({numpy_names.at(tensor.dtype), tensor.shape, hex})) << name;
  }
}

TEST_F(SafetensorsOracle, WeReadWhatTheReferenceWrites) {
  run_oracle(R"(
import sys
import numpy as np
from safetensors.numpy import save_file
t = {"x." + d: (np.arange(12).reshape(3, 4) % 2).astype(d) for d in
     ["bool", "uint8", "int8", "int16", "uint16", "float16", "int32", "uint32", "float32", "float64", "int64", "uint64"]}
t["scalar"] = np.array(0.1)
t["empty"] = np.zeros((0, 7), np.float32)
save_file(t, sys.argv[1] + "/theirs.safetensors", metadata={"k": "v \u20ac"})
)",
             folder_.path());
  const TensorFile file = read_safetensors(folder_.path() / "theirs.safetensors");
  ASSERT_EQ(file.tensors.size(), 14u);
  EXPECT_EQ(file.metadata, (std::map<std::string, std::string>{{"k", "v \xe2\x82\xac"}}));
  const std::map<std::string, std::pair<std::string, size_t>> dtypes = {
      {"bool", {"BOOL", 1}},   {"uint8", {"U8", 1}},    {"int8", {"I8", 1}},   {"int16", {"I16", 2}},
      {"uint16", {"U16", 2}},  {"float16", {"F16", 2}}, {"int32", {"I32", 4}}, {"uint32", {"U32", 4}},
      {"float32", {"F32", 4}}, {"float64", {"F64", 8}}, {"int64", {"I64", 8}}, {"uint64", {"U64", 8}}};
  for (const auto& [numpy_name, expected] : dtypes) {
    const Tensor& tensor = file.at("x." + numpy_name);
    EXPECT_EQ(tensor.dtype, expected.first);
    EXPECT_EQ(tensor.shape, (std::vector<int64_t>{3, 4})) << numpy_name;
    EXPECT_EQ(tensor.bytes.size(), 12 * expected.second) << numpy_name;
  }
  for (int i = 0; i < 12; ++i) {
    EXPECT_EQ(file.at("x.float32").as_f32()[i], static_cast<float>(i % 2));
    EXPECT_EQ(file.at("x.int64").as_i64()[i], i % 2);
  }
  EXPECT_EQ(file.at("scalar").as_f64()[0], 0.1);
  EXPECT_EQ(file.at("empty").shape, (std::vector<int64_t>{0, 7}));
}

// Our reader is the stricter one: what the reference refuses, so do we.
TEST_F(SafetensorsOracle, WeRefuseWhatTheReferenceRefuses) {
  const std::string answer = run_oracle(R"(
import json, sys
import numpy as np
from safetensors.numpy import load, save
good = bytearray(save({"a": np.arange(3, dtype=np.float32), "b": np.arange(2, dtype=np.int64)}, metadata={"k": "v"}))
header = 8 + int.from_bytes(good[:8], "little")
refused = []
for at in range(header):
    for bit in range(8):
        bad = bytearray(good)
        bad[at] ^= 1 << bit
        try:
            load(bytes(bad))
        except Exception:
            refused.append([at, bit])
open(sys.argv[1] + "/good.safetensors", "wb").write(good)
print(json.dumps(refused))
)",
                                        folder_.path());
  const std::string good = read_file(folder_.path() / "good.safetensors");
  const nlohmann::json refused = nlohmann::json::parse(answer);
  ASSERT_GT(refused.size(), 100u);
  for (const auto& flip : refused) {
    std::string bytes = good;
    const size_t at = flip[0];
    bytes[at] = static_cast<char>(bytes[at] ^ (1 << flip[1].get<int>()));
    const std::span<const uint8_t> view(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
    EXPECT_THROW(parse_safetensors(view, "flipped"), DataError)
        << "byte " << at << ", bit " << flip[1] << ": " << bytes.substr(8, 200);
  }
}

}  // namespace
}  // namespace trimtab
