// Combining of retransmissions at the level of effective SINRs, the two ways 5G-LENA and others abstract it;
// the formulas are in Lagen et al., "New radio physical layer abstraction for system-level simulations of 5G
// networks", ICC 2020.
#include "core/error.h"
#include "domain/radio/link.h"

namespace trimtab::radio {

void chase_combine(std::span<float> accumulated, std::span<const float> received) {
  TT_CHECK(!accumulated.empty(), "nothing was sent before");
  size_t at = 0;
  for (const float sinr : received) {
    accumulated[at] += sinr;
    if (++at == accumulated.size()) at = 0;
  }
}

}  // namespace trimtab::radio
