#include "engine/diffusion/jacobi.h"

#include <algorithm>

#include "core/error.h"
#include "engine/drafters/option_ranges.h"
#include "engine/generation/checks.h"
#include "engine/generation/ending.h"
#include "engine/generation/forward.h"
#include "engine/generation/packed_model.h"
#include "engine/generation/region.h"
#include "engine/generation/team.h"
#include "kernels/two_piece_attention/two_piece_attention.h"

namespace trimtab {
namespace {

constexpr int64_t kReadRows = 64;    // of a prompt in a pass; with a window of guesses they fit into Forward::kMostRows
constexpr int64_t kMostWindow = 40;

class Iteration {
 public:
  struct Inputs {
    std::span<const GenerationRequest> requests;
    const SamplingOptions& sampling;
    const StopRules& stop;
    const JacobiOptions& options;
  };
  Iteration(const Inputs& in, const PackedModel& model, Region& caches);
  ForwardLimits limits(int threads) const { return {threads, most_prompt_ + most_own_, most_prompt_, most_own_}; }
  std::vector<JacobiCompletion> run(Forward& forward, Team& team);

 private:
  struct Sequence {
    int64_t number = 0, slot = 0, read = 0;   // read: tokens of the text whose keys are right
    std::string tail;                         // of Ending
    std::vector<int32_t> guesses;             // of the tokens behind the text
    int64_t first_draw = -1;                  // of this pass: behind the text and behind every guess; -1: it only read the prompt
  };
  const GenerationRequest& request(const Sequence& s) const { return in_.requests[completions_[s.number].completion.request]; }
  int64_t prompt(const Sequence& s) const { return static_cast<int64_t>(request(s).prompt.size()); }
  int64_t text(const Sequence& s) const { return prompt(s) + static_cast<int64_t>(completions_[s.number].completion.tokens.size()); }
  int32_t token(const Sequence& s, int64_t index) const;
  void admit();
  void guess(Sequence& s, std::span<const int32_t> from);
  void add_row(const Sequence& s, int64_t index, int32_t token, bool joined, bool draws);
  void add(Sequence& s);
  void settle(Sequence& s);

