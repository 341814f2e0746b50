// Link level of 5G NR downlink: modulation and coding, transport block size, effective SINR, block error rate, adaptation.
//
// Two modes. `sionna` answers exactly as Sionna SYS 2.2.0 does (tests/oracle); `spec` follows TS 38.214 where the two
// differ (README.md lists every difference). All functions are pure and thread-safe after construction.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace trimtab::radio {

enum class LinkMode { kSionna, kSpec };

struct Mcs {
  int modulation_order = 0;  // Qm, bits per symbol
  double rate1024 = 0;       // code rate x 1024
  double spectral_efficiency() const { return modulation_order * rate1024 / 1024.0; }
};
// TS 38.214 tables 5.1.3.1-1, -2, -3 and (Sionna's) -4; index 1..4. Reserved indices are not listed.
std::span<const Mcs> mcs_table(int table);

struct TransportBlock {
  int64_t size = 0;            // TBS in bits, without CRC (TS 38.214 5.1.3.2)
  int64_t code_block_size = 0; // bits per code block, with CRC
  int64_t num_code_blocks = 0;
  int64_t tb_crc = 0, cb_crc = 0;
};
TransportBlock transport_block(Mcs mcs, int64_t num_coded_bits, int64_t num_layers = 1);  // from the bits that fit
TransportBlock transport_block(Mcs mcs, int64_t num_prb, int64_t num_symbols, int64_t num_dmrs_per_prb, int64_t num_layers);

// Exponential effective SINR mapping: -beta ln mean exp(-sinr/beta) over the used resource elements (sinr > 0), clamped to
// [-30, +30] dB; 0 when none is used. Evaluated with the largest exponent taken out, so it does not underflow.
double eesm(std::span<const float> sinr, double beta);
double eesm_beta(int table, int mcs);                    // tables 1 and 2; DataError otherwise

// Block error rate of one code block and of a transport block, from Sionna's tables: category 1 (PDSCH) and 0 (PUSCH).
class BlerTables {
 public:
  static const BlerTables& get();                        // loads data/link/... once; DataError with the cure when absent
  double bler(int category, int table, int mcs, double sinr_eff_db, int64_t code_block_size) const;  // +inf: no table
  double tbler(int category, int table, int mcs, double sinr_eff_db, const TransportBlock& tb) const;
};

// Inner loop: the highest MCS whose TBLER is at most the target, else the lowest that has a table; 0 when not scheduled.
int inner_loop(int table, double sinr_eff, int64_t num_re, double bler_target);
int inner_loop_grid(int table, std::span<const float> sinr, double bler_target);   // EESM per candidate MCS

// Outer loop: an offset in dB per user, moved by ACK and NACK. Order per slot: feedback, then choice.
struct OuterLoopOptions {
  double bler_target = 0.1, delta_up_db = 1.0, offset_min_db = -20, offset_max_db = 20;
  double delta_down_db() const { return delta_up_db * bler_target / (1 - bler_target); }
};
struct OuterLoop {
  double offset_db = 0, sinr_db_last = 0;
  void feedback(int harq, const OuterLoopOptions& options);   // 1 ACK, 0 NACK, -1 none
  int choose(int table, double sinr_eff, int64_t num_re, const OuterLoopOptions& options);  // sinr_eff 0: no report
};

// Proportional fair, exactly as Sionna's PFSchedulerSUMIMO: the average moves first, then argmax of rate / average per
// frequency resource, ties to the lowest index.
struct ProportionalFair {
  double beta = 0.98;
  std::vector<float> average;                                   // starts at 1
  void schedule(std::span<const float> rate_last, std::span<const float> rate /*[F, U]*/, std::span<int> user /*[F]*/);
};

// Sionna's downlink fair power control: max sum_u g_f(r_u ln(1 + p_u q_u)) with a guaranteed share; total watts per user.
struct FairPowerProblem {
  std::vector<double> pathloss;             // linear
  double interference_plus_noise_w = 0;     // per resource element
  std::vector<double> num_re;               // r_u; 0: not scheduled
  double max_power_dbm = 56, guaranteed_power_ratio = 0.5, fairness = 0;
};
struct FairPower {
  std::vector<double> tx_power_w, utility;
  double mu_inv = 0;
};
FairPower fair_power(const FairPowerProblem& problem);

// ---- The slot's fast path: everything above tabulated for one cell configuration. ----
// One transport block per user and slot, num_re = prbs x re_per_prb.
class LinkTables {
 public:
  struct Options {
    LinkMode mode = LinkMode::kSpec;
    int mcs_table = 1;
    int num_prb = 51;
    int re_per_prb = 132;          // 12 symbols, one of them DMRS
  };
  explicit LinkTables(const Options& options);
  const Options& options() const { return options_; }
  int num_mcs() const { return num_mcs_; }
  int min_mcs() const { return min_mcs_; }               // lowest MCS that has a BLER table
  float beta(int mcs) const { return beta_[mcs]; }
  float inverse_beta(int mcs) const { return inverse_beta_[mcs]; }
  int32_t tb_size(int mcs, int prbs) const { return tb_size_[mcs * (options_.num_prb + 1) + prbs]; }
  // Quantised lookup as Sionna's (0.1 dB grid, nearest); 1 where there is no table.
  float tbler(int mcs, int prbs, float sinr_eff_db) const {
    int index = static_cast<int>((sinr_eff_db + 5.0f) * 10.0f + 0.5f);
    index = index < 0 ? 0 : index > kGrid - 1 ? kGrid - 1 : index;
    return tbler_[(static_cast<size_t>(mcs) * (options_.num_prb + 1) + prbs) * kGrid + index];
  }
  // Lowest SINR (dB, on the grid) from which TBLER stays at or below `target`; +inf when it never does.
  float threshold_db(int mcs, int prbs, float target) const;
  // Highest MCS whose TBLER at EESM_mcs(sinr) - offset_db is at most `target`, else min_mcs(); sinr [prbs] linear.
  int choose_mcs(std::span<const float> sinr, float offset_db, float target) const;
  float effective_sinr_db(std::span<const float> sinr, int mcs) const;   // EESM in dB, clamped to [-30, 30]
  // Incremental redundancy: MCS of the same modulation whose code rate is closest to and not below info / coded bits.
  int equivalent_mcs(int mcs, double info_bits, double coded_bits) const;

 private:
  static constexpr int kGrid = 351;
  Options options_;
  int num_mcs_ = 0, min_mcs_ = 0;
  std::vector<float> beta_, inverse_beta_, tbler_;
  std::vector<int32_t> tb_size_;
};

// Channel quality indicator, TS 38.214 table 5.2.2.1-2 (1) and -3 (2): index 0..15, 0 = out of range.
int cqi_from_sinr_db(int cqi_table, double sinr_db);      // highest CQI whose BLER is at most 10 % in the tables
double sinr_db_of_cqi(int cqi_table, int cqi);            // the SINR at which that CQI is just met; -inf dB for 0

}  // namespace trimtab::radio
