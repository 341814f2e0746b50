// Resolving what a trace file says about itself. The rules are those of docs/traces.md; nothing is guessed: a
// value that neither the file nor the configuration gives is an error.
#include "domain/radio/trace_format.h"

#include <algorithm>
#include <cmath>

#include "core/text.h"

namespace trimtab::radio {
namespace {

constexpr int64_t kSubcarriersPerPrb = 12;
constexpr int64_t kFormatVersion = 1;
constexpr int64_t kMaxPrb = 100000;                // beyond any numerology: a damaged attribute
constexpr double kMaxDropBytes = 4.0 * (1 << 30);  // gains of one drop
enum Axis { kRows, kRx, kRxAntenna, kTx, kTxAntenna, kPath, kTime, kBulkRank };  // axes of a

// Attributes of the root group, overridden by the options; collects what is missing so that one message names
// it all.
class Values {
 public:
  Values(const hdf5::File& file) : file_(file), attributes_(file.attributes()) {}

  double positive(const std::string& name, double given, bool required = true) {
    if (given != 0) return given;
    const auto value = number(name);
    if (!value) {
      if (required) missing_.push_back(name);
      return 0;
    }
    if (!(*value > 0) || !std::isfinite(*value)) {
      file_.fail(fmt::format(
          "attribute '{}' is {}; it must be positive: correct it, or override it with {}=VALUE in the "
          "configuration",
          name, *value, name));
    }
    return *value;
  }

  int64_t count(const std::string& name, int64_t given, bool required) {
    const double value = positive(name, static_cast<double>(given), required);
    if (value != std::floor(value) || value > static_cast<double>(INT32_MAX)) {
      file_.fail(fmt::format("attribute '{}' is {}; it must be a whole number", name, value));
    }
    return static_cast<int64_t>(value);
  }

  std::string word(const std::string& name, const std::string& given, const std::vector<std::string>& allowed,
                   const std::string& otherwise) {
    const std::string value = !given.empty() ? given : text(name).value_or(otherwise);
    if (value.empty()) {
      missing_.push_back(name);
    } else if (std::find(allowed.begin(), allowed.end(), value) == allowed.end()) {
      file_.fail(fmt::format("'{}' is \"{}\"; it must be one of: {}", name, value, join(allowed, ", ")));
    }
    return value;
  }

  std::optional<double> number(const std::string& name) const {
    const hdf5::Attribute* found = find(name);
    if (found == nullptr) return std::nullopt;
    if (!found->number) file_.fail(fmt::format("attribute '{}' is not a single number", name));
    return found->number;
  }
  std::optional<std::string> text(const std::string& name) const {
    const hdf5::Attribute* found = find(name);
    if (found == nullptr) return std::nullopt;
    if (!found->word) file_.fail(fmt::format("attribute '{}' is not a word", name));
    return found->word;
  }
  void miss(const std::string& name) { missing_.push_back(name); }

  void refuse_missing() const {
    if (missing_.empty()) return;
    file_.fail(fmt::format(
        "neither the file's attributes nor the configuration give {}; add the attribute{} to the file or "
        "give, for example, {}",
        join(missing_, ", "), missing_.size() > 1 ? "s" : "", example()));
  }

 private:
  const hdf5::Attribute* find(const std::string& name) const {
    const auto at =
        std::find_if(attributes_.begin(), attributes_.end(), [&](const auto& a) { return a.name == name; });
    return at == attributes_.end() ? nullptr : &*at;
  }
  std::string example() const {
    std::string out;
    for (const std::string& name : missing_) {
      const char* value = name == "axis0"                ? "episode"
                          : name == "num_prb"            ? "51"
                          : name == "slot_duration"      ? "0.0005"
                          : name == "sampling_frequency" ? "2000"
                                                         : "30000";
      out += fmt::format("{}{}={}", out.empty() ? "" : " ", name, value);
    }
    return out;
  }

