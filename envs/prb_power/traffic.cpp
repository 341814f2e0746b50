#include "envs/prb_power/traffic.h"

#include <algorithm>
#include <cmath>

#include "core/random.h"

namespace trimtab {

void TrafficQueue::reset() {
  arrival_.assign(kCapacity, 0);
  first_ = end_ = dropped_ = 0;
  packet_bits_ = head_bits_ = backlog_bits_ = credit_ = 0;
  bursting_ = false;
}

int64_t TrafficQueue::num_arrivals(const TrafficOptions& options, double packets_per_slot, WorldKey key, int user, int64_t slot) {
  if (options.type == "constant") {
    credit_ += packets_per_slot;
    const auto whole = static_cast<int64_t>(credit_);
    credit_ -= static_cast<double>(whole);
    return whole;
  }
  Draws draws(key.seed, Stream::kArrival, static_cast<uint32_t>(key.episode), static_cast<uint32_t>(slot), user);
  double mean = packets_per_slot;
  if (options.type == "bursty") {  // two-state Markov chain; the mean rate is kept by sending faster while on
    const double leave = bursting_ ? 1 / options.burst_on_slots : 1 / std::max(options.burst_off_slots, 1.0);
    if (draws.uniform() < leave) bursting_ = !bursting_;
    mean = bursting_ ? packets_per_slot * (options.burst_on_slots + options.burst_off_slots) / options.burst_on_slots : 0;
  }
  // Poisson by exponential gaps: exact, and a slot sees few packets.
  int64_t count = 0;
  for (double t = draws.exponential(); t < mean; t += draws.exponential()) ++count;
  return count;
}

void TrafficQueue::arrive(const TrafficOptions& options, double slot_s, WorldKey key, int user, int64_t slot) {
  packet_bits_ = options.packet_bytes * 8;
  const double packets_per_slot = options.rate_mbps * 1e6 * slot_s / packet_bits_;
  for (int64_t n = num_arrivals(options, packets_per_slot, key, user, slot); n > 0; --n) {
    if (end_ - first_ == kCapacity) {
      ++dropped_;
      continue;
    }
    if (first_ == end_) head_bits_ = packet_bits_;
    arrival_[end_ % kCapacity] = static_cast<int32_t>(slot);
    ++end_;
    backlog_bits_ += packet_bits_;
  }
}

PacketRange TrafficQueue::take(double bits) {
  PacketRange range{first_, first_};
  while (bits > 0 && first_ != end_) {
    const double part = std::min(bits, head_bits_);
    bits -= part;
    head_bits_ -= part;
    backlog_bits_ -= part;
    if (head_bits_ > 0) break;
    ++first_;
    head_bits_ = packet_bits_;
  }
  if (first_ == end_) backlog_bits_ = 0;
  range.end = first_;
  return range;
}

void TrafficQueue::serialise(Archive& a) {
  a(arrival_), a(first_), a(end_), a(packet_bits_), a(head_bits_), a(backlog_bits_), a(credit_), a(bursting_), a(dropped_);
}

}  // namespace trimtab
