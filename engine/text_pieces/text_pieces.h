// Texts as pieces of tokens that a model reads from their beginning: .txt files, cut into pieces, or .jsonl files of {"text": ...}, of
// each of which one piece is read.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "policies/language/pretrained.h"

namespace trimtab {

using TextPiece = std::vector<int32_t>;

struct TextPieceOptions {
  std::vector<std::string> files;
  int64_t window = 1024;   // tokens of a piece, at most; never more than the model has positions
  int64_t most = 0;        // pieces in all; 0: any
};

// [file][piece]. DataError naming file and line for what is no text, and for a file without a piece of two tokens.
std::vector<std::vector<TextPiece>> read_text_pieces(const TextPieceOptions& options, const LanguageModel& model);
std::vector<TextPiece> joined(const std::vector<std::vector<TextPiece>>& files);

// Of the weights, 32 hex digits: what a recipe and a table of sensitivities say they are for.
std::string hash_of(const Transformer& model);

}  // namespace trimtab
