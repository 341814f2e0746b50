#include "policies/tokenizer/chat.h"

#include <algorithm>

#include "core/error.h"
#include "core/text.h"
#include "policies/tokenizer/unicode.h"

namespace trimtab {
namespace {

int32_t required_token(const Tokenizer& tokenizer, const char* token, std::string_view name) {
  const auto id = tokenizer.token_id(token);
  if (!id || !tokenizer.is_special(*id))
    throw ConfigError(
        fmt::format("the chat template {} needs the special token {}, which this tokenizer lacks; "
                    "choose another template ({}) or the tokenizer it belongs to",
                    name, token, join(chat_template_names(), ", ")));
  return *id;
}

void check_role(const std::string& role) {
  const bool is_word = !role.empty() && std::all_of(role.begin(), role.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || c == '_';
  });
  if (!is_word)
    throw ConfigError(fmt::format("a chat role is one lower-case word such as user, not \"{}\"", role));
}

// What Python's str.strip() takes off.
bool is_stripped(uint32_t value) { return is_white_space(value) || (value >= 0x1C && value <= 0x1F); }

std::string strip(const std::string& content) {
  const std::string valid = is_utf8(content) ? content : replace_ill_formed(content);
  std::string_view text = valid;
  while (!text.empty() && is_stripped(first_code_point(text).value))
    text.remove_prefix(first_code_point(text).length);
  while (!text.empty() && is_stripped(last_code_point(text).value))
    text.remove_suffix(last_code_point(text).length);
  return std::string(text);
}

void append(std::vector<int32_t>& ids, const std::vector<int32_t>& more) {
  ids.insert(ids.end(), more.begin(), more.end());
}

}  // namespace

std::vector<std::string> chat_template_names() { return {"chatml", "llama3"}; }

ChatTemplate::ChatTemplate(const Tokenizer& tokenizer, std::string_view name)
    : tokenizer_(tokenizer), is_chatml_(name == "chatml") {
  if (is_chatml_) {
    open_ = required_token(tokenizer, "<|im_start|>", name);
    close_ = required_token(tokenizer, "<|im_end|>", name);
    after_reply_ = tokenizer.encode("\n");
  } else if (name == "llama3") {
    start_ = {required_token(tokenizer, "<|begin_of_text|>", name)};
    open_ = required_token(tokenizer, "<|start_header_id|>", name);
    header_end_ = required_token(tokenizer, "<|end_header_id|>", name);
    close_ = required_token(tokenizer, "<|eot_id|>", name);
  } else {
    throw ConfigError(fmt::format("there is no chat template \"{}\"; choose one of {}", name,
                                  join(chat_template_names(), ", ")));
  }
  stop_ = tokenizer.stop_ids();
  if (std::find(stop_.begin(), stop_.end(), close_) == stop_.end()) stop_.push_back(close_);
  std::sort(stop_.begin(), stop_.end());
}

std::vector<int32_t> ChatTemplate::turn(const ChatMessage& message) const {
  check_role(message.role);
  const EncodeOptions as_text{.allow_special = false};
  std::vector<int32_t> ids{open_};
  // What stands between two special tokens is one text: "\n" and the content may share a token.
  if (is_chatml_) {
    append(ids, tokenizer_.encode(message.role + "\n" + message.content, as_text));
  } else {
    append(ids, tokenizer_.encode(message.role, as_text));
    ids.push_back(header_end_);
    append(ids, tokenizer_.encode("\n\n" + strip(message.content), as_text));
  }
  ids.push_back(close_);
  append(ids, after_reply_);
  return ids;
}

std::vector<int32_t> ChatTemplate::reply_header() const {
  std::vector<int32_t> ids{open_};
  if (is_chatml_) {
    append(ids, tokenizer_.encode("assistant\n"));
  } else {
    append(ids, tokenizer_.encode("assistant"));
    ids.push_back(header_end_);
    append(ids, tokenizer_.encode("\n\n"));
  }
  return ids;
}

std::vector<int32_t> ChatTemplate::encode(std::span<const ChatMessage> messages) const {
  std::vector<int32_t> ids = start_;
  for (const ChatMessage& message : messages) append(ids, turn(message));
  append(ids, reply_header());
  return ids;
}

}  // namespace trimtab
