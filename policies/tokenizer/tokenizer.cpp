#include "policies/tokenizer/tokenizer.h"

#include <algorithm>

#include "core/error.h"
#include "core/files.h"
#include "core/text.h"
#include "policies/tokenizer/bpe_tokenizer.h"
#include "policies/tokenizer/character_tokenizer.h"
#include "policies/tokenizer/strict_json.h"
#include "policies/tokenizer/unicode.h"

namespace trimtab {
namespace {

namespace fs = std::filesystem;
constexpr const char* kTokenizerFile = "tokenizer.json";
constexpr const char* kConfigFile = "tokenizer_config.json";
constexpr const char* kGenerationFile = "generation_config.json";
constexpr uintmax_t kLargestFile = uintmax_t{256} << 20;

std::string read_json_file(const fs::path& file) {
  std::error_code error;
  const uintmax_t size = fs::file_size(file, error);
  if (!error && size > kLargestFile)
    throw DataError(fmt::format("{}: {} bytes are too many for a tokenizer; is this the right file?",
                                file.string(), size));
  return read_file(file);
}

// "eos_token": "<s>" or {"content": "<s>", ...}; the rest of tokenizer_config.json is for other readers.
std::optional<int32_t> marker(const JsonPlace& config, const std::string& key, const Vocabulary& vocabulary) {
  const auto place = config.find(key);
  if (!place) return std::nullopt;
  const std::string token = place->value().is_object() ? place->text_of("content") : place->text();
  const auto id = vocabulary.find(token);
  if (!id)
    place->fail(
        fmt::format("{} is not in the vocabulary of {}", nlohmann::json(token).dump(), kTokenizerFile));
  return id;
}

void read_stop_ids(const JsonPlace& place, const Vocabulary& vocabulary, std::vector<int32_t>& stop) {
  if (place.value().is_array()) {
    for (size_t i = 0; i < place.size(); ++i) read_stop_ids(place.element(i), vocabulary, stop);
    return;
  }
  const int32_t id = place.integer(0, Vocabulary::kMaxId);
  if (vocabulary.bytes(id).empty()) place.fail(fmt::format("there is no token {} in {}", id, kTokenizerFile));
  stop.push_back(id);
}

MarkerIds read_markers(const TokenizerFiles& files, const std::string& name, const Vocabulary& vocabulary) {
  MarkerIds markers;
  if (const auto text = files.find(kConfigFile); text != files.end()) {
    const std::string file = name + "/" + kConfigFile;
    const nlohmann::json document = parse_strict_json(text->second, file);
    const JsonPlace config(document, file);
    markers.bos = marker(config, "bos_token", vocabulary);
    markers.eos = marker(config, "eos_token", vocabulary);
    markers.pad = marker(config, "pad_token", vocabulary);
  }
  if (markers.eos) markers.stop.push_back(*markers.eos);
  if (const auto text = files.find(kGenerationFile); text != files.end()) {
    const std::string file = name + "/" + kGenerationFile;
    const nlohmann::json document = parse_strict_json(text->second, file);
    if (const auto ids = JsonPlace(document, file).find("eos_token_id"))
      read_stop_ids(*ids, vocabulary, markers.stop);
  }
  std::sort(markers.stop.begin(), markers.stop.end());
  markers.stop.erase(std::unique(markers.stop.begin(), markers.stop.end()), markers.stop.end());
  return markers;
}

}  // namespace

std::vector<int32_t> Tokenizer::encode(std::string_view text, EncodeOptions options) const {
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 3);
  if (is_utf8(text)) {
    encode_valid(text, options, ids);
  } else {
    encode_valid(replace_ill_formed(text), options, ids);
  }
  return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, DecodeOptions options) const {
  std::string bytes;
  for (const int32_t id : ids) {
    TT_CHECK_GE(id, 0);
    if (!(options.skip_special && is_special(id))) bytes += token_bytes(id);
  }
  return is_utf8(bytes) ? bytes : replace_ill_formed(bytes);
}

std::string Tokenizer::hash() const {
  std::string all;
  for (const auto& [name, contents] : files_)
    all += fmt::format("{} {}\n{}", name, contents.size(), contents);
  return hash_bytes(all);
}

std::unique_ptr<Tokenizer> make_tokenizer(TokenizerFiles files, const std::string& name) {
  const auto text = files.find(kTokenizerFile);
  if (text == files.end()) throw DataError(fmt::format("{}: there is no {}", name, kTokenizerFile));
  const std::string file = name + "/" + kTokenizerFile;
  const nlohmann::json json = parse_strict_json(text->second, file);
  const JsonPlace document(json, file);
  if (document.find("type")) return make_character_tokenizer(document, std::move(files));
  BpeTokenizerParts parts = read_tokenizer_json(document);
  MarkerIds markers = read_markers(files, name, parts.vocabulary);
  return make_bpe_tokenizer(std::move(parts), std::move(markers), std::move(files));
}

std::unique_ptr<Tokenizer> load_tokenizer(const fs::path& file_or_folder) {
  const bool is_folder = fs::is_directory(file_or_folder);
  const fs::path file = is_folder ? file_or_folder / kTokenizerFile : file_or_folder;
  if (!fs::exists(file))
    throw DataError(fmt::format("{}: there is no such file; name a tokenizer.json or the folder of a model",
                                file.string()));
  TokenizerFiles files{{kTokenizerFile, read_json_file(file)}};
  if (file.filename() == kTokenizerFile) {
    for (const char* beside : {kConfigFile, kGenerationFile}) {
      const fs::path path = file.parent_path() / beside;
      if (fs::exists(path)) files[beside] = read_json_file(path);
    }
  }
  const fs::path folder = file.parent_path();
  return make_tokenizer(std::move(files), folder.empty() ? "." : folder.string());
}

void save_tokenizer(const Tokenizer& tokenizer, const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);  // where it fails, writing says so
  for (const auto& [name, contents] : tokenizer.files()) write_file_atomically(folder / name, contents);
}

}  // namespace trimtab
