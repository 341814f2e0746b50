#include "trainers/language/plan.h"

#include <algorithm>

#include "core/text.h"
#include "trainers/language/job.h"
#include "trainers/language/prompt.h"
#include "trainers/run/plan.h"

namespace trimtab {
namespace {

constexpr int64_t kLookedAt = 64;   // problems whose lengths stand for all

struct Longest {
  int64_t prompt = 0, reply = 0;   // tokens
};

Longest longest_of(const LanguageJob& job, const LanguageModel& model, const TextEnvironment& environment, const LanguageBatch& batch) {
  Longest out{.prompt = 0, .reply = batch.max_tokens};
  const int64_t size = environment.size(Split::kTrain), count = size > 0 ? std::min(size, kLookedAt) : kLookedAt;
  for (int64_t i = 0; i < count; ++i) {
    std::vector<int32_t> prompt;
    if (batch.max_tokens > 0) {
      const Problem problem = environment.problem(Split::kTrain, static_cast<uint64_t>(job.run.seed), static_cast<uint64_t>(i));
      prompt = environment.prompt_tokens(*model.tokenizer, problem);
      check_prompt(prompt, batch.max_tokens, *model.transformer, "training, " + named(problem));
    } else {
      const TokenExample example = environment.example(*model.tokenizer, Stage::kVerbose, {static_cast<uint64_t>(job.run.seed), static_cast<uint64_t>(i), 0});
      prompt = example.prompt;
      out.reply = std::max(out.reply, static_cast<int64_t>(example.reply.size()));
    }
    out.prompt = std::max(out.prompt, static_cast<int64_t>(prompt.size()));
  }
  return out;
}

// Tokens that `prompts` prompts with their replies are packed into at most.
int64_t packed_tokens(const LanguageBatch& b, const Longest& longest, int64_t prompts) {
  return prompts * (b.shared_prefix ? longest.prompt + b.replies * longest.reply : b.replies * (longest.prompt + longest.reply));
}

// Keys and values of what is decoded side by side.
double cache_bytes(const TransformerConfig& c, const LanguageBatch& b, const Longest& longest) {
  if (b.max_tokens == 0) return 0;
  const double tokens = static_cast<double>(std::min<int64_t>(256, b.prompts * b.replies) * longest.reply + b.prompts * longest.prompt);
  return tokens * static_cast<double>(2 * c.num_layers * c.num_kv_heads * c.head_dim) * sizeof(float);
}

// What autograd keeps of one token: inputs of norms and projections, queries, keys, values, the MLP's three, and a row of logits' share.
double activation_bytes(const TransformerConfig& c, bool gradient) {
  const int64_t layer = 8 * c.hidden_size + 4 * (c.num_heads + c.num_kv_heads) * c.head_dim + 4 * c.intermediate_size;
  return static_cast<double>((gradient ? c.num_layers : 1) * layer + 4 * c.hidden_size) * sizeof(float);
}

std::string memory_line(const LanguageModel& model, const LanguageBatch& b, const Longest& longest, int threads) {
  const double parameter = static_cast<double>(model.transformer->num_parameters()) * sizeof(float);
  // Parameters; gradient, two moments and a gradient per shard; the generator's copy; a reference.
  const double fixed = parameter * static_cast<double>(1 + (b.gradient ? 3 + b.shards : 0) + (b.max_tokens > 0 ? 1 : 0) + (b.reference ? 2 : 0));
  const double caches = cache_bytes(model.transformer->config(), b, longest);
  const double parts = static_cast<double>(std::min<int64_t>(threads, b.shards));
  const double tokens = static_cast<double>(std::min(b.token_budget, packed_tokens(b, longest, b.prompts)));
  const double activations = parts * tokens * activation_bytes(model.transformer->config(), b.gradient);
  return fmt::format("memory, estimated: {} = {} of parameters, gradients and moments, {} of keys and values, {} of activations ({} at once)\n",
                     mebibytes(fixed + caches + activations), mebibytes(fixed), mebibytes(caches), mebibytes(activations),
                     counted(static_cast<int64_t>(parts), "micro-batch"));
}

std::string phase_lines(const LanguageJob& job, const LanguagePhase& phase, const LanguageModel& model) {
  const std::unique_ptr<TextEnvironment> environment = job.make_environment(phase.env);
  const LanguageBatch b = learner_of(phase.trainer).batch(phase.trainer);
  const Longest longest = longest_of(job, model, *environment, b);
  const int64_t size = environment->size(Split::kTrain), updates = phase.options.steps, steps = b.minibatches * b.epochs;
  const int64_t part = (b.prompts + b.minibatches - 1) / b.minibatches;   // prompts of a minibatch
  const int64_t tokens = packed_tokens(b, longest, b.prompts), of_part = packed_tokens(b, longest, part);
  std::string out = fmt::format("problems: {} in training; prompts of up to {} among the first {}\n", size > 0 ? grouped_digits(size) : "endless",
                                counted(longest.prompt, "token"), size > 0 ? std::min(size, kLookedAt) : kLookedAt);
  if (b.max_tokens > 0) {
    out += fmt::format("batch: {} x {} = {} per update, of up to {}{}\n", counted(b.prompts, "prompt"), counted(b.replies, "reply"), counted(b.prompts * b.replies, "reply"),
                       counted(b.max_tokens, "token"), b.tries > 1 ? fmt::format("; up to {} such batches until enough groups are of use", b.tries) : "");
  } else {
    const std::string early = fmt::format(" ({} and {} while facts and clean texts are shown)", grouped_digits(6 * b.prompts), grouped_digits(2 * b.prompts));
    out += fmt::format("batch: {} per update{}, of up to {}\n", counted(b.prompts, "text"), b.gradient ? early : "", counted(longest.prompt + longest.reply, "token"));
  }
  out += b.gradient ? fmt::format("updates: {}; {} x {} = {} per update, {} in all\n", grouped_digits(updates), counted(b.minibatches, "minibatch"),
                                  counted(b.epochs, "epoch"), counted(steps, "optimiser step"), grouped_digits(steps * updates))
                    : fmt::format("updates: {}, without gradients: every batch is seen {} times, from both sides of its direction\n", grouped_digits(updates), b.epochs);
  out += fmt::format("tokens: at most {} per update{}, {} in all\n", grouped_digits(tokens * b.epochs),
                     b.max_tokens > 0 ? fmt::format(" to train on and {} to sample", grouped_digits(b.prompts * b.replies * b.max_tokens * b.tries * (b.gradient ? 1 : b.epochs))) : " to train on",
                     grouped_digits(tokens * b.epochs * updates));
  out += fmt::format("micro-batches: at most about {} per minibatch (token_budget {}, at least {} for {})\n",
                     grouped_digits(std::max(b.shards, (of_part + b.token_budget - 1) / b.token_budget)), grouped_digits(b.token_budget), b.shards, counted(b.shards, "shard"));
  return out + memory_line(model, b, longest, thread_count(job.run.threads));
}

}  // namespace

std::string plan_of(const LanguageJob& job) {
  job.compute();
  const LanguageModel model = job.make_model();
  const TransformerConfig& c = model.transformer->config();
  std::string out = fmt::format("run '{}': language model, {}, {}\n", job.run.name, counted(job.total_steps(), "update"), counted(thread_count(job.run.threads), "thread"));
  out += fmt::format("model: {}, {} parameters, {} layers of width {}, vocabulary {}, {} positions\n", job.policy.model.empty() ? "new" : job.policy.model,
                     grouped_digits(model.transformer->num_parameters()), c.num_layers, c.hidden_size, grouped_digits(c.vocab_size), grouped_digits(c.max_positions));
  for (const LanguagePhase& phase : job.phases) {
    out += fmt::format("phase '{}', environment {}, preset {}:\n", phase.options.name, phase.env.text("type", ""), phase.trainer.text("preset", "grpo")) +
           indented(phase_lines(job, phase, model));
  }
  if (job.eval.episodes > 0)
    out += fmt::format("evaluation: every {} on {} x {}{}, up to {} each\n", counted(job.eval.every, "update"), counted(job.eval.episodes, "problem"),
                       counted(job.eval.samples, "sample"), job.eval.greedy ? " and a greedy one" : "", counted(job.eval.max_tokens, "token"));
  return out + fmt::format("checkpoints: every {}\n", counted(job.checkpoint.every, "update"));
}

}  // namespace trimtab
