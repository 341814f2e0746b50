// Heads that answer with several of the items: a subset, an order.
#include "policies/controllers/heads_of_sets.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "policies/controllers/logistic.h"

namespace trimtab {
namespace {

// Each item by itself: 1 with probability sigmoid(logit).
class SubsetHead final : public ItemHead {
 public:
  explicit SubsetHead(const HeadSpec& spec) : ItemHead(spec) {}
  int64_t num_log_std() const override { return 0; }
  int64_t saved_width() const override { return 2 * spec_.size; }  // d(logp)/d(logit) and d(entropy)/d(logit) by item

  void sample(const HeadInput& in, const std::function<Draws(int64_t)>& draws, float* action,
              float* raw) const override {
    std::fill_n(raw, in.size * spec_.size, 0.0f);
    for (int64_t i = 0; i < in.size; ++i) {
      Draws noise = draws(i);
      for (int32_t r = in.offsets[i]; r < in.ends[i]; ++r)
        raw[i * spec_.size + in.slot[r]] = noise.uniform() < sigmoid(logit(in, r)) ? 1.0f : 0.0f;
    }
    std::copy_n(raw, in.size * spec_.size, action);
  }
  void mode(const HeadInput& in, float* action) const override {  // the probability
    std::fill_n(action, in.size * spec_.size, 0.0f);
    for (int64_t i = 0; i < in.size; ++i)
      for (int32_t r = in.offsets[i]; r < in.ends[i]; ++r)
        action[i * spec_.size + in.slot[r]] = sigmoid(logit(in, r));
  }
  // log p = -softplus(-x) where taken, -softplus(x) where not.
  void evaluate(const HeadInput& in, const float* raw, float* logp, float* entropy,
                float* saved) const override {
    for (int64_t i = 0; i < in.size; ++i) {
      logp[i] = entropy[i] = 0;
      for (int32_t r = in.offsets[i]; r < in.ends[i]; ++r) {
        const float taken = raw[i * spec_.size + in.slot[r]], x = logit(in, r), p = sigmoid(x), q = sigmoid(-x);
        TT_CHECK(taken == 0 || taken == 1, "item {} of a subset is {}, neither 0 nor 1", in.slot[r], taken);
        logp[i] -= softplus(taken == 1 ? -x : x);
        entropy[i] += p * softplus(-x) + q * softplus(x);
        float* derivative = saved + i * saved_width() + 2 * in.slot[r];
        derivative[0] = taken == 1 ? q : -p;
        derivative[1] = -x * p * q;
      }
    }
  }
  void backward(const HeadInput& in, const float*, const float* saved, const float* d_logp,
                const float* d_entropy, float* d_output, int64_t d_stride, float*) const override {
    for (int64_t i = 0; i < in.size; ++i) {
      for (int32_t r = in.offsets[i]; r < in.ends[i]; ++r) {
        const float* derivative = saved + i * saved_width() + 2 * in.slot[r];
        d_output[r * d_stride] = d_logp[i] * derivative[0] + d_entropy[i] * derivative[1];
      }
    }
  }
};

// Items drawn one after another without replacement, each by the softmax over those that are left: Plackett, "The
// analysis of permutations", 1975; Luce, "Individual choice behavior", 1959.
class OrderHead final : public ItemHead {
 public:
  explicit OrderHead(const HeadSpec& spec) : ItemHead(spec) {
    TT_CHECK(spec.picks >= 1, "an order of {} picks", spec.picks);
  }
  int64_t num_log_std() const override { return 0; }
  // By item: d(logp)/d(logit), d(entropy)/d(logit), and the probability of the next pick (kGone: absent or picked).
  int64_t saved_width() const override { return 3 * spec_.size; }

