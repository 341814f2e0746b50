#include "envs/token_commit/traces.h"

#include <algorithm>
#include <charconv>

#include "core/error.h"
#include "core/random.h"

namespace trimtab {
namespace {

constexpr const char* kEnvironment = "token_commit";
constexpr float kMost = 1 << 30;   // of counts: 32 bits hold them, and f32 holds the bound
constexpr int64_t kLongest = 1 << 20;

enum Whole {
  kPass, kPosition, kToken, kCommitted, kFinal, kForced, kWindowBegin, kWindowEnd, kWindowMasks, kWindowPass, kWindowPasses, kHeld, kEnds, kWaits, kBeyond, kIsWhole
};
enum Real { kConfidence, kMargin, kEntropy, kDrift };
constexpr Whole kOfThePass[] = {kForced, kWindowBegin, kWindowEnd, kWindowMasks, kWindowPass, kWindowPasses, kIsWhole};   // equal in all rows of a pass

constexpr TraceColumn kColumns[] = {
    {"pass", "passes", "that the answer had before this one; from 0, none is left out", 0, kMost},
    {"position", "tokens", "proposed for, from 0 at the answer's first token", 0, kMost},
    {"token", "", "id of what is proposed", 0, kMost},
    {"committed", "", "1: this pass made the proposal a token", 0, 1},
    {"final", "", "id of the token finally at the position; -1: left masked behind the ending", -1, kMost},
    {"forced", "", "1: nothing was chosen, so the generator committed the most confident one; of the pass", 0, 1},
    {"window_begin", "tokens", "first position that is decided now; of the pass", 0, kMost},
    {"window_end", "tokens", "behind the last position that is decided now; of the pass", 1, kMost},
    {"window_masks", "tokens", "masked in the window when it was opened; of the pass", 0, kMost},
    {"window_pass", "passes", "that the window had before this one; of the pass", 0, kMost},
    {"window_passes", "passes", "that the schedule plans for the window, 0: no plan; of the pass", 0, kMost},
    {"held", "passes", "for which the likeliest token has been this one, this pass not counted", 0, kMost},
    {"ends", "", "1: the proposal ends the answer", 0, 1},
    {"waits", "", "1: the guard takes this ending only together with all masks left of it", 0, 1},
    {"beyond", "", "1: right of the window, not to be decided now", 0, 1},
    {"whole", "", "1: all that the pass proposed is here; 0: only what it committed, to rebuild later states; of the pass", 0, 1},
    {"confidence", "1", "probability of the proposal", 0, 1},
    {"margin", "1", "by which it is likelier than the next", -1, 1},
    {"entropy", "nat", "of the distribution that it is from", 0, 1e4f},
    {"drift", "nat", "KL to the distribution of the pass before; 0 when there was none", 0, 1e30f},
};
static_assert(std::size(kColumns) == kTraceWholes + kTraceReals);

constexpr const char* kHiddenDoc = "the model's final hidden state that the proposal came from; 0 in rows of passes that are not whole";

}  // namespace

std::span<const TraceColumn> trace_columns() { return kColumns; }

int stability(const MaskedPosition& proposed, int32_t final_token) {
  if (final_token < 0) return proposed.ends ? -1 : 0;
  return proposed.token == final_token;
}

// ---- the recorder ----

void CommitTraces::begin(int64_t sequence, std::map<std::string, std::string> labels, int64_t from) {
  TT_CHECK(!open_.contains(sequence), "answer {} has begun already", sequence);
  TT_CHECK_GE(from, 0);
  Answer& answer = open_[sequence];
  answer.labels = std::move(labels), answer.number = begun_++, answer.from = from;
}

void CommitTraces::add(Answer& answer, const CommitState& s, const MaskedPosition& m, bool committed, bool forced, bool beyond, bool whole) {
  const auto narrow = [](int64_t n) { return static_cast<int32_t>(n); };
  Row row;
  row.whole = {narrow(s.pass), m.position, m.token, committed, -1, forced, narrow(s.window.begin), narrow(s.window.end), narrow(s.window_masks),
               narrow(s.window_pass), narrow(s.window_passes), m.held, m.ends, m.waits, beyond, whole};
  row.real = {m.confidence, m.margin, m.entropy, m.drift};
  answer.rows.numbers.push_back(row);
  if (!options_.hidden) return;
  if (hidden_size_ < 0) hidden_size_ = static_cast<int64_t>(m.hidden.size());
  if (m.hidden.empty() || static_cast<int64_t>(m.hidden.size()) != hidden_size_)
    throw ConfigError(fmt::format("hidden states are to be recorded, but one has {} numbers, the first {}: let the generator give them, and of one model",
                                  m.hidden.size(), hidden_size_));
  if (whole) answer.rows.hidden.insert(answer.rows.hidden.end(), m.hidden.begin(), m.hidden.end());
  else answer.rows.hidden.resize(answer.rows.hidden.size() + static_cast<size_t>(hidden_size_));
}

void CommitTraces::see(const CommitState& s, std::span<const int32_t> picks, bool forced) {
  const auto found = open_.find(s.sequence);
  TT_CHECK(found != open_.end(), "answer {} has not begun", s.sequence);
  Answer& answer = found->second;
  TT_CHECK_EQ(s.pass, answer.passes);   // none is missed
  if (answer.passes++ == 0) answer.tokens.assign(s.tokens.size(), -1);
  if (s.tokens.size() != answer.tokens.size())
    throw ConfigError(fmt::format("the canvas of answer {} is {} tokens long and was {}: traces need a fixed length, so leave adapt out", s.sequence,
                                  s.tokens.size(), answer.tokens.size()));
  TT_CHECK(std::equal(s.tokens.begin(), s.tokens.end(), answer.tokens.begin()), "answer {} holds tokens that no pass committed", s.sequence);
  Draws draws(options_.seed, Stream::kWorld, static_cast<uint32_t>(answer.number), static_cast<uint32_t>(s.pass));
  const bool whole = s.pass >= answer.from && draws.uniform() < options_.share;
  answer.stored += whole;
  std::vector<char> committed(s.masked.size());
  for (const int32_t i : picks) committed[i] = 1, answer.tokens[s.masked[i].position] = s.masked[i].token;
  for (size_t i = 0; i < s.masked.size(); ++i)
    if (whole || committed[i]) add(answer, s, s.masked[i], committed[i] != 0, forced, false, whole);
  for (const MaskedPosition& m : s.beyond)
    if (whole) add(answer, s, m, false, forced, true, true);
}

bool CommitTraces::end(int64_t sequence, std::span<const int32_t> canvas, const std::map<std::string, std::string>& labels) {
  const auto found = open_.find(sequence);
  TT_CHECK(found != open_.end(), "answer {} has not begun", sequence);
  Answer answer = std::move(found->second);
  open_.erase(found);
  if (answer.stored == 0) return false;
  TT_CHECK(std::equal(canvas.begin(), canvas.end(), answer.tokens.begin(), answer.tokens.end()), "the canvas of answer {} is not what was committed", sequence);
  for (Row& row : answer.rows.numbers) row.whole[kFinal] = canvas[row.whole[kPosition]];
  for (const auto& [key, text] : labels) answer.labels[key] = text;
  answer.labels["length"] = fmt::to_string(canvas.size()), answer.labels["from"] = fmt::to_string(answer.from);
  episodes_.push_back({rows(), static_cast<int64_t>(answer.rows.numbers.size()), std::move(answer.labels)});
  done_.numbers.insert(done_.numbers.end(), answer.rows.numbers.begin(), answer.rows.numbers.end());
  done_.hidden.insert(done_.hidden.end(), answer.rows.hidden.begin(), answer.rows.hidden.end());
  passes_ += answer.stored;
  return true;
}

Recording CommitTraces::recording(std::map<std::string, std::string> facts) const {
  if (episodes_.empty()) throw DataError("no answer has a pass to learn from: record more answers, or learn from earlier passes on");
  Recording out;
  out.environment = kEnvironment, out.facts = std::move(facts), out.episodes = episodes_;
  const auto column = [&](const TraceColumn& c) -> RecordedColumn& {
    RecordedColumn& it = out.columns[c.name];
    it.unit = c.unit, it.doc = c.doc, it.low = c.low, it.high = c.high;
    return it;
  };
  std::vector<int64_t> whole(done_.numbers.size());
  for (size_t c = 0; c < kTraceWholes; ++c) {
    std::transform(done_.numbers.begin(), done_.numbers.end(), whole.begin(), [c](const Row& r) { return r.whole[c]; });
    column(kColumns[c]).values = Tensor::i64({rows()}, whole);
  }
  std::vector<float> real(done_.numbers.size());
  for (size_t c = 0; c < kTraceReals; ++c) {
    std::transform(done_.numbers.begin(), done_.numbers.end(), real.begin(), [c](const Row& r) { return r.real[c]; });
    column(kColumns[kTraceWholes + c]).values = Tensor::f32({rows()}, real);
  }
  if (options_.hidden) column({"hidden", "", kHiddenDoc, -1e30f, 1e30f}).values = Tensor::f32({rows(), hidden_size_}, done_.hidden);
  return out;
}

// ---- the reader ----

namespace {

struct TraceFile {
  Recording recording;
  std::array<std::span<const int64_t>, kTraceWholes> whole;
  std::array<std::span<const float>, kTraceReals> real;
  std::span<const float> hidden;
  int64_t hidden_size = 0;

