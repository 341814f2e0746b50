#include "envs/prb_power/cell.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "core/random.h"
#include "envs/prb_power/figures.h"
#include "trimtab/glue.h"

namespace trimtab {
namespace {

constexpr double kBoltzmann = 1.380649e-23;
constexpr float kFullBuffer = 1e9f;        // bits
constexpr int kTrackEvery = 4;             // slots between updates of the reliability estimate
constexpr float kTrackDecay = 0.9f;

// Scratch of one thread: rows of a slot's computation.
struct Rows {
  std::vector<float> a, b;
  std::vector<char> workspace;
};
Rows& rows(size_t floats, size_t bytes) {
  thread_local Rows r;
  if (r.a.size() < floats) r.a.resize(floats), r.b.resize(floats);
  if (r.workspace.size() < bytes) r.workspace.resize(bytes);
  return r;
}

}  // namespace

void Cell::State::serialise(Archive& a) {
  a(key), a(source), a(drop_index), a(first_slot), a(slot), a(users), a(average), a(smoothed), a(total_bits), a(acked_bits);
  a(offset_db), a(reliability), a(backlog_bits), a(delay_slots), a(active), a(retx_prbs), a(retx_mcs), a(retx_process);
  a(csi_state), a(sinr_per_watt), a(scratch), a(owner), a(counts), a(user_power_w), a(prb_power_w), a(held_shares), a(held_power);
  a(processes), a(received), a(flights), a(queues), a(delays), a(round_robin), a(report_slot), a(totals);
}

Cell::Cell(PrbPowerOptions options, std::vector<std::shared_ptr<radio::TraceSource>> sources)
    : options_(std::move(options)), sources_(std::move(sources)) {
  TT_CHECK(!sources_.empty());
  const radio::TraceInfo& first = sources_[0]->info();
  num_prb_ = static_cast<int>(first.num_prb);
  num_users_ = static_cast<int>(options_.cell.num_users > 0 ? options_.cell.num_users : first.num_users);
  slot_s_ = first.slot_duration;
  latency_ = static_cast<int>(std::max<int64_t>(1, options_.harq.k1_slots));
  for (const auto& source : sources_) {
    const radio::TraceInfo& info = source->info();
    const std::string file = info.file.string();
    if (info.num_prb != num_prb_ || std::abs(info.slot_duration - slot_s_) > 1e-9)
      throw DataError(fmt::format("{}: {} PRBs and slots of {} ms, but {} has {} PRBs and slots of {} ms: use files of one kind in a run",
                                  file, info.num_prb, info.slot_duration * 1e3, first.file.string(), num_prb_, slot_s_ * 1e3));
    if (info.num_users < num_users_)
      throw DataError(fmt::format("{}: has {} users but the run needs {}: set env.cell.num_users to at most {}, or give it files with as many users",
                                  file, info.num_users, num_users_, info.num_users));
    if (info.slots_per_drop < options_.episode_slots + lead_slots())
      throw DataError(fmt::format("{}: a drop has {} slots but an episode needs {} (episode_slots {} and {} of report history): set "
                                  "env.episode_slots to at most {}",
                                  file, info.slots_per_drop, options_.episode_slots + lead_slots(), options_.episode_slots,
                                  lead_slots(), info.slots_per_drop - lead_slots()));
  }
  noise_w_ = static_cast<float>(kBoltzmann * options_.cell.temperature_k * 12 * first.subcarrier_spacing *
                                std::pow(10.0, options_.cell.noise_figure_db / 10));
  budget_w_ = static_cast<float>(std::pow(10.0, options_.cell.tx_power_dbm / 10) * 1e-3);
  if (options_.prb != "learned") prb_rule_ = prb_rule(options_.prb);
  if (options_.power != "learned") power_rule_ = trimtab::power_rule(options_.power);
  build_link();
  build_spec();
}

void Cell::build_link() {
  link_ = std::make_unique<radio::LinkTables>(radio::LinkTables::Options{
      .mode = options_.link.mode == "sionna" ? radio::LinkMode::kSionna : radio::LinkMode::kSpec,
      .mcs_table = static_cast<int>(options_.link.mcs_table),
      .num_prb = num_prb_,
      .re_per_prb = static_cast<int>(options_.link.re_per_prb),
      .bler_target = static_cast<float>(options_.link.bler_target)});
  const int num_mcs = link_->num_mcs();
  const float target = static_cast<float>(options_.link.bler_target);
  thresholds_.assign(static_cast<size_t>(num_mcs) * (num_prb_ + 1), 3e38f);
  bits_.assign(thresholds_.size(), 0);
  for (int m = 0; m < num_mcs; ++m) {
    betas_.push_back(link_->beta(m));
    for (int n = 1; n <= num_prb_; ++n) {
      const float db = m < link_->min_mcs() ? INFINITY : link_->threshold_db(m, n, target);
      const size_t at = static_cast<size_t>(n) * num_mcs + m;
      if (std::isfinite(db)) thresholds_[at] = std::pow(10.0f, db / 10);
      bits_[at] = link_->tb_size(m, n);
    }
  }
  const radio::Mcs top = radio::mcs_table(static_cast<int>(options_.link.mcs_table))[num_mcs - 1];
  setup_ = {.num_prb = num_prb_,
            .rbg_size = static_cast<int32_t>(options_.cell.rbg_size),
            .max_users_per_slot = static_cast<int32_t>(options_.cell.max_users_per_slot),
            .max_power_w = budget_w_,
            .num_mcs = num_mcs,
            .min_mcs = link_->min_mcs(),
            .threshold_sinr = thresholds_.data(),
            .beta = betas_.data(),
            .bits = bits_.data(),
            .max_efficiency = static_cast<float>(top.spectral_efficiency()),
            .min_sinr = thresholds_[static_cast<size_t>(std::min(num_prb_, 4)) * num_mcs + link_->min_mcs()],
            .fairness_exponent = static_cast<float>(options_.cell.fairness_exponent),
            .levelling = static_cast<float>(options_.cell.levelling),
            .report_ceiling_sinr = 0,
            .probe_db = static_cast<float>(options_.cell.probe_db)};
  plain_setup_ = setup_;
  plain_setup_.levelling = plain_setup_.probe_db = 0;
  ceiling_bits_ = link_->tb_size(num_mcs - 1, num_prb_);
  for (int cqi = 0; cqi < 16; ++cqi) {
    const double db = cqi == 0 ? -INFINITY : radio::sinr_db_of_cqi(static_cast<int>(options_.link.mcs_table), cqi);
    cqi_sinr_.push_back(cqi == 0 ? 0.0f : static_cast<float>(std::pow(10.0, db / 10)));
  }
  if (options_.csi.quantise == "cqi") setup_.report_ceiling_sinr = plain_setup_.report_ceiling_sinr = cqi_sinr_.back();
}

namespace {

// Units and ranges of the features that runtime/src/cell.c computes, in its order: what a deployed controller accepts unnoticed.
struct Range {
  const char* unit;
  float low, high;
};
constexpr Range kContextRanges[TT_CELL_CONTEXT] = {{"10 users", 0, 30},     {"log2 PRBs", -3, 10}, {"bit/s/Hz or kbit/PRB", 0, 8},
                                                   {"Jain's index", 0, 1},  {"10 dB", -4, 4},      {"share of users", 0, 1}};
constexpr Range kPrbRanges[TT_CELL_PRB_FEATURES] = {
    {"ln share", -9, 0},  {"bit/s/Hz", 0, 8},  {"bit/s/Hz", 0, 8},       {"bit/s/Hz", 0, 4},    {"log2 ratio", -24, 24},
    {"10 dB", -4, 4},     {"correlation", 0, 1}, {"share of PRBs", 0, 1}, {"log2(1 + bit) / 20", 0, 1}, {"100 slots", 0, 10},
    {"0 or 1", 0, 1},     {"bit/s/Hz", -8, 8}};
constexpr Range kPowerRanges[TT_CELL_POWER_FEATURES] = {
    {"ln share", -9.3f, 0.1f}, {"ln share", -9, 0},        {"log2 ratio / 5", -4, 4}, {"log2 ratio / 5", -4, 4}, {"kbit/PRB", 0, 2},
    {"10 dB", -4, 4},          {"log2 ratio", -24, 24},    {"correlation", 0, 1},     {"0 or 1", 0, 1},          {"log2(1 + bit) / 20", 0, 1},
    {"kbit/PRB", 0, 2},        {"share of PRBs", 0, 1.001f}};

std::vector<Feature> features(const char* const* names, const Range* ranges, int count) {
  std::vector<Feature> out;
  for (int i = 0; i < count; ++i) out.push_back({names[i], ranges[i].unit, ranges[i].low, ranges[i].high});
  return out;
}

}  // namespace

void Cell::build_spec() {
  spec_.name = "prb_power";
  const std::vector<Feature> context = features(tt_cell_context_names, kContextRanges, TT_CELL_CONTEXT);
  const auto agent = [&](const char* name, std::vector<Feature> items) {
    AgentSpec a;
    a.name = name;
    a.observation = {context, std::move(items), num_users_};
    a.head = {.kind = HeadKind::kSimplex, .size = num_users_};
    return a;
  };
  const std::vector<Feature> prb_items = features(tt_cell_prb_feature_names, kPrbRanges, TT_CELL_PRB_FEATURES);
  if (options_.prb == "learned") {
    agent_index_[kPrbAgent] = static_cast<int>(spec_.agents.size());
    spec_.agents.push_back(agent("prb", prb_items));
  }
  if (options_.power == "learned") {
    agent_index_[kPowerAgent] = static_cast<int>(spec_.agents.size());
    spec_.agents.push_back(agent("power", features(tt_cell_power_feature_names, kPowerRanges, TT_CELL_POWER_FEATURES)));
  }
  // The critic also sees what the base station cannot: the present channel and the smoothed throughputs of the reward.
  spec_.critic = {context, prb_items, num_users_};
  spec_.critic.item.push_back({"true_efficiency", "bit/s/Hz", 0, 16});
  spec_.critic.item.push_back({"smoothed_throughput_share", "", 0, 1});
  spec_.critic.context.push_back({"smoothed_cell_throughput", "", 0, 1});
  spec_.critic.context.push_back({"jain_of_smoothed", "", 0, 1});
  spec_.reward_terms = {"throughput", "fairness", "energy"};
  spec_.time_limit = options_.episode_slots / options_.control_period_slots;
}

int Cell::lead_slots() const {
  return static_cast<int>(options_.csi.delay_slots * 2 + options_.csi.period_slots - (options_.csi.delay_slots == 0 ? 1 : 0));
}

void Cell::reset(State& s, WorldKey key) const {
  Draws draws(key.seed, Stream::kWorld, static_cast<uint32_t>(key.episode), static_cast<uint32_t>(key.episode >> 32));
  const auto source = static_cast<int>(draws.below(static_cast<uint32_t>(sources_.size())));
  const radio::TraceInfo& info = sources_[source]->info();
  const auto drop = static_cast<int>(draws.below(static_cast<uint32_t>(std::min<int64_t>(info.num_drops, INT32_MAX))));
  const auto spare = static_cast<uint32_t>(info.slots_per_drop - options_.episode_slots - lead_slots());
  reset_to(s, key, source, drop, lead_slots() + static_cast<int>(draws.below(spare + 1)));
}

void Cell::reset_to(State& s, WorldKey key, int source, int drop, int first_slot) const {
  const size_t u = num_users_, f = num_prb_, processes = options_.harq.processes;
  const radio::TraceInfo& info = sources_[source]->info();
  s.key = key;
  s.source = source;
  s.drop_index = drop;
  s.first_slot = first_slot;
  s.slot = 0;
  s.drop = sources_[source]->drop(drop);
  s.users.resize(info.num_users);
  for (size_t i = 0; i < s.users.size(); ++i) s.users[i] = static_cast<int32_t>(i);
  if (info.num_users > num_users_) {  // a random subset, in random order
    Draws draws(key.seed, Stream::kWorld, static_cast<uint32_t>(key.episode), static_cast<uint32_t>(key.episode >> 32), 1);
    for (size_t i = 0; i < u; ++i) std::swap(s.users[i], s.users[i + draws.below(static_cast<uint32_t>(s.users.size() - i))]);
  }
  s.users.resize(u);
  s.average.assign(u, 1.0f);
  s.smoothed.assign(u, 0.0f);
  s.total_bits.assign(u, 0.0);
  s.acked_bits.assign(u, 0.0f);
  s.offset_db.assign(u, 0.0f);
  s.reliability.assign(u, 1.0f);
  s.backlog_bits.assign(u, kFullBuffer);
  s.delay_slots.assign(u, 0.0f);
  s.active.assign(u, 1);
  s.retx_prbs.assign(u, 0);
  s.retx_mcs.assign(u, 0);
  s.retx_process.assign(u, -1);
  s.csi_state.assign(u * 3, 0.0f);
  s.sinr_per_watt.assign(u * f, 0.0f);
  s.scratch.assign(static_cast<size_t>(tt_cell_scratch_floats(num_users_, num_prb_)), 0.0f);
  s.owner.assign(f, -1);
  s.counts.assign(u, 0);
  s.user_power_w.assign(u, 0.0f);
  s.prb_power_w.assign(f, 0.0f);
  s.held_shares.assign(u, 0.0f);
  s.held_power.assign(u, 0.0f);
  s.processes.assign(u * processes, Process{});
  s.received.assign(u * processes * received_size(), 0.0f);
  s.flights.assign(static_cast<size_t>(latency_) * u, Flight{});
  s.queues.resize(options_.traffic.type == "full_buffer" ? 0 : u);
  for (TrafficQueue& queue : s.queues) queue.reset();
  s.delays.assign(s.queues.empty() ? 0 : kDelayBins, 0.0f);
  s.round_robin = 0;
  s.report_slot = -1;
  s.totals = {};
  begin_slot(s);
}

void Cell::sinr_per_watt(const State& s, int64_t trace_slot, int user, float* out) const {
  const radio::DropGains& drop = *s.drop;
  const int64_t row = static_cast<int64_t>(s.users[user]) * num_prb_;
  const float* gain = drop.at(0, trace_slot) + row;
  if (drop.num_tx == 1) {
    const float scale = 1.0f / noise_w_;
    for (int f = 0; f < num_prb_; ++f) out[f] = gain[f] * scale;
    return;
  }
  const float prb_w = budget_w_ / static_cast<float>(num_prb_) * static_cast<float>(options_.cell.interference_load);
  for (int f = 0; f < num_prb_; ++f) out[f] = noise_w_;
  for (int64_t tx = 1; tx < drop.num_tx; ++tx) {
    const float* other = drop.at(tx, trace_slot) + row;
    for (int f = 0; f < num_prb_; ++f) out[f] += other[f] * prb_w;
  }
  for (int f = 0; f < num_prb_; ++f) out[f] = gain[f] / out[f];
}

// A report as the base station gets it: exact, or 4-bit CQI per subband of the SINR at equal power.
void Cell::report_row(const State& s, int64_t trace_slot, int user, float* out) const {
  sinr_per_watt(s, trace_slot, user, out);
  if (options_.csi.quantise == "none") return;
  const float prb_w = budget_w_ / static_cast<float>(num_prb_);
  const int subband = static_cast<int>(options_.csi.subband_prbs);
  for (int begin = 0; begin < num_prb_; begin += subband) {
    const int end = std::min(begin + subband, num_prb_);
    float sum = 0;
    for (int f = begin; f < end; ++f) sum += out[f];
    const float sinr = sum / static_cast<float>(end - begin) * prb_w;
    int cqi = 0;
    while (cqi < 15 && sinr >= cqi_sinr_[cqi + 1]) ++cqi;
    for (int f = begin; f < end; ++f) out[f] = cqi_sinr_[cqi] / prb_w;
  }
}

void Cell::track_reliability(State& s, int64_t trace_slot) const {
  Rows& r = rows(num_prb_, 0);
  const int64_t older = trace_slot - options_.csi.delay_slots;
  if (older < 0) return;
  for (int u = 0; u < num_users_; ++u) {
    report_row(s, older, u, r.a.data());
    const float* now = s.sinr_per_watt.data() + static_cast<size_t>(u) * num_prb_;
    for (int f = 0; f < num_prb_; ++f) {
      r.a[f] = std::log2(r.a[f] + 1e-3f);
      r.b[f] = std::log2(now[f] + 1e-3f);
    }
    tt_csi_track(&s.csi_state[3 * u], r.a.data(), r.b.data(), num_prb_, kTrackDecay);
    s.reliability[u] = tt_csi_reliability(&s.csi_state[3 * u]);
  }
}

void Cell::update_reports(State& s) const {
  // After an episode that uses a drop up, the observation for bootstrapping repeats the last report: there is no channel beyond.
  const int64_t now = std::min<int64_t>(s.first_slot + s.slot, s.drop->num_slots - 1), period = options_.csi.period_slots;
  const int64_t described = (now - options_.csi.delay_slots) / period * period;
  if (described == s.report_slot) return;
  s.report_slot = static_cast<int32_t>(described);
  for (int u = 0; u < num_users_; ++u) report_row(s, described, u, s.sinr_per_watt.data() + static_cast<size_t>(u) * num_prb_);
  if (options_.csi.delay_slots > 0 && (period > 1 || s.slot % kTrackEvery == 0)) track_reliability(s, described);
}

void Cell::find_work(State& s) const {
  for (int u = 0; u < num_users_; ++u) {
    const int again = pick_process(s, u, true);
    s.retx_process[u] = again;
    s.retx_prbs[u] = 0;
    if (again >= 0) {
      const Process& block = process_of(s, u, again);
      s.retx_prbs[u] = block.prbs;
      s.retx_mcs[u] = block.mcs;
    }
    if (!s.queues.empty()) {
      s.backlog_bits[u] = static_cast<float>(s.queues[u].backlog_bits());
      s.delay_slots[u] = static_cast<float>(s.queues[u].head_delay(s.slot));
    }
    s.active[u] = again >= 0 || (s.backlog_bits[u] > 0 && pick_process(s, u, false) >= 0);
  }
}

void Cell::begin_slot(State& s) const {
  receive_feedback(s);
  const auto beta = static_cast<float>(options_.pf_beta), rho = static_cast<float>(options_.reward.smoothing);
  if (s.slot > 0) {
    for (int u = 0; u < num_users_; ++u) {
      s.average[u] = beta * s.average[u] + (1 - beta) * s.acked_bits[u];
      s.smoothed[u] = rho * s.smoothed[u] + (1 - rho) * s.acked_bits[u];
    }
  }
  for (size_t u = 0; u < s.queues.size(); ++u) s.queues[u].arrive(options_.traffic, slot_s_, s.key, static_cast<int>(u), s.slot);
  update_reports(s);
  find_work(s);
  tt_cell_scratch scratch_view = scratch(s);
  const tt_cell_slot slot_view = view(s);
  tt_cell_efficiency(&setup_, &slot_view, &scratch_view);
  if (options_.prb != "learned") schedule(s, prb_rule_);
}

tt_cell_slot Cell::view(const State& s) const {
  return {.num_users = num_users_,
          .sinr_per_watt = s.sinr_per_watt.data(),
          .average_bits = s.average.data(),
          .offset_db = s.offset_db.data(),
          .reliability = s.reliability.data(),
          .backlog_bits = s.backlog_bits.data(),
          .delay_slots = s.delay_slots.data(),
          .active = s.active.data(),
          .retx_prbs = s.retx_prbs.data(),
          .retx_mcs = s.retx_mcs.data()};
}

tt_cell_scratch Cell::scratch(const State& s) const {
  tt_cell_scratch view;
  // The scratch is the state's own memory: what an observation computes belongs to this slot only.
  tt_cell_scratch_init(&view, num_users_, num_prb_, const_cast<float*>(s.scratch.data()));
  return view;
}

void Cell::observe(const State& s, int agent, ObservationRows out) const {
  const tt_cell_slot slot = view(s);
  tt_cell_scratch scratch_view = scratch(s);
  if (agent == agent_index_[kPrbAgent]) {
    tt_cell_prb_features(&setup_, &slot, &scratch_view, out.context, out.items);
    for (int u = 0; u < num_users_; ++u) out.mask[u] = s.active[u];
  } else {
    tt_cell_ladder(&setup_, &slot, s.owner.data(), s.counts.data(), &scratch_view);
    tt_cell_power_features(&setup_, &slot, s.owner.data(), s.counts.data(), &scratch_view, out.context, out.items);
    for (int u = 0; u < num_users_; ++u) out.mask[u] = s.counts[u] > 0;
  }
}

void Cell::observe_critic(const State& s, ObservationRows out) const {
  constexpr int kItems = TT_CELL_PRB_FEATURES + 2;
  Rows& r = rows(std::max<size_t>(num_prb_, static_cast<size_t>(num_users_) * TT_CELL_PRB_FEATURES), 0);
  const tt_cell_slot slot = view(s);
  tt_cell_scratch scratch_view = scratch(s);
  tt_cell_prb_features(&setup_, &slot, &scratch_view, out.context, r.a.data());
  double sum = 0, squares = 0;
  for (int u = 0; u < num_users_; ++u) sum += s.smoothed[u], squares += static_cast<double>(s.smoothed[u]) * s.smoothed[u];
  const float prb_w = budget_w_ / static_cast<float>(num_prb_);
  const int64_t trace_slot = std::min<int64_t>(s.first_slot + s.slot, s.drop->num_slots - 1);
  for (int u = 0; u < num_users_; ++u) {
    float* item = out.items + u * kItems;
    std::memcpy(item, r.a.data() + u * TT_CELL_PRB_FEATURES, TT_CELL_PRB_FEATURES * sizeof(float));
    sinr_per_watt(s, trace_slot, u, r.b.data());
    float mean = 0;
    for (int f = 0; f < num_prb_; ++f) mean += r.b[f];
    item[TT_CELL_PRB_FEATURES] = std::log2(1.0f + mean / static_cast<float>(num_prb_) * prb_w);
    item[TT_CELL_PRB_FEATURES + 1] = sum > 0 ? static_cast<float>(s.smoothed[u] / sum * num_users_) : 1.0f;
    out.mask[u] = 1;
  }
  out.context[TT_CELL_CONTEXT] = static_cast<float>(sum / ceiling_bits_);
  out.context[TT_CELL_CONTEXT + 1] = squares > 0 ? static_cast<float>(sum * sum / (num_users_ * squares)) : 1.0f;
}

void Cell::finish_assignment(State& s) const {
  bool any = false;
  for (int u = 0; u < num_users_; ++u) any |= s.retx_prbs[u] > 0;
  if (!any) return;
  float weight[256];
  const tt_cell_slot slot = view(s);
  tt_cell_fair_weights(&slot, 1.0f, weight);
  const tt_cell_scratch scratch_view = scratch(s);
  tt_cell_place_retransmissions(&setup_, &slot, weight, scratch_view.efficiency, s.owner.data(), s.counts.data());
}

void Cell::schedule(State& s, const PrbRule& rule) const {
  const tt_cell_slot slot = view(s);
  tt_cell_scratch scratch_view = scratch(s);
  if (rule.kind == PrbRule::Kind::kRoundRobin) {
    std::fill(s.counts.begin(), s.counts.end(), 0);
    const int limit = options_.cell.max_users_per_slot > 0 ? static_cast<int>(options_.cell.max_users_per_slot) : num_users_;
    std::vector<int>& turn = s.owner;  // consecutive groups go to consecutive active users
    int num_turns = 0, order[256];
    for (int k = 0; k < num_users_ && num_turns < limit; ++k)
      if (const int u = (s.round_robin + k) % num_users_; s.active[u]) order[num_turns++] = u;
    for (int f = 0; f < num_prb_; ++f) {
      turn[f] = num_turns == 0 ? -1 : order[(f / setup_.rbg_size) % num_turns];
      if (turn[f] >= 0) ++s.counts[turn[f]];
    }
    s.round_robin = (s.round_robin + 1) % num_users_;
  } else {
    float weight[256];
    tt_cell_fair_weights(&slot, static_cast<float>(rule.exponent), weight);
    tt_cell_argmax(&setup_, &slot, weight, &scratch_view, s.owner.data(), s.counts.data());
  }
  finish_assignment(s);
}

void Cell::assign_shares(State& s, const float* shares) const {
  const tt_cell_slot slot = view(s);
  tt_cell_scratch scratch_view = scratch(s);
  Rows& r = rows(0, tt_assign_workspace_size(num_users_, num_prb_));
  tt_cell_resolve(&setup_, &slot, &scratch_view, shares, options_.resolver == "exact", s.owner.data(), s.counts.data(),
                  r.workspace.data());
  finish_assignment(s);
}

void Cell::act(State& s, int agent, const float* shares) const {
  if (agent == agent_index_[kPrbAgent]) {
    std::copy_n(shares, num_users_, s.held_shares.begin());
    assign_shares(s, shares);
  } else {
    std::copy_n(shares, num_users_, s.held_power.begin());
    split_power_by_shares(s, shares);
  }
}

StepOutcome Cell::step(State& s, float* terms) const {
  std::fill(terms, terms + 3, 0.0f);
  const auto period = static_cast<int>(options_.control_period_slots);
  for (int k = 0; k < period; ++k) {
    if (k > 0) {  // decisions are held, the resolver sees the new slot
      if (options_.prb == "learned") assign_shares(s, s.held_shares.data());
      if (options_.power == "learned") split_power_by_shares(s, s.held_power.data());
    }
    if (options_.power != "learned") split_power(s, power_rule_);
    const double jain_before = jain_of(s.smoothed);
    double power = 0;
    for (const float p : s.prb_power_w) power += p;
    transmit(s);
    double level = 0, delivered = 0;
    for (int u = 0; u < num_users_; ++u) level += s.smoothed[u], delivered += s.acked_bits[u];
    const double jain_after = jain_of(s.smoothed);
    const CellRewardOptions& r = options_.reward;
    const bool marginal = r.form == "marginal";
    const double throughput = (marginal ? delivered : level) / ceiling_bits_;
    const double fairness = marginal ? (jain_after - jain_before) / (1 - r.smoothing) : jain_after;
    terms[0] += static_cast<float>(r.throughput * throughput / period);
    terms[1] += static_cast<float>(r.fairness * fairness / period);
    terms[2] -= static_cast<float>(r.energy * power / budget_w_ / period);
  }
  return {.terminated = false};
}

double Cell::jain(const std::vector<double>& x) const { return jain_of(x); }

void Cell::serialise(State& s, Archive& a) const {
  s.serialise(a);
  if (a.reading()) s.drop = sources_[s.source]->drop(s.drop_index);
}

void Cell::episode_statistics(const State& s, const std::function<void(const char*, double)>& emit) const {
  const double seconds = s.totals.slots * slot_s_;
  emit("cell_throughput_mbps", s.totals.bits / seconds * 1e-6);
  emit("jain", jain(s.total_bits));
  emit("jain_smoothed", s.totals.jain_smoothed / s.totals.slots);
  emit("bler", s.totals.first_blocks > 0 ? s.totals.first_errors / s.totals.first_blocks : 0);
}

}  // namespace trimtab
