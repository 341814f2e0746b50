#include "trainers/language/mixture_replies.h"

#include <algorithm>
#include <filesystem>

#include "engine/generation/ending.h"

namespace trimtab {

std::optional<AdapterMixture> mixture_of(const ModelChoice& run, const Transformer& base) {
  const std::filesystem::path folder = std::filesystem::path(run.path) / "mixture";
  if (!std::filesystem::exists(folder)) return std::nullopt;
  return AdapterMixture::read(base, folder);
}

std::vector<Completion> complete_with_mixture(const AdapterMixture& mixture, std::span<const GenerationRequest> requests, int64_t max_tokens, const StopRules& stop,
                                              const std::function<void(int64_t tokens, int64_t finished)>& progress) {
  const auto limit_of = [&](size_t i) { return requests[i].max_tokens > 0 ? requests[i].max_tokens : max_tokens; };
  const Ending ending(stop, mixture.config().vocab_size);
  std::vector<std::vector<int32_t>> prompts;
  std::vector<Completion> out(requests.size());
  std::vector<std::string> tails(requests.size());
  int64_t longest = 1, tokens = 0, finished = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    prompts.push_back(requests[i].prompt);
    out[i].request = static_cast<int64_t>(i), out[i].finish = Finish::kUnfinished;
    longest = std::max(longest, limit_of(i));
  }
  mixture.complete(prompts, longest, [&](size_t i, std::span<const int32_t> reply) {
    out[i].tokens.push_back(reply.back());
    const bool over = ending.reached(out[i], tails[i], reply.size() - 1, limit_of(i));
    ++tokens, finished += over;
    if (progress) progress(tokens, finished);
    return over;
  });
  return out;
}

}  // namespace trimtab
