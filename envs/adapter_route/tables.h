// How good an adapter's answer to a prompt is. A prompt is told by its context: an embedding u of unit length beside a constant feature,
// x = (u, 1) / sqrt(2), of unit length too, so that a linear model has an intercept. Adapters are 0 to N - 1, the base model is N.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/archive.h"
#include "core/options.h"
#include "core/recording.h"
#include "policies/bandits/ridge_model.h"

namespace trimtab {

struct Prompt {
  int64_t task = 0, row = -1;   // row of a recorded table; -1: none
  std::vector<float> x;         // [d]
  void serialise(Archive& a) { a(task), a(row), a(x); }
};

// Synthetic truth: quality = middle + reach v_a . u, with v_a a unit vector near the centre of the task that adapter a was made for;
// the base model has `base` everywhere. So theta_a = sqrt(2) (reach v_a, middle) is known, and so is the best router.
struct SyntheticQualityOptions {
  int64_t adapters = 15, tasks = 15, embedding = 16;
  double spread = 0.5;       // of embeddings about their task's centre
  double mismatch = 0.5;     // of v_a about its task's centre
  double reach = 0.4, middle = 0.5, base = 0.45;
  double noise = 0.1;        // standard deviation of an observed quality
  int64_t world = 1;         // which centres and adapters
  void describe(Fields& f);
};

class QualitySource {
 public:
  virtual ~QualitySource() = default;
  virtual int64_t adapters() const = 0;      // N
  virtual int64_t tasks() const = 0;
  virtual int64_t dimension() const = 0;     // d
  // The prompt of a request: of a world (world_of), whatever was served before.
  virtual void prompt(uint64_t world, int64_t request, int64_t task, Prompt& out) const = 0;
  virtual double quality(const Prompt& prompt, int64_t adapter) const = 0;   // expected
  virtual double noise() const = 0;          // standard deviation of what is observed
  virtual std::span<const int64_t> ranks() const { return {}; }   // [N] of the adapters; empty where they are not told
  virtual bool tells_form() const { return false; }
  virtual double well_formed(const Prompt&, int64_t) const { return 1; }   // share of an adapter's answers in the form asked for; 1 where it is not told
  virtual std::span<const float> centroid(int64_t task) const = 0;           // [d], mean context
  virtual int64_t task_of(const std::string& name) const = 0;                // -1: unknown. Synthetic tasks are called "0", "1", ...
  virtual int64_t home(int64_t task) const = 0;                              // best on average over the task; N: the base model
};

std::unique_ptr<QualitySource> synthetic_qualities(const SyntheticQualityOptions& options);

// Tables recorded from real adapters, each prompt answered by each. A recording (core/recording.h) of environment "adapter_route":
//
//   embedding  [rows, e]            of the prompt, not zero; its length does not matter
//   quality    [rows, N + 1] 0..1   of the answer of each adapter, the base model's last
//   well_formed [rows, N + 1] 0..1  share of these answers in the form asked for, at least `quality`, since others score 0; may be left out
//
// whose episodes are the prompts of one task, named by the label "task". Tasks of the same name in several files are one. The fact "ranks",
// which may be left out, tells the adapters' ranks: "8 16 64". DataError where a file is not that; ConfigError for no files.
std::unique_ptr<QualitySource> recorded_qualities(const std::vector<std::string>& files);

// What such tables tell before the first request: linear models of every adapter's quality and the base model's [N + 1], fitted to all rows, each
// counting `weight` observations, and `count` rows, evenly spaced over all of them (fewer where there are not so many). Models see features of a
// context: the context itself, or by_task an indicator of the task whose centroid is nearest by cosine, which has far less to estimate.
struct QualityPrior {
  std::vector<RidgeModel> models;
  std::vector<std::vector<float>> rows;        // features
  std::vector<std::vector<float>> centroids;   // [tasks] unit vectors; empty: features are the context
  std::vector<float> features(std::span<const float> x) const;
};
QualityPrior fit_qualities(const std::vector<std::string>& files, double ridge, double weight, int64_t count, bool by_task);

}  // namespace trimtab
