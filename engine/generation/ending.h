// When a sequence is over: a stop token, a stop string in its text, or its longest length.
#pragma once

#include <string>
#include <vector>

#include "engine/generation/generator.h"

namespace trimtab {

class Ending {
 public:
  Ending(const StopRules& stop, int64_t vocab);
  // Whether the completion is over, given that it was not before its token `from`; says how in `finish`. `tail`: decoded bytes in which a
  // stop string may still begin, kept from call to call.
  bool reached(Completion& c, std::string& tail, size_t from, int64_t max_tokens) const;

 private:
  const StopRules& stop_;
  std::vector<char> is_stop_;   // [vocab]
  int64_t longest_string_ = 0;
};

}  // namespace trimtab
