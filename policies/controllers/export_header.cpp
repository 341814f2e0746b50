// The C header form: each agent as constants and one straight function, with tanhf, expf and log1pf of <math.h>.
#include <cctype>
#include <cmath>

#include "core/error.h"
#include "policies/controllers/export.h"

namespace trimtab {
namespace {

std::string identifier(const std::string& name) {
  std::string out = "trimtab_";
  for (const char c : name) out += std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
  return out;
}

template <class T>
std::string array(const std::string& type, const std::string& name, std::span<const T> values) {
  std::string out = fmt::format("static const {} {}[{}] = {{", type, name, std::max<size_t>(values.size(), 1));
  for (size_t i = 0; i < values.size(); ++i) {
    out += i % 12 == 0 ? "\n    " : " ";
    if constexpr (std::is_same_v<T, float>) out += fmt::format("{:.9e}f,", values[i]);
    else out += fmt::format("{},", values[i]);
  }
  return out + (values.empty() ? "0};\n" : "\n};\n");
}

constexpr const char* kPreamble = R"(#ifndef {guard}
#define {guard}
#include <math.h>
#include <string.h>

/* y[out] += x[in] W[in][out] */
static inline void trimtab_add_product(const float* x, int in, const float* w, int out, float* y) {{
  for (int i = 0; i < in; ++i)
    for (int o = 0; o < out; ++o) y[o] += x[i] * w[i * out + o];
}}
static inline void trimtab_normalise(float* x, int n, const float* mean, const float* scale, float clip) {{
  for (int i = 0; i < n; ++i) {{
    const float y = (x[i] - mean[i]) * scale[i];
    x[i] = y < -clip ? -clip : y > clip ? clip : y;
  }}
}}
/* Self-attention: x[rows] += softmax(Q K^T / sqrt(d)) V O head by head, weights [width][width]. key, value: [rows], scratch;
 * query, mixed: [width], scratch. One pass over the items: what has been summed is scaled down when a larger score comes. */
static inline void trimtab_attend(float* x, int rows, int stride, int width, int heads, const float* wq, const float* wk,
                                  const float* wv, const float* wo, float* key, float* value, float* query, float* mixed) {{
  const int d = width / heads;
  for (int r = 0; r < rows; ++r) {{
    memset(key + r * stride, 0, sizeof(float) * (size_t)width);
    memset(value + r * stride, 0, sizeof(float) * (size_t)width);
    trimtab_add_product(x + r * stride, width, wk, width, key + r * stride);
    trimtab_add_product(x + r * stride, width, wv, width, value + r * stride);
  }}
  for (int r = 0; r < rows; ++r) {{
    memset(query, 0, sizeof(float) * (size_t)width);
    memset(mixed, 0, sizeof(float) * (size_t)width);
    trimtab_add_product(x + r * stride, width, wq, width, query);
    for (int h = 0; h < heads * d; h += d) {{
      float top = 0, total = 0;
      for (int k = 0; k < rows; ++k) {{
        float score = 0;
        for (int i = h; i < h + d; ++i) score += query[i] * key[k * stride + i];
        score /= sqrtf((float)d);
        const float kept = k == 0 ? 0 : score > top ? expf(top - score) : 1;
        if (k == 0 || score > top) top = score;
        const float weight = expf(score - top);
        total = total * kept + weight;
        for (int i = h; i < h + d; ++i) mixed[i] = mixed[i] * kept + weight * value[k * stride + i];
      }}
      for (int i = h; i < h + d; ++i) mixed[i] /= total;
    }}
    trimtab_add_product(mixed, width, wo, width, x + r * stride);
  }}
}}
)";

class HeaderWriter {
 public:
  explicit HeaderWriter(const ExportedAgent& agent)
      : agent_(agent), view_(agent.spec.observation), name_(identifier(agent.spec.name)), set_(view_.item_size() > 0) {
    width_ = std::max(view_.context_size(), view_.item_size());
    for (const Controller::Layer& l : agent.policy->layers()) width_ = std::max<int>(width_, static_cast<int>(l.out));
  }

  std::string text(const ExportInfo& info) {
    describe();
    decide();
    self_test(info);
    return constants_ + body_;
  }

 private:
  template <class... Args>
  void line(fmt::format_string<Args...> format, Args&&... args) {
    body_ += fmt::format(format, std::forward<Args>(args)...) + "\n";
  }
  std::string constant(const std::string& name, std::span<const float> values) {
    constants_ += array("float", name_ + "_" + name, values);
    return name_ + "_" + name;
  }

