// A story of people who move about and carry things, then a question about one of them, in the manner of bAbI's tasks 1 and 2 (Weston et
// al., arXiv 1502.05698): "ben went to the attic. it was a cold day. ben picked up the lamp. ... where is the lamp?". Where one stands is
// the last that was said of it, anywhere in the story; a thing is where its carrier is. Text with a grammar to learn and facts to keep.
// Tier 1 asks for a person, tier 2 for a thing.
#include <algorithm>
#include <array>
#include <map>
#include <optional>

#include "domain/tasks/suite.h"

namespace trimtab {
namespace {

constexpr std::array<std::string_view, 10> kPeople = {"ann", "ben", "cleo", "dora", "eli", "finn", "gus", "hana", "ivo", "jule"};
constexpr std::array<std::string_view, 10> kPlaces = {"attic", "barn", "cellar", "garden", "hall", "kitchen", "library", "office", "porch", "yard"};
constexpr std::array<std::string_view, 8> kThings = {"book", "coin", "flute", "key", "lamp", "map", "rope", "vase"};
constexpr std::array<std::string_view, 4> kMoves = {"went to", "walked to", "ran to", "went back to"};
constexpr std::array<std::string_view, 6> kRemarks = {"it was a cold day.", "the clock struck nine.", "nobody said a word.",
                                                      "rain fell on the roof.", "a dog barked far away.", "the wind had turned."};
constexpr std::string_view kPickedUp = " picked up the ", kLeft = " left the ";

template <size_t N>
const std::string_view& any(const std::array<std::string_view, N>& words, Draws& draws) {
  return words[draws.below(N)];
}

// Who is where, and what is carried by whom or lies where, after the sentences seen so far.
struct World {
  std::map<std::string, std::string> place, carrier, lies;

  std::string sentence(Draws& draws) const {
    if (draws.below(8) == 0) return std::string(any(kRemarks, draws));
    const std::string who(any(kPeople, draws)), thing(any(kThings, draws));
    if (place.contains(who) && draws.below(3) == 0) {
      const auto holder = carrier.find(thing);
      if (holder == carrier.end()) return who + std::string(kPickedUp) + thing + ".";
      return holder->second + std::string(kLeft) + thing + " there.";
    }
    return fmt::format("{} {} the {}.", who, any(kMoves, draws), any(kPlaces, draws));
  }
  void hear(const std::string& sentence) {
    const std::string who = sentence.substr(0, sentence.find(' '));
    if (std::find(kPeople.begin(), kPeople.end(), who) == kPeople.end()) return;
    if (const size_t at = sentence.find(kPickedUp); at != std::string::npos) {
      const std::string thing = sentence.substr(at + kPickedUp.size(), sentence.size() - at - kPickedUp.size() - 1);
      carrier[thing] = who, lies.erase(thing);
    } else if (const size_t left = sentence.find(kLeft); left != std::string::npos) {
      const size_t begin = left + kLeft.size();
      const std::string thing = sentence.substr(begin, sentence.rfind(' ') - begin);
      lies[thing] = place.at(who), carrier.erase(thing);
    } else {
      const size_t begin = sentence.rfind(' ') + 1;
      place[who] = sentence.substr(begin, sentence.size() - begin - 1);
    }
  }
};

struct Asked {
  World world;
  std::string about;
};

Asked parse(std::string_view prompt) {
  constexpr std::string_view kWhere = "where is ";
  Asked out;
  const size_t question = prompt.rfind(kWhere);
  for (size_t at = 0; at < question;) {
    const size_t end = prompt.find('.', at) + 1;
    out.world.hear(std::string(prompt.substr(at, end - at)));
    at = end + 1;
  }
  out.about = prompt.substr(question + kWhere.size(), prompt.size() - question - kWhere.size() - 1);
  if (out.about.starts_with("the ")) out.about.erase(0, 4);
  return out;
}

template <class Map>
std::optional<std::string> any_key(const Map& map, Draws& draws) {
  if (map.empty()) return std::nullopt;
  return std::next(map.begin(), draws.below(static_cast<uint32_t>(map.size())))->first;
}

struct StoryOptions : SuiteOptions {
  int64_t prompt_length = 768;
  StoryOptions() { tiers = {1, 2}; }
  void describe(Fields& f) {
    describe_common(f, 1, 2);
    f.integer("prompt_length", prompt_length, {.low = 200, .high = 100000, .unit = "characters", .doc = "as many sentences as fit"});
  }
};

class Story final : public Suite {
 public:
  using Options = StoryOptions;
  explicit Story(const Options& options) : Suite("story", options, 1), length_(static_cast<size_t>(options.prompt_length)) {}

