#include "engine/speculative/draft_recorder.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "core/error.h"
#include "core/random.h"
#include "engine/generation/checks.h"
#include "engine/generation/team.h"
#include "engine/speculative/model_runner.h"
#include "engine/speculative/token_distribution.h"

namespace trimtab {
namespace {

constexpr int64_t kPassRows = 96;   // of a pass, at most

struct Columns {
  std::vector<int64_t> token, draft_token;
  std::vector<float> target_entropy, accept, alpha, logprob, entropy, top, margin, hidden;
};

// Both models on the texts, one at a time: the text itself, and then at several positions at once the drafts that leave it there.
class TextRecorder {
 public:
  TextRecorder(const Transformer& target, const Transformer& draft, const DraftRecorderOptions& o, const RunnerLimits& limits, Pool& pool)
      : o_(o), branches_(limits.branches), vocab_(target.config().vocab_size), target_(target, 0, limits, pool), draft_(draft, 0, limits, pool),
        law_(vocab_, o.sampling), size_(target_.logits_size()), hidden_(draft.config().hidden_size), branch_logits_(branches_ * o.depth * size_),
        states_(branches_ * hidden_), q_(branches_ * o.depth * vocab_), p_(vocab_) {}

  void record(const RecordedText& text, int64_t number, Team& team, Columns& out) {
    text_ = &text, number_ = number;
    read(target_, target_logits_, nullptr, team);
    read(draft_, draft_logits_, &text_states_, team);
    const int64_t rows = static_cast<int64_t>(text.tokens.size());
    for (int64_t first = 0; first < rows; first += branches_) record_positions(first, std::min(rows, first + branches_), team, out);
  }

 private:
  // Logits of every token of the answer, in order: row i is what token i came from.
  void read(ModelRunner& runner, std::vector<float>& logits, std::vector<float>* states, Team& team) {
    const int64_t prompt = static_cast<int64_t>(text_->prompt.size()), answer = static_cast<int64_t>(text_->tokens.size());
    logits.resize(answer * size_);
    if (states != nullptr) states->resize(answer * hidden_);
    for (int64_t i = 0; i < prompt + answer - 1;) {
      runner.clear();
      for (const int64_t end = std::min(prompt + answer - 1, i + kPassRows); i < end; ++i) {
        const int64_t row = i + 1 - prompt;
        runner.add({.slot = 0, .prompt = prompt, .index = i, .token = i < prompt ? text_->prompt[i] : text_->tokens[i - prompt],
                    .logits = row >= 0 ? logits.data() + row * size_ : nullptr, .hidden = row >= 0 && states != nullptr ? states->data() + row * hidden_ : nullptr});
      }
      runner.run(team);
    }
  }

  void record_positions(int64_t first, int64_t end, Team& team, Columns& out) {
    const int64_t count = end - first, depth = o_.depth, prompt = static_cast<int64_t>(text_->prompt.size());
    const size_t base = out.accept.size();
    for (std::vector<float>* c : {&out.accept, &out.alpha, &out.logprob, &out.entropy, &out.top, &out.margin}) c->resize(base + count * depth);
    out.draft_token.resize(base + count * depth);
    if (o_.hidden) out.hidden.resize((base + count * depth) * hidden_);
    for (int64_t d = 0; d < depth; ++d) {
      if (d > 0) {
        draft_.clear();
        for (int64_t b = 0; b < count; ++b)
          draft_.add_branch({.slot = 0, .prompt = prompt, .token = static_cast<int32_t>(out.draft_token[base + b * depth + d - 1]),
                             .logits = branch_logits_.data() + b * size_, .hidden = states_.data() + b * hidden_}, prompt + first + b, b, d - 1);
        draft_.run(team);
      }
      for (int64_t b = 0; b < count; ++b) draft_one(first + b, b, d, base + b * depth + d, out);
    }
    judge(first, count, base, team, out);
    for (int64_t i = first; i < end; ++i) {
      out.token.push_back(text_->tokens[i]);
      out.target_entropy.push_back(law_.shape(target_logits_.data() + i * size_, nullptr).entropy);
    }
  }

