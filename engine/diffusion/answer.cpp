#include "engine/diffusion/answer.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/random.h"
#include "engine/diffusion/eos_guard.h"

namespace trimtab {

DiffusionAnswer::DiffusionAnswer(const Inputs& in)
    : in_(in), cache_(in.model, in.options, static_cast<int64_t>(in.prompt.size()), in.hidden_size), canvas_(in.prompt.begin(), in.prompt.end()) {
  resize(in.length);
}

void DiffusionAnswer::resize(int64_t length) {
  tokens_.resize(length, -1), proposals_.resize(length);
  canvas_.resize(prompt() + length, static_cast<int32_t>(in_.model.mask_id));
  if (in_.options.divergence) logp_.resize(length * in_.vocab);
  if (in_.options.hidden || cache_.wants_hidden()) hidden_.resize((1 + length) * in_.hidden_size);
}

bool DiffusionAnswer::ends(int32_t token) const {
  return std::find(in_.model.eos_ids.begin(), in_.model.eos_ids.end(), token) != in_.model.eos_ids.end();
}

// Everything left of the first mask is committed, so a window that is full ends there.
CommitWindow DiffusionAnswer::next_window() const {
  const DiffusionOptions& o = in_.options;
  if (o.window == "full") return {0, length()};
  return {first_mask(), std::min(length(), first_mask() + (windows_slide() ? o.width : o.block))};
}

void DiffusionAnswer::plan() {
  opens_ = windows_slide() || first_mask() >= window_.end;
  if (opens_) window_ = next_window();
  const int64_t beyond = in_.options.beyond;
  proposed_end_ = beyond < 0 || adapts() ? length() : std::min(length(), window_.end + beyond);
  cache_.plan(canvas_pass(), wish_, rows_);
  out_.rows += static_cast<int64_t>(rows_.size());
}

int64_t DiffusionAnswer::position_of(int64_t row) const {
  const int64_t position = row - prompt() + (in_.model.shifted ? 1 : 0);
  return position >= 0 && position < proposed_end_ && tokens_[position] < 0 ? position : -1;
}

float* DiffusionAnswer::hidden_of(int64_t row) {
  return hidden_.empty() || row + 1 < prompt() ? nullptr : hidden_.data() + (row + 1 - prompt()) * in_.hidden_size;
}

void DiffusionAnswer::propose(int64_t position, float* logits, Proposer& proposer, const DiffusionSampling& sampling, int64_t sample) {
  const uint64_t key = mix64(mix64(in_.key) + static_cast<uint64_t>(out_.passes));
  const auto words = random_words(sampling.seed, Stream::kToken, {static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32), static_cast<uint32_t>(sample),
                                                                  static_cast<uint32_t>(prompt() + position)});
  std::span<float> before;
  if (in_.options.divergence) before = {logp_.data() + position * in_.vocab, static_cast<size_t>(in_.vocab)};
  proposer.propose(logits, words, before, proposals_[position]);
}

// What this pass proposed.
void DiffusionAnswer::gather() {
  masked_.clear();
  for (const int32_t row : rows_) {
    const int64_t position = position_of(row);
    if (position < 0) continue;
    const Proposal& p = proposals_[position];
    if (!p.finite) throw RunError(fmt::format("completion {}: the logits of position {} are not finite: has training diverged?", in_.number, position));
    MaskedPosition& m = masked_.emplace_back();
    m.position = static_cast<int32_t>(position), m.token = p.token, m.confidence = p.confidence, m.margin = p.margin, m.entropy = p.entropy;
    m.drift = p.drift, m.held = p.held, m.ends = ends(p.token);
    m.waits = in_.options.eos_guard && m.ends && position != first_mask() && (first_ending_ < 0 || first_ending_ > position);
    if (in_.options.hidden) m.hidden = {hidden_of(row), static_cast<size_t>(in_.hidden_size)};
  }
}

// Where windows slide, or there is one only, the schedule is that of the answer.
CommitState DiffusionAnswer::state() const {
  const bool blocks = in_.options.window == "block";
  CommitState s;
  s.sequence = in_.number, s.length = length(), s.pass = out_.passes, s.window = window_, s.tokens = tokens_;
  s.window_masks = blocks ? window_masks_ : length(), s.window_pass = blocks ? window_pass_ : out_.passes;
  s.window_passes = in_.options.passes, s.ended = first_ending_ >= 0;
  if (blocks && s.window_passes > 0) s.window_passes = std::max<int64_t>(1, s.window_passes * (window_.end - window_.begin) / length());
  s.masked = std::span(masked_).first(in_window_), s.beyond = std::span(masked_).subspan(in_window_);
  return s;
}

