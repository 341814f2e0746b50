// Drafts of a pair of models, recorded for the command (trainers/language_tools.h).
#include <ATen/Parallel.h>

#include "core/error.h"
#include "core/run_folder.h"
#include "engine/speculative/draft_recorder.h"
#include "engine/text_pieces/text_pieces.h"
#include "trainers/language/job.h"
#include "trainers/language/prompt.h"
#include "trainers/language/tools.h"

namespace trimtab {
namespace {

constexpr int64_t kMeasuredRows = 17;   // of a target's pass: 16 drafted tokens and one more

// Texts that the target writes behind the prompts.
std::vector<RecordedText> sample_texts(const RecordOrder& order, const LanguageModel& target, Pool& pool) {
  std::vector<GenerationRequest> requests;
  for (size_t i = 0; i < order.prompts.size(); ++i) {
    const PromptLine& p = order.prompts[i];
    std::vector<int32_t> ids = p.text.empty() ? p.tokens : target.tokenizer->encode(p.text, {.allow_special = true, .add_special_tokens = true});
    check_prompt(ids, order.max_tokens + order.depth, *target.transformer, p.place);
    requests.push_back({.prompt = std::move(ids), .key = i, .max_tokens = order.max_tokens});
  }
  std::vector<int32_t> stops = target.tokenizer->stop_ids();
  for (const int64_t id : target.transformer->config().eos_ids) stops.push_back(static_cast<int32_t>(id));
  const StopRules stop{stops, order.stop, target.tokenizer.get()};
  std::vector<RecordedText> out;
  for (const Completion& c : Generator(*target.transformer)
                                 .generate(requests, {.max_tokens = order.max_tokens, .temperature = order.temperature}, stop, order.seed, pool,
                                           reply_progress("writing", static_cast<int64_t>(requests.size()))))
    out.push_back({requests[c.request].prompt, c.tokens, {{"category", order.prompts[c.request].category}, {"place", order.prompts[c.request].place}}});
  return out;
}

std::string numbers(const std::vector<double>& values) { return fmt::format("{:.5g}", fmt::join(values, " ")); }

}  // namespace

Recording record_pair(const RecordOrder& order) {
  at::set_num_threads(1);   // threads are ours
  const LanguageModel target = load_model(order.target), draft = load_model(order.draft);
  Pool pool(thread_count(order.threads));
  const std::vector<RecordedText> texts = sample_texts(order, target, pool);
  DraftRecorderOptions options{.depth = order.depth, .sampling = {.temperature = order.temperature}, .hidden = order.hidden, .seed = order.seed};
  Progress progress("drafting", static_cast<int64_t>(texts.size()), "texts");
  Recording out = record_drafts(*target.transformer, *draft.transformer, texts, options, pool, [&](int64_t done) {
    if (interrupted()) throw Interrupted("interrupted; nothing was written");
    progress.update(done);
  });
  const int64_t context = texts.empty() ? 1 : static_cast<int64_t>(texts[0].prompt.size());
  out.facts = {{"producer", "trimtab record"},
               {"target", hash_of(*target.transformer)},
               {"draft", hash_of(*draft.transformer)},
               {"draft_source", order.draft.path},
               {"vocabulary", std::to_string(target.transformer->config().vocab_size)},
               {"temperature", fmt::format("{}", order.temperature)},
               {"hardware", hardware_and_version().value("cpu", "unknown")},
               {"threads", std::to_string(pool.threads())},
               {"target_pass_ms", numbers(measure_pass_ms(*target.transformer, context, kMeasuredRows, pool))},
               {"draft_pass_ms", numbers(measure_pass_ms(*draft.transformer, context, 2, pool))}};
  return out;
}

}  // namespace trimtab
