#include "engine/multi_lora/agent_schedule.h"

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "engine/generation/checks.h"
#include "kernels/two_piece_attention/two_piece_attention.h"

namespace trimtab {

AgentSchedule::AgentSchedule(const Inputs& in, const PackedModel& model, Region& caches)
    : in_(in), hidden_size_(model.config().hidden_size), ending_(in.stop, model.config().vocab_size) {
  for (size_t r = 0; r < in.requests.size(); ++r) {
    most_own_ = std::max(most_own_, max_tokens_of(in.requests[r], in.sampling));   // the text's last token, and all but the last drawn
    for (int64_t s = 0; s < in.requests[r].samples; ++s)
      completions_.push_back({static_cast<int64_t>(r), in.requests[r].first_sample + s, {}, {}, Finish::kUnfinished});
  }
  own_capacity_ = key_blocks_of(most_own_) * kKeyBlock, own_numbers_ = Forward::cache_numbers(model, own_capacity_);
  const int64_t slots = std::min(in.options.max_sequences, static_cast<int64_t>(completions_.size()));
  caches.reserve(slots * own_numbers_);
  memory_ = caches.data();
  for (int64_t i = slots; i-- > 0;) free_slots_.push_back(i);
}

std::vector<Completion> AgentSchedule::run(LoraForward& forward, Team& team) {
  const int64_t budget = in_.options.token_budget > 0 ? in_.options.token_budget : INT64_MAX;
  for (admit(); !open_.empty() && made_ < budget; admit()) {
    const size_t n = static_cast<size_t>(std::min<int64_t>(static_cast<int64_t>(open_.size()), budget - made_));
    rows_.clear(), draws_.clear();
    for (size_t i = 0; i < n; ++i) add_row(open_[i]);
    forward.run(rows_, team);
    forward.draw(draws_, team);
    for (size_t i = 0; i < n; ++i) take(open_[i], draws_[i].drawn);
    std::erase_if(open_, [](const Sequence& s) { return s.slot < 0; });
  }
  return std::move(completions_);
}

void AgentSchedule::admit() {
  while (!free_slots_.empty() && next_ < static_cast<int64_t>(completions_.size())) {
    Sequence s;
    s.completion = next_++, s.slot = free_slots_.back(), free_slots_.pop_back();
    s.max_tokens = max_tokens_of(in_.requests[completions_[s.completion].request], in_.sampling);
    s.hidden.resize(hidden_size_);
    open_.push_back(std::move(s));
  }
}

void AgentSchedule::add_row(Sequence& s) {
  const Completion& c = completions_[s.completion];
  const GenerationRequest& request = in_.requests[c.request];
  const int32_t made = static_cast<int32_t>(c.tokens.size()), shared = static_cast<int32_t>(in_.text.size()) - 1;
  rows_.push_back({.token = c.tokens.empty() ? in_.text.back() : c.tokens.back(), .position = shared + made, .adapter = in_.adapters[c.request],
                   .own = {memory_ + s.slot * own_numbers_, own_capacity_}, .shared_keys = shared, .own_keys = made + 1, .hidden = s.hidden.data()});
  draws_.push_back({s.hidden.data(), request.key, static_cast<uint32_t>(c.sample), static_cast<uint32_t>(shared + 1 + made), {}});
}

void AgentSchedule::take(Sequence& s, const DrawnToken& drawn) {
  Completion& c = completions_[s.completion];
  add_drawn(drawn, c);
  ++made_;
  if (ending_.reached(c, s.tail, c.tokens.size() - 1, s.max_tokens)) free_slots_.push_back(std::exchange(s.slot, -1));
}

}  // namespace trimtab
