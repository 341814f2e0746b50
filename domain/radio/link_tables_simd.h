// The vector part of LinkTables: effective SINR and the search for the best MCS, compiled for several
// instruction sets and chosen at run time. Internal to domain/radio.
#pragma once

#include <cstddef>
#include <cstdint>

namespace trimtab::radio {

// The tables a search reads; pointers into a LinkTables.
struct McsSearch {
  const float* beta = nullptr;          // [MCS], increasing
  const float* inverse_beta = nullptr;  // [MCS]
  const float* tbler = nullptr;         // [rows][grid]
  const int32_t* row = nullptr;         // [MCS][num_prb + 1]
  const int16_t* first_met = nullptr;   // [num_prb + 1][MCS], or null: the target is not the tabulated one
  int num_prb = 0, num_mcs = 0, min_mcs = 0, grid = 0;
  bool skip_zeros = false;  // a PRB of SINR 0 is unused
};

// Users of a slot: user u owns sinr[begin[u]] .. sinr[begin[u + 1] - 1].
struct SlotSinr {
  const float* sinr = nullptr;
  const int32_t* begin = nullptr;
  size_t num_users = 0;
};

void search_mcs(const McsSearch& search, const SlotSinr& slot, const float* offset_db, float target,
                int32_t* mcs);
void slot_effective_sinr_db(const McsSearch& search, const SlotSinr& slot, const int32_t* mcs,
                            float* sinr_eff_db);

}  // namespace trimtab::radio
