// `trimtab train CONFIG [a.b=c...] [--seeds A..B]`: one configuration, one run folder per seed.
#include "trainers/train.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "app/command.h"
#include "app/document.h"
#include "app/statistics.h"
#include "core/files.h"
#include "core/launch.h"
#include "core/run_folder.h"

namespace trimtab {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kSummaryName = "summary.json";  // of a finished run

struct TrainOptions {
  std::vector<std::string> words;
  std::string seeds, out;
  bool fresh = false, dry_run = false;
};

struct SeedRange {
  int64_t first = 0, last = 0;
};

SeedRange parse_seeds(const std::string& text) {
  SeedRange out;
  const size_t dots = text.find("..");
  const char *begin = text.data(), *middle = begin + std::min(dots, text.size()), *end = begin + text.size();
  const bool left = std::from_chars(begin, middle, out.first).ptr == middle && middle != begin;
  const char* right_start = dots == std::string::npos ? begin : middle + 2;
  const bool right = std::from_chars(right_start, end, out.last).ptr == end && right_start != end;
  if (!left || !right || out.first < 0 || out.last < out.first)
    throw ConfigError(fmt::format("--seeds {}: expected A..B with 0 <= A <= B, such as 1..5", text));
  return out;
}

// Every data file with its hash: what an evaluation compares with to refuse what training saw.
json data_manifest(const Config& config) {
  json out = json::array();
  for (const char* split : {"train", "validation"}) {
    const std::string path = std::string("data.") + split;
    for (size_t i = 0; i < config.list(path).size(); ++i) {
      const std::string file = config.text(fmt::format("{}.{}", path, i), "");
      if (!fs::exists(file))
        config.fail(fmt::format("{}.{}", path, i), fmt::format("there is no file '{}'", file));
      out.push_back({{"file", file}, {"hash", hash_file(file)}, {"split", split}});
    }
  }
  return out;
}

json number(double value) { return std::isfinite(value) ? json(value) : json(nullptr); }

json summary_of(const TrainResult& result, int64_t seed, const fs::path& folder) {
  return {{"seed", seed},
          {"run", folder.string()},
          {"steps", result.steps},
          {"seconds", result.seconds},
          {"steps_per_second", result.steps_per_second},
          {"last_return", number(result.last_return)},
          {"best_score", number(result.best_score)},
          {"best_step", result.best_step}};
}

// A folder that already holds the finished run of this very configuration.
bool is_done(const fs::path& folder, const std::string& resolved) {
  return fs::exists(folder / "finished") && fs::exists(folder / kSummaryName) &&
         fs::exists(folder / "config.yaml") && read_file(folder / "config.yaml") == resolved;
}

// What one rank alone does for a run: its folder, and the summary at the end.
class RunOwner {
 public:
  RunOwner(const Config& config, const fs::path& folder, const std::string& resolved, const json& data, bool fresh) : facts_(hardware_and_version()) {
    json provenance = facts_;
    provenance["data"] = data;
    const RunOptions run = RunOptions::of(config);
    opened_ = RunFolder::open(folder.empty() ? fs::path(run.out) : folder, run.name, resolved, provenance, fresh, !folder.empty());
    fmt::print("{} {}\n", opened_.resumed ? "Resuming" : "Training into", opened_.path.string());
    std::fflush(stdout);
  }
  const fs::path& path() const { return opened_.path; }
  void on_start(int64_t step) const {
    if (opened_.resumed) opened_.record_resume(step, facts_);
  }
  void finish(const json& summary, const TrainResult& result) const {
    write_file_atomically(opened_.path / kSummaryName, summary.dump(2) + "\n");
    opened_.mark_finished();
    fmt::print("Finished: {} steps in {:.1f} s ({:.0f} steps/s), best validation score {:.4f} at step {}\n", result.steps, result.seconds, result.steps_per_second,
               result.best_score, result.best_step);
  }

