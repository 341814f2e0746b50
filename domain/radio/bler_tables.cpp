// Block error rates by table lookup, as Sionna SYS 2.2.0's PHYAbstraction does it.
//
// The curves are Sionna's own simulations (AWGN, LDPC, a few code block sizes and SNR points);
// data/link/README.md names source, licence and layout. They are part of the program: the assembler includes
// the file, so nothing has to be found at run time. Between the points log10(BLER) is bilinear in (code block
// size, SNR in dB). A point without any error (BLER 0) counts as two decades below the smallest rate seen for
// that MCS, and results below that smallest rate are 0.
#include "domain/radio/link.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/error.h"

// clang-format off
asm(".section .rodata\n"
    ".balign 16\n"
    "trimtab_bler_tables_begin:\n"
    ".incbin \"" TRIMTAB_SOURCE_DIR "/data/link/bler_tables.bin\"\n"
    "trimtab_bler_tables_end:\n"
    ".previous\n");
// clang-format on
extern "C" const unsigned char trimtab_bler_tables_begin[], trimtab_bler_tables_end[];

namespace trimtab::radio {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
// A result this little below the smallest simulated rate (log10) is that rate, met exactly at a grid point.
constexpr double kFloorSlack = 1e-12;

// Reads little-endian values one after the other.
class Reader {
 public:
  Reader(std::span<const unsigned char> bytes, const std::string& name) : bytes_(bytes), name_(name) {}

  template <class T>
  T next() {
    T value;
    need(sizeof(T));
    std::memcpy(&value, bytes_.data() + at_, sizeof(T));
    at_ += sizeof(T);
    return value;
  }
  int count(int low, int high) {
    const int value = next<int32_t>();
    if (value < low || value > high)
      fail(fmt::format("a count of {} where {} to {} is possible", value, low, high));
    return value;
  }
  void magic(const char* expected) {
    need(8);
    if (std::memcmp(bytes_.data(), expected, 8) != 0) fail("it does not begin with " + std::string(expected));
    at_ += 8;
  }
  bool done() const { return at_ == bytes_.size(); }
  [[noreturn]] void fail(const std::string& what) const {
    throw DataError(fmt::format(
        "{} is not a BLER table file: {}. Rebuild it with scripts/make_bler_tables.py", name_, what));
  }

 private:
  void need(size_t n) const {
    if (bytes_.size() - at_ < n) fail(fmt::format("it ends after {} bytes", bytes_.size()));
  }
  std::span<const unsigned char> bytes_;
  const std::string& name_;
  size_t at_ = 0;
};

// Cell and weight of x on an increasing grid, ends clamped.
struct Place {
  size_t cell;
  double weight;
};
Place locate(const std::vector<double>& grid, double x) {
  x = std::clamp(x, grid.front(), grid.back());
  const auto upper = std::upper_bound(grid.begin(), grid.end(), x) - grid.begin();
  const size_t cell = std::clamp<size_t>(static_cast<size_t>(upper), 1, grid.size() - 1) - 1;
  return {cell, (x - grid[cell]) / (grid[cell + 1] - grid[cell])};
}

bool increasing(const std::vector<double>& values) {
  return std::adjacent_find(values.begin(), values.end(), [](double a, double b) { return !(a < b); }) ==
         values.end();
}

// log10 of one MCS's curves in place, zeros replaced; returns the smallest log10 if there are zeros, else
// -inf.
double take_logarithm(std::span<double> bler) {
  double smallest = kInfinity;
  bool zeros = false;
  for (const double p : bler) {
    if (p > 0) smallest = std::min(smallest, std::log10(p));
    zeros = zeros || p == 0;
  }
  for (double& p : bler) p = p > 0 ? std::log10(p) : smallest - 2;
  return zeros ? smallest : -kInfinity;
}

}  // namespace