  const hdf5::File& file_;
  std::vector<hdf5::Attribute> attributes_;
  std::vector<std::string> missing_;
};

void check_shapes(const OpenTrace& trace, TraceFormat& format) {
  const auto& a = trace.bulk->shape();
  const std::string& name = trace.bulk->name();
  if (a.size() != kBulkRank) {
    trace.file.fail(fmt::format(
        "dataset '{}' of shape {} has {} axes; it must have 7: {}", name, hdf5::shape_text(a), a.size(),
        format.has_delays ? "[drops or slots, rx, rx_ant, tx, tx_ant, paths, time]"
                          : "[drops or slots, rx, rx_ant, tx, tx_ant, symbols, frequency]"));
  }
  if (std::find(a.begin(), a.end(), 0) != a.end()) {
    trace.file.fail(fmt::format("dataset '{}' of shape {} is empty; every axis must be at least 1 long", name,
                                hdf5::shape_text(a)));
  }
  if (!format.has_delays) return;
  const auto& tau = trace.tau->shape();
  const std::vector<int64_t> four = {a[kRows], a[kRx], a[kTx], a[kPath]};
  const std::vector<int64_t> six = {a[kRows], a[kRx], a[kRxAntenna], a[kTx], a[kTxAntenna], a[kPath]};
  format.tau_per_antenna = tau == six;
  if (tau != four && tau != six) {
    trace.file.fail(fmt::format(
        "dataset 'tau' of shape {} does not fit '{}' of shape {}; it must be {} [.., rx, tx, paths] or "
        "{} [.., rx, rx_ant, tx, tx_ant, paths]",
        hdf5::shape_text(tau), name, hdf5::shape_text(a), hdf5::shape_text(four), hdf5::shape_text(six)));
  }
}

void resolve_frequency_axis(const OpenTrace& trace, const TraceOptions& options, Values& values,
                            TraceFormat& format) {
  TraceInfo& info = format.info;
  info.subcarrier_spacing = values.positive("subcarrier_spacing", options.subcarrier_spacing);
  info.carrier_frequency = values.positive("carrier_frequency", options.carrier_frequency, false);
  info.num_prb = values.count("num_prb", options.num_prb, false);
  const int64_t fft_size = info.num_prb == 0 ? values.count("fft_size", 0, false) : 0;
  if (fft_size % kSubcarriersPerPrb != 0) {
    trace.file.fail(fmt::format(
        "attribute 'fft_size' is {}, which is not a multiple of 12 subcarriers; give num_prb", fft_size));
  }
  if (fft_size > 0) info.num_prb = fft_size / kSubcarriersPerPrb;
  if (format.has_delays) {
    if (info.num_prb == 0) values.miss("num_prb");
  } else {
    const int64_t bins = trace.bulk->shape()[kTime];
    const std::string granularity =
        values.word("freq_granularity", options.freq_granularity, {"subcarrier", "prb"}, "subcarrier");
    format.bins_per_prb = granularity == "prb" ? 1 : kSubcarriersPerPrb;
    if (info.num_prb == 0) info.num_prb = bins / format.bins_per_prb;
    if (info.num_prb * format.bins_per_prb != bins) {
      trace.file.fail(fmt::format(
          "dataset 'h_freq' has {} values on its frequency axis, but {} PRBs with freq_granularity "
          "\"{}\" need {}; correct num_prb or freq_granularity",
          bins, info.num_prb, granularity, info.num_prb * format.bins_per_prb));
    }
  }
  if (info.num_prb > kMaxPrb)
    trace.file.fail(fmt::format("num_prb is {}; at most {} make sense", info.num_prb, kMaxPrb));
  format.num_bins = info.num_prb * format.bins_per_prb;
}

void resolve_time_axis(const OpenTrace& trace, const TraceOptions& options, Values& values,
                       TraceFormat& format) {
  TraceInfo& info = format.info;
  const int64_t samples = trace.bulk->shape()[format.has_delays ? kTime : kPath];
  info.slot_duration = values.positive("slot_duration", options.slot_duration);
  info.axis0 = values.word("axis0", options.axis0, {"slot", "episode"}, "");
  format.slot_axis = info.axis0 == "slot";
  // The spacing of samples matters only where one axis holds more than one slot.
  info.sampling_frequency = values.positive("sampling_frequency", options.sampling_frequency,
                                            info.axis0 == "episode" && samples > 1);
  values.refuse_missing();
  if (format.slot_axis || samples == 1) {
    info.samples_per_slot = samples;
    info.slots_per_drop = 1;
    return;
  }
  const double per_slot = info.sampling_frequency * info.slot_duration;
  info.samples_per_slot = static_cast<int64_t>(std::llround(per_slot));
  if (per_slot > 1e9 || info.samples_per_slot < 1 ||
      std::abs(per_slot - std::round(per_slot)) > 1e-3 * per_slot) {
    trace.file.fail(fmt::format(
        "sampling_frequency {} Hz times slot_duration {} s is {:.4g} samples per slot; it must be a "
        "whole number of at least 1: correct either",
        info.sampling_frequency, info.slot_duration, per_slot));
  }
  info.slots_per_drop = samples / info.samples_per_slot;
  if (info.slots_per_drop < 1) {
    trace.file.fail(fmt::format("dataset '{}' has {} samples of time, less than one slot of {} samples",
                                trace.bulk->name(), samples, info.samples_per_slot));
  }
}

// First rows of drops as a column of the file marks them: wherever `starts(i)` holds for row i > 0.
template <class Starts>
std::vector<TraceFormat::Range> split_rows(int64_t rows, Starts starts) {
  std::vector<TraceFormat::Range> drops = {{0, 1}};
  for (int64_t row = 1; row < rows; ++row) {
    if (starts(static_cast<size_t>(row))) drops.push_back({row, 0});
    ++drops.back().count;
  }
  return drops;
}

std::vector<double> read_column(const OpenTrace& trace, const std::string& name, int64_t rows) {
  const hdf5::RealDataset column(trace.file, name);
  if (column.shape() != std::vector<int64_t>{rows}) {
    trace.file.fail(fmt::format("dataset '{}' has shape {}, it must be [{}] as axis 0 of '{}'", name,
                                hdf5::shape_text(column.shape()), rows, trace.bulk->name()));
  }
  return column.read_all();
}

// Files whose axis 0 counts slots hold one drop after another. By precedence: option, `drop`, attribute,
// `time`.
void resolve_drops(const OpenTrace& trace, const TraceOptions& options, Values& values, TraceFormat& format) {
  TraceInfo& info = format.info;
  const int64_t rows = trace.bulk->shape()[kRows];
  if (!format.slot_axis) {
    info.num_drops = rows;
    return;
  }
  const int64_t fixed = options.slots_per_drop > 0 || !trace.file.has("drop")
                            ? values.count("slots_per_drop", options.slots_per_drop, false)
                            : 0;
  if (fixed > 0) {
    if (rows % fixed != 0) {
      trace.file.fail(
          fmt::format("axis 0 of '{}' has {} slots, which slots_per_drop = {} does not divide; correct it",
                      trace.bulk->name(), rows, fixed));
    }
    format.drops = split_rows(rows, [&](size_t row) { return static_cast<int64_t>(row) % fixed == 0; });
  } else if (trace.file.has("drop")) {
    const std::vector<double> drop = read_column(trace, "drop", rows);
    format.drops = split_rows(rows, [&](size_t row) { return drop[row] != drop[row - 1]; });
  } else if (trace.file.has("time")) {
    const std::vector<double> time = read_column(trace, "time", rows);
    format.drops = split_rows(rows, [&](size_t row) {  // a step of anything but one slot breaks the run
      return std::abs(time[row] - time[row - 1] - info.slot_duration) > 0.5 * info.slot_duration;
    });
    if (rows > 1 && static_cast<int64_t>(format.drops.size()) == rows) {
      trace.file.fail(fmt::format(
          "dataset 'time' advances by {} s a row, but slot_duration is {} s; correct slot_duration or "
          "give slots_per_drop",
          time[1] - time[0], info.slot_duration));
    }
  } else {
    format.drops = {{0, rows}};
  }
  info.num_drops = static_cast<int64_t>(format.drops.size());
  info.slots_per_drop =
      std::min_element(format.drops.begin(), format.drops.end(), [](const auto& x, const auto& y) {
        return x.count < y.count;
      })->count;
}

void check_limits(const OpenTrace& trace, const TraceFormat& format) {
  const TraceInfo& info = format.info;
  int64_t longest = info.slots_per_drop;
  for (const auto& drop : format.drops) longest = std::max(longest, drop.count);
  const double bytes = 4.0 * static_cast<double>(longest) * static_cast<double>(info.num_users) *
                       static_cast<double>(info.num_tx) * static_cast<double>(info.num_prb);
  if (bytes > kMaxDropBytes) {
    trace.file.fail(fmt::format(
        "the gains of one drop would take {:.1f} GiB (at most {:.0f}); store shorter drops or fewer "
        "users per file",
        bytes / (1 << 30), kMaxDropBytes / (1 << 30)));
  }
}

Precoder precoder_of(const std::string& name) {
  if (name == "first") return Precoder::kFirst;
  if (name == "dft") return Precoder::kDft;
  return name == "average" ? Precoder::kAverage : Precoder::kMrt;
}

TraceFormat resolve(const OpenTrace& trace, const TraceOptions& options) {
  TraceFormat format;
  format.has_delays = trace.tau != nullptr;
  format.precoder = precoder_of(options.precoder);
  format.serving = options.serving;
  check_shapes(trace, format);
  TraceInfo& info = format.info;
  const auto& shape = trace.bulk->shape();
  info.file = trace.file.path();
  info.layout = format.has_delays ? "a+tau" : "h_freq";
  info.encoding = trace.bulk->description();
  info.shape = shape;
  info.num_users = shape[kRx];
  info.rx_antennas = shape[kRxAntenna];
  info.num_tx = shape[kTx];
  info.tx_antennas = shape[kTxAntenna];
  info.num_paths = format.has_delays ? shape[kPath] : 0;

  Values values(trace.file);
  const double version = values.number("format_version").value_or(kFormatVersion);
  if (version != kFormatVersion) {
    trace.file.fail(fmt::format(
        "attribute 'format_version' is {}, this reader knows {}; convert the file or take a newer "
        "trimtab",
        version, kFormatVersion));
  }
  if (values.text("direction").value_or("downlink") != "downlink") {
    trace.file.fail(fmt::format(
        "attribute 'direction' is \"{}\"; only \"downlink\" traces (rx: users, tx: base stations) are "
        "read: exchange the rx and tx axes when writing",
        *values.text("direction")));
  }
  resolve_frequency_axis(trace, options, values, format);
  resolve_time_axis(trace, options, values, format);
  resolve_drops(trace, options, values, format);
  if (options.serving >= info.num_tx) {
    trace.file.fail(
        fmt::format("serving station {} is asked for, but '{}' has {} on its tx axis (counted from 0)",
                    options.serving, trace.bulk->name(), info.num_tx));
  }
  info.generator = values.text("generator").value_or("");
  info.scene = values.text("scene").value_or("");
  if (const auto seed = values.number("seed")) info.seed = static_cast<int64_t>(*seed);
  check_limits(trace, format);
  return format;
}

}  // namespace

OpenTrace::OpenTrace(const std::filesystem::path& path, const TraceOptions& options) : file(path) {
  const std::lock_guard guard(hdf5::lock());
  options.validate();
  const bool has_a = hdf5::ComplexDataset::present(file, "a");
  if (!has_a && !hdf5::ComplexDataset::present(file, "h_freq")) {
    const std::vector<std::string> names = file.names();
    file.fail(fmt::format(
        "there is neither a dataset 'a' (with 'tau') nor 'h_freq' at the root, which holds: {}; see "
        "docs/traces.md for the layout",
        names.empty() ? "nothing" : join(names, ", ")));
  }
  bulk = std::make_unique<hdf5::ComplexDataset>(file, has_a ? "a" : "h_freq");
  if (has_a) {
    if (!file.has("tau"))
      file.fail("dataset 'tau' (delays in seconds of the paths in 'a') is missing; store it beside 'a'");
    tau = std::make_unique<hdf5::RealDataset>(file, "tau");
  }
  format = resolve(*this, options);
}

void TraceOptions::describe(Fields& f) {
  f.number("carrier_frequency", carrier_frequency,
           {.low = 0, .unit = "Hz", .doc = "carrier; 0: as the file says"});
  f.number("subcarrier_spacing", subcarrier_spacing,
           {.low = 0, .unit = "Hz", .doc = "spacing; 0: as the file says"});
  f.integer("num_prb", num_prb,
            {.low = 0, .unit = "PRB", .doc = "resource blocks of 12 subcarriers; 0: as the file says"});
  f.number("slot_duration", slot_duration,
           {.low = 0, .unit = "s", .doc = "length of a slot; 0: as the file says"});
  f.number("sampling_frequency", sampling_frequency,
           {.low = 0, .unit = "Hz", .doc = "samples of the time axis per second; 0: as the file says"});
  f.choice("axis0", axis0, {"", "slot", "episode"}, "meaning of the first axis; empty: as the file says");
  f.choice("freq_granularity", freq_granularity, {"", "subcarrier", "prb"},
           "what the last axis of h_freq counts; empty: as the file says");
  f.integer(
      "slots_per_drop", slots_per_drop,
      {.low = 0, .unit = "slots", .doc = "length of a drop where axis 0 counts slots; 0: as the file says"});
  f.integer("serving", serving,
            {.low = 0, .doc = "index of the serving base station on the tx axis; the others interfere"});
  f.choice(
      "precoder", precoder, {"mrt", "first", "dft", "average"},
      "base-station antennas: wideband maximum-ratio, antenna 0, best DFT beam, or the mean over antennas");
  f.flag("untrusted", untrusted, "read the whole file in a child process of bounded memory and time first");
}

void TraceOptions::validate() const {
  for (const double value : {carrier_frequency, subcarrier_spacing, slot_duration, sampling_frequency}) {
    if (!(value >= 0) || !std::isfinite(value))
      throw ConfigError("trace options: frequencies and times must not be negative");
  }
  if (num_prb < 0 || slots_per_drop < 0 || serving < 0)
    throw ConfigError("trace options: counts must not be negative");
  const auto one_of = [](const std::string& key, const std::string& value,
                         const std::vector<std::string>& allowed) {
    if (std::find(allowed.begin(), allowed.end(), value) != allowed.end()) return;
    throw ConfigError(
        fmt::format("trace option {} is \"{}\"; it must be one of: {}", key, value, join(allowed, ", ")));
  };
  one_of("axis0", axis0, {"", "slot", "episode"});
  one_of("freq_granularity", freq_granularity, {"", "subcarrier", "prb"});
  one_of("precoder", precoder, {"mrt", "first", "dft", "average"});
}

nlohmann::json TraceInfo::to_json() const {
  nlohmann::json out = {{"file", file.string()},
                        {"hash", hash},
                        {"layout", layout},
                        {"encoding", encoding},
                        {"shape", shape},
                        {"axis0", axis0},
                        {"num_drops", num_drops},
                        {"slots_per_drop", slots_per_drop},
                        {"num_users", num_users},
                        {"num_tx", num_tx},
                        {"rx_antennas", rx_antennas},
                        {"tx_antennas", tx_antennas},
                        {"num_paths", num_paths},
                        {"samples_per_slot", samples_per_slot},
                        {"num_prb", num_prb},
                        {"carrier_frequency", carrier_frequency},
                        {"subcarrier_spacing", subcarrier_spacing},
                        {"slot_duration", slot_duration},
                        {"sampling_frequency", sampling_frequency},
                        {"generator", generator},
                        {"scene", scene}};
  out["seed"] = seed ? nlohmann::json(*seed) : nlohmann::json(nullptr);
  return out;
}

}  // namespace trimtab::radio
