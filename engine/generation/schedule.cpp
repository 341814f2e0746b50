#include "engine/generation/schedule.h"

#include <algorithm>
#include <ranges>
#include <utility>

#include "core/error.h"
#include "engine/generation/checks.h"
#include "kernels/two_piece_attention/two_piece_attention.h"

namespace trimtab {
namespace {

constexpr int64_t kReportEvery = 4096;   // tokens
constexpr int64_t kCachedBytes = int64_t{16} << 20;   // of keys and values that a thread's sequences may fill
constexpr int64_t kEnoughRows = 4 * 14;  // of a thread, for its matrix products to run at full speed
constexpr int64_t kReadRows = 1024;      // of prompts in one pass, about

}  // namespace

GenerationSchedule::GenerationSchedule(const ScheduleInputs& in, const PackedModel& model, Region& cache_memory)
    : in_(in), hidden_size_(model.config().hidden_size), prompts_(in.requests.size()), ending_(in.stop, model.config().vocab_size) {
  for (size_t r = 0; r < in.requests.size(); ++r) {
    const GenerationRequest& request = in.requests[r];
    most_prompt_ = std::max(most_prompt_, static_cast<int64_t>(request.prompt.size()));
    most_own_ = std::max(most_own_, max_tokens_of(request, in.sampling) - 1);   // the last token is not read again
    for (int64_t s = 0; s < request.samples; ++s) {
      Completion& c = completions_.emplace_back();
      c.request = static_cast<int64_t>(r), c.sample = request.first_sample + s, c.finish = Finish::kUnfinished;
      if (!request.begun.empty()) c.tokens = request.begun[s].tokens, c.logprobs = request.begun[s].logprobs;
    }
  }
  prompt_capacity_ = key_blocks_of(most_prompt_) * kKeyBlock, own_capacity_ = key_blocks_of(std::max<int64_t>(most_own_, 1)) * kKeyBlock;
  prompt_numbers_ = Forward::cache_numbers(model, prompt_capacity_), own_numbers_ = Forward::cache_numbers(model, own_capacity_);
  const int64_t slots = open_at_a_time();
  const int64_t prompt_slots = std::min<int64_t>(slots, static_cast<int64_t>(in.requests.size()));
  cache_memory.reserve(prompt_slots * prompt_numbers_ + slots * own_numbers_);
  prompt_memory_ = cache_memory.data(), own_memory_ = prompt_memory_ + prompt_slots * prompt_numbers_;
  for (int64_t i = slots; i-- > 0;) free_slots_.push_back(i);
  for (int64_t i = prompt_slots; i-- > 0;) free_prompt_slots_.push_back(i);
}

// More at a time than fill the processor only push each other's keys out of its caches. With a token budget the number decides who
// is how far at the end, and may then depend on nothing but the options.
int64_t GenerationSchedule::open_at_a_time() const {
  const int64_t most = std::min(in_.options.max_sequences, static_cast<int64_t>(completions_.size()));
  if (in_.options.token_budget > 0) return most;
  const int64_t cached = kCachedBytes / (own_numbers_ * static_cast<int64_t>(sizeof(float)));
  return std::min(most, in_.threads * std::max(cached, kEnoughRows));
}

ForwardLimits GenerationSchedule::limits() const { return {in_.threads, most_prompt_ + most_own_, most_prompt_, most_own_}; }

std::vector<Completion> GenerationSchedule::run(Forward& forward, Team& team) {
  while (!over_budget()) {
    admit();
    if (open_.empty()) break;
    read_prompts(forward, team);
    read_begun(forward, team);
    draw_first(forward, team);
    if (over_budget()) break;
    draw_next(forward, team);
    report();
  }
  if (in_.progress) in_.progress(made_, finished_);
  return std::move(completions_);
}

void GenerationSchedule::report() {
  if (!in_.progress || made_ - reported_ < kReportEvery) return;
  reported_ = made_;
  in_.progress(made_, finished_);
}

void GenerationSchedule::admit() {
  while (!free_slots_.empty() && next_ < static_cast<int64_t>(completions_.size())) admit_next();
}

void GenerationSchedule::admit_next() {
  Sequence s;
  s.completion = next_++;
  Completion& c = completions_[s.completion];
  s.max_tokens = max_tokens_of(in_.requests[c.request], in_.sampling);
  if (!c.tokens.empty() && ending_.reached(c, s.tail, 0, s.max_tokens)) {   // continued, but there is nothing to add
    ++finished_;
    return leave_prompt(c.request);
  }
  Prompt& p = prompts_[c.request];
  ++p.open;
  if (p.slot < 0) {
    p.slot = free_prompt_slots_.back(), free_prompt_slots_.pop_back();
    p.cache = {prompt_memory_ + p.slot * prompt_numbers_, prompt_capacity_};
    p.hidden.resize(hidden_size_), p.read = false;
  }
  s.slot = free_slots_.back(), free_slots_.pop_back();
  s.cache = {own_memory_ + s.slot * own_numbers_, own_capacity_};
  open_.push_back(std::move(s));
}

// All prompts that are new, in chunks of rows that see those before them.
void GenerationSchedule::read_prompts(Forward& forward, Team& team) {
  std::vector<std::pair<int64_t, int64_t>> fresh;   // request, tokens read
  for (const Sequence& s : open_) {
    const int64_t request = completions_[s.completion].request;
    if (!std::exchange(prompts_[request].read, true)) fresh.emplace_back(request, 0);
  }
  while (!fresh.empty()) {
    pass_.clear(), pass_.layers = true;
    for (auto& [request, done] : fresh) {
      if (static_cast<int64_t>(pass_.rows.size()) >= kReadRows) break;
      const std::vector<int32_t>& tokens = in_.requests[request].prompt;
      Prompt& p = prompts_[request];
      const int64_t first = done, size = static_cast<int64_t>(tokens.size());
      for (done = std::min(size, first + Forward::kMostRows); const int64_t i : std::views::iota(first, done)) {
        PassRow& row = pass_.rows.emplace_back();
        row.token = tokens[i], row.position = static_cast<int32_t>(i), row.shared = p.cache, row.shared_keys = row.position + 1;
        row.to_shared = true, row.joined = i > first, row.keep = i + 1 == size ? p.hidden.data() : nullptr;
      }
    }
    forward.run(pass_, team);
    std::erase_if(fresh, [&](const auto& f) { return f.second == static_cast<int64_t>(in_.requests[f.first].prompt.size()); });
  }
}

// Row of token `index` of a sequence.
PassRow GenerationSchedule::sequence_row(const Sequence& s, int64_t index) const {
  const Completion& c = completions_[s.completion];
  PassRow row;
  row.shared_keys = static_cast<int32_t>(in_.requests[c.request].prompt.size());
  row.token = c.tokens[index], row.position = row.shared_keys + static_cast<int32_t>(index), row.own_keys = static_cast<int32_t>(index) + 1;
  row.shared = prompts_[c.request].cache, row.own = s.cache;
  return row;
}

// Tokens that continued sequences came with, but for the last, which draws the next one as ever.
void GenerationSchedule::read_begun(Forward& forward, Team& team) {
  for (Sequence& s : open_) {
    const int64_t known = static_cast<int64_t>(completions_[s.completion].tokens.size()) - 1;
    for (; s.read < known; forward.run(pass_, team)) {
      pass_.clear(), pass_.layers = true;
      const int64_t first = s.read;
      for (s.read = std::min(known, first + Forward::kMostRows); const int64_t i : std::views::iota(first, s.read)) {
        pass_.rows.push_back(sequence_row(s, i));
        pass_.rows.back().joined = i > first;
      }
    }
  }
}

void GenerationSchedule::add_draw(PassRow& row, const Sequence& s) {
  const Completion& c = completions_[s.completion];
  const GenerationRequest& request = in_.requests[c.request];
  if (row.num_draws++ == 0) row.first_draw = static_cast<int32_t>(pass_.draws.size());
  pass_.draws.push_back({request.key, static_cast<uint32_t>(c.sample), static_cast<uint32_t>(request.prompt.size() + c.tokens.size()), {}});
}

// The first tokens, all from the final state of their prompt's last token.
void GenerationSchedule::draw_first(Forward& forward, Team& team) {
  pass_.clear(), pass_.layers = false;
  std::vector<int64_t> drawn;
  int64_t request = -1;
  for (size_t i = 0; i < open_.size() && static_cast<int64_t>(drawn.size()) < budget_left(); ++i) {
    const Completion& c = completions_[open_[i].completion];
    if (!c.tokens.empty()) continue;
    if (std::exchange(request, c.request) != c.request) pass_.rows.emplace_back().hidden = prompts_[c.request].hidden.data();
    add_draw(pass_.rows.back(), open_[i]);
    drawn.push_back(static_cast<int64_t>(i));
  }
  forward.run(pass_, team);
  take_draws(drawn);
}

void GenerationSchedule::draw_next(Forward& forward, Team& team) {
  pass_.clear(), pass_.layers = true;
  std::vector<int64_t> drawn;
  for (size_t i = 0; i < open_.size() && static_cast<int64_t>(i) < budget_left(); ++i) {
    pass_.rows.push_back(sequence_row(open_[i], static_cast<int64_t>(completions_[open_[i].completion].tokens.size()) - 1));
    add_draw(pass_.rows.back(), open_[i]);
    open_[i].read += 1;
    drawn.push_back(static_cast<int64_t>(i));
  }
  forward.run(pass_, team);
  take_draws(drawn);
}

void GenerationSchedule::take_draws(const std::vector<int64_t>& drawn) {
  for (size_t i = 0; i < drawn.size(); ++i) {
    Sequence& s = open_[drawn[i]];
    Completion& c = completions_[s.completion];
    const DrawnToken& token = pass_.draws[i].drawn;
    if (token.token < 0)
      throw RunError(fmt::format("request {}, sample {}: the logits of token {} are not finite: has training diverged?", c.request, c.sample,
                                 c.tokens.size()));
    c.tokens.push_back(token.token), c.logprobs.push_back(token.logprob);
    ++made_;
    if (ending_.reached(c, s.tail, c.tokens.size() - 1, s.max_tokens)) close(s);
  }
  std::erase_if(open_, [](const Sequence& s) { return s.slot < 0; });
}

void GenerationSchedule::close(Sequence& s) {
  ++finished_;
  free_slots_.push_back(std::exchange(s.slot, -1));
  --prompts_[completions_[s.completion].request].open;
  leave_prompt(completions_[s.completion].request);
}

// A prompt is kept while a sequence of it is open or the next one to come.
void GenerationSchedule::leave_prompt(int64_t request) {
  Prompt& p = prompts_[request];
  const bool more = next_ < static_cast<int64_t>(completions_.size()) && completions_[next_].request == request;
  if (p.slot >= 0 && p.open == 0 && !more) free_prompt_slots_.push_back(std::exchange(p.slot, -1));
}

}  // namespace trimtab
