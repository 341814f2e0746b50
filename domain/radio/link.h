// Link level of 5G NR downlink: modulation and coding, transport block size, effective SINR, block error
// rate, adaptation.
//
// Two modes. `sionna` answers exactly as Sionna SYS 2.2.0 does (tests/oracle); `spec` follows TS 38.214 where
// the two differ (README.md lists every difference). All functions are pure and thread-safe after
// construction.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace trimtab::radio {

struct McsSearch;  // internal: link_tables_simd.h

enum class LinkMode { kSionna, kSpec };

struct Mcs {
  int modulation_order = 0;  // Qm, bits per symbol
  double rate1024 = 0;       // code rate x 1024
  double spectral_efficiency() const { return modulation_order * rate1024 / 1024.0; }
};
// TS 38.214 tables 5.1.3.1-1, -2, -3 and (Sionna's) -4; index 1..4. Reserved indices are not listed.
std::span<const Mcs> mcs_table(int table);

struct TransportBlock {
  int64_t size = 0;             // TBS in bits, without CRC (TS 38.214 5.1.3.2)
  int64_t code_block_size = 0;  // bits per code block, with CRC
  int64_t num_code_blocks = 0;
  int64_t tb_crc = 0, cb_crc = 0;
};
// From the coded bits that fit: resource elements x Qm x layers (already capped by whoever counted them).
TransportBlock transport_block(Mcs mcs, int64_t num_coded_bits);
// From an allocation; at most 156 resource elements per PRB count.
TransportBlock transport_block(Mcs mcs, int64_t num_prb, int64_t num_symbols, int64_t num_dmrs_per_prb,
                               int64_t num_layers);

// Exponential effective SINR mapping: -beta ln mean exp(-sinr/beta) over the used resource elements (sinr >
// 0), clamped to
// [-30, +30] dB; 0 when none is used. Evaluated with the largest exponent taken out, so it does not
// underflow.
double eesm(std::span<const float> sinr, double beta);
// Tables 1 and 2 are Sionna's; table 3 takes the value of the same modulation and rate there. DataError for
// table 4.
double eesm_beta(int table, int mcs);

// Block error rate of one code block and of a transport block, from Sionna's tables: category 1 (PDSCH) and 0
// (PUSCH). SINR is read on a 0.1 dB grid over [-5, 30] dB and the code block size on a grid of 100 bits from
// 24 (nearest point, ends clamp), between the simulated points log10(BLER) is bilinear: all as Sionna does,
// in its single precision.
class BlerTables {
 public:
  static constexpr int kSinrGrid = 351,
                       kSizeGrid = 85;  // points; sizes from index 20 on (> 2000 bits) are equal
  static const BlerTables& get();       // the tables built into the program (data/link)
  explicit BlerTables(std::span<const unsigned char> bytes,
                      const std::string& name);  // DataError naming `name`
  double bler(int category, int table, int mcs, double sinr_eff_db,
              int64_t code_block_size) const;  // +inf: no table
  double tbler(int category, int table, int mcs, double sinr_eff_db, const TransportBlock& tb) const;
  bool has(int category, int table, int mcs) const { return find(category, table, mcs) != nullptr; }
  int min_mcs(int category, int table) const;  // lowest MCS with a table
  // BLER at grid indices: SINR -5 + 0.1 i dB, size 24 + 100 j bits.
  float at(int category, int table, int mcs, int sinr_index, int size_index) const;
  static int sinr_index(double sinr_db);  // nearest grid point; -inf and NaN give 0
  static int size_index(int64_t code_block_size);
  std::span<const double> eesm_betas(int table) const;  // empty where Sionna has none

 private:
  struct Group {
    int category = 0, table = 0, first_mcs = 0, num_mcs = 0;
    std::vector<double> sizes, snr_db;
    std::vector<double> log_bler;  // [MCS][size][SNR] log10, zeros replaced as at() needs
    std::vector<double> floor;     // [MCS] log10 of the smallest simulated BLER if there are zeros, else -inf
  };
  const Group* find(int category, int table, int mcs) const;
  std::vector<Group> groups_;
  std::vector<std::vector<double>> betas_;  // by table, from 1
};

// Inner loop: the highest MCS whose TBLER is at most the target, else the lowest that has a table; 0 when not
// scheduled.
int inner_loop(int table, double sinr_eff, int64_t num_re, double bler_target);
int inner_loop_grid(int table, std::span<const float> sinr, double bler_target);  // EESM per candidate MCS

// Outer loop: an offset in dB per user, moved by ACK and NACK. Order per slot: feedback, then choice.
struct OuterLoopOptions {
  double bler_target = 0.1, delta_up_db = 1.0, offset_min_db = -20, offset_max_db = 20;
  double delta_down_db() const { return delta_up_db * bler_target / (1 - bler_target); }
};
struct OuterLoop {
  double offset_db = 0, sinr_db_last = 0;
  void feedback(int harq, const OuterLoopOptions& options);  // 1 ACK, 0 NACK, -1 none
  int choose(int table, double sinr_eff, int64_t num_re,
             const OuterLoopOptions& options);  // sinr_eff 0: no report
};

// Proportional fair, exactly as Sionna's PFSchedulerSUMIMO: the average moves first, then argmax of rate /
// average per frequency resource, ties to the lowest index.
struct ProportionalFair {
  double beta = 0.98;
  std::vector<float> average;  // starts at 1
  void schedule(std::span<const float> rate_last, std::span<const float> rate /*[F, U]*/,
                std::span<int> user /*[F]*/);
};

