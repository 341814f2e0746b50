#include "engine/diffusion/diffusion_passes.h"

#include <chrono>
#include <utility>

namespace trimtab {
namespace {

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

std::vector<DiffusionCompletion> empty_completions(std::span<const GenerationRequest> requests) {
  std::vector<DiffusionCompletion> out;
  for (size_t r = 0; r < requests.size(); ++r) {
    for (int64_t s = 0; s < requests[r].samples; ++s) {
      DiffusionCompletion& c = out.emplace_back();
      c.request = static_cast<int64_t>(r), c.sample = requests[r].first_sample + s;
    }
  }
  return out;
}

}  // namespace

DiffusionPasses::DiffusionPasses(const DiffusionInputs& in, const PackedModel& model, Region& caches)
    : in_(in), config_(model.config()), completions_(empty_completions(in.requests)),
      pass_(in.model, in.sampling, model, {slots(), most_rows(), in.threads}, caches) {
  for (int64_t i = slots(); i-- > 0;) free_slots_.push_back(i);
}

int64_t DiffusionPasses::most_rows() const {
  int64_t out = 0;
  for (const GenerationRequest& q : in_.requests) out = std::max(out, static_cast<int64_t>(q.prompt.size()) + longest_of(q, in_.options));
  return out;
}

std::vector<DiffusionCompletion> DiffusionPasses::run(Forward& forward, Team& team, DiffusionTimes& times) {
  const double start = seconds();
  for (admit(); !open_.empty(); admit()) {
    places_.clear();
    for (Open& open : open_) places_.push_back({&open.answer, open.slot, open.sample});
    ++times.passes, times.rows += pass_.run(places_, forward, team);
    for (Open& open : open_) {
      open.answer.open(in_.control);
      open.answer.decide(in_.control, in_.observer);
    }
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

void DiffusionPasses::close(Open& open, DiffusionTimes& times) {
  DiffusionCompletion& c = completions_[open.answer.number()];
  c = open.answer.completion();
  c.request = open.request, c.sample = open.sample;
  times.tokens += static_cast<int64_t>(c.commits.size());
  free_slots_.push_back(std::exchange(open.slot, -1));
}

}  // namespace trimtab
