#include "envs/adapter_route/routers.h"

#include <algorithm>
#include <cmath>
#include <deque>

#include "core/error.h"
#include "core/random.h"
#include "envs/adapter_route/resident_set.h"
#include "policies/bandits/best_arm.h"

namespace trimtab {
namespace {

using State = AdapterRoute::State;

// ---- without learning ----

class FixedRouter final : public Router {
 public:
  explicit FixedRouter(int64_t model) : model_(model) {}
  int64_t route(const State&) override { return model_; }

 private:
  int64_t model_;
};

class RandomRouter final : public Router {
 public:
  explicit RandomRouter(const AdapterRoute& env) : env_(env) {}
  int64_t route(const State& s) override { return Draws(s.world, Stream::kAction, static_cast<uint32_t>(s.next)).below(static_cast<uint32_t>(env_.adapters() + 1)); }

 private:
  const AdapterRoute& env_;
};

class TaskRouter final : public Router {
 public:
  TaskRouter(const AdapterRoute& env, bool by_centroid) : env_(env), by_centroid_(by_centroid) {}
  int64_t route(const State& s) override { return env_.source().home(by_centroid_ ? nearest(s.prompt.x) : s.prompt.task); }

 private:
  int64_t nearest(std::span<const float> x) const {   // by cosine
    return best_arm(env_.source().tasks(), [&](int64_t task) {
      const std::span<const float> c = env_.source().centroid(task);
      double dot = 0, square = 0;
      for (size_t i = 0; i < c.size(); ++i) dot += c[i] * x[i], square += c[i] * c[i];
      return dot / std::sqrt(square);
    });
  }
  const AdapterRoute& env_;
  bool by_centroid_;
};

// ---- with the future ----

class OracleRouter final : public Router {
 public:
  OracleRouter(const AdapterRoute& env, WorldKey key) : env_(env), values_(env.qualities(key)) {
    const RequestOptions& o = env.options().requests;
    period_ = o.drift == "none" ? o.requests : o.drift_period;
  }
  bool plan(const State& s, std::vector<uint8_t>& wanted) override {
    if (s.next % period_ != 0) return false;
    const int64_t models = env_.adapters() + 1, count = std::min(period_, std::ssize(s.requests) - s.next);
    ResidentProblem problem{std::span(values_).subspan(s.next * models, count * models), env_.prices(), {}, 1};
    for (const auto& a : s.paging.adapters) problem.before.push_back(a.resident != 0);
    wanted = best_residents(problem, env_.paging());
    return true;
  }
  int64_t route(const State& s) override {
    const double* row = values_.data() + s.next * (env_.adapters() + 1);
    return best_arm(env_.adapters() + 1, [&](int64_t a) { return row[a] - (env_.missing(s, a) ? env_.price(a) : 0); });
  }

 private:
  const AdapterRoute& env_;
  std::vector<double> values_;   // [requests, N + 1]
  int64_t period_;
};

int64_t best_single(const AdapterRoute& env, WorldKey key) {
  const std::vector<double> values = env.qualities(key);
  const int64_t models = env.adapters() + 1;
  return best_arm(models, [&](int64_t a) {
    double sum = -env.price(a);
    for (size_t i = a; i < values.size(); i += models) sum += values[i];
    return sum;
  });
}

// ---- linear models ----

class LinearRouter : public Router {
 public:
  explicit LinearRouter(const AdapterRoute& env)
      : env_(env), models_(env.adapters() + 1, RidgeModel(env.source().dimension(), env.options().routers.ridge)), counts_(env.adapters() + 1) {}
  int64_t route(const State& s) override {
    x_ = knows_ ? env_.prior().features(s.prompt.x) : s.prompt.x;
    return pick(s);
  }
  void learn(int64_t adapter, double quality) override { models_[adapter].learn(x_, quality), ++counts_[adapter]; }

 protected:
  virtual int64_t pick(const State& s) = 0;
  int64_t size() const { return std::ssize(models_); }
  const RouterOptions& options() const { return env_.options().routers; }
  double bound(int64_t a) const { return models_[a].mean(x_) + options().alpha * models_[a].width(x_); }
  void begin_from_prior() { models_ = env_.prior().models, knows_ = true; }
  double miss(const State& s, int64_t a) const { return env_.missing(s, a) ? env_.price(a) : 0; }

