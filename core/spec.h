// What an agent sees and does: the contract between environments (which fill it), policies (which read it) and exports
// (which state it). Feature names, units and ranges travel with every exported controller.
#pragma once

#include <string>
#include <vector>

namespace trimtab {

// One number of an observation. The range is what a deployed controller accepts without a warning.
struct Feature {
  std::string name, unit;
  float low, high;
};

// Action heads. kCategorical: one index. kGaussian: `size` real numbers, squashed to [low, high] by clipping in the
// environment. kSimplex: one share per present element of the set, non-negative, summing to 1. kChoice: the index of one present
// element, so that what is not allowed is masked and what is is described by features. kSubset: for each present element whether it
// is taken, drawn independently; a draw is 0 or 1, the mode is the probability, and the environment takes what reaches its
// threshold. kOrder: the indices of `picks` present elements, first to last, without repeats; -1 where fewer are present.
enum class HeadKind { kCategorical, kGaussian, kSimplex, kChoice, kSubset, kOrder };

struct HeadSpec {
  HeadKind kind = HeadKind::kCategorical;
  int size = 0;                     // classes, dimensions, or the largest number of set elements
  float low = -1, high = 1;         // kGaussian
  int picks = 1;                    // kOrder
  bool is_index() const { return kind == HeadKind::kCategorical || kind == HeadKind::kChoice; }
  int width() const { return is_index() ? 1 : kind == HeadKind::kOrder ? picks : size; }   // floats per action
};

// What an element of a set is in one observation. Networks read what is seen, too, but no action chooses it.
enum ItemMask : unsigned char { kAbsent = 0, kPresent = 1, kSeen = 2 };

// What one agent (or the critic) sees: `context` once, and `item` features for each element of a set (users).
struct ObservationSpec {
  std::vector<Feature> context;
  std::vector<Feature> item;        // empty: no set
  int max_items = 0;
  int context_size() const { return static_cast<int>(context.size()); }
  int item_size() const { return static_cast<int>(item.size()); }
};
struct AgentSpec {
  std::string name;                 // "prb", "power"
  ObservationSpec observation;
  HeadSpec head;
};

}  // namespace trimtab
