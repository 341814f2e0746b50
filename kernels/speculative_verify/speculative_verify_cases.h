// Checks of speculative_verify against its definition in double, for whatever runs it: Array<T> is where the arrays lie, `verify` takes
// a batch and says whether it could be run. Each check returns what is wrong, or nothing.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "core/random.h"
#include "kernels/speculative_verify/speculative_verify.h"

namespace trimtab {

// Batches with their arrays. `q` is empty where drafts are certain.
struct ChainCase {
  int64_t vocab = 0, p_stride = 0, q_stride = 0;
  std::vector<float> p, q;
  std::vector<int64_t> first_p, first_q;
  std::vector<int32_t> num_drafted, drafted;
  std::vector<double> uniform, final_uniform;
};
struct TreeCase {
  int64_t vocab = 0, p_stride = 0, q_stride = 0;
  SiblingDraws draws = SiblingDraws::kIndependent;
  std::vector<float> p, q;
  std::vector<int64_t> first_node, p_row, q_row;
  std::vector<int32_t> num_nodes, parent, token;
  std::vector<double> uniform, final_uniform;
};

// What one sequence gave. `margin`: how far the nearest decision was from going the other way; infinite where it is exact.
struct SpeculativeResult {
  SpeculativeVerdict verdict;
  std::vector<int32_t> path;
  double margin = std::numeric_limits<double>::infinity();
};

inline std::string text_of(const SpeculativeResult& r) {
  std::string out = "accepted " + std::to_string(r.verdict.accepted) + " token " + std::to_string(r.verdict.token) + " fault " +
                    std::to_string(static_cast<int>(r.verdict.fault)) + " at " + std::to_string(r.verdict.at) + " path";
  for (const int32_t node : r.path) out += " " + std::to_string(node);
  return out;
}
inline bool same(const SpeculativeResult& a, const SpeculativeResult& b) {
  if (a.verdict.fault != b.verdict.fault || a.verdict.token != b.verdict.token) return false;
  if (a.verdict.fault != SpeculativeFault::kNone) return a.verdict.at == b.verdict.at;
  return a.verdict.accepted == b.verdict.accepted && a.path == b.path;
}

template <template <class> class Array, class Verify>
std::vector<SpeculativeResult> results_of(const ChainCase& c, const Verify& verify) {
  Array<float> p(c.p), q(c.q);
  Array<int64_t> first_p(c.first_p), first_q(c.first_q);
  Array<int32_t> num_drafted(c.num_drafted), drafted(c.drafted);
  Array<double> uniform(c.uniform), final_uniform(c.final_uniform);
  Array<SpeculativeVerdict> verdict(std::vector<SpeculativeVerdict>(c.first_p.size()));
  const auto sequences = static_cast<int64_t>(c.first_p.size());
  const SpeculativeChains chains{sequences, c.vocab, p.data(), c.p_stride, c.q.empty() ? nullptr : q.data(), c.q_stride, first_p.data(),
                                 first_q.data(), num_drafted.data(), drafted.data(), uniform.data(), final_uniform.data(), verdict.data()};
  if (!verify(chains)) return {};
  std::vector<SpeculativeResult> out;
  for (const SpeculativeVerdict& v : verdict.host()) out.push_back({v, {}});
  return out;
}

template <template <class> class Array, class Verify>
std::vector<SpeculativeResult> results_of(const TreeCase& c, const Verify& verify) {
  const size_t sequences = c.first_node.size();
  Array<float> p(c.p), q(c.q), scratch(std::vector<float>(sequences * c.vocab, NAN));
  Array<int64_t> first_node(c.first_node), p_row(c.p_row), q_row(c.q_row);
  Array<int32_t> num_nodes(c.num_nodes), parent(c.parent), token(c.token), path(std::vector<int32_t>(c.parent.size(), -7));
  Array<double> uniform(c.uniform), final_uniform(c.final_uniform);
  Array<SpeculativeVerdict> verdict(std::vector<SpeculativeVerdict>{sequences});
  const SpeculativeTrees trees{static_cast<int64_t>(sequences), c.vocab, p.data(), c.p_stride, c.q.empty() ? nullptr : q.data(), c.q_stride, c.draws,
                               first_node.data(), num_nodes.data(), parent.data(), token.data(), p_row.data(), q_row.data(), uniform.data(),
                               final_uniform.data(), scratch.data(), path.data(), verdict.data()};
  if (!verify(trees)) return {};
  std::vector<SpeculativeResult> out;
  const std::vector<int32_t> nodes = path.host();
  for (const SpeculativeVerdict& v : verdict.host()) {
    const auto first = nodes.begin() + c.first_node[out.size()];
    out.push_back({v, {first, first + (v.fault == SpeculativeFault::kNone ? v.accepted : 0)}});
  }
  return out;
}

// The batch of sequence b alone.
inline ChainCase only(ChainCase c, size_t b) {
  c.first_p = {c.first_p[b]}, c.first_q = {c.first_q[b]}, c.num_drafted = {c.num_drafted[b]}, c.final_uniform = {c.final_uniform[b]};
  return c;
}
inline TreeCase only(TreeCase c, size_t b) {
  c.first_node = {c.first_node[b]}, c.num_nodes = {c.num_nodes[b]}, c.final_uniform = {c.final_uniform[b]};
  return c;
}

// The definition, in double.
class SpeculativeReference {
 public:
  explicit SpeculativeReference(int64_t vocab) : vocab_(vocab) {}

