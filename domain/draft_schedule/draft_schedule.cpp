#include "domain/draft_schedule/draft_schedule.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/files.h"
#include "core/text.h"
#include "domain/kv_recipe/recipe_json.h"

namespace trimtab {
namespace {

constexpr size_t kLongestText = 1000;
constexpr int64_t kMostVocabulary = int64_t{1} << 31, kMostRounds = int64_t{1} << 30;
constexpr double kMostTokensPerSecond = 1e12;

bool is_hex_hash(const std::string& text) {
  const auto hex = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
  return text.size() >= 8 && text.size() <= 128 && std::all_of(text.begin(), text.end(), hex);
}

// Checks one after the other, each with its place in the file.
class ScheduleChecker {
 public:
  ScheduleChecker(const DraftSchedule& schedule, const std::string& what) : s_(schedule), what_(what) {}

  void check() const {
    text("/name", s_.name);
    text("/created_by", s_.created_by);
    hash("/models/draft", s_.models.draft_hash);
    hash("/models/target", s_.models.target_hash);
    range("/models/vocabulary", s_.models.vocabulary, 1, kMostVocabulary);
    text("/models/draft_source", s_.models.draft_source);
    range("/most", s_.most, 1, DraftSchedule::kMost);
    const auto count = static_cast<int64_t>(s_.entries.size());
    if (count < 1 || count > DraftSchedule::kMostEntries)
      fail("/entries", fmt::format("{} entries; expected 1 to {}", count, DraftSchedule::kMostEntries));
    for (int64_t i = 0; i < count; ++i)
      entry(fmt::format("/entries/{}", i), s_.entries[i], i == 0 ? 1 : s_.entries[i - 1].last_batch + 1);
  }