  void describe() {
    const auto list = [&](const char* what, const std::vector<Feature>& features) {
      for (size_t j = 0; j < features.size(); ++j)
        line(" *   {}[{}]: {} [{}], {} to {}", what, j, features[j].name, features[j].unit, features[j].low, features[j].high);
    };
    line("\n/* Agent '{}'. {}", agent_.spec.name, agent_.meaning);
    list("context", view_.context);
    list("items", view_.item);
    line(" * Features are per item where named items: items[num_items][{}], mask[num_items] (0: absent, 1: present, 2: seen, not\n * acted on; null: all present).", view_.item_size());
    line(" * No present item, or a result that is not finite: the safe action, and 1 is returned; otherwise 0. */");
    line("enum {{ {0}_CONTEXT = {1}, {0}_ITEM = {2}, {0}_MAX_ITEMS = 1024, {0}_WIDTH = {3} }};", name_, view_.context_size(),
         view_.item_size(), width_);
  }

  void decide() {
    line("static inline int {}_decide(const float* context, const float* items, const unsigned char* mask, int num_items,\n"
         "                                 float* action) {{", name_);
    line("  static _Thread_local float x[{0}][{1}], y[{0}][{1}];", set_ ? name_ + "_MAX_ITEMS" : "1", width_);
    if (attends()) line("  static _Thread_local float key[{0}_MAX_ITEMS][{1}], value[{0}_MAX_ITEMS][{1}];", name_, width_);
    line("  float c[{0}] = {{0}}, pooled[{0}] = {{0}}, base[{0}];", width_);
    line("  int slot[{}], n = 0, present = 0;", set_ ? name_ + "_MAX_ITEMS" : "1");
    line("  (void)context, (void)items, (void)mask, (void)num_items, (void)pooled, (void)c, (void)y, (void)slot, (void)present;");
    gather();
    normalise();
    const auto layers = agent_.policy->layers();
    for (size_t l = 0; l < layers.size(); ++l) layer(layers[l], l, l + 1 == layers.size());
    const Controller::Residual residual = agent_.policy->residual();
    if (residual.item_feature >= 0)
      line("  for (int r = 0; r < n; ++r) x[r][0] += {:.9e}f * items[slot[r] * {}_ITEM + {}];", residual.coefficient, name_,
           residual.item_feature);
    if (by_item(agent_.spec.head.kind)) line("  n = present;");
    switch (agent_.spec.head.kind) {
      case HeadKind::kSimplex: shares(); break;
      case HeadKind::kChoice: choice(); break;
      case HeadKind::kSubset: subset(); break;
      case HeadKind::kOrder: order(); break;
      case HeadKind::kCategorical:
      case HeadKind::kGaussian: decision(); break;
    }
    line("}}");
  }

  static bool by_item(HeadKind kind) { return kind != HeadKind::kCategorical && kind != HeadKind::kGaussian; }
  bool attends() const {
    for (const Controller::Layer& l : agent_.policy->layers())
      if (l.attention.heads > 0) return true;
    return false;
  }

  void gather() {
    if (!set_) {
      line("  memcpy(x[0], context, sizeof(float) * {}_CONTEXT);\n  n = 1;", name_);
      return;
    }
    const HeadKind kind = agent_.spec.head.kind;
    if (kind == HeadKind::kSimplex || kind == HeadKind::kSubset) line("  for (int i = 0; i < num_items; ++i) action[i] = 0;");
    if (kind == HeadKind::kOrder) line("  for (int j = 0; j < {}; ++j) action[j] = -1;", agent_.spec.head.picks);
    if (agent_.spec.head.kind == HeadKind::kChoice) line("  action[0] = {:.1f}f;", agent_.fallback.empty() ? 0.0f : agent_.fallback[0]);
    line("  if (num_items > {0}_MAX_ITEMS) num_items = 0;", name_);
    if (view_.context_size() > 0) line("  memcpy(c, context, sizeof(float) * {}_CONTEXT);", name_);
    line("  for (int i = 0; i < 2 * num_items; ++i) {{\n    const int k = i % num_items, what = mask ? mask[k] : 1;\n"
         "    if (!what || (what == 2) != (i >= num_items)) continue;\n"
         "    memcpy(x[n], items + k * {0}_ITEM, sizeof(float) * {0}_ITEM);\n    slot[n++] = k, present += what != 2;\n  }}", name_);
    if (!by_item(kind)) line("  if (present == 0) memcpy(action, {}, sizeof(float) * {});", safe_action(), agent_.spec.head.width());
    line("  if (present == 0) return 1;");
  }

