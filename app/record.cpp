// `trimtab record TARGET --draft DRAFT --prompts FILE... --out RECORDING`: texts that a target writes, and what a draft model would propose
// everywhere in them: what controllers of the draft length are trained and evaluated on (envs/draft_length). With --commit instead of --draft it is
// the passes of a masked diffusion model (record_commitment.h), with the word `adapters` in front the quality table of a base model's adapters
// (record_adapters.h).
#include <fmt/format.h>

#include <filesystem>
#include <memory>

#include "app/command.h"
#include "app/record_adapters.h"
#include "app/record_commitment.h"
#include "core/config.h"
#include "core/recording.h"
#include "domain/tasks/prompts.h"
#include "trainers/language_tools.h"

namespace trimtab {
namespace {

struct RecordOptions {
  std::vector<std::string> words, prompts, stop, adapters;
  std::string draft, out, checkpoint = "best", draft_checkpoint = "best";
  int64_t max_tokens = 128, depth = 12, threads = 0, seed = 1;
  double temperature = -1;   // below 0: 1, and greedy for adapters
  int64_t embedding = 32, samples = 1;
  bool no_hidden = false;
  std::string commit;
  double share = 1;
  bool hidden = false;
};

// The texts that end a reply of a run, as its environment has them.
std::vector<std::string> stops_of(const RecordOptions& o) {
  if (!o.stop.empty()) return o.stop;
  const std::filesystem::path file = std::filesystem::path(o.words[0]) / "config.yaml";
  if (std::filesystem::exists(file) && Config::load(file).text("env.type", "") == "reasoning") return {"."};
  return {};
}

int record(RecordOptions o) {
  if (!o.words.empty() && (o.words[0] == "adapters" || o.words[0] == "embeddings")) {
    const AdapterRecordWords words = {{o.words.begin() + 1, o.words.end()}, o.adapters, o.prompts, o.out, o.checkpoint, o.max_tokens, o.embedding, o.samples, o.threads, o.seed, std::max(0.0, o.temperature)};
    return o.words[0] == "adapters" ? record_adapters(words) : record_embeddings(words);
  }
  if (!o.adapters.empty()) throw ConfigError("--adapters is for a table of adapters: trimtab record adapters MODEL --adapters FOLDER... --prompts FILE --out TABLE");
  if (o.temperature < 0) o.temperature = 1;
  if (!o.commit.empty()) {
    if (!o.draft.empty()) throw ConfigError("--draft records a pair of causal models, --commit a masked diffusion model: give one of them");
    if (o.prompts.empty() || o.out.empty() || o.seed < 0) throw ConfigError("record --commit needs --prompts FILE.jsonl... and --out TRACES.safetensors; --seed is 0 or more");
    return record_commitment({o.words, o.prompts, o.commit, o.out, o.share, o.hidden, static_cast<uint64_t>(o.seed)});
  }
  if (o.words.size() != 1) throw ConfigError(fmt::format("record takes one target, got {}: trimtab record TARGET --draft DRAFT --prompts FILE --out RECORDING", o.words.size()));
  if (o.draft.empty() || o.prompts.empty() || o.out.empty()) throw ConfigError("record needs --draft MODEL, --prompts FILE.jsonl... and --out RECORDING.safetensors");
  if (o.max_tokens < 1 || o.threads < 0 || o.seed < 0) throw ConfigError("--max-tokens must be 1 or more, --threads and --seed 0 or more");
  RecordOrder order{.target = {o.words[0], o.checkpoint}, .draft = {o.draft, o.draft_checkpoint}, .prompts = {}, .stop = stops_of(o), .max_tokens = o.max_tokens,
                    .depth = o.depth, .threads = o.threads, .temperature = o.temperature, .hidden = !o.no_hidden, .seed = static_cast<uint64_t>(o.seed)};
  for (const std::string& file : o.prompts)
    for (PromptLine& p : read_prompts(file)) order.prompts.push_back(std::move(p));
  const Recording recording = language_tools("recording drafts").record(order);
  write_recording(o.out, recording);
  double accepted = 0;
  const std::span<const float> first = recording.f32("accept", o.depth);
  for (int64_t r = 0; r < recording.rows(); ++r) accepted += first[r * o.depth];
  fmt::print("{} texts, {} tokens; a first drafted token is accepted with probability {:.3f}\n", recording.episodes.size(), recording.rows(),
             accepted / static_cast<double>(recording.rows()));
  fmt::print("target: {} ms for 1, 2, ... tokens; draft: {} ms\nWritten: {}\n", recording.fact("target_pass_ms"), recording.fact("draft_pass_ms"), o.out);
  return 0;
}

TT_REGISTER(Verb, record,
            {.name = "record",
             .doc = "Record what a draft model proposes in texts that a target writes, passes of a diffusion model, or how good adapters are",
             .declare = [](Arguments& a) {
               auto o = std::make_shared<RecordOptions>();
               a.words("TARGET", o->words, "the target: a run or a Hugging Face folder; `adapters MODEL`: the base model of adapters; `embeddings MODEL`: prompts for a router of them");
               a.texts("--adapters", o->adapters, "adapters MODEL: PEFT folders, or runs that trained one");
               a.integer("--embedding", o->embedding, "adapters MODEL, embeddings MODEL: numbers in a prompt's embedding (default 32)");
               a.integer("--samples", o->samples, "adapters MODEL: answers to a prompt, with --temperature (default 1)");
               a.text("--draft", o->draft, "the draft model: a run or a Hugging Face folder with the same tokenizer");
               a.texts("--prompts", o->prompts, ".jsonl files of prompts, with \"category\" if they have one");
               a.text("--out", o->out, "the recording, a safetensors file");
               a.integer("--depth", o->depth, "tokens drafted behind every position (default 12)");
               a.integer("--max-tokens", o->max_tokens, "longest text (default 128)");
               a.number("--temperature", o->temperature, "of target and draft (default 1; 0: greedy), of adapters (default 0)");
               a.texts("--stop", o->stop, "a text that ends a reply (default: as the run's environment says)");
               a.text("--commit", o->commit, "in place of --draft: TARGET is a masked diffusion model; this rule (threshold_80), run or artefact commits its first passes");
               a.number("--share", o->share, "with --commit: of the passes that are stored, drawn (default 1)");
               a.flag("--hidden", o->hidden, "with --commit: hidden states too");
               a.flag("--no-hidden", o->no_hidden, "leave out the draft's hidden states, which take most of the file");
               a.text("--checkpoint", o->checkpoint, "of a target run: best (default), latest or a step");
               a.text("--draft-checkpoint", o->draft_checkpoint, "of a draft run");
               a.integer("--seed", o->seed, "of all draws (default 1)");
               a.integer("--threads", o->threads, "threads; 0: one per core");
               return [o] { return record(*o); };
             }});

}  // namespace
}  // namespace trimtab
