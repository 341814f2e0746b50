#include "envs/draft_length/live/live_drafts.h"

#include <algorithm>
#include <list>
#include <map>
#include <mutex>
#include <thread>

#include "core/error.h"
#include "core/random.h"
#include "engine/generation/ending.h"
#include "engine/generation/team.h"
#include "engine/speculative/model_runner.h"
#include "engine/speculative/token_distribution.h"
#include "envs/draft_length/draft_length.h"

namespace trimtab {
namespace {

enum Purpose : uint32_t { kDraftDraw, kAcceptDraw, kFinalDraw };
constexpr int64_t kSlots = 128;      // places whose keys and values are kept
constexpr int64_t kPassRows = 96;    // of a prompt in a pass

int64_t common_prefix(const std::vector<int32_t>& a, const std::vector<int32_t>& b) {
  return std::mismatch(a.begin(), a.begin() + std::min(a.size(), b.size()), b.begin()).first - a.begin();
}

// One of the two models, and which tokens of every slot it has read.
struct Reader {
  ModelRunner runner;
  std::vector<std::vector<int32_t>> cached;   // [slots]
  std::vector<float> logits;                  // of the last read, [rows, logits_size]
  std::vector<float> hidden;                  // of its last row

  Reader(const Transformer& model, const RunnerLimits& limits, Pool& pool) : runner(model, 0, limits, pool), cached(limits.sequences), hidden(model.config().hidden_size) {}

  // Reads `text` up to its end; leaves the logits of rows `from` .. in `logits`.
  void read(int64_t slot, int64_t prompt, const std::vector<int32_t>& text, int64_t from, Team& team) {
    const int64_t size = runner.logits_size(), end = static_cast<int64_t>(text.size());
    logits.resize((end - from) * size);
    for (int64_t i = std::min(from, common_prefix(cached[slot], text)); i < end;) {
      runner.clear();
      for (const int64_t stop = std::min(end, i + kPassRows); i < stop; ++i)
        runner.add({.slot = slot, .prompt = prompt, .index = i, .token = text[i], .logits = i >= from ? logits.data() + (i - from) * size : nullptr,
                    .hidden = i + 1 == end ? hidden.data() : nullptr});
      runner.run(team);
    }
    cached[slot] = text;
  }
};

// What is known of the round that begins at a place: its drafts so far, and what the target says of them once it was asked.
struct Round {
  WorldKey key;
  int64_t text = -1;
  std::vector<int32_t> before;             // prompt and answer so far
  std::vector<DraftedToken> drafted;
  std::vector<float> q, p, hidden;         // [drafted, vocab], [judged, vocab], [most, hidden size]
  std::vector<float> target_entropy;       // [judged]: row i is the law of the token after i drafted ones
  int64_t judged = 0;
};

class LiveDrafts final : public DraftSource {
 public:
  LiveDrafts(LanguageModel target, LanguageModel draft, const std::vector<PromptLine>& prompts, const LiveDraftOptions& options)
      : options_(options), target_(std::move(target)), draft_(std::move(draft)), vocab_(target_.transformer->config().vocab_size), hidden_(draft_.transformer->config().hidden_size),
        law_(vocab_, {.temperature = options.temperature}), stop_{target_.tokenizer->stop_ids(), options.stop, target_.tokenizer.get()} {
    check_pair();
    for (const int64_t id : target_.transformer->config().eos_ids) stop_.ids.push_back(static_cast<int32_t>(id));
    ending_ = std::make_unique<Ending>(stop_, vocab_);
    RunnerLimits limits{.sequences = kSlots, .own = options.max_tokens + options.depth + 1};
    for (const PromptLine& p : prompts) {
      prompts_.push_back(tokens_of(p));
      limits.prompt = std::max(limits.prompt, static_cast<int64_t>(prompts_.back().size()));
    }
    target_reader_ = std::make_unique<Reader>(*target_.transformer, limits, pool_);
    draft_reader_ = std::make_unique<Reader>(*draft_.transformer, limits, pool_);
    rounds_.resize(kSlots);
  }

