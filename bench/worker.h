// What our side of a benchmark shares (harness.py runs it): words of the command line, a stopwatch, and answering "go".
#pragma once

#include <chrono>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

namespace trimtab {

using Clock = std::chrono::steady_clock;
inline double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// --KEY VALUE, or --KEY alone.
struct Arguments {
  std::map<std::string, std::string> values;
  Arguments(int count, char** words) {
    for (int i = 1; i < count; ++i) values[words[i]] = i + 1 < count && words[i + 1][0] != '-' ? words[i + 1] : "";
  }
  bool has(const std::string& key) const { return values.contains(key); }
  int64_t number(const std::string& key, int64_t otherwise) const { return has(key) ? std::stoll(values.at(key)) : otherwise; }
  std::string text(const std::string& key, const std::string& otherwise) const { return has(key) ? values.at(key) : otherwise; }
};

// Says that it is ready, then answers every "go" with what measure() gives.
template <class Measure>
void serve(const nlohmann::json& about, const Measure& measure) {
  std::cout << about.dump() << std::endl;
  for (std::string line; std::getline(std::cin, line);)
    if (line == "go") std::cout << measure().dump() << std::endl;
}

}  // namespace trimtab
