// The `tokenizer.json` of Hugging Face tokenizers, as far as it describes byte-level BPE. Everything in it
// that would change an id and is not supported is a DataError; nothing is skipped.
#pragma once

#include <cstdint>
#include <vector>

#include "policies/tokenizer/added_tokens.h"
#include "policies/tokenizer/bpe.h"
#include "policies/tokenizer/pretokenize.h"
#include "policies/tokenizer/strict_json.h"
#include "policies/tokenizer/vocabulary.h"

namespace trimtab {

struct BpeTokenizerParts {
  Vocabulary vocabulary;
  Bpe::Definition bpe;
  std::vector<AddedToken> added;
  bool nfc = false;  // text is normalised first
  PreTokenizer pre_tokenizer;
  std::vector<int32_t> before, after;  // what the post-processor puts around a text
};
BpeTokenizerParts read_tokenizer_json(const JsonPlace& document);

// Its sections, each in a file of its own; later ones use what earlier ones read.
void read_bpe_model(const JsonPlace& model, BpeTokenizerParts& parts);
void read_added_tokens(const JsonPlace& tokens, BpeTokenizerParts& parts);
void read_normalizer(const JsonPlace& normalizer, BpeTokenizerParts& parts);
void read_pre_tokenizer(const JsonPlace& pre_tokenizer, BpeTokenizerParts& parts);
void read_post_processor(const JsonPlace& processor, BpeTokenizerParts& parts);

}  // namespace trimtab