void DiffusionAnswer::look() {
  cache_.done(canvas_pass(), rows_, hidden_);
  gather();
  in_window_ = masked_.size();
  if (!opens_) narrow();
}

// `masked` of the state are the window's from here on.
void DiffusionAnswer::narrow() {
  in_window_ = 0;
  while (in_window_ < masked_.size() && masked_[in_window_].position < window_.end) ++in_window_;
}

void DiffusionAnswer::open(CommitControl& control) {
  if (!opens_) return;
  const CommitWindow w = control.open(state(), window_);
  window_.begin = std::clamp<int64_t>(w.begin, 0, first_mask()), window_.end = std::clamp<int64_t>(w.end, first_mask() + 1, length());
  window_pass_ = 0, window_masks_ = 0;
  for (int64_t p = window_.begin; p < window_.end; ++p) window_masks_ += tokens_[p] < 0;
  narrow();
}

void DiffusionAnswer::decide(CommitControl& control, const CommitObserver& observer) {
  const CommitState s = state();
  picks_.clear();
  control.choose(s, picks_);
  for (const int32_t i : picks_) TT_CHECK(i >= 0 && i < static_cast<int32_t>(in_window_), "a control picks {} of {} masked positions", i, in_window_);
  if (in_.options.eos_guard) out_.refused += refuse_early_endings(s, picks_);
  const bool forced = picks_.empty();
  if (forced) {
    const int32_t best = most_confident(s);   // the leftmost mask always may be
    TT_CHECK(best >= 0 && !masked_[best].waits, "completion {}: nothing can be committed in [{}, {})", in_.number, window_.begin, window_.end);
    picks_.push_back(best), ++out_.forced;
  }
  if (observer) observer(s, picks_, forced);
  for (const int32_t i : picks_) commit(masked_[i]);
  if (in_.options.cache != "none") wish_ = control.refresh(s);
  finish_pass();
}

void DiffusionAnswer::commit(const MaskedPosition& m) {
  TT_CHECK(tokens_[m.position] < 0, "position {} is committed twice", m.position);
  tokens_[m.position] = canvas_[prompt() + m.position] = m.token;
  out_.commits.push_back({m.position, static_cast<int32_t>(out_.passes)});
  cache_.committed(prompt() + m.position);
  if (m.ends && (first_ending_ < 0 || m.position < first_ending_)) first_ending_ = m.position;
}

void DiffusionAnswer::finish_pass() {
  while (first_mask_ < length() && tokens_[first_mask_] >= 0) ++first_mask_;
  over_ = first_mask_ == length() || (in_.options.finish_early && first_ending_ >= 0 && first_ending_ < first_mask_);
  if (!over_ && adapts()) adapt_length();
  ++out_.passes, ++window_pass_;
}

int64_t DiffusionAnswer::adapted_length() const {
  const LengthOptions& o = in_.options.adapt;
  const auto endings = std::count_if(masked_.begin(), masked_.end(), [](const MaskedPosition& m) { return m.ends; });
  const double share = static_cast<double>(endings) / static_cast<double>(masked_.size());
  const double gap = std::max(o.low - share, share - o.high);
  if (gap <= 0) return length();
  const int64_t unit = in_.options.window == "block" ? in_.options.block : 1;
  const auto whole = [unit](int64_t n) { return (n + unit - 1) / unit * unit; };
  const int64_t step = whole(8 * std::min<int64_t>(8, int64_t{1} << std::max<int64_t>(0, static_cast<int64_t>(std::ceil(gap / 0.1 - 1e-9)) - 1)));
  if (share < o.low) return std::max(length(), std::min(length() + step, o.longest / unit * unit));
  int64_t last = length();   // masks at the end alone can go
  while (last > 0 && tokens_[last - 1] < 0) --last;
  const int64_t least = std::max({last, first_mask_ + 1, in_.options.window == "block" ? window_.end : 0});   // one mask is left
  return std::clamp(length() - step, std::min(length(), whole(least)), length());
}

void DiffusionAnswer::adapt_length() {
  const int64_t now = adapted_length();
  if (now == length()) return;
  resize(now);
  window_.end = in_.options.window == "full" ? now : std::min(window_.end, now);
}

DiffusionCompletion DiffusionAnswer::completion() const {
  DiffusionCompletion out = out_;
  out.canvas = tokens_, out.ended = first_ending_ >= 0;
  out.tokens.assign(tokens_.begin(), out.ended ? tokens_.begin() + first_ending_ : tokens_.end());
  out.empty = out.tokens.empty();
  return out;
}

}  // namespace trimtab
