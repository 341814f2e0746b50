// Recorded traces of token commitment: every pass of an answer as a CommitControl saw it, and which tokens stayed. Supervised controllers learn
// from them (trace_lock.h, learn2pd.h), and rules are compared on them (replay.h).
//
// A file in the format of core/recording.h, environment "token_commit"; an episode is an answer, a row one proposed position of one pass: the
// window's by rising position, then those beyond it. trace_columns() says what the columns are. Passes that are not to be learned from are
// there with the rows of what they committed alone (column `whole` 0), so that every later state can be rebuilt exactly: its tokens are those
// committed before. About 150 bytes a row, and as much as they take for hidden states.
//
// Labels of an answer: "length" (of its canvas, tokens), "from" (the first pass that may be learned from), what the answer was for, what became of it.
//
// Where to learn from. A proposal is stable when it equals the token finally there (TraceLock, arXiv 2605.24697). In a trace that a rule or
// controller made to the end, whatever it committed is final, so by definition it never was wrong. Traces for training are therefore decoded by it for the
// first passes alone and with care (top1, one token a pass) from there on; passes from there on are stored. So a label says whether a proposal
// survives careful decoding from a state that was visited, however it was reached (relabelling as in DAgger, Ross et al., arXiv 1011.0686).
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/recording.h"
#include "engine/diffusion/commit_control.h"

namespace trimtab {

struct TraceColumn {
  const char *name, *unit, *doc;
  float low, high;   // inclusive
};
inline constexpr size_t kTraceWholes = 16, kTraceReals = 4;
std::span<const TraceColumn> trace_columns();   // kTraceWholes of i64, then kTraceReals of f32; without the optional `hidden` [hidden size], f32

// 1: the proposal is the position's final token; 0: it is not; -1: unknown, and no part of losses and figures. `final` is -1 where a mask was
// left behind the ending: an ending proposed there may well be right, but nobody will ever know; a word was premature, as the answer was over.
int stability(const MaskedPosition& proposed, int32_t final_token);

struct CommitTraceOptions {
  double share = 1;      // of an answer's passes that are stored whole, drawn; their labels do not depend on it
  bool hidden = false;   // hidden states are stored, where states have them
  uint64_t seed = 1;
};

// Records answers of a generator, several at once: they are told apart by CommitState::sequence. ConfigError for a canvas whose length
// changes, and hidden states of different widths or none.
class CommitTraces {
 public:
  explicit CommitTraces(const CommitTraceOptions& options = {}) : options_(options) {}

  // A new answer under this number; passes before `from` are not learned from.
  void begin(int64_t sequence, std::map<std::string, std::string> labels, int64_t from = 0);
  void see(const CommitState& state, std::span<const int32_t> picks, bool forced);   // a CommitObserver, for every pass from the first on
  // The answer is over: DiffusionCompletion::canvas, and labels known by now ("correct": "1"). False when no pass is left to learn from: the answer
  // is dropped. Answers are stored in the order of these calls.
  bool end(int64_t sequence, std::span<const int32_t> canvas, const std::map<std::string, std::string>& labels = {});

  int64_t rows() const { return static_cast<int64_t>(done_.numbers.size()); }
  int64_t passes() const { return passes_; }   // stored whole, of answers that are over
  // Answers so far. DataError when there is none.
  Recording recording(std::map<std::string, std::string> facts) const;

 private:
  struct Row {   // in the order of trace_columns()
    std::array<int32_t, kTraceWholes> whole;
    std::array<float, kTraceReals> real;
  };
  struct Rows {
    std::vector<Row> numbers;
    std::vector<float> hidden;   // [rows, hidden size]
  };
  struct Answer {
    std::map<std::string, std::string> labels;
    int64_t number = 0, from = 0, passes = 0, stored = 0;
    std::vector<int32_t> tokens;
    Rows rows;
  };
  void add(Answer& answer, const CommitState& state, const MaskedPosition& m, bool committed, bool forced, bool beyond, bool whole);

  CommitTraceOptions options_;
  std::map<int64_t, Answer> open_;   // by sequence
  Rows done_;
  std::vector<RecordedEpisode> episodes_;
  int64_t begun_ = 0, passes_ = 0, hidden_size_ = -1;
};

// A pass as it was decided; spans of the state point into it and into the reader.
struct TracedPass {
  TracedPass() = default;
  TracedPass(const TracedPass&) = delete;
  TracedPass& operator=(const TracedPass&) = delete;

  int64_t answer = 0;                   // of the reader, from 0; state.sequence is the same
  CommitState state;
  bool forced = false;                  // nothing was chosen: the generator committed the most confident
  std::vector<int32_t> final_tokens;    // of state.masked, then of state.beyond; -1: left masked
  std::vector<int32_t> picks;           // committed: indices into state.masked
  std::vector<int32_t> tokens;
  std::vector<MaskedPosition> proposals;
  std::span<const int32_t> finals() const { return std::span(final_tokens).first(state.masked.size()); }
};

// Traces of files, all in memory. DataError naming file and row where a state could not have been: passes that are missing or out of order, a
// position committed twice, a final token that is not the one committed, positions outside of the answer or the window. ConfigError for no files.
class CommitTraceReader {
 public:
  explicit CommitTraceReader(const std::vector<std::string>& files);
  ~CommitTraceReader();

  int64_t answers() const;
  int64_t passes() const;                            // stored whole; those of an answer follow one another
  int64_t hidden_size() const;                       // 0: none
  const std::map<std::string, std::string>& labels(int64_t answer) const;
  void look(int64_t pass, TracedPass& out) const;    // thread-safe

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace trimtab
