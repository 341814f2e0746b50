// Tokenizers: text to token ids and back, exactly as the model they belong to was trained with.
//
//   std::unique_ptr<Tokenizer> tokenizer = load_tokenizer("models/small");      // a folder or a
//   tokenizer.json std::vector<int32_t> ids = tokenizer->encode("2 + 2 =", {.add_special_tokens = true});
//   std::string text = tokenizer->decode(ids);
//
// Two kinds are read: byte-level BPE in the `tokenizer.json` of Hugging Face (GPT-2, Qwen2, Llama-3 and what
// has their shape; Sennrich et al., "Neural machine translation of rare words with subword units", ACL 2016,
// on the bytes of UTF-8), and a character tokenizer of our own (character_tokenizer_json). What is read and
// what is refused: README.md.
//
// A tokenizer does not change after loading: every method may be called from several threads at once.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "policies/tokenizer/vocabulary.h"

namespace trimtab {

struct EncodeOptions {
  bool allow_special =
      true;  // special tokens written out in the text become their ids; false: they stay text
  bool add_special_tokens =
      false;  // what the file's post-processor puts around a text (Llama-3: <|begin_of_text|>)
};

struct DecodeOptions {
  bool skip_special = false;  // leave special tokens out
};

// File name (no folder) -> exact contents.
using TokenizerFiles = std::map<std::string, std::string>;

// Ids with a meaning, from tokenizer_config.json and generation_config.json beside a tokenizer.json, where
// they name them.
struct MarkerIds {
  std::optional<int32_t> bos, eos, pad;
  std::vector<int32_t>
      stop;  // a sampler ends at any of these: eos and generation_config's eos_token_id, ascending
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // Bytes that are not UTF-8 count as U+FFFD, one per maximal ill-formed part, as Python's errors="replace"
  // has it. Cost is about linear in the length, whatever the text. The character tokenizer throws DataError
  // for a character it lacks.
  std::vector<int32_t> encode(std::string_view text, EncodeOptions options = {}) const;
  // Always valid UTF-8: bytes that form no character become U+FFFD. Ids without a token (the padding of an
  // embedding matrix) decode to nothing. TT_CHECK on a negative id.
  std::string decode(std::span<const int32_t> ids, DecodeOptions options = {}) const;
  // What the id adds to a text; not a whole number of characters in general. For decoding one id after the
  // other.
  std::string_view token_bytes(int32_t id) const { return vocabulary_.bytes(id); }

  int32_t vocab_size() const { return vocabulary_.size(); }  // largest id + 1; there may be holes
  std::optional<int32_t> token_id(std::string_view token) const {
    return vocabulary_.find(token);
  }  // as the file spells it
  const std::string& token(int32_t id) const {
    return vocabulary_.token(id);
  }  // DataError for an id without a token
  bool is_special(int32_t id) const { return vocabulary_.is_special(id); }
  std::vector<int32_t> special_ids() const { return vocabulary_.special_ids(); }  // ascending

  std::optional<int32_t> bos_id() const { return markers_.bos; }
  std::optional<int32_t> eos_id() const { return markers_.eos; }
  std::optional<int32_t> pad_id() const { return markers_.pad; }
  const std::vector<int32_t>& stop_ids() const { return markers_.stop; }

  const TokenizerFiles& files() const { return files_; }  // what it was read from, byte for byte
  std::string hash() const;                               // of these files: equal hashes, equal tokenizers

 protected:
  Tokenizer(Vocabulary vocabulary, MarkerIds markers, TokenizerFiles files)
      : vocabulary_(std::move(vocabulary)), markers_(std::move(markers)), files_(std::move(files)) {}
  // `text` is valid UTF-8.
  virtual void encode_valid(std::string_view text, EncodeOptions options,
                            std::vector<int32_t>& ids) const = 0;
  const Vocabulary& vocabulary() const { return vocabulary_; }

 private:
  Vocabulary vocabulary_;
  MarkerIds markers_;
  TokenizerFiles files_;
};

// Reads FOLDER/tokenizer.json or the file itself; where that is named tokenizer.json, also
// tokenizer_config.json and generation_config.json beside it, if they are there. DataError names file, place
// and cure.
std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& file_or_folder);
// The same from memory; `name` stands for the folder in messages.
std::unique_ptr<Tokenizer> make_tokenizer(TokenizerFiles files, const std::string& name);
// Writes files() into `folder`; load_tokenizer(folder) then gives an equal tokenizer. CheckpointError when it
// cannot.
void save_tokenizer(const Tokenizer& tokenizer, const std::filesystem::path& folder);

// tokenizer.json of a character tokenizer: one id per character of `alphabet` in its order, then "<pad>",
// then "<eos>". ConfigError for an alphabet that is empty, is not UTF-8 or has a character twice.
std::string character_tokenizer_json(std::string_view alphabet);

}  // namespace trimtab
