#include "engine/diffusion/diffusion_passes.h"

#include <algorithm>
#include <chrono>

#include "kernels/two_piece_attention/two_piece_attention.h"

namespace trimtab {
namespace {

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace

DiffusionPasses::DiffusionPasses(const DiffusionInputs& in, const PackedModel& model, Region& caches) : in_(in), config_(model.config()) {
  for (size_t r = 0; r < in.requests.size(); ++r) {
    const GenerationRequest& q = in.requests[r];
    most_rows_ = std::max(most_rows_, static_cast<int64_t>(q.prompt.size()) + longest_of(q, in.options));
    for (int64_t s = 0; s < q.samples; ++s) {
      DiffusionCompletion& c = completions_.emplace_back();
      c.request = static_cast<int64_t>(r), c.sample = q.first_sample + s;
    }
  }
  const int64_t slots = std::min<int64_t>(in.options.max_sequences, static_cast<int64_t>(completions_.size()));
  capacity_ = key_blocks_of(most_rows_) * kKeyBlock, numbers_ = Forward::cache_numbers(model, capacity_);
  caches.reserve(slots * numbers_);
  caches_ = caches.data();
  for (int64_t i = slots; i-- > 0;) free_slots_.push_back(i);
  for (int t = 0; t < in.threads; ++t) proposers_.emplace_back(config_.vocab_size, in.model.mask_id, in.sampling.temperature);
  pass_.read = [this](int64_t row, float* logits, int thread) { read(row, logits, thread); };
}

ForwardLimits DiffusionPasses::limits() const { return {in_.threads, most_rows_, most_rows_, 0, most_rows_}; }

std::vector<DiffusionCompletion> DiffusionPasses::run(Forward& forward, Team& team, DiffusionTimes& times) {
  const double start = seconds();
  for (admit(); !open_.empty(); admit()) {
    pass_.clear(), asked_.clear();
    for (Open& open : open_) add_rows(open);
    forward.run(pass_, team);
    ++times.passes, times.rows += static_cast<int64_t>(pass_.rows.size());
    for (Open& open : open_) open.answer.judge(in_.control, in_.observer);
    for (Open& open : open_)
      if (open.answer.over()) close(open, times);
    open_.remove_if([](const Open& open) { return open.slot < 0; });
  }
  times.total_s = seconds() - start;
  return std::move(completions_);
}

void DiffusionPasses::admit() {
  while (!free_slots_.empty() && next_ < static_cast<int64_t>(completions_.size())) {
    const int64_t number = next_++;
    const DiffusionCompletion& c = completions_[number];
    const GenerationRequest& q = in_.requests[c.request];
    open_.push_back({DiffusionAnswer({in_.model, in_.options, q.prompt, q.key, number, length_of(q, in_.options), config_.vocab_size, config_.hidden_size}),
                     free_slots_.back(), c.request, c.sample});
    free_slots_.pop_back();
    in_.control.begin(number);
  }
}

void DiffusionPasses::add_rows(Open& open) {
  open.answer.plan();
  bool first = true;
  for (const int32_t row : open.answer.rows()) {
    PassRow& r = pass_.rows.emplace_back();
    r.token = open.answer.token(row), r.position = r.key_at = row, r.to_shared = true, r.joined = !std::exchange(first, false);
    r.shared = {caches_ + open.slot * numbers_, capacity_}, r.shared_keys = static_cast<int32_t>(open.answer.visible(row));
    r.keep = open.answer.hidden_of(row);
    const int64_t position = open.answer.position_of(row);
    r.read = position >= 0;
    asked_.push_back({&open, position});
  }
}

void DiffusionPasses::read(int64_t row, float* logits, int thread) {
  const Asked& a = asked_[row];
  a.open->answer.propose(a.position, logits, proposers_[thread], in_.sampling, a.open->sample);
}

void DiffusionPasses::close(Open& open, DiffusionTimes& times) {
  DiffusionCompletion& c = completions_[open.answer.number()];
  c = open.answer.completion();
  c.request = open.request, c.sample = open.sample;
  times.tokens += static_cast<int64_t>(c.commits.size());
  free_slots_.push_back(std::exchange(open.slot, -1));
}

}  // namespace trimtab
