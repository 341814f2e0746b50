// vLLM's --speculative-config with a batch-size schedule (vllm#32374;
// docs/features/speculative_decoding/dynamic_speculative_decoding.md, vllm/v1/spec_decode/dynamic/utils.py):
//   {"method": "draft_model", "model": "...", "num_speculative_tokens": 4,
//    "num_speculative_tokens_per_batch_size": [[1, 16, 4], ...]}
// vLLM fills holes with the K before them and sorts what is unsorted; here both are refused, as a file that
// relies on that says something else than it seems to.
#include "core/error.h"
#include "domain/draft_schedule/schedule_format_functions.h"
#include "domain/kv_recipe/recipe_json.h"

namespace trimtab {
namespace {

constexpr const char* kTable = "num_speculative_tokens_per_batch_size";

int64_t bounded(const RecipeJson& json, int64_t low, int64_t high) {
  const int64_t value = json.integer();
  if (value < low || value > high)
    json.fail(fmt::format("expected a whole number from {} to {}, found {}", low, high, value));
  return value;
}

DraftEntry read_range(const RecipeJson& json, int64_t most, int64_t first, int64_t k_before) {
  if (json.size() != 3)
    json.fail(
        fmt::format("expected [first batch size, last batch size, k], found a list of {}", json.size()));
  const int64_t found = bounded(json.element(0), 1, DraftSchedule::kMostBatch);
  if (found < first)
    json.fail(
        fmt::format("begins at batch size {}, which the entries before it have; expected {}", found, first));
  if (found > first && first == 1)
    json.fail(fmt::format("begins at batch size {}; the first entry begins at 1", found));
  if (found > first)
    json.fail(fmt::format("a hole before batch size {}: vLLM keeps K={} there; write it out from {} on",
                          found, k_before, first));
  DraftEntry out;
  out.first_batch = found;
  out.last_batch = bounded(json.element(1), found, DraftSchedule::kMostBatch);
  out.k = bounded(json.element(2), 0, most);
  return out;
}

}  // namespace

std::string write_vllm_schedule(const DraftSchedule& schedule) {
  check_plain_schedule(schedule, "vllm");
  nlohmann::ordered_json table = nlohmann::ordered_json::array();
  for (const DraftEntry& e : schedule.entries)
    table.push_back(nlohmann::ordered_json::array({e.first_batch, e.last_batch, e.k}));
  const nlohmann::ordered_json document = {{"method", "draft_model"},
                                           {"model", schedule.models.draft_source},
                                           {"num_speculative_tokens", schedule.most},
                                           {kTable, table}};
  return document.dump() + "\n";
}

DraftSchedule read_vllm_schedule(const std::string& text, const std::string& file,
                                 const DraftSchedule& rest) {
  const nlohmann::json document = parse_recipe_json(text, file);
  const RecipeJson json(document, file);
  json.only_keys({"method", "model", "num_speculative_tokens", kTable});
  const RecipeJson method = json.at("method");
  if (method.text() != "draft_model")
    method.fail(fmt::format("'{}' is not a draft model; expected 'draft_model'", printable(method.text())));
  DraftSchedule out = rest;
  out.models.draft_source = json.at("model").text();
  if (out.models.draft_source.empty())
    json.at("model").fail("is empty; expected what the draft model is loaded from");
  out.most = bounded(json.at("num_speculative_tokens"), 1, DraftSchedule::kMost);
  const RecipeJson table = json.at(kTable);
  if (table.size() < 1 || table.size() > static_cast<size_t>(DraftSchedule::kMostEntries))
    table.fail(fmt::format("{} entries; expected 1 to {}", table.size(), DraftSchedule::kMostEntries));
  out.entries.clear();
  for (size_t i = 0; i < table.size(); ++i) {
    const int64_t first = i == 0 ? 1 : out.entries.back().last_batch + 1,
                  k_before = i == 0 ? 0 : out.entries.back().k;
    out.entries.push_back(read_range(table.element(i), out.most, first, k_before));
  }
  return out;
}

}  // namespace trimtab
