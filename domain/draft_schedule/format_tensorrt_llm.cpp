// TensorRT-LLM's draft_len_schedule (TensorRT-LLM#10860, for two-model draft/target #12262;
// tensorrt_llm/llmapi/llm_args.py), YAML:
//   speculative_config:
//     decoding_type: DraftTarget
//     max_draft_len: 4
//     speculative_model: "..."
//     draft_len_schedule: {4: 4, 8: 2, 32: 1}      batch sizes 1-4: 4 tokens, 5-8: 2, 9-32: 1, none above
// The draft length of the first key must be max_draft_len, and no other may exceed it. What stands beside
// speculative_config in the file concerns others and is not looked at.
#include <algorithm>

#include "core/config.h"
#include "core/error.h"
#include "domain/draft_schedule/schedule_format_functions.h"
#include "domain/kv_recipe/recipe_json.h"

namespace trimtab {
namespace {

const std::vector<std::string>& known_keys() {
  static const std::vector<std::string> keys = {"decoding_type", "max_draft_len", "speculative_model",
                                                "speculative_model_dir", "draft_len_schedule"};
  return keys;
}

class TensorRtReader {
 public:
  explicit TensorRtReader(const Config& yaml) : yaml_(yaml) {}

  DraftSchedule read(const DraftSchedule& rest) const {
    if (!yaml_.has("speculative_config")) yaml_.fail("speculative_config", "is missing");
    const Config block = yaml_.at("speculative_config");
    for (const std::string& key : block.keys()) {
      if (std::find(known_keys().begin(), known_keys().end(), key) == known_keys().end())
        block.fail("", unknown_key(key, known_keys()));
    }
    const std::string type = needed(block, "decoding_type");
    if (type != "DraftTarget")
      block.fail("decoding_type", fmt::format("expected DraftTarget, got '{}'", printable(type)));
    DraftSchedule out = rest;
    out.models.draft_source = source(block);
    out.most = number(block, "max_draft_len", needed(block, "max_draft_len"), 1, DraftSchedule::kMost);
    out.entries = entries(block, out.most);
    return out;
  }

 private:
  static std::string needed(const Config& block, const std::string& key) {
    if (!block.has(key)) block.fail(key, "is missing");
    return block.text(key, "");
  }
  static int64_t number(const Config& block, const std::string& path, const std::string& text, int64_t low,
                        int64_t high) {
    const auto value = whole_number(text, high);
    if (!value || *value < low)
      block.fail(path,
                 fmt::format("expected a whole number from {} to {}, got '{}'", low, high, printable(text)));
    return *value;
  }
  static std::string source(const Config& block) {
    const bool alias = block.has("speculative_model_dir");
    if (alias && block.has("speculative_model"))
      block.fail("speculative_model_dir", "is another name of speculative_model; remove one");
    const std::string text = needed(block, alias ? "speculative_model_dir" : "speculative_model");
    if (text.empty())
      block.fail(alias ? "speculative_model_dir" : "speculative_model",
                 "is empty; expected what the draft model is loaded from");
    return text;
  }
  static std::vector<DraftEntry> entries(const Config& block, int64_t most) {
    if (!block.has("draft_len_schedule")) block.fail("draft_len_schedule", "is missing");
    const Config table = block.at("draft_len_schedule");
    const std::vector<std::string> keys = table.keys();
    if (keys.empty() || static_cast<int64_t>(keys.size()) > DraftSchedule::kMostEntries)
      table.fail("", fmt::format("{} entries; expected 1 to {}", keys.size(), DraftSchedule::kMostEntries));
    std::vector<DraftEntry> out;
    for (const std::string& key : keys) {
      DraftEntry e;
      e.first_batch = out.empty() ? 1 : out.back().last_batch + 1;
      e.last_batch = number(table, "", key, 1, DraftSchedule::kMostBatch);
      if (e.last_batch < e.first_batch)
        table.fail(key, fmt::format("batch sizes must rise: {} after {}", e.last_batch, e.first_batch - 1));
      e.k = number(table, key, table.text(key, ""), 0, most);
      if (out.empty() && e.k != most)
        table.fail(
            key, fmt::format("the draft length of the smallest batch sizes must be max_draft_len, {}, got {}",
                             most, e.k));
      out.push_back(e);
    }
    return out;
  }
  const Config& yaml_;
};

}  // namespace

std::string write_tensorrt_llm_schedule(const DraftSchedule& schedule) {
  check_plain_schedule(schedule, "tensorrt_llm");
  const DraftEntry& first = schedule.entries.front();
  if (first.k != schedule.most)
    cannot_schedule("tensorrt_llm",
                    fmt::format("k = {} at {}, while the longest draft is {}", first.k, shown_batches(first),
                                schedule.most),
                    "it takes the longest draft for the smallest batch sizes: make these equal");
  std::string out = fmt::format(
      "speculative_config:\n  decoding_type: DraftTarget\n  max_draft_len: {}\n  speculative_model: {}\n  "
      "draft_len_schedule:\n",
      schedule.most, nlohmann::json(schedule.models.draft_source).dump());  // JSON's quotes are YAML's
  for (const DraftEntry& e : schedule.entries) out += fmt::format("    {}: {}\n", e.last_batch, e.k);
  return out;
}

DraftSchedule read_tensorrt_llm_schedule(const std::string& text, const std::string& file,
                                         const DraftSchedule& rest) {
  try {
    const Config yaml = Config::parse(text, file);
    return TensorRtReader(yaml).read(rest);
  } catch (const ConfigError& error) {
    throw DataError(error.what());  // a file that somebody made, not the user's configuration
  }
}

}  // namespace trimtab
