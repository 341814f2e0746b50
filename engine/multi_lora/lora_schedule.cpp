#include "engine/multi_lora/lora_schedule.h"

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "engine/generation/checks.h"
#include "kernels/two_piece_attention/two_piece_attention.h"

namespace trimtab {
namespace {

constexpr int64_t kReadRows = 1024;   // of prompts in one step, about
constexpr int64_t kChunk = LoraForward::kMostRows;

}  // namespace

LoraSchedule::LoraSchedule(const Inputs& in, const PackedModel& model, const CacheMemory& caches)
    : in_(in), hidden_size_(model.config().hidden_size), prompts_(in.requests.size()), ending_(in.stop, model.config().vocab_size) {
  list_completions();
  prompt_capacity_ = key_blocks_of(most_prompt_) * kKeyBlock, own_capacity_ = key_blocks_of(std::max<int64_t>(most_own_, 1)) * kKeyBlock;
  prompt_numbers_ = Forward::cache_numbers(model, prompt_capacity_), own_numbers_ = Forward::cache_numbers(model, own_capacity_);
  const int64_t slots = std::min(in.options.max_sequences, static_cast<int64_t>(completions_.size()));
  const int64_t prompt_slots = std::min(slots, static_cast<int64_t>(in.requests.size()));
  prompt_memory_ = caches(prompt_slots * prompt_numbers_ + slots * own_numbers_), own_memory_ = prompt_memory_ + prompt_slots * prompt_numbers_;
  for (int64_t i = slots; i-- > 0;) free_slots_.push_back(i);
  for (int64_t i = prompt_slots; i-- > 0;) free_prompt_slots_.push_back(i);
}

void LoraSchedule::list_completions() {
  for (size_t r = 0; r < in_.requests.size(); ++r) {
    const GenerationRequest& request = in_.requests[r];
    most_prompt_ = std::max(most_prompt_, prompt_size(static_cast<int64_t>(r)));
    most_own_ = std::max(most_own_, max_tokens_of(request, in_.sampling) - 1);   // the last token is not read again
    for (int64_t s = 0; s < request.samples; ++s) {
      Completion& c = completions_.emplace_back();
      c.request = static_cast<int64_t>(r), c.sample = request.first_sample + s, c.finish = Finish::kUnfinished;
      if (!request.begun.empty()) c.tokens = request.begun[s].tokens, c.logprobs = request.begun[s].logprobs;
    }
  }
}

std::vector<Completion> LoraSchedule::run(LoraForward& forward, Team& team) {
  const auto over_budget = [&] { return in_.options.token_budget > 0 && made_ >= in_.options.token_budget; };
  while (!over_budget()) {
    while (!free_slots_.empty() && next_ < static_cast<int64_t>(completions_.size())) admit_next();
    if (open_.empty()) break;
    add_rows();
    forward.run(rows_, team);
    add_draws();
    forward.draw(draws_, team);
    take_draws();
  }
  return std::move(completions_);
}

void LoraSchedule::admit_next() {
  Sequence s;
  s.completion = next_++;
  Completion& c = completions_[s.completion];
  s.max_tokens = max_tokens_of(in_.requests[c.request], in_.sampling);
  if (!c.tokens.empty() && ending_.reached(c, s.tail, 0, s.max_tokens)) return leave_prompt(c.request);   // continued, but there is nothing to add
  Prompt& p = prompts_[c.request];
  ++p.open;
  if (p.slot < 0) {
    p.slot = free_prompt_slots_.back(), free_prompt_slots_.pop_back();
    p.cache = {prompt_memory_ + p.slot * prompt_numbers_, prompt_capacity_};
    p.hidden.resize(hidden_size_), p.read = 0;
  }
  s.slot = free_slots_.back(), free_slots_.pop_back();
  s.cache = {own_memory_ + s.slot * own_numbers_, own_capacity_};
  s.hidden.resize(hidden_size_);
  open_.push_back(std::move(s));
}

void LoraSchedule::add_rows() {
  rows_.clear();
  for (Sequence& s : open_) {
    const int64_t request = completions_[s.completion].request;
    const bool unread = prompts_[request].read < prompt_size(request);
    if (unread && static_cast<int64_t>(rows_.size()) < kReadRows) add_prompt(request);
    if (prompts_[request].read == prompt_size(request)) add_tokens(s);
  }
}

void LoraSchedule::add_prompt(int64_t request) {
  Prompt& p = prompts_[request];
  const std::vector<int32_t>& tokens = in_.requests[request].prompt;
  for (const int64_t end = std::min(prompt_size(request), p.read + kChunk); p.read < end; ++p.read) {
    LoraRow& row = rows_.emplace_back();
    row.token = tokens[p.read], row.position = static_cast<int32_t>(p.read), row.adapter = in_.adapters[request];
    row.shared = p.cache, row.shared_keys = row.position + 1, row.to_shared = true;
    row.hidden = p.read + 1 == prompt_size(request) ? p.hidden.data() : nullptr;
  }
}

void LoraSchedule::add_tokens(Sequence& s) {
  const Completion& c = completions_[s.completion];
  const Prompt& p = prompts_[c.request];
  const int64_t known = static_cast<int64_t>(c.tokens.size()), prompt = prompt_size(c.request);
  for (const int64_t end = std::min(known, s.read + kChunk); s.read < end; ++s.read) {
    LoraRow& row = rows_.emplace_back();
    row.token = c.tokens[s.read], row.position = static_cast<int32_t>(prompt + s.read), row.adapter = in_.adapters[c.request];
    row.shared = p.cache, row.shared_keys = static_cast<int32_t>(prompt), row.own = s.cache, row.own_keys = static_cast<int32_t>(s.read) + 1;
    row.hidden = s.read + 1 == known ? s.hidden.data() : nullptr;
  }
}

bool LoraSchedule::ready(const Sequence& s) const {
  const Completion& c = completions_[s.completion];
  return prompts_[c.request].read == prompt_size(c.request) && s.read == static_cast<int64_t>(c.tokens.size());
}

void LoraSchedule::add_draws() {
  draws_.clear(), drawn_.clear();
  const int64_t most = in_.options.token_budget > 0 ? in_.options.token_budget - made_ : INT64_MAX;
  for (size_t i = 0; i < open_.size() && static_cast<int64_t>(draws_.size()) < most; ++i) {
    const Sequence& s = open_[i];
    if (!ready(s)) continue;
    const Completion& c = completions_[s.completion];
    const float* hidden = c.tokens.empty() ? prompts_[c.request].hidden.data() : s.hidden.data();
    draws_.push_back({hidden, in_.requests[c.request].key, static_cast<uint32_t>(c.sample),
                      static_cast<uint32_t>(prompt_size(c.request) + static_cast<int64_t>(c.tokens.size())), {}});
    drawn_.push_back(static_cast<int64_t>(i));
  }
}

void LoraSchedule::take_draws() {
  for (size_t i = 0; i < draws_.size(); ++i) {
    Sequence& s = open_[drawn_[i]];
    Completion& c = completions_[s.completion];
    const DrawnToken& drawn = draws_[i].drawn;
    add_drawn(drawn, c);
    ++made_;
    if (ending_.reached(c, s.tail, c.tokens.size() - 1, s.max_tokens)) close(s);
  }
  std::erase_if(open_, [](const Sequence& s) { return s.slot < 0; });
}

void LoraSchedule::close(Sequence& s) {
  const int64_t request = completions_[s.completion].request;
  free_slots_.push_back(std::exchange(s.slot, -1));
  --prompts_[request].open;
  leave_prompt(request);
}

// A prompt is kept while a sequence of it is open or the next one to come.
void LoraSchedule::leave_prompt(int64_t request) {
  Prompt& p = prompts_[request];
  const bool more = next_ < static_cast<int64_t>(completions_.size()) && completions_[next_].request == request;
  if (p.slot >= 0 && p.open == 0 && !more) free_prompt_slots_.push_back(std::exchange(p.slot, -1));
}

}  // namespace trimtab