  int64_t texts() const override { return static_cast<int64_t>(prompts_.size()); }
  int64_t most_drafted() const override { return options_.depth; }
  int64_t hidden_size() const override { return hidden_; }
  void begin(DraftPlace& place, int64_t text) const override {
    place.text = text, place.position = 0, place.tokens.clear(), place.entropy = 0, place.over = 0;
    place.tokens.reserve(options_.max_tokens);
  }
  int64_t left(const DraftPlace& place) const override { return place.over ? 0 : options_.max_tokens - place.position; }
  float last_entropy(const DraftPlace& place) const override { return place.entropy; }

  DraftedToken drafted(const DraftPlace& place, int64_t depth) const override {
    const std::lock_guard lock(mutex_);
    return drafted_round(place, depth).drafted[depth];
  }
  DraftCandidate look(const DraftPlace& place, int64_t depth) const override {
    const std::lock_guard lock(mutex_);
    return judged(place, depth);
  }
  int64_t committed(const DraftPlace& place, int64_t tokens) const override {
    const std::lock_guard lock(mutex_);
    DraftPlace after = place;
    commit(after, tokens);
    return after.position - place.position;
  }
  void advance(DraftPlace& place, int64_t tokens) const override {
    const std::lock_guard lock(mutex_);
    commit(place, tokens);
  }

 private:
  void check_pair() const {
    const int64_t drafts = draft_.transformer->config().vocab_size;
    if (drafts != vocab_) throw ConfigError(fmt::format("live.draft has a vocabulary of {} tokens, live.target of {}: a draft needs the target's tokenizer", drafts, vocab_));
    if (draft_.tokenizer->hash() != target_.tokenizer->hash()) throw ConfigError("live.draft and live.target have different tokenizers: a draft's token must mean the same to the target");
  }
  std::vector<int32_t> tokens_of(const PromptLine& line) const {
    std::vector<int32_t> ids = line.text.empty() ? line.tokens : target_.tokenizer->encode(line.text, {.allow_special = true, .add_special_tokens = true});
    const int64_t positions = std::min(target_.transformer->config().max_positions, draft_.transformer->config().max_positions);
    const int64_t needed = static_cast<int64_t>(ids.size()) + options_.max_tokens + options_.depth + 1;
    if (needed > positions)
      throw DataError(fmt::format("{}: prompt, {} tokens of reply and {} drafted take {} positions, the models have {}: shorten the prompt or lower live.max_tokens", line.place,
                                  options_.max_tokens, options_.depth, needed, positions));
    for (const int32_t id : ids)
      if (id >= vocab_) throw DataError(fmt::format("{}: token {} is outside the models' vocabulary of {}", line.place, id, vocab_));
    return ids;
  }

  // A slot of the place's own, by the thread that steps it: what is returned stays while that thread steps fewer than kSlots others.
  int64_t slot_of(const DraftPlace& place) const {
    const SlotKey key{std::this_thread::get_id(), place.key.seed, place.key.episode, place.text};
    if (const auto found = slots_.find(key); found != slots_.end()) {
      order_.splice(order_.end(), order_, found->second.second);
      return found->second.first;
    }
    int64_t slot = static_cast<int64_t>(slots_.size());
    if (slot == kSlots) {
      slot = slots_.at(order_.front()).first;
      slots_.erase(order_.front());
      order_.pop_front();
    }
    slots_[key] = {slot, order_.insert(order_.end(), key)};
    return slot;
  }

