#include "trainers/language/adapter_tables.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>

#include "core/error.h"
#include "core/random.h"
#include "core/run_folder.h"
#include "domain/tasks/jsonl.h"
#include "policies/language/adapter_base.h"
#include "trainers/language/job.h"
#include "trainers/language/prompt.h"
#include "trainers/language/tools.h"

namespace trimtab {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kProjectionKey = 20260401;
constexpr int64_t kPassTokens = 4096;   // of a pass over prompts, about

at::Tensor projection(int64_t hidden, int64_t size) {   // [hidden, size]
  std::vector<float> out;
  for (int64_t i = 0; i < hidden; ++i) {
    Draws draws(kProjectionKey, Stream::kWorld, static_cast<uint32_t>(i));   // by row: fewer numbers are the first of more
    for (int64_t k = 0; k < size; ++k) out.push_back(draws.normal() / std::sqrt(static_cast<float>(hidden)));
  }
  return at::tensor(out).view({hidden, size});
}

struct Questions {
  std::vector<Problem> problems;
  std::vector<RecordedEpisode> episodes;   // by category
};

Questions read_questions(const std::vector<std::string>& files) {
  std::vector<std::string> categories;
  std::map<std::string, std::vector<Problem>> by_category;
  for (const std::string& file : files) {
    const std::vector<PromptLine> lines = read_prompts(file);
    std::vector<FileProblem> problems = read_jsonl(file);
    for (size_t i = 0; i < problems.size(); ++i) {
      const std::string category = lines[i].category.empty() ? fs::path(file).stem().string() : lines[i].category;
      if (!by_category.contains(category)) categories.push_back(category);
      by_category[category].push_back(std::move(problems[i].problem));
    }
  }
  Questions out;
  for (const std::string& c : categories) {
    out.episodes.push_back({std::ssize(out.problems), std::ssize(by_category[c]), {{"task", c}}});
    std::move(by_category[c].begin(), by_category[c].end(), std::back_inserter(out.problems));
  }
  return out;
}

// A run's environment knows how a prompt is put and what a right answer is; without one answers are compared as free text (domain/tasks/answers.h).
std::unique_ptr<TextEnvironment> environment_of(const ModelChoice& model, const std::vector<std::string>& problems) {
  const fs::path file = fs::path(model.path) / "config.yaml";
  if (!fs::exists(file)) return Registry<TextEnvironmentEntry>::instance().get("reasoning", "environment").make(Config::parse("type: reasoning", "free text"), {.train = problems, .validation = {}});
  const Config config = Config::load(file);
  return LanguageJob(config).make_environment(config.at("env"));
}

// Per problem, means over its samples. An answer that scores is in a form that the verifier takes, boxed or not.
struct Scores {
  std::vector<float> quality, well_formed;
};

Scores scored(const LanguageModel& model, TextEnvironment& environment, const std::vector<Problem>& problems, const AdapterTableOrder& order, const std::string& label,
                           Pool& pool) {
  const LanguageEvaluation e = evaluate_language(model, environment,
                                                 {.problems = problems, .samples = order.samples, .sampling = {.max_tokens = order.max_tokens, .temperature = order.temperature},
                                                  .seed = order.seed, .progress = reply_progress(label, std::ssize(problems) * order.samples)}, pool);
  Scores out;
  for (size_t p = 0; p < problems.size(); ++p) {
    double quality = 0, formed = 0;
    for (size_t i = p * order.samples; i < (p + 1) * order.samples; ++i) {
      quality += std::clamp(e.outcome[i], 0.0, 1.0);
      formed += e.well_formed[i] || e.outcome[i] > 0;
    }
    out.quality.push_back(static_cast<float>(quality / static_cast<double>(order.samples)));
    out.well_formed.push_back(static_cast<float>(formed / static_cast<double>(order.samples)));
  }
  return out;
}

RecordedColumn column(const std::string& doc, int64_t rows, int64_t width, const std::vector<float>& values) {
  RecordedColumn out;
  out.doc = doc, out.values = Tensor::f32({rows, width}, values);
  return out;
}

}  // namespace

std::vector<float> embed_prompts(const Transformer& model, const std::vector<std::vector<int32_t>>& prompts, int64_t size) {
  const at::NoGradGuard no_grad;
  const at::Tensor onto = projection(model.config().hidden_size, size);
  std::vector<float> out;
  for (size_t first = 0; first < prompts.size();) {
    Trie trie;
    std::vector<int64_t> tokens;
    size_t end = first;
    for (; end < prompts.size() && (end == first || std::ssize(tokens) + std::ssize(prompts[end]) <= kPassTokens); ++end) {
      trie.add(-1, std::ssize(prompts[end]));
      tokens.insert(tokens.end(), prompts[end].begin(), prompts[end].end());
    }
    const at::Tensor states = model.hidden(at::tensor(tokens, at::kLong), trie);
    for (const Trie::Segment& s : trie.segments) {
      const at::Tensor row = states.narrow(0, s.first, s.length).mean(0).matmul(onto).contiguous();
      out.insert(out.end(), row.data_ptr<float>(), row.data_ptr<float>() + size);
    }
    first = end;
  }
  return out;
}

