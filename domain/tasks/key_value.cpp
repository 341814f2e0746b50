// A look-up table in a long prompt and a chain of hops through it: "ab=cd,ef=ab,...?ef>2:" asks for the key
// two hops from ef, here cd. The table is one cycle through all its keys, so a chain never repeats and a
// wrong hop never comes back to the right one. The natural task for a shared prefix: the prompt is long, the
// reply short. Tier: number of hops.
#include <algorithm>
#include <map>

#include "domain/tasks/suite.h"

namespace trimtab {
namespace {

constexpr int64_t kMaxKeys = 26 * 26;

std::string key_name(uint32_t code) {
  return {static_cast<char>('a' + code / 26), static_cast<char>('a' + code % 26)};
}

template <class T>
void shuffle(std::vector<T>& values, Draws& draws) {
  for (size_t i = values.size(); i > 1; --i)
    std::swap(values[i - 1], values[draws.below(static_cast<uint32_t>(i))]);
}

std::string draw_table(Draws& draws, size_t num_entries, int hops) {
  std::vector<uint32_t> cycle(kMaxKeys);
  for (uint32_t i = 0; i < cycle.size(); ++i) cycle[i] = i;
  shuffle(cycle, draws);
  cycle.resize(num_entries);
  std::vector<std::string> entries;
  for (size_t i = 0; i < num_entries; ++i)
    entries.push_back(key_name(cycle[i]) + "=" + key_name(cycle[(i + 1) % num_entries]));
  shuffle(entries, draws);
  std::string prompt;
  for (const std::string& entry : entries) prompt += (prompt.empty() ? "" : ",") + entry;
  return fmt::format("{}?{}>{}:", prompt, key_name(cycle[0]), hops);
}

struct Lookup {
  std::map<std::string, std::string> next;
  std::string start;
  int hops;
};

Lookup parse(std::string_view prompt) {
  Lookup out;
  const size_t question = prompt.find('?');
  for (size_t at = 0; at < question; at += 6)
    out.next.emplace(prompt.substr(at, 2), prompt.substr(at + 3, 2));
  out.start = prompt.substr(question + 1, 2);
  out.hops = prompt.at(question + 4) - '0';
  return out;
}

struct KeyValueOptions : SuiteOptions {
  int64_t prompt_length = 768;
  KeyValueOptions() { tiers = {1, 2, 3, 4}; }
  void describe(Fields& f) {
    describe_common(f, 1, 9);
    f.integer("prompt_length", prompt_length,
              {.low = 65,
               .high = static_cast<double>(6 * kMaxKeys + 5),
               .unit = "characters",
               .doc = "the table has as many entries (6 characters each) as fit"});
  }
};

class KeyValue final : public Suite {
 public:
  using Options = KeyValueOptions;
  explicit KeyValue(const Options& options)
      : Suite("key_value", options, 1), num_entries_(static_cast<size_t>(options.prompt_length - 5) / 6) {}

  std::string alphabet() const override {
    return sorted_alphabet("abcdefghijklmnopqrstuvwxyz0123456789=,?>:" + std::string(kCorpusCharacters));
  }
  size_t max_prompt_length() const override { return 6 * num_entries_ + 5; }
  size_t max_reply_length() const override {
    return static_cast<size_t>(highest_tier()) * max_step_length(2, 2, 4) + 4;
  }

 protected:
  std::string draw_prompt(Draws& draws, int tier) const override {
    return draw_table(draws, num_entries_, tier);
  }
  std::string solve(std::string_view prompt) const override {
    const Lookup lookup = parse(prompt);
    std::string key = lookup.start;
    for (int i = 0; i < lookup.hops; ++i) key = lookup.next.at(key);
    return key;
  }
  std::string work(std::string_view prompt, Scribe& scribe) const override {
    const Lookup lookup = parse(prompt);
    std::vector<std::string> keys;
    for (const auto& [key, value] : lookup.next) keys.push_back(key);
    std::string key = lookup.start;
    for (int i = 0; i < lookup.hops; ++i) {
      key = scribe.step(
          static_cast<char>('1' + i), key, lookup.next.at(key),
          [&](const std::string& right, Draws& draws) { return slip_choice(right, keys, draws); },
          [&](const std::string& result) { return fmt::format("{}>{}", result, lookup.hops - 1 - i); });
    }
    return key;
  }
  // One hop in a small table.
  Example fact(Draws& draws) const override {
    std::string prompt = draw_table(draws, 4, 1);
    const Lookup lookup = parse(prompt);
    return {std::move(prompt), fmt::format("1{}={};", lookup.start, lookup.next.at(lookup.start)), 4, 6};
  }

 private:
  size_t num_entries_;
};

TT_REGISTER(SuiteEntry, key_value,
            (suite_entry<KeyValue>("key_value", "a chain of hops through a look-up table in a long prompt")));

}  // namespace
}  // namespace trimtab