  explicit TraceFile(const std::string& file) : recording(read_recording(file, kEnvironment)) {
    for (size_t c = 0; c < kTraceWholes; ++c) whole[c] = recording.i64(kColumns[c].name), check_range(kColumns[c], whole[c]);
    for (size_t c = 0; c < kTraceReals; ++c) real[c] = recording.f32(kColumns[kTraceWholes + c].name), check_range(kColumns[kTraceWholes + c], real[c]);
    const auto found = recording.columns.find("hidden");
    if (found == recording.columns.end()) return;
    hidden_size = found->second.width(), hidden = recording.f32("hidden", hidden_size);
  }
  int64_t at(Whole column, int64_t row) const { return whole[column][row]; }

  [[noreturn]] void refuse(const std::string& place, const std::string& what) const {
    throw DataError(fmt::format("{}: {}: {}; record it again", recording.file, place, what));
  }
  [[noreturn]] void refuse_row(int64_t row, const std::string& what) const { refuse(fmt::format("row {}", row), what); }
  template <class T>
  void check_range(const TraceColumn& column, std::span<const T> values) const {   // what a file says of its own columns binds nobody
    for (size_t i = 0; i < values.size(); ++i)
      if (const double x = static_cast<double>(values[i]); !(x >= column.low && x <= column.high))
        refuse(fmt::format("column '{}', row {}", column.name, i), fmt::format("{} is not within {} and {}", values[i], column.low, column.high));
  }
};

// An answer of a file: what was committed where and when.
struct TracedAnswer {
  const TraceFile* file = nullptr;
  const RecordedEpisode* episode = nullptr;
  int64_t length = 0, ended_at = INT64_MAX;   // the pass that committed the first ending
  std::vector<int32_t> tokens;                // -1: left masked
  std::vector<int64_t> committed_at;          // pass; INT64_MAX: never
};

struct PlacedPass {
  int64_t answer = 0, first = 0, rows = 0, masked = 0;   // rows of the file; of the window
};

int64_t length_of(const TraceFile& f, size_t episode) {
  const auto& labels = f.recording.episodes[episode].labels;
  const auto found = labels.find("length");
  const std::string place = fmt::format("episode {}", episode);
  if (found == labels.end()) f.refuse(place, "the label 'length' is missing");
  int64_t out = 0;
  const char* const last = found->second.data() + found->second.size();
  const auto [end, error] = std::from_chars(found->second.data(), last, out);
  if (error != std::errc() || end != last || out < 1 || out > kLongest) f.refuse(place, fmt::format("the label 'length' is no whole number from 1 to {}", kLongest));
  return out;
}

// Reads one answer row by row and refuses what no generator could have done.
class AnswerReader {
 public:
  AnswerReader(const TraceFile& file, size_t episode, int64_t answer, std::vector<PlacedPass>& passes) : f_(file), passes_(passes) {
    out_.file = &file, out_.episode = &file.recording.episodes[episode], out_.length = length_of(file, episode);
    out_.tokens.assign(out_.length, -1), out_.committed_at.assign(out_.length, INT64_MAX);
    const int64_t end = out_.episode->first + out_.episode->rows;
    int64_t pass = 0;
    for (int64_t first = out_.episode->first, next; first < end; first = next, ++pass) {
      if (f_.at(kPass, first) != pass)
        f_.refuse_row(first, fmt::format("is of pass {} where pass {} should be: passes count up from 0 and none is left out", f_.at(kPass, first), pass));
      for (next = first; next < end && f_.at(kPass, next) == pass;) ++next;
      read_pass(first, next, answer);
    }
    for (int64_t r = out_.episode->first; r < end; ++r)
      if (f_.at(kFinal, r) != out_.tokens[f_.at(kPosition, r)])
        f_.refuse_row(r, fmt::format("says that token {} is finally at position {}, but the passes commit {} there", f_.at(kFinal, r), f_.at(kPosition, r),
                                     out_.tokens[f_.at(kPosition, r)]));
  }
  TracedAnswer take() { return std::move(out_); }

