// One id per character of a given alphabet, for procedural tasks and small models:
//
//   {"type": "trimtab_characters", "version": 1, "alphabet": "0123456789+= "}
//
// Ids: the characters (code points) in order from 0, then "<pad>", then "<eos>". Text is not normalised.
#pragma once

#include <memory>

#include "policies/tokenizer/strict_json.h"
#include "policies/tokenizer/tokenizer.h"

namespace trimtab {

std::unique_ptr<Tokenizer> make_character_tokenizer(const JsonPlace& document, TokenizerFiles files);

}  // namespace trimtab
