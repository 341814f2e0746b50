#include "policies/controllers/controller.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/text.h"
#include "policies/controllers/heads.h"
#include "policies/controllers/net.h"
#include "policies/controllers/normaliser.h"

namespace trimtab {

void ControllerOptions::describe(Fields& f) {
  f.integers("hidden", hidden,
             {.low = 1, .high = 65536, .unit = "units", .doc = "width of each hidden layer"});
  f.choice("activation", activation, {"tanh", "relu"}, "of the hidden layers");
  f.choice("head", head, {"softmax_gaussian", "dirichlet"},
           "distribution of simplex actions; other actions ignore it");
  f.number("init_log_std", init_log_std,
           {.low = -10,
            .high = 5,
            .doc = "log standard deviation of Gaussian and softmax-Gaussian heads at the start"});
  f.flag("normalise_observations", normalise_observations,
         "running mean and variance, kept inside the policy and its exports");
  f.text("residual", residual,
         {.doc = "actions over items: item feature added to the logits with a learned coefficient; empty: none"});
  f.number("residual_init", residual_init, {.doc = "that coefficient at the start"});
  f.integer("attention", attention,
            {.low = 0,
             .high = 16,
             .doc = "heads of self-attention over items between hidden layers; 0: items meet through their mean only"});
  f.number("last_layer_gain", last_layer_gain,
           {.low = 0, .doc = "orthogonal gain of the policy's last layer"});
}

namespace {

struct Workspace final : ControllerWorkspace {
  NetScratch net;
  std::vector<float> raw, saved;  // of the last evaluate
  std::vector<float> entropy;     // of samples, which nobody asked for
  std::vector<float> feature;     // the residual's item feature, per row
  std::vector<int32_t> ends;      // [decisions] behind the rows that are present; those only seen follow
  enum class Kept { kNothing, kEvaluation, kValue, kScores };
  Kept kept = Kept::kNothing;     // what backward may start from
};

void check_attention(const ControllerOptions& options) {
  if (options.hidden.size() < 2)
    throw ConfigError(fmt::format("attention: {} over items stands between hidden layers, and hidden has {}; give hidden two or more "
                                  "widths, as in hidden: [32, 64], or set attention: 0",
                                  options.attention, options.hidden.size()));
  for (size_t l = 0; l + 1 < options.hidden.size(); ++l)
    if (options.hidden[l] % options.attention != 0)
      throw ConfigError(fmt::format("hidden: layer {} has {} units, which attention: {} heads do not divide; change one of the two", l,
                                    options.hidden[l], options.attention));
}

NetShape net_shape(const ObservationSpec& view, const ControllerOptions& options) {
  NetShape shape;
  shape.context = view.context_size();
  shape.item = view.item_size();
  shape.set = view.item_size() > 0;
  shape.max_items = shape.set ? view.max_items : 1;
  shape.hidden = options.hidden;
  shape.activation = options.activation == "relu" ? Activation::kRelu : Activation::kTanh;
  TT_CHECK(shape.context + shape.item > 0, "an observation without features");
  if (shape.set && options.attention > 0) {
    shape.attention = options.attention;
    check_attention(options);
  }
  return shape;
}

class NetController final : public Controller {
 public:
  // Without `agent` this is a critic.
  NetController(const ObservationSpec& view, const AgentSpec* agent, const ControllerOptions& options,
                uint64_t seed)
      : options_(options),
        head_(agent ? ActionHead::make(agent->head, options.head) : nullptr),
        net_(shape_of(view, options, head_.get())),
        context_normaliser_(view.context_size(), options.normalise_observations),
        item_normaliser_(view.item_size(), options.normalise_observations) {
    if (agent) find_residual(*agent);
    infos_ = net_.parameter_infos();
    log_std_ = net_.num_parameters();
    coefficient_ = log_std_ + (head_ ? head_->num_log_std() : 0);
    num_parameters_ = coefficient_ + (residual_feature_ >= 0 ? 1 : 0);
    parameters_ = RowBuffer(1, num_parameters_);
    name_parameters("log_std", log_std_, coefficient_, options.init_log_std);
    name_parameters("residual", coefficient_, num_parameters_, options.residual_init);
    initialise_orthogonal(net_, agent ? options.last_layer_gain : 1.0, seed,
                          fnv1a(agent ? "policy." + agent->name : "critic"), parameters_.data());
  }

