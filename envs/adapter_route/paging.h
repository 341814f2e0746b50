// Which adapters lie in the accelerator's memory, and what it takes to bring in another.
//
//   load time = setup + bytes / bandwidth,   bytes = rank * parameters per rank * bytes of a number
//
// Loads go through `channels` that each bring one adapter at a time, first come first served; 0: as many as are asked for go side by side.
// Room is counted in slots, or in bytes where `budget_mb` is given.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/archive.h"
#include "core/options.h"

namespace trimtab {

inline constexpr double kHalfLife = 64;   // of an aged count, in requests

struct PagingOptions {
  int64_t slots = 4;
  double budget_mb = 0;                          // above 0: room in bytes, and `slots` is not read
  std::vector<int64_t> ranks = {};               // adapter a has rank ranks[a mod their number]; none: of 8, 16, 32 and 64
  int64_t parameters_per_rank = 2523136;         // all linear layers of a 7B model (Qwen2.5)
  int64_t bytes_per_number = 2;
  std::string medium = "disk";                   // host, disk, custom
  double bandwidth_gb_s = 3, setup_ms = 0.5;     // custom; else by medium
  int64_t channels = 1;
  void describe(Fields& f);
};

struct PagingState {
  struct Adapter {
    double ready_ms = 0;                                 // resident, and usable from then on
    int64_t last_used = -1, loaded = -1, uses = 0;       // clock of requests
    double aged = 0, credit = 0;                         // of lfu_aged, at last_used; of greedy_dual
    int64_t resident = 0;
    double aged_now(int64_t clock) const;
  };
  std::vector<Adapter> adapters;      // [N]
  std::vector<double> channels_ms;    // free from then on
  int64_t clock = 0;                  // requests so far
  int64_t resident_bytes = 0, residents = 0, paged_bytes = 0, loads = 0;
  double inflation = 0;               // L of greedy_dual
  void serialise(Archive& a) { a(adapters), a(channels_ms), a(clock), a(resident_bytes), a(residents), a(paged_bytes), a(loads), a(inflation); }
};

class Paging {
 public:
  Paging(const PagingOptions& options, int64_t adapters);   // ConfigError where an adapter is larger than all room

  int64_t adapters() const { return static_cast<int64_t>(bytes_.size()); }
  int64_t bytes(int64_t adapter) const { return bytes_[adapter]; }
  double load_ms(int64_t adapter) const { return setup_ms_ + static_cast<double>(bytes_[adapter]) / bytes_per_ms_; }
  int64_t slots() const;             // that surely fit: by the largest adapters where room is in bytes
  bool by_bytes() const { return budget_ > 0; }
  // Whether a set of so many adapters and bytes fits.
  bool holds(int64_t count, int64_t bytes) const { return by_bytes() ? bytes <= budget_ : count <= options_.slots; }
  bool has_room(const PagingState& s, int64_t adapter) const { return holds(s.residents + 1, s.resident_bytes + bytes_[adapter]); }

  void begin(PagingState& s) const;
  // When a load that is asked for at `now_ms` would be there.
  double arrives_ms(const PagingState& s, int64_t adapter, double now_ms) const;
  // Brings it into the room that there is; `passing` ones are used once and not kept. Gives when it is there.
  double load(PagingState& s, int64_t adapter, double now_ms) const;
  double load_passing(PagingState& s, int64_t adapter, double now_ms) const;
  void evict(PagingState& s, int64_t adapter) const;
  void use(PagingState& s, int64_t adapter) const;          // a request is served with it: the books of eviction rules

 private:
  double transfer(PagingState& s, int64_t adapter, double now_ms) const;
  PagingOptions options_;
  std::vector<int64_t> bytes_;
  int64_t budget_ = 0;
  double setup_ms_ = 0, bytes_per_ms_ = 0;
};

}  // namespace trimtab
