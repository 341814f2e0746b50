#include "trainers/language/spsa.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/random.h"

namespace trimtab {
namespace {

constexpr int kLevels = 127, kLevelOfOne = 65, kLevelsPerOctave = 8;
constexpr int64_t kBlock = 128, kBlocksPerTask = 512;   // a draw's 128 bits are the signs of one block
constexpr const char* kFormat = "trimtab spsa 1";

struct Direction {
  SpsaKey key;
  uint32_t step, number;   // number: rank * directions + k
  bool normal;
};

std::array<uint32_t, 4> words(const Direction& d, uint64_t counter) {
  const uint64_t seed = d.key.seed ^ mix64(counter >> 32);   // the high half is 0 below half a trillion parameters
  return random_words(seed, Stream::kAction, {static_cast<uint32_t>(counter), d.step, d.number, static_cast<uint32_t>(d.key.phase)});
}

void draw_signs(const Direction& d, uint64_t block, std::span<float> z) {
  const auto bits = words(d, block);
  for (size_t i = 0; i < z.size(); ++i) z[i] = bits[i / 32] >> (i % 32) & 1 ? 1.0f : -1.0f;
}

// Box and Muller's, four numbers of a draw.
void draw_normal(const Direction& d, uint64_t block, std::span<float> z) {
  for (size_t i = 0; i < z.size(); i += 4) {
    const auto bits = words(d, block * (kBlock / 4) + i / 4);
    for (size_t pair = 0; pair < 2; ++pair) {
      const float u = (static_cast<float>(bits[2 * pair] >> 8) + 0.5f) * 0x1p-24f, phi = 6.28318530717958648f * uniform01(bits[2 * pair + 1]);
      const float r = std::sqrt(-2.0f * std::log(u));
      if (i + 2 * pair < z.size()) z[i + 2 * pair] = r * std::cos(phi);
      if (i + 2 * pair + 1 < z.size()) z[i + 2 * pair + 1] = r * std::sin(phi);
    }
  }
}

// to[i] = from[i] + scale * z[i]; block by block, so that z is nowhere as a whole and threads change nothing.
void add_direction(const Direction& d, float scale, std::span<const float> from, std::span<float> to, Pool& pool) {
  const auto size = static_cast<int64_t>(to.size()), per_task = kBlock * kBlocksPerTask;
  pool.run((size + per_task - 1) / per_task, [&](int64_t task) {
    std::array<float, kBlock> z;
    for (int64_t first = task * per_task; first < std::min(size, (task + 1) * per_task); first += kBlock) {
      const std::span<float> part(z.data(), static_cast<size_t>(std::min(kBlock, size - first)));
      (d.normal ? draw_normal : draw_signs)(d, static_cast<uint64_t>(first / kBlock), part);
      for (size_t i = 0; i < part.size(); ++i) to[first + i] = from[first + i] + scale * part[i];
    }
  });
}

double rate(const SpsaOptions& o, int64_t step) { return o.decay > 0 ? o.lr / (1 + static_cast<double>(step) / o.decay) : o.lr; }

// One step's update from the bytes of all ranks: what a run and its replay have in common.
void apply(const SpsaOptions& o, SpsaKey key, int64_t step, std::span<const uint8_t> codes, std::span<float> parameters, Pool& pool) {
  for (size_t i = 0; i < codes.size(); ++i) {
    if (projection_value(codes[i]) == 0) continue;
    const auto scale = static_cast<float>(-rate(o, step) / static_cast<double>(codes.size()) * projection_value(codes[i]));
    add_direction({key, static_cast<uint32_t>(step), static_cast<uint32_t>(i), o.direction == "normal"}, scale, parameters, parameters, pool);
  }
}

std::string header(const SpsaOptions& o, SpsaKey key, size_t parameters) {
  return nlohmann::json({{"format", kFormat}, {"seed", key.seed}, {"phase", key.phase}, {"lr", o.lr}, {"decay", o.decay}, {"epsilon", o.epsilon},
                         {"directions", o.directions}, {"direction", o.direction}, {"ranks", 1}, {"parameters", parameters}})
             .dump() + "\n";
}

}  // namespace

uint8_t projection_code(double projection) {
  if (projection == 0) return 0;
  const double level = std::round(kLevelOfOne + kLevelsPerOctave * std::log2(std::abs(projection)));
  // Levels below 1, down to four of them (half an octave), are nearer to the smallest than to nothing.
  if (level < 1 - kLevelsPerOctave / 2) return 0;
  return static_cast<uint8_t>(std::clamp(level, 1.0, double{kLevels}) + (projection < 0 ? 128 : 0));
}

float projection_value(uint8_t code) {
  // 2^(i / 8), rounded once here and not by a machine's exp2.
  static constexpr std::array<float, kLevelsPerOctave> kFraction = {1.0f,        1.09050773f, 1.18920712f, 1.29683955f,
                                                                    1.41421356f, 1.54221083f, 1.68179283f, 1.83400809f};
  const int level = code & 127;
  if (level == 0) return 0;
  const int eighths = level - kLevelOfOne + 8 * kLevelsPerOctave;   // above 2^-8; level 1 is 0
  const float size = std::ldexp(kFraction[eighths % kLevelsPerOctave], eighths / kLevelsPerOctave - 8);
  return code & 128 ? -size : size;
}

void SpsaOptions::describe(Fields& f) {
  f.number("lr", lr, {.low = 0, .high = 10, .doc = "step size"});
  f.number("decay", decay, {.low = 0, .high = 1e9, .unit = "updates", .doc = "the step size at update t is lr / (1 + t / decay); 0: constant"});
  f.number("epsilon", epsilon, {.low = 1e-6, .high = 1, .doc = "size of the perturbation"});
  f.integer("directions", directions, {.low = 1, .high = 256, .doc = "directions per update, which ranks share: two evaluations and a byte each"});
  f.choice("direction", direction, {"sign", "normal"}, "what a direction's components are: signs (the same on every machine), or normal numbers");
}

Spsa::Spsa(std::span<float> parameters, const SpsaOptions& options, SpsaKey key, Ranks& ranks, Pool& pool)
    : parameters_(parameters), options_(options), key_(key), ranks_(ranks), pool_(pool), base_(parameters.size()),
      log_(header(options, key, parameters.size())), header_(log_.size()) {
  if (ranks.size() > options.directions)
    throw ConfigError(fmt::format("{} ranks cannot share trainer.directions={}: start at most {} ranks, or raise trainer.directions", ranks.size(), options.directions, options.directions));
}

int64_t Spsa::steps() const { return static_cast<int64_t>(log_.size() - header_) / options_.directions; }

double Spsa::project(int64_t k, const Loss& loss, const NotFinite& not_finite, Step& out) {
  const Direction direction{key_, static_cast<uint32_t>(steps()), static_cast<uint32_t>(k), options_.direction == "normal"};
  const auto epsilon = static_cast<float>(options_.epsilon);
  std::array<double, 2> at;
  for (const int side : {0, 1}) {
    add_direction(direction, side == 0 ? epsilon : -epsilon, base_, parameters_, pool_);
    at[side] = loss(k);
  }
  std::copy(base_.begin(), base_.end(), parameters_.begin());
  out.loss += (at[0] + at[1]) / 2;
  for (const double value : at) {
    if (std::isfinite(value)) continue;
    if (!not_finite) throw RunError(fmt::format("the loss of update {} is {}; lower trainer.lr or trainer.epsilon", steps(), value));
    not_finite(k, value);
    return 0;
  }
  return (at[0] - at[1]) / (2 * options_.epsilon);
}

Spsa::Step Spsa::step(const Loss& loss, const NotFinite& not_finite) {
  Step out{.lr = rate(options_, steps())};
  std::copy(parameters_.begin(), parameters_.end(), base_.begin());
  const auto [first, end] = piece_of(options_.directions, ranks_.rank(), ranks_.size());
  const auto own = static_cast<double>(end - first);
  std::string codes;
  for (int64_t k = first; k < end; ++k) {
    const double projection = project(k, loss, not_finite, out);
    const uint8_t code = projection_code(projection);
    codes.push_back(static_cast<char>(code));
    out.projection += std::abs(projection) / own;
    out.saturated += ((code & 127) == kLevels) / own;
  }
  out.loss /= own;
  std::vector<uint8_t> all;
  for (const std::string& part : ranks_.gather(codes)) all.insert(all.end(), part.begin(), part.end());
  apply(options_, key_, steps(), all, parameters_, pool_);
  log_.append(all.begin(), all.end());
  return out;
}

void Spsa::restore(std::string log) {
  if (log.compare(0, header_, log_, 0, header_) != 0)
    throw CheckpointError("the checkpoint's steps were taken with other options of trainer `spsa`, or another seed");
  log_ = std::move(log);
}

void replay_spsa(std::span<float> parameters, const std::string& log, Pool& pool) {
  const size_t end = log.find('\n');
  const nlohmann::json h = end == std::string::npos ? nlohmann::json() : nlohmann::json::parse(log.begin(), log.begin() + static_cast<int64_t>(end), nullptr, false);
  if (!h.is_object() || h.value("format", "") != kFormat) throw DataError(fmt::format("the log does not begin with a line of \"{}\"", kFormat));
  if (h.at("parameters") != parameters.size())
    throw DataError(fmt::format("the log is of a model of {} parameters, this one has {}", h.at("parameters").dump(), parameters.size()));
  const SpsaOptions options{.lr = h.at("lr"), .epsilon = h.at("epsilon"), .decay = h.at("decay"), .directions = h.at("directions"), .direction = h.at("direction")};
  const size_t width = h.at("ranks").get<size_t>() * static_cast<size_t>(options.directions), bytes = log.size() - end - 1;
  if (width == 0 || bytes % width != 0) throw DataError(fmt::format("the log has {} bytes of steps, which are not {} each", bytes, width));
  const auto* codes = reinterpret_cast<const uint8_t*>(log.data() + end + 1);
  for (size_t step = 0; step < bytes / width; ++step)
    apply(options, {h.at("seed"), h.at("phase")}, static_cast<int64_t>(step), {codes + step * width, width}, parameters, pool);
}

}  // namespace trimtab
