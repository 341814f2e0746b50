#include "app/schedule_export.h"

#include <fmt/format.h>

#include <algorithm>

#include "app/policy_agents.h"
#include "app/subject.h"
#include "core/config.h"
#include "core/files.h"
#include "core/recording.h"
#include "domain/draft_schedule/schedule_formats.h"
#include "domain/draft_schedule/schedule_loss.h"
#include "envs/draft_length/draft_length.h"

namespace trimtab {
namespace {

namespace fs = std::filesystem;

constexpr double kPerSecond = 1000;   // tokens per ms as tokens per s

std::string recording_of(const ScheduleExportRequest& request) {
  if (!request.recording.empty()) return request.recording;
  for (const TrainingFile& file : training_manifest(request.run))
    if (file.split == "train") return file.file;
  throw ConfigError(fmt::format("{}: does not say what it was trained on; name a recording with --table", request.run));
}

// Every fixed length at every batch size of the run, and beside it what the network reaches.
DraftRates measure_rates(const DraftLength& env, AgentFunction& network) {
  DraftRates rates;
  rates.lengths = env.most_drafted() + 1;
  fmt::print("{:>8} {:>12} {:>8} {:>12}   tokens/s of the whole batch\n", "batch", "network", "length", "fixed");
  for (int64_t batch = env.options().low_batch; batch <= env.options().high_batch; batch *= 2) {
    rates.batches.push_back(batch);
    const double whole = static_cast<double>(batch) * kPerSecond;
    for (int64_t k = 0; k < rates.lengths; ++k) rates.tokens_per_s.push_back(env.fixed_rate(k, batch) * whole);
    const int64_t best = std::max_element(rates.tokens_per_s.end() - rates.lengths, rates.tokens_per_s.end()) - (rates.tokens_per_s.end() - rates.lengths);
    const double fixed = *(rates.tokens_per_s.end() - rates.lengths + best), learned = env.controller_rate(network, batch) * whole;
    fmt::print("{:>8} {:>12.4g} {:>8} {:>12.4g}   a table loses {:.1f} %\n", batch, learned, best, fixed, 100 * (1 - fixed / learned));
  }
  return rates;
}

// Half the length, the length and twice it: what a server that follows acceptance may move among, from the middle.
AdaptiveDraft tiers_around(int64_t k, int64_t most) {
  AdaptiveDraft out;
  std::vector<int64_t> lengths = {std::max<int64_t>(1, k / 2), k, std::min(most, 2 * k)};
  lengths.erase(std::unique(lengths.begin(), lengths.end()), lengths.end());
  for (const int64_t length : lengths) out.tiers.push_back({out.tiers.empty() ? 0 : static_cast<double>(out.tiers.back().k) - 0.5, length});
  return out;
}

std::string fact_or(const Recording& r, const std::string& name, const std::string& otherwise) { return r.facts.contains(name) ? r.facts.at(name) : otherwise; }

}  // namespace

DraftSchedule schedule_of_run(const ScheduleExportRequest& request) {
  check_run_folder(request.run);
  const Config config = Config::load(fs::path(request.run) / "config.yaml");
  if (config.text("env.type", "") != "draft_length")
    throw ConfigError(fmt::format("{}: a draft schedule comes from a run of draft_length; this run's policies are exported with --to ttc,header", request.run));
  const DraftLengthOptions options = draft_length_options(config.at("env"));
  const std::string file = recording_of(request);
  const DraftLength env(options, open_drafts(options, {file}));
  const auto agents = policy_agents(request.run, request.checkpoint)();
  const DraftRates rates = measure_rates(env, *agents.begin()->second);
  const Recording recording = read_recording(file, "draft_length");
  DraftSchedule out;
  out.name = fs::path(request.run).filename().string(), out.created_by = "trimtab";
  out.models = {recording.fact("draft"), recording.fact("target"), std::stoll(recording.fact("vocabulary")), fact_or(recording, "draft_source", "")};
  out.most = env.most_drafted();
  out.entries = best_schedule(rates, request.most_entries);
  fmt::print("As a table of {} {} it {}\n", out.entries.size(), out.entries.size() == 1 ? "entry" : "entries", schedule_loss_text(schedule_loss(rates, out)));
  check_draft_schedule(out, file);
  return out;
}

std::vector<std::string> schedule_forms() {
  std::vector<std::string> out = {"schedule"};
  for (const DraftScheduleFormat& format : draft_schedule_formats()) out.push_back(format.name);
  return out;
}

std::string schedule_text(const DraftSchedule& schedule, const std::string& form) {
  if (form == "schedule") return draft_schedule_json(schedule);
  DraftSchedule asked = schedule;
  if (form == "sglang")   // its file is about tiers
    for (DraftEntry& e : asked.entries)
      if (e.k > 0) e.adaptive = tiers_around(e.k, schedule.most);
  if (form == "tensorrt_llm" && !asked.entries.empty()) asked.most = std::max<int64_t>(1, asked.entries[0].k);   // its first length is the longest it prepares for
  return write_draft_format(form, asked);
}

void write_schedule_form(const DraftSchedule& schedule, const std::string& form, const fs::path& folder) {
  const fs::path file = folder / (form == "schedule" ? "schedule.json" : "schedule." + form);
  write_file_atomically(file, schedule_text(schedule, form));
  fmt::print("Written: {}\n", file.string());
  if (form == "schedule") return;
  std::string use = draft_schedule_format(form).use;
  if (const size_t at = use.find("FILE"); at != std::string::npos) use.replace(at, 4, file.string());
  fmt::print("  {}\n", use);
}

}  // namespace trimtab