  void normalise() {
    const Controller::Normaliser n = agent_.policy->normaliser();
    if (!std::isfinite(n.clip)) return;
    const auto call = [&](const char* row, const char* part, std::span<const float> mean, std::span<const float> scale) {
      const std::string m = constant(std::string(part) + "_mean", mean), s = constant(std::string(part) + "_scale", scale);
      line("  trimtab_normalise({}, {}, {}, {}, {:.9e}f);", row, mean.size(), m, s, n.clip);
    };
    if (view_.context_size() > 0) call(set_ ? "c" : "x[0]", "context", n.context_mean, n.context_scale);
    if (!set_) return;
    body_ += "  for (int r = 0; r < n; ++r)\n  ";
    call("x[r]", "item", n.item_mean, n.item_scale);
  }

  void layer(const Controller::Layer& a, size_t index, bool last) {
    const std::string id = "layer" + std::to_string(index);
    const auto weight = [&](const char* part, const float* values, int64_t in) {
      return constant(id + "_" + part, {values, static_cast<size_t>(in * a.out)});
    };
    if (a.pooled > 0) {
      line("  for (int i = 0; i < {}; ++i) {{\n    pooled[i] = 0;\n    for (int r = 0; r < n; ++r) pooled[i] += x[r][i];", a.pooled);
      line("    pooled[i] /= (float)n;\n  }}");
    }
    line("  memcpy(base, {}, sizeof(float) * {});", weight("bias", a.bias, 1), a.out);
    if (a.context > 0) line("  trimtab_add_product(c, {}, {}, {}, base);", a.context, weight("context", a.ctx, a.context), a.out);
    if (a.pooled > 0)
      line("  trimtab_add_product(pooled, {}, {}, {}, base);", a.pooled, weight("pooled", a.ctx + a.context * a.out, a.pooled), a.out);
    if (set_ && a.in == 0) line("  n = 1;");
    line("  for (int r = 0; r < n; ++r) {{\n    memcpy(y[r], base, sizeof(float) * {});", a.out);
    if (a.in > 0) line("    trimtab_add_product(x[r], {}, {}, {}, y[r]);", a.in, weight("rows", a.item, a.in), a.out);
    const bool tanh = agent_.policy->options().activation == "tanh";
    line("    for (int o = 0; o < {}; ++o) x[r][o] = {};\n  }}", a.out,
         last ? "y[r][o]" : tanh ? "tanhf(y[r][o])" : "y[r][o] < 0 ? 0 : y[r][o]");
    if (a.attention.heads > 0) attention(a, id);
  }

  void attention(const Controller::Layer& a, const std::string& id) {
    const auto weight = [&](const char* part, const float* values) {
      return constant(id + "_" + part, {values, static_cast<size_t>(a.out * a.out)});
    };
    line("  trimtab_attend(x[0], n, {}, {}, {}, {}, {}, {}, {}, key[0], value[0], base, y[0]);", width_, a.out, a.attention.heads,
         weight("query", a.attention.query), weight("key", a.attention.key), weight("value", a.attention.value),
         weight("out", a.attention.mix));
  }

  void shares() {
    line("  float total = 0, top = x[0][0];\n  for (int r = 1; r < n; ++r) top = x[r][0] > top ? x[r][0] : top;");
    const bool dirichlet = agent_.policy->options().head == "dirichlet";
    line("  (void)top;\n  for (int r = 0; r < n; ++r) total += x[r][0] = {};",
         dirichlet ? "1 + (x[r][0] > 0 ? x[r][0] : 0) + log1pf(expf(-fabsf(x[r][0])))" : "expf(x[r][0] - top)");
    line("  const int finite = total <= 3.0e38f;");
    line("  for (int r = 0; r < n; ++r) action[slot[r]] = finite ? x[r][0] / total : 1.0f / (float)n;\n  return !finite;");
  }

  void choice() {
    const float safe = agent_.fallback.empty() ? 0.0f : agent_.fallback[0];
    line("  int best = 0, finite = 1;\n  for (int r = 0; r < n; ++r) {{\n    finite &= fabsf(x[r][0]) <= 3.0e38f;");
    line("    best = x[r][0] > x[best][0] ? r : best;\n  }}\n  action[0] = finite ? (float)slot[best] : {:.1f}f;\n  return !finite;", safe);
  }

  void subset() {
    line("  int finite = 1;\n  for (int r = 0; r < n; ++r) finite &= fabsf(x[r][0]) <= 3.0e38f;\n  if (!finite) return 1;");
    line("  for (int r = 0; r < n; ++r) {{\n    const float e = expf(-fabsf(x[r][0]));");
    line("    action[slot[r]] = x[r][0] >= 0 ? 1 / (1 + e) : e / (1 + e);\n  }}\n  return 0;");
  }

