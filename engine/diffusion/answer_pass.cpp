#include "engine/diffusion/answer_pass.h"

#include <utility>

#include "kernels/two_piece_attention/two_piece_attention.h"

namespace trimtab {

AnswerPass::AnswerPass(const DiffusionModel& facts, const DiffusionSampling& sampling, const PackedModel& model, const Limits& limits, Region& caches)
    : sampling_(sampling), limits_(limits) {
  capacity_ = key_blocks_of(limits.rows) * kKeyBlock, numbers_ = Forward::cache_numbers(model, capacity_);
  caches.reserve(limits.slots * numbers_);
  caches_ = caches.data();
  for (int t = 0; t < limits.threads; ++t) proposers_.emplace_back(model.config().vocab_size, facts.mask_id, sampling.temperature);
  pass_.read = [this](int64_t row, float* logits, int thread) { read(row, logits, thread); };
}

int64_t AnswerPass::run(std::span<const Place> places, Forward& forward, Team& team) {
  pass_.clear(), asked_.clear();
  for (const Place& place : places) add_rows(place);
  forward.run(pass_, team);
  for (const Place& place : places) place.answer->look();
  return static_cast<int64_t>(pass_.rows.size());
}

void AnswerPass::add_rows(const Place& place) {
  DiffusionAnswer& answer = *place.answer;
  answer.plan();
  bool first = true;
  for (const int32_t row : answer.rows()) {
    PassRow& r = pass_.rows.emplace_back();
    r.token = answer.token(row), r.position = r.key_at = row, r.to_shared = true, r.joined = !std::exchange(first, false);
    r.shared = {caches_ + place.slot * numbers_, capacity_}, r.shared_keys = static_cast<int32_t>(answer.visible(row));
    r.keep = answer.hidden_of(row);
    const int64_t position = answer.position_of(row);
    r.read = position >= 0;
    asked_.push_back({&place, position});
  }
}

void AnswerPass::read(int64_t row, float* logits, int thread) {
  const Asked& a = asked_[row];
  a.place->answer->propose(a.position, logits, proposers_[thread], sampling_, a.place->sample);
}

}  // namespace trimtab
