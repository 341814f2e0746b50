// How many tokens to draft before the target verifies them. An episode is a text; a round drafts tokens, verifies them, and commits those
// that hold and one more.
//
//   decide: token   agent `stop`: after every drafted token (and before the first) 0 stops and 1 goes on
//   decide: round   agent `length`: at the start of a round the number of tokens, one of `lengths`
//
// Reward: tokens - lambda time with lambda the rate in tokens per ms that this instance has reached lately, for its batch size: so what is
// maximised in the long run is the rate itself (Dinkelbach 1967), not accepted length and not a mean of rates. What an agent sees are the
// drafts' own distributions and what was verified before, so any policy is lossless.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "envs/draft_length/cost.h"
#include "envs/draft_length/live_options.h"
#include "envs/draft_length/running_rates.h"
#include "envs/draft_length/source.h"
#include "envs/draft_length/synthetic.h"
#include "envs/draft_length/uplink.h"
#include "envs/environment.h"
#include "envs/evaluation.h"

namespace trimtab {

struct DraftLengthOptions {
  std::string mode = "replay", decide = "token", lengths = "0,1,2,3,4,6,8,12,16";
  int64_t most_drafted = 0;   // 0: as many as were recorded
  int64_t low_batch = 1, high_batch = 1;
  bool see_hidden = true;
  DraftCost cost;
  UplinkOptions uplink;
  SyntheticDraftOptions synthetic;
  LiveDraftOptions live;
  std::string head;   // an acceptance head (acceptance_head.h)
  void describe(Fields& f);
  void validate() const;
};
DraftLengthOptions draft_length_options(const Config& config);   // of the env block
// ConfigError for a mode that this build does not have, DataError for files that cannot be used.
std::unique_ptr<DraftSource> open_drafts(const DraftLengthOptions& options, const std::vector<std::string>& files);

constexpr int64_t kMostDrafted = 40;
// "0,2,4,8": numbers of tokens to choose from, those within `most`. ConfigError for what is none, for other than rising order, for no choice.
std::vector<int64_t> parse_draft_lengths(const std::string& text, int64_t most);

// Prices in tokens at a reference rate: what the next drafted token costs (over an uplink by its rate just now, and lately), and a round.
// With them one controller serves many machines.
struct DraftPrices {
  float token = 0, token_long = 0, round = 0;
};
std::vector<Feature> draft_features(int64_t most_drafted, int64_t hidden);
void show_draft(const DraftState& state, const DraftPrices& prices, int64_t hidden, float* out);   // [draft_features]

class DraftLength {
 public:
  struct State {
    DraftPlace place;
    int64_t batch = 1, depth = 0, most = 0;
    int64_t last_drafted = 0, last_accepted = -1;
    float acceptance = 1;
    int32_t action = 0, link = 0;
    double now_ms = 0;                   // of the uplink's trace
    double round_ms = 0, round_mj = 0;   // of the drafts so far
    RunningRates rates;                  // kept from episode to episode
    double episode_tokens = 0, episode_ms = 0, episode_mj = 0;
    void serialise(Archive& a) {
      a(place), a(batch), a(depth), a(most), a(last_drafted), a(last_accepted), a(acceptance), a(action), a(link), a(now_ms), a(round_ms), a(round_mj);
      a(rates), a(episode_tokens), a(episode_ms), a(episode_mj);
    }
  };
  DraftLength(const DraftLengthOptions& options, std::unique_ptr<DraftSource> source);

  const EnvSpec& spec() const { return spec_; }
  void reset(State& s, WorldKey key) const;
  void begin(State& s, WorldKey key, int64_t text, int64_t batch) const;   // a given text
  void observe(const State& s, int agent, ObservationRows out) const;
  void observe_critic(const State& s, ObservationRows out) const { observe(s, 0, out); }
  void act(State& s, int agent, const float* action) const;
  StepOutcome step(State& s, float* terms) const;
  int label(const State& s, int agent) const;   // what an oracle would do that knows every acceptance probability in advance
  template <class Add>
  void episode_statistics(const State& s, const Add& add) const {
    add("tokens", s.episode_tokens);
    add("ms", s.episode_ms);
    add("tokens_per_ms", s.episode_tokens / s.episode_ms);
    add("mj", s.episode_mj);
  }

  // ---- rounds, for rules (DraftControl) and evaluation ----
  const DraftLengthOptions& options() const { return options_; }
  const DraftSource& source() const { return *source_; }
  int64_t most_drafted() const { return most_; }
  // The state as a DraftControl sees it; `drafted` holds the tokens it points to.
  DraftState view(const State& s, std::vector<DraftedToken>& drafted) const;
  struct RoundOutcome {
    int64_t drafted = 0, accepted = 0, tokens = 0;
    double ms = 0, mj = 0;   // drafts included
    double price_ms = 0;     // what the objective counts: ms, and energy at its price
    bool over = false;       // the text is
  };
  void draft(State& s) const;                  // one token
  RoundOutcome finish_round(State& s) const;   // verifies what was drafted
  std::optional<RoundOutcome> drafts_or_finishes(State& s) const;   // what the action says
  // The length of most gain from here at a rate, for who knows of every token to come the probability that a draft there is accepted, of the
  // drafts themselves the probability that they are, or the outcome.
  enum class Known { kAlphas, kAccepts, kOutcomes };
  int64_t best_length(const State& s, double rate, Known known) const;
  // The rest of a text by a trained controller; `take` is given every round.
  template <class Take>
  void play(State& s, AgentFunction& agent, const Take& take) const {
    std::vector<float> context(spec_.critic.context_size());
    for (bool over = false; !over;) {
      float action = 0;
      observe(s, 0, {context.data(), nullptr, nullptr});
      agent.decide(context.data(), nullptr, nullptr, 0, &action);
      act(s, 0, &action);
      const std::optional<RoundOutcome> r = drafts_or_finishes(s);
      if (r) take(*r), over = r->over;
    }
  }
  double token_price(const State& s) const;    // ms that the next token would cost as things stand, energy included
  // Tokens per priced ms of a fixed length, and of a trained controller, each text once.
  double fixed_rate(int64_t drafted, int64_t batch) const;
  double controller_rate(AgentFunction& agent, int64_t batch) const;
  double reference_rate(int64_t batch) const;  // tokens per priced ms of the best fixed length here
  int64_t best_fixed_length(int64_t batch) const;

 private:
  bool by_token() const { return options_.decide == "token"; }
  double rate(const State& s) const;
  void learn_rate(State& s, const RoundOutcome& r) const;
  DraftPrices prices(const State& s) const;
  double round_price(int64_t drafted, int64_t batch) const;   // all but the tokens'
  double token_price_at(const State& s, double rate) const;   // bits per ms
  double long_rate(const State& s) const;
  double token_energy(double send_ms) const;
  double priced(const State& s) const { return s.round_ms + options_.uplink.energy_price * s.round_mj; }   // of this round's drafts

  DraftLengthOptions options_;
  std::unique_ptr<DraftSource> source_;
  std::unique_ptr<Uplink> uplink_;   // null: none
  int64_t most_ = 0, hidden_ = 0;
  std::vector<int64_t> lengths_;
  std::array<double, kBatchSizes> reference_ = {};
  std::array<int64_t, kBatchSizes> best_length_ = {};
  EnvSpec spec_;
};

}  // namespace trimtab
