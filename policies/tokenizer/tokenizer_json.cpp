#include "policies/tokenizer/tokenizer_json.h"

#include "core/error.h"

namespace trimtab {
namespace {

[[noreturn]] void unsupported(const JsonPlace& place, const std::string& type, const std::string& known) {
  place.fail(fmt::format("type {} is not supported, only {}; see policies/tokenizer/README.md",
                         nlohmann::json(type).dump(), known));
}

// The members of a "Sequence" one by one, else the place itself; in order, and within one another.
template <class Read>
void for_each_part(const JsonPlace& place, const std::string& list, Read read) {
  if (place.text_of("type") != "Sequence") return read(place);
  place.only_keys({"type", list});
  const JsonPlace parts = place.member(list);
  for (size_t i = 0; i < parts.size(); ++i) for_each_part(parts.element(i), list, read);
}

void read_split(const JsonPlace& split, PreTokenizer& pre_tokenizer) {
  split.only_keys({"type", "pattern", "behavior", "invert"});
  if (split.text_of("behavior") != "Isolated")
    split.member("behavior").fail("only \"Isolated\" is supported");
  if (split.flag("invert", false)) split.member("invert").fail("only false is supported");
  const JsonPlace pattern = split.member("pattern");
  pattern.only_keys({"Regex"});
  try {
    pre_tokenizer.add_split(pattern.text_of("Regex"));
  } catch (const DataError& e) {
    pattern.member("Regex").fail(e.what());
  }
}

void read_digits(const JsonPlace& digits, PreTokenizer& pre_tokenizer) {
  digits.only_keys({"type", "individual_digits"});
  pre_tokenizer.add_digits(digits.flag("individual_digits", false));
}

void read_byte_level(const JsonPlace& byte_level, PreTokenizer& pre_tokenizer) {
  byte_level.only_keys({"type", "add_prefix_space", "trim_offsets", "use_regex"});
  if (byte_level.flag("add_prefix_space")) pre_tokenizer.add_prefix_space();
  if (byte_level.flag("use_regex", true)) pre_tokenizer.add_split(kByteLevelPattern);
}

// {"SpecialToken": {"id": "<s>", "type_id": 0}}, whose ids stand under special_tokens.
std::vector<int32_t> template_ids(const JsonPlace& token, const JsonPlace& defined,
                                  const Vocabulary& vocabulary) {
  token.only_keys({"id", "type_id"});
  const JsonPlace definition = defined.member(token.text_of("id"));
  definition.only_keys({"id", "ids", "tokens"});
  const JsonPlace ids = definition.member("ids"), names = definition.member("tokens");
  if (ids.size() == 0 || ids.size() != names.size())
    definition.fail("expected as many ids as tokens, and at least one");
  std::vector<int32_t> out;
  for (size_t i = 0; i < ids.size(); ++i) {
    out.push_back(ids.element(i).integer(0, Vocabulary::kMaxId));
    if (vocabulary.find(names.element(i).text()) != out.back())
      ids.element(i).fail("the vocabulary has another id for this token, or none; correct one of the two");
  }
  return out;
}

void read_template(const JsonPlace& processor, BpeTokenizerParts& parts) {
  processor.only_keys({"type", "single", "pair", "special_tokens"});
  const JsonPlace single = processor.member("single");
  bool text_seen = false;
  for (size_t i = 0; i < single.size(); ++i) {
    const JsonPlace item = single.element(i);
    item.only_keys({"Sequence", "SpecialToken"});
    if (const auto token = item.find("SpecialToken")) {
      const auto ids = template_ids(*token, processor.member("special_tokens"), parts.vocabulary);
      std::vector<int32_t>& side = text_seen ? parts.after : parts.before;
      side.insert(side.end(), ids.begin(), ids.end());
    } else {
      if (text_seen || item.member("Sequence").text_of("id") != "A")
        item.fail("expected the sequence \"A\" exactly once");
      text_seen = true;
    }
  }
  if (!text_seen) single.fail("expected the sequence \"A\" exactly once");
}

}  // namespace

void read_normalizer(const JsonPlace& normalizer, BpeTokenizerParts& parts) {
  for_each_part(normalizer, "normalizers", [&](const JsonPlace& part) {
    if (part.text_of("type") != "NFC") unsupported(part, part.text_of("type"), "NFC, or a Sequence of it");
    part.only_keys({"type"});
    parts.nfc = true;
  });
}

void read_pre_tokenizer(const JsonPlace& pre_tokenizer, BpeTokenizerParts& parts) {
  bool bytes = false;  // ByteLevel has been: pieces are bytes from here on
  for_each_part(pre_tokenizer, "pretokenizers", [&](const JsonPlace& part) {
    const std::string& type = part.text_of("type");
    if (bytes) part.fail("nothing is supported after ByteLevel");
    if (type == "Split") return read_split(part, parts.pre_tokenizer);
    if (type == "Digits") return read_digits(part, parts.pre_tokenizer);
    if (type != "ByteLevel") unsupported(part, type, "ByteLevel, Split, Digits, or a Sequence of them");
    read_byte_level(part, parts.pre_tokenizer);
    bytes = true;
  });
  if (!bytes) pre_tokenizer.fail("expected ByteLevel at the end; other BPE than byte-level is not supported");
}

void read_post_processor(const JsonPlace& processor, BpeTokenizerParts& parts) {
  bool template_seen = false;
  for_each_part(processor, "processors", [&](const JsonPlace& part) {
    const std::string& type = part.text_of("type");
    if (type == "ByteLevel")
      return part.only_keys({"type", "add_prefix_space", "trim_offsets", "use_regex"});  // offsets only
    if (type != "TemplateProcessing")
      unsupported(part, type, "ByteLevel, TemplateProcessing, or a Sequence of them");
    if (template_seen) part.fail("only one TemplateProcessing is supported");
    template_seen = true;
    read_template(part, parts);
  });
}

BpeTokenizerParts read_tokenizer_json(const JsonPlace& document) {
  document.only_keys({"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
                      "post_processor", "decoder", "model"});
  if (document.text_of("version") != "1.0") document.member("version").fail("only \"1.0\" is supported");
  for (const char* key : {"truncation", "padding"}) {
    if (const auto place = document.find(key))
      place->fail("not supported: texts are never cut or filled; set it to null");
  }
  BpeTokenizerParts parts;
  if (const auto normalizer = document.find("normalizer")) read_normalizer(*normalizer, parts);
  read_pre_tokenizer(document.member("pre_tokenizer"), parts);
  read_bpe_model(document.member("model"), parts);
  if (const auto added = document.find("added_tokens")) read_added_tokens(*added, parts);
  if (const auto processor = document.find("post_processor")) read_post_processor(*processor, parts);
  const JsonPlace decoder = document.member("decoder");
  if (const std::string& type = decoder.text_of("type"); type != "ByteLevel")
    unsupported(decoder, type, "ByteLevel");
  decoder.only_keys({"type", "add_prefix_space", "trim_offsets", "use_regex"});
  return parts;
}

}  // namespace trimtab