 private:
  [[noreturn]] void fail(const std::string& place, const std::string& fault) const {
    throw DataError(fmt::format("{}: {}: {}", what_, place, fault));
  }
  void range(const std::string& place, int64_t value, int64_t low, int64_t high) const {
    if (value < low || value > high)
      fail(place, fmt::format("expected a whole number from {} to {}, found {}", low, high, value));
  }
  void number(const std::string& place, double value, double low, double high) const {
    if (!(value >= low && value <= high))
      fail(place, fmt::format("expected a number from {} to {}, found {}", low, high, value));
  }
  void text(const char* place, const std::string& text) const {
    const bool control = std::any_of(
        text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7F; });
    if (text.size() > kLongestText || control || !is_utf8(text))
      fail(place, fmt::format("expected one line of UTF-8, at most {} bytes", kLongestText));
  }
  void hash(const char* place, const std::string& hash) const {
    if (!is_hex_hash(hash))
      fail(place, fmt::format("expected 8 to 128 lower-case hex digits, found '{}'", printable(hash)));
  }
  void draft_length(const std::string& place, int64_t k) const {
    if (k < 0 || k > s_.most)
      fail(place,
           fmt::format("expected a draft length from 0 to {}, which /most declares, found {}", s_.most, k));
  }
  void entry(const std::string& place, const DraftEntry& e, int64_t expected_first) const {
    if (e.first_batch != expected_first)
      fail(place + "/batch/0",
           fmt::format("{} at batch size {}: expected {}, found {}",
                       e.first_batch > expected_first ? "a hole" : "an overlap",
                       std::min(expected_first, e.first_batch), expected_first, e.first_batch));
    range(place + "/batch/1", e.last_batch, e.first_batch, DraftSchedule::kMostBatch);
    draft_length(place + "/k", e.k);
    if (e.tokens_per_s) number(place + "/tokens_per_s", *e.tokens_per_s, 0, kMostTokensPerSecond);
    if (e.adaptive) adaptive(place + "/adaptive", *e.adaptive, place, e.k);
  }
  void adaptive(const std::string& place, const AdaptiveDraft& a, const std::string& entry_place,
                int64_t start) const {
    if (!(a.ema > 0 && a.ema <= 1))
      fail(place + "/ema", fmt::format("expected a number above 0 and up to 1, found {}", a.ema));
    range(place + "/warm_up", a.warm_up, 0, kMostRounds);
    range(place + "/interval", a.interval, 1, kMostRounds);
    number(place + "/rise_margin", a.rise_margin, -DraftSchedule::kMost, DraftSchedule::kMost);
    number(place + "/drop_margin", a.drop_margin, -DraftSchedule::kMost, DraftSchedule::kMost);
    const auto count = static_cast<int64_t>(a.tiers.size());
    if (count < 2 || count > DraftSchedule::kMostTiers)
      fail(place + "/tiers",
           fmt::format("{} tiers; expected 2 to {} (one draft length needs no tiers: leave 'adaptive' out)",
                       count, DraftSchedule::kMostTiers));
    for (int64_t i = 0; i < count; ++i)
      tier(fmt::format("{}/tiers/{}", place, i), a.tiers[i], i == 0 ? nullptr : &a.tiers[i - 1]);
    if (std::none_of(a.tiers.begin(), a.tiers.end(),
                     [&](const AdaptiveDraft::Tier& t) { return t.k == start; }))
      fail(entry_place + "/k", fmt::format("{} is the draft length of no tier; start at one of them", start));
  }
  void tier(const std::string& place, const AdaptiveDraft::Tier& t, const AdaptiveDraft::Tier* below) const {
    draft_length(place + "/1", t.k);
    if (below == nullptr) {
      if (t.at_least != 0)
        fail(place + "/0", fmt::format("the lowest tier begins at 0, found {}", t.at_least));
      return;
    }
    if (t.k <= below->k)
      fail(place + "/1",
           fmt::format("draft lengths must rise from tier to tier: expected more than {}, found {}", below->k,
                       t.k));
    if (!(t.at_least >= below->at_least))
      fail(place + "/0",
           fmt::format("tiers must not fall: expected at least {}, found {}", below->at_least, t.at_least));
    // With k = 0 nothing is accepted that could lead up: a consumer tries the next tier from time to time.
    const int64_t most = std::max<int64_t>(1, below->k);
    if (!(t.at_least <= static_cast<double>(most)))
      fail(place + "/0",
           fmt::format("cannot be reached: the tier below accepts at most {} tokens per round, found {}",
                       most, t.at_least));
  }
  const DraftSchedule& s_;
  const std::string& what_;
};

DraftSchedule::Models read_models(const RecipeJson& json) {
  json.only_keys({"draft", "target", "vocabulary", "draft_source"});
  DraftSchedule::Models out{
      json.at("draft").text(), json.at("target").text(), json.at("vocabulary").integer(), {}};
  if (const auto source = json.find("draft_source")) out.draft_source = source->text();
  return out;
}

AdaptiveDraft read_adaptive(const RecipeJson& json) {
  json.only_keys({"ema", "warm_up", "interval", "rise_margin", "drop_margin", "tiers"});
  AdaptiveDraft out;
  out.ema = json.at("ema").number();
  out.warm_up = json.at("warm_up").integer();
  out.interval = json.at("interval").integer();
  out.rise_margin = json.at("rise_margin").number();
  out.drop_margin = json.at("drop_margin").number();
  const RecipeJson tiers = json.at("tiers");
  for (size_t i = 0; i < tiers.size(); ++i) {
    const RecipeJson tier = tiers.element(i);
    if (tier.size() != 2)
      tier.fail(
          fmt::format("expected [accepted tokens at least, draft length], found a list of {}", tier.size()));
    out.tiers.push_back({tier.element(0).number(), tier.element(1).integer()});
  }
  return out;
}

DraftEntry read_entry(const RecipeJson& json) {
  json.only_keys({"batch", "k", "tokens_per_s", "adaptive"});
  const RecipeJson batch = json.at("batch");
  if (batch.size() != 2)
    batch.fail(fmt::format("expected [first batch size, last batch size], found a list of {}", batch.size()));
  DraftEntry out;
  out.first_batch = batch.element(0).integer();
  out.last_batch = batch.element(1).integer();
  out.k = json.at("k").integer();
  if (const auto rate = json.find("tokens_per_s")) out.tokens_per_s = rate->number();
  if (const auto adaptive = json.find("adaptive")) out.adaptive = read_adaptive(*adaptive);
  return out;
}

using OrderedJson = nlohmann::ordered_json;

OrderedJson entry_json(const DraftEntry& e) {
  OrderedJson out = {{"batch", OrderedJson::array({e.first_batch, e.last_batch})}, {"k", e.k}};
  if (e.tokens_per_s) out["tokens_per_s"] = *e.tokens_per_s;
  if (!e.adaptive) return out;
  const AdaptiveDraft& a = *e.adaptive;
  OrderedJson tiers = OrderedJson::array();
  for (const AdaptiveDraft::Tier& t : a.tiers) tiers.push_back(OrderedJson::array({t.at_least, t.k}));
  out["adaptive"] = {{"ema", a.ema},
                     {"warm_up", a.warm_up},
                     {"interval", a.interval},
                     {"rise_margin", a.rise_margin},
                     {"drop_margin", a.drop_margin},
                     {"tiers", tiers}};
  return out;
}

// Without the entries, which are written one a line so that two schedules can be compared line by line.
OrderedJson facts_json(const DraftSchedule& s) {
  OrderedJson out = {{"draft_schedule_version", DraftSchedule::kVersion}};
  if (!s.name.empty()) out["name"] = s.name;
  if (!s.created_by.empty()) out["created_by"] = s.created_by;
  out["models"] = {
      {"draft", s.models.draft_hash}, {"target", s.models.target_hash}, {"vocabulary", s.models.vocabulary}};
  if (!s.models.draft_source.empty()) out["models"]["draft_source"] = s.models.draft_source;
  out["most"] = s.most;
  return out;
}

std::string shown(const std::string& draft_hash, const std::string& target_hash, int64_t vocabulary) {
  const auto name = [](const std::string& hash) { return hash.empty() ? "unknown" : printable(hash, 128); };
  return fmt::format("draft {}, target {}, {} tokens", name(draft_hash), name(target_hash), vocabulary);
}

void check_size(const std::string& file, uintmax_t bytes) {
  if (bytes > DraftSchedule::kMaxBytes)
    throw DataError(
        fmt::format("{}: {} bytes; a draft schedule has at most {}", file, bytes, DraftSchedule::kMaxBytes));
}

}  // namespace

