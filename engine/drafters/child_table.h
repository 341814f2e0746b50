// The children of all nodes of a tree in one table: (parent, token) -> node.
//
// Open addressing with linear probing; a slot holds the upper half of the key's hash, so that most wrong slots are passed, and slots
// are moved, without a look at the nodes. Knuth, The Art of Computer Programming 3, 6.4, algorithms L and R.
#pragma once

#include <bit>
#include <cstdint>
#include <utility>
#include <vector>

#include "core/random.h"

namespace trimtab {

// Node has `int32_t parent, token`; the vector of nodes is the caller's, and ids index it.
template <class Node>
class ChildTable {
 public:
  static constexpr int32_t kNone = -1;

  int32_t find(const std::vector<Node>& nodes, int32_t parent, int32_t token) const {
    const uint32_t tag = tag_of(parent, token);
    for (size_t i = home(tag);; i = (i + 1) & mask()) {
      const Slot& slot = slots_[i];
      if (slot.id == kNone) return kNone;
      if (slot.tag == tag && nodes[slot.id].parent == parent && nodes[slot.id].token == token) return slot.id;
    }
  }
  void insert(const std::vector<Node>& nodes, int32_t id) {   // its key must not be in the table
    if (3 * (used_ + 1) > 2 * slots_.size()) grow();
    place({tag_of(nodes[id].parent, nodes[id].token), id});
    ++used_;
  }
  void replace(const std::vector<Node>& nodes, int32_t old, int32_t id) {   // both have the same key
    slots_[slot_of(nodes, old)].id = id;
  }
  void erase(const std::vector<Node>& nodes, int32_t id) {
    size_t hole = slot_of(nodes, id);
    for (size_t i = (hole + 1) & mask(); slots_[i].id != kNone; i = (i + 1) & mask()) {
      const bool stays = ((i - home(slots_[i].tag)) & mask()) < ((i - hole) & mask());   // its home lies behind the hole
      if (!stays) slots_[std::exchange(hole, i)] = slots_[i];
    }
    slots_[hole] = {};
    --used_;
  }
  static constexpr int64_t kBytesPerNode = 24;   // at most, once it has grown

 private:
  struct Slot {
    uint32_t tag = 0;
    int32_t id = kNone;
  };
  static uint32_t tag_of(int32_t parent, int32_t token) {
    return static_cast<uint32_t>(mix64(uint64_t{static_cast<uint32_t>(parent)} << 32 | static_cast<uint32_t>(token)) >> 32);
  }
  size_t mask() const { return slots_.size() - 1; }
  size_t home(uint32_t tag) const { return tag >> shift_; }
  size_t slot_of(const std::vector<Node>& nodes, int32_t id) const {
    size_t i = home(tag_of(nodes[id].parent, nodes[id].token));
    while (slots_[i].id != id) i = (i + 1) & mask();
    return i;
  }
  void place(Slot slot) {
    size_t i = home(slot.tag);
    while (slots_[i].id != kNone) i = (i + 1) & mask();
    slots_[i] = slot;
  }
  void grow() {
    std::vector<Slot> old(2 * slots_.size());
    old.swap(slots_);
    shift_ = 32 - std::countr_zero(slots_.size());
    for (const Slot& slot : old) {
      if (slot.id != kNone) place(slot);
    }
  }

  std::vector<Slot> slots_ = std::vector<Slot>(16);   // a power of two
  int shift_ = 28;
  size_t used_ = 0;
};

}  // namespace trimtab
