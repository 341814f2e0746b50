// KV-cache precision for the command: sensitivities measured on texts (trainers/language_tools.h).
#include <ATen/Parallel.h>

#include <algorithm>
#include <mutex>

#include "core/config.h"
#include "core/error.h"
#include "core/files.h"
#include "core/run_folder.h"
#include "engine/cached_forward/kv_quality.h"
#include "engine/kv_cache/page_time.h"
#include "engine/text_pieces/text_pieces.h"
#include "envs/kv_precision/pages/page_rules.h"
#include "trainers/language/job.h"
#include "trainers/language/tools.h"

namespace trimtab {
namespace {

// tasks of equal kind, with a progress bar and Ctrl-C.
template <class Task>
void run_tasks(Pool& pool, const std::string& label, int64_t tasks, const Task& task) {
  Progress progress(label, tasks, "readings");
  std::mutex told;
  int64_t done = 0;
  pool.run(tasks, [&](int64_t i) {
    if (interrupted()) throw Interrupted("interrupted; nothing was written");
    task(i);
    const std::lock_guard lock(told);
    progress.update(++done);
  });
}

KvSensitivity empty_table(const MeasureOrder& order, const CachedModel& model) {
  const KvHeads heads = model.heads();
  KvSensitivity t;
  t.layers = heads.layers, t.kv_heads = heads.kv_heads, t.head_dim = heads.head_dim, t.page_tokens = order.cache.page_tokens;
  t.per_head = order.per_head, t.pairs = order.pairs;
  const KvCache probe(heads, order.cache);   // refuses what does not go together
  for (const KvBits b : order.pairs) {
    const std::string fault = kv_format_fault({heads.head_dim, order.cache.page_tokens}, order.cache.quantiser(), b);
    if (!fault.empty()) throw ConfigError(fault);
    t.page_bytes.push_back(probe.page_bytes(b));
  }
  t.kl.assign(t.units(), std::vector<double>(order.pairs.size()));
  return t;
}

KvCacheOptions cache_of(const KvRecipe& r) {
  KvCacheOptions o;
  o.page_tokens = r.page_tokens, o.sinks = r.sinks, o.key_groups = r.quantiser.key_groups == KeyGroups::kChannel ? "channel" : "token";
  o.value_group = r.quantiser.value_group, o.symmetric = r.quantiser.symmetric, o.key_norm = r.quantiser.key_norm;
  o.value_channel_scale = r.quantiser.value_channel_scale, o.rotate_keys = r.hadamard_keys, o.rotate_values = r.hadamard_values;
  return o;
}

// The widths that leave all units but one at 16 bits.
std::vector<KvBits> one_unit(const KvSensitivity& t, int64_t unit, KvBits bits) {
  std::vector<KvBits> out(t.layers * t.kv_heads, KvBits{16, 16});
  std::fill_n(out.begin() + unit * t.heads_per_unit(), t.heads_per_unit(), bits);
  return out;
}

}  // namespace

KvSensitivity measure_sensitivity(const MeasureOrder& order) {
  at::set_num_threads(1);   // threads are ours
  const LanguageModel model = load_model(order.model);
  Pool pool(thread_count(order.threads));
  const CachedModel cached(*model.transformer, pool);
  KvSensitivity t = empty_table(order, cached);
  const std::vector<TextPiece> pieces = joined(read_text_pieces({order.texts, order.window, order.pieces}, model));
  const int64_t tasks = static_cast<int64_t>(pieces.size()) * t.units();
  std::vector<std::vector<KvScore>> scores(tasks);   // [piece, unit][pair]
  run_tasks(pool, "measuring", tasks, [&](int64_t i) {
    std::vector<KvPacking> packings;
    for (const KvBits b : t.pairs) packings.push_back({order.cache, pack_all(one_unit(t, i % t.units(), b))});
    scores[i] = score_packings(cached, pieces[i / t.units()], packings);
  });
  int64_t tokens = 0;
  for (const TextPiece& p : pieces) tokens += static_cast<int64_t>(p.size());
  for (int64_t i = 0; i < tasks; ++i)
    for (size_t p = 0; p < t.pairs.size(); ++p)
      t.kl[i % t.units()][p] += std::max(0.0, scores[i][p].kl) * static_cast<double>(scores[i][p].tokens) / static_cast<double>(tokens);
  t.page_ns = measure_page_ns(t.head_dim, cached.config().num_heads / t.kv_heads, order.cache, t.pairs);   // when nothing else runs here
  std::string texts;
  for (const std::string& file : order.texts) texts += (texts.empty() ? "" : " ") + hash_file(file);
  t.measured = {{"model_hash", hash_of(*model.transformer)}, {"cache", yaml_of(order.cache)}, {"texts", texts}, {"tokens", std::to_string(tokens)}};
  return t;
}

RecipeScores score_recipe(const RecipeScoreOrder& order) {
  at::set_num_threads(1);   // threads are ours
  const LanguageModel model = load_model(order.model);
  const TransformerConfig& c = model.transformer->config();
  check_recipe_fits(order.recipe, c.num_layers, c.num_kv_heads, c.head_dim, hash_of(*model.transformer));
  Pool pool(thread_count(order.threads));
  const CachedModel cached(*model.transformer, pool);
  const KvCacheOptions cache = cache_of(order.recipe);
  const KvCache probe(cached.heads(), cache);   // refuses what does not go together
  RecipeScores out;
  std::vector<KvPacking> packings = {{cache, pack_all(recipe_widths(order.recipe))}};
  out.policies.push_back({"recipe", "learned"});
  int64_t budget = 0;
  for (const KvBits b : recipe_widths(order.recipe)) budget += probe.page_bytes(b);
  for (const std::string& name : page_rule_names()) {
    if (!order.measured && needs_sensitivities(name)) continue;
    const auto rule = page_rule(name, {order.table, cache, order.table.bits(budget), order.seed});
    if (!rule) continue;
    packings.push_back(*rule), out.policies.push_back({name, name == "best_allocation" ? "oracle" : "baseline"});
  }
  const std::vector<std::vector<TextPiece>> files = read_text_pieces({order.texts, order.window, order.pieces}, model);
  const std::vector<TextPiece> pieces = joined(files);
  std::vector<std::vector<KvScore>> found(pieces.size());
  run_tasks(pool, "reading", static_cast<int64_t>(pieces.size()), [&](int64_t i) { found[i] = score_packings(cached, pieces[i], packings); });
  for (size_t f = 0; f < files.size(); ++f)
    out.files.push_back({order.texts[f], sha256_file(order.texts[f]), static_cast<int64_t>(files[f].size())});
  out.scores.resize(packings.size());
  for (size_t w = 0; w < packings.size(); ++w)
    for (const std::vector<KvScore>& piece : found)
      out.scores[w].push_back({piece[w].kl, piece[w].cross_entropy, piece[w].bytes, piece[w].bits_per_element});
  return out;
}

}  // namespace trimtab
