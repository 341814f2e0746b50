#include "envs/adapter_route/tables.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <numeric>

#include "core/error.h"
#include "core/random.h"
#include "core/text.h"
#include "policies/bandits/best_arm.h"

namespace trimtab {
namespace {

constexpr uint32_t kOfPrompt = 2;                     // beside the words of requests.cpp
constexpr uint32_t kOfCentre = 1, kOfAdapter = 2;     // of a synthetic world
const float kHalf = std::sqrt(0.5f);

Draws prompt_draws(uint64_t world, int64_t request) { return Draws(world, Stream::kWorld, static_cast<uint32_t>(request), kOfPrompt); }

double length_of(std::span<const double> v) {
  double out = 0;
  for (const double x : v) out += x * x;
  return std::sqrt(out);
}

// centre + spread * noise of about unit length, made a unit vector.
std::vector<double> unit_near(std::span<const double> centre, double spread, Draws& draws) {
  std::vector<double> out(centre.begin(), centre.end());
  const double scale = spread / std::sqrt(static_cast<double>(out.size()));
  for (double& x : out) x += scale * draws.normal();
  const double length = std::max(1e-12, length_of(out));
  for (double& x : out) x /= length;
  return out;
}

std::vector<float> context_of(std::span<const double> unit) {
  std::vector<float> out;
  for (const double x : unit) out.push_back(kHalf * static_cast<float>(x));
  out.push_back(kHalf);
  return out;
}

class SyntheticQualities final : public QualitySource {
 public:
  explicit SyntheticQualities(const SyntheticQualityOptions& o) : options_(o) {
    const auto seed = static_cast<uint64_t>(o.world);
    for (int64_t k = 0; k < o.tasks; ++k) {
      Draws draws(seed, Stream::kWorld, static_cast<uint32_t>(k), kOfCentre);
      centres_.push_back(unit_near(std::vector<double>(o.embedding), 1, draws));
      centroids_.push_back(context_of(centres_.back()));
    }
    for (int64_t a = 0; a < o.adapters; ++a) {
      Draws draws(seed, Stream::kWorld, static_cast<uint32_t>(a), kOfAdapter);
      theta_.push_back(unit_near(centres_[a % o.tasks], o.mismatch, draws));
      for (double& v : theta_.back()) v *= std::sqrt(2.0) * o.reach;
      theta_.back().push_back(std::sqrt(2.0) * o.middle);
    }
    theta_.emplace_back(o.embedding + 1), theta_.back().back() = std::sqrt(2.0) * o.base;
    for (int64_t k = 0; k < o.tasks; ++k) {
      const Prompt centre{.task = k, .x = centroids_[k]};
      int64_t best = 0;
      for (int64_t a = 1; a <= o.adapters; ++a)
        if (quality(centre, a) > quality(centre, best)) best = a;
      homes_.push_back(best);
    }
  }

  int64_t adapters() const override { return options_.adapters; }
  int64_t tasks() const override { return options_.tasks; }
  int64_t dimension() const override { return options_.embedding + 1; }
  double noise() const override { return options_.noise; }
  std::span<const float> centroid(int64_t task) const override { return centroids_[task]; }
  int64_t home(int64_t task) const override { return homes_[task]; }
  int64_t task_of(const std::string& name) const override {
    for (int64_t k = 0; k < options_.tasks; ++k)
      if (name == std::to_string(k)) return k;
    return -1;
  }

  void prompt(uint64_t world, int64_t request, int64_t task, Prompt& out) const override {
    Draws draws = prompt_draws(world, request);
    out.task = task, out.row = -1, out.x.resize(dimension());
    const double scale = options_.spread / std::sqrt(static_cast<double>(options_.embedding));
    double square = 1e-24;
    for (int64_t i = 0; i < options_.embedding; ++i) {
      const double v = centres_[task][i] + scale * draws.normal();
      out.x[i] = static_cast<float>(v), square += v * v;
    }
    for (int64_t i = 0; i < options_.embedding; ++i) out.x[i] *= kHalf / static_cast<float>(std::sqrt(square));
    out.x.back() = kHalf;
  }
  double quality(const Prompt& prompt, int64_t adapter) const override {
    double out = 0;
    for (size_t i = 0; i < prompt.x.size(); ++i) out += theta_[adapter][i] * prompt.x[i];
    return out;
  }

