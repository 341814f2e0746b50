// `trimtab generate MODEL --prompt TEXT | --prompts FILE.jsonl`: completions of a language model with their
// tokens and log-probabilities.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>

#include "app/command.h"
#include "app/commit_choice.h"
#include "app/document.h"
#include "core/config.h"
#include "core/files.h"
#include "core/text.h"
#include "domain/tasks/prompts.h"
#include "envs/token_commit/answerer.h"
#include "trainers/language_tools.h"

namespace trimtab {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

struct GenerateOptions {
  std::vector<std::string> words, stop;
  std::string prompts, prompt, chat, checkpoint = "best", json, draft, drafter, draft_rule = "confidence_60", adapters, adapter, commit;
  int64_t pool_mb = 256;
  int64_t max_tokens = 0, top_k = 0, samples = 1, threads = 0, seed = 1;
  double temperature = std::numeric_limits<double>::quiet_NaN(), top_p = 1;   // unset: 1, of a masked diffusion model 0
  bool tokens = false;
};

std::vector<PromptLine> prompts_of(const GenerateOptions& options) {
  if (options.prompt.empty() == options.prompts.empty())
    throw ConfigError(options.prompt.empty()
                          ? "what is to be continued? give --prompt TEXT or --prompts FILE.jsonl"
                          : "--prompt and --prompts exclude each other; keep one");
  if (!options.prompts.empty()) return read_prompts(options.prompts);
  if (!is_utf8(options.prompt)) throw ConfigError("--prompt is not UTF-8 text");
  return {{.place = "--prompt", .text = options.prompt, .tokens = {}, .adapter = options.adapter}};
}

// A run is asked as it was trained: with the chat template, instruction and stop texts of its env block.
void take_environment(const std::string& model, GenerateOrder& order) {
  const fs::path file = fs::path(model) / "config.yaml";
  if (!fs::exists(file)) return;
  const Config config = Config::load(file);
  order.chat = config.text("env.chat", "none");
  order.instruction = config.text("env.instruction", "");
  if (!order.stop.empty()) return;
  for (size_t i = 0; i < config.list("env.stop").size(); ++i)
    order.stop.push_back(config.text(fmt::format("env.stop.{}", i), ""));
}

void check_counts(const GenerateOptions& options) {
  if (options.samples < 1 || options.max_tokens < 0 || options.seed < 0 || options.threads < 0)
    throw ConfigError("--samples must be 1 or more, --max-tokens, --seed and --threads 0 or more");
}

GenerateOrder order_of(const GenerateOptions& options) {
  if (options.words.size() != 1)
    throw ConfigError(fmt::format(
        "generate takes one model, got {}: trimtab generate RUN|FOLDER --prompt TEXT", options.words.size()));
  check_counts(options);
  if (!options.draft.empty() && !options.drafter.empty()) throw ConfigError("--draft and --drafter exclude each other; keep one");
  if (options.adapters.empty() && !options.adapter.empty()) throw ConfigError("--adapter names one of a folder's: give the folder, --adapters FOLDER");
  if (!options.adapter.empty() && options.prompt.empty()) throw ConfigError("--adapter is for --prompt; in a file of --prompts every line may name its own, \"adapter\"");
  if (!options.adapters.empty() && !(options.draft.empty() && options.drafter.empty())) throw ConfigError("--adapters does not go with drafts: leave --draft and --drafter out");
  if (options.pool_mb < 1 || options.pool_mb > (int64_t{1} << 40)) throw ConfigError("--adapter-pool must be 1 MB or more");
  GenerateOrder out{.model = {options.words[0], options.checkpoint},
                    .prompts = prompts_of(options),
                    .samples = options.samples,
                    .top_k = options.top_k,
                    .threads = options.threads,
                    .max_tokens = options.max_tokens,
                    .temperature = std::isnan(options.temperature) ? 1 : options.temperature,
                    .top_p = options.top_p,
                    .seed = static_cast<uint64_t>(options.seed),
                    .chat = "none",
                    .instruction = "",
                    .stop = options.stop,
                    .draft = {.path = options.draft},
                    .drafter = options.drafter,
                    .draft_rule = options.draft_rule,
                    .adapters = options.adapters,
                    .adapter_bytes = options.pool_mb << 20};
  for (const PromptLine& p : out.prompts)
    if (options.adapters.empty() && !p.adapter.empty()) throw ConfigError(fmt::format("{}: is to be answered by the adapter '{}': give the folder it is in, --adapters FOLDER", p.place, p.adapter));
  if (options.chat.empty()) {
    take_environment(options.words[0], out);
  } else {
    out.chat = options.chat;
  }
  return out;
}

json completions_json(const std::vector<GeneratedText>& texts) {
  json list = json::array();
  for (const GeneratedText& t : texts) {
    if (!t.error.empty()) {
      list.push_back({{"prompt", t.prompt_text}, {"prompt_tokens", t.prompt_tokens}, {"error", t.error}});
      continue;
    }
    list.push_back({{"prompt", t.prompt_text},
                    {"prompt_tokens", t.prompt_tokens},
                    {"sample", t.sample},
                    {"tokens", t.tokens},
                    {"logprobs", t.logprobs},
                    {"text", t.text},
                    {"finish", t.stopped ? "stop" : "length"}});
  }
  return {{"completions", list}};
}

void print_texts(std::FILE* out, const std::vector<GeneratedText>& texts, bool tokens) {
  for (size_t i = 0; i < texts.size(); ++i) {
    const GeneratedText& t = texts[i];
    if (!t.error.empty()) {
      fmt::print(stderr, "{}> not answered: {}\n", t.prompt_text, t.error);
      continue;
    }
    if (t.sample == 0) fmt::print(out, "{}> {}\n", i == 0 ? "" : "\n", t.prompt_text);
    fmt::print(out, "{}{}\n", t.text, t.stopped ? "" : " ... (token limit)");
    if (tokens) fmt::print(out, "[{}]\n", fmt::join(t.tokens, ", "));
  }
}

// The canvas of a masked diffusion model: as asked, else as the run that trained it evaluates, else as `env` says.
int64_t canvas_of(const GenerateOptions& options, const TokenCommitOptions& env) {
  if (options.max_tokens > 0) return options.max_tokens;
  const bool said = std::any_of(options.words.begin() + 1, options.words.end(), [](const std::string& word) { return word.starts_with("env.length="); });
  const fs::path file = fs::path(options.words[0]) / "config.yaml";
  if (said || !fs::exists(file)) return env.length;
  const std::string evaluated = Config::load(file).text("eval.max_tokens", "");
  int64_t out = env.length;
  std::from_chars(evaluated.data(), evaluated.data() + evaluated.size(), out);
  return out;
}

CommitAnswerOrder masked_order_of(const GenerateOptions& options) {
  if (options.words.empty()) throw ConfigError("generate --commit takes a masked diffusion model: trimtab generate MODEL --commit threshold_90 --prompt TEXT");
  if (!(options.draft.empty() && options.drafter.empty() && options.adapters.empty() && options.chat.empty()) || options.top_k != 0 || options.top_p != 1)
    throw ConfigError("--commit fills masks in: --draft, --drafter, --adapters, --chat, --top-k and --top-p are for causal models");
  if (options.checkpoint != "best") throw ConfigError("--commit answers with a run's best model: leave --checkpoint out");
  check_counts(options);
  const CommitChoice choice = choose_commitment(options.words, options.commit);
  GenerateOrder asked;
  asked.stop = options.stop;
  take_environment(options.words[0], asked);
  if (asked.chat != "none") throw ConfigError(fmt::format("{}: was trained behind a chat template ({}), and --commit takes prompts as they are", options.words[0], asked.chat));
  CommitAnswerOrder out{.options = choice.options, .prompts = prompts_of(options), .rule = choice.rule, .agents = choice.agents, .instruction = asked.instruction,
                        .samples = options.samples, .threads = options.threads, .seed = static_cast<uint64_t>(options.seed)};
  out.options.length = canvas_of(options, out.options), out.options.stop = asked.stop;
  out.options.temperature = std::isnan(options.temperature) ? 0 : options.temperature;
  out.options.validate();
  return out;
}

// A masked diffusion model fills its answers in, and a rule or controller says when a token is one.
std::vector<GeneratedText> fill_in(const CommitAnswerOrder& order) {
  std::vector<GeneratedText> out;
  int64_t tokens = 0, passes = 0;
  for (CommitAnswer& a : answer_with_commitment(order)) {
    tokens += std::ssize(a.tokens), passes += a.passes;
    if (a.empty) fmt::print(stderr, "{}: nothing is answered: the first token ends it\n", order.prompts[a.prompt].place);
    out.push_back({.prompt = a.prompt, .sample = a.sample, .prompt_text = std::move(a.prompt_text), .prompt_tokens = std::move(a.prompt_tokens), .tokens = std::move(a.tokens),
                   .logprobs = {}, .text = std::move(a.text), .stopped = a.ended});
  }
  fmt::print(stderr, "{} tokens in {} passes of the model\n", tokens, passes);
  return out;
}

int generate(const GenerateOptions& options) {
  const std::vector<GeneratedText> texts =
      options.commit.empty() ? language_tools("sampling a language model").generate(order_of(options)) : fill_in(masked_order_of(options));
  const bool to_stdout = options.json == "-";
  print_texts(to_stdout ? stderr : stdout, texts, options.tokens);
  if (to_stdout) {
    fmt::print("{}", document_text(completions_json(texts)));
  } else if (!options.json.empty()) {
    write_file_atomically(options.json, document_text(completions_json(texts)));
    fmt::print("Written: {}\n", options.json);
  }
  const bool answered = std::none_of(texts.begin(), texts.end(), [](const GeneratedText& t) { return !t.error.empty(); });
  return static_cast<int>(answered ? ExitCode::kOk : ExitCode::kData);
}

TT_REGISTER(
    Verb, generate,
    {.name = "generate",
     .doc = "Sample a language model: a run or a Hugging Face folder",
     .declare = [](Arguments& a) {
       auto o = std::make_shared<GenerateOptions>();
       a.words("MODEL", o->words, "a run folder or a Hugging Face folder");
       a.text("--prompt", o->prompt, "a text to continue");
       a.text("--prompts", o->prompts,
              "a file with one object per line: {\"prompt\": text}, {\"question\": text} or {\"tokens\": "
              "[ids]}");
       a.integer("--max-tokens", o->max_tokens,
                 "longest completion, stop token included; 0: what the context leaves, at most 256");
       a.number("--temperature", o->temperature, "divides the logits (default 1, with --commit 0); 0: the likeliest token");
       a.integer("--top-k", o->top_k, "only the k likeliest tokens; 0: all");
       a.number("--top-p", o->top_p,
                "only the likeliest tokens that have this probability together (default 1)");
       a.integer("--samples", o->samples, "completions per prompt");
       a.integer("--seed", o->seed, "of the draws");
       a.text(
           "--chat", o->chat,
           "none, chatml or llama3: the template around the prompt (default: that of the run's env block)");
       a.texts("--stop", o->stop, "texts that end a completion");
       a.text("--draft", o->draft, "speculative decoding, of the same law: a draft model, a run or a Hugging Face folder with the same tokenizer");
       a.text("--drafter", o->drafter, "or drafts without a model: prompt_lookup, suffix or token_recycling; jacobi, with --temperature 0, guesses and settles several tokens in a pass");
       a.text("--draft-rule", o->draft_rule, "how many tokens are drafted: fixed_K, confidence_P, entropy_E, hf, ... (default confidence_60)");
       a.text("--commit", o->commit, "of a masked diffusion model: the rule (threshold_90), run or artefact that commits its tokens; env.KEY=VALUE may follow MODEL");
       a.text("--adapters", o->adapters, "a folder of PEFT adapters: a line of --prompts that says \"adapter\": NAME is answered with that one, different ones in one batch");
       a.text("--adapter", o->adapter, "the one that answers --prompt");
       a.integer("--adapter-pool", o->pool_mb, "MB that adapters in use and caches may take together (default 256)");
       a.text("--checkpoint", o->checkpoint, "of a run: best (default), latest or a step");
       a.integer("--threads", o->threads, "threads; 0: one per core");
       a.flag("--tokens", o->tokens, "also print the token ids");
       a.text("--json", o->json, "where to write the completions; - is standard output");
       return [o] { return generate(*o); };
     }});

}  // namespace
}  // namespace trimtab
