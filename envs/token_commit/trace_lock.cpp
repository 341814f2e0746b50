#include "envs/token_commit/trace_lock.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/random.h"
#include "envs/token_commit/picks.h"
#include "kernels/adam/adam.h"
#include "policies/controllers/export.h"
#include "policies/controllers/logistic.h"

namespace trimtab {
namespace {

constexpr double kRegulariser = 1e-3, kLeastShown = 0.25, kHalf = 0.5;
constexpr float kUnstable = 2, kLastStable = 0.5f;
constexpr int64_t kShownAtOnce = 256;   // decisions, where nothing is learned
constexpr uint32_t kCrops = 1;          // tells draws of crops from those of the order

// Observations and targets of some decisions.
class Batch {
 public:
  Batch(const CommitView& view, int64_t capacity) : view_(view), spec_(view.spec()) {
    context_.resize(capacity * spec_.context_size()), items_.resize(capacity * spec_.max_items * spec_.item_size());
    mask_.resize(capacity * spec_.max_items), targets_.resize(mask_.size()), words_.resize(mask_.size());
  }
  void clear() { size_ = 0; }
  void add(const CommitState& s, std::span<const int32_t> final_tokens) {
    const int64_t at = size_++, n = spec_.max_items, shown = view_.shown(s);
    view_.show(s, {context_.data() + at * spec_.context_size(), items_.data() + at * n * spec_.item_size(), mask_.data() + at * n});
    const std::vector<CommitTarget> targets = commit_targets(s.masked.first(shown), final_tokens.first(shown));
    for (int64_t i = 0; i < n; ++i) {
      targets_[at * n + i] = i < shown ? targets[i] : CommitTarget{};
      words_[at * n + i] = i < shown && !s.masked[i].ends;
    }
  }
  int64_t size() const { return size_; }
  int64_t items() const { return spec_.max_items; }
  ObservationBatch observations() const { return {.size = size_, .context = context_.data(), .items = items_.data(), .mask = mask_.data()}; }
  const uint8_t* mask() const { return mask_.data(); }
  const CommitTarget* targets() const { return targets_.data(); }
  bool word(int64_t i) const { return words_[i]; }   // no ending

 private:
  const CommitView& view_;
  const ObservationSpec& spec_;
  int64_t size_ = 0;
  std::vector<float> context_, items_;
  std::vector<uint8_t> mask_;
  std::vector<CommitTarget> targets_;
  std::vector<char> words_;
};

bool has_label(const TracedPass& p, int64_t shown) {
  for (int64_t i = 0; i < shown; ++i)
    if (stability(p.state.masked[i], p.final_tokens[i]) >= 0) return true;
  return false;
}
std::vector<uint32_t> samples_of(const CommitTraceReader& traces, const CommitView& view, const char* which) {
  std::vector<uint32_t> out;
  TracedPass p;
  for (int64_t i = 0; i < traces.passes(); ++i) {
    traces.look(i, p);
    if (has_label(p, view.shown(p.state))) out.push_back(static_cast<uint32_t>(i));
  }
  if (out.empty()) throw DataError(fmt::format("the {} traces hold no proposal that is known to be stable or not: record more answers", which));
  return out;
}

AgentSpec agent_of(const CommitView& view) {
  return {.name = "commit", .observation = view.spec(), .head = {.kind = HeadKind::kSubset, .size = view.spec().max_items}};
}
std::unique_ptr<Controller> untrained(const AgentSpec& agent, const TraceLockOptions& o) {
  ControllerOptions c;
  c.hidden = o.hidden, c.attention = o.attention;
  return Controller::policy(agent, c, o.seed);
}

// Calls `work` with batches of whole windows, in order.
template <class Work>
void for_batches(const CommitTraceReader& traces, const CommitView& view, const std::vector<uint32_t>& samples, Work work) {
  Batch batch(view, kShownAtOnce);
  TracedPass p;
  for (size_t first = 0; first < samples.size(); first += kShownAtOnce) {
    batch.clear();
    for (size_t i = first; i < std::min(samples.size(), first + kShownAtOnce); ++i) traces.look(samples[i], p), batch.add(p.state, p.finals());
    work(batch);
  }
}

struct Judged {
  double loss = 0;
  CommitScores scores;
};
// On proposals that are words.
Judged judge(const Controller& policy, const CommitTraceReader& traces, const CommitView& view, const std::vector<uint32_t>& samples, double threshold) {
  const auto workspace = policy.workspace(kShownAtOnce);
  std::vector<float> logits(kShownAtOnce * view.spec().max_items);
  double loss = 0, weights = 0;
  int64_t commits = 0, right = 0, stable = 0;
  for_batches(traces, view, samples, [&](const Batch& batch) {
    policy.scores(batch.observations(), logits.data(), *workspace);
    for (int64_t i = 0; i < batch.size() * batch.items(); ++i) {
      const CommitTarget& t = batch.targets()[i];
      if (t.weight == 0 || !batch.word(i)) continue;
      const bool commit = sigmoid<double>(logits[i]) >= threshold, good = t.label > kHalf;
      loss += t.weight * softplus<double>(good ? -logits[i] : logits[i]), weights += t.weight;
      commits += commit, stable += good, right += commit && good;
    }
  });
  return {weights > 0 ? loss / weights : 0, commit_scores(right, commits, stable)};
}

// The controller being fitted, step by step.
class Fit {
 public:
  Fit(const CommitTraceReader& traces, const CommitView& view, Controller& policy, const TraceLockOptions& o)
      : o_(o), traces_(traces), view_(view), policy_(policy), order_(samples_of(traces, view, "training")), batch_(view, o.batch),
        workspace_(policy.workspace(o.batch)), rate_(o.learning_rate) {
    const size_t size = policy.parameters().size(), logits = static_cast<size_t>(o.batch * view.spec().max_items);
    gradient_.resize(size), m_.resize(size), v_.resize(size), logits_.resize(logits), d_logits_.resize(logits);
    for_batches(traces, view, order_, [&](const Batch& batch) { policy_.accumulate_statistics(batch.observations()); });
    policy_.refresh_normaliser();
  }
  double rate() const { return rate_; }
  void slow_down() { rate_ *= kHalf; }

