// What shaping remembers of prompts, by their ids.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace trimtab {

// Values by prompt, of those seen last alone: a suite that makes new problems for ever must not fill the memory, nor the
// checkpoints. Past `most` prompts the half seen longest ago is forgotten.
template <class Value>
class PromptMemory {
 public:
  explicit PromptMemory(size_t most = size_t{1} << 16) : most_(most) {}

  size_t size() const { return prompts_.size(); }
  const Value* find(const std::string& prompt) const {
    const auto it = prompts_.find(prompt);
    return it == prompts_.end() ? nullptr : &it->second.value;
  }
  // The prompt's value, a fresh one where there is none. Its address holds until the next call.
  Value& see(const std::string& prompt) {
    if (prompts_.size() >= most_ && !prompts_.contains(prompt)) forget();
    Entry& entry = prompts_[prompt];
    entry.seen = ++clock_;
    return entry.value;
  }

  // {prompt: [what numbers(value) lists, when it was seen]}; bit-equal through restore.
  template <class Numbers>
  nlohmann::json to_json(const Numbers& numbers) const {
    nlohmann::json json = nlohmann::json::object();
    for (const auto& [prompt, entry] : prompts_) {
      nlohmann::json row = numbers(entry.value);
      row.push_back(entry.seen);
      json[prompt] = std::move(row);
    }
    return json;
  }
  // value(row) makes a value of a row; rows of `columns` numbers are of before what is seen was counted.
  template <class MakeValue>
  void restore(const nlohmann::json& json, size_t columns, const MakeValue& value) {
    prompts_.clear();
    clock_ = 0;
    for (const auto& [prompt, row] : json.items()) {
      const int64_t seen = row.size() > columns ? row.at(columns).template get<int64_t>() : 0;
      prompts_[prompt] = {value(row), seen};
      clock_ = std::max(clock_, seen);
    }
  }

 private:
  struct Entry {
    Value value;
    int64_t seen = 0;
  };

  void forget() {
    std::vector<int64_t> seen;
    for (const auto& [prompt, entry] : prompts_) seen.push_back(entry.seen);
    const auto middle = seen.begin() + static_cast<std::ptrdiff_t>(seen.size() / 2);
    std::nth_element(seen.begin(), middle, seen.end());
    std::erase_if(prompts_, [&](const auto& item) { return item.second.seen < *middle; });
  }

  size_t most_;
  std::map<std::string, Entry> prompts_;
  int64_t clock_ = 0;
};

}  // namespace trimtab
