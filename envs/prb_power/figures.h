// Figures of a cell that several files need.
#pragma once

#include <vector>

namespace trimtab {

constexpr int kDelayBins = 512;   // packet delays are counted by slots; the last bin holds everything later

// Jain's index; 1 before anything was delivered.
template <class T>
double jain_of(const std::vector<T>& x) {
  double sum = 0, squares = 0;
  for (const T v : x) sum += v, squares += static_cast<double>(v) * v;
  return squares > 0 ? sum * sum / (static_cast<double>(x.size()) * squares) : 1;
}

}  // namespace trimtab
