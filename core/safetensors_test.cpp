#include "core/safetensors.h"

#include <gtest/gtest.h>

#include <cstring>

#include "core/error.h"
#include "core/files.h"
#include "core/test_support.h"

namespace trimtab {
namespace {

TensorFile sample() {
  const std::vector<float> floats = {1.5f, -2.0f, 3.25f, 0, 5, 6};
  const std::vector<int64_t> integers = {INT64_MIN, 7};
  const std::vector<uint8_t> bytes = {1, 2, 3};
  TensorFile file;
  file.tensors["weight"] = Tensor::f32({2, 3}, floats);
  file.tensors["steps"] = Tensor::i64({2}, integers);
  file.tensors["blob"] = Tensor::u8({3}, bytes);
  file.tensors["scalar"] = Tensor::f64({}, std::vector<double>{0.1});
  file.tensors["empty"] = Tensor::f32({0, 5}, {});
  file.metadata = {{"producer", "trimtab"}, {"note", "\xc3\xa9"}};
  return file;
}

std::span<const uint8_t> span_of(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

std::string with_header(const std::string& header, const std::string& buffer) {
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + header + buffer;
}

std::string message_of(const std::string& bytes) {
  try {
    parse_safetensors(span_of(bytes), "x.safetensors");
  } catch (const DataError& error) {
    return error.what();
  }
  return "no error";
}

void expect_equal(const TensorFile& a, const TensorFile& b) {
  EXPECT_EQ(a.metadata, b.metadata);
  ASSERT_EQ(a.tensors.size(), b.tensors.size());
  for (const auto& [name, tensor] : a.tensors) {
    const Tensor& other = b.at(name);
    EXPECT_EQ(tensor.dtype, other.dtype) << name;
    EXPECT_EQ(tensor.shape, other.shape) << name;
    EXPECT_EQ(tensor.bytes, other.bytes) << name;
  }
}

TEST(Safetensors, ReadsBackWhatItWrote) {
  const TemporaryFolder folder;
  write_safetensors(folder.path() / "x.safetensors", sample());
  const TensorFile file = read_safetensors(folder.path() / "x.safetensors");
  expect_equal(file, sample());
  EXPECT_EQ(file.at("weight").as_f32()[2], 3.25f);
  EXPECT_EQ(file.at("steps").as_i64()[0], INT64_MIN);
  EXPECT_EQ(file.at("scalar").as_f64()[0], 0.1);
  EXPECT_EQ(file.at("blob").as_u8()[2], 3);
  EXPECT_TRUE(file.at("empty").as_f32().empty());
}

TEST(Safetensors, EqualContentsGiveEqualBytesAndAlignedTensors) {
  EXPECT_EQ(serialise_safetensors(sample()), serialise_safetensors(sample()));
  const std::string bytes = serialise_safetensors(sample());
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof(length));
  EXPECT_EQ(length % 8, 0u);
  const std::string header = bytes.substr(8, length);
  EXPECT_NE(header.find("\"blob\":{\"data_offsets\":[48,51]"), std::string::npos) << header;  // bytes last
}

TEST(Safetensors, EmptyFileOfTensorsIsFine) {
  expect_equal(parse_safetensors(span_of(with_header("{}", "")), "x"), TensorFile{});
}

TEST(Safetensors, WrongRequestsNameTheTensorOrTheType) {
  const TensorFile file = sample();
  EXPECT_THROW(file.at("absent"), DataError);
  EXPECT_THROW(file.at("weight").as_f64(), DataError);
  EXPECT_THROW(read_safetensors("absent.safetensors"), DataError);
}

struct Bad {
  const char* what;
  std::string bytes, message;
};

class BadFile : public testing::TestWithParam<Bad> {};

TEST_P(BadFile, IsRefusedNamingTheDefect) {
  const std::string message = message_of(GetParam().bytes);
  EXPECT_TRUE(message.starts_with("x.safetensors: damaged or not a safetensors file: ")) << message;
  EXPECT_NE(message.find(GetParam().message), std::string::npos) << message;
}

std::string one(const std::string& info, const std::string& buffer) {
  return with_header("{\"a\":" + info + "}", buffer);
}
std::string number(uint64_t value) { return {reinterpret_cast<const char*>(&value), sizeof(value)}; }

const std::vector<Bad>& bad_files() {
  static const std::vector<Bad> all = {
      {"Empty", "", "0 bytes are too few for a header"},
      {"TooSmall", "1234567", "7 bytes are too few"},
      {"HeaderTooLarge", number(100'000'001) + "{}", "more than the format's"},
      {"HeaderHuge", number(~uint64_t{0}) + "{}", "more than the format's"},
      {"HeaderBeyondEnd", number(3) + "{}", "goes beyond the end"},
      {"NoBrace", with_header(" {}", ""), "does not begin with '{'"},
      {"HeaderEmpty", number(0), "does not begin with '{'"},
      {"BadUtf8", with_header("{\"\xff\":1}", ""), "not UTF-8"},
      {"BadJson", with_header("{\"a\":}", ""), "not valid JSON"},
      {"ZeroByte", with_header(std::string("{}\0x", 4), ""), "holds a zero byte"},
      {"JsonTail", with_header("{}x", ""), "not valid JSON"},
      {"LoneSurrogate", with_header("{\"\\ud800\":1}", ""), "not valid JSON"},
      {"TooDeep", with_header("{\"a\":[[[[[[]]]]]]}", ""), "nested too deeply"},
      {"DuplicateTensor",
       with_header(
           R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
           "x"),
       "'a' appears twice"},
      {"DuplicateField", one(R"({"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]})", "x"),
       "'dtype' appears twice"},
      {"DuplicateMetadata", with_header(R"({"__metadata__":{"k":"1","k":"2"}})", ""), "'k' appears twice"},
      {"NotAnObject", one("[1]", ""), "must have dtype, shape and data_offsets"},
      {"FieldMissing", one(R"({"dtype":"U8","shape":[1]})", "x"), "must have dtype, shape and data_offsets"},
      {"FieldTooMany", one(R"({"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1})", "x"),
       "and nothing else"},
      {"UnknownDtype", one(R"({"dtype":"F31","shape":[1],"data_offsets":[0,1]})", "x"),
       "unknown dtype \"F31\""},
      {"DtypeNotText", one(R"({"dtype":32,"shape":[1],"data_offsets":[0,1]})", "x"), "unknown dtype 32"},
      {"ShapeNotList", one(R"({"dtype":"U8","shape":1,"data_offsets":[0,1]})", "x"),
       "shape of tensor 'a' is not a list"},
      {"ShapeNegative", one(R"({"dtype":"U8","shape":[-1],"data_offsets":[0,1]})", "x"),
       "whole numbers from 0"},
      {"ShapeFraction", one(R"({"dtype":"U8","shape":[1.0],"data_offsets":[0,1]})", "x"),
       "whole numbers from 0"},
      {"ShapeOverflow", one(R"({"dtype":"F64","shape":[4294967296,4294967296],"data_offsets":[0,0]})", ""),
       "too large"},
      {"ShapeTooLarge", one(R"({"dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,1]})", "x"),
       "too large"},
      {"OffsetsNotTwo", one(R"({"dtype":"U8","shape":[1],"data_offsets":[0]})", "x"), "not two numbers"},
      {"OffsetsNegative", one(R"({"dtype":"U8","shape":[1],"data_offsets":[-1,0]})", "x"),
       "whole numbers from 0"},
      {"OffsetsReversed", one(R"({"dtype":"U8","shape":[1],"data_offsets":[1,0]})", "x"),
       "ends before it begins"},
      {"SizeMismatch", one(R"({"dtype":"F32","shape":[1],"data_offsets":[0,1]})", "x"), "ask for 4"},
      {"BufferIncomplete", one(R"({"dtype":"U8","shape":[2],"data_offsets":[0,2]})", "x"), "cut short"},
      {"BufferTrailing", one(R"({"dtype":"U8","shape":[1],"data_offsets":[0,1]})", "xy"),
       "1 bytes follow the last tensor"},
      {"Overlap",
       with_header(
           R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
           "xyz"),
       "'b' overlaps"},
      {"Hole",
       with_header(
           R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}})",
           "xyz"),
       "1 unused bytes before tensor 'b'"},
      {"MetadataNotMap", with_header(R"({"__metadata__":[]})", ""), "__metadata__ is not a map"},
      {"MetadataNotText", with_header(R"({"__metadata__":{"k":1}})", ""), "__metadata__ 'k' is not text"},
  };
  return all;
}
INSTANTIATE_TEST_SUITE_P(Safetensors, BadFile, testing::ValuesIn(bad_files()),
                         [](const auto& info) { return std::string(info.param.what); });

TEST(Safetensors, EveryTruncationIsRefused) {
  const std::string bytes = serialise_safetensors(sample());
  for (size_t length = 0; length < bytes.size(); ++length) {
    EXPECT_NE(message_of(bytes.substr(0, length)), "no error") << length;
  }
}

// A flipped bit may still give a valid file (another name, another metadata text); it must never crash or
// read elsewhere.
TEST(Safetensors, EveryFlippedHeaderBitEndsInAFileOrAnError) {
  const std::string good = serialise_safetensors(sample());
  uint64_t length = 0;
  std::memcpy(&length, good.data(), sizeof(length));
  size_t refused = 0;
  for (size_t at = 0; at < 8 + length; ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string bytes = good;
      bytes[at] = static_cast<char>(bytes[at] ^ (1 << bit));
      try {
        const TensorFile file = parse_safetensors(span_of(bytes), "x");
        EXPECT_FALSE(file.tensors.empty());
      } catch (const DataError&) {
        ++refused;
      }
    }
  }
  EXPECT_GT(refused, length) << "hardly any damage was noticed";
}

}  // namespace
}  // namespace trimtab