  std::span<float> parameters() override {
    return {parameters_.data(), static_cast<size_t>(num_parameters_)};
  }
  std::span<const float> parameters() const override {
    return {parameters_.data(), static_cast<size_t>(num_parameters_)};
  }
  std::span<const ParameterInfo> parameter_infos() const override { return infos_; }

  std::unique_ptr<ControllerWorkspace> workspace(int64_t capacity) const override {
    auto w = std::make_unique<Workspace>();
    w->net = net_.scratch(capacity);
    if (head_) {
      w->raw.resize(capacity * head_->width());
      w->saved.resize(capacity * head_->saved_width());
      w->entropy.resize(capacity);
    }
    if (residual_feature_ >= 0) w->feature.resize(capacity * net_.shape().max_items);
    return w;
  }

  void accumulate_statistics(const ObservationBatch& observations, Ranks& ranks) override {
    context_normaliser_.accumulate(observations.context, nullptr, observations.size, ranks);
    if (net_.shape().set)
      item_normaliser_.accumulate(observations.items, observations.mask,
                                  observations.size * net_.shape().max_items, ranks);
  }
  void refresh_normaliser() override {
    context_normaliser_.refresh();
    item_normaliser_.refresh();
  }

  int raw_width() const override { return head_ ? static_cast<int>(head_->width()) : 0; }

  void sample(const ObservationBatch& observations, const std::function<Draws(int64_t)>& draws, float* action,
              float* raw, float* logp, ControllerWorkspace& workspace) const override {
    Workspace& w = forward(observations, workspace);
    const HeadInput in = head_input(w);
    head_->sample(in, draws, action, raw);
    // The same arithmetic as evaluate: the recorded log-probability is exactly what the trainer will
    // recompute.
    head_->evaluate(in, raw, logp, w.entropy.data(), w.saved.data());
  }
  void mode(const ObservationBatch& observations, float* action,
            ControllerWorkspace& workspace) const override {
    head_->mode(head_input(forward(observations, workspace)), action);
  }
  void evaluate(const ObservationBatch& observations, const float* raw, float* logp, float* entropy,
                ControllerWorkspace& workspace) const override {
    Workspace& w = forward(observations, workspace);
    std::copy_n(raw, observations.size * head_->width(), w.raw.data());
    head_->evaluate(head_input(w), raw, logp, entropy, w.saved.data());
    w.kept = Workspace::Kept::kEvaluation;
  }
  void value(const ObservationBatch& observations, float* value,
             ControllerWorkspace& workspace) const override {
    TT_CHECK(!head_, "a policy has no value");
    Workspace& w = forward(observations, workspace);
    const RowBuffer& output = w.net.output.back();
    for (int64_t i = 0; i < observations.size; ++i) value[i] = *output.row(i);
    w.kept = Workspace::Kept::kValue;
  }
  void scores(const ObservationBatch& observations, float* logits, ControllerWorkspace& workspace) const override {
    TT_CHECK(head_ && head_->per_item() && head_->outputs() == 1, "scores need an action with one number per item");
    Workspace& w = forward(observations, workspace);
    const int64_t size = head_->size();
    std::fill_n(logits, observations.size * size, 0.0f);
    for (int64_t r = 0; r < w.net.rows; ++r)
      logits[w.net.decision[r] * size + w.net.slot[r]] = *w.net.output.back().row(r);
    w.kept = Workspace::Kept::kScores;
  }

