#include "engine/generation/ending.h"

#include <algorithm>

namespace trimtab {

Ending::Ending(const StopRules& stop, int64_t vocab) : stop_(stop), is_stop_(vocab, 0) {
  for (const int32_t id : stop.ids) is_stop_[id] = 1;
  for (const std::string& text : stop.strings) longest_string_ = std::max(longest_string_, static_cast<int64_t>(text.size()));
}

bool Ending::reached(Completion& c, std::string& tail, size_t from, int64_t max_tokens) const {
  bool stop = is_stop_[c.tokens.back()] != 0;
  for (; !stop_.strings.empty() && from < c.tokens.size(); ++from) {
    tail += stop_.tokenizer->token_bytes(c.tokens[from]);
    for (const std::string& text : stop_.strings) stop = stop || tail.find(text) != std::string::npos;
    if (static_cast<int64_t>(tail.size()) >= longest_string_) tail.erase(0, tail.size() - longest_string_ + 1);
  }
  if (stop) c.finish = Finish::kStop;
  else if (static_cast<int64_t>(c.tokens.size()) >= max_tokens) c.finish = Finish::kLength;
  return c.finish != Finish::kUnfinished;
}

}  // namespace trimtab