  const AdapterRoute& env_;
  std::vector<RidgeModel> models_;   // [N + 1]
  std::vector<int64_t> counts_;
  std::vector<float> x_;
  bool knows_ = false;               // began from the prior, and sees its features
};

class LinUcbRouter : public LinearRouter {
 public:
  LinUcbRouter(const AdapterRoute& env, bool aware) : LinearRouter(env), aware_(aware) {}

 protected:
  int64_t pick(const State& s) override {
    return best_arm(size(), [&](int64_t a) { return bound(a) - (aware_ ? miss(s, a) : 0); });
  }

 private:
  bool aware_;
};

class PriorRouter final : public LinUcbRouter {
 public:
  explicit PriorRouter(const AdapterRoute& env) : LinUcbRouter(env, true) { begin_from_prior(); }
};

class IndexRouter final : public Router {
 public:
  explicit IndexRouter(const AdapterRoute& env) : env_(env) {}
  int64_t route(const State& s) override {
    return best_arm(env_.adapters() + 1, [&](int64_t a) { return env_.index(s, a); });
  }
  bool follows() const override { return true; }

 private:
  const AdapterRoute& env_;
};

class EpsilonGreedyRouter final : public LinearRouter {
 public:
  using LinearRouter::LinearRouter;

 protected:
  int64_t pick(const State& s) override {
    Draws draws(s.world, Stream::kAction, static_cast<uint32_t>(s.next));
    if (draws.uniform() < options().epsilon) return draws.below(static_cast<uint32_t>(size()));
    return best_arm(size(), [&](int64_t a) { return models_[a].mean(x_); });
  }
};

class ThompsonRouter final : public LinearRouter {
 public:
  using LinearRouter::LinearRouter;

 protected:
  int64_t pick(const State& s) override {
    Draws draws(s.world, Stream::kAction, static_cast<uint32_t>(s.next));
    return best_arm(size(), [&](int64_t a) { return models_[a].mean(x_) + options().noise * models_[a].width(x_) * draws.normal(); });
  }
};

class StaticRouter final : public LinearRouter {
 public:
  StaticRouter(const AdapterRoute& env, WorldKey key, bool from_prior) : LinearRouter(env) {
    if (from_prior) begin_from_prior();
    const std::vector<double> values = env.qualities(key);
    set_ = best_residents({values, env.prices(), std::vector<uint8_t>(env.adapters()), 1}, env.paging());
  }
  bool plan(const State& s, std::vector<uint8_t>& wanted) override { return wanted = set_, s.next == 0; }

 protected:
  int64_t pick(const State&) override {
    return best_arm(size(), [&](int64_t a) { return a == env_.adapters() || set_[a] ? bound(a) : -1e300; });
  }

 private:
  std::vector<uint8_t> set_;
};

// Epochs of the cache-aware index. Contexts of an epoch are kept up to kKept, evenly in time.
class PolarRouter : public LinUcbRouter {
 public:
  explicit PolarRouter(const AdapterRoute& env) : LinUcbRouter(env, true) {}
  bool plan(const State& s, std::vector<uint8_t>& wanted) override {
    if (end_ == 0) end_ = length_ = first_length();
    if (s.next < end_) return false;
    next_epoch(s);
    wanted = residents(s, last_contexts_);
    return true;
  }
  int64_t route(const State& s) override {
    const int64_t stride = std::max<int64_t>(1, length_ / kKept);
    if (s.next % stride == 0) contexts_.push_back(s.prompt.x);
    return LinUcbRouter::route(s);
  }

 protected:
  virtual int64_t first_length() const { return options().epoch; }
  virtual int64_t next_length() const { return length_; }
  // The residents of an epoch of length_ whose contexts are like these.
  std::vector<uint8_t> residents(const State& s, const std::vector<std::vector<float>>& contexts) const {
    std::vector<double> values;
    for (const std::vector<float>& x : contexts)
      for (const RidgeModel& model : models_) values.push_back(model.mean(x));
    const double weight = contexts.empty() ? 1 : static_cast<double>(length_) / static_cast<double>(contexts.size());
    ResidentProblem problem{values, env_.prices(), {}, weight};
    for (const auto& a : s.paging.adapters) problem.before.push_back(a.resident != 0);
    return best_residents(problem, env_.paging());
  }
  void next_epoch(const State& s) {
    length_ = next_length(), end_ = s.next + length_;
    last_contexts_ = std::exchange(contexts_, {});
  }