  double epoch(int64_t epoch) {
    Draws draws(o_.seed, Stream::kShuffle, static_cast<uint32_t>(epoch));
    for (size_t i = order_.size(); i > 1; --i) std::swap(order_[i - 1], order_[draws.below(static_cast<uint32_t>(i))]);
    double loss = 0;
    for (size_t first = 0; first < order_.size(); first += static_cast<size_t>(o_.batch)) {
      const auto chosen = std::span(order_).subspan(first, std::min(static_cast<size_t>(o_.batch), order_.size() - first));
      loss += step(chosen, epoch) * static_cast<double>(chosen.size());
    }
    return loss / static_cast<double>(order_.size());
  }

 private:
  void add_crop(uint32_t sample, int64_t epoch) {
    traces_.look(sample, pass_);
    Draws draws(o_.seed, Stream::kShuffle, static_cast<uint32_t>(epoch), kCrops, sample);
    const CommitState crop = prefix_of(pass_.state, view_.shown(pass_.state), draws.uniform(static_cast<float>(kLeastShown), 1));
    bool stable_word = false;
    for (size_t i = 0; i < crop.masked.size(); ++i) stable_word |= !crop.masked[i].ends && stability(crop.masked[i], pass_.final_tokens[i]) == 1;
    batch_.add(stable_word ? crop : pass_.state, pass_.finals());
  }
  double step(std::span<const uint32_t> chosen, int64_t epoch) {
    batch_.clear();
    for (const uint32_t sample : chosen) add_crop(sample, epoch);
    policy_.scores(batch_.observations(), logits_.data(), *workspace_);
    const double loss = trace_lock_loss(batch_.size(), batch_.items(), logits_.data(), batch_.mask(), batch_.targets(), d_logits_.data());
    if (!std::isfinite(loss)) throw RunError(fmt::format("the loss of epoch {} is {}: lower the learning rate", epoch + 1, loss));
    std::fill(gradient_.begin(), gradient_.end(), 0.0f);
    policy_.backward_scores(d_logits_.data(), gradient_.data(), *workspace_);
    const int64_t size = static_cast<int64_t>(gradient_.size());
    adam_step({.size = size, .parameters = policy_.parameters().data(), .gradient = gradient_.data(), .m = m_.data(), .v = v_.data(), .lr = rate_,
               .weight_decay = o_.weight_decay, .step = ++steps_, .gradient_scale = clip_scale(squared_norm(gradient_.data(), size), o_.clip)});
    return loss;
  }

