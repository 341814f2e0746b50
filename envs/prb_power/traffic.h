// Arrivals and queues of one user: packets in, bits out, and how long each packet waited until it was delivered.
#pragma once

#include <cstdint>
#include <vector>

#include "core/archive.h"
#include "envs/environment.h"
#include "envs/prb_power/options.h"

namespace trimtab {

// Packets, by running number, whose last bit travels in one transport block: [begin, end).
struct PacketRange {
  uint32_t begin = 0, end = 0;
};

class TrafficQueue {
 public:
  static constexpr uint32_t kCapacity = 2048;   // packets waiting; further ones are dropped and counted

  // Adds what arrives in `slot`; draws are keyed by (world, user, slot), never by what was served.
  void arrive(const TrafficOptions& options, double slot_s, WorldKey key, int user, int64_t slot);
  // Takes up to `bits` out of the queue; returns which packets end in them.
  PacketRange take(double bits);
  int32_t arrival_slot(uint32_t packet) const { return arrival_[packet % kCapacity]; }
  double backlog_bits() const { return backlog_bits_; }
  // Slots the oldest waiting packet has waited; 0 for an empty queue.
  int64_t head_delay(int64_t slot) const { return first_ == end_ ? 0 : slot - arrival_[first_ % kCapacity]; }
  uint32_t dropped() const { return dropped_; }
  void reset();
  void serialise(Archive& a);

 private:
  int64_t num_arrivals(const TrafficOptions& options, double packets_per_slot, WorldKey key, int user, int64_t slot);

  std::vector<int32_t> arrival_;    // [kCapacity] ring, by packet number
  uint32_t first_ = 0, end_ = 0;    // waiting packets [first_, end_)
  double packet_bits_ = 0, head_bits_ = 0, backlog_bits_ = 0, credit_ = 0;
  bool bursting_ = false;
  uint32_t dropped_ = 0;
};

}  // namespace trimtab