BlerTables::BlerTables(std::span<const unsigned char> bytes, const std::string& name) {
  Reader reader(bytes, name);
  reader.magic("TTBLER01");
  const int num_groups = reader.count(1, 64), num_betas = reader.count(0, 16);
  for (int i = 0; i < num_groups; ++i) {
    Group group;
    group.category = reader.count(0, 1);
    group.table = reader.count(1, 4);
    group.first_mcs = reader.count(0, 31);
    group.num_mcs = reader.count(1, 32);
    group.sizes.resize(reader.count(2, 64));
    group.snr_db.resize(reader.count(2, 1024));
    for (double& size : group.sizes) size = reader.next<int32_t>();
    for (double& snr : group.snr_db) snr = reader.next<double>();
    if (!increasing(group.sizes) || !increasing(group.snr_db)) reader.fail("a grid that does not increase");
    const size_t per_mcs = group.sizes.size() * group.snr_db.size();
    group.log_bler.resize(group.num_mcs * per_mcs);
    for (double& p : group.log_bler) {
      p = reader.next<float>();
      if (!(p >= 0 && p <= 1)) reader.fail("a block error rate outside [0, 1]");
    }
    for (int m = 0; m < group.num_mcs; ++m)
      group.floor.push_back(take_logarithm(std::span(group.log_bler).subspan(m * per_mcs, per_mcs)));
    groups_.push_back(std::move(group));
  }
  for (int i = 0; i < num_betas; ++i) {
    const size_t table = static_cast<size_t>(reader.count(1, 4));
    if (betas_.size() < table) betas_.resize(table);
    betas_[table - 1].resize(reader.count(1, 32));
    for (double& beta : betas_[table - 1]) beta = reader.next<double>();
  }
  if (!reader.done()) reader.fail("it goes on after its end");
}

const BlerTables& BlerTables::get() {
  static const BlerTables tables({trimtab_bler_tables_begin, trimtab_bler_tables_end},
                                 "the built-in data/link/bler_tables.bin");
  return tables;
}

const BlerTables::Group* BlerTables::find(int category, int table, int mcs) const {
  for (const Group& group : groups_)
    if (group.category == category && group.table == table && mcs >= group.first_mcs &&
        mcs < group.first_mcs + group.num_mcs)
      return &group;
  return nullptr;
}

int BlerTables::min_mcs(int category, int table) const {
  for (const Group& group : groups_)
    if (group.category == category && group.table == table) return group.first_mcs;
  throw DataError(
      fmt::format("no BLER table for {} MCS table {}: use PDSCH tables 1 to 4 or PUSCH tables 1 and 2",
                  category == 1 ? "PDSCH" : "PUSCH", table));
}

std::span<const double> BlerTables::eesm_betas(int table) const {
  return table >= 1 && table <= static_cast<int>(betas_.size()) ? betas_[table - 1]
                                                                : std::span<const double>();
}

int BlerTables::sinr_index(double sinr_db) {
  const float x =
      (static_cast<float>(sinr_db) + 5.0f) / 0.1f;  // single precision, ties to even: Sionna's rounding
  if (!(x > 0)) return 0;
  return x >= kSinrGrid - 1 ? kSinrGrid - 1 : static_cast<int>(std::nearbyint(x));
}

int BlerTables::size_index(int64_t code_block_size) {
  const double x = std::nearbyint(static_cast<double>(code_block_size - 24) / 100.0);
  return static_cast<int>(std::clamp(x, 0.0, kSizeGrid - 1.0));
}

float BlerTables::at(int category, int table, int mcs, int sinr_index, int size_index) const {
  const Group* group = find(category, table, mcs);
  if (group == nullptr) return std::numeric_limits<float>::infinity();
  const size_t width = group->snr_db.size(), m = static_cast<size_t>(mcs - group->first_mcs);
  const Place size = locate(group->sizes, 24.0 + 100.0 * size_index),
              snr = locate(group->snr_db, -5.0 + 0.1 * sinr_index);
  const double* low = group->log_bler.data() + (m * group->sizes.size() + size.cell) * width + snr.cell;
  const double* high = low + width;
  const double at_low = low[0] * (1 - snr.weight) + low[1] * snr.weight;
  const double at_high = high[0] * (1 - snr.weight) + high[1] * snr.weight;
  const double log_bler = at_low * (1 - size.weight) + at_high * size.weight;
  if (log_bler < group->floor[m] - kFloorSlack) return 0;
  return static_cast<float>(std::min(1.0, std::pow(10.0, log_bler)));
}

double BlerTables::bler(int category, int table, int mcs, double sinr_eff_db, int64_t code_block_size) const {
  return at(category, table, mcs, sinr_index(sinr_eff_db), size_index(code_block_size));
}

double BlerTables::tbler(int category, int table, int mcs, double sinr_eff_db,
                         const TransportBlock& tb) const {
  const float p = static_cast<float>(bler(category, table, mcs, sinr_eff_db, tb.code_block_size));
  if (std::isinf(p)) return p;
  return 1.0f - std::pow(1.0f - p, static_cast<float>(tb.num_code_blocks));  // in single precision, as Sionna
}

}  // namespace trimtab::radio
