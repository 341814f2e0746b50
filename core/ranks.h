// Ranks: the processes that train together. Normalisers, sampling, statistics and checkpoints are written against this
// interface; one process is the case of one rank. core/mpi_ranks has the one over Open MPI.
//
// Every rank makes the same calls in the same order. Sums add in a fixed order, pairs of neighbouring ranks first, then pairs of
// pairs: the result does not depend on who arrives first, and where the work itself is summed the same way in halves
// (tree_sum), on two or four ranks it is that of one rank to the bit.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace trimtab {

// Piece `part` of `size` things cut into `parts` of about equal size: [first, second). Cut in halves as long as parts are even, so that
// pieces are the branches of tree_sum.
inline std::pair<int64_t, int64_t> piece_of(int64_t size, int64_t part, int64_t parts) {
  int64_t first = 0, end = size;
  for (; parts % 2 == 0; parts /= 2) {
    const int64_t middle = (first + end) / 2, half = parts / 2;
    part < half ? end = middle : first = middle;
    part %= half;
  }
  return {first + (end - first) * part / parts, first + (end - first) * (part + 1) / parts};
}
constexpr int64_t kRankBlock = 1024;   // numbers: pieces of a large buffer begin at multiples, for sums by blocks (tree_squares)

// The element-wise sum of parts[first .. end), in halves; overwrites parts[first] and others, returns parts[first].
template <class T>
std::span<T> tree_sum(std::span<const std::span<T>> parts) {
  if (parts.size() == 1) return parts[0];
  const size_t middle = parts.size() / 2;
  const std::span<T> left = tree_sum<T>(parts.first(middle)), right = tree_sum<T>(parts.subspan(middle));
  for (size_t i = 0; i < left.size(); ++i) left[i] += right[i];
  return left;
}

class Ranks {
 public:
  virtual ~Ranks() = default;
  virtual int rank() const = 0;                        // 0 .. size() - 1
  virtual int size() const = 0;
  virtual int local_rank() const { return rank(); }    // among those of this machine: which device is its own
  // Element-wise sums over ranks; every rank gets them.
  virtual void sum(std::span<double> values) = 0;
  void sum(std::span<float> values) {
    sum_scatter(values);
    gather_pieces(values);
  }
  // The two halves of a sum, for who works on its own piece in between (ZeRO-1, arXiv 1910.02054). After the first the piece
  // of this rank, own_piece(), holds the sum and the rest is undefined; the second gives every piece to all ranks.
  void sum_scatter(std::span<float> values) { sum_scatter(values, 0, static_cast<int64_t>(values.size())); }
  // The same of the numbers [first, end) alone, so that a buffer can be summed bucket by bucket while it is still being filled.
  virtual void sum_scatter(std::span<float> values, int64_t first, int64_t end) = 0;
  virtual void gather_pieces(std::span<float> values) = 0;
  virtual void broadcast(std::span<float> values, int root) = 0;
  // The bytes of every rank on every rank, in the order of ranks; they may differ in length.
  virtual std::vector<std::string> gather(std::string_view bytes) = 0;
  virtual void barrier() = 0;
  virtual int64_t bytes_sent() const { return 0; }     // to other ranks, so far

  bool is_main() const { return rank() == 0; }
  // What the main rank's `make` returns, on every rank; the others do not call it. Where it throws, the others wait in vain.
  template <class Make>
  std::string from_main(Make&& make) {
    return gather(is_main() ? std::string(make()) : std::string())[0];
  }
  // Where the piece of `rank` of a buffer of `size` numbers lies: [first, second).
  std::pair<int64_t, int64_t> piece(int64_t size, int rank) const {
    const auto [first, end] = piece_of((size + kRankBlock - 1) / kRankBlock, rank, this->size());
    return {std::min(first * kRankBlock, size), std::min(end * kRankBlock, size)};
  }
  template <class T>
  std::span<T> own_piece(std::span<T> values) const {
    const auto [first, end] = piece(static_cast<int64_t>(values.size()), rank());
    return values.subspan(first, end - first);
  }
  // What is being done, for the message when a rank does not come: "update 12".
  virtual void during(const std::string&) {}
};

class OneProcess final : public Ranks {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  using Ranks::sum;
  using Ranks::sum_scatter;
  void sum(std::span<double>) override {}
  void sum_scatter(std::span<float>, int64_t, int64_t) override {}
  void gather_pieces(std::span<float>) override {}
  void broadcast(std::span<float>, int) override {}
  std::vector<std::string> gather(std::string_view bytes) override { return {std::string(bytes)}; }
  void barrier() override {}
};

// What everything runs on unless told otherwise. Has no state, so one serves all.
inline Ranks& one_process() {
  static OneProcess alone;
  return alone;
}

}  // namespace trimtab
