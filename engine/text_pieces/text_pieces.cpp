#include "engine/text_pieces/text_pieces.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files.h"
#include "core/filled_lines.h"
#include "core/run_folder.h"
#include "core/text.h"

namespace trimtab {
namespace {

constexpr int64_t kShortest = 2;   // tokens of a piece

std::vector<std::string> documents_of(const std::string& file) {
  const std::string contents = read_file(file);
  if (!is_utf8(contents)) throw DataError(fmt::format("{}: not UTF-8 text", file));
  if (!file.ends_with(".jsonl")) return {contents};
  std::vector<std::string> out;
  filled_lines(file, contents, [&](const std::string& place, const std::string& line) {
    const nlohmann::json object = nlohmann::json::parse(line, nullptr, false);
    if (!object.is_object() || !object.contains("text") || !object["text"].is_string())
      throw DataError(fmt::format("{}: expected {{\"text\": \"...\"}}", place));
    out.push_back(object["text"]);
  });
  return out;
}

void add_pieces(const std::string& document, const Tokenizer& tokenizer, int64_t window, bool cut, std::vector<TextPiece>& out) {
  const std::vector<int32_t> ids = tokenizer.encode(document, {.allow_special = true, .add_special_tokens = true});
  const int64_t n = static_cast<int64_t>(ids.size());
  for (int64_t first = 0; first < n; first += window) {
    const int64_t end = std::min(n, first + window);
    if (end - first >= kShortest) out.emplace_back(ids.begin() + first, ids.begin() + end);
    if (!cut) break;
  }
}

}  // namespace

std::vector<std::vector<TextPiece>> read_text_pieces(const TextPieceOptions& options, const LanguageModel& model) {
  const int64_t window = std::min(options.window, model.transformer->config().max_positions);
  std::vector<std::vector<TextPiece>> out;
  int64_t left = options.most > 0 ? options.most : INT64_MAX;
  for (const std::string& file : options.files) {
    std::vector<TextPiece>& mine = out.emplace_back();
    try {
      for (const std::string& document : documents_of(file)) add_pieces(document, *model.tokenizer, window, !file.ends_with(".jsonl"), mine);
    } catch (const DataError& e) {
      const std::string what = e.what();
      throw DataError(what.starts_with(file) ? what : file + ": " + what);
    }
    if (mine.empty()) throw DataError(fmt::format("{}: no text of {} tokens or more in it", file, kShortest));
    if (static_cast<int64_t>(mine.size()) > left) mine.resize(left);
    left -= static_cast<int64_t>(mine.size());
  }
  return out;
}

std::vector<TextPiece> joined(const std::vector<std::vector<TextPiece>>& files) {
  std::vector<TextPiece> out;
  for (const std::vector<TextPiece>& pieces : files) out.insert(out.end(), pieces.begin(), pieces.end());
  return out;
}

std::string hash_of(const Transformer& model) {
  const at::Tensor& flat = model.flat();
  return hash_bytes({static_cast<const char*>(flat.data_ptr()), static_cast<size_t>(flat.nbytes())});
}

}  // namespace trimtab
