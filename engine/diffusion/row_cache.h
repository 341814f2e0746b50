// Which rows of a canvas a pass computes anew; the others are seen through keys and values that an earlier pass left.
//
//   none      all rows in every pass: exact
//   prefix    Fast-dLLM (arXiv 2505.22618): all rows when a window opens; then the window and what is right of it
//   dual      its dual cache: all rows when a window opens; then the window alone
//   delayed   dKV-Cache (2505.15781): masked rows, and each committed row once more in the pass behind its commit
//   drift     after Elastic-Cache (2510.14973): the window, `neighbourhood` rows beside it and rows committed in the pass before; all rows once
//             the final hidden state of one of the four rows committed last turns away from what it was when last everything was computed (or
//             when it was first read as a token): a cosine below the threshold. The paper watches attention weights instead, layer by layer,
//             and renews deeper layers within the same pass; here the next pass renews all of them.
//
// All but none also compute everything after `refresh` passes, rows never computed, and rows whose token has changed. What proposes for a
// masked position of the window is computed in every pass. Where the model has blocks, nothing right of the last block that is proposed for
// is ever computed, and a row that sees no mask and was computed together with all it sees is final: prefix is exact there.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/diffusion/diffusion_generator.h"

namespace trimtab {

struct CanvasPass {
  std::span<const int32_t> tokens;   // of prompt and answer, the mask's id where masked
  CommitWindow window;               // of the answer
  int64_t proposed_end = 0;          // of the answer: positions from here on are not proposed for
  bool opens = false;                // a window's first pass, where windows do not slide
};

class RowCache {
 public:
  RowCache(const DiffusionModel& model, const DiffusionOptions& options, int64_t prompt, int64_t hidden_size);

  int64_t visible(int64_t row, int64_t total) const;   // rows that it sees: the first so many
  int64_t predictor(int64_t position) const { return prompt_ + position - (model_.shifted ? 1 : 0); }   // the row that proposes for it
  bool wants_hidden() const { return kind_ == Kind::kDrift; }

  void plan(const CanvasPass& pass, CacheRefresh wish, std::vector<int32_t>& rows);   // rising
  // The planned rows are computed; `hidden` [.][hidden_size]: final states of the rows from prompt - 1 on, where asked for.
  void done(const CanvasPass& pass, const std::vector<int32_t>& rows, std::span<const float> hidden);
  void committed(int64_t row) { committed_.push_back(row); }

 private:
  enum class Kind { kNone, kPrefix, kDual, kDelayed, kDrift };
  static Kind kind_of(const std::string& name);
  bool masked(const CanvasPass& pass, int64_t row) const { return row >= prompt_ && pass.tokens[row] == model_.mask_id; }
  bool due(const CanvasPass& pass) const;
  bool wanted(const CanvasPass& pass, CacheRefresh wish, int64_t row) const;
  bool must(const CanvasPass& pass, int64_t row) const;
  void choose_probes(const CanvasPass& pass);
  void measure(const CanvasPass& pass, const std::vector<int32_t>& rows, std::span<const float> hidden);

  const DiffusionModel& model_;
  const DiffusionOptions& options_;
  Kind kind_;
  int64_t prompt_, hidden_size_;
  int64_t since_ = 0;        // passes since everything was computed, that one counted; 0: never was
  bool everything_ = false, drifted_ = false;
  std::vector<int32_t> written_;     // [rows] the token that a row's keys belong to; -1: none
  std::vector<char> final_;          // [rows]
  std::vector<int64_t> committed_, probes_;   // rows, the last one last
  std::vector<float> reference_;     // [answer][hidden_size]
};

}  // namespace trimtab