 private:
  SyntheticQualityOptions options_;
  std::vector<std::vector<double>> centres_, theta_;   // [tasks][e], [N + 1][e + 1]
  std::vector<std::vector<float>> centroids_;          // [tasks][d]
  std::vector<int64_t> homes_;
};

// One file, checked.
struct QualityFile {
  Recording recording;
  int64_t embedding = 0, models = 0;   // numbers in a row
  std::span<const float> embeddings, qualities, forms;   // forms: empty where they are not told
  std::vector<int64_t> ranks;                            // empty where they are not told

  explicit QualityFile(const std::string& file) : recording(read_recording(file, "adapter_route")) {
    embedding = width("embedding"), models = width("quality");
    if (models < 2) throw DataError(fmt::format("{}: column 'quality' has one number in a row: give one for each adapter and the base model's last", file));
    embeddings = recording.f32("embedding", embedding), qualities = recording.f32("quality", models);
    if (recording.columns.contains("well_formed")) forms = recording.f32("well_formed", models);
    for (int64_t r = 0; r < recording.rows(); ++r) check_row(r);
    if (recording.facts.contains("ranks")) read_ranks(recording.fact("ranks"));
    for (const RecordedEpisode& e : recording.episodes)
      if (const auto task = e.labels.find("task"); task == e.labels.end() || task->second.empty())
        throw DataError(fmt::format("{}: rows {} to {} have no label 'task': each episode is the prompts of one task, named by it", file, e.first, e.first + e.rows - 1));
  }

 private:
  int64_t width(const char* name) const {
    const auto found = recording.columns.find(name);
    if (found == recording.columns.end()) throw DataError(fmt::format("{}: column '{}' is missing: a table of adapters has 'embedding' and 'quality'", recording.file, name));
    return found->second.width();
  }
  void read_ranks(const std::string& text) {
    constexpr int64_t kMost = 4096;   // as paging.ranks
    bool good = true;
    for (const std::string& word : split(text, ' ')) {
      int64_t& rank = ranks.emplace_back();
      const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), rank);
      good = good && error == std::errc() && end == word.data() + word.size() && rank >= 1 && rank <= kMost;
    }
    if (!good || std::ssize(ranks) != models - 1)
      throw DataError(fmt::format("{}: fact 'ranks' is '{}': give a number from 1 to {} for each of its {} adapters, or leave the fact out", recording.file, text, kMost, models - 1));
  }
  void check_row(int64_t r) const {
    double square = 0;
    for (const float v : embeddings.subspan(r * embedding, embedding)) square += static_cast<double>(v) * v;
    if (!(square > 1e-24 && square < 1e24))
      throw DataError(fmt::format("{}: column 'embedding', row {}: its length is {}, which has no direction: embed the prompt again", recording.file, r, std::sqrt(square)));
    for (const float v : qualities.subspan(r * models, models))
      if (!(v >= 0 && v <= 1)) throw DataError(fmt::format("{}: column 'quality', row {}: {} is not in [0, 1]: scale the scores", recording.file, r, v));
    for (int64_t i = r * models; i < (r + 1) * models && !forms.empty(); ++i)
      if (!(forms[i] >= qualities[i] - 1e-5f && forms[i] <= 1))
        throw DataError(fmt::format("{}: column 'well_formed', row {}: {} is not between the quality {} and 1: answers in another form than asked for score 0", recording.file, r, forms[i], qualities[i]));
  }
};

// An embedding of any length as a context.
std::vector<float> context_of(std::span<const float> embedding) {
  std::vector<double> unit(embedding.begin(), embedding.end());
  const double length = length_of(unit);
  for (double& v : unit) v /= length;
  return context_of(unit);
}

