#include "envs/token_commit/features.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/error.h"
#include "core/random.h"

namespace trimtab {
namespace {

constexpr int kItemFeatures = 10;
constexpr uint64_t kFixedSeed = 20260524;   // one for all: a controller is read with the projection and codes it was trained with
constexpr uint32_t kCodes = 1;               // tells draws of codes from those of the projection

float log_distance(int64_t n) { return std::log2(1.0f + static_cast<float>(n)); }
// ln(c / (1 - c)) above that of 0.95, within what single precision tells apart: 0.99 and 0.9999 differ, and a policy of this alone, as its
// residual, begins as a soft threshold at 0.95.
float sureness(float confidence) {
  const float c = std::clamp(confidence, 1e-6f, 1 - 1e-6f);
  return std::log(c / (1 - c)) - std::log(0.95f / 0.05f);
}

}  // namespace

CommitView::CommitView(const CommitViewOptions& options) : options_(options) {
  if (options.projected > 0 && options.hidden_size < 1) throw ConfigError("hidden states are to be shown, but nothing says how wide they are");
  spec_.max_items = static_cast<int>(options.items + options.committed);
  spec_.context = {{"share_masked", "1", 0, 1}, {"window_masked", "1", 0, 1}, {"window_begin", "1", 0, 1}, {"log_masked", "log2 tokens", 0, 20},
                   {"pass", "log2 passes", 0, 20}, {"budget_left", "1", -1, 1}, {"ended", "1", 0, 1}, {"best_confidence", "1", 0, 1}};
  if (options.budgets) spec_.context.push_back({"log_left", "log2 passes", 0, 20});
  spec_.item = {{"confidence", "1", 0, 1}, {"sureness", "log odds", -17, 11}, {"margin", "1", 0, 1}, {"entropy", "nats", 0, 12}, {"log_drift", "ln nats", -14, 4},
                {"held", "log2 passes", 0, 20}, {"from_first_mask", "log2 tokens", 0, 20}, {"from_left", "log2 tokens", 0, 20}, {"from_right", "log2 tokens", 0, 20},
                {"ends", "1", 0, 1}};
  for (int64_t j = 0; j < options.projected; ++j) spec_.item.push_back({fmt::format("hidden{}", j), "1", -1e4f, 1e4f});
  for (int64_t j = 0; j < options.codes; ++j) spec_.item.push_back({fmt::format("code{}", j), "1", -8, 8});
  for (int64_t k = 0; k < options.places; ++k)
    for (const char* wave : {"sine", "cosine"}) spec_.item.push_back({fmt::format("{}{}", wave, k), "1", -1, 1});
  if (options.committed > 0) spec_.item.push_back({"settled", "1", 0, 1});
  projection_.resize(options.hidden_size * options.projected);
  Draws draws(kFixedSeed, Stream::kInitialise, 0, 0);
  for (float& x : projection_) x = draws.normal() / std::sqrt(static_cast<float>(options.hidden_size));
}

int64_t CommitView::shown(const CommitState& s) const { return std::min(options_.items, static_cast<int64_t>(s.masked.size())); }

void CommitView::show_item(const CommitState& s, const MaskedPosition& m, int64_t left, int64_t right, float* out) const {
  const float numbers[kItemFeatures] = {m.confidence,
                                        sureness(m.confidence),
                                        m.margin,
                                        m.entropy,
                                        std::log(m.drift + 1e-6f),
                                        log_distance(m.held),
                                        log_distance(std::max(0, m.position - s.masked.front().position)),
                                        log_distance(m.position - left),
                                        log_distance(right - m.position),
                                        m.ends ? 1.0f : 0.0f};
  std::copy_n(numbers, kItemFeatures, out);
  show_hidden(m, out + kItemFeatures);
  show_code(m.token, out + kItemFeatures + options_.projected);
  show_place(m.position, out + kItemFeatures + options_.projected + options_.codes);
}

void CommitView::show_hidden(const MaskedPosition& m, float* out) const {
  if (options_.projected == 0 || m.hidden.empty()) return;   // committed tokens have none
  TT_CHECK_EQ(static_cast<int64_t>(m.hidden.size()), options_.hidden_size);
  std::fill_n(out, options_.projected, 0.0f);
  for (int64_t i = 0; i < options_.hidden_size; ++i)
    for (int64_t j = 0; j < options_.projected; ++j) out[j] += m.hidden[i] * projection_[i * options_.projected + j];
}

void CommitView::show_code(int32_t token, float* out) const {
  if (options_.codes == 0) return;
  Draws draws(kFixedSeed, Stream::kInitialise, kCodes, static_cast<uint32_t>(token));
  for (int64_t j = 0; j < options_.codes; ++j) out[j] = draws.normal();
}

// Periods of 4, 8, 16, ... tokens.
void CommitView::show_place(int64_t position, float* out) const {
  double angle = std::numbers::pi / 2 * static_cast<double>(position);
  for (int64_t k = 0; k < options_.places; ++k, angle /= 2) out[2 * k] = static_cast<float>(std::sin(angle)), out[2 * k + 1] = static_cast<float>(std::cos(angle));
}

void CommitView::show(const CommitState& s, ObservationRows out) const {
  const auto masks = std::count(s.tokens.begin(), s.tokens.end(), -1);
  float best = 0;
  for (const MaskedPosition& m : s.masked) best = std::max(best, m.confidence);
  const auto of_length = [&](int64_t n) { return static_cast<float>(n) / static_cast<float>(s.length); };
  const float context[] = {of_length(masks),
                           static_cast<float>(s.masked.size()) / static_cast<float>(std::max<int64_t>(1, s.window.end - s.window.begin)),
                           of_length(s.window.begin),
                           log_distance(masks),
                           log_distance(s.pass),
                           s.window_passes > 0 ? std::max(-1.0f, 1.0f - static_cast<float>(s.window_pass) / static_cast<float>(s.window_passes)) : 1.0f,
                           s.ended ? 1.0f : 0.0f,
                           best};
  std::copy(std::begin(context), std::end(context), out.context);
  if (options_.budgets) out.context[std::size(context)] = log_distance(std::max<int64_t>(0, s.budget - s.pass));
  const int64_t width = spec_.item_size(), present = shown(s);
  std::fill_n(out.items, spec_.max_items * width, 0.0f);
  for (int64_t i = 0; i < spec_.max_items; ++i) out.mask[i] = i < present ? kPresent : kAbsent;
  // The nearest committed tokens: left of the answer the prompt counts as one, right of it is none, as far away as the answer is long.
  int64_t left = -1, at = 0;
  for (int64_t i = 0; i < present; ++i) {
    const MaskedPosition& m = s.masked[i];
    for (; at < m.position; ++at)
      if (s.tokens[at] >= 0) left = at;
    int64_t right = m.position + 1;
    while (right < s.length && s.tokens[right] < 0) ++right;
    show_item(s, m, left, right < s.length ? right : m.position + s.length, out.items + i * width);
  }
  if (options_.committed > 0) show_committed(s, present, out);
}

// By rising position; of two as near, the left one first.
void CommitView::show_committed(const CommitState& s, int64_t masks, ObservationRows out) const {
  const int64_t first = s.masked[0].position, last = s.masked[masks - 1].position;
  std::vector<std::pair<int64_t, int64_t>> near;   // distance to the masks shown, position
  for (int64_t p = 0; p < s.length; ++p)
    if (s.tokens[p] >= 0) near.emplace_back(std::max<int64_t>({0, first - p, p - last}), p);
  std::sort(near.begin(), near.end());
  near.resize(std::min(std::ssize(near), options_.committed));
  std::sort(near.begin(), near.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  int64_t at = options_.items;
  for (const auto& [distance, p] : near) {
    float* item = out.items + at * spec_.item_size();
    const MaskedPosition settled{.position = static_cast<int32_t>(p), .token = s.tokens[p], .confidence = 1, .margin = 1};
    show_item(s, settled, p, p, item);
    item[spec_.item_size() - 1] = 1;
    out.mask[at++] = kSeen;
  }
}

}  // namespace trimtab
