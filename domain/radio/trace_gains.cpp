// From a file's arrays to gains: hyperslabs of some users and slots (a piece), gathered sixteen instants at a
// time.
//
// An instant is one sample of one slot. A slot's gain is the mean over its samples.
#include "domain/radio/trace_gains.h"

#include <algorithm>
#include <array>
#include <numeric>

#include "domain/radio/trace_response.h"

namespace trimtab::radio {
namespace {

constexpr int64_t kPieceBytes = int64_t{64}
                                << 20;  // of complex64 in memory at a time, as far as one slot allows
constexpr double kMaxPieceBytes = 4.0 * (1 << 30);  // one slot of one user beyond this is refused

// Strides, in elements, of one piece in memory.
struct Strides {
  int64_t slot = 0, user = 0, rx_antenna = 0, tx = 0, tx_antenna = 0, path = 0, sample = 0;
};

struct Piece {
  int64_t first_user = 0, num_users = 0, first_slot = 0, num_slots = 0;
  std::vector<float> a;  // (re, im) of a or h_freq
  std::vector<double> tau;
  Strides a_at, tau_at;
};

int64_t values_per_user_and_slot(const OpenTrace& trace) {
  const TraceInfo& info = trace.format.info;
  const int64_t inner = trace.format.has_delays ? info.num_paths : trace.format.num_bins;
  return info.rx_antennas * info.num_tx * info.tx_antennas * inner * info.samples_per_slot;
}

// Offsets and counts of a piece in the bulk dataset, and the strides it has in memory.
hdf5::Slab bulk_slab(const OpenTrace& trace, int64_t drop, Piece& piece) {
  const TraceFormat& format = trace.format;
  const TraceInfo& info = format.info;
  const int64_t samples = info.samples_per_slot;
  std::array<int64_t, 7> offset{}, count{};
  offset[0] = format.slot_axis ? format.drops[static_cast<size_t>(drop)].first + piece.first_slot : drop;
  count[0] = format.slot_axis ? piece.num_slots : 1;
  offset[1] = piece.first_user;
  count[1] = piece.num_users;
  count[2] = info.rx_antennas;
  count[3] = info.num_tx;
  count[4] = info.tx_antennas;
  const size_t time = format.has_delays ? 6 : 5, inner = format.has_delays ? 5 : 6;
  offset[time] = format.slot_axis ? 0 : piece.first_slot * samples;
  count[time] = format.slot_axis ? samples : piece.num_slots * samples;
  count[inner] = format.has_delays ? info.num_paths : format.num_bins;

  std::array<int64_t, 7> stride{};
  stride[6] = 1;
  for (size_t axis = 6; axis > 0; --axis) stride[axis - 1] = stride[axis] * count[axis];
  piece.a_at = {.slot = format.slot_axis ? stride[0] : stride[time] * samples,
                .user = stride[1],
                .rx_antenna = stride[2],
                .tx = stride[3],
                .tx_antenna = stride[4],
                .path = stride[inner],
                .sample = stride[time]};
  return {{offset.begin(), offset.end()}, {count.begin(), count.end()}};
}

hdf5::Slab tau_slab(const OpenTrace& trace, int64_t drop, Piece& piece) {
  const TraceFormat& format = trace.format;
  const TraceInfo& info = format.info;
  hdf5::Slab slab;
  const auto axis = [&](int64_t offset, int64_t count) {
    slab.offset.push_back(static_cast<hsize_t>(offset));
    slab.count.push_back(static_cast<hsize_t>(count));
  };
  if (format.slot_axis) {
    axis(format.drops[static_cast<size_t>(drop)].first + piece.first_slot, piece.num_slots);
  } else {
    axis(drop, 1);
  }
  axis(piece.first_user, piece.num_users);
  if (format.tau_per_antenna) axis(0, info.rx_antennas);
  axis(0, info.num_tx);
  if (format.tau_per_antenna) axis(0, info.tx_antennas);
  axis(0, info.num_paths);
  Strides& at = piece.tau_at;
  at.path = 1;
  at.tx_antenna = format.tau_per_antenna ? info.num_paths : 0;
  at.tx = info.num_paths * (format.tau_per_antenna ? info.tx_antennas : 1);
  at.rx_antenna = format.tau_per_antenna ? at.tx * info.num_tx : 0;
  at.user = at.tx * info.num_tx * (format.tau_per_antenna ? info.rx_antennas : 1);
  at.slot = format.slot_axis ? at.user * piece.num_users : 0;
  return slab;
}

void read_piece(const OpenTrace& trace, int64_t drop, Piece& piece) {
  const std::lock_guard guard(hdf5::lock());
  trace.bulk->read(bulk_slab(trace, drop, piece), piece.a);
  if (trace.format.has_delays) piece.tau = trace.tau->read(tau_slab(trace, drop, piece));
}

// Gains of one piece, link by link.
class PieceConverter {
 public:
  PieceConverter(const OpenTrace& trace, const Piece& piece) : format_(trace.format), piece_(piece) {
    pairs_ = format_.info.rx_antennas * format_.info.tx_antennas;
    h_.resize(static_cast<size_t>(pairs_ * format_.num_bins * kLanes));
    gain_.resize(static_cast<size_t>(format_.info.num_prb * kLanes));
  }