  static constexpr int64_t kKept = 512;
  int64_t length_ = 0, end_ = 0;   // of the epoch
  std::vector<std::vector<float>> contexts_, last_contexts_;   // of this epoch and the one before
};

class PolarPlusRouter final : public PolarRouter {
 public:
  using PolarRouter::PolarRouter;
  bool plan(const State& s, std::vector<uint8_t>& wanted) override {
    if (s.next == 0) {
      end_ = length_ = first_length();
      groups_ = forced_groups(s);
    } else if (s.next >= end_) {
      next_epoch(s);
      groups_ = forced_groups(s), groups_.push_front({});   // which is done at once
    } else if (groups_.empty()) {
      return false;
    }
    if (s.next > 0 && !groups_.front().pulls.empty()) return false;
    if (s.next > 0) groups_.pop_front();
    wanted = groups_.empty() ? residents(s, last_contexts_.empty() ? contexts_ : last_contexts_) : groups_.front().set;
    return s.next > 0 || !groups_.empty();
  }

 protected:
  int64_t first_length() const override { return options().first_epoch; }
  int64_t next_length() const override { return 2 * length_; }
  int64_t pick(const State& s) override {
    if (groups_.empty() || groups_.front().pulls.empty()) return LinUcbRouter::pick(s);
    const int64_t out = groups_.front().pulls.front();
    groups_.front().pulls.pop_front();
    return out;
  }

 private:
  // Adapters that are resident together while each is pulled as often as it needs, round and round.
  struct Group {
    std::vector<uint8_t> set;
    std::deque<int64_t> pulls;
  };

  // At most half of an epoch; what is left comes in the next.
  std::deque<Group> forced_groups(const State& s) const {
    const auto need = static_cast<int64_t>(std::ceil(options().explore * static_cast<double>(env_.source().dimension()) * std::log(static_cast<double>(end_ + 1))));
    std::vector<int64_t> order;
    for (const bool resident : {true, false})   // what is there already costs nothing
      for (int64_t a = 0; a <= env_.adapters(); ++a)
        if (counts_[a] < need && env_.missing(s, a) != resident) order.push_back(a);
    std::deque<Group> out;
    int64_t left = length_ / 2;
    for (size_t at = 0; at < order.size() && left > 0;) {
      std::vector<int64_t> members;
      int64_t count = 0, bytes = 0;
      for (; at < order.size(); ++at) {
        const bool base = order[at] == env_.adapters();
        const int64_t more = base ? 0 : env_.paging().bytes(order[at]);
        if (!base && !env_.paging().holds(count + 1, bytes + more)) break;
        members.push_back(order[at]), count += !base, bytes += more;
      }
      out.push_back(group_of(members, need, left));
    }
    return out;
  }
  Group group_of(const std::vector<int64_t>& members, int64_t need, int64_t& left) const {
    Group out{std::vector<uint8_t>(env_.adapters()), {}};
    for (const int64_t a : members)
      if (a < env_.adapters()) out.set[a] = 1;
    for (int64_t round = 0; round < need; ++round)
      for (const int64_t a : members)
        if (counts_[a] + round < need && left > 0) out.pulls.push_back(a), --left;
    return out;
  }