  void backward_policy(const float* d_logp, const float* d_entropy, float* gradient,
                       ControllerWorkspace& workspace) const override {
    Workspace& w = static_cast<Workspace&>(workspace);
    TT_CHECK(w.kept == Workspace::Kept::kEvaluation, "backward_policy needs a policy and an evaluate before it");
    RowBuffer& d = w.net.gradient[0];
    if (head_->per_item())
      for (int64_t i = 0; i < w.net.size; ++i)
        for (int64_t r = w.ends[i]; r < w.net.offsets[i + 1]; ++r) std::fill_n(d.row(r), head_->outputs(), 0.0f);
    head_->backward(head_input(w), w.raw.data(), w.saved.data(), d_logp, d_entropy, d.data(), d.stride(),
                    gradient + log_std_);
    backward(gradient, w);
  }
  void backward_value(const float* d_value, float* gradient, ControllerWorkspace& workspace) const override {
    Workspace& w = static_cast<Workspace&>(workspace);
    TT_CHECK(w.kept == Workspace::Kept::kValue, "backward_value needs a critic and a value before it");
    for (int64_t i = 0; i < w.net.size; ++i) *w.net.gradient[0].row(i) = d_value[i];
    backward(gradient, w);
  }
  void backward_scores(const float* d_logits, float* gradient, ControllerWorkspace& workspace) const override {
    Workspace& w = static_cast<Workspace&>(workspace);
    TT_CHECK(w.kept == Workspace::Kept::kScores, "backward_scores needs a scores before it");
    for (int64_t r = 0; r < w.net.rows; ++r)
      *w.net.gradient[0].row(r) = d_logits[w.net.decision[r] * head_->size() + w.net.slot[r]];
    backward(gradient, w);
  }

  void save(TensorFile& file, const std::string& prefix) const override {
    for (const ParameterInfo& info : infos_)
      file.tensors[prefix + info.name] =
          Tensor::f32(info.shape, {parameters_.data() + info.offset, size_t(info.size)});
    context_normaliser_.save(file, prefix + "normaliser.context");
    item_normaliser_.save(file, prefix + "normaliser.item");
  }
  void load(const TensorFile& file, const std::string& prefix) override {
    for (const ParameterInfo& info : infos_) {
      const std::vector<float> values = load_f32(file, prefix + info.name, info.shape);
      std::copy(values.begin(), values.end(), parameters_.data() + info.offset);
    }
    context_normaliser_.load(file, prefix + "normaliser.context");
    item_normaliser_.load(file, prefix + "normaliser.item");
  }

  std::vector<Layer> layers() const override {
    std::vector<Layer> out;
    for (const NetLayer& a : net_.layers()) {
      const float* p = parameters_.data();
      out.push_back({a.in, a.context, a.pooled, a.out, a.in > 0 ? p + a.item_offset : nullptr,
                     a.ctx_width() > 0 ? p + a.ctx_offset : nullptr, p + a.bias_offset});
      if (!a.attention) continue;
      const auto weight = [&](int k) { return p + a.attention->weight_offset(k); };
      out.back().attention = {a.attention->heads(), weight(0), weight(1), weight(2), weight(3)};
    }
    return out;
  }
  Normaliser normaliser() const override {
    return {context_normaliser_.mean(), context_normaliser_.scale(), item_normaliser_.mean(),
            item_normaliser_.scale(), options_.normalise_observations ? FeatureNormaliser::kClip : INFINITY};
  }
  Residual residual() const override {
    return {residual_feature_, residual_feature_ >= 0 ? parameters_.data()[coefficient_] : 0.0f};
  }
  const ControllerOptions& options() const override { return options_; }

 private:
  static NetShape shape_of(const ObservationSpec& view, const ControllerOptions& options,
                           const ActionHead* head) {
    NetShape shape = net_shape(view, options);
    if (!head) return shape;
    TT_CHECK(!head->per_item() || shape.set, "an action over items needs an observation with items");
    TT_CHECK(!head->per_item() || head->size() == shape.max_items, "an action over {} items for {}", head->size(),
             shape.max_items);
    shape.outputs = head->outputs();
    shape.output = head->per_item() ? RowLevel::kItem : RowLevel::kDecision;
    return shape;
  }

  void find_residual(const AgentSpec& agent) {
    if (options_.residual.empty()) return;
    if (!head_->per_item())
      throw ConfigError(
          fmt::format("policy '{}': `residual` needs an action over items (shares, a choice, a subset or an order); remove the key", agent.name));
    std::string known;
    for (int j = 0; j < agent.observation.item_size(); ++j) {
      const std::string& name = agent.observation.item[j].name;
      if (name == options_.residual) residual_feature_ = j;
      known += (j ? ", " : "") + name;
    }
    if (residual_feature_ < 0)
      throw ConfigError(fmt::format("policy '{}': residual '{}' is not an item feature; there are: {}",
                                    agent.name, options_.residual, known));
  }

