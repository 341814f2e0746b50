#include "envs/draft_length/synthetic.h"

#include "core/random.h"
#include "envs/draft_length/draft_length.h"

namespace trimtab {
namespace {

std::array<uint32_t, 4> words_at(const DraftPlace& p, int64_t depth) {
  return random_words(p.key.seed, Stream::kWorld, {static_cast<uint32_t>(p.key.episode), static_cast<uint32_t>(p.key.episode >> 32), static_cast<uint32_t>(p.position),
                                                   static_cast<uint32_t>(depth)});
}

}  // namespace

void SyntheticDraftOptions::describe(Fields& f) {
  f.number("accept_easy", accept_easy, {.low = 0, .high = 1, .doc = "probability that a token drafted at an easy position is accepted"});
  f.number("accept_hard", accept_hard, {.low = 0, .high = 1, .doc = "the same at a hard one"});
  f.number("stay_easy", stay_easy, {.low = 0, .high = 1, .doc = "probability that an easy position is followed by an easy one"});
  f.number("stay_hard", stay_hard, {.low = 0, .high = 1, .doc = "that a hard one is followed by a hard one"});
  f.number("signal", signal, {.low = 0.5, .high = 1, .doc = "probability that what is seen of a drafted token shows its position's mood"});
  f.integer("length", length, {.low = 1, .high = 1 << 20, .unit = "tokens", .doc = "of a text"});
  f.integer("most_drafted", most_drafted, {.low = 1, .high = 12, .unit = "tokens", .doc = "in a round"});
}

void SyntheticDrafts::begin(DraftPlace& place, int64_t text) const {
  place.text = text, place.position = 0;
  const double hard = options_.to_hard(0) / (options_.to_hard(0) + 1 - options_.stay_hard);   // as often as in the long run
  place.mood = uniform01(words_at(place, -2)[0]) < hard;
}

int32_t SyntheticDrafts::mood_at(const DraftPlace& place, int64_t depth) const {
  int32_t mood = place.mood;
  for (int64_t d = 0; d <= depth; ++d) mood = uniform01(words_at(place, d)[0]) < options_.to_hard(mood);
  return mood;
}

DraftCandidate SyntheticDrafts::look(const DraftPlace& place, int64_t depth) const {
  const int32_t mood = mood_at(place, depth);
  const auto words = words_at(place, depth);
  const bool shown = uniform01(words[1]) < options_.signal;
  DraftCandidate out;
  const float sign = static_cast<float>(shown ? mood : 1 - mood);
  out.token = {0, -sign, sign, 1 - sign / 2, 1 - sign / 2, {}};
  out.accept = out.alpha = static_cast<float>(options_.accept()[mood]);
  out.accepted = uniform01(words[2]) < out.accept;
  return out;
}

void SyntheticDrafts::advance(DraftPlace& place, int64_t tokens) const {
  place.mood = mood_at(place, tokens - 1);
  place.position += tokens;
}

TT_REGISTER(DraftSourceEntry, synthetic,
            {.name = "synthetic", .doc = "made-up drafts whose optimum is known", .make = [](const DraftLengthOptions& o, const std::vector<std::string>&) {
               return std::make_unique<SyntheticDrafts>(o.synthetic);
             }});

}  // namespace trimtab
