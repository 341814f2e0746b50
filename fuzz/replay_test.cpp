// Every input of fuzz/corpus, past findings among them, and inputs made to cost memory, through the targets of the fuzzer: what clang
// finds once, any compiler checks ever after.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "core/random.h"
#include "core/test_support.h"
#include "fuzz/target.h"

namespace trimtab::fuzz {

extern const Target config, overrides, safetensors, recording, artefact, tokenizer, adapter, kv_recipe, kv_formats, draft_schedule, draft_formats, tables,
    trace;

namespace {

namespace fs = std::filesystem;
const std::vector<const Target*> kTargets = {&config,    &overrides,  &safetensors,    &recording,     &artefact, &tokenizer, &adapter,
                                             &kv_recipe, &kv_formats, &draft_schedule, &draft_formats, &tables,   &trace};

std::vector<uint8_t> bytes_of(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}
std::vector<uint8_t> bytes_of(const std::string& text) { return {text.begin(), text.end()}; }

std::vector<fs::path> corpus(const Target& target) {
  std::vector<fs::path> out;
  for (const auto& entry : fs::directory_iterator(fs::path(TRIMTAB_SOURCE_DIR) / "fuzz/corpus" / target.name)) out.push_back(entry.path());
  std::sort(out.begin(), out.end());
  return out;
}

class FuzzCorpus : public testing::TestWithParam<const Target*> {};

TEST_P(FuzzCorpus, IsReadOrRefused) {
  const std::vector<fs::path> files = corpus(*GetParam());
  EXPECT_GE(files.size(), 3u);
  for (const fs::path& file : files) EXPECT_NO_THROW(run_bounded(*GetParam(), bytes_of(file))) << file;
}

// A few of the fuzzer's mutations on every input, so that a build without clang tries some as well.
TEST_P(FuzzCorpus, MutationsAreReadOrRefused) {
  Draws draws(test_seed(), Stream::kTest);
  const int rounds = GetParam() == &trace ? 3 : 100;
  for (const fs::path& file : corpus(*GetParam())) {
    for (int round = 0; round < rounds; ++round) {
      SCOPED_TRACE(fmt::format("{} TRIMTAB_TEST_SEED={} round {}", file.string(), test_seed(), round));
      std::vector<uint8_t> bytes = bytes_of(file);
      if (bytes.empty()) continue;
      for (uint32_t change = 0; change <= draws.below(4); ++change) bytes[draws.below(static_cast<uint32_t>(bytes.size()))] = static_cast<uint8_t>(draws.below(256));
      if (draws.below(3) == 0) bytes.resize(draws.below(static_cast<uint32_t>(bytes.size())));
      EXPECT_NO_THROW(run_bounded(*GetParam(), bytes));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Fuzz, FuzzCorpus, testing::ValuesIn(kTargets), [](const auto& info) { return info.param->name; });

std::string repeated(const std::string& piece, size_t bytes) {
  std::string out;
  while (out.size() < bytes) out += piece;
  return out;
}
std::string distinct_keys(const std::string& value, size_t bytes) {
  std::string out = "\"\":0";
  for (int i = 0; out.size() < bytes; ++i) out += fmt::format(",\"{:x}\":{}", i, value);
  return out;
}

// Text that costs a reader the most per byte.
std::vector<std::string> costly_json(size_t bytes) {
  std::vector<std::string> out = {"{" + distinct_keys("0", bytes) + "}", "{" + distinct_keys("\"\"", bytes) + "}", "{" + distinct_keys("{}", bytes) + "}",
                                  "{\"" + std::string(bytes, 'x') + "\":0}", std::string(bytes, '['), "{\"a\":" + std::string(bytes, '[')};
  for (const char* piece : {"0,", "[],", "{},", "\"\",", "[0],"}) out.push_back("{\"bits\":[" + repeated(piece, bytes) + "0]}");
  return out;
}
std::vector<uint8_t> as_header(const std::string& json) {
  const uint64_t length = json.size();
  std::vector<uint8_t> out(sizeof length + json.size());
  std::memcpy(out.data(), &length, sizeof length);
  std::copy(json.begin(), json.end(), out.begin() + sizeof length);
  return out;
}

void expect_bounded(const Target& target, const std::vector<uint8_t>& input) {
  EXPECT_NO_THROW(run_bounded(target, input)) << target.name << " " << std::string(input.begin(), input.begin() + std::min<size_t>(40, input.size()));
}

TEST(FuzzMemory, OfJsonIsBounded) {
  for (const std::string& json : costly_json(size_t{500} << 10)) {
    for (const Target* target : {&kv_recipe, &draft_schedule, &adapter, &tokenizer}) expect_bounded(*target, bytes_of(json));
    for (const char format : {0, 1, 2, 3, 4, 5}) expect_bounded(kv_formats, bytes_of(format + json));
    for (const char format : {0, 1, 2}) expect_bounded(draft_formats, bytes_of(format + json));
  }
  for (const std::string& json : costly_json(size_t{3900} << 10)) expect_bounded(kv_recipe, bytes_of(json));
}

TEST(FuzzMemory, OfHeadersIsBounded) {
  const std::string tensor = "{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}";
  for (const size_t bytes : {size_t{500} << 10, size_t{8} << 20}) {
    std::vector<std::string> headers = costly_json(bytes);
    headers.push_back("{" + distinct_keys(tensor, bytes).substr(5) + "}");
    headers.push_back("{\"__metadata__\":{" + distinct_keys("\"\"", bytes).substr(5) + "}}");
    headers.push_back("{\"x\":{\"dtype\":\"U8\",\"shape\":[" + repeated("1,", bytes) + "0],\"data_offsets\":[0,0]}}");
    headers.push_back("{\"__metadata__\":{\"trimtab.checksum\":\"0000000000000000\",\"trimtab.controller\":\"" + repeated("[0,", bytes) + "\"}}");
    headers.push_back("{\"__metadata__\":{\"trimtab.checksum\":\"0000000000000000\",\"trimtab.controller\":\"{}" + repeated(" ", bytes) + "\"}}");
    for (const std::string& header : headers) {
      expect_bounded(safetensors, as_header(header));
      expect_bounded(artefact, as_header(header));
    }
  }
}

TEST(FuzzMemory, OfConfigurationsIsBounded) {
  for (const size_t bytes : {size_t{200} << 10, size_t{1} << 20}) {
    const size_t n = bytes - 64;
    for (const std::string& text :
         {"a: [" + repeated("b,", n) + "]", "a: [" + repeated("b,\n", n) + "]", "a: {" + repeated("b: c, ", n) + "}", repeated("- a\n", n),
          "a:\n" + repeated("  - - - - - - - - b\n", n), repeated("? a\n", n), std::string(n, '['), std::string(n, ' ') + "a: b", "a: " + std::string(n, 'b'),
          "a: |\n" + repeated("  b\n", n), "a: \"" + std::string(n, 'b') + "\"", repeated("- ", n), repeated("a.b.c.d.e.f.g.h: 1\n", n), repeated("#\n", n)}) {
      expect_bounded(config, bytes_of(text));
      expect_bounded(overrides, bytes_of("x=" + text.substr(0, n)));
    }
  }
}

}  // namespace
}  // namespace trimtab::fuzz
