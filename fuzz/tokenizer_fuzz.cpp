// policies/tokenizer: tokenizer.json, then encoding with what was read.
//
// Byte-level BPE has 256 symbols that no mutation is to lose, so an input may leave them out: a key "\x01":0 of "vocab" stands for all.
#include <algorithm>

#include "core/error.h"
#include "fuzz/target.h"
#include "policies/tokenizer/byte_level.h"
#include "policies/tokenizer/tokenizer.h"

namespace trimtab::fuzz {
namespace {

const std::string& all_bytes() {
  static const std::string all = [] {
    std::string out;
    for (int byte = 0; byte < 256; ++byte) {
      const std::string symbol = byte_level_symbol(static_cast<uint8_t>(byte));
      out += (byte == 0 ? "\"" : ",\"") + std::string(symbol == "\"" || symbol == "\\" ? "\\" : "") + symbol + "\":" + std::to_string(byte);
    }
    return out;
  }();
  return all;
}

void run_tokenizer(Bytes input) {
  std::string json = text_of(input);
  constexpr std::string_view kMark = "\"BYTES\":0";
  if (const size_t at = json.find(kMark); at != std::string::npos) json.replace(at, kMark.size(), all_bytes());
  try {
    const std::unique_ptr<Tokenizer> tokenizer = make_tokenizer({{"tokenizer.json", json}}, "input");
    const std::string text = "two words, 12 + 345\n<s>\xC3\xA9\xE4\xBD\xA0";
    const std::vector<int32_t> ids = tokenizer->encode(text, {.add_special_tokens = true});
    for (const int32_t id : ids) FUZZ_CHECK(id >= 0 && id < tokenizer->vocab_size());
    tokenizer->decode(ids);
    make_tokenizer(tokenizer->files(), "again");
  } catch (const DataError&) {
  }
}

}  // namespace

extern const Target tokenizer;
const Target tokenizer{"tokenizer", run_tokenizer, 64};

}  // namespace trimtab::fuzz