  // The items with the largest logit + Gumbel noise, in falling order, are such a draw (Yellott, "The relationship between
  // Luce's choice axiom, Thurstone's theory of comparative judgment, and the double exponential distribution", 1977).
  void sample(const HeadInput& in, const std::function<Draws(int64_t)>& draws, float* action,
              float* raw) const override {
    for (int64_t i = 0; i < in.size; ++i) {
      Draws noise = draws(i);
      float *rows = raw + i * spec_.picks, *keys = action + i * spec_.picks;  // keys until the order is known
      int picked = 0;
      for (int32_t r = 0; r < present(in, i); ++r) {
        const float key = logit(in, in.offsets[i] + r) + gumbel(noise);
        int at = picked < spec_.picks ? picked++ : spec_.picks;
        for (; at > 0 && key > keys[at - 1]; --at)
          if (at < spec_.picks) keys[at] = keys[at - 1], rows[at] = rows[at - 1];
        if (at < spec_.picks) keys[at] = key, rows[at] = static_cast<float>(r);
      }
      rows_to_items(in, i, picked, rows);
      std::copy_n(rows, spec_.picks, keys);
    }
  }
  void mode(const HeadInput& in, float* action) const override {
    for (int64_t i = 0; i < in.size; ++i) {
      float* rows = action + i * spec_.picks;
      const auto key = [&](float row) { return logit(in, in.offsets[i] + static_cast<int32_t>(row)); };
      int picked = 0;
      for (int32_t r = 0; r < present(in, i); ++r) {
        int at = picked < spec_.picks ? picked++ : spec_.picks;
        for (; at > 0 && logit(in, in.offsets[i] + r) > key(rows[at - 1]); --at)
          if (at < spec_.picks) rows[at] = rows[at - 1];
        if (at < spec_.picks) rows[at] = static_cast<float>(r);
      }
      rows_to_items(in, i, picked, rows);
    }
  }
  void evaluate(const HeadInput& in, const float* raw, float* logp, float* entropy,
                float* saved) const override {
    for (int64_t i = 0; i < in.size; ++i) {
      float *d_logp = saved + i * saved_width(), *d_entropy = d_logp + spec_.size, *next = d_entropy + spec_.size;
      std::fill_n(d_logp, 2 * spec_.size, 0.0f);
      std::fill_n(next, spec_.size, kGone);
      for (int32_t r = in.offsets[i]; r < in.ends[i]; ++r) next[in.slot[r]] = 0;
      logp[i] = entropy[i] = 0;
      for (int j = 0; j < spec_.picks; ++j) {
        const float picked = raw[i * spec_.picks + j];
        if (j >= present(in, i)) {
          TT_CHECK(picked == -1, "pick {} is {} where {} items are present", j, picked, present(in, i));
          continue;
        }
        const int item = picked >= 0 && picked < static_cast<float>(spec_.size) ? static_cast<int>(picked) : -1;
        TT_CHECK(item >= 0 && static_cast<float>(item) == picked && next[item] != kGone,
                 "pick {} is {}: no item, absent or picked before", j, picked);
        logp[i] += step(in, i, item, d_logp, d_entropy, next, &entropy[i]);
        next[item] = kGone;
      }
    }
  }
  void backward(const HeadInput& in, const float*, const float* saved, const float* d_logp,
                const float* d_entropy, float* d_output, int64_t d_stride, float*) const override {
    for (int64_t i = 0; i < in.size; ++i) {
      const float* derivative = saved + i * saved_width();
      for (int32_t r = in.offsets[i]; r < in.ends[i]; ++r)
        d_output[r * d_stride] = d_logp[i] * derivative[in.slot[r]] + d_entropy[i] * derivative[spec_.size + in.slot[r]];
    }
  }

 private:
  static constexpr float kGone = -1;

  static int32_t present(const HeadInput& in, int64_t i) { return in.ends[i] - in.offsets[i]; }

  // Two uniforms make one of 48 bits: with 24 the largest of thousands of draws would often be equal.
  static float gumbel(Draws& noise) {
    const double high = noise.uniform(), u = high + 0x1p-24 * noise.uniform();
    return static_cast<float>(-std::log(-std::log1p(-u)));
  }

  void rows_to_items(const HeadInput& in, int64_t i, int picked, float* rows) const {
    for (int j = 0; j < picked; ++j) rows[j] = static_cast<float>(in.slot[in.offsets[i] + static_cast<int32_t>(rows[j])]);
    std::fill(rows + picked, rows + spec_.picks, -1.0f);
  }

  // One pick among the items that are left: its log-probability; adds the softmax's entropy and both derivatives. The
  // largest logit is taken anew each time, since a pick may outweigh all others by more than a float's range.
  static float step(const HeadInput& in, int64_t i, int item, float* d_logp, float* d_entropy, float* next,
                    float* entropy) {
    float top = -INFINITY, total = 0, h = 0, logp = 0;
    for (int32_t r = in.offsets[i]; r < in.ends[i]; ++r)
      if (next[in.slot[r]] != kGone) top = std::max(top, logit(in, r));
    for (int32_t r = in.offsets[i]; r < in.ends[i]; ++r)
      if (next[in.slot[r]] != kGone) total += next[in.slot[r]] = std::exp(logit(in, r) - top);
    const float log_total = top + std::log(total);
    for (int32_t r = in.offsets[i]; r < in.ends[i]; ++r)
      if (float& p = next[in.slot[r]]; p != kGone) p /= total, h -= p * (logit(in, r) - log_total);
    for (int32_t r = in.offsets[i]; r < in.ends[i]; ++r) {
      const int32_t k = in.slot[r];
      if (next[k] == kGone) continue;
      d_logp[k] += (k == item ? 1.0f : 0.0f) - next[k];
      d_entropy[k] -= next[k] * (logit(in, r) - log_total + h);
      if (k == item) logp = logit(in, r) - log_total;
    }
    *entropy += h;
    return logp;
  }
};

}  // namespace

std::unique_ptr<ActionHead> make_subset_head(const HeadSpec& spec) { return std::make_unique<SubsetHead>(spec); }
std::unique_ptr<ActionHead> make_order_head(const HeadSpec& spec) { return std::make_unique<OrderHead>(spec); }

}  // namespace trimtab
