// Transmission in one slot: blocks formed, adapted to the believed channel, decoded over the true one; HARQ and its feedback.
#include <algorithm>
#include <cmath>

#include "core/random.h"
#include "envs/prb_power/cell.h"
#include "envs/prb_power/figures.h"

namespace trimtab {

int Cell::pick_process(const State& s, int user, bool waiting) const {
  const auto n = static_cast<int>(options_.harq.processes);
  for (int p = 0; p < n; ++p) {
    const Process& block = process_of(s, user, p);
    if (waiting ? block.waiting != 0 : block.transmissions == 0) return p;
  }
  return -1;
}

void Cell::finish_block(State& s, int user, int process, bool delivered) const {
  Process& block = process_of(s, user, process);
  if (delivered) {
    s.acked_bits[user] += static_cast<float>(block.tb_bits);
    s.total_bits[user] += block.tb_bits;
    s.totals.bits += block.tb_bits;
    for (uint32_t k = block.packets.begin; k != block.packets.end; ++k) {
      const int waited = s.slot - s.queues[user].arrival_slot(k);
      s.delays[std::clamp(waited, 0, kDelayBins - 1)] += 1.0f;
    }
  } else {
    s.totals.lost_blocks += 1;
  }
  block = {};
}

void Cell::receive_feedback(State& s) const {
  Flight* flights = s.flights.data() + static_cast<size_t>(s.slot % latency_) * num_users_;
  const double up = options_.link.olla_delta_up_db, down = up * options_.link.bler_target / (1 - options_.link.bler_target);
  const auto limit = static_cast<float>(options_.link.olla_limit_db);
  for (int u = 0; u < num_users_; ++u) {
    s.acked_bits[u] = 0;
    Flight& flight = flights[u];
    if (flight.process < 0) continue;
    Process& block = process_of(s, u, flight.process);
    // Past the ends of the table the loop has nothing to move and would only wind up (spec mode; Sionna's loop winds up).
    const bool stuck = options_.link.mode == "spec" && (flight.ack ? block.mcs == setup_.num_mcs - 1 : block.mcs == setup_.min_mcs);
    if (block.transmissions == 1 && !stuck)
      s.offset_db[u] = std::clamp(s.offset_db[u] + static_cast<float>(flight.ack ? -down : up), -limit, limit);
    const bool give_up = !options_.harq.enabled || block.transmissions >= options_.harq.max_transmissions;
    if (flight.ack || give_up)
      finish_block(s, u, flight.process, flight.ack != 0);
    else
      block.waiting = 1;
    flight.process = -1;
  }
}

// Blocks of one slot, gathered user by user so that link adaptation and decoding are one call each.
struct Cell::SlotBlocks {
  std::vector<int> user, process;        // [blocks]
  std::vector<int32_t> begin, mcs;       // [blocks + 1], [blocks]
  std::vector<float> offset_db, sinr, decoded_db;
  void clear() { user.clear(), process.clear(), begin.assign(1, 0), mcs.clear(), offset_db.clear(), sinr.clear(); }
};

void Cell::transmit(State& s) const {
  thread_local SlotBlocks blocks;
  form_blocks(s, blocks);
  adapt_links(s, blocks);
  decode(s, blocks);
  double used = 0, power = 0;
  for (int f = 0; f < num_prb_; ++f) used += s.owner[f] >= 0, power += s.prb_power_w[f];
  s.totals.prbs_used += used / num_prb_;
  s.totals.power_w += power / budget_w_;
  ++s.slot;
  begin_slot(s);
  s.totals.jain_smoothed += jain_of(s.average);
  s.totals.slots += 1;
}

// Who sends what on which PRBs: the SINRs the base station believes, and those received against this very slot's channel.
void Cell::form_blocks(State& s, SlotBlocks& blocks) const {
  blocks.clear();
  const int64_t trace_slot = s.first_slot + s.slot;
  const bool alone = s.drop->num_tx == 1, ir = options_.harq.combining == "ir";
  const float inverse_noise = 1.0f / noise_w_;
  thread_local std::vector<float> row;
  row.resize(num_prb_);
  for (int u = 0; u < num_users_; ++u) {
    if (s.counts[u] == 0) continue;
    const bool again = s.retx_process[u] >= 0;
    const int process = again ? s.retx_process[u] : pick_process(s, u, false);
    if (process < 0) continue;
    const float* gain = s.drop->at(0, trace_slot) + static_cast<int64_t>(s.users[u]) * num_prb_;
    float scale = inverse_noise;
    if (!alone) {
      sinr_per_watt(s, trace_slot, u, row.data());
      gain = row.data();
      scale = 1;
    }
    const Process& block = process_of(s, u, process);
    float* received = received_of(s, u, process) + (again && ir ? block.received : 0);
    const float* believed = s.sinr_per_watt.data() + static_cast<size_t>(u) * num_prb_;
    const size_t first = blocks.sinr.size();
    int n = 0;
    for (int f = 0; f < num_prb_; ++f) {
      if (s.owner[f] != u || s.prb_power_w[f] <= 0) continue;  // a PRB without power is not used
      if (again && n == block.prbs) break;
      const float sinr = gain[f] * s.prb_power_w[f] * scale;
      received[n] = again && !ir ? received[n] + sinr : sinr;
      blocks.sinr.push_back(believed[f] * s.prb_power_w[f]);
      ++n;
    }
    if (n == 0) {
      blocks.sinr.resize(first);
      continue;
    }
    blocks.user.push_back(u);
    blocks.process.push_back(process);
    blocks.offset_db.push_back(s.offset_db[u]);
    blocks.begin.push_back(static_cast<int32_t>(blocks.sinr.size()));
  }
}

// Modulation, coding and content of new blocks; retransmissions keep theirs.
void Cell::adapt_links(State& s, SlotBlocks& blocks) const {
  blocks.mcs.resize(blocks.user.size());
  link_->choose_mcs(blocks.sinr, blocks.begin, blocks.offset_db, static_cast<float>(options_.link.bler_target), blocks.mcs);
  for (size_t k = 0; k < blocks.user.size(); ++k) {
    const int u = blocks.user[k], n = blocks.begin[k + 1] - blocks.begin[k];
    Process& block = process_of(s, u, blocks.process[k]);
    if (block.waiting) {
      block.waiting = 0;
      block.received += n;
      s.totals.retransmissions += 1;
    } else {
      block.mcs = blocks.mcs[k];
      block.prbs = block.received = n;
      block.tb_bits = link_->tb_size(block.mcs, n);
      if (!s.queues.empty()) {
        const double waiting = s.queues[u].backlog_bits();
        block.packets = s.queues[u].take(block.tb_bits);
        block.tb_bits = static_cast<int32_t>(std::min<double>(block.tb_bits, waiting));  // padding carries nothing
      }
      s.totals.first_blocks += 1;
    }
    ++block.transmissions;
    s.totals.blocks += 1;
  }
}

// Effective SINR of everything received of each block, its error rate, and the draw.
void Cell::decode(State& s, SlotBlocks& blocks) const {
  const bool ir = options_.harq.combining == "ir";
  const size_t count = blocks.user.size();
  blocks.sinr.clear();
  blocks.begin.assign(1, 0);
  for (size_t k = 0; k < count; ++k) {
    const Process& block = process_of(s, blocks.user[k], blocks.process[k]);
    const float* received = received_of(s, blocks.user[k], blocks.process[k]);
    blocks.sinr.insert(blocks.sinr.end(), received, received + (ir ? block.received : block.prbs));
    blocks.begin.push_back(static_cast<int32_t>(blocks.sinr.size()));
    // Incremental redundancy: the code rate of all coded bits together, looked up at the MCS of that rate.
    const radio::Mcs mcs = link_->mcs(block.mcs);
    blocks.mcs[k] = !ir || block.transmissions == 1
                        ? block.mcs
                        : link_->equivalent_mcs(block.mcs, link_->tb_size(block.mcs, block.prbs),
                                                static_cast<double>(block.received) * options_.link.re_per_prb * mcs.modulation_order);
  }
  blocks.decoded_db.resize(count);
  link_->effective_sinr_db(blocks.sinr, blocks.begin, blocks.mcs, blocks.decoded_db);
  for (size_t k = 0; k < count; ++k) {
    const int u = blocks.user[k];
    const Process& block = process_of(s, u, blocks.process[k]);
    const float error = blocks.mcs[k] == block.mcs
                            ? link_->tbler(block.mcs, block.prbs, blocks.decoded_db[k])
                            : link_->tbler_combined(block.mcs, block.prbs, blocks.mcs[k], blocks.decoded_db[k]);
    const Counter counter{static_cast<uint32_t>(s.key.episode), static_cast<uint32_t>(s.slot), static_cast<uint32_t>(u),
                          static_cast<uint32_t>(block.transmissions)};
    const bool ack = uniform01(random_words(s.key.seed, Stream::kAck, counter)[0]) >= error;
    if (block.transmissions == 1 && !ack) s.totals.first_errors += 1;
    s.flights[static_cast<size_t>(s.slot % latency_) * num_users_ + u] = {blocks.process[k], ack};
  }
}

}  // namespace trimtab