  std::string alphabet() const override { return sorted_alphabet("abcdefghijklmnopqrstuvwxyz0123456789 .?=>" + std::string(kCorpusCharacters)); }
  size_t max_prompt_length() const override { return length_; }
  size_t max_reply_length() const override { return 2 * max_step_length(7, 7, 9) + 9; }

 protected:
  std::string draw_prompt(Draws& draws, int tier) const override {
    World world;
    std::string prompt;
    // The first to move makes a person to ask for, a thing lies or is carried sooner or later: a story without is drawn again.
    for (;;) {
      const std::string next = prompt.empty() ? fmt::format("{} went to the {}.", any(kPeople, draws), any(kPlaces, draws)) : world.sentence(draws);
      if (prompt.size() + next.size() + 1 + kLongestQuestion > length_) break;
      world.hear(next), prompt += next + " ";
    }
    const auto person = any_key(world.place, draws), carried = any_key(world.carrier, draws), lying = any_key(world.lies, draws);
    const auto thing = carried && (!lying || draws.below(2) == 0) ? carried : lying;
    if (tier == 2 && !thing) return draw_prompt(draws, tier);
    return tier == 1 ? fmt::format("{}where is {}?", prompt, *person) : fmt::format("{}where is the {}?", prompt, *thing);
  }
  std::string solve(std::string_view prompt) const override {
    const auto [world, about] = parse(prompt);
    if (const auto lies = world.lies.find(about); lies != world.lies.end()) return lies->second;
    const auto carrier = world.carrier.find(about);
    return world.place.at(carrier == world.carrier.end() ? about : carrier->second);
  }
  std::string work(std::string_view prompt, Scribe& scribe) const override {
    const auto [world, about] = parse(prompt);
    const std::vector<std::string> places(kPlaces.begin(), kPlaces.end()), people(kPeople.begin(), kPeople.end());
    const auto ask = [&](char label, const std::string& what, const std::string& right, const std::vector<std::string>& choices, bool last) {
      return scribe.step(label, what, right, [&](const std::string& r, Draws& draws) { return slip_choice(r, choices, draws); },
                         [&](const std::string& result) { return fmt::format("{}>{}", result, last ? 0 : 1); });
    };
    if (const auto lies = world.lies.find(about); lies != world.lies.end()) return ask('1', about, lies->second, places, true);
    const auto carrier = world.carrier.find(about);
    if (carrier == world.carrier.end()) return ask('1', about, world.place.at(about), places, true);
    const std::string who = ask('1', about, carrier->second, people, false);
    const auto place = world.place.find(who);   // a slip may name one who was never seen: then nowhere in particular, the first place
    return ask('2', who, place == world.place.end() ? places.front() : place->second, places, true);
  }
  // One person in a story of one sentence.
  Example fact(Draws& draws) const override {
    const std::string who(any(kPeople, draws)), place(any(kPlaces, draws));
    std::string prompt = fmt::format("{} {} the {}. where is {}?", who, any(kMoves, draws), place, who);
    const size_t begin = who.size() + 2;
    return {std::move(prompt), fmt::format("1{}={};", who, place), begin, begin + place.size()};
  }

 private:
  static constexpr size_t kLongestQuestion = sizeof("where is the flute?") - 1;
  size_t length_;
};

TT_REGISTER(SuiteEntry, story, (suite_entry<Story>("story", "a long story of people and things, and a question about one of them")));

}  // namespace
}  // namespace trimtab
