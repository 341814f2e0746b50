// Where drafted tokens come from: a recording of a real pair of models (recorded.h) or a made-up chain (synthetic.h).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/registry.h"
#include "engine/speculative/draft_control.h"
#include "envs/environment.h"

namespace trimtab {

// A point between two rounds: all before it is committed.
struct DraftPlace {
  WorldKey key;
  int64_t text = 0, position = 0;
  int32_t mood = 0;                       // of a synthetic chain
  // Of a live pair:
  std::vector<int32_t> tokens = {};       // of the answer so far
  float entropy = 0;                      // of the target, where the last of them came from
  uint8_t over = 0;
  void serialise(Archive& a) { a(key), a(text), a(position), a(mood), a(tokens), a(entropy), a(over); }
};

// A token that the draft would add at some depth, with what only an oracle knows of it.
struct DraftCandidate {
  DraftedToken token;
  float accept = 1;        // min(1, p / q) of this token
  float alpha = 1;         // probability that a token drawn here is accepted: sum of min(p, q)
  bool accepted = true;    // what verification will say, should all before it hold
};

class DraftSource {
 public:
  virtual ~DraftSource() = default;
  virtual int64_t texts() const = 0;
  virtual int64_t most_drafted() const = 0;
  virtual int64_t hidden_size() const { return 0; }
  virtual void begin(DraftPlace& place, int64_t text) const = 0;       // place.key is set
  virtual int64_t left(const DraftPlace& place) const = 0;             // tokens until the text is over; <= 0: it is
  virtual int64_t committed(const DraftPlace& place, int64_t tokens) const = 0;   // of a round's tokens, what the text still takes
  // Candidate number `depth` (from 0) of the round that begins at `place`, given that those before it were drafted.
  virtual DraftCandidate look(const DraftPlace& place, int64_t depth) const = 0;
  // The token alone, for who does not know what the target will say: a live pair then need not ask it yet.
  virtual DraftedToken drafted(const DraftPlace& place, int64_t depth) const { return look(place, depth).token; }
  virtual float last_entropy(const DraftPlace& place) const = 0;       // of the target, where the last committed token came from
  virtual void advance(DraftPlace& place, int64_t tokens) const = 0;   // a round committed them
};

struct DraftLengthOptions;
// A mode of the environment: TT_REGISTER(DraftSourceEntry, replay, {...}) in the unit that has it.
struct DraftSourceEntry {
  std::string name, doc;
  std::function<std::unique_ptr<DraftSource>(const DraftLengthOptions& options, const std::vector<std::string>& files)> make;
};

}  // namespace trimtab