  // The round at a place; a new one when it is not the one the slot holds.
  Round& round_of(const DraftPlace& place, int64_t& slot) const {
    slot = slot_of(place);
    Round& r = rounds_[slot];
    const std::vector<int32_t>& prompt = prompts_[place.text];
    const bool same = r.text == place.text && r.key.seed == place.key.seed && r.key.episode == place.key.episode && r.before.size() == prompt.size() + place.tokens.size() &&
                      std::equal(place.tokens.begin(), place.tokens.end(), r.before.begin() + static_cast<std::ptrdiff_t>(prompt.size()));
    if (same) return r;
    r.key = place.key, r.text = place.text, r.before = prompt, r.judged = 0;
    r.before.insert(r.before.end(), place.tokens.begin(), place.tokens.end());
    r.drafted.clear(), r.q.clear(), r.p.clear(), r.target_entropy.clear();
    r.hidden.resize(options_.depth * hidden_);
    return r;
  }
  double uniform(const DraftPlace& place, int64_t depth, Purpose purpose) const {
    return token_uniform(random_words(place.key.seed, Stream::kToken, {static_cast<uint32_t>(place.key.episode), static_cast<uint32_t>(place.text),
                                                                      static_cast<uint32_t>(place.position), static_cast<uint32_t>(3 * depth + purpose)}));
  }
  std::vector<int32_t> with_drafts(const Round& r, size_t count) const {
    std::vector<int32_t> out = r.before;
    for (size_t d = 0; d < count; ++d) out.push_back(r.drafted[d].token);
    return out;
  }

  const Round& drafted_round(const DraftPlace& place, int64_t depth) const {
    int64_t slot = 0;
    Round& r = round_of(place, slot);
    for (int64_t d = static_cast<int64_t>(r.drafted.size()); d <= depth; ++d) {
      const std::vector<int32_t> text = with_drafts(r, d);
      draft_reader_->read(slot, static_cast<int64_t>(prompts_[place.text].size()), text, static_cast<int64_t>(text.size()) - 1, team_);
      r.q.resize((d + 1) * vocab_);
      float* const q = r.q.data() + d * vocab_;
      const DistributionShape shape = law_.shape(draft_reader_->logits.data(), q);
      const int32_t token = draw_token(q, vocab_, uniform(place, d, kDraftDraw));
      std::copy(draft_reader_->hidden.begin(), draft_reader_->hidden.end(), r.hidden.begin() + static_cast<std::ptrdiff_t>(d * hidden_));
      r.drafted.push_back({token, std::min(0.0f, law_.logprob(draft_reader_->logits.data(), token)), shape.entropy, shape.top, shape.margin,
                           {r.hidden.data() + d * hidden_, static_cast<size_t>(hidden_)}});
    }
    return r;
  }

  // The target's laws behind the text and behind each of the first `depth` drafted tokens; all drafts there are go into one pass.
  const Round& judged_round(const DraftPlace& place, int64_t depth) const {
    int64_t slot = 0;
    Round& r = round_of(place, slot);
    if (depth < r.judged) return r;
    const std::vector<int32_t> text = with_drafts(r, r.drafted.size());
    const int64_t first = static_cast<int64_t>(r.before.size()) - 1 + r.judged, rows = static_cast<int64_t>(text.size()) - first, size = target_reader_->runner.logits_size();
    target_reader_->read(slot, static_cast<int64_t>(prompts_[place.text].size()), text, first, team_);
    r.p.resize((r.judged + rows) * vocab_);
    for (int64_t i = 0; i < rows; ++i) r.target_entropy.push_back(law_.shape(target_reader_->logits.data() + i * size, r.p.data() + (r.judged + i) * vocab_).entropy);
    r.judged += rows;
    return r;
  }

  DraftCandidate judged(const DraftPlace& place, int64_t depth) const {
    drafted_round(place, depth);
    const Round& r = judged_round(place, depth);
    const float *p = r.p.data() + depth * vocab_, *q = r.q.data() + depth * vocab_;
    DraftCandidate out;
    out.token = r.drafted[depth];
    double alpha = 0;
    for (int64_t v = 0; v < vocab_; ++v) alpha += std::min(p[v], q[v]);
    out.alpha = static_cast<float>(std::min(1.0, alpha)), out.accept = std::min(1.0f, p[out.token.token] / q[out.token.token]);
    out.accepted = uniform(place, depth, kAcceptDraw) < out.accept;
    return out;
  }

