// Exponential effective SINR mapping (EESM): the SINR of a flat channel on which a block would fail as often
// as on this selective one, -beta ln mean exp(-sinr / beta). beta is calibrated per MCS: Sionna's values,
// equal to 5G-LENA's for table 1.
#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "domain/radio/link.h"

namespace trimtab::radio {

double eesm(std::span<const float> sinr, double beta) {
  double smallest = 0;
  int64_t used = 0;
  for (const float s : sinr)
    if (s > 0) smallest = used++ == 0 ? s : std::min<double>(smallest, s);
  if (used == 0) return 0;
  double sum = 0;  // of exp(-(sinr - smallest) / beta) - 1, so that small SINRs keep their digits
  for (const float s : sinr)
    if (s > 0) sum += std::expm1(-(s - smallest) / beta);
  return std::clamp(smallest - beta * std::log1p(sum / static_cast<double>(used)), 1e-3, 1e3);
}

double eesm_beta(int table, int mcs) {
  const auto schemes = mcs_table(table);
  TT_CHECK(mcs >= 0 && mcs < static_cast<int>(schemes.size()), "MCS {} of table {}", mcs, table);
  const auto betas = BlerTables::get().eesm_betas(table);
  if (mcs < static_cast<int>(betas.size())) return betas[mcs];
  if (table != 3)
    throw DataError(fmt::format(
        "no EESM calibration for MCS table {}: its 1024QAM was never calibrated; use table 1, 2 or 3",
        table));
  // Every entry of table 3 from rate 120 on is an entry of table 1, too; below that rate beta no longer
  // changes.
  const auto known = mcs_table(1);
  for (size_t i = 0; i < known.size(); ++i)
    if (known[i].modulation_order == schemes[mcs].modulation_order &&
        known[i].rate1024 >= schemes[mcs].rate1024)
      return BlerTables::get().eesm_betas(1)[i];
  TT_CHECK(false, "MCS {} of table {} is not in table 1", mcs, table);
}

}  // namespace trimtab::radio
