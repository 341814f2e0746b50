// The tokenizer behind a tokenizer.json.
#pragma once

#include <memory>

#include "policies/tokenizer/tokenizer.h"
#include "policies/tokenizer/tokenizer_json.h"

namespace trimtab {

std::unique_ptr<Tokenizer> make_bpe_tokenizer(BpeTokenizerParts parts, MarkerIds markers,
                                              TokenizerFiles files);

}  // namespace trimtab
