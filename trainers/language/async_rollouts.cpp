#include "trainers/language/async_rollouts.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>

#include <chrono>

#include "core/error.h"

namespace trimtab {
namespace {

int expect_alone(const LanguageContext& context, const AsyncBlock& async) {
  if (context.ranks->size() > 1)
    throw ConfigError(fmt::format("async.staleness {} with {} ranks: rollouts beside learning are for one process; set it to 0", async.staleness, context.ranks->size()));
  return static_cast<int>(async.threads);
}

}  // namespace

AsyncRollouts::AsyncRollouts(const GroupOptions& options, const LanguageContext& context)
    : options_(options),
      context_(context),
      sampler_(context.model->transformer->copy_as(context.model->transformer->flat().options())),
      pool_(expect_alone(context, options.async)),
      rollout_(options, context, sampler_, pool_),
      worker_([this] { work(); }) {}

AsyncRollouts::~AsyncRollouts() {
  {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
    requests_.clear();
  }
  changed_.notify_all();
  worker_.join();
}

void AsyncRollouts::work() {
  at::set_num_threads(1);
  for (;;) {
    Request request;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return stopped_ || (!requests_.empty() && !failure_); });
      if (stopped_) return;
      request = std::move(requests_.front());
      requests_.pop_front();
      busy_ = true;
    }
    serve(request);
    changed_.notify_all();
  }
}

void AsyncRollouts::serve(const Request& request) {
  LanguageRollout::Result result;
  std::exception_ptr failure;
  try {
    const at::NoGradGuard no_grad;
    sampler_.trainable().copy_(request.weights);
    result = rollout_.collect(request.update, request.version);
  } catch (...) {
    failure = std::current_exception();
  }
  const std::lock_guard lock(mutex_);
  busy_ = false;
  failure_ = failure;
  if (!failure) results_[request.update] = std::move(result);
}

LanguageRollout::Result AsyncRollouts::collect(int64_t update) {
  const auto start = std::chrono::steady_clock::now();
  at::Tensor weights;
  std::unique_lock lock(mutex_);
  for (next_ = std::max(next_, update); next_ <= update + options_.async.staleness; ++next_) {
    if (!weights.defined()) weights = context_.model->transformer->trainable().detach().clone();
    requests_.push_back({next_, update, weights});
  }
  changed_.notify_all();
  changed_.wait(lock, [&] { return failure_ || results_.contains(update); });
  if (failure_) std::rethrow_exception(failure_);
  LanguageRollout::Result out = std::move(results_.at(update));
  results_.erase(update);
  lock.unlock();
  int64_t oldest = update;
  for (const SampledGroup& g : out.groups) oldest = std::min(oldest, g.version);
  TT_CHECK(update - oldest <= options_.async.staleness, "update {} would learn from weights of update {}", update, oldest);
  out.metrics.push_back({"train/staleness", static_cast<double>(update - oldest)});
  out.metrics.push_back({"time/rollout_wait_s", std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count()});
  return out;
}

void AsyncRollouts::settle() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return failure_ || (requests_.empty() && !busy_); });
  if (failure_) std::rethrow_exception(failure_);
}

// What was asked for is made to the end first: it is part of the state, as its weights are gone.
void AsyncRollouts::save(Checkpoint& checkpoint) {
  settle();
  rollout_.save(checkpoint);
  nlohmann::json ready = nlohmann::json::array();
  for (const auto& [update, result] : results_) {
    nlohmann::json groups = nlohmann::json::array();
    for (const SampledGroup& g : result.groups) groups.push_back(to_json(g));
    LanguageLearner::Metrics metrics = result.metrics;
    std::erase_if(metrics, [](const auto& metric) { return metric.first.starts_with("time/"); });   // a checkpoint has no clocks
    ready.push_back({{"update", update}, {"groups", groups}, {"metrics", metrics}});
  }
  checkpoint.counters["async"] = {{"next", next_}, {"ready", ready}};
}

void AsyncRollouts::load(const Checkpoint& checkpoint) {
  settle();
  rollout_.load(checkpoint);
  const nlohmann::json& json = checkpoint.counters.at("async");
  next_ = json.at("next").get<int64_t>();
  results_.clear();
  for (const nlohmann::json& r : json.at("ready")) {
    LanguageRollout::Result& result = results_[r.at("update").get<int64_t>()];
    for (const nlohmann::json& g : r.at("groups")) result.groups.push_back(sampled_group_from(g));
    result.metrics = r.at("metrics").get<LanguageLearner::Metrics>();
  }
}

}  // namespace trimtab
