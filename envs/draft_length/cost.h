// What a round of speculative decoding takes: the cost model as data, so that a controller can be scored again for other hardware.
//
//   T(k) = overhead + k draft + max(verify, verify_token batch (k + 1)) + round_trip + k payload / uplink
//
// Milliseconds. The target reads its weights once however few tokens it verifies (`verify`) until arithmetic is what it waits for
// (`verify_token` per token of the batch): a roof model, as in SmartSpec (arXiv 2406.14066).
#pragma once

#include <cstdint>

#include "core/options.h"

namespace trimtab {

struct DraftCost {
  double draft = 0.15, draft_token = 0;       // ms: a pass of the draft model, and what each sequence of the batch adds
  double verify = 1, verify_token = 0;        // ms
  double overhead = 0;                        // ms per round
  double round_trip = 0;                      // ms: between the edge, which drafts, and the cloud, which verifies
  double payload_bits = 0;                    // of a drafted token on the uplink
  void describe(Fields& f);
  void validate() const;

  // `uplink`: bits per ms; 0 bits of payload: none is needed.
  double token_ms(int64_t batch, double uplink) const { return draft + draft_token * static_cast<double>(batch) + (payload_bits > 0 ? payload_bits / uplink : 0); }
  double round_ms(int64_t drafted, int64_t batch) const;   // all but the tokens'
};

}  // namespace trimtab
