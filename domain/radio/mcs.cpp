// Modulation and coding schemes of the downlink: TS 38.214 tables 5.1.3.1-1 (64QAM), -2 (256QAM), -3 (low
// spectral efficiency) and -4 (1024QAM). The indices above the last one listed are reserved for
// retransmissions.
#include <array>

#include "core/error.h"
#include "domain/radio/link.h"

namespace trimtab::radio {
namespace {

constexpr std::array<Mcs, 29> kTable1{
    {{2, 120}, {2, 157}, {2, 193}, {2, 251}, {2, 308}, {2, 379}, {2, 449}, {2, 526}, {2, 602}, {2, 679},
     {4, 340}, {4, 378}, {4, 434}, {4, 490}, {4, 553}, {4, 616}, {4, 658}, {6, 438}, {6, 466}, {6, 517},
     {6, 567}, {6, 616}, {6, 666}, {6, 719}, {6, 772}, {6, 822}, {6, 873}, {6, 910}, {6, 948}}};
constexpr std::array<Mcs, 28> kTable2{
    {{2, 120},   {2, 193}, {2, 308}, {2, 449}, {2, 602}, {4, 378}, {4, 434},   {4, 490}, {4, 553}, {4, 616},
     {4, 658},   {6, 466}, {6, 517}, {6, 567}, {6, 616}, {6, 666}, {6, 719},   {6, 772}, {6, 822}, {6, 873},
     {8, 682.5}, {8, 711}, {8, 754}, {8, 797}, {8, 841}, {8, 885}, {8, 916.5}, {8, 948}}};
constexpr std::array<Mcs, 29> kTable3{
    {{2, 30},  {2, 40},  {2, 50},  {2, 64},  {2, 78},  {2, 99},  {2, 120}, {2, 157}, {2, 193}, {2, 251},
     {2, 308}, {2, 379}, {2, 449}, {2, 526}, {2, 602}, {4, 340}, {4, 378}, {4, 434}, {4, 490}, {4, 553},
     {4, 616}, {6, 438}, {6, 466}, {6, 517}, {6, 567}, {6, 616}, {6, 666}, {6, 719}, {6, 772}}};
constexpr std::array<Mcs, 27> kTable4{
    {{2, 120}, {2, 193}, {2, 449}, {4, 378},   {4, 490}, {4, 616},    {6, 466},   {6, 517},    {6, 567},
     {6, 616}, {6, 666}, {6, 719}, {6, 772},   {6, 822}, {6, 873},    {8, 682.5}, {8, 711},    {8, 754},
     {8, 797}, {8, 841}, {8, 885}, {8, 916.5}, {8, 948}, {10, 805.5}, {10, 853},  {10, 900.5}, {10, 948}}};

}  // namespace

std::span<const Mcs> mcs_table(int table) {
  switch (table) {
    case 1:
      return kTable1;
    case 2:
      return kTable2;
    case 3:
      return kTable3;
    case 4:
      return kTable4;
  }
  throw ConfigError(
      fmt::format("MCS table {} does not exist: choose 1 (64QAM), 2 (256QAM), 3 (low spectral efficiency) "
                  "or 4 (1024QAM)",
                  table));
}

}  // namespace trimtab::radio
