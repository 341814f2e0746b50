// Chat templates: messages to token ids, never by way of one long text. What a user writes is encoded with
// special tokens not recognised in it, so no content can open or close a turn; sampled replies go back in as
// the ids they were.
//
//   ChatTemplate chat(*tokenizer, "chatml");
//   std::vector<int32_t> prompt = chat.encode({{"user", "What is 2 + 2?"}});          // ends where the reply
//   begins
//   ... sample `reply` until one of chat.stop_ids(); keep that id ...
//   append(prompt, reply); append(prompt, chat.after_reply()); append(prompt, chat.turn({"user", "And 3 +
//   3?"})); append(prompt, chat.reply_header());
//
//   chatml   <|im_start|>ROLE\nCONTENT<|im_end|>\n                                   Qwen2; adds no system
//   message of its own llama3   <|start_header_id|>ROLE<|end_header_id|>\n\nCONTENT<|eot_id|> Llama-3;
//   <|begin_of_text|> in front of all,
//                                                                                    content without white
//                                                                                    space at its ends
//
// Equal to tokenising the text those templates render, for contents without special tokens in them.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "policies/tokenizer/tokenizer.h"

namespace trimtab {

struct ChatMessage {
  std::string role;  // "system", "user", "assistant", "tool"
  std::string content;
};

class ChatTemplate {
 public:
  // The tokenizer must outlive it. ConfigError for a name it does not know and for a tokenizer without the
  // template's tokens.
  ChatTemplate(const Tokenizer& tokenizer, std::string_view name);

  // All messages, then the header of the reply.
  std::vector<int32_t> encode(std::span<const ChatMessage> messages) const;
  std::vector<int32_t> encode(std::initializer_list<ChatMessage> messages) const {
    return encode(std::span(messages.begin(), messages.size()));
  }

  // Its pieces.
  const std::vector<int32_t>& start() const { return start_; }  // before the first message; empty in ChatML
  std::vector<int32_t> turn(
      const ChatMessage& message) const;      // one whole message. ConfigError for another role
  std::vector<int32_t> reply_header() const;  // opens a message of the assistant
  const std::vector<int32_t>& after_reply() const {
    return after_reply_;
  }  // between a reply's stop id and the next turn
  const std::vector<int32_t>& stop_ids() const {
    return stop_;
  }  // the one that closes a turn, and the tokenizer's

 private:
  const Tokenizer& tokenizer_;
  bool is_chatml_ = false;
  std::vector<int32_t> start_, after_reply_, stop_;
  int32_t open_ = 0, header_end_ = 0, close_ = 0;
};

// Their names, for options and messages.
std::vector<std::string> chat_template_names();

}  // namespace trimtab