  void name_parameters(const std::string& name, int64_t begin, int64_t end, double value) {
    if (begin == end) return;
    infos_.push_back({name, {end - begin}, begin, end - begin});
    std::fill(parameters_.data() + begin, parameters_.data() + end, static_cast<float>(value));
  }

  // Normalises and packs the observations, runs the network and adds the residual.
  Workspace& forward(const ObservationBatch& observations, ControllerWorkspace& workspace) const {
    Workspace& w = static_cast<Workspace&>(workspace);
    NetScratch& s = w.net;
    TT_CHECK(observations.size <= s.capacity, "{} decisions in a workspace for {}", observations.size,
             s.capacity);
    w.kept = Workspace::Kept::kNothing;
    const NetShape& shape = net_.shape();
    s.size = observations.size;
    for (int64_t i = 0; i < s.size; ++i)
      context_normaliser_.apply(observations.context + i * shape.context, s.context.row(i));
    s.rows = shape.set ? pack_items(observations, w) : s.size;
    net_.forward(parameters_.data(), s);
    if (residual_feature_ >= 0) {
      const float coefficient = parameters_.data()[coefficient_];
      for (int64_t r = 0; r < s.rows; ++r) *s.output.back().row(r) += coefficient * w.feature[r];
    }
    return w;
  }

  // From d(loss)/d(output) in gradient[0] of the network's scratch.
  void backward(float* gradient, Workspace& w) const {
    if (residual_feature_ >= 0)
      for (int64_t r = 0; r < w.net.rows; ++r) gradient[coefficient_] += *w.net.gradient[0].row(r) * w.feature[r];
    net_.backward(parameters_.data(), gradient, w.net);
    w.kept = Workspace::Kept::kNothing;
  }

  int64_t pack_items(const ObservationBatch& observations, Workspace& w) const {
    NetScratch& s = w.net;
    const NetShape& shape = net_.shape();
    int32_t rows = 0;
    const auto pack = [&](int64_t i, bool seen) {
      for (int64_t k = 0; k < shape.max_items; ++k) {
        const int64_t item = i * shape.max_items + k;
        if (observations.mask[item] == kAbsent || (observations.mask[item] == kSeen) != seen) continue;
        const float* features = observations.items + item * shape.item;
        item_normaliser_.apply(features, s.input.row(rows));
        if (residual_feature_ >= 0) w.feature[rows] = features[residual_feature_];
        s.decision[rows] = static_cast<int32_t>(i);
        s.slot[rows] = static_cast<int32_t>(k);
        ++rows;
      }
    };
    s.offsets[0] = 0, w.ends.resize(s.size);
    for (int64_t i = 0; i < s.size; ++i) {
      pack(i, false), w.ends[i] = rows;
      pack(i, true), s.offsets[i + 1] = rows;
    }
    return rows;
  }

  HeadInput head_input(const Workspace& w) const {
    TT_CHECK(head_, "a critic has no actions");
    const RowBuffer& output = w.net.output.back();
    return {w.net.size,    w.net.offsets.data(), w.ends.data(), w.net.slot.data(),
            output.data(), output.stride(),      parameters_.data() + log_std_};
  }

  ControllerOptions options_;
  std::unique_ptr<ActionHead> head_;
  Net net_;
  FeatureNormaliser context_normaliser_, item_normaliser_;
  int residual_feature_ = -1;
  int64_t log_std_ = 0, coefficient_ = 0,
          num_parameters_ = 0;  // where they start in the flat parameters, and their number
  RowBuffer parameters_;        // one row: weights start on cache lines where widths are multiples of 16
  std::vector<ParameterInfo> infos_;
};

}  // namespace

std::unique_ptr<Controller> Controller::policy(const AgentSpec& agent, const ControllerOptions& options,
                                               uint64_t seed) {
  return std::make_unique<NetController>(agent.observation, &agent, options, seed);
}

std::unique_ptr<Controller> Controller::critic(const ObservationSpec& view, const ControllerOptions& options,
                                               uint64_t seed) {
  return std::make_unique<NetController>(view, nullptr, options, seed);
}

}  // namespace trimtab