class RecordedQualities final : public QualitySource {
 public:
  explicit RecordedQualities(const std::vector<std::string>& files) {
    for (const std::string& name : files) {
      const QualityFile file(name);
      if (models_ == 0) models_ = file.models, embedding_ = file.embedding, ranks_ = file.ranks;
      if (file.models != models_ || file.embedding != embedding_)
        throw DataError(fmt::format("{} has {} models and embeddings of {}, {} has {} and {}: record them alike", name, file.models, file.embedding, files[0], models_, embedding_));
      if (&name != &files[0] && file.forms.empty() == tells_form())
        throw DataError(fmt::format("one of {} and {} has a column 'well_formed', the other none: record them alike", files[0], name));
      if (file.ranks != ranks_) throw DataError(fmt::format("{} and {} tell other ranks of their adapters (fact 'ranks'): record them alike", files[0], name));
      add(file);
    }
    for (const auto& rows : rows_) summarise(rows);
  }

  int64_t adapters() const override { return models_ - 1; }
  int64_t tasks() const override { return std::ssize(rows_); }
  int64_t dimension() const override { return embedding_ + 1; }
  double noise() const override { return 0; }
  std::span<const int64_t> ranks() const override { return ranks_; }
  bool tells_form() const override { return !forms_.empty(); }
  double well_formed(const Prompt& prompt, int64_t adapter) const override { return tells_form() ? forms_[prompt.row * models_ + adapter] : 1; }
  std::span<const float> centroid(int64_t task) const override { return centroids_[task]; }
  int64_t home(int64_t task) const override { return homes_[task]; }
  int64_t task_of(const std::string& name) const override {
    const auto found = names_.find(name);
    return found == names_.end() ? -1 : found->second;
  }

  void prompt(uint64_t world, int64_t request, int64_t task, Prompt& out) const override {
    Draws draws = prompt_draws(world, request);
    out.task = task, out.row = rows_[task][draws.below(static_cast<uint32_t>(rows_[task].size()))];
    const std::span<const float> x = std::span(contexts_).subspan(out.row * dimension(), dimension());
    out.x.assign(x.begin(), x.end());
  }
  double quality(const Prompt& prompt, int64_t adapter) const override { return qualities_[prompt.row * models_ + adapter]; }

 private:
  void add(const QualityFile& file) {
    const int64_t before = std::ssize(qualities_) / models_;
    for (const RecordedEpisode& e : file.recording.episodes) {
      const auto [found, is_new] = names_.try_emplace(e.labels.at("task"), std::ssize(rows_));
      if (is_new) rows_.emplace_back();
      for (int64_t r = e.first; r < e.first + e.rows; ++r) rows_[found->second].push_back(before + r);
    }
    qualities_.insert(qualities_.end(), file.qualities.begin(), file.qualities.end());
    forms_.insert(forms_.end(), file.forms.begin(), file.forms.end());
    for (int64_t r = 0; r < file.recording.rows(); ++r) {
      const std::vector<float> x = context_of(file.embeddings.subspan(r * embedding_, embedding_));
      contexts_.insert(contexts_.end(), x.begin(), x.end());
    }
  }
  void summarise(const std::vector<int64_t>& rows) {
    std::vector<float> mean(dimension());
    std::vector<double> quality(models_);
    for (const int64_t r : rows) {
      for (int64_t i = 0; i < dimension(); ++i) mean[i] += contexts_[r * dimension() + i] / static_cast<float>(rows.size());
      for (int64_t a = 0; a < models_; ++a) quality[a] += qualities_[r * models_ + a];
    }
    centroids_.push_back(mean), homes_.push_back(std::max_element(quality.begin(), quality.end()) - quality.begin());
  }

  int64_t models_ = 0, embedding_ = 0;
  std::vector<int64_t> ranks_;
  std::map<std::string, int64_t> names_;
  std::vector<std::vector<int64_t>> rows_;        // of each task
  std::vector<float> contexts_, qualities_, forms_;   // [rows, d], [rows, N + 1], [rows, N + 1] or none
  std::vector<std::vector<float>> centroids_;
  std::vector<int64_t> homes_;
};

}  // namespace

