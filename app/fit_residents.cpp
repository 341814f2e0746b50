// `trimtab fit residents`: which adapters to keep resident, and who answers what, from quality tables (`trimtab record adapters`), as JSON for a
// router outside of trimtab (examples/adapter_router).
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>

#include "app/document.h"
#include "app/fit.h"
#include "core/error.h"
#include "core/files.h"
#include "core/text.h"
#include "envs/adapter_route/resident_set.h"
#include "envs/adapter_route/tables.h"

namespace trimtab {
namespace {

using nlohmann::json;

struct Task {
  int64_t prompts = 0;
  std::vector<double> embedding, quality;   // means: of unit vectors; [N + 1]
};

struct Tables {
  std::vector<std::string> models;     // adapters, then "" for the base model
  std::map<std::string, Task> tasks;
};

void add_rows(const Recording& table, const RecordedEpisode& e, Task& task) {
  const int64_t width = table.columns.at("embedding").width(), models = table.columns.at("quality").width();
  const std::span<const float> embeddings = table.f32("embedding", width), qualities = table.f32("quality", models);
  task.embedding.resize(width), task.quality.resize(models), task.prompts += e.rows;
  for (int64_t r = e.first; r < e.first + e.rows; ++r) {
    double square = 0;
    for (int64_t i = 0; i < width; ++i) square += static_cast<double>(embeddings[r * width + i]) * embeddings[r * width + i];
    for (int64_t i = 0; i < width; ++i) task.embedding[i] += embeddings[r * width + i] / std::sqrt(square);
    for (int64_t a = 0; a < models; ++a) task.quality[a] += qualities[r * models + a];
  }
}

Tables read_tables(const std::vector<std::string>& files) {
  recorded_qualities(files);   // refuses what is no table, and tables that differ
  Tables out;
  for (const std::string& file : files) {
    const Recording table = read_recording(file, "adapter_route");
    std::vector<std::string> models = split(table.fact("adapters"), ' ');
    models.emplace_back();
    if (std::ssize(models) != table.columns.at("quality").width())
      throw DataError(fmt::format("{}: names {} adapters for a table of {}", file, models.size() - 1, table.columns.at("quality").width() - 1));
    if (!out.models.empty() && models != out.models) throw DataError(fmt::format("{}: its adapters are not those of {}, or in another order: record them alike", file, files[0]));
    out.models = std::move(models);
    for (const RecordedEpisode& e : table.episodes) add_rows(table, e, out.tasks[e.labels.at("task")]);
  }
  for (auto& [name, task] : out.tasks) {
    for (double& v : task.embedding) v /= static_cast<double>(task.prompts);
    for (double& v : task.quality) v /= static_cast<double>(task.prompts);
  }
  return out;
}

// All tasks alike.
std::vector<uint8_t> residents_of(const Tables& tables, int64_t slots, double price) {
  std::vector<double> values;
  for (const auto& [name, task] : tables.tasks) values.insert(values.end(), task.quality.begin(), task.quality.end());
  const int64_t adapters = std::ssize(tables.models) - 1;
  PagingOptions room;
  room.slots = slots;
  const std::vector<double> prices(adapters, price);
  constexpr double kForLong = 1e6;   // requests of each task: what it costs to begin does not count
  return best_residents({.values = values, .prices = prices, .before = std::vector<uint8_t>(adapters), .weight = kForLong}, Paging(room, adapters));
}

// Mean quality when every task goes to the adapter of largest quality in `known`, less the price of one that is not resident.
void say(const Tables& known, const Tables& measured, const std::vector<uint8_t>& resident, double price) {
  double quality = 0, best = 0, paged = 0, tasks = 0;
  for (const auto& [name, task] : measured.tasks) {
    const auto seen = known.tasks.find(name);
    if (seen == known.tasks.end()) continue;
    const auto worth = [&](size_t a) { return seen->second.quality[a] - (a < resident.size() && !resident[a] ? price : 0); };
    size_t chosen = resident.size();
    for (size_t a = 0; a < resident.size(); ++a)
      if (worth(a) > worth(chosen)) chosen = a;
    quality += task.quality[chosen], best += *std::max_element(task.quality.begin(), task.quality.end());
    paged += chosen < resident.size() && !resident[chosen], ++tasks;
  }
  if (tasks == 0) throw DataError("the tables of --validation have none of the tasks of --data");
  fmt::print("On the validation tables, all tasks alike: quality {:.3f}, the best adapter for each task {:.3f}; {:.0f} % of tasks are worth a load\n", quality / tasks, best / tasks,
             100 * paged / tasks);
}

void fit_residents(const FitArguments& a) {
  if (a.slots < 1) throw ConfigError(fmt::format("--slots {}: give the number of adapters that can be resident, 1 or more", a.slots));
  if (!(a.price >= 0)) throw ConfigError(fmt::format("--price {}: give the quality that one load costs, 0 or more", a.price));
  const Tables train = read_tables(a.data), validation = read_tables(a.validation);
  if (validation.models != train.models) throw DataError("the tables of --validation are of other adapters than those of --data, or in another order: record them alike");
  const int64_t adapters = std::ssize(train.models) - 1, slots = std::min(a.slots, adapters);
  if (slots < a.slots) fmt::print("--slots {}: all {} adapters of the tables fit, so {} is written\n", a.slots, adapters, slots);
  const std::vector<uint8_t> resident = residents_of(train, slots, a.price);
  json out{{"format", "trimtab.residents"}, {"version", 1}, {"slots", slots}, {"price", a.price}, {"residents", json::array()}, {"tasks", json::array()}};
  out["adapters"] = std::vector<std::string>(train.models.begin(), train.models.end() - 1);
  for (size_t i = 0; i < resident.size(); ++i)
    if (resident[i]) out["residents"].push_back(train.models[i]);
  for (const auto& [name, task] : train.tasks) out["tasks"].push_back({{"name", name}, {"prompts", task.prompts}, {"centroid", task.embedding}, {"quality", task.quality}});
  write_file_atomically(a.out, document_text(out));
  say(train, validation, resident, a.price);
  fmt::print("Written: {}\n", a.out);
}

TT_REGISTER(Fit, residents,
            {.name = "residents", .doc = "which adapters to keep resident and who answers what, from quality tables", .options = {"--slots", "--price"},
             .example = "--data TABLE.safetensors --validation TABLE.safetensors --slots 4 --price 0.1 --out RESIDENTS.json", .run = fit_residents});

}  // namespace
}  // namespace trimtab
