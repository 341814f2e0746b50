// Evaluation during training: every agent acts by its mode; one episode per instance counts.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "envs/environment.h"
#include "policies/controllers/controller.h"
#include "core/pool.h"
#include "core/ranks.h"

namespace trimtab {

class Evaluation {
 public:
  using Make = std::function<std::unique_ptr<BatchEnvironment>(int64_t size)>;
  Evaluation(const Make& make, int64_t episodes, Ranks& ranks);   // this rank's share of so many episodes

  struct Result {
    double mean_return = 0, mean_length = 0;
    std::vector<std::pair<std::string, double>> statistics;  // means of the environment's own
  };
  // The same worlds in every call and for every training seed; every rank calls it and gets the result of all.
  Result run(const std::function<const Controller&(const std::string& agent)>& policy, Pool& pool, Ranks& ranks);

 private:
  struct Part {
    std::unique_ptr<BatchEnvironment> env;
    int64_t first = 0;
    std::vector<double> total;
    std::vector<int64_t> length;
    std::vector<BatchEnvironment::Statistic> statistics;
  };
  void run_part(Part& part, const std::function<const Controller&(const std::string& agent)>& policy) const;
  std::vector<Part> parts_;
};

}  // namespace trimtab
