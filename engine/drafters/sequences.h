// What every drafter does the same: the states of running sequences by id, and the checks of what it is handed.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <utility>

#include "core/error.h"

namespace trimtab {

template <class State>
class Sequences {
 public:
  template <class... Args>
  State& open(int64_t id, Args&&... args) {
    const auto [it, added] = states_.try_emplace(id, std::forward<Args>(args)...);
    TT_CHECK(added, "sequence {} has begun already", id);
    return it->second;
  }
  State& at(int64_t id) {
    const auto it = states_.find(id);
    TT_CHECK(it != states_.end(), "no sequence {}", id);
    return it->second;
  }
  void close(int64_t id) { TT_CHECK(states_.erase(id) == 1, "no sequence {}", id); }

 private:
  std::unordered_map<int64_t, State> states_;
};

inline void check_tokens(std::span<const int32_t> tokens, int64_t vocab = INT64_MAX) {
  for (const int32_t token : tokens) TT_CHECK(token >= 0 && token < vocab, "token {}", token);
}
inline void check_room(int64_t max_nodes) { TT_CHECK_GE(max_nodes, 1); }

}  // namespace trimtab