  // The token behind `depth` accepted ones. Where a token was drafted there it is verified: it stays, or is replaced by one of the rest of
  // p; its law is p either way, so it makes no difference whether the round had meant to draft it.
  int32_t last_token(const DraftPlace& place, int64_t depth) const {
    const Round& r = judged_round(place, depth);
    const float* const p = r.p.data() + depth * vocab_;
    const double u = uniform(place, depth, kFinalDraw);
    if (depth >= static_cast<int64_t>(r.drafted.size())) return draw_token(p, vocab_, u);
    if (const DraftCandidate c = judged(place, depth); c.accepted) return c.token.token;
    std::vector<float> rest(vocab_);
    const float* const q = r.q.data() + depth * vocab_;
    double total = 0;
    for (int64_t v = 0; v < vocab_; ++v) total += rest[v] = std::max(0.0f, p[v] - q[v]);
    return draw_token(total > 0 ? rest.data() : p, vocab_, u);
  }

  // A round's tokens, until the text is over.
  void commit(DraftPlace& place, int64_t tokens) const {
    const DraftPlace from = place;   // draws belong to the round's beginning
    const int32_t last = last_token(from, tokens - 1);
    Completion c;
    c.tokens = place.tokens, c.finish = Finish::kUnfinished;
    std::string tail;
    if (!c.tokens.empty()) ending_->reached(c, tail, 0, options_.max_tokens + 1);   // reads what is there
    for (int64_t i = 0; i < tokens && !place.over; ++i) {
      const Round& r = judged_round(from, i);
      c.tokens.push_back(i + 1 < tokens ? r.drafted[i].token : last);
      place.entropy = r.target_entropy[i];
      place.over = ending_->reached(c, tail, c.tokens.size() - 1, options_.max_tokens);
    }
    place.tokens = std::move(c.tokens), place.position = static_cast<int64_t>(place.tokens.size());
  }

  using SlotKey = std::tuple<std::thread::id, uint64_t, uint64_t, int64_t>;
  LiveDraftOptions options_;
  LanguageModel target_, draft_;
  int64_t vocab_, hidden_;
  mutable TokenDistribution law_;
  StopRules stop_;
  std::unique_ptr<Ending> ending_;
  std::vector<std::vector<int32_t>> prompts_;
  Pool pool_{1};
  mutable Team team_;   // of this thread alone
  mutable std::mutex mutex_;
  std::unique_ptr<Reader> target_reader_, draft_reader_;
  mutable std::vector<Round> rounds_;   // [slots]
  mutable std::list<SlotKey> order_;    // least lately used first
  mutable std::map<SlotKey, std::pair<int64_t, std::list<SlotKey>::iterator>> slots_;
};

TT_REGISTER(DraftSourceEntry, live,
            {.name = "live", .doc = "a pair of models decodes prompts", .make = [](const DraftLengthOptions& o, const std::vector<std::string>& files) {
               if (o.live.target.empty() || o.live.draft.empty()) throw ConfigError("mode live needs live.target and live.draft: two runs or Hugging Face folders");
               if (files.empty()) throw ConfigError("mode live needs prompts: name .jsonl files under data: {train: [...]}; `trimtab texts --prompts` makes them");
               std::vector<PromptLine> prompts;
               for (const std::string& file : files)
                 for (PromptLine& p : read_prompts(file)) prompts.push_back(std::move(p));
               return make_live_drafts(LanguageModel::load(o.live.target), LanguageModel::load(o.live.draft), prompts, o.live);
             }});

}  // namespace

std::unique_ptr<DraftSource> make_live_drafts(LanguageModel target, LanguageModel draft, const std::vector<PromptLine>& prompts, const LiveDraftOptions& options) {
  return std::make_unique<LiveDrafts>(std::move(target), std::move(draft), prompts, options);
}

}  // namespace trimtab