 private:
  void read_pass(int64_t first, int64_t end, int64_t answer) {
    PlacedPass placed{answer, first, end - first, 0};
    for (int64_t r = first; r < end; ++r) {
      for (const Whole c : kOfThePass)
        if (f_.at(c, r) != f_.at(c, first)) f_.refuse_row(r, fmt::format("column '{}' differs from the pass's first row, but is the pass's", kColumns[c].name));
      if (r > first && std::pair(f_.at(kBeyond, r), f_.at(kPosition, r)) <= std::pair(f_.at(kBeyond, r - 1), f_.at(kPosition, r - 1)))
        f_.refuse_row(r, "is out of order: the window's rows come first, then those beyond it, by rising position");
      check_row(r);
      placed.masked += f_.at(kBeyond, r) == 0;
    }
    int64_t commits = 0;
    for (int64_t r = first; r < end; ++r) commits += commit(r);
    if (commits == 0) f_.refuse_row(first, "its pass commits nothing");
    if (f_.at(kIsWhole, first) == 1) passes_.push_back(placed);
    else if (commits != end - first) f_.refuse_row(first, "its pass is not whole, but has rows that it did not commit");
  }
  void check_row(int64_t r) const {
    const int64_t position = f_.at(kPosition, r), begin = f_.at(kWindowBegin, r), end = f_.at(kWindowEnd, r);
    const bool beyond = f_.at(kBeyond, r) == 1;
    if (begin >= end || end > out_.length) f_.refuse_row(r, fmt::format("its window [{}, {}) is not within the answer's {} tokens", begin, end, out_.length));
    if (position >= out_.length) f_.refuse_row(r, fmt::format("position {} is outside of the answer's {} tokens", position, out_.length));
    if (beyond ? position < end : position < begin || position >= end)
      f_.refuse_row(r, fmt::format("position {} is {} the window [{}, {})", position, beyond ? "beyond, but within or left of" : "not within", begin, end));
    if (out_.tokens[position] >= 0)
      f_.refuse_row(r, fmt::format("position {} is proposed for, or committed, a second time: pass {} committed it", position, out_.committed_at[position]));
    if (beyond && f_.at(kCommitted, r) == 1) f_.refuse_row(r, "is committed, but beyond the window");
    if (f_.at(kWaits, r) > f_.at(kEnds, r)) f_.refuse_row(r, "waits, but does not end the answer");
  }
  bool commit(int64_t r) {
    if (f_.at(kCommitted, r) == 0) return false;
    const int64_t position = f_.at(kPosition, r), pass = f_.at(kPass, r);
    out_.tokens[position] = static_cast<int32_t>(f_.at(kToken, r)), out_.committed_at[position] = pass;
    if (f_.at(kEnds, r) == 1) out_.ended_at = std::min(out_.ended_at, pass);
    return true;
  }

