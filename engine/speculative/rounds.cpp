#include "engine/speculative/rounds.h"

#include <algorithm>
#include <chrono>
#include <numeric>

#include "core/error.h"
#include "core/random.h"
#include "engine/generation/checks.h"
#include "kernels/speculative_verify/speculative_verify.h"

namespace trimtab {
namespace {

// What a uniform number is for; each purpose has draws of its own.
enum Purpose : uint32_t { kDraftDraw, kAcceptDraw, kFinalDraw };
constexpr int64_t kPassRows = 96;   // of one text in a pass (Forward::kMostRows are possible)

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace

SpeculativeRounds::SpeculativeRounds(const RoundInputs& in, ModelRunner& target, ModelRunner* draft)
    : in_(in), target_(target), draft_(draft), vocab_(target.config().vocab_size), ending_(in.stop, vocab_), target_law_(vocab_, in.sampling),
      draft_law_(vocab_, in.sampling) {
  for (size_t r = 0; r < in.requests.size(); ++r)
    for (int64_t s = 0; s < in.requests[r].samples; ++s) {
      Completion& c = completions_.emplace_back().completion;
      c.request = static_cast<int64_t>(r), c.sample = in.requests[r].first_sample + s, c.finish = Finish::kUnfinished;
    }
  for (int64_t i = std::min<int64_t>(in.options.max_sequences, static_cast<int64_t>(completions_.size())); i-- > 0;) free_slots_.push_back(i);
}

int32_t SpeculativeRounds::text_token(const Sequence& s, int64_t index) const {
  const int64_t prompt = prompt_size(s);
  return index < prompt ? request(s).prompt[index] : completions_[s.number].completion.tokens[index - prompt];
}

double SpeculativeRounds::uniform(const Sequence& s, int64_t position, uint32_t purpose) const {
  // Other draws than plain generation's, and in every round anew: a control has seen what came of the last round's.
  const uint64_t key = mix64(mix64(request(s).key ^ (uint64_t{1 + purpose} << 60)) + static_cast<uint64_t>(text_size(s)));
  const auto words = random_words(in_.seed, Stream::kToken, {static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32),
                                                             static_cast<uint32_t>(completions_[s.number].completion.sample), static_cast<uint32_t>(position)});
  return token_uniform(words);
}

std::vector<SpeculativeCompletion> SpeculativeRounds::run(Team& team, SpeculativeTimes& times) {
  times_ = &times;
  const double start = seconds();
  for (admit(); !open_.empty(); admit()) {
    const double before = seconds();
    read_texts(target_, &Sequence::target_read, team);
    if (draft_ != nullptr) read_texts(*draft_, &Sequence::draft_read, team);
    const double read = seconds();
    begin_round();
    if (draft_ != nullptr) draft_with_model(team);
    else draft_without_model();
    const double drafted = seconds();
    verify(team);
    for (Sequence& s : open_) judge(s);
    std::erase_if(open_, [](const Sequence& s) { return s.slot < 0; });
    times.draft_s += drafted - read, times.verify_s += seconds() - drafted + (read - before);
  }
  times.total_s = seconds() - start;
  return std::move(completions_);
}

void SpeculativeRounds::admit() {
  while (!free_slots_.empty() && next_ < static_cast<int64_t>(completions_.size())) {
    Sequence& s = open_.emplace_back();
    s.number = next_++, s.slot = free_slots_.back(), s.max_tokens = max_tokens_of(request(s), in_.sampling);
    free_slots_.pop_back();
    s.state.sequence = s.number, s.state.last_accepted = -1;
    if (in_.drafter != nullptr) in_.drafter->begin(s.number, request(s).prompt);
  }
}

// All of the texts but their last token, in steps: what is left then fits into one pass together with the drafts.
void SpeculativeRounds::read_texts(ModelRunner& runner, int64_t Sequence::* read, Team& team) {
  const auto last = [this](const Sequence& s) { return text_size(s) - 1; };
  while (std::any_of(open_.begin(), open_.end(), [&](const Sequence& s) { return last(s) - s.*read > in_.options.most_drafted + 1; })) {
    runner.clear();
    for (Sequence& s : open_)
      for (const int64_t end = std::min(last(s), s.*read + kPassRows); s.*read < end; ++(s.*read))
        runner.add({.slot = s.slot, .prompt = prompt_size(s), .index = s.*read, .token = text_token(s, s.*read)});
    runner.run(team);
  }
}

void SpeculativeRounds::begin_round() {
  for (Sequence& s : open_) {
    const int64_t answer = static_cast<int64_t>(completions_[s.number].completion.tokens.size());
    s.tree = {}, s.drafted.clear(), s.last_token = text_token(s, text_size(s) - 1);
    s.state.batch = static_cast<int64_t>(open_.size()), s.state.committed = answer, s.state.drafted = {};
    s.state.most = std::clamp<int64_t>(s.max_tokens - answer - 1, 0, in_.options.most_drafted);   // a round commits one more
    s.state.most = std::clamp<int64_t>(in_.control.limit(s.state), 0, s.state.most);
  }
}

// One token of every sequence at a time, while its control goes on.
void SpeculativeRounds::draft_with_model(Team& team) {
  const auto goes_on = [this](Sequence& s) { return static_cast<int64_t>(s.drafted.size()) < s.state.most && in_.control.go_on(s.state); };
  const int64_t size = draft_->logits_size(), hidden = draft_->config().hidden_size;
  draft_logits_.resize(open_.size() * size), draft_hidden_.resize(open_.size() * hidden * (in_.options.most_drafted + 1));
  for (Sequence& s : open_) {
    s.drafting = goes_on(s);
    if (!greedy()) s.q.resize(in_.options.most_drafted * vocab_);
  }
  while (std::any_of(open_.begin(), open_.end(), [](const Sequence& s) { return s.drafting; })) {
    draft_->clear();
    for (size_t i = 0; i < open_.size(); ++i) {
      Sequence& s = open_[i];
      if (!s.drafting) continue;
      float* const state = draft_hidden_.data() + (i * (in_.options.most_drafted + 1) + s.drafted.size()) * hidden;
      const int64_t text = text_size(s), end = text + static_cast<int64_t>(s.drafted.size());
      for (; s.draft_read < end; ++s.draft_read) {
        const bool is_last = s.draft_read + 1 == end;
        draft_->add({.slot = s.slot, .prompt = prompt_size(s), .index = s.draft_read,
                     .token = s.draft_read < text ? text_token(s, s.draft_read) : s.drafted[s.draft_read - text].token,
                     .logits = is_last ? draft_logits_.data() + i * size : nullptr, .hidden = is_last ? state : nullptr});
      }
    }
    draft_->run(team);
    ++times_->draft_passes;
    for (size_t i = 0; i < open_.size(); ++i) {
      Sequence& s = open_[i];
      if (!s.drafting) continue;
      const float* const state = draft_hidden_.data() + (i * (in_.options.most_drafted + 1) + s.drafted.size()) * hidden;
      take_draft(s, draft_logits_.data() + i * size, {state, static_cast<size_t>(hidden)});
      s.drafting = goes_on(s);
    }
  }
}

void SpeculativeRounds::take_draft(Sequence& s, float* logits, std::span<const float> hidden) {
  const int64_t depth = static_cast<int64_t>(s.drafted.size());
  float* const q = greedy() ? nullptr : s.q.data() + depth * vocab_;
  const DistributionShape shape = draft_law_.shape(logits, q);
  const int32_t token = greedy() ? draft_law_.likeliest() : draw_token(q, vocab_, uniform(s, text_size(s) + depth, kDraftDraw));
  s.drafted.push_back({token, draft_law_.logprob(logits, token), shape.entropy, shape.top, shape.margin, hidden});
  s.tree.tokens.push_back(token), s.tree.parents.push_back(static_cast<int32_t>(depth) - 1), s.tree.scores.push_back(1);
  s.state.drafted = s.drafted;
}

void SpeculativeRounds::draft_without_model() {
  for (Sequence& s : open_) {
    if (s.state.most == 0) continue;
    s.tree = in_.drafter->draft(s.number, trees() ? in_.options.tree_nodes : s.state.most);
    if (!trees()) s.tree = best_chain(s.tree);
    fit_into_round(s.tree, s.state.most);
    ++times_->draft_passes;
  }
}

// Leaves out the last nodes until none is deeper than the round goes and all paths together fit into a pass beside the text's last tokens.
void SpeculativeRounds::fit_into_round(DraftTree& tree, int64_t most_depth) const {
  const auto fits = [&] {
    std::vector<int64_t> depth(tree.tokens.size());
    std::vector<char> inner(tree.tokens.size(), 0);
    int64_t rows = 0;
    for (size_t n = 0; n < depth.size(); ++n) {
      const int32_t parent = tree.parents[n];
      depth[n] = 1 + (parent >= 0 ? depth[parent] : 0);
      if (parent >= 0) inner[parent] = 1;
      if (depth[n] > most_depth) return false;
    }
    for (size_t n = 0; n < depth.size(); ++n) rows += inner[n] ? 0 : depth[n];
    return rows <= kPassRows - in_.options.most_drafted - 2;
  };
  while (!fits()) tree.tokens.pop_back(), tree.parents.pop_back(), tree.scores.pop_back();
}

// The text's unread tokens and then every path of the tree. Nodes on the way to several leaves are computed for each of them: a few rows
// more, and a branch's keys lie in one piece.
void SpeculativeRounds::add_target_rows(Sequence& s) {
  const int64_t text = text_size(s), size = target_.logits_size(), nodes = static_cast<int64_t>(s.tree.tokens.size());
  s.target_logits.resize((1 + nodes) * size);
  for (; s.target_read < text; ++s.target_read)
    target_.add({.slot = s.slot, .prompt = prompt_size(s), .index = s.target_read, .token = text_token(s, s.target_read),
                 .logits = s.target_read + 1 == text ? s.target_logits.data() : nullptr});
  if (!trees()) {
    for (int64_t n = 0; n < nodes; ++n)
      target_.add({.slot = s.slot, .prompt = prompt_size(s), .index = text + n, .token = s.tree.tokens[n], .logits = s.target_logits.data() + (1 + n) * size});
    return;
  }
  std::vector<char> inner(nodes, 0), told(nodes, 0);
  for (const int32_t parent : s.tree.parents)
    if (parent >= 0) inner[parent] = 1;
  int64_t branch = 0;
  for (int64_t leaf = 0; leaf < nodes; ++leaf) {
    if (inner[leaf]) continue;
    std::vector<int64_t> path;
    for (int64_t n = leaf; n >= 0; n = s.tree.parents[n]) path.push_back(n);
    std::reverse(path.begin(), path.end());
    for (size_t d = 0; d < path.size(); ++d) {
      const int64_t n = path[d];
      target_.add_branch({.slot = s.slot, .prompt = prompt_size(s), .token = s.tree.tokens[n],
                          .logits = std::exchange(told[n], char{1}) ? nullptr : s.target_logits.data() + (1 + n) * size}, text, branch, static_cast<int64_t>(d));
    }
    ++branch;
  }
}

void SpeculativeRounds::verify(Team& team) {
  target_.clear();
  for (Sequence& s : open_) add_target_rows(s);
  target_.run(team);
  ++times_->target_passes;
}

// The nodes that hold, in order, and the token behind them.
std::vector<int64_t> SpeculativeRounds::accepted_path(Sequence& s, int32_t& next) {
  const int64_t size = target_.logits_size(), nodes = static_cast<int64_t>(s.tree.tokens.size());
  std::vector<int64_t> path;
  if (greedy()) {
    for (int64_t at = -1;;) {
      target_law_.probabilities(s.target_logits.data() + (1 + at) * size, nullptr);
      next = target_law_.likeliest();
      int64_t child = 0;
      while (child < nodes && !(s.tree.parents[child] == at && s.tree.tokens[child] == next)) ++child;
      if (child == nodes) return path;
      path.push_back(at = child);
    }
  }
  p_.resize((1 + nodes) * vocab_);
  for (int64_t n = 0; n <= nodes; ++n) target_law_.probabilities(s.target_logits.data() + n * size, p_.data() + n * vocab_);
  const SpeculativeVerdict verdict = trees() ? verify_tree(s, path) : verify_chain(s, path);
  TT_CHECK(verdict.fault == SpeculativeFault::kNone, "verification of sequence {}: fault {} at {}", s.number, static_cast<int>(verdict.fault), verdict.at);
  next = verdict.token;
  return path;
}

SpeculativeVerdict SpeculativeRounds::verify_chain(const Sequence& s, std::vector<int64_t>& path) const {
  const int64_t text = text_size(s), first = 0;
  const int32_t drafted = static_cast<int32_t>(s.tree.size());
  const double last = uniform(s, text, kFinalDraw);
  std::vector<double> uniforms;
  for (int64_t n = 0; n < drafted; ++n) uniforms.push_back(uniform(s, text + n, kAcceptDraw));
  SpeculativeVerdict verdict;
  speculative_verify(SpeculativeChains{1, vocab_, p_.data(), vocab_, draft_ == nullptr ? nullptr : s.q.data(), vocab_, &first, &first, &drafted, s.tree.tokens.data(),
                                       uniforms.data(), &last, &verdict});
  for (int64_t n = 0; n < verdict.accepted; ++n) path.push_back(n);
  return verdict;
}

// The kernel's trees have the text's last token as their root.
SpeculativeVerdict SpeculativeRounds::verify_tree(const Sequence& s, std::vector<int64_t>& path) {
  const int64_t nodes = s.tree.size(), text = text_size(s), first = 0;
  const int32_t count = static_cast<int32_t>(nodes + 1);
  const double last = uniform(s, text, kFinalDraw);
  std::vector<int32_t> parents = {-1}, tokens = {0}, kept(count);
  std::vector<int64_t> rows = {0};
  std::vector<double> uniforms = {0};
  for (int64_t n = 0; n < nodes; ++n) {
    parents.push_back(s.tree.parents[n] + 1), tokens.push_back(s.tree.tokens[n]), rows.push_back(n + 1);
    uniforms.push_back(uniform(s, text * 64 + n, kAcceptDraw));   // a tree has up to 64 nodes
  }
  scratch_.resize(vocab_);
  SpeculativeVerdict verdict;
  speculative_verify(SpeculativeTrees{1, vocab_, p_.data(), vocab_, nullptr, vocab_, SiblingDraws::kIndependent, &first, &count, parents.data(), tokens.data(),
                                      rows.data(), nullptr, uniforms.data(), &last, scratch_.data(), kept.data(), &verdict});
  for (int64_t n = 0; n < verdict.accepted; ++n) path.push_back(kept[n] - 1);
  return verdict;
}

void SpeculativeRounds::judge(Sequence& s) {
  int32_t next = 0;
  const std::vector<int64_t> path = accepted_path(s, next);
  const int64_t drafted = static_cast<int64_t>(s.tree.tokens.size()), accepted = static_cast<int64_t>(path.size());
  times_->drafted += drafted, times_->accepted += accepted;
  completions_[s.number].rounds.push_back({static_cast<int32_t>(drafted), static_cast<int32_t>(accepted)});
  in_.control.learn(s.state, accepted);
  s.state.last_drafted = drafted, s.state.last_accepted = accepted;
  if (!trees()) s.state.acceptance = acceptance_after(s.state.acceptance, drafted, accepted);
  const int64_t text = text_size(s);
  s.draft_read = std::min(s.draft_read, text + accepted);
  s.target_read = trees() ? text : text + accepted;   // a branch's keys are not the text's: its tokens are read again
  commit(s, path, next);
}

void SpeculativeRounds::commit(Sequence& s, const std::vector<int64_t>& path, int32_t next) {
  const int64_t size = target_.logits_size();
  Completion& c = completions_[s.number].completion;
  const size_t first = c.tokens.size();
  for (size_t i = 0; i <= path.size(); ++i) {
    const int64_t from = i == 0 ? 0 : path[i - 1] + 1;   // whose logits the token came from
    const int32_t token = i < path.size() ? s.tree.tokens[path[i]] : next;
    float* const logits = s.target_logits.data() + from * size;
    if (i < path.size()) target_law_.probabilities(logits, nullptr);
    else s.state.last_entropy = target_law_.shape(logits, nullptr).entropy;
    c.tokens.push_back(token), c.logprobs.push_back(target_law_.logprob(logits, token));
    ++times_->tokens;
    if (ending_.reached(c, s.tail, c.tokens.size() - 1, s.max_tokens)) {
      close(s);
      break;
    }
  }
  if (in_.drafter == nullptr) return;
  teach_drafter(s);
  in_.drafter->append(s.number, std::span(c.tokens).subspan(first));
  if (s.slot < 0) in_.drafter->finish(s.number);
}

// The target's likeliest tokens behind everything it has just read.
void SpeculativeRounds::teach_drafter(const Sequence& s) {
  const int64_t count = std::min(in_.drafter->candidates(), vocab_), size = target_.logits_size();
  if (count == 0) return;
  order_.resize(vocab_);
  for (int64_t n = -1; n < s.tree.size(); ++n) {
    const float* logits = s.target_logits.data() + (1 + n) * size;
    std::iota(order_.begin(), order_.end(), 0);
    std::partial_sort(order_.begin(), order_.begin() + count, order_.end(), [logits](int32_t a, int32_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; });
    in_.drafter->update(n < 0 ? s.last_token : s.tree.tokens[n], {order_.data(), static_cast<size_t>(count)});
  }
}

void SpeculativeRounds::close(Sequence& s) {
  free_slots_.push_back(s.slot);
  s.slot = -1;
}

}  // namespace trimtab
