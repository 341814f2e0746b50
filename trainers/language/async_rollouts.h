// Rollouts beside learning: a thread of its own samples the replies of later updates while the learner works on those at hand.
//
// The learner hands its weights over with a number, how many updates they have seen, and what they sample carries that number: replies
// of weights that are older than allowed are an error, never silently learned from. The rollout of update u is made by the weights of
// update u - staleness, always, so a run repeats itself to the bit, whatever the threads do.
#pragma once

#include <ATen/core/Tensor.h>
#include <condition_variable>
#include <deque>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <thread>

#include "trainers/language/rollout.h"

namespace trimtab {

class AsyncRollouts {
 public:
  // ConfigError with several ranks: their exchanges would run into those of the learner.
  AsyncRollouts(const GroupOptions& options, const LanguageContext& context);
  ~AsyncRollouts();
  // Hands over the context's model as of `update` updates, for rollouts up to update + staleness, and waits for the one of `update`.
  LanguageRollout::Result collect(int64_t update);
  // Waits until nothing is under way: the environment and the model may be used, and save() called.
  void settle();
  void save(Checkpoint& checkpoint);
  void load(const Checkpoint& checkpoint);

 private:
  struct Request {
    int64_t update = 0, version = 0;
    at::Tensor weights;   // of that version
  };
  void work();
  void serve(const Request& request);

  const GroupOptions& options_;
  const LanguageContext& context_;
  Transformer sampler_;
  Pool pool_;
  LanguageRollout rollout_;
  int64_t next_ = 0;   // the first update that was not asked for
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Request> requests_;
  bool busy_ = false, stopped_ = false;
  std::map<int64_t, LanguageRollout::Result> results_;   // by update
  std::exception_ptr failure_;
  std::thread worker_;
};

}  // namespace trimtab
