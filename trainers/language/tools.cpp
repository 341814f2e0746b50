// Language models for the command: generate, help and inspect; see trainers/language_tools.h. Evaluation is
// in tools_evaluate.cpp, KV caches are in tools_kv.cpp.
#include "trainers/language/tools.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <optional>

#include "core/checkpoint.h"
#include "core/error.h"
#include "core/run_folder.h"
#include "engine/adapters/adapter_store.h"
#include "engine/diffusion/jacobi.h"
#include "engine/generation/generator.h"
#include "engine/multi_lora/adapter_server.h"
#include "engine/speculative/speculative.h"
#include "envs/draft_length/rules.h"
#include "policies/language/adapter_base.h"
#include "policies/tokenizer/chat.h"
#include "trainers/language/adapter_tables.h"
#include "trainers/language/job.h"
#include "trainers/language/mixture_replies.h"
#include "trainers/language/prompt.h"

namespace trimtab {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxTokens = 256;  // of a completion, unless said

std::vector<int32_t> read_prompt(const PromptLine& prompt, const GenerateOrder& order,
                                 const Tokenizer& tokenizer) {
  if (prompt.text.empty()) return prompt.tokens;
  // The caller's own whole text: a special token written out in it is meant as one.
  if (order.chat == "none")
    return tokenizer.encode(order.instruction + prompt.text,
                            {.allow_special = true, .add_special_tokens = true});
  std::vector<ChatMessage> messages;
  if (!order.instruction.empty()) messages.push_back({"system", order.instruction});
  messages.push_back({"user", prompt.text});
  return ChatTemplate(tokenizer, order.chat).encode(messages);
}

// Tells a mistake in what was asked by where it was asked; a character that the tokenizer lacks, too.
std::vector<int32_t> checked_prompt(const PromptLine& prompt, const GenerateOrder& order,
                                    const LanguageModel& model) {
  std::vector<int32_t> ids;
  try {
    ids = read_prompt(prompt, order, *model.tokenizer);
  } catch (const DataError& error) {
    throw DataError(fmt::format("{}: {}", prompt.place, error.what()));
  }
  check_prompt(ids, std::max<int64_t>(1, order.max_tokens), *model.transformer, prompt.place);
  return ids;
}

// How long a completion of this prompt may get.
int64_t limit_of(const std::vector<int32_t>& prompt, const GenerateOrder& order, const LanguageModel& model) {
  if (order.max_tokens > 0) return order.max_tokens;
  const int64_t left = model.transformer->config().max_positions - static_cast<int64_t>(prompt.size());
  return std::min(kMaxTokens, left);
}

StopRules stop_rules(const GenerateOrder& order, const LanguageModel& model) {
  std::vector<int32_t> ids = order.chat == "none" ? model.tokenizer->stop_ids()
                                                  : ChatTemplate(*model.tokenizer, order.chat).stop_ids();
  for (const int64_t id : model.transformer->config().eos_ids) {
    if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(static_cast<int32_t>(id));
  }
  return {ids, order.stop, model.tokenizer.get()};
}

constexpr int64_t kMostDrafted = 16;

SpeculativeDecoder decoder_of(const GenerateOrder& order, const Transformer& target, const Transformer* draft) {
  const SpeculativeOptions options{.most_drafted = kMostDrafted};
  if (draft != nullptr) return SpeculativeDecoder(target, *draft, options);
  DrafterOptions drafter;
  drafter.method = order.drafter, drafter.token_recycling.vocab = target.config().vocab_size;
  return SpeculativeDecoder(target, make_drafter(drafter), options);
}

// With drafts; says what they were good for.
std::vector<Completion> complete_speculatively(const GenerateOrder& order, const LanguageModel& model, std::span<const GenerationRequest> requests, const SamplingOptions& sampling,
                                               Pool& pool) {
  std::optional<LanguageModel> draft;
  if (!order.draft.path.empty()) {
    draft = load_model(order.draft);
    if (draft->tokenizer->hash() != model.tokenizer->hash())
      throw ConfigError(fmt::format("--draft {}: has another tokenizer than {}: a draft's token must mean the same to the target", order.draft.path, order.model.path));
  }
  SpeculativeDecoder decoder = decoder_of(order, *model.transformer, draft ? draft->transformer.get() : nullptr);
  const auto rule = make_draft_rule(order.draft_rule, {.most_drafted = kMostDrafted, .cost = {}, .seed = order.seed, .head = nullptr});
  std::vector<Completion> out;
  for (SpeculativeCompletion& c : decoder.generate(requests, sampling, stop_rules(order, model), order.seed, *rule, pool)) out.push_back(std::move(c.completion));
  const SpeculativeTimes& t = decoder.times();
  fmt::print(stderr, "{} tokens in {} passes of the target; {} of {} drafted tokens accepted; {:.0f} tokens/s\n", t.tokens, t.target_passes, t.accepted, t.drafted,
             static_cast<double>(t.tokens) / t.total_s);
  return out;
}

void say_what_was_paged(const ServerStatistics& served, const AdapterPoolStatistics& s) {
  fmt::print(stderr, "{} waves of {:.1f} adapters; {} adapters paged in, {:.1f} MB, {} there already, {} evicted\n", served.waves, served.adapters_per_wave(), s.paged_in(),
             static_cast<double>(s.bytes_paged) / (1 << 20), s.hits, s.evictions);
  for (const auto& [of, loads] : s.loads)
    fmt::print(stderr, "  rank {} from {}: {} loads, {:.2f} ms on average, the longest {:.2f} ms\n", of.first, name_of(of.second), loads.count, loads.mean_ms(), loads.longest_ms);
}

// Jacobi decoding (engine/diffusion/jacobi.h): the likeliest tokens, several settled in a pass.
std::vector<Completion> complete_by_jacobi(const GenerateOrder& order, const LanguageModel& model, std::span<const GenerationRequest> requests, int64_t max_tokens, Pool& pool) {
  if (order.temperature > 0) throw ConfigError("--drafter jacobi settles the likeliest tokens alone: give --temperature 0");
  std::vector<Completion> out;
  int64_t tokens = 0, passes = 0;
  for (JacobiCompletion& c : JacobiDecoder(*model.transformer).generate(requests, max_tokens, stop_rules(order, model), pool)) {
    tokens += std::ssize(c.completion.tokens), passes += c.passes;
    out.push_back(std::move(c.completion));
  }
  fmt::print(stderr, "{} tokens settled in {} passes\n", tokens, passes);
  return out;
}

// Of different adapters in one batch; says what was paged. `errors`: by prompt, where its adapter can't be read.
std::vector<Completion> complete_with_adapters(const GenerateOrder& order, const LanguageModel& model, std::span<const GenerationRequest> requests, const SamplingOptions& sampling,
                                               Pool& pool, std::vector<std::string>& errors) {
  constexpr int64_t kHostBytes = int64_t{1} << 30;
  AdapterStore store(model.transformer->config(), {order.model.path, fingerprint_of(*model.transformer)}, adapters_in(order.adapters), kHostBytes);
  AdapterPool adapters(store, {.bytes = order.adapter_bytes});
  AdapterServer server(*model.transformer, adapters, {.max_sequences = 64}, pool);
  std::vector<ServedRequest> named;
  for (const GenerationRequest& r : requests) named.push_back({r, order.prompts[named.size()].adapter});
  std::vector<Completion> out;
  for (ServedReply& reply : server.serve(named, sampling, stop_rules(order, model), order.seed, pool)) {
    std::move(reply.completions.begin(), reply.completions.end(), std::back_inserter(out));
    errors.push_back(std::move(reply.error));
  }
  say_what_was_paged(server.statistics(), adapters.statistics());
  return out;
}

std::vector<Completion> complete(const GenerateOrder& order, const LanguageModel& model, std::span<const GenerationRequest> requests, Pool& pool, std::vector<std::string>& errors) {
  const SamplingOptions sampling{.temperature = order.temperature, .top_k = order.top_k, .top_p = order.top_p};
  if (!order.adapters.empty()) return complete_with_adapters(order, model, requests, sampling, pool, errors);
  if (order.drafter == "jacobi") return complete_by_jacobi(order, model, requests, kMaxTokens, pool);
  if (!order.draft.path.empty() || !order.drafter.empty()) return complete_speculatively(order, model, requests, sampling, pool);
  if (const auto mixture = mixture_of(order.model, *model.transformer)) {
    if (order.temperature > 0 || order.samples > 1)
      throw ConfigError(fmt::format("{}: is a mixture over adapters, which gives its likeliest reply alone: give --temperature 0 and one sample, or the base's run to have samples of the base", order.model.path));
    return complete_with_mixture(*mixture, requests, sampling.max_tokens, stop_rules(order, model), reply_progress("generating", std::ssize(requests)));
  }
  return Generator(*model.transformer)
      .generate(requests, sampling, stop_rules(order, model), order.seed, pool, reply_progress("generating", static_cast<int64_t>(requests.size()) * order.samples));
}

std::vector<GeneratedText> generate(const GenerateOrder& order) {
  at::set_num_threads(1);  // threads are ours, so that sums have one order
  const LanguageModel model = load_model(order.model);
  std::vector<GenerationRequest> requests;
  for (size_t i = 0; i < order.prompts.size(); ++i) {
    std::vector<int32_t> ids = checked_prompt(order.prompts[i], order, model);
    const int64_t limit = limit_of(ids, order, model);
    requests.push_back({.prompt = std::move(ids), .samples = order.samples, .key = i, .max_tokens = limit});
  }
  Pool pool(thread_count(order.threads));
  std::vector<std::string> errors;
  const std::vector<Completion> completions = complete(order, model, requests, pool, errors);
  std::vector<GeneratedText> out;
  for (const Completion& c : completions) {
    const PromptLine& prompt = order.prompts[c.request];
    const std::vector<int32_t>& ids = requests[c.request].prompt;
    out.push_back({.prompt = c.request,
                   .sample = c.sample,
                   .prompt_text = prompt.text.empty() ? model.tokenizer->decode(ids) : prompt.text,
                   .prompt_tokens = ids,
                   .tokens = c.tokens,
                   .logprobs = c.logprobs,
                   .text = model.tokenizer->decode(c.tokens, {.skip_special = true}),
                   .stopped = c.finish == Finish::kStop});
  }
  for (size_t i = 0; i < errors.size(); ++i) {
    if (errors[i].empty()) continue;
    GeneratedText& none = out.emplace_back();
    none.prompt = static_cast<int64_t>(i), none.prompt_text = order.prompts[i].text, none.prompt_tokens = requests[i].prompt, none.error = errors[i];
  }
  return out;
}

// "group" stands behind every preset of TrainerPreset and is none itself.
std::vector<std::pair<std::string, std::string>> learners() {
  std::vector<std::pair<std::string, std::string>> out;
  const auto& registry = Registry<LanguageLearnerEntry>::instance();
  for (const std::string& name : registry.names()) {
    if (name != "group") out.push_back({name, registry.get(name, "trainer preset").doc});
  }
  return out;
}

std::vector<FieldLine> trainer_help(const std::string& preset) {
  return learner_of(Config::parse("preset: " + preset, "preset " + preset)).help(preset);
}

nlohmann::json inspect(const std::string& folder) {
  const LanguageModel model = LanguageModel::load(folder);
  const TransformerConfig& c = model.transformer->config();
  std::vector<std::string> templates;
  for (const std::string& name : chat_template_names()) {
    try {
      ChatTemplate(*model.tokenizer, name);
      templates.push_back(name);
    } catch (const ConfigError&) {  // its markers are not in this vocabulary
    }
  }
  return {{"kind", "language model"},
          {"file", folder},
          {"family", c.family},
          {"parameters", model.transformer->num_parameters()},
          {"vocabulary", c.vocab_size},
          {"context", c.max_positions},
          {"layers", c.num_layers},
          {"hidden_size", c.hidden_size},
          {"heads", c.num_heads},
          {"kv_heads", c.num_kv_heads},
          {"tied_embeddings", c.tied_embeddings},
          {"tokenizer",
           {{"tokens", model.tokenizer->vocab_size()},
            {"stop_ids", model.tokenizer->stop_ids()},
            {"chat_templates", templates},
            {"hash", model.tokenizer->hash()}}}};
}

TT_REGISTER(LanguageTools, libtorch,
            {.name = "libtorch",
             .doc = "transformers on the CPU",
             .generate = generate,
             .evaluate = evaluate_runs,
             .measure = measure_sensitivity,
             .record = record_pair,
             .record_adapters = record_adapters,
             .embed = embed_requests,
             .score_recipe = score_recipe,
             .learners = learners,
             .trainer_help = trainer_help,
             .policy_help = [] { return help_of<LanguagePolicyOptions>(); },
             .inspect = inspect});

}  // namespace

