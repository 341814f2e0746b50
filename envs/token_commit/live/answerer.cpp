// Prompts answered by a model that decodes.
#include "envs/token_commit/answerer.h"

#include <algorithm>
#include <thread>

#include "core/error.h"
#include "core/pool.h"
#include "envs/token_commit/live/commit_problems.h"

namespace trimtab {
namespace {

std::vector<int32_t> tokens_of(const PromptLine& prompt, const CommitAnswerOrder& order, const LanguageModel& model) {
  const TransformerConfig& config = model.transformer->config();
  // The caller's own whole text: a special token written out in it is meant as one.
  const std::vector<int32_t> ids =
      prompt.text.empty() ? prompt.tokens : model.tokenizer->encode(order.instruction + prompt.text, {.allow_special = true, .add_special_tokens = true});
  for (const int32_t id : ids)
    if (id < 0 || id >= config.vocab_size || id == config.diffusion.mask_id)
      throw DataError(fmt::format("{}: token {} is {}", prompt.place, id, id == config.diffusion.mask_id ? "the mask: only the answer is masked" : "beyond the model's vocabulary"));
  check_room(ids, model, order.options, prompt.place, ", or ask for fewer tokens");
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
  DiffusionGenerator generator(*model.transformer, diffusion_model_of(model.transformer->config()), batch_options(order.options, order.rule, order.agents));
  Pool pool(static_cast<int>(order.threads > 0 ? order.threads : std::max(1u, std::thread::hardware_concurrency())));
  std::vector<CommitAnswer> out;
  for (const DiffusionCompletion& c : generator.generate(requests, {.temperature = order.options.temperature, .seed = order.seed}, *control, pool))
    out.push_back(answer_of(c, requests, order, model));
  return out;
}

TT_REGISTER(CommitAnswererEntry, live_answers, {.name = "live", .doc = "a model decodes prompts", .answer = answer});

}  // namespace
}  // namespace trimtab
