#include "policies/tokenizer/bpe_tokenizer.h"

#include <algorithm>

#include "policies/tokenizer/unicode.h"

namespace trimtab {
namespace {

AddedTokens tokens_where(const std::vector<AddedToken>& all, bool normalized) {
  std::vector<AddedToken> some;
  std::copy_if(all.begin(), all.end(), std::back_inserter(some),
               [&](const AddedToken& t) { return t.normalized == normalized; });
  return AddedTokens(std::move(some));
}

class BpeTokenizer : public Tokenizer {
 public:
  BpeTokenizer(BpeTokenizerParts parts, MarkerIds markers, TokenizerFiles files)
      : Tokenizer(std::move(parts.vocabulary), std::move(markers), std::move(files)),
        bpe_(std::move(parts.bpe)),
        exact_(tokens_where(parts.added, false)),
        normalised_(tokens_where(parts.added, true)),
        nfc_(parts.nfc),
        pre_tokenizer_(std::move(parts.pre_tokenizer)),
        before_(std::move(parts.before)),
        after_(std::move(parts.after)) {}

 private:
  void encode_valid(std::string_view text, EncodeOptions options, std::vector<int32_t>& ids) const override {
    if (options.add_special_tokens) ids.insert(ids.end(), before_.begin(), before_.end());
    std::vector<AddedTokens::Piece> pieces;
    exact_.split(text, options.allow_special, pieces);
    for (const AddedTokens::Piece& piece : pieces) {
      if (piece.id >= 0) {
        ids.push_back(piece.id);
      } else {
        encode_stretch(nfc_ ? normalise_nfc(piece.text) : std::string(piece.text), options.allow_special,
                       ids);
      }
    }
    if (options.add_special_tokens) ids.insert(ids.end(), after_.begin(), after_.end());
  }

  // Text between the tokens that are sought before normalisation.
  void encode_stretch(const std::string& text, bool allow_special, std::vector<int32_t>& ids) const {
    std::vector<AddedTokens::Piece> pieces;
    normalised_.split(text, allow_special, pieces);
    PreTokenizer::Words words;
    for (const AddedTokens::Piece& piece : pieces) {
      if (piece.id >= 0) {
        ids.push_back(piece.id);
        continue;
      }
      pre_tokenizer_.split(piece.text, words);
      for (const std::string_view word : words.views) bpe_.encode(word, ids);
    }
  }

  Bpe bpe_;
  AddedTokens exact_, normalised_;
  bool nfc_;
  PreTokenizer pre_tokenizer_;
  std::vector<int32_t> before_, after_;
};

}  // namespace

std::unique_ptr<Tokenizer> make_bpe_tokenizer(BpeTokenizerParts parts, MarkerIds markers,
                                              TokenizerFiles files) {
  return std::make_unique<BpeTokenizer>(std::move(parts), std::move(markers), std::move(files));
}

}  // namespace trimtab