  SpeculativeResult chain(const ChainCase& c, size_t b) {
    for (int32_t i = 0;; ++i) {
      const float* p = &c.p[(c.first_p[b] + i) * c.p_stride];
      restart(p);
      if (i == c.num_drafted[b]) return drawn(c.final_uniform[b], i);
      const int64_t from = c.first_q[b] + i;
      if (accepts(c.q.empty() ? nullptr : &c.q[from * c.q_stride], c.drafted[from], c.uniform[from])) continue;
      reject(c.drafted[from], false);
      return drawn(c.final_uniform[b], i);
    }
  }

  SpeculativeResult tree(const TreeCase& c, size_t b) {
    const int64_t first = c.first_node[b];
    int32_t node = 0;
    for (;;) {
      restart(&c.p[c.p_row[first + node] * c.p_stride]);
      int32_t chosen = -1;
      for (int32_t i = 1; i < c.num_nodes[b] && chosen < 0; ++i) {
        if (c.parent[first + i] != node) continue;
        const float* q = c.q.empty() ? nullptr : &c.q[c.q_row[first + node] * c.q_stride];
        const int32_t token = c.token[first + i];
        if (q != nullptr && (q[token] <= 0 || removed_[token])) return {{0, -1, SpeculativeFault::kToken, i}, {}, out_.margin};
        if (accepts(q, token, c.uniform[first + i])) chosen = i;
        else if (!reject(token, c.draws == SiblingDraws::kWithoutReplacement)) break;
      }
      if (chosen < 0) return drawn(c.final_uniform[b], static_cast<int32_t>(out_.path.size()));
      out_.path.push_back(node = chosen);
    }
  }

 private:
  void restart(const float* p) {
    p_.assign(p, p + vocab_), left_ = p_;
    removed_.assign(vocab_, false), q_.clear();
    scale_ = 1, tried_ = 0;
  }
  void near(double distance) { out_.margin = std::min(out_.margin, distance * scale_); }

  // Exact for the first one: u, p and q are what was given.
  bool accepts(const float* q, int32_t token, double u) {
    if (tried_++ == 0 && q != nullptr) q_.assign(q, q + vocab_);
    const double chance = q_.empty() ? 1 : q_[token];
    if (tried_ > 1) near(std::abs(u * chance - left_[token]));
    return u * chance < left_[token];
  }

  // Whether anything is left.
  bool reject(int32_t token, bool without_replacement) {
    const bool certain = q_.empty();
    for (int64_t j = 0; j < vocab_; ++j) left_[j] = certain ? (j == token ? 0 : left_[j]) : std::max(0.0, left_[j] - q_[j]);
    if (!certain && without_replacement) {
      removed_[token] = true, q_[token] = 0;
      normalise(q_);
    }
    const double rest = normalise(left_);
    near(rest);
    scale_ *= rest;
    if (rest > 0) return true;
    left_ = p_, scale_ = 1;
    return false;
  }

