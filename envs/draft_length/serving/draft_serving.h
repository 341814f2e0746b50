// How many tokens to draft in a server: requests arrive, at most `max_batch` of them are decoded together, the others wait in their order,
// and before every round one decision says how many tokens every sequence of the batch drafts. An episode is `requests` requests at one rate,
// until the last is answered.
//
//   T = sum over draft passes of draft_ms(sequences in it) + overhead + round_trip + max(verify_least, verify + verify_token tokens)
//
// with the tokens of all sequences verified together, one more each than it drafted. A sequence commits what was accepted and one more; it
// never drafts beyond its last token. Requests that came during a round join after it, as far as there is room.
//
// Reward, objective `time`: - (requests in the system) x time, over `requests` times the reference service time. By Little's law the integral
// of the number in the system is the sum of the times in the system, so these two terms return minus the mean time in the system, in reference
// service times: what a text of mean length takes alone at the best fixed length. A third term, `shaping`, rewards committed tokens with what one
// takes at the batch that the episode's rate of arrivals keeps busy: a potential over the tokens still to come (Ng, Harada and Russell 1999).
// It sums to the same for every policy, all tokens of the episode, and takes most of the future out of the value.
// Objective `goodput`: a request answered within `slo_ms_per_token` x its tokens counts 1 / `requests`: the return is the share answered in time.
#pragma once

#include <array>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "envs/draft_length/draft_length.h"

namespace trimtab {

struct DraftServingOptions {
  std::string mode = "replay", lengths = "0,1,2,3,4,6,8,12", objective = "time";
  int64_t requests = 64, max_batch = 32, episodes = 16;
  bool shaping = true;
  double low_rate = 1, high_rate = 20, cv = 1, slo_ms_per_token = 10;
  DraftCost cost = {.draft = 0.75, .draft_token = 0.005, .verify = 5, .verify_token = 0.1, .verify_least = 7};
  SyntheticDraftOptions synthetic;
  void describe(Fields& f);
  void validate() const;
};
DraftServingOptions draft_serving_options(const Config& config);   // of the env block
std::unique_ptr<DraftSource> open_drafts(const DraftServingOptions& options, const std::vector<std::string>& files);

class DraftServing {
 public:
  struct Sequence {
    DraftPlace place;
    int64_t request = 0, tokens = 0;
    int64_t last_drafted = 0, last_accepted = -1;
    float acceptance = 1;   // its own, lately; begins as the server's
    void serialise(Archive& a) { a(place), a(request), a(tokens), a(last_drafted), a(last_accepted), a(acceptance); }
  };
  struct State {
    WorldKey key;
    double rate = 0, token_ms = 0, now_ms = 0;   // requests per ms; what shaping counts a token
    std::vector<double> arrivals;             // ms
    int64_t arrived = 0, admitted = 0, finished = 0;   // of them, until now
    std::vector<Sequence> batch;              // in the order of arrival
    float acceptance = 1;                     // of the server lately
    int32_t action = 0;
    double waiting_ms = 0, decoding_ms = 0;   // integrals of the numbers of requests that wait and that are decoded
    double per_token_ms = 0, busy_ms = 0;     // times in the system over tokens, of answered requests; of all rounds
    int64_t tokens = 0, drafted = 0, accepted = 0, in_time = 0;
    void serialise(Archive& a) {
      a(key), a(rate), a(token_ms), a(now_ms), a(arrivals), a(arrived), a(admitted), a(finished), a(batch), a(acceptance), a(action);
      a(waiting_ms), a(decoding_ms), a(per_token_ms), a(busy_ms), a(tokens), a(drafted), a(accepted), a(in_time);
    }
  };
  DraftServing(const DraftServingOptions& options, std::unique_ptr<DraftSource> source);

  const EnvSpec& spec() const { return spec_; }
  void reset(State& s, WorldKey key) const;
  void begin(State& s, WorldKey key, double rate_per_s) const;   // at a given rate
  void observe(const State& s, int agent, ObservationRows out) const;
  void observe_critic(const State& s, ObservationRows out) const;
  void act(State& s, int agent, const float* action) const;
  StepOutcome step(State& s, float* terms) const;
  template <class Add>
  void episode_statistics(const State& s, const Add& add) const {
    add("ms_per_token", s.per_token_ms / static_cast<double>(s.finished));
    add("tokens_per_ms", static_cast<double>(s.tokens) / s.busy_ms);
    add("mean_batch", s.decoding_ms / s.busy_ms);
    add("in_time", static_cast<double>(s.in_time) / static_cast<double>(s.finished));
  }

  // ---- rounds, for rules and evaluation ----
  struct Served {
    int64_t request = 0, tokens = 0;
    double arrived_ms = 0, done_ms = 0;
    bool in_time = false;
    double ms() const { return done_ms - arrived_ms; }
  };
  struct Round {
    int64_t length = 0, batch = 0, first = 0;   // sequences, and those of them that had no token yet
    int64_t drafted = 0, accepted = 0, tokens = 0, in_time = 0;
    double ms = 0, waiting_ms = 0, decoding_ms = 0;
    bool over = false;   // all requests are answered
  };
  // Every sequence drafts `length` tokens, from 0 to most_drafted(); what the round answered is added to `served`.
  Round round(State& s, int64_t length, std::vector<Served>* served = nullptr) const;

  // Of the batch, as a rule may see it.
  struct BatchView {
    double acceptance = 0, acceptance_spread = 0, last_accepted = 0, last_entropy = 0;   // means and a standard deviation
    double ending = 0;   // share with no more left than the longest draft
  };
  BatchView view(const State& s) const;

  const DraftServingOptions& options() const { return options_; }
  const std::vector<int64_t>& lengths() const { return lengths_; }
  int64_t most_drafted() const { return lengths_.back(); }
  double round_ms(int64_t length, int64_t batch) const;         // of `batch` sequences far from their ends
  double fixed_rate(int64_t drafted, int64_t batch) const;      // tokens per ms of each sequence of a lasting batch; one of lengths()
  int64_t best_length(int64_t batch) const { return best_length_[batch]; }
  double reference_rate(int64_t batch) const { return reference_[batch]; }   // at the best length
  double service_ms() const { return service_ms_; }             // the reference service time

 private:
  // Rounds of a fixed length by the tokens they drafted, over the reference texts.
  struct Profile {
    double tokens = 0;
    std::array<double, kMostDrafted + 1> rounds = {};
  };
  int64_t reference_texts() const;
  Profile profile(int64_t length) const;
  int64_t accepted_of(const DraftPlace& place, int64_t drafted) const;
  void begin_sequence(State& s, int64_t request) const;
  void admit(State& s) const;
  void pass_time(State& s, Round& r) const;
  void leave(State& s, Round& r, std::vector<Served>* served) const;
  double arrival_rate(const State& s) const;
  double usual_token_ms(double rate) const;
  std::span<float> show(const State& s, float* out) const;

  DraftServingOptions options_;
  std::unique_ptr<DraftSource> source_;
  std::vector<int64_t> lengths_;
  std::vector<Profile> profiles_;                     // by place in lengths_
  std::vector<double> reference_;                     // by batch, from 1
  std::vector<int64_t> best_length_;
  double service_ms_ = 0;
  EnvSpec spec_;
};

}  // namespace trimtab