 private:
  json facts_;
  RunFolder opened_;
};

// Trains one configuration; `folder` names the run's folder, empty: a new one under run.out. All ranks of a run do so together, and
// the main one owns the folder.
json train_one(const Config& config, const fs::path& folder, bool fresh, Ranks& ranks) {
  const std::string resolved = resolve_config(config);
  expect_same_on_all(ranks, "configuration", resolved);
  const auto finished = [&] { return !folder.empty() && !fresh && is_done(folder, resolved) ? read_file(folder / kSummaryName) : std::string(); };
  if (const std::string summary = ranks.from_main(finished); !summary.empty()) {
    if (ranks.is_main()) fmt::print("{}: already finished with this configuration; --new trains again\n", folder.string());
    return json::parse(summary);
  }
  const json data = data_manifest(config);
  expect_same_on_all(ranks, "data", data.dump(1));
  std::optional<RunOwner> owner;
  if (ranks.is_main()) owner.emplace(config, folder, resolved, data, fresh);
  const fs::path path = ranks.from_main([&] { return owner->path().string(); });
  const TrainHooks hooks{.run_folder = path, .progress = ranks.is_main(), .score = {}, .on_start = [&](int64_t step) { owner->on_start(step); }, .on_metrics = {}, .ranks = &ranks};
  const TrainResult result = train(config, hooks);
  const json summary = summary_of(result, RunOptions::of(config).seed, path);
  if (owner) owner->finish(summary, result);
  return summary;
}

// Mean of the best validation scores with Student's interval: seeds are independent runs.
Interval score_over_seeds(const json& runs) {
  std::vector<double> scores;
  for (const json& run : runs) {
    if (run["best_score"].is_number()) scores.push_back(run["best_score"]);
  }
  const double nan = std::nan(""), n = static_cast<double>(scores.size());
  double sum = 0, square = 0;
  for (const double score : scores) sum += score;
  Interval out{.mean = scores.empty() ? nan : sum / n,
               .low = nan,
               .high = nan,
               .n = static_cast<int64_t>(scores.size())};
  if (scores.size() < 2) return out;
  for (const double score : scores) square += (score - out.mean) * (score - out.mean);
  const double half = student_t_quantile(0.975, n - 1) * std::sqrt(square / (n - 1) / n);
  out.low = out.mean - half;
  out.high = out.mean + half;
  return out;
}

int train_seeds(const Config& config, const TrainOptions& options, Ranks& ranks) {
  const SeedRange range = parse_seeds(options.seeds);
  const RunOptions run = RunOptions::of(config);
  const fs::path parent = options.out.empty() ? fs::path(run.out) : fs::path(options.out);
  json runs = json::array();
  for (int64_t seed = range.first; seed <= range.last; ++seed) {
    Config seeded = config;
    seeded.apply(fmt::format("run.seed={}", seed));
    runs.push_back(train_one(seeded, parent / fmt::format("{}-seed{}", run.name, seed), options.fresh, ranks));
  }
  if (!ranks.is_main()) return 0;
  const Interval score = score_over_seeds(runs);
  const json document = {{"name", run.name},
                         {"runs", runs},
                         {"best_score",
                          {{"mean", number(score.mean)},
                           {"low", number(score.low)},
                           {"high", number(score.high)},
                           {"n", score.n}}}};
  write_file_atomically(parent / "seeds.json", document_text(document));
  fmt::print("{} seeds: best validation score {:.4f} [{:.4f}, {:.4f}]; written: {}\n", score.n, score.mean,
             score.low, score.high, (parent / "seeds.json").string());
  return 0;
}

// Everything that can be wrong before the first update is found here too.
int show_plan(const Config& config, const TrainOptions& options) {
  resolve_config(config);
  const json data = data_manifest(config);
  fmt::print("{}", training_plan(config));
  for (const json& entry : data)
    fmt::print("data: {} ({})\n", entry["file"].get<std::string>(), entry["split"].get<std::string>());
  if (!options.seeds.empty()) {
    const SeedRange range = parse_seeds(options.seeds);
    fmt::print("seeds: {} such runs, one after the other\n", range.last - range.first + 1);
  }
  fmt::print("Dry run: nothing was trained or written.\n");
  return 0;
}

int train_verb(TrainOptions options) {
  const std::vector<std::string> overrides = take_overrides(options.words);
  if (options.words.size() != 1)
    throw ConfigError(fmt::format("train takes one configuration, got {}: trimtab train CONFIG [a.b=c...]",
                                  options.words.size()));
  Config config = Config::load(options.words[0]);
  for (const std::string& text : overrides) config.apply(text);
  if (options.dry_run) return show_plan(config, options);
  const std::unique_ptr<Ranks> several = open_ranks();
  Ranks& ranks = several ? *several : one_process();
  if (!options.seeds.empty()) return train_seeds(config, options, ranks);
  train_one(config, options.out, options.fresh, ranks);
  return 0;
}

TT_REGISTER(
    Verb, train,
    {.name = "train", .doc = "Train from a configuration; run again to resume", .declare = [](Arguments& a) {
       auto options = std::make_shared<TrainOptions>();
       a.words("CONFIG", options->words, "a YAML file, and a.b=c, +a.b=c or ~a.b to change keys");
       a.text("--seeds", options->seeds,
              "A..B: trains every seed into NAME-seedK and writes seeds.json beside them");
       a.text("--out", options->out,
              "the run's folder (with --seeds: the folder of the runs) instead of a new one under run.out");
       a.flag("--dry-run", options->dry_run,
              "check everything and print the sizes of the run; train and write nothing");
       a.flag("--new", options->fresh, "start anew instead of resuming");
       return [options] { return train_verb(*options); };
     }});

}  // namespace
}  // namespace trimtab