  // A falling list of rows into which each is put behind its equals; then the rows become items.
  void order() {
    const int picks = agent_.spec.head.picks;
    line("  int finite = 1, length = 0, list[{}];\n  for (int r = 0; r < n; ++r) finite &= fabsf(x[r][0]) <= 3.0e38f;", picks + 1);
    line("  if (!finite) return 1;\n  for (int r = 0; r < n; ++r) {{\n    int at = length;");
    line("    for (; at > 0 && x[r][0] > x[list[at - 1]][0]; --at) list[at] = list[at - 1];");
    line("    list[at] = r;\n    length += length < {};\n  }}", picks);
    line("  for (int j = 0; j < length; ++j) action[j] = (float)slot[list[j]];\n  return 0;");
  }

  // Of a decision that is no choice of items.
  std::string safe_action() {
    const HeadSpec& head = agent_.spec.head;
    std::vector<float> safe = agent_.fallback;
    if (safe.empty()) safe.assign(head.width(), head.kind == HeadKind::kGaussian ? 0.5f * (head.low + head.high) : 0.0f);
    if (safe_.empty()) safe_ = constant("safe", safe);
    return safe_;
  }

  void decision() {
    const HeadSpec& head = agent_.spec.head;
    const bool gaussian = head.kind == HeadKind::kGaussian;
    line("  int finite = 1;\n  for (int o = 0; o < {}; ++o) finite &= fabsf(x[0][o]) <= 3.0e38f;", head.size);
    line("  if (!finite) {{\n    memcpy(action, {}, sizeof(float) * {});\n    return 1;\n  }}", safe_action(), head.width());
    if (gaussian) {
      line("  for (int o = 0; o < {}; ++o)\n    action[o] = x[0][o] < {:.9e}f ? {:.9e}f : x[0][o] > {:.9e}f ? {:.9e}f : x[0][o];",
           head.size, head.low, head.low, head.high, head.high);
    } else {
      line("  int best = 0;\n  for (int o = 1; o < {}; ++o) best = x[0][o] > x[0][best] ? o : best;\n  action[0] = (float)best;", head.size);
    }
    line("  return 0;");
  }

  void self_test(const ExportInfo& info) {
    const TestVectors v = make_test_vectors(agent_, info.num_self_tests, info.seed);
    const std::string context = constant("test_context", v.context), items = constant("test_items", v.items),
                      actions = constant("test_action", v.actions);
    constants_ += array<uint8_t>("unsigned char", name_ + "_test_mask", v.mask);
    const int num_items = set_ ? view_.max_items : 0, width = agent_.spec.head.width();
    line("static inline float {0}_self_test(void) {{\n  float worst = 0, action[{1}];\n  for (int k = 0; k < {2}; ++k) {{", name_, width,
         v.count);
    line("    if ({0}_decide({1} + k * {0}_CONTEXT, {2} + k * {3} * {0}_ITEM, {0}_test_mask + k * {3}, {3}, action)) return 1e30f;", name_,
         context, items, num_items);
    line("    for (int i = 0; i < {0}; ++i) worst = fmaxf(worst, fabsf(action[i] - {1}[k * {0} + i]));\n  }}\n  return worst;\n}}", width,
         actions);
  }

  const ExportedAgent& agent_;
  const ObservationSpec& view_;
  std::string name_, constants_, body_, safe_;   // safe_: the constant's name, once it is there
  bool set_;
  int width_ = 0;
};

}  // namespace

std::string header_text(const std::vector<ExportedAgent>& agents, const ExportInfo& info) {
  std::string out = fmt::format("/* Controllers exported by trimtab " TRIMTAB_VERSION " from environment '{}'. Needs C11 and libm, nothing else.\n"
                                " * Call NAME_decide; trimtab_self_test() gives the largest difference from the stored answers\n"
                                " * (1e-5 or less is right). Training data: {}. */\n",
                                info.environment, info.training_data_hash);
  out += fmt::format(fmt::runtime(kPreamble), fmt::arg("guard", "TRIMTAB_EXPORTED_CONTROLLER_H"));
  std::string calls = "  float worst = 0;\n";
  for (const ExportedAgent& agent : agents) {
    out += HeaderWriter(agent).text(info);
    calls += fmt::format("  worst = fmaxf(worst, {}_self_test());\n", identifier(agent.spec.name));
  }
  return out + "\nstatic inline float trimtab_self_test(void) {\n" + calls + "  return worst;\n}\n#endif\n";
}

}  // namespace trimtab
