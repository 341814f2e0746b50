// What the tests of tokenizers share: a small tokenizer.json to change, and random texts.
#pragma once

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "core/random.h"
#include "core/test_support.h"
#include "policies/tokenizer/byte_level.h"
#include "policies/tokenizer/tokenizer.h"
#include "policies/tokenizer/unicode.h"

namespace trimtab {

// Bytes by their value, then the products of `merges` ("a b"), then the special token <end>.
inline nlohmann::json small_document(const std::vector<std::string>& merges = {"h e", "l l", "he ll",
                                                                               "hell o"}) {
  nlohmann::json vocab;
  for (int byte = 0; byte < 256; ++byte) vocab[byte_level_symbol(static_cast<uint8_t>(byte))] = byte;
  for (std::string merge : merges) {
    merge.erase(merge.find(' '), 1);
    if (!vocab.contains(merge)) vocab[merge] = vocab.size();
  }
  const nlohmann::json end = {{"id", vocab.size()}, {"content", "<end>"}, {"single_word", false},
                              {"lstrip", false},    {"rstrip", false},    {"normalized", false},
                              {"special", true}};
  const nlohmann::json level = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}};
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", {end}},
          {"normalizer", nullptr},
          {"pre_tokenizer", level},
          {"post_processor", nullptr},
          {"decoder", level},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"vocab", vocab},
            {"merges", merges}}}};
}

inline std::unique_ptr<Tokenizer> make_small(const nlohmann::json& document) {
  return make_tokenizer({{"tokenizer.json", document.dump()}}, "small");
}

inline std::unique_ptr<Tokenizer> golden_tokenizer(const std::string& name) {
  return load_tokenizer(TRIMTAB_SOURCE_DIR "/tests/oracle/golden/tokenizers/" + name + ".json");
}

// Valid UTF-8 with everything in it: letters, spaces, marks, any code point, pieces of special tokens.
inline std::string random_text(Draws& draws) {
  std::string text;
  const uint32_t length = draws.below(40);
  for (uint32_t i = 0; i < length; ++i) {
    switch (draws.below(8)) {
      case 0:
        append_code_point(draws.below(0xD800), text);
        break;
      case 1:
        append_code_point(0x10000 + draws.below(0x100000), text);
        break;
      case 2:
        append_code_point(0x300 + draws.below(0x70), text);
        break;
      case 3:
        text += std::array{"<|im_end|>", "<|", "<end>", "<|eot_id|>", "hello", "'LL", "\r\n"}[draws.below(7)];
        break;
      case 4:
        text += std::array{" ", "\n", "\t", "\u00A0", "\u3000"}[draws.below(5)];
        break;
      default:
        append_code_point(0x20 + draws.below(0x5F), text);
    }
  }
  return text;
}

// The message of the exception that `act` must throw.
template <class Exception, class Act>
std::string message_of(Act act) {
  try {
    act();
  } catch (const Exception& e) {
    return e.what();
  } catch (const std::exception& e) {
    ADD_FAILURE() << "another exception: " << e.what();
    return "";
  }
  ADD_FAILURE() << "no exception";
  return "";
}

}  // namespace trimtab