LanguageModel load_model(const ModelChoice& choice) {
  const fs::path path = choice.path;
  const bool is_run = fs::exists(path / "config.yaml");
  if (!is_run && choice.checkpoint != "best")
    throw ConfigError(fmt::format("{}: has no checkpoint '{}', it is no run; leave --checkpoint out",
                                  choice.path, choice.checkpoint));
  if (choice.checkpoint == "best") return LanguageModel::load(path);
  if (fs::exists(path / "mixture"))
    throw ConfigError(fmt::format("{}: has its best mixture alone, not checkpoint '{}'; leave --checkpoint out", choice.path, choice.checkpoint));
  // A checkpoint holds what trained: beside an adapter, that alone.
  LanguageModel model = fs::exists(path / "adapter")
                            ? LanguageJob(Config::load(path / "config.yaml")).make_model()
                            : LanguageModel::load(path);
  const Checkpoint checkpoint = CheckpointFolder(path / "checkpoints").load(choice.checkpoint);
  const auto found = checkpoint.state.tensors.find("parameters");
  const at::Tensor& flat = model.transformer->trainable();
  if (found == checkpoint.state.tensors.end() ||
      static_cast<int64_t>(found->second.as_f32().size()) != flat.numel())
    throw CheckpointError(fmt::format("{}: step {} does not hold the {} parameters of the run's model",
                                      (path / "checkpoints").string(), checkpoint.step, flat.numel()));
  const std::span<const float> saved = found->second.as_f32();
  std::copy(saved.begin(), saved.end(), flat.data_ptr<float>());
  return model;
}

std::function<void(int64_t, int64_t)> reply_progress(const std::string& label, int64_t replies) {
  const auto progress = std::make_shared<Progress>(label, replies, "replies");
  return [progress](int64_t tokens, int64_t finished) {
    if (interrupted()) throw Interrupted("interrupted; nothing was written");
    progress->update(finished, fmt::format("{} tokens", tokens));
  };
}

}  // namespace trimtab