  // out: [tx, slots of the request, users, prb]; `first_out` is where this piece's first slot goes.
  void convert(DropGains& out, int64_t first_out) {
    for (int64_t user = 0; user < piece_.num_users; ++user) {
      for (int64_t tx = 0; tx < format_.info.num_tx; ++tx) convert_link(user, tx, out, first_out);
    }
  }

 private:
  struct Instant {
    int64_t slot = 0, sample = 0;
  };
  Instant instant(int64_t i) const {
    return {i / format_.info.samples_per_slot, i % format_.info.samples_per_slot};
  }
  int64_t a_index(int64_t user, int64_t tx, int64_t pair, Instant at) const {
    const Strides& s = piece_.a_at;
    return user * s.user + tx * s.tx + (pair / format_.info.tx_antennas) * s.rx_antenna +
           (pair % format_.info.tx_antennas) * s.tx_antenna + at.slot * s.slot + at.sample * s.sample;
  }
  int64_t tau_index(int64_t user, int64_t tx, int64_t pair, Instant at) const {
    const Strides& s = piece_.tau_at;
    return user * s.user + tx * s.tx + (pair / format_.info.tx_antennas) * s.rx_antenna +
           (pair % format_.info.tx_antennas) * s.tx_antenna + at.slot * s.slot;
  }

  void convert_link(int64_t user, int64_t tx, DropGains& out, int64_t first_out) {
    if (format_.has_delays && !format_.slot_axis) prepare_fixed(user, tx);
    const int64_t instants = piece_.num_slots * format_.info.samples_per_slot;
    const Combining how{format_.info.rx_antennas, format_.info.tx_antennas, format_.num_bins,
                        format_.bins_per_prb,     tx == format_.serving,    format_.precoder};
    for (int64_t first = 0; first < instants; first += kLanes) {
      const int64_t lanes = std::min<int64_t>(kLanes, instants - first);
      for (int64_t pair = 0; pair < pairs_; ++pair) respond(user, tx, pair, first, lanes);
      std::fill(gain_.begin(), gain_.end(), 0.0f);
      combine_antennas(h_, how, gain_.data());
      scatter(user, tx, first, lanes, out, first_out);
    }
  }

  // The delays of an episode do not change: one steering matrix per link (or antenna pair), of the paths that
  // carry anything.
  void prepare_fixed(int64_t user, int64_t tx) {
    const int64_t matrices = format_.tau_per_antenna ? pairs_ : 1;
    steering_.resize(static_cast<size_t>(matrices));
    live_.resize(static_cast<size_t>(matrices));
    std::vector<double> tau;
    for (int64_t pair = 0; pair < matrices; ++pair) {
      std::vector<int64_t>& live = live_[static_cast<size_t>(pair)];
      live.clear();
      tau.clear();
      const double* from = piece_.tau.data() + tau_index(user, tx, pair, {});
      for (int64_t path = 0; path < format_.info.num_paths; ++path) {
        if (from[path] < 0 || !carries(user, tx, path)) continue;
        live.push_back(path);
        tau.push_back(from[path]);
      }
      steering_matrix(tau.data(), static_cast<int64_t>(tau.size()), format_.num_bins,
                      format_.info.subcarrier_spacing, steering_[static_cast<size_t>(pair)]);
    }
  }

