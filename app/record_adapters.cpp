#include "app/record_adapters.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files.h"
#include "core/recording.h"
#include "trainers/language_tools.h"

namespace trimtab {
namespace {

// How often each model is right on each task.
void show(const Recording& table) {
  const int64_t models = table.columns.at("quality").width();
  const std::span<const float> quality = table.f32("quality", models);
  fmt::print("adapters: {}, then the base model\n", table.fact("adapters"));
  for (const RecordedEpisode& e : table.episodes) {
    std::string line;
    for (int64_t a = 0; a < models; ++a) {
      double sum = 0;
      for (int64_t r = e.first; r < e.first + e.rows; ++r) sum += quality[r * models + a];
      line += fmt::format(" {:.2f}", sum / static_cast<double>(e.rows));
    }
    fmt::print("{:<16}{}\n", e.labels.at("task"), line);
  }
}

}  // namespace

int record_adapters(const AdapterRecordWords& w) {
  if (w.models.size() != 1) throw ConfigError(fmt::format("record adapters takes one base model, got {}: trimtab record adapters MODEL --adapters FOLDER... --prompts FILE --out TABLE", w.models.size()));
  if (w.adapters.empty() || w.prompts.empty() || w.out.empty()) throw ConfigError("record adapters needs --adapters FOLDER..., --prompts FILE.jsonl... and --out TABLE.safetensors");
  if (w.max_tokens < 1 || w.embedding < 1 || w.samples < 1 || w.threads < 0 || w.seed < 0) throw ConfigError("--max-tokens, --embedding and --samples must be 1 or more, --threads and --seed 0 or more");
  if (w.samples > 1 && w.temperature == 0) throw ConfigError("--samples of greedy answers are all the same: give --temperature too");
  const Recording table = language_tools("recording adapters")
                              .record_adapters({.model = {w.models[0], w.checkpoint}, .adapters = w.adapters, .prompts = w.prompts, .max_tokens = w.max_tokens, .embedding = w.embedding,
                                                .samples = w.samples, .threads = w.threads, .temperature = w.temperature, .seed = static_cast<uint64_t>(w.seed)});
  write_recording(w.out, table);
  show(table);
  fmt::print("{} prompts\nWritten: {}\n", table.rows(), w.out);
  return 0;
}

int record_embeddings(const AdapterRecordWords& w) {
  if (w.models.size() != 1) throw ConfigError(fmt::format("record embeddings takes one base model, got {}: trimtab record embeddings MODEL --prompts FILE --out REQUESTS.jsonl", w.models.size()));
  if (w.prompts.empty() || w.out.empty() || w.embedding < 1) throw ConfigError("record embeddings needs --prompts FILE.jsonl... and --out REQUESTS.jsonl; --embedding is 1 or more");
  std::string lines;
  int64_t count = 0;
  for (const EmbeddedPrompt& p : language_tools("embedding prompts").embed({.model = {w.models[0], w.checkpoint}, .prompts = w.prompts, .size = w.embedding})) {
    nlohmann::ordered_json line = {{"prompt", p.text}, {"embedding", p.embedding}};
    if (!p.task.empty()) line["category"] = p.task;
    lines += line.dump() + "\n", ++count;
  }
  write_file_atomically(w.out, lines);
  fmt::print("{} prompts\nWritten: {}\n", count, w.out);
  return 0;
}

}  // namespace trimtab
