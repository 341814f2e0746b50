#include "envs/draft_length/cost.h"

#include <algorithm>

#include "core/error.h"

namespace trimtab {

void DraftCost::describe(Fields& f) {
  f.number("draft", draft, {.low = 0, .high = 1e6, .unit = "ms", .doc = "a pass of the draft model"});
  f.number("draft_token", draft_token, {.low = 0, .high = 1e6, .unit = "ms", .doc = "what every sequence of the batch adds to it"});
  f.number("verify", verify, {.low = 1e-9, .high = 1e6, .unit = "ms", .doc = "a pass of the target"});
  f.number("verify_token", verify_token, {.low = 0, .high = 1e6, .unit = "ms", .doc = "what every token of the batch adds to it"});
  f.number("verify_least", verify_least, {.low = 0, .high = 1e6, .unit = "ms", .doc = "that a pass takes however few its tokens: reading the weights"});
  f.number("overhead", overhead, {.low = 0, .high = 1e6, .unit = "ms", .doc = "of a round"});
  f.number("round_trip", round_trip, {.low = 0, .high = 1e6, .unit = "ms", .doc = "between drafting edge and verifying cloud, once a round"});
  f.number("payload_bits", payload_bits, {.low = 0, .high = 1e6, .unit = "bit", .doc = "of a drafted token on the uplink: its id, and what verification needs of q"});
}
void DraftCost::validate() const {
  if (draft + draft_token == 0 && payload_bits == 0) throw ConfigError("cost: drafting costs nothing, so longer is always better: set draft above 0");
}

double DraftCost::round_ms(int64_t drafted, int64_t batch) const {
  return overhead + round_trip + std::max(verify_least, verify + verify_token * static_cast<double>(batch * (drafted + 1)));
}

}  // namespace trimtab