std::vector<EmbeddedPrompt> embed_requests(const EmbeddingOrder& order) {
  at::set_num_threads(1);
  const LanguageModel model = load_model(order.model);
  const std::unique_ptr<TextEnvironment> environment = fs::exists(fs::path(order.model.path) / "config.yaml") ? environment_of(order.model, {}) : nullptr;
  std::vector<EmbeddedPrompt> out;
  std::vector<std::vector<int32_t>> prompts;
  for (const std::string& file : order.prompts)
    for (PromptLine& line : read_prompts(file)) {
      if (line.text.empty()) throw DataError(fmt::format("{}: a request for a server is a text: give \"prompt\" instead of tokens", line.place));
      prompts.push_back(environment ? environment->prompt_tokens(*model.tokenizer, {.id = {}, .prompt = line.text, .answer = {}})
                                    : model.tokenizer->encode(line.text, {.allow_special = false, .add_special_tokens = true}));
      check_prompt(prompts.back(), 1, *model.transformer, line.place);
      out.push_back({std::move(line.text), std::move(line.category), {}});
    }
  const std::vector<float> all = embed_prompts(*model.transformer, prompts, order.size);
  for (size_t i = 0; i < out.size(); ++i) out[i].embedding.assign(all.begin() + i * order.size, all.begin() + (i + 1) * order.size);
  return out;
}

// The folder's name; of RUN/adapter the run's.
static std::string name_of_adapter(const std::string& folder) {
  fs::path path = fs::path(folder).lexically_normal();
  if (path.filename().empty()) path = path.parent_path();
  if (path.filename() == "adapter" && path.has_parent_path() && path.parent_path().has_filename()) path = path.parent_path();
  return path.filename().string();
}

// By these names a table's reader tells adapters apart, and they stand in one line with spaces between them.
static std::vector<std::string> names_of_adapters(const std::vector<std::string>& folders) {
  std::vector<std::string> out;
  for (const std::string& folder : folders) {
    const std::string name = name_of_adapter(folder);
    if (name.find_first_of(" \t\n\r") != std::string::npos)
      throw ConfigError(fmt::format("--adapters {}: '{}' would be the adapter's name in the table, where names have no spaces: rename the folder", folder, name));
    if (const auto twin = std::find(out.begin(), out.end(), name); twin != out.end())
      throw ConfigError(fmt::format("--adapters {} and {}: both would be '{}' in the table: rename one of the folders", folders[twin - out.begin()], folder, name));
    out.push_back(name);
  }
  return out;
}

Recording record_adapters(const AdapterTableOrder& order) {
  at::set_num_threads(1);   // threads are ours
  const std::vector<std::string> names = names_of_adapters(order.adapters);
  LanguageModel model = load_model(order.model);
  const std::unique_ptr<TextEnvironment> environment = environment_of(order.model, order.prompts);
  const Questions asked = read_questions(order.prompts);
  std::vector<std::vector<int32_t>> prompts;
  for (const Problem& p : asked.problems) prompts.push_back(environment->prompt_tokens(*model.tokenizer, p));

  const int64_t rows = std::ssize(prompts), models = std::ssize(order.adapters) + 1;
  Pool pool(thread_count(order.threads));
  std::vector<float> quality(rows * models), well_formed(rows * models);
  std::vector<std::string> ranks;
  const auto put = [&](int64_t number, const Scores& scores) {
    for (int64_t r = 0; r < rows; ++r) quality[r * models + number] = scores.quality[r], well_formed[r * models + number] = scores.well_formed[r];
  };
  put(models - 1, scored(model, *environment, asked.problems, order, "base", pool));
  const std::vector<float> embeddings = embed_prompts(*model.transformer, prompts, order.embedding);
  const Transformer base = model.transformer->replica();
  for (int64_t a = 0; a + 1 < models; ++a) {
    model.transformer = std::make_unique<Transformer>(read_adapter(base, order.model.path, order.adapters[a]));
    ranks.push_back(std::to_string(model.transformer->adapter()->rank));
    put(a, scored(model, *environment, asked.problems, order, names[a], pool));
  }

  Recording out;
  out.environment = "adapter_route", out.episodes = asked.episodes;
  out.facts = {{"producer", "trimtab record"}, {"base", order.model.path}, {"adapters", fmt::format("{}", fmt::join(names, " "))}, {"ranks", fmt::format("{}", fmt::join(ranks, " "))},
               {"embedding", "mean of the base model's last hidden states over the prompt, fixed Gaussian projection"},
               {"samples", std::to_string(order.samples)}, {"temperature", fmt::format("{}", order.temperature)}};
  out.columns["embedding"] = column("of the prompt", rows, order.embedding, embeddings);
  out.columns["quality"] = column("of the answer of each adapter, the base model's last", rows, models, quality);
  out.columns["well_formed"] = column("share of these answers in the form asked for", rows, models, well_formed);
  for (const char* share : {"quality", "well_formed"}) out.columns[share].low = 0, out.columns[share].high = 1;
  return out;
}

}  // namespace trimtab