  std::deque<Group> groups_;   // the first is being pulled
};

// A name of evaluation: which router, and the eviction that makes room ("": what is missing is not kept).
struct Combination {
  std::string name, router, rule;
  bool future = false;
};
std::vector<Combination> combinations() {
  std::vector<Combination> out = {{"oracle", "oracle", "", true}, {"best_single", "best_single", "lru", true}, {"static_k", "static_k", "", true}, {"static_prior", "static_prior", "", true}};
  for (const char* name : {"base", "linucb", "polar", "polar_plus"}) out.push_back({name, name, ""});
  for (const char* name : {"random", "classifier", "centroid", "epsilon_greedy", "thompson", "aware", "prior"}) out.push_back({std::string(name) + "_lru", name, "lru"});
  out.push_back({"index_loss", "index", "lru"});
  for (const std::string& rule : eviction_names()) out.push_back({"linucb_" + rule, "linucb", rule, rule == "belady"});
  return out;
}
Combination combination_of(const std::string& name) {
  for (const Combination& c : combinations())
    if (c.name == name) return c;
  throw ConfigError(fmt::format("there is no router '{}' for adapters", name));
}

// Serves the requests of an episode: `before` may plan, `choose` routes, `after` learns.
Routed run(const AdapterRoute& env, Router& router, bool stays, Eviction rule, std::span<const int32_t> routes, WorldKey key) {
  Routed out;
  State& s = out.end;
  env.reset(s, key);
  std::vector<uint8_t> wanted;
  for (bool over = false; !over;) {
    double price = router.plan(s, wanted) ? env.set_residents(s, wanted) : 0;
    AdapterRoute::Choice choice{.adapter = router.route(s), .stays = stays, .eviction = rule};
    if (!routes.empty()) choice.future = routes.subspan(s.next + 1);
    if (router.follows()) s.route = choice.adapter, s.victim = env.least_loss(s);
    const AdapterRoute::Served served = router.follows() ? env.follow(s) : env.serve(s, choice);
    router.learn(choice.adapter, served.observed);
    out.adapters.push_back(static_cast<int32_t>(choice.adapter)), out.hit.push_back(served.hit);
    out.quality.push_back(served.quality), out.price.push_back(price + served.price), out.ttft_ms.push_back(served.ttft_ms());
    over = served.over;
  }
  return out;
}

class ReplayRouter final : public Router {
 public:
  explicit ReplayRouter(const std::vector<int32_t>& routes) : routes_(routes) {}
  int64_t route(const State& s) override { return routes_[s.next]; }

 private:
  const std::vector<int32_t>& routes_;
};

}  // namespace

std::vector<std::string> router_names() {
  std::vector<std::string> out;
  for (const Combination& c : combinations()) out.push_back(c.name);
  return out;
}
bool knows_the_future(const std::string& name) { return combination_of(name).future; }

std::unique_ptr<Router> make_router(const std::string& name, const AdapterRoute& env, WorldKey key) {
  if (name == "oracle") return std::make_unique<OracleRouter>(env, key);
  if (name == "best_single") return std::make_unique<FixedRouter>(best_single(env, key));
  if (name == "static_k" || name == "static_prior") return std::make_unique<StaticRouter>(env, key, name == "static_prior");
  if (name == "base") return std::make_unique<FixedRouter>(env.adapters());
  if (name == "random") return std::make_unique<RandomRouter>(env);
  if (name == "classifier" || name == "centroid") return std::make_unique<TaskRouter>(env, name == "centroid");
  if (name == "linucb" || name == "aware") return std::make_unique<LinUcbRouter>(env, name == "aware");
  if (name == "prior") return std::make_unique<PriorRouter>(env);
  if (name == "index") return std::make_unique<IndexRouter>(env);
  if (name == "epsilon_greedy") return std::make_unique<EpsilonGreedyRouter>(env);
  if (name == "thompson") return std::make_unique<ThompsonRouter>(env);
  if (name == "polar") return std::make_unique<PolarRouter>(env);
  if (name == "polar_plus") return std::make_unique<PolarPlusRouter>(env);
  throw ConfigError(fmt::format("there is no router '{}' for adapters", name));
}

Routed replay_routes(const AdapterRoute& env, const std::vector<int32_t>& routes, const std::string& rule, WorldKey key) {
  TT_CHECK_EQ(std::ssize(routes), env.options().requests.requests);
  ReplayRouter router(routes);
  return run(env, router, true, eviction_of(rule), routes, key);
}

Routed run_router(const AdapterRoute& env, Router& router, const std::string& rule, WorldKey key) {
  const Eviction eviction = rule.empty() ? Eviction::kLru : eviction_of(rule);
  if (eviction == Eviction::kBelady) throw ConfigError("belady needs the routes to come: replay_routes");
  return run(env, router, !rule.empty(), eviction, {}, key);
}

Routed run_router(const AdapterRoute& env, const std::string& name, WorldKey key) {
  const Combination c = combination_of(name);
  const auto router = make_router(c.router, env, key);
  if (c.rule != "belady") return run_router(env, *router, c.rule, key);
  // Blind to the cache, it takes the same routes whatever is resident.
  return replay_routes(env, run_router(env, *router, "lru", key).adapters, c.rule, key);
}

}  // namespace trimtab
