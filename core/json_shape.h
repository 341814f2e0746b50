// JSON of unknown origin. nlohmann::json keeps the last of two equal keys, takes any depth of brackets although functions that recurse
// (dump, operator==) end the process on deep ones, makes documents of up to 100 times the text's bytes, and its parser with a callback
// needs quadratic time for many small objects in one. So a text is looked at before a document is made of it.
#pragma once

#include <cstddef>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace trimtab {

struct JsonShape {
  size_t values = 1;   // at most so many, keys not counted
  size_t depth = 0;    // of brackets
};
// Takes any bytes; of what is not JSON it says an upper bound of what a parser meets before it notices.
JsonShape json_shape(std::string_view text);

enum class JsonFault { kSyntax, kTooDeep, kKeyTwice };
// Parses the whole of `text`, which holds no zero byte. `fault` is called at the first fault and must throw: the detail is the parser's
// message or the key.
nlohmann::json parse_checked_json(std::string_view text, size_t most_depth,
                                  const std::function<void(JsonFault fault, const std::string& detail)>& fault);

}  // namespace trimtab