  void draft_one(int64_t position, int64_t branch, int64_t depth, size_t at, Columns& out) {
    float* const logits = depth == 0 ? draft_logits_.data() + position * size_ : branch_logits_.data() + branch * size_;
    const float* const state = depth == 0 ? text_states_.data() + position * hidden_ : states_.data() + branch * hidden_;
    float* const q = q_.data() + (branch * o_.depth + depth) * vocab_;
    const DistributionShape shape = law_.shape(logits, q);
    const auto words = random_words(o_.seed, Stream::kToken, {static_cast<uint32_t>(number_), static_cast<uint32_t>(position), static_cast<uint32_t>(depth), 0});
    const int32_t token = draw_token(q, vocab_, token_uniform(words));
    out.draft_token[at] = token, out.logprob[at] = std::min(0.0f, law_.logprob(logits, token));
    out.entropy[at] = shape.entropy, out.top[at] = shape.top, out.margin[at] = shape.margin;
    if (o_.hidden) std::copy_n(state, hidden_, out.hidden.data() + at * hidden_);
  }

  // What the target says of the drafts.
  void judge(int64_t first, int64_t count, size_t base, Team& team, Columns& out) {
    const int64_t depth = o_.depth, prompt = static_cast<int64_t>(text_->prompt.size()), at_once = std::max<int64_t>(1, kPassRows / depth);
    for (int64_t from = 0; depth > 1 && from < count; from += at_once) {
      target_.clear();
      for (int64_t b = from; b < std::min(count, from + at_once); ++b)
        for (int64_t d = 0; d + 1 < depth; ++d)
          target_.add_branch({.slot = 0, .prompt = prompt, .token = static_cast<int32_t>(out.draft_token[base + b * depth + d]),
                              .logits = branch_logits_.data() + (b * depth + d) * size_}, prompt + first + b, b, d);
      target_.run(team);
    }
    for (int64_t b = 0; b < count; ++b)
      for (int64_t d = 0; d < depth; ++d) {
        const size_t at = base + b * depth + d;
        law_.probabilities(d == 0 ? target_logits_.data() + (first + b) * size_ : branch_logits_.data() + (b * depth + d - 1) * size_, p_.data());
        const float* q = q_.data() + (b * depth + d) * vocab_;
        double alpha = 0;
        for (int64_t v = 0; v < vocab_; ++v) alpha += std::min(p_[v], q[v]);
        out.alpha[at] = static_cast<float>(std::min(1.0, alpha));
        out.accept[at] = std::min(1.0f, p_[out.draft_token[at]] / q[out.draft_token[at]]);
      }
  }

