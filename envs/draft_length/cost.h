// What a round of speculative decoding takes: the cost model as data, so that a controller can be scored again for other hardware.
//
//   T(k) = overhead + k (draft + draft_token batch + payload / uplink) + max(verify_least, verify + verify_token batch (k + 1)) + round_trip
//
// Milliseconds. A target's pass takes a time that grows with the tokens in it (linear, as SmartSpec fits it, arXiv 2406.14066), and never
// less than reading its weights (`verify_least`).
#pragma once

#include <cstdint>

#include "core/options.h"

namespace trimtab {

struct DraftCost {
  double draft = 0.15, draft_token = 0;       // ms: a pass of the draft model, and what each sequence of the batch adds
  double verify = 1, verify_token = 0, verify_least = 0;   // ms
  double overhead = 0;                        // ms per round
  double round_trip = 0;                      // ms: between the edge, which drafts, and the cloud, which verifies
  double payload_bits = 0;                    // of a drafted token on the uplink
  void describe(Fields& f);
  void validate() const;

  double draft_ms(int64_t batch) const { return draft + draft_token * static_cast<double>(batch); }   // of a token, without its way
  double round_ms(int64_t drafted, int64_t batch) const;   // all but the tokens'
};

}  // namespace trimtab