  const TraceLockOptions& o_;
  const CommitTraceReader& traces_;
  const CommitView& view_;
  Controller& policy_;
  std::vector<uint32_t> order_;
  Batch batch_;
  std::unique_ptr<ControllerWorkspace> workspace_;
  double rate_;
  TracedPass pass_;
  std::vector<float> gradient_, m_, v_, logits_, d_logits_;
  int64_t steps_ = 0;
};

class TraceLockControl final : public CommitControl {
 public:
  TraceLockControl(std::shared_ptr<const TraceLock> lock, double threshold)
      : lock_(std::move(lock)), threshold_(threshold), view_(lock_->view), workspace_(lock_->policy->workspace(1)), context_(view_.spec().context_size()),
        items_(view_.spec().max_items * view_.spec().item_size()), mask_(view_.spec().max_items), chance_(mask_.size()) {}
  void choose(const CommitState& s, std::vector<int32_t>& picks) override {
    view_.show(s, {context_.data(), items_.data(), mask_.data()});
    lock_->policy->mode({.size = 1, .context = context_.data(), .items = items_.data(), .mask = mask_.data()}, chance_.data(), *workspace_);
    picks_above(s, std::span(chance_).first(view_.shown(s)), threshold_, picks);
  }

 private:
  std::shared_ptr<const TraceLock> lock_;
  double threshold_;
  CommitView view_;
  std::unique_ptr<ControllerWorkspace> workspace_;
  std::vector<float> context_, items_;
  std::vector<uint8_t> mask_;
  std::vector<float> chance_;
};

}  // namespace

void TraceLockOptions::validate() const {
  const auto within = [](const char* name, double x, double low, double high) {
    if (!(x >= low && x <= high)) throw ConfigError(fmt::format("{} is {}, but it must be from {} to {}", name, x, low, high));
  };
  within("the number of items", static_cast<double>(view.items), 1, 1024), within("the number of projected hidden numbers", static_cast<double>(view.projected), 0, 256);
  within("the number of a token's codes", static_cast<double>(view.codes), 0, 64), within("the number of places", static_cast<double>(view.places), 0, 16);
  within("the number of committed tokens", static_cast<double>(view.committed), 0, 1024);
  within("the number of epochs", static_cast<double>(epochs), 1, 10000), within("the batch", static_cast<double>(batch), 1, 65536);
  within("the learning rate", learning_rate, 1e-8, 1), within("the weight decay", weight_decay, 0, 1), within("the threshold", threshold, 0, 1);
  within("the clip of gradients", clip, 0, 1e6);
  within("the patience", static_cast<double>(patience), 1, 10000), within("the plateau", static_cast<double>(plateau), 1, 10000);
  within("the number of attention heads", static_cast<double>(attention), 0, 64);
  for (const int64_t width : hidden) within("the width of a hidden layer", static_cast<double>(width), 1, 4096);
  if (hidden.empty()) throw ConfigError("a controller needs a hidden layer: give --hidden 32,64");
  if (attention > 0 && hidden.size() < 2) throw ConfigError("attention needs two hidden layers or more: give --hidden 32,64, or --attention 0");
}

CommitScores commit_scores(int64_t right, int64_t commits, int64_t stable) {
  const auto share = [](int64_t part, int64_t all) { return all > 0 ? static_cast<double>(part) / static_cast<double>(all) : 0.0; };
  CommitScores out{share(right, commits), share(right, stable), 0};
  constexpr double kBeta2 = 0.25;   // F0.5
  if (right > 0) out.f05 = (1 + kBeta2) * out.precision * out.recall / (kBeta2 * out.precision + out.recall);
  return out;
}

std::vector<CommitTarget> commit_targets(std::span<const MaskedPosition> shown, std::span<const int32_t> final_tokens) {
  std::vector<CommitTarget> out(shown.size());
  std::vector<int> labels(shown.size());
  int64_t endings = 0;
  for (size_t i = 0; i < shown.size(); ++i) labels[i] = stability(shown[i], final_tokens[i]), endings += shown[i].ends && labels[i] >= 0;
  const float reach = static_cast<float>(std::max(1, shown.back().position - shown.front().position));
  for (size_t i = 0; i < shown.size(); ++i) {
    if (labels[i] < 0) continue;
    const float along = static_cast<float>(shown[i].position - shown.front().position) / reach;
    out[i].label = static_cast<float>(labels[i]);
    out[i].weight = shown[i].ends ? 1 / static_cast<float>(endings) : labels[i] == 1 ? 1 - (1 - kLastStable) * along : kUnstable;
  }
  return out;
}

CommitState prefix_of(const CommitState& state, int64_t shown, double share) {
  const int64_t first = state.masked.front().position, extent = state.masked[shown - 1].position - first + 1;
  CommitState out = state;
  out.window.end = first + std::max<int64_t>(1, static_cast<int64_t>(std::ceil(share * static_cast<double>(extent))));
  size_t kept = 0;
  while (kept < state.masked.size() && state.masked[kept].position < out.window.end) ++kept;
  out.masked = state.masked.first(kept), out.beyond = {};
  return out;
}

double trace_lock_loss(int64_t decisions, int64_t items, const float* logits, const uint8_t* mask, const CommitTarget* targets, float* d_logits) {
  double loss = 0, weights = 0, squares = 0;
  for (int64_t i = 0; i < decisions * items; ++i) weights += targets[i].weight;
  for (int64_t d = 0; d < decisions; ++d) {
    double sum = 0, present = 0;
    for (int64_t i = d * items; i < (d + 1) * items; ++i)
      if (mask[i] == kPresent) sum += logits[i], present += 1;
    const double mean = sum / std::max(1.0, present);
    squares += mean * mean;
    for (int64_t i = d * items; i < (d + 1) * items; ++i) {
      const CommitTarget& t = targets[i];
      if (t.weight > 0) loss += t.weight * (softplus<double>(logits[i]) - t.label * logits[i]);
      if (d_logits == nullptr) continue;
      const double fit = t.weight > 0 ? t.weight * (sigmoid<double>(logits[i]) - t.label) / weights : 0;
      d_logits[i] = mask[i] == kPresent ? static_cast<float>(fit + kRegulariser * 2 * mean / (present * static_cast<double>(decisions))) : 0;
    }
  }
  return (weights > 0 ? loss / weights : 0) + kRegulariser * squares / static_cast<double>(decisions);
}

TraceLock fit_trace_lock(const CommitTraceReader& train, const CommitTraceReader& validation, const TraceLockOptions& options,
                         const std::function<void(const TraceLockEpoch&)>& progress) {
  options.validate();
  if (train.hidden_size() != validation.hidden_size())
    throw DataError(fmt::format("the training traces hold hidden states of {} numbers, the validation traces of {}: record both with one model", train.hidden_size(),
                                validation.hidden_size()));
  if (options.view.projected > 0 && train.hidden_size() == 0)
    throw DataError("hidden states are to be shown, but the traces hold none: record them with hidden states, or give --projected 0");
  TraceLock lock;
  lock.view = options.view;
  lock.view.hidden_size = options.view.projected > 0 ? train.hidden_size() : 0;
  lock.threshold = options.threshold;
  const CommitView view(lock.view);
  lock.agent = agent_of(view), lock.policy = untrained(lock.agent, options);
  Fit fit(train, view, *lock.policy, options);
  const std::vector<uint32_t> judged = samples_of(validation, view, "validation");
  std::vector<float> best_parameters;
  double best_loss = 0, best_f05 = -1;
  int64_t since = 0;
  for (int64_t e = 0; e < options.epochs && since < options.patience; ++e) {
    TraceLockEpoch it;
    it.epoch = e + 1, it.train = fit.epoch(e), it.learning_rate = fit.rate();
    const Judged now = judge(*lock.policy, validation, view, judged, options.threshold);
    it.validation = now.loss, it.scores = now.scores;
    it.best = it.scores.f05 > best_f05 || (it.scores.f05 == best_f05 && it.validation < best_loss);
    since = it.best ? 0 : since + 1;
    if (it.best) best_f05 = it.scores.f05, best_loss = it.validation, best_parameters.assign(lock.policy->parameters().begin(), lock.policy->parameters().end());
    if (since > 0 && since % options.plateau == 0) fit.slow_down();
    if (progress) progress(it);
  }
  std::copy(best_parameters.begin(), best_parameters.end(), lock.policy->parameters().begin());
  return lock;
}

std::unique_ptr<CommitControl> make_trace_lock_control(std::shared_ptr<const TraceLock> lock, double threshold) {
  TT_CHECK(lock != nullptr && lock->policy != nullptr);
  return std::make_unique<TraceLockControl>(std::move(lock), threshold);
}

void export_trace_lock(const std::filesystem::path& file, const std::filesystem::path& header, const TraceLock& lock, const std::string& training_data_hash) {
  const std::vector<ExportedAgent> agents = {{.spec = lock.agent, .policy = lock.policy.get(),
                                              .meaning = "commit: for each masked position shown, how likely its proposal is to stay", .fallback = {}}};
  ExportInfo info;
  info.environment = "token_commit", info.training_data_hash = training_data_hash;
  info.config = fmt::format("type: {}\nitems: {}\nprojected: {}\ncodes: {}\nplaces: {}\ncommitted: {}\nthreshold: {}\n", info.environment, lock.view.items, lock.view.projected, lock.view.codes,
                            lock.view.places, lock.view.committed, lock.threshold);
  export_artefact(file, agents, info);
  if (!header.empty()) export_header(header, agents, info);
}

}  // namespace trimtab
