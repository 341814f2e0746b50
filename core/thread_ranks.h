// Ranks that are threads of one process, for tests: the same sums in the same order as any other ranks make.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <barrier>
#include <cmath>
#include <exception>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "core/ranks.h"

namespace trimtab {

// What the threads that stand for ranks share.
struct Meeting {
  explicit Meeting(int size) : arrive(size), doubles(size), floats(size), bytes(size) {}
  std::barrier<> arrive;
  std::vector<std::span<double>> doubles;
  std::vector<std::span<float>> floats;
  std::vector<std::string> bytes;
};

class ThreadRanks final : public Ranks {
 public:
  ThreadRanks(int rank, Meeting& meeting) : rank_(rank), meeting_(meeting) {}
  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(meeting_.doubles.size()); }
  using Ranks::sum;
  void sum(std::span<double> values) override {
    bytes_sent_ += static_cast<int64_t>(values.size_bytes()) * (size() - 1);
    const std::vector<double> total = summed(values, meeting_.doubles);
    std::copy(total.begin(), total.end(), values.begin());
  }
  // Outside of its own piece a rank gets what nobody may read.
  using Ranks::sum_scatter;
  void sum_scatter(std::span<float> values, int64_t from, int64_t to) override {
    const std::span<float> part = values.subspan(from, to - from);
    const std::vector<float> total = summed(part, meeting_.floats);
    const auto [begin, stop] = piece(static_cast<int64_t>(values.size()), rank_);
    const int64_t first = std::clamp(begin, from, to), end = std::clamp(stop, from, to);
    bytes_sent_ += static_cast<int64_t>(part.size_bytes()) - (end - first) * static_cast<int64_t>(sizeof(float));
    std::fill(part.begin(), part.end(), NAN);
    std::copy(total.begin() + (first - from), total.begin() + (end - from), values.begin() + first);
  }
  void gather_pieces(std::span<float> values) override {
    meeting_.floats[rank_] = values;
    bytes_sent_ += static_cast<int64_t>(own_piece(values).size_bytes()) * (size() - 1);
    barrier();
    std::vector<float> all(values.size());
    for (int r = 0; r < size(); ++r) {
      const auto [first, end] = piece(static_cast<int64_t>(values.size()), r);
      std::copy(meeting_.floats[r].begin() + first, meeting_.floats[r].begin() + end, all.begin() + first);
    }
    barrier();
    std::copy(all.begin(), all.end(), values.begin());
  }
  void broadcast(std::span<float> values, int root) override {
    meeting_.floats[rank_] = values;
    barrier();
    const std::vector<float> from(meeting_.floats[root].begin(), meeting_.floats[root].end());
    barrier();
    std::copy(from.begin(), from.end(), values.begin());
  }
  std::vector<std::string> gather(std::string_view bytes) override {
    meeting_.bytes[rank_] = std::string(bytes);
    bytes_sent_ += static_cast<int64_t>(bytes.size()) * (size() - 1);
    barrier();
    std::vector<std::string> all = meeting_.bytes;
    barrier();
    return all;
  }
  int64_t bytes_sent() const override { return bytes_sent_; }
  void barrier() override { meeting_.arrive.arrive_and_wait(); }

 private:
  template <class T>
  std::vector<T> summed(std::span<T> values, std::vector<std::span<T>>& all) {
    all[rank_] = values;
    barrier();
    std::vector<std::vector<T>> copies;
    std::vector<std::span<T>> parts;
    for (const std::span<T> part : all) {
      EXPECT_EQ(part.size(), values.size()) << "ranks meet in different sums";
      copies.emplace_back(part.begin(), part.end()).resize(values.size());
    }
    for (std::vector<T>& copy : copies) parts.push_back(copy);
    tree_sum<T>(parts);
    barrier();
    return copies[0];
  }

  int rank_;
  Meeting& meeting_;
  int64_t bytes_sent_ = 0;
};

// body(ranks) on every rank; the first rank's exception passes through.
template <class Body>
void on_ranks(int size, Body&& body) {
  Meeting meeting(size);
  std::vector<std::exception_ptr> errors(size);
  std::vector<std::thread> threads;
  for (int r = 0; r < size; ++r) {
    threads.emplace_back([&, r] {
      ThreadRanks ranks(r, meeting);
      try {
        body(ranks);
      } catch (...) {
        errors[r] = std::current_exception();
        meeting.arrive.arrive_and_drop();   // nobody waits for it
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
}

}  // namespace trimtab
