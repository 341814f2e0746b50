// Observations of many rows in flat memory, laid out as one agent or critic sees them.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "envs/environment.h"
#include "policies/controllers/controller.h"

namespace trimtab {

class ObservationStore {
 public:
  ObservationStore() = default;
  ObservationStore(const ObservationSpec& spec, int64_t rows)
      : context_size_(spec.context_size()),
        item_size_(int64_t{spec.max_items} * spec.item_size()),
        mask_size_(spec.max_items),
        context_(rows * context_size_),
        items_(rows * item_size_),
        mask_(rows * mask_size_) {}

  ObservationRows rows(int64_t first) {
    return {context_.data() + first * context_size_, items_.data() + first * item_size_,
            mask_.data() + first * mask_size_};
  }
  ObservationBatch batch(int64_t first, int64_t count) const {
    return {.size = count,
            .context = context_.data() + first * context_size_,
            .items = items_.data() + first * item_size_,
            .mask = mask_.data() + first * mask_size_};
  }
  // Row to[i] = row from[index[i]].
  void gather(std::span<const uint32_t> index, ObservationStore& to) const {
    for (size_t i = 0; i < index.size(); ++i) to.copy_row(*this, index[i], static_cast<int64_t>(i));
  }
  void copy_row(const ObservationStore& from, int64_t source, int64_t row) {
    std::memcpy(context_.data() + row * context_size_, from.context_.data() + source * context_size_,
                context_size_ * sizeof(float));
    if (mask_size_ == 0) return;
    std::memcpy(items_.data() + row * item_size_, from.items_.data() + source * item_size_,
                item_size_ * sizeof(float));
    std::memcpy(mask_.data() + row * mask_size_, from.mask_.data() + source * mask_size_, mask_size_);
  }
  int64_t context_size() const { return context_size_; }
  int64_t item_size() const { return item_size_; }  // floats of all items of a row
  int64_t mask_size() const { return mask_size_; }

 private:
  int64_t context_size_ = 0, item_size_ = 0, mask_size_ = 0;
  std::vector<float> context_;  // [rows, C]
  std::vector<float> items_;    // [rows, U, F]
  std::vector<uint8_t> mask_;   // [rows, U]
};

}  // namespace trimtab
