// What `trimtab fit` can fit: each registers itself in a file of its own, fit_NAME.cpp.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/registry.h"

namespace trimtab {

// The command line. Where 0 or "" stands for a default, it is that of what is fitted.
struct FitArguments {
  std::vector<std::string> words, data, validation;
  std::string out, header, filter;
  std::string features = "hidden", hidden = "32,64";
  int64_t blocks = 3, epochs = 0, batch = 0, seed = 1, attention = 4, items = 32, projected = 0, codes = 0, places = 0, committed = 0, block = 32, slots = 4;
  bool separate = false;
  double weight = 6, learning_rate = 0, threshold = 0, price = 0.1;
};

struct Fit {
  std::string name, doc;
  std::vector<std::string> options;   // that it takes beside --data, --validation, --out, --epochs and --learning-rate
  std::string example;                // the arguments it needs
  std::function<void(const FitArguments&)> run;
};

template <class T>
T or_default(T given, T fallback) {
  return given == T{} ? fallback : given;
}

}  // namespace trimtab
