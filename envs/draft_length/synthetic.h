// Made-up drafts whose best controller is known. Positions of the text are easy or hard, a Markov chain; a draft at an easy one is
// accepted with one probability, at a hard one with another. What a controller sees of a drafted token is a noisy sign of its position's
// mood; the mood of the last committed token it knows (the target has verified it).
//
// Positions that a round drafted without committing are drawn again by the next round, so nothing is learned about them but what this
// round's signs say: the optimum over all controllers is then a dynamic programme over the signs of a round (optimum.h).
#pragma once

#include <array>

#include "core/options.h"
#include "envs/draft_length/source.h"

namespace trimtab {

struct SyntheticDraftOptions {
  double accept_easy = 0.97, accept_hard = 0.45;   // probability that a drafted token is accepted
  double stay_easy = 0.92, stay_hard = 0.75;       // that the next position is like this one
  double signal = 0.9;                             // that the sign shows the true mood
  int64_t length = 256, most_drafted = 8;          // tokens
  void describe(Fields& f);

  std::array<double, 2> accept() const { return {accept_easy, accept_hard}; }
  double to_hard(int mood) const { return mood == 0 ? 1 - stay_easy : stay_hard; }
};

class SyntheticDrafts final : public DraftSource {
 public:
  explicit SyntheticDrafts(const SyntheticDraftOptions& options) : options_(options) {}
  int64_t texts() const override { return 1 << 20; }
  int64_t most_drafted() const override { return options_.most_drafted; }
  void begin(DraftPlace& place, int64_t text) const override;
  int64_t left(const DraftPlace& place) const override { return options_.length - place.position; }
  int64_t committed(const DraftPlace&, int64_t tokens) const override { return tokens; }   // the last round counts whole
  float last_entropy(const DraftPlace& place) const override { return static_cast<float>(place.mood); }
  DraftCandidate look(const DraftPlace& place, int64_t depth) const override;
  void advance(DraftPlace& place, int64_t tokens) const override;

 private:
  int32_t mood_at(const DraftPlace& place, int64_t depth) const;   // -1: the last committed token's

  SyntheticDraftOptions options_;
};

}  // namespace trimtab