  // Whether a path is more than padding anywhere in the piece. Its first instants nearly always tell.
  bool carries(int64_t user, int64_t tx, int64_t path) const {
    const int64_t instants = piece_.num_slots * format_.info.samples_per_slot;
    for (int64_t pair = 0; pair < pairs_; ++pair) {
      for (int64_t i = 0; i < instants; ++i) {
        const int64_t at = 2 * (a_index(user, tx, pair, instant(i)) + path * piece_.a_at.path);
        if (piece_.a[static_cast<size_t>(at)] != 0 || piece_.a[static_cast<size_t>(at + 1)] != 0) return true;
      }
    }
    return false;
  }

  // h of one antenna pair for a block of instants.
  void respond(int64_t user, int64_t tx, int64_t pair, int64_t first, int64_t lanes) {
    float* h_re = &h_.re[static_cast<size_t>(pair * format_.num_bins * kLanes)];
    float* h_im = &h_.im[static_cast<size_t>(pair * format_.num_bins * kLanes)];
    if (!format_.has_delays) {
      all_.resize(static_cast<size_t>(format_.num_bins));
      std::iota(all_.begin(), all_.end(), 0);
      gather(user, tx, pair, first, lanes, all_, h_re, h_im);
      return;
    }
    const size_t matrix = format_.tau_per_antenna && !format_.slot_axis ? static_cast<size_t>(pair) : 0;
    if (format_.slot_axis) {
      all_.resize(static_cast<size_t>(format_.info.num_paths));
      std::iota(all_.begin(), all_.end(), 0);
    }
    const std::vector<int64_t>& paths = format_.slot_axis ? all_ : live_[matrix];
    const auto num_paths = static_cast<int64_t>(paths.size());
    a_.resize(static_cast<size_t>(num_paths * kLanes));
    gather(user, tx, pair, first, lanes, paths, a_.re.data(), a_.im.data());
    if (!format_.slot_axis) {
      response_fixed(steering_[matrix], a_.re.data(), a_.im.data(), num_paths, format_.num_bins, h_re, h_im);
      return;
    }
    gather_delays(user, tx, pair, first, lanes);
    response_moving(tau_.data(), a_.re.data(), a_.im.data(), num_paths, format_.num_bins,
                    format_.info.subcarrier_spacing, h_re, h_im);
  }

  // [chosen, lanes] from the piece; lanes beyond the last instant are zero.
  void gather(int64_t user, int64_t tx, int64_t pair, int64_t first, int64_t lanes,
              const std::vector<int64_t>& chosen, float* re, float* im) const {
    std::array<const float*, kLanes> from{};
    for (int64_t lane = 0; lane < lanes; ++lane) {
      from[static_cast<size_t>(lane)] = piece_.a.data() + 2 * a_index(user, tx, pair, instant(first + lane));
    }
    for (size_t k = 0; k < chosen.size(); ++k) {
      const int64_t at = 2 * chosen[k] * piece_.a_at.path;
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        const bool inside = lane < lanes;
        re[k * kLanes + lane] = inside ? from[static_cast<size_t>(lane)][at] : 0.0f;
        im[k * kLanes + lane] = inside ? from[static_cast<size_t>(lane)][at + 1] : 0.0f;
      }
    }
  }

  // Delays [paths, lanes] of a block; a missing path (tau < 0) loses its gain, whatever that was.
  void gather_delays(int64_t user, int64_t tx, int64_t pair, int64_t first, int64_t lanes) {
    tau_.assign(static_cast<size_t>(format_.info.num_paths * kLanes), 0.0);
    for (int64_t lane = 0; lane < lanes; ++lane) {
      const double* from = piece_.tau.data() + tau_index(user, tx, pair, instant(first + lane));
      for (int64_t path = 0; path < format_.info.num_paths; ++path) {
        const auto at = static_cast<size_t>(path * kLanes + lane);
        if (from[path] < 0) {
          a_.re[at] = a_.im[at] = 0;
        } else {
          tau_[at] = from[path];
        }
      }
    }
  }