  Inputs in_;
  Ending ending_;
  int64_t most_prompt_ = 1, most_own_ = 1, prompt_numbers_ = 0, own_numbers_ = 0;   // keys of a prompt and behind it: the two pieces that Generator has
  float* caches_ = nullptr;
  Pass pass_;
  std::vector<JacobiCompletion> completions_;
  std::vector<Sequence> open_;
  std::vector<int64_t> free_slots_;
  int64_t next_ = 0;
};

Iteration::Iteration(const Inputs& in, const PackedModel& model, Region& caches) : in_(in), ending_(in.stop, model.config().vocab_size) {
  for (size_t r = 0; r < in.requests.size(); ++r) {
    const GenerationRequest& q = in.requests[r];
    most_prompt_ = std::max(most_prompt_, static_cast<int64_t>(q.prompt.size())), most_own_ = std::max(most_own_, max_tokens_of(q, in.sampling));
    for (int64_t s = 0; s < q.samples; ++s) {
      Completion& c = completions_.emplace_back().completion;
      c.request = static_cast<int64_t>(r), c.sample = q.first_sample + s, c.finish = Finish::kUnfinished;
    }
  }
  most_prompt_ = key_blocks_of(most_prompt_) * kKeyBlock, most_own_ = key_blocks_of(most_own_) * kKeyBlock;
  prompt_numbers_ = Forward::cache_numbers(model, most_prompt_), own_numbers_ = Forward::cache_numbers(model, most_own_);
  const int64_t slots = std::min<int64_t>(in.options.max_sequences, static_cast<int64_t>(completions_.size()));
  caches.reserve(slots * (prompt_numbers_ + own_numbers_));
  caches_ = caches.data();
  for (int64_t i = slots; i-- > 0;) free_slots_.push_back(i);
}

int32_t Iteration::token(const Sequence& s, int64_t index) const {
  return index < prompt(s) ? request(s).prompt[index] : completions_[s.number].completion.tokens[index - prompt(s)];
}

std::vector<JacobiCompletion> Iteration::run(Forward& forward, Team& team) {
  for (admit(); !open_.empty(); admit()) {
    pass_.clear();
    for (Sequence& s : open_) add(s);
    forward.run(pass_, team);
    for (Sequence& s : open_)
      if (s.first_draw >= 0) settle(s);
    std::erase_if(open_, [](const Sequence& s) { return s.slot < 0; });
  }
  return std::move(completions_);
}

void Iteration::admit() {
  while (!free_slots_.empty() && next_ < static_cast<int64_t>(completions_.size())) {
    Sequence& s = open_.emplace_back();
    s.number = next_++, s.slot = free_slots_.back();
    free_slots_.pop_back();
    guess(s, {});
  }
}

// The tokens that the last pass would have liked, then the text's last token again and again.
void Iteration::guess(Sequence& s, std::span<const int32_t> from) {
  const int64_t left = max_tokens_of(request(s), in_.sampling) - (text(s) - prompt(s)) - 1;   // a pass settles one token without guesses
  s.guesses.assign(from.begin(), from.end());
  s.guesses.resize(std::min(in_.options.window, left), token(s, text(s) - 1));
}

void Iteration::add_row(const Sequence& s, int64_t index, int32_t token, bool joined, bool draws) {
  PassRow& row = pass_.rows.emplace_back();
  float* const base = caches_ + s.slot * (prompt_numbers_ + own_numbers_);
  row.token = token, row.position = static_cast<int32_t>(index), row.joined = joined;
  row.shared = {base, most_prompt_}, row.own = {base + prompt_numbers_, most_own_}, row.to_shared = index < prompt(s);
  row.shared_keys = static_cast<int32_t>(std::min(index + 1, prompt(s))), row.own_keys = static_cast<int32_t>(std::max<int64_t>(0, index + 1 - prompt(s)));
  if (!draws) return;
  row.first_draw = static_cast<int32_t>(pass_.draws.size()), row.num_draws = 1;
  pass_.draws.emplace_back();   // greedy: no numbers are drawn
}

// A chunk of the prompt, or what is left of the text and the guesses behind it.
void Iteration::add(Sequence& s) {
  const int64_t begin = s.read, end = text(s);
  const bool last = end - s.read <= kReadRows;
  s.first_draw = last ? static_cast<int64_t>(pass_.draws.size()) : -1;
  for (const int64_t to = std::min(end, s.read + kReadRows); s.read < to; ++s.read) add_row(s, s.read, token(s, s.read), s.read > begin, s.read + 1 == end);
  if (!last) return;
  for (size_t g = 0; g < s.guesses.size(); ++g) add_row(s, end + static_cast<int64_t>(g), s.guesses[g], true, true);
}

void Iteration::settle(Sequence& s) {
  Completion& c = completions_[s.number].completion;
  ++completions_[s.number].passes;
  std::vector<int32_t> wanted;
  const int64_t guesses = static_cast<int64_t>(s.guesses.size());
  bool settled = true;   // everything left of the token is
  for (int64_t i = 0; i <= guesses; ++i) {
    const auto [token, logprob] = pass_.draws[s.first_draw + i].drawn;
    if (token < 0)
      throw RunError(fmt::format("request {}, sample {}: the logits of token {} are not finite: has training diverged?", c.request, c.sample, c.tokens.size()));
    if (!settled) {
      wanted.push_back(token);
      continue;
    }
    c.tokens.push_back(token), c.logprobs.push_back(logprob);
    if (ending_.reached(c, s.tail, c.tokens.size() - 1, max_tokens_of(request(s), in_.sampling))) {
      free_slots_.push_back(std::exchange(s.slot, -1));
      return;
    }
    settled = i < guesses && s.guesses[i] == token;
  }
  s.read = text(s) - 1;   // the last settled token was no guess, or the wrong one
  guess(s, wanted);
}

}  // namespace

void JacobiOptions::describe(Fields& f) {
  f.integer("max_sequences", max_sequences, {.low = 1, .high = 1024, .doc = "decoded at the same time"});
  f.integer("window", window, {.low = 1, .high = static_cast<double>(kMostWindow), .unit = "tokens", .doc = "guessed at a time"});
}

JacobiDecoder::JacobiDecoder(const Transformer& model, JacobiOptions options) : model_(model), options_(checked(options)) {}

std::vector<JacobiCompletion> JacobiDecoder::generate(std::span<const GenerationRequest> requests, int64_t max_tokens, const StopRules& stop, Pool& pool) {
  const SamplingOptions greedy{.max_tokens = max_tokens, .temperature = 0};
  check_sampling(greedy);
  check_stop(stop, model_.config());
  check_requests(requests, greedy, model_.config());
  for (size_t i = 0; i < requests.size(); ++i)
    if (!requests[i].begun.empty()) throw DataError(fmt::format("request {}: Jacobi decoding does not continue begun sequences: put their tokens into the prompt", i));
  if (requests.empty()) return {};
  Region weights, caches, buffers;
  const PackedModel model(model_, weights, pool);
  Iteration iteration({requests, greedy, stop, options_}, model, caches);
  Forward forward(model, rope_frequencies(model_.config().rope, model_.config().head_dim), greedy, 0, iteration.limits(pool.threads()), buffers);
  std::vector<JacobiCompletion> out;
  Team team;
  team.run(pool, [&] { out = iteration.run(forward, team); });
  return out;
}

}  // namespace trimtab