const DraftEntry& DraftSchedule::at(int64_t batch) const {
  TT_CHECK(batch >= 1 && !entries.empty(), "batch size {} of a schedule of {} entries", batch,
           entries.size());
  const auto found = std::lower_bound(entries.begin(), entries.end(), batch,
                                      [](const DraftEntry& e, int64_t b) { return e.last_batch < b; });
  return found == entries.end() ? entries.back() : *found;
}

void check_draft_schedule(const DraftSchedule& schedule, const std::string& what) {
  ScheduleChecker(schedule, what).check();
}

void check_schedule_fits(const DraftSchedule& schedule, const std::string& draft_hash,
                         const std::string& target_hash, int64_t vocabulary) {
  const DraftSchedule::Models& m = schedule.models;
  if (m.draft_hash == draft_hash && m.target_hash == target_hash && m.vocabulary == vocabulary) return;
  const std::string name = schedule.name.empty() ? "" : fmt::format(" '{}'", schedule.name);
  throw DataError(fmt::format(
      "the draft schedule{} is for other models: it was made for {}; these are {}. Measure a schedule for "
      "these models, or load the others",
      name, shown(m.draft_hash, m.target_hash, m.vocabulary), shown(draft_hash, target_hash, vocabulary)));
}

DraftSchedule parse_draft_schedule(const std::string& text, const std::string& file) {
  check_size(file, text.size());
  const nlohmann::json document = parse_recipe_json(text, file);
  const RecipeJson json(document, file);
  // The version before all else: a later one may have keys that are unknown here.
  const RecipeJson version = json.at("draft_schedule_version");
  if (version.integer() != DraftSchedule::kVersion)
    version.fail(
        fmt::format("version {}; this program reads {}", version.integer(), DraftSchedule::kVersion));
  json.only_keys({"draft_schedule_version", "name", "created_by", "models", "most", "entries"});
  DraftSchedule out;
  if (const auto name = json.find("name")) out.name = name->text();
  if (const auto maker = json.find("created_by")) out.created_by = maker->text();
  out.models = read_models(json.at("models"));
  out.most = json.at("most").integer();
  const RecipeJson entries = json.at("entries");
  for (size_t i = 0; i < entries.size(); ++i) out.entries.push_back(read_entry(entries.element(i)));
  check_draft_schedule(out, file);
  return out;
}

DraftSchedule read_draft_schedule(const std::filesystem::path& file) {
  // The size first: a device or a huge file is not worth reading.
  std::error_code error;
  const uintmax_t bytes = std::filesystem::file_size(file, error);
  if (error) throw DataError(fmt::format("{}: cannot be read: {}", file.string(), error.message()));
  check_size(file.string(), bytes);
  return parse_draft_schedule(read_file(file), file.string());
}

std::string draft_schedule_json(const DraftSchedule& schedule) {
  check_draft_schedule(schedule, "the draft schedule");
  const OrderedJson facts = facts_json(schedule);
  std::string out = "{\n";
  for (const auto& [key, value] : facts.items())
    out += fmt::format("  {}: {},\n", OrderedJson(key).dump(), value.dump());
  out += "  \"entries\": [";
  for (size_t i = 0; i < schedule.entries.size(); ++i)
    out += (i == 0 ? "\n    " : ",\n    ") + entry_json(schedule.entries[i]).dump();
  return out + "\n  ]\n}\n";
}

void write_draft_schedule(const DraftSchedule& schedule, const std::filesystem::path& file) {
  write_file_atomically(file, draft_schedule_json(schedule));
}

}  // namespace trimtab