  // Adds a block's gains to their slots.
  void scatter(int64_t user, int64_t tx, int64_t first, int64_t lanes, DropGains& out,
               int64_t first_out) const {
    const auto share = 1.0f / static_cast<float>(format_.info.samples_per_slot);
    // The serving station is first in the result, the others follow in the file's order.
    const int64_t place = tx == format_.serving ? 0 : tx < format_.serving ? tx + 1 : tx;
    for (int64_t lane = 0; lane < lanes; ++lane) {
      const int64_t slot = first_out + instant(first + lane).slot;
      float* to = out.gain.data() +
                  ((place * out.num_slots + slot) * out.num_users + piece_.first_user + user) * out.num_prb;
      for (int64_t prb = 0; prb < out.num_prb; ++prb)
        to[prb] += share * gain_[static_cast<size_t>(prb * kLanes + lane)];
    }
  }

  const TraceFormat& format_;
  const Piece& piece_;
  int64_t pairs_ = 1;
  std::vector<Planes> steering_;            // one, or one per antenna pair
  std::vector<std::vector<int64_t>> live_;  // paths of each steering matrix
  std::vector<int64_t> all_;
  Planes a_, h_;             // [paths, lanes], [pairs, bins, lanes]
  std::vector<double> tau_;  // [paths, lanes]
  std::vector<float> gain_;  // [prb, lanes]
};

void refuse_large_slots(const OpenTrace& trace) {
  const double bytes = 8.0 * static_cast<double>(values_per_user_and_slot(trace));
  if (bytes <= kMaxPieceBytes) return;
  trace.file.fail(fmt::format("one slot of one user in '{}' takes {:.1f} GiB; shapes this large are not read",
                              trace.bulk->name(), bytes / (1 << 30)));
}

// Consecutive slots [first, first + count) of a drop, placed from `first_out` on.
void convert_run(const OpenTrace& trace, int64_t drop, int64_t first, int64_t count, DropGains& out,
                 int64_t first_out) {
  const int64_t bytes = 8 * values_per_user_and_slot(trace), users = trace.format.info.num_users;
  const int64_t slots_at_once = std::clamp<int64_t>(kPieceBytes / bytes, 1, count);
  const int64_t users_at_once = std::clamp<int64_t>(kPieceBytes / (bytes * slots_at_once), 1, users);
  Piece piece;
  for (int64_t slot = 0; slot < count; slot += slots_at_once) {
    for (int64_t user = 0; user < users; user += users_at_once) {
      piece.first_slot = first + slot;
      piece.num_slots = std::min(slots_at_once, count - slot);
      piece.first_user = user;
      piece.num_users = std::min(users_at_once, users - user);
      read_piece(trace, drop, piece);
      PieceConverter(trace, piece).convert(out, first_out + slot);
    }
  }
}

}  // namespace

DropGains convert_slots(const OpenTrace& trace, int64_t drop, std::span<const int64_t> slots) {
  const TraceFormat& format = trace.format;
  TT_CHECK(drop >= 0 && drop < format.info.num_drops, "drop {} of {}", drop, format.info.num_drops);
  refuse_large_slots(trace);
  DropGains out;
  out.num_slots = static_cast<int64_t>(slots.size());
  out.num_users = format.info.num_users;
  out.num_tx = format.info.num_tx;
  out.num_prb = format.info.num_prb;
  out.gain.assign(static_cast<size_t>(out.num_tx * out.num_slots * out.num_users * out.num_prb), 0.0f);
  for (size_t begin = 0; begin < slots.size();) {
    size_t end = begin + 1;
    while (end < slots.size() && slots[end] == slots[end - 1] + 1) ++end;
    TT_CHECK(slots[begin] >= 0 && slots[end - 1] < format.num_slots(drop), "slots {}..{} of {}", slots[begin],
             slots[end - 1], format.num_slots(drop));
    convert_run(trace, drop, slots[begin], static_cast<int64_t>(end - begin), out,
                static_cast<int64_t>(begin));
    begin = end;
  }
  return out;
}

DropGains convert_drop(const OpenTrace& trace, int64_t drop) {
  TT_CHECK(drop >= 0 && drop < trace.format.info.num_drops, "drop {} of {}", drop,
           trace.format.info.num_drops);
  std::vector<int64_t> slots(static_cast<size_t>(trace.format.num_slots(drop)));
  std::iota(slots.begin(), slots.end(), 0);
  return convert_slots(trace, drop, slots);
}

}  // namespace trimtab::radio
