// SGLang's --speculative-adaptive-config (sglang#21599, by batch size since #24055;
// python/sglang/srt/speculative/adaptive_spec_params.py and adaptive_step_router.py), JSON:
//   {"1": {"candidate_steps": [1, 3, 7], "ema_alpha": 0.2, "update_interval": 5, "warmup_batches": 10,
//          "up_hysteresis": 0.0, "down_hysteresis": -0.25},
//    "17": {"candidate_steps": [0, 1]}, ...}
// A key is the smallest batch size of a slot, which reaches to the next key. Settings at the top hold for the
// slots that do not have their own. The thresholds are not free: SGLang steps up from k when the accepted
// length is above k - 0.5 + up_hysteresis and down to k at or below k - 0.5 + down_hysteresis (to 0: at 0.5 +
// down_hysteresis), so tiers[i + 1].at_least is max(tiers[i].k, 1) - 0.5. Without
// --speculative-num-steps a server starts with the middle one of all slots' candidates, and a slot without it
// with its own middle one.
#include <algorithm>
#include <map>

#include "core/error.h"
#include "domain/draft_schedule/schedule_format_functions.h"
#include "domain/kv_recipe/recipe_json.h"

namespace trimtab {
namespace {

const std::vector<std::string>& settings() {
  static const std::vector<std::string> keys = {"ema_alpha",     "update_interval", "warmup_batches",
                                                "up_hysteresis", "down_hysteresis", "ceiling_coeff"};
  return keys;
}

double threshold_above(int64_t k) { return static_cast<double>(std::max<int64_t>(k, 1)) - 0.5; }

std::vector<int64_t> steps_of(const DraftEntry& e) {
  if (!e.adaptive) return {e.k};
  std::vector<int64_t> out;
  for (const AdaptiveDraft::Tier& t : e.adaptive->tiers) out.push_back(t.k);
  return out;
}

// Where every slot starts when the server is given no --speculative-num-steps.
std::vector<int64_t> first_steps(const std::vector<DraftEntry>& entries) {
  std::vector<int64_t> all;
  for (const DraftEntry& e : entries) {
    for (const int64_t step : steps_of(e)) all.push_back(step);
  }
  std::sort(all.begin(), all.end());
  all.erase(std::unique(all.begin(), all.end()), all.end());
  const int64_t common = all[all.size() / 2];
  std::vector<int64_t> out;
  for (const DraftEntry& e : entries) {
    const std::vector<int64_t> steps = steps_of(e);
    const bool has = std::find(steps.begin(), steps.end(), common) != steps.end();
    out.push_back(has ? common : steps[steps.size() / 2]);
  }
  return out;
}

void check_thresholds(const DraftEntry& e) {
  const std::vector<AdaptiveDraft::Tier>& tiers = e.adaptive->tiers;
  for (size_t i = 1; i < tiers.size(); ++i) {
    const double expected = threshold_above(tiers[i - 1].k);
    if (tiers[i].at_least != expected)
      cannot_schedule("sglang",
                      fmt::format("from k = {} to {} at {} accepted tokens, at {}", tiers[i - 1].k,
                                  tiers[i].k, tiers[i].at_least, shown_batches(e)),
                      fmt::format("SGLang steps at {}: choose that, and move it by the margins", expected));
  }
}

// One setting of a slot, its own or that of the top.
class SlotSettings {
 public:
  SlotSettings(const RecipeJson& top, const RecipeJson& slot) : top_(top), slot_(slot) {}

  AdaptiveDraft read() const {
    AdaptiveDraft out;  // SGLang's own defaults
    if (const auto ema = find("ema_alpha")) {
      out.ema = ema->number();
      if (!(out.ema > 0 && out.ema <= 1))
        ema->fail(fmt::format("expected a number above 0 and up to 1, found {}", out.ema));
    }
    out.interval = count("update_interval", out.interval, 1);
    out.warm_up = count("warmup_batches", out.warm_up, 0);
    out.rise_margin = margin("up_hysteresis", out.rise_margin);
    out.drop_margin = 0.0 - margin("down_hysteresis", -out.drop_margin);  // 0.0 - 0.0 is no -0.0
    if (const auto ceiling = find("ceiling_coeff"); ceiling && ceiling->number() != 0)
      ceiling->fail(
          fmt::format("{}: a ceiling on top of the tiers has no place in a draft schedule; set it to 0",
                      ceiling->number()));
    return out;
  }