  DraftRecorderOptions o_;
  int64_t branches_, vocab_;
  ModelRunner target_, draft_;
  TokenDistribution law_;
  int64_t size_, hidden_;
  std::vector<float> target_logits_, draft_logits_, text_states_, branch_logits_, states_, q_, p_;
  const RecordedText* text_ = nullptr;
  int64_t number_ = 0;
};

void check_texts(const Transformer& target, const Transformer& draft, const std::vector<RecordedText>& texts, const DraftRecorderOptions& o) {
  check_causal(target.config());
  check_causal(draft.config());
  if (target.config().vocab_size != draft.config().vocab_size)
    throw ConfigError(fmt::format("the draft model has a vocabulary of {} tokens, the target of {}: a draft needs the target's tokenizer", draft.config().vocab_size,
                                  target.config().vocab_size));
  if (o.depth < 1 || o.depth > 40) throw ConfigError(fmt::format("depth = {}, but it must be 1 to 40", o.depth));
  const int64_t positions = std::min(target.config().max_positions, draft.config().max_positions);
  for (size_t i = 0; i < texts.size(); ++i) {
    const int64_t needed = static_cast<int64_t>(texts[i].prompt.size() + texts[i].tokens.size()) + o.depth;
    if (texts[i].prompt.empty() || texts[i].tokens.empty()) throw DataError(fmt::format("text {}: prompt or answer is empty: nothing can be drafted there", i));
    if (needed > positions)
      throw DataError(fmt::format("text {}: prompt, answer and {} drafted tokens take {} positions, the models have {}: shorten the prompts or lower the depth", i, o.depth,
                                  needed, positions));
  }
}

RecordedColumn column_of(Tensor values, std::string unit, std::string doc, float low, float high) {
  RecordedColumn c;
  c.unit = std::move(unit), c.doc = std::move(doc), c.low = low, c.high = high, c.values = std::move(values);
  return c;
}

}  // namespace

Recording record_drafts(const Transformer& target, const Transformer& draft, const std::vector<RecordedText>& texts, const DraftRecorderOptions& o, Pool& pool,
                        const std::function<void(int64_t)>& progress) {
  check_texts(target, draft, texts, o);
  Recording out;
  out.environment = "draft_length";
  RunnerLimits limits{.branches = kPassRows, .depth = o.depth, .threads = pool.threads()};
  for (const RecordedText& t : texts) {
    limits.prompt = std::max(limits.prompt, static_cast<int64_t>(t.prompt.size())), limits.own = std::max(limits.own, static_cast<int64_t>(t.tokens.size()));
  }
  TextRecorder recorder(target, draft, o, limits, pool);
  Columns c;
  Team team;
  team.run(pool, [&] {
    for (size_t i = 0; i < texts.size(); ++i) {
      out.episodes.push_back({out.rows(), static_cast<int64_t>(texts[i].tokens.size()), texts[i].labels});
      recorder.record(texts[i], static_cast<int64_t>(i), team, c);
      if (progress) progress(static_cast<int64_t>(i + 1));
    }
  });
  const int64_t rows = out.rows(), depth = o.depth;
  const float inf = std::numeric_limits<float>::infinity();
  const auto deep = [&](const std::vector<float>& v, const char* unit, const char* doc, float low, float high) { return column_of(Tensor::f32({rows, depth}, v), unit, doc, low, high); };
  out.columns = {{"token", column_of(Tensor::i64({rows}, c.token), "", "the text's token", 0, inf)},
                 {"target_entropy", column_of(Tensor::f32({rows}, c.target_entropy), "nat", "of the target's distribution it came from", 0, inf)},
                 {"draft_token", column_of(Tensor::i64({rows, depth}, c.draft_token), "", "drafted one after the other from here", 0, inf)},
                 {"accept", deep(c.accept, "", "min(1, p / q) of the drafted token", 0, 1)},
                 {"alpha", deep(c.alpha, "", "sum of min(p, q) over the vocabulary", 0, 1)},
                 {"logprob", deep(c.logprob, "nat", "ln q of the drafted token", -inf, 0)},
                 {"entropy", deep(c.entropy, "nat", "of q", 0, inf)},
                 {"top", deep(c.top, "", "probability of q's likeliest token", 0, 1)},
                 {"margin", deep(c.margin, "", "by which it is likelier than the next", 0, 1)}};
  if (o.hidden)
    out.columns["hidden"] = column_of(Tensor::f32({rows, depth * draft.config().hidden_size}, c.hidden), "", "the draft's final hidden state that q came from", -inf, inf);
  return out;
}

std::vector<double> measure_pass_ms(const Transformer& model, int64_t context, int64_t rows, Pool& pool) {
  ModelRunner runner(model, 0, {.prompt = context, .own = rows, .threads = pool.threads()}, pool);
  std::vector<float> logits(rows * runner.logits_size());
  std::vector<double> out;
  Team team;
  team.run(pool, [&] {
    for (int64_t i = 0; i < context;) {
      runner.clear();
      for (const int64_t end = std::min(context, i + kPassRows); i < end; ++i) runner.add({.slot = 0, .prompt = context, .index = i});
      runner.run(team);
    }
    for (int64_t n = 1; n <= rows; ++n) {
      std::vector<double> times;
      for (int repeat = 0; repeat < 201; ++repeat) {
        const auto start = std::chrono::steady_clock::now();
        runner.clear();
        for (int64_t i = 0; i < n; ++i) runner.add({.slot = 0, .prompt = context, .index = context + i, .logits = logits.data() + i * runner.logits_size()});
        runner.run(team);
        times.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
      }
      std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
      out.push_back(times[times.size() / 2]);
    }
  });
  return out;
}

}  // namespace trimtab
