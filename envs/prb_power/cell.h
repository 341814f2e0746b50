// One cell, one slot at a time: channel, reports, traffic, PRB agent, power agent, link adaptation, transmission, HARQ.
// The rules that decide every figure are stated in README.md beside this file. Plain data and functions for ONE instance;
// envs/environment.h makes batches of it. Nothing allocates after reset.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "core/archive.h"
#include "core/spec.h"
#include "domain/radio/link.h"
#include "domain/radio/trace.h"
#include "envs/environment.h"
#include "envs/prb_power/baselines.h"
#include "envs/prb_power/options.h"
#include "envs/prb_power/traffic.h"
#include "trimtab/cell.h"

namespace trimtab {

class Cell {
 public:
  static constexpr int kPrbAgent = 0, kPowerAgent = 1;

  // One HARQ process of one user.
  struct Process {
    int32_t tb_bits = 0, mcs = 0, prbs = 0, transmissions = 0;   // transmissions 0: free
    int32_t received = 0;                                        // PRBs received over all transmissions
    int32_t waiting = 0;                                         // 1: failed, to be sent again; no bool: padding would reach checkpoints
    PacketRange packets;                                         // what it carries, for delays
  };
  struct Flight {                                                // a block whose feedback is under way
    int32_t process = -1;
    int32_t ack = 0;
  };
  struct Totals {                                                // of the episode so far
    double bits = 0, blocks = 0, first_blocks = 0, first_errors = 0, retransmissions = 0, lost_blocks = 0;
    double prbs_used = 0, power_w = 0, jain_smoothed = 0, slots = 0;
  };

  struct State {
    WorldKey key;
    int32_t source = 0, drop_index = 0, first_slot = 0, slot = 0;   // `slot` counts from the start of the episode
    std::vector<int32_t> users;               // [U] rows of the trace
    std::vector<float> average, smoothed;     // [U] bits per slot: what schedulers see; what the reward and Jain see
    std::vector<double> total_bits;           // [U] delivered in the episode
    std::vector<float> acked_bits;            // [U] acknowledged in the present slot
    std::vector<float> offset_db, reliability, backlog_bits, delay_slots;   // [U]
    std::vector<uint8_t> active;              // [U]
    std::vector<int32_t> retx_prbs, retx_mcs, retx_process;                 // [U]
    std::vector<float> csi_state;             // [U, 3] see tt_csi_track
    std::vector<float> sinr_per_watt;         // [U, F] what the base station believes
    std::vector<float> scratch;               // tt_cell_scratch
    std::vector<int> owner, counts;           // [F], [U] the assignment of this slot
    std::vector<float> user_power_w, prb_power_w;   // [U], [F]
    std::vector<float> held_shares, held_power;     // [U] the agents' last decisions, for control_period_slots > 1
    std::vector<Process> processes;           // [U, processes]
    std::vector<float> received;              // [U, processes, received_size()] SINR per PRB of a block: summed over its
                                              // transmissions (Chase), or one transmission behind the other (IR)
    std::vector<Flight> flights;              // [feedback latency, U] by the slot of transmission
    std::vector<TrafficQueue> queues;         // [U], empty for a full buffer
    std::vector<float> delays;                // histogram of packet delays by slots
    int32_t round_robin = 0;
    int32_t report_slot = -1;                 // slot of the trace that the present report describes
    Totals totals;
    std::shared_ptr<const radio::DropGains> drop;   // found again from (source, drop_index) after loading

    void serialise(Archive& a);
  };

  Cell(PrbPowerOptions options, std::vector<std::shared_ptr<radio::TraceSource>> sources);

  const EnvSpec& spec() const { return spec_; }
  const PrbPowerOptions& options() const { return options_; }
  const tt_cell_setup& setup() const { return setup_; }   // what the runtime's functions are given; points into this cell
  int num_users() const { return num_users_; }
  int num_prb() const { return num_prb_; }
  double slot_s() const { return slot_s_; }
  double ceiling_bits() const { return ceiling_bits_; }   // most bits a slot can carry: the highest MCS on every PRB
  const std::vector<std::shared_ptr<radio::TraceSource>>& sources() const { return sources_; }