 private:
  std::optional<RecipeJson> find(const std::string& key) const {
    const auto own = slot_.find(key);
    return own ? own : top_.find(key);
  }
  int64_t count(const std::string& key, int64_t fallback, int64_t low) const {
    const auto json = find(key);
    if (!json) return fallback;
    const int64_t value = json->integer(), high = int64_t{1} << 30;
    if (value < low || value > high)
      json->fail(fmt::format("expected a whole number from {} to {}, found {}", low, high, value));
    return value;
  }
  double margin(const std::string& key, double fallback) const {
    const auto json = find(key);
    if (!json) return fallback;
    const double value = json->number(), most = DraftSchedule::kMost;
    if (!(value >= -most && value <= most))
      json->fail(fmt::format("expected a number from {} to {}, found {}", -most, most, value));
    return value;
  }
  const RecipeJson& top_;
  const RecipeJson& slot_;
};

DraftEntry read_slot(const RecipeJson& top, const RecipeJson& slot, int64_t most) {
  std::vector<std::string> known = settings();
  known.insert(known.begin(), "candidate_steps");
  slot.only_keys(known);
  const RecipeJson steps = slot.at("candidate_steps");
  if (steps.size() < 1 || steps.size() > static_cast<size_t>(DraftSchedule::kMostTiers))
    steps.fail(fmt::format("{} candidates; expected 1 to {}", steps.size(), DraftSchedule::kMostTiers));
  AdaptiveDraft adaptive = SlotSettings(top, slot).read();
  for (size_t i = 0; i < steps.size(); ++i) {
    const int64_t k = steps.element(i).integer(), above = i == 0 ? -1 : adaptive.tiers.back().k;
    if (k <= above || k > most)
      steps.element(i).fail(fmt::format(
          "expected rising steps from 0 to {}, the most that the schedule beside it declares, found {}", most,
          k));
    adaptive.tiers.push_back({i == 0 ? 0 : threshold_above(above), k});
  }
  DraftEntry out;
  out.k = adaptive.tiers[0].k;  // of several, set when all slots are known
  if (adaptive.tiers.size() > 1) out.adaptive = adaptive;
  return out;
}

// The slots by their smallest batch size; JSON objects have no order.
std::map<int64_t, RecipeJson> slots_of(const RecipeJson& json) {
  std::map<int64_t, RecipeJson> out;
  for (const auto& [key, value] : json.object().items()) {
    if (key == "strategy" || std::find(settings().begin(), settings().end(), key) != settings().end())
      continue;
    if (key == "candidate_steps")
      json.fail(
          "'candidate_steps' at the top is the form before sglang#24055; put the whole under the key \"1\"");
    const auto batch = whole_number(key, DraftSchedule::kMostBatch);
    if (!batch || *batch < 1)
      json.fail(fmt::format("the key '{}' is neither a batch size from 1 to {} nor a setting", printable(key),
                            DraftSchedule::kMostBatch));
    out.emplace(*batch, json.at(key));
  }
  if (out.empty()) json.fail("no batch size; expected at least {\"1\": {\"candidate_steps\": [...]}}");
  if (out.begin()->first != 1)
    json.fail(fmt::format("the first batch size is {}; expected 1", out.begin()->first));
  if (static_cast<int64_t>(out.size()) > DraftSchedule::kMostEntries)
    json.fail(fmt::format("{} batch sizes; expected at most {}", out.size(), DraftSchedule::kMostEntries));
  return out;
}

}  // namespace

std::string write_sglang_schedule(const DraftSchedule& schedule) {
  nlohmann::ordered_json out = nlohmann::ordered_json::object();
  const std::vector<int64_t> first = first_steps(schedule.entries);
  for (size_t i = 0; i < schedule.entries.size(); ++i) {
    const DraftEntry& e = schedule.entries[i];
    nlohmann::ordered_json slot = {{"candidate_steps", steps_of(e)}};
    if (e.adaptive) {
      check_thresholds(e);
      if (e.k != first[i])
        cannot_schedule(
            "sglang", fmt::format("a start with k = {} at {}", e.k, shown_batches(e)),
            fmt::format("SGLang starts with the middle one of the candidates: set k to {}", first[i]));
      slot["ema_alpha"] = e.adaptive->ema;
      slot["update_interval"] = e.adaptive->interval;
      slot["warmup_batches"] = e.adaptive->warm_up;
      slot["up_hysteresis"] = e.adaptive->rise_margin;
      slot["down_hysteresis"] = 0.0 - e.adaptive->drop_margin;
    }
    out[fmt::format("{}", e.first_batch)] = slot;
  }
  return out.dump(2) + "\n";
}

DraftSchedule read_sglang_schedule(const std::string& text, const std::string& file,
                                   const DraftSchedule& rest) {
  const nlohmann::json document = parse_recipe_json(text, file);
  const RecipeJson json(document, file);
  if (const auto strategy = json.find("strategy"); strategy && strategy->text() != "ema")
    strategy->fail(fmt::format("expected 'ema', found '{}': other strategies are not tables",
                               printable(strategy->text())));
  const int64_t last = rest.entries.back().last_batch;
  DraftSchedule out = rest;
  out.entries.clear();
  for (const auto& [batch, slot] : slots_of(json)) {
    if (batch > last)
      slot.fail(fmt::format(
          "the schedule that supplies the rest ends at batch size {}; give one that reaches further", last));
    DraftEntry entry = read_slot(json, slot, rest.most);
    entry.first_batch = batch;
    if (!out.entries.empty()) out.entries.back().last_batch = batch - 1;
    entry.last_batch = last;
    out.entries.push_back(entry);
  }
  const std::vector<int64_t> first = first_steps(out.entries);
  for (size_t i = 0; i < first.size(); ++i) out.entries[i].k = first[i];
  return out;
}

}  // namespace trimtab
