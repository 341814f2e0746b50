// Generation with masked diffusion language models (MDLM, arXiv 2406.07524; LLaDA, 2502.09992; Dream, 2508.15487): the answer begins as a
// canvas of masks, every pass of the model proposes a token for each of them, and a CommitControl says which proposals are kept.
//
// What a pass computes anew is an option: without a cache every row; with one, rows of prompt and answer keep the keys and values that an
// earlier pass gave them (row_cache.h says which and when they are renewed). A row's arithmetic depends on its own token, position and the
// keys it sees only, so an answer is the same, bit for bit, whatever batch it sits in and however many threads there are.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/options.h"
#include "core/pool.h"
#include "engine/diffusion/commit_control.h"
#include "engine/generation/generator.h"
#include "policies/language/transformer.h"

namespace trimtab {

// What is to be known of a model beside its weights.
struct DiffusionModel {
  int64_t mask_id = -1;
  bool shifted = false;   // logits of row i are about row i + 1, and so are hidden states: the prompt's last row proposes the first token
  int64_t block = 0;      // > 0: a row sees its own block of the answer and everything before, a row of the prompt the prompt; 0: all rows
  std::vector<int32_t> eos_ids = {};   // end the answer
};
DiffusionModel diffusion_model_of(const TransformerConfig& config);

// The answer's length follows the share of endings among the proposals (rho-EOS, arXiv 2601.22527): few of them, and masks are added at
// the end; many, and masks are cut off there: 8, 16, 32 or 64 for every 0.1 outside of [low, high]; in whole blocks where windows are blocks.
struct LengthOptions {
  bool adapt = false;
  int64_t passes = 64;     // that may change the length: an answer's first ones
  double low = 0.4, high = 0.6;
  int64_t longest = 2048;
  void describe(Fields& f);
};

struct DiffusionOptions {
  int64_t max_sequences = 16;       // decoded at the same time
  int64_t length = 128;             // of the canvas, where a request does not say
  std::string window = "full";      // full; block: one block after the other; sliding: `width` positions from the first mask on
  int64_t block = 32, width = 32;
  int64_t passes = 0;               // that schedules plan for an answer; 0: none planned
  std::string cache = "none";       // none, prefix, dual, delayed, drift: row_cache.h
  int64_t refresh = 0;              // passes after which everything is computed anew; 0: never for that reason
  double drift_threshold = 0.9;     // of the cosine under which everything is
  int64_t neighbourhood = 16;       // rows beside the window that drift computes in every pass
  bool eos_guard = true;            // an ending is committed only once nothing left of it is masked
  bool finish_early = true;         // an ending with nothing masked left of it ends the answer; false: every mask is filled
  int64_t beyond = 0;               // positions right of the window that are proposed for too; -1: all (rules that look ahead need it)
  bool divergence = true;           // MaskedPosition::drift is measured: length x vocabulary numbers for every sequence
  bool hidden = false;              // MaskedPosition::hidden is given
  LengthOptions adapt = {};
  void describe(Fields& f);
  void validate() const;
};

struct DiffusionSampling {
  double temperature = 0;   // 0: the likeliest token is proposed; else one drawn from softmax(logits / temperature). Confidences are at 1
  uint64_t seed = 0;        // draws belong to (seed, request key, sample, pass, position)
};

struct DiffusionCommit {
  int32_t position = 0, pass = 0;
};

struct DiffusionCompletion {
  int64_t request = 0, sample = 0;
  std::vector<int32_t> tokens;   // up to and without the ending
  std::vector<int32_t> canvas;   // all of the answer, -1 where a mask was left behind the ending
  bool ended = false;            // with an ending; else the canvas was too short
  bool empty = false;            // the first token ends it: valid, but worth a look
  int64_t passes = 0;
  int64_t forced = 0;            // passes whose commit the control did not choose
  int64_t refused = 0;           // picks that the guard took away
  int64_t rows = 0;              // computed
  std::vector<DiffusionCommit> commits;   // in their order
};

struct DiffusionTimes {
  double total_s = 0;
  int64_t passes = 0, rows = 0, tokens = 0;   // of the batch; committed
};

// Told of every pass of every answer before its picks are committed; `picks` are indices into state.masked. The state is gone after it.
using CommitObserver = std::function<void(const CommitState& state, std::span<const int32_t> picks, bool forced)>;

class DiffusionGenerator {
 public:
  // ConfigError when the model has no mask token, options are out of range or do not fit each other or the model's positions. The model
  // must outlive the generator; its weights are read at the start of every generate() call. f32 models.
  DiffusionGenerator(const Transformer& model, DiffusionModel facts, DiffusionOptions options = {});
  ~DiffusionGenerator();

  // Completions in the order of requests, and of samples within. A request's max_tokens is its canvas (0: options.length). `control` is
  // asked from one thread. DataError when a prompt is empty, holds the mask or an id outside the vocabulary, or does not fit into the
  // model's positions together with its answer; RunError when logits are not finite.
  std::vector<DiffusionCompletion> generate(std::span<const GenerationRequest> requests, const DiffusionSampling& sampling, CommitControl& control,
                                            Pool& pool, const CommitObserver& observer = {});
  const DiffusionTimes& times() const;   // of the last call

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace trimtab
