// KV-cache precision for the command: sensitivities measured on texts (trainers/language_tools.h).
#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <nlohmann/json.hpp>

#include "core/config.h"
#include "core/error.h"
#include "core/files.h"
#include "core/run_folder.h"
#include "core/text.h"
#include "engine/cached_forward/kv_quality.h"
#include "trainers/language/job.h"
#include "trainers/language/tools.h"

namespace trimtab {
namespace {

using Piece = std::vector<int32_t>;

constexpr int64_t kShortest = 2;   // tokens of a piece

std::vector<std::string> documents_of(const std::string& file) {
  const std::string contents = read_file(file);
  if (!is_utf8(contents)) throw DataError(fmt::format("{}: not UTF-8 text", file));
  if (!file.ends_with(".jsonl")) return {contents};
  std::vector<std::string> out;
  int64_t number = 0;
  for (const std::string& line : split(contents, '\n')) {
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    const nlohmann::json object = nlohmann::json::parse(line, nullptr, false);
    if (!object.is_object() || !object.contains("text") || !object["text"].is_string())
      throw DataError(fmt::format("{}:{}: expected {{\"text\": \"...\"}}", file, number));
    out.push_back(object["text"]);
  }
  return out;
}

void add_pieces(const std::string& document, const Tokenizer& tokenizer, int64_t window, bool cut, std::vector<Piece>& out) {
  const std::vector<int32_t> ids = tokenizer.encode(document, {.allow_special = true, .add_special_tokens = true});
  const int64_t n = static_cast<int64_t>(ids.size());
  for (int64_t first = 0; first < n; first += window) {
    const int64_t end = std::min(n, first + window);
    if (end - first >= kShortest) out.emplace_back(ids.begin() + first, ids.begin() + end);
    if (!cut) break;
  }
}

std::vector<Piece> pieces_of(const MeasureOrder& order, const LanguageModel& model) {
  const int64_t window = std::min(order.window, model.transformer->config().max_positions);
  std::vector<Piece> out;
  for (const std::string& file : order.texts) {
    try {
      for (const std::string& document : documents_of(file)) add_pieces(document, *model.tokenizer, window, !file.ends_with(".jsonl"), out);
    } catch (const DataError& e) {
      const std::string what = e.what();
      throw DataError(what.starts_with(file) ? what : file + ": " + what);
    }
  }
  if (order.pieces > 0 && static_cast<int64_t>(out.size()) > order.pieces) out.resize(order.pieces);
  if (out.empty()) throw DataError(fmt::format("{}: no text of {} tokens or more in it", fmt::join(order.texts, ", "), kShortest));
  return out;
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
  const std::vector<Piece> pieces = pieces_of(order, model);
  const int64_t tasks = static_cast<int64_t>(pieces.size()) * t.units();
  std::vector<std::vector<KvScore>> scores(tasks);   // [piece, unit][pair]
  Progress progress("measuring", tasks, "readings");
  std::mutex told;
  int64_t done = 0;
  pool.run(tasks, [&](int64_t i) {
    if (interrupted()) throw Interrupted("interrupted; nothing was written");
    std::vector<PackPages> packings;
    for (const KvBits b : t.pairs) packings.push_back(pack_all(one_unit(t, i % t.units(), b)));
    scores[i] = score_packings(cached, order.cache, pieces[i / t.units()], packings);
    const std::lock_guard lock(told);
    progress.update(++done);
  });
  int64_t tokens = 0;
  for (const Piece& p : pieces) tokens += static_cast<int64_t>(p.size());
  for (int64_t i = 0; i < tasks; ++i)
    for (size_t p = 0; p < t.pairs.size(); ++p)
      t.kl[i % t.units()][p] += std::max(0.0, scores[i][p].kl) * static_cast<double>(scores[i][p].tokens) / static_cast<double>(tokens);
  const at::Tensor& flat = model.transformer->flat();
  std::string texts;
  for (const std::string& file : order.texts) texts += (texts.empty() ? "" : " ") + hash_file(file);
  t.measured = {{"model_hash", hash_bytes({static_cast<const char*>(flat.data_ptr()), static_cast<size_t>(flat.nbytes())})},
                {"cache", yaml_of(order.cache)}, {"texts", texts}, {"tokens", std::to_string(tokens)}};
  return t;
}

}  // namespace trimtab