  const TraceFile& f_;
  std::vector<PlacedPass>& passes_;
  TracedAnswer out_;
};

}  // namespace

struct CommitTraceReader::Impl {
  std::vector<std::unique_ptr<TraceFile>> files;
  std::vector<TracedAnswer> answers;
  std::vector<PlacedPass> passes;
};

CommitTraceReader::CommitTraceReader(const std::vector<std::string>& files) : impl_(std::make_unique<Impl>()) {
  if (files.empty()) throw ConfigError("no traces of token commitment are named: give recordings of answers with --data");
  for (const std::string& name : files) {
    const TraceFile& file = *impl_->files.emplace_back(std::make_unique<TraceFile>(name));
    if (const TraceFile& first = *impl_->files.front(); file.hidden_size != first.hidden_size)
      throw DataError(fmt::format("{} holds hidden states of {} numbers, {} of {}: record them alike, with one model", name, file.hidden_size, files[0],
                                  first.hidden_size));
    for (size_t e = 0; e < file.recording.episodes.size(); ++e)
      impl_->answers.push_back(AnswerReader(file, e, static_cast<int64_t>(impl_->answers.size()), impl_->passes).take());
  }
  if (impl_->passes.empty()) throw DataError(fmt::format("{}: no pass is stored whole, so there is nothing to learn from; record it again", files[0]));
}
CommitTraceReader::~CommitTraceReader() = default;

int64_t CommitTraceReader::answers() const { return static_cast<int64_t>(impl_->answers.size()); }
int64_t CommitTraceReader::passes() const { return static_cast<int64_t>(impl_->passes.size()); }
int64_t CommitTraceReader::hidden_size() const { return impl_->files[0]->hidden_size; }
const std::map<std::string, std::string>& CommitTraceReader::labels(int64_t answer) const { return impl_->answers[answer].episode->labels; }

void CommitTraceReader::look(int64_t pass, TracedPass& out) const {
  const PlacedPass& placed = impl_->passes[pass];
  const TracedAnswer& answer = impl_->answers[placed.answer];
  const TraceFile& f = *answer.file;
  const int64_t first = placed.first, number = f.at(kPass, first);
  out.answer = placed.answer, out.forced = f.at(kForced, first) == 1;
  out.tokens.resize(answer.length), out.proposals.resize(placed.rows), out.final_tokens.resize(placed.rows), out.picks.clear();
  for (int64_t p = 0; p < answer.length; ++p) out.tokens[p] = answer.committed_at[p] < number ? answer.tokens[p] : -1;
  for (int64_t i = 0; i < placed.rows; ++i) {
    const int64_t r = first + i;
    const auto narrow = [&](Whole c) { return static_cast<int32_t>(f.at(c, r)); };
    out.proposals[i] = {.position = narrow(kPosition), .token = narrow(kToken), .confidence = f.real[kConfidence][r], .margin = f.real[kMargin][r],
                        .entropy = f.real[kEntropy][r], .drift = f.real[kDrift][r], .held = narrow(kHeld), .ends = f.at(kEnds, r) == 1, .waits = f.at(kWaits, r) == 1,
                        .hidden = f.hidden.subspan(r * f.hidden_size, f.hidden_size)};
    out.final_tokens[i] = narrow(kFinal);
    if (f.at(kCommitted, r) == 1) out.picks.push_back(static_cast<int32_t>(i));
  }
  out.state = {.sequence = placed.answer, .length = answer.length, .pass = number, .window = {f.at(kWindowBegin, first), f.at(kWindowEnd, first)},
               .window_masks = f.at(kWindowMasks, first), .window_pass = f.at(kWindowPass, first), .window_passes = f.at(kWindowPasses, first), .tokens = out.tokens,
               .ended = answer.ended_at < number, .masked = std::span(out.proposals).first(placed.masked), .beyond = std::span(out.proposals).subspan(placed.masked)};
}

}  // namespace trimtab
