// What the hand-written operations share: rows handed out to ATen's threads, in blocks that do not depend on their number, and
// weights that lie behind one another read as one.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <vector>

namespace trimtab {

constexpr int64_t kRowBlock = 256;

inline int64_t num_row_blocks(int64_t rows) { return (rows + kRowBlock - 1) / kRowBlock; }

// f(block, first row, rows of the block).
template <class F>
void for_row_blocks(int64_t rows, const F& f) {
  at::parallel_for(0, num_row_blocks(rows), 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) f(b, b * kRowBlock, std::min(kRowBlock, rows - b * kRowBlock));
  });
}

// Matrices (or vectors) over one another: a view where they lie so in memory, as a Transformer's do, else a copy.
inline at::Tensor stacked(const std::vector<at::Tensor>& parts) {
  int64_t rows = 0;
  bool behind = true;
  for (const at::Tensor& p : parts) {
    behind = behind && p.is_contiguous() && p.storage().is_alias_of(parts[0].storage()) &&
             p.storage_offset() == parts[0].storage_offset() + rows * (p.dim() == 2 ? p.size(1) : 1);
    rows += p.size(0);
  }
  if (!behind) return at::cat(parts, 0);
  std::vector<int64_t> sizes = parts[0].sizes().vec();
  sizes[0] = rows;
  return parts[0].as_strided(sizes, parts[0].strides());
}

}  // namespace trimtab