  static double normalise(std::vector<double>& x) {
    double sum = 0;
    for (const double value : x) sum += value;
    for (double& value : x) value = sum > 0 ? value / sum : 0;
    return sum;
  }

  SpeculativeResult drawn(double u, int32_t accepted) {
    double total = 0, running = 0;
    for (const double w : left_) total += w;
    int64_t last = vocab_ - 1;   // with a weight
    while (!(left_[last] > 0)) --last;
    for (int64_t j = 0; j <= last; ++j) {
      if (!(left_[j] > 0)) continue;
      if (running > 0) near(std::abs(u * total - running));
      running += left_[j];
      if (running <= u * total && j < last) continue;
      if (j < last) near(running - u * total);
      out_.verdict = {accepted, static_cast<int32_t>(j), SpeculativeFault::kNone, 0};
      break;
    }
    return out_;
  }

  int64_t vocab_;
  std::vector<double> p_, left_, q_;
  std::vector<bool> removed_;
  double scale_ = 1;   // of `left_`'s sum before it was scaled to 1: what rounding weighs against
  int tried_ = 0;
  SpeculativeResult out_;
};

inline SpeculativeResult expected_of(const ChainCase& c, size_t b) { return SpeculativeReference(c.vocab).chain(c, b); }
inline SpeculativeResult expected_of(const TreeCase& c, size_t b) { return SpeculativeReference(c.vocab).tree(c, b); }

// [0, 1) with 48 bits; and the same with its ends more often than they come.
inline double fine_uniform(Draws& draws) {
  const double coarse = double{draws.uniform()};
  return coarse + double{draws.uniform()} * 0x1p-24;
}
inline double hostile_uniform(Draws& draws) {
  const uint32_t kind = draws.below(64);
  return kind == 0 ? 0 : kind == 1 ? 1 - 0x1p-53 : fine_uniform(draws);
}

// Even, peaked, with zeros, one-hot; of a large vocabulary some sixty tokens have a probability.
inline std::vector<float> random_law(int64_t vocab, Draws& draws) {
  std::vector<double> w(vocab);
  const uint32_t kind = draws.below(5);
  const double kept = vocab > 200 ? 60.0 / static_cast<double>(vocab) : kind == 2 ? 0.4 : 1;
  double sum = 0;
  for (double& x : w) sum += x = draws.uniform() < kept ? std::pow(double{draws.exponential()}, kind == 1 ? 6 : 1) : 0;
  if (kind == 3 || sum == 0) std::fill(w.begin(), w.end(), 0.0), sum = w[draws.below(static_cast<uint32_t>(vocab))] = 1;
  std::vector<float> out(vocab);
  for (int64_t j = 0; j < vocab; ++j) out[j] = static_cast<float>(w[j] / sum);
  return out;
}

// -1 when nothing has a probability any more.
inline int32_t drawn_from(const std::vector<float>& law, double u) {
  double total = 0, running = 0;
  for (const float x : law) total += double{x};
  for (size_t j = 0; j < law.size(); ++j)
    if ((running += double{law[j]}) > u * total) return static_cast<int32_t>(j);
  return -1;
}

inline void put_row(std::vector<float>& rows, const std::vector<float>& law, int64_t stride) {
  rows.insert(rows.end(), law.begin(), law.end());
  rows.resize(rows.size() + stride - law.size(), NAN);   // never read
}

// A law of drafts: the target's own, another, or a blend of both.
inline std::vector<float> draft_law(const std::vector<float>& p, Draws& draws) {
  const uint32_t kind = draws.below(3);
  if (kind == 0) return p;
  std::vector<float> q = random_law(static_cast<int64_t>(p.size()), draws);
  for (size_t j = 0; kind == 1 && j < q.size(); ++j) q[j] = 0.25f * q[j] + 0.75f * p[j];
  return q;
}

inline ChainCase random_chains(int64_t vocab, int64_t sequences, Draws& draws) {
  ChainCase c;
  const bool certain = draws.below(4) == 0;
  c.vocab = vocab, c.p_stride = vocab + draws.below(3), c.q_stride = vocab + draws.below(3);
  for (int64_t b = 0; b < sequences; ++b) {
    c.first_p.push_back(static_cast<int64_t>(c.p.size()) / c.p_stride);
    c.first_q.push_back(static_cast<int64_t>(c.drafted.size()));
    c.num_drafted.push_back(static_cast<int32_t>(draws.below(6)));
    c.final_uniform.push_back(hostile_uniform(draws));
    for (int32_t i = 0; i <= c.num_drafted.back(); ++i) {
      const std::vector<float> p = random_law(vocab, draws), q = draft_law(p, draws);
      put_row(c.p, p, c.p_stride);
      if (i == c.num_drafted.back()) continue;
      if (!certain) put_row(c.q, q, c.q_stride);
      c.drafted.push_back(drawn_from(q, fine_uniform(draws)));
      c.uniform.push_back(hostile_uniform(draws));
    }
  }
  if (!certain && c.q.empty()) c.q.assign(c.q_stride, NAN);   // no drafts at all
  return c;
}

// Children's tokens, from the law of their parent. Where it has no more tokens to give without replacement, one comes again: a fault.
inline void draw_children(TreeCase& c, int64_t first, int32_t node, std::vector<float> q, Draws& draws) {
  const std::vector<float> whole = q;
  for (size_t i = first + 1; i < c.parent.size(); ++i) {
    if (c.parent[i] != node) continue;
    c.token[i] = drawn_from(q, fine_uniform(draws));
    if (c.token[i] < 0) c.token[i] = drawn_from(whole, 0);
    if (c.draws == SiblingDraws::kWithoutReplacement) q[c.token[i]] = 0;
  }
}

inline TreeCase random_trees(int64_t vocab, int64_t sequences, Draws& draws) {
  TreeCase c;
  const bool certain = draws.below(4) == 0;
  c.draws = draws.below(2) == 0 ? SiblingDraws::kIndependent : SiblingDraws::kWithoutReplacement;
  c.vocab = vocab, c.p_stride = vocab + draws.below(3), c.q_stride = vocab + draws.below(3);
  for (int64_t b = 0; b < sequences; ++b) {
    const auto first = static_cast<int64_t>(c.parent.size());
    c.first_node.push_back(first);
    c.num_nodes.push_back(1 + static_cast<int32_t>(draws.below(14)));
    c.final_uniform.push_back(hostile_uniform(draws));
    for (int32_t i = 0, parent = -1; i < c.num_nodes.back(); ++i) {
      if (i == 1) parent = 0;
      if (i > 1 && draws.below(3) == 0) parent += static_cast<int32_t>(draws.below(static_cast<uint32_t>(std::min(i - parent, 3))));
      c.parent.push_back(parent), c.token.push_back(-5), c.uniform.push_back(i == 0 ? NAN : hostile_uniform(draws));
      c.p_row.push_back(first + i), c.q_row.push_back(first + i);
    }
    for (int32_t i = 0; i < c.num_nodes.back(); ++i) {
      const std::vector<float> p = random_law(vocab, draws), q = draft_law(p, draws);
      put_row(c.p, p, c.p_stride);
      if (!certain) put_row(c.q, q, c.q_stride);
      draw_children(c, first, i, q, draws);
    }
  }
  return c;
}

// How many results were compared, and how many not, for u lay within `close` of a border.
struct Compared {
  int64_t all = 0, skipped = 0;
  double close = 1e-5;
};

template <template <class> class Array, class Case, class Verify>
std::string definition_mismatch(const Case& c, const Verify& verify, Compared& compared) {
  const std::vector<SpeculativeResult> got = results_of<Array>(c, verify);
  if (got.size() != c.final_uniform.size()) return "it could not be run";
  for (size_t b = 0; b < got.size(); ++b) {
    const SpeculativeResult expected = expected_of(c, b);
    const bool close = expected.margin < compared.close;
    ++compared.all, compared.skipped += close;
    if (!close && !same(got[b], expected))
      return "vocab " + std::to_string(c.vocab) + ", sequence " + std::to_string(b) + ": " + text_of(got[b]) + " instead of " + text_of(expected) +
             ", margin " + std::to_string(expected.margin);
  }
  return "";
}

// A sequence's result by itself is its result within the batch.
template <template <class> class Array, class Case, class Verify>
std::string split_mismatch(const Case& c, const Verify& verify) {
  const std::vector<SpeculativeResult> whole = results_of<Array>(c, verify);
  for (size_t b = 0; b < c.final_uniform.size(); ++b) {
    const SpeculativeResult alone = results_of<Array>(only(c, b), verify).at(0);
    if (!same(alone, whole[b])) return "sequence " + std::to_string(b) + " alone: " + text_of(alone) + ", in the batch: " + text_of(whole[b]);
  }
  return "";
}

// Sequences of two drafted tokens each, which all stay: p is q.
inline ChainCase sound_chains(int64_t vocab, size_t sequences) {
  ChainCase c;
  const float even = 1 / static_cast<float>(vocab);
  c.vocab = c.p_stride = c.q_stride = vocab;
  for (size_t b = 0; b < sequences; ++b) c.first_p.push_back(3 * b), c.first_q.push_back(2 * b);
  c.num_drafted.assign(sequences, 2), c.final_uniform.assign(sequences, 0.5);
  c.drafted.assign(2 * sequences, static_cast<int32_t>(vocab / 2)), c.uniform.assign(2 * sequences, 0.5);
  c.p.assign(3 * sequences * vocab, even), c.q.assign(2 * sequences * vocab, even);
  return c;
}
// Trees of the root, two children, and a child of the first of them; the first child and its child stay.
inline TreeCase sound_trees(int64_t vocab, size_t sequences) {
  TreeCase c;
  c.vocab = c.p_stride = c.q_stride = vocab;
  c.num_nodes.assign(sequences, 4), c.final_uniform.assign(sequences, 0.5), c.uniform.assign(4 * sequences, 0.5);
  for (size_t b = 0; b < sequences; ++b) {
    c.first_node.push_back(4 * b);
    c.parent.insert(c.parent.end(), {-1, 0, 0, 1});
    for (size_t i = 4 * b; i < 4 * b + 4; ++i) c.p_row.push_back(i), c.q_row.push_back(i);
  }
  c.token.assign(4 * sequences, static_cast<int32_t>(vocab / 2));
  c.p.assign(4 * sequences * vocab, 1 / static_cast<float>(vocab)), c.q = c.p;
  return c;
}
// The same with certain drafts, each of which the target is certain of.
template <class Case>
Case certain(Case c) {
  c.q.clear();
  for (size_t j = 0; j < c.p.size(); ++j) c.p[j] = static_cast<int64_t>(j) % c.vocab == c.vocab / 2 ? 1.0f : 0.0f;
  return c;
}

// A change to sequence b of a sound batch, and the fault that it makes.
template <class Case>
struct Hostile {
  SpeculativeFault fault;
  int32_t at;
  std::string what;
  std::function<void(Case&, size_t)> change;
};
struct Hostilities {
  std::vector<Hostile<ChainCase>> chains;
  std::vector<Hostile<TreeCase>> trees;
};

// Rows that are no distribution; all of `vocab` tokens.
inline std::vector<std::vector<float>> hostile_rows(int64_t vocab) {
  const float even = 1 / static_cast<float>(vocab), infinity = std::numeric_limits<float>::infinity();
  std::vector<std::vector<float>> out;
  for (const float value : {NAN, infinity, -infinity, -even, 3.0f, 3e38f})
    for (const int64_t place : {int64_t{0}, vocab / 2, vocab - 1}) out.emplace_back(vocab, even), out.back()[place] = value;
  for (const float value : {0.0f, 2 * even, 0.99f * even, -even}) out.emplace_back(vocab, value);
  if (vocab < 3) return out;
  out.emplace_back(vocab, even), out.back()[vocab / 3] = -0.5f, out.back()[vocab / 2] = 0.5f + 2 * even;   // and yet they sum to 1
  return out;
}

inline void add_hostile_rows(Hostilities& to, int64_t vocab) {
  constexpr SpeculativeFault kP = SpeculativeFault::kTargetRow, kQ = SpeculativeFault::kDraftRow;
  for (const std::vector<float>& row : hostile_rows(vocab)) {
    const auto put = [row](std::vector<float>& rows, size_t place) { std::copy(row.begin(), row.end(), rows.begin() + place * row.size()); };
    for (const int32_t i : {0, 1, 2}) to.chains.push_back({kP, i, "p", [=](ChainCase& c, size_t b) { put(c.p, 3 * b + i); }});
    for (const int32_t i : {0, 1}) to.chains.push_back({kQ, i, "q", [=](ChainCase& c, size_t b) { put(c.q, 2 * b + i); }});
    for (const int32_t i : {0, 1, 3}) to.trees.push_back({kP, i, "p", [=](TreeCase& t, size_t b) { put(t.p, 4 * b + i); }});
    for (const int32_t i : {0, 1}) to.trees.push_back({kQ, i, "q", [=](TreeCase& t, size_t b) { put(t.q, 4 * b + i); }});
  }
}

inline void add_hostile_tokens(Hostilities& to, int64_t vocab) {
  using Limits = std::numeric_limits<int32_t>;
  for (const int32_t token : {-1, static_cast<int32_t>(vocab), Limits::max(), Limits::min()}) {
    to.chains.push_back({SpeculativeFault::kToken, 1, "token", [=](ChainCase& c, size_t b) { c.drafted[2 * b + 1] = token; }});
    to.trees.push_back({SpeculativeFault::kToken, 3, "token", [=](TreeCase& t, size_t b) { t.token[4 * b + 3] = token; }});
  }
}

inline void add_hostile_uniforms(Hostilities& to) {
  for (const double u : {1.0, -1e-9, 2.0, double{NAN}, double{INFINITY}}) {
    to.chains.push_back({SpeculativeFault::kUniform, 1, "uniform", [=](ChainCase& c, size_t b) { c.uniform[2 * b + 1] = u; }});
    to.chains.push_back({SpeculativeFault::kUniform, 2, "final uniform", [=](ChainCase& c, size_t b) { c.final_uniform[b] = u; }});
    to.trees.push_back({SpeculativeFault::kUniform, 3, "uniform", [=](TreeCase& t, size_t b) { t.uniform[4 * b + 3] = u; }});
    to.trees.push_back({SpeculativeFault::kUniform, 3, "final uniform", [=](TreeCase& t, size_t b) { t.final_uniform[b] = u; }});
  }
}

// A drafted token that q cannot have drawn. Not with a vocabulary of one.
inline void add_impossible_tokens(Hostilities& to, int64_t vocab) {
  const auto elsewhere = [vocab](std::vector<float>& q, size_t row) {
    std::fill_n(q.begin() + row * vocab, vocab, 0.0f);
    q[row * vocab] = 1;
  };
  to.chains.push_back({SpeculativeFault::kToken, 1, "impossible", [=](ChainCase& c, size_t b) { elsewhere(c.q, 2 * b + 1); }});
  to.trees.push_back({SpeculativeFault::kToken, 3, "impossible", [=](TreeCase& t, size_t b) { elsewhere(t.q, 4 * b + 1); }});
}

inline void add_hostile_structures(Hostilities& to) {
  constexpr SpeculativeFault kFault = SpeculativeFault::kStructure;
  to.chains.push_back({kFault, 0, "a negative count", [](ChainCase& c, size_t b) { c.num_drafted[b] = -1; }});
  for (const int32_t count : {0, -3}) to.trees.push_back({kFault, 0, "no nodes", [=](TreeCase& t, size_t b) { t.num_nodes[b] = count; }});
  struct Place {
    int32_t node, parent;
  };
  for (const Place& x : {Place{0, 0}, Place{1, -1}, Place{1, 1}, Place{2, 2}, Place{2, -1}, Place{3, 3}, Place{3, 9}, Place{3, -1}})
    to.trees.push_back({kFault, x.node, "parent", [=](TreeCase& t, size_t b) { t.parent[4 * b + x.node] = x.parent; }});
  to.trees.push_back({kFault, 3, "order", [](TreeCase& t, size_t b) { t.parent[4 * b + 2] = 1, t.parent[4 * b + 3] = 0; }});
}

// Every second sequence is changed, and the others give what they give by themselves.
template <template <class> class Array, class Case, class Verify>
std::string hostile_mismatch(Case c, const std::vector<Hostile<Case>>& changes, const Verify& verify) {
  for (size_t i = 0; i < changes.size(); ++i) changes[i].change(c, 2 * i + 1);
  const std::vector<SpeculativeResult> got = results_of<Array>(c, verify);
  if (got.size() != 2 * changes.size() + 1) return "it could not be run";
  const SpeculativeResult sound = results_of<Array>(only(c, 0), verify).at(0);
  if (sound.verdict.accepted != 2 || sound.verdict.fault != SpeculativeFault::kNone) return "a sound sequence: " + text_of(sound);
  for (size_t b = 0; b < got.size(); ++b) {
    const bool changed = b % 2 == 1;
    const SpeculativeResult expected = changed ? SpeculativeResult{{0, -1, changes[b / 2].fault, changes[b / 2].at}, {}} : sound;
    const std::string what = changed ? changes[b / 2].what : "a sound sequence";
    if (!same(got[b], expected)) return what + ": " + text_of(got[b]) + " instead of " + text_of(expected);
  }
  return "";
}

template <template <class> class Array, class Verify>
std::string hostile_mismatch(int64_t vocab, const Verify& verify) {
  Hostilities all, tokens;
  add_hostile_rows(all, vocab);
  add_hostile_tokens(all, vocab);
  add_hostile_uniforms(all);
  add_hostile_structures(all);
  if (vocab > 1) add_impossible_tokens(all, vocab);
  add_hostile_tokens(tokens, vocab);
  add_hostile_uniforms(tokens);
  return hostile_mismatch<Array>(sound_chains(vocab, 2 * all.chains.size() + 1), all.chains, verify) +
         hostile_mismatch<Array>(sound_trees(vocab, 2 * all.trees.size() + 1), all.trees, verify) +
         hostile_mismatch<Array>(certain(sound_chains(vocab, 2 * tokens.chains.size() + 1)), tokens.chains, verify) +
         hostile_mismatch<Array>(certain(sound_trees(vocab, 2 * tokens.trees.size() + 1)), tokens.trees, verify);
}

// What follows from the definition alone: rows behind a rejection are not read; a certain token that the target has but for rounding is
// rejected at u near 1 and drawn all the same.
template <template <class> class Array, class Verify>
std::string border_mismatch(const Verify& verify) {
  ChainCase c = sound_chains(3, 1);
  for (int64_t j = 0; j < 3; ++j) c.p[j] = j == 2 ? 1.0f : 0.0f, c.p[3 + j] = c.p[6 + j] = c.q[3 + j] = NAN;
  c.drafted[1] = -9, c.uniform[1] = NAN;
  const SpeculativeResult rejected = results_of<Array>(c, verify).at(0);
  if (!same(rejected, {{0, 2, SpeculativeFault::kNone, 0}, {}})) return "behind a rejection: " + text_of(rejected);
  c = certain(sound_chains(3, 1));
  c.p[1] = 0.9999f, c.uniform[0] = 0.99999;
  const SpeculativeResult again = results_of<Array>(c, verify).at(0);
  if (!same(again, {{0, 1, SpeculativeFault::kNone, 0}, {}})) return "nothing left in a chain: " + text_of(again);
  TreeCase t = certain(sound_trees(3, 1));
  t.p[1] = 0.9999f, t.uniform[1] = 0.99999, t.token[2] = -9;   // node 2 is not tried
  const SpeculativeResult tree = results_of<Array>(t, verify).at(0);
  if (!same(tree, {{0, 1, SpeculativeFault::kNone, 0}, {}})) return "nothing left in a tree: " + text_of(tree);
  return "";
}

}  // namespace trimtab
