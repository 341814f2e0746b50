#include "app/recipe_evaluation.h"

#include <fmt/format.h>

#include <cmath>

#include "app/summary.h"
#include "core/error.h"
#include "domain/kv_precision/sensitivity.h"
#include "trainers/language_tools.h"

namespace trimtab {
namespace {

constexpr KvBits kPairs[] = {{8, 8}, {8, 4}, {4, 4}, {4, 2}, {2, 2}};

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

}  // namespace

bool is_recipe(const std::string& name) { return name.ends_with(".json"); }

nlohmann::json evaluate_recipe(const RecipeEvalRequest& request) {
  if (request.model.empty() || request.texts.empty()) throw ConfigError("a recipe is evaluated on a model and texts: give --model DIR and --text FILE...");
  const LanguageTools& tools = language_tools("evaluating a KV-cache recipe");
  const KvRecipe& recipe = request.recipe;
  const bool measured = !request.table.empty();
  const RecipeScores scores = tools.score_recipe({.model = {request.model}, .recipe = recipe, .texts = request.texts,
                                                  .table = measured ? measured_table(request.table, recipe) : blank_table(recipe), .measured = measured,
                                                  .pieces = request.pieces, .threads = request.threads, .seed = request.seed});
  Gathered gathered{.metrics = {{"kl_to_16bit", "nat", false}, {"bits_per_element", "bit", false}, {"bytes", "B", false}, {"perplexity", "", false}},
                    .frontiers = {}, .reference = "k4v4"};
  std::vector<EvaluatedData> data;
  int64_t pieces = 0;
  for (const RecipeScores::File& f : scores.files) gathered.episodes.push_back(f.pieces), data.push_back({f.name, f.sha256, "unchecked"}), pieces += f.pieces;
  for (size_t c = 0; c < scores.policies.size(); ++c) {
    GatheredPolicy& p = gathered.policies.emplace_back(GatheredPolicy{.policy = scores.policies[c], .metrics = {}});
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