void SyntheticQualityOptions::describe(Fields& f) {
  f.integer("adapters", adapters, {.low = 1, .high = 1024, .doc = "that there are, beside the base model"});
  f.integer("tasks", tasks, {.low = 1, .high = 1024, .doc = "kinds of prompts"});
  f.integer("embedding", embedding, {.low = 1, .high = 512, .doc = "numbers that tell a prompt"});
  f.number("spread", spread, {.low = 0, .high = 100, .doc = "of embeddings about their task's centre"});
  f.number("mismatch", mismatch, {.low = 0, .high = 100, .doc = "of an adapter's best direction about its task's centre"});
  f.number("reach", reach, {.low = 0, .high = 10, .doc = "quality that an adapter gains where it fits best, beside `middle`"});
  f.number("middle", middle, {.low = -10, .high = 10, .doc = "an adapter's quality on prompts it has nothing to do with"});
  f.number("base", base, {.low = -10, .high = 10, .doc = "quality of the base model"});
  f.number("noise", noise, {.low = 0, .high = 10, .doc = "standard deviation of an observed quality"});
  f.integer("world", world, {.low = 0, .high = 1e9, .doc = "which tasks and adapters"});
}

std::unique_ptr<QualitySource> synthetic_qualities(const SyntheticQualityOptions& options) { return std::make_unique<SyntheticQualities>(options); }
std::unique_ptr<QualitySource> recorded_qualities(const std::vector<std::string>& files) {
  if (files.empty()) throw ConfigError("adapter_route in mode recorded needs tables: name them under data: {train: [...]}");
  return std::make_unique<RecordedQualities>(files);
}


std::vector<float> QualityPrior::features(std::span<const float> x) const {
  if (centroids.empty()) return {x.begin(), x.end()};
  std::vector<float> out(centroids.size());
  out[best_arm(std::ssize(centroids), [&](int64_t task) { return std::inner_product(x.begin(), x.end(), centroids[task].begin(), 0.0); })] = 1;
  return out;
}

QualityPrior fit_qualities(const std::vector<std::string>& files, double ridge, double weight, int64_t count, bool by_task) {
  QualityPrior out;
  std::vector<std::vector<float>> contexts;
  std::vector<float> qualities;
  std::map<std::string, std::vector<float>> sums;   // of contexts by task
  int64_t models = 0;
  for (const std::string& name : files) {
    const QualityFile file(name);
    if (models == 0) models = file.models;
    if (file.models != models || (!contexts.empty() && file.embedding + 1 != std::ssize(contexts[0])))
      throw DataError(fmt::format("{} has {} models and embeddings of {}, {} has {} and {}: record them alike", name, file.models, file.embedding, files[0], models, contexts[0].size() - 1));
    for (const RecordedEpisode& e : file.recording.episodes)
      for (int64_t r = e.first; r < e.first + e.rows; ++r) {
        contexts.push_back(context_of(file.embeddings.subspan(r * file.embedding, file.embedding)));
        std::vector<float>& sum = sums[e.labels.at("task")];
        sum.resize(file.embedding + 1);
        for (size_t i = 0; i < sum.size(); ++i) sum[i] += contexts.back()[i];
      }
    qualities.insert(qualities.end(), file.qualities.begin(), file.qualities.end());
  }
  if (by_task)
    for (auto& [task, sum] : sums) {
      const auto length = static_cast<float>(std::sqrt(std::inner_product(sum.begin(), sum.end(), sum.begin(), 0.0)));
      for (float& v : sum) v /= length;
      out.centroids.push_back(std::move(sum));
    }
  const double scale = std::sqrt(weight);   // an observation scaled by it counts `weight` times
  const int64_t rows = std::ssize(contexts);
  for (int64_t r = 0; r < rows; ++r) {
    std::vector<float> x = out.features(contexts[r]);
    if (out.models.empty()) out.models.assign(models, RidgeModel(std::ssize(x), ridge));
    for (float& v : x) v *= static_cast<float>(scale);
    for (int64_t a = 0; a < models; ++a) out.models[a].learn(x, scale * qualities[r * models + a]);
  }
  count = std::min(count, rows);
  for (int64_t i = 0; i < count; ++i) out.rows.push_back(out.features(contexts[i * rows / count]));
  return out;
}

}  // namespace trimtab
