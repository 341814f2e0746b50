#include "trainers/language/prompt.h"

#include <algorithm>

#include "core/error.h"

namespace trimtab {

void check_prompt(const std::vector<int32_t>& ids, int64_t max_tokens, const Transformer& transformer,
                  const std::string& place) {
  const TransformerConfig& config = transformer.config();
  if (ids.empty()) throw DataError(fmt::format("{}: the prompt has no tokens; give some text", place));
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= config.vocab_size)
      throw DataError(fmt::format("{}: token {} is {}, but the model's vocabulary has {}: ids 0 to {}", place,
                                  i, ids[i], config.vocab_size, config.vocab_size - 1));
  }
  const auto length = static_cast<int64_t>(ids.size());
  if (length + max_tokens > config.max_positions)
    throw DataError(
        fmt::format("{}: the prompt has {} tokens, which with max_tokens {} is more than the model's "
                    "{} positions; lower max_tokens or leave the prompt out",
                    place, length, max_tokens, config.max_positions));
}

std::string named(const Problem& problem) {
  std::string start = problem.prompt.substr(0, 60);
  std::replace(start.begin(), start.end(), '\n', ' ');
  return fmt::format("problem '{}{}'", start, start.size() < problem.prompt.size() ? "..." : "");
}

}  // namespace trimtab
