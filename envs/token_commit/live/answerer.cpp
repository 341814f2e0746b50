// Prompts answered by a model that decodes.
#include "envs/token_commit/answerer.h"

#include <algorithm>
#include <thread>

#include "core/error.h"
#include "core/pool.h"
#include "envs/token_commit/live/commit_problems.h"

namespace trimtab {
namespace {

constexpr int64_t kAtOnce = 32;   // answers decoded together

std::vector<int32_t> tokens_of(const PromptLine& prompt, const CommitAnswerOrder& order, const LanguageModel& model) {
  const TransformerConfig& config = model.transformer->config();
  // The caller's own whole text: a special token written out in it is meant as one.
  const std::vector<int32_t> ids =
      prompt.text.empty() ? prompt.tokens : model.tokenizer->encode(order.instruction + prompt.text, {.allow_special = true, .add_special_tokens = true});
  if (ids.empty()) throw DataError(fmt::format("{}: the prompt has no tokens", prompt.place));
  for (const int32_t id : ids)
    if (id < 0 || id >= config.vocab_size || id == config.diffusion.mask_id)
      throw DataError(fmt::format("{}: token {} is {}", prompt.place, id, id == config.diffusion.mask_id ? "the mask: only the answer is masked" : "beyond the model's vocabulary"));
  const int64_t needed = std::ssize(ids) + order.options.most_tokens();
  if (needed > config.max_positions)
    throw DataError(fmt::format("{}: prompt and an answer of {} tokens take {} positions, the model has {}: shorten the prompt, or ask for fewer tokens", prompt.place,
                                order.options.most_tokens(), needed, config.max_positions));
  return ids;
}

CommitAnswer answer_of(const DiffusionCompletion& c, const std::vector<GenerationRequest>& requests, const CommitAnswerOrder& order, const LanguageModel& model) {
  const std::vector<int32_t>& ids = requests[c.request].prompt;
  const std::string& text = order.prompts[c.request].text;
  CommitAnswer out{.prompt = c.request, .sample = c.sample, .prompt_text = text.empty() ? model.tokenizer->decode(ids) : text, .prompt_tokens = ids, .tokens = c.tokens,
                   .text = model.tokenizer->decode(c.tokens, {.skip_special = true}), .ended = c.ended, .empty = c.empty, .passes = c.passes};
  size_t end = out.text.size();
  for (const std::string& stop : order.options.stop) end = std::min(end, out.text.find(stop));
  out.ended = out.ended || end < out.text.size();
  out.text.resize(end);
  return out;
}

std::vector<CommitAnswer> answer(const CommitAnswerOrder& order) {
  const LanguageModel model = LanguageModel::load(order.options.model);
  check_windows(model, order.options);
  std::vector<GenerationRequest> requests;
  for (const PromptLine& prompt : order.prompts) {
    GenerationRequest& r = requests.emplace_back();
    r.prompt = tokens_of(prompt, order, model), r.samples = order.samples, r.key = requests.size();
  }
  const auto control = commit_control(order.options, model, order.rule, order.agents, order.seed);
  DiffusionOptions engine = engine_options(order.options);
  engine.max_sequences = kAtOnce, engine.divergence = true, engine.beyond = !order.agents && looks_ahead(order.rule) ? -1 : 0;
  engine.hidden = order.agents && order.options.projected > 0;
  DiffusionGenerator generator(*model.transformer, diffusion_model_of(model.transformer->config()), engine);
  Pool pool(static_cast<int>(order.threads > 0 ? order.threads : std::max(1u, std::thread::hardware_concurrency())));
  std::vector<CommitAnswer> out;
  for (const DiffusionCompletion& c : generator.generate(requests, {.temperature = order.options.temperature, .seed = order.seed}, *control, pool))
    out.push_back(answer_of(c, requests, order, model));
  return out;
}

TT_REGISTER(CommitAnswererEntry, live_answers, {.name = "live", .doc = "a model decodes prompts", .answer = answer});

}  // namespace
}  // namespace trimtab