  // Light environment (envs/environment.h).
  void reset(State& s, WorldKey key) const;                         // random drop and start
  void observe(const State& s, int agent, ObservationRows out) const;
  void observe_critic(const State& s, ObservationRows out) const;
  void act(State& s, int agent, const float* shares) const;         // shares of users, [U]
  StepOutcome step(State& s, float* terms) const;
  void serialise(State& s, Archive& a) const;
  void episode_statistics(const State& s, const std::function<void(const char*, double)>& emit) const;

  // The same by hand: evaluation and benchmarks compose rules freely.
  void reset_to(State& s, WorldKey key, int source, int drop, int first_slot) const;
  int lead_slots() const;                                           // slots of history reports need before the first
  void schedule(State& s, const PrbRule& rule) const;
  void assign_shares(State& s, const float* shares) const;
  void split_power(State& s, PowerRule rule) const;
  void split_power_by_shares(State& s, const float* shares) const;
  void transmit(State& s) const;                                    // link adaptation, transmission; then the next slot begins
  double jain(const std::vector<double>& x) const;

 private:
  void begin_slot(State& s) const;                                  // feedback, averages, arrivals, reports, who is active
  void receive_feedback(State& s) const;
  void update_reports(State& s) const;
  void report_row(const State& s, int64_t trace_slot, int user, float* sinr_per_watt) const;
  void track_reliability(State& s, int64_t trace_slot) const;
  void find_work(State& s) const;
  void finish_assignment(State& s) const;                           // retransmissions first
  void spread_to_prbs(State& s) const;
  void fill_ladder(State& s, const tt_cell_setup& setup) const;
  struct SlotBlocks;
  void form_blocks(State& s, SlotBlocks& blocks) const;
  void adapt_links(State& s, SlotBlocks& blocks) const;
  void decode(State& s, SlotBlocks& blocks) const;
  size_t received_size() const {
    return static_cast<size_t>(num_prb_) * (options_.harq.combining == "ir" ? options_.harq.max_transmissions : 1);
  }
  Process& process_of(State& s, int user, int process) const { return s.processes[user * options_.harq.processes + process]; }
  const Process& process_of(const State& s, int user, int process) const {
    return s.processes[user * options_.harq.processes + process];
  }
  float* received_of(State& s, int user, int process) const {
    return s.received.data() + (user * options_.harq.processes + process) * received_size();
  }
  void finish_block(State& s, int user, int process, bool delivered) const;
  int pick_process(const State& s, int user, bool waiting) const;
  void split_power_water(State& s) const;
  void split_power_fair(State& s) const;
  void build_link();
  void build_spec();
  tt_cell_slot view(const State& s) const;
  tt_cell_scratch scratch(const State& s) const;
  // 1 / (noise + interference) of one user's PRBs in a slot of the trace, times its gain: SINR per watt. [F]
  void sinr_per_watt(const State& s, int64_t trace_slot, int user, float* out) const;

  PrbPowerOptions options_;
  std::vector<std::shared_ptr<radio::TraceSource>> sources_;
  int num_users_ = 0, num_prb_ = 0, agent_index_[2] = {-1, -1};
  double slot_s_ = 0, ceiling_bits_ = 0;
  float noise_w_ = 0, budget_w_ = 0;   // noise per PRB; budget of a slot
  int latency_ = 1;                    // slots from transmission to feedback, at least 1
  PrbRule prb_rule_;
  PowerRule power_rule_ = PowerRule::kEqual;
  std::unique_ptr<radio::LinkTables> link_;
  std::vector<float> thresholds_, betas_;
  std::vector<int32_t> bits_;
  std::vector<float> cqi_sinr_;        // [16] SINR from which each CQI is met
  tt_cell_setup setup_{}, plain_setup_{};   // as the learned agents have it; without levelling and probing
  EnvSpec spec_;
};

}  // namespace trimtab