// Sionna's downlink fair power control: max sum_u g_f(r_u ln(1 + p_u q_u)) with a guaranteed share; total
// watts per user.
struct FairPowerProblem {
  std::vector<double> pathloss;          // linear
  double interference_plus_noise_w = 0;  // per resource element
  std::vector<double> num_re;            // r_u; 0: not scheduled
  double max_power_dbm = 56, guaranteed_power_ratio = 0.5, fairness = 0;
};
struct FairPower {
  std::vector<double> tx_power_w, utility;
  double mu_inv = 0;
};
FairPower fair_power(const FairPowerProblem& problem);

// ---- The slot's fast path: everything above tabulated for one cell configuration. ----
// One transport block per user and slot, num_re = prbs x re_per_prb. In `spec` mode every PRB given counts,
// whatever its SINR; in `sionna` mode a PRB of SINR 0 is unused: it counts neither for the effective SINR nor
// for the block size.
class LinkTables {
 public:
  struct Options {
    LinkMode mode = LinkMode::kSpec;
    int mcs_table = 1;  // 1, 2 or 3
    int num_prb = 51;
    int re_per_prb = 132;      // 12 symbols, one of them DMRS
    float bler_target = 0.1f;  // the target that choose_mcs is fast for; any other works, slower
  };
  explicit LinkTables(const Options& options);
  const Options& options() const { return options_; }
  int num_mcs() const { return num_mcs_; }
  int min_mcs() const { return min_mcs_; }  // lowest MCS that has a BLER table
  Mcs mcs(int index) const { return mcs_[index]; }
  float beta(int mcs) const { return beta_[mcs]; }
  float inverse_beta(int mcs) const { return inverse_beta_[mcs]; }
  int32_t tb_size(int mcs, int prbs) const { return tb_size_[mcs * (options_.num_prb + 1) + prbs]; }
  // Quantised lookup as Sionna's (0.1 dB grid, nearest); 1 where there is no table. prbs in [1, num_prb].
  float tbler(int mcs, int prbs, float sinr_eff_db) const {
    return tbler_row(mcs, prbs)[grid_index(sinr_eff_db)];
  }
  // TBLER of a block of (mcs, prbs) decoded at the code rate of `equivalent` (incremental redundancy): the
  // block keeps its code blocks, the curve is that of the equivalent MCS.
  float tbler_combined(int mcs, int prbs, int equivalent, float sinr_eff_db) const;
  // Lowest SINR (dB, on the grid) from which TBLER stays at or below `target`; +inf when it never does.
  float threshold_db(int mcs, int prbs, float target) const;
  // Highest MCS whose TBLER at EESM_mcs(sinr) - offset_db is at most `target`, else min_mcs(); sinr [prbs]
  // linear. 0 when nothing is used.
  int choose_mcs(std::span<const float> sinr, float offset_db, float target) const;
  // The same for all users of a slot in one call: user u has sinr[begin[u]] .. sinr[begin[u + 1] - 1].
  void choose_mcs(std::span<const float> sinr, std::span<const int32_t> begin /*[U + 1]*/,
                  std::span<const float> offset_db /*[U]*/, float target,
                  std::span<int32_t> mcs /*[U]*/) const;
  // EESM in dB, clamped to [-30, 30]; -30 when nothing is used.
  float effective_sinr_db(std::span<const float> sinr, int mcs) const;
  void effective_sinr_db(std::span<const float> sinr, std::span<const int32_t> begin,
                         std::span<const int32_t> mcs, std::span<float> sinr_eff_db /*[U]*/) const;
  // Incremental redundancy: MCS of the same modulation whose code rate is closest to and not below info /
  // coded bits.
  int equivalent_mcs(int mcs, double info_bits, double coded_bits) const;

  static int grid_index(float sinr_db) {
    const int index = static_cast<int>((sinr_db + 5.0f) * 10.0f + 0.5f);
    return index < 0 ? 0 : index > kGrid - 1 ? kGrid - 1 : index;
  }

 private:
  static constexpr int kGrid = BlerTables::kSinrGrid;
  const float* tbler_row(int mcs, int prbs) const {
    return tbler_.data() + static_cast<size_t>(row_[mcs * (options_.num_prb + 1) + prbs]) * kGrid;
  }
  void add_rows(int mcs);
  McsSearch search(float target) const;
  void check_slot(std::span<const float> sinr, std::span<const int32_t> begin, size_t num_users) const;

  Options options_;
  int num_mcs_ = 0, min_mcs_ = 0;
  std::vector<Mcs> mcs_;
  std::vector<float> beta_, inverse_beta_;  // [MCS]
  std::vector<int32_t> tb_size_;            // [MCS][prbs]
  std::vector<int32_t> row_;  // [MCS][prbs] into tbler_: blocks of the same code blocks share a row
  std::vector<int32_t> num_code_blocks_;  // [MCS][prbs]
  std::vector<int16_t> size_index_;       // [MCS][prbs] code block size on the BLER grid
  std::vector<float> tbler_;              // [rows][kGrid]
  std::vector<int16_t> first_met_;  // [prbs][MCS] lowest grid index with TBLER <= bler_target, kGrid: none
};

// Chase combining: SINRs of the same coded bits add up, PRB by PRB; a retransmission on another number of
// PRBs is laid over the first one cyclically (so that its energy is kept when it is longer).
void chase_combine(std::span<float> accumulated, std::span<const float> received);

// Channel quality indicator, TS 38.214 table 5.2.2.1-2 (1) and -3 (2): index 0..15, 0 = out of range.
int cqi_from_sinr_db(int cqi_table, double sinr_db);  // highest CQI whose BLER is at most 10 % in the tables
double sinr_db_of_cqi(int cqi_table, int cqi);        // the SINR at which that CQI is just met; -inf dB for 0

}  // namespace trimtab::radio
