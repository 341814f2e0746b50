#include "app/recipe_evaluation.h"

#include <fmt/format.h>

#include <cmath>

#include "app/summary.h"
#include "core/error.h"
#include "domain/kv_precision/allocation.h"
#include "trainers/language_tools.h"

namespace trimtab {
namespace {

constexpr KvBits kPairs[] = {{8, 8}, {8, 4}, {4, 4}, {4, 2}, {2, 2}};

struct Candidate {
  EvaluatedPolicy policy;
  std::vector<KvBits> widths;   // [layers * kv_heads]
};

// Every KV head a unit, no sensitivities: what rules without them need.
KvSensitivity blank_table(const KvRecipe& r) {
  KvSensitivity t;
  t.layers = r.model.layers, t.kv_heads = r.model.kv_heads, t.head_dim = r.model.head_dim, t.page_tokens = r.page_tokens, t.per_head = true;
  for (const KvBits b : kPairs) {
    t.pairs.push_back(b);
    t.page_bytes.push_back(kv_layout({r.model.head_dim, r.page_tokens}, r.quantiser, b).bytes);
  }
  t.kl.assign(t.units(), std::vector<double>(t.pairs.size()));
  return t;
}

KvSensitivity measured_table(const std::string& file, const KvRecipe& r) {
  KvSensitivity t = read_sensitivity(file);
  if (t.layers != r.model.layers || t.kv_heads != r.model.kv_heads || t.head_dim != r.model.head_dim || t.page_tokens != r.page_tokens)
    throw DataError(fmt::format("{}: a table of {} layers, {} KV heads of {} and pages of {} tokens, but the recipe has {}, {} of {} and {}: measure this model "
                                "with the recipe's cache",
                                file, t.layers, t.kv_heads, t.head_dim, t.page_tokens, r.model.layers, r.model.kv_heads, r.model.head_dim, r.page_tokens));
  return t;
}

std::vector<KvBits> widths_of(const KvRecipe& r) {
  std::vector<KvBits> out;
  for (int64_t l = 0; l < r.model.layers; ++l)
    for (int64_t h = 0; h < r.model.kv_heads; ++h) out.push_back(r.at(l, h));
  return out;
}

int64_t page_bytes(const KvRecipe& r) {
  int64_t sum = 0;
  for (const KvBits b : widths_of(r)) sum += kv_layout({r.model.head_dim, r.page_tokens}, r.quantiser, b).bytes;
  return sum;
}

std::vector<Candidate> candidates(const RecipeEvalRequest& request, const KvRecipe& r) {
  const KvSensitivity blank = blank_table(r);
  const int64_t budget = page_bytes(r);
  std::vector<Candidate> out = {{{"recipe", "learned"}, widths_of(r)}};
  for (const KvBits b : kPairs)
    out.push_back({{fmt::format("uniform_k{}v{}", b.key, b.value), "baseline"}, std::vector<KvBits>(r.model.layers * r.model.kv_heads, b)});
  if (budget < least_bytes(blank)) return out;   // it evicts: no rule of widths meets its bytes
  for (const std::string& name : heuristic_names())
    if (name != "sensitive_first") out.push_back({{name, "baseline"}, head_widths(blank, heuristic_allocation(blank, name, budget, request.seed))});
  if (request.table.empty()) return out;
  const KvSensitivity t = measured_table(request.table, r);
  out.push_back({{"sensitive_first", "baseline"}, head_widths(t, heuristic_allocation(t, "sensitive_first", budget, request.seed))});
  out.push_back({{"best_allocation", "oracle"}, head_widths(t, best_allocation(t, budget))});
  return out;
}

}  // namespace

bool is_recipe(const std::string& name) { return name.ends_with(".json"); }

nlohmann::json evaluate_recipe(const RecipeEvalRequest& request) {
  if (request.model.empty() || request.texts.empty()) throw ConfigError("a recipe is evaluated on a model and texts: give --model DIR and --text FILE...");
  const LanguageTools& tools = language_tools("evaluating a KV-cache recipe");
  const KvRecipe recipe = read_kv_recipe(request.recipe);
  const std::vector<Candidate> all = candidates(request, recipe);
  RecipeScoreOrder order{.model = {request.model}, .recipe = recipe, .texts = request.texts, .widths = {}, .pieces = request.pieces, .threads = request.threads};
  for (const Candidate& c : all) order.widths.push_back(c.widths);
  const RecipeScores scores = tools.score_recipe(order);
  Gathered gathered{.metrics = {{"kl_to_16bit", "nat", false}, {"bits_per_element", "bit", false}, {"bytes", "B", false}, {"perplexity", "", false}},
                    .frontiers = {}, .reference = "uniform_k4v4"};
  std::vector<EvaluatedData> data;
  int64_t pieces = 0;
  for (const RecipeScores::File& f : scores.files) gathered.episodes.push_back(f.pieces), data.push_back({f.name, f.sha256, "unchecked"}), pieces += f.pieces;
  for (size_t c = 0; c < all.size(); ++c) {
    GatheredPolicy& p = gathered.policies.emplace_back(GatheredPolicy{.policy = all[c].policy, .metrics = {}});
    for (size_t m = 0; m < gathered.metrics.size(); ++m) p.metrics.emplace_back(1, pieces);
    for (int64_t i = 0; i < pieces; ++i) {
      const RecipeScores::Score& s = scores.scores[c][i];
      const double values[] = {s.kl, s.bits_per_element, s.bytes, std::exp(s.cross_entropy)};
      for (size_t m = 0; m < std::size(values); ++m) p.metrics[m].at(0, i) = values[m];
    }
  }
  nlohmann::json out = summarise("kv_precision", data, gathered, 1);
  out["episode"] = "piece of text";
  return out;
}

}  // namespace trimtab
